"""The city's control programs and calendars, each cabinet's draft, and what a draft would do."""

import sqlite3
from collections.abc import Iterator, Sequence

import msgspec

from central import drafts
from central.api.bodies import LampPreview, LampSteps, Lighting, Preview, PreviewStep
from central.clock import moment
from central.contents import compile_lighting, documents, lamps_of, listed_devices, placed
from central.errors import Fault, RequestError, not_found
from central.store.writer import Tx
from protocols.clock import Instant
from protocols.model.lighting import Calendar, ControlProgram, Decision, Lamp, LightingPolicy
from protocols.rules.lighting import calendar_of, decide
from protocols.rules.soundness import lighting_faults

MAX_DOCUMENTS = 10_000
MAX_STEPS = 2_000
"""Of one schedule in a preview: a year of a program with five steps a night."""

_CALENDAR = msgspec.json.Decoder(Calendar)
_LIGHTING = msgspec.json.Decoder(Lighting)


def put_program(tx: Tx, program: ControlProgram) -> None:
    """Store a control program for the whole city."""
    _put(tx, "control_program", program.id, msgspec.json.encode(program))


def put_calendar(tx: Tx, calendar: Calendar) -> None:
    """Store a calendar for the whole city.

    Raises:
        RequestError: if it names a program that is not there.
    """
    known = {name for (name,) in tx.db.execute("SELECT id FROM control_program")}
    wanted = {"default_program": calendar.default_program}
    wanted |= {f"rules[{position}].program": rule.program for position, rule in enumerate(calendar.rules)}
    faults = [Fault(w, f"there is no program {name!r}") for w, name in wanted.items() if name not in known]
    if faults:
        raise RequestError(422, "this calendar names programs that are not there", faults)
    _put(tx, "calendar", calendar.id, msgspec.json.encode(calendar))


def _put(tx: Tx, table: str, name: str, document: bytes) -> None:
    count = tx.db.execute(f"SELECT count(*) FROM {table} WHERE id <> ?", (name,)).fetchone()[0]  # noqa: S608  our own two names
    if count >= MAX_DOCUMENTS:
        raise RequestError(422, f"there are {MAX_DOCUMENTS} of them already")
    tx.db.execute(
        f"INSERT OR REPLACE INTO {table} (id, document, updated_ms) VALUES (?, ?, ?)",  # noqa: S608  our own two names
        (name, document.decode(), tx.now_ms),
    )


def delete_program(tx: Tx, name: str) -> None:
    """Delete a control program.

    Raises:
        RequestError: if it is not there, or a calendar names it.
    """
    _refuse_missing(tx, "control_program", "control program", name)
    calendars = [_CALENDAR.decode(r[0]) for r in tx.db.execute("SELECT document FROM calendar")]
    users = [c.id for c in calendars if name in {c.default_program, *(rule.program for rule in c.rules)}]
    _refuse_in_use(name, "calendar", users)
    tx.db.execute("DELETE FROM control_program WHERE id = ?", (name,))


def delete_calendar(tx: Tx, name: str) -> None:
    """Delete a calendar.

    Raises:
        RequestError: if it is not there, or a cabinet's lighting names it.
    """
    _refuse_missing(tx, "calendar", "calendar", name)
    drafts = tx.db.execute("SELECT cabinet, document FROM lighting")
    users = [
        cabinet
        for cabinet, document in drafts
        if any(assignment.calendar == name for assignment in _LIGHTING.decode(document).assignments)
    ]
    _refuse_in_use(name, "cabinet", users)
    tx.db.execute("DELETE FROM calendar WHERE id = ?", (name,))


def _refuse_missing(tx: Tx, table: str, what: str, name: str) -> None:
    if tx.db.execute(f"SELECT 1 FROM {table} WHERE id = ?", (name,)).fetchone() is None:  # noqa: S608  our own two names
        raise not_found(what, name)


def _refuse_in_use(name: str, what: str, users: Sequence[str]) -> None:
    if users:
        faults = [Fault(f"{what}s.{user}", f"uses {name!r}") for user in users[:100]]
        raise RequestError(409, f"{name!r} is in use by {len(users)} {what}(s)", faults)


def _compiled(db: sqlite3.Connection, cabinet: str) -> tuple[LightingPolicy, list[Lamp]]:
    policy = compile_lighting(drafts.get(db, cabinet, Lighting), *documents(db))
    lamps = lamps_of(listed_devices(db, cabinet))
    faults = [placed(text) for text in lighting_faults(policy, lamps)]
    if faults:
        raise RequestError(422, "this lighting cannot be previewed", faults)
    return policy, lamps


def preview_at(db: sqlite3.Connection, cabinet: str, at_ms: int) -> Preview:
    """Say what each lamp would do at a moment, and why.

    Raises:
        RequestError: if nothing is drafted, or the draft has faults.
    """
    policy, lamps = _compiled(db, cabinet)
    decisions = [(lamp, decide(policy, lamp, None, Instant(0, at_ms))) for lamp in lamps]
    return Preview(
        cabinet,
        lamps=[
            LampPreview(
                device=lamp.id,
                level=decision.level,
                ramp_s=decision.ramp_s,
                reason=decision.reason,
                because=decision.because,
                valid_until=moment(decision.valid_until_ms),
            )
            for lamp, decision in decisions
        ],
    )


def preview_through(db: sqlite3.Connection, cabinet: str, from_ms: int, to_ms: int) -> Preview:
    """Say what the lamps of each calendar would do through a while.

    Raises:
        RequestError: if nothing is drafted, or the draft has faults.
    """
    policy, lamps = _compiled(db, cabinet)
    together: dict[str | None, list[Lamp]] = {}
    for lamp in lamps:
        calendar = calendar_of(policy, lamp)
        together.setdefault(calendar.id if calendar else None, []).append(lamp)
    return Preview(
        cabinet,
        schedules=[
            LampSteps([lamp.id for lamp in group], list(_steps(policy, group[0], from_ms, to_ms)))
            for group in together.values()
        ],
    )


def _steps(policy: LightingPolicy, lamp: Lamp, from_ms: int, to_ms: int) -> Iterator[PreviewStep]:
    at_ms = from_ms
    before: Decision | None = None
    for _ in range(MAX_STEPS):
        decision = decide(policy, lamp, None, Instant(0, at_ms))
        if before is None or (before.level, before.because) != (decision.level, decision.because):
            yield PreviewStep(
                at=moment(at_ms),
                level=decision.level,
                ramp_s=decision.ramp_s,
                reason=decision.reason,
                because=decision.because,
            )
        before = decision
        at_ms = max(decision.valid_until_ms, at_ms + 1)
        if at_ms > to_ms:
            return
