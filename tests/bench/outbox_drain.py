"""A backlog of a million readings drains, and what is read meanwhile is seen at the centre.

The backlog is written by the product's own store, an hour ago by its clock, as an outage leaves it. Then the agent
starts as it ships, polls a thousand readings a second, and drains over mosquitto into a `luciole-central serve` that
commits. A live reading is seen when the centre's API first shows it, or a later one of the same point, as its latest
value; when it was taken is what the centre's own history says of it in the end. Beside it stands the same of the
same agent once everything is drained.
"""

import statistics
import time
from bisect import bisect_left
from collections import defaultdict
from itertools import islice
from pathlib import Path

import msgspec

from tests.bench.outbox_cabinet import Cabinet
from tests.bench.outbox_centre import Centre
from tests.bench.outbox_taken import PER_BATCH, REGISTERS, EarlierClock, batches, open_store
from tests.bench.processes import wait_for_s, wait_until
from tests.bench.report import Figure, figure, not_measured

PER_COMMIT = 100
"""Batches: a backlog is made sooner than it came to be."""
AGO_S = 3_600.0
DEVICES = 50
LOOK_S = 0.25
GIVE_UP_S = 120.0
ORDINARY = "ordinary"
MISSING = "drain_missing"
LATENCY, LATENCY_GOAL = "live_latency_p95_s_during_drain", "<= 3"

Point = tuple[str, str]


class Watch:
    """What the centre shows, look by look: of each point the moments of its latest values and when they were seen."""

    def __init__(self, centre: Centre) -> None:
        self._centre = centre
        self.seen: dict[Point, list[tuple[int, int]]] = defaultdict(list)

    def look(self) -> None:
        """Look once."""
        shown = self._centre.latest()
        at_ms = round(time.time() * 1000)
        for one in shown:
            history = self.seen[one.device, one.point]
            taken_ms = round(one.time.timestamp() * 1000)
            if not history or taken_ms > history[-1][0]:
                history.append((taken_ms, at_ms))

    def look_for_s(self, seconds: float) -> None:
        """Look again and again."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self.look()
            wait_for_s(LOOK_S)

    def latencies_s(self, taken: dict[Point, list[int]]) -> list[float]:
        """Return for each reading how long it took until it, or a later one of its point, was seen.

        Raises:
            RuntimeError: if one never was.
        """
        found = []
        for point, moments in taken.items():
            history = self.seen[point]
            for taken_ms in moments:
                place = bisect_left(history, (taken_ms, 0))
                if place == len(history):
                    raise RuntimeError(f"the centre never showed what {point} was at {taken_ms}")
                found.append((history[place][1] - taken_ms) / 1000)
        return found


class Extent(msgspec.Struct, frozen=True):
    """How long all of it lasts, and how much there is.

    Attributes:
        readings: of the backlog; whole commits of ten thousand.
        after_s: how long it is looked at without one.
        settle_s: what may take its time before and after that.
    """

    readings: int = 1_000_000
    after_s: float = 10.0
    settle_s: float = 8.0


class Drain(msgspec.Struct, frozen=True):
    """What happened.

    Attributes:
        begun_ms: UTC milliseconds when the agent was started.
        ended_ms: when the last of the backlog was found committed, or patience ended.
        committed: readings of the backlog that were.
        bytes_each: of the backlog, for each reading.
        centre_s: CPU seconds of the centre.
        agent_s: the same of the agent.
    """

    begun_ms: int
    ended_ms: int
    committed: int
    bytes_each: float
    centre_s: float
    agent_s: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.ended_ms - self.begun_ms) / 1000


def figures(folder: Path, extent: Extent = Extent()) -> list[Figure]:  # noqa: B008  frozen
    """Let a backlog drain, and go on for a while without one."""
    folder.mkdir()
    cabinet = Cabinet(folder / "cabinet", DEVICES)
    centre = Centre(folder / "centre")
    try:
        return _figures(cabinet, centre, extent)
    finally:
        cabinet.stop()
        centre.stop()


def make_backlog(folder: Path, readings: int) -> float:
    """Fill an outbox as an outage leaves it; return its bytes for each reading."""
    clock = EarlierClock(AGO_S)
    store = open_store(folder, clock)
    source = batches(clock, DEVICES)
    for _ in range(readings // PER_BATCH // PER_COMMIT):
        store.commit(list(islice(source, PER_COMMIT)), ())
    per_reading = store.figures(0).bytes / readings
    store.end_run()
    return per_reading


def _figures(cabinet: Cabinet, centre: Centre, extent: Extent) -> list[Figure]:
    bytes_each = make_backlog(cabinet.directory, extent.readings)
    watch = Watch(centre)
    begun_ms, cpu_s = _now_ms(), centre.cpu_s()
    agent = cabinet.start(centre.broker_port)
    last = extent.readings // PER_BATCH
    committed = PER_BATCH * _drain(cabinet, centre, watch, begun_ms + round(GIVE_UP_S * 1000), last)
    drain = Drain(begun_ms, _now_ms(), committed, bytes_each, centre.cpu_s() - cpu_s, agent.cpu_s())
    watch.look_for_s(extent.settle_s + extent.after_s)
    after_ms = _now_ms()
    watch.look_for_s(extent.settle_s)
    cabinet.stop_agent()
    if drain.committed < extent.readings:
        why = f"the backlog was not drained within {GIVE_UP_S:.0f} s"
        return [
            _rate_figure(drain),
            not_measured(MISSING, "readings", "= 0", why),
            not_measured(LATENCY, "s", LATENCY_GOAL, why),
        ]
    live = watch.latencies_s(_taken(centre, drain.begun_ms, drain.ended_ms))
    later = watch.latencies_s(_taken(centre, after_ms - round(extent.after_s * 1000), after_ms))
    return [_rate_figure(drain), _missing_figure(centre, drain, extent), _latency_figure(live, later)]


def _drain(cabinet: Cabinet, centre: Centre, watch: Watch, until_ms: int, last: int) -> int:
    """Look until the backlog's last batch is committed, or patience ends; return which one is."""
    wait_until("the agent is welcomed", cabinet.is_connected)
    while (mark := min(last, centre.marks().get(ORDINARY, 0))) < last and _now_ms() < until_ms:
        watch.look()
        wait_for_s(LOOK_S)
    return mark


