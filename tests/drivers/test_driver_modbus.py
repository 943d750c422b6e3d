"""Modbus devices: what is particular to them, at the wire of simulated servers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Final

import pytest
import structlog

from drivers.base import Driver, LineState
from drivers.settings import DeviceSettings, LineSettings, ModbusRtu, ModbusTcp
from protocols.errors import LocalProtocolError
from protocols.modbus.register_map import Entry, RegisterMap, RegisterType, Run, Table
from protocols.model.command import CommandState
from protocols.model.device import Kind
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.reading import Reason, Sample
from sim.faults import FaultSettings, ModbusFault
from sim.modbus_server import Station, TcpServer
from sim.registers import Block, ExceptionCode, Refusal, RegisterDevice, Span
from sim.registers import Table as BenchTable
from sim.scenario import parse
from sim.schedule import LoopSchedule
from sim.street import Street

Until = Callable[[Callable[[], bool]], Awaitable[None]]
Connect = Callable[[LineSettings, Sequence[DeviceSettings], Mapping[str, RegisterMap]], Driver]

DEVICE: Final = DeviceId("device")
LINE: Final = LineId("line")
HOLES: Final = {7, 13}
TWENTY: Final = tuple(PointName(f"r{n:02d}") for n in range(20))
MAP: Final = RegisterMap(
    name="twenty",
    entries=(
        Entry(point=PointName("setpoint"), table=Table.HOLDING, address=30, writable=True),
        Entry(point=PointName("wide"), table=Table.HOLDING, address=31, type=RegisterType.U32, writable=True),
        Entry(point=PointName("locked"), table=Table.HOLDING, address=34, writable=True),
    ),
    runs=(Run(prefix="r", table=Table.HOLDING, address=0, count=20),),
)


class Unit:
    """A device with forty holding registers, some of which do not exist.

    Attributes:
        values: what they hold.
        asked: every span that was asked for.
        highest: what register 30 is clipped to.
    """

    def __init__(self) -> None:
        self.values = list(range(100, 140))
        self.asked: list[tuple[int, int]] = []
        self.missing: set[int] = set()
        self.highest = 65535
        block = Block(Span(0, 40), self.read, self.write)
        self.device = RegisterDevice({BenchTable.HOLDING_REGISTERS: block})

    def read(self, span: Span) -> Sequence[int]:
        self.asked.append((span.first, span.quantity))
        if self.missing & set(span.addresses):
            raise Refusal(ExceptionCode.ILLEGAL_ADDRESS)
        return self.values[span.first : span.first + span.quantity]

    def write(self, first: int, values: Sequence[int]) -> None:
        if first == 34:
            raise Refusal(ExceptionCode.ILLEGAL_VALUE)
        self.values[first : first + len(values)] = [min(value, self.highest) for value in values]


@pytest.fixture
def unit() -> Unit:
    return Unit()


@pytest.fixture
async def server(unit: Unit) -> AsyncIterator[TcpServer]:
    station = Station("unit", 1, unit.device, Random(7))
    made = TcpServer(station, "127.0.0.1", 0, LoopSchedule(asyncio.get_running_loop()))
    await made.start()
    yield made
    await made.stop()


def tcp(port: int, *, silent_after: int = 3) -> ModbusTcp:
    return ModbusTcp(
        id=LINE,
        host="127.0.0.1",
        port=port,
        timeout_s=0.25,
        silent_after=silent_after,
        reconnect_s=0.05,
        reconnect_bound_s=0.2,
    )


@pytest.fixture
async def driver(server: TcpServer, connect: Connect) -> Driver:
    device = DeviceSettings(id=DEVICE, kind=Kind.SENSOR, line=LINE, address=1, map="twenty")
    return connect(tcp(server.port, silent_after=100), [device], {"twenty": MAP})


async def read(driver: Driver, points: Sequence[PointName] = TWENTY) -> Sample:
    async with asyncio.timeout(10):
        return await driver.read(DEVICE, points)


def reasons(sample: Sample) -> set[Reason]:
    return {fault.reason for fault in sample.faults.values()}


async def test_neighbours_are_read_in_one_request(unit: Unit, driver: Driver) -> None:
    assert (await read(driver)).values == tuple(range(100, 120))
    assert unit.asked == [(0, 20)]


async def test_points_come_in_the_order_asked_for(driver: Driver) -> None:
    asked = (TWENTY[7], PointName("wide"), TWENTY[2])
    assert (await read(driver, asked)).values == (107, 131 << 16 | 132, 102)


async def test_registers_that_do_not_exist_cost_their_neighbours_nothing(unit: Unit, driver: Driver) -> None:
    unit.missing = HOLES
    for _ in range(2):
        got = await read(driver)
        assert {i for i, fault in got.faults.items() if fault.reason is Reason.REFUSED} == HOLES
        assert [v for i, v in enumerate(got.values) if i not in HOLES] == [
            100 + i for i in range(20) if i not in HOLES
        ]
    unit.asked.clear()
    await read(driver)
    refused = [(first, count) for first, count in unit.asked if HOLES & set(range(first, first + count))]
    assert refused == [(7, 1), (13, 1)]


@pytest.mark.parametrize(
    ("fault", "settings", "reason"),
    [
        (ModbusFault.EXCEPTION, FaultSettings(code=4), Reason.REFUSED),
        (ModbusFault.EXCEPTION, FaultSettings(code=99), Reason.REFUSED),
        (ModbusFault.EXCEPTION, FaultSettings(code=11), Reason.NO_ANSWER),
        (ModbusFault.SILENT, FaultSettings(), Reason.NO_ANSWER),
        (ModbusFault.HALF_OPEN, FaultSettings(), Reason.NO_ANSWER),
        (ModbusFault.CLOSED, FaultSettings(), Reason.NO_ANSWER),
        (ModbusFault.LATE, FaultSettings(delay_s=0.32), Reason.NO_ANSWER),
        (ModbusFault.GARBAGE, FaultSettings(), Reason.GARBLED),
        (ModbusFault.TRUNCATED, FaultSettings(), Reason.GARBLED),
        (ModbusFault.WRONG_UNIT, FaultSettings(), Reason.GARBLED),
        (ModbusFault.WRONG_TRANSACTION, FaultSettings(), Reason.GARBLED),
    ],
)
async def test_every_fault_of_a_server_has_its_reason_and_passes(
    server: TcpServer, driver: Driver, fault: ModbusFault, settings: FaultSettings, reason: Reason
) -> None:
    assert (await read(driver)).faults == {}
    await server.set_fault(fault, settings)
    got = await read(driver)
    assert set(got.values) == {None}
    assert reasons(got) == {reason}
    assert driver.health().state is LineState.UP
    await server.clear_fault(fault)
    assert (await read(driver)).values == tuple(range(100, 120))


async def test_after_a_time_out_the_question_is_put_on_a_new_connection(
    server: TcpServer, driver: Driver
) -> None:
    await read(driver)
    await read(driver)
    assert server.connections == 1
    await server.set_fault(ModbusFault.SILENT, FaultSettings())
    assert reasons(await read(driver)) == {Reason.NO_ANSWER}
    await server.clear_fault(ModbusFault.SILENT)
    assert (await read(driver)).faults == {}
    assert server.connections == 2


async def test_a_server_that_closes_an_idle_connection_is_not_down(
    server: TcpServer, driver: Driver, until: Until
) -> None:
    await read(driver)
    with structlog.testing.capture_logs() as logs:
        for connection in list(server._open):
            connection.abort()
        await until(lambda: server.connections >= 2)
        assert (await read(driver)).faults == {}
    assert logs == []
    assert driver.health().reconnections == 0


async def test_a_host_that_refuses_is_down_with_a_reason(
    server: TcpServer, driver: Driver, until: Until
) -> None:
    await read(driver)
    await server.set_fault(ModbusFault.REFUSED, FaultSettings())
    await until(lambda: driver.health().state is LineState.DOWN)
    assert reasons(await read(driver)) == {Reason.LINE_DOWN}
    assert driver.health().reason == f"127.0.0.1:{server.port}: Connection refused"


async def test_a_host_without_a_name_is_down_with_a_reason(connect: Connect) -> None:
    device = DeviceSettings(id=DEVICE, kind=Kind.METER, line=LINE, address=1, map="sdm630")
    settings = ModbusTcp(id=LINE, host="no-such-host.invalid", connect_timeout_s=0.5)
    driver = connect(settings, [device], {})
    assert reasons(await read(driver, (PointName("frequency"),))) == {Reason.LINE_DOWN}
    assert "no-such-host.invalid:502" in driver.health().reason


async def test_wide_values_are_written_whole(unit: Unit, driver: Driver) -> None:
    written = await driver.write(DEVICE, PointName("wide"), 0x12345678)
    assert (written.state, written.value) == (CommandState.VERIFIED, 0x12345678)
    assert unit.values[31:33] == [0x1234, 0x5678]


async def test_a_refused_write_has_failed_and_says_why(unit: Unit, driver: Driver) -> None:
    before = list(unit.values)
    written = await driver.write(DEVICE, PointName("locked"), 1)
    assert written.state is CommandState.FAILED
    assert written.reason == "illegal value (Modbus exception 3)"
    assert unit.values == before
    assert (driver.health().failures, driver.health().named) == (1, {"refused": 1})


async def test_a_device_that_clips_what_is_written_says_what_it_has(unit: Unit, driver: Driver) -> None:
    unit.highest = 50
    written = await driver.write(DEVICE, PointName("setpoint"), 60)
    assert (written.state, written.value) == (CommandState.APPLIED, 50)
    assert written.reason


async def test_a_write_that_cannot_be_read_back_is_applied(unit: Unit, driver: Driver) -> None:
    unit.missing = {30}
    written = await driver.write(DEVICE, PointName("setpoint"), 60)
    assert (written.state, written.value) == (CommandState.APPLIED, None)
    assert unit.values[30] == 60


async def test_a_write_whose_answer_was_lost_is_read_back(
    server: TcpServer, unit: Unit, driver: Driver, until: Until
) -> None:
    """The device obeys each time and only its answers are late, the read-back's too; then only the first."""
    await server.set_fault(ModbusFault.LATE, FaultSettings(delay_s=0.4))
    lost = await driver.write(DEVICE, PointName("setpoint"), 7)
    assert lost.state is CommandState.OUTCOME_UNKNOWN
    assert unit.values[30] == 7
    write = asyncio.create_task(driver.write(DEVICE, PointName("setpoint"), 8))
    await until(lambda: unit.values[30] == 8)
    await server.clear_fault(ModbusFault.LATE)
    assert (await write).state is CommandState.VERIFIED


