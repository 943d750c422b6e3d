"""What the outbox asks of a disk: commits beside plain synced appends, and bytes for each reading.

Both sides write to one folder of a real file system, in turn, one of each at a time, so that whatever else the disk
does meets both. A commit is the product's own: it seals a batch of a hundred readings, inserts it, and deletes one
that is acknowledged.
"""

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec

from edge.clock import SystemClock
from edge.outbox.store import Gathered, OutboxStore
from protocols.backhaul.messages import StreamMark
from protocols.model.device import StreamClass
from tests.bench.outbox_taken import PER_BATCH, batches, open_store
from tests.bench.report import Figure, figure, not_measured

APPEND_BYTES = 4096
UNACKNOWLEDGED = 20
"""As many batches as a window wait for the centre meanwhile."""
IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})

COMMITS_GOAL, BYTES_GOAL = ">= 0.35", "<= 300"


class Extent(msgspec.Struct, frozen=True):
    """How much is written.

    Attributes:
        pairs: of a commit and an append, in a round; the rounds together meet some checkpoints of the write-ahead
            log, one at about every 300 commits.
        warm_up: commits before bytes are counted, so that the file has its size.
        counted: commits of which they are counted, with some ten checkpoints.
    """

    pairs: int = 200
    warm_up: int = 400
    counted: int = 3_000


class Appender:
    """The reference: a file that grows by 4 KiB at a time, each synced."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._block = os.urandom(APPEND_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def append(self) -> None:
        """Write a block and wait until it is on the disk."""
        os.write(self._file, self._block)
        os.fdatasync(self._file)


class Committer:
    """The product: one commit after the other, with a window's batches unacknowledged."""

    def __init__(self, store: OutboxStore, source: Iterator[Gathered]) -> None:
        self._store = store
        self._source = source

    def prepare(self) -> tuple[Gathered, list[StreamMark]]:
        """Return what the next commit inserts, and up to where it deletes."""
        last = self._store.streams[StreamClass.ORDINARY].next - UNACKNOWLEDGED
        return next(self._source), [StreamMark(StreamClass.ORDINARY, last)] if last > 0 else []

    def commit(self, prepared: tuple[Gathered, list[StreamMark]]) -> int:
        """Commit; return how many bytes were sealed."""
        gathered, marks = prepared
        (sealed,) = self._store.commit([gathered], marks)
        return len(sealed.sealed)


def figures(folder: Path, rounds: int, extent: Extent = Extent()) -> list[Figure]:  # noqa: B008  frozen
    """Measure both."""
    folder.mkdir()
    kind = file_system(folder)
    if kind in IN_MEMORY:
        why = f"{folder} is on {kind}, which syncs nothing"
        return [
            not_measured("commits_per_fdatasync", "ratio", COMMITS_GOAL, why),
            not_measured("bytes_written_per_reading", "B", BYTES_GOAL, why),
        ]
    clock = SystemClock()
    store = open_store(folder / "cabinet", clock)
    with Appender(folder / "appended") as appender:
        committer = Committer(store, batches(clock))
        ours, theirs = [], []
        for _ in range(3 * rounds):
            mine, his = _pairs(committer, appender, extent.pairs)
            ours.append(mine)
            theirs.append(his)
        commits = _commit_figure(ours, theirs, extent.pairs, kind)
        written = _bytes_figure(committer, appender, extent)
    store.end_run()
    return [commits, written]


def _pairs(committer: Committer, appender: Appender, pairs: int) -> tuple[float, float]:
    """Return the seconds of a round's commits and of its appends, which alternate."""
    ours = theirs = 0.0
    for _ in range(pairs):
        prepared = committer.prepare()
        begun = time.perf_counter()
        appender.append()
        between = time.perf_counter()
        committer.commit(prepared)
        theirs += between - begun
        ours += time.perf_counter() - between
    return ours, theirs


def _commit_figure(ours: list[float], theirs: list[float], pairs: int, kind: str) -> Figure:
    ratio = statistics.median(his / mine for mine, his in zip(ours, theirs, strict=True))
    per_s = [pairs / statistics.median(side) for side in (ours, theirs)]
    beside = (
        f"{per_s[0]:.0f} commits/s beside {per_s[1]:.0f} appends of 4 KiB with fdatasync, on {kind},"
        f" median of {len(ours)} rounds, one of each in turn"
    )
    return figure("commits_per_fdatasync", ratio, "ratio", COMMITS_GOAL, beside)


def _bytes_figure(committer: Committer, appender: Appender, extent: Extent) -> Figure:
    """Count what this process gives the disk for each reading; nothing else of it writes meanwhile."""
    for _ in range(extent.warm_up):
        committer.commit(committer.prepare())
    before = process_bytes()
    sealed = sum(committer.commit(committer.prepare()) for _ in range(extent.counted))
    written, handed = (now - then for now, then in zip(process_bytes(), before, strict=True))
    before = process_bytes()
    for _ in range(extent.pairs):
        appender.append()
    appended = (process_bytes()[0] - before[0]) / extent.pairs
    readings = extent.counted * PER_BATCH
    if appended < APPEND_BYTES:
        why = f"write_bytes of /proc/self/io says {appended:.0f} B of a synced 4 KiB append: it does not count here"
        return not_measured("bytes_written_per_reading", "B", BYTES_GOAL, why)
    beside = (
        f"write_bytes of /proc/self/io: pages dirtied for the disk, {appended:.0f} B for a 4 KiB append;"
        f" {handed / readings:.0f} B by write calls, {sealed / readings:.1f} B sealed"
    )
    return figure("bytes_written_per_reading", written / readings, "B", BYTES_GOAL, beside)


def process_bytes() -> tuple[int, int]:
    """Return write_bytes and wchar of this process: what reached the block layer's caches, what was handed over."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    counted = dict(line.split(": ") for line in lines)
    return int(counted["write_bytes"]), int(counted["wchar"])


def file_system(folder: Path) -> str:
    """Return the kind of file system that a folder is on, as the kernel calls it."""
    path = folder.resolve()
    mounts = {}
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        mounts[Path(fields[4])] = fields[fields.index("-") + 1]
    return next(mounts[parent] for parent in (path, *path.parents) if parent in mounts)
