"""A damaged `state.db`: the rows that can be believed go into a new file, so that the street goes on at once.

Its rows do not depend on each other. Each is believed by what it says of itself: a policy by its hash, a command, a
request and an alarm by their own ids. What is lost the centre sends again, or nobody needs any more; but a command
that was ended and is lost could be carried out again, and an older policy accepted: that is logged.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from drivers.damage import Bad, Replacement, Walk, any_text, damage_of
from drivers.database import open_readonly, transaction
from edge.known_time import ClockRecord
from protocols.backhaul.messages import PriorityEvent
from protocols.backhaul.signing import policy_hash
from protocols.model.alarm import AlarmType
from protocols.model.command import Command, CommandState
from protocols.model.lighting import Override
from protocols.model.policy import Policy

log = structlog.get_logger()


def _is_policy(
    kind: str, version: int, digest: str, body: bytes, _key: str, _signature: bytes, accepted_ms: int
) -> bool:
    policy = msgspec.json.decode(body, type=Policy)
    return policy_hash(body) == digest and (policy.kind, policy.version, int(accepted_ms)) == (
        kind,
        version,
        accepted_ms,
    )


def _is_command(command: str, body: bytes, state: str, _reason: str, value: bytes, at_ms: int) -> bool:
    msgspec.json.decode(value)
    return (msgspec.json.decode(body, type=Command).id, CommandState(state), int(at_ms)) == (
        command,
        state,
        at_ms,
    )


def _is_override(_device: str, _command: str, body: bytes) -> bool:
    msgspec.json.decode(body, type=Override)
    return True


def _is_alarm(_device: str, kind: str, raised_ms: int, _text: str) -> bool:
    return (AlarmType(kind), int(raised_ms)) == (kind, raised_ms)


def _is_request(request: str, _junction: str, _group: str, event: bytes, *_: object) -> bool:
    return msgspec.json.decode(event, type=PriorityEvent).request == request


_TABLES: Final[dict[str, tuple[str, Callable[..., bool]]]] = {
    "policy": ("kind, version, hash, body, key, signature, accepted_ms", _is_policy),
    "command": ("id, body, state, reason, value, at_ms", _is_command),
    "override": ("device, command, body", _is_override),
    "alarm": ("device, type, raised_ms, text", _is_alarm),
    "priority_request": (
        "id, junction, signal_group, event, boot, granted_monotonic_ms, granted_utc_ms, ended",
        _is_request,
    ),
}


def ensure_sound(path: Path, migrations: Sequence[str]) -> None:
    """See to it that a state's file, if there is one, is sound; what was begun is finished first.

    Raises:
        sqlite3.Error, OSError: if the disk refuses; the damaged file is still there, or the new one.
    """
    replacement = Replacement(path)
    if not replacement.is_ready():
        found = damage_of(path) if path.exists() else ""
        if not found:
            return
        log.error("state_damaged", found=found)
        kept = _build(path, replacement.begin(), migrations)
        log.error("state_salvaged", **kept, damaged_file=str(replacement.aside))
    for step in replacement.steps(keep=True):  # it is small
        step()


def _build(damaged: Path, new: Path, migrations: Sequence[str]) -> dict[str, int]:
    """Write into the empty file `new` what is believed; return how many rows of each table."""
    with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as into:
        for script in migrations:
            into.executescript(script)
        into.execute(f"PRAGMA user_version={len(migrations)}")
        with contextlib.closing(open_readonly(damaged)) as db, transaction(into):
            db.text_factory = any_text
            kept = {table: _copy(db, into, table) for table in _TABLES}
            _copy_time(db, into)
    return kept


def _copy(db: sqlite3.Connection, into: sqlite3.Connection, table: str) -> int:
    columns, is_believed = _TABLES[table]

    def judge(row: tuple[Any, ...]) -> tuple[int, tuple[Any, ...]] | None:
        with contextlib.suppress(msgspec.MsgspecError, TypeError, ValueError, UnicodeError):
            if is_believed(*row[1:]):
                return row[0], row[1:]
        return None

    select = f"SELECT rowid, {columns} FROM {table} WHERE rowid"  # noqa: S608  our own names
    walk = Walk(
        db, f"{select} >= ? ORDER BY rowid LIMIT ?", f"{select} < ? ORDER BY rowid DESC LIMIT 1", judge
    )
    places = ", ".join("?" * (columns.count(",") + 1))
    count = 0
    for _, row in walk.rows(1):
        insert = f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({places})"  # noqa: S608
        count += into.execute(insert, row).rowcount
    return count


def _copy_time(db: sqlite3.Connection, into: sqlite3.Connection) -> None:
    """Keep what was known of the time. If that is lost, the policies say before when it cannot be."""
    for key, kind in (("trusted_ms", int), ("clock", ClockRecord)):
        with contextlib.suppress(*Bad, msgspec.MsgspecError, TypeError):
            row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            if row is not None:
                msgspec.json.decode(str(row[0]) if isinstance(row[0], int) else row[0], type=kind)
                into.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (key, row[0]))
