"""What a bench tells: where everything is, how it is, what it has counted. All of it goes out as JSON."""

import msgspec

from protocols.clock import BenchTime
from sim.bench_line import BenchLineState
from sim.bus import Passage, VehiclePosition
from sim.cabinet import CabinetState
from sim.priority import PriorityTotals
from sim.radio import RadioCounters, RadioState
from sim.signal_controller import RsmpCounters
from sim.wet_well import WellState


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


class RequestState(msgspec.Struct, frozen=True):
    """What a signal controller says of one priority request; the group by its number, seconds of its clock."""

    id: str
    state: str
    group: int | None
    level: int
    extension_s: int | None
    reduction_s: int | None


class JunctionState(msgspec.Struct, frozen=True):
    """What a signal controller shows and says.

    Attributes:
        mode: control mode, as S0020.
        position: functional position, as M0001.
        plan: number of the time plan.
        signals: one character for each group, as S0001.
        lamps: what each group shows, by its number.
        alarms: codes, those of parts with their number.
        hazard: what its conflict monitor saw, or None.
        ready: whether messages are exchanged freely with the supervisor.
    """

    mode: str
    position: str
    plan: int
    stage: int
    cycle_counter: int
    signals: str
    lamps: dict[str, str]
    requests: list[RequestState]
    detectors: dict[str, bool]
    alarms: list[str]
    hazard: str | None
    supervisor: str
    connected: bool
    ready: bool
    faults: list[str]


class BusState(msgspec.Struct, frozen=True):
    """Where a bus is, and what its last rides took.

    Attributes:
        riding: whether it is on the road.
        journeys: rides begun.
        last: what it said last, or None.
        passages: its latest rides, oldest first.
    """

    riding: bool
    journeys: int
    last: VehiclePosition | None
    passages: list[Passage]


class StationState(msgspec.Struct, frozen=True):
    """What the bench tells of one pumping station."""

    well: WellState
    faults: list[str]


class PumpingState(msgspec.Struct, frozen=True):
    """What the bench tells of an OPC UA server with pumping stations.

    Attributes:
        url: where clients find it.
        certificate: path of its certificate (DER); None without security.
        connections: how many were accepted since the start.
        faults: those of the server.
        stations: by name.
    """

    host: str
    port: int
    url: str
    certificate: str | None
    connections: int
    faults: list[str]
    stations: dict[str, StationState]


class StreetState(msgspec.Struct, frozen=True):
    """Everything that the bench tells.

    Attributes:
        civil_utc_ms: the bench's civil time.
        lines: DALI lines by name.
        rtu: RTU lines by name.
        modbus: Modbus units by name.
        junctions: signal controllers by name.
        buses: by name.
        pumping: OPC UA servers with pumping stations, by name.
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
    junctions: dict[str, JunctionState] = {}
    buses: dict[str, BusState] = {}
    pumping: dict[str, PumpingState] = {}
    radio: dict[str, RadioState] = {}


class LineCounters(msgspec.Struct, frozen=True):
    """What a DALI line has counted: frames by kind; per gear, answers by opcode and level changes."""

    frames: dict[str, int]
    collisions: int
    answers: dict[str, dict[str, int]]
    level_changes: dict[str, int]


class JunctionCounters(msgspec.Struct, frozen=True):
    """What a signal controller has counted by itself.

    Attributes:
        requests: priority requests received.
        granted: those that were activated and ended as completed.
        green_seconds_gained: green extension and red reduction of those that were completed, together.
        priority: by state, and the rest of the book.
        rsmp: what passed on the wire.
        detectors: how often each became occupied.
    """

    requests: int
    granted: int
    green_seconds_gained: int
    priority: PriorityTotals
    rsmp: RsmpCounters
    detectors: dict[str, int]


class BusCounters(msgspec.Struct, frozen=True):
    """What a bus has timed over all its rides.

    Attributes:
        rides: that are over.
        stopped_at_red_s: seconds that it stood because its signal was not green.
        approach_s: seconds from check-in to the stop line.
    """

    rides: int
    stopped_at_red_s: float
    approach_s: float


class PumpingCounters(msgspec.Struct, frozen=True):
    """Values that an OPC UA server has given to its clients, by node: when asked, and by subscription."""

    reads: dict[str, int]
    published: dict[str, int]


class Counters(msgspec.Struct, frozen=True):
    """What the simulated hardware has counted by itself, each by its name."""

    lines: dict[str, LineCounters]
    modbus: dict[str, dict[str, dict[str, int]]]
    pumping: dict[str, PumpingCounters] = {}
    radio: dict[str, RadioCounters] = {}
    junctions: dict[str, JunctionCounters] = {}
    buses: dict[str, BusCounters] = {}


class Ports(msgspec.Struct, frozen=True):
    """Where everything is."""

    pid: int
    control: str | None
    serial: dict[str, str]
    tcp: dict[str, tuple[str, int]]
    bench: BenchTime
