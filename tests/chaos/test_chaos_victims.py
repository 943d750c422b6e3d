"""The bench's own log of its kills."""

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.chaos.victims import EPHEMERAL, Process, steady_port

FOREVER = [sys.executable, "-c", "import threading; threading.Event().wait()"]


def test_a_kill_is_logged_with_its_moment_and_that_of_the_start_after_it(tmp_path: Path) -> None:
    process = Process("one", FOREVER, tmp_path / "log")
    process.start()
    first = process.pid
    process.kill()
    assert (process.pid, process.kills) == (None, [])
    process.start()
    (kill,) = process.kills
    assert 0 < kill.at_ms <= kill.back_ms
    assert process.pid != first
    assert process.look()
    process.end()
    assert process.died_by_itself == 0


def test_what_ends_by_itself_is_counted_and_started_again(tmp_path: Path) -> None:
    process = Process("one", [sys.executable, "-c", "print('said')"], tmp_path / "log")
    process.start()
    pid = process.pid
    assert pid is not None
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not process.look()
    assert process.died_by_itself == 1
    assert process.pid != pid
    process.end()
    assert process.kills == []
    assert "said" in (tmp_path / "log").read_text(encoding="utf-8")


def test_what_ended_before_it_could_be_killed_is_no_clean_kill(tmp_path: Path) -> None:
    process = Process("one", [sys.executable, "-c", ""], tmp_path / "log")
    process.start()
    assert process.pid is not None
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    process.kill()
    assert process.died_by_itself == 1


@pytest.mark.skipif(not EPHEMERAL.exists(), reason="needs /proc/sys/net, which Linux has")
def test_a_port_is_none_that_an_outgoing_connection_could_take() -> None:
    port = steady_port()
    assert port < int(EPHEMERAL.read_text(encoding="ascii").split()[0])
    with socket.create_server(("127.0.0.1", port)):
        assert steady_port() != port
