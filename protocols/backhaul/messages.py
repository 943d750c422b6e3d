"""What cabinet and centre say to each other.

All of it is MessagePack of these structs, written as arrays; the model's own types within them (alarm,
command, device) are maps. Fields are append-only: a new one comes last and has a default, and an older reader
ignores what it does not know. A new word of a closed set (a cause, a reason, an alarm's type, a kind of event)
is another matter: the older reader refuses the message, so the centre learns it before any cabinet says it.
"""

from enum import StrEnum
from typing import Annotated

import msgspec

from protocols.clock import ClockQuality, Correction
from protocols.model.alarm import Alarm, AlarmType
from protocols.model.command import Command, CommandState
from protocols.model.device import Device, StreamClass
from protocols.model.ids import ID_META, CabinetId, CommandId, DeviceId, KeyId, PointName
from protocols.model.priority import Degrees, Latitude, Longitude, RequestState, VehicleType
from protocols.model.reading import Quality, Reason, Value

VERSION = 1


class LastEnd(StrEnum):
    """How the agent's run before this one ended."""

    FIRST = "first"
    CLEAN = "clean"
    CRASH = "crash"


class GapCause(StrEnum):
    """Why readings are missing. Append only."""

    SHED = "shed"
    """The buffer was full and the lowest class gave way."""
    CRASH = "crash"
    """The agent or its power went away with readings that were not sealed yet."""
    CORRUPT = "corrupt"
    """A batch could no longer be read."""
    EPOCH = "epoch"
    """The centre and the cabinet disagree about what was sent: a restored or cloned card."""
    UNKNOWN_TO_CENTRE = "unknown_to_centre"
    """The cabinet had an acknowledgement for it, this centre never saw it."""


class Layout(msgspec.Struct, frozen=True, array_like=True):
    """Which points a sample has, said once for a batch."""

    device: DeviceId
    points: tuple[PointName, ...]


class Columns(msgspec.Struct, frozen=True, array_like=True):
    """Samples, column by column.

    Attributes:
        layouts: the shapes that occur.
        layout: for each sample the index of its layout.
        at_ms: for each sample its monotonic time, relative to the batch's `base_monotonic_ms`.
        values: the values of all samples, one after another.
        faults: [index in `values`, quality, reason]; an index that is absent is good.
    """

    layouts: tuple[Layout, ...] = ()
    layout: tuple[int, ...] = ()
    at_ms: tuple[int, ...] = ()
    values: tuple[Value, ...] = ()
    faults: tuple[tuple[int, Quality, Reason], ...] = ()


class AlarmEvent(msgspec.Struct, frozen=True, array_like=True, tag_field="event", tag="alarm"):
    """An alarm was raised, changed or cleared."""

    device: DeviceId
    type: AlarmType
    raised_ms: int
    cleared_ms: int | None
    text: str


class CommandEvent(msgspec.Struct, frozen=True, array_like=True, tag_field="event", tag="command"):
    """A command went on to a state. `device` and the rest let the centre audit what it never sent."""

    id: CommandId
    state: CommandState
    reason: str
    at_ms: int
    device: DeviceId
    point: PointName
    value: Value
    issuer: str
    until_ms: int | None = None


class PolicyEvent(msgspec.Struct, frozen=True, array_like=True, tag_field="event", tag="policy"):
    """A policy was accepted, and is in force, or rejected with every reason."""

    kind: str
    version: int
    hash: str
    accepted: bool
    reasons: tuple[str, ...]
    at_ms: int


class GapEvent(msgspec.Struct, frozen=True, array_like=True, tag_field="event", tag="gap"):
    """Readings that will never come.

    Attributes:
        stream: of which stream.
        cause: why.
        from_ms: UTC milliseconds from which on something may be missing.
        to_ms: UTC milliseconds up to which.
        count: how many readings; None where nobody can know (a crash).
        first: number of the first batch that is missing, 0 if none had a number yet.
        last: number of the last.
        epoch: of these numbers.
    """

    stream: StreamClass
    cause: GapCause
    from_ms: int
    to_ms: int
    count: int | None
    first: int = 0
    last: int = 0
    epoch: int = 0


