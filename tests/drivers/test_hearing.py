"""What drivers of devices that speak by themselves share: standing, silence, what was last heard, searches."""

import asyncio

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from drivers.base import Found, LineState
from drivers.hearing import MAX_FOUND, LastHeard, Sightings, Silence, Standing
from protocols.errors import LocalProtocolError
from protocols.model.device import Kind
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.reading import Fault, Quality, Reason, sample

A, B = DeviceId("a"), DeviceId("b")
WARMTH, CHARGE = PointName("temperature"), PointName("battery_level")


def standing() -> Standing:
    return Standing(LineId("line"), 0, 0.2, 1.0)


async def test_who_asks_before_the_first_outcome_waits_for_it() -> None:
    line = standing()
    waiting = asyncio.create_task(line.settled())
    await asyncio.sleep(0)
    assert not waiting.done()
    line.went_away("no adapter", 5)
    assert await waiting is LineState.DOWN
    assert (line.reason, line.since_ms) == ("no adapter", 5)


async def test_the_first_loss_is_tried_anew_at_once_and_then_ever_later() -> None:
    line = standing()
    line.came_up(1)
    line.went_away("lost", 2)
    assert (line.state, line.pause_s()) == (LineState.CONNECTING, 0.0)
    pauses = []
    for _ in range(5):
        line.went_away("lost", 3)
        pauses.append(line.pause_s())
    assert line.state is LineState.DOWN
    assert pauses == [0.4, 0.8, 1.0, 1.0, 1.0]
    line.came_up(9)
    line.proved()
    assert (line.state, line.reason, line.reconnections) == (LineState.UP, "", 1)
    line.went_away("lost", 10)
    assert line.pause_s() == 0.0


async def test_a_line_that_was_tried_in_vain_is_down_at_once() -> None:
    line = standing()
    line.came_up(1)
    line.went_away("deaf", 2, tried=True)
    assert (line.state, line.pause_s()) == (LineState.DOWN, 0.2)


async def test_going_and_coming_back_are_logged_once_each() -> None:
    with structlog.testing.capture_logs() as logs:
        line = standing()
        for _ in range(4):
            line.went_away("no adapter", 1)
        line.came_up(2)
        line.came_up(3)
        line.end(4)
    assert [entry["event"] for entry in logs] == ["line went down", "line is back"]
    assert line.state is LineState.DOWN


def test_a_device_falls_silent_once_and_may_be_heard_again() -> None:
    silence = Silence({A: 100, B: 300})
    assert silence.next_ms() is None
    silence.begin(1000)
    assert silence.next_ms() == 1100
    assert silence.fallen(1099) == []
    assert silence.fallen(1100) == [A]
    assert silence.fallen(1200) == []
    assert A in silence
    assert list(silence) == [A]
    assert not silence.heard(B, 1200)
    assert silence.heard(A, 1250)
    assert (list(silence), silence.next_ms()) == ([], 1350)
    assert silence.fallen(1500) == [A, B]


def test_silence_means_nothing_while_the_line_is_away() -> None:
    silence = Silence({A: 100})
    silence.begin(0)
    silence.suspend()
    assert silence.fallen(10_000) == []
    silence.begin(10_000)
    assert silence.fallen(10_099) == []
    assert silence.fallen(10_100) == [A]


def test_who_is_heard_while_the_line_is_away_has_no_time_that_runs() -> None:
    silence = Silence({A: 100})
    assert not silence.heard(A, 0)
    silence.begin(0)
    silence.suspend()
    silence.heard(A, 500)
    assert (silence.next_ms(), silence.fallen(10_000)) == (None, [])


def test_one_that_was_silent_before_the_line_went_away_is_told_at_once_when_it_is_back() -> None:
    silence = Silence({A: 100, B: 100})
    silence.begin(0)
    silence.heard(B, 90)
    assert silence.fallen(100) == [A]
    silence.suspend()
    silence.begin(1000)
    assert (silence.next_ms(), silence.fallen(1000), list(silence)) == (1000, [A], [A])
    assert silence.fallen(1099) == []
    assert silence.fallen(1100) == [B]


def test_one_that_was_heard_while_the_line_was_away_is_not_silent_when_it_is_back() -> None:
    silence = Silence({A: 100})
    silence.begin(0)
    assert silence.fallen(100) == [A]
    silence.suspend()
    assert silence.heard(A, 500)
    silence.begin(1000)
    assert silence.fallen(1099) == []


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.integers(0, 200)), max_size=60))
def test_who_speaks_in_time_is_never_silent(words: list[tuple[DeviceId, int]]) -> None:
    silence = Silence({A: 1000, B: 1000})
    silence.begin(0)
    now_ms, last = 0, {A: 0, B: 0}
    for device, pause in words:
        now_ms += pause
        fallen = silence.fallen(now_ms)
        assert all(now_ms - last[one] >= 1000 for one in fallen)
        silence.heard(device, now_ms)
        last[device] = now_ms
        assert device not in silence


def test_what_was_last_said_is_as_old_as_its_oldest_value() -> None:
    last = LastHeard(A, (WARMTH, CHARGE))
    nothing = last.read((WARMTH,), 50)
    assert (nothing.monotonic_ms, nothing.fault(0)) == (50, Fault(Quality.BAD, Reason.NOT_AVAILABLE))
    last.keep(sample(A, 100, (WARMTH,), (21.5,)))
    some = last.read((WARMTH, CHARGE), 200)
    assert (some.monotonic_ms, some.values) == (100, (21.5, None))
    assert some.fault(1) == Fault(Quality.BAD, Reason.NOT_AVAILABLE)
    last.keep(sample(A, 300, (CHARGE,), (Fault(Quality.BAD, Reason.OUT_OF_RANGE),)))
    both = last.read((WARMTH, CHARGE), 400)
    assert (both.monotonic_ms, both.values, both.fault(0)) == (100, (21.5, None), None)
    assert both.fault(1) == Fault(Quality.BAD, Reason.OUT_OF_RANGE)
    assert last.read((CHARGE,), 400).monotonic_ms == 300


@pytest.mark.parametrize("names", [(), ("no_such_point",), ("temperature", "no_such_point")])
def test_points_that_a_device_has_not_are_our_fault(names: tuple[PointName, ...]) -> None:
    with pytest.raises(LocalProtocolError):
        LastHeard(A, (WARMTH,)).check(names)


def seen(number: int, kind: Kind | None = Kind.SENSOR, device: DeviceId | None = None) -> Found:
    return Found(f"address-{number}", kind, "it", device)


def test_a_search_tells_of_each_once_and_of_the_unclear_at_its_end() -> None:
    search = Sightings()
    search.see(seen(1, kind=None))
    search.see(seen(2))
    assert search.news(known_only=True) == [seen(2)]
    search.see(seen(1))
    search.see(seen(2))
    assert search.news(known_only=True) == [seen(1)]
    search.see(seen(3, kind=None))
    assert search.news(known_only=True) == []
    assert search.news() == [seen(3, kind=None)]
    assert search.news() == []


def test_a_crowd_of_strangers_is_bounded_and_hides_no_declared_device() -> None:
    search = Sightings()
    for number in range(3 * MAX_FOUND):
        search.see(seen(number, kind=None))
        search.see(seen(number % 7, kind=None))
    search.see(seen(-1, device=A))
    told = search.news()
    assert len(told) == MAX_FOUND + 1
    assert told[-1].device == A
    assert search.left_out == 2 * MAX_FOUND
