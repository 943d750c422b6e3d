"""Every command and every setting stands in the documentation."""

import re
from enum import StrEnum
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import typer.main
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import central.cli
import edge.cli
import sim.cli
import sim.faults
from central.api.bodies import GapView, Lighting, SignedEnvelope
from central.api.priority_bodies import Priority, PriorityFigures, PriorityPublishRequest
from central.envelopes import sign_document
from central.policies import SigningKey
from drivers import rsmp
from drivers.lora_refusals import Refusal as LoraRefusal
from drivers.rsmp_link import LATE, REPLACED
from drivers.settings import DeviceSettings, LineSettings
from edge.config import (
    BackhaulSettings,
    CabinetSettings,
    KeySettings,
    LocalPositionsSettings,
    OutboxSettings,
)
from protocols.backhaul.datagram import DatagramRefusal
from protocols.backhaul.messages import GapCause, Source
from protocols.ble.profiles import PROFILES
from protocols.ble.refusal import Refusal
from protocols.clock import BenchTime
from protocols.lorawan.payloads import CODECS
from protocols.modbus.register_map import Entry, RegisterMap, Run
from protocols.model.ids import KeyId
from protocols.model.policy import LampLimit, PolicyKind, SignalLimit
from protocols.model.priority import Approach, PriorityRule, RequestState
from protocols.opcua.nodes import Entry as NodeEntry
from protocols.opcua.nodes import NodeMap
from protocols.rsmp.messages import Fault as Violation
from protocols.strict import read
from sim.bus import Ride
from sim.bus_service import BusSettings
from sim.junction_design import DetectorDesign, JunctionDesign, PriorityLimits, SignalGroup, TimePlan
from sim.junction_settings import JunctionSettings
from sim.radio_settings import RadioSettings, SensorSettings

DOCS = Path(__file__).parents[1] / "docs"
SETTINGS = (
    CabinetSettings,
    BackhaulSettings,
    OutboxSettings,
    KeySettings,
    *get_args(LineSettings),
    DeviceSettings,
    RegisterMap,
    Entry,
    Run,
    NodeMap,
    NodeEntry,
    LampLimit,
    SignalLimit,
    LocalPositionsSettings,
    BenchTime,
)
BENCH_SETTINGS = (
    JunctionSettings,
    JunctionDesign,
    SignalGroup,
    TimePlan,
    DetectorDesign,
    PriorityLimits,
    BusSettings,
    Ride,
    RadioSettings,
    SensorSettings,
)
FAULTS = [
    kind
    for kind in vars(sim.faults).values()
    if isinstance(kind, type) and issubclass(kind, StrEnum) and kind is not StrEnum
]
NAMED: tuple[type[StrEnum], ...] = (Refusal, LoraRefusal, DatagramRefusal, Violation)
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


def test_every_part_of_a_priority_rule_and_every_state_of_a_request_is_documented() -> None:
    text = (DOCS / "priority.md").read_text(encoding="utf-8") + (DOCS / "centre.md").read_text(
        encoding="utf-8"
    )
    names = {field.encode_name for part in (Approach, PriorityRule) for field in msgspec.structs.fields(part)}
    words = names | {state.value for state in RequestState} | {source.value for source in Source}
    assert sorted(word for word in words if f"`{word}`" not in text and f'"{word}"' not in text) == []


def test_every_fault_of_a_bench_is_documented() -> None:
    text = (DOCS / "bench.md").read_text(encoding="utf-8")
    assert [fault.value for kind in FAULTS for fault in kind if f"`{fault.value}`" not in text] == []


def test_every_name_that_something_is_counted_under_is_documented() -> None:
    text = (DOCS / "cabinet.md").read_text(encoding="utf-8").partition("## What is counted by name")[2]
    noted = re.findall(r'_note\(\s*"(\w+)"', Path(rsmp.__file__).read_text(encoding="utf-8"))
    assert len(noted) > 5
    names = {one.value for kind in NAMED for one in kind} | {*noted, LATE, REPLACED}
    assert sorted(name for name in names if f"`{name}`" not in text) == []


