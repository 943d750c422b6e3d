"""What the bytes of known sensors mean.

A codec takes a port and a decrypted payload and gives values by point; it opens nothing and reads no clock.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from protocols.errors import RemoteProtocolError
from protocols.model.device import Kind, Point
from protocols.model.ids import PointName
from protocols.model.reading import Fault, Value


class PayloadCodec(msgspec.Struct, frozen=True):
    """How one make of sensor speaks.

    Attributes:
        name: as the settings' `map` says it.
        kind: what it is to the city.
        points: what it can tell.
        decode: (port, payload) to values by point; raises RemoteProtocolError.
        encode: (point, value) to port and payload of the downlink that sets a writable point; raises
            LocalProtocolError; None if nothing can be set.
    """

    name: str
    kind: Kind
    points: tuple[Point, ...]
    decode: Callable[[int, bytes], Mapping[PointName, Value | Fault]]
    encode: Callable[[PointName, Value], tuple[int, bytes]] | None = None


_OCCUPIED: Final = PointName("occupied")
_TEMPERATURE: Final = PointName("temperature")


def _bosch_parking(port: int, payload: bytes) -> Mapping[PointName, Value | Fault]:
    """Read a TPS110: bit 0 is occupied; a heartbeat has a temperature, °C in two's complement."""
    match port, len(payload):
        case 1, 1:
            return {_OCCUPIED: bool(payload[0] & 1)}
        case 2, 2:
            return {
                _OCCUPIED: bool(payload[0] & 1),
                _TEMPERATURE: int.from_bytes(payload[1:2], signed=True),
            }
        case 3, 17:
            return {_OCCUPIED: bool(payload[16] & 1)}
        case _:
            raise RemoteProtocolError(f"no TPS110 sends {len(payload)} bytes on port {port}")


CODECS: Final[Mapping[str, PayloadCodec]] = {
    "bosch_parking": PayloadCodec(
        "bosch_parking",
        Kind.PARKING_SPACE,
        (Point(_OCCUPIED), Point(_TEMPERATURE, "Cel", minimum=-128, maximum=127)),
        _bosch_parking,
    ),
}
"""By the name that a device's `map` gives."""
