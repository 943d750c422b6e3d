"""What can go wrong on a bench: closed sets of faults, and the board on which each target's faults hang."""

from enum import StrEnum
from typing import Annotated, Generic, TypeVar

import msgspec


class LampFault(StrEnum):
    """What can be wrong with one control gear and its lamp."""

    LAMP_FAILURE = "lamp_failure"
    """Open circuit: status bit 1, light out, power falls to standby."""
    GEAR_FAILURE = "gear_failure"
    """Status bit 0; the gear still answers."""
    SILENT = "silent"
    """The gear hears and obeys but does not answer."""
    LATE = "late"
    """The gear answers `delay_s` after the forward frame instead of 5.5–10.5 ms."""
    GARBLED = "garbled"
    """The backward frame violates its bit timing: a framing error."""


class LineFault(StrEnum):
    """What can be wrong with a DALI line and its interface."""

    LINE_SHORT = "line_short"
    """The two wires touch: no bus voltage for anybody."""
    LINE_UNPLUGGED = "line_unplugged"
    """The wires are off the interface's terminals."""


class SerialFault(StrEnum):
    """What can be wrong with a serial port, whatever is behind it."""

    NOISE = "noise"
    """A few random bytes reach the host every `every_s`."""
    DROP = "drop"
    """Each byte, either way, is lost with `probability`."""
    FLIP = "flip"
    """Each byte, either way, has one bit flipped with `probability`."""
    FROZEN = "frozen"
    """The far end takes no bytes and sends none."""
    UNPLUGGED = "unplugged"
    """The port hangs up and its name vanishes; at the end it comes back as a new port."""


class ModbusFault(StrEnum):
    """What can be wrong with a Modbus server."""

    SILENT = "silent"
    """Takes the request, never answers."""
    SLOW = "slow"
    """Answers after `delay_s`."""
    LATE = "late"
    """Answers after `delay_s`, longer than any sensible time-out."""
    EXCEPTION = "exception"
    """Answers every request with exception `code`."""
    GARBAGE = "garbage"
    """Answers with random bytes of the right length."""
    WRONG_UNIT = "wrong_unit"
    """Answers under another unit id."""
    WRONG_TRANSACTION = "wrong_transaction"
    """Answers under another transaction id (TCP)."""
    TRUNCATED = "truncated"
    """Sends the first half of the answer."""
    CRC_ERROR = "crc_error"
    """Answers with a wrong checksum (RTU)."""
    REFUSED = "refused"
    """Nothing listens on the port; open connections are closed (TCP)."""
    CLOSED = "closed"
    """Closes the connection instead of answering (TCP)."""
    HALF_OPEN = "half_open"
    """Connections stay open but nobody reads from them (TCP)."""


class CabinetFault(StrEnum):
    """What can be wrong in the cabinet itself."""

    CONTACTOR_WELDED = "contactor_welded"
    """The contacts stay closed whatever the coil says."""
    CONTACTOR_DEAD = "contactor_dead"
    """The contacts stay open whatever the coil says."""


class LuxFault(StrEnum):
    """What can be wrong with the daylight sensor's reading."""

    STUCK = "stuck"
    """Repeats the value it had when the fault began."""
    DRIFT = "drift"
    """Reads `factor` times the truth."""


class JunctionFault(StrEnum):
    """What can be wrong with a signal controller, or with its way to the supervisor."""

    DARK = "dark"
    """The lamps' supply is gone: failure mode, dark (A0001)."""
    YELLOW_FLASH = "yellow_flash"
    """A card is broken: failure mode, yellow flashing (A0001)."""
    CONFLICT = "conflict"
    """An output is stuck on, so that a conflicting group is green: its own monitor sees it (A0006)."""
    REJECTS_PRIORITY = "rejects_priority"
    """Every priority request is rejected."""
    NEVER_ACTIVATES = "never_activates"
    """Priority requests are queued until they time out."""
    SILENT = "silent"
    """Takes every message, sends nothing more; the connection stays open."""
    NACK = "nack"
    """Refuses every request with a MessageNotAck."""
    LATE = "late"
    """Sends everything `delay_s` late."""
    GARBLED = "garbled"
    """One character of each message is wrong, so that it is no JSON."""
    DISCONNECTED = "disconnected"
    """The network is gone: connections are cut and none can be made."""


class GroupFault(StrEnum):
    """What can be wrong with a signal group."""

    LAMP_FAILURE = "lamp_failure"
    """Its red lamps are out: failure mode (A0201, with the group)."""


