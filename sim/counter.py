"""A device for load benches: every register holds the number of the read that it is being read by.

Holding registers; the n-th read of a register that gets through returns n mod 65536. So what arrived at the
far end can be told from what was read, one by one. Spread, each register begins at a number of its own: as
real values do, they then look different from each other, and a bench of bytes on a wire is not flattered.

With a journal the device writes down each read that got through, with its moment: when something did not arrive
at the far end, it can be said when it was given.
"""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final

import msgspec

from sim.registers import Block, RegisterDevice, Span, Table

HOLDING: Final = Table.HOLDING_REGISTERS


class Given(msgspec.Struct, frozen=True):
    """One answer that left whole, as the journal holds it: a line of JSON.

    Attributes:
        device: which.
        at_ms: UTC milliseconds at which the last byte was with the kernel.
        first: address of the first register in it.
        counts: for each register from there on, how often it had then been read.
    """

    device: str
    at_ms: int
    first: int
    counts: list[int]


class Journal:
    """A file to which counting devices write what they gave; each line is there as soon as it is written."""

    def __init__(self, path: Path, utc_ms: Callable[[], int]) -> None:
        """Open the journal anew.

        Raises:
            OSError: it cannot be written.
        """
        self._file: IO[bytes] = path.open("wb", buffering=0)
        self._utc_ms = utc_ms

    def note(self, device: str, first: int, counts: list[int]) -> None:
        """Write down an answer."""
        self._file.write(msgspec.json.encode(Given(device, self._utc_ms(), first, counts)) + b"\n")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def read_journal(path: Path) -> list[Given]:
    """Return what a journal holds, in order; a line that is just being written is left out."""
    content = path.read_bytes()
    return msgspec.json.Decoder(Given).decode_lines(content[: content.rfind(b"\n") + 1])


class CountingDevice(RegisterDevice):
    """Holding registers 0 … `registers` − 1, each a count of its own reads.

    Args:
        name: as the scenario calls it.
        registers: how many.
        spread: whether each register begins at a number of its own.
        journal: where its reads are written down, if anywhere.
    """

    def __init__(
        self, name: str, registers: int, *, spread: bool = False, journal: Journal | None = None
    ) -> None:
        super().__init__({HOLDING: Block(Span(0, registers), self._values)})
        self._name = name
        self._journal = journal
        self._starts = [
            zlib.crc32(f"{name}/{address}".encode()) if spread else 0 for address in range(registers)
        ]

    def count(self, table: Table, span: Span) -> None:
        """Count a span as read, and write it down."""
        super().count(table, span)
        if self._journal is not None:
            reads = self.reads[table]
            self._journal.note(self._name, span.first, [reads[address] for address in span.addresses])

    def _values(self, span: Span) -> Sequence[int]:
        reads = self.reads[HOLDING]
        return [(self._starts[address] + reads[address] + 1) & 0xFFFF for address in span.addresses]
