"""A disk beneath the product's own SQLite that can be full, fail, lose what was not synced, and be imaged.

SQLite reaches the operating system through a VFS. A copy of its own one takes its place in this process; only
writing, syncing, truncating and deleting pass through here, everything else stays native. Which library that
is does not have to be guessed: symbols are looked up in the module that the standard library itself uses.

For each file it is remembered what was written since it was last synced. A *kill* keeps every write that was
made (the kernel has them); a *power cut* keeps what was synced, and of the rest whatever chance lets survive:
any subset, the last write perhaps torn. Syncing itself is left out: what counts is what is remembered.
"""

import _sqlite3
import ctypes
import random
import shutil
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p
from enum import Enum
from pathlib import Path

SQLITE_OK = 0
SQLITE_IOERR_WRITE = 10 | 3 << 8
SQLITE_IOERR_FSYNC = 10 | 4 << 8
SQLITE_IOERR_DELETE = 10 | 10 << 8
SQLITE_FULL = 13
SECTOR_BYTES = 512
TORN = 0.1
"""How often a write that survives a power cut does so in part."""


class Power(Enum):
    """How a process ends."""

    KILLED = "killed"
    """The process is gone, its writes are with the kernel."""
    CUT = "power cut"
    """The machine is gone: what was not synced may be lost."""


class _File:
    """What is known of one file: what is durable, and what was done since."""

    def __init__(self, content: bytes) -> None:
        self.durable = bytearray(content)
        self.pending: list[tuple[int, bytes | None]] = []
        """(offset, bytes) of a write, (size, None) of a truncation."""

    def sync(self) -> None:
        for operation in self.pending:
            _apply(self.durable, *operation)
        self.pending.clear()

    def now(self) -> bytes:
        """Return what is in it, synced or not."""
        left = bytearray(self.durable)
        for operation in self.pending:
            _apply(left, *operation)
        return bytes(left)

    def after_cut(self, chance: random.Random) -> bytes:
        """Return what a power cut leaves: all that was synced, and any part of the rest."""
        left = bytearray(self.durable)
        survive = chance.choice((0.0, 0.0, 0.3, 0.7, 1.0))
        for offset, written in self.pending:
            if chance.random() >= survive:
                continue
            torn = written is not None and chance.random() < TORN
            _apply(left, offset, _tear(written, chance) if torn and written is not None else written)
        return bytes(left)


def _tear(written: bytes, chance: random.Random) -> bytes:
    return written[: chance.randrange(0, len(written) + 1, SECTOR_BYTES)]


def _apply(content: bytearray, offset: int, written: bytes | None) -> None:
    if written is None:
        del content[offset:]
        return
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(written)] = written


