"""An outbox whose process is killed at any instant has everything that it reported as committed."""

import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edge.outbox.store import OutboxStore
from protocols.model.device import StreamClass
from tests.edge.bench import ORDINARY, let_go, open_store
from tests.faults.sweep import EVERY

WRITER = """
import random, sys
from pathlib import Path
from protocols.backhaul.messages import StreamMark
from tests.edge.bench import BULK, ORDINARY, gathered, open_store

chance = random.Random(int(sys.argv[2]))
store = open_store(Path(sys.argv[1]))
store.db.execute("PRAGMA wal_autocheckpoint=20")
while True:
    marks = []
    if chance.random() < 0.2:
        marks.append(StreamMark(ORDINARY, chance.randrange(store.streams[ORDINARY].next)))
    text = chance.randbytes(chance.choice((10, 3000, 30_000))).hex()
    done = store.commit([gathered(ORDINARY, [1, 2]), gathered(BULK, [3], text=text)], marks)
    floors = " ".join(f"{stream.value} {floor}" for stream, floor in store.floors().items())
    for one in done:
        print("told", store.epoch, one.stream.value, one.number, one.sealed.hex())
    print("floors", floors, flush=True)
"""
TURNS = 40 if EVERY else 8


def killed(folder: Path, seed: int, delay_s: float) -> list[str]:
    """Let a process commit, kill it after a while, and return the lines that it had finished."""
    command = [sys.executable, "-c", WRITER, str(folder), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        timer = threading.Timer(delay_s, process.kill)
        timer.start()
        rest = process.stdout.read()
        timer.join()
    return (first + rest).splitlines(keepends=True)


@pytest.mark.parametrize("seed", range(3 if EVERY else 1))
def test_what_was_reported_before_a_kill_is_there_after_it(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    told: dict[tuple[int, int], str] = {}
    floors: dict[int, int] = {}
    epoch = ""
    for turn in range(TURNS):
        for line in killed(tmp_path, seed * 1000 + turn, chance.uniform(0.001, 0.25)):
            if not line.endswith("\n"):
                continue  # it was killed while it spoke
            match line.split():
                case ["told", said, stream, number, sealed]:
                    assert epoch in {"", said}
                    epoch = said
                    key = int(stream), int(number)
                    assert told.setdefault(key, sealed) == sealed, f"{key} was used twice"
                case ["floors", *pairs]:
                    floors = {int(a): int(b) for a, b in zip(pairs[::2], pairs[1::2], strict=True)}
        store = open_store(tmp_path)
        assert str(store.epoch) == epoch
        complete(store, told, floors)
        let_go()
    assert len(told) > TURNS


def complete(store: OutboxStore, told: dict[tuple[int, int], str], floors: dict[int, int]) -> None:
    assert store.db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    rows = store.db.execute("SELECT stream, number, sealed FROM batch").fetchall()
    there = {(stream, number): sealed.hex() for stream, number, sealed in rows}
    for stream, state in store.streams.items():
        assert state.floor >= floors.get(stream, 1)
        assert [number for held, number in there if held == stream] == list(range(state.floor, state.next))
    for key, sealed in told.items():
        if key[1] >= store.streams[StreamClass(key[0])].floor:
            assert there[key] == sealed
    assert store.streams[ORDINARY].next > max(number for held, number in told if held == ORDINARY)
