"""An agent without its backhaul, and an agent that is asked for four times what it can do: its memory, its books.

The agent as it ships, in a process, polls counting devices; between it and mosquitto stands a proxy that can be cut.
Memory is the kernel's account of the process: the largest resident size while something lasts, less the size before.
What was read is each register's own count, what arrived is what the centre's database has.
"""

from pathlib import Path

import msgspec

from protocols.backhaul.messages import GapCause
from protocols.model.device import StreamClass
from tests.bench.outbox_cabinet import Cabinet
from tests.bench.outbox_centre import Centre
from tests.bench.outbox_taken import REGISTERS
from tests.bench.processes import Process, Proxy, wait_for_s, wait_until
from tests.bench.report import Figure, figure

DEVICES = 50
POLLS_S = (0.05, 0.051, 0.052, 0.053)
"""Seconds between two readings of a register in the overload, as short as an agent's settings let it be; so different
that four requests bring what one could: what an agent can do is a matter of requests."""
TIMES = 4.0
BUSY = 0.5
"""Of the readings asked for, what an outage's end must find waiting, lest there was none."""


class Extent(msgspec.Struct, frozen=True):
    """How long all of it lasts, and how much is asked.

    Attributes:
        warm_up_s: after an agent was welcomed.
        standing_s: while its backhaul stands.
        outage_s: while it is cut.
        many: devices that together ask for more than any agent reads.
        at_ease_s: while these are asked once a second.
        overload_s: while all is asked of them: with the backhaul, without it, and with it again.
        max_mb: what may then wait for the centre: so little that an outage of seconds is one too many.
    """

    warm_up_s: float = 8.0
    standing_s: float = 10.0
    outage_s: float = 60.0
    many: int = 400
    at_ease_s: float = 8.0
    overload_s: tuple[float, float, float] = (6.0, 12.0, 6.0)
    max_mb: float = 0.5


class Cuttable(Proxy):
    """Passes connections on, and when it is cut ends them and lets none come up.

    Attributes:
        cut: whether it is.
    """

    def __init__(self, to_port: int) -> None:
        self.cut = False
        super().__init__(to_port)

    def seen(self, connection: int, piece: bytes, *, outward: bool) -> None:
        """Let nothing pass while it is cut."""
        del connection, piece, outward
        if self.cut:
            raise ConnectionAbortedError


def figures(folder: Path, extent: Extent = Extent()) -> list[Figure]:  # noqa: B008  frozen
    """Cut a backhaul, then ask for too much."""
    folder.mkdir()
    return [*_outage(folder / "outage", extent), *_overload(folder / "overload", extent)]


def growth_mb(agent: Process, seconds: float) -> float:
    """Return by how much an agent is larger at most within some time than before."""
    agent.forget_peak()
    before = agent.resident_mb()
    wait_for_s(seconds)
    return agent.peak_mb() - before


# --- an outage ---


def _outage(folder: Path, extent: Extent) -> list[Figure]:
    folder.mkdir()
    cabinet = Cabinet(folder / "cabinet", DEVICES)
    centre = Centre(folder / "centre")
    proxy = Cuttable(centre.broker_port)
    try:
        agent = cabinet.start(proxy.port)
        wait_until("the agent is welcomed", cabinet.is_connected)
        wait_for_s(extent.warm_up_s)
        standing = growth_mb(agent, extent.standing_s)
        proxy.cut = True
        growth = growth_mb(agent, extent.outage_s)
        waiting = cabinet.status().outbox.readings
        if waiting < BUSY * extent.outage_s * DEVICES * REGISTERS:
            raise RuntimeError(f"after an outage of {extent.outage_s:.0f} s only {waiting} readings wait")
        proxy.cut = False
        took = _empty(cabinet)
        cabinet.stop_agent()
        books = _books(cabinet, centre)
    finally:
        cabinet.stop()
        centre.stop()
    beside = (
        f"at {DEVICES * REGISTERS} readings/s; {waiting} waited, drained in {took:.1f} s; with its backhaul the same"
        f" agent grew by {standing:.1f} MB in {extent.standing_s:.0f} s"
    )
    return [
        figure("outage_rss_growth_mb", growth, "MB", "<= 8", beside),
        figure("outage_missing", books.read - books.different, "readings", "= 0", f"of {books.read} read"),
        figure("outage_duplicated", books.rows - books.different, "readings", "= 0", f"of {books.rows} rows"),
    ]


def _empty(cabinet: Cabinet) -> float:
    """Wait until hardly anything waits for the centre; return the seconds."""
    few = DEVICES * REGISTERS
    return wait_until("the outbox is empty", lambda: cabinet.status().outbox.readings < few, timeout_s=60.0)


# --- books ---


class Books(msgspec.Struct, frozen=True):
    """What became of readings.

    Attributes:
        read: by the registers' own count.
        rows: at the centre, with a value.
        different: of these.
        silent: rows without one: a register whose answer came too late has counted it all the same.
        shed: by stream, as the cabinet's reports at the centre say.
    """

    read: int
    rows: int
    different: int
    silent: int
    shed: dict[StreamClass, int]

    @property
    def unaccounted(self) -> int:
        """How many are neither at the centre nor reported as shed, or are there twice."""
        return abs(self.read - self.different - sum(self.shed.values())) + self.rows - self.different