class Disk:
    """The folder of one machine.

    Attributes:
        folder: where its files are now; another one after each end.
        full: whether nothing can grow any more.
        failing: whether writing and syncing fail.
        dead: whether the machine is gone: nothing reaches the disk any more.
        syncs: how often something was synced.
    """

    def __init__(self, root: Path, name: str, chance: random.Random) -> None:
        self._root = root
        self._name = name
        self._chance = chance
        self._generation = 0
        self.full = False
        self.failing = False
        self.dead = False
        self.syncs = 0
        self._end_in: int | None = None
        self._power = Power.KILLED
        self._files: dict[str, _File] = {}
        self._image: dict[str, bytes] = {}
        self.folder = self._begin({})

    def end(self, power: Power) -> None:
        """End the machine now; what its disk holds from here on is what that leaves."""
        if self.dead:
            return
        self.dead = True
        self._image = self._left(power)

    def end_within(self, writes: int, power: Power) -> None:
        """End the machine in the midst of its work: when it has written so many times more."""
        self._end_in, self._power = writes, power

    def mend(self) -> None:
        """Let everything be written again, and no end be near."""
        self.full = self.failing = False
        self._end_in = None

    def revive(self) -> None:
        """Put the disk into a new machine, with what the end has left on it; whatever ailed it is over."""
        image = self._image
        self.remove()
        self.full = self.failing = self.dead = False
        self._end_in = None
        self.folder = self._begin(image)

    def put_back(self, image: dict[str, bytes]) -> None:
        """Put an image, taken earlier, in the place of what the end of the machine has left."""
        assert self.dead
        self._image = dict(image)

    def image(self) -> dict[str, bytes]:
        """Return what is on the disk, as a copy of a card that is taken between two writes."""
        return dict(self._image) if self.dead else self._left(Power.KILLED)

    def remove(self) -> None:
        """Clear away the folder."""
        DISKS.pop(str(self.folder), None)
        shutil.rmtree(self.folder, ignore_errors=True)

    # What the VFS asks

    def opened(self, name: str) -> None:
        """Begin to follow a file; one that came in another's place by its name is taken to be there for good."""
        path = self.folder / name
        there = path.read_bytes() if path.exists() else b""
        known = self._files.get(name)
        if known is None or known.now() != there:
            self._files[name] = _File(there)

    def write(self, name: str, content: bytes, offset: int, size: int) -> int:
        """Take note of a write that is about to be made; return SQLite's code of what keeps it from being made."""
        if refused := self._refuse(SQLITE_IOERR_WRITE):
            return refused
        if self.full and offset + len(content) > size:
            return SQLITE_FULL
        self._files[name].pending.append((offset, content))
        return SQLITE_OK

    def sync(self, name: str) -> int:
        """Make durable what was written."""
        if refused := self._refuse(SQLITE_IOERR_FSYNC):
            return refused
        self.syncs += 1
        self._files[name].sync()
        return SQLITE_OK

    def truncate(self, name: str, size: int) -> int:
        """Take note of a truncation."""
        if refused := self._refuse(SQLITE_IOERR_WRITE):
            return refused
        self._files[name].pending.append((size, None))
        return SQLITE_OK

    def delete(self, name: str) -> int:
        """Take note that a file goes away."""
        if refused := self._refuse(SQLITE_IOERR_DELETE):
            return refused
        self._files.pop(name, None)
        return SQLITE_OK

    def _refuse(self, code: int) -> int:
        if self._end_in is not None and not self.dead:
            if self._end_in <= 0:
                self.end(self._power)
            else:
                self._end_in -= 1
        return code if self.dead or self.failing else SQLITE_OK

    def _left(self, power: Power) -> dict[str, bytes]:
        left = {}
        for path in sorted(self.folder.iterdir()):
            followed = self._files.get(path.name)
            if path.name.endswith("-shm"):
                continue
            if power is Power.CUT and followed is not None:
                left[path.name] = followed.after_cut(self._chance)
            else:
                left[path.name] = path.read_bytes()
        return left

    def _begin(self, image: dict[str, bytes]) -> Path:
        self._generation += 1
        folder = self._root / f"{self._name}-{self._generation}"
        folder.mkdir()
        for name, content in image.items():
            (folder / name).write_bytes(content)
        self._files = {name: _File(content) for name, content in image.items()}
        self._image = {}
        DISKS[str(folder)] = self
        return folder


DISKS: dict[str, Disk] = {}
"""By folder: the VFS knows a file by its path."""


class _Vfs(ctypes.Structure):
    """struct sqlite3_vfs, version 3 (sqlite3.h)."""

    _fields_ = (
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        ("xOpen", c_void_p),
        ("xDelete", c_void_p),
        *((f"other{i}", c_void_p) for i in range(14)),
    )


class _Methods(ctypes.Structure):
    """struct sqlite3_io_methods, version 3 (sqlite3.h)."""

    _fields_ = (
        ("iVersion", c_int),
        ("xClose", c_void_p),
        ("xRead", c_void_p),
        ("xWrite", c_void_p),
        ("xTruncate", c_void_p),
        ("xSync", c_void_p),
        ("xFileSize", c_void_p),
        *((f"other{i}", c_void_p) for i in range(12)),
    )


class _OsFile(ctypes.Structure):
    """struct sqlite3_file."""

    _fields_ = (("pMethods", POINTER(_Methods)),)


