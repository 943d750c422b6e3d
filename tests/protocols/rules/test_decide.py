"""How a lamp's level comes about: Dijon's own rules, and every clock change, date line and polar night."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.clock import Instant
from protocols.model.ids import DeviceId
from protocols.model.lighting import (
    AbsolutePeriod,
    Assignment,
    AstroClockControl,
    AstroClockPeriod,
    Calendar,
    CalendarRule,
    ControlProgram,
    Decision,
    FixedTimeControl,
    Lamp,
    LightingPolicy,
    LightReason,
    Override,
    Place,
    SolarEvent,
    Weekday,
)
from protocols.rules.lighting import DAY_MS, decide, local_ms
from protocols.rules.sun import sun_times

DIJON = Place(47.32, 5.04, "Europe/Paris")
LAMP = Lamp(DeviceId("lamp-01"), "dali-1", "0", ("street",))
NIGHT = AstroClockPeriod()
WINTER, SUMMER = "2026-12-15", "2026-06-21"

# Dimming in use at Dijon, centre.md §2.
DIJON_70 = ControlProgram(
    "dijon-70", (NIGHT,), (FixedTimeControl("22:00", 70), FixedTimeControl("05:00", 100))
)
SENNECEY_OFF = ControlProgram(
    "sennecey-off", (NIGHT,), (FixedTimeControl("00:00", 0), FixedTimeControl("05:00", 100))
)
SOBRIETY = ControlProgram(
    "sobriety", (NIGHT,), (FixedTimeControl("23:00", 50), FixedTimeControl("05:00", 100))
)


def policy(*programs: ControlProgram, place: Place = DIJON, **calendar: object) -> LightingPolicy:
    document = {"id": "always", "default_program": programs[0].id, **calendar}
    return LightingPolicy(
        place,
        programs,
        (msgspec.convert(document, Calendar),),
        (Assignment("always", groups=("street",)),),
        default_level=33,
    )


def at(local: str, zone: str = "Europe/Paris", fold: int = 0) -> Instant:
    moment = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return Instant(0, round(moment.timestamp() * 1000))


def level(rules: LightingPolicy, local: str) -> int:
    return decide(rules, LAMP, None, at(local)).level


@pytest.mark.parametrize(
    ("program", "local", "expected"),
    [
        (DIJON_70, f"{WINTER} 16:30", 0),
        (DIJON_70, f"{WINTER} 17:30", 100),
        (DIJON_70, f"{WINTER} 21:59:59.999", 100),
        (DIJON_70, f"{WINTER} 22:00", 70),
        (DIJON_70, "2026-12-16 04:59:59.999", 70),
        (DIJON_70, "2026-12-16 05:00", 100),
        (DIJON_70, "2026-12-16 08:00", 100),
        (DIJON_70, "2026-12-16 09:00", 0),
        (DIJON_70, f"{SUMMER} 21:00", 0),
        (DIJON_70, f"{SUMMER} 21:50", 100),
        (DIJON_70, f"{SUMMER} 22:00", 70),
        (DIJON_70, "2026-06-22 05:30", 100),
        (DIJON_70, "2026-06-22 06:00", 0),
        (SENNECEY_OFF, f"{WINTER} 23:59:59.999", 100),
        (SENNECEY_OFF, "2026-12-16 00:00", 0),
        (SENNECEY_OFF, "2026-12-16 04:59:59.999", 0),
        (SENNECEY_OFF, "2026-12-16 05:00", 100),
        (SENNECEY_OFF, "2026-12-16 08:00", 100),
        (SOBRIETY, f"{WINTER} 22:59", 100),
        (SOBRIETY, f"{WINTER} 23:00", 50),
        (SOBRIETY, "2027-01-01 00:30", 50),
        (SOBRIETY, "2026-12-16 05:00", 100),
        (ControlProgram("unlit", (AbsolutePeriod("12:00", "11:59", level=0),)), f"{WINTER} 22:00", 0),
    ],
)
def test_the_rules_in_use_at_dijon(program: ControlProgram, local: str, expected: int) -> None:
    assert level(policy(program), local) == expected


def test_a_control_that_came_due_before_a_late_sunset_holds_from_the_beginning() -> None:
    """With a lamp that waits until half an hour after sunset, a June night begins at 22:11: after 22:00."""
    late = msgspec.structs.replace(DIJON_70, active_periods=(AstroClockPeriod(sunset_offset_min=30),))
    assert level(policy(late), f"{SUMMER} 22:10") == 0
    assert level(policy(late), f"{SUMMER} 22:13") == 70
    assert level(policy(late), "2026-06-22 05:10") == 100
    assert level(policy(late), f"{WINTER} 17:30") == 100


def test_a_control_of_last_night_says_nothing_of_tonight() -> None:
    once = ControlProgram("once", (NIGHT,), (FixedTimeControl("22:00", 70),))
    assert level(policy(once), "2026-12-16 07:00") == 70
    assert level(policy(once), "2026-12-16 17:30") == 100


def test_a_control_that_had_its_time_in_the_evening_says_nothing_of_the_morning_s_period() -> None:
    evening = AbsolutePeriod("18:00", "23:59", level=90)
    morning = AbsolutePeriod("05:00", "07:00", level=80)
    twice = policy(ControlProgram("twice", (evening, morning), (FixedTimeControl("22:00", 40),)))
    assert [level(twice, f"{WINTER} {t}") for t in ("18:00", "22:00", "23:59")] == [90, 40, 0]
    assert level(twice, "2026-12-16 05:00") == 80


def test_a_control_exactly_at_the_beginning_rules_and_exactly_at_the_end_does_not() -> None:
    edges = ControlProgram(
        "edges",
        (AbsolutePeriod("20:00", "23:00", level=100, ramp_s=9),),
        (FixedTimeControl("20:00", 60), FixedTimeControl("23:00", 10)),
    )
    assert [level(policy(edges), f"{WINTER} {t}") for t in ("19:59", "20:00", "22:59", "23:00")] == [
        0,
        60,
        60,
        0,
    ]


def test_where_periods_touch_the_next_begins_at_its_own_level() -> None:
    touching = policy(
        ControlProgram(
            "touching",
            (AbsolutePeriod("18:00", "22:00", level=100), AbsolutePeriod("22:00", "06:00", level=40)),
            (FixedTimeControl("21:00", 80),),
        )
    )
    assert [level(touching, f"{WINTER} {t}") for t in ("18:00", "21:00", "21:59", "22:00")] == [
        100,
        80,
        80,
        40,
    ]
    assert decide(touching, LAMP, None, at(f"{WINTER} 21:30")).valid_until_ms == at(f"{WINTER} 22:00").utc_ms


def test_of_periods_that_overlap_the_first_written_rules() -> None:
    overlapping = policy(
        ControlProgram(
            "overlapping",
            (AbsolutePeriod("20:00", "23:00", level=30), AbsolutePeriod("18:00", "06:00", level=100)),
        )
    )
    assert [level(overlapping, f"{WINTER} {t}") for t in ("19:59", "20:00", "22:59", "23:00")] == [
        100,
        30,
        30,
        100,
    ]


def test_a_period_of_nearly_a_day_keeps_what_a_control_set_the_day_before() -> None:
    long = policy(
        ControlProgram(
            "long",
            (AbsolutePeriod("03:00", "02:59", level=100),),
            (),
            (AstroClockControl(SolarEvent.SUNSET, 360, 20),),
        )
    )
    assert level(long, "2026-12-16 02:00") == 20
    assert level(long, "2026-06-22 02:00") == 20  # since 03:41 of the day before
    assert level(long, "2026-12-16 03:00") == 100


def test_solar_controls_follow_the_sun() -> None:
    program = ControlProgram(
        "dusk",
        (AstroClockPeriod(-15, 15, level=50),),
        (),
        (AstroClockControl(SolarEvent.SUNSET, 0, 80), AstroClockControl(SolarEvent.SUNRISE, -60, 60)),
    )
    sunset_ms = sun_times(DIJON.latitude, DIJON.longitude, DIJON.timezone, date(2026, 3, 1)).sunset_ms or 0
    sunrise_ms = sun_times(DIJON.latitude, DIJON.longitude, DIJON.timezone, date(2026, 3, 2)).sunrise_ms or 0
    minute = 60_000
    levels = [
        decide(policy(program), LAMP, None, Instant(0, moment)).level
        for moment in (
            sunset_ms - 15 * minute - 1,
            sunset_ms - 15 * minute,
            sunset_ms,
            sunrise_ms - 60 * minute,
            sunrise_ms + 15 * minute - 1,
            sunrise_ms + 15 * minute,
        )
    ]
    assert levels == [0, 50, 80, 60, 60, 0]


def test_a_decision_says_why_and_how_fast() -> None:
    ramped = msgspec.structs.replace(
        DIJON_70, fixed_time_controls=(FixedTimeControl("22:00", 70, ramp_s=45.0),)
    )
    decision = decide(policy(ramped), LAMP, None, at(f"{WINTER} 22:30"))
    assert (decision.ramp_s, decision.reason) == (45.0, LightReason.PROGRAM)
    assert decision.because == "dijon-70: from 22:00"
    assert decide(policy(ramped), LAMP, None, at(f"{WINTER} 12:00")).because == (
        "dijon-70: outside its active periods"
    )
    assert decide(policy(ramped), LAMP, None, at(f"{WINTER} 18:00")).because == "dijon-70: active period"


class TestWho:
    """A lamp goes by its own assignment, then by its group's, then by the policy's default."""

    RULES = LightingPolicy(
        DIJON,
        tuple(ControlProgram(f"p{n}", (AbsolutePeriod("12:00", "11:59", level=n),)) for n in (10, 20)),
        (Calendar("ten", "p10"), Calendar("twenty", "p20")),
        (Assignment("ten", groups=("street",)), Assignment("twenty", devices=("lamp-01",))),
        default_level=33,
    )

    def test_by_its_own_name_before_its_groups(self) -> None:
        assert level(self.RULES, WINTER) == 20

    def test_by_its_group(self) -> None:
        other = msgspec.structs.replace(LAMP, id=DeviceId("lamp-02"))
        assert decide(self.RULES, other, None, at(WINTER)).level == 10

    def test_by_the_default_where_nothing_is_assigned(self) -> None:
        stray = Lamp(DeviceId("lamp-03"), "dali-1", "3")
        decision = decide(self.RULES, stray, None, at(WINTER))
        assert (decision.level, decision.reason) == (33, LightReason.DEFAULT)
        assert decision.valid_until_ms == at(WINTER).utc_ms + DAY_MS


class TestOverride:
    """An override goes before everything, and its lamp returns by itself."""

    UNTIL = at(f"{WINTER} 20:00").utc_ms
    WANTED = Override(15, UNTIL, 2.0, "operator:anna")

    def test_an_override_goes_before_the_program(self) -> None:
        decision = decide(policy(DIJON_70), LAMP, self.WANTED, at(f"{WINTER} 19:59:59.999"))
        assert decision == Decision(
            15, 2.0, LightReason.OVERRIDE, "override by operator:anna", valid_until_ms=self.UNTIL
        )

    def test_the_program_rules_again_when_its_time_is_over(self) -> None:
        assert decide(policy(DIJON_70), LAMP, self.WANTED, at(f"{WINTER} 20:00")).level == 100

    def test_an_override_without_an_end_lasts(self) -> None:
        endless = msgspec.structs.replace(self.WANTED, until_ms=None)
        far = at("2036-01-01 03:00")
        decision = decide(policy(DIJON_70), LAMP, endless, far)
        assert (decision.level, decision.valid_until_ms) == (15, far.utc_ms + DAY_MS)


class TestCalendar:
    """The first rule that holds names the day's program; with day offset 12 a night is one day."""

    RULES = (
        {"program": "fete", "from_date": "2026-07-14", "to_date": "2026-07-14"},
        {"program": "weekend", "weekdays": ["fri", "sat"]},
        {"program": "autumn", "from_date": "2026-10-01"},
        {"program": "early", "to_date": "2026-02-28"},
    )
    PROGRAMS = tuple(
        ControlProgram(name, (AbsolutePeriod("12:00", "11:59", level=n),))
        for n, name in enumerate(("usual", "fete", "weekend", "autumn", "early"), start=1)
    )

    def program(self, local: str, day_offset_h: int) -> str:
        rules = policy(*self.PROGRAMS, rules=self.RULES, day_offset_h=day_offset_h)
        return decide(rules, LAMP, None, at(local)).because.split(":")[0]

    @pytest.mark.parametrize(
        ("local", "midnight", "noon"),
        [
            ("2026-07-14 00:00", "fete", "usual"),
            ("2026-07-14 11:59", "fete", "usual"),
            ("2026-07-14 12:00", "fete", "fete"),
            ("2026-07-15 00:00", "usual", "fete"),
            ("2026-07-15 12:00", "usual", "usual"),
            ("2026-07-18 00:00", "weekend", "weekend"),
            ("2026-07-19 11:00", "usual", "weekend"),
            ("2026-10-01 03:00", "autumn", "usual"),
            ("2026-10-03 13:00", "weekend", "weekend"),
            ("2026-12-31 23:59", "autumn", "autumn"),
            ("2027-01-01 00:00", "weekend", "autumn"),
            ("2026-03-01 11:59", "usual", "weekend"),
            ("2026-02-26 13:00", "early", "early"),
            ("2024-02-29 13:00", "early", "early"),
        ],
    )
    def test_the_first_rule_that_holds_names_the_program(self, local: str, midnight: str, noon: str) -> None:
        assert self.program(local, 0) == midnight
        assert self.program(local, 12) == noon

    def test_a_decision_does_not_outlast_its_day(self) -> None:
        for offset_h, end in ((0, "2026-07-15 00:00"), (12, "2026-07-14 12:00")):
            rules = policy(*self.PROGRAMS, rules=self.RULES, day_offset_h=offset_h)
            decision = decide(
                rules, LAMP, None, at("2026-07-14 11:59:30" if offset_h else "2026-07-14 23:00")
            )
            assert decision.valid_until_ms <= at(end).utc_ms

    def test_a_program_that_takes_over_at_midnight_is_where_it_would_be_had_it_ruled_since_sunset(
        self,
    ) -> None:
        usual = ControlProgram("usual", (NIGHT,), (FixedTimeControl("22:00", 70),))
        friday = ControlProgram("friday", (NIGHT,), (FixedTimeControl("23:00", 50),))
        rules = policy(usual, friday, rules=[{"program": "friday", "weekdays": ["fri"]}], day_offset_h=0)
        assert level(rules, "2026-12-17 23:59") == 70  # a Thursday
        assert level(rules, "2026-12-18 00:00") == 50