async def test_a_register_cannot_ramp(driver: Driver) -> None:
    with pytest.raises(LocalProtocolError, match="ramp"):
        await driver.write(DEVICE, PointName("setpoint"), 1, ramp_s=2)


async def test_the_meter_reads_what_the_street_draws(tmp_path: Path, connect: Connect) -> None:
    scenario = '[[dali]]\nname = "dali-1"\nport = "dali-1"\ngear = 3\nlevel = 254\n[meter]'
    async with Street(parse(scenario), tmp_path) as street:
        device = DeviceSettings(id=DEVICE, kind=Kind.METER, line=LINE, address=1, map="sdm630")
        driver = connect(tcp(street.ports().tcp["meter"][1]), [device], {})
        names = [polled.point.name for polled in driver.points(DEVICE)]
        got = dict(zip(names, (await read(driver, names)).values, strict=True))
        meter = street.state().meter
        assert meter is not None
        assert got[PointName("active_power")] == pytest.approx(meter.total_w, rel=0.01)
        assert got[PointName("frequency")] == pytest.approx(50)
        assert got[PointName("voltage_l1")] == pytest.approx(230, rel=0.02)
        assert set(street.counters().modbus["meter"]["input_registers"].values()) == {1}


@pytest.fixture
async def street(tmp_path: Path) -> AsyncIterator[Street]:
    scenario = '[[rtu]]\nname = "rtu-1"\nport = "rtu-1"\ncabinet = { unit = 1 }\nlux = { unit = 2 }'
    async with Street(parse(scenario), tmp_path) as made:
        yield made