def test_every_point_of_a_sensor_is_on_its_conformance_page() -> None:
    text = (DOCS / "conformance" / "sensors.md").read_text(encoding="utf-8")
    for codec in CODECS.values():
        assert f"## `{codec.name}`" in text or f", `{codec.name}`" in text, codec.name
        # of points that are numbered the first stands for all
        names = {
            re.sub(r"^(line|region)_\d", r"\1_1", re.sub(r"_\d+$", "_", point.name)) for point in codec.points
        }
        assert sorted(name for name in names if f"`{name}" not in text) == []


def test_every_profile_and_refusal_of_bluetooth_is_documented() -> None:
    text = (DOCS / "conformance" / "ble.md").read_text(encoding="utf-8")
    names = [
        *PROFILES,
        *(refusal.value for refusal in Refusal if refusal not in {Refusal.LENGTH, Refusal.EMPTY}),
    ]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_policies_of_the_documentation_can_be_signed() -> None:
    text = (DOCS / "centre.md").read_text(encoding="utf-8")
    documents = [msgspec.json.decode(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    assert {document["kind"] for document in documents} == {kind.value for kind in PolicyKind}
    key = SigningKey(KeyId("city-2026"), Ed25519PrivateKey.generate())
    for document in documents:
        assert isinstance(sign_document(document, key, 0, 7.0), SignedEnvelope)


def test_every_cause_and_every_field_of_a_gap_is_documented() -> None:
    text = (DOCS / "centre.md").read_text(encoding="utf-8")
    fields = {field.encode_name for field in msgspec.structs.fields(GapView)} - {"id", "cabinet"}
    words = fields | {cause.value for cause in GapCause}
    assert sorted(word for word in words if f"`{word}`" not in text) == []


def test_the_bodies_of_the_documentation_are_accepted() -> None:
    text = (DOCS / "centre.md").read_text(encoding="utf-8")
    bodies = {
        path.split("/")[-1]: msgspec.json.decode(body)
        for path, body in re.findall(r"curl -X P\w+ localhost:8080(\S+) .*?-d '(\{.*?)'\n", text, re.DOTALL)
    }
    assert isinstance(read(bodies["priority"], Priority), Priority)
    assert isinstance(read(bodies["publish"], PriorityPublishRequest), PriorityPublishRequest)
    assert isinstance(read(bodies["lighting"], Lighting), Lighting)


def test_every_figure_of_priority_is_documented() -> None:
    text = (DOCS / "centre.md").read_text(encoding="utf-8")
    figures = set(PriorityFigures.__struct_fields__) - {"day", "cabinet", "junction", "rule"}
    assert sorted(name for name in figures if f"`{name}`" not in text) == []


def test_every_field_of_a_priority_policy_is_documented() -> None:
    text = (DOCS / "centre.md").read_text(encoding="utf-8")
    fields = {name for form in (Approach, PriorityRule, Priority) for name in form.__struct_fields__}
    assert sorted(name for name in fields - {"approaches", "rules"} if f"`{name}`" not in text) == []


def test_every_setting_of_a_cabinet_is_documented() -> None:
    text = (DOCS / "cabinet.md").read_text(encoding="utf-8")
    keys = {field.encode_name for settings in SETTINGS for field in msgspec.structs.fields(settings)}
    forms = ("`{}`", "{} =", ".{}]]")
    assert sorted(key for key in keys if not any(form.format(key) in text for form in forms)) == []


def test_every_setting_of_a_junction_and_a_bus_is_documented() -> None:
    text = (DOCS / "bench.md").read_text(encoding="utf-8")
    keys = {field.encode_name for settings in BENCH_SETTINGS for field in msgspec.structs.fields(settings)}
    assert sorted(key for key in keys if f"`{key}`" not in text) == []


def test_each_promise_names_a_test_that_is_there() -> None:
    promises = re.findall(
        r"`(tests/[\w/]+\.py)::(\w+)`", (DOCS / "nothing-lost.md").read_text(encoding="utf-8")
    )
    assert len(promises) > 20
    for file, name in promises:
        path = DOCS.parent / file
        assert path.exists(), file
        assert re.search(rf"def {name}\(", path.read_text(encoding="utf-8")), f"{file} has no {name}"
