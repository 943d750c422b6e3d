"""The Bluetooth driver on a virtual radio: failing adapters, and adverts that nobody should believe."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from bumble.core import AdvertisingData

from drivers.already_said import AGAIN_MS
from drivers.base import Admission, Found, LineState, Looked
from drivers.ble import BleDriver, open_ble
from drivers.errors import LineDownError
from drivers.settings import Ble, DeviceSettings
from protocols.ble.belief import BURST
from protocols.errors import LocalProtocolError
from protocols.model.device import Kind, Report
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.reading import Reason, Sample
from tests.contracts.hardware import tick
from tests.drivers.ble_air import EDDYSTONE, Air
from tests.drivers.conftest import LoopClock, Until
from tests.protocols.ble.sealing import KEY, seal

DOOR, ROOM, BEACON = DeviceId("door"), DeviceId("room"), DeviceId("beacon")
ADDRESSES = {DOOR: "c0:11:22:33:44:01", ROOM: "c0:11:22:33:44:02", BEACON: "c0:11:22:33:44:03"}
PROFILES = {DOOR: "bthome-buttons-4", ROOM: "bthome-thermometer", BEACON: "eddystone"}
WARMTH = PointName("temperature")
WARM = bytes.fromhex("02ca09")
STRANGER = "c0:99:99:99:99:99"


class Street:
    """A virtual radio, the driver that listens to it, and all that it said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = LoopClock()
        self.air = Air()
        self.sensors = {device: self.air.sensor(address) for device, address in ADDRESSES.items()}
        self.said: list[Sample] = []
        self.logs: list[Any] = []
        self.driver = self.made()
        self.task: asyncio.Task[None] | None = None

    def made(self, **settings: Any) -> BleDriver:  # noqa: ANN401  any setting
        line = Ble(
            id=LineId("ble-1"),
            **{
                "watchdog_s": 60.0,
                "silence_s": 60.0,
                "search_s": 0.3,
                "patience_s": 1.0,
                "reconnect_s": 0.01,
                "reconnect_bound_s": 0.02,
                **settings,
            },
        )
        devices = [
            DeviceSettings(
                id=device,
                kind=Kind.SENSOR,
                line=line.id,
                address=address,
                map=PROFILES[device],
                heartbeat_s=77,
            )
            for device, address in ADDRESSES.items()
        ]
        return BleDriver(line, devices, self.clock, self.folder, self.air.scanner)

    def begin(self, **settings: Any) -> BleDriver:  # noqa: ANN401  any setting
        self.driver = self.made(**settings)
        self.driver.on_sample = self.said.append
        self.task = asyncio.create_task(self.driver.run())
        return self.driver

    async def end(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
            self.task = None

    def told(self, device: DeviceId, point: PointName = WARMTH) -> list[object]:
        return [
            one.values[one.points.index(point)]
            for one in self.said
            if one.device == device and point in one.points
        ]

    def has_told(self, device: DeviceId, times: int, point: PointName = WARMTH) -> bool:
        return len(self.told(device, point)) >= times

    def has_refused(self, times: int) -> bool:
        return self.driver.health().failures >= times

    def has_queued(self, packets: int) -> bool:
        return self.driver.health().queued == packets

    def reasons(self, device: DeviceId) -> list[Reason]:
        return [fault.reason for one in self.said if one.device == device for fault in one.faults.values()]

    def events(self) -> list[str]:
        return [entry["event"] for entry in self.logs]

    async def say_sealed(self, body: bytes, counter: int, **how: Any) -> None:  # noqa: ANN401
        address = bytes.fromhex(ADDRESSES[ROOM].replace(":", ""))
        await self.sensors[ROOM].say(seal(body, counter, address=address, **how))


@pytest.fixture
async def street(tmp_path: Path) -> AsyncIterator[Street]:
    made = Street(tmp_path)
    with structlog.testing.capture_logs() as logs:
        made.logs = logs
        yield made
        await made.air.hush()
        await made.end()


async def still(times: int = 5) -> None:
    """Let a few of a sensor's adverts pass."""
    loop = asyncio.get_running_loop()
    passed = loop.create_future()
    loop.call_later(0.02 * times, passed.set_result, None)
    await passed


# --- what is heard ---


async def test_a_beacon_and_a_thermometer_are_heard_through_the_radio(street: Street, until: Until) -> None:
    street.begin()
    await street.sensors[ROOM].say(b"\x40\x01\x61" + WARM + b"\x03\xbf\x13\x2d\x01")
    await street.sensors[BEACON].say(bytes.fromhex("20000bb819800000010200000a0b"), EDDYSTONE)
    await until(lambda: bool(street.told(ROOM)) and bool(street.told(BEACON)))
    room = next(one for one in street.said if one.device == ROOM)
    assert dict(zip(room.points, room.values, strict=True)) == {
        "battery_level": 97,
        "temperature": 25.06,
        "relative_humidity": 50.55,
    }
    beacon = await street.driver.read(BEACON, [PointName("battery_voltage"), WARMTH])
    assert beacon.values == (3.0, 25.5)
    assert street.driver.health().failures == 0


async def test_what_a_profile_does_not_have_is_counted_and_never_a_reading(
    street: Street, until: Until
) -> None:
    street.begin()
    await street.sensors[ROOM].say(b"\x40" + WARM + b"\x02\xcb\x09\x2d\x01\x66\x00\x00")
    await until(lambda: bool(street.told(ROOM)))
    assert street.said[0].points == ("temperature",)
    text = street.driver.admission(ROOM)[1]
    assert "beyond its profile: 2 values, 3 bytes" in text
    await street.sensors[ROOM].say(b"\x40\x2d\x00")
    await still()
    assert len(street.said) == 1


async def test_points_do_not_depend_on_what_was_heard(street: Street) -> None:
    points = street.driver.points(DOOR)
    assert [one.point.name for one in points] == [
        "button",
        "button_2",
        "button_3",
        "button_4",
        "battery_level",
    ]
    assert {one.poll_s for one in points} == {None}
    assert [one.report for one in points] == [Report.EACH] * 4 + [Report.CHANGE]
    assert {one.heartbeat_s for one in points} == {77}


async def test_each_press_is_told_once_though_its_advert_is_repeated(street: Street, until: Until) -> None:
    street.begin()
    button = PointName("button")
    for number in range(3):
        await street.sensors[DOOR].say(bytes((0x40, 0x00, number, 0x3A, 0x01)))
        await until(partial(street.has_told, DOOR, number + 1, button))
        await still(3)
    assert street.told(DOOR, button) == ["press"] * 3


async def test_garbage_is_counted_and_named_and_its_neighbour_is_heard(street: Street, until: Until) -> None:
    street.begin()
    await street.sensors[DOOR].say(b"\x40\x03\xbf\x13\x02\xca\x09")
    await street.sensors[ROOM].say(b"\x40" + WARM)
    await until(lambda: bool(street.told(ROOM)) and street.driver.health().failures > 3)
    assert {one.device for one in street.said} == {ROOM}
    state, text = street.driver.admission(DOOR)
    assert state is Admission.AWAITED
    assert "object 02 after 03" in text
    assert " order" in text
    assert street.events().count("device is not believed") == 1
    health = street.driver.health()
    assert health.named["order"] == health.failures


async def test_a_refusal_is_said_again_after_an_hour_and_counts_what_was_not_said(
    street: Street, until: Until
) -> None:
    driver = street.begin()
    await street.sensors[DOOR].say(b"\x40\x03\xbf\x13\x02\xca\x09")
    await until(lambda: driver.health().failures > 3)
    street.clock.ahead_ms = AGAIN_MS
    await until(lambda: street.events().count("device is not believed") == 2)
    first, again = [one for one in street.logs if one["event"] == "device is not believed"]
    assert (first["device"], first["why"], first["unsaid"]) == (DOOR, "order", 0)
    assert (again["device"], again["why"]) == (DOOR, "order")
    assert 3 <= again["unsaid"] <= driver.health().named["order"] - 2


async def test_service_data_of_another_kind_does_not_count_as_its_own(street: Street) -> None:
    street.begin()
    await street.sensors[ROOM].say(bytes.fromhex("20000bb819800000010200000a0b"), EDDYSTONE)
    await street.sensors[DOOR].advertise(
        (AdvertisingData.Type.MANUFACTURER_SPECIFIC_DATA, b"\x4c\x00\x02\x15")
    )
    await still()
    assert street.said == []
    assert street.driver.health().transactions == 0


async def test_a_flood_of_adverts_is_cut_to_what_a_sensor_would_say(street: Street, until: Until) -> None:
    driver = street.begin()
    await until(lambda: driver.health().state is LineState.UP)
    for number in range(5000):
        await street.sensors[ROOM].say(b"\x40\x02" + number.to_bytes(2, "little"))
        if driver.health().failures > 0:
            break
    assert len(street.said) < 2 * BURST
    assert "flood" in street.driver.admission(ROOM)[1]
    await street.sensors[DOOR].say(b"\x40\x01\x32")
    await until(lambda: bool(street.told(DOOR, PointName("battery_level"))))


async def test_one_who_cannot_take_what_is_said_does_not_harm_the_line(street: Street, until: Until) -> None:
    street.begin()

    def refuse(_: Sample) -> None:
        raise KeyError("nobody")

    street.driver.on_sample = refuse
    await street.sensors[ROOM].say(b"\x40" + WARM)
    await until(lambda: "what a device said could not be taken" in street.events())
    street.driver.on_sample = street.said.append
    await street.sensors[ROOM].say(b"\x40\x02\xcb\x09")
    await until(lambda: street.told(ROOM) == [25.07])


# --- keys ---


async def test_an_encrypted_device_is_heard_with_its_key_and_not_without(
    street: Street, until: Until
) -> None:
    driver = street.begin()
    await street.say_sealed(WARM, 5)
    await until(lambda: driver.admission(ROOM)[0] is Admission.NO_KEY)
    assert street.said == []
    await driver.admit(ROOM, KEY)
    assert driver.admission(ROOM)[0] is Admission.AWAITED
    await until(lambda: street.told(ROOM) == [25.06])
    state, text = driver.admission(ROOM)
    assert state is Admission.HEARD
    assert "counter 5" in text


async def test_a_recording_is_refused_now_and_after_a_restart(street: Street, until: Until) -> None:
    await street.begin().admit(ROOM, KEY)
    await street.say_sealed(WARM, 5)
    await until(lambda: len(street.told(ROOM)) == 1)
    await street.say_sealed(b"\x02\xcb\x09", 9)
    await until(lambda: len(street.told(ROOM)) == 2)
    for _ in range(2):
        before = street.driver.health().failures
        await street.say_sealed(WARM, 5)
        await until(partial(street.has_refused, before + 1))
        await street.say_sealed(b"\x02\xcb\x09", 9)
        await still()
        await street.end()
        street.begin()
    assert street.told(ROOM) == [25.06, 25.07]
    await street.say_sealed(b"\x02\xcc\x09", 10)
    await until(lambda: street.told(ROOM)[-1] == 25.08)


async def test_a_counter_is_on_disk_before_its_value_is_told(street: Street, until: Until) -> None:
    driver = street.begin()
    await driver.admit(ROOM, KEY)
    on_disk: list[int] = []

    def look(_: Sample) -> None:
        with contextlib.closing(sqlite3.connect(street.folder / "ble-1.db")) as other:
            on_disk.extend(other.execute("SELECT counter FROM device").fetchone())

    driver.on_sample = look
    for counter in (7, 8, 300):
        await street.say_sealed(WARM, counter)
        await until(partial(on_disk.__contains__, counter))
    assert on_disk == [7, 8, 300]


async def test_a_sensor_that_began_anew_is_named_and_heard_after_it_was_admitted_anew(
    street: Street, until: Until
) -> None:
    driver = street.begin()
    await driver.admit(ROOM, KEY)
    await street.say_sealed(WARM, 900)
    await until(lambda: bool(street.told(ROOM)))
    await street.say_sealed(b"\x02\xcb\x09", 1)
    await until(lambda: "went back from 900 to 1" in driver.admission(ROOM)[1])
    assert "admit it anew" in driver.admission(ROOM)[1]
    assert street.told(ROOM) == [25.06]
    await driver.admit(ROOM, KEY)
    await until(lambda: street.told(ROOM) == [25.06, 25.07])


async def test_a_plain_advert_of_a_device_with_a_key_is_refused_also_after_a_restart(
    street: Street, until: Until
) -> None:
    await street.begin().admit(ROOM, KEY)
    await street.sensors[ROOM].say(b"\x40\x02\xff\x7f")
    for _ in range(2):
        await until(lambda: street.driver.health().failures > 2)
        assert "although its device has a key" in street.driver.admission(ROOM)[1]
        await street.end()
        street.begin()
    await until(lambda: street.driver.health().failures > 2)
    assert street.told(ROOM) == []


async def test_a_wrong_key_is_told_as_a_forgery(street: Street, until: Until) -> None:
    driver = street.begin()
    await driver.admit(ROOM, bytes(16))
    await street.say_sealed(WARM, 5)
    await until(lambda: driver.health().failures > 0)
    assert "forged" in driver.admission(ROOM)[1]
    assert street.said == []


async def test_keys_that_cannot_be_read_mean_that_nothing_is_believed(street: Street, until: Until) -> None:
    """Otherwise whoever can break the file could speak for every device with a key."""
    await street.begin().admit(ROOM, KEY)
    await street.end()
    path = street.folder / "ble-1.db"
    kept = path.read_bytes()
    path.write_bytes(b"this is no database, and longer than a header of one" * 100)
    await street.sensors[ROOM].say(b"\x40" + WARM)
    driver = street.begin()
    await until(lambda: driver.health().state is LineState.DOWN)
    assert "keys cannot be read" in driver.health().reason
    with pytest.raises(LineDownError, match="keys cannot be read"):
        await driver.admit(ROOM, KEY)
    await still()
    assert street.told(ROOM, WARMTH) == [None]
    path.write_bytes(kept)
    await until(lambda: driver.health().failures > 0)
    assert street.told(ROOM, WARMTH) == [None]


async def test_a_counter_that_cannot_be_kept_is_not_told_and_its_repetition_is(
    street: Street, until: Until
) -> None:
    driver = street.begin()
    await driver.admit(ROOM, KEY)
    with contextlib.closing(sqlite3.connect(street.folder / "ble-1.db", isolation_level=None)) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE UPDATE ON device BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        )
        await street.say_sealed(WARM, 5)
        await until(lambda: "disk is full" in driver.admission(ROOM)[1])
        assert street.said == []
        await street.sensors[DOOR].say(b"\x40\x01\x32")
        await until(lambda: bool(street.told(DOOR, PointName("battery_level"))))
        other.execute("DROP TRIGGER full")
    await until(lambda: street.told(ROOM) == [25.06])
    assert "disk is full" not in driver.admission(ROOM)[1]
    assert street.events().count("counters cannot be kept, so nothing encrypted is told") == 1
    health = driver.health()
    assert health.named["not_kept"] == health.failures > 0


