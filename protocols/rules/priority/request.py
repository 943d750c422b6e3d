"""One request on its way to a controller and back. What can become of it is a table.

    SENDING ──taken, told──▶ PLACED ──withdrawn──▶ RETURNING ──told its end, absent──▶ ENDED
       │                        └──told its end, absent──▶ ENDED
       ├──not known whether taken, withdrawn──▶ RETURNING
       └──not taken──▶ ENDED

Within PLACED and RETURNING the controller's own state (`RequestState`) goes its way. A request that is
RETURNING is cancelled, and again, until the controller says that it has ended or no longer tells of it.
"""

from collections.abc import Mapping
from enum import Enum
from typing import TypeAlias

import msgspec

from protocols.backhaul.messages import PriorityEvent
from protocols.errors import LocalProtocolError
from protocols.model.ids import DeviceId
from protocols.model.priority import NEXT, PriorityRequest, PriorityRule, RequestState

GRANTED = frozenset({RequestState.ACTIVATED, RequestState.COMPLETED, RequestState.STALE})
"""States that a request reaches only by having been activated."""
REFUSED = frozenset({RequestState.REJECTED, RequestState.COOLDOWN, RequestState.TIMEOUT})
"""Ends without ever having been activated."""


class Phase(Enum):
    """Where a request is, as seen from the cabinet."""

    SENDING = "sending"
    """It was handed over, and nobody knows yet whether the controller has it."""
    PLACED = "placed"
    """The controller has it."""
    RETURNING = "returning"
    """We have taken it back, and the controller has not confirmed that."""
    ENDED = "ended"


class Word(Enum):
    """What happens to a request."""

    TAKEN = "taken"
    NOT_TAKEN = "not taken"
    UNKNOWN = "unknown"
    TOLD = "told"
    TOLD_END = "told its end"
    ABSENT = "absent"
    WITHDRAWN = "withdrawn"
    GIVEN_UP = "given up"


_P, _W = Phase, Word
TABLE: Mapping[Phase, Mapping[Word, Phase]] = {
    _P.SENDING: {
        _W.TAKEN: _P.PLACED,
        _W.NOT_TAKEN: _P.ENDED,
        _W.UNKNOWN: _P.RETURNING,
        _W.TOLD: _P.PLACED,  # its state may overtake the answer to the request
        _W.TOLD_END: _P.ENDED,
        _W.WITHDRAWN: _P.RETURNING,
    },
    _P.PLACED: {
        _W.TAKEN: _P.PLACED,
        _W.NOT_TAKEN: _P.PLACED,  # the controller tells of it, whatever became of our question
        _W.UNKNOWN: _P.PLACED,
        _W.TOLD: _P.PLACED,
        _W.TOLD_END: _P.ENDED,
        _W.ABSENT: _P.ENDED,
        _W.WITHDRAWN: _P.RETURNING,
    },
    _P.RETURNING: {
        _W.TAKEN: _P.RETURNING,
        _W.NOT_TAKEN: _P.ENDED,
        _W.UNKNOWN: _P.RETURNING,
        _W.TOLD: _P.RETURNING,
        _W.TOLD_END: _P.ENDED,
        _W.ABSENT: _P.ENDED,
        _W.GIVEN_UP: _P.ENDED,
    },
    _P.ENDED: {},
}


def after(phase: Phase, word: Word) -> Phase:
    """Return where a request is after something has happened to it.

    Raises:
        LocalProtocolError: if that cannot happen to it there.
    """
    try:
        return TABLE[phase][word]
    except KeyError:
        raise LocalProtocolError(f"a request that is {phase.value} cannot be {word.value}") from None


def _reachable() -> dict[RequestState, frozenset[RequestState]]:
    """Return what may be told after what: between two lists a state may pass unseen."""
    found: dict[RequestState, frozenset[RequestState]] = {}
    for state in reversed(RequestState):  # the ends come last, so what follows a state is known before it
        following = NEXT[state]
        found[state] = following.union(*(found.get(one, frozenset()) for one in following))
    return found


REACHABLE = _reachable()


class OpenRequest(msgspec.Struct):
    """A request that is not over.

    Attributes:
        asked: what was asked last, updates included.
        junction: of whose controller.
        event: what was last reported of it; the next report is this with what has changed.
        rule: within whose bounds.
        asked_ms: monotonic milliseconds when it was asked.
        phase: where it is.
        settled: whether the outcome of asking is known.
        seen: whether the controller has told of it.
        arrival_ms: the arrival that the controller was told, monotonic milliseconds.
        granted: whether it was activated.
        noted: whether the grant was counted.
        expected_ms: when the vehicle was expected when it was asked for, monotonic milliseconds.
        early: whether its group was red while it stood, so that its green came early.
        held_ms: since when a green is held for it, as far as we know; None while none is.
        cancel_ms: when it is to be cancelled next; None while it is not.
        cancels: how often it was.
        withdrawn_ms: when it was taken back.
        futile: whether it was taken back only when its vehicle could no longer use it.
    """

    asked: PriorityRequest
    junction: DeviceId
    event: PriorityEvent
    rule: PriorityRule
    asked_ms: int
    phase: Phase = Phase.SENDING
    settled: bool = False
    seen: bool = False
    arrival_ms: int = 0
    granted: bool = False
    noted: bool = False
    expected_ms: int = 0
    early: bool = False
    held_ms: int | None = None
    cancel_ms: int | None = None
    cancels: int = 0
    withdrawn_ms: int = 0
    futile: bool = False

    def hear(self, word: Word) -> None:
        """Go where the table says."""
        self.phase = after(self.phase, word)


class Ask(msgspec.Struct, frozen=True):
    """Put a request to a controller; its event is on disk before that."""

    junction: DeviceId
    request: PriorityRequest
    event: PriorityEvent


class Update(msgspec.Struct, frozen=True):
    """Tell a controller when the vehicle will really arrive."""

    junction: DeviceId
    request: PriorityRequest


class Cancel(msgspec.Struct, frozen=True):
    """Take a request back."""

    junction: DeviceId
    request: str


class Look(msgspec.Struct, frozen=True):
    """Ask a controller for all the requests that it tells of."""

    junction: DeviceId


class Report(msgspec.Struct, frozen=True):
    """Say what has become of a request.

    Attributes:
        event: for the centre; it says whether nothing more will come of it.
        granted: whether it has just been granted.
    """

    event: PriorityEvent
    granted: bool = False


Action: TypeAlias = Ask | Update | Cancel | Look | Report
"""What the generator wants done."""
