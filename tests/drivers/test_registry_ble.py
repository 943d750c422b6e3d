"""Settings of a Bluetooth line: what a technician's file may say, and every fault in it at once."""

import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from drivers.base import RadioDriver
from drivers.checks import check
from drivers.registry import open_line
from drivers.settings import Ble, DeviceSettings, LineSettings
from protocols.clock import Instant
from protocols.model.ids import DeviceId
from protocols.strict import read

GOOD = """
[[line]]
id = "air"
driver = "ble"

[[line]]
id = "lamps"
driver = "dali-luba"
port = "/dev/ttyUSB0"

[[device]]
id = "door-1"
kind = "sensor"
line = "air"
address = "a4:c1:38:8d:18:b2"
map = "bthome-door"
silence_s = 86400
dead_band = 5
"""


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    line: tuple[LineSettings, ...] = ()
    device: tuple[DeviceSettings, ...] = ()


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
    return {fault.key: fault.expected for fault in check(file.line, file.device)}


def test_a_good_file_has_no_faults_and_opens_without_touching_the_disk(tmp_path: Path) -> None:
    assert faults(GOOD) == {}
    file = settings(GOOD)
    driver = open_line(file.line[0], file.device, {}, StoppedClock(), tmp_path)
    assert isinstance(driver, RadioDriver)
    assert {point.dead_band for point in driver.points(DeviceId("door-1"))} == {5}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("right", "wrong", "key", "expected"),
    [
        ("a4:c1:38:8d:18:b2", "A4:C1:38:8D:18:B2", "device[0].address", "in lower case"),
        ('"a4:c1:38:8d:18:b2"', "7", "device[0].address", "not 7"),
        ("bthome-door", "sdm630", "device[0].map", "a profile (bthome-thermometer"),
        ('map = "bthome-door"\n', "", "device[0].map", "none was given"),
        ('kind = "sensor"', 'kind = "lamp"', "device[0].kind", 'not "lamp"'),
        ("dead_band = 5", "poll_s = 5", "device[0].poll_s", "see silence_s"),
        ('line = "air"', 'line = "lamps"', "device[0].silence_s", "is not waited for"),
    ],
)
def test_what_a_bluetooth_device_cannot_be_is_named(right: str, wrong: str, key: str, expected: str) -> None:
    found = faults(GOOD.replace(right, wrong))
    assert expected in found[key]


def test_two_lines_do_not_share_an_adapter_and_two_devices_no_address() -> None:
    second = (
        '[[line]]\nid = "more"\ndriver = "ble"\n[[line]]\nid = "other"\ndriver = "ble"\nadapter = "hci1"\n'
    )
    twin = GOOD[GOOD.index("[[device]]") :].replace("door-1", "door-2")
    assert faults(second + GOOD + twin) == {
        "line[2].adapter": "expected one of its own; 'hci0' is that of line[0]",
        "device[1].address": "expected an address of its own; a4:c1:38:8d:18:b2 on 'air' is that of device[0]",
    }


@pytest.mark.parametrize("name", ["outbox", "state"])
def test_a_line_does_not_take_the_agents_own_files(name: str) -> None:
    assert "the agent's own" in faults(GOOD.replace('"air"', f'"{name}"'))["line[0].id"]


@pytest.mark.parametrize("adapter", ["eth0", "hci", "hci0\\n", "hci0/../dev"])
def test_what_is_no_adapter_is_named(adapter: str) -> None:
    got = read({"line": [{"id": "air", "driver": "ble", "adapter": adapter}]}, File)
    assert isinstance(got, list)
    assert [fault.key for fault in got] == ["line[0].adapter"]


def test_what_is_not_said_is_careful() -> None:
    line = settings(GOOD).line[0]
    assert isinstance(line, Ble)
    assert (line.adapter, line.scanning, line.watchdog_s, line.silence_s) == ("hci0", "active", 300, 3600)


def test_bluetooth_is_loaded_only_by_the_line_that_needs_it() -> None:
    code = "import sys, drivers.registry; print([m for m in ('bleak', 'dbus_fast') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert run.stdout.strip() == "[]"
