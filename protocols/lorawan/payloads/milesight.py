"""Milesight sensors, whose payloads all have one form, on port 85: channel, type, value, little endian, repeated.

There is no length in it: a pair of channel and type that is not known ends the reading. What stands before it is
kept, because each known pair has one fixed length, so the values before are where the sensor put them; what
follows is not looked at, and `undecoded_bytes` says how much that was. A payload that begins with an unknown
pair, stops within a value or says the same point twice is refused whole.

Values of all ones are how an unsigned field says that it has none.

Basic information that every model sends when it joins (channel FF) is passed over. So are records of the
sensor's memory (20 CE), which are of another time than the frame: `history_records` counts them.

Layouts: reference sheet; alarm pairs, basic information, the noise sensor's weighting and the switch's command
from the makers' user guides of EM400-MUD, WS302, WTS506, AM308 and WS558.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.lorawan.payloads.codec import (
    NOT_AVAILABLE,
    OUT_OF_RANGE,
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

PORT: Final = 85
MAX_PAYLOAD: Final = 242
"""Bytes: the longest that EU868 carries."""

Read = Callable[[bytes], Mapping[PointName, Value | Fault]]

_UNDECODED: Final = number("undecoded_bytes", "By", 0, MAX_PAYLOAD)
_HISTORY: Final = number("history_records", "{count}", 0, MAX_PAYLOAD // 22)
_BASIC_INFORMATION: Final = {0x01: 1, 0x09: 2, 0x0A: 2, 0x0B: 1, 0x0F: 1, 0x16: 8}
"""Protocol, hardware and firmware version, power on, class, serial number: bytes of each."""


class Field(msgspec.Struct, frozen=True):
    """What stands behind one pair of channel and type.

    Attributes:
        length: bytes of the value.
        points: what it can give.
        read: makes points of those bytes.
    """

    length: int
    points: tuple[Point, ...]
    read: Read


Fields = Mapping[tuple[int, int], Field]


def _unsigned(raw: bytes, point: Point, divisor: int = 1) -> Value | Fault:
    number_ = int.from_bytes(raw, "little")
    if number_ == (1 << 8 * len(raw)) - 1:
        return NOT_AVAILABLE
    return within(point, number_ if divisor == 1 else number_ / divisor)


def _signed(raw: bytes, point: Point, divisor: int) -> Value | Fault:
    return within(point, int.from_bytes(raw, "little", signed=True) / divisor)


def _measured(length: int, point: Point, divisor: int = 1) -> Field:
    return Field(length, (point,), lambda raw: {point.name: _unsigned(raw, point, divisor)})


def _state(point: Point) -> Field:
    return Field(1, (point,), lambda raw: {point.name: flag(raw[0])})


def _with_alarm(length: int, value: Field, alarm: Point) -> Field:
    """Return a field of which the last byte says whether a threshold is passed."""

    def read(raw: bytes) -> Mapping[PointName, Value | Fault]:
        return {**value.read(raw[:-1]), alarm.name: flag(raw[-1])}

    return Field(length, (*value.points, alarm), read)


_TEMPERATURE: Final = number("temperature", "Cel", -40, 85)
_TEMPERATURE_FIELD: Final = Field(
    2, (_TEMPERATURE,), lambda raw: {_TEMPERATURE.name: _signed(raw, _TEMPERATURE, 10)}
)
_BATTERY: Final[Fields] = {(0x01, 0x75): _measured(1, number("battery_level", "%", 0, 100))}
_HUMIDITY: Final = _measured(1, number("relative_humidity", "%", 0, 100), 2)
_PRESSURE: Final = number("air_pressure", "hPa", 300, 1100)

# EM400-MUD: 30 to 4500 mm says its sheet; what is nearer reads as less and is a full bin all the same
_DISTANCE: Final = _measured(2, number("distance", "mm", 1, 10_000))
_EM400_MUD: Final[Fields] = {
    **_BATTERY,
    (0x03, 0x67): _TEMPERATURE_FIELD,
    (0x04, 0x82): _DISTANCE,
    (0x05, 0x00): _state(state("tilted")),
    (0x83, 0x67): _with_alarm(3, _TEMPERATURE_FIELD, state("temperature_alarm")),
    (0x84, 0x82): _with_alarm(3, _DISTANCE, state("distance_alarm")),
}

_RAIN: Final = number("accumulated_precipitation", "mm", 0, 655.34)
_RAIN_FRAMES: Final = number("precipitation_frames", "{count}", 0, 255)
_WTS506: Final[Fields] = {
    **_BATTERY,
    (0x03, 0x67): _TEMPERATURE_FIELD,
    (0x04, 0x68): _HUMIDITY,
    (0x05, 0x84): _measured(2, number("wind_direction", "deg", 0, 360), 10),
    (0x06, 0x73): _measured(2, _PRESSURE, 10),
    (0x07, 0x92): _measured(2, number("wind_speed", "m/s", 0, 60), 10),
    # the counter grows with each frame of one phase of accumulation, stays at 255, and begins anew with it
    (0x08, 0x77): Field(
        3,
        (_RAIN, _RAIN_FRAMES),
        lambda raw: {_RAIN.name: _unsigned(raw[:2], _RAIN, 100), _RAIN_FRAMES.name: raw[2]},
    ),
}

_AM308: Final[Fields] = {
    **_BATTERY,
    (0x03, 0x67): _TEMPERATURE_FIELD,
    (0x04, 0x68): _HUMIDITY,
    (0x05, 0x00): _state(state("presence")),
    (0x06, 0xCB): _measured(1, number("light_level", "{level}", 0, 5)),
    (0x07, 0x7D): _measured(2, number("co2", "[ppm]", 0, 10_000)),
    (0x08, 0x7D): _measured(2, number("tvoc_index", "{index}", 0, 10), 100),
    (0x09, 0x73): _measured(2, _PRESSURE, 10),
    (0x0B, 0x7D): _measured(2, number("pm2_5", "ug/m3", 0, 1000)),
    (0x0C, 0x7D): _measured(2, number("pm10", "ug/m3", 0, 1000)),
    (0x20, 0xCE): Field(20, (_HISTORY,), lambda _: {}),
}

_LINE_COUNT: Final = 0xFFFF_FFFE


def _line_total(line: int, direction: str) -> Field:
    """Return how many people ever crossed a line, until the sensor was reset."""
    return _measured(4, number(f"line_{line}_total_{direction}", "{count}", 0, _LINE_COUNT))


def _line_period(line: int) -> Field:
    """Return how many people crossed a line each way since the last report."""
    points = tuple(number(f"line_{line}_{direction}", "{count}", 0, 0xFFFE) for direction in ("in", "out"))
    return Field(
        4,
        points,
        lambda raw: {
            point.name: _unsigned(raw[2 * index : 2 * index + 2], point) for index, point in enumerate(points)
        },
    )


_REGIONS: Final = tuple(number(f"region_{region}_people", "{count}", 0, 254) for region in range(1, 5))
_VS133: Final[Fields] = {
    **{(3 * line, 0xD2): _line_total(line, "in") for line in range(1, 5)},
    **{(3 * line + 1, 0xD2): _line_total(line, "out") for line in range(1, 5)},
    **{(3 * line + 2, 0xCC): _line_period(line) for line in range(1, 5)},
    (0x0F, 0xE3): Field(
        4,
        _REGIONS,
        lambda raw: {
            point.name: _unsigned(raw[index : index + 1], point) for index, point in enumerate(_REGIONS)
        },
    ),
}

_NOISE: Final = tuple(
    number(name, "dB", 20, 140) for name in ("noise_level", "noise_level_equivalent", "noise_level_maximum")
)
_FREQUENCY_WEIGHTING: Final = state("frequency_weighting")
_TIME_WEIGHTING: Final = state("time_weighting")
_WEIGHTINGS: Final = {0x01: ("A", "none"), 0x02: ("C", "none"), 0x05: ("A", "fast"), 0x06: ("C", "fast")}


def _noise(raw: bytes) -> Mapping[PointName, Value | Fault]:
    """Read L_A or L_AF, L_Aeq, L_Amax or L_AFmax; a level that is not A-weighted is none of these."""
    frequency, time = _WEIGHTINGS.get(raw[0], (OUT_OF_RANGE, OUT_OF_RANGE))
    values: dict[PointName, Value | Fault] = {
        _FREQUENCY_WEIGHTING.name: frequency,
        _TIME_WEIGHTING.name: time,
    }
    for index, point in enumerate(_NOISE):
        level = _unsigned(raw[1 + 2 * index : 3 + 2 * index], point, 10)
        values[point.name] = level if frequency == "A" else NOT_AVAILABLE
    return values


_WS302: Final[Fields] = {
    **_BATTERY,
    (0x05, 0x5B): Field(7, (*_NOISE, _FREQUENCY_WEIGHTING, _TIME_WEIGHTING), _noise),
}

SWITCHES: Final = 8
_SWITCHES: Final = tuple(state(f"switch_{index}", writable=True) for index in range(1, SWITCHES + 1))
_SWITCH_INDEX: Final = {point.name: index for index, point in enumerate(_SWITCHES)}


def _switches(raw: bytes) -> Mapping[PointName, Value | Fault]:
    """Read what changed, which does not matter here, and what is on."""
    return {point.name: bool(raw[1] & 1 << index) for index, point in enumerate(_SWITCHES)}


_WS558: Final[Fields] = {
    (0x03, 0x74): _measured(2, number("voltage", "V", 0, 500), 10),
    (0x04, 0x80): _measured(4, number("active_power", "W", 0, 10_000)),
    (0x05, 0x81): _measured(1, number("power_factor", "%", 0, 100)),
    (0x06, 0x83): _measured(4, number("cumulative_active_energy", "kW.h", 0, 4_294_967.294), 1000),
    (0x07, 0xC9): _measured(2, number("current", "A", 0, 65.534), 1000),
    (0x08, 0x31): Field(2, _SWITCHES, _switches),
}


def _command_switch(name: PointName, value: Value) -> tuple[int, bytes]:
    """Return the downlink that sets one switch and leaves the others: 08, mask of whom it concerns, states."""
    index = _SWITCH_INDEX.get(name)
    if index is None:
        raise LocalProtocolError(f"milesight-ws558: {name} cannot be set")
    if not isinstance(value, bool):
        raise LocalProtocolError(f"milesight-ws558: {name} is on or off, not {value!r}")
    return PORT, bytes((0x08, 1 << index, value << index))


def _points(fields: Fields) -> tuple[Point, ...]:
    by_name = {point.name: point for field in fields.values() for point in field.points}
    return (*by_name.values(), _UNDECODED)


class _Reader:
    """Reads the payloads of one model.

    Args:
        device: its name.
        fields: what it can say.
    """

    def __init__(self, device: str, fields: Fields) -> None:
        self._device = device
        self._fields = fields
        self._has_history = any(_HISTORY in field.points for field in fields.values())

    def decode(self, port: int, payload: bytes) -> Reported:
        """Read one payload.

        Raises:
            RemoteProtocolError: wrong port, empty, too long, unknown from the start, cut off, or ambiguous.
        """
        need_port(self._device, port, PORT)
        if not 2 <= len(payload) <= MAX_PAYLOAD:
            raise RemoteProtocolError(f"{self._device}: {len(payload)} bytes, expected 2 to {MAX_PAYLOAD}")
        values: dict[PointName, Value | Fault] = {}
        at, records = 0, 0
        while at < len(payload):
            length = self._length(payload[at : at + 2])
            if length is None:
                break
            end = at + 2 + length
            if end > len(payload):
                raise self._error(payload, at, "is cut off")
            records += self._take(values, payload, at, end)
            at = end
        if at == 0:
            raise self._error(payload, at, "is not known")
        if self._has_history:
            values[_HISTORY.name] = records
        values[_UNDECODED.name] = len(payload) - at
        return values

    def _length(self, pair: bytes) -> int | None:
        """Return how long the value behind a pair is, at least 1; None for a pair that is not known.

        A single byte at the end has at least another one missing, so it is cut off.
        """
        if len(pair) < 2:
            return 1
        channel, kind = pair
        if channel == 0xFF:
            return _BASIC_INFORMATION.get(kind)
        field = self._fields.get((channel, kind))
        return None if field is None else field.length

    def _take(self, values: dict[PointName, Value | Fault], payload: bytes, at: int, end: int) -> int:
        """Add the points of one field; return how many records of the memory it was."""
        field = self._fields.get((payload[at], payload[at + 1]))
        if field is None:  # basic information
            return 0
        found = field.read(payload[at + 2 : end])
        if not values.keys().isdisjoint(found):
            raise self._error(payload, at, "says again what has been said")
        values.update(found)
        return int(_HISTORY in field.points)

    def _error(self, payload: bytes, at: int, what: str) -> RemoteProtocolError:
        return RemoteProtocolError(
            f"{self._device}: channel {payload[at : at + 2].hex(' ')} at byte {at} {what}"
        )


def _codec(
    name: str,
    kind: Kind,
    fields: Fields,
    encode: Callable[[PointName, Value], tuple[int, bytes]] | None = None,
) -> PayloadCodec:
    return PayloadCodec(name, kind, _points(fields), _Reader(name, fields).decode, encode)


EM400_MUD: Final = _codec("milesight-em400-mud", Kind.BIN, _EM400_MUD)
WTS506: Final = _codec("milesight-wts506", Kind.WEATHER_STATION, _WTS506)
AM308: Final = _codec("milesight-am308", Kind.SENSOR, _AM308)
WS302: Final = _codec("milesight-ws302", Kind.SENSOR, _WS302)
VS133: Final = _codec("milesight-vs133", Kind.DETECTOR, _VS133)
WS558: Final = _codec("milesight-ws558", Kind.CABINET_IO, _WS558, _command_switch)
ALL: Final[Sequence[PayloadCodec]] = (EM400_MUD, WTS506, AM308, WS302, VS133, WS558)
