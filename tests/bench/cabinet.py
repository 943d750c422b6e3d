"""One cabinet with every line there is: its memory, and its CPU while the street is idle and everything is polled.

The product as it ships, in processes: `luciole-sim` plays the street, `luciole-edge run` is the agent, mosquitto
carries, `luciole-central serve` commits. Between the signal controller and the agent stands a tap. Memory and CPU
are the kernel's account of the agent's process. Beside them stand, in the same windows, an agent of a cabinet
without lines, and a process that has only imported the libraries.
"""

import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from drivers.base import Admission, LineState
from edge.answers import Join, JoinAnswer, PolicyAnswer, PolicyApply, Request, Status, StatusAnswer
from edge.asking import NoAgentError, ask
from protocols.backhaul.signing import sign
from protocols.model.ids import CabinetId, DeviceId
from protocols.model.policy import Policy, PolicyKind
from tests.bench.cabinet_files import (
    APP_KEY,
    CABINET,
    EMPTY,
    KEY,
    LAMPS,
    NO_ADAPTER,
    SECRET,
    SENSORS,
    UP,
    Ports,
    empty_settings,
    lighting,
    scenario,
    settings,
)
from tests.bench.processes import (
    BIN,
    Process,
    ask_street,
    free_port,
    listens,
    start_mosquitto,
    wait_for_s,
    wait_until,
)
from tests.bench.report import Figure, figure
from tests.bench.tap import Tap

WARM_UP_S, WINDOW_S = 5.0, 40.0
LIBRARIES = (
    *("asyncua", "bleak", "dbus_fast", "dali.frame", "pymodbus.client", "serial", "paho.mqtt.client"),
    *("cryptography.x509", "msgspec", "structlog", "zstandard", "astral", "sqlite3", "ssl"),
)
"""What the agent imports of others' work when it has every line."""

T = TypeVar("T")


class Window(msgspec.Struct, frozen=True):
    """Percent of one core, through one window.

    Attributes:
        street: the agent of the street.
        empty: the agent that has nothing to do.
        readings_per_s: what the street's agent took.
    """

    street: float
    empty: float
    readings_per_s: float


