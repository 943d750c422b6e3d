"""A disk that fails where it is told to, and whose power can be cut, for the process that was started with it.

The work is done by `disk.c`, a library that stands between the process and libc. A process has it only if it was
started with `environment()`; it then attaches a `Disk` to each folder whose files are to be on such a disk:

    subprocess.run([sys.executable, "-m", "something"], env=os.environ | disk.environment())

    with Disk(folder) as disk:                      # in that process
        disk.fail(Kind.WRITE, File.WAL, nth=3, error=errno.EIO)
        ...                                         # sqlite3 sees its third write to the -wal fail
        disk.heal()
        disk.power_cut(seed=7)                      # from now on every call fails: the machine is off
        connection.close()                          # what was open has to be closed, as the process would have died
        disk.power_on()                             # what is left can be opened

What a power cut leaves is said at the head of `durable.c`. Successful syncs are not passed on to the kernel, so that
they cost nothing: never measure with it. `prove` shows that this Python's SQLite makes its calls through the library,
which holds for any that uses libc dynamically, be SQLite a shared library or linked into the module.
"""

import ctypes
import enum
import errno
import hashlib
import os
import shutil
import sqlite3
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

SOURCES = tuple(Path(__file__).with_name(name) for name in ("disk.c", "durable.c", "disk.h"))
SHORT = -1
"""In place of an error: half of what was to be written is written, and said to be so."""


class Kind(enum.IntFlag):
    """What a call does. `REMOVE` is unlink and rename, `TRUNCATE` allocation as well."""

    READ = 1
    WRITE = 2
    SYNC = 4
    TRUNCATE = 8
    OPEN = 16
    REMOVE = 32
    CHANGE = WRITE | SYNC | TRUNCATE
    """What a commit consists of."""
    ANY = 63


class File(enum.IntFlag):
    """Which file a call is about, by the end of its name; `MAIN` is `.db`, `FOLDER` the folder itself."""

    MAIN = 1
    WAL = 2
    JOURNAL = 4
    SHM = 8
    FOLDER = 16
    OTHER = 32
    ANY = 63


KINDS = (Kind.READ, Kind.WRITE, Kind.SYNC, Kind.TRUNCATE, Kind.OPEN, Kind.REMOVE)
FILES = (File.MAIN, File.WAL, File.JOURNAL, File.SHM, File.FOLDER, File.OTHER)


class Unavailable(Exception):  # noqa: N818  a state of the machine, for the reason of a skip
    """The library cannot be had here."""


class Disk:
    """The disk beneath one folder and its subfolders.

    Raises:
        Unavailable: if the process was not started with `environment()`.
    """

    def __init__(self, folder: Path) -> None:
        self._library = _loaded()
        self._number = self._library.disk_attach(os.fsencode(folder))
        if self._number < 0:
            raise OSError(ctypes.get_errno(), f"cannot attach to {folder}")

    def __enter__(self) -> "Disk":
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.detach()

    def detach(self) -> None:
        """Let go of the folder: its files are on the machine's disk again, as they are now."""
        self._library.disk_detach(self._number)

    def counts(self) -> dict[tuple[Kind, File], int]:
        """Return how many calls of each kind there were on each kind of file, those that failed included."""
        out = (ctypes.c_uint64 * (len(KINDS) * len(FILES)))()
        self._library.disk_counts(self._number, out)
        pairs = [(kind, file) for kind in KINDS for file in FILES]
        return {pair: count for pair, count in zip(pairs, out, strict=True) if count}

    def fail(
        self,
        kind: Kind,
        file: File = File.ANY,
        nth: int = 1,
        error: int = errno.EIO,
        *,
        lasting: bool = False,
        evict: bool = False,
    ) -> None:
        """Let the n-th call from now on fail; this replaces any earlier order.

        A sync that fails has dropped what it should have made durable, see `durable.c`.

        Args:
            kind: which kinds of calls count.
            file: on which files.
            nth: 1 for the next one.
            error: the errno, or `SHORT` for a write that writes only half.
            lasting: whether each one after it fails as well.
            evict: whether a sync that fails also makes reading show what is really on the disk.
        """
        self._library.disk_fail(self._number, kind, file, nth, error, lasting, evict)

    def fired(self) -> int:
        """Return how many calls have failed since `fail`."""
        return int(self._library.disk_fired(self._number))

    def heal(self) -> None:
        """Let every call pass again."""
        self._library.disk_fail(self._number, 0, 0, 0, 0, 0, 0)

    def unsynced(self) -> int:
        """Return how many blocks of 4 KiB a power cut could take back now."""
        return int(self._library.disk_unsynced(self._number))

    def power_cut(self, seed: int | None = None) -> None:
        """Cut the power: each file becomes what a disk would have kept, and every call fails from now on.

        Args:
            seed: chooses what is left of what was not synced, block by block; None leaves nothing of it.
        """
        self._library.disk_power_cut(self._number, seed is not None, (seed or 0) & (2**64 - 1))

    def power_on(self) -> None:
        """Give the power back; faults that were ordered before are over.

        Raises:
            RuntimeError: if something that was opened before the cut has not been closed. SQLite shares the state of
                a file between connections of one process: a new one would see what was lost.
        """
        self.heal()
        if left := self._library.disk_power_on(self._number):
            raise RuntimeError(f"{left} descriptors of before the power cut are still open")


