"""Settings of lines and devices: what a technician's file may say, and every fault in it at once."""

import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from drivers.base import Driver
from drivers.checks import check
from drivers.registry import open_line
from drivers.settings import DaliLuba, DeviceSettings, LineSettings, LoraUdp, ModbusRtu, ModbusTcp
from protocols.clock import Instant
from protocols.modbus.register_map import RegisterMap
from protocols.model.device import Kind, Report, StreamClass
from protocols.model.ids import DeviceId, LineId
from protocols.strict import read

GOOD = """
[[line]]
id = "lamps"
driver = "dali-luba"
port = "/dev/ttyUSB0"

[[line]]
id = "meter"
driver = "modbus-tcp"
host = "10.0.0.7"

[[line]]
id = "contacts"
driver = "modbus-rtu"
port = "/dev/ttyUSB1"
baudrate = 9600
parity = "E"

[[device]]
id = "lamp-1"
kind = "lamp"
line = "lamps"
address = 0
groups = ["street"]
commune = "21231"

[[device]]
id = "meter-1"
kind = "meter"
line = "meter"
address = 1
map = "sdm630"
poll_s = 60
report = "each"
stream = "critical"

[[device]]
id = "pump-1"
kind = "sensor"
line = "contacts"
address = 7
map = "pump"

[[map]]
name = "pump"
[[map.run]]
prefix = "r"
table = "holding"
address = 0
count = 4
"""


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    line: tuple[LineSettings, ...] = ()
    device: tuple[DeviceSettings, ...] = ()
    map: tuple[RegisterMap, ...] = ()


class StoppedClock:
    def now(self) -> Instant:
        return Instant(0, 0)

    def civil(self) -> Instant:
        return self.now()


def settings(text: str) -> File:
    got = read(tomllib.loads(text), File)
    assert isinstance(got, File), got
    return got


def faults(text: str) -> dict[str, str]:
    file = settings(text)
    return {fault.key: fault.expected for fault in check(file.line, file.device, file.map)}


def opened(text: str) -> dict[str, Driver]:
    file = settings(text)
    own = {register_map.name: register_map for register_map in file.map}
    return {line.id: open_line(line, file.device, own, StoppedClock(), Path()) for line in file.line}


def test_a_good_file_has_no_faults_and_opens_every_line() -> None:
    assert faults(GOOD) == {}
    drivers = opened(GOOD)
    assert list(drivers) == ["lamps", "meter", "contacts"]
    assert [driver.line for driver in drivers.values()] == list(drivers)


def test_lines_decode_into_their_own_settings() -> None:
    kinds = [type(line) for line in settings(GOOD).line]
    assert kinds == [DaliLuba, ModbusTcp, ModbusRtu]
    assert settings(GOOD).device[1].stream_class is StreamClass.CRITICAL


def test_a_device_may_be_watched_otherwise_than_its_map_says() -> None:
    drivers = opened(GOOD)
    meter = drivers["meter"].points(DeviceId("meter-1"))
    assert {(p.poll_s, p.report) for p in meter} == {(60.0, Report.EACH)}
    lamp = drivers["lamps"].points(DeviceId("lamp-1"))
    assert {(p.poll_s, p.report) for p in lamp} == {(30.0, Report.CHANGE)}
    assert [p.point.name for p in lamp if p.point.writable] == ["dimming_level"]
    pump = drivers["contacts"].points(DeviceId("pump-1"))
    assert [p.point.name for p in pump] == ["r00", "r01", "r02", "r03"]


def test_the_bus_supply_is_not_ours_unless_somebody_says_so() -> None:
    line = settings(GOOD).line[0]
    assert isinstance(line, DaliLuba)
    assert line.bus_supply is False


