"""Devices: what they are, what they last said, and what they said before."""

import sqlite3
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from litestar import Router, get
from litestar.params import FromPath, FromQuery, QueryParameter

from central.api.bodies import DeviceView, GapView, History, Page, PointReading
from central.api.paging import Cursor, HistoryLimit, Limit, TheCentre, moment_ms, read_cursor, write_cursor
from central.api.problems import ASKING, PAGING
from central.clock import LAST_MS
from central.errors import Fault, RequestError, not_found
from central.views import (
    Row,
    device_view,
    gap_view,
    point_reading,
    points_of,
    reading_view,
    row,
    rows,
)
from protocols.model.device import Kind

GAPS_SHOWN = 1_000

Key = tuple[int, int, int]
"""A reading's place in its series: time, batch, index."""


class Range(msgspec.Struct, frozen=True):
    """What part of a history is asked for.

    Attributes:
        from_ms: UTC milliseconds, inclusive.
        to_ms: UTC milliseconds, inclusive.
        after: the place to go on from; None for the beginning.
        restamps: how often the cabinet's readings had moved when that place was found.
        limit: most readings.
        newest_first: in which order.
    """

    from_ms: int
    to_ms: int
    after: Key | None
    restamps: int | None
    limit: int
    newest_first: bool


_DEVICES = """
    SELECT * FROM device WHERE id > ?1 AND (?2 IS NULL OR cabinet = ?2) AND (?3 IS NULL OR kind = ?3)
    AND (?4 IS NULL OR id IN (SELECT device FROM device_group WHERE name = ?4)) ORDER BY id LIMIT ?5
"""


@get("/", responses=ASKING)
async def list_devices(
    centre: TheCentre,
    *,
    limit: Limit = 100,
    cursor: Cursor = None,
    cabinet: Annotated[str | None, QueryParameter(max_length=63)] = None,
    kind: FromQuery[Kind | None] = None,
    group: Annotated[str | None, QueryParameter(max_length=200)] = None,
) -> Page[DeviceView]:
    """List devices, by id."""
    after = "" if cursor is None else read_cursor(cursor, str)
    given = (after, cabinet, None if kind is None else kind.value, group, limit + 1)
    found = await centre.reader.ask(
        lambda db: rows(
            db,
            _DEVICES,
            given,
        )
    )
    items = [device_view(one) for one in found[:limit]]
    return Page(items, write_cursor(items[-1].id) if len(found) > limit else None)


@get("/{device:str}", responses=ASKING)
async def get_device(centre: TheCentre, device: FromPath[str]) -> DeviceView:
    """Show a device."""
    return device_view(await centre.reader.ask(lambda db: _known(db, device)))


@get("/{device:str}/latest", responses=ASKING)
async def get_latest(centre: TheCentre, device: FromPath[str]) -> list[PointReading]:
    """List the latest value of each of a device's points."""

    def question(db: sqlite3.Connection) -> list[Row]:
        _known(db, device)
        return rows(db, "SELECT * FROM shown WHERE device = ? ORDER BY point", (device,))

    return [point_reading(one) for one in await centre.reader.ask(question)]


@get("/{device:str}/points/{point:str}/history", responses=PAGING)
async def get_history(
    centre: TheCentre,
    device: FromPath[str],
    point: FromPath[str],
    *,
    from_: Annotated[datetime | None, QueryParameter(name="from", description="first moment")] = None,
    to: Annotated[datetime | None, QueryParameter(description="last moment")] = None,
    limit: HistoryLimit = 500,
    cursor: Cursor = None,
    order: FromQuery[Literal["asc", "desc"]] = "asc",
) -> History:
    """Show a point's readings in a range of time, and the gaps that are known in it.

    A walk through its parts is refused (409) once readings of that cabinet have moved in time, because its clock was
    set and they are re-stamped: begun again, it shows each of them once.
    """
    place = None if cursor is None else read_cursor(cursor, tuple[int, int, int, int])
    wanted = Range(
        from_ms=moment_ms(from_, "from", 0),
        to_ms=moment_ms(to, "to", LAST_MS),
        after=None if place is None else place[:3],
        restamps=None if place is None else place[3],
        limit=limit,
        newest_first=order == "desc",
    )
    if wanted.from_ms > wanted.to_ms:
        raise RequestError(
            400, "the range ends before it begins", [Fault("to", "expected a moment after `from`")]
        )
    return await centre.reader.ask(lambda db: _history(db, device, point, wanted))


