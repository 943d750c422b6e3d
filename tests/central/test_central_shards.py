"""Leases of shards, tick by tick on a real store: fair shares, bounded replacement, and no commit without one."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from central.effects import Change, ChangeKind, Effects
from central.errors import NotHeldError
from central.ingest import Ingest
from central.relay import Collector
from central.shards import LEASE_MS, MAX_CHANGES, Shards, quota
from central.store import schema
from central.store.writer import Caches, Tx, connect
from protocols.backhaul.topics import SHARDS, shard
from protocols.model.ids import CabinetId
from tests.central.cabinet_double import CabinetDouble, Message, taken
from tests.central.desk import TestClock

LEASE_S = LEASE_MS / 1000
TICK_S = 0.5
ALL = frozenset(range(SHARDS))


class Process:
    """One process that ingests: its leases and its connection, driven by hand."""

    def __init__(self, path: Path, name: str, clock: TestClock, *, relays: bool = True) -> None:
        self.hears = True
        self.shards = Shards(name, clock, lambda: self.hears, relays=relays)
        self.caches = Caches()
        self.ingest = Ingest()
        self.db = connect(path)
        self._clock = clock

    def tick(self) -> Effects:
        """Do a tick, then give up at once what is to be given to others."""
        effects = self.round(self.shards.tend)
        leaving = self.shards.leaving & self.shards.held
        if leaving:
            self.round(lambda tx: self.shards.release(tx, leaving))
        return effects

    def round(self, *jobs: object) -> Effects:
        self.db.execute("BEGIN IMMEDIATE")
        held = self.shards.begin(self.db, self.caches)
        now_ms = self._clock.now().utc_ms
        tx = Tx(self.db, now_ms, now_ms, self.caches, watched=self.shards.watched, shards=held)
        try:
            for job in jobs:
                job(tx)  # type: ignore[operator]  # a job
        except BaseException:
            self.db.execute("ROLLBACK")
            self.caches.clear()
            self.shards.undone()
            raise
        self.shards.keep_changes(self.db, tx.effects)
        self.db.execute("COMMIT")
        self.shards.look_again(self.db)
        return tx.effects

    def deliver(self, message: Message) -> bool:
        """Take a message in; tell whether it was accepted."""
        try:
            self.round(lambda tx: self.ingest.receive(tx, message.topic, message.payload))
        except NotHeldError:
            return False
        return True


class Street:
    """A database and the processes on it."""

    def __init__(self, path: Path) -> None:
        schema.prepare(path)
        self.path = path
        self.clock = TestClock()
        self.processes: dict[str, Process] = {}

    def begin(self, name: str) -> Process:
        self.processes[name] = Process(self.path, name, self.clock, relays=name != "serve")
        self.processes[name].tick()
        return self.processes[name]

    def pass_s(self, seconds: float, *living: str) -> None:
        """Let time pass, with a tick of each that lives twice a second."""
        for _ in range(round(seconds / TICK_S)):
            self.clock.pass_s(TICK_S)
            for name in living:
                self.processes[name].tick()

    def held(self, *names: str) -> list[int]:
        found = [self.processes[name].shards.held for name in names]
        assert sum(len(one) for one in found) == len(frozenset().union(*found)), "a shard has two holders"
        return [len(one) for one in found]

    def close(self) -> None:
        for process in self.processes.values():
            process.db.close()


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    opened = Street(tmp_path / "central.db")
    yield opened
    opened.close()


def test_one_alone_holds_all_and_writes_nothing_more(street: Street) -> None:
    serve = street.begin("serve")
    assert street.held("serve") == [64]
    before = serve.db.total_changes
    street.pass_s(600, "serve")
    assert serve.db.total_changes == before


def test_a_newcomer_gets_its_fair_share_within_a_few_ticks(street: Street) -> None:
    street.begin("serve")
    street.pass_s(200, "serve")
    street.begin("w1")
    street.pass_s(2, "serve", "w1")
    assert street.held("serve", "w1") == [32, 32]
    street.begin("w2")
    street.pass_s(3, "serve", "w1", "w2")
    assert street.held("serve", "w1", "w2") == [22, 21, 21]


def test_a_worker_that_dies_is_replaced_within_ten_seconds(street: Street) -> None:
    for name in ("serve", "w1", "w2"):
        street.begin(name)
    street.pass_s(5, "serve", "w1", "w2")
    street.pass_s(8, "serve", "w2")
    assert street.held("serve", "w2") == [32, 32]


def test_a_worker_that_leaves_is_replaced_at_the_next_tick(street: Street) -> None:
    street.begin("serve")
    worker = street.begin("w1")
    street.pass_s(5, "serve", "w1")
    worker.round(worker.shards.leave)
    street.pass_s(0.5, "serve")
    assert street.held("serve", "w1") == [64, 0]


def test_who_has_lost_the_broker_gives_its_shards_to_those_who_hear(street: Street) -> None:
    for name in ("serve", "w1", "w2"):
        street.begin(name)
    street.pass_s(5, "serve", "w1", "w2")
    street.processes["w1"].hears = False
    street.pass_s(2, "serve", "w1", "w2")
    assert street.held("serve", "w1", "w2") == [32, 0, 32]
    for process in street.processes.values():
        process.hears = False
    street.pass_s(2, "serve", "w1", "w2")
    assert sum(street.held("serve", "w1", "w2")) == SHARDS
    street.processes["w1"].hears = True
    street.pass_s(2, "serve", "w1", "w2")
    assert street.held("serve", "w1", "w2") == [0, 64, 0]


def test_a_worker_that_starts_again_takes_its_own_at_once(street: Street) -> None:
    """Its name's file lock is its own, so the one before is dead for certain."""
    street.begin("serve")
    street.pass_s(100, "serve")
    former = street.processes["serve"]
    street.begin("serve")
    assert street.held("serve") == [64]
    assert not former.deliver(CabinetDouble().hello())


