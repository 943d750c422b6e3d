"""What the tests of the junction share: a controller on a virtual schedule, and a witness of its lamps."""

import itertools
from collections.abc import Iterable

import msgspec

from protocols.model.priority import NEXT, RequestState
from sim.junction import Junction, Mode
from sim.junction_design import JunctionDesign
from sim.priority import RequestEntry
from sim.schedule import VirtualSchedule
from sim.signal_groups import Aspect

STARTED_S = 12
"""The default junction is in control by then."""


class Seen(msgspec.Struct):
    """One stretch of an aspect of one group."""

    group: int
    aspect: Aspect
    from_s: int
    to_s: int | None = None


class Witness:
    """Looks at the lamps once a second and writes down what it sees; judges by the design alone."""

    def __init__(self, junction: Junction) -> None:
        self.junction = junction
        self.stretches: list[Seen] = []
        self._now: dict[int, Seen] = {}

    def look(self, at_s: int) -> None:
        for group, aspect in enumerate(self.junction.lamps):
            last = self._now.get(group)
            if last is not None and last.aspect is aspect:
                continue
            if last is not None:
                last.to_s = at_s
            self._now[group] = Seen(group, aspect, at_s)
            self.stretches.append(self._now[group])

    def of(self, group: int, aspect: Aspect) -> list[Seen]:
        return [each for each in self.stretches if (each.group, each.aspect) == (group, aspect)]

    def hazards(self) -> list[str]:
        """Name every conflict, cut intergreen, cut minimum green and too long red that was seen."""
        design = self.junction.design
        greens = [each for each in self.stretches if each.aspect is Aspect.GREEN]
        return [
            *self._short_greens(design, greens),
            *self._conflicts(design, greens),
            *self._long_reds(design),
        ]

    def _short_greens(self, design: JunctionDesign, greens: Iterable[Seen]) -> list[str]:
        return [
            f"short {each}"
            for each in greens
            if each.to_s is not None and each.to_s - each.from_s < design.groups[each.group].min_green_s
        ]

    def _conflicts(self, design: JunctionDesign, greens: list[Seen]) -> list[str]:
        return [
            f"conflict {one} {other}"
            for one in greens
            for other in greens
            if design.conflict(one.group, other.group)
            and one.from_s <= other.from_s
            and (one.to_s is None or other.from_s - one.to_s < design.intergreen_s(one.group, other.group))
        ]

    def _long_reds(self, design: JunctionDesign) -> list[str]:
        reds = [each for each in self.stretches if each.aspect is Aspect.RED and each.to_s is not None]
        limit_s = design.limits.max_red_s
        return [f"long {each}" for each in reds if (each.to_s or 0) - each.from_s > limit_s]


class StateBook:
    """Every request's states in their order, as somebody sees them who is told of each change."""

    def __init__(self, junction: Junction) -> None:
        self.states: dict[str, list[RequestState]] = {}
        self.ends: dict[str, RequestEntry] = {}
        self._junction = junction
        junction.changed.append(self._read)

    def _read(self) -> None:
        entries = self._junction.priority.entries()
        for entry in entries:
            states = self.states.setdefault(entry.id, [])
            if not states or states[-1] is not entry.state:
                states.append(entry.state)
                self.ends[entry.id] = entry
        self._junction.priority.told(entries)

    def leaps(self) -> list[str]:
        """Name every step between states that the list does not know."""
        wrong = []
        for name, states in self.states.items():
            if states[0] is not RequestState.RECEIVED:
                wrong.append(f"{name} began {states[0]}")
            wrong += [
                f"{name}: {one} → {other}"
                for one, other in itertools.pairwise(states)
                if other not in NEXT[one]
            ]
        return wrong


class Rig:
    """A junction on a virtual schedule, with both observers."""

    def __init__(self, design: JunctionDesign | None = None, *, epoch_s: int = 0) -> None:
        self.schedule = VirtualSchedule()
        self.junction = Junction(design or JunctionDesign(), self.schedule, epoch_s=epoch_s)
        self.witness = Witness(self.junction)
        self.book = StateBook(self.junction)
        self.junction.start()

    def run_to(self, at_s: int) -> None:
        """Let time pass, looking each second."""
        for second in range(int(self.schedule.time()) + 1, at_s + 1):
            self.schedule.run_until(second)
            self.witness.look(second)

    def mode(self) -> Mode:
        """Return the control mode."""
        return self.junction.mode

    def in_control(self) -> "Rig":
        """Let start-up pass."""
        self.run_to(STARTED_S)
        assert self.junction.mode is Mode.CONTROL
        return self

    def run_until_green(self, group: int, *, green: bool = True) -> int:
        """Let time pass until a group, by number, begins or ends its green; return when."""
        for _ in range(300):
            if self.junction.is_green(group) is green:
                return int(self.schedule.time())
            self.run_to(int(self.schedule.time()) + 1)
        raise AssertionError(f"group {group} stays {'red' if green else 'green'}")
