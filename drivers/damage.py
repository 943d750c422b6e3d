"""What is done with a SQLite file that is damaged: notice it, walk over what is bad, put a sound file in its place.

SQLite says that a page is bad when it comes to it, and goes no further. Whoever asks by key for what lies beyond
gets it: that is how the walk goes on. What SQLite does not say by itself is that its write-ahead log was cut short:
recovery ends quietly at the first frame that does not fit, and later commits are gone as if they had never been.
"""

import contextlib
import os
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Generic, TypeAlias, TypeVar

from drivers.database import SUFFIXES, open_readonly

MAX_STEP: Final = 64
"""Rows that are stepped over at once, about a page of small ones; what was good among them is fetched from above."""
BLIND: Final = 100_000
"""Keys beyond the last row that was found, or is known to have been, after which nothing more is looked for."""
LOOKS: Final = 3
"""How often a file has to be found damaged: a read that failed once looks the same to SQLite's check."""
PIECE_BYTES: Final = 64 << 10
"""What is read at a time to see how much of a file a disk still gives."""

EARLIER_ROUNDS: Final = 1 << 24
"""Of a log, whose frames may still stand behind those of this one: each round counts the first salt up by one."""

CUT: Final = "the write-ahead log was cut short"
TORN: Final = "the last commit in the write-ahead log is torn"

WAL_HEADER: Final = struct.Struct(">8I")
FRAME_HEADER: Final = struct.Struct(">6I")
_WAL_MAGIC: Final = {0x377F0682: "<", 0x377F0683: ">"}
"""The byte order of a log's checksums, by its first word (SQLite, "WAL-mode File Format", 4.1)."""
_MX_FRAME: Final = struct.Struct("=I")
_MX_FRAME_AT: Final = 16
"""Where the index beside the log says how many frames are valid, in the machine's own byte order (the same, 2.1)."""

Row: TypeAlias = tuple[Any, ...]
"""A row as SQLite gives it."""
T = TypeVar("T")
Bad: Final = (sqlite3.Error, MemoryError)
"""What reading a bad page raises: a length that is none can ask for more than there is."""


def any_text(raw: bytes) -> str:
    """Return a text as it stands in a file, whatever has become of it; for a connection's `text_factory`."""
    return raw.decode("utf-8", "replace")


def _nothing_more(_: sqlite3.Connection) -> str:
    return ""


def is_damage(error: sqlite3.Error) -> bool:
    """Tell whether SQLite says that a file is no longer sound; trying again does not mend it."""
    name = getattr(error, "sqlite_errorname", "")
    return name == "SQLITE_NOTADB" or name.startswith("SQLITE_CORRUPT")


def damage_of(
    path: Path, look: Callable[[sqlite3.Connection], str] = _nothing_more, *, torn_counts: bool = False
) -> str:
    """Return what is wrong with a database file, "" if nothing is.

    It is opened read-only, so that a log that was cut short stays as it is until the file has been replaced: the
    first writer to close would tidy the traces away.

    Args:
        path: of the file, which exists.
        look: asked after SQLite's own check, for what only the file's owner knows; it may raise sqlite3.Error.
        torn_counts: whether `TORN` is an answer, of a file that is otherwise sound.

    Raises:
        sqlite3.Error: if it cannot be opened for a reason other than damage.
    """
    found = ""
    for _ in range(LOOKS):
        try:
            found = _look(path, look, torn_counts=torn_counts)
        except sqlite3.DatabaseError as error:
            if not is_damage(error) and not (_is_unreadable(error) and _is_mostly_readable(path)):
                raise
            found = _in_a_line(error)
        if not found:
            return ""
    return found


