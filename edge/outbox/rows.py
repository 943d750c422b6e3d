"""The outbox's tables: what a row says, and by what it is believed.

Each row carries a CRC of its other columns. A batch's bytes are in it by their hash, so that numbers, times and
counts can be checked without reading them.
"""

import secrets
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from drivers.damage import Replacement
from protocols.backhaul.codec import batch_hash, samples, unseal
from protocols.backhaul.messages import Batch, StreamHead
from protocols.errors import RemoteProtocolError
from protocols.model.device import StreamClass
from protocols.model.ids import CabinetId

MIGRATIONS: Final = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE stream (
        stream INTEGER PRIMARY KEY,
        next INTEGER NOT NULL,
        floor INTEGER NOT NULL,
        mark INTEGER NOT NULL,
        mark_hash TEXT NOT NULL,
        sealed_ms INTEGER NOT NULL,
        taken INTEGER NOT NULL
    );
    CREATE TABLE batch (
        stream INTEGER NOT NULL,
        number INTEGER NOT NULL,
        utc_ms INTEGER NOT NULL,
        readings INTEGER NOT NULL,
        hash TEXT NOT NULL,
        sealed BLOB NOT NULL,
        PRIMARY KEY (stream, number)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE epoch (place INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, crc INTEGER);
    INSERT INTO epoch (place, epoch) SELECT 1, value FROM meta WHERE key = 'epoch';
    DELETE FROM meta WHERE key = 'epoch';
    ALTER TABLE meta ADD COLUMN crc INTEGER;
    ALTER TABLE stream RENAME TO stream_before;
    CREATE TABLE stream (
        epoch INTEGER NOT NULL,
        stream INTEGER NOT NULL,
        next INTEGER NOT NULL,
        floor INTEGER NOT NULL,
        mark INTEGER NOT NULL,
        mark_hash TEXT NOT NULL,
        sealed_ms INTEGER NOT NULL,
        taken INTEGER NOT NULL,
        crc INTEGER,
        PRIMARY KEY (epoch, stream)
    ) WITHOUT ROWID;
    INSERT INTO stream SELECT (SELECT epoch FROM epoch), stream, next, floor, mark, mark_hash, sealed_ms, taken, NULL
        FROM stream_before;
    DROP TABLE stream_before;
    ALTER TABLE batch RENAME TO batch_before;
    CREATE TABLE batch (
        epoch INTEGER NOT NULL,
        stream INTEGER NOT NULL,
        number INTEGER NOT NULL,
        utc_ms INTEGER NOT NULL,
        readings INTEGER NOT NULL,
        hash TEXT NOT NULL,
        crc INTEGER,
        sealed BLOB NOT NULL,
        PRIMARY KEY (epoch, stream, number)
    ) WITHOUT ROWID;
    INSERT INTO batch SELECT (SELECT epoch FROM epoch), stream, number, utc_ms, readings, hash, NULL, sealed
        FROM batch_before;
    DROP TABLE batch_before;
    """,
)

_CHECKED: Final = {
    "meta": "key, value",
    "epoch": "place, epoch",
    "stream": "epoch, stream, next, floor, mark, mark_hash, sealed_ms, taken",
    "batch": "epoch, stream, number, utc_ms, readings, hash",
}
"""The columns that a row's CRC is of, by table."""
_ENCODER: Final = msgspec.msgpack.Encoder()


class StreamState(msgspec.Struct):
    """Where one stream of an epoch is.

    Attributes:
        next: the number of the next batch.
        floor: the lowest number that can still be sent.
        mark: up to where the centre has it.
        mark_hash: of that batch, "" if unknown.
        sealed_ms: UTC milliseconds before which all that it took was sealed with the last commit; 0 before the first.
        taken: readings that were ever committed to this file, whatever became of them since.
    """

    epoch: int
    stream: StreamClass
    next: int = 1
    floor: int = 1
    mark: int = 0
    mark_hash: str = ""
    sealed_ms: int = 0
    taken: int = 0

    def head(self) -> StreamHead:
        """Return it as a hello says it."""
        return StreamHead(self.stream, self.next, self.floor, self.mark, self.mark_hash)


Epochs: TypeAlias = Mapping[int, Mapping[StreamClass, StreamState]]
"""Where each stream of each epoch is, the oldest epoch first."""


class BatchRow(msgspec.Struct, frozen=True):
    """A row of `batch` as it stands, true or not."""

    number: int
    utc_ms: int
    readings: int
    hash: str
    crc: int
    sealed: bytes


class Weight(msgspec.Struct, frozen=True):
    """What waits, in sum. `oldest_ms` is None if nothing does."""

    batches: int
    readings: int
    bytes: int
    oldest_ms: int | None


class WaitingBatch(msgspec.Struct, frozen=True):
    """A batch that waits for the centre."""

    stream: str
    number: int
    utc_ms: int
    readings: int
    bytes: int


class Salvaged(msgspec.Struct, frozen=True):
    """What became of a damaged outbox.

    Attributes:
        at_ms: UTC milliseconds.
        found: what was wrong with it.
        batches: that came back.
        readings: in them.
        lost: batches between those that came back of which nothing but their number is known.
        kept: where the damaged file is kept; "" if there was no room, or somebody has removed it.
    """

    at_ms: int
    found: str
    batches: int
    readings: int
    lost: int
    kept: str = ""


Draw: TypeAlias = Callable[[int], int]
"""Gives so many random bits."""


def random_epoch(draw: Draw = secrets.randbits) -> int:
    """Return a new epoch: random, so that no two cards share one, and below 2^53 for every JSON reader."""
    return draw(52) | 1


def check_of(*columns: object) -> int:
    """Return the CRC of a row's columns, as `_CHECKED` lists them."""
    return zlib.crc32(_ENCODER.encode(columns))


def batch_row(columns: Sequence[Any]) -> BatchRow:
    """Return a row as it came from the file; what is not even of its column's type is as good as nothing."""
    number, utc_ms, readings, digest, crc, sealed = columns
    return BatchRow(
        number if isinstance(number, int) else 0,
        utc_ms if isinstance(utc_ms, int) else 0,
        readings if isinstance(readings, int) else 0,
        digest if isinstance(digest, str) else "",
        crc if isinstance(crc, int) else -1,
        sealed if isinstance(sealed, bytes) else b"",
    )


def checked_batch(epoch: int, stream: StreamClass, number: int, row: BatchRow) -> bool:
    """Tell whether a batch's columns are what was written."""
    return row.crc == check_of(epoch, int(stream), number, row.utc_ms, row.readings, row.hash)


def believed(
    row: BatchRow, cabinet: CabinetId, epoch: int, stream: StreamClass
) -> tuple[BatchRow, Batch] | None:
    """Return a row whose bytes fit their hash and say of themselves what the row says, and what they hold.

    Columns that do not fit their CRC are told anew from the batch.
    """
    if batch_hash(row.sealed) != row.hash:
        return None
    try:
        batch = unseal(row.sealed)
    except RemoteProtocolError:
        return None
    if (batch.cabinet, batch.epoch, batch.stream, batch.number) != (cabinet, epoch, stream, row.number):
        return None
    return (row if checked_batch(epoch, stream, row.number, row) else _retold(row, batch)), batch


def _retold(row: BatchRow, batch: Batch) -> BatchRow:
    readings = sum(len(one.values) for one in samples(batch))
    offset_ms = batch.utc_offset_ms
    utc_ms = 0 if offset_ms is None else batch.base_monotonic_ms + offset_ms
    return BatchRow(row.number, utc_ms, readings, row.hash, 0, row.sealed)


def is_empty(batch: Batch) -> bool:
    """Tell whether a batch only holds the place of one that is lost: none is sealed with nothing in it."""
    return not batch.columns.layout and not batch.events


def write_batch(
    db: sqlite3.Connection, batch: Batch, sealed: bytes, *, utc_ms: int, readings: int, how: str = "REPLACE"
) -> None:
    """Write a sealed batch into its place; `how` is what is done if there is one: REPLACE or IGNORE."""
    columns = (batch.epoch, int(batch.stream), batch.number, utc_ms, readings, batch_hash(sealed))
    db.execute(
        f"INSERT OR {how} INTO batch (epoch, stream, number, utc_ms, readings, hash, crc, sealed)"  # noqa: S608
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*columns, check_of(*columns), sealed),
    )


