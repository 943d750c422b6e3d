"""A control gear and its lamp: supply, arc power level, fades, stored settings.

What it hears and answers on the line is `sim.gear_dialogue`; this module is what it is. Everything is
computed when somebody looks: no timer runs while nothing is asked. Moments are monotonic seconds of the
schedule; fades run in real time, energy and burning hours in civil time.
"""

import msgspec

from sim.banks import Bank, EnergyBank, Identity, IdentityBank
from sim.fade import Fade, fade_s
from sim.faults import Board, FaultSettings, LampFault
from sim.lamp import DimmingCurve, LampRating, LedLamp, light_share
from sim.schedule import CivilTime

MASK = 255
POWER_ON_DELAY_S = 0.6  # a gear waits for a command before it takes its power-on level
BUS_LOSS_S = 0.55  # bus power lost for so long: system failure level
_FADE_SLICES = 16  # how finely energy is integrated while the light moves


class GearDesign(msgspec.Struct, frozen=True):
    """What all gear of a line have in common.

    Attributes:
        rating: of lamp and gear.
        physical_minimum: lowest arc power level that the gear can hold, 1–254; 85 is 1 % of light.
        device_types: DALI device types; 6 is LED, 51 part 252 (energy), 52 part 253 (diagnostics).
    """

    rating: LampRating = LampRating()
    physical_minimum: int = 85
    device_types: tuple[int, ...] = (6, 51)


class GearSettings(msgspec.Struct):
    """What a gear remembers without power (IEC 62386-102, NVM). Levels 0–254, 255 = MASK."""

    short_address: int | None
    min_level: int
    max_level: int = 254
    power_on_level: int = 254
    failure_level: int = 254
    fade_time: int = 0
    fade_rate: int = 7
    extended_fade: int = 0
    groups: int = 0
    scenes: list[int] = msgspec.field(default_factory=lambda: [MASK] * 16)
    curve: DimmingCurve = DimmingCurve.LOGARITHMIC

    @property
    def fade_s(self) -> float:
        """Seconds of a fade to a level."""
        return fade_s(self.fade_time, self.extended_fade)


class GearState(msgspec.Struct, frozen=True):
    """What the bench tells of one gear.

    Attributes:
        level: arc power level now, 0–254.
        target: where the level is going.
        level_changes: level commands that changed the target.
        answers: backward frames sent whole, by opcode of the query (hex).
    """

    address: int | None
    level: int
    target: int
    power_w: float
    powered: bool
    light: float
    faults: list[str]
    burning_s: float
    energy_wh: float
    level_changes: int
    answers: dict[str, int]


