"""A line with an OPC UA server on the bench, for the driver's own tests."""

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

from asyncua.server.internal_subscription import InternalSubscription

from drivers.base import Driver
from drivers.checks import check
from drivers.opcua import OpcUaDriver
from drivers.opcua_certificates import make_certificate
from drivers.registry import open_line
from drivers.settings import DeviceSettings, OpcUa
from protocols.clock import ClockQuality, Instant
from protocols.model.device import Kind
from protocols.model.ids import CabinetId, DeviceId, LineId, PointName
from protocols.model.reading import Reason, Sample, Value
from protocols.opcua.nodes import NodeMap
from sim.pumping_station import PumpingStation, Station
from sim.scenario import parse
from sim.street import Street

ONE: Final = DeviceId("one")
TWO: Final = DeviceId("two")
LINE: Final = LineId("line")
TEMPERATURE: Final = PointName("water_temperature")
PATIENCE_S: Final = 10.0
STATIONS: Final = {ONE: "pumps-1", TWO: "pumps-2"}


class RealClock:
    """The machine's own time, or another that a test sets.

    Attributes:
        utc_ms: None for the machine's own.
        ahead_ms: how far the monotonic clock is ahead of the event loop's.
        quality: how far it can be trusted.
    """

    utc_ms: int | None = None
    ahead_ms = 0
    quality = ClockQuality.SYNCHRONISED

    def now(self) -> Instant:
        utc_ms = time.time_ns() // 1_000_000 if self.utc_ms is None else self.utc_ms  # noqa: TID251
        monotonic_ms = round(asyncio.get_running_loop().time() * 1000) + self.ahead_ms
        return Instant(monotonic_ms, utc_ms, self.quality)

    def civil(self) -> Instant:
        return self.now()


def now_ms() -> int:
    return time.time_ns() // 1_000_000  # noqa: TID251  certificates have real dates


def devices(*ids: DeviceId, node_map: str = "pumping_station") -> list[DeviceSettings]:
    return [
        DeviceSettings(id=one, kind=Kind.PUMPING_STATION, line=LINE, address=STATIONS[one], map=node_map)
        for one in ids
    ]


def _pass(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():
        waiting.set_result(None)


async def tick() -> None:
    """Let a moment pass before a condition is looked at again."""
    loop = asyncio.get_running_loop()
    passed = loop.create_future()
    loop.call_later(0.002, _pass, passed)
    await passed


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await tick()


class OpcUaLine:
    """A driver that runs, and what it has said by itself."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.said: list[Sample] = []
        driver.on_sample = self.said.append
        self.task = asyncio.create_task(driver.run())

    async def read(self, *points: str, device: DeviceId = ONE) -> Sample:
        async with asyncio.timeout(PATIENCE_S):
            return await self.driver.read(device, [PointName(point) for point in points])

    async def until_up(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while (await self.read("level")).faults:
                await tick()

    def told(self, point: str, device: DeviceId = ONE) -> list[tuple[Value, Reason | None]]:
        """Return what was said of a point, with the reason if it was not good."""
        told = []
        for one in self.said:
            if one.device == device and point in one.points:
                at = one.points.index(PointName(point))
                fault = one.fault(at)
                told.append((one.values[at], fault.reason if fault else None))
        return told

    async def until_told(self, point: str, value: Value, reason: Reason | None = None) -> None:
        await until(lambda: self.told(point)[-1:] == [(value, reason)])

    def attempts(self) -> int:
        """Return how often in a row the line could not be made."""
        assert isinstance(self.driver, OpcUaDriver)
        return self.driver._attempts

    def reason(self) -> str:
        return self.driver.health().reason

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Bench:
    """A street with one OPC UA server, and lines to it."""

    def __init__(self, street: Street, folder: Path) -> None:
        self.street = street
        self.folder = folder
        self.clock = RealClock()
        self.lines: list[OpcUaLine] = []

    @property
    def server(self) -> PumpingStation:
        return self.street.pumping["pumps"]

    def station(self, device: DeviceId = ONE) -> Station:
        return self.server.stations[STATIONS[device]]

    def settings(self, **more: object) -> OpcUa:
        usual: dict[str, object] = {
            "id": LINE,
            "url": self.server.state().url,
            "security": self.server.settings.security,
            "period_ms": 20.0,
            "timeout_s": 2.0,
            "keepalive_s": 0.2,
            "reconnect_s": 0.02,
            "reconnect_bound_s": 0.1,
            "probe_s": 0.1,
            "probe_bound_s": 0.2,
        }
        return OpcUa(**(usual | more))  # type: ignore[arg-type]

    def connect(
        self,
        settings: OpcUa | None = None,
        behind: Sequence[DeviceSettings] = (),
        nodes: Sequence[NodeMap] = (),
    ) -> OpcUaLine:
        settings = settings or self.settings()
        behind = behind or devices(ONE)
        assert check([settings], behind, (), nodes) == []
        line = OpcUaLine(open_line(settings, behind, {}, self.clock, self.folder, nodes=nodes))
        self.lines.append(line)
        return line


@contextlib.asynccontextmanager
async def bench(folder: Path, **settings: object) -> AsyncIterator[Bench]:
    """Run a server with one station, without security unless it is asked for."""
    usual: dict[str, object] = {"name": "pumps", "security": "none"}
    table = "".join(f"{key} = {value!r}\n" for key, value in (usual | settings).items())
    async with Street(parse(f'control = "sim.sock"\n[[pumping_station]]\n{table}'), folder) as street:
        made = Bench(street, folder)
        try:
            yield made
        finally:
            for line in made.lines:
                await line.stop()


def make_keys(folder: Path) -> Path:
    """Make a cabinet's certificate once, for many tests to copy: a key costs a tenth of a second."""
    make_certificate(folder, CabinetId("cabinet-1"), Instant(0, now_ms()), bits=2048)
    return folder


def copy_keys(keys: Path, folder: Path) -> None:
    shutil.copytree(keys, folder / "opcua")


def trust_server(bench: Bench) -> None:
    """Put the server's certificate where a technician would."""
    certificate = bench.server.state().certificate
    assert certificate is not None
    shutil.copy(certificate, bench.folder / "opcua" / "trusted" / "pumps.der")


def subscriptions(server: Bench) -> list[InternalSubscription]:
    assert server.server.server is not None
    return list(server.server.server.server.iserver.subscription_service.subscriptions.values())
