"""The wet well by itself: water goes somewhere, pumps take turns, alarms come when they should."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis.strategies import floats, integers, lists

from sim.wet_well import ALARM_ABOVE_M, AREA_M2, DEPTH_M, STOP_BELOW_M, Mode, WetWell

DAY_S = 86_400.0


def well(seed: int = 1, hour: float = 12.0) -> WetWell:
    return WetWell(Random(seed), hour)


def levels(one: WetWell, hours: float, step_s: float = 60.0) -> list[float]:
    seen = []
    for _ in range(round(hours * 3600 / step_s)):
        one.advance(step_s)
        seen.append(one.state().level_m)
    return seen


def test_what_flows_in_raises_the_level_by_the_wells_area() -> None:
    one = well()
    one.set_mode(Mode.OFF)
    before = one.level_m
    one.advance(60.0)
    risen_m3 = (one.level_m - before) * AREA_M2
    assert risen_m3 == pytest.approx(one.state().inflow_m3_h / 60, rel=0.2)


def test_the_pumps_hold_the_level_for_a_day_and_take_turns() -> None:
    one = well()
    seen = levels(one, 24)
    assert min(seen) > one.setpoint_m - STOP_BELOW_M - 0.2
    assert max(seen) < one.setpoint_m + ALARM_ABOVE_M
    starts = one.state().starts
    assert min(starts) >= 3
    assert abs(starts[0] - starts[1]) <= 2
    assert one.state().energy_kwh > 1


def test_more_flows_in_by_day_than_by_night() -> None:
    night, evening = well(hour=3.0), well(hour=19.0)
    assert night.state().inflow_m3_h < evening.state().inflow_m3_h / 2


def test_a_cloudburst_raises_the_alarm_and_its_end_clears_it() -> None:
    one = well()
    one.raining = True
    levels(one, 1.0)
    assert one.state().high_level
    assert one.state().running == (True, True)
    assert one.state().level_m <= DEPTH_M
    one.raining = False
    levels(one, 1.0)
    assert not one.state().high_level


def test_when_one_pump_trips_the_other_takes_over() -> None:
    one = well()
    one.trip(0, tripped=True)
    assert max(levels(one, 6)) < one.setpoint_m + ALARM_ABOVE_M
    state = one.state()
    assert (state.pump_failure, state.fault, state.starts[0]) == (True, (True, False), 0)
    assert state.starts[1] > 0
    one.trip(0, tripped=False)
    assert not one.state().pump_failure


def test_off_stops_the_pumps_and_by_hand_they_do_as_they_are_told() -> None:
    one = well()
    one.level_m = 2.6
    one.advance(10.0)
    assert one.state().running == (True, True)
    one.set_mode(Mode.OFF)
    assert one.state().running == (False, False)
    one.set_mode(Mode.HAND)
    one.pumps[1].set(running=True)
    one.advance(600.0)
    assert one.state().running == (False, True)


@settings(max_examples=20)
@given(integers(0, 1000))
def test_the_same_seed_gives_the_same_day(seed: int) -> None:
    first, second = well(seed), well(seed)
    assert levels(first, 1, 300) == levels(second, 1, 300)


@settings(max_examples=30)
@given(lists(floats(0.1, 1e6), min_size=1, max_size=10))
def test_however_time_jumps_the_level_stays_between_floor_and_rim(jumps: list[float]) -> None:
    one = well()
    for seconds in jumps:
        one.advance(seconds)
        state = one.state()
        assert 0 <= state.level_m <= DEPTH_M
        assert state.inflow_m3_h > 0
