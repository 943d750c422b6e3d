"""What a restart must know of requests for priority: those that were open, and the grants of the hour."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edge.state import State
from protocols.backhaul.messages import PriorityEvent, Source
from protocols.clock import ClockQuality, Instant
from protocols.model.alarm import AlarmType
from protocols.model.ids import DeviceId
from protocols.model.priority import RequestState

DATABASES = Path(__file__).parents[1] / "databases"
NOW = Instant(5_000_000, 1_795_521_600_000)
EVENT = PriorityEvent(
    "lu-1-1", DeviceId("crossing"), "buses", "north", "1", "v-1", Source.POSITION, 7, None, "", NOW.utc_ms
)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    one = State.open(tmp_path / "state.db")
    yield one
    one.close()


def named(name: str, **parts: object) -> PriorityEvent:
    return msgspec.structs.replace(EVENT, request=name, **parts)


def test_an_open_request_is_left_with_what_was_last_said_of_it(state: State, tmp_path: Path) -> None:
    state.open_priority(EVENT, "boot-1")
    active = named("lu-1-1", state=RequestState.ACTIVATED)
    state.note_priority(active, NOW, granted=True)
    state.close()
    again = State.open(tmp_path / "state.db")
    assert again.left_priority() == [active]
    assert again.take_up_grants("boot-1", NOW) == [("crossing", "1", NOW.monotonic_ms)]
    again.close()


def test_a_request_that_ended_is_left_no_more_but_its_grant_counts(state: State) -> None:
    state.open_priority(EVENT, "boot-1")
    state.note_priority(EVENT, NOW, granted=True, ended=True)
    assert state.left_priority() == []
    assert len(state.take_up_grants("boot-1", NOW)) == 1


def test_a_request_that_ended_without_a_grant_is_forgotten(state: State) -> None:
    state.open_priority(EVENT, "boot-1")
    state.note_priority(EVENT, NOW, ended=True)
    assert state.left_priority() == []
    assert state.take_up_grants("boot-1", NOW) == []


@pytest.mark.parametrize(
    ("age_ms", "quality", "counts"),
    [
        (3_599_999, ClockQuality.SYNCHRONISED, True),
        (3_600_000, ClockQuality.SYNCHRONISED, False),
        (3_600_000, ClockQuality.HOLDOVER, False),
        (10**12, ClockQuality.UNSYNCHRONISED, True),
    ],
)
def test_a_grant_of_an_earlier_boot_counts_as_of_now_unless_the_clock_says_otherwise(
    state: State, age_ms: int, quality: ClockQuality, counts: bool
) -> None:
    state.open_priority(EVENT, "boot-1")
    state.note_priority(EVENT, NOW, granted=True, ended=True)
    later = Instant(7_000, NOW.utc_ms + age_ms, quality)
    assert state.take_up_grants("boot-2", later) == ([("crossing", "1", 7_000)] if counts else [])


def test_a_grant_of_an_earlier_boot_grows_old_like_any_other(state: State) -> None:
    state.open_priority(EVENT, "boot-1")
    state.note_priority(EVENT, NOW, granted=True, ended=True)
    began = Instant(7_000, NOW.utc_ms, ClockQuality.UNSYNCHRONISED)
    assert state.take_up_grants("boot-2", began) == [("crossing", "1", 7_000)]
    later = Instant(7_000 + 600_000, NOW.utc_ms, ClockQuality.UNSYNCHRONISED)
    assert state.take_up_grants("boot-2", later) == [("crossing", "1", 7_000)]


def test_what_ended_is_forgotten_an_hour_after_it_was_granted(state: State) -> None:
    for name, at_ms in (("lu-1-1", 0), ("lu-1-2", 1), ("lu-1-3", 3_600_000)):
        state.open_priority(named(name), "boot-1")
        state.note_priority(
            named(name), Instant(NOW.monotonic_ms + at_ms, NOW.utc_ms), granted=True, ended=True
        )
    assert [at_ms - NOW.monotonic_ms for _, _, at_ms in state.take_up_grants("boot-1", NOW)] == [1, 3_600_000]


def test_a_state_of_the_first_release_is_taken_on(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "state.db")
    db.executescript((DATABASES / "state_v1.sql").read_text(encoding="utf-8"))
    db.close()
    state = State.open(tmp_path / "state.db")
    assert (state.left_priority(), state.floor_ms(), state.clock()) == ([], NOW.utc_ms, None)
    assert [alarm.type for alarm in state.alarms()] == [AlarmType.LINE_DOWN]
    state.open_priority(EVENT, "boot-1")
    assert state.left_priority() == [EVENT]
    state.close()
