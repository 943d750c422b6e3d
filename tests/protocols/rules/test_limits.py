"""Limits: what only somebody at the cabinet can change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.model.ids import DeviceId
from protocols.model.lighting import (
    AbsolutePeriod,
    Assignment,
    AstroClockControl,
    AstroClockPeriod,
    Calendar,
    CalendarRule,
    ControlProgram,
    FixedTimeControl,
    Lamp,
    LightingPolicy,
    Place,
    SolarEvent,
)
from protocols.model.policy import LampLimit, Limits
from protocols.rules.limits import addresses, level_faults, limits_of, nearest_allowed, policy_faults

DIJON = Place(47.32, 5.04, "Europe/Paris")
LAMP = Lamp(DeviceId("lamp-07"), "dali-1", "7", ("street",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*", None),
        (" * ", None),
        ("3", {"3"}),
        ("0-3", {"0", "1", "2", "3"}),
        ("0 - 1, 5,255", {"0", "1", "5", "255"}),
        ("007", {"7"}),
    ],
)
def test_addresses_are_numbers_and_ranges_of_them(text: str, expected: set[str] | None) -> None:
    assert addresses(text) == (None if expected is None else frozenset(expected))


@pytest.mark.parametrize(
    "text", ["", "a", "5-", "-5", "3-1", "256", "1,,2", "1-2-3", "0x1", "1_0", "+1", "٣", "*,3", "1000"]
)
def test_what_is_no_range_of_addresses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a range"):
        addresses(text)


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=5))
def test_a_range_names_each_address_within_it_and_no_other(ranges: list[tuple[int, int]]) -> None:
    sound = [(min(pair), max(pair)) for pair in ranges]
    named = addresses(",".join(f"{low}-{high}" for low, high in sound))
    assert named == frozenset(str(n) for n in range(256) if any(low <= n <= high for low, high in sound))


def test_a_limit_names_a_lamp_by_its_line_and_its_address_whatever_it_is_called() -> None:
    named, elsewhere, other = (
        LampLimit("dali-1", "0-9"),
        LampLimit("dali-2", "*"),
        LampLimit("dali-1", "70"),
    )
    assert limits_of(Limits((named, elsewhere, other)), LAMP) == [named]


@pytest.mark.parametrize(
    ("limit", "level", "why"),
    [
        (LampLimit("dali-1", minimum_level=30), 29, "29 % is below the limit of 30 %"),
        (LampLimit("dali-1", minimum_level=30), 30, ""),
        (LampLimit("dali-1", minimum_level=30), 0, "does not allow to switch it off"),
        (LampLimit("dali-1", minimum_level=30, switch_off=True), 0, ""),
        (LampLimit("dali-1", minimum_level=30, switch_off=True), 1, "below"),
        (LampLimit("dali-1", maximum_level=80, switch_off=True), 81, "81 % is above the limit of 80 %"),
        (LampLimit("dali-1", maximum_level=80, switch_off=True), 80, ""),
        (LampLimit("dali-1", "8"), 0, ""),
    ],
)
def test_a_level_is_compared_with_the_limits_of_its_lamp(limit: LampLimit, level: float, why: str) -> None:
    faults = level_faults(Limits((limit,)), LAMP, level)
    assert [why in fault for fault in faults] == ([True] if why else [])
    assert all("lamp-07 (dali-1/7)" in fault for fault in faults)


def test_where_several_limits_name_a_lamp_all_of_them_hold() -> None:
    limits = Limits(
        (LampLimit("dali-1", minimum_level=30), LampLimit("dali-1", "7", minimum_level=50, switch_off=True))
    )
    assert len(level_faults(limits, LAMP, 20)) == 2
    assert len(level_faults(limits, LAMP, 40)) == 1
    assert len(level_faults(limits, LAMP, 0)) == 1
    assert level_faults(limits, LAMP, 50) == []


@pytest.mark.parametrize(
    ("level", "expected"), [(0, 0), (1, 30), (29, 30), (30, 30), (55, 55), (80, 80), (100, 80)]
)
def test_what_breaks_a_limit_is_brought_to_the_nearest_level_that_does_not(level: int, expected: int) -> None:
    limits = Limits((LampLimit("dali-1", "7", 20, 80), LampLimit("dali-1", "*", 30, 90), LampLimit("dali-2")))
    assert nearest_allowed(limits, LAMP, level) == expected


def test_where_limits_contradict_each_other_light_wins() -> None:
    limits = Limits((LampLimit("dali-1", minimum_level=60), LampLimit("dali-1", maximum_level=40)))
    assert nearest_allowed(limits, LAMP, 50) == 60
    assert nearest_allowed(Limits(), LAMP, 50) == 50


def test_without_limits_nothing_is_bounded() -> None:
    assert level_faults(Limits(), LAMP, 0) == []


def policy(*, default_level: int = 100) -> LightingPolicy:
    low = ControlProgram(
        "low",
        (AstroClockPeriod(level=20), AbsolutePeriod("18:00", "06:00", level=21)),
        (FixedTimeControl("22:00", 0),),
        (AstroClockControl(SolarEvent.SUNRISE, -30, 22),),
    )
    high = ControlProgram("high", (AstroClockPeriod(level=100),))
    unused = ControlProgram("unused", (AstroClockPeriod(level=1),))
    calendars = (
        Calendar("by-rule", "high", (CalendarRule("low"),)),
        Calendar("always-high", "high"),
    )
    return LightingPolicy(
        DIJON, (low, high, unused), calendars, (Assignment("by-rule", groups=("street",)),), default_level
    )


def test_every_level_that_a_lamp_could_ever_be_given_is_compared() -> None:
    limits = Limits((LampLimit("dali-1", "*", minimum_level=30),))
    assert policy_faults(limits, policy(), [LAMP]) == [
        "program low, active period: lamp-07 (dali-1/7): 20 % is below the limit of 30 %",
        "program low, active period: lamp-07 (dali-1/7): 21 % is below the limit of 30 %",
        "program low, 22:00: lamp-07 (dali-1/7): the limits file does not allow to switch it off",
        "program low, sunrise -30 min: lamp-07 (dali-1/7): 22 % is below the limit of 30 %",
    ]


def test_a_lamp_without_a_calendar_is_compared_by_the_default() -> None:
    alone = Lamp(DeviceId("lamp-08"), "dali-1", "8")
    limits = Limits((LampLimit("dali-1", "8", maximum_level=50),))
    assert policy_faults(limits, policy(default_level=60), [alone, LAMP]) == [
        "default: lamp-08 (dali-1/8): 60 % is above the limit of 50 %"
    ]


def test_a_program_that_a_lamp_never_goes_by_is_not_compared_for_it() -> None:
    elsewhere = Lamp(DeviceId("lamp-09"), "dali-1", "9", ("square",))
    limits = Limits((LampLimit("dali-1", "9", minimum_level=30),))
    assert policy_faults(limits, policy(), [elsewhere, LAMP]) == []
