"""What needs somebody to act: one alarm per (device, type); a repeat updates it."""

from collections.abc import Iterable

from central.effects import Change, ChangeKind
from central.errors import RequestError, not_found
from central.store.writer import Tx
from central.views import Row, alarm_view, row, rows
from protocols.backhaul.messages import AlarmEvent
from protocols.model.alarm import Alarm
from protocols.model.ids import CabinetId

MAX_TEXT = 400
FUTURE_MS = 300_000
"""An alarm that claims to be from so far ahead of us hides no later one: its clock was wrong."""


def report(tx: Tx, cabinet: CabinetId, event: AlarmEvent | Alarm) -> None:
    """Record that an alarm was raised, repeated or cleared.

    Events of a backlog come after a hello that already says how things stand now, so an event about an
    occurrence before the one that is known changes nothing, unless that one is from a future that is none.
    """
    known = row(
        tx.db,
        "SELECT * FROM alarm WHERE cabinet = ? AND device = ? AND type = ? ORDER BY repeated_ms DESC LIMIT 1",
        (cabinet, event.device, event.type.value),
    )
    absurd = known is not None and known["repeated_ms"] > max(tx.now_ms + FUTURE_MS, event.raised_ms)
    if known is not None and event.raised_ms < known["repeated_ms"] and not absurd:
        return
    if known is not None and known["cleared_ms"] is None:
        _update(tx, known, event)
    elif known is None or event.raised_ms > known["repeated_ms"] or absurd:
        _insert(tx, cabinet, event)


def _update(tx: Tx, known: Row, event: AlarmEvent | Alarm) -> None:
    tx.db.execute(
        "UPDATE alarm SET repeated_ms = ?, cleared_ms = ?, text = ? WHERE id = ?",
        (event.raised_ms, event.cleared_ms, event.text[:MAX_TEXT], known["id"]),
    )
    _tell(tx, known["id"])


def _insert(tx: Tx, cabinet: CabinetId, event: AlarmEvent | Alarm) -> None:
    inserted = tx.db.execute(
        "INSERT INTO alarm (cabinet, device, type, raised_ms, repeated_ms, cleared_ms, text)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            cabinet,
            event.device,
            event.type.value,
            event.raised_ms,
            event.raised_ms,
            event.cleared_ms,
            event.text[:MAX_TEXT],
        ),
    )
    _tell(tx, inserted.lastrowid)


def reconcile(tx: Tx, cabinet: CabinetId, active: Iterable[Alarm]) -> None:
    """Make the active alarms of a cabinet those that its hello lists: what it does not list is over."""
    listed = {(alarm.device, alarm.type.value): alarm for alarm in active}
    lasting = rows(tx.db, "SELECT * FROM alarm WHERE cabinet = ? AND cleared_ms IS NULL", (cabinet,))
    for known in lasting:
        if (known["device"], known["type"]) not in listed:
            tx.db.execute("UPDATE alarm SET cleared_ms = ? WHERE id = ?", (tx.now_ms, known["id"]))
            _tell(tx, known["id"])
    for alarm in listed.values():
        report(tx, cabinet, alarm)


def acknowledge(tx: Tx, alarm_id: int, by: str) -> Row:
    """Record who took notice of an alarm, once.

    Raises:
        RequestError: if there is no such alarm, or somebody else took notice of it before.
    """
    known = row(tx.db, "SELECT * FROM alarm WHERE id = ?", (alarm_id,))
    if known is None:
        raise not_found("alarm", str(alarm_id))
    if known["acknowledged_by"] not in {None, by}:
        raise RequestError(409, f"{known['acknowledged_by']} acknowledged this alarm already")
    if known["acknowledged_by"] is None:
        tx.db.execute(
            "UPDATE alarm SET acknowledged_ms = ?, acknowledged_by = ? WHERE id = ?",
            (tx.now_ms, by, alarm_id),
        )
        _tell(tx, alarm_id)
    return row(tx.db, "SELECT * FROM alarm WHERE id = ?", (alarm_id,)) or known


def tell_lasting(tx: Tx, cabinet: CabinetId) -> None:
    """Tell who looks of a cabinet's lasting alarms: their times were put right."""
    for (alarm_id,) in tx.db.execute(
        "SELECT id FROM alarm WHERE cabinet = ? AND cleared_ms IS NULL", (cabinet,)
    ).fetchall():
        _tell(tx, alarm_id)


def _tell(tx: Tx, alarm_id: int | None) -> None:
    found = row(tx.db, "SELECT * FROM alarm WHERE id = ?", (alarm_id,))
    if found is not None:
        tx.effects.changes.append(Change(ChangeKind.ALARM, found["cabinet"], alarm_view(found)))
