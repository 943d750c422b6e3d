"""Room on the cabinet's disk that is kept for the day when something else has filled it.

A file of real blocks. When the disk runs low it is deleted, and what must be written (a policy, a command's
state, the outbox's acknowledgements) has its room; when there is plenty again it is made anew. While it is gone
nobody but the smallest writers may grow.
"""

import os
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger()

BALLAST_BYTES: Final = 16 << 20
LOW_BYTES: Final = 4 << 20
"""With less than this free the disk counts as full: a write-ahead log grows by as much between two looks."""
WAL_BYTES: Final = 8 << 20
"""Kept for the outbox's write-ahead log: the four megabytes after which it is checkpointed, and one big commit."""


class Ballast:
    """Holds the room, or has given it away."""

    def __init__(self, folder: Path, size_bytes: int = BALLAST_BYTES, low_bytes: int = LOW_BYTES) -> None:
        self._file = folder / "ballast"
        self._size_bytes = size_bytes
        self._low_bytes = low_bytes
        self._room_bytes = 0
        self.held = self._file.exists()

    def look(self) -> int:
        """Look at the disk, and give the room away or take it back.

        Returns:
            How many bytes somebody who can do without may still take; 0 on a full disk. If the disk does not
            say how full it is, what it said last.
        """
        try:
            free_bytes = self._free_bytes()
            if self.held and free_bytes < self._low_bytes:
                self._file.unlink(missing_ok=True)
                self.held = False
                log.error("disk_full", free_mb=round(free_bytes / 1e6, 1), released_mb=self._size_bytes / 1e6)
            elif not self.held and free_bytes >= self._size_bytes + 2 * self._low_bytes:
                _allocate(self._file, self._size_bytes)
                self.held = True
                log.info("ballast_held", free_mb=round(free_bytes / 1e6, 1))
            kept_bytes = self._low_bytes + (0 if self.held else self._size_bytes)
            self._room_bytes = max(0, self._free_bytes() - kept_bytes)
        except OSError as error:
            log.warning("disk_not_seen", error=str(error))
        return self._room_bytes

    def _free_bytes(self) -> int:
        seen = os.statvfs(self._file.parent)
        return seen.f_bavail * seen.f_frsize


def reserve(wal: Path) -> None:
    """Give a write-ahead log its blocks beforehand, so that a full disk cannot refuse them; if there are any.

    What is appended is zeros, which SQLite knows for no frames of its own.
    """
    try:
        if wal.stat().st_size < WAL_BYTES:
            _allocate(wal, WAL_BYTES)
    except OSError as error:
        log.warning("wal_not_reserved", file=str(wal), error=str(error))


def _allocate(file: Path, size_bytes: int) -> None:
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(handle, 0, size_bytes)
        os.fsync(handle)
    finally:
        os.close(handle)
