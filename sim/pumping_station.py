"""Waste-water pumping stations behind an OPC UA server, at the wire.

One server, one or two stations, each an object under Objects with the same nodes: level, flows, two pumps, alarms, a
set point that can be written, and methods. Before a client's read is answered the station is looked at anew, as a
controller does when asked for values that are not from its cache (OPC 10000-4, 5.11.2, MaxAge 0); in between it
looks every fifth of a second, and its subscriptions tell what has changed.
"""

import asyncio
import contextlib
import datetime
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from asyncua import ua

from sim.clock import BenchClock
from sim.faults import Board, FaultSettings, OpcUaFault, StationFault
from sim.opcua_certificates import Identity, TrustedClients, make_identity
from sim.report import PumpingCounters, PumpingState, StationState
from sim.scenario import PumpingSettings, station_names
from sim.small_opcua import Books, SmallOpcUaServer
from sim.targets import FaultSwitch
from sim.wet_well import PUMPS, Mode, WellState, WetWell
from sim.wire_front import WireFront

NAMESPACE: Final = "urn:luciole:pumping-station"
TICK_S: Final = 0.2
STOP_S: Final = 5.0
"""How long a server may take to end."""
_LATE_S: Final = 3.0
_V = ua.VariantType

Shown = Callable[[WellState], object]


def _nodes() -> dict[str, tuple[Shown, ua.VariantType, bool]]:
    """Return the variables by path: what each shows, of which type, and whether it is measured."""
    nodes: dict[str, tuple[Shown, ua.VariantType, bool]] = {
        "Level": (lambda s: s.level_m, _V.Double, True),
        "Inflow": (lambda s: s.inflow_m3_h, _V.Double, True),
        "Outflow": (lambda s: s.outflow_m3_h, _V.Double, True),
        "WaterTemperature": (lambda s: s.temperature_c, _V.Double, True),
        "Energy": (lambda s: s.energy_kwh, _V.Double, True),
        "HighLevel": (lambda s: s.high_level, _V.Boolean, False),
        "PumpFailure": (lambda s: s.pump_failure, _V.Boolean, False),
        "LevelSetpoint": (lambda s: s.setpoint_m, _V.Double, False),
        "Mode": (lambda s: s.mode, _V.Int32, False),
    }
    for number in range(PUMPS):
        nodes |= _pump_nodes(number)
    return nodes


def _pump_nodes(number: int) -> dict[str, tuple[Shown, ua.VariantType, bool]]:
    pump = f"Pump{number + 1}"
    return {
        f"{pump}/Running": (lambda s: s.running[number], _V.Boolean, False),
        f"{pump}/Speed": (lambda s: s.speed_percent[number], _V.Double, True),
        f"{pump}/Fault": (lambda s: s.fault[number], _V.Boolean, False),
        f"{pump}/Starts": (lambda s: s.starts[number], _V.UInt32, False),
    }


NODES: Final = _nodes()
SETPOINT: Final = "LevelSetpoint"


