"""Every scripted fault, seen from the wire: real bytes over ptys and sockets."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from sim.faults import FaultSettings, LampFault, LineFault, ModbusFault, SerialFault
from sim.luba import Command, LubaFrame, LubaReceiver, encode
from sim.modbus_framing import RtuRequest, encode_rtu
from sim.registers import Table
from sim.scenario import parse, target_faults
from sim.schedule import LoopSchedule
from sim.serial_port import SerialPort
from sim.street import Street

SCENARIO = """
[[dali]]
name = "dali-1"
port = "ports/dali-1"
gear = 3

[[rtu]]
name = "rtu-1"
port = "ports/rtu-1"
cabinet = { unit = 1 }
lux = { unit = 2 }

[meter]
"""
SOON_S = 3.0
SILENCE_S = 0.15
READ_INPUTS = bytes.fromhex("02 0000 0004")
READ_LUX = bytes.fromhex("04 0000 0002")
READ_TOTAL_W = bytes.fromhex("04 0034 0002")


class SerialHost:
    """The host's end of a serial port."""

    def __init__(self, path: Path) -> None:
        self._end = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self._received: asyncio.Queue[bytes] = asyncio.Queue()
        asyncio.get_running_loop().add_reader(self._end, self._readable)

    def _readable(self) -> None:
        try:
            content = os.read(self._end, 4096)
        except OSError:
            content = b""
        if not content:
            asyncio.get_running_loop().remove_reader(self._end)
        self._received.put_nowait(content)

    def write(self, content: bytes) -> int:
        return os.write(self._end, content)

    async def some(self) -> bytes:
        """Return what comes next; b"" when the port has hung up."""
        async with asyncio.timeout(SOON_S):
            return await self._received.get()

    async def bytes_(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            received += await self.some()
        return received

    async def whatever_comes(self, within_s: float = SILENCE_S) -> bytes:
        received = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while True:
                    received += await self._received.get()
        return received

    async def luba(self, command: Command, payload: bytes) -> LubaFrame:
        """Write a LUBA frame and return the next that is heard."""
        receiver = LubaReceiver()
        self.write(encode(LubaFrame(command, payload)))
        while not (frames := receiver.receive(await self.some())):
            pass
        return frames[0]

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._end)
        os.close(self._end)


@pytest.fixture
async def street(tmp_path: Path) -> AsyncIterator[Street]:
    async with Street(parse(SCENARIO), tmp_path) as street:
        yield street


@pytest.fixture
async def dali(street: Street) -> AsyncIterator[SerialHost]:
    host = SerialHost(street.folder / "ports/dali-1")
    yield host
    host.close()


@pytest.fixture
async def rtu(street: Street) -> AsyncIterator[SerialHost]:
    host = SerialHost(street.folder / "ports/rtu-1")
    yield host
    host.close()


async def ask_rtu(host: SerialHost, unit: int, pdu: bytes, count: int | None = None) -> bytes:
    """Return an answer of `count` bytes, or all that comes within a while."""
    host.write(encode_rtu(RtuRequest(unit, pdu)))
    return await (host.whatever_comes() if count is None else host.bytes_(count))


async def ask_tcp(street: Street, pdu: bytes = READ_TOTAL_W, transaction: int = 7) -> bytes:
    """Return all that the meter sends within a while on a new connection."""
    host, port = street.ports().tcp["meter"]
    reader, writer = await asyncio.open_connection(host, port)
    try:
        head = transaction.to_bytes(2, "big") + b"\x00\x00" + (len(pdu) + 1).to_bytes(2, "big") + b"\x01"
        writer.write(head + pdu)
        async with asyncio.timeout(SILENCE_S):
            return await reader.read(300)
    except TimeoutError:
        return b""
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def test_every_fault_that_a_scenario_may_name_can_be_switched(tmp_path: Path) -> None:
    async def targets() -> dict[str, frozenset[str]]:
        async with Street(scenario, tmp_path) as street:
            return street.targets.names()

    scenario = parse(SCENARIO + "[[counter]]\ncount = 2\n")
    assert asyncio.run(targets()) == target_faults(scenario)