async def test_what_waits_for_the_disk_is_committed_together(street: Street, until: Until) -> None:
    driver = street.begin()
    await driver.admit(ROOM, KEY)
    with contextlib.closing(sqlite3.connect(street.folder / "ble-1.db", isolation_level=None)) as other:
        other.execute("CREATE TABLE moves (counter INTEGER)")
        other.execute(
            "CREATE TRIGGER move AFTER UPDATE ON device BEGIN INSERT INTO moves VALUES (new.counter); END"
        )
        async with driver._disk:
            for counter in range(1, 9):
                await street.say_sealed(b"\x02" + counter.to_bytes(2, "little"), counter)
                await until(partial(street.has_queued, counter))
        await until(lambda: len(street.told(ROOM)) == 8)
        assert other.execute("SELECT counter FROM moves").fetchall() == [(8,)]
    assert street.told(ROOM) == [n / 100 for n in range(1, 9)]


async def test_what_waits_for_the_disk_is_bounded(
    street: Street, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "drivers.ble.MAX_WAITING", 3
    )  # the bound itself would take a hundred seconds to reach
    driver = street.begin()
    await driver.admit(ROOM, KEY)
    async with driver._disk:
        for counter in range(1, 7):
            await street.say_sealed(WARM, counter)
            await still(3)
        assert driver.health().queued == 3
        assert driver.health().turned_away > 0
    await until(lambda: driver.admission(ROOM)[1].endswith("counter 6"))


