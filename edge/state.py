"""What the agent must not forget and a full outbox cannot block: policies, commands, overrides, alarms, requests.

Each method is one durable transaction; from the event loop they are called in a thread.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from drivers.database import open_database, open_readonly, transaction
from edge.known_time import ClockRecord
from edge.state_salvage import ensure_sound
from protocols.backhaul.messages import PolicyInForce, PriorityEvent, SignedPolicy
from protocols.backhaul.signing import policy_hash
from protocols.clock import ClockQuality, Instant
from protocols.model.alarm import Alarm
from protocols.model.command import Command, CommandState, advance
from protocols.model.ids import CommandId, DeviceId
from protocols.model.lighting import Override
from protocols.model.policy import Policy, PolicyKind
from protocols.model.reading import Value

COMMANDS_KEPT = 10_000
"""Ended commands that are remembered, so that a late repetition is recognised; one that has not expired always is."""

HOUR_MS = 3_600_000
"""For so long a grant is remembered: rules bound the grants of an hour."""

MIGRATIONS = (
    """
    CREATE TABLE policy (
        kind TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        hash TEXT NOT NULL,
        body BLOB NOT NULL,
        key TEXT NOT NULL,
        signature BLOB NOT NULL,
        accepted_ms INTEGER NOT NULL
    );
    CREATE TABLE command (
        id TEXT PRIMARY KEY,
        body BLOB NOT NULL,
        state TEXT NOT NULL,
        reason TEXT NOT NULL,
        value BLOB NOT NULL,
        at_ms INTEGER NOT NULL
    );
    CREATE TABLE override (
        device TEXT PRIMARY KEY,
        command TEXT NOT NULL,
        body BLOB NOT NULL
    );
    CREATE TABLE alarm (
        device TEXT NOT NULL,
        type TEXT NOT NULL,
        raised_ms INTEGER NOT NULL,
        text TEXT NOT NULL,
        PRIMARY KEY (device, type)
    );
    CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
    """,
    """
    CREATE TABLE priority_request (
        id TEXT PRIMARY KEY,
        junction TEXT NOT NULL,
        signal_group TEXT NOT NULL,
        event BLOB NOT NULL,
        boot TEXT NOT NULL,
        granted_monotonic_ms INTEGER,
        granted_utc_ms INTEGER,
        ended INTEGER NOT NULL DEFAULT 0
    );
    """,
)


class CommandRecord(msgspec.Struct, frozen=True):
    """A command and where it is.

    Attributes:
        command: what somebody wants.
        state: where it is.
        reason: why, for a person.
        value: what was read back.
        at_ms: UTC milliseconds of the last change.
    """

    command: Command
    state: CommandState
    reason: str
    value: Value
    at_ms: int


class StoredPolicy(msgspec.Struct, frozen=True):
    """A policy in force."""

    kind: PolicyKind
    version: int
    hash: str
    signed: SignedPolicy
    accepted_ms: int

    def policy(self) -> Policy:
        """Read its body, which was found valid when it was stored."""
        return msgspec.json.decode(self.signed.body, type=Policy)


class State:
    """`state.db`, open for writing by the agent or read-only for the command line."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> "State":
        """Open for writing, salvaging what is damaged; raises what `open_database` raises."""
        ensure_sound(path, MIGRATIONS)
        return cls(open_database(path, MIGRATIONS))

    @classmethod
    def look_at(cls, path: Path) -> "State":
        """Open read-only."""
        return cls(open_readonly(path))

    def close(self) -> None:
        """Close it."""
        with self._lock:
            self._db.close()

    # Policies

    def policies(self) -> dict[PolicyKind, StoredPolicy]:
        """Return what is in force."""
        with self._lock:
            rows = self._db.execute(
                "SELECT kind, version, hash, body, key, signature, accepted_ms FROM policy"
            ).fetchall()
        return {
            PolicyKind(kind): StoredPolicy(
                PolicyKind(kind), version, digest, SignedPolicy(body, key, signature), accepted_ms
            )
            for kind, version, digest, body, key, signature, accepted_ms in rows
        }

    def highest(self) -> dict[PolicyKind, int]:
        """Return for each kind the highest version that was ever here: what is in force is always that."""
        return {kind: stored.version for kind, stored in self.policies().items()}

    def in_force(self) -> tuple[PolicyInForce, ...]:
        """Return what is in force as a hello says it."""
        return tuple(PolicyInForce(s.kind.value, s.version, s.hash) for s in self.policies().values())

    def store_policy(self, policy: Policy, signed: SignedPolicy, now_ms: int) -> None:
        """Put a policy in force: version and body in one transaction."""
        digest = policy_hash(signed.body)
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO policy (kind, version, hash, body, key, signature, accepted_ms)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (policy.kind, policy.version, digest, signed.body, signed.key, signed.signature, now_ms),
            )

    # Commands

    def command(self, command_id: CommandId) -> CommandRecord | None:
        """Return a command, or None if it was never here."""
        with self._lock:
            row = self._db.execute(
                "SELECT body, state, reason, value, at_ms FROM command WHERE id = ?", (command_id,)
            ).fetchone()
        return _record(row) if row else None

    def open_commands(self) -> list[CommandRecord]:
        """Return the commands on which something is still to be done."""
        with self._lock:
            rows = self._db.execute(
                "SELECT body, state, reason, value, at_ms FROM command WHERE state IN (?, ?) ORDER BY at_ms",
                (CommandState.QUEUED, CommandState.EXECUTING),
            ).fetchall()
        return [_record(row) for row in rows]

    def add_command(self, command: Command, state: CommandState, reason: str, now_ms: int) -> CommandRecord:
        """Remember a new command, queued or rejected."""
        record = CommandRecord(command, state, reason, None, now_ms)
        with self._transaction():
            self._db.execute(
                "INSERT INTO command (id, body, state, reason, value, at_ms) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    command.id,
                    msgspec.json.encode(command),
                    state,
                    reason,
                    msgspec.json.encode(None),
                    now_ms,
                ),
            )
            self._db.execute(
                "DELETE FROM command WHERE id IN (SELECT id FROM (SELECT id, body FROM command"
                " WHERE state NOT IN (?, ?) ORDER BY at_ms DESC LIMIT -1 OFFSET ?)"
                " WHERE json_extract(CAST(body AS TEXT), '$.expires_ms') < ?)",
                (CommandState.QUEUED, CommandState.EXECUTING, COMMANDS_KEPT, now_ms),
            )
        return record

    def is_full(self) -> bool:
        """Tell whether more commands are remembered than there is room for: none has expired of twice as many."""
        with self._lock:
            count = self._db.execute("SELECT count(*) FROM command").fetchone()[0]
        return int(count) >= 2 * COMMANDS_KEPT

    def advance_command(
        self, record: CommandRecord, state: CommandState, reason: str, value: Value, now_ms: int
    ) -> CommandRecord:
        """Take a command on.

        Raises:
            LocalProtocolError: if it cannot go there.
        """
        advanced = CommandRecord(record.command, advance(record.state, state), reason, value, now_ms)
        with self._transaction():
            self._write_command(advanced)
        return advanced

    def begin_override(self, record: CommandRecord, override: Override | None, now_ms: int) -> CommandRecord:
        """Record `executing` and the override it means, or the end of one, in one transaction."""
        state = advance(record.state, CommandState.EXECUTING)
        advanced = CommandRecord(record.command, state, "", None, now_ms)
        with self._transaction():
            self._write_command(advanced)
            if override is None:
                self._db.execute("DELETE FROM override WHERE device = ?", (record.command.device,))
            else:
                self._db.execute(
                    "INSERT OR REPLACE INTO override (device, command, body) VALUES (?, ?, ?)",
                    (record.command.device, record.command.id, msgspec.json.encode(override)),
                )
        return advanced

    def overrides(self) -> dict[DeviceId, Override]:
        """Return the overrides, those included whose time is over."""
        with self._lock:
            rows = self._db.execute("SELECT device, body FROM override").fetchall()
        return {DeviceId(device): msgspec.json.decode(body, type=Override) for device, body in rows}

    def end_override(self, device: DeviceId, override: Override) -> None:
        """Forget an override whose time is over, unless a newer one has taken its place."""
        body = msgspec.json.encode(override)
        with self._transaction():
            self._db.execute("DELETE FROM override WHERE device = ? AND body = ?", (device, body))

    # Alarms

    def alarms(self) -> list[Alarm]:
        """Return the alarms that last."""
        with self._lock:
            rows = self._db.execute("SELECT device, type, raised_ms, text FROM alarm").fetchall()
        return [msgspec.convert(dict(zip(_ALARM, row, strict=True)), Alarm) for row in rows]

    def store_alarms(self, changed: list[Alarm], clock: ClockRecord | None = None) -> None:
        """Remember alarms that were raised, forget those that were cleared.

        Args:
            changed: how they are.
            clock: what is known of the time by which they are told: the next run must not begin before them.
        """
        with self._transaction():
            if clock is not None:
                self._write_clock(clock)
            for alarm in changed:
                if alarm.cleared_ms is None:
                    self._db.execute(
                        "INSERT OR REPLACE INTO alarm (device, type, raised_ms, text) VALUES (?, ?, ?, ?)",
                        (alarm.device, alarm.type, alarm.raised_ms, alarm.text),
                    )
                else:
                    self._db.execute(
                        "DELETE FROM alarm WHERE device = ? AND type = ?", (alarm.device, alarm.type)
                    )

    # Requests for priority

    def open_priority(self, event: PriorityEvent, boot: str) -> None:
        """Remember a request before it is sent, so that the next run takes it back if this one cannot."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO priority_request (id, junction, signal_group, event, boot)"
                " VALUES (?, ?, ?, ?, ?)",
                (event.request, event.junction, event.signal_group, msgspec.json.encode(event), boot),
            )

    def note_priority(
        self, event: PriorityEvent, now: Instant, *, granted: bool = False, ended: bool = False
    ) -> None:
        """Remember what became of a request; what has ended is forgotten an hour after it was granted."""
        with self._transaction():
            self._db.execute(
                "UPDATE priority_request SET event = ?, ended = ? WHERE id = ?",
                (msgspec.json.encode(event), ended, event.request),
            )
            if granted:
                self._db.execute(
                    "UPDATE priority_request SET granted_monotonic_ms = ?, granted_utc_ms = ? WHERE id = ?",
                    (now.monotonic_ms, now.utc_ms, event.request),
                )
            self._db.execute(
                "DELETE FROM priority_request WHERE ended AND coalesce(granted_monotonic_ms, 0) <= ?",
                (max(0, now.monotonic_ms - HOUR_MS),),
            )

    def left_priority(self) -> list[PriorityEvent]:
        """Return the last event of each request that was not over."""
        with self._lock:
            rows = self._db.execute("SELECT event FROM priority_request WHERE NOT ended").fetchall()
        return [msgspec.json.decode(event, type=PriorityEvent) for (event,) in rows]

    def take_up_grants(self, boot: str, now: Instant) -> list[tuple[DeviceId, str, int]]:
        """Return junction, signal group and monotonic milliseconds of each grant that may be of the last hour.

        A grant of this boot has its monotonic time. One of an earlier boot is from now on one of now, unless
        the clock was ever set and says that it is older than an hour.
        """
        is_set = now.quality is not ClockQuality.UNSYNCHRONISED
        with self._transaction():
            self._db.execute(
                "DELETE FROM priority_request WHERE ended AND boot != ? AND ? AND granted_utc_ms <= ?",
                (boot, is_set, now.utc_ms - HOUR_MS),
            )
            self._db.execute(
                "UPDATE priority_request SET boot = ?, granted_monotonic_ms = ?"
                " WHERE boot != ? AND granted_monotonic_ms IS NOT NULL",
                (boot, now.monotonic_ms, boot),
            )
            rows = self._db.execute(
                "SELECT junction, signal_group, granted_monotonic_ms FROM priority_request"
                " WHERE granted_monotonic_ms IS NOT NULL ORDER BY rowid"
            ).fetchall()
        return [(DeviceId(junction), signal_group, at_ms) for junction, signal_group, at_ms in rows]

    # Time

    def floor_ms(self) -> int:
        """Return UTC milliseconds before which it cannot be: what the policies in force say, and older versions knew.

        A policy is accepted no earlier than it says, and its time is signed.
        """
        with self._lock:
            row = self._db.execute("SELECT value FROM meta WHERE key = 'trusted_ms'").fetchone()
        signed = [stored.policy().not_before_ms for stored in self.policies().values()]
        return max([int(row[0]) if row else 0, *signed])

    def clock(self) -> ClockRecord | None:
        """Return what an earlier run knew of the time; None if none has said."""
        with self._lock:
            row = self._db.execute("SELECT value FROM meta WHERE key = 'clock'").fetchone()
        return msgspec.json.decode(row[0], type=ClockRecord) if row else None

    def store_clock(self, record: ClockRecord) -> None:
        """Remember what is known of the time, so that a clock that starts in 1970 revives nothing expired."""
        with self._transaction():
            self._write_clock(record)

    def _write_clock(self, record: ClockRecord) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO meta (key, value) VALUES ('clock', ?)", (msgspec.json.encode(record),)
        )

    def _write_command(self, record: CommandRecord) -> None:
        self._db.execute(
            "UPDATE command SET state = ?, reason = ?, value = ?, at_ms = ? WHERE id = ?",
            (record.state, record.reason, msgspec.json.encode(record.value), record.at_ms, record.command.id),
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, transaction(self._db):
            yield


_ALARM = ("device", "type", "raised_ms", "text")


def _record(row: tuple[bytes, str, str, bytes, int]) -> CommandRecord:
    body, state, reason, value, at_ms = row
    return CommandRecord(
        msgspec.json.decode(body, type=Command),
        CommandState(state),
        reason,
        msgspec.json.decode(value),
        at_ms,
    )