@pytest.fixture
async def rtu(street: Street, connect: Connect) -> Driver:
    settings = ModbusRtu(
        id=LINE, port=street.ports().serial["rtu-1"], timeout_s=0.25, worst_delay_s=0.45, silent_after=100
    )
    device = DeviceSettings(id=DEVICE, kind=Kind.CABINET_IO, line=LINE, address=1, map="cabinet_io")
    return connect(settings, [device], {})


CONTACTS: Final = tuple(
    map(
        PointName,
        ("cabinet_door_open", "breaker_tripped", "mains_present", "contactor_feedback", "contactor"),
    )
)


@pytest.mark.parametrize("fault", ["crc_error", "truncated", "wrong_unit", "garbage"])
async def test_what_is_wrong_on_an_rtu_line_is_garbled_and_passes(
    street: Street, rtu: Driver, fault: str
) -> None:
    await street.fault("cabinet", fault)
    got = await read(rtu, CONTACTS)
    assert set(got.values) == {None}
    assert reasons(got) == {Reason.GARBLED}
    await street.clear("cabinet")
    assert (await read(rtu, CONTACTS)).values == (False, False, True, True, True)


async def test_late_bytes_are_counted_and_kept_from_the_next_question(street: Street, rtu: Driver) -> None:
    await street.fault("cabinet", "late", settings=FaultSettings(delay_s=0.32))
    assert reasons(await read(rtu, CONTACTS)) == {Reason.NO_ANSWER}
    street.set("cabinet", {"door_open": True})
    await street.clear("cabinet")
    assert (await read(rtu, CONTACTS)).values[0] is True
    assert rtu.health().late_bytes_discarded == 6


