"""Something else has filled the disk: control goes on, what is shed is counted, and it recovers by itself."""

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge import exits
from edge.ballast import Ballast
from edge.outbox.store import LOOK_EVERY_MS, Gathered, OutboxStore
from edge.state import State
from protocols.backhaul.messages import GapCause, StreamMark
from protocols.model.device import StreamClass
from tests.edge.bench import (
    BULK,
    EVENTS,
    ORDINARY,
    HandClock,
    gaps_in,
    gathered,
    held,
    let_go,
    open_store,
    taken,
)
from tests.edge.small_disk import SmallDisk, small_disk
from tests.edge.street import signed
from tests.edge.whole import Whole, whole

MB = 1 << 20
CRITICAL = StreamClass.CRITICAL


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 64) as small:
        yield small
        let_go()


def settle(store: OutboxStore, clock: HandClock) -> None:
    """Let the disk be looked at with the next commit."""
    clock.advance(LOOK_EVERY_MS / 1000)
    store.commit([], [])


def commit(store: OutboxStore, stream: StreamClass, first: int, count: int) -> None:
    for number in range(first, first + count):
        text = random.Random(number).randbytes(500).hex()
        store.commit([gathered(stream, [number], text=text)], [])


def shed_and_kept(store: OutboxStore, folder: Path, stream: StreamClass) -> tuple[int, int]:
    """Return how many readings of a stream the gaps speak of, and how many are in the file."""
    batches = held(folder / "outbox.db")
    gaps = [gap for gap in gaps_in(batches) if gap.stream is stream]
    assert {gap.cause for gap in gaps} <= {GapCause.SHED}
    following = 1
    for gap in gaps:
        assert (gap.first, gap.epoch) == (following, store.epoch)
        following = gap.last + 1
    assert following == store.streams[stream].floor
    kept = [batch for batch in batches if batch.stream is stream]
    assert [batch.number for batch in kept] == list(range(following, store.streams[stream].next))
    return sum(gap.count or 0 for gap in gaps), sum(len(batch.columns.values) for batch in kept)


def is_held(ballast: Ballast) -> bool:
    """Tell whether it is, now: to the type checker a field that was looked at stays as it was."""
    return ballast.held


class TestBallast:
    def test_it_is_held_while_there_is_plenty_and_given_away_when_there_is_not(self, disk: SmallDisk) -> None:
        ballast = Ballast(disk.folder, size_bytes=16 * MB, low_bytes=4 * MB)
        assert not is_held(ballast)
        assert ballast.look() == disk.free_bytes() - 4 * MB > 40 * MB
        assert is_held(ballast)
        disk.fill(leave_bytes=5 * MB)
        assert 0 < ballast.look() <= MB
        assert is_held(ballast)
        disk.fill(leave_bytes=3 * MB)
        assert ballast.look() == 0
        assert not is_held(ballast)
        assert disk.free_bytes() >= 18 * MB
        assert ballast.look() == 0
        disk.free()
        assert ballast.look() > 40 * MB
        assert is_held(ballast)

    def test_a_disk_that_is_a_little_less_full_is_still_full(self, disk: SmallDisk) -> None:
        ballast = Ballast(disk.folder, size_bytes=16 * MB, low_bytes=4 * MB)
        disk.fill(leave_bytes=23 * MB)
        assert ballast.look() == disk.free_bytes() - 20 * MB
        assert not is_held(ballast)

    def test_it_is_real_blocks_and_outlasts_the_agent(self, disk: SmallDisk) -> None:
        before = disk.free_bytes()
        Ballast(disk.folder, size_bytes=16 * MB).look()
        assert before - disk.free_bytes() >= 16 * MB
        assert Ballast(disk.folder).held
        assert (disk.folder / "ballast").stat().st_mode & 0o777 == 0o600

    def test_a_disk_that_does_not_answer_leaves_what_was_known(self, disk: SmallDisk, tmp_path: Path) -> None:
        del disk
        assert Ballast(tmp_path / "gone").look() == 0


