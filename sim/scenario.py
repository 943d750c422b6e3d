"""A scenario: what stands on the bench and what happens to it, as one TOML file.

Decoding is strict and names every fault at once, each with its key and what was expected; nothing is started
from a scenario that has one.
"""

import tomllib
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from protocols.clock import BenchTime
from protocols.strict import SettingsFault, read
from sim.bus_service import DRIVE, BusSettings
from sim.cabinet import Switch
from sim.faults import (
    CabinetFault,
    DetectorFault,
    FaultSettings,
    GroupFault,
    JunctionFault,
    LampFault,
    LineFault,
    LuxFault,
    ModbusFault,
    OpcUaFault,
    SerialFault,
    StationFault,
)
from sim.junction_design import design_faults
from sim.junction_settings import JunctionSettings
from sim.lux import SKY
from sim.radio_settings import RadioSettings, radio_complaints, radio_targets
from sim.targets import switches_fault

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
TcpPort = Annotated[int, msgspec.Meta(ge=0, le=65535)]
UnitId = Annotated[int, msgspec.Meta(ge=1, le=247)]
Level = Annotated[int, msgspec.Meta(ge=0, le=254)]
Parity = Literal["none", "even", "odd"]
Supply = Literal["integrated", "external"]
OpcUaSecurity = Literal["none", "Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"]


class BenchSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bench's civil time; without this table it is the wall clock's.

    Attributes:
        start: civil time at the origin, with its offset.
        speed: civil seconds for each real second.
        origin_monotonic_ms: monotonic moment of `start`; None is when the bench starts.
        unhurried: monotonic milliseconds [from, to) within which the speed is 1; needs `origin_monotonic_ms`.
    """

    start: datetime
    speed: Positive = 1.0
    origin_monotonic_ms: int | None = None
    unhurried: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        """Refuse windows that no bench time could have."""
        if self.origin_monotonic_ms is not None:
            BenchTime(self.origin_monotonic_ms, 0, self.speed, self.unhurried)
        elif self.unhurried:
            raise ValueError("unhurried: expected together with origin_monotonic_ms")


class LocationSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the sun is looked up; Dijon unless said otherwise. Degrees north and east."""

    latitude: Annotated[float, msgspec.Meta(ge=-90, le=90)] = 47.32
    longitude: Annotated[float, msgspec.Meta(ge=-180, le=180)] = 5.04


class DaliSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One DALI line behind a LUBA interface.

    Attributes:
        port: path of the pty's symlink.
        gear: how many control gear, with short addresses from 0.
        level: arc power level of all gear at the start.
        groups: for each group number (as text), the short addresses in it.
        supply: who feeds the bus; an integrated supply is switched by the interface's settings.
        queue: forward frames that the interface holds.
        jitter: draw settling and reply times from their whole range instead of taking the middle.
    """

    name: Name
    port: str
    gear: Annotated[int, msgspec.Meta(ge=0, le=64)] = 24
    rated_w: Positive = 50.0
    standby_w: NotNegative = 0.5
    physical_minimum: Annotated[int, msgspec.Meta(ge=1, le=254)] = 85
    device_types: tuple[Annotated[int, msgspec.Meta(ge=0, le=253)], ...] = (6, 51)
    level: Level = 0
    groups: dict[str, tuple[int, ...]] = {}
    supply: Supply = "integrated"
    queue: Annotated[int, msgspec.Meta(ge=1, le=255)] = 16
    jitter: bool = False


class CabinetSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cabinet inputs and outputs on an RTU line."""

    unit: UnitId = 1
    name: Name = "cabinet"


class LuxSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A daylight sensor on an RTU line."""

    unit: UnitId = 2
    name: Name = "lux"


class RtuSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One Modbus RTU line."""

    name: Name
    port: str
    baud: Annotated[int, msgspec.Meta(ge=1200, le=115200)] = 19200
    parity: Parity = "even"
    cabinet: CabinetSettings | None = None
    lux: LuxSettings | None = None


class MeterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The energy meter on Modbus TCP. Port 0 takes any free one, which is reported.

    Attributes:
        base_load_w: what the cabinet itself draws, on phase 1.
        start_kwh: what the meter had counted before.
    """

    name: Name = "meter"
    host: str = "127.0.0.1"
    port: TcpPort = 0
    unit: UnitId = 1
    base_load_w: NotNegative = 15.0
    start_kwh: NotNegative = 0.0


class CounterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Counting devices on Modbus TCP, on consecutive ports from `port`; with 0 each takes any free one.

    With `spread` each register begins its count at a number of its own. With `journal`, a file that is begun anew,
    each answer that left whole is written down with its moment and its counts.
    """

    name: Name = "counter"
    count: Annotated[int, msgspec.Meta(ge=1, le=500)] = 1
    registers: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 20
    host: str = "127.0.0.1"
    port: TcpPort = 0
    unit: UnitId = 1
    spread: bool = False
    journal: str | None = None


class PumpingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An OPC UA server with pumping stations, `<name>-1` and `-2`. Port 0 takes any free one, which is reported.

    Its certificate is made at its start, in `<name>-pki` in the scenario's folder; clients are let in by the
    certificates in `<name>-pki/trusted`, and all of them while none lies there.

    Attributes:
        stations: how many.
        security: its security policy; with "none" it offers no other, which is for loopback only.
        user: who has to log in; "" for nobody.
        password: with which password: a bench's, so it may stand here.
    """

    name: Name = "pumps"
    host: str = "127.0.0.1"
    port: TcpPort = 0
    stations: Annotated[int, msgspec.Meta(ge=1, le=2)] = 1
    security: OpcUaSecurity = "Basic256Sha256"
    user: str = ""
    password: str = ""


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that happens by itself: a fault begins or ends, a switch is set.

    Attributes:
        at_s: real seconds after the start; or
        civil: the bench's civil time, with its offset.
        target: name of a line or device, or of a part of one (`dali-1/3`, `junction-1/2`, `radio-1/bin-1`).
        fault: name of a fault that begins; or
        clear: name of a fault that ends, `*` for all; or
        set: switches to set, by name.
        for_s: real seconds after which the fault ends by itself.
        settings: how bad the fault is.
    """

    target: str
    at_s: NotNegative | None = None
    civil: datetime | None = None
    fault: str | None = None
    clear: str | None = None
    set: dict[str, bool | float] | None = None
    for_s: Positive | None = None
    settings: FaultSettings = FaultSettings()


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole bench.

    Attributes:
        control: path of the control socket; relative paths start at the scenario's folder.
        seed: of everything random.
    """

    control: str | None = "luciole-sim.sock"
    seed: int = 1
    bench: BenchSettings | None = None
    location: LocationSettings = LocationSettings()
    dali: tuple[DaliSettings, ...] = ()
    rtu: tuple[RtuSettings, ...] = ()
    meter: MeterSettings | None = None
    counter: tuple[CounterSettings, ...] = ()
    junction: tuple[JunctionSettings, ...] = ()
    bus: tuple[BusSettings, ...] = ()
    pumping_station: tuple[PumpingSettings, ...] = ()
    radio: tuple[RadioSettings, ...] = ()
    event: tuple[Event, ...] = ()


class ScenarioError(Exception):
    """A scenario cannot be played: every fault, each with file, key and what was expected."""

    def __init__(self, source: str, complaints: list[SettingsFault]) -> None:
        self.source = source
        self.complaints = complaints
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """Return one line for each fault."""
        return [f"{self.source}: {complaint}" for complaint in self.complaints]


def load(path: Path) -> Scenario:
    """Read and check a scenario file.

    Raises:
        ScenarioError: it cannot be read or has faults; all of them are named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(str(path), [SettingsFault("", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ScenarioError(str(path), [SettingsFault("", f"is not TOML: {error}")]) from error
    return parse(text, str(path))


def parse(text: str, source: str = "scenario") -> Scenario:
    """Check the text of a scenario.

    Raises:
        ScenarioError: it has faults; all of them are named.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(source, [SettingsFault("", f"is not TOML: {error}")]) from error
    scenario = read(tables, Scenario)
    if isinstance(scenario, Scenario):
        complaints = check(scenario)
        if not complaints:
            return scenario
    else:
        complaints = scenario + _check_what_is_sound(tables)
    raise ScenarioError(source, complaints)


def _check_what_is_sound(tables: dict[str, object]) -> list[SettingsFault]:
    """Check the sections that could be read, so that one fault does not hide the others."""
    sound = {
        key: value for key, value in tables.items() if isinstance(read({key: value}, Scenario), Scenario)
    }
    scenario = read(sound, Scenario)
    if not isinstance(scenario, Scenario):
        return []
    # with a section missing, a target may well exist that we do not know of
    return [fault for fault in check(scenario) if not fault.key.endswith(".target")]


def check(scenario: Scenario) -> list[SettingsFault]:
    """Return what the types cannot say: names and ports used twice, times without offset, unknown targets."""
    return [
        *_times(scenario),
        *_twice("name", _names(scenario)),
        *_twice("port", _ports(scenario)),
        *_groups(scenario),
        *_units(scenario),
        *_one_cabinet(scenario),
        *_tcp_ports(scenario),
        *_junctions(scenario),
        *_buses(scenario),
        *_unsecured(scenario),
        *radio_complaints(scenario.radio),
        *_events(scenario),
    ]


def target_faults(scenario: Scenario) -> dict[str, frozenset[str]]:
    """Return every target and the faults that it can have."""
    serial = frozenset(SerialFault)
    modbus = frozenset(ModbusFault)
    targets: dict[str, frozenset[str]] = {}
    for line in scenario.dali:
        targets[line.name] = frozenset(LineFault) | serial
        targets |= {f"{line.name}/{address}": frozenset(LampFault) for address in range(line.gear)}
    for bus in scenario.rtu:
        targets[bus.name] = serial
        if bus.cabinet is not None:
            targets[bus.cabinet.name] = modbus | frozenset(CabinetFault)
        if bus.lux is not None:
            targets[bus.lux.name] = modbus | frozenset(LuxFault)
    targets |= dict.fromkeys(_tcp_names(scenario), modbus)
    targets |= {bus.name: frozenset() for bus in scenario.bus}
    for junction in scenario.junction:
        groups = range(1, len(junction.design.groups) + 1)
        targets[junction.name] = frozenset(JunctionFault)
        targets |= {f"{junction.name}/{number}": frozenset(GroupFault) for number in groups}
        targets |= {
            f"{junction.name}/{detector.name}": frozenset(DetectorFault)
            for detector in junction.design.detectors
        }
    for pumping in scenario.pumping_station:
        targets[pumping.name] = frozenset(OpcUaFault)
        targets |= dict.fromkeys(station_names(pumping), frozenset(StationFault))
    return targets | radio_targets(scenario.radio)


def switch_names(scenario: Scenario) -> dict[str, frozenset[str]]:
    """Return every target whose switches can be set, and their names."""
    names = {}
    for bus in scenario.rtu:
        if bus.cabinet is not None:
            names[bus.cabinet.name] = frozenset(switch.value for switch in Switch)
        if bus.lux is not None:
            names[bus.lux.name] = frozenset({SKY})
    return names | {bus.name: frozenset({DRIVE}) for bus in scenario.bus}


def counter_names(settings: CounterSettings) -> list[str]:
    """Return the names of a line of counting devices: `counter-1` …, or just its own if there is one."""
    if settings.count == 1:
        return [settings.name]
    return [f"{settings.name}-{number}" for number in range(1, settings.count + 1)]


def station_names(settings: PumpingSettings) -> list[str]:
    """Return the names of the stations behind an OPC UA server."""
    return [f"{settings.name}-{number}" for number in range(1, settings.stations + 1)]


def _tcp_names(scenario: Scenario) -> list[str]:
    meter = [scenario.meter.name] if scenario.meter else []
    return meter + [name for settings in scenario.counter for name in counter_names(settings)]


def _names(scenario: Scenario) -> list[tuple[str, str]]:
    named = [(f"dali[{index}].name", line.name) for index, line in enumerate(scenario.dali)]
    for index, bus in enumerate(scenario.rtu):
        named.append((f"rtu[{index}].name", bus.name))
        named += [
            (f"rtu[{index}].{unit.name}.name", unit.name)
            for unit in (bus.cabinet, bus.lux)
            if unit is not None
        ]
    named += [(f"junction[{index}].name", each.name) for index, each in enumerate(scenario.junction)]
    named += [(f"bus[{index}].name", each.name) for index, each in enumerate(scenario.bus)]
    for index, pumping in enumerate(scenario.pumping_station):
        key = f"pumping_station[{index}].name"
        named += [(key, name) for name in (pumping.name, *station_names(pumping))]
    named += [(f"radio[{index}].name", radio.name) for index, radio in enumerate(scenario.radio)]
    return named + [(f"{name}.name", name) for name in _tcp_names(scenario)]


def _ports(scenario: Scenario) -> list[tuple[str, str]]:
    dali = [(f"dali[{index}].port", line.port) for index, line in enumerate(scenario.dali)]
    return dali + [(f"rtu[{index}].port", bus.port) for index, bus in enumerate(scenario.rtu)]


def _twice(what: str, keyed: list[tuple[str, str]]) -> list[SettingsFault]:
    seen: set[str] = set()
    complaints = []
    for key, value in keyed:
        if value in seen:
            complaints.append(SettingsFault(key, f"expected a {what} of its own, {value!r} is taken"))
        seen.add(value)
    return complaints


def _groups(scenario: Scenario) -> list[SettingsFault]:
    complaints = []
    for index, line in enumerate(scenario.dali):
        for number, members in line.groups.items():
            key = f"dali[{index}].groups.{number}"
            if number not in {str(group) for group in range(16)}:
                complaints.append(SettingsFault(key, "expected a group number 0–15"))
            if any(not 0 <= member < line.gear for member in members):
                complaints.append(SettingsFault(key, f"expected short addresses 0–{line.gear - 1}"))
        if line.level and line.level < line.physical_minimum:
            expected = f"expected 0 or at least the physical minimum {line.physical_minimum}"
            complaints.append(SettingsFault(f"dali[{index}].level", expected))
    return complaints


def _units(scenario: Scenario) -> list[SettingsFault]:
    return [
        SettingsFault(
            f"rtu[{index}].lux.unit", f"expected a unit id of its own, {bus.lux.unit} is the cabinet's"
        )
        for index, bus in enumerate(scenario.rtu)
        if bus.cabinet is not None and bus.lux is not None and bus.cabinet.unit == bus.lux.unit
    ]


def _one_cabinet(scenario: Scenario) -> list[SettingsFault]:
    with_cabinet = [index for index, bus in enumerate(scenario.rtu) if bus.cabinet is not None]
    return [
        SettingsFault(f"rtu[{index}].cabinet", "expected one cabinet a street") for index in with_cabinet[1:]
    ]


def _tcp_ports(scenario: Scenario) -> list[SettingsFault]:
    keyed = [("meter.port", scenario.meter.port)] if scenario.meter and scenario.meter.port else []
    complaints = []
    for index, settings in enumerate(scenario.counter):
        key = f"counter[{index}].port"
        if settings.port + settings.count - 1 > 65535:
            complaints.append(SettingsFault(key, f"expected room for {settings.count} ports up to 65535"))
        if settings.port:
            keyed += [(key, settings.port + number) for number in range(settings.count)]
    stations = enumerate(scenario.pumping_station)
    keyed += [(f"pumping_station[{index}].port", one.port) for index, one in stations if one.port]
    return complaints + _twice("port", [(key, str(port)) for key, port in keyed])


def _junctions(scenario: Scenario) -> list[SettingsFault]:
    return [
        SettingsFault(f"junction[{index}].design", fault)
        for index, junction in enumerate(scenario.junction)
        for fault in design_faults(junction.design)
    ]


def _buses(scenario: Scenario) -> list[SettingsFault]:
    junctions = {junction.name: junction for junction in scenario.junction}
    complaints = []
    for index, bus in enumerate(scenario.bus):
        key = f"bus[{index}]"
        junction = junctions.get(bus.junction)
        if junction is None:
            known = ", ".join(sorted(junctions)) or "none"
            complaints.append(SettingsFault(f"{key}.junction", f"expected one of {known}"))
        else:
            complaints += _bus_parts(key, bus, junction)
        if bool(bus.datagram_to) != bool(bus.fleet_key):
            complaints.append(
                SettingsFault(f"{key}.fleet_key", "expected together with datagram_to, both or none")
            )
        if bus.route is not None and (
            len(bus.route) < 2 or any(one == other for one, other in pairwise(bus.route))
        ):
            complaints.append(
                SettingsFault(f"{key}.route", "expected two points or more, each somewhere else")
            )
    return complaints


def _bus_parts(key: str, bus: BusSettings, junction: JunctionSettings) -> list[SettingsFault]:
    complaints = []
    if bus.the_group > len(junction.design.groups):
        complaints.append(SettingsFault(f"{key}.group", f"expected 1–{len(junction.design.groups)}"))
    known = {detector.name for detector in junction.design.detectors}
    for field, name in (("check_in", bus.check_in_name), ("exit", bus.exit_name)):
        if name not in known:
            expected = f"expected one of {', '.join(sorted(known)) or 'none'}; not {name!r}"
            complaints.append(SettingsFault(f"{key}.{field}", expected))
    return complaints


def _unsecured(scenario: Scenario) -> list[SettingsFault]:
    return [
        SettingsFault(f"pumping_station[{index}].security", f"expected a policy; {one.host} is not loopback")
        for index, one in enumerate(scenario.pumping_station)
        if one.security == "none" and one.host not in {"127.0.0.1", "::1", "localhost"}
    ]


def _times(scenario: Scenario) -> list[SettingsFault]:
    keyed = [("bench.start", scenario.bench.start)] if scenario.bench else []
    for index, event in enumerate(scenario.event):
        if event.civil is not None:
            keyed.append((f"event[{index}].civil", event.civil))
    return [
        SettingsFault(key, "expected a time with its offset, such as 2026-11-24T22:05:00+01:00")
        for key, moment in keyed
        if moment.tzinfo is None
    ]


def _events(scenario: Scenario) -> list[SettingsFault]:
    targets = target_faults(scenario)
    complaints = []
    for index, event in enumerate(scenario.event):
        complaints += _event(f"event[{index}]", event, targets, scenario)
    return complaints


def _event(
    key: str, event: Event, targets: dict[str, frozenset[str]], scenario: Scenario
) -> list[SettingsFault]:
    complaints = []
    if (event.at_s is None) == (event.civil is None):
        complaints.append(SettingsFault(key, "expected either at_s or civil"))
    if sum(action is not None for action in (event.fault, event.clear, event.set)) != 1:
        complaints.append(SettingsFault(key, "expected exactly one of fault, clear, set"))
    if event.for_s is not None and event.fault is None:
        complaints.append(SettingsFault(f"{key}.for_s", "expected only with fault"))
    faults = targets.get(event.target)
    if faults is None:
        known = ", ".join(sorted(name for name in targets if "/" not in name)) or "none"
        expected = (
            f"expected one of {known}, or a part such as dali-1/3 or junction-1/2; not {event.target!r}"
        )
        return [*complaints, SettingsFault(f"{key}.target", expected)]
    return complaints + _event_action(key, event, faults, scenario)


def _event_action(key: str, event: Event, faults: frozenset[str], scenario: Scenario) -> list[SettingsFault]:
    complaints = []
    for field, name, known in (("fault", event.fault, faults), ("clear", event.clear, faults | {"*"})):
        if name is not None and name not in known:
            expected = f"expected one of {', '.join(sorted(known))}; not {name!r}"
            complaints.append(SettingsFault(f"{key}.{field}", expected))
    if event.set is not None:
        reason = switches_fault(switch_names(scenario), event.target, event.set)
        if reason is not None:
            complaints.append(SettingsFault(f"{key}.set", reason))
    return complaints
