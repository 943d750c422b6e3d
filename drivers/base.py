"""The one contract between the cabinet agent and a line of devices.

A driver is one line: one task (`run`), one transaction at a time. Whoever calls `read` or `write` may leave
whenever it likes; the line's task finishes the transaction that it has begun.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from enum import IntEnum, StrEnum
from typing import TypeVar

import msgspec

from protocols.model.command import CommandState
from protocols.model.device import Kind, Point, Report
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.priority import PriorityRequest, RequestStatus
from protocols.model.reading import Sample, Value


class Priority(IntEnum):
    """Who passes whom in a line's queue; the smallest goes first."""

    COMMAND = 0
    PRESENCE = 1
    POLL = 2


class LineState(StrEnum):
    """Whether a line can carry anything."""

    CONNECTING = "connecting"
    """Not up yet, and not known to be down: reads wait for the outcome."""
    UP = "up"
    DOWN = "down"


class LineHealth(msgspec.Struct, frozen=True):
    """How a line is doing.

    Attributes:
        line: which.
        state: whether it carries anything.
        reason: why it is down, for a person; "" otherwise.
        since_monotonic_ms: when it came into this state.
        transactions: how many exchanges with devices were begun.
        failures: how many of them gave no valid answer.
        late_bytes_discarded: bytes that came when nobody was asked any more.
        silent: the devices that are backed off.
        queued: how many reads and writes wait.
        turned_away: how many were refused because the queue was full.
        reconnections: how often the line came back after it had been down.
        named: what was refused or went wrong on the line, by name, most first; only what is not 0. The names are
            our own, never a peer's.
    """

    line: LineId
    state: LineState
    reason: str
    since_monotonic_ms: int
    transactions: int = 0
    failures: int = 0
    late_bytes_discarded: int = 0
    silent: tuple[DeviceId, ...] = ()
    queued: int = 0
    turned_away: int = 0
    reconnections: int = 0
    named: dict[str, int] = {}


Name = TypeVar("Name", bound=str)


def by_number(counts: Mapping[Name, int]) -> dict[str, int]:
    """Return the counts that are not 0, the greatest first, as `LineHealth.named` has them."""
    return {str(name): count for name, count in sorted(counts.items(), key=lambda one: -one[1]) if count}


class PolledPoint(msgspec.Struct, frozen=True):
    """A point that a device has, and how it is to be watched.

    Attributes:
        point: what it is.
        poll_s: seconds from one reading to the next; None for what the device says by itself.
        report: when a reading of it is worth keeping.
        dead_band: the change, in the point's unit, below which nothing has changed.
        heartbeat_s: seconds after which an unchanged value is kept all the same.
        unwritable: why it cannot be commanded here although the device has that, and what would change it, for a
            person; "" otherwise.
    """

    point: Point
    poll_s: float | None
    report: Report
    dead_band: float = 0
    heartbeat_s: float = 900
    unwritable: str = ""


class Written(msgspec.Struct, frozen=True):
    """What became of a write.

    Attributes:
        state: VERIFIED, APPLIED, FAILED or OUTCOME_UNKNOWN.
        value: what was read back; None if nothing could be.
        reason: for a person, in one sentence; "" when verified.
    """

    state: CommandState
    value: Value
    reason: str = ""


class Found(msgspec.Struct, frozen=True):
    """Something that is there on a line, declared or not.

    Attributes:
        address: where, as `address` in the settings takes it.
        kind: what it probably is to the city; None if that cannot be told.
        text: what it says of itself, for a person; never a secret.
        device: the declared device at that address; None if nobody has declared it.
        declarable: whether it can be a device of its own; not so a gateway, or a part of a controller.
    """

    address: str
    kind: Kind | None
    text: str
    device: DeviceId | None = None
    declarable: bool = True


class Looked(msgspec.Struct, frozen=True):
    """How far a search is: `done` of `total` steps."""

    done: int
    total: int


