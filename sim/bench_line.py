"""One DALI line put together: pty, interface, wires, gear."""

import random
from functools import partial
from pathlib import Path

import msgspec

from sim.banks import Identity
from sim.dali_line import DaliLine, LineState
from sim.faults import FaultSettings, LampFault, LineFault, SerialFault
from sim.gear import ControlGear, GearDesign, GearState
from sim.gear_dialogue import GearDialogue
from sim.lamp import LampRating
from sim.luba_interface import LubaInterface
from sim.scenario import DaliSettings
from sim.schedule import CivilTime, LatenessReport, LoopSchedule
from sim.serial_port import SerialPort
from sim.targets import FaultSwitch, Targets

LUBA_BAUD = 38400
LUBA_BITS_PER_BYTE = 10  # 8N1
_GTIN = 9010342000027


class BenchLineState(msgspec.Struct, frozen=True):
    """What the bench tells of a line, its port and its gear."""

    port: str
    device: str | None
    port_faults: list[str]
    lost_bytes: int
    line: LineState
    gear: dict[str, GearState]
    timers: LatenessReport


class BenchLine:
    """A line as the scenario describes it.

    Attributes:
        port: the interface's serial side.
        line: the wires.
        gear: by their short address at the start.
    """

    def __init__(
        self, settings: DaliSettings, folder: Path, schedule: LoopSchedule, civil_s: CivilTime, seed: int
    ) -> None:
        self._schedule = schedule
        rng = random.Random(f"{seed}/{settings.name}")
        self.gear = _gear(settings, rng, civil_s, schedule.time())
        self._dialogues = [GearDialogue(gear) for gear in self.gear]
        self.line = DaliLine(
            schedule,
            self._dialogues,
            integrated_supply=settings.supply == "integrated",
            queue_limit=settings.queue,
            jitter=rng if settings.jitter else None,
        )
        self.port = SerialPort(
            folder / settings.port,
            baud=LUBA_BAUD,
            bits_per_byte=LUBA_BITS_PER_BYTE,
            schedule=schedule,
            rng=rng,
        )
        interface = LubaInterface(
            self.line, schedule, serial_number=rng.getrandbits(64), output=self.port.send
        )
        self.port.received = interface.receive

    def feed(self, powered: bool, at_s: float) -> None:
        """Give or take the supply of all gear."""
        for dialogue in self._dialogues:
            dialogue.gear.set_powered(powered, at_s)
            if not powered:
                dialogue.power_lost()

    def state(self, at_s: float) -> BenchLineState:
        """Return what the bench tells of this line."""
        return BenchLineState(
            port=str(self.port.link),
            device=self.port.device,
            port_faults=self.port.board.names(),
            lost_bytes=self.port.lost_bytes,
            line=self.line.state(at_s),
            gear={str(index): gear.state(at_s) for index, gear in enumerate(self.gear)},
            timers=self._schedule.lateness.report(),
        )

    def offer_faults(self, name: str, targets: Targets) -> None:
        """Make the faults of port, wires and gear known under the line's name."""
        targets.add(name, serial_switches(self.port))
        targets.add(name, {fault.value: self._line_switch(fault) for fault in LineFault})
        for index, gear in enumerate(self.gear):
            targets.add(
                f"{name}/{index}", {fault.value: self._lamp_switch(gear, fault) for fault in LampFault}
            )

    def _line_switch(self, fault: LineFault) -> FaultSwitch:
        return FaultSwitch(
            lambda settings: self.line.set_fault(fault, settings, self._schedule.time()),
            lambda: self.line.clear_fault(fault, self._schedule.time()),
        )

    def _lamp_switch(self, gear: ControlGear, fault: LampFault) -> FaultSwitch:
        def begin(settings: FaultSettings) -> None:
            gear.set_fault(fault, settings, self._schedule.time())

        return FaultSwitch(begin, lambda: gear.clear_fault(fault, self._schedule.time()))


def serial_switches(port: SerialPort) -> dict[str, FaultSwitch]:
    """Return the faults of a serial port."""
    return {
        fault.value: FaultSwitch(partial(port.set_fault, fault), partial(port.clear_fault, fault))
        for fault in SerialFault
    }


def _gear(settings: DaliSettings, rng: random.Random, civil_s: CivilTime, at_s: float) -> list[ControlGear]:
    design = GearDesign(
        LampRating(settings.rated_w, settings.standby_w), settings.physical_minimum, settings.device_types
    )
    gear = [
        ControlGear(
            address,
            design=design,
            identity=Identity(_GTIN, rng.getrandbits(64)),
            level=settings.level,
            civil_s=civil_s,
            at_s=at_s,
        )
        for address in range(settings.gear)
    ]
    for group, members in settings.groups.items():
        for member in members:
            gear[member].settings.groups |= 1 << int(group)
    return gear
