"""What became of each vehicle's request for a green, as the cabinets tell it, step by step.

The steps of a request are a set: each is kept once, and what is shown of the request follows from the set
alone. So it does not matter in which order they come, and how often: a backlog that is sent again after the
cabinet's card was restored turns no state back.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from central import cabinets
from central.api.priority_bodies import PriorityHistory, PriorityStep
from central.clock import moment
from central.effects import Change, ChangeKind
from central.errors import MessageError, RefusedFor
from central.store.writer import Tx
from central.streams import check_number
from central.views import Row, maybe_moment, priority_view, row
from protocols.backhaul.messages import PriorityEvent
from protocols.clock import Correction
from protocols.model.ids import CabinetId, is_id
from protocols.model.priority import ENDED, MAX_LEVEL, NEXT, RequestState

MAX_CORRECTED = 2_000
"""Requests that one clock event moves: what a busy junction asks for in a day."""
REQUESTS_KEPT = 20_000
"""For each cabinet: a month of a junction where a bus comes every ninety seconds, eighteen hours a day."""
MAX_STEPS = 64
"""Of one request: its states, and a line a second for a minute. Beyond, only a state that it had not had, and
that it is over."""
MAX_TEXT = 200
MAX_GIVEN_S = 255
"""What a controller can say that it gave. Source: SXL 1.2.1, S0033, `e` and `d`."""

_STEP = msgspec.json.Decoder(PriorityEvent)


def _reachable() -> Mapping[RequestState, frozenset[RequestState]]:
    """Return what may follow what when steps in between were missed."""
    found = {state: set(following) for state, following in NEXT.items()}
    for _ in RequestState:
        for following in found.values():
            following |= {further for state in following for further in found[state]}
    return {state: frozenset(following) for state, following in found.items()}


LATER = _reachable()
_ORDER = {state: len(RequestState) - len(following) for state, following in LATER.items()}
"""Of steps with the same time, those that others may follow come first."""
GRANTED = frozenset({RequestState.ACTIVATED, *LATER[RequestState.ACTIVATED]})
"""A request in one of these had its green."""


class Outcome(msgspec.Struct, frozen=True):
    """What a request's steps come to.

    Attributes:
        first_ms: UTC milliseconds of the first step.
        asked_ms: of the first step by which it was asked of the controller; None if it was not.
        changed_ms: of the step that brought the last state; of the last step while there is no state.
        activated_ms: of the step by which the controller said that it is active; None if it did not.
        state: the last that the controller said; None if it said nothing.
        reason: the last that was given.
        extension_s: seconds of green given, as the controller says.
        reduction_s: seconds of red saved, the same.
        over: whether the cabinet holds it no longer: it said so, or told of an end that the controller said.
        contradiction: the first thing that cannot be, in words; "" if everything can.
    """

    first_ms: int
    asked_ms: int | None
    changed_ms: int
    activated_ms: int | None
    state: RequestState | None
    reason: str
    extension_s: int | None
    reduction_s: int | None
    over: bool
    contradiction: str


def place(step: PriorityEvent) -> tuple[int, int, bytes]:
    """Return what steps are sorted by: their time, then what may follow what, then anything at all."""
    order = -1 if step.state is None else _ORDER[step.state]
    return step.at_ms, order, msgspec.json.encode(step)


def outcome(steps: Iterable[PriorityEvent]) -> Outcome:
    """Say what a request's steps come to; at least one is needed.

    A state that cannot follow the one before is a contradiction and changes nothing: what has ended stays
    ended. Steps that were missed contradict nothing.
    """
    ordered = sorted(steps, key=place)
    state: RequestState | None = None
    changed_ms, activated_ms = ordered[-1].at_ms, None
    given: list[PriorityEvent] = []
    wrong: list[str] = []
    for step in ordered:
        wrong += _impossible(step, state)
        if step.state is not None and (state is None or step.state in LATER[state]):
            state, changed_ms = step.state, step.at_ms
            activated_ms = step.at_ms if state is RequestState.ACTIVATED else activated_ms
        if step.state is not None and step.state is state:
            given.append(step)
    return Outcome(
        first_ms=ordered[0].at_ms,
        asked_ms=next((step.at_ms for step in ordered if _is_asked(step)), None),
        changed_ms=changed_ms,
        activated_ms=activated_ms,
        state=state,
        reason=next((step.reason for step in reversed(ordered) if step.reason), ""),
        extension_s=_last(step.extension_s for step in given),
        reduction_s=_last(step.reduction_s for step in given),
        over=any(_is_over(step) for step in ordered),
        contradiction=wrong[0] if wrong else "",
    )


def _is_asked(step: PriorityEvent) -> bool:
    """Tell whether a controller was asked: it has answered, or no reason is given why it was not."""
    return step.state is not None or not step.reason


def _is_over(step: PriorityEvent) -> bool:
    """Tell whether a step is the cabinet's last word; no cabinet holds a request beyond an end."""
    return step.over or step.state in ENDED


