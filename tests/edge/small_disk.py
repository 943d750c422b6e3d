"""A real disk of a few megabytes that can be filled: a file system in memory, mounted for one test."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class SmallDisk:
    """A folder on a disk of its own, and somebody else's file that fills it.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hog = folder / "somebody-else"

    def fill(self, leave_bytes: int = 0) -> None:
        """Let somebody take all that is free, but for so many bytes."""
        with self._hog.open("ab", buffering=0) as file:
            while (free := self.free_bytes() - leave_bytes) > 0:
                try:
                    file.write(bytes(min(free, 65_536)))
                except OSError:
                    return

    def free(self) -> None:
        """Let them take it all away again."""
        self._hog.unlink()

    def free_bytes(self) -> int:
        seen = os.statvfs(self.folder)
        return seen.f_bavail * seen.f_frsize


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mount a disk; skip where nobody may."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    ran = subprocess.run(mount, capture_output=True, text=True, check=False)
    if ran.returncode:
        pytest.skip(f"a disk of {megabytes} MB cannot be mounted: {ran.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
