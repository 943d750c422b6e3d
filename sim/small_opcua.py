"""An OPC UA server of the size that a small controller has, on asyncua, with books of its own.

It carries the part of the standard's nodes that such a device carries, about a fifth, which also lets it start in a
tenth of a second. It counts by itself what each client was given: values read and values published, by node.
"""

import atexit
import gc
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from asyncua import Server, ua
from asyncua.common.callback import CallbackType, ServerItemCallback
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession, SessionState
from asyncua.server.standard_address_space.standard_address_space_services import (
    create_standard_address_space_Services,
)
from asyncua.server.subscription_service import SubscriptionService

from sim.opcua_certificates import Identity, TrustedClients

# Its own log is for its developers; what goes wrong on a bench is meant to.
logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)

_STANDARD_NODES: Final = (range(3_100), range(11_490, 11_720))
"""The numbers of the Server object, its capabilities and limits, and the types that they need."""

_ANONYMOUS: Final = User(role=UserRole.Anonymous)
BeforeRead = Callable[[frozenset[ua.NodeId]], Awaitable[None]]
MayWrite = Callable[[frozenset[ua.NodeId]], bool]
AfterWrite = Callable[[ua.NodeId, object], None]
PublishCallback = Callable[..., Awaitable[None]]


class Books:
    """What the server has given its clients, by the nodes' identifiers.

    Attributes:
        reads: values given in answer to Read.
        published: values given by subscriptions.
    """

    def __init__(self) -> None:
        self.reads: Counter[str] = Counter()
        self.published: Counter[str] = Counter()


class _Accounts:
    """Who may log in: everybody, or one user with a password."""

    def __init__(self, user: str, password: str) -> None:
        self._user = user
        self._password = password

    def get_user(
        self,
        iserver: InternalServer,  # noqa: ARG002  asyncua's own signature
        username: str | None = None,
        password: str | None = None,
        certificate: Any = None,  # noqa: ARG002, ANN401
    ) -> User | None:
        if self._user and (username, password) != (self._user, self._password):
            return None
        return User(role=UserRole.User, name=username)


class _Subscriptions(SubscriptionService):
    """Subscriptions whose values are counted, and which can be made to say nothing.

    Attributes:
        mute: whether they say nothing.
        books: where values are counted.
    """

    mute = False

    def __init__(self, server: "_SmallServer", books: Books) -> None:
        super().__init__(server.aspace, server)
        self.books = books
        self._watched: dict[tuple[int, int], str] = {}
        self._without_time: set[tuple[int, int]] = set()

    async def create_subscription(
        self,
        params: ua.CreateSubscriptionParameters,
        callback: PublishCallback,
        session_id: ua.NodeId,
        request_callback: Callable[..., Any] | None = None,
    ) -> ua.CreateSubscriptionResult:
        async def counted(result: ua.PublishResult, *rest: Any) -> None:  # noqa: ANN401
            self._look_through(result)
            await callback(result, *rest)

        def asked(subscription: int) -> Any:  # noqa: ANN401
            if self.mute or request_callback is None:
                return None
            return request_callback(subscription)

        return await super().create_subscription(params, counted, session_id, request_callback=asked)

    async def create_monitored_items(
        self, params: ua.CreateMonitoredItemsParameters
    ) -> list[ua.MonitoredItemCreateResult]:
        for item in params.ItemsToCreate:
            key = int(params.SubscriptionId), int(item.RequestedParameters.ClientHandle)
            self._watched[key] = str(item.ItemToMonitor.NodeId.Identifier)
            if params.TimestampsToReturn not in {ua.TimestampsToReturn.Source, ua.TimestampsToReturn.Both}:
                self._without_time.add(key)
        results: list[ua.MonitoredItemCreateResult] = await super().create_monitored_items(params)
        return results

    def _look_through(self, result: ua.PublishResult) -> None:
        """Count what is published, and leave out the times that nobody has asked for, which asyncua does not."""
        for notification in result.NotificationMessage.NotificationData or ():
            if isinstance(notification, ua.DataChangeNotification):
                for item in notification.MonitoredItems:
                    key = int(result.SubscriptionId), int(item.ClientHandle)
                    self.books.published[self._watched.get(key, "?")] += 1
                    if key in self._without_time:
                        item.Value = replace(item.Value, SourceTimestamp=None)


class _SmallSpace:
    """Takes the standard's nodes and keeps those of a small server."""

    def __init__(self, server: InternalServer) -> None:
        self._service = server.node_mgt_service
        self._nodes: list[ua.AddNodesItem] = []
        self._references: list[ua.AddReferencesItem] = []

    def add_nodes(self, nodes: Sequence[ua.AddNodesItem]) -> None:
        kept = [node for node in nodes if _small(node.RequestedNewNodeId)]
        self._nodes.extend(self._service.try_add_nodes(kept, check=False))

    def add_references(self, references: Sequence[ua.AddReferencesItem]) -> None:
        kept = [one for one in references if _small(one.SourceNodeId) and _small(one.TargetNodeId)]
        self._references.extend(self._service.try_add_references(kept))

    def finish(self) -> None:
        """Add what had to wait for others; what refers to nodes that are not kept is left out."""
        waiting = list(self._service.try_add_nodes(self._nodes, check=False))
        list(self._service.try_add_references(self._references))
        list(self._service.try_add_nodes(waiting, check=False))


def _small(node: ua.NodeId) -> bool:
    return any(node.Identifier in numbers for numbers in _STANDARD_NODES)


