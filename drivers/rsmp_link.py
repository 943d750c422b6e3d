"""The supervisor's socket: takes the site's connection, carries questions and answers over it.

A connection is a `Link`. It is nobody until its Version exchange has ended; one that says no RSMP, is of another
site, or says nothing in time is dropped and counted. A new connection of the site replaces the one before: a site
connects again only when it holds the old one for dead.
"""

import asyncio
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from drivers.errors import LineDownError, LineLostError, NoAnswerError, RefusedError
from drivers.settings import Rsmp
from protocols.clock import Clock
from protocols.errors import LocalProtocolError
from protocols.rsmp.exchange import (
    NEED_DATA,
    Acknowledged,
    Closed,
    Event,
    Exchange,
    NotAcknowledged,
    Ready,
    Received,
    Role,
    Stage,
    Terms,
    Violation,
)
from protocols.rsmp.messages import (
    CommandResponse,
    Core,
    FromSite,
    Payload,
    StatusResponse,
    type_of,
)
from protocols.rsmp.messages import (
    Fault as Mistake,
)

MAX_STRANGERS: Final = 8
"""Connections that have not said who they are: one site, and a few that look at the port."""
MAX_WAITING: Final = 512 * 1024
"""Bytes that the site does not take: far more than we ever have to say; it is gone."""

SITE: Final = "the site"
"""Who did wrong, when it is the site itself and no stranger."""
REPLACED: Final = "replaced"
"""The name under which it is counted that a site connects while it is connected: it has held its connection for dead
before we have, or there are two of that name."""
LATE: Final = "late_answer"
"""The name under which answers are counted that came when nobody waited for them any more."""

_MISMATCHES: Final = frozenset({Mistake.VERSION_MISMATCH, Mistake.SXL_MISMATCH, Mistake.UNKNOWN_SITE})

Matches: TypeAlias = Callable[[FromSite], bool]


@dataclass(eq=False)
class _Question:
    """Something that was said and is waited for.

    Attributes:
        matches: whether a message answers it; None if its acknowledgement does.
        outcome: for whoever waits.
        acknowledged: whether the site has it: what came before is no answer to it.
    """

    matches: Matches | None
    outcome: "asyncio.Future[FromSite | None]"
    acknowledged: bool = field(default=False)


