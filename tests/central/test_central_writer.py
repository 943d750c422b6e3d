"""The store's thread: grouped commits, isolated jobs, and honesty when the disk gives up."""

import itertools
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from central.effects import Effects
from central.errors import RequestError, StoreError
from central.inbox import Inbox
from central.store import lock, schema
from central.store.lock import WriteLock
from central.store.reader import Reader
from central.store.writer import Tx, Writer
from protocols.model.ids import CabinetId
from tests.central.desk import TestClock, raw

WAIT_S = 10


class Told:
    """What a writer told the world, and when: by then it must be committed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rounds: list[tuple[set[tuple[CabinetId, int]], int]] = []

    def __call__(self, _db: sqlite3.Connection, effects: Effects) -> None:
        with closing(raw(self._path)) as db:
            committed = db.execute("SELECT count(*) FROM centre").fetchone()[0]
        self.rounds.append((effects.acks, committed))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    schema.prepare(tmp_path / "central.db")
    return tmp_path / "central.db"


@pytest.fixture
def told(path: Path) -> Told:
    return Told(path)


@pytest.fixture
def writer(path: Path, told: Told) -> Iterator[Writer]:
    running = Writer(path, TestClock(), lambda _tx: None, told)
    running.start()
    yield running
    running.stop()
    assert not running.alive()


def put(tx: Tx, name: str) -> str:
    tx.db.execute("INSERT INTO centre (name, value) VALUES (?, '')", (name,))
    tx.effects.acks.add((CabinetId(name), 1))
    return name


def names(path: Path) -> list[str]:
    with closing(raw(path)) as db:
        return [name for (name,) in db.execute("SELECT name FROM centre ORDER BY name")]


def test_what_is_asked_for_is_there_when_it_is_answered(writer: Writer, path: Path) -> None:
    assert writer.submit(lambda tx: put(tx, "a")).result(WAIT_S) == "a"
    assert names(path) == ["a"]


def test_nothing_is_told_before_it_is_committed(writer: Writer, told: Told) -> None:
    for number in range(20):
        writer.submit(lambda tx, n=number: put(tx, f"c{n:02}")).result(WAIT_S)  # type: ignore[misc]  # a lambda with a default
    seen = 0
    for acks, committed in told.rounds:
        seen += len(acks)
        assert committed >= seen


def test_jobs_that_wait_together_share_a_commit(writer: Writer, path: Path) -> None:
    go = threading.Event()
    writer.submit(lambda _tx: go.wait(WAIT_S))
    jobs = [writer.submit(lambda tx, n=n: put(tx, f"j{n}")) for n in range(50)]  # type: ignore[misc]  # a lambda with a default
    go.set()
    for job in jobs:
        job.result(WAIT_S)
    assert len(names(path)) == 50
    assert writer.commits <= 2


def test_a_failing_job_is_undone_and_takes_no_other_with_it(writer: Writer, path: Path, told: Told) -> None:
    go = threading.Event()

    def fail(tx: Tx) -> None:
        put(tx, "bad")
        raise RequestError(409, "no")

    writer.submit(lambda _tx: go.wait(WAIT_S))
    before, bad, after = (
        writer.submit(lambda tx: put(tx, "before")),
        writer.submit(fail),
        writer.submit(lambda tx: put(tx, "after")),
    )
    go.set()
    assert (before.result(WAIT_S), after.result(WAIT_S)) == ("before", "after")
    with pytest.raises(RequestError):
        bad.result(WAIT_S)
    assert names(path) == ["after", "before"]
    assert all((CabinetId("bad"), 1) not in acks for acks, _ in told.rounds)


def test_a_bug_in_a_job_is_told_to_whoever_asked_and_the_thread_goes_on(writer: Writer) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        writer.submit(lambda tx: tx.db.execute("SELECT * FROM nowhere")).result(WAIT_S)
    assert writer.submit(lambda tx: put(tx, "still")).result(WAIT_S) == "still"
    assert writer.fault == ""


def test_a_full_disk_acknowledges_nothing_and_is_over_when_there_is_room(
    writer: Writer, path: Path, told: Told
) -> None:
    def limit(pages: int) -> None:
        writer.submit(lambda tx: tx.db.execute(f"PRAGMA max_page_count={pages}").fetchone()).result(WAIT_S)

    def large(tx: Tx) -> str:
        tx.db.execute("INSERT INTO centre (name, value) VALUES ('large', hex(randomblob(2000000)))")
        return put(tx, "with-it")

    limit(1)  # SQLite makes it the present size
    with pytest.raises(StoreError):
        writer.submit(large).result(WAIT_S)
    assert "full" in writer.fault
    assert names(path) == []
    assert all(not acks for acks, _ in told.rounds)
    limit(1_000_000)
    assert writer.submit(large).result(WAIT_S) == "with-it"
    assert writer.fault == ""


def test_a_process_that_holds_the_others_up_is_named_and_nothing_is_lost_when_it_goes_on(
    writer: Writer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process is stopped in the middle of a transaction."""
    monkeypatch.setattr(lock, "WAIT_S", 0.1)
    with closing(WriteLock(path)) as other, other.held():
        with pytest.raises(StoreError, match="another process has been writing"):
            writer.submit(lambda tx: put(tx, "too early")).result(WAIT_S)
        assert "another process" in writer.fault
    assert writer.submit(lambda tx: put(tx, "now")).result(WAIT_S) == "now"
    assert (writer.fault, names(path)) == ("", ["now"])


