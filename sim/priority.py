"""The controller's book of priority requests: who asked, who is served, and what it gave them.

States and their order are those of RSMP's S0033. Rules of this controller, where the list leaves them open:

- A request is judged as soon as it has been received. It is rejected outside of control, for a group that is unknown
  or takes no priority, below the lowest level, and when the book is full.
- Several can be active at once. The one that is served has the highest level, then the earliest arrival. A new
  one is activated if it does not conflict with the one that is served, or outranks it; an outranked one stays
  active and is served again afterwards. Everything else is queued, highest level first.
- A cancelled active request is completed; a cancelled queued one just leaves the book: there is no state for that.
- What it gave is measured against a twin of the stages that lives on without this one request: `extension_s` by how
  much the green ended later, `reduction_s` by how much the next one began earlier than in the twin.
- An end state is kept until it has been told, once.
"""

import math
from collections import Counter
from collections.abc import Iterator

import msgspec

from protocols.errors import LocalProtocolError
from protocols.model.priority import ENDED, MAX_LEVEL, NEXT, RequestState, VehicleType
from sim.junction_design import JunctionDesign, TimePlan
from sim.signal_groups import Aspect
from sim.stages import Stages, Wish

MAX_LIVE = 32
"""Requests held at once: more vehicles than have room on a junction's approaches."""
MAX_ID = 255
"""Characters of a request's id: a UUID has 36. What a supervisor can make the book hold is bounded by it."""
MAX_ENDED = 64
"""End states that wait to be told. If nobody asks, the oldest are dropped."""
MAX_TOLD_S = 255
"""S0033: `e` and `d` are 0–255."""
_LOOK_AHEAD = 2 * 255
"""Steps after which neither green nor its end is looked for any more: two cycles of the longest plan."""


class UnknownRequestError(Exception):
    """There is no such request, or it has ended."""


class RequestInUseError(Exception):
    """A new request has the id of one that is live, for another group."""


class Asked(msgspec.Struct, frozen=True):
    """A new request.

    Attributes:
        id: unique on the controller.
        group: by index; None is one that the controller does not know.
        level: 0–14.
        arrival: the step at which the vehicle is expected at the stop line.
        vehicle: what comes.
    """

    id: str
    group: int | None
    level: int
    arrival: int
    vehicle: VehicleType = VehicleType.BUS


class RequestEntry(msgspec.Struct, frozen=True):
    """What the book says of one request.

    Attributes:
        at_s: the schedule's seconds when it came to this state.
        extension_s: green that it was given at its end; only when completed.
        reduction_s: red that it was spared; only when completed.
    """

    id: str
    state: RequestState
    at_s: float
    group: int | None
    level: int
    vehicle: VehicleType
    extension_s: int | None = None
    reduction_s: int | None = None


class PriorityTotals(msgspec.Struct, frozen=True):
    """What the controller has counted by itself.

    Attributes:
        states: how often requests came to each state.
        withdrawn: cancelled while still queued.
        unknown: updates and cancellations of what is not in the book.
        extension_s: green given to completed requests.
        reduction_s: red spared to them.
    """

    states: dict[str, int]
    withdrawn: int
    unknown: int
    extension_s: int
    reduction_s: int

    @property
    def requested(self) -> int:
        """How many requests were received."""
        return self.states.get(RequestState.RECEIVED, 0)

    @property
    def granted(self) -> int:
        """How many were activated and ended as they should."""
        return self.states.get(RequestState.COMPLETED, 0)


class _Trace:
    """When a group's green began and ended, as seen step by step."""

    def __init__(self, green: bool) -> None:
        self._green = green
        self.starts: list[int] = []
        self.ends: list[int] = []

    def see(self, tick: int, green: bool) -> None:
        if green != self._green:
            (self.starts if green else self.ends).append(tick)
            self._green = green

    @property
    def is_whole(self) -> bool:
        """Whether it has a start and an end, which is all that is compared."""
        return bool(self.starts and self.ends)


class _Gain:
    """A request's twin of the stages, and both traces of its group."""

    def __init__(self, stages: Stages, group: int) -> None:
        self._group = group
        self._twin = stages.fork()
        self._was_green = _is_green(stages, group)
        self._real = _Trace(self._was_green)
        self._without = _Trace(self._was_green)

    def change_plan(self, plan: TimePlan) -> None:
        """Let the twin change as the junction does: that is none of the request's doing."""
        self._twin.change_plan(plan)

    def step(self, stages: Stages, tick: int, others: Wish | None) -> None:
        """See what has become of the group, and what would have become of it."""
        self._real.see(tick, _is_green(stages, self._group))
        self._twin.step(tick, others)
        self._without.see(tick, _is_green(self._twin, self._group))

    def result(self, stages: Stages, tick: int, others: Wish | None) -> tuple[int, int]:
        """Return extension and reduction, as both go on without the request from `tick`."""
        green_again = bool(self._real.starts)
        real = stages.fork()
        for ahead in range(tick + 1, tick + _LOOK_AHEAD):
            if self._real.is_whole and self._without.is_whole:
                break
            real.step(ahead, others)
            self.step(real, ahead, others)
        extension_s = _later(self._real.ends, self._without.ends)
        counts = green_again or not self._was_green
        reduction_s = _later(self._without.starts, self._real.starts) if counts else 0
        return min(extension_s, MAX_TOLD_S), min(reduction_s, MAX_TOLD_S)


