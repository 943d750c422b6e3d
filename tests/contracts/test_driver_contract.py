"""What every driver promises, on simulated hardware at the wire.

A new driver joins by a `Bench` of its own: a line with two devices, and ways to make each of them fail. What all
drivers promise is tried on every bench; what only those promise that ask their devices, that take orders, or that
hear what devices say by themselves, on the benches that can.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import structlog

from drivers.base import Found, LineState, Looked, Priority
from drivers.checks import check
from protocols.errors import LocalProtocolError
from protocols.model.command import CommandState
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Reason, Sample
from tests.contracts.ble_hardware import BleBench
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
from tests.contracts.lorawan_hardware import LorawanBench
from tests.contracts.opcua_hardware import OpcUaBench
from tests.contracts.rsmp_hardware import RsmpBench

ASKING: tuple[type[Bench], ...] = (DaliBench, TcpBench, RtuBench, OpcUaBench, RsmpBench)
"""Benches whose devices are asked, one at a time, over a line that can be unplugged and queued for."""
HEARING: tuple[type[Bench], ...] = (OpcUaBench, LorawanBench, BleBench, RsmpBench)
"""Benches whose devices say some of their points by themselves."""
EVERY = tuple(dict.fromkeys((*ASKING, *HEARING)))
ORDERED = tuple(made for made in EVERY if made.ordering)


async def started(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Bench]:
    made: Bench = request.param(folder)
    await made.start()
    yield made
    await made.stop()


def name_of(made: type[Bench]) -> str:
    return made.name


@pytest.fixture(params=EVERY, ids=name_of)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async for made in started(request, tmp_path):
        yield made


@contextlib.asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Line]:
    assert check([bench.settings], bench.devices(), bench.maps()) == []
    driver = bench.open()
    said: list[Sample] = []
    driver.on_sample = said.append
    await bench.let_in(driver)
    task = asyncio.create_task(driver.run())
    try:
        yield Line(bench, driver, task, said)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def line(bench: Bench) -> AsyncIterator[Line]:
    async with running(bench) as made:
        yield made


asking = pytest.mark.parametrize("bench", ASKING, indirect=True, ids=name_of)
ordering = pytest.mark.parametrize("bench", ORDERED, indirect=True, ids=name_of)
asking_and_ordering = pytest.mark.parametrize(
    "bench", [made for made in ASKING if made.ordering], indirect=True, ids=name_of
)
hearing = pytest.mark.parametrize("bench", HEARING, indirect=True, ids=name_of)


async def test_every_point_of_every_device_can_be_read(line: Line) -> None:
    await line.until_all_said()
    for device in (ASKED, NEIGHBOUR):
        names = [polled.point.name for polled in line.driver.points(device)]
        before_ms = LoopClock().now().monotonic_ms
        got = await line.driver.read(device, names)
        assert got.points == tuple(names)
        assert got.faults == {}
        assert None not in got.values
        assert (before_ms if line.bench.asked else 0) <= got.monotonic_ms <= LoopClock().now().monotonic_ms
        await line.expect_truth(device)
    assert line.driver.health().state is LineState.UP


@ordering
async def test_what_is_written_is_done_and_read_back(line: Line) -> None:
    point, value = line.bench.order
    assert line.bench.ordered() != pytest.approx(value, rel=0.02)
    written = await line.driver.write(ASKED, point, value)
    assert written.state is CommandState.VERIFIED
    assert written.value == pytest.approx(value, rel=0.02)
    assert written.reason == ""
    assert line.bench.ordered() == pytest.approx(value, rel=0.02)


async def test_what_cannot_be_asked_is_refused_before_anything_is_sent(line: Line) -> None:
    await line.until_all_said()
    await line.expect_truth(ASKED)
    before = line.bench.heard()
    point = line.bench.point(ASKED)
    with pytest.raises(LocalProtocolError):
        await line.driver.read(ASKED, (PointName("no_such_point"),))
    with pytest.raises(LocalProtocolError):
        await line.driver.read(ASKED, ())
    with pytest.raises(LocalProtocolError):
        await line.driver.read(DeviceId("nobody"), (point,))
    with pytest.raises(LocalProtocolError):
        line.driver.points(DeviceId("nobody"))
    for device, wrong in ((DeviceId("nobody"), point), (ASKED, PointName("no_such_point"))):
        with pytest.raises(LocalProtocolError):
            await line.driver.write(device, wrong, 1)
    with pytest.raises(LocalProtocolError):
        await line.driver.write(ASKED, line.bench.forbidden, 1)
    assert line.bench.heard() == before


@ordering
async def test_what_a_device_cannot_be_is_refused_before_anything_is_sent(line: Line) -> None:
    await line.until_all_said()
    await line.expect_truth(ASKED)
    before = line.bench.heard()
    writable, value = line.bench.order
    for wrong in (line.bench.nonsense, None, "high"):
        with pytest.raises(LocalProtocolError):
            await line.driver.write(ASKED, writable, wrong)
    with pytest.raises(LocalProtocolError):
        await line.driver.write(ASKED, writable, value, ramp_s=91.0)
    assert line.bench.heard() == before


async def test_a_search_finds_what_is_there_declared_or_not_and_disturbs_nobody(line: Line) -> None:
    await line.until_all_said()
    await line.expect_truth(ASKED)
    found: dict[str, Found] = {}
    steps: list[Looked] = []
    async with asyncio.timeout(60):
        async for sight in line.driver.discover(among=range(4)):
            if isinstance(sight, Found):
                found[sight.address] = sight
            else:
                steps.append(sight)
    declared = {str(device.address): device.id for device in line.bench.devices()}
    assert {address: found[address].device for address in declared} == declared
    assert all(found[address].text for address in declared)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].done == steps[-1].total
    assert line.driver.health().silent == ()
    await line.expect_truth(NEIGHBOUR)


@asking
async def test_a_silent_device_is_bad_quality_and_its_neighbour_answers(line: Line) -> None:
    await line.bench.fault(ASKED, "silent")
    await line.expect(ASKED, Reason.NO_ANSWER)
    await line.expect_truth(NEIGHBOUR)
    await line.bench.heal(ASKED)
    await line.expect_truth(ASKED)


@asking
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


@asking_and_ordering
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


@asking
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
    await line.until_good(ASKED)
    with structlog.testing.capture_logs() as logs:
        await line.bench.unplug()
        await line.until(lambda: line.driver.health().state is LineState.DOWN)
        await line.expect(ASKED, Reason.LINE_DOWN)
        await line.expect(NEIGHBOUR, Reason.LINE_DOWN)
        if line.bench.ordering:
            assert await line.write(line.bench.order[1]) is CommandState.FAILED
        assert line.driver.health().reason
        await line.bench.plug_in()
        await line.until_good(ASKED)
    await line.until_good(NEIGHBOUR)
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


@asking
async def test_a_late_answer_is_never_taken_for_the_next_one(line: Line) -> None:
    await line.bench.fault(ASKED, "late", 0.32)
    await line.expect(ASKED, Reason.NO_ANSWER)
    line.bench.change(ASKED)
    await line.bench.heal(ASKED)
    await line.expect_truth(ASKED)
    await line.expect_truth(NEIGHBOUR)


@asking_and_ordering
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


@asking
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


@asking_and_ordering
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


@asking
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


@hearing
async def test_what_a_device_says_by_itself_is_heard_once(line: Line) -> None:
    await line.until_all_said()
    before = len(line.said_of(ASKED))
    line.bench.change(ASKED)
    await line.bench.speak(ASKED)
    await line.until(
        lambda: line.last_said(ASKED) == pytest.approx(line.bench.truth(ASKED), rel=1e-3, abs=0.06)
    )
    await line.expect_truth(ASKED)
    told = [value for value in line.said_of(ASKED)[before:] if value == line.last_said(ASKED)]
    assert len(told) == 1


@hearing
async def test_one_that_should_have_spoken_and_did_not_is_bad_quality_and_its_neighbour_is_not(
    line: Line,
) -> None:
    await line.until_all_said()
    await line.bench.fault(ASKED, "silent")
    await line.until(lambda: line.faults_said(ASKED)[-1:] == [Reason.NO_ANSWER])
    await line.bench.speak(NEIGHBOUR)
    await line.until_good(NEIGHBOUR)
    await line.expect_truth(NEIGHBOUR)
    await line.bench.heal(ASKED)
    await line.until_good(ASKED)
    await line.expect_truth(ASKED)
