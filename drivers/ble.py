"""Bluetooth sensors: an adapter that is supervised, and what its devices say by themselves.

    scan begun ──▶ UP ──nothing heard of anybody for watchdog_s──▶ scan begun anew ──again──▶ adapter reset, scan anew
                    ▲                                                                             │ again
                    └──────────────── an advert ◀── scan begun anew, with pauses ◀── DOWN ◀───────┘

Scans of BlueZ fall silent without a word after hours or days, refuse to end ("InProgress"), or never say that they
have ended. So every call is bounded, each scan is a new one, and one that does not end is left behind.

A packet that was encrypted is told only when its counter is on disk: a recording of it is refused after any restart.
What waits for the disk is committed together.
"""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

from drivers.already_said import AlreadySaid
from drivers.base import (
    Admission,
    Found,
    LineHealth,
    LineState,
    Looked,
    PolledPoint,
    Priority,
    Written,
)
from drivers.ble_scanner import Advert, BleakLineScanner, Scanner, ScannerMaker
from drivers.ble_station import Station, sight
from drivers.database import NewerSchemaError
from drivers.errors import LineDownError
from drivers.hearing import HearingDriver, LastHeard, Sightings
from drivers.key_store import Kept, KeyStore
from drivers.settings import Ble, DeviceSettings
from protocols.ble.belief import Heard
from protocols.ble.bthome import KEY_BYTES
from protocols.ble.profiles import Format
from protocols.ble.refusal import RefusedError
from protocols.clock import Clock
from protocols.errors import LocalProtocolError
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Value

MAX_WAITING: Final = 1024
"""Packets that may wait for the disk: a hundred seconds of one device's most, or a street's storm."""
SEARCH_STEPS: Final = 10
ROUNDS_TO_RESET: Final = 2
"""Scans in a row in which nothing was heard, after which the adapter is reset."""
ROUNDS_TO_DOWN: Final = 3
"""The same, after which the line is down: neither a new scan nor a reset has helped."""
ATTEMPTS_TO_RESET: Final = 3
"""Scans in a row that could not begin, at each of which the adapter is reset."""
_DISK_FAULTS: Final = (sqlite3.Error, OSError, NewerSchemaError)

T = TypeVar("T")


class _Waiting(NamedTuple):
    """A packet that is believed, whose counter is not on disk yet."""

    station: Station
    heard: Heard
    counter: int
    rssi_dbm: int | None
    now_ms: int


def open_ble(settings: Ble, devices: Sequence[DeviceSettings], clock: Clock, directory: Path) -> "BleDriver":
    """Make the driver of the Bluetooth devices around a cabinet."""
    scanners = partial(BleakLineScanner, settings.adapter, settings.scanning)
    return BleDriver(settings, devices, clock, directory, scanners)


