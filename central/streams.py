"""The marks, the gaps that the floors leave, and the gaps that cabinets report."""

from collections.abc import Iterable, Sequence

import msgspec

from central.errors import MessageError, RefusedFor
from central.marks import never_coming, without
from central.store.writer import Tx
from protocols.backhaul.messages import Ack, GapCause, GapEvent, StreamHead, StreamMark
from protocols.model.device import StreamClass
from protocols.model.ids import CabinetId

LARGEST = 2**53
"""No honest epoch, number or time is beyond what every JSON reader can hold exactly."""
MAX_EPOCHS = 10_000
"""Of one cabinet. An epoch opens when a card is restored: years of such days."""


class Stream(msgspec.Struct, frozen=True):
    """A stream as the store holds it.

    Attributes:
        id: its row.
        mark: up to which number it is committed.
        last_utc_ms: time of the last reading that is committed; None before the first.
    """

    id: int
    cabinet: CabinetId
    epoch: int
    stream: StreamClass
    mark: int
    last_utc_ms: int | None


def check_number(number: int, what: str) -> None:
    """Refuse a number that no honest cabinet reaches.

    Raises:
        MessageError: if it is negative or cannot be stored.
    """
    if not 0 <= number < LARGEST:
        raise MessageError(RefusedFor.BEYOND_BOUNDS, f"{what} {number}")


def open_stream(tx: Tx, cabinet: CabinetId, epoch: int, stream: StreamClass) -> Stream:
    """Return a stream of a cabinet, with mark 0 if this centre never saw its epoch."""
    check_number(epoch, "epoch")
    found = _find(tx, cabinet, epoch, stream)
    if found is not None:
        return found
    tx.db.execute("INSERT OR IGNORE INTO cabinet (id, first_seen_ms) VALUES (?, ?)", (cabinet, tx.now_ms))
    epochs = tx.db.execute("SELECT count(DISTINCT epoch) FROM stream WHERE cabinet = ?", (cabinet,))
    if epochs.fetchone()[0] >= MAX_EPOCHS:
        raise MessageError(RefusedFor.BEYOND_BOUNDS, f"more than {MAX_EPOCHS} epochs")
    tx.db.execute(
        "INSERT INTO stream (cabinet, epoch, stream, received_ms) VALUES (?, ?, ?, ?)",
        (cabinet, epoch, stream, tx.now_ms),
    )
    opened = _find(tx, cabinet, epoch, stream)
    assert opened is not None  # noqa: S101  inserted above, in this transaction
    return opened


def _find(tx: Tx, cabinet: CabinetId, epoch: int, stream: StreamClass) -> Stream | None:
    row = tx.db.execute(
        "SELECT id, mark, last_utc_ms FROM stream WHERE cabinet = ? AND epoch = ? AND stream = ?",
        (cabinet, epoch, stream),
    ).fetchone()
    return None if row is None else Stream(row[0], cabinet, epoch, stream, row[1], row[2])


def follow_floor(tx: Tx, stream: Stream, floor: int, acknowledged: int, to_ms: int) -> Stream:
    """Move the mark over what can no longer come, and record it as a gap.

    Args:
        tx: the job.
        stream: which stream.
        floor: the lowest number that the cabinet can still send.
        acknowledged: up to which number the cabinet holds an acknowledgement. What it deleted on that, some
            centre had and this one has not; what lies above was shed.
        to_ms: UTC milliseconds before which the missing readings were taken.
    """
    check_number(floor, "floor")
    missing = never_coming(stream.mark, floor)
    if not missing:
        return stream
    unexplained = without(missing, _reported(tx, stream, missing))
    split = acknowledged + 1
    for piece in unexplained:
        known = range(piece.start, min(piece.stop, split))
        shed = range(max(piece.start, split), piece.stop)
        conclude(tx, stream, known, GapCause.UNKNOWN_TO_CENTRE, to_ms)
        conclude(tx, stream, shed, GapCause.SHED, to_ms)
    tx.db.execute(
        "UPDATE stream SET mark = ?, hash = '', floor = ? WHERE id = ? AND mark = ?",
        (floor - 1, floor, stream.id, stream.mark),
    )
    return msgspec.structs.replace(stream, mark=floor - 1)


def _reported(tx: Tx, stream: Stream, numbers: range) -> list[range]:
    rows = tx.db.execute(
        "SELECT first, last FROM gap WHERE cabinet = ? AND stream = ? AND epoch = ? AND first <= ?"
        " AND last >= ? AND reported = 1",
        (stream.cabinet, stream.stream, stream.epoch, numbers.stop - 1, numbers.start),
    )
    return [range(first, last + 1) for first, last in rows]


