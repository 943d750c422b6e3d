"""A radio of our own: Bumble plays the Bluetooth controllers, the sensors and the adapter that bleak scans with.

Adverts go as HCI commands to a sensor's virtual controller, over a virtual link to the adapter's, and as HCI events
to a scanner that bleak takes for its backend. No kernel, no D-Bus. The adapter can be made to fail as real ones do.
"""

import asyncio
from typing import Any, Final

from bleak.backends.scanner import AdvertisementData, AdvertisementDataCallback, BaseBleakScanner
from bleak.exc import BleakBluetoothNotAvailableError, BleakBluetoothNotAvailableReason, BleakDBusError
from bleak.uuids import normalize_uuid_16
from bumble.controller import Controller
from bumble.core import AdvertisingData
from bumble.device import Advertisement, Device
from bumble.hci import Address
from bumble.host import Host
from bumble.link import LocalLink
from bumble.ll import AdvertisingPdu
from bumble.transport.common import AsyncPipeSink

from drivers.ble_scanner import BleakLineScanner, Ear, Scanner
from drivers.errors import LineDownError

INTERVAL_MS: Final = 20.0
"""Between two adverts of a sensor: the shortest that the Core Specification allows."""
BTHOME: Final = 0xFCD2
EDDYSTONE: Final = 0xFEAA
ADAPTER_ADDRESS: Final = "F0:F1:F2:F3:F4:F5"


def _node(link: LocalLink, address: str) -> tuple[Controller, Device]:
    """Return a controller on the link and the host stack that commands it."""
    host = Host()
    controller = Controller(address, host_source=host, link=link, public_address=f"{address}/P")
    controller.host = AsyncPipeSink(host)
    host.controller = controller
    return controller, Device(address=Address(address), host=host)


class AirLink(LocalLink):
    """What is between the controllers.

    Attributes:
        sent_by_adapter: packets that the adapter itself has sent into the air.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Bumble leaves it without annotations
        self.sent_by_adapter = 0

    def send_advertising_pdu(self, sender_controller: Controller, packet: AdvertisingPdu) -> None:
        self.sent_by_adapter += sender_controller.name == ADAPTER_ADDRESS
        super().send_advertising_pdu(sender_controller, packet)


class Sensor:
    """One Bluetooth device that advertises.

    Attributes:
        address: in lower case, as the settings take it.
    """

    def __init__(self, link: LocalLink, address: str) -> None:
        self.address = address
        self._link = link
        self._device: Device | None = None

    async def say(self, service_data: bytes, uuid: int = BTHOME) -> None:
        """Advertise this from now on, again and again, in place of what was advertised before."""
        await self.advertise(
            (AdvertisingData.Type.SERVICE_DATA_16_BIT_UUID, uuid.to_bytes(2, "little") + service_data)
        )

    async def advertise(self, *structures: tuple[int, bytes]) -> None:
        """Advertise any AD structures."""
        if self._device is None:
            _, self._device = _node(self._link, self.address.upper())
            await self._device.power_on()
        await self.hush()
        await self._device.start_advertising(
            advertising_data=bytes(AdvertisingData([(AdvertisingData.Type.FLAGS, b"\x06"), *structures])),
            advertising_interval_min=INTERVAL_MS,
            advertising_interval_max=INTERVAL_MS,
        )

    async def hush(self) -> None:
        """Advertise nothing any more."""
        if self._device is not None and self._device.is_advertising:
            await self._device.stop_advertising()


class Air:
    """Everything within reach of one adapter, and the adapter's moods.

    Attributes:
        plugged: whether the adapter is there.
        deaf: whether its scans hear nothing, without a word.
        deaf_until_reset: the same, until its power was taken.
        stop_hangs: whether ending a scan never returns, even if it is cancelled.
        stop_refuses: whether BlueZ says that something is in progress.
        start_hangs: whether beginning a scan never returns.
        start_raises: what beginning a scan raises.
        resettable: whether its power can be taken.
        started: scans begun.
        backends: what bleak scanned with, in their order.
        resets: how often its power was taken.
    """

    def __init__(self) -> None:
        self.link = AirLink()
        self.sensors: list[Sensor] = []
        self.plugged = True
        self.deaf = False
        self.deaf_until_reset = False
        self.stop_hangs = False
        self.stop_refuses = False
        self.start_hangs = False
        self.start_raises: Exception | None = None
        self.resettable = True
        self.started = 0
        self.backends: list[Backend] = []
        self.resets = 0
        self.hung = asyncio.Event()

    def sensor(self, address: str) -> Sensor:
        made = Sensor(self.link, address)
        self.sensors.append(made)
        return made

    def scanner(self, ear: Ear) -> Scanner:
        """Make a scanner of the product, by bleak, on this air."""
        return AirScanner(self, ear)

    async def hush(self) -> None:
        """Let every sensor be silent, and every hanging call go."""
        self.hung.set()
        for sensor in self.sensors:
            await sensor.hush()

    async def hang(self) -> None:
        """Never return, whoever cancels it, until the test is over."""
        while not self.hung.is_set():
            try:
                await self.hung.wait()
            except asyncio.CancelledError:
                continue

    def hears(self) -> bool:
        return self.plugged and not self.deaf and not self.deaf_until_reset


class AirScanner(BleakLineScanner):
    """The product's scanner with the air as its backend; only the power switch is another, for BlueZ has it."""

    def __init__(self, air: Air, ear: Ear) -> None:
        backend = type("AirBackend", (Backend,), {"air": air})
        super().__init__("hci0", "active", ear, backend)
        self._air = air

    async def reset(self) -> None:
        if not self._air.resettable:
            raise LineDownError("hci0 cannot be reset")
        self._air.resets += 1
        self._air.deaf_until_reset = False


