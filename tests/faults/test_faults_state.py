"""What the agent must not forget is stored wholly or not at all, whatever call on the disk fails."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edge.known_time import ClockRecord
from edge.state import CommandRecord, State
from protocols.backhaul.messages import PriorityEvent, SignedPolicy, Source
from protocols.clock import Instant
from protocols.model.alarm import Alarm, AlarmType
from protocols.model.command import Command, CommandState
from protocols.model.ids import CabinetId, CommandId, DeviceId, KeyId, PointName
from protocols.model.lighting import Override
from protocols.model.policy import Policy, PolicyKind
from protocols.model.priority import RequestState
from tests.faults.disk import Disk, Kind, is_loaded
from tests.faults.sweep import FAULTS, Attempt, End, Fault, at_each_call

pytestmark = pytest.mark.on_a_faulty_disk
NOW = Instant(5_000_000, 1_795_521_600_000)
LAMP = DeviceId("lamp-01")
OVERRIDE = Override(level=30, until_ms=None, ramp_s=0, issuer="operator:anna")
REQUEST = PriorityEvent(
    "lu-1-1", DeviceId("crossing"), "buses", "north", "1", "v-1", Source.POSITION, 7, None, "", NOW.utc_ms
)
ACTIVE = msgspec.structs.replace(REQUEST, state=RequestState.ACTIVATED)


def command(name: str) -> Command:
    return Command(
        CommandId(name), LAMP, PointName("dimming_level"), 30, "operator:anna", NOW.utc_ms + 60_000
    )


def policy(version: int) -> tuple[Policy, SignedPolicy]:
    """Return a policy of many pages."""
    one = Policy(CabinetId("cab-1"), PolicyKind.LIGHTING, version, 0, NOW.utc_ms, KeyId("author"))
    return one, SignedPolicy(msgspec.json.encode(one) + b" " * 20_000, KeyId("author"), bytes(64))


def store_policy(state: State) -> None:
    state.store_policy(*policy(2), NOW.utc_ms)


def add_command(state: State) -> None:
    state.add_command(command("c-2"), CommandState.QUEUED, "", NOW.utc_ms)


def advance_command(state: State) -> None:
    state.advance_command(known(state), CommandState.EXECUTING, "", None, NOW.utc_ms)


def begin_override(state: State) -> None:
    state.begin_override(known(state), OVERRIDE, NOW.utc_ms)


def end_override(state: State) -> None:
    state.end_override(DeviceId("lamp-02"), OVERRIDE)


def store_alarms(state: State) -> None:
    state.store_alarms(
        [
            Alarm(LAMP, AlarmType.LAMP_FAILURE, NOW.utc_ms),
            Alarm(LAMP, AlarmType.CONTROL_GEAR_FAILURE, NOW.utc_ms, NOW.utc_ms),
        ]
    )


def open_priority(state: State) -> None:
    state.open_priority(msgspec.structs.replace(REQUEST, request="lu-1-2"), "boot-1")


def note_priority(state: State) -> None:
    state.note_priority(ACTIVE, NOW, granted=True)


def take_up_grants(state: State) -> None:
    state.take_up_grants("boot-2", NOW)


def store_clock(state: State) -> None:
    state.store_clock(ClockRecord("boot-2", NOW.monotonic_ms, NOW.utc_ms, NOW.quality, True, NOW.utc_ms))


def known(state: State) -> CommandRecord:
    record = state.command(CommandId("c-1"))
    assert record is not None
    return record


OPERATIONS: tuple[Callable[[State], None], ...] = (
    store_policy,
    add_command,
    advance_command,
    begin_override,
    end_override,
    store_alarms,
    open_priority,
    note_priority,
    take_up_grants,
    store_clock,
)
Rows = list[tuple[object, ...]]


def rows(state: State) -> list[Rows]:
    """Return all that is stored."""
    assert not state._db.in_transaction
    tables = ("policy", "command", "override", "alarm", "meta", "priority_request")
    return [state._db.execute(f"SELECT * FROM {table}").fetchall() for table in tables]  # noqa: S608  names of ours


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state with something of everything, as an agent leaves it that was killed."""
    folder, working = tmp_path_factory.mktemp("prepared"), tmp_path_factory.mktemp("working")
    if not is_loaded():
        return folder  # the tests run elsewhere
    state = State.open(working / "state.db")
    state.store_policy(*policy(1), NOW.utc_ms)
    state.add_command(command("c-1"), CommandState.QUEUED, "", NOW.utc_ms)
    second = state.add_command(
        msgspec.structs.replace(command("c-0"), device=DeviceId("lamp-02")), CommandState.QUEUED, "", 0
    )
    state.begin_override(second, OVERRIDE, NOW.utc_ms)
    state.store_alarms([Alarm(LAMP, AlarmType.CONTROL_GEAR_FAILURE, 1)])
    state.open_priority(REQUEST, "boot-1")
    state.note_priority(REQUEST, NOW, granted=True)
    for suffix in ("", "-wal"):
        shutil.copy(working / f"state.db{suffix}", folder)
    state.close()
    return folder


