"""Modbus over TCP and RTU: the one place that knows pymodbus, whose minor releases break its interface.

pymodbus gives frames, checksums and the pairing of answers with questions. What it lacks is here. Connections
are opened by us and bytes come through a `_Tap`, so that bytes which arrive when nobody was asked never reach
it; a lost connection ends the question at once; and after a question without a good answer no late answer can
be taken for the next one's: over TCP the connection is made anew, over RTU nothing is asked until the line
has been silent for its devices' worst delay.
"""

import asyncio
import logging
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.client.base import ModbusBaseClient
from pymodbus.exceptions import ConnectionException, ModbusException
from pymodbus.pdu import ExceptionResponse, ModbusPDU
from pymodbus.transaction import TransactionManager

from drivers.errors import DeviceError, GarbledError, LineDownError, NoAnswerError, RefusedError
from drivers.settings import ModbusRtu, ModbusTcp
from drivers.transport import connect_serial
from protocols.modbus.register_map import BIT_TABLES, Table

ILLEGAL_ADDRESS: Final = 2
_EXCEPTIONS: Final = {
    1: "illegal function",
    2: "illegal address",
    3: "illegal value",
    4: "device failure",
    5: "acknowledged, still working",
    6: "device busy",
    8: "memory parity error",
}
_READ: Final = {Table.COIL: 1, Table.DISCRETE_INPUT: 2, Table.HOLDING: 3, Table.INPUT: 4}
_NOBODY_THERE: Final = {10: "gateway path unavailable", 11: "gateway target did not respond"}
_QUIET_BOUND: Final = 5
"""A line on which something talks all the time is used all the same after so many worst delays."""
_GAP_CHARACTERS: Final = 3.5  # MODBUS over Serial Line V1.02, 2.5.1.1: silence between frames
_FAST_GAP_S: Final = 0.00175  # the same clause, above 19,200 bit/s

# It dumps packets at ERROR for each silent device; what matters of it is in readings and health.
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)


