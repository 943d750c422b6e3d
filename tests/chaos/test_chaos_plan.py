"""The plan of a run comes from its seed alone, and is what the run promises."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.plan import QUIET_S, Victim, make_plan

SEEDS = st.integers(0, 2**32)


@given(SEEDS, st.floats(20, 600))
def test_the_same_seed_gives_the_same_plan(seed: int, seconds: float) -> None:
    assert make_plan(seed, seconds) == make_plan(seed, seconds)


def test_another_seed_gives_another_plan() -> None:
    assert len({repr(make_plan(seed, 120)) for seed in range(100)}) == 100


@given(SEEDS)
def test_two_minutes_have_twenty_kills_of_everybody_and_three_cuts_of_different_kinds(seed: int) -> None:
    plan = make_plan(seed, 120)
    assert len(plan.kills) == 20
    assert {kill.victim for kill in plan.kills} == set(Victim)
    assert len({cut.fault for cut in plan.cuts}) == 3


@given(SEEDS)
def test_a_short_run_has_its_share(seed: int) -> None:
    plan = make_plan(seed, 30)
    assert (len(plan.kills), len(plan.cuts)) == (5, 1)
    assert {kill.victim for kill in plan.kills} == set(Victim)


@given(SEEDS, st.floats(20, 600))
def test_nobody_is_killed_while_it_is_down_and_no_cut_meets_another(seed: int, seconds: float) -> None:
    plan = make_plan(seed, seconds)
    for victim in Victim:
        kills = [kill for kill in plan.kills if kill.victim is victim]
        assert all(before.back_s < after.at_s for before, after in pairwise(kills))
        assert all(kill.at_s >= QUIET_S for kill in kills)
    assert all(before.at_s + before.for_s <= after.at_s for before, after in pairwise(plan.cuts))
