"""The faulty disk itself: it fails where it is told to, and a power cut leaves what a disk would have kept."""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.disk import SHORT, Disk, File, Kind, is_loaded, prove

pytestmark = pytest.mark.on_a_faulty_disk
BLOCK = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk | None]:
    if not is_loaded():
        yield None  # the test runs elsewhere
        return
    with Disk(tmp_path) as one:
        yield one


class Opened:
    """A file of the test's own, by the system's calls."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def put(self, text: bytes, at: int = 0) -> int:
        return os.pwrite(self.fd, text, at)

    def sync(self) -> None:
        os.fdatasync(self.fd)

    def close(self) -> None:
        os.close(self.fd)


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def tried(call: Callable[[], object]) -> int | None:
    """Return the errno that a call failed with, 0 if it did not."""
    try:
        call()
    except OSError as error:
        return error.errno
    return 0


def durable(path: Path, text: bytes) -> Opened:
    """Return a file whose name and content are safe."""
    file = Opened(path)
    file.put(text)
    file.sync()
    sync_folder(path.parent)
    return file


def cut(disk: Disk, *files: Opened, seed: int | None = None) -> None:
    disk.power_cut(seed)
    for file in files:
        file.close()
    disk.power_on()


def test_sqlite_makes_its_calls_through_it() -> None:
    prove()


def test_the_nth_call_fails_once_or_from_then_on(disk: Disk, tmp_path: Path) -> None:
    file = Opened(tmp_path / "a.db")
    for lasting, expected in ((False, "001000"), (True, "001111")):
        disk.fail(Kind.WRITE, nth=3, error=errno.ENOSPC, lasting=lasting)
        errors = [tried(lambda: file.put(b"x")) for _ in range(6)]
        assert errors == [errno.ENOSPC if one == "1" else 0 for one in expected]
        assert disk.fired() == expected.count("1")
    disk.heal()
    assert file.put(b"xy") == 2
    file.close()


def test_only_the_calls_that_were_named_fail(disk: Disk, tmp_path: Path) -> None:
    main, wal = Opened(tmp_path / "a.db"), Opened(tmp_path / "a.db-wal")
    disk.fail(Kind.SYNC, File.WAL, lasting=True)
    main.put(b"1")
    wal.put(b"1")
    main.sync()
    with pytest.raises(OSError, match="Input/output"):
        wal.sync()
    assert disk.counts()[Kind.SYNC, File.WAL] == disk.counts()[Kind.SYNC, File.MAIN] == 1
    main.close()
    wal.close()


def test_a_short_write_says_how_much_it_wrote(disk: Disk, tmp_path: Path) -> None:
    file = Opened(tmp_path / "a.db")
    disk.fail(Kind.WRITE, error=SHORT)
    assert file.put(b"0123456789") == 5
    assert (tmp_path / "a.db").read_bytes() == b"01234"
    file.close()


def test_what_was_synced_stays_and_what_was_not_goes(disk: Disk, tmp_path: Path) -> None:
    file = durable(tmp_path / "a.db", b"old" * 5000)
    file.put(b"new", 3)
    file.put(b"longer", 20_000)
    assert disk.unsynced() > 0
    cut(disk, file)
    assert (tmp_path / "a.db").read_bytes() == b"old" * 5000
    assert disk.unsynced() == 0


def test_a_truncation_that_was_not_synced_is_undone(disk: Disk, tmp_path: Path) -> None:
    file = durable(tmp_path / "a.db", b"abc" * 5000)
    os.ftruncate(file.fd, 100)
    cut(disk, file)
    assert (tmp_path / "a.db").read_bytes() == b"abc" * 5000


def test_a_disk_may_keep_any_of_what_was_not_synced(disk: Disk, tmp_path: Path) -> None:
    seen = set()
    for seed in range(60):
        file = durable(tmp_path / f"{seed}.db", b"0" * BLOCK * 2)
        for turn in b"1", b"2":
            file.put(turn * BLOCK, 0)
            file.put(turn * BLOCK, BLOCK)
        cut(disk, file, seed=seed)
        content = (tmp_path / f"{seed}.db").read_bytes()
        seen.add((content[:1], content[-1:]))
    assert len(seen) == 9, "each block by itself, at each of its states"


def test_the_same_seed_leaves_the_same(disk: Disk, tmp_path: Path) -> None:
    def left(seed: int) -> bytes:
        path = tmp_path / "a.db"
        file = durable(path, b"0" * BLOCK * 64)
        for block in range(64):
            file.put(b"1" * BLOCK, block * BLOCK)
        cut(disk, file, seed=seed)
        return path.read_bytes()

    assert [left(seed) for seed in range(20)] == [left(seed) for seed in range(20)]


def test_a_new_name_is_safe_only_once_its_folder_was_synced(disk: Disk, tmp_path: Path) -> None:
    file = Opened(tmp_path / "a.db")
    file.put(b"content")
    file.sync()
    cut(disk, file)
    assert not (tmp_path / "a.db").exists()
    cut(disk, durable(tmp_path / "a.db", b"content"))
    assert (tmp_path / "a.db").read_bytes() == b"content"


def test_a_removed_or_renamed_file_is_back_unless_its_folder_was_synced(disk: Disk, tmp_path: Path) -> None:
    one, other = durable(tmp_path / "one.db", b"one"), durable(tmp_path / "other.db", b"other")
    one.put(b"ONE")
    (tmp_path / "one.db").unlink()
    (tmp_path / "other.db").rename(tmp_path / "third.db")
    cut(disk, one, other)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "one.db": b"one",
        "other.db": b"other",
    }
    (tmp_path / "one.db").unlink()
    (tmp_path / "other.db").rename(tmp_path / "third.db")
    sync_folder(tmp_path)
    cut(disk)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"third.db": b"other"}


def test_names_change_in_their_order(disk: Disk, tmp_path: Path) -> None:
    """A file that replaces another is never gone together with it."""
    seen = set()
    for seed in range(40):
        cut(disk, durable(tmp_path / "a", b"old"), seed=seed)
        durable(tmp_path / "b", b"new").close()
        (tmp_path / "b").rename(tmp_path / "a")
        (tmp_path / "c").touch()
        cut(disk, seed=seed)
        left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        seen.add(tuple(sorted(left.items())))
        for path in tmp_path.iterdir():
            path.unlink()
        sync_folder(tmp_path)
    assert seen == {
        (("a", b"old"), ("b", b"new")),
        (("a", b"new"),),
        (("a", b"new"), ("c", b"")),
    }


def test_a_sync_that_failed_has_dropped_what_the_next_one_says_is_safe(disk: Disk, tmp_path: Path) -> None:
    """What Linux does: the error is told once, the pages count as clean."""
    file = durable(tmp_path / "a.db", b"0" * BLOCK * 2)
    file.put(b"1" * BLOCK * 2)
    disk.fail(Kind.SYNC)
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    file.put(b"1" * BLOCK, BLOCK)
    file.sync()
    assert (tmp_path / "a.db").read_bytes() == b"1" * BLOCK * 2
    cut(disk, file)
    assert (tmp_path / "a.db").read_bytes() == b"0" * BLOCK + b"1" * BLOCK


def test_what_a_failed_sync_dropped_may_be_read_from_the_disk_again(disk: Disk, tmp_path: Path) -> None:
    file = durable(tmp_path / "a.db", b"0" * BLOCK)
    file.put(b"1" * BLOCK)
    disk.fail(Kind.SYNC, evict=True)
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    assert (tmp_path / "a.db").read_bytes() == b"0" * BLOCK
    file.close()


def test_after_a_cut_nothing_works_until_all_is_closed_and_the_power_is_back(
    disk: Disk, tmp_path: Path
) -> None:
    file = durable(tmp_path / "a.db", b"old")
    disk.power_cut()
    for call in (
        lambda: file.put(b"x"),
        file.sync,
        (tmp_path / "a.db").read_bytes,
        (tmp_path / "a.db").unlink,
    ):
        with pytest.raises(OSError, match="Input/output"):
            call()
    with pytest.raises(RuntimeError, match="1 descriptors"):
        disk.power_on()
    file.close()
    disk.power_on()
    assert (tmp_path / "a.db").read_bytes() == b"old"


def test_two_folders_are_two_disks(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    with Disk(tmp_path / "a") as one, Disk(tmp_path / "b") as other:
        files = [durable(tmp_path / name / "x.db", b"old") for name in "ab"]
        for file in files:
            file.put(b"new")
        cut(one, files[0])
        assert (tmp_path / "a" / "x.db").read_bytes() == b"old"
        assert (tmp_path / "b" / "x.db").read_bytes() == b"new"
        assert other.unsynced() == 1
        files[1].close()


@pytest.mark.parametrize("seed", [None, *range(6)])
def test_sqlite_keeps_each_commit_with_full_and_loses_some_with_normal(
    disk: Disk, tmp_path: Path, seed: int | None
) -> None:
    kept = {}
    for synchronous in ("FULL", "NORMAL"):
        path = tmp_path / f"{synchronous}.db"
        db = connect(path, synchronous)
        db.execute("CREATE TABLE t (n)")
        db.execute("PRAGMA wal_checkpoint")
        for number in range(100):
            db.execute("INSERT INTO t VALUES (?)", (number,))
        disk.power_cut(seed)
        db.close()
        disk.power_on()
        db = connect(path, synchronous)
        assert db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        kept[synchronous] = db.execute("SELECT count(*) FROM t").fetchone()[0]
        db.close()
    assert kept["FULL"] == 100
    assert kept["NORMAL"] <= 100
    if seed is None:
        assert kept["NORMAL"] == 0


def connect(path: Path, synchronous: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={synchronous}")
    return db
