"""The only connection of this process that writes, in the only thread that uses it.

Whatever waits goes into one transaction, each job in a savepoint of its own, so that a storm of messages
shares its commits and one bad message spoils nothing but itself. What must be told to the world is told after
the commit. SQLite before 3.51.3 can damage a database that two connections write or checkpoint at one
instant: readers therefore open it read-only, and other processes that write wait for their turn
(`central.store.lock`).
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from central.effects import Effects
from central.errors import CentralError, StoreError
from central.inbox import Inbox
from central.store.lock import WaitedTooLongError, WriteLock
from central.store.log import refuse_read_only
from protocols.clock import Clock

T = TypeVar("T")

JOBS_PER_COMMIT = 256
BUSY_TIMEOUT_MS = 5_000
TICK_S = 0.5
"""How often due work (commands to send again, expiries) is looked for."""
WAL_LIMIT_BYTES = 64 << 20
CHECKPOINT_PAGES = 12_000
"""After so much, 50 MB, the log is written back. Every series has its own page, so that a commit of a draining
backlog writes a page for nearly each reading; SQLite's usual 1,000 would write each of them twice at every commit."""

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
        shards: whose messages may be taken in; None where nobody else ingests.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        now_ms: int,
        civil_ms: int,
        caches: "Caches",
        *,
        watched: bool = False,
        shards: frozenset[int] | None = None,
    ) -> None:
        self.db = db
        self.effects = Effects()
        self.now_ms = now_ms
        self.civil_ms = civil_ms
        self.caches = caches
        self.watched = watched
        self.shards = shards


class Caches:
    """What would otherwise be asked of the database for every batch."""

    MAX_SERIES = 500_000

    def __init__(self) -> None:
        self.series: dict[tuple[str, str], int] = {}
        self.owners: dict[tuple[str, str], str] = {}
        self.spoken: set[tuple[str, str, int]] = set()

    def clear(self) -> None:
        """Forget everything."""
        self.series.clear()
        self.owners.clear()
        self.spoken.clear()

    def trim(self) -> None:
        """Forget everything once it is too much."""
        if len(self.series) > self.MAX_SERIES:
            self.clear()


class Sharing(Protocol):
    """What a round has to do because other processes write too."""

    def begin(self, db: sqlite3.Connection, caches: Caches) -> frozenset[int] | None:
        """Return whose messages may be taken in; forget what has become untrue."""

    def keep_changes(self, db: sqlite3.Connection, effects: Effects) -> None:
        """Write down, before the commit, what others have to tell of it."""

    def undone(self) -> None:
        """Take note that the round was rolled back."""


class Unshared:
    """No other process ingests."""

    def begin(self, _db: sqlite3.Connection, _caches: Caches) -> None:
        """Allow everything."""

    def keep_changes(self, _db: sqlite3.Connection, _effects: Effects) -> None:
        """Write nothing down."""

    def undone(self) -> None:
        """Take no note."""


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
        *,
        watched: Callable[[], bool] = lambda: False,
        sharing: Sharing | None = None,
    ) -> None:
        """Prepare a writer; `start` opens the database.

        Args:
            path: a database that `schema.prepare` has brought up to date.
            clock: where the rounds' time comes from.
            tick: work to be done about every `TICK_S`.
            after_commit: called in the writer's thread with what a round has to tell.
            watched: tells whether anybody looks at changes of latest values.
            sharing: what is to be done because other processes write too; None if none ingests.
        """
        self._path = path
        self._clock = clock
        self._tick = tick
        self._after_commit = after_commit
        self._watched = watched
        self._sharing: Sharing = sharing or Unshared()
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
        with closing(WriteLock(self._path)) as lock:
            db = self._open(lock)
            try:
                while db is not None and (not self._stopping.is_set() or self._inbox.depth()[0]):
                    self.step(db, lock, TICK_S)
            finally:
                if db is not None:
                    _close(db, lock)

    def _open(self, lock: WriteLock) -> sqlite3.Connection | None:
        """Open the database; None if we were told to stop and another process does not let us."""
        while True:
            try:
                with lock.held():
                    return connect(self._path)
            except WaitedTooLongError as error:
                self._give_back(self._inbox.take(JOBS_PER_COMMIT, 0.0), error)
                if self._stopping.is_set():
                    return None

    def step(self, db: sqlite3.Connection, lock: WriteLock, wait_s: float) -> None:
        """Wait at most `wait_s` for jobs and do them, in the only thread that uses `db` and `lock`."""
        self._round(db, lock, self._inbox.take(JOBS_PER_COMMIT, wait_s))

    def _round(self, db: sqlite3.Connection, lock: WriteLock, jobs: list[_Job]) -> None:
        now = self._clock.now()
        ticking = now.monotonic_ms >= self._next_tick_ms
        if ticking:
            self._next_tick_ms = now.monotonic_ms + round(TICK_S * 1000)
        if not jobs and not ticking:
            return
        outcomes: list[tuple[_Job, object]] = []
        changes = db.total_changes
        try:
            with lock.held(), self._undone_if_it_fails(db):
                effects = self._transaction(db, jobs, outcomes, ticking=ticking)
        except sqlite3.Error as error:
            self._give_back(jobs, error)
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
        shards = self._sharing.begin(db, self._caches)
        tick = _Job(self._tick, None)
        for job in [*jobs, tick]:
            if job is tick and not (ticking or effects.due):
                continue
            tx = Tx(db, now_ms, civil_ms, self._caches, watched=self._watched(), shards=shards)
            outcomes.append((job, self._savepoint(tx, job)))
            effects.absorb(tx.effects)
        self._caches.trim()
        self._sharing.keep_changes(db, effects)
        db.execute("COMMIT")
        return effects

    @contextmanager
    def _undone_if_it_fails(self, db: sqlite3.Connection) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            self._caches.clear()
            self._sharing.undone()
            raise

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

    def _give_back(self, jobs: list[_Job], error: sqlite3.Error) -> None:
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


def _close(db: sqlite3.Connection, lock: WriteLock) -> None:
    """Close the database: the last to do so makes a checkpoint, which must not meet another's write."""
    try:
        with lock.held():
            db.close()
    except WaitedTooLongError:  # whoever holds the lock has it open, so we are not the last
        db.close()


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
    db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    db.execute("PRAGMA cache_size=-65536")
    return db
