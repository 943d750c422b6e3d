"""Two radio sensors, their gateway and the air between them, as the contract's tests want them."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from drivers.base import Driver, RadioDriver
from drivers.settings import DeviceSettings, LoraUdp
from protocols.lorawan.payloads import CODECS
from protocols.model.ids import DeviceId, PointName
from sim.faults import FaultSettings, RadioFault
from sim.radio import Radio
from sim.radio_settings import RadioSettings, SensorSettings
from sim.radio_truth import Truth
from sim.schedule import LoopSchedule, Timer
from tests.contracts.hardware import ASKED, LINE, NEIGHBOUR, PATIENCE_S, Bench, tick

SPEED: Final = 20
"""Seconds on the air for each of ours: a join takes its five seconds, and no test has so many."""
MAKE: Final = "decentlab-dl-mbx"
HOUR_MS: Final = 3_600_000
_NOON_MS: Final = 1_790_000_000_000 // (24 * HOUR_MS) * 24 * HOUR_MS + 12 * HOUR_MS


class FastSchedule:
    """The loop's timers, with a clock that runs faster."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = LoopSchedule(loop)

    def time(self) -> float:
        return self._loop.time() * SPEED

    def call_at(self, when_s: float, callback: Callable[[], object]) -> Timer:
        return self._loop.call_at(when_s / SPEED, callback)


class LorawanBench(Bench):
    """Two bins that say how far their rubbish is from the lid, when they are told to speak."""

    name = "lorawan-udp"
    asked = False
    ordering = False
    forbidden = PointName("distance")
    names: Final = {ASKED: "bin-1", NEIGHBOUR: "bin-2"}
    euis: Final = {ASKED: "70b3d57ba0000001", NEIGHBOUR: "70b3d57ba0000002"}
    keys: Final = {ASKED: "000102030405060708090a0b0c0d0e0f", NEIGHBOUR: "f0e0d0c0b0a090807060504030201000"}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.civil_ms = dict.fromkeys(self.names.values(), _NOON_MS)

    async def start(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        self.settings = LoraUdp(
            id=LINE,
            port=port,
            gateway_timeout_s=1.5,
            dedup_s=0.01,
            lead_s=0.0,
            silence_s=3.0,
            device_status_s=0,
            reconnect_s=0.05,
        )
        radio = RadioSettings(
            name="radio-1",
            gateway_eui="b827ebfffe012345",
            port=port,
            spread_s=1.0,
            sensors=tuple(self._sensor(device) for device in self.names),
        )
        self.schedule = FastSchedule(asyncio.get_running_loop())
        self.radio = Radio(radio, self.schedule, seed=1, truth=self._truth, utc_ms=lambda: _NOON_MS)
        await self.radio.open()

    def _sensor(self, device: DeviceId) -> SensorSettings:
        return SensorSettings(
            name=self.names[device],
            device=MAKE,
            dev_eui=self.euis[device],
            app_key=self.keys[device],
            every_s=86_400,
        )

    def _truth(self, name: str) -> Truth:
        return Truth(name, self.civil_ms[name], 30.0)

    async def stop(self) -> None:
        self.radio.close()
        await tick()

    def devices(self) -> list[DeviceSettings]:
        kind = CODECS[MAKE].kind
        return [
            DeviceSettings(id=device, kind=kind, line=LINE, address=eui, map=MAKE)
            for device, eui in self.euis.items()
        ]

    def point(self, _device: DeviceId) -> PointName:
        return PointName("distance")

    def truth(self, device: DeviceId) -> float:
        return round(1500 - 1300 * self._truth(self.names[device]).filling())

    def change(self, device: DeviceId) -> None:
        self.civil_ms[self.names[device]] += HOUR_MS

    def ordered(self) -> float:
        raise NotImplementedError("a bin takes no orders")

    def heard(self) -> object:
        counters = self.radio.forwarder.counters
        return counters.responses, counters.transmitted

    async def let_in(self, driver: Driver) -> None:
        assert isinstance(driver, RadioDriver)
        for device, key in self.keys.items():
            await driver.admit(device, bytes.fromhex(key))

    async def speak(self, device: DeviceId) -> None:
        """Let a bin say how full it is, once it has joined and said what it is saying."""
        node = self.radio.nodes[self.names[device]]
        async with asyncio.timeout(PATIENCE_S):
            while not node.silent and (node.session is None or node._exchange is not None):
                await tick()
        node.power_up(self.schedule.time())
        await tick()

    async def fault(self, device: DeviceId, name: str, delay_s: float | None = None) -> None:
        self.radio.begin_fault(self.names[device], RadioFault(name), FaultSettings(delay_s=delay_s))

    async def heal(self, device: DeviceId) -> None:
        self.radio.end_fault(self.names[device], RadioFault.SILENT)

    async def unplug(self) -> None:
        self.radio.begin_fault("", RadioFault.GATEWAY_GONE, FaultSettings())

    async def plug_in(self) -> None:
        self.radio.end_fault("", RadioFault.GATEWAY_GONE)
