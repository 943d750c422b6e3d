"""Hearing Bluetooth adverts, behind an interface of ours: bleak in a cabinet, a simulated radio on a bench.

What a scanner raises is LineDownError with a reason for a person, whatever its library raises; that it may hang, or
fall silent without a word, is its supervisor's business (`drivers/ble.py`).
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal, TypeAlias

import msgspec
from bleak import BleakScanner
from bleak.args.bluez import BlueZScannerArgs, OrPattern
from bleak.assigned_numbers import AdvertisementDataType
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from drivers.errors import LineDownError
from protocols.ble.bthome import BTHOME_UUID
from protocols.ble.eddystone import EDDYSTONE_UUID

_BASE_UUID: Final = "0000{:04x}-0000-1000-8000-00805f9b34fb"
_HEARD_UUIDS: Final = {_BASE_UUID.format(uuid): uuid for uuid in (BTHOME_UUID, EDDYSTONE_UUID)}
_NO_RSSI: Final = -127
"""What BlueZ's backend of bleak says when the signal strength is not known."""


class Advert(msgspec.Struct, frozen=True):
    """One advert, reduced to what is read here.

    Attributes:
        address: whose, in lower case.
        rssi_dbm: how strong it was; None if not known.
        service_data: by 16-bit UUID, of BTHome and Eddystone only.
    """

    address: str
    rssi_dbm: int | None
    service_data: Mapping[int, bytes]


class Scanner(ABC):
    """One scan of one adapter, begun once and ended once."""

    @abstractmethod
    async def start(self) -> None:
        """Begin to hear. Raises LineDownError if that is not possible."""

    @abstractmethod
    async def stop(self) -> None:
        """End it; it may not have begun. Raises LineDownError if the adapter does not say that it ended."""

    @abstractmethod
    async def reset(self) -> None:
        """Take the adapter's power away and give it back. Raises LineDownError if that is not possible."""


Ear: TypeAlias = Callable[[Advert], None]
ScannerMaker: TypeAlias = Callable[[Ear], Scanner]


class BleakLineScanner(Scanner):
    """A scan by bleak.

    Args:
        adapter: as BlueZ names it, such as "hci0".
        mode: "active" asks devices for more and takes their power; "passive" only listens, by patterns, and
            needs BlueZ 5.56 with --experimental and Linux 5.10.
        ear: called in the event loop with each advert.
        backend: another radio than the platform's, for a bench.
    """

    def __init__(
        self,
        adapter: str,
        mode: Literal["active", "passive"],
        ear: Ear,
        backend: type[BaseBleakScanner] | None = None,
    ) -> None:
        self._adapter = adapter
        self._mode = mode
        self._ear = ear
        self._backend = backend
        self._scanner: BleakScanner | None = None

    async def start(self) -> None:
        """Begin to hear; see `Scanner.start`."""
        await self._translated(self._start(), f"{self._adapter} does not scan")

    async def stop(self) -> None:
        """End the scan; see `Scanner.stop`."""
        scanner, self._scanner = self._scanner, None
        if scanner is not None:
            await self._translated(scanner.stop(), f"{self._adapter} does not end its scan")

    async def reset(self) -> None:
        """Switch the adapter off and on again through BlueZ; see `Scanner.reset`."""
        await self._translated(_power_cycle(self._adapter), f"{self._adapter} cannot be reset")

    async def _start(self) -> None:
        self._scanner = BleakScanner(
            self._on_advert, scanning_mode=self._mode, bluez=self._arguments(), backend=self._backend
        )
        await self._scanner.start()

    def _arguments(self) -> BlueZScannerArgs:
        if self._mode == "active":
            # By default BlueZ tells an unchanged advert once, and a sensor that lives would look dead.
            return {"adapter": self._adapter, "filters": {"DuplicateData": True}}
        patterns = [
            OrPattern(0, AdvertisementDataType.SERVICE_DATA_UUID16, uuid.to_bytes(2, "little"))
            for uuid in _HEARD_UUIDS.values()
        ]
        return {"adapter": self._adapter, "or_patterns": list(patterns)}

    def _on_advert(self, device: BLEDevice, heard: AdvertisementData) -> None:
        found = {
            _HEARD_UUIDS[uuid]: bytes(value)
            for uuid, value in heard.service_data.items()
            if uuid in _HEARD_UUIDS
        }
        rssi_dbm = None if heard.rssi == _NO_RSSI else heard.rssi
        self._ear(Advert(device.address.lower(), rssi_dbm, found))

    async def _translated(self, work: Awaitable[None], what: str) -> None:
        try:
            await work
        except FileNotFoundError as fault:
            raise LineDownError(f"{what}: no D-Bus, so no Bluetooth service, on this machine") from fault
        except Exception as fault:
            raise LineDownError(f"{what}: {str(fault) or type(fault).__name__}") from fault


async def _power_cycle(adapter: str) -> None:
    """Set BlueZ's property `Powered` of an adapter to false and to true (org.bluez.Adapter1)."""
    bus = MessageBus(bus_type=BusType.SYSTEM)
    try:
        await bus.connect()
        for powered in (False, True):
            answer = await bus.call(
                Message(
                    destination="org.bluez",
                    path=f"/org/bluez/{adapter}",
                    interface="org.freedesktop.DBus.Properties",
                    member="Set",
                    signature="ssv",
                    body=["org.bluez.Adapter1", "Powered", Variant("b", powered)],
                )
            )
            if answer.message_type is MessageType.ERROR:
                raise LineDownError(f"BlueZ refuses: {answer.error_name}")
    finally:
        bus.disconnect()
