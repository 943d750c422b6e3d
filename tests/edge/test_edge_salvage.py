"""A damaged outbox: every batch comes back as it was, or lies in a gap that is told; no number is used twice."""

import random
import shutil
import sqlite3
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.damage import Replacement
from edge.outbox.salvage import Sealing, build, ensure_sound
from edge.outbox.store import OutboxStore
from protocols.backhaul.codec import batch_hash, seal, unseal
from protocols.backhaul.messages import Ack, GapCause, GapEvent, LastEnd, StreamMark
from protocols.model.device import StreamClass
from protocols.model.ids import CabinetId
from tests.edge.bench import (
    BULK,
    EVENTS,
    ORDINARY,
    HandClock,
    gaps_in,
    gathered,
    held,
    let_go,
    numbers_in,
    open_store,
)
from tests.edge.small_disk import small_disk

PAGE = 4096
Key: TypeAlias = tuple[int, StreamClass, int]
NO_ROOM_MB = 100_000.0


class Written(msgspec.Struct, frozen=True):
    """A batch as it was committed."""

    sealed: bytes
    at_ms: int


def fill(store: OutboxStore, clock: HandClock, turns: int, seed: int = 0) -> dict[Key, Written]:
    """Commit batches of all streams and sizes, some larger than a page."""
    chance = random.Random(seed)
    written: dict[Key, Written] = {}
    for number in range(turns):
        clock.advance(1)
        texts = [(s, chance.randbytes(chance.choice((10, 100, 700, 4500))).hex()) for s in StreamClass]
        chosen = [gathered(stream, [number], text=text) for stream, text in texts if chance.random() < 0.6]
        for one in store.commit(chosen, []):
            written[one.epoch, one.stream, one.number] = Written(one.sealed, clock.utc_ms)
    return written


