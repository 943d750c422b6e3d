"""The LUBA link of a serial DALI interface: bytes to events, requests to bytes.

Source: Lunatone, "LUBA Protocol", as far as it is public. 38400 baud 8N1; a frame is

    59  command  length  payload …  xor of command … last payload byte

A reply's command is its request's plus one; 31 is an event that nobody asked for. The link resynchronises by
itself: what cannot be the start of a known reply is dropped byte by byte, and when the serial line falls
silent inside a frame (`gap`) that frame is given up and its bytes are looked through again.
"""

from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum, IntEnum
from functools import reduce
from operator import xor
from typing import Final, TypeAlias, assert_never

import msgspec

from protocols.errors import LocalProtocolError

SYNC: Final = 0x59
MAX_BUFFER: Final = 4096
"""Bytes held while nobody asks for events: a tenth of a second of a line gone mad, not more."""
_HEADER: Final = 3
_OVERHEAD: Final = 4
_LINE: Final = 0  # serial interfaces have one DALI line
_EVENTS_WANTED: Final = 0x12  # switched off: 4 send buffer, 1 macros


class Code(IntEnum):
    """What a frame says."""

    QUERY_DEVICE_INFO = 0x20
    DEVICE_INFO = 0x21
    QUERY_DESCRIPTOR = 0x28
    DESCRIPTOR = 0x29
    SETTINGS = 0x2A
    SETTINGS_REPLY = 0x2B
    READ_STATUS = 0x2C
    STATUS = 0x2D
    EVENT = 0x31
    ADD_FRAME = 0x32
    ADD_FRAME_REPLY = 0x33


_LENGTHS: Final[Mapping[int, range]] = {
    Code.DEVICE_INFO: range(18, 21),
    Code.DESCRIPTOR: range(19, 24),
    Code.SETTINGS_REPLY: range(2, 4),
    Code.STATUS: range(1, 9),
    Code.EVENT: range(4, 10),
    Code.ADD_FRAME_REPLY: range(1, 3),
}
"""Payload lengths of everything that an interface says; the stricter, the sooner a stray byte is seen."""


class TransmitError(IntEnum):
    """Why an interface does not take a frame."""

    BUS_VOLTAGE = 1
    INITIALISE_MODE = 2
    QUIESCENT_MODE = 3
    BUFFER_FULL = 4
    LINE_NOT_AVAILABLE = 5
    SYNTAX = 6
    MACRO_RUNNING = 7
    UNKNOWN = 255


# --- what we ask ---


class QueryDeviceInfo(msgspec.Struct, frozen=True):
    """Ask who the interface is."""


class QueryDescriptor(msgspec.Struct, frozen=True):
    """Ask what the interface can do."""


class WriteSettings(msgspec.Struct, frozen=True):
    """Let the interface report what it sends and hears.

    Attributes:
        supply_on: whether its bus supply is to be on. The settings cannot be written without saying so: a
            False here switches an integrated supply off, and all gear fall to their failure level.
    """

    supply_on: bool


class ReadStatus(msgspec.Struct, frozen=True):
    """Ask whether the line has power."""


class AddFrame(msgspec.Struct, frozen=True):
    """Send a forward frame.

    Attributes:
        frame: two or three bytes.
        priority: 1–5 (IEC 62386-101, priorities and settling times).
        twice: send it again within 94 ms, as configuration commands need.
    """

    frame: bytes
    priority: int = 5
    twice: bool = False


Request: TypeAlias = QueryDeviceInfo | QueryDescriptor | WriteSettings | ReadStatus | AddFrame


# --- what we hear ---


class DeviceInfo(msgspec.Struct, frozen=True):
    """Who the interface is: GTIN, serial number, article number."""

    gtin: int
    serial: int
    article: int


class Descriptor(msgspec.Struct, frozen=True):
    """What the interface can do."""

    switchable_supply: bool


class SettingsWritten(msgspec.Struct, frozen=True):
    """The settings that the interface now has."""

    mode: int
    events_off: int


