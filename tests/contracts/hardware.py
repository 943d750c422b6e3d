"""The lines that the contract is tried on: simulated hardware at the wire, one bench for each kind of line."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

import pytest

from drivers.base import Driver, Priority
from drivers.registry import open_line
from drivers.settings import DaliLuba, DeviceSettings, LineSettings, ModbusRtu, ModbusTcp
from protocols.clock import Instant
from protocols.modbus.register_map import Entry, RegisterMap, Run, Table
from protocols.model.command import CommandState
from protocols.model.device import Kind
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.reading import Reason, Sample, Value
from sim.faults import FaultSettings, ModbusFault
from sim.lamp import DimmingCurve, light_share
from sim.modbus_server import Station, TcpServer
from sim.registers import Block, RegisterDevice, Span
from sim.registers import Table as BenchTable
from sim.scenario import parse
from sim.schedule import LoopSchedule
from sim.street import Street

ASKED: Final = DeviceId("asked")
NEIGHBOUR: Final = DeviceId("neighbour")
LINE: Final = LineId("line")
PATIENCE_S: Final = 10.0
EXCUSES: Final = {Reason.NO_ANSWER, Reason.GARBLED, Reason.COLLISION}


class LoopClock:
    """The event loop's clock; the product's own is the cabinet agent's."""

    def now(self) -> Instant:
        return Instant(round(asyncio.get_running_loop().time() * 1000), 0)

    def civil(self) -> Instant:
        return self.now()


class Bench(ABC):
    """One line of simulated hardware with two devices.

    Attributes:
        name: of the kind of line, as the settings name it.
        asked: whether its devices are asked; otherwise `read` returns what they have said last.
        ordering: whether its devices take orders; then `order` and `nonsense` are set.
        point: a point that both devices have, or that stands for each of them.
        order: a point of the asked device that can be written, and a value for it.
        forbidden: a point of the asked device that cannot be written.
        nonsense: a value that the writable point cannot have.
        nobody: an address on which nobody answers, for a second driver.
    """

    name: str
    asked = True
    ordering = True
    order: tuple[PointName, float]
    forbidden: PointName
    nonsense: Value
    settings: LineSettings

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    async def start(self) -> None:
        """Put the hardware there, and set `settings`."""

    @abstractmethod
    async def stop(self) -> None:
        """Take it away."""

    @abstractmethod
    def devices(self) -> list[DeviceSettings]:
        """Return the settings of both devices."""

    def maps(self) -> dict[str, RegisterMap]:
        return {}

    def open(self) -> Driver:
        """Make the driver of the line, as the agent does, unless its hardware can only be reached otherwise."""
        return open_line(self.settings, self.devices(), self.maps(), LoopClock(), self.folder)

    @abstractmethod
    def point(self, device: DeviceId) -> PointName:
        """Return the point of a device whose truth is known."""

    @abstractmethod
    def truth(self, device: DeviceId) -> float:
        """Return what the hardware has at that point now."""

    @abstractmethod
    def change(self, device: DeviceId) -> None:
        """Let that truth become another."""

    @abstractmethod
    def ordered(self) -> float:
        """Return what the hardware has at the writable point."""

    @abstractmethod
    def heard(self) -> object:
        """Return what the hardware has counted; the same again if nothing was sent."""

    @abstractmethod
    async def fault(self, device: DeviceId, name: str, delay_s: float | None = None) -> None:
        """Let a device be 'silent', 'late' or 'garbled'."""

    async def let_in(self, driver: Driver) -> None:  # noqa: ARG002
        """Give the driver what it needs before it runs, such as keys."""
        return

    async def speak(self, device: DeviceId) -> None:  # noqa: ARG002
        """Let a device say its truth by itself, if it is one that does."""
        return

    async def slow_down(self) -> None:
        """Let answers take long enough for a queue to form; serial lines are slow enough as they are."""
        return

    @abstractmethod
    async def heal(self, device: DeviceId) -> None:
        """Let a device be well again."""

    @abstractmethod
    async def unplug(self) -> None:
        """Pull the plug."""

    @abstractmethod
    async def plug_in(self) -> None:
        """Put the plug back."""