class BleDriver(HearingDriver):
    """One adapter and the devices that it hears.

    Addresses of people's devices pass by here all day. Only declared ones are kept; of others only their adverts are
    counted, except for as long as somebody searches.

    Attributes:
        strangers: adverts of devices that nobody has declared.
        scans: how often a scan was begun.
        resets: how often the adapter was reset.
    """

    def __init__(
        self,
        settings: Ble,
        devices: Sequence[DeviceSettings],
        clock: Clock,
        directory: Path,
        scanners: ScannerMaker,
    ) -> None:
        super().__init__(settings, devices, clock)
        self.strangers = 0
        self.scans = 0
        self.resets = 0
        self._settings = settings
        self._scanners = scanners
        self._stations = {device.id: Station(device) for device in devices}
        self._by_address = {station.address: station for station in self._stations.values()}
        self._searches: set[Sightings] = set()
        self._already = AlreadySaid(self._now_ms, self._stations)
        self._store = KeyStore(directory / f"{settings.id}.db")
        self._disk = asyncio.Lock()
        self._loaded = False
        self._waiting: list[_Waiting] = []
        self._to_write = asyncio.Event()
        self._disk_fault = ""
        self._abandoned: set[asyncio.Task[None]] = set()
        self._admitting: set[asyncio.Task[None]] = set()
        self._scan_number = 0
        self._any_ms = 0
        self._deaf_rounds = 0
        self._reset_fault = ""
        self._adverts = 0
        self._refused = 0
        self._unkept = 0
        self._turned_away = 0

    # --- the contract ---

    def points(self, device: DeviceId) -> tuple[PolledPoint, ...]:
        """Return what a device says by its profile."""
        return self._station(device).points

    async def write(
        self,
        device: DeviceId,
        point: PointName,
        value: Value,  # noqa: ARG002
        *,
        ramp_s: float = 0.0,  # noqa: ARG002
        priority: Priority = Priority.COMMAND,  # noqa: ARG002
        begin_within_s: float | None = None,  # noqa: ARG002
    ) -> Written:
        """Refuse: sensors are heard, never told anything."""
        self._station(device).last.check((point,))
        raise LocalProtocolError(f"{device}'s {point} cannot be written: Bluetooth sensors are only heard")

    async def discover(self, among: Sequence[int] | None = None) -> AsyncIterator[Found | Looked]:  # noqa: ARG002
        """Tell who is heard now and what they say; see `Driver.discover`. Nothing of it is kept."""
        if self._standing.state is not LineState.UP:
            return
        seen = Sightings()
        self._searches.add(seen)
        try:
            for step in range(1, SEARCH_STEPS + 1):
                await asyncio.sleep(self._settings.search_s / SEARCH_STEPS)
                for found in seen.news(known_only=step < SEARCH_STEPS):
                    yield found
                yield Looked(step, SEARCH_STEPS)
        finally:
            self._searches.discard(seen)

    def health(self) -> LineHealth:
        """Return how the line is doing: transactions are adverts of its devices, failures those not believed."""
        return self._health(
            transactions=self._adverts,
            failures=self._refused,
            queued=len(self._waiting),
            turned_away=self._turned_away,
            named=self._named_counts(),
        )

    def _named_counts(self) -> dict[str, int]:
        """Return what was not believed and what went wrong, by name; the first scan of all is none of that."""
        refused: Counter[str] = Counter()
        for station in self._stations.values():
            refused.update({reason.value: count for reason, count in station.refused.items()})
        return {
            **refused,
            "not_kept": self._unkept,
            "strangers": self.strangers,
            "scans_begun_anew": max(self.scans - 1, 0),
            "adapter_resets": self.resets,
        }

    async def run(self) -> None:
        """Be the line's task until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._scan())
                tasks.create_task(self._write_down())
                tasks.create_task(self._watch_silence())
        finally:
            self._has_ended()
            await self._let_go()

    async def _let_go(self) -> None:
        """Leave nothing behind that we own: calls that would not end are given one last moment."""
        for task in self._abandoned:
            task.cancel()
        left = self._abandoned | self._admitting
        if left:
            await asyncio.wait(left, timeout=self._settings.patience_s)
        async with self._disk:
            self._loaded = False
            await asyncio.to_thread(self._store.close)

    # --- letting devices in ---

    async def admit(self, device: DeviceId, key: bytes, join_eui: int | None = None) -> None:
        """Keep a device's bind key, on disk when this returns; its counter begins anew.

        What was recorded of it before can be sent again until it is heard itself: after a change of its battery a
        sensor should be given a new key, not only be admitted with its old one.

        Raises:
            LocalProtocolError: if the device is not on this line, knows no keys, or this is none.
            LineDownError: if the disk does not take it.
        """
        station = self._station(device)
        if station.format is not Format.BTHOME:
            raise LocalProtocolError(
                f"{device} is an Eddystone beacon, which encrypts nothing that is read here"
            )
        if join_eui is not None:
            raise LocalProtocolError(f"{device} is a Bluetooth device, which joins nobody")
        if len(key) != KEY_BYTES:
            raise LocalProtocolError(f"a bind key has {KEY_BYTES} bytes, not {len(key)}")
        await self._load()
        keeping = asyncio.create_task(self._keep(station, key))
        self._admitting.add(keeping)
        keeping.add_done_callback(self._admitting.discard)
        await asyncio.shield(keeping)  # who asked may leave; disk and memory must not differ

    async def _keep(self, station: Station, key: bytes) -> None:
        async with self._disk:
            await self._on_disk(partial(self._store.keep, station.address, key), "the key cannot be kept")
            self._waiting = [one for one in self._waiting if one.station is not station]
            station.know(Kept(key, None))

    def admission(self, device: DeviceId) -> tuple[Admission, str]:
        """Return where a device is, and a sentence about it for a person."""
        state, text = self._station(device).admission(self._now_ms())
        return state, f"{text}; its counter cannot be kept: {self._disk_fault}" if self._disk_fault else text

    async def _load(self) -> None:
        """Learn the keys, once. Without them nothing may be believed: a plain packet may be a forged one."""
        if self._loaded:
            return
        async with self._disk:
            kept = await self._on_disk(self._store.load, "the keys cannot be read")
            for address, one in kept.items():
                if address in self._by_address:
                    self._by_address[address].know(one)
            self._loaded = True

    # --- the adapter ---

    async def _scan(self) -> NoReturn:
        while True:
            await self._one_scan()
            await asyncio.sleep(self._standing.pause_s())

    async def _one_scan(self) -> None:
        """Scan until nothing is heard any more, or it cannot be begun."""
        self._scan_number += 1
        scanner = self._scanners(partial(self._ear, self._scan_number))
        try:
            await self._load()
            if self._is_reset_due():
                await self._reset(scanner)
            await self._start(scanner)
            await self._until_deaf()
            self._hears_nothing()
        except LineDownError as fault:
            self._went_away(str(fault))
        finally:
            await self._end(scanner)

    async def _start(self, scanner: Scanner) -> None:
        self._any_ms = self._now_ms()
        try:
            await self._bounded(scanner.start(), "the adapter does not say whether it scans")
        except LineDownError:
            self._deaf_rounds = 0  # it is not deaf, it is not there
            raise
        self.scans += 1
        if 0 < self._deaf_rounds < ROUNDS_TO_DOWN:
            self._log.warning("nothing was heard, scan begun anew", watchdog_s=self._settings.watchdog_s)
        if self._deaf_rounds < ROUNDS_TO_DOWN:
            self._came_up()

    async def _until_deaf(self) -> None:
        """Return when no advert of anybody was heard for `watchdog_s`."""
        watchdog_ms = round(self._settings.watchdog_s * 1000)
        while True:
            left_ms = self._any_ms + watchdog_ms - self._now_ms()
            if left_ms <= 0:
                return
            await asyncio.sleep(left_ms / 1000)

    def _hears_nothing(self) -> None:
        self._deaf_rounds += 1
        if self._deaf_rounds < ROUNDS_TO_DOWN:
            return
        silence = f"no advert of any device for {self._deaf_rounds * self._settings.watchdog_s:g} s"
        reset = self._reset_fault or "the adapter was reset"
        self._went_away(
            f"{silence}; the scan was begun anew, {reset}, and still nothing is heard", tried=True
        )

    def _is_reset_due(self) -> bool:
        attempts = self._standing.attempts
        return self._deaf_rounds >= ROUNDS_TO_RESET or (attempts > 0 and attempts % ATTEMPTS_TO_RESET == 0)

    async def _reset(self, scanner: Scanner) -> None:
        self._reset_fault = ""
        try:
            await self._bounded(scanner.reset(), "the adapter does not say whether it was reset")
        except LineDownError as fault:
            self._reset_fault = str(fault)
        else:
            self.resets += 1
            self._log.warning("adapter was reset")

    async def _end(self, scanner: Scanner) -> None:
        self._scan_number += 1  # whatever it still tells is not heard
        try:
            await self._bounded(scanner.stop(), "the adapter does not say that its scan has ended")
        except LineDownError as fault:
            self._log.warning("scan did not end", reason=str(fault))

    async def _bounded(self, work: Coroutine[Any, Any, None], otherwise: str) -> None:
        """Do something with the adapter; leave it behind if it takes longer than `patience_s`.

        Raises:
            LineDownError: if it fails or is left behind.
        """
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task}, timeout=self._settings.patience_s)
        finally:
            if not task.done():
                task.cancel()
                self._abandoned.add(task)
                task.add_done_callback(self._forget)
        if task in self._abandoned:
            raise LineDownError(f"{otherwise} within {self._settings.patience_s:g} s")
        await task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._log.debug(
                "a call to the adapter that was left behind has failed", reason=str(task.exception())
            )

    # --- what is heard ---

    def _ear(self, scan: int, advert: Advert) -> None:
        """Hear an advert, if it is of the scan that goes on. Nothing may leave here: it is the library's callback."""
        if scan != self._scan_number:
            return
        try:
            self._hear(advert)
        except Exception:  # noqa: BLE001  told with its traceback; the line has others to hear
            self._log.exception("an advert could not be judged for a reason nobody thought of")

    def _hear(self, advert: Advert) -> None:
        now_ms = self._any_ms = self._now_ms()
        self._deaf_rounds = 0
        self._standing.proved()
        self._came_up()
        station = self._by_address.get(advert.address)
        for search in self._searches:
            search.see(sight(advert, station.id if station else None))
        if station is None:
            self.strangers += 1
        elif station.uuid in advert.service_data:
            self._judge(station, advert.service_data[station.uuid], advert.rssi_dbm, now_ms)

    def _judge(self, station: Station, data: bytes, rssi_dbm: int | None, now_ms: int) -> None:
        self._adverts += 1
        if len(self._waiting) >= MAX_WAITING:
            self._turned_away += 1
            return
        try:
            heard = station.belief.judge(data, now_ms)
        except RefusedError as fault:
            self._not_believed(station, fault)
            return
        if heard is None:
            return
        if heard.counter is None:
            self._tell(station, heard, rssi_dbm, now_ms)
            return
        self._waiting.append(_Waiting(station, heard, heard.counter, rssi_dbm, now_ms))
        self._to_write.set()

    def _not_believed(self, station: Station, fault: RefusedError) -> None:
        self._refused += 1
        station.refuse(fault)
        why = fault.refusal.value
        line = self._already.line(station.id, why)
        if line is not None:
            self._log.warning(
                "device is not believed", device=station.id, why=why, reason=str(fault), unsaid=line.unsaid
            )

    def _tell(self, station: Station, heard: Heard, rssi_dbm: int | None, now_ms: int) -> None:
        self._was_heard(station.id, now_ms)
        told = station.believe(heard, rssi_dbm, now_ms)
        if told is not None:
            self._give(told)

    # --- the disk ---

    async def _write_down(self) -> NoReturn:
        """Commit the counters of what waits, then tell it."""
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            async with self._disk:
                await self._commit(self._waiting)

    async def _commit(self, waiting: list[_Waiting]) -> None:
        self._waiting = []
        counters = {one.station.address: one.counter for one in waiting}
        if not counters:
            return
        try:
            await self._on_disk(partial(self._store.advance, counters), "counters cannot be kept")
        except LineDownError as fault:
            self._not_kept(waiting, str(fault))
            return
        self._disk_fault = ""
        for one in waiting:
            one.station.committed = one.counter
            self._tell(one.station, one.heard, one.rssi_dbm, one.now_ms)

    def _not_kept(self, waiting: list[_Waiting], reason: str) -> None:
        """Take back what could not be kept: it is not told, and its repetition may be believed later."""
        if not self._disk_fault:
            self._log.warning("counters cannot be kept, so nothing encrypted is told", reason=reason)
        self._disk_fault = reason
        self._refused += len(waiting)
        self._unkept += len(waiting)
        for one in (*waiting, *self._waiting):
            one.station.belief.counter = one.station.committed
        self._waiting = []

    async def _on_disk(self, work: Callable[[], T], otherwise: str) -> T:
        """Do something with the file in a thread; the caller holds `_disk`, and keeps it until that is done.

        Raises:
            LineDownError: if the disk does not take it.
        """
        task = asyncio.create_task(asyncio.to_thread(work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            raise
        except _DISK_FAULTS as fault:
            raise LineDownError(f"{otherwise}: {fault}") from fault

    def _last(self, device: DeviceId) -> LastHeard:
        return self._station(device).last

    def _station(self, device: DeviceId) -> Station:
        station = self._stations.get(device)
        if station is None:
            raise LocalProtocolError(f"{device} is not on {self.line}")
        return station
