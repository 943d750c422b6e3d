"""Alarms: what needs somebody to act, and who has taken notice."""

from typing import Annotated

from litestar import Router, get, post
from litestar.params import Body, PathParameter, QueryParameter

from central import alarms
from central.api.bodies import Acknowledgement, AlarmView, Page
from central.api.paging import Cursor, Limit, TheCentre, read_cursor, write_cursor
from central.api.problems import ASKING, CHANGING
from central.errors import not_found
from central.views import alarm_view, row, rows
from protocols.model.alarm import AlarmType

AlarmNumber = Annotated[int, PathParameter(ge=1, lt=2**53)]


@get("/", responses=ASKING)
async def list_alarms(
    centre: TheCentre,
    *,
    limit: Limit = 100,
    cursor: Cursor = None,
    active: Annotated[
        bool | None, QueryParameter(description="only those that last, or only those that are over")
    ] = None,
    cabinet: Annotated[str | None, QueryParameter(max_length=63)] = None,
    device: Annotated[str | None, QueryParameter(max_length=63)] = None,
    type_: Annotated[AlarmType | None, QueryParameter(name="type")] = None,
) -> Page[AlarmView]:
    """List alarms, the newest first."""
    before = 2**62 if cursor is None else read_cursor(cursor, int)
    given = (min(before, 2**62), active, cabinet, device, None if type_ is None else type_.value, limit + 1)
    found = await centre.reader.ask(
        lambda db: rows(
            db,
            "SELECT * FROM alarm WHERE id < ?1 AND (?2 IS NULL OR (cleared_ms IS NULL) = ?2)"
            " AND (?3 IS NULL OR cabinet = ?3) AND (?4 IS NULL OR device = ?4)"
            " AND (?5 IS NULL OR type = ?5) ORDER BY id DESC LIMIT ?6",
            given,
        )
    )
    items = [alarm_view(one) for one in found[:limit]]
    return Page(items, write_cursor(items[-1].id) if len(found) > limit else None)


@get("/{alarm:int}", responses=ASKING)
async def get_alarm(centre: TheCentre, alarm: AlarmNumber) -> AlarmView:
    """Show an alarm."""
    found = await centre.reader.ask(lambda db: row(db, "SELECT * FROM alarm WHERE id = ?", (alarm,)))
    if found is None:
        raise not_found("alarm", str(alarm))
    return alarm_view(found)


@post("/{alarm:int}/acknowledge", status_code=200, responses=CHANGING)
async def acknowledge_alarm(
    centre: TheCentre, alarm: AlarmNumber, data: Annotated[Acknowledgement, Body(title="acknowledgement")]
) -> AlarmView:
    """Take notice of an alarm, in somebody's name."""
    return alarm_view(await centre.change(lambda tx: alarms.acknowledge(tx, alarm, data.by)))


router = Router("/alarms", route_handlers=[list_alarms, get_alarm, acknowledge_alarm], tags=["alarms"])