class DetectorFault(StrEnum):
    """What can be wrong with a detector."""

    DETECTOR_STUCK = "detector_stuck"
    """Says that somebody is there for ever; after a while the controller notices (A0302)."""


class OpcUaFault(StrEnum):
    """What can be wrong with an OPC UA server and the way to it."""

    SILENT = "silent"
    """Takes connections and requests, never answers."""
    LATE = "late"
    """Answers `delay_s` later."""
    REFUSED = "refused"
    """Nothing listens on the port; open connections are closed."""
    CLOSED = "closed"
    """Closes each connection."""
    MUTE = "mute"
    """Answers requests, but its subscriptions publish nothing, not even keep-alives."""
    RESTARTED = "restarted"
    """The server has begun anew, its namespaces under other indices; at the end it does so once more."""


class StationFault(StrEnum):
    """What can be wrong with one pumping station behind an OPC UA server."""

    SILENT = "silent"
    """The server has lost it: BadNoCommunication instead of values."""
    LATE = "late"
    """A read that touches it is answered `delay_s` later."""
    GARBLED = "garbled"
    """Its values are of another data type than they should be."""
    BAD_STATUS = "bad_status"
    """BadSensorFailure instead of what is measured."""
    UNCERTAIN = "uncertain"
    """What is measured comes with UncertainLastUsableValue."""
    FROZEN = "frozen"
    """Its values stay as they were, and good."""
    PUMP_FAILURE = "pump_failure"
    """The motor protection of its first pump has gone."""
    HIGH_INFLOW = "high_inflow"
    """A cloudburst: more flows in than both pumps can lift."""


class RadioFault(StrEnum):
    """What can be wrong with a radio sensor, its gateway, or the air between them."""

    SILENT = "silent"
    """The sensor transmits nothing."""
    LOST = "lost"
    """Each uplink is lost with `probability`."""
    DUPLICATE = "duplicate"
    """Each uplink is heard by two antennas, and its datagram arrives twice."""
    REPLAY = "replay"
    """Somebody sends a frame again that the server has had, every `every_s`."""
    FORGED = "forged"
    """Somebody without a key sends a frame in the sensor's name, every `every_s`."""
    BAD_CRC = "bad_crc"
    """Each uplink is heard with flipped bits and a wrong CRC, with `probability`."""
    GARBAGE = "garbage"
    """The server gets random datagrams from the gateway's port, every `every_s`."""
    NO_DOWNLINK = "no_downlink"
    """The gateway answers each downlink that it is too late."""
    GATEWAY_GONE = "gateway_gone"
    """No datagram leaves the gateway, and none reaches it."""
    COUNTER_RESET = "counter_reset"
    """The sensor restarts with its old session and its counter at nought; at the end it joins again."""
    LATE = "late"
    """Uplinks reach the server `delay_s` late, as over a bad mobile link."""


FaultKind = TypeVar("FaultKind", bound=StrEnum)


class FaultSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How bad it is. Each fault reads only what its description names; None takes its default.

    Attributes:
        delay_s: real seconds, 0–60.
        code: Modbus exception code, 1–255.
        probability: for each byte or frame, 0–1.
        every_s: real seconds between bursts of noise or attacks, 0.01–60.
        factor: multiplier of a drifting sensor, 0–10.
    """

    delay_s: Annotated[float, msgspec.Meta(ge=0, le=60)] | None = None
    code: Annotated[int, msgspec.Meta(ge=1, le=255)] | None = None
    probability: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    every_s: Annotated[float, msgspec.Meta(ge=0.01, le=60)] | None = None
    factor: Annotated[float, msgspec.Meta(ge=0, le=10)] | None = None


class Board(Generic[FaultKind]):
    """The faults of one kind that one target has now."""

    def __init__(self, kind: type[FaultKind]) -> None:
        self.kind = kind
        self._active: dict[FaultKind, FaultSettings] = {}

    def __contains__(self, fault: FaultKind) -> bool:
        return fault in self._active

    def set(self, fault: FaultKind, settings: FaultSettings) -> None:
        """Hang a fault up, or change its settings."""
        self._active[fault] = settings

    def clear(self, fault: FaultKind) -> None:
        """Take a fault down; one that is not there is no error."""
        self._active.pop(fault, None)

    def settings(self, fault: FaultKind) -> FaultSettings:
        """Return a hanging fault's settings, or all defaults."""
        return self._active.get(fault, FaultSettings())

    def names(self) -> list[str]:
        """Return the names of what hangs here, sorted."""
        return sorted(fault.value for fault in self._active)
