"""What a cabinet says is missing, judged: its numbers, its times, and what has come nevertheless."""

import msgspec

from central import gaps, readings
from central.errors import MessageError, RefusedFor
from central.gaps import Gap
from central.marks import without
from central.store.writer import Tx
from central.streams import check_number
from protocols.backhaul.messages import Batch, GapCause, GapEvent
from protocols.clock import EARLIEST_PLAUSIBLE_MS, ClockQuality

MOST_HELD = 10_000
"""No honest cabinet says that more batches are missing than were under way when it shed them."""


class Span(msgspec.Struct, frozen=True):
    """Between when something may be missing, UTC milliseconds; `from_ms` None where nobody can know."""

    from_ms: int | None
    to_ms: int


def span(event: GapEvent, told_ms: int, *, clockless: bool) -> Span:
    """Say what a gap's times are worth.

    A cabinet that never had the time counts from 1970, or goes on from when it was switched off. Whatever is
    missing was taken before it said so, which bounds the end; of the beginning nothing is known then.

    Args:
        event: what the cabinet says.
        told_ms: UTC milliseconds when it said so, as far as that is known here.
        clockless: whether the cabinet did not trust its clock when it said so.
    """
    from_ms = event.from_ms if event.from_ms >= EARLIEST_PLAUSIBLE_MS else None
    if event.to_ms < EARLIEST_PLAUSIBLE_MS:
        to_ms = told_ms
    else:
        to_ms = max(event.to_ms, told_ms) if clockless else event.to_ms
    return Span(from_ms if from_ms is None or from_ms <= to_ms else None, to_ms)


def report(tx: Tx, batch: Batch, event: GapEvent) -> None:
    """Record what a cabinet says is missing; its word takes the place of what the centre concluded.

    Its first word about a number stands: what is said twice is missing once.

    Raises:
        MessageError: if its numbers are none that an honest cabinet says.
    """
    for number in (event.first, event.last, event.epoch, abs(event.from_ms), abs(event.to_ms)):
        check_number(number, "a gap's number")
    clockless = batch.utc_offset_ms is None or batch.clock is ClockQuality.UNSYNCHRONISED
    when = span(event, _told_ms(tx, batch), clockless=clockless)
    if not event.first:
        gaps.record(tx, _gap(batch, event, when, range(0), event.count))
        return
    numbers = range(event.first, event.last + 1)
    if not numbers:
        raise MessageError(RefusedFor.DAMAGED, f"a gap from batch {event.first} to {event.last}")
    held = _held(tx, batch, event, numbers)
    said_before = gaps.known(tx, batch.cabinet, event.stream, event.epoch, numbers, reported=True)
    missing = without(numbers, [*held, *said_before])
    gaps.withdraw(tx, batch.cabinet, event.stream, event.epoch, numbers)
    count = None if event.count is None or said_before else _less(tx, batch, event, held)
    for piece in missing:
        gap = _gap(batch, event, when, piece, count if len(missing) == 1 else None)
        gaps.record(tx, _since_the_mark(tx, gap))


def _told_ms(tx: Tx, batch: Batch) -> int:
    """Return when a batch of events was sealed; if nobody knows, when it came, which is later."""
    if batch.columns.at_ms:  # its base is the time of a reading, before the event
        return tx.now_ms
    return readings.stamp_of(tx, batch).utc_ms(batch.base_monotonic_ms)


def _since_the_mark(tx: Tx, gap: Gap) -> Gap:
    """Begin a gap that follows what is committed where that ends.

    A cabinet knows when its batches were sealed; their readings were taken before.
    """
    last = tx.db.execute(
        "SELECT last_utc_ms FROM stream WHERE cabinet = ? AND epoch = ? AND stream = ? AND mark = ?",
        (gap.cabinet, gap.epoch, gap.stream, gap.numbers.start - 1),
    ).fetchone()
    if last is None or last[0] is None or gap.from_ms is None:
        return gap
    return msgspec.structs.replace(gap, from_ms=min(gap.from_ms, last[0]))


def _gap(batch: Batch, event: GapEvent, when: Span, numbers: range, count: int | None) -> Gap:
    said = (event.from_ms, event.to_ms)
    return Gap(
        cabinet=batch.cabinet,
        stream=event.stream,
        epoch=event.epoch,
        numbers=numbers,
        cause=event.cause,
        from_ms=when.from_ms,
        to_ms=when.to_ms,
        count=count,
        reported=True,
        said_ms=said if said != (when.from_ms, when.to_ms) else None,
    )


def _held(tx: Tx, batch: Batch, event: GapEvent, numbers: range) -> list[range]:
    """Return which of the numbers are committed here nevertheless: they came before they were shed.

    Up to the mark everything is either committed or in a gap that is known already.
    """
    mark = tx.db.execute(
        "SELECT mark FROM stream WHERE cabinet = ? AND epoch = ? AND stream = ?",
        (batch.cabinet, event.epoch, event.stream),
    ).fetchone()
    up_to_mark = range(numbers.start, min(numbers.stop, mark[0] + 1 if mark else 0))
    if not up_to_mark:
        return []
    place = (batch.cabinet, event.stream, event.epoch, up_to_mark)
    in_gaps = [*gaps.known(tx, *place, reported=False), *gaps.known(tx, *place, reported=True)]
    if event.cause is GapCause.CORRUPT:
        in_gaps += _emptied(tx, batch, event, up_to_mark)
    return without(up_to_mark, in_gaps)


def _emptied(tx: Tx, batch: Batch, event: GapEvent, numbers: range) -> list[range]:
    """Return which of the numbers are filled by an empty batch, which came in the place of a damaged one."""
    found = tx.db.execute(
        "SELECT number FROM batch JOIN stream ON stream.id = stream_id WHERE cabinet = ? AND epoch = ?"
        " AND stream = ? AND number BETWEEN ? AND ? AND batch.readings = 0",
        (batch.cabinet, event.epoch, event.stream, numbers.start, numbers.stop - 1),
    )
    return [range(number, number + 1) for (number,) in found]


def _less(tx: Tx, batch: Batch, event: GapEvent, held: list[range]) -> int | None:
    """Return an event's count without the readings that are held here; None if these are too many to count."""
    if sum(len(part) for part in held) > MOST_HELD:
        return None
    count = event.count or 0
    for part in held:
        count -= tx.db.execute(
            "SELECT coalesce(sum(batch.readings), 0) FROM batch JOIN stream ON stream.id = stream_id"
            " WHERE cabinet = ? AND epoch = ? AND stream = ? AND number BETWEEN ? AND ?",
            (batch.cabinet, event.epoch, event.stream, part.start, part.stop - 1),
        ).fetchone()[0]
    return max(0, count)