class Status(msgspec.Struct, frozen=True):
    """How the line is; `powered` is False at a bus voltage error or when there is no such line."""

    powered: bool


class Accepted(msgspec.Struct, frozen=True):
    """A frame waits to be sent."""

    number: int


class NotAccepted(msgspec.Struct, frozen=True):
    """A frame will not be sent."""

    error: TransmitError


class FrameSent(msgspec.Struct, frozen=True):
    """A frame went out, one event for each time; `tick` is the interface's own time, 16 bits."""

    tick: int
    number: int
    frame: bytes


class FrameHeard(msgspec.Struct, frozen=True):
    """A frame came in: one byte is an answer, more are another control device's forward frame."""

    tick: int
    frame: bytes


class FramingError(msgspec.Struct, frozen=True):
    """Something came in that is no frame: several answers at once, or noise."""

    tick: int


class StartStopOnly(msgspec.Struct, frozen=True):
    """A start and a stop bit came in with nothing between them."""

    tick: int


class Unrecognised(msgspec.Struct, frozen=True):
    """A valid LUBA frame that means nothing to us."""

    code: int
    payload: bytes


class NeedData(Enum):
    """What `next_event` returns when no event is complete."""

    NEED_DATA = "need data"


NEED_DATA: Final = NeedData.NEED_DATA

Event: TypeAlias = (
    DeviceInfo
    | Descriptor
    | SettingsWritten
    | Status
    | Accepted
    | NotAccepted
    | FrameSent
    | FrameHeard
    | FramingError
    | StartStopOnly
    | Unrecognised
)


