"""Who the cabinets are: their hellos, what hangs on their lines, and whether they are there."""

from collections.abc import Sequence

import msgspec

from central import alarms, boots, commands, policies, streams
from central.contact import find, summary
from central.effects import Change, ChangeKind
from central.errors import MessageError, RefusedFor
from central.store.writer import Tx
from protocols.backhaul.messages import Hello, Presence, StartEvent
from protocols.model.device import Device
from protocols.model.ids import CabinetId

MAX_CABINETS = 100_000
MAX_DEVICES = 10_000
"""Behind one cabinet."""
MAX_REFUSED_DEVICES = 1_000
"""That one cabinet can make us remember."""


def hello(tx: Tx, said: Hello) -> None:
    """Take note of all that a cabinet says at a connection, and answer it."""
    if len(said.inventory) > MAX_DEVICES:
        raise MessageError(RefusedFor.BEYOND_BOUNDS, f"{len(said.inventory)} devices; at most {MAX_DEVICES}")
    _enter(tx, said.cabinet)
    _introduce(tx, said)
    boots.heard_now(tx, said.cabinet, said.boot, said.monotonic_ms)
    _take_inventory(tx, said.cabinet, said.inventory)
    streams.hear_heads(tx, said.cabinet, said.epoch, said.streams)
    alarms.reconcile(tx, said.cabinet, said.alarms)
    policies.hear_in_force(tx, said.cabinet, said.policies)
    commands.send_open_again(tx, said.cabinet)
    tx.effects.acks.add((said.cabinet, said.epoch))
    _tell(tx, said.cabinet)


def _enter(tx: Tx, cabinet: CabinetId) -> None:
    known = tx.db.execute("SELECT 1 FROM cabinet WHERE id = ?", (cabinet,)).fetchone()
    if known is None:
        count = tx.db.execute("SELECT count(*) FROM cabinet").fetchone()[0]
        if count >= MAX_CABINETS:
            raise MessageError(RefusedFor.BEYOND_BOUNDS, f"more than {MAX_CABINETS} cabinets")
        tx.db.execute("INSERT INTO cabinet (id, first_seen_ms) VALUES (?, ?)", (cabinet, tx.now_ms))


def _introduce(tx: Tx, said: Hello) -> None:
    tx.db.execute(
        "UPDATE cabinet SET hello_ms = ?, online = 1, presence_ms = ?, boot = ?,"
        " epoch = ?, agent_version = ?, sqlite_version = ?, last_end = ?, clock = ?, keys = ? WHERE id = ?",
        (
            tx.now_ms,
            tx.now_ms,
            said.boot,
            said.epoch,
            said.agent_version,
            said.sqlite_version,
            said.last_end.value,
            said.clock,
            msgspec.json.encode(said.keys).decode(),
            said.cabinet,
        ),
    )


def _take_inventory(tx: Tx, cabinet: CabinetId, inventory: Sequence[Device]) -> None:
    """Make a cabinet's listed devices those of its hello, but for what another cabinet lists."""
    tx.db.execute("UPDATE device SET listed = 0 WHERE cabinet = ?", (cabinet,))
    tx.db.execute(
        "DELETE FROM device_group WHERE device IN (SELECT id FROM device WHERE cabinet = ?)", (cabinet,)
    )
    for device in inventory:
        owner = owner_of(tx, cabinet, device.id)
        if owner == cabinet:
            _list(tx, cabinet, device)
        else:
            refuse_device(tx, cabinet, device.id, owner, readings=0)
    tx.caches.owners.clear()
    tx.db.execute(
        "INSERT INTO centre (name, value) VALUES ('inventory', 1)"
        " ON CONFLICT DO UPDATE SET value = value + 1"  # other processes remember owners too
    )


def _list(tx: Tx, cabinet: CabinetId, device: Device) -> None:
    tx.db.execute(
        "INSERT OR REPLACE INTO device (id, cabinet, listed, kind, line, address, stream, groups, commune,"
        " points) VALUES (?, ?, 1, ?, ?, ?, ?, ?, ?, ?)",
        (
            device.id,
            cabinet,
            device.kind.value,
            device.line,
            device.address,
            device.stream,
            msgspec.json.encode(device.groups).decode(),
            device.commune,
            msgspec.json.encode(device.points).decode(),
        ),
    )
    list_stream(tx, cabinet, device)
    tx.db.executemany(
        "INSERT OR IGNORE INTO device_group (name, device) VALUES (?, ?)",
        [(group, device.id) for group in device.groups],
    )


def list_stream(tx: Tx, cabinet: CabinetId, device: Device) -> None:
    """Remember until when a device was listed in a stream of a cabinet."""
    tx.db.execute(
        "INSERT INTO device_stream (device, cabinet, stream, listed_from_ms, listed_to_ms)"
        " VALUES (?1, ?2, ?3, ?4, ?4) ON CONFLICT DO UPDATE"
        " SET listed_from_ms = coalesce(listed_from_ms, ?4), listed_to_ms = ?4",
        (device.id, cabinet, device.stream, tx.now_ms),
    )


def owner_of(tx: Tx, cabinet: CabinetId, device: str) -> str:
    """Return whose a device is: another cabinet's only while that one lists it."""
    found = tx.db.execute(
        "SELECT cabinet FROM device WHERE id = ? AND (listed = 1 OR cabinet = ?)", (device, cabinet)
    ).fetchone()
    return cabinet if found is None else str(found[0])


def refuse_device(tx: Tx, cabinet: CabinetId, device: str, owner: str, readings: int) -> None:
    """Remember that a cabinet names another's device, for somebody to look into."""
    tx.effects.refused_devices.append((cabinet, device, owner))
    known = tx.db.execute("SELECT count(*) FROM refused_device WHERE cabinet = ?", (cabinet,)).fetchone()[0]
    if known < MAX_REFUSED_DEVICES:
        tx.db.execute(
            "INSERT INTO refused_device (cabinet, device, owner, readings, first_ms, last_ms)"
            " VALUES (?1, ?2, ?3, ?4, ?5, ?5) ON CONFLICT DO UPDATE SET owner = ?3,"
            " readings = readings + ?4, last_ms = ?5",
            (cabinet, device[:200], owner, readings, tx.now_ms),
        )


def presence(tx: Tx, cabinet: CabinetId, said: Presence) -> None:
    """Record whether a cabinet is connected, as it says or as its last will says."""
    _enter(tx, cabinet)
    tx.db.execute(
        "UPDATE cabinet SET online = ?, presence_ms = ? WHERE id = ?", (said.online, tx.now_ms, cabinet)
    )
    _tell(tx, cabinet)


def started(tx: Tx, cabinet: CabinetId, event: StartEvent) -> None:
    """Record that a cabinet's agent began to run."""
    tx.db.execute(
        "UPDATE cabinet SET started_ms = ?, last_end = ?, agent_version = ? WHERE id = ?",
        (event.at_ms, event.last_end.value, event.agent_version, cabinet),
    )


def _tell(tx: Tx, cabinet: CabinetId) -> None:
    found = find(tx.db, cabinet)
    if found is not None:
        tx.effects.changes.append(Change(ChangeKind.CABINET, cabinet, summary(found, tx.now_ms)))
