"""Fifty Modbus TCP devices of twenty registers, each changing at every read and counting its reads, each second.

The product as it ships: `luciole-sim` plays the devices, `luciole-edge run` polls them, mosquitto carries, and
`luciole-central serve` commits. Beside it, in turn, runs the floor (`tests.bench.floor`). CPU and memory are the
kernel's account of the agent's process, bytes are counted by a proxy on its MQTT connection, and what is missing
or there twice is found by comparing each register's own count with the rows at the centre.
"""

import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from tests.bench.processes import (
    BIN,
    CountingProxy,
    Process,
    ask_street,
    free_port,
    listens,
    start_mosquitto,
    wait_for_s,
    wait_until,
)
from tests.bench.report import Report, figure, report

DEVICES, REGISTERS = 50, 20
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
WARM_UP_S, WINDOW_S = 6.0, 20.0
STARTS = 5
SEPARATOR = "."
"""Between a cabinet of this bench and a simulated device, in the device ids."""


class Window(msgspec.Struct, frozen=True):
    """What was seen of a process through one window."""

    readings: int
    cpu_s: float
    wire_bytes: int = 0
    peak_mb: float = 0.0

    @property
    def cpu_ms_per_1000(self) -> float:
        """CPU milliseconds for a thousand readings."""
        return self.cpu_s * 1e6 / self.readings


class Devices:
    """The simulated devices of one side, in a process of their own."""

    def __init__(self, folder: Path, count: int = DEVICES) -> None:
        folder.mkdir()
        self._socket = folder / "sim.sock"
        scenario = folder / "street.toml"
        counter = f"count = {count}\nregisters = {REGISTERS}\nspread = true"
        scenario.write_text(f'control = "sim.sock"\n[[counter]]\n{counter}\n', encoding="utf-8")
        self.process = Process([str(BIN / "luciole-sim"), "run", str(scenario), "--json"], folder / "sim.log")
        said = folder / "sim.log"
        wait_until("the devices are there", lambda: '"tcp"' in said.read_text(encoding="utf-8"))
        tcp = self._ask("ports")["tcp"]
        self.ports = {name: int(where[1]) for name, where in sorted(tcp.items())}

    def reads(self) -> dict[str, dict[int, int]]:
        """Return for each device and register how often it was read, by the device's own count."""
        modbus = self._ask("counters")["modbus"]
        return {
            name: {int(address): count for address, count in modbus[name]["holding_registers"].items()}
            for name in self.ports
        }

    def total(self) -> int:
        """Return how many registers were read."""
        return sum(sum(registers.values()) for registers in self.reads().values())

    def _ask(self, what: str) -> Any:  # noqa: ANN401  JSON
        return ask_street(self._socket, {"do": what})


class Bench:
    """Everything that stands while the rounds are run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._broker, self._broker_port = start_mosquitto(folder)
        self._ours = Devices(folder / "ours")
        self._theirs = Devices(folder / "floor")
        self._central_db = folder / "central.db"
        api = free_port()
        command = ["luciole-central", "serve", "--db", str(self._central_db), "--listen", f"127.0.0.1:{api}"]
        broker = ["--broker", f"mqtt://127.0.0.1:{self._broker_port}"]
        self._centre = Process([str(BIN / command[0]), *command[1:], *broker], folder / "central.log")
        wait_until("the centre listens", lambda: listens(api))
        self._proxy = CountingProxy(self._broker_port)

    def round_of_agent(self) -> Window:
        """Let the agent run for one window, and end it cleanly."""
        agent = self._start_agent("bench", self._ours, self._folder / "state")
        wait_for_s(WARM_UP_S)
        readings, cpu_s, wire = self._ours.total(), agent.cpu_s(), self._proxy.bytes
        wait_for_s(WINDOW_S)
        window = Window(
            self._ours.total() - readings, agent.cpu_s() - cpu_s, self._proxy.bytes - wire, agent.peak_mb()
        )
        agent.stop()
        return window

    def round_of_floor(self) -> Window:
        """Let the floor run for one window."""
        ports = [str(port) for port in self._theirs.ports.values()]
        command = [sys.executable, "-m", "tests.bench.floor", str(self._broker_port), str(REGISTERS), *ports]
        floor = Process(command, self._folder / "floor.log")
        wait_for_s(WARM_UP_S)
        readings, cpu_s = self._theirs.total(), floor.cpu_s()
        wait_for_s(WINDOW_S)
        window = Window(self._theirs.total() - readings, floor.cpu_s() - cpu_s)
        floor.stop()
        return window

    def first_commit_s(self, number: int) -> float:
        """Return how long it takes from starting a fresh agent to its first reading committed at the centre."""
        cabinet = f"start-{number}"
        settings = self._write_settings(cabinet, self._ours, self._folder / cabinet)
        with closing(sqlite3.connect(f"file:{self._central_db}?mode=ro", uri=True)) as db:
            query = "SELECT count(*) FROM latest JOIN series ON series.id = series_id WHERE device LIKE ?"
            agent = Process(
                [str(BIN / "luciole-edge"), "run", "--config", str(settings)], settings.with_suffix(".log")
            )
            took = wait_until(
                "the first reading is committed",
                lambda: db.execute(query, (f"{cabinet}{SEPARATOR}%",)).fetchone()[0] > 0,
                look_s=0.005,
            )
        agent.stop()
        return took

    def missing_and_duplicated(self) -> tuple[int, int]:
        """Compare each register's own count with the values at the centre: so many, all different."""
        missing = duplicated = 0
        committed = self._committed()
        for device, registers in self._ours.reads().items():
            for register, count in registers.items():
                values = committed[device, f"r{register:02d}"]
                missing += count - len(set(values))
                duplicated += len(values) - len(set(values))
        return missing, duplicated

    def _committed(self) -> dict[tuple[str, str], list[int]]:
        """Return the values at the centre by simulated device and point, of all this bench's cabinets together."""
        found: dict[tuple[str, str], list[int]] = defaultdict(list)
        with closing(sqlite3.connect(f"file:{self._central_db}?mode=ro", uri=True)) as db:
            query = "SELECT device, point, value FROM reading JOIN series ON series.id = series_id"
            for device, point, value in db.execute(query):
                if value is not None:
                    found[device.partition(SEPARATOR)[2], point].append(value)
        return found

    def stop(self) -> None:
        """End everything."""
        for process in (self._centre, self._ours.process, self._theirs.process, self._broker):
            process.stop()

    def _start_agent(self, cabinet: str, devices: Devices, state: Path) -> Process:
        settings = self._write_settings(cabinet, devices, state)
        return Process(
            [str(BIN / "luciole-edge"), "run", "--config", str(settings)], self._folder / "agent.log"
        )

    def _write_settings(self, cabinet: str, devices: Devices, state: Path) -> Path:
        path = self._folder / f"{cabinet}.toml"
        path.write_text(_settings(cabinet, devices, state, self._proxy.port), encoding="utf-8")
        return path


