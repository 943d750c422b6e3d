"""The outbox on disk. Everything here runs in the thread that owns the database, or before it starts."""

import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import structlog

from drivers.database import is_readable, open_database, transaction
from edge.ballast import Ballast, reserve
from edge.config import OutboxSettings
from edge.outbox.ages import Ages
from edge.outbox.reports import joined
from protocols.backhaul.codec import batch_hash, columns, seal, unseal
from protocols.backhaul.messages import (
    VERSION,
    Batch,
    Event,
    GapCause,
    GapEvent,
    LastEnd,
    StreamHead,
    StreamMark,
)
from protocols.clock import Clock, ClockQuality, Correction
from protocols.errors import RemoteProtocolError
from protocols.model.device import StreamClass
from protocols.model.ids import CabinetId
from protocols.model.reading import Sample

log = structlog.get_logger()
SHED_SHARE = 0.02
"""How much of the bound is freed at once when it is reached, so that shedding is not done at each commit."""
SPARE_PAGES = 8
"""Below the bound: the outbox's own tables, and the splits of a tree that a batch goes into."""
REPORTS_KEPT = 1_000
"""Reports of gaps that are told again one by one: some 50 kB."""
GAPS_BYTES = 1024
"""What an event of each stream's shedding takes at most."""
LOOK_EVERY_MS = 10_000
"""How often the disk is asked how full it is, while something is committed."""
DAY_MS = 86_400_000
DAMAGED = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB"})
"""What SQLite says of a file that is no longer sound."""
LOOKS = 3
"""How often a file has to be found damaged: a read that failed once looks the same to SQLite's check."""

MIGRATIONS = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE stream (
        stream INTEGER PRIMARY KEY,
        next INTEGER NOT NULL,
        floor INTEGER NOT NULL,
        mark INTEGER NOT NULL,
        mark_hash TEXT NOT NULL,
        sealed_ms INTEGER NOT NULL,
        taken INTEGER NOT NULL
    );
    CREATE TABLE batch (
        stream INTEGER NOT NULL,
        number INTEGER NOT NULL,
        utc_ms INTEGER NOT NULL,
        readings INTEGER NOT NULL,
        hash TEXT NOT NULL,
        sealed BLOB NOT NULL,
        PRIMARY KEY (stream, number)
    ) WITHOUT ROWID;
    """,
)


class Sealed(msgspec.Struct, frozen=True):
    """A committed batch."""

    stream: StreamClass
    number: int
    sealed: bytes


class Fetched(msgspec.Struct, frozen=True):
    """Waiting batches of a stream, in order, and the lowest number that it still has."""

    batches: list[Sealed]
    floor: int


class StreamState(msgspec.Struct):
    """Where one stream is: `next` is the next batch's number, `floor` the lowest that can still be sent.

    `taken` counts the readings that were ever committed to this file, whatever became of them since.
    """

    stream: StreamClass
    next: int = 1
    floor: int = 1
    mark: int = 0
    mark_hash: str = ""
    sealed_ms: int = 0
    taken: int = 0

    def head(self) -> StreamHead:
        """Return it as a hello says it."""
        return StreamHead(self.stream, self.next, self.floor, self.mark, self.mark_hash)


class Weight(msgspec.Struct, frozen=True):
    """What waits, in sum. `oldest_ms` is None if nothing does."""

    batches: int
    readings: int
    bytes: int
    oldest_ms: int | None


class WaitingBatch(msgspec.Struct, frozen=True):
    """A batch that waits for the centre."""

    stream: str
    number: int
    utc_ms: int
    readings: int
    bytes: int


class OutboxFigures(msgspec.Struct, frozen=True):
    """How full the outbox is.

    Attributes:
        epoch: of all its numbers.
        batches: that wait for the centre.
        readings: in them.
        bytes: of them, as they are sent.
        used_bytes: of the file, without what is free in it.
        max_bytes: the bound of that.
        oldest_ms: UTC milliseconds of the oldest batch; None if there is none.
        heads: where each stream is.
        unsealed: readings and events that are not committed yet.
        committed_readings: since the agent started.
        shed_readings: dropped because the bound was reached, since the agent started.
        commits: transactions since the agent started.
        error: what the disk said last, "" if all is well.
        disk_full: whether something has filled the disk, so that the outbox does not grow.
    """

    epoch: int
    batches: int
    readings: int
    bytes: int
    used_bytes: int
    max_bytes: int
    oldest_ms: int | None
    heads: tuple[StreamHead, ...]
    unsealed: int = 0
    committed_readings: int = 0
    shed_readings: int = 0
    commits: int = 0
    error: str = ""
    disk_full: bool = False


class Gathered(msgspec.Struct, frozen=True):
    """What is to become one batch.

    Attributes:
        reaches_ms: for each stream, UTC milliseconds before which all that it took is sealed once this is committed;
            None if only this stream's is known, and only by the commit.
    """

    stream: StreamClass
    samples: Sequence[Sample]
    events: Sequence[Event]
    readings: int
    reaches_ms: Mapping[StreamClass, int] | None = None


Draw = Callable[[int], int]
"""Gives so many random bits."""
EPOCH_BITS = 52
"""Below 2^53, so that every JSON reader can hold an epoch."""


def weigh(db: sqlite3.Connection) -> Weight:
    """Return what waits in an outbox, in sum."""
    row = db.execute(
        "SELECT count(*), coalesce(sum(readings), 0), coalesce(sum(length(sealed)), 0), min(utc_ms)"
        " FROM batch"
    ).fetchone()
    return Weight(*row)


def pages(db: sqlite3.Connection) -> tuple[int, int]:
    """Return how many pages a database has, and how many of them are free."""
    return db.execute("PRAGMA page_count").fetchone()[0], db.execute("PRAGMA freelist_count").fetchone()[0]


def used_bytes(db: sqlite3.Connection) -> int:
    """Return what a database takes, without what is free in it."""
    all_pages, free_pages = pages(db)
    return (all_pages - free_pages) * page_bytes(db)


def page_bytes(db: sqlite3.Connection) -> int:
    """Return the size of a database's pages."""
    return int(db.execute("PRAGMA page_size").fetchone()[0])


