"""A whole cabinet behind a way that fails: its street goes on, and the real centre has everything, once, in order."""

import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from protocols.backhaul.messages import GapEvent
from protocols.model.device import StreamClass
from sim.street_thread import StreetThread
from tests.central.live import Aggregator, aggregator
from tests.edge.bench import CABINET, WAIT_S
from tests.edge.broker import Broker
from tests.edge.centre_double import CentreDouble
from tests.edge.street import ARC, scenario, settings_text, write_settings
from tests.edge.whole import EDGE, Whole
from tests.faults.proxy import Direction, WayFault
from tests.faults.proxy_thread import ProxyThread

RSS_GROWTH_BYTES = 8 << 20


def lively(text: str) -> str:
    """Let a cabinet take more, in smaller batches, so that a backlog is soon there."""
    return text.replace("poll_s = 0.2", "poll_s = 0.05").replace("seal_s = 0.2", "seal_s = 0.1")


@contextmanager
def behind_a_proxy(folder: Path) -> Iterator[tuple[Whole, ProxyThread]]:
    """Set up a cabinet whose way to the broker can fail; the centre's double stands before the failing part."""
    with (
        StreetThread(scenario(lamps=4), folder) as street,
        Broker(folder) as broker,
        ProxyThread(broker.port) as proxy,
        CentreDouble(broker.port) as centre,
    ):
        text = lively(settings_text(folder, street.ports(), f"mqtt://127.0.0.1:{proxy.port}"))
        one = Whole(folder, street, broker, centre, text)
        try:
            yield one, proxy
        finally:
            one.kill()


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * 4096


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def test_with_the_way_stalled_control_goes_on_memory_is_flat_and_nothing_is_missing(tmp_path: Path) -> None:
    with behind_a_proxy(tmp_path) as (one, proxy):
        one.start()
        one.centre.wait(lambda: len(one.centre.numbers()) > 20, "readings")
        assert one.agent is not None
        before = rss_bytes(one.agent.pid)
        proxy.begin(WayFault.STALL)
        ran = one.cli("set", "lamp-00", "dimming_level", "20", "--for", "10m")
        assert ran.returncode == 0, ran.stderr
        street = one.street
        level = street.call(lambda: street.street.lines["dali-1"].gear[0].level(street.street.now_s()))
        assert level == ARC[20]
        for _ in range(round(WAIT_S / 0.1)):
            status = one.status()
            if status.outbox.batches > 30:
                break
            pause(0.1)
        assert status.outbox.batches > 30
        assert status.backhaul.in_flight <= 20
        assert rss_bytes(one.agent.pid) - before < RSS_GROWTH_BYTES
        proxy.end()
        taken = one.status().outbox.heads
        expected = next(head.next - 1 for head in taken if head.stream is StreamClass.ORDINARY)
        one.centre.wait(lambda: len(numbers(one.centre, StreamClass.ORDINARY)) >= expected, "the backlog")
        assert one.stop() == 0
        assert one.waiting() == 0
        for stream in StreamClass:
            found = numbers(one.centre, stream)
            assert found == list(range(1, len(found) + 1))
        assert one.centre.events(GapEvent) == []


def numbers(centre: CentreDouble, stream: StreamClass) -> list[int]:
    return [batch.number for batch in centre.batches if batch.stream is stream]


@contextmanager
def before_the_real_centre(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], ProxyThread, Aggregator]]:
    """Run an agent and an aggregator, with a proxy between the agent and their broker."""
    with (
        StreetThread(scenario(lamps=4), folder) as street,
        Broker(folder) as broker,
        ProxyThread(broker.port, seed=4) as proxy,
        aggregator(folder, broker.url) as central,
    ):
        text = lively(settings_text(folder, street.ports(), f"mqtt://127.0.0.1:{proxy.port}"))
        settings = write_settings(folder, text)
        with (folder / "agent.log").open("ab") as log:
            agent = subprocess.Popen([*EDGE, "run", "-c", str(settings)], stderr=log)
        try:
            central.wait(lambda: committed(central) > 20)
            yield agent, proxy, central
        finally:
            agent.kill()
            agent.wait(WAIT_S)


def committed(central: Aggregator) -> int:
    return int(str(central.health()["ingest"]["readings"]))


def assert_both_ends_count_the_same(folder: Path, central: Aggregator) -> None:
    """Compare the files of a cabinet that has ended with the centre's."""
    with closing(sqlite3.connect(folder / "state" / "outbox.db")) as outbox:
        ((taken, waiting),) = outbox.execute("SELECT sum(taken), (SELECT count(*) FROM batch) FROM stream")
        sealed = outbox.execute("SELECT stream, next - 1 FROM stream ORDER BY stream").fetchall()
    with closing(sqlite3.connect(central.db)) as store:
        ((kept,),) = store.execute("SELECT count(*) FROM reading")
        last = store.execute(
            "SELECT stream, max(number) FROM stream LEFT JOIN batch ON stream_id = stream.id GROUP BY stream"
        ).fetchall()
        batches = store.execute(
            "SELECT stream, count(*) FROM stream JOIN batch ON stream_id = stream.id GROUP BY 1"
        )
        assert dict(batches.fetchall()) == {stream: number for stream, number in last if number}
        assert store.execute("SELECT cause FROM gap").fetchall() == []
    assert (waiting, kept) == (0, taken)
    assert [(stream, number or 0) for stream, number in last] == sealed
    health = central.health()["ingest"]
    assert (health["refused"], health["conflicting"]) == ({}, 0)


def test_the_real_centre_shows_the_present_beside_a_backlog_and_has_everything_whatever_the_way_did(
    tmp_path: Path,
) -> None:
    with before_the_real_centre(tmp_path) as (agent, proxy, central):
        # acknowledgements are heard so late that a window carries less than is taken: the backlog only grows
        proxy.begin(WayFault.DELAY, Direction.BACK, delay_s=3.0)
        central.wait(lambda: any(latest(central).values()))
        assert int(str(central.health()["ingest"]["snapshots"])) >= 1
        for fault, directions, for_s in (
            (WayFault.CUT, (Direction.OUT,), 1.0),
            (WayFault.STALL, (), 0.5),
            (WayFault.CUT, (Direction.BACK,), 1.0),
            (WayFault.DROP, (Direction.BACK,), 0.5),
            (WayFault.REFUSE, (), 0.3),
        ):
            proxy.begin(fault, *directions)
            pause(for_s)
        before = committed(central)
        proxy.end()
        central.wait(lambda: committed(central) > before)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(WAIT_S) == 0
        assert_both_ends_count_the_same(tmp_path, central)


def latest(central: Aggregator) -> dict[tuple[str, str], bool]:
    """Return for each point whether what is shown of it is only told."""
    found = central.http.get(f"/api/v1/cabinets/{CABINET}/latest").json()["items"]
    return {(one["device"], one["point"]): one["snapshot"] for one in found}
