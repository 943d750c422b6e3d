"""A level that somebody wants of some lamps for a while: one command for each lamp, under one name."""

import sqlite3
from collections import Counter

import msgspec

from central.api.bodies import CommandView, OverrideRequest, OverrideView
from central.clock import moment
from central.commands import LEVEL, end_ms, enqueue, new_id
from central.errors import Fault, RequestError, not_found
from central.store.writer import Tx
from central.views import Row, command_view, maybe_moment, points_of, row, rows
from protocols.model.command import Command
from protocols.model.device import Kind
from protocols.model.ids import CabinetId, CommandId, DeviceId

MAX_LAMPS = 5_000
"""More at once is a district: its calendar is the place for that."""


def request(tx: Tx, wanted: OverrideRequest) -> OverrideView:
    """Take on an override for every lamp that it names.

    Raises:
        RequestError: if it names no lamps, or one that is none, or no time to come.
    """
    lamps = _lamps(tx, wanted)
    until_ms = _until_ms(tx, wanted)
    override = new_id("o")
    tx.db.execute(
        "INSERT INTO override (id, level, until_ms, ramp_s, issuer, created_ms) VALUES (?, ?, ?, ?, ?, ?)",
        (override, wanted.level, until_ms, wanted.ramp_s, wanted.issuer, tx.now_ms),
    )
    for lamp in lamps:
        command = _command(tx, lamp, wanted.issuer, wanted.expires_in_s, wanted.ramp_s)
        command = msgspec.structs.replace(command, value=wanted.level, until_ms=until_ms)
        enqueue(tx, CabinetId(lamp["cabinet"]), command, "", override)
    return view(tx, override)


def _command(tx: Tx, lamp: Row, issuer: str, expires_in_s: float, ramp_s: float) -> Command:
    return Command(
        id=CommandId(new_id("c")),
        device=DeviceId(lamp["id"]),
        point=LEVEL,
        value=None,
        issuer=issuer,
        expires_ms=tx.now_ms + round(1000 * expires_in_s),
        ramp_s=ramp_s,
    )


def _until_ms(tx: Tx, wanted: OverrideRequest) -> int:
    if (wanted.until is None) == (wanted.duration_s is None):
        raise RequestError(422, "one end is needed", [Fault("until", "expected either until or duration_s")])
    if wanted.duration_s is not None:
        return tx.civil_ms + round(1000 * wanted.duration_s)
    assert wanted.until is not None  # noqa: S101  one of the two is there
    return end_ms(tx, wanted.until)


def _lamps(tx: Tx, wanted: OverrideRequest) -> list[Row]:
    if bool(wanted.devices) == bool(wanted.group or wanted.cabinet):
        what = "expected either devices, or a group, a cabinet or both"
        raise RequestError(422, "which lamps are meant?", [Fault("devices", what)])
    lamps = _named(tx, wanted.devices) if wanted.devices else _selected(tx, wanted)
    if not lamps:
        raise RequestError(422, "that names no lamp", [Fault("group", "no lamp is in it")])
    if len(lamps) > MAX_LAMPS:
        raise RequestError(
            422, "too many lamps at once", [Fault("group", f"{len(lamps)} lamps; at most {MAX_LAMPS}")]
        )
    return lamps


def _named(tx: Tx, devices: tuple[str, ...]) -> list[Row]:
    faults, lamps = [], []
    for position, device in enumerate(dict.fromkeys(devices)):
        lamp = row(tx.db, "SELECT * FROM device WHERE id = ? AND listed = 1", (device,))
        if lamp is None or not _can_be_dimmed(lamp):
            faults.append(Fault(f"devices[{position}]", f"there is no lamp {device!r} that can be dimmed"))
        else:
            lamps.append(lamp)
    if faults:
        raise RequestError(422, "not all of these are lamps", faults)
    return lamps


