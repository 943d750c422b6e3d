"""Wiring, and nothing else: which part is handed to which, in what order they start and stop."""

import asyncio
import fcntl
import os
import secrets
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec
import structlog
import uvicorn
from litestar import Litestar

from central import commands, leases, policies, restamp
from central.api.server import build
from central.broker import ensure
from central.centre import Centre, Totals
from central.clock import SystemClock
from central.config import Address, BrokerSettings
from central.effects import Downlink, Effects
from central.errors import RefusedFor, StartError, StoreError
from central.feed import Feed
from central.ingest import Ingest
from central.mqtt import Link
from central.policies import SigningKey
from central.store import schema
from central.store.reader import Reader
from central.store.writer import Tx, Writer
from central.streams import acks
from protocols.backhaul.codec import encode
from protocols.backhaul.topics import Down
from protocols.clock import BenchTime

QUEUE_WAIT_S = 5.0
"""How long the MQTT thread waits for room in the queue before it drops a message, which is sent again."""
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
        self.ingest = Ingest()
        self.totals = Totals()
        self.writer = Writer(settings.db, self.clock, self._tick, self._after_commit, self.feed.watched)
        self.reader = Reader(settings.db)
        self.link = Link(settings.broker, client_id, self.clock, self._deliver)
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
            totals=self.totals,
            db=settings.db,
            broker=str(settings.broker),
            protocol=settings.broker.protocol.value,
            started_ms=self.clock.now().monotonic_ms,
        )

    def start(self) -> None:
        """Take writes, then messages."""
        self.writer.start()
        self.link.start()

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
        await asyncio.to_thread(self.link.stop)
        await asyncio.to_thread(self.writer.stop)
        await asyncio.to_thread(self.reader.close)

    def _deliver(self, topic: str, payload: bytes) -> None:
        """Queue a message for the store (in the MQTT thread)."""
        if not self.writer.post(
            lambda tx: self.ingest.receive(tx, topic, payload), len(payload), QUEUE_WAIT_S
        ):
            self.ingest.counts.refuse("queue", RefusedFor.QUEUE_FULL, f"a message on {topic}")

    def _tick(self, tx: Tx) -> None:
        commands.send_due(tx, connected=self.link.connected)
        leases.renew_due(tx, self.centre.key)
        restamp.go_on(tx)
        if self.link.connected:
            policies.send_due(tx)

    def _after_commit(self, db: sqlite3.Connection, effects: Effects) -> None:
        """Tell the world what a round has committed (in the store's thread)."""
        self.totals.batches += effects.batches
        self.totals.readings += effects.readings
        for cabinet, epoch in sorted(effects.acks):  # the same order each time
            marks = db.execute(
                "SELECT stream, mark, hash FROM stream WHERE cabinet = ? AND epoch = ? ORDER BY stream",
                (cabinet, epoch),
            )
            self.link.send(Downlink(cabinet, Down.ACK, encode(acks(marks, epoch))))
        for message in effects.down:
            self.link.send(message)
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
    with _alone(settings.db), _listening(settings.listen) as sock:
        schema.prepare(settings.db)
        central = Central(settings, _client_id(settings.db))
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
    central.start()
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
def _alone(db: Path) -> Iterator[None]:
    """Hold the lock that keeps a second aggregator from the same database."""
    path = db.with_name(f"{db.name}.lock")
    try:
        path.touch(mode=0o600)
        lock = path.open("a")
    except OSError as error:
        raise StartError(f"{path}: cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(f"{db}: another aggregator is running on this database") from None
        yield


@contextmanager
def _listening(address: Address) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        sock = socket.create_server((address.host, address.port), family=family, backlog=512)
    except OSError as error:
        raise StartError(f"--listen {address}: {error.strerror}") from error
    with sock:
        yield sock


def _client_id(path: Path) -> str:
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
