"""A BlueZ of our own on a private D-Bus: as much of org.bluez as a scan needs, played by dbus-fast.

Sources: bluez/doc/org.bluez.Adapter.rst, org.bluez.Device.rst, org.bluez.AdvertisementMonitorManager.rst.
"""

import asyncio
import shutil
from pathlib import Path
from typing import Annotated, Final

from dbus_fast import BusType, PropertyAccess, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusBool, DBusObjectPath, DBusSignature, DBusStr
from dbus_fast.errors import DBusError
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property

DAEMON: Final = shutil.which("dbus-daemon")
ADAPTER_PATH: Final = "/org/bluez/hci0"
FCD2: Final = "0000fcd2-0000-1000-8000-00805f9b34fb"
Filters = Annotated[dict[str, Variant], DBusSignature("a{sv}")]
ServiceData = Annotated[dict[str, Variant], DBusSignature("a{sv}")]
Int16 = Annotated[int, DBusSignature("n")]


class Adapter(ServiceInterface):
    """org.bluez.Adapter1.

    Attributes:
        filters: what the last scan asked for.
        powers: what its power was set to, in order.
        refusing: what StartDiscovery answers with instead of beginning.
    """

    def __init__(self) -> None:
        super().__init__("org.bluez.Adapter1")
        self.filters: dict[str, object] = {}
        self.powers: list[bool] = []
        self.discovering = False
        self.refusing = ""

    @dbus_method(name="SetDiscoveryFilter")
    def set_discovery_filter(self, filters: Filters) -> None:
        self.filters = {name: value.value for name, value in filters.items()}

    @dbus_method(name="StartDiscovery")
    def start_discovery(self) -> None:
        if self.refusing:
            raise DBusError(self.refusing, "Operation already in progress")
        self.discovering = True

    @dbus_method(name="StopDiscovery")
    def stop_discovery(self) -> None:
        self.discovering = False

    @dbus_property(name="Powered")
    def powered(self) -> DBusBool:
        return True

    @powered.setter
    def set_powered(self, value: DBusBool) -> None:
        self.powers.append(value)

    @dbus_property(access=PropertyAccess.READ, name="Address")
    def address(self) -> DBusStr:
        return "F0:F1:F2:F3:F4:F5"


class Monitors(ServiceInterface):
    """org.bluez.AdvertisementMonitorManager1.

    Attributes:
        registered: paths of the monitors that were registered.
    """

    def __init__(self) -> None:
        super().__init__("org.bluez.AdvertisementMonitorManager1")
        self.registered: list[str] = []

    @dbus_method(name="RegisterMonitor")
    def register_monitor(self, path: DBusObjectPath) -> None:
        self.registered.append(path)

    @dbus_method(name="UnregisterMonitor")
    def unregister_monitor(self, path: DBusObjectPath) -> None:
        self.registered.remove(path)


class Heard(ServiceInterface):
    """org.bluez.Device1: a device that the adapter hears."""

    def __init__(self, address: str, service_data: bytes) -> None:
        super().__init__("org.bluez.Device1")
        self._address = address
        self._service_data = service_data

    def say(self, service_data: bytes) -> None:
        self._service_data = service_data
        self.emit_properties_changed({"ServiceData": {FCD2: Variant("ay", service_data)}, "RSSI": -71})

    @dbus_property(access=PropertyAccess.READ, name="Address")
    def address(self) -> DBusStr:
        return self._address

    @dbus_property(access=PropertyAccess.READ, name="Alias")
    def alias(self) -> DBusStr:
        return self._address.replace(":", "-")

    @dbus_property(access=PropertyAccess.READ, name="Adapter")
    def adapter(self) -> DBusObjectPath:
        return ADAPTER_PATH

    @dbus_property(access=PropertyAccess.READ, name="Connected")
    def connected(self) -> DBusBool:
        return False

    @dbus_property(access=PropertyAccess.READ, name="RSSI")
    def rssi(self) -> Int16:
        return -71

    @dbus_property(access=PropertyAccess.READ, name="ServiceData")
    def service_data(self) -> ServiceData:
        return {FCD2: Variant("ay", self._service_data)}


class BlueZ:
    """The service, and the bus that it is on.

    Attributes:
        address: of the bus, for DBUS_SYSTEM_BUS_ADDRESS.
    """

    def __init__(self, folder: Path) -> None:
        self.address = f"unix:path={folder}/bus"
        self.adapter = Adapter()
        self.monitors = Monitors()
        self._daemon: asyncio.subprocess.Process | None = None
        self._bus: MessageBus | None = None

    async def start(self, *, service: bool = True) -> None:
        assert DAEMON is not None
        self._daemon = await asyncio.create_subprocess_exec(
            DAEMON, "--session", "--nofork", "--print-address", f"--address={self.address}",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._daemon.stdout is not None
        await self._daemon.stdout.readline()
        if service:
            self._bus = await MessageBus(self.address, BusType.SYSTEM).connect()
            self._bus.export(ADAPTER_PATH, self.adapter)
            self._bus.export(ADAPTER_PATH, self.monitors)
            await self._bus.request_name("org.bluez")

    def device(self, address: str, service_data: bytes) -> Heard:
        """Let the adapter hear a device for the first time."""
        assert self._bus is not None
        heard = Heard(address, service_data)
        self._bus.export(f"{ADAPTER_PATH}/dev_{address.replace(':', '_')}", heard)
        return heard

    async def stop(self) -> None:
        if self._bus is not None:
            self._bus.disconnect()
        if self._daemon is not None and self._daemon.returncode is None:
            self._daemon.terminate()
            await self._daemon.wait()
