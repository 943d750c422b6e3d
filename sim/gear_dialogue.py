"""What a control gear hears on its line, does, and answers.

Names and codes are those of IEC 62386-102 (general) and 207 (LED). Each kind of command is a table; a frame
whose code is in no table is ignored, as a gear ignores what it does not implement.
"""

from collections.abc import Callable

import msgspec

from sim.fade import UP_DOWN_S, fade_rate
from sim.faults import LampFault
from sim.gear import MASK, ControlGear
from sim.lamp import DimmingCurve

YES = 0xFF
SEND_TWICE_S = 0.100  # end of the first frame to the start of the second
_LED = 6
_FORWARD_S = 17 / 1200  # a 16-bit forward frame, so that its start can be told from its end
_VERSION_102 = 0x08  # 2.0
_VERSION_207 = 1
_LED_FEATURES = 0b0000_0010  # can detect an open circuit


class Answer(msgspec.Struct, frozen=True):
    """A backward frame and the opcode of the query that it answers."""

    opcode: int
    value: int


class _Registers(msgspec.Struct):
    """What a gear keeps only while it has power."""

    dtr0: int = 0
    dtr1: int = 0
    dtr2: int = 0
    write_enabled: bool = False
    next_type: int = 0


class GearDialogue:
    """One gear's ears and mouth on the line."""

    def __init__(self, gear: ControlGear) -> None:
        self.gear = gear
        self.registers = _Registers()
        self._enabled_type: int | None = None
        self._first: tuple[int, float, int | None] | None = None

    def power_lost(self) -> None:
        """Forget what is kept only while there is power."""
        self.registers = _Registers()
        self._enabled_type = None
        self._first = None

    def hear(self, frame: int, at_s: float) -> Answer | None:
        """Obey a 16-bit forward frame that ended at `at_s`; return the answer if there is one."""
        first, self._first = self._first, None
        enabled_type, self._enabled_type = self._enabled_type, None
        address, opcode = frame >> 8, frame & 0xFF
        if _is_special(address):
            return self._special(address, opcode, at_s)
        if not self._addressed(address):
            return None
        if not address & 1:
            self.gear.request(opcode, at_s, self.gear.settings.fade_s)
            return None
        if _is_configuration(opcode, enabled_type or (first[2] if first else None)):
            self._configure(frame, at_s, first, enabled_type)
            return None
        return self._command(opcode, at_s, enabled_type)

    def _addressed(self, address: int) -> bool:
        settings = self.gear.settings
        if address < 0x80:
            return settings.short_address == address >> 1
        if address < 0xA0:
            return bool(settings.groups >> (address >> 1 & 0x0F) & 1)
        return address >= 0xFE or (address >= 0xFC and settings.short_address is None)

    def _configure(
        self, frame: int, at_s: float, first: tuple[int, float, int | None] | None, enabled_type: int | None
    ) -> None:
        """Carry out a configuration command if this is its second frame in time, else remember the first."""
        if first is None or first[0] != frame or at_s - _FORWARD_S - first[1] > SEND_TWICE_S:
            self._first = (frame, at_s, enabled_type)
            return
        action = CONFIGURATION.get(frame & 0xFF) or _LED_CONFIGURATION[frame & 0xFF]
        action(self, at_s)

    def _command(self, opcode: int, at_s: float, enabled_type: int | None) -> Answer | None:
        if opcode in LEVEL_COMMANDS:
            LEVEL_COMMANDS[opcode](self.gear, at_s)
            return None
        query = LED_QUERIES.get(opcode) if enabled_type == _LED and opcode >= 0xE0 else QUERIES.get(opcode)
        value = query(self, at_s) if query else None
        return None if value is None else Answer(opcode, value)

    def _special(self, address: int, content: int, at_s: float) -> Answer | None:
        action = SPECIAL.get(address)
        value = action(self, content, at_s) if action else None
        return None if value is None else Answer(address, value)

    def enable_type(self, device_type: int) -> None:
        """Let the next frame, and only that, speak to a device type."""
        if device_type in self.gear.design.device_types:
            self._enabled_type = device_type

    def status(self, at_s: float) -> int:
        """Return the eight bits of QUERY STATUS."""
        gear = self.gear
        bits = (
            LampFault.GEAR_FAILURE in gear.board,
            gear.lamp_failed,
            gear.lamp_on(at_s),
            gear.limit_error,
            gear.fading(at_s),
            gear.in_reset_state(),
            gear.settings.short_address is None,
            gear.power_cycle_seen,
        )
        return sum(bit << place for place, bit in enumerate(bits))

    def read_memory(self, at_s: float) -> int | None:
        """Answer READ MEMORY LOCATION: bank in DTR1, offset in DTR0, which moves on by one up to FF."""
        bank = self.gear.banks.get(self.registers.dtr1)
        if bank is None:
            return None
        self.gear.catch_up(at_s)
        return bank.read(self._next_offset())

    def write_memory(self, value: int, at_s: float) -> int | None:
        """Store a byte if ENABLE WRITE MEMORY was heard; answer it back."""
        bank = self.gear.banks.get(self.registers.dtr1)
        if bank is None or not self.registers.write_enabled:
            return None
        self.gear.catch_up(at_s)
        return value if bank.write(self._next_offset(), value) else None

    def _next_offset(self) -> int:
        offset = self.registers.dtr0
        self.registers.dtr0 = min(offset + 1, 0xFF)
        return offset


