"""The outbox at work: what gathers, what is told as committed, and what a crash or a full disk leaves."""

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from edge.config import OutboxSettings
from edge.outbox import outbox as module
from edge.outbox.outbox import Outbox
from edge.outbox.store import Gathered, OutboxStore, Sealed
from protocols.backhaul.codec import unseal
from protocols.backhaul.messages import Ack, AlarmEvent, GapCause, LastEnd, StreamMark
from protocols.model.alarm import AlarmType
from protocols.model.device import StreamClass
from protocols.model.ids import DeviceId
from tests.edge.bench import (
    BULK,
    CABINET,
    EVENTS,
    NOON_MS,
    ORDINARY,
    HandClock,
    gaps_in,
    gathered,
    held,
    let_go,
    numbers_in,
    open_outbox,
    open_store,
    taken,
    until,
)
from tests.edge.small_disk import SmallDisk, small_disk

ALARM = AlarmEvent(DeviceId("lamp-01"), AlarmType.LAMP_FAILURE, NOON_MS, None, "")


class Told:
    """What an outbox has told."""

    def __init__(self, outbox: Outbox) -> None:
        self.batches: list[Sealed] = []
        self.floors: dict[StreamClass, int] = {}
        outbox.on_committed = self._committed

    def _committed(self, batches: Sequence[Sealed], floors: Mapping[StreamClass, int]) -> None:
        self.batches += batches
        self.floors.update(floors)

    def values(self) -> list[object]:
        return numbers_in(unseal(one.sealed) for one in self.batches)


async def test_readings_are_sealed_when_there_are_enough(tmp_path: Path) -> None:
    outbox = open_outbox(open_store(tmp_path), seal_readings=10, seal_s=60)
    told = Told(outbox)
    for number in range(25):
        outbox.add(ORDINARY, taken(number))
    await until(lambda: len(told.batches) == 2)
    assert told.values() == list(range(20))
    assert (await outbox.figures()).unsealed == 5
    await outbox.close()
    assert numbers_in(held(tmp_path / "outbox.db")) == list(range(25))


async def test_readings_are_sealed_when_they_have_waited_long_enough(tmp_path: Path) -> None:
    outbox = open_outbox(open_store(tmp_path), seal_readings=1000, seal_s=0.1)
    told = Told(outbox)
    outbox.add(ORDINARY, taken(1))
    outbox.add(BULK, taken(2))
    await until(lambda: len(told.batches) == 2)
    assert (await outbox.figures()).commits == 1
    await outbox.close()


async def test_an_event_is_sealed_at_once_and_a_storm_of_them_together(tmp_path: Path) -> None:
    outbox = open_outbox(open_store(tmp_path), seal_s=60)
    told = Told(outbox)
    for _ in range(50):
        outbox.add_event(ALARM)
    await until(lambda: bool(told.batches))
    assert [(one.stream, len(unseal(one.sealed).events)) for one in told.batches] == [(EVENTS, 50)]
    await outbox.close()


async def test_whoever_begins_to_watch_does_not_wait_for_a_slow_seal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HURRY_FOR_S", -1.0)
    outbox = open_outbox(open_store(tmp_path), seal_readings=1000, seal_s=60)
    told = Told(outbox)
    outbox.add(ORDINARY, taken(1))
    monkeypatch.setattr(module, "HURRY_S", 0.05)
    outbox.hurry()
    await until(lambda: bool(told.batches))
    await outbox.close()


async def test_an_acknowledgement_lets_go_even_when_nothing_else_is_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ACK_WAIT_S", 0.02)
    store = open_store(tmp_path)
    outbox = open_outbox(store, seal_readings=1)
    told = Told(outbox)
    outbox.add(ORDINARY, taken(1))
    await until(lambda: bool(told.batches))
    outbox.acknowledge(Ack(store.epoch, (StreamMark(ORDINARY, 1),)))
    await until(lambda: told.floors[ORDINARY] == 2)
    await outbox.close()
    assert held(tmp_path / "outbox.db") == []


async def test_marks_of_an_earlier_epoch_let_nothing_of_this_one_go(tmp_path: Path) -> None:
    """The acknowledgement waits for an insertion to ride on when the epoch is renewed."""
    store = open_store(tmp_path)
    outbox = open_outbox(store, seal_readings=1)
    told = Told(outbox)
    for number in range(4):
        outbox.add(ORDINARY, taken(number))
    await until(lambda: len(told.batches) == 4)
    outbox.acknowledge(Ack(store.epoch, (StreamMark(ORDINARY, 2),)))
    await outbox.ask(OutboxStore.renew_epoch)
    outbox.add(ORDINARY, taken(4))
    await until(lambda: len(told.batches) == 5)
    await outbox.close()
    assert numbers_in(held(tmp_path / "outbox.db")) == [0, 1, 2, 3, 4]


