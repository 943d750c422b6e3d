"""The way to the cabinets: one MQTT client whose messages go straight to the store's queue.

paho's thread runs the network. When the queue is full it waits: the socket fills, the broker holds back, and
the cabinets keep what they have. That the thread still runs is watched: nobody else would notice its end.
"""

import random
import threading
from collections.abc import Callable

import structlog
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from central.config import BrokerSettings, Protocol
from central.effects import Downlink
from protocols.backhaul.codec import MAX_BATCH_BYTES
from protocols.backhaul.topics import SHARDS, down, up_filter
from protocols.clock import Clock

KEEP_ALIVE_S = 30
SESSION_EXPIRY_S = 3_600
"""For so long a broker of MQTT 5 keeps what comes while the aggregator restarts."""
BREATH_MS = 5_000
"""Who lost the broker less long ago keeps its shards: a broker that restarts is back by then."""
RETRY_LEAST_S = 0.5
RETRY_MOST_S = 15.0
MAX_PACKET_BYTES = MAX_BATCH_BYTES + (64 << 10)
"""A broker must not hand us more at once: paho would gather up to 256 MB before we see its size."""
MAX_QUEUED = 20_000
"""Downlinks that wait in paho's memory; acknowledgements and re-sent commands outlive a loss there."""
QOS = 1
_VERSIONS = {Protocol.MQTT_5: MQTTProtocolVersion.MQTTv5, Protocol.MQTT_311: MQTTProtocolVersion.MQTTv311}

Deliver = Callable[[str, bytes], None]
Then = Callable[[], None]
log = structlog.get_logger(__name__)


EVERY_FILTER = frozenset({up_filter(), *(up_filter(number) for number in range(SHARDS))})


def filters_of(shards: frozenset[int]) -> frozenset[str]:
    """Return the subscriptions by which the cabinets of some shards are heard."""
    if len(shards) == SHARDS:
        return frozenset({up_filter()})
    return frozenset(up_filter(number) for number in shards)


