"""What every process that ingests does: hear its shards, commit, acknowledge, and hand over what is another's."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import TimeoutError as TooLate
from pathlib import Path

import structlog

from central.config import BrokerSettings
from central.effects import Downlink, Effects
from central.errors import CentralError, RefusedFor
from central.ingest import Ingest
from central.mqtt import Link
from central.shards import Shards
from central.store.writer import Tx, Work, Writer
from central.streams import acks
from protocols.backhaul.codec import encode
from protocols.backhaul.topics import Down
from protocols.clock import Clock

QUEUE_WAIT_S = 5.0
"""How long the MQTT thread waits for room in the queue before it drops a message, which is sent again."""
FIRST_TICK_S = 15.0

Tell = Callable[[Effects], None]
log = structlog.get_logger(__name__)


class Totals:
    """What was committed since the start. Written by the store's thread, read by the API."""

    def __init__(self) -> None:
        self.batches = 0
        self.readings = 0


class Intake:
    """One process's share of the ingest.

    Attributes:
        ingest: judges what comes.
        shards: whose messages are taken in.
        writer: the store.
        link: the way to the cabinets.
        totals: what was committed.
    """

    def __init__(
        self,
        db: Path,
        broker: BrokerSettings,
        client_id: str,
        name: str,
        clock: Clock,
        *,
        tick: Work[None],
        tell: Tell,
        watched: Callable[[], bool] | None,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            db: a database that `schema.prepare` has brought up to date.
            broker: which broker.
            client_id: by which it knows us.
            name: ours, among the processes that ingest.
            clock: the time.
            tick: what else is to be done about twice a second.
            tell: called in the store's thread with what a round has committed.
            watched: tells whether anybody looks at changes of latest values; None for a worker, whose watchers
                are at the aggregator.
        """
        self.ingest = Ingest()
        self.totals = Totals()
        self._tend_more = tick
        self._tell = tell
        serves = watched is not None
        self.link = Link(broker, client_id, clock, self._deliver, keep=serves)
        self.shards = Shards(name, clock, self.link.hears, relays=not serves)
        self.writer = Writer(
            db,
            clock,
            self._tick,
            self._after_commit,
            watched=watched or self.shards.is_watched,
            sharing=self.shards,
        )
        self._heard: frozenset[int] | None = None
        self._giving: frozenset[int] = frozenset()

    def begin(self) -> None:
        """Take writes, and what shards are free."""
        self.writer.start()
        try:
            self.writer.submit(self.shards.tend).result(FIRST_TICK_S)
        except (CentralError, TooLate) as error:  # tried again at each tick
            log.error("no shards can be taken yet", why=str(error))

    def start(self) -> None:
        """Take writes, then messages."""
        self.begin()
        self.link.start()

    def stop(self) -> None:
        """Take no more messages, commit those that were taken, give up the shards, and close."""
        self.link.stop()
        self.writer.post(self.shards.leave, 0, QUEUE_WAIT_S)
        self.writer.stop()

    def _deliver(self, topic: str, payload: bytes) -> None:
        """Queue a message for the store (in the MQTT thread)."""
        if not self.writer.post(
            lambda tx: self.ingest.receive(tx, topic, payload), len(payload), QUEUE_WAIT_S
        ):
            self.ingest.counts.refuse("queue", RefusedFor.QUEUE_FULL, f"a message on {topic}")

    def _tick(self, tx: Tx) -> None:
        self.shards.tend(tx)
        self._tend_more(tx)

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
        self._tell(effects)
        self._hear(db)

    def _hear(self, db: sqlite3.Connection) -> None:
        """Hear the shards that are ours now; those that leave are given up once nothing of them can come."""
        held = self.shards.look_again(db)
        leaving = self.shards.leaving & held
        if held - leaving != self._heard or leaving - self._giving:
            self._heard, self._giving = held - leaving, leaving
            self.link.listen(self._heard, (lambda: self._release(leaving)) if leaving else None)

    def _release(self, leaving: frozenset[int]) -> None:
        """Give up shards, behind all that has come of them; if there is no room for it, at a later round."""
        if not self.writer.post(lambda tx: self.shards.release(tx, leaving), 0, 0):
            self._giving = frozenset()