def _is_unreadable(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith("SQLITE_IOERR_READ")


def _is_mostly_readable(path: Path) -> bool:
    """Tell whether a disk gives most of a file, so that what it does not give is lost and not just out of reach."""
    bad = count = 0
    with path.open("rb", buffering=0) as file:
        for at in range(0, path.stat().st_size, PIECE_BYTES):
            count += 1
            try:
                file.seek(at)
                file.read(PIECE_BYTES)
            except OSError:
                bad += 1
    return 2 * bad < count


def _in_a_line(said: object) -> str:
    """Return what SQLite says without its headings and line breaks."""
    return " ".join(str(said).replace("*** in database main ***", "").split())


def refuse_damaged(path: Path) -> None:
    """Refuse a radio line's file that is damaged: of counters that may have gone back nobody can say so later.

    Raises:
        sqlite3.Error: if it is damaged, with what a technician has to do; or if it cannot be opened.
    """
    found = damage_of(path) if path.exists() else ""
    if found:
        raise sqlite3.DatabaseError(
            f"it is damaged ({found}), so its keys and counters cannot be relied on, and a recorded frame could be "
            f"taken for a new one; move {path} away and give each device its key again with `luciole-edge join`"
        )


def _look(path: Path, look: Callable[[sqlite3.Connection], str], *, torn_counts: bool) -> str:
    if path.with_name(f"{path.name}-journal").exists():
        _roll_back(path)
    db = open_readonly(path)
    db.text_factory = any_text
    try:
        found = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
        if found != "ok":
            return _in_a_line(found)
        cut = cut_of_log(path)
        if cut == CUT:
            return CUT
        return look(db) or (cut if torn_counts else "")
    finally:
        db.close()


def _roll_back(path: Path) -> None:
    """Let SQLite undo what a power cut has interrupted before the file had a log: reading cannot do that."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version").fetchone()


def cut_of_log(path: Path) -> str:
    """Return `CUT` or `TORN` if commits are missing at the end of a database's log, "" if not.

    Called while a connection has read from the file: only then does the index beside the log say how many frames
    are valid. A commit is synced before the next one begins to be written, so of the commits that follow the valid
    frames all but the last were whole once. The last may have been torn by a power cut before it was told to anybody,
    and may have been told and damaged since: nobody can say. What a killed process leaves of a commit is told from
    both, unless it was killed between the two writes that make a frame. Blocks of zeros, which somebody may have
    reserved, say nothing.
    """
    wal = path.with_name(f"{path.name}-wal")
    try:
        if wal.stat().st_size <= WAL_HEADER.size:
            return ""
        with wal.open("rb") as log:
            header = log.read(WAL_HEADER.size)
            if not _header_fits(header):
                return CUT if any(header) else ""
            commits, strange = _after_valid(log, valid_frames(path), WAL_HEADER.unpack(header))
            return CUT if commits > 1 else TORN if strange else ""
    except FileNotFoundError:  # a file without a log
        return ""


def valid_frames(path: Path) -> int:
    """Return how many frames of a database's log are valid, as SQLite has found; a connection must be open."""
    try:
        with path.with_name(f"{path.name}-shm").open("rb") as index:
            index.seek(_MX_FRAME_AT)
            return int(_MX_FRAME.unpack(index.read(_MX_FRAME.size))[0])
    except (FileNotFoundError, struct.error):
        return 0


def _header_fits(header: bytes) -> bool:
    words = WAL_HEADER.unpack(header)
    order = _WAL_MAGIC.get(words[0])
    return order is not None and _checksum(order, header[:24], (0, 0)) == words[6:]


def _checksum(order: str, content: bytes, after: tuple[int, int]) -> tuple[int, int]:
    """Return a log's running checksum, which goes on from the one before (WAL format, 4.2)."""
    first, second = after
    for one, two in struct.iter_unpack(f"{order}2I", content):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return first, second


def _after_valid(log: BinaryIO, valid: int, header: tuple[int, ...]) -> tuple[int, int]:
    """Look at the frames after the valid ones.

    Returns:
        How many end a transaction of this round of the log; and how many are neither of an earlier round, nor the
        beginning of a transaction that a kill has interrupted, which follows what is valid and ends nothing.
    """
    order, size, salts = _WAL_MAGIC[header[0]], FRAME_HEADER.size + header[2], header[4:6]
    before = header[6], header[7]
    if valid:
        log.seek(WAL_HEADER.size + (valid - 1) * size)
        *_, first, second = FRAME_HEADER.unpack(log.read(FRAME_HEADER.size))
        before = first, second
    log.seek(WAL_HEADER.size + valid * size)
    commits = strange = 0
    while len(frame := log.read(size)) == size:
        _, commit, salt, other_salt, first, second = FRAME_HEADER.unpack_from(frame)
        if (salt, other_salt) == salts:
            follows = _checksum(order, frame[:8] + frame[FRAME_HEADER.size :], before) == (first, second)
            commits += bool(commit)
            strange += bool(commit) or not follows
            before = first, second
        elif any(frame[: FRAME_HEADER.size]):
            strange += not 0 < (salts[0] - salt) & 0xFFFFFFFF <= EARLIER_ROUNDS
    return commits, strange


class Walk(Generic[T]):
    """Walks a table's integer key upward over bad pages, and yields in order what can be believed.

    Args:
        db: the damaged database, opened read-only.
        up: SQL for rows from a key on, ascending; its last two parameters are that key and a limit.
        down: SQL for the one row below a key; its last parameter is that key.
        judge: returns the key of a row and what it says, or None if not even its key is believed.
        given: the parameters before these.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        up: str,
        down: str,
        judge: Callable[[Row], tuple[int, T] | None],
        given: Iterable[object] = (),
    ) -> None:
        self._db = db
        self._up_sql = up
        self._down_sql = down
        self._judge = judge
        self._given = tuple(given)

    def rows(self, first: int, last: int = 0) -> Iterator[tuple[int, T]]:
        """Yield what is there from key `first` on; `last` is the highest key that is known to have been there."""
        at, end = first, max(first, last) + BLIND
        while at < end:
            with contextlib.suppress(*Bad):
                for key, row in self._up(at, -1):
                    yield key, row
                    at = key + 1
                return
            # SQLite's binding looks one row ahead: the one before a bad page has not been given yet.
            passed = self._step(at, end)
            yield from passed
            if not passed:
                return
            at = passed[-1][0] + 1
            end = max(end, at + BLIND)

    def _step(self, at: int, end: int) -> list[tuple[int, T]]:
        """Return the next rows from `at` on, over whatever is bad before them; none if nothing more is found."""
        target, step = at, 1
        while target < end:
            try:
                found = list(self._up(target, 1))
                if found or not self._any(target):
                    return [*self._below(found[0][0] if found else target, at), *found]
            except Bad:
                pass
            target += step
            step = min(2 * step, MAX_STEP)
        return self._below(target, at)

    def _any(self, at: int) -> bool:
        return self._db.execute(self._up_sql, (*self._given, at, 1)).fetchone() is not None

    def _below(self, key: int, at: int) -> list[tuple[int, T]]:
        """Return what was stepped over and can be reached from above."""
        found: list[tuple[int, T]] = []
        with contextlib.suppress(*Bad):
            while key > at:
                row = self._db.execute(self._down_sql, (*self._given, key)).fetchone()
                judged = None if row is None else self._judge(row)
                if judged is None or not at <= judged[0] < key:
                    break
                found.append(judged)
                key = judged[0]
        return found[::-1]

    def _up(self, at: int, limit: int) -> Iterator[tuple[int, T]]:
        """Yield what is believed from `at` on, in order; what is not believed is passed over."""
        for row in self._db.execute(self._up_sql, (*self._given, at, limit)):
            judged = self._judge(row)
            if judged is not None and judged[0] >= at:
                yield judged
                at = judged[0] + 1


class Replacement:
    """Puts a new file in the place of a damaged one, so that at no instant neither is there.

    1. The new file is built beside the old one and synced; then its name says that it is whole.
    2. The old log goes, then the old file: kept aside, or not.
    3. The new file takes its name.

    Whoever starts anew goes on with 2 if there is a whole file, and otherwise begins again. The log goes first:
    beside another file it would be taken for that one's.

    Attributes:
        path: what is replaced.
        building: where the new file is made.
        ready: its name once it is whole.
        aside: where the damaged one is kept. There is only the last.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.building = path.with_name(f"{path.name}.salvaging")
        self.ready = path.with_name(f"{path.name}.salvaged")
        self.aside = path.with_name(f"{path.name}.damaged")

    def begin(self, *, forget: bool = True) -> Path:
        """Return where to build. What an earlier attempt left goes; to `forget`, what was kept aside before, too."""
        for old in (self.building, self.aside) if forget else (self.building,):
            for suffix in (*SUFFIXES, "-journal"):
                old.with_name(old.name + suffix).unlink(missing_ok=True)
        self.building.touch(mode=0o600)
        return self.building

    def is_ready(self) -> bool:
        """Tell whether a whole file waits to take the place."""
        return self.ready.exists()

    def steps(self, *, keep: bool) -> list[Callable[[], None]]:
        """Return what is left to be done, each step durable; all may be done again."""
        return [
            self._make_ready,
            lambda: self._put_aside("-wal", keep=keep),
            lambda: self._put_aside("-shm", keep=False),
            lambda: self._put_aside("", keep=keep),
            self._take_place,
        ]

    def _make_ready(self) -> None:
        if not self.is_ready():
            with self.building.open("rb") as built:
                os.fsync(built.fileno())
            self._rename(self.building, self.ready)

    def _put_aside(self, suffix: str, *, keep: bool) -> None:
        old = self.path.with_name(self.path.name + suffix)
        if not old.exists():
            return
        if keep and old.stat().st_size:  # who looked at the file has left an empty log
            self._rename(old, self.aside.with_name(self.aside.name + suffix))
        else:
            old.unlink()
            self._sync_folder()

    def _take_place(self) -> None:
        self._rename(self.ready, self.path)

    def _rename(self, old: Path, new: Path) -> None:
        old.rename(new)
        self._sync_folder()

    def _sync_folder(self) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def free_bytes(folder: Path) -> int:
    """Return how much of the disk is free for an ordinary user."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
