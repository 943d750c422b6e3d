"""Gaps: what is missing at the centre and will never come, of all cabinets or of one."""

from datetime import datetime
from typing import Annotated

from litestar import Router, get
from litestar.params import FromQuery, QueryParameter

from central.api.bodies import GapView, Page, StreamName
from central.api.paging import Cursor, Limit, TheCentre, moment_ms, read_cursor, write_cursor
from central.api.problems import ASKING
from central.clock import LAST_MS
from central.views import STREAMS, gap_view, narrowed, rows
from protocols.backhaul.messages import GapCause

_GAPS = """
    SELECT * FROM gap WHERE to_ms >= ? AND coalesce(from_ms, 0) <= ? AND (to_ms, id) < (?, ?)%s
    ORDER BY to_ms DESC, id DESC LIMIT ?
"""


@get("/", responses=ASKING)
async def list_gaps(
    centre: TheCentre,
    *,
    limit: Limit = 100,
    cursor: Cursor = None,
    cabinet: Annotated[str | None, QueryParameter(max_length=63)] = None,
    stream: FromQuery[StreamName | None] = None,
    cause: FromQuery[GapCause | None] = None,
    reported: Annotated[
        bool | None, QueryParameter(description="only those that a cabinet reported, or the others")
    ] = None,
    from_: Annotated[datetime | None, QueryParameter(name="from", description="first moment")] = None,
    to: Annotated[datetime | None, QueryParameter(description="last moment")] = None,
) -> Page[GapView]:
    """List gaps that touch a range of time, those that lasted latest first."""
    before = (LAST_MS + 1, 0) if cursor is None else read_cursor(cursor, tuple[int, int])
    conditions, values = narrowed(
        {
            "cabinet": cabinet,
            "stream": None if stream is None else STREAMS.index(stream),
            "cause": None if cause is None else cause.value,
            "reported": reported,
        }
    )
    given = (moment_ms(from_, "from", 0), moment_ms(to, "to", LAST_MS), *before, *values, limit + 1)
    found = await centre.reader.ask(lambda db: rows(db, _GAPS % conditions, given))
    items = [gap_view(one, GapView) for one in found[:limit]]
    last = found[limit - 1] if len(found) > limit else None
    return Page(items, None if last is None else write_cursor((last["to_ms"], last["id"])))


router = Router("/gaps", route_handlers=[list_gaps], tags=["gaps"])