class _Tap(asyncio.Protocol):
    """Stands between a transport and pymodbus, and lets bytes pass only while a question is open.

    Attributes:
        received: bytes since the question was put.
        discarded: bytes that came when none was open.
        last_byte_s: when the last byte came, seconds of the loop's clock.
        lost: why the connection is gone; None while it is there.
    """

    def __init__(self, inner: TransactionManager, on_lost: Callable[[str], None]) -> None:
        self._inner = inner
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._open = False
        self.received = 0
        self.discarded = 0
        self.last_byte_s = 0.0
        self.lost: str | None = None

    def ask(self) -> None:
        """Let the answer to a question pass."""
        self._open = True
        self.received = 0

    def asked(self) -> None:
        """Let nothing pass any more."""
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass it on."""
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on, or drop them if nobody was asked."""
        self.last_byte_s = self._loop.time()
        if not self._open:
            self.discarded += len(data)
            return
        self.received += len(data)
        try:
            self._inner.data_received(data)
        except ModbusException as fault:
            self._end_question(fault)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the open question at once, or tell the owner if there is none and it was not us who closed."""
        by_itself = not self._inner.is_closing
        self.lost = str(exc or "the other end closed the connection")
        self._end_question(ConnectionException(self.lost))
        self._inner.connection_lost(exc)
        if by_itself and not self._open:
            self._on_lost(self.lost)

    def _end_question(self, fault: ModbusException) -> None:
        if self._open and not self._inner.response_future.done():
            self._inner.response_future.set_exception(fault)


class ModbusClient(ABC):
    """One connection to one or more Modbus units; one question at a time.

    Args:
        on_lost: called with the reason when the connection goes away by itself.
    """

    def __init__(self, on_lost: Callable[[str], None]) -> None:
        self._on_lost = on_lost
        self._client: ModbusBaseClient | None = None
        self._tap: _Tap | None = None
        self._discarded = 0

    @property
    def late_bytes(self) -> int:
        """Return how many bytes came when nobody was asked."""
        return self._discarded + (self._tap.discarded if self._tap else 0)

    async def connect(self) -> None:
        """Connect anew.

        Raises:
            LineDownError: with the reason, for a person.
        """
        self.close()
        client = self._new_client()
        tap = _Tap(client.ctx, self._on_lost)
        await self._open(tap)
        self._client, self._tap = client, tap

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None and self._tap is not None:
            self._discarded += self._tap.discarded
            self._client.close()
        self._client = self._tap = None

    async def read(self, unit: int, table: Table, address: int, count: int) -> Sequence[int]:
        """Read registers, or bits as False and True.

        Raises:
            LineDownError: if the line is gone.
            DeviceError: if the unit gave no valid answer; RefusedError holds the exception's code.
        """
        client, tap = await self._ready()
        match table:
            case Table.HOLDING:
                question = client.read_holding_registers(address, count=count, device_id=unit)
            case Table.INPUT:
                question = client.read_input_registers(address, count=count, device_id=unit)
            case Table.COIL:
                question = client.read_coils(address, count=count, device_id=unit)
            case Table.DISCRETE_INPUT:
                question = client.read_discrete_inputs(address, count=count, device_id=unit)
        answer = await self._ask(client, tap, question, _READ[table])
        bits = table in BIT_TABLES
        got: Sequence[int] = answer.bits if bits else answer.registers
        if len(got) != (-(-count // 8) * 8 if bits else count):
            raise self._failed(GarbledError(f"{len(got)} values in answer to a question for {count}"))
        return got

    async def write(self, unit: int, table: Table, address: int, values: Sequence[int]) -> None:
        """Write registers, or one coil.

        Raises:
            LineDownError: if the line is gone.
            DeviceError: if the unit gave no valid answer; if not refused, it may have been done all the same.
        """
        client, tap = await self._ready()
        if table is Table.COIL:
            await self._ask(client, tap, client.write_coil(address, bool(values[0]), device_id=unit), 5)
        elif len(values) == 1:
            await self._ask(client, tap, client.write_register(address, values[0], device_id=unit), 6)
        else:
            await self._ask(client, tap, client.write_registers(address, list(values), device_id=unit), 16)

    async def _ask(
        self, client: ModbusBaseClient, tap: _Tap, question: Awaitable[ModbusPDU], function: int
    ) -> ModbusPDU:
        tap.ask()
        try:
            answer = await question
        except ModbusException as fault:
            raise self._failed(_why(tap)) from fault
        finally:
            tap.asked()
        # pymodbus lets number 0 pass for any, and does not compare function codes
        if (
            answer.transaction_id != client.ctx.request_transaction_id
            or answer.function_code & 0x7F != function
        ):
            raise self._failed(GarbledError("the answer to another question"))
        if isinstance(answer, ExceptionResponse):
            raise _refusal(answer.exception_code)
        return answer

    @abstractmethod
    def _new_client(self) -> ModbusBaseClient:
        """Return a new pymodbus client, not connected."""

    @abstractmethod
    async def _open(self, tap: _Tap) -> None:
        """Connect the tap. Raises LineDownError."""

    @abstractmethod
    async def _ready(self) -> tuple[ModbusBaseClient, _Tap]:
        """Wait until a question may be put; no late answer can come any more."""

    @abstractmethod
    def _failed(self, fault: DeviceError | LineDownError) -> DeviceError | LineDownError:
        """Take note that a question had no good answer; return the fault to raise."""


class TcpClient(ModbusClient):
    """Modbus TCP. A question without a good answer costs the connection, and its late answer goes with it."""

    def __init__(self, settings: ModbusTcp, on_lost: Callable[[str], None]) -> None:
        super().__init__(on_lost)
        self._settings = settings
        self._spoilt = False

    def _new_client(self) -> ModbusBaseClient:
        s = self._settings
        return AsyncModbusTcpClient(
            s.host, port=s.port, timeout=s.timeout_s, retries=0, reconnect_delay=0, name=s.id
        )

    async def _open(self, tap: _Tap) -> None:
        s = self._settings
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(s.connect_timeout_s):
                await loop.create_connection(lambda: tap, s.host, s.port)
        except TimeoutError as fault:
            raise LineDownError(f"{s.host}:{s.port} does not take the connection") from fault
        except OSError as fault:
            raise LineDownError(f"{s.host}:{s.port}: {_unconnected(fault)}") from fault
        self._spoilt = False

    async def _ready(self) -> tuple[ModbusBaseClient, _Tap]:
        if self._spoilt or self._client is None or self._tap is None or self._tap.lost or self._tap.discarded:
            await self.connect()
        if self._client is None or self._tap is None:
            raise LineDownError("not connected")
        return self._client, self._tap

    def _failed(self, fault: DeviceError | LineDownError) -> DeviceError | LineDownError:
        self._spoilt = True
        return fault


class RtuClient(ModbusClient):
    """Modbus RTU. An answer does not say which question it answers, so silence has to separate them."""

    def __init__(self, settings: ModbusRtu, on_lost: Callable[[str], None]) -> None:
        super().__init__(on_lost)
        self._settings = settings
        self._asked_s = 0.0
        self._spoilt = False
        bits = 9 + settings.stopbits + (settings.parity != "N")
        self._gap_s = max(_FAST_GAP_S, _GAP_CHARACTERS * bits / min(settings.baudrate, 19200))

    def _new_client(self) -> ModbusBaseClient:
        s = self._settings
        return AsyncModbusSerialClient(s.port, timeout=s.timeout_s, retries=0, reconnect_delay=0, name=s.id)

    async def _open(self, tap: _Tap) -> None:
        s = self._settings
        await connect_serial(s.port, tap, baudrate=s.baudrate, parity=s.parity, stopbits=s.stopbits)

    async def _ready(self) -> tuple[ModbusBaseClient, _Tap]:
        if self._client is None or self._tap is None or self._tap.lost:
            raise LineDownError(self._tap.lost if self._tap and self._tap.lost else "the port is closed")
        await self._silence(self._tap, self._settings.worst_delay_s if self._spoilt else self._gap_s)
        self._spoilt = False
        self._asked_s = asyncio.get_running_loop().time()
        return self._client, self._tap

    async def _silence(self, tap: _Tap, silence_s: float) -> None:
        """Wait until nothing has been on the line for so long."""
        loop = asyncio.get_running_loop()
        bound_s = loop.time() + _QUIET_BOUND * silence_s
        while (quiet_s := loop.time() - max(tap.last_byte_s, self._asked_s)) < silence_s:
            if loop.time() > bound_s:
                break
            await asyncio.sleep(silence_s - quiet_s)
        if tap.lost:
            raise LineDownError(tap.lost)

    def _failed(self, fault: DeviceError | LineDownError) -> DeviceError | LineDownError:
        self._spoilt = True
        if self._tap is not None and self._tap.lost:
            return LineDownError(f"port {self._settings.port} is gone: {self._tap.lost}")
        return fault


def _unconnected(fault: OSError) -> str:
    """Return why a host cannot be reached, in the system's words instead of asyncio's."""
    if fault.errno is None or isinstance(fault, socket.gaierror):
        return fault.strerror or str(fault)
    return os.strerror(fault.errno)


def _why(tap: _Tap) -> DeviceError:
    if tap.received:
        return GarbledError("no valid answer in what came back")
    return NoAnswerError(tap.lost or "no answer")


def _refusal(code: int) -> DeviceError:
    if code in _NOBODY_THERE:
        return NoAnswerError(f"{_NOBODY_THERE[code]} (Modbus exception {code})")
    return RefusedError(f"{_EXCEPTIONS.get(code, 'refused')} (Modbus exception {code})", code)