def oldest_batches(db: sqlite3.Connection, limit: int) -> tuple[WaitingBatch, ...]:
    """Return the oldest batches that wait in an outbox."""
    rows = db.execute(
        "SELECT stream, number, utc_ms, readings, length(sealed) FROM batch ORDER BY utc_ms LIMIT ?", (limit,)
    )
    return tuple(WaitingBatch(StreamClass(row[0]).name.lower(), *row[1:]) for row in rows)


class OutboxStore:
    """The database's side: everything here runs in the database's thread, or before it starts.

    Attributes:
        good_ms: UTC milliseconds before which it cannot be: by it what waits becomes too old.
    """

    def __init__(  # noqa: PLR0917  what it is given is what it cannot know
        self,
        path: Path,
        cabinet: CabinetId,
        boot: str,
        clock: Clock,
        settings: OutboxSettings,
        ballast: Ballast | None = None,
        *,
        draw: Draw = secrets.randbits,
    ) -> None:
        self._draw = draw
        self._cabinet = cabinet
        self._boot = boot
        self._clock = clock
        self._max_bytes = round(settings.max_mb * 1e6)
        self._max_age_ms = round(settings.max_age_days * DAY_MS)
        self.good_ms: Callable[[], int] = lambda: clock.now().utc_ms
        self._path = path
        self._ballast = ballast
        self._aside: list[Sealed] = []
        self._again: list[GapEvent] = []
        self._ages = Ages()
        self.epoch = 0
        self.streams: dict[StreamClass, StreamState] = {}
        self.committed_readings = 0
        self.shed_readings = 0
        self.commits = 0
        self.error = ""
        self.db, corrupt = self._open()
        try:
            self._begin(corrupt)
        except BaseException:
            self.db.close()
            raise

    def figures(self, unsealed: int) -> OutboxFigures:
        """Return how full it is."""
        return OutboxFigures(
            epoch=self.epoch,
            batches=self._batches,
            readings=self._readings,
            bytes=self._bytes,
            used_bytes=used_bytes(self.db),
            max_bytes=self._bound_pages * self._page_bytes,
            oldest_ms=self._oldest_ms(),
            heads=tuple(state.head() for state in self.streams.values()),
            unsealed=unsealed,
            committed_readings=self.committed_readings,
            shed_readings=self.shed_readings,
            commits=self.commits,
            error=self.error,
            disk_full=self._ballast is not None and not self._ballast.held,
        )

    def commit(self, seals: Sequence[Gathered], marks: Iterable[StreamMark]) -> list[Sealed]:
        """Delete what is acknowledged and insert what waits, in one transaction.

        Returns:
            The new batches, without those that had to give way at once.

        Raises:
            sqlite3.Error: with nothing of it done, in memory as on disk.
        """
        if self._clock.now().monotonic_ms >= self._look_ms:
            self._look_at_disk()
        let_go = list(marks)
        try:
            return self._commit(seals, let_go)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_FULL":
                raise
        self._look_at_disk()
        return self._commit(seals, let_go)

    def _commit(self, seals: Sequence[Gathered], marks: Sequence[StreamMark]) -> list[Sealed]:
        self._again.clear()
        with self._all_or_nothing():
            for mark in marks:
                self._delete(mark)
            shed = self._shed_old()
            done = [self._take(one, shed) for one in seals]
            if seals:
                self._note_reach(seals[-1])
            if shed:
                self._make_room(StreamClass.EVENTS, GAPS_BYTES, shed)
            done = [*self._aside, *done, *self._insert_gaps([*_bounded(self._again), *shed.values()])]
        self._aside.clear()
        self.commits += 1
        return [one for one in done if one.number >= self.streams[one.stream].floor]

    def correct(self, correction: Correction) -> None:
        """Take note how what this boot has told until now is put right, for the age of what waits."""
        ages = self._ages.corrected(self._boot, correction, self.good_ms())
        with transaction(self.db):
            self._keep_ages(ages)
        self._ages = ages

    def floors(self) -> dict[StreamClass, int]:
        """Return for each stream the lowest number that can still be sent."""
        return {stream: state.floor for stream, state in self.streams.items()}

    def fetch(self, stream: StreamClass, first: int, limit: int) -> Fetched:
        """Return up to `limit` waiting batches of a stream, from number `first` on.

        A batch whose bytes have changed on the disk is replaced by an empty one of the same number, so that
        the centre can go on, and its readings are reported as a gap.
        """
        rows = self.db.execute(
            "SELECT number, sealed, hash FROM batch WHERE stream = ? AND number >= ? ORDER BY number LIMIT ?",
            (stream, first, limit),
        ).fetchall()
        return Fetched(
            [
                Sealed(
                    stream, number, sealed if batch_hash(sealed) == known else self._emptied(stream, number)
                )
                for number, sealed, known in rows
            ],
            self.streams[stream].floor,
        )

    def is_readable(self) -> bool:
        """Tell whether the disk gives all of the file's bytes."""
        return is_readable(self._path)

    def oldest(self, limit: int) -> tuple[WaitingBatch, ...]:
        """Return the oldest waiting batches."""
        return oldest_batches(self.db, limit)

    def disagrees(self, mark: StreamMark) -> bool:
        """Tell whether a centre's mark cannot be about what this outbox sent: a restored or cloned card."""
        state = self.streams[mark.stream]
        if mark.mark >= state.next:
            return True
        known = state.mark_hash if mark.mark == state.mark else self._hash(mark.stream, mark.mark)
        return bool(mark.hash and known and mark.hash != known)

    def renew_epoch(self) -> None:
        """Open a new epoch: what still waits is sealed again under new numbers, so that nothing is lost.

        One batch after another, because all that waits may be far more than memory. A new number is never
        above the old one, so none is taken yet. What can no longer be read is reported as a gap.
        """
        with self._all_or_nothing():
            before, self.epoch = self.epoch, self._random_epoch()
            self._set("epoch", self.epoch)
            self.streams = {
                stream: StreamState(stream, sealed_ms=state.sealed_ms, taken=state.taken)
                for stream, state in self.streams.items()
            }
            gaps = [gap for stream in StreamClass for gap in self._reseal_stream(stream, before)]
            waiting = weigh(self.db)
            self._bytes, self._batches, self._readings = waiting.bytes, waiting.batches, waiting.readings
            self._insert_gaps(gaps)
        log.warning("epoch_renewed", epoch=self.epoch, batches=self._batches, unreadable=len(gaps))

    def end_run(self) -> None:
        """Remember that this run ended as it should, and close."""
        with transaction(self.db):
            self._set("running", "")
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.db.close()

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Run a transaction; if it fails, what is remembered goes back as the disk does."""
        streams = {key: msgspec.structs.replace(state) for key, state in self.streams.items()}
        remembered = (self.epoch, self._bytes, self._batches, self._readings)
        counted = (self.shed_readings, self.committed_readings)
        ages = self._ages
        try:
            with transaction(self.db):
                yield
        except BaseException:
            self.streams = streams
            self.epoch, self._bytes, self._batches, self._readings = remembered
            self.shed_readings, self.committed_readings = counted
            self._ages = ages
            raise

    def _open(self) -> tuple[sqlite3.Connection, Path | None]:
        found = ""
        for _ in range(LOOKS):
            db, found = self._look()
            if db is not None:
                return db, None
        aside = self._path.with_name(f"{self._path.name}.damaged-{self._clock.now().utc_ms}")
        for suffix in ("", "-wal", "-shm"):
            damaged = self._path.with_name(self._path.name + suffix)
            if damaged.exists():
                damaged.rename(aside.with_name(aside.name + suffix))
        log.error("outbox_damaged", found=found, kept=str(aside))
        return open_database(self._path, MIGRATIONS), aside

    def _look(self) -> tuple[sqlite3.Connection | None, str]:
        """Open the file if it is sound; otherwise say what was found."""
        try:
            db = open_database(self._path, MIGRATIONS)
            try:
                found = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
                if found == "ok":
                    return db, ""
            except BaseException:
                db.close()
                raise
            db.close()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorname not in DAMAGED:
                raise
            found = str(error)
        return None, found

    def _begin(self, corrupt: Path | None) -> None:
        self._page_bytes = page_bytes(self.db)
        self._most_pages = self._bound_pages = self._max_bytes // self._page_bytes
        self._look_ms = 0
        self._look_at_disk()
        if self._ballast is not None:
            reserve(self._path.with_name(f"{self._path.name}-wal"))
        self.epoch = self._epoch()
        self.streams = self._streams()
        self._ages = self._read_ages()
        waiting = weigh(self.db)
        self._bytes, self._batches, self._readings = waiting.bytes, waiting.batches, waiting.readings
        self.last_end = self._last_end()
        self._run_before_began_ms = self._number("run_began_ms")
        self.birth_events = self._birth_events(corrupt)
        with self._all_or_nothing():
            self._set("running", self._boot)
            self._set("run_began_ms", self._clock.now().utc_ms)
            self._insert_gaps(self.birth_events)

    def _epoch(self) -> int:
        if epoch := self._number("epoch"):
            return epoch
        epoch = self._random_epoch()
        with transaction(self.db):
            self._set("epoch", epoch)
            for stream in StreamClass:
                self._save(StreamState(stream))
        return epoch

    def _random_epoch(self) -> int:
        """Return a new epoch: random, so that no two cards share one."""
        return self._draw(EPOCH_BITS) | 1

    def _streams(self) -> dict[StreamClass, StreamState]:
        rows = self.db.execute("SELECT stream, next, floor, mark, mark_hash, sealed_ms, taken FROM stream")
        return {StreamClass(row[0]): StreamState(StreamClass(row[0]), *row[1:]) for row in rows}

    def _last_end(self) -> LastEnd:
        row = self.db.execute("SELECT value FROM meta WHERE key = 'running'").fetchone()
        if row is None:
            return LastEnd.FIRST
        return LastEnd.CRASH if row[0] else LastEnd.CLEAN

    def _birth_events(self, corrupt: Path | None) -> list[GapEvent]:
        """Say what this start already knows to be missing.

        It is committed together with the beginning of the run: a second crash would hide the first one's gap.
        """
        now_ms = self._clock.now().utc_ms
        if corrupt is not None:
            return [GapEvent(stream, GapCause.CORRUPT, 0, now_ms, None) for stream in StreamClass]
        if self.last_end is not LastEnd.CRASH:
            return []
        return [self._crash_gap(state, now_ms) for state in self.streams.values()]

    def _crash_gap(self, state: StreamState, now_ms: int) -> GapEvent:
        """Say between when the run that crashed may have taken what it did not seal.

        Every stream has such a gap: nobody knows what had just begun to be read.
        """
        from_ms = max(map(self._ages.best_ms, (state.sealed_ms, self._run_before_began_ms)))
        to_ms = max(now_ms, from_ms)  # a cold clock may be behind
        return GapEvent(state.stream, GapCause.CRASH, from_ms, to_ms, None, epoch=self.epoch)

    def _take(self, one: Gathered, shed: dict[StreamClass, GapEvent]) -> Sealed:
        """Insert a batch and make room for it; it is itself shed if only higher classes could give way."""
        batch = self._new_batch(one)
        sealed = seal(batch)
        if not self._make_room(batch.stream, len(sealed), shed):
            self._give_way(batch, one.readings, shed)
        else:
            self._insert(batch, sealed, one.readings)
        return Sealed(batch.stream, batch.number, sealed)

    def _insert(self, batch: Batch, sealed: bytes, readings: int) -> Sealed:
        now = self._clock.now()
        if now.quality is ClockQuality.UNSYNCHRONISED and not self._ages.is_open(self._boot):
            self._ages = self._ages.opened(self._boot, now.utc_ms)
            self._keep_ages(self._ages)
        self._write(batch, sealed, readings, now.utc_ms)
        self._save(self._use_number(batch, readings))
        self._bytes += len(sealed)
        self._batches += 1
        self._readings += readings
        return Sealed(batch.stream, batch.number, sealed)

    def _give_way(self, batch: Batch, readings: int, shed: dict[StreamClass, GapEvent]) -> None:
        """Count a batch as shed that never was in the file; nothing else of its stream is."""
        now_ms = self._clock.now().utc_ms
        state = self._use_number(batch, readings)
        state.floor = state.next
        self._save(state)
        gap = GapEvent(
            state.stream,
            GapCause.SHED,
            now_ms,
            now_ms,
            readings,
            first=batch.number,
            last=batch.number,
            epoch=self.epoch,
        )
        self._note_shed(gap, shed)

    def _use_number(self, batch: Batch, readings: int) -> StreamState:
        """Take note that a stream's next number is used."""
        state = self.streams[batch.stream]
        state.next = batch.number + 1
        state.taken += readings
        self.committed_readings += readings
        return state

    def _note_reach(self, one: Gathered) -> None:
        """Remember up to when all is sealed, of every stream: one that seals rarely shall not seem to miss hours."""
        reaches_ms = one.reaches_ms or {one.stream: self._clock.now().utc_ms}
        for stream, until_ms in reaches_ms.items():
            state = self.streams[stream]
            state.sealed_ms = until_ms
            self._save(state)

    def _new_batch(self, one: Gathered) -> Batch:
        now = self._clock.now()
        base_ms = one.samples[0].monotonic_ms if one.samples else now.monotonic_ms
        return Batch(
            version=VERSION,
            cabinet=self._cabinet,
            epoch=self.epoch,
            stream=one.stream,
            number=self.streams[one.stream].next,
            boot=self._boot,
            base_monotonic_ms=base_ms,
            utc_offset_ms=now.utc_ms - now.monotonic_ms,
            clock=now.quality,
            columns=columns(one.samples, base_ms),
            events=tuple(one.events),
        )

    def _write(self, batch: Batch, sealed: bytes, readings: int, utc_ms: int) -> None:
        self.db.execute(
            "INSERT OR REPLACE INTO batch (stream, number, utc_ms, readings, hash, sealed)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (batch.stream, batch.number, utc_ms, readings, batch_hash(sealed), sealed),
        )

    def _reseal_stream(self, stream: StreamClass, before: int) -> Iterator[GapEvent]:
        """Seal what waits of a stream again under this epoch; yield what can no longer be read."""
        rows = self.db.execute(
            "SELECT number FROM batch WHERE stream = ? ORDER BY number", (stream,)
        ).fetchall()
        for (number,) in rows:
            utc_ms, readings, sealed = self.db.execute(
                "SELECT utc_ms, readings, sealed FROM batch WHERE stream = ? AND number = ?", (stream, number)
            ).fetchone()
            self.db.execute("DELETE FROM batch WHERE stream = ? AND number = ?", (stream, number))
            try:
                batch = unseal(sealed)
            except RemoteProtocolError as error:
                log.error("batch_unreadable", stream=stream.name.lower(), number=number, error=str(error))
                yield _corrupt(stream, number, readings, utc_ms, before)
            else:
                renewed = self._renumbered(batch)
                self._write(renewed, seal(renewed), readings, utc_ms)
        self._save(self.streams[stream])

    def _renumbered(self, batch: Batch) -> Batch:
        state = self.streams[batch.stream]
        renewed = msgspec.structs.replace(batch, epoch=self.epoch, number=state.next)
        state.next += 1
        return renewed

    def _emptied(self, stream: StreamClass, number: int) -> bytes:
        """Put an empty batch in the place of one that can no longer be read, and tell of it, in one transaction."""
        now_ms = self._clock.now().utc_ms
        empty = msgspec.structs.replace(self._new_batch(Gathered(stream, (), (), 0)), number=number)
        utc_ms, readings, size = self.db.execute(
            "SELECT utc_ms, readings, length(sealed) FROM batch WHERE stream = ? AND number = ?",
            (stream, number),
        ).fetchone()
        with self._all_or_nothing():
            sealed = seal(empty)
            self._write(empty, sealed, 0, now_ms)
            self._bytes += len(sealed) - size
            self._readings -= readings
            told = self._insert_gaps([_corrupt(stream, number, readings, utc_ms, self.epoch)])
        self._aside += told
        log.error("batch_unreadable", stream=stream.name.lower(), number=number)
        return sealed

    def _delete(self, mark: StreamMark) -> None:
        state = self.streams[mark.stream]
        if mark.mark <= state.mark or mark.mark >= state.next:
            return
        state.mark_hash = self._hash(mark.stream, mark.mark) or mark.hash
        state.mark = mark.mark
        self._drop(state, mark.mark)
        self._save(state)

    def _drop(self, state: StreamState, last: int) -> tuple[int, int, int]:
        """Delete a stream's batches up to `last`; return how many, their readings, and the oldest moment."""
        size, batches, readings, oldest = self.db.execute(
            "SELECT coalesce(sum(length(sealed)), 0), count(*), coalesce(sum(readings), 0), min(utc_ms)"
            " FROM batch WHERE stream = ? AND number <= ?",
            (state.stream, last),
        ).fetchone()
        self.db.execute("DELETE FROM batch WHERE stream = ? AND number <= ?", (state.stream, last))
        self._bytes -= size
        self._batches -= batches
        self._readings -= readings
        state.floor = max(state.floor, last + 1)
        return batches, readings, oldest or 0

    def _look_at_disk(self) -> None:
        """Learn how far the file may grow: to its bound, and no further than a disk that fills up leaves room.

        Once the ballast is given away, its room lets what is in the write-ahead log come into the file, so that
        from then on the log's own blocks are enough.
        """
        self._look_ms = self._clock.now().monotonic_ms + LOOK_EVERY_MS
        if self._ballast is None:
            most_pages = self._bound_pages
        else:
            held, room_bytes = self._ballast.held, self._ballast.look()
            if held and not self._ballast.held:
                self.db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            most_pages = min(self._bound_pages, pages(self.db)[0] + room_bytes // self._page_bytes)
        self._most_pages = most_pages
        self.db.execute(f"PRAGMA max_page_count={most_pages}").fetchone()

    def _make_room(self, stream: StreamClass, size: int, shed: dict[StreamClass, GapEvent]) -> bool:
        """Drop the oldest of the lowest class until so many bytes fit below the bound; add what went to `shed`.

        Returns:
            Whether they fit without taking from a class above `stream`.
        """
        fitting = self._most_pages - SPARE_PAGES - _pages_of(size, self._page_bytes)
        # the event that tells of a gap costs no more than itself
        share = 0 if stream is StreamClass.EVENTS else SHED_SHARE
        while (excess := self._used_pages() - fitting) > 0:
            goal = round((excess + share * self._most_pages) * self._page_bytes)
            lowest = self._lowest()
            if lowest is None:
                return excess <= SPARE_PAGES
            if lowest.stream < stream:
                return False
            self._shed_stream(lowest, self._last_within(lowest.stream, goal), shed)
        return True

    def _used_pages(self) -> int:
        all_pages, free_pages = pages(self.db)
        return all_pages - free_pages

    def _lowest(self) -> StreamState | None:
        """Return the lowest class of which something waits."""
        for stream in reversed(StreamClass):
            found = self.db.execute("SELECT 1 FROM batch WHERE stream = ? LIMIT 1", (stream,)).fetchone()
            if found:
                return self.streams[stream]
        return None

    def _last_within(self, stream: StreamClass, goal: int) -> int:
        """Return up to which number a stream's oldest batches are so many bytes; looks no further."""
        last = 0
        with closing(
            self.db.execute(
                "SELECT number, length(sealed) FROM batch WHERE stream = ? ORDER BY number", (stream,)
            )
        ) as rows:
            for number, size in rows:
                last = int(number)
                goal -= size
                if goal <= 0:
                    break
        return last

    def _shed_old(self) -> dict[StreamClass, GapEvent]:
        """Drop what has waited for too long, and say what went.

        A batch that was sealed before the clock was set has no age that can be known, so it is not too old. Ages
        count from a time before which it cannot be: a clock that leaps ahead drops nothing.
        """
        shed: dict[StreamClass, GapEvent] = {}
        horizon_ms = self.good_ms() - self._max_age_ms
        ages = self._ages.without_old(horizon_ms)
        for stream in StreamClass:
            last = self._last_before(stream, horizon_ms, ages)
            if last:
                self._shed_stream(self.streams[stream], last, shed)
        return shed

    def _last_before(self, stream: StreamClass, horizon_ms: int, ages: Ages) -> int:
        last = 0
        with closing(
            self.db.execute("SELECT number, utc_ms FROM batch WHERE stream = ? ORDER BY number", (stream,))
        ) as rows:
            for number, utc_ms in rows:
                sealed_ms = ages.true_ms(utc_ms)
                if sealed_ms is None or sealed_ms >= horizon_ms:
                    break
                last = int(number)
        return last

    def _shed_stream(self, state: StreamState, last: int, shed: dict[StreamClass, GapEvent]) -> None:
        """Drop a stream's batches up to `last`, and add them to what of it was shed in this transaction."""
        first = state.floor
        to_ms = self.db.execute(
            "SELECT utc_ms FROM batch WHERE stream = ? AND number = ?", (state.stream, last)
        ).fetchone()[0]
        self._again += self._reports_in(state.stream, last)
        batches, readings, from_ms = self._drop(state, last)
        self._save(state)
        log.warning("shed", stream=state.stream.name.lower(), batches=batches, readings=readings)
        from_ms, to_ms = sorted(map(self._ages.best_ms, (from_ms, to_ms)))
        gap = GapEvent(
            state.stream, GapCause.SHED, from_ms, to_ms, readings, first=first, last=last, epoch=self.epoch
        )
        self._note_shed(gap, shed)

    def _reports_in(self, stream: StreamClass, last: int) -> list[GapEvent]:
        """Return the reports of gaps in what is about to be dropped: untold, a hole would be silent."""
        if stream is not StreamClass.EVENTS:
            return []
        rows = self.db.execute(
            "SELECT sealed FROM batch WHERE stream = ? AND number <= ? ORDER BY number", (stream, last)
        )
        return [gap for (sealed,) in rows for gap in _gaps_in(sealed)]

    def _note_shed(self, gap: GapEvent, shed: dict[StreamClass, GapEvent]) -> None:
        self.shed_readings += gap.count or 0
        shed[gap.stream] = _joined(shed.get(gap.stream), gap)

    def _insert_gaps(self, gaps: list[GapEvent]) -> list[Sealed]:
        if not gaps:
            return []
        batch = self._new_batch(Gathered(StreamClass.EVENTS, (), gaps, 0))
        return [self._insert(batch, seal(batch), 0)]

    def _read_ages(self) -> Ages:
        """Return what earlier runs knew of the times in here; boots other than this one tell no more."""
        row = self.db.execute("SELECT value FROM meta WHERE key = 'ages'").fetchone()
        if row is None:
            return Ages()
        newest = (self._newest_ms(stream) for stream in self.streams)
        last_ms = max([*newest, *(state.sealed_ms for state in self.streams.values())], default=0)
        kept = msgspec.json.decode(row[0], type=Ages)
        ages = kept.ended(self._boot, last_ms, self._clock.now().utc_ms)
        if ages != kept:
            with transaction(self.db):
                self._keep_ages(ages)
        return ages

    def _keep_ages(self, ages: Ages) -> None:
        kept = ages.without_old(self.good_ms() - self._max_age_ms)
        self._set("ages", msgspec.json.encode(kept).decode())

    def _newest_ms(self, stream: StreamClass) -> int:
        """Return when the last batch that waits of a stream was committed, as it was told then; 0 if none does."""
        row = self.db.execute(
            "SELECT utc_ms FROM batch WHERE stream = ? ORDER BY number DESC LIMIT 1", (stream,)
        ).fetchone()
        return int(row[0]) if row else 0

    def _oldest_ms(self) -> int | None:
        heads = [
            self.db.execute(
                "SELECT utc_ms FROM batch WHERE stream = ? ORDER BY number LIMIT 1", (stream,)
            ).fetchone()
            for stream in StreamClass
        ]
        return min((head[0] for head in heads if head), default=None)

    def _number(self, key: str) -> int:
        row = self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return int(row[0]) if row else 0

    def _hash(self, stream: StreamClass, number: int) -> str:
        row = self.db.execute(
            "SELECT hash FROM batch WHERE stream = ? AND number = ?", (stream, number)
        ).fetchone()
        return str(row[0]) if row else ""

    def _save(self, state: StreamState) -> None:
        self.db.execute(
            "INSERT OR REPLACE INTO stream (stream, next, floor, mark, mark_hash, sealed_ms, taken)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                state.stream,
                state.next,
                state.floor,
                state.mark,
                state.mark_hash,
                state.sealed_ms,
                state.taken,
            ),
        )

    def _set(self, key: str, value: str | int) -> None:
        self.db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))


