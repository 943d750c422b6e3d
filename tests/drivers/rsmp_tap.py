"""A tap on the wire between a site and its supervisor: it passes everything on, and keeps it for the schemas."""

import asyncio
import contextlib
import json
from enum import StrEnum
from typing import Self

from tests.rsmp_schemas import packets, violations

PATIENCE_S = 10.0


class End(StrEnum):
    """Who has said something."""

    SITE = "site"
    SUPERVISOR = "supervisor"


class Tap:
    """Takes a site's connections and makes each anew to its supervisor.

    Attributes:
        port: where the site is to connect to.
        streams: what each end has written, one for each of its connections.
    """

    def __init__(self, supervisor_port: int) -> None:
        self.port = 0
        self.streams: list[tuple[End, bytearray]] = []
        self._supervisor_port = supervisor_port
        self._server: asyncio.Server | None = None
        self._pumping: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Take no more connections; those that there are end with the first of their two ends."""
        assert self._server is not None
        self._server.close()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*self._pumping)

    def said(self, end: End) -> list[bytes]:
        """Return all the messages that one end has written."""
        return [one for who, stream in self.streams if who is end for one in packets(bytes(stream))]

    def types(self, end: End) -> set[str]:
        """Return the types of the messages that one end has written."""
        return {json.loads(packet)["type"] for packet in self.said(end)}

    def wrong(self) -> list[str]:
        """Return what the published schemas have against either end's messages; skip the test without them."""
        return [f"{end}: {why}" for end in End for packet in self.said(end) for why in violations(packet)]

    async def _serve(self, site: asyncio.StreamReader, to_site: asyncio.StreamWriter) -> None:
        try:
            supervisor, to_supervisor = await asyncio.open_connection("127.0.0.1", self._supervisor_port)
        except OSError:  # nobody listens there yet; the site comes again
            to_site.close()
            return
        pumps = [
            asyncio.create_task(self._pump(End.SITE, site, to_supervisor)),
            asyncio.create_task(self._pump(End.SUPERVISOR, supervisor, to_site)),
        ]
        self._pumping.update(pumps)
        for pump in pumps:
            pump.add_done_callback(self._pumping.discard)
        await asyncio.gather(*pumps)
        to_site.close()
        to_supervisor.close()

    async def _pump(self, end: End, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = bytearray()
        self.streams.append((end, stream))
        with contextlib.suppress(ConnectionError):  # an end that lets go in the middle
            while content := await reader.read(65536):
                stream += content
                writer.write(content)
        with contextlib.suppress(OSError):  # the other end has gone as well
            writer.write_eof()
