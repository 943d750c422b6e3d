"""Whatever call on the disk fails beneath the outbox, and whenever the power goes: nothing committed is lost.

Each operation happens wholly or not at all, in memory as on disk, and the outbox goes on when the disk does.
"""

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest

from edge.outbox.rows import weigh
from edge.outbox.store import OutboxStore, Sealed
from protocols.backhaul.codec import batch_hash, samples, unseal
from protocols.backhaul.messages import AlarmEvent, GapCause, GapEvent, LastEnd, StreamMark
from protocols.model.alarm import AlarmType
from protocols.model.device import StreamClass
from protocols.model.ids import DeviceId
from tests.edge.bench import BULK, EVENTS, NOON_MS, ORDINARY, HandClock, gathered, let_go, open_store
from tests.faults.disk import Disk, File, Kind, is_loaded
from tests.faults.sweep import FAULTS, GONE, Attempt, End, Fault, at_each_call

pytestmark = pytest.mark.on_a_faulty_disk
ALARM = AlarmEvent(DeviceId("lamp-01"), AlarmType.LAMP_FAILURE, NOON_MS, None, "")
CLOCK = HandClock()

Key = tuple[int, StreamClass, int]


def noise(seed: int, size: int = 500) -> str:
    """Return text that does not compress."""
    return random.Random(seed).randbytes(size).hex()


class Book:
    """What a store has told as committed, as an agent would remember it."""

    def __init__(self) -> None:
        self.told: dict[Key, bytes] = {}
        self.floors: dict[tuple[int, StreamClass], int] = {}

    def copy(self) -> "Book":
        copy = Book()
        copy.told, copy.floors = dict(self.told), dict(self.floors)
        return copy

    def note(self, store: OutboxStore, done: Iterable[Sealed]) -> None:
        for one in done:
            key = (unseal(one.sealed).epoch, one.stream, one.number)
            assert self.told.setdefault(key, one.sealed) == one.sealed, f"{key} was used twice"
        for epoch, states in store._epochs.items():
            self.floors.update(((epoch, stream), state.floor) for stream, state in states.items())
        # an epoch that is not there any more was let go as a whole
        self.told = {key: sealed for key, sealed in self.told.items() if key[0] in store._epochs}

    def begin_anew(self, store: OutboxStore) -> None:
        """Take note of what a store holds, because all of it has new numbers."""
        self.told.clear()
        self.floors.clear()
        rows = store.db.execute("SELECT stream, number, sealed FROM batch").fetchall()
        self.note(store, [Sealed(StreamClass(stream), number, sealed) for stream, number, sealed in rows])

    def verify(self, store: OutboxStore) -> None:
        """See that all that was told, and neither acknowledged nor shed, is there as it was told."""
        rows = store.db.execute("SELECT stream, number, sealed FROM batch").fetchall()
        there = {(unseal(sealed).epoch, stream, number): sealed for stream, number, sealed in rows}
        for key, sealed in self.told.items():
            if key[2] >= self.floors.get((key[0], key[1]), 1):
                assert there.get(key) == sealed, f"{key} was told as committed"


class Picture(msgspec.Struct, frozen=True):
    """A store in memory and on disk, without what is drawn at random."""

    heads: tuple[tuple[int, ...], ...]
    weight: tuple[int, ...]
    counted: tuple[int, int]
    rows: tuple[tuple[object, ...], ...]


def picture(store: OutboxStore) -> Picture:
    """Look at a store; what it remembers has to be what its file says."""
    assert not store.db.in_transaction
    assert store.db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    figures, weight = store.figures(0), weigh(store.db)
    assert (figures.batches, figures.readings, figures.bytes) == (
        weight.batches,
        weight.readings,
        weight.bytes,
    )
    heads = tuple((s.stream, s.next, s.floor, s.mark, s.taken) for s in store.streams.values())
    assert set(heads) <= set(store.db.execute("SELECT stream, next, floor, mark, taken FROM stream"))
    rows = store.db.execute("SELECT stream, number, readings, hash, sealed FROM batch").fetchall()
    for stream, state in store.streams.items():
        numbers = [row[1] for row in rows if row[0] == stream and unseal(row[4]).epoch == store.epoch]
        assert numbers == list(range(state.floor, state.next))
    assert all(known == batch_hash(sealed) for *_, known, sealed in rows)
    return Picture(
        heads=heads,
        weight=(figures.batches, figures.readings),
        counted=(store.committed_readings, store.shed_readings),
        rows=tuple((*row[:3], *_content(row[4])) for row in rows),
    )


