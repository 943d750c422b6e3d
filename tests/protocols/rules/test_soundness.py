"""A lighting policy's own sense: every fault is named with its place."""

import msgspec
import pytest

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
from protocols.rules.soundness import lighting_faults

LAMPS = (
    Lamp(DeviceId("lamp-01"), "dali-1", "0", ("street", "square")),
    Lamp(DeviceId("lamp-02"), "dali-1", "1"),
)
NIGHT = ControlProgram(
    "night", (AstroClockPeriod(),), (FixedTimeControl("22:00", 70), FixedTimeControl("05:00", 100))
)
ALWAYS = Calendar("always", "night")
SOUND = LightingPolicy(
    Place(47.32, 5.04, "Europe/Paris"),
    (NIGHT,),
    (ALWAYS,),
    (Assignment("always", devices=("lamp-02",), groups=("street",)),),
)


def changed(**parts: object) -> LightingPolicy:
    return msgspec.structs.replace(SOUND, **parts)


def test_a_sound_policy_has_no_fault() -> None:
    assert lighting_faults(SOUND, LAMPS) == []


@pytest.mark.parametrize(
    "zone", ["", "Europe", "Europe/Dijon", "../etc/passwd", "/etc/localtime", "a\0b", "\ud800", "x" * 9000]
)
def test_a_time_zone_that_is_none_is_named(zone: str) -> None:
    (fault,) = lighting_faults(changed(place=Place(0, 0, zone)), LAMPS)
    assert fault.startswith("place.timezone: ")


@pytest.mark.parametrize(
    ("program", "fault"),
    [
        (ControlProgram("night", ()), "programs.night.active_periods: empty"),
        (
            ControlProgram("night", (AstroClockPeriod(), AbsolutePeriod("20:00", "20:00"))),
            "programs.night.active_periods: begins and ends at 20:00",
        ),
        (
            msgspec.structs.replace(
                NIGHT, fixed_time_controls=(FixedTimeControl("22:00", 1), FixedTimeControl("22:00", 2))
            ),
            "programs.night.fixed_time_controls: a time stands twice",
        ),
        (
            msgspec.structs.replace(
                NIGHT,
                fixed_time_controls=tuple(FixedTimeControl(t, 1) for t in ("13:00", "12:30", "01:00")),
            ),
            "programs.night.fixed_time_controls: not ascending",
        ),
        (
            msgspec.structs.replace(
                NIGHT,
                astro_clock_controls=(
                    AstroClockControl(SolarEvent.SUNSET, 30, 1),
                    AstroClockControl(SolarEvent.SUNSET, 30, 2),
                ),
            ),
            "programs.night.astro_clock_controls: 'sunset +30 min' stands 2 times",
        ),
    ],
)
def test_a_program_without_sense_is_named(program: ControlProgram, fault: str) -> None:
    (found,) = lighting_faults(changed(programs=(program,)), LAMPS)
    assert found.startswith(fault)


@pytest.mark.parametrize("times", [("22:00", "05:00"), ("05:00", "22:00"), ("13:00", "00:00"), ()])
def test_times_may_ascend_from_noon_or_from_midnight(times: tuple[str, ...]) -> None:
    program = msgspec.structs.replace(NIGHT, fixed_time_controls=tuple(FixedTimeControl(t, 1) for t in times))
    assert lighting_faults(changed(programs=(program,)), LAMPS) == []


@pytest.mark.parametrize(
    ("calendar", "fault"),
    [
        (Calendar("always", "day"), "calendars.always.default_program: there is no program 'day'"),
        (Calendar("always", "night", day_offset_h=6), "calendars.always.day_offset_h: 6, expected 0 or 12"),
        (
            Calendar("always", "night", (CalendarRule("night"), CalendarRule("day"))),
            "calendars.always.rules[1].program: there is no program 'day'",
        ),
        (
            Calendar("always", "night", (CalendarRule("night", from_date="2026-02-29"),)),
            "calendars.always.rules[0].from_date: there is no day 2026-02-29",
        ),
        (
            Calendar("always", "night", (CalendarRule("night", to_date="2026-04-31"),)),
            "calendars.always.rules[0].to_date: there is no day 2026-04-31",
        ),
        (
            Calendar("always", "night", (CalendarRule("night", "2026-05-02", "2026-05-01"),)),
            "calendars.always.rules[0]: ends on 2026-05-01, before it begins on 2026-05-02",
        ),
    ],
)
def test_a_calendar_without_sense_is_named(calendar: Calendar, fault: str) -> None:
    assert lighting_faults(changed(calendars=(calendar,)), LAMPS) == [fault]


@pytest.mark.parametrize(
    ("assignments", "fault"),
    [
        ((Assignment("never"),), "assignments[0].calendar: there is no calendar 'never'"),
        (
            (Assignment("always", devices=("lamp-99",)),),
            "assignments[0].devices: this cabinet has no lamp 'lamp-99'",
        ),
        (
            (Assignment("always", groups=("park",)),),
            "assignments[0].groups: no lamp of this cabinet is in a group 'park'",
        ),
        (
            (Assignment("always", devices=("lamp-01", "lamp-01")),),
            "assignments.devices: 'lamp-01' stands 2 times",
        ),
        (
            (Assignment("always", groups=("street",)), Assignment("always", groups=("street",))),
            "assignments.groups: 'street' stands 2 times",
        ),
    ],
)
def test_an_assignment_without_sense_is_named(assignments: tuple[Assignment, ...], fault: str) -> None:
    assert lighting_faults(changed(assignments=assignments), LAMPS) == [fault]


def test_a_lamp_whose_groups_want_two_calendars_is_named_unless_it_is_assigned_itself() -> None:
    calendars = (ALWAYS, Calendar("other", "night"))
    by_group = (Assignment("always", groups=("street",)), Assignment("other", groups=("square",)))
    assert lighting_faults(changed(calendars=calendars, assignments=by_group), LAMPS) == [
        "assignments: the groups of lamp-01 name several calendars: always, other"
    ]
    named = (*by_group, Assignment("other", devices=("lamp-01",)))
    assert lighting_faults(changed(calendars=calendars, assignments=named), LAMPS) == []


def test_several_faults_are_all_named() -> None:
    policy = changed(
        place=Place(0, 0, "Nowhere"),
        programs=(NIGHT, NIGHT),
        calendars=(ALWAYS, Calendar("always", "day")),
        assignments=(Assignment("never", devices=("lamp-99",)),),
    )
    assert [fault.split(":")[0] for fault in lighting_faults(policy, LAMPS)] == [
        "place.timezone",
        "programs",
        "calendars",
        "calendars.always.default_program",
        "assignments[0].calendar",
        "assignments[0].devices",
    ]