def _impossible(step: PriorityEvent, state: RequestState | None) -> Iterator[str]:
    """Yield what of a step cannot be after a state."""
    if step.state is not None and step.shadow:
        yield f"{step.state.value} by a rule that only watches"
    if step.state is not None and state is not None and step.state not in LATER[state] | {state}:
        yield f"{step.state.value} after {state.value}"
    for name, given_s in (("extension", step.extension_s), ("reduction", step.reduction_s)):
        if given_s is not None and not 0 <= given_s <= MAX_GIVEN_S:
            yield f"{name} of {given_s} s"


def _last(given: Iterable[int | None]) -> int | None:
    """Return the last figure that a controller can mean."""
    possible = [one for one in given if one is not None and 0 <= one <= MAX_GIVEN_S]
    return possible[-1] if possible else None


def report(tx: Tx, cabinet: CabinetId, event: PriorityEvent) -> bool:
    """Keep a step of a request; return whether the request contradicts itself by it, and did not before.

    Raises:
        MessageError: if the step cannot be kept: a name that is none, another cabinet's junction, or more
            steps than any request has.
    """
    _check(event)
    owner = cabinets.owner_of(tx, cabinet, event.junction)
    if owner != cabinet:
        raise MessageError(RefusedFor.FOREIGN_DEVICE, f"{event.junction} belongs to {owner}")
    step = msgspec.structs.replace(event, reason=event.reason[:MAX_TEXT])
    request_id, steps = _known(tx, cabinet, event.request)
    if step in steps:
        return False
    if len(steps) >= MAX_STEPS and not _is_news(step, steps):
        raise MessageError(RefusedFor.BEYOND_BOUNDS, f"more than {MAX_STEPS} steps of {event.request}")
    if request_id is None:
        request_id = _open(tx, cabinet, event.request)
    tx.db.execute(
        "INSERT INTO priority_step (request_id, event) VALUES (?, ?)",
        (request_id, msgspec.json.encode(step).decode()),
    )
    summed = outcome([*steps, step])
    _write(tx, request_id, summed, sorted([*steps, step], key=place))
    _tell(tx, cabinet, request_id)
    return bool(summed.contradiction) and not (steps and outcome(steps).contradiction)


def correct(tx: Tx, cabinet: CabinetId, correction: Correction) -> None:
    """Put right the times of requests that a cabinet told before its clock was set."""
    first_ms, last_ms = correction.before_ms, correction.before_ms + correction.until_ms
    found = tx.db.execute(
        "SELECT id FROM priority_request WHERE cabinet = ? AND first_ms <= ? AND changed_ms >= ?"
        " ORDER BY id DESC LIMIT ?",
        (cabinet, last_ms, first_ms, MAX_CORRECTED),
    ).fetchall()
    for (request_id,) in found:
        steps = [
            msgspec.structs.replace(step, at_ms=correction.corrected(step.at_ms))
            for step in steps_of(tx.db, request_id)
        ]
        tx.db.execute("DELETE FROM priority_step WHERE request_id = ?", (request_id,))
        tx.db.executemany(
            "INSERT INTO priority_step (request_id, event) VALUES (?, ?)",
            [(request_id, msgspec.json.encode(step).decode()) for step in steps],
        )
        _write(tx, request_id, outcome(steps), sorted(steps, key=place))
        _tell(tx, cabinet, request_id)


def _is_news(step: PriorityEvent, steps: Sequence[PriorityEvent]) -> bool:
    """Tell whether a step brings a state that a request had not had, or first says that it is over."""
    if step.over and not any(one.over for one in steps):
        return True
    return step.state is not None and all(step.state is not one.state for one in steps)