class StreetBench(Bench):
    """A bench that is a street of the simulator."""

    scenario: str
    line: str

    async def start(self) -> None:
        self.street = Street(parse(self.scenario), self.folder)
        await self.street.start()

    async def stop(self) -> None:
        await self.street.stop()

    async def fault(self, device: DeviceId, name: str, delay_s: float | None = None) -> None:
        await self.street.fault(*self.target(device, name), settings=FaultSettings(delay_s=delay_s))

    async def heal(self, device: DeviceId) -> None:
        await self.street.clear(self.target(device, "silent")[0])

    async def unplug(self) -> None:
        await self.street.fault(self.line, "unplugged")

    async def plug_in(self) -> None:
        await self.street.clear(self.line, "unplugged")

    @abstractmethod
    def target(self, device: DeviceId, fault: str) -> tuple[str, str]:
        """Return the bench's names of a device and of a fault."""


class DaliBench(StreetBench):
    """Two lamps behind a LUBA interface on a pty."""

    name = "dali-luba"
    scenario = '[[dali]]\nname = "dali-1"\nport = "dali-1"\ngear = 2\nlevel = 200'
    line = "dali-1"
    order = (PointName("dimming_level"), 50.0)
    forbidden = PointName("lamp_failure")
    nonsense = 100.5
    addresses: Final = {ASKED: 0, NEIGHBOUR: 1}

    async def start(self) -> None:
        await super().start()
        port = self.street.ports().serial["dali-1"]
        self.settings = DaliLuba(
            id=LINE,
            port=port,
            answer_timeout_s=0.2,
            worst_delay_s=0.4,
            silent_after=2,
            probe_s=0.2,
            probe_bound_s=0.4,
            reconnect_s=0.05,
        )

    def devices(self) -> list[DeviceSettings]:
        return [DeviceSettings(id=d, kind=Kind.LAMP, line=LINE, address=a) for d, a in self.addresses.items()]

    def point(self, _device: DeviceId) -> PointName:
        return PointName("dimming_level")

    def truth(self, device: DeviceId) -> float:
        gear = self.street.lines["dali-1"].gear[self.addresses[device]]
        return 100 * light_share(gear.level(self.street.now_s()), DimmingCurve.LOGARITHMIC)

    def change(self, device: DeviceId) -> None:
        gear, now_s = self.street.lines["dali-1"].gear[self.addresses[device]], self.street.now_s()
        gear.go_to(gear.level(now_s) - 20, now_s, 0.0)

    def ordered(self) -> float:
        return self.truth(ASKED)

    def heard(self) -> object:
        return self.street.counters().lines

    def target(self, device: DeviceId, fault: str) -> tuple[str, str]:
        return f"dali-1/{self.addresses[device]}", fault


class RtuBench(StreetBench):
    """Cabinet contacts and a light sensor on one RTU line."""

    name = "modbus-rtu"
    scenario = """
        [bench]
        start = "2026-06-21T12:00:00+02:00"
        [[rtu]]
        name = "rtu-1"
        port = "rtu-1"
        parity = "even"
        cabinet = { unit = 1 }
        lux = { unit = 2 }
    """
    line = "rtu-1"
    order = (PointName("contactor"), False)
    forbidden = PointName("mains_present")
    nonsense = 1
    names: Final = {ASKED: "cabinet", NEIGHBOUR: "lux"}

    async def start(self) -> None:
        await super().start()
        self.settings = ModbusRtu(
            id=LINE,
            port=self.street.ports().serial["rtu-1"],
            parity="E",
            timeout_s=0.25,
            worst_delay_s=0.45,
            silent_after=2,
            probe_s=0.2,
            probe_bound_s=0.4,
            reconnect_s=0.05,
        )

    def devices(self) -> list[DeviceSettings]:
        return [
            DeviceSettings(id=ASKED, kind=Kind.CABINET_IO, line=LINE, address=1, map="cabinet_io"),
            DeviceSettings(id=NEIGHBOUR, kind=Kind.LIGHT_SENSOR, line=LINE, address=2, map="lux"),
        ]

    def point(self, device: DeviceId) -> PointName:
        return PointName("cabinet_door_open" if device == ASKED else "illuminance")

    def truth(self, device: DeviceId) -> float:
        state = self.street.state()
        if device == NEIGHBOUR:
            return state.lux["lux"].reading_lx
        assert state.cabinet is not None
        return state.cabinet.door_open

    def change(self, device: DeviceId) -> None:
        if device == ASKED:
            self.street.set("cabinet", {"door_open": not self.truth(ASKED)})
        else:
            self.street.set("lux", {"sky": 0.3})

    def ordered(self) -> float:
        state = self.street.state()
        assert state.cabinet is not None
        return state.cabinet.contactor

    def heard(self) -> object:
        return self.street.counters().modbus

    def target(self, device: DeviceId, fault: str) -> tuple[str, str]:
        return self.names[device], "garbage" if fault == "garbled" else fault


