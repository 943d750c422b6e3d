"""The controller's own conflict monitor: it sees what the lamps show and nothing else.

It keeps its own book of when each green began and ended, and compares it with the design's intergreens and
minimum greens. What it finds are major faults (EN 12675: conflict classes AA1 green-green, AB1 green-yellow and
AC1 yellow-yellow), which take a controller to its failure mode.
"""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from sim.junction_design import JunctionDesign
from sim.signal_groups import LONG_AGO, MOVING, Aspect


class Hazard(StrEnum):
    """What must never be seen."""

    CONFLICT = "conflict"
    """Two conflicting groups green or yellow together."""
    INTERGREEN = "intergreen"
    """A green began too soon after a conflicting one had ended."""
    MINIMUM_GREEN = "minimum_green"
    YELLOW = "yellow"
    """A yellow was cut, or left out."""


class Finding(msgspec.Struct, frozen=True):
    """A hazard, and the number of the group, from 1, at which it was seen."""

    hazard: Hazard
    group: int


class ConflictMonitor:
    """Sees every step's lamps.

    Args:
        design: what is allowed.
    """

    def __init__(self, design: JunctionDesign) -> None:
        self._design = design
        self.forget()

    def forget(self) -> None:
        """Begin anew: the lamps were not in control meanwhile."""
        count = len(self._design.groups)
        self._last: list[Aspect] = [Aspect.RED] * count
        self._since = [LONG_AGO] * count
        self._green_ended = [LONG_AGO] * count

    def see(self, tick: int, lamps: Sequence[Aspect]) -> Finding | None:
        """Return what is wrong with the lamps at `tick`, or None."""
        finding = self._changes(tick, lamps) or self._conflicts(tick, lamps)
        self._last = list(lamps)
        return finding

    def _changes(self, tick: int, lamps: Sequence[Aspect]) -> Finding | None:
        for group, (before, now) in enumerate(zip(self._last, lamps, strict=True)):
            if before is now:
                continue
            shown_s = tick - self._since[group]
            self._since[group] = tick
            hazard = self._change(group, before, now, shown_s)
            if hazard is not None:
                return Finding(hazard, group + 1)
            if before is Aspect.GREEN:
                self._green_ended[group] = tick
        return None

    def _change(self, group: int, before: Aspect, now: Aspect, shown_s: int) -> Hazard | None:
        design = self._design.groups[group]
        if before is Aspect.GREEN:
            if shown_s < design.min_green_s:
                return Hazard.MINIMUM_GREEN
            if design.shown_yellow_s and now is not Aspect.YELLOW:
                return Hazard.YELLOW
        if before is Aspect.YELLOW and shown_s < design.shown_yellow_s:
            return Hazard.YELLOW
        return None

    def _conflicts(self, tick: int, lamps: Sequence[Aspect]) -> Finding | None:
        moving = [group for group, aspect in enumerate(lamps) if aspect in MOVING]
        for group in moving:
            if any(self._design.conflict(group, other) for other in moving):
                return Finding(Hazard.CONFLICT, group + 1)
            if lamps[group] is Aspect.GREEN and self._since[group] == tick and not self._cleared(group, tick):
                return Finding(Hazard.INTERGREEN, group + 1)
        return None

    def _cleared(self, group: int, tick: int) -> bool:
        return all(
            tick - self._green_ended[other] >= self._design.intergreen_s(other, group)
            for other in range(len(self._design.groups))
            if self._design.conflict(other, group)
        )
