"""What can go wrong between a site and its supervisor, and what passed: the messages as bytes, counted by type."""

from collections import Counter

import msgspec

from protocols.rsmp.framing import FORM_FEED, MAX_MESSAGE, Framing, wrap
from protocols.rsmp.messages import MessageError

_REQUESTS = frozenset(
    {
        "Alarm",
        "AggregatedStatusRequest",
        "CommandRequest",
        "StatusRequest",
        "StatusSubscribe",
        "StatusUnsubscribe",
    }
)


class _Head(msgspec.Struct):
    """As much of a message as its type and id take."""

    type: str = "?"
    m_id: str = msgspec.field(name="mId", default="")


class Wire:
    """Looks at both directions.

    Attributes:
        sent: messages by type.
        received: messages by type.
    """

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self._framing = Framing(MAX_MESSAGE)

    def fresh(self) -> None:
        """Begin on a new connection."""
        self._framing = Framing(MAX_MESSAGE)

    def outgoing(self, content: bytes) -> None:
        """Count what leaves."""
        self.sent.update(_head(packet).type for packet in content.split(FORM_FEED) if packet)

    def incoming(self, content: bytes) -> None:
        """Count what comes, once it is whole."""
        self.received.update(head.type for head in self._heads(content))

    def refused(self, content: bytes) -> tuple[bytes, bytes]:
        """Return what the site shall still see of it, and refusals of every request in it."""
        seen, refusals = bytearray(), bytearray()
        for packet in self._packets(content):
            head = _head(packet)
            self.received[head.type] += 1
            if head.type in _REQUESTS:
                answer = {"mType": "rSMsg", "type": "MessageNotAck", "oMId": head.m_id, "rea": "out of order"}
                refusals += wrap(msgspec.json.encode(answer))
            else:
                seen += wrap(packet)
        return bytes(seen), bytes(refusals)

    def _heads(self, content: bytes) -> list[_Head]:
        return [_head(packet) for packet in self._packets(content)]

    def _packets(self, content: bytes) -> list[bytes]:
        self._framing.receive_data(content)
        packets: list[bytes] = []
        while True:
            try:
                packet = self._framing.next_packet()
            except MessageError:
                continue  # too long: the site itself says so
            if packet is None:
                return packets
            packets.append(packet)


def garbled(content: bytes) -> bytes:
    """Return messages each of which has a wrong sign behind its first name, and is no JSON any more."""
    return FORM_FEED.join(packet.replace(b'":', b'";', 1) for packet in content.split(FORM_FEED))


def _head(packet: bytes) -> _Head:
    try:
        return msgspec.json.decode(packet, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Head()
