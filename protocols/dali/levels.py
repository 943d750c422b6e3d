"""Arc power levels and per cent, fade times and their codes (IEC 62386-102; 207 for the linear curve).

An arc power level is 0 (off), 1 to 254, or 255, MASK: "no change" as a command, "not known" as an answer.
"""

import math
from bisect import bisect_left
from enum import IntEnum

from protocols.errors import LocalProtocolError, RemoteProtocolError

OFF = 0
MIN_LEVEL = 1
MAX_LEVEL = 254
MASK = 255

FADE_TIMES_S = (0.0, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.7, 8.0, 11.3, 16.0, 22.6, 32.0, 45.3, 64.0, 90.5)
"""Seconds by fade time code 0–15 (IEC 62386-102, SET FADE TIME): √2 ** code / 2, and 0 for none."""
_PERCENT_DIGITS = 3  # the finest step of the curve, from level 1 to 2, is 0.0028 %


class DimmingCurve(IntEnum):
    """How a level becomes light; the numbers are those of SELECT DIMMING CURVE (IEC 62386-207)."""

    LOGARITHMIC = 0
    LINEAR = 1


def percent_of(level: int, curve: DimmingCurve = DimmingCurve.LOGARITHMIC) -> float:
    """Return the light, 0–100 %, of an arc power level 0–254.

    The logarithmic curve is 10 ** ((level − 1) · 3 / 253 − 1) per cent: 1 is 0.1 %, 254 is 100 %.

    Raises:
        RemoteProtocolError: if it is no level; MASK is none.
    """
    if not OFF <= level <= MAX_LEVEL:
        raise RemoteProtocolError(f"{level} is no arc power level; those are 0 to 254")
    if curve is DimmingCurve.LINEAR:
        return round(level * 100 / MAX_LEVEL, _PERCENT_DIGITS)
    return _LOGARITHMIC[level]


_LOGARITHMIC = (
    0.0,
    *(round(10 ** ((level - 1) * 3 / 253 - 1), _PERCENT_DIGITS) for level in range(MIN_LEVEL, MAX_LEVEL + 1)),
)


def level_of(percent: float, curve: DimmingCurve = DimmingCurve.LOGARITHMIC) -> int:
    """Return the arc power level whose light is nearest to `percent`; only 0 % is off.

    Raises:
        LocalProtocolError: if `percent` is not within 0–100.
    """
    if not 0 <= percent <= 100:
        raise LocalProtocolError(f"a light level is 0 to 100 %, not {percent!r}")
    if percent == 0:
        return OFF
    if curve is DimmingCurve.LINEAR:
        return max(MIN_LEVEL, round(percent * MAX_LEVEL / 100))
    return max(MIN_LEVEL, round(1 + (math.log10(percent) + 1) * 253 / 3))


def fade_code(ramp_s: float) -> int:
    """Return the fade time code, 0–15, whose time is nearest to `ramp_s`.

    Raises:
        LocalProtocolError: if `ramp_s` is negative or longer than the longest fade, 90.5 s.
    """
    if not 0 <= ramp_s <= FADE_TIMES_S[-1]:
        raise LocalProtocolError(f"a ramp takes 0 to {FADE_TIMES_S[-1]:g} s, not {ramp_s!r}")
    above = bisect_left(FADE_TIMES_S, ramp_s)
    below = max(0, above - 1)
    return above if FADE_TIMES_S[above] - ramp_s <= ramp_s - FADE_TIMES_S[below] else below
