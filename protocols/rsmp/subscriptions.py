"""What a supervisor wants to be told of, and when (core 3.2.2, Status messages, subscription).

An update at once when a subscription begins; then at each interval (`uRt`), at each change (`sOc`), or both. A change
that is told begins the interval anew. Asking again for what is subscribed only changes `uRt` and `sOc`.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import msgspec

from protocols.rsmp.messages import Value


class StatusKey(NamedTuple):
    """Which status."""

    component: str
    code: str
    name: str


class _Watch(msgspec.Struct):
    """One subscription.

    Attributes:
        rate_ms: between two updates; 0 for none.
        on_change: whether each change is told.
        due_ms: monotonic moment of the next update by interval.
        told: the value that was told last.
    """

    rate_ms: int
    on_change: bool
    due_ms: int
    told: Value


class Subscriptions:
    """All subscriptions of one site; bounded by the statuses that it has."""

    def __init__(self) -> None:
        self._watches: dict[StatusKey, _Watch] = {}

    def begin(self, key: StatusKey, rate_ms: int, now_ms: int, *, on_change: bool) -> bool:
        """Subscribe; True if it is a new subscription, whose value is to be told at once."""
        watch = self._watches.get(key)
        if watch is not None:
            watch.rate_ms, watch.on_change, watch.due_ms = rate_ms, on_change, now_ms + rate_ms
            return False
        self._watches[key] = _Watch(rate_ms, on_change, now_ms + rate_ms, None)
        return True

    def end(self, key: StatusKey) -> None:
        """Unsubscribe; nothing happens if it was not subscribed."""
        self._watches.pop(key, None)

    def keep_only(self, codes: Collection[str]) -> None:
        """End all but those of some codes: the others do not outlive a disruption."""
        self._watches = {key: watch for key, watch in self._watches.items() if key.code in codes}

    def changed(self, values: Callable[[StatusKey], Value], keys: Collection[StatusKey]) -> list[StatusKey]:
        """Return which of `keys` have changed since they were told and are to be told for it."""
        found = []
        for key in keys:
            watch = self._watches.get(key)
            if watch is not None and watch.on_change and watch.told != values(key):
                found.append(key)
        return found

    def due(self, now_ms: int) -> list[StatusKey]:
        """Return what is to be told because its interval has passed."""
        return [key for key, watch in self._watches.items() if watch.rate_ms and watch.due_ms <= now_ms]

    def told(self, key: StatusKey, value: Value, now_ms: int) -> None:
        """Take note that a value was told: its interval begins anew."""
        watch = self._watches.get(key)
        if watch is not None:
            watch.told, watch.due_ms = value, now_ms + watch.rate_ms

    @property
    def deadline_ms(self) -> int | None:
        """Return the monotonic moment at which something is due; None when nothing is."""
        return min((watch.due_ms for watch in self._watches.values() if watch.rate_ms), default=None)
