"""The signal exchange list of traffic-light controllers, versions 1.1.0, 1.2.0 and 1.2.1: every code that they have.

Source: rsmp_sxl_traffic_lights 1.2.1; DIFFERENCES has what the earlier ones say otherwise. Which commands need which
security code stands in the list's prose only.

Two patterns of the list contradict its text: S0001 and S0021 may hold "-" for what does not exist by the text, not by
the pattern. We read "-" and never write it.
"""

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from protocols.model.priority import RequestState, VehicleType
from protocols.rsmp.sxl import AlarmType, Argument, Command, ComponentType, Status, Sxl, Type

_TLC: Final = ComponentType.CONTROLLER
_GROUP: Final = ComponentType.SIGNAL_GROUP
_DETECTOR: Final = ComponentType.DETECTOR


def _number(name: str, kind: Type, bounds: tuple[int | str, ...], *, optional: bool = False) -> Argument:
    """Make a number of a range, or one of some."""
    if bounds and isinstance(bounds[0], str):
        return Argument(name, kind, values=tuple(str(one) for one in bounds), optional=optional)
    low, high = (int(bounds[0]), int(bounds[1])) if bounds else (None, None)
    return Argument(name, kind, low, high, optional=optional)


def _int(name: str, *bounds: int | str, optional: bool = False) -> Argument:
    return _number(name, Type.INTEGER, bounds, optional=optional)


def _ints(name: str, *bounds: int | str) -> Argument:
    return _number(name, Type.INTEGER_LIST, bounds)


def _bool(name: str) -> Argument:
    return Argument(name, Type.BOOLEAN)


def _bools(name: str) -> Argument:
    return Argument(name, Type.BOOLEAN_LIST)


def _time(name: str) -> Argument:
    return Argument(name, Type.TIMESTAMP)


def _base64(name: str) -> Argument:
    return Argument(name, Type.BASE64)


def _text(name: str, *values: str, pattern: str = "", optional: bool = False) -> Argument:
    return Argument(name, Type.STRING, values=tuple(map(str, values)), pattern=pattern, optional=optional)


def _texts(name: str, *values: str) -> Argument:
    return Argument(name, Type.STRING_LIST, values=values)


def _array(name: str, *items: Argument) -> Argument:
    return Argument(name, Type.ARRAY, items=items)


def _status(code: str, of: ComponentType, *arguments: Argument) -> Status:
    return Status(code, of, arguments)


def _command(code: str, order: str, of: ComponentType, *arguments: Argument, security: int = 0) -> Command:
    return Command(code, order, of, arguments, security)


def _alarm(code: str, of: ComponentType, priority: int, *arguments: Argument) -> AlarmType:
    return AlarmType(code, of, priority, arguments)


_GROUP_STATES: Final = "[a-hA-G0-9N-P-]*"
_BITS: Final = "[01-]*"
_BANDS: Final = r"([0-9]{1,2}-[0-9]{1,2}-[0-9]{1,2}(,[0-9]{1,2}-[0-9]{1,2}-[0-9]{1,2})*)?"
_OFFSETS: Final = r"[0-9]{1,3}-[0-9]{1,3}(,[0-9]{1,3}-[0-9]{1,3})*"
_ORIGINS: Final = ("operator_panel", "calendar_clock", "control_block", "forced", "startup", "other")
_SOURCE: Final = _text("source", *_ORIGINS)
_SOURCES: Final = _texts("source", *_ORIGINS)
_INTERSECTIONS: Final = _ints("intersection", 0, 255)
_SECURITY: Final = _text("securityCode")
_COLOUR: Final = _text("color", "red", "yellow", "green")
_CLASSES: Final = ("P", "PS", "L", "LS", "B", "SP", "MC", "C", "F")
_DATE: Final = (
    _int("year", 0, 9999),
    _int("month", 1, 12),
    _int("day", 1, 31),
    _int("hour", 0, 23),
    _int("minute", 0, 59),
    _int("second", 0, 59),
)
_DETECTOR_FAULT: Final = (
    _text("detector"),
    _text("type", "loop", "input"),
    _text("errormode", "on", "off"),
    _bool("manual"),
)
_LOGIC_FAULT: Final = _text("logicerror", "always_off", "always_on", "intermittent")

