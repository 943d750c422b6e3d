"""An asyncio loop whose time passes only when there is nothing left to do: a minute takes no time at all.

Everything of one simulation runs in this one loop and in one thread, so that the order of what happens depends
on nothing but the seed.
"""

import asyncio
from typing import Any

BEGIN_S = 1_000.0
"""Where time begins; nobody may depend on it."""
MOST_TURNS_AT_ONCE = 100_000
"""Turns without time passing, beyond which something turns for ever."""


class NothingToComeError(Exception):
    """Everybody waits, and nothing will ever happen."""


class _Idle:
    """In the place of a selector: instead of waiting for the network it lets time pass."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop
        self._turns = 0

    def select(self, timeout_s: float | None) -> list[Any]:
        if timeout_s is None:
            raise NothingToComeError
        self._turns = 0 if timeout_s > 0 else self._turns + 1
        if self._turns > MOST_TURNS_AT_ONCE:
            raise NothingToComeError("something turns for ever")
        self._loop.now_s += max(0.0, timeout_s)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop in virtual time.

    Attributes:
        now_s: the virtual moment, in seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_s = BEGIN_S
        self._selector = _Idle(self)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Return the virtual moment."""
        return self.now_s

    def _write_to_self(self) -> None:
        """Wake nobody: there is only one thread."""

    def _process_events(self, _events: list[Any]) -> None:
        """There are none."""
