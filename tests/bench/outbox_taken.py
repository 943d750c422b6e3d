"""What the outbox bench lets the product's outbox take: samples as counting devices give them, and its own store."""

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge.agent import boot_id
from edge.clock import SystemClock
from edge.config import OutboxSettings
from edge.outbox.store import Gathered, OutboxStore
from protocols.clock import Clock, Instant
from protocols.model.device import StreamClass
from protocols.model.ids import CabinetId, DeviceId, PointName
from protocols.model.reading import Sample

CABINET = CabinetId("bench")
REGISTERS = 20
PER_BATCH = 100
"""Readings: what the agent seals at, as it ships."""
SAMPLES = PER_BATCH // REGISTERS
POINTS = tuple(PointName(f"r{register:02d}") for register in range(REGISTERS))


class EarlierClock(SystemClock):
    """The machine's clock as it was a while ago: for a backlog that an outage has left."""

    def __init__(self, ago_s: float) -> None:
        super().__init__()
        self._ago_ms = round(ago_s * 1000)

    def now(self) -> Instant:
        """Return the moment of then."""
        now = super().now()
        return msgspec.structs.replace(
            now, monotonic_ms=now.monotonic_ms - self._ago_ms, utc_ms=now.utc_ms - self._ago_ms
        )


def samples(clock: Clock, devices: int, seed: int = 1) -> Iterator[Sample]:
    """Yield samples for ever, one device after the other; each register counts on from a number of its own."""
    rng = random.Random(seed)
    starts = [[rng.randrange(1 << 16) for _ in POINTS] for _ in range(devices)]
    read = 0
    while True:
        read += 1
        for device, start in enumerate(starts):
            values = tuple((first + read) & 0xFFFF for first in start)
            name = DeviceId(f"{CABINET}.counter-{device + 1}")
            yield Sample(name, clock.now().monotonic_ms, POINTS, values)


def batches(clock: Clock, devices: int = 50) -> Iterator[Gathered]:
    """Yield what becomes batches of a hundred readings, for ever."""
    source = samples(clock, devices)
    while True:
        taken = [next(source) for _ in range(SAMPLES)]
        yield Gathered(StreamClass.ORDINARY, taken, (), PER_BATCH)


def open_store(folder: Path, clock: Clock, settings: OutboxSettings | None = None) -> OutboxStore:
    """Open the product's own store in a folder, as the agent does."""
    folder.mkdir(exist_ok=True)
    return OutboxStore(folder / "outbox.db", CABINET, boot_id(), clock, settings or OutboxSettings())
