"""How old what waits is, by a clock that was not set, that was wrong, or that leaps."""

from pathlib import Path

import msgspec
import pytest

from edge.config import OutboxSettings
from edge.outbox.ages import MAX_WINDOWS, Ages
from edge.outbox.store import OutboxStore
from protocols.clock import EARLIEST_PLAUSIBLE_MS, ClockQuality, Correction
from protocols.model.device import StreamClass
from tests.edge.bench import (
    CABINET,
    NOON_MS,
    OPENED,
    ORDINARY,
    HandClock,
    gaps_in,
    gathered,
    held,
    numbers_in,
    open_store,
)

DAY_MS = 86_400_000
MONTHS_MS = 90 * DAY_MS
UNSET, SET = ClockQuality.UNSYNCHRONISED, ClockQuality.SYNCHRONISED


def next_boot(folder: Path, clock: HandClock) -> OutboxStore:
    """Open an outbox again, after a boot."""
    store = OutboxStore(folder / "outbox.db", CABINET, "boot-2", clock, OutboxSettings(max_age_days=30))
    OPENED.append(store)
    return store


def put(store: OutboxStore, number: int) -> None:
    store.commit([gathered(ORDINARY, [number])], [])


def test_what_was_taken_by_a_guess_is_not_dropped_when_the_clock_turns_out_to_be_months_later(
    tmp_path: Path,
) -> None:
    clock = HandClock(NOON_MS, UNSET)
    store = open_store(tmp_path, clock, max_age_days=30)
    put(store, 1)
    before_ms = clock.utc_ms - clock.monotonic_ms
    clock.utc_ms, clock.quality = NOON_MS + MONTHS_MS, SET
    put(store, 2)
    store.correct(Correction(before_ms, clock.utc_ms - clock.monotonic_ms, clock.monotonic_ms))
    put(store, 3)
    assert numbers_in(held(tmp_path / "outbox.db")) == [1, 2, 3]
    clock.advance(31 * 86_400)
    put(store, 4)
    (gap,) = gaps_in(held(tmp_path / "outbox.db"))
    assert (gap.first, gap.last, gap.count) == (1, 3, 3)
    assert gap.from_ms == NOON_MS + MONTHS_MS


def test_a_boot_that_never_learnt_the_time_leaves_what_nobody_can_call_too_old(tmp_path: Path) -> None:
    clock = HandClock(NOON_MS, UNSET)
    store = open_store(tmp_path, clock, max_age_days=30)
    put(store, 1)
    store.end_run()
    clock.utc_ms, clock.quality = NOON_MS + MONTHS_MS, SET
    again = next_boot(tmp_path, clock)
    put(again, 2)
    assert numbers_in(held(tmp_path / "outbox.db")) == [1, 2]
    clock.advance(31 * 86_400)
    put(again, 3)
    assert numbers_in(held(tmp_path / "outbox.db"))[-1] == 3
    assert sum(gap.count or 0 for gap in gaps_in(held(tmp_path / "outbox.db"))) == 2


def test_a_batch_that_was_committed_after_all_that_is_known_to_be_sealed_is_a_guess_too(
    tmp_path: Path,
) -> None:
    clock = HandClock(NOON_MS, UNSET)
    store = open_store(tmp_path, clock, max_age_days=30)
    put(store, 1)
    clock.advance(60)
    reaches_ms = dict.fromkeys(StreamClass, clock.utc_ms - 10_000)
    store.commit([msgspec.structs.replace(gathered(ORDINARY, [2]), reaches_ms=reaches_ms)], [])
    store.end_run()
    clock.utc_ms, clock.quality = NOON_MS + MONTHS_MS, SET
    put(next_boot(tmp_path, clock), 3)
    assert numbers_in(held(tmp_path / "outbox.db")) == [1, 2, 3]


def test_several_boots_in_the_dark_are_all_kept_once_the_last_one_learns_the_time(tmp_path: Path) -> None:
    clock = HandClock(NOON_MS, UNSET)
    put(open_store(tmp_path, clock, max_age_days=30), 1)
    clock.advance(60)
    clock.monotonic_ms = 1_000
    store = next_boot(tmp_path, clock)
    put(store, 2)
    before_ms = clock.utc_ms - clock.monotonic_ms
    clock.utc_ms, clock.quality = NOON_MS + MONTHS_MS, SET
    store.correct(Correction(before_ms, clock.utc_ms - clock.monotonic_ms, clock.monotonic_ms))
    put(store, 3)
    assert numbers_in(held(tmp_path / "outbox.db")) == [1, 2, 3]


def test_a_clock_that_leaps_ahead_drops_nothing(tmp_path: Path) -> None:
    clock = HandClock()
    store = open_store(tmp_path, clock, max_age_days=30)
    good_ms = clock.utc_ms
    store.good_ms = lambda: good_ms
    put(store, 1)
    clock.utc_ms += 4_000 * DAY_MS
    put(store, 2)
    assert numbers_in(held(tmp_path / "outbox.db")) == [1, 2]


def test_a_commit_that_fails_forgets_that_it_noted_a_guess(tmp_path: Path) -> None:
    store = open_store(tmp_path, HandClock(NOON_MS, UNSET))
    broken = gathered(ORDINARY, [1], text="\ud800")
    with pytest.raises(Exception, match="MessagePack"):
        store.commit([broken], [])
    assert not store._ages.is_open("boot-1")
    put(store, 1)
    assert store._ages.is_open("boot-1")


def test_a_crash_gap_begins_when_it_really_began(tmp_path: Path) -> None:
    clock = HandClock(NOON_MS + MONTHS_MS, ClockQuality.HOLDOVER)
    store = open_store(tmp_path, clock)
    put(store, 1)
    before_ms = clock.utc_ms - clock.monotonic_ms
    clock.advance(60)
    clock.utc_ms -= MONTHS_MS
    store.correct(Correction(before_ms, clock.utc_ms - clock.monotonic_ms, clock.monotonic_ms))
    clock.advance(60)
    again = open_store(tmp_path, clock)
    gaps = [gap for gap in again.birth_events if gap.stream is ORDINARY]
    assert [(gap.from_ms, gap.to_ms) for gap in gaps] == [(NOON_MS, NOON_MS + 120_000)]


def test_only_so_much_is_remembered_and_nothing_for_longer_than_it_matters() -> None:
    ages = Ages()
    for number in range(MAX_WINDOWS + 3):
        ages = ages.opened(f"b{number}", NOON_MS + number).ended("now", NOON_MS + number, NOON_MS)
    assert len(ages.windows) == MAX_WINDOWS
    assert ages.without_old(NOON_MS).windows == ages.windows
    assert ages.without_old(NOON_MS + 1).windows == ()
    assert Ages().true_ms(EARLIEST_PLAUSIBLE_MS - 1) is None
