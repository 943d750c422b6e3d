"""The agent's local socket: for `luciole-edge` on the same machine, and for nobody else."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path

import msgspec
import structlog

from drivers.errors import DriverError
from edge.answers import MAX_REQUEST_BYTES, Reply, Request, Watch
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.model.ids import DeviceId
from protocols.model.reading import Sample

log = structlog.get_logger()

MAX_WATCHERS = 16
WATCH_QUEUE = 1000
"""Samples that a slow watcher may lag behind; older ones are dropped, it is shown the present."""

_REQUEST = msgspec.json.Decoder(Request)


class AskedWrongError(Exception):
    """The request is none that could be answered, at any time; the text says why, for a person."""


class NotDoneError(Exception):
    """The request is sound, and what it asks for is not done; the text says why, for a person."""


class ControlServer:
    """Answers requests, one JSON object a line.

    Attributes:
        watchers: who wants samples as they come.
        on_watch: called when somebody begins to watch.
    """

    def __init__(self, path: Path, answer: Callable[[Request], Awaitable[object]]) -> None:
        self.watchers: dict[asyncio.Queue[Sample], DeviceId | None] = {}
        self.on_watch: Callable[[], None] = lambda: None
        self._path = path
        self._answer = answer
        self._callers: set[asyncio.StreamWriter] = set()

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            FileExistsError: if something that is no socket stands in its place.
        """
        if self._path.exists() and not self._path.is_socket():
            raise FileExistsError(f"{self._path} is there and is no socket")
        self._path.unlink(missing_ok=True)
        before = os.umask(0o177)  # the socket is its owner's alone from its first moment
        try:
            server = await asyncio.start_unix_server(self._serve, self._path, limit=MAX_REQUEST_BYTES)
        finally:
            os.umask(before)
        try:
            await asyncio.Event().wait()  # serve_forever() would end only when every caller has left
        finally:
            server.close()
            for writer in self._callers:
                writer.transport.abort()
            self._path.unlink(missing_ok=True)

    def tell(self, sample: Sample) -> None:
        """Pass a sample to whoever watches."""
        for waiting, device in self.watchers.items():
            if device is None or device == sample.device:
                if waiting.full():
                    waiting.get_nowait()
                waiting.put_nowait(sample)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._callers.add(writer)
        try:
            while line := await _next_line(reader):
                await self._one_request(line, reader, writer)
        except AskedWrongError as error:
            await _say(writer, Reply(error=str(error)))
        except ConnectionError:
            log.debug("control_caller_left")
        finally:
            self._callers.discard(writer)
            writer.close()

    async def _one_request(
        self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            request = _REQUEST.decode(line)
            answer = await self._answer(request)
            if isinstance(request, Watch):
                await _until_left(self._tell_samples(request, writer), reader)
                return
            if isinstance(answer, AsyncIterator):
                await _until_left(_tell_all(answer, writer), reader)
                return
            reply = Reply(msgspec.Raw(msgspec.json.encode(answer)))
        except (AskedWrongError, LocalProtocolError, msgspec.DecodeError, UnicodeDecodeError) as error:
            reply = Reply(error=str(error))
        except NotDoneError as error:
            reply = Reply(error=str(error), understood=True)
        except ConnectionError:
            raise
        except (
            DriverError,
            RemoteProtocolError,
            sqlite3.Error,
        ) as error:  # a line that is down, a disk that refuses: no bug of ours
            reply = Reply(error=f"it was not done: {error}", understood=True)
        except Exception as error:
            log.exception("control_request_broke")
            why = str(error) or type(error).__name__
            reply = Reply(error=f"the agent cannot answer: {why}", understood=True)
        await _say(writer, reply)

    async def _tell_samples(self, request: Watch, writer: asyncio.StreamWriter) -> None:
        if len(self.watchers) >= MAX_WATCHERS:
            raise NotDoneError(f"{MAX_WATCHERS} are watching already")
        waiting: asyncio.Queue[Sample] = asyncio.Queue(WATCH_QUEUE)
        self.watchers[waiting] = request.device
        try:
            while True:
                self.on_watch()
                sample = await waiting.get()
                await _say(writer, Reply(msgspec.Raw(msgspec.json.encode(sample))))
        finally:
            del self.watchers[waiting]


async def _until_left(telling: Coroutine[object, object, None], reader: asyncio.StreamReader) -> None:
    """Tell until all is told or the caller leaves, which it also may when nothing comes."""
    task = asyncio.create_task(telling)
    leaving = asyncio.create_task(reader.read(1))
    try:
        await asyncio.wait([task, leaving], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
    finally:
        task.cancel()
        leaving.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


async def _tell_all(answers: AsyncIterator[object], writer: asyncio.StreamWriter) -> None:
    async for answer in answers:
        await _say(writer, Reply(msgspec.Raw(msgspec.json.encode(answer)), more=True))
    await _say(writer, Reply())


async def _next_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError as error:  # asyncio's way of saying that the line is beyond the limit
        raise AskedWrongError(f"a request has at most {MAX_REQUEST_BYTES} bytes") from error


async def _say(writer: asyncio.StreamWriter, reply: Reply) -> None:
    writer.write(msgspec.json.encode(reply) + b"\n")
    await writer.drain()
