"""luciole-edge: the field technician's command line, and the agent itself."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from edge import exits
from edge.config import DEFAULT_PATH, Settings, SettingsError, load

if TYPE_CHECKING:
    from protocols.model.command import CommandState

T = TypeVar("T")

app = typer.Typer(
    help="Luciole in the cabinet: look, read, set, watch, and run the agent.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="The cabinet's settings file.", no_args_is_help=True)
policy_app = typer.Typer(help="What the centre wants of this cabinet.", no_args_is_help=True)
priority_app = typer.Typer(help="The junctions: who is on the approaches, and what is asked for.")
app.add_typer(config_app, name="config")
app.add_typer(policy_app, name="policy")
app.add_typer(priority_app, name="priority")

Config = Annotated[
    Path, typer.Option("--config", "-c", envvar="LUCIOLE_CONFIG", help="The cabinet's settings file.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]


@app.command()
def run(
    config: Config = DEFAULT_PATH,
    log_format: Annotated[str, typer.Option(help="`text` for people, `json` for machines.")] = "text",
) -> None:
    """Run the cabinet agent until it is stopped (SIGTERM, Ctrl-C).

    Example: `luciole-edge run --config cabinet.toml`
    """
    settings = _settings(config)
    agent = [sys.executable, "-P", "-m", "edge.run", str(settings.file), log_format]
    sys.stderr.flush()
    os.execv(agent[0], agent)  # noqa: S606  the same process, without the command line's libraries


@config_app.command("check")
def config_check(
    file: Annotated[Path, typer.Argument(help="The settings file.", envvar="LUCIOLE_CONFIG")] = DEFAULT_PATH,
    as_json: Json = False,
) -> None:
    """Check a settings file and its limits file, and name every fault at once.

    Example: `luciole-edge config check cabinet.toml`
    """
    from edge import show  # noqa: PLC0415

    settings = _settings(file, as_json=as_json)
    show.settings(settings, as_json=as_json)


@config_app.command("example")
def config_example() -> None:
    """Print a settings file to begin with.

    Example: `luciole-edge config example > cabinet.toml`
    """
    from edge.example import EXAMPLE  # noqa: PLC0415

    sys.stdout.write(EXAMPLE)


@app.command()
def status(config: Config = DEFAULT_PATH, as_json: Json = False) -> None:
    """Say how the cabinet is: lines, lamps, alarms, what waits for the centre.

    Example: `luciole-edge status`
    """
    from edge import answers, offline, show  # noqa: PLC0415

    settings = _settings(config)
    answer = _ask(settings, answers.Status(), answers.StatusAnswer)
    if answer is None:
        show.offline(_offline(settings, offline.look), as_json=as_json)
        raise typer.Exit(exits.NO_AGENT)
    show.status(answer, as_json=as_json)


@app.command()
def devices(config: Config = DEFAULT_PATH, as_json: Json = False) -> None:
    """List the devices with their last values.

    Example: `luciole-edge devices --json | jq '.[].device.id'`
    """
    from edge import answers, show  # noqa: PLC0415

    answer = _need(_settings(config), answers.Devices(), list[answers.DeviceAnswer])
    show.devices(answer, as_json=as_json)


@app.command()
def read(
    device: Annotated[str, typer.Argument(help="A device's id.")],
    points: Annotated[list[str] | None, typer.Argument(help="Its points; all of them by default.")] = None,
    config: Config = DEFAULT_PATH,
    as_json: Json = False,
) -> None:
    """Read a device now, on its line.

    Example: `luciole-edge read meter-1 active_power`
    """
    from edge import answers, show  # noqa: PLC0415
    from protocols.model.ids import DeviceId, PointName  # noqa: PLC0415

    request = answers.Read(DeviceId(device), tuple(PointName(point) for point in points or ()))
    answer = _need(_settings(config), request, list[answers.LatestValue])
    show.values(device, answer, as_json=as_json)
    if any(value.quality != 0 for value in answer):
        raise typer.Exit(exits.FAILED)


@app.command("set")
def set_point(
    device: Annotated[str, typer.Argument(help="A device's id.")],
    point: Annotated[str, typer.Argument(help="One of its writable points.")],
    value: Annotated[str, typer.Argument(help="A number, `on`, `off`, or `auto` to end an override.")],
    config: Config = DEFAULT_PATH,
    keep: Annotated[
        str, typer.Option("--for", help="How long a lamp keeps the level: 90s, 20m, 2h.", metavar="TIME")
    ] = "30m",
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires",
            help="Not to be begun any more after this time: 10s, or for a LoRaWAN device its line's write_timeout_s.",
            metavar="TIME",
        ),
    ] = None,
    ramp_s: Annotated[float, typer.Option("--ramp", help="Seconds to get there.", min=0, max=90)] = 0.0,
    as_json: Json = False,
) -> None:
    """Set a point and say what became of it. A lamp returns to its program by itself.

    A command to a LoRaWAN device waits until the device speaks; look it up with `luciole-edge commands`.

    Example: `luciole-edge set lamp-03 dimming_level 40 --for 20m`
    """
    from edge import show  # noqa: PLC0415
    from edge.asking import technician_command  # noqa: PLC0415
    from edge.state import CommandRecord  # noqa: PLC0415

    settings = _settings(config)
    try:
        command = technician_command(settings, device, point, value, (keep, expires, ramp_s))
    except ValueError as error:
        _fail(str(error), exits.WRONG)
    answer = _need(settings, command, CommandRecord)
    show.command(answer, as_json=as_json)
    raise typer.Exit(_how_it_ended(answer.state))


@app.command()
def commands(
    command_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="One command's id; all that have not ended by default.")
    ] = None,
    config: Config = DEFAULT_PATH,
    as_json: Json = False,
) -> None:
    """Say where commands are: one, or all that have not ended; also when no agent runs.

    Example: `luciole-edge commands cli-5f0c2a9d41b7e6c38a10`
    """
    from edge import answers, offline, show  # noqa: PLC0415
    from edge.state import CommandRecord  # noqa: PLC0415
    from protocols.model.ids import CommandId  # noqa: PLC0415

    settings = _settings(config)
    wanted = None if command_id is None else CommandId(command_id)
    found = _ask(settings, answers.Commands(wanted), list[CommandRecord])
    if found is None:
        found = _offline(settings, lambda held: offline.commands(held, wanted))
    if wanted is None:
        show.commands(found, as_json=as_json)
        return
    if not found:
        _fail(f"this cabinet has no command {wanted!r}, or has forgotten it", exits.WRONG)
    show.command(found[0], as_json=as_json)
    raise typer.Exit(_how_it_ended(found[0].state))


def _how_it_ended(state: "CommandState") -> int:
    if state.value in {"verified", "applied"}:
        return 0
    return exits.UNDER_WAY if state.value in {"queued", "executing"} else exits.FAILED


@app.command()
def watch(
    device: Annotated[str | None, typer.Argument(help="Only this device.")] = None,
    config: Config = DEFAULT_PATH,
    as_json: Json = False,
) -> None:
    """Show readings as they come, until Ctrl-C.

    Example: `luciole-edge watch lamp-03`
    """
    from edge import answers, asking, show  # noqa: PLC0415
    from protocols.model.ids import DeviceId  # noqa: PLC0415

    settings = _settings(config)
    try:
        for sample in asking.watch(settings.socket, answers.Watch(DeviceId(device) if device else None)):
            show.sample(sample, as_json=as_json)
    except asking.NoAgentError:
        _no_agent(settings)
    except asking.NotDoneError as error:
        _fail(str(error), exits.FAILED)
    except asking.RefusedError as error:
        _fail(str(error), exits.WRONG)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@app.command()
def buffer(
    config: Config = DEFAULT_PATH,
    limit: Annotated[int, typer.Option(help="How many batches to list.", min=1, max=10_000)] = 10,
    as_json: Json = False,
) -> None:
    """Show what waits for the centre; also when no agent runs.

    Example: `luciole-edge buffer --limit 50`
    """
    from edge import answers, offline, show  # noqa: PLC0415

    settings = _settings(config)
    answer = _ask(settings, answers.Buffer(limit), answers.BufferAnswer)
    if answer is None:
        answer = _offline(settings, lambda held: offline.buffer(held, limit))
    show.buffer(answer, as_json=as_json)


@app.command()
def discover(
    line: Annotated[str | None, typer.Argument(help="Only this line; all of them by default.")] = None,
    among: Annotated[
        str, typer.Option(help="The addresses to ask at, where a line numbers its devices: 1-32, 3,5,7.")
    ] = "*",
    as_toml: Annotated[
        bool, typer.Option("--toml", help="Print `[[device]]` tables for what nobody has declared yet.")
    ] = False,
    config: Config = DEFAULT_PATH,
    as_json: Json = False,
) -> None:
    """Search the lines for whatever is there, declared or not. Nothing is changed, polling goes on.

    Example: `luciole-edge discover rs485-1 --among 1-32`
    """
    from edge import searching, show  # noqa: PLC0415
    from protocols.model.ids import LineId  # noqa: PLC0415

    settings = _settings(config)
    try:
        numbers = searching.numbers(among)
    except ValueError as error:
        _fail(f"--among: {error}", exits.WRONG)
    known = [one.id for one in settings.document.line]
    if line is not None and line not in known:
        _fail(f"this cabinet has no line {line!r}; it has {', '.join(known)}", exits.WRONG)
    lines = known if line is None else [LineId(line)]
    found = searching.search(settings, lines, numbers, quiet=as_json)
    if found is None:
        _no_agent(settings)
    if as_toml:
        show.device_tables(found)
    else:
        show.found(found, as_json=as_json)
    if any(one.trouble for one in found):
        raise typer.Exit(exits.FAILED)


@app.command()
def join(
    device: Annotated[str, typer.Argument(help="A declared radio device's id.")],
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with its key, 32 hexadecimal digits; `-` for standard input. Asked for by default."
        ),
    ] = None,
    join_eui: Annotated[
        str | None, typer.Option(help="LoRaWAN: the JoinEUI it must name.", metavar="HEX")
    ] = None,
    wait: Annotated[str, typer.Option(help="How long to wait until it is heard.", metavar="TIME")] = "5m",
    look: Annotated[bool, typer.Option("--look", help="Only say where it is; change nothing.")] = False,
    config: Config = DEFAULT_PATH,
    as_json: Json = False,
) -> None:
    """Let a radio device in: give the agent its key, and wait until the device is heard.

    The key is never an argument, where every user of the machine could read it, and never shown again.

    Example: `luciole-edge join bin-17 --key-file bin-17.key`
    """
    from edge import joining, show  # noqa: PLC0415
    from edge.answers import JoinAnswer  # noqa: PLC0415
    from edge.asking import duration_s  # noqa: PLC0415

    settings = _settings(config)
    try:
        request = joining.request(device, None if look else joining.typed_key(key_file), join_eui)
        patience_s = 0.0 if look else duration_s(wait)
    except ValueError as error:
        _fail(str(error), exits.WRONG)
    answer = joining.wait_until_heard(lambda asked: _need(settings, asked, JoinAnswer), request, patience_s)
    show.joined(answer, as_json=as_json)
    if answer.admission.value not in {"heard", "joined"}:
        raise typer.Exit(exits.FAILED)


@app.command("opcua-certificate")
def opcua_certificate(config: Config = DEFAULT_PATH, as_json: Json = False) -> None:
    """Make the certificate by which OPC UA servers know this cabinet. One that is there is never overwritten.

    Example: `luciole-edge opcua-certificate`
    """
    from drivers.opcua_certificates import make_certificate  # noqa: PLC0415
    from edge import show  # noqa: PLC0415
    from edge.clock import SystemClock  # noqa: PLC0415
    from protocols.errors import LocalProtocolError  # noqa: PLC0415

    settings = _settings(config)
    try:
        made = make_certificate(settings.directory / "opcua", settings.cabinet, SystemClock().now())
    except (LocalProtocolError, OSError) as error:
        _fail(str(error), exits.FAILED)
    show.certificate(made, as_json=as_json)


@policy_app.command("show")
def policy_show(
    config: Config = DEFAULT_PATH,
    body: Annotated[bool, typer.Option("--body", help="Print the policies themselves.")] = False,
    as_json: Json = False,
) -> None:
    """Show the policies in force, and why the last one was rejected; also when no agent runs.

    Example: `luciole-edge policy show --body`
    """
    from edge import answers, offline, show  # noqa: PLC0415

    settings = _settings(config)
    answer = _ask(settings, answers.PolicyShow(), answers.PolicyAnswer)
    if answer is None:
        answer = _offline(settings, offline.policy)
    show.policy(answer, body=body, as_json=as_json)


@policy_app.command("apply")
def policy_apply(
    file: Annotated[Path, typer.Argument(help="As `luciole-central policy sign` writes it.")],
    config: Config = DEFAULT_PATH,
    as_json: Json = False,
) -> None:
    """Bring a signed policy by hand, when the backhaul is gone. It is judged as if it had come that way.

    Example: `luciole-edge policy apply lighting.signed.json`
    """
    from edge import answers, asking, show  # noqa: PLC0415

    settings = _settings(config)
    try:
        request = asking.read_signed(file)
    except ValueError as error:
        _fail(f"{file}: {error}", exits.WRONG)
    show.policy(_need(settings, request, answers.PolicyAnswer), body=False, as_json=as_json)


@priority_app.callback(invoke_without_command=True)
def priority(context: typer.Context, config: Config = DEFAULT_PATH, as_json: Json = False) -> None:
    """Show approaches, vehicles, requests with their states, and what was refused; also when no agent runs.

    Example: `luciole-edge priority --json | jq '.requests'`
    """
    if context.invoked_subcommand is not None:
        return
    from edge import answers, offline, show_priority  # noqa: PLC0415

    settings = _settings(config)
    answer = _ask(settings, answers.PriorityShow(), answers.PriorityAnswer)
    if answer is None:
        show_priority.everything(_offline(settings, offline.priority), as_json=as_json)
        raise typer.Exit(exits.NO_AGENT)
    show_priority.everything(answer, as_json=as_json)


@priority_app.command("request")
def priority_request(
    approach: Annotated[str, typer.Argument(help="An approach of the policy in force.")],
    config: Config = DEFAULT_PATH,
    shadow: Annotated[bool, typer.Option("--shadow", help="Only decide and log; ask nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Ask the controller for a green, to try a junction: under the same limits as a bus, and as audited.

    Example: `luciole-edge priority request foch-north`
    """
    from edge import answers, show_priority  # noqa: PLC0415
    from edge.asking import technician  # noqa: PLC0415
    from protocols.backhaul.messages import PriorityEvent  # noqa: PLC0415

    request = answers.PriorityWant(approach, technician(), shadow)
    event = _need(_settings(config), request, PriorityEvent)
    show_priority.outcome(event, as_json=as_json)
    if not show_priority.is_granted(event):
        raise typer.Exit(exits.FAILED)