WRONG = """
[[line]]
id = "a"
driver = "dali-luba"
port = "/dev/ttyUSB0"
probe_s = 10
probe_bound_s = 5

[[line]]
id = "b"
driver = "modbus-rtu"
port = "/dev/ttyUSB0"
reconnect_s = 20

[[line]]
id = "a"
driver = "modbus-tcp"
host = "meter"

[[device]]
id = "d0"
kind = "meter"
line = "b"
address = 0
map = "smd630"

[[device]]
id = "d1"
kind = "lamp"
line = "nowhere"
address = 1

[[device]]
id = "d0"
kind = "meter"
line = "b"
address = 248

[[device]]
id = "d3"
kind = "lux"
line = "b"
address = 5
map = "lux"

[[device]]
id = "d4"
kind = "light_sensor"
line = "b"
address = 5
map = "lux"

[[map]]
name = "m"
[[map.entry]]
point = "p"
table = "coil"
address = 0

[[map]]
name = "m"
[[map.run]]
prefix = "r"
table = "input"
address = 0
count = 1
"""


def test_every_fault_is_named_at_once_with_what_was_expected() -> None:
    found = faults(WRONG.replace('kind = "lux"', 'kind = "light_sensor"'))
    assert {key: text.split(";")[0] for key, text in found.items()} == {
        "line[0].probe_s": "expected at most probe_bound_s, 5",
        "line[1].port": "expected one of its own",
        "line[1].reconnect_s": "expected at most reconnect_bound_s, 10",
        "line[2].id": "expected one of its own",
        "device[0].map": "expected a register map (cabinet_io, lux, m, sdm630)",
        "device[0].address": "expected a Modbus unit, 1 to 247, not 0",
        "device[1].line": "expected a line of this file (a, b), not 'nowhere'",
        "device[2].id": "expected one of its own",
        "device[2].map": "expected a register map (cabinet_io, lux, m, sdm630)",
        "device[2].address": "expected a Modbus unit, 1 to 247, not 248",
        "device[4].address": "expected an address of its own",
        "map[0].entry[0].type": 'expected "bit", because coil is a table of bits',
        "map[1].name": "expected one of its own",
    }


def test_a_lamp_has_no_map_a_short_address_and_a_dali_line_no_meter() -> None:
    text = GOOD.replace(
        'kind = "lamp"\nline = "lamps"\naddress = 0', 'kind = "meter"\nline = "lamps"\naddress = 64'
    )
    text = text.replace('groups = ["street"]', 'map = "lux"')
    assert faults(text) == {
        "device[0].kind": 'expected "lamp" on a DALI line, not "meter"',
        "device[0].map": "expected nothing; a lamp has no registers",
        "device[0].address": "expected a DALI short address, 0 to 63, not 64",
    }


def test_maps_may_be_given_by_name() -> None:
    file = settings(GOOD)
    assert check(file.line, file.device, {"pump": file.map[0]}) == []


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ('driver = "dali-luba"\nport = "x"\nbaudrate = 1', "line[0].baudrate"),
        ('driver = "dali-luba"', "line[0].port"),
        ('driver = "modbus-tcp"\nhost = "h"\nport = 0', "line[0].port"),
        ('driver = "modbus-rtu"\nport = "x"\nparity = "even"', "line[0].parity"),
        ('driver = "modbus-rtu"\nport = "x"\ntimeout_s = 0', "line[0].timeout_s"),
    ],
)
def test_what_a_line_cannot_be_is_named(wrong: str, key: str) -> None:
    got = read(tomllib.loads(f'[[line]]\nid = "l"\n{wrong}'), File)
    assert isinstance(got, list)
    assert [fault.key for fault in got] == [key]


def test_a_vendor_library_is_loaded_only_by_the_line_that_needs_it() -> None:
    names = ("pymodbus", "dali", "serial", "drivers.lorawan", "protocols.lorawan")
    code = f"import sys, drivers.registry; print([m for m in {names} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert run.stdout.strip() == "[]"


def test_line_ids_are_what_the_driver_goes_by() -> None:
    line = ModbusTcp(id=LineId("m"), host="h")
    device = DeviceSettings(id=DeviceId("d"), kind=Kind.METER, line=LineId("other"), address=1, map="sdm630")
    driver = open_line(line, [device], {}, StoppedClock(), Path())
    assert driver.health().line == "m"
    with pytest.raises(Exception, match="not on m"):
        driver.points(DeviceId("d"))


