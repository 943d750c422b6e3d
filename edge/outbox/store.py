"""The outbox on disk. Everything here runs in the thread that owns the database, or before it starts."""

import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import msgspec
import structlog

from drivers.damage import LOOKS, any_text, is_damage
from drivers.database import is_readable, open_database, transaction
from edge.ballast import Ballast, reserve
from edge.config import OutboxSettings
from edge.outbox.ages import Ages
from edge.outbox.reports import joined
from edge.outbox.rows import (
    MIGRATIONS,
    BatchRow,
    Draw,
    Salvaged,
    StreamState,
    WaitingBatch,
    batch_row,
    believed,
    checked_batch,
    is_empty,
    kept_now,
    newest_ms,
    oldest_batches,
    oldest_ms,
    page_bytes,
    pages,
    random_epoch,
    read_batch,
    read_epochs,
    read_meta,
    read_salvaged,
    sealed_around_ms,
    used_bytes,
    weigh,
    weigh_one,
    write_batch,
    write_epoch,
    write_meta,
    write_missing_checks,
    write_stream,
)
from edge.outbox.salvage import Sealing, ensure_sound
from protocols.backhaul.codec import batch_hash, columns, seal, unseal
from protocols.backhaul.messages import (
    VERSION,
    Ack,
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


class Sealed(msgspec.Struct, frozen=True):
    """A committed batch."""

    stream: StreamClass
    number: int
    sealed: bytes
    epoch: int = 0


class Fetched(msgspec.Struct, frozen=True):
    """Waiting batches of a stream, in order, and the lowest number that it still has."""

    batches: list[Sealed]
    floor: int
    epoch: int = 0


class OutboxFigures(msgspec.Struct, frozen=True):
    """How full the outbox is.

    Attributes:
        epoch: that is being sent: the oldest of which anything waits.
        batches: that wait for the centre.
        readings: in them.
        bytes: of them, as they are sent.
        used_bytes: of the file, without what is free in it.
        max_bytes: the bound of that.
        oldest_ms: UTC milliseconds of the oldest batch; None if there is none.
        heads: where each stream of that epoch is.
        unsealed: readings and events that are not committed yet.
        committed_readings: since the agent started.
        shed_readings: dropped because the bound was reached, since the agent started.
        commits: transactions since the agent started.
        error: what the disk said last, "" if all is well.
        disk_full: whether something has filled the disk, so that the outbox does not grow.
        sealing_epoch: of what is taken now; another than `epoch` while something salvaged is sent first.
        salvaged: what became of a damaged file before this one; None if there was none.
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
    sealing_epoch: int = 0
    salvaged: Salvaged | None = None


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


Shed: TypeAlias = dict[tuple[int, StreamClass], GapEvent]
"""What was shed in one transaction, by epoch and stream."""


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
        self.contradicted = False
        self._ages = Ages()
        self._epochs: dict[int, dict[StreamClass, StreamState]] = {}
        self.committed_readings = 0
        self.shed_readings = 0
        self.commits = 0
        self.error = ""
        salvaged = ensure_sound(path, self._sealing())
        self.db = open_database(path, MIGRATIONS)
        self.db.text_factory = any_text
        try:
            self._begin(salvaged=salvaged)
        except BaseException:
            self.db.close()
            raise

    @property
    def epoch(self) -> int:
        """The epoch that is sealed in."""
        return next(reversed(self._epochs))

    @property
    def sending(self) -> int:
        """The oldest epoch of which anything waits: that one is sent first."""
        return next(iter(self._epochs))

    @property
    def streams(self) -> dict[StreamClass, StreamState]:
        """Where each stream of the epoch is that is sealed in."""
        return self._epochs[self.epoch]

    def figures(self, unsealed: int) -> OutboxFigures:
        """Return how full it is."""
        return OutboxFigures(
            epoch=self.sending,
            batches=self._batches,
            readings=self._readings,
            bytes=self._bytes,
            used_bytes=used_bytes(self.db),
            max_bytes=self._bound_pages * self._page_bytes,
            oldest_ms=oldest_ms(self.db, self._epochs),
            heads=tuple(state.head() for state in self._epochs[self.sending].values()),
            unsealed=unsealed,
            committed_readings=self.committed_readings,
            shed_readings=self.shed_readings,
            commits=self.commits,
            error=self.error,
            disk_full=self._ballast is not None and not self._ballast.held,
            sealing_epoch=self.epoch,
            salvaged=kept_now(read_salvaged(self.db), self._path),
        )

    def commit(self, seals: Sequence[Gathered], marks: Iterable[StreamMark | Ack]) -> list[Sealed]:
        """Delete what is acknowledged and insert what waits, in one transaction.

        Args:
            seals: what is to become batches.
            marks: what the centre has; a mark by itself is of the epoch that is being sent.

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

    def _commit(self, seals: Sequence[Gathered], marks: Sequence[StreamMark | Ack]) -> list[Sealed]:
        self._again.clear()
        with self._all_or_nothing():
            for mark in marks:
                self._acknowledge(mark if isinstance(mark, Ack) else Ack(self.sending, (mark,)))
            shed = self._shed_old()
            done = [self._take(one, shed) for one in seals]
            if seals:
                self._note_reach(seals[-1])
            if shed:
                self._make_room(StreamClass.EVENTS, GAPS_BYTES, shed)
            done += self._insert_gaps([*_bounded(self._again), *shed.values()])
            self._retire()
        self.commits += 1
        return [one for one in [*self.take_aside(), *done] if one.number >= self.streams[one.stream].floor]

    def take_aside(self) -> list[Sealed]:
        """Return, once, what became a batch while something else was asked for."""
        aside, self._aside = self._aside, []
        return aside

    def correct(self, correction: Correction) -> None:
        """Take note how what this boot has told until now is put right, for the age of what waits."""
        ages = self._ages.corrected(self._boot, correction, self.good_ms())
        with transaction(self.db):
            self._keep_ages(ages)
        self._ages = ages

    def floors(self) -> dict[StreamClass, int]:
        """Return for each stream of the epoch that is being sent the lowest number that can still be."""
        return {stream: state.floor for stream, state in self._epochs[self.sending].items()}

    def fetch(self, stream: StreamClass, first: int, limit: int) -> Fetched:
        """Return up to `limit` waiting batches of a stream, of the epoch that is being sent, from number `first` on.

        A batch whose bytes have changed on the disk, or that is gone, is replaced by an empty one of the same
        number, so that the centre can go on, and its readings are reported as a gap.
        """
        epoch = self.sending
        state = self._epochs[epoch].get(stream)
        if state is None:
            return Fetched([], 1, epoch)
        first = max(first, state.floor)
        numbers = range(first, min(first + limit, state.next))
        rows = self.db.execute(
            "SELECT number, utc_ms, readings, hash, crc, sealed FROM batch"
            " WHERE epoch = ? AND stream = ? AND number >= ? ORDER BY number LIMIT ?",
            (epoch, stream, first, limit),
        ).fetchall()
        there = {row[0]: batch_row(row) for row in rows}
        return Fetched(
            [
                Sealed(stream, number, self._readable(epoch, stream, there.get(number), number), epoch)
                for number in numbers
            ],
            state.floor,
            epoch,
        )

    def is_damaged(self) -> bool:
        """Tell whether the file is no longer sound, when a reading has said so: one that failed looks the same."""
        for _ in range(LOOKS):
            try:
                if self.db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok":
                    return False
            except sqlite3.Error as error:
                if not is_damage(error):
                    return False
        return self.is_readable()

    def is_readable(self) -> bool:
        """Tell whether the disk gives all of the file's bytes."""
        return is_readable(self._path)

    def oldest(self, limit: int) -> tuple[WaitingBatch, ...]:
        """Return the oldest waiting batches."""
        return oldest_batches(self.db, limit)

    def disagrees(self, mark: StreamMark, epoch: int | None = None) -> bool:
        """Tell whether a centre's mark cannot be about what this outbox sent: a restored or cloned card.

        Of an epoch that is not sealed in any more the centre may have what was lost here.
        """
        epoch = self.sending if epoch is None else epoch
        state = self._epochs.get(epoch, {}).get(mark.stream)
        if state is None:
            return False
        if mark.mark >= state.next:
            return epoch == self.epoch
        known = state.mark_hash if mark.mark == state.mark else self._hash(epoch, mark)
        return bool(mark.hash and known and mark.hash != known)

    def renew_epoch(self, epoch: int | None = None) -> None:
        """Put a new epoch in the place of one: what still waits of it is sealed again, so that nothing is lost.

        One batch after another, because all that waits may be far more than memory. What can no longer be read is
        reported as a gap.

        Args:
            epoch: which; the one that is being sent if None. One that is no longer here is left alone.
        """
        before = self.sending if epoch is None else epoch
        if before not in self._epochs:
            return
        # What is sealed again must not be found under its old number by a salvage.
        self.db.execute("PRAGMA secure_delete=ON")
        with self._all_or_nothing():
            gaps = self._renew(before)
            waiting = weigh(self.db)
            self._bytes, self._batches, self._readings = waiting.bytes, waiting.batches, waiting.readings
            self._aside += self._insert_gaps(gaps)
            self._retire()
        log.warning("epoch_renewed", before=before, batches=self._batches, unreadable=len(gaps))
        # A log that is cut short before the renewal would bring the old numbers back too.
        with suppress(sqlite3.Error):
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._reserve()

    def _reserve(self) -> None:
        """See to it that the log has its blocks, if room is kept for anything here."""
        if self._ballast is not None:
            reserve(self._path.with_name(f"{self._path.name}-wal"))

    def end_run(self) -> None:
        """Remember that this run ended as it should, and close."""
        with transaction(self.db):
            write_meta(self.db, "running", "")
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.db.close()

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Run a transaction; if it fails, what is remembered goes back as the disk does."""
        epochs = {
            epoch: {stream: msgspec.structs.replace(state) for stream, state in states.items()}
            for epoch, states in self._epochs.items()
        }
        remembered = (self._bytes, self._batches, self._readings)
        counted = (self.shed_readings, self.committed_readings)
        aside = list(self._aside)
        ages = self._ages
        try:
            with transaction(self.db):
                yield
        except BaseException:
            self._epochs = epochs
            self._bytes, self._batches, self._readings = remembered
            self.shed_readings, self.committed_readings = counted
            self._aside = aside
            self._ages = ages
            raise

    def _sealing(self) -> Sealing:
        now_ms = self._clock.now().utc_ms
        return Sealing(
            self._cabinet,
            now_ms,
            max(0, now_ms - self._max_age_ms),
            self._max_bytes,
            self._placeholder,
            self._draw,
        )

    def _placeholder(
        self, epoch: int, stream: StreamClass, number: int, events: tuple[Event, ...] = ()
    ) -> Batch:
        return self._new_batch(Gathered(stream, (), events, 0), epoch, number)

    def _first_epoch(self) -> dict[int, dict[StreamClass, StreamState]]:
        epoch = random_epoch(self._draw)
        states = {stream: StreamState(epoch, stream) for stream in StreamClass}
        with transaction(self.db):
            write_epoch(self.db, 1, epoch)
            for state in states.values():
                write_stream(self.db, state)
        return {epoch: states}

    def _begin(self, *, salvaged: bool) -> None:
        """Learn what is there, and begin a run: what this start knows to be missing is told in the same transaction.

        Told later, it would be forgotten if this run ended before.
        """
        self._page_bytes = page_bytes(self.db)
        self._most_pages = self._bound_pages = self._max_bytes // self._page_bytes
        self._look_ms = 0
        self._look_at_disk()
        self._reserve()
        with transaction(self.db):
            write_missing_checks(self.db)
        self._epochs = read_epochs(self.db) or self._first_epoch()
        self._ages = self._read_ages()
        waiting = weigh(self.db)
        self._bytes, self._batches, self._readings = waiting.bytes, waiting.batches, waiting.readings
        self.last_end = self._last_end()
        self._run_before_began_ms = self._number("run_began_ms")
        self.birth_events = [] if salvaged else self._birth_events()
        with self._all_or_nothing():
            write_meta(self.db, "running", self._boot)
            write_meta(self.db, "run_began_ms", self._clock.now().utc_ms)
            self._insert_gaps(self.birth_events)

    def _last_end(self) -> LastEnd:
        running = read_meta(self.db, "running")
        if running is None:
            return LastEnd.FIRST
        return LastEnd.CRASH if running else LastEnd.CLEAN

    def _birth_events(self) -> list[GapEvent]:
        """Say what this start already knows to be missing."""
        if self.last_end is not LastEnd.CRASH:
            return []
        now_ms = self._clock.now().utc_ms
        return [self._crash_gap(state, now_ms) for state in self.streams.values()]

    def _crash_gap(self, state: StreamState, now_ms: int) -> GapEvent:
        """Say between when the run that crashed may have taken what it did not seal.

        Every stream has such a gap: nobody knows what had just begun to be read.
        """
        from_ms = max(map(self._ages.best_ms, (state.sealed_ms, self._run_before_began_ms)))
        to_ms = max(now_ms, from_ms)  # a cold clock may be behind
        return GapEvent(state.stream, GapCause.CRASH, from_ms, to_ms, None, epoch=self.epoch)

    def _take(self, one: Gathered, shed: Shed) -> Sealed:
        """Insert a batch and make room for it; it is itself shed if only higher classes could give way."""
        batch = self._new_batch(one, self.epoch, self.streams[one.stream].next)
        sealed = seal(batch)
        if not self._make_room(batch.stream, len(sealed), shed):
            self._give_way(batch, one.readings, shed)
        else:
            self._insert(batch, sealed, one.readings)
        return Sealed(batch.stream, batch.number, sealed, self.epoch)

    def _insert(self, batch: Batch, sealed: bytes, readings: int) -> Sealed:
        now = self._clock.now()
        if now.quality is ClockQuality.UNSYNCHRONISED and not self._ages.is_open(self._boot):
            self._ages = self._ages.opened(self._boot, now.utc_ms)
            self._keep_ages(self._ages)
        write_batch(self.db, batch, sealed, utc_ms=now.utc_ms, readings=readings)
        write_stream(self.db, self._use_number(batch, readings))
        self._bytes += len(sealed)
        self._batches += 1
        self._readings += readings
        return Sealed(batch.stream, batch.number, sealed, self.epoch)

    def _give_way(self, batch: Batch, readings: int, shed: Shed) -> None:
        """Count a batch as shed that never was in the file; nothing else of its stream is."""
        now_ms = self._clock.now().utc_ms
        state = self._use_number(batch, readings)
        state.floor = state.next
        write_stream(self.db, state)
        gap = GapEvent(
            state.stream,
            GapCause.SHED,
            _taken_from_ms(batch, now_ms),
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
            write_stream(self.db, state)

    def _new_batch(self, one: Gathered, epoch: int, number: int) -> Batch:
        now = self._clock.now()
        base_ms = one.samples[0].monotonic_ms if one.samples else now.monotonic_ms
        return Batch(
            version=VERSION,
            cabinet=self._cabinet,
            epoch=epoch,
            stream=one.stream,
            number=number,
            boot=self._boot,
            base_monotonic_ms=base_ms,
            utc_offset_ms=now.utc_ms - now.monotonic_ms,
            clock=now.quality,
            columns=columns(one.samples, base_ms),
            events=tuple(one.events),
        )

    def _renew(self, before: int) -> list[GapEvent]:
        """Put a new epoch in the place of one, and seal its batches again; return what cannot be read."""
        after = random_epoch(self._draw)
        states = {
            stream: StreamState(after, stream, sealed_ms=state.sealed_ms, taken=state.taken)
            for stream, state in self._epochs[before].items()
        }
        self._epochs = {
            (after if epoch == before else epoch): (states if epoch == before else others)
            for epoch, others in self._epochs.items()
        }
        (place,) = self.db.execute("SELECT place FROM epoch WHERE epoch = ?", (before,)).fetchone()
        write_epoch(self.db, place, after)
        self.db.execute("DELETE FROM stream WHERE epoch = ?", (before,))
        return [gap for state in states.values() for gap in self._reseal_stream(before, state)]

    def _reseal_stream(self, before: int, state: StreamState) -> Iterator[GapEvent]:
        """Seal what waits of a stream again under its new epoch; yield what can no longer be read."""
        rows = self.db.execute(
            "SELECT number FROM batch WHERE epoch = ? AND stream = ? ORDER BY number", (before, state.stream)
        ).fetchall()
        for (number,) in rows:
            row = read_batch(self.db, before, state.stream, number)
            good = None if row is None else believed(row, self._cabinet, before, state.stream)
            self.db.execute(
                "DELETE FROM batch WHERE epoch = ? AND stream = ? AND number = ?",
                (before, state.stream, number),
            )
            if good is None:
                log.error("batch_unreadable", stream=state.stream.name.lower(), number=number)
                yield self._corrupt(before, state.stream, number, row)
            else:
                renewed = msgspec.structs.replace(good[1], epoch=state.epoch, number=state.next)
                write_batch(self.db, renewed, seal(renewed), utc_ms=good[0].utc_ms, readings=good[0].readings)
                state.next += 1
        write_stream(self.db, state)

    def _readable(self, epoch: int, stream: StreamClass, row: BatchRow | None, number: int) -> bytes:
        """Return a batch's bytes as they were sealed, or those of an empty one in its place."""
        if row is not None and batch_hash(row.sealed) == row.hash:
            if checked_batch(epoch, stream, number, row):
                return row.sealed
            if (good := believed(row, self._cabinet, epoch, stream)) is not None:
                self._mend(good[1], good[0])
                return row.sealed
        return self._emptied(epoch, stream, number, row)

    def _mend(self, batch: Batch, told: BatchRow) -> None:
        """Write a row anew whose columns have changed on the disk and whose bytes have not."""
        before = weigh_one(self.db, batch.epoch, batch.stream, batch.number)
        with self._all_or_nothing():
            write_batch(self.db, batch, told.sealed, utc_ms=told.utc_ms, readings=told.readings)
            self._readings += told.readings - before.readings
        log.warning("batch_row_mended", stream=batch.stream.name.lower(), number=batch.number)

    def _emptied(self, epoch: int, stream: StreamClass, number: int, row: BatchRow | None) -> bytes:
        """Put an empty batch in the place of one that can no longer be read, and tell of it."""
        gap = self._corrupt(epoch, stream, number, row)
        before = weigh_one(self.db, epoch, stream, number)
        with self._all_or_nothing():
            empty = self._placeholder(epoch, stream, number)
            sealed = seal(empty)
            write_batch(self.db, empty, sealed, utc_ms=self._clock.now().utc_ms, readings=0)
            self._bytes += len(sealed) - before.bytes
            self._batches += 1 - before.batches
            self._readings -= before.readings
            self._aside += self._insert_gaps([gap])
        log.error("batch_unreadable", stream=stream.name.lower(), number=number)
        return sealed

    def _corrupt(self, epoch: int, stream: StreamClass, number: int, row: BatchRow | None) -> GapEvent:
        """Say that a batch is lost; what its row says of it is only told if it can be believed."""
        if row is not None and checked_batch(epoch, stream, number, row):
            from_ms, to_ms, readings = row.utc_ms, row.utc_ms, row.readings
        else:
            before_ms, after_ms = sealed_around_ms(self.db, epoch, stream, number)
            now_ms = self._clock.now().utc_ms
            to_ms = now_ms if after_ms is None else after_ms
            from_ms = min(to_ms, max(0, now_ms - self._max_age_ms)) if before_ms is None else before_ms
            readings = None
        return GapEvent(
            stream, GapCause.CORRUPT, from_ms, to_ms, readings, first=number, last=number, epoch=epoch
        )

    def _acknowledge(self, ack: Ack) -> None:
        for mark in ack.marks:
            state = self._epochs.get(ack.epoch, {}).get(mark.stream)
            if state is not None:
                self._delete(state, mark)

    def _delete(self, state: StreamState, mark: StreamMark) -> None:
        if mark.mark <= state.mark or (mark.mark >= state.next and state.epoch == self.epoch):
            return
        known = self._hash(state.epoch, mark)
        if known and mark.hash and known != mark.hash:
            self.contradicted = True  # the centre has another batch of that number, and ours not
            return
        state.mark_hash = known or mark.hash
        state.mark = mark.mark
        self._drop(state, mark.mark)
        state.next = max(state.next, state.floor)
        write_stream(self.db, state)

    def _drop(self, state: StreamState, last: int) -> tuple[int, int, int]:
        """Delete a stream's batches up to `last`; return how many, their readings, and the oldest moment."""
        whose = (state.epoch, state.stream, last)
        size, batches, readings, oldest = self.db.execute(
            "SELECT coalesce(sum(length(sealed)), 0), count(*), coalesce(sum(readings), 0), min(utc_ms)"
            " FROM batch WHERE epoch = ? AND stream = ? AND number <= ?",
            whose,
        ).fetchone()
        self.db.execute("DELETE FROM batch WHERE epoch = ? AND stream = ? AND number <= ?", whose)
        self._bytes -= size
        self._batches -= batches
        self._readings -= readings
        state.floor = max(state.floor, last + 1)
        return batches, readings, oldest or 0

    def _retire(self) -> None:
        """Forget each epoch that is not sealed in and of which nothing waits."""
        for epoch in list(self._epochs)[:-1]:
            if not self.db.execute("SELECT 1 FROM batch WHERE epoch = ? LIMIT 1", (epoch,)).fetchone():
                self.db.execute("DELETE FROM stream WHERE epoch = ?", (epoch,))
                self.db.execute("DELETE FROM epoch WHERE epoch = ?", (epoch,))
                del self._epochs[epoch]
                log.info("epoch_drained", epoch=epoch)

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

    def _make_room(self, stream: StreamClass, size: int, shed: Shed) -> bool:
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
            self._shed_stream(lowest, self._last_within(lowest, goal), shed)
        return True

    def _used_pages(self) -> int:
        all_pages, free_pages = pages(self.db)
        return all_pages - free_pages

    def _lowest(self) -> StreamState | None:
        """Return the lowest class of which something waits, of the oldest epoch."""
        for stream in reversed(StreamClass):
            for epoch, states in self._epochs.items():
                found = self.db.execute(
                    "SELECT 1 FROM batch WHERE epoch = ? AND stream = ? LIMIT 1", (epoch, stream)
                ).fetchone()
                if found:
                    return states[stream]
        return None

    def _last_within(self, state: StreamState, goal: int) -> int:
        """Return up to which number a stream's oldest batches are so many bytes; looks no further."""
        last = 0
        with closing(
            self.db.execute(
                "SELECT number, length(sealed) FROM batch WHERE epoch = ? AND stream = ? ORDER BY number",
                (state.epoch, state.stream),
            )
        ) as rows:
            for number, size in rows:
                last = int(number)
                goal -= size
                if goal <= 0:
                    break
        return last

    def _shed_old(self) -> Shed:
        """Drop what has waited for too long, and say what went.

        A batch that was sealed before the clock was set has no age that can be known, so it is not too old. Ages
        count from a time before which it cannot be: a clock that leaps ahead drops nothing.
        """
        shed: Shed = {}
        horizon_ms = self.good_ms() - self._max_age_ms
        ages = self._ages.without_old(horizon_ms)
        for states in self._epochs.values():
            for state in states.values():
                last = self._last_before(state, horizon_ms, ages)
                if last:
                    self._shed_stream(state, last, shed)
        return shed

    def _last_before(self, state: StreamState, horizon_ms: int, ages: Ages) -> int:
        last = 0
        with closing(
            self.db.execute(
                "SELECT number, utc_ms FROM batch WHERE epoch = ? AND stream = ? ORDER BY number",
                (state.epoch, state.stream),
            )
        ) as rows:
            for number, utc_ms in rows:
                sealed_ms = ages.true_ms(utc_ms)
                if sealed_ms is None or sealed_ms >= horizon_ms:
                    break
                last = int(number)
        return last

    def _shed_stream(self, state: StreamState, last: int, shed: Shed) -> None:
        """Drop a stream's batches up to `last`, and add them to what of it was shed in this transaction."""
        first = state.floor
        to_ms = self.db.execute(
            "SELECT utc_ms FROM batch WHERE epoch = ? AND stream = ? AND number = ?",
            (state.epoch, state.stream, last),
        ).fetchone()[0]
        self._again += self._reports_in(state, last)
        row = read_batch(self.db, state.epoch, state.stream, first)
        oldest = None if row is None else believed(row, self._cabinet, state.epoch, state.stream)
        batches, readings, from_ms = self._drop(state, last)
        if oldest is not None:
            from_ms = _taken_from_ms(oldest[1], from_ms)
        write_stream(self.db, state)
        log.warning("shed", stream=state.stream.name.lower(), batches=batches, readings=readings)
        from_ms, to_ms = sorted(map(self._ages.best_ms, (from_ms, to_ms)))
        gap = GapEvent(
            state.stream, GapCause.SHED, from_ms, to_ms, readings, first=first, last=last, epoch=state.epoch
        )
        self._note_shed(gap, shed)

    def _reports_in(self, state: StreamState, last: int) -> list[GapEvent]:
        """Return the reports of gaps in what is about to be dropped: untold, a hole would be silent."""
        if state.stream is not StreamClass.EVENTS:
            return []
        rows = self.db.execute(
            "SELECT sealed FROM batch WHERE epoch = ? AND stream = ? AND number <= ? ORDER BY number",
            (state.epoch, state.stream, last),
        )
        return [gap for (sealed,) in rows for gap in _gaps_in(sealed)]

    def _note_shed(self, gap: GapEvent, shed: Shed) -> None:
        self.shed_readings += gap.count or 0
        whose = gap.epoch, gap.stream
        shed[whose] = _joined(shed.get(whose), gap)

    def _insert_gaps(self, gaps: list[GapEvent]) -> list[Sealed]:
        if not gaps:
            return []
        number = self.streams[StreamClass.EVENTS].next
        batch = self._new_batch(Gathered(StreamClass.EVENTS, (), gaps, 0), self.epoch, number)
        return [self._insert(batch, seal(batch), 0)]

    def _read_ages(self) -> Ages:
        """Return what earlier runs knew of the times in here; boots other than this one tell no more."""
        text = read_meta(self.db, "ages")
        if not isinstance(text, str):
            return Ages()
        told_ms = [state.sealed_ms for states in self._epochs.values() for state in states.values()]
        last_ms = max(newest_ms(self.db, self._epochs), *told_ms)
        kept = msgspec.json.decode(text, type=Ages)
        ages = kept.ended(self._boot, last_ms, self._clock.now().utc_ms)
        if ages != kept:
            with transaction(self.db):
                self._keep_ages(ages)
        return ages

    def _keep_ages(self, ages: Ages) -> None:
        kept = ages.without_old(self.good_ms() - self._max_age_ms)
        write_meta(self.db, "ages", msgspec.json.encode(kept).decode())

    def _number(self, key: str) -> int:
        return int(read_meta(self.db, key) or 0)

    def _hash(self, epoch: int, mark: StreamMark) -> str:
        """Return the hash of what is held under a mark's number; "" if nothing is, or only an empty batch.

        An empty one stands where something else was that the centre may have had before it was lost here.
        """
        row = read_batch(self.db, epoch, mark.stream, mark.mark)
        if row is None:
            return ""
        good = None if row.hash == mark.hash else believed(row, self._cabinet, epoch, mark.stream)
        return row.hash if good is None or not is_empty(good[1]) else ""


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


def _pages_of(size: int, page_bytes: int) -> int:
    return size // page_bytes + 1


def _bounded(gaps: list[GapEvent]) -> list[GapEvent]:
    """Return the reports as they were, so that the centre knows those that came already; too many are joined."""
    return gaps if len(gaps) <= REPORTS_KEPT else joined(gaps)


def _taken_from_ms(batch: Batch, sealed_ms: int) -> int:
    """Return when the first of a batch's readings was taken: a gap begins there, and not when they were sealed."""
    if batch.utc_offset_ms is None:
        return sealed_ms
    return max(0, min(sealed_ms, batch.base_monotonic_ms + batch.utc_offset_ms))


def _gaps_in(sealed: bytes) -> list[GapEvent]:
    try:
        return [event for event in unseal(sealed).events if isinstance(event, GapEvent)]
    except RemoteProtocolError:
        return []  # it could not have been told any more
