"""Who ingests what: each shard is leased to one worker, and only its holder can commit or acknowledge.

A lease is a row: its owner, which run of it, and a fencing number that grows each time it changes hands. A round
of the store begins by looking which leases are still its own, in the transaction that it commits with: whoever
stalled and lost a shard finds that out before it can write or acknowledge anything of it.

All workers of a database share a machine, so its monotonic clock measures expiry, and its boot id tells that
all of before a restart is over. A worker that is alone renews nothing: a newcomer lets everybody the time of a
whole lease to answer before it takes anything. A name belongs to one process at a time (a file lock), so a
worker that starts again takes its former leases at once. One that has lost the broker hears no cabinet, and gives
its shards to those who do.
"""

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Mapping

import msgspec

from central.clock import machine_boot
from central.effects import Effects
from central.store.writer import Caches, Tx
from protocols.backhaul.topics import SHARDS
from protocols.clock import Clock

SERVING = "serve"
"""The name of the aggregator's own process among those that ingest."""
LEASE_MS = 6_000
"""A worker that stalls is replaced after this and a tick of the store, about half a second."""
RENEW_BELOW_MS = 4_000
MAX_CHANGES = 5_000
"""Live changes that wait for the API's process; beyond, the oldest give way."""


class Worker(msgspec.Struct, frozen=True):
    """A process that ingests, as the others see it.

    Attributes:
        run: which run of the process: random.
        boot: which boot of the machine.
        until_ms: monotonic milliseconds until which it holds what it holds, if it does not renew.
        hears: whether the broker lets it hear cabinets.
    """

    name: str
    run: str
    boot: str
    until_ms: int
    hears: bool


class Lease(msgspec.Struct, frozen=True):
    """A shard's lease. `owner` is "" while nobody has it."""

    shard: int
    owner: str
    run: str
    fence: int


def quota(name: str, names: Iterable[str]) -> int:
    """Return how many shards are a worker's fair share; all shares together are all shards."""
    ordered = sorted(names)
    share, rest = divmod(SHARDS, len(ordered))
    return share + (ordered.index(name) < rest)