def run() -> Report:
    """Run the bench. If it breaks, its folder with every log stays, and is named."""
    folder = Path(tempfile.mkdtemp(prefix="luciole-bench-"))
    try:
        report = _run(folder)
    except BaseException:
        print(f"what the processes said is in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder)
    return report


def _run(folder: Path) -> Report:
    bench = Bench(folder)
    ours, floor = [], []
    for number in range(ROUNDS):
        print(f"round {number + 1} of {ROUNDS}: the agent…", file=sys.stderr, flush=True)
        ours.append(bench.round_of_agent())
        print(f"round {number + 1} of {ROUNDS}: the floor…", file=sys.stderr, flush=True)
        floor.append(bench.round_of_floor())
    print(f"{STARTS} starts…", file=sys.stderr, flush=True)
    starts = [bench.first_commit_s(number) for number in range(STARTS)]
    missing, duplicated = bench.missing_and_duplicated()
    bench.stop()
    ratios = [mine.cpu_ms_per_1000 / his.cpu_ms_per_1000 for mine, his in zip(ours, floor, strict=True)]
    floor_ms = statistics.median(one.cpu_ms_per_1000 for one in floor)
    rate = statistics.median(one.readings / WINDOW_S for one in ours)
    wire = statistics.median(one.wire_bytes / one.readings for one in ours)
    beside = f"floor {floor_ms:.2f} ms per 1,000, {ROUNDS} rounds in turn"
    cpu = statistics.median(one.cpu_ms_per_1000 for one in ours)
    return report(
        "street",
        [
            figure("cpu_ratio_to_floor", statistics.median(ratios), "ratio", "<= 4", beside),
            figure("cpu_ms_per_1000_readings", cpu, "ms", "<= 30", "a known Python gateway: 195"),
            figure("agent_rss_mb", max(one.peak_mb for one in ours), "MB", "<= 64", "peak; that gateway: 72"),
            figure("first_commit_s", statistics.median(starts), "s", "<= 2", f"median of {STARTS} starts"),
            figure("wire_bytes_per_reading", wire, "B", "<= 12", "both directions of the MQTT connection"),
            figure("missing", missing, "readings", "= 0", "each register's own count"),
            figure("duplicated", duplicated, "readings", "= 0", "each register's own count"),
            figure("readings_per_s", rate, "1/s", "", f"asked for: {DEVICES * REGISTERS}"),
        ],
    )


def _settings(cabinet: str, devices: Devices, state: Path, broker_port: int) -> str:
    head = f"""\
[cabinet]
id = "{cabinet}"
directory = "{state}"

[backhaul]
url = "mqtt://127.0.0.1:{broker_port}"

[[map]]
name = "twenty"
max_registers = 125

[[map.run]]
prefix = "r"
table = "holding"
address = 0
count = {REGISTERS}
report = "each"
poll_s = 1.0
not_available = []
"""
    lines = [
        f'\n[[line]]\nid = "{name}"\ndriver = "modbus-tcp"\nhost = "127.0.0.1"\nport = {port}\n'
        for name, port in devices.ports.items()
    ]
    polled = [
        f'\n[[device]]\nid = "{cabinet}{SEPARATOR}{name}"\nline = "{name}"\n'
        'kind = "sensor"\naddress = 1\nmap = "twenty"\n'
        for name in devices.ports
    ]
    return "".join([head, *lines, *polled])
