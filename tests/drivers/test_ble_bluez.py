"""The cabinet's own way to Bluetooth: bleak over D-Bus to a BlueZ that is played at the wire."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drivers.ble_scanner import Advert, BleakLineScanner
from drivers.errors import LineDownError
from tests.drivers.bluez import DAEMON, BlueZ
from tests.drivers.conftest import Until

pytestmark = pytest.mark.skipif(DAEMON is None, reason="needs dbus-daemon (Debian: dbus-daemon)")
ADDRESS = "A4:C1:38:8D:18:B2"


@pytest.fixture
async def bluez(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BlueZ]:
    made = BlueZ(tmp_path)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", made.address)
    await made.start()
    yield made
    await made.stop()


async def test_adverts_come_from_bluez_by_bleak(bluez: BlueZ, until: Until) -> None:
    heard: list[Advert] = []
    scanner = BleakLineScanner("hci0", "active", heard.append)
    await scanner.start()
    assert bluez.adapter.discovering
    sensor = bluez.device(ADDRESS, b"\x40\x01\x61")
    await until(lambda: bool(heard))
    sensor.say(b"\x40\x01\x60")
    await until(lambda: heard[-1] == Advert(ADDRESS.lower(), -71, {0xFCD2: b"\x40\x01\x60"}))
    await scanner.stop()
    assert not bluez.adapter.discovering


async def test_bluez_is_asked_to_tell_what_is_said_again(bluez: BlueZ) -> None:
    scanner = BleakLineScanner("hci0", "active", lambda _: None)
    await scanner.start()
    assert bluez.adapter.filters["DuplicateData"] is True
    assert bluez.adapter.filters["Transport"] == "le"
    await scanner.stop()


async def test_a_passive_scan_registers_a_monitor_and_asks_no_device(bluez: BlueZ) -> None:
    scanner = BleakLineScanner("hci0", "passive", lambda _: None)
    await scanner.start()
    assert len(bluez.monitors.registered) == 1
    assert not bluez.adapter.discovering
    await scanner.stop()
    assert bluez.monitors.registered == []


async def test_an_adapter_is_reset_by_its_power(bluez: BlueZ) -> None:
    await BleakLineScanner("hci0", "active", lambda _: None).reset()
    assert bluez.adapter.powers == [False, True]


@pytest.mark.usefixtures("bluez")
async def test_an_adapter_that_is_not_there_is_a_reason() -> None:
    scanner = BleakLineScanner("hci7", "active", lambda _: None)
    with pytest.raises(LineDownError, match=r"hci7 does not scan: .*hci7"):
        await scanner.start()
    with pytest.raises(LineDownError, match="hci7 cannot be reset: BlueZ refuses: "):
        await scanner.reset()
    await scanner.stop()


async def test_an_adapter_that_is_busy_is_a_reason(bluez: BlueZ) -> None:
    bluez.adapter.refusing = "org.bluez.Error.InProgress"
    scanner = BleakLineScanner("hci0", "active", lambda _: None)
    with pytest.raises(LineDownError, match="InProgress"):
        await scanner.start()
    await scanner.stop()
    bluez.adapter.refusing = ""
    again = BleakLineScanner("hci0", "active", lambda _: None)
    await again.start()
    await again.stop()


async def test_a_scan_that_was_ended_is_not_heard_any_more(bluez: BlueZ, until: Until) -> None:
    old: list[Advert] = []
    new: list[Advert] = []
    first = BleakLineScanner("hci0", "active", old.append)
    await first.start()
    sensor = bluez.device(ADDRESS, b"\x40\x01\x61")
    await until(lambda: bool(old))
    await first.stop()
    second = BleakLineScanner("hci0", "active", new.append)
    await second.start()
    before = len(old)
    sensor.say(b"\x40\x01\x60")
    await until(lambda: bool(new))
    assert len(old) == before
    await second.stop()


async def test_a_bus_without_bluetooth_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = BlueZ(tmp_path)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bare.address)
    await bare.start(service=False)
    async with asyncio.timeout(10):
        with pytest.raises(LineDownError, match="hci0 does not scan"):
            await BleakLineScanner("hci0", "active", lambda _: None).start()
    await bare.stop()
