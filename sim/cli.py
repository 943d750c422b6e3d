"""`luciole-sim`: run a street on a bench, look at it, break it and mend it."""

import asyncio
import json
import math
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import structlog
import typer
from rich.console import Console
from rich.table import Table

from sim.control import MAX_LINE
from sim.example import EXAMPLE
from sim.faults import FaultSettings
from sim.report import Counters, Ports, StreetState
from sim.scenario import ScenarioError, load, target_faults
from sim.street import Street

BAD_INPUT = 2
_TIMEOUT_S = 10.0
_DEFAULT_CONTROL = Path("luciole-sim.sock")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="A street on a bench: lamps, meter, cabinet, daylight, a junction and its buses, played at the wire.\n\n"
    "A first scenario: luciole-sim scenario example > street.toml\n\n"
    "Example: luciole-sim run street.toml",
)
scenario_app = typer.Typer(no_args_is_help=True, help="Check a scenario file, or print one to start from.")
app.add_typer(scenario_app, name="scenario")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]
Control = Annotated[Path, typer.Option("--control", help="The control socket of a running bench.")]
Target = Annotated[
    str, typer.Argument(help="A line, a device, or a part of one: dali-1, meter, dali-1/3, junction-1/2.")
]
_out = Console()
_err = Console(stderr=True)


@app.command()
def run(
    scenario: Annotated[Path, typer.Argument(help="The scenario file.")],
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where relative paths start; else the file's folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a scenario until Ctrl-C, `luciole-sim stop` or SIGTERM.

    Example: luciole-sim run street.toml --json
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        street = Street.from_scenario(scenario, folder)
        asyncio.run(_run(street, as_json=as_json))
    except ScenarioError as error:
        _refuse(*error.lines())
    except OSError as error:
        _refuse(f"{scenario}: cannot start: {error}", status=1)


async def _run(street: Street, *, as_json: bool) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, street.stopped.set)
    async with street:
        _announce(street.ports(), as_json=as_json)
        await street.stopped.wait()


def _announce(ports: Ports, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode(ports).decode() + "\n")
    else:
        where = [f"{name} at {path}" for name, path in ports.serial.items()]
        where += [f"{name} at {host}:{port}" for name, (host, port) in ports.tcp.items()]
        sys.stdout.write(f"ready: {', '.join(where) or 'nothing'}; control at {ports.control}\n")
    sys.stdout.flush()


@app.command()
def state(control: Control = _DEFAULT_CONTROL, as_json: AsJson = False) -> None:
    """Show how everything is: lamps, line, meter, cabinet, daylight, junctions, buses, radio sensors.

    Example: luciole-sim state --control run/sim.sock
    """
    result = _ask(control, {"do": "state"})
    if as_json:
        _print_json(result)
        return
    told = msgspec.convert(result, StreetState)
    for name, line in told.lines.items():
        table = Table("gear", "level", "target", "W", "powered", "burning h", "faults", title=name)
        for index, gear in line.gear.items():
            powered = "yes" if gear.powered else "no"
            row = (index, gear.level, gear.target, gear.power_w, powered, round(gear.burning_s / 3600, 2))
            table.add_row(*map(str, row), ", ".join(gear.faults))
        _out.print(table)
    _print_rest(told)
    _print_traffic(told)


def _print_traffic(told: StreetState) -> None:
    for name, junction in told.junctions.items():
        table = Table("what", "is", title=name)
        link = "ready" if junction.ready else "connected" if junction.connected else "away"
        table.add_row("mode", f"{junction.mode}, plan {junction.plan}, stage {junction.stage}")
        table.add_row("signals", f"{junction.signals} at {junction.cycle_counter} s of the cycle")
        table.add_row("supervisor", f"{junction.supervisor}, {link}")
        for each in junction.requests:
            table.add_row(f"request {each.id}", f"{each.state}, group {each.group}, level {each.level}")
        for title, names in (("alarms", junction.alarms), ("faults", junction.faults)):
            if names:
                table.add_row(title, ", ".join(names))
        _out.print(table)
    for name, bus in told.buses.items():
        where = "waits for its next ride"
        if bus.riding and bus.last is not None:
            place = bus.last.place
            where = f"{place.latitude:.5f} {place.longitude:.5f}, {bus.last.speed_m_s:.1f} m/s"
        _out.print(f"{name}: ride {bus.journeys}, {where}")


