"""Wiring, and nothing else: which part is handed to which, in what order they start and stop."""

import asyncio
import fcntl
import os
import secrets
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import msgspec
import structlog
import uvicorn
from litestar import Litestar

from central import commands, leases, policies, restamp
from central.api.server import build
from central.broker import ensure
from central.centre import Centre
from central.clock import SystemClock
from central.config import Address, BrokerSettings
from central.effects import Effects
from central.errors import StartError, StoreError
from central.feed import Feed
from central.intake import Intake
from central.policies import SigningKey
from central.relay import Collector
from central.shards import SERVING
from central.store import schema
from central.store.lock import WaitedTooLongError, WriteLock
from central.store.reader import Reader
from central.store.writer import Tx
from protocols.clock import BenchTime

WATCH_S = 5.0
HTTP_GRACE_S = 3

log = structlog.get_logger(__name__)


class Settings(msgspec.Struct, frozen=True):
    """What `serve` was told.

    Attributes:
        db: the database's file.
        listen: where the API listens.
        broker: which broker.
        key: what policies are signed with; None to sign nothing.
        bench: the civil time of a bench; None for the real one.
    """

    db: Path
    listen: Address
    broker: BrokerSettings
    key: SigningKey | None = None
    bench: BenchTime | None = None


class Ready(msgspec.Struct, frozen=True):
    """What is told once everything runs."""

    api: str
    broker: str
    db: str
    pid: int


Announce = Callable[[Ready], None]


class Central:
    """A running aggregator: its parts, and what flows between them."""

    def __init__(self, settings: Settings, client_id: str) -> None:
        self.clock = SystemClock(settings.bench)
        self.feed = Feed()
        self.intake = Intake(
            settings.db,
            settings.broker,
            client_id,
            SERVING,
            self.clock,
            tick=self._tick,
            tell=self._tell,
            watched=self.feed.watched,
        )
        self.collector = Collector(self.intake.shards, self.feed.watched)
        self.ingest, self.writer, self.link = self.intake.ingest, self.intake.writer, self.intake.link
        self.reader = Reader(settings.db)
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._told = ""
        self.centre = Centre(
            writer=self.writer,
            reader=self.reader,
            feed=self.feed,
            ingest=self.ingest,
            link=self.link,
            clock=self.clock,
            key=settings.key,
            totals=self.intake.totals,
            db=settings.db,
            broker=str(settings.broker),
            protocol=settings.broker.protocol.value,
            started_ms=self.clock.now().monotonic_ms,
        )

    def start(self) -> None:
        """Take writes, then messages."""
        self.intake.start()

    async def watch(self) -> None:
        """Look after the threads until cancelled.

        Raises:
            StoreError: if the store's thread has ended; nothing can be kept then.
        """
        while self.writer.alive():
            await asyncio.sleep(WATCH_S)
            self.link.watch()
            if self._settings.broker.embedded and not self.link.connected:
                await self._bring_back_broker()
        raise StoreError("the store's thread has ended")

    async def _bring_back_broker(self) -> None:
        """Start the embedded broker again if it has died: nobody else would."""
        try:
            await ensure(self._settings.broker.address, _broker_log(self._settings))
            self._told = ""
        except StartError as fault:
            if str(fault) != self._told:
                log.error("the embedded broker cannot be brought back", why=str(fault))
            self._told = str(fault)

    async def stop(self) -> None:
        """Take no more messages, commit those that were taken, and close."""
        await asyncio.to_thread(self.intake.stop)
        await asyncio.to_thread(self.reader.close)

    def _tick(self, tx: Tx) -> None:
        commands.send_due(tx, connected=self.link.connected)
        leases.renew_due(tx, self.centre.key)
        restamp.go_on(tx)
        if self.link.connected:
            policies.send_due(tx)
        self.collector.collect(tx)

    def _tell(self, effects: Effects) -> None:
        if effects.changes and self.feed.watched():
            self._loop.call_soon_threadsafe(self.feed.publish, effects.changes)


class Server(uvicorn.Server):
    """uvicorn, with our signal handling instead of its own."""

    def capture_signals(self) -> nullcontext[None]:  # type: ignore[override]  # a context of another kind
        """Leave the signals to `run`."""
        return nullcontext()


async def run(settings: Settings, announce: Announce) -> None:
    """Be the aggregator until SIGTERM or SIGINT.

    Raises:
        StartError: if something that was asked for cannot be had; nothing was started then.
    """
    with (
        alone(settings.db, "lock", "another aggregator is running on this database"),
        _listening(settings.listen) as sock,
    ):
        with in_turn(settings.db):
            schema.prepare(settings.db)
            name = client_id(settings.db)
        central = Central(settings, name)
        api = build(central.centre, this_machine_alone=settings.listen.is_loopback())
        if settings.broker.embedded:
            await ensure(settings.broker.address, _broker_log(settings))
        await _serve(central, api, sock, lambda: announce(_ready(settings, sock)))


async def _serve(central: Central, api: Litestar, sock: socket.socket, announce: Callable[[], None]) -> None:
    config = uvicorn.Config(
        api,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=HTTP_GRACE_S,
        lifespan="on",
    )
    server = Server(config)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await asyncio.to_thread(central.start)
    serving = asyncio.create_task(server.serve([sock]))
    watching = asyncio.create_task(central.watch())
    stopping = asyncio.create_task(stop.wait())
    try:
        announce()
        await asyncio.wait({serving, watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        central.feed.close()
        server.should_exit = True
        await serving
        stopping.cancel()
        watching.cancel()
        (ended, _) = await asyncio.gather(watching, stopping, return_exceptions=True)
        await central.stop()
    if isinstance(ended, StoreError):
        raise ended


def _broker_log(settings: Settings) -> Path:
    return settings.db.with_suffix(".broker.log")


def _ready(settings: Settings, sock: socket.socket) -> Ready:
    host, port = sock.getsockname()[:2]
    return Ready(f"http://{Address(host, port)}", str(settings.broker), str(settings.db), os.getpid())


@contextmanager
def alone(db: Path, suffix: str, otherwise: str) -> Iterator[None]:
    """Hold a lock beside the database that only one process can have.

    Raises:
        StartError: if another one has it; with `otherwise` as the reason.
    """
    path = db.with_name(f"{db.name}.{suffix}")
    try:
        path.touch(mode=0o600)
        lock = path.open("a")
    except OSError as error:
        raise StartError(f"{path}: cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(f"{db}: {otherwise}") from None
        yield


@contextmanager
def in_turn(db: Path) -> Iterator[None]:
    """Write to a database before there is a writer, when no other process does.

    Raises:
        StartError: if another process does not let us.
    """
    try:
        with closing(WriteLock(db)) as lock, lock.held():
            yield
    except WaitedTooLongError as error:
        raise StartError(f"{db}: {error}; is it stopped? Continue it or kill it") from error


@contextmanager
def _listening(address: Address) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        sock = socket.create_server((address.host, address.port), family=family, backlog=512)
    except OSError as error:
        raise StartError(f"--listen {address}: {error.strerror}") from error
    with sock:
        yield sock


def client_id(path: Path) -> str:
    """Return the name under which the broker knows this database's aggregator, made at the first start."""
    db = sqlite3.connect(path, timeout=5.0)
    try:
        with db:
            db.execute(
                "INSERT OR IGNORE INTO centre (name, value) VALUES ('client', ?)", (secrets.token_hex(4),)
            )
        found = db.execute("SELECT value FROM centre WHERE name = 'client'").fetchone()
    finally:
        db.close()
    return f"luciole-central-{found[0]}"