async def test_what_waits_while_a_device_is_admitted_anew_is_not_told(street: Street, until: Until) -> None:
    driver = street.begin()
    await driver.admit(ROOM, KEY)
    async with driver._disk:
        admitted = asyncio.create_task(driver.admit(ROOM, KEY[::-1]))
        await asyncio.sleep(0)
        await street.say_sealed(WARM, 900)
        await until(partial(street.has_queued, 1))
    await admitted
    await street.say_sealed(b"\x02\xcb\x09", 1, key=KEY[::-1])
    await until(partial(street.has_told, ROOM, 1))
    assert street.told(ROOM) == [25.07]


async def test_who_leaves_during_an_admission_leaves_disk_and_memory_alike(
    street: Street, until: Until
) -> None:
    driver = street.begin()
    await until(lambda: driver.health().state is LineState.UP)
    asking = asyncio.create_task(driver.admit(ROOM, KEY))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: driver.admission(ROOM)[1].startswith("its key is known"))
    await street.end()
    assert street.begin() is not driver
    await until(lambda: street.driver.admission(ROOM)[1].startswith("its key is known"))


async def test_a_key_belongs_to_its_hardware_and_not_to_its_name(street: Street, until: Until) -> None:
    await street.begin().admit(ROOM, KEY)
    await street.end()
    with contextlib.closing(sqlite3.connect(street.folder / "ble-1.db", isolation_level=None)) as other:
        other.execute("UPDATE device SET address = 'c0:00:00:00:00:00'")
    driver = street.begin()
    await street.say_sealed(WARM, 5)
    await until(lambda: driver.admission(ROOM)[0] is Admission.NO_KEY)


