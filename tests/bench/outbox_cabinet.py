"""A cabinet for the outbox bench: the agent as it ships, in a process, and counting devices for it to poll."""

from collections.abc import Callable, Sequence
from pathlib import Path

from edge.answers import Status, StatusAnswer
from edge.asking import NoAgentError, ask
from tests.bench.outbox_taken import CABINET, REGISTERS
from tests.bench.processes import BIN, Process
from tests.bench.street import SEPARATOR, Devices

HEAD = """\
[cabinet]
id = "{cabinet}"
directory = "{directory}"

[backhaul]
url = "mqtt://127.0.0.1:{port}"

[outbox]
max_mb = {max_mb}
drain_s = 30

[[map]]
name = "twenty"
max_registers = 125
"""

RUN = """
[[map.run]]
prefix = "{prefix}"
table = "holding"
address = {address}
count = {count}
report = "each"
poll_s = {poll_s}
not_available = []
"""


def always_ordinary(_number: int) -> str:
    """Give every device the class that devices have."""
    return "ordinary"


class Cabinet:
    """Counting devices, and agents that poll them, one after the other.

    Attributes:
        devices: the simulator's process.
        directory: the agent's.
    """

    def __init__(self, folder: Path, count: int, stream: Callable[[int], str] = always_ordinary) -> None:
        folder.mkdir()
        self._folder = folder
        self._stream = stream
        self._agent: Process | None = None
        self.directory = folder / "state"
        self.devices = Devices(folder / "street", count)

    def start(self, port: int, polls_s: Sequence[float] = (1.0,), max_mb: float = 512.0) -> Process:
        """Start an agent.

        Args:
            port: where its broker is.
            polls_s: seconds between two readings of a register: of each device's first registers, of as many that
                follow, and so on. What is read at different times takes a request of its own.
            max_mb: what may wait for the centre.
        """
        settings = self._folder / "cabinet.toml"
        settings.write_text(self._settings(port, polls_s, max_mb), encoding="utf-8")
        command = [str(BIN / "luciole-edge"), "run", "--config", str(settings)]
        self._agent = Process(command, self._folder / "agent.log")
        return self._agent

    def stop_agent(self) -> None:
        """End the agent as a service manager would; it takes its time to drain."""
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.stop()

    def status(self) -> StatusAnswer:
        """Ask the agent how it is. Raises NoAgentError while none answers."""
        return ask(self.directory / "agent.sock", Status(), StatusAnswer)

    def is_connected(self) -> bool:
        """Tell whether an agent answers, and whether the centre has welcomed it."""
        try:
            return self.status().backhaul.welcomed
        except NoAgentError:
            return False

    def stop(self) -> None:
        """End everything."""
        self.stop_agent()
        self.devices.process.stop()

    def _settings(self, port: int, polls_s: Sequence[float], max_mb: float) -> str:
        head = HEAD.format(cabinet=CABINET, directory=self.directory, port=port, max_mb=max_mb)
        each = REGISTERS // len(polls_s)
        runs = [
            RUN.format(prefix="rstuvwxyz"[number], address=number * each, count=each, poll_s=poll_s)
            for number, poll_s in enumerate(polls_s)
        ]
        parts = [self._device(number, *device) for number, device in enumerate(self.devices.ports.items())]
        return "".join([head, *runs, *parts])

    def _device(self, number: int, name: str, port: int) -> str:
        return (
            f'\n[[line]]\nid = "{name}"\ndriver = "modbus-tcp"\nhost = "127.0.0.1"\nport = {port}\n'
            f'\n[[device]]\nid = "{CABINET}{SEPARATOR}{name}"\nline = "{name}"\nkind = "sensor"\n'
            f'address = 1\nmap = "twenty"\nstream = "{self._stream(number)}"\n'
        )
