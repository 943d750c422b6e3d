"""A damaged outbox: what can be believed of it goes into a new file, and what cannot is told as a gap.

A batch comes back as it was, under its epoch and number, if its bytes fit their hash and themselves say whose and
which they are. Between batches that came back an empty one takes the place of each that did not, so that the centre
can go on. What is sealed from now on gets a new epoch, because nobody knows which numbers of the old one were given.
"""

import contextlib
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from drivers.damage import TORN, Bad, Replacement, any_text, damage_of, free_bytes
from drivers.database import WAL_KEPT_BYTES, open_readonly, transaction
from drivers.pages import Pages
from edge.outbox.rows import (
    MIGRATIONS,
    BatchRow,
    Draw,
    Salvaged,
    StreamState,
    batch_row,
    believed,
    check_of,
    checked_batch,
    fault_of,
    is_empty,
    random_epoch,
    read_batch,
    write_batch,
    write_epoch,
    write_meta,
    write_stream,
)
from protocols.backhaul.codec import seal, unseal
from protocols.backhaul.messages import Batch, Event, GapCause, GapEvent
from protocols.model.device import StreamClass
from protocols.model.ids import CabinetId

log = structlog.get_logger()

GAPS_A_BATCH: Final = 500
"""Gaps that are told together: a batch of them stays far below what anybody unpacks."""
RESERVE_BYTES: Final = 1 << 20
"""Of the disk, what copying leaves free for the end of it."""
HANDED_OVER_MS: Final = 1000
"""More than lies between taking a sample and having it in the next batch."""
BATCH_COLUMNS: Final = 8
"""Of a row of `batch`."""
LOOK_AT_ROOM_BYTES: Final = 256 << 10
"""Of batches between two looks at how large the new file has become."""


class Sealing(msgspec.Struct, frozen=True):
    """Whose outbox it is, and how it seals.

    Attributes:
        cabinet: of which every batch must be.
        now_ms: UTC milliseconds.
        oldest_ms: UTC milliseconds before which nothing is kept.
        max_bytes: the outbox's bound: what it may still need of the disk.
        make: makes a batch of an epoch, a stream, a number and some events, with nothing else in it.
        draw: where new epochs come from.
    """

    cabinet: CabinetId
    now_ms: int
    oldest_ms: int
    max_bytes: int
    make: Callable[[int, StreamClass, int, tuple[Event, ...]], Batch]
    draw: Draw = secrets.randbits


def ensure_sound(path: Path, sealing: Sealing) -> bool:
    """See to it that an outbox's file, if there is one, is sound.

    A replacement that was begun is finished first. A file whose last commit is torn, as a power cut leaves it, is
    replaced too: nobody knows whether that commit's numbers were used. But nothing of it is damaged or kept.

    Returns:
        Whether it was damaged, and the new file tells what is lost.

    Raises:
        sqlite3.Error, OSError: if the disk refuses; the damaged file is still there, or the new one.
    """
    replacement = Replacement(path)
    if replacement.is_ready():
        log.warning("outbox_salvage_resumed")
        _replace(replacement, sealing, keep=True)
        return False
    found = damage_of(path, fault_of, torn_counts=True) if path.exists() else ""
    if not found:
        return False
    if found == TORN:
        log.warning("outbox_commit_torn")
        build(path, replacement.begin(forget=False), found, sealing)
        _replace(replacement, sealing, keep=False)
        return False
    log.error("outbox_damaged", found=found)
    salvaged = build(path, replacement.begin(), found, sealing)
    _replace(replacement, sealing, keep=True)
    kept = str(replacement.aside) if replacement.aside.exists() else ""
    log.error("outbox_salvaged", **msgspec.structs.asdict(msgspec.structs.replace(salvaged, kept=kept)))
    return True


