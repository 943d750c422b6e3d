"""The agent's clocks: with sim's and central's, the only modules that ask the system for the time."""

import ctypes
import time

from edge.known_time import STEP_MS, ClockRecord, KnownTime
from protocols.backhaul.messages import ClockEvent
from protocols.clock import EARLIEST_PLAUSIBLE_MS, BenchTime, Clock, ClockQuality, Instant

QUALITY_EVERY_MS = 10_000
APART_NS = 20_000_000
TRIES = 5
"""A machine that is held up each time has other troubles."""

_STA_UNSYNC = 0x0040
_TIMEX_BYTES = 256
_STATUS_OFFSET = 5 * ctypes.sizeof(ctypes.c_long)  # struct timex: modes, offset, freq, maxerror, esterror


class SystemClock:
    """The machine's own time; its quality is what the kernel knows of its synchronisation."""

    def __init__(self) -> None:
        self._quality = ClockQuality.UNSYNCHRONISED
        self._quality_until_ms = 0
        self._offset_ms = 0

    def now(self) -> Instant:
        """Return the real moment."""
        monotonic_ms, utc_ms = _both()
        offset_ms = utc_ms - monotonic_ms
        if monotonic_ms >= self._quality_until_ms or abs(offset_ms - self._offset_ms) >= STEP_MS:
            self._quality = _quality(utc_ms)
            self._quality_until_ms = monotonic_ms + QUALITY_EVERY_MS
            self._offset_ms = offset_ms
        return Instant(monotonic_ms, utc_ms, self._quality)

    def civil(self) -> Instant:
        """Return the same: outside a bench, deciding sees the real time."""
        return self.now()


class AgentClock:
    """The time that the agent goes by: the machine's as `KnownTime` judges it.

    Between two looks it cannot step, so that what happens in one breath is of one scale. On a bench, deciding
    sees the bench's evening.
    """

    def __init__(self, machine: Clock, known: KnownTime, bench: BenchTime | None = None) -> None:
        self.known = known
        self._machine = machine
        self._bench = bench

    def now(self) -> Instant:
        """Return told time."""
        return self.known.now(self._machine.now().monotonic_ms)

    def civil(self) -> Instant:
        """Return the moment that deciding sees: the bench's where there is one."""
        now = self.now()
        if self._bench is None:
            return now
        return Instant(now.monotonic_ms, self._bench.civil_ms(now.monotonic_ms), now.quality)

    def known_ms(self) -> int:
        """Return the time that expiries go by."""
        return self.known.known_ms(self._machine.now().monotonic_ms)

    def doubted_ms(self) -> int | None:
        """Return the time that expiries go by while nothing disciplines the clock; None while something does."""
        return None if self.known.quality is ClockQuality.SYNCHRONISED else self.known_ms()

    def good_ms(self) -> int:
        """Return UTC milliseconds before which it cannot be."""
        return self.known.good_ms(self._machine.now().monotonic_ms)

    def learn(self, utc_ms: int) -> None:
        """Take note that it cannot be before a moment: somebody who is trusted has signed that."""
        self.known.learn(utc_ms, self._machine.now().monotonic_ms)

    def record(self) -> ClockRecord:
        """Return what the next run is to know."""
        return self.known.record(self._machine.now().monotonic_ms)

    def look(self) -> ClockEvent | None:
        """Take over what the machine says; return what is to be told of it, if anything is."""
        return self.known.look(self._machine.now())


def _both() -> tuple[int, int]:
    """Read both clocks at one moment: a machine that was held up in between would seem to have stepped."""
    for _ in range(TRIES):
        before_ns, utc_ns = time.monotonic_ns(), time.time_ns()
        if time.monotonic_ns() - before_ns < APART_NS:
            break
    return before_ns // 1_000_000, utc_ns // 1_000_000


def _quality(utc_ms: int) -> ClockQuality:
    if utc_ms < EARLIEST_PLAUSIBLE_MS:
        return ClockQuality.UNSYNCHRONISED
    return ClockQuality.SYNCHRONISED if _kernel_is_synchronised() else ClockQuality.HOLDOVER


def _kernel_is_synchronised() -> bool:
    """Ask the kernel whether something disciplines its clock; adjtimex(2) with no mode changes nothing."""
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    except (OSError, AttributeError):
        return False
    status = int.from_bytes(timex.raw[_STATUS_OFFSET : _STATUS_OFFSET + 4], "little")
    return state >= 0 and not status & _STA_UNSYNC
