"""A point's history: its readings, and the gaps of its device's streams, in one order of time.

A gap belongs to a cabinet and a stream; which devices it touches follows from the stream that each speaks in.
A device can change its class, or move to another cabinet. Of such a device a gap counts unless the cabinet did
not list it there meanwhile, and its readings came otherwise: the nearest before the gap, the nearest after it,
and every one within.
"""

import sqlite3
from collections.abc import Iterator
from heapq import merge
from itertools import islice

import msgspec

from central.api.bodies import HistoryGap, HistoryReading
from central.clock import LAST_MS
from central.views import Row, gap_view, reading_view, row, rows

Place = tuple[int, bool, int, int]
"""Where an item stands: UTC milliseconds, whether it is a gap, then batch and index, or the gap's id and 0."""

_BEYOND = 2**62
"""Above every id."""


class Range(msgspec.Struct, frozen=True):
    """What part of a history is asked for.

    Attributes:
        from_ms: UTC milliseconds, inclusive.
        to_ms: UTC milliseconds, inclusive.
        after: the place to go on from; None for the beginning.
        limit: most items.
        newest_first: in which order.
    """

    from_ms: int
    to_ms: int
    after: Place | None
    limit: int
    newest_first: bool


class Part(msgspec.Struct, frozen=True):
    """Items in order, and the place to go on from; None at the end."""

    items: list[HistoryReading | HistoryGap]
    next: Place | None


_Placed = tuple[Place, Row]


def part(db: sqlite3.Connection, device: Row, series_id: int | None, wanted: Range) -> Part:
    """Return a part of the history of one point of a device.

    Args:
        db: the store.
        device: its row.
        series_id: the point's readings; None if there are none.
        wanted: which part.
    """
    readings = iter(()) if series_id is None else _readings(db, series_id, wanted)
    gaps = _gaps(db, device, series_id, wanted)
    order = _backwards if wanted.newest_first else _forwards
    found = list(islice(merge(readings, gaps, key=order), wanted.limit + 1))
    shown = found[: wanted.limit]
    more = len(found) > wanted.limit
    return Part([_item(place, one) for place, one in shown], shown[-1][0] if more else None)


def _forwards(placed: _Placed) -> Place:
    return placed[0]


def _backwards(placed: _Placed) -> Place:
    (at_ms, is_gap, first, second), _ = placed
    return -at_ms, is_gap, -first, -second


def _item(place: Place, found: Row) -> HistoryReading | HistoryGap:
    return gap_view(found, HistoryGap) if place[1] else reading_view(found, HistoryReading)


_READINGS = """
    SELECT batch_id, idx, utc_ms, value, boolean, quality, reason, clock, stamped FROM reading
    WHERE series_id = ?1 AND utc_ms BETWEEN ?2 AND ?3 AND (utc_ms, batch_id, idx) {after} (?4, ?5, ?6)
    ORDER BY utc_ms {order}, batch_id {order}, idx {order} LIMIT ?7
"""
_GAPS = """
    SELECT gap.*, listed_from_ms, listed_to_ms, {place} AS at_ms FROM device_stream AS spoken
    JOIN gap ON gap.cabinet = spoken.cabinet AND gap.stream = spoken.stream
    WHERE spoken.device = ?1 AND gap.to_ms >= ?2 AND coalesce(from_ms, 0) <= ?3
    AND ({place}, gap.id) {after} (?4, ?5) ORDER BY at_ms {order}, gap.id {order} LIMIT ?6
"""
_FORWARDS = {
    "after": ">",
    "order": "ASC",
    "place": "CASE WHEN from_ms >= ?2 THEN from_ms ELSE ?2 - 1 END",
}
_BACKWARDS = {
    "after": "<",
    "order": "DESC",
    "place": "CASE WHEN gap.to_ms <= ?3 THEN gap.to_ms ELSE ?3 + 1 END",
}
_READINGS_BY_ORDER = {False: _READINGS.format(**_FORWARDS), True: _READINGS.format(**_BACKWARDS)}
_GAPS_BY_ORDER = {False: _GAPS.format(**_FORWARDS), True: _GAPS.format(**_BACKWARDS)}


