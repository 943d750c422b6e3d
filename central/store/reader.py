"""Connections that only read, in threads of their own, so that no question blocks the loop."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from central.errors import StoreError

T = TypeVar("T")
READERS = 4


class Reader:
    """Answers questions about the last committed state."""

    def __init__(self, path: Path) -> None:
        self._uri = f"{path.absolute().as_uri()}?mode=ro"
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")

    async def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `question` finds, all of it in one moment of the store.

        Raises:
            StoreError: if the database cannot be read.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, question)

    def close(self) -> None:
        """Wait for open questions and close the connections."""
        self._pool.shutdown()
        for db in self._opened:
            db.close()

    def _answer(self, question: Callable[[sqlite3.Connection], T]) -> T:
        try:
            db = self._connection()
            db.execute("BEGIN")
            try:
                return question(db)
            finally:
                db.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            raise StoreError(f"the store cannot be read: {error}") from error

    def _connection(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = sqlite3.connect(self._uri, uri=True, isolation_level=None, check_same_thread=False)
            self._local.db = db
            self._opened.append(db)
        return db
