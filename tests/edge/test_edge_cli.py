"""The technician's command line, with and without an agent, for people and for scripts."""

import base64
import json
import os
import socket
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.control import MAX_WATCHERS
from tests.edge.street import signed
from tests.edge.whole import EDGE, Whole


def wait_for(one: Whole, device: str) -> None:
    one.centre.wait(
        lambda: any(layout.device == device for b in one.centre.batches for layout in b.columns.layouts),
        device,
    )


def talk(one: Whole, *lines: bytes) -> list[dict[str, Any]]:
    """Say lines to the agent's socket and return its answers."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(20)
        caller.connect(str(one.socket))
        caller.sendall(b"".join(lines))
        with caller.makefile("rb") as stream:
            return [json.loads(stream.readline()) for _ in lines]


def edge(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EDGE, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **env},
    )


class TestWithAnAgent:
    def test_status_says_how_the_cabinet_is(self, running: Whole) -> None:
        wait_for(running, "meter-1")
        answer = running.json("status")
        assert isinstance(answer, dict)
        assert answer["cabinet"] == "dijon-0001"
        assert answer["backhaul"]["welcomed"] is True
        assert answer["lamps"] == 3
        text = running.cli("status").stdout
        assert "dijon-0001" in text
        assert "connected" in text

    def test_devices_are_listed_with_what_was_read(self, running: Whole) -> None:
        wait_for(running, "lamp-02")
        answer = running.json("devices")
        assert isinstance(answer, list)
        assert [one["device"]["id"] for one in answer] == [
            "lamp-00",
            "lamp-01",
            "lamp-02",
            "cabinet-io",
            "meter-1",
        ]
        assert "lamp-02" in running.cli("devices").stdout

    def test_a_device_is_read_now(self, running: Whole) -> None:
        answer = running.json("read", "meter-1", "frequency")
        assert isinstance(answer, dict)
        assert answer["values"][0]["value"] == pytest.approx(50, abs=1)
        assert "Hz" in running.cli("read", "meter-1", "frequency").stdout

    def test_a_lamp_is_set_for_a_while_and_released(self, running: Whole) -> None:
        done = running.json("set", "lamp-00", "dimming_level", "20", "--for", "20m")
        assert isinstance(done, dict)
        assert (done["state"], done["command"]["issuer"].split(":")[0]) == ("verified", "technician")
        text = running.cli("set", "lamp-00", "dimming_level", "auto").stdout
        assert "verified" in text

    @pytest.mark.parametrize(
        ("arguments", "code", "why"),
        [
            (("read", "lamp-99"), 2, "no device"),
            (("read", "meter-1", "colour"), 2, "has no colour"),
            (("watch", "lamp-99"), 2, "no device"),
            (("set", "lamp-99", "dimming_level", "20"), 2, "no device"),
            (("set", "lamp-00", "colour", "20"), 2, "has no colour; it has dimming_level"),
            (("set", "lamp-00", "dimming_level", "101"), 1, "whole number of percent"),
            (("set", "lamp-00", "commanded_level", "20"), 1, "lamp-00 can only be read"),
            (("set", "lamp-00", "dimming_level", "nan"), 2, "no number"),
            (("set", "lamp-00", "dimming_level", "1e30"), 2, "no number"),
            (("set", "lamp-00", "dimming_level", "20", "--for", "soon"), 2, "no time"),
            (("set", "lamp-00", "dimming_level", "20", "--for", "99999h"), 2, "too long"),
            (("set", "Lamp 1", "dimming_level", "20"), 2, "no name"),
            (("policy", "apply", "/nowhere.json"), 2, "cannot be read"),
            (("discover", "dali-9"), 2, "no line 'dali-9'"),
            (("discover", "dali-1", "--among", "everywhere"), 2, "not a range of addresses"),
            (("join", "lamp-00", "--look"), 2, "is no radio line"),
            (("join", "lamp-00", "--key-file", "/nowhere"), 2, "No such file"),
            (("join", "lamp-00", "--key-file", "/etc/hostname"), 2, "32 hexadecimal digits"),
            (("join", "lamp-00", "--look", "--join-eui", "12"), 2, "is no EUI"),
        ],
    )
    def test_what_cannot_be_done_is_said_with_its_reason(
        self, running: Whole, arguments: tuple[str, ...], code: int, why: str
    ) -> None:
        ran = running.cli(*arguments)
        assert (ran.returncode, why in ran.stdout + ran.stderr) == (code, True), (ran.stdout, ran.stderr)
        assert "Traceback" not in ran.stderr

    def test_a_line_is_searched_and_what_nobody_declared_is_printed_as_settings(self, running: Whole) -> None:
        answer = running.json("discover", "dali-1", "--among", "0-9")
        assert isinstance(answer, list)
        found = {one["address"]: one["device"] for one in answer[0]["found"]}
        assert found == {"0": "lamp-00", "1": "lamp-01", "2": "lamp-02", "3": None}
        shown = running.cli("discover", "dali-1", "--among", "2-9").stdout
        assert ("nobody" in shown, "lamp-00" in shown) == (True, False)
        tables = tomllib.loads(running.cli("discover", "dali-1", "--among", "2-5", "--toml").stdout)
        assert [one["address"] for one in tables["device"]] == [3]

    def test_readings_are_watched_as_they_come(self, running: Whole) -> None:
        command = [*EDGE, "watch", "meter-1", "--json", "-c", str(running.file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
            try:
                assert watcher.stdout is not None
                with watcher.stdout:
                    assert json.loads(watcher.stdout.readline())["device"] == "meter-1"
            finally:
                watcher.kill()

    def test_the_buffer_and_the_policies_are_shown(self, running: Whole) -> None:
        buffer, policy = running.json("buffer"), running.json("policy", "show")
        assert isinstance(buffer, dict)
        assert buffer["figures"]["epoch"] == running.centre.hellos[-1].epoch
        assert isinstance(policy, dict)
        assert policy["rejected"] == []

    def test_a_policy_brought_by_hand_is_judged_as_any_other(self, running: Whole) -> None:
        for version, name, code in ((4, "good.json", 0), (3, "old.json", 1)):
            one = signed(version)
            document = {
                "body": one.body.decode(),
                "key": one.key,
                "signature": base64.b64encode(one.signature).decode(),
            }
            (running.folder / name).write_bytes(msgspec.json.encode(document))
            ran = running.cli("policy", "apply", str(running.folder / name))
            assert ran.returncode == code, ran.stderr
        assert "version: 3 is not above 4" in ran.stderr
        assert "night" in running.cli("policy", "show", "--body").stdout


class TestCertificate:
    def test_one_is_made_with_its_key_for_its_owner_alone_and_never_overwritten(self, cabinet: Whole) -> None:
        made = cabinet.json("opcua-certificate")
        assert isinstance(made, dict)
        assert made["uri"] == "urn:luciole:cabinet:dijon-0001"
        key = Path(made["key"])
        assert (key.parent, key.stat().st_mode & 0o777) == (cabinet.folder / "state" / "opcua", 0o600)
        again = cabinet.cli("opcua-certificate")
        assert (again.returncode, "is there already" in again.stderr) == (1, True)


class TestSocket:
    def test_it_is_its_owner_s_alone(self, running: Whole) -> None:
        assert running.socket.stat().st_mode & 0o777 == 0o600
        assert running.socket.parent.stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize(
        "line",
        [b"\n", b"garbage\n", b"{}\n", b'{"ask": "reboot"}\n', b'"\xff"\n', b"[" * 10_000 + b"\n", b"\0\n"],
    )
    def test_garbage_is_answered_with_an_error_and_the_caller_may_go_on(
        self, running: Whole, line: bytes
    ) -> None:
        wrong, right = talk(running, line, b'{"ask": "status"}\n')
        assert wrong["error"]
        assert right["answer"]["cabinet"] == "dijon-0001"

    def test_a_line_without_end_is_refused_with_its_bound(self, running: Whole) -> None:
        (reply,) = talk(running, b" " * ((1 << 20) + 100) + b"\n")
        assert "1048576 bytes" in reply["error"]

    def test_watchers_that_leave_make_room_although_nothing_comes(self, running: Whole) -> None:
        """They watch a device of which no sample comes while they are there."""
        question = b'{"ask": "watch", "device": "cabinet-io"}\n'
        before = running.open_files()
        for _ in range(3 * MAX_WATCHERS):
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(running.socket))
                caller.sendall(question)
        for _ in range(200):  # until the last of them is seen to have left
            (reply,) = talk(running, b'{"ask": "watch", "device": "meter-1"}\n')
            if not reply["error"]:
                break
        assert reply["error"] == ""
        assert running.open_files() < before + MAX_WATCHERS


class TestWithoutAnAgent:
    def test_what_a_killed_agent_left_is_shown(self, cabinet: Whole) -> None:
        cabinet.start()
        wait_for(cabinet, "meter-1")
        cabinet.centre.silent = True
        heard = cabinet.centre.repeated
        cabinet.centre.wait(lambda: cabinet.centre.repeated > heard + 2)
        cabinet.kill()
        waiting = cabinet.waiting()
        assert waiting > 0
        ran = cabinet.cli("status", "--json")
        assert ran.returncode == 3
        assert "No agent runs" in ran.stderr
        answer = json.loads(ran.stdout)
        assert (answer["running"], answer["outbox"]["batches"]) == (False, waiting)
        shown = cabinet.cli("buffer", "--json")
        assert shown.returncode == 0
        assert json.loads(shown.stdout)["figures"]["batches"] == waiting
        assert "none yet" in cabinet.cli("policy", "show").stdout
        for arguments in (("devices",), ("watch",)):
            ran = cabinet.cli(*arguments)
            assert ran.returncode == 3
            assert "start it with" in ran.stderr

    def test_where_no_agent_ever_ran_that_is_said(self, cabinet: Whole) -> None:
        ran = cabinet.cli("buffer")
        assert ran.returncode == 3
        assert "no agent has run here yet" in ran.stderr
        assert not (cabinet.folder / "state").exists()


class TestConfig:
    def test_the_example_is_sound(self, tmp_path: Path) -> None:
        (tmp_path / "cabinet.toml").write_text(edge("config", "example").stdout, encoding="utf-8")
        ran = edge("config", "check", str(tmp_path / "cabinet.toml"), "--json")
        assert ran.returncode == 0
        assert json.loads(ran.stdout) == {
            "ok": True,
            "faults": [],
            "cabinet": "dijon-0001",
            "lines": 3,
            "devices": 3,
        }

    def test_wrong_settings_start_nothing_and_name_every_fault(self, tmp_path: Path) -> None:
        (tmp_path / "cabinet.toml").write_text(
            '[cabinet]\nid = "A B"\ndirectory = "state"\n', encoding="utf-8"
        )
        ran = edge("run", "-c", str(tmp_path / "cabinet.toml"))
        assert ran.returncode == 2
        assert "cabinet.id: expected 1 to 63 of a–z" in ran.stderr
        assert "backhaul: missing" in ran.stderr
        assert "2 faults; nothing was started." in ran.stderr
        assert not (tmp_path / "state").exists()