@pytest.mark.parametrize(
    ("device", "key", "join_eui"),
    [
        (DeviceId("nobody"), KEY, None),
        (ROOM, KEY[1:], None),
        (ROOM, b"", None),
        (ROOM, KEY, 7),
        (BEACON, KEY, None),
    ],
)
async def test_what_cannot_be_admitted_is_our_fault(
    street: Street, device: DeviceId, key: bytes, join_eui: int | None
) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        await street.driver.admit(device, key, join_eui)
    assert KEY.hex() not in str(caught.value)
    assert not (street.folder / "ble-1.db").exists()


async def test_a_key_is_in_no_log_no_text_and_no_representation(street: Street, until: Until) -> None:
    driver = street.begin()
    await driver.admit(ROOM, KEY)
    await street.say_sealed(WARM, 5)
    await until(lambda: bool(street.told(ROOM)))
    await street.say_sealed(WARM, 4)
    await until(lambda: driver.health().failures > 0)
    await street.say_sealed(WARM, 6, key=bytes(16))
    await until(lambda: driver.admission(ROOM)[1].count("forged") > 0)
    told = f"{street.logs!r} {driver!r} {driver.admission(ROOM)!r} {driver.health()!r} {vars(driver)!r}"
    told += repr([vars(station) for station in driver._stations.values()])
    assert KEY.hex() not in told
    assert repr(KEY) not in told