def _check(event: PriorityEvent) -> None:
    names = {"request": event.request, "junction": event.junction}
    names |= {key: name for key, name in (("rule", event.rule), ("approach", event.approach)) if name}
    for key, name in names.items():
        if not is_id(name):
            raise MessageError(RefusedFor.DAMAGED, f"a priority request's {key} {name[:80]!r}")
    for number in (event.at_ms, event.controller_ms or 0):
        check_number(number, "a priority request's time")
    if not 0 <= event.level <= MAX_LEVEL:
        raise MessageError(RefusedFor.BEYOND_BOUNDS, f"level {event.level}")
    if max(len(event.signal_group), len(event.vehicle)) > 64:
        raise MessageError(RefusedFor.BEYOND_BOUNDS, "the name of a signal group or vehicle")


def _known(tx: Tx, cabinet: CabinetId, request: str) -> tuple[int | None, list[PriorityEvent]]:
    """Return a request's row and its steps; None and none if it is new."""
    found = tx.db.execute(
        "SELECT id FROM priority_request WHERE cabinet = ? AND request = ?", (cabinet, request)
    ).fetchone()
    return (None, []) if found is None else (found[0], steps_of(tx.db, found[0]))


def _open(tx: Tx, cabinet: CabinetId, request: str) -> int:
    """Enter a request, and let go of the oldest of its cabinet; return its row."""
    turn = tx.db.execute(
        "SELECT coalesce(max(turn), 0) + 1 FROM priority_request WHERE cabinet = ?", (cabinet,)
    ).fetchone()[0]
    tx.db.execute(
        "DELETE FROM priority_request WHERE cabinet = ? AND turn <= ?", (cabinet, turn - REQUESTS_KEPT)
    )
    entered = tx.db.execute(
        "INSERT INTO priority_request (cabinet, request, turn) VALUES (?, ?, ?)", (cabinet, request, turn)
    )
    assert entered.lastrowid is not None  # noqa: S101  an INSERT has one
    return entered.lastrowid


def steps_of(db: sqlite3.Connection, request_id: int) -> list[PriorityEvent]:
    """Return a request's steps, in the order in which they happened."""
    found = db.execute("SELECT event FROM priority_step WHERE request_id = ?", (request_id,))
    return sorted((_STEP.decode(event) for (event,) in found), key=place)


def _write(tx: Tx, request_id: int, summed: Outcome, steps: Sequence[PriorityEvent]) -> None:
    """Write down what a request's steps come to; its names are those of the last one."""
    last = steps[-1]
    columns: dict[str, object] = msgspec.structs.asdict(summed) | {
        "state": None if summed.state is None else summed.state.value,
        "junction": last.junction,
        "rule": last.rule,
        "approach": last.approach,
        "signal_group": last.signal_group,
        "vehicle": last.vehicle,
        "source": last.source.value,
        "level": last.level,
        "shadow": last.shadow,
    }
    assignments = ", ".join(f"{name} = ?" for name in columns)
    tx.db.execute(
        f"UPDATE priority_request SET {assignments} WHERE id = ?",  # noqa: S608  names of ours
        (*columns.values(), request_id),
    )


def _tell(tx: Tx, cabinet: CabinetId, request_id: int) -> None:
    if tx.watched:
        found = row(tx.db, "SELECT * FROM priority_request WHERE id = ?", (request_id,))
        assert found is not None  # noqa: S101  written above, in this transaction
        tx.effects.changes.append(Change(ChangeKind.PRIORITY, cabinet, priority_view(found)))


def history(db: sqlite3.Connection, found: Row) -> PriorityHistory:
    """Return a row of requests with its steps."""
    plain = priority_view(found)
    return PriorityHistory(
        **{name: getattr(plain, name) for name in plain.__struct_fields__},
        steps=[_step_view(step) for step in steps_of(db, found["id"])],
    )


def _step_view(step: PriorityEvent) -> PriorityStep:
    return PriorityStep(
        at=moment(step.at_ms),
        controller_time=maybe_moment(step.controller_ms),
        state=step.state,
        reason=step.reason,
        level=step.level,
        source=step.source,
        extension_s=step.extension_s,
        reduction_s=step.reduction_s,
        over=step.over,
    )
