"""What a signalled junction is made of: groups, stages, intergreens, time plans, detectors, limits of priority.

Everything has a default: a crossroads of four vehicle groups and two pedestrian groups, so that a scenario needs to
say no more than where its supervisor is.

    group 1 north   group 2 east   group 3 south   group 4 west      vehicles
    group 5 pedestrians over the north-south road, group 6 over the east-west road

    stage 1: 1 3 6      stage 2: 2 5      stage 3: 4 5

All durations are whole seconds: the controller steps once a second, as fixed-time plans are written.
"""

from enum import StrEnum
from typing import Annotated

import msgspec

Seconds = Annotated[int, msgspec.Meta(ge=0, le=999)]
MAX_GROUPS = 64
"""More than any junction has; the conflict matrix grows with its square."""


class GroupKind(StrEnum):
    """Who looks at a signal group."""

    VEHICLE = "vehicle"
    PEDESTRIAN = "pedestrian"


class SignalGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Heads that always show the same.

    Attributes:
        kind: vehicles see yellow after green; pedestrians see red at once, their clearing is intergreen.
        min_green_s: no green is ever shorter.
        max_green_s: no green is stretched beyond, whoever asks.
        yellow_s: shown after green; None is 3 s for vehicles (in town) and none for pedestrians.
        red_yellow_s: shown before green; None is 1 s for vehicles and none for pedestrians. France shows none: 0.
        priority: whether the group can be requested; None is for vehicles only.
    """

    kind: GroupKind = GroupKind.VEHICLE
    min_green_s: Annotated[int, msgspec.Meta(ge=1, le=120)] = 6
    max_green_s: Annotated[int, msgspec.Meta(ge=1, le=600)] = 60
    yellow_s: Annotated[int, msgspec.Meta(ge=0, le=10)] | None = None
    red_yellow_s: Annotated[int, msgspec.Meta(ge=0, le=10)] | None = None
    priority: bool | None = None

    @property
    def shown_yellow_s(self) -> int:
        """Seconds of yellow after a green."""
        return (3 if self.kind is GroupKind.VEHICLE else 0) if self.yellow_s is None else self.yellow_s

    @property
    def shown_red_yellow_s(self) -> int:
        """Seconds of red-yellow before a green."""
        return (
            (1 if self.kind is GroupKind.VEHICLE else 0) if self.red_yellow_s is None else self.red_yellow_s
        )

    @property
    def takes_priority(self) -> bool:
        """Whether a request for it can be granted."""
        return self.kind is GroupKind.VEHICLE if self.priority is None else self.priority


class TimePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One signal program.

    Attributes:
        number: 1–255, as S0014 and M0002 name it.
        order: numbers of stages, in the order in which they come; plans change while the first one runs, so all
            plans of a junction begin with the same.
        durations_s: from the moment a stage is switched to until the next one is; they sum up to the cycle.
        offset_s: added to the base cycle counter (S0001).
    """

    number: Annotated[int, msgspec.Meta(ge=1, le=255)]
    order: tuple[int, ...]
    durations_s: tuple[Seconds, ...]
    offset_s: Seconds = 0

    @property
    def cycle_s(self) -> int:
        """Sum of all stages."""
        return sum(self.durations_s)