def _content(sealed: bytes) -> tuple[object, ...]:
    batch = unseal(sealed)
    gaps = [(gap.cause, gap.stream, gap.count) for gap in batch.events if isinstance(gap, GapEvent)]
    return batch.number, [value for one in samples(batch) for value in one.values], gaps


def on_disk(seen: Picture) -> list[tuple[object, ...]]:
    """Return what waits, apart from events, of which each start may add some of its own."""
    return [(row[0], row[4]) for row in seen.rows if row[0] != EVENTS]


Operation = Callable[[OutboxStore], list[Sealed]]


def insert(store: OutboxStore) -> list[Sealed]:
    return store.commit(
        [
            gathered(ORDINARY, [1, 2]),
            gathered(EVENTS, [], [ALARM]),
            gathered(BULK, [3], text=noise(3, 6000)),
        ],
        [],
    )


def insert_much(store: OutboxStore) -> list[Sealed]:
    """More than SQLite may hold in memory, so that pages reach the log before the commit."""
    store.db.execute("PRAGMA cache_size=8")
    return store.commit([gathered(BULK, [n], text=noise(n, 12_000)) for n in range(6)], [])


def acknowledge(store: OutboxStore) -> list[Sealed]:
    return store.commit([gathered(ORDINARY, [9])], [StreamMark(ORDINARY, 5), StreamMark(EVENTS, 1)])


def acknowledge_alone(store: OutboxStore) -> list[Sealed]:
    return store.commit([], [StreamMark(ORDINARY, 6)])


def shed(store: OutboxStore) -> list[Sealed]:
    """What waits has become too old."""
    CLOCK.advance(100 * 86_400)
    try:
        return store.commit([gathered(ORDINARY, [1], text=noise(1))], [])
    finally:
        CLOCK.advance(-100 * 86_400)


def checkpoint(store: OutboxStore) -> list[Sealed]:
    """A commit after which the log is written into the file."""
    store.db.execute("PRAGMA wal_autocheckpoint=1")
    try:
        return store.commit([gathered(ORDINARY, [1]), gathered(EVENTS, [], [ALARM])], [])
    finally:
        store.db.execute("PRAGMA wal_autocheckpoint=1000")


def checkpoint_and_reuse(store: OutboxStore) -> list[Sealed]:
    """Two such commits: the second one begins the log anew."""
    store.db.execute("PRAGMA wal_autocheckpoint=1")
    store.db.execute("PRAGMA wal_checkpoint")
    store.db.execute("PRAGMA wal_autocheckpoint=1000")
    return store.commit([gathered(ORDINARY, [1])], [])


def renew(store: OutboxStore) -> list[Sealed]:
    store.renew_epoch()
    return []


