"""Devices described by register maps, over Modbus TCP or RTU."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from drivers.base import Found, PolledPoint, Priority, Written
from drivers.errors import DeviceError, DriverError, GarbledError, LineLostError, NoAnswerError, RefusedError
from drivers.line import LineDriver, Work
from drivers.modbus_client import ILLEGAL_ADDRESS, ModbusClient, RtuClient, TcpClient
from drivers.settings import DeviceSettings, ModbusRtu, ModbusTcp
from protocols.clock import Clock
from protocols.errors import LocalProtocolError
from protocols.modbus.planner import Block, Cut, cut, plan, split
from protocols.modbus.register_map import BIT_TABLES, WIDTH, Entry, RegisterMap, Table, every_entry, point_of
from protocols.modbus.registers import Decoder, encode
from protocols.model.command import CommandState
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Fault, Quality, Reason, Sample, Value, sample

Values: TypeAlias = list[Value | Fault]
Step: TypeAlias = tuple[Block, Decoder | None]
_REFUSED = Fault(Quality.BAD, Reason.REFUSED)


class _Unit:
    """One device: its map, and what we have learned of it.

    Attributes:
        id: the device.
        address: its Modbus unit.
        entries: by point.
        points: how it is watched.
        max_registers: the most that it gives in one request.
        cuts: where it has refused to be read across.
        steps: the requests for each set of points that was asked for.
    """

    def __init__(self, settings: DeviceSettings, register_map: RegisterMap) -> None:
        entries = every_entry(register_map)
        self.id = settings.id
        self.address = settings.number
        self.entries = {entry.point: entry for entry in entries}
        self.points = tuple(_polled(entry, settings) for entry in entries)
        self.max_registers = register_map.max_registers
        self.cuts: set[Cut] = set()
        self.steps: dict[tuple[PointName, ...], tuple[Step, ...]] = {}

    def steps_for(self, points: tuple[PointName, ...]) -> tuple[Step, ...]:
        """Return the requests that bring some points, in as few as the device allows."""
        steps = self.steps.get(points)
        if steps is None:
            wanted = [self._entry(name) for name in points]
            steps = tuple(_step(block) for block in plan(wanted, self.max_registers, self.cuts))
            self.steps[points] = steps
        return steps

    def learn(self, where: Cut) -> None:
        """Never read across `where` again."""
        self.cuts.add(where)
        self.steps.clear()

    def _entry(self, point: PointName) -> Entry:
        entry = self.entries.get(point)
        if entry is None:
            raise LocalProtocolError(f"{self.id} has no point {point}")
        return entry


def _polled(entry: Entry, settings: DeviceSettings) -> PolledPoint:
    return PolledPoint(
        point=point_of(entry),
        poll_s=settings.poll_s or entry.poll_s,
        report=settings.report or entry.report,
        dead_band=entry.dead_band if settings.dead_band is None else settings.dead_band,
        heartbeat_s=settings.heartbeat_s or entry.heartbeat_s,
    )


def _step(block: Block) -> Step:
    if block.table in BIT_TABLES:
        return block, None
    return block, Decoder([(entry.address - block.address, entry) for _, entry in block.items], block.count)


def open_modbus(
    settings: ModbusTcp | ModbusRtu,
    devices: Sequence[DeviceSettings],
    maps: Mapping[str, RegisterMap],
    clock: Clock,
) -> "ModbusDriver":
    """Make the driver of a Modbus line."""
    return ModbusDriver(settings, devices, maps, clock)


class ModbusDriver(LineDriver):
    """One Modbus TCP server or RTU line."""

    def __init__(
        self,
        settings: ModbusTcp | ModbusRtu,
        devices: Sequence[DeviceSettings],
        maps: Mapping[str, RegisterMap],
        clock: Clock,
    ) -> None:
        super().__init__(settings, clock)
        self._units = {device.id: _Unit(device, maps[device.map]) for device in devices}
        self._client: ModbusClient = (
            TcpClient(settings, self._line_lost)
            if isinstance(settings, ModbusTcp)
            else RtuClient(settings, self._line_lost)
        )

    def points(self, device: DeviceId) -> tuple[PolledPoint, ...]:
        """Return what can be read of a device."""
        return self._unit(device).points

    def _unit(self, device: DeviceId) -> _Unit:
        unit = self._units.get(device)
        if unit is None:
            raise LocalProtocolError(f"{device} is not on {self.line}")
        return unit

    async def _connect(self) -> None:
        await self._client.connect()

    def _disconnect(self) -> None:
        self._client.close()

    def _late(self) -> int:
        return self._client.late_bytes

    # --- looking ---

    def _places(self) -> Sequence[int]:
        return range(1, 248)

    def _prober(self, address: int) -> Work[Found | None]:
        return partial(self._probe, address)

    async def _probe(self, address: int) -> Found | None:
        """Ask a unit for its first holding register: a refusal is an answer too."""
        known = next((unit.id for unit in self._units.values() if unit.address == address), None)
        try:
            await self._client.read(address, Table.HOLDING, 0, 1)
        except RefusedError as fault:
            return Found(str(address), None, f"answers: {fault}", known)
        except GarbledError as fault:
            return Found(str(address), None, f"something answers that is no Modbus unit: {fault}", known)
        except DeviceError:
            return None
        return Found(str(address), None, "has holding registers", known)

    # --- reading ---

    def _reader(self, device: DeviceId, points: tuple[PointName, ...], _priority: Priority) -> Work[Sample]:
        unit = self._unit(device)
        if not points:
            raise LocalProtocolError("no point asked")
        unit.steps_for(points)
        return partial(self._read_unit, unit, points)

    async def _read_unit(self, unit: _Unit, points: tuple[PointName, ...]) -> Sample:
        values: Values = [None] * len(points)
        steps = unit.steps_for(points)
        for done, step in enumerate(steps):
            try:
                await self._read_step(unit, step, values)
            except (NoAnswerError, GarbledError) as fault:
                if not done:
                    raise
                _mark((block for block, _ in steps[done:]), Fault(Quality.BAD, fault.reason), values)
                break
        return sample(unit.id, self._now_ms(), points, values)

    async def _read_step(self, unit: _Unit, step: Step, values: Values) -> None:
        """Read one block into `values`; one that the device refuses for an address in it is read in parts."""
        block, decoder = step
        try:
            got = await self._client.read(unit.address, block.table, block.address, block.count)
        except RefusedError as fault:
            where = cut(block) if fault.code == ILLEGAL_ADDRESS else None
            if where is None:
                _mark((block,), _REFUSED, values)
                return
            unit.learn(where)
            for part in split(block, where):
                await self._read_step(unit, _step(part), values)
            return
        decoded = _bits(block, got) if decoder is None else decoder.decode(got)
        for (position, _), value in zip(block.items, decoded, strict=True):
            values[position] = value

    # --- writing ---

    async def write(
        self,
        device: DeviceId,
        point: PointName,
        value: Value,
        *,
        ramp_s: float = 0.0,
        priority: Priority = Priority.COMMAND,
    ) -> Written:
        """Write a coil or a holding register and read it back; see `Driver.write`."""
        unit = self._unit(device)
        entry = unit.entries.get(point)
        if entry is None:
            raise LocalProtocolError(f"{device} has no point {point}")
        if ramp_s:
            raise LocalProtocolError(f"{device} cannot ramp")
        words = encode(entry, value)
        try:
            return await self._submit(priority, device, partial(self._write_entry, unit, entry, words))
        except LineLostError as fault:
            return Written(CommandState.OUTCOME_UNKNOWN, None, str(fault))
        except (NoAnswerError, GarbledError) as fault:
            return Written(CommandState.OUTCOME_UNKNOWN, None, str(fault))
        except DriverError as fault:
            return Written(CommandState.FAILED, None, str(fault))

    async def _write_entry(self, unit: _Unit, entry: Entry, words: Sequence[int]) -> Written:
        doubt: DeviceError | None = None
        try:
            await self._client.write(unit.address, entry.table, entry.address, words)
        except (NoAnswerError, GarbledError) as fault:
            doubt = fault
        try:
            width = WIDTH[entry.type]
            got = await self._client.read(unit.address, entry.table, entry.address, width)
        except DeviceError as fault:
            if doubt is not None:
                raise doubt from fault
            return Written(CommandState.APPLIED, None, f"written, but not read back: {fault}")
        return _compared(entry, words, list(got[:width]), acknowledged=doubt is None)


def _compared(entry: Entry, words: Sequence[int], got: list[int], *, acknowledged: bool) -> Written:
    block = plan([entry])[0]
    decoded = _bits(block, got) if entry.table in BIT_TABLES else Decoder([(0, entry)], len(got)).decode(got)
    value = None if isinstance(decoded[0], Fault) else decoded[0]
    if got == list(words):
        return Written(CommandState.VERIFIED, value)
    state = CommandState.APPLIED if acknowledged else CommandState.FAILED
    return Written(state, value, f"{entry.point} is {value}, which is not what was written")


def _mark(blocks: Iterable[Block], fault: Fault, values: Values) -> None:
    for block in blocks:
        for position, _ in block.items:
            values[position] = fault


def _bits(block: Block, got: Sequence[int]) -> Sequence[Value | Fault]:
    return [bool(got[entry.address - block.address]) for _, entry in block.items]
