"""The records in a SQLite file, found page by page: what a damaged tree no longer leads to is still there.

Nothing that links pages is believed but a record's own overflow chain; whoever reads has to check each record by what
it says of itself. Only pages of index trees are read, where tables WITHOUT ROWID keep their rows. Pages are taken as
the last valid commit left them: from the write-ahead log where it has a newer one, up to the frames that are valid.

Deleted records may come as well, from pages that are free by now.

Source: "Database File Format" (sqlite.org/fileformat2.html), 1.6 B-tree pages, 2.1 record format, 4.1 WAL.
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Self, TypeAlias

from drivers.damage import FRAME_HEADER, WAL_HEADER, valid_frames

DEFAULT_PAGE_BYTES: Final = 4096
"""SQLite's own, for a file whose header is gone."""
MAX_RECORD_BYTES: Final = 8 << 20
"""Nobody keeps larger ones; a length that is noise must not fill the memory."""

_INDEX_INTERIOR: Final = 0x02
_INDEX_LEAF: Final = 0x0A
_LEAF_HEADER_BYTES: Final = 8
_INTERIOR_HEADER_BYTES: Final = 12
_CHILD_BYTES: Final = 4
_FILE_HEADER_BYTES: Final = 100
_NEXT: Final = struct.Struct(">I")
_SHORT: Final = struct.Struct(">H")
_INTEGER_BYTES: Final = (0, 1, 2, 3, 4, 6, 8)
"""Of the serial types 0 to 6."""
_FLOAT, _ZERO, _ONE, _FIRST_BLOB = 7, 8, 9, 12

Column: TypeAlias = int | float | str | bytes | None
Noise: Final = (IndexError, ValueError, struct.error)
"""What reading a record raises that is none."""


class Pages:
    """A database's pages, open for reading; a context manager.

    Args:
        path: of the file; a connection has read from it and is still open, so that its log's index stands beside it.
    """

    def __init__(self, path: Path) -> None:
        self._frames: dict[int, int] = {}
        with contextlib.ExitStack() as opened:
            self._file = opened.enter_context(path.open("rb"))
            self._log: BinaryIO | None = None
            self._bytes = _page_bytes(self._file.read(_FILE_HEADER_BYTES))
            with contextlib.suppress(FileNotFoundError):
                self._log = opened.enter_context(path.with_name(path.name + "-wal").open("rb"))
                self._read_log(valid_frames(path))
            in_file = os.fstat(self._file.fileno()).st_size // self._bytes
            self.count = max(in_file, *self._frames, 0)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._opened.close()

    def records(self) -> Iterator[tuple[Column, ...]]:
        """Yield every record that can be read, in the order of the pages; OSError if a page cannot be."""
        for number in range(1, self.count + 1):
            yield from self._records(number)

    def _read_log(self, valid: int) -> None:
        if self._log is None or not valid:
            return
        self._bytes = WAL_HEADER.unpack(self._log.read(WAL_HEADER.size))[2]
        for place in range(valid):
            at = WAL_HEADER.size + place * (FRAME_HEADER.size + self._bytes)
            self._log.seek(at)
            frame = self._log.read(FRAME_HEADER.size)
            self._frames[FRAME_HEADER.unpack(frame)[0]] = at + FRAME_HEADER.size

    def _page(self, number: int) -> bytes:
        at = self._frames.get(number)
        try:
            if at is not None and self._log is not None:
                self._log.seek(at)
                return self._log.read(self._bytes)
            self._file.seek((number - 1) * self._bytes)
            return self._file.read(self._bytes)
        except OSError:  # the card cannot read it any more
            return b""

    def _records(self, number: int) -> Iterator[tuple[Column, ...]]:
        page = self._page(number)
        start = _FILE_HEADER_BYTES if number == 1 else 0
        if len(page) < self._bytes or page[start] not in {_INDEX_LEAF, _INDEX_INTERIOR}:
            return
        leaf = page[start] == _INDEX_LEAF
        (cells,) = _SHORT.unpack_from(page, start + 3)
        pointers = start + (_LEAF_HEADER_BYTES if leaf else _INTERIOR_HEADER_BYTES)
        for cell in range(min(cells, (self._bytes - pointers) // _SHORT.size)):
            (at,) = _SHORT.unpack_from(page, pointers + cell * _SHORT.size)
            with contextlib.suppress(*Noise):
                yield _columns(self._payload(page, at if leaf else at + _CHILD_BYTES))

    def _payload(self, page: bytes, at: int) -> bytes:
        """Return a cell's payload with what overflows its page (1.6: payload of index trees)."""
        size, at = _varint(page, at)
        if size > MAX_RECORD_BYTES:
            raise ValueError("longer than any record")
        local = self._local(size)
        parts, left = [page[at : at + local]], size - local
        if left:
            (following,) = _NEXT.unpack_from(page, at + local)
        while left > 0:
            beyond = self._page(following)
            (following,) = _NEXT.unpack_from(beyond)
            parts.append(beyond[_NEXT.size : _NEXT.size + left])
            left -= self._bytes - _NEXT.size
        return b"".join(parts)

    def _local(self, size: int) -> int:
        """Return how much of a payload is in the page itself; no bytes of a page are reserved."""
        largest = (self._bytes - 12) * 64 // 255 - 23
        if size <= largest:
            return size
        least = (self._bytes - 12) * 32 // 255 - 23
        wanted = least + (size - least) % (self._bytes - _NEXT.size)
        return wanted if wanted <= largest else least


def _page_bytes(header: bytes) -> int:
    """Return the size of a page as the file says it, if that can be."""
    told = _SHORT.unpack_from(header, 16)[0] if len(header) == _FILE_HEADER_BYTES else 0
    size = 65_536 if told == 1 else told
    return size if header[:15] == b"SQLite format 3" and 512 <= size == size & -size else DEFAULT_PAGE_BYTES


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """Return a variable-length integer, big-endian, seven bits a byte and eight in the ninth, and what follows it."""
    value = 0
    for place in range(9):
        byte = page[at + place]
        if place == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + place + 1
    raise AssertionError  # nine bytes are the longest


def _columns(record: bytes) -> tuple[Column, ...]:
    """Take a record apart (2.1)."""
    end, at = _varint(record, 0)
    columns: list[Column] = []
    value = end
    while at < end:
        kind, at = _varint(record, at)
        column, value = _column(record, kind, value)
        columns.append(column)
    if value != len(record):
        raise ValueError("a record's columns do not fill it")
    return tuple(columns)


def _column(record: bytes, kind: int, at: int) -> tuple[Column, int]:
    if kind < len(_INTEGER_BYTES):
        end = at + _INTEGER_BYTES[kind]
        return (int.from_bytes(record[at:end], signed=True) if kind else None), end
    if kind == _FLOAT:
        return struct.unpack_from(">d", record, at)[0], at + 8
    if kind in {_ZERO, _ONE}:
        return kind - _ZERO, at
    if kind < _FIRST_BLOB:
        raise ValueError(f"serial type {kind} is reserved")
    end = at + (kind - _FIRST_BLOB) // 2
    if end > len(record):
        raise ValueError("a column beyond its record")
    return (record[at:end].decode() if kind % 2 else record[at:end]), end
