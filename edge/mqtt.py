"""paho-mqtt in the agent's own event loop: a socket with callbacks, no thread of its own.

paho never holds the backlog. It is handed what is to be sent now; what it could not send is sent again by
whoever owns it.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import structlog
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge import tls
from edge.config import MQTT_PORTS, BackhaulSettings
from edge.retrying import Retry

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 10.0
"""For each of TCP, TLS and MQTT."""
CONNECT_BOUND_S = 40.0
"""For a name look-up, which nobody else bounds, with TCP and TLS to one address."""
BACKOFF_S = 1.0
BACKOFF_BOUND_S = 15.0
WORKED_S = 10.0
"""A connection that stood for so long has worked. One that ends sooner, again and again, is tried ever less often."""
ANSWER_S = 60.0
"""A broker that acknowledges nothing of what it owes for so long, though it answers pings, is left."""
OWES_S = 1.0
"""From here on what the broker owes is stuck, on the way or there: nothing is piled upon it."""
LOOK_S = 1.0
"""How often paho looks whether the broker has fallen silent."""
MAX_PACKET_BYTES = 1 << 20
"""What a broker may send at once: the largest policy is 256 kB, and paho gathers a packet in memory."""
DEFAULT_RECEIVE_MAXIMUM = 65_535
"""MQTT 5, 3.2.2.3.3: what a broker that says nothing accepts."""


class Will(msgspec.Struct, frozen=True):
    """What the broker says of us when we are gone; retained."""

    topic: str
    payload: bytes


class MqttLink:
    """One connection to a broker, brought back for ever.

    Attributes:
        on_up: called when the broker has accepted us.
        on_down: called with the reason when the connection is gone.
        on_message: called with each message's topic and payload.
        will: what the broker says of us when we are gone, from the next connection on.
        doubted_ms: returns UTC milliseconds before which it cannot be while nothing has disciplined the clock: the
            broker's certificates are judged by them; None while the system's clock can be believed.
        receive_maximum: how many QoS 1 messages the broker takes at a time.
        reason: why there is no connection; "" while there is one.
    """

    def __init__(self, settings: BackhaulSettings, base: Path, client_id: str, will: Will) -> None:
        self.on_up: Callable[[], None] = lambda: None
        self.on_down: Callable[[str], None] = lambda _: None
        self.on_message: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self.doubted_ms: Callable[[], int | None] = lambda: None
        self.receive_maximum = DEFAULT_RECEIVE_MAXIMUM
        self.will = will
        self.reason = "not connected yet"
        self._settings = settings
        url = urlsplit(settings.url)
        self._host = url.hostname or ""
        self._port = url.port or MQTT_PORTS[url.scheme]
        self._loop = asyncio.get_running_loop()
        self._up = self._refusal_told = False
        self._unanswered: set[int] = set()
        self._answered_s = 0.0
        self._up_since_s: float | None = None
        self._gone = asyncio.Event()
        self._socket: SocketLike | None = None
        self._wants_write = False
        self._client_id = client_id
        self._base = base
        self._dated_tls: tls.DatedContext | None = None
        self._tls = tls.context(settings, base) if url.scheme == "mqtts" else None
        self._client = self._make_client()

    @property
    def up(self) -> bool:
        """Whether the broker has accepted us and the connection stands, as far as we know."""
        return self._up

    @property
    def stuck(self) -> bool:
        """Whether the broker has acknowledged nothing for a while of what it owes us: it waits on the way."""
        return self._owes_s() >= OWES_S

    @property
    def busy(self) -> bool:
        """Whether what may as well be left out should be: the way does not even take what must go."""
        return self.stuck or self._client.want_write()

    async def run(self) -> None:
        """Connect, and again for ever, with back-off and jitter: a thousand cabinets return at once."""
        retry = Retry(BACKOFF_S, BACKOFF_BOUND_S)
        told = ""
        while True:
            up_s, why = await self._one_connection()
            self.reason = why
            if up_s is not None:
                self.on_down(why)
            elif why != told:
                log.warning("backhaul_unreachable", url=self._settings.url, reason=why)
            told = "" if up_s is not None else why
            if up_s is not None and up_s >= WORKED_S:
                retry.worked()
            await asyncio.sleep(retry.wait_s())

    def subscribe(self, topic_filter: str, *others: str, qos: int = 1) -> None:
        """Ask the broker for messages."""
        self._client.subscribe([(one, qos) for one in (topic_filter, *others)])
        self._flush()

    def unsubscribe(self, topic_filter: str, *others: str) -> None:
        """Ask the broker for no more of them."""
        self._client.unsubscribe([topic_filter, *others])
        self._flush()

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Hand a message over; tell whether it was taken."""
        if not self._up or (qos and len(self._unanswered) >= self.receive_maximum):
            return False  # paho would send on, whatever the broker has said that it takes at a time
        info = self._client.publish(topic, payload, qos=qos, retain=retain)
        if qos and info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._answered_s = self._answered_s if self._unanswered else self._loop.time()
            self._unanswered.add(info.mid)
        self._flush()
        return info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    async def leave(self) -> None:
        """Say goodbye, so that the broker does not publish our will. Whoever cares has published its own."""
        if self._up:
            self._client.disconnect()
            self._flush()
            await self._gone_within(1.0)

    def _make_client(self) -> Client:
        """Make a client for one connection: at a reconnect paho would send all that it remembers at once."""
        version = MQTTv5 if self._settings.mqtt == "5" else MQTTv311
        clean = None if version == MQTTv5 else True
        client = Client(
            CallbackAPIVersion.VERSION2,
            self._client_id,
            clean_session=clean,
            protocol=version,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.will_set(self.will.topic, self.will.payload, qos=1, retain=True)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_message = self._received
        client.on_publish = self._published
        client.on_subscribe = self._subscribed
        client.on_socket_close = lambda _client, _userdata, _socket: self._leave_loop()
        if self._tls is not None:
            client.tls_set_context(self._by_doubt(self._tls))
        return client

    def _by_doubt(self, plain: ssl.SSLContext) -> ssl.SSLContext:
        """Return what judges the broker's certificates now: with a clock in doubt, by the last known good time."""
        known_ms = self.doubted_ms()
        if known_ms is None:
            return plain
        if self._dated_tls is None:
            log.warning("backhaul_certificates_by_good_time", known_ms=known_ms)
            self._dated_tls = tls.dated_context(self._settings, self._base)
        self._dated_tls.known_ms = known_ms
        return self._dated_tls

    async def _one_connection(self) -> tuple[float | None, str]:
        """Connect once and stay until the connection is gone.

        Returns:
            For how many seconds it was up, None if it never was, and why it ended.
        """
        self._gone.clear()
        self._why = ""
        self._unanswered.clear()
        self._up_since_s = None
        try:
            self._client = client = self._make_client()
            await self._connect_aside(client)
        except (OSError, ValueError) as error:
            return None, str(error) or type(error).__name__
        try:
            await self._serve_socket()
        finally:
            self._leave_loop()
            self._up = False
            _close(client)
        return self._up_s(), self._why or "the connection was closed"

    async def _connect_aside(self, client: Client) -> None:
        """Connect in a thread, because it blocks, and of its own, because nobody shall have to wait for its end.

        Raises:
            OSError: if there is no way, or it took too long.
            ValueError: if it is no address.
        """
        connected: asyncio.Future[None] = self._loop.create_future()

        def connect() -> None:
            fault: Exception | None = None
            try:
                self._connect(client)
            except Exception as error:  # noqa: BLE001  it is raised where it is waited for
                fault = error
            try:
                self._loop.call_soon_threadsafe(_settle, connected, client, fault)
            except RuntimeError:  # the loop has ended before us
                _close(client)

        threading.Thread(target=connect, name="mqtt-connect", daemon=True).start()
        try:
            async with asyncio.timeout(CONNECT_BOUND_S):
                await connected
        except TimeoutError as error:
            raise TimeoutError(str(error) or "connecting took too long") from error

    def _connect(self, client: Client) -> None:
        bounds = None
        if self._settings.mqtt == "5":
            bounds = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho types it not
            bounds.MaximumPacketSize = MAX_PACKET_BYTES
        client.connect(self._host, self._port, self._settings.keepalive_s, properties=bounds)

    async def _serve_socket(self) -> None:
        self._join_loop()
        deadline_s = self._loop.time() + CONNECT_TIMEOUT_S
        while not self._gone.is_set():
            if self._up_since_s is None and self._loop.time() > deadline_s:
                self._why = "the broker did not answer"
            elif self._client.loop_misc() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._why = self._why or "the broker fell silent"
            elif self._owes_s() > ANSWER_S and not self._client.want_write():  # a slow way takes its time
                self._why = "the broker acknowledges nothing"
            else:
                await self._gone_within(LOOK_S)
                continue
            return

    def _up_s(self) -> float | None:
        since_s = self._up_since_s
        return None if since_s is None else self._loop.time() - since_s

    def _owes_s(self) -> float:
        """Return for how many seconds the broker has acknowledged nothing, though it owes us something."""
        return self._loop.time() - self._answered_s if self._up and self._unanswered else 0.0

    async def _gone_within(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._gone.wait()

    def _join_loop(self) -> None:
        self._socket = self._client.socket()
        if self._socket is None:
            self._gone.set()
            return
        if isinstance(self._socket, socket.socket):  # a batch must not wait for the answer to the one before
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.add_reader(self._socket, self._readable)
        self._flush()

    def _leave_loop(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket = None
        self._wants_write = False

    def _readable(self) -> None:
        result = self._client.loop_read()
        while isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0:
            result = self._client.loop_read()
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._gone.set()
        self._flush()

    def _flush(self) -> None:
        """Let paho write, now if the socket takes it and otherwise when it does."""
        if self._socket is None or self._client.socket() is None:
            return
        wants = self._client.want_write()
        if wants is self._wants_write:  # asking the loop for what it does already is dearer than a publish
            return
        self._wants_write = wants
        if wants:
            self._loop.add_writer(self._socket, self._writable)
        else:
            self._loop.remove_writer(self._socket)

    def _writable(self) -> None:
        if self._client.loop_write() != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._gone.set()
        self._flush()

    # paho's callbacks, all of them from within our own loop.

    def _connected(
        self,
        _client: Client,
        _userdata: object,
        _flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._why = f"the broker refused us: {reason}"
            self._gone.set()
            return
        announced = getattr(properties, "ReceiveMaximum", None)
        self.receive_maximum = announced or DEFAULT_RECEIVE_MAXIMUM
        self.reason = ""
        self._refusal_told = False
        self._up = True
        self._up_since_s = self._loop.time()
        self.on_up()

    def _disconnected(
        self,
        _client: Client,
        _userdata: object,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._why = self._why or str(reason)
        self._gone.set()

    def _received(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        self.on_message(message.topic, bytes(message.payload))

    def _subscribed(
        self,
        _client: Client,
        _userdata: object,
        _mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        refused = sorted({str(reason) for reason in reasons if reason.is_failure})
        if refused:  # what is not heard is missed by nobody, so it has to be said
            log.error("backhaul_subscription_refused", reasons=refused)

    def _published(
        self,
        _client: Client,
        _userdata: object,
        mid: int,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure and not self._refusal_told:  # the same for each message: once a connection
            self._refusal_told = True
            log.error("backhaul_publish_refused", reason=str(reason))
        self._unanswered.discard(mid)
        self._answered_s = self._loop.time()


def _settle(connected: asyncio.Future[None], client: Client, fault: Exception | None) -> None:
    """Tell whoever waits for a connection; if nobody does any more, let go of it."""
    if connected.done():
        _close(client)
    elif fault is not None:
        connected.set_exception(fault)
    else:
        connected.set_result(None)


def _close(client: Client) -> None:
    """Let go of a client's socket, if it has one: what is left in it is of no use to anybody."""
    left = client.socket()
    if left is not None:
        left.close()
