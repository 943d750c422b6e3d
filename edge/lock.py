"""One agent at a time holds a cabinet's directory."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class AlreadyRunsError(Exception):
    """Another agent holds this cabinet's directory."""


@contextmanager
def only_agent(directory: Path) -> Iterator[None]:
    """Hold the cabinet's directory, so that one agent at a time writes its files.

    Raises:
        AlreadyRunsError: if another agent holds it.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunsError(f"an agent runs already with {directory}") from error
        yield
    finally:
        os.close(lock)
