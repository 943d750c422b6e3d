"""The RSMP driver and the bench's junction together: what is asked for is what the lamps do.

Both are ours, so a third looks on: every message that either of them writes is held against the published schemas.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from drivers.base import LineState
from protocols.clock import Instant
from protocols.model.command import CommandState
from protocols.model.ids import DeviceId, PointName
from protocols.model.priority import PriorityRequest, RequestState
from sim.faults import DetectorFault, FaultSettings, GroupFault, JunctionFault
from sim.junction import Junction
from sim.junction_settings import JunctionSettings
from sim.schedule import LoopSchedule, VirtualSchedule
from sim.signal_controller import SignalController
from tests.drivers.rsmp_site import CODE
from tests.drivers.rsmp_tap import End, Tap
from tests.drivers.test_driver_rsmp import DEVICES, JUNCTION, LOOP, Cabinet, free_port, settings

PREFIX = "KK+AG0503=001"
GROUP = f"{PREFIX}SG002"
BAD = FaultSettings()
ALWAYS_SAID = {
    End.SITE: {"Version", "MessageAck", "Watchdog", "AggregatedStatus", "StatusUpdate"},
    End.SUPERVISOR: {"Version", "MessageAck", "Watchdog", "StatusSubscribe"},
}


class Site:
    """The bench's controller, its junction's time in the test's hand."""

    def __init__(self, port: int) -> None:
        self.settings = JunctionSettings(
            "junction-1", port=port, prefix=PREFIX, reconnect_s=0.05, security_codes=("1111", CODE)
        )
        self.time = VirtualSchedule()
        self.junction = Junction(self.settings.design, self.time)
        wire = LoopSchedule(asyncio.get_running_loop())
        self.controller = SignalController(
            self.settings, self.junction, schedule=wire, clock=self, rng=random.Random(1)
        )

    def now(self) -> Instant:
        monotonic_ms = round(asyncio.get_running_loop().time() * 1000)
        return Instant(monotonic_ms, 1_760_000_000_000 + monotonic_ms + round(self.time.time() * 1000))

    def run(self, seconds: float) -> None:
        self.time.run_until(self.time.time() + seconds)


@contextlib.asynccontextmanager
async def street() -> AsyncIterator[tuple[Cabinet, Site]]:
    """Run a cabinet and its site; whatever they say to each other passes the published schemas."""
    port = free_port()
    async with Tap(port) as tap:
        cabinet, site = Cabinet(settings(port), DEVICES), Site(tap.port)
        site.controller.start()
        site.run(12)
        try:
            await cabinet.up()
            yield cabinet, site
        finally:
            await site.controller.stop()
            await cabinet.end()
    assert cabinet.driver.violations == {}
    assert site.controller.counters().violations == {}
    assert tap.types(End.SITE) >= ALWAYS_SAID[End.SITE]
    assert tap.types(End.SUPERVISOR) >= ALWAYS_SAID[End.SUPERVISOR]
    assert tap.wrong() == []


def states(cabinet: Cabinet, name: str) -> list[RequestState]:
    """Return the states of a request that the driver told, each once."""
    told: list[RequestState] = []
    for _, requests in cabinet.requests:
        told += [one.state for one in requests if one.id == name and one.state not in told[-1:]]
    return told


async def test_a_request_is_granted_confirmed_and_measured() -> None:
    async with street() as (cabinet, site):
        site.run(88)
        written = await cabinet.driver.request(JUNCTION, PriorityRequest("bus-1", GROUP, 5, 0))
        assert written.state is CommandState.APPLIED
        site.run(20)
        assert site.junction.is_green(2)
        updated = await cabinet.driver.request(JUNCTION, PriorityRequest("bus-1", GROUP, 7, 1))
        assert updated.state is CommandState.APPLIED
        assert site.junction.priority.entries()[0].level == 7
        await cabinet.driver.cancel(JUNCTION, "bus-1")
        await cabinet.until(lambda: RequestState.COMPLETED in states(cabinet, "bus-1"))
        assert states(cabinet, "bus-1") == [
            RequestState.RECEIVED,
            RequestState.ACTIVATED,
            RequestState.COMPLETED,
        ]
        (end,) = [one for _, told in cabinet.requests for one in told if one.state is RequestState.COMPLETED]
        assert (end.extension_s, end.reduction_s) == (0, 31)
        assert await cabinet.driver.requests(JUNCTION) == ()
        assert site.junction.priority.totals().granted == 1


