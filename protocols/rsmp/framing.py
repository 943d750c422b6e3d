"""Form feeds between messages (core 3.2.2, Transport of data, Wrapping of packets).

Each message ends with one form feed. Leading and repeated ones are tolerated and never sent.
"""

from typing import Final

from protocols.errors import LocalProtocolError
from protocols.rsmp.messages import Fault, MessageError

FORM_FEED: Final = b"\x0c"
MAX_MESSAGE: Final = 2**20
"""Bytes of one message: S0098 carries a controller's whole configuration in base64; more is no message."""
MAX_GREETING: Final = 2**13
"""Bytes of one message before the peer has said who it is: a Version, and no port scanner's flood."""


def wrap(packet: bytes) -> bytes:
    """Return a packet with its form feed.

    Raises:
        LocalProtocolError: if it holds one itself or is empty.
    """
    if not packet or FORM_FEED in packet:
        raise LocalProtocolError("a packet holds something, and no form feed")
    return packet + FORM_FEED


class Framing:
    """Cuts what comes in into packets; one that is too long costs itself alone.

    Attributes:
        bound: bytes of one packet; may be changed between two packets.
    """

    def __init__(self, bound: int = MAX_GREETING) -> None:
        self.bound = bound
        self._held = bytearray()
        self._looked = 0
        self._skipping = False

    def receive_data(self, received: bytes) -> None:
        """Take bytes as they come, however they are cut."""
        self._held += received

    def next_packet(self) -> bytes | None:
        """Return the next packet that is not empty, or None while none is complete.

        Raises:
            MessageError: once, for a packet that is longer than the bound; what follows it is heard.
        """
        while (end := self._held.find(FORM_FEED, self._looked)) >= 0:
            packet = bytes(self._held[:end])
            del self._held[: end + 1]
            self._looked = 0
            if self._skipping:
                self._skipping = False
            elif len(packet) > self.bound:
                raise self._too_long()
            elif packet:
                return packet
        self._bound_the_rest()
        return None

    def _bound_the_rest(self) -> None:
        """Hold no more of an incomplete packet than the bound."""
        self._looked = len(self._held)
        if not self._skipping and self._looked <= self.bound:
            return
        self._held.clear()
        self._looked = 0
        if not self._skipping:
            self._skipping = True
            raise self._too_long()

    def _too_long(self) -> MessageError:
        return MessageError(Fault.TOO_LONG, f"a message of more than {self.bound} bytes")
