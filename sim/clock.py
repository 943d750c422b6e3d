"""The bench's clock: real time from the schedule, civil time from the bench's own numbers.

This is the only module of the bench that asks the system what time it is.
"""

import time

from protocols.clock import BenchTime, ClockQuality, Instant
from sim.schedule import Schedule


def real_time_from(schedule: Schedule) -> BenchTime:
    """Return a bench time that is simply the wall clock, running at speed 1 from now on."""
    utc_ms = time.time_ns() // 1_000_000
    return BenchTime(origin_monotonic_ms=round(schedule.time() * 1000), start_utc_ms=utc_ms, speed=1.0)


class BenchClock:
    """Civil time = start + speed × monotonic, as every process of one bench sees it."""

    def __init__(self, schedule: Schedule, bench: BenchTime) -> None:
        self._schedule = schedule
        self.bench = bench

    @property
    def speed(self) -> float:
        """Civil seconds for each real second."""
        return self.bench.speed

    def now(self) -> Instant:
        """Return the real moment."""
        utc_ms = time.time_ns() // 1_000_000
        return Instant(self._monotonic_ms(), utc_ms, ClockQuality.SYNCHRONISED)

    def civil(self) -> Instant:
        """Return the bench's civil moment; its monotonic part is real."""
        monotonic_ms = self._monotonic_ms()
        return Instant(monotonic_ms, self.bench.civil_ms(monotonic_ms), ClockQuality.SYNCHRONISED)

    def real_s_of_civil(self, utc_ms: int) -> float:
        """Return the monotonic seconds at which civil time is `utc_ms`."""
        return self.bench.monotonic_ms(utc_ms) / 1000

    def civil_s(self, real_s: float) -> float:
        """Return the civil UTC seconds at a moment of monotonic seconds."""
        return self.bench.civil_ms(real_s * 1000) / 1000

    def _monotonic_ms(self) -> int:
        return round(self._schedule.time() * 1000)
