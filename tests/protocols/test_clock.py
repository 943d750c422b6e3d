"""Bench time: a civil evening that runs at any speed while durations stay real."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.clock import BenchTime, ClockQuality, Instant

MOMENTS = st.integers(0, 2**41)


def test_a_bench_is_at_its_start_at_its_origin() -> None:
    assert BenchTime(5_000, 1_700_000_000_000, 60).civil_ms(5_000) == 1_700_000_000_000


def test_civil_time_runs_as_fast_as_the_bench_says() -> None:
    bench = BenchTime(origin_monotonic_ms=1_000, start_utc_ms=10_000, speed=60)
    assert bench.civil_ms(2_000) == 10_000 + 60_000
    assert bench.civil_ms(0) == 10_000 - 60_000


@given(MOMENTS, MOMENTS, st.floats(0.001, 1e4))
def test_civil_time_never_runs_backwards(first: int, second: int, speed: float) -> None:
    bench = BenchTime(0, 0, speed)
    early, late = sorted((first, second))
    assert bench.civil_ms(early) <= bench.civil_ms(late)


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
def test_a_bench_that_stands_still_runs_backwards_or_leaps_is_refused(speed: float) -> None:
    document = {"origin_monotonic_ms": 0, "start_utc_ms": 0, "speed": speed}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(document, BenchTime)


def test_an_instant_is_trusted_unless_it_says_otherwise() -> None:
    assert Instant(1, 2).quality is ClockQuality.SYNCHRONISED
    assert ClockQuality.UNSYNCHRONISED < ClockQuality.HOLDOVER < ClockQuality.SYNCHRONISED
