"""What one sees: the streets live in a terminal, plain lines elsewhere."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sim.demo.asking import Api, agent_status, street_state
from sim.demo.cut import Backhaul
from sim.demo.files import PUMPS, RADIO
from sim.demo.setting import LAMPS, VEHICLES, Setting, StreetFiles, Vehicle
from sim.report import JunctionState, StreetState

LINES_KEPT = 14
LOOK_S = 0.4
_BLOCKS = " ▁▂▃▄▅▆▇█"


class Scenery(msgspec.Struct):
    """What is known of a street at the moment."""

    lamps: list[tuple[float, bool]] = []
    power_w: float = 0.0
    lux: float = 0.0
    waiting: int = 0
    connected: bool = False
    readings: int = 0
    beside: str = ""


class Screen:
    """Shows the evening."""

    def __init__(self, setting: Setting, api: Api, backhaul: Backhaul) -> None:
        self._setting = setting
        self._api = api
        self._backhaul = backhaul
        self._console = Console(highlight=False)
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._streets = {street.cabinet: Scenery() for street in setting.streets}
        self._committed = 0
        self._live: Live | None = None

    def tell(self, line: str) -> None:
        """Add a line to the story, with the evening's time."""
        text = f"[dim]{self._setting.civil():%H:%M}[/]  {line}"
        self._lines.append(text)
        if self._live is None:
            self._console.print(text, soft_wrap=True)

    async def run(self) -> None:
        """Look at everything and show it, until cancelled."""
        if not self._console.is_terminal:
            await asyncio.Event().wait()
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            self._live = live
            try:
                while True:
                    await self._look()
                    live.update(self._picture(), refresh=True)
                    await asyncio.sleep(LOOK_S)
            finally:
                self._live = None

    def leave(self) -> None:
        """Leave the story on the terminal when the live picture is gone."""
        if self._console.is_terminal:
            for line in self._lines:
                self._console.print(line, soft_wrap=True)

    async def _look(self) -> None:
        for street in self._setting.streets:
            await self._look_at(street, self._streets[street.cabinet])
        with contextlib.suppress(KeyError, TypeError):
            self._committed = (await self._api.get("/health"))["ingest"]["readings"]

    async def _look_at(self, street: StreetFiles, scenery: Scenery) -> None:
        state = await street_state(street.sim_socket)
        if state is not None:
            gear = next(iter(state.lines.values())).gear
            scenery.lamps = [
                (gear[str(n)].light, "lamp_failure" in gear[str(n)].faults) for n in range(LAMPS)
            ]
            scenery.power_w = state.meter.total_w if state.meter else 0.0
            scenery.lux = next((lux.daylight_lx for lux in state.lux.values()), 0.0)
            scenery.beside = "   ".join(_beside(state))
        status = await agent_status(street.agent_socket)
        scenery.connected = bool(status and status["backhaul"]["connected"])
        if status is not None:
            scenery.waiting = status["outbox"]["readings"]
            scenery.readings = status["outbox"]["committed_readings"]

    def _picture(self) -> Panel:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("cabinet", "lamps", "", "meter", "waiting", "backhaul"):
            table.add_column(
                column, no_wrap=True, justify="right" if column in {"meter", "waiting"} else "left"
            )
        for name, scenery in self._streets.items():
            mean = sum(light for light, _ in scenery.lamps) / max(1, len(scenery.lamps))
            table.add_row(
                name,
                _lamps(scenery.lamps),
                f"{100 * mean:3.0f} %",
                f"{scenery.power_w:.0f} W",
                str(scenery.waiting),
                "[green]up[/]" if scenery.connected else "[red]cut[/]",
            )
        beside = Table(box=None, pad_edge=False, show_header=False)
        for scenery in self._streets.values():
            beside.add_row(Text.from_markup(scenery.beside))
        lux = next(iter(self._streets.values())).lux
        now = f"[bold]{self._setting.civil():%A %d %B, %H:%M}[/]"
        head = f"{now}   daylight {lux:,.0f} lx   at the centre {self._committed:,} readings"
        story = Text.from_markup("\n".join(self._lines))
        where = f"[dim]API {self._api.base}/schema   files {self._setting.folder}   Ctrl-C ends[/]"
        return Panel(
            Group(head, "", table, beside, "", story, "", where), title="Luciole", border_style="dim"
        )


def _lamps(lamps: list[tuple[float, bool]]) -> Text:
    text = Text()
    for light, failed in lamps:
        if failed:
            text.append("✗", "red")
        else:
            text.append(_BLOCKS[round(light * (len(_BLOCKS) - 1))], "yellow")
    return text


def _beside(state: StreetState) -> Iterator[str]:
    """Tell in a line each what else stands in a street: its junction and buses, its pumps, its radio sensors."""
    for junction in state.junctions.values():
        yield f"junction {' '.join(_lights(junction))}"
        yield from (_bus(state, one) for one in VEHICLES)
    for station in state.pumping[PUMPS].stations.values() if PUMPS in state.pumping else ():
        well = station.well
        yield f"pumps level {well.level_m:.2f} m, {sum(well.running)} of {len(well.running)} run"
    if RADIO in state.radio:
        sensors = state.radio[RADIO].sensors
        told = sum(sensor.counter_up for sensor in sensors.values())
        yield f"radio {sum(sensor.joined for sensor in sensors.values())} sensors joined, {told} uplinks"


def _lights(junction: JunctionState) -> Iterator[str]:
    """Paint the signal groups that the buses look at."""
    for one in VEHICLES:
        aspect = junction.lamps[str(one.group)]
        colour = {"green": "green", "red": "red"}.get(aspect, "yellow")
        yield f"{one.approach} [{colour}]●[/]"


def _bus(state: StreetState, vehicle: Vehicle) -> str:
    """Say where a bus is, and what the controller says of its request."""
    bus = state.buses[vehicle.name]
    if bus.last is None:
        return f"[dim]{vehicle.line} waits[/]"
    return (
        f"{vehicle.line} {bus.last.speed_m_s * 3.6:2.0f} km/h"
        if bus.riding
        else f"[dim]{vehicle.line} has passed[/]"
    )