async def test_a_clean_end_commits_what_has_gathered(tmp_path: Path) -> None:
    outbox = open_outbox(open_store(tmp_path), seal_s=60)
    outbox.add(ORDINARY, taken(1))
    outbox.add_event(ALARM)
    await outbox.close()
    assert len(held(tmp_path / "outbox.db")) == 2
    assert open_store(tmp_path).last_end is LastEnd.CLEAN


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 16) as small:
        yield small
        let_go()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.05)


@pytest.mark.usefixtures("soon")
async def test_a_full_disk_loses_nothing_and_is_visible_until_it_is_over(disk: SmallDisk) -> None:
    outbox = open_outbox(open_store(disk.folder), seal_readings=10)
    told = Told(outbox)
    disk.fill()
    for number in range(2000):
        outbox.add(ORDINARY, taken(number))
    figures = await outbox.figures()
    assert "full" in figures.error
    assert figures.unsealed >= 1000
    disk.free()
    await until(lambda: len(told.batches) == 200)
    assert told.values() == list(range(2000))
    figures = await outbox.figures()
    assert (figures.error, figures.unsealed) == ("", 0)
    await outbox.close()
    assert numbers_in(held(disk.folder / "outbox.db")) == list(range(2000))


@pytest.mark.usefixtures("soon")
async def test_what_memory_cannot_hold_any_more_is_counted(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_UNSEALED", 1500)
    clock = HandClock()
    outbox = open_outbox(open_store(disk.folder, clock), clock, seal_readings=10)
    told = Told(outbox)
    disk.fill()
    for number in range(2000):
        outbox.add(ORDINARY, taken(number, text=f"{number} {'x' * 20}"))
    clock.advance(30)
    disk.free()
    await until(lambda: any(one.stream is EVENTS for one in told.batches))
    await outbox.close()
    batches = held(disk.folder / "outbox.db")
    (gap,) = gaps_in(batches)
    assert (gap.stream, gap.cause, gap.first) == (ORDINARY, GapCause.SHED, 0)
    assert (gap.count or 0) + len(numbers_in(batches)) == 2000
    assert gap.to_ms - gap.from_ms == 30_000


@pytest.mark.usefixtures("soon")
async def test_a_storm_of_events_that_memory_cannot_hold_is_counted_too(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_UNSEALED_EVENTS", 300)
    outbox = open_outbox(open_store(disk.folder), seal_readings=10)
    told = Told(outbox)
    disk.fill()
    for number in range(1000):
        text = random.Random(number).randbytes(100).hex()
        outbox.add_event(msgspec.structs.replace(ALARM, text=text))
    assert (await outbox.figures()).unsealed == 300
    disk.free()
    await until(lambda: len(told.batches) >= 2)
    assert (await outbox.figures()).unsealed == 0
    outbox.add_event(ALARM)
    await outbox.close()
    batches = held(disk.folder / "outbox.db")
    (gap,) = gaps_in(batches)
    assert (gap.stream, gap.cause, gap.count) == (EVENTS, GapCause.SHED, 700)
    assert sum(isinstance(event, AlarmEvent) for batch in batches for event in batch.events) == 301


async def test_a_lower_mark_that_comes_later_takes_nothing_back(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    outbox = open_outbox(store, seal_readings=1)
    told = Told(outbox)
    for number in range(6):
        outbox.add(ORDINARY, taken(number))
    await until(lambda: len(told.batches) == 6)
    outbox.acknowledge(Ack(store.epoch, (StreamMark(ORDINARY, 5),)))
    outbox.acknowledge(Ack(store.epoch, (StreamMark(ORDINARY, 2),)))
    await outbox.close()
    assert numbers_in(held(tmp_path / "outbox.db")) == [5]


@pytest.mark.usefixtures("soon")
async def test_an_end_that_could_not_commit_is_no_clean_end(disk: SmallDisk) -> None:
    outbox = open_outbox(open_store(disk.folder), seal_readings=10)
    told = Told(outbox)
    outbox.add(ORDINARY, taken(1, width=10))
    await until(lambda: bool(told.batches))
    disk.fill()
    for number in range(2000):
        outbox.add(ORDINARY, taken(number))
    await outbox.close()
    disk.free()
    again = open_store(disk.folder)
    assert again.last_end is LastEnd.CRASH
    assert ORDINARY in [gap.stream for gap in again.birth_events]


@pytest.mark.usefixtures("soon")
async def test_a_file_that_is_damaged_at_work_ends_the_agent_so_that_the_next_start_mends_it(
    tmp_path: Path,
) -> None:
    class Damaged(OutboxStore):
        def commit(self, seals: Sequence[Gathered], marks: Iterable[StreamMark | Ack]) -> list[Sealed]:
            del seals, marks
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorname = "SQLITE_CORRUPT"
            raise error

    clock, settings = HandClock(), OutboxSettings(seal_readings=1)
    store = Damaged(tmp_path / "outbox.db", CABINET, "boot-1", clock, settings)
    outbox = Outbox(store, clock, settings)
    watching = asyncio.create_task(outbox.watch())
    outbox.add(ORDINARY, taken(1))
    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        await asyncio.wait_for(watching, 10)
    await outbox.close()
    store.db.close()


async def test_a_question_that_finds_the_file_damaged_ends_the_agent_and_no_later_one_waits_for_ever(
    tmp_path: Path,
) -> None:
    store = open_store(tmp_path)
    for number in range(200):
        store.commit([gathered(ORDINARY, [number], text="y" * 200)], [])
    store.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    outbox = open_outbox(store)
    watching = asyncio.create_task(outbox.watch())
    path = tmp_path / "outbox.db"
    path.write_bytes(path.read_bytes()[: 8 * 4096] + b"\xff" * (path.stat().st_size - 8 * 4096))
    store.db.execute("PRAGMA shrink_memory")
    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        await outbox.ask(lambda one: one.fetch(ORDINARY, 1, 200))
    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        await asyncio.wait_for(watching, 10)
    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        await asyncio.wait_for(outbox.figures(), 10)
    await outbox.close()


async def test_a_question_that_breaks_harms_only_who_asked(tmp_path: Path) -> None:
    outbox = open_outbox(open_store(tmp_path))
    with pytest.raises(ZeroDivisionError):
        await outbox.ask(lambda _: 1 // 0)
    assert (await outbox.figures()).batches == 0
    await outbox.close()


async def test_an_answer_comes_after_every_commit_before_it_has_been_told(tmp_path: Path) -> None:
    outbox = open_outbox(open_store(tmp_path), seal_readings=1)
    told = Told(outbox)
    for number in range(20):
        outbox.add(ORDINARY, taken(number))
    figures = await outbox.figures()
    assert figures.batches == len(told.batches) == 20
    await outbox.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from edge.clock import SystemClock
from protocols.backhaul.codec import samples, unseal
from tests.edge.bench import ORDINARY, open_outbox, open_store, taken

async def main():
    clock = SystemClock()
    store = open_store(Path(sys.argv[1]), clock)
    print("end", store.last_end.value, flush=True)
    for gap in store.birth_events:
        print("gap", gap.stream.name, gap.from_ms, gap.to_ms, flush=True)
    outbox = open_outbox(store, clock, seal_readings=7)
    def told(batches, floors):
        for one in batches:
            for sample in samples(unseal(one.sealed)):
                print("told", sample.values[0])
        sys.stdout.flush()
    outbox.on_committed = told
    number = int(sys.argv[2])
    while True:
        for _ in range(50):
            outbox.add(ORDINARY, taken(number))
            number += 1
        await outbox.figures()

asyncio.run(main())
"""


@contextmanager
def writer(folder: Path, first: int) -> Iterator[tuple[subprocess.Popen[str], Iterator[list[str]]]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(first)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process, process.stdout:
        try:
            whole_lines = (line for line in process.stdout if line.endswith("\n"))  # the last one may be torn
            yield process, (line.split() for line in whole_lines)
        finally:
            process.kill()


def test_kill_9_loses_nothing_that_was_told_as_committed(tmp_path: Path) -> None:
    told: list[int] = []
    ends: list[str] = []
    gaps: list[tuple[str, int, int]] = []
    for turn in range(3):
        with writer(tmp_path, turn * 1_000_000) as (process, lines):
            for heard, (word, *rest) in enumerate(lines):
                if word == "end":
                    ends.append(rest[0])
                elif word == "gap":
                    gaps.append((rest[0], int(rest[1]), int(rest[2])))
                else:
                    told.append(int(rest[0]))
                if heard == 200 + 61 * turn:
                    process.kill()
    assert ends == ["first", "crash", "crash"]
    assert [name for name, _, _ in gaps] == 2 * [stream.name for stream in StreamClass]
    assert all(0 < from_ms <= to_ms < from_ms + 60_000 for _, from_ms, to_ms in gaps)
    batches = held(tmp_path / "outbox.db")
    numbers = [number for number in numbers_in(batches) if isinstance(number, int)]
    assert set(told) <= set(numbers)
    assert numbers == sorted(set(numbers))
    ordinary = [batch.number for batch in batches if batch.stream is ORDINARY]
    assert ordinary == list(range(1, len(ordinary) + 1))