def _replace(replacement: Replacement, sealing: Sealing, *, keep: bool) -> None:
    """Put the new file in its place; the damaged one is kept if the outbox can still grow to its bound beside it."""
    new = replacement.ready if replacement.is_ready() else replacement.building
    wanted = sealing.max_bytes - new.stat().st_size + WAL_KEPT_BYTES + RESERVE_BYTES
    if keep and free_bytes(replacement.path.parent) < wanted:
        keep = False
        log.warning("outbox_damaged_file_not_kept", wanted_bytes=wanted)
    for step in replacement.steps(keep=keep):
        step()


def build(damaged: Path, new: Path, found: str, sealing: Sealing) -> Salvaged:
    """Write into the empty file `new` what can be believed of a damaged one; return what became of it.

    The new file is whole when this returns, and not yet synced.
    """
    into = sqlite3.connect(new, isolation_level=None)
    try:
        into.execute("PRAGMA journal_mode=OFF")  # killed half-way, it is begun again from nothing
        into.execute("PRAGMA synchronous=OFF")
        for script in MIGRATIONS:
            into.executescript(script)
        into.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
        with contextlib.closing(open_readonly(damaged)) as db, transaction(into):
            db.text_factory = any_text
            return _Salvage(damaged, db, into, sealing).run(found)
    finally:
        into.close()


class _Lost(msgspec.Struct):
    """Numbers of which nothing came back; `readings` is what their rows say, None if one has none to be believed."""

    first: int
    last: int
    readings: int | None
    from_ms: int
    to_ms: int


class _Stream(msgspec.Struct):
    """What came back of one stream of one epoch.

    Attributes:
        epoch: which.
        stream: which.
        known: where it was, if that row is believed.
        first: lowest number that came back; 0 for none.
        first_ms: when that was sealed.
        last: the highest.
        last_ms: when that was sealed.
        batches: how many came back.
        readings: in them.
        lost: what lies below, between, and above as far as its rows still say so.
    """

    epoch: int
    stream: StreamClass
    known: StreamState | None
    first: int = 0
    first_ms: int = 0
    last: int = 0
    last_ms: int = 0
    batches: int = 0
    readings: int = 0
    lost: list[_Lost] = msgspec.field(default_factory=list)

    def follow(self, number: int, utc_ms: int, readings: int) -> None:
        """Take note of the next batch that came back."""
        if not self.batches:
            self.first, self.first_ms = number, utc_ms
        self.last, self.last_ms = number, utc_ms
        self.batches += 1
        self.readings += readings

    @property
    def sealed_ms(self) -> int:
        """Before when all that it took was sealed, as far as is known."""
        return self.known.sealed_ms if self.known else self.last_ms

    @property
    def taken(self) -> int:
        """Readings that were ever committed, as far as is known."""
        return max(self.readings, self.known.taken if self.known else 0)