def _selected(tx: Tx, wanted: OverrideRequest) -> list[Row]:
    found = rows(
        tx.db,
        "SELECT * FROM device WHERE listed = 1 AND kind = ? AND (?2 IS NULL OR cabinet = ?2) AND"
        " (?3 IS NULL OR id IN (SELECT device FROM device_group WHERE name = ?3)) ORDER BY id LIMIT ?4",
        (Kind.LAMP.value, wanted.cabinet, wanted.group, MAX_LAMPS + 1),
    )
    return [lamp for lamp in found if _can_be_dimmed(lamp)]


def _can_be_dimmed(lamp: Row) -> bool:
    return lamp["kind"] == Kind.LAMP.value and any(
        point.name == LEVEL and point.writable for point in points_of(lamp["points"])
    )


def release(tx: Tx, override: str, issuer: str) -> OverrideView:
    """Give the lamps of an override back to their programs.

    Raises:
        RequestError: if there is no such override.
    """
    known = row(tx.db, "SELECT * FROM override WHERE id = ?", (override,))
    if known is None:
        raise not_found("override", override)
    if known["released_ms"] is None:
        tx.db.execute("UPDATE override SET released_ms = ? WHERE id = ?", (tx.now_ms, override))
        for lamp in _lamps_of(tx, override):
            command = _command(tx, lamp, issuer, 300.0, known["ramp_s"])
            enqueue(tx, CabinetId(lamp["cabinet"]), command, "", override, release=True)
    return view(tx, override)


def _lamps_of(tx: Tx, override: str) -> list[Row]:
    """Return the lamps that an override still holds: whose latest command for the level is one of its own."""
    return rows(
        tx.db,
        "SELECT DISTINCT device.* FROM command JOIN device ON device.id = command.device"
        " WHERE command.override = ? AND command.release = 0 AND NOT EXISTS ("
        "  SELECT 1 FROM command AS later WHERE later.device = command.device AND later.point = command.point"
        "  AND later.ours = 1 AND later.created_ms > command.created_ms)",
        (override,),
    )


def view(tx: Tx, override: str) -> OverrideView:
    """Return an override, which must be there."""
    found = find(tx.db, override)
    assert found is not None  # noqa: S101  the caller has just touched it
    return found


def find(db: sqlite3.Connection, override: str) -> OverrideView | None:
    """Return an override with its commands, the releasing ones included."""
    known = row(db, "SELECT * FROM override WHERE id = ?", (override,))
    if known is None:
        return None
    found = rows(
        db, "SELECT * FROM command WHERE override = ? ORDER BY device, created_ms, release", (override,)
    )
    states = Counter(command_view(one).state.value for one in found if not one["release"])
    return _view(known, states, [command_view(one) for one in found])


def page(
    db: sqlite3.Connection, after: tuple[int, str], limit: int
) -> tuple[list[OverrideView], tuple[int, str] | None]:
    """Return overrides, the newest first, and where to go on."""
    found = rows(
        db,
        "SELECT * FROM override WHERE (created_ms, id) < (?, ?) ORDER BY created_ms DESC, id DESC LIMIT ?",
        (*after, limit + 1),
    )
    more = (found[limit - 1]["created_ms"], found[limit - 1]["id"]) if len(found) > limit else None
    return [_view(one, _states(db, one["id"]), []) for one in found[:limit]], more


def _states(db: sqlite3.Connection, override: str) -> dict[str, int]:
    counted = db.execute(
        "SELECT coalesce(assumed, state), count(*) FROM command WHERE override = ? AND release = 0"
        " GROUP BY 1",
        (override,),
    )
    return dict(counted.fetchall())


def _view(known: Row, states: dict[str, int], commands: list[CommandView]) -> OverrideView:
    return OverrideView(
        id=known["id"],
        level=known["level"],
        until=moment(known["until_ms"]),
        ramp_s=known["ramp_s"],
        issuer=known["issuer"],
        created=moment(known["created_ms"]),
        released=maybe_moment(known["released_ms"]),
        lamps=sum(states.values()),
        states=dict(states),
        commands=commands,
    )