class Link(asyncio.Protocol):
    """One connection.

    Attributes:
        exchange: its protocol.
        lost: why it is over; None while it is there.
        known: whether it has been the site's.
        host: the address from which it comes.
        peer: the same with the port, for a person.
    """

    def __init__(self, owner: "Listener", terms: Terms, clock: Clock) -> None:
        self._owner = owner
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._questions: dict[str, _Question] = {}
        self.exchange = Exchange(terms, lambda: str(uuid.uuid4()), clock.now())
        self.lost: str | None = None
        self.known = False
        self.host = self.peer = "nowhere"

    # --- asyncio's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to listen."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("an RSMP connection is a stream")
        self._transport = transport
        address = transport.get_extra_info("peername") or ("nowhere", 0)
        self.host = str(address[0])
        self.peer = f"{self.host}:{address[1]}"
        transport.set_write_buffer_limits(high=MAX_WAITING)
        self._owner.welcome(self)
        self._settle()

    def data_received(self, data: bytes) -> None:
        """Hear what the site says."""
        self.exchange.receive_data(data, self._clock.now())
        self._settle()

    def pause_writing(self) -> None:
        """Give up a site that takes nothing any more."""
        self.drop("the site takes nothing any more")
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the connection is gone."""
        self._transport = None
        self.drop(str(exc or "the site closed the connection"))

    # --- ours ---

    @property
    def open(self) -> bool:
        """Tell whether questions can be put."""
        return self.lost is None and self.exchange.stage is Stage.OPEN

    def drop(self, reason: str) -> None:
        """End the connection, once."""
        if self.lost is not None:
            return
        self.exchange.close(reason)
        self._settle()

    async def ask(self, message: Payload, matches: Matches | None, timeout_s: float) -> FromSite | None:
        """Say something and wait for its answer, or for its acknowledgement alone.

        Raises:
            LineDownError: if the connection is gone; LineLostError if it goes.
            RefusedError: if the site answers with MessageNotAck.
            NoAnswerError: if it acknowledges, and does not answer.
        """
        if not self.open:
            raise LineDownError(self.lost or "the site is not connected")
        question = _Question(matches, self._loop.create_future())
        try:
            m_id = self.exchange.send(message, self._clock.now())
        except LocalProtocolError as fault:
            raise RefusedError(f"cannot be said in this version: {fault}") from fault
        self._questions[m_id] = question
        self._settle()
        try:
            async with asyncio.timeout(timeout_s):
                return await question.outcome
        except TimeoutError as fault:
            how = "acknowledged" if question.acknowledged else "not acknowledged"
            raise NoAnswerError(f"it was {how}, and not answered") from fault
        finally:
            self._questions.pop(m_id, None)

    def _settle(self) -> None:
        """Handle what has happened, write what is to be said, and wake up when something is due."""
        while (event := self.exchange.next_event()) is not NEED_DATA:
            self._handle(event)
        if self._transport is not None:
            said = self.exchange.data_to_send()
            if said:
                self._transport.write(said)
            if self.lost is not None:
                self._transport.close()
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_ms = None if self.lost is not None else self.exchange.deadline_ms
        if due_ms is not None:
            wait_s = max(0, due_ms - self._clock.now().monotonic_ms) / 1000
            self._timer = self._loop.call_later(wait_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.exchange.tick(self._clock.now())
        self._settle()

    def _handle(self, event: Event) -> None:
        match event:
            case Received():
                self._answered(event)
            case Acknowledged():
                self._acknowledged(event.message.m_id)
            case NotAcknowledged():
                self._refused(event.message.m_id, event.reason)
            case Violation():
                self._owner.note(self, event.fault.value, event.text)
            case Ready():
                self._owner.greeted(self)
            case Closed():
                self._over(event.reason)

    def _answered(self, event: Received) -> None:
        """Give a message to the question that it answers, and to everybody else."""
        said = event.message
        if not isinstance(said, FromSite):
            return
        self._owner.on_message(said)
        for question in self._questions.values():
            if (
                question.matches is not None
                and question.acknowledged
                and not question.outcome.done()
                and question.matches(said)
            ):
                question.outcome.set_result(said)
                return
        if isinstance(said, StatusResponse | CommandResponse):
            self._owner.note(self, LATE, f"{type_of(said)} that nobody waits for")

    def _acknowledged(self, m_id: str) -> None:
        question = self._questions.get(m_id)
        if question is None:
            return
        question.acknowledged = True
        if question.matches is None and not question.outcome.done():
            question.outcome.set_result(None)

    def _refused(self, m_id: str, reason: str) -> None:
        question = self._questions.get(m_id)
        if question is not None and not question.outcome.done():
            question.outcome.set_exception(RefusedError(f"the site refuses: {reason}"))

    def _over(self, reason: str) -> None:
        self.lost = reason
        for question in self._questions.values():
            if not question.outcome.done():
                question.outcome.set_exception(LineLostError(reason))
        self._owner.ended(self)


class Listener:
    """The port on which a site is awaited.

    Args:
        settings: of the line.
        clock: where times come from.
        on_message: called with what the site says on its connection.
        on_fault: called with what a peer did wrong: who it is (`SITE`, or a stranger's host), its name and its text.
        on_lost: called with the reason when the site's connection goes away.

    Attributes:
        strangers_dropped: connections that never became the site's.
    """

    def __init__(
        self,
        settings: Rsmp,
        clock: Clock,
        *,
        on_message: Callable[[FromSite], None],
        on_fault: Callable[[str, str, str], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self.on_message = on_message
        self._on_fault = on_fault
        self._on_lost = on_lost
        self._server: asyncio.Server | None = None
        self._links: dict[Link, None] = {}
        self._greeted: Link | None = None
        self._arrived = asyncio.Event()
        self._terms = Terms(
            role=Role.SUPERVISOR,
            versions=tuple(Core(version) for version in settings.versions),
            sxl=settings.sxl,
            sites=(settings.site,),
            greeting_s=settings.handshake_timeout_s,
            ack_timeout_s=settings.ack_timeout_s,
            watchdog_s=settings.watchdog_s,
        )
        self._refused = ""
        self.strangers_dropped = 0

    async def arrival(self) -> Link:
        """Wait until the site is connected and its Version exchange has ended.

        Raises:
            LineDownError: if the port cannot be had, or nobody comes in time.
        """
        await self._listen()
        s = self._settings
        try:
            async with asyncio.timeout(s.connect_timeout_s):
                while self._greeted is None or not self._greeted.open:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError as fault:
            raise LineDownError(
                f"site {s.site} does not connect to {s.host}:{s.port}{self._refused}"
            ) from fault
        return self._greeted

    async def _listen(self) -> None:
        if self._server is not None:
            return
        s, loop = self._settings, asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Link(self, self._terms, self._clock), s.host, s.port, backlog=MAX_STRANGERS
            )
        except OSError as fault:
            why = fault.strerror if fault.errno is None else os.strerror(fault.errno)
            raise LineDownError(f"cannot listen on {s.host}:{s.port}: {why}") from fault

    def close(self) -> None:
        """Let go of the port and of every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._greeted = None
        for link in tuple(self._links):
            link.drop("the supervisor ends")

    # --- what its links tell it ---

    def welcome(self, link: Link) -> None:
        """Take a new connection; of too many strangers the oldest gives way, which has had its time to speak.

        Were the newest refused, whoever holds a few silent connections would keep the site out.
        """
        strangers = [one for one in self._links if one is not self._greeted]
        self._links[link] = None
        if len(strangers) >= MAX_STRANGERS:
            strangers[0].drop("too many connections that say nothing")

    def greeted(self, link: Link) -> None:
        """Let a connection be the site's; the one before is over."""
        before, self._greeted = self._greeted, link
        link.known = True
        self._refused = ""
        self._arrived.set()
        if before is not None:
            self.note(
                link, REPLACED, f"the site connects from {link.peer} while it is connected from {before.peer}"
            )
            before.drop("the site has connected anew")
            self._on_lost("the site has connected anew")

    def ended(self, link: Link) -> None:
        """Forget a connection that is over."""
        self._links.pop(link, None)
        if link is self._greeted:
            self._greeted = None
            self._on_lost(link.lost or "the connection is gone")
        elif not link.known and self._server is not None:
            self.strangers_dropped += 1

    def note(self, link: Link, fault: str, text: str) -> None:
        """Name what a peer did wrong; a Version that was refused is worth telling with why nobody is there."""
        if fault in _MISMATCHES:
            self._refused = f"; refused was: {text}"
        if link is self._greeted:
            self._on_fault(SITE, fault, text)
        else:
            self._on_fault(link.host, fault, f"a stranger: {text}")