def read_batch(db: sqlite3.Connection, epoch: int, stream: StreamClass, number: int) -> BatchRow | None:
    """Return a batch's row, if it is there."""
    row = db.execute(
        "SELECT number, utc_ms, readings, hash, crc, sealed FROM batch"
        " WHERE epoch = ? AND stream = ? AND number = ?",
        (epoch, stream, number),
    ).fetchone()
    return None if row is None else batch_row(row)


def write_stream(db: sqlite3.Connection, state: StreamState) -> None:
    """Write where a stream is."""
    columns = msgspec.structs.astuple(state)
    db.execute(
        "INSERT OR REPLACE INTO stream VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*columns, check_of(*columns))
    )


def write_epoch(db: sqlite3.Connection, place: int, epoch: int) -> None:
    """Write an epoch into its place: the lowest is sent first, the highest is sealed in."""
    db.execute("INSERT OR REPLACE INTO epoch VALUES (?, ?, ?)", (place, epoch, check_of(place, epoch)))


def write_meta(db: sqlite3.Connection, key: str, value: str | int) -> None:
    """Remember one thing of the file."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, value, check_of(key, value)))


def read_meta(db: sqlite3.Connection, key: str) -> str | int | None:
    """Return what was remembered, None if it never was."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]


def read_epochs(db: sqlite3.Connection) -> dict[int, dict[StreamClass, StreamState]]:
    """Return where each stream of each epoch is, the oldest epoch first."""
    epochs: dict[int, dict[StreamClass, StreamState]] = {
        epoch: {} for (epoch,) in db.execute("SELECT epoch FROM epoch ORDER BY place")
    }
    rows = db.execute(
        "SELECT epoch, stream, next, floor, mark, mark_hash, sealed_ms, taken FROM stream ORDER BY epoch, stream"
    )
    for epoch, stream, *rest in rows:
        epochs[epoch][StreamClass(stream)] = StreamState(epoch, StreamClass(stream), *rest)
    return epochs


