"""Looks at the machine's clock, and keeps what is known of the time for the next run.

A clock is looked at once a second: until then told time goes on as if nothing had happened, so nothing is late or
early by more. A timer of the kernel that fires when the clock is set would tell it sooner and nothing more.
"""

import asyncio
import sqlite3
from collections.abc import Callable

import structlog

from edge.clock import AgentClock
from edge.known_time import ClockRecord
from protocols.backhaul.messages import ClockEvent

log = structlog.get_logger()

LOOK_S = 1.0
KEEP_S = 60.0
"""How often the time is written down: a power cut costs so much of it at most. Beside what an outbox writes, a page a
minute is nothing."""


class Timekeeping:
    """Tells of the clock, and writes down what is known of the time.

    Attributes:
        on_event: called with each thing that is to be told of the clock.
    """

    def __init__(self, clock: AgentClock, keep: Callable[[ClockRecord], None]) -> None:
        self.on_event: Callable[[ClockEvent], None] = lambda _event: None
        self._clock = clock
        self._keep = keep
        self._unwritable = ""

    async def run(self) -> None:
        """Look at the clock, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    async def keep_on(self) -> None:
        """Write the time down now and then, until cancelled; a disk that hangs keeps nobody from looking."""
        while True:
            await asyncio.sleep(KEEP_S)
            await self.keep()

    def look(self) -> None:
        """Look at the clock once."""
        good_ms = self._clock.good_ms()
        event = self._clock.look()
        if self._clock.good_ms() < good_ms - LOOK_S * 1000:
            log.warning("known_time_was_wrong", was_ms=good_ms, now_ms=self._clock.good_ms())
        if event is not None:
            self.tell(event)

    def tell(self, event: ClockEvent) -> None:
        """Say what the clock did."""
        log.warning(
            "clock_moved" if event.before_ms is not None else "clock",
            by_s=None if event.before_ms is None else (event.offset_ms - event.before_ms) / 1000,
            before=event.before.name.lower(),
            now=event.clock.name.lower(),
            corrects=event.corrects,
        )
        self.on_event(event)

    async def keep(self) -> None:
        """Write down what is known of the time; a disk that refuses is told of once."""
        try:
            await asyncio.to_thread(self._keep, self._clock.record())
            self._unwritable = ""
        except sqlite3.Error as error:
            if str(error) != self._unwritable:
                log.error("time_not_written", error=str(error))
            self._unwritable = str(error)
