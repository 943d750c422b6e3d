"""Settings of OPC UA lines and their devices: every fault at once, and nothing loaded that is not used."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from drivers.checks import check
from drivers.registry import open_line
from drivers.settings import DeviceSettings, LineSettings, OpcUa
from protocols.clock import Instant
from protocols.model.ids import DeviceId
from protocols.opcua.nodes import NodeMap
from protocols.strict import read

GOOD = """
[[line]]
id = "plant"
driver = "opcua"
url = "opc.tcp://10.0.0.7:4840/plant"
user = "cabinet"
password_file = "opcua/password"

[[device]]
id = "station-1"
kind = "pumping_station"
line = "plant"
address = "Plant/station-1"
map = "pumping_station"

[[device]]
id = "shaft-1"
kind = "sensor"
line = "plant"
address = "nsu=urn:example:plc;s=shaft-1"
map = "shaft"
poll_s = 30.0

[[nodes]]
name = "shaft"
namespace = "urn:example:plc"
[[nodes.entry]]
point = "level"
node = "s={object}.Level"
type = "f32"
"""


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    line: tuple[LineSettings, ...] = ()
    device: tuple[DeviceSettings, ...] = ()
    nodes: tuple[NodeMap, ...] = ()


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
    return {fault.key: fault.expected for fault in check(file.line, file.device, (), file.nodes)}


def test_a_good_file_has_no_faults_and_opens_its_line() -> None:
    assert faults(GOOD) == {}
    file = settings(GOOD)
    driver = open_line(file.line[0], file.device, {}, StoppedClock(), Path(), nodes=file.nodes)
    told = {one.point.name: one.poll_s for one in driver.points(DeviceId("station-1"))}
    assert len(told) == 17
    assert set(told.values()) == {None}
    assert [one.poll_s for one in driver.points(DeviceId("shaft-1"))] == [30.0]


def test_a_line_is_secure_unless_somebody_says_otherwise() -> None:
    (line,) = settings(GOOD).line
    assert isinstance(line, OpcUa)
    assert (line.security, line.mode, line.insecure) == ("Basic256Sha256", "sign_and_encrypt", False)


@pytest.mark.parametrize(
    ("old", "new", "key", "said"),
    [
        ("opc.tcp://10.0.0.7:4840/plant", "http://10.0.0.7:4840", "line[0].url", "opc.tcp://host:port"),
        ("opc.tcp://10.0.0.7:4840/plant", "opc.tcp://10.0.0.7", "line[0].url", "opc.tcp://host:port"),
        ("opc.tcp://10.0.0.7:4840/plant", "opc.tcp://10.0.0.7:99999", "line[0].url", "opc.tcp://host:port"),
        ("opc.tcp://10.0.0.7:4840/plant", "opc.tcp://:4840", "line[0].url", "opc.tcp://host:port"),
        ("10.0.0.7:4840", "me:secret@10.0.0.7:4840", "line[0].url", "no user and password"),
        ('user = "cabinet"\n', "", "line[0].password_file", "both or neither"),
        ('password_file = "opcua/password"\n', "", "line[0].password_file", "both or neither"),
        ('address = "Plant/station-1"', "address = 1", "device[0].address", "browse path"),
        ('address = "Plant/station-1"', 'address = "ns=2;s=a"', "device[0].address", "by its URI"),
        ('map = "pumping_station"', 'map = "lux"', "device[0].map", "(pumping_station, shaft); not 'lux'"),
        ('map = "pumping_station"\n', "", "device[0].map", "none was given"),
        ("s={object}.Level", "g=1", "nodes[0].entry[0].node", "not supported"),
        ("poll_s = 30.0", "silence_s = 30.0", "device[1].silence_s", "heartbeat_s says how often"),
    ],
)
def test_each_fault_is_named_with_what_was_expected(old: str, new: str, key: str, said: str) -> None:
    found = faults(GOOD.replace(old, new))
    assert list(found) == [key]
    assert said in found[key]


def test_a_secret_in_an_address_is_not_told_again() -> None:
    assert "secret" not in str(faults(GOOD.replace("10.0.0.7", "me:secret@10.0.0.7")))


def test_no_security_goes_to_this_machine_only_and_takes_no_password_along() -> None:
    open_line_text = 'security = "none"\n[[device]]'
    text = GOOD.replace("[[device]]", open_line_text, 1)
    assert set(faults(text)) == {"line[0].security", "line[0].user"}
    assert set(faults(text.replace("10.0.0.7", "127.0.0.1"))) == {"line[0].user"}
    assert faults(text.replace('security = "none"', 'security = "none"\ninsecure = true')) == {}


def test_two_lines_do_not_share_a_server_and_maps_have_names_of_their_own() -> None:
    line = GOOD[: GOOD.index("[[device]]")]
    twice = line.replace("plant", "other", 1) + GOOD + GOOD[GOOD.index("[[nodes]]") :]
    assert set(faults(twice)) == {"line[1].port", "nodes[1].name"}


def test_a_cabinet_without_such_a_line_does_not_load_asyncua() -> None:
    code = "import sys, edge.cli, drivers.registry, drivers.modbus; sys.exit('asyncua' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
