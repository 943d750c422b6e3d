"""A supervisor that listens, for the tests of the site: RSMP's other end on a real socket.

Every message that the site writes is held against the published schemas.
"""

import asyncio
import itertools
import random
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, TypeVar

from protocols.clock import Instant
from protocols.rsmp.exchange import NEED_DATA, Event, Exchange, NotAcknowledged, Ready, Received, Role, Terms
from protocols.rsmp.messages import (
    Alarm,
    AlarmEvent,
    CommandArgument,
    CommandRequest,
    CommandResponse,
    Core,
    StatusName,
    StatusRequest,
    StatusResponse,
    StatusSubscribe,
    StatusUpdate,
    StatusValue,
    Subscription,
    Value,
    Watchdog,
)
from tests.rsmp_schemas import packets, violations

SOON_S = 5.0
PREFIX = "LU+DJ0001=001"
MAIN = f"{PREFIX}TC000"
CODE = "2222"
_T = TypeVar("_T")


class Supervisor:
    """Listens on a free port for one site at a time.

    Attributes:
        port: where.
        events: everything that happened, in order.
        wrong: what the schemas have against the site's messages.
        connections: how many came.
        hung_up: how many have ended.
        raw: what came, as bytes, if it is only to be looked at (`deaf`).
    """

    def __init__(self, terms: Terms | None = None, *, deaf: bool = False) -> None:
        self.terms = terms or Terms(role=Role.SUPERVISOR)
        self.deaf = deaf
        self.port = 0
        self.events: list[Event] = []
        self.wrong: list[str] = []
        self.raw = bytearray()
        self.connections = 0
        self.hung_up = 0
        self._exchange: Exchange | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Event()
        self._random = random.Random(5)
        self._partial = b""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.hang_up()
        if self._server is not None:
            self._server.close()
            self._server = None

    async def hang_up(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writer = writer
        self._partial = b""
        self._exchange = None if self.deaf else Exchange(self.terms, self._new_id, now())
        while content := await self._read(reader):
            self.raw += content
            if self._exchange is not None:
                self._take(self._exchange, content)
            self._changed.set()
        self.hung_up += 1
        self._changed.set()
        writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(65536)
        except ConnectionError:
            return b""

    def _take(self, exchange: Exchange, content: bytes) -> None:
        whole, _, self._partial = (self._partial + content).rpartition(b"\x0c")
        for packet in packets(whole + b"\x0c" if whole else b""):
            self.wrong += violations(packet, exchange.core.value, self.terms.sxl)
        exchange.receive_data(content, now())
        while (event := exchange.next_event()) is not NEED_DATA:
            self.events.append(event)
        self._flush()

    def _flush(self) -> None:
        if self._exchange is not None and self._writer is not None and not self._writer.is_closing():
            self._writer.write(self._exchange.data_to_send())

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    # --- what it asks ---

    def write(self, content: bytes) -> None:
        """Send bytes as they are."""
        assert self._writer is not None
        self._writer.write(content)

    def subscribe(self, code: str, *names: str) -> None:
        """Ask to be told of changes."""
        wanted = tuple(Subscription(code=code, name=name, rate="0", on_change=True) for name in names)
        self._send(StatusSubscribe(component=MAIN, wanted=wanted))

    async def ask(self, code: str, *names: str) -> dict[str, Value]:
        """Ask for a status and return its values by name."""
        before = len(self.of(StatusResponse))
        self._send(StatusRequest(component=MAIN, wanted=tuple(StatusName(code, name) for name in names)))
        await self.until(lambda: len(self.of(StatusResponse)) > before)
        return {each.name: each.value for each in self.of(StatusResponse)[-1].values}

    async def order(self, code: str, order: str, **arguments: str) -> CommandResponse | str:
        """Order something; return the answer, or why it was refused."""
        given = tuple(CommandArgument(code, name, order, value) for name, value in arguments.items())
        before = len(self.answers())
        self._send(CommandRequest(component=MAIN, arguments=given))
        await self.until(lambda: len(self.answers()) > before)
        return self.answers()[-1]

    async def prioritise(self, kind: str, name: str, **arguments: str) -> CommandResponse | str:
        """Send an M0022."""
        return await self.order("M0022", "requestPriority", requestId=name, type=kind, **arguments)

    def ask_only(self, code: str, name: str) -> None:
        """Ask for a status and do not wait."""
        self._send(StatusRequest(component=MAIN, wanted=(StatusName(code, name),)))

    def acknowledge_alarm(self, code: str) -> None:
        """Acknowledge an alarm of the controller."""
        self._send(Alarm(component=MAIN, code=code, event=AlarmEvent.ACKNOWLEDGE))

    def answers(self) -> list[CommandResponse | str]:
        """Return what became of all orders."""
        found: list[CommandResponse | str] = []
        for event in self.events:
            if isinstance(event, Received) and isinstance(event.message, CommandResponse):
                found.append(event.message)
            elif isinstance(event, NotAcknowledged):
                found.append(event.reason)
        return found

    def _send(self, message: CommandRequest | StatusRequest | StatusSubscribe | Alarm) -> None:
        assert self._exchange is not None
        self._exchange.send(message, now())
        self._flush()

    # --- what it heard ---

    def of(self, kind: type[_T] | tuple[type[_T], ...]) -> list[_T]:
        """Return all messages of a kind, or of several."""
        messages = [event.message for event in self.events if isinstance(event, Received)]
        return [message for message in messages if isinstance(message, kind)]

    def updates(self, code: str) -> list[StatusValue]:
        """Return what was told of a status, in order."""
        told = itertools.chain.from_iterable(update.values for update in self.of(StatusUpdate))
        return [value for value in told if value.code == code]

    def states(self, name: str) -> list[str]:
        """Return the states of a priority request that were told, in order."""
        told = [
            entry["s"]
            for value in self.updates("S0033")
            if isinstance(value.value, list)
            for entry in value.value
            if entry["r"] == name
        ]
        return [state for state, _ in itertools.groupby(told)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something that was heard makes it true."""
        async with asyncio.timeout(SOON_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def ready(self) -> "Supervisor":
        """Wait for the site to have introduced itself: as far as its first watchdog."""
        await self.until(lambda: any(isinstance(event, Ready) for event in self.events))
        await self.until(lambda: bool(self.of(Watchdog)))
        return self


def now() -> Instant:
    """Return the loop's time; UTC is that of the tests' year."""
    monotonic_ms = round(asyncio.get_running_loop().time() * 1000)
    return Instant(monotonic_ms, 1_790_000_000_000 + monotonic_ms)


def arguments(answer: CommandResponse | str) -> Mapping[str, str | None]:
    """Return what an answer says of its arguments."""
    assert isinstance(answer, CommandResponse), answer
    return {value.name: value.value for value in answer.values}


ALL_CORES = tuple(Core)
