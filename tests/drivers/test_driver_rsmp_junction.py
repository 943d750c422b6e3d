"""The RSMP driver and a whole simulated junction: a bus asks, the controller decides, the lamps show it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path

import pytest

from drivers.base import LineState
from drivers.rsmp import RsmpDriver, open_rsmp
from drivers.settings import DeviceSettings, Rsmp
from protocols.clock import Instant
from protocols.model.command import CommandState
from protocols.model.device import Kind
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.priority import NEXT, PriorityRequest, RequestState, RequestStatus
from protocols.model.reading import Sample
from protocols.rsmp.signal_groups import group_state
from sim.junction import Junction
from sim.scenario import parse
from sim.street import Street

JUNCTION = DeviceId("junction")
MAIN = "LU+DJ0001=001TC000"
GROUP = "LU+DJ0001=001SG001"
PATIENCE_S = 20.0
SCENARIO = """
    [[junction]]
    name = "junction-1"
    port = {port}
    reconnect_s = 0.05
    [junction.design]
    start_flash_s = 0
    start_red_s = 1
"""


class LoopClock:
    def now(self) -> Instant:
        return Instant(round(asyncio.get_running_loop().time() * 1000), 1_760_000_000_000)

    def civil(self) -> Instant:
        return self.now()


class Corner:
    """A street with one junction, and the driver that supervises it."""

    def __init__(self, street: Street, driver: RsmpDriver) -> None:
        self.street = street
        self.driver = driver
        self.said: list[Sample] = []
        self.told: list[tuple[RequestStatus, ...]] = []
        driver.on_sample = self.said.append
        driver.on_requests = lambda _, requests: self.told.append(requests)

    @property
    def junction(self) -> Junction:
        return self.street.junctions["junction-1"].junction

    def states(self, request_id: str) -> list[RequestState]:
        return [one.state for requests in self.told for one in requests if one.id == request_id]

    async def until(self, condition: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                passed = loop.create_future()
                loop.call_later(0.005, passed.set_result, None)
                await passed


@pytest.fixture
async def corner(tmp_path: Path) -> AsyncIterator[Corner]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    settings = Rsmp(id=LineId("rsmp"), port=port, site=MAIN, security_code="2222", connect_timeout_s=5.0)
    device = DeviceSettings(id=JUNCTION, kind=Kind.JUNCTION, line=settings.id, address=MAIN)
    street = Street(parse(SCENARIO.format(port=port)), tmp_path)
    await street.start()
    made = Corner(street, open_rsmp(settings, [device], LoopClock()))
    task = asyncio.create_task(made.driver.run())
    await made.until(lambda: made.driver.health().state is LineState.UP)
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await street.stop()


def distinct(states: list[RequestState]) -> list[RequestState]:
    return list(dict.fromkeys(states))


async def test_a_bus_asks_is_granted_and_thanks_and_every_state_is_heard_in_the_lists_order(
    corner: Corner,
) -> None:
    await corner.until(lambda: corner.junction.is_green(1))
    assert (
        await corner.driver.request(JUNCTION, PriorityRequest("bus-7", GROUP, 8, 5))
    ).state is CommandState.APPLIED
    await corner.until(lambda: RequestState.ACTIVATED in corner.states("bus-7"))
    told = await corner.driver.requests(JUNCTION)
    assert [(one.id, one.state) for one in told] == [("bus-7", RequestState.ACTIVATED)]
    shown = [
        one.values[one.points.index(PointName("signal_groups"))]
        for one in corner.said
        if PointName("signal_groups") in one.points
    ]
    assert group_state(str(shown[-1]), 1).is_green is corner.junction.is_green(1)
    assert (await corner.driver.cancel(JUNCTION, "bus-7")).state is CommandState.APPLIED
    await corner.until(lambda: corner.states("bus-7")[-1] is RequestState.COMPLETED)
    await corner.until(lambda: corner.told[-1] == ())
    states = distinct(corner.states("bus-7"))
    assert states[0] is RequestState.RECEIVED
    assert all(after in NEXT[before] for before, after in pairwise(states))
    assert corner.driver.violations == {}


async def test_a_rejected_request_is_heard_as_rejected(corner: Corner) -> None:
    await corner.street.fault("junction-1", "rejects_priority")
    assert (
        await corner.driver.request(JUNCTION, PriorityRequest("bus-8", GROUP, 8))
    ).state is CommandState.APPLIED
    await corner.until(lambda: RequestState.REJECTED in corner.states("bus-8"))
    assert RequestState.ACTIVATED not in corner.states("bus-8")


async def test_a_group_that_the_junction_does_not_have_is_never_granted(corner: Corner) -> None:
    await corner.driver.request(JUNCTION, PriorityRequest("bus-9", "LU+DJ0001=001SG099", 8))
    await corner.until(lambda: RequestState.REJECTED in corner.states("bus-9"))
    assert RequestState.ACTIVATED not in corner.states("bus-9")


async def test_a_controller_that_fails_is_a_fault_with_its_codes(corner: Corner) -> None:
    await corner.street.fault("junction-1", "yellow_flash")

    def failed() -> bool:
        told = {
            name: value for one in corner.said for name, value in zip(one.points, one.values, strict=True)
        }
        return (
            told.get(PointName("controller_fault")) is True
            and told.get(PointName("control_mode")) == "failure"
        )

    await corner.until(failed)
    got = await corner.driver.read(JUNCTION, [PointName("fault_codes")])
    assert got.values == ("A0001",)


async def test_a_controller_that_sends_garbage_for_a_while_is_heard_again(corner: Corner) -> None:
    await corner.street.fault("junction-1", "garbled")
    await corner.until(lambda: corner.driver.violations.get("not_json", 0) > 0)
    assert corner.driver.health().state is LineState.UP
    await corner.street.clear("junction-1", "garbled")
    got = await corner.driver.read(JUNCTION, [PointName("time_plan")])
    assert got.values == (1,)
