"""What the cabinet's tests stand on: a clock in hand, an outbox's reader, waiting without sleeping."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from edge.ballast import Ballast
from edge.config import OutboxSettings
from edge.outbox.outbox import Outbox
from edge.outbox.store import Gathered, OutboxStore
from protocols.backhaul.codec import samples, unseal
from protocols.backhaul.messages import Batch, Event, GapEvent
from protocols.clock import ClockQuality, Instant
from protocols.model.device import StreamClass
from protocols.model.ids import CabinetId, DeviceId, PointName
from protocols.model.reading import Sample, sample

CABINET = CabinetId("dijon-0001")
NOON_MS = 1_795_521_600_000
WAIT_S = 20.0
ORDINARY, EVENTS, BULK = StreamClass.ORDINARY, StreamClass.EVENTS, StreamClass.BULK


class HandClock:
    """A clock that stands where it was put."""

    def __init__(self, utc_ms: int = NOON_MS, quality: ClockQuality = ClockQuality.SYNCHRONISED) -> None:
        self.monotonic_ms = 1_000_000
        self.utc_ms = utc_ms
        self.civil_ms = utc_ms
        self.quality = quality

    def now(self) -> Instant:
        return Instant(self.monotonic_ms, self.utc_ms, self.quality)

    def civil(self) -> Instant:
        return Instant(self.monotonic_ms, self.civil_ms, self.quality)

    def advance(self, seconds: float) -> None:
        step_ms = round(seconds * 1000)
        self.monotonic_ms += step_ms
        self.utc_ms += step_ms
        self.civil_ms += step_ms


async def until(holds: Callable[[], bool], what: str = "") -> None:
    """Let the loop run until something holds; it is looked at each 10 ms."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + WAIT_S
    while not holds():
        assert loop.time() < end_s, f"in vain: {what or holds}"
        turn = loop.create_future()
        loop.call_later(0.01, turn.set_result, None)
        await turn


OPENED: list[OutboxStore] = []


def open_store(
    folder: Path, clock: HandClock | None = None, ballast: Ballast | None = None, **settings: float
) -> OutboxStore:
    plain = msgspec.convert(settings, OutboxSettings)
    store = OutboxStore(folder / "outbox.db", CABINET, "boot-1", clock or HandClock(), plain, ballast)
    OPENED.append(store)
    return store


def let_go() -> None:
    """Close what a test left open, as the kernel does for an agent that was killed."""
    while OPENED:
        OPENED.pop().db.close()


def open_outbox(store: OutboxStore, clock: HandClock | None = None, **settings: float) -> Outbox:
    return Outbox(store, clock or HandClock(), msgspec.convert(settings, OutboxSettings))


def taken(number: int, width: int = 1, text: str = "") -> Sample:
    points = tuple(PointName(f"p{i}") for i in range(width))
    return sample(DeviceId("d"), 1_000_000 + number, points, [text or number] * width)


def gathered(
    stream: StreamClass, numbers: Iterable[int], events: Iterable[Event] = (), text: str = ""
) -> Gathered:
    listed = [taken(number, text=text) for number in numbers]
    return Gathered(stream, listed, tuple(events), len(listed))


def held(path: Path) -> list[Batch]:
    """Return what an outbox file holds, by another connection."""
    db = sqlite3.connect(path)
    try:
        rows = db.execute("SELECT sealed FROM batch ORDER BY stream, number").fetchall()
    finally:
        db.close()
    return [unseal(sealed) for (sealed,) in rows]


def numbers_in(batches: Iterable[Batch]) -> list[object]:
    return [value for batch in batches for one in samples(batch) for value in one.values]


def gaps_in(batches: Iterable[Batch]) -> list[GapEvent]:
    return [event for batch in batches for event in batch.events if isinstance(event, GapEvent)]
