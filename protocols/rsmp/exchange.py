"""One RSMP connection, either role: Version exchange, acknowledgements, watchdogs. Time is an argument.

    exchange = Exchange(Terms(role=Role.SUPERVISOR, sites=("KK+AG0503=001TC000",)), new_id, now)
    exchange.receive_data(received, now)
    while (event := exchange.next_event()) is not NEED_DATA: ...
    exchange.send(StatusRequest(...), now)      # -> the id under which it went out
    exchange.tick(now)                          # at exchange.deadline_ms at the latest
    socket.send(exchange.data_to_send())        # after each of these
    # after Closed: write what data_to_send() still gives, then close the connection

The stages are those of "Communication establishment between sites and supervision system"; NEXT is their table.
Before the Version exchange ends nothing but a Version is acknowledged. A mismatch is answered with MessageNotAck,
then the connection is closed; so is it after a missing acknowledgement, and for nothing else that an RSMP peer does.
"""

from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum, StrEnum
from typing import Final, TypeAlias, assert_never

import msgspec
from msgspec.structs import replace

from protocols.clock import Instant
from protocols.errors import LocalProtocolError
from protocols.rsmp.codec import decode, encode
from protocols.rsmp.framing import MAX_GREETING, MAX_MESSAGE, Framing, wrap
from protocols.rsmp.messages import (
    NEWEST,
    AggregatedStatus,
    AggregatedStatusRequest,
    Alarm,
    AlarmEvent,
    CommandRequest,
    CommandResponse,
    Core,
    Fault,
    Identified,
    Message,
    MessageAck,
    MessageError,
    MessageNotAck,
    Payload,
    RsmpVersion,
    SiteId,
    StatusRequest,
    StatusResponse,
    StatusSubscribe,
    StatusUnsubscribe,
    StatusUpdate,
    Version,
    Watchdog,
    printable,
    stamp,
    type_of,
)

MAX_UNACKNOWLEDGED: Final = 4096
"""Messages on their way: a peer that takes so many without a word is treated as one that is gone."""
_WATCHDOGS_MISSED: Final = 2.5
"""Intervals without the peer's watchdog after which that is named; it is no reason to disconnect."""


class Role(Enum):
    """Which end we are."""

    SITE = "site"
    SUPERVISOR = "supervisor"


class Stage(Enum):
    """Where a connection is."""

    OFFERED = "our Version is sent"
    ACCEPTED = "our Version is acknowledged"
    LISTENING = "nothing was heard yet"
    ANSWERED = "their Version is acknowledged and ours is sent"
    AGREED = "the Version exchange has ended"
    OPEN = "messages are exchanged freely"
    CLOSED = "over"


class Step(StrEnum):
    """What brings a connection from one stage to the next."""

    VERSION = "Version"
    ACK = "MessageAck"
    NOT_ACK = "MessageNotAck"
    WATCHDOG = "Watchdog"


