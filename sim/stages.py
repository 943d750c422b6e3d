"""The stages of a time plan, one after the other, and what a priority request may change about them.

Two rules and no more:

- *Hold.* The stage of the requested group ends later than planned: at most `max_extension_s`, and only if the
  vehicle can be there by then. A vehicle that arrives before the planned end needs nothing.
- *Hurry.* Stages before that of the requested group end as soon as all their groups have had their minimum green;
  not at once, but when the shortest way to the requested green would just bring it as the vehicle arrives.

No stage is skipped or put out of order. Each stage's planned end is a fixed moment of the plan, so recovery needs no
rule of its own: a stage that began early ends at its planned end, and one that began late ends at its planned end
too, if its minimum greens allow. Above both rules stands the longest red: when the shortest way to a waiting group
would only just serve it in time, the running stage ends as soon as it may.
"""

from typing import Self

import msgspec

from sim.junction_design import JunctionDesign, Pace, TimePlan
from sim.signal_groups import Aspect, SignalGroups

_LEAD_S = 2
"""Green stands this long before a vehicle arrives, so that it need not brake."""


class Wish(msgspec.Struct, frozen=True):
    """What the request that is served asks for.

    Attributes:
        group: by index.
        arrival: the step at which the vehicle is expected at the stop line; in the past if it is there.
    """

    group: int
    arrival: int


class Stages:
    """Stages and signal groups of a junction in control, from all red at `tick` on.

    Args:
        design: the junction.
        plan: the first time plan.
        tick: now, in seconds from the controller's own origin.
        red_since: the step from which on all have been red.
        base: the base cycle counter at that origin: whole seconds that all controllers share.

    Attributes:
        groups: the signal groups.
        plan: in force.
        place: in the plan's order.
        since: the step at which the running stage was switched to.
        held: whether the running stage is being held beyond its planned end.
    """

    def __init__(
        self, design: JunctionDesign, plan: TimePlan, tick: int, *, red_since: int, base: int
    ) -> None:
        self._design = design
        self._base = base
        self._pending: TimePlan | None = None
        self._paces = {each.number: Pace(design, each) for each in design.plans}
        self.groups = SignalGroups(design, red_since)
        self.place = 0
        self.since = tick
        self.held = False
        self._follow(plan, tick)

    def fork(self) -> Self:
        """Return a copy that lives on by itself: what would have happened without a request."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.groups = self.groups.fork()
        return twin

    @property
    def stage(self) -> int:
        """Number of the running stage."""
        return self.plan.order[self.place]

    @property
    def planned_end(self) -> int:
        """The step at which the plan ends the running stage."""
        return self._cycle_start + sum(self.plan.durations_s[: self.place + 1])

    def cycle_counter(self, tick: int) -> int:
        """Return the plan's cycle counter (S0001): (base + offset) mod cycle."""
        return (self._base + tick + self.plan.offset_s) % self.plan.cycle_s

    def change_plan(self, plan: TimePlan) -> None:
        """Change to a plan as soon as its first stage could end and nobody is red for too long by its order."""
        self._pending = plan

    def step(self, tick: int, wish: Wish | None = None) -> None:
        """Go on to `tick`."""
        if self._pending is not None and self._may_take_up(self._pending, tick):
            self._follow(self._pending, tick)
        if self._may_leave(tick) and self._is_due(tick, wish):
            self._advance(tick)
        self.groups.step(tick, self._pace.members[self.place])
        self.held = tick >= self.planned_end and self._is_served(wish)

    def wind_down(self, tick: int) -> bool:
        """Go on to `tick` towards all red; return whether that is reached."""
        self.groups.step(tick, frozenset())
        return self.groups.all_red()

    def _follow(self, plan: TimePlan, tick: int) -> None:
        """Take up a plan in its first stage, at its own place in the cycle: ahead or behind, whichever is less."""
        self.plan = plan
        self._pending = None
        self._pace = self._paces[plan.number]
        behind = self.cycle_counter(tick)
        ahead = plan.cycle_s - behind
        self._cycle_start = tick - behind if behind <= ahead else tick + ahead

    def _advance(self, tick: int) -> None:
        self.place = (self.place + 1) % self._pace.length
        self.since = tick
        if self.place == 0:
            self._cycle_start += self.plan.cycle_s
            self._cycle_start += self._whole_cycles(tick - self._cycle_start)

    def _whole_cycles(self, behind: int) -> int:
        """Return the whole cycles by which we are behind, or ahead: the plan repeats, so they mean nothing."""
        return int(behind / self.plan.cycle_s) * self.plan.cycle_s

    def _may_leave(self, tick: int) -> bool:
        """All groups of the stage have become green, and those that would end have had their minimum."""
        return self._is_over(self._pace, tick)

    def _is_over(self, pace: Pace, tick: int) -> bool:
        return self.groups.all_green(pace.members[self.place]) and all(
            self.groups.has_had_its_minimum(group, tick) for group in pace.ending[self.place]
        )

    def _may_take_up(self, plan: TimePlan, tick: int) -> bool:
        """Whether a plan can take over: its order may serve last who has waited longest under the old one."""
        pace = self._paces[plan.number]
        return self.place == 0 and self._is_over(pace, tick) and not self._is_too_late(pace, tick)

    def _is_due(self, tick: int, wish: Wish | None) -> bool:
        if self._reaches_maximum_green(tick) or self._keeps_somebody_too_long(tick):
            return True
        if wish is not None and self._is_served(wish):
            return tick >= self.planned_end and not self._holds(tick, wish)
        return tick >= self.planned_end or (wish is not None and self._hurries(tick, wish))

    def _is_served(self, wish: Wish | None) -> bool:
        """Whether the wish is for a group whose green the running stage would end."""
        return wish is not None and wish.group in self._pace.ending[self.place]

    def _holds(self, tick: int, wish: Wish) -> bool:
        latest = self.planned_end + self._design.limits.max_extension_s
        return tick < latest and wish.arrival <= latest

    def _hurries(self, tick: int, wish: Wish) -> bool:
        if wish.group in self._pace.members[self.place]:
            return False
        return tick + self._pace.path_s(self.place, wish.group) + _LEAD_S >= wish.arrival

    def _reaches_maximum_green(self, tick: int) -> bool:
        return any(
            tick - self.groups.since[group] >= self._design.groups[group].max_green_s
            for group in self._pace.ending[self.place]
        )

    def _keeps_somebody_too_long(self, tick: int) -> bool:
        """Whether a second more would keep a waiting group red for longer than the longest red."""
        return self._is_too_late(self._pace, tick + 1)

    def _is_too_late(self, pace: Pace, tick: int) -> bool:
        """Whether leaving the stage at `tick` brings somebody's green after the longest red."""
        last = tick - self._design.limits.max_red_s
        return any(
            aspect is Aspect.RED and self.groups.since[group] < last + pace.path_s(self.place, group)
            for group, aspect in enumerate(self.groups.aspects)
        )
