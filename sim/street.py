"""A street on a bench: lamps on DALI lines, cabinet, meter, daylight, junctions and buses, all at the wire.

In a test:

    street = Street.from_scenario(Path("street.toml"))                # or Street(scenario, folder)
    async with street:
        street.ports()                                                # where everything is
        await street.fault("dali-1/3", "lamp_failure")                # .clear(target, name), .clear(target)
        street.set("cabinet", {"door_open": True})
        street.lines["dali-1"].gear[3].level(street.now_s())          # a gear itself
        street.junctions["junction-1"].junction.is_green(2)           # the lamps of a junction
        street.state(), street.counters()                             # structs; msgspec.to_builtins for JSON

A client that blocks needs the street in a loop of its own: `with StreetThread(scenario, folder) as street:`
(`sim.street_thread`) has the same methods for any thread. From a shell it is `luciole-sim`.

Everything runs in one event loop. Serial ports are ptys under the symlinks that the scenario names.
"""

import asyncio
import os
import random
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog

from protocols.clock import BenchTime
from sim import crossing
from sim.bench_line import BenchLine, serial_switches
from sim.bus_service import BusService, BusSettings, Teller
from sim.cabinet import Cabinet, Switch
from sim.clock import BenchClock, real_time_from
from sim.control import ControlSocket
from sim.counter import CountingDevice, Journal
from sim.faults import CabinetFault, FaultSettings, LuxFault, ModbusFault
from sim.lux import LuxSensor, sun_elevation_deg
from sim.meter import Meter, StreetFeed
from sim.modbus_server import RtuServer, Station, TcpServer
from sim.radio import Radio
from sim.radio_settings import RadioSettings
from sim.radio_truth import Truth
from sim.registers import RegisterDevice
from sim.report import (
    Counters,
    LineCounters,
    LuxState,
    MeterState,
    ModbusState,
    Ports,
    RtuLineState,
    StreetState,
)
from sim.scenario import (
    BenchSettings,
    CounterSettings,
    Event,
    LuxSettings,
    MeterSettings,
    PumpingSettings,
    RtuSettings,
    Scenario,
    counter_names,
    load,
    switch_names,
)
from sim.schedule import LoopSchedule, Schedule, Timer
from sim.serial_port import SerialPort
from sim.signal_controller import SignalController
from sim.targets import FaultSwitch, Targets, UnknownError, switches_fault

if TYPE_CHECKING:
    from sim.pumping_station import PumpingStation

_log = structlog.get_logger(__name__)

_BITS_PER_BYTE = {"none": 10, "even": 11, "odd": 11}


