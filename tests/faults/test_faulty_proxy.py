"""The proxy that stands between cabinets and brokers does what it says, and nothing else."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.proxy import Direction, FaultyProxy, WayFault

SOON_S = 20.0


class Echo:
    """A server that gives back what it gets, and remembers it by connection."""

    def __init__(self) -> None:
        self.got: list[bytearray] = []
        self.ended: asyncio.Queue[int] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.got)
        self.got.append(bytearray())
        try:
            while piece := await reader.read(65_536):
                self.got[number] += piece
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.ended.put_nowait(number)
            writer.close()


@asynccontextmanager
async def bench() -> AsyncIterator[tuple[Echo, FaultyProxy]]:
    echo = Echo()
    server = await asyncio.start_server(echo.accepted, "127.0.0.1", 0)
    async with FaultyProxy(server.sockets[0].getsockname()[1], seed=4) as proxy:
        yield echo, proxy
    server.close()


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(proxy: FaultyProxy) -> Stream:
    async with asyncio.timeout(SOON_S):
        return await asyncio.open_connection("127.0.0.1", proxy.port)


async def said(stream: Stream, what: bytes) -> bytes:
    """Say something and return as much of the answer."""
    reader, writer = stream
    async with asyncio.timeout(SOON_S):
        writer.write(what)
        await writer.drain()
        return await reader.readexactly(len(what))


async def ends(stream: Stream) -> None:
    """Wait for an end of any kind."""
    async with asyncio.timeout(SOON_S):
        try:
            while await stream[0].read(100):
                pass
        except ConnectionError:
            pass
    stream[1].close()


async def silent(stream: Stream, for_s: float = 0.15) -> bool:
    """Tell whether nothing comes and nothing ends for a moment."""
    try:
        async with asyncio.timeout(for_s):
            await stream[0].read(1)
    except TimeoutError:
        return True
    return False


async def test_without_a_fault_everything_passes_whole_and_in_order() -> None:
    content = random.Random(4).randbytes(3_000_000)
    async with bench() as (echo, proxy):
        stream = await connect(proxy)
        stream[1].write(content)
        async with asyncio.timeout(SOON_S):
            assert await stream[0].readexactly(len(content)) == content
        assert proxy.carried == 2 * len(content)
        stream[1].close()
        async with asyncio.timeout(SOON_S):
            await echo.ended.get()


async def test_refuse_resets_what_is_open_lets_nobody_in_and_keeps_its_port() -> None:
    async with bench() as (_, proxy):
        stream = await connect(proxy)
        assert await said(stream, b"before") == b"before"
        await proxy.begin(WayFault.REFUSE)
        await ends(stream)
        with pytest.raises(ConnectionRefusedError):
            await connect(proxy)
        await proxy.end()
        again = await connect(proxy)
        assert await said(again, b"after") == b"after"
        again[1].close()


async def test_stall_holds_everything_back_and_loses_nothing() -> None:
    async with bench() as (echo, proxy):
        stream = await connect(proxy)
        await said(stream, b"one")
        await proxy.begin(WayFault.STALL)
        stream[1].write(b"two")
        late = await connect(proxy)
        late[1].write(b"three")
        assert await silent(stream)
        assert await silent(late)
        assert bytes(echo.got[0]) == b"one"
        await proxy.end()
        async with asyncio.timeout(SOON_S):
            assert await stream[0].readexactly(3) == b"two"
            assert await late[0].readexactly(5) == b"three"
        stream[1].close()
        late[1].close()


async def test_a_stalled_way_holds_back_whoever_sends_without_end() -> None:
    async with bench() as (_, proxy):
        stream = await connect(proxy)
        await proxy.begin(WayFault.STALL)
        stream[1].write(bytes(24 << 20))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await stream[1].drain()
        stream[1].transport.abort()


async def test_delay_lets_everything_pass_later_and_in_order() -> None:
    async with bench() as (_, proxy):
        stream = await connect(proxy)
        await said(stream, b"at once")
        loop = asyncio.get_running_loop()
        await proxy.begin(WayFault.DELAY, delay_s=0.1)
        began_s = loop.time()
        assert await said(stream, b"later") == b"later"
        assert loop.time() - began_s >= 0.2  # there and back
        stream[1].write(b"12")
        await asyncio.sleep(0)
        await proxy.end()
        assert await said(stream, b"34") == b"12"
        async with asyncio.timeout(SOON_S):
            assert await stream[0].readexactly(2) == b"34"
        stream[1].close()


async def test_drop_loses_what_is_sent_and_ends_a_stream_with_a_hole() -> None:
    async with bench() as (echo, proxy):
        holed, whole = await connect(proxy), await connect(proxy)
        await said(holed, b"one")
        await said(whole, b"one")
        await proxy.begin(WayFault.DROP)
        holed[1].write(b"two")
        assert await silent(holed)
        await proxy.end()
        await ends(holed)
        assert await said(whole, b"two") == b"two"
        assert sorted(bytes(one) for one in echo.got) == [b"one", b"onetwo"]
        whole[1].close()


async def test_cut_ends_a_connection_within_a_packet_and_each_that_follows() -> None:
    async with bench() as (echo, proxy):
        old = await connect(proxy)
        await said(old, b"before")
        await proxy.begin(WayFault.CUT, after_bytes=4)
        old[1].write(b"packet")
        await ends(old)
        new = await connect(proxy)
        new[1].write(b"packet")
        await ends(new)
        async with asyncio.timeout(SOON_S):
            await echo.ended.get()
            await echo.ended.get()
        assert [bytes(one) for one in echo.got] == [b"beforepack", b"pack"]
        await proxy.end()
        last = await connect(proxy)
        assert await said(last, b"packet") == b"packet"
        last[1].close()


async def test_half_open_ends_far_and_leaves_near_in_the_belief_that_all_is_well() -> None:
    async with bench() as (echo, proxy):
        old = await connect(proxy)
        await said(old, b"before")
        await proxy.begin(WayFault.HALF_OPEN)
        async with asyncio.timeout(SOON_S):
            assert await echo.ended.get() == 0
        new = await connect(proxy)
        for stream in (old, new):
            stream[1].write(b"nobody hears this")
            assert await silent(stream)
        await proxy.end()
        assert await silent(old)
        assert [bytes(one) for one in echo.got] == [b"before"]
        again = await connect(proxy)
        assert await said(again, b"after") == b"after"
        for stream in (old, new, again):
            stream[1].close()


async def test_who_connects_while_nobody_is_behind_the_proxy_is_reset() -> None:
    async with bench() as (_, proxy):
        proxy.to_port = 1
        await ends(await connect(proxy))


async def test_a_fault_takes_the_place_of_the_one_before() -> None:
    async with bench() as (_, proxy):
        await proxy.begin(WayFault.REFUSE)
        await proxy.begin(WayFault.DELAY, delay_s=0.01)
        stream = await connect(proxy)
        assert await said(stream, b"late") == b"late"
        stream[1].close()


@pytest.mark.parametrize("direction", Direction)
async def test_a_stall_of_one_direction_leaves_the_other_alone(direction: Direction) -> None:
    async with bench() as (echo, proxy):
        stream = await connect(proxy)
        await said(stream, b"one")
        await proxy.begin(WayFault.STALL, direction)
        stream[1].write(b"two")
        assert await silent(stream)
        assert bytes(echo.got[0]) == (b"one" if direction is Direction.OUT else b"onetwo")
        await proxy.end(direction)
        async with asyncio.timeout(SOON_S):
            assert await stream[0].readexactly(3) == b"two"
        stream[1].close()


async def test_each_direction_has_a_fault_of_its_own() -> None:
    async with bench() as (echo, proxy):
        stream = await connect(proxy)
        await said(stream, b"one")
        await proxy.begin(WayFault.DELAY, Direction.OUT, delay_s=0.05)
        await proxy.begin(WayFault.STALL, Direction.BACK)
        assert proxy.faults == {Direction.OUT: WayFault.DELAY, Direction.BACK: WayFault.STALL}
        stream[1].write(b"two")
        assert await silent(stream)
        assert bytes(echo.got[0]) == b"onetwo"
        await proxy.end(Direction.OUT)
        assert await silent(stream)
        await proxy.end()
        async with asyncio.timeout(SOON_S):
            assert await stream[0].readexactly(3) == b"two"
        stream[1].close()


async def test_what_is_dropped_on_its_way_back_had_arrived() -> None:
    async with bench() as (echo, proxy):
        stream = await connect(proxy)
        await said(stream, b"one")
        await proxy.begin(WayFault.DROP, Direction.BACK)
        stream[1].write(b"two")
        assert await silent(stream)
        assert bytes(echo.got[0]) == b"onetwo"
        await proxy.end()
        await ends(stream)


async def test_a_cut_on_the_way_back_ends_within_the_answer() -> None:
    async with bench() as (echo, proxy):
        stream = await connect(proxy)
        await said(stream, b"before")
        await proxy.begin(WayFault.CUT, Direction.BACK, after_bytes=4)
        stream[1].write(b"packet")
        async with asyncio.timeout(SOON_S):
            assert await stream[0].read(100) == b"pack"
            await echo.ended.get()
        await ends(stream)
        assert bytes(echo.got[0]) == b"beforepacket"


async def cuts(count: int) -> list[int]:
    """Return after how many bytes connections ended whose cut was drawn."""
    async with bench() as (echo, proxy):
        await proxy.begin(WayFault.CUT, after_bytes=None)
        for _ in range(count):
            stream = await connect(proxy)
            stream[1].write(bytes(4_000))
            await ends(stream)
            async with asyncio.timeout(SOON_S):
                await echo.ended.get()
        return [len(one) for one in echo.got]


async def test_a_cut_that_is_drawn_is_another_each_time_and_the_same_for_a_seed() -> None:
    first = await cuts(4)
    assert len(set(first)) == 4
    assert await cuts(4) == first


async def test_half_open_back_ends_near_and_leaves_far_in_the_belief_that_all_is_well() -> None:
    async with bench() as (echo, proxy):
        old = await connect(proxy)
        await said(old, b"before")
        await proxy.begin(WayFault.HALF_OPEN, Direction.BACK)
        await ends(old)
        again = await connect(proxy)
        assert await said(again, b"after") == b"after"
        assert echo.ended.empty()
        await proxy.end()
        assert await said(again, b"on") == b"on"
        assert echo.ended.empty()
        again[1].close()


async def test_a_delay_that_varies_keeps_the_order() -> None:
    async with bench() as (_, proxy):
        stream = await connect(proxy)
        await proxy.begin(WayFault.DELAY, delay_s=0.01, jitter_s=0.05)
        for number in range(20):
            stream[1].write(bytes([number]))
            await stream[1].drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(SOON_S):
            assert await stream[0].readexactly(20) == bytes(range(20))
        stream[1].close()


async def test_the_end_of_a_refusal_ends_it_for_both_directions() -> None:
    async with bench() as (_, proxy):
        await proxy.begin(WayFault.REFUSE, Direction.BACK)
        with pytest.raises(ConnectionRefusedError):
            await connect(proxy)
        await proxy.end(Direction.OUT)
        assert set(proxy.faults.values()) == {None}
        stream = await connect(proxy)
        assert await said(stream, b"again") == b"again"
        stream[1].close()
