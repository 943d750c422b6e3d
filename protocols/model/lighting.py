"""What the centre wants of a cabinet's lamps, in TALQ's terms: control program, calendar, assignment.

Source: TALQ 2.7.1 data model, ControlProgramOne and Calendar. Levels are percent of full light output,
0–100, 0 is off. Clock times are local ("22:00"), solar offsets minutes, positive after the event.
"""

from enum import StrEnum
from typing import Annotated

import msgspec

from protocols.model.ids import ID_META, DeviceId

Level = Annotated[int, msgspec.Meta(ge=0, le=100)]
ClockTime = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)", description="a local time from 00:00 to 23:59"
    ),
]
OffsetMinutes = Annotated[int, msgspec.Meta(ge=-360, le=360)]
RampSeconds = Annotated[float, msgspec.Meta(ge=0, le=90)]
CivilDate = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$(?!\n)",
        description="a date such as 2026-11-24",
    ),
]
Name = Annotated[str, ID_META]


class SolarEvent(StrEnum):
    """What an astronomical control hangs on."""

    SUNSET = "sunset"
    SUNRISE = "sunrise"


class AstroClockPeriod(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="period", tag="astro"
):
    """Active from sunset + offset to the following sunrise + offset."""

    sunset_offset_min: OffsetMinutes = 0
    sunrise_offset_min: OffsetMinutes = 0
    level: Level = 100
    ramp_s: RampSeconds = 0.0


class AbsolutePeriod(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="period", tag="absolute"
):
    """Active from `begin` to the following `end`, local time; through midnight where `end` is not later."""

    begin: ClockTime
    end: ClockTime
    level: Level = 100
    ramp_s: RampSeconds = 0.0


class FixedTimeControl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From this local time on, within an active period, this level."""

    time: ClockTime
    level: Level
    ramp_s: RampSeconds = 0.0


class AstroClockControl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From this solar event + offset on, within an active period, this level."""

    event: SolarEvent
    offset_min: OffsetMinutes
    level: Level
    ramp_s: RampSeconds = 0.0


class ControlProgram(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a lamp burns through a day. Outside its active periods it is off.

    Attributes:
        id: unique within the policy.
        active_periods: when it burns, and how at first; the first that holds wins.
        fixed_time_controls: ascending from noon, unique.
        astro_clock_controls: unique.
    """

    id: Name
    active_periods: tuple[AstroClockPeriod | AbsolutePeriod, ...]
    fixed_time_controls: tuple[FixedTimeControl, ...] = ()
    astro_clock_controls: tuple[AstroClockControl, ...] = ()


class Weekday(StrEnum):
    """A day of the week, by its first three letters."""

    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


class CalendarRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """On which days which program rules.

    Attributes:
        program: a control program's id.
        from_date: first day, local, inclusive; None from ever.
        to_date: last day, local, inclusive; None for ever.
        weekdays: only these; none given means all.
    """

    program: Name
    from_date: CivilDate | None = None
    to_date: CivilDate | None = None
    weekdays: tuple[Weekday, ...] = ()


class Calendar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which program rules on which day.

    Attributes:
        id: unique within the policy.
        default_program: rules on days that no rule names.
        rules: in order; the first that holds wins.
        day_offset_h: when a day begins, local time: 0 for midnight, 12 so that a night is one day.
    """

    id: Name
    default_program: Name
    rules: tuple[CalendarRule, ...] = ()
    day_offset_h: Annotated[int, msgspec.Meta(ge=0, le=12)] = 12


class Assignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which lamps go by which calendar. A lamp named by its id goes before its groups."""

    calendar: Name
    devices: tuple[Name, ...] = ()
    groups: tuple[Name, ...] = ()


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the sun sets for a cabinet.

    Attributes:
        latitude: degrees north.
        longitude: degrees east.
        timezone: IANA name of the civil time.
    """

    latitude: Annotated[float, msgspec.Meta(ge=-90, le=90)]
    longitude: Annotated[float, msgspec.Meta(ge=-180, le=180)]
    timezone: str


class LightingPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a cabinet needs to know to light its lamps for ever without the centre.

    Attributes:
        place: where, for sun and civil time.
        programs: control programs.
        calendars: calendars over them.
        assignments: which lamps go by which calendar.
        default_level: what a lamp that nothing is assigned to burns at.
    """

    place: Place
    programs: tuple[ControlProgram, ...]
    calendars: tuple[Calendar, ...]
    assignments: tuple[Assignment, ...]
    default_level: Level = 100


class Lamp(msgspec.Struct, frozen=True):
    """What deciding must know of a lamp.

    Attributes:
        id: the device.
        line: its line, for the limits.
        address: its hardware address there, for the limits.
        groups: its groups, for the assignments.
    """

    id: DeviceId
    line: str
    address: str
    groups: tuple[str, ...] = ()


class Override(msgspec.Struct, frozen=True):
    """A level that somebody wants for a while instead of the program's.

    Attributes:
        level: percent.
        until_ms: civil UTC milliseconds at which the program rules again; None until released.
        ramp_s: time to reach it.
        issuer: who.
    """

    level: Level
    until_ms: int | None
    ramp_s: float
    issuer: str


class LightReason(StrEnum):
    """On what authority a level stands. TALQ's reasons."""

    DEFAULT = "default"
    PROGRAM = "program"
    OVERRIDE = "override"


class Decision(msgspec.Struct, frozen=True):
    """What a lamp is to do, and why.

    Attributes:
        level: percent, 0–100.
        ramp_s: time to reach it, seconds.
        reason: on whose authority.
        because: in words: the program and the step of it, or who overrode.
        valid_until_ms: civil UTC milliseconds; at that moment decide again, unless something changes before.
    """

    level: int
    ramp_s: float
    reason: LightReason
    because: str
    valid_until_ms: int