class TestClockChange:
    """Calendars are civil: the hour that is skipped and the hour that comes twice."""

    PROGRAM = ControlProgram("steps", (AbsolutePeriod("12:00", "11:59"),), (FixedTimeControl("02:30", 50),))

    def test_a_time_that_spring_skips_falls_as_long_after_the_change(self) -> None:
        rules = policy(self.PROGRAM)
        assert level(rules, "2026-03-29 01:59") == 100
        assert level(rules, "2026-03-29 03:29:59") == 100
        assert level(rules, "2026-03-29 03:30") == 50

    def test_of_a_time_that_autumn_repeats_the_first_is_meant(self) -> None:
        rules = policy(self.PROGRAM)
        assert decide(rules, LAMP, None, at("2026-10-25 02:29")).level == 100
        assert decide(rules, LAMP, None, at("2026-10-25 02:30")).level == 50
        assert decide(rules, LAMP, None, at("2026-10-25 02:00", fold=1)).level == 50

    def test_a_night_across_the_change_is_one_night(self) -> None:
        for day, hours in ((date(2026, 3, 28), 9), (date(2026, 10, 24), 11)):
            begin, end = local_ms(day, "20:00", DIJON), local_ms(day + timedelta(days=1), "06:00", DIJON)
            assert (end - begin) / 3_600_000 == hours


