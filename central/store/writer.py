"""The only connection that writes, in the only thread that uses it.

Whatever waits goes into one transaction, each job in a savepoint of its own, so that a storm of messages
shares its commits and one bad message spoils nothing but itself. What must be told to the world is told after
the commit. SQLite before 3.51.3 can damage a database that two connections write or checkpoint at one
instant: readers therefore open it read-only.
"""

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from typing import TypeVar

import structlog

from central.effects import Effects
from central.errors import CentralError, StoreError
from central.inbox import Inbox
from central.store.log import refuse_read_only
from protocols.clock import Clock

T = TypeVar("T")

JOBS_PER_COMMIT = 256
BUSY_TIMEOUT_MS = 5_000
TICK_S = 0.5
"""How often due work (commands to send again, expiries) is looked for."""
WAL_LIMIT_BYTES = 64 << 20

log = structlog.get_logger(__name__)


class Tx:
    """One job's view of the store: the connection within its savepoint, and its notes.

    Attributes:
        db: the writing connection; only to be used before the job returns.
        effects: what must be told after the commit.
        now_ms: UTC milliseconds of this round.
        civil_ms: civil UTC milliseconds of this round.
        caches: what jobs remember across rounds; emptied whenever something is rolled back.
        watched: whether anybody looks at changes of latest values as they come.
    """

    def __init__(
        self, db: sqlite3.Connection, now_ms: int, civil_ms: int, caches: "Caches", *, watched: bool = False
    ) -> None:
        self.db = db
        self.effects = Effects()
        self.now_ms = now_ms
        self.civil_ms = civil_ms
        self.caches = caches
        self.watched = watched


class Caches:
    """What would otherwise be asked of the database for every batch."""

    MAX_SERIES = 500_000

    def __init__(self) -> None:
        self.series: dict[tuple[str, str], int] = {}
        self.owners: dict[tuple[str, str], str] = {}

    def clear(self) -> None:
        """Forget everything."""
        self.series.clear()
        self.owners.clear()

    def trim(self) -> None:
        """Forget everything once it is too much."""
        if len(self.series) > self.MAX_SERIES:
            self.clear()


Work = Callable[[Tx], T]
AfterCommit = Callable[[sqlite3.Connection, Effects], None]


class _Job:
    def __init__(self, work: Work[object], future: "Future[object] | None") -> None:
        self.work = work
        self.future = future


