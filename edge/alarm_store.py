"""Writes alarms to the disk, and again once a disk that refused takes again."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable

import structlog

from protocols.model.alarm import Alarm, AlarmType
from protocols.model.ids import DeviceId

log = structlog.get_logger()


class AlarmStore:
    """What has changed of the alarms and is not on disk: of each alarm only how it is now, so it is bounded by them.

    Args:
        store: writes alarms; called in a thread.
    """

    def __init__(self, store: Callable[[list[Alarm]], None]) -> None:
        self._store = store
        self._waiting: dict[tuple[DeviceId, AlarmType], Alarm] = {}
        self._writing = asyncio.Lock()
        self._refused = ""

    @property
    def is_refused(self) -> bool:
        """Whether the disk has refused, and it is to be tried again."""
        return bool(self._refused)

    def add(self, changed: Iterable[Alarm]) -> None:
        """Let alarms be written with the next `write`."""
        self._waiting.update(((alarm.device, alarm.type), alarm) for alarm in changed)

    async def write(self) -> None:
        """Write what waits, in the order in which it changed; a refusal is told once."""
        async with self._writing:
            if not self._waiting:
                return
            changed, self._waiting = self._waiting, {}
            try:
                await asyncio.to_thread(self._store, list(changed.values()))
            except sqlite3.Error as error:
                self._waiting = changed | self._waiting
                if str(error) != self._refused:
                    log.error("alarms_not_written", error=str(error))
                self._refused = str(error)
            else:
                self._refused = ""
