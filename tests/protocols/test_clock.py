"""Bench time: a civil evening that runs at any speed while durations stay real."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.clock import BenchTime, ClockQuality, Correction, Instant

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


WINDOWS = st.lists(st.integers(0, 10**6), max_size=6, unique=True).map(
    lambda edges: tuple(zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False))
)


def test_within_a_window_civil_time_runs_as_real_time_does() -> None:
    bench = BenchTime(0, 0, 60, unhurried=((1_000, 3_000), (5_000, 5_500)))
    assert [bench.civil_ms(at_ms) for at_ms in (0, 1_000, 2_000, 3_000, 4_000, 5_000, 5_500, 6_000)] == [
        0,
        60_000,
        61_000,
        62_000,
        122_000,
        182_000,
        182_500,
        212_500,
    ]


@given(MOMENTS, MOMENTS, st.floats(0.5, 1e4), WINDOWS)
def test_with_windows_it_never_runs_backwards_either(
    first: int, second: int, speed: float, windows: tuple[tuple[int, int], ...]
) -> None:
    bench = BenchTime(0, 0, speed, windows)
    early, late = sorted((first, second))
    assert bench.civil_ms(early) <= bench.civil_ms(late)


@given(st.integers(0, 10**7), st.floats(0.5, 1e4), WINDOWS)
def test_the_moment_of_a_civil_time_is_found(
    at_ms: int, speed: float, windows: tuple[tuple[int, int], ...]
) -> None:
    bench = BenchTime(0, 0, speed, windows)
    civil_ms = bench.civil_ms(at_ms)
    assert bench.civil_ms(bench.monotonic_ms(civil_ms)) == pytest.approx(civil_ms, abs=1)
    assert bench.monotonic_ms(civil_ms) == pytest.approx(at_ms, abs=2)


@pytest.mark.parametrize("windows", [[[5, 4]], [[1, 3], [2, 4]], [[5, 6], [1, 2]], [[-2, 1]]])
def test_windows_that_overlap_or_go_back_are_refused(windows: list[list[int]]) -> None:
    document = {"origin_monotonic_ms": 0, "start_utc_ms": 0, "unhurried": windows}
    with pytest.raises(msgspec.ValidationError, match="unhurried"):
        msgspec.convert(document, BenchTime)


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
def test_a_bench_that_stands_still_runs_backwards_or_leaps_is_refused(speed: float) -> None:
    document = {"origin_monotonic_ms": 0, "start_utc_ms": 0, "speed": speed}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(document, BenchTime)


def test_an_instant_is_trusted_unless_it_says_otherwise() -> None:
    assert Instant(1, 2).quality is ClockQuality.SYNCHRONISED
    assert ClockQuality.UNSYNCHRONISED < ClockQuality.HOLDOVER < ClockQuality.SYNCHRONISED


def test_a_correction_moves_what_the_boot_told_and_nothing_else() -> None:
    correction = Correction(before_ms=-50, after_ms=1_000_000, until_ms=600)
    assert correction.corrected(-50) == 1_000_000
    assert correction.corrected(550) == 1_000_600
    assert correction.corrected(-51) == -51
    assert correction.corrected(551) == 551


@given(MOMENTS, MOMENTS, MOMENTS, MOMENTS, MOMENTS)
def test_a_correction_keeps_the_order_of_what_it_moves(
    before_ms: int, after_ms: int, until_ms: int, one: int, other: int
) -> None:
    correction = Correction(before_ms, after_ms, until_ms)
    early, late = sorted((before_ms + one % (until_ms + 1), before_ms + other % (until_ms + 1)))
    moved = correction.corrected(late) - correction.corrected(early)
    assert moved == late - early
