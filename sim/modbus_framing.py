"""Modbus frames in a stream of bytes: MBAP over TCP, RTU over a serial line. No I/O.

Sources: MODBUS Messaging on TCP/IP V1.0b, §3.1.3 (MBAP); MODBUS over Serial Line V1.02, §2.5.1 (RTU, CRC).
"""

import msgspec

from sim.modbus_pdu import MAX_PDU

_MBAP_BYTES = 7
_MAX_RTU = MAX_PDU + 3  # unit, PDU, CRC
_MIN_RTU = 4


class TcpRequest(msgspec.Struct, frozen=True):
    """One ADU over TCP."""

    transaction: int
    unit: int
    pdu: bytes


class RtuRequest(msgspec.Struct, frozen=True):
    """One ADU over a serial line, its CRC found right."""

    unit: int
    pdu: bytes


class StreamBrokenError(Exception):
    """The stream holds something that cannot be an MBAP header: only a new connection helps."""


def encode_tcp(request: TcpRequest) -> bytes:
    """Return the bytes of an ADU over TCP."""
    length = len(request.pdu) + 1
    head = request.transaction.to_bytes(2, "big") + b"\x00\x00" + length.to_bytes(2, "big")
    return head + bytes((request.unit,)) + request.pdu


class TcpReceiver:
    """Find ADUs in a TCP stream, however it is cut. Holds at most one ADU and what came with it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive(self, received: bytes) -> list[TcpRequest]:
        """Take bytes, return the requests that they complete.

        Raises:
            StreamBrokenError: protocol id or length are impossible.
        """
        self._buffer += received
        requests = []
        while len(self._buffer) >= _MBAP_BYTES:
            end = 6 + self._length()
            if len(self._buffer) < end:
                break
            transaction = int.from_bytes(self._buffer[0:2], "big")
            requests.append(TcpRequest(transaction, self._buffer[6], bytes(self._buffer[7:end])))
            del self._buffer[:end]
        return requests

    def _length(self) -> int:
        protocol, length = (int.from_bytes(self._buffer[at : at + 2], "big") for at in (2, 4))
        if protocol != 0 or not 2 <= length <= MAX_PDU + 1:
            raise StreamBrokenError
        return length


def crc16(content: bytes) -> bytes:
    """Return the CRC of a serial frame, low byte first (polynomial A001, start FFFF)."""
    crc = 0xFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc.to_bytes(2, "little")


def encode_rtu(request: RtuRequest) -> bytes:
    """Return the bytes of an ADU over a serial line."""
    content = bytes((request.unit,)) + request.pdu
    return content + crc16(content)


class RtuReceiver:
    """Gather bytes until the line falls silent: what lies between two silences is a frame or nothing.

    Attributes:
        bad_frames: stretches that were no frame: too short, too long, or with a wrong CRC.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._too_long = False
        self.bad_frames = 0

    def receive(self, received: bytes) -> None:
        """Take bytes that follow the last ones without a silence."""
        self._buffer += received
        if len(self._buffer) > _MAX_RTU:
            self._too_long = True
            self._buffer.clear()

    def silence(self) -> RtuRequest | None:
        """Note 3.5 characters of silence; return the frame that it ends."""
        frame, too_long = bytes(self._buffer), self._too_long
        self._buffer.clear()
        self._too_long = False
        if not frame and not too_long:
            return None
        if too_long or len(frame) < _MIN_RTU or crc16(frame[:-2]) != frame[-2:]:
            self.bad_frames += 1
            return None
        return RtuRequest(frame[0], frame[1:-2])