def _print_rest(told: StreetState) -> None:
    table = Table("what", "is", title="cabinet and daylight")
    if told.meter is not None:
        table.add_row("meter", f"{told.meter.total_w:.1f} W, {told.meter.energy_kwh:.3f} kWh")
    if told.cabinet is not None:
        switches = msgspec.to_builtins(told.cabinet)
        table.add_row("cabinet", ", ".join(f"{name} {value}" for name, value in switches.items()))
    for name, sensor in told.lux.items():
        table.add_row(name, f"{sensor.reading_lx} lx, sun at {sensor.sun_deg}°")
    for pumping in told.pumping.values():
        for name, station in pumping.stations.items():
            well, running = station.well, sum(station.well.running)
            table.add_row(
                name, f"{well.level_m} m, {well.inflow_m3_h} m³/h in, {running} pumps, {station.faults}"
            )
    for name, unit in told.modbus.items():
        if unit.faults:
            table.add_row(name, ", ".join(unit.faults))
    _out.print(table)
    _print_radio(told)


def _print_radio(told: StreetState) -> None:
    for gateway, radio in told.radio.items():
        where = f"{gateway} to {radio.host}:{radio.port} {', '.join(radio.faults)}"
        table = Table("sensor", "device", "joined", "up", "down", "rate", "truth", "faults", title=where)
        for name, sensor in radio.sensors.items():
            truth = ", ".join(f"{point} {value}" for point, value in sensor.truth.items())
            row = (name, sensor.device, "yes" if sensor.joined else "no", sensor.counter_up)
            rest = (sensor.counter_down, sensor.data_rate, truth, ", ".join(sensor.faults))
            table.add_row(*map(str, row + rest))
        _out.print(table)


@app.command()
def counters(control: Control = _DEFAULT_CONTROL, as_json: AsJson = False) -> None:
    """Show what the simulated hardware has counted by itself: answers, reads, grants, seconds at red.

    Example: luciole-sim counters --json
    """
    result = _ask(control, {"do": "counters"})
    if as_json:
        _print_json(result)
        return
    told = msgspec.convert(result, Counters)
    _show_lines(told)
    _show_reads(told)
    _show_radio(told)
    for name, junction in told.junctions.items():
        _out.print(
            f"{name}: {junction.requests} requests, {junction.granted} granted, "
            f"{junction.green_seconds_gained} s of green gained"
        )
    for name, bus in told.buses.items():
        _out.print(f"{name}: {bus.rides} rides, {bus.stopped_at_red_s} s stopped at red")


def _show_lines(told: Counters) -> None:
    for name, line in told.lines.items():
        table = Table("frames", "count", title=name)
        for kind, count in line.frames.items():
            table.add_row(kind, str(count))
        table.add_row("collisions", str(line.collisions))
        table.add_row("level changes", str(sum(line.level_changes.values())))
        _out.print(table)


def _show_reads(told: Counters) -> None:
    reads = Table("unit", "table", "places", "values", title="Modbus and OPC UA")
    for name, tables in told.modbus.items():
        for kind, by_address in tables.items():
            reads.add_row(name, kind, str(len(by_address)), str(sum(by_address.values())))
    for name, pumping in told.pumping.items():
        for kind, by_node in (("read", pumping.reads), ("published", pumping.published)):
            reads.add_row(name, kind, str(len(by_node)), str(sum(by_node.values())))
    _out.print(reads)


def _show_radio(told: Counters) -> None:
    for gateway, radio in told.radio.items():
        counts = Table("who", "what", "count", title=gateway)
        for who, counted in {"gateway": radio.gateway, "air": radio.air, **radio.sensors}.items():
            for what, count in msgspec.to_builtins(counted).items():
                counts.add_row(who, what, str(count))
        _out.print(counts)


