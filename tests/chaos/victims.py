"""Processes that are killed and started again, and what the bench's own log says of each kill."""

import random
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.count import Killed

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST_PORT = 15_000


def utc_ms() -> int:
    """Return the machine's UTC, which all processes of a run share."""
    return time.time_ns() // 1_000_000


class Process:
    """One process of the product, or the broker.

    Attributes:
        name: for the log.
        kills: what was done to it; the last start is missing while it is down.
        died_by_itself: how often it ended without having been killed.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.kills: list[Killed] = []
        self.died_by_itself = 0
        self._command = list(command)
        self._log = log
        self._running: subprocess.Popen[bytes] | None = None
        self._killed_ms: int | None = None

    @property
    def pid(self) -> int | None:
        """Its number, None while it is down."""
        return self._running.pid if self._running is not None else None

    def start(self) -> None:
        """Start it, for the first time or after a kill."""
        if self._killed_ms is not None:
            self.kills.append(Killed(self._killed_ms, utc_ms()))
            self._killed_ms = None
        with self._log.open("ab") as out:
            self._running = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def kill(self) -> None:
        """Send SIGKILL, and wait until the kernel has taken it away."""
        assert self._running is not None
        self._killed_ms = utc_ms()
        self._running.kill()
        if self._running.wait(10) != -signal.SIGKILL:
            self.died_by_itself += 1  # it was faster
        self._running = None

    def look(self) -> bool:
        """Tell whether it is as it should be; what ended by itself is started again, as a service manager does."""
        if self._running is None or self._running.poll() is None:
            return True
        self.died_by_itself += 1
        self.start()
        return False

    def end(self) -> None:
        """End it, whatever state it is in: all has been counted."""
        if self._running is not None:
            self._running.kill()
            self._running.wait(10)


def steady_port() -> int:
    """Return a free port that no outgoing connection takes while its owner is down."""
    below = int(EPHEMERAL.read_text(encoding="ascii").split()[0]) if EPHEMERAL.exists() else 32_768
    candidates = list(range(LOWEST_PORT, below))
    random.shuffle(candidates)
    for port in candidates:
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("every port is taken")
