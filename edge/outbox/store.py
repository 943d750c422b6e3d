"""The outbox on disk. Everything here runs in the thread that owns the database, or before it starts."""

import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import structlog

from drivers.database import open_database, transaction
from edge.clock import EARLIEST_PLAUSIBLE_MS
from edge.config import OutboxSettings
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
from protocols.clock import Clock, ClockQuality
from protocols.errors import RemoteProtocolError
from protocols.model.device import StreamClass
from protocols.model.ids import CabinetId
from protocols.model.reading import Sample

log = structlog.get_logger()
SHED_SHARE = 0.02
"""How much of the bound is freed at once when it is reached, so that shedding is not done at each commit."""
DAY_MS = 86_400_000
DAMAGED = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB"})
"""What SQLite says of a file that is no longer sound."""

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
        bytes: of them.
        max_bytes: the bound.
        oldest_ms: UTC milliseconds of the oldest batch; None if there is none.
        heads: where each stream is.
        unsealed: readings and events that are not committed yet.
        committed_readings: since the agent started.
        shed_readings: dropped because the bound was reached, since the agent started.
        commits: transactions since the agent started.
        error: what the disk said last, "" if all is well.
    """

    epoch: int
    batches: int
    readings: int
    bytes: int
    max_bytes: int
    oldest_ms: int | None
    heads: tuple[StreamHead, ...]
    unsealed: int = 0
    committed_readings: int = 0
    shed_readings: int = 0
    commits: int = 0
    error: str = ""


class Gathered(msgspec.Struct, frozen=True):
    """What is to become one batch.

    Attributes:
        stream: of which.
        samples: in the order in which they were taken.
        events: the same.
        readings: in the samples.
        closed_ms: UTC milliseconds when nothing could be added any more, which a slow disk makes earlier than
            its commit: what is taken later may go with a crash; None for now.
    """

    stream: StreamClass
    samples: Sequence[Sample]
    events: Sequence[Event]
    readings: int
    closed_ms: int | None = None


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


def oldest_batches(db: sqlite3.Connection, limit: int) -> tuple[WaitingBatch, ...]:
    """Return the oldest batches that wait in an outbox."""
    rows = db.execute(
        "SELECT stream, number, utc_ms, readings, length(sealed) FROM batch ORDER BY utc_ms LIMIT ?", (limit,)
    )
    return tuple(WaitingBatch(StreamClass(row[0]).name.lower(), *row[1:]) for row in rows)


class OutboxStore:
    """The database's side: everything here runs in the database's thread, or before it starts."""

    def __init__(
        self,
        path: Path,
        cabinet: CabinetId,
        boot: str,
        clock: Clock,
        settings: OutboxSettings,
        *,
        draw: Draw = secrets.randbits,
    ) -> None:
        self._draw = draw
        self._cabinet = cabinet
        self._boot = boot
        self._clock = clock
        self._max_bytes = round(settings.max_mb * 1e6)
        self._max_age_ms = round(settings.max_age_days * DAY_MS)
        self._path = path
        self.db, corrupt = self._open()
        self.epoch = self._epoch()
        self.streams = self._streams()
        self._run_before_began_ms = self._number("run_began_ms")
        self._run_began_ms = clock.now().utc_ms
        self._run_is_known = False
        self.last_end = self._begin_run()
        waiting = weigh(self.db)
        self._bytes, self._batches, self._readings = waiting.bytes, waiting.batches, waiting.readings
        self.committed_readings = 0
        self.shed_readings = 0
        self.commits = 0
        self.error = ""
        self._untold: list[GapEvent] = []
        self.birth_events = self._birth_events(corrupt)

    def figures(self, unsealed: int) -> OutboxFigures:
        """Return how full it is."""
        return OutboxFigures(
            epoch=self.epoch,
            batches=self._batches,
            readings=self._readings,
            bytes=self._bytes,
            max_bytes=self._max_bytes,
            oldest_ms=self._oldest_ms(),
            heads=tuple(state.head() for state in self.streams.values()),
            unsealed=unsealed,
            committed_readings=self.committed_readings,
            shed_readings=self.shed_readings,
            commits=self.commits,
            error=self.error,
        )

    def commit(self, seals: Sequence[Gathered], marks: Iterable[StreamMark]) -> list[Sealed]:
        """Delete what is acknowledged and insert what waits, in one transaction.

        Returns:
            The new batches, without those that had to give way at once.

        Raises:
            sqlite3.Error: with nothing of it done, in memory as on disk.
        """
        with self._all_or_nothing():
            if not self._run_is_known:
                self._set("run_began_ms", self._run_began_ms)
            for mark in marks:
                self._delete(mark)
            done = [self._insert(one) for one in seals]
            done += self._insert_gaps([*self._untold, *self._shed()])
        self._untold.clear()
        self._run_is_known = True
        self.commits += 1
        return [one for one in done if one.number >= self.streams[one.stream].floor]

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
        try:
            with transaction(self.db):
                yield
        except BaseException:
            self.streams = streams
            self.epoch, self._bytes, self._batches, self._readings = remembered
            self.shed_readings, self.committed_readings = counted
            raise

    def _open(self) -> tuple[sqlite3.Connection, Path | None]:
        try:
            db = open_database(self._path, MIGRATIONS)
            try:
                found = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
                if found == "ok":
                    return db, None
            except BaseException:
                db.close()
                raise
            db.close()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorname not in DAMAGED:
                raise
            found = str(error)
        aside = self._path.with_name(f"{self._path.name}.damaged-{self._clock.now().utc_ms}")
        for suffix in ("", "-wal", "-shm"):
            damaged = self._path.with_name(self._path.name + suffix)
            if damaged.exists():
                damaged.rename(aside.with_name(aside.name + suffix))
        log.error("outbox_damaged", found=found, kept=str(aside))
        return open_database(self._path, MIGRATIONS), aside

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

    def _begin_run(self) -> LastEnd:
        """Note that a run has begun, and return how the one before it ended.

        After a crash the moment is noted with the first commit only, which holds the report of that crash: if
        this run crashes before, the next one has to report both.
        """
        row = self.db.execute("SELECT value FROM meta WHERE key = 'running'").fetchone()
        end = LastEnd.FIRST if row is None else LastEnd.CRASH if row[0] else LastEnd.CLEAN
        with transaction(self.db):
            self._set("running", self._boot)
            if end is not LastEnd.CRASH:
                self._set("run_began_ms", self._run_began_ms)
        return end

    def _birth_events(self, corrupt: Path | None) -> list[Event]:
        """Say what this start already knows to be missing."""
        now_ms = self._clock.now().utc_ms
        if corrupt is not None:
            return [GapEvent(stream, GapCause.CORRUPT, 0, now_ms, None) for stream in StreamClass]
        if self.last_end is not LastEnd.CRASH:
            return []
        return [self._crash_gap(state, now_ms) for state in self.streams.values()]

    def _crash_gap(self, state: StreamState, now_ms: int) -> GapEvent:
        """Say between when something may be missing: since the last seal of the run that crashed, until now.

        A stream of which nothing was ever sealed may have lost its first readings.
        """
        from_ms = max(state.sealed_ms, self._run_before_began_ms)
        to_ms = max(now_ms, from_ms)  # a cold clock may be behind
        return GapEvent(state.stream, GapCause.CRASH, from_ms, to_ms, None, epoch=self.epoch)

    def _insert(self, one: Gathered) -> Sealed:
        batch = self._new_batch(one)
        now_ms = self._clock.now().utc_ms
        sealed = self._write(batch, one.readings, now_ms)
        state = self.streams[batch.stream]
        state.next = batch.number + 1
        state.sealed_ms = now_ms if one.closed_ms is None else one.closed_ms
        state.taken += one.readings
        self._save(state)
        self.committed_readings += one.readings
        self._bytes += len(sealed)
        self._batches += 1
        self._readings += one.readings
        return Sealed(batch.stream, batch.number, sealed)

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
            utc_offset_ms=None
            if now.quality is ClockQuality.UNSYNCHRONISED
            else now.utc_ms - now.monotonic_ms,
            clock=now.quality,
            columns=columns(one.samples, base_ms),
            events=tuple(one.events),
        )

    def _write(self, batch: Batch, readings: int, utc_ms: int) -> bytes:
        sealed = seal(batch)
        self.db.execute(
            "INSERT OR REPLACE INTO batch (stream, number, utc_ms, readings, hash, sealed)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (batch.stream, batch.number, utc_ms, readings, batch_hash(sealed), sealed),
        )
        return sealed

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
                self._write(self._renumbered(batch), readings, utc_ms)
        self._save(self.streams[stream])

    def _renumbered(self, batch: Batch) -> Batch:
        state = self.streams[batch.stream]
        renewed = msgspec.structs.replace(batch, epoch=self.epoch, number=state.next)
        state.next += 1
        return renewed

    def _emptied(self, stream: StreamClass, number: int) -> bytes:
        """Put an empty batch in the place of one that can no longer be read, and remember to tell of it."""
        now_ms = self._clock.now().utc_ms
        empty = msgspec.structs.replace(self._new_batch(Gathered(stream, (), (), 0)), number=number)
        utc_ms, readings, size = self.db.execute(
            "SELECT utc_ms, readings, length(sealed) FROM batch WHERE stream = ? AND number = ?",
            (stream, number),
        ).fetchone()
        with self._all_or_nothing():
            sealed = self._write(empty, 0, now_ms)
            self._bytes += len(sealed) - size
            self._readings -= readings
        log.error("batch_unreadable", stream=stream.name.lower(), number=number)
        self._untold.append(_corrupt(stream, number, readings, utc_ms, self.epoch))
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

    def _shed(self) -> list[GapEvent]:
        """Drop the oldest of the lowest class while the buffer is too full or too old, and say what went."""
        gaps = []
        horizon_ms = self._clock.now().utc_ms - self._max_age_ms
        for stream in reversed(StreamClass):
            last = self._last_to_shed(stream, self._bytes - self._max_bytes, horizon_ms)
            if last:
                gaps += self._reports_in(stream, last)
                gaps.append(self._shed_stream(self.streams[stream], last))
        return joined(gaps)

    def _reports_in(self, stream: StreamClass, last: int) -> list[GapEvent]:
        """Return the reports of gaps in what is about to be dropped: untold, a hole would be silent."""
        if stream is not StreamClass.EVENTS:
            return []
        rows = self.db.execute(
            "SELECT sealed FROM batch WHERE stream = ? AND number <= ? ORDER BY number", (stream, last)
        )
        return [gap for (sealed,) in rows for gap in _gaps_in(sealed)]

    def _last_to_shed(self, stream: StreamClass, excess: int, horizon_ms: int) -> int:
        """Return the number up to which a stream gives way, 0 for none; looks no further than it must.

        A batch that was sealed before the clock was set has no age that can be known, so it is not too old.
        """
        goal = excess + self._max_bytes * SHED_SHARE if excess > 0 else 0.0
        rows = self.db.execute(
            "SELECT number, utc_ms, length(sealed) FROM batch WHERE stream = ? ORDER BY number", (stream,)
        )
        last = 0
        for number, utc_ms, size in rows:
            too_old = EARLIEST_PLAUSIBLE_MS <= utc_ms < horizon_ms
            if goal <= 0 and not too_old:
                break
            last = int(number)
            goal -= size
        rows.close()
        return last

    def _shed_stream(self, state: StreamState, last: int) -> GapEvent:
        first = state.floor
        to_ms = self.db.execute(
            "SELECT utc_ms FROM batch WHERE stream = ? AND number = ?", (state.stream, last)
        ).fetchone()[0]
        batches, readings, from_ms = self._drop(state, last)
        self._save(state)
        self.shed_readings += readings
        log.warning("shed", stream=state.stream.name.lower(), batches=batches, readings=readings)
        return GapEvent(
            state.stream, GapCause.SHED, from_ms, to_ms, readings, first=first, last=last, epoch=self.epoch
        )

    def _insert_gaps(self, gaps: list[GapEvent]) -> list[Sealed]:
        if not gaps:
            return []
        closed_ms = self.streams[StreamClass.EVENTS].sealed_ms  # what gathers on the loop is not among them
        return [self._insert(Gathered(StreamClass.EVENTS, (), gaps, 0, closed_ms))]

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


def _gaps_in(sealed: bytes) -> list[GapEvent]:
    try:
        return [event for event in unseal(sealed).events if isinstance(event, GapEvent)]
    except RemoteProtocolError:
        return []  # it could not have been told any more


def _corrupt(stream: StreamClass, number: int, readings: int, utc_ms: int, epoch: int) -> GapEvent:
    return GapEvent(
        stream, GapCause.CORRUPT, utc_ms, utc_ms, readings, first=number, last=number, epoch=epoch
    )
