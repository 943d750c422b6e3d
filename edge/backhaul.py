"""The way to the centre: hello, streams, window and acknowledgement.

At each connection the cabinet says where it stands (hello) and the centre answers with its marks. From then
on committed batches are sent, events first and each stream oldest first, with at most a window of them not
yet acknowledged by the centre. PUBACK is no reason to forget anything: only the centre's acknowledgement is.
When nothing is acknowledged for a while, everything since the mark is sent again.
"""

import asyncio
import contextlib
import functools
import random
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
import structlog

from edge.mqtt import MqttLink
from edge.outbox.outbox import Outbox
from edge.outbox.store import Fetched, OutboxFigures, OutboxStore, Sealed
from edge.present import Present
from edge.retrying import Retry
from edge.window import Wanted, Window
from protocols.backhaul import codec
from protocols.backhaul.messages import Ack, CommandMessage, Hello, Presence, SignedPolicy, StreamMark
from protocols.backhaul.topics import Down, Up, down_filter, is_position, parse_down, up
from protocols.clock import Clock
from protocols.errors import RemoteProtocolError
from protocols.model.device import StreamClass
from protocols.model.ids import CabinetId

log = structlog.get_logger()

MAX_TOLD = 64
"""Topics of which a refused message is logged."""
ACKS_KEPT = 64
"""Marks only grow: of more acknowledgements than this the oldest say nothing new."""
HELLO_EVERY_S = 5.0
"""An unanswered hello is said again within so long, and then ever less often."""
HELLO_BOUND_S = 30.0
"""A hello names every device: some kilobytes, for which somebody pays."""


class Identity(msgspec.Struct, frozen=True):
    """Who speaks: the cabinet, and which boot of it."""

    cabinet: CabinetId
    boot: str


class BackhaulFigures(msgspec.Struct, frozen=True):
    """How the way to the centre is.

    Attributes:
        connected: to the broker.
        welcomed: whether the centre has answered this connection's hello.
        reason: why not connected.
        in_flight: batches sent and not acknowledged.
        rewinds: how often the window was sent again.
        sent: batches published, repetitions included.
        refused: messages from afar that could not be read.
        since_ms: UTC milliseconds since when the connection stands, or is gone.
        snapshots: of the present that were sent while a backlog drained.
        snapshots_dropped: that were not, because the way was busy.
    """

    connected: bool
    welcomed: bool
    reason: str
    in_flight: int
    rewinds: int
    sent: int
    refused: int
    since_ms: int
    snapshots: int = 0
    snapshots_dropped: int = 0


