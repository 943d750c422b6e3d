"""Reads every device as often as its points ask for, one line at a time, and takes what devices say by themselves.

A line has one reader, so that at most one poll of it waits at any time: whatever else somebody wants of the
line passes ahead, and a slow device delays its own line only. What could not be read in time is skipped and
counted, never queued.
"""

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Callable, Sequence

import msgspec

from drivers.base import Driver, PolledPoint
from edge.keeper import Keeper
from protocols.model.device import StreamClass
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Sample


class Watched(msgspec.Struct, frozen=True):
    """A device that is to be polled."""

    device: DeviceId
    stream: StreamClass
    driver: Driver


class _Round(msgspec.Struct):
    """Points of one device that are read together, every `period_s`."""

    device: DeviceId
    stream: StreamClass
    points: tuple[PointName, ...]
    period_s: float
    keeper: Keeper


class _Ear(msgspec.Struct):
    """The points of one device that it says by itself."""

    stream: StreamClass
    keeper: Keeper


class Poller:
    """Polls one line, and hears it.

    Attributes:
        skipped: rounds that could not be read in time.
        read: samples read.
    """

    def __init__(
        self,
        driver: Driver,
        devices: Sequence[Watched],
        on_sample: Callable[[Sample], None],
        take: Callable[[StreamClass, Sample], None],
    ) -> None:
        self.skipped = 0
        self.read = 0
        self._driver = driver
        self._rounds = [found for device in devices for found in _rounds(device)]
        self._ears = {device.device: ear for device in devices if (ear := _ear(device)) is not None}
        self._on_sample = on_sample
        self._take = take
        self._finishing = False
        self._alarm: asyncio.Future[None] | None = None

    def hear(self, sample: Sample) -> None:
        """Take what a device said by itself."""
        ear = self._ears[sample.device]
        self.read += 1
        self._on_sample(sample)
        kept = ear.keeper.keep(sample)
        if kept is not None:
            self._take(ear.stream, kept)

    def finish(self) -> None:
        """Begin no further read; `run` returns when the one under way has been received."""
        self._finishing = True
        _ring(self._alarm)

    async def run(self) -> None:
        """Poll until finished or cancelled."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        due = [(start, position) for position in range(len(self._rounds))]
        heapq.heapify(due)
        while due and not self._finishing:
            when, position = due[0]
            if when > loop.time():
                await self._sleep_until(when)
                continue
            one = self._rounds[position]
            sample = await self._driver.read(one.device, one.points)
            self._receive(one, sample)
            heapq.heapreplace(due, (self._next(when, one.period_s, loop.time()), position))

    async def _sleep_until(self, when: float) -> None:
        """Sleep, but wake up to finish; as cheap as `asyncio.sleep`, for there is one of these a device."""
        loop = asyncio.get_running_loop()
        self._alarm = loop.create_future()
        timer = loop.call_at(when, _ring, self._alarm)
        try:
            await self._alarm
        finally:
            timer.cancel()
            self._alarm = None

    def _receive(self, one: _Round, sample: Sample) -> None:
        self.read += 1
        self._on_sample(sample)
        kept = one.keeper.keep(sample)
        if kept is not None:
            self._take(one.stream, kept)

    def _next(self, when: float, period_s: float, now: float) -> float:
        following = when + period_s
        if following <= now:
            missed = int((now - following) // period_s) + 1
            self.skipped += missed
            following += missed * period_s
        return following


def _ring(alarm: asyncio.Future[None] | None) -> None:
    if alarm is not None and not alarm.done():
        alarm.set_result(None)


def _rounds(watched: Watched) -> list[_Round]:
    """Group a device's points by how often they are read."""
    groups: dict[float, list[PolledPoint]] = defaultdict(list)
    for point in watched.driver.points(watched.device):
        if point.poll_s is not None:
            groups[point.poll_s].append(point)
    return [
        _Round(
            watched.device,
            watched.stream,
            tuple(point.point.name for point in points),
            period_s,
            Keeper(points),
        )
        for period_s, points in groups.items()
    ]


def _ear(watched: Watched) -> _Ear | None:
    said = [point for point in watched.driver.points(watched.device) if point.poll_s is None]
    return _Ear(watched.stream, Keeper(said)) if said else None
