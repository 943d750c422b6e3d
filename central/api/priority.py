"""Priority: who gets it at a cabinet's junctions, what became of each request, and what it brought."""

import sqlite3
from datetime import datetime
from typing import Annotated

from litestar import Router, get, post, put
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath, QueryParameter

from central import drafts, figures, leases, policies, priority
from central.api.bodies import Page, Policies
from central.api.cabinets import known_cabinet
from central.api.paging import Cursor, Limit, TheCentre, moment_ms, read_cursor, write_cursor
from central.api.priority_bodies import (
    Priority,
    PriorityFigures,
    PriorityHistory,
    PriorityPublishRequest,
    PriorityView,
)
from central.api.problems import ASKING, CHANGING
from central.clock import LAST_MS
from central.envelopes import EXAMPLES
from central.errors import Fault, RequestError, not_found
from central.store.writer import Tx
from central.views import narrowed, priority_view, row, rows
from protocols.model.ids import CabinetId
from protocols.model.policy import PolicyKind
from protocols.model.priority import RequestState

DEFAULT_DAYS = 7
_EXAMPLE = Example(summary="One approach, one rule", value=EXAMPLES[PolicyKind.PRIORITY]["priority"])
Name = Annotated[str | None, QueryParameter(max_length=63)]
From = Annotated[datetime | None, QueryParameter(name="from", description="first moment")]
To = Annotated[datetime | None, QueryParameter(description="last moment")]


@get("/cabinets/{cabinet:str}/priority", responses=ASKING)
async def get_priority(centre: TheCentre, cabinet: FromPath[str]) -> Priority:
    """Show who is to get priority at a cabinet's junctions, published or not."""
    return await centre.reader.ask(lambda db: drafts.get(db, cabinet, Priority))


@put("/cabinets/{cabinet:str}/priority", responses=CHANGING)
async def put_priority(
    centre: TheCentre,
    cabinet: FromPath[str],
    data: Annotated[Priority, Body(title="priority", examples=[_EXAMPLE])],
) -> Priority:
    """Write who is to get priority at a cabinet's junctions: a draft, until it is published."""
    await centre.change(lambda tx: drafts.put(tx, cabinet, data))
    return data


@post("/cabinets/{cabinet:str}/priority/publish", status_code=202, responses=CHANGING)
async def publish_priority(
    centre: TheCentre,
    cabinet: FromPath[str],
    data: Annotated[PriorityPublishRequest | None, Body(title="publication")] = None,
) -> Policies:
    """Check, number and sign a cabinet's priority rules for the time of a lease, and send them down."""
    key = centre.signing_key()

    def work(tx: Tx) -> Policies:
        known_cabinet(tx.db, cabinet)
        terms = leases.terms_of(tx, data or PriorityPublishRequest())
        policies.publish(tx, CabinetId(cabinet), PolicyKind.PRIORITY, key, terms)
        return policies.read(tx.db, cabinet, tx.now_ms)

    return await centre.change(work)


@get("/priority-requests", responses=ASKING)
async def list_requests(
    centre: TheCentre,
    *,
    limit: Limit = 100,
    cursor: Cursor = None,
    cabinet: Name = None,
    junction: Name = None,
    rule: Name = None,
    state_: Annotated[
        RequestState | None, QueryParameter(name="state", description="the last that the controller said")
    ] = None,
    asked: Annotated[
        bool | None,
        QueryParameter(description="only those that a controller was asked for, or only the others"),
    ] = None,
    over: Annotated[
        bool | None,
        QueryParameter(description="only those that the cabinet holds no longer, or only the others"),
    ] = None,
    contradictory: Annotated[
        bool | None,
        QueryParameter(description="only those whose steps contradict each other, or only the others"),
    ] = None,
    from_: From = None,
    to: To = None,
) -> Page[PriorityView]:
    """List requests for a green, the newest first."""
    after = (LAST_MS, 2**62) if cursor is None else read_cursor(cursor, tuple[int, int])
    conditions, values = narrowed(
        {
            "cabinet": cabinet,
            "junction": junction,
            "rule": rule,
            "state": None if state_ is None else state_.value,
            "(asked_ms IS NOT NULL)": asked,
            "over": over,
            "(contradiction <> '')": contradictory,
        }
    )
    given = (*after, *_span(from_, to, 0, LAST_MS), *values, limit + 1)
    found = await centre.reader.ask(
        lambda db: rows(
            db,
            "SELECT * FROM priority_request WHERE (first_ms, id) < (?, ?) AND first_ms BETWEEN ? AND ?"  # noqa: S608  expressions of ours
            f"{conditions} ORDER BY first_ms DESC, id DESC LIMIT ?",
            given,
        )
    )
    more = (found[limit - 1]["first_ms"], found[limit - 1]["id"]) if len(found) > limit else None
    return Page([priority_view(one) for one in found[:limit]], write_cursor(more) if more else None)


@get("/priority-requests/{cabinet:str}/{request_id:str}", responses=ASKING)
async def get_request(
    centre: TheCentre, cabinet: FromPath[str], request_id: FromPath[str]
) -> PriorityHistory:
    """Show a request for a green with its steps."""

    def question(db: sqlite3.Connection) -> PriorityHistory:
        found = row(
            db, "SELECT * FROM priority_request WHERE cabinet = ? AND request = ?", (cabinet, request_id)
        )
        if found is None:
            raise not_found(f"priority request of {cabinet}", request_id)
        return priority.history(db, found)

    return await centre.reader.ask(question)


@get("/priority-figures", responses=ASKING)
async def list_figures(
    centre: TheCentre,
    *,
    limit: Limit = 100,
    cursor: Cursor = None,
    cabinet: Name = None,
    junction: Name = None,
    rule: Name = None,
    from_: From = None,
    to: To = None,
) -> Page[PriorityFigures]:
    """Count what priority did, by day, junction and rule: seven days unless told."""
    after = figures.BEGINNING if cursor is None else read_cursor(cursor, tuple[int, str, str, str])
    to_ms = moment_ms(to, "to", centre.clock.now().utc_ms)
    first_day = max(0, to_ms // figures.DAY_MS - DEFAULT_DAYS + 1)
    from_ms, to_ms = _span(from_, to, first_day * figures.DAY_MS, to_ms)
    if to_ms - from_ms > figures.LONGEST_DAYS * figures.DAY_MS:
        what = f"expected up to {figures.LONGEST_DAYS} days after `from`"
        raise RequestError(400, "so many days are not counted at once", [Fault("to", what)])
    asked = figures.Question(from_ms, to_ms, cabinet, junction, rule)
    found, more = await centre.reader.ask(lambda db: figures.page(db, asked, after, limit))
    return Page(found, write_cursor(more) if more else None)


def _span(
    from_: datetime | None, to: datetime | None, default_from_ms: int, default_to_ms: int
) -> tuple[int, int]:
    from_ms, to_ms = moment_ms(from_, "from", default_from_ms), moment_ms(to, "to", default_to_ms)
    if from_ms > to_ms:
        raise RequestError(
            400, "the range ends before it begins", [Fault("to", "expected a moment after `from`")]
        )
    return from_ms, to_ms


router = Router(
    "/",
    route_handlers=[
        get_priority,
        put_priority,
        publish_priority,
        list_requests,
        get_request,
        list_figures,
    ],
    tags=["priority"],
)
