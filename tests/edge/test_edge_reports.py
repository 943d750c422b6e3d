"""Reports of gaps outlive the events that they are among: a hole must not fall silent."""

import sqlite3
from pathlib import Path

import msgspec
import pytest

from edge.outbox.reports import joined
from protocols.backhaul.messages import GapCause, GapEvent
from protocols.model.device import StreamClass
from tests.edge.bench import BULK, EVENTS, NOON_MS, ORDINARY, HandClock, gaps_in, gathered, held, open_store

DAY_S = 86_400


def shed(first: int, last: int, count: int | None = 1, stream: StreamClass = ORDINARY) -> GapEvent:
    from_ms, to_ms = NOON_MS + first, NOON_MS + last
    return GapEvent(stream, GapCause.SHED, from_ms, to_ms, count, first=first, last=last, epoch=7)


def test_a_report_that_has_to_go_with_other_events_is_told_again_as_it_was(tmp_path: Path) -> None:
    clock = HandClock()
    store = open_store(tmp_path, clock, max_age_days=1)
    reports = [shed(1, 2), shed(3, 9, stream=BULK)]
    store.commit([gathered(EVENTS, (), reports)], [])
    for _ in range(3):
        clock.advance(2 * DAY_S)
        store.commit([gathered(ORDINARY, [1])], [])
        told = gaps_in(held(tmp_path / "outbox.db"))
        assert [gap for gap in told if gap in reports] == reports
    assert {gap.stream for gap in told if gap not in reports} == {EVENTS, ORDINARY}


def test_a_commit_that_fails_forgets_no_report(tmp_path: Path) -> None:
    clock = HandClock()
    store = open_store(tmp_path, clock, max_age_days=1)
    store.commit([gathered(EVENTS, (), [shed(1, 2)])], [])
    clock.advance(2 * DAY_S)
    store.db.execute(
        "CREATE TRIGGER no BEFORE INSERT ON batch WHEN NEW.stream = 0 BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    with pytest.raises(sqlite3.IntegrityError):
        store.commit([gathered(ORDINARY, [1])], [])
    store.db.execute("DROP TRIGGER no")
    store.commit([gathered(ORDINARY, [1])], [])
    assert gaps_in(held(tmp_path / "outbox.db")).count(shed(1, 2)) == 1


def test_joined_gaps_say_the_same_in_fewer_words() -> None:
    apart = shed(9, 9, 4)
    other = shed(1, 1, 5, stream=BULK)
    assert joined([shed(3, 4, 2), apart, shed(1, 2, 3), other]) == [shed(1, 4, 5), apart, other]


def test_what_nobody_has_counted_makes_the_sum_unknown() -> None:
    assert joined([shed(1, 2, 3), shed(3, 4, None)]) == [shed(1, 4, None)]


def test_gaps_without_numbers_become_one_longer_one() -> None:
    early = msgspec.structs.replace(shed(0, 0, 3), from_ms=NOON_MS, to_ms=NOON_MS + 5)
    late = msgspec.structs.replace(shed(0, 0, 4), from_ms=NOON_MS + 50, to_ms=NOON_MS + 60)
    assert joined([late, early]) == [
        msgspec.structs.replace(shed(0, 0, 7), from_ms=NOON_MS, to_ms=NOON_MS + 60)
    ]
