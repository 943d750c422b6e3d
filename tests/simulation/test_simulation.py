"""The simulation itself, and a short run of it; `make simulate` is the long one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS, NAMED

ROOT = Path(__file__).parents[2]
SEEDS = 30
TIMEOUT_S = 280
"""Some twenty seconds are enough, unless others want the machine too."""
pytestmark = pytest.mark.timeout(TIMEOUT_S + 10)
FAST = ("acknowledge_one_more", "crash_not_told", "deletes_one_more")
"""Mutants that a seed or two find."""


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the simulation in a process of its own: it slips a layer beneath SQLite."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *options],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_nothing_is_lost_whatever_a_seed_brings() -> None:
    done = run("--seeds", str(SEEDS), "--mutants", "none")
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["violations"] == 0, done.stdout
    assert result["seeds"] == SEEDS
    assert result["readings"] > 100 * SEEDS
    assert result["faults"] > 10 * SEEDS
    assert result["ok"] is True
    assert done.returncode == 0


def test_the_defects_that_must_be_found_are_found() -> None:
    done = run("--seeds", "0", "--mutants", ",".join([*NAMED, *FAST]))
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["mutants_found"] == result["mutants"] == len(NAMED) + len(FAST), done.stdout
    assert done.returncode == 0


def test_the_same_seed_tells_the_same_story_in_every_process() -> None:
    stories = [run("--seed", "7", "--trace", PYTHONHASHSEED=salt).stdout for salt in ("1", "2")]
    told = [[line for line in story.splitlines() if not line.startswith("digest")] for story in stories]
    digests = [line.split(";")[0] for story in stories for line in story.splitlines() if "digest" in line]
    assert told[0] == told[1]
    assert len(told[0]) > 100
    assert digests[0] == digests[1]
    assert run("--seed", "8").stdout.splitlines()[-1].split(";")[0] != digests[0]


def test_a_seed_that_fails_says_how_it_is_run_again() -> None:
    done = run("--seed", "3", "--mutant", "crash_not_told")
    assert done.returncode == 1
    assert "again: make simulate SEED=3 MUTANT=crash_not_told" in done.stdout


def test_every_defect_that_must_be_planted_is() -> None:
    assert set(NAMED) <= MUTANTS.keys()


_DISK = """
import random, sqlite3, sys
from pathlib import Path
from tests.simulation.disk import Disk, Power, slip_beneath_sqlite
slip_beneath_sqlite()
lost = 0
for seed in range(60):
    chance = random.Random(seed)
    disk = Disk(Path(sys.argv[1]), f"d{seed}", chance)
    disk.end_within(chance.randrange(20, 300), Power[sys.argv[3]])
    told = 0
    db = sqlite3.connect(disk.folder / "x.db", isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={sys.argv[2]}")
        db.execute("PRAGMA wal_autocheckpoint=20")
        db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB)")
        for n in range(1, 200):
            db.execute("INSERT INTO t VALUES (?, ?)", (n, chance.randbytes(chance.randrange(3000))))
            told = n
    except sqlite3.Error:
        pass
    db.close()
    assert disk.dead
    disk.revive()
    db = sqlite3.connect(disk.folder / "x.db")
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    there = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] and db.execute(
        "SELECT coalesce(max(n), 0) FROM t").fetchone()[0]
    lost += max(0, told - there)
    db.close()
print(lost)
"""


def lost(folder: Path, synchronous: str, power: str) -> int:
    """Return how many commits a simulated disk loses at sixty sudden ends."""
    done = subprocess.run(
        [sys.executable, "-c", _DISK, str(folder), synchronous, power],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_the_simulated_disk_loses_at_a_power_cut_what_was_not_synced_and_nothing_else(tmp_path: Path) -> None:
    """As SQLite promises: FULL is durable at each commit; NORMAL may lose commits but never the file."""
    for name in ("full", "normal", "killed"):
        (tmp_path / name).mkdir()
    assert lost(tmp_path / "full", "FULL", "CUT") == 0
    assert lost(tmp_path / "normal", "NORMAL", "CUT") > 0
    assert lost(tmp_path / "killed", "NORMAL", "KILLED") == 0