def test_whoever_waits_comes_before_who_has_just_written(path: Path) -> None:
    """Else a busy process would never let another one write."""
    order: list[str] = []

    def write(name: str) -> None:
        with closing(WriteLock(path)) as mine:
            for _ in range(30):
                with mine.held():
                    order.append(name)
                    threading.Event().wait(0.002)  # as long as a short transaction

    with closing(WriteLock(path)) as first, first.held():
        threads = [threading.Thread(target=write, args=(name,)) for name in ("one", "two")]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert (len(order), changes > 5) == (60, True)


def test_stopping_commits_what_was_received(path: Path, told: Told) -> None:
    writer = Writer(path, TestClock(), lambda _tx: None, told)
    go = threading.Event()
    writer.start()
    writer.post(lambda _tx: go.wait(WAIT_S), 0, 0)
    for number in range(300):
        assert writer.post(lambda tx, n=number: put(tx, f"p{n}"), 0, 0)  # type: ignore[misc]  # a lambda with a default
    go.set()
    writer.stop()
    assert len(names(path)) == 300


def test_after_stopping_nothing_is_taken(path: Path, told: Told) -> None:
    writer = Writer(path, TestClock(), lambda _tx: None, told)
    writer.start()
    writer.stop()
    with pytest.raises(StoreError):
        writer.submit(lambda tx: put(tx, "late"))


def test_work_that_is_due_is_done_in_the_commit_that_asks_for_it(path: Path, told: Told) -> None:
    ticks: list[int] = []
    writer = Writer(path, TestClock(), lambda tx: ticks.append(tx.now_ms), told)
    writer.start()

    def due(tx: Tx) -> None:
        tx.effects.due = True

    writer.submit(lambda _tx: None).result(WAIT_S)
    before = len(ticks)
    writer.submit(due).result(WAIT_S)
    assert len(ticks) > before
    writer.stop()


def test_when_the_world_cannot_be_told_the_commit_stands_and_the_thread_goes_on(path: Path) -> None:
    def fail(_db: sqlite3.Connection, _effects: Effects) -> None:
        raise RuntimeError("nobody listens")

    writer = Writer(path, TestClock(), lambda _tx: None, fail)
    writer.start()
    assert writer.submit(lambda tx: put(tx, "a")).result(WAIT_S) == "a"
    assert writer.submit(lambda tx: put(tx, "b")).result(WAIT_S) == "b"
    writer.stop()
    assert names(path) == ["a", "b"]


async def test_readers_see_what_is_committed_and_cannot_write(writer: Writer, path: Path) -> None:
    writer.submit(lambda tx: put(tx, "seen")).result(WAIT_S)
    reader = Reader(path)
    try:
        assert await reader.ask(lambda db: db.execute("SELECT name FROM centre").fetchall()) == [("seen",)]
        with pytest.raises(StoreError, match="readonly"):
            await reader.ask(lambda db: db.execute("DELETE FROM centre"))
    finally:
        reader.close()


class TestInbox:
    """The queue is bounded by number and by bytes."""

    def test_it_gives_what_it_was_given_in_order(self) -> None:
        inbox: Inbox[int] = Inbox()
        for number in range(5):
            assert inbox.put(number)
        assert inbox.take(3, 0) == [0, 1, 2]
        assert inbox.take(9, 0) == [3, 4]

    def test_it_takes_no_more_than_its_number(self) -> None:
        inbox: Inbox[int] = Inbox(max_jobs=2)
        assert [inbox.put(n) for n in range(3)] == [True, True, False]

    def test_it_takes_no_more_than_its_bytes_but_always_one(self) -> None:
        inbox: Inbox[int] = Inbox(max_bytes=10)
        assert [inbox.put(n, size) for n, size in enumerate((50, 1))] == [True, False]
        inbox.take(1, 0)
        assert [inbox.put(n, size) for n, size in enumerate((6, 4, 1))] == [True, True, False]

    def test_who_waits_for_room_gets_it_when_there_is_some(self) -> None:
        inbox: Inbox[int] = Inbox(max_jobs=1)
        inbox.put(1)
        outcome: list[bool] = []
        waiting = threading.Thread(target=lambda: outcome.append(inbox.put(2, timeout_s=WAIT_S)))
        waiting.start()
        assert inbox.take(1, WAIT_S) == [1]
        waiting.join(WAIT_S)
        assert outcome == [True]

    def test_closing_it_lets_what_waits_be_taken(self) -> None:
        inbox: Inbox[int] = Inbox()
        inbox.put(1)
        inbox.close()
        assert not inbox.put(2)
        assert inbox.take(9, WAIT_S) == [1]
        assert inbox.take(9, WAIT_S) == []
