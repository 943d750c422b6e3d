"""A DALI line: two wires, one transmission at a time, true bit times.

The engine plans on its schedule: settling by priority, forward frames, the gear's answers, collisions. What
is heard goes to the interface on the line (`LineEars`) and to every gear. Moments are those that were
planned, not those at which the machine got round to them.

Timing: IEC 62386-101:2022 by way of public tables. Within its tolerances the line takes the middle, so that
64 QUERY STATUS at priority 5 last 3.2 s; with `jitter` it draws from the whole range.
"""

import random
from collections import Counter, deque
from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from typing import Protocol

import msgspec

from sim.faults import Board, FaultSettings, LampFault, LineFault
from sim.gear_dialogue import CONFIGURATION, Answer, GearDialogue
from sim.schedule import Schedule, Timer

BIT_S = 1 / 1200
BACKWARD_S = 9 * BIT_S
SETTLE_S = {
    1: (0.0135, 0.0147),
    2: (0.0149, 0.0161),
    3: (0.0163, 0.0177),
    4: (0.0179, 0.0193),
    5: (0.0195, 0.0211),
}
REPLY_S = (0.0055, 0.0105)
BUS_RISE_S = 0.1  # an integrated supply brings the voltage up within so long
_LATE_S = 0.030
_ALIGNED_S = BIT_S / 2  # answers that differ by less look like one


class FrameKind(StrEnum):
    """What a frame on the line is, for counting."""

    DAPC = "dapc"
    COMMAND = "command"
    CONFIGURATION = "configuration"
    QUERY = "query"
    SPECIAL = "special"
    DEVICE = "device"
    """24 bits, for control devices."""
    BACKWARD = "backward"


class Transmit(msgspec.Struct, frozen=True):
    """A forward frame that waits for its turn.

    Attributes:
        number: the interface's own id, 0–255.
        frame: 2 or 3 bytes.
        priority: 1–5.
    """

    number: int
    frame: bytes
    priority: int
    send_twice: bool = False

    @property
    def bits(self) -> int:
        """Number of bits of the frame."""
        return 8 * len(self.frame)


class LineEars(Protocol):
    """What the interface on a line learns."""

    def frame_sent(self, number: int, frame: bytes, at_s: float) -> None:
        """Its own forward frame went out whole."""
        ...

    def frame_received(self, frame: bytes, at_s: float) -> None:
        """Somebody else's frame was on the line."""
        ...

    def framing_error(self, at_s: float) -> None:
        """What was on the line was no frame."""
        ...


class LineState(msgspec.Struct, frozen=True):
    """What the bench tells of a line."""

    voltage: bool
    queue: int
    frames: dict[str, int]
    collisions: int
    framing_errors: int
    faults: list[str]


class _OnWire(msgspec.Struct, eq=False):
    """One sender's bits, from `start_s` to `end_s`."""

    start_s: float
    end_s: float
    frame: bytes
    transmit: Transmit | None = None
    answer: Answer | None = None
    gear: GearDialogue | None = None
    garbled: bool = False


def forward_s(bits: int) -> float:
    """Return the seconds that a forward frame takes: its start bit and `bits` data bits."""
    return (bits + 1) * BIT_S


def frame_kind(frame: bytes) -> FrameKind:
    """Tell what a forward frame is, by its address and opcode."""
    if len(frame) != 2:
        return FrameKind.DEVICE
    address, opcode = frame
    if 0xA0 <= address < 0xFC:
        return FrameKind.SPECIAL
    if not address & 1:
        return FrameKind.DAPC
    if opcode in CONFIGURATION:
        return FrameKind.CONFIGURATION
    return FrameKind.QUERY if opcode >= 0x90 else FrameKind.COMMAND


