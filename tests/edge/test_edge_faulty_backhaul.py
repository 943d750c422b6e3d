"""Delivery over a way that fails as mobile networks do: late perhaps, but all, once, in order, in flat memory."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge import backhaul, mqtt, present
from edge.config import BackhaulSettings
from edge.mqtt import MqttLink, Will
from edge.outbox import outbox as outbox_module
from edge.window import WINDOW
from protocols.backhaul.codec import samples
from tests.edge.bench import WAIT_S, until
from tests.edge.broker import Broker
from tests.edge.centre_double import CentreDouble
from tests.edge.delivering import Cabinet, cabinet, has, hears
from tests.faults.proxy import Direction, FaultyProxy, WayFault

OUT, BACK = Direction.OUT, Direction.BACK
BESIDES = 4
"""What is owed by the broker besides batches: presence and hello, of this connection and of its repetition."""

FAULTS = [
    (WayFault.REFUSE, ()),
    (WayFault.STALL, (OUT, BACK)),
    (WayFault.STALL, (OUT,)),
    (WayFault.STALL, (BACK,)),
    (WayFault.DELAY, (OUT, BACK)),
    (WayFault.DROP, (OUT, BACK)),
    (WayFault.DROP, (OUT,)),
    (WayFault.DROP, (BACK,)),
    (WayFault.CUT, (OUT,)),
    (WayFault.CUT, (BACK,)),
    (WayFault.HALF_OPEN, (OUT,)),
    (WayFault.HALF_OPEN, (BACK,)),
]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as running:
        yield running


@pytest.fixture
def centre(broker: Broker) -> Iterator[CentreDouble]:
    with CentreDouble(broker.port) as double:
        yield double


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "BACKOFF_S", 0.05)
    monkeypatch.setattr(mqtt, "BACKOFF_BOUND_S", 0.2)
    monkeypatch.setattr(mqtt, "CONNECT_TIMEOUT_S", 0.5)
    monkeypatch.setattr(mqtt, "LOOK_S", 0.05)
    monkeypatch.setattr(mqtt, "OWES_S", 0.2)
    monkeypatch.setattr(outbox_module, "ACK_WAIT_S", 0.05)
    monkeypatch.setattr(backhaul, "HELLO_EVERY_S", 0.2)
    monkeypatch.setattr(backhaul, "HELLO_BOUND_S", 0.5)
    monkeypatch.setattr(present, "EVERY_S", 0.05)


class Held:
    """The most that a cabinet held in memory on its way to the centre, looked at all the time."""

    def __init__(self, one: Cabinet) -> None:
        self.ready = self.in_paho = self.in_flight = 0
        self.unwritten = 0
        self.turns = 0
        self._one = one

    async def look(self) -> None:
        while True:
            client = self._one.link._client
            ways = self._one.backhaul._window.ways.values()
            self.ready = max(self.ready, *(len(way.ready) for way in ways))
            self.in_flight = max(self.in_flight, sum(way.in_flight for way in ways))
            self.in_paho = max(self.in_paho, len(client._out_messages))
            self.unwritten = max(self.unwritten, len(client._out_packet))
            self.turns += 1
            await later(0.002)


@asynccontextmanager
async def looked_at(one: Cabinet) -> AsyncIterator[Held]:
    held = Held(one)
    looking = asyncio.create_task(held.look())
    try:
        yield held
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    assert held.ready <= WINDOW
    assert held.in_flight <= WINDOW
    assert held.in_paho <= WINDOW + BESIDES
    assert held.unwritten <= WINDOW + 2 * BESIDES


async def later(seconds: float) -> None:
    """Wait for a moment that somebody else is given."""
    loop = asyncio.get_running_loop()
    turn = loop.create_future()
    timer = loop.call_later(seconds, turn.set_result, None)
    try:
        await turn
    finally:
        timer.cancel()


@pytest.mark.parametrize(("fault", "directions"), FAULTS, ids=str)
async def test_everything_arrives_once_and_in_order_after_any_fault(
    tmp_path: Path, broker: Broker, centre: CentreDouble, fault: WayFault, directions: tuple[Direction, ...]
) -> None:
    async with (
        FaultyProxy(broker.port, seed=4) as proxy,
        cabinet(tmp_path, f"mqtt://127.0.0.1:{proxy.port}", silence_s=0.4, keepalive_s=1) as one,
        looked_at(one),
    ):
        one.take(*range(50))
        await has(centre, list(range(50)))
        await proxy.begin(fault, *directions, delay_s=0.15, jitter_s=0.1, after_bytes=None)
        one.take(*range(50, 300))
        await until(lambda: one.store.committed_readings == 300, "the outbox takes what it is given")
        await later(0.5)
        one.take(*range(300, 600))
        await until(lambda: one.store.committed_readings == 600, "the outbox takes what it is given")
        await proxy.end()
        await has(centre, list(range(600)))
        await one.empty()
    assert [batch.number for batch in centre.batches] == list(range(1, 601))


async def test_many_faults_one_after_another_cost_nothing(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    async with (
        FaultyProxy(broker.port, seed=5) as proxy,
        cabinet(tmp_path, f"mqtt://127.0.0.1:{proxy.port}", silence_s=0.4, keepalive_s=1) as one,
        looked_at(one),
    ):
        taken = 0
        for fault, directions in FAULTS:
            await proxy.begin(fault, *directions, delay_s=0.05, jitter_s=0.1, after_bytes=None)
            one.take(*range(taken, taken + 60))
            taken += 60
            await later(0.15)
        await proxy.end()
        await has(centre, list(range(taken)))
        await one.empty()


async def test_half_open_is_noticed_though_no_error_ever_comes(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    async with (
        FaultyProxy(broker.port) as proxy,
        cabinet(tmp_path, f"mqtt://127.0.0.1:{proxy.port}", silence_s=0.4, keepalive_s=1) as one,
        looked_at(one),
    ):
        await until(lambda: one.backhaul.figures().welcomed, "the centre's word")
        await proxy.begin(WayFault.HALF_OPEN)
        one.take(*range(100))
        await until(lambda: not one.link.up, "it is noticed")
        assert one.backhaul.figures().rewinds == 0  # nothing was sent twice into the void
        await proxy.end()
        await has(centre, list(range(100)))


async def test_what_is_stuck_on_the_way_is_not_sent_a_second_time(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    """The centre's silence counts from when it can have heard something."""
    async with (
        FaultyProxy(broker.port) as proxy,
        cabinet(tmp_path, f"mqtt://127.0.0.1:{proxy.port}", silence_s=0.5) as one,
    ):
        await until(lambda: one.backhaul.figures().welcomed, "the centre's word")
        await proxy.begin(WayFault.STALL)
        one.take(*range(100))
        await later(1.2)
        assert one.link.stuck
        figures = one.backhaul.figures()
        assert (figures.in_flight, figures.rewinds) == (WINDOW, 0)
        await proxy.end()
        await has(centre, list(range(100)))
        assert one.backhaul.figures().rewinds == 0
    assert centre.repeated == 0
    assert centre.heard.count("hello") == 1


