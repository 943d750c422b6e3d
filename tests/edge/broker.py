"""A real broker that can be killed and brought back on its port."""

import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Self

import pytest

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
WAIT_S = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


class Broker:
    """Debian's mosquitto on loopback."""

    def __init__(self, folder: Path, options: str = "") -> None:
        if MOSQUITTO is None:
            pytest.skip("mosquitto is not installed: apt-get install mosquitto")
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._settings = folder / "mosquitto.conf"
        user = pwd.getpwuid(os.geteuid()).pw_name  # as root it would otherwise leave our files unread
        self._settings.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nuser {user}\n{options}\n",
            encoding="utf-8",
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it listens."""
        assert MOSQUITTO is not None
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(round(WAIT_S * 20)):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self._process.poll() is None, "mosquitto does not start"
                self._pause()
            else:
                return
        pytest.fail("mosquitto does not listen")

    def kill(self) -> None:
        """Take its power away."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def _pause(self) -> None:
        assert self._process is not None
        try:
            self._process.wait(0.05)
        except subprocess.TimeoutExpired:
            return
