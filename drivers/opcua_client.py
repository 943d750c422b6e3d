"""One OPC UA client, thrown away as soon as anything is wrong with it.

asyncua gives the bytes: chunks, secure channel, services. What lives on top is ours, because its own supervision can
end silently (FreeOpcUa/opcua-asyncio #2020: the publish loop dies with the transport) and a client used a second time
can hang (#1660): there is no automatic reconnection, every wait has a bound, the publish loop is two tasks of ours
that a timer watches, and closing never waits for the peer.

What a server can make us hold is bounded by `MAX_MESSAGE`, whatever it negotiates.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar

from asyncua import Client, ua
from asyncua.client.ua_client import UaClient, UASocketProtocol
from asyncua.crypto import security_policies
from asyncua.ua.ua_binary import struct_from_binary
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

from drivers.errors import DeviceError, GarbledError, LineDownError, NoAnswerError, RefusedError
from drivers.opcua_certificates import leading_certificate
from drivers.opcua_security import LOST, MODES, POLICIES, Offer, Reasons, Security, offered, status_name
from drivers.opcua_times import age_ms
from drivers.settings import OpcUa

# Its own log dumps requests, even those with a user in them; the line says what matters.
logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)

MAX_MESSAGE: Final = 16 << 20
"""Bytes that may come before they make up an answer: far more than a read of `MAX_NODES` values takes."""
MAX_CHUNK: Final = 1 << 17
"""Bytes of a chunk that is not whole yet: twice what we say that we take (OPC 10000-6, 7.1.2.3)."""
MAX_NODES: Final = 1000
"""Nodes in one request, unless the server says fewer."""
MAX_UNANSWERED: Final = 32
"""Questions without an answer, after which a connection is made anew: asyncua waits for each of them for ever."""
MAX_PUBLISHED: Final = 1000
"""Values that we ask a server to put into one notification at most."""
MAX_NOTIFICATIONS_PER_S: Final = 50
"""Notifications taken in a second; the next question waits for the next second, so a server cannot flood us."""
QUEUE_SIZE: Final = 10
"""Values of one node that the server keeps between two notifications; what it had to drop is counted."""
LEAVE_S: Final = 1.0
"""How long a goodbye may take."""
_PUBLISHES: Final = 2
"""Publish requests at the server at any time: one may be on its way back while the other is used (OPC 10000-4,
5.14.1.2)."""
_CHANNEL_MS: Final = 3_600_000
_RENEW_SHARE: Final = 0.75
"""A channel is renewed after three quarters of its lifetime (OPC 10000-4, 5.6.2.1)."""
_LIFETIME: Final = 3
"""Keep-alives after which a server may forget a subscription: three at least (OPC 10000-4, 5.14.2.2)."""

Answer = TypeVar("Answer")
Told: TypeAlias = Callable[[Sequence[tuple[int, ua.DataValue, int]]], None]
"""Called with the values of a notification: handle, value, and milliseconds that it was old when it was sent."""


class _Protocol(UASocketProtocol):
    """asyncua's side of a connection, bounded.

    Attributes:
        unanswered: bytes that have come since the last whole answer.
    """

    unanswered = 0

    def data_received(self, data: bytes) -> None:
        self.unanswered += len(data)
        if self.unanswered > MAX_MESSAGE:
            self.cut()
            return
        super().data_received(data)
        if self.receive_buffer and len(self.receive_buffer) > MAX_CHUNK:
            self.cut()

    def cut(self) -> None:
        """Close at once, without a goodbye."""
        if self.transport is not None:
            self.transport.abort()


class _Transport(UaClient):
    def _make_protocol(self) -> UASocketProtocol:
        self.protocol = _Protocol(self._timeout, security_policy=self.security_policy)
        self.protocol.on_connection_lost = self._on_transport_lost
        return self.protocol


class OpcUaClient:
    """One connection with its session and its subscription.

    Args:
        settings: the line's.
        on_lost: called once, with the reason, when the connection goes away by itself.

    Attributes:
        overflows: values that the server had to drop because a queue was full.
        flooded: how often notifications came faster than they are taken.
        gaps: how often a notification was missing.
    """

    def __init__(self, settings: OpcUa, on_lost: Callable[[str], None]) -> None:
        self.overflows = 0
        self.flooded = 0
        self.gaps = 0
        self.max_read = self.max_translate = self.max_items = MAX_NODES
        self._settings = settings
        self._on_lost: Callable[[str], None] | None = on_lost
        self._client = _new_client(settings)
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._published_s = 0.0
        self._silence_s = 0.0
        self._oldest_ms = 0.0
        self._handles = range(0)
        self._next_number: int | None = None
        self._window = (0.0, 0)
        self._unanswered = 0
        self._up = False

    def troubles(self) -> dict[str, int]:
        """Return what went wrong on this connection, by name."""
        return {
            "overflows": self.overflows,
            "flooded": self.flooded,
            "gaps": self.gaps,
            "unanswered": self._unanswered,
        }

    # --- up ---

    async def offer(self) -> Offer:
        """Ask the server for its endpoints, over a channel of its own that is closed again.

        Raises:
            LineDownError: if it is not there, or does not offer the policy and mode that we want.
        """
        async with Reasons(self._settings):
            try:
                await self._hello()
                endpoints = await self._client.get_endpoints()
            finally:
                self._cut()
        self._client = _new_client(self._settings)
        policy, mode = POLICIES[self._settings.security].URI, MODES[self._settings.mode]
        for one in endpoints or ():
            if one.SecurityPolicyUri == policy and one.SecurityMode == mode:
                return Offer(leading_certificate(one.ServerCertificate), str(one.Server.ApplicationUri))
        raise LineDownError(
            f"the server does not offer {self._settings.security} with {self._settings.mode}; "
            f"it offers {offered(endpoints or ())}"
        )

    async def open(self, security: Security | None, account: tuple[str, str] | None) -> None:
        """Connect, open channel and session, log in.

        Args:
            security: None for none.
            account: user and password; None for nobody.

        Raises:
            LineDownError: with the reason, for a person.
        """
        client = self._client
        if security is not None:
            client.application_uri = security.uri
            client.security_policy = security.policy
            client.uaclient.set_security(security.policy)
        async with Reasons(self._settings, security):
            await self._hello()
            await client.create_session()
            if account is not None:
                self._check_password(client)
            await client.activate_session(*(account or (None, None)))
        self._up = True
        assert client.uaclient.protocol is not None  # noqa: S101  it was just used
        client.uaclient.protocol.on_connection_lost = self._connection_lost
        if client.uaclient.protocol.is_closed:
            raise LineDownError("the server closed the connection")
        self._spawn(self._renew())

    async def _hello(self) -> None:
        await self._client.connect_socket()
        await self._client.send_hello()
        await self._client.open_secure_channel()

    def _check_password(self, client: Client) -> None:
        """See to it that the password does not go in the clear.

        Raises:
            LineDownError: if it would.
        """
        token = client.server_policy(ua.UserTokenType.UserName).SecurityPolicyUri
        clear = not token or token == security_policies.SecurityPolicyNone.URI
        if clear and client.security_policy.Mode != MODES["sign_and_encrypt"] and not self._settings.insecure:
            raise LineDownError("the server wants the password in the clear; ask for sign_and_encrypt")

    # --- services ---

    async def ask(self, request: Any, answer: type[Answer], timeout_s: float | None = None) -> Answer:  # noqa: ANN401
        """Put one request and return its answer.

        Raises:
            DeviceError: if it was refused, or what came back makes no sense, or nothing came back while the server
                answers others.
            LineDownError: if the connection is gone, or the server does not answer at all.
        """
        try:
            return await self._ask(request, answer, timeout_s)
        except NoAnswerError:
            await self._prove_alive()
            self._unanswered += 1
            if self._unanswered >= MAX_UNANSWERED:
                raise LineDownError(f"{MAX_UNANSWERED} questions to the server had no answer") from None
            raise

    async def _prove_alive(self) -> None:
        """Ask for something that every server knows at once.

        Raises:
            LineDownError: if there is no answer to that either.
        """
        state = ua.NodeId(ua.ObjectIds.Server_ServerStatus_State)
        try:
            await self._ask(read_request([value_of(state)]), ua.ReadResponse)
        except NoAnswerError as fault:
            raise LineDownError(
                f"the server does not answer within {self._settings.timeout_s:g} s"
            ) from fault
        except DeviceError:
            return

    async def _ask(self, request: Any, answer: type[Answer], timeout_s: float | None = None) -> Answer:  # noqa: ANN401
        protocol = self._client.uaclient.protocol
        if protocol is None or protocol.is_closed:
            raise LineDownError("the connection is gone")
        limit_s = self._settings.timeout_s if timeout_s is None else timeout_s
        try:
            content = await protocol.send_request(request, limit_s)
        except TimeoutError as fault:
            raise NoAnswerError(f"no answer within {limit_s:g} s") from fault
        except UaStatusCodeError as fault:
            name = status_name(fault.code)
            if fault.code in LOST or protocol.is_closed:
                raise LineDownError(f"the server ended it: {name}") from fault
            raise RefusedError(f"the server refuses: {name}", fault.code) from fault
        except (OSError, UaError) as fault:
            raise LineDownError(f"the connection is gone: {fault}") from fault
        except Exception as fault:  # what asyncua makes of a request that it cannot write, or of garbage
            raise GarbledError(f"no valid answer: {type(fault).__name__}") from fault
        if isinstance(protocol, _Protocol):
            protocol.unanswered = 0
        try:
            made: Answer = struct_from_binary(answer, content)
        except Exception as fault:  # whatever asyncua makes of bytes that are no answer
            raise GarbledError(f"no valid {answer.__name__}: {type(fault).__name__}") from fault
        return made

    async def read(self, nodes: Sequence[ua.ReadValueId]) -> list[ua.DataValue]:
        """Read nodes, in as few requests as the server takes."""
        if len(nodes) <= self.max_read:
            return await self._read(nodes)
        results: list[ua.DataValue] = []
        for at in range(0, len(nodes), self.max_read):
            results += await self._read(nodes[at : at + self.max_read])
        return results

    async def _read(self, nodes: Sequence[ua.ReadValueId]) -> list[ua.DataValue]:
        response = await self.ask(read_request(nodes), ua.ReadResponse)
        results: list[ua.DataValue] = response.Results or []
        return _as_many(results, nodes)

    async def write(self, node: ua.NodeId, value: ua.Variant) -> int:
        """Write a node's value and return the StatusCode.

        No status and no time go with it: many servers refuse to have those written (OPC 10000-4, 5.11.4.2).
        """
        request = ua.WriteRequest()
        request.Parameters.NodesToWrite = [
            ua.WriteValue(node, ua.AttributeIds.Value, Value=ua.DataValue(value, StatusCode=None))
        ]
        response = await self.ask(request, ua.WriteResponse)
        return int(_as_many(response.Results or [], (node,))[0].value)

    async def call(self, of: ua.NodeId, method: ua.NodeId, arguments: list[ua.Variant]) -> int:
        """Call a method of an object and return the StatusCode."""
        request = ua.CallRequest()
        request.Parameters.MethodsToCall = [ua.CallMethodRequest(of, method, arguments)]
        response = await self.ask(request, ua.CallResponse)
        return int(_as_many(response.Results or [], (method,))[0].StatusCode.value)

    async def translate(self, paths: Sequence[ua.BrowsePath]) -> list[ua.NodeId | None]:
        """Return the node at the end of each browse path; None where there is none."""
        found: list[ua.NodeId | None] = []
        for at in range(0, len(paths), self.max_translate):
            part = paths[at : at + self.max_translate]
            request = ua.TranslateBrowsePathsToNodeIdsRequest()
            request.Parameters.BrowsePaths = list(part)
            response = await self.ask(request, ua.TranslateBrowsePathsToNodeIdsResponse)
            found += [_target(one) for one in _as_many(response.Results or [], part)]
        return found

    async def objects_under(self, node: ua.NodeId) -> list[ua.ReferenceDescription]:
        """Return the objects right under a node, as many as the server gives at once."""
        wanted = ua.BrowseDescription(
            node,
            ua.BrowseDirection.Forward,
            ua.NodeId(ua.ObjectIds.HierarchicalReferences),
            True,
            ua.NodeClass.Object,
            ua.BrowseResultMask.All,
        )
        request = ua.BrowseRequest()
        request.Parameters.NodesToBrowse = [wanted]
        request.Parameters.RequestedMaxReferencesPerNode = MAX_NODES
        response = await self.ask(request, ua.BrowseResponse)
        references: list[ua.ReferenceDescription] = (
            _as_many(response.Results or [], (node,))[0].References or []
        )
        return references

    # --- the subscription ---

    async def subscribe(
        self, nodes: Sequence[ua.ReadValueId], told: Told, on_gap: Callable[[], None]
    ) -> list[int]:
        """Have the server tell of changes of nodes, and return a StatusCode for each.

        Args:
            nodes: a node's position is its handle in what is told.
            told: called with each notification's values; never with a handle that is none.
            on_gap: called when a notification is missing.
        """
        period_ms = self._settings.period_ms
        request = ua.CreateSubscriptionRequest()
        wanted = request.Parameters
        wanted.RequestedPublishingInterval = period_ms
        wanted.RequestedMaxKeepAliveCount = max(1, round(self._settings.keepalive_s * 1000 / period_ms))
        wanted.RequestedLifetimeCount = max(
            _LIFETIME * wanted.RequestedMaxKeepAliveCount,
            round(self._settings.session_timeout_s * 1000 / period_ms),
        )
        wanted.MaxNotificationsPerPublish = MAX_PUBLISHED
        wanted.PublishingEnabled = True
        made = (await self.ask(request, ua.CreateSubscriptionResponse)).Parameters
        self._oldest_ms = float(made.RevisedPublishingInterval) * QUEUE_SIZE
        self._handles = range(len(nodes))
        statuses: list[int] = []
        for at in range(0, len(nodes), self.max_items):
            part = nodes[at : at + self.max_items]
            statuses += await self._watch_items(int(made.SubscriptionId), part, at)
        keepalive_s = float(made.RevisedPublishingInterval) * int(made.RevisedMaxKeepAliveCount) / 1000
        self._silence_s = 1.5 * keepalive_s + self._settings.timeout_s
        self._published_s = asyncio.get_running_loop().time()
        self._look_for_silence()
        for _ in range(_PUBLISHES):
            self._spawn(self._publish(told, on_gap))
        return statuses

    async def _watch_items(self, subscription: int, nodes: Sequence[ua.ReadValueId], first: int) -> list[int]:
        request = ua.CreateMonitoredItemsRequest()
        request.Parameters.SubscriptionId = subscription
        request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Source
        request.Parameters.ItemsToCreate = [
            ua.MonitoredItemCreateRequest(
                node,
                ua.MonitoringMode.Reporting,
                ua.MonitoringParameters(handle, self._settings.period_ms, None, QUEUE_SIZE, True),
            )
            for handle, node in enumerate(nodes, start=first)
        ]
        response = await self.ask(request, ua.CreateMonitoredItemsResponse)
        return [int(one.StatusCode.value) for one in _as_many(response.Results or [], nodes)]

    async def _publish(self, told: Told, on_gap: Callable[[], None]) -> None:
        """Put one publish request after another; a silence is the timer's to notice."""
        acknowledged: list[ua.SubscriptionAcknowledgement] = []
        while True:
            request = ua.PublishRequest()
            request.Parameters.SubscriptionAcknowledgements = acknowledged
            try:
                result = (await self._ask(request, ua.PublishResponse, 0)).Parameters
            except RefusedError as fault:
                if fault.code == ua.StatusCodes.BadTooManyPublishRequests:
                    return
                self._lose(f"the subscription has ended: {fault}")
                return
            except (DeviceError, LineDownError) as fault:
                self._lose(f"{fault}")
                return
            self._published_s = asyncio.get_running_loop().time()
            acknowledged = self._take(result, told, on_gap)
            await self._pace()

    def _take(
        self, result: ua.PublishResult, told: Told, on_gap: Callable[[], None]
    ) -> list[ua.SubscriptionAcknowledgement]:
        """Hand out what a notification tells; return its acknowledgement."""
        message = result.NotificationMessage
        content = message.NotificationData or ()
        number = int(message.SequenceNumber)
        missing = self._next_number is not None and number != self._next_number
        self._next_number = (number % 0xFFFF_FFFF) + 1 if content else number
        for one in content:
            if isinstance(one, ua.DataChangeNotification):
                told(self._aged(one.MonitoredItems or (), message.PublishTime))
            elif isinstance(one, ua.StatusChangeNotification):
                self._lose(f"the server has ended the subscription: {status_name(int(one.Status.value))}")
        if missing:
            self.gaps += 1
            on_gap()
        return (
            [ua.SubscriptionAcknowledgement(result.SubscriptionId, message.SequenceNumber)] if content else []
        )

    def _aged(
        self, items: Sequence[ua.MonitoredItemNotification], published: datetime | None
    ) -> list[tuple[int, ua.DataValue, int]]:
        """Return values with their handles and ages; what nobody asked for is left out."""
        return [
            (handle, item.Value, age_ms(published, item.Value.SourceTimestamp, self._oldest_ms))
            for item in items
            if (handle := int(item.ClientHandle)) in self._handles
        ]

    async def _pace(self) -> None:
        """Wait for the next second if this one has had its share."""
        now_s = asyncio.get_running_loop().time()
        start_s, taken = self._window
        if now_s - start_s >= 1.0:
            self._window = now_s, 1
            return
        self._window = start_s, taken + 1
        if taken >= MAX_NOTIFICATIONS_PER_S:
            self.flooded += 1
            await asyncio.sleep(start_s + 1.0 - now_s)

    def _look_for_silence(self) -> None:
        """Lose the connection if nothing was published for too long; otherwise look again when that could be."""
        loop = asyncio.get_running_loop()
        left_s = self._published_s + self._silence_s - loop.time()
        if left_s <= 0:
            self._lose(
                f"the server has published nothing for {self._silence_s:.1f} s, not even that it is alive"
            )
            return
        self._watch = loop.call_later(left_s, self._look_for_silence)

    # --- the channel ---

    async def _renew(self) -> None:
        """Renew the secure channel for as long as the connection lasts."""
        while True:
            await asyncio.sleep(self._client.secure_channel_timeout * _RENEW_SHARE / 1000)
            try:
                async with Reasons(self._settings):
                    await self._client.open_secure_channel(renew=True)
                    self._client.uaclient.revolve_security_token()
            except LineDownError as fault:
                self._lose(f"the secure channel could not be renewed: {fault}")
                return

    # --- down ---

    def _spawn(self, work: Any) -> None:  # noqa: ANN401  a coroutine
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Forget a task; one that ended by a bug takes the connection with it, instead of leaving it deaf."""
        self._tasks.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            self._lose(f"a bug: {fault!r}")

    def _connection_lost(self, fault: Exception | None) -> None:
        self._lose(f"the server closed the connection{f': {fault}' if fault else ''}")

    def _lose(self, reason: str) -> None:
        self._up = False
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(reason)

    async def leave(self) -> None:
        """Close the session and wait for our tasks, within `LEAVE_S` if the server says nothing."""
        tasks = tuple(self._tasks)
        self._stop_tasks()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self._up:
            return
        self._up, self._on_lost = False, None
        request = ua.CloseSessionRequest()
        request.DeleteSubscriptions = True
        with contextlib.suppress(DeviceError, LineDownError):
            await self._ask(request, ua.CloseSessionResponse, min(LEAVE_S, self._settings.timeout_s))
        with contextlib.suppress(OSError, UaError):
            await self._client.close_secure_channel()

    def drop(self) -> None:
        """Let go of everything at once."""
        self._on_lost = None
        self._stop_tasks()
        self._cut()

    def _stop_tasks(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        for task in tuple(self._tasks):
            task.cancel()

    def _cut(self) -> None:
        self._up = False
        protocol = self._client.uaclient.protocol
        if isinstance(protocol, _Protocol):
            protocol.on_connection_lost = None
            protocol.cut()


def _new_client(settings: OpcUa) -> Client:
    client = Client(settings.url, timeout=settings.timeout_s)
    client.uaclient = _Transport(settings.timeout_s)
    client.name = client.description = "Luciole"
    client.product_uri = "urn:luciole"
    client.session_timeout = round(settings.session_timeout_s * 1000)
    client.secure_channel_timeout = _CHANNEL_MS
    client.max_messagesize = MAX_MESSAGE
    return client


def value_of(node: ua.NodeId) -> ua.ReadValueId:
    """Return what asks for a node's value."""
    return ua.ReadValueId(node, ua.AttributeIds.Value)


def read_request(nodes: Sequence[ua.ReadValueId]) -> ua.ReadRequest:
    """Return a request for values as they are now, without times: readings carry this cabinet's."""
    request = ua.ReadRequest()
    request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Neither
    request.Parameters.NodesToRead = list(nodes)
    return request


def _as_many(results: list[Answer], asked: Sequence[object]) -> list[Answer]:
    if len(results) != len(asked):
        raise GarbledError(f"{len(results)} answers to {len(asked)} questions")
    return results


def _target(result: ua.BrowsePathResult) -> ua.NodeId | None:
    """Return the one node that a path leads to; several, or one on another server, are none."""
    if not result.StatusCode.is_good() or len(result.Targets or ()) != 1:
        return None
    target = result.Targets[0]
    if int(target.RemainingPathIndex) != 0xFFFF_FFFF:
        return None
    node = target.TargetId
    return ua.NodeId(node.Identifier, node.NamespaceIndex, node.NodeIdType)
