"""OPC UA servers that are not what they should be, and what a line leaves behind when it ends: nothing."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from drivers.base import LineState
from drivers.opcua_client import MAX_CHUNK, MAX_MESSAGE, MAX_NOTIFICATIONS_PER_S, OpcUaClient, value_of
from drivers.settings import OpcUa
from protocols.model.reading import Reason
from sim.faults import FaultSettings
from tests.drivers.opcua_line import (
    LINE,
    Bench,
    OpcUaLine,
    bench,
    subscriptions,
    until,
)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        yield made


@pytest.fixture
async def line(server: Bench) -> OpcUaLine:
    made = server.connect()
    await made.until_up()
    return made


@pytest.fixture
async def hasty(server: Bench) -> OpcUaLine:
    """Return a line that does not wait long for an answer."""
    made = server.connect(server.settings(timeout_s=0.3))
    await made.until_up()
    return made


# --- a server that is not what it should be ---


async def test_a_server_that_takes_everything_and_never_answers_is_down_with_a_reason(
    server: Bench, hasty: OpcUaLine
) -> None:
    await server.street.fault("pumps", "silent")
    got = await hasty.read("level")
    assert [fault.reason for fault in got.faults.values()] == [Reason.LINE_DOWN]
    await until(lambda: "does not answer within 0.3 s" in hasty.reason())
    await server.street.clear("pumps", "silent")
    await hasty.until_up()


async def test_a_server_that_closes_every_connection_is_down_and_comes_back(
    server: Bench, line: OpcUaLine
) -> None:
    await server.street.fault("pumps", "closed")
    await until(lambda: line.driver.health().state is LineState.DOWN)
    assert line.reason()
    await server.street.clear("pumps", "closed")
    await line.until_up()


async def test_questions_without_an_answer_do_not_gather_for_ever(server: Bench) -> None:
    line = server.connect(server.settings(timeout_s=0.05, silent_after=100))
    await line.until_up()
    await server.street.fault("pumps-1", "late", settings=FaultSettings(delay_s=0.07))
    connections = server.server.front.connections
    async with asyncio.timeout(20):
        while server.server.front.connections == connections:
            await line.read("level")


async def test_one_slow_answer_does_not_cost_the_line(server: Bench, hasty: OpcUaLine) -> None:
    await server.street.fault("pumps-1", "late", settings=FaultSettings(delay_s=0.4))
    got = await hasty.read("level")
    assert [fault.reason for fault in got.faults.values()] == [Reason.NO_ANSWER]
    assert hasty.driver.health().state is LineState.UP


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"ACKF\x08\x00\x00\x00",
        b"ACKF\x1c\x00\x00\x00" + bytes(20),
        b"ERRF\x10\x00\x00\x00\x00\x00\x80\x80\xff\xff\xff\xff",
        b"MSGF\xff\xff\xff\xff" + bytes(200_000),
        b"OPNF\x08\x00\x00\x00",
        bytes(1000),
        b"",
    ],
)
async def test_what_does_not_speak_opc_ua_is_down_with_a_reason(tmp_path: Path, said: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(said)
        await asyncio.gather(writer.drain(), return_exceptions=True)
        writer.close()

    rogue = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = rogue.sockets[0].getsockname()[1]
    async with bench(tmp_path) as server:
        line = server.connect(server.settings(url=f"opc.tcp://127.0.0.1:{port}", timeout_s=0.2))
        await until(lambda: line.driver.health().state is LineState.DOWN)
        assert line.reason()
        assert not line.task.done()
    rogue.close()


def chunk(number: int) -> bytes:
    """Return an intermediate chunk of a message that goes on (OPC 10000-6, 6.7.2)."""
    body = bytes(60_000)
    return struct.pack("<4sIIIII", b"MSGC", 24 + len(body), 0, 0, number, 1) + body


def piece(number: int) -> bytes:
    """Return a part of a chunk that says that it is two gigabytes long."""
    return (struct.pack("<4sI", b"MSGF", 0x7FFF_FFFF) if number == 1 else b"") + bytes(60_000)


@pytest.mark.parametrize(
    ("endless", "bound"), [(chunk, 2 * MAX_MESSAGE), (piece, 16 * MAX_CHUNK + (8 << 20))]
)
async def test_what_never_ends_is_cut_off(
    tmp_path: Path, endless: Callable[[int], bytes], bound: int
) -> None:
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.read(100)
        with contextlib.suppress(ConnectionError):
            for number in range(1, 2000):
                writer.write(endless(number))
                sent += 60_000
                await writer.drain()
        writer.close()

    rogue = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = rogue.sockets[0].getsockname()[1]
    async with bench(tmp_path) as server:
        url = f"opc.tcp://127.0.0.1:{port}"
        line = server.connect(
            server.settings(url=url, timeout_s=30.0, reconnect_s=60.0, reconnect_bound_s=60.0)
        )
        await until(lambda: line.driver.health().state is LineState.DOWN)
        await line.stop()
    rogue.close()
    assert 0 < sent < bound


async def test_a_server_that_floods_is_heard_no_faster_than_it_should_be(server: Bench) -> None:
    settings = OpcUa(id=LINE, url=server.server.state().url, security="none", period_ms=1.0)
    client = OpcUaClient(settings, lambda _: None)
    notifications = 0

    def told(_: object) -> None:
        nonlocal notifications
        notifications += 1

    await client.open(None, None)
    await client.subscribe([value_of(server.station().ids["WaterTemperature"])], told, lambda: None)
    async with asyncio.timeout(10):
        while not client.flooded:
            server.station().well.temperature_c += 0.001
            await server.server.look()
            await asyncio.sleep(0)
    assert notifications <= MAX_NOTIFICATIONS_PER_S + 2
    assert client.troubles()["flooded"] == client.flooded
    await client.leave()
    client.drop()


# --- nothing is left behind ---


def tasks() -> set["asyncio.Task[object]"]:
    return asyncio.all_tasks() - {asyncio.current_task()}


@pytest.mark.parametrize("fault", [None, "silent", "mute", "refused", "closed"])
async def test_no_task_is_left_when_the_line_ends(server: Bench, fault: str | None) -> None:
    before = tasks()
    line = server.connect()
    await line.until_up()
    if fault is not None:
        await server.street.fault("pumps", fault)
    async with asyncio.timeout(3):
        await line.stop()
    mine = {task for task in tasks() - before if "drivers/" in str(task.get_coro())}
    named = [str(task) for task in tasks() - before if "client" in str(task)]
    assert (mine, named) == (set(), [])
    server.lines.clear()


async def test_a_line_that_ends_says_goodbye_and_leaves_nothing_at_the_server(
    server: Bench, line: OpcUaLine
) -> None:
    assert len(subscriptions(server)) == 1
    await line.stop()
    assert subscriptions(server) == []


async def test_a_client_that_is_dropped_or_has_lost_its_server_leaves_no_task(server: Bench) -> None:
    node = value_of(server.station().ids["Level"])
    for polite in (False, True):
        client = OpcUaClient(server.settings(), lambda _: None)
        await client.open(None, None)
        await client.subscribe([node], lambda _: None, lambda: None)
        kept = set(client._tasks)
        assert len(kept) == 3
        if polite:
            client._up = False
            await client.leave()
            assert all(task.done() for task in kept)
        client.drop()
        await until(lambda mine=kept: all(task.done() for task in mine))  # type: ignore[misc]


async def test_no_task_is_left_when_the_line_ends_in_the_middle_of_connecting(server: Bench) -> None:
    await server.street.fault("pumps", "silent")
    before = tasks()
    line = server.connect()
    await until(lambda: server.server.front.connections > 0)
    async with asyncio.timeout(3):
        await line.stop()
    assert [str(task) for task in tasks() - before if "client" in str(task) or "drivers" in str(task)] == []
    server.lines.clear()


async def test_a_line_that_is_made_anew_again_and_again_leaves_nothing(
    server: Bench, line: OpcUaLine
) -> None:
    await line.until_up()
    before = len([task for task in tasks() if "OpcUa" in str(task)])
    for _ in range(5):
        connections = server.server.front.connections
        await server.server.front.hang_up()
        await until(lambda seen=connections: server.server.front.connections > seen)  # type: ignore[misc]
        await line.until_up()
    assert len([task for task in tasks() if "OpcUa" in str(task)]) == before
