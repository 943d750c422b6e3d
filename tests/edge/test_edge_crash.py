"""What a crash may have swallowed is said of every stream, and no longer than it can have been."""

from collections.abc import Mapping
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edge.outbox.crash import crash_gaps
from edge.outbox.store import Gathered, OutboxStore
from protocols.backhaul.messages import GapCause, GapEvent
from protocols.model.device import StreamClass
from tests.edge.bench import (
    BULK,
    EVENTS,
    NOON_MS,
    ORDINARY,
    HandClock,
    gathered,
    open_outbox,
    open_store,
    taken,
    until,
)

SEAL_MS = 5_000
BEGAN_MS, NOW_MS = 1_000_000, 2_000_000


def begins(
    sealed_ms: Mapping[StreamClass, int], *, now_ms: int = NOW_MS, seal_ms: int = SEAL_MS
) -> dict[StreamClass, int]:
    gaps = crash_gaps(sealed_ms, began_ms=BEGAN_MS, now_ms=now_ms, seal_ms=seal_ms, epoch=7)
    assert all((gap.cause, gap.count, gap.epoch) == (GapCause.CRASH, None, 7) for gap in gaps)
    assert all(gap.from_ms <= gap.to_ms for gap in gaps)
    return {gap.stream: gap.from_ms for gap in gaps}


def test_each_stream_has_a_gap_from_its_last_seal_on() -> None:
    assert begins({ORDINARY: NOW_MS - 300, BULK: NOW_MS - 4_000}) == {
        ORDINARY: NOW_MS - 300,
        BULK: NOW_MS - 4_000,
    }


def test_a_stream_that_seals_rarely_misses_no_more_than_one_interval_before_the_last_seal_of_any() -> None:
    sealed = {ORDINARY: NOW_MS - 300, BULK: 0, EVENTS: NOW_MS - 400_000}
    assert begins(sealed) == {
        ORDINARY: NOW_MS - 300,
        BULK: NOW_MS - 300 - SEAL_MS,
        EVENTS: NOW_MS - 300 - SEAL_MS,
    }


def test_a_run_that_sealed_nothing_may_have_lost_whatever_it_took() -> None:
    assert begins({ORDINARY: 0, BULK: BEGAN_MS - 1}) == {ORDINARY: BEGAN_MS, BULK: BEGAN_MS}


def test_a_clock_that_went_back_bounds_nothing() -> None:
    ahead_ms = NOW_MS + 3_600_000
    assert begins({ORDINARY: ahead_ms, BULK: NOW_MS - 9_000})[BULK] == NOW_MS - 9_000


def test_an_interval_that_is_not_known_bounds_nothing() -> None:
    assert begins({ORDINARY: NOW_MS, BULK: NOW_MS - 9_000}, seal_ms=0)[BULK] == NOW_MS - 9_000


@given(
    st.lists(st.tuples(st.sampled_from([ORDINARY, BULK]), st.integers(0, 400)), min_size=1, max_size=60),
    st.integers(0, 60),
)
def test_whatever_was_taken_and_not_sealed_lies_within_its_gap(
    reads: list[tuple[StreamClass, int]], kill_after: int
) -> None:
    """A stream seals at four readings, all of them an interval after the first that waits: as the outbox does."""
    open_: dict[StreamClass, list[int]] = {ORDINARY: [], BULK: []}
    sealed = dict.fromkeys((ORDINARY, BULK), 0)
    due_ms, now_ms = None, BEGAN_MS
    for stream, pause_ms in reads[:kill_after]:
        now_ms += pause_ms
        if due_ms is not None and now_ms >= due_ms:
            sealed |= {each: waiting[-1] for each, waiting in open_.items() if waiting}
            open_ = {ORDINARY: [], BULK: []}
            due_ms = None
        open_[stream].append(now_ms)
        if len(open_[stream]) >= 4:
            sealed[stream] = open_[stream][-1]
            open_[stream] = []
        elif due_ms is None:
            due_ms = now_ms + 1_000
    gaps = crash_gaps(sealed, began_ms=BEGAN_MS, now_ms=now_ms, seal_ms=1_000, epoch=7)
    for gap in gaps:
        assert all(gap.from_ms <= taken_ms <= gap.to_ms for taken_ms in open_[gap.stream])


def crashed(store: OutboxStore, clock: HandClock, after_s: float) -> dict[StreamClass, GapEvent]:
    """Let the power fail, and return what the next start says."""
    store.db.close()
    clock.advance(after_s)
    again = open_store(Path(str(store._path)).parent, clock)
    return {gap.stream: gap for gap in again.birth_events if isinstance(gap, GapEvent)}


def test_a_first_run_that_is_killed_before_its_first_seal_says_so(tmp_path: Path) -> None:
    clock = HandClock()
    gaps = crashed(open_store(tmp_path, clock), clock, 3)
    assert {stream: (gap.from_ms, gap.to_ms) for stream, gap in gaps.items()} == dict.fromkeys(
        StreamClass, (NOON_MS, NOON_MS + 3_000)
    )


def test_a_gap_begins_with_the_last_reading_that_is_sealed_and_not_with_its_commit(tmp_path: Path) -> None:
    clock = HandClock()
    store = open_store(tmp_path, clock)
    clock.advance(60)
    batch = gathered(ORDINARY, [59_000])
    store.commit([batch], [])  # a second after the reading was taken: the disk was slow
    assert crashed(store, clock, 2)[ORDINARY].from_ms == NOON_MS + 59_000


def test_what_the_store_tells_by_itself_moves_no_gap(tmp_path: Path) -> None:
    clock = HandClock()
    store = open_store(tmp_path, clock)
    store.commit([gathered(ORDINARY, [0])], [])
    clock.advance(100)
    store.commit([Gathered(EVENTS, (), (), 0)], [])
    assert crashed(store, clock, 2)[ORDINARY].from_ms == NOON_MS


async def test_an_event_is_sealed_up_to_when_its_batch_was_closed(tmp_path: Path) -> None:
    clock = HandClock()
    store = open_store(tmp_path, clock)
    outbox = open_outbox(store, clock)
    committed: list[int] = []
    outbox.on_committed = lambda batches, _: committed.extend(batch.number for batch in batches)
    clock.advance(30)
    outbox.add(ORDINARY, taken(30_000))
    outbox.seal_all()
    clock.advance(10)
    outbox.add(BULK, taken(40_000))
    outbox.seal_all()
    await until(lambda: len(committed) == 2)
    assert {stream: state.sealed_ms for stream, state in store.streams.items() if state.sealed_ms} == {
        ORDINARY: NOON_MS + 30_000,
        BULK: NOON_MS + 40_000,
    }
    gaps = crashed(store, clock, 1)
    assert gaps[ORDINARY].from_ms == NOON_MS + 35_000
    assert gaps[EVENTS].from_ms == NOON_MS + 35_000


def test_the_interval_is_that_of_the_run_that_crashed(tmp_path: Path) -> None:
    clock = HandClock()
    store = open_store(tmp_path, clock, seal_s=20.0)
    clock.advance(100)
    store.commit([gathered(ORDINARY, [100_000])], [])
    assert crashed(store, clock, 1)[BULK].from_ms == NOON_MS + 80_000
