"""Whatever comes, in whatever order: what is asked for is taken back, and no bound is ever passed."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.backhaul.messages import PriorityEvent, Source
from protocols.clock import ClockQuality
from protocols.model.command import CommandState
from protocols.model.priority import ENDED, NEXT, RequestState, RequestStatus
from protocols.rules.priority.generator import RefusedError
from protocols.rules.priority.request import Action, Ask, Cancel, Report, Update
from tests.protocols.rules.priority.junction_bench import (
    DEVICES,
    JUNCTION,
    NO_LIMITS,
    START_MS,
    Junction,
    policy,
)

LEASE_S = 900
HOURLY = 3
RULE = {"cooldown_s": 20, "grants_per_hour": HOURLY, "time_to_live_s": 40}
POLICY = msgspec.structs.replace(policy(**RULE), lease_until_ms=START_MS + 1000 * LEASE_S)

VEHICLES = st.sampled_from(["v-1", "v-2", "v-3"])
FATES = st.sampled_from([0, 0, 0, 1, 2, 3])
"""What becomes of asking: taken, not taken, or not known; and of as many cancels: with 0 they are lost."""
VISITS = st.tuples(
    st.just("visit"),
    st.floats(90, 200),
    st.floats(5, 15),
    st.lists(st.sampled_from([0, 0, 0, 0, 1, 2, 3]), max_size=3),
    st.sampled_from(["passes", "vanishes", "turns", "stays"]),
)
"""A bus of its own comes, the controller makes something of it, and the bus goes."""
OTHERS = st.one_of(
    st.tuples(st.just("bus"), VEHICLES, st.floats(-50, 450), st.floats(-60, 60), st.sampled_from([0.0, 9.0])),
    st.tuples(st.just("stranger"), VEHICLES, st.floats(90, 300)),
    st.tuples(st.just("wait"), st.floats(0.1, 400)),
    st.tuples(st.just("pulse"), st.sampled_from(["loop-1", "loop-2"])),
    st.tuples(st.just("light"), st.sampled_from([False, False, True, None])),
    st.tuples(st.just("cut"), st.floats(0.1, 60)),
    st.tuples(st.just("controller"), st.integers(0, 5)),
    st.tuples(st.just("forgets")),
    st.tuples(st.just("want")),
    st.tuples(st.just("policy"), st.booleans()),
)
STEPS = st.sampled_from([VISITS, VISITS, VISITS, OTHERS]).flatmap(lambda steps: steps)


class Controller:
    """A controller that takes, loses, delays, refuses and grants as it likes, and ends what is cancelled.

    Attributes:
        states: of the requests that it tells of.
        granted_s: when it granted one, monotonic seconds.
    """

    def __init__(self, one: Junction, fates: Iterable[int]) -> None:
        self.one = one
        fates = list(fates)
        self.outcomes = itertools.chain(fates, itertools.repeat(0))
        self.losses: Iterator[bool] = itertools.chain((fate == 0 for fate in fates), itertools.repeat(False))
        self.buses = 0
        self.states: dict[str, RequestState] = {}
        self.granted_s: list[float] = []
        self.asked_s: list[float] = []
        self.open: set[str] = set()
        self.ended: set[str] = set()

    def hear(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Ask(request=request):
                    assert request.id not in self.open | self.ended, "an id is used once"
                    self.open.add(request.id)
                    self.asked_s.append(self.one.now.utc_ms / 1000)
                    self.ask(request.id)
                case Cancel(request=request_id):
                    assert request_id in self.open | self.ended, "nobody else's request is cancelled"
                    self.cancel(request_id)
                case Update(request=request):
                    assert request.id in self.open
                case Report(event=event):
                    if event.over and event.request in self.open:
                        self.open.discard(event.request)
                        self.ended.add(event.request)
                case _:
                    self.tell()

    def cancel(self, name: str) -> None:
        if next(self.losses):
            return
        if self.states.get(name) is RequestState.ACTIVATED:
            self.move(name, RequestState.COMPLETED)
        else:
            self.states.pop(name, None)
            self.tell()

    def ask(self, name: str) -> None:
        fate = next(self.outcomes)
        if fate != 1:
            self.states[name] = RequestState.RECEIVED
        outcome = [CommandState.APPLIED, CommandState.FAILED, CommandState.OUTCOME_UNKNOWN][min(fate, 2)]
        self.hear(self.one.do(self.one.generator.outcome(name, outcome, "", self.one.now)))

    def move(self, name: str, state: RequestState) -> None:
        self.states[name] = state
        if state is RequestState.ACTIVATED:
            self.granted_s.append(self.one.now.monotonic_ms / 1000)
        self.tell()

    def tell(self) -> None:
        told = tuple(RequestStatus(name, state, 0) for name, state in self.states.items())
        for name in [name for name, state in self.states.items() if state in ENDED]:
            del self.states[name]
        self.hear(self.one.do(self.one.generator.told(JUNCTION, told, self.one.now)))

    def go_on(self, choice: int) -> None:
        for name, state in list(self.states.items()):
            following = sorted(NEXT[state])
            if following:
                self.move(name, following[choice % len(following)])


def play(one: Junction, controller: Controller, step: tuple[Any, ...]) -> None:
    """Let one thing happen."""
    generator = one.generator
    match step:
        case ("bus" | "visit" | "stranger", *_):
            move(one, controller, step)
        case ("wait", seconds):
            controller.hear(one.tick(seconds))
        case ("pulse", name):
            controller.hear(one.do(generator.passed(name, one.now)))
        case ("light", green):
            controller.hear(one.green(green))
        case ("cut", seconds):
            controller.hear(one.do(generator.line(JUNCTION, up=False, now=one.now)))
            controller.hear(one.tick(seconds))
            controller.hear(one.do(generator.line(JUNCTION, up=True, now=one.now)))
        case ("controller", choice):
            controller.go_on(choice)
        case ("forgets",):
            controller.states.clear()
            controller.tell()
        case ("want",):
            with contextlib.suppress(RefusedError):
                controller.hear(one.do(generator.want("north", "technician:t", one.now)[1]))
        case ("policy", other):
            wanted = policy(**RULE, level=8) if other else POLICY
            wanted = msgspec.structs.replace(wanted, lease_until_ms=POLICY.lease_until_ms)
            controller.hear(one.do(generator.go_by(wanted, DEVICES, NO_LIMITS, one.now)))


def move(one: Junction, controller: Controller, step: tuple[Any, ...]) -> None:
    """Let a vehicle say where it is."""
    match step:
        case ("bus", name, along_m, aside_m, speed):
            controller.hear(one.bus(along_m, aside_m, pseudonym=name, speed_m_s=speed))
        case ("visit", *_):
            controller.buses += 1
            visit(one, controller, f"b-{controller.buses}", step)
        case ("stranger", name, along_m):
            controller.hear(one.bus(along_m, pseudonym=f"s-{name}", route="L9"))


def visit(one: Junction, controller: Controller, name: str, step: tuple[Any, ...]) -> None:
    """Let a bus come, the controller decide, and the bus go on as it likes."""
    _, along_m, speed, choices, end = step
    for choice in (None, *choices):
        if choice is not None:
            controller.go_on(choice)
        controller.hear(one.bus(along_m, pseudonym=name, speed_m_s=speed))
        controller.hear(one.tick(1))
        along_m += speed
    aside_m = 60.0 if end == "turns" else 0.0
    while end in {"passes", "turns"} and along_m < 350:
        controller.hear(one.bus(along_m, aside_m, pseudonym=name, speed_m_s=speed))
        controller.hear(one.tick(1))
        along_m += speed
    if end == "vanishes":
        controller.hear(one.tick(6))


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, min_size=20, max_size=60), st.lists(FATES, max_size=20))
def test_every_request_ends_and_no_bound_is_passed(steps: list[tuple[Any, ...]], fates: list[int]) -> None:
    one = Junction(POLICY)
    controller = Controller(one, fates)
    for step in steps:
        play(one, controller, step)
        earnest = one.generator.book.of(JUNCTION)
        assert len({request.event.signal_group for request in earnest}) == len(earnest)
    given_up = one.generator.counts.unconfirmed
    for _ in range(120):
        controller.hear(one.tick(1))
    assert one.generator.book.requests == {}
    assert one.generator.counts.unconfirmed == given_up
    assert controller.open == set()
    assert controller.states == {}
    assert one.passages == []
    assert all(asked_s < START_MS / 1000 + LEASE_S for asked_s in controller.asked_s)
    for granted_s in controller.granted_s:
        assert sum(granted_s <= other_s < granted_s + 3600 for other_s in controller.granted_s) <= HOURLY
    assert all(not event.vehicle.startswith("s-") for event in one.events)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, min_size=10, max_size=30), st.lists(FATES, max_size=10), st.booleans())
def test_what_was_asked_for_is_over_once_and_that_is_the_last_word_of_it(
    steps: list[tuple[Any, ...]], fates: list[int], shadow: bool
) -> None:
    one = Junction(policy(**RULE, shadow=shadow))
    controller = Controller(one, fates)
    for step in steps:
        play(one, controller, step)
    for _ in range(700):
        controller.hear(one.tick(1))
    asked = {ask.request.id for ask in one.asks}
    told: dict[str, list[PriorityEvent]] = {}
    for event in one.events:
        told.setdefault(event.request, []).append(event)
    for request, events in told.items():
        held = request in asked or any(event.reason.startswith("shadow: ") for event in events)
        assert [event.over for event in events] == [*(False for _ in events[1:]), held]


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, min_size=10, max_size=30), st.lists(FATES, max_size=10))
def test_what_comes_twice_changes_nothing(steps: list[tuple[Any, ...]], fates: list[int]) -> None:
    one = Junction(POLICY)
    controller = Controller(one, fates)
    for step in steps:
        play(one, controller, step)
        if step[0] == "bus":
            name, along_m, aside_m, speed = step[1:]
            assert one.bus(along_m, aside_m, pseudonym=name, speed_m_s=speed) == []
        told = tuple(RequestStatus(name, state, 0) for name, state in controller.states.items())
        if JUNCTION in one.generator.book.up:
            first = one.do(one.generator.told(JUNCTION, told, one.now))
            assert one.generator.told(JUNCTION, told, one.now) == []
            controller.hear(first)
        first = one.do(one.generator.tick(one.now))
        assert one.generator.tick(one.now) == []
        controller.hear(first)


def shape(action: Action) -> object:
    """Return an action without its civil times."""
    if isinstance(action, Report):
        return msgspec.structs.replace(action.event, at_ms=0, controller_ms=None), action.granted
    if isinstance(action, Ask):
        return action.request, msgspec.structs.replace(action.event, at_ms=0)
    return action


@settings(max_examples=100, deadline=None)
@given(
    st.lists(STEPS, min_size=10, max_size=30),
    st.lists(FATES, max_size=10),
    st.lists(st.floats(-1e6, 1e6), min_size=30, max_size=30),
)
def test_a_civil_clock_that_is_stepped_changes_no_duration(
    steps: list[tuple[Any, ...]], fates: list[int], jumps: list[float]
) -> None:
    """The lease alone is civil; it is far away here, and a clock that was never set judges no position's age."""
    lasting = msgspec.structs.replace(POLICY, lease_until_ms=2**52)
    told = []
    for stepped in (False, True):
        one = Junction(lasting, quality=ClockQuality.UNSYNCHRONISED)
        controller = Controller(one, fates)
        first_ms = one.now.monotonic_ms
        for number, step in enumerate(steps):
            if step[0] in {"policy", "visit"}:
                continue
            if stepped:
                one.after(0, step_utc_s=jumps[number])
            if step[0] in {"bus", "stranger"}:
                at_ms = START_MS + one.now.monotonic_ms - first_ms
                controller.hear(one.bus(step[2], pseudonym=step[1], at_ms=at_ms, source=Source.POSITION))
            else:
                play(one, controller, step)
        told.append([shape(action) for action in one.actions])
    assert told[0] == told[1]
