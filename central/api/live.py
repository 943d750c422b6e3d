"""How the aggregator is, and what changes, as it changes."""

import sqlite3
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from litestar import Router, get
from litestar.params import QueryParameter
from litestar.response import Stream

from central.api.bodies import BrokerHealth, GapsHealth, Health, IngestHealth, StoreHealth, WorkerHealth
from central.api.paging import TheCentre
from central.api.problems import ASKING
from central.centre import Centre
from central.clock import moment
from central.effects import ChangeKind
from central.errors import Fault, RequestError, StoreError
from central.feed import Feed
from central.marks import Standing
from central.views import maybe_moment, rows
from protocols.clock import Instant


@get("/health", tags=["health"], responses=ASKING)
async def get_health(centre: TheCentre) -> Health:
    """Show how the aggregator is: its broker, its store, and what it took in since it started."""
    now = centre.clock.now()
    size, missing, workers = await centre.reader.ask(lambda db: (_size(centre.db), _gaps(db), _workers(db)))
    return Health(
        ok=centre.link.connected and not centre.writer.fault and centre.writer.alive(),
        version=version("luciole"),
        time=moment(now.utc_ms),
        civil_time=moment(centre.clock.civil().utc_ms),
        uptime_s=(now.monotonic_ms - centre.started_ms) / 1000,
        broker=_broker(centre),
        store=_store(centre, now, size),
        ingest=_ingest(centre),
        workers=workers,
        gaps=missing,
        watchers=centre.feed.count(),
        signing_key=None if centre.key is None else centre.key.id,
    )


@get("/events", tags=["events"], media_type="text/event-stream", response_headers=None, responses=ASKING)
async def get_events(
    centre: TheCentre,
    cabinet: Annotated[str | None, QueryParameter(max_length=63, description="only of this cabinet")] = None,
    kinds: Annotated[
        str | None,
        QueryParameter(
            max_length=200,
            description=f"only these, with commas between: {', '.join(ChangeKind)}",
        ),
    ] = None,
) -> Stream:
    """Follow changes as server-sent events; an event `lost` counts what a slow reader missed."""
    wanted = _kinds(kinds)
    if centre.feed.is_full():
        raise StoreError("too many watch already")
    return Stream(
        lambda: _follow(centre.feed, cabinet, wanted),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _follow(feed: Feed, cabinet: str | None, kinds: frozenset[ChangeKind]) -> AsyncIterator[bytes]:
    watcher = feed.join(cabinet, kinds)
    try:
        async for chunk in watcher.writes():
            yield chunk
    finally:
        feed.leave(watcher)


def _kinds(text: str | None) -> frozenset[ChangeKind]:
    if text is None:
        return frozenset(ChangeKind)
    try:
        return frozenset(ChangeKind(word.strip()) for word in text.split(","))
    except ValueError as error:
        known = ", ".join(kind.value for kind in ChangeKind)
        raise RequestError(
            400, "unknown kind of change", [Fault("kinds", f"{error}; known are {known}")]
        ) from error


def _size(db: Path) -> int:
    return sum(file.stat().st_size for file in (db, db.with_name(f"{db.name}-wal")) if file.exists())


def _broker(centre: Centre) -> BrokerHealth:
    return BrokerHealth(
        address=centre.broker,
        protocol=centre.protocol,
        connected=centre.link.connected,
        since=maybe_moment(centre.link.since_ms),
        connections=centre.link.connections,
        why=centre.link.why,
    )


def _store(centre: Centre, now: Instant, size: int) -> StoreHealth:
    jobs, waiting = centre.writer.depth()
    last = centre.writer.last_commit_ms
    return StoreHealth(
        path=str(centre.db),
        bytes=size,
        sqlite_version=sqlite3.sqlite_version,
        taking_writes=not centre.writer.fault and centre.writer.alive(),
        why=centre.writer.fault,
        queue_jobs=jobs,
        queue_bytes=waiting,
        commits=centre.writer.commits,
        last_commit_age_s=None if last is None else (now.monotonic_ms - last) / 1000,
    )


def _workers(db: sqlite3.Connection) -> list[WorkerHealth]:
    found = rows(
        db,
        "SELECT name, pid, (SELECT count(*) FROM shard_lease AS lease WHERE lease.owner = worker.name"
        " AND lease.run = worker.run) AS shards FROM ingest_worker AS worker ORDER BY name",
    )
    return [WorkerHealth(one["name"], one["pid"], one["shards"]) for one in found]


def _gaps(db: sqlite3.Connection) -> GapsHealth:
    found = rows(
        db,
        "SELECT cause, count(*) AS gaps, coalesce(sum(count), 0) AS readings, sum(count IS NULL) AS uncounted"
        " FROM gap GROUP BY cause ORDER BY cause",
    )
    return GapsHealth(
        gaps=sum(one["gaps"] for one in found),
        by_cause={one["cause"]: one["gaps"] for one in found},
        readings=sum(one["readings"] for one in found),
        uncounted=sum(one["uncounted"] for one in found),
    )


def _ingest(centre: Centre) -> IngestHealth:
    counts = centre.ingest.counts
    return IngestHealth(
        batches=centre.totals.batches,
        readings=centre.totals.readings,
        repeated=counts.standings[Standing.KNOWN],
        ahead=counts.standings[Standing.AHEAD],
        conflicting=counts.conflicting,
        contradictory=counts.contradictory,
        snapshots=counts.snapshots,
        ignored=counts.ignored,
        elsewhere=counts.elsewhere,
        refused=counts.refused(),
    )


router = Router("/", route_handlers=[get_health, get_events])
