"""What a running aggregator says of itself, for a terminal."""

import http.client
from datetime import datetime, timedelta
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from rich.console import Console
from rich.table import Table

from central.api.bodies import CabinetSummary, Contact, GapsHealth, Health, Page
from central.errors import StartError

TIMEOUT_S = 5.0
ENDS_SOON = timedelta(days=2)
T = TypeVar("T")
_COLOURS = {Contact.CONNECTED: "green", Contact.SILENT: "yellow", Contact.OFFLINE: "red"}


class Status(msgspec.Struct, frozen=True):
    """All of it."""

    health: Health
    cabinets: list[CabinetSummary]


def ask(api: str) -> Status:
    """Ask a running aggregator how it is.

    Raises:
        StartError: if none answers there.
    """
    health = _get(api, "/api/v1/health", Health)
    cabinets: list[CabinetSummary] = []
    cursor: str | None = ""
    while cursor is not None:
        more = f"&cursor={cursor}" if cursor else ""
        page = _get(api, f"/api/v1/cabinets?limit=1000{more}", Page[CabinetSummary])
        cabinets += page.items
        cursor = page.next
    return Status(health, cabinets)


def _get(api: str, path: str, shape: type[T]) -> T:
    parts = urlsplit(api if "//" in api else f"//{api}")
    if parts.scheme not in {"", "http", "https"} or not parts.hostname:
        raise StartError(f"--api: {api!r} is no address; expected http://host:port")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(parts.hostname, parts.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", path, headers={"Accept": "application/json"})
            return msgspec.json.decode(connection.getresponse().read(), type=shape)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        raise StartError(f"{api}: no aggregator answers there ({error}); is 'serve' running?") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise StartError(f"{api}: something else answers there: {error}") from error


def show(status: Status, console: Console) -> None:
    """Print it for a person."""
    health = status.health
    broker = "connected" if health.broker.connected else f"not connected: {health.broker.why}"
    store = "takes writes" if health.store.taking_writes else f"takes no writes: {health.store.why}"
    console.print(
        f"Luciole {health.version}, up {health.uptime_s:.0f} s, {'well' if health.ok else 'NOT WELL'}"
    )
    console.print(f"broker  {health.broker.address} ({broker})")
    console.print(f"store   {health.store.path} ({store}, {health.store.queue_jobs} waiting)")
    console.print(f"ingest  {health.ingest.readings} readings in {health.ingest.batches} batches")
    if len(health.workers) > 1:
        shares = ", ".join(f"{one.name} {one.shards}" for one in health.workers)
        console.print(f"shards  {shares}")
    if health.ingest.contradictory:
        console.print(f"        {health.ingest.contradictory} priority requests contradict themselves")
    for reason, count in health.ingest.refused.items():
        console.print(f"        {count} refused: {reason}")
    console.print(f"missing {_missing(health.gaps)}")
    table = Table("cabinet", "contact", "last heard", "devices", "alarms", "gaps", "priority until", "agent")
    for cabinet in status.cabinets:
        colour = _COLOURS[cabinet.contact]
        table.add_row(
            cabinet.id,
            f"[{colour}]{cabinet.contact.value}[/]",
            "never" if cabinet.age_s is None else f"{cabinet.age_s:.0f} s ago",
            str(cabinet.devices),
            str(cabinet.active_alarms),
            _gaps(cabinet),
            _lease(cabinet.priority_until, health.time),
            cabinet.agent_version,
        )
    console.print(table)


def _missing(known: GapsHealth) -> str:
    if not known.gaps:
        return "nothing that is known of"
    causes = ", ".join(f"{count} {cause}" for cause, count in known.by_cause.items())
    uncounted = f", and what nobody could count in {known.uncounted}" if known.uncounted else ""
    return f"{known.readings} readings in {known.gaps} gaps ({causes}){uncounted}"


def _gaps(cabinet: CabinetSummary) -> str:
    if cabinet.last_gap is None:
        return ""
    return f"{cabinet.gaps}, last {cabinet.last_gap:%Y-%m-%d %H:%M} UTC"


def _lease(until: datetime | None, now: datetime) -> str:
    if until is None:
        return ""
    text = f"{until:%Y-%m-%d %H:%M} UTC"
    if until <= now:
        return f"[red]over since {text}[/]"
    return f"[yellow]{text}[/]" if until - now < ENDS_SOON else text
