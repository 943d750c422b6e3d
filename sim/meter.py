"""An energy meter with the SDM630's register map: input registers (FC 04), float32, high word first.

It stands before the contactor: it measures what the street's lamps draw and a base load. Energy runs in civil
time, as the lamps' own. Registers between the known ones read zero, as in the real meter; beyond the map the
answer is exception 2, and more than 60 registers at once exception 3.
"""

import math
import struct
from collections.abc import Callable, Sequence

import msgspec

from sim.gear import ControlGear
from sim.registers import Block, RegisterDevice, Span, Table
from sim.schedule import CivilTime

REGISTERS = 0x015A
MAX_REGISTERS = 60
PHASES = 3
_POWER_FACTOR = 0.95
_VOLTAGE_SPREAD_V = (0.0, -0.7, 0.9)
_VOLTAGE_DROP_OHM = 0.15  # of the feeding cable: a loaded phase sags
_FREQUENCY_HZ = 50.0


class Feed(msgspec.Struct, frozen=True):
    """What flows through the meter now.

    Attributes:
        phase_w: active power of L1, L2, L3, W.
        energy_kwh: imported since the meter was new, kWh.
    """

    phase_w: tuple[float, float, float]
    energy_kwh: float


class StreetFeed:
    """What the street draws: its lamps, spread over the phases in turn, and a base load on phase 1.

    Args:
        lamps: everything that is fed through the meter.
        base_load_w: W.
        start_kwh: what the meter had counted before.
        civil_s: civil seconds at a real moment, from any origin.
        at_s: now.
    """

    def __init__(
        self,
        lamps: Sequence[ControlGear],
        *,
        base_load_w: float,
        start_kwh: float,
        civil_s: CivilTime,
        at_s: float,
    ) -> None:
        self._lamps = lamps
        self._base_load_w = base_load_w
        self._start_kwh = start_kwh
        self._civil_s = civil_s
        self._base_wh = 0.0
        self._settled_s = at_s
        self._mains = True

    def set_mains(self, present: bool, at_s: float) -> None:
        """Note that the grid came or went."""
        self._settle(at_s)
        self._mains = present

    def measure(self, at_s: float) -> Feed:
        """Return what flows now and what has flowed."""
        self._settle(at_s)
        phases = [0.0] * PHASES
        phases[0] = self._base_load_w if self._mains else 0.0
        for index, gear in enumerate(self._lamps):
            phases[index % PHASES] += gear.power_w(at_s)
        lamps_wh = sum(gear.lamp.energy_wh for gear in self._lamps)
        energy_kwh = self._start_kwh + (self._base_wh + lamps_wh) / 1000
        return Feed((phases[0], phases[1], phases[2]), energy_kwh)

    def _settle(self, at_s: float) -> None:
        if self._mains:
            civil_s = self._civil_s(at_s) - self._civil_s(self._settled_s)
            self._base_wh += self._base_load_w * civil_s / 3600
        self._settled_s = at_s


class Meter:
    """Computes the whole map from what flows when it is read.

    Args:
        measure: tells what flows.
        nominal_v: phase voltage without load, V.
    """

    def __init__(self, measure: Callable[[], Feed], nominal_v: float = 230.0) -> None:
        self._measure = measure
        self._nominal_v = nominal_v
        self.device = RegisterDevice(
            {Table.INPUT_REGISTERS: Block(Span(0, REGISTERS), self._read, max_quantity=MAX_REGISTERS)}
        )

    def values(self) -> dict[int, float]:
        """Return every known quantity by the address of its first register."""
        feed = self._measure()
        phases = [self._phase(index, power_w) for index, power_w in enumerate(feed.phase_w)]
        columns = zip(*phases, strict=True)
        by_phase = dict(zip((0x00, 0x06, 0x0C, 0x12, 0x18, 0x1E), columns, strict=True))
        spread = {
            first + 2 * index: value for first, row in by_phase.items() for index, value in enumerate(row)
        }
        return spread | _totals(by_phase, feed.energy_kwh)

    def _phase(self, index: int, power_w: float) -> tuple[float, float, float, float, float, float]:
        """Return voltage, current, W, VA, var and power factor of a phase."""
        apparent_va = power_w / _POWER_FACTOR
        open_v = self._nominal_v + _VOLTAGE_SPREAD_V[index]
        voltage = open_v - _VOLTAGE_DROP_OHM * apparent_va / open_v
        reactive_var = apparent_va * math.sqrt(1 - _POWER_FACTOR**2)
        return voltage, apparent_va / voltage, power_w, apparent_va, reactive_var, _POWER_FACTOR

    def _read(self, span: Span) -> Sequence[int]:
        words = [0] * REGISTERS
        for address, value in self.values().items():
            words[address : address + 2] = struct.unpack(">HH", struct.pack(">f", value))
        return words[span.first : span.first + span.quantity]


def _totals(by_phase: dict[int, tuple[float, ...]], energy_kwh: float) -> dict[int, float]:
    voltage, current, power_w, apparent_va, reactive_var, _ = (by_phase[first] for first in sorted(by_phase))
    return {
        0x2A: sum(voltage) / PHASES,
        0x2E: sum(current) / PHASES,
        0x30: sum(current),
        0x34: sum(power_w),
        0x38: sum(apparent_va),
        0x3C: sum(reactive_var),
        0x3E: _POWER_FACTOR,
        0x46: _FREQUENCY_HZ,
        0x48: energy_kwh,
        0x4A: 0.0,
        0x156: energy_kwh,
    }