class Street:
    """Everything on one bench.

    Args:
        scenario: what stands there and what happens.
        folder: where relative paths of the scenario start.

    Attributes:
        lines: DALI lines by name.
        junctions: signal controllers by name.
        buses: by name.
        pumping: OPC UA servers with pumping stations by name.
        radios: gateways with their sensors by name.
        clock: the bench's clock; there from the start of the street on.
        stopped: set when somebody asked over the control socket that the bench end.
        happened: the scenario's events, in the order in which they were carried out.
    """

    clock: BenchClock

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario = scenario
        self.folder = folder
        self.lines: dict[str, BenchLine] = {}
        self.targets = Targets()
        self.stopped = asyncio.Event()
        self.happened: asyncio.Queue[Event] = asyncio.Queue()
        self.cabinet: Cabinet | None = None
        self.meter: Meter | None = None
        self.lux: dict[str, LuxSensor] = {}
        self.junctions: dict[str, SignalController] = {}
        self.buses: dict[str, BusService] = {}
        self.pumping: dict[str, PumpingStation] = {}
        self.radios: dict[str, Radio] = {}
        self._stations: dict[str, Station] = {}
        self._rtu: dict[str, RtuServer] = {}
        self._tcp: dict[str, TcpServer] = {}
        self._feed: StreetFeed | None = None
        self._journals: dict[str, Journal] = {}
        self._timers: list[Timer] = []
        self._ending: dict[tuple[str, str], Timer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._control: ControlSocket | None = None

    @classmethod
    def from_scenario(cls, path: Path, folder: Path | None = None) -> Self:
        """Return the street of a scenario file.

        Args:
            path: of the file.
            folder: where its relative paths start; None is the file's own folder.

        Raises:
            ScenarioError: the file has faults.
        """
        return cls(load(path), path.resolve().parent if folder is None else folder)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Build everything, open every port, let the scenario's events come.

        Raises:
            OSError: a port is taken or a path cannot be made; nothing stays open.
        """
        self._schedule = LoopSchedule(asyncio.get_running_loop())
        self.clock = BenchClock(self._schedule, _bench_time(self.scenario.bench, self._schedule))
        try:
            self._build()
            await self._open()
        except OSError:
            await self.stop()
            raise
        started_s = self.now_s()
        for event in self.scenario.event:
            self._plan(event, started_s)

    async def stop(self) -> None:
        """Close every port and take every path away."""
        for timer in (*self._timers, *self._ending.values()):
            timer.cancel()
        if self._control is not None:
            await self._control.stop()
        for task in tuple(self._tasks):
            await task
        for service in self.buses.values():
            service.stop()
        for controller in self.junctions.values():
            await controller.stop()
        for server in self._tcp.values():
            await server.stop()
        for pumping in self.pumping.values():
            await pumping.stop()
        for radio in self.radios.values():
            radio.close()
        for port in self._serial_ports().values():
            port.close()
        for journal in self._journals.values():
            journal.close()

    def now_s(self) -> float:
        """Return the monotonic seconds in which the bench's hardware lives."""
        return self._schedule.time()

    async def fault(
        self,
        target: str,
        name: str,
        *,
        for_s: float | None = None,
        settings: FaultSettings | None = None,
    ) -> None:
        """Let a fault begin; with `for_s` it ends by itself.

        Raises:
            UnknownError: no such target or fault.
        """
        switch = self.targets.switch(target, name)
        self._forget_end(target, name)
        await _done(switch.begin(settings or FaultSettings()))
        if for_s is not None:
            when_s = self.now_s() + for_s
            self._ending[target, name] = self._schedule.call_at(
                when_s, lambda: self._spawn(self._end_by_itself(target, name))
            )

    async def clear(self, target: str, name: str = "*") -> None:
        """Let a fault end, or all of a target's.

        Raises:
            UnknownError: no such target or fault.
        """
        names = self.targets.faults(target) if name == "*" else [name]
        for each in names:
            switch = self.targets.switch(target, each)
            self._forget_end(target, each)
            await _done(switch.end())

    def set(self, target: str, switches: dict[str, bool | float]) -> None:
        """Set the cabinet's switches (`door_open` …), a daylight sensor's `sky`, or let a bus `drive`.

        Raises:
            UnknownError: no such target or switch.
        """
        reason = switches_fault(switch_names(self.scenario), target, switches)
        if reason is not None:
            raise UnknownError(reason)
        for name, value in switches.items():
            if target in self.lux:
                self.lux[target].sky = float(value)
            elif target in self.buses:
                if value:
                    self.buses[target].drive()
            elif self.cabinet is not None:
                self.cabinet.set(Switch(name), bool(value))

    def ports(self) -> Ports:
        """Return where everything is."""
        return Ports(
            pid=os.getpid(),
            control=None if self._control is None else str(self._control.path),
            serial={name: str(port.link) for name, port in self._serial_ports().items()},
            tcp={name: (server.host, server.port) for name, server in self._tcp.items()}
            | {name: (pumping.front.host, pumping.front.port) for name, pumping in self.pumping.items()},
            bench=self.clock.bench,
        )

    def state(self) -> StreetState:
        """Return how everything is."""
        at_s = self.now_s()
        return StreetState(
            civil_utc_ms=self.clock.civil().utc_ms,
            speed=self.clock.speed,
            lines={name: line.state(at_s) for name, line in self.lines.items()},
            rtu={name: _rtu_state(server) for name, server in self._rtu.items()},
            modbus=self._modbus_state(),
            meter=self._meter_state(at_s),
            cabinet=None if self.cabinet is None else self.cabinet.state(),
            lux={name: self._lux_state(sensor) for name, sensor in self.lux.items()},
            junctions={name: crossing.junction_state(each) for name, each in self.junctions.items()},
            buses={name: crossing.bus_state(each) for name, each in self.buses.items()},
            pumping={name: pumping.state() for name, pumping in self.pumping.items()},
            radio={name: radio.state() for name, radio in self.radios.items()},
        )

    def counters(self) -> Counters:
        """Return what the hardware has counted by itself."""
        return Counters(
            lines={name: _line_counters(line, self.now_s()) for name, line in self.lines.items()},
            modbus={name: station.device.counters() for name, station in self._stations.items()},
            junctions={name: crossing.junction_counters(each) for name, each in self.junctions.items()},
            buses={name: crossing.bus_counters(each) for name, each in self.buses.items()},
            pumping={name: pumping.counters() for name, pumping in self.pumping.items()},
            radio={name: radio.counters() for name, radio in self.radios.items()},
        )

    def device(self, name: str) -> RegisterDevice:
        """Return the registers of a Modbus unit, with its counted reads.

        Raises:
            KeyError: no such unit.
        """
        return self._stations[name].device

    # --- building -------------------------------------------------------------------------------------

    def _build(self) -> None:
        for line in self.scenario.dali:
            schedule = LoopSchedule(asyncio.get_running_loop())  # of its own, so that lateness is per line
            built = BenchLine(line, self.folder, schedule, self.clock.civil_s, self.scenario.seed)
            self.lines[line.name] = built
            built.offer_faults(line.name, self.targets)
        for bus in self.scenario.rtu:
            self._build_rtu(bus)
        if self.scenario.meter is not None:
            self._build_meter(self.scenario.meter)
        for counters in self.scenario.counter:
            self._build_counters(counters)
        for pumping in self.scenario.pumping_station:
            self._build_pumping(pumping)
        for radio in self.scenario.radio:
            self._build_radio(radio)
        for junction in self.scenario.junction:
            controller = crossing.build(junction, self._schedule, self.clock, self._rng(junction.name))
            self.junctions[junction.name] = controller
            crossing.offer_faults(controller, self.targets)
        for vehicle in self.scenario.bus:
            self._build_bus(vehicle)

    def _build_bus(self, settings: BusSettings) -> None:
        place = self.scenario.location
        self.buses[settings.name] = BusService(
            settings,
            signals=self.junctions[settings.junction].junction,
            schedule=self._schedule,
            place=(place.latitude, place.longitude),
            teller=self._teller(settings),
        )

    def _teller(self, settings: BusSettings) -> Teller | None:
        if not (settings.broker or settings.datagram_to):
            return None
        from sim.fleet import Fleet  # noqa: PLC0415  a bench whose buses tell nobody does not pay for MQTT

        return Fleet(settings, self.clock, self._rng(settings.name))

    def _build_rtu(self, settings: RtuSettings) -> None:
        port = SerialPort(
            self.folder / settings.port,
            baud=settings.baud,
            bits_per_byte=_BITS_PER_BYTE[settings.parity],
            schedule=self._schedule,
            rng=self._rng(settings.name),
        )
        server = RtuServer(port, baud=settings.baud, schedule=self._schedule)
        self._rtu[settings.name] = server
        self.targets.add(settings.name, serial_switches(port))
        if settings.cabinet is not None:
            self.cabinet = Cabinet(self._supply_changed)
            self._add_station(server, settings.cabinet.name, settings.cabinet.unit, self.cabinet.device)
            self.targets.add(settings.cabinet.name, _cabinet_switches(self.cabinet))
        if settings.lux is not None:
            self._build_lux(server, settings.lux)

    def _build_lux(self, server: RtuServer, settings: LuxSettings) -> None:
        sensor = LuxSensor(self._sun_deg)
        self.lux[settings.name] = sensor
        self._add_station(server, settings.name, settings.unit, sensor.device)
        self.targets.add(settings.name, _lux_switches(sensor))

    def _add_station(self, server: RtuServer, name: str, unit: int, device: RegisterDevice) -> None:
        station = self._station(name, unit, device)
        server.add(station)
        self.targets.add(name, {fault.value: _board_switch(station, fault) for fault in ModbusFault})

    def _build_meter(self, settings: MeterSettings) -> None:
        feed = StreetFeed(
            [gear for line in self.lines.values() for gear in line.gear],
            base_load_w=settings.base_load_w,
            start_kwh=settings.start_kwh,
            civil_s=self.clock.civil_s,
            at_s=self.now_s(),
        )
        self._feed = feed
        self.meter = Meter(lambda: feed.measure(self.now_s()))
        self._add_tcp(settings.name, settings.unit, self.meter.device, settings.host, settings.port)

    def _build_counters(self, settings: CounterSettings) -> None:
        journal = None if settings.journal is None else self._open_journal(settings.journal)
        for number, name in enumerate(counter_names(settings)):
            port = settings.port + number if settings.port else 0
            device = CountingDevice(name, settings.registers, spread=settings.spread, journal=journal)
            self._add_tcp(name, settings.unit, device, settings.host, port)

    def _open_journal(self, path: str) -> Journal:
        """Open a journal, which several groups of counting devices may share."""
        if path not in self._journals:
            self._journals[path] = Journal(self.folder / path, lambda: self.clock.now().utc_ms)
        return self._journals[path]

    def _build_pumping(self, settings: PumpingSettings) -> None:
        from sim.pumping_station import PumpingStation  # noqa: PLC0415  a bench without one does not pay for asyncua

        pumping = PumpingStation(settings, self.folder, self.clock, self.scenario.seed)
        self.pumping[settings.name] = pumping
        self.targets.add(settings.name, pumping.switches())
        for name in pumping.stations:
            self.targets.add(name, pumping.station_switches(name))

    def _build_radio(self, settings: RadioSettings) -> None:
        radio = Radio(
            settings,
            self._schedule,
            seed=self.scenario.seed,
            truth=self._truth,
            utc_ms=lambda: self.clock.now().utc_ms,
        )
        self.radios[settings.name] = radio
        radio.offer_faults(self.targets)

    def _truth(self, place: str) -> Truth:
        return Truth(f"{self.scenario.seed}/{place}", self.clock.civil().utc_ms, self._sun_deg())

    def _add_tcp(self, name: str, unit: int, device: RegisterDevice, host: str, port: int) -> None:
        server = TcpServer(self._station(name, unit, device), host, port, self._schedule)
        self._tcp[name] = server
        self.targets.add(name, {fault.value: _tcp_switch(server, fault) for fault in ModbusFault})

    def _station(self, name: str, unit: int, device: RegisterDevice) -> Station:
        self._stations[name] = Station(name, unit, device, self._rng(name))
        return self._stations[name]

    def _rng(self, name: str) -> random.Random:
        return random.Random(f"{self.scenario.seed}/{name}")

    async def _open(self) -> None:
        if self.scenario.control is not None:
            # First of all: it is refused if the same bench runs already, whose symlinks must stay.
            control = ControlSocket(self, self.folder / self.scenario.control)
            await control.start()
            self._control = control
        for port in self._serial_ports().values():
            port.open()
        for server in self._tcp.values():
            await server.start()
        for controller in self.junctions.values():
            controller.start()
        for service in self.buses.values():
            service.start()
        for pumping in self.pumping.values():
            await pumping.start()
        for radio in self.radios.values():
            await radio.open()

    def _serial_ports(self) -> dict[str, SerialPort]:
        return {name: line.port for name, line in self.lines.items()} | {
            name: server.port for name, server in self._rtu.items()
        }

    # --- what happens ---------------------------------------------------------------------------------

    def _supply_changed(self) -> None:
        """Carry a change at the cabinet to everything that it feeds."""
        if self.cabinet is None:
            return
        at_s = self.now_s()
        for line in self.lines.values():
            line.feed(self.cabinet.lamps_fed, at_s)
        if self._feed is not None and self.scenario.meter is not None:
            self._feed.set_mains(self.cabinet.mains_present, at_s)
            self._stations[self.scenario.meter.name].dead = not self.cabinet.mains_present

    def _sun_deg(self) -> float:
        place = self.scenario.location
        return sun_elevation_deg(place.latitude, place.longitude, self.clock.civil().utc_ms)

    def _plan(self, event: Event, started_s: float) -> None:
        when_s = started_s + (event.at_s or 0.0)
        if event.civil is not None:
            when_s = self.clock.real_s_of_civil(round(event.civil.timestamp() * 1000))
        self._timers.append(self._schedule.call_at(when_s, lambda: self._spawn(self._happen(event))))

    async def _happen(self, event: Event) -> None:
        try:
            if event.fault is not None:
                await self.fault(event.target, event.fault, for_s=event.for_s, settings=event.settings)
            elif event.clear is not None:
                await self.clear(event.target, event.clear)
            elif event.set is not None:
                self.set(event.target, event.set)
        except (UnknownError, OSError) as error:
            _log.warning("event failed", target=event.target, reason=str(error))
        else:
            _log.info("event", target=event.target, fault=event.fault, clear=event.clear, set=event.set)
        self.happened.put_nowait(event)

    async def _end_by_itself(self, target: str, name: str) -> None:
        try:
            await self.clear(target, name)
        except OSError as error:
            _log.warning("fault does not end", target=target, fault=name, reason=str(error))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _forget_end(self, target: str, name: str) -> None:
        timer = self._ending.pop((target, name), None)
        if timer is not None:
            timer.cancel()

    # --- telling --------------------------------------------------------------------------------------

    def _modbus_state(self) -> dict[str, ModbusState]:
        state = {}
        for line, rtu in self._rtu.items():
            for unit, station in rtu.stations.items():
                state[station.name] = ModbusState(unit, station.board.names(), line=line)
        for name, tcp in self._tcp.items():
            faults = tcp.station.board.names()
            state[name] = ModbusState(tcp.station.unit, faults, tcp.host, tcp.port, tcp.connections)
        return state

    def _meter_state(self, at_s: float) -> MeterState | None:
        if self._feed is None:
            return None
        feed = self._feed.measure(at_s)
        return MeterState(round(sum(feed.phase_w), 3), round(feed.energy_kwh, 6))

    def _lux_state(self, sensor: LuxSensor) -> LuxState:
        return LuxState(
            round(sensor.daylight_lx(), 3),
            round(sensor.reading_lx(), 3),
            round(self._sun_deg(), 3),
            sensor.board.names(),
        )


def _bench_time(settings: BenchSettings | None, schedule: Schedule) -> BenchTime:
    if settings is None:
        return real_time_from(schedule)
    now_ms = round(schedule.time() * 1000)
    origin_ms = now_ms if settings.origin_monotonic_ms is None else settings.origin_monotonic_ms
    return BenchTime(origin_ms, round(settings.start.timestamp() * 1000), settings.speed, settings.unhurried)


async def _done(outcome: object) -> None:
    """Await what a fault's switch returned, if it is something to await."""
    if asyncio.iscoroutine(outcome):
        await outcome


def _board_switch(station: Station, fault: ModbusFault) -> FaultSwitch:
    return FaultSwitch(partial(station.board.set, fault), partial(station.board.clear, fault))


def _tcp_switch(server: TcpServer, fault: ModbusFault) -> FaultSwitch:
    return FaultSwitch(partial(server.set_fault, fault), partial(server.clear_fault, fault))


def _cabinet_switches(cabinet: Cabinet) -> dict[str, FaultSwitch]:
    return {fault.value: _cabinet_switch(cabinet, fault) for fault in CabinetFault}


def _cabinet_switch(cabinet: Cabinet, fault: CabinetFault) -> FaultSwitch:
    return FaultSwitch(
        lambda _settings: cabinet.set_fault(fault, present=True),
        lambda: cabinet.set_fault(fault, present=False),
    )


def _lux_switches(sensor: LuxSensor) -> dict[str, FaultSwitch]:
    return {
        fault.value: FaultSwitch(partial(sensor.set_fault, fault), partial(sensor.board.clear, fault))
        for fault in LuxFault
    }


def _rtu_state(server: RtuServer) -> RtuLineState:
    port = server.port
    return RtuLineState(
        str(port.link), port.device, port.board.names(), server.receiver.bad_frames, port.lost_bytes
    )


def _line_counters(line: BenchLine, at_s: float) -> LineCounters:
    wires = line.line.state(at_s)
    gear = {str(index): each.state(at_s) for index, each in enumerate(line.gear)}
    return LineCounters(
        frames=wires.frames,
        collisions=wires.collisions,
        answers={name: each.answers for name, each in gear.items()},
        level_changes={name: each.level_changes for name, each in gear.items()},
    )
