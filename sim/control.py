"""The control socket: JSON lines over a unix socket that only its owner can open.

A line is one request, such as `{"do": "fault", "target": "dali-1/3", "name": "lamp_failure", "for_s": 30}`;
the answer is one line, `{"ok": true, "result": …}` or `{"ok": false, "error": "…"}`.
"""

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import Annotated, Protocol

import msgspec

from sim.faults import FaultSettings
from sim.report import Counters, Ports, StreetState
from sim.targets import UnknownError

MAX_LINE = 65_536  # a request names one target
_OWNER_ONLY = 0o177


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do"):
    """What somebody asks of a running bench."""


class AskState(Request, frozen=True, forbid_unknown_fields=True, tag="state"):
    """How everything is."""


class AskCounters(Request, frozen=True, forbid_unknown_fields=True, tag="counters"):
    """What the hardware has counted."""


class AskPorts(Request, frozen=True, forbid_unknown_fields=True, tag="ports"):
    """Where everything is."""


class Break(Request, frozen=True, forbid_unknown_fields=True, tag="fault"):
    """Let a fault begin; with `for_s` it ends by itself."""

    target: str
    name: str
    for_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    settings: FaultSettings = FaultSettings()


class Mend(Request, frozen=True, forbid_unknown_fields=True, tag="clear"):
    """Let a fault end, or all of a target's (`*`)."""

    target: str
    name: str = "*"


class SetSwitches(Request, frozen=True, forbid_unknown_fields=True, tag="set"):
    """Set switches by name."""

    target: str
    switches: dict[str, bool | float]


class Stop(Request, frozen=True, forbid_unknown_fields=True, tag="stop"):
    """End the bench."""


AnyRequest = AskState | AskCounters | AskPorts | Break | Mend | SetSwitches | Stop


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What comes back."""

    ok: bool
    result: StreetState | Counters | Ports | None = None
    error: str | None = None


class Bench(Protocol):
    """What the socket needs of a street."""

    stopped: asyncio.Event

    def state(self) -> StreetState: ...  # noqa: D102  see Street
    def counters(self) -> Counters: ...  # noqa: D102
    def ports(self) -> Ports: ...  # noqa: D102
    def set(self, target: str, switches: dict[str, bool | float]) -> None: ...  # noqa: D102
    async def clear(self, target: str, name: str = "*") -> None: ...  # noqa: D102
    async def fault(  # noqa: D102
        self, target: str, name: str, *, for_s: float | None = None, settings: FaultSettings | None = None
    ) -> None: ...


class ControlSocket:
    """Listens for requests and has the bench carry them out.

    Args:
        bench: the street.
        path: of the socket; its folder is made if missing.
    """

    def __init__(self, bench: Bench, path: Path) -> None:
        self.path = path
        self._bench = bench
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: another bench listens there, or the path cannot be made.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._remove_stale()
        listener = socket.socket(socket.AF_UNIX)
        umask = os.umask(_OWNER_ONLY)
        try:
            listener.bind(str(self.path))
        except OSError as error:
            listener.close()
            raise OSError(error.errno, f"cannot listen on {self.path}: {error}") from error
        finally:
            os.umask(umask)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MAX_LINE)

    async def stop(self) -> None:
        """Close the socket and every client."""
        if self._server is None:
            return
        self._server.close()
        for client in tuple(self._clients):
            client.close()
        await self._server.wait_closed()
        self.path.unlink(missing_ok=True)

    def _remove_stale(self) -> None:
        """Take away what a bench that died has left; leave one alone that lives."""
        if not self.path.is_socket():
            return
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.path))
            except OSError:
                self.path.unlink(missing_ok=True)
                return
        raise FileExistsError(f"another bench listens on {self.path}")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError):
            while line := await reader.readline():
                answer = await self._answer(line)
                writer.write(msgspec.json.encode(answer) + b"\n")
                await writer.drain()
        self._clients.discard(writer)
        writer.close()

    async def _answer(self, line: bytes) -> Answer:
        try:
            request: AnyRequest = msgspec.json.decode(line, type=AnyRequest)
            return await self._carry_out(request)
        except (msgspec.MsgspecError, UnknownError, OSError) as error:
            return Answer(ok=False, error=str(error))

    async def _carry_out(self, request: AnyRequest) -> Answer:
        bench = self._bench
        match request:
            case AskState():
                return Answer(ok=True, result=bench.state())
            case AskCounters():
                return Answer(ok=True, result=bench.counters())
            case AskPorts():
                return Answer(ok=True, result=bench.ports())
            case Break():
                await bench.fault(
                    request.target, request.name, for_s=request.for_s, settings=request.settings
                )
            case Mend():
                await bench.clear(request.target, request.name)
            case SetSwitches():
                bench.set(request.target, request.switches)
            case Stop():
                bench.stopped.set()
        return Answer(ok=True)
