"""The agent in the test's own loop, on a machine whose clock the test holds: what it gives to whom."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from edge.agent import Agent
from edge.answers import Status, StatusAnswer
from edge.asking import NoAgentError, ask
from edge.clock import SystemClock
from edge.config import load
from edge.lock import only_agent
from protocols.clock import ClockQuality, Instant
from sim.street_thread import StreetThread
from tests.edge.bench import CABINET, WAIT_S
from tests.edge.street import scenario, settings_text, write_settings
from tests.edge.test_edge_tls import Secured

DAY_MS = 86_400_000


class Machine(SystemClock):
    """The real monotonic time, and a UTC that is so far from the real one."""

    def __init__(self, ahead_ms: int, quality: ClockQuality) -> None:
        super().__init__()
        self.ahead_ms, self.quality = ahead_ms, quality

    def now(self) -> Instant:
        real = super().now()
        return Instant(real.monotonic_ms, real.utc_ms + self.ahead_ms, self.quality)


@asynccontextmanager
async def running(file: Path, machine: Machine) -> AsyncIterator[None]:
    settings, stop = load(file), asyncio.Event()
    with only_agent(settings.directory):
        agent = asyncio.create_task(Agent(settings, machine).run(stop))
        try:
            yield
        finally:
            stop.set()
            await agent


async def status(folder: Path) -> StatusAnswer:
    """Ask the agent, which may not listen yet."""
    end_s = asyncio.get_running_loop().time() + WAIT_S
    while True:
        try:
            return await asyncio.to_thread(ask, folder / "state" / "agent.sock", Status(), StatusAnswer)
        except NoAgentError:
            assert asyncio.get_running_loop().time() < end_s


async def reached(folder: Path, holds: Callable[[StatusAnswer], bool]) -> StatusAnswer:
    """Return the agent's status once it is as it should be."""
    end_s = asyncio.get_running_loop().time() + WAIT_S
    while not holds(found := await status(folder)):
        assert asyncio.get_running_loop().time() < end_s, found
    return found


async def test_in_1970_it_connects_to_a_broker_whose_certificate_its_own_clock_would_refuse(
    tmp_path: Path,
) -> None:
    secured = Secured(tmp_path)
    text = (
        f'[cabinet]\nid = "{CABINET}"\ndirectory = "state"\n'
        f'[backhaul]\nurl = "{secured.settings.url}"\nca = "ca.pem"\n[outbox]\ndrain_s = 0\n'
    )
    file = write_settings(tmp_path, text)
    with secured.broker:
        async with running(file, Machine(-56 * 365 * DAY_MS, ClockQuality.UNSYNCHRONISED)):
            await reached(tmp_path, lambda found: found.backhaul.connected)


async def test_a_battery_s_clock_that_leaps_ahead_makes_nothing_that_waits_too_old(tmp_path: Path) -> None:
    machine = Machine(0, ClockQuality.HOLDOVER)
    with StreetThread(scenario(), tmp_path) as street:
        text = settings_text(tmp_path, street.ports(), "mqtt://127.0.0.1:1").replace(
            "drain_s = 10", "drain_s = 0\nmax_age_days = 1"
        )
        async with running(write_settings(tmp_path, text), machine):
            before = await reached(tmp_path, lambda found: found.outbox.commits >= 3)
            machine.ahead_ms += 400 * DAY_MS
            more = before.outbox.commits + 6
            after = await reached(tmp_path, lambda found: found.outbox.commits >= more)
            assert after.clock_steps == 1
            assert (after.outbox.shed_readings, after.outbox.readings >= before.outbox.readings) == (0, True)
