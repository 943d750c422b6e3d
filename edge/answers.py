"""What the agent and its command line say to each other over the local socket: JSON, one object a line."""

from typing import Annotated

import msgspec

from drivers.base import Admission, Found, LineHealth
from edge.backhaul import BackhaulFigures
from edge.outbox.rows import WaitingBatch
from edge.outbox.store import OutboxFigures
from edge.positions import LocalFigures
from edge.state import CommandRecord
from protocols.backhaul.messages import ClockEvent, PolicyInForce, PriorityEvent
from protocols.clock import Instant
from protocols.model.alarm import Alarm
from protocols.model.command import Command
from protocols.model.device import Device
from protocols.model.ids import CommandId, DeviceId, LineId, PointName
from protocols.model.lighting import Decision
from protocols.model.reading import Quality, Reason, Sample, Value
from protocols.rules.priority.counts import Counts
from protocols.rules.priority.view import ApproachView, RequestView

MAX_REQUEST_BYTES = 1 << 20


class Status(msgspec.Struct, frozen=True, tag_field="ask", tag="status"):
    """How is the cabinet?"""


class Devices(msgspec.Struct, frozen=True, tag_field="ask", tag="devices"):
    """What is behind the lines, and how is it?"""


class Read(msgspec.Struct, frozen=True, tag_field="ask", tag="read"):
    """Read a device now; all of its points if none is named."""

    device: DeviceId
    points: tuple[PointName, ...] = ()


class Set(msgspec.Struct, frozen=True, tag_field="ask", tag="set"):
    """Carry out a command, and say how it ended, or where it is if it takes long.

    Attributes:
        command: what is wanted.
        asked_ms: UTC milliseconds by which its expiry was reckoned: the agent may know the time better.
        asked_civil_ms: the same for the end of what it wants.
    """

    command: Command
    asked_ms: int | None = None
    asked_civil_ms: int | None = None


class Commands(msgspec.Struct, frozen=True, tag_field="ask", tag="commands"):
    """Where is a command? Without an id: which have not ended?"""

    id: CommandId | None = None


class Watch(msgspec.Struct, frozen=True, tag_field="ask", tag="watch"):
    """Tell every sample as it comes, of one device or of all, until the caller leaves."""

    device: DeviceId | None = None


class Buffer(msgspec.Struct, frozen=True, tag_field="ask", tag="buffer"):
    """What waits for the centre?"""

    limit: int = 20


class PolicyShow(msgspec.Struct, frozen=True, tag_field="ask", tag="policy"):
    """What is in force, and what was last rejected?"""


class PolicyApply(msgspec.Struct, frozen=True, tag_field="ask", tag="policy_apply"):
    """Go by a signed policy that was brought by hand: body as text, signature in base64."""

    body: str
    key: str
    signature: bytes


class PriorityShow(msgspec.Struct, frozen=True, tag_field="ask", tag="priority"):
    """Who is on the approaches, and what is asked for?"""


class PriorityWant(msgspec.Struct, frozen=True, tag_field="ask", tag="priority_request"):
    """Ask an approach's controller for a green, to try the junction, and say what it answers.

    Attributes:
        approach: which.
        who: who wants it, for the audit.
        shadow: decide and log, and ask nothing of the controller.
    """

    approach: str
    who: Annotated[str, msgspec.Meta(max_length=100)]
    shadow: bool = False


class PriorityFigures(msgspec.Struct, frozen=True):
    """How priority is doing.

    Attributes:
        approaches: that the policy in force names.
        vehicles: that are on one of them.
        open: requests that are not over.
        asked: requests made since the start.
        granted: of them, those that their controllers have activated.
        lapsed: whether nothing is asked for: there is no policy, or its lease is over.
    """

    approaches: int = 0
    vehicles: int = 0
    open: int = 0
    asked: int = 0
    granted: int = 0
    lapsed: bool = True


class Discover(msgspec.Struct, frozen=True, tag_field="ask", tag="discover"):
    """Search a line, and tell what is found as it is found: `Sight` after `Sight`.

    Attributes:
        line: which.
        among: the addresses to ask at, on a line that numbers its devices; None for all.
    """

    line: LineId
    among: tuple[int, ...] | None = None


class Join(msgspec.Struct, frozen=True, tag_field="ask", tag="join"):
    """Keep a radio device's key, and say where the device is; without a key only say it.

    Attributes:
        device: whose.
        key: 16 bytes; it is never told again.
        join_eui: LoRaWAN: the JoinEUI that the device must name; None for any.
    """

    device: DeviceId
    key: bytes | None = None
    join_eui: int | None = None

    def __repr__(self) -> str:
        """Return it without the key."""
        return f"Join(device={self.device!r})"


