"""Processes that a bench starts and looks at from outside."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Process:
    """One process, its CPU time and its memory as the kernel accounts them."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("ab") as out:
            self._popen = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def cpu_s(self) -> float:
        """Return user and system seconds so far, of all its threads."""
        fields = Path(f"/proc/{self._popen.pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def peak_mb(self) -> float:
        """Return the largest resident memory so far, or since `forget_peak`, in 10^6 bytes."""
        return self._memory_mb("VmHWM:")

    def resident_mb(self) -> float:
        """Return the resident memory of now, in 10^6 bytes."""
        return self._memory_mb("VmRSS:")

    def forget_peak(self) -> None:
        """Let the peak be looked for anew, from now on: proc(5), clear_refs."""
        Path(f"/proc/{self._popen.pid}/clear_refs").write_text("5", encoding="ascii")

    def _memory_mb(self, which: str) -> float:
        for line in Path(f"/proc/{self._popen.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith(which):
                return int(line.split()[1]) * 1024 / 1e6
        raise RuntimeError(f"process {self._popen.pid} has no memory; see {self._log}")

    def stop(self, timeout_s: float = 60.0) -> None:
        """End it as a service manager would, and check that it ended well."""
        self._popen.send_signal(signal.SIGTERM)
        status = self._popen.wait(timeout_s)
        if status not in {0, -signal.SIGTERM}:
            raise RuntimeError(f"{self._popen.args!r} ended with {status}; see {self._log}")


class Proxy:
    """Passes TCP connections on, and looks at what passes.

    Attributes:
        port: where it listens.
    """

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def seen(self, connection: int, piece: bytes, *, outward: bool) -> None:
        """Look at a piece, before it is passed on.

        Args:
            connection: its number.
            piece: what passes.
            outward: whether it comes from whoever connected.
        """

    def _accept(self) -> None:
        connection = 0
        while True:
            near, _ = self._listener.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self._to_port))
            except OSError:  # nobody listens there yet: the one who connected shall try again
                near.close()
                continue
            connection += 1
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink, outward in ((near, far, True), (far, near, False)):
                way = (connection, source, sink, outward)
                threading.Thread(target=self._pump, args=way, daemon=True).start()

    def _pump(self, connection: int, source: socket.socket, sink: socket.socket, outward: bool) -> None:
        try:
            while piece := source.recv(65_536):
                self.seen(connection, piece, outward=outward)
                sink.sendall(piece)
        except OSError:
            pass
        finally:
            for one in (source, sink):
                one.close()


class CountingProxy(Proxy):
    """Counts the bytes of both directions."""

    def __init__(self, to_port: int) -> None:
        self.bytes = 0
        super().__init__(to_port)

    def seen(self, connection: int, piece: bytes, *, outward: bool) -> None:
        """Count."""
        del connection, outward
        self.bytes += len(piece)


def wait_until(what: str, is_so: Callable[[], bool], timeout_s: float = 30.0, look_s: float = 0.02) -> float:
    """Wait until something is so; return the seconds that it took.

    Raises:
        TimeoutError: naming what never came to be.
    """
    begun = time.perf_counter()
    while not is_so():
        if time.perf_counter() - begun > timeout_s:
            raise TimeoutError(f"within {timeout_s:.0f} s it did not come to be that {what}")
        time.sleep(look_s)
    return time.perf_counter() - begun


def wait_for_s(seconds: float) -> None:
    """Let a window pass."""
    time.sleep(seconds)


def ask_street(control: Path, request: dict[str, Any]) -> Any:  # noqa: ANN401  JSON
    """Ask a running `luciole-sim` something over its control socket.

    Raises:
        RuntimeError: if it says no.
    """
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(control))
        with one.makefile("rwb") as stream:
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            answer = json.loads(stream.readline())
    if not answer["ok"]:
        raise RuntimeError(f"the street refuses {request}: {answer['error']}")
    return answer.get("result")


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port that nobody listens on."""
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Tell whether somebody listens on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
    except OSError:
        return False
    return True


def start_mosquitto(folder: Path) -> tuple[Process, int]:
    """Start a real broker and return it with its port.

    Raises:
        FileNotFoundError: if mosquitto is not installed; `make tools` installs it.
    """
    found = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        raise FileNotFoundError("mosquitto is missing; `make tools` installs it")
    port = free_port()
    settings = folder / "mosquitto.conf"
    settings.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n", encoding="utf-8"
    )
    broker = Process([found, "-c", str(settings)], folder / "mosquitto.log")
    wait_until("mosquitto listens", lambda: listens(port))
    return broker, port
