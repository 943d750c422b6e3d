"""Run the demonstration: `make demo`, or `python -m sim.demo --seconds 90`."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from sim.demo.asking import Api, street_counters, street_state
from sim.demo.balance import Balance, Evidence, balance
from sim.demo.cut import Backhaul
from sim.demo.files import PUMPS, write_street
from sim.demo.processes import BIN, START_TIMEOUT_S, Part, StartError
from sim.demo.screen import Screen
from sim.demo.setting import AFTER_S, BUSES_S, Setting, StreetFiles, make_setting
from sim.demo.story import Story

STORY_S = 150.0
"""How long the story lasts when nobody says how long the demonstration is to last; then it goes on."""
SHORTEST_S = BUSES_S + AFTER_S + 30.0
"""Below that the story's scenes overtake each other."""
PATIENCE_S = 30.0
"""How much longer than it was told a story may take that waits for a bus at a red light."""


class City:
    """All the parts."""

    def __init__(self, setting: Setting, tell: Callable[[str], None]) -> None:
        folder = setting.folder
        broker = f"127.0.0.1:{setting.broker_port}"
        self.central_db = folder / "central.db"
        self.broker = Part(
            "the broker", ["luciole-central", "broker", "--listen", broker], folder / "broker.log", tell
        )
        self.centre = Part("the aggregator", self._serve(setting, broker), folder / "central.log", tell)
        self.hardware = {
            street.cabinet: Part(
                f"the hardware of {street.cabinet}",
                ["luciole-sim", "run", str(street.folder / "street.toml"), "--json"],
                street.folder / "sim.log",
                tell,
            )
            for street in setting.streets
        }
        self.agents = {
            street.cabinet: Part(
                f"the agent of {street.cabinet}",
                ["luciole-edge", "run", "--config", str(street.folder / "cabinet.toml")],
                street.folder / "agent.log",
                tell,
            )
            for street in setting.streets
        }
        self._setting = setting

    def _serve(self, setting: Setting, broker: str) -> list[str]:
        api = f"127.0.0.1:{setting.api_port}"
        key = str(setting.folder / "keys" / "demo.pem")
        where = [
            "--db",
            str(self.central_db),
            "--listen",
            api,
            "--broker",
            f"mqtt://{broker}",
            "--mqtt",
            "3.1.1",
        ]
        evening = setting.folder / "evening.json"
        evening.write_bytes(msgspec.json.encode(setting.evening))
        return ["luciole-central", "serve", *where, "--signing-key", key, "--bench-time", str(evening)]

    async def start(self) -> None:
        """Begin every part, each when what it needs is there."""
        await self.broker.start(lambda: _listens(self._setting.broker_port))
        await self.centre.start(lambda: _listens(self._setting.api_port))
        await asyncio.gather(*(self._start_street(street) for street in self._setting.streets))

    async def _start_street(self, street: StreetFiles) -> None:
        await self.hardware[street.cabinet].start(street.sim_socket.exists)
        if street.pumps_port is not None:
            await _introduce(street)
        await self.agents[street.cabinet].start(street.agent_socket.exists)

    async def stop_agents(self) -> None:
        """Stop polling; the agents drain their outboxes and end."""
        await asyncio.gather(*(part.stop() for part in self.agents.values()))

    async def stop(self) -> None:
        """Stop whatever still runs."""
        await self.stop_agents()
        for part in (*self.hardware.values(), self.centre, self.broker):
            await part.stop()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
        return True
    return False


async def _introduce(street: StreetFiles) -> None:
    """Do what a technician does once: make the cabinet's certificate, and let it and the station trust each other."""
    settings = str(street.folder / "cabinet.toml")
    command = [str(BIN / "luciole-edge"), "opcua-certificate", "--config", settings]
    made = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
    if await made.wait():
        raise StartError(f"{street.cabinet} cannot make its OPC UA certificate")
    theirs = await _certificate_of_the_station(street)
    ours = street.folder / "state" / "opcua"
    (theirs.parent / "trusted").mkdir(exist_ok=True)
    (theirs.parent / "trusted" / "cabinet.der").write_bytes((ours / "certificate.der").read_bytes())
    (ours / "trusted" / "pumps.der").write_bytes(theirs.read_bytes())