def test_a_signal_controllers_silence_is_its_lines_matter() -> None:
    text = """
        [[line]]
        id = "tlc"
        driver = "rsmp"
        site = "KK+AG0503=001TC000"
        [[device]]
        id = "junction-1"
        kind = "junction"
        line = "tlc"
        address = "KK+AG0503=001TC000"
    """
    assert faults(text) == {}
    (driver,) = opened(text).values()
    assert {polled.poll_s for polled in driver.points(DeviceId("junction-1"))} == {None}
    assert "see its line's update_s" in faults(f"{text}poll_s = 5")["device[0].poll_s"]
    assert "its line's update_s" in faults(f"{text}silence_s = 5")["device[0].silence_s"]


RADIO = """
[[line]]
id = "radio"
driver = "lorawan-udp"

[[device]]
id = "bay-1"
kind = "parking_space"
line = "radio"
address = "00AFEE7CF5ED6F1E"
map = "bosch-tps110"
"""


def test_a_radio_line_listens_on_this_machine_and_knows_its_devices_by_their_dev_eui() -> None:
    assert faults(RADIO) == {}
    line = settings(RADIO).line[0]
    assert isinstance(line, LoraUdp)
    assert (line.host, line.port, line.insecure, line.silence_s) == ("127.0.0.1", 1700, False, 90_000)
    (driver,) = opened(RADIO).values()
    points = {polled.point.name: polled.poll_s for polled in driver.points(DeviceId("bay-1"))}
    assert points.keys() > {"occupied", "rssi", "snr", "frame_counter", "battery_level"}
    assert set(points.values()) == {None}


@pytest.mark.parametrize(
    ("line", "device", "key", "expected"),
    [
        ('host = "0.0.0.0"', "", "line[0].host", "insecure = true"),
        ("dedup_s = 0.9\nlead_s = 0.2", "", "line[0].dedup_s", "no downlink is in time"),
        ("", 'map = ""', "device[0].map", "none was given"),
        ("", 'map = "sdm630"', "device[0].map", "not 'sdm630'"),
        ("", 'kind = "lamp"', "device[0].kind", '"parking_space"'),
        ("", "address = 17", "device[0].address", "a DevEUI in quotes"),
        ("", 'map = "bosch-tps110"\npoll_s = 60', "device[0].poll_s", "not polled, see silence_s"),
        ("", 'address = "00AFEE7CF5ED6F1"', "device[0].address", "16 hexadecimal digits"),
        ("", 'address = "00AFEE7CF5ED6F1G"', "device[0].address", "16 hexadecimal digits"),
    ],
)
def test_what_is_wrong_with_a_radio_line_is_named(line: str, device: str, key: str, expected: str) -> None:
    text = RADIO.replace('driver = "lorawan-udp"', f'driver = "lorawan-udp"\n{line}')
    if device:
        name = device.partition(" = ")[0]
        text = "\n".join(device if one.startswith(f"{name} = ") else one for one in text.splitlines())
    found = faults(text)
    assert list(found) == [key]
    assert expected in found[key]


def test_a_radio_line_beyond_this_machine_is_allowed_to_whoever_insists() -> None:
    assert (
        faults(
            RADIO.replace('driver = "lorawan-udp"', 'driver = "lorawan-udp"\nhost = "::"\ninsecure = true')
        )
        == {}
    )


def test_one_dev_eui_in_two_spellings_is_one_address() -> None:
    again = RADIO.partition("[[device]]")[2].replace("bay-1", "bay-2").replace("AFEE", "afee")
    assert list(faults(f"{RADIO}[[device]]{again}")) == ["device[1].address"]


def test_two_radio_lines_need_ports_of_their_own() -> None:
    assert list(faults(RADIO + '[[line]]\nid = "b"\ndriver = "lorawan-udp"')) == ["line[1].port"]


@pytest.mark.parametrize("gateway", ["b827", "b827ebfffe01234z", ""])
def test_a_gateway_has_an_eui(gateway: str) -> None:
    got = read(tomllib.loads(f'[[line]]\nid = "l"\ndriver = "lorawan-udp"\ngateways = ["{gateway}"]'), File)
    assert isinstance(got, list)
    assert [fault.key for fault in got] == ["line[0].gateways[0]"]
