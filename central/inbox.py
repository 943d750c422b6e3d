"""What waits for the store: bounded by number and by bytes, first in, first out."""

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_JOBS = 4_096
MAX_BYTES = 64 << 20
"""Sixteen of the largest messages; a full queue pushes back on the broker, and the cabinets keep the rest."""


class Inbox(Generic[T]):
    """A queue between many threads that put and one that takes all there is."""

    def __init__(self, max_jobs: int = MAX_JOBS, max_bytes: int = MAX_BYTES) -> None:
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._waiting: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, job: T, size: int = 0, timeout_s: float = 0.0) -> bool:
        """Append a job of `size` bytes; wait at most `timeout_s` for room. Return whether there was any."""
        with self._changed:
            fits = self._changed.wait_for(lambda: self._closed or self._has_room(size), timeout_s)
            if self._closed or not fits:
                return False
            self._waiting.append((job, size))
            self._bytes += size
            self._changed.notify_all()
            return True

    def take(self, most: int, timeout_s: float) -> list[T]:
        """Return up to `most` jobs, oldest first; wait at most `timeout_s` for the first."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._waiting), timeout_s)
            taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            self._bytes -= sum(size for _, size in taken)
            self._changed.notify_all()
        return [job for job, _ in taken]

    def close(self) -> None:
        """Accept nothing more; what waits can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def depth(self) -> tuple[int, int]:
        """Return how many jobs wait, and how many bytes they hold."""
        with self._changed:
            return len(self._waiting), self._bytes

    def _has_room(self, size: int) -> bool:
        return len(self._waiting) < self._max_jobs and (
            not self._waiting or self._bytes + size <= self._max_bytes
        )