class Shards:
    """The leases of this process. Used in the store's thread alone, but for `held` and `leaving`.

    Attributes:
        held: shards whose messages may be committed, as of the last round.
        leaving: those of them that are to be given to others, once nothing of them is under way here.
        alone: whether no other process ingests.
        watched: whether somebody watches live changes at the API's process.
    """

    def __init__(self, name: str, clock: Clock, hears: Callable[[], bool], *, relays: bool) -> None:
        """Begin without any.

        Args:
            name: of this process among those that ingest; nobody else may run under it.
            clock: the time.
            hears: tells whether the broker lets us hear cabinets; shards go to those who do.
            relays: whether watchers are at another process.
        """
        self.name = name
        self._relays = relays
        self._hears = hears
        self.held: frozenset[int] = frozenset()
        self.leaving: frozenset[int] = frozenset()
        self.alone = True
        self.watched = False
        self._clock = clock
        self._run = secrets.token_hex(8)
        self._boot = machine_boot()
        self._joined_ms = 0
        self._taken: dict[int, int] = {}
        self._version: int | None = None
        self._inventory = ""

    # At the beginning and the end of each transaction

    def begin(self, db: sqlite3.Connection, caches: Caches) -> frozenset[int]:
        """Return the shards that are this process's now; forget what another process has made untrue."""
        version = db.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            self._look(db, caches)
            self._version = version
        return self.held

    def _look(self, db: sqlite3.Connection, caches: Caches) -> None:
        self.held = self._held(db)
        notes = dict(db.execute("SELECT name, value FROM centre WHERE name IN ('inventory', 'watched')"))
        if notes.get("inventory", "") != self._inventory:
            caches.owners.clear()
            self._inventory = notes.get("inventory", "")
        self.watched = notes.get("watched") == "1"

    def _held(self, db: sqlite3.Connection) -> frozenset[int]:
        mine = db.execute(
            "SELECT shard, fence FROM shard_lease WHERE owner = ? AND run = ?", (self.name, self._run)
        )
        return frozenset(shard for shard, fence in mine if self._taken.get(shard) == fence)

    def is_watched(self) -> bool:
        """Tell whether somebody watches live changes at the API's process."""
        return self.watched

    def undone(self) -> None:
        """Take note that a transaction was rolled back: look again at the next."""
        self._version = None

    def keep_changes(self, db: sqlite3.Connection, effects: Effects) -> None:
        """Write down what watchers want to see, for the API's process to tell, before the commit."""
        if not (self._relays and self.watched and effects.changes):
            return
        db.executemany(
            "INSERT INTO change (kind, cabinet, body) VALUES (?, ?, ?)",
            [(one.kind.value, one.cabinet, msgspec.json.encode(one.body)) for one in effects.changes],
        )
        db.execute("DELETE FROM change WHERE id <= (SELECT max(id) FROM change) - ?", (MAX_CHANGES,))

    # Within a tick

    def tend(self, tx: Tx) -> None:
        """Stay in the list of workers, renew if anybody else is in it, and come to a fair share."""
        now_ms = self._clock.now().monotonic_ms
        workers = {one.name: one for one in _workers(tx.db)}
        if workers.get(self.name) is None or workers[self.name].run != self._run:
            self._join(tx, now_ms)
        others = {name: one for name, one in workers.items() if name != self.name}
        living = {self.name} | {name for name, one in others.items() if self._lives(one, now_ms)}
        self.alone = len(living) == 1
        hears = self._hears()
        if not self.alone and self._is_due(workers.get(self.name), now_ms, hears=hears):
            tx.db.execute(
                "UPDATE ingest_worker SET until_ms = ?, hears = ? WHERE name = ?",
                (now_ms + LEASE_MS, hears, self.name),
            )
        for name in others.keys() - living:
            tx.db.execute("DELETE FROM ingest_worker WHERE name = ?", (name,))
        able = {name for name in living if (hears if name == self.name else others[name].hears)}
        runs = {name: one.run for name, one in others.items() if name in living}
        self._share(tx, able or living, {**runs, self.name: self._run})

    def _join(self, tx: Tx, now_ms: int) -> None:
        self._joined_ms = now_ms
        tx.db.execute(
            "INSERT OR REPLACE INTO ingest_worker (name, run, boot, pid, until_ms, hears)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (self.name, self._run, self._boot, os.getpid(), now_ms + LEASE_MS, self._hears()),
        )

    def _lives(self, other: Worker, now_ms: int) -> bool:
        from_now_on = other.boot == self._boot and other.until_ms <= now_ms + LEASE_MS
        return from_now_on and max(other.until_ms, self._joined_ms + LEASE_MS) >= now_ms

    @staticmethod
    def _is_due(me: Worker | None, now_ms: int, *, hears: bool) -> bool:
        return me is None or me.until_ms - now_ms < RENEW_BELOW_MS or me.hears is not hears

    def _share(self, tx: Tx, able: set[str], runs: Mapping[str, str]) -> None:
        leases = _leases(tx.db)
        free = [one for one in leases if runs.get(one.owner) != one.run]
        mine = sorted(one.shard for one in leases if one.owner == self.name and one.run == self._run)
        fair = quota(self.name, able) if self.name in able else 0
        self.leaving = frozenset(mine[fair:])
        for one in free[: max(0, fair - len(mine))]:
            self._take(tx, one)

    def _take(self, tx: Tx, lease: Lease) -> None:
        self._taken[lease.shard] = lease.fence + 1
        tx.db.execute(
            "UPDATE shard_lease SET owner = ?, run = ?, fence = ? WHERE shard = ?",
            (self.name, self._run, lease.fence + 1, lease.shard),
        )
        self._version = None

    def release(self, tx: Tx, shards: frozenset[int]) -> None:
        """Give up leases: nothing of these shards is under way here any more."""
        tx.db.executemany(
            "UPDATE shard_lease SET owner = '', run = '' WHERE shard = ? AND owner = ? AND run = ?",
            [(shard, self.name, self._run) for shard in sorted(shards)],
        )
        self._version = None

    def leave(self, tx: Tx) -> None:
        """Give up everything, and the place in the list."""
        self.release(tx, frozenset(range(SHARDS)))
        tx.db.execute("DELETE FROM ingest_worker WHERE name = ? AND run = ?", (self.name, self._run))

    def look_again(self, db: sqlite3.Connection) -> frozenset[int]:
        """Return what is held after a commit that may have changed it."""
        if self._version is None:
            self.held = self._held(db)
        return self.held


def _workers(db: sqlite3.Connection) -> list[Worker]:
    found = db.execute("SELECT name, run, boot, until_ms, hears FROM ingest_worker")
    return [Worker(name, run, boot, until_ms, bool(hears)) for name, run, boot, until_ms, hears in found]


def _leases(db: sqlite3.Connection) -> list[Lease]:
    found = db.execute("SELECT shard, owner, run, fence FROM shard_lease ORDER BY shard")
    return [Lease(*one) for one in found]
