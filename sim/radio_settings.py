"""How a scenario describes a gateway and its sensors."""

from typing import Annotated, Literal

import msgspec

from protocols.strict import SettingsFault
from sim.faults import RadioFault
from sim.radio_sensors import WRITERS

MAX_SENSORS = 200
"""Behind one gateway: what its share of the band carries at 23 bytes, SF9, one report in an hour."""

_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
_Eui = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}$", description="16 hexadecimal digits, a–f small")]
_Key = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$", description="32 hexadecimal digits, a–f small")]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]

GATEWAY_FAULTS = frozenset(RadioFault) - {RadioFault.SILENT, RadioFault.COUNTER_RESET}
SENSOR_FAULTS = frozenset(RadioFault) - {
    RadioFault.GARBAGE,
    RadioFault.NO_DOWNLINK,
    RadioFault.GATEWAY_GONE,
    RadioFault.LATE,
}


class SensorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One LoRaWAN sensor.

    Attributes:
        device: its make, by the name that a cabinet's settings use.
        dev_eui: as printed on it.
        app_key: 16 bytes in hexadecimal.
        join_eui: as printed on it.
        every_s: real seconds from report to report.
        confirmed: whether it wants each report acknowledged.
    """

    name: _Name
    device: str
    dev_eui: _Eui
    app_key: _Key
    join_eui: _Eui = "0000000000000000"
    every_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 600.0
    confirmed: bool = False


class RadioSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One gateway with a packet forwarder, and the sensors that it hears.

    Attributes:
        gateway_eui: of the gateway.
        host: of the network server.
        port: UDP port of the network server.
        spread_s: real seconds over which the sensors wake up, one after the other.
        collisions: whether frames that meet on the air are lost, and those that the gateway transmits over.
        sensors: what is there.
    """

    name: _Name
    gateway_eui: _Eui
    host: str = "127.0.0.1"
    port: _Port = 1700
    region: Literal["eu868"] = "eu868"
    spread_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 10.0
    collisions: bool = False
    sensors: Annotated[tuple[SensorSettings, ...], msgspec.Meta(max_length=MAX_SENSORS)] = ()


def radio_targets(radios: tuple[RadioSettings, ...]) -> dict[str, frozenset[str]]:
    """Return every gateway and sensor (`radio-1/bin-1`) and the faults that it can have."""
    targets: dict[str, frozenset[str]] = {}
    for radio in radios:
        targets[radio.name] = frozenset(GATEWAY_FAULTS)
        targets |= {f"{radio.name}/{sensor.name}": frozenset(SENSOR_FAULTS) for sensor in radio.sensors}
    return targets


def radio_complaints(radios: tuple[RadioSettings, ...]) -> list[SettingsFault]:
    """Return what the types cannot say: unknown makes, names and DevEUIs used twice."""
    complaints = []
    euis: set[str] = set()
    for index, radio in enumerate(radios):
        names: set[str] = set()
        for number, sensor in enumerate(radio.sensors):
            key = f"radio[{index}].sensors[{number}]"
            if sensor.device not in WRITERS:
                expected = f"expected one of {', '.join(sorted(WRITERS))}; not {sensor.device!r}"
                complaints.append(SettingsFault(f"{key}.device", expected))
            if sensor.name in names:
                expected = f"expected a name of its own, {sensor.name!r} is taken"
                complaints.append(SettingsFault(f"{key}.name", expected))
            if sensor.dev_eui in euis:
                expected = f"expected a DevEUI of its own, {sensor.dev_eui} is taken"
                complaints.append(SettingsFault(f"{key}.dev_eui", expected))
            names.add(sensor.name)
            euis.add(sensor.dev_eui)
    return complaints