def _readings(db: sqlite3.Connection, series_id: int, wanted: Range) -> Iterator[_Placed]:
    """Return the readings that follow; at one moment they stand before the gaps that begin there."""
    place: Place = (LAST_MS + 2, False, 0, 0) if wanted.newest_first else (-2, False, 0, 0)
    at_ms, is_gap, batch_id, index = wanted.after or place
    if is_gap:
        batch_id = index = -1 if wanted.newest_first else _BEYOND
    given = (series_id, wanted.from_ms, wanted.to_ms, at_ms, batch_id, index, wanted.limit + 1)
    for one in rows(db, _READINGS_BY_ORDER[wanted.newest_first], given):
        yield (one["utc_ms"], False, one["batch_id"], one["idx"]), one


def _gaps(db: sqlite3.Connection, device: Row, series_id: int | None, wanted: Range) -> Iterator[_Placed]:
    """Return the gaps that follow."""
    place: Place = (LAST_MS + 2, True, 0, 0) if wanted.newest_first else (-2, True, 0, 0)
    at_ms, is_gap, gap_id, _ = wanted.after or place
    if not is_gap:
        gap_id = _BEYOND if wanted.newest_first else -1
    always_the_same = not _has_moved(db, device["id"])
    limit = wanted.limit + 1 if always_the_same else -1
    given = (device["id"], wanted.from_ms, wanted.to_ms, at_ms, gap_id, limit)
    for one in rows(db, _GAPS_BY_ORDER[wanted.newest_first], given):
        if always_the_same or _touches(db, device, series_id, one):
            yield (one["at_ms"], True, one["id"], 0), one


def _has_moved(db: sqlite3.Connection, device: str) -> bool:
    """Tell whether a device ever spoke in more than one stream."""
    found = db.execute("SELECT count(*) FROM device_stream WHERE device = ?", (device,)).fetchone()
    return int(found[0]) > 1


_NEAREST = """
    SELECT stream.cabinet, stream.stream FROM reading JOIN batch ON batch.id = batch_id
    JOIN stream ON stream.id = stream_id WHERE series_id = ?1 AND utc_ms {side} ?2
    ORDER BY utc_ms {order} LIMIT 1
"""
_BEFORE = _NEAREST.format(side="<=", order="DESC")
_AFTER = _NEAREST.format(side=">=", order="ASC")
_WITHIN = """
    SELECT 1 FROM reading JOIN batch ON batch.id = batch_id JOIN stream ON stream.id = stream_id
    WHERE series_id = ?1 AND utc_ms BETWEEN ?2 AND ?3 AND stream.cabinet = ?4 AND stream.stream = ?5 LIMIT 1
"""


def _touches(db: sqlite3.Connection, device: Row, series_id: int | None, gap: Row) -> bool:
    """Tell whether a device that has moved may have been in a gap's stream while it lasted."""
    before = None if gap["from_ms"] is None else row(db, _BEFORE, (series_id, gap["from_ms"]))
    if before is None or _was_listed(gap):
        return True
    after = row(db, _AFTER, (series_id, gap["to_ms"])) or device
    if any((one["cabinet"], one["stream"]) == (gap["cabinet"], gap["stream"]) for one in (before, after)):
        return True
    within = (series_id, gap["from_ms"], gap["to_ms"], gap["cabinet"], gap["stream"])
    return row(db, _WITHIN, within) is not None


def _was_listed(gap: Row) -> bool:
    """Tell whether the cabinet listed the device in the gap's stream while it lasted."""
    return (
        gap["listed_from_ms"] is not None
        and gap["from_ms"] <= gap["listed_to_ms"]
        and gap["listed_from_ms"] <= gap["to_ms"]
    )
