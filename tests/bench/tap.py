"""A tap on an RSMP connection: every packet of both ends, with the moment at which it had passed whole."""

import threading
import time
from collections.abc import Callable

import msgspec

from tests.bench.processes import Proxy

END = b"\x0c"


class Packet(msgspec.Struct, frozen=True):
    """One message on its way.

    Attributes:
        at_s: monotonic seconds of this machine, when its last byte had come to the tap.
        to_agent: whether the controller has said it.
        body: without its form feed.
    """

    at_s: float
    to_agent: bool
    body: bytes


class Tap(Proxy):
    """Stands where the controller looks for its supervisor.

    Attributes:
        packets: everything that passed.
    """

    def __init__(self, to_port: int) -> None:
        self.packets: list[Packet] = []
        self._parts: dict[tuple[int, bool], bytes] = {}
        self._came = threading.Condition()
        super().__init__(to_port)

    def seen(self, connection: int, piece: bytes, *, outward: bool) -> None:
        """Take whole packets out of what passes."""
        at_s = time.monotonic()
        with self._came:
            *whole, rest = (self._parts.get((connection, outward), b"") + piece).split(END)
            self._parts[connection, outward] = rest
            self.packets += [Packet(at_s, outward, body) for body in whole]
            self._came.notify_all()

    def wait(self, since: int, found: Callable[[Packet], bool], timeout_s: float) -> Packet | None:
        """Return the first packet from a number on that is what is looked for; None if none comes in time."""
        until_s = time.monotonic() + timeout_s
        with self._came:
            while True:
                for packet in self.packets[since:]:
                    if found(packet):
                        return packet
                since = len(self.packets)
                if not self._came.wait(until_s - time.monotonic()):
                    return None