def read_salvaged(db: sqlite3.Connection) -> Salvaged | None:
    """Return what became of a damaged file before this one, if there was one."""
    text = read_meta(db, "salvaged")
    return msgspec.json.decode(text, type=Salvaged) if isinstance(text, str) else None


def weigh(db: sqlite3.Connection) -> Weight:
    """Return what waits in an outbox, in sum."""
    row = db.execute(
        "SELECT count(*), coalesce(sum(readings), 0), coalesce(sum(length(sealed)), 0), min(utc_ms)"
        " FROM batch"
    ).fetchone()
    return Weight(*row)


def pages(db: sqlite3.Connection) -> tuple[int, int]:
    """Return how many pages a database has, and how many of them are free."""
    return db.execute("PRAGMA page_count").fetchone()[0], db.execute("PRAGMA freelist_count").fetchone()[0]


def used_bytes(db: sqlite3.Connection) -> int:
    """Return what a database takes, without what is free in it."""
    all_pages, free_pages = pages(db)
    return (all_pages - free_pages) * page_bytes(db)


def page_bytes(db: sqlite3.Connection) -> int:
    """Return the size of a database's pages."""
    return int(db.execute("PRAGMA page_size").fetchone()[0])


def weigh_one(db: sqlite3.Connection, epoch: int, stream: StreamClass, number: int) -> Weight:
    """Return what a batch adds to the sum, if it is there."""
    row = db.execute(
        "SELECT count(*), coalesce(sum(readings), 0), coalesce(sum(length(sealed)), 0), min(utc_ms)"
        " FROM batch WHERE epoch = ? AND stream = ? AND number = ?",
        (epoch, stream, number),
    ).fetchone()
    return Weight(*row)


def oldest_ms(db: sqlite3.Connection, epochs: Epochs) -> int | None:
    """Return when the oldest batch that waits was sealed; of each stream that is its first."""
    return min(_ends_ms(db, epochs, "ASC"), default=None)