_STATUSES: Final = (
    _status(
        "S0001",
        _TLC,
        _text("signalgroupstatus", pattern=_GROUP_STATES),
        _int("cyclecounter", 0, 999),
        _int("basecyclecounter", 0, 999),
        _int("stage", 0, 999),
    ),
    _status("S0002", _TLC, _text("detectorlogicstatus", pattern=_BITS)),
    _status("S0003", _TLC, _text("inputstatus", pattern=_BITS)),
    _status("S0004", _TLC, _text("outputstatus", pattern=_BITS)),
    _status(
        "S0005",
        _TLC,
        _bool("status"),
        _array("statusByIntersection", _int("intersection", 0, 255), _bool("startup")),
    ),
    _status("S0006", _TLC, _bool("status"), _int("emergencystage", 0, 255)),
    _status("S0007", _TLC, _INTERSECTIONS, _bools("status"), _SOURCES),
    _status("S0008", _TLC, _INTERSECTIONS, _bools("status"), _SOURCES),
    _status("S0009", _TLC, _INTERSECTIONS, _bools("status"), _SOURCES),
    _status("S0010", _TLC, _INTERSECTIONS, _bools("status"), _SOURCES),
    _status("S0011", _TLC, _INTERSECTIONS, _bools("status"), _SOURCES),
    _status("S0012", _TLC, _INTERSECTIONS, _bools("status"), _SOURCES),
    _status("S0013", _TLC, _INTERSECTIONS, _ints("status", "0", "1", "2", "3")),
    _status("S0014", _TLC, _int("status", 1, 255), _SOURCE),
    _status("S0015", _TLC, _int("status", 1, 255), _SOURCE),
    _status("S0016", _TLC, _int("number", 1, 65025)),
    _status("S0017", _TLC, _int("number", 1, 65025)),
    _status("S0019", _TLC, _int("number", 1, 65025)),
    _status(
        "S0020",
        _TLC,
        _INTERSECTIONS,
        _texts("controlmode", "startup", "control", "standby", "failure", "test"),
    ),
    _status("S0021", _TLC, _text("detectorlogics", pattern=_BITS)),
    _status("S0022", _TLC, _text("status")),
    _status("S0023", _TLC, _text("status", pattern=_BANDS)),
    _status("S0024", _TLC, _text("status", pattern=_OFFSETS)),
    _status(
        "S0025",
        _GROUP,
        _time("minToGEstimate"),
        _time("maxToGEstimate"),
        _time("likelyToGEstimate"),
        _int("ToGConfidence", 0, 100),
        _time("minToREstimate"),
        _time("maxToREstimate"),
        _time("likelyToREstimate"),
        _int("ToRConfidence", 0, 100),
    ),
    _status("S0026", _TLC, _text("status")),
    _status("S0027", _TLC, _text("status")),
    _status("S0028", _TLC, _text("status")),
    _status("S0029", _TLC, _text("status")),
    _status("S0030", _TLC, _text("status")),
    _status("S0031", _TLC, _text("status")),
    _status("S0032", _TLC, _INTERSECTIONS, _texts("status", "local", "centralized", "off"), _SOURCES),
    _status(
        "S0033",
        _TLC,
        _array(
            "status",
            _text("r"),
            _time("t"),
            _text("s", *RequestState),
            _int("e", 0, 255, optional=True),
            _int("d", 0, 255, optional=True),
        ),
    ),
    _status("S0034", _TLC, _int("status", 0, 65535)),
    _status("S0035", _TLC, _array("emergencyroutes", _int("id", 1, 255))),
    _status("S0091", _TLC, _int("user", "0", "1", "2")),
    _status("S0092", _TLC, _int("user", "0", "1", "2")),
    _status("S0095", _TLC, _text("status")),
    _status("S0096", _TLC, *_DATE),
    _status("S0097", _TLC, _text("checksum"), _time("timestamp")),
    _status("S0098", _TLC, _base64("config"), _time("timestamp"), _text("version")),
    _status("S0201", _DETECTOR, _time("starttime"), _int("vehicles", 0, 65535)),
    _status("S0202", _DETECTOR, _time("starttime"), _int("speed", 0, 65535)),
    _status("S0203", _DETECTOR, _time("starttime"), _int("occupancy", 0, 100)),
    _status("S0204", _DETECTOR, _time("starttime"), *(_int(name, 0, 65535) for name in _CLASSES)),
    _status("S0205", _TLC, _time("start"), _ints("vehicles", -1, 65535)),
    _status("S0206", _TLC, _time("start"), _ints("speed", -1, 65535)),
    _status("S0207", _TLC, _time("start"), _ints("occupancy", -1, 100)),
    _status("S0208", _TLC, _time("start"), *(_ints(name, -1, 65535) for name in _CLASSES)),
)

