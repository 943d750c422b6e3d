"""What a Modbus server serves: four tables of addresses, each read counted.

Source: MODBUS Application Protocol V1.1b3, §4.3 (data model), §6 (function codes), §7 (exceptions).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from enum import IntEnum, StrEnum

import msgspec


class Table(StrEnum):
    """The four primary tables."""

    COILS = "coils"
    DISCRETE_INPUTS = "discrete_inputs"
    INPUT_REGISTERS = "input_registers"
    HOLDING_REGISTERS = "holding_registers"


class ExceptionCode(IntEnum):
    """Why a request is refused."""

    ILLEGAL_FUNCTION = 1
    ILLEGAL_ADDRESS = 2
    ILLEGAL_VALUE = 3
    DEVICE_FAILURE = 4
    GATEWAY_TARGET = 11


class Refusal(Exception):  # noqa: N818  an exception response is an answer, not an error of ours
    """The request is answered with an exception response."""

    def __init__(self, code: ExceptionCode) -> None:
        super().__init__(code.name)
        self.code = code


class Span(msgspec.Struct, frozen=True):
    """Neighbouring addresses of one table.

    Attributes:
        first: address of the first, 0–65535.
        quantity: how many.
    """

    first: int
    quantity: int

    @property
    def addresses(self) -> range:
        """The addresses themselves."""
        return range(self.first, self.first + self.quantity)


class Block(msgspec.Struct, frozen=True):
    """The part of a table that a device implements.

    Attributes:
        span: the addresses that exist.
        read: returns the values of a span that lies within.
        write: takes values from an address on; None for read-only tables.
        max_quantity: what the device gives at once; None is the protocol's limit.
    """

    span: Span
    read: Callable[[Span], Sequence[int]]
    write: Callable[[int, Sequence[int]], None] | None = None
    max_quantity: int | None = None


class RegisterDevice:
    """One Modbus unit.

    Attributes:
        reads: for each table how often each address went out in a response that was fully written.
    """

    def __init__(self, blocks: dict[Table, Block]) -> None:
        self._blocks = blocks
        self.reads: dict[Table, Counter[int]] = {table: Counter() for table in blocks}

    def read(self, table: Table, span: Span) -> Sequence[int]:
        """Return the values of a span.

        Raises:
            Refusal: the device has no such table, address or quantity.
        """
        block = self._block(table)
        if block.max_quantity is not None and span.quantity > block.max_quantity:
            raise Refusal(ExceptionCode.ILLEGAL_VALUE)
        _check_within(span, block.span)
        return block.read(span)

    def write(self, table: Table, first: int, values: Sequence[int]) -> None:
        """Store values.

        Raises:
            Refusal: the device has no such table or address, or nothing there can be written.
        """
        block = self._block(table)
        if block.write is None:
            raise Refusal(ExceptionCode.ILLEGAL_FUNCTION)
        _check_within(Span(first, len(values)), block.span)
        block.write(first, values)

    def count(self, table: Table, span: Span) -> None:
        """Count a span as read: its response is on the wire."""
        self.reads[table].update(span.addresses)

    def counters(self) -> dict[str, dict[str, int]]:
        """Return the reads for each table and address, as JSON takes them."""
        return {
            table.value: {str(address): count for address, count in sorted(reads.items())}
            for table, reads in self.reads.items()
        }

    def _block(self, table: Table) -> Block:
        block = self._blocks.get(table)
        if block is None:
            raise Refusal(ExceptionCode.ILLEGAL_FUNCTION)
        return block


def _check_within(span: Span, existing: Span) -> None:
    if span.first < existing.first or span.first + span.quantity > existing.first + existing.quantity:
        raise Refusal(ExceptionCode.ILLEGAL_ADDRESS)