PATH_UNAVAILABLE: Final = 10  # MODBUS Application Protocol V1.1b3, 7: a gateway knows no way to that unit


class Gateway:
    """One TCP port with several units behind it, each a simulated server of its own: a Modbus gateway."""

    def __init__(self, servers: dict[int, TcpServer]) -> None:
        self._servers = servers
        self._listening: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._listening is not None:
            self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind: dict[int, asyncio.StreamWriter] = {}
        self._keep(asyncio.current_task())
        try:
            while True:
                header = await reader.readexactly(7)
                body = await reader.readexactly(int.from_bytes(header[4:6], "big") - 1)
                if header[6] not in self._servers:
                    writer.write(header[:4] + bytes((0, 3, header[6], body[0] | 0x80, PATH_UNAVAILABLE)))
                    continue
                if header[6] not in behind:
                    back, behind[header[6]] = await self._connect(header[6])
                    self._keep(asyncio.create_task(self._pump(back, writer)))
                behind[header[6]].write(header + body)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            for each in (*behind.values(), writer):
                each.transport.abort()

    async def _connect(self, unit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._servers[unit].port)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while answered := await reader.read(1000):
                writer.write(answered)

    def _keep(self, task: "asyncio.Task[None] | None") -> None:
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class TcpBench(Bench):
    """Two units with twenty holding registers each behind a gateway on TCP."""

    name = "modbus-tcp"
    order = (PointName("setpoint"), 12.5)
    forbidden = PointName("r00")
    nonsense = 1e9
    units: Final = {ASKED: 1, NEIGHBOUR: 2}

    async def start(self) -> None:
        schedule = LoopSchedule(asyncio.get_running_loop())
        self.registers = {device: [100 * unit + n for n in range(20)] for device, unit in self.units.items()}
        self.servers = {device: self._server(device, schedule) for device in self.units}
        for server in self.servers.values():
            await server.start()
        self.gateway = Gateway({self.units[device]: server for device, server in self.servers.items()})
        await self.gateway.start()
        self.settings = ModbusTcp(
            id=LINE,
            host="127.0.0.1",
            port=self.gateway.port,
            timeout_s=0.25,
            silent_after=2,
            probe_s=0.2,
            probe_bound_s=0.4,
            reconnect_s=0.05,
        )

    def _server(self, device: DeviceId, schedule: LoopSchedule) -> TcpServer:
        store = self.registers[device]

        def read(span: Span) -> list[int]:
            return store[span.first : span.first + span.quantity]

        def write(first: int, values: object) -> None:
            assert isinstance(values, list | tuple)
            store[first : first + len(values)] = values

        block = Block(Span(0, 20), read, write)
        station = Station(
            device, self.units[device], RegisterDevice({BenchTable.HOLDING_REGISTERS: block}), Random(1)
        )
        return TcpServer(station, "127.0.0.1", 0, schedule)

    async def stop(self) -> None:
        await self.gateway.stop()
        for server in self.servers.values():
            await server.stop()

    def devices(self) -> list[DeviceSettings]:
        return [
            DeviceSettings(id=d, kind=Kind.SENSOR, line=LINE, address=unit, map="twenty")
            for d, unit in self.units.items()
        ]

    def maps(self) -> dict[str, RegisterMap]:
        setpoint = Entry(
            point=PointName("setpoint"),
            table=Table.HOLDING,
            address=19,
            scale=0.1,
            maximum=100,
            writable=True,
        )
        run = Run(prefix="r", table=Table.HOLDING, address=0, count=19)
        return {"twenty": RegisterMap(name="twenty", entries=(setpoint,), runs=(run,))}

    def point(self, _device: DeviceId) -> PointName:
        return PointName("r07")

    def truth(self, device: DeviceId) -> float:
        return self.registers[device][7]

    def change(self, device: DeviceId) -> None:
        self.registers[device][7] += 1000

    def ordered(self) -> float:
        return self.registers[ASKED][19] / 10

    def heard(self) -> object:
        return {d: server.station.device.counters() for d, server in self.servers.items()}

    async def fault(self, device: DeviceId, name: str, delay_s: float | None = None) -> None:
        fault = ModbusFault("garbage" if name == "garbled" else name)
        await self.servers[device].set_fault(fault, FaultSettings(delay_s=delay_s))

    async def slow_down(self) -> None:
        for device in self.units:
            await self.fault(device, "slow", 0.04)

    async def heal(self, device: DeviceId) -> None:
        for fault in ModbusFault:
            await self.servers[device].clear_fault(fault)

    async def unplug(self) -> None:
        await self.gateway.stop()

    async def plug_in(self) -> None:
        await self.gateway.start()


