"""What the registers of a device mean, as data: built in, or written by a technician in the cabinet's file.

    [[map]]
    name = "pump"
    max_registers = 60

    [[map.entry]]
    point = "active_power"
    table = "input"
    address = 52
    type = "f32"
    unit = "W"

    [[map.run]]              # twenty points r00 … r19
    prefix = "r"
    table = "holding"
    address = 0
    count = 20

Addresses are those on the wire, from 0. Documents often print them from 1, or with the table's digit in
front: 30053 in an SDM630's manual is input register 52.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated

import msgspec

from protocols.model.device import Point, Report
from protocols.model.ids import ID_PATTERN, ID_RULE, PointName
from protocols.strict import SettingsFault

MAX_REGISTERS = 125
"""Registers in one read (MODBUS Application Protocol V1.1b3, 6.3)."""
MAX_ENTRIES = 2000
"""Entries in one map; a bound on what a settings file can make us hold."""


class Table(StrEnum):
    """The four tables of a Modbus device (V1.1b3, 4.3)."""

    COIL = "coil"
    DISCRETE_INPUT = "discrete_input"
    HOLDING = "holding"
    INPUT = "input"


class RegisterType(StrEnum):
    """How the bits of a value are laid out in registers."""

    BIT = "bit"
    U16 = "u16"
    I16 = "i16"
    U32 = "u32"
    I32 = "i32"
    U64 = "u64"
    I64 = "i64"
    F32 = "f32"
    F64 = "f64"


class WordOrder(StrEnum):
    """Which register of a wide value comes first. Within a register the high byte always does."""

    BIG = "big"
    LITTLE = "little"


BIT_TABLES = frozenset({Table.COIL, Table.DISCRETE_INPUT})
WRITABLE_TABLES = frozenset({Table.COIL, Table.HOLDING})
WIDTH: Mapping[RegisterType, int] = {
    RegisterType.BIT: 1,
    RegisterType.U16: 1,
    RegisterType.I16: 1,
    RegisterType.U32: 2,
    RegisterType.I32: 2,
    RegisterType.F32: 2,
    RegisterType.U64: 4,
    RegisterType.I64: 4,
    RegisterType.F64: 4,
}
"""Registers that a value takes (bits, in the tables of bits)."""

PointText = Annotated[PointName, msgspec.Meta(pattern=ID_PATTERN, description=ID_RULE)]
Address = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Poll = Annotated[float, msgspec.Meta(ge=0.05, le=86400)]


class _Watched(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an entry and a run have in common.

    Attributes:
        table: which of the four tables.
        address: of the first register or bit, from 0.
        type: how its bits are laid out; in the tables of bits always BIT.
        word_order: which register of a wide value comes first.
        scale: the value is the number in the registers times this.
        unit: UCUM code.
        poll_s: seconds between two readings.
        report: when a reading is worth keeping.
        dead_band: change below which nothing has changed, in the point's unit.
        heartbeat_s: seconds after which an unchanged value is kept all the same.
        minimum: smallest value that the device can mean.
        maximum: largest value that the device can mean.
        not_available: numbers in the registers that mean "no value". None for those customary with the type:
            all ones for unsigned numbers, the most negative one for signed numbers. Empty for none.
    """

    table: Table
    address: Address
    type: RegisterType = RegisterType.U16
    word_order: WordOrder = WordOrder.BIG
    scale: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    unit: str = ""
    poll_s: Poll = 60.0
    report: Report = Report.CHANGE
    dead_band: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    heartbeat_s: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 900.0
    minimum: float | None = None
    maximum: float | None = None
    not_available: tuple[int, ...] | None = None


class Entry(_Watched, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One point and where it is.

    Attributes:
        point: its name.
        bit: which bit of a register, 0 being the least significant; only with type BIT in a register table.
        writable: whether it can be commanded.
    """

    point: PointText
    bit: Annotated[int, msgspec.Meta(ge=0, le=15)] | None = None
    writable: bool = False


class Run(_Watched, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Equal points in consecutive registers, named by a prefix and a number, as r00, r01.

    Attributes:
        prefix: of the points' names.
        count: how many.
    """

    prefix: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,55}$(?!\n)")]
    count: Annotated[int, msgspec.Meta(ge=1, le=1000)]


