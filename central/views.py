"""Rows of the store as the API's types."""

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from central.api.bodies import (
    AlarmView,
    ClockName,
    CommandView,
    DeviceView,
    GapView,
    PointReading,
    PointView,
    QualityName,
    ReadingView,
    StampedBy,
    StreamName,
)
from central.api.priority_bodies import PriorityView
from central.clock import moment
from protocols.backhaul.messages import GapCause, Source
from protocols.model.alarm import SEVERITY, AlarmType
from protocols.model.command import CommandState
from protocols.model.device import Kind, Point
from protocols.model.priority import RequestState
from protocols.model.reading import Reason, Value

QUALITIES = tuple(QualityName)
CLOCKS = tuple(ClockName)
STREAMS = tuple(StreamName)
STAMPERS = tuple(StampedBy)

R = TypeVar("R", bound=ReadingView)
G = TypeVar("G", bound=GapView)

Row = Mapping[str, Any]
"""A row by its columns' names: SQLite's columns have no types that Python could know."""

_POINTS = msgspec.json.Decoder(tuple[Point, ...])
_TEXTS = msgspec.json.Decoder(list[str])
_VALUE = msgspec.json.Decoder(Value)


def rows(db: sqlite3.Connection, question: str, given: Sequence[object] = ()) -> list[Row]:
    """Ask, and return the rows by their columns' names."""
    cursor = db.execute(question, given)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def row(db: sqlite3.Connection, question: str, given: Sequence[object] = ()) -> Row | None:
    """Ask for one row, or None."""
    found = rows(db, question, given)
    return found[0] if found else None


def narrowed(wanted: Mapping[str, object]) -> tuple[str, list[object]]:
    """Return the conditions that hold one expression after another to what is wanted of it, None for anything.

    What is not wanted is left out, so that SQLite can use the index of what is.

    Args:
        wanted: by expressions of ours, never a caller's.
    """
    held = {expression: value for expression, value in wanted.items() if value is not None}
    return "".join(f" AND {expression} = ?" for expression in held), list(held.values())


def maybe_moment(utc_ms: int | None) -> datetime | None:
    """Return a moment, or None for none."""
    return None if utc_ms is None else moment(utc_ms)


def _native(found: Row) -> Value:
    value: Value = found["value"]
    return bool(value) if found["boolean"] else value


def reading_view(found: Row, shape: type[R]) -> R:
    """Return a row of readings in one of the shapes that a reading has in the API."""
    return shape(
        time=moment(found["utc_ms"]),
        value=_native(found),
        quality=QUALITIES[found["quality"]],
        reason=Reason(found["reason"]) if found["reason"] else None,
        clock=CLOCKS[found["clock"]],
        stamped_by=STAMPERS[found["stamped"]],
    )


def point_reading(found: Row) -> PointReading:
    """Return a row of latest values, with `device` and `point`."""
    plain = reading_view(found, ReadingView)
    return PointReading(
        device=found["device"],
        point=found["point"],
        snapshot=bool(found["snapshot"]),
        **{name: getattr(plain, name) for name in ReadingView.__struct_fields__},
    )


def gap_view(found: Row, shape: type[G]) -> G:
    """Return a row of gaps in one of the shapes that a gap has in the API."""
    return shape(
        id=found["id"],
        cabinet=found["cabinet"],
        stream=STREAMS[found["stream"]],
        cause=GapCause(found["cause"]),
        from_time=maybe_moment(found["from_ms"]),
        to_time=moment(found["to_ms"]),
        count=found["count"],
        reported=bool(found["reported"]),
        epoch=found["epoch"] if found["first"] else None,
        first=found["first"] or None,
        last=found["last"] or None,
        learnt=maybe_moment(found["learnt_ms"]),
    )


def device_view(found: Row) -> DeviceView:
    """Return a row of devices."""
    return DeviceView(
        id=found["id"],
        cabinet=found["cabinet"],
        listed=bool(found["listed"]),
        kind=Kind(found["kind"]) if found["kind"] else None,
        line=found["line"],
        address=found["address"],
        stream=STREAMS[found["stream"]],
        groups=_TEXTS.decode(found["groups"]),
        commune=found["commune"],
        points=[
            PointView(p.name, p.unit, p.writable, p.minimum, p.maximum) for p in points_of(found["points"])
        ],
    )


def points_of(text: str) -> tuple[Point, ...]:
    """Return the points that a device's row holds."""
    return _POINTS.decode(text)


def alarm_view(found: Row) -> AlarmView:
    """Return a row of alarms."""
    kind = AlarmType(found["type"])
    return AlarmView(
        id=found["id"],
        cabinet=found["cabinet"],
        device=found["device"],
        type=kind,
        severity=SEVERITY[kind],
        active=found["cleared_ms"] is None,
        raised=moment(found["raised_ms"]),
        cleared=maybe_moment(found["cleared_ms"]),
        acknowledged=maybe_moment(found["acknowledged_ms"]),
        acknowledged_by=found["acknowledged_by"],
        text=found["text"],
    )


def command_view(found: Row) -> CommandView:
    """Return a row of commands."""
    return CommandView(
        id=found["id"],
        cabinet=found["cabinet"],
        device=found["device"],
        point=found["point"],
        value=_VALUE.decode(found["value"]),
        issuer=found["issuer"],
        state=CommandState(found["assumed"] or found["state"]),
        assumed=found["assumed"] is not None,
        reason=found["reason"],
        changed=moment(found["state_ms"]),
        created=moment(found["created_ms"]),
        expires=moment(found["expires_ms"]),
        until=maybe_moment(found["until_ms"]),
        ramp_s=found["ramp_s"],
        ours=bool(found["ours"]),
        sends=found["sends"],
        override=found["override"],
    )


def priority_view(found: Row) -> PriorityView:
    """Return a row of priority requests."""
    asked_ms, activated_ms = found["asked_ms"], found["activated_ms"]
    return PriorityView(
        id=found["request"],
        cabinet=found["cabinet"],
        junction=found["junction"],
        rule=found["rule"],
        approach=found["approach"],
        signal_group=found["signal_group"],
        vehicle=found["vehicle"],
        source=Source(found["source"]),
        level=found["level"],
        state=RequestState(found["state"]) if found["state"] else None,
        reason=found["reason"],
        first=moment(found["first_ms"]),
        asked=maybe_moment(asked_ms),
        changed=moment(found["changed_ms"]),
        activated=maybe_moment(activated_ms),
        wait_s=None if activated_ms is None else (activated_ms - asked_ms) / 1000,
        extension_s=found["extension_s"],
        reduction_s=found["reduction_s"],
        shadow=bool(found["shadow"]),
        over=bool(found["over"]),
        contradiction=found["contradiction"],
    )
