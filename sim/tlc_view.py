"""What a junction says in the words of the traffic-light list (SXL 1.2.1): statuses, alarms, aggregated status.

The junction is one intersection, so lists of intersections have one member, "0" for all.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from protocols.model.priority import RequestStatus
from protocols.rsmp.alarms import AlarmRecord
from protocols.rsmp.messages import Value, stamp
from protocols.rsmp.priority import told
from protocols.rsmp.sxl import ComponentType, Sxl
from sim.junction import AlarmKey, Junction, Mode, Part, Position
from sim.junction_settings import JunctionSettings
from sim.priority import RequestEntry
from sim.signal_groups import Aspect

Statuses = dict[str, dict[str, Value]]
_ALL = "0"
_VERSION = "Luciole, bench junction, 1"
_CODES = {
    Part.CONTROLLER: ("A0001", "A0006"),
    Part.GROUP: ("A0008", "A0201"),
    Part.DETECTOR: ("A0302",),
}
"""The alarms that a junction can have."""


class TlcView:
    """Reads a junction.

    Args:
        junction: which.
        settings: what its parts are called.
        sxl: the list.
        utc_ms: UTC milliseconds of a moment of the schedule, in seconds.
        started_ms: UTC milliseconds since when its parameters have been as they are.
    """

    def __init__(
        self,
        junction: Junction,
        settings: JunctionSettings,
        sxl: Sxl,
        *,
        utc_ms: Callable[[float], int],
        started_ms: int,
    ) -> None:
        self._junction = junction
        self._settings = settings
        self._sxl = sxl
        self._utc_ms = utc_ms
        self._since = stamp(started_ms)
        self._checksum = hashlib.sha256(msgspec.json.encode(settings.design)).hexdigest()

    def components(self) -> dict[str, ComponentType]:
        """Return every component and what it is."""
        design = self._settings.design
        groups = [self._settings.group(number) for number in range(1, len(design.groups) + 1)]
        detectors = [self._settings.detector(number) for number in range(1, len(design.detectors) + 1)]
        return {
            self._settings.main: ComponentType.CONTROLLER,
            **dict.fromkeys(groups, ComponentType.SIGNAL_GROUP),
            **dict.fromkeys(detectors, ComponentType.DETECTOR),
        }

    def component(self, key: AlarmKey) -> str:
        """Return the component that an alarm is about."""
        match key.part:
            case Part.CONTROLLER:
                return self._settings.main
            case Part.GROUP:
                return self._settings.group(key.number)
            case Part.DETECTOR:
                return self._settings.detector(key.number)

    def alarm_records(self) -> list[AlarmRecord]:
        """Return every alarm that the junction can have, inactive."""
        parts = {
            ComponentType.CONTROLLER: Part.CONTROLLER,
            ComponentType.SIGNAL_GROUP: Part.GROUP,
            ComponentType.DETECTOR: Part.DETECTOR,
        }
        return [
            AlarmRecord(component, code, self._sxl.alarms[code].priority)
            for component, kind in self.components().items()
            for code in _CODES[parts[kind]]
        ]

    def aggregated(self) -> tuple[bool, ...]:
        """Return the eight elements; faults by the priority of the active alarms, fail-safe mode as a high one."""
        junction = self._junction
        priorities = {self._sxl.alarms[key.code].priority for key in junction.alarms()}
        failed = junction.mode is Mode.FAILURE
        idle = junction.mode is Mode.STANDBY and junction.position is Position.DARK
        return (False, False, failed, 2 in priorities, 3 in priorities, not (failed or idle), idle, False)

    def statuses(self) -> Statuses:
        """Return all statuses of the controller but S0033."""
        return {**self._signals(), **self._modes(), **self._plans(), **self._identity()}

    def requests(self, entries: tuple[RequestEntry, ...]) -> Value:
        """Return S0033's list of requests."""
        return told(
            tuple(
                RequestStatus(
                    each.id, each.state, self._utc_ms(each.at_s), each.extension_s, each.reduction_s
                )
                for each in entries
            )
        )

    def _signals(self) -> Statuses:
        junction = self._junction
        detectors = "".join("1" if says else "0" for says in junction.detectors().values())
        return {
            "S0001": {
                "signalgroupstatus": junction.signal_states(),
                "cyclecounter": str(junction.cycle_counter),
                "basecyclecounter": str(junction.base_cycle_counter),
                "stage": str(junction.stage),
            },
            "S0002": {"detectorlogicstatus": detectors},
        }

    def _modes(self) -> Statuses:
        junction = self._junction
        starting = junction.mode is Mode.STARTUP
        flashing = Aspect.FLASH in junction.lamps and not starting
        lit = set(junction.lamps) != {Aspect.DARK}
        source = "other" if junction.mode is Mode.FAILURE else junction.position_source
        s0005: dict[str, Value] = {"status": str(starting)}
        if self._sxl.statuses["S0005"].argument("statusByIntersection") is not None:
            s0005["statusByIntersection"] = [{"intersection": _ALL, "startup": str(starting)}]
        return {
            "S0005": s0005,
            "S0007": _of_all(lit, source),
            "S0008": _of_all(False, "startup"),
            "S0009": _of_all(True, "calendar_clock"),
            "S0010": _of_all(False, "startup"),
            "S0011": _of_all(flashing, source),
            "S0012": _of_all(False, "startup"),
            "S0020": {"intersection": _ALL, "controlmode": junction.mode.value},
        }

    def _plans(self) -> Statuses:
        plans = self._settings.design.plans
        return {
            "S0014": {"status": str(self._junction.plan.number), "source": self._junction.plan_source},
            "S0022": {"status": ",".join(str(plan.number) for plan in plans)},
            "S0028": {"status": ",".join(f"{plan.number:02d}-{plan.cycle_s:02d}" for plan in plans)},
        }

    def _identity(self) -> Statuses:
        moment = datetime.fromtimestamp(self._utc_ms(self._junction.now_s) / 1000, tz=UTC)
        fields = ("year", "month", "day", "hour", "minute", "second")
        return {
            "S0095": {"status": _VERSION},
            "S0096": {name: str(getattr(moment, name)) for name in fields},
            "S0097": {"checksum": self._checksum, "timestamp": self._since},
        }


def _of_all(status: bool, source: str) -> dict[str, Value]:
    return {"intersection": _ALL, "status": str(status), "source": source}
