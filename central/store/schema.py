"""The schema, as numbered steps that are applied all or none.

Imported at start only: the hot path goes through `sqlite3` alone.

A row of `reading` is found by its series and time, and is what it is by (cabinet, epoch, stream, number,
index): its batch stands for the first four. Values are stored natively; SQLite has no boolean, so `boolean`
says that a 0 or 1 is one. `stamped` is 1 where the cabinet had no clock and the time is the centre's, 2 where a
later clock event gave it. While such an event may still come, `monotonic_ms` says when it was taken.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from central.clock import LAST_MS
from central.errors import StartError
from central.store import log
from protocols.backhaul.topics import SHARDS
from protocols.clock import EARLIEST_PLAUSIBLE_MS
from protocols.model.priority import ENDED

CHECKED_BYTES = 256 << 20
"""A larger database is not walked at each start: it would take longer than the start may."""

LOCK_WAIT_S = 2.0

migrations = Migrations("luciole-central")

_FIRST = """
CREATE TABLE centre (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE cabinet (
    id TEXT PRIMARY KEY,
    first_seen_ms INTEGER NOT NULL,
    online INTEGER NOT NULL DEFAULT 0,
    presence_ms INTEGER,
    hello_ms INTEGER,
    boot TEXT NOT NULL DEFAULT '',
    boot_utc_offset_ms INTEGER,
    epoch INTEGER,
    agent_version TEXT NOT NULL DEFAULT '',
    sqlite_version TEXT NOT NULL DEFAULT '',
    last_end TEXT,
    started_ms INTEGER,
    clock INTEGER,
    keys TEXT NOT NULL DEFAULT '[]'
) WITHOUT ROWID;

CREATE TABLE device (
    id TEXT PRIMARY KEY,
    cabinet TEXT NOT NULL,
    listed INTEGER NOT NULL,
    kind TEXT,
    line TEXT NOT NULL DEFAULT '',
    address TEXT NOT NULL DEFAULT '',
    stream INTEGER NOT NULL DEFAULT 2,
    groups TEXT NOT NULL DEFAULT '[]',
    commune TEXT NOT NULL DEFAULT '',
    points TEXT NOT NULL DEFAULT '[]'
) WITHOUT ROWID;
CREATE INDEX device_by_cabinet ON device (cabinet, id);
CREATE TABLE device_group (
    name TEXT NOT NULL, device TEXT NOT NULL, PRIMARY KEY (name, device)
) WITHOUT ROWID;
CREATE INDEX device_group_by_device ON device_group (device);

CREATE TABLE refused_device (
    cabinet TEXT NOT NULL,
    device TEXT NOT NULL,
    owner TEXT NOT NULL,
    readings INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    PRIMARY KEY (cabinet, device)
) WITHOUT ROWID;

CREATE TABLE stream (
    id INTEGER PRIMARY KEY,
    cabinet TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    mark INTEGER NOT NULL DEFAULT 0,
    hash TEXT NOT NULL DEFAULT '',
    floor INTEGER NOT NULL DEFAULT 1,
    next INTEGER NOT NULL DEFAULT 1,
    readings INTEGER NOT NULL DEFAULT 0,
    last_utc_ms INTEGER,
    received_ms INTEGER NOT NULL,
    UNIQUE (cabinet, epoch, stream)
);

CREATE TABLE batch (
    id INTEGER PRIMARY KEY,
    stream_id INTEGER NOT NULL REFERENCES stream (id),
    number INTEGER NOT NULL,
    hash TEXT NOT NULL,
    boot TEXT NOT NULL,
    readings INTEGER NOT NULL,
    received_ms INTEGER NOT NULL,
    UNIQUE (stream_id, number)
);
CREATE TABLE unreadable_batch (
    batch_id INTEGER PRIMARY KEY REFERENCES batch (id), why TEXT NOT NULL, sealed BLOB NOT NULL
);

CREATE TABLE series (
    id INTEGER PRIMARY KEY, device TEXT NOT NULL, point TEXT NOT NULL, UNIQUE (device, point)
);

CREATE TABLE reading (
    series_id INTEGER NOT NULL,
    utc_ms INTEGER NOT NULL,
    batch_id INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    value,
    boolean INTEGER NOT NULL,
    quality INTEGER NOT NULL,
    reason TEXT,
    clock INTEGER NOT NULL,
    stamped INTEGER NOT NULL,
    PRIMARY KEY (series_id, utc_ms, batch_id, idx)
) WITHOUT ROWID;

CREATE TABLE latest (
    series_id INTEGER PRIMARY KEY,
    stream_id INTEGER NOT NULL,
    batch_id INTEGER NOT NULL,
    utc_ms INTEGER NOT NULL,
    value,
    boolean INTEGER NOT NULL,
    quality INTEGER NOT NULL,
    reason TEXT,
    clock INTEGER NOT NULL,
    stamped INTEGER NOT NULL
);

CREATE TABLE gap (
    id INTEGER PRIMARY KEY,
    cabinet TEXT NOT NULL,
    stream INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    cause TEXT NOT NULL,
    from_ms INTEGER,
    to_ms INTEGER,
    count INTEGER,
    reported INTEGER NOT NULL
);
CREATE INDEX gap_by_stream ON gap (cabinet, stream, epoch, first);

CREATE TABLE alarm (
    id INTEGER PRIMARY KEY,
    cabinet TEXT NOT NULL,
    device TEXT NOT NULL,
    type TEXT NOT NULL,
    raised_ms INTEGER NOT NULL,
    repeated_ms INTEGER NOT NULL,
    cleared_ms INTEGER,
    acknowledged_ms INTEGER,
    acknowledged_by TEXT,
    text TEXT NOT NULL
);
CREATE UNIQUE INDEX alarm_lasting ON alarm (cabinet, device, type) WHERE cleared_ms IS NULL;
CREATE INDEX alarm_by_device ON alarm (cabinet, device, type, repeated_ms);

CREATE TABLE control_program (
    id TEXT PRIMARY KEY, document TEXT NOT NULL, updated_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE calendar (
    id TEXT PRIMARY KEY, document TEXT NOT NULL, updated_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE lighting (
    cabinet TEXT PRIMARY KEY, document TEXT NOT NULL, updated_ms INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE policy (
    cabinet TEXT NOT NULL,
    kind TEXT NOT NULL,
    version INTEGER NOT NULL,
    hash TEXT NOT NULL,
    body BLOB NOT NULL,
    key TEXT NOT NULL,
    signature BLOB NOT NULL,
    not_before_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    sends INTEGER NOT NULL DEFAULT 0,
    send_ms INTEGER,
    PRIMARY KEY (cabinet, kind, version)
) WITHOUT ROWID;
CREATE TABLE policy_in_force (
    cabinet TEXT NOT NULL, kind TEXT NOT NULL, version INTEGER NOT NULL, hash TEXT NOT NULL,
    PRIMARY KEY (cabinet, kind)
) WITHOUT ROWID;
CREATE TABLE policy_report (
    id INTEGER PRIMARY KEY,
    cabinet TEXT NOT NULL,
    kind TEXT NOT NULL,
    version INTEGER NOT NULL,
    hash TEXT NOT NULL,
    accepted INTEGER NOT NULL,
    reasons TEXT NOT NULL,
    at_ms INTEGER NOT NULL
);
CREATE INDEX policy_report_by_version ON policy_report (cabinet, kind, version);

CREATE TABLE override (
    id TEXT PRIMARY KEY,
    level INTEGER NOT NULL,
    until_ms INTEGER NOT NULL,
    ramp_s REAL NOT NULL,
    issuer TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    released_ms INTEGER
) WITHOUT ROWID;

CREATE TABLE command (
    id TEXT PRIMARY KEY,
    cabinet TEXT NOT NULL,
    device TEXT NOT NULL,
    point TEXT NOT NULL,
    value TEXT NOT NULL,
    issuer TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    not_before_ms INTEGER NOT NULL,
    until_ms INTEGER,
    ramp_s REAL NOT NULL,
    ours INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    state_ms INTEGER NOT NULL,
    assumed TEXT,
    answered INTEGER NOT NULL,
    sends INTEGER NOT NULL,
    send_ms INTEGER,
    override TEXT,
    release INTEGER NOT NULL DEFAULT 0,
    request TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX command_to_send ON command (send_ms) WHERE send_ms IS NOT NULL;
CREATE INDEX command_by_point ON command (device, point, created_ms);
CREATE INDEX command_by_time ON command (created_ms, id);
CREATE INDEX command_by_cabinet ON command (cabinet, created_ms);
CREATE INDEX command_by_override ON command (override) WHERE override IS NOT NULL;
"""


@migrations()  # type: ignore[untyped-decorator]  # sqlite-utils is not followed
def m001_first(db: Database) -> None:
    """Lay out everything that a first street needs."""
    run(db, _FIRST)


_PRIORITY = """
CREATE TABLE priority (
    cabinet TEXT PRIMARY KEY, document TEXT NOT NULL, updated_ms INTEGER NOT NULL
) WITHOUT ROWID;

ALTER TABLE policy ADD COLUMN lease_until_ms INTEGER;
ALTER TABLE policy ADD COLUMN lease_s REAL;
ALTER TABLE policy ADD COLUMN renew_ms INTEGER;
CREATE INDEX policy_to_send ON policy (send_ms) WHERE send_ms IS NOT NULL;
CREATE INDEX policy_to_renew ON policy (renew_ms) WHERE renew_ms IS NOT NULL;

CREATE TABLE priority_request (
    id INTEGER PRIMARY KEY,
    cabinet TEXT NOT NULL,
    request TEXT NOT NULL,
    turn INTEGER NOT NULL,
    first_ms INTEGER NOT NULL DEFAULT 0,
    asked_ms INTEGER,
    changed_ms INTEGER NOT NULL DEFAULT 0,
    activated_ms INTEGER,
    junction TEXT NOT NULL DEFAULT '',
    rule TEXT NOT NULL DEFAULT '',
    approach TEXT NOT NULL DEFAULT '',
    signal_group TEXT NOT NULL DEFAULT '',
    vehicle TEXT NOT NULL DEFAULT '',
    source TEXT NOT NULL DEFAULT '',
    level INTEGER NOT NULL DEFAULT 0,
    shadow INTEGER NOT NULL DEFAULT 0,
    state TEXT,
    reason TEXT NOT NULL DEFAULT '',
    extension_s INTEGER,
    reduction_s INTEGER,
    contradiction TEXT NOT NULL DEFAULT '',
    UNIQUE (cabinet, request),
    UNIQUE (cabinet, turn)
);
CREATE INDEX priority_request_by_time ON priority_request (first_ms, id);
CREATE INDEX priority_request_by_cabinet ON priority_request (cabinet, first_ms, id);
CREATE INDEX priority_request_by_junction ON priority_request (junction, first_ms, id);
CREATE TABLE priority_step (
    request_id INTEGER NOT NULL REFERENCES priority_request (id) ON DELETE CASCADE,
    event TEXT NOT NULL,
    PRIMARY KEY (request_id, event)
) WITHOUT ROWID;
"""


@migrations()  # type: ignore[untyped-decorator]  # sqlite-utils is not followed
def m002_priority(db: Database) -> None:
    """Make room for priority: drafts, leases, and what became of each request.

    `turn` counts a cabinet's requests as they came, so that the oldest give way. `event` is a step as the
    cabinet told it, in JSON: the same step told twice is the same row.
    """
    run(db, _PRIORITY)


_OVER = f"""
ALTER TABLE priority_request ADD COLUMN over INTEGER NOT NULL DEFAULT 0;
UPDATE priority_request SET over = 1 WHERE state IN ({", ".join(f"'{state.value}'" for state in sorted(ENDED))})
"""  # noqa: S608  words of ours


@migrations()  # type: ignore[untyped-decorator]  # sqlite-utils is not followed
def m003_over(db: Database) -> None:
    """Note of each request whether its cabinet holds it no longer; one that has ended it does not."""
    run(db, _OVER)


_CLOCK = """
CREATE TABLE boot (
    id INTEGER PRIMARY KEY,
    cabinet TEXT NOT NULL,
    boot TEXT NOT NULL,
    arrival_offset_ms INTEGER,
    told_offset_ms INTEGER,
    offset_ms INTEGER,
    clock INTEGER,
    tied_ms INTEGER,
    restamp_after INTEGER,
    UNIQUE (cabinet, boot)
);
CREATE INDEX boot_to_restamp ON boot (id) WHERE restamp_after IS NOT NULL;
INSERT INTO boot (cabinet, boot, arrival_offset_ms)
    SELECT id, boot, boot_utc_offset_ms FROM cabinet WHERE boot != '';

ALTER TABLE cabinet ADD COLUMN restamps INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batch ADD COLUMN clock INTEGER;
CREATE INDEX batch_before_clock ON batch (boot, id) WHERE clock < 2;
ALTER TABLE reading ADD COLUMN monotonic_ms INTEGER;
CREATE INDEX reading_provisional ON reading (batch_id) WHERE monotonic_ms IS NOT NULL;
"""


@migrations()  # type: ignore[untyped-decorator]  # sqlite-utils is not followed
def m004_clock(db: Database) -> None:
    """Make room for what ties a boot's monotonic time to UTC, and for readings whose time is provisional.

    `restamp_after` is the batch up to which a boot's readings are re-stamped; NULL where nothing waits for it.
    `restamps` counts the steps in which readings of a cabinet have moved.
    """
    run(db, _CLOCK)


_SNAPSHOT = """
CREATE TABLE snapshot (
    series_id INTEGER PRIMARY KEY,
    cabinet TEXT NOT NULL,
    boot TEXT NOT NULL,
    monotonic_ms INTEGER NOT NULL,
    utc_ms INTEGER NOT NULL,
    value,
    boolean INTEGER NOT NULL,
    quality INTEGER NOT NULL,
    reason TEXT,
    clock INTEGER NOT NULL,
    stamped INTEGER NOT NULL
);
ALTER TABLE latest ADD COLUMN monotonic_ms INTEGER;
CREATE VIEW shown AS
    SELECT series.id AS series_id, series.device, series.point,
        now.series_id IS NOT NULL AS snapshot,
        iif(now.series_id IS NULL, latest.batch_id, NULL) AS batch_id,
        iif(now.series_id IS NULL, latest.utc_ms, now.utc_ms) AS utc_ms,
        iif(now.series_id IS NULL, latest.value, now.value) AS value,
        iif(now.series_id IS NULL, latest.boolean, now.boolean) AS boolean,
        iif(now.series_id IS NULL, latest.quality, now.quality) AS quality,
        iif(now.series_id IS NULL, latest.reason, now.reason) AS reason,
        iif(now.series_id IS NULL, latest.clock, now.clock) AS clock,
        iif(now.series_id IS NULL, latest.stamped, now.stamped) AS stamped
    FROM series LEFT JOIN latest ON latest.series_id = series.id
    LEFT JOIN snapshot AS now ON now.series_id = series.id
    WHERE latest.series_id IS NOT NULL OR now.series_id IS NOT NULL;
"""


@migrations()  # type: ignore[untyped-decorator]  # sqlite-utils is not followed
def m005_snapshot(db: Database) -> None:
    """Make room for the present that cabinets tell beside their backlog, and show it where it is the newer.

    `shown` is what is shown as latest: a row of `snapshot` is there only while it is newer than that of `latest`.
    """
    run(db, _SNAPSHOT)


_GAPS = f"""
ALTER TABLE gap ADD COLUMN learnt_ms INTEGER;
ALTER TABLE gap ADD COLUMN said_from_ms INTEGER;
ALTER TABLE gap ADD COLUMN said_to_ms INTEGER;
UPDATE gap SET from_ms = NULL WHERE from_ms < {EARLIEST_PLAUSIBLE_MS} OR from_ms > to_ms;
UPDATE gap SET to_ms = {LAST_MS} WHERE to_ms IS NULL;
CREATE INDEX gap_by_time ON gap (to_ms);
CREATE INDEX gap_by_cabinet ON gap (cabinet, to_ms);
CREATE INDEX gap_by_stream_and_time ON gap (cabinet, stream, to_ms);
CREATE TABLE device_stream (
    device TEXT NOT NULL, cabinet TEXT NOT NULL, stream INTEGER NOT NULL,
    listed_from_ms INTEGER, listed_to_ms INTEGER,
    PRIMARY KEY (device, cabinet, stream)
) WITHOUT ROWID;
INSERT OR IGNORE INTO device_stream (device, cabinet, stream) SELECT id, cabinet, stream FROM device;
INSERT OR IGNORE INTO device_stream (device, cabinet, stream)
    SELECT series.device, stream.cabinet, stream.stream FROM latest
    JOIN series ON series.id = latest.series_id JOIN stream ON stream.id = latest.stream_id;
"""  # noqa: S608  numbers of ours


@migrations()  # type: ignore[untyped-decorator]  # sqlite-utils is not followed
def m006_gaps(db: Database) -> None:
    """Find gaps by their time, and know of each device in which streams it ever spoke.

    `said_from_ms` to `said_to_ms`: what a cabinet without a clock said, until a clock event tells what it meant.
    `listed_from_ms` to `listed_to_ms`: between its first and its last hello that said so.
    """
    run(db, _GAPS)


_SHARDS = f"""
CREATE TABLE ingest_worker (
    name TEXT PRIMARY KEY, run TEXT NOT NULL, boot TEXT NOT NULL, pid INTEGER NOT NULL,
    until_ms INTEGER NOT NULL, hears INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE shard_lease (
    shard INTEGER PRIMARY KEY, owner TEXT NOT NULL DEFAULT '', run TEXT NOT NULL DEFAULT '',
    fence INTEGER NOT NULL DEFAULT 0
);
INSERT INTO shard_lease (shard) VALUES {", ".join(f"({shard})" for shard in range(SHARDS))};
CREATE TABLE change (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, cabinet TEXT NOT NULL, body BLOB NOT NULL
);
"""  # noqa: S608  numbers of ours


@migrations()  # type: ignore[untyped-decorator]  # sqlite-utils is not followed
def m007_shards(db: Database) -> None:
    """Let several processes ingest: who they are, which shards each has, and what they tell the API's process.

    `until_ms` is of the machine's monotonic clock, within `boot`.
    """
    run(db, _SHARDS)


def run(db: Database, script: str) -> None:
    """Run statements one by one: `executescript` would commit the step's transaction half way."""
    for statement in script.split(";\n"):
        if statement.strip():
            db.execute(statement)


def prepare(path: Path) -> None:
    """Bring the database at `path` to this schema, creating it for its owner alone if it is not there.

    Raises:
        StartError: if it is no database, damaged, written by a newer version, or in somebody's hands.
    """
    try:
        path.touch(mode=0o600)  # SQLite gives its write-ahead log the same mode
        _prepare(path)
    except OSError as error:
        raise StartError(f"{path}: cannot be written: {error.strerror}") from error
    except sqlite3.DatabaseError as error:
        raise StartError(f"{path}: {_in_words(error)}") from error


def check(path: Path) -> None:
    """See whether the database at `path` is there and of this version; change nothing.

    Raises:
        StartError: if it is not.
    """
    if not path.exists():
        raise StartError(f"{path}: there is no such database; 'luciole-central serve' makes it")
    try:
        with closing(sqlite3.connect(path, timeout=LOCK_WAIT_S)) as connection:
            db = Database(connection)
            _refuse_newer(db, path)
            pending = [step.name for step in migrations.pending(db)]
    except sqlite3.DatabaseError as error:
        raise StartError(f"{path}: {_in_words(error)}") from error
    if pending:
        raise StartError(
            f"{path}: written by an earlier version (it lacks {', '.join(pending)}); start 'serve' first"
        )


def _prepare(path: Path) -> None:
    connection = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        log.write_again(connection, path)
        if path.stat().st_size <= CHECKED_BYTES:
            _refuse_damaged(connection, path)
        db = Database(connection)
        _refuse_newer(db, path)
        migrations.apply(db)
    finally:
        connection.close()


def _refuse_damaged(connection: sqlite3.Connection, path: Path) -> None:
    damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if damage != "ok":
        raise StartError(f"{path}: the database is damaged ({damage}); restore it or move it away")


def _refuse_newer(db: Database, path: Path) -> None:
    nothing = Database(memory=True)
    ours = {step.name for step in migrations.pending(nothing)}
    nothing.close()
    unknown = sorted({step.name for step in migrations.applied(db)} - ours)
    if unknown:
        raise StartError(
            f"{path}: written by a newer version of this program (it has {', '.join(unknown)}); "
            "run that version, or give another --db"
        )


def _in_words(error: sqlite3.DatabaseError) -> str:
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return "the database is locked by another process; is an aggregator already running on it?"
        case sqlite3.SQLITE_NOTADB:
            return "this file is not a database; give another --db"
        case sqlite3.SQLITE_CORRUPT:
            return "the database is damaged; restore it or move it away"
        case sqlite3.SQLITE_CANTOPEN:
            return "cannot be opened; does its folder exist, and may this user write there?"
        case _:
            return str(error)
