"""Stands between somebody and a TCP server, and does to the way between them what mobile networks do.

    async with FaultyProxy(broker_port, seed=4) as proxy:   # whoever shall suffer connects to proxy.port
        await proxy.begin(WayFault.DELAY, delay_s=0.4)
        await proxy.begin(WayFault.STALL, Direction.BACK)   # takes the place of what was wrong with that direction
        await proxy.end()

*Near* is whoever connects to the proxy, *far* the server behind it; *out* is from near to far, *back* from far to
near. Within a stream that goes on nothing is lost, doubled or changed, as TCP promises; a fault that loses something
ends the stream.
"""

import asyncio
import random
import socket
import struct
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Self

READ_BYTES = 65_536
HELD_PIECES = 16
"""What one direction may hold, about 1 MB; then its sender is no longer read, and TCP holds it back."""
RANDOM_CUT_BYTES = 2_048
"""A cut whose place is drawn comes within so many bytes: in the middle of a packet, most likely."""
_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER without time: closing sends RST and throws away what is unsent


class Direction(StrEnum):
    """Which way bytes go."""

    OUT = "out"
    BACK = "back"


class WayFault(StrEnum):
    """What can be wrong with the way, or with one direction of it."""

    REFUSE = "refuse"
    """Nobody listens: new connections are refused, open ones are reset. It has no direction."""
    STALL = "stall"
    """Nothing passes, and nothing is lost: afterwards everything goes on where it was. Connections made
    while it lasts are accepted and wait like the others."""
    DELAY = "delay"
    """Everything passes `delay_s` later, and up to `jitter_s` more by chance, in order."""
    DROP = "drop"
    """What is sent vanishes, and the connections stay open. Those that have lost something are reset at
    the fault's end: no network joins such a stream again."""
    CUT = "cut"
    """After `after_bytes` more bytes a connection ends, in the middle of whatever it was: reset for whom they come
    from, an ordinary end for whom they go to. The same happens to each connection that is made while it lasts."""
    HALF_OPEN = "half_open"
    """Out: far sees the connection end, near sees nothing: what it sends vanishes, and nothing ever comes, also after
    the fault's end, until near gives up. Connections made while it lasts are accepted and never carried.
    Back: near sees the connection end and far nothing, in the same way; connections made while it lasts pass."""


_USUAL = {
    WayFault.REFUSE: frozenset(Direction),
    WayFault.STALL: frozenset(Direction),
    WayFault.DELAY: frozenset(Direction),
    WayFault.DROP: frozenset(Direction),
    WayFault.CUT: frozenset({Direction.OUT}),
    WayFault.HALF_OPEN: frozenset({Direction.OUT}),
}
"""The directions of a fault that is begun without one."""


