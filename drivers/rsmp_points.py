"""What a signal controller's statuses are to the city: points of a junction and of its detectors."""

from collections.abc import Mapping
from typing import Final

import msgspec

from drivers.base import PolledPoint
from drivers.rsmp_address import detector_number
from drivers.settings import DeviceSettings
from protocols.errors import RemoteProtocolError
from protocols.model.device import Kind, Point, Report
from protocols.model.ids import DeviceId, PointName
from protocols.model.priority import ENDED
from protocols.model.reading import Fault, Quality, Reason, Sample, Value
from protocols.rsmp import messages
from protocols.rsmp.messages import StatusName, StatusValue
from protocols.rsmp.priority import STATUS as PRIORITY_STATUS
from protocols.rsmp.priority import requests_of
from protocols.rsmp.sxl import Sxl, wrong

GROUPS: Final = PointName("signal_groups")
STAGE: Final = PointName("stage")
CYCLE: Final = PointName("cycle_counter")
PLAN: Final = PointName("time_plan")
MODE: Final = PointName("control_mode")
REQUESTS: Final = PointName("priority_requests")
FAULT: Final = PointName("controller_fault")
WARNING: Final = PointName("controller_warning")
FAULT_CODES: Final = PointName("fault_codes")
OCCUPIED: Final = PointName("occupied")

SOURCES: Final[Mapping[PointName, StatusName]] = {
    GROUPS: StatusName("S0001", "signalgroupstatus"),
    STAGE: StatusName("S0001", "stage"),
    CYCLE: StatusName("S0001", "cyclecounter"),
    PLAN: StatusName("S0014", "status"),
    MODE: StatusName("S0020", "controlmode"),
    REQUESTS: StatusName(PRIORITY_STATUS, "status"),
}
"""Where a junction's points come from; the others follow from its alarms and its aggregated status."""
DETECTORS: Final = StatusName("S0002", "detectorlogicstatus")
TOLD_BY_ALARMS: Final = (FAULT, WARNING, FAULT_CODES)
BY_INTERVAL: Final = frozenset({SOURCES[CYCLE]})
"""Told at intervals only: it changes each second."""
POINTS: Final[Mapping[StatusName, PointName]] = {source: point for point, source in SOURCES.items()}

REFUSED: Final = Fault(Quality.BAD, Reason.REFUSED)
NO_ANSWER: Final = Fault(Quality.BAD, Reason.NO_ANSWER)
NOT_AVAILABLE: Final = Fault(Quality.BAD, Reason.NOT_AVAILABLE)
OUT_OF_RANGE: Final = Fault(Quality.BAD, Reason.OUT_OF_RANGE)
OLD: Final = Fault(Quality.UNCERTAIN, Reason.STALE)


class Got(msgspec.Struct, frozen=True):
    """A point's value, and what is wrong with it if something is.

    Attributes:
        value: None where there is none to be believed.
        fault: None when it is good.
        why: for a log, when the site said something that it cannot mean; "" otherwise.
    """

    value: Value
    fault: Fault | None = None
    why: str = ""


def junction_points(settings: DeviceSettings, *, writable: bool) -> tuple[PolledPoint, ...]:
    """Return what a junction has; its controller says all of it by itself.

    Args:
        settings: the junction's.
        writable: whether its line has the code that its time plan is set with.
    """
    without_code = f"security_code of line {settings.line}, the controller's code of level 2, is not set"
    return tuple(
        _told(settings, point, without_code if point.name == PLAN and not writable else "")
        for point in (
            Point(GROUPS, "{code}"),
            Point(STAGE, "{code}", minimum=0, maximum=999),
            Point(CYCLE, "s", minimum=0, maximum=999),
            Point(PLAN, "{code}", writable=writable, minimum=1, maximum=255),
            Point(MODE, "{code}"),
            Point(FAULT),
            Point(WARNING),
            Point(FAULT_CODES, "{code}"),
            Point(REQUESTS, "{request}", minimum=0),
        )
    )


def detector_points(settings: DeviceSettings) -> tuple[PolledPoint, ...]:
    """Return what a detector has."""
    return (_told(settings, Point(OCCUPIED)),)


def _told(settings: DeviceSettings, point: Point, unwritable: str = "") -> PolledPoint:
    return PolledPoint(
        point=point,
        poll_s=None,
        report=settings.report or Report.CHANGE,
        dead_band=settings.dead_band or 0,
        heartbeat_s=settings.heartbeat_s or 900,
        unwritable=unwritable,
    )


def got(status: StatusValue, sxl: Sxl) -> Got:
    """Return what a status says, as the point that comes from it has it."""
    missing = _missing(status, sxl)
    if missing is not None:
        return missing
    try:
        value = _value(status)
    except RemoteProtocolError as error:
        return Got(None, OUT_OF_RANGE, str(error))
    return Got(value, OLD if status.quality is messages.Quality.OLD else None)


def _missing(status: StatusValue, sxl: Sxl) -> Got | None:
    """Return why there is no value to be believed; None if there is one."""
    if status.quality is messages.Quality.UNDEFINED:
        return Got(None, REFUSED, f"{status.code}: the site does not know the component")
    if status.quality is messages.Quality.UNKNOWN:
        return Got(None, NOT_AVAILABLE)
    argument = sxl.statuses[status.code].argument(status.name)
    why = "no such name" if argument is None else wrong(argument, status.value)
    return None if why is None else Got(None, OUT_OF_RANGE, f"{status.code}: {why}")


def _value(status: StatusValue) -> Value:
    if status.code == PRIORITY_STATUS:
        return sum(request.state not in ENDED for request in requests_of(status.value))
    if StatusName(status.code, status.name) in _NUMBERS:
        return int(str(status.value))
    return str(status.value)


_NUMBERS: Final = frozenset({SOURCES[STAGE], SOURCES[CYCLE], SOURCES[PLAN]})


def occupied(status: Got, number: int) -> Got:
    """Return a detector's part of S0002; `number` from 1, the leftmost character."""
    if not isinstance(status.value, str):
        return status
    mark = status.value[number - 1 : number]
    if mark not in {"0", "1"}:
        return Got(None, NOT_AVAILABLE, f"S0002 has no detector {number}")
    return Got(mark == "1", status.fault)


class Part:
    """One declared device.

    Attributes:
        id: the device.
        address: its component's id.
        points: how it is watched.
        number: a detector's position in S0002; None for a junction.
        told: what was last said of it by `on_sample`.
    """

    def __init__(self, device: DeviceSettings, *, writable: bool) -> None:
        self.id = device.id
        self.address = str(device.address)
        self.number = None if device.kind is Kind.JUNCTION else detector_number(self.address)
        self.points = (
            junction_points(device, writable=writable) if self.number is None else detector_points(device)
        )
        self.names = tuple(polled.point.name for polled in self.points)
        self.told: dict[PointName, tuple[Got, int]] = {}


def sample_of(device: DeviceId, monotonic_ms: int, values: Mapping[PointName, Got]) -> Sample:
    """Build a sample; an old value keeps its value, and its fault beside it."""
    faults = {i: one.fault for i, one in enumerate(values.values()) if one.fault is not None}
    told = tuple(one.value for one in values.values())
    return Sample(device, monotonic_ms, tuple(values), told, faults)