async def _certificate_of_the_station(street: StreetFiles) -> Path:
    """Wait until the pumping station has made its certificate, as it does at its first start."""
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    while asyncio.get_running_loop().time() < deadline:
        state = await street_state(street.sim_socket)
        certificate = state.pumping[PUMPS].certificate if state is not None else None
        if certificate is not None:
            return Path(certificate)
        await asyncio.sleep(0.1)
    raise StartError(f"the pumping station does not come up; see {street.folder}/sim.log")


def _make_key(folder: Path) -> str:
    """Make the centre's signing key; return what a cabinet's settings say of it."""
    command = [str(BIN / "luciole-central"), "key", "init", "--out", str(folder / "keys"), "--name", "demo"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return printed[printed.index("[[trusted_key]]") :]


async def _demonstrate(setting: Setting, *, endless: bool) -> Balance:
    api = Api(f"http://127.0.0.1:{setting.api_port}")
    backhaul = Backhaul(setting.backhaul_port, setting.broker_port)
    screen = Screen(setting, api, backhaul)
    city = City(setting, screen.tell)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    begun = setting.evening.origin_monotonic_ms / 1000
    story = Story(setting, api, backhaul, screen.tell)
    showing = asyncio.create_task(screen.run())
    try:
        screen.tell("broker, centre, two streets of simulated hardware and their cabinet agents start")
        await backhaul.start()
        await city.start()
        screen.tell(f"all parts run; the API is at {api.base}/schema")
        playing = asyncio.create_task(_play(story, lambda: loop.time() - begun))
        await _until_over(stop, playing, None if endless else begun + setting.seconds + PATIENCE_S)
        backhaul.mend()
        await story.silence_sensors()
        screen.tell("polling stops, the outboxes drain")
        await city.stop_agents()
        evidence = [await _evidence(city, street) for street in setting.streets]
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)
        await city.stop()
        await backhaul.stop()
        await api.close()
        screen.leave()
    cut_short = not (story.over or endless or stop.is_set())
    unplayed = ["the story came to its end"] if cut_short else []
    return balance(evidence, city.central_db, [*story.missed, *unplayed])


async def _play(story: Story, elapsed_s: Callable[[], float]) -> None:
    await story.publish()
    await story.play(elapsed_s)


async def _until_over(stop: asyncio.Event, playing: "asyncio.Task[None]", over: float | None) -> None:
    """Wait for Ctrl-C or the story's end, and where it is to end by itself no longer than until `over`."""
    stopping = asyncio.create_task(stop.wait())
    timeout = None if over is None else max(0.0, over - asyncio.get_running_loop().time())
    try:
        done, _ = await asyncio.wait(
            {stopping, playing}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        if playing in done:
            await playing
            if over is None:
                await stopping
    finally:
        stopping.cancel()
        playing.cancel()
        await asyncio.gather(playing, stopping, return_exceptions=True)


async def _evidence(city: City, street: StreetFiles) -> Evidence:
    state = await street_state(street.sim_socket)
    counters = await street_counters(street.sim_socket)
    if state is None or counters is None:
        raise StartError(f"the hardware of {street.cabinet} is gone, so nothing can be counted")
    return Evidence(street, state, counters, restarted=city.hardware[street.cabinet].restarts > 0)


def _main(
    seconds: Annotated[
        float | None,
        typer.Option(help=f"How long to run, at least {SHORTEST_S:.0f}; until Ctrl-C by default."),
    ] = None,
) -> None:
    """Show an evening in two streets: lamps, cabinets, broker and centre, each a process of its own."""
    if seconds is not None and seconds < SHORTEST_S:
        typer.echo(f"The story needs at least {SHORTEST_S:.0f} seconds, {seconds:g} is too short.", err=True)
        raise typer.Exit(2)
    folder = Path(tempfile.mkdtemp(prefix="luciole-demo-"))
    setting = make_setting(folder, seconds or STORY_S)
    trusted_key = _make_key(folder)
    for street in setting.streets:
        write_street(setting, street, trusted_key)
    try:
        result = asyncio.run(_demonstrate(setting, endless=seconds is None))
    except StartError as error:
        typer.echo(f"demo: {error}", err=True)
        raise typer.Exit(1) from None
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    sys.stdout.flush()
    raise typer.Exit(0 if result.ok else 1)


if __name__ == "__main__":
    typer.run(_main)
