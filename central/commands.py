"""The life of a command, from the operator's wish to the cabinet's word.

A command is sent again, each time later, until the cabinet answers or it expires. Where no word comes the
centre says what it must assume (never sent: expired; sent: nobody knows) and goes on listening: after a week
without backhaul the cabinet's own word still comes, and replaces the assumption.
"""

import secrets
from datetime import datetime
from enum import StrEnum

import msgspec

from central.api.bodies import LONGEST_OVERRIDE_S, CommandRequest
from central.clock import milliseconds
from central.contact import REACHABLE
from central.effects import Change, ChangeKind, Downlink
from central.errors import Fault, MessageError, RefusedFor, RequestError
from central.store.writer import Tx
from central.views import Row, command_view, points_of, row, rows
from protocols.backhaul.codec import encode
from protocols.backhaul.messages import VERSION, CommandEvent, CommandMessage
from protocols.backhaul.topics import Down
from protocols.model.command import Command, CommandState, advance, may_follow
from protocols.model.device import Kind, Point
from protocols.model.ids import CabinetId, CommandId, DeviceId, PointName, is_id
from protocols.model.reading import Value

RESEND_FIRST_S = 2
RESEND_MOST_S = 60
GRACE_MS = 30_000
"""After its expiry a command that a cabinet began in time may still be answered for so long."""
DUE_PER_TICK = 500
DEFAULT_EXPIRY_S = 60.0
LEVEL = PointName("dimming_level")
"""The point by which a lamp's light is commanded, percent. Source: uCIFI 3416, in snake case."""


class Assumed(StrEnum):
    """What the centre must assume of a command without an answer."""

    EXPIRED = CommandState.EXPIRED.value
    """It never left."""
    OUTCOME_UNKNOWN = CommandState.OUTCOME_UNKNOWN.value
    """It left, and no word came."""


def new_id(prefix: str) -> str:
    """Return an identity that nobody guesses."""
    return f"{prefix}-{secrets.token_hex(8)}"


def request(tx: Tx, wanted: CommandRequest) -> tuple[Row, bool]:
    """Take on a command; return its row, and whether it is new. The same id with the same body is one.

    Raises:
        RequestError: if the id stands for something else, or the device cannot be commanded so.
    """
    text = msgspec.json.encode(wanted).decode()
    if wanted.id is not None:
        known = row(tx.db, "SELECT * FROM command WHERE id = ?", (wanted.id,))
        if known is not None:
            return _same(known, text), False
    device = commandable(tx, wanted.device, wanted.point, wanted.value)
    _check_end(device, wanted)
    command = Command(
        id=CommandId(wanted.id or new_id("c")),
        device=DeviceId(wanted.device),
        point=PointName(wanted.point),
        value=wanted.value,
        issuer=wanted.issuer,
        expires_ms=_expiry_ms(tx, wanted),
        until_ms=None if wanted.until is None else end_ms(tx, wanted.until),
        ramp_s=wanted.ramp_s,
    )
    enqueue(tx, CabinetId(device["cabinet"]), command, text)
    return get(tx, command.id), True


def _check_end(device: Row, wanted: CommandRequest) -> None:
    """Refuse to hold a lamp at a level for ever, and to give back to a program what has none."""
    if device["kind"] == Kind.LAMP and wanted.point == LEVEL:
        if wanted.value is not None and wanted.until is None:
            what = "missing; a lamp keeps a level until a moment, then its program rules again"
            raise RequestError(422, "it would never end", [Fault("until", what)])
        return
    what = f"{wanted.point} of {wanted.device} has no program to return to"
    faults = [
        Fault(key, what) for key, given in (("value", wanted.value is None), ("until", wanted.until)) if given
    ]
    if faults:
        raise RequestError(422, "there is nothing to return to", faults)


def _same(known: Row, text: str) -> Row:
    if known["request"] != text:
        raise RequestError(
            409, f"command {known['id']!r} is already something else", [Fault("id", "is in use")]
        )
    return known


def _expiry_ms(tx: Tx, wanted: CommandRequest) -> int:
    if wanted.expires_at is None:
        return tx.now_ms + round(1000 * (wanted.expires_in_s or DEFAULT_EXPIRY_S))
    expires_ms = milliseconds(wanted.expires_at)
    if wanted.expires_in_s is not None:
        raise RequestError(422, "one expiry is enough", [Fault("expires_at", "stands beside expires_in_s")])
    if expires_ms <= tx.now_ms:
        raise RequestError(422, "it would never begin", [Fault("expires_at", "expected a moment to come")])
    return expires_ms