class TestModbusRtu:
    async def test_sound_units_answer(self, street: Street, rtu: SerialHost) -> None:
        assert await ask_rtu(rtu, 1, READ_INPUTS, 6) == encode_rtu(RtuRequest(1, bytes.fromhex("02 01 0C")))
        assert len(await ask_rtu(rtu, 2, READ_LUX, 9)) == 9
        assert street.counters().modbus["cabinet"]["discrete_inputs"] == {str(n): 1 for n in range(4)}

    async def test_an_absent_unit_is_silent(self, street: Street, rtu: SerialHost) -> None:
        del street
        assert await ask_rtu(rtu, 9, READ_INPUTS) == b""

    async def test_a_broadcast_is_obeyed_and_not_answered(self, street: Street, rtu: SerialHost) -> None:
        assert await ask_rtu(rtu, 0, bytes.fromhex("05 0000 0000")) == b""
        assert not street.state().modbus["cabinet"].faults
        assert street.cabinet is not None
        assert not street.cabinet.lamps_fed

    async def test_silent(self, street: Street, rtu: SerialHost) -> None:
        await street.fault("lux", ModbusFault.SILENT)
        assert await ask_rtu(rtu, 2, READ_LUX) == b""
        assert await ask_rtu(rtu, 1, READ_INPUTS, 6) != b""
        await street.clear("lux")
        assert await ask_rtu(rtu, 2, READ_LUX, 9) != b""
        assert street.counters().modbus["lux"]["input_registers"] == {"0": 1, "1": 1}

    async def test_a_slow_answer_lands_in_the_next_question(self, street: Street, rtu: SerialHost) -> None:
        await street.fault("lux", ModbusFault.SLOW, settings=FaultSettings(delay_s=0.2))
        assert await ask_rtu(rtu, 2, READ_LUX) == b""
        await street.clear("lux")
        rtu.write(encode_rtu(RtuRequest(1, READ_INPUTS)))
        both = await rtu.bytes_(9 + 6)
        assert both[0] in (1, 2)
        assert both[6:8] == b"\x02\x04" or both[9:11] == b"\x01\x02"
        assert street.counters().modbus["lux"]["input_registers"] == {"0": 1, "1": 1}

    async def test_exception(self, street: Street, rtu: SerialHost) -> None:
        await street.fault("cabinet", ModbusFault.EXCEPTION, settings=FaultSettings(code=6))
        assert await ask_rtu(rtu, 1, READ_INPUTS, 5) == encode_rtu(RtuRequest(1, b"\x82\x06"))

    @pytest.mark.parametrize(
        "fault", [ModbusFault.CRC_ERROR, ModbusFault.GARBAGE, ModbusFault.TRUNCATED, ModbusFault.WRONG_UNIT]
    )
    async def test_spoilt_answers_are_spoilt_and_do_not_count(
        self, street: Street, rtu: SerialHost, fault: ModbusFault
    ) -> None:
        sound = encode_rtu(RtuRequest(1, bytes.fromhex("02 01 0C")))
        await street.fault("cabinet", fault)
        spoilt = await ask_rtu(rtu, 1, READ_INPUTS)
        assert spoilt != sound
        assert len(spoilt) == (3 if fault is ModbusFault.TRUNCATED else len(sound))
        assert street.counters().modbus["cabinet"]["discrete_inputs"] == {}
        await street.clear("cabinet", fault)
        assert await ask_rtu(rtu, 1, READ_INPUTS, len(sound)) == sound

    async def test_a_request_with_a_bad_crc_is_not_answered(self, street: Street, rtu: SerialHost) -> None:
        rtu.write(encode_rtu(RtuRequest(1, READ_INPUTS))[:-1] + b"\x00")
        assert await rtu.whatever_comes() == b""
        assert street.state().rtu["rtu-1"].bad_frames == 1