class Driver(ABC):
    """One line and the devices behind it.

    Attributes:
        line: which line.
        on_sample: called in the event loop with what a device says by itself, and with bad quality once a
            device that should have spoken has fallen silent. Never called for what `read` returns.
    """

    line: LineId
    on_sample: Callable[[Sample], None]

    @abstractmethod
    def points(self, device: DeviceId) -> tuple[PolledPoint, ...]:
        """Return what can be read of a device.

        Raises:
            LocalProtocolError: if the device is not on this line.
        """

    @abstractmethod
    def discover(self, among: Sequence[int] | None = None) -> AsyncIterator[Found | Looked]:
        """Search the line for whatever is there, changing nothing.

        Polling and commands go on meanwhile. While the line is down nothing is found.

        Args:
            among: the addresses to ask at, on a line that numbers its devices and has to ask each; None for all.
        """

    @abstractmethod
    async def run(self) -> None:
        """Be the line's task until cancelled: connect, serve the queue, reconnect with back-off, close.

        Field faults never leave it.
        """

    @abstractmethod
    async def read(
        self, device: DeviceId, points: Sequence[PointName], priority: Priority = Priority.POLL
    ) -> Sample:
        """Read some points of a device.

        A field fault is bad quality with its reason in the sample. While the line is down the answer is
        LINE_DOWN at once. Before `run` has first tried to connect, the read waits for the outcome.

        Raises:
            LocalProtocolError: if the device is not on this line or has no such point; nothing is sent.
        """

    @abstractmethod
    async def write(
        self,
        device: DeviceId,
        point: PointName,
        value: Value,
        *,
        ramp_s: float = 0.0,
        priority: Priority = Priority.COMMAND,
    ) -> Written:
        """Write one point of a device and read it back.

        Args:
            device: whose.
            point: which.
            value: what it is to become, in the point's unit.
            ramp_s: seconds to get there, for what can ramp; returns after the ramp.
            priority: its place in the line's queue.

        Raises:
            LocalProtocolError: if there is no such device or point, it cannot be written, or the value is
                not one that it can have; nothing is sent.
        """

    @abstractmethod
    def health(self) -> LineHealth:
        """Return how the line is doing."""


class SignalDriver(Driver):
    """A line of signal controllers, which take requests for priority and decide about them themselves.

    Attributes:
        on_requests: called with a junction and all the requests that its controller tells of, whenever it tells.
    """

    on_requests: Callable[[DeviceId, tuple[RequestStatus, ...]], None]

    @abstractmethod
    async def request(self, junction: DeviceId, request: PriorityRequest) -> Written:
        """Put a request to a controller, or, where its id is known there, update its level and arrival.

        APPLIED means that the controller has taken the request down; what becomes of it comes by `on_requests`.

        Raises:
            LocalProtocolError: if there is no such junction or signal group; nothing is sent.
        """

    @abstractmethod
    async def cancel(self, junction: DeviceId, request_id: str) -> Written:
        """Take a request back: the vehicle has passed, or nobody wants it any more.

        Raises:
            LocalProtocolError: if there is no such junction; nothing is sent.
        """

    @abstractmethod
    async def requests(self, junction: DeviceId) -> tuple[RequestStatus, ...]:
        """Ask a controller for all the requests that it tells of.

        Raises:
            DriverError: if it does not say.
            LocalProtocolError: if there is no such junction; nothing is sent.
        """


class Admission(StrEnum):
    """Where a radio device is on its way to being heard."""

    NO_KEY = "no_key"
    """Its key is not known here: whatever it sends cannot be believed."""
    AWAITED = "awaited"
    """Its key is known, and it has not joined yet."""
    JOINED = "joined"
    """Its session stands, and nothing was heard on it yet."""
    HEARD = "heard"


class RadioDriver(Driver):
    """A line of radio devices, which speak when they like and have to be let in with a key."""

    @abstractmethod
    async def admit(self, device: DeviceId, key: bytes, join_eui: int | None = None) -> None:
        """Keep a device's key, on disk when this returns; a session that stands is ended.

        Args:
            device: whose.
            key: 16 bytes; never logged, never told again.
            join_eui: LoRaWAN: the JoinEUI it must name; None for any.

        Raises:
            LocalProtocolError: if the device is not on this line or the key is none.
        """

    @abstractmethod
    async def write(
        self,
        device: DeviceId,
        point: PointName,
        value: Value,
        *,
        ramp_s: float = 0.0,
        priority: Priority = Priority.COMMAND,
        begin_within_s: float | None = None,
    ) -> Written:
        """Write one point of a device, once it speaks, which may be in an hour; see `Driver.write`.

        Whoever leaves takes back what was not sent yet.

        Args:
            device: whose.
            point: which.
            value: what it is to become, in the point's unit.
            ramp_s: seconds to get there.
            priority: without meaning here: a device takes what is for it in order.
            begin_within_s: what was not sent after so long is not sent any more; None for the line's own bound.

        Raises:
            LocalProtocolError: if there is no such device or point, it cannot be written, or the value is
                not one that it can have; nothing is sent.
        """

    @abstractmethod
    def admission(self, device: DeviceId) -> tuple[Admission, str]:
        """Return where a device is, and a sentence about it for a person.

        Raises:
            LocalProtocolError: if the device is not on this line.
        """