def newest_ms(db: sqlite3.Connection, epochs: Epochs) -> int:
    """Return when the last batch that waits was committed, as it was told then; 0 if none waits."""
    return max(_ends_ms(db, epochs, "DESC"), default=0)


def _ends_ms(db: sqlite3.Connection, epochs: Epochs, order: str) -> Iterator[int]:
    """Yield when the batch at one end of each stream was sealed."""
    for epoch, states in epochs.items():
        for stream in states:
            row = db.execute(
                f"SELECT utc_ms FROM batch WHERE epoch = ? AND stream = ? ORDER BY number {order} LIMIT 1",  # noqa: S608
                (epoch, stream),
            ).fetchone()
            if row:
                yield int(row[0])


def sealed_around_ms(
    db: sqlite3.Connection, epoch: int, stream: StreamClass, number: int
) -> tuple[int | None, int | None]:
    """Return when the batches before and after one were sealed, None where there is none."""
    before, after = (
        db.execute(
            f"SELECT utc_ms FROM batch WHERE epoch = ? AND stream = ? AND number {side} LIMIT 1",  # noqa: S608
            (epoch, stream, number),
        ).fetchone()
        for side in ("< ? ORDER BY number DESC", "> ? ORDER BY number")
    )
    return before and before[0], after and after[0]


def oldest_batches(db: sqlite3.Connection, limit: int) -> tuple[WaitingBatch, ...]:
    """Return the oldest batches that wait in an outbox."""
    rows = db.execute(
        "SELECT stream, number, utc_ms, readings, length(sealed) FROM batch ORDER BY utc_ms LIMIT ?", (limit,)
    )
    return tuple(WaitingBatch(StreamClass(row[0]).name.lower(), *row[1:]) for row in rows)


def kept_now(salvaged: Salvaged | None, path: Path) -> Salvaged | None:
    """Return it with where the damaged file is kept, if nobody has removed it."""
    aside = Replacement(path).aside
    kept = str(aside) if aside.exists() else ""
    return None if salvaged is None else msgspec.structs.replace(salvaged, kept=kept)


def write_missing_checks(db: sqlite3.Connection) -> None:
    """Give each row that an earlier version wrote its CRC."""
    if db.execute("SELECT 1 FROM stream WHERE crc IS NULL").fetchone() is None:
        return
    db.create_function("check_of", -1, check_of, deterministic=True)
    for table, columns in _CHECKED.items():
        db.execute(f"UPDATE {table} SET crc = check_of({columns}) WHERE crc IS NULL")  # noqa: S608  our own names


def fault_of(db: sqlite3.Connection) -> str:
    """Return what is wrong with a file that SQLite finds sound, "" if nothing is.

    Each row but the batches' is checked; of these it is checked that all are there. Their own checks are made when
    they are read, because they may be many.
    """
    if db.execute("PRAGMA user_version").fetchone()[0] != len(MIGRATIONS):
        return ""  # of another version: it has no checks
    for table in ("meta", "epoch", "stream"):
        for *columns, crc in db.execute(f"SELECT {_CHECKED[table]}, crc FROM {table}"):  # noqa: S608  our own names
            if crc is not None and crc != check_of(*columns):
                return f"a row of {table} is not what was written"
    try:
        return _fault_of_numbers(db, read_epochs(db))
    except (KeyError, ValueError):  # a stream of an epoch that is not listed, or none that we know
        return "streams and epochs do not fit together"


def _fault_of_numbers(db: sqlite3.Connection, epochs: Mapping[int, Mapping[StreamClass, StreamState]]) -> str:
    there = {
        (epoch, stream): tuple(rest)
        for epoch, stream, *rest in db.execute(
            "SELECT epoch, stream, count(*), min(number), max(number) FROM batch GROUP BY epoch, stream"
        )
    }
    for epoch, states in epochs.items():
        for stream, state in states.items():
            count = state.next - state.floor
            expected = (count, state.floor, state.next - 1) if count else None
            if there.pop((epoch, stream), None) != expected:
                return f"batches of stream {stream.name.lower()} are not those that should be there"
    return "batches of a stream that is not listed" if there else ""
