"""What a bench tells: where everything is, how it is, what it has counted. All of it goes out as JSON."""

import msgspec

from protocols.clock import BenchTime
from sim.bench_line import BenchLineState
from sim.cabinet import CabinetState
from sim.radio import RadioCounters, RadioState


class ModbusState(msgspec.Struct, frozen=True):
    """What the bench tells of a Modbus unit: a TCP address, or the RTU line it hangs on."""

    unit: int
    faults: list[str]
    host: str | None = None
    port: int | None = None
    connections: int | None = None
    line: str | None = None


class RtuLineState(msgspec.Struct, frozen=True):
    """What the bench tells of an RTU line."""

    port: str
    device: str | None
    port_faults: list[str]
    bad_frames: int
    lost_bytes: int


class MeterState(msgspec.Struct, frozen=True):
    """What the meter measures now."""

    total_w: float
    energy_kwh: float


class LuxState(msgspec.Struct, frozen=True):
    """Daylight, and what the sensor makes of it."""

    daylight_lx: float
    reading_lx: float
    sun_deg: float
    faults: list[str]


class StreetState(msgspec.Struct, frozen=True):
    """Everything that the bench tells.

    Attributes:
        civil_utc_ms: the bench's civil time.
        lines: DALI lines by name.
        rtu: RTU lines by name.
        modbus: Modbus units by name.
        radio: gateways by name, with their sensors.
    """

    civil_utc_ms: int
    speed: float
    lines: dict[str, BenchLineState]
    rtu: dict[str, RtuLineState]
    modbus: dict[str, ModbusState]
    meter: MeterState | None
    cabinet: CabinetState | None
    lux: dict[str, LuxState]
    radio: dict[str, RadioState] = {}


class LineCounters(msgspec.Struct, frozen=True):
    """What a DALI line has counted: frames by kind; per gear, answers by opcode and level changes."""

    frames: dict[str, int]
    collisions: int
    answers: dict[str, dict[str, int]]
    level_changes: dict[str, int]


class Counters(msgspec.Struct, frozen=True):
    """What the simulated hardware has counted by itself, by name of line, Modbus unit and gateway."""

    lines: dict[str, LineCounters]
    modbus: dict[str, dict[str, dict[str, int]]]
    radio: dict[str, RadioCounters] = {}


class Ports(msgspec.Struct, frozen=True):
    """Where everything is."""

    pid: int
    control: str | None
    serial: dict[str, str]
    tcp: dict[str, tuple[str, int]]
    bench: BenchTime