_COMMANDS: Final = (
    _command(
        "M0001",
        "setValue",
        _TLC,
        _text("status", "NormalControl", "YellowFlash", "Dark"),
        _SECURITY,
        _int("timeout", 0, 1440),
        _int("intersection", 0, 255),
        security=2,
    ),
    _command("M0002", "setPlan", _TLC, _bool("status"), _SECURITY, _int("timeplan", 1, 255), security=2),
    _command(
        "M0003",
        "setTrafficSituation",
        _TLC,
        _bool("status"),
        _SECURITY,
        _int("traficsituation", 1, 255),
        security=2,
    ),
    _command("M0004", "setRestart", _TLC, _bool("status"), _SECURITY, security=2),
    _command(
        "M0005", "setEmergency", _TLC, _bool("status"), _SECURITY, _int("emergencyroute", 1, 255), security=2
    ),
    _command("M0006", "setInput", _TLC, _bool("status"), _SECURITY, _int("input", 1, 255), security=2),
    _command("M0007", "setFixedTime", _TLC, _bool("status"), _SECURITY, security=2),
    _command(
        "M0008", "setForceDetectorLogic", _DETECTOR, _bool("status"), _SECURITY, _bool("mode"), security=2
    ),
    _command("M0010", "setStart", _GROUP, _bool("status"), _SECURITY, security=2),
    _command("M0011", "setStop", _GROUP, _bool("status"), _SECURITY, security=2),
    _command("M0012", "setStart", _TLC, _text("status"), _SECURITY, security=2),
    _command("M0013", "setInput", _TLC, _text("status"), _SECURITY, security=2),
    _command("M0014", "setCommands", _TLC, _int("plan", 0, 255), _text("status"), _SECURITY, security=2),
    _command("M0015", "setOffset", _TLC, _int("status", 0, 255), _int("plan", 0, 255), _SECURITY, security=2),
    _command("M0016", "setWeekTable", _TLC, _text("status"), _SECURITY, security=2),
    _command("M0017", "setTimeTable", _TLC, _text("status"), _SECURITY, security=2),
    _command(
        "M0018", "setCycleTime", _TLC, _int("status", 1, 255), _int("plan", 0, 255), _SECURITY, security=2
    ),
    _command(
        "M0019",
        "setInput",
        _TLC,
        _bool("status"),
        _SECURITY,
        _int("input", 1, 255),
        _bool("inputValue"),
        security=2,
    ),
    _command(
        "M0020",
        "setOutput",
        _TLC,
        _bool("status"),
        _SECURITY,
        _int("output", 1, 255),
        _bool("outputValue"),
        security=2,
    ),
    _command("M0021", "setLevel", _TLC, _text("status"), _SECURITY, security=2),
    _command(
        "M0022",
        "requestPriority",
        _TLC,
        _text("requestId"),
        _text("signalGroupId", optional=True),
        _int("inputId", 0, 255, optional=True),
        _int("connectionId", 0, 255, optional=True),
        _int("approachId", 0, 16, optional=True),
        _int("laneInId", 0, 255, optional=True),
        _int("laneOutId", 0, 255, optional=True),
        _int("priorityId", 0, 255, optional=True),
        _text("type", "new", "update", "cancel"),
        _int("level", 0, 14, optional=True),
        _int("eta", 0, 255, optional=True),
        _text("vehicleType", *VehicleType, optional=True),
    ),
    _command("M0023", "setTimeout", _TLC, _int("status", 0, 65535), _SECURITY, security=2),
    _command(
        "M0103",
        "setSecurityCode",
        _TLC,
        _text("status", "Level1", "Level2"),
        _text("oldSecurityCode"),
        _text("newSecurityCode"),
    ),
    _command("M0104", "setDate", _TLC, _SECURITY, *_DATE, security=1),
)

