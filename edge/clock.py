"""The agent's clocks: with sim's and central's, the only modules that ask the system for the time."""

import ctypes
import time

from protocols.clock import EARLIEST_PLAUSIBLE_MS, BenchTime, ClockQuality, Instant

QUALITY_EVERY_MS = 10_000

_STA_UNSYNC = 0x0040
_TIMEX_BYTES = 256
_STATUS_OFFSET = 5 * ctypes.sizeof(ctypes.c_long)  # struct timex: modes, offset, freq, maxerror, esterror


class SystemClock:
    """The machine's own time; its quality is what the kernel knows of its synchronisation."""

    def __init__(self) -> None:
        self._quality = ClockQuality.UNSYNCHRONISED
        self._quality_until_ms = 0

    def now(self) -> Instant:
        """Return the real moment."""
        monotonic_ms = time.monotonic_ns() // 1_000_000
        utc_ms = time.time_ns() // 1_000_000
        if monotonic_ms >= self._quality_until_ms:
            self._quality = _quality(utc_ms)
            self._quality_until_ms = monotonic_ms + QUALITY_EVERY_MS
        return Instant(monotonic_ms, utc_ms, self._quality)

    def civil(self) -> Instant:
        """Return the same: outside a bench, deciding sees the real time."""
        return self.now()


class BenchClock(SystemClock):
    """Real time for everything but deciding, which sees a bench's evening."""

    def __init__(self, bench: BenchTime) -> None:
        super().__init__()
        self._bench = bench

    def civil(self) -> Instant:
        """Return the bench's civil moment."""
        now = self.now()
        return Instant(now.monotonic_ms, self._bench.civil_ms(now.monotonic_ms), now.quality)


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
