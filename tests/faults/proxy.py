"""Stands between somebody and a TCP server, and does to the way between them what mobile networks do.

    async with FaultyProxy(broker_port) as proxy:      # whoever shall suffer connects to proxy.port
        await proxy.begin(WayFault.DELAY, delay_s=0.4) # one fault at a time: a new one takes the place of the old
        await proxy.end()

*Near* is whoever connects to the proxy, *far* the server behind it. Within a stream that goes on nothing is lost,
doubled or changed, as TCP promises; a fault that loses something ends the stream.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Self

READ_BYTES = 65_536
HELD_PIECES = 16
"""What one direction may hold, about 1 MB; then its sender is no longer read, and TCP holds it back."""
_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER without time: closing sends RST and throws away what is unsent


class WayFault(StrEnum):
    """What can be wrong with the way."""

    REFUSE = "refuse"
    """Nobody listens: new connections are refused, open ones are reset."""
    STALL = "stall"
    """Nothing passes, either way, and nothing is lost: afterwards everything goes on where it was. Connections made
    while it lasts are accepted and wait like the others."""
    DELAY = "delay"
    """Everything passes `delay_s` later, in order."""
    DROP = "drop"
    """What is sent vanishes, either way, and the connections stay open. Those that have lost something are reset at
    the fault's end: no network joins such a stream again."""
    CUT = "cut"
    """After `after_bytes` more bytes from near a connection is reset, in the middle of whatever it was. The same
    happens to each connection that is made while the fault lasts."""
    HALF_OPEN = "half_open"
    """Far sees the connection end, near sees nothing: what it sends vanishes, and nothing ever comes, also after the
    fault's end, until near gives up. Connections made while it lasts are accepted and never carried."""


class FaultyProxy:
    """Passes TCP connections on to a port of this machine, as far as its fault lets it.

    Attributes:
        port: where it listens; its own through all its life, also while nobody listens there.
        fault: what is wrong now; None if nothing is.
        delay_s: of DELAY.
        connections: how many were accepted.
        carried: bytes that were passed on, both ways together.
    """

    def __init__(self, to_port: int) -> None:
        self.fault: WayFault | None = None
        self.delay_s = 0.0
        self.connections = 0
        self.carried = 0
        self.to_port = to_port
        self.moving = asyncio.Event()
        self.moving.set()
        self._cut_after = 0
        self._holder = _port_holder(0)  # so that nobody takes the port while we do not listen
        self.port: int = self._holder.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._ways: set[_Way] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Listen."""
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything."""
        await self._stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._holder.close()

    async def begin(self, fault: WayFault, *, delay_s: float = 0.5, after_bytes: int = 700) -> None:
        """Let a fault begin; one that is there ends.

        Args:
            fault: which.
            delay_s: seconds, of DELAY.
            after_bytes: of CUT: more than what opens a connection, if something shall be cut within.
        """
        await self.end()
        self.fault, self.delay_s, self._cut_after = fault, delay_s, after_bytes
        match fault:
            case WayFault.REFUSE:
                await self._stop_listening()
                self._each(_Way.reset)
            case WayFault.STALL:
                self.moving.clear()
            case WayFault.CUT:
                self._each(lambda way: way.cut_after(after_bytes))
            case WayFault.HALF_OPEN:
                self._each(_Way.lose_far)
            case WayFault.DELAY | WayFault.DROP:
                pass  # each piece asks for it

    async def end(self) -> None:
        """Let the fault end, if there is one."""
        fault, self.fault = self.fault, None
        self.moving.set()
        self._each(lambda way: way.cut_after(None))
        if fault is WayFault.REFUSE:
            await self._listen()
        elif fault is WayFault.DROP:
            self._each(lambda way: way.reset() if way.has_hole else None)

    def _each(self, act: "Callable[[_Way], None]") -> None:
        for way in list(self._ways):
            act(way)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accepted, sock=_port_holder(self.port), backlog=64)

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)  # the loop lets go of the socket

    def _accepted(self, near: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        way = _Way(self, near, near_writer)
        if self.fault is WayFault.CUT:
            way.cut_after(self._cut_after)
        self._ways.add(way)
        task = asyncio.get_running_loop().create_task(way.carry())
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._gone(way, task))

    def _gone(self, way: "_Way", task: "asyncio.Task[None]") -> None:
        self._ways.discard(way)
        self._tasks.discard(task)


