"""How a lamp's level comes about.

In order of authority: a manual override, then the control program that the lamp's calendar names for the day,
then the policy's default. `decide` is the only place where that is said; the cabinet switches by it and the
centre previews with it.
"""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from typing import assert_never
from zoneinfo import ZoneInfo

import msgspec

from protocols.clock import Instant
from protocols.model.lighting import (
    AbsolutePeriod,
    Assignment,
    AstroClockPeriod,
    Calendar,
    CalendarRule,
    ControlProgram,
    Decision,
    Lamp,
    LightingPolicy,
    LightReason,
    Override,
    Place,
    SolarEvent,
    Weekday,
)
from protocols.rules.sun import SunTimes, sun_times

MINUTE_MS = 60_000
DAY_MS = 86_400_000
_WEEKDAYS = tuple(Weekday)


class Burning(msgspec.Struct, frozen=True):
    """One occurrence of an active period, [begin, end) in UTC milliseconds."""

    begin_ms: int
    end_ms: int
    level: int
    ramp_s: float


class Step(msgspec.Struct, frozen=True):
    """One occurrence of a control: from `at_ms` on, this level."""

    at_ms: int
    level: int
    ramp_s: float
    because: str


def decide(policy: LightingPolicy, lamp: Lamp, override: Override | None, civil: Instant) -> Decision:
    """Say what a lamp is to do now, why, and until when that holds.

    Args:
        policy: what is in force.
        lamp: whom it is about.
        override: what somebody wants of this lamp, if anybody does; ignored once its time is over.
        civil: the civil moment.
    """
    now_ms = civil.utc_ms
    overriding = decide_override(override, now_ms)
    if overriding is not None:
        return overriding
    calendar = calendar_of(policy, lamp)
    if calendar is None:
        return Decision(
            policy.default_level, 0.0, LightReason.DEFAULT, "no calendar is assigned", now_ms + DAY_MS
        )
    zone = ZoneInfo(policy.place.timezone)
    day = program_day(calendar, now_ms, zone)
    program = program_of(policy, calendar, day)
    decision = decide_program(program, policy.place, now_ms)
    day_end_ms = _day_begin_ms(day + timedelta(days=1), calendar.day_offset_h, zone)
    return msgspec.structs.replace(decision, valid_until_ms=min(decision.valid_until_ms, day_end_ms))


def decide_override(override: Override | None, now_ms: int) -> Decision | None:
    """Say what an override wants at a moment; None if there is none, or its time is over."""
    if override is None or (override.until_ms is not None and now_ms >= override.until_ms):
        return None
    until_ms = now_ms + DAY_MS if override.until_ms is None else override.until_ms
    because = f"override by {override.issuer}"
    return Decision(override.level, override.ramp_s, LightReason.OVERRIDE, because, until_ms)


def calendar_of(policy: LightingPolicy, lamp: Lamp) -> Calendar | None:
    """Return the calendar that a lamp goes by: by its own id first, then by its groups."""
    named = next((a for a in policy.assignments if lamp.id in a.devices), None)
    found: Assignment | None = named or next(
        (a for a in policy.assignments if not set(lamp.groups).isdisjoint(a.groups)), None
    )
    if found is None:
        return None
    return next(c for c in policy.calendars if c.id == found.calendar)


def program_day(calendar: Calendar, now_ms: int, zone: ZoneInfo) -> date:
    """Return the calendar's day that a moment belongs to; with day offset 12 a night is one day."""
    local = datetime.fromtimestamp(now_ms / 1000, zone)
    return local.date() if local.hour >= calendar.day_offset_h else local.date() - timedelta(days=1)


def program_of(policy: LightingPolicy, calendar: Calendar, day: date) -> ControlProgram:
    """Return the program that a calendar names for a day: the first rule that holds, else the default."""
    rule = next((rule for rule in calendar.rules if _holds(rule, day)), None)
    wanted = rule.program if rule else calendar.default_program
    return next(program for program in policy.programs if program.id == wanted)


def decide_program(program: ControlProgram, place: Place, now_ms: int) -> Decision:
    """Say what a program wants at a moment, and when it will next want something else.

    The program is read as if it ruled every day, so that a night that crosses midnight is one night. Where
    several active periods hold, the first that is written rules. Each begins at its own level, or at that of
    a control that came due that evening while the lamp was not burning yet: with "70 % from 22:00" a June
    night that begins at 22:11 begins at 70 %.
    """
    today = datetime.fromtimestamp(now_ms / 1000, ZoneInfo(place.timezone)).date()
    days = [today + timedelta(days=shift) for shift in (-2, -1, 0, 1, 2)]
    occurrences = [
        burning for period in program.active_periods for burning in _occurrences(period, place, days)
    ]
    burning = next((b for b in occurrences if b.begin_ms <= now_ms < b.end_ms), None)
    if burning is None:
        begins = min((b.begin_ms for b in occurrences if b.begin_ms > now_ms), default=now_ms + DAY_MS)
        return Decision(0, 0.0, LightReason.PROGRAM, f"{program.id}: outside its active periods", begins)
    controls = sorted(_steps(program, place, days), key=lambda step: step.at_ms)
    steps = [
        _first_step(burning, controls, occurrences, place),
        *(step for step in controls if burning.begin_ms <= step.at_ms < burning.end_ms),
    ]
    current = [step for step in steps if step.at_ms <= now_ms][-1]
    changes = [burning.end_ms, *(step.at_ms for step in steps), *(b.begin_ms for b in occurrences)]
    because = f"{program.id}: {current.because}"
    valid_until_ms = min(change for change in changes if change > now_ms)
    return Decision(current.level, current.ramp_s, LightReason.PROGRAM, because, valid_until_ms)


