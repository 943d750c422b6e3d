"""Databases of earlier versions open; those of later ones, and what is no database, are refused in words."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlite_utils import Database

from central import drafts, policies, restamp
from central.api.priority_bodies import Priority
from central.clock import moment
from central.errors import StartError
from central.policies import SigningKey, Terms
from central.store import schema
from protocols.backhaul.messages import ClockEvent
from protocols.clock import ClockQuality
from protocols.model.device import StreamClass
from protocols.model.ids import KeyId
from protocols.model.policy import PolicyKind
from protocols.model.priority import ENDED, RequestState
from tests.central.cabinet_double import START_MS, CabinetDouble, taken
from tests.central.desk import Desk
from tests.central.junctions import TRUNK, WEST, junction_cabinet, step

DATABASES = Path(__file__).parent.parent / "databases"


def written(path: Path, script: Path) -> Path:
    db = sqlite3.connect(path)
    db.executescript(script.read_text(encoding="utf-8"))
    db.close()
    return path


@pytest.mark.parametrize("script", sorted(DATABASES.glob("central_v*.sql")), ids=lambda path: path.stem)
def test_a_database_of_an_earlier_version_keeps_what_it_holds_and_goes_on(
    tmp_path: Path, script: Path
) -> None:
    desk = Desk(written(tmp_path / "old.db", script))
    cabinet = CabinetDouble()
    assert desk.values(cabinet.lamp()) == [10.0, 20.0, 30.0]
    assert desk.mark(cabinet) == 3
    cabinet.next[StreamClass.ORDINARY] = 4
    cabinet.seal([taken(cabinet.lamp(), 40.0)])
    desk.deliver(cabinet.message(4))
    assert desk.values(cabinet.lamp()) == [10.0, 20.0, 30.0, 40.0]
    assert desk.ask("SELECT state FROM command WHERE id = 'old-1'") == [("verified",)]
    desk.close()


@pytest.mark.parametrize("script", sorted(DATABASES.glob("central_v*.sql")), ids=lambda path: path.stem)
def test_priority_goes_on_in_a_database_of_an_earlier_version(tmp_path: Path, script: Path) -> None:
    desk = Desk(written(tmp_path / "old.db", script))
    cabinet = junction_cabinet()
    desk.deliver(cabinet.hello())
    before = desk.ask("SELECT request, state, over FROM priority_request")
    assert before == ([("old-r", "activated", 0)] if script.stem != "central_v1" else [])
    end = step(RequestState.COMPLETED, 20, request="old-r", extension_s=6)
    cabinet.next[StreamClass.EVENTS] = desk.mark(cabinet, StreamClass.EVENTS) + 1
    desk.deliver(cabinet.message(cabinet.seal_event(end), StreamClass.EVENTS))
    found = desk.ask("SELECT request, state, extension_s, over FROM priority_request")
    assert found == [("old-r", "completed", 6, 1)]
    desired = policies.read(desk.db, cabinet.id, desk.clock.utc_ms).desired
    assert all(one.lease_until is None for one in desired if one.kind == "lighting")
    key = SigningKey(KeyId("centre"), Ed25519PrivateKey.generate())
    terms = Terms(60.0, START_MS + 60_000)
    desk.do(lambda tx: drafts.put(tx, cabinet.id, Priority((WEST,), (TRUNK,))))
    desk.do(lambda tx: policies.publish(tx, cabinet.id, PolicyKind.PRIORITY, key, terms))
    published = policies.read(desk.db, cabinet.id, desk.clock.utc_ms).desired
    assert [one.lease_until for one in published if one.kind == "priority"] == [moment(START_MS + 60_000)]
    desk.close()


def test_gaps_of_a_database_of_an_earlier_version_are_shown_for_what_they_are(tmp_path: Path) -> None:
    path = written(tmp_path / "old.db", DATABASES / "central_v2.sql")
    with closing(sqlite3.connect(path)) as db, db:
        db.executemany(
            "INSERT INTO gap (cabinet, stream, epoch, first, last, cause, from_ms, to_ms, count, reported)"
            " VALUES ('cab-1', 2, 7001, 0, 0, 'crash', ?, ?, NULL, 1)",
            [(START_MS, START_MS + 5), (0, START_MS + 6), (START_MS + 9, START_MS + 7)],
        )
    desk = Desk(path)
    assert desk.ask("SELECT from_ms, to_ms - ?, learnt_ms FROM gap ORDER BY id", (START_MS,)) == [
        (START_MS, 5, None),
        (None, 6, None),
        (None, 7, None),
    ]
    spoken = desk.ask("SELECT cabinet, stream FROM device_stream WHERE device = 'cab-1-lamp-0'")
    assert spoken == [("cab-1", 2)]
    desk.close()


@pytest.mark.parametrize("script", sorted(DATABASES.glob("central_v*.sql")), ids=lambda path: path.stem)
def test_the_present_is_shown_beside_what_an_earlier_version_stored(tmp_path: Path, script: Path) -> None:
    desk = Desk(written(tmp_path / "old.db", script))
    cabinet = CabinetDouble()
    shown = "SELECT value, snapshot FROM shown WHERE device = ?"
    assert desk.ask(shown, (cabinet.lamp(),)) == [(30.0, 0)]
    desk.deliver(cabinet.hello(), cabinet.snapshot(taken(cabinet.lamp(), 50.0, at_ms=50_000)))
    assert desk.ask(shown, (cabinet.lamp(),)) == [(50.0, 1)]
    cabinet.next[StreamClass.ORDINARY] = 4
    cabinet.seal([taken(cabinet.lamp(), 40.0, at_ms=40_000)])
    cabinet.seal([taken(cabinet.lamp(), 60.0, at_ms=60_000)])
    desk.deliver(cabinet.message(4))
    assert desk.ask(shown, (cabinet.lamp(),)) == [(50.0, 1)]
    desk.deliver(cabinet.message(5))
    assert desk.ask(shown, (cabinet.lamp(),)) == [(60.0, 0)]
    desk.close()


def test_what_had_ended_in_a_database_of_an_earlier_version_is_over(tmp_path: Path) -> None:
    path = written(tmp_path / "old.db", DATABASES / "central_v2.sql")
    columns = ["id", "request", "state", "turn"]
    with closing(sqlite3.connect(path)) as db, db:
        names = [name for _, name, *_ in db.execute("PRAGMA table_info(priority_request)")]
        chosen = ", ".join(columns + [name for name in names if name not in columns])
        rest = ", ".join(name for name in names if name not in columns)
        for n, state in enumerate(RequestState, 2):
            db.execute(
                f"INSERT INTO priority_request ({chosen}) SELECT ?, ?, ?, ?, {rest} FROM priority_request"  # noqa: S608  a test's own words
                " WHERE id = 1",
                (n, f"r-{n}", state.value, n),
            )
    schema.prepare(path)
    with closing(sqlite3.connect(path)) as db:
        over = {state for (state,) in db.execute("SELECT state FROM priority_request WHERE over")}
    assert over == ENDED


def test_preparing_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "central.db"
    schema.prepare(path)
    with closing(sqlite3.connect(path)) as db:
        before = db.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
        schema.prepare(path)
        assert db.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall() == before


def test_a_step_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    db = Database(tmp_path / "half.db")
    with pytest.raises(sqlite3.OperationalError), db.atomic():
        schema.run(db, "CREATE TABLE a (x);\nCREATE TABLE b (y);\nCREATE TABLE a (z)")
    assert db.table_names() == []
    db.close()


def test_a_database_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "central.db"
    schema.prepare(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
            " VALUES ('luciole-central', 'm099_tomorrow', '')"
        )
    with pytest.raises(StartError, match=r"newer version.*m099_tomorrow"):
        schema.prepare(path)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "central.db"
    path.write_bytes(b"this is a letter to my grandmother, not a database" * 40)
    with pytest.raises(StartError, match="is not a database"):
        schema.prepare(path)


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "central.db")
    cabinet = CabinetDouble()
    for n in range(40):
        cabinet.seal([taken(cabinet.lamp(n % 3), f"{n} {'x' * 400}") for _ in range(5)])
    desk.deliver(*cabinet.waiting())
    desk.close()
    content = bytearray(desk.path.read_bytes())
    for page in range(40, len(content) // 4096 - 1, 3):
        content[page * 4096 : page * 4096 + 2_000] = b"\xa5" * 2_000
    desk.path.write_bytes(content)
    with pytest.raises(StartError, match="damaged"):
        schema.prepare(desk.path)


def test_a_locked_database_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "central.db"
    monkeypatch.setattr(schema, "LOCK_WAIT_S", 0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StartError, match="locked by another process"):
            schema.prepare(path)
    finally:
        holder.close()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"no/such/central\.db: cannot be written: No such file"):
        schema.prepare(tmp_path / "no" / "such" / "central.db")


def test_a_new_database_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "central.db"
    schema.prepare(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO centre (name, value) VALUES ('x', 'y')")
        db.commit()
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    db.close()
    assert modes["central.db-wal"] == 0o600
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize("script", sorted(DATABASES.glob("central_v*.sql")), ids=lambda path: path.stem)
def test_the_boots_of_an_earlier_version_are_known_and_its_readings_stay(
    tmp_path: Path, script: Path
) -> None:
    desk = Desk(written(tmp_path / "old.db", script))
    before = desk.ask("SELECT utc_ms FROM reading ORDER BY utc_ms")
    cabinet = CabinetDouble()
    assert desk.ask("SELECT cabinet, boot FROM boot") == desk.ask(
        "SELECT id, boot FROM cabinet WHERE boot != ''"
    )
    event = ClockEvent(
        cabinet.boot, 10**6, START_MS, None, ClockQuality.UNSYNCHRONISED, ClockQuality.SYNCHRONISED, True
    )
    cabinet.next[StreamClass.EVENTS] = desk.mark(cabinet, StreamClass.EVENTS) + 1
    desk.deliver(cabinet.message(cabinet.seal_event(event), StreamClass.EVENTS))
    desk.do(restamp.go_on)
    assert desk.ask("SELECT utc_ms FROM reading ORDER BY utc_ms") == before
    desk.close()