Pieces = asyncio.Queue[tuple[float, bytes]]
"""Each piece with the moment from which it may go on; an empty one is the end."""


class _Way:
    """One connection from near, and the one to far that carries it."""

    def __init__(
        self, proxy: FaultyProxy, near: asyncio.StreamReader, near_writer: asyncio.StreamWriter
    ) -> None:
        self.has_hole = False
        self._proxy = proxy
        self._near, self._near_writer = near, near_writer
        self._far_writer: asyncio.StreamWriter | None = None
        self._far_lost = proxy.fault is WayFault.HALF_OPEN
        self._left: int | None = None
        self._loop = asyncio.get_running_loop()

    def cut_after(self, count: int | None) -> None:
        """End after so many more bytes from near; None: never."""
        self._left = count

    def reset(self) -> None:
        """End it, both ways."""
        for writer in (self._near_writer, self._far_writer):
            _reset(writer)

    def lose_far(self) -> None:
        """Let far see an end, and near nothing."""
        self._far_lost = True
        _reset(self._far_writer)

    async def carry(self) -> None:
        """Carry until either end is gone."""
        try:
            if not self._far_lost:
                await self._carry()
            if self._far_lost:
                await self._swallow()
        finally:
            for writer in (self._near_writer, self._far_writer):
                if writer is not None:
                    writer.close()

    async def _carry(self) -> None:
        try:
            far, far_writer = await asyncio.open_connection("127.0.0.1", self._proxy.to_port)
        except OSError:  # nobody listens there: near shall try again
            _reset(self._near_writer)
            return
        self._far_writer = far_writer
        for writer in (self._near_writer, far_writer):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        directions = [
            self._loop.create_task(self._direction(self._near, far_writer, outward=True)),
            self._loop.create_task(self._direction(far, self._near_writer, outward=False)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in directions:
                one.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    async def _direction(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, outward: bool
    ) -> None:
        """Pass on what comes from a source until its end."""
        pieces: Pieces = asyncio.Queue(HELD_PIECES)
        taking = self._loop.create_task(self._take(source, pieces))
        try:
            while True:
                due_s, piece = await pieces.get()
                await asyncio.sleep(max(0.0, due_s - self._loop.time()))
                await self._proxy.moving.wait()
                if not piece or not await self._give(piece, sink, outward=outward):
                    return
        except ConnectionError:
            return
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    async def _take(self, source: asyncio.StreamReader, pieces: Pieces) -> None:
        while piece := await _read(source):
            fault = self._proxy.fault
            if fault is WayFault.DROP:
                self.has_hole = True
                continue
            delay_s = self._proxy.delay_s if fault is WayFault.DELAY else 0.0
            await pieces.put((self._loop.time() + delay_s, piece))
        await pieces.put((self._loop.time(), b""))

    async def _give(self, piece: bytes, sink: asyncio.StreamWriter, *, outward: bool) -> bool:
        """Pass a piece on; tell whether more may follow."""
        left = self._left if outward else None
        passing = piece if left is None else piece[:left]
        sink.write(passing)
        await sink.drain()
        self._proxy.carried += len(passing)
        if left is None:
            return True
        self._left = left - len(passing)
        if self._left > 0:
            return True
        _reset(self._near_writer)  # far shall have what was passed on: it sees an ordinary end
        return False

    async def _swallow(self) -> None:
        while await _read(self._near):
            pass


async def _read(source: asyncio.StreamReader) -> bytes:
    """Return what comes next; nothing at the end, whatever kind of end it is."""
    try:
        return await source.read(READ_BYTES)
    except ConnectionError:
        return b""


def _reset(writer: asyncio.StreamWriter | None) -> None:
    if writer is None or writer.is_closing():
        return
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    writer.transport.abort()


def _port_holder(port: int) -> socket.socket:
    """Return a socket that has a port, with others of ours, whether it listens or not."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("127.0.0.1", port))
    return held