PLACES = (
    DIJON,
    Place(69.65, 18.96, "Europe/Oslo"),
    Place(78.22, 15.65, "Arctic/Longyearbyen"),
    Place(90.0, 0.0, "UTC"),
    Place(-77.85, 166.67, "Antarctica/McMurdo"),
    Place(64.15, -21.94, "Atlantic/Reykjavik"),
    Place(1.87, -157.4, "Pacific/Kiritimati"),
    Place(37.74, -25.67, "Atlantic/Azores"),
    Place(23.11, -82.37, "America/Havana"),
    Place(-31.55, 159.08, "Australia/Lord_Howe"),
    Place(30.04, 31.24, "Africa/Cairo"),
)
LEVELS = st.integers(0, 100)
CLOCK = st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.sampled_from([0, 30, 59]))
OFFSETS = st.integers(-360, 360)
PERIODS = st.one_of(
    st.builds(AstroClockPeriod, OFFSETS, OFFSETS, LEVELS),
    st.builds(AbsolutePeriod, CLOCK, CLOCK, LEVELS),
)
PROGRAMS = st.builds(
    ControlProgram,
    st.just("p"),
    st.lists(PERIODS, min_size=1, max_size=3).map(tuple),
    st.lists(st.builds(FixedTimeControl, CLOCK, LEVELS), max_size=3, unique_by=lambda c: c.time).map(tuple),
    st.lists(
        st.builds(AstroClockControl, st.sampled_from(SolarEvent), OFFSETS, LEVELS),
        max_size=3,
        unique_by=lambda c: (c.event, c.offset_min),
    ).map(tuple),
)
RULES = st.lists(
    st.builds(CalendarRule, st.just("q"), weekdays=st.lists(st.sampled_from(Weekday), min_size=1).map(tuple)),
    max_size=1,
).map(tuple)
DAYS = (
    date(2026, 3, 29),
    date(2026, 10, 25),
    date(2026, 4, 24),
    date(2026, 10, 30),
    date(2026, 4, 5),
    date(2026, 11, 1),
    date(2028, 2, 29),
    date(2026, 12, 31),
    date(2026, 6, 21),
    date(2026, 5, 18),
    date(2026, 11, 27),
    date(2026, 9, 23),
)
MOMENTS = st.builds(
    lambda day, shift_s: (
        round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() + shift_s) * 1000
    ),
    st.sampled_from(DAYS),
    st.integers(-2 * 86_400, 2 * 86_400),
)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[LightingPolicy, int]:
    programs = tuple(msgspec.structs.replace(draw(PROGRAMS), id=name) for name in ("p", "q"))
    calendar = Calendar("always", "p", draw(RULES), draw(st.sampled_from([0, 12])))
    place = draw(st.sampled_from(PLACES))
    return (
        LightingPolicy(place, programs, (calendar,), (Assignment("always", devices=("lamp-01",)),)),
        draw(MOMENTS),
    )


