"""Values: what a server holds, what a point is, and back; never a plausible wrong one."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis.strategies import binary, booleans, floats, integers, lists, none, sampled_from, text

from protocols.errors import LocalProtocolError
from protocols.model.ids import PointName
from protocols.model.reading import Fault, Reason
from protocols.opcua.nodes import Entry, NodeType
from protocols.opcua.values import encode, finisher

RANGES = {
    NodeType.I16: (-(2**15), 2**15 - 1),
    NodeType.U16: (0, 2**16 - 1),
    NodeType.I32: (-(2**31), 2**31 - 1),
    NodeType.U32: (0, 2**32 - 1),
    NodeType.I64: (-(2**63), 2**63 - 1),
}
NUMBERS = [kind for kind in NodeType if kind not in {NodeType.BOOL, NodeType.TEXT}]


def entry(kind: NodeType, **more: object) -> Entry:
    return Entry(point=PointName("p"), node="n", type=kind, writable=True, **more)  # type: ignore[arg-type]


def reason(got: object) -> Reason | None:
    return got.reason if isinstance(got, Fault) else None


@pytest.mark.parametrize("kind", list(NodeType))
def test_good_without_a_value_is_not_available(kind: NodeType) -> None:
    assert reason(finisher(entry(kind))(None)) is Reason.NOT_AVAILABLE


@pytest.mark.parametrize("kind", NUMBERS)
@given(raw=text(max_size=5) | binary(max_size=5) | booleans() | lists(integers(), max_size=3))
def test_what_is_no_number_is_never_one(kind: NodeType, raw: object) -> None:
    assert reason(finisher(entry(kind))(raw)) is Reason.GARBLED


@given(raw=text(max_size=5) | binary(max_size=5) | integers() | floats())
def test_what_is_no_bool_is_never_one(raw: object) -> None:
    assert reason(finisher(entry(NodeType.BOOL))(raw)) is Reason.GARBLED


@given(raw=binary(max_size=5) | booleans() | integers() | floats() | lists(text(), max_size=3))
def test_what_is_no_text_is_never_one(raw: object) -> None:
    assert reason(finisher(entry(NodeType.TEXT))(raw)) is Reason.GARBLED


@pytest.mark.parametrize("raw", ["x" * 257, "half a \ud800 pair"])
def test_a_text_that_cannot_be_carried_is_garbled_and_cannot_be_asked_for(raw: str) -> None:
    assert reason(finisher(entry(NodeType.TEXT))(raw)) is Reason.GARBLED
    with pytest.raises(LocalProtocolError):
        encode(entry(NodeType.TEXT), raw)


@pytest.mark.parametrize("raw", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_no_value(raw: float) -> None:
    assert reason(finisher(entry(NodeType.F64))(raw)) is Reason.NOT_A_NUMBER


@given(floats(-1e6, 1e6))
def test_beyond_its_bounds_there_is_no_value(raw: float) -> None:
    got = finisher(entry(NodeType.F64, minimum=-10.0, maximum=20.0))(raw)
    assert got == raw if -10 <= raw <= 20 else reason(got) is Reason.OUT_OF_RANGE


@given(integers(-(2**70), 2**70))
def test_a_whole_number_beyond_64_bits_is_rounded(raw: int) -> None:
    got = finisher(entry(NodeType.U64))(raw)
    assert got == (raw if -(2**63) <= raw < 2**63 else float(raw))


def test_a_tenth_divides_exactly_and_other_scales_multiply() -> None:
    assert finisher(entry(NodeType.I16, scale=0.1))(234) == 23.4
    assert finisher(entry(NodeType.I16, scale=2.5))(4) == 10
    assert finisher(entry(NodeType.I16, scale=0.3))(10) == 3


@pytest.mark.parametrize("kind", list(RANGES))
@given(number=integers(-(2**65), 2**65))
def test_a_whole_number_goes_there_and_back_or_is_refused(kind: NodeType, number: int) -> None:
    low, high = RANGES[kind]
    if low <= number <= high:
        assert encode(entry(kind), number) == number
        assert finisher(entry(kind))(number) == number
    else:
        with pytest.raises(LocalProtocolError):
            encode(entry(kind), number)


@given(floats(-1e30, 1e30))
def test_a_single_float_is_held_as_the_server_will_hold_it(value: float) -> None:
    assert encode(entry(NodeType.F32), value) == struct.unpack("<f", struct.pack("<f", value))[0]
    assert encode(entry(NodeType.F64), value) == value


def test_what_no_single_float_can_hold_is_refused() -> None:
    with pytest.raises(LocalProtocolError):
        encode(entry(NodeType.F32), 1e39)


@given(sampled_from([0.1, 0.5, 2.0, 10.0]), integers(-1000, 1000))
def test_a_scaled_value_goes_there_and_back(scale: float, raw: int) -> None:
    scaled = entry(NodeType.I16, scale=scale)
    value = finisher(scaled)(raw)
    assert not isinstance(value, Fault)
    assert encode(scaled, value) == raw


@given(booleans(), text(max_size=20))
def test_bools_and_texts_go_as_they_are(on: bool, words: str) -> None:
    assert encode(entry(NodeType.BOOL), on) is on
    assert finisher(entry(NodeType.BOOL))(on) is on
    assert encode(entry(NodeType.TEXT), words) == words
    assert finisher(entry(NodeType.TEXT))(words) == words


@pytest.mark.parametrize("kind", NUMBERS)
@given(wrong=text(max_size=3) | booleans() | none() | sampled_from([math.nan, math.inf]))
def test_what_a_number_cannot_be_is_refused(kind: NodeType, wrong: str | bool | float | None) -> None:
    with pytest.raises(LocalProtocolError):
        encode(entry(kind), wrong)


@pytest.mark.parametrize("wrong", [0, 1.0, "on", None])
def test_a_bool_is_on_or_off(wrong: float | str | None) -> None:
    with pytest.raises(LocalProtocolError):
        encode(entry(NodeType.BOOL), wrong)


@pytest.mark.parametrize("wrong", [0, 1.0, True, None])
def test_a_text_is_a_text(wrong: float | None) -> None:
    with pytest.raises(LocalProtocolError):
        encode(entry(NodeType.TEXT), wrong)


def test_what_can_only_be_read_and_what_is_out_of_bounds_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="only be read"):
        encode(Entry(point=PointName("p"), node="n", type=NodeType.F64), 1.0)
    bounded = entry(NodeType.F64, minimum=0.0, maximum=1.0)
    for wrong in (-0.1, 1.1):
        with pytest.raises(LocalProtocolError, match="between"):
            encode(bounded, wrong)