class DaliLine:
    """The wires, what is on them, and who waits to send.

    Args:
        schedule: gives time and timers.
        gear: everything that listens.
        integrated_supply: the bus voltage comes from the interface, which can switch it.
        queue_limit: forward frames that the interface can hold.
        jitter: source of randomness for settling and reply times; None takes the middle.

    Attributes:
        ears: the interface; set it before the first frame.
    """

    ears: LineEars

    def __init__(
        self,
        schedule: Schedule,
        gear: Sequence[GearDialogue],
        *,
        integrated_supply: bool = True,
        queue_limit: int = 16,
        jitter: random.Random | None = None,
    ) -> None:
        self.gear = list(gear)
        self.integrated_supply = integrated_supply
        self.board = Board(LineFault)
        self.frames: Counter[FrameKind] = Counter()
        self.collisions = 0
        self.framing_errors = 0
        self._schedule = schedule
        self._queue_limit = queue_limit
        self._jitter = jitter
        self._supply_on = True
        self._rising_until_s = 0.0
        self._queue: deque[Transmit] = deque()
        self._quiet_since_s = schedule.time() - 1.0
        self._on_wire: list[_OnWire] = []
        self._burst: list[_OnWire] = []
        self._starting: Timer | None = None
        self._generation = 0

    @property
    def queued(self) -> int:
        """Frames that wait for their turn."""
        return len(self._queue)

    def voltage_at_interface(self, at_s: float) -> bool:
        """Tell whether the interface sees bus voltage."""
        if LineFault.LINE_SHORT in self.board or at_s < self._rising_until_s:
            return False
        if self.integrated_supply:
            return self._supply_on
        return LineFault.LINE_UNPLUGGED not in self.board

    def voltage_at_gear(self) -> bool:
        """Tell whether the gear see bus voltage."""
        if LineFault.LINE_SHORT in self.board:
            return False
        return not self.integrated_supply or (self._supply_on and LineFault.LINE_UNPLUGGED not in self.board)

    def enqueue(self, transmit: Transmit, at_s: float) -> bool:
        """Take a forward frame for sending; False when there is no room."""
        if len(self._queue) >= self._queue_limit:
            return False
        self._queue.append(transmit)
        self._plan_next(at_s)
        return True

    def switch_supply(self, on: bool, at_s: float) -> None:
        """Switch the interface's own bus supply."""
        if on and not self._supply_on:
            self._rising_until_s = at_s + BUS_RISE_S
        self._supply_on = on
        self._voltage_changed(at_s)

    def set_fault(self, fault: LineFault, settings: FaultSettings, at_s: float) -> None:
        """Let a fault of the wires begin."""
        self.board.set(fault, settings)
        self._voltage_changed(at_s)

    def clear_fault(self, fault: LineFault, at_s: float) -> None:
        """Let a fault of the wires end."""
        self.board.clear(fault)
        self._voltage_changed(at_s)

    def state(self, at_s: float) -> LineState:
        """Return what the bench tells of this line."""
        return LineState(
            voltage=self.voltage_at_interface(at_s),
            queue=self.queued,
            frames={kind.value: self.frames[kind] for kind in FrameKind},
            collisions=self.collisions,
            framing_errors=self.framing_errors,
            faults=self.board.names(),
        )

    def _voltage_changed(self, at_s: float) -> None:
        present = self.voltage_at_gear()
        for dialogue in self.gear:
            dialogue.gear.set_bus_voltage(present, at_s)
        if not self.voltage_at_interface(at_s):
            self._drop_everything(at_s)

    def _drop_everything(self, at_s: float) -> None:
        """Without voltage there are no bits: what is on the wire or waits is gone."""
        self._generation += 1
        self._queue.clear()
        self._on_wire.clear()
        self._burst.clear()
        self._quiet_since_s = at_s
        self._cancel_start()

    def _cancel_start(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None

    def _plan_next(self, at_s: float) -> None:
        """Plan the start of the next forward frame, if none is planned and the line is free."""
        if self._starting is not None or self._on_wire or not self._queue:
            return
        settled_s = self._quiet_since_s + self._within(SETTLE_S[self._queue[0].priority])
        start_s = max(at_s, settled_s)
        self._starting = self._schedule.call_at(start_s, partial(self._start_forward, start_s))

    def _start_forward(self, at_s: float) -> None:
        self._starting = None
        transmit = self._queue.popleft()
        duration_s = forward_s(transmit.bits)
        self._begin(_OnWire(at_s, at_s + duration_s, transmit.frame, transmit=transmit))

    def _begin(self, sender: _OnWire) -> None:
        self._cancel_start()  # settling begins anew after whatever is on the wire
        self._on_wire.append(sender)
        self._burst.append(sender)
        generation = self._generation
        self._schedule.call_at(sender.end_s, lambda: self._end(sender, generation))

    def _end(self, sender: _OnWire, generation: int) -> None:
        if generation != self._generation:
            return
        self._on_wire.remove(sender)
        if not self._on_wire:
            burst, self._burst = self._burst, []
            self._quiet_since_s = sender.end_s
            self._heard(burst, sender.end_s)
            self._plan_next(sender.end_s)

    def _heard(self, burst: list[_OnWire], at_s: float) -> None:
        """Decide what a stretch of bits between two silences was, and tell everybody."""
        if not _is_one_frame(burst):
            self._not_a_frame(burst, at_s)
        elif burst[0].transmit is not None:
            self._forward_heard(burst[0].transmit, at_s)
        else:
            self._backward_heard(burst, at_s)

    def _not_a_frame(self, burst: list[_OnWire], at_s: float) -> None:
        self.collisions += len(burst) > 1
        self.framing_errors += 1
        if self._wires_at_interface():
            self.ears.framing_error(at_s)
        for sender in burst:
            if sender.transmit is not None:
                self._queue.appendleft(sender.transmit)

    def _forward_heard(self, transmit: Transmit, at_s: float) -> None:
        self.frames[frame_kind(transmit.frame)] += 1
        self.ears.frame_sent(transmit.number, transmit.frame, at_s)
        if transmit.send_twice:
            self._queue.appendleft(Transmit(transmit.number, transmit.frame, priority=1))
        if transmit.bits != 16 or not self._wires_at_interface() or not self.voltage_at_gear():
            return
        frame = int.from_bytes(transmit.frame, "big")
        for dialogue in self.gear:
            if dialogue.gear.powered:
                self._answer(dialogue, dialogue.hear(frame, at_s), at_s)

    def _answer(self, dialogue: GearDialogue, answer: Answer | None, at_s: float) -> None:
        """Plan a gear's backward frame, if it answers and nothing stops it."""
        board = dialogue.gear.board
        if answer is None or LampFault.SILENT in board:
            return
        start_s = at_s + self._within(REPLY_S)
        if LampFault.LATE in board:
            late_s = board.settings(LampFault.LATE).delay_s
            start_s = at_s + (_LATE_S if late_s is None else late_s)
        sender = _OnWire(start_s, start_s + BACKWARD_S, bytes((answer.value,)), answer=answer, gear=dialogue)
        sender.garbled = LampFault.GARBLED in board
        generation = self._generation
        self._schedule.call_at(start_s, lambda: self._begin_if(sender, generation))

    def _begin_if(self, sender: _OnWire, generation: int) -> None:
        if generation == self._generation and sender.gear is not None and sender.gear.gear.powered:
            self._begin(sender)

    def _backward_heard(self, burst: list[_OnWire], at_s: float) -> None:
        self.frames[FrameKind.BACKWARD] += 1
        for sender in burst:
            if sender.gear is not None and sender.answer is not None:
                counts, opcode = sender.gear.gear.answers, sender.answer.opcode
                counts[opcode] = counts.get(opcode, 0) + 1
        if self._wires_at_interface():
            self.ears.frame_received(burst[0].frame, at_s)

    def _wires_at_interface(self) -> bool:
        return LineFault.LINE_UNPLUGGED not in self.board

    def _within(self, limits_s: tuple[float, float]) -> float:
        low_s, high_s = limits_s
        return (low_s + high_s) / 2 if self._jitter is None else self._jitter.uniform(low_s, high_s)


def _is_one_frame(burst: list[_OnWire]) -> bool:
    """Tell whether what was heard reads as one frame: one sender, or answers alike to the bit."""
    first = burst[0]
    return not any(
        sender.garbled or sender.frame != first.frame or abs(sender.start_s - first.start_s) > _ALIGNED_S
        for sender in burst
    )
