"""What is really there for radio sensors to measure: pure functions of the bench's civil time, place and seed.

So a bench that starts anywhere and runs at any speed sees the same street, and what a sensor has said can be held
against what was true at that moment.
"""

import math
import random

import msgspec

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
_SLOT_MS = 20 * 60_000
_EMPTIED_AT_MS = 6 * HOUR_MS
_LITRES_A_DAY = 260


class Truth(msgspec.Struct, frozen=True):
    """A place on the street.

    Attributes:
        seed: of everything random there.
        civil_ms: UTC milliseconds of the bench.
        sun_deg: elevation of the sun.
    """

    seed: str
    civil_ms: int
    sun_deg: float

    def chance(self, what: str, slot_ms: int) -> float:
        """Return a number 0 to 1 that stays the same for a slot of time."""
        return random.Random(f"{self.seed}/{what}/{self.civil_ms // slot_ms}").random()

    def smooth(self, what: str, slot_ms: int) -> float:
        """Return a number 0 to 1 that wanders from slot to slot."""
        slot, within_ms = divmod(self.civil_ms, slot_ms)
        here, there = (random.Random(f"{self.seed}/{what}/{slot + step}").random() for step in (0, 1))
        return here + (there - here) * within_ms / slot_ms

    def hour(self) -> float:
        """Return the hour of the day, UTC, 0 to 24."""
        return self.civil_ms % DAY_MS / HOUR_MS

    def occupied(self) -> bool:
        """Tell whether a car stands here: by day more often than by night."""
        busy = 0.75 if 8 <= self.hour() <= 19 else 0.4
        return self.chance("parking", _SLOT_MS) < busy

    def filling(self) -> float:
        """Return how full the bin is, 0 to 1: it rises all day and is emptied in the morning."""
        since_ms = (self.civil_ms - _EMPTIED_AT_MS) % DAY_MS
        pace = 0.5 + 0.6 * random.Random(f"{self.seed}/{(self.civil_ms - _EMPTIED_AT_MS) // DAY_MS}").random()
        return min(1.0, pace * since_ms / DAY_MS)

    def temperature_c(self) -> float:
        """Return the air's temperature."""
        return 9 + 8 * math.sin(math.radians(max(-30.0, self.sun_deg))) + 4 * self.smooth("air", 6 * HOUR_MS)

    def humidity(self) -> float:
        """Return the relative humidity, percent."""
        return 85 - 25 * max(0.0, math.sin(math.radians(self.sun_deg))) - 20 * self.smooth("rh", 6 * HOUR_MS)

    def pressure_hpa(self) -> float:
        """Return the air's pressure at the place."""
        return 975 + 30 * self.smooth("pressure", DAY_MS)

    def irradiance(self) -> float:
        """Return the sun's power on the ground, W/m²."""
        return (
            950 * max(0.0, math.sin(math.radians(self.sun_deg))) * (0.4 + 0.6 * self.smooth("sky", HOUR_MS))
        )

    def wind_m_s(self) -> float:
        """Return the wind's speed."""
        return 12 * self.smooth("wind", HOUR_MS) ** 2

    def wind_deg(self) -> float:
        """Return where the wind comes from."""
        return 359 * self.smooth("direction", 6 * HOUR_MS)

    def rain_mm(self) -> float:
        """Return the rain since midnight: one shower a day, or none."""
        begin = 24 * random.Random(f"{self.seed}/rain/{self.civil_ms // DAY_MS}").random()
        return 4.5 * min(1.0, max(0.0, self.hour() - begin))

    def dust(self) -> float:
        """Return the fine dust PM10, µg/m³; morning and evening traffic raise it."""
        rush = math.exp(-((self.hour() - 8) ** 2) / 4) + math.exp(-((self.hour() - 18) ** 2) / 4)
        return 8 + 14 * rush + 10 * self.smooth("dust", 2 * HOUR_MS)

    def noise_db(self) -> float:
        """Return the sound level, dB(A)."""
        day = 15 if 6 <= self.hour() <= 22 else 0
        return 44 + day + 12 * self.smooth("noise", 10 * 60_000)

    def litres(self, ago_h: int = 0) -> int:
        """Return what a water meter had counted when the hour began, now or some hours ago."""
        hours = self.civil_ms // HOUR_MS - ago_h
        days, rest = divmod(hours, 24)
        return days * _LITRES_A_DAY + sum(self._litres_within(24 * days + hour) for hour in range(rest))

    def _litres_within(self, hour: int) -> int:
        """Return what runs within one hour, so little that a day's sum stays below the day's fixed amount."""
        return random.Random(f"{self.seed}/water/{hour}").randrange(_LITRES_A_DAY // 24)
