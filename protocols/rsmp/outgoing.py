"""What a site holds back while nobody listens (core 3.2.2, Communication disruption).

First in, first out; alarms and aggregated status always, statuses where wanted and then with `q` "old"; never
commands, versions, watchdogs or acknowledgements. Writing it to a disk is the caller's: `changes` tells when.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

from msgspec.structs import replace

from protocols.errors import LocalProtocolError
from protocols.rsmp.messages import AggregatedStatus, Alarm, Identified, Quality, StatusUpdate

MIN_BUFFER: Final = 10_000
"""Messages that a site must be able to hold (core 3.2.2, Communication disruption)."""
Buffered: TypeAlias = Alarm | AggregatedStatus | StatusUpdate


class OutgoingBuffer:
    """Messages that wait for a connection.

    Args:
        size: the most that it holds; then the oldest gives way, and is counted.

    Attributes:
        dropped: how many have given way.
        changes: counts every change, so that a caller knows when to keep it anew.
    """

    def __init__(self, size: int = MIN_BUFFER) -> None:
        if size < MIN_BUFFER:
            raise LocalProtocolError(f"an outgoing buffer holds {MIN_BUFFER} messages at least")
        self._size = size
        self._held: deque[Buffered] = deque()
        self.dropped = 0
        self.changes = 0

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Buffered]:
        return iter(self._held)

    def put(self, message: Buffered) -> None:
        """Hold a message; a status becomes an old one."""
        self._held.append(_aged(message))
        self._bound()

    def put_back(self, messages: Iterable[Identified], buffered: frozenset[str]) -> None:
        """Hold again, before all others, what was sent and not acknowledged and may be said twice.

        Args:
            messages: oldest first.
            buffered: codes of the statuses that are buffered.
        """
        again = [
            _aged(one)
            for one in messages
            if isinstance(one, Alarm | AggregatedStatus)
            or (isinstance(one, StatusUpdate) and all(value.code in buffered for value in one.values))
        ]
        self._held.extendleft(reversed(again))
        self._bound()

    def leave_out(self, known: Callable[[Buffered], bool]) -> None:
        """Drop what has been said in another way."""
        kept = deque(one for one in self._held if not known(one))
        if len(kept) < len(self._held):
            self._held = kept
            self.changes += 1

    def take(self) -> Buffered | None:
        """Return the oldest message, or None."""
        if not self._held:
            return None
        self.changes += 1
        return self._held.popleft()

    def _bound(self) -> None:
        self.changes += 1
        while len(self._held) > self._size:
            self._held.popleft()
            self.dropped += 1


def _aged(message: Buffered) -> Buffered:
    if not isinstance(message, StatusUpdate):
        return message
    old = [
        replace(one, quality=Quality.OLD) if one.quality is Quality.RECENT else one for one in message.values
    ]
    return replace(message, values=tuple(old))
