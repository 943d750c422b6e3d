"""Decentlab sensors, whose payloads all have one form, on port 1.

    02 | device id, u16 BE | flags, u16 BE | words, u16 BE

Bit i of the flags says that block i is there. A block that is not there is a sensor that gave nothing: its
points are not available. A flag that is not known means words of unknown number, so nothing can be believed.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from protocols.errors import RemoteProtocolError
from protocols.lorawan.payloads.codec import (
    NOT_AVAILABLE,
    PayloadCodec,
    Reported,
    need_length,
    need_port,
    number,
    within,
)
from protocols.model.device import Kind, Point
from protocols.model.ids import PointName
from protocols.model.reading import Fault, Value

PORT: Final = 1
VERSION: Final = 2
_HEADER: Final = 5


class Word(msgspec.Struct, frozen=True):
    """One word of a block: its point, and how its number becomes the point's value."""

    point: Point
    convert: Callable[[int], float]


Block = tuple[Word, ...]


def _unsigned(name: str, unit: str, minimum: float, maximum: float, divisor: int = 1) -> Word:
    def convert(word: int) -> float:
        return word if divisor == 1 else word / divisor

    return Word(number(name, unit, minimum, maximum), convert)


def _signed(name: str, unit: str, minimum: float, maximum: float, divisor: int = 1) -> Word:
    """Return a word from which 32768 is taken."""

    def convert(word: int) -> float:
        return word - 32768 if divisor == 1 else (word - 32768) / divisor

    return Word(number(name, unit, minimum, maximum), convert)


def _blocks(
    device: str, blocks: Sequence[Block], port: int, payload: bytes
) -> dict[PointName, Value | Fault]:
    """Read all blocks.

    Raises:
        RemoteProtocolError: wrong port, version, flags or length.
    """
    need_port(device, port, PORT)
    if len(payload) < _HEADER:
        raise RemoteProtocolError(f"{device}: {len(payload)} bytes, fewer than the {_HEADER} of the header")
    if payload[0] != VERSION:
        raise RemoteProtocolError(f"{device}: version {payload[0]} in byte 0, expected {VERSION}")
    flags = int.from_bytes(payload[3:5])
    if flags >> len(blocks):
        raise RemoteProtocolError(f"{device}: flags {flags:04x} name a block beyond its {len(blocks)}")
    there = [bool(flags & 1 << index) for index in range(len(blocks))]
    words = sum(len(block) for block, is_there in zip(blocks, there, strict=True) if is_there)
    need_length(f"{device}, flags {flags:04x}", payload, _HEADER + 2 * words)
    values: dict[PointName, Value | Fault] = {}
    at = _HEADER
    for block, is_there in zip(blocks, there, strict=True):
        for word in block:
            values[word.point.name] = _value(word, payload[at : at + 2]) if is_there else NOT_AVAILABLE
            at += 2 * is_there
    return values


def _value(word: Word, raw: bytes) -> Value | Fault:
    return within(word.point, word.convert(int.from_bytes(raw)))


def _points(blocks: Sequence[Block]) -> tuple[Point, ...]:
    return tuple(word.point for block in blocks for word in block)


_BATTERY: Final = (_unsigned("battery_voltage", "V", 0, 5, 1000),)

_MBX: Final = (
    (
        # MaxBotix sensors measure from 300 mm on at most to 10 m; nearer things read as the nearest distance
        _unsigned("distance", "mm", 1, 10_000),
        _unsigned("valid_samples", "{count}", 0, 0xFFFF),
    ),
    _BATTERY,
)
_DISTANCE: Final = PointName("distance")
_SAMPLES: Final = PointName("valid_samples")


def _decode_mbx(port: int, payload: bytes) -> Reported:
    """Read a distance, which is none if no sample was valid."""
    values = _blocks("decentlab-dl-mbx", _MBX, port, payload)
    if values[_SAMPLES] == 0:
        values[_DISTANCE] = NOT_AVAILABLE
    return values


# The ranges are those that METER gives for the ATMOS 41, rounded outwards.
_ATM41: Final = (
    (
        _signed("solar_irradiance", "W/m2", 0, 2000),
        _signed("precipitation", "mm", 0, 32.766, 1000),
        _signed("lightning_strikes", "{count}", 0, 32_766),
        _signed("lightning_distance", "km", 0, 40),
        _signed("wind_speed", "m/s", 0, 60, 100),
        _signed("wind_direction", "deg", 0, 360, 10),
        _signed("wind_gust", "m/s", 0, 100, 100),
        _signed("temperature", "Cel", -50, 60, 10),
        _signed("vapour_pressure", "kPa", 0, 47, 100),
        _signed("air_pressure", "hPa", 500, 1100, 10),  # hundredths of a kPa are tenths of a hPa
        _signed("relative_humidity", "%", 0, 100, 10),
        _signed("internal_temperature", "Cel", -50, 100, 10),
        _signed("tilt_x", "deg", -180, 180, 10),
        _signed("tilt_y", "deg", -180, 180, 10),
        _signed("compass_heading", "deg", 0, 360),
        _signed("wind_speed_north", "m/s", -100, 100, 100),
        _signed("wind_speed_east", "m/s", -100, 100, 100),
    ),
    _BATTERY,
)


def _decode_atm41(port: int, payload: bytes) -> Reported:
    return _blocks("decentlab-dl-atm41", _ATM41, port, payload)


_PM: Final = (
    _BATTERY,
    (
        # Sensirion SPS30: 1000 µg/m³ and 3000 /cm³ are the most that it claims to measure
        _unsigned("pm1", "ug/m3", 0, 1000, 10),
        _unsigned("pm2_5", "ug/m3", 0, 1000, 10),
        _unsigned("pm4", "ug/m3", 0, 1000, 10),
        _unsigned("pm10", "ug/m3", 0, 1000, 10),
        _unsigned("typical_particle_size", "nm", 0, 10_000),
        _unsigned("pm0_5_number", "/cm3", 0, 3000, 10),
        _unsigned("pm1_number", "/cm3", 0, 3000, 10),
        _unsigned("pm2_5_number", "/cm3", 0, 3000, 10),
        _unsigned("pm4_number", "/cm3", 0, 3000, 10),
        _unsigned("pm10_number", "/cm3", 0, 3000, 10),
    ),
    (
        # Sensirion SHT21: its formulas reach beyond what it can measure
        Word(number("temperature", "Cel", -40, 125), lambda word: 175.72 * word / 65536 - 46.85),
        Word(number("relative_humidity", "%", 0, 100), lambda word: 125 * word / 65536 - 6),
    ),
    (Word(number("air_pressure", "hPa", 300, 1100), lambda word: word * 2 / 100),),
)


def _decode_pm(port: int, payload: bytes) -> Reported:
    return _blocks("decentlab-dl-pm", _PM, port, payload)


DL_MBX: Final = PayloadCodec("decentlab-dl-mbx", Kind.BIN, _points(_MBX), _decode_mbx)
DL_ATM41: Final = PayloadCodec("decentlab-dl-atm41", Kind.WEATHER_STATION, _points(_ATM41), _decode_atm41)
DL_PM: Final = PayloadCodec("decentlab-dl-pm", Kind.SENSOR, _points(_PM), _decode_pm)
