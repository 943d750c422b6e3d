"""Tasks that somebody must own: kept until they end, and heard when they break."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeVar

import structlog

log = structlog.get_logger()
T = TypeVar("T")


class Background:
    """Owns tasks that nobody awaits at once."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._full: set[str] = set()

    def spawn(self, work: Coroutine[object, object, T], name: str) -> asyncio.Task[T]:
        """Begin something; whoever wants its result may await the task."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def begin(
        self, work: Callable[[], Coroutine[object, object, object]], name: str, most: int
    ) -> asyncio.Task[object] | None:
        """Begin something, unless so many of that name are under way; for what others may send without end.

        That something is passed over is said once, until one of that name is begun again: a flood must not fill the
        log either.
        """
        if sum(task.get_name() == name for task in self._tasks) >= most:
            if name not in self._full:
                log.warning("passed_over", task=name, under_way=most)
            self._full.add(name)
            return None
        self._full.discard(name)
        return self.spawn(work(), name)

    async def close(self, patience_s: float = 0.0) -> None:
        """Give what is under way, and what it begins, some time to end; then cancel it and wait until it has."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + patience_s
        while self._tasks and (left_s := until_s - loop.time()) > 0:
            await asyncio.wait(self._tasks, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task_broke", task=task.get_name(), exc_info=error)
