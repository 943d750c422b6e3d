"""An LED lamp: what it draws, how it warms up, how long it has burned.

Light follows the gear's dimming curve; power follows light above the standby power of the gear. A cold LED
has a higher forward voltage, so it draws a few per cent more until it is warm.
"""

import math
from enum import IntEnum

import msgspec

WARM_UP_S = 20.0
COLD_EXCESS = 0.04  # share of the load's power that a cold lamp draws above a warm one
MAX_LEVEL = 254


class DimmingCurve(IntEnum):
    """How an arc power level becomes light (DALI 207: SELECT DIMMING CURVE)."""

    LOGARITHMIC = 0
    LINEAR = 1


def light_share(level: float, curve: DimmingCurve) -> float:
    """Return the share of full light, 0–1, at an arc power level 0–254 (intermediate levels while fading)."""
    if level <= 0:
        return 0.0
    if curve is DimmingCurve.LINEAR:
        return level / MAX_LEVEL
    return math.pow(10.0, (level - 1) * 3 / 253 - 1) / 100


class LampRating(msgspec.Struct, frozen=True):
    """What the plate says.

    Attributes:
        rated_w: mains power at full light, warm, W.
        standby_w: mains power of the gear with the light out, W.
    """

    rated_w: float = 50.0
    standby_w: float = 0.5


class LedLamp:
    """The physics of one lamp and its gear's supply, advanced in civil seconds.

    Attributes:
        energy_wh: taken from the mains since the start, Wh.
        burning_s: civil seconds with light.
    """

    def __init__(self, rating: LampRating) -> None:
        self.rating = rating
        self.energy_wh = 0.0
        self.burning_s = 0.0
        self._warmth = 0.0

    def power_w(self, light: float, *, fed: bool) -> float:
        """Return the mains power, W, at a share of light 0–1."""
        if not fed:
            return 0.0
        return self.rating.standby_w + self._load_w(light) * (1 + COLD_EXCESS * (1 - self._warmth))

    def advance(self, civil_s: float, light: float, *, fed: bool) -> None:
        """Let `civil_s` seconds pass at a constant share of light."""
        if civil_s <= 0:
            return
        goal = 1.0 if fed and light > 0 else 0.0
        decay = math.exp(-civil_s / WARM_UP_S)
        # ∫ (1 − warmth) dt, exactly, so that long steps lose nothing
        cold_s = (1 - goal) * civil_s + (goal - self._warmth) * WARM_UP_S * (1 - decay)
        if fed:
            load_ws = self._load_w(light) * (civil_s + COLD_EXCESS * cold_s)
            self.energy_wh += (self.rating.standby_w * civil_s + load_ws) / 3600
        if goal:
            self.burning_s += civil_s
        self._warmth = goal + (self._warmth - goal) * decay

    def _load_w(self, light: float) -> float:
        return (self.rating.rated_w - self.rating.standby_w) * light