class Link:
    """Keeps one connection to the broker."""

    def __init__(
        self, settings: BrokerSettings, client_id: str, clock: Clock, deliver: Deliver, *, keep: bool = True
    ) -> None:
        """Prepare a link; `start` connects.

        Args:
            settings: which broker.
            client_id: the same at each start, so that a broker recognises us.
            clock: for the health report.
            deliver: called in paho's thread with topic and payload; may block.
            keep: whether a broker of MQTT 5 is to keep what comes while we are away; a worker that may find
                its shards with another has no use for it.
        """
        self._settings = settings
        self._clock = clock
        self._deliver = deliver
        self._keep = keep
        self._stopping = False
        self._filters: frozenset[str] = frozenset()
        self._changing = threading.Lock()
        self._leaving: dict[int, Then] = {}
        self._thread_name = f"paho-mqtt-client-{client_id}"  # as paho names it
        self._client_id = client_id
        self._client = self._prepare()
        self.connected = False
        self.since_ms: int | None = None
        self.connections = 0
        self.why = "not connected yet"
        self._lost_ms: int | None = None

    def _prepare(self) -> Client:
        version = _VERSIONS[self._settings.protocol]
        clean = None if version is MQTTProtocolVersion.MQTTv5 else True
        client = Client(CallbackAPIVersion.VERSION2, self._client_id, clean_session=clean, protocol=version)
        client.max_queued_messages_set(MAX_QUEUED)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_unsubscribe = self._on_unsubscribe
        if self._settings.tls is not None:
            client.tls_set_context(self._settings.tls.context())
        return client

    def hears(self) -> bool:
        """Tell whether cabinets are heard: we are connected, or were a moment ago and may be again at once."""
        lost_ms = self._lost_ms
        return self.connected or (
            lost_ms is not None and self._clock.now().monotonic_ms - lost_ms < BREATH_MS
        )

    def start(self) -> None:
        """Begin to connect, and go on trying."""
        address = self._settings.address
        self._draw_retry()
        if self._settings.protocol is Protocol.MQTT_5:
            session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
            session.SessionExpiryInterval = SESSION_EXPIRY_S if self._keep else 0
            session.MaximumPacketSize = MAX_PACKET_BYTES
            self._client.connect_async(
                address.host, address.port, KEEP_ALIVE_S, clean_start=not self._keep, properties=session
            )
        else:
            self._client.connect_async(address.host, address.port, KEEP_ALIVE_S)
        self._client.loop_start()

    def stop(self) -> None:
        """Say goodbye and end the thread."""
        self._stopping = True
        self._client.disconnect()
        self._client.loop_stop()

    def listen(self, shards: frozenset[int], then: Then | None = None) -> None:
        """Hear the cabinets of these shards, and no others; on this connection and on each that follows.

        Args:
            shards: all of them are one subscription.
            then: called, in paho's thread or at once, when nothing more comes of the others.
        """
        with self._changing:
            before, self._filters = self._filters, filters_of(shards)
            come, gone = self._filters - before, before - self._filters
            if self.connected and come:
                self._subscribe(self._client, come)
            if self.connected and gone:
                _, number = self._client.unsubscribe(sorted(gone))
                if then is not None and number is not None:
                    self._leaving[number] = then
                    return
        if then is not None:
            then()

    @staticmethod
    def _subscribe(client: Client, filters: frozenset[str]) -> None:
        client.subscribe([(one, QOS) for one in sorted(filters)])

    def watch(self) -> None:
        """Begin with a new client if paho's thread has ended, whatever it met."""
        if self._stopping or any(thread.name == self._thread_name for thread in threading.enumerate()):
            return
        log.error("the MQTT thread has ended and is begun again")
        self._down("its thread ended")
        abandoned = self._client.socket()
        self._client = self._prepare()
        if abandoned is not None:
            abandoned.close()
        self.start()

    def send(self, message: Downlink) -> bool:
        """Hand a message to paho; return whether it took it. What it does not take is sent again later."""
        if not self.connected:
            return False
        taken = self._client.publish(
            down(message.cabinet, message.kind), message.payload, QOS, properties=self._expiry(message)
        )
        return taken.rc is MQTTErrorCode.MQTT_ERR_SUCCESS

    def _expiry(self, message: Downlink) -> Properties | None:
        if message.expires_ms is None or self._settings.protocol is not Protocol.MQTT_5:
            return None
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        left_s = (message.expires_ms - self._clock.now().utc_ms) // 1000
        properties.MessageExpiryInterval = max(1, left_s)
        return properties

    def _draw_retry(self) -> None:
        """Draw the next waits, so that those who were cut off together do not return together."""
        least_s = RETRY_LEAST_S * (1 + random.random())  # noqa: S311  spreads load, guards nothing
        self._client.reconnect_delay_set(least_s, RETRY_MOST_S * least_s)  # type: ignore[arg-type]  # takes fractions

    def _on_connect(
        self, client: Client, _user: object, flags: ConnectFlags, code: ReasonCode, _more: Properties | None
    ) -> None:
        if code.is_failure:
            self._down(f"refused by the broker: {code}")
            return
        with self._changing:
            if flags.session_present:
                client.unsubscribe(sorted(EVERY_FILTER - self._filters))
            if self._filters:
                self._subscribe(client, self._filters)
            self.connected = True
        self.since_ms = self._clock.now().utc_ms
        self.connections += 1
        self.why = ""
        log.info("connected to the broker", broker=str(self._settings))

    def _on_connect_fail(self, _client: Client, _user: object) -> None:
        self._down("nobody answers there")

    def _on_disconnect(
        self,
        _client: Client,
        _user: object,
        _flags: DisconnectFlags,
        code: ReasonCode,
        _more: Properties | None,
    ) -> None:
        self._down("we said goodbye" if self._stopping else f"the connection was lost: {code}")

    def _down(self, why: str) -> None:
        if self.connected and not self._stopping:
            log.warning("the broker is gone", broker=str(self._settings), why=why)
            self._draw_retry()
        with self._changing:
            if self.connected:
                self._lost_ms = self._clock.now().monotonic_ms
            self.connected = False
            left, self._leaving = list(self._leaving.values()), {}
        self.since_ms = None
        self.why = why
        for then in left:
            then()

    def _on_unsubscribe(
        self, _client: Client, _user: object, number: int, _codes: list[ReasonCode], _more: Properties | None
    ) -> None:
        with self._changing:
            then = self._leaving.pop(number, None)
        if then is not None:
            then()

    def _on_message(self, _client: Client, _user: object, message: MQTTMessage) -> None:
        self._deliver(message.topic, bytes(message.payload))
