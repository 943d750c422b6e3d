"""The outbox on disk. Everything here runs in the thread that owns the database, or before it starts."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import structlog

from drivers.damage import any_text
from drivers.database import open_database, transaction
from edge.clock import EARLIEST_PLAUSIBLE_MS
from edge.config import OutboxSettings
from edge.outbox.rows import (
    MIGRATIONS,
    BatchRow,
    Salvaged,
    StreamState,
    WaitingBatch,
    batch_row,
    believed,
    checked_batch,
    is_empty,
    kept_now,
    oldest_batches,
    oldest_ms,
    random_epoch,
    read_batch,
    read_epochs,
    read_meta,
    read_salvaged,
    sealed_around_ms,
    weigh,
    weigh_one,
    write_batch,
    write_epoch,
    write_meta,
    write_missing_checks,
    write_stream,
)
from edge.outbox.salvage import Sealing, ensure_sound
from protocols.backhaul.codec import batch_hash, columns, seal
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
from protocols.clock import Clock, ClockQuality
from protocols.model.device import StreamClass
from protocols.model.ids import CabinetId
from protocols.model.reading import Sample

log = structlog.get_logger()
SHED_SHARE = 0.02
"""How much of the bound is freed at once when it is reached, so that shedding is not done at each commit."""
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
        bytes: of them.
        max_bytes: the bound.
        oldest_ms: UTC milliseconds of the oldest batch; None if there is none.
        heads: where each stream of that epoch is.
        unsealed: readings and events that are not committed yet.
        committed_readings: since the agent started.
        shed_readings: dropped because the bound was reached, since the agent started.
        commits: transactions since the agent started.
        error: what the disk said last, "" if all is well.
        sealing_epoch: of what is taken now; another than `epoch` while something salvaged is sent first.
        salvaged: what became of a damaged file before this one; None if there was none.
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
    sealing_epoch: int = 0
    salvaged: Salvaged | None = None


class Gathered(msgspec.Struct, frozen=True):
    """What is to become one batch."""

    stream: StreamClass
    samples: Sequence[Sample]
    events: Sequence[Event]
    readings: int


class OutboxStore:
    """The database's side: everything here runs in the database's thread, or before it starts."""

    def __init__(
        self, path: Path, cabinet: CabinetId, boot: str, clock: Clock, settings: OutboxSettings
    ) -> None:
        self._cabinet = cabinet
        self._boot = boot
        self._clock = clock
        self._max_bytes = round(settings.max_mb * 1e6)
        self._max_age_ms = round(settings.max_age_days * DAY_MS)
        self.committed_readings = 0
        self.shed_readings = 0
        self.commits = 0
        self.error = ""
        self._news: list[Sealed] = []
        self._path = path
        salvaged = ensure_sound(path, self._sealing())
        self.db = open_database(path, MIGRATIONS)
        self.db.text_factory = any_text
        try:
            self._begin(salvaged=salvaged)
        except BaseException:
            self.db.close()
            raise

    def _begin(self, *, salvaged: bool) -> None:
        """Learn what is there, and begin a run: what this start knows to be missing is told in the same transaction.

        Told later, it would be forgotten if this run ended before.
        """
        with transaction(self.db):
            write_missing_checks(self.db)
        self._epochs = read_epochs(self.db) or self._first_epoch()
        waiting = weigh(self.db)
        self._bytes, self._batches, self._readings = waiting.bytes, waiting.batches, waiting.readings
        with self._all_or_nothing():
            began_ms = self._number("run_began_ms")
            self.last_end = self._begin_run()
            crashed = self.last_end is LastEnd.CRASH and not salvaged
            self.birth_events = self._crash_gaps(began_ms) if crashed else []
            self._insert_gaps(self.birth_events)

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
            max_bytes=self._max_bytes,
            oldest_ms=oldest_ms(self.db, self._epochs),
            heads=tuple(state.head() for state in self._epochs[self.sending].values()),
            unsealed=unsealed,
            committed_readings=self.committed_readings,
            shed_readings=self.shed_readings,
            commits=self.commits,
            error=self.error,
            sealing_epoch=self.epoch,
            salvaged=self.salvaged(),
        )

    def salvaged(self) -> Salvaged | None:
        """Return what became of a damaged file before this one, if there was one."""
        return kept_now(read_salvaged(self.db), self._path)

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
        with self._all_or_nothing():
            for mark in marks:
                self._acknowledge(mark if isinstance(mark, Ack) else Ack(self.sending, (mark,)))
            done = [self._insert(one) for one in seals]
            done += self._insert_gaps(self._shed())
            self._retire()
        self.commits += 1
        return [one for one in [*self.take_news(), *done] if one.number >= self.streams[one.stream].floor]

    def take_news(self) -> list[Sealed]:
        """Return, once, what became a batch while something else was asked for."""
        news, self._news = self._news, []
        return news

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
        self.db.execute(
            "PRAGMA secure_delete=ON"
        )  # no salvage may find under its old number what is sealed again
        with self._all_or_nothing():
            gaps = self._renew(before)
            waiting = weigh(self.db)
            self._bytes, self._batches, self._readings = waiting.bytes, waiting.batches, waiting.readings
            self._news += self._insert_gaps(gaps)
            self._retire()
        log.warning("epoch_renewed", before=before, batches=self._batches, unreadable=len(gaps))
        with suppress(
            sqlite3.Error
        ):  # the log is not cut short any more to before it: that would send all twice
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

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
        news = list(self._news)
        try:
            with transaction(self.db):
                yield
        except BaseException:
            self._epochs = epochs
            self._bytes, self._batches, self._readings = remembered
            self.shed_readings, self.committed_readings = counted
            self._news = news
            raise

    def _sealing(self) -> Sealing:
        now_ms = self._clock.now().utc_ms
        return Sealing(
            self._cabinet, now_ms, max(0, now_ms - self._max_age_ms), self._max_bytes, self._placeholder
        )

    def _placeholder(
        self, epoch: int, stream: StreamClass, number: int, events: tuple[Event, ...] = ()
    ) -> Batch:
        return self._new_batch(Gathered(stream, (), events, 0), epoch, number)

    def _first_epoch(self) -> dict[int, dict[StreamClass, StreamState]]:
        epoch = random_epoch()
        states = {stream: StreamState(epoch, stream) for stream in StreamClass}
        with transaction(self.db):
            write_epoch(self.db, 1, epoch)
            for state in states.values():
                write_stream(self.db, state)
        return {epoch: states}

    def _begin_run(self) -> LastEnd:
        running = read_meta(self.db, "running")
        write_meta(self.db, "running", self._boot)
        write_meta(self.db, "run_began_ms", self._clock.now().utc_ms)
        if running is None:
            return LastEnd.FIRST
        return LastEnd.CRASH if running else LastEnd.CLEAN

    def _crash_gaps(self, began_ms: int) -> list[GapEvent]:
        """Say what the run that crashed may have taken and not sealed."""
        return [self._crash_gap(state, began_ms) for state in self.streams.values() if state.sealed_ms]

    def _crash_gap(self, state: StreamState, began_ms: int) -> GapEvent:
        """Say between when something may be missing: since the last seal of the run that crashed, until now."""
        from_ms = max(state.sealed_ms, began_ms)
        to_ms = max(self._clock.now().utc_ms, from_ms)  # a cold clock may be behind
        return GapEvent(state.stream, GapCause.CRASH, from_ms, to_ms, None, epoch=self.epoch)

    def _insert(self, one: Gathered) -> Sealed:
        state = self.streams[one.stream]
        batch = self._new_batch(one, self.epoch, state.next)
        now_ms = self._clock.now().utc_ms
        sealed = self._write(batch, one.readings, now_ms)
        state.next = batch.number + 1
        state.sealed_ms = now_ms
        state.taken += one.readings
        write_stream(self.db, state)
        self.committed_readings += one.readings
        self._bytes += len(sealed)
        self._batches += 1
        self._readings += one.readings
        return Sealed(batch.stream, batch.number, sealed, self.epoch)

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
            utc_offset_ms=None
            if now.quality is ClockQuality.UNSYNCHRONISED
            else now.utc_ms - now.monotonic_ms,
            clock=now.quality,
            columns=columns(one.samples, base_ms),
            events=tuple(one.events),
        )

    def _write(self, batch: Batch, readings: int, utc_ms: int) -> bytes:
        sealed = seal(batch)
        write_batch(self.db, batch, sealed, utc_ms=utc_ms, readings=readings)
        return sealed

    def _renew(self, before: int) -> list[GapEvent]:
        """Put a new epoch in the place of one, and seal its batches again; return what cannot be read."""
        after = random_epoch()
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
                self._write(renewed, good[0].readings, good[0].utc_ms)
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
            sealed = self._write(self._placeholder(epoch, stream, number), 0, self._clock.now().utc_ms)
            self._bytes += len(sealed) - before.bytes
            self._batches += 1 - before.batches
            self._readings -= before.readings
            self._news += self._insert_gaps([gap])
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
        state.mark_hash = self._hash(state.epoch, mark) or mark.hash
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

    def _shed(self) -> list[GapEvent]:
        """Drop the oldest of the lowest class while the buffer is too full or too old, and say what went."""
        gaps = []
        horizon_ms = self._clock.now().utc_ms - self._max_age_ms
        for stream in reversed(StreamClass):
            for states in self._epochs.values():
                state = states.get(stream)
                last = self._last_to_shed(state, self._bytes - self._max_bytes, horizon_ms) if state else 0
                if state and last:
                    gaps.append(self._shed_stream(state, last))
        return gaps

    def _last_to_shed(self, state: StreamState, excess: int, horizon_ms: int) -> int:
        """Return the number up to which a stream gives way, 0 for none; looks no further than it must.

        A batch that was sealed before the clock was set has no age that can be known, so it is not too old.
        """
        goal = excess + self._max_bytes * SHED_SHARE if excess > 0 else 0.0
        rows = self.db.execute(
            "SELECT number, utc_ms, length(sealed) FROM batch WHERE epoch = ? AND stream = ? ORDER BY number",
            (state.epoch, state.stream),
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
            "SELECT utc_ms FROM batch WHERE epoch = ? AND stream = ? AND number = ?",
            (state.epoch, state.stream, last),
        ).fetchone()[0]
        batches, readings, from_ms = self._drop(state, last)
        write_stream(self.db, state)
        self.shed_readings += readings
        log.warning("shed", stream=state.stream.name.lower(), batches=batches, readings=readings)
        return GapEvent(
            state.stream, GapCause.SHED, from_ms, to_ms, readings, first=first, last=last, epoch=state.epoch
        )

    def _insert_gaps(self, gaps: list[GapEvent]) -> list[Sealed]:
        return [self._insert(Gathered(StreamClass.EVENTS, (), gaps, 0))] if gaps else []

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
