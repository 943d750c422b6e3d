"""What one transmitter has sent, and whether it may send more: the duty cycle, kept and never exceeded.

For each sub-band any hour, wherever it begins, holds at most its share of time on air (ETSI EN 300 220-1,
duty cycle over one hour). What is reserved counts from the moment it is reserved, so two windows cannot both
be promised the last second. Time is an argument: monotonic milliseconds.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from protocols.lorawan.region import SubBand

HOUR_MS: Final = 3_600_000


class Entry(msgspec.Struct, frozen=True):
    """One transmission.

    Attributes:
        band: name of its sub-band.
        end_ms: monotonic milliseconds by which it is over.
        airtime_us: how long it is on the air.
    """

    band: str
    end_ms: int
    airtime_us: int


class Stamp(msgspec.Struct, frozen=True):
    """When something was written down.

    Attributes:
        boot: which boot of the machine; "" if nobody knows.
        monotonic_ms: of that boot.
        utc_ms: by the wall clock; None if that could not be trusted.
    """

    boot: str
    monotonic_ms: int
    utc_ms: int | None


def age_ms(then: Stamp, now: Stamp) -> int:
    """Return how old a stamp is for certain: 0 where nothing proves that any time has passed."""
    if then.boot and then.boot == now.boot:
        return max(now.monotonic_ms - then.monotonic_ms, 0)
    if then.utc_ms is None or now.utc_ms is None:
        return 0
    return max(now.utc_ms - then.utc_ms, 0)


class Ledger:
    """One transmitter's book."""

    def __init__(self) -> None:
        self._entries: dict[str, deque[Entry]] = {}

    def restore(self, entries: Iterable[Entry]) -> None:
        """Take what an earlier run wrote down; what has no known age counts as sent just now."""
        for entry in entries:
            self._entries.setdefault(entry.band, deque()).append(entry)

    def reserve(self, band: SubBand, airtime_us: int, start_ms: int, now_ms: int) -> Entry | None:
        """Take airtime, or refuse: None if with it some hour would hold more than its share.

        Whatever is reserved for later counts as well, so the order in which windows come does not matter.
        """
        self._forget(band.name, now_ms)
        if self.used_us(band.name) + airtime_us > band.share * HOUR_MS * 1000:
            return None
        entry = Entry(band.name, start_ms + -(-airtime_us // 1000), airtime_us)
        self._entries.setdefault(band.name, deque()).append(entry)
        return entry

    def release(self, entry: Entry) -> None:
        """Give back what was reserved and for certain not sent."""
        booked = self._entries.get(entry.band, deque())
        if entry in booked:
            booked.remove(entry)

    def used_us(self, band: str) -> int:
        """Return the airtime that is booked in a sub-band."""
        return sum(entry.airtime_us for entry in self._entries.get(band, ()))

    def _forget(self, band: str, now_ms: int) -> None:
        """Drop what is over for more than an hour. Those of RX2 end later than those after them, so look at all."""
        booked = self._entries.get(band)
        if booked:
            self._entries[band] = deque(entry for entry in booked if entry.end_ms > now_ms - HOUR_MS)
