"""Sunset and sunrise against the low-precision formulas of the Astronomical Almanac (page C5).

They are written down here from their published form and look at the sun's elevation itself, so that they share
neither series nor method with the product.
"""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from math import asin, atan2, cos, degrees, radians, sin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.rules.sun import HORIZON_DEGREES, SunTimes, sun_times

DAY_MS = 86_400_000
DIJON = (47.32, 5.04, "Europe/Paris")
REYKJAVIK = (64.15, -21.94, "Atlantic/Reykjavik")
TROMSO = (69.65, 18.96, "Europe/Oslo")
PLACES = (
    DIJON,
    REYKJAVIK,
    TROMSO,
    (78.22, 15.65, "Arctic/Longyearbyen"),
    (90.0, 0.0, "UTC"),
    (-77.85, 166.67, "Antarctica/McMurdo"),
    (0.0, 0.0, "UTC"),
    (1.87, -157.4, "Pacific/Kiritimati"),
    (-13.83, -171.76, "Pacific/Apia"),
    (64.84, -147.72, "America/Anchorage"),
    (39.47, 75.99, "Asia/Shanghai"),
    (-33.87, 151.21, "Australia/Sydney"),
)
DAYS = st.integers(0, 1500).map(lambda n: date(2025, 1, 1) + timedelta(days=n))


def elevation(utc_s: float, latitude: float, longitude: float) -> float:
    """Return the sun's true elevation in degrees, good to a hundredth of one."""
    days = utc_s / 86_400 + 2_440_587.5 - 2_451_545.0
    mean_longitude = radians((280.460 + 0.9856474 * days) % 360)
    anomaly = radians((357.528 + 0.9856003 * days) % 360)
    ecliptic = mean_longitude + radians(1.915 * sin(anomaly) + 0.020 * sin(2 * anomaly))
    obliquity = radians(23.439 - 0.0000004 * days)
    declination = asin(sin(obliquity) * sin(ecliptic))
    right_ascension = atan2(cos(obliquity) * sin(ecliptic), cos(ecliptic))
    sidereal = radians((280.46061837 + 360.98564736629 * days) % 360)
    hour_angle = sidereal + radians(longitude) - right_ascension
    return degrees(
        asin(
            sin(radians(latitude)) * sin(declination)
            + cos(radians(latitude)) * cos(declination) * cos(hour_angle)
        )
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("day", [date(2026, 1, 3) + timedelta(days=n) for n in range(0, 365, 13)])
def test_sunrise_and_sunset_are_when_the_sun_s_rim_is_at_the_horizon_within_two_minutes(
    place: tuple[float, float, str], day: date
) -> None:
    sun = sun_times(*place, day)
    for moment_ms, rising in ((sun.sunrise_ms, 1), (sun.sunset_ms, -1)):
        if moment_ms is not None and abs(place[0]) < 70:
            before, after = (
                elevation(moment_ms / 1000 + shift_s, *place[:2]) for shift_s in (-120 * rising, 120 * rising)
            )
            assert before < HORIZON_DEGREES < after


def test_a_year_in_dijon_has_as_many_hours_of_night_as_the_sun_s_own_course() -> None:
    """4,292 h by the Almanac's formulas; the published table says 4,232 h (1.4 % less) without its method."""
    days = [date(2026, 1, 1) + timedelta(days=n) for n in range(366)]
    suns = [sun_times(*DIJON, day) for day in days]
    hours = sum(
        (morning.sunrise_ms or 0) - (evening.sunset_ms or 0) for evening, morning in pairwise(suns)
    ) / (3600 * 1000)
    start_s = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    dark = sum(
        elevation(start_s + quarter * 900, *DIJON[:2]) < HORIZON_DEGREES for quarter in range(365 * 96)
    )
    assert hours == pytest.approx(dark / 4, rel=0.001)
    assert hours == pytest.approx(4232, rel=0.015)


def test_midsummer_s_sunset_after_midnight_belongs_to_the_evening_before() -> None:
    """Reykjavík, 21 June: the sun sets at 00:04 on the 22nd and rises at 02:55."""
    evening, morning = (sun_times(*REYKJAVIK, date(2026, 6, day)) for day in (21, 22))
    assert evening.sunset_ms is not None
    assert morning.sunrise_ms is not None
    assert datetime.fromtimestamp(evening.sunset_ms / 1000, UTC).date() == date(2026, 6, 22)
    assert morning.sunrise_ms - evening.sunset_ms == pytest.approx(2.85 * 3_600_000, rel=0.02)


@given(st.sampled_from(PLACES), DAYS)
def test_sunrise_noon_and_sunset_follow_each_other_wherever_the_zone_puts_the_day(
    place: tuple[float, float, str], day: date
) -> None:
    sun = sun_times(*place, day)
    before = sun.noon_ms if sun.sunrise_ms is None else sun.sunrise_ms
    after = sun.noon_ms if sun.sunset_ms is None else sun.sunset_ms
    assert before <= sun.noon_ms <= after
    assert after - before <= DAY_MS
    assert not (sun.dark and (sun.sunrise_ms or sun.sunset_ms))


@given(st.sampled_from(PLACES), DAYS)
def test_each_day_has_its_own_noon_and_no_two_nights_overlap(
    place: tuple[float, float, str], day: date
) -> None:
    today, tomorrow = sun_times(*place, day), sun_times(*place, day + timedelta(days=1))
    assert tomorrow.noon_ms - today.noon_ms == pytest.approx(DAY_MS, abs=120_000)
    if today.sunset_ms is not None and tomorrow.sunrise_ms is not None:
        assert tomorrow.sunrise_ms > today.sunset_ms - 60_000


@pytest.mark.parametrize(
    ("place", "day", "dark"),
    [
        (TROMSO, date(2026, 12, 21), True),
        (TROMSO, date(2026, 6, 21), False),
        ((78.22, 15.65, "Arctic/Longyearbyen"), date(2026, 1, 15), True),
        ((90.0, 0.0, "UTC"), date(2026, 12, 21), True),
        ((90.0, 0.0, "UTC"), date(2026, 6, 21), False),
        ((-90.0, 0.0, "UTC"), date(2026, 12, 21), False),
        ((-90.0, 0.0, "UTC"), date(2026, 6, 21), True),
    ],
)
def test_where_the_sun_neither_rises_nor_sets_it_is_said_whether_it_is_dark(
    place: tuple[float, float, str], day: date, dark: bool
) -> None:
    sun = sun_times(*place, day)
    assert (sun.sunrise_ms, sun.sunset_ms, sun.dark) == (None, None, dark)


def test_tromso_has_its_polar_night_and_its_midnight_sun_when_people_there_say() -> None:
    """About 27 November to 15 January, and 18 May to 26 July."""
    year = [(date(2026, 1, 1) + timedelta(days=n)) for n in range(365)]
    suns: dict[date, SunTimes] = {day: sun_times(*TROMSO, day) for day in year}
    dark = [day for day in year if suns[day].dark]
    light = [day for day, sun in suns.items() if sun.sunset_ms is None and not sun.dark]
    assert 45 <= len(dark) <= 52
    assert 66 <= len(light) <= 72