@pytest.mark.parametrize(
    ("fault", "ends"),
    [
        (JunctionFault.REJECTS_PRIORITY, [RequestState.RECEIVED, RequestState.REJECTED]),
        (JunctionFault.NEVER_ACTIVATES, [RequestState.RECEIVED, RequestState.QUEUED, RequestState.TIMEOUT]),
    ],
)
async def test_a_request_that_comes_to_nothing_is_told_so(
    fault: JunctionFault, ends: list[RequestState]
) -> None:
    async with street() as (cabinet, site):
        site.controller.set_fault(fault, BAD)
        await cabinet.driver.request(JUNCTION, PriorityRequest("bus-1", GROUP, 5))
        site.run(70)
        await cabinet.until(lambda: states(cabinet, "bus-1") == ends)


async def test_a_controller_that_refuses_everything_is_no_success() -> None:
    async with street() as (cabinet, site):
        site.controller.set_fault(JunctionFault.NACK, BAD)
        written = await cabinet.driver.request(JUNCTION, PriorityRequest("bus-1", GROUP, 5))
        assert written.state is CommandState.FAILED
        assert site.junction.priority.totals().requested == 0


async def test_lamps_detectors_and_alarms_are_heard_as_they_are() -> None:
    async with street() as (cabinet, site):
        site.junction.detect("exit-1", True)
        await cabinet.until(lambda: cabinet.last(LOOP, "occupied") is True)
        site.run(8)
        await cabinet.until(lambda: cabinet.last(JUNCTION, "signal_groups") == site.junction.signal_states())
        site.junction.set_detector_fault("exit-2", DetectorFault.DETECTOR_STUCK, BAD)
        site.run(301)
        site.junction.set_lamp_fault(3, GroupFault.LAMP_FAILURE, BAD)
        site.run(1)
        await cabinet.until(lambda: cabinet.last(JUNCTION, "control_mode") == "failure")
        await cabinet.until(lambda: cabinet.last(JUNCTION, "controller_fault") is True)
        codes = str(cabinet.last(JUNCTION, "fault_codes"))
        assert "A0201" in codes
        assert "A0302" in codes


async def test_a_plan_is_set_by_the_code_and_read_back_once_its_moment_comes() -> None:
    async with street() as (cabinet, site):
        order = asyncio.create_task(cabinet.driver.write(JUNCTION, PointName("time_plan"), 3))
        await cabinet.until(lambda: site.junction.plan_source == "forced")
        site.run(20)
        written = await order
        assert written.state in {CommandState.APPLIED, CommandState.VERIFIED}
        await cabinet.until(lambda: cabinet.last(JUNCTION, "time_plan") == 3)


async def test_a_network_that_comes_back_finds_the_controller_as_it_is_now() -> None:
    async with street() as (cabinet, site):
        site.controller.set_fault(JunctionFault.DISCONNECTED, BAD)
        await cabinet.until(lambda: cabinet.driver.health().state is not LineState.UP)
        site.junction.command_plan(2)
        site.run(200)
        site.controller.clear_fault(JunctionFault.DISCONNECTED)
        await cabinet.until(lambda: cabinet.last(JUNCTION, "time_plan") == 2)


async def test_a_message_against_the_schemas_is_seen_whichever_end_writes_it() -> None:
    sound = b'{"mType":"rSMsg","type":"MessageAck","oMId":"8b4f0e2a-6f0f-4c9a-9a57-0d1c4a3b2e10"}\x0c'
    wrong = b'{"mType":"rSMsg","type":"MessageAck"}\x0c'

    async def supervisor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sound + wrong)
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(supervisor, "127.0.0.1", 0)
    async with listening, Tap(listening.sockets[0].getsockname()[1]) as tap:
        reader, writer = await asyncio.open_connection("127.0.0.1", tap.port)
        assert await reader.readexactly(len(sound + wrong)) == sound + wrong
        writer.write(wrong + sound)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
    found = tap.wrong()
    assert {why.split(":")[0] for why in found} == {"site", "supervisor"}
    assert all("'oMId' is a required property" in why for why in found), found


def test_the_devices_are_those_of_the_site() -> None:
    site = JunctionSettings("junction-1", prefix=PREFIX)
    assert {device.id: device.address for device in DEVICES} == {
        DeviceId("junction"): site.main,
        DeviceId("loop"): site.detector(2),
    }