# --- strangers ---


async def test_of_strangers_only_a_count_is_kept(street: Street, until: Until) -> None:
    driver = street.begin()
    await street.air.sensor(STRANGER).say(b"\x40" + WARM)
    await until(lambda: driver.strangers > 3)
    [_ async for _ in driver.discover()]
    kept = f"{vars(driver)!r} {street.logs!r} {driver.health()!r}"
    assert STRANGER not in kept
    assert STRANGER.upper() not in kept
    assert driver._searches == set()
    assert STRANGER.encode() not in b"".join(path.read_bytes() for path in street.folder.iterdir())
    assert street.said == []


async def test_a_search_tells_what_each_says_and_which_are_declared(street: Street) -> None:
    driver = street.begin()
    await driver.admit(ROOM, KEY)
    await street.say_sealed(WARM, 5)
    await street.sensors[BEACON].say(bytes.fromhex("20000bb819800000010200000a0b"), EDDYSTONE)
    await street.air.sensor(STRANGER).say(b"\x40" + WARM + b"\x2d\x07")
    await street.air.sensor("c0:99:99:99:99:98").say(b"\x60\x01")
    await street.air.sensor("c0:99:99:99:99:97").say(b"\x00\xee" + bytes(range(16)), EDDYSTONE)
    await street.air.sensor("c0:99:99:99:99:96").advertise(
        (AdvertisingData.Type.COMPLETE_LOCAL_NAME, b"somebody's telephone")
    )
    found: dict[str, Found] = {}
    steps = []
    async for sight in driver.discover():
        if isinstance(sight, Found):
            assert sight.address not in found
            found[sight.address] = sight
        else:
            steps.append(sight)
    assert steps[-1] == Looked(10, 10)
    told = {address: (one.text, one.kind, one.device) for address, one in found.items()}
    assert told == {
        ADDRESSES[ROOM]: ("BTHome v2, encrypted, -50 dBm", Kind.SENSOR, ROOM),
        ADDRESSES[BEACON]: ("Eddystone telemetry, battery 3 V, -50 dBm", Kind.SENSOR, BEACON),
        STRANGER: ("BTHome v2: temperature 25.06, window_open unclear, -50 dBm", Kind.SENSOR, None),
        "c0:99:99:99:99:98": (
            "BTHome, not readable: BTHome version 3; only 2 is read, -50 dBm",
            Kind.SENSOR,
            None,
        ),
        "c0:99:99:99:99:97": (
            "Eddystone beacon 00010203040506070809 0a0b0c0d0e0f, -50 dBm",
            Kind.SENSOR,
            None,
        ),
        "c0:99:99:99:99:96": ("unknown, -50 dBm", None, None),
    }