@app.command()
def fault(
    target: Target,
    name: Annotated[str, typer.Argument(help="lamp_failure, silent, line_short, slow, unplugged …")],
    *,
    for_s: Annotated[
        float | None, typer.Option("--for", help="Real seconds; else until cleared.", min=0, max=1e9)
    ] = None,
    delay_s: Annotated[float | None, typer.Option("--delay", help="Seconds, of late and slow.")] = None,
    code: Annotated[int | None, typer.Option("--code", help="Exception code, of exception.")] = None,
    probability: Annotated[
        float | None, typer.Option("--probability", help="Of drop, flip, lost and bad_crc.")
    ] = None,
    every_s: Annotated[float | None, typer.Option("--every", help="Seconds, of noise and attacks.")] = None,
    factor: Annotated[float | None, typer.Option("--factor", help="Of drift.")] = None,
    control: Control = _DEFAULT_CONTROL,
) -> None:
    """Break something.

    Example: luciole-sim fault dali-1/3 lamp_failure --for 30
    """
    for number in (for_s, delay_s, probability, every_s, factor):
        if number is not None and not math.isfinite(number):
            _refuse(f"{number} is no number that a fault could have")
    settings = FaultSettings(delay_s, code, probability, every_s, factor)
    request = {"do": "fault", "target": target, "name": name, "for_s": for_s}
    _ask(control, request | {"settings": msgspec.to_builtins(settings)})


@app.command()
def clear(
    target: Target,
    name: Annotated[str, typer.Argument(help="The fault; all if left out.")] = "*",
    control: Control = _DEFAULT_CONTROL,
) -> None:
    """Mend something.

    Example: luciole-sim clear dali-1/3
    """
    _ask(control, {"do": "clear", "target": target, "name": name})


@app.command(name="set")
def set_switches(
    target: Annotated[str, typer.Argument(help="The cabinet or a daylight sensor.")],
    switches: Annotated[list[str], typer.Argument(help="name=value; on, off or a number.")],
    control: Control = _DEFAULT_CONTROL,
) -> None:
    """Set switches: door_open, breaker_tripped, mains_present, contactor; sky of a daylight sensor.

    Example: luciole-sim set cabinet door_open=on
    """
    parsed = dict(_switch(text) for text in switches)
    _ask(control, {"do": "set", "target": target, "switches": parsed})


@app.command()
def stop(control: Control = _DEFAULT_CONTROL) -> None:
    """End a running bench.

    Example: luciole-sim stop
    """
    _ask(control, {"do": "stop"})


@scenario_app.command()
def check(
    scenario: Annotated[Path, typer.Argument(help="The scenario file.")], as_json: AsJson = False
) -> None:
    """Check a scenario file: all its faults at once, exit 2 if there are any.

    Example: luciole-sim scenario check street.toml
    """
    try:
        checked = load(scenario)
    except ScenarioError as error:
        if as_json:
            _print_json({"ok": False, "faults": msgspec.to_builtins(error.complaints)})
            raise typer.Exit(BAD_INPUT) from error
        _refuse(*error.lines())
    if as_json:
        _print_json({"ok": True, "targets": sorted(target_faults(checked))})
    else:
        _out.print(f"{scenario}: fine", highlight=False)


@scenario_app.command()
def example() -> None:
    """Print a commented scenario to start from.

    Example: luciole-sim scenario example > street.toml
    """
    sys.stdout.write(EXAMPLE)


def _switch(text: str) -> tuple[str, bool | float]:
    name, equals, value = text.partition("=")
    words = {"on": True, "true": True, "off": False, "false": False}
    if equals and value.lower() in words:
        return name, words[value.lower()]
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        _refuse(f"{text}: expected name=on, name=off or name=number")
    return name, number


def _ask(control: Path, request: dict[str, object]) -> object:
    """Send one request to a running bench, return its result; end the program if it cannot be done."""
    try:
        answer = json.loads(_exchange(control, json.dumps(request).encode() + b"\n"))
    except (OSError, json.JSONDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        _refuse(
            f"no bench answers at {control}: {why}", "Is one running? Say where with --control.", status=1
        )
    if not answer["ok"]:
        _refuse(answer["error"])
    return answer.get("result")


def _exchange(control: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as bench:
        bench.settimeout(_TIMEOUT_S)
        bench.connect(str(control))
        bench.sendall(request)
        received = bytearray()
        while not received.endswith(b"\n"):
            chunk = bench.recv(MAX_LINE)
            if not chunk:
                raise ConnectionResetError("the bench hung up")
            received += chunk
    return bytes(received)


def _print_json(content: object) -> None:
    sys.stdout.write(json.dumps(content) + "\n")


def _refuse(*lines: str, status: int = BAD_INPUT) -> NoReturn:
    for line in lines:
        _err.print(line, style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(status)


def main() -> None:
    """Run the program."""
    app()