class Backend(BaseBleakScanner):
    """What bleak scans with."""

    air: Air

    def __init__(
        self,
        detection_callback: AdvertisementDataCallback | None,
        service_uuids: list[str] | None,
        _mode: str,
        **_: Any,  # noqa: ANN401  what bleak hands to any backend
    ) -> None:
        super().__init__(detection_callback, service_uuids)
        self._controller: Controller | None = None
        self._device: Device | None = None

    async def start(self) -> None:
        if self.air.start_hangs:
            await self.air.hang()
        if self.air.start_raises is not None:
            raise self.air.start_raises
        if not self.air.plugged:
            raise BleakBluetoothNotAvailableError(
                "adapter 'hci0' not found", BleakBluetoothNotAvailableReason.NO_BLUETOOTH
            )
        self.air.started += 1
        self.air.backends.append(self)
        self._controller, self._device = _node(self.air.link, ADAPTER_ADDRESS)
        await self._device.power_on()
        self._device.on("advertisement", self._heard)
        await self._device.start_scanning(filter_duplicates=False)

    async def stop(self) -> None:
        if self.air.stop_hangs:
            await self.air.hang()
        if self._controller is not None and self._controller in self.air.link.controllers:
            self.air.link.remove_controller(self._controller)
        if self.air.stop_refuses:
            raise BleakDBusError("org.bluez.Error.InProgress", ["Operation already in progress"])

    def hear(self, address: str, service_data: bytes) -> None:
        """Tell bleak of an advert that nobody has sent."""
        self._tell(address, {normalize_uuid_16(BTHOME): service_data}, -50)

    def _heard(self, advert: Advertisement) -> None:
        if self.air.hears():
            self._tell(str(advert.address).split("/")[0], _service_data(advert.data), advert.rssi)

    def _tell(self, address: str, service_data: dict[str, bytes], rssi: int) -> None:
        found = AdvertisementData(
            local_name=None,
            manufacturer_data={},
            service_data=service_data,
            service_uuids=[],
            tx_power=None,
            rssi=rssi,
            platform_data=(),
        )
        device = self.create_or_update_device(address, address, None, None, found)
        self.call_detection_callbacks(device, found)


def _service_data(heard: AdvertisingData) -> dict[str, bytes]:
    """Return 16-bit service data as bleak gives it: by 128-bit UUID."""
    found: dict[str, bytes] = {}
    for kind, data in heard.ad_structures:
        if kind == AdvertisingData.Type.SERVICE_DATA_16_BIT_UUID and len(data) >= 2:
            found[normalize_uuid_16(int.from_bytes(data[:2], "little"))] = data[2:]
    return found
