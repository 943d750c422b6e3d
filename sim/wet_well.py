"""The wet well of a waste-water pumping station: what flows in, two pumps, and the controls that run them.

Pure: civil seconds go in, levels come out; everything random is drawn from a seeded generator.
"""

import math
import random
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import msgspec

AREA_M2: Final = 12.0
DEPTH_M: Final = 4.0
"""Above this it runs over; the level rises no further."""
PUMPS: Final = 2
CAPACITY_M3_H: Final = 90.0
"""Of one pump at full speed."""
RATED_KW: Final = 7.5
MEAN_INFLOW_M3_H: Final = 55.0
RAIN_FACTOR: Final = 6.0
"""What a cloudburst makes of the inflow: more than both pumps can lift."""
STOP_BELOW_M: Final = 0.8
SECOND_ABOVE_M: Final = 0.5
ALARM_ABOVE_M: Final = 1.0
"""From the set point: where pumps stop, where the second one helps, where the high level alarm comes."""
SETPOINT_M: Final = 2.0
STEP_S: Final = 5.0
MAX_STEPS: Final = 500
"""Steps in one go, however fast civil time runs."""

_DAY: Final = (0.5, 0.4, 0.35, 0.35, 0.4, 0.7, 1.3, 1.7, 1.6, 1.3, 1.1, 1.1)
_EVENING: Final = (1.2, 1.1, 0.95, 0.9, 0.95, 1.1, 1.3, 1.45, 1.4, 1.2, 0.9, 0.7)
_PROFILE: Final = (*_DAY, *_EVENING)
"""Domestic waste water by the hour, as a share of the daily mean: a morning peak and a longer evening one."""


class Mode(IntEnum):
    """Who runs the pumps."""

    OFF = 0
    AUTOMATIC = 1
    HAND = 2


class Pump:
    """One pump.

    Attributes:
        running: whether it lifts.
        tripped: whether its motor protection has gone: it does not start.
        starts: how often it was started.
    """

    def __init__(self) -> None:
        self.running = False
        self.tripped = False
        self.starts = 0

    def set(self, *, running: bool) -> None:
        """Start or stop it; a tripped one stays still."""
        wanted = running and not self.tripped
        self.starts += wanted and not self.running
        self.running = wanted


class WellState(msgspec.Struct, frozen=True):
    """What there is to be seen at a station. Flows in m³/h, speeds in %, temperature in °C."""

    level_m: float
    inflow_m3_h: float
    outflow_m3_h: float
    temperature_c: float
    energy_kwh: float
    mode: int
    setpoint_m: float
    high_level: bool
    pump_failure: bool
    running: tuple[bool, ...]
    speed_percent: tuple[float, ...]
    fault: tuple[bool, ...]
    starts: tuple[int, ...]


class WetWell:
    """Fills by the hour of the day and is emptied by two pumps that take turns.

    Args:
        rng: seeded source of the inflow's noise.
        hour: civil hour of the day at the start, 0–24.

    Attributes:
        raining: whether far more flows in than usual.
        temperature_c: of the water.
        setpoint_m: at which level the first pump starts.
        mode: who runs the pumps.
    """

    def __init__(self, rng: random.Random, hour: float) -> None:
        self.level_m = 1.4
        self.raining = False
        self.temperature_c = 14.0
        self.setpoint_m = SETPOINT_M
        self.mode = Mode.AUTOMATIC
        self.pumps: Sequence[Pump] = tuple(Pump() for _ in range(PUMPS))
        self.energy_kwh = 0.0
        self._rng = rng
        self._hour = hour
        self._noise = 0.0
        self._lead = 0
        self._inflow = self._inflow_now()

    def advance(self, civil_s: float) -> None:
        """Let so many civil seconds pass."""
        steps = min(MAX_STEPS, math.ceil(civil_s / STEP_S))
        for _ in range(steps):
            self._step(civil_s / steps)

    def set_mode(self, mode: Mode) -> None:
        """Hand the pumps over to somebody else; off stops them."""
        self.mode = mode
        if mode is Mode.OFF:
            for pump in self.pumps:
                pump.set(running=False)

    def trip(self, number: int, *, tripped: bool) -> None:
        """Let a pump's motor protection go, or reset it."""
        pump = self.pumps[number]
        pump.tripped = tripped
        pump.set(running=pump.running)

    def state(self) -> WellState:
        """Return what there is to be seen."""
        return WellState(
            level_m=round(self.level_m, 3),
            inflow_m3_h=round(self._inflow, 1),
            outflow_m3_h=round(self._outflow(), 1),
            temperature_c=self.temperature_c,
            energy_kwh=round(self.energy_kwh, 3),
            mode=int(self.mode),
            setpoint_m=self.setpoint_m,
            high_level=self.level_m > self.setpoint_m + ALARM_ABOVE_M,
            pump_failure=any(pump.tripped for pump in self.pumps),
            running=tuple(pump.running for pump in self.pumps),
            speed_percent=tuple(self._speed(pump) for pump in self.pumps),
            fault=tuple(pump.tripped for pump in self.pumps),
            starts=tuple(pump.starts for pump in self.pumps),
        )

    def _step(self, seconds: float) -> None:
        self._hour = (self._hour + seconds / 3600) % 24
        self._noise += (self._rng.gauss(0.0, 0.05) - 0.02 * self._noise) * math.sqrt(seconds / STEP_S)
        self._inflow = self._inflow_now()
        net_m3 = (self._inflow - self._outflow()) * seconds / 3600
        self.level_m = min(DEPTH_M, max(0.0, self.level_m + net_m3 / AREA_M2))
        load = sum((self._speed(pump) / 100) ** 3 for pump in self.pumps)
        self.energy_kwh += load * RATED_KW * seconds / 3600
        if self.mode is Mode.AUTOMATIC:
            self._control()

    def _inflow_now(self) -> float:
        share, hour = self._hour % 1, int(self._hour) % 24
        profile = _PROFILE[hour] * (1 - share) + _PROFILE[(hour + 1) % 24] * share
        usual = MEAN_INFLOW_M3_H * profile * (1 + max(-0.5, min(0.5, self._noise)))
        return usual * RAIN_FACTOR if self.raining else usual

    def _control(self) -> None:
        """Start at the set point, stop well below it; the pump that has waited longer goes first."""
        if self.level_m < self.setpoint_m - STOP_BELOW_M:
            if any(pump.running for pump in self.pumps):
                self._lead = (self._lead + 1) % PUMPS
            wanted = 0
        elif self.level_m > self.setpoint_m + SECOND_ABOVE_M:
            wanted = 2
        elif self.level_m > self.setpoint_m:
            wanted = max(1, sum(pump.running for pump in self.pumps))
        else:
            wanted = sum(pump.running for pump in self.pumps)
        order = [self.pumps[(self._lead + turn) % PUMPS] for turn in range(PUMPS)]
        sound = [pump for pump in order if not pump.tripped]
        for turn, pump in enumerate(sound):
            pump.set(running=turn < wanted)

    def _outflow(self) -> float:
        return 0.0 if self.level_m <= 0 else sum(CAPACITY_M3_H * self._speed(p) / 100 for p in self.pumps)

    def _speed(self, pump: Pump) -> float:
        return 90.0 if pump.running else 0.0
