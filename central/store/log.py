"""The write-ahead log of an earlier run, made durable before anybody builds upon it."""

import os
import sqlite3
from pathlib import Path

CHUNK_BYTES = 1 << 20


def write_again(connection: sqlite3.Connection, path: Path) -> None:
    """Write the log that an earlier run left once more, so that what is read of it is on the disk.

    A sync that failed has dropped pages that reading still shows, and no later sync writes them (Linux, fsync(2)).
    While a connection lives that does no harm: it writes those frames again. But recovery takes them for
    committed and goes on behind them: a power cut would leave a hole there, and every later commit would be lost.
    The folder is synced too, because SQLite, when it makes the log, does not look whether that succeeded.
    """
    refuse_read_only(connection)
    connection.execute("BEGIN IMMEDIATE")  # nobody writes meanwhile
    try:
        with path.with_name(path.name + "-wal").open("r+b") as log:
            while chunk := log.read(CHUNK_BYTES):
                log.seek(-len(chunk), os.SEEK_CUR)
                log.write(chunk)
            log.flush()
            os.fsync(log.fileno())
        folder = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        connection.execute("ROLLBACK")


def refuse_read_only(connection: sqlite3.Connection) -> None:
    """See that a database can be written to: one that could not be opened for it is silently open for reading only.

    Raises:
        sqlite3.OperationalError: if it cannot.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("PRAGMA user_version=0")  # taken back
    finally:
        connection.execute("ROLLBACK")
