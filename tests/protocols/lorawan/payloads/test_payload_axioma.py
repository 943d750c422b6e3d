"""The water meter: volumes, their log, and the status byte."""

import struct
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import RemoteProtocolError
from protocols.lorawan.payloads import CODECS
from protocols.model.reading import Fault, Quality, Reason, Value

NOT_AVAILABLE = Fault(Quality.BAD, Reason.NOT_AVAILABLE)
OUT_OF_RANGE = Fault(Quality.BAD, Reason.OUT_OF_RANGE)
TIME_S = 1_788_390_574
ALARMS = ("leakage", "backflow", "freezing", "burst")


def frame(
    *,
    start: int = 5938,
    steps: Sequence[int] = (),
    status: int = 0,
    time_s: int = TIME_S,
    multiplier: int = 0,
) -> bytes:
    """Write the payload bit by bit, lowest first, as the layout says."""
    bits = "".join(format(step, "014b")[::-1] for step in [*steps, *[0] * (23 - len(steps))])
    bits += format(multiplier, "06b")[::-1]
    log = bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))
    return struct.pack("<BIBI", 1, time_s, status, start) + log


def decode(payload: bytes, port: int = 100) -> Mapping[str, Value | Fault]:
    return {str(name): value for name, value in CODECS["axioma-qalcosonic-w1"].decode(port, payload).items()}


@given(start=st.integers(0, 2**32 - 2), steps=st.lists(st.integers(0, 2**14 - 2), max_size=23))
def test_the_volume_is_the_beginning_and_all_steps(start: int, steps: list[int]) -> None:
    found = decode(frame(start=start, steps=steps))
    assert found["water_volume"] == (start + sum(steps)) / 1000
    assert found["log_start_volume"] == start / 1000
    assert [found[f"log_step_{index + 1}"] for index in range(len(steps))] == [step / 1000 for step in steps]


def test_a_step_that_is_missing_leaves_no_sum() -> None:
    found = decode(frame(steps=[1, 0x3FFF, 3]))
    assert (found["log_step_1"], found["log_step_2"], found["log_step_3"]) == (0.001, NOT_AVAILABLE, 0.003)
    assert found["water_volume"] == NOT_AVAILABLE


def test_a_beginning_that_is_missing_leaves_no_volume() -> None:
    found = decode(frame(start=0xFFFF_FFFF, steps=[5]))
    assert (found["water_volume"], found["log_start_volume"]) == (NOT_AVAILABLE, NOT_AVAILABLE)
    assert found["log_step_1"] == 0.005


def test_a_clock_that_was_never_set_is_no_time() -> None:
    assert decode(frame(time_s=1_262_304_000))["device_time"] == 1_262_304_000
    assert decode(frame(time_s=1_262_303_999))["device_time"] == NOT_AVAILABLE


@pytest.mark.parametrize(
    ("status", "alarm"),
    [(0x00, None), (0x20, "leakage"), (0x60, "backflow"), (0x80, "freezing"), (0xA0, "burst")],
)
def test_the_status_names_one_alarm_at_most(status: int, alarm: str | None) -> None:
    for errors in (0x00, 0x10, 0x1C):
        found = decode(frame(status=status | errors))
        assert [name for name in ALARMS if found[name]] == ([alarm] if alarm else [])


@pytest.mark.parametrize("status", [0x40, 0xC0, 0xE0])
def test_an_alarm_without_a_name_is_not_taken_for_another(status: int) -> None:
    found = decode(frame(status=status))
    assert {found[name] for name in ALARMS} == {OUT_OF_RANGE}


def test_the_status_says_battery_and_errors() -> None:
    for bit, name in ((0x04, "battery_low"), (0x08, "permanent_error"), (0x10, "temporary_error")):
        found = decode(frame(status=bit))
        assert [one for one in ("battery_low", "permanent_error", "temporary_error") if found[one]] == [name]


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (frame()[:-1], "50 bytes, expected 51"),
        (frame() + b"\0", "52 bytes, expected 51"),
        (b"\x02" + frame()[1:], "frame type 02"),
        (frame(multiplier=1), "multiplier 1"),
        (frame(status=0x01), "status 01"),
        (frame(status=0x02), "status 02"),
    ],
)
def test_what_is_not_known_is_refused(payload: bytes, said: str) -> None:
    with pytest.raises(RemoteProtocolError, match=said):
        decode(payload)
