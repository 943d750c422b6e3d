"""A Lunatone-like LUBA interface: serial frames on one side, a DALI line on the other.

What the public layouts leave open is decided here and said: the tick counts milliseconds; the second byte of
an accepted ADD FRAME is the number of frames that wait; a frame with an unknown command is ignored; events
about the send buffer and macros, whose layout is not public, are never sent. At power-up the settings are
those that clients usually write (mode 00, events 12), and an integrated bus supply is on.
"""

from collections.abc import Callable
from enum import IntFlag

from sim.dali_line import DaliLine, Transmit
from sim.luba import Command, LubaFrame, LubaReceiver, TransmitError, encode
from sim.schedule import Schedule

_ARTICLE = 24166096
_DESCRIPTOR_BYTES = 19
_SWITCHABLE_SUPPLY = 0x80
_BUS_VOLTAGE_ERROR = 0x80
_SUPPLY_ON = 0x80
_SEND_TWICE = 0x80
_RECEIVED = 0x80  # event type 2 in the two upper bits
_FRAMING_ERROR = 63
_MODE_PING = 0x80
_PING_FRAME = bytes((0xAD, 0x00))
PING_EVERY_S = 600.0
_GAP_S = 0.05  # a frame whose bytes stop for so long is given up


class Muted(IntFlag):
    """The event bits of the settings: what is switched off."""

    ALL = 0x80
    SENT = 0x40
    RECEIVED = 0x20
    BUFFER = 0x10
    TICK = 0x08
    LINE = 0x04
    MACROS = 0x02


class LubaInterface:
    """The box between serial port and line.

    Args:
        line: the DALI line; this becomes its ears.
        schedule: gives time and timers.
        serial_number: id in the device info, 64 bits.
        output: takes bytes for the host and the moment from which they are sent.
    """

    def __init__(
        self,
        line: DaliLine,
        schedule: Schedule,
        *,
        serial_number: int,
        output: Callable[[bytes, float], None],
    ) -> None:
        self._line = line
        self._schedule = schedule
        self._serial_number = serial_number
        self._output = output
        self._receiver = LubaReceiver()
        self._mode = 0x00
        self._muted = Muted.BUFFER | Muted.MACROS
        self._hardware = _SUPPLY_ON if line.integrated_supply else 0x00
        self._next_number = 0
        self._last_heard_s = schedule.time()
        self._pinging = False
        line.ears = self

    def receive(self, content: bytes, at_s: float) -> None:
        """Take bytes from the host."""
        frames = self._receiver.gap() if at_s - self._last_heard_s > _GAP_S else []
        self._last_heard_s = at_s
        for frame in frames + self._receiver.receive(content):
            self._obey(frame, at_s)

    def frame_sent(self, number: int, frame: bytes, at_s: float) -> None:
        """Tell the host that its frame went out."""
        if Muted.SENT not in self._muted:
            self._event(bytes((8 * len(frame), number)) + frame, at_s)

    def frame_received(self, frame: bytes, at_s: float) -> None:
        """Tell the host what was heard."""
        if Muted.RECEIVED not in self._muted:
            self._event(bytes((_RECEIVED | 8 * len(frame),)) + frame, at_s)

    def framing_error(self, at_s: float) -> None:
        """Tell the host that something was heard that is no frame."""
        if Muted.RECEIVED not in self._muted:
            self._event(bytes((_RECEIVED | _FRAMING_ERROR,)), at_s)

    def _event(self, content: bytes, at_s: float) -> None:
        if Muted.ALL in self._muted:
            return
        tick = b"" if Muted.TICK in self._muted else _tick(at_s)
        line = b"" if Muted.LINE in self._muted else b"\x00"
        self._send(Command.EVENT, tick + line + content, at_s)

    def _obey(self, frame: LubaFrame, at_s: float) -> None:
        match frame.command:
            case Command.QUERY_DEVICE_INFO:
                self._send(Command.DEVICE_INFO, self._device_info(), at_s)
            case Command.QUERY_DESCRIPTOR:
                self._send(Command.DESCRIPTOR, self._descriptor(), at_s)
            case Command.SETTINGS:
                self._settings(frame.payload, at_s)
            case Command.READ_STATUS:
                self._send(Command.STATUS, self._status(frame.payload, at_s), at_s)
            case Command.ADD_FRAME:
                self._send(Command.ADD_FRAME_REPLY, self._add_frame(frame.payload, at_s), at_s)
            case _:
                pass

    def _device_info(self) -> bytes:
        gtin, pcb_and_assembly = 9010342000010, bytes((1, 1))
        return (
            gtin.to_bytes(6, "big")
            + self._serial_number.to_bytes(8, "big")
            + pcb_and_assembly
            + _ARTICLE.to_bytes(4, "big")
        )

    def _descriptor(self) -> bytes:
        feature = _SWITCHABLE_SUPPLY if self._line.integrated_supply else 0x00
        return bytes(_DESCRIPTOR_BYTES - 1) + bytes((feature,))

    def _settings(self, payload: bytes, at_s: float) -> None:
        """Write three bytes of settings, or none to read them; anything else is not understood."""
        if len(payload) == 3:
            self._mode, muted, self._hardware = payload
            self._muted = Muted(muted)
            if self._line.integrated_supply:
                self._line.switch_supply(bool(self._hardware & _SUPPLY_ON), at_s)
            self._start_ping(at_s)
        elif payload:
            return
        self._send(Command.SETTINGS_REPLY, bytes((self._mode, self._muted, self._hardware)), at_s)

    def _status(self, payload: bytes, at_s: float) -> bytes:
        if payload != b"\x00":
            return payload[:1] or b"\x00"
        error = 0x00 if self._line.voltage_at_interface(at_s) else _BUS_VOLTAGE_ERROR
        last_number = (self._next_number - 1) & 0xFF
        return b"\x00" + _tick(at_s) + bytes((last_number, self._line.queued, error))

    def _add_frame(self, payload: bytes, at_s: float) -> bytes:
        """Queue a frame: [line, bits, mode, d0, d1, d2, 0]."""
        if len(payload) != 7 or payload[1] not in (16, 24) or not 1 <= payload[2] & 0x7F <= 5:
            return bytes((TransmitError.SYNTAX,))
        if payload[0] != 0:
            return bytes((TransmitError.LINE_NOT_AVAILABLE,))
        if not self._line.voltage_at_interface(at_s):
            return bytes((TransmitError.BUS_VOLTAGE,))
        frame, mode = payload[3 : 3 + payload[1] // 8], payload[2]
        number = self._next_number
        if not self._line.enqueue(Transmit(number, frame, mode & 0x7F, bool(mode & _SEND_TWICE)), at_s):
            return bytes((TransmitError.BUFFER_FULL,))
        self._next_number = (number + 1) & 0xFF
        return bytes((number, self._line.queued))

    def _start_ping(self, at_s: float) -> None:
        if self._mode & _MODE_PING and not self._pinging:
            self._pinging = True
            self._schedule.call_at(at_s + PING_EVERY_S, lambda: self._ping(at_s + PING_EVERY_S))

    def _ping(self, at_s: float) -> None:
        """Send PING, which tells other control devices that somebody rules here, while the mode says so."""
        self._pinging = False
        if self._mode & _MODE_PING:
            self._line.enqueue(Transmit(0, _PING_FRAME, priority=5), at_s)
            self._start_ping(at_s)

    def _send(self, command: Command, payload: bytes, at_s: float) -> None:
        self._output(encode(LubaFrame(command, payload)), at_s)


def _tick(at_s: float) -> bytes:
    return (int(at_s * 1000) & 0xFFFF).to_bytes(2, "big")
