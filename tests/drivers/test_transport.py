"""The serial transport, on real pseudo-terminals."""

import asyncio
import os
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.errors import LineDownError
from drivers.transport import MAX_UNWRITTEN, SerialTransport, connect_serial

PATIENCE_S = 5.0


class Ear(asyncio.Protocol):
    """Hears everything, and can be waited for."""

    def __init__(self) -> None:
        self.heard = b""
        self.lost: list[Exception | None] = []
        self._stirred = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self._stirred.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)
        self._stirred.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.heard) < count and not self.lost:
                self._stirred.clear()
                await self._stirred.wait()

    async def until_lost(self) -> Exception | None:
        async with asyncio.timeout(PATIENCE_S):
            while not self.lost:
                self._stirred.clear()
                await self._stirred.wait()
        return self.lost[0]


class Pty:
    """The far end of a serial cable."""

    def __init__(self) -> None:
        self.far, self._near = os.openpty()
        tty.setraw(self._near)
        self.name = os.ttyname(self._near)

    def hang_up(self) -> None:
        for end in (self.far, self._near):
            os.close(end)
        self.far = self._near = -1


@pytest.fixture
def pty() -> Iterator[Pty]:
    made = Pty()
    yield made
    if made.far >= 0:
        made.hang_up()


async def connect(pty: Pty, ear: Ear) -> SerialTransport:
    return await connect_serial(pty.name, ear, baudrate=38400)


async def test_bytes_pass_both_ways(pty: Pty) -> None:
    ear = Ear()
    transport = await connect(pty, ear)
    transport.write(b"question")
    assert os.read(pty.far, 100) == b"question"
    os.write(pty.far, b"answer")
    await ear.until(6)
    assert ear.heard == b"answer"
    transport.close()
    assert transport.is_closing()
    assert await ear.until_lost() is None


@settings(max_examples=10, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=10))
def test_everything_written_arrives_in_order(pieces: list[bytes]) -> None:
    async def run() -> None:
        pty = Pty()
        transport = await connect(pty, Ear())
        for piece in pieces:
            transport.write(piece)
        arrived = b""
        while len(arrived) < sum(map(len, pieces)):
            arrived += await asyncio.to_thread(os.read, pty.far, 100)
        assert arrived == b"".join(pieces)
        transport.close()
        pty.hang_up()

    asyncio.run(run())


async def test_a_port_that_hangs_up_is_lost_once(pty: Pty) -> None:
    ear = Ear()
    transport = await connect(pty, ear)
    pty.hang_up()
    assert isinstance(await ear.until_lost(), OSError)
    transport.write(b"nobody")
    transport.close()
    transport.abort()
    assert len(ear.lost) == 1


async def test_a_port_that_takes_no_bytes_is_lost_instead_of_filling_memory(pty: Pty) -> None:
    ear = Ear()
    transport = await connect(pty, ear)
    for _ in range(2000):
        transport.write(bytes(MAX_UNWRITTEN // 8))
        if transport.is_closing():
            break
    fault = await ear.until_lost()
    assert isinstance(fault, OSError)
    assert "takes no bytes" in str(fault)


async def test_a_port_that_takes_bytes_late_gets_them_all(pty: Pty) -> None:
    ear = Ear()
    transport = await connect(pty, ear)
    os.set_blocking(pty.far, False)
    sent = 0
    while not transport._unwritten:
        transport.write(bytes(512))
        sent += 512
    arrived = 0
    async with asyncio.timeout(PATIENCE_S):
        while arrived < sent:
            try:
                arrived += len(os.read(pty.far, 4096))
            except BlockingIOError:
                await asyncio.to_thread(os.sched_yield)
    assert arrived == sent
    assert not transport._unwritten
    transport.close()


async def test_a_port_is_ours_alone_until_it_is_closed(pty: Pty) -> None:
    transport = await connect(pty, Ear())
    with pytest.raises(LineDownError, match="in use by another program"):
        await connect(pty, Ear())
    transport.close()
    (await connect(pty, Ear())).close()


async def test_parity_does_not_keep_a_pseudo_terminal_from_being_opened_again(pty: Pty) -> None:
    for _ in range(3):
        (await connect_serial(pty.name, Ear(), baudrate=19200, parity="E", stopbits=2)).close()


async def test_a_missing_port_says_so(tmp_path: Path) -> None:
    with pytest.raises(LineDownError, match=r"no-port is missing"):
        await connect_serial(str(tmp_path / "no-port"), Ear(), baudrate=38400)


async def test_what_is_no_port_says_so(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no port")
    with pytest.raises(LineDownError, match="cannot be opened"):
        await connect_serial(str(plain), Ear(), baudrate=38400)


async def test_an_open_that_nobody_waits_for_leaves_the_port_free(pty: Pty) -> None:
    opening = asyncio.create_task(connect(pty, Ear()))
    await asyncio.to_thread(os.sched_yield)
    opening.cancel()
    (opened,) = await asyncio.gather(opening, return_exceptions=True)
    if isinstance(opened, SerialTransport):
        opened.close()  # it was there before anybody left
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                (await connect(pty, Ear())).close()
            except LineDownError:
                continue
            break