async def test_a_welded_contactor_shows_in_its_feedback(street: Street, rtu: Driver) -> None:
    await street.fault("cabinet", "contactor_welded")
    assert (await rtu.write(DEVICE, PointName("contactor"), False)).state is CommandState.VERIFIED
    assert (await read(rtu, CONTACTS)).values[3:] == (True, False)


async def test_one_block_may_answer_and_the_next_not(street: Street, rtu: Driver, until: Until) -> None:
    """The contacts answer at once; then the cabinet falls silent before its coil is asked for."""
    await read(rtu, CONTACTS)
    silence = asyncio.create_task(read(rtu, CONTACTS))
    counts = street.device("cabinet").reads[BenchTable.DISCRETE_INPUTS]
    before = counts[0]
    await until(lambda: counts[0] > before)
    await street.fault("cabinet", "silent")
    got = await silence
    assert got.values == (False, False, True, True, None)
    assert reasons(got) == {Reason.NO_ANSWER}


class Liar:
    """A TCP server that answers every question for registers with the same bytes, after its number.

    Attributes:
        port: where it listens.
    """

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer = answer
        self.port = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()  # and not wait for who is connected, as leaving the server itself would

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while question := await reader.read(100):
            writer.write(self._answer(question))
        writer.close()


def adu(number: bytes, pdu: bytes) -> bytes:
    return number + b"\0\0" + (len(pdu) + 1).to_bytes(2, "big") + b"\1" + pdu


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: adu(b"\0\0", b"\3\2\0\7"),
        lambda question: adu(question[:2], b"\4\2\0\7"),
        lambda question: adu(question[:2], b"\3\4\0\7\0\7"),
        lambda question: adu(question[:2], b"\3\0"),
        lambda question: adu(question[:2], b"\3\2\0"),
        lambda question: adu(question[:2], b"\x63\2\0\7"),
        lambda question: adu(question[:2], b"\x84\2"),
    ],
    ids=[
        "number 0",
        "another function",
        "too long",
        "empty",
        "torn",
        "unknown function",
        "another's refusal",
    ],
)
async def test_an_answer_to_another_question_is_garbled(
    connect: Connect, answer: Callable[[bytes], bytes]
) -> None:
    async with (liar := Liar(answer)).listening():
        got = await read(connected_to(liar, connect), TWENTY[:1])
    assert (got.values, reasons(got)) == ((None,), {Reason.GARBLED})


def connected_to(liar: Liar, connect: Connect) -> Driver:
    device = DeviceSettings(id=DEVICE, kind=Kind.SENSOR, line=LINE, address=1, map="twenty")
    return connect(tcp(liar.port), [device], {"twenty": MAP})


async def test_a_true_answer_from_the_same_server_is_good(connect: Connect) -> None:
    async with (liar := Liar(lambda question: adu(question[:2], b"\3\2\0\7"))).listening():
        assert (await read(connected_to(liar, connect), TWENTY[:1])).values == (7,)
