"""Something that somebody wants done, once, by a certain time.

    queued ── sent ── executing ── applied ── verified
       │        │         ├────────── failed
       ├────────┴──────── expired, rejected
                          └────────── outcome_unknown

A command is idempotent by its id. `executing` is recorded before the write, so that after a crash the value
is read back instead of being written again.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import msgspec

from protocols.errors import LocalProtocolError
from protocols.model.ids import ID_META, CommandId, DeviceId, PointName


class CommandState(StrEnum):
    """Where a command is. The words are on the wire: append only."""

    QUEUED = "queued"
    SENT = "sent"
    EXECUTING = "executing"
    APPLIED = "applied"
    """Written, but the device's value could not be read back as asked for."""
    VERIFIED = "verified"
    FAILED = "failed"
    EXPIRED = "expired"
    REJECTED = "rejected"
    OUTCOME_UNKNOWN = "outcome_unknown"


_S = CommandState
_RESULTS = {_S.APPLIED, _S.VERIFIED, _S.FAILED, _S.OUTCOME_UNKNOWN}
_UNBEGUN = {_S.EXECUTING, _S.EXPIRED, _S.REJECTED, *_RESULTS}
NEXT: Mapping[CommandState, frozenset[CommandState]] = {
    _S.QUEUED: frozenset({_S.SENT, *_UNBEGUN}),
    _S.SENT: frozenset(_UNBEGUN),
    _S.EXECUTING: frozenset(_RESULTS),
    _S.APPLIED: frozenset({_S.VERIFIED}),
    _S.VERIFIED: frozenset(),
    _S.FAILED: frozenset(),
    _S.EXPIRED: frozenset(),
    _S.REJECTED: frozenset(),
    _S.OUTCOME_UNKNOWN: frozenset(),
}
"""What may follow what. The centre may miss steps in between, so it may jump; nothing goes back."""

ENDED = frozenset(state for state, following in NEXT.items() if not following) | {_S.APPLIED}
"""The states in which nobody waits any more."""


def may_follow(now: CommandState, following: CommandState) -> bool:
    """Tell whether a command in state `now` may go to `following`."""
    return following in NEXT[now]


def advance(now: CommandState, following: CommandState) -> CommandState:
    """Return `following`.

    Raises:
        LocalProtocolError: if a command in state `now` cannot go there.
    """
    if not may_follow(now, following):
        raise LocalProtocolError(f"a command that is {now.value} cannot become {following.value}")
    return following


Moment = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
"""UTC milliseconds, as far as JSON carries whole numbers."""
Wanted = (
    Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
    | Annotated[int, msgspec.Meta(ge=-(10**15), le=10**15)]
    | bool
    | Annotated[str, msgspec.Meta(max_length=256)]
    | None
)
"""A `Value` that can be asked for: finite, and of a size that any store and any wire can hold."""


class Command(msgspec.Struct, frozen=True, omit_defaults=True):
    """What somebody wants of one point of one device.

    Attributes:
        id: the same command sent twice has the same id and is carried out once.
        device: of whom.
        point: which point.
        value: what it is to become; None releases an override, so that the program rules again.
        issuer: who wants it, for the audit: "operator:anna", "technician:root".
        expires_ms: UTC milliseconds after which the cabinet must no longer begin it.
        not_before_ms: UTC milliseconds before which the cabinet must not begin it; 0 for at once.
        until_ms: civil UTC milliseconds at which an override of a lamp returns to its program; None for a
            point that has no program.
        ramp_s: time to reach a light level, seconds, 0–90.
    """

    id: Annotated[CommandId, ID_META]
    device: Annotated[DeviceId, ID_META]
    point: Annotated[PointName, ID_META]
    value: Wanted
    issuer: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    expires_ms: Moment
    not_before_ms: Moment = 0
    until_ms: Moment | None = None
    ramp_s: Annotated[float, msgspec.Meta(ge=0, le=90)] = 0.0