def _rate_figure(drain: Drain) -> Figure:
    committed = max(1, drain.committed)
    centre_us, agent_us = (seconds * 1e6 / committed for seconds in (drain.centre_s, drain.agent_s))
    beside = (
        f"{drain.committed} readings of {drain.bytes_each:.1f} B, from the agent's start to the last commit"
        f" {drain.seconds:.1f} s later; {DEVICES * REGISTERS} live ones a second besides; CPU for each:"
        f" {centre_us:.1f} µs of the centre, {agent_us:.1f} of the agent"
    )
    return figure("drain_readings_per_s", drain.committed / drain.seconds, "1/s", ">= 20000", beside)


def _missing_figure(centre: Centre, drain: Drain, extent: Extent) -> Figure:
    ((rows, different),) = centre.ask(
        "SELECT count(*), count(DISTINCT printf('%d/%d', batch_id, idx)) FROM reading WHERE utc_ms < ?",
        drain.begun_ms,
    )
    beside = f"{rows} rows at the centre, {different} different"
    return figure(MISSING, extent.readings - different, "readings", "= 0", beside)


def _latency_figure(live: list[float], later: list[float]) -> Figure:
    beside = (
        f"{len(live)} readings, median {statistics.median(live):.1f} s, until the API shows them or a later one of"
        f" their point; without a backlog {_p95(later):.1f} s of {len(later)}"
    )
    return figure(LATENCY, _p95(live), "s", LATENCY_GOAL, beside)


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def _taken(centre: Centre, from_ms: int, to_ms: int) -> dict[Point, list[int]]:
    """Return when each point was read between two moments, as the centre's history says."""
    taken: dict[Point, list[int]] = defaultdict(list)
    query = (
        "SELECT device, point, utc_ms FROM reading JOIN series ON id = series_id WHERE utc_ms BETWEEN ? AND ?"
    )
    for device, point, utc_ms in centre.ask(query, from_ms, to_ms):
        taken[device, point].append(utc_ms)
    return taken


def _now_ms() -> int:
    return round(time.time() * 1000)