class StartEvent(msgspec.Struct, frozen=True, array_like=True, tag_field="event", tag="start"):
    """The agent began to run."""

    boot: str
    agent_version: str
    last_end: LastEnd
    at_ms: int


class Source(StrEnum):
    """How a cabinet came to know of a vehicle. Append only."""

    POSITION = "position"
    """It told its position through the broker."""
    LOCAL = "local"
    """It told its position to the cabinet itself."""
    DETECTOR = "detector"
    """It passed the cabinet's own detector."""
    TECHNICIAN = "technician"
    """There is no vehicle: somebody at the cabinet tries the junction."""


class PriorityEvent(msgspec.Struct, frozen=True, array_like=True, tag_field="event", tag="priority"):
    """What became of a vehicle's request for a green.

    Attributes:
        request: the request's id; the same in all its events.
        junction: of whose controller.
        rule: by which rule.
        approach: on which approach.
        signal_group: for which group.
        vehicle: its rotating pseudonym, "" where only a detector knows it.
        source: how it was known.
        level: 0–14.
        state: what the controller itself says; None where it was not asked, or has not answered.
        reason: why it was not asked, or was taken back, for a person; "" otherwise.
        at_ms: UTC milliseconds.
        controller_ms: UTC milliseconds of the controller's clock at this state; None if it said nothing.
        extension_s: seconds of green really given, as the controller says; None if not told.
        reduction_s: seconds of red really saved, the same.
        shadow: whether the rule only watches.
        over: whether the cabinet no longer holds the request: this is the last event of it, whatever the
            controller said. False in all before, and of what was not asked for.
    """

    request: str
    junction: DeviceId
    rule: str
    approach: str
    signal_group: str
    vehicle: str
    source: Source
    level: int
    state: RequestState | None
    reason: str
    at_ms: int
    controller_ms: int | None = None
    extension_s: int | None = None
    reduction_s: int | None = None
    shadow: bool = False
    over: bool = False


class ClockEvent(msgspec.Struct, frozen=True, array_like=True, tag_field="event", tag="clock"):
    """The cabinet's clock was set, or stepped: from here on its times are of another scale.

    Attributes:
        boot: of which boot's monotonic clock.
        monotonic_ms: when it was noticed.
        utc_ms: that moment, by the new scale.
        before_ms: utc = monotonic + this until now; None in the first word of a boot, or if nobody knows it any more.
        before: how far that could be trusted.
        clock: how far the new scale can be.
        corrects: whether what this boot told until now is to be read by the new scale: nothing that disciplines a
            clock had set it yet. What a synchronised clock told stands.
    """

    boot: str
    monotonic_ms: int
    utc_ms: int
    before_ms: int | None
    before: ClockQuality
    clock: ClockQuality
    corrects: bool

    @property
    def offset_ms(self) -> int:
        """Return what makes UTC of this boot's monotonic milliseconds, from here on."""
        return self.utc_ms - self.monotonic_ms

    def correction(self) -> Correction | None:
        """Return how this boot's earlier times are put right, if they are to be and can be."""
        if not self.corrects or self.before_ms is None:
            return None
        return Correction(self.before_ms, self.offset_ms, self.monotonic_ms)


Event = AlarmEvent | CommandEvent | PolicyEvent | GapEvent | StartEvent | PriorityEvent | ClockEvent


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """What is sealed once and never changed: one numbered step of one stream.

    Attributes:
        version: of this layout.
        cabinet: whose.
        epoch: random, below 2^53; numbers are gap-free within it.
        stream: which class.
        number: from 1.
        boot: which boot's monotonic clock the times belong to.
        base_monotonic_ms: what the samples' times are relative to.
        utc_offset_ms: utc = monotonic + this, as the cabinet tells it; while `clock` is unsynchronised that is a
            guess, no later than the truth. None if it has none.
        clock: how far that offset can be trusted.
        columns: readings.
        events: events, in order.
    """

    version: int
    cabinet: CabinetId
    epoch: int
    stream: StreamClass
    number: int
    boot: str
    base_monotonic_ms: int
    utc_offset_ms: int | None
    clock: ClockQuality
    columns: Columns
    events: tuple[Event, ...] = ()


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """Latest values, told while a backlog of batches keeps the present waiting.

    It has no number, nobody acknowledges it, it may be lost, and it is never history: each of its readings that is
    to be kept comes in a batch as well.

    Attributes:
        version: of this layout.
        cabinet: whose.
        boot: which boot's monotonic clock the times belong to.
        base_monotonic_ms: when it was made; no sample in it is later.
        utc_offset_ms: utc = monotonic + this, as in a batch.
        clock: how far that offset can be trusted.
        columns: for each point that has changed its last reading.
    """

    version: int
    cabinet: CabinetId
    boot: str
    base_monotonic_ms: int
    utc_offset_ms: int | None
    clock: ClockQuality
    columns: Columns


