"""Registers to values and back, against pymodbus's converter and the custom of each type."""

import math
import struct
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pymodbus.client.mixin import ModbusClientMixin

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.modbus.register_map import WIDTH, Entry, RegisterType, Table, WordOrder
from protocols.modbus.registers import Decoder, encode
from protocols.model.ids import PointName
from protocols.model.reading import Fault, Reason, Value

DATATYPE = ModbusClientMixin.DATATYPE
PYMODBUS = {
    RegisterType.U16: DATATYPE.UINT16,
    RegisterType.I16: DATATYPE.INT16,
    RegisterType.U32: DATATYPE.UINT32,
    RegisterType.I32: DATATYPE.INT32,
    RegisterType.U64: DATATYPE.UINT64,
    RegisterType.I64: DATATYPE.INT64,
    RegisterType.F32: DATATYPE.FLOAT32,
    RegisterType.F64: DATATYPE.FLOAT64,
}
TYPES = st.sampled_from(list(PYMODBUS))
ORDERS = st.sampled_from(WordOrder)
REGISTERS = st.lists(st.integers(0, 0xFFFF), min_size=4, max_size=4)


def entry(
    kind: RegisterType = RegisterType.U16,
    order: WordOrder = WordOrder.BIG,
    *,
    scale: float = 1.0,
    low: float | None = None,
    high: float | None = None,
    absent: tuple[int, ...] | None = None,
    bit: int | None = None,
    table: Table = Table.HOLDING,
    writable: bool = True,
) -> Entry:
    return Entry(
        point=PointName("x"),
        table=table,
        address=0,
        type=kind,
        word_order=order,
        scale=scale,
        minimum=low,
        maximum=high,
        not_available=absent,
        bit=bit,
        writable=writable,
    )


def decode(one: Entry, *registers: int) -> Value | Fault:
    return Decoder([(0, one)], len(registers)).decode(registers)[0]


@given(TYPES, ORDERS, REGISTERS)
def test_numbers_are_what_pymodbus_reads(kind: RegisterType, order: WordOrder, registers: list[int]) -> None:
    taken = registers[: WIDTH[kind]]
    theirs = ModbusClientMixin.convert_from_registers(taken, PYMODBUS[kind], word_order=order.value)
    ours = decode(entry(kind, order, absent=()), *taken)
    if isinstance(theirs, float) and not math.isfinite(theirs):
        assert isinstance(ours, Fault)
        assert ours.reason is Reason.NOT_A_NUMBER
    else:
        assert ours == theirs


@given(st.lists(st.tuples(TYPES, ORDERS, st.integers(0, 3)), min_size=1, max_size=10), st.randoms())
def test_a_block_gives_what_its_entries_give_alone(
    laid: list[tuple[RegisterType, WordOrder, int]], random: Random
) -> None:
    placed, at = [], 0
    for kind, order, gap in laid:
        placed.append((at + gap, entry(kind, order)))
        at += gap + WIDTH[kind]
    registers = [random.randrange(0x10000) for _ in range(at + 2)]
    together = Decoder(placed, len(registers)).decode(registers)
    alone = [decode(one, *registers[start : start + WIDTH[one.type]]) for start, one in placed]
    assert list(together) == alone


@given(TYPES, ORDERS, REGISTERS)
def test_what_is_read_can_be_written(kind: RegisterType, order: WordOrder, registers: list[int]) -> None:
    one = entry(kind, order)
    value = decode(one, *registers[: WIDTH[kind]])
    assume(not isinstance(value, Fault))
    assert not isinstance(value, Fault)
    assert decode(one, *encode(one, value)) == value


@given(st.integers(-30000, 30000), st.sampled_from([0.1, 0.01, 0.001, 0.5, 2.0, 10.0, 0.3]))
def test_scaled_values_survive_the_way_there_and_back(number: int, scale: float) -> None:
    one = entry(RegisterType.I16, scale=scale)
    value = decode(one, number & 0xFFFF)
    assert isinstance(value, float)
    assert value == pytest.approx(number * scale)
    assert encode(one, value) == (number & 0xFFFF,)


def test_a_tenth_is_a_tenth() -> None:
    assert decode(entry(scale=0.1), 234) == 23.4
    assert decode(entry(scale=0.1), 3) == 0.3


def test_low_word_first() -> None:
    assert decode(entry(RegisterType.U32, WordOrder.LITTLE), 0x5678, 0x1234) == 0x12345678


@pytest.mark.parametrize(
    ("kind", "registers"),
    [
        (RegisterType.U16, (0xFFFF,)),
        (RegisterType.I16, (0x8000,)),
        (RegisterType.U32, (0xFFFF, 0xFFFF)),
        (RegisterType.I32, (0x8000, 0)),
        (RegisterType.U64, (0xFFFF,) * 4),
        (RegisterType.I64, (0x8000, 0, 0, 0)),
    ],
)
def test_customary_marks_mean_no_value(kind: RegisterType, registers: tuple[int, ...]) -> None:
    got = decode(entry(kind), *registers)
    assert isinstance(got, Fault)
    assert got.reason is Reason.NOT_AVAILABLE
    assert not isinstance(decode(entry(kind, absent=()), *registers), Fault)


def test_a_map_may_name_its_own_marks() -> None:
    one = entry(absent=(9999, 0))
    assert isinstance(decode(one, 9999), Fault)
    assert isinstance(decode(one, 0), Fault)
    assert decode(one, 0xFFFF) == 0xFFFF


def test_one_missing_value_costs_its_neighbours_nothing() -> None:
    got = Decoder([(0, entry()), (1, entry()), (2, entry())], 3).decode([1, 0xFFFF, 3])
    assert (got[0], got[2]) == (1, 3)
    assert isinstance(got[1], Fault)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_value(number: float) -> None:
    got = decode(entry(RegisterType.F32), *struct.unpack(">2H", struct.pack(">f", number)))
    assert isinstance(got, Fault)
    assert got.reason is Reason.NOT_A_NUMBER


@pytest.mark.parametrize(("number", "good"), [(99, False), (100, True), (300, True), (301, False)])
def test_limits_hold_after_scaling(number: int, good: bool) -> None:
    got = decode(entry(scale=0.1, low=10, high=30), number)
    assert isinstance(got, Fault) is not good
    if isinstance(got, Fault):
        assert got.reason is Reason.OUT_OF_RANGE


def test_bits_of_one_register() -> None:
    bits = [(0, entry(RegisterType.BIT, bit=place)) for place in (0, 3, 15)]
    assert list(Decoder(bits, 1).decode([0x8008])) == [False, True, True]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_answer_of_another_length_is_the_devices_fault(count: int) -> None:
    with pytest.raises(RemoteProtocolError):
        Decoder([(0, entry())], 2).decode([0] * count)


def test_a_coil_is_on_or_off() -> None:
    coil = entry(RegisterType.BIT, table=Table.COIL)
    assert (encode(coil, True), encode(coil, False)) == ((1,), (0,))


@pytest.mark.parametrize(
    ("one", "value"),
    [
        (entry(writable=False), 1),
        (entry(), 65536),
        (entry(), -1),
        (entry(), True),
        (entry(), "1"),
        (entry(), None),
        (entry(), math.nan),
        (entry(low=10), 9),
        (entry(high=10), 11),
        (entry(), 0xFFFF),  # would be read back as "no value"
        (entry(RegisterType.F32), 1e39),
        (entry(RegisterType.BIT, table=Table.COIL), 1),
    ],
)
def test_what_a_register_cannot_hold_is_refused(one: Entry, value: Value) -> None:
    with pytest.raises(LocalProtocolError):
        encode(one, value)
