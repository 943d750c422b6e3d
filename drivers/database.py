"""How a cabinet opens its SQLite files: durable at each commit, numbered schema changes, all or none."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

WAL_KEPT_BYTES = 16 << 20
"""What the write-ahead log may keep of the disk after it had to grow."""
_CHUNK_BYTES = 1 << 20
SUFFIXES = ("", "-wal", "-shm")


class NewerSchemaError(Exception):
    """The file was written by a newer version of the agent."""


def open_database(path: Path, migrations: Sequence[str]) -> sqlite3.Connection:
    """Open a database for writing and bring its schema up to date.

    Args:
        path: made if missing. It and what SQLite puts beside it are for their owner alone, whatever the umask and
            whoever has copied them here.
        migrations: SQL scripts; the n-th takes a file from user_version n to n + 1.

    Raises:
        NewerSchemaError: if the file is ahead of `migrations`.
        sqlite3.Error, OSError: if it cannot be opened, is damaged, or is somebody else's.
    """
    _make_private(path)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        _prepare(connection, path, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def _make_private(path: Path) -> None:
    """Make the file if it is missing; SQLite gives what it makes beside it the same mode, and keeps what is there."""
    path.touch(mode=0o600)
    for suffix in SUFFIXES:
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.chmod(0o600)


def _write_log_again(connection: sqlite3.Connection, path: Path) -> None:
    """Write the log that an earlier run left once more, so that what is read of it is on the disk.

    A sync that failed has dropped pages that reading still shows, and no later sync writes them (Linux, fsync(2)).
    While a connection lives that does no harm: it writes those frames again. But recovery takes them for
    committed and goes on behind them: a power cut would leave a hole there, and every later commit would be lost.
    The folder is synced too, because SQLite, when it makes the log, does not look whether that succeeded. Nor does it
    say that a file which could not be opened for writing is open for reading only, and will never be written again.
    """
    connection.execute("BEGIN IMMEDIATE")  # nobody writes meanwhile
    try:
        # Taken back below; it fails on a file that is open for reading only.
        connection.execute("PRAGMA user_version=0")
        with path.with_name(path.name + "-wal").open("r+b") as log:
            while chunk := log.read(_CHUNK_BYTES):
                log.seek(-len(chunk), os.SEEK_CUR)
                log.write(chunk)
            log.flush()
            os.fsync(log.fileno())
    finally:
        connection.execute("ROLLBACK")
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _prepare(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    _write_log_again(connection, path)
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(f"PRAGMA journal_size_limit={WAL_KEPT_BYTES}")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise NewerSchemaError(
            f"{path} has schema {version}, this version of the agent knows {len(migrations)}; "
            "install the version that wrote it"
        )
    for number, script in enumerate(migrations[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{script};\nPRAGMA user_version={number};\nCOMMIT;")


def open_readonly(path: Path) -> sqlite3.Connection:
    """Open a database only to look: for the command line, when no agent runs."""
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True)


def is_readable(path: Path) -> bool:
    """Tell whether all of a database's bytes can be read; to SQLite a page that cannot be may look damaged."""
    try:
        for suffix in ("", "-wal"):
            with path.with_name(path.name + suffix).open("rb") as file:
                while file.read(_CHUNK_BYTES):
                    pass
    except OSError:
        return False
    return True


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what happens inside, or none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")  # where a full disk is noticed
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back on some errors
            connection.execute("ROLLBACK")
        raise
