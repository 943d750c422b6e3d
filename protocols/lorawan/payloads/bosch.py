"""Bosch parking sensors TPS110 (in the ground) and TPL110 (on it): the same payloads.

| port | bytes | what |
|---|---|---|
| 1 | 1 | bit 0 occupied: something came or went |
| 2 | 2 | heartbeat: bit 0 occupied; temperature, signed, degrees Celsius |
| 3 | 17 | start-up: three debug codes, firmware, reset cause, bit 0 occupied |

Reserved bits must be 0: what they would change of the meaning is not known.
"""

from typing import Final

from protocols.errors import RemoteProtocolError
from protocols.lorawan.payloads.codec import (
    OUT_OF_RANGE,
    PayloadCodec,
    Reported,
    need_length,
    number,
    state,
    within,
)
from protocols.model.device import Kind, Point
from protocols.model.ids import PointName
from protocols.model.reading import Fault, Value

STATUS_PORT: Final = 1
HEARTBEAT_PORT: Final = 2
START_UP_PORT: Final = 3

_DEVICE: Final = "bosch parking sensor"
_TEMPERATURE: Final = number("temperature", "Cel", -40, 85)
_DEBUG_CODES: Final = tuple(number(f"debug_code_{index}", "{code}", 0, 0xFFF) for index in (1, 2, 3))
_RESET_CAUSES: Final = {1: "watchdog", 2: "power_on", 3: "system_request", 4: "other"}
_POINTS: Final[tuple[Point, ...]] = (
    state("occupied"),
    _TEMPERATURE,
    state("reset_cause"),
    state("firmware_version"),
    *_DEBUG_CODES,
)


def _decode(port: int, payload: bytes) -> Reported:
    match port:
        case 1:
            need_length(f"{_DEVICE}, status", payload, 1)
            return {PointName("occupied"): _occupied(payload[0])}
        case 2:
            need_length(f"{_DEVICE}, heartbeat", payload, 2)
            temperature = int.from_bytes(payload[1:], signed=True)
            return {
                PointName("occupied"): _occupied(payload[0]),
                _TEMPERATURE.name: within(_TEMPERATURE, temperature),
            }
        case 3:
            need_length(f"{_DEVICE}, start-up", payload, 17)
            return _start_up(payload)
        case _:
            raise RemoteProtocolError(f"{_DEVICE}: port {port}, its payloads come on ports 1, 2 and 3")


def _occupied(byte: int) -> bool:
    if byte & 0xFE:
        raise RemoteProtocolError(f"{_DEVICE}: reserved bits set in the occupancy byte {byte:02x}")
    return bool(byte)


def _start_up(payload: bytes) -> Reported:
    values: dict[PointName, Value | Fault] = {
        PointName("occupied"): _occupied(payload[16]),
        PointName("reset_cause"): _RESET_CAUSES.get(payload[15], OUT_OF_RANGE),
        PointName("firmware_version"): ".".join(str(part) for part in payload[12:15]),
    }
    for index, point in enumerate(_DEBUG_CODES):
        values[point.name] = int.from_bytes(payload[4 * index : 4 * index + 2], "little") & 0xFFF
    return values


TPS110: Final = PayloadCodec("bosch-tps110", Kind.PARKING_SPACE, _POINTS, _decode)
TPL110: Final = PayloadCodec("bosch-tpl110", Kind.PARKING_SPACE, _POINTS, _decode)