async def tick() -> None:
    """Let a hundredth of a second pass before a condition is looked at again."""
    loop = asyncio.get_running_loop()
    passed = loop.create_future()
    loop.call_later(0.01, passed.set_result, None)
    await passed


def reason(sample: Sample) -> Reason | None:
    fault = sample.fault(0)
    return fault.reason if fault else None


class Line:
    """A bench and the driver that is connected to it."""

    def __init__(self, bench: Bench, driver: Driver, task: "asyncio.Task[None]", said: list[Sample]) -> None:
        self.bench = bench
        self.driver = driver
        self.task = task
        self.said = said

    async def read(self, device: DeviceId, priority: Priority = Priority.POLL) -> Sample:
        async with asyncio.timeout(PATIENCE_S):
            return await self.driver.read(device, (self.bench.point(device),), priority)

    async def write(self, value: Value) -> CommandState:
        async with asyncio.timeout(PATIENCE_S):
            written = await self.driver.write(ASKED, self.bench.order[0], value)
        return written.state

    async def expect_truth(self, device: DeviceId) -> None:
        got = await self.read(device)
        assert got.faults == {}
        assert got.values[0] == pytest.approx(self.bench.truth(device), rel=1e-3, abs=0.06)

    async def expect(self, device: DeviceId, reason: Reason) -> None:
        got = await self.read(device)
        assert (got.values, [f.reason for f in got.faults.values()]) == ((None,), [reason])

    async def until_good(self, device: DeviceId) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while (await self.read(device)).faults:
                await self.bench.speak(device)
                await tick()

    async def until_all_said(self) -> None:
        """Wait until devices that speak by themselves have said what they have."""
        for device in (ASKED, NEIGHBOUR):
            await self.bench.speak(device)
            await self.until_good(device)

    def said_of(self, device: DeviceId) -> list[Value]:
        """Return what a device has said by itself of the point whose truth is known."""
        point = self.bench.point(device)
        told = [one for one in self.said if one.device == device and point in one.points]
        return [one.values[one.points.index(point)] for one in told]

    def last_said(self, device: DeviceId) -> Value:
        return self.said_of(device)[-1] if self.said_of(device) else None

    def faults_said(self, device: DeviceId) -> list[Reason]:
        return [fault.reason for one in self.said if one.device == device for fault in one.faults.values()]

    async def until_probed(self, device: DeviceId) -> None:
        """Read until the device is really asked again, in vain."""
        async with asyncio.timeout(PATIENCE_S):
            while reason(await self.read(device)) is Reason.BACKED_OFF:
                await tick()

    def busy_since(self, transactions: int) -> bool:
        return self.driver.health().transactions > transactions

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await tick()