class ControlGear:
    """One gear with one lamp.

    Args:
        address: short address, 0–63.
        design: what all gear of the line have in common.
        identity: of bank 0.
        level: arc power level at the start.
        civil_s: civil seconds at a real moment, from any origin: what energy and hours are counted in.
        at_s: now.
    """

    def __init__(
        self,
        address: int,
        *,
        design: GearDesign,
        identity: Identity,
        level: int,
        civil_s: CivilTime,
        at_s: float,
    ) -> None:
        self.design = design
        self.board = Board(LampFault)
        self.settings = GearSettings(short_address=address, min_level=design.physical_minimum)
        self.lamp = LedLamp(design.rating)
        self.powered = True
        self.power_cycle_seen = False
        self.limit_error = False
        self.last_active_level = level or self.settings.max_level
        self.level_changes = 0
        self.answers: dict[int, int] = {}
        self.banks: dict[int, Bank] = {
            0: IdentityBank(identity, last_bank=202),
            202: EnergyBank(lambda: (self.lamp.energy_wh, self.power_w(self._settled_s))),
        }
        self._civil_s = civil_s
        self._settled_s = at_s
        self._movement = Fade(level, level, self.settings.min_level, at_s, 0.0)
        self._pending: dict[str, tuple[float, int]] = {}
        self._bus_voltage = True

    @property
    def lamp_failed(self) -> bool:
        """Whether the lamp's circuit is open."""
        return LampFault.LAMP_FAILURE in self.board

    @property
    def target(self) -> int:
        """Where the level is, or is going."""
        return self._movement.to_level

    def level(self, at_s: float) -> int:
        """Return the arc power level, 0–254."""
        self.catch_up(at_s)
        return self._movement.level(at_s)

    def fading(self, at_s: float) -> bool:
        """Tell whether a fade runs."""
        self.catch_up(at_s)
        return self._movement.running(at_s)

    def lamp_on(self, at_s: float) -> bool:
        """Tell whether there is light."""
        return self.powered and not self.lamp_failed and self.level(at_s) > 0

    def power_w(self, at_s: float) -> float:
        """Return what is drawn from the mains, W."""
        self.catch_up(at_s)
        return self.lamp.power_w(self._light(at_s), fed=self.powered)

    def request(self, level: int, at_s: float, duration_s: float) -> None:
        """Obey a level command: clamp to the limits, count, move.

        Args:
            level: 0–254 asked for; 255 (MASK) stops a fade where it is.
            at_s: now.
            duration_s: seconds of the fade, 0 = at once.
        """
        if level == MASK:
            self.go_to(self.level(at_s), at_s, 0.0)
            return
        within = min(max(level, self.settings.min_level), self.settings.max_level) if level else 0
        self.limit_error = within != level
        self.go_to(within, at_s, duration_s)

    def go_to(self, level: int, at_s: float, duration_s: float) -> None:
        """Move to a level that is known to be within the limits."""
        self.catch_up(at_s)
        self._pending.clear()
        self.power_cycle_seen = False
        self.level_changes += level != self.target
        self._move(level, at_s, duration_s)

    def set_powered(self, powered: bool, at_s: float) -> None:
        """Give or take the mains.

        Gone, the gear forgets its level; back, it waits for a command and then takes its power-on level.
        """
        if powered == self.powered:
            return
        self.catch_up(at_s)
        self._move(0, at_s, 0.0)
        self._pending.clear()
        self.powered = powered
        if powered:
            self.power_cycle_seen = True
            self._plan(
                "power_on", at_s + POWER_ON_DELAY_S, self.settings.power_on_level, self.last_active_level
            )
            if not self._bus_voltage:
                self._plan_failure(at_s + POWER_ON_DELAY_S)

    def set_bus_voltage(self, present: bool, at_s: float) -> None:
        """Note that the line's voltage came or went; gone for 550 ms means the system failure level."""
        if present == self._bus_voltage:
            return
        self.catch_up(at_s)
        self._bus_voltage = present
        if present:
            self._pending.pop("failure", None)
        elif self.powered:
            self._plan_failure(at_s)

    def set_fault(self, fault: LampFault, settings: FaultSettings, at_s: float) -> None:
        """Let a fault begin; until now the lamp burned as it did."""
        self.catch_up(at_s)
        self.board.set(fault, settings)

    def clear_fault(self, fault: LampFault, at_s: float) -> None:
        """Let a fault end."""
        self.catch_up(at_s)
        self.board.clear(fault)

    def reset(self, at_s: float) -> None:
        """Return to factory settings; the short address stays."""
        self.settings = GearSettings(self.settings.short_address, self.design.physical_minimum)
        self.limit_error = False
        self.go_to(254, at_s, 0.0)

    def in_reset_state(self) -> bool:
        """Tell whether every stored setting has its factory value."""
        return self.settings == GearSettings(self.settings.short_address, self.design.physical_minimum)

    def catch_up(self, at_s: float) -> None:
        """Let everything happen that was due until now, and settle energy and burning time."""
        while self._pending:
            cause = min(self._pending, key=lambda name: self._pending[name])
            when_s, level = self._pending[cause]
            if when_s > at_s:
                break
            del self._pending[cause]
            self._settle(when_s)
            self._move(level, when_s, 0.0)
        self._settle(at_s)

    def state(self, at_s: float) -> GearState:
        """Return what the bench tells of this gear."""
        level = self.level(at_s)
        return GearState(
            address=self.settings.short_address,
            level=level,
            target=self.target,
            power_w=round(self.power_w(at_s), 3),
            powered=self.powered,
            light=round(self._light(at_s), 5),
            faults=self.board.names(),
            burning_s=round(self.lamp.burning_s, 3),
            energy_wh=round(self.lamp.energy_wh, 4),
            level_changes=self.level_changes,
            answers={f"{opcode:02X}": count for opcode, count in sorted(self.answers.items())},
        )

    def _plan_failure(self, at_s: float) -> None:
        self._plan("failure", at_s + BUS_LOSS_S, self.settings.failure_level, self.target)

    def _plan(self, cause: str, when_s: float, level: int, if_mask: int) -> None:
        wanted = if_mask if level == MASK else level
        within = min(max(wanted, self.settings.min_level), self.settings.max_level) if wanted else 0
        self._pending[cause] = (when_s, within)

    def _move(self, level: int, at_s: float, duration_s: float) -> None:
        floor = self.settings.min_level
        start = self._movement.level(at_s) or (floor if level else 0)
        self._movement = Fade(start, level, floor, at_s, duration_s if start != level else 0.0)
        if level:
            self.last_active_level = level

    def _light(self, at_s: float) -> float:
        if self.lamp_failed or not self.powered:
            return 0.0
        return light_share(self._movement.exact_level(at_s), self.settings.curve)

    def _settle(self, at_s: float) -> None:
        """Bring energy and burning time up to date; a fade is integrated in slices."""
        start_s = self._settled_s
        if at_s <= start_s:
            return
        fade_end_s = min(at_s, self._movement.end_s)
        if fade_end_s > start_s:
            slice_s = (fade_end_s - start_s) / _FADE_SLICES
            for index in range(_FADE_SLICES):
                begin_s = start_s + index * slice_s
                self._burn(begin_s, begin_s + slice_s, begin_s + slice_s / 2)
        self._burn(max(start_s, fade_end_s), at_s, at_s)
        self._settled_s = at_s

    def _burn(self, from_s: float, to_s: float, at_s: float) -> None:
        """Burn from one real moment to another with the light of a third."""
        self.lamp.advance(self._civil_s(to_s) - self._civil_s(from_s), self._light(at_s), fed=self.powered)
