"""What a crash may have swallowed is said of every stream, from the first reading that waited on, and no longer."""

import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from edge.outbox.outbox import HANDED_OVER_MS
from edge.outbox.store import Gathered, OutboxStore
from protocols.backhaul.messages import GapCause, GapEvent, LastEnd, StartEvent
from protocols.model.device import StreamClass
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Sample, sample
from tests.edge.bench import BULK, EVENTS, NOON_MS, ORDINARY, HandClock, open_outbox, open_store, taken

CRITICAL = StreamClass.CRITICAL


def crashed(
    folder: Path, store: OutboxStore, clock: HandClock, after_s: float
) -> dict[StreamClass, GapEvent]:
    """Let the power fail, and return what the next start says of each stream."""
    store.db.close()
    clock.advance(after_s)
    gaps = open_store(folder, clock).birth_events
    assert all(gap.cause is GapCause.CRASH and gap.to_ms == clock.utc_ms for gap in gaps)
    return {gap.stream: gap for gap in gaps}


def begin_s(gaps: Mapping[StreamClass, GapEvent]) -> dict[StreamClass, float]:
    """Return the seconds after noon at which each gap begins."""
    return {stream: (gap.from_ms - NOON_MS) / 1000 for stream, gap in gaps.items()}


def read(clock: HandClock) -> Sample:
    return sample(DeviceId("d"), clock.monotonic_ms, [PointName("p")], [1])


def test_a_first_run_that_is_killed_before_its_first_seal_says_so_of_every_stream(tmp_path: Path) -> None:
    clock = HandClock()
    gaps = crashed(tmp_path, open_store(tmp_path, clock), clock, 3)
    assert begin_s(gaps) == dict.fromkeys(StreamClass, 0.0)


async def test_a_gap_begins_with_the_first_reading_that_waited_when_something_was_last_sealed(
    tmp_path: Path,
) -> None:
    """A stream that seals rarely does not seem to miss all since its last seal."""
    clock = HandClock()
    store = open_store(tmp_path, clock)
    outbox = open_outbox(store, clock, seal_readings=2)
    clock.advance(100)
    outbox.add(BULK, read(clock))
    clock.advance(2)
    for _ in range(2):
        outbox.add(ORDINARY, read(clock))
    await outbox.figures()
    sure = 102 - HANDED_OVER_MS / 1000
    gaps = crashed(tmp_path, store, clock, 9)
    assert begin_s(gaps) == {EVENTS: sure, CRITICAL: sure, ORDINARY: sure, BULK: 100.0}


async def test_an_event_seals_of_its_own_stream_all_and_of_the_others_nothing(tmp_path: Path) -> None:
    clock = HandClock()
    store = open_store(tmp_path, clock)
    outbox = open_outbox(store, clock)
    outbox.add(ORDINARY, read(clock))
    clock.advance(3)
    outbox.add_event(StartEvent("boot-1", "0.1.0", LastEnd.FIRST, clock.utc_ms))
    await outbox.figures()
    await outbox.figures()  # the event is sealed in the loop's next turn
    sure = 3 - HANDED_OVER_MS / 1000
    assert begin_s(crashed(tmp_path, store, clock, 1)) == {
        EVENTS: sure,
        CRITICAL: sure,
        ORDINARY: 0.0,
        BULK: sure,
    }


def test_what_was_taken_while_a_batch_waited_for_the_disk_is_not_said_to_be_sealed(tmp_path: Path) -> None:
    clock = HandClock()
    store = open_store(tmp_path, clock)
    closed_ms = clock.utc_ms + 10_000
    clock.advance(14)
    store.commit([Gathered(ORDINARY, [taken(0)], (), 1, dict.fromkeys(StreamClass, closed_ms))], [])
    assert begin_s(crashed(tmp_path, store, clock, 1)) == dict.fromkeys(StreamClass, 10.0)


def test_a_commit_that_fails_moves_no_gap(tmp_path: Path) -> None:
    clock = HandClock()
    store = open_store(tmp_path, clock)
    broken = Gathered(ORDINARY, [taken(0)], (), 1, {ORDINARY: clock.utc_ms + 5_000, "no stream": 1})  # type: ignore[dict-item]
    with pytest.raises(KeyError):
        store.commit([broken], [])
    assert begin_s(crashed(tmp_path, store, clock, 9)) == dict.fromkeys(StreamClass, 0.0)


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_was_taken_and_not_sealed_lies_within_its_gap(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    clock = HandClock()
    store = open_store(tmp_path, clock)
    outbox = open_outbox(store, clock, seal_readings=4)
    for _ in range(rng.randrange(1, 60)):
        clock.advance(rng.random() * 3)
        stream, one = rng.choice([CRITICAL, ORDINARY, BULK]), read(clock)
        clock.advance(rng.random() * HANDED_OVER_MS / 1000)  # it is on its way
        if rng.random() < 0.2:
            outbox.seal_all()
        outbox.add(stream, one)
    await outbox.figures()
    waiting = {stream: [one.monotonic_ms for one in each.samples] for stream, each in outbox._open.items()}
    gaps = crashed(tmp_path, store, clock, 5)
    offset_ms = clock.utc_ms - clock.monotonic_ms
    for stream, moments_ms in waiting.items():
        assert all(gaps[stream].from_ms <= one + offset_ms <= gaps[stream].to_ms for one in moments_ms)
