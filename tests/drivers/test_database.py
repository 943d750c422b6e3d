"""How the cabinet opens its SQLite files: for their owner alone, whatever the umask and whatever was there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from drivers.database import NewerSchemaError, open_database, transaction

SCHEMA = ("CREATE TABLE one (value INTEGER)",)
FILES = {"a.db", "a.db-wal", "a.db-shm"}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {one.name: one.stat().st_mode & 0o777 for one in folder.iterdir()}


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_what_is_made_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    with umask(mask), closing(open_database(tmp_path / "a.db", SCHEMA)) as db:
        with transaction(db):
            db.execute("INSERT INTO one VALUES (1)")
        assert modes(tmp_path) == dict.fromkeys(FILES, 0o600)


LOOK_BEFORE_CHMOD = """
import os, sys
from pathlib import Path
from drivers.database import open_database

def look(event, arguments):
    if event == "os.chmod":
        print(oct(os.stat(arguments[0]).st_mode & 0o777))

os.umask(0)
sys.addaudithook(look)
open_database(Path(sys.argv[1]), ()).close()
"""


def test_it_is_private_from_its_first_moment(tmp_path: Path) -> None:
    """Who has opened a file while it was everybody's reads it for ever."""
    run = subprocess.run(
        [sys.executable, "-c", LOOK_BEFORE_CHMOD, str(tmp_path / "a.db")],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.stdout.split() == ["0o600"]


@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_it_is_private_before_anything_is_in_it(tmp_path: Path, mask: int) -> None:
    """A script that fails leaves what there was at its beginning."""
    with umask(mask), pytest.raises(Exception, match="syntax error"):
        open_database(tmp_path / "a.db", ("no SQL",))
    assert set(modes(tmp_path).values()) == {0o600}


def test_files_that_somebody_has_copied_here_become_private(tmp_path: Path) -> None:
    """A crash leaves a write-ahead log that holds keys, and a copy of it has whatever mode the copy was given."""
    with umask(0), closing(open_database(tmp_path / "a.db", SCHEMA)) as db:
        db.execute("INSERT INTO one VALUES (7)")
        copy = tmp_path / "copy"
        copy.mkdir()
        for name in FILES:
            (copy / name).write_bytes((tmp_path / name).read_bytes())
        assert modes(copy) == dict.fromkeys(FILES, 0o666)
    with closing(open_database(copy / "a.db", SCHEMA)) as db:
        assert db.execute("SELECT value FROM one").fetchall() == [(7,)]
        assert modes(copy) == dict.fromkeys(FILES, 0o600)


def test_a_file_of_a_newer_agent_is_left_as_it_is(tmp_path: Path) -> None:
    open_database(tmp_path / "a.db", (*SCHEMA, "CREATE TABLE two (value INTEGER)")).close()
    before = (tmp_path / "a.db").read_bytes()
    with pytest.raises(NewerSchemaError, match="has schema 2, this version of the agent knows 1"):
        open_database(tmp_path / "a.db", SCHEMA)
    assert (tmp_path / "a.db").read_bytes() == before