class RegisterMap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the registers of a kind of device mean.

    Attributes:
        name: by which a device's settings name it.
        max_registers: the most registers that the device gives in one request.
        entries: the points; `entry` in a file.
        runs: points in bulk; `run` in a file.
    """

    name: Annotated[str, msgspec.Meta(pattern=ID_PATTERN, description=ID_RULE)]
    max_registers: Annotated[int, msgspec.Meta(ge=1, le=MAX_REGISTERS)] = MAX_REGISTERS
    entries: tuple[Entry, ...] = msgspec.field(default=(), name="entry")
    runs: tuple[Run, ...] = msgspec.field(default=(), name="run")


def every_entry(register_map: RegisterMap) -> tuple[Entry, ...]:
    """Return a map's entries, its runs spelled out."""
    spelled = [entry for run in register_map.runs for entry in _spell(run)]
    return (*register_map.entries, *spelled)


def _spell(run: Run) -> Iterator[Entry]:
    digits = max(2, len(str(run.count - 1)))
    shared = {name: getattr(run, name) for name in _Watched.__struct_fields__ if name != "address"}
    for number in range(run.count):
        yield Entry(
            point=PointName(f"{run.prefix}{number:0{digits}d}"),
            address=run.address + number * WIDTH[run.type],
            **shared,
        )


def point_of(entry: Entry) -> Point:
    """Return the point that an entry describes."""
    return Point(
        name=entry.point,
        unit=entry.unit,
        writable=entry.writable,
        minimum=entry.minimum,
        maximum=entry.maximum,
    )


def check_map(register_map: RegisterMap, key: str) -> list[SettingsFault]:
    """Return everything that is wrong with a map's meaning; `key` is where it stands in the file."""
    numbered: list[tuple[str, Entry | Run]] = [
        *((f"entry[{i}]", entry) for i, entry in enumerate(register_map.entries)),
        *((f"run[{i}]", run) for i, run in enumerate(register_map.runs)),
    ]
    faults = [
        _fault(f"{key}.{where}.{field}", expected)
        for where, item in numbered
        for field, expected in _wrong(item, register_map.max_registers)
    ]
    return faults + _wrong_together(register_map, key)


def _wrong_together(register_map: RegisterMap, key: str) -> list[SettingsFault]:
    total = len(register_map.entries) + sum(run.count for run in register_map.runs)
    if not 0 < total <= MAX_ENTRIES:
        return [_fault(key, f"1 to {MAX_ENTRIES} points; this map has {total}")]
    names = Counter(entry.point for entry in every_entry(register_map))
    return [_fault(key, f"each point once; {name!r} comes {n} times") for name, n in names.items() if n > 1]


def _wrong(item: Entry | Run, max_registers: int) -> Iterator[tuple[str, str]]:
    width = WIDTH[item.type] * (item.count if isinstance(item, Run) else 1)
    if item.address + width > 65536:
        yield "address", "an address whose last register is at most 65535"
    if WIDTH[item.type] > max_registers:
        yield "type", f"a type of at most {max_registers} registers, the map's max_registers"
    if item.minimum is not None and item.maximum is not None and item.minimum > item.maximum:
        yield "minimum", f"at most maximum, which is {item.maximum:g}"
    if item.table in BIT_TABLES and item.type is not RegisterType.BIT:
        yield "type", f'"bit", because {item.table.value} is a table of bits'
    if isinstance(item, Entry):
        yield from _wrong_entry(item)
    elif item.type is RegisterType.BIT and item.table not in BIT_TABLES:
        yield "type", "a number; bits of one register are described one by one"


def _wrong_entry(entry: Entry) -> Iterator[tuple[str, str]]:
    in_register = entry.type is RegisterType.BIT and entry.table not in BIT_TABLES
    if in_register and entry.bit is None:
        yield "bit", "which bit of the register, 0 to 15"
    if entry.bit is not None and not in_register:
        yield "bit", "nothing; only a bit of a holding or input register has a number"
    if entry.writable and entry.table not in WRITABLE_TABLES:
        yield "writable", f"false; {entry.table.value} can only be read"
    if entry.writable and in_register:
        yield "writable", "false; writing one bit would overwrite its neighbours"


def _fault(key: str, expected: str) -> SettingsFault:
    return SettingsFault(key, f"expected {expected}")