class TestModbusTcp:
    async def test_a_sound_meter_answers(self, street: Street) -> None:
        answer = await ask_tcp(street)
        assert answer[:9] == bytes.fromhex("0007 0000 0007 01 04 04")
        assert street.counters().modbus["meter"]["input_registers"] == {"52": 1, "53": 1}

    @pytest.mark.parametrize(
        ("fault", "counted_late"),
        [(ModbusFault.SILENT, 0), (ModbusFault.LATE, 0), (ModbusFault.HALF_OPEN, 1)],
    )
    async def test_no_answer_in_time(self, street: Street, fault: ModbusFault, counted_late: int) -> None:
        """What waited in a half-open connection is answered when the network returns."""
        await street.fault("meter", fault)
        assert await ask_tcp(street) == b""
        await street.clear("meter")
        assert await ask_tcp(street) != b""
        assert street.device("meter").reads[Table.INPUT_REGISTERS][0x34] == 1 + counted_late

    async def test_half_open_keeps_what_was_connected_before(self, street: Street) -> None:
        reader, writer = await asyncio.open_connection(*street.ports().tcp["meter"])
        await street.fault("meter", ModbusFault.HALF_OPEN)
        writer.write(bytes.fromhex("0001 0000 0006 01") + READ_TOTAL_W)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SILENCE_S):
                await reader.read(100)
        await street.clear("meter")
        async with asyncio.timeout(SOON_S):
            assert len(await reader.readexactly(13)) == 13
        writer.close()
        await writer.wait_closed()

    async def test_slow_answers_keep_their_order(self, street: Street) -> None:
        await street.fault("meter", ModbusFault.SLOW, settings=FaultSettings(delay_s=0.1))
        reader, writer = await asyncio.open_connection(*street.ports().tcp["meter"])
        for transaction in (b"\x00\x01", b"\x00\x02"):
            writer.write(transaction + bytes.fromhex("0000 0006 01") + READ_TOTAL_W)
        async with asyncio.timeout(SOON_S):
            assert (await reader.readexactly(13))[:2] == b"\x00\x01"
            assert (await reader.readexactly(13))[:2] == b"\x00\x02"
        writer.close()
        await writer.wait_closed()
        assert street.counters().modbus["meter"]["input_registers"] == {"52": 2, "53": 2}

    async def test_exception_is_4_unless_said_otherwise(self, street: Street) -> None:
        await street.fault("meter", ModbusFault.EXCEPTION)
        assert (await ask_tcp(street))[7:] == b"\x84\x04"

    async def test_wrong_unit_and_wrong_transaction(self, street: Street) -> None:
        await street.fault("meter", ModbusFault.WRONG_UNIT)
        assert (await ask_tcp(street))[6] == 2
        await street.clear("meter")
        await street.fault("meter", ModbusFault.WRONG_TRANSACTION)
        assert (await ask_tcp(street))[:2] == b"\x00\x08"
        assert street.counters().modbus["meter"]["input_registers"] == {}

    async def test_truncated_and_garbage(self, street: Street) -> None:
        await street.fault("meter", ModbusFault.TRUNCATED)
        assert await ask_tcp(street) == bytes.fromhex("0007 0000 0007")
        await street.clear("meter")
        await street.fault("meter", ModbusFault.GARBAGE)
        garbage = await ask_tcp(street)
        assert len(garbage) == 13
        assert garbage[:9] != bytes.fromhex("0007 0000 0007 01 04 04")

    async def test_closed_hangs_up_instead_of_answering(self, street: Street) -> None:
        await street.fault("meter", ModbusFault.CLOSED)
        reader, writer = await asyncio.open_connection(*street.ports().tcp["meter"])
        writer.write(bytes.fromhex("0001 0000 0006 01") + READ_TOTAL_W)
        async with asyncio.timeout(SOON_S):
            with suppress(ConnectionError):
                assert await reader.read(100) == b""
        writer.close()

    async def test_refused_closes_the_port_and_comes_back_on_it(self, street: Street) -> None:
        before = street.ports().tcp["meter"]
        reader, writer = await asyncio.open_connection(*before)
        await street.fault("meter", ModbusFault.REFUSED)
        with suppress(ConnectionError):
            assert await reader.read(1) == b""
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*before)
        await street.clear("meter")
        assert street.ports().tcp["meter"] == before
        assert await ask_tcp(street) != b""

    async def test_without_mains_the_meter_is_dead(self, street: Street) -> None:
        street.set("cabinet", {"mains_present": False})
        assert await ask_tcp(street) == b""
        street.set("cabinet", {"mains_present": True})
        assert await ask_tcp(street) != b""

    async def test_a_foreign_unit_is_the_gateways_failure_11(self, street: Street) -> None:
        reader, writer = await asyncio.open_connection(*street.ports().tcp["meter"])
        writer.write(bytes.fromhex("0001 0000 0006 05") + READ_TOTAL_W)
        async with asyncio.timeout(SOON_S):
            assert (await reader.readexactly(9))[7:] == b"\x84\x0b"
        writer.close()
        await writer.wait_closed()

    async def test_bytes_that_are_no_modbus_close_the_connection(self, street: Street) -> None:
        reader, writer = await asyncio.open_connection(*street.ports().tcp["meter"])
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(SOON_S):
            with suppress(ConnectionError):
                assert await reader.read(100) == b""
        writer.close()


