"""The cabinet's own inputs and outputs, and the contactor through which the lamps are fed.

Modbus map: discrete inputs 0 door open, 1 breaker tripped, 2 mains present, 3 contactor feedback; coil 0
contactor. The lamps have supply while mains are present, the breaker holds and the contactor's contacts are
closed.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum

import msgspec

from sim.faults import Board, CabinetFault
from sim.registers import Block, RegisterDevice, Span, Table


class Switch(StrEnum):
    """What somebody at the cabinet can set."""

    DOOR_OPEN = "door_open"
    BREAKER_TRIPPED = "breaker_tripped"
    MAINS_PRESENT = "mains_present"
    CONTACTOR = "contactor"


class CabinetState(msgspec.Struct, frozen=True):
    """What the bench tells of a cabinet."""

    door_open: bool
    breaker_tripped: bool
    mains_present: bool
    contactor: bool
    contactor_feedback: bool
    lamps_fed: bool
    faults: list[str]


class Cabinet:
    """Switches, and who is told when the lamps' supply changes.

    Args:
        supply_changed: called after every change of a switch or of a fault.
    """

    def __init__(self, supply_changed: Callable[[], object]) -> None:
        self.board = Board(CabinetFault)
        self._supply_changed = supply_changed
        self._switches = {
            Switch.DOOR_OPEN: False,
            Switch.BREAKER_TRIPPED: False,
            Switch.MAINS_PRESENT: True,
            Switch.CONTACTOR: True,
        }
        self.device = RegisterDevice(
            {
                Table.DISCRETE_INPUTS: Block(Span(0, 4), self._read_inputs),
                Table.COILS: Block(Span(0, 1), self._read_coils, self._write_coils),
            }
        )

    @property
    def mains_present(self) -> bool:
        """Whether the grid feeds the cabinet."""
        return self._switches[Switch.MAINS_PRESENT]

    @property
    def contacts_closed(self) -> bool:
        """Whether the contactor's contacts touch, which its feedback tells."""
        if CabinetFault.CONTACTOR_WELDED in self.board:
            return True
        if CabinetFault.CONTACTOR_DEAD in self.board:
            return False
        return self._switches[Switch.CONTACTOR]

    @property
    def lamps_fed(self) -> bool:
        """Whether the lamps have supply."""
        return self.mains_present and not self._switches[Switch.BREAKER_TRIPPED] and self.contacts_closed

    def set(self, switch: Switch, on: bool) -> None:
        """Set one switch by hand."""
        self._switches[switch] = on
        self._supply_changed()

    def set_fault(self, fault: CabinetFault, present: bool) -> None:
        """Let a fault begin or end."""
        if present:
            self.board.set(fault, self.board.settings(fault))
        else:
            self.board.clear(fault)
        self._supply_changed()

    def state(self) -> CabinetState:
        """Return what the bench tells of this cabinet."""
        return CabinetState(
            door_open=self._switches[Switch.DOOR_OPEN],
            breaker_tripped=self._switches[Switch.BREAKER_TRIPPED],
            mains_present=self.mains_present,
            contactor=self._switches[Switch.CONTACTOR],
            contactor_feedback=self.contacts_closed,
            lamps_fed=self.lamps_fed,
            faults=self.board.names(),
        )

    def _read_inputs(self, span: Span) -> Sequence[int]:
        inputs = (
            self._switches[Switch.DOOR_OPEN],
            self._switches[Switch.BREAKER_TRIPPED],
            self.mains_present,
            self.contacts_closed,
        )
        return inputs[span.first : span.first + span.quantity]

    def _read_coils(self, _span: Span) -> Sequence[int]:
        return [self._switches[Switch.CONTACTOR]]

    def _write_coils(self, _first: int, values: Sequence[int]) -> None:
        self.set(Switch.CONTACTOR, bool(values[0]))
