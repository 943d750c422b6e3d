"""What a Bluetooth device is expected to say, as data: the `map` of its settings.

A device says what it has only when it speaks, and not everything in each packet; its points must not depend on
that. So its profile names them. What a packet has beyond its device's profile is counted, never invented.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

from protocols.ble.objects import EVENTS, OBJECT_TYPES, ObjectType
from protocols.errors import LocalProtocolError
from protocols.model.device import Point, Report
from protocols.model.ids import PointName

BATTERY_VOLTAGE: Final = PointName("battery_voltage")
TEMPERATURE: Final = PointName("temperature")
UPTIME: Final = PointName("uptime")


class Format(StrEnum):
    """What a device's adverts are written in."""

    BTHOME = "bthome"
    EDDYSTONE = "eddystone"


class Expected(msgspec.Struct, frozen=True):
    """A point of a profile, and when a reading of it is worth keeping.

    Attributes:
        point: what it is.
        report: EACH for what happens, so that two presses of a button are two readings.
        dead_band: the change, in the point's unit, below which nothing has changed.
        said_as: its name in the packet, where that does not say whose it is.
    """

    point: Point
    report: Report = Report.CHANGE
    dead_band: float = 0.0
    said_as: PointName | None = None


class Profile(msgspec.Struct, frozen=True):
    """What one kind of device says.

    Attributes:
        name: as the settings give it.
        format: what its adverts are written in.
        expected: its points, in their order.
    """

    name: str
    format: Format
    expected: tuple[Expected, ...]


_ROWS: Final[Mapping[str, ObjectType]] = {row.name: row for row in reversed(OBJECT_TYPES)}
_DEAD_BANDS: Final[Mapping[str, float]] = MappingProxyType({
    "air_pressure": 0.2,
    "illuminance": 5,
    "relative_humidity": 1,
    "temperature": 0.2,
    "voltage": 0.05,
})  # fmt: skip
"""In the point's unit: what is noise to a city. A device's settings say otherwise where it matters."""


_NAMED: Final[Mapping[str, PointName]] = MappingProxyType({
    "wind_speed": PointName("speed"),
    "wind_direction": PointName("direction"),
})  # fmt: skip
"""Points that have the name of the same thing on other lines, and what BTHome calls them."""


def _expected(name: str) -> Expected:
    """Return a point by its name, numbered or not: that of "button_2" is a button."""
    said_as = _NAMED.get(name)
    stem = said_as or (name.rstrip("0123456789").rstrip("_") if name not in _ROWS else name)
    row = _ROWS[stem]
    point = Point(PointName(name), unit=row.unit, minimum=row.minimum, maximum=row.maximum)
    report = Report.EACH if row.form in EVENTS else Report.CHANGE
    return Expected(point, report, _DEAD_BANDS.get(stem, 0.0), said_as)


def _bthome(name: str, *points: str) -> Profile:
    return Profile(f"bthome-{name}", Format.BTHOME, tuple(map(_expected, points)))


PROFILES: Final[Mapping[str, Profile]] = MappingProxyType({
    profile.name: profile
    for profile in (
        _bthome("thermometer", "temperature", "relative_humidity", "battery_level"),
        _bthome("weather", "temperature", "relative_humidity", "air_pressure", "wind_speed", "wind_direction",
                "precipitation", "illuminance", "uv_index", "battery_level"),
        _bthome("air", "co2", "tvoc", "pm2_5", "pm10", "temperature", "relative_humidity", "battery_level"),
        _bthome("soil", "moisture", "temperature", "conductivity", "illuminance", "battery_level"),
        _bthome("window", "window_open", "rotation", "illuminance", "battery_level"),
        _bthome("door", "door_open", "battery_level"),
        _bthome("cover", "opening", "tamper", "rotation", "battery_level"),
        _bthome("motion", "motion", "illuminance", "battery_level"),
        _bthome("occupancy", "occupied", "distance", "battery_level"),
        _bthome("vibration", "vibration", "rotation", "battery_level"),
        _bthome("button", "button", "battery_level"),
        _bthome("buttons-4", "button", "button_2", "button_3", "button_4", "battery_level"),
        _bthome("level", "distance", "battery_level"),
        _bthome("leak", "moisture_detected", "temperature", "battery_level"),
        _bthome("smoke", "smoke_detected", "carbon_monoxide_detected", "battery_level"),
        _bthome("counter", "count", "battery_level"),
        _bthome("power", "active_power", "cumulative_active_energy", "voltage", "current"),
        _bthome("water", "water_volume", "volume_flow_rate", "battery_level"),
        Profile(
            "eddystone",
            Format.EDDYSTONE,
            (
                Expected(Point(BATTERY_VOLTAGE, unit="V", minimum=0, maximum=65.535), dead_band=0.02),
                Expected(Point(TEMPERATURE, unit="Cel", minimum=-128, maximum=128), dead_band=0.5),
                Expected(Point(UPTIME, unit="s", minimum=0), dead_band=86_400),
            ),
        ),
    )
})  # fmt: skip


def profile_named(name: str) -> Profile:
    """Return a profile.

    Raises:
        LocalProtocolError: if there is none of that name.
    """
    profile = PROFILES.get(name)
    if profile is None:
        raise LocalProtocolError(f"{name!r} is no profile; there are {', '.join(PROFILES)}")
    return profile
