"""Keys of radio devices and their last counters, on disk: in a file of its line's own, for its owner alone.

A key belongs to a piece of hardware, so rows go by address: a sensor that takes another's place in the settings does
not inherit its key.
"""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from drivers.damage import refuse_damaged
from drivers.database import open_database, transaction

_MIGRATIONS: Final = (
    """
    CREATE TABLE device (
        address TEXT PRIMARY KEY,
        key BLOB NOT NULL,
        counter INTEGER CHECK (counter BETWEEN 0 AND 4294967295)
    ) STRICT, WITHOUT ROWID
    """,
)


class Kept:
    """What is kept of one device. Its key is in no representation.

    Attributes:
        key: 16 bytes.
        counter: the last that was believed; None before the first.
    """

    __slots__ = ("counter", "key")

    def __init__(self, key: bytes, counter: int | None) -> None:
        self.key = key
        self.counter = counter


class KeyStore:
    """One line's keys. Every method blocks until it is on disk: call it in a thread, one at a time.

    Args:
        path: made at the first opening.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def load(self) -> dict[str, Kept]:
        """Open the file if it is not open, and return all that it holds, by address.

        Raises:
            sqlite3.Error, OSError, NewerSchemaError: if it cannot be opened.
        """
        rows = self._open().execute("SELECT address, key, counter FROM device").fetchall()
        return {address: Kept(key, counter) for address, key, counter in rows}

    def keep(self, address: str, key: bytes) -> None:
        """Keep a device's key; whatever counter it had is forgotten."""
        connection = self._open()
        with transaction(connection):
            connection.execute("INSERT OR REPLACE INTO device VALUES (?, ?, NULL)", (address, key))

    def advance(self, counters: Mapping[str, int]) -> None:
        """Keep the last counters of several devices, all or none."""
        connection = self._open()
        with transaction(connection):
            rows = [(counter, address) for address, counter in counters.items()]
            connection.executemany("UPDATE device SET counter = ? WHERE address = ?", rows)

    def close(self) -> None:
        """Close the file; it may not be open."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            refuse_damaged(self._path)
            self._connection = open_database(self._path, _MIGRATIONS)
        return self._connection
