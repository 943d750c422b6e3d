"""What a cabinet's own devices say of vehicles and of signal groups."""

import re
from collections.abc import Sequence

from protocols.model.device import Device
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Value

OCCUPIED = PointName("occupied")
"""What a detector says, unless the approach names another of its points."""
SIGNAL_GROUPS = PointName("signal_groups")
"""A junction's groups as RSMP's S0001, `signalgroupstatus`, has them: a character each, the leftmost is group 1."""
CONTROL_MODE = PointName("control_mode")
"""A controller's mode, in the words of S0020, `controlmode`."""

_IDLE = frozenset({"startup", "standby", "failure", "test"})
_GREEN = frozenset("123456789")
"""SXL 1.2.1, S0001: minimum green to flashing green."""
_NOT_GREEN = frozenset("0ABCDEFGNOPh")
"""Red, red-yellow and yellow. Whatever else is said, dark or flashing or starting, is no answer to our question."""
_TRAILING = re.compile(r"[0-9]{1,4}$")


def detector_point(name: str, devices: Sequence[Device]) -> tuple[DeviceId, PointName] | None:
    """Return whose and which point "device" or "device/point" is; None if there is none such."""
    device_id, _, point = name.partition("/")
    wanted = PointName(point) if point else OCCUPIED
    device = next((one for one in devices if one.id == device_id), None)
    if device is None or wanted not in {one.name for one in device.points}:
        return None
    return device.id, wanted


def is_pulse(before: Value, now: Value) -> bool:
    """Tell whether a detector's value says that a vehicle has come: it became occupied, or counted on.

    The first value after a silence says nothing: who knows when it changed.
    """
    if isinstance(before, bool) or isinstance(now, bool):
        return before is False and now is True
    if isinstance(before, int | float) and isinstance(now, int | float):
        return now > before
    return False


def is_idle(mode: Value) -> bool:
    """Tell whether a controller says that it is not in control of its lamps: dark, flashing, starting, on test."""
    return mode in _IDLE


def is_green(groups: Value, signal_group: str) -> bool | None:
    """Return whether a group is green, by what its junction says of all; None if that cannot be told.

    Args:
        groups: the junction's `signal_groups`.
        signal_group: the group's component id, which ends in its number, such as "KK+AG0503=001SG002".
    """
    found = _TRAILING.search(signal_group)
    number = int(found.group()) if found else 0
    mark = groups[number - 1 : number] if isinstance(groups, str) and number else ""
    if mark in _GREEN:
        return True
    return False if mark in _NOT_GREEN else None
