"""How old a server's values are, and in which order they are told."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.opcua_times import TOGETHER_MS, age_ms, moments
from protocols.model.ids import PointName

NOON = datetime(2026, 6, 21, 12, tzinfo=UTC)
A, B = PointName("a"), PointName("b")


@pytest.mark.parametrize(
    ("behind_s", "age"),
    [(0, 0), (0.25, 250), (10, 10_000), (10.001, 0), (86_400, 0), (-0.001, 0), (-86_400, 0)],
)
def test_an_age_is_between_nothing_and_what_a_queue_can_hold(behind_s: float, age: int) -> None:
    assert age_ms(NOON, NOON - timedelta(seconds=behind_s), 10_000) == age


@pytest.mark.parametrize("bound_ms", [float("nan"), -1.0, 0.0])
def test_a_bound_that_is_none_leaves_no_age(bound_ms: float) -> None:
    assert age_ms(NOON, NOON - timedelta(seconds=1), bound_ms) == 0


def test_what_does_not_say_when_is_of_now() -> None:
    assert age_ms(NOON, None, 10_000) == age_ms(None, NOON, 10_000) == age_ms(None, None, 10_000) == 0


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)), st.floats())
def test_no_clock_makes_an_age_absurd(published: datetime, source: datetime, bound_ms: float) -> None:
    age = age_ms(published, source, bound_ms)
    assert age == 0 or 0 <= age <= bound_ms + 0.5


def test_values_of_one_moment_are_one_sample_and_the_others_stand_in_their_order() -> None:
    told = [(A, (1, None), 1000), (A, (2, None), 1100), (B, (7, None), 1005), (B, (8, None), 1210)]
    assert list(moments(told, 0)) == [
        (1005, {A: (1, None), B: (7, None)}),
        (1100, {A: (2, None)}),
        (1210, {B: (8, None)}),
    ]


def test_nothing_goes_back_behind_what_was_told_before() -> None:
    told = [(A, (1, None), 100), (A, (2, None), 200), (A, (3, None), 900)]
    assert [at_ms for at_ms, _ in moments(told, 500)] == [500, 500, 900]


def test_a_value_with_a_wrong_time_keeps_its_place_among_those_of_its_point() -> None:
    told = [(A, (1, None), 1000), (A, (2, None), 100), (A, (3, None), 1100)]
    assert [(at_ms, news[A][0]) for at_ms, news in moments(told, 0)] == [(1000, 1), (1000, 2), (1100, 3)]


VALUES = st.lists(st.tuples(st.sampled_from([A, B, PointName("c")]), st.integers(0, 2000)), max_size=40)


@given(VALUES, st.integers(0, 2000))
def test_whatever_the_times_each_point_keeps_its_order_and_the_device_too(
    said: list[tuple[PointName, int]], floor_ms: int
) -> None:
    told = [(name, (number, None), at_ms) for number, (name, at_ms) in enumerate(said)]
    found = list(moments(told, floor_ms))
    times = [at_ms for at_ms, _ in found]
    assert times == sorted(times)
    assert all(floor_ms <= at_ms <= max(2000, floor_ms) for at_ms in times)
    by_point: dict[PointName, list[int]] = defaultdict(list)
    for at_ms, news in found:
        for name, (value, _) in news.items():
            assert isinstance(value, int)
            by_point[name].append(value)
            assert at_ms - max(said[value][1], floor_ms) >= 0
    assert sum(map(len, by_point.values())) == len(said)
    assert all(numbers == sorted(numbers) for numbers in by_point.values())


@given(VALUES)
def test_values_that_came_in_their_order_are_told_within_a_moment_of_their_time(
    said: list[tuple[PointName, int]],
) -> None:
    told = [(name, (at_ms, None), at_ms) for name, at_ms in sorted(said, key=lambda one: one[1])]
    for at_ms, news in moments(told, 0):
        assert all(0 <= at_ms - int(str(value)) <= TOGETHER_MS for value, _ in news.values())
