"""The aggregator's clock: the system's, with the civil time of a bench where there is one.

This is the only module of the aggregator that asks the system what time it is.
"""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from protocols.clock import BenchTime, Instant

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MS = 253_402_300_799_999
"""The last millisecond that RFC 3339 can write: the end of the year 9999."""


class SystemClock:
    """The machine's UTC and its monotonic clock."""

    def __init__(self, bench: BenchTime | None = None) -> None:
        self._bench = bench

    def now(self) -> Instant:
        """Return the real moment."""
        return Instant(_monotonic_ms(), time.time_ns() // 1_000_000)

    def civil(self) -> Instant:
        """Return the moment that deciding sees: the bench's where there is one, the real one elsewhere."""
        if self._bench is None:
            return self.now()
        monotonic_ms = _monotonic_ms()
        return Instant(monotonic_ms, self._bench.civil_ms(monotonic_ms))


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def machine_boot() -> str:
    """Return which boot of this machine it is: what the monotonic clock says is worth nothing in another."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def moment(utc_ms: int) -> datetime:
    """Return UTC milliseconds as an aware datetime, exactly."""
    return EPOCH + timedelta(milliseconds=min(max(utc_ms, 0), LAST_MS))


def milliseconds(at: datetime) -> int:
    """Return an aware datetime as UTC milliseconds, rounded down."""
    return (at - EPOCH) // timedelta(milliseconds=1)
