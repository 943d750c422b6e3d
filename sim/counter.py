"""A device for load benches: every register holds the number of the read that it is being read by.

Holding registers; the n-th read of a register that gets through returns n mod 65536. So what arrived at the
far end can be told from what was read, one by one.
"""

from collections.abc import Sequence

from sim.registers import Block, RegisterDevice, Span, Table


def counting_device(registers: int) -> RegisterDevice:
    """Return a device with holding registers 0 … `registers` − 1."""

    def read(span: Span) -> Sequence[int]:
        reads = device.reads[Table.HOLDING_REGISTERS]
        return [(reads[address] + 1) & 0xFFFF for address in span.addresses]

    device = RegisterDevice({Table.HOLDING_REGISTERS: Block(Span(0, registers), read)})
    return device
