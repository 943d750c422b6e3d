"""Commands and overrides: what somebody wants done, and how far it has come."""

from typing import Annotated

from litestar import Response, Router, delete, get, post
from litestar.openapi import ResponseSpec
from litestar.params import Body, FromPath, QueryParameter

from central import commands, overrides
from central.api.bodies import CommandRequest, CommandView, OverrideRequest, OverrideView, Page
from central.api.paging import Cursor, Limit, TheCentre, read_cursor, write_cursor
from central.api.problems import ASKING, CHANGING
from central.errors import not_found
from central.views import command_view, row, rows
from protocols.model.command import CommandState

KNOWN_ALREADY = {200: ResponseSpec(CommandView, description="The same command was taken on before")}


@post("/commands", status_code=202, responses=CHANGING | KNOWN_ALREADY)
async def post_command(
    centre: TheCentre, data: Annotated[CommandRequest, Body(title="command")]
) -> Response[CommandView]:
    """Take on a command: 202 when it is new, 200 when the same one was taken on before."""
    known, new = await centre.change(lambda tx: commands.request(tx, data))
    return Response(command_view(known), status_code=202 if new else 200)


@get("/commands", responses=ASKING)
async def list_commands(
    centre: TheCentre,
    *,
    limit: Limit = 100,
    cursor: Cursor = None,
    cabinet: Annotated[str | None, QueryParameter(max_length=63)] = None,
    device: Annotated[str | None, QueryParameter(max_length=63)] = None,
    state_: Annotated[CommandState | None, QueryParameter(name="state")] = None,
) -> Page[CommandView]:
    """List commands, the newest first; those given at the cabinet too."""
    after = (2**62, "") if cursor is None else read_cursor(cursor, tuple[int, str])
    given = (*after, cabinet, device, None if state_ is None else state_.value, limit + 1)
    found = await centre.reader.ask(
        lambda db: rows(
            db,
            "SELECT * FROM command WHERE (created_ms, id) < (?1, ?2) AND (?3 IS NULL OR cabinet = ?3)"
            " AND (?4 IS NULL OR device = ?4) AND (?5 IS NULL OR coalesce(assumed, state) = ?5)"
            " ORDER BY created_ms DESC, id DESC LIMIT ?6",
            given,
        )
    )
    more = (found[limit - 1]["created_ms"], found[limit - 1]["id"]) if len(found) > limit else None
    return Page([command_view(one) for one in found[:limit]], write_cursor(more) if more else None)


@get("/commands/{command:str}", responses=ASKING)
async def get_command(centre: TheCentre, command: FromPath[str]) -> CommandView:
    """Show a command and how far it has come."""
    found = await centre.reader.ask(lambda db: row(db, "SELECT * FROM command WHERE id = ?", (command,)))
    if found is None:
        raise not_found("command", command)
    return command_view(found)


@post("/overrides", status_code=202, responses=CHANGING)
async def post_override(
    centre: TheCentre, data: Annotated[OverrideRequest, Body(title="override")]
) -> OverrideView:
    """Take on an override: one command for each lamp, under one id."""
    return await centre.change(lambda tx: overrides.request(tx, data))


@get("/overrides", responses=ASKING)
async def list_overrides(centre: TheCentre, limit: Limit = 100, cursor: Cursor = None) -> Page[OverrideView]:
    """List overrides, the newest first, without their commands."""
    after = (2**62, "") if cursor is None else read_cursor(cursor, tuple[int, str])
    found, more = await centre.reader.ask(lambda db: overrides.page(db, after, limit))
    return Page(found, write_cursor(more) if more else None)


@get("/overrides/{override:str}", responses=ASKING)
async def get_override(centre: TheCentre, override: FromPath[str]) -> OverrideView:
    """Show an override with the command of each lamp."""
    found = await centre.reader.ask(lambda db: overrides.find(db, override))
    if found is None:
        raise not_found("override", override)
    return found


@delete("/overrides/{override:str}", status_code=202, responses=CHANGING)
async def delete_override(
    centre: TheCentre,
    override: FromPath[str],
    issuer: Annotated[str, QueryParameter(min_length=1, max_length=128)] = "operator",
) -> OverrideView:
    """Give the lamps of an override back to their programs, before its time is over."""
    return await centre.change(lambda tx: overrides.release(tx, override, issuer))


router = Router(
    "/",
    route_handlers=[
        post_command,
        list_commands,
        get_command,
        post_override,
        list_overrides,
        get_override,
        delete_override,
    ],
    tags=["commands"],
)
