"""What every line does alike, where the hardware does not matter: bugs, endings, nobody left to answer to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
import structlog

from drivers.base import Found, LineState, PolledPoint, Priority, Written, by_number
from drivers.errors import LineDownError
from drivers.line import LineDriver, Work
from drivers.settings import ModbusTcp
from protocols.clock import Instant
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.reading import Reason, Sample, Value, sample

Until = Callable[[Callable[[], bool]], Awaitable[None]]

DEVICE = DeviceId("device")
POINT = PointName("point")
BUG = PointName("bug")


class StoppedClock:
    def now(self) -> Instant:
        return Instant(0, 0)

    def civil(self) -> Instant:
        return self.now()


class WorkingLine(LineDriver):
    """A line whose hardware is a variable, and whose code has a bug in one place.

    Attributes:
        there: whether the line can be connected.
        gate: work waits for it.
    """

    def __init__(self) -> None:
        settings = ModbusTcp(id=LineId("line"), host="nowhere", reconnect_s=0.01, reconnect_bound_s=0.02)
        super().__init__(settings, StoppedClock())
        self.there = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.attempts = 0
        self.begun = asyncio.Event()
        self.swallows = False

    async def _connect(self) -> None:
        self.attempts += 1
        if not self.there:
            raise LineDownError("not there")

    def _disconnect(self) -> None:
        pass

    def _reader(self, device: DeviceId, points: tuple[PointName, ...], _priority: Priority) -> Work[Sample]:
        async def work() -> Sample:
            self.begun.set()
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                if not self.swallows:
                    raise
            return sample(device, 0, points, [1 / (points[0] != BUG)])

        return work

    def _places(self) -> Sequence[int]:
        return ()

    def _prober(self, _address: int) -> Work[Found | None]:
        raise NotImplementedError

    def points(self, _device: DeviceId) -> tuple[PolledPoint, ...]:
        return ()

    async def write(
        self,
        device: DeviceId,
        point: PointName,
        value: Value,
        *,
        ramp_s: float = 0.0,
        priority: Priority = Priority.COMMAND,
    ) -> Written:
        raise NotImplementedError


@pytest.fixture
async def line() -> AsyncIterator[WorkingLine]:
    made = WorkingLine()
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_bug_reaches_its_caller_and_the_log_and_the_line_lives_on(line: WorkingLine) -> None:
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(5):
            with pytest.raises(ZeroDivisionError):
                await line.read(DEVICE, (BUG,))
            assert (await line.read(DEVICE, (POINT,))).values == (1.0,)
    assert [(entry["log_level"], entry["device"]) for entry in logs] == [("error", DEVICE)]


def test_named_counts_are_those_that_are_not_0_the_greatest_first() -> None:
    named = by_number({"few": 1, "none": 0, Reason.REFUSED: 7, "some": 2})
    assert list(named.items()) == [("refused", 7), ("some", 2), ("few", 1)]
    assert [type(name) for name in named] == [str] * 3


async def test_a_line_ends_although_a_library_has_swallowed_its_cancellation() -> None:
    line = WorkingLine()
    line.gate.clear()
    line.swallows = True
    task = asyncio.create_task(line.run())
    asked = asyncio.create_task(line.read(DEVICE, (POINT,)))
    async with asyncio.timeout(5):
        await line.begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert (await asked).values == (1.0,)


async def test_what_is_asked_before_the_line_runs_waits_for_the_outcome(until: Until) -> None:
    line = WorkingLine()
    assert line.health().state is LineState.CONNECTING
    asked = asyncio.create_task(line.read(DEVICE, (POINT,)))
    await until(lambda: line.health().queued == 1)
    running = asyncio.create_task(line.run())
    assert (await asked).values == (1.0,)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_line_lost_while_nobody_asks_is_made_anew(line: WorkingLine) -> None:
    await line.read(DEVICE, (POINT,))
    line._line_lost("the plug")
    assert (await line.read(DEVICE, (POINT,))).values == (1.0,)
    assert (line.attempts, line.health().reconnections) == (2, 0)


async def test_a_line_that_cannot_be_made_is_tried_again_and_again(line: WorkingLine, until: Until) -> None:
    line.there = False
    line._line_lost("the plug")
    await until(lambda: line.health().state is LineState.DOWN)
    assert (await line.read(DEVICE, (POINT,))).faults[0].reason is Reason.LINE_DOWN
    assert line.health().reason == "not there"
    await until(lambda: line.attempts >= 4)
    line.there = True
    await until(lambda: line.health().state is LineState.UP)
    assert (await line.read(DEVICE, (POINT,))).values == (1.0,)


async def test_a_caller_that_left_before_its_turn_costs_nothing(line: WorkingLine, until: Until) -> None:
    line.gate.clear()
    first = asyncio.create_task(line.read(DEVICE, (POINT,)))
    second = asyncio.create_task(line.read(DEVICE, (POINT,)))
    await until(lambda: line.health().queued == 1)
    second.cancel()
    line.gate.set()
    await first
    assert (await line.read(DEVICE, (POINT,))).values == (1.0,)
    assert line.health().transactions == 2
