"""Who says when: real timers in production, a virtual schedule where timing itself is under test.

The line engine and the serial ports are handed a `Schedule` and never ask for the time elsewhere. A callback
is treated as happening at the moment it was planned for, even when the machine runs it a little late, so that
lateness does not add up over a bench; how late it ran is measured.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Protocol, TypeAlias

import msgspec

_BUCKET_S = 0.0001
_BUCKETS = 2_000  # 200 ms in steps of 0.1 ms; whatever is later falls into the last


CivilTime: TypeAlias = Callable[[float], float]
"""From a moment of real seconds to civil seconds."""


class Timer(Protocol):
    """A callback that is still to come."""

    def cancel(self) -> None:
        """Drop the callback."""
        ...


class Schedule(Protocol):
    """The only source of time and of timers for whoever plays hardware."""

    def time(self) -> float:
        """Return monotonic seconds."""
        ...

    def call_at(self, when_s: float, callback: Callable[[], object]) -> Timer:
        """Run `callback` at `when_s`, or at once if that has passed."""
        ...


class LatenessReport(msgspec.Struct, frozen=True):
    """How late timers ran, in milliseconds."""

    timers: int
    max_ms: float
    p99_ms: float


class Lateness:
    """Measure how late timers ran, in a fixed amount of memory."""

    def __init__(self) -> None:
        self._buckets = [0] * (_BUCKETS + 1)
        self._count = 0
        self._max_s = 0.0

    def add(self, late_s: float) -> None:
        """Count one timer that ran `late_s` after its moment."""
        self._count += 1
        self._max_s = max(self._max_s, late_s)
        self._buckets[min(_BUCKETS, max(0, int(late_s / _BUCKET_S)))] += 1

    def report(self) -> LatenessReport:
        """Return count, maximum and 99th percentile so far."""
        return LatenessReport(self._count, round(self._max_s * 1000, 3), self._percentile_ms(0.99))

    def _percentile_ms(self, share: float) -> float:
        seen = 0
        for index, count in enumerate(self._buckets):
            seen += count
            if seen and seen >= share * self._count:
                return round((index + 1) * _BUCKET_S * 1000, 1)
        return 0.0


class LoopSchedule:
    """The event loop's timers, with their lateness measured."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.lateness = Lateness()

    def time(self) -> float:
        """Return the loop's monotonic seconds."""
        return self._loop.time()

    def call_at(self, when_s: float, callback: Callable[[], object]) -> Timer:
        """Run `callback` at `when_s` on the loop."""
        return self._loop.call_at(when_s, self._run, when_s, callback)

    def _run(self, when_s: float, callback: Callable[[], object]) -> None:
        self.lateness.add(self._loop.time() - when_s)
        callback()


class _VirtualTimer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualSchedule:
    """Time that passes only when told to: a minute of bus traffic runs in a millisecond, exactly."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s
        self._order = itertools.count()
        self._heap: list[tuple[float, int, _VirtualTimer]] = []

    def time(self) -> float:
        """Return the virtual seconds."""
        return self._now_s

    def call_at(self, when_s: float, callback: Callable[[], object]) -> Timer:
        """Plan `callback`; it runs inside `run_until` or `run`."""
        timer = _VirtualTimer(callback)
        heapq.heappush(self._heap, (max(when_s, self._now_s), next(self._order), timer))
        return timer

    def run_until(self, when_s: float) -> None:
        """Run everything planned up to and including `when_s`, then be there."""
        while self._heap and self._heap[0][0] <= when_s:
            self._step()
        self._now_s = max(self._now_s, when_s)

    def run(self, limit: int = 100_000) -> None:
        """Run until nothing is planned any more.

        Raises:
            RuntimeError: more than `limit` callbacks ran, so it would never end.
        """
        for _ in range(limit):
            if not self._heap:
                return
            self._step()
        raise RuntimeError(f"still busy after {limit} timers")

    def _step(self) -> None:
        self._now_s, _, timer = heapq.heappop(self._heap)
        if timer.callback is not None:
            timer.callback()