class Station:
    """One station and the nodes that show it.

    Attributes:
        name: BrowseName and identifier of its object.
        well: what is really there.
        board: its faults.
        ids: its variables' node ids by path, in the server as it runs.
    """

    def __init__(self, name: str, well: WetWell) -> None:
        self.name = name
        self.well = well
        self.board = Board(StationFault)
        self.ids: dict[str, ua.NodeId] = {}
        self._shown: dict[str, tuple[object, int]] = {}

    async def build(self, server: SmallOpcUaServer, index: int) -> None:
        """Put its nodes into a server."""
        self._shown.clear()
        objects: dict[str, Any] = {"": await self._object(server.server.nodes.objects, self.name, index)}
        state = self.well.state()
        for path, (show, kind, _) in NODES.items():
            parent, _, name = path.rpartition("/")
            if parent not in objects:
                objects[parent] = await self._object(objects[""], parent, index)
            node = await objects[parent].add_variable(
                ua.NodeId(f"{self.name}/{path}", index), ua.QualifiedName(name, index), show(state), kind
            )
            self.ids[path] = node.nodeid
            if path == SETPOINT:
                await node.set_writable()
        for name, work in (("StartPump", self._start), ("StopPump", self._stop), ("SetMode", self._set_mode)):
            kind = _V.Int32 if name == "SetMode" else _V.UInt32
            method = ua.NodeId(f"{self.name}/{name}", index)
            await objects[""].add_method(method, ua.QualifiedName(name, index), work, [kind], [])

    async def _object(self, parent: Any, name: str, index: int) -> Any:  # noqa: ANN401  asyncua's Node
        whole = name if name == self.name else f"{self.name}/{name}"
        return await parent.add_object(ua.NodeId(whole, index), ua.QualifiedName(name, index))

    def delay_s(self) -> float:
        """Return how long it takes to answer."""
        if StationFault.LATE not in self.board:
            return 0.0
        delay_s = self.board.settings(StationFault.LATE).delay_s
        return _LATE_S if delay_s is None else delay_s

    async def show(self, server: SmallOpcUaServer) -> None:
        """Let the nodes show what is there, as far as faults allow."""
        if StationFault.FROZEN in self.board:
            return
        state = self.well.state()
        for path, (show, kind, measured) in NODES.items():
            wanted = show(state), self._status(measured=measured)
            if self._shown.get(path) != wanted:
                self._shown[path] = wanted
                await server.server.write_attribute_value(self.ids[path], _data_value(*wanted, kind))
        if StationFault.GARBLED in self.board:
            self._garble(server)

    def _status(self, *, measured: bool) -> int:
        code = ua.StatusCodes.Good
        if StationFault.SILENT in self.board:
            code = ua.StatusCodes.BadNoCommunication
        elif measured and StationFault.BAD_STATUS in self.board:
            code = ua.StatusCodes.BadSensorFailure
        elif measured and StationFault.UNCERTAIN in self.board:
            code = ua.StatusCodes.UncertainLastUsableValue
        return int(code)

    def _garble(self, server: SmallOpcUaServer) -> None:
        """Answer reads with texts, which the nodes' data types do not allow."""
        self._shown.clear()
        for node in self.ids.values():
            server.server.set_attribute_value_callback(
                node, lambda _node, _attribute: ua.DataValue(ua.Variant("garbled", _V.String))
            )

    def set_fault(self, fault: StationFault, settings: FaultSettings) -> None:
        """Let a fault begin."""
        self.board.set(fault, settings)
        self._change_well(fault, present=True)

    def clear_fault(self, fault: StationFault) -> None:
        """Let a fault end."""
        self.board.clear(fault)
        self._change_well(fault, present=False)

    def _change_well(self, fault: StationFault, *, present: bool) -> None:
        if fault is StationFault.PUMP_FAILURE:
            self.well.trip(0, tripped=present)
        elif fault is StationFault.HIGH_INFLOW:
            self.well.raining = present

    # --- what clients may do ---

    def written(self, path: str, value: object) -> None:
        """Take what a client has written."""
        if path == SETPOINT and isinstance(value, float):
            self.well.setpoint_m = value

    async def _start(self, _parent: object, number: ua.Variant) -> ua.StatusCode | list[ua.Variant]:
        return self._run_pump(number, running=True)

    async def _stop(self, _parent: object, number: ua.Variant) -> ua.StatusCode | list[ua.Variant]:
        return self._run_pump(number, running=False)

    def _run_pump(self, number: ua.Variant, *, running: bool) -> ua.StatusCode | list[ua.Variant]:
        if StationFault.SILENT in self.board:
            return ua.StatusCode(ua.StatusCodes.BadNoCommunication)
        if not isinstance(number.Value, int) or not 1 <= number.Value <= PUMPS:
            return ua.StatusCode(ua.StatusCodes.BadOutOfRange)
        if self.well.mode is not Mode.HAND:
            return ua.StatusCode(ua.StatusCodes.BadInvalidState)
        self.well.pumps[number.Value - 1].set(running=running)
        return []

    async def _set_mode(self, _parent: object, mode: ua.Variant) -> ua.StatusCode | list[ua.Variant]:
        if StationFault.SILENT in self.board:
            return ua.StatusCode(ua.StatusCodes.BadNoCommunication)
        if mode.Value not in set(Mode):
            return ua.StatusCode(ua.StatusCodes.BadOutOfRange)
        self.well.set_mode(Mode(mode.Value))
        return []


def _data_value(value: object, status: int, kind: ua.VariantType) -> ua.DataValue:
    bad = ua.StatusCode(status).is_bad()
    return ua.DataValue(
        ua.Variant(None, _V.Null) if bad else ua.Variant(value, kind),
        ua.StatusCode(status),
        SourceTimestamp=datetime.datetime.now(datetime.UTC),  # noqa: TID251  a controller stamps with its own clock
    )


