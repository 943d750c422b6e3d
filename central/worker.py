"""A process that only ingests: it leases shards of a database that an aggregator serves, commits, acknowledges.

Commands and policies go down from the aggregator alone: what a hello or an answer changes stands in the store,
and the aggregator's next tick, within half a second, sends what follows from it.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec

from central.app import alone, client_id, in_turn
from central.clock import SystemClock
from central.config import BrokerSettings
from central.effects import Effects
from central.errors import StoreError
from central.intake import Intake
from central.store import schema
from central.store.writer import Tx

WATCH_S = 1.0


class WorkerSettings(msgspec.Struct, frozen=True):
    """What `ingest` was told.

    Attributes:
        db: the database's file, which an aggregator serves.
        broker: which broker.
        name: of this worker; the same at each start.
    """

    db: Path
    broker: BrokerSettings
    name: str


class WorkerReady(msgspec.Struct, frozen=True):
    """What is told once the worker runs."""

    name: str
    broker: str
    db: str
    pid: int


async def run(settings: WorkerSettings, announce: Callable[[WorkerReady], None]) -> None:
    """Ingest until SIGTERM or SIGINT.

    Raises:
        StartError: if there is no such database, or a worker of this name runs already.
        StoreError: if the store's thread has ended; nothing can be kept then.
    """
    otherwise = f"a worker named {settings.name} is running on this database; give another --name"
    with alone(settings.db, f"{settings.name}.lock", otherwise):
        with in_turn(settings.db):
            schema.check(settings.db)
            ours = f"{client_id(settings.db)}-{settings.name}"
        intake = Intake(
            settings.db,
            settings.broker,
            ours,
            settings.name,
            SystemClock(),
            tick=_nothing_more,
            tell=_tell_nobody,
            watched=None,
        )
        await _ingest(
            intake,
            lambda: announce(WorkerReady(settings.name, str(settings.broker), str(settings.db), os.getpid())),
        )


def _nothing_more(_tx: Tx) -> None:
    """Do nothing else in a tick."""


def _tell_nobody(_effects: Effects) -> None:
    """Leave the changes to the aggregator's process: they stand in the store."""


async def _ingest(intake: Intake, announce: Callable[[], None]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await asyncio.to_thread(intake.start)
    try:
        announce()
        while not stop.is_set():
            if not intake.writer.alive():
                raise StoreError("the store's thread has ended")
            intake.link.watch()
            try:
                async with asyncio.timeout(WATCH_S):
                    await stop.wait()
            except TimeoutError:
                continue
    finally:
        await asyncio.to_thread(intake.stop)
