"""Live changes to whoever watches: a bounded queue for each, and an honest count of what it lost."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable

import msgspec

from central.effects import Change, ChangeKind

MAX_WATCHERS = 200
MAX_WAITING = 1_000
"""Events that wait for one slow watcher; beyond, the oldest give way and are counted."""
MAX_WAITING_BYTES = 16 << 20
"""The same for their size: a batch of 4 MB makes one event, and a thousand of those would be 4 GB."""
KEEP_ALIVE_S = 15.0

_KEEP_ALIVE = b": still here\n\n"


class Watcher:
    """One open feed: what waits for it, and how much it has lost."""

    def __init__(self, cabinet: str | None, kinds: frozenset[ChangeKind]) -> None:
        self.cabinet = cabinet
        self.kinds = kinds
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._lost = 0
        self._closed = False
        self._changed = asyncio.Event()

    def wants(self, change: Change) -> bool:
        """Tell whether a change passes this watcher's filters."""
        return change.kind in self.kinds and self.cabinet in {None, change.cabinet}

    def give(self, event: bytes) -> None:
        """Queue an event; the oldest give way when there are too many, or they are too large."""
        self._waiting.append(event)
        self._bytes += len(event)
        while len(self._waiting) > MAX_WAITING or self._bytes > MAX_WAITING_BYTES:
            self._bytes -= len(self._waiting.popleft())
            self._lost += 1
        self._changed.set()

    def close(self) -> None:
        """End the feed once what waits is written."""
        self._closed = True
        self._changed.set()

    async def writes(self) -> AsyncIterator[bytes]:
        """Yield what to write: everything that waits, joined into one; a comment when nothing happens."""
        yield b"retry: 2000\n\n"
        while not self._closed or self._waiting:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    await self._changed.wait()
            except TimeoutError:
                yield _KEEP_ALIVE
            else:
                self._changed.clear()
                yield self._drain()

    def _drain(self) -> bytes:
        parts = list(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        if self._lost:
            parts.insert(0, event_bytes("lost", b'{"count":%d}' % self._lost))
            self._lost = 0
        return b"".join(parts)


class Feed:
    """Hands changes to watchers. Lives in the loop; `publish` is called there."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        self._closed = False

    def watched(self) -> bool:
        """Tell whether anybody watches; may be asked from any thread."""
        return bool(self._watchers)

    def count(self) -> int:
        """Return how many watch."""
        return len(self._watchers)

    def is_full(self) -> bool:
        """Tell whether nobody more can watch."""
        return self._closed or len(self._watchers) >= MAX_WATCHERS

    def join(self, cabinet: str | None, kinds: frozenset[ChangeKind]) -> Watcher:
        """Open a feed of some kinds of changes, of one cabinet or of all."""
        watcher = Watcher(cabinet, kinds)
        if self._closed:
            watcher.close()
        self._watchers.add(watcher)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Close a feed."""
        self._watchers.discard(watcher)

    def publish(self, changes: Iterable[Change]) -> None:
        """Give changes to those who want them; each is encoded once."""
        for change in changes:
            takers = [watcher for watcher in self._watchers if watcher.wants(change)]
            if takers:
                event = event_bytes(change.kind.value, msgspec.json.encode(change.body))
                for watcher in takers:
                    watcher.give(event)

    def close(self) -> None:
        """End every feed."""
        self._closed = True
        for watcher in self._watchers:
            watcher.close()


def event_bytes(name: str, body: bytes) -> bytes:
    """Return a server-sent event. Source: HTML Living Standard, 9.2.6."""
    return b"event: " + name.encode() + b"\ndata: " + body + b"\n\n"
