"""Whatever is asked of a junction: no conflict, no cut green, no endless red, and gains are told truly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.model.priority import RequestState
from sim.junction_design import (
    GroupKind,
    JunctionDesign,
    PriorityLimits,
    SignalGroup,
    TimePlan,
    design_faults,
)
from sim.priority import RequestInUseError, UnknownRequestError
from sim.signal_groups import Aspect
from tests.sim.junction_bench import STARTED_S, Rig

FOUR = JunctionDesign(
    groups=(
        SignalGroup(),
        SignalGroup(min_green_s=9),
        SignalGroup(GroupKind.PEDESTRIAN, 8, 40),
        SignalGroup(red_yellow_s=0),
    ),
    stages=((1, 3), (2,), (4, 3)),
    intergreens=((0, 6, 0, 4), (7, 0, 5, 5), (0, 10, 0, 0), (5, 6, 0, 0)),
    plans=(TimePlan(1, (1, 2, 3), (20, 30, 25)), TimePlan(7, (1, 3, 2), (30, 15, 35), offset_s=41)),
    limits=PriorityLimits(cooldown_s=0, max_red_s=90),
)
DESIGNS = (JunctionDesign(), FOUR)
actions = st.one_of(
    st.tuples(
        st.just("new"),
        st.integers(0, 7),
        st.integers(0, 7),
        st.integers(0, 14),
        st.one_of(st.none(), st.integers(0, 60)),
    ),
    st.tuples(st.just("update"), st.integers(0, 7), st.integers(0, 14), st.integers(0, 255)),
    st.tuples(st.just("cancel"), st.integers(0, 7)),
    st.tuples(st.just("plan"), st.sampled_from([None, 1, 2])),
)
streams = st.lists(st.tuples(st.integers(0, 40), actions), max_size=40)


def act(rig: Rig, action: tuple[object, ...], numbers: dict[int, int]) -> None:
    """Do it; a new request after an end has an id of its own."""
    junction = rig.junction
    try:
        match action:
            case ("new", int(which), int(group), int(level), eta):
                live = {entry.id for entry in junction.priority.entries()}
                if f"{which}.{numbers.get(which, 0)}" not in live:
                    numbers[which] = numbers.get(which, 0) + 1
                eta_s = eta if isinstance(eta, int) else None
                junction.request(f"{which}.{numbers[which]}", group, level, eta_s=eta_s)
            case ("update", int(which), int(level), int(eta)):
                junction.update_request(f"{which}.{numbers.get(which, 0)}", level=level, eta_s=eta)
            case ("cancel", int(which)):
                junction.cancel_request(f"{which}.{numbers.get(which, 0)}")
            case ("plan", number):
                plans = junction.design.plans
                junction.command_plan(plans[number - 1].number if isinstance(number, int) else None)
    except (UnknownRequestError, RequestInUseError):
        return


def test_the_designs_are_sound() -> None:
    assert [design_faults(design) for design in DESIGNS] == [[], []]


@pytest.mark.parametrize("design", DESIGNS)
@given(stream=streams, epoch_s=st.integers(0, 10_000))
@settings(max_examples=60)
def test_no_stream_of_requests_does_any_harm(
    design: JunctionDesign, stream: list[tuple[int, tuple[object, ...]]], epoch_s: int
) -> None:
    rig = Rig(design, epoch_s=epoch_s).in_control()
    numbers: dict[int, int] = {}
    for pause_s, action in stream:
        rig.run_to(int(rig.schedule.time()) + pause_s)
        act(rig, action, numbers)
    rig.run_to(int(rig.schedule.time()) + 300)
    assert rig.witness.hazards() == []
    assert rig.junction.finding is None
    assert rig.book.leaps() == []
    waiting = {entry.state for entry in rig.junction.priority.entries()}
    assert waiting <= {RequestState.ACTIVATED, RequestState.QUEUED} if stream else not waiting


@given(
    group=st.integers(1, 4),
    level=st.integers(1, 14),
    at_s=st.integers(STARTED_S, 300),
    eta_s=st.one_of(st.none(), st.integers(0, 60)),
    for_s=st.integers(0, 90),
    epoch_s=st.integers(0, 1000),
    plan=st.one_of(st.none(), st.integers(1, 3)),
)
@settings(max_examples=120)
def test_extension_and_reduction_are_what_a_twin_without_the_request_shows(
    *, group: int, level: int, at_s: int, eta_s: int | None, for_s: int, epoch_s: int, plan: int | None
) -> None:
    asked, twin = Rig(epoch_s=epoch_s), Rig(epoch_s=epoch_s)
    asked.run_to(at_s)
    was_green = asked.junction.is_green(group)
    asked.junction.request("bus", group, level, eta_s=eta_s)
    if plan is not None:
        twin.run_to(at_s)
        asked.junction.command_plan(plan)
        twin.junction.command_plan(plan)
    asked.run_to(at_s + for_s)
    asked.junction.cancel_request("bus")
    asked.run_to(at_s + for_s + 200)
    twin.run_to(at_s + for_s + 200)
    end = asked.book.ends["bus"]
    assert end.state is RequestState.COMPLETED

    def greens(rig: Rig, ends: bool) -> list[int]:
        seen = [each.to_s if ends else each.from_s for each in rig.witness.of(group - 1, Aspect.GREEN)]
        return [moment for moment in seen if moment is not None and moment > at_s]

    extension_s = greens(asked, ends=True)[0] - greens(twin, ends=True)[0]
    reduction_s = greens(twin, ends=False)[0] - greens(asked, ends=False)[0]
    assert end.extension_s == max(0, extension_s)
    if not was_green or greens(asked, ends=False)[0] <= at_s + for_s:
        assert end.reduction_s == max(0, reduction_s)
    else:
        assert end.reduction_s == 0


@given(group=st.integers(1, 4), at_s=st.integers(STARTED_S, 300), for_s=st.integers(0, 100))
@settings(max_examples=60)
def test_the_plan_is_kept_again_within_two_cycles(group: int, at_s: int, for_s: int) -> None:
    asked, twin = Rig(), Rig()
    asked.run_to(at_s)
    asked.junction.request("bus", group, 5)
    asked.run_to(at_s + for_s)
    asked.junction.cancel_request("bus")
    settled_s = at_s + for_s + 2 * asked.junction.plan.cycle_s
    for rig in (asked, twin):
        rig.run_to(settled_s + 90)
    later = [
        [(each.group, each.aspect, each.from_s) for each in rig.witness.stretches if each.from_s > settled_s]
        for rig in (asked, twin)
    ]
    assert sorted(later[0]) == sorted(later[1])


def test_a_plan_whose_order_would_keep_somebody_red_for_too_long_has_to_wait() -> None:
    rig = Rig(FOUR).in_control()
    rig.run_to(20)
    rig.junction.command_plan(7)
    rig.run_to(123)
    assert rig.junction.plan.number == 7
    rig.junction.command_plan(1)
    rig.run_to(500)
    assert rig.junction.plan.number == 1
    assert rig.witness.hazards() == []


def test_the_plan_is_kept_again_after_an_hour_of_hurry() -> None:
    """Each request makes the junction run ahead of its plan; whole cycles of that mean nothing."""
    asked, twin = (Rig(JunctionDesign(limits=PriorityLimits(cooldown_s=0))) for _ in range(2))
    asked.in_control()
    for number in range(60):
        group = (2, 4, 1)[number % 3]
        asked.junction.request(f"bus-{number}", group, 5)
        asked.run_until_green(group)
        asked.junction.cancel_request(f"bus-{number}")
    settled_s = int(asked.schedule.time()) + 3 * 90
    for rig in (asked, twin):
        rig.run_to(settled_s + 90)
    assert asked.witness.hazards() == []
    assert asked.junction.signal_states() == twin.junction.signal_states()
    later = [
        sorted((each.group, each.from_s) for each in rig.witness.stretches if each.from_s > settled_s)
        for rig in (asked, twin)
    ]
    assert later[0] == later[1]