def test_a_newcomer_waits_a_whole_lease_before_it_takes_from_one_who_was_alone(street: Street) -> None:
    """One that was alone has not renewed for hours, and yet it lives."""
    serve = street.begin("serve")
    street.pass_s(500, "serve")
    street.begin("w1")
    street.pass_s(LEASE_S - 1, "w1")
    assert street.held("serve", "w1") == [64, 0]
    assert serve.deliver(CabinetDouble().hello())
    street.pass_s(2, "w1")
    assert street.processes["w1"].shards.held == ALL


def test_who_stalled_and_lost_a_shard_can_neither_commit_nor_acknowledge(street: Street) -> None:
    cabinet = CabinetDouble()
    cabinet.seal([taken(cabinet.lamp(), 1)])
    stalled = street.begin("w1")
    assert stalled.deliver(cabinet.hello())
    street.begin("w2")
    street.pass_s(LEASE_S + 1, "w2")
    with pytest.raises(NotHeldError):
        stalled.round(lambda tx: stalled.ingest.receive(tx, *_parts(cabinet.message(1))))
    assert stalled.ingest.counts.elsewhere == 1
    assert stalled.ingest.counts.refused() == {}
    other = street.processes["w2"]
    assert other.db.execute("SELECT count(*) FROM reading").fetchone() == (0,)
    assert other.deliver(cabinet.message(1))
    assert other.db.execute("SELECT count(*) FROM reading").fetchone() == (1,)


def _parts(message: Message) -> tuple[str, bytes]:
    return message.topic, message.payload


def test_a_lease_is_known_by_its_fencing_number_not_by_its_holders_name(street: Street) -> None:
    worker = street.begin("w1")
    here = shard(CabinetId("cab-1"))
    with sqlite3.connect(street.path) as db:
        db.execute("UPDATE shard_lease SET fence = fence + 1 WHERE shard = ?", (here,))
    db.close()
    assert not worker.deliver(CabinetDouble().hello())
    assert worker.shards.held == ALL - {here}


def test_a_fence_only_grows(street: Street) -> None:
    fences = [0] * SHARDS
    for number in range(6):
        names = ["serve"] if number % 2 else ["serve", "w1"]
        for name in names:
            if name not in street.processes or number == 3:
                street.begin(name)
        street.pass_s(LEASE_S + 3, *names)
        now = [fence for (fence,) in street.processes["serve"].db.execute("SELECT fence FROM shard_lease")]
        assert all(after >= before for before, after in zip(fences, now, strict=True))
        fences = now
    assert max(fences) > 2


def test_after_the_machine_restarted_nobody_waits_for_who_was_there_before(street: Street) -> None:
    street.begin("w1")
    street.clock.pass_s(10**6)
    street.processes["w1"].tick()
    with sqlite3.connect(street.path) as db:
        db.execute("UPDATE ingest_worker SET boot = 'the boot before'")
    db.close()
    street.clock.utc_ms -= 10**9  # monotonic time begins anew
    street.begin("serve")
    assert street.held("serve") == [64]


def test_what_another_process_says_of_a_devices_owner_is_heard(street: Street) -> None:
    """A device is moved to a cabinet that another process ingests; this one remembered whose it was."""
    here, there = street.begin("w1"), street.begin("w2")
    street.pass_s(5, "w1", "w2")
    names = [f"cab-{number}" for number in range(100)]
    old = CabinetDouble(next(one for one in names if shard(CabinetId(one)) in here.shards.held), lamps=1)
    new = CabinetDouble(next(one for one in names if shard(CabinetId(one)) in there.shards.held), lamps=0)
    for number in range(3):
        old.seal([taken(old.lamp(), number)])
    device, old.inventory = old.inventory, ()
    assert here.deliver(old.hello())
    assert here.deliver(old.message(1))
    assert here.deliver(old.message(2))
    new.inventory = device
    assert there.deliver(new.hello())
    assert here.deliver(old.message(3))
    assert here.db.execute("SELECT value FROM reading").fetchall() == [(0,), (1,)]
    assert here.db.execute("SELECT owner FROM refused_device").fetchall() == [(new.id,)]


class Body(msgspec.Struct, frozen=True):
    n: int


