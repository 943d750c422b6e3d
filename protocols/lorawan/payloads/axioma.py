"""Axioma Qalcosonic W1 water meter, extended log payload, 51 bytes on port 100, little endian.

| at | what |
|---|---|
| 0 | 01 |
| 1 | the meter's time, u32, seconds since 1970 |
| 5 | status |
| 6 | volume at the beginning of the log, u32, litres |
| 10 | 23 steps of 14 bits, litres, lowest bits first; then a multiplier of 6 bits |

Volume now = volume at the beginning + all steps. What a multiplier other than 0 means is not known, so such a
payload is refused: volumes that are wrong by a factor would go into bills.

Of the status, bits 2, 3 and 4 are battery low, permanent and temporary error; the upper three are one number:
1 leakage, 3 backflow, 4 freezing, 5 burst (20, 60, 80, A0 in the maker's table), and none of it with 0.
"""

from typing import Final

from protocols.errors import RemoteProtocolError
from protocols.lorawan.payloads.codec import (
    NOT_AVAILABLE,
    OUT_OF_RANGE,
    PayloadCodec,
    Reported,
    need_length,
    need_port,
    number,
    state,
)
from protocols.model.device import Kind, Point
from protocols.model.ids import PointName
from protocols.model.reading import Fault, Value

PORT: Final = 100
LENGTH: Final = 51
STEPS: Final = 23

_DEVICE: Final = "axioma-qalcosonic-w1"
_STEP_BITS: Final = 14
_NO_STEP: Final = (1 << _STEP_BITS) - 1
_NO_VOLUME: Final = 0xFFFF_FFFF
_SET_SINCE_S: Final = 1_262_304_000
"""2010-01-01: the meter did not exist before, so its clock has not been set."""
_MAX_LITRES: Final = _NO_VOLUME - 1 + STEPS * (_NO_STEP - 1)
_ALARMS: Final = {"leakage": 1, "backflow": 3, "freezing": 4, "burst": 5}
_KNOWN_ALARMS: Final = frozenset({0, *_ALARMS.values()})
_UNKNOWN_STATUS_BITS: Final = 0x03

_LOG_STEPS: Final = tuple(
    number(f"log_step_{index}", "m3", 0, (_NO_STEP - 1) / 1000) for index in range(1, STEPS + 1)
)
_POINTS: Final[tuple[Point, ...]] = (
    number("water_volume", "m3", 0, _MAX_LITRES / 1000),
    number("log_start_volume", "m3", 0, (_NO_VOLUME - 1) / 1000),
    *_LOG_STEPS,
    number("device_time", "s", _SET_SINCE_S, 0xFFFF_FFFF),
    state("battery_low"),
    state("permanent_error"),
    state("temporary_error"),
    *(state(name) for name in _ALARMS),
)


def _decode(port: int, payload: bytes) -> Reported:
    need_port(_DEVICE, port, PORT)
    need_length(_DEVICE, payload, LENGTH)
    if payload[0] != 1:
        raise RemoteProtocolError(f"{_DEVICE}: frame type {payload[0]:02x} in byte 0, expected 01")
    time_s = int.from_bytes(payload[1:5], "little")
    return {
        PointName("device_time"): time_s if time_s >= _SET_SINCE_S else NOT_AVAILABLE,
        **_status(payload[5]),
        **_volumes(int.from_bytes(payload[6:10], "little"), _steps(payload[10:])),
    }


def _status(status: int) -> dict[PointName, Value | Fault]:
    """Read the status byte.

    Raises:
        RemoteProtocolError: bits that are not known are set.
    """
    if status & _UNKNOWN_STATUS_BITS:
        raise RemoteProtocolError(f"{_DEVICE}: unknown bits in status {status:02x}")
    alarm = status >> 5
    values: dict[PointName, Value | Fault] = {
        PointName("battery_low"): bool(status & 0x04),
        PointName("permanent_error"): bool(status & 0x08),
        PointName("temporary_error"): bool(status & 0x10),
    }
    for name, code in _ALARMS.items():
        values[PointName(name)] = alarm == code if alarm in _KNOWN_ALARMS else OUT_OF_RANGE
    return values


def _steps(packed: bytes) -> list[int]:
    """Return the steps of the log, litres.

    Raises:
        RemoteProtocolError: a multiplier is given.
    """
    bits = int.from_bytes(packed, "little")
    multiplier = bits >> STEPS * _STEP_BITS
    if multiplier:
        raise RemoteProtocolError(f"{_DEVICE}: multiplier {multiplier}, of which the meaning is not known")
    return [bits >> index * _STEP_BITS & _NO_STEP for index in range(STEPS)]


def _volumes(start: int, steps: list[int]) -> dict[PointName, Value | Fault]:
    whole = start != _NO_VOLUME and _NO_STEP not in steps
    values: dict[PointName, Value | Fault] = {
        PointName("water_volume"): (start + sum(steps)) / 1000 if whole else NOT_AVAILABLE,
        PointName("log_start_volume"): NOT_AVAILABLE if start == _NO_VOLUME else start / 1000,
    }
    for point, step in zip(_LOG_STEPS, steps, strict=True):
        values[point.name] = NOT_AVAILABLE if step == _NO_STEP else step / 1000
    return values


QALCOSONIC_W1: Final = PayloadCodec(_DEVICE, Kind.METER, _POINTS, _decode)