async def test_a_search_that_is_left_keeps_nothing(street: Street, until: Until) -> None:
    driver = street.begin()
    await street.air.sensor(STRANGER).say(b"\x40" + WARM)
    await until(lambda: driver.strangers > 0)
    search = driver.discover()
    await anext(search)
    await search.aclose()  # type: ignore[attr-defined]  # an asynchronous generator
    assert driver._searches == set()


async def test_on_a_line_that_is_down_a_search_finds_nothing_at_once(street: Street, until: Until) -> None:
    street.air.plugged = False
    driver = street.begin()
    await until(lambda: driver.health().state is LineState.DOWN)
    assert [sight async for sight in driver.discover()] == []


# --- the adapter ---


async def test_a_scan_that_dies_silently_is_begun_anew_and_that_is_told(street: Street, until: Until) -> None:
    driver = street.begin(watchdog_s=0.3)
    await street.sensors[ROOM].say(b"\x40" + WARM)
    await until(lambda: bool(street.told(ROOM)))
    street.air.deaf = True
    await until(lambda: street.air.started == 2)
    assert driver.health().state is LineState.UP
    street.air.deaf = False
    await street.sensors[ROOM].say(b"\x40\x02\xcb\x09")
    await until(lambda: street.told(ROOM) == [25.06, 25.07])
    assert "nothing was heard, scan begun anew" in street.events()
    assert (driver.scans, driver.resets) == (2, 0)


