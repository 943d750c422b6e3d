"""How a gear moves from one arc power level to another: fade time, extended fade time, fade rate.

Source: IEC 62386-102 by way of the public tables; a fade runs linearly in levels, in real time.
"""

import msgspec

FADE_TIME_S = (0.0, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.7, 8.0, 11.3, 16.0, 22.6, 32.0, 45.3, 64.0, 90.5)
_EXTENDED_UNIT_S = (0.0, 0.1, 1.0, 10.0, 60.0)
UP_DOWN_S = 0.2  # UP and DOWN dim for 200 ms at the fade rate


def fade_s(fade_time: int, extended: int) -> float:
    """Return the seconds of a fade for the two settings; the extended one counts only if the first is 0."""
    if fade_time:
        return FADE_TIME_S[fade_time]
    unit = extended >> 4 & 0x07
    return _EXTENDED_UNIT_S[unit] * ((extended & 0x0F) + 1) if unit < len(_EXTENDED_UNIT_S) else 0.0


def fade_rate(code: int) -> float:
    """Return the levels per second of a fade rate code 1–15."""
    return float(506 / 2 ** (code / 2))


class Fade(msgspec.Struct, frozen=True):
    """One movement. Times are monotonic seconds, levels 0–254.

    Attributes:
        floor: where a fade to 0 ends before the light goes out.
    """

    from_level: int
    to_level: int
    floor: int
    start_s: float
    duration_s: float

    @property
    def end_s(self) -> float:
        """When the target is reached."""
        return self.start_s + self.duration_s

    def running(self, at_s: float) -> bool:
        """Tell whether the light is still moving."""
        return at_s < self.end_s

    def level(self, at_s: float) -> int:
        """Return the arc power level at a moment."""
        return round(self.exact_level(at_s))

    def exact_level(self, at_s: float) -> float:
        """Return the level between two steps, for the light and the power that go with it."""
        if not self.running(at_s):
            return self.to_level
        goal = self.to_level or self.floor
        return self.from_level + (goal - self.from_level) * (at_s - self.start_s) / self.duration_s