class DetectorDesign(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A detector and what it stands for.

    Attributes:
        name: as the scenario and a bus call it.
        stuck_after_s: occupied for longer, it is taken for faulty (A0302, always_on).
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    stuck_after_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 300


class PriorityLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the controller grants at most, whatever a supervisor asks.

    Attributes:
        max_extension_s: a stage ends at most so much after its planned end.
        max_red_s: no group waits longer; greens of others are cut to their minimum before.
        queue_s: a request that has been queued so long times out.
        lifetime_s: a request that is active so long without being cancelled is stale.
        cooldown_s: after a completed request, none for the same group is granted for so long.
        lowest_level: requests below it are rejected; 1 leaves level 0 without effect.
    """

    max_extension_s: Annotated[int, msgspec.Meta(ge=0, le=255)] = 15
    max_red_s: Annotated[int, msgspec.Meta(ge=30, le=600)] = 120
    queue_s: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 60
    lifetime_s: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 120
    cooldown_s: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 30
    lowest_level: Annotated[int, msgspec.Meta(ge=0, le=14)] = 1


_PEDESTRIANS = SignalGroup(GroupKind.PEDESTRIAN, min_green_s=8)
_GROUPS = (SignalGroup(), SignalGroup(), SignalGroup(), SignalGroup(), _PEDESTRIANS, _PEDESTRIANS)
_STAGES = ((1, 3, 6), (2, 5), (4, 5))
_INTERGREENS = (
    # to 1, 2, 3, 4, 5, 6; 0 is no conflict
    (0, 5, 0, 5, 5, 0),
    (5, 0, 5, 5, 0, 5),
    (0, 5, 0, 5, 5, 0),
    (5, 5, 5, 0, 0, 5),
    (8, 0, 8, 0, 0, 0),
    (0, 8, 0, 8, 0, 0),
)
_PLANS = (
    TimePlan(1, (1, 2, 3), (45, 22, 23)),
    TimePlan(2, (1, 2, 3), (33, 18, 19), offset_s=10),
    TimePlan(3, (1, 3, 2), (26, 17, 17)),
)
_DETECTORS = tuple(
    DetectorDesign(f"{which}-{number}") for number in range(1, 5) for which in ("check-in", "exit")
)


class JunctionDesign(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole junction.

    Attributes:
        groups: signal groups; the first is number 1.
        stages: for each stage the numbers of the groups that are green in it; the first is number 1.
        intergreens: seconds from the end of green of the row's group to the start of green of the column's; 0 is
            no conflict.
        plans: time plans; the first one is in force unless commanded otherwise.
        detectors: detector logics; the first is number 1. Unless said otherwise a check-in and an exit detector
            on each of four approaches.
        start_flash_s: yellow flashing at start-up; yellow and all-red follow.
        start_red_s: all-red at start-up.
    """

    groups: tuple[SignalGroup, ...] = _GROUPS
    stages: tuple[tuple[int, ...], ...] = _STAGES
    intergreens: tuple[tuple[Seconds, ...], ...] = _INTERGREENS
    plans: tuple[TimePlan, ...] = _PLANS
    detectors: tuple[DetectorDesign, ...] = _DETECTORS
    limits: PriorityLimits = PriorityLimits()
    start_flash_s: Annotated[int, msgspec.Meta(ge=0, le=60)] = 4
    start_red_s: Annotated[int, msgspec.Meta(ge=1, le=60)] = 4

    def intergreen_s(self, ending: int, starting: int) -> int:
        """Return the intergreen between two groups by their index from 0; 0 is no conflict."""
        return self.intergreens[ending][starting]

    def conflict(self, one: int, other: int) -> bool:
        """Return whether two groups, by index, must never be green together."""
        return self.intergreens[one][other] > 0

    def members(self, stage: int) -> frozenset[int]:
        """Return the groups, by index, of a stage by its number."""
        return frozenset(number - 1 for number in self.stages[stage - 1])


def design_faults(design: JunctionDesign) -> list[str]:
    """Return everything that would make a junction unsafe or unable to run; nothing if it is sound."""
    shape = _shape_faults(design)
    if shape:
        return shape
    return [*_intergreen_faults(design), *_stage_faults(design), *_plan_faults(design)]


def _shape_faults(design: JunctionDesign) -> list[str]:
    """Numbers that lead nowhere: nothing else can be judged before they are right."""
    count = len(design.groups)
    faults = []
    if not 1 <= count <= MAX_GROUPS:
        faults.append(f"groups: expected 1–{MAX_GROUPS}")
    if len(design.intergreens) != count or any(len(row) != count for row in design.intergreens):
        faults.append(f"intergreens: expected {count} rows of {count}, one for each group")
    for number, stage in enumerate(design.stages, 1):
        if not stage or any(not 1 <= group <= count for group in stage):
            faults.append(f"stages: expected groups 1–{count} in stage {number}")
    if not design.plans or len({plan.number for plan in design.plans}) != len(design.plans):
        faults.append("plans: expected at least one, each with a number of its own")
    for plan in design.plans:
        known = all(1 <= stage <= len(design.stages) for stage in plan.order)
        if len(plan.order) < 2 or not known or len(plan.order) != len(plan.durations_s):
            faults.append(f"plan {plan.number}: expected two known stages or more, each with its duration")
    if len({detector.name for detector in design.detectors}) != len(design.detectors):
        faults.append("detectors: expected a name of its own for each")
    return faults


def _intergreen_faults(design: JunctionDesign) -> list[str]:
    faults = []
    for one, row in enumerate(design.intergreens):
        clearing_s = design.groups[one].shown_yellow_s
        for other, seconds in enumerate(row):
            if (seconds > 0) != (design.intergreens[other][one] > 0) or (one == other and seconds):
                faults.append(f"intergreens: {one + 1} and {other + 1} conflict one way only")
            elif seconds and seconds < clearing_s:
                faults.append(
                    f"intergreens: {one + 1} to {other + 1} ends within the yellow of {clearing_s} s"
                )
    return faults


def _stage_faults(design: JunctionDesign) -> list[str]:
    faults = []
    for number in range(1, len(design.stages) + 1):
        members = sorted(design.members(number))
        faults += [
            f"stages: {one + 1} and {other + 1} conflict in stage {number}"
            for one in members
            for other in members
            if one < other and design.conflict(one, other)
        ]
    return faults


def _plan_faults(design: JunctionDesign) -> list[str]:
    faults = []
    for plan in design.plans:
        if plan.order[0] != design.plans[0].order[0]:
            faults.append(f"plan {plan.number}: expected to begin with stage {design.plans[0].order[0]}")
        served = frozenset[int]().union(*(design.members(stage) for stage in plan.order))
        if len(served) != len(design.groups):
            faults.append(f"plan {plan.number}: expected a stage for every group")
        if plan.cycle_s > min(999, design.limits.max_red_s):
            faults.append(f"plan {plan.number}: expected a cycle of at most {design.limits.max_red_s} s")
        faults += _duration_faults(design, plan)
    return faults


def _duration_faults(design: JunctionDesign, plan: TimePlan) -> list[str]:
    pace = Pace(design, plan)
    faults = []
    for index, duration_s in enumerate(plan.durations_s):
        before = (index - 1) % len(plan.order)
        least_s = pace.change_s(before) + pace.stay_s[index]
        if duration_s < least_s:
            faults.append(f"plan {plan.number}: stage {plan.order[index]} needs at least {least_s} s")
        longest_s = min(
            design.groups[group].max_green_s for group in pace.ending[index] or pace.members[index]
        )
        if duration_s > longest_s:
            faults.append(
                f"plan {plan.number}: stage {plan.order[index]} is longer than {longest_s} s of green"
            )
    least_s = sum(pace.change_s(index) + pace.stay_s[index] for index in range(len(plan.order)))
    if least_s > design.limits.max_red_s:
        faults.append(f"plan {plan.number}: {least_s} s at its shortest, longer than the longest red")
    return faults


class Pace:
    """How quickly a plan's stages can follow each other, at their minimum.

    Attributes:
        members: groups by index, for each place in the plan's order.
        ending: those that are not in the next stage.
        stay_s: seconds from all green until the stage can be left.
    """

    def __init__(self, design: JunctionDesign, plan: TimePlan) -> None:
        self._design = design
        self.length = len(plan.order)
        self.members = tuple(design.members(stage) for stage in plan.order)
        self.ending = tuple(
            self.members[index] - self.members[(index + 1) % self.length] for index in range(self.length)
        )
        self.stay_s = tuple(
            max((design.groups[group].min_green_s for group in groups), default=0) for groups in self.ending
        )
        self._path_s = {
            (index, group): self._path(index, group)
            for index in range(self.length)
            for group in range(len(design.groups))
        }

    def path_s(self, index: int, group: int) -> int:
        """Return the seconds from leaving a place in the order to a group's green, all between at their least."""
        return self._path_s[index, group]

    def change_s(self, index: int) -> int:
        """Return the seconds from leaving a place in the order until all of the next one are green, at most."""
        following = (index + 1) % self.length
        starting = self.members[following] - self.members[index]
        return max((self._start_s(group, following) for group in starting), default=0)

    def _start_s(self, group: int, place: int) -> int:
        """Whoever may have been green last: its whole intergreen, so that the estimate is never too short."""
        others = set(range(len(self._design.groups))) - self.members[place]
        before = max((self._design.intergreen_s(other, group) for other in others), default=0)
        return max(before, self._design.groups[group].shown_red_yellow_s)

    def _path(self, index: int, group: int) -> int:
        total_s = 0
        for step in range(self.length):
            place = (index + step) % self.length
            following = (place + 1) % self.length
            if group in self.members[following] - self.members[place]:
                return total_s + self._start_s(group, following)
            total_s += self.change_s(place) + self.stay_s[following]
        return total_s
