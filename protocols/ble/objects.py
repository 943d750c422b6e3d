"""The objects of BTHome v2, as data (bthome.io/format, sensor data, binary sensor data, events, device information).

Each point has one unit, whatever unit an object says it in: `distance` is in mm whether a sensor sends mm (40) or
dm (41), so the table's scale includes the conversion. Names are uCIFI's where it has one; units are UCUM.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

from protocols.model.ids import PointName


class Form(StrEnum):
    """How the bytes of an object are read; numbers are little-endian."""

    UNSIGNED = "unsigned"
    SIGNED = "signed"
    SWITCH = "switch"
    """One byte, 0 or 1; anything else is no value."""
    BUTTON = "button"
    """One byte: what was done to a button, 0 for nothing."""
    DIMMER = "dimmer"
    """Two bytes: 0 for nothing, 1 left, 2 right; then by how many steps."""
    COMMAND = "command"
    """Length (bits 0–4) of the arguments, operation, arguments."""
    TEXT = "text"
    """Length, UTF-8."""
    RAW = "raw"
    """Length, bytes."""
    PACKET_ID = "packet_id"
    DEVICE_TYPE = "device_type"
    FIRMWARE = "firmware"
    """Bytes of a version, the last part first."""


EVENTS: Final = frozenset({Form.BUTTON, Form.DIMMER, Form.COMMAND})
"""Forms that tell of what happened, rather than of what is."""
ABOUT: Final = frozenset({Form.PACKET_ID, Form.DEVICE_TYPE, Form.FIRMWARE})
"""Forms that tell of the packet or the device; each stands in a packet once at most."""
BUTTON_EVENTS: Final[Mapping[int, str | None]] = MappingProxyType({
    0x00: None,
    0x01: "press",
    0x02: "double_press",
    0x03: "triple_press",
    0x04: "long_press",
    0x05: "long_double_press",
    0x06: "long_triple_press",
    0x80: "hold_press",
    0x81: "hold_release",
})  # fmt: skip
COMMANDS: Final[Mapping[int, str]] = MappingProxyType({
    0x00: "off",
    0x01: "on",
    0x02: "toggle",
    0x03: "step_up",
    0x04: "step_down",
})  # fmt: skip


class ObjectType(msgspec.Struct, frozen=True):
    """One row of the published tables.

    Attributes:
        id: the object id, 00–FF.
        name: the point that it is a value of.
        form: how its bytes are read.
        width: bytes that follow the id; 0 where a length stands in front of them.
        unit: UCUM code.
        decimals: value = number × step ÷ 10 ** decimals, in `unit`.
        step: see there.
        minimum: smallest value that can be meant; None for what the bytes can hold.
        maximum: largest value that can be meant; None for what the bytes can hold.
    """

    id: int
    name: PointName
    form: Form
    width: int = 1
    unit: str = ""
    decimals: int = 0
    step: int = 1
    minimum: float | None = None
    maximum: float | None = None


def _unsigned(
    code: int,
    name: str,
    width: int,
    unit: str = "",
    decimals: int = 0,
    *,
    step: int = 1,
    maximum: float | None = None,
) -> ObjectType:
    return ObjectType(code, PointName(name), Form.UNSIGNED, width, unit, decimals, step, None, maximum)


def _signed(
    code: int,
    name: str,
    width: int,
    unit: str = "",
    decimals: int = 0,
    *,
    step: int = 1,
    minimum: float | None = None,
) -> ObjectType:
    return ObjectType(code, PointName(name), Form.SIGNED, width, unit, decimals, step, minimum)


def _switches(first: int, names: Iterable[str]) -> Iterable[ObjectType]:
    return (ObjectType(first + i, PointName(name), Form.SWITCH) for i, name in enumerate(names))


_ABSOLUTE_ZERO_C: Final = -273.15
_POUND_STEP: Final = 45359237
"""0.01 lb = 0.0045359237 kg, exactly: × 10 ** 10."""

OBJECT_TYPES: Final[tuple[ObjectType, ...]] = (
    ObjectType(0x00, PointName("packet_id"), Form.PACKET_ID),
    _unsigned(0x01, "battery_level", 1, "%", maximum=100),
    _signed(0x02, "temperature", 2, "Cel", 2, minimum=_ABSOLUTE_ZERO_C),
    _unsigned(0x03, "relative_humidity", 2, "%", 2, maximum=100),
    _unsigned(0x04, "air_pressure", 3, "hPa", 2),
    _unsigned(0x05, "illuminance", 3, "lx", 2),
    _unsigned(0x06, "mass", 2, "kg", 2),
    _unsigned(0x07, "mass", 2, "kg", 10, step=_POUND_STEP),  # in pounds on the air
    _signed(0x08, "dew_point", 2, "Cel", 2, minimum=_ABSOLUTE_ZERO_C),
    _unsigned(0x09, "count", 1),
    _unsigned(0x0A, "cumulative_active_energy", 3, "kW.h", 3),
    _unsigned(0x0B, "active_power", 3, "W", 2),
    _unsigned(0x0C, "voltage", 2, "V", 3),
    _unsigned(0x0D, "pm2_5", 2, "ug/m3"),
    _unsigned(0x0E, "pm10", 2, "ug/m3"),
    *_switches(0x0F, ("switch", "power_on", "opening")),
    _unsigned(0x12, "co2", 2, "[ppm]"),
    _unsigned(0x13, "tvoc", 2, "ug/m3"),
    _unsigned(0x14, "moisture", 2, "%", 2, maximum=100),
    *_switches(
        0x15,
        (
            "battery_low",
            "battery_charging",
            "carbon_monoxide_detected",
            "cold",
            "connected",
            "door_open",
            "garage_door_open",
            "gas_detected",
            "heat",
            "light_detected",
            "unlocked",
            "moisture_detected",
            "motion",
            "moving",
            "occupied",
            "plugged_in",
            "presence",
            "problem",
            "running",
            "safe",
            "smoke_detected",
            "sound_detected",
            "tamper",
            "vibration",
            "window_open",
        ),
    ),
    _unsigned(0x2E, "relative_humidity", 1, "%", maximum=100),
    _unsigned(0x2F, "moisture", 1, "%", maximum=100),
    ObjectType(0x3A, PointName("button"), Form.BUTTON),
    ObjectType(0x3B, PointName("command"), Form.COMMAND, 0),
    ObjectType(0x3C, PointName("dimmer"), Form.DIMMER, 2),
    _unsigned(0x3D, "count", 2),
    _unsigned(0x3E, "count", 4),
    _signed(0x3F, "rotation", 2, "deg", 1),
    _unsigned(0x40, "distance", 2, "mm"),
    _unsigned(0x41, "distance", 2, "mm", step=100),  # in 0.1 m on the air
    _unsigned(0x42, "duration", 3, "s", 3),
    _unsigned(0x43, "current", 2, "A", 3),
    _unsigned(0x44, "speed", 2, "m/s", 2),
    _signed(0x45, "temperature", 2, "Cel", 1, minimum=_ABSOLUTE_ZERO_C),
    _unsigned(0x46, "uv_index", 1, "{index}", 1),
    _unsigned(0x47, "volume", 2, "L", 1),
    _unsigned(0x48, "volume", 2, "L", 3),  # in ml on the air
    _unsigned(0x49, "volume_flow_rate", 2, "m3/h", 3),
    _unsigned(0x4A, "voltage", 2, "V", 1),
    _unsigned(0x4B, "gas_volume", 3, "m3", 3),
    _unsigned(0x4C, "gas_volume", 4, "m3", 3),
    _unsigned(0x4D, "cumulative_active_energy", 4, "kW.h", 3),
    _unsigned(0x4E, "volume", 4, "L", 3),
    _unsigned(0x4F, "water_volume", 4, "m3", 6),  # in litres on the air
    _unsigned(0x50, "device_time", 4, "s"),  # since 1970-01-01T00:00Z
    _unsigned(0x51, "acceleration", 2, "m/s2", 3),
    _unsigned(0x52, "angular_velocity", 2, "deg/s", 3),
    ObjectType(0x53, PointName("text"), Form.TEXT, 0),
    ObjectType(0x54, PointName("raw"), Form.RAW, 0),
    _unsigned(0x55, "stored_volume", 4, "L", 3),
    _unsigned(0x56, "conductivity", 2, "uS/cm"),
    _signed(0x57, "temperature", 1, "Cel"),
    _signed(0x58, "temperature", 1, "Cel", 2, step=35),
    _signed(0x59, "count", 1),
    _signed(0x5A, "count", 2),
    _signed(0x5B, "count", 4),
    _signed(0x5C, "active_power", 4, "W", 2),
    _signed(0x5D, "current", 2, "A", 3),
    _unsigned(0x5E, "direction", 2, "deg", 2, maximum=360),
    _unsigned(0x5F, "precipitation", 2, "mm", 1),
    _unsigned(0x60, "channel", 1),
    _unsigned(0x61, "rotational_speed", 2, "/min"),
    _signed(0x62, "speed", 4, "m/s", 6),
    _signed(0x63, "acceleration", 4, "m/s2", 6),
    _unsigned(0x64, "light_level", 1, "{level}"),
    _unsigned(0x65, "settings_revision", 1),
    ObjectType(0xF0, PointName("device_type"), Form.DEVICE_TYPE, 2),
    ObjectType(0xF1, PointName("firmware"), Form.FIRMWARE, 4),
    ObjectType(0xF2, PointName("firmware"), Form.FIRMWARE, 3),
)

BY_ID: Final[Mapping[int, ObjectType]] = MappingProxyType({row.id: row for row in OBJECT_TYPES})