class StreamHead(msgspec.Struct, frozen=True, array_like=True):
    """Where a stream of the cabinet is.

    Attributes:
        stream: which.
        next: the number that the next sealed batch will get.
        floor: the lowest number that can still be sent; `next` if none.
        mark: what the centre has acknowledged, as the cabinet knows it; 0 for nothing yet.
        mark_hash: hash of that batch, "" if unknown.
    """

    stream: StreamClass
    next: int
    floor: int
    mark: int
    mark_hash: str = ""


class PolicyInForce(msgspec.Struct, frozen=True, array_like=True):
    """What a cabinet goes by, and the highest version that it ever had."""

    kind: str
    version: int
    hash: str


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """What a cabinet says at each connection, so that the centre knows where both stand."""

    version: int
    cabinet: CabinetId
    agent_version: str
    boot: str
    epoch: int
    streams: tuple[StreamHead, ...]
    policies: tuple[PolicyInForce, ...]
    alarms: tuple[Alarm, ...]
    last_end: LastEnd
    inventory: tuple[Device, ...]
    monotonic_ms: int
    utc_ms: int | None
    clock: ClockQuality
    keys: tuple[KeyId, ...] = ()
    sqlite_version: str = ""


class StreamMark(msgspec.Struct, frozen=True, array_like=True):
    """Up to which number the centre has committed, and the hash of that batch."""

    stream: StreamClass
    mark: int
    hash: str = ""


class Ack(msgspec.Struct, frozen=True, array_like=True):
    """What the centre has committed of one epoch of one cabinet."""

    epoch: int
    marks: tuple[StreamMark, ...]


class Presence(msgspec.Struct, frozen=True, array_like=True):
    """Whether a cabinet is connected; the last will says False."""

    online: bool
    boot: str
    at_ms: int


class CommandMessage(msgspec.Struct, frozen=True, array_like=True):
    """A command on its way down; sent again until answered or expired."""

    version: int
    command: Command


class SignedPolicy(msgspec.Struct, frozen=True, array_like=True):
    """A policy's exact bytes and who stands for them.

    Attributes:
        body: UTF-8 JSON of a `Policy`; what is signed, stored and hashed is this and nothing else.
        key: which key signed.
        signature: Ed25519 over `body`, 64 bytes.
    """

    body: bytes
    key: Annotated[KeyId, ID_META]
    signature: bytes


class Position(msgspec.Struct, frozen=True, array_like=True):
    """Where a vehicle is, told once a second and only by those that are entitled to priority.

    Attributes:
        version: of this layout.
        pseudonym: changes often enough that nobody can be followed by it; the same for one passage.
        at_ms: UTC milliseconds of the vehicle's own clock.
        latitude: degrees north, WGS 84.
        longitude: degrees east.
        heading_deg: degrees clockwise from north.
        speed_m_s: over ground.
        vehicle_type: what it is.
        route: the line that it serves, as passengers know it.
        direction: "0" or "1", or whatever the operator says.
        doors_open: None if it does not tell.
        lateness_s: behind its timetable, negative if early; None if it does not know.
    """

    version: int
    pseudonym: Annotated[str, ID_META]
    at_ms: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    latitude: Latitude
    longitude: Longitude
    heading_deg: Degrees
    speed_m_s: Annotated[float, msgspec.Meta(ge=0, le=100)]
    vehicle_type: VehicleType
    route: Annotated[str, msgspec.Meta(max_length=32)] = ""
    direction: Annotated[str, msgspec.Meta(max_length=8)] = ""
    doors_open: bool | None = None
    lateness_s: Annotated[int, msgspec.Meta(ge=-7200, le=7200)] | None = None
