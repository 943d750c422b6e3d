"""The way to the centre, over a real broker: hello first, in order, again after silence, never forgotten."""

import asyncio
import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edge import backhaul, mqtt
from edge.outbox import outbox as outbox_module
from protocols.backhaul import codec
from protocols.backhaul.messages import Ack, CommandMessage, GapCause, GapEvent, StreamMark
from protocols.backhaul.topics import Down
from tests.edge.bench import CABINET, EVENTS, ORDINARY, gathered, open_outbox, open_store, taken, until
from tests.edge.broker import Broker
from tests.edge.centre_double import CentreDouble
from tests.edge.delivering import cabinet, has, hears
from tests.protocols.backhaul import examples


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
    monkeypatch.setattr(outbox_module, "ACK_WAIT_S", 0.05)
    monkeypatch.setattr(backhaul, "HELLO_EVERY_S", 0.2)


async def test_hello_comes_first_and_nothing_else_before_the_centre_s_word(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    centre.silent = True
    async with cabinet(tmp_path, broker.url) as one:
        one.take(1, 2, 3)
        await hears(centre, "hello")
        assert set(centre.heard) <= {"state", "hello"}
        assert not one.backhaul.figures().welcomed
        centre.silent = False
        centre.acknowledge(one.store.epoch)
        await has(centre, [1, 2, 3])
        assert one.backhaul.figures().welcomed
    assert centre.heard.index("hello") < centre.heard.index("batch/ordinary")


async def test_everything_arrives_once_in_order_and_is_then_let_go(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    async with cabinet(tmp_path, broker.url) as one:
        one.take(*range(500))
        await has(centre, list(range(500)))
        await until(lambda: one.backhaul.figures().in_flight == 0)
        await one.empty()
        assert await one.backhaul.drained(5)
    assert centre.repeated == 0
    assert [batch.number for batch in centre.batches] == list(range(1, 501))


async def test_never_more_than_a_window_is_on_its_way(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    async with cabinet(tmp_path, broker.url) as one:
        await until(lambda: one.backhaul.figures().welcomed)
        centre.silent = True
        one.take(*range(100))
        await hears(centre, "batch/ordinary", 20)
        await one.outbox.figures()
        assert one.backhaul.figures().in_flight == 20
        assert centre.heard.count("batch/ordinary") == 20


async def test_a_broker_that_takes_few_at_a_time_is_given_no_more(tmp_path: Path) -> None:
    with Broker(tmp_path, "max_inflight_messages 3") as small, CentreDouble(small.port) as centre:
        async with cabinet(tmp_path, small.url) as one:
            await until(lambda: one.backhaul.figures().welcomed)
            assert one.link.receive_maximum == 3
            one.take(*range(60))
            await has(centre, list(range(60)))
            assert centre.heard.count("hello") == 1
    assert centre.repeated == 0


async def test_after_silence_both_say_again_where_they_stand_and_nothing_is_missing(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    async with cabinet(tmp_path, broker.url, silence_s=0.3) as one:
        await until(lambda: one.backhaul.figures().welcomed)
        centre.silent = True
        one.take(1, 2, 3)
        await hears(centre, "batch/ordinary", 3)
        await hears(centre, "hello", 2)
        centre.silent = False
        centre.acknowledge(one.store.epoch)
        await has(centre, [1, 2, 3])
        assert one.backhaul.figures().rewinds >= 1
    assert centre.numbers() == [1, 2, 3]


async def test_a_broker_that_dies_and_comes_back_costs_nothing(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    async with cabinet(tmp_path, broker.url) as one:
        one.take(*range(50))
        await has(centre, list(range(50)))
        centre.silent = True
        one.take(*range(50, 60))
        broker.kill()
        await until(lambda: not one.link.up)
        assert one.backhaul.figures().reason
        one.take(*range(60, 300))
        centre.leave()
        centre.silent = False
        broker.start()
        centre.connect()
        await has(centre, list(range(300)))
        assert one.backhaul.figures().reason == ""
    assert [batch.number for batch in centre.batches] == list(range(1, 301))


async def test_a_connection_that_comes_back_is_not_flooded(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    """Paho would send all that it remembers at once: it has nothing to remember."""
    async with cabinet(tmp_path, broker.url) as one:
        await until(lambda: one.backhaul.figures().welcomed)
        broker.kill()
        await until(lambda: not one.link.up)
        one.take(*range(500))
        await one.outbox.figures()
        centre.leave()
        centre.silent = True
        broker.start()
        centre.connect()
        await hears(centre, "hello", 2)
        assert "batch/ordinary" not in centre.heard
        centre.acknowledge(one.store.epoch)
        await hears(centre, "batch/ordinary", 20)
        await one.outbox.figures()
        assert centre.heard.count("batch/ordinary") == 20


async def test_a_cabinet_without_a_broker_says_why(tmp_path: Path) -> None:
    async with cabinet(tmp_path, "mqtt://127.0.0.1:1") as one:
        await until(lambda: "refused" in one.backhaul.figures().reason.lower())
        one.take(1, 2)
        await one.outbox.figures()
        assert not await one.backhaul.drained(0.05)


async def test_a_centre_that_knows_more_than_was_ever_made_opens_a_new_epoch(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    async with cabinet(tmp_path, broker.url) as one:
        before = one.store.epoch
        centre.marks[before, ORDINARY] = StreamMark(ORDINARY, 1000)
        one.take(1, 2, 3)
        await has(centre, [1, 2, 3])
        assert one.store.epoch != before
        assert {batch.epoch for batch in centre.batches} == {one.store.epoch}
        assert [batch.number for batch in centre.batches] == [1, 2, 3]
        await one.empty()


async def test_a_centre_whose_last_batch_was_another_opens_a_new_epoch(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    """A cloned card: the same numbers, other bytes."""
    async with cabinet(tmp_path, broker.url) as one:
        one.take(1, 2, 3)
        before = one.store.epoch
        centre.marks[before, ORDINARY] = StreamMark(ORDINARY, 2, "0123456789abcdef")
        await has(centre, [1, 2, 3])
        assert one.store.epoch != before


async def test_what_a_cloned_card_s_other_cabinet_has_had_acknowledged_is_not_let_go_here(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    """Both are connected, and the other was first with the same numbers."""
    async with cabinet(tmp_path, broker.url) as one:
        one.take(1, 2, 3)
        await has(centre, [1, 2, 3])
        before = one.store.epoch
        await until(lambda: one.backhaul.figures().in_flight == 0)
        centre.marks[before, ORDINARY] = StreamMark(ORDINARY, 5, "0123456789abcdef")
        one.take(4, 5)
        await has(centre, [1, 2, 3, 4, 5])
        await one.empty()
        assert one.store.epoch != before
    assert centre.batches[-1].epoch == one.store.epoch


async def test_a_centre_that_was_restored_from_yesterday_is_given_all_that_is_still_here(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    async with cabinet(tmp_path, broker.url) as one:
        one.take(*range(10))
        await has(centre, list(range(10)))
        await one.empty()
        centre.marks.clear()
        centre.batches.clear()
        broker.kill()
        await until(lambda: not one.link.up)
        one.take(10, 11)
        centre.leave()
        broker.start()
        centre.connect()
        await has(centre, [10, 11])
    assert [batch.number for batch in centre.batches] == [11, 12]


async def test_a_centre_that_goes_back_to_a_backup_is_told_at_once_what_it_will_not_get(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    """The connection stands meanwhile, and nothing more comes of that stream."""
    async with cabinet(tmp_path, broker.url) as one:
        one.take(*range(10))
        await has(centre, list(range(10)))
        await one.empty()
        hellos = centre.heard.count("hello")
        centre.marks.clear()
        one.outbox.add_event(GapEvent(EVENTS, GapCause.SHED, 0, 1, 1))  # anything that is answered
        await hears(centre, "hello", hellos + 1)
        await until(lambda: one.backhaul.figures().welcomed)
    head = next(one for one in centre.hellos[-1].streams if one.stream is ORDINARY)
    assert (head.floor, head.mark) == (11, 10)


async def test_presence_is_retained_and_the_broker_says_it_when_the_cabinet_cannot(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    async with cabinet(tmp_path, broker.url) as one:
        await hears(centre, "hello")
        with CentreDouble(broker.port) as late:
            await asyncio.to_thread(late.wait, lambda: bool(late.presence))
            assert late.presence[0].online
        one.backhaul.goodbye()
        await asyncio.to_thread(centre.wait, lambda: not centre.presence[-1].online)
        said = len(centre.presence)
    assert [presence.online for presence in centre.presence][:said] == [True, False]


async def test_a_cabinet_that_vanishes_is_reported_by_its_last_will(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    async with cabinet(tmp_path, broker.url) as one:
        await hears(centre, "hello")
        stream = one.link._client.socket()
        assert isinstance(stream, socket.socket)
        stream.shutdown(socket.SHUT_RDWR)  # no DISCONNECT
        await asyncio.to_thread(centre.wait, lambda: [p.online for p in centre.presence][:2] == [True, False])
        await asyncio.to_thread(centre.wait, lambda: centre.presence[-1].online)


async def test_what_cannot_be_read_is_counted_told_once_a_topic_and_harms_nothing(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    with capture_logs() as logs:
        async with cabinet(tmp_path, broker.url) as one:
            await until(lambda: one.backhaul.figures().welcomed)
            for _ in range(5):
                for kind in Down:
                    centre.say(kind, b"\xc1 noise")
            assert centre._client is not None
            centre._client.publish(f"luciole/1/down/{CABINET}/firmware", b"", qos=1)
            await until(lambda: one.backhaul.figures().refused == 16)
            one.take(1)
            await has(centre, [1])
    told = [entry["topic"] for entry in logs if entry["event"] == "backhaul_message_refused"]
    assert len(told) == len(set(told)) == 4


async def test_commands_and_policies_are_handed_on_as_they_came(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    async with cabinet(tmp_path, broker.url) as one:
        await until(lambda: one.backhaul.figures().welcomed)
        centre.command(examples.COMMAND.command)
        centre.policy(examples.POLICY)
        await until(lambda: bool(one.commands and one.policies))
    assert (one.commands, one.policies) == ([examples.COMMAND], [examples.POLICY])


async def test_an_acknowledgement_that_is_repeated_without_end_piles_up_nowhere(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    async with cabinet(tmp_path, broker.url) as one:
        one.take(1, 2, 3)
        await has(centre, [1, 2, 3])
        await one.empty()
        passed_on: list[Ack] = []
        one.outbox.acknowledge = passed_on.append  # type: ignore[method-assign,assignment]  # to see what comes this far
        for _ in range(500):
            centre.acknowledge(one.store.epoch)
        centre.say(Down.ACK, b"the last one")
        await until(lambda: one.backhaul.figures().refused == 1)
        assert passed_on == []


async def test_marks_of_another_epoch_mean_nothing(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    async with cabinet(tmp_path, broker.url) as one:
        await until(lambda: one.backhaul.figures().welcomed)
        centre.silent = True
        one.take(1)
        await hears(centre, "batch/ordinary")
        centre.say(Down.ACK, codec.encode(Ack(one.store.epoch ^ 2, (StreamMark(ORDINARY, 1),))))
        centre.say(Down.ACK, codec.encode(Ack(one.store.epoch, (StreamMark(EVENTS, 0),))))
        centre.command(examples.COMMAND.command)
        await until(lambda: bool(one.commands))
        assert one.backhaul.figures().in_flight == 1
        assert (await one.outbox.figures()).batches == 1


async def test_events_pass_ahead_of_a_backlog(tmp_path: Path, broker: Broker, centre: CentreDouble) -> None:
    store = open_store(tmp_path)
    backlog = open_outbox(store, seal_readings=1)
    for number in range(200):
        backlog.add(ORDINARY, taken(number))
    await backlog.figures()
    backlog.add_event(examples.EVENTS[0])
    await backlog.close()
    async with cabinet(tmp_path, broker.url) as one:
        await has(centre, list(range(200)))
        assert centre.heard.index("batch/events") < centre.heard.index("batch/ordinary")
        await one.empty()
    assert open_store(tmp_path).figures(0).batches == 0


async def test_a_long_connection_keeps_no_tasks(
    tmp_path: Path, broker: Broker, centre: CentreDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "LOOK_S", 0.005)
    async with cabinet(tmp_path, broker.url) as one:
        await until(lambda: one.backhaul.figures().welcomed)
        before = len(asyncio.all_tasks())
        later_s = asyncio.get_running_loop().time() + 0.5
        await until(lambda: asyncio.get_running_loop().time() > later_s)
        assert len(asyncio.all_tasks()) < before + 10
        assert centre.hellos


async def test_what_breaks_on_one_message_does_not_break_the_connection(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    async with cabinet(tmp_path, broker.url) as one:
        await until(lambda: bool(centre.hellos), "the hello")

        def breaks(_message: CommandMessage) -> None:
            raise ValueError("a bug")

        one.backhaul.on_command = breaks
        with capture_logs() as logs:
            centre.command(examples.COMMAND.command)
            await until(lambda: any(log["event"] == "backhaul_message_broke" for log in logs), "the log")
        one.backhaul.on_command = one.commands.append
        centre.command(examples.COMMAND.command)
        await until(lambda: bool(one.commands), "the next command")
        assert len(centre.hellos) == 1


async def test_a_subscription_that_the_broker_refuses_is_said(tmp_path: Path) -> None:
    """Mosquitto's own access lists bite at delivery only; this broker refuses as MQTT 5, 3.9.3 lets it: 0x87."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (kind,) = await reader.readexactly(1)
                length = (await reader.readexactly(1))[0]
                if length & 0x80:
                    length = (length & 0x7F) + 128 * (await reader.readexactly(1))[0]
                packet = await reader.readexactly(length)
                if kind == 0x10:
                    writer.write(bytes([0x20, 3, 0, 0, 0]))
                elif kind == 0x82:
                    writer.write(bytes([0x90, 4, packet[0], packet[1], 0, 0x87]))
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with capture_logs() as logs:
        async with cabinet(tmp_path, f"mqtt://127.0.0.1:{port}") as one:
            await until(lambda: one.link.up, "the connection")
            one.backhaul.hear_positions(("luciole/1/position/u/0/7/t/2/+/+",))
            refused = "backhaul_subscription_refused"
            await until(lambda: sum(log["event"] == refused for log in logs) == 2, "the log")
            assert one.link.up
    server.close()
    await server.wait_closed()


def tear(folder: Path) -> None:
    """Put noise into two pages of batches of an outbox that nobody has open."""
    path = folder / "outbox.db"
    content = bytearray(path.read_bytes())
    leaves = [n for n in range(8, len(content) // 4096) if content[n * 4096] == 0x0A]
    for page in leaves[len(leaves) // 2 : len(leaves) // 2 + 2]:
        content[page * 4096 : (page + 1) * 4096] = random.Random(page).randbytes(4096)
    path.write_bytes(content)


async def test_what_was_salvaged_is_sent_first_and_then_what_was_taken_since(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    """The centre has some of it already, of which the acknowledgement never came."""
    store = open_store(tmp_path)
    sealed = [store.commit([gathered(ORDINARY, [n])], [])[0] for n in range(300)]
    store.end_run()
    centre.marks[store.epoch, ORDINARY] = StreamMark(ORDINARY, 50, codec.batch_hash(sealed[49].sealed))
    tear(tmp_path)
    async with cabinet(tmp_path, broker.url) as one:
        new = one.store.epoch
        one.take(*range(1000, 1010))
        await asyncio.to_thread(
            centre.wait, lambda: centre.numbers()[-10:] == list(range(1000, 1010)), "what was taken since"
        )
        assert await one.backhaul.drained(20)
        await one.empty()
    ordinary = [batch for batch in centre.batches if batch.stream is ORDINARY]
    assert [(batch.epoch, batch.number) for batch in ordinary] == [
        *((store.epoch, n) for n in range(51, 301)),
        *((new, n) for n in range(1, 11)),
    ]
    numbers = [n for n in centre.numbers() if isinstance(n, int)]
    assert len(numbers) == len(set(numbers)) > 200
    gaps = [event for event in centre.events(GapEvent) if isinstance(event, GapEvent) and event.first]
    lost = {n for gap in gaps for n in range(gap.first, gap.last + 1)}
    assert {*range(50, 300)} - set(numbers) <= {n - 1 for n in lost}
    assert [hello.epoch for hello in centre.hellos] == [store.epoch, new]


async def test_a_centre_that_has_all_of_what_was_salvaged_goes_on_with_the_next_epoch(
    tmp_path: Path, broker: Broker, centre: CentreDouble
) -> None:
    store = open_store(tmp_path)
    for number in range(300):
        store.commit([gathered(ORDINARY, [number])], [])
    store.end_run()
    for stream in (ORDINARY, EVENTS):  # more than came back: what was sent last was lost here
        centre.marks[store.epoch, stream] = StreamMark(stream, 400, "f" * 16)
    tear(tmp_path)
    async with cabinet(tmp_path, broker.url) as one:
        one.take(1)
        await has(centre, [1])
        await one.empty()
    assert {batch.epoch for batch in centre.batches} == {one.store.epoch}
    assert one.store.epoch != store.epoch
