"""One process at a time writes: a lock beside the database, held for each transaction and its checkpoint.

SQLite before 3.51.3 can damage a database that two connections write or checkpoint at one instant; its own
locks do not prevent it. Whoever waits stands in a queue of one: a process that has just written cannot write
again before the one that waits.
"""

import fcntl
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

WAIT_S = 5.0
"""A process that is stopped in the middle of a transaction holds the others up; they say so after this."""
_PAUSE_S = 0.0005


class WaitedTooLongError(sqlite3.OperationalError):
    """Another process has been writing for longer than `WAIT_S`."""


class WriteLock:
    """The right to write a database, for one process at a time. To be used by one thread."""

    def __init__(self, db: Path) -> None:
        """Open the lock of the database at `db`; OSError if that cannot be."""
        self._turn = _open(db.with_name(f"{db.name}.turn"))
        self._write = _open(db.with_name(f"{db.name}.write"))
        self._pause = threading.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock; nobody else writes meanwhile.

        Raises:
            WaitedTooLongError: if another process does not let go of it.
        """
        self._take(self._turn)
        try:
            self._take(self._write)
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._write, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the files; what is held is let go."""
        self._turn.close()
        self._write.close()

    def _take(self, lock: IO[str]) -> None:
        for _ in range(round(WAIT_S / _PAUSE_S)):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._pause.wait(_PAUSE_S)
            else:
                return
        raise WaitedTooLongError("another process has been writing for too long")


def _open(path: Path) -> IO[str]:
    path.touch(mode=0o600)
    return path.open("a", encoding="utf-8")
