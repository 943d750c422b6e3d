"""What every driver promises, on simulated hardware at the wire.

A new driver joins by a `Bench` of its own: a line with two devices, and ways to make each of them fail.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import structlog

from drivers.base import LineState, Priority
from drivers.registry import check, open_line
from protocols.errors import LocalProtocolError
from protocols.model.command import CommandState
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Reason
from tests.contracts.hardware import (
    ASKED,
    EXCUSES,
    LINE,
    NEIGHBOUR,
    Bench,
    DaliBench,
    Line,
    LoopClock,
    RtuBench,
    TcpBench,
    reason,
)


@pytest.fixture(params=[DaliBench, TcpBench, RtuBench], ids=["dali-luba", "modbus-tcp", "modbus-rtu"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    made: Bench = request.param(tmp_path)
    await made.start()
    yield made
    await made.stop()


@contextlib.asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Line]:
    devices, maps = bench.devices(), bench.maps()
    assert check([bench.settings], devices, maps) == []
    driver = open_line(bench.settings, devices, maps, LoopClock())
    task = asyncio.create_task(driver.run())
    try:
        yield Line(bench, driver, task)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def line(bench: Bench) -> AsyncIterator[Line]:
    async with running(bench) as made:
        yield made


async def test_every_point_of_every_device_can_be_read(line: Line) -> None:
    for device in (ASKED, NEIGHBOUR):
        names = [polled.point.name for polled in line.driver.points(device)]
        before_ms = LoopClock().now().monotonic_ms
        got = await line.driver.read(device, names)
        assert got.points == tuple(names)
        assert got.faults == {}
        assert None not in got.values
        assert before_ms <= got.monotonic_ms <= LoopClock().now().monotonic_ms
        await line.expect_truth(device)
    assert line.driver.health().state is LineState.UP


async def test_what_is_written_is_done_and_read_back(line: Line) -> None:
    point, value = line.bench.order
    assert line.bench.ordered() != pytest.approx(value, rel=0.02)
    written = await line.driver.write(ASKED, point, value)
    assert written.state is CommandState.VERIFIED
    assert written.value == pytest.approx(value, rel=0.02)
    assert written.reason == ""
    assert line.bench.ordered() == pytest.approx(value, rel=0.02)


async def test_what_cannot_be_asked_is_refused_before_anything_is_sent(line: Line) -> None:
    await line.expect_truth(ASKED)
    before = line.bench.heard()
    writable, value = line.bench.order
    with pytest.raises(LocalProtocolError):
        await line.driver.read(ASKED, (PointName("no_such_point"),))
    with pytest.raises(LocalProtocolError):
        await line.driver.read(ASKED, ())
    with pytest.raises(LocalProtocolError):
        await line.driver.read(DeviceId("nobody"), (writable,))
    with pytest.raises(LocalProtocolError):
        line.driver.points(DeviceId("nobody"))
    for device, point, wrong in (
        (DeviceId("nobody"), writable, value),
        (ASKED, PointName("no_such_point"), value),
        (ASKED, line.bench.forbidden, value),
        (ASKED, writable, line.bench.nonsense),
        (ASKED, writable, None),
        (ASKED, writable, "high"),
    ):
        with pytest.raises(LocalProtocolError):
            await line.driver.write(device, point, wrong)
    with pytest.raises(LocalProtocolError):
        await line.driver.write(ASKED, writable, value, ramp_s=91.0)
    assert line.bench.heard() == before


async def test_a_silent_device_is_bad_quality_and_its_neighbour_answers(line: Line) -> None:
    await line.bench.fault(ASKED, "silent")
    await line.expect(ASKED, Reason.NO_ANSWER)
    await line.expect_truth(NEIGHBOUR)
    await line.bench.heal(ASKED)
    await line.expect_truth(ASKED)


async def test_a_device_that_stays_silent_is_asked_less_often_and_comes_back(line: Line) -> None:
    with structlog.testing.capture_logs() as logs:
        await line.bench.fault(ASKED, "silent")
        for _ in range(2):
            await line.expect(ASKED, Reason.NO_ANSWER)
        assert line.driver.health().silent == (ASKED,)
        before = line.driver.health().transactions
        await line.expect(ASKED, Reason.BACKED_OFF)
        assert line.driver.health().transactions == before
        await line.expect_truth(NEIGHBOUR)
        await line.until_probed(ASKED)
        await line.bench.heal(ASKED)
        await line.until_good(ASKED)
    assert line.driver.health().silent == ()
    told = [entry["event"] for entry in logs if entry.get("device") == ASKED]
    assert told == ["device stopped answering", "device answers again"]


async def test_a_command_is_tried_even_if_the_device_is_backed_off(line: Line) -> None:
    await line.bench.fault(ASKED, "silent")
    for _ in range(2):
        await line.expect(ASKED, Reason.NO_ANSWER)
    await line.expect(ASKED, Reason.BACKED_OFF)
    value = line.bench.order[1]
    assert await line.write(value) is CommandState.OUTCOME_UNKNOWN
    await line.bench.heal(ASKED)
    assert await line.write(value) is CommandState.VERIFIED
    assert line.bench.ordered() == pytest.approx(value, rel=0.02)
    await line.expect_truth(ASKED)


async def test_garbage_is_never_a_value(line: Line) -> None:
    await line.bench.fault(ASKED, "garbled")
    reasons = []
    for _ in range(3):
        got = await line.read(ASKED, Priority.COMMAND)
        reasons.append(reason(got))
        assert got.values == (None,)
    assert set(reasons) <= EXCUSES
    await line.expect_truth(NEIGHBOUR)
    await line.bench.heal(ASKED)
    await line.until_good(ASKED)
    await line.expect_truth(ASKED)


async def test_an_unplugged_line_says_so_and_comes_back_by_itself(line: Line) -> None:
    await line.expect_truth(ASKED)
    with structlog.testing.capture_logs() as logs:
        await line.bench.unplug()
        await line.until(lambda: line.driver.health().state is LineState.DOWN)
        await line.expect(ASKED, Reason.LINE_DOWN)
        await line.expect(NEIGHBOUR, Reason.LINE_DOWN)
        assert await line.write(line.bench.order[1]) is CommandState.FAILED
        assert line.driver.health().reason
        await line.bench.plug_in()
        await line.until_good(ASKED)
    await line.expect_truth(NEIGHBOUR)
    health = line.driver.health()
    assert (health.state, health.reason, health.reconnections) == (LineState.UP, "", 1)
    told = [entry["event"] for entry in logs if entry.get("line") == LINE]
    assert told == ["line went down", "line is back"]


async def test_a_line_that_is_not_there_at_the_start_is_down_with_a_reason(bench: Bench) -> None:
    await bench.unplug()
    async with running(bench) as line:
        await line.expect(ASKED, Reason.LINE_DOWN)
        assert line.driver.health().state is LineState.DOWN
        assert line.driver.health().reason
        await bench.plug_in()
        await line.until_good(ASKED)


async def test_a_late_answer_is_never_taken_for_the_next_one(line: Line) -> None:
    await line.bench.fault(ASKED, "late", 0.32)
    await line.expect(ASKED, Reason.NO_ANSWER)
    line.bench.change(ASKED)
    await line.bench.heal(ASKED)
    await line.expect_truth(ASKED)
    await line.expect_truth(NEIGHBOUR)


async def test_a_command_passes_ahead_of_queued_polling(line: Line) -> None:
    finished: list[str] = []
    await line.bench.slow_down()

    async def poll() -> None:
        await line.read(NEIGHBOUR)
        finished.append("poll")

    async def presence() -> None:
        await line.read(NEIGHBOUR, Priority.PRESENCE)
        finished.append("presence")

    async def command() -> None:
        await line.write(line.bench.order[1])
        finished.append("command")

    await line.expect_truth(NEIGHBOUR)
    polls = [asyncio.create_task(poll()) for _ in range(6)]
    await line.until(lambda: line.driver.health().queued in range(1, 6))
    await asyncio.gather(*polls, asyncio.create_task(presence()), asyncio.create_task(command()))
    assert finished.index("command") <= 1
    assert finished.index("presence") == finished.index("command") + 1


async def test_a_caller_that_leaves_does_not_disturb_the_line(line: Line) -> None:
    await line.bench.slow_down()
    await line.expect_truth(ASKED)
    for _ in range(3):
        before = line.driver.health().transactions
        task = asyncio.create_task(line.read(ASKED))
        await line.until(partial(line.busy_since, before))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        line.bench.change(NEIGHBOUR)
        await line.expect_truth(NEIGHBOUR)
    assert line.driver.health().failures == 0


async def test_the_queue_is_bounded_and_keeps_room_for_commands(line: Line) -> None:
    await line.bench.slow_down()
    await line.expect_truth(NEIGHBOUR)
    polls = [asyncio.create_task(line.read(NEIGHBOUR)) for _ in range(300)]
    await line.until(lambda: line.driver.health().turned_away >= 30)
    assert line.driver.health().queued <= 256
    assert await line.write(line.bench.order[1]) is CommandState.VERIFIED
    turned_away = [task.result() for task in polls if task.done() and task.result().faults]
    assert {reason(sample) for sample in turned_away} == {Reason.BACKED_OFF}
    for task in polls:
        task.cancel()
    await asyncio.gather(*polls, return_exceptions=True)
    await line.expect_truth(ASKED)
    assert line.driver.health().queued == 0


async def test_when_its_task_ends_the_line_lets_everybody_and_everything_go(bench: Bench) -> None:
    await bench.slow_down()
    async with running(bench) as line:
        await line.expect_truth(ASKED)
        waiting = [asyncio.create_task(line.read(NEIGHBOUR)) for _ in range(3)]
        await line.until(lambda: line.driver.health().queued > 0)
        line.task.cancel()
        assert {reason(sample) for sample in await asyncio.gather(*waiting)} == {Reason.LINE_DOWN}
        await line.expect(ASKED, Reason.LINE_DOWN)
    async with running(bench) as again:
        await again.expect_truth(ASKED)
