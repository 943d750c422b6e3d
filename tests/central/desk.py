"""The store and the ingest without threads or broker: one message at a time, on a real database."""

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from central.effects import Effects
from central.errors import MessageError
from central.ingest import Ingest
from central.store import schema
from central.store.writer import Caches, Tx, connect
from central.streams import acks
from protocols.backhaul.messages import Ack
from protocols.clock import Instant
from protocols.model.device import StreamClass
from tests.central.cabinet_double import START_MS, CabinetDouble, Message

T = TypeVar("T")


class TestClock:
    """A clock that stands until it is told."""

    __test__ = False

    def __init__(self, utc_ms: int = START_MS) -> None:
        self.utc_ms = utc_ms

    def now(self) -> Instant:
        return Instant(self.utc_ms - START_MS, self.utc_ms)

    def civil(self) -> Instant:
        return self.now()

    def pass_s(self, seconds: float) -> None:
        self.utc_ms += round(1000 * seconds)


class Desk:
    """Takes messages in and answers questions, in the test's own thread."""

    def __init__(self, path: Path) -> None:
        schema.prepare(path)
        self.path = path
        self.clock = TestClock()
        self.ingest = Ingest()
        self.effects = Effects()
        self._caches = Caches()
        self.db = connect(path)

    def close(self) -> None:
        self.db.close()

    def do(self, work: Callable[[Tx], T]) -> T:
        """Do work in a transaction of its own; keep its effects."""
        tx = Tx(self.db, self.clock.now().utc_ms, self.clock.civil().utc_ms, self._caches, watched=True)
        self.db.execute("BEGIN IMMEDIATE")
        try:
            outcome = work(tx)
        except BaseException:
            self.db.execute("ROLLBACK")
            self._caches.clear()
            raise
        self.db.execute("COMMIT")
        self.effects = tx.effects
        return outcome

    def deliver(self, *messages: Message) -> None:
        """Take messages in; what is refused changes nothing and is counted."""
        for message in messages:
            try:
                self.do(lambda tx, m=message: self.ingest.receive(tx, m.topic, m.payload))  # type: ignore[misc]  # a lambda with a default
            except MessageError:
                self.effects = Effects()

    def answer(self, cabinet: CabinetDouble, epoch: int | None = None) -> Ack:
        """Return the acknowledgement that the centre would send."""
        epoch = cabinet.epoch if epoch is None else epoch
        marks = self.db.execute(
            "SELECT stream, mark, hash FROM stream WHERE cabinet = ? AND epoch = ? ORDER BY stream",
            (cabinet.id, epoch),
        )
        return acks(marks, epoch)

    def mark(self, cabinet: CabinetDouble, stream: StreamClass = StreamClass.ORDINARY) -> int:
        return next((m.mark for m in self.answer(cabinet).marks if m.stream is stream), 0)

    def ask(self, question: str, given: Iterable[object] = ()) -> list[tuple[object, ...]]:
        return self.db.execute(question, tuple(given)).fetchall()

    def values(self, device: str) -> list[object]:
        """Return a device's values in the order in which they were committed."""
        found = self.ask(
            "SELECT value FROM reading JOIN series ON series.id = series_id WHERE device = ?"
            " ORDER BY batch_id, idx",
            (device,),
        )
        return [value for (value,) in found]


def raw(path: Path) -> sqlite3.Connection:
    """Open a database as another process would, to look."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