_ALARMS: Final = (
    _alarm("A0001", _TLC, 2),
    _alarm("A0002", _TLC, 3),
    _alarm("A0003", _TLC, 2),
    _alarm("A0004", _TLC, 3),
    _alarm("A0005", _TLC, 3),
    _alarm("A0006", _TLC, 2),
    _alarm("A0007", _TLC, 3, _text("protocol", "rsmp", "ntp")),
    _alarm("A0008", _GROUP, 2, _int("timeplan", 1, 255)),
    _alarm("A0009", _TLC, 3),
    _alarm("A0010", _TLC, 3),
    _alarm("A0101", _GROUP, 3),
    _alarm("A0201", _GROUP, 2, _COLOUR),
    _alarm("A0202", _GROUP, 3, _COLOUR),
    _alarm("A0301", _DETECTOR, 3, *_DETECTOR_FAULT),
    _alarm("A0302", _DETECTOR, 3, *_DETECTOR_FAULT, _LOGIC_FAULT),
    _alarm("A0303", _DETECTOR, 2, *_DETECTOR_FAULT),
    _alarm("A0304", _DETECTOR, 2, *_DETECTOR_FAULT, _LOGIC_FAULT),
)

_V1_2_1: Final = Sxl(
    "1.2.1",
    {status.code: status for status in _STATUSES},
    {command.code: command for command in _COMMANDS},
    {alarm.code: alarm for alarm in _ALARMS},
)
_ONLY_1_1: Final = (
    _status("S0003", _TLC, _text("inputstatus", pattern=_BITS), _text("extendedinputstatus", pattern=_BITS)),
    _status(
        "S0004", _TLC, _text("outputstatus", pattern=_BITS), _text("extendedoutputstatus", pattern=_BITS)
    ),
    _status("S0005", _TLC, _bool("status")),
    _status("S0018", _TLC, _int("number", 1, 65025)),
)
DIFFERENCES: Final = tuple(status.code for status in (*_ONLY_1_1, _V1_2_1.statuses["S0035"]))
"""Statuses in which 1.1.0 and 1.2.x differ; commands and alarms have the same values in all three."""
SXLS: Final[Mapping[str, Sxl]] = {
    "1.1.0": replace(
        _V1_2_1,
        version="1.1.0",
        statuses={
            code: status
            for code, status in {**_V1_2_1.statuses, **{one.code: one for one in _ONLY_1_1}}.items()
            if code != "S0035"
        },
    ),
    "1.2.0": replace(_V1_2_1, version="1.2.0"),
    "1.2.1": _V1_2_1,
}
"""The list in each version."""


def security_level(code: str, arguments: Mapping[str, str], sxl: Sxl) -> tuple[int, str]:
    """Return which security code a command needs, 0 for none, and the one that it brings.

    M0103 brings the old code of the level that it changes.
    """
    if code == "M0103":
        return (1 if arguments.get("status") == "Level1" else 2), arguments.get("oldSecurityCode", "")
    return sxl.commands[code].security, arguments.get("securityCode", "")
