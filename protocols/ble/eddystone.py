"""Eddystone: service data of UUID FEAA to values.

Source: github.com/google/eddystone, protocol-specification.md, eddystone-uid/README.md, eddystone-tlm/tlm-plain.md.
All numbers are big-endian. Nothing in it proves who sent it.

    UID  00, power at 0 m (signed dBm), namespace (10), instance (6), [reserved (2)]
    TLM  20, version 00, battery (mV), temperature (signed 8.8 °C), adverts sent (4), time since start (4, 0.1 s)
"""

from typing import Final

import msgspec

from protocols.ble.refusal import Refusal, RefusedError

EDDYSTONE_UUID: Final = 0xFEAA
_UID: Final = 0x00
_TLM: Final = 0x20
_UID_LENGTHS: Final = frozenset({18, 20})
"""With the two reserved bytes or, as old beacons send it, without."""
_TLM_LENGTH: Final = 14
_NO_TEMPERATURE: Final = -0x8000
_OTHER: Final = {0x10: "URL", 0x30: "EID", 0x40: "reserved"}


class Uid(msgspec.Struct, frozen=True):
    """Who a beacon is.

    Attributes:
        namespace: 10 bytes in hex.
        instance: 6 bytes in hex.
        power_dbm: what is received at no distance.
    """

    namespace: str
    instance: str
    power_dbm: int


class Telemetry(msgspec.Struct, frozen=True):
    """How a beacon is.

    Attributes:
        battery_voltage_v: None if it has no battery.
        temperature_c: of the beacon itself; None if it does not measure it.
        adverts: sent since it started.
        uptime_s: since it started.
    """

    battery_voltage_v: float | None
    temperature_c: float | None
    adverts: int
    uptime_s: float


def parse(service_data: bytes) -> Uid | Telemetry:
    """Read the service data of UUID FEAA, without the UUID.

    Raises:
        RefusedError: if it is no frame, or not one that is read here.
    """
    if not service_data:
        raise RefusedError(Refusal.LENGTH, "an Eddystone frame without a type")
    if service_data[0] == _UID:
        return _uid(service_data)
    if service_data[0] == _TLM:
        return _telemetry(service_data)
    name = _OTHER.get(service_data[0], f"type {service_data[0]:02x}")
    raise RefusedError(Refusal.KIND, f"an Eddystone frame that has no readings: {name}")


def _uid(frame: bytes) -> Uid:
    if len(frame) not in _UID_LENGTHS:
        raise RefusedError(Refusal.LENGTH, f"{len(frame)} bytes are no Eddystone UID")
    if any(frame[18:]):
        raise RefusedError(Refusal.RESERVED, "the reserved bytes of an Eddystone UID are set")
    return Uid(frame[2:12].hex(), frame[12:18].hex(), int.from_bytes(frame[1:2], signed=True))


def _telemetry(frame: bytes) -> Telemetry:
    if len(frame) < 2 or frame[1] != 0:
        raise RefusedError(Refusal.VERSION, "Eddystone telemetry that is encrypted, or of a later version")
    if len(frame) != _TLM_LENGTH:
        raise RefusedError(Refusal.LENGTH, f"{len(frame)} bytes are no Eddystone telemetry")
    battery_mv = int.from_bytes(frame[2:4])
    temperature = int.from_bytes(frame[4:6], signed=True)
    return Telemetry(
        battery_voltage_v=battery_mv / 1000 if battery_mv else None,
        temperature_c=None if temperature == _NO_TEMPERATURE else temperature / 256,
        adverts=int.from_bytes(frame[6:10]),
        uptime_s=int.from_bytes(frame[10:14]) / 10,
    )
