"""What a network server must never forget: keys, nonces, sessions, counters, and what it has sent.

Everything goes to disk before anything that depends on it is published or transmitted. Writes are taken in the
event loop and committed by one thread, all that wait in one transaction, so that a burst of uplinks costs one
sync of the disk. One that cannot be committed is told so, and the next is tried like any other.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from drivers.damage import refuse_damaged
from drivers.database import NewerSchemaError, open_database, transaction
from drivers.errors import LineDownError

MAX_WAITING: Final = 4096
"""Writes that may wait for the disk: half a minute of what eight channels can carry at all."""

Statement: TypeAlias = tuple[str, tuple[object, ...]]
Done: TypeAlias = Callable[[str], None]
"""Called in the event loop: with "" once it is on disk, or with why it is not."""

MIGRATIONS: Final = (
    """
    CREATE TABLE device (
        eui TEXT PRIMARY KEY, key BLOB NOT NULL, join_eui TEXT, join_nonce INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE nonce (
        eui TEXT NOT NULL REFERENCES device ON DELETE CASCADE, nonce INTEGER NOT NULL, PRIMARY KEY (eui, nonce)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE session (
        id INTEGER PRIMARY KEY, eui TEXT NOT NULL REFERENCES device ON DELETE CASCADE,
        dev_addr INTEGER NOT NULL, network BLOB NOT NULL, application BLOB NOT NULL,
        rx1_delay_s INTEGER NOT NULL, up INTEGER NOT NULL, down INTEGER NOT NULL, heard INTEGER NOT NULL,
        power_index INTEGER NOT NULL, nb_trans INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX session_eui ON session (eui);
    CREATE TABLE transmission (
        id INTEGER PRIMARY KEY, gateway TEXT NOT NULL, band TEXT NOT NULL, airtime_us INTEGER NOT NULL,
        boot TEXT NOT NULL, monotonic_ms INTEGER NOT NULL, utc_ms INTEGER
    ) STRICT;
    CREATE TABLE trial (id INTEGER PRIMARY KEY CHECK (id = 1), number INTEGER NOT NULL) STRICT;
    INSERT INTO trial VALUES (1, 0);
    """,
)

UP: Final = "UPDATE session SET up = ?, heard = 1 WHERE id = ?"
DOWN: Final = "UPDATE session SET down = ? WHERE id = ?"
LINK: Final = "UPDATE session SET power_index = ?, nb_trans = ? WHERE id = ?"
END_OLDER: Final = "DELETE FROM session WHERE eui = ? AND id < ?"
END_SESSION: Final = "DELETE FROM session WHERE id = ?"
BEGIN_SESSION: Final = "INSERT INTO session VALUES (?, ?, ?, ?, ?, ?, -1, 0, 0, 0, 1)"
USED_NONCE: Final = "INSERT OR IGNORE INTO nonce VALUES (?, ?)"
JOIN_NONCE: Final = "UPDATE device SET join_nonce = ? WHERE eui = ?"
ADMIT: Final = (
    "INSERT INTO device VALUES (?, ?, ?, 0) "
    "ON CONFLICT (eui) DO UPDATE SET key = excluded.key, join_eui = excluded.join_eui"
)
END_SESSIONS: Final = "DELETE FROM session WHERE eui = ?"
FORGET_NONCES: Final = "DELETE FROM nonce WHERE eui = ?"
SENT: Final = "INSERT INTO transmission VALUES (NULL, ?, ?, ?, ?, ?, ?)"
FORGET_SENT: Final = "DELETE FROM transmission WHERE boot = ? AND monotonic_ms < ?"
FORGET_ALL_SENT: Final = "DELETE FROM transmission"
TRIAL: Final[Statement] = ("UPDATE trial SET number = number + 1", ())


class DeviceRow(msgspec.Struct, frozen=True):
    """A device as it was kept; `key` is its AppKey, which no repr shows."""

    eui: str
    key: bytes
    join_eui: str | None
    join_nonce: int
    nonces: frozenset[int]

    def __repr__(self) -> str:
        """Leave the key out."""
        return f"DeviceRow({self.eui})"


class SessionRow(msgspec.Struct, frozen=True):
    """A session as it was kept, oldest first; its keys are shown by no repr."""

    id: int
    eui: str
    dev_addr: int
    network: bytes
    application: bytes
    rx1_delay_s: int
    up: int
    down: int
    heard: int
    power_index: int
    nb_trans: int

    def __repr__(self) -> str:
        """Leave the keys out."""
        return f"SessionRow({self.eui}, {self.dev_addr:08x})"


class SentRow(msgspec.Struct, frozen=True):
    """Something that was transmitted, or was about to be."""

    gateway: str
    band: str
    airtime_us: int
    boot: str
    monotonic_ms: int
    utc_ms: int | None


class Kept(msgspec.Struct, frozen=True):
    """Everything in the file."""

    devices: tuple[DeviceRow, ...]
    sessions: tuple[SessionRow, ...]
    sent: tuple[SentRow, ...]


class Store:
    """The file of one line.

    Args:
        path: made when it is first opened, readable by its owner alone.
        log: where it is told when the disk refuses, and when it takes again.

    Attributes:
        fault: why the last commit failed; "" when it did not.
        commits: how many transactions were committed.
    """

    def __init__(self, path: Path, log: Any) -> None:  # noqa: ANN401  structlog's bound loggers share no type
        self.fault = ""
        self.commits = 0
        self._path = path
        self._log = log
        self._connection: sqlite3.Connection | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: list[tuple[Sequence[Statement], Done]] = []
        self._commit: asyncio.Future[str] | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether writes are taken."""
        return self._connection is not None

    @property
    def is_full(self) -> bool:
        """Tell whether as much waits as may."""
        return len(self._waiting) >= MAX_WAITING

    async def open(self) -> Kept:
        """Open the file and return what is in it.

        Raises:
            LineDownError: if it cannot be opened. It is never begun anew: nonces that are forgotten can be
                used again by somebody else.
        """
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"lorawan-{self._path.stem}")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        except (sqlite3.Error, OSError, NewerSchemaError) as error:
            self._thread.shutdown(wait=False)
            self._thread = None
            raise LineDownError(f"{self._path} cannot be opened: {error}") from error

    def _open(self) -> Kept:
        refuse_damaged(self._path)
        connection = open_database(self._path, MIGRATIONS)
        try:
            kept = _kept(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return kept

    def write(self, statements: Sequence[Statement], done: Done) -> None:
        """Commit some statements soon, all or none, and call `done`; whoever is done is called in order."""
        self._waiting.append((statements, done))
        if self._commit is None:
            self._begin()

    async def write_now(self, statements: Sequence[Statement]) -> str:
        """Commit some statements; return "" once they are on disk, or why they are not."""
        written: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.write(statements, lambda fault: None if written.done() else written.set_result(fault))
        return await written

    def _begin(self) -> None:
        batch, self._waiting = self._waiting, []
        statements = [statement for write, _ in batch for statement in write]
        loop = asyncio.get_running_loop()
        self._commit = loop.run_in_executor(self._thread, self._write, statements)
        self._commit.add_done_callback(lambda commit: self._ended(commit.result(), batch))

    def _write(self, statements: Sequence[Statement]) -> str:
        if self._connection is None:
            return "the file is closed"
        try:
            with transaction(self._connection):
                for sql, values in statements:
                    self._connection.execute(sql, values)
        except sqlite3.Error as error:
            return str(error) or type(error).__name__
        return ""

    def _ended(self, fault: str, batch: Sequence[tuple[Sequence[Statement], Done]]) -> None:
        self._commit = None
        self.commits += not fault
        if fault and not self.fault:
            self._log.error("the disk refuses; nothing is passed on until it takes again", reason=fault)
        elif self.fault and not fault:
            self._log.info("the disk takes again")
        self.fault = fault
        for _, done in batch:
            try:
                done(fault)
            except Exception:  # noqa: BLE001  its neighbours are committed too
                self._log.exception("what follows a commit failed for a reason nobody thought of")
        if self._waiting and self._commit is None:
            self._begin()

    async def flush(self) -> None:
        """Wait until nothing waits."""
        while self._commit is not None:
            await asyncio.wait([self._commit])
            await asyncio.sleep(0)  # the callback of the commit runs in between

    async def close(self) -> None:
        """Commit what waits, and let the file go."""
        await self.flush()
        if self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)
            self._thread = None

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _kept(connection: sqlite3.Connection) -> Kept:
    """Read everything, cursor by cursor to its end: one that a traceback holds would keep SQLite from closing."""
    nonces: dict[str, set[int]] = {}
    for eui, nonce in connection.execute("SELECT eui, nonce FROM nonce").fetchall():
        nonces.setdefault(eui, set()).add(nonce)
    devices = connection.execute("SELECT eui, key, join_eui, join_nonce FROM device").fetchall()
    sessions = connection.execute("SELECT * FROM session ORDER BY id").fetchall()
    sent = connection.execute(
        "SELECT gateway, band, airtime_us, boot, monotonic_ms, utc_ms FROM transmission ORDER BY id"
    ).fetchall()
    return Kept(
        tuple(
            DeviceRow(eui, key, join_eui, join_nonce, frozenset(nonces.get(eui, ())))
            for eui, key, join_eui, join_nonce in devices
        ),
        tuple(SessionRow(*row) for row in sessions),
        tuple(SentRow(*row) for row in sent),
    )