class Cabinet:
    """Everything that stands.

    Attributes:
        tap: between controller and agent.
        broker_port: of mosquitto.
        agent: of the street.
    """

    agent: Process

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._street = folder / "street"
        self._street.mkdir()
        self._running: list[Process] = []
        broker, self.broker_port = start_mosquitto(folder)
        self._running.append(broker)
        rsmp = free_port()
        self.tap = Tap(rsmp)
        self._ports = Ports(self.broker_port, self.tap.port, rsmp)

    def __enter__(self) -> Self:
        """Start everything, and wait until the street is as it is every evening."""
        try:
            self._start()
            self._begin()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        self._start_centre()
        self._start_street()
        settings_file = self._folder / "cabinet.toml"
        settings_file.write_text(settings(self._folder, self._street, self._ports), encoding="utf-8")
        self._trust(settings_file)
        self.agent = self._start_agent(settings_file)
        empty_file = self._folder / "empty.toml"
        empty_file.write_text(empty_settings(self._folder, self._ports), encoding="utf-8")
        self._empty = self._start_agent(empty_file)

    def _process(self, command: list[str], log: Path) -> Process:
        process = Process([str(BIN / command[0]), *command[1:]], log)
        self._running.append(process)
        return process

    def _start_centre(self) -> None:
        api = free_port()
        where = ["--db", str(self._folder / "central.db"), "--listen", f"127.0.0.1:{api}"]
        broker = ["--broker", f"mqtt://127.0.0.1:{self.broker_port}"]
        self._process(["luciole-central", "serve", *where, *broker], self._folder / "central.log")
        wait_until("the centre listens", lambda: listens(api))

    def _start_street(self) -> None:
        file = self._street / "street.toml"
        file.write_text(scenario(self._ports), encoding="utf-8")
        self._process(["luciole-sim", "run", str(file)], self._folder / "sim.log")
        wait_until("the street is there", (self._street / "sim.sock").exists)

    def _start_agent(self, file: Path) -> Process:
        return self._process(["luciole-edge", "run", "--config", str(file)], file.with_suffix(".log"))

    def _trust(self, file: Path) -> None:
        """Let cabinet and pumping station know each other, as a technician does."""
        make = [str(BIN / "luciole-edge"), "opcua-certificate", "--config", str(file)]
        subprocess.run(make, check=True, capture_output=True)
        trusted = self._folder / CABINET / "opcua" / "trusted" / "pumps.der"
        shutil.copy(self._street / "pumps-pki" / "server.der", trusted)

    def _begin(self) -> None:
        """Bring policies and keys, and wait until every line is up and every sensor is heard."""
        for name in (CABINET, EMPTY):
            wait_until(f"{name} answers", partial(self._answers, name))
        self.apply(PolicyKind.LIGHTING, lighting=lighting())
        for name, _, _ in SENSORS:
            self.ask(Join(DeviceId(name), APP_KEY), JoinAnswer)
        wait_until("all lines are up", self._all_up, timeout_s=40.0, look_s=0.2)
        wait_until("all radio sensors are heard", self._all_heard, timeout_s=90.0, look_s=0.5)
        settled = f"all {LAMPS} lamps shine as their program says"
        wait_until(settled, lambda: self.status().lamps_settled == LAMPS, timeout_s=60.0, look_s=0.5)
        wait_for_s(WARM_UP_S)

    def _answers(self, cabinet: str) -> bool:
        try:
            ask(self._folder / cabinet / "agent.sock", Status(), StatusAnswer)
        except NoAgentError:
            return False
        return True

    def _all_up(self) -> bool:
        return {one.line for one in self.status().lines if one.state is LineState.UP} >= set(UP)

    def _all_heard(self) -> bool:
        told = [self.ask(Join(DeviceId(name)), JoinAnswer).admission for name, _, _ in SENSORS]
        return all(one is Admission.HEARD for one in told)

    # --- asking ---

    def ask(self, request: Request, wanted: type[T]) -> T:
        """Ask the agent over its socket."""
        return ask(self._folder / CABINET / "agent.sock", request, wanted)

    def status(self) -> StatusAnswer:
        """Ask the agent how it is."""
        return self.ask(Status(), StatusAnswer)

    def street(self, **request: Any) -> Any:  # noqa: ANN401  JSON
        """Ask the street."""
        return ask_street(self._street / "sim.sock", request)

    def apply(self, kind: PolicyKind, **parts: Any) -> None:  # noqa: ANN401  the policy's own parts
        """Bring a signed policy by hand."""
        policy = Policy(CabinetId(CABINET), kind, 1, 0, 2**50, KEY, **parts)
        signed = sign(policy, SECRET)
        self.ask(PolicyApply(signed.body.decode(), KEY, signed.signature), PolicyAnswer)

    # --- measuring ---

    def idle_windows(self, count: int) -> list[Window]:
        """Look at the idle street through some windows.

        Raises:
            RuntimeError: if some hardware was not asked and did not speak in all that time, by its own count.
        """
        asked = self._asked()
        windows = [self._idle_window() for _ in range(count)]
        idle = [name for name, number in self._asked().items() if number <= asked[name]]
        if idle:
            raise RuntimeError(f"an idle street is polled, but nothing was heard of {', '.join(idle)}")
        return windows

    def _idle_window(self) -> Window:
        read = self.status().read
        cpu_s = self.agent.cpu_s(), self._empty.cpu_s()
        wait_for_s(WINDOW_S)
        street, empty = (
            100 * (process.cpu_s() - before) / WINDOW_S
            for process, before in zip((self.agent, self._empty), cpu_s, strict=True)
        )
        return Window(street, empty, (self.status().read - read) / WINDOW_S)

    def _asked(self) -> Mapping[str, int]:
        """Return by the hardware's own count how often each part of it was asked or spoke."""
        counted = self.street(do="counters")
        parts = {
            "dali": counted["lines"],
            "modbus": counted["modbus"],
            "pumps": counted["pumping"]["pumps"]["published"],
            "radio": {name: one["uplinks"] for name, one in counted["radio"]["radio-1"]["sensors"].items()},
            "rsmp": counted["junctions"]["junction-1"]["rsmp"]["sent"],
        }
        return {name: sum(_numbers(part)) for name, part in parts.items()}

    def downs(self) -> list[str]:
        """Return the lines that are down, each with its reason."""
        return [f"{one.line}: {one.reason}" for one in self.status().lines if one.state is not LineState.UP]

    def _stop(self) -> None:
        """End everything, the broker last."""
        for process in reversed(self._running):
            process.stop()


def _numbers(node: Any) -> Iterator[int]:  # noqa: ANN401  JSON
    if isinstance(node, dict):
        for one in node.values():
            yield from _numbers(one)
    elif isinstance(node, int):
        yield node


def cpu_figures(windows: list[Window]) -> list[Figure]:
    """Judge the idle street."""
    cpu, empty, readings = (
        statistics.median(getattr(one, name) for one in windows)
        for name in ("street", "empty", "readings_per_s")
    )
    said = f"{len(windows)} windows of {WINDOW_S:.0f} s; a cabinet without lines: {empty:.2f} %"
    return [
        figure("agent_cpu_percent_idle_street", cpu, "%", "<= 3", said),
        figure(
            "idle_street_samples_per_s", readings, "1/s", "", f"{LAMPS} lamps and everything else there is"
        ),
    ]


def memory_figure(cabinet: Cabinet) -> Figure:
    """Judge the memory, after everything else."""
    down = [one for one in cabinet.downs() if not one.startswith(NO_ADAPTER)]
    if down:
        raise RuntimeError(f"down: {'; '.join(down)}")
    bare = f"libraries alone {_libraries_mb():.0f}"
    lines = f"peak; {len(UP)} lines up{''.join(f', {one}' for one in cabinet.downs())}"
    return figure("agent_rss_mb", cabinet.agent.peak_mb(), "MB", "<= 96", f"{bare}; {lines}")


def _libraries_mb() -> float:
    """Return the peak of a process that imports what the agent imports of others, and does nothing."""
    look = "next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))"
    code = f"import {', '.join(LIBRARIES)}; print({look}.split()[1])"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(ran.stdout) * 1024 / 1e6
