"""Dragino LDDS75, an ultrasonic distance sensor for bins and tanks, port 2, big endian.

    battery & 3FFF, mV | distance, mm | [interrupt] | [temperature, 0.1 °C] | [sensor there]

The parts in brackets are there or not from the left, so a payload has 4, 5, 7 or 8 bytes. Without the last one
nothing says that an ultrasonic sensor is connected, and then there is no distance either: without a sensor the
field holds 0, and 20 mm when nothing came back.
"""

from typing import Final

from protocols.errors import RemoteProtocolError
from protocols.lorawan.payloads.codec import (
    NOT_AVAILABLE,
    PayloadCodec,
    Reported,
    flag,
    need_port,
    number,
    state,
    within,
)
from protocols.model.device import Kind, Point
from protocols.model.ids import PointName
from protocols.model.reading import Fault, Value

PORT: Final = 2
LENGTHS: Final = (4, 5, 7, 8)

_DEVICE: Final = "dragino-ldds75"
_BATTERY: Final = number("battery_voltage", "V", 0, 5)
_DISTANCE: Final = number("distance", "mm", 1, 10_000)
_TEMPERATURE: Final = number("temperature", "Cel", -55, 125)
_POINTS: Final[tuple[Point, ...]] = (
    _BATTERY,
    _DISTANCE,
    state("interrupt"),
    _TEMPERATURE,
    state("sensor_present"),
)
_NO_ECHO: Final = frozenset({0, 20})


def _decode(port: int, payload: bytes) -> Reported:
    need_port(_DEVICE, port, PORT)
    if len(payload) not in LENGTHS:
        raise RemoteProtocolError(f"{_DEVICE}: {len(payload)} bytes, expected 4, 5, 7 or 8")
    present = flag(payload[7]) if len(payload) == 8 else False
    values: dict[PointName, Value | Fault] = {
        _BATTERY.name: within(_BATTERY, (int.from_bytes(payload[:2]) & 0x3FFF) / 1000),
        _DISTANCE.name: _distance(int.from_bytes(payload[2:4])) if present is True else NOT_AVAILABLE,
        PointName("sensor_present"): present,
    }
    if len(payload) > 4:
        values[PointName("interrupt")] = flag(payload[4])
    if len(payload) > 5:
        temperature = int.from_bytes(payload[5:7], signed=True) / 10
        values[_TEMPERATURE.name] = within(_TEMPERATURE, temperature)
    return values


def _distance(distance_mm: int) -> float | Fault:
    return NOT_AVAILABLE if distance_mm in _NO_ECHO else within(_DISTANCE, distance_mm)


LDDS75: Final = PayloadCodec(_DEVICE, Kind.BIN, _POINTS, _decode)
