"""A broker and the ways to it: what MQTT promises at QoS 1, and everything that it does not.

A message arrives at least once. It may be delayed, come twice, vanish with the connection that it was on, or
with a broker that had acknowledged it. What one client sends stays in order, as MQTT has it [MQTT-4.6.0].
"""

import asyncio
import random
from collections import OrderedDict, deque
from collections.abc import Callable

import msgspec

from edge.mqtt import BACKOFF_BOUND_S, BACKOFF_S, OWES_S, WORKED_S, Will
from edge.retrying import Retry
from tests.simulation.story import Trace

KEEP_ALIVE_S = 12.0
"""After so long of nothing a client or the broker takes a connection for dead."""
IN_FLIGHT = 20
"""Messages that a broker has on their way to one client."""
CONNECT_TIMEOUT_S = 10.0


class Message(msgspec.Struct, frozen=True):
    """What is published."""

    topic: str
    payload: bytes
    retain: bool = False


class Way:
    """The network between one client and the broker, and what is wrong with it.

    Attributes:
        latency_s: least and most of one way.
        refusing: whether nobody can connect.
        stalled_until_s: nothing moves before.
    """

    def __init__(self, name: str, latency_s: tuple[float, float] = (0.002, 0.05)) -> None:
        self.name = name
        self.latency_s = latency_s
        self.refusing = False
        self.stalled_until_s = 0.0
        self.connection: Connection | None = None

    def cut(self, why: str = "the connection was reset") -> None:
        """Break the connection; what is on it is gone, and both ends learn of it."""
        if self.connection is not None:
            self.connection.end(why)

    def halve(self) -> None:
        """From now on bytes vanish both ways, without any error, for as long as this connection lasts."""
        if self.connection is not None:
            self.connection.vanish()


class Connection:
    """A connection of a client to the broker: two pipes that keep their order."""

    def __init__(self, world: "Net", way: Way, client: "Client") -> None:
        self.open = True
        self.client = client
        self._world = world
        self._way = way
        self._vanishing = False
        self._last_s = [0.0, 0.0]

    def to_broker(self, arrive: Callable[[], None]) -> None:
        """Send something to the broker."""
        self._send(0, arrive)

    def to_client(self, arrive: Callable[[], None]) -> None:
        """Send something to the client."""
        self._send(1, arrive)

    def vanish(self) -> None:
        """Lose everything from here on; after the keep-alive both ends give up."""
        if not self._vanishing:
            self._vanishing = True
            self._world.loop.call_later(
                KEEP_ALIVE_S * self._world.chance.uniform(1.0, 1.5), self.end, "the broker fell silent"
            )

    def end(self, why: str) -> None:
        """End it; both ends are told."""
        if self.open:
            self.open = False
            self._way.connection = None
            self._world.broker.lost(self)
            self.client.lost(self, why)

    def _send(self, direction: int, arrive: Callable[[], None]) -> None:
        if not self.open or self._vanishing:
            return
        loop = self._world.loop
        at_s = max(loop.time() + self._world.chance.uniform(*self._way.latency_s), self._way.stalled_until_s)
        self._last_s[direction] = at_s = max(at_s, self._last_s[direction] + 1e-6)
        loop.call_at(at_s, self._arrive, arrive)

    def _arrive(self, arrive: Callable[[], None]) -> None:
        if self.open and not self._vanishing:
            arrive()


class Session:
    """What a broker holds for one subscriber."""

    def __init__(self, *, lasting: bool) -> None:
        self.lasting = lasting
        self.filters: set[str] = set()
        self.queue: deque[Message] = deque()
        self.in_flight: OrderedDict[int, Message] = OrderedDict()
        self.connection: Connection | None = None
        self.will: Message | None = None
        self.next_id = 1


