"""Registers to values and back.

A `Decoder` is compiled once for the entries of one block and then used at each reading: one `struct` call for
all of them, and a finishing step only for those that need one.

Big-endian words and, within a register, big-endian bytes (MODBUS Application Protocol V1.1b3, 4.2); which
register of a wide value comes first is the device's own affair.
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.modbus.register_map import BIT_TABLES, WIDTH, Entry, RegisterType, WordOrder
from protocols.model.reading import Fault, Quality, Reason, Value

Number: TypeAlias = int | float
Finish: TypeAlias = Callable[[Number], Value | Fault]

NOT_AVAILABLE = Fault(Quality.BAD, Reason.NOT_AVAILABLE)
NOT_A_NUMBER = Fault(Quality.BAD, Reason.NOT_A_NUMBER)
OUT_OF_RANGE = Fault(Quality.BAD, Reason.OUT_OF_RANGE)

_FORMAT: Mapping[RegisterType, str] = {
    RegisterType.BIT: "H",
    RegisterType.U16: "H",
    RegisterType.I16: "h",
    RegisterType.U32: "I",
    RegisterType.I32: "i",
    RegisterType.U64: "Q",
    RegisterType.I64: "q",
    RegisterType.F32: "f",
    RegisterType.F64: "d",
}
_FLOATS = frozenset({RegisterType.F32, RegisterType.F64})
_CUSTOMARY: Mapping[RegisterType, frozenset[int]] = {
    RegisterType.BIT: frozenset(),
    RegisterType.U16: frozenset({0xFFFF}),
    RegisterType.I16: frozenset({-0x8000}),
    RegisterType.U32: frozenset({0xFFFF_FFFF}),
    RegisterType.I32: frozenset({-0x8000_0000}),
    RegisterType.U64: frozenset({0xFFFF_FFFF_FFFF_FFFF}),
    RegisterType.I64: frozenset({-0x8000_0000_0000_0000}),
    RegisterType.F32: frozenset(),
    RegisterType.F64: frozenset(),
}
"""What a device writes when it has no value, where its map does not say otherwise (SunSpec's customs)."""


def absent_marks(entry: Entry) -> frozenset[int]:
    """Return the numbers in an entry's registers that mean "no value"."""
    return _CUSTOMARY[entry.type] if entry.not_available is None else frozenset(entry.not_available)


class Decoder:
    """Turns the registers of one block into the values of the entries in it.

    Args:
        entries: each with its offset from the block's first register, ascending. Entries may overlap (two
            bits of one register).
        count: registers in the block.
    """

    def __init__(self, entries: Sequence[tuple[int, Entry]], count: int) -> None:
        self._registers = struct.Struct(f">{count}H")
        self._layout: struct.Struct | None = _straight_layout(entries, count)
        self._fields = [
            (offset * 2, struct.Struct(">" + _FORMAT[e.type]), _swapped(e)) for offset, e in entries
        ]
        self._count = count
        self._finish = [_finisher(entry) for _, entry in entries]
        self._plain = all(finish is None for finish in self._finish)
        self._marks = frozenset().union(*(absent_marks(entry) for _, entry in entries))
        self._absent = [absent_marks(entry) for _, entry in entries]

    def decode(self, registers: Sequence[int]) -> Sequence[Value | Fault]:
        """Return one value or fault for each entry.

        Raises:
            RemoteProtocolError: if there are not as many registers as were asked for.
        """
        if len(registers) != self._count:
            raise RemoteProtocolError(f"{len(registers)} registers in answer to a question for {self._count}")
        packed = self._registers.pack(*registers)
        raw = self._layout.unpack(packed) if self._layout else self._unpack(packed)
        if self._plain and self._marks.isdisjoint(raw):
            return raw
        return [
            NOT_AVAILABLE if number in absent else number if finish is None else finish(number)
            for number, absent, finish in zip(raw, self._absent, self._finish, strict=True)
        ]

    def _unpack(self, packed: bytes) -> list[Number]:
        return [
            field.unpack(_swap(packed[at : at + field.size]))[0]
            if swapped
            else field.unpack_from(packed, at)[0]
            for at, field, swapped in self._fields
        ]


def _swapped(entry: Entry) -> bool:
    return entry.word_order is WordOrder.LITTLE and WIDTH[entry.type] > 1


def _swap(value: bytes) -> bytes:
    """Reverse the order of the registers, each of which keeps its bytes."""
    return b"".join(value[at : at + 2] for at in range(len(value) - 2, -1, -2))


def _straight_layout(entries: Sequence[tuple[int, Entry]], count: int) -> struct.Struct | None:
    """Return one layout for the whole block; None where entries overlap or put their low register first."""
    layout, at = ">", 0
    for offset, entry in entries:
        if offset < at or _swapped(entry):
            return None
        layout += f"{2 * (offset - at)}x{_FORMAT[entry.type]}"
        at = offset + WIDTH[entry.type]
    return struct.Struct(f"{layout}{2 * (count - at)}x")


def _finisher(entry: Entry) -> Finish | None:
    """Return what makes a value of the number in an entry's registers; None if it is the value already."""
    if entry.type is RegisterType.BIT:
        mask = 1 << (entry.bit or 0)
        return lambda number: bool(int(number) & mask)
    scale = _scaler(entry.scale)
    low = -math.inf if entry.minimum is None else entry.minimum
    high = math.inf if entry.maximum is None else entry.maximum
    bounded = entry.minimum is not None or entry.maximum is not None
    if scale is None and not bounded and entry.type not in _FLOATS:
        return None

    def finish(number: Number) -> Value | Fault:
        if not math.isfinite(number):
            return NOT_A_NUMBER
        value = number if scale is None else scale(number)
        return value if low <= value <= high else OUT_OF_RANGE

    return finish


def _scaler(scale: float) -> Callable[[Number], float] | None:
    """Return what multiplies by `scale`; a tenth divides by ten, so that 234 becomes exactly 23.4."""
    if scale == 1.0:
        return None
    divisor = round(1 / scale)
    if divisor > 1 and math.isclose(divisor * scale, 1.0, rel_tol=1e-12):
        return lambda number: number / divisor
    return lambda number: number * scale


def encode(entry: Entry, value: Value) -> tuple[int, ...]:
    """Return what to write so that an entry has a value: registers, or one 0 or 1 for a coil.

    Raises:
        LocalProtocolError: if the entry cannot be written or cannot have that value.
    """
    if not entry.writable:
        raise LocalProtocolError(f"{entry.point} can only be read")
    if entry.table in BIT_TABLES:
        return (_bit(entry, value),)
    number = _number(entry, value)
    try:
        packed = struct.pack(">" + _FORMAT[entry.type], number)
    except (struct.error, OverflowError) as fault:
        raise LocalProtocolError(f"{entry.point} is {entry.type.value} and cannot hold {value!r}") from fault
    if _swapped(entry):
        packed = _swap(packed)
    return struct.unpack(f">{len(packed) // 2}H", packed)


def _bit(entry: Entry, value: Value) -> int:
    if not isinstance(value, bool):
        raise LocalProtocolError(f"{entry.point} is on or off, not {value!r}")
    return int(value)


def _number(entry: Entry, value: Value) -> Number:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise LocalProtocolError(f"{entry.point} is a number, not {value!r}")
    low, high = entry.minimum, entry.maximum
    if (low is not None and value < low) or (high is not None and value > high):
        raise LocalProtocolError(f"{entry.point} is between {low} and {high}, not {value!r}")
    # A whole number is not divided by 1.0: beyond 2**53 that would change it.
    raw = value if entry.scale == 1.0 else value / entry.scale
    if entry.type in _FLOATS:
        return raw
    number = round(raw)
    if number in absent_marks(entry):
        raise LocalProtocolError(f"{entry.point} cannot be {value!r}: its registers would mean no value")
    return number
