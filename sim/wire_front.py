"""A TCP port in front of a server, on which everything that can go wrong on the way goes wrong.

The server behind knows nothing of it, may be taken away and come back, and the port stays the same.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from sim.faults import Board, FaultSettings, OpcUaFault

CHUNK: Final = 65_536
_LATE_S: Final = 3.0


class WireFront:
    """Carries bytes between its port and the server behind.

    Args:
        host: address to listen on.
        port: port to listen on; with 0 the one that was given is in `port` after the start.
        board: the faults that hang here.
        connect: opens a connection to the server behind; raises OSError while there is none.

    Attributes:
        connections: how many were accepted since the start.
    """

    def __init__(
        self,
        host: str,
        port: int,
        board: Board[OpcUaFault],
        connect: Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]],
    ) -> None:
        self.host = host
        self.port = port
        self.connections = 0
        self._board = board
        self._connect = connect
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken or not ours.
        """
        self._server = await asyncio.start_server(self._serve, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.hang_up()

    async def hang_up(self) -> None:
        """Close every connection."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def set_fault(self, fault: OpcUaFault, settings: FaultSettings) -> None:
        """Let a fault begin."""
        self._board.set(fault, settings)
        if fault is OpcUaFault.REFUSED:
            await self.stop()
        elif fault is OpcUaFault.CLOSED:
            await self.hang_up()

    async def clear_fault(self, fault: OpcUaFault) -> None:
        """Let a fault end; what was swallowed meanwhile is lost, so a connection that lost some is closed."""
        had = fault in self._board
        self._board.clear(fault)
        if fault is OpcUaFault.REFUSED and had:
            await self.start()
        elif fault is OpcUaFault.SILENT and had:
            await self.hang_up()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a coroutine runs in one
        self._tasks.add(task)
        self.connections += 1
        behind: asyncio.StreamWriter | None = None
        try:
            if OpcUaFault.CLOSED not in self._board:
                back, behind = await self._connect()
                await self._carry(reader, writer, back, behind)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for each in (writer, behind):
                if each is not None:
                    each.transport.abort()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        behind: asyncio.StreamWriter,
    ) -> None:
        """Carry both ways until either end hangs up."""
        ways = [
            asyncio.ensure_future(self._pump(reader, behind, answers=False)),
            asyncio.ensure_future(self._pump(back, writer, answers=True)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK):
                if OpcUaFault.SILENT in self._board:
                    continue
                if answers and OpcUaFault.LATE in self._board:
                    delay_s = self._board.settings(OpcUaFault.LATE).delay_s
                    await asyncio.sleep(_LATE_S if delay_s is None else delay_s)
                writer.write(chunk)
                await writer.drain()
