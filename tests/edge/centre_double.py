"""The other end: a centre that speaks real messages through a real broker, and can be told to misbehave."""

import threading
from collections.abc import Callable
from typing import Self

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from protocols.backhaul import codec
from protocols.backhaul.messages import (
    VERSION,
    Ack,
    Batch,
    CommandMessage,
    Event,
    Hello,
    Presence,
    SignedPolicy,
    Snapshot,
    StreamMark,
)
from protocols.backhaul.topics import Down, Up, UpTopic, down, parse_up, up_filter
from protocols.model.command import Command
from protocols.model.device import StreamClass
from tests.edge.bench import CABINET, WAIT_S, numbers_in


class CentreDouble:
    """Commits a batch only as mark + 1 of its epoch and stream, and says its marks after each.

    Attributes:
        heard: every message in order, by its kind: "hello", "batch/ordinary", "state".
        hellos: those that were heard.
        batches: those that were committed.
        repeated: how many came that could not be committed.
        marks: by epoch and stream.
        presence: what the state topic said last.
        snapshots: of the present, in order.
        silent: whether nothing is acknowledged.
    """

    def __init__(self, port: int) -> None:
        self.heard: list[str] = []
        self.hellos: list[Hello] = []
        self.batches: list[Batch] = []
        self.sizes: list[int] = []
        self.repeated = 0
        self.marks: dict[tuple[int, StreamClass], StreamMark] = {}
        self.presence: list[Presence] = []
        self.snapshots: list[Snapshot] = []
        self.silent = False
        self._port = port
        self._changed = threading.Condition()
        self._client: Client | None = None

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def connect(self) -> None:
        """Connect anew and wait until it is subscribed."""
        self.leave()
        subscribed = threading.Event()
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        client.on_message = self._message
        client.on_connect = self._connected
        client.on_subscribe = lambda *_: subscribed.set()
        client.connect("127.0.0.1", self._port)
        client.loop_start()
        assert subscribed.wait(WAIT_S), "the centre's double cannot subscribe"
        self._client = client

    def leave(self) -> None:
        """Disconnect; the marks stay."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    def wait(self, holds: Callable[[], bool], what: str = "") -> None:
        """Wait until something holds."""
        with self._changed:
            assert self._changed.wait_for(holds, WAIT_S), f"in vain: {what or self.heard[-5:]}"

    def numbers(self, stream: StreamClass = StreamClass.ORDINARY) -> list[object]:
        """Return the committed values of a stream."""
        return numbers_in(batch for batch in self.batches if batch.stream is stream)

    def events(self, *kinds: type) -> list[Event]:
        """Return the committed events of some kinds."""
        return [event for batch in self.batches for event in batch.events if isinstance(event, kinds)]

    def say(self, kind: Down, payload: bytes) -> None:
        """Publish something to the cabinet."""
        assert self._client is not None
        self._client.publish(down(CABINET, kind), payload, qos=1)

    def command(self, command: Command) -> None:
        """Send a command."""
        self.say(Down.COMMAND, codec.encode(CommandMessage(VERSION, command)))

    def policy(self, signed: SignedPolicy) -> None:
        """Send a policy."""
        self.say(Down.POLICY, codec.encode(signed))

    def acknowledge(self, epoch: int) -> None:
        """Say what is committed of an epoch."""
        marks = tuple(self.marks.get((epoch, stream), StreamMark(stream, 0)) for stream in StreamClass)
        self.say(Down.ACK, codec.encode(Ack(epoch, marks)))

    def _connected(
        self,
        client: Client,
        _userdata: object,
        _flags: ConnectFlags,
        _reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        client.subscribe(up_filter(), qos=1)

    def _message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        with self._changed:
            self._take(parse_up(message.topic), bytes(message.payload))
            self._changed.notify_all()

    def _take(self, topic: UpTopic, payload: bytes) -> None:
        self.heard.append(topic.kind.value if topic.stream is None else f"batch/{topic.stream.name.lower()}")
        match topic.kind:
            case Up.HELLO:
                self.hellos.append(codec.decode_hello(payload))
                self._answer(self.hellos[-1].epoch)
            case Up.BATCH:
                self._batch(payload)
            case Up.STATE:
                self.presence.append(codec.decode_presence(payload))
            case Up.NOW:
                self.snapshots.append(codec.decode_snapshot(payload))

    def _batch(self, payload: bytes) -> None:
        floor, sealed = codec.unframe_batch(payload)
        batch = codec.unseal(sealed)
        key = (batch.epoch, batch.stream)
        mark = max(self.marks[key].mark if key in self.marks else 0, floor - 1)
        if batch.number == mark + 1 and not self.silent:
            self.marks[key] = StreamMark(batch.stream, batch.number, codec.batch_hash(sealed))
            self.batches.append(batch)
        else:
            self.repeated += 1
        self._answer(batch.epoch)

    def _answer(self, epoch: int) -> None:
        if not self.silent and self._client is not None:
            self.acknowledge(epoch)