class Writer:
    """Owns the writing connection and its thread."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        tick: Work[None],
        after_commit: AfterCommit,
        watched: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare a writer; `start` opens the database.

        Args:
            path: a database that `schema.prepare` has brought up to date.
            clock: where the rounds' time comes from.
            tick: work to be done about every `TICK_S`.
            after_commit: called in the writer's thread with what a round has to tell.
            watched: tells whether anybody looks at changes of latest values.
        """
        self._path = path
        self._clock = clock
        self._tick = tick
        self._after_commit = after_commit
        self._watched = watched
        self._inbox: Inbox[_Job] = Inbox()
        self._caches = Caches()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._stopping = threading.Event()
        self._next_tick_ms = 0
        self.fault = ""
        self.commits = 0
        self.last_commit_ms: int | None = None

    def start(self) -> None:
        """Begin to take jobs."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Commit what was received, then end."""
        self._inbox.close()
        self._stopping.set()
        self._thread.join(timeout_s)

    def alive(self) -> bool:
        """Tell whether the thread runs."""
        return self._thread.is_alive()

    def depth(self) -> tuple[int, int]:
        """Return how many jobs wait, and how many bytes they hold."""
        return self._inbox.depth()

    def post(self, work: Work[object], size: int, timeout_s: float) -> bool:
        """Queue work that nobody waits for; return whether there was room within `timeout_s`."""
        return self._inbox.put(_Job(work, None), size, timeout_s)

    def submit(self, work: Work[T]) -> "Future[T]":
        """Queue work whose outcome somebody waits for: it is there once it is committed.

        Raises:
            StoreError: if the queue is full.
        """
        future: Future[T] = Future()
        if not self._inbox.put(_Job(work, future)):  # type: ignore[arg-type]  # a Future is invariant
            raise StoreError("more waits for the store than it can take; try again")
        return future

    def _run(self) -> None:
        db = connect(self._path)
        try:
            while not self._stopping.is_set() or self._inbox.depth()[0]:
                jobs = self._inbox.take(JOBS_PER_COMMIT, TICK_S)
                self._round(db, jobs)
        finally:
            db.close()

    def _round(self, db: sqlite3.Connection, jobs: list[_Job]) -> None:
        now = self._clock.now()
        ticking = now.monotonic_ms >= self._next_tick_ms
        if ticking:
            self._next_tick_ms = now.monotonic_ms + round(TICK_S * 1000)
        if not jobs and not ticking:
            return
        outcomes: list[tuple[_Job, object]] = []
        changes = db.total_changes
        try:
            effects = self._transaction(db, jobs, outcomes, ticking=ticking)
        except sqlite3.Error as error:
            self._roll_back(db, jobs, error)
            return
        self._recovered()
        if db.total_changes > changes:
            self.commits += 1
            self.last_commit_ms = now.monotonic_ms
        self._tell(db, effects)
        for job, outcome in outcomes:
            _settle(job, outcome)

    def _tell(self, db: sqlite3.Connection, effects: Effects) -> None:
        try:
            self._after_commit(db, effects)
        except Exception:  # what is committed stays so; cabinets ask again for what they were not told
            log.exception("the world could not be told of a commit")

    def _transaction(
        self, db: sqlite3.Connection, jobs: list[_Job], outcomes: list[tuple[_Job, object]], *, ticking: bool
    ) -> Effects:
        now_ms, civil_ms = self._clock.now().utc_ms, self._clock.civil().utc_ms
        effects = Effects()
        db.execute("BEGIN IMMEDIATE")
        tick = _Job(self._tick, None)
        for job in [*jobs, tick]:
            if job is tick and not (ticking or effects.due):
                continue
            tx = Tx(db, now_ms, civil_ms, self._caches, watched=self._watched())
            outcomes.append((job, self._savepoint(tx, job)))
            effects.absorb(tx.effects)
        self._caches.trim()
        db.execute("COMMIT")
        return effects

    def _savepoint(self, tx: Tx, job: _Job) -> object:
        """Do one job; what it raises is its outcome, unless the database itself is at fault."""
        tx.db.execute("SAVEPOINT job")
        try:
            outcome = job.work(tx)
        except Exception as error:
            if _is_the_stores(error):
                raise
            tx.db.execute("ROLLBACK TO job")
            self._caches.clear()
            tx.effects = Effects()
            outcome = error
            if not isinstance(error, CentralError):
                log.exception("a job failed in the store", exc_info=error)
        tx.db.execute("RELEASE job")
        return outcome

    def _roll_back(self, db: sqlite3.Connection, jobs: list[_Job], error: sqlite3.Error) -> None:
        if db.in_transaction:
            db.execute("ROLLBACK")
        self._caches.clear()
        if not self.fault:
            log.error("the store does not take writes", why=str(error))
        self.fault = str(error)
        for job in jobs:
            _settle(job, StoreError(f"the store does not take writes: {error}"))

    def _recovered(self) -> None:
        if self.fault:
            log.info("the store takes writes again")
        self.fault = ""


_STORE_FAULTS = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
}


def _is_the_stores(error: Exception) -> bool:
    """Tell whether an error says something of the database rather than of one job."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _STORE_FAULTS


def _settle(job: _Job, outcome: object) -> None:
    if job.future is None:
        return
    try:
        if isinstance(outcome, BaseException):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
    except InvalidStateError:
        pass  # whoever asked has left


def connect(path: Path) -> sqlite3.Connection:
    """Open the writing connection: WAL, and durable at each commit."""
    db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_MS / 1000)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    refuse_read_only(db)
    db.execute("PRAGMA foreign_keys=ON")
    db.execute(f"PRAGMA journal_size_limit={WAL_LIMIT_BYTES}")
    db.execute("PRAGMA cache_size=-65536")
    return db
