"""Daylight and the sensor that measures it.

The sun's elevation comes from astral for the bench's place and civil time. Illuminance on the ground under a
clear sky is read off a curve, straight lines in log₁₀ lux over elevation, through the usual values of natural
illumination (after Brown, "Natural Illumination Charts", 1952, rounded): high sun 100 klx and more, sun at
the horizon about 450 lx, end of civil twilight 3.4 lx, nautical 8 mlx, and a night floor of 0.05 lx,
moonlight with what a town sheds. `sky` dims the day as clouds do.

Modbus map of the sensor: input registers 0–1, uint32, high word first, illuminance in 0.1 lx.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from astral import Observer
from astral.sun import elevation

from sim.faults import Board, FaultSettings, LuxFault
from sim.registers import Block, RegisterDevice, Span, Table

NIGHT_LX = 0.05
SKY = "sky"
"""The name of a sensor's only switch."""
_CURVE = (  # elevation of the sun, degrees; illuminance, lux
    (-18.0, 0.0006),
    (-12.0, 0.008),
    (-6.0, 3.4),
    (-5.0, 10.8),
    (-0.83, 450.0),
    (5.0, 4_700.0),
    (10.0, 11_000.0),
    (20.0, 31_000.0),
    (30.0, 51_000.0),
    (45.0, 82_000.0),
    (60.0, 105_000.0),
    (90.0, 124_000.0),
)
_DRIFT = 0.5
_TENTHS = 10


def sun_elevation_deg(latitude: float, longitude: float, utc_ms: int) -> float:
    """Return the geometric elevation of the sun's centre, without refraction, degrees.

    Args:
        latitude: degrees north.
        longitude: degrees east.
        utc_ms: milliseconds since 1970-01-01T00:00Z.
    """
    moment = datetime.fromtimestamp(utc_ms / 1000, tz=UTC)
    return float(elevation(Observer(latitude, longitude), moment, with_refraction=False))


def illuminance_lx(elevation_deg: float) -> float:
    """Return the horizontal illuminance under a clear sky, lux."""
    if elevation_deg <= _CURVE[0][0]:
        return NIGHT_LX
    index = min(bisect_right(_CURVE, (elevation_deg, math.inf)), len(_CURVE) - 1)
    (low_deg, low_lx), (high_deg, high_lx) = _CURVE[index - 1], _CURVE[index]
    share = (elevation_deg - low_deg) / (high_deg - low_deg)
    exponent = math.log10(low_lx) + share * (math.log10(high_lx) - math.log10(low_lx))
    return max(NIGHT_LX, math.pow(10.0, exponent))


class LuxSensor:
    """A daylight sensor on a mast.

    Args:
        elevation_deg: tells where the sun stands now.

    Attributes:
        sky: share of a clear sky's light that arrives, 0–1.
    """

    def __init__(self, elevation_deg: Callable[[], float]) -> None:
        self.board = Board(LuxFault)
        self.sky = 1.0
        self._elevation_deg = elevation_deg
        self._stuck_lx = 0.0
        self.device = RegisterDevice({Table.INPUT_REGISTERS: Block(Span(0, 2), self._read)})

    def daylight_lx(self) -> float:
        """Return what is there to be measured."""
        return max(NIGHT_LX, self.sky * illuminance_lx(self._elevation_deg()))

    def reading_lx(self) -> float:
        """Return what the sensor says."""
        if LuxFault.STUCK in self.board:
            return self._stuck_lx
        if LuxFault.DRIFT in self.board:
            factor = self.board.settings(LuxFault.DRIFT).factor
            return self.daylight_lx() * (_DRIFT if factor is None else factor)
        return self.daylight_lx()

    def set_fault(self, fault: LuxFault, settings: FaultSettings) -> None:
        """Let a fault begin; a stuck sensor keeps what it says now."""
        if fault is LuxFault.STUCK:
            self._stuck_lx = self.reading_lx()
        self.board.set(fault, settings)

    def _read(self, span: Span) -> Sequence[int]:
        tenths = round(self.reading_lx() * _TENTHS)
        return (tenths >> 16, tenths & 0xFFFF)[span.first : span.first + span.quantity]
