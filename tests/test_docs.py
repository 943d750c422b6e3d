"""Every command and every setting stands in the documentation."""

from pathlib import Path

import msgspec
import pytest
import typer.main

import central.cli
import edge.cli
import sim.cli
from drivers.settings import DaliLuba, DeviceSettings, ModbusRtu, ModbusTcp
from edge.config import BackhaulSettings, CabinetSettings, KeySettings, OutboxSettings
from protocols.clock import BenchTime
from protocols.modbus.register_map import Entry, RegisterMap, Run
from protocols.model.policy import LampLimit

DOCS = Path(__file__).parents[1] / "docs"
SETTINGS = (
    CabinetSettings,
    BackhaulSettings,
    OutboxSettings,
    KeySettings,
    DaliLuba,
    ModbusTcp,
    ModbusRtu,
    DeviceSettings,
    RegisterMap,
    Entry,
    Run,
    LampLimit,
    BenchTime,
)


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


def test_every_setting_of_a_cabinet_is_documented() -> None:
    text = (DOCS / "cabinet.md").read_text(encoding="utf-8")
    keys = {field.encode_name for settings in SETTINGS for field in msgspec.structs.fields(settings)}
    forms = ("`{}`", "{} =", ".{}]]")
    assert sorted(key for key in keys if not any(form.format(key) in text for form in forms)) == []
