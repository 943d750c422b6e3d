"""LUBA frames: bytes to frames and back, no I/O.

`59 CMD LEN payload XOR`, 38400 baud 8N1; XOR runs over CMD … last payload byte. The layouts are those of
Lunatone's serial interfaces as far as they are public; what is not public is not sent (see
`sim.luba_interface`).
"""

from enum import IntEnum
from functools import reduce
from operator import xor

import msgspec

SYNC = 0x59
MAX_PAYLOAD = 23  # the longest payload that a client accepts
_OVERHEAD = 4  # sync, command, length, checksum


class Command(IntEnum):
    """What a frame says; a reply is its request + 1."""

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


class TransmitError(IntEnum):
    """Why an interface refuses a DALI frame."""

    BUS_VOLTAGE = 1
    INITIALISE_MODE = 2
    QUIESCENT_MODE = 3
    BUFFER_FULL = 4
    LINE_NOT_AVAILABLE = 5
    SYNTAX = 6
    MACRO_RUNNING = 7


class LubaFrame(msgspec.Struct, frozen=True):
    """One frame: a command code and 0–23 bytes of payload."""

    command: int
    payload: bytes = b""


def encode(frame: LubaFrame) -> bytes:
    """Return the bytes of one frame.

    Raises:
        ValueError: the payload is longer than 23 bytes.
    """
    if len(frame.payload) > MAX_PAYLOAD:
        raise ValueError(f"payload of {len(frame.payload)} bytes, at most {MAX_PAYLOAD}")
    body = bytes((frame.command, len(frame.payload))) + frame.payload
    return bytes((SYNC,)) + body + bytes((reduce(xor, body),))


class LubaReceiver:
    """Find frames in a stream of bytes, however it is cut and whatever lies between them.

    After a bad length or checksum the search goes on at the byte behind the false start, so a stray byte
    costs at most the frame that it stands in. Holds less than one frame.

    Attributes:
        noise_bytes: bytes that belonged to no frame.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.noise_bytes = 0

    def receive(self, received: bytes) -> list[LubaFrame]:
        """Take bytes, return the frames that they complete."""
        self._buffer += received
        frames = []
        while self._seek_sync():
            length = self._frame_length()
            if length is None or len(self._buffer) < length:
                break
            frame = self._take(length)
            if frame is not None:
                frames.append(frame)
        return frames

    def gap(self) -> list[LubaFrame]:
        """Note that the line fell silent inside a frame: give it up, return what its bytes still hold."""
        frames: list[LubaFrame] = []
        while self._buffer and not frames:
            self._skip(1)
            frames = self.receive(b"")
        return frames

    def _seek_sync(self) -> bool:
        """Bring the next plausible start to the front; False when there is none to look at yet."""
        while self._buffer:
            start = self._buffer.find(SYNC)
            self._skip(len(self._buffer) if start < 0 else start)
            if len(self._buffer) < 3 or self._buffer[2] <= MAX_PAYLOAD:
                break
            self._skip(1)
        return bool(self._buffer)

    def _frame_length(self) -> int | None:
        return self._buffer[2] + _OVERHEAD if len(self._buffer) >= 3 else None

    def _take(self, length: int) -> LubaFrame | None:
        body = self._buffer[1 : length - 1]
        if reduce(xor, body) != self._buffer[length - 1]:
            self._skip(1)
            return None
        frame = LubaFrame(body[0], bytes(body[2:]))
        del self._buffer[:length]
        return frame

    def _skip(self, count: int) -> None:
        self.noise_bytes += count
        del self._buffer[:count]
