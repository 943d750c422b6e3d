"""A damaged `state.db` does not stop the street: what can be believed of it is there again."""

import random
import sqlite3
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from drivers.damage import Replacement
from edge.state import State
from protocols.backhaul.messages import SignedPolicy
from protocols.model.alarm import Alarm, AlarmType
from protocols.model.command import Command, CommandState
from protocols.model.ids import CabinetId, CommandId, DeviceId, KeyId, PointName
from protocols.model.lighting import Override
from protocols.model.policy import Policy, PolicyKind
from tests.edge.bench import NOON_MS

PAGE = 4096
COMMANDS = 400


def fill(path: Path) -> None:
    """Leave a state with a policy, many commands, an override, an alarm and a time."""
    state = State.open(path)
    policy = Policy(CabinetId("dijon-0001"), PolicyKind.LIGHTING, 7, 0, NOON_MS, KeyId("k"))
    state.store_policy(policy, SignedPolicy(msgspec.json.encode(policy), KeyId("k"), b"s" * 64), NOON_MS)
    for number in range(COMMANDS):
        command = Command(
            CommandId(f"c-{number:04}"), DeviceId("lamp-1"), PointName("dimming_level"), 40.0, "test", NOON_MS
        )
        record = state.add_command(command, CommandState.QUEUED, "", NOON_MS + number)
        if number == COMMANDS - 1:
            state.begin_override(record, Override(40.0, NOON_MS, 0.0, "test"), NOON_MS)
    state.store_alarms([Alarm(DeviceId("lamp-1"), AlarmType.LAMP_FAILURE, NOON_MS, None, "dark")])
    state.store_trusted_ms(NOON_MS)
    state.close()


def overwrite(path: Path, pages: list[int]) -> None:
    content = bytearray(path.read_bytes())
    for page in pages:
        content[(page - 1) * PAGE : page * PAGE] = random.Random(page).randbytes(PAGE)
    path.write_bytes(content)


def leaves(path: Path, table: str) -> list[int]:
    """Return the pages on which a table's rows are: with the root, those that have its rows' kind of page."""
    db = sqlite3.connect(path)
    (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    db.close()
    content = path.read_bytes()
    below = [n + 1 for n in range(len(content) // PAGE) if content[n * PAGE] == 0x0D and n]
    return below if content[(root - 1) * PAGE] == 0x05 else [root]


def test_rows_on_sound_pages_are_there_again(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    fill(path)
    original = path.read_bytes()
    middle = [
        page for page in leaves(path, "command") if b"c-0200" in original[(page - 1) * PAGE : page * PAGE]
    ]
    overwrite(path, middle[:1])
    damaged = path.read_bytes()
    with capture_logs() as logs:
        state = State.open(path)
    assert [one["event"] for one in logs] == ["state_damaged", "state_salvaged"]
    commands = {record.command.id for record in state.open_commands()}
    lost = {f"c-{n:04}" for n in range(COMMANDS)} - commands
    assert 0 < len(lost) < 40
    assert all(name.encode() in original[(middle[0] - 1) * PAGE : middle[0] * PAGE] for name in lost)
    assert state.highest() == {PolicyKind.LIGHTING: 7}
    assert state.overrides() == {DeviceId("lamp-1"): Override(40.0, NOON_MS, 0.0, "test")}
    assert len(state.alarms()) == 1
    assert state.trusted_ms() == NOON_MS
    assert Replacement(path).aside.read_bytes() == damaged
    state.close()


def test_a_file_whose_head_is_gone_is_begun_anew_and_the_street_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    fill(path)
    overwrite(path, [1])
    state = State.open(path)
    assert state.policies() == {}
    assert state.trusted_ms() == 0
    state.store_trusted_ms(NOON_MS)
    state.close()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_pages_are_damaged_what_is_there_was_there_before(tmp_path: Path, seed: int) -> None:
    path, chance = tmp_path / "state.db", random.Random(seed)
    fill(path)
    state = State.open(path)
    before = {one.command.id: one for one in state.open_commands()}
    policies = state.policies()
    state.close()
    overwrite(path, [chance.randrange(1, path.stat().st_size // PAGE + 1) for _ in range(3)])
    state = State.open(path)
    for record in state.open_commands():
        assert before[record.command.id] == record
    assert state.policies() in ({}, policies)
    assert state.trusted_ms() in {0, NOON_MS}
    state.close()


@pytest.mark.parametrize("done", range(6))
def test_killed_at_any_step_the_next_start_finishes_or_begins_again(tmp_path: Path, done: int) -> None:
    path = tmp_path / "state.db"
    fill(path)
    overwrite(path, leaves(path, "command")[3:4])
    damaged = path.read_bytes()
    State.open(path).close()
    whole = path.read_bytes()
    Replacement(path).aside.rename(path)
    assert path.read_bytes() == damaged
    replacement = Replacement(path)
    replacement.begin().write_bytes(whole)
    for step in replacement.steps(keep=True)[:done]:
        step()
    state = State.open(path)
    assert len(state.open_commands()) > COMMANDS - 40
    state.close()
    assert {one.name for one in tmp_path.iterdir()} == {"state.db", "state.db.damaged"}


def test_the_time_that_was_known_to_be_good_is_not_forgotten_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    fill(path)
    db = sqlite3.connect(path)
    (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'meta'").fetchone()
    db.close()
    overwrite(path, [root])
    state = State.open(path)
    assert state.trusted_ms() == NOON_MS
    state.close()
