"""What stands in the street: devices and the points that they have."""

from enum import IntEnum, StrEnum
from typing import Annotated

import msgspec

from protocols.model.ids import ID_META, DeviceId, LineId, PointName


class Kind(StrEnum):
    """What a device is to the city. Append only."""

    LAMP = "lamp"
    METER = "meter"
    CABINET_IO = "cabinet_io"
    LIGHT_SENSOR = "light_sensor"
    DETECTOR = "detector"
    JUNCTION = "junction"
    SENSOR = "sensor"
    PUMPING_STATION = "pumping_station"
    PARKING_SPACE = "parking_space"
    BIN = "bin"
    WEATHER_STATION = "weather_station"
    VEHICLE = "vehicle"


class StreamClass(IntEnum):
    """The streams of an outbox, in the order in which they are sent; the last is shed first. Append only."""

    EVENTS = 0
    CRITICAL = 1
    ORDINARY = 2
    BULK = 3


class Report(StrEnum):
    """When a reading of a point is worth keeping."""

    CHANGE = "change"
    """When it differs from the last kept one by more than the dead band, and at each heartbeat."""
    EACH = "each"
    """Every time it is read: counters that are balanced, benches."""


class Point(msgspec.Struct, frozen=True):
    """A named property of a device.

    Attributes:
        name: uCIFI vocabulary in snake case.
        unit: UCUM code; "" for none, "{code}" for a state.
        writable: whether it can be commanded.
        minimum: smallest value that the device can mean, if there is one.
        maximum: largest value that the device can mean, if there is one.
    """

    name: PointName
    unit: str = ""
    writable: bool = False
    minimum: float | None = None
    maximum: float | None = None


class Device(msgspec.Struct, frozen=True):
    """One device as the centre knows it.

    Attributes:
        id: unique within the city.
        kind: what it is to the city.
        line: the cabinet's line that it hangs on.
        address: its hardware address on that line, in the line's own terms.
        stream: the class of its readings.
        groups: the names of the groups that it belongs to.
        commune: INSEE code, or "".
        points: what can be read of it and commanded.
    """

    id: Annotated[DeviceId, ID_META]
    kind: Kind
    line: Annotated[LineId, ID_META]
    address: str
    stream: StreamClass = StreamClass.ORDINARY
    groups: tuple[str, ...] = ()
    commune: str = ""
    points: tuple[Point, ...] = ()