class _SmallServer(InternalServer):
    def __init__(self, accounts: _Accounts) -> None:
        super().__init__(user_manager=accounts)
        self._sessions: list[InternalSession] = []

    def create_session(self, name: str, user: User = _ANONYMOUS, external: bool = False) -> InternalSession:
        self._sessions = [one for one in self._sessions if one.state is not SessionState.Closed]
        session = super().create_session(name, user, external)
        self._sessions.append(session)
        return session

    async def end_sessions(self) -> None:
        """End what clients that vanished have left: their sessions and subscriptions live on for a while."""
        for session in self._sessions:
            await session.close_session(delete_subs=True)

    async def load_standard_address_space(self, shelf_file: Path | None = None) -> None:
        del shelf_file
        collecting = gc.isenabled()
        gc.disable()  # a few thousand small objects that all stay: nothing to collect
        try:
            _KEPT.fill(self)
        finally:
            if collecting:
                gc.enable()


class _Kept:
    """The standard's nodes, kept in a file from a process's second server on: a third one starts much sooner."""

    def __init__(self) -> None:
        self._built = 0
        self._file: Path | None = None

    def fill(self, server: InternalServer) -> None:
        """Fill a server's address space."""
        if self._file is not None:
            server.aspace.load(self._file)
            return
        space = _SmallSpace(server)
        create_standard_address_space_Services(space)
        space.finish()
        self._built += 1
        if self._built > 1:
            handle, name = tempfile.mkstemp(prefix="luciole-sim-")
            os.close(handle)
            self._file = Path(name)
            atexit.register(self._file.unlink, missing_ok=True)
            server.aspace.dump(self._file)


_KEPT: Final = _Kept()


class SmallOpcUaServer:
    """A server with its books.

    Args:
        uri: its application URI.
        identity: certificate and key; None for a server without security.
        policy: name of the one security policy that it offers; "none" without security.
        trusted: which clients it lets in.
        account: user and password that it asks for; ("", "") for none.
        books: where it counts what it gives to clients.

    Attributes:
        port: where it listens, on loopback, once it runs.
    """

    def __init__(
        self,
        uri: str,
        *,
        identity: Identity | None,
        policy: str,
        trusted: TrustedClients,
        account: tuple[str, str],
        books: Books,
    ) -> None:
        self._books = books
        self.port = 0
        self._inner = _SmallServer(_Accounts(*account))
        self._subscriptions = _Subscriptions(self._inner, books)
        self._inner.subscription_service = self._subscriptions
        self._server = Server(self._inner)
        self._uri = uri
        self._identity = identity
        self._policy = policy
        self._trusted = trusted
        self._account = account

    async def build(self, namespaces: Sequence[str]) -> list[int]:
        """Make the address space, with these namespaces in this order; return their indices."""
        self._server.disable_clock()
        await self._server.init()
        await self._server.set_application_uri(self._uri)
        self._server.set_server_name("Pumping station")
        self._server.set_endpoint("opc.tcp://127.0.0.1:0")
        tokens = ua.UserNameIdentityToken if self._account[0] else ua.AnonymousIdentityToken
        self._server.set_identity_tokens([tokens])
        await self._secure()
        return [await self._server.register_namespace(uri) for uri in namespaces]

    async def _secure(self) -> None:
        if self._identity is None:
            self._server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
            return
        await self._server.load_certificate(self._identity.certificate)
        await self._server.load_private_key(self._identity.key)
        modes = ("Sign", "SignAndEncrypt")
        kinds = [getattr(ua.SecurityPolicyType, f"{self._policy}_{mode}") for mode in modes]
        self._server.set_security_policy(kinds)
        self._inner.certificate_validator = self._trusted.judge

    @property
    def server(self) -> Server:
        """The server itself, to put nodes into."""
        return self._server

    def listen(self, before_read: BeforeRead, may_write: MayWrite, after_write: AfterWrite) -> None:
        """Have the hardware asked before a client's read or write is answered, and told of what was written."""

        def writes(event: ServerItemCallback, _: object) -> None:
            params: Any = event.request_params
            if event.is_external and not may_write(frozenset(one.NodeId for one in params.NodesToWrite)):
                raise ServiceError(ua.StatusCodes.BadNoCommunication)

        async def read(event: ServerItemCallback, _: object) -> None:
            if event.is_external:
                params: Any = event.request_params
                await before_read(frozenset(one.NodeId for one in params.NodesToRead))

        def was_read(event: ServerItemCallback, _: object) -> None:
            if event.is_external:
                params: Any = event.request_params
                self._books.reads.update(str(one.NodeId.Identifier) for one in params.NodesToRead)

        def written(event: ServerItemCallback, _: object) -> None:
            if not event.is_external:
                return
            params: Any = event.request_params
            results: Any = event.response_params
            for one, status in zip(params.NodesToWrite, results, strict=True):
                if status.is_good() and one.AttributeId == ua.AttributeIds.Value:
                    after_write(one.NodeId, one.Value.Value.Value)

        services = self._inner.callback_service
        services.addListener(CallbackType.PreRead, read)
        services.addListener(CallbackType.PostRead, was_read)
        services.addListener(CallbackType.PreWrite, writes)
        services.addListener(CallbackType.PostWrite, written)

    def set_mute(self, *, mute: bool) -> None:
        """Let subscriptions say nothing, or speak again."""
        self._subscriptions.mute = mute

    async def start(self) -> None:
        """Listen on loopback."""
        await self._server.start()
        assert self._server.bserver is not None  # noqa: S101  it was started
        self.port = self._server.bserver.port

    async def stop(self) -> None:
        """Close everything."""
        await self._inner.end_sessions()
        await self._server.stop()