class TestSerial:
    STATUS = LubaFrame(Command.READ_STATUS, b"\x00")

    async def test_unplugged_hangs_up_and_comes_back_as_a_new_port(
        self, street: Street, dali: SerialHost
    ) -> None:
        link = street.folder / "ports/dali-1"
        device_before = link.readlink()
        await street.fault("dali-1", SerialFault.UNPLUGGED)
        assert await dali.some() == b""
        assert not link.is_symlink()
        with pytest.raises(OSError, match="Input/output error"):
            dali.write(b"x")
        await street.clear("dali-1")
        assert link.readlink() != device_before
        fresh = SerialHost(link)
        assert (await fresh.luba(Command.READ_STATUS, b"\x00")).command == Command.STATUS
        fresh.close()

    async def test_a_fault_with_a_time_ends_by_itself(self, street: Street, rtu: SerialHost) -> None:
        await street.fault("lux", ModbusFault.SILENT, for_s=0.3)
        assert await ask_rtu(rtu, 2, READ_LUX) == b""
        async with asyncio.timeout(SOON_S):
            while await ask_rtu(rtu, 2, READ_LUX) == b"":
                pass
        assert street.state().modbus["lux"].faults == []

    async def test_a_later_fault_replaces_the_time_of_the_first(
        self, street: Street, rtu: SerialHost
    ) -> None:
        await street.fault("lux", ModbusFault.SILENT, for_s=0.05)
        await street.fault("lux", ModbusFault.SILENT)
        assert await ask_rtu(rtu, 2, READ_LUX) == b""
        assert await ask_rtu(rtu, 2, READ_LUX) == b""

    async def test_frozen_takes_nothing_and_forgets_it(self, street: Street, dali: SerialHost) -> None:
        await street.fault("dali-1", SerialFault.FROZEN)
        dali.write(encode(LubaFrame(Command.QUERY_DESCRIPTOR)))
        assert await dali.whatever_comes() == b""
        await street.clear("dali-1")
        assert (await dali.luba(Command.READ_STATUS, b"\x00")).command == Command.STATUS

    async def test_noise_reaches_the_host_and_stops(self, street: Street, dali: SerialHost) -> None:
        await street.fault("dali-1", SerialFault.NOISE, settings=FaultSettings(every_s=0.01))
        assert len(await dali.bytes_(20)) >= 20
        await street.clear("dali-1")
        await dali.whatever_comes(0.02)
        assert await dali.whatever_comes() == b""

    async def test_dropped_bytes_are_gone(self, street: Street, dali: SerialHost) -> None:
        await street.fault("dali-1", SerialFault.DROP, settings=FaultSettings(probability=1.0))
        dali.write(encode(self.STATUS))
        assert await dali.whatever_comes() == b""

    async def test_flipped_bits_make_the_frame_unreadable(self, street: Street, dali: SerialHost) -> None:
        await street.fault("dali-1", SerialFault.FLIP, settings=FaultSettings(probability=1.0))
        dali.write(encode(self.STATUS))
        assert await dali.whatever_comes() == b""

    async def test_bytes_can_be_injected(self, street: Street, dali: SerialHost) -> None:
        street.lines["dali-1"].port.inject(b"\x59\x00")
        assert await dali.bytes_(2) == b"\x59\x00"

    async def test_bytes_take_their_time_at_the_ports_speed(self, street: Street, dali: SerialHost) -> None:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        await dali.luba(Command.QUERY_DEVICE_INFO, b"\x00")
        del street
        assert loop.time() - started_s >= (5 + 24) * 10 / 38400

    @pytest.mark.parametrize("kind", ["file", "symlink"])
    async def test_what_stands_in_the_way_of_the_link_is_left_alone(self, tmp_path: Path, kind: str) -> None:
        schedule = LoopSchedule(asyncio.get_running_loop())
        link = tmp_path / "port"
        port = SerialPort(link, baud=9600, bits_per_byte=10, schedule=schedule, rng=random.Random(1))
        if kind == "file":
            link.write_text("mine")
        else:
            link.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(FileExistsError, match="not a symlink to a pty"):
            port.open()
        assert link.is_symlink() == (kind == "symlink")
        assert port.device is None

    async def test_what_a_bench_that_died_has_left_is_replaced(self, tmp_path: Path) -> None:
        link = tmp_path / "port"
        link.symlink_to("/dev/pts/99999")
        schedule = LoopSchedule(asyncio.get_running_loop())
        port = SerialPort(link, baud=9600, bits_per_byte=10, schedule=schedule, rng=random.Random(1))
        port.open()
        assert str(link.readlink()) == port.device
        port.close()
        assert not link.is_symlink()


