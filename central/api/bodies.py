"""What the API says and hears: apart from the wire's types, so that either can change alone.

Times are RFC 3339 in UTC. Bodies refuse fields that they do not know.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Generic, TypeVar

import msgspec

from protocols.backhaul.messages import GapCause, LastEnd
from protocols.model.alarm import AlarmType, Severity
from protocols.model.command import CommandState
from protocols.model.device import Kind
from protocols.model.ids import ID_PATTERN
from protocols.model.lighting import Assignment, Level, LightReason, Place, RampSeconds
from protocols.model.reading import Reason, Value

T = TypeVar("T")

Id = Annotated[str, msgspec.Meta(pattern=ID_PATTERN, max_length=63)]
Person = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Expiry = Annotated[float, msgspec.Meta(gt=0, le=7 * 86_400)]
LONGEST_OVERRIDE_S = 366 * 86_400
"""A lamp that is not to go by its program for longer needs another program."""
Duration = Annotated[float, msgspec.Meta(gt=0, le=LONGEST_OVERRIDE_S)]


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Part of a list.

    Attributes:
        items: in the list's order.
        next: what to give as `cursor` for the following part; null at the end.
    """

    items: list[T]
    next: str | None = None


class QualityName(StrEnum):
    """How far a value can be believed, in the wire's order."""

    GOOD = "good"
    UNCERTAIN = "uncertain"
    BAD = "bad"


class ClockName(StrEnum):
    """How far a time can be trusted, in the wire's order."""

    UNSYNCHRONISED = "unsynchronised"
    HOLDOVER = "holdover"
    SYNCHRONISED = "synchronised"


class StreamName(StrEnum):
    """The streams of an outbox, in the wire's order."""

    EVENTS = "events"
    CRITICAL = "critical"
    ORDINARY = "ordinary"
    BULK = "bulk"


class StampedBy(StrEnum):
    """Whose clock a time is from."""

    CABINET = "cabinet"
    CENTRE = "centre"
    """The cabinet had no clock at all: the time is the centre's, and may still be put right."""
    CLOCK_EVENT = "clock_event"
    """Re-stamped: the cabinet's clock was set later, and that tells when this was taken."""


class Contact(StrEnum):
    """Whether a cabinet is there."""

    CONNECTED = "connected"
    SILENT = "silent"
    """It says that it is connected, and nothing has come for a while."""
    OFFLINE = "offline"


class ReadingView(msgspec.Struct, frozen=True):
    """One reading of a point.

    Attributes:
        time: when it was taken.
        value: null unless there is one to be believed.
        quality: how far.
        reason: why it is not good; null when it is.
        clock: how far `time` can be trusted.
        stamped_by: whose clock `time` is from.
    """

    time: datetime
    value: Value
    quality: QualityName
    reason: Reason | None
    clock: ClockName
    stamped_by: StampedBy


class PointReading(ReadingView, frozen=True, kw_only=True):
    """The latest reading of a named point.

    Attributes:
        snapshot: whether it was told beside a backlog: it is the newest that is known, and in no history yet.
    """

    device: str
    point: str
    snapshot: bool


class LatestChange(msgspec.Struct, frozen=True):
    """New latest values, as one batch brought them."""

    cabinet: str
    readings: list[PointReading]


class GapView(msgspec.Struct, frozen=True):
    """Readings that will never come.

    Attributes:
        id: the same gap has the same id wherever it is shown.
        stream: of which of the cabinet's streams.
        cause: why.
        from_time: from when on something may be missing; null where nobody can know.
        to_time: up to when. Of a cabinet without a clock: until it said so.
        count: how many readings of the whole stream; null where nobody can know.
        reported: whether the cabinet said so itself; otherwise the centre concluded it.
        epoch: of `first` and `last`; null without them.
        first: number of the first batch that is missing; null if the readings were lost before they were
            sealed into one.
        last: number of the last.
        learnt: when the centre learnt of it; null if an earlier version did.
    """

    id: int
    cabinet: str
    stream: StreamName
    cause: GapCause
    from_time: datetime | None = msgspec.field(name="from")
    to_time: datetime = msgspec.field(name="to")
    count: int | None
    reported: bool
    epoch: int | None
    first: int | None
    last: int | None
    learnt: datetime | None