NEXT: Final[Mapping[Role, Mapping[Stage, Mapping[Step, Stage]]]] = {
    Role.SITE: {
        Stage.OFFERED: {Step.ACK: Stage.ACCEPTED, Step.NOT_ACK: Stage.CLOSED},
        Stage.ACCEPTED: {Step.VERSION: Stage.OPEN},
    },
    Role.SUPERVISOR: {
        Stage.LISTENING: {Step.VERSION: Stage.ANSWERED},
        Stage.ANSWERED: {Step.ACK: Stage.AGREED, Step.NOT_ACK: Stage.CLOSED},
        Stage.AGREED: {Step.WATCHDOG: Stage.OPEN},
    },
}
"""The Version exchange. A step that is absent is out of order: named, and not acknowledged."""
FREE: Final = frozenset({Stage.AGREED, Stage.OPEN})
_BY_SITE: Final = (AggregatedStatus, Alarm, StatusResponse, StatusUpdate, CommandResponse)
_BY_SUPERVISOR: Final = (
    AggregatedStatusRequest,
    Alarm,
    StatusRequest,
    StatusSubscribe,
    StatusUnsubscribe,
    CommandRequest,
)


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What an end offers and asks for.

    Attributes:
        role: which end we are.
        versions: of the core that we speak.
        sxl: version of the signal exchange list that must match; "1.1" is the same as "1.1.0".
        sites: of a site, its own ids; of a supervisor, those that may connect; none for any.
        greeting_s: how long the Version exchange may take.
        ack_timeout_s: after so long without an acknowledgement the connection is given up.
        watchdog_s: between two watchdogs.
    """

    role: Role
    versions: tuple[Core, ...] = tuple(Core)
    sxl: str = "1.2.1"
    sites: tuple[str, ...] = ()
    greeting_s: float = 30.0
    ack_timeout_s: float = 30.0
    watchdog_s: float = 60.0


class Ready(msgspec.Struct, frozen=True):
    """The Version exchange has ended and messages may be sent."""

    core: Core
    sxl: str
    sites: tuple[str, ...]


class Received(msgspec.Struct, frozen=True):
    """The peer said something, which is acknowledged already, or is to be by a site (`Exchange.acknowledge`)."""

    message: Payload | Watchdog


class Acknowledged(msgspec.Struct, frozen=True):
    """The peer has understood what we said."""

    message: Identified


class NotAcknowledged(msgspec.Struct, frozen=True):
    """The peer has not understood what we said, or will have none of it."""

    message: Identified
    reason: str


class Violation(msgspec.Struct, frozen=True):
    """The peer broke the protocol; the connection stays, unless Closed follows."""

    fault: Fault
    text: str


class Closed(msgspec.Struct, frozen=True):
    """The connection is over for RSMP: send what is left and close it.

    Attributes:
        reason: for a person.
        unacknowledged: what was sent and not acknowledged, oldest first.
    """

    reason: str
    unacknowledged: tuple[Identified, ...] = ()


class NeedData(Enum):
    """What `next_event` returns when nothing more has happened."""

    NEED_DATA = "need data"


NEED_DATA: Final = NeedData.NEED_DATA
Event: TypeAlias = Ready | Received | Acknowledged | NotAcknowledged | Violation | Closed


class Exchange:
    """One end of one connection; a new connection is a new Exchange.

    Args:
        terms: what we offer.
        new_id: gives a new UUID version 4 for each transmission.
        now: the connection has just come up. A site says its Version at once.

    Attributes:
        stage: where the connection is.
        core: the version that both have agreed on; the newest until then.
        sxl: the list's version as the site wrote it; ours until then.
        violations: what the peer did wrong, counted by name.
    """

    def __init__(self, terms: Terms, new_id: Callable[[], str], now: Instant) -> None:
        if not terms.versions or (terms.role is Role.SITE and not terms.sites):
            raise LocalProtocolError("an end has versions, and a site has an id")
        self._terms = terms
        self._new_id = new_id
        self._framing = Framing(MAX_GREETING)
        self._events: deque[Event] = deque()
        self._out: list[bytes] = []
        self._unacknowledged: dict[str, tuple[int, Identified]] = {}
        self._peer_sites: tuple[str, ...] = ()
        self._now = now
        self._ack_ms = round(terms.ack_timeout_s * 1000)
        self._watchdog_ms = round(terms.watchdog_s * 1000)
        self._greeting_ms = round(terms.greeting_s * 1000)
        self._stage_due_ms = now.monotonic_ms + self._greeting_ms
        self._watchdog_due_ms = 0
        self._heard_watchdog_ms = now.monotonic_ms
        self._missed = False
        self.core: Core = NEWEST
        self.sxl = terms.sxl
        self.violations: dict[Fault, int] = {}
        if terms.role is Role.SITE:
            self.stage = Stage.OFFERED
            self._say(self._version(terms.sites), now)
        else:
            self.stage = Stage.LISTENING

    # --- the verbs ---

    def receive_data(self, received: bytes, now: Instant) -> None:
        """Take bytes as they come, however they are cut. After Closed they are dropped."""
        self._now = now
        if self.stage is not Stage.CLOSED:
            self._framing.receive_data(received)

    def next_event(self) -> Event | NeedData:
        """Return what has happened, or NEED_DATA."""
        while not self._events and self.stage is not Stage.CLOSED:
            try:
                packet = self._framing.next_packet()
                if packet is None:
                    return NEED_DATA
                self._take(decode(packet, self.core))
            except MessageError as error:
                self._mistaken(error)
        return self._events.popleft() if self._events else NEED_DATA

    def send(self, message: Payload, now: Instant) -> str:
        """Say something; return the id under which it goes out.

        Raises:
            LocalProtocolError: if the connection is not open, our role does not say such things, the agreed
                version cannot, or too much is on its way.
        """
        if self.stage is not Stage.OPEN:
            raise LocalProtocolError(f"nothing can be sent: {self.stage.value}")
        if not self._may_say(message):
            raise LocalProtocolError(f"a {self._terms.role.value} does not say {type_of(message)}")
        if len(self._unacknowledged) >= MAX_UNACKNOWLEDGED:
            raise LocalProtocolError(f"{MAX_UNACKNOWLEDGED} messages are not acknowledged")
        return self._say(message, now)

    def data_to_send(self) -> bytes:
        """Return what is to be written to the connection now."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    # --- time ---

    @property
    def deadline_ms(self) -> int | None:
        """Return the monotonic moment at which `tick` is due; None when nothing is."""
        match self.stage:
            case Stage.CLOSED:
                return None
            case Stage.OFFERED | Stage.ACCEPTED | Stage.LISTENING | Stage.ANSWERED | Stage.AGREED:
                return self._stage_due_ms
            case Stage.OPEN:
                oldest = next(iter(self._unacknowledged.values()), None)
                return self._watchdog_due_ms if oldest is None else min(self._watchdog_due_ms, oldest[0])
            case _:
                assert_never(self.stage)

    def tick(self, now: Instant) -> None:
        """Do what is due."""
        self._now = now
        if self.stage is Stage.AGREED and now.monotonic_ms >= self._stage_due_ms:
            self._note(Fault.WATCHDOG_MISSED, "no watchdog after the Version exchange")
            self._open()
        elif self.stage not in {Stage.OPEN, Stage.CLOSED} and now.monotonic_ms >= self._stage_due_ms:
            self.close(f"no Version exchange within {self._terms.greeting_s:g} s: {self.stage.value}")
        if self.stage is Stage.OPEN:
            self._tick_open(now)

    def _tick_open(self, now: Instant) -> None:
        oldest = next(iter(self._unacknowledged.values()), None)
        if oldest is not None and now.monotonic_ms >= oldest[0]:
            self.close(f"{type_of(oldest[1])} was not acknowledged within {self._terms.ack_timeout_s:g} s")
            return
        if now.monotonic_ms >= self._watchdog_due_ms:
            self._say_watchdog(now)
        if (
            not self._missed
            and now.monotonic_ms > self._heard_watchdog_ms + _WATCHDOGS_MISSED * self._watchdog_ms
        ):
            self._missed = True
            self._note(Fault.WATCHDOG_MISSED, "the peer's watchdog does not come")

    # --- what a site decides about what it received ---

    def acknowledge(self, message: Payload) -> None:
        """Let the peer know that a message was understood: a site's part, before it answers."""
        self._write(MessageAck(of=message.m_id))

    def refuse(self, message: Payload, reason: str) -> None:
        """Let the peer know that a message was not understood or is not allowed."""
        self._write(MessageNotAck(of=message.m_id, reason=reason))

    def close(self, reason: str) -> None:
        """End the connection, once: it is lost, or we go."""
        if self.stage is Stage.CLOSED:
            return
        self.stage = Stage.CLOSED
        left = tuple(message for _, message in self._unacknowledged.values())
        self._unacknowledged.clear()
        self._events.append(Closed(reason, left))

    @property
    def unacknowledged(self) -> int:
        """Return how many of our messages are on their way."""
        return len(self._unacknowledged)

    # --- what comes in ---

    def _take(self, message: Message) -> None:
        match message:
            case Version():
                self._take_version(message)
            case MessageAck() | MessageNotAck():
                self._take_acknowledgement(message)
            case _ if self.stage not in FREE:
                self._note(Fault.OUT_OF_ORDER, f"{type_of(message)} before the Version exchange ended")
            case Watchdog():
                self._take_watchdog(message)
            case _:
                self._take_payload(message)

    def _following(self, step: Step) -> Stage | None:
        """Return where a step leads from here; None if it is out of order."""
        return NEXT[self._terms.role].get(self.stage, {}).get(step)

    def _step(self, step: Step) -> bool:
        """Go to the next stage; False if the step is out of order."""
        following = self._following(step)
        if following is None:
            return False
        self.stage = following
        return True

    def _take_version(self, theirs: Version) -> None:
        if self._following(Step.VERSION) is None:
            self._note(Fault.OUT_OF_ORDER, f"Version, but {self.stage.value}")
            if self.stage in FREE:
                self._write(MessageNotAck(of=theirs.m_id, reason="the Version exchange has ended"))
            return
        mismatch = self._mismatch(theirs)
        if mismatch is not None:
            self._note(*mismatch)
            self._write(MessageNotAck(of=theirs.m_id, reason=mismatch[1]))
            self.close(mismatch[1])
            return
        self.core = max(self._common(theirs), key=list(Core).index)
        self.sxl = theirs.sxl
        self._peer_sites = tuple(site.id for site in theirs.sites)
        self._write(MessageAck(of=theirs.m_id))
        self._step(Step.VERSION)
        if self._terms.role is Role.SITE:
            self._open()
        else:
            self._say(self._version(self._peer_sites), self._now)

    def _mismatch(self, theirs: Version) -> tuple[Fault, str] | None:
        """Return why a Version cannot be accepted; None if it can."""
        if not self._common(theirs):
            offered = printable(", ".join(one.vers for one in theirs.versions))
            ours = ", ".join(self._terms.versions)
            return Fault.VERSION_MISMATCH, f"RSMP versions [{offered}] requested, but only [{ours}] supported"
        if _three(theirs.sxl) != _three(self._terms.sxl):
            return (
                Fault.SXL_MISMATCH,
                f"SXL {printable(theirs.sxl)} requested, but only {self._terms.sxl} supported",
            )
        if self._terms.sites and not any(site.id in self._terms.sites for site in theirs.sites):
            named = printable(", ".join(site.id for site in theirs.sites))
            return Fault.UNKNOWN_SITE, f"site [{named}] is not known here"
        return None

    def _common(self, theirs: Version) -> list[Core]:
        offered = {one.vers for one in theirs.versions}
        return [core for core in self._terms.versions if core in offered]

    def _take_acknowledgement(self, answer: MessageAck | MessageNotAck) -> None:
        """Match an acknowledgement with what it is about; one of nothing is named."""
        _, message = self._unacknowledged.pop(answer.of, (0, None))
        if message is None:
            self._note(Fault.UNKNOWN_ACKNOWLEDGEMENT, f"{type_of(answer)} of nothing that is on its way")
        elif isinstance(answer, MessageNotAck):
            reason = printable(answer.reason) or "no reason given"
            if self._following(Step.NOT_ACK) is Stage.CLOSED and isinstance(message, Version):
                self.close(f"our Version was refused: {reason}")
            else:
                self._events.append(NotAcknowledged(message, reason))
        else:
            if isinstance(message, Version):
                self._step(Step.ACK)
            self._events.append(Acknowledged(message))

    def _take_watchdog(self, watchdog: Watchdog) -> None:
        self._heard_watchdog_ms = self._now.monotonic_ms
        self._missed = False
        self._write(MessageAck(of=watchdog.m_id))
        if self._step(Step.WATCHDOG):
            self._open()
        self._events.append(Received(watchdog))

    def _take_payload(self, message: Payload) -> None:
        wrong = self._not_for_us(message)
        if wrong is not None:
            self._note(Fault.NOT_FOR_US, wrong)
            self._write(MessageNotAck(of=message.m_id, reason=wrong))
            return
        if self.stage is Stage.AGREED:
            self._note(Fault.OUT_OF_ORDER, f"{type_of(message)} before the first Watchdog")
            self._open()
        if self._terms.role is Role.SUPERVISOR:
            self._write(MessageAck(of=message.m_id))
        self._events.append(Received(message))

    def _not_for_us(self, message: Payload) -> str | None:
        expected = _BY_SITE if self._terms.role is Role.SUPERVISOR else _BY_SUPERVISOR
        if not isinstance(message, expected):
            return f"{type_of(message)} is nothing that a {self._terms.role.value} takes"
        if isinstance(message, Alarm) and self._terms.role is Role.SUPERVISOR and not message.tells:
            return "an alarm without its status is nothing that a supervisor takes"
        if isinstance(message, Alarm) and self._terms.role is Role.SITE and message.event == AlarmEvent.ISSUE:
            return "Issue is nothing that a site takes"
        return None

    def _mistaken(self, error: MessageError) -> None:
        """Name what could not be understood; refuse it if it can be named to the peer."""
        self._note(error.fault, str(error))
        if self.stage in FREE:
            if error.m_id and error.type not in {"MessageAck", "MessageNotAck"}:
                self._write(MessageNotAck(of=error.m_id, reason=str(error)))
        elif error.type == "Version" and error.m_id:
            self._write(MessageNotAck(of=error.m_id, reason=str(error)))
            self.close(f"no valid Version: {error}")
        else:
            self.close(f"this is not RSMP: {error}")

    def _note(self, fault: Fault, text: str) -> None:
        self.violations[fault] = self.violations.get(fault, 0) + 1
        self._events.append(Violation(fault, text))

    # --- what goes out ---

    def _open(self) -> None:
        """Begin free exchange: each end says its watchdog first, the site before the supervisor."""
        self.stage = Stage.OPEN
        self._framing.bound = MAX_MESSAGE
        self._heard_watchdog_ms = self._now.monotonic_ms
        self._say_watchdog(self._now)
        self._events.append(Ready(self.core, self.sxl, self._peer_sites))

    def _say_watchdog(self, now: Instant) -> None:
        self._watchdog_due_ms = now.monotonic_ms + self._watchdog_ms
        self._say(Watchdog(at=stamp(now.utc_ms)), now)

    def _version(self, sites: tuple[str, ...]) -> Version:
        return Version(
            versions=tuple(RsmpVersion(core.value) for core in self._terms.versions),
            sites=tuple(SiteId(site) for site in sites),
            sxl=self.sxl,
        )

    def _say(self, message: Identified, now: Instant) -> str:
        said = replace(message, m_id=self._new_id())
        self._write(said)
        self._unacknowledged[said.m_id] = (now.monotonic_ms + self._ack_ms, said)
        return said.m_id

    def _write(self, message: Message) -> None:
        self._out.append(wrap(encode(message, self.core)))

    def _may_say(self, message: Payload) -> bool:
        if isinstance(message, Alarm):
            return message.tells is (self._terms.role is Role.SITE)
        return isinstance(message, _BY_SITE if self._terms.role is Role.SITE else _BY_SUPERVISOR)


def _three(version: str) -> tuple[str, ...]:
    """Return a version with three numbers at least: "1.1" is "1.1.0"."""
    numbers = tuple(version.split("."))
    return numbers + ("0",) * (3 - len(numbers))
