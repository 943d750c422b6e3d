"""What may be on its way to the centre, and what must be sent again: the window, without any I/O.

For each stream, numbers only grow:

    mark ≤ sent ≤ committed      acknowledged by the centre ≤ published ≤ durable here
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping

import msgspec

from edge.outbox.store import Fetched, Sealed
from protocols.backhaul.messages import StreamHead, StreamMark
from protocols.model.device import StreamClass

WINDOW = 20
"""Batches on their way at a time, at most; a broker may accept fewer."""
PATIENCE_BOUND_S = 30.0
HOLD_BOUND_S = 60.0
"""For so long a way that is stuck excuses the centre. Where each answer takes seconds the way always seems stuck, and
a batch that was lost beyond it has to be noticed all the same."""
SPREAD = 0.5
"""So much longer may a patience be, by chance: those whom the centre left at one instant do not all return at one."""


def _alike() -> float:
    return 0.0


class Way(msgspec.Struct):
    """How far one stream is.

    Attributes:
        stream: which.
        mark: the centre has everything up to this number.
        sent: everything up to this number is on its way.
        committed: everything up to this number is durable here.
        floor: the lowest number that can still be sent.
        ready: batches that follow `sent`, in order, kept to spare the disk.
        progress_s: monotonic seconds when the centre last took something of it, or all of it was there.
        held_s: monotonic seconds before which the centre can have heard nothing since.
        told: the highest mark that the centre itself has said.
    """

    stream: StreamClass
    mark: int = 0
    sent: int = 0
    committed: int = 0
    floor: int = 1
    ready: deque[Sealed] = msgspec.field(default_factory=deque)
    progress_s: float = 0.0
    held_s: float = 0.0
    told: int = 0

    @property
    def owed_since_s(self) -> float:
        """Since when the centre owes us a word."""
        return max(self.progress_s, min(self.held_s, self.progress_s + HOLD_BOUND_S))

    @property
    def in_flight(self) -> int:
        """How many batches are on their way."""
        return self.sent - self.mark


class Wanted(msgspec.Struct, frozen=True):
    """Batches that are to be read from the outbox before anything can go on."""

    stream: StreamClass
    first: int
    limit: int


class Window:
    """Decides what is sent next.

    Attributes:
        rewinds: how often everything since the marks was to be sent again.
        patience_s: with nothing acknowledged for so long, it is next.
    """

    def __init__(self, silence_s: float, draw: Callable[[], float] = _alike) -> None:
        """Begin with nothing to send.

        Args:
            silence_s: with nothing acknowledged for so long, everything since the marks is sent again.
            draw: returns a number from 0 to 1, by chance.
        """
        self.ways = {stream: Way(stream) for stream in StreamClass}
        self.rewinds = 0
        self._silence_s = silence_s
        self._draw = draw
        self._silences = 0
        self.patience_s = self._draw_patience()
        self._growing = True

    def learn(self, heads: Iterable[StreamHead], *, growing: bool = True) -> None:
        """Begin with what the outbox says of the streams of an epoch.

        Args:
            heads: where they are; a stream without one has nothing to send.
            growing: whether more is sealed in this epoch. Otherwise it was salvaged, and the centre may have more of
                it than is left here.
        """
        self._growing = growing
        self.ways = {stream: Way(stream) for stream in StreamClass}
        for head in heads:
            self.ways[head.stream] = Way(
                head.stream,
                mark=head.floor - 1,
                sent=head.floor - 1,
                committed=head.next - 1,
                floor=head.floor,
            )

    def committed(self, batches: Iterable[Sealed]) -> None:
        """Take note of batches that have become durable."""
        for batch in batches:
            way = self.ways[batch.stream]
            follows = batch.number == way.sent + len(way.ready) + 1
            if follows and len(way.ready) < WINDOW:
                way.ready.append(batch)
            way.committed = max(way.committed, batch.number)

    def gone(self, floors: Mapping[StreamClass, int]) -> None:
        """Take note of the lowest numbers that the outbox still has: what lies below is never sent again."""
        for stream, floor in floors.items():
            self._raise_floor(self.ways[stream], floor)

    def next(self, receive_maximum: int) -> Sealed | Wanted | None:
        """Return the batch to send now, or what must be read first, or None if nothing is to be sent.

        Events go first; within a stream the oldest.
        """
        room = min(WINDOW, receive_maximum) - self.in_flight
        if room <= 0:
            return None
        for way in self.ways.values():
            if way.ready:
                return way.ready[0]
            if way.sent < way.committed:
                return Wanted(way.stream, way.sent + 1, room)
        return None

    def found(self, wanted: Wanted, fetched: Fetched) -> None:
        """Take what the outbox holds of what was wanted; what it no longer holds lies below its floor."""
        way = self.ways[wanted.stream]
        self._raise_floor(way, fetched.floor)
        following = [batch for batch in fetched.batches if batch.number > way.sent]
        if not way.ready and following and following[0].number == way.sent + 1:  # no rewind came in between
            way.ready.extend(following)

    def sent(self, batch: Sealed, now_s: float) -> None:
        """Take note that a batch, the first of its stream's `ready`, is on its way."""
        way = self.ways[batch.stream]
        if not way.in_flight:
            way.progress_s = now_s
        way.ready.popleft()
        way.sent = batch.number

    def beyond(self, marks: Iterable[StreamMark]) -> bool:
        """Tell whether the centre claims to have what this outbox never made."""
        return self._growing and any(mark.mark > self.ways[mark.stream].committed for mark in marks)

    def went_back(self, marks: Iterable[StreamMark]) -> bool:
        """Tell whether the centre has less than it said before: it was put back to a backup."""
        return any(mark.mark < self.ways[mark.stream].told for mark in marks)

    def advances(self, marks: Iterable[StreamMark]) -> bool:
        """Tell whether the centre has more than we knew."""
        return any(mark.mark > self.ways[mark.stream].mark for mark in marks)

    def acknowledged(self, marks: Iterable[StreamMark], now_s: float, *, anew: bool) -> None:
        """Take the centre's marks.

        Args:
            marks: what it has committed.
            now_s: monotonic seconds.
            anew: whether this is the first word on a connection, before which nothing is on its way.
        """
        for mark in marks:
            way = self.ways[mark.stream]
            way.told = mark.mark if anew else max(way.told, mark.mark)
            if mark.mark > way.mark:
                way.progress_s = now_s
                self._silences = 0
                self.patience_s = self._draw_patience()
            if anew:
                way.sent = way.mark = max(mark.mark, way.floor - 1)
                way.ready.clear()
            way.mark = max(way.mark, mark.mark)
            way.floor = max(way.floor, way.mark + 1)
            if way.sent < way.mark:
                way.sent = way.mark
                way.ready.clear()

    def silent_for_too_long(self, now_s: float) -> bool:
        """Tell whether the centre owes us a word of some stream for too long; if so, be more patient next time.

        Each stream by itself: events that go through must not hide that a reading was lost on the way.
        """
        late = (way for way in self.ways.values() if way.in_flight)
        if not any(now_s - way.owed_since_s >= self.patience_s for way in late):
            return False
        self._silences += 1
        self.patience_s = self._draw_patience()
        return True

    def hold(self, now_s: float) -> None:
        """Count the centre's silence from now: what is on its way is stuck there, so nobody can have heard it."""
        for way in self.ways.values():
            way.held_s = now_s

    def rewind(self, now_s: float) -> None:
        """Send everything since the marks again."""
        self.rewinds += 1
        for way in self.ways.values():
            way.progress_s = now_s
            way.sent = way.mark
            way.ready.clear()

    @property
    def in_flight(self) -> int:
        """How many batches are on their way."""
        return sum(way.in_flight for way in self.ways.values())

    @property
    def behind(self) -> bool:
        """Whether more waits than a window holds, or what was salvaged: what is taken now is sent long after."""
        return not self._growing or sum(way.committed - way.mark for way in self.ways.values()) > WINDOW

    @property
    def drained(self) -> bool:
        """Whether the centre has everything that is durable here."""
        return self._growing and all(way.mark >= way.committed for way in self.ways.values())

    def _draw_patience(self) -> float:
        bound_s = max(PATIENCE_BOUND_S, self._silence_s)
        doubled_s = min(self._silence_s * 2.0 ** min(self._silences, 10), bound_s)
        return doubled_s * (1 + SPREAD * self._draw())

    @staticmethod
    def _raise_floor(way: Way, floor: int) -> None:
        if floor <= way.floor:
            return
        way.floor = floor
        while way.ready and way.ready[0].number < floor:
            way.ready.popleft()
        way.mark = max(way.mark, floor - 1)
        way.sent = max(way.sent, way.mark)
        way.committed = max(way.committed, way.sent)