class Broker:
    """Routes; forgets everything when it is killed, whatever it has acknowledged."""

    def __init__(self, net: "Net", *, most_queued: int) -> None:
        self.up = True
        self._net = net
        self._most_queued = most_queued
        self._sessions: dict[str, Session] = {}
        self._retained: dict[str, Message] = {}

    def kill(self) -> None:
        """Forget everything."""
        self.up = False
        sessions, self._sessions, self._retained = self._sessions, {}, {}
        for session in sessions.values():
            if session.connection is not None:
                session.connection.end("the broker is gone")

    def start(self) -> None:
        """Be there again, knowing nothing."""
        self.up = True

    def accept(self, connection: Connection, client_id: str, will: Message | None, *, lasting: bool) -> None:
        """Take a client in; one of the same name is shown the door, as MQTT has it [MQTT-3.1.4-3]."""
        known = self._sessions.get(client_id)
        if known is not None and known.connection is not None:
            known.connection.end("taken over")
            known = self._sessions.get(client_id)
        session = known if known is not None and lasting else Session(lasting=lasting)
        self._sessions[client_id] = session
        session.connection, session.will = connection, will
        for number, message in list(session.in_flight.items()):
            self._hand_over(session, number, message)
        self._pump(session)

    def subscribe(self, client_id: str, topic_filter: str) -> None:
        """Note what a client wants to hear."""
        session = self._sessions.get(client_id)
        if session is not None:
            session.filters.add(topic_filter)
            for topic, message in sorted(self._retained.items()):
                if _matches(topic_filter, topic):
                    self._enqueue(session, message)

    def leave(self, client_id: str) -> None:
        """Let a client go without its will."""
        session = self._sessions.get(client_id)
        if session is not None:
            session.will = None

    def publish(self, message: Message) -> None:
        """Hand a message to whoever wants it."""
        if message.retain:
            self._retained[message.topic] = message
        for session in self._sessions.values():
            if any(_matches(one, message.topic) for one in session.filters):
                self._enqueue(session, message)

    def acknowledged(self, client_id: str, number: int) -> None:
        """Take a client's PUBACK."""
        session = self._sessions.get(client_id)
        if session is not None:
            session.in_flight.pop(number, None)
            self._pump(session)

    def lost(self, connection: Connection) -> None:
        """Note that a connection is gone; publish the will that came with it."""
        for client_id, session in list(self._sessions.items()):
            if session.connection is connection:
                session.connection = None
                if not session.lasting:
                    del self._sessions[client_id]
                if session.will is not None:
                    self.publish(session.will)

    def _enqueue(self, session: Session, message: Message) -> None:
        if len(session.queue) < self._most_queued:
            session.queue.append(message)
            self._pump(session)
        else:
            self._net.trace.note("broker", "drops", message.topic)

    def _pump(self, session: Session) -> None:
        while session.connection is not None and session.queue and len(session.in_flight) < IN_FLIGHT:
            number, session.next_id = session.next_id, session.next_id + 1
            message = session.in_flight[number] = session.queue.popleft()
            self._hand_over(session, number, message)
            if self._net.chance.random() < self._net.duplicates:
                self._hand_over(session, number, message)

    def _hand_over(self, session: Session, number: int, message: Message) -> None:
        connection = session.connection
        if connection is not None:
            connection.to_client(lambda: connection.client.deliver(connection, number, message))