async def test_an_adapter_that_stays_deaf_is_reset(street: Street, until: Until) -> None:
    driver = street.begin(watchdog_s=0.2)
    await street.sensors[ROOM].say(b"\x40" + WARM)
    await until(lambda: bool(street.told(ROOM)))
    street.air.deaf_until_reset = True
    await until(lambda: street.air.resets == 1)
    await until(lambda: "adapter was reset" in street.events())
    await street.sensors[ROOM].say(b"\x40\x02\xcb\x09")
    await until(lambda: street.told(ROOM) == [25.06, 25.07])
    assert driver.health().state is LineState.UP
    assert driver.health().reconnections == 0


@pytest.mark.parametrize("resettable", [True, False])
async def test_a_line_that_hears_nobody_whatever_is_tried_is_down_until_it_hears(
    street: Street, until: Until, resettable: bool
) -> None:
    street.air.deaf = True
    street.air.resettable = resettable
    await street.sensors[ROOM].say(b"\x40" + WARM)
    driver = street.begin(watchdog_s=0.05)
    await until(lambda: driver.health().state is LineState.DOWN)
    reason = driver.health().reason
    assert "no advert of any device for 0.15 s" in reason
    assert ("the adapter was reset" if resettable else "hci0 cannot be reset") in reason
    assert street.reasons(ROOM) == [Reason.LINE_DOWN] * 3
    began = street.air.started
    await until(lambda: street.air.started > began + 2)
    assert driver.health().state is LineState.DOWN
    street.air.deaf = False
    await until(lambda: driver.health().state is LineState.UP)
    await until(lambda: street.told(ROOM)[-1] == 25.06)
    assert [event for event in street.events() if event.startswith("line")] == [
        "line went down",
        "line is back",
    ]


async def test_a_scan_whose_end_hangs_is_left_behind(street: Street, until: Until) -> None:
    street.begin(watchdog_s=0.1, patience_s=0.1)
    await until(lambda: street.air.started == 1)
    street.air.stop_hangs = True
    await street.sensors[ROOM].say(b"\x40" + WARM)
    await until(lambda: bool(street.told(ROOM)))
    street.air.deaf = True
    await until(lambda: street.air.started == 2)
    street.air.deaf = False
    async with asyncio.timeout(10):
        while street.told(ROOM) != [25.06, 25.07]:  # the scan may be begun anew once more just then
            await street.sensors[ROOM].say(b"\x40\x02\xcb\x09")
            await tick()
    assert "scan did not end" in street.events()
    async with asyncio.timeout(5):
        await street.end()


async def test_a_scan_that_was_left_behind_is_not_heard_any_more(street: Street, until: Until) -> None:
    """Otherwise it could hide that the new one is deaf."""
    driver = street.begin(watchdog_s=0.05, patience_s=0.05)
    street.air.stop_hangs = True
    await until(lambda: street.air.started == 2)
    street.air.backends[0].hear(ADDRESSES[ROOM], b"\x40" + WARM)
    assert (driver.health().transactions, street.said) == (0, [])
    street.air.backends[1].hear(ADDRESSES[ROOM], b"\x40" + WARM)
    assert street.told(ROOM) == [25.06]


async def test_a_scan_that_refuses_to_end_is_replaced(street: Street, until: Until) -> None:
    street.air.stop_refuses = True
    driver = street.begin(watchdog_s=0.1)
    await until(lambda: street.air.started == 2)
    assert driver.health().state is LineState.UP
    told = next(entry for entry in street.logs if entry["event"] == "scan did not end")
    assert "InProgress" in told["reason"]


