"""A device for load benches: every register holds the number of the read that it is being read by.

Holding registers; the n-th read of a register that gets through returns n mod 65536. So what arrived at the
far end can be told from what was read, one by one. Spread, each register begins at a number of its own: as
real values do, they then look different from each other, and a bench of bytes on a wire is not flattered.
"""

import zlib
from collections.abc import Sequence

from sim.registers import Block, RegisterDevice, Span, Table


def counting_device(registers: int, spread: str = "") -> RegisterDevice:
    """Return a device with holding registers 0 … `registers` − 1.

    Args:
        registers: how many.
        spread: the device's name if each register is to begin at a number of its own; "" to begin at 1.
    """
    starts = [zlib.crc32(f"{spread}/{address}".encode()) if spread else 0 for address in range(registers)]

    def read(span: Span) -> Sequence[int]:
        reads = device.reads[Table.HOLDING_REGISTERS]
        return [(starts[address] + reads[address] + 1) & 0xFFFF for address in span.addresses]

    device = RegisterDevice({Table.HOLDING_REGISTERS: Block(Span(0, registers), read)})
    return device