class TestDaliLine:
    """The line's faults have their tests in virtual time; here they are reached by name."""

    async def query_status(self, host: SerialHost, count: int) -> list[LubaFrame]:
        """Return the first `count` frames that come of asking gear 0 for its status."""
        host.write(encode(LubaFrame(Command.ADD_FRAME, bytes.fromhex("00 10 05 01 90 00 00"))))
        receiver, frames = LubaReceiver(), list[LubaFrame]()
        while len(frames) < count:
            frames += receiver.receive(await host.some())
        return frames

    async def test_a_sound_gear_is_confirmed_and_answers(self, street: Street, dali: SerialHost) -> None:
        reply, sent, received = await self.query_status(dali, 3)
        assert (reply.command, sent.payload[3], received.payload[3]) == (0x33, 16, 0x88)
        assert street.counters().lines["dali-1"].answers["0"] == {"90": 1}

    @pytest.mark.parametrize(
        ("fault", "statuses"),
        [
            (LampFault.SILENT, [16]),
            (LampFault.GARBLED, [16, 0x80 | 63]),
            (LampFault.LATE, [16, 0x88]),
            (LampFault.LAMP_FAILURE, [16, 0x88]),
            (LampFault.GEAR_FAILURE, [16, 0x88]),
        ],
    )
    async def test_faults_of_a_gear(
        self, street: Street, dali: SerialHost, fault: LampFault, statuses: list[int]
    ) -> None:
        await street.fault("dali-1/0", fault)
        told = await self.query_status(dali, 1 + len(statuses))
        events = [frame for frame in told if frame.command == Command.EVENT]
        assert [event.payload[3] for event in events] == statuses
        if fault is LampFault.SILENT:
            assert await dali.whatever_comes() == b""
        assert street.state().lines["dali-1"].gear["0"].faults == [fault.value]

    async def test_a_short_and_its_end(self, street: Street, dali: SerialHost) -> None:
        await street.fault("dali-1", LineFault.LINE_SHORT)
        assert [frame.payload for frame in await self.query_status(dali, 1)] == [b"\x01"]
        await street.clear("dali-1")
        assert len(await self.query_status(dali, 3)) == 3