def _books(cabinet: Cabinet, centre: Centre) -> Books:
    """Compare; each register's values differ from each other, for it counts its reads."""
    ((rows, different, silent),) = centre.ask(
        "SELECT sum(n), sum(d), sum(a - n) FROM (SELECT count(value) AS n, count(DISTINCT value) AS d, count(*) AS a"
        " FROM reading GROUP BY series_id)"
    )
    shed = centre.ask("SELECT stream, sum(count) FROM gap WHERE cause = ? GROUP BY stream", GapCause.SHED)
    by_stream = {StreamClass(stream): int(count or 0) for stream, count in shed}
    return Books(cabinet.devices.total(), rows, different, silent, by_stream)


# --- too much ---


def _class_of(number: int) -> str:
    """Return a device's class: of twenty, one is critical, ten are ordinary and nine are bulk."""
    return ("critical", *["ordinary"] * 10, *["bulk"] * 9)[number % 20]


def _overload(folder: Path, extent: Extent) -> list[Figure]:
    folder.mkdir()
    cabinet = Cabinet(folder / "cabinet", extent.many, _class_of)
    centre = Centre(folder / "centre")
    try:
        at_ease = _at_ease(cabinet, centre, extent)
        strained = _strained(cabinet, centre, extent)
        books = _books(cabinet, centre)
    finally:
        cabinet.stop()
        centre.stop()
    return _overload_figures(at_ease, strained, books, extent)


class AtEase(msgspec.Struct, frozen=True):
    """An agent that has little to do.

    Attributes:
        peak_mb: its largest resident size.
        read: what it read in all, by the registers' count.
    """

    peak_mb: float
    read: int


class Strained(msgspec.Struct, frozen=True):
    """An agent that has too much to do.

    Attributes:
        peak_mb: its largest resident size.
        asked: readings that were due from its start to its end.
        skipped: rounds of as many registers as a request brings that it says it left out, in readings.
        seconds: how long.
    """

    peak_mb: float
    asked: int
    skipped: int
    seconds: float


def _at_ease(cabinet: Cabinet, centre: Centre, extent: Extent) -> AtEase:
    agent = cabinet.start(centre.broker_port, max_mb=extent.max_mb)
    wait_until("the agent is welcomed", cabinet.is_connected)
    wait_for_s(extent.at_ease_s)
    peak_mb = agent.peak_mb()
    cabinet.stop_agent()
    return AtEase(peak_mb, cabinet.devices.total())


def _strained(cabinet: Cabinet, centre: Centre, extent: Extent) -> Strained:
    proxy = Cuttable(centre.broker_port)
    agent = cabinet.start(proxy.port, POLLS_S, extent.max_mb)
    wait_until("the agent is welcomed", cabinet.is_connected)
    for number, seconds in enumerate(extent.overload_s):
        proxy.cut = number % 2 == 1
        wait_for_s(seconds)
    status = cabinet.status()
    peak_mb = agent.peak_mb()
    cabinet.stop_agent()
    seconds = (status.now.utc_ms - status.started_ms) / 1000
    each = REGISTERS // len(POLLS_S)
    asked = round(sum(extent.many * each * seconds / poll_s for poll_s in POLLS_S))
    return Strained(peak_mb, asked, status.skipped * each, seconds)


def _overload_figures(at_ease: AtEase, strained: Strained, books: Books, extent: Extent) -> list[Figure]:
    read = books.read - at_ease.read
    shed = sum(books.shed.values())
    per_s = [count / strained.seconds for count in (strained.asked, read)]
    beside = (
        f"peak {strained.peak_mb:.1f} MB; of the same cabinet, asked for {extent.many * REGISTERS} readings/s:"
        f" {at_ease.peak_mb:.1f} MB"
    )
    shares = ", ".join(f"{count} {stream.name.lower()}" for stream, count in sorted(books.shed.items()))
    return [
        figure("overload_rss_growth_mb", strained.peak_mb - at_ease.peak_mb, "MB", "<= 16", beside),
        figure(
            "overload_asked_to_read",
            strained.asked / read,
            "ratio",
            f">= {TIMES:g}",
            f"{per_s[0]:.0f} readings/s asked for, {per_s[1]:.0f} read, by one agent on one core",
        ),
        figure("overload_asked", strained.asked, "readings", "", f"in {strained.seconds:.0f} s"),
        figure("overload_read", read, "readings", "", "the registers' own count"),
        figure("overload_skipped", strained.skipped, "readings", "", "not in time: the agent's count"),
        figure("overload_committed", books.different - at_ease.read, "readings", "", "rows at the centre"),
        figure("overload_shed", shed, "readings", ">= 1", f"the cabinet's reports at the centre: {shares}"),
        figure(
            "overload_shed_critical",
            books.shed.get(StreamClass.CRITICAL, 0),
            "readings",
            "= 0",
            "the lowest class gives way",
        ),
        figure(
            "shed_unaccounted",
            books.unaccounted,
            "readings",
            "= 0",
            f"read − committed − shed, and duplicates; {books.silent} rows without a value",
        ),
    ]