class PumpingStation:
    """A server with its stations, behind a port that can fail.

    Args:
        settings: the scenario's.
        folder: where its certificates lie.
        clock: the bench's.
        seed: of the stations' randomness.

    Attributes:
        stations: by name.
        board: the server's faults.
        front: the port.
        server: asyncua's server, as it runs.
    """

    def __init__(self, settings: PumpingSettings, folder: Path, clock: BenchClock, seed: int) -> None:
        self.settings = settings
        self.board = Board(OpcUaFault)
        self.folder = folder / f"{settings.name}-pki"
        self.uri = f"urn:luciole:bench:{settings.name}"
        self._clock = clock
        hour = clock.civil().utc_ms / 3_600_000 % 24
        self.stations = {
            name: Station(name, WetWell(random.Random(f"{seed}/{settings.name}/{name}"), hour))
            for name in station_names(settings)
        }
        self.front = WireFront(settings.host, settings.port, self.board, self._connect)
        self.server: SmallOpcUaServer | None = None
        self._identity: Identity | None = None
        self._books = Books()
        self._restarts = 0
        self._task: asyncio.Task[None] | None = None
        self._civil_ms = clock.civil().utc_ms

    async def start(self) -> None:
        """Make certificates if there are none, start the server and listen.

        Raises:
            OSError: the port is taken or not ours, or the folder cannot be written.
        """
        if self.settings.security != "none":
            now = datetime.datetime.fromtimestamp(self._clock.now().utc_ms / 1000, datetime.UTC)
            self._identity = await asyncio.to_thread(
                make_identity, self.folder, self.uri, self.settings.host, now
            )
        await self._start_server()
        await self.front.start()
        self._task = asyncio.create_task(self._live())

    async def stop(self) -> None:
        """Close everything, within `STOP_S`."""
        await self.front.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._stop_server()

    async def _start_server(self) -> None:
        account = (self.settings.user, self.settings.password)
        trusted = TrustedClients(self.folder / "trusted")
        server = SmallOpcUaServer(
            self.uri,
            identity=self._identity,
            policy=self.settings.security,
            trusted=trusted,
            account=account,
            books=self._books,
        )
        shift = [f"urn:luciole:bench:other:{number}" for number in range(self._restarts)]
        indices = await server.build([*shift, NAMESPACE])
        for station in self.stations.values():
            await station.build(server, indices[-1])
        server.listen(self._before_read, self._may_write, self._written)
        await server.start()
        server.set_mute(mute=OpcUaFault.MUTE in self.board)
        self.server = server

    async def _stop_server(self) -> None:
        server, self.server = self.server, None
        if server is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.stop(), STOP_S)

    async def restart(self) -> None:
        """Let the server end and begin anew, its namespaces under other indices."""
        await self.front.hang_up()
        await self._stop_server()
        self._restarts += 1
        await self._start_server()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.server is None:
            raise ConnectionRefusedError("the server is not there")
        return await asyncio.open_connection("127.0.0.1", self.server.port)

    # --- living ---

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self.look()

    async def look(self) -> None:
        """Let time pass in the wells, and let the nodes show it."""
        civil_ms = self._clock.civil().utc_ms
        passed_s = max(0, civil_ms - self._civil_ms) / 1000
        self._civil_ms = civil_ms
        for station in self.stations.values():
            if passed_s:
                station.well.advance(passed_s)
            await self._show(station)

    async def _show(self, station: Station) -> None:
        if self.server is not None:
            await station.show(self.server)

    async def _before_read(self, nodes: frozenset[ua.NodeId]) -> None:
        for station in self.stations.values():
            if not nodes.isdisjoint(station.ids.values()):
                await asyncio.sleep(station.delay_s())
                await self._show(station)

    def _may_write(self, nodes: frozenset[ua.NodeId]) -> bool:
        return not any(
            StationFault.SILENT in station.board and not nodes.isdisjoint(station.ids.values())
            for station in self.stations.values()
        )

    def _written(self, node: ua.NodeId, value: object) -> None:
        for station in self.stations.values():
            for path, known in station.ids.items():
                if known == node:
                    station.written(path, value)

    # --- faults ---

    def switches(self) -> dict[str, FaultSwitch]:
        """Return how the server's faults begin and end."""
        return {
            fault.value: FaultSwitch(partial(self._begin, fault), partial(self._end, fault))
            for fault in OpcUaFault
        }

    def station_switches(self, name: str) -> dict[str, FaultSwitch]:
        """Return how a station's faults begin and end."""
        station = self.stations[name]
        return {
            fault.value: FaultSwitch(
                partial(self._begin_at, station, fault), partial(self._end_at, station, fault)
            )
            for fault in StationFault
        }

    async def _begin(self, fault: OpcUaFault, settings: FaultSettings) -> None:
        await self.front.set_fault(fault, settings)
        await self._server_fault(fault)

    async def _end(self, fault: OpcUaFault) -> None:
        had = fault in self.board
        await self.front.clear_fault(fault)
        if had:
            await self._server_fault(fault)

    async def _server_fault(self, fault: OpcUaFault) -> None:
        if fault is OpcUaFault.RESTARTED:
            await self.restart()
        elif fault is OpcUaFault.MUTE and self.server is not None:
            self.server.set_mute(mute=fault in self.board)

    async def _begin_at(self, station: Station, fault: StationFault, settings: FaultSettings) -> None:
        station.set_fault(fault, settings)
        await self._show(station)

    async def _end_at(self, station: Station, fault: StationFault) -> None:
        station.clear_fault(fault)
        await self._show(station)

    # --- telling ---

    def state(self) -> PumpingState:
        """Return how the stations are."""
        return PumpingState(
            host=self.front.host,
            port=self.front.port,
            url=f"opc.tcp://{self.front.host}:{self.front.port}",
            certificate=None if self._identity is None else str(self._identity.certificate),
            connections=self.front.connections,
            faults=self.board.names(),
            stations={
                name: StationState(station.well.state(), station.board.names())
                for name, station in self.stations.items()
            },
        )

    def counters(self) -> PumpingCounters:
        """Return what clients were given, as the server itself counts it."""
        return PumpingCounters(reads=dict(self._books.reads), published=dict(self._books.published))
