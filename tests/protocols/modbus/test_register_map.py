"""Register maps: those that come with Luciole, and those that a technician writes."""

import tomllib

import msgspec
import pytest

from protocols.modbus.maps import BUILT_IN, known_maps
from protocols.modbus.register_map import (
    RegisterMap,
    RegisterType,
    Table,
    check_map,
    every_entry,
    point_of,
)
from protocols.model.device import Report
from protocols.strict import SettingsFault, read

WRITTEN = """
[[map]]
name = "pump"
max_registers = 60

[[map.entry]]
point = "active_power"
table = "input"
address = 52
type = "f32"
unit = "W"
poll_s = 5.0
report = "each"
minimum = 0

[[map.entry]]
point = "running"
table = "holding"
address = 7
type = "bit"
bit = 3

[[map.run]]
prefix = "r"
table = "holding"
address = 100
count = 20
not_available = []
"""


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    map: tuple[RegisterMap, ...]


def written(text: str) -> RegisterMap:
    got = read(tomllib.loads(text), File)
    assert isinstance(got, File)
    return got.map[0]


def faults_of(text: str) -> dict[str, str]:
    got = read(tomllib.loads(text), File)
    faults = got if isinstance(got, list) else check_map(got.map[0], "map[0]")
    return {fault.key: fault.expected for fault in faults}


def test_a_technicians_map_means_what_it_says() -> None:
    pump = written(WRITTEN)
    assert check_map(pump, "map[0]") == []
    entries = {entry.point: entry for entry in every_entry(pump)}
    assert list(entries) == ["active_power", "running", *(f"r{n:02d}" for n in range(20))]
    power = entries[pump.entries[0].point]
    assert (power.table, power.address, power.type) == (Table.INPUT, 52, RegisterType.F32)
    assert (power.poll_s, power.report) == (5.0, Report.EACH)
    assert point_of(power).unit == "W"
    assert point_of(power).minimum == 0
    last = every_entry(pump)[-1]
    assert (last.point, last.address, last.not_available) == ("r19", 119, ())


def test_a_run_of_wide_values_steps_by_their_width() -> None:
    wide = written(
        '[[map]]\nname="w"\n[[map.run]]\nprefix="e"\ntable="input"\naddress=0\ncount=101\ntype="f64"'
    )
    entries = every_entry(wide)
    assert (entries[0].point, entries[100].point) == ("e000", "e100")
    assert [entry.address for entry in entries[:3]] == [0, 4, 8]


def test_every_wrong_thing_is_named_at_once() -> None:
    faults = faults_of(
        """
        [[map]]
        name = "Pump"
        max_register = 60
        [[map.entry]]
        point = "a"
        table = "inputs"
        address = 70000
        [[map.run]]
        prefix = "r"
        table = "holding"
        address = 0
        """
    )
    assert set(faults) == {
        "map[0].name",
        "map[0].max_register",
        "map[0].entry[0].table",
        "map[0].entry[0].address",
        "map[0].run[0].count",
    }


@pytest.mark.parametrize(
    ("entry", "key", "expected"),
    [
        ('table="holding"\naddress=65535\ntype="u32"', "address", "at most 65535"),
        ('table="coil"\naddress=0', "type", '"bit"'),
        ('table="holding"\naddress=0\ntype="bit"', "bit", "0 to 15"),
        ('table="holding"\naddress=0\nbit=1', "bit", "nothing"),
        ('table="coil"\naddress=0\ntype="bit"\nbit=1', "bit", "nothing"),
        ('table="input"\naddress=0\nwritable=true', "writable", "only be read"),
        ('table="holding"\naddress=0\ntype="bit"\nbit=1\nwritable=true', "writable", "neighbours"),
        ('table="holding"\naddress=0\nminimum=2\nmaximum=1', "minimum", "at most maximum"),
        ('table="holding"\naddress=0\ntype="f64"', "type", "at most 2 registers"),
    ],
)
def test_what_contradicts_itself_is_named(entry: str, key: str, expected: str) -> None:
    faults = faults_of(f'[[map]]\nname="m"\nmax_registers=2\n[[map.entry]]\npoint="p"\n{entry}')
    assert list(faults) == [f"map[0].entry[0].{key}"]
    assert expected in faults[f"map[0].entry[0].{key}"]


def test_bits_of_registers_come_one_by_one() -> None:
    run = '[[map]]\nname="m"\n[[map.run]]\nprefix="r"\ntable="holding"\naddress=0\ncount=3\ntype="bit"'
    assert list(faults_of(run)) == ["map[0].run[0].type"]
    assert faults_of(run.replace("holding", "coil")) == {}


def test_a_point_has_one_place_and_a_map_has_points() -> None:
    twice = '[[map]]\nname="m"\n' + '[[map.entry]]\npoint="p"\ntable="input"\naddress=0\n' * 2
    assert check_map(written(twice), "map[0]") == [
        SettingsFault("map[0]", "expected each point once; 'p' comes 2 times")
    ]
    assert check_map(written('[[map]]\nname="m"'), "map[0]")[0].expected.startswith(
        "expected 1 to 2000 points"
    )


@pytest.mark.parametrize("register_map", BUILT_IN.values(), ids=list(BUILT_IN))
def test_the_built_in_maps_are_sound(register_map: RegisterMap) -> None:
    assert check_map(register_map, "map") == []
    toml = msgspec.to_builtins(register_map)
    assert msgspec.convert(toml, RegisterMap) == register_map


def test_sdm630_is_at_the_addresses_of_the_meters_manual() -> None:
    addresses = {str(entry.point): entry.address for entry in every_entry(BUILT_IN["sdm630"])}
    assert addresses["voltage_l1"] == 0
    assert addresses["current_l3"] == 10
    assert addresses["active_power_l1"] == 12
    assert addresses["active_power"] == 0x34
    assert addresses["frequency"] == 0x46
    assert addresses["cumulative_active_energy"] == 0x48
    assert addresses["cumulative_active_energy_exported"] == 0x4A


def test_a_cabinets_own_map_goes_before_a_built_in_one() -> None:
    own = RegisterMap(name="lux", entries=BUILT_IN["lux"].entries, max_registers=10)
    assert known_maps([own])["lux"] is own
    assert set(known_maps()) == {"sdm630", "cabinet_io", "lux"}