class TestOutbox:
    @pytest.mark.parametrize("greedy", [False, True], ids=["the ballast is left", "the ballast is eaten too"])
    def test_it_commits_on_within_what_it_has_and_every_loss_is_counted(
        self, disk: SmallDisk, greedy: bool
    ) -> None:
        clock = HandClock()
        store = open_store(disk.folder, clock, ballast=Ballast(disk.folder))
        assert not store.figures(0).disk_full
        commit(store, CRITICAL, 0, 100)
        commit(store, BULK, 0, 900)
        disk.fill()
        settle(store, clock)
        assert store.figures(0).disk_full
        if greedy:
            disk.fill()
            assert disk.free_bytes() == 0
        size = store.db.execute("PRAGMA page_count").fetchone()
        commit(store, BULK, 900, 3000)
        assert store.db.execute("PRAGMA page_count").fetchone() == size
        assert store.error == ""
        assert shed_and_kept(store, disk.folder, CRITICAL) == (0, 100)
        shed, kept = shed_and_kept(store, disk.folder, BULK)
        assert shed + kept == 3900 == store.streams[BULK].taken
        assert store.figures(0).shed_readings == shed > 2500
        store.commit([], [StreamMark(BULK, store.streams[BULK].next - 1)])
        commit(store, BULK, 0, 300)
        assert shed_and_kept(store, disk.folder, CRITICAL) == (0, 100)

    def test_it_grows_again_once_there_is_room(self, disk: SmallDisk) -> None:
        clock = HandClock()
        store = open_store(disk.folder, clock, ballast=Ballast(disk.folder))
        commit(store, BULK, 0, 500)
        disk.fill()
        settle(store, clock)
        commit(store, BULK, 500, 500)
        shed = store.shed_readings
        assert shed > 0
        disk.free()
        settle(store, clock)
        assert not store.figures(0).disk_full
        commit(store, BULK, 1000, 1000)
        assert store.shed_readings == shed

    def test_what_fills_between_two_looks_is_noticed_by_the_commit_that_fails(self, disk: SmallDisk) -> None:
        store = open_store(disk.folder, ballast=Ballast(disk.folder))
        commit(store, BULK, 0, 500)
        disk.fill()
        for number in range(8):  # far more than the write-ahead log's own room
            texts = [random.Random(n).randbytes(1500).hex() for n in range(1000)]
            store.commit([gathered(BULK, [1000 * number + n], text=text) for n, text in enumerate(texts)], [])
        assert store.figures(0).disk_full
        shed, kept = shed_and_kept(store, disk.folder, BULK)
        assert shed + kept == 8500

    def test_a_flood_of_a_lower_class_takes_next_to_nothing_from_a_higher_one(self, disk: SmallDisk) -> None:
        """Only what the events need that tell of the flood."""
        clock = HandClock()
        store = open_store(disk.folder, clock, ballast=Ballast(disk.folder))
        commit(store, CRITICAL, 0, 2000)
        disk.fill()
        settle(store, clock)
        commit(store, ORDINARY, 0, 200)
        commit(store, BULK, 0, 2000)
        for stream, count in ((BULK, 2000), (ORDINARY, 200), (CRITICAL, 2000)):
            shed, kept = shed_and_kept(store, disk.folder, stream)
            assert shed + kept == count
        assert store.streams[BULK].floor > 1800
        assert store.streams[CRITICAL].floor < 2000 * 0.1
        commit(store, CRITICAL, 2000, 1000)
        shed, kept = shed_and_kept(store, disk.folder, CRITICAL)
        assert shed + kept == 3000
        assert store.streams[EVENTS].floor == 1

    def test_a_higher_class_that_goes_on_gives_way_to_itself_alone(self, disk: SmallDisk) -> None:
        clock = HandClock()
        store = open_store(disk.folder, clock, ballast=Ballast(disk.folder))
        commit(store, CRITICAL, 0, 2000)
        disk.fill()
        settle(store, clock)
        for turn in range(200):
            commit(store, BULK, 5 * turn, 5)
            commit(store, CRITICAL, 2000 + turn, 1)
        shed, kept = shed_and_kept(store, disk.folder, CRITICAL)
        assert shed + kept == 2200
        assert kept > 2000 * 0.85

    def test_a_lower_class_that_finds_the_buffer_full_of_higher_ones_gives_way_itself(
        self, tmp_path: Path
    ) -> None:
        """Its gap's event takes a page; shedding as for a class's own sake would take ten."""
        store = open_store(tmp_path, max_mb=2)
        while not store.shed_readings:
            commit(store, CRITICAL, store.streams[CRITICAL].next, 1)
        while store.db.execute("PRAGMA freelist_count").fetchone()[0]:
            commit(store, CRITICAL, store.streams[CRITICAL].next, 1)
        before = store.streams[CRITICAL].floor
        done = store.commit([gathered(BULK, [1], text="x" * 900)], [])
        assert [one.stream for one in done] == [EVENTS]
        assert shed_and_kept(store, tmp_path, BULK) == (1, 0)
        assert store.streams[CRITICAL].floor - before < 40

    def test_sqlite_itself_holds_the_bound(self, tmp_path: Path) -> None:
        store = open_store(tmp_path, max_mb=0.4)
        assert store.db.execute("PRAGMA max_page_count").fetchone() == (400_000 // 4096,)

    def test_a_batch_that_is_bigger_than_everything_is_shed_and_stops_nobody(self, tmp_path: Path) -> None:
        store = open_store(tmp_path, max_mb=0.4)
        commit(store, ORDINARY, 0, 5)
        huge = [taken(n, text=random.Random(n).randbytes(2000).hex()) for n in range(400)]
        done = store.commit([Gathered(BULK, huge, (), 400), gathered(CRITICAL, [1])], [])
        assert [one.stream for one in done] == [CRITICAL, EVENTS]
        assert shed_and_kept(store, tmp_path, BULK) == (400, 0)
        commit(store, BULK, 0, 1)
        assert shed_and_kept(store, tmp_path, BULK) == (400, 1)

    def test_it_ends_cleanly_and_begins_again_on_the_full_disk(self, disk: SmallDisk) -> None:
        clock = HandClock()
        store = open_store(disk.folder, clock, ballast=Ballast(disk.folder))
        commit(store, BULK, 0, 500)
        disk.fill()
        settle(store, clock)
        store.end_run()
        disk.fill(leave_bytes=12 * MB)  # the ballast's room, and what the log gave back
        again = open_store(disk.folder, clock, ballast=Ballast(disk.folder))
        commit(again, BULK, 500, 500)
        shed, kept = shed_and_kept(again, disk.folder, BULK)
        assert shed + kept == 1000

    def test_without_ballast_a_commit_fails_whole_and_the_next_one_works(self, disk: SmallDisk) -> None:
        store = open_store(disk.folder)
        commit(store, ORDINARY, 0, 3)
        disk.fill()
        figures = store.figures(0)
        with pytest.raises(sqlite3.OperationalError, match="full"):
            store.commit([gathered(ORDINARY, [n], text=chr(33 + n) * 900) for n in range(90)], [])
        assert store.figures(0) == figures
        assert len(held(disk.folder / "outbox.db")) == 3
        disk.free()
        commit(store, ORDINARY, 3, 1)
        assert store.streams[ORDINARY].next == 5

    def test_the_cabinet_s_memory_has_room_on_a_full_disk(self, disk: SmallDisk) -> None:
        ballast = Ballast(disk.folder)
        ballast.look()
        disk.fill()
        ballast.look()
        state = State.open(disk.folder / "state.db")
        assert state.policies() == {}
        state.close()


def arc(one: Whole) -> int:
    """Return the level of the first lamp."""
    return one.street.call(lambda: one.street.street.lines["dali-1"].gear[0].level(one.street.street.now_s()))


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[Whole, SmallDisk]]:
    """A cabinet whose own folder is a small disk."""
    with small_disk(tmp_path / "state", 64) as small, whole(tmp_path) as one:
        yield one, small
        one.kill()


class TestAgent:
    def test_it_begins_on_a_full_disk_controls_and_delivers(self, full: tuple[Whole, SmallDisk]) -> None:
        one, disk = full
        one.start()
        assert one.stop() == 0
        disk.fill()
        one.start()
        assert one.status().outbox.disk_full
        assert "the disk is full" in one.cli("status").stdout
        one.centre.policy(signed())
        one.centre.wait(lambda: arc(one) > 0, "the lamps to follow the policy")
        before = len(one.centre.batches)
        one.centre.wait(lambda: len(one.centre.batches) > before + 3, "readings")
        disk.free()
        one.centre.wait(lambda: not one.status().outbox.disk_full, "the ballast to be held again")
        assert one.stop() == 0
        assert one.waiting() == 0
        assert "Traceback" not in one.log.read_text()

    def test_a_first_start_without_any_room_says_what_is_wrong(self, full: tuple[Whole, SmallDisk]) -> None:
        one, disk = full
        disk.fill()
        ran = one.cli("run")
        assert ran.returncode == exits.FAILED
        assert "state: " in ran.stderr
        assert "full" in ran.stderr
