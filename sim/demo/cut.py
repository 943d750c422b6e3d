"""The backhaul between cabinets and broker, which can be cut."""

import asyncio

CHUNK = 65_536


class Backhaul:
    """Passes bytes between a port here and the broker while it is whole."""

    def __init__(self, port: int, broker_port: int) -> None:
        self.whole = True
        self._port = port
        self._broker_port = broker_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self._port)

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
        self._drop()

    def cut(self) -> None:
        """Drop every connection and refuse new ones."""
        self.whole = False
        self._drop()

    def mend(self) -> None:
        """Let connections through again."""
        self.whole = True

    def _drop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.whole:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._broker_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            self._writers -= {writer, far_writer}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(CHUNK):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