def main() -> None:
    """Run the command line."""
    app(prog_name="luciole-edge")


def _settings(path: Path, *, as_json: bool = False) -> Settings:
    try:
        return load(path)
    except SettingsError as error:
        if as_json:
            from edge import show  # noqa: PLC0415

            show.faults(error)
        else:
            for fault in error.faults:
                typer.echo(str(fault), err=True)
            count = len(error.faults)
            typer.echo(f"{count} fault{'s' if count > 1 else ''}; nothing was started.", err=True)
        raise typer.Exit(exits.WRONG) from None


def _ask(settings: Settings, request: object, wanted: type[T]) -> T | None:
    """Ask the agent; None if none runs."""
    from edge import asking  # noqa: PLC0415

    try:
        return asking.ask(settings.socket, request, wanted)
    except asking.NoAgentError:
        return None
    except asking.NotDoneError as error:
        _fail(str(error), exits.FAILED)
    except asking.RefusedError as error:
        _fail(str(error), exits.WRONG)


def _need(settings: Settings, request: object, wanted: type[T]) -> T:
    answer = _ask(settings, request, wanted)
    if answer is None:
        _no_agent(settings)
    return answer


def _offline(settings: Settings, look: Callable[[Settings], T]) -> T:
    from edge import offline  # noqa: PLC0415

    typer.echo("No agent runs; this is what its files hold.", err=True)
    try:
        return look(settings)
    except offline.NothingHereError as error:
        _fail(str(error), exits.NO_AGENT)


def _no_agent(settings: Settings) -> NoReturn:
    _fail(
        f"no agent answers at {settings.socket}; start it with `luciole-edge run --config {settings.file}`",
        exits.NO_AGENT,
    )


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"luciole-edge: {message}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
