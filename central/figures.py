"""What priority did, counted from the requests that are kept: by day, junction and rule."""

import sqlite3
from collections.abc import Set
from datetime import timedelta

import msgspec

from central.api.priority_bodies import PriorityFigures
from central.clock import EPOCH
from central.priority import GRANTED
from central.views import Row, narrowed, rows
from protocols.backhaul.messages import Source
from protocols.model.priority import RequestState

DAY_MS = 86_400_000
LONGEST_DAYS = 31
"""What is kept of a busy junction."""

Place = tuple[int, str, str, str]
"""Where a list goes on: day since 1970, cabinet, junction, rule."""
BEGINNING: Place = (2**31, "", "", "")


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
        SELECT *, NOT shadow AND source <> '{Source.TECHNICIAN.value}' AS real
        FROM priority_request WHERE first_ms BETWEEN ? AND ?%s
    ), ordered AS (
        SELECT cabinet, junction, rule, activated_ms - asked_ms AS wait_ms,
            row_number() OVER (PARTITION BY cabinet, junction, rule ORDER BY activated_ms - asked_ms) AS place,
            count(*) OVER (PARTITION BY cabinet, junction, rule) AS waits
        FROM told WHERE real AND activated_ms IS NOT NULL
    ), median AS (
        SELECT cabinet, junction, rule, avg(wait_ms) AS median_wait_ms FROM ordered
        WHERE place IN ((waits + 1) / 2, (waits + 2) / 2) GROUP BY cabinet, junction, rule
    )
    SELECT cabinet, junction, rule,
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
    FROM told LEFT JOIN median USING (cabinet, junction, rule) WHERE (cabinet, junction, rule) > (?, ?, ?)
    GROUP BY cabinet, junction, rule ORDER BY cabinet, junction, rule LIMIT ?
"""  # noqa: S608  words of ours


def page(
    db: sqlite3.Connection, asked: Question, after: Place, limit: int
) -> tuple[list[PriorityFigures], Place | None]:
    """Return figures, the newest day first, and where to go on. Only the days of this page are counted."""
    found: list[PriorityFigures] = []
    last = min(asked.to_ms // DAY_MS, after[0])
    for day in range(last, asked.from_ms // DAY_MS - 1, -1):
        place = after[1:] if day == after[0] else BEGINNING[1:]
        found += [_figures(day, one) for one in _counted(db, asked, day, place, limit + 1 - len(found))]
        if len(found) > limit:
            end = found[limit - 1]
            return found[:limit], ((end.day - EPOCH.date()).days, end.cabinet, end.junction, end.rule)
    return found, None


def _counted(
    db: sqlite3.Connection, asked: Question, day: int, place: tuple[str, str, str], limit: int
) -> list[Row]:
    conditions, values = narrowed({"cabinet": asked.cabinet, "junction": asked.junction, "rule": asked.rule})
    from_ms, to_ms = max(asked.from_ms, day * DAY_MS), min(asked.to_ms, (day + 1) * DAY_MS - 1)
    return rows(db, _COUNTED % conditions, (from_ms, to_ms, *values, *place, limit))


def _figures(day: int, found: Row) -> PriorityFigures:
    median_ms = found["median_wait_ms"]
    return PriorityFigures(
        day=EPOCH.date() + timedelta(days=day),
        **{name: found[name] for name in PriorityFigures.__struct_fields__ if name in found},
        green_seconds_gained=found["extension_s"] + found["reduction_s"],
        median_wait_s=None if median_ms is None else median_ms / 1000,
    )
