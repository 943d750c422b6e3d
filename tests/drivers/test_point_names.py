"""One name means one thing in one unit, whatever line a device hangs on: the centre compares by name alone."""

from collections.abc import Iterator
from typing import Final

import pytest

from drivers.base import PolledPoint
from drivers.ble_station import Station
from drivers.dali import POINTS as LAMP_POINTS
from drivers.lora_sensor import Sensor
from drivers.rsmp_points import detector_points, junction_points
from drivers.settings import DeviceSettings, LoraUdp
from edge.alarms import RAISED_BY
from edge.lighting import DECIDED_POINTS
from protocols.ble.objects import OBJECT_TYPES
from protocols.ble.profiles import PROFILES
from protocols.lorawan.payloads import CODECS
from protocols.modbus.maps import known_maps
from protocols.model.device import Kind
from protocols.model.ids import DeviceId, LineId
from protocols.opcua.maps import known_node_maps

ANYBODY: Final = DeviceSettings(id=DeviceId("d"), kind=Kind.SENSOR, line=LineId("l"), address="00" * 8)
UNITS: Final = {
    "active_power": "W",
    "air_pressure": "hPa",
    "battery_level": "%",
    "battery_voltage": "V",
    "co2": "[ppm]",
    "cumulative_active_energy": "kW.h",
    "current": "A",
    "dimming_level": "%",
    "distance": "mm",
    "frequency": "Hz",
    "illuminance": "lx",
    "noise_level": "dB",
    "pm10": "ug/m3",
    "pm2_5": "ug/m3",
    "power_factor": "%",
    "precipitation": "mm",
    "relative_humidity": "%",
    "rssi": "dB[m]",
    "snr": "dB",
    "temperature": "Cel",
    "voltage": "V",
    "volume_flow_rate": "m3/h",
    "water_volume": "m3",
    "wind_direction": "deg",
    "wind_speed": "m/s",
}
"""What several makes have, and what a city asks for by name."""
OTHER_NAMES: Final = {
    "active_energy": "cumulative_active_energy",
    "battery": "battery_level",
    "battery_percent": "battery_level",
    "direction": "wind_direction",
    "energy": "cumulative_active_energy",
    "humidity": "relative_humidity",
    "level_percent": "dimming_level",
    "low_battery": "battery_low",
    "occupancy": "occupied",
    "power": "active_power",
    "pressure": "air_pressure",
    "rainfall": "precipitation",
    "speed": "wind_speed",
}
"""Names of the same things that nobody may take."""
OF_UNIT: Final = {
    "Cel": "temperature",
    "kW.h": "cumulative_active_energy",
    "lx": "illuminance",
    "hPa": "air_pressure",
}
"""A point in such a unit has this word in its name."""


def every_point() -> Iterator[tuple[str, str, str]]:
    """Yield where each point is from, its name and its unit."""
    for codec in CODECS.values():
        sensor = Sensor(ANYBODY, LoraUdp(id=LineId("l")), codec)
        yield from _of(f"lorawan {codec.name}", sensor.points)
    for profile in PROFILES.values():
        for expected in profile.expected:
            yield f"ble {profile.name}", expected.point.name, expected.point.unit
    for register_map in known_maps(()).values():
        for entry in register_map.entries:
            yield f"modbus {register_map.name}", entry.point, entry.unit
    for node_map in known_node_maps(()).values():
        for node in node_map.entries:
            yield f"opcua {node_map.name}", node.point, node.unit
    yield from _of("rsmp junction", junction_points(ANYBODY, writable=True))
    yield from _of("rsmp detector", detector_points(ANYBODY))
    for point in (*LAMP_POINTS, *DECIDED_POINTS):
        yield "lamp", point.name, point.unit


def _of(where: str, points: tuple[PolledPoint, ...]) -> Iterator[tuple[str, str, str]]:
    for polled in points:
        yield where, polled.point.name, polled.point.unit


POINTS: Final = tuple(every_point())


def test_every_kind_of_line_is_looked_at() -> None:
    kinds = {where.split()[0] for where, _, _ in POINTS}
    assert kinds == {"lorawan", "ble", "modbus", "opcua", "rsmp", "lamp"}


def test_one_name_has_one_unit() -> None:
    units: dict[str, dict[str, list[str]]] = {}
    for where, name, unit in POINTS:
        units.setdefault(name, {}).setdefault(unit, []).append(where)
    assert {name: found for name, found in units.items() if len(found) > 1} == {}


@pytest.mark.parametrize(("name", "unit"), UNITS.items())
def test_what_a_city_asks_for_by_name_is_there_in_its_unit(name: str, unit: str) -> None:
    assert {found for _, point, found in POINTS if point == name} == {unit}


def test_nothing_has_a_second_name() -> None:
    assert [(where, name, OTHER_NAMES[name]) for where, name, _ in POINTS if name in OTHER_NAMES] == []


@pytest.mark.parametrize(("unit", "word"), OF_UNIT.items())
def test_a_unit_tells_what_is_measured(unit: str, word: str) -> None:
    assert [(where, name) for where, name, found in POINTS if found == unit and word not in name] == []


def test_every_object_of_bthome_has_the_unit_that_its_name_has_elsewhere() -> None:
    units = {name: unit for _, name, unit in POINTS}
    differing = [row.name for row in OBJECT_TYPES if row.unit != units.get(row.name, row.unit)]
    assert differing == []


def test_what_raises_an_alarm_says_yes_or_no() -> None:
    assert [(where, name) for where, name, unit in POINTS if name in RAISED_BY and unit] == []
    assert {name for _, name, _ in POINTS} >= RAISED_BY.keys()


def test_what_bthome_calls_speed_and_direction_is_the_winds_at_a_weather_station() -> None:
    weather = DeviceSettings(
        id=DeviceId("w"),
        kind=Kind.SENSOR,
        line=LineId("l"),
        address="a4:c1:38:8d:18:b2",
        map="bthome-weather",
    )
    station = Station(weather)
    heard = station.belief.judge(bytes.fromhex("40 44 4e34 5e 9f8c"), 0)  # the format's own examples
    assert heard is not None
    told = station.believe(heard, None, 0)
    assert told is not None
    assert dict(zip(told.points, told.values, strict=True)) == {"wind_speed": 133.9, "wind_direction": 359.99}
    assert station.last.read(told.points, 0).values == told.values