@settings(max_examples=400, deadline=None)
@given(worlds(), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_a_decision_holds_until_the_moment_that_it_names_and_that_moment_comes(
    world: tuple[LightingPolicy, int], within: list[float]
) -> None:
    """Stepping from decision to decision is the same as asking at every moment."""
    rules, now_ms = world
    decision = decide(rules, LAMP, None, Instant(0, now_ms))
    span_ms = decision.valid_until_ms - now_ms
    assert 0 < span_ms <= DAY_MS
    for part in (*within, 1.0):
        later_ms = now_ms + min(int(part * span_ms), span_ms - 1)
        later = decide(rules, LAMP, None, Instant(0, later_ms))
        assert (later.level, later.because) == (decision.level, decision.because)


def test_a_year_in_dijon_burns_as_long_as_the_nights_are() -> None:
    rules = policy(ControlProgram("night", (NIGHT,)))
    now_ms, end_ms = at("2026-01-01 12:00").utc_ms, at("2027-01-01 12:00").utc_ms
    burnt_ms = 0
    while now_ms < end_ms:
        decision = decide(rules, LAMP, None, Instant(0, now_ms))
        until_ms = min(decision.valid_until_ms, end_ms)
        burnt_ms += (until_ms - now_ms) * (decision.level > 0)
        now_ms = until_ms
    assert burnt_ms / 3_600_000 == pytest.approx(4291.4, rel=0.001)


@pytest.mark.parametrize(
    ("place", "local", "expected"),
    [
        (Place(69.65, 18.96, "Europe/Oslo"), f"{WINTER} 11:45", 100),
        (Place(69.65, 18.96, "Europe/Oslo"), f"{WINTER} 12:00", 100),
        (Place(69.65, 18.96, "Europe/Oslo"), f"{SUMMER} 00:30", 0),
        (Place(90.0, 0.0, "UTC"), f"{WINTER} 12:00", 100),
        (Place(90.0, 0.0, "UTC"), f"{SUMMER} 00:00", 0),
        (Place(64.15, -21.94, "Atlantic/Reykjavik"), "2026-06-21 13:00", 0),
        (Place(64.15, -21.94, "Atlantic/Reykjavik"), "2026-06-22 01:30", 100),
    ],
)
def test_lamps_burn_through_a_polar_night_and_never_under_a_midnight_sun(
    place: Place, local: str, expected: int
) -> None:
    """Offsets around a sunset that does not happen must not open a gap at noon."""
    rules = policy(ControlProgram("night", (AstroClockPeriod(15, -15),)), place=place)
    assert decide(rules, LAMP, None, at(local, place.timezone)).level == expected
