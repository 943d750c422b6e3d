"""A cabinet whose clock starts in 1970: real street, real broker, real aggregator, and a machine's clock in hand.

The agent runs here, in the test's own loop, because a process cannot be given a clock. Apart from that nothing of it
knows that its clock is the test's.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge.agent import Agent
from edge.answers import PolicyAnswer, PolicyApply, Set, Status, StatusAnswer
from edge.asking import ask
from edge.clock import SystemClock
from edge.config import load
from edge.lock import only_agent
from edge.state import CommandRecord
from protocols.clock import ClockQuality, Instant
from protocols.model.command import Command, CommandState
from protocols.model.ids import CommandId, DeviceId, PointName
from sim.street_thread import StreetThread
from tests.central.live import Aggregator, aggregator
from tests.edge.bench import CABINET
from tests.edge.broker import Broker
from tests.edge.street import scenario, settings_text, signed, write_settings

Json = Any
WAIT_S = 30.0
COUNTS = "/api/v1/devices/counter/points/r00/history"
COUNTER = """
[[line]]
id = "counter"
driver = "modbus-tcp"
host = "{0}"
port = {1}
[[device]]
id = "counter"
kind = "sensor"
line = "counter"
address = 1
map = "counter"
report = "each"
poll_s = 0.2
[[map]]
name = "counter"
[[map.run]]
prefix = "r"
table = "holding"
address = 0
count = 4
"""


class Machine(SystemClock):
    """A gateway without a battery: it boots in 1970, and a test sets it."""

    def __init__(self) -> None:
        super().__init__()
        self.offset_ms = 7_000 - super().now().monotonic_ms
        self.quality = ClockQuality.UNSYNCHRONISED

    def now(self) -> Instant:
        monotonic_ms = super().now().monotonic_ms
        return Instant(monotonic_ms, monotonic_ms + self.offset_ms, self.quality)

    def synchronise(self) -> None:
        real = super().now()
        self.offset_ms, self.quality = real.utc_ms - real.monotonic_ms, ClockQuality.SYNCHRONISED


class Bench:
    """A cabinet that boots when told, and the centre that listens."""

    def __init__(self, file: Path, centre: Aggregator, street: StreetThread) -> None:
        self.file = file
        self.centre = centre
        self.street = street

    @asynccontextmanager
    async def boot(self, machine: Machine) -> AsyncIterator[None]:
        """Let the agent run on a machine; end it as systemd does."""
        stop = asyncio.Event()
        settings = load(self.file)
        with only_agent(settings.directory):
            agent = asyncio.create_task(Agent(settings, machine).run(stop))
            try:
                yield
            finally:
                stop.set()
                await agent

    async def get(self, path: str, **query: str) -> Json:
        def asked() -> httpx.Response:
            return self.centre.http.get(path, params=query)

        answer = await asyncio.to_thread(asked)
        return answer.json() if answer.status_code == 200 else None

    async def wait(self, path: str, holds: Callable[[Json], object], **query: str) -> Json:
        """Ask the centre until its answer is as it should be; return it."""
        end_s = asyncio.get_running_loop().time() + WAIT_S
        while True:
            found = await self.get(path, **query)
            if found is not None and holds(found):
                return found
            assert asyncio.get_running_loop().time() < end_s, f"in vain: {path}: {found}"
            await asyncio.wait([asyncio.create_task(asyncio.to_thread(_pause))])

    async def status(self) -> StatusAnswer:
        return await asyncio.to_thread(ask, self.file.parent / "state" / "agent.sock", Status(), StatusAnswer)

    async def command(self, command: Command) -> CommandRecord:
        return await asyncio.to_thread(
            ask, self.file.parent / "state" / "agent.sock", Set(command), CommandRecord
        )

    async def policy(self, not_before_ms: int, expires_ms: int) -> PolicyAnswer:
        one = signed(not_before_ms=not_before_ms, expires_ms=expires_ms)
        wish = PolicyApply(one.body.decode(), one.key, one.signature)
        return await asyncio.to_thread(ask, self.file.parent / "state" / "agent.sock", wish, PolicyAnswer)


def _pause() -> None:
    import threading  # noqa: PLC0415

    threading.Event().wait(0.1)


def at(item: Json, key: str = "time") -> datetime:
    return datetime.fromisoformat(item[key])


def now() -> datetime:
    return datetime.fromtimestamp(now_ms() / 1000, UTC)


def now_ms() -> int:
    return SystemClock().now().utc_ms


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    with (
        StreetThread(scenario(lamps=2), folder) as street,
        Broker(folder) as broker,
        aggregator(folder, broker.url) as centre,
    ):
        ports = street.ports()
        text = settings_text(folder, ports, broker.url, lamps=2, extra=COUNTER.format(*ports.tcp["counter"]))
        yield Bench(write_settings(folder, text), centre, street)


@pytest.mark.timeout(180)
async def test_from_1970_to_the_right_time_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = now()
    async with bench(tmp_path) as one:
        machine = Machine()
        async with one.boot(machine):
            await _takes_readings_without_a_clock(one)
            await _believes_what_is_signed(one)
            machine.synchronise()
            await _everything_is_put_right(one, begun)
        await _nothing_is_left_to_do(one)
        monkeypatch.setattr("edge.agent.boot_id", lambda: "the-next-boot")
        async with one.boot(Machine()):
            await _the_next_boot_goes_on_from_the_last_known_time(one)


async def _takes_readings_without_a_clock(one: Bench) -> None:
    """What comes before any hello's moment is known is the centre's estimate, and says so."""
    shown = await one.wait(COUNTS, lambda found: len(found["items"]) >= 3)
    assert {(item["clock"], item["stamped_by"]) for item in shown["items"]} == {("unsynchronised", "centre")}
    await asyncio.to_thread(one.street.set, "cabinet", {"door_open": True})
    await one.wait("/api/v1/alarms", lambda found: found["items"], active="true")


async def _believes_what_is_signed(one: Bench) -> None:
    """A policy of today is not refused for a clock that says 1970; a command of the day before is."""
    today_ms = now_ms()
    await one.policy(today_ms - 60_000, today_ms + 10**9)
    told = (await one.status()).known_ms
    assert today_ms - 61_000 <= told <= today_ms + 10_000
    late = Command(
        CommandId("late"),
        DeviceId("lamp-00"),
        PointName("dimming_level"),
        20,
        "anna",
        today_ms - 86_400_000,
        until_ms=2**50,
    )
    assert (await one.command(late)).state is CommandState.EXPIRED


async def _everything_is_put_right(one: Bench, begun: datetime) -> None:
    def is_right(found: Json) -> bool:
        named = {item["stamped_by"] for item in found["items"]}
        return "centre" not in named and "clock_event" in named and "cabinet" in named

    shown = await one.wait(COUNTS, is_right)
    times = [at(item) for item in shown["items"]]
    counts = [item["value"] for item in shown["items"]]
    assert counts == list(range(counts[0], counts[0] + len(counts)))  # in the order in which they were taken
    slack = timedelta(milliseconds=50)
    assert begun - slack <= min(times) <= max(times) <= now() + slack
    (alarm,) = (await one.get("/api/v1/alarms", active="true"))["items"]
    assert begun <= at(alarm, "raised") <= now()
    assert (await one.get(f"/api/v1/cabinets/{CABINET}"))["clock"] == "synchronised"
    status = await one.status()
    assert (status.now.quality, status.clock_steps >= 1) == (ClockQuality.SYNCHRONISED, True)
    await asyncio.to_thread(one.street.set, "cabinet", {"door_open": False})
    await one.wait("/api/v1/alarms", lambda found: not found["items"], active="true")


async def _nothing_is_left_to_do(one: Bench) -> None:
    shown = await one.get(COUNTS, limit="10000")
    assert {item["type"] for item in shown["items"]} == {"reading"}
    assert {item["stamped_by"] for item in shown["items"]} == {"clock_event", "cabinet"}
    assert [item["value"] for item in shown["items"]] == list(range(1, len(shown["items"]) + 1))


async def _the_next_boot_goes_on_from_the_last_known_time(one: Bench) -> None:
    shown = await one.wait(
        COUNTS, lambda found: found["items"][0]["stamped_by"] == "centre", order="desc", limit="5"
    )
    assert abs((at(shown["items"][0]) - now()).total_seconds()) < 10
    status = await one.status()
    assert status.now.quality is ClockQuality.UNSYNCHRONISED
    assert now_ms() - 120_000 <= status.now.utc_ms <= now_ms()
