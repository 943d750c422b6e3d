"""What a payload codec is, and what all of them have in common.

A codec turns the decrypted FRMPayload of one make of sensor into points and, where the sensor can be told
something, a value into a downlink. The frame's MIC has been checked before, so a payload that cannot be read is
a sensor of another make or firmware, never line noise: it is refused whole, with what and where.

What a sensor says but cannot mean is a fault of that one point and no value; its other points stand.
"""

from collections.abc import Callable, Mapping

import msgspec

from protocols.errors import RemoteProtocolError
from protocols.model.device import Kind, Point
from protocols.model.ids import PointName
from protocols.model.reading import Fault, Quality, Reason, Value

Reported = Mapping[PointName, Value | Fault]

NOT_AVAILABLE = Fault(Quality.BAD, Reason.NOT_AVAILABLE)
OUT_OF_RANGE = Fault(Quality.BAD, Reason.OUT_OF_RANGE)


class PayloadCodec(msgspec.Struct, frozen=True):
    """One make of sensor.

    Attributes:
        name: as the settings name it: maker and model.
        kind: what such a sensor is to the city.
        points: everything that it can report.
        decode: (port, payload) to values; raises RemoteProtocolError.
        encode: (point, value) to the port and payload of the downlink that sets it; raises LocalProtocolError.
            None for what can only be heard.
    """

    name: str
    kind: Kind
    points: tuple[Point, ...]
    decode: Callable[[int, bytes], Reported]
    encode: Callable[[PointName, Value], tuple[int, bytes]] | None = None


def number(name: str, unit: str, minimum: float, maximum: float) -> Point:
    """Return a point that is a number within a range, both ends included."""
    return Point(PointName(name), unit, minimum=minimum, maximum=maximum)


def state(name: str, *, writable: bool = False) -> Point:
    """Return a point that is true or false, or a word."""
    return Point(PointName(name), writable=writable)


def within(point: Point, value: float) -> float | Fault:
    """Return a number that the point can mean, or the fault that it is none."""
    low, high = point.minimum, point.maximum
    if (low is not None and value < low) or (high is not None and value > high):
        return OUT_OF_RANGE
    return value


def flag(byte: int) -> bool | Fault:
    """Return a byte that is 0 or 1 as false or true; anything else is out of range."""
    return bool(byte) if byte in {0, 1} else OUT_OF_RANGE


def need_port(device: str, port: int, wanted: int) -> None:
    """Check the port.

    Raises:
        RemoteProtocolError: if it is another one.
    """
    if port != wanted:
        raise RemoteProtocolError(f"{device}: port {port}, its payloads come on port {wanted}")


def need_length(device: str, payload: bytes, wanted: int) -> None:
    """Check the length.

    Raises:
        RemoteProtocolError: if there are fewer or more bytes.
    """
    if len(payload) != wanted:
        raise RemoteProtocolError(f"{device}: {len(payload)} bytes, expected {wanted}")
