"""A small cabinet for tests: it speaks the real messages, keeps what is not acknowledged, and rewinds."""

from collections.abc import Sequence

import msgspec

from protocols.backhaul.codec import batch_hash, columns, encode, encode_snapshot, frame_batch, seal
from protocols.backhaul.messages import (
    VERSION,
    Ack,
    Batch,
    Event,
    Hello,
    LastEnd,
    PolicyInForce,
    Presence,
    Snapshot,
    StreamHead,
)
from protocols.backhaul.topics import Up, up
from protocols.clock import ClockQuality
from protocols.model.alarm import Alarm
from protocols.model.device import Device, Kind, Point, StreamClass
from protocols.model.ids import CabinetId, DeviceId, KeyId, LineId, PointName
from protocols.model.reading import Fault, Sample, Value, sample

LEVEL = PointName("dimming_level")
POWER = PointName("active_power")
START_MS = 1_770_000_000_000
"""Civil and real UTC milliseconds at which the tests' stories begin: 2026-02-02."""


class Message(msgspec.Struct, frozen=True):
    """Something on its way up."""

    topic: str
    payload: bytes


def lamp(name: str, address: int = 0, groups: tuple[str, ...] = ("street",), line: str = "dali-1") -> Device:
    return Device(
        id=DeviceId(name),
        kind=Kind.LAMP,
        line=LineId(line),
        address=str(address),
        groups=groups,
        points=(Point(LEVEL, "%", writable=True, minimum=0, maximum=100), Point(PointName("lamp_failure"))),
    )


def meter(name: str) -> Device:
    return Device(DeviceId(name), Kind.METER, LineId("modbus-1"), "1", points=(Point(POWER, "W"),))


def taken(device: str, value: Value | Fault, at_ms: int = 0, point: PointName = LEVEL) -> Sample:
    """Return a sample of one point; `at_ms` is monotonic."""
    return sample(DeviceId(device), at_ms, (point,), (value,))


class CabinetDouble:
    """A cabinet's memory: its outbox, and what it says at a connection."""

    def __init__(self, name: str = "cab-1", epoch: int = 7_001, lamps: int = 3) -> None:
        self.id = CabinetId(name)
        self.epoch = epoch
        self.boot = f"{name}-boot-1"
        self.utc_offset_ms: int | None = START_MS
        self.clock = ClockQuality.SYNCHRONISED
        self.inventory: tuple[Device, ...] = tuple(lamp(f"{name}-lamp-{n}", n) for n in range(lamps))
        self.policies: tuple[PolicyInForce, ...] = ()
        self.alarms: tuple[Alarm, ...] = ()
        self.next = dict.fromkeys(StreamClass, 1)
        self.floor = dict.fromkeys(StreamClass, 1)
        self.mark = dict.fromkeys(StreamClass, 0)
        self.outbox: dict[tuple[StreamClass, int], bytes] = {}

    def lamp(self, number: int = 0) -> str:
        return self.inventory[number].id

    def seal(
        self,
        samples: Sequence[Sample] = (),
        events: Sequence[Event] = (),
        stream: StreamClass = StreamClass.ORDINARY,
    ) -> int:
        """Seal a batch into the outbox; return its number."""
        number = self.next[stream]
        base_ms = samples[0].monotonic_ms if samples else 0
        batch = Batch(
            version=VERSION,
            cabinet=self.id,
            epoch=self.epoch,
            stream=stream,
            number=number,
            boot=self.boot,
            base_monotonic_ms=base_ms,
            utc_offset_ms=self.utc_offset_ms,
            clock=self.clock,
            columns=columns(samples, base_ms),
            events=tuple(events),
        )
        self.outbox[stream, number] = seal(batch)
        self.next[stream] = number + 1
        return number

    def seal_event(self, *events: Event) -> int:
        return self.seal((), events, StreamClass.EVENTS)

    def message(self, number: int, stream: StreamClass = StreamClass.ORDINARY) -> Message:
        """Return a batch of the outbox as it is published now."""
        return Message(
            up(self.id, Up.BATCH, stream), frame_batch(self.floor[stream], self.outbox[stream, number])
        )

    def waiting(self) -> list[Message]:
        """Return everything that is not acknowledged, events first, each stream in order."""
        return [self.message(number, stream) for stream, number in sorted(self.outbox)]

    def shed(self, up_to: int, stream: StreamClass = StreamClass.ORDINARY) -> None:
        """Give up the batches up to `up_to`, as a full buffer does."""
        self._forget(up_to, stream)
        self.floor[stream] = up_to + 1

    def acknowledged(self, ack: Ack) -> None:
        """Delete what the centre says that it has committed, if it speaks of this epoch."""
        if ack.epoch != self.epoch:
            return
        for one in ack.marks:
            self.mark[one.stream] = max(self.mark[one.stream], one.mark)
            self._forget(one.mark, one.stream)
            self.floor[one.stream] = max(self.floor[one.stream], one.mark + 1)

    def _forget(self, up_to: int, stream: StreamClass) -> None:
        self.outbox = {key: v for key, v in self.outbox.items() if key[0] is not stream or key[1] > up_to}

    def hello(self) -> Message:
        heads = tuple(
            StreamHead(stream, self.next[stream], self.floor[stream], self.mark[stream])
            for stream in StreamClass
        )
        said = Hello(
            version=VERSION,
            cabinet=self.id,
            agent_version="0.1.0",
            boot=self.boot,
            epoch=self.epoch,
            streams=heads,
            policies=self.policies,
            alarms=self.alarms,
            last_end=LastEnd.CLEAN,
            inventory=self.inventory,
            monotonic_ms=1_000,
            utc_ms=None if self.utc_offset_ms is None else START_MS,
            clock=self.clock,
            keys=(KeyId("centre"),),
            sqlite_version="3.40.1",
        )
        return Message(up(self.id, Up.HELLO), encode(said))

    def snapshot(self, *samples: Sample, at_ms: int | None = None) -> Message:
        """Return a snapshot of the present; made at the moment of its last sample unless told."""
        made_ms = max(one.monotonic_ms for one in samples) if at_ms is None else at_ms
        said = Snapshot(
            version=VERSION,
            cabinet=self.id,
            boot=self.boot,
            base_monotonic_ms=made_ms,
            utc_offset_ms=self.utc_offset_ms,
            clock=ClockQuality.SYNCHRONISED,
            columns=columns(samples, made_ms),
        )
        return Message(up(self.id, Up.NOW), encode_snapshot(said))

    def presence(self, *, online: bool = True) -> Message:
        return Message(up(self.id, Up.STATE), encode(Presence(online, self.boot, START_MS)))


def hash_of(cabinet: CabinetDouble, number: int, stream: StreamClass = StreamClass.ORDINARY) -> str:
    return batch_hash(cabinet.outbox[stream, number])