# A name stays where SQLite has it: there is more before and behind it, and files keep pointing at it.
_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_DELETE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_CLOSE = CFUNCTYPE(c_int, c_void_p)
_WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)
_SIZE = CFUNCTYPE(c_int, c_void_p, c_void_p)


class _Layer:
    """The copy of SQLite's own VFS through which every file of a `Disk` goes."""

    def __init__(self) -> None:
        library = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_vfs_find.restype = c_void_p
        library.sqlite3_vfs_find.argtypes = (c_char_p,)
        library.sqlite3_vfs_register.argtypes = (c_void_p, c_int)
        self._native_vfs = library.sqlite3_vfs_find(None)
        native = _Vfs.from_address(self._native_vfs)
        self._vfs = _Vfs.from_buffer_copy(native)
        self._vfs.zName = b"simulated"
        self._native_open = _OPEN(native.xOpen)
        self._native_delete = _DELETE(native.xDelete)
        self._kept = (_OPEN(self._open), _DELETE(self._delete))
        self._vfs.xOpen, self._vfs.xDelete = (ctypes.cast(one, c_void_p).value for one in self._kept)
        self._files: dict[int, tuple[Disk, str]] = {}
        self._methods: dict[int, _Methods] = {}
        library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1)

    def _open(self, _vfs: int, name: int | None, file: int, flags: int, out: int | None) -> int:
        code = self._native_open(self._native_vfs, name, file, flags, out)
        if code != SQLITE_OK or name is None:
            return int(code)
        disk, base = _place(name)
        if disk is not None:
            disk.opened(base)
            self._files[file] = disk, base
            opened = _OsFile.from_address(file)
            opened.pMethods = ctypes.pointer(self._instead_of(opened.pMethods))
        return SQLITE_OK

    def _delete(self, _vfs: int, name: int, sync: int) -> int:
        disk, base = _place(name)
        if disk is not None and (refused := disk.delete(base)):
            return refused
        return int(self._native_delete(self._native_vfs, name, sync))

    def _instead_of(self, native: "ctypes._Pointer[_Methods]") -> _Methods:
        """Return a copy of a file's methods with those in it that change what is on the disk."""
        address = ctypes.cast(native, c_void_p).value or 0
        if address not in self._methods:
            self._methods[address] = self._wrap(native.contents)
        return self._methods[address]

    def _wrap(self, native: _Methods) -> _Methods:
        wrapped = _Methods.from_buffer_copy(native)
        close, write = _CLOSE(native.xClose), _WRITE(native.xWrite)
        truncate, size_of = _TRUNCATE(native.xTruncate), _SIZE(native.xFileSize)
        files = self._files
        size = c_int64()

        def on_close(file: int) -> int:
            files.pop(file, None)
            return int(close(file))

        def on_write(file: int, buffer: int, amount: int, offset: int) -> int:
            disk, name = files[file]
            if disk.full:
                size_of(file, ctypes.addressof(size))
            return disk.write(name, ctypes.string_at(buffer, amount), offset, size.value) or int(
                write(file, buffer, amount, offset)
            )

        def on_truncate(file: int, to: int) -> int:
            disk, name = files[file]
            return disk.truncate(name, to) or int(truncate(file, to))

        def on_sync(file: int, _flags: int) -> int:
            disk, name = files[file]
            return disk.sync(name)

        callbacks = (_CLOSE(on_close), _WRITE(on_write), _TRUNCATE(on_truncate), _SYNC(on_sync))
        self._kept += callbacks  # type: ignore[assignment]  # kept alive, whatever they are
        wrapped.xClose, wrapped.xWrite, wrapped.xTruncate, wrapped.xSync = (
            ctypes.cast(one, c_void_p).value for one in callbacks
        )
        return wrapped


def _place(name: int) -> tuple[Disk | None, str]:
    """Return on whose disk a path is, and the name of the file there."""
    folder, _, base = ctypes.string_at(name).decode().rpartition("/")
    return DISKS.get(folder), base


_layers: list[_Layer] = []


def slip_beneath_sqlite() -> None:
    """Let every database that this process opens from now on in the folder of a `Disk` go through it."""
    if not _layers:
        _layers.append(_Layer())
