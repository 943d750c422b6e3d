"""A whole cabinet: the agent as its own process between a street of the simulator and a centre's double."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from edge.answers import Request, Status, StatusAnswer
from edge.asking import ask
from sim.street_thread import StreetThread
from tests.edge.bench import WAIT_S, held
from tests.edge.broker import Broker
from tests.edge.centre_double import CentreDouble
from tests.edge.street import scenario, settings_text, write_settings

T = TypeVar("T")
EDGE = (sys.executable, "-m", "edge.cli")


class Whole:
    """Everything that a cabinet needs.

    Attributes:
        folder: where it lives.
        file: its settings.
    """

    def __init__(
        self, folder: Path, street: StreetThread, broker: Broker, centre: CentreDouble, text: str = ""
    ) -> None:
        self.folder = folder
        self.street = street
        self.broker = broker
        self.centre = centre
        self.file = write_settings(folder, text or settings_text(folder, street.ports(), broker.url))
        self.socket = folder / "state" / "agent.sock"
        self.log = folder / "agent.log"
        self.agent: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the agent and wait until the centre has heard its hello."""
        hellos = len(self.centre.hellos)
        with self.log.open("ab") as log:
            self.agent = subprocess.Popen([*EDGE, "run", "-c", str(self.file)], stderr=log)
        self.centre.wait(lambda: len(self.centre.hellos) > hellos, "the agent's hello")

    def stop(self) -> int:
        """Ask the agent to end, as systemd does, and return its exit code."""
        assert self.agent is not None
        self.agent.send_signal(signal.SIGTERM)
        code = self.agent.wait(WAIT_S)
        self.agent = None
        return code

    def kill(self) -> None:
        """Take its power away."""
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait(WAIT_S)
            self.agent = None

    def status(self) -> StatusAnswer:
        """Ask the agent how it is."""
        return self.ask(Status(), StatusAnswer)

    def ask(self, request: Request, wanted: type[T]) -> T:
        """Ask the agent something over its socket."""
        return ask(self.socket, request, wanted)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the technician's command line."""
        env = {**os.environ, "LUCIOLE_CONFIG": str(self.file), "COLUMNS": "200"}
        return subprocess.run(
            [*EDGE, *arguments], capture_output=True, text=True, env=env, timeout=60, check=False
        )

    def json(self, *arguments: str) -> object:
        """Run the technician's command line and return its JSON."""
        ran = self.cli(*arguments, "--json")
        assert ran.returncode == 0, ran.stderr
        return msgspec.json.decode(ran.stdout)

    def waiting(self) -> int:
        """Return how many batches a stopped agent has left."""
        return len(held(self.folder / "state" / "outbox.db"))

    def open_files(self) -> int:
        """Return how many descriptors the agent holds."""
        assert self.agent is not None
        return len(list(Path(f"/proc/{self.agent.pid}/fd").iterdir()))


@contextmanager
def whole(folder: Path) -> Iterator[Whole]:
    """Set everything up but the agent."""
    with (
        StreetThread(scenario(lamps=4), folder) as street,
        Broker(folder) as broker,
        CentreDouble(broker.port) as centre,
    ):
        one = Whole(folder, street, broker, centre)
        try:
            yield one
        finally:
            one.kill()
