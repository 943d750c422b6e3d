"""Lighting: control programs, calendars, what is wanted of a cabinet, and its publication."""

import base64
import binascii
import sqlite3
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from litestar import Router, delete, get, post, put
from litestar.params import Body, FromPath, QueryParameter

from central import drafts, lighting, policies
from central.api.bodies import Lighting, Page, Policies, Preview, PublishRequest, SignedEnvelope
from central.api.cabinets import known_cabinet
from central.api.paging import Cursor, Limit, TheCentre, moment_ms, read_cursor, write_cursor
from central.api.problems import ASKING, CHANGING
from central.centre import Centre
from central.errors import Fault, RequestError, not_found
from central.store.writer import Tx
from protocols.backhaul.messages import SignedPolicy
from protocols.model.ids import CabinetId, KeyId
from protocols.model.lighting import Calendar, ControlProgram
from protocols.model.policy import PolicyKind

LONGEST_PREVIEW = timedelta(days=31)


@get("/control-programs", responses=ASKING)
async def list_programs(centre: TheCentre, limit: Limit = 100, cursor: Cursor = None) -> Page[ControlProgram]:
    """List the city's control programs."""
    found = await _documents(centre, "control_program", limit, cursor)
    items = [msgspec.json.decode(document, type=ControlProgram) for document in found[:limit]]
    return Page(items, write_cursor(items[-1].id) if len(found) > limit else None)


@get("/calendars", responses=ASKING)
async def list_calendars(centre: TheCentre, limit: Limit = 100, cursor: Cursor = None) -> Page[Calendar]:
    """List the city's calendars."""
    found = await _documents(centre, "calendar", limit, cursor)
    items = [msgspec.json.decode(document, type=Calendar) for document in found[:limit]]
    return Page(items, write_cursor(items[-1].id) if len(found) > limit else None)


@get("/control-programs/{program:str}", responses=ASKING)
async def get_program(centre: TheCentre, program: FromPath[str]) -> ControlProgram:
    """Show a control program."""
    return msgspec.json.decode(await _document(centre, "control_program", program), type=ControlProgram)


@get("/calendars/{calendar:str}", responses=ASKING)
async def get_calendar(centre: TheCentre, calendar: FromPath[str]) -> Calendar:
    """Show a calendar."""
    return msgspec.json.decode(await _document(centre, "calendar", calendar), type=Calendar)


@put("/control-programs/{program:str}", responses=CHANGING)
async def put_program(
    centre: TheCentre, program: FromPath[str], data: Annotated[ControlProgram, Body(title="control program")]
) -> ControlProgram:
    """Write a control program. Cabinets go by it once their lighting is published again."""
    _same_id(program, data.id)
    await centre.change(lambda tx: lighting.put_program(tx, data))
    return data


@put("/calendars/{calendar:str}", responses=CHANGING)
async def put_calendar(
    centre: TheCentre, calendar: FromPath[str], data: Annotated[Calendar, Body(title="calendar")]
) -> Calendar:
    """Write a calendar. Cabinets go by it once their lighting is published again."""
    _same_id(calendar, data.id)
    await centre.change(lambda tx: lighting.put_calendar(tx, data))
    return data


@delete("/control-programs/{program:str}", responses=CHANGING)
async def delete_program(centre: TheCentre, program: FromPath[str]) -> None:
    """Delete a control program that no calendar names."""
    await centre.change(lambda tx: lighting.delete_program(tx, program))


@delete("/calendars/{calendar:str}", responses=CHANGING)
async def delete_calendar(centre: TheCentre, calendar: FromPath[str]) -> None:
    """Delete a calendar that no cabinet's lighting names."""
    await centre.change(lambda tx: lighting.delete_calendar(tx, calendar))


@get("/cabinets/{cabinet:str}/lighting", responses=ASKING)
async def get_lighting(centre: TheCentre, cabinet: FromPath[str]) -> Lighting:
    """Show what is wanted of a cabinet's lamps, published or not."""
    return await centre.reader.ask(lambda db: drafts.get(db, cabinet, Lighting))


@put("/cabinets/{cabinet:str}/lighting", responses=CHANGING)
async def put_lighting(
    centre: TheCentre, cabinet: FromPath[str], data: Annotated[Lighting, Body(title="lighting")]
) -> Lighting:
    """Write what is wanted of a cabinet's lamps: a draft, until it is published."""
    await centre.change(lambda tx: drafts.put(tx, cabinet, data))
    return data


