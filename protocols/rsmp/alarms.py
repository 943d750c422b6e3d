"""The alarms of a site (core 3.2.2, Alarm messages; figure "Alarm transitions").

    INACTIVE ──issue──▶ UNACKNOWLEDGED ──acknowledge──▶ ACKNOWLEDGED ──ends──▶ INACTIVE
        ▲                  │      ▲
        │                ends   issue
        └──acknowledge── ENDED_UNACKNOWLEDGED

Suspending is a table of its own: it stops an alarm from being told and changes nothing else.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Final, Literal, NamedTuple

import msgspec

from protocols.errors import LocalProtocolError
from protocols.rsmp.messages import (
    Acknowledgement,
    Activity,
    Alarm,
    AlarmEvent,
    ReturnValue,
    Suspension,
    stamp,
)


class AlarmState(Enum):
    """Where one alarm is: what `aS` and `ack` say of it."""

    INACTIVE = (Activity.INACTIVE, Acknowledgement.ACKNOWLEDGED)
    UNACKNOWLEDGED = (Activity.ACTIVE, Acknowledgement.NOT_ACKNOWLEDGED)
    ACKNOWLEDGED = (Activity.ACTIVE, Acknowledgement.ACKNOWLEDGED)
    ENDED_UNACKNOWLEDGED = (Activity.INACTIVE, Acknowledgement.NOT_ACKNOWLEDGED)


_ACTIVE: Final = frozenset({AlarmState.UNACKNOWLEDGED, AlarmState.ACKNOWLEDGED})


class Change(Enum):
    """What happens to an alarm."""

    ISSUE = "issue"
    END = "end"
    ACKNOWLEDGE = "acknowledge"
    SUSPEND = "suspend"
    RESUME = "resume"


_S = AlarmState
NEXT: Final[Mapping[AlarmState, Mapping[Change, AlarmState]]] = {
    _S.INACTIVE: {Change.ISSUE: _S.UNACKNOWLEDGED},
    _S.UNACKNOWLEDGED: {Change.ACKNOWLEDGE: _S.ACKNOWLEDGED, Change.END: _S.ENDED_UNACKNOWLEDGED},
    _S.ACKNOWLEDGED: {Change.END: _S.INACTIVE},
    _S.ENDED_UNACKNOWLEDGED: {Change.ISSUE: _S.UNACKNOWLEDGED, Change.ACKNOWLEDGE: _S.INACTIVE},
}
"""What follows what. A change that is absent changes nothing: an alarm that is active is not issued again."""
SUSPENDED_NEXT: Final[Mapping[bool, Mapping[Change, bool]]] = {
    False: {Change.SUSPEND: True},
    True: {Change.RESUME: False},
}
ANSWERED: Final[Mapping[Change, AlarmEvent]] = {
    Change.ISSUE: AlarmEvent.ISSUE,
    Change.END: AlarmEvent.ISSUE,
    Change.ACKNOWLEDGE: AlarmEvent.ACKNOWLEDGE,
    Change.SUSPEND: AlarmEvent.SUSPEND,
    Change.RESUME: AlarmEvent.SUSPEND,
}
"""`aSp` of the message that tells of a change; the answer to Resume has Suspend."""


class AlarmKey(NamedTuple):
    """Which alarm."""

    component: str
    code: str


class AlarmRecord(msgspec.Struct, frozen=True):
    """One alarm and all that is remembered of it; what a caller keeps over a restart.

    Attributes:
        component: whose.
        code: as the SXL has it.
        priority: 1, 2 or 3.
        category: "T" or "D".
        state: the name of its `AlarmState`.
        suspended: whether it is not told.
        values: its return values, as they were when it was issued.
        stamps: UTC milliseconds of the last change, by `aSp`.
        external_code: the maker's own code, or "".
    """

    component: str
    code: str
    priority: int
    category: str = "D"
    state: str = AlarmState.INACTIVE.name
    suspended: bool = False
    values: tuple[tuple[str, str], ...] = ()
    stamps: dict[str, int] = {}
    external_code: str = ""

    @property
    def key(self) -> AlarmKey:
        """Return which alarm it is."""
        return AlarmKey(self.component, self.code)

    @property
    def active(self) -> bool:
        """Tell whether what it warns of is there now."""
        return AlarmState[self.state] in _ACTIVE

    def message(self, event: AlarmEvent, since_ms: int = 0) -> Alarm:
        """Return the message that tells of it.

        Args:
            event: what it is about.
            since_ms: UTC milliseconds that stand for "ever since", where nothing like that has happened yet.
        """
        activity, ack = AlarmState[self.state].value
        return Alarm(
            component=self.component,
            code=self.code,
            external_code=self.external_code,
            event=event,
            ack=ack,
            activity=activity,
            suspension=Suspension.SUSPENDED if self.suspended else Suspension.NOT_SUSPENDED,
            at=stamp(self.stamps.get(event, since_ms)),
            category="T" if self.category == "T" else "D",
            priority=_PRIORITIES[self.priority],
            values=tuple(ReturnValue(name, value) for name, value in self.values),
        )


_PRIORITIES: Final[Mapping[int, Literal["1", "2", "3"]]] = {1: "1", 2: "2", 3: "3"}


class AlarmTable:
    """All alarms that a site can have."""

    def __init__(self, alarms: tuple[AlarmRecord, ...]) -> None:
        self._alarms = {alarm.key: alarm for alarm in alarms}

    def __iter__(self) -> Iterator[AlarmRecord]:
        return iter(self._alarms.values())

    def get(self, key: AlarmKey) -> AlarmRecord:
        """Return an alarm.

        Raises:
            LocalProtocolError: if the site has no such alarm.
        """
        if key not in self._alarms:
            raise LocalProtocolError(f"{key.component} has no alarm {key.code}")
        return self._alarms[key]

    def __contains__(self, key: object) -> bool:
        return key in self._alarms

    def put(self, alarm: AlarmRecord) -> None:
        """Bring back what a caller has kept of an alarm; one that the site no longer has is left out."""
        if alarm.key in self._alarms:
            self._alarms[alarm.key] = alarm

    def change(
        self, key: AlarmKey, change: Change, utc_ms: int, values: tuple[tuple[str, str], ...] | None = None
    ) -> AlarmEvent | None:
        """Let something happen to an alarm; return what its message is about, or None if nothing has changed.

        Raises:
            LocalProtocolError: if the site has no such alarm.
        """
        alarm = self.get(key)
        state = NEXT[AlarmState[alarm.state]].get(change)
        suspended = SUSPENDED_NEXT[alarm.suspended].get(change)
        if state is None and suspended is None:
            return None
        event = ANSWERED[change]
        self._alarms[key] = msgspec.structs.replace(
            alarm,
            state=alarm.state if state is None else state.name,
            suspended=alarm.suspended if suspended is None else suspended,
            values=alarm.values if values is None else values,
            stamps={**alarm.stamps, event.value: utc_ms},
        )
        return event
