"""The contract's Bluetooth line: two thermometers on a virtual radio, one of them with a key."""

from typing import Final

from drivers.base import Driver, RadioDriver
from drivers.ble import BleDriver
from drivers.settings import Ble, DeviceSettings
from protocols.model.device import Kind
from protocols.model.ids import DeviceId, PointName
from tests.contracts.hardware import ASKED, LINE, NEIGHBOUR, Bench, LoopClock
from tests.drivers.ble_air import Air
from tests.protocols.ble.sealing import KEY, seal


class BleBench(Bench):
    """Two thermometers that speak BTHome v2; the first encrypts. Nothing can be asked or ordered."""

    name = "ble"
    asked = False
    ordering = False
    forbidden = PointName("temperature")
    addresses: Final = {ASKED: "c0:11:22:33:44:01", NEIGHBOUR: "c0:11:22:33:44:02"}

    async def start(self) -> None:
        self.air = Air()
        self.sensors = {device: self.air.sensor(address) for device, address in self.addresses.items()}
        self.hundredths = {ASKED: 2150, NEIGHBOUR: -340}
        self.counters = {ASKED: 1000, NEIGHBOUR: 0}
        self.silenced: set[DeviceId] = set()
        self.settings = Ble(
            id=LINE, watchdog_s=1.0, silence_s=2.5, search_s=0.5, patience_s=2.0, reconnect_s=0.05
        )

    async def stop(self) -> None:
        await self.air.hush()

    def open(self) -> Driver:
        assert isinstance(self.settings, Ble)
        return BleDriver(self.settings, self.devices(), LoopClock(), self.folder, self.air.scanner)

    async def let_in(self, driver: Driver) -> None:
        assert isinstance(driver, RadioDriver)
        await driver.admit(ASKED, KEY)

    def devices(self) -> list[DeviceSettings]:
        return [
            DeviceSettings(id=device, kind=Kind.SENSOR, line=LINE, address=address, map="bthome-thermometer")
            for device, address in self.addresses.items()
        ]

    def point(self, _device: DeviceId) -> PointName:
        return PointName("temperature")

    def truth(self, device: DeviceId) -> float:
        return self.hundredths[device] / 100

    def change(self, device: DeviceId) -> None:
        self.hundredths[device] += 317

    async def speak(self, device: DeviceId) -> None:
        if device in self.silenced:
            return
        self.counters[device] += 1
        number = self.counters[device]
        body = (
            bytes((0x01, 88, 0x02)) + self.hundredths[device].to_bytes(2, "little", signed=True) + b"\x2e\x41"
        )
        if device == ASKED:
            address = bytes.fromhex(self.addresses[device].replace(":", ""))
            await self.sensors[device].say(seal(body, number, address=address))
        else:
            await self.sensors[device].say(bytes((0x40, 0x00, number % 256)) + body)

    def ordered(self) -> float:
        raise NotImplementedError

    def heard(self) -> object:
        return self.air.link.sent_by_adapter

    async def fault(self, device: DeviceId, name: str, delay_s: float | None = None) -> None:  # noqa: ARG002
        assert name == "silent"
        self.silenced.add(device)
        await self.sensors[device].hush()

    async def heal(self, device: DeviceId) -> None:
        self.silenced.discard(device)

    async def unplug(self) -> None:
        self.air.plugged = False

    async def plug_in(self) -> None:
        self.air.plugged = True