@post("/cabinets/{cabinet:str}/lighting/publish", status_code=202, responses=CHANGING)
async def publish_lighting(
    centre: TheCentre,
    cabinet: FromPath[str],
    data: Annotated[PublishRequest | None, Body(title="publication")] = None,
) -> Policies:
    """Compile, check, number and sign a cabinet's lighting, and send it down."""
    key = centre.signing_key()
    terms = policies.Terms((data or PublishRequest()).valid_for_s)

    def work(tx: Tx) -> Policies:
        known_cabinet(tx.db, cabinet)
        policies.publish(tx, CabinetId(cabinet), PolicyKind.LIGHTING, key, terms)
        return policies.read(tx.db, cabinet, tx.now_ms)

    return await centre.change(work)


@post("/cabinets/{cabinet:str}/policies", status_code=202, responses=CHANGING)
async def post_policy(
    centre: TheCentre, cabinet: FromPath[str], data: Annotated[SignedEnvelope, Body(title="signed policy")]
) -> Policies:
    """Take a policy that was signed elsewhere, and send it down."""
    signed = SignedPolicy(data.body.encode(), KeyId(data.key), _signature(data.signature))

    def work(tx: Tx) -> Policies:
        known_cabinet(tx.db, cabinet)
        policies.accept_envelope(tx, CabinetId(cabinet), signed, centre.key)
        return policies.read(tx.db, cabinet, tx.now_ms)

    return await centre.change(work)


@get("/cabinets/{cabinet:str}/lighting/preview", responses=ASKING)
async def preview(
    centre: TheCentre,
    cabinet: FromPath[str],
    at: Annotated[datetime | None, QueryParameter(description="one moment; now unless told")] = None,
    from_: Annotated[datetime | None, QueryParameter(name="from", description="beginning of a while")] = None,
    to: Annotated[datetime | None, QueryParameter(description="its end")] = None,
) -> Preview:
    """Say what each lamp would do by the draft, and why: at one moment, or through a while."""
    if from_ is None and to is None:
        at_ms = moment_ms(at, "at", centre.clock.civil().utc_ms)
        return await centre.reader.ask(lambda db: lighting.preview_at(db, cabinet, at_ms))
    if from_ is None or to is None or at is not None:
        raise RequestError(400, "which time is meant?", [Fault("at", "expected either at, or from and to")])
    from_ms, to_ms = moment_ms(from_, "from", 0), moment_ms(to, "to", 0)
    if not 0 <= to_ms - from_ms <= LONGEST_PREVIEW / timedelta(milliseconds=1):
        raise RequestError(
            400,
            "such a while cannot be shown",
            [Fault("to", f"expected up to {LONGEST_PREVIEW.days} days after `from`")],
        )
    return await centre.reader.ask(lambda db: lighting.preview_through(db, cabinet, from_ms, to_ms))


def _same_id(path: str, body: str) -> None:
    if path != body:
        raise RequestError(
            422, "path and body name different things", [Fault("id", f"expected {path!r}, got {body!r}")]
        )


def _signature(text: str) -> bytes:
    try:
        signature = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(
            422, "the signature cannot be read", [Fault("signature", f"no base64: {error}")]
        ) from error
    if len(signature) != 64:
        raise RequestError(
            422, "this is no signature", [Fault("signature", f"{len(signature)} bytes; Ed25519 has 64")]
        )
    return signature


async def _documents(centre: Centre, table: str, limit: int, cursor: str | None) -> list[str]:
    after = "" if cursor is None else read_cursor(cursor, str)

    def question(db: sqlite3.Connection) -> list[str]:
        found = db.execute(
            f"SELECT document FROM {table} WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608  our own two names
            (after, limit + 1),
        )
        return [document for (document,) in found]

    return await centre.reader.ask(question)


async def _document(centre: Centre, table: str, name: str) -> str:
    def question(db: sqlite3.Connection) -> str:
        found = db.execute(f"SELECT document FROM {table} WHERE id = ?", (name,)).fetchone()  # noqa: S608  our own two names
        if found is None:
            raise not_found(table.replace("_", " "), name)
        return str(found[0])

    return await centre.reader.ask(question)


router = Router(
    "/",
    route_handlers=[
        list_programs,
        get_program,
        put_program,
        delete_program,
        list_calendars,
        get_calendar,
        put_calendar,
        delete_calendar,
        get_lighting,
        put_lighting,
        publish_lighting,
        post_policy,
        preview,
    ],
    tags=["lighting"],
)