OPERATIONS: tuple[Operation, ...] = (
    insert,
    acknowledge,
    acknowledge_alone,
    shed,
    checkpoint,
    checkpoint_and_reuse,
    renew,
    insert_much,
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An outbox with something of everything, as an agent leaves it that was killed: with a log beside it."""
    folder = tmp_path_factory.mktemp("prepared")
    if not is_loaded():
        return folder  # the tests run elsewhere
    working = tmp_path_factory.mktemp("working")
    store = open_store(working, CLOCK)
    for number in range(12):
        store.commit([gathered(BULK, [number], text=noise(number, 1500))], [])
        store.commit([gathered(ORDINARY, [number], text=noise(number))], [])
    store.commit([gathered(EVENTS, [], [ALARM]), gathered(EVENTS, [], [ALARM])], [])
    store.commit([], [StreamMark(ORDINARY, 2)])
    for suffix in ("", "-wal"):
        shutil.copy(working / f"outbox.db{suffix}", folder)
    let_go()
    return folder


def opened(folder: Path) -> tuple[OutboxStore, Book]:
    store, book = open_store(folder, CLOCK), Book()
    book.begin_anew(store)
    return store, book


def untouched(prepared: Path, scratch: Path, operation: Operation) -> tuple[Picture, Picture]:
    """Return a store before and after an operation that no fault disturbs."""
    shutil.copytree(prepared, scratch / "untouched")
    store, _ = opened(scratch / "untouched")
    before = picture(store)
    operation(store)
    return before, picture(store)


def story_of(operation: Operation, before: Picture, after: Picture) -> Callable[[Attempt], None]:
    def story(attempt: Attempt) -> None:
        store, book = opened(attempt.folder)
        try:
            with attempt.failing():
                done = operation(store)
        except sqlite3.Error:
            assert attempt.fired
            assert picture(store) == before
        else:
            if operation is renew:
                book.begin_anew(store)
            book.note(store, done)
            assert picture(store) == after
        goes_on(attempt, store, book, (before, after))

    return story


def goes_on(attempt: Attempt, store: OutboxStore, book: Book, either: tuple[Picture, Picture]) -> None:
    """See that a store is of use after a fault, and what is there when it is opened the next time."""
    if attempt.end is not End.CUT_AT_ONCE:
        for turn in range(2):
            book.note(store, store.commit([gathered(ORDINARY, [turn]), gathered(EVENTS, [], [ALARM])], []))
        kept = on_disk(picture(store))
    if attempt.end is not End.CLOSED:
        attempt.disk.power_cut(attempt.seed)
    let_go()
    if attempt.end is not End.CLOSED:
        attempt.disk.power_on()
    again = open_store(attempt.folder, CLOCK)
    assert again.db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    if attempt.end is End.CUT_AT_ONCE and store.epoch not in {again.sending, again.epoch}:
        book.begin_anew(again)  # a renewal that had failed for all that was told
    book.verify(again)
    found = on_disk(picture(again))
    if attempt.end is End.CUT_AT_ONCE:
        assert found in [on_disk(one) for one in either], "wholly or not at all"
    else:
        assert found == kept
    book.note(again, again.commit([gathered(ORDINARY, [7])], []))
    let_go()


IN_USE = tuple(fault for fault in FAULTS if fault.kind not in {Kind.OPEN, Kind.REMOVE})
"""An outbox that is open opens nothing more and removes nothing."""


@pytest.mark.parametrize("fault", IN_USE, ids=str)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.__name__)
def test_an_operation_happens_wholly_or_not_at_all_and_nothing_committed_is_lost(
    prepared: Path, tmp_path: Path, operation: Operation, fault: Fault
) -> None:
    before, after = untouched(prepared, tmp_path, operation)
    let_go()
    turns = at_each_call(prepared, tmp_path, fault, story_of(operation, before, after))
    if fault.kind & (Kind.WRITE | Kind.SYNC):
        assert turns > 0


UNREADABLE = {fault for fault in FAULTS if fault.kind in {Kind.READ, Kind.ANY} and fault.lasting}
"""A file that cannot be read any more, however often it is tried, is damaged: that is another matter."""


class TestOpening:
    """An outbox that could not be opened can be opened once the disk lets it, and is what it was."""

    @pytest.mark.parametrize("fault", FAULTS, ids=str)
    def test_a_new_file(self, tmp_path: Path, fault: Fault) -> None:
        def story(attempt: Attempt) -> None:
            attempted(attempt)
            store, book = opened(attempt.folder)
            seen = picture(store)
            assert on_disk(seen) == []
            goes_on(attempt, store, book, (seen, seen))

        (tmp_path / "empty").mkdir()
        assert at_each_call(tmp_path / "empty", tmp_path, fault, story) > 0 or fault.kind is Kind.READ

    @pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in UNREADABLE], ids=str)
    def test_a_file_of_an_agent_that_was_killed(self, prepared: Path, tmp_path: Path, fault: Fault) -> None:
        shutil.copytree(prepared, tmp_path / "untouched")
        before, book = opened(tmp_path / "untouched")
        seen = picture(before)
        let_go()

        def story(attempt: Attempt) -> None:
            attempted(attempt)
            store = open_store(attempt.folder, CLOCK)
            assert store.last_end is LastEnd.CRASH
            assert on_disk(picture(store)) == on_disk(seen)
            book.verify(store)
            goes_on(attempt, store, book.copy(), (seen, seen))
            assert attempt.end is not End.CLOSED or not list(attempt.folder.glob("*damaged*"))

        assert at_each_call(prepared, tmp_path, fault, story) > 0 or fault.kind is Kind.REMOVE

    def test_a_log_whose_sync_failed_does_no_harm_when_the_power_goes_at_the_next_start(
        self, prepared: Path, tmp_path: Path
    ) -> None:
        """What is read of such a log is on no disk, and a checkpoint would carry half of it into the file."""

        def story(attempt: Attempt) -> None:
            store, book = opened(attempt.folder)
            attempt.disk.fail(Kind.SYNC, lasting=True)
            for operation in (renew, insert):
                with pytest.raises(sqlite3.OperationalError):
                    operation(store)
            let_go()
            attempted(attempt)
            again = open_store(attempt.folder, CLOCK)
            assert again.db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
            picture(again)
            book.verify(again)
            let_go()

        assert at_each_call(prepared, tmp_path, GONE, story, ends=(End.CUT_AT_ONCE,)) > 0

    def test_a_folder_that_cannot_be_synced_is_not_taken_for_safe(self, tmp_path: Path) -> None:
        """SQLite makes its log and does not look whether the folder, and so the log's name, reached the disk."""
        with Disk(tmp_path) as disk:
            disk.fail(Kind.SYNC, File.FOLDER, lasting=True)
            book = Book()
            with contextlib.suppress(OSError):
                store = open_store(tmp_path, CLOCK)
                book.note(store, insert(store))
            disk.power_cut()
            let_go()
            disk.power_on()
            store = open_store(tmp_path, CLOCK)
            book.verify(store)
            book.note(store, insert(store))
            disk.power_cut()
            let_go()
            disk.power_on()
            book.verify(open_store(tmp_path, CLOCK))
            let_go()


def attempted(attempt: Attempt) -> None:
    """Open an outbox while the disk fails; if that is to be followed by a power cut, cut the power."""
    with contextlib.suppress(sqlite3.Error, OSError), attempt.failing():
        open_store(attempt.folder, CLOCK)
    if attempt.end is End.CUT_AT_ONCE:
        attempt.disk.power_cut(attempt.seed)
    let_go()
    if attempt.end is End.CUT_AT_ONCE:
        attempt.disk.power_on()


class TestRot:
    """A batch that has rotted on the disk becomes an empty one and a gap together, or neither."""

    @pytest.mark.parametrize("fault", IN_USE, ids=str)
    def test_its_gap_is_told_once(self, prepared: Path, tmp_path: Path, fault: Fault) -> None:
        shutil.copytree(prepared, tmp_path / "rotten")
        rot(tmp_path / "rotten" / "outbox.db", BULK, 4)

        def story(attempt: Attempt) -> None:
            store = open_store(attempt.folder, CLOCK)
            with contextlib.suppress(sqlite3.Error), attempt.failing():
                store.fetch(BULK, 1, 10)
            if attempt.end is not End.CUT_AT_ONCE:
                assert [one.number for one in store.fetch(BULK, 1, 10).batches] == list(range(1, 11))
            if attempt.end is not End.CLOSED:
                attempt.disk.power_cut(attempt.seed)
            let_go()
            if attempt.end is not End.CLOSED:
                attempt.disk.power_on()
            again = open_store(attempt.folder, CLOCK)
            assert [one.number for one in again.fetch(BULK, 1, 10).batches] == list(range(1, 11))
            again.commit([], [])
            gaps = [gap for gap in gaps_held(again) if gap.cause is GapCause.CORRUPT]
            assert [(gap.stream, gap.first, gap.last, gap.count) for gap in gaps] == [(BULK, 4, 4, 1)]
            picture(again)
            let_go()

        assert at_each_call(tmp_path / "rotten", tmp_path, fault, story) > 0 or fault.kind in {
            Kind.READ,
            Kind.TRUNCATE,
        }


def rot(path: Path, stream: StreamClass, number: int) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    where = "WHERE stream = ? AND number = ?"
    (sealed,) = db.execute(f"SELECT sealed FROM batch {where}", (stream, number)).fetchone()  # noqa: S608
    db.execute(f"UPDATE batch SET sealed = ? {where}", (sealed[:-1] + b"x", stream, number))  # noqa: S608
    db.close()


def gaps_held(store: OutboxStore) -> list[GapEvent]:
    rows = store.db.execute("SELECT sealed FROM batch WHERE stream = ?", (EVENTS,)).fetchall()
    events = [event for (sealed,) in rows for event in unseal(sealed).events]
    return [event for event in events if isinstance(event, GapEvent)]


class TestEndingARun:
    @pytest.mark.parametrize("fault", FAULTS, ids=str)
    def test_the_next_start_says_clean_only_of_an_end_that_was_recorded(
        self, prepared: Path, tmp_path: Path, fault: Fault
    ) -> None:
        def story(attempt: Attempt) -> None:
            store, book = opened(attempt.folder)
            seen = on_disk(picture(store))
            try:
                with attempt.failing():
                    store.end_run()
            except sqlite3.Error:
                ended = False
            else:
                ended = True
            if attempt.end is not End.CLOSED:
                attempt.disk.power_cut(attempt.seed)
            let_go()
            if attempt.end is not End.CLOSED:
                attempt.disk.power_on()
            again = open_store(attempt.folder, CLOCK)
            assert on_disk(picture(again)) == seen
            book.verify(again)
            if ended:
                assert (again.last_end, again.birth_events) == (LastEnd.CLEAN, [])
            let_go()

        assert at_each_call(prepared, tmp_path, fault, story) > 0 or fault.kind in {Kind.READ, Kind.OPEN}


class TestPowerLoss:
    """The power goes at each call of an operation in turn, and afterwards."""

    @pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.__name__)
    def test_every_committed_batch_is_there(
        self, prepared: Path, tmp_path: Path, operation: Operation
    ) -> None:
        before, after = untouched(prepared, tmp_path, operation)
        let_go()
        story = story_of(operation, before, after)
        assert at_each_call(prepared, tmp_path, GONE, story, ends=(End.CUT_AT_ONCE,)) > 0

    @pytest.mark.parametrize("seed", [None, *range(20)])
    def test_a_year_of_power_cuts(self, tmp_path: Path, seed: int | None) -> None:
        """One file, cut again and again at places that a generator chooses."""
        chance = random.Random(seed)
        book = Book()
        with Disk(tmp_path) as disk:
            for _ in range(8):
                store = open_store(tmp_path, CLOCK)
                book.verify(store)
                picture(store)
                disk.fail(Kind.ANY, nth=chance.randrange(1, 150), lasting=True)
                with contextlib.suppress(sqlite3.Error):
                    while True:
                        operation = chance.choice((insert, acknowledge, shed, checkpoint, renew))
                        done = operation(store)
                        if operation is renew:
                            book.begin_anew(store)
                        book.note(store, done)
                disk.power_cut(None if seed is None else chance.randrange(2**32))
                let_go()
                disk.power_on()

    def test_with_synchronous_normal_the_same_loses_batches(self, prepared: Path, tmp_path: Path) -> None:
        """The control: without it a shim that does nothing would pass as well."""
        lost = 0
        for seed in (None, *range(1, 6)):
            shutil.copytree(prepared, tmp_path / str(seed))
            with Disk(tmp_path / str(seed)) as disk:
                store, book = opened(tmp_path / str(seed))
                store.db.execute("PRAGMA synchronous=NORMAL")
                for turn in range(10):
                    book.note(store, store.commit([gathered(ORDINARY, [turn])], []))
                disk.power_cut(seed)
                let_go()
                disk.power_on()
                again = open_store(tmp_path / str(seed), CLOCK)
                assert again.db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
                try:
                    book.verify(again)
                except AssertionError:
                    lost += 1
                let_go()
        assert lost >= 2