class _Request:
    """One request while it is in the book."""

    def __init__(self, asked: Asked, at_s: float) -> None:
        self.id = asked.id
        self.group = asked.group
        self.level = asked.level
        self.arrival = asked.arrival
        self.vehicle = asked.vehicle
        self.state = RequestState.RECEIVED
        self.at_s = at_s
        self.gain: _Gain | None = None
        self.given: tuple[int, int] | None = None

    @property
    def rank(self) -> tuple[int, int]:
        """Sorts the most urgent first."""
        return -self.level, self.arrival

    def entry(self) -> RequestEntry:
        extension_s, reduction_s = self.given or (None, None)
        return RequestEntry(
            self.id, self.state, self.at_s, self.group, self.level, self.vehicle, extension_s, reduction_s
        )


class PriorityBook:
    """All requests of a controller.

    Args:
        design: groups, and the limits of what is granted.
    """

    def __init__(self, design: JunctionDesign) -> None:
        self.rejects = False
        """A fault: everything is rejected."""
        self.never_activates = False
        """A fault: what is accepted stays queued."""
        self._design = design
        self._limits = design.limits
        self._live: dict[str, _Request] = {}
        self._ended: dict[str, _Request] = {}
        self._completed_s: dict[int, float] = {}
        self._states: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()

    # --- what a supervisor asks -----------------------------------------------------------------------

    def receive(self, asked: Asked, at_s: float) -> None:
        """Take a new request into the book; one that comes a second time only updates itself.

        Args:
            asked: what is asked.
            at_s: the schedule's seconds now.

        Raises:
            LocalProtocolError: a level out of range, or an id that is too long.
            RequestInUseError: the id is that of a live request for another group.
        """
        if not 1 <= len(asked.id) <= MAX_ID:
            raise LocalProtocolError(f"an id of {len(asked.id)} characters; expected 1–{MAX_ID}")
        if not 0 <= asked.level <= MAX_LEVEL:
            raise LocalProtocolError(f"level {asked.level} is not 0–{MAX_LEVEL}")
        live = self._live.get(asked.id)
        if live is not None:
            if live.group != asked.group:
                raise RequestInUseError(f"request {asked.id!r} is live for another group")
            live.level, live.arrival = asked.level, asked.arrival
            return
        self._ended.pop(asked.id, None)
        self._live[asked.id] = _Request(asked, at_s)
        self._states[RequestState.RECEIVED] += 1

    def update(self, name: str, level: int | None, arrival: int | None) -> None:
        """Change level or arrival of a live request.

        Raises:
            UnknownRequestError: there is none.
        """
        request = self._known(name)
        request.level = request.level if level is None else level
        request.arrival = request.arrival if arrival is None else arrival

    def cancel(self, name: str, stages: Stages | None, tick: int, at_s: float) -> None:
        """End a request because its vehicle has passed.

        Raises:
            UnknownRequestError: there is none.
        """
        request = self._known(name)
        if request.state is not RequestState.ACTIVATED:
            del self._live[name]
            self._counts["withdrawn"] += 1
            return
        if request.gain is not None and stages is not None:
            request.given = request.gain.result(stages, tick, self.wish(but=request.id))
            self._counts["extension_s"] += request.given[0]
            self._counts["reduction_s"] += request.given[1]
        if request.group is not None:
            self._completed_s[request.group] = at_s
        self._move(request, RequestState.COMPLETED, at_s)

    # --- what the controller decides ------------------------------------------------------------------

    def judge(self, stages: Stages | None, at_s: float) -> None:
        """Decide on what has been received, and activate what waits and may be served now.

        Args:
            stages: of a controller in control; None outside of control, where everything is rejected.
            at_s: the schedule's seconds now.
        """
        for request in self._in(RequestState.RECEIVED):
            refusal = self._refusal(request, at_s) if stages is not None else RequestState.REJECTED
            if refusal is not None:
                self._move(request, refusal, at_s)
        if stages is None:
            return
        for request in sorted(self._live.values(), key=lambda each: each.rank):
            if request.state is not RequestState.ACTIVATED and self._may_be_active(request):
                self._activate(request, stages, at_s)
        for request in self._in(RequestState.RECEIVED):
            self._move(request, RequestState.QUEUED, at_s)

    def step(self, stages: Stages, tick: int, at_s: float) -> None:
        """Note what the step to `tick` gave to active requests, and end those that have lasted too long."""
        for request in self._in(RequestState.ACTIVATED):
            if request.gain is not None:
                request.gain.step(stages, tick, self.wish(but=request.id))
        for request in tuple(self._live.values()):
            age_s = at_s - request.at_s
            if request.state is RequestState.QUEUED and age_s >= self._limits.queue_s:
                self._move(request, RequestState.TIMEOUT, at_s)
            elif request.state is RequestState.ACTIVATED and age_s >= self._limits.lifetime_s:
                self._move(request, RequestState.STALE, at_s)

    def change_plan(self, plan: TimePlan) -> None:
        """Note that the junction changes to a plan."""
        for request in self._in(RequestState.ACTIVATED):
            if request.gain is not None:
                request.gain.change_plan(plan)

    def give_up(self, at_s: float) -> None:
        """End everything: the controller is no longer in control."""
        ends = {
            RequestState.RECEIVED: RequestState.REJECTED,
            RequestState.QUEUED: RequestState.TIMEOUT,
            RequestState.ACTIVATED: RequestState.STALE,
        }
        for request in tuple(self._live.values()):
            self._move(request, ends[request.state], at_s)

    def wish(self, but: str | None = None) -> Wish | None:
        """Return what the request that is served wants; `but` leaves one out, as if it had never come."""
        active = [request for request in self._in(RequestState.ACTIVATED) if request.id != but]
        served = min(active, key=lambda each: each.rank, default=None)
        if served is None or served.group is None:
            return None
        return Wish(served.group, served.arrival)

    # --- what it tells --------------------------------------------------------------------------------

    def entries(self) -> tuple[RequestEntry, ...]:
        """Return every request in the book, ended ones included until they are told."""
        return tuple(request.entry() for request in self._all())

    def live(self, name: str) -> RequestEntry | None:
        """Return a request that has not ended; None if there is none."""
        request = self._live.get(name)
        return None if request is None else request.entry()

    def told(self, entries: tuple[RequestEntry, ...]) -> None:
        """Drop the end states among what has been told."""
        for entry in entries:
            ended = self._ended.get(entry.id)
            if ended is not None and ended.entry() == entry:
                del self._ended[entry.id]

    def totals(self) -> PriorityTotals:
        """Return what was counted."""
        counts = self._counts
        return PriorityTotals(
            dict(self._states),
            counts["withdrawn"],
            counts["unknown"],
            counts["extension_s"],
            counts["reduction_s"],
        )

    # --- inside ---------------------------------------------------------------------------------------

    def _refusal(self, request: _Request, at_s: float) -> RequestState | None:
        group = request.group
        if self.rejects or len(self._live) > MAX_LIVE or request.level < self._limits.lowest_level:
            return RequestState.REJECTED
        if group is None or not self._design.groups[group].takes_priority:
            return RequestState.REJECTED
        if at_s < self._completed_s.get(group, -math.inf) + self._limits.cooldown_s:
            return RequestState.COOLDOWN
        return None

    def _may_be_active(self, request: _Request) -> bool:
        active = self._in(RequestState.ACTIVATED)
        served = min(active, key=lambda each: each.rank, default=None)
        if self.never_activates or request.group is None:
            return False
        if served is None or served.group is None or request.level > served.level:
            return True
        return not self._design.conflict(request.group, served.group)

    def _activate(self, request: _Request, stages: Stages, at_s: float) -> None:
        if request.group is not None:
            request.gain = _Gain(stages, request.group)
        self._move(request, RequestState.ACTIVATED, at_s)

    def _move(self, request: _Request, state: RequestState, at_s: float) -> None:
        if state not in NEXT[request.state]:
            raise LocalProtocolError(f"a request that is {request.state} cannot become {state}")
        request.state, request.at_s = state, at_s
        self._states[state] += 1
        if state in ENDED:
            request.gain = None
            del self._live[request.id]
            self._ended[request.id] = request
            if len(self._ended) > MAX_ENDED:
                del self._ended[next(iter(self._ended))]

    def _known(self, name: str) -> _Request:
        if name not in self._live:
            self._counts["unknown"] += 1
            raise UnknownRequestError(f"no request {name!r} is waiting or active")
        return self._live[name]

    def _in(self, state: RequestState) -> list[_Request]:
        return [request for request in self._live.values() if request.state is state]

    def _all(self) -> Iterator[_Request]:
        yield from self._live.values()
        yield from self._ended.values()


def _is_green(stages: Stages, group: int) -> bool:
    return stages.groups.aspects[group] is Aspect.GREEN


def _later(one: list[int], other: list[int]) -> int:
    """Return by how many steps the first of one comes after the first of the other; 0 if it does not."""
    return max(0, one[0] - other[0]) if one and other else 0
