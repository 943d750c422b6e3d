"""The marks, and the gaps that the floors leave."""

from collections.abc import Iterable, Sequence

import msgspec

from central import gaps
from central.errors import MessageError, RefusedFor
from central.gaps import Gap
from central.marks import never_coming, without
from central.store.writer import Tx
from protocols.backhaul.messages import Ack, GapCause, StreamHead, StreamMark
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
    explained = gaps.known(tx, stream.cabinet, stream.stream, stream.epoch, missing, reported=True)
    unexplained = without(missing, explained)
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


def conclude(tx: Tx, stream: Stream, numbers: range, cause: GapCause, to_ms: int) -> None:
    """Record as a gap what the centre itself concludes about some numbers, if there are any."""
    if numbers:
        gaps.record(
            tx,
            Gap(
                cabinet=stream.cabinet,
                stream=stream.stream,
                epoch=stream.epoch,
                numbers=numbers,
                cause=cause,
                from_ms=stream.last_utc_ms,
                to_ms=to_ms,
                count=None,
                reported=False,
            ),
        )


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