class FaultyProxy:
    """Passes TCP connections on to a port of this machine, as far as its faults let it.

    Attributes:
        port: where it listens; its own through all its life, also while nobody listens there.
        faults: what is wrong with each direction now; None if nothing is.
        connections: how many were accepted.
        carried: bytes that were passed on, both ways together.
    """

    def __init__(self, to_port: int, seed: int = 0) -> None:
        self.faults: dict[Direction, WayFault | None] = dict.fromkeys(Direction)
        self.connections = 0
        self.carried = 0
        self.to_port = to_port
        self.moving = {direction: asyncio.Event() for direction in Direction}
        for one in self.moving.values():
            one.set()
        self._chance = random.Random(seed)
        self._delay_s = dict.fromkeys(Direction, (0.0, 0.0))
        self._cut_after: dict[Direction, int | None] = dict.fromkeys(Direction)
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

    async def begin(
        self,
        fault: WayFault,
        *directions: Direction,
        delay_s: float = 0.5,
        jitter_s: float = 0.0,
        after_bytes: int | None = 700,
    ) -> None:
        """Let a fault begin; whatever is wrong with the same directions ends.

        Args:
            fault: which.
            directions: of which; all that the fault usually has if none is named.
            delay_s: seconds, of DELAY.
            jitter_s: seconds that are drawn for each piece in addition, of DELAY.
            after_bytes: of CUT: more than what opens a connection, if something shall be cut within; None to draw
                it for each connection.
        """
        chosen = frozenset(directions) if directions and fault is not WayFault.REFUSE else _USUAL[fault]
        await self.end(*chosen)
        for direction in chosen:
            self.faults[direction] = fault
            self._delay_s[direction] = (delay_s, jitter_s)
            self._cut_after[direction] = after_bytes
        match fault:
            case WayFault.REFUSE:
                await self._stop_listening()
                self._each(_Way.reset)
            case WayFault.STALL:
                for direction in chosen:
                    self.moving[direction].clear()
            case WayFault.CUT:
                self._each(lambda way: way.cut_after(self._drawn_cuts(chosen)))
            case WayFault.HALF_OPEN:
                self._each(lambda way: way.lose(chosen))
            case WayFault.DELAY | WayFault.DROP:
                pass  # each piece asks for it

    async def end(self, *directions: Direction) -> None:
        """Let end what is wrong with these directions, with both if none is named."""
        ending = directions or tuple(Direction)
        ended = {self.faults[direction] for direction in ending}
        if WayFault.REFUSE in ended:
            ending = tuple(Direction)
        for direction in ending:
            self.faults[direction] = None
            self.moving[direction].set()
        self._each(lambda way: way.cut_after(dict.fromkeys(ending)))
        if WayFault.REFUSE in ended:
            await self._listen()
        if WayFault.DROP in ended:
            self._each(lambda way: way.reset() if way.has_hole else None)

    def due_s(self, direction: Direction, now_s: float) -> float:
        """Return when a piece that comes now may go on."""
        if self.faults[direction] is not WayFault.DELAY:
            return now_s
        delay_s, jitter_s = self._delay_s[direction]
        return now_s + delay_s + self._chance.uniform(0, jitter_s)

    def _drawn_cuts(self, among: frozenset[Direction]) -> dict[Direction, int | None]:
        return {
            direction: self._chance.randrange(1, RANDOM_CUT_BYTES)
            if self._cut_after[direction] is None
            else self._cut_after[direction]
            for direction, fault in self.faults.items()
            if fault is WayFault.CUT and direction in among
        }

    def _each(self, act: "Callable[[_Way], object]") -> None:
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
        way.cut_after(self._drawn_cuts(frozenset(Direction)))
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
        self._far: asyncio.StreamReader | None = None
        self._far_writer: asyncio.StreamWriter | None = None
        self._far_lost = proxy.faults[Direction.OUT] is WayFault.HALF_OPEN
        self._near_lost = False
        self._left: dict[Direction, int | None] = dict.fromkeys(Direction)
        self._loop = asyncio.get_running_loop()

    def cut_after(self, counts: dict[Direction, int | None]) -> None:
        """End after so many more bytes of a direction; None: never."""
        self._left.update(counts)

    def reset(self) -> None:
        """End it, both ways."""
        for writer in (self._near_writer, self._far_writer):
            _reset(writer)

    def lose(self, directions: frozenset[Direction]) -> None:
        """Let whoever a direction leads to see an end, and whoever it comes from nothing."""
        if Direction.OUT in directions:
            self._far_lost = True
            _reset(self._far_writer)
        if Direction.BACK in directions:
            self._near_lost = True
            _reset(self._near_writer)

    async def carry(self) -> None:
        """Carry until either end is gone."""
        try:
            if not self._far_lost:
                await self._carry()
            if self._far_lost and not self._near_lost:
                await _swallow(self._near)
            elif self._near_lost and not self._far_lost and self._far is not None:
                await _swallow(self._far)
        finally:
            for writer in (self._near_writer, self._far_writer):
                if writer is not None:
                    writer.close()

    async def _carry(self) -> None:
        try:
            self._far, far_writer = await asyncio.open_connection("127.0.0.1", self._proxy.to_port)
        except OSError:  # nobody listens there: near shall try again
            _reset(self._near_writer)
            return
        self._far_writer = far_writer
        for writer in (self._near_writer, far_writer):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        directions = [
            self._loop.create_task(self._direction(self._near, far_writer, Direction.OUT)),
            self._loop.create_task(self._direction(self._far, self._near_writer, Direction.BACK)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in directions:
                one.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    async def _direction(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction
    ) -> None:
        """Pass on what comes from a source until its end."""
        pieces: Pieces = asyncio.Queue(HELD_PIECES)
        taking = self._loop.create_task(self._take(source, pieces, direction))
        try:
            while True:
                due_s, piece = await pieces.get()
                await asyncio.sleep(max(0.0, due_s - self._loop.time()))
                await self._proxy.moving[direction].wait()
                if not piece or not await self._give(piece, sink, direction):
                    return
        except ConnectionError:
            return
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    async def _take(self, source: asyncio.StreamReader, pieces: Pieces, direction: Direction) -> None:
        last_s = 0.0
        while piece := await _read(source):
            if self._proxy.faults[direction] is WayFault.DROP:
                self.has_hole = True
                continue
            last_s = max(last_s, self._proxy.due_s(direction, self._loop.time()))
            await pieces.put((last_s, piece))
        await pieces.put((self._loop.time(), b""))

    async def _give(self, piece: bytes, sink: asyncio.StreamWriter, direction: Direction) -> bool:
        """Pass a piece on; tell whether more may follow."""
        left = self._left[direction]
        passing = piece if left is None else piece[:left]
        sink.write(passing)
        await sink.drain()
        self._proxy.carried += len(passing)
        if left is None:
            return True
        self._left[direction] = left - len(passing)
        if left > len(passing):
            return True
        # whom it goes to shall have what was passed on: it sees an ordinary end
        _reset(self._near_writer if direction is Direction.OUT else self._far_writer)
        return False


async def _swallow(source: asyncio.StreamReader) -> None:
    while await _read(source):
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