class Net:
    """The broker and all that leads to it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, chance: random.Random, trace: Trace, *, most_queued: int
    ) -> None:
        self.loop = loop
        self.chance = chance
        self.trace = trace
        self.duplicates = 0.02
        self.broker = Broker(self, most_queued=most_queued)


class Client:
    """One client of the broker, at the end of its way.

    Attributes:
        on_up: called when the broker has accepted us.
        on_down: called with the reason when the connection is gone.
        on_message: called with each message's topic and payload.
        on_puback: called with what the broker has acknowledged; nobody but a mutant may care.
        receive_maximum: how many messages the broker takes at a time.
        reason: why there is no connection.
        will: what the broker says when we are gone.
    """

    def __init__(
        self, net: Net, way: Way, client_id: str, will: Will | None, *, lasting: bool, receive_maximum: int
    ) -> None:
        self.on_up: Callable[[], None] = lambda: None
        self.on_down: Callable[[str], None] = lambda _: None
        self.on_message: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self.on_puback: Callable[[Message], None] = lambda _: None
        self.receive_maximum = receive_maximum
        self.will = will
        self.reason = "not connected yet"
        self._net = net
        self._way = way
        self._client_id = client_id
        self._lasting = lasting
        self._connection: Connection | None = None
        self._up = False
        self._dead = False
        self._unanswered: dict[int, Message] = {}
        self._answered_s = 0.0
        self._next_id = 1
        self._gone = asyncio.Event()

    @property
    def up(self) -> bool:
        """Whether the connection stands, as far as we know."""
        return self._up

    @property
    def stuck(self) -> bool:
        """Whether the broker has acknowledged nothing for a while of what it owes us."""
        return bool(self._up and self._unanswered and self._net.loop.time() - self._answered_s >= OWES_S)

    @property
    def busy(self) -> bool:
        """Whether what may as well be left out should be."""
        return self.stuck

    async def run(self) -> None:
        """Connect, and again for ever."""
        retry = Retry(BACKOFF_S, BACKOFF_BOUND_S, draw=self._net.chance.uniform)
        while True:
            begin_s = self._net.loop.time()
            was_up = await self._one_connection()
            if was_up and self._net.loop.time() - begin_s >= WORKED_S:
                retry.worked()
            if was_up:
                self._net.trace.note(self._client_id, "down", self.reason)
                self.on_down(self.reason)
            await asyncio.sleep(retry.wait_s())

    def die(self) -> None:
        """Be killed: the kernel closes the socket."""
        self._dead = True
        self._up = False
        if self._connection is not None:
            self._connection.end("the client is gone")

    def subscribe(self, topic_filter: str, *others: str, qos: int = 1) -> None:  # noqa: ARG002  as the real one
        """Ask for messages."""
        for one in (topic_filter, *others):
            self._tell_broker(lambda one=one: self._net.broker.subscribe(self._client_id, one))  # type: ignore[misc]  # a lambda with a default

    def unsubscribe(self, topic_filter: str, *others: str) -> None:
        """Ask for no more of them; nobody does so here."""
        raise NotImplementedError(topic_filter, others)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Hand a message over; tell whether it was taken."""
        if not self._up or (qos and len(self._unanswered) >= self.receive_maximum):
            return False
        message = Message(topic, payload, retain)
        if not self._unanswered:
            self._answered_s = self._net.loop.time()
        number, self._next_id = self._next_id, self._next_id + 1
        self._unanswered[number] = message
        self._tell_broker(lambda: self._published(number, message))
        return True

    async def leave(self) -> None:
        """Say goodbye."""
        self._tell_broker(lambda: self._net.broker.leave(self._client_id))
        await asyncio.sleep(self._way.latency_s[1])

    # What the other end does

    def deliver(self, connection: Connection, number: int, message: Message) -> None:
        """Take a message from the broker, and say so."""
        if self._dead:
            return
        self.on_message(message.topic, message.payload)
        connection.to_broker(lambda: self._net.broker.acknowledged(self._client_id, number))

    def lost(self, connection: Connection, why: str) -> None:
        """Learn that the connection is gone."""
        if connection is self._connection:
            self._connection = None
            self._up = False
            self.reason = why
            self._gone.set()

    async def _one_connection(self) -> bool:
        self._gone.clear()
        self._unanswered.clear()
        await asyncio.sleep(self._net.chance.uniform(*self._way.latency_s))
        loop = self._net.loop
        if self._way.stalled_until_s > loop.time():
            await asyncio.sleep(min(CONNECT_TIMEOUT_S, self._way.stalled_until_s - loop.time()))
        if self._way.refusing or not self._net.broker.up or self._way.stalled_until_s > loop.time():
            self.reason = "nobody answers there"
            return False
        self._connection = self._way.connection = Connection(self._net, self._way, self)
        will = None if self.will is None else Message(self.will.topic, self.will.payload, retain=True)
        self._net.broker.accept(self._connection, self._client_id, will, lasting=self._lasting)
        self._up = True
        self.reason = ""
        self._net.trace.note(self._client_id, "up")
        self.on_up()
        await self._gone.wait()
        return True

    def _published(self, number: int, message: Message) -> None:
        connection = self._connection
        self._net.broker.publish(message)
        if connection is not None:
            connection.to_client(lambda: self._puback(number))

    def _puback(self, number: int) -> None:
        message = self._unanswered.pop(number, None)
        self._answered_s = self._net.loop.time()
        if message is not None and not self._dead:
            self.on_puback(message)

    def _tell_broker(self, arrive: Callable[[], None]) -> None:
        if self._connection is not None:
            self._connection.to_broker(arrive)


def _matches(topic_filter: str, topic: str) -> bool:
    """Tell whether a topic is within a filter; `+` is one level, `#` the rest."""
    wanted, said = topic_filter.split("/"), topic.split("/")
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position >= len(said) or level not in {"+", said[position]}:
            return False
    return len(wanted) == len(said)