def environment() -> dict[str, str]:
    """Return what to add to the environment of a process that is to have such disks; build the library if need be.

    Raises:
        Unavailable: if there is no compiler, with the reason.
    """
    return {"LD_PRELOAD": str(_built())}


def is_loaded() -> bool:
    """Tell whether this process was started with `environment()`."""
    return hasattr(ctypes.CDLL(None), "disk_attach")


def prove() -> None:
    """Show with a database that this Python's SQLite goes through the library.

    Raises:
        Unavailable: if it does not, for instance because SQLite makes its calls in a way of its own.
    """
    with tempfile.TemporaryDirectory() as name, Disk(Path(name)) as disk:
        db = sqlite3.connect(Path(name) / "proof.db", isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE proof (n)")
        db.close()
        seen = disk.counts()
        wanted = {(kind, file) for kind in (Kind.WRITE, Kind.SYNC) for file in (File.MAIN, File.WAL)}
        if missing := wanted - set(seen):
            raise Unavailable(
                f"SQLite {sqlite3.sqlite_version} here does not go through disk.c: no {missing}"
            )


def _built() -> Path:
    """Compile the library unless that was done before; outside the source tree, one per user and version."""
    source = b"".join(path.read_bytes() for path in SOURCES)
    folder = Path(tempfile.gettempdir()) / f"luciole-faults-{os.getuid()}"
    built = folder / f"disk-{hashlib.sha256(source).hexdigest()[:16]}.so"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise Unavailable(f"{folder} is somebody else's")
    if built.exists():
        return built
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Unavailable("needs a C compiler (Debian: gcc and libc6-dev)")
    unfinished = built.with_suffix(f".{os.getpid()}")
    command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
    done = subprocess.run(
        [*command, "-o", str(unfinished), *map(str, SOURCES[:2]), "-ldl", "-lpthread"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Unavailable(f"{compiler} does not build the faulty disk: {done.stderr.strip()[:500]}")
    unfinished.rename(built)
    return built


def _loaded() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "disk_attach"):
        raise Unavailable("this process was not started with disk.environment()")
    number, u64, flags = ctypes.c_int, ctypes.c_uint64, ctypes.c_uint
    library.disk_attach.argtypes = [ctypes.c_char_p]
    library.disk_counts.argtypes = [number, ctypes.POINTER(u64)]
    library.disk_fail.argtypes = [number, flags, flags, u64, number, number, number]
    library.disk_power_cut.argtypes = [number, number, u64]
    for name in ("disk_fired", "disk_unsynced"):
        getattr(library, name).argtypes = [number]
        getattr(library, name).restype = u64
    return library
