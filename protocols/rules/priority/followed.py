"""The vehicles around a cabinet: how far each one's clock is, and where it was last."""

from collections.abc import Collection

import msgspec

from protocols.backhaul.messages import Position, Source
from protocols.clock import ClockQuality, Instant
from protocols.geo import distance_m
from protocols.model.priority import Waypoint
from protocols.rules.priority.counts import Counts

MAX_VEHICLES = 256
"""Followed at a time around a cabinet: all 180 buses of Dijon at one junction, and what noise adds."""
FORGET_MS = 60_000
"""For so long it is remembered of a vehicle how far its clock was, so that what comes again is known."""
TOLERANCE_MS = {ClockQuality.SYNCHRONISED: 3_000, ClockQuality.HOLDOVER: 60_000}
"""By how much a vehicle's clock may be ahead of ours, or its position older than the policy allows. Free-running
for a week a clock of 100 ppm is wrong by a minute. One that was never set judges nobody."""
MAX_SPEED_M_S = 40.0
"""144 km/h: nothing that is entitled to priority drives faster in a city."""
JUMP_M = 40.0
"""What a receiver may be wrong by, from one position to the next."""


class Vehicle(msgspec.Struct):
    """What is known of a vehicle, wherever it is.

    Attributes:
        at_ms: its own clock at its last position.
        place: where it was then.
        heard_ms: monotonic milliseconds when that came.
        steady: whether its last position can follow from the one before.
    """

    at_ms: int
    place: Waypoint
    heard_ms: int
    steady: bool = True

    def follow(self, position: Position, now_ms: int) -> None:
        """Take a newer position."""
        place = Waypoint(position.latitude, position.longitude)
        far_m = distance_m(self.place, place)
        self.steady = far_m <= MAX_SPEED_M_S * (position.at_ms - self.at_ms) / 1000 + JUMP_M
        self.at_ms, self.place, self.heard_ms = position.at_ms, place, now_ms


class Followed:
    """The vehicles that are followed.

    Attributes:
        vehicles: by pseudonym.
    """

    def __init__(self, counts: Counts) -> None:
        self.vehicles: dict[str, Vehicle] = {}
        self._counts = counts
        self._newest_ms = 0

    def is_untimely(self, position: Position, source: Source, stale_ms: int, now: Instant) -> bool:
        """Tell, and count, whether a position is no news: here before, or of another time than now.

        Args:
            position: what came.
            source: from where.
            stale_ms: how old it may be, beside what our clocks may differ.
            now: the moment.
        """
        counts, vehicle = self._counts, self.vehicles.get(position.pseudonym)
        if vehicle is not None and position.at_ms <= vehicle.at_ms:
            counts.repeated += position.at_ms == vehicle.at_ms
            counts.late += position.at_ms < vehicle.at_ms
            return True
        tolerance_ms = TOLERANCE_MS.get(now.quality)
        if tolerance_ms is not None:
            age_ms = now.utc_ms - position.at_ms
            counts.future += age_ms < -tolerance_ms
            counts.old += age_ms > stale_ms + tolerance_ms
            if not -tolerance_ms <= age_ms <= stale_ms + tolerance_ms:
                return True
        if source is not Source.LOCAL:
            return False
        if tolerance_ms is None and position.at_ms < self._newest_ms - FORGET_MS:
            counts.old += 1  # it is signed, so the fleet's own time judges it where our clock was never set
            return True
        self._newest_ms = max(self._newest_ms, position.at_ms)
        return False

    def follow(self, position: Position, busy: Collection[str], now: Instant) -> Vehicle | None:
        """Take a position; None if there are too many vehicles already.

        Args:
            position: what came.
            busy: the vehicles that are not to be forgotten for another one.
            now: the moment.
        """
        known = self.vehicles.get(position.pseudonym)
        if known is not None:
            known.follow(position, now.monotonic_ms)
            return known
        if len(self.vehicles) >= MAX_VEHICLES and not self._forget_one(busy):
            self._counts.crowded += 1
            return None
        place = Waypoint(position.latitude, position.longitude)
        self.vehicles[position.pseudonym] = made = Vehicle(position.at_ms, place, now.monotonic_ms)
        return made

    def forget(self, now: Instant) -> None:
        """Forget whom nobody has heard of for a while."""
        for name in [n for n, v in self.vehicles.items() if now.monotonic_ms - v.heard_ms >= FORGET_MS]:
            del self.vehicles[name]

    def _forget_one(self, busy: Collection[str]) -> bool:
        """Forget whom nobody has heard of for longest, unless everyone is on an approach."""
        idle = [(one.heard_ms, name) for name, one in self.vehicles.items() if name not in busy]
        if idle:
            del self.vehicles[min(idle)[1]]
        return bool(idle)
