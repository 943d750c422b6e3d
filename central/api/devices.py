"""Devices: what they are, what they last said, and what they said before."""

import sqlite3
from datetime import datetime
from typing import Annotated, Literal

from litestar import Router, get
from litestar.params import FromPath, FromQuery, QueryParameter

from central.api.bodies import DeviceView, History, Page, PointReading
from central.api.paging import Cursor, HistoryLimit, Limit, TheCentre, moment_ms, read_cursor, write_cursor
from central.api.problems import ASKING, PAGING
from central.clock import LAST_MS
from central.errors import Fault, RequestError, not_found
from central.history import Range, part
from central.views import (
    Row,
    device_view,
    point_reading,
    points_of,
    row,
    rows,
)
from protocols.model.device import Kind

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
    """Show a point's readings in a range of time, and each gap that is known in it, in their order.

    A walk through its parts is refused (409) once readings of that cabinet have moved in time, because its clock was
    set and they are re-stamped: begun again, it shows each of them once.
    """
    place = None if cursor is None else read_cursor(cursor, tuple[int, bool, int, int, int])
    restamps = None if place is None else place[4]
    wanted = Range(
        from_ms=moment_ms(from_, "from", 0),
        to_ms=moment_ms(to, "to", LAST_MS),
        after=None if place is None else place[:4],
        limit=limit,
        newest_first=order == "desc",
    )
    if wanted.from_ms > wanted.to_ms:
        raise RequestError(
            400, "the range ends before it begins", [Fault("to", "expected a moment after `from`")]
        )
    return await centre.reader.ask(lambda db: _history(db, device, point, wanted, restamps))


def _known(db: sqlite3.Connection, device: str) -> Row:
    found = row(db, "SELECT * FROM device WHERE id = ?", (device,))
    if found is None:
        raise not_found("device", device)
    return found


def _history(db: sqlite3.Connection, device: str, point: str, wanted: Range, restamps: int | None) -> History:
    owner = _known(db, device)
    now = _restamps(db, owner, restamps)
    described = next((p for p in points_of(owner["points"]) if p.name == point), None)
    series = row(db, "SELECT id FROM series WHERE device = ? AND point = ?", (device, point))
    if described is None and series is None:
        raise not_found(f"point of {device}", point)
    found = part(db, owner, series["id"] if series else None, wanted)
    return History(
        device=device,
        point=point,
        unit=described.unit if described else None,
        items=found.items,
        next=None if found.next is None else write_cursor((*found.next, now)),
    )


def _restamps(db: sqlite3.Connection, owner: Row, before: int | None) -> int:
    """Return how often the readings of a cabinet have moved.

    Args:
        db: the store.
        owner: a device of that cabinet.
        before: the same when the walk began; None at its beginning.

    Raises:
        RequestError: if they have moved since: the walk would miss some and show others twice.
    """
    found = row(db, "SELECT restamps FROM cabinet WHERE id = ?", (owner["cabinet"],))
    restamps = 0 if found is None else int(found["restamps"])
    if before not in {None, restamps}:
        what = "begin again without it"
        raise RequestError(
            409, "readings were re-stamped while this history was read", [Fault("cursor", what)]
        )
    return restamps


router = Router(
    "/devices", route_handlers=[list_devices, get_device, get_latest, get_history], tags=["devices"]
)