def end_ms(tx: Tx, until: datetime) -> int:
    """Return the end of an override as civil UTC milliseconds.

    Raises:
        RequestError: if it is over already, or too far away to be meant.
    """
    until_ms = milliseconds(until)
    if until_ms <= tx.civil_ms:
        raise RequestError(
            422, "it would be over before it began", [Fault("until", "expected a moment to come")]
        )
    if until_ms > tx.civil_ms + LONGEST_OVERRIDE_S * 1000:
        what = f"expected a moment within {LONGEST_OVERRIDE_S // 86_400} days"
        raise RequestError(422, "it would hardly ever end", [Fault("until", what)])
    return until_ms


def commandable(tx: Tx, device: str, point: str, value: Value) -> Row:
    """Return the row of a device whose point can be commanded to a value.

    Raises:
        RequestError: if it cannot.
    """
    found = row(tx.db, "SELECT * FROM device WHERE id = ? AND listed = 1", (device,))
    if found is None:
        raise RequestError(
            422, "no cabinet has this device", [Fault("device", f"there is no device {device!r}")]
        )
    described = next((p for p in points_of(found["points"]) if p.name == point), None)
    if described is None or not described.writable:
        what = "cannot be commanded" if described else "is not there"
        raise RequestError(422, f"{device} cannot do that", [Fault("point", f"{point!r} of {device} {what}")])
    _check_value(described, value)
    return found


def _check_value(point: Point, value: Value) -> None:
    if value is None or (point.minimum is None and point.maximum is None):
        return
    if isinstance(value, bool | str):
        raise RequestError(
            422, "the device cannot mean this value", [Fault("value", f"no number: {value!r}")]
        )
    if (point.minimum is not None and value < point.minimum) or (
        point.maximum is not None and value > point.maximum
    ):
        bounds = f"expected {point.minimum} to {point.maximum} {point.unit}, got {value}"
        raise RequestError(422, "the device cannot mean this value", [Fault("value", bounds)])


def enqueue(
    tx: Tx,
    cabinet: CabinetId,
    command: Command,
    request_text: str,
    override: str = "",
    *,
    release: bool = False,
) -> None:
    """Store a command that is to be sent; it takes the place of what is still open for the same point."""
    _supersede(tx, command)
    tx.db.execute(
        "INSERT INTO command (id, cabinet, device, point, value, issuer, created_ms, expires_ms,"
        " not_before_ms, until_ms, ramp_s, ours, state, reason, state_ms, answered, sends, send_ms, override,"
        " release, request) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, '', ?, 0, 0, ?, ?, ?, ?)",
        (
            command.id,
            cabinet,
            command.device,
            command.point,
            msgspec.json.encode(command.value).decode(),
            command.issuer,
            tx.now_ms,
            command.expires_ms,
            command.not_before_ms,
            command.until_ms,
            command.ramp_s,
            CommandState.QUEUED.value,
            tx.now_ms,
            tx.now_ms,
            override or None,
            release,
            request_text,
        ),
    )
    tx.effects.due = True
    _tell(tx, command.id)


def _supersede(tx: Tx, command: Command) -> None:
    """Stop sending what this command overtakes: an old wish that arrives late must not undo a new one."""
    overtaken = rows(
        tx.db,
        "SELECT * FROM command WHERE device = ? AND point = ? AND send_ms IS NOT NULL",
        (command.device, command.point),
    )
    for known in overtaken:
        _assume(tx, known, f"overtaken by {command.id}")


def _assume(tx: Tx, known: Row, reason: str) -> None:
    assumed = Assumed.OUTCOME_UNKNOWN if known["sends"] else Assumed.EXPIRED
    tx.db.execute(
        "UPDATE command SET assumed = ?, reason = ?, state_ms = ?, send_ms = NULL WHERE id = ?",
        (assumed.value, reason, tx.now_ms, known["id"]),
    )
    _tell(tx, known["id"])


_DUE = f"""
    SELECT * FROM command WHERE send_ms <= ?1 AND (expires_ms <= ?1 OR (?2 AND cabinet IN ({REACHABLE})))
    ORDER BY send_ms, created_ms LIMIT ?3
"""  # noqa: S608  a constant of ours


def send_due(tx: Tx, *, connected: bool) -> None:
    """Send what is due, and give up what is over."""
    due = rows(tx.db, _DUE, (tx.now_ms, connected, DUE_PER_TICK))
    for known in due:
        if tx.now_ms < known["expires_ms"]:
            _send(tx, known)
        elif not known["sends"]:
            _assume(tx, known, "it could not be sent in time")
        elif tx.now_ms >= known["expires_ms"] + GRACE_MS:
            _assume(tx, known, "sent, and no word came")
        else:
            tx.db.execute(
                "UPDATE command SET send_ms = ? WHERE id = ?", (known["expires_ms"] + GRACE_MS, known["id"])
            )


