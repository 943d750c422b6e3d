"""The outbox on disk: gap-free numbers, nothing forgotten before the centre has it, nothing lost unsaid."""

import random
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from drivers.database import NewerSchemaError, open_database, transaction
from edge.outbox.store import OutboxStore
from protocols.backhaul.messages import AlarmEvent, GapCause, GapEvent, LastEnd, StreamMark
from protocols.clock import EARLIEST_PLAUSIBLE_MS, ClockQuality
from protocols.model.alarm import AlarmType
from protocols.model.device import StreamClass
from protocols.model.ids import DeviceId
from tests.edge.bench import (
    BULK,
    EVENTS,
    NOON_MS,
    ORDINARY,
    HandClock,
    gaps_in,
    gathered,
    held,
    numbers_in,
    open_store,
)

DAY_S = 86_400
DATABASES = Path(__file__).parents[1] / "databases"
ALARM = AlarmEvent(DeviceId("lamp-01"), AlarmType.LAMP_FAILURE, NOON_MS, None, "")


def fill(store: OutboxStore, stream: StreamClass, count: int, text: str = "") -> None:
    for number in range(count):
        store.commit([gathered(stream, [number], text=text)], [])


def state(store: OutboxStore, stream: StreamClass = ORDINARY) -> tuple[int, int, int]:
    head = store.streams[stream].head()
    return head.mark, head.floor, head.next


def test_each_stream_is_numbered_from_one_without_gaps(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, ORDINARY, 3)
    done = store.commit([gathered(EVENTS, [], [ALARM]), gathered(ORDINARY, [3]), gathered(ORDINARY, [4])], [])
    assert [(one.stream, one.number) for one in done] == [(EVENTS, 1), (ORDINARY, 4), (ORDINARY, 5)]
    assert [batch.number for batch in held(tmp_path / "outbox.db")] == [1, 1, 2, 3, 4, 5]


