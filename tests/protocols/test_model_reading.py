"""Samples and readings: bad quality with its reason, never silence, never a number that is none."""

import math

from hypothesis import given
from hypothesis import strategies as st

from protocols.clock import ClockQuality
from protocols.model.ids import DeviceId, PointName, is_id
from protocols.model.reading import Fault, Quality, Reason, Value, failed_sample, readings, sample

LAMP = DeviceId("lamp-01")
POINTS = (PointName("level"), PointName("power"), PointName("on"))
SILENT = Fault(Quality.BAD, Reason.NO_ANSWER)


def test_a_fault_among_values_stands_in_its_place_without_a_value() -> None:
    taken = sample(LAMP, 7, POINTS, (40.0, SILENT, True))
    assert taken.values == (40.0, None, True)
    assert [taken.fault(i) for i in range(3)] == [None, SILENT, None]


@given(st.sampled_from([math.nan, math.inf, -math.inf]))
def test_a_number_that_is_none_is_bad_quality_and_no_value(value: float) -> None:
    taken = sample(LAMP, 7, POINTS[:1], (value,))
    assert taken.values == (None,)
    assert taken.fault(0) == Fault(Quality.BAD, Reason.NOT_A_NUMBER)


def test_a_device_that_gave_nothing_yields_a_bad_reading_of_every_point() -> None:
    taken = failed_sample(LAMP, 7, POINTS, Reason.LINE_DOWN)
    found = list(readings(taken, 1000, ClockQuality.HOLDOVER))
    assert [one.point for one in found] == list(POINTS)
    assert all((one.value, one.quality, one.reason) == (None, Quality.BAD, Reason.LINE_DOWN) for one in found)


def test_picked_points_keep_their_values_and_their_faults() -> None:
    taken = sample(LAMP, 7, POINTS, (40.0, SILENT, True)).pick((1, 2))
    assert taken.points == POINTS[1:]
    assert taken.values == (None, True)
    assert taken.faults == {0: SILENT}


def test_readings_are_stamped_by_the_batch_s_offset() -> None:
    taken = sample(LAMP, 7, POINTS[:1], (40.0,))
    (reading,) = readings(taken, 1_000, ClockQuality.SYNCHRONISED)
    assert (reading.monotonic_ms, reading.utc_ms, reading.quality, reading.reason) == (
        7,
        1_007,
        Quality.GOOD,
        None,
    )


def test_without_a_clock_a_reading_has_no_utc_time() -> None:
    (reading,) = readings(sample(LAMP, 7, POINTS[:1], (1,)), None, ClockQuality.UNSYNCHRONISED)
    assert (reading.utc_ms, reading.clock) == (None, ClockQuality.UNSYNCHRONISED)


@given(st.lists(st.one_of(st.floats(), st.integers(), st.booleans(), st.text(), st.just(SILENT)), min_size=1))
def test_every_point_has_either_a_value_or_a_reason(values: list[Value | Fault]) -> None:
    taken = sample(LAMP, 0, [PointName(f"p{i}") for i in range(len(values))], values)
    for position, value in enumerate(taken.values):
        assert (value is None) == (taken.fault(position) is not None)


def test_an_identity_is_short_and_printable() -> None:
    assert is_id("a")
    assert is_id("dijon-0001.lamp_3")
    for text in ("", "A", "-a", "a/b", "a+", "a" * 64, "a\n", "é"):
        assert not is_id(text)