Request = (
    Status
    | Devices
    | Read
    | Set
    | Commands
    | Watch
    | Buffer
    | PolicyShow
    | PolicyApply
    | Discover
    | Join
    | PriorityShow
    | PriorityWant
)


class StatusAnswer(msgspec.Struct, frozen=True):
    """How the cabinet is.

    Attributes:
        now: told time.
        known_ms: the time that expiries go by.
        clock_steps: how often the clock was set or stepped since the agent began.
        clock_moved: the last time that it was.
    """

    cabinet: str
    agent_version: str
    boot: str
    pid: int
    started_ms: int
    now: Instant
    civil: Instant
    lines: tuple[LineHealth, ...]
    backhaul: BackhaulFigures
    outbox: OutboxFigures
    policies: tuple[PolicyInForce, ...]
    rejected: tuple[str, ...]
    alarms: tuple[Alarm, ...]
    lamps: int
    lamps_settled: int
    overrides: int
    reasserted: int
    read: int
    skipped: int
    last_end: str
    sqlite_version: str
    priority: PriorityFigures = PriorityFigures()
    local: LocalFigures | None = None
    known_ms: int = 0
    clock_steps: int = 0
    clock_moved: ClockEvent | None = None


class LatestValue(msgspec.Struct, frozen=True):
    """The last reading of a point, kept or not."""

    point: PointName
    value: Value
    unit: str
    quality: Quality
    reason: Reason | None
    age_s: float


class DeviceAnswer(msgspec.Struct, frozen=True):
    """A device and how it is."""

    device: Device
    latest: tuple[LatestValue, ...]
    decision: Decision | None
    trouble: str


class BufferAnswer(msgspec.Struct, frozen=True):
    """What waits for the centre."""

    figures: OutboxFigures
    oldest: tuple[WaitingBatch, ...]


class PolicyAnswer(msgspec.Struct, frozen=True):
    """What is in force, and why the last one that was not accepted was rejected."""

    in_force: tuple[PolicyInForce, ...]
    bodies: dict[str, str]
    rejected: tuple[str, ...]


class PriorityAnswer(msgspec.Struct, frozen=True):
    """Who is on the approaches, and what is asked for.

    Attributes:
        running: whether an agent runs; without one only `left` is known.
        lapsed: whether nothing is asked for: there is no policy, or its lease is over.
        lease_until_ms: UTC milliseconds when the lease ends; None without a policy.
        approaches: those of the policy in force.
        requests: those that are not over.
        last: what was last reported, the newest last.
        counts: what came in, and what was not gone by.
        failing: for each junction how many requests in a row were of no use.
        local: how the port for local positions is; None if there is none.
        left: without an agent: the requests that the next one will take back.
    """

    running: bool
    lapsed: bool
    lease_until_ms: int | None
    approaches: tuple[ApproachView, ...] = ()
    requests: tuple[RequestView, ...] = ()
    last: tuple[PriorityEvent, ...] = ()
    counts: Counts = msgspec.field(default_factory=Counts)
    failing: dict[str, int] = {}
    local: LocalFigures | None = None
    left: tuple[PriorityEvent, ...] = ()


class Sight(msgspec.Struct, frozen=True):
    """What a search tells next: something that is there, or just how far it is.

    Attributes:
        found: what is there; None for none.
        done: steps taken.
        total: steps in all; 0 while nobody knows.
    """

    found: Found | None = None
    done: int = 0
    total: int = 0


class JoinAnswer(msgspec.Struct, frozen=True):
    """Where a radio device is on its way to being heard, and a sentence about it."""

    device: DeviceId
    admission: Admission
    text: str


class Reply(msgspec.Struct, frozen=True):
    """One line of answer.

    Attributes:
        answer: to the question.
        error: why there is none, for a person; "" if there is one.
        more: whether other answers follow to the same question.
        understood: with an error: whether the question was right, and what it asks for was not done all the same.
    """

    answer: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""
    more: bool = False
    understood: bool = False


Answer = (
    StatusAnswer
    | list[DeviceAnswer]
    | list[LatestValue]
    | BufferAnswer
    | PolicyAnswer
    | PriorityAnswer
    | PriorityEvent
    | CommandRecord
    | Sample
    | Sight
    | JoinAnswer
)
