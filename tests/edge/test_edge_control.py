"""The local socket by itself: watchers come, lag and leave."""

import asyncio
import json
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drivers.errors import LineDownError
from edge import control
from edge.answers import Buffer, Devices, PolicyShow, PriorityShow, Read, Request, Watch
from edge.control import AskedWrongError, ControlServer, NotDoneError
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Sample, sample
from tests.edge.bench import until

LEVEL = PointName("dimming_level")


async def answer(request: Request) -> object:
    match request:
        case Watch(device="lamp-99"):
            raise AskedWrongError("there is no lamp-99")
        case Watch():
            return None
        case Buffer():
            raise sqlite3.OperationalError("database or disk is full")
        case Devices():
            raise LineDownError("the line is down")
        case Read():
            raise RemoteProtocolError("3 bytes are no answer")
        case PolicyShow():
            raise NotDoneError("not asked: the rule allows no more")
        case PriorityShow():
            raise LocalProtocolError("there is no such point")
        case _:
            return 1 // 0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ControlServer]:
    one = ControlServer(tmp_path / "agent.sock", answer)
    running = asyncio.create_task(one.run())
    await until((tmp_path / "agent.sock").exists)
    yield one
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert not (tmp_path / "agent.sock").exists()


class Caller:
    """One connection to the socket."""

    def __init__(self, folder: Path, request: bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(folder / "agent.sock"))
        self.socket.sendall(request + b"\n")

    async def line(self) -> dict[str, object]:
        with self.socket.makefile("rb") as stream:
            said: dict[str, object] = json.loads(await asyncio.to_thread(stream.readline))
        return said

    def leave(self) -> None:
        self.socket.close()


def told(number: int, device: str = "lamp-01") -> Sample:
    return sample(DeviceId(device), number, (LEVEL,), (number,))


@pytest.mark.usefixtures("server")
async def test_a_watcher_that_leaves_is_forgotten_although_nothing_comes(
    tmp_path: Path, server: ControlServer
) -> None:
    callers = [Caller(tmp_path, b'{"ask": "watch"}') for _ in range(3)]
    await until(lambda: len(server.watchers) == 3)
    for caller in callers:
        caller.leave()
    await until(lambda: not server.watchers)


async def test_there_is_room_for_so_many_and_the_next_is_told(
    tmp_path: Path, server: ControlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "MAX_WATCHERS", 2)
    callers = [Caller(tmp_path, b'{"ask": "watch"}') for _ in range(2)]
    await until(lambda: len(server.watchers) == 2)
    callers.append(Caller(tmp_path, b'{"ask": "watch"}'))
    said = await callers[-1].line()
    assert (said["error"], said["understood"]) == ("2 are watching already", True)
    for caller in callers:
        caller.leave()


async def test_a_watcher_hears_its_device_and_no_other(tmp_path: Path, server: ControlServer) -> None:
    caller = Caller(tmp_path, b'{"ask": "watch", "device": "lamp-02"}')
    await until(lambda: len(server.watchers) == 1)
    server.tell(told(1))
    server.tell(told(2, "lamp-02"))
    said = (await caller.line())["answer"]
    assert isinstance(said, dict)
    assert said["device"] == "lamp-02"
    caller.leave()


async def test_a_watcher_that_lags_is_shown_the_present(
    tmp_path: Path, server: ControlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "WATCH_QUEUE", 5)
    caller = Caller(tmp_path, b'{"ask": "watch"}')
    await until(lambda: len(server.watchers) == 1)
    for number in range(100):
        server.tell(told(number))
    said = (await caller.line())["answer"]
    assert isinstance(said, dict)
    assert said["monotonic_ms"] >= 94
    caller.leave()


async def test_a_device_that_is_not_there_cannot_be_watched(tmp_path: Path, server: ControlServer) -> None:
    caller = Caller(tmp_path, b'{"ask": "watch", "device": "lamp-99"}')
    said = await caller.line()
    assert (said["error"], said["understood"]) == ("there is no lamp-99", False)
    assert not server.watchers
    caller.leave()


@pytest.mark.usefixtures("server")
async def test_an_answer_that_breaks_is_said_to_have_broken(tmp_path: Path) -> None:
    caller = Caller(tmp_path, b'{"ask": "status"}')
    assert "the agent cannot answer" in str((await caller.line())["error"])
    caller.leave()


CABINET_TOML = """
[cabinet]
id = "dijon-0001"
directory = "."
socket = "agent.sock"
[backhaul]
url = "mqtt://127.0.0.1"
"""


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (("buffer",), 1, "it was not done: database or disk is full"),
        (("devices",), 1, "it was not done: the line is down"),
        (("read", "lamp-01"), 1, "it was not done: 3 bytes are no answer"),
        (("policy", "show"), 1, "not asked: the rule allows no more"),
        (("status",), 1, "the agent cannot answer: integer division"),
        (("watch",), 1, "0 are watching already"),
        (("priority",), 2, "there is no such point"),
        (("watch", "lamp-99"), 2, "there is no lamp-99"),
    ],
)
async def test_a_sound_question_that_comes_to_nothing_is_1_and_a_wrong_one_is_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: int, why: str
) -> None:
    monkeypatch.setattr(control, "MAX_WATCHERS", 0)
    (tmp_path / "cabinet.toml").write_text(CABINET_TOML, encoding="utf-8")
    ran = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge.cli", *arguments, "-c", str(tmp_path / "cabinet.toml")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    _, stderr = await ran.communicate()
    assert (ran.returncode, why in stderr.decode()) == (status, True), stderr.decode()


async def test_a_disk_that_refuses_is_no_bug_and_leaves_no_trace_of_one(
    server: ControlServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.watchers == {}
    caller = Caller(tmp_path, b'{"ask":"buffer","limit":1}')
    assert (await caller.line())["error"] == "it was not done: database or disk is full"
    caller.leave()
    assert "Traceback" not in "".join(capsys.readouterr())
