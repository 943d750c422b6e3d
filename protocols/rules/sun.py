"""When the sun sets and rises, with an answer for places where it does not.

A night belongs to the noon before it, not to a date: in Reykjavík the midsummer sun sets after midnight, and a
"sunset of the 21st" would be the one that ends the day of the 20th. So a local day here is the solar day whose
noon is nearest to the day's civil noon; its sunrise lies before that noon and its sunset after it.
"""

from datetime import UTC, date, datetime, time
from functools import lru_cache
from math import acos, cos, degrees, radians, sin
from zoneinfo import ZoneInfo

import msgspec
from astral.julian import julianday, julianday_to_juliancentury
from astral.sun import eq_of_time, sun_declination

HORIZON_DEGREES = -0.833
"""Centre of the sun at its visible setting: refraction and the sun's radius. Source: NOAA."""
MAX_LATITUDE_DEGREES = 89.8
"""Nearer to a pole the hour angle loses its meaning; astral draws the line there too."""

_MINUTE_MS = 60_000
_DAY_MINUTES = 1440
_REFINEMENTS = 3
"""Declination and equation of time are taken at the event itself; three rounds settle them to a second."""


class SunTimes(msgspec.Struct, frozen=True):
    """One local day's sun.

    Attributes:
        sunrise_ms: UTC milliseconds, before the day's noon; None where the sun does not rise or never set.
        sunset_ms: UTC milliseconds, after the day's noon; None likewise.
        dark: whether the sun stays below the horizon even at noon: a polar night.
        noon_ms: UTC milliseconds at which the sun is highest.
    """

    sunrise_ms: int | None
    sunset_ms: int | None
    dark: bool
    noon_ms: int


@lru_cache(maxsize=1024)
def sun_times(latitude: float, longitude: float, timezone: str, day: date) -> SunTimes:
    """Return sunrise and sunset of a local day, to within a minute at temperate latitudes.

    Args:
        latitude: degrees north.
        longitude: degrees east.
        timezone: IANA name; says which day is meant.
        day: the local day.
    """
    civil_noon = datetime.combine(day, time(12), ZoneInfo(timezone)).timestamp() / 60
    mean_noon_of_label = _DAY_MINUTES / 2 - 4 * longitude  # minutes of UTC after 0 h of a date
    label = round((civil_noon - mean_noon_of_label) / _DAY_MINUTES)
    epoch_noon = label * _DAY_MINUTES + mean_noon_of_label
    bounded = max(-MAX_LATITUDE_DEGREES, min(MAX_LATITUDE_DEGREES, latitude))
    noon = epoch_noon - _sun_at(epoch_noon)[1]
    return SunTimes(
        sunrise_ms=_crossing_ms(epoch_noon, bounded, -1),
        sunset_ms=_crossing_ms(epoch_noon, bounded, +1),
        dark=90 - abs(bounded - degrees(_sun_at(noon)[0])) < HORIZON_DEGREES,
        noon_ms=round(noon * _MINUTE_MS),
    )


def _crossing_ms(mean_noon: float, latitude: float, side: int) -> int | None:
    """Return when the sun crosses the horizon, before (-1) or after (+1) a noon in minutes since 1970."""
    moment = mean_noon
    for _ in range(_REFINEMENTS):
        declination, equation = _sun_at(moment)
        height = sin(radians(HORIZON_DEGREES)) - sin(radians(latitude)) * sin(declination)
        cosine = height / (cos(radians(latitude)) * cos(declination))
        if not -1 <= cosine <= 1:
            return None
        moment = mean_noon - equation + side * 4 * degrees(acos(cosine))
    return round(moment * _MINUTE_MS)


def _sun_at(minutes: float) -> tuple[float, float]:
    """Return the sun's declination, radians, and the equation of time, minutes, at minutes since 1970."""
    days, rest = divmod(minutes, _DAY_MINUTES)
    midnight = datetime.fromtimestamp(days * _DAY_MINUTES * 60, UTC).date()
    century = julianday_to_juliancentury(julianday(midnight) + rest / _DAY_MINUTES)
    return radians(sun_declination(century)), eq_of_time(century)