def overwrite(path: Path, chance: random.Random, pages: int, *, zeros: bool = True) -> None:
    """Put noise, nothing, or another page into some pages of a file; zeros may be a log's reserved blocks."""
    content = bytearray(path.read_bytes())
    count = max(1, len(content) // PAGE)
    for _ in range(pages):
        start, other = (chance.randrange(count) * PAGE for _ in range(2))
        content[start : start + PAGE] = chance.choice(
            (
                chance.randbytes(PAGE),
                bytes(PAGE) if zeros else chance.randbytes(PAGE),
                bytes(content[other : other + PAGE]),
            )
        )
    path.write_bytes(content)


def rows(path: Path) -> dict[Key, bytes]:
    """Return what an outbox's file holds, by another connection."""
    db = sqlite3.connect(path)
    try:
        found = db.execute("SELECT epoch, stream, number, sealed FROM batch").fetchall()
    finally:
        db.close()
    return {(epoch, StreamClass(stream), number): sealed for epoch, stream, number, sealed in found}


def tells(gap: GapEvent, key: Key, at_ms: int) -> bool:
    """Tell whether a gap is about a batch: by its number, or where there is none by its time."""
    if gap.stream is not key[1]:
        return False
    if gap.first:
        return gap.epoch == key[0] and gap.first <= key[2] <= gap.last
    return gap.from_ms <= at_ms <= gap.to_ms


def back(path: Path, before: dict[Key, Written]) -> int:
    """Check that each batch is back as it was or in a gap; return how many are back."""
    after, gaps = rows(path), gaps_in(held(path))
    count = 0
    for key, one in before.items():
        if after.get(key) == one.sealed:
            count += 1
        else:
            assert any(tells(gap, key, one.at_ms) for gap in gaps), f"nothing tells of {key}"
            empty = unseal(after[key]) if key in after else None
            assert empty is None or (not empty.columns.values and not empty.events)
    return count


def read_through(store: OutboxStore) -> OutboxStore:
    """Read all that waits to be sent now: only then is it noticed that a batch's bytes have changed."""
    for stream, floor in store.floors().items():
        store.fetch(stream, floor, 10_000)
    return store


def contiguous(store: OutboxStore) -> None:
    """Check that what the store holds is what can be sent, without a hole."""
    held_numbers: dict[tuple[int, StreamClass], list[int]] = {}
    for epoch, stream, number in sorted(rows(store._path)):
        held_numbers.setdefault((epoch, stream), []).append(number)
    for epoch, states in store._epochs.items():
        for stream, state in states.items():
            assert held_numbers.pop((epoch, stream), []) == list(range(state.floor, state.next))
    assert not held_numbers


class TestRandomDamage:
    @given(seed=st.integers(0, 2**32), pages=st.integers(1, 8), acknowledged=st.booleans())
    @settings(max_examples=40, deadline=None)
    def test_each_batch_comes_back_as_it_was_or_lies_in_a_gap(
        self, tmp_path_factory: pytest.TempPathFactory, seed: int, pages: int, acknowledged: bool
    ) -> None:
        folder, chance, clock = tmp_path_factory.mktemp("outbox"), random.Random(seed), HandClock()
        path = folder / "outbox.db"
        store = open_store(folder, clock)
        before = fill(store, clock, 40, seed)
        if acknowledged:  # what is let go stays in free pages
            marks = (StreamMark(BULK, 9), StreamMark(ORDINARY, 12), StreamMark(EVENTS, 5))
            store.commit([], marks)
            before = {key: one for key, one in before.items() if key[2] >= store.streams[key[1]].floor}
        store.end_run()
        overwrite(path, chance, pages)
        again = read_through(open_store(folder, clock))
        back(path, before)
        contiguous(again)
        again.commit([gathered(stream, [1]) for stream in StreamClass], [])
        let_go()

    @given(seed=st.integers(0, 2**32), pages=st.integers(0, 3), frames=st.integers(1, 3))
    @settings(max_examples=40, deadline=None)
    def test_a_damaged_log_loses_nothing_unsaid_and_no_number_is_used_twice(
        self, tmp_path_factory: pytest.TempPathFactory, seed: int, pages: int, frames: int
    ) -> None:
        folder, chance, clock = tmp_path_factory.mktemp("outbox"), random.Random(seed), HandClock()
        store = open_store(folder, clock)
        before = fill(store, clock, 25, seed)
        killed = folder / "killed"
        killed.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(folder / f"outbox.db{suffix}", killed / f"outbox.db{suffix}")
        let_go()
        overwrite(killed / "outbox.db", chance, pages)
        overwrite(killed / "outbox.db-wal", chance, frames, zeros=False)
        again = read_through(open_store(killed, clock))
        back(killed / "outbox.db", before)
        contiguous(again)
        for one in again.commit([gathered(stream, [1]) for stream in StreamClass], []):
            assert before.get((one.epoch, one.stream, one.number)) is None
        let_go()


def damaged(folder: Path, clock: HandClock, turns: int = 40, seed: int = 7) -> tuple[int, dict[Key, Written]]:
    """Leave an outbox in which a page of batches, and nothing else, is noise; return its epoch and what it held."""
    store = open_store(folder, clock)
    before = fill(store, clock, turns, seed)
    store.end_run()
    path = folder / "outbox.db"
    content = bytearray(path.read_bytes())
    leaves = [n for n in range(8, len(content) // PAGE) if content[n * PAGE] == 0x0A]
    for page in leaves[len(leaves) // 2 : len(leaves) // 2 + 2]:
        content[page * PAGE : (page + 1) * PAGE] = random.Random(seed).randbytes(PAGE)
    path.write_bytes(content)
    return store.epoch, before


def sealing(clock: HandClock, folder: Path) -> Sealing:
    """Return how a store of this folder seals."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    store = open_store(elsewhere, clock)
    return store._sealing()


class TestWhatComesBack:
    def test_it_keeps_epoch_and_numbers_and_goes_first_and_what_follows_has_a_new_epoch(
        self, tmp_path: Path
    ) -> None:
        clock = HandClock()
        epoch, before = damaged(tmp_path, clock)
        store = open_store(tmp_path, clock)
        assert store.sending == epoch != store.epoch
        assert 0 < back(tmp_path / "outbox.db", before) < len(before)
        contiguous(store)
        (new,) = store.commit([gathered(ORDINARY, [1])], [])
        assert (new.epoch, new.number) == (store.epoch, 1)
        figures = store.figures(0)
        assert (figures.epoch, figures.sealing_epoch) == (epoch, store.epoch)
        assert {head.stream for head in figures.heads} == set(StreamClass)

    def test_what_is_lost_between_is_an_empty_batch_and_a_gap_with_its_numbers(self, tmp_path: Path) -> None:
        clock = HandClock()
        epoch, before = damaged(tmp_path, clock)
        store = open_store(tmp_path, clock)
        empty = {
            key
            for key, sealed in rows(tmp_path / "outbox.db").items()
            if key in before and before[key].sealed != sealed
        }
        assert empty
        for _, stream, number in empty:
            (found,) = store.fetch(stream, number, 1).batches
            batch = unseal(found.sealed)
            assert (batch.epoch, batch.number, batch.columns.values, batch.events) == (epoch, number, (), ())
        numbered = [gap for gap in gaps_in(held(tmp_path / "outbox.db")) if gap.first]
        told = {(epoch, gap.stream, n) for gap in numbered for n in range(gap.first, gap.last + 1)}
        assert empty <= told <= set(before)

    def test_what_is_told_survives_a_kill_right_after(self, tmp_path: Path) -> None:
        clock = HandClock()
        damaged(tmp_path, clock)
        assert ensure_sound(tmp_path / "outbox.db", sealing(clock, tmp_path))
        gaps = gaps_in(held(tmp_path / "outbox.db"))
        assert {gap.stream for gap in gaps} == set(StreamClass)
        assert not ensure_sound(tmp_path / "outbox.db", sealing(clock, tmp_path))
        open_store(tmp_path, clock)
        corrupt = [g for g in gaps_in(held(tmp_path / "outbox.db")) if g.cause is GapCause.CORRUPT]
        assert corrupt == gaps

    def test_a_file_whose_head_is_gone_gives_back_its_batches(self, tmp_path: Path) -> None:
        """Nothing leads to them any more: neither the schema nor the roots of its trees."""
        clock = HandClock()
        store = open_store(tmp_path, clock)
        before = fill(store, clock, 40)
        store.end_run()
        path = tmp_path / "outbox.db"
        content = bytearray(path.read_bytes())
        content[: 6 * PAGE] = random.Random(1).randbytes(6 * PAGE)
        path.write_bytes(content)
        again = open_store(tmp_path, clock)
        assert back(path, before) > 0.9 * len(before)
        assert again.sending == store.epoch
        contiguous(again)

    def test_damaged_again_before_the_old_epoch_is_drained_all_epochs_stay_in_their_order(
        self, tmp_path: Path
    ) -> None:
        clock = HandClock()
        before: dict[Key, Written] = {}
        epochs = []
        for seed in range(3):
            epoch, written = damaged(tmp_path, clock, seed=seed)
            before.update(written)
            epochs.append(epoch)
        store = open_store(tmp_path, clock)
        assert list(store._epochs) == [*epochs, store.epoch]
        assert len(set(store._epochs)) == 4
        contiguous(store)
        assert back(tmp_path / "outbox.db", before) > 0.8 * len(before)

    def test_a_batch_of_another_cabinet_or_number_is_not_believed(self, tmp_path: Path) -> None:
        """Its bytes fit their hash; only what they say of themselves tells."""
        clock = HandClock()
        store = open_store(tmp_path, clock)
        for number in range(4):
            store.commit([gathered(ORDINARY, [number])], [])
        db = store.db
        db.execute(
            "UPDATE batch SET (hash, sealed) = (SELECT hash, sealed FROM batch WHERE number = 1) WHERE number = 3"
        )
        db.execute("UPDATE stream SET taken = taken + 1")  # so that the file is found to be damaged
        store.end_run()
        open_store(tmp_path, clock)
        assert numbers_in(held(tmp_path / "outbox.db")) == [0, 1, 3]

    @pytest.mark.parametrize("hashed", [True, False])
    def test_bytes_that_another_cabinet_sealed_or_whose_hash_is_another_do_not_come_back(
        self, tmp_path: Path, hashed: bool
    ) -> None:
        clock = HandClock()
        store = open_store(tmp_path, clock)
        for number in range(4):
            store.commit([gathered(ORDINARY, [number])], [])
        batch = unseal(store.fetch(ORDINARY, 3, 1).batches[0].sealed)
        if hashed:
            sealed = seal(msgspec.structs.replace(batch, cabinet=CabinetId("dijon-0002")))
            store.db.execute("UPDATE batch SET hash = ? WHERE number = 3", (batch_hash(sealed),))
        else:
            sealed = seal(msgspec.structs.replace(batch, base_monotonic_ms=7))
        store.db.execute("UPDATE batch SET sealed = ? WHERE number = 3", (sealed,))
        store.db.execute("UPDATE stream SET taken = taken + 1")  # so that the file is found to be damaged
        store.end_run()
        open_store(tmp_path, clock)
        assert numbers_in(held(tmp_path / "outbox.db")) == [0, 1, 3]

    def test_what_was_let_go_and_stands_in_free_pages_does_not_come_back(self, tmp_path: Path) -> None:
        clock = HandClock()
        store = open_store(tmp_path, clock)
        store.db.execute("PRAGMA secure_delete=OFF")  # some builds of SQLite have it on
        for number in range(300):
            store.commit([gathered(ORDINARY, [number])], [])
        store.commit([], [StreamMark(ORDINARY, 280)])
        store.db.execute("UPDATE meta SET value = value + 1 WHERE key = 'run_began_ms'")  # damage enough
        store.end_run()
        again = open_store(tmp_path, clock)
        assert again.figures(0).salvaged is not None
        assert numbers_in(held(tmp_path / "outbox.db")) == list(range(280, 300))

    def test_how_the_last_run_ended_is_not_forgotten(self, tmp_path: Path) -> None:
        clock = HandClock()
        damaged(tmp_path, clock)
        assert open_store(tmp_path, clock).last_end is LastEnd.CLEAN
        (tmp_path / "crashed").mkdir()
        store = open_store(tmp_path / "crashed", clock)
        store.db.execute("UPDATE stream SET taken = 7")
        assert open_store(tmp_path / "crashed", clock).last_end is LastEnd.CRASH

    def test_a_commit_that_a_power_cut_has_torn_costs_an_epoch_and_nothing_is_called_damaged(
        self, tmp_path: Path
    ) -> None:
        """Its numbers may have been told: nobody can know that it was torn, and not damaged since."""
        clock = HandClock()
        store = open_store(tmp_path, clock)
        written = fill(store, clock, 6)
        last = store.commit([gathered(ORDINARY, [99])], [])[0]
        (tmp_path / "cut").mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / f"outbox.db{suffix}", tmp_path / "cut" / f"outbox.db{suffix}")
        wal = tmp_path / "cut" / "outbox.db-wal"
        wal.write_bytes(wal.read_bytes()[:-2000] + bytes(2000))
        again = open_store(tmp_path / "cut", clock)
        assert again.epoch != store.epoch == again.sending
        assert {k: one.sealed for k, one in written.items()}.items() <= rows(
            tmp_path / "cut/outbox.db"
        ).items()
        assert (last.epoch, last.stream, last.number) not in rows(tmp_path / "cut/outbox.db")
        assert {gap.cause for gap in gaps_in(held(tmp_path / "cut/outbox.db"))} == {GapCause.CRASH}
        assert again.figures(0).salvaged is None
        assert not list((tmp_path / "cut").glob("*.damaged*"))
        contiguous(again)

    def test_without_damage_nothing_is_touched(self, tmp_path: Path) -> None:
        clock = HandClock()
        store = open_store(tmp_path, clock)
        fill(store, clock, 5)
        store.end_run()
        content = (tmp_path / "outbox.db").read_bytes()
        assert not ensure_sound(tmp_path / "outbox.db", store._sealing())
        assert (tmp_path / "outbox.db").read_bytes() == content

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE stream SET next = next - 1 WHERE stream = 2",
            "UPDATE stream SET floor = floor + 1 WHERE stream = 2",
            "UPDATE stream SET mark = 7 WHERE stream = 2",
            "UPDATE epoch SET epoch = epoch + 2",
            "UPDATE meta SET value = '' WHERE key = 'running'",
            "UPDATE meta SET value = CAST(x'ff00ff' AS TEXT) WHERE key = 'running'",
            "DELETE FROM batch WHERE number = 2",
            "DELETE FROM stream WHERE stream = 2",
        ],
    )
    def test_a_number_that_changed_on_the_disk_is_noticed_although_the_file_is_sound(
        self, tmp_path: Path, change: str
    ) -> None:
        clock = HandClock()
        store = open_store(tmp_path, clock)
        before = {}
        for number in range(3):
            for one in store.commit([gathered(ORDINARY, [number])], []):
                before[one.epoch, one.stream, one.number] = Written(one.sealed, clock.utc_ms)
        store.db.execute(change)
        again = open_store(tmp_path, clock)
        assert again.epoch != store.epoch
        assert back(tmp_path / "outbox.db", before) == (2 if "FROM batch" in change else 3)
        contiguous(again)


class TestReplacing:
    @pytest.mark.parametrize("done", range(6))
    def test_killed_at_any_step_the_next_start_finishes_or_begins_again(
        self, tmp_path: Path, done: int
    ) -> None:
        clock = HandClock()
        epoch, before = damaged(tmp_path, clock)
        path, replacement = tmp_path / "outbox.db", Replacement(tmp_path / "outbox.db")
        original = path.read_bytes()
        how = sealing(clock, tmp_path)
        build(path, replacement.begin(), "noise", how)
        for step in replacement.steps(keep=True)[:done]:
            step()
        store = open_store(tmp_path, clock)
        assert store.sending == epoch
        back(path, before)
        contiguous(store)
        assert replacement.aside.read_bytes() == original
        assert not replacement.building.exists()
        assert not replacement.is_ready()

    def test_killed_while_the_new_file_is_built_it_is_begun_again(self, tmp_path: Path) -> None:
        clock = HandClock()
        epoch, before = damaged(tmp_path, clock)
        Replacement(tmp_path / "outbox.db").begin().write_bytes(b"half a file")
        assert open_store(tmp_path, clock).sending == epoch
        back(tmp_path / "outbox.db", before)

    def test_without_room_for_both_the_damaged_file_is_not_kept_and_the_outbox_says_so(
        self, tmp_path: Path
    ) -> None:
        clock = HandClock()
        _, before = damaged(tmp_path, clock)
        store = open_store(tmp_path, clock, max_mb=NO_ROOM_MB)  # more than the disk has
        back(tmp_path / "outbox.db", before)
        assert not list(tmp_path.glob("outbox.db.damaged*"))
        salvaged = store.figures(0).salvaged
        assert salvaged is not None
        assert salvaged.kept == ""

    def test_it_is_named_until_somebody_removes_it(self, tmp_path: Path) -> None:
        clock = HandClock()
        damaged(tmp_path, clock)
        store = open_store(tmp_path, clock)
        salvaged = store.figures(0).salvaged
        assert salvaged is not None
        assert salvaged.kept == str(tmp_path / "outbox.db.damaged")
        assert salvaged.batches > salvaged.lost > 0
        store.end_run()
        store = open_store(tmp_path, clock)
        assert store.figures(0).salvaged == salvaged
        (tmp_path / "outbox.db.damaged").unlink()
        assert store.figures(0).salvaged == msgspec.structs.replace(salvaged, kept="")


class TestEpochs:
    def test_acknowledgements_of_each_epoch_let_go_and_the_drained_one_is_forgotten(
        self, tmp_path: Path
    ) -> None:
        clock = HandClock()
        epoch, _ = damaged(tmp_path, clock)
        store = open_store(tmp_path, clock)
        store.commit([gathered(ORDINARY, [n]) for n in range(3)], [])
        store.commit([], [Ack(store.epoch, (StreamMark(ORDINARY, 2),))])
        assert store.streams[ORDINARY].floor == 3
        heads = store.figures(0).heads
        store.commit([], [Ack(epoch, tuple(StreamMark(h.stream, h.next - 1) for h in heads[:-1]))])
        assert store.sending == epoch
        store.commit([], [StreamMark(heads[-1].stream, heads[-1].next - 1)])
        assert store.sending == store.epoch
        assert store.figures(0).batches == len(rows(tmp_path / "outbox.db"))
        store.end_run()
        assert list(open_store(tmp_path, clock)._epochs) == [store.epoch]

    def test_the_centre_may_have_more_of_an_old_epoch_than_came_back(self, tmp_path: Path) -> None:
        """What was sent and lost before its acknowledgement came: no card was cloned."""
        clock = HandClock()
        epoch, _ = damaged(tmp_path, clock)
        store = open_store(tmp_path, clock)
        mark = StreamMark(ORDINARY, 9_999, "f" * 16)
        assert not store.disagrees(mark)
        store.commit([], [mark])
        assert not [key for key in rows(tmp_path / "outbox.db") if key[:2] == (epoch, ORDINARY)]
        assert not store.disagrees(mark)

    def test_the_centre_s_hash_of_what_was_emptied_here_is_no_disagreement(self, tmp_path: Path) -> None:
        clock = HandClock()
        _, before = damaged(tmp_path, clock)
        store = open_store(tmp_path, clock)
        after = rows(tmp_path / "outbox.db")
        _, stream, number = next(k for k, one in before.items() if k in after and after[k] != one.sealed)
        assert not store.disagrees(StreamMark(stream, number, "f" * 16))
        _, other, sound = next(k for k, one in before.items() if after.get(k) == one.sealed)
        assert store.disagrees(StreamMark(other, sound, "f" * 16))
        store.commit([], [StreamMark(stream, number, "f" * 16)])
        assert not store.disagrees(StreamMark(stream, number, "f" * 16))

    def test_only_the_epoch_that_the_centre_disagrees_about_is_renewed(self, tmp_path: Path) -> None:
        clock = HandClock()
        epoch, _ = damaged(tmp_path, clock)
        store = open_store(tmp_path, clock)
        store.commit([gathered(ORDINARY, [1])], [])
        newest, heads = store.epoch, [state.head() for state in store.streams.values()]
        numbers = numbers_in(held(tmp_path / "outbox.db"))
        store.renew_epoch(epoch)
        assert store.epoch == newest
        assert store.sending not in {epoch, newest}
        assert [state.head() for state in store.streams.values()] == heads
        assert sorted(map(str, numbers_in(held(tmp_path / "outbox.db")))) == sorted(map(str, numbers))
        contiguous(store)
        store.renew_epoch(epoch)  # it is not here any more
        assert newest == store.epoch

    def test_the_oldest_epoch_of_the_lowest_class_is_shed_first(self, tmp_path: Path) -> None:
        clock = HandClock()
        epoch, _ = damaged(tmp_path, clock)
        store = open_store(tmp_path, clock)
        weight_mb = store.figures(0).bytes / 1e6
        store.end_run()
        store = open_store(tmp_path, clock, max_mb=weight_mb)
        for number in range(200):
            store.commit([gathered(BULK, [number], text=random.Random(number).randbytes(500).hex())], [])
        kept = rows(tmp_path / "outbox.db")
        assert not [key for key in kept if key[:2] == (epoch, BULK)]
        assert [key for key in kept if key[:2] == (epoch, EVENTS)]
        contiguous(store)


class TestAtWork:
    """What rots while the agent runs, row by row."""

    def test_a_batch_that_is_gone_does_not_stop_its_stream(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)
        for number in range(4):
            store.commit([gathered(ORDINARY, [number])], [])
        store.db.execute("DELETE FROM batch WHERE number = 2")
        assert [one.number for one in store.fetch(ORDINARY, 1, 10).batches] == [1, 2, 3, 4]
        (gap,) = gaps_in(held(tmp_path / "outbox.db"))
        assert (gap.cause, gap.count, gap.first, gap.last) == (GapCause.CORRUPT, None, 2, 2)

    @pytest.mark.parametrize("column", ["utc_ms", "readings", "crc"])
    def test_a_column_that_changed_is_told_anew_from_the_batch(self, tmp_path: Path, column: str) -> None:
        store = open_store(tmp_path)
        store.commit([gathered(ORDINARY, range(5))], [])
        store.db.execute(f"UPDATE batch SET {column} = 77")  # noqa: S608  our own names
        again = open_store(tmp_path)
        assert len(again.fetch(ORDINARY, 1, 10).batches) == 1
        assert again.figures(0).readings == 5
        assert not [g for g in gaps_in(held(tmp_path / "outbox.db")) if g.cause is GapCause.CORRUPT]

    @pytest.mark.parametrize(
        "change",
        [
            "sealed = 7",
            "sealed = 'text', hash = 9",
            "utc_ms = 'never', sealed = x'00'",
            "hash = CAST(x'ff00ff' AS TEXT)",
        ],
    )
    def test_a_column_of_another_type_is_no_more_than_a_damaged_batch(
        self, tmp_path: Path, change: str
    ) -> None:
        store = open_store(tmp_path)
        store.commit([gathered(ORDINARY, range(5))], [])
        store.db.execute(f"UPDATE batch SET {change}")  # noqa: S608  our own words
        assert len(store.fetch(ORDINARY, 1, 10).batches) == 1
        assert [gap.first for gap in gaps_in(held(tmp_path / "outbox.db"))] == [1]

    def test_a_count_that_cannot_be_believed_is_not_told(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)
        store.commit([gathered(ORDINARY, range(5))], [])
        store.db.execute("UPDATE batch SET readings = 77, sealed = x'00'")
        store.fetch(ORDINARY, 1, 10)
        (gap,) = gaps_in(held(tmp_path / "outbox.db"))
        assert gap.count is None


def test_a_disk_without_room_for_a_copy_keeps_what_fits_and_tells_the_rest(tmp_path: Path) -> None:
    clock = HandClock()
    with small_disk(tmp_path / "disk", 16) as disk:
        store = open_store(disk.folder, clock)
        before: dict[Key, Written] = {}
        for number in range(900):
            text = random.Random(number).randbytes(4500).hex()
            for one in store.commit([gathered(BULK, [number], text=text), gathered(EVENTS, [number])], []):
                before[one.epoch, one.stream, one.number] = Written(one.sealed, clock.utc_ms)
        store.db.execute("UPDATE stream SET taken = 7")
        store.end_run()
        disk.fill(leave_bytes=4 << 20)
        again = open_store(disk.folder, clock)
        count = back(disk.folder / "outbox.db", before)
        assert 300 < count < len(before)
        contiguous(again)
        assert not list(disk.folder.glob("outbox.db.*"))
        again.db.close()