def conclude(tx: Tx, stream: Stream, numbers: range, cause: GapCause, to_ms: int) -> None:
    """Record as a gap what the centre itself concludes about some numbers, if there are any."""
    if numbers:
        tx.db.execute(
            "INSERT INTO gap (cabinet, stream, epoch, first, last, cause, from_ms, to_ms, reported)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (
                stream.cabinet,
                stream.stream,
                stream.epoch,
                numbers.start,
                numbers.stop - 1,
                cause.value,
                stream.last_utc_ms,
                to_ms,
            ),
        )


def report_gap(tx: Tx, cabinet: CabinetId, event: GapEvent) -> None:
    """Record what a cabinet says is missing; its word takes the place of what the centre concluded.

    It takes the place of its own earlier words too: a cabinet that had to drop a report makes another, of that
    gap and those after it, and the first may have come all the same.
    """
    for number in (event.first, event.last, event.epoch):
        check_number(number, "a gap's number")
    numbers = range(event.first, event.last + 1) if event.first else range(0)
    count = event.count
    if numbers:
        _withdraw(tx, cabinet, event, numbers)
        batches, readings = _held(tx, cabinet, event)
        if batches >= len(numbers):
            return  # all of it came after all, before it was shed
        count = None if count is None else max(0, count - readings)
    _forget_parts(tx, cabinet, event)
    tx.db.execute(
        "INSERT INTO gap (cabinet, stream, epoch, first, last, cause, from_ms, to_ms, count, reported)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
        (
            cabinet,
            event.stream,
            event.epoch,
            event.first,
            event.last,
            event.cause.value,
            event.from_ms,
            event.to_ms,
            count,
        ),
    )


def _forget_parts(tx: Tx, cabinet: CabinetId, event: GapEvent) -> None:
    """Forget what was reported before and lies within this report: by its numbers, or by its time if it has none."""
    tx.db.execute(
        "DELETE FROM gap WHERE cabinet = ?1 AND stream = ?2 AND epoch = ?3 AND cause = ?4 AND reported = 1"
        " AND iif(?5 > 0, first >= ?5 AND last <= ?6, first = 0 AND from_ms >= ?7 AND to_ms <= ?8)",
        (
            cabinet,
            event.stream,
            event.epoch,
            event.cause.value,
            event.first,
            event.last,
            event.from_ms,
            event.to_ms,
        ),
    )


def _withdraw(tx: Tx, cabinet: CabinetId, event: GapEvent, numbers: range) -> None:
    """Take back what the centre concluded about these numbers."""
    concluded = tx.db.execute(
        "SELECT id, first, last FROM gap WHERE cabinet = ? AND stream = ? AND epoch = ? AND first <= ?"
        " AND last >= ? AND reported = 0",
        (cabinet, event.stream, event.epoch, event.last, event.first),
    ).fetchall()
    for row_id, first, last in concluded:
        for left in without(range(first, last + 1), [numbers]):
            tx.db.execute(
                "INSERT INTO gap"
                " (cabinet, stream, epoch, first, last, cause, from_ms, to_ms, count, reported)"
                " SELECT cabinet, stream, epoch, ?, ?, cause, from_ms, to_ms, count, 0 FROM gap WHERE id = ?",
                (left.start, left.stop - 1, row_id),
            )
        tx.db.execute("DELETE FROM gap WHERE id = ?", (row_id,))


def _held(tx: Tx, cabinet: CabinetId, event: GapEvent) -> tuple[int, int]:
    """Return how many of an event's batches are committed here nevertheless, and their readings."""
    row = tx.db.execute(
        "SELECT count(*), coalesce(sum(batch.readings), 0) FROM batch JOIN stream ON stream.id = stream_id"
        " WHERE cabinet = ? AND epoch = ? AND stream = ? AND number BETWEEN ? AND ?",
        (cabinet, event.epoch, event.stream, event.first, event.last),
    ).fetchone()
    return int(row[0]), int(row[1])


def hear_heads(tx: Tx, cabinet: CabinetId, epoch: int, heads: Sequence[StreamHead]) -> None:
    """Take note of where a cabinet's streams are, as its hello says."""
    for head in heads:
        check_number(head.next, "next")
        check_number(head.mark, "mark")
        stream = open_stream(tx, cabinet, epoch, head.stream)
        follow_floor(tx, stream, head.floor, head.mark, tx.now_ms)
        tx.db.execute(
            "UPDATE stream SET next = ?, floor = ? WHERE id = ?", (head.next, head.floor, stream.id)
        )


def acks(rows: Iterable[tuple[int, int, str]], epoch: int) -> Ack:
    """Build the acknowledgement of an epoch from its (stream, mark, hash) rows."""
    return Ack(epoch, tuple(StreamMark(StreamClass(stream), mark, digest) for stream, mark, digest in rows))
