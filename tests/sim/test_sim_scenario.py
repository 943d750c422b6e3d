"""Scenario files: strict, and every fault named at once."""

from pathlib import Path

import pytest

from sim.example import EXAMPLE
from sim.scenario import ScenarioError, check, load, parse, target_faults

GOOD = """
[[dali]]
name = "dali-1"
port = "dali-1"

[[rtu]]
name = "rtu-1"
port = "rtu-1"
cabinet = {}
lux = {}
"""


def faults_of(text: str) -> dict[str, str]:
    with pytest.raises(ScenarioError) as error:
        parse(text)
    return {fault.key: fault.expected for fault in error.value.complaints}


def test_the_example_is_fine_and_uses_every_kind_of_thing() -> None:
    scenario = parse(EXAMPLE)
    assert check(scenario) == []
    assert scenario.dali
    assert scenario.rtu[0].cabinet
    assert scenario.rtu[0].lux
    assert scenario.meter
    assert scenario.counter
    assert scenario.radio[0].sensors
    assert scenario.junction
    assert scenario.bus
    assert len(scenario.event) == 6


def test_defaults_are_those_of_the_reference_street() -> None:
    scenario = parse(GOOD)
    assert scenario.dali[0].gear == 24
    assert (scenario.location.latitude, scenario.location.longitude) == (47.32, 5.04)
    assert scenario.dali[0].rated_w == 50.0


def test_every_fault_is_named_at_once_with_its_key_and_what_was_expected() -> None:
    faults = faults_of("""
        sead = 1
        [bench]
        start = "2026-11-24T16:30:00"
        speed = 0
        [location]
        latitude = 91
        [[dali]]
        name = "Dali 1"
        gear = 65
        [[rtu]]
        name = "rtu-1"
        port = "rtu-1"
        baud = "fast"
        [meter]
        port = 70000
        [[event]]
        at_s = 1
        civil = "2026-11-24T16:30:00+01:00"
        target = "dali-1"
        """)
    assert set(faults) == {
        "sead",
        "bench.speed",
        "location.latitude",
        "dali[0].name",
        "dali[0].port",
        "dali[0].gear",
        "rtu[0].baud",
        "meter.port",
        "event[0]",
    }
    assert "missing" in faults["dali[0].port"]
    assert "64" in faults["dali[0].gear"]


def test_what_types_cannot_say_is_checked_too() -> None:
    faults = faults_of("""
        [bench]
        start = "2026-11-24T16:30:00"
        [[dali]]
        name = "line"
        port = "same"
        gear = 4
        level = 20
        groups = { 16 = [0], 3 = [4] }
        [[rtu]]
        name = "line"
        port = "same"
        cabinet = { unit = 1 }
        lux = { unit = 1 }
        [[rtu]]
        name = "rtu-2"
        port = "rtu-2"
        cabinet = { name = "second" }
        [meter]
        port = 5020
        [[counter]]
        count = 3
        port = 5018
        """)
    assert set(faults) == {
        "bench.start",
        "rtu[0].name",
        "rtu[0].port",
        "dali[0].level",
        "dali[0].groups.16",
        "dali[0].groups.3",
        "rtu[0].lux.unit",
        "rtu[1].cabinet",
        "counter[0].port",
    }
    assert "5020" in faults["counter[0].port"]


@pytest.mark.parametrize(
    ("event", "key", "says"),
    [
        ('at_s = 1\ntarget = "dali-1/24"\nfault = "silent"', "target", "dali-1"),
        ('at_s = 1\ntarget = "dali-1/3"\nfault = "line_short"', "fault", "lamp_failure"),
        ('at_s = 1\ntarget = "lux"\nclear = "silence"', "clear", "silent"),
        ('at_s = 1\ntarget = "lux"\nclear = "*"\nfor_s = 3', "for_s", "only with fault"),
        ('civil = "2026-11-24T22:05:00"\ntarget = "lux"\nfault = "stuck"', "civil", "offset"),
        ('at_s = 1\ntarget = "cabinet"\nset = { roof = true }', "set", "door_open"),
        ('at_s = 1\ntarget = "dali-1"\nset = { door_open = true }', "set", "cabinet"),
        ('at_s = 1\ntarget = "lux"\nset = { sky = 3 }', "set", "0–1"),
    ],
)
def test_events_that_could_not_happen_are_faults(event: str, key: str, says: str) -> None:
    faults = faults_of(f"{GOOD}[[event]]\n{event}\n")
    assert list(faults) == [f"event[0].{key}"]
    assert says in faults[f"event[0].{key}"]


def test_an_event_needs_one_time_and_one_action() -> None:
    with pytest.raises(ScenarioError) as error:
        parse(GOOD + '[[event]]\ntarget = "lux"\nfault = "stuck"\nclear = "*"\n')
    assert [fault.expected for fault in error.value.complaints] == [
        "expected either at_s or civil",
        "expected exactly one of fault, clear, set",
    ]