def test_several_streams_share_one_transaction(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.commit([gathered(stream, [1]) for stream in StreamClass], [])
    figures = store.figures(0)
    assert (figures.commits, figures.batches, figures.readings) == (1, 4, 4)


def test_what_is_held_is_what_will_be_sent(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    done = store.commit([gathered(ORDINARY, [7, 8])], [])
    assert store.fetch(ORDINARY, 1, 10).batches == done
    assert numbers_in(held(tmp_path / "outbox.db")) == [7, 8]


def test_only_the_centre_s_mark_lets_go_and_only_up_to_it(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, ORDINARY, 5)
    fill(store, BULK, 2)
    store.commit([], [StreamMark(ORDINARY, 3)])
    assert [batch.number for batch in held(tmp_path / "outbox.db")] == [4, 5, 1, 2]
    assert state(store) == (3, 4, 6)
    assert store.figures(0).batches == 4


@pytest.mark.parametrize("mark", [0, 2, 3, 6, 99])
def test_an_old_mark_or_one_beyond_lets_nothing_go(tmp_path: Path, mark: int) -> None:
    store = open_store(tmp_path)
    fill(store, ORDINARY, 5)
    store.commit([], [StreamMark(ORDINARY, 3)])
    store.commit([], [StreamMark(ORDINARY, mark)])
    assert state(store) == (3, 4, 6)
    assert len(held(tmp_path / "outbox.db")) == 2


def test_epoch_numbers_and_what_waits_survive_reopening(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, ORDINARY, 5)
    store.commit([], [StreamMark(ORDINARY, 2)])
    epoch, figures = store.epoch, store.figures(0)
    store.end_run()
    again = open_store(tmp_path)
    assert again.epoch == epoch < 2**53
    assert state(again) == (2, 3, 6)
    assert again.figures(0).heads == figures.heads
    assert (again.figures(0).bytes, again.figures(0).readings) == (figures.bytes, 3)
    assert again.commit([gathered(ORDINARY, [9])], [])[0].number == 6


def test_two_outboxes_never_share_an_epoch(tmp_path: Path) -> None:
    folders = [tmp_path / str(n) for n in range(5)]
    for folder in folders:
        folder.mkdir()
    assert len({open_store(folder).epoch for folder in folders}) == 5


def crash_gap(store: OutboxStore) -> GapEvent:
    """Return what a start says of the ordinary stream."""
    (gap,) = [one for one in store.birth_events if one.stream is ORDINARY]
    return gap


class TestEndOfRun:
    def test_the_first_run_says_that_it_is_the_first(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)
        assert (store.last_end, store.birth_events) == (LastEnd.FIRST, [])

    def test_after_a_clean_end_nothing_is_missing(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)
        fill(store, ORDINARY, 1)
        store.end_run()
        again = open_store(tmp_path)
        assert (again.last_end, again.birth_events) == (LastEnd.CLEAN, [])

    def test_after_a_crash_a_gap_lies_between_the_last_seal_and_now(self, tmp_path: Path) -> None:
        clock = HandClock()
        store = open_store(tmp_path, clock)
        fill(store, ORDINARY, 1)
        sealed_ms = clock.utc_ms
        store.db.close()
        clock.advance(60)
        again = open_store(tmp_path, clock)
        assert again.last_end is LastEnd.CRASH
        assert crash_gap(again) == GapEvent(
            ORDINARY, GapCause.CRASH, sealed_ms, clock.utc_ms, None, epoch=store.epoch
        )

    def test_a_run_that_crashed_before_it_sealed_anything_does_not_own_the_week_before(
        self, tmp_path: Path
    ) -> None:
        clock = HandClock()
        store = open_store(tmp_path, clock)
        fill(store, ORDINARY, 1)
        store.end_run()
        clock.advance(7 * DAY_S)
        began_ms = clock.utc_ms
        open_store(tmp_path, clock).db.close()
        clock.advance(5)
        gap = crash_gap(open_store(tmp_path, clock))
        assert (gap.from_ms, gap.to_ms) == (began_ms, began_ms + 5000)

    def test_a_crash_right_after_a_start_hides_no_gap_of_the_crash_before(self, tmp_path: Path) -> None:
        clock = HandClock()
        store = open_store(tmp_path, clock)
        fill(store, ORDINARY, 1)
        sealed_ms = clock.utc_ms
        store.db.close()
        ends_ms = []
        for _ in range(3):
            clock.advance(60)
            ends_ms.append(clock.utc_ms)
            open_store(tmp_path, clock).db.close()
        gaps = [gap for gap in gaps_in(held(tmp_path / "outbox.db")) if gap.stream is ORDINARY]
        assert [(gap.from_ms, gap.to_ms) for gap in gaps] == [
            (sealed_ms, ends_ms[0]),
            (ends_ms[0], ends_ms[1]),
            (ends_ms[1], ends_ms[2]),
        ]

    def test_a_cold_clock_makes_no_gap_that_ends_before_it_begins(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)
        fill(store, ORDINARY, 1)
        store.db.close()
        cold = HandClock(utc_ms=5_000, quality=ClockQuality.UNSYNCHRONISED)
        gap = crash_gap(open_store(tmp_path, cold))
        assert gap.from_ms <= gap.to_ms


class TestBound:
    """A full buffer gives up the lowest class first, oldest first, and says exactly what went."""

    def big(self, store: OutboxStore, stream: StreamClass, first: int, count: int) -> None:
        """Commit batches of a thousand characters that do not compress."""
        for number in range(first, first + count):
            text = random.Random(number).randbytes(500).hex()
            store.commit([gathered(stream, [number], text=text)], [])

    def test_the_bound_holds_whatever_comes(self, tmp_path: Path) -> None:
        store = open_store(tmp_path, max_mb=0.1)
        for turn in range(40):
            self.big(store, BULK, turn * 10, 5)
            self.big(store, ORDINARY, turn * 10, 5)
            assert store.figures(0).bytes <= 100_000 + 2_000

    def test_the_lowest_class_goes_first_and_its_oldest_and_events_last(self, tmp_path: Path) -> None:
        store = open_store(tmp_path, max_mb=0.1)
        self.big(store, EVENTS, 0, 10)
        self.big(store, ORDINARY, 0, 10)
        self.big(store, BULK, 0, 200)
        assert state(store, EVENTS)[1] == state(store, ORDINARY)[1] == 1
        mark, floor, next_ = state(store, BULK)
        assert mark == 0
        assert 1 < floor < next_ == 201
        bulk = [batch.number for batch in held(tmp_path / "outbox.db") if batch.stream is BULK]
        assert bulk == list(range(floor, 201))

    def test_what_was_dropped_is_counted_exactly(self, tmp_path: Path) -> None:
        store = open_store(tmp_path, max_mb=0.1)
        self.big(store, BULK, 0, 300)
        batches = held(tmp_path / "outbox.db")
        gaps = gaps_in(batches)
        kept = sum(len(batch.columns.values) for batch in batches if batch.stream is BULK)
        assert sum(gap.count or 0 for gap in gaps) + kept == 300 == store.streams[BULK].taken
        assert store.figures(0).shed_readings == 300 - kept
        assert {gap.cause for gap in gaps} == {GapCause.SHED}
        following = 1
        for gap in gaps:
            assert (gap.stream, gap.first, gap.epoch) == (BULK, following, store.epoch)
            following = gap.last + 1
        assert following == state(store, BULK)[1]

    def test_a_batch_that_gives_way_at_once_is_not_told_as_committed(self, tmp_path: Path) -> None:
        store = open_store(tmp_path, max_mb=0.1)
        flood = [gathered(EVENTS, [n], text=random.Random(n).randbytes(500).hex()) for n in range(300)]
        done = store.commit([gathered(BULK, [1]), *flood], [])
        assert BULK not in [one.stream for one in done]
        assert min(one.number for one in done) == state(store, EVENTS)[1] > 1
        assert store.floors() == {stream: one.floor for stream, one in store.streams.items()}

    def test_numbers_go_on_above_the_floor(self, tmp_path: Path) -> None:
        store = open_store(tmp_path, max_mb=0.1)
        self.big(store, BULK, 0, 300)
        next_ = state(store, BULK)[2]
        store.end_run()
        assert open_store(tmp_path, max_mb=0.1).commit([gathered(BULK, [1])], [])[0].number == next_

    def test_what_is_too_old_goes_and_is_told(self, tmp_path: Path) -> None:
        clock = HandClock()
        store = open_store(tmp_path, clock, max_age_days=1)
        fill(store, ORDINARY, 3)
        clock.advance(2 * DAY_S)
        store.commit([gathered(ORDINARY, [4])], [])
        assert state(store) == (0, 4, 5)
        (gap,) = gaps_in(held(tmp_path / "outbox.db"))
        assert (gap.count, gap.first, gap.last, gap.from_ms) == (3, 1, 3, NOON_MS)

    def test_the_gap_begins_when_the_first_of_the_readings_was_taken(self, tmp_path: Path) -> None:
        """A reading may have waited for the whole sealing interval, and longer for a disk that refused."""
        clock = HandClock()
        store = open_store(tmp_path, clock, max_age_days=1)
        clock.advance(30)
        fill(store, ORDINARY, 3)
        clock.advance(2 * DAY_S)
        store.commit([gathered(ORDINARY, [4])], [])
        (gap,) = gaps_in(held(tmp_path / "outbox.db"))
        assert (gap.from_ms, gap.to_ms) == (NOON_MS, NOON_MS + 30_000)

    def test_a_clock_that_is_set_after_a_cold_start_does_not_age_what_was_taken_before(
        self, tmp_path: Path
    ) -> None:
        clock = HandClock(utc_ms=10_000, quality=ClockQuality.UNSYNCHRONISED)
        store = open_store(tmp_path, clock, max_age_days=1)
        fill(store, ORDINARY, 3)
        clock.utc_ms, clock.quality = EARLIEST_PLAUSIBLE_MS + 1000 * DAY_S * 1000, ClockQuality.SYNCHRONISED
        store.commit([gathered(ORDINARY, [4])], [])
        assert state(store) == (0, 1, 5)
        assert numbers_in(held(tmp_path / "outbox.db")) == [0, 1, 2, 4]


class TestDamage:
    def test_a_file_that_is_no_database_is_put_aside_and_every_stream_says_so(self, tmp_path: Path) -> None:
        path = tmp_path / "outbox.db"
        path.write_bytes(b"this is no database, whatever its name says" * 100)
        store = open_store(tmp_path)
        assert [(gap.stream, gap.cause, gap.count) for gap in gaps_in(held(path))] == [
            (stream, GapCause.CORRUPT, None) for stream in StreamClass
        ]
        assert (tmp_path / "outbox.db.damaged").read_bytes().startswith(b"this is no database")
        assert store.commit([gathered(ORDINARY, [1])], [])[0].number == 1

    def test_a_newer_schema_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)
        store.end_run()
        db = sqlite3.connect(tmp_path / "outbox.db")
        db.execute("PRAGMA user_version=99")
        db.close()
        before = (tmp_path / "outbox.db").read_bytes()
        with pytest.raises(NewerSchemaError, match="schema 99"):
            open_store(tmp_path)
        assert (tmp_path / "outbox.db").read_bytes() == before

    def test_a_batch_that_rotted_on_the_disk_becomes_a_counted_gap_and_the_stream_goes_on(
        self, tmp_path: Path
    ) -> None:
        store = open_store(tmp_path)
        store.commit([gathered(ORDINARY, range(4))], [])
        fill(store, ORDINARY, 2)
        rot(tmp_path, ORDINARY, 1)
        fetched = store.fetch(ORDINARY, 1, 10).batches
        assert [one.number for one in fetched] == [1, 2, 3]
        assert numbers_in(held(tmp_path / "outbox.db")) == [0, 1]
        (gap,) = gaps_in(held(tmp_path / "outbox.db"))  # told in the same transaction
        assert (gap.cause, gap.stream, gap.count, gap.first, gap.last) == (
            GapCause.CORRUPT,
            ORDINARY,
            4,
            1,
            1,
        )
        assert [(one.stream, one.number) for one in store.commit([], [])] == [(EVENTS, 1)]
        assert store.fetch(ORDINARY, 1, 10).batches == fetched
        assert len(gaps_in(held(tmp_path / "outbox.db"))) == 1
        assert store.figures(0).readings == 2


def rot(folder: Path, stream: StreamClass, number: int) -> None:
    db = sqlite3.connect(folder / "outbox.db")
    (sealed,) = db.execute(
        "SELECT sealed FROM batch WHERE stream = ? AND number = ?", (stream, number)
    ).fetchone()
    changed = bytearray(sealed)
    changed[len(changed) // 2] ^= 0x40
    db.execute(
        "UPDATE batch SET sealed = ? WHERE stream = ? AND number = ?", (bytes(changed), stream, number)
    )
    db.commit()
    db.close()


class TestRenewedEpoch:
    def test_nothing_is_lost_and_numbers_begin_anew(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)
        fill(store, ORDINARY, 6)
        fill(store, EVENTS, 2)
        store.commit([], [StreamMark(ORDINARY, 2)])
        before, taken = store.epoch, store.streams[ORDINARY].taken
        oldest_ms = store.figures(0).oldest_ms
        store.renew_epoch()
        batches = held(tmp_path / "outbox.db")
        assert {batch.epoch for batch in batches} == {store.epoch} != {before}
        assert [(b.stream, b.number) for b in batches] == [(EVENTS, 1), (EVENTS, 2)] + [
            (ORDINARY, n) for n in (1, 2, 3, 4)
        ]
        assert numbers_in(batches) == [0, 1, 2, 3, 4, 5]
        assert state(store) == (0, 1, 5)
        assert store.streams[ORDINARY].taken == taken
        assert store.figures(0).oldest_ms == oldest_ms
        weight = store.figures(0).bytes
        store.end_run()
        reopened = open_store(tmp_path)
        assert (reopened.epoch, state(reopened)) == (store.epoch, (0, 1, 5))
        assert reopened.figures(0).bytes == weight

    def test_a_batch_that_can_no_longer_be_read_becomes_a_gap_and_not_a_crash(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)
        fill(store, ORDINARY, 2)
        store.commit([gathered(ORDINARY, range(10, 15))], [])
        fill(store, ORDINARY, 1)
        rot(tmp_path, ORDINARY, 3)
        before = store.epoch
        store.renew_epoch()
        batches = held(tmp_path / "outbox.db")
        assert numbers_in(batches) == [0, 1, 0]
        (gap,) = gaps_in(batches)
        assert (gap.cause, gap.count, gap.first, gap.last, gap.epoch) == (GapCause.CORRUPT, 5, 3, 3, before)

    def test_a_renewal_that_fails_half_way_changes_nothing(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)
        fill(store, ORDINARY, 4)
        before, heads = store.epoch, store.figures(0).heads
        store.db.execute(
            "CREATE TRIGGER no BEFORE INSERT ON batch WHEN NEW.number = 3 BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        with pytest.raises(sqlite3.IntegrityError):
            store.renew_epoch()
        store.db.execute("DROP TRIGGER no")
        assert (store.epoch, store.figures(0).heads) == (before, heads)
        assert [batch.epoch for batch in held(tmp_path / "outbox.db")] == [before] * 4

    @pytest.mark.parametrize(
        ("mark", "digest", "expected"),
        [(0, "", False), (3, "", False), (3, "ffffffffffffffff", True), (6, "", True), (2, "", False)],
    )
    def test_a_mark_that_cannot_be_about_this_outbox_is_noticed(
        self, tmp_path: Path, mark: int, digest: str, expected: bool
    ) -> None:
        store = open_store(tmp_path)
        fill(store, ORDINARY, 5)
        assert store.disagrees(StreamMark(ORDINARY, mark, digest)) is expected

    def test_the_hash_of_what_was_let_go_is_remembered(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)
        fill(store, ORDINARY, 5)
        store.commit([], [StreamMark(ORDINARY, 5)])
        known = open_store(tmp_path).streams[ORDINARY].mark_hash
        assert not store.disagrees(StreamMark(ORDINARY, 5, known))
        assert store.disagrees(StreamMark(ORDINARY, 5, "0" * 16))


class TestFullDisk:
    def test_a_real_limit_on_the_file_leaves_the_connection_usable(self, tmp_path: Path) -> None:
        """The write-ahead log cannot grow any more, which is noticed at COMMIT only."""
        script = """
import resource, signal, sqlite3, sys
from pathlib import Path
from tests.edge.bench import ORDINARY, gathered, open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = open_store(Path(sys.argv[1]))
text = "".join(chr(33 + (i * i * 31 + i) % 90) for i in range(3000))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
done = failed = 0
for number in range(200):
    try:
        store.commit([gathered(ORDINARY, [number], text=text + str(number * number))], [])
        done += 1
    except sqlite3.Error:
        failed += 1
assert failed > 50, (done, failed)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.commit([gathered(ORDINARY, [1])], [])
print(done + 1, store.figures(0).batches)
"""
        ran = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        done, batches = map(int, ran.stdout.split())
        assert done == batches == len(held(tmp_path / "outbox.db"))
        assert [batch.number for batch in held(tmp_path / "outbox.db")] == list(range(1, done + 1))
        assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


class TestDatabase:
    def test_a_file_is_its_owner_s_alone(self, tmp_path: Path) -> None:
        open_database(tmp_path / "a.db", ()).close()
        assert (tmp_path / "a.db").stat().st_mode & 0o777 == 0o600

    def test_every_commit_is_synced(self, tmp_path: Path) -> None:
        db = open_database(tmp_path / "a.db", ())
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        db.close()

    def test_a_schema_change_that_fails_leaves_the_file_as_it_was(self, tmp_path: Path) -> None:
        first = ("CREATE TABLE a (x)",)
        open_database(tmp_path / "a.db", first).close()
        with pytest.raises(sqlite3.OperationalError):
            open_database(tmp_path / "a.db", (*first, "CREATE TABLE b (x); CREATE TABLE a (x)"))
        db = open_database(tmp_path / "a.db", (*first, "CREATE TABLE b (x)"))
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
        db.close()

    def test_a_transaction_happens_as_a_whole_or_not_at_all(self, tmp_path: Path) -> None:
        db = open_database(tmp_path / "a.db", ("CREATE TABLE a (x UNIQUE)",))
        with pytest.raises(sqlite3.IntegrityError), transaction(db):
            db.executemany("INSERT INTO a VALUES (?)", [(1,), (1,)])
        with transaction(db):
            db.execute("INSERT INTO a VALUES (2)")
        assert db.execute("SELECT x FROM a").fetchall() == [(2,)]
        db.close()


class TestMigration:
    def test_a_file_of_schema_1_opens_keeps_its_epoch_and_goes_on(self, tmp_path: Path) -> None:
        db = sqlite3.connect(tmp_path / "outbox.db")
        db.executescript((DATABASES / "outbox_v1.sql").read_text(encoding="utf-8"))
        db.close()
        store = open_store(tmp_path)
        assert store.epoch == 3_021_431_753_222_813
        assert store.last_end is LastEnd.CLEAN
        assert (state(store), state(store, EVENTS)) == ((2, 3, 7), (0, 1, 2))
        assert not store.disagrees(StreamMark(ORDINARY, 2, "b32a607188b9cab7"))
        assert [one.number for one in store.fetch(ORDINARY, 1, 10).batches] == [3, 4, 5, 6]
        assert numbers_in(held(tmp_path / "outbox.db")) == [7, 2, 3, 4, 5]
        assert store.commit([gathered(ORDINARY, [6])], [])[0].number == 7
        store.end_run()
        again = open_store(tmp_path)
        assert (again.epoch, again.figures(0).salvaged) == (store.epoch, None)
        for table in ("meta", "epoch", "stream", "batch"):
            unchecked = f"SELECT count(*) FROM {table} WHERE crc IS NULL"  # noqa: S608  our own names
            assert again.db.execute(unchecked).fetchone() == (0,)