def _is_special(address: int) -> bool:
    """Tell special commands (101xxxx1, 110xxxx1 and up to CB) from addresses."""
    return 0xA0 <= address < 0xFC


def _is_configuration(opcode: int, enabled_type: int | None) -> bool:
    return opcode in CONFIGURATION or (enabled_type == _LED and opcode in _LED_CONFIGURATION)


# --- level commands -------------------------------------------------------------------------------


def _off(gear: ControlGear, at_s: float) -> None:
    gear.request(0, at_s, 0.0)


def _recall_max(gear: ControlGear, at_s: float) -> None:
    gear.go_to(gear.settings.max_level, at_s, 0.0)


def _recall_min(gear: ControlGear, at_s: float) -> None:
    gear.go_to(gear.settings.min_level, at_s, 0.0)


def _dim(gear: ControlGear, at_s: float, levels: int, duration_s: float) -> None:
    """Move by some levels, staying alight and within the limits; a dark lamp stays dark."""
    level = gear.level(at_s)
    if level:
        goal = min(max(level + levels, gear.settings.min_level), gear.settings.max_level)
        gear.go_to(goal, at_s, duration_s)


def _up_down(direction: int) -> Callable[[ControlGear, float], None]:
    def act(gear: ControlGear, at_s: float) -> None:
        _dim(gear, at_s, direction * round(fade_rate(gear.settings.fade_rate) * UP_DOWN_S), UP_DOWN_S)

    return act


def _step(direction: int) -> Callable[[ControlGear, float], None]:
    def act(gear: ControlGear, at_s: float) -> None:
        _dim(gear, at_s, direction, 0.0)

    return act


def _continuous(direction: int) -> Callable[[ControlGear, float], None]:
    def act(gear: ControlGear, at_s: float) -> None:
        limit = gear.settings.max_level if direction > 0 else gear.settings.min_level
        way = abs(limit - gear.level(at_s))
        _dim(gear, at_s, direction * way, way / fade_rate(gear.settings.fade_rate))

    return act


def _step_down_and_off(gear: ControlGear, at_s: float) -> None:
    if gear.level(at_s) <= gear.settings.min_level:
        _off(gear, at_s)
    else:
        _dim(gear, at_s, -1, 0.0)


def _on_and_step_up(gear: ControlGear, at_s: float) -> None:
    if gear.level(at_s) == 0:
        _recall_min(gear, at_s)
    else:
        _dim(gear, at_s, 1, 0.0)


def _last_active(gear: ControlGear, at_s: float) -> None:
    gear.request(gear.last_active_level, at_s, gear.settings.fade_s)


def _scene(number: int) -> Callable[[ControlGear, float], None]:
    def act(gear: ControlGear, at_s: float) -> None:
        level = gear.settings.scenes[number]
        if level != MASK:
            gear.request(level, at_s, gear.settings.fade_s)

    return act


LEVEL_COMMANDS: dict[int, Callable[[ControlGear, float], None]] = {
    0x00: _off,
    0x01: _up_down(+1),
    0x02: _up_down(-1),
    0x03: _step(+1),
    0x04: _step(-1),
    0x05: _recall_max,
    0x06: _recall_min,
    0x07: _step_down_and_off,
    0x08: _on_and_step_up,
    0x0A: _last_active,
    0x0B: _continuous(+1),
    0x0C: _continuous(-1),
    **{0x10 + number: _scene(number) for number in range(16)},
}


# --- configuration commands: sent twice -----------------------------------------------------------

Configure = Callable[[GearDialogue, float], None]


def _reset(dialogue: GearDialogue, at_s: float) -> None:
    dialogue.gear.reset(at_s)


def _store_level(dialogue: GearDialogue, at_s: float) -> None:
    dialogue.registers.dtr0 = dialogue.gear.level(at_s)