async def test_no_hello_is_piled_upon_a_way_that_is_stuck(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    centre.silent = True
    async with (
        FaultyProxy(broker.port) as proxy,
        cabinet(tmp_path, f"mqtt://127.0.0.1:{proxy.port}") as one,
    ):
        await hears(centre, "hello")
        await proxy.begin(WayFault.STALL)
        for number in range(100):  # each wakes who would say it
            one.take(number)
            await later(0.02)
        assert len(one.link._client._out_messages) <= 2
        await proxy.end()
        centre.silent = False
        await has(centre, list(range(100)))


async def test_an_unanswered_hello_is_said_ever_less_often(
    tmp_path: Path, broker: Broker, centre: CentreDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of 20, 40, 80 ms and so on at the least: seven in a second and a half, and seventy if it did not grow."""
    monkeypatch.setattr(backhaul, "HELLO_EVERY_S", 0.02)
    monkeypatch.setattr(backhaul, "HELLO_BOUND_S", 60.0)
    centre.silent = True
    async with cabinet(tmp_path, broker.url) as one:
        await hears(centre, "hello")
        for number in range(75):  # each wakes who would say it
            one.take(number)
            await later(0.02)
        assert 3 <= centre.heard.count("hello") <= 14
        centre.silent = False
        centre.acknowledge(one.store.epoch)
        await has(centre, list(range(75)))


async def test_the_present_is_told_while_a_backlog_waits_and_only_then(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    async with (
        FaultyProxy(broker.port) as proxy,
        cabinet(tmp_path, f"mqtt://127.0.0.1:{proxy.port}") as one,
    ):
        await until(lambda: one.backhaul.figures().welcomed, "the centre's word")
        one.take(*range(10))
        await has(centre, list(range(10)))
        assert centre.snapshots == []
        centre.silent = True
        one.take(*range(10, 100))
        await hears(centre, "now")
        for number in range(100, 103):
            one.take(number)
            await told(centre, number)
        assert len(centre.snapshots) >= 3
        assert one.backhaul.figures().snapshots >= 3
        before = len(centre.snapshots)
        await later(0.3)
        assert len(centre.snapshots) == before  # nothing has changed
        centre.silent = False
        await proxy.begin(WayFault.REFUSE)
        await proxy.end()
        await has(centre, list(range(103)))
        await one.empty()
        before = len(centre.snapshots)
        for number in range(103, 110):
            await later(1.2 * present.EVERY_S)  # one would be due
            one.take(number)
            await has(centre, list(range(number + 1)))
        assert len(centre.snapshots) == before
    assert {one.boot for one in centre.snapshots} == {"boot-1"}


async def told(centre: CentreDouble, number: int) -> None:
    def holds() -> bool:
        return [value for one in samples(centre.snapshots[-1]) for value in one.values][-1] == number

    await asyncio.to_thread(centre.wait, holds, "the newest")


async def test_the_present_is_dropped_where_the_way_is_busy(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    async with (
        FaultyProxy(broker.port) as proxy,
        cabinet(tmp_path, f"mqtt://127.0.0.1:{proxy.port}") as one,
        looked_at(one),
    ):
        await until(lambda: one.backhaul.figures().welcomed, "the centre's word")
        await proxy.begin(WayFault.STALL)
        one.take(*range(100))
        await until(lambda: one.link.stuck, "the way is stuck")
        sent = one.backhaul.figures().snapshots
        for number in range(100, 104):
            before = one.backhaul.figures().snapshots_dropped
            await later(0.05)
            one.take(number)
            await until(lambda n=before: one.backhaul.figures().snapshots_dropped > n, "it is dropped")  # type: ignore[misc]  # a lambda with a default
        assert one.backhaul.figures().snapshots == sent
        await proxy.end()
        await has(centre, list(range(104)))


class OddBroker:
    """A broker that does what no broker should: `answer` is called with each packet and its connection."""

    def __init__(self, answer: Callable[[int, asyncio.StreamWriter], None]) -> None:
        self.connections = 0
        self._answer = answer

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"mqtt://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                (kind,) = await reader.readexactly(1)
                length, shift, more = 0, 0, 0x80
                while more & 0x80:
                    (more,) = await reader.readexactly(1)
                    length |= (more & 0x7F) << shift
                    shift += 7
                await reader.readexactly(length)
                self._answer(kind >> 4, writer)
        writer.close()


CONNECT, PINGREQ = 1, 12
CONNACK, PINGRESP = bytes([0x20, 3, 0, 0, 0]), bytes([0xD0, 0])


async def test_a_broker_that_accepts_and_never_answers_does_not_hang_the_agent(tmp_path: Path) -> None:
    odd = OddBroker(lambda _kind, _writer: None)
    async with odd as url, cabinet(tmp_path, url) as one, looked_at(one) as held:
        one.take(*range(100))
        await until(lambda: odd.connections >= 3, "it is tried again")
        assert one.backhaul.figures().reason == "the broker did not answer"
        await until(lambda: one.store.committed_readings == 100, "the outbox goes on")
        assert held.turns > 100


async def test_a_broker_that_acknowledges_nothing_is_left_though_it_answers_pings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "ANSWER_S", 0.5)

    def answer(kind: int, writer: asyncio.StreamWriter) -> None:
        if kind == CONNECT:
            writer.write(CONNACK)
        elif kind == PINGREQ:
            writer.write(PINGRESP)

    odd = OddBroker(answer)
    async with odd as url, cabinet(tmp_path, url, keepalive_s=1) as one, looked_at(one):
        one.take(*range(100))
        await until(lambda: one.backhaul.figures().reason == "the broker acknowledges nothing", "it is left")
        await until(lambda: odd.connections >= 2, "and tried again")


def _turns_away(kind: int, writer: asyncio.StreamWriter) -> None:
    if kind == CONNECT:
        writer.write(CONNACK)
        writer.close()


async def test_a_broker_that_lets_everybody_in_and_out_again_is_asked_ever_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ceilings of 10 ms, doubled: a dozen connections in a second and a half, and hundreds if each were a success."""
    monkeypatch.setattr(mqtt, "BACKOFF_S", 0.01)
    monkeypatch.setattr(mqtt, "BACKOFF_BOUND_S", 60.0)
    odd = OddBroker(_turns_away)
    async with odd as url, cabinet(tmp_path, url):
        await until(lambda: odd.connections >= 1, "the first")
        await later(1.5)
        assert odd.connections <= 24


async def test_a_connection_that_worked_for_a_while_begins_the_back_off_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what counts as a while put to nothing; otherwise the twentieth would take hours to come."""
    monkeypatch.setattr(mqtt, "BACKOFF_S", 0.02)
    monkeypatch.setattr(mqtt, "BACKOFF_BOUND_S", 3_600.0)
    monkeypatch.setattr(mqtt, "WORKED_S", 0.0)
    odd = OddBroker(_turns_away)
    async with odd as url, cabinet(tmp_path, url):
        await until(lambda: odd.connections >= 20, "the twentieth")


def test_an_agent_that_ends_waits_for_no_handshake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP is accepted and TLS never answered: the thread that connects is nobody's to wait for."""
    monkeypatch.setattr(mqtt, "CONNECT_TIMEOUT_S", 3 * WAIT_S)

    async def try_and_leave(port: int) -> None:
        settings = BackhaulSettings(url=f"mqtts://127.0.0.1:{port}")
        link = MqttLink(settings, tmp_path, "one", Will("will", b""))
        running = asyncio.create_task(link.run())
        await until(lambda: any(one.name == "mqtt-connect" for one in threading.enumerate()), "it connects")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Thread(target=lambda: asyncio.run(try_and_leave(server.getsockname()[1])))
        ended.start()
        ended.join(WAIT_S)
        assert not ended.is_alive()


async def test_a_name_look_up_that_never_ends_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What bounds it is the wait for the whole; here for a handshake, which stands for any call that blocks."""
    monkeypatch.setattr(mqtt, "CONNECT_BOUND_S", 0.1)
    monkeypatch.setattr(mqtt, "CONNECT_TIMEOUT_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mqtts://127.0.0.1:{server.getsockname()[1]}"
        async with cabinet(tmp_path, url) as one:
            await until(lambda: one.backhaul.figures().reason == "connecting took too long", "it is left")
            one.take(1)
            await until(lambda: one.store.committed_readings == 1, "the outbox goes on")
