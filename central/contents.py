"""What the kinds of policy hold: how each is made of its draft, and what can be wrong with it."""

import sqlite3
from collections.abc import Sequence
from typing import assert_never

import msgspec

from central import drafts
from central.api.bodies import Lighting
from central.api.priority_bodies import Priority
from central.errors import Fault, RequestError
from central.views import Row, points_of, rows
from protocols.model.device import Device, Kind, StreamClass
from protocols.model.ids import DeviceId, LineId
from protocols.model.lighting import Calendar, ControlProgram, Lamp, LightingPolicy
from protocols.model.policy import Policy, PolicyKind
from protocols.model.priority import PriorityPolicy
from protocols.rules.soundness import lighting_faults, misplaced_content, priority_faults

Content = LightingPolicy | PriorityPolicy

_PROGRAM = msgspec.json.Decoder(ControlProgram)
_CALENDAR = msgspec.json.Decoder(Calendar)
_TEXTS = msgspec.json.Decoder(list[str])


def listed_devices(db: sqlite3.Connection, cabinet: str) -> list[Row]:
    """Return the devices that a cabinet lists."""
    return rows(db, "SELECT * FROM device WHERE cabinet = ? AND listed = 1 ORDER BY id", (cabinet,))


def lamps_of(found: Sequence[Row]) -> list[Lamp]:
    """Return the lamps among rows of devices."""
    return [
        Lamp(DeviceId(one["id"]), one["line"], one["address"], tuple(_TEXTS.decode(one["groups"])))
        for one in found
        if one["kind"] == Kind.LAMP.value
    ]


def devices_of(found: Sequence[Row]) -> list[Device]:
    """Return rows of listed devices as the cabinet described them."""
    return [
        Device(
            id=DeviceId(one["id"]),
            kind=Kind(one["kind"]),
            line=LineId(one["line"]),
            address=one["address"],
            stream=StreamClass(one["stream"]),
            groups=tuple(_TEXTS.decode(one["groups"])),
            commune=one["commune"],
            points=points_of(one["points"]),
        )
        for one in found
    ]


def documents(db: sqlite3.Connection) -> tuple[list[ControlProgram], list[Calendar]]:
    """Return every control program and every calendar of the city."""
    programs = db.execute("SELECT document FROM control_program ORDER BY id")
    calendars = db.execute("SELECT document FROM calendar ORDER BY id")
    return [_PROGRAM.decode(r[0]) for r in programs], [_CALENDAR.decode(r[0]) for r in calendars]


def compiled(db: sqlite3.Connection, cabinet: str, kind: PolicyKind, lease_until_ms: int) -> Content:
    """Make a cabinet's draft of a kind into a policy's content.

    Raises:
        RequestError: if there is no draft.
    """
    match kind:
        case PolicyKind.LIGHTING:
            lighting = drafts.find(db, cabinet, Lighting)
            if lighting is not None:
                return compile_lighting(lighting, *documents(db))
        case PolicyKind.PRIORITY:
            priority = drafts.find(db, cabinet, Priority)
            if priority is not None:
                return compile_priority(priority, lease_until_ms)
        case _:
            assert_never(kind)
    raise RequestError(409, f"nothing is drafted for {cabinet}: put its {kind.value} first")


def compile_lighting(
    draft: Lighting, programs: Sequence[ControlProgram], calendars: Sequence[Calendar]
) -> LightingPolicy:
    """Gather what a draft uses, and only that, into a policy that needs nothing else."""
    wanted = {assignment.calendar for assignment in draft.assignments}
    used = tuple(calendar for calendar in calendars if calendar.id in wanted)
    named = {name for c in used for name in (c.default_program, *(rule.program for rule in c.rules))}
    return LightingPolicy(
        place=draft.place,
        programs=tuple(program for program in programs if program.id in named),
        calendars=used,
        assignments=draft.assignments,
        default_level=draft.default_level,
    )


def compile_priority(draft: Priority, lease_until_ms: int) -> PriorityPolicy:
    """Put a draft under a lease."""
    return PriorityPolicy(
        approaches=draft.approaches,
        rules=draft.rules,
        lease_until_ms=lease_until_ms,
        stale_position_s=draft.stale_position_s,
    )


def content_faults(db: sqlite3.Connection, cabinet: str, policy: Policy) -> list[Fault]:
    """Return every fault of a policy's content for the devices that a cabinet lists, each with its place."""
    misplaced = misplaced_content(policy)
    if misplaced:
        return [Fault("", text) for text in misplaced]
    listed = listed_devices(db, cabinet)
    texts: list[str] = []
    if policy.lighting is not None:
        texts += lighting_faults(policy.lighting, lamps_of(listed))
    if policy.priority is not None:
        texts += priority_faults(policy.priority, devices_of(listed))
    return [placed(text) for text in texts]


def placed(text: str) -> Fault:
    """Return a fault apart from its place, which stands before a colon."""
    where, separator, what = text.partition(": ")
    return Fault(where, what) if separator else Fault("", where)
