"""When the sun sets and rises, with an answer for places where it does not."""

from datetime import date, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec
from astral import Observer
from astral.sun import elevation, noon, sunrise, sunset

HORIZON_DEGREES = -0.833
"""Centre of the sun at its visible setting: refraction and the sun's radius. Source: astral, NOAA."""


class SunTimes(msgspec.Struct, frozen=True):
    """One local day's sun.

    Attributes:
        sunrise_ms: UTC milliseconds; None where the sun does not rise or never set that day.
        sunset_ms: UTC milliseconds; None likewise.
        dark: whether, with either missing, the day is a polar night.
    """

    sunrise_ms: int | None
    sunset_ms: int | None
    dark: bool


@lru_cache(maxsize=64)
def sun_times(latitude: float, longitude: float, timezone: str, day: date) -> SunTimes:
    """Return sunrise and sunset of a local day.

    Args:
        latitude: degrees north.
        longitude: degrees east.
        timezone: IANA name; says which day is meant.
        day: the local day.
    """
    observer = Observer(latitude, longitude)
    zone = ZoneInfo(timezone)
    try:
        up, down = sunrise(observer, day, tzinfo=zone), sunset(observer, day, tzinfo=zone)
    except ValueError:  # astral's way of saying that the sun never reaches the horizon
        highest = elevation(observer, noon(observer, day, tzinfo=zone))
        return SunTimes(None, None, dark=highest < HORIZON_DEGREES)
    return SunTimes(_ms(up), _ms(down), dark=False)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
