"""Commands and the disk: what was taken is carried out once, whatever the disk does meanwhile."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

import edge.commands as commands_module
import edge.state as state_module
from edge.background import Background
from edge.state import State
from protocols.model.command import Command, CommandState
from protocols.model.ids import CommandId, DeviceId, PointName
from sim.street import Street
from tests.edge.bench import until
from tests.edge.small_disk import SmallDisk, small_disk
from tests.edge.street import ARC, scenario
from tests.edge.test_edge_street import CONTACTOR, IO, Cabinet, cabinet_at, command

S = CommandState


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 2) as small:
        yield small


@pytest.fixture
async def street(disk: SmallDisk) -> AsyncIterator[Street]:
    async with Street(scenario(), disk.folder) as one:
        yield one


@pytest.fixture
async def cabinet(disk: SmallDisk, street: Street, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cabinet]:
    """A cabinet that remembers on a small disk."""
    monkeypatch.setattr(commands_module, "RETRY_S", 0.05)
    async with cabinet_at(disk.folder, street) as one:
        yield one


async def test_what_the_disk_refuses_is_not_taken_and_taken_when_it_comes_again(
    disk: SmallDisk, cabinet: Cabinet
) -> None:
    disk.fill()
    wanted = [command(f"c-{n}", cabinet, issuer="x" * 100) for n in range(40)]
    with structlog.testing.capture_logs() as logs:
        for one in wanted:
            cabinet.commands.hear(one)
        await until(lambda: bool(logs), "a refusal")
    refused = [one for one in wanted if cabinet.state.command(one.id) is None]
    assert refused
    assert [one["event"] for one in logs if one["log_level"] == "error"] == ["command_not_written_down"]
    disk.free()
    cabinet.commands.hear(refused[-1])
    await until(lambda: S.VERIFIED in cabinet.states(refused[-1].id))


async def test_an_outcome_that_the_disk_refuses_is_told_once_it_is_written_down(
    disk: SmallDisk, cabinet: Cabinet
) -> None:
    await cabinet.street.fault("cabinet", "silent")
    off = command("c-1", cabinet, device=IO, point=CONTACTOR, value=False, until_ms=None)
    task = asyncio.create_task(cabinet.commands.outcome(off))
    await until(lambda: S.EXECUTING in cabinet.states("c-1"))
    disk.fill()
    with structlog.testing.capture_logs() as logs:
        await until(lambda: "command_not_written_down" in [one["event"] for one in logs])
    assert cabinet.states("c-1") == [S.QUEUED, S.EXECUTING]
    disk.free()
    done = await task
    assert done.state in {S.FAILED, S.OUTCOME_UNKNOWN}
    assert cabinet.states("c-1") == [S.QUEUED, S.EXECUTING, done.state]
    assert cabinet.state.command(off.id) == done


async def test_what_cannot_be_written_down_is_not_begun_and_expires(
    disk: SmallDisk, cabinet: Cabinet
) -> None:
    now_ms = cabinet.clock.now().utc_ms
    later = command("c-1", cabinet, not_before_ms=now_ms + 300, expires_ms=now_ms + 900)
    task = asyncio.create_task(cabinet.commands.outcome(later))
    await until(lambda: S.QUEUED in cabinet.states("c-1"))
    disk.fill()
    await until(lambda: cabinet.clock.now().utc_ms > now_ms + 1000)
    disk.free()
    assert (await task).state is S.EXPIRED
    assert cabinet.changes() == 0
    assert cabinet.lighting.lamps[DeviceId("lamp-00")].writes == 0


async def test_what_begins_late_because_of_the_disk_is_carried_out_once(
    disk: SmallDisk, cabinet: Cabinet
) -> None:
    now_ms = cabinet.clock.now().utc_ms
    task = asyncio.create_task(cabinet.commands.outcome(command("c-1", cabinet, not_before_ms=now_ms + 300)))
    await until(lambda: S.QUEUED in cabinet.states("c-1"))
    disk.fill()
    await until(lambda: cabinet.clock.now().utc_ms > now_ms + 600)
    disk.free()
    assert (await task).state is S.VERIFIED
    assert (cabinet.states("c-1"), cabinet.arc()) == ([S.QUEUED, S.EXECUTING, S.VERIFIED], ARC[20])
    assert cabinet.lighting.lamps[DeviceId("lamp-00")].writes == 1


class TestMemory:
    """Which commands are remembered."""

    @pytest.fixture
    def state(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
        monkeypatch.setattr(state_module, "COMMANDS_KEPT", 10)
        one = State.open(tmp_path / "state.db")
        yield one
        one.close()

    def wanted(self, number: int, expires_ms: int) -> Command:
        return Command(
            CommandId(f"c-{number}"), DeviceId("lamp-00"), PointName("dimming_level"), 1, "t", expires_ms
        )

    def test_the_last_ones_are_remembered_and_all_that_have_not_expired(self, state: State) -> None:
        for number in range(15):
            state.add_command(self.wanted(number, 10**6 if number % 5 == 0 else 100), S.REJECTED, "", number)
        state.add_command(self.wanted(15, 100), S.REJECTED, "", 200)
        kept = {n for n in range(16) if state.command(CommandId(f"c-{n}"))}
        assert kept == {0, 5, *range(6, 16)}

    def test_more_than_can_be_remembered_are_not_taken(self, state: State) -> None:
        for number in range(20):
            assert not state.is_full()
            state.add_command(self.wanted(number, 10**6), S.REJECTED, "", number)
        assert state.is_full()
        state.add_command(self.wanted(20, 10**6), S.REJECTED, "", 2 * 10**6)
        assert not state.is_full()

    async def test_a_cabinet_that_cannot_remember_more_refuses_and_takes_it_later(
        self, disk: SmallDisk, street: Street, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(state_module, "COMMANDS_KEPT", 2)
        async with cabinet_at(disk.folder, street) as one:
            for number in range(4):
                assert (await one.commands.outcome(command(f"c-{number}", one))).state is S.VERIFIED
            record = await one.commands.receive(command("c-4", one))
            assert record.reason == "too much to do"
            assert one.states("c-4") == []
            again = await one.commands.receive(command("c-0", one))
            assert again.state is S.VERIFIED


async def test_no_more_of_a_name_are_begun_than_may_be_under_way() -> None:
    background, go = Background(), asyncio.Event()

    async def wait() -> None:
        await go.wait()

    with structlog.testing.capture_logs() as logs:
        assert [background.begin(wait, "a", 3) is not None for _ in range(9)] == [True] * 3 + [False] * 6
    assert [(one["event"], one["task"]) for one in logs] == [("passed_over", "a")]
    assert background.begin(wait, "b", 1) is not None
    go.set()
    await until(lambda: background.begin(wait, "a", 1) is not None)
    await background.close()


def test_the_expiry_is_where_the_memory_looks_for_it() -> None:
    one = TestMemory().wanted(1, 7)
    assert json.loads(msgspec.json.encode(one))["expires_ms"] == 7
