"""The operator's command line: `luciole-central`."""

import asyncio
import logging
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import structlog
import typer
from rich.console import Console

from central import broker as broker_process
from central import envelopes
from central.clock import SystemClock
from central.config import (
    DEFAULT_BROKER,
    DEFAULT_LISTEN,
    Faults,
    Protocol,
    Tls,
    read_address,
    read_broker,
    read_embedded,
    read_listen,
)
from central.errors import StartError, StoreError
from central.shards import SERVING
from protocols.clock import BenchTime
from protocols.model.ids import ID_RULE, is_id
from protocols.model.policy import PolicyKind
from protocols.strict import read

DEFAULT_DB = Path("var/central.db")
DEFAULT_KEYS = Path("var/keys")
EXIT_FAILED = 1
EXIT_FAULT = 2

app = typer.Typer(
    help="The Luciole aggregator: keeps what the cabinets send, and tells them what the city wants.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
key_app = typer.Typer(help="Keys that policies are signed with.", no_args_is_help=True)
policy_app = typer.Typer(help="Policies that are signed away from the server.", no_args_is_help=True)
app.add_typer(key_app, name="key")
app.add_typer(policy_app, name="policy")

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure", help="Allow addresses that others can reach, although nobody is asked who they are."
    ),
]


@app.command()
def serve(
    *,
    db: Annotated[Path, typer.Option(help="The database.")] = DEFAULT_DB,
    listen: Annotated[
        str, typer.Option(help="Where the API listens; port 0 is any free one.")
    ] = DEFAULT_LISTEN,
    broker: Annotated[
        str | None,
        typer.Option(help="mqtt://host:port or mqtts://host:port; without it, the embedded broker is used."),
    ] = None,
    embedded: Annotated[
        str, typer.Option(help="Where the embedded broker is, or is started if it is not there.")
    ] = DEFAULT_BROKER,
    mqtt: Annotated[
        Protocol | None, typer.Option(help="MQTT version; 5 unless the broker is embedded.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificates of the broker's authorities.")] = None,
    cert: Annotated[Path | None, typer.Option(help="Our certificate.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="Our certificate's private key.")] = None,
    signing_key: Annotated[Path | None, typer.Option(help="What policies are signed with.")] = None,
    bench_time: Annotated[
        Path | None,
        typer.Option(help="A bench's civil time, JSON: origin_monotonic_ms, start_utc_ms, speed, unhurried."),
    ] = None,
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Be the aggregator, until SIGTERM or Ctrl-C.

    Example: luciole-central serve --db central.db --signing-key keys/city-2026.pem
    """
    # Imported here: the other commands start at once, without a web server.
    from central.app import Ready, Settings, run  # noqa: PLC0415
    from central.keys import load  # noqa: PLC0415

    faults = Faults()
    listen_at = read_listen(listen, insecure=insecure, faults=faults)
    tls = Tls(ca, cert, key_file)
    if broker is None:
        broker_at = read_embedded(embedded, mqtt, tls, faults=faults)
    else:
        broker_at = read_broker(broker, mqtt, tls, insecure=insecure, faults=faults)
    key = bench = None
    with faults.collected():
        key = load(signing_key) if signing_key else None
    with faults.collected():
        bench = _read_bench_time(bench_time) if bench_time else None
    with faults.collected():
        _make_folder(db)
    if listen_at is None or broker_at is None or faults.found:
        _give_up(faults.found)

    def announce(ready: Ready) -> None:
        text = f"API {ready.api}  broker {ready.broker}  database {ready.db}  pid {ready.pid}"
        _say(msgspec.json.encode(ready).decode() if json else text)

    _run(run(Settings(db, listen_at, broker_at, key, bench), announce))


@app.command()
def ingest(
    *,
    db: Annotated[Path, typer.Option(help="The database, which an aggregator serves.")] = DEFAULT_DB,
    name: Annotated[
        str, typer.Option(help="Of this worker: the same at each start, and no other worker's.")
    ] = "worker-1",
    broker: Annotated[
        str | None, typer.Option(help="mqtt://host:port or mqtts://host:port, the aggregator's.")
    ] = None,
    embedded: Annotated[str, typer.Option(help="Where the embedded broker is.")] = DEFAULT_BROKER,
    mqtt: Annotated[
        Protocol | None, typer.Option(help="MQTT version; 5 unless the broker is embedded.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificates of the broker's authorities.")] = None,
    cert: Annotated[Path | None, typer.Option(help="Our certificate.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="Our certificate's private key.")] = None,
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Take in what cabinets send, beside an aggregator on the same database, until SIGTERM or Ctrl-C.

    Example: luciole-central ingest --db central.db --broker mqtts://broker.example:8883 --name worker-1
    """
    from central.worker import WorkerReady, WorkerSettings, run  # noqa: PLC0415  as in `serve`

    faults = Faults()
    tls = Tls(ca, cert, key_file)
    if broker is None:
        broker_at = read_embedded(embedded, mqtt, tls, faults=faults)
    else:
        broker_at = read_broker(broker, mqtt, tls, insecure=insecure, faults=faults)
    if not is_id(name) or name == SERVING:
        faults.add("--name", f"{name!r}: expected {ID_RULE}, and not {SERVING!r}, which the aggregator has")
    if broker_at is None or faults.found:
        _give_up(faults.found)

    def announce(ready: WorkerReady) -> None:
        text = f"worker {ready.name}  broker {ready.broker}  database {ready.db}  pid {ready.pid}"
        _say(msgspec.json.encode(ready).decode() if json else text)

    _run(run(WorkerSettings(db, broker_at, name), announce))


@app.command()
def broker(
    *, listen: Annotated[str, typer.Option(help="Where to listen; loopback only.")] = DEFAULT_BROKER
) -> None:
    """Be the embedded broker, until SIGTERM or Ctrl-C: for a demonstration, on loopback.

    Example: luciole-central broker --listen 127.0.0.1:1883
    """
    faults = Faults()
    address = read_address(listen, "--listen", faults)
    if address is not None and not address.is_loopback():
        faults.add("--listen", "the embedded broker takes nobody from the network; use mosquitto for that")
    if address is None or faults.found:
        _give_up(faults.found)
    _run(broker_process.serve(address))


@key_app.command("init")
def key_init(
    *,
    out: Annotated[Path, typer.Option(help="Folder to keep the key in.")] = DEFAULT_KEYS,
    name: Annotated[str, typer.Option(help="The key's name, by which cabinets know it.")] = "centre",
) -> None:
    """Make a signing key, and print what makes a cabinet trust it.

    Example: luciole-central key init --out keys --name city-2026
    """
    from central.keys import load, make, snippet  # noqa: PLC0415

    try:
        path = make(out, name)
        key = load(path)
    except StartError as fault:
        _give_up([str(fault)])
    Console(stderr=True).print(f"{path}: keep it secret. Into each cabinet's settings:", soft_wrap=True)
    _say(snippet(key).rstrip("\n"))


@policy_app.command("sign")
def policy_sign(
    file: Annotated[Path, typer.Argument(help="The policy: JSON, or TOML if it ends so.")],
    *,
    key: Annotated[Path, typer.Option(help="The private key to sign with.")],
    valid_days: Annotated[
        float, typer.Option(min=0.001, max=3_660, help="How long it may be accepted.")
    ] = 7.0,
    lease_days: Annotated[
        float, typer.Option(min=0.001, max=31, help="How long priority rules hold, unless the file says.")
    ] = envelopes.DEFAULT_LEASE_DAYS,
    out: Annotated[Path | None, typer.Option(help="File to write; standard output unless told.")] = None,
) -> None:
    """Check a policy, sign it, and write the envelope that POST /api/v1/cabinets/…/policies takes.

    Example: luciole-central policy sign lighting.json --key keys/city-2026.pem --out lighting.signed.json
    """
    from central.keys import load  # noqa: PLC0415

    try:
        now_ms = SystemClock().now().utc_ms
        document = envelopes.read_document(file)
        signed = envelopes.sign_document(document, load(key), now_ms, valid_days, lease_days)
        if isinstance(signed, list):
            _give_up([f"{file}: {fault}" for fault in signed])
        text = msgspec.json.encode(signed).decode()
        _say(text) if out is None else out.write_text(f"{text}\n", encoding="utf-8")
    except StartError as fault:
        _give_up([str(fault)])
    except OSError as error:
        _give_up([f"{out}: cannot be written: {error.strerror}"])


@policy_app.command("example")
def policy_example(
    *, kind: Annotated[PolicyKind, typer.Option(help="Of which kind.")] = PolicyKind.LIGHTING
) -> None:
    """Print a policy to begin with.

    Example: luciole-central policy example --kind priority > priority.json
    """
    _say(msgspec.json.format(msgspec.json.encode(envelopes.EXAMPLES[kind]), indent=2).decode())


@app.command()
def status(
    *,
    api: Annotated[str, typer.Option(help="Where the aggregator's API is.")] = f"http://{DEFAULT_LISTEN}",
    json: Json = False,
) -> None:
    """Ask a running aggregator how it is, and how its cabinets are.

    Example: luciole-central status --api http://127.0.0.1:8080
    """
    from central.status import ask, show  # noqa: PLC0415

    try:
        answer = ask(api)
    except StartError as fault:
        _give_up([str(fault)])
    if json:
        _say(msgspec.json.encode(answer).decode())
    else:
        show(answer, Console())


def _read_bench_time(path: Path) -> BenchTime:
    bench = read(envelopes.read_document(path), BenchTime)
    if isinstance(bench, list):
        raise StartError("; ".join(f"{path}: {fault}" for fault in bench))
    return bench


def _make_folder(db: Path) -> None:
    try:
        db.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"--db {db}: its folder cannot be made: {error.strerror}") from error


def _run(work: Coroutine[object, object, None]) -> None:
    _log_to_stderr()
    try:
        asyncio.run(work)
    except StartError as fault:
        _give_up([str(fault)])
    except StoreError as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(EXIT_FAILED) from error


def _log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _give_up(faults: Sequence[str]) -> NoReturn:
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    raise typer.Exit(EXIT_FAULT)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
