"""Back-off: who is asked less often, and how much less."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.back_off import BackOff
from protocols.model.ids import DeviceId

LAMP = DeviceId("lamp")
OTHER = DeviceId("other")


def back_off() -> BackOff:
    return BackOff(silent_after=3, probe_s=5, probe_bound_s=40)


def silenced(times: int, now_ms: int = 0) -> BackOff:
    made = back_off()
    for _ in range(times):
        made.silent(LAMP, now_ms)
    return made


def test_three_silences_back_a_device_off_and_two_do_not() -> None:
    assert not silenced(2).backed_off(LAMP)
    assert silenced(3).backed_off(LAMP)
    assert list(silenced(3)) == [LAMP]


def test_going_and_coming_are_told_once() -> None:
    made = back_off()
    assert [made.silent(LAMP, 0) for _ in range(5)] == [False, False, True, False, False]
    assert [made.answered(LAMP) for _ in range(2)] == [True, False]


def test_a_silence_in_between_answers_is_nothing() -> None:
    made = silenced(2)
    made.answered(LAMP)
    assert not made.silent(LAMP, 0)
    assert not made.backed_off(LAMP)


def test_probes_come_ever_less_often_up_to_a_bound() -> None:
    made, now_ms, pauses = silenced(3), 0, []
    for _ in range(6):
        due = next(ms for ms in range(now_ms, now_ms + 100_000, 500) if made.claim_probe(LAMP, ms))
        pauses.append(due - now_ms)
        now_ms = due
        made.silent(LAMP, now_ms)
    assert pauses == [5000, 10_000, 20_000, 40_000, 40_000, 40_000]


def test_a_probe_is_one_callers_alone() -> None:
    made = silenced(3)
    assert [made.claim_probe(LAMP, 5000) for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize("forget", [BackOff.forget, lambda made: made.answered(LAMP)])
def test_after_an_answer_or_a_lost_line_everything_begins_anew(forget: "object") -> None:
    made = silenced(9)
    assert callable(forget)
    forget(made)
    assert list(made) == []
    made.silent(LAMP, 0)
    assert not made.backed_off(LAMP)


@given(st.lists(st.sampled_from([True, False]), max_size=40))
def test_one_devices_silence_is_not_anothers(silences: list[bool]) -> None:
    made = back_off()
    for silent in silences:
        if silent:
            made.silent(LAMP, 0)
        else:
            made.answered(OTHER)
    assert not made.backed_off(OTHER)
    assert made.backed_off(LAMP) == (silences.count(True) >= 3)