class GapChange(msgspec.Struct, frozen=True):
    """Gaps that are new or have grown, and ids of those that are none: the cabinet knew better."""

    cabinet: str
    gaps: list[GapView] = []
    withdrawn: list[int] = []


class HistoryReading(ReadingView, frozen=True, tag_field="type", tag="reading"):
    """A reading, where a history has one."""


class HistoryGap(GapView, frozen=True, tag_field="type", tag="gap"):
    """A gap, where a history has one: no line may be drawn across it."""


class History(msgspec.Struct, frozen=True):
    """A part of a point's history: readings and gaps, in the order of time.

    Going forward, a gap stands where it begins; going back, where it ends. Where nobody knows the beginning,
    or it lies before what is asked for, it stands before everything else.

    Attributes:
        next: what to give as `cursor` for the following part; null at the end.
    """

    device: str
    point: str
    unit: str | None
    items: list[HistoryReading | HistoryGap]
    next: str | None


class PointView(msgspec.Struct, frozen=True):
    """A named property of a device."""

    name: str
    unit: str
    writable: bool
    minimum: float | None
    maximum: float | None


class DeviceView(msgspec.Struct, frozen=True):
    """A device.

    Attributes:
        listed: whether the cabinet's present inventory has it.
        kind: null while no inventory has described it.
    """

    id: str
    cabinet: str
    listed: bool
    kind: Kind | None
    line: str
    address: str
    stream: StreamName
    groups: list[str]
    commune: str
    points: list[PointView]


class StreamView(msgspec.Struct, frozen=True):
    """Where one stream of a cabinet is.

    Attributes:
        mark: up to which number the centre has committed.
        next: the number that the cabinet's next batch had at its last hello.
        floor: the lowest number that the cabinet can still send.
        readings: committed readings.
        received: when the last batch came.
    """

    epoch: int
    stream: StreamName
    mark: int
    next: int
    floor: int
    readings: int
    received: datetime


class RefusedDevice(msgspec.Struct, frozen=True):
    """A device that the cabinet names and that belongs to another one: its readings are not stored."""

    device: str
    owner: str
    readings: int
    first: datetime
    last: datetime


class PolicyStatus(StrEnum):
    """Where a desired policy is."""

    IN_FORCE = "in_force"
    PENDING = "pending"
    """Sent, or waiting for the cabinet to connect."""
    REJECTED = "rejected"
    LAPSED = "lapsed"
    """Its time of acceptance is over: publish again."""
    LEASE_OVER = "lease_over"
    """The cabinet has it, and goes by it no more: publish again."""


class DesiredPolicy(msgspec.Struct, frozen=True):
    """The policy that the centre wants of a cabinet.

    Attributes:
        lease_until: until when the cabinet goes by it; null where that is for good.
        renews: when the aggregator signs the same again, under a new lease; null for never.
    """

    kind: str
    version: int
    hash: str
    key: str
    status: PolicyStatus
    reasons: list[str]
    not_before: datetime
    expires: datetime
    created: datetime
    lease_until: datetime | None
    renews: datetime | None


class ReportedPolicy(msgspec.Struct, frozen=True):
    """The policy that a cabinet goes by.

    Attributes:
        lease_until: until when; null where that is for good, or the policy is not from here.
    """

    kind: str
    version: int
    hash: str
    lease_until: datetime | None


class PolicyReport(msgspec.Struct, frozen=True):
    """What a cabinet said of a policy."""

    kind: str
    version: int
    hash: str
    accepted: bool
    reasons: list[str]
    at: datetime


class Policies(msgspec.Struct, frozen=True):
    """Desired against reported."""

    cabinet: str
    desired: list[DesiredPolicy]
    reported: list[ReportedPolicy]
    reports: list[PolicyReport]


