"""Time as an argument.

Durations (hold, dwell, cool-down, time-outs) use monotonic time; stamps and calendars use UTC. Both arrive
as one `Instant`, so a clock that is stepped cannot stretch a duration.

On a bench the evening may run faster than the wall: a `BenchTime` maps monotonic time to the civil time that
deciding sees and that the simulated sun follows. Time-outs, bit times, polling and the stamps of readings
stay real.
"""

from enum import IntEnum
from itertools import pairwise
from typing import Annotated, Protocol

import msgspec

EARLIEST_PLAUSIBLE_MS = 1_767_225_600_000
"""2026-01-01: before this version was written, so a clock that says so was never set."""


class ClockQuality(IntEnum):
    """How far a UTC stamp can be trusted. The numbers are on the wire: append only."""

    UNSYNCHRONISED = 0
    """Nothing has set this clock since boot: its UTC is a guess, its monotonic time is sound."""
    HOLDOVER = 1
    """It was set once, perhaps before this boot, and has run free since."""
    SYNCHRONISED = 2
    """Something disciplines it now."""


class Instant(msgspec.Struct, frozen=True):
    """One moment, twice.

    Attributes:
        monotonic_ms: milliseconds since an arbitrary origin of this boot; never steps.
        utc_ms: milliseconds since 1970-01-01T00:00Z; may step.
        quality: how far `utc_ms` can be trusted.
    """

    monotonic_ms: int
    utc_ms: int
    quality: ClockQuality = ClockQuality.SYNCHRONISED


class Correction(msgspec.Struct, frozen=True):
    """How the times that a boot told before its clock was set are put right.

    Cabinet and centre both go by it, each on what it holds, so that both mean the same alarm by the same time.

    Attributes:
        before_ms: utc = monotonic + this, as the boot told it until now.
        after_ms: utc = monotonic + this, as it is.
        until_ms: monotonic milliseconds of the correction: nothing after it was told by `before_ms`.
    """

    before_ms: int
    after_ms: int
    until_ms: int

    def corrected(self, utc_ms: int) -> int:
        """Return what a told time was really; one that this boot cannot have told stays what it is."""
        if 0 <= utc_ms - self.before_ms <= self.until_ms:
            return utc_ms - self.before_ms + self.after_ms
        return utc_ms


class Clock(Protocol):
    """The only source of time for whoever is given one."""

    def now(self) -> Instant:
        """Return the real moment: stamps, expiries of messages, signatures."""
        ...

    def civil(self) -> Instant:
        """Return the moment that deciding sees: schedules, overrides. The same as `now`, but on a bench."""
        ...


class BenchTime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A civil time that starts anywhere and runs at any speed: civil = start + speed × elapsed.

    Every process of one bench is given the same numbers and so sees the same evening, because
    CLOCK_MONOTONIC is one per machine. What cannot be hurried, such as a bus that waits for its green, is given
    windows in which civil time runs as real time does.

    Attributes:
        origin_monotonic_ms: the monotonic moment at which the bench's civil time is `start_utc_ms`.
        start_utc_ms: civil time at the origin, milliseconds since 1970-01-01T00:00Z.
        speed: civil seconds for each real second, above 0 and up to a million.
        unhurried: monotonic milliseconds [from, to) within which the speed is 1; ascending, apart, after the origin.
    """

    origin_monotonic_ms: int
    start_utc_ms: int
    speed: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0
    unhurried: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        """Refuse windows that are empty, overlap, or do not ascend from the origin."""
        edges = [self.origin_monotonic_ms, *(edge for window in self.unhurried for edge in window)]
        if any(later < earlier for earlier, later in pairwise(edges)):
            raise ValueError(
                "unhurried: expected windows that ascend from origin_monotonic_ms, none within another"
            )

    def civil_ms(self, monotonic_ms: float) -> int:
        """Return the civil UTC milliseconds at a monotonic moment."""
        slow_ms = sum(min(max(monotonic_ms, begin), end) - begin for begin, end in self.unhurried)
        hurried_ms = monotonic_ms - self.origin_monotonic_ms - slow_ms
        return self.start_utc_ms + round(self.speed * hurried_ms + slow_ms)

    def monotonic_ms(self, civil_ms: int) -> float:
        """Return the monotonic moment at which civil time is `civil_ms`."""
        left_ms, at_ms = float(civil_ms - self.start_utc_ms), float(self.origin_monotonic_ms)
        for begin, end in self.unhurried:
            if left_ms < self.speed * (begin - at_ms):
                break
            left_ms, at_ms = left_ms - self.speed * (begin - at_ms), float(begin)
            if left_ms < end - begin:
                return at_ms + left_ms
            left_ms, at_ms = left_ms - (end - begin), float(end)
        return at_ms + left_ms / self.speed
