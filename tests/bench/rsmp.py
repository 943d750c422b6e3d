"""An RSMP connection under load: the driver as `open_line` gives it asks a simulated controller, one thing at a time.

Driver and controller are two processes on one TCP connection. The driver reads all points of the junction over and
over: four StatusRequests, each with its acknowledgement, its StatusResponse, and the acknowledgement of that. What
passed is what the controller has counted. Beside it, in turn, two bare ends exchange the same messages: JSON and a
form feed, nothing checked, nothing remembered.
"""

import asyncio
import contextlib
import statistics
import sys
import uuid
from pathlib import Path
from typing import Any

import msgspec

from drivers.base import LineState
from drivers.registry import open_line
from drivers.settings import DeviceSettings, Rsmp
from edge.clock import SystemClock
from protocols.model.device import Kind
from protocols.model.ids import DeviceId, LineId
from tests.bench.processes import BIN, Process, ask_street, free_port, wait_until
from tests.bench.report import Figure, figure
from tests.bench.worker import Spell, Worker, idle, serve

SPELL_S, WARM_UP_S = 2.0, 0.3
JUNCTION, LINE = DeviceId("crossing"), LineId("tlc-1")
PREFIX = "LU+DJ0001=001"
MAIN = f"{PREFIX}TC000"
END = b"\x0c"
ASKED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("S0001", ("signalgroupstatus", "stage", "cyclecounter")),
    ("S0014", ("status",)),
    ("S0020", ("controlmode",)),
    ("S0033", ("status",)),
)
"""What the driver asks for when all points of a junction are read."""
MESSAGES = 4
"""A question, its acknowledgement, its answer, and the acknowledgement of that."""


# --- the product ---


async def be_driver(port: int, folder: Path) -> None:
    """Be the line's driver, and read the junction over and over."""
    line = Rsmp(id=LINE, port=port, site=MAIN)
    device = DeviceSettings(id=JUNCTION, kind=Kind.JUNCTION, line=LINE, address=MAIN)
    driver = open_line(line, [device], {}, SystemClock(), folder)
    points = [polled.point.name for polled in driver.points(JUNCTION)]
    task = asyncio.create_task(driver.run())

    async def step() -> int:
        sample = await driver.read(JUNCTION, points)
        if sample.faults:
            raise RuntimeError(f"the junction does not say everything: {sample.faults}")
        return 1

    while driver.health().state is not LineState.UP:  # noqa: ASYNC110  a driver tells nobody that it is up
        await asyncio.sleep(0.05)
    await serve(step)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# --- the floor ---


async def be_bare_site(port: int) -> None:
    """Be the floor's controller: acknowledge each question and answer it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def answer() -> None:
        while True:
            message = msgspec.json.decode((await reader.readuntil(END))[:-1])
            if message["type"] == "StatusRequest":
                values = [one | {"s": "1", "q": "recent"} for one in message["sS"]]
                writer.write(_acknowledgement(message))
                writer.write(_message("StatusResponse", cId=MAIN, sTs="2026-01-01T00:00:00.000Z", sS=values))

    task = asyncio.create_task(answer())
    await idle("ready")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def be_bare_supervisor(port: int) -> None:
    """Be the floor's supervisor: ask, wait for the acknowledgement and the answer, acknowledge it."""
    connected: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda *streams: connected.put_nowait(streams), "127.0.0.1", port)
    streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def step() -> int:
        if not streams:
            streams.append(await connected.get())
        reader, writer = streams[0]
        for code, names in ASKED:
            wanted = [{"sCI": code, "n": name} for name in names]
            writer.write(_message("StatusRequest", cId=MAIN, sS=wanted))
            while True:
                message = msgspec.json.decode((await reader.readuntil(END))[:-1])
                if message["type"] == "StatusResponse":
                    break
            writer.write(_acknowledgement(message))
        return 1

    await serve(step)
    server.close()


def _message(kind: str, **rest: object) -> bytes:
    head = {"mType": "rSMsg", "type": kind, "mId": str(uuid.uuid4()), "ntsOId": "", "xNId": ""}
    return msgspec.json.encode(head | rest) + END


def _acknowledgement(message: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"mType": "rSMsg", "type": "MessageAck", "oMId": message["mId"]}) + END


# --- the comparison ---


class _Product:
    """The driver and the simulated controller."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        scenario = folder / "street.toml"
        junction = f'name = "junction-1"\nport = {port}\nprefix = "{PREFIX}"\nreconnect_s = 0.2'
        scenario.write_text(f'control = "sim.sock"\n[[junction]]\n{junction}\n', encoding="utf-8")
        self._control = folder / "sim.sock"
        self._site = Process([str(BIN / "luciole-sim"), "run", str(scenario)], folder / "sim.log")
        wait_until("the controller is there", self._control.exists)
        self._driver = Worker(["tests.bench.rsmp", "driver", str(port), str(folder)], folder / "driver.log")

    def work(self, seconds: float) -> Spell:
        """Let the driver ask, and count by the controller's books."""
        before = self._passed()
        spell = self._driver.work(seconds)
        return Spell(self._passed() - before, spell.seconds, spell.cpu_s)

    def _passed(self) -> int:
        wire = ask_street(self._control, {"do": "counters"})["junctions"]["junction-1"]["rsmp"]
        return int(sum(wire["sent"].values()) + sum(wire["received"].values()))

    def stop(self) -> None:
        self._driver.stop()
        self._site.stop()


class _Floor:
    """Two bare ends."""

    def __init__(self, folder: Path) -> None:
        port = str(free_port())
        self._supervisor = Worker(["tests.bench.rsmp", "bare-supervisor", port], folder / "floor.log")
        self._site = Worker(["tests.bench.rsmp", "bare-site", port], folder / "floor.log")

    def work(self, seconds: float) -> Spell:
        """Let it ask."""
        spell = self._supervisor.work(seconds)
        return Spell(spell.done * MESSAGES * len(ASKED), spell.seconds, spell.cpu_s)

    def stop(self) -> None:
        self._site.stop()
        self._supervisor.stop()


def figures(folder: Path, rounds: int) -> list[Figure]:
    """Measure."""
    folder.mkdir()
    ours: list[Spell] = []
    theirs: list[Spell] = []
    with contextlib.ExitStack() as ends:
        product = _Product(folder)
        ends.callback(product.stop)
        floor = _Floor(folder)
        ends.callback(floor.stop)
        product.work(WARM_UP_S)
        floor.work(WARM_UP_S)
        for _ in range(rounds):
            ours.append(product.work(SPELL_S))
            theirs.append(floor.work(SPELL_S))
    mine_per_s, his_per_s = (statistics.median(one.per_s for one in side) for side in (ours, theirs))
    mine_us, his_us = (statistics.median(one.cpu_us for one in side) for side in (ours, theirs))
    said = f"driver and controller over TCP, one question at a time; bare JSON ends {his_per_s:.0f}/s"
    return [
        figure("rsmp_messages_per_s", mine_per_s, "1/s", "", said),
        figure("rsmp_cpu_us_per_message", mine_us, "us", "", f"the driver's end; bare end {his_us:.0f} us"),
    ]


def _main() -> None:
    match sys.argv[1:]:
        case ["driver", port, folder]:
            asyncio.run(be_driver(int(port), Path(folder)))
        case ["bare-supervisor", port]:
            asyncio.run(be_bare_supervisor(int(port)))
        case ["bare-site", port]:
            asyncio.run(be_bare_site(int(port)))


if __name__ == "__main__":
    _main()
