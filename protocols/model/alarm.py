"""What needs somebody to act. One alarm per (device, type); a repeat updates it."""

from enum import StrEnum
from typing import Annotated

import msgspec

from protocols.model.ids import DeviceId


class AlarmType(StrEnum):
    """What is wrong. TALQ's event names in snake case where TALQ has one. Append only."""

    LAMP_FAILURE = "lamp_failure"
    CONTROL_GEAR_FAILURE = "control_gear_failure"
    COMMUNICATION_FAILURE = "communication_failure"
    DIMMING_FAILURE = "dimming_failure"
    LINE_DOWN = "line_down"
    CABINET_DOOR_OPEN = "cabinet_door_open"
    BREAKER_TRIPPED = "breaker_tripped"
    CONTACTOR_ERROR = "contactor_error"
    SUPPLY_LOSS = "supply_loss"
    CONTROLLER_FAULT = "controller_fault"
    """A signal controller has a major fault (EN 12675): it is dark or flashes."""
    CONTROLLER_WARNING = "controller_warning"
    """A signal controller has a minor fault: the junction works, somebody has to come."""
    PUMP_FAILURE = "pump_failure"
    HIGH_LEVEL = "high_level"
    BATTERY_LOW = "battery_low"
    PRIORITY_FAILURE = "priority_failure"
    """Buses do not get the green that the junction's rules promise them."""


class Severity(StrEnum):
    """How urgent. About 5 % high, 15 % medium and 80 % low is what an operator can work with (EEMUA 191)."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


SEVERITY = {
    AlarmType.LAMP_FAILURE: Severity.LOW,
    AlarmType.CONTROL_GEAR_FAILURE: Severity.LOW,
    AlarmType.COMMUNICATION_FAILURE: Severity.LOW,
    AlarmType.DIMMING_FAILURE: Severity.LOW,
    AlarmType.LINE_DOWN: Severity.MEDIUM,
    AlarmType.CABINET_DOOR_OPEN: Severity.MEDIUM,
    AlarmType.BREAKER_TRIPPED: Severity.HIGH,
    AlarmType.CONTACTOR_ERROR: Severity.MEDIUM,
    AlarmType.SUPPLY_LOSS: Severity.HIGH,
    AlarmType.CONTROLLER_FAULT: Severity.HIGH,
    AlarmType.CONTROLLER_WARNING: Severity.LOW,
    AlarmType.PUMP_FAILURE: Severity.MEDIUM,
    AlarmType.HIGH_LEVEL: Severity.HIGH,
    AlarmType.BATTERY_LOW: Severity.LOW,
    AlarmType.PRIORITY_FAILURE: Severity.MEDIUM,
}


class Alarm(msgspec.Struct, frozen=True):
    """One alarm as the cabinet holds it.

    Attributes:
        device: whose; for a line or the cabinet itself, the line's or cabinet's id.
        type: what is wrong.
        raised_ms: UTC milliseconds.
        cleared_ms: UTC milliseconds; None while it lasts.
        text: for a person, in one sentence.
    """

    device: DeviceId
    type: AlarmType
    raised_ms: int
    cleared_ms: int | None = None
    text: Annotated[str, msgspec.Meta(max_length=400)] = ""