def _joined(earlier: GapEvent | None, gap: GapEvent) -> GapEvent:
    """Return as one gap what was shed of a stream in one transaction; one follows the other."""
    if earlier is None:
        return gap
    return msgspec.structs.replace(
        earlier,
        from_ms=min(earlier.from_ms, gap.from_ms),
        to_ms=max(earlier.to_ms, gap.to_ms),
        count=(earlier.count or 0) + (gap.count or 0),
        last=gap.last,
    )


def _bounded(gaps: list[GapEvent]) -> list[GapEvent]:
    """Return the reports as they were, so that the centre knows those that came already; too many are joined."""
    return gaps if len(gaps) <= REPORTS_KEPT else joined(gaps)


def _gaps_in(sealed: bytes) -> list[GapEvent]:
    try:
        return [event for event in unseal(sealed).events if isinstance(event, GapEvent)]
    except RemoteProtocolError:
        return []  # it could not have been told any more


def _pages_of(size: int, page_bytes: int) -> int:
    return size // page_bytes + 1


def _corrupt(stream: StreamClass, number: int, readings: int, utc_ms: int, epoch: int) -> GapEvent:
    return GapEvent(
        stream, GapCause.CORRUPT, utc_ms, utc_ms, readings, first=number, last=number, epoch=epoch
    )
