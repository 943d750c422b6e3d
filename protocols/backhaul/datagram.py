"""A position as a vehicle tells it to the cabinet itself, without broker and backhaul: one datagram.

    +---------+---------------------+----------------------------------+
    | version | Position            | tag                              |
    | 1 byte  | MessagePack         | 16 bytes                         |
    +---------+---------------------+----------------------------------+

The tag is HMAC-SHA256 (RFC 2104) over version and position with a key that the cabinet and the fleet share,
cut to its first 16 bytes, which RFC 2104, 5 allows. It says that the sender belongs to the fleet. A datagram
that is sent again is no newer than what is known of its vehicle, and is ignored for that.
"""

import hmac
from enum import StrEnum

from protocols.backhaul.codec import MAX_POSITION_BYTES, decode_position, encode
from protocols.backhaul.messages import Position
from protocols.errors import LocalProtocolError, RemoteProtocolError

DATAGRAM_VERSION = 1
KEY_BYTES = 32
TAG_BYTES = 16
MAX_DATAGRAM_BYTES = 1 + MAX_POSITION_BYTES + TAG_BYTES


class DatagramRefusal(StrEnum):
    """What is wrong with a datagram."""

    SIZE = "size"
    TAG = "tag"
    """It was not made with the fleet's key, or changed on its way."""
    VERSION = "version"
    CONTENT = "content"
    """It is of the fleet, and what it says is no position."""


class DatagramError(RemoteProtocolError):
    """A datagram that is not taken.

    Attributes:
        refusal: why, to be counted by.
    """

    def __init__(self, refusal: DatagramRefusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal


def seal_position(position: Position, key: bytes) -> bytes:
    """Return a position's datagram.

    Raises:
        LocalProtocolError: if the key has not 32 bytes.
    """
    content = bytes([DATAGRAM_VERSION]) + encode(position)
    return content + _tag(content, key)


def open_position(datagram: bytes, key: bytes) -> Position:
    """Read a position's datagram; nothing of it is looked at before its tag has been found right.

    Raises:
        DatagramError: if it is not from the fleet, or no position.
        LocalProtocolError: if the key has not 32 bytes.
    """
    if not 1 + TAG_BYTES < len(datagram) <= MAX_DATAGRAM_BYTES:
        raise DatagramError(DatagramRefusal.SIZE, f"a datagram of {len(datagram)} bytes is no position")
    content, tag = datagram[:-TAG_BYTES], datagram[-TAG_BYTES:]
    if not hmac.compare_digest(tag, _tag(content, key)):
        raise DatagramError(DatagramRefusal.TAG, "a datagram whose tag was not made with our key")
    if content[0] != DATAGRAM_VERSION:
        said = f"a datagram of version {content[0]}; this end knows {DATAGRAM_VERSION}"
        raise DatagramError(DatagramRefusal.VERSION, said)
    try:
        return decode_position(content[1:])
    except RemoteProtocolError as fault:
        raise DatagramError(DatagramRefusal.CONTENT, str(fault)) from fault


def _tag(content: bytes, key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise LocalProtocolError(f"a key of {len(key)} bytes; expected {KEY_BYTES}")
    return hmac.digest(key, content, "sha256")[:TAG_BYTES]