def _noted(*numbers: int) -> object:
    def note(tx: Tx) -> None:
        tx.effects.changes += [Change(ChangeKind.ALARM, CabinetId("cab-1"), Body(n)) for n in numbers]

    return note


def _told(effects: Effects) -> list[int]:
    return [msgspec.json.decode(msgspec.json.encode(one.body))["n"] for one in effects.changes]


class TestLiveChanges:
    """What a worker commits is seen by those who watch at the API's process, and costs nothing while nobody does."""

    def test_they_are_brought_over_once_and_in_order(self, street: Street) -> None:
        serve, worker = street.begin("serve"), street.begin("w1")
        collector = Collector(serve.shards, lambda: True)
        street.pass_s(1, "serve", "w1")
        serve.round(collector.collect)
        worker.round(_noted(1, 2))
        worker.round(_noted(3))
        assert _told(serve.round(collector.collect)) == [1, 2, 3]
        assert _told(serve.round(collector.collect)) == []

    def test_nothing_is_written_while_nobody_watches(self, street: Street) -> None:
        serve, worker = street.begin("serve"), street.begin("w1")
        watching = True
        collector = Collector(serve.shards, lambda: watching)
        street.pass_s(1, "serve", "w1")
        serve.round(collector.collect)
        worker.round(_noted(1))
        watching = False
        assert _told(serve.round(collector.collect)) == []
        worker.round(_noted(2))
        assert worker.db.execute("SELECT count(*) FROM change").fetchone() == (0,)

    def test_the_aggregators_own_changes_are_not_told_twice(self, street: Street) -> None:
        serve = street.begin("serve")
        street.begin("w1")
        collector = Collector(serve.shards, lambda: True)
        street.pass_s(1, "serve", "w1")
        serve.round(collector.collect)
        serve.round(_noted(1))
        assert _told(serve.round(collector.collect)) == []

    def test_alone_nothing_is_asked_or_written(self, street: Street) -> None:
        serve = street.begin("serve")
        before = serve.db.total_changes
        serve.round(Collector(serve.shards, lambda: True).collect)
        assert serve.db.total_changes == before

    def test_when_the_aggregator_is_gone_what_waits_is_bounded(self, street: Street) -> None:
        serve, worker = street.begin("serve"), street.begin("w1")
        street.pass_s(1, "serve", "w1")
        serve.round(Collector(serve.shards, lambda: True).collect)
        for first in range(0, MAX_CHANGES + 3_000, 500):
            worker.round(_noted(*range(first, first + 500)))
        found = worker.db.execute("SELECT count(*), max(id) - min(id) FROM change").fetchone()
        assert found == (MAX_CHANGES, MAX_CHANGES - 1)


@given(st.sets(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=80))
def test_fair_shares_are_all_shards_and_differ_by_one_at_most(names: set[str]) -> None:
    shares = [quota(name, names) for name in names]
    assert sum(shares) == SHARDS
    assert max(shares) - min(shares) <= 1


NAMES = ("serve", "w1", "w2", "w3")
stories = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from(NAMES)),
        st.tuples(st.just("die"), st.sampled_from(NAMES)),
        st.tuples(st.just("stall"), st.sampled_from(NAMES)),
        st.tuples(st.just("wake"), st.sampled_from(NAMES)),
        st.tuples(st.just("wait"), st.integers(1, 16)),
    ),
    max_size=14,
)


@settings(max_examples=25, deadline=None)
@given(story=stories)
def test_whoever_comes_dies_stalls_and_wakes_no_shard_has_two_holders_and_none_is_forgotten(
    tmp_path_factory: pytest.TempPathFactory, story: list[tuple[str, str | int]]
) -> None:
    street = Street(tmp_path_factory.mktemp("street") / "central.db")
    state = dict.fromkeys(NAMES, "dead")
    for verb, who in story:
        match verb, who:
            case "begin", str(name) if state[name] == "dead":
                if name in street.processes:
                    street.processes[name].db.close()
                street.begin(name)
                state[name] = "lives"
            case "die", str(name):
                state[name] = "dead"
            case "stall", str(name) if state[name] == "lives":
                state[name] = "stalled"
            case "wake", str(name) if state[name] == "stalled":
                state[name] = "lives"
            case "wait", int(ticks):
                street.pass_s(ticks * TICK_S, *_those(state))
        _each_shard_commits_at_one_process_only(street, state)
    street.pass_s(10, *_those(state))
    living = _those(state)
    if living:
        assert sorted(street.held(*living)) == sorted(quota(name, living) for name in living)
    street.close()


def _those(state: dict[str, str]) -> list[str]:
    return [name for name, one in state.items() if one == "lives"]


def _each_shard_commits_at_one_process_only(street: Street, state: dict[str, str]) -> None:
    """Ask each process, stalled ones as if they woke in this moment, of whom it would commit."""
    able: list[int] = []
    for name, one in state.items():
        if one != "dead":
            process = street.processes[name]
            process.db.execute("BEGIN IMMEDIATE")
            able += process.shards.begin(process.db, process.caches)
            process.db.execute("ROLLBACK")
    assert len(able) == len(set(able))
