"""A process that does one thing as often as it can, for as long as it is told: half of a comparison.

    python -m tests.bench.opcua driver FILE          # reads "2.5" from its standard input, works 2.5 s, says how much

Both sides of a comparison run in a process of their own, so that neither pays for the other.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec


class Spell(msgspec.Struct, frozen=True):
    """What was done in one go.

    Attributes:
        done: how much.
        seconds: that it took.
        cpu_s: user and system seconds of the worker.
    """

    done: int
    seconds: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        """How much in a second."""
        return self.done / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU microseconds for each."""
        return self.cpu_s * 1e6 / self.done


class Worker:
    """A worker's process, from outside."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.said: str = self._line()
        """What it said when it was ready."""

    def work(self, seconds: float) -> Spell:
        """Let it work."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(f"{seconds}\n")
        self._popen.stdin.flush()
        return msgspec.json.decode(self._line(), type=Spell)

    def stop(self) -> None:
        """Let it end."""
        self._popen.communicate("", timeout=30)

    def _line(self) -> str:
        """Return the next line of it that is JSON: libraries may print as well."""
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            if line.startswith(("{", '"')):
                return line
        raise RuntimeError(f"{self._popen.args!r} ended; see {self._log}")


async def serve(step: Callable[[], Awaitable[int]], ready: str = "ready") -> None:
    """Be a worker: do steps for as long as each line says, until there are no more lines.

    Args:
        step: does something and returns how much of it.
        ready: what is told first.
    """
    print(json.dumps(ready), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        done, begun, cpu_s = 0, time.monotonic(), time.process_time()
        while time.monotonic() - begun < float(line):
            done += await step()
        spell = Spell(done, time.monotonic() - begun, time.process_time() - cpu_s)
        print(msgspec.json.encode(spell).decode(), flush=True)


async def idle(ready: str) -> None:
    """Be a worker that only has to be there: a server."""
    print(json.dumps(ready), flush=True)
    await asyncio.to_thread(sys.stdin.read)