class CabinetSummary(msgspec.Struct, frozen=True):
    """A cabinet, in a list and in the feed.

    Attributes:
        contact: whether it is there.
        seen: when anything last came from it.
        age_s: how long ago that is.
        priority_until: until when it asks its junctions for priority; null if it goes by no such policy.
        gaps: how many are known.
        last_gap: up to when the latest of them lasted; null if there is none.
    """

    id: str
    contact: Contact
    seen: datetime | None
    age_s: float | None
    agent_version: str
    devices: int
    active_alarms: int
    priority_until: datetime | None
    gaps: int
    last_gap: datetime | None


class CabinetView(msgspec.Struct, frozen=True):
    """A cabinet in full."""

    id: str
    contact: Contact
    seen: datetime | None
    age_s: float | None
    first_seen: datetime
    hello: datetime | None
    boot: str
    epoch: int | None
    last_end: LastEnd | None
    started: datetime | None
    clock: ClockName | None
    agent_version: str
    sqlite_version: str
    trusted_keys: list[str]
    devices: int
    active_alarms: int
    gaps: int
    last_gap: datetime | None
    streams: list[StreamView]
    policies: Policies
    refused_devices: list[RefusedDevice]


class AlarmView(msgspec.Struct, frozen=True):
    """An alarm: raised, acknowledged, cleared."""

    id: int
    cabinet: str
    device: str
    type: AlarmType
    severity: Severity
    active: bool
    raised: datetime
    cleared: datetime | None
    acknowledged: datetime | None
    acknowledged_by: str | None
    text: str


class Acknowledgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who takes notice of an alarm."""

    by: Person


class Lighting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is wanted of a cabinet's lamps: a draft until it is published.

    Attributes:
        place: where the sun sets for it.
        assignments: which lamps go by which calendar; a lamp named by its id goes before its groups.
        default_level: percent; what a lamp that nothing is assigned to burns at.
    """

    place: Place
    assignments: tuple[Assignment, ...] = ()
    default_level: Level = 100


class PublishRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a cabinet may take to accept what is published; once accepted it stays in force."""

    valid_for_s: Expiry = 7 * 86_400.0


class SignedEnvelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A policy that was signed elsewhere.

    Attributes:
        body: the exact text that is signed.
        key: which key signed.
        signature: Ed25519 over the UTF-8 bytes of `body`, base64.
    """

    body: Annotated[str, msgspec.Meta(max_length=256 << 10)]
    key: Id
    signature: Annotated[str, msgspec.Meta(max_length=128)]


class LampPreview(msgspec.Struct, frozen=True):
    """What a lamp would do at one moment, and why."""

    device: str
    level: int
    ramp_s: float
    reason: LightReason
    because: str
    valid_until: datetime


class LampSteps(msgspec.Struct, frozen=True):
    """What some lamps, which go by the same calendar, would do through a while."""

    devices: list[str]
    steps: list["PreviewStep"]


class PreviewStep(msgspec.Struct, frozen=True):
    """From this moment on, this level."""

    at: datetime
    level: int
    ramp_s: float
    reason: LightReason
    because: str


class Preview(msgspec.Struct, frozen=True):
    """What a cabinet's draft would do: at one moment, or through a while."""

    cabinet: str
    lamps: list[LampPreview] = []
    schedules: list[LampSteps] = []


class CommandRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that somebody wants done, once.

    Attributes:
        device: of whom.
        point: which of its writable points.
        value: what it is to become; null releases an override.
        id: the same id with the same body is the same command, however often it is sent.
        expires_in_s: seconds after which it must no longer be begun; 60 unless told.
        expires_at: the same, as a moment.
        until: for a lamp, civil moment at which its program rules again.
        ramp_s: time to reach a light level, seconds.
        issuer: who wants it.
    """

    device: Id
    point: Id
    value: Value
    id: Id | None = None
    expires_in_s: Expiry | None = None
    expires_at: Moment | None = None
    until: Moment | None = None
    ramp_s: RampSeconds = 0.0
    issuer: Person = "operator"


class CommandView(msgspec.Struct, frozen=True):
    """A command and how far it has come.

    Attributes:
        state: the cabinet's word, or what the centre must assume when none came.
        assumed: whether the state is only the centre's assumption; the cabinet's word replaces it.
        ours: whether the centre sent it; otherwise somebody at the cabinet gave it.
        sends: how often it was sent.
    """

    id: str
    cabinet: str
    device: str
    point: str
    value: Value
    issuer: str
    state: CommandState
    assumed: bool
    reason: str
    changed: datetime
    created: datetime
    expires: datetime
    until: datetime | None
    ramp_s: float
    ours: bool
    sends: int
    override: str | None


class OverrideRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A level that somebody wants of some lamps for a while. Lamps: by id, or by group and cabinet.

    Attributes:
        level: percent, 0 is off.
        devices: these lamps.
        group: the lamps of this group, in `cabinet` if that is given too.
        cabinet: the lamps of this cabinet.
        until: civil moment at which the program rules again.
        duration_s: the same, as seconds from now.
        ramp_s: time to reach the level, seconds.
        expires_in_s: seconds within which a cabinet must begin it.
        issuer: who wants it.
    """

    level: Level
    devices: Annotated[tuple[Id, ...], msgspec.Meta(max_length=5_000)] = ()
    group: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    cabinet: Id | None = None
    until: Moment | None = None
    duration_s: Duration | None = None
    ramp_s: RampSeconds = 0.0
    expires_in_s: Expiry = 300.0
    issuer: Person = "operator"


class OverrideView(msgspec.Struct, frozen=True):
    """An override, and how far each lamp has come."""

    id: str
    level: int
    until: datetime
    ramp_s: float
    issuer: str
    created: datetime
    released: datetime | None
    lamps: int
    states: dict[str, int]
    commands: list[CommandView] = []


class BrokerHealth(msgspec.Struct, frozen=True):
    """The way to the cabinets."""

    address: str
    protocol: str
    connected: bool
    since: datetime | None
    connections: int
    why: str


class StoreHealth(msgspec.Struct, frozen=True):
    """The database."""

    path: str
    bytes: int
    sqlite_version: str
    taking_writes: bool
    why: str
    queue_jobs: int
    queue_bytes: int
    commits: int
    last_commit_age_s: float | None


class IngestHealth(msgspec.Struct, frozen=True):
    """What came to this process since it started; other workers count for themselves.

    Attributes:
        batches: committed.
        readings: committed.
        repeated: batches that were committed already.
        ahead: batches that came before their turn.
        conflicting: repeated batches whose bytes differ from the committed ones.
        contradictory: priority requests whose steps contradict each other.
        snapshots: of the present, that were told beside a backlog and shown.
        ignored: snapshots of another boot than the cabinet's last hello: older than they seem.
        elsewhere: messages of shards that another worker holds.
        refused: by reason.
    """

    batches: int
    readings: int
    repeated: int
    ahead: int
    conflicting: int
    contradictory: int
    snapshots: int
    ignored: int
    elsewhere: int
    refused: dict[str, int]


class WorkerHealth(msgspec.Struct, frozen=True):
    """A process that ingests.

    Attributes:
        name: `serve` is this one.
        pid: its process.
        shards: how many of the 64 it holds; a cabinet is always in the same.
    """

    name: str
    pid: int
    shards: int


class GapsHealth(msgspec.Struct, frozen=True):
    """What is known to be missing, of all cabinets together.

    Attributes:
        gaps: how many.
        by_cause: the same, by cause.
        readings: how many readings are missing, where that is known.
        uncounted: gaps of which nobody can know how many.
    """

    gaps: int
    by_cause: dict[str, int]
    readings: int
    uncounted: int


class Health(msgspec.Struct, frozen=True):
    """How the aggregator is."""

    ok: bool
    version: str
    time: datetime
    civil_time: datetime
    uptime_s: float
    broker: BrokerHealth
    store: StoreHealth
    ingest: IngestHealth
    workers: list[WorkerHealth]
    gaps: GapsHealth
    watchers: int
    signing_key: str | None