def _send(tx: Tx, known: Row) -> None:
    state = CommandState(known["state"])
    after = advance(state, CommandState.SENT) if state is CommandState.QUEUED else state
    wait_s = min(RESEND_MOST_S, RESEND_FIRST_S * 2 ** min(known["sends"], 10))
    again_ms = min(tx.now_ms + 1000 * wait_s, max(known["expires_ms"], tx.now_ms + 1))
    tx.db.execute(
        "UPDATE command SET state = ?, state_ms = ?, sends = sends + 1, send_ms = ? WHERE id = ?",
        (after.value, tx.now_ms if after is not state else known["state_ms"], again_ms, known["id"]),
    )
    message = encode(CommandMessage(VERSION, _command_of(known)))
    tx.effects.down.append(
        Downlink(CabinetId(known["cabinet"]), Down.COMMAND, message, expires_ms=known["expires_ms"])
    )
    if after is not state:
        _tell(tx, known["id"])


def _command_of(known: Row) -> Command:
    return Command(
        id=known["id"],
        device=known["device"],
        point=known["point"],
        value=msgspec.json.decode(known["value"], type=Value),
        issuer=known["issuer"],
        expires_ms=known["expires_ms"],
        not_before_ms=known["not_before_ms"],
        until_ms=known["until_ms"],
        ramp_s=known["ramp_s"],
    )


def send_open_again(tx: Tx, cabinet: CabinetId) -> None:
    """Make everything that is still open for a cabinet due now: it has just said hello."""
    tx.db.execute(
        "UPDATE command SET send_ms = ? WHERE cabinet = ? AND send_ms IS NOT NULL AND expires_ms > ?",
        (tx.now_ms, cabinet, tx.now_ms),
    )
    tx.effects.due = True


def report(tx: Tx, cabinet: CabinetId, event: CommandEvent) -> None:
    """Record a cabinet's word about a command, ours or a technician's.

    Raises:
        MessageError: if the command went to another cabinet.
    """
    known = row(tx.db, "SELECT * FROM command WHERE id = ?", (event.id,))
    if known is None:
        _audit(tx, cabinet, event)
        return
    if known["cabinet"] != cabinet:
        raise MessageError(RefusedFor.FOREIGN_COMMAND, f"{event.id} went to {known['cabinet']}")
    now = CommandState(known["state"])
    if may_follow(now, event.state):
        _advance(tx, event, now)
    elif not known["answered"]:
        tx.db.execute("UPDATE command SET answered = 1, send_ms = NULL WHERE id = ?", (event.id,))


def _advance(tx: Tx, event: CommandEvent, now: CommandState) -> None:
    tx.db.execute(
        "UPDATE command SET state = ?, reason = ?, state_ms = ?, assumed = NULL, answered = 1, send_ms = NULL"
        " WHERE id = ?",
        (advance(now, event.state).value, event.reason, event.at_ms, event.id),
    )
    _tell(tx, event.id)


def _audit(tx: Tx, cabinet: CabinetId, event: CommandEvent) -> None:
    """Keep a command that the centre never sent: somebody at the cabinet gave it."""
    if not is_id(event.id):
        raise MessageError(RefusedFor.DAMAGED, f"a command's id {event.id[:80]!r}")
    tx.db.execute(
        "INSERT INTO command (id, cabinet, device, point, value, issuer, created_ms, expires_ms,"
        " not_before_ms, until_ms, ramp_s, ours, state, reason, state_ms, answered, sends, request)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, 0, 0, ?, ?, ?, 1, 0, '')",
        (
            event.id,
            cabinet,
            event.device,
            event.point,
            msgspec.json.encode(event.value).decode(),
            event.issuer,
            event.at_ms,
            event.at_ms,
            event.until_ms,
            event.state.value,
            event.reason,
            event.at_ms,
        ),
    )
    _tell(tx, event.id)


def get(tx: Tx, command_id: str) -> Row:
    """Return a command's row, which must be there."""
    found = row(tx.db, "SELECT * FROM command WHERE id = ?", (command_id,))
    assert found is not None  # noqa: S101  the caller has just stored it
    return found


def _tell(tx: Tx, command_id: str) -> None:
    found = get(tx, command_id)
    tx.effects.changes.append(Change(ChangeKind.COMMAND, found["cabinet"], command_view(found)))
