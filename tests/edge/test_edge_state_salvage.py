"""A damaged `state.db` does not stop the street: what can be believed of it is there again."""

import random
import shutil
import sqlite3
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from drivers.damage import Replacement
from edge.known_time import ClockRecord
from edge.state import State
from protocols.backhaul.messages import SignedPolicy
from protocols.clock import ClockQuality
from protocols.model.alarm import Alarm, AlarmType
from protocols.model.command import Command, CommandState
from protocols.model.ids import CabinetId, CommandId, DeviceId, KeyId, PointName
from protocols.model.lighting import Override
from protocols.model.policy import Policy, PolicyKind
from tests.edge.bench import NOON_MS

PAGE = 4096
COMMANDS = 400
TIME = ClockRecord("boot-1", 1_000, NOON_MS, ClockQuality.SYNCHRONISED, True, NOON_MS)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state with a policy, many commands, an override, an alarm and a time."""
    path = tmp_path_factory.mktemp("original") / "state.db"
    state = State.open(path)
    policy = Policy(CabinetId("dijon-0001"), PolicyKind.LIGHTING, 7, NOON_MS - 9, NOON_MS, KeyId("k"))
    state.store_policy(policy, SignedPolicy(msgspec.json.encode(policy), KeyId("k"), b"s" * 64), NOON_MS)
    for number in range(COMMANDS):
        command = Command(
            CommandId(f"c-{number:04}"), DeviceId("lamp-1"), PointName("dimming_level"), 40.0, "test", NOON_MS
        )
        record = state.add_command(command, CommandState.QUEUED, "", NOON_MS + number)
        if number == COMMANDS - 1:
            state.begin_override(record, Override(40, NOON_MS, 0.0, "test"), NOON_MS)
    state.store_alarms([Alarm(DeviceId("lamp-1"), AlarmType.LAMP_FAILURE, NOON_MS, None, "dark")])
    state.store_clock(TIME)
    state.close()
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copy(original, tmp_path / "state.db"))


def overwrite(path: Path, pages: list[int]) -> None:
    content = bytearray(path.read_bytes())
    for page in pages:
        content[(page - 1) * PAGE : page * PAGE] = random.Random(page).randbytes(PAGE)
    path.write_bytes(content)


def leaf_of(path: Path, text: bytes) -> int:
    """Return the page of a table's rows that holds some text."""
    content = path.read_bytes()
    pages = [content[start : start + PAGE] for start in range(0, len(content), PAGE)]
    return next(n for n, page in enumerate(pages, 1) if page[0] == 0x0D and text in page)


def test_rows_on_sound_pages_are_there_again(path: Path) -> None:
    page = leaf_of(path, b"c-0200")
    before = path.read_bytes()[(page - 1) * PAGE : page * PAGE]
    overwrite(path, [page])
    damaged = path.read_bytes()
    with capture_logs() as logs:
        state = State.open(path)
    assert [one["event"] for one in logs] == ["state_damaged", "state_salvaged"]
    commands = {record.command.id for record in state.open_commands()}
    lost = {f"c-{n:04}" for n in range(COMMANDS)} - commands
    assert 0 < len(lost) < 40
    assert all(name.encode() in before for name in lost)
    assert state.highest() == {PolicyKind.LIGHTING: 7}
    assert state.overrides() == {DeviceId("lamp-1"): Override(40, NOON_MS, 0.0, "test")}
    assert len(state.alarms()) == 1
    assert state.clock() == TIME
    assert Replacement(path).aside.read_bytes() == damaged
    state.close()


def test_a_file_whose_head_is_gone_is_begun_anew_and_the_street_goes_on(path: Path) -> None:
    overwrite(path, [1])
    state = State.open(path)
    assert state.policies() == {}
    assert state.clock() is None
    state.store_clock(TIME)
    state.close()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_pages_are_damaged_what_is_there_was_there_before(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    state = State.open(path)
    before = {one.command.id: one for one in state.open_commands()}
    policies = state.policies()
    state.close()
    overwrite(path, [chance.randrange(1, path.stat().st_size // PAGE + 1) for _ in range(3)])
    state = State.open(path)
    for record in state.open_commands():
        assert before[record.command.id] == record
    assert state.policies() in ({}, policies)
    assert state.clock() in (None, TIME)
    state.close()


@pytest.mark.parametrize("done", range(6))
def test_killed_at_any_step_the_next_start_finishes_or_begins_again(path: Path, done: int) -> None:
    overwrite(path, [leaf_of(path, b"c-0200")])
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
    assert {one.name for one in path.parent.iterdir()} == {"state.db", "state.db.damaged"}


def test_when_it_cannot_be_is_not_forgotten_with_what_was_known_of_the_time(path: Path) -> None:
    db = sqlite3.connect(path)
    (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'meta'").fetchone()
    db.close()
    overwrite(path, [root])
    state = State.open(path)
    assert (state.clock(), state.floor_ms()) == (None, NOON_MS - 9)
    state.close()


def test_a_policy_whose_body_is_not_what_was_accepted_is_not_believed(path: Path) -> None:
    db = sqlite3.connect(path)
    (body,) = db.execute("SELECT body FROM policy").fetchone()
    db.execute("UPDATE policy SET body = ?", (body.replace(b"dijon-0001", b"dijon-0002"),))
    db.commit()
    db.close()
    overwrite(path, [leaf_of(path, b"c-0200")])
    state = State.open(path)
    assert state.policies() == {}
    state.close()