def _known(db: sqlite3.Connection, device: str) -> Row:
    found = row(db, "SELECT * FROM device WHERE id = ?", (device,))
    if found is None:
        raise not_found("device", device)
    return found


def _history(db: sqlite3.Connection, device: str, point: str, wanted: Range) -> History:
    owner = _known(db, device)
    restamps = _restamps(db, owner, wanted)
    described = next((p for p in points_of(owner["points"]) if p.name == point), None)
    series = row(db, "SELECT id FROM series WHERE device = ? AND point = ?", (device, point))
    if described is None and series is None:
        raise not_found(f"point of {device}", point)
    found = [] if series is None else _readings(db, series["id"], wanted)
    page, more = found[: wanted.limit], len(found) > wanted.limit
    return History(
        device=device,
        point=point,
        unit=described.unit if described else None,
        items=[reading_view(one) for one in page],
        gaps=_gaps(db, owner, _covered(page, wanted, more=more)),
        next=write_cursor((page[-1]["utc_ms"], page[-1]["batch_id"], page[-1]["idx"], restamps))
        if more
        else None,
    )


def _restamps(db: sqlite3.Connection, owner: Row, wanted: Range) -> int:
    """Return how often the readings of a cabinet have moved.

    Raises:
        RequestError: if they have since the walk began: it would miss some and show others twice.
    """
    found = row(db, "SELECT restamps FROM cabinet WHERE id = ?", (owner["cabinet"],))
    restamps = 0 if found is None else int(found["restamps"])
    if wanted.restamps not in {None, restamps}:
        what = "begin again without it"
        raise RequestError(
            409, "readings were re-stamped while this history was read", [Fault("cursor", what)]
        )
    return restamps


_HISTORY = """
    SELECT batch_id, idx, utc_ms, value, boolean, quality, reason, clock, stamped FROM reading
    WHERE series_id = ?1 AND utc_ms BETWEEN ?2 AND ?3 AND (utc_ms, batch_id, idx) %s (?4, ?5, ?6)
    ORDER BY utc_ms %s, batch_id %s, idx %s LIMIT ?7
"""
_FORWARDS = _HISTORY % (">", "ASC", "ASC", "ASC")
_BACKWARDS = _HISTORY % ("<", "DESC", "DESC", "DESC")


def _readings(db: sqlite3.Connection, series_id: int, wanted: Range) -> list[Row]:
    """Return one reading more than asked for, if there is one."""
    beginning: Key = (LAST_MS + 1, 0, 0) if wanted.newest_first else (-1, 0, 0)
    return rows(
        db,
        _BACKWARDS if wanted.newest_first else _FORWARDS,
        (series_id, wanted.from_ms, wanted.to_ms, *(wanted.after or beginning), wanted.limit + 1),
    )


def _covered(page: list[Row], wanted: Range, *, more: bool) -> tuple[int, int]:
    """Return the part of the range that a page speaks for, as UTC milliseconds."""
    near = wanted.after[0] if wanted.after else None
    far = page[-1]["utc_ms"] if more else None
    if wanted.newest_first:
        return (wanted.from_ms if far is None else far), (wanted.to_ms if near is None else near)
    return (wanted.from_ms if near is None else near), (wanted.to_ms if far is None else far)


def _gaps(db: sqlite3.Connection, owner: Row, covered: tuple[int, int]) -> list[GapView]:
    found = rows(
        db,
        "SELECT * FROM gap WHERE cabinet = ? AND stream = ? AND coalesce(to_ms, ?) >= ?"
        " AND coalesce(from_ms, 0) <= ? ORDER BY coalesce(from_ms, 0), id LIMIT ?",
        (owner["cabinet"], owner["stream"], LAST_MS, *covered, GAPS_SHOWN),
    )
    return [gap_view(one) for one in found]


router = Router(
    "/devices", route_handlers=[list_devices, get_device, get_latest, get_history], tags=["devices"]
)