class Backhaul:
    """Sends what the outbox holds and hands on what the centre says.

    Attributes:
        make_hello: builds the hello of a connection.
        on_policy: called with each policy that comes, unjudged.
        on_command: called with each command that comes.
        on_position: called with topic and content of each position that comes; it may raise RemoteProtocolError.
        present: what is told beside a backlog; None for nothing.
    """

    def __init__(
        self, identity: Identity, clock: Clock, link: MqttLink, outbox: Outbox, silence_s: float
    ) -> None:
        self.make_hello: Callable[[], Awaitable[Hello]]
        self.on_policy: Callable[[SignedPolicy], None] = lambda _: None
        self.on_command: Callable[[CommandMessage], None] = lambda _: None
        self.on_position: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self.present: Present | None = None
        self._positions: tuple[str, ...] = ()
        self._identity = identity
        self._clock = clock
        self._link = link
        self._outbox = outbox
        self._loop = asyncio.get_running_loop()
        self._window = Window(silence_s, random.random)
        self._epoch = 0
        self._welcomed = False
        self._said_hello_s = float("-inf")
        self._hello_wait_s = 0.0
        self._hello_retry = Retry(HELLO_EVERY_S, HELLO_BOUND_S, steady=0.5)
        self._acks: deque[Ack] = deque(maxlen=ACKS_KEPT)
        self._is_contradicted = False
        self._went_back = False
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._since_monotonic_ms = clock.now().monotonic_ms
        self._sent = self._refused = 0
        self._snapshots = self._snapshots_dropped = 0
        self._told: set[str] = set()
        link.on_up = self._up
        link.on_down = self._down
        link.on_message = self._message
        outbox.on_committed = self._committed
        outbox.on_next_epoch = self._next_epoch
        outbox.on_contradicted = self._contradicted

    async def run(self) -> None:
        """Keep the window full and notice silence, until cancelled."""
        await self._outbox.ask(lambda store: store.figures(0), then=self._learn)
        unreadable = ""
        while True:
            self._wake.clear()
            try:
                await self._go_on()
                unreadable = ""
            except sqlite3.Error as error:  # a disk that stutters must not darken the street
                if str(error) != unreadable:
                    log.error("outbox_unreadable", error=str(error))
                unreadable = str(error)
            await self._wait()

    async def _go_on(self) -> None:
        if self._is_contradicted:
            self._is_contradicted = False
            await self._renew_epoch(())
        await self._take_acks()
        if self._went_back and self._loop.time() - self._said_hello_s >= HELLO_EVERY_S:
            self._welcomed = False  # a hello says what the centre can still have, and what not
        if self._link.up and not self._welcomed:
            await self._say_hello()
        elif self._link.up:
            self._notice_silence()
            await self._fill_window()
            self._tell_present()

    async def drained(self, timeout_s: float) -> bool:
        """Wait until the centre has everything that is committed; tell whether it came to that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._window.drained:
                    self._progress.clear()
                    await self._progress.wait()
        return self._window.drained

    def goodbye(self) -> None:
        """Say that we leave on purpose."""
        self._link.publish(up(self._identity.cabinet, Up.STATE), self.presence(online=False), retain=True)

    def presence(self, *, online: bool) -> bytes:
        """Return what the topic of our state says."""
        return codec.encode(Presence(online, self._identity.boot, self._clock.now().utc_ms))

    def figures(self) -> BackhaulFigures:
        """Return how the way to the centre is."""
        now = self._clock.now()
        return BackhaulFigures(
            connected=self._link.up,
            welcomed=self._welcomed,
            reason=self._link.reason,
            in_flight=self._window.in_flight,
            rewinds=self._window.rewinds,
            sent=self._sent,
            refused=self._refused,
            since_ms=now.utc_ms - now.monotonic_ms + self._since_monotonic_ms,
            snapshots=self._snapshots,
            snapshots_dropped=self._snapshots_dropped,
        )

    def hear_positions(self, filters: tuple[str, ...]) -> None:
        """Hear the vehicles of these topics, and no others; on this connection and on each that follows."""
        gone = [one for one in self._positions if one not in filters]
        come = [one for one in filters if one not in self._positions]
        self._positions = filters
        if self._link.up and gone:
            self._link.unsubscribe(*gone)
        if self._link.up and come:
            self._link.subscribe(*come, qos=0)

    # Connection

    def _up(self) -> None:
        self._welcomed = False
        self._acks.clear()  # of an earlier connection
        self._said_hello_s = float("-inf")
        self._since_monotonic_ms = self._clock.now().monotonic_ms
        if self.present is not None:
            self.present.forget()
        self._link.subscribe(down_filter(self._identity.cabinet))
        if self._positions:
            self._link.subscribe(*self._positions, qos=0)
        self._link.publish(up(self._identity.cabinet, Up.STATE), self.presence(online=True), retain=True)
        self._wake.set()
        log.info("backhaul_up")

    def _down(self, reason: str) -> None:
        self._welcomed = False
        self._since_monotonic_ms = self._clock.now().monotonic_ms
        self._wake.set()
        log.warning("backhaul_down", reason=reason)

    async def _say_hello(self) -> None:
        if self._link.stuck or self._loop.time() - self._said_hello_s < self._hello_wait_s:
            return
        self._said_hello_s = self._loop.time()
        self._went_back = False
        self._hello_wait_s = self._hello_retry.wait_s()
        hello = await self.make_hello()
        self._link.publish(up(self._identity.cabinet, Up.HELLO), codec.encode(hello))

    def _learn(self, figures: OutboxFigures) -> None:
        self._epoch = figures.epoch
        self._window.learn(figures.heads, growing=figures.epoch == figures.sealing_epoch)

    def _next_epoch(self, figures: OutboxFigures) -> None:
        """Go on with the next epoch: the centre is told of it, and asked, like at a connection."""
        log.info("backhaul_next_epoch", epoch=figures.epoch)
        self._learn(figures)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._acks.clear()
        self._welcomed = False
        self._said_hello_s = float("-inf")
        self._wake.set()
        self._progress.set()

    # Sending

    def _committed(self, batches: Sequence[Sealed], floors: Mapping[StreamClass, int]) -> None:
        self._window.committed(batch for batch in batches if batch.epoch == self._epoch)
        self._window.gone(floors)
        self._wake.set()

    async def _fill_window(self) -> None:
        while (
            self._link.up
            and self._welcomed
            and (coming := self._window.next(self._link.receive_maximum)) is not None
        ):
            match coming:
                case Wanted(stream=stream, first=first, limit=limit):
                    found = await self._outbox.ask(functools.partial(_fetch, stream, first, limit))
                    if found.epoch == self._epoch:  # not if that epoch was done with in between
                        self._window.found(coming, found)
                case Sealed():
                    if not self._send(coming):
                        return

    def _send(self, batch: Sealed) -> bool:
        topic = up(self._identity.cabinet, Up.BATCH, batch.stream)
        floor = self._window.ways[batch.stream].floor
        if not self._link.publish(topic, codec.frame_batch(floor, batch.sealed)):
            return False
        self._window.sent(batch, self._loop.time())
        self._sent += 1
        return True

    def _tell_present(self) -> None:
        """Tell what is now, if what is sent is of long ago; it may be lost, so it is never waited for."""
        now_s = self._loop.time()
        if self.present is None or not self._window.behind or not self.present.claim(now_s):
            return
        if self._link.busy:
            self.present.drop(now_s)
            self._snapshots_dropped += 1
            return
        snapshot = self.present.snapshot(now_s)
        if snapshot and self._link.publish(up(self._identity.cabinet, Up.NOW), snapshot, qos=0):
            self._snapshots += 1

    def _notice_silence(self) -> None:
        if self._link.stuck:  # what was sent is on its way still: it would only come twice
            self._window.hold(self._loop.time())
        elif self._window.silent_for_too_long(self._loop.time()):
            log.warning("backhaul_silent", in_flight=self._window.in_flight)
            self._window.rewind(self._loop.time())
            self._welcomed = False  # so that both ends say again where they stand

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self._wake.wait()
        except TimeoutError:
            return

    # Hearing

    def _message(self, topic: str, payload: bytes) -> None:
        try:
            if is_position(topic):
                self.on_position(topic, payload)
                return
            match parse_down(topic).kind:
                case Down.ACK:
                    self._acknowledged(codec.decode_ack(payload))
                case Down.POLICY:
                    self.on_policy(codec.decode_policy(payload))
                case Down.COMMAND:
                    self.on_command(codec.decode_command(payload))
        except RemoteProtocolError as error:
            self._refused += 1
            if (
                topic not in self._told and len(self._told) < MAX_TOLD
            ):  # one line a topic: noise must not fill the log
                self._told.add(topic)
                log.warning("backhaul_message_refused", topic=topic, error=str(error))
        except Exception:  # paho would lose its place in the stream, and with it the connection
            log.exception("backhaul_message_broke", topic=topic)

    def _acknowledged(self, ack: Ack) -> None:
        if ack.epoch == self._epoch:
            self._acks.append(ack)
            self._wake.set()

    async def _take_acks(self) -> None:
        while self._acks:
            ack = self._acks.popleft()
            marks = ack.marks
            disagrees = await self._disagrees(marks)
            if ack.epoch != self._epoch:  # it was done with in between
                continue
            if disagrees:
                await self._renew_epoch(marks)
                return
            self._went_back = self._went_back or (self._welcomed and self._window.went_back(marks))
            is_news = not self._welcomed or self._window.advances(marks)
            self._window.acknowledged(marks, self._loop.time(), anew=not self._welcomed)
            self._welcomed = True
            self._hello_retry.worked()
            if is_news:  # so that what is repeated without end does not pile up before a slow disk
                self._outbox.acknowledge(ack)
            self._progress.set()

    def _contradicted(self) -> None:
        """Take note that somebody else, with a copy of our card, has given our numbers to other batches."""
        self._is_contradicted = True
        self._wake.set()

    async def _disagrees(self, marks: tuple[StreamMark, ...]) -> bool:
        """Tell whether the centre knows of batches that this outbox never made; hashes at the first word."""
        if self._window.beyond(marks):
            return True
        if self._welcomed:
            return False
        epoch = self._epoch
        return await self._outbox.ask(lambda store: any(store.disagrees(mark, epoch) for mark in marks))

    async def _renew_epoch(self, marks: tuple[StreamMark, ...]) -> None:
        log.error("backhaul_marks_disagree", marks=[(mark.stream.name.lower(), mark.mark) for mark in marks])
        await self._outbox.ask(functools.partial(_renew, self._epoch), then=self._learn)
        self._begin_anew()


def _renew(epoch: int, store: OutboxStore) -> OutboxFigures:
    store.renew_epoch(epoch)
    return store.figures(0)


def _fetch(stream: StreamClass, first: int, limit: int, store: OutboxStore) -> Fetched:
    return store.fetch(stream, first, limit)
