"""What a signal controller's alarms and aggregated status say of it."""

from collections.abc import Mapping
from typing import Final

from drivers.rsmp_points import FAULT, FAULT_CODES, NOT_AVAILABLE, TOLD_BY_ALARMS, WARNING, Got
from protocols.model.ids import PointName
from protocols.rsmp.messages import Activity, AggregatedStatus, Alarm, printable

MAX_ALARMS: Final = 4096
"""Alarms that are remembered of one site: more than components times codes of the largest controller."""
_SERIOUS: Final = ("1", "2")
_HIGH, _MEDIUM, _LOW = 2, 3, 4  # positions in `se`: faults of high, medium and low priority


class ControllerState:
    """All that a site has said of its faults.

    Attributes:
        aggregated: its last aggregated status; None if it never told one.
        complete: whether it has told all its alarms at this connection.
    """

    def __init__(self) -> None:
        self.aggregated: AggregatedStatus | None = None
        self.complete = False
        self._alarms: dict[tuple[str, str], Alarm] = {}
        self._confirmed: set[tuple[str, str]] = set()

    def begin(self) -> None:
        """Begin anew with a connection, at which a site tells all its alarms."""
        self.complete = False
        self._confirmed.clear()

    def finish(self) -> None:
        """Forget the alarms that were not told of at this connection: the site has them no longer."""
        self._alarms = {key: alarm for key, alarm in self._alarms.items() if key in self._confirmed}
        self.complete = True

    def put(self, alarm: Alarm) -> bool:
        """Remember an alarm; False if there are too many."""
        key = (alarm.component, alarm.code)
        if key not in self._alarms and len(self._alarms) >= MAX_ALARMS:
            return False
        self._alarms[key] = alarm
        self._confirmed.add(key)
        return True

    def components(self) -> Mapping[str, list[str]]:
        """Return the components that alarms have named, with the codes of theirs."""
        found: dict[str, list[str]] = {}
        for component, code in sorted(self._alarms):
            found.setdefault(component, []).append(code)
        return found

    def points(self) -> dict[PointName, Got]:
        """Return the points that follow from it."""
        if self.aggregated is None and not self._alarms:
            return dict.fromkeys(TOLD_BY_ALARMS, Got(None, NOT_AVAILABLE))
        active = [one for one in self._alarms.values() if one.activity == Activity.ACTIVE]
        elements = (False,) * 8 if self.aggregated is None else self.aggregated.elements
        serious = any(one.priority in _SERIOUS for one in active)
        slight = any(one.priority not in _SERIOUS for one in active)
        return {
            FAULT: Got(serious or bool(elements[_HIGH])),
            WARNING: Got(slight or bool(elements[_MEDIUM] or elements[_LOW])),
            FAULT_CODES: Got(",".join(sorted({printable(one.code) for one in active}))),
        }