async def test_an_adapter_that_does_not_say_whether_it_scans_is_down_with_that_reason(
    street: Street, until: Until
) -> None:
    street.air.start_hangs = True
    driver = street.begin(patience_s=0.05)
    await until(lambda: driver.health().state is LineState.DOWN)
    assert driver.health().reason == "the adapter does not say whether it scans within 0.05 s"
    assert (await driver.read(ROOM, [WARMTH])).fault(0).reason is Reason.LINE_DOWN  # type: ignore[union-attr]
    street.air.start_hangs = False
    await until(lambda: driver.health().state is LineState.UP)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (FileNotFoundError(2, "No such file or directory"), "no D-Bus"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (EOFError(), "EOFError"),
        (AssertionError(), "AssertionError"),
    ],
)
async def test_whatever_the_library_raises_is_a_reason(
    street: Street, until: Until, fault: Exception, said: str
) -> None:
    street.air.start_raises = fault
    driver = street.begin()
    await until(lambda: driver.health().state is LineState.DOWN)
    assert said in driver.health().reason
    assert driver.health().reason.startswith("hci0 does not scan: ")
    await until(lambda: street.air.resets > 0)
    street.air.start_raises = None
    await until(lambda: driver.health().state is LineState.UP)
    assert driver.health().reconnections == 1


async def test_without_bluetooth_the_driver_of_the_cabinet_says_so(
    tmp_path: Path, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By bleak's own backend, on a machine whose D-Bus is not there."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/no-bus")
    settings = Ble(id=LineId("ble-1"), reconnect_s=0.01, reconnect_bound_s=0.02)
    driver = open_ble(settings, [], LoopClock(), tmp_path)
    task = asyncio.create_task(driver.run())
    await until(lambda: driver.health().state is LineState.DOWN)
    assert driver.health().reason == (
        "hci0 does not scan: no D-Bus, so no Bluetooth service, on this machine"
    )
    await until(lambda: bool(driver._reset_fault))
    assert "hci0 cannot be reset" in driver._reset_fault
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# --- silence ---


async def test_each_device_has_its_own_time_and_falls_silent_by_itself(street: Street, until: Until) -> None:
    driver = street.begin(silence_s=0.3)
    await street.sensors[ROOM].say(b"\x40" + WARM)
    await until(lambda: street.reasons(DOOR) != [])
    assert set(street.reasons(DOOR)) == {Reason.NO_ANSWER}
    assert street.reasons(ROOM) == []
    assert driver.health().silent == (BEACON, DOOR)
    assert street.events().count("device is silent") == 2
    await street.sensors[ROOM].hush()
    await until(lambda: ROOM in driver.health().silent)
    quiet = await driver.read(ROOM, [WARMTH])
    assert (quiet.values, [fault.reason for fault in quiet.faults.values()]) == ((None,), [Reason.NO_ANSWER])
    await street.sensors[ROOM].say(b"\x40" + WARM)
    await until(lambda: ROOM not in driver.health().silent)
    assert (await driver.read(ROOM, [WARMTH])).values == (25.06,)
    assert "device is heard again" in street.events()
    await street.sensors[ROOM].hush()
    await until(lambda: ROOM in driver.health().silent)


async def test_a_recording_played_for_ever_does_not_keep_a_stolen_sensor_alive(
    street: Street, until: Until
) -> None:
    driver = street.begin(silence_s=0.5)
    await driver.admit(ROOM, KEY)
    await street.say_sealed(WARM, 5)
    await until(lambda: bool(street.told(ROOM)))
    await until(lambda: ROOM in driver.health().silent)
    assert driver.health().transactions > 20, "it was heard all the time"


async def test_when_its_task_ends_everything_is_let_go(street: Street, until: Until) -> None:
    driver = street.begin()
    await until(lambda: driver.health().state is LineState.UP)
    await street.end()
    assert len(street.air.link.controllers) == 0
    assert driver.health().state is LineState.DOWN
    assert driver._store._connection is None
    assert (await driver.read(ROOM, [WARMTH])).values == (None,)
