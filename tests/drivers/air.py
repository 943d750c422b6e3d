"""A LoRaWAN line on a real socket, with a forwarder and devices in its air."""

import asyncio
import contextlib
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from drivers.lorawan import LorawanDriver, open_lorawan
from drivers.settings import DeviceSettings, LoraUdp
from protocols.clock import Clock, ClockQuality, Instant
from protocols.lorawan.payloads import CODECS
from protocols.model.ids import DeviceId, LineId
from protocols.model.reading import Reason, Sample
from tests.drivers.forwarder import Downlink, Forwarder, RadioDouble

LINE = LineId("lora-1")
GATEWAY = 0xB827EBFFFE012345
SECOND = 0xB827EBFFFE0AAAAA
KEY = bytes.fromhex("b6b53f4a168a7a88bdf7ea135ce9cfca")
OTHER_KEY = bytes.fromhex("0123456789abcdeffedcba9876543210")
BAY = DeviceId("bay-1")
SWITCH = DeviceId("switch-1")
BAY_EUI = 0x00AFEE7CF5ED6F1E
SWITCH_EUI = 0x24E124756B000001
PATIENCE_S = 3.0


class RealClock:
    """The event loop's clock with a civil time beside it."""

    def __init__(
        self, quality: ClockQuality = ClockQuality.SYNCHRONISED, utc_ms: int = 1_800_000_000_000
    ) -> None:
        self.quality = quality
        self.utc_ms = utc_ms
        self.ahead_ms = 0

    def now(self) -> Instant:
        monotonic_ms = round(asyncio.get_running_loop().time() * 1000) + self.ahead_ms
        return Instant(monotonic_ms, self.utc_ms, self.quality)

    def civil(self) -> Instant:
        return self.now()


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def settings(port: int, **more: object) -> LoraUdp:
    chosen = {"dedup_s": 0.02, "lead_s": 0.02, "device_status_s": 0, "reconnect_s": 0.05, **more}
    return LoraUdp(id=LINE, port=port, **chosen)  # type: ignore[arg-type]


def devices(**more: object) -> list[DeviceSettings]:
    return [
        _device(BAY, BAY_EUI, "bosch-tps110", **more),
        _device(SWITCH, SWITCH_EUI, "milesight-ws558", **more),
    ]


def _device(device: DeviceId, eui: int, codec: str, **more: object) -> DeviceSettings:
    kind = CODECS[codec].kind
    return DeviceSettings(id=device, kind=kind, line=LINE, address=f"{eui:016X}", map=codec, **more)  # type: ignore[arg-type]


class Air:
    """One driver and what is in its air."""

    def __init__(
        self, driver: LorawanDriver, clock: Clock, task: "asyncio.Task[None]", port: int, folder: Path
    ) -> None:
        self.driver = driver
        self.clock = clock
        self.task = task
        self.port = port
        self.path = folder / f"{LINE}.db"
        self.said: list[Sample] = []
        self.forwarders: list[Forwarder] = []
        self.bay = RadioDouble(BAY_EUI, KEY)
        self.switch = RadioDouble(SWITCH_EUI, OTHER_KEY)

    async def forwarder(self, eui: int = GATEWAY, *, pulling: bool = True) -> Forwarder:
        made = await Forwarder(eui, self.port).start()
        self.forwarders.append(made)
        if pulling:
            await self.until(lambda: bool(made.pull() and made.acked))  # the line may not be open yet
        return made

    async def joined(self, forwarder: Forwarder, radio: RadioDouble | None = None) -> RadioDouble:
        """Let a device join."""
        radio = radio or self.bay
        before = len(forwarder.downlinks)
        forwarder.push(radio.join_request())
        await self.until(lambda: len(forwarder.downlinks) > before)
        radio.take_accept(forwarder.downlinks[-1].wire)
        return radio

    async def downlink(self, forwarder: Forwarder, after: int) -> Downlink:
        """Return the downlink that comes after `after` others."""
        await self.until(lambda: len(forwarder.downlinks) > after)
        return forwarder.downlinks[after]

    async def counted(self, name: str, number: int = 1) -> None:
        await self.until(lambda: self.count(name) >= number)
        assert self.count(name) == number

    def count(self, name: str) -> int:
        return self.driver.counters()[name]

    def values(self, device: DeviceId, point: str) -> list[object]:
        told = [one for one in self.said if one.device == device and point in one.points]
        return [dict(zip(one.points, one.values, strict=True))[point] for one in told]  # type: ignore[index]

    def faults(self, device: DeviceId) -> list[Reason]:
        return [fault.reason for one in self.said if one.device == device for fault in one.faults.values()]

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        """Return what is on disk now, as another process sees it."""
        with contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as look:
            return look.execute(sql).fetchall()

    async def until(self, condition: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                passed = loop.create_future()
                loop.call_later(0.002, passed.set_result, None)
                await passed

    async def settled(self, forwarder: Forwarder) -> None:
        """Wait until everything that was sent before has been judged: datagrams of one socket come in order."""
        token = forwarder.pull()
        await self.until(lambda: token in forwarder.acked)


@contextlib.asynccontextmanager
async def air(
    folder: Path,
    line: LoraUdp | None = None,
    known: list[DeviceSettings] | None = None,
    clock: Clock | None = None,
    *,
    admitted: bool = True,
) -> AsyncIterator[Air]:
    """Open a line and let both devices be admitted."""
    line = line or settings(free_port())
    clock = clock or RealClock()
    driver = open_lorawan(line, known or devices(), clock, folder)
    if admitted:
        await driver.admit(BAY, KEY)
        await driver.admit(SWITCH, OTHER_KEY)
    task = asyncio.create_task(driver.run())
    made = Air(driver, clock, task, line.port, folder)
    driver.on_sample = made.said.append
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for forwarder in made.forwarders:
            await forwarder.stop()
