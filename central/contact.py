"""Whether a cabinet is there: from what it says, from its last will, and from the age of what arrives."""

import sqlite3

from central.api.bodies import CabinetSummary, Contact
from central.views import Row, maybe_moment, row

SILENT_AFTER_MS = 600_000
"""A cabinet that says that it is connected and sends nothing for so long is named silent."""

REACHABLE = """
    SELECT id FROM cabinet WHERE online
    OR (SELECT max(received_ms) FROM stream WHERE stream.cabinet = cabinet.id) > coalesce(presence_ms, 0)
"""
"""Those to whom it makes sense to send something: the others say hello when they are back."""

SUMMARIES = """
    SELECT cabinet.*, max(
        coalesce((SELECT max(received_ms) FROM stream WHERE stream.cabinet = cabinet.id), 0),
        coalesce(hello_ms, 0), coalesce(presence_ms, 0)) AS seen_ms,
    (SELECT count(*) FROM device WHERE device.cabinet = cabinet.id AND listed = 1) AS devices,
    (SELECT count(*) FROM gap WHERE gap.cabinet = cabinet.id) AS gaps,
    (SELECT max(to_ms) FROM gap WHERE gap.cabinet = cabinet.id) AS last_gap_ms,
    (SELECT count(*) FROM alarm WHERE alarm.cabinet = cabinet.id AND cleared_ms IS NULL) AS active_alarms,
    (SELECT lease_until_ms FROM policy_in_force AS force JOIN policy USING (cabinet, kind, version, hash)
        WHERE force.cabinet = cabinet.id AND force.kind = 'priority') AS priority_until_ms
    FROM cabinet
"""


def contact(found: Row, now_ms: int) -> Contact:
    """Tell whether a cabinet is there, from what it says and from the age of what arrives.

    A last will may be late; what came after it proves it wrong.
    """
    if not found["online"] and found["seen_ms"] <= (found["presence_ms"] or 0):
        return Contact.OFFLINE
    return Contact.SILENT if now_ms - found["seen_ms"] > SILENT_AFTER_MS else Contact.CONNECTED


def summary(found: Row, now_ms: int) -> CabinetSummary:
    """Return a row of `SUMMARIES`."""
    seen_ms = found["seen_ms"] or None
    return CabinetSummary(
        id=found["id"],
        contact=contact(found, now_ms),
        seen=maybe_moment(seen_ms),
        age_s=None if seen_ms is None else max(0.0, (now_ms - seen_ms) / 1000),
        agent_version=found["agent_version"],
        devices=found["devices"],
        active_alarms=found["active_alarms"],
        priority_until=maybe_moment(found["priority_until_ms"]),
        gaps=found["gaps"],
        last_gap=maybe_moment(found["last_gap_ms"]),
    )


def find(db: sqlite3.Connection, cabinet: str) -> Row | None:
    """Return a cabinet's row of `SUMMARIES`."""
    return row(db, f"{SUMMARIES} WHERE cabinet.id = ?", (cabinet,))
