"""Modbus servers: TCP on a socket, RTU on a pty, with everything that can go wrong on the wire.

A read is counted when its response has been fully written: late, it counts late; cut off, it does not count.
"""

import asyncio
import random
from collections import deque

import msgspec
import structlog

from sim.faults import Board, FaultSettings, ModbusFault
from sim.modbus_framing import (
    RtuReceiver,
    RtuRequest,
    StreamBrokenError,
    TcpReceiver,
    TcpRequest,
    encode_rtu,
    encode_tcp,
)
from sim.modbus_pdu import Reply, exception_reply, serve
from sim.registers import ExceptionCode, RegisterDevice
from sim.schedule import Schedule, Timer
from sim.serial_port import SerialPort

_log = structlog.get_logger(__name__)

BROADCAST = 0
_ANY_UNIT = (0, 255)  # over TCP these address whoever owns the connection
_FAST_LINE_BAUD = 19200
_FAST_LINE_SILENCE_S = 0.00175
_SLOW_S = 0.5
_LATE_S = 3.0
_TURNAROUND_S = 0.002  # what a small device needs to think


class Station:
    """One Modbus unit on a wire: its registers and its faults.

    Args:
        name: as the scenario calls it.
        unit: unit id, 1–247.
        device: what it serves.
        rng: seeded source of the faults' randomness.
    """

    def __init__(self, name: str, unit: int, device: RegisterDevice, rng: random.Random) -> None:
        self.name = name
        self.unit = unit
        self.device = device
        self.board = Board(ModbusFault)
        self.dead = False
        """Without supply it hears nothing."""
        self._rng = rng

    def reply(self, pdu: bytes) -> Reply | None:
        """Carry out a request, or refuse it, or say nothing."""
        if self.dead or ModbusFault.SILENT in self.board:
            return None
        if ModbusFault.EXCEPTION in self.board:
            code = self.board.settings(ModbusFault.EXCEPTION).code
            return exception_reply(pdu, ExceptionCode.DEVICE_FAILURE if code is None else code)
        return serve(pdu, self.device)

    def answering_unit(self, unit: int) -> int:
        """Return the unit id under which it answers."""
        return (unit % 247) + 1 if ModbusFault.WRONG_UNIT in self.board else unit

    def delay_s(self) -> float:
        """Return how long it thinks."""
        for fault, usual_s in ((ModbusFault.LATE, _LATE_S), (ModbusFault.SLOW, _SLOW_S)):
            if fault in self.board:
                delay_s = self.board.settings(fault).delay_s
                return usual_s if delay_s is None else delay_s
        return 0.0

    def on_wire(self, adu: bytes) -> tuple[bytes, bool]:
        """Return the bytes as they leave, and whether they still are the answer."""
        if ModbusFault.GARBAGE in self.board:
            return self._rng.randbytes(len(adu)), False
        if ModbusFault.TRUNCATED in self.board:
            return adu[: len(adu) // 2], False
        if ModbusFault.CRC_ERROR in self.board:
            return adu[:-1] + bytes((adu[-1] ^ 0x55,)), False
        astray = ModbusFault.WRONG_UNIT in self.board or ModbusFault.WRONG_TRANSACTION in self.board
        return adu, not astray

    def count(self, reply: Reply) -> None:
        """Count a read whose response is on the wire."""
        if reply.read is not None:
            self.device.count(*reply.read)


class _Ready(msgspec.Struct, frozen=True):
    """A response that waits for its moment, since answers keep their order."""

    adu: bytes
    reply: Reply
    when_s: float
    whole: bool


class TcpServer:
    """One unit behind a TCP port.

    Attributes:
        port: the port listened on; with 0 asked for, the one that was given.
        connections: how many were accepted since the start.
    """

    def __init__(self, station: Station, host: str, port: int, schedule: Schedule) -> None:
        self.station = station
        self.host = host
        self.port = port
        self.connections = 0
        self.schedule = schedule
        self._server: asyncio.Server | None = None
        self._open: set[_TcpConnection] = set()

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken or not ours.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _TcpConnection(self), self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and every connection."""
        self._stop_listening()
        for connection in list(self._open):
            connection.abort()
        await asyncio.sleep(0)  # lets the transports say goodbye

    async def set_fault(self, fault: ModbusFault, settings: FaultSettings) -> None:
        """Let a fault begin."""
        self.station.board.set(fault, settings)
        if fault is ModbusFault.REFUSED:
            await self.stop()
        elif fault is ModbusFault.HALF_OPEN:
            for connection in self._open:
                connection.pause()

    async def clear_fault(self, fault: ModbusFault) -> None:
        """Let a fault end."""
        self.station.board.clear(fault)
        if fault is ModbusFault.REFUSED and self._server is None:
            await self.start()
        elif fault is ModbusFault.HALF_OPEN:
            for connection in self._open:
                connection.resume()

    def opened(self, connection: "_TcpConnection") -> None:
        """Note a new connection."""
        self.connections += 1
        self._open.add(connection)

    def gone(self, connection: "_TcpConnection") -> None:
        """Forget a connection."""
        self._open.discard(connection)

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


class _TcpConnection(asyncio.Protocol):
    """One client; its requests are answered in order."""

    def __init__(self, server: TcpServer) -> None:
        self._owner = server
        self._receiver = TcpReceiver()
        self._ready: deque[_Ready] = deque()
        self._timer: Timer | None = None
        self._written: deque[Reply] = deque()
        self._transport: asyncio.Transport | None = None
        self._blocked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  create_server gives nothing else
        transport.set_write_buffer_limits(high=0)
        self._transport = transport
        self._owner.opened(self)
        if ModbusFault.HALF_OPEN in self._owner.station.board:
            self.pause()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._owner.gone(self)
        self._ready.clear()
        self._written.clear()
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, content: bytes) -> None:
        try:
            for request in self._receiver.receive(content):
                self._answer(request)
        except StreamBrokenError:
            self.abort()

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._count_written()

    def pause(self) -> None:
        """Stop reading, as a peer whose network is gone."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_reading():
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _answer(self, request: TcpRequest) -> None:
        station = self._owner.station
        if ModbusFault.CLOSED in station.board:
            self.abort()
            return
        if request.unit in _ANY_UNIT or request.unit == station.unit:
            reply = station.reply(request.pdu)
        else:
            reply = exception_reply(request.pdu, ExceptionCode.GATEWAY_TARGET)
        if reply is not None:
            self._enqueue(request, reply)

    def _enqueue(self, request: TcpRequest, reply: Reply) -> None:
        station = self._owner.station
        astray = ModbusFault.WRONG_TRANSACTION in station.board
        transaction = (request.transaction + 1) & 0xFFFF if astray else request.transaction
        adu, whole = station.on_wire(
            encode_tcp(TcpRequest(transaction, station.answering_unit(request.unit), reply.pdu))
        )
        when_s = self._owner.schedule.time() + station.delay_s()
        self._ready.append(_Ready(adu, reply, when_s, whole))
        self._send_ready()

    def _send_ready(self) -> None:
        self._timer = None
        while self._ready:
            if self._ready[0].when_s > self._owner.schedule.time():
                self._timer = self._owner.schedule.call_at(self._ready[0].when_s, self._send_ready)
                return
            self._write(self._ready.popleft())

    def _write(self, ready: _Ready) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(ready.adu)
        if ready.whole:
            self._written.append(ready.reply)
        if not self._blocked:
            self._count_written()

    def _count_written(self) -> None:
        """Count what has left for the kernel whole."""
        while self._written:
            self._owner.station.count(self._written.popleft())


class RtuServer:
    """Several units on one serial line.

    Args:
        port: the serial port.
        baud: decides, with the port's character time, how long a silence ends a frame.
        schedule: gives time and timers.
    """

    def __init__(self, port: SerialPort, *, baud: int, schedule: Schedule) -> None:
        self.port = port
        self.stations: dict[int, Station] = {}
        self.receiver = RtuReceiver()
        self._schedule = schedule
        self._silence_s = _FAST_LINE_SILENCE_S if baud > _FAST_LINE_BAUD else 3.5 * port.char_s
        self._silence: Timer | None = None
        port.received = self._received

    def add(self, station: Station) -> None:
        """Connect a unit to the line."""
        self.stations[station.unit] = station

    def _received(self, content: bytes, at_s: float) -> None:
        if self._silence is not None:
            self._silence.cancel()
        self.receiver.receive(content)
        silent_s = at_s + self._silence_s
        self._silence = self._schedule.call_at(silent_s, lambda: self._frame_ends(silent_s))

    def _frame_ends(self, at_s: float) -> None:
        self._silence = None
        request = self.receiver.silence()
        if request is None:
            return
        if request.unit == BROADCAST:
            for station in self.stations.values():
                station.reply(request.pdu)
        elif request.unit in self.stations:
            self._answer(self.stations[request.unit], request, at_s)

    def _answer(self, station: Station, request: RtuRequest, at_s: float) -> None:
        reply = station.reply(request.pdu)
        if reply is None:
            return
        answer = RtuRequest(station.answering_unit(request.unit), reply.pdu)
        adu, whole = station.on_wire(encode_rtu(answer))
        done = (lambda: station.count(reply)) if whole else None
        when_s = at_s + _TURNAROUND_S + station.delay_s()
        self._schedule.call_at(when_s, lambda: self.port.send(adu, when_s, done))