def _set_max(dialogue: GearDialogue, at_s: float) -> None:
    gear, value = dialogue.gear, dialogue.registers.dtr0
    gear.settings.max_level = max(gear.settings.min_level, min(value, 254))
    if gear.level(at_s) > gear.settings.max_level:
        gear.go_to(gear.settings.max_level, at_s, 0.0)


def _set_min(dialogue: GearDialogue, at_s: float) -> None:
    gear, value = dialogue.gear, dialogue.registers.dtr0
    gear.settings.min_level = max(gear.design.physical_minimum, min(value, gear.settings.max_level))
    if 0 < gear.level(at_s) < gear.settings.min_level:
        gear.go_to(gear.settings.min_level, at_s, 0.0)


def _set_failure(dialogue: GearDialogue, _at_s: float) -> None:
    dialogue.gear.settings.failure_level = dialogue.registers.dtr0


def _set_power_on(dialogue: GearDialogue, _at_s: float) -> None:
    dialogue.gear.settings.power_on_level = dialogue.registers.dtr0


def _set_fade_time(dialogue: GearDialogue, _at_s: float) -> None:
    dialogue.gear.settings.fade_time = min(dialogue.registers.dtr0, 15)


def _set_fade_rate(dialogue: GearDialogue, _at_s: float) -> None:
    dialogue.gear.settings.fade_rate = min(max(dialogue.registers.dtr0, 1), 15)


def _set_extended_fade(dialogue: GearDialogue, _at_s: float) -> None:
    value = dialogue.registers.dtr0
    dialogue.gear.settings.extended_fade = value if value <= 0x4F else 0


def _set_short_address(dialogue: GearDialogue, _at_s: float) -> None:
    value = dialogue.registers.dtr0
    if value == MASK:
        dialogue.gear.settings.short_address = None
    elif value < 0x80 and value & 1:
        dialogue.gear.settings.short_address = value >> 1


def _enable_write(dialogue: GearDialogue, _at_s: float) -> None:
    dialogue.registers.write_enabled = True


def _set_scene(number: int, *, keep: bool) -> Configure:
    def act(dialogue: GearDialogue, _at_s: float) -> None:
        dialogue.gear.settings.scenes[number] = dialogue.registers.dtr0 if keep else MASK

    return act


def _set_group(number: int, *, member: bool) -> Configure:
    def act(dialogue: GearDialogue, _at_s: float) -> None:
        groups = dialogue.gear.settings.groups & ~(1 << number)
        dialogue.gear.settings.groups = groups | member << number

    return act


def _nothing(_dialogue: GearDialogue, _at_s: float) -> None:
    """SAVE PERSISTENT VARIABLES, IDENTIFY DEVICE: nothing to see on a bench."""


CONFIGURATION: dict[int, Configure] = {
    0x20: _reset,
    0x21: _store_level,
    0x22: _nothing,
    0x25: _nothing,
    0x2A: _set_max,
    0x2B: _set_min,
    0x2C: _set_failure,
    0x2D: _set_power_on,
    0x2E: _set_fade_time,
    0x2F: _set_fade_rate,
    0x30: _set_extended_fade,
    **{0x40 + number: _set_scene(number, keep=True) for number in range(16)},
    **{0x50 + number: _set_scene(number, keep=False) for number in range(16)},
    **{0x60 + number: _set_group(number, member=True) for number in range(16)},
    **{0x70 + number: _set_group(number, member=False) for number in range(16)},
    0x80: _set_short_address,
    0x81: _enable_write,
}


def _select_curve(dialogue: GearDialogue, at_s: float) -> None:
    value = dialogue.registers.dtr0
    if value in tuple(DimmingCurve):
        dialogue.gear.catch_up(at_s)
        dialogue.gear.settings.curve = DimmingCurve(value)


_LED_CONFIGURATION: dict[int, Configure] = {0xE3: _select_curve}


# --- queries: a byte, or None for no answer -------------------------------------------------------

Query = Callable[[GearDialogue, float], int | None]


def _yes(condition: Callable[[GearDialogue, float], bool]) -> Query:
    return lambda dialogue, at_s: YES if condition(dialogue, at_s) else None


def _actual_level(dialogue: GearDialogue, at_s: float) -> int:
    """Answer the level, or MASK when a broken lamp makes no light of it."""
    level = dialogue.gear.level(at_s)
    return MASK if level and dialogue.gear.lamp_failed else level


def _device_type(dialogue: GearDialogue, _at_s: float) -> int:
    types = dialogue.gear.design.device_types
    dialogue.registers.next_type = 0
    if len(types) > 1:
        return 255
    return types[0] if types else 254


