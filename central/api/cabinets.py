"""Cabinets: who they are, whether they are there, what is wanted of them and what they do."""

import sqlite3
from typing import Annotated

import msgspec
from litestar import Router, get
from litestar.params import FromPath, QueryParameter

from central import contact, policies
from central.api.bodies import (
    CabinetSummary,
    CabinetView,
    Page,
    PointReading,
    Policies,
    RefusedDevice,
    StreamView,
)
from central.api.paging import Cursor, Limit, TheCentre, read_cursor, write_cursor
from central.api.problems import ASKING
from central.clock import moment
from central.errors import not_found
from central.views import CLOCKS, STREAMS, Row, maybe_moment, point_reading, rows
from protocols.backhaul.messages import LastEnd

STREAMS_SHOWN = 100
"""A cabinet has four for each epoch; the last epochs are what matters."""
_TEXTS = msgspec.json.Decoder(list[str])


def known_cabinet(db: sqlite3.Connection, cabinet: str) -> Row:
    """Return a cabinet's row.

    Raises:
        RequestError: if this centre never heard of it.
    """
    found = contact.find(db, cabinet)
    if found is None:
        raise not_found("cabinet", cabinet)
    return found


@get("/", responses=ASKING)
async def list_cabinets(centre: TheCentre, limit: Limit = 100, cursor: Cursor = None) -> Page[CabinetSummary]:
    """List the cabinets, by id."""
    after = "" if cursor is None else read_cursor(cursor, str)
    now_ms = centre.clock.now().utc_ms
    found = await centre.reader.ask(
        lambda db: rows(
            db, f"{contact.SUMMARIES} WHERE cabinet.id > ? ORDER BY cabinet.id LIMIT ?", (after, limit + 1)
        )
    )
    items = [contact.summary(one, now_ms) for one in found[:limit]]
    return Page(items, write_cursor(items[-1].id) if len(found) > limit else None)


@get("/{cabinet:str}", responses=ASKING)
async def get_cabinet(centre: TheCentre, cabinet: FromPath[str]) -> CabinetView:
    """Show all of a cabinet: contact, streams with their marks, versions, desired and reported policies."""
    now_ms = centre.clock.now().utc_ms
    return await centre.reader.ask(lambda db: _view(db, cabinet, now_ms))


@get("/{cabinet:str}/latest", responses=ASKING)
async def get_cabinet_latest(
    centre: TheCentre,
    cabinet: FromPath[str],
    limit: Limit = 1_000,
    cursor: Cursor = None,
    point: Annotated[str | None, QueryParameter(max_length=63, description="only this point")] = None,
) -> Page[PointReading]:
    """List the latest value of each point of each device of a cabinet."""
    after = ("", "") if cursor is None else read_cursor(cursor, tuple[str, str])
    found = await centre.reader.ask(lambda db: _latest(db, cabinet, point, after, limit + 1))
    items = [point_reading(one) for one in found[:limit]]
    more = write_cursor((items[-1].device, items[-1].point)) if len(found) > limit else None
    return Page(items, more)


@get("/{cabinet:str}/policies", responses=ASKING)
async def get_policies(centre: TheCentre, cabinet: FromPath[str]) -> Policies:
    """Show what is wanted of a cabinet, what it goes by, and why it rejected what it rejected."""
    now_ms = centre.clock.now().utc_ms

    def question(db: sqlite3.Connection) -> Policies:
        known_cabinet(db, cabinet)
        return policies.read(db, cabinet, now_ms)

    return await centre.reader.ask(question)


def _latest(
    db: sqlite3.Connection, cabinet: str, point: str | None, after: tuple[str, str], limit: int
) -> list[Row]:
    known_cabinet(db, cabinet)
    return rows(
        db,
        "SELECT shown.* FROM device JOIN shown ON shown.device = device.id WHERE device.cabinet = ?1"
        " AND (shown.device, shown.point) > (?2, ?3) AND (?4 IS NULL OR shown.point = ?4)"
        " ORDER BY shown.device, shown.point LIMIT ?5",
        (cabinet, *after, point, limit),
    )


def _view(db: sqlite3.Connection, cabinet: str, now_ms: int) -> CabinetView:
    found = known_cabinet(db, cabinet)
    head = contact.summary(found, now_ms)
    return CabinetView(
        id=head.id,
        contact=head.contact,
        seen=head.seen,
        age_s=head.age_s,
        first_seen=moment(found["first_seen_ms"]),
        hello=maybe_moment(found["hello_ms"]),
        boot=found["boot"],
        epoch=found["epoch"],
        last_end=LastEnd(found["last_end"]) if found["last_end"] else None,
        started=maybe_moment(found["started_ms"]),
        clock=None if found["clock"] is None else CLOCKS[found["clock"]],
        agent_version=found["agent_version"],
        sqlite_version=found["sqlite_version"],
        trusted_keys=_TEXTS.decode(found["keys"]),
        devices=found["devices"],
        active_alarms=found["active_alarms"],
        gaps=head.gaps,
        last_gap=head.last_gap,
        streams=_streams(db, cabinet),
        policies=policies.read(db, cabinet, now_ms),
        refused_devices=_refused(db, cabinet),
    )


def _streams(db: sqlite3.Connection, cabinet: str) -> list[StreamView]:
    found = rows(
        db,
        "SELECT * FROM stream WHERE cabinet = ? ORDER BY received_ms DESC, epoch, stream LIMIT ?",
        (cabinet, STREAMS_SHOWN),
    )
    return [
        StreamView(
            epoch=one["epoch"],
            stream=STREAMS[one["stream"]],
            mark=one["mark"],
            next=one["next"],
            floor=one["floor"],
            readings=one["readings"],
            received=moment(one["received_ms"]),
        )
        for one in found
    ]


def _refused(db: sqlite3.Connection, cabinet: str) -> list[RefusedDevice]:
    found = rows(db, "SELECT * FROM refused_device WHERE cabinet = ? ORDER BY device", (cabinet,))
    return [
        RefusedDevice(
            one["device"], one["owner"], one["readings"], moment(one["first_ms"]), moment(one["last_ms"])
        )
        for one in found
    ]


router = Router(
    "/cabinets",
    route_handlers=[list_cabinets, get_cabinet, get_cabinet_latest, get_policies],
    tags=["cabinets"],
)
