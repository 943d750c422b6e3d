"""Starts the parts as processes, looks after them like a service manager, and stops them in order."""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

RESTART_S = 1.0
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 40.0
BIN = Path(sys.executable).parent


class StartError(Exception):
    """A part did not come up; the text names its log."""


class Part:
    """One process that is begun again when it dies.

    Attributes:
        name: for people.
        restarts: how often it had to be begun again.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, tell: Callable[[str], None]) -> None:
        self.name = name
        self.restarts = 0
        self._command = [str(BIN / command[0]), *command[1:]]
        self._log = log
        self._tell = tell
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._watch: asyncio.Task[None] | None = None

    async def start(self, ready: Callable[[], bool]) -> None:
        """Begin it and wait until it is ready.

        Raises:
            StartError: if it dies or takes too long.
        """
        await self._begin()
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while not ready():
            dead = self._process is not None and self._process.returncode is not None
            if dead or asyncio.get_running_loop().time() > deadline:
                raise StartError(f"{self.name} did not come up; see {self._log}")
            await asyncio.sleep(0.05)
        self._watch = asyncio.create_task(self._look_after())

    async def stop(self) -> None:
        """Ask it to end, and wait; after a while insist."""
        self._stopping = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            self._tell(f"{self.name} does not end and is killed; see {self._log}")
            process.kill()
            await process.wait()

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def _begin(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we stop the parts in order
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    async def _look_after(self) -> None:
        while self._process is not None:
            status = await self._process.wait()
            self.restarts += 1
            self._tell(f"{self.name} has died (status {status}) and is begun again")
            await asyncio.sleep(RESTART_S)
            await self._begin()