class _Salvage:
    def __init__(
        self, damaged: Path, db: sqlite3.Connection, into: sqlite3.Connection, sealing: Sealing
    ) -> None:
        self._damaged = damaged
        self._db = db
        self._into = into
        self._sealing = sealing
        self._room = free_bytes(damaged.parent) - RESERVE_BYTES
        self._page_bytes = into.execute("PRAGMA page_size").fetchone()[0]
        self._unlooked = 0
        self._is_full = False
        self._floors: dict[tuple[int, StreamClass], int] = {}
        self._unread: dict[tuple[int, StreamClass], dict[int, int]] = {}
        self._empty: dict[tuple[int, StreamClass], dict[int, int]] = {}

    def run(self, found: str) -> Salvaged:
        """Copy, fill and tell."""
        listed, is_whole = self._listed_epochs()
        self._copy(set(listed) if is_whole else None)
        unlisted = self._unlisted_epochs(listed)
        sealed_in = {*listed[-1:], *unlisted}
        streams: list[_Stream] = []
        gaps: list[GapEvent] = []
        place = 0
        for epoch in [*listed, *unlisted]:
            of_epoch = [self._look_at(epoch, stream) for stream in StreamClass]
            if any(one.batches for one in of_epoch):
                place += 1
                write_epoch(self._into, place, epoch)
            streams += of_epoch
        if found != TORN:  # then what the crash may have swallowed is all
            for one in streams:
                gaps += self._gaps(one, sealed_in=one.epoch in sealed_in)
        if any(one.stream is StreamClass.EVENTS and (one.lost or not one.known) for one in streams):
            gaps += [gap for one in streams for gap in self._told_before(one)]
        if not sealed_in:
            gaps += [self._gap(stream, 0, self._sealing.now_ms) for stream in StreamClass]
        self._open_epoch(place + 1, streams, gaps)
        salvaged = Salvaged(
            at_ms=self._sealing.now_ms,
            found=found,
            batches=sum(one.batches for one in streams),
            readings=sum(one.readings for one in streams),
            lost=sum(lost.last - lost.first + 1 for one in streams for lost in one.lost),
        )
        self._keep_meta("ages")
        if found == TORN:
            self._keep_meta("salvaged")
        else:
            write_meta(self._into, "salvaged", msgspec.json.encode(salvaged).decode())
        for key, unknown in (("running", "?"), ("run_began_ms", 0)):
            self._keep_meta(key, unknown)
        return salvaged

    # What the tree still leads to

    def _listed_epochs(self) -> tuple[list[int], bool]:
        """Return the epochs in their order, and whether they are all there are."""
        try:
            rows = self._db.execute("SELECT place, epoch, crc FROM epoch ORDER BY place").fetchall()
        except Bad:
            return [], False
        good = [epoch for place, epoch, crc in rows if crc == check_of(place, epoch)]
        return good, bool(good) and len(good) == len(rows)

    def _keep_meta(self, key: str, unknown: str | int | None = None) -> None:
        """Keep what the file remembered under a key; if that is not believed, put something else there."""
        value = unknown
        with contextlib.suppress(*Bad):
            row = self._db.execute("SELECT value, crc FROM meta WHERE key = ?", (key,)).fetchone()
            value = row[0] if row is not None and row[1] == check_of(key, row[0]) else unknown
        if value is not None:
            write_meta(self._into, key, value)

    def _state(self, epoch: int, stream: StreamClass) -> StreamState | None:
        with contextlib.suppress(*Bad):
            row = self._db.execute(
                "SELECT epoch, stream, next, floor, mark, mark_hash, sealed_ms, taken, crc FROM stream"
                " WHERE epoch = ? AND stream = ?",
                (epoch, int(stream)),
            ).fetchone()
            if row is not None and row[-1] == check_of(*row[:-1]):
                return StreamState(epoch, stream, *row[2:-1])
        return None

    def _floor(self, epoch: int, stream: StreamClass) -> int:
        """Return the lowest number that still waits, 0 if nobody can know: what lies below was let go."""
        if (epoch, stream) not in self._floors:
            state = self._state(epoch, stream)
            self._floors[epoch, stream] = state.floor if state else self._lowest(epoch, stream)
        return self._floors[epoch, stream]

    def _lowest(self, epoch: int, stream: StreamClass) -> int:
        """Return the lowest number that the tree leads to, if its row is what was written; otherwise 0."""
        with contextlib.suppress(*Bad):
            row = self._db.execute(
                "SELECT number, utc_ms, readings, hash, crc, '' FROM batch"
                " WHERE epoch = ? AND stream = ? ORDER BY number LIMIT 1",
                (epoch, int(stream)),
            ).fetchone()
            if row is not None and checked_batch(epoch, stream, row[0], batch_row(row)):
                return int(row[0])
        return 0

    # What comes back

    def _copy(self, epochs: set[int] | None) -> None:
        """Copy every batch that is believed, of these epochs or of any, wherever in the file it is."""
        with Pages(self._damaged) as pages:
            for record in pages.records():
                if len(record) != BATCH_COLUMNS or not all(isinstance(one, int) for one in record[:3]):
                    continue
                epoch, stream, row = _taken_apart(record)
                if stream is None or (epochs is not None and epoch not in epochs):
                    continue
                if row.number >= max(1, self._floor(epoch, stream)):
                    self._take(epoch, stream, row)

    def _take(self, epoch: int, stream: StreamClass, row: BatchRow) -> None:
        good = None if self._is_full else believed(row, self._sealing.cabinet, epoch, stream)
        if good is None:
            if checked_batch(epoch, stream, row.number, row):
                self._unread.setdefault((epoch, stream), {})[row.number] = row.readings
            return
        told, batch = good
        # An empty batch took the place of another: that is what was sent since.
        how = "REPLACE" if is_empty(batch) else "IGNORE"
        if is_empty(batch):
            self._empty.setdefault((epoch, stream), {})[row.number] = told.utc_ms
        write_batch(self._into, batch, row.sealed, utc_ms=told.utc_ms, readings=told.readings, how=how)
        self._look_at_room(len(row.sealed))

    def _unlisted_epochs(self, listed: list[int]) -> list[int]:
        """Return the epochs of what came back although no list names them, the oldest first."""
        rows = self._into.execute("SELECT epoch FROM batch GROUP BY epoch ORDER BY min(utc_ms), epoch")
        return [epoch for (epoch,) in rows if epoch not in listed]

    def _look_at(self, epoch: int, stream: StreamClass) -> _Stream:
        """Return what came back of a stream, after filling the holes between."""
        known = self._state(epoch, stream)
        one = _Stream(epoch, stream, known)
        unread = self._unread.get((epoch, stream), {})
        expected = self._floor(epoch, stream)
        holes: list[_Lost] = []
        for number, utc_ms, readings in self._into.execute(
            "SELECT number, utc_ms, readings FROM batch WHERE epoch = ? AND stream = ? ORDER BY number",
            (epoch, int(stream)),
        ):
            if expected and number > expected:
                lost = self._lost(one, range(expected, number), unread, utc_ms)
                (holes if one.batches else one.lost).append(
                    lost
                )  # the floor rises over what is lost below all
            one.follow(number, utc_ms, readings)
            expected = number + 1
        above = range(max(1, expected), max([known.next - 1 if known else 0, *unread]) + 1)
        if above:
            one.lost.append(self._lost(one, above, unread, self._sealing.now_ms))
        self._fill(one, holes)
        if one.batches:
            self._write_state(one)
        return one

    def _fill(self, one: _Stream, holes: Sequence[_Lost]) -> None:
        """Put an empty batch in the place of each that is lost between two that came back."""
        for hole in holes:
            for number in range(hole.first, hole.last + 1):
                empty = self._sealing.make(one.epoch, one.stream, number, ())
                write_batch(self._into, empty, seal(empty), utc_ms=hole.to_ms, readings=0)
        one.lost += holes

    def _reaches_ms(self, one: _Stream) -> int:
        """Return before when all that a stream took was sealed, by the last batch that came back."""
        if not one.batches:
            return self._sealing.oldest_ms
        row = read_batch(self._into, one.epoch, one.stream, one.last)
        batch = None if row is None else unseal(row.sealed)
        if batch is None or batch.utc_offset_ms is None:
            return one.last_ms
        last_ms = batch.base_monotonic_ms + max(batch.columns.at_ms, default=0) + batch.utc_offset_ms
        return max(0, min(one.last_ms, last_ms - HANDED_OVER_MS))

    def _lost(self, one: _Stream, numbers: range, unread: dict[int, int], until_ms: int) -> _Lost:
        counts = [unread.get(number) for number in numbers]
        known = [count for count in counts if count is not None]
        readings = sum(known) if len(known) == len(counts) else None
        from_ms = self._reaches_ms(one)
        return _Lost(numbers.start, numbers.stop - 1, readings, from_ms, max(from_ms, until_ms))

    def _write_state(self, one: _Stream) -> None:
        """Write where a stream is whose epoch is only sent from now on."""
        known = one.known
        state = StreamState(
            one.epoch,
            one.stream,
            next=one.last + 1,
            floor=one.first,
            mark=known.mark if known else 0,
            mark_hash=known.mark_hash if known else "",
            sealed_ms=one.last_ms,
            taken=one.readings,
        )
        write_stream(self._into, state)

    def _look_at_room(self, size: int) -> None:
        """Stop copying when the disk has no room for more: what is left behind is told like what is lost."""
        self._unlooked += size
        if self._unlooked < LOOK_AT_ROOM_BYTES or self._is_full:
            return
        self._unlooked = 0
        used = self._into.execute("PRAGMA page_count").fetchone()[0] * self._page_bytes
        self._is_full = used > self._room
        if self._is_full:
            log.error("outbox_salvage_has_no_room", bytes=used)

    # What is told

    def _gaps(self, one: _Stream, *, sealed_in: bool) -> Iterator[GapEvent]:
        """Yield what is lost by number, and what nobody can know of: below what came back, and above."""
        if one.known is None and one.batches:
            yield self._gap(one.stream, 0, one.first_ms, one.epoch)
        for lost in one.lost:
            yield GapEvent(
                one.stream,
                GapCause.CORRUPT,
                lost.from_ms,
                lost.to_ms,
                lost.readings,
                first=lost.first,
                last=lost.last,
                epoch=one.epoch,
            )
        if sealed_in:
            known = one.known.sealed_ms if one.known and one.known.next == one.last + 1 else 0
            yield self._gap(one.stream, known or self._reaches_ms(one), self._sealing.now_ms, one.epoch)

    def _told_before(self, one: _Stream) -> Iterator[GapEvent]:
        """Yield again what an earlier salvage told in a batch of events that may be lost now.

        The centre takes note of it once.
        """
        for number, utc_ms in sorted(self._empty.get((one.epoch, one.stream), {}).items()):
            yield GapEvent(
                one.stream, GapCause.CORRUPT, utc_ms, utc_ms, None, first=number, last=number, epoch=one.epoch
            )

    def _gap(self, stream: StreamClass, from_ms: int, to_ms: int, epoch: int = 0) -> GapEvent:
        """Return a gap of which nobody knows more; `from_ms` is 0 if even that is unknown."""
        from_ms = from_ms or self._sealing.oldest_ms
        return GapEvent(stream, GapCause.CORRUPT, from_ms, max(from_ms, to_ms), None, epoch=epoch)

    def _open_epoch(self, place: int, streams: Sequence[_Stream], gaps: Sequence[GapEvent]) -> None:
        """Begin the epoch that is sealed in from now on, with what is to be told."""
        epoch = random_epoch(self._sealing.draw)
        write_epoch(self._into, place, epoch)
        states = {stream: StreamState(epoch, stream) for stream in StreamClass}
        for one in streams:
            state = states[one.stream]
            state.sealed_ms = max(state.sealed_ms, one.sealed_ms)
            state.taken = max(state.taken, one.taken)
        events = states[StreamClass.EVENTS]
        for start in range(0, len(gaps), GAPS_A_BATCH):
            told = tuple(gaps[start : start + GAPS_A_BATCH])
            batch = self._sealing.make(epoch, StreamClass.EVENTS, events.next, told)
            write_batch(self._into, batch, seal(batch), utc_ms=self._sealing.now_ms, readings=0)
            events.next += 1
            events.sealed_ms = self._sealing.now_ms
        for state in states.values():
            write_stream(self._into, state)


def _taken_apart(record: tuple[Any, ...]) -> tuple[int, StreamClass | None, BatchRow]:
    """Return epoch, stream and row of a record of `batch`, as it stands in the file; None for no stream of ours."""
    epoch, stream, *row = record
    return epoch, StreamClass(stream) if stream in set(StreamClass) else None, batch_row(row)