def story_of(
    operation: Callable[[State], None], before: list[Rows], after: list[Rows]
) -> Callable[[Attempt], None]:
    def story(attempt: Attempt) -> None:
        state = State.open(attempt.folder / "state.db")
        kept = after
        try:
            with attempt.failing():
                operation(state)
        except sqlite3.Error:
            kept = before
        assert rows(state) == kept
        done = kept is after
        if attempt.end is not End.CUT_AT_ONCE and not done:
            operation(state)
            done = True
        if attempt.end is not End.CLOSED:
            attempt.disk.power_cut(attempt.seed)
        state.close()
        if attempt.end is not End.CLOSED:
            attempt.disk.power_on()
        again = State.open(attempt.folder / "state.db")
        assert again._db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        assert rows(again) in ([after] if done else [before, after])
        again.close()

    return story


IN_USE = tuple(fault for fault in FAULTS if fault.kind not in {Kind.OPEN, Kind.REMOVE})


@pytest.mark.parametrize("fault", IN_USE, ids=str)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.__name__)
def test_what_is_stored_is_there_and_what_is_not_can_be_stored_again(
    prepared: Path, tmp_path: Path, operation: Callable[[State], None], fault: Fault
) -> None:
    shutil.copytree(prepared, tmp_path / "untouched")
    state = State.open(tmp_path / "untouched" / "state.db")
    before = rows(state)
    operation(state)
    after = rows(state)
    state.close()
    assert before != after
    turns = at_each_call(prepared, tmp_path, fault, story_of(operation, before, after))
    if fault.kind & (Kind.WRITE | Kind.SYNC):
        assert turns > 0


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_state_that_could_not_be_opened_can_be_once_the_disk_lets_it(
    prepared: Path, tmp_path: Path, fault: Fault
) -> None:
    shutil.copytree(prepared, tmp_path / "untouched")
    state = State.open(tmp_path / "untouched" / "state.db")
    all_of_it = rows(state)
    state.close()

    def story(attempt: Attempt) -> None:
        try:
            with attempt.failing():
                opened = State.open(attempt.folder / "state.db")
        except (sqlite3.Error, OSError):
            pass
        else:
            store_clock(opened)  # what is open can be written
            opened.close()
        if attempt.end is not End.CLOSED:
            attempt.disk.power_cut(attempt.seed)
            attempt.disk.power_on()
        again = State.open(attempt.folder / "state.db")
        assert all(one in rows(again)[at] for at, table in enumerate(all_of_it) for one in table)
        again.close()

    assert at_each_call(prepared, tmp_path, fault, story) > 0 or fault.kind is Kind.REMOVE


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_new_state_can_be_made_once_the_disk_lets_it(tmp_path: Path, fault: Fault) -> None:
    def story(attempt: Attempt) -> None:
        try:
            with attempt.failing():
                State.open(attempt.folder / "state.db").close()
        except (sqlite3.Error, OSError):
            pass
        if attempt.end is End.CUT_AT_ONCE:
            attempt.disk.power_cut(attempt.seed)
            attempt.disk.power_on()
        state = State.open(attempt.folder / "state.db")
        add_command(state)
        kept = rows(state)
        if attempt.end is End.CUT_LATER:
            attempt.disk.power_cut(attempt.seed)
        state.close()
        if attempt.end is End.CUT_LATER:
            attempt.disk.power_on()
        again = State.open(attempt.folder / "state.db")
        assert rows(again) == kept
        again.close()

    (tmp_path / "empty").mkdir()
    assert at_each_call(tmp_path / "empty", tmp_path, fault, story) > 0


def test_with_synchronous_normal_the_same_loses_commands(prepared: Path, tmp_path: Path) -> None:
    """The control: a disk that kept everything would pass all of the above."""
    shutil.copytree(prepared, tmp_path / "copy")
    with Disk(tmp_path / "copy") as disk:
        state = State.open(tmp_path / "copy" / "state.db")
        state._db.execute("PRAGMA synchronous=NORMAL")
        add_command(state)
        disk.power_cut()
        state.close()
        disk.power_on()
        again = State.open(tmp_path / "copy" / "state.db")
        assert again.command(CommandId("c-2")) is None
        again.close()
