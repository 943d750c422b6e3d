"""Signal groups in steps of a second: green, yellow, red, red-yellow, in that order and never too short.

Whatever is wanted of them, a group that is green stays so for its minimum, and none becomes green before the
intergreens from all groups that it conflicts with have passed. The conflict monitor (`sim.conflict_monitor`) does
not rely on it: it looks at the lamps.
"""

from enum import StrEnum
from typing import Self

from sim.junction_design import JunctionDesign

LONG_AGO = -1_000_000
"""A step before anything: no intergreen reaches back so far."""


class Aspect(StrEnum):
    """What a signal group shows."""

    DARK = "dark"
    FLASH = "flash"
    RED = "red"
    RED_YELLOW = "red_yellow"
    GREEN = "green"
    YELLOW = "yellow"


MOVING = frozenset({Aspect.GREEN, Aspect.YELLOW})
"""Aspects at which somebody may be on the junction."""


class SignalGroups:
    """All groups of a junction, red from `tick` on.

    Attributes:
        aspects: what each shows, by index.
        since: the step at which it began.
        green_ended: the step at which its last green ended, or LONG_AGO.
    """

    def __init__(self, design: JunctionDesign, tick: int) -> None:
        self._design = design
        count = len(design.groups)
        self.aspects = [Aspect.RED] * count
        self.since = [tick] * count
        self.green_ended = [LONG_AGO] * count
        self._against = tuple(
            tuple(
                (other, design.intergreen_s(other, group))
                for other in range(count)
                if design.conflict(other, group)
            )
            for group in range(count)
        )

    def fork(self) -> Self:
        """Return a copy that lives on by itself."""
        twin = object.__new__(type(self))
        twin._design, twin._against = self._design, self._against
        twin.aspects, twin.since = self.aspects.copy(), self.since.copy()
        twin.green_ended = self.green_ended.copy()
        return twin

    def step(self, tick: int, wanted: frozenset[int]) -> None:
        """Go on to `tick`: end what is no longer wanted, begin what may begin."""
        for group, aspect in enumerate(self.aspects):
            if aspect is not Aspect.RED:
                self._go_on(group, aspect, tick, wanted)
        for group in wanted:
            if self.aspects[group] is Aspect.RED and self._may_start(group, tick, wanted):
                self._start(group, tick)

    def all_green(self, groups: frozenset[int]) -> bool:
        """Return whether every one of these is green."""
        return all(self.aspects[group] is Aspect.GREEN for group in groups)

    def all_red(self) -> bool:
        """Return whether nobody may move."""
        return all(aspect is Aspect.RED for aspect in self.aspects)

    def has_had_its_minimum(self, group: int, tick: int) -> bool:
        """Return whether a green may end at `tick`."""
        return tick - self.since[group] >= self._design.groups[group].min_green_s

    def _go_on(self, group: int, aspect: Aspect, tick: int, wanted: frozenset[int]) -> None:
        design = self._design.groups[group]
        age_s = tick - self.since[group]
        if aspect is Aspect.GREEN:
            if group not in wanted and age_s >= design.min_green_s:
                self.green_ended[group] = tick
                self._show(group, Aspect.YELLOW if design.shown_yellow_s else Aspect.RED, tick)
        elif aspect is Aspect.YELLOW:
            if age_s >= design.shown_yellow_s:
                self._show(group, Aspect.RED, tick)
        elif age_s >= design.shown_red_yellow_s:
            self._show(group, Aspect.GREEN, tick)

    def _may_start(self, group: int, tick: int, wanted: frozenset[int]) -> bool:
        green_at = tick + self._design.groups[group].shown_red_yellow_s
        for other, intergreen_s in self._against[group]:
            if other in wanted or self.aspects[other] in {Aspect.GREEN, Aspect.RED_YELLOW}:
                return False
            if green_at - self.green_ended[other] < intergreen_s:
                return False
        return True

    def _start(self, group: int, tick: int) -> None:
        before = self._design.groups[group].shown_red_yellow_s
        self._show(group, Aspect.RED_YELLOW if before else Aspect.GREEN, tick)

    def _show(self, group: int, aspect: Aspect, tick: int) -> None:
        self.aspects[group] = aspect
        self.since[group] = tick
