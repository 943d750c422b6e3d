"""Let an operation's first call on the disk fail, then its second, and so on until it completes untouched.

With `FAULTS_EVERY=1` nothing is left out: each fault, each call, each way in which a story may go on. Without, some
faults are tried, calls are thinned out where an operation has very many, and each call is followed by one of those
ways, another one for the next call.
"""

import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

import msgspec

from tests.faults.disk import SHORT, Disk, File, Kind

EVERY = os.environ.get("FAULTS_EVERY") == "1"
DENSE = 24
"""So many calls are tried one by one in any case."""


class Fault(msgspec.Struct, frozen=True):
    """A way in which one call fails, or from one call on all do."""

    kind: Kind
    error: int = errno.EIO
    lasting: bool = False
    evict: bool = False

    def __str__(self) -> str:
        error = "short" if self.error == SHORT else errno.errorcode[self.error]
        kind = (self.kind.name or str(self.kind)).lower()
        return f"{kind}-{error}-{'lasting' if self.lasting else 'passing'}{'-evicted' if self.evict else ''}"


_ALL = (
    *(Fault(Kind.WRITE, error, lasting) for error in (errno.EIO, errno.ENOSPC) for lasting in (False, True)),
    Fault(Kind.WRITE, SHORT),
    *(Fault(Kind.SYNC, error, lasting) for error in (errno.EIO, errno.ENOSPC) for lasting in (False, True)),
    *(Fault(Kind.SYNC, errno.EIO, lasting, evict=True) for lasting in (False, True)),
    *(
        Fault(Kind.TRUNCATE, error, lasting)
        for error in (errno.EIO, errno.ENOSPC)
        for lasting in (False, True)
    ),
    *(Fault(Kind.READ, errno.EIO, lasting) for lasting in (False, True)),
    *(Fault(Kind.OPEN, error, lasting) for error in (errno.EIO, errno.EMFILE) for lasting in (False, True)),
    *(Fault(Kind.REMOVE, errno.EIO, lasting) for lasting in (False, True)),
    *(Fault(Kind.ANY, errno.EIO, lasting) for lasting in (False, True)),
)
_FEW = {
    Fault(Kind.WRITE),
    Fault(Kind.WRITE, errno.ENOSPC, lasting=True),
    Fault(Kind.SYNC),
    Fault(Kind.SYNC, lasting=True),
    Fault(Kind.SYNC, evict=True),
    Fault(Kind.TRUNCATE, errno.ENOSPC),
    Fault(Kind.TRUNCATE, lasting=True),
    Fault(Kind.READ),
    Fault(Kind.OPEN),
    Fault(Kind.OPEN, lasting=True),
    Fault(Kind.REMOVE, lasting=True),
    Fault(Kind.ANY, lasting=True),
}
FAULTS = tuple(fault for fault in _ALL if EVERY or fault in _FEW)
"""What is tried. `Kind.ANY` that lasts is what a disk does that vanishes."""


GONE = Fault(Kind.ANY, lasting=True)
"""The disk vanishes; with a power cut after it, the power goes at that very call."""


class End(Enum):
    """How a story goes on after the fault."""

    CLOSED = "healed, used, closed, opened again"
    CUT_LATER = "healed, used, then the power is cut"
    CUT_AT_ONCE = "the power is cut at once"


class Attempt:
    """One turn: the n-th call is to fail.

    Attributes:
        folder: a copy of what was prepared, on the disk.
        disk: the disk beneath it.
        end: how it is to go on.
        seed: what a power cut leaves; None for nothing of what was not synced.
    """

    def __init__(
        self, folder: Path, disk: Disk, fault: Fault, nth: int, *, end: End, seed: int | None
    ) -> None:
        self.folder = folder
        self.disk = disk
        self.end = end
        self.seed = seed
        self.fired = 0
        self._fault = fault
        self._nth = nth

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Let the fault happen inside, heal the disk afterwards."""
        fault = self._fault
        self.disk.fail(fault.kind, File.ANY, self._nth, fault.error, lasting=fault.lasting, evict=fault.evict)
        try:
            yield
        finally:
            self.fired = self.disk.fired()
            self.disk.heal()

    def __str__(self) -> str:
        return f"{self._fault}, call {self._nth}, {self.end.value}, seed {self.seed}"


def at_each_call(
    prepared: Path,
    scratch: Path,
    fault: Fault,
    story: Callable[[Attempt], None],
    *,
    ends: tuple[End, ...] = tuple(End),
) -> int:
    """Tell a story again and again, each time with a later call failing, until none does.

    Args:
        prepared: a folder; each turn has a copy of it.
        scratch: where the copies are made.
        fault: what happens to the call.
        story: has to use `Attempt.failing` once, around the operation.
        ends: how it may go on.

    Returns:
        How many turns there were in which a call failed.
    """
    turns = 0
    nth = 1
    while True:
        chosen = ends if EVERY else (ends[(nth + _ALL.index(fault)) % len(ends)],)
        seeds = (None, nth) if EVERY else (None if nth % 3 == 0 else nth,)
        for end, seed in itertools.product(chosen, seeds):
            folder = scratch / f"turn-{next(_turns)}"
            shutil.copytree(prepared, folder)
            with Disk(folder) as disk:
                attempt = Attempt(folder, disk, fault, nth, end=end, seed=seed)
                _tell(story, attempt)
            shutil.rmtree(folder)
            if not attempt.fired:
                return turns
            turns += 1
        nth += 1 if EVERY or nth < DENSE else nth // 4


_turns = itertools.count()


def _tell(story: Callable[[Attempt], None], attempt: Attempt) -> None:
    try:
        story(attempt)
    except BaseException as error:
        error.add_note(str(attempt))
        raise