class LubaLink:
    """One end of the link: ours.

    Attributes:
        noise_bytes: bytes that belonged to no frame, since the beginning.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._ready: deque[Event] = deque()
        self.noise_bytes = 0

    def send(self, request: Request) -> bytes:
        """Return the bytes of a request.

        Raises:
            LocalProtocolError: if the request cannot be said.
        """
        return _wire(*_request(request))

    def receive_data(self, received: bytes) -> None:
        """Take bytes as they come, however they are cut."""
        self._buffer += received
        self._drop(max(0, len(self._buffer) - MAX_BUFFER))

    def next_event(self) -> Event | NeedData:
        """Return the next event, or NEED_DATA."""
        return self._ready.popleft() if self._ready else self._parse()

    @property
    def incomplete(self) -> bool:
        """Tell whether the beginning of a frame is held."""
        return bool(self._buffer)

    def gap(self) -> None:
        """Note that the line fell silent: an incomplete frame stays so, and its bytes are looked through."""
        while self._buffer:
            event = self._parse()
            if isinstance(event, NeedData):
                self._drop(1)
            else:
                self._ready.append(event)

    def _parse(self) -> Event | NeedData:
        while self._seek_start() and self._complete():
            event = self._take()
            if event is not None:
                return event
        return NEED_DATA

    def _seek_start(self) -> bool:
        """Bring the next plausible start of a frame to the front; False when there is none."""
        while self._buffer:
            start = self._buffer.find(SYNC)
            self._drop(len(self._buffer) if start < 0 else start)
            if self._plausible():
                break
            self._drop(1)
        return bool(self._buffer)

    def _plausible(self) -> bool:
        if len(self._buffer) < 2:
            return True
        lengths = _LENGTHS.get(self._buffer[1])
        return lengths is not None and (len(self._buffer) < _HEADER or self._buffer[2] in lengths)

    def _complete(self) -> bool:
        return len(self._buffer) >= _HEADER and len(self._buffer) >= self._buffer[2] + _OVERHEAD

    def _take(self) -> Event | None:
        """Take the frame at the front; if its checksum is wrong, only its first byte."""
        length = self._buffer[2] + _OVERHEAD
        code, payload = self._buffer[1], bytes(self._buffer[_HEADER : length - 1])
        if _checksum(self._buffer[1 : length - 1]) != self._buffer[length - 1]:
            self._drop(1)
            return None
        del self._buffer[:length]
        return _event(code, payload)

    def _drop(self, count: int) -> None:
        self.noise_bytes += min(count, len(self._buffer))
        del self._buffer[:count]


def _checksum(body: bytes | bytearray) -> int:
    return reduce(xor, body)


def _wire(code: Code, payload: bytes) -> bytes:
    body = bytes((code, len(payload))) + payload
    return bytes((SYNC,)) + body + bytes((_checksum(body),))


def _request(request: Request) -> tuple[Code, bytes]:
    match request:
        case QueryDeviceInfo():
            return Code.QUERY_DEVICE_INFO, b"\x00"
        case QueryDescriptor():
            return Code.QUERY_DESCRIPTOR, b""
        case WriteSettings():
            return Code.SETTINGS, bytes((0x00, _EVENTS_WANTED, 0x80 if request.supply_on else 0x00))
        case ReadStatus():
            return Code.READ_STATUS, bytes((_LINE,))
        case AddFrame():
            return Code.ADD_FRAME, _add_frame(request)
        case _:
            assert_never(request)


def _add_frame(request: AddFrame) -> bytes:
    """Return [line, bit count, mode, d0, d1, d2, 0]; mode bit 7 is "send twice", bits 2:0 the priority."""
    if len(request.frame) not in {2, 3}:
        raise LocalProtocolError(f"a forward frame has 2 or 3 bytes, not {len(request.frame)}")
    if not 1 <= request.priority <= 5:
        raise LocalProtocolError(f"a priority is 1 to 5, not {request.priority}")
    mode = request.priority | (0x80 if request.twice else 0x00)
    return bytes((_LINE, 8 * len(request.frame), mode)) + request.frame.ljust(4, b"\x00")


def _event(code: int, payload: bytes) -> Event:
    return _REPLIES[code](payload)


def _device_info(payload: bytes) -> Event:
    if len(payload) != 20:
        return Unrecognised(Code.DEVICE_INFO, payload)
    return DeviceInfo(_int(payload[0:6]), _int(payload[6:14]), _int(payload[16:20]))


def _descriptor(payload: bytes) -> Event:
    return Descriptor(bool(payload[18] & 0x80))


def _settings(payload: bytes) -> Event:
    return SettingsWritten(payload[0], payload[1])


def _status(payload: bytes) -> Event:
    return Status(len(payload) >= 6 and not payload[5] & 0x80)


def _add_frame_reply(payload: bytes) -> Event:
    return Accepted(payload[0]) if len(payload) == 2 else NotAccepted(_transmit_error(payload[0]))


def _int(payload: bytes) -> int:
    return int.from_bytes(payload, "big")


def _transmit_error(number: int) -> TransmitError:
    return TransmitError(number) if number in set(TransmitError) else TransmitError.UNKNOWN


def _bus_event(payload: bytes) -> Event:
    """Read [tick hi, tick lo, line, status, …]: status 7:6 is the type, 5:0 the bits of the frame."""
    tick, kind, info, rest = _int(payload[0:2]), payload[3] >> 6, payload[3] & 0x3F, payload[4:]
    if kind == 0 and rest and len(rest) - 1 == info // 8:
        return FrameSent(tick, rest[0], rest[1:])
    if kind == 2 and info == 63:
        return FramingError(tick)
    if kind == 2 and info == 62:
        return StartStopOnly(tick)
    if kind == 2 and rest and 8 * len(rest) == info:
        return FrameHeard(tick, rest)
    return Unrecognised(Code.EVENT, payload)


_REPLIES: Final[Mapping[int, Callable[[bytes], Event]]] = {
    Code.DEVICE_INFO: _device_info,
    Code.DESCRIPTOR: _descriptor,
    Code.SETTINGS_REPLY: _settings,
    Code.STATUS: _status,
    Code.EVENT: _bus_event,
    Code.ADD_FRAME_REPLY: _add_frame_reply,
}
