"""Every command and every setting stands in the documentation."""

import re
from pathlib import Path

import msgspec
import pytest
import typer.main
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import central.cli
import edge.cli
import sim.cli
from central.api.bodies import SignedEnvelope
from central.envelopes import sign_document
from central.policies import SigningKey
from drivers.settings import DaliLuba, DeviceSettings, LoraUdp, ModbusRtu, ModbusTcp
from edge.config import BackhaulSettings, CabinetSettings, KeySettings, OutboxSettings
from protocols.clock import BenchTime
from protocols.lorawan.payloads import CODECS
from protocols.modbus.register_map import Entry, RegisterMap, Run
from protocols.model.ids import KeyId
from protocols.model.policy import LampLimit
from sim.faults import CabinetFault, LampFault, LineFault, LuxFault, ModbusFault, RadioFault, SerialFault
from sim.radio_settings import RadioSettings, SensorSettings

DOCS = Path(__file__).parents[1] / "docs"
SETTINGS = (
    CabinetSettings,
    BackhaulSettings,
    OutboxSettings,
    KeySettings,
    DaliLuba,
    ModbusTcp,
    ModbusRtu,
    LoraUdp,
    DeviceSettings,
    RegisterMap,
    Entry,
    Run,
    LampLimit,
    BenchTime,
)
FAULTS = (LampFault, LineFault, SerialFault, ModbusFault, CabinetFault, LuxFault, RadioFault)
BENCH_SETTINGS = (RadioSettings, SensorSettings)
PAGES = [(edge.cli.app, "cabinet.md"), (central.cli.app, "centre.md"), (sim.cli.app, "bench.md")]
COMPLETION = ("--install-completion", "--show-completion")


def commands(command: object, path: str) -> list[str]:
    below = getattr(command, "commands", None)
    if below is None:
        return [path]
    return [found for name, sub in below.items() for found in commands(sub, f"{path} {name}")]


@pytest.mark.parametrize(
    ("app", "name", "page"),
    [
        (edge.cli.app, "luciole-edge", "cabinet.md"),
        (central.cli.app, "luciole-central", "centre.md"),
        (sim.cli.app, "luciole-sim", "bench.md"),
    ],
)
def test_every_command_is_documented(app: typer.Typer, name: str, page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert [one for one in commands(typer.main.get_command(app), name) if one not in text] == []


def options(command: object) -> set[str]:
    below = getattr(command, "commands", {}).values()
    own = {opt for one in getattr(command, "params", []) for opt in one.opts if opt.startswith("--")}
    return own.union(*(options(sub) for sub in below)) - {"--help", *COMPLETION}


@pytest.mark.parametrize(("app", "page"), PAGES)
def test_every_option_is_documented(app: typer.Typer, page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert sorted(one for one in options(typer.main.get_command(app)) if one not in text) == []


def test_every_fault_of_a_bench_is_documented() -> None:
    text = (DOCS / "bench.md").read_text(encoding="utf-8")
    assert [fault.value for kind in FAULTS for fault in kind if f"`{fault.value}`" not in text] == []


def test_every_radio_setting_of_a_bench_is_documented() -> None:
    text = (DOCS / "bench.md").read_text(encoding="utf-8")
    keys = {field.encode_name for settings in BENCH_SETTINGS for field in msgspec.structs.fields(settings)}
    assert sorted(key for key in keys if f"`{key}`" not in text) == []


def test_every_point_of_a_sensor_is_on_its_conformance_page() -> None:
    text = (DOCS / "conformance" / "sensors.md").read_text(encoding="utf-8")
    for codec in CODECS.values():
        assert f"## `{codec.name}`" in text or f", `{codec.name}`" in text, codec.name
        # of points that are numbered the first stands for all
        names = {
            re.sub(r"^(line|region)_\d", r"\1_1", re.sub(r"_\d+$", "_", point.name)) for point in codec.points
        }
        assert sorted(name for name in names if f"`{name}" not in text) == []


def test_the_policy_of_the_documentation_can_be_signed() -> None:
    text = (DOCS / "centre.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    key = SigningKey(KeyId("city-2026"), Ed25519PrivateKey.generate())
    assert isinstance(sign_document(msgspec.json.decode(block), key, 0, 7.0), SignedEnvelope)


def test_every_setting_of_a_cabinet_is_documented() -> None:
    text = (DOCS / "cabinet.md").read_text(encoding="utf-8")
    keys = {field.encode_name for settings in SETTINGS for field in msgspec.structs.fields(settings)}
    forms = ("`{}`", "{} =", ".{}]]")
    assert sorted(key for key in keys if not any(form.format(key) in text for form in forms)) == []
