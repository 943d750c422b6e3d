"""The conflict monitor sees each hazard that there is, in lamps alone, and nothing where there is none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.conflict_monitor import ConflictMonitor, Finding, Hazard
from sim.junction_design import JunctionDesign
from sim.signal_groups import Aspect

DESIGN = JunctionDesign()
LAMPS = {"r": Aspect.RED, "o": Aspect.RED_YELLOW, "G": Aspect.GREEN, "y": Aspect.YELLOW}


def see(*stretches: tuple[int, str]) -> Finding | None:
    """Show lamps, each pattern for some seconds; return the first finding."""
    monitor = ConflictMonitor(DESIGN)
    tick = 0
    for seconds, pattern in stretches:
        for _ in range(seconds):
            tick += 1
            finding = monitor.see(tick, [LAMPS[sign] for sign in pattern])
            if finding is not None:
                return finding
    return None


@pytest.mark.parametrize(
    ("stretches", "hazard", "group"),
    [
        ([(9, "GrGrrr"), (1, "GGGrrr")], Hazard.CONFLICT, 1),
        ([(9, "GrGrrr"), (1, "yrGrrr"), (1, "yGGrrr")], Hazard.CONFLICT, 1),
        ([(9, "GrGrrr"), (3, "yryrrr"), (1, "rGrrrr")], Hazard.INTERGREEN, 2),
        ([(9, "rrrrrG"), (7, "rrrrrr"), (1, "rGrrrr")], Hazard.INTERGREEN, 2),
        ([(5, "Grrrrr"), (1, "yrrrrr")], Hazard.MINIMUM_GREEN, 1),
        ([(7, "rrrrrG"), (1, "rrrrrr")], Hazard.MINIMUM_GREEN, 6),
        ([(9, "Grrrrr"), (2, "yrrrrr"), (1, "rrrrrr")], Hazard.YELLOW, 1),
        ([(9, "Grrrrr"), (1, "rrrrrr")], Hazard.YELLOW, 1),
    ],
)
def test_a_hazard_is_seen_in_its_first_second(
    stretches: list[tuple[int, str]], hazard: Hazard, group: int
) -> None:
    *before, (_, last) = stretches
    assert see(*before) is None
    assert see(*before, (1, last)) == Finding(hazard, group)


def test_a_proper_change_is_no_hazard() -> None:
    assert (
        see((6, "GrGrrr"), (3, "yryrrr"), (1, "rrrrrr"), (1, "rorrrr"), (6, "rGrrrr"), (3, "ryrrrr")) is None
    )


@given(patterns=st.lists(st.tuples(st.integers(1, 12), st.text("roGy", min_size=6, max_size=6)), max_size=12))
@settings(max_examples=200)
def test_conflicting_greens_never_pass_whatever_came_before(patterns: list[tuple[int, str]]) -> None:
    shown = [pattern for _, pattern in patterns]
    conflicts = any(
        "y" not in (pattern[one], pattern[other])
        and pattern[one] == pattern[other] == "G"
        and DESIGN.conflict(one, other)
        for pattern in shown
        for one in range(6)
        for other in range(6)
    )
    if conflicts:
        assert see(*patterns) is not None