def _next_device_type(dialogue: GearDialogue, _at_s: float) -> int | None:
    types, index = dialogue.gear.design.device_types, dialogue.registers.next_type
    if len(types) < 2 or index > len(types):
        return None
    dialogue.registers.next_type += 1
    return types[index] if index < len(types) else 254


def _fade_time_and_rate(dialogue: GearDialogue, _at_s: float) -> int:
    return dialogue.gear.settings.fade_time << 4 | dialogue.gear.settings.fade_rate


def _scene_level(number: int) -> Query:
    return lambda dialogue, _at_s: dialogue.gear.settings.scenes[number]


QUERIES: dict[int, Query] = {
    0x90: lambda dialogue, at_s: dialogue.status(at_s),
    0x91: lambda _dialogue, _at_s: YES,
    0x92: _yes(lambda dialogue, _at_s: dialogue.gear.lamp_failed),
    0x93: _yes(lambda dialogue, at_s: dialogue.gear.lamp_on(at_s)),
    0x94: _yes(lambda dialogue, _at_s: dialogue.gear.limit_error),
    0x95: _yes(lambda dialogue, _at_s: dialogue.gear.in_reset_state()),
    0x96: _yes(lambda dialogue, _at_s: dialogue.gear.settings.short_address is None),
    0x97: lambda _dialogue, _at_s: _VERSION_102,
    0x98: lambda dialogue, _at_s: dialogue.registers.dtr0,
    0x99: _device_type,
    0x9A: lambda dialogue, _at_s: dialogue.gear.design.physical_minimum,
    0x9B: _yes(lambda dialogue, _at_s: dialogue.gear.power_cycle_seen),
    0x9C: lambda dialogue, _at_s: dialogue.registers.dtr1,
    0x9D: lambda dialogue, _at_s: dialogue.registers.dtr2,
    0x9E: lambda _dialogue, _at_s: 0,
    0x9F: lambda _dialogue, _at_s: _LED,
    0xA0: _actual_level,
    0xA1: lambda dialogue, _at_s: dialogue.gear.settings.max_level,
    0xA2: lambda dialogue, _at_s: dialogue.gear.settings.min_level,
    0xA3: lambda dialogue, _at_s: dialogue.gear.settings.power_on_level,
    0xA4: lambda dialogue, _at_s: dialogue.gear.settings.failure_level,
    0xA5: _fade_time_and_rate,
    0xA7: _next_device_type,
    0xA8: lambda dialogue, _at_s: dialogue.gear.settings.extended_fade,
    0xAA: _yes(lambda dialogue, _at_s: LampFault.GEAR_FAILURE in dialogue.gear.board),
    **{0xB0 + number: _scene_level(number) for number in range(16)},
    0xC0: lambda dialogue, _at_s: dialogue.gear.settings.groups & 0xFF,
    0xC1: lambda dialogue, _at_s: dialogue.gear.settings.groups >> 8,
    0xC5: lambda dialogue, at_s: dialogue.read_memory(at_s),
}

LED_QUERIES: dict[int, Query] = {
    0xED: lambda _dialogue, _at_s: 0,
    0xEE: lambda dialogue, _at_s: int(dialogue.gear.settings.curve),
    0xEF: lambda _dialogue, _at_s: 0,
    0xF0: lambda _dialogue, _at_s: _LED_FEATURES,
    0xF1: lambda dialogue, _at_s: dialogue.gear.lamp_failed << 1,
    0xF3: _yes(lambda dialogue, _at_s: dialogue.gear.lamp_failed),
    0xFC: lambda _dialogue, _at_s: 0,
    0xFF: lambda _dialogue, _at_s: _VERSION_207,
}


# --- special commands: heard by every gear --------------------------------------------------------


def _set_register(name: str) -> Callable[[GearDialogue, int, float], None]:
    def act(dialogue: GearDialogue, content: int, _at_s: float) -> None:
        setattr(dialogue.registers, name, content)

    return act


def _enable_type(dialogue: GearDialogue, content: int, _at_s: float) -> None:
    dialogue.enable_type(content)


def _write_memory(dialogue: GearDialogue, content: int, at_s: float) -> int | None:
    return dialogue.write_memory(content, at_s)


def _write_memory_no_reply(dialogue: GearDialogue, content: int, at_s: float) -> None:
    dialogue.write_memory(content, at_s)


SPECIAL: dict[int, Callable[[GearDialogue, int, float], int | None]] = {
    0xA3: _set_register("dtr0"),
    0xC1: _enable_type,
    0xC3: _set_register("dtr1"),
    0xC5: _set_register("dtr2"),
    0xC7: _write_memory,
    0xC9: _write_memory_no_reply,
}
