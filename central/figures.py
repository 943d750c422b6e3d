"""What priority did, counted from the requests that are kept: by day, junction and rule."""

import sqlite3
from collections.abc import Set
from datetime import UTC, date, datetime

import msgspec

from central.api.priority_bodies import PriorityFigures
from central.priority import GRANTED
from central.views import Row, rows
from protocols.backhaul.messages import Source
from protocols.model.priority import RequestState

DAY_MS = 86_400_000
LONGEST_DAYS = 31
"""What is kept of a busy junction; a city of junctions is counted through in some seconds."""

Place = tuple[int, str, str, str]
"""Where a list goes on: days since 1970 counted backwards, cabinet, junction, rule."""
BEGINNING: Place = (-(2**31), "", "", "")


class Question(msgspec.Struct, frozen=True):
    """Of what the figures are asked for.

    Attributes:
        from_ms: UTC milliseconds, inclusive.
        to_ms: UTC milliseconds, inclusive.
        cabinet: only of this one; None for all.
        junction: the same.
        rule: the same.
    """

    from_ms: int
    to_ms: int
    cabinet: str | None
    junction: str | None
    rule: str | None


def _in(states: Set[RequestState]) -> str:
    return ", ".join(f"'{state.value}'" for state in sorted(states))


_COUNTED = f"""
    WITH told AS (
        SELECT *, -(first_ms / {DAY_MS}) AS day, NOT shadow AND source <> '{Source.TECHNICIAN.value}' AS real
        FROM priority_request WHERE first_ms BETWEEN ?1 AND ?2 AND (?3 IS NULL OR cabinet = ?3)
        AND (?4 IS NULL OR junction = ?4) AND (?5 IS NULL OR rule = ?5)
    ), ordered AS (
        SELECT day, cabinet, junction, rule, activated_ms - asked_ms AS wait_ms,
            row_number() OVER (PARTITION BY day, cabinet, junction, rule ORDER BY activated_ms - asked_ms) AS place,
            count(*) OVER (PARTITION BY day, cabinet, junction, rule) AS waits
        FROM told WHERE real AND activated_ms IS NOT NULL
    ), median AS (
        SELECT day, cabinet, junction, rule, avg(wait_ms) AS median_wait_ms FROM ordered
        WHERE place IN ((waits + 1) / 2, (waits + 2) / 2) GROUP BY day, cabinet, junction, rule
    )
    SELECT day, cabinet, junction, rule,
        count(*) FILTER (WHERE real) AS requests,
        count(*) FILTER (WHERE real AND state IN ({_in(GRANTED)})) AS granted,
        count(*) FILTER (WHERE real AND state IN ({_in({RequestState.STALE})})) AS stale,
        count(*) FILTER (WHERE real AND state IN ({_in({RequestState.REJECTED})})) AS rejected,
        count(*) FILTER (WHERE real AND state IN ({_in({RequestState.COOLDOWN})})) AS cooldown,
        count(*) FILTER (WHERE real AND state IN ({_in({RequestState.TIMEOUT})})) AS timed_out,
        count(*) FILTER (WHERE real AND state IN ({_in({RequestState.RECEIVED, RequestState.QUEUED})})) AS waiting,
        count(*) FILTER (WHERE real AND state IS NULL AND asked_ms IS NOT NULL) AS unanswered,
        count(*) FILTER (WHERE real AND asked_ms IS NULL) AS not_asked,
        count(*) FILTER (WHERE shadow AND source <> '{Source.TECHNICIAN.value}') AS shadow,
        count(*) FILTER (WHERE source = '{Source.TECHNICIAN.value}') AS trials,
        count(*) FILTER (WHERE contradiction <> '') AS contradictory,
        coalesce(sum(extension_s) FILTER (WHERE real AND state IN ({_in(GRANTED)})), 0) AS extension_s,
        coalesce(sum(reduction_s) FILTER (WHERE real AND state IN ({_in(GRANTED)})), 0) AS reduction_s,
        max(median_wait_ms) AS median_wait_ms
    FROM told LEFT JOIN median USING (day, cabinet, junction, rule)
    WHERE (day, cabinet, junction, rule) > (?6, ?7, ?8, ?9)
    GROUP BY day, cabinet, junction, rule ORDER BY day, cabinet, junction, rule LIMIT ?10
"""  # noqa: S608  words and numbers of ours


def page(
    db: sqlite3.Connection, asked: Question, after: Place, limit: int
) -> tuple[list[PriorityFigures], Place | None]:
    """Return figures, the newest day first, and where to go on."""
    given = (asked.from_ms, asked.to_ms, asked.cabinet, asked.junction, asked.rule, *after, limit + 1)
    found = rows(db, _COUNTED, given)
    last = found[limit - 1] if len(found) > limit else None
    more = None if last is None else (last["day"], last["cabinet"], last["junction"], last["rule"])
    return [_figures(one) for one in found[:limit]], more


def _figures(found: Row) -> PriorityFigures:
    median_ms = found["median_wait_ms"]
    counted = {name: found[name] for name in PriorityFigures.__struct_fields__ if name in found}
    return PriorityFigures(
        **counted | {"day": _date(-found["day"])},
        green_seconds_gained=found["extension_s"] + found["reduction_s"],
        median_wait_s=None if median_ms is None else median_ms / 1000,
    )


def _date(days: int) -> date:
    return datetime.fromtimestamp(days * 86_400, UTC).date()
