"""What the log is told once an hour for each kind and each who, however often it happens. The clock is handed in.

A peer that breaks the rules a thousand times a second must not fill a disk; one that hides behind ever new names
neither, and neither may keep the log from telling what others do. So everybody has an hour of their own for each
kind; strangers beyond the first few share one. What was not said is counted, and the next line tells how often.
"""

from collections.abc import Callable, Collection
from typing import Final, NamedTuple

AGAIN_MS: Final = 3_600_000
"""How long a kind of fault of somebody is not said again."""
MAX_STRANGERS: Final = 16
"""Strangers with lines of their own, for each kind and hour: as many as a person follows up."""
OTHERS: Final = "others"
"""Who all strangers beyond these are."""


class Line(NamedTuple):
    """What a line of the log has to say of itself.

    Attributes:
        who: whom it is about; `OTHERS` for strangers beyond `MAX_STRANGERS`.
        unsaid: how often the same happened since it was last said, this time not counted.
    """

    who: str
    unsaid: int


class _Said:
    """When something was said last, and how often it has happened since."""

    __slots__ = ("at_ms", "unsaid")

    def __init__(self, at_ms: int) -> None:
        self.at_ms = at_ms
        self.unsaid = 0


class AlreadySaid:
    """Keeps what was said.

    Args:
        now_ms: monotonic milliseconds.
        ours: whom the settings or the code name, so that they are bounded already: they never share a line.
    """

    def __init__(self, now_ms: Callable[[], int], ours: Collection[str] = ()) -> None:
        self._now_ms = now_ms
        self._ours = frozenset((*ours, OTHERS))
        self._of_ours: dict[str, dict[str, _Said]] = {}
        self._of_strangers: dict[str, dict[str, _Said]] = {}

    def line(self, who: str, what: str) -> Line | None:
        """Note that something happened; return what its line has to say, or None if it is not to be said now.

        Args:
            who: whose doing it is; a peer may have chosen the name.
            what: its kind; one of a closed set of our own, never what a peer chose.
        """
        now_ms = self._now_ms()
        if who not in self._ours and not self._has_room(who, what, now_ms):
            who = OTHERS
        known = self._known(who, what)
        before = known.get(who)
        if before is not None and now_ms - before.at_ms < AGAIN_MS:
            before.unsaid += 1
            return None
        known[who] = _Said(now_ms)
        return Line(who, 0 if before is None else before.unsaid)

    def _known(self, who: str, what: str) -> dict[str, _Said]:
        of = self._of_ours if who in self._ours else self._of_strangers
        return of.setdefault(what, {})

    def _has_room(self, who: str, what: str, now_ms: int) -> bool:
        """Tell whether a stranger can have a line, in the place of one whose hour is over if need be.

        What was not said of that one is not lost: the others' next line takes it on.
        """
        known = self._of_strangers.setdefault(what, {})
        if who in known or len(known) < MAX_STRANGERS:
            return True
        oldest = min(known, key=lambda one: known[one].at_ms)
        if now_ms - known[oldest].at_ms < AGAIN_MS:
            return False
        unsaid = known.pop(oldest).unsaid
        if unsaid:
            others = self._known(OTHERS, what).setdefault(OTHERS, _Said(now_ms - AGAIN_MS))
            others.unsaid += unsaid
        return True

    def __len__(self) -> int:
        return sum(len(known) for of in (self._of_ours, self._of_strangers) for known in of.values())