def test_targets_are_lines_gear_and_devices() -> None:
    targets = target_faults(parse(GOOD))
    assert {"dali-1", "dali-1/0", "dali-1/23", "rtu-1", "cabinet", "lux"} <= set(targets)
    assert "contactor_welded" in targets["cabinet"]
    assert "unplugged" in targets["rtu-1"]


def test_a_file_that_cannot_be_read_or_is_no_toml_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"nowhere\.toml: cannot be read"):
        load(tmp_path / "nowhere.toml")
    (tmp_path / "broken.toml").write_text("= 1")
    with pytest.raises(ScenarioError, match=r"broken\.toml: is not TOML"):
        load(tmp_path / "broken.toml")


JUNCTION = '[[junction]]\nname = "junction-1"\nport = 12111\n'


def test_three_lines_make_a_junction() -> None:
    scenario = parse(JUNCTION)
    targets = target_faults(scenario)
    assert {"junction-1", "junction-1/6", "junction-1/check-in-1", "junction-1/exit-4"} <= set(targets)
    assert "nack" in targets["junction-1"]
    assert targets["junction-1/6"] == {"lamp_failure"}
    assert targets["junction-1/exit-4"] == {"detector_stuck"}


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (
            "[junction.design]\nstages = [[1, 2, 3, 6], [2, 5], [4, 5]]\n",
            "junction[0].design",
            "conflict in stage 1",
        ),
        ("[junction.design]\nstages = [[1, 9], [3], [2]]\n", "junction[0].design", "groups 1–6"),
        ('[[bus]]\nname = "bus-1"\njunction = "elsewhere"\n', "bus[0].junction", "junction-1"),
        ('[[bus]]\nname = "junction-1"\njunction = "junction-1"\n', "bus[0].name", "of its own"),
        ('[[bus]]\nname = "bus-1"\njunction = "junction-1"\ngroup = 7\n', "bus[0].group", "1–6"),
        ('[[bus]]\nname = "bus-1"\njunction = "junction-1"\nexit = "way-out"\n', "bus[0].exit", "exit-1"),
        (
            '[[bus]]\nname = "bus-1"\njunction = "junction-1"\nroute = [[47.0, 5.0], [47.0, 5.0]]\n',
            "bus[0].route",
            "two points",
        ),
    ],
)
def test_a_junction_or_bus_that_cannot_be_is_a_fault(text: str, key: str, says: str) -> None:
    faults = faults_of(JUNCTION + text)
    assert key in faults
    assert says in " | ".join(faults.values())


def test_a_bus_route_needs_two_points() -> None:
    bus = '[[bus]]\nname = "bus-1"\njunction = "junction-1"\nroute = [[47.0, 5.0]]\n'
    assert list(faults_of(JUNCTION + bus)) == ["bus[0].route"]


RADIO = """
[[radio]]
name = "radio-1"
gateway_eui = "0016c001f1500001"

[[radio.sensors]]
name = "bin-1"
device = "milesight-em400-mud"
dev_eui = "24e124136b502301"
app_key = "0102030405060708090a0b0c0d0e0f10"
"""


def test_a_gateway_and_its_sensors_are_targets_of_their_own_faults() -> None:
    targets = target_faults(parse(RADIO))
    assert targets["radio-1"] >= {"gateway_gone", "no_downlink", "lost"}
    assert targets["radio-1/bin-1"] >= {"silent", "counter_reset", "lost"}
    assert "gateway_gone" not in targets["radio-1/bin-1"]


@pytest.mark.parametrize(
    ("changed", "by", "key"),
    [
        ("0016c001f1500001", "0016C001F1500001", "radio[0].gateway_eui"),
        ("milesight-em400-mud", "milesight-em400", "radio[0].sensors[0].device"),
        ('app_key = "01', 'app_key = "', "radio[0].sensors[0].app_key"),
        ('name = "bin-1"', 'name = "bin 1"', "radio[0].sensors[0].name"),
        ('dev_eui = "24', 'every_s = 0.1\ndev_eui = "24', "radio[0].sensors[0].every_s"),
        ('gateway_eui = "', 'region = "us915"\ngateway_eui = "', "radio[0].region"),
        ('gateway_eui = "', 'port = 0\ngateway_eui = "', "radio[0].port"),
    ],
)
def test_faults_of_a_radio_are_named(changed: str, by: str, key: str) -> None:
    assert key in faults_of(RADIO.replace(changed, by))


def test_two_sensors_cannot_share_name_or_eui() -> None:
    sensor = RADIO[RADIO.index("[[radio.sensors]]") :]
    assert set(faults_of(RADIO + sensor)) == {"radio[0].sensors[1].name", "radio[0].sensors[1].dev_eui"}


def test_an_event_may_concern_a_sensor() -> None:
    event = '[[event]]\nat_s = 1.0\ntarget = "radio-1/bin-1"\nfault = "{}"\n'
    assert parse(RADIO + event.format("silent")).event
    assert set(faults_of(RADIO + event.format("gateway_gone"))) == {"event[0].fault"}
