"""Levels, per cent and fade times, against published tables."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.dali.levels import FADE_TIMES_S, MASK, DimmingCurve, fade_code, level_of, percent_of
from protocols.errors import LocalProtocolError, RemoteProtocolError
from sim.fade import fade_s
from sim.lamp import DimmingCurve as BenchCurve
from sim.lamp import light_share

LEVELS = st.integers(0, 254)
CURVES = st.sampled_from(DimmingCurve)


@pytest.mark.parametrize(
    ("level", "percent"),
    [(1, 0.1), (85, 1.0), (126, 3.0), (170, 10), (195, 20), (210, 30), (221, 41), (229, 50), (254, 100)],
)
def test_logarithmic_curve_is_the_published_one(level: int, percent: float) -> None:
    assert percent_of(level) == pytest.approx(percent, rel=0.02)


@given(LEVELS, CURVES)
def test_per_cent_and_level_are_inverse(level: int, curve: DimmingCurve) -> None:
    assert level_of(percent_of(level, curve), curve) == level


@given(LEVELS, LEVELS, CURVES)
def test_more_level_is_more_light(one: int, other: int, curve: DimmingCurve) -> None:
    assert (one < other) == (percent_of(one, curve) < percent_of(other, curve))


@given(st.floats(0, 100), st.floats(0, 100), CURVES)
def test_more_light_is_no_less_level(one: float, other: float, curve: DimmingCurve) -> None:
    low, high = sorted((one, other))
    assert level_of(low, curve) <= level_of(high, curve)


@given(st.floats(0, 100, exclude_min=True), CURVES)
def test_only_zero_is_off(percent: float, curve: DimmingCurve) -> None:
    assert 1 <= level_of(percent, curve) <= 254
    assert level_of(0, curve) == 0


@given(LEVELS, CURVES)
def test_light_is_what_the_bench_lamps_give(level: int, curve: DimmingCurve) -> None:
    bench = light_share(level, BenchCurve(curve))
    assert percent_of(level, curve) == pytest.approx(bench * 100, abs=0.001)


@pytest.mark.parametrize("percent", [-0.1, 100.1, math.nan, math.inf])
def test_no_light_outside_0_to_100(percent: float) -> None:
    with pytest.raises(LocalProtocolError, match="0 to 100"):
        level_of(percent)


@pytest.mark.parametrize("level", [-1, MASK, 256])
def test_mask_is_no_level(level: int) -> None:
    with pytest.raises(RemoteProtocolError):
        percent_of(level)


def test_fade_times_are_the_bench_gears() -> None:
    assert [fade_s(code, 0) for code in range(16)] == pytest.approx(FADE_TIMES_S, abs=0.1)


@given(st.floats(0, 90.5))
def test_fade_code_is_the_nearest(ramp_s: float) -> None:
    chosen = abs(FADE_TIMES_S[fade_code(ramp_s)] - ramp_s)
    assert chosen == min(abs(time_s - ramp_s) for time_s in FADE_TIMES_S)


@pytest.mark.parametrize("ramp_s", [-0.1, 90.6, math.nan])
def test_no_ramp_longer_than_gear_can_fade(ramp_s: float) -> None:
    with pytest.raises(LocalProtocolError, match="ramp"):
        fade_code(ramp_s)