def _first_step(
    burning: Burning, controls: Sequence[Step], occurrences: Sequence[Burning], place: Place
) -> Step:
    """Return how a burning begins: at its period's level, or at that of a control that is due already."""
    since_ms = max(
        _noon_before(burning.begin_ms, place),
        *(b.end_ms for b in occurrences if b.begin_ms < burning.begin_ms),
        0,
    )
    due = [step for step in controls if since_ms <= step.at_ms < burning.begin_ms]
    if due:
        return msgspec.structs.replace(due[-1], at_ms=burning.begin_ms)
    return Step(burning.begin_ms, burning.level, burning.ramp_s, "active period")


def _noon_before(moment_ms: int, place: Place) -> int:
    zone = ZoneInfo(place.timezone)
    local = datetime.fromtimestamp(moment_ms / 1000, zone)
    day = local.date() if local.hour >= 12 else local.date() - timedelta(days=1)
    return _day_begin_ms(day, 12, zone)


def _holds(rule: CalendarRule, day: date) -> bool:
    iso = day.isoformat()
    return (
        (rule.from_date is None or rule.from_date <= iso)
        and (rule.to_date is None or iso <= rule.to_date)
        and (not rule.weekdays or _WEEKDAYS[day.weekday()] in rule.weekdays)
    )


def _occurrences(
    period: AstroClockPeriod | AbsolutePeriod, place: Place, days: list[date]
) -> Iterator[Burning]:
    for day in days:
        match period:
            case AstroClockPeriod():
                begin, end = _night_ms(period, place, day)
            case AbsolutePeriod():
                begin = local_ms(day, period.begin, place)
                same_day = period.begin < period.end
                end = local_ms(day if same_day else day + timedelta(days=1), period.end, place)
            case _:
                assert_never(period)
        if begin < end:
            yield Burning(begin, end, period.level, period.ramp_s)


def _night_ms(period: AstroClockPeriod, place: Place, day: date) -> tuple[int, int]:
    """Return the night that begins on `day`: noon to noon in a polar night, none under a midnight sun.

    An offset counts from a sunset or sunrise; where there is none, there is nothing to count from.
    """
    evening, morning = _sun(place, day), _sun(place, day + timedelta(days=1))
    begin = evening.noon_ms if evening.dark else morning.noon_ms
    if evening.sunset_ms is not None:
        begin = evening.sunset_ms + period.sunset_offset_min * MINUTE_MS
    end = morning.noon_ms if morning.dark else evening.noon_ms
    if morning.sunrise_ms is not None:
        end = morning.sunrise_ms + period.sunrise_offset_min * MINUTE_MS
    return begin, end


def _steps(program: ControlProgram, place: Place, days: list[date]) -> Iterator[Step]:
    for day in days:
        for fixed in program.fixed_time_controls:
            yield Step(local_ms(day, fixed.time, place), fixed.level, fixed.ramp_s, f"from {fixed.time}")
        sun = _sun(place, day)
        for astro in program.astro_clock_controls:
            at_ms = sun.sunset_ms if astro.event is SolarEvent.SUNSET else sun.sunrise_ms
            if at_ms is not None:
                because = f"from {astro.event.value} {astro.offset_min:+d} min"
                yield Step(at_ms + astro.offset_min * MINUTE_MS, astro.level, astro.ramp_s, because)


def local_ms(day: date, clock_time: str, place: Place) -> int:
    """Return the UTC milliseconds of a local time.

    A time that the spring change skips falls as long after it as it would have; of a time that the autumn
    change repeats the first is meant.
    """
    hour, minute = clock_time.split(":")
    return _utc_ms(datetime.combine(day, time(int(hour), int(minute)), ZoneInfo(place.timezone)))


def _day_begin_ms(day: date, day_offset_h: int, zone: ZoneInfo) -> int:
    return _utc_ms(datetime.combine(day, time(day_offset_h), zone))


def _utc_ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _sun(place: Place, day: date) -> SunTimes:
    return sun_times(place.latitude, place.longitude, place.timezone, day)
