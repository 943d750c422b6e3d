"""The command line: what it refuses, what it writes, and how it ends."""

import base64
import json
import os
import signal
import socket
import subprocess
import threading
from datetime import timedelta
from pathlib import Path

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from typer.testing import CliRunner, Result

from central import broker
from central.api.bodies import SignedEnvelope
from central.cli import app
from central.clock import moment
from central.config import Address
from central.keys import load, make
from central.status import _lease
from protocols.backhaul.messages import SignedPolicy
from protocols.backhaul.signing import is_signed_by
from protocols.clock import BenchTime
from protocols.model.policy import Policy, PolicyKind
from tests.central.cabinet_double import START_MS, CabinetDouble
from tests.central.live import CENTRAL, WAIT_S, LiveCabinet, aggregator, free_port, mosquitto, read_line

POLICY = """
cabinet = "cab-1"
kind = "lighting"
version = 3

[lighting]
programs = [{id = "evening", active_periods = [{period = "astro", level = 80}]}]
calendars = [{id = "year", default_program = "evening"}]
assignments = [{calendar = "year", groups = ["street"], devices = ["cab-1-lamp-7"]}]

[lighting.place]
latitude = 47.32
longitude = 5.04
timezone = "Europe/Paris"
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


class TestRefusals:
    """What cannot be is refused before anything is started, with exit 2 and the remedy."""

    def _refused(self, *arguments: str) -> str:
        result = run("serve", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Traceback" not in result.stderr
        return result.stderr

    @pytest.mark.parametrize("listen", ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:80", "example.org:80"])
    def test_an_api_that_others_can_reach(self, tmp_path: Path, listen: str) -> None:
        said = self._refused("--db", str(tmp_path / "c.db"), "--listen", listen)
        assert "--listen" in said
        assert "--insecure" in said
        assert not (tmp_path / "c.db").exists()

    def test_a_plain_broker_on_the_network(self) -> None:
        said = self._refused("--broker", "mqtt://broker.example:1883")
        assert "mqtts://" in said
        assert "--insecure" in said

    def test_every_fault_is_named_at_once(self, tmp_path: Path) -> None:
        said = self._refused(
            *("--listen", "nonsense", "--broker", "http://x", "--signing-key", str(tmp_path / "none.pem")),
            *("--bench-time", str(tmp_path / "none.json")),
        )
        assert [line.split(":")[0] for line in said.splitlines()] == [
            "--listen",
            "--broker",
            str(tmp_path / "none.pem"),
            str(tmp_path / "none.json"),
        ]

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            (("--mqtt", "5"), "--mqtt"),
            (("--ca", "x.pem"), "--ca"),
            (("--broker", "mqtt://127.0.0.1", "--cert", "x.pem"), "--ca, --cert"),
            (("--broker", "mqtts://127.0.0.1", "--key-file", "x.pem"), "--key-file"),
            (("--broker", "mqtts://127.0.0.1", "--ca", "/nonexistent.pem"), "--ca, --cert"),
            (("--broker", "mqtt://127.0.0.1:99999"), "--broker"),
            (("--embedded", "192.0.2.1:1883"), "--embedded"),
            (("--db", "/proc/none/central.db"), "--db"),
        ],
    )
    def test_options_that_do_not_fit(self, options: tuple[str, ...], named: str) -> None:
        assert self._refused(*options).startswith(named)

    def test_an_address_that_is_taken(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            said = self._refused(
                "--db", str(tmp_path / "c.db"), "--listen", address, "--broker", "mqtt://127.0.0.1"
            )
        assert "Address already in use" in said

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "c.db").write_bytes(b"no database at all" * 100)
        said = self._refused(
            "--db", str(tmp_path / "c.db"), "--broker", "mqtt://127.0.0.1", "--listen", "127.0.0.1:0"
        )
        assert "is not a database" in said

    def test_an_embedded_broker_for_the_network(self) -> None:
        result = run("broker", "--listen", "0.0.0.0:1883")
        assert (result.exit_code, "mosquitto" in result.stderr) == (2, True)


class TestKeys:
    """A key is made once, kept from others, and trusted by a snippet."""

    def test_init_keeps_the_key_and_prints_what_makes_a_cabinet_trust_it(self, tmp_path: Path) -> None:
        result = run("key", "init", "--out", str(tmp_path), "--name", "city")
        assert result.exit_code == 0
        assert (tmp_path / "city.pem").stat().st_mode & 0o777 == 0o600
        lines = result.stdout.splitlines()
        assert (lines[0], lines[1], lines[3]) == (
            "[[trusted_key]]",
            'id = "city"',
            'kinds = ["lighting", "priority"]',
        )
        public = base64.b64decode(lines[2].partition('"')[2].rstrip('"'), validate=True)
        key = load(tmp_path / "city.pem")
        Ed25519PublicKey.from_public_bytes(public).verify(key.private.sign(b"x"), b"x")

    def test_a_key_is_never_replaced(self, tmp_path: Path) -> None:
        before = make(tmp_path, "city").read_bytes()
        result = run("key", "init", "--out", str(tmp_path), "--name", "city")
        assert (result.exit_code, (tmp_path / "city.pem").read_bytes()) == (2, before)
        assert "is there already" in result.stderr

    def test_a_key_that_others_can_read_is_refused(self, tmp_path: Path) -> None:
        path = make(tmp_path, "city")
        path.chmod(0o644)
        (tmp_path / "p.toml").write_text(POLICY)
        result = run("policy", "sign", str(tmp_path / "p.toml"), "--key", str(path))
        assert (result.exit_code, "chmod 600" in result.stderr) == (2, True)

    @pytest.mark.parametrize(
        "content", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
    )
    def test_what_is_no_key_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "city.pem"
        path.write_bytes(content)
        path.chmod(0o600)
        (tmp_path / "p.toml").write_text(POLICY)
        result = run("policy", "sign", str(tmp_path / "p.toml"), "--key", str(path))
        assert (result.exit_code, "is no unencrypted private key" in result.stderr) == (2, True)


class TestPolicySign:
    """A policy is checked, then signed over its exact bytes."""

    def _sign(self, tmp_path: Path, text: str, name: str = "p.toml", *options: str) -> Result:
        key = tmp_path / "city.pem"
        if not key.exists():
            make(tmp_path, "city")
        (tmp_path / name).write_text(text)
        return run("policy", "sign", str(tmp_path / name), "--key", str(key), *options)

    def test_a_document_becomes_an_envelope_that_the_key_stands_for(self, tmp_path: Path) -> None:
        result = self._sign(tmp_path, POLICY)
        assert result.exit_code == 0, result.stderr
        envelope = msgspec.json.decode(result.stdout, type=SignedEnvelope)
        signed = SignedPolicy(
            envelope.body.encode(), load(tmp_path / "city.pem").id, base64.b64decode(envelope.signature)
        )
        assert is_signed_by(signed, load(tmp_path / "city.pem").trusted())
        policy = msgspec.json.decode(signed.body, type=Policy)
        assert policy.lighting is not None
        assert (policy.version, policy.key, policy.lighting.programs[0].id) == (3, "city", "evening")
        assert policy.expires_ms - policy.not_before_ms == 7 * 86_400_000

    def test_json_is_read_as_well(self, tmp_path: Path) -> None:
        document = {
            "cabinet": "cab-1",
            "kind": "lighting",
            "version": 1,
            "lighting": {
                "place": {"latitude": 1, "longitude": 2, "timezone": "UTC"},
                "programs": [],
                "calendars": [],
                "assignments": [],
            },
        }
        assert self._sign(tmp_path, json.dumps(document), "p.json").exit_code == 0

    def test_every_fault_is_named_with_its_place(self, tmp_path: Path) -> None:
        wrong = POLICY.replace("version = 3", "version = 0\nsurprise = 1").replace(
            "level = 80", "level = 101"
        )
        result = self._sign(tmp_path, wrong)
        assert (result.exit_code, result.stdout) == (2, "")
        keys = {line.split(": ")[1] for line in result.stderr.splitlines()}
        assert keys == {"version", "surprise", "lighting.programs[0].active_periods[0].level"}

    def test_what_makes_no_sense_is_refused(self, tmp_path: Path) -> None:
        wrong = POLICY.replace("Europe/Paris", "Mars/Olympus").replace('"year", groups', '"never", groups')
        result = self._sign(tmp_path, wrong)
        assert result.exit_code == 2
        assert "lighting" not in result.stdout
        assert "Mars/Olympus" in result.stderr
        assert "there is no calendar 'never'" in result.stderr

    @pytest.mark.parametrize("kind", PolicyKind)
    def test_the_example_of_each_kind_can_be_signed(self, tmp_path: Path, kind: PolicyKind) -> None:
        example = run("policy", "example", "--kind", kind.value)
        assert example.exit_code == 0
        result = self._sign(tmp_path, example.stdout, "p.json")
        assert result.exit_code == 0, result.stderr
        policy = self._policy(result)
        assert (policy.kind, getattr(policy, kind.value) is None) == (kind, False)

    def test_priority_rules_are_signed_with_a_lease(self, tmp_path: Path) -> None:
        text = run("policy", "example", "--kind", "priority").stdout
        policy = self._policy(self._sign(tmp_path, text, "p.json", "--lease-days", "2"))
        assert policy.priority is not None
        assert policy.priority.lease_until_ms - policy.not_before_ms == 2 * 86_400_000
        over = json.loads(text)
        over["priority"]["lease_until_ms"] = policy.not_before_ms
        result = self._sign(tmp_path, json.dumps(over), "p.json")
        assert (result.exit_code, "priority.lease_until_ms: over" in result.stderr) == (2, True)

    def test_every_fault_of_priority_rules_is_named_with_its_place(self, tmp_path: Path) -> None:
        wrong = json.loads(run("policy", "example", "--kind", "priority").stdout)
        wrong["priority"]["rules"][0] |= {"level": 15, "cooldown": 3}
        wrong["priority"]["approaches"][0]["path"] = [{"latitude": 91, "longitude": 5}]
        result = self._sign(tmp_path, json.dumps(wrong), "p.json")
        assert (result.exit_code, result.stdout) == (2, "")
        keys = {line.split(": ")[1] for line in result.stderr.splitlines()}
        assert {"priority.rules[0].level", "priority.rules[0].cooldown"} <= keys
        assert any(key.startswith("priority.approaches[0].path") for key in keys)

    def test_priority_rules_that_make_no_sense_are_refused(self, tmp_path: Path) -> None:
        wrong = json.loads(run("policy", "example", "--kind", "priority").stdout)
        wrong["priority"]["rules"][0]["approach"] = "nowhere"
        wrong["priority"]["approaches"][0] |= {"stop_line_m": 1_900}
        result = self._sign(tmp_path, json.dumps(wrong), "p.json")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "there is no approach 'nowhere'" in result.stderr
        assert "approaches.darcy-from-west.stop_line_m" in result.stderr

    def test_the_detectors_of_an_approach_are_presumed(self, tmp_path: Path) -> None:
        document = json.loads(run("policy", "example", "--kind", "priority").stdout)
        document["priority"]["approaches"][0] |= {
            "check_in_detector": "loop-1",
            "check_out_detector": "junction-darcy/bus_passed",
            "detector_m": 150,
        }
        document["priority"]["rules"][0]["by_detector"] = True
        result = self._sign(tmp_path, json.dumps(document), "p.json")
        assert result.exit_code == 0, result.stderr

    def test_content_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        result = self._sign(tmp_path, POLICY.replace('kind = "lighting"', 'kind = "priority"'))
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 2

    def _policy(self, result: Result) -> Policy:
        envelope = msgspec.json.decode(result.stdout, type=SignedEnvelope)
        return msgspec.json.decode(envelope.body, type=Policy)

    @pytest.mark.parametrize("text", ["= nonsense", "[1, 2]"])
    def test_what_cannot_be_read_is_refused(self, tmp_path: Path, text: str) -> None:
        name = "p.json" if text.startswith("[") else "p.toml"
        assert self._sign(tmp_path, text, name).exit_code == 2


def test_status_says_when_nobody_answers() -> None:
    result = run("status", "--api", f"http://127.0.0.1:{free_port()}")
    assert (result.exit_code, "is 'serve' running?" in result.stderr) == (2, True)


def test_the_end_of_a_lease_is_shown_in_time() -> None:
    now = moment(START_MS)
    shown = [_lease(until, now) for until in (None, now, now + timedelta(days=1), now + timedelta(days=3))]
    assert shown == [
        "",
        "[red]over since 2026-02-02 02:40 UTC[/]",
        "[yellow]2026-02-03 02:40 UTC[/]",
        "2026-02-05 02:40 UTC",
    ]


def test_a_running_aggregator_from_start_to_stop(tmp_path: Path) -> None:
    """One process: its readiness line, its status, a second one refused, live events, and a clean end."""
    bench = tmp_path / "bench.json"
    bench.write_bytes(msgspec.json.encode(BenchTime(0, 1_700_000_000_000, 1.0)))
    with (
        mosquitto(tmp_path, free_port()) as url,
        aggregator(tmp_path, url, "--bench-time", str(bench)) as centre,
    ):
        assert (centre.ready.broker, centre.ready.db) == (url, str(centre.db))
        os.kill(centre.ready.pid, 0)
        shown = run("status", "--api", centre.ready.api, "--json")
        assert json.loads(shown.stdout)["health"]["broker"]["connected"] is True
        civil = str(json.loads(shown.stdout)["health"]["civil_time"])
        assert civil < str(centre.health()["time"])
        refused = run("serve", "--db", str(centre.db), "--broker", url, "--listen", "127.0.0.1:0")
        assert (refused.exit_code, "another aggregator is running" in refused.stderr) == (2, True)
        followed = _follow(centre.ready.api)
        cabinet = LiveCabinet(CabinetDouble(), url, mqtt5=True)
        try:
            assert followed.heard.wait(WAIT_S)
            assert followed.lines[0] == "event: cabinet"
            assert json.loads(followed.lines[1].removeprefix("data: "))["id"] == "cab-1"
            assert "cab-1" in run("status", "--api", centre.ready.api).stdout
        finally:
            cabinet.close()
    followed.thread.join(WAIT_S)
    assert not followed.thread.is_alive(), "an open feed kept the aggregator from ending"


class _Follower:
    """Follows the feed in a thread until the aggregator ends it."""

    def __init__(self, api: str) -> None:
        self._api = api
        self.lines: list[str] = []
        self.open = threading.Event()
        self.heard = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with httpx.stream("GET", f"{self._api}/api/v1/events?kinds=cabinet", timeout=WAIT_S) as answer:
            for line in answer.iter_lines():
                self.open.set()
                if line.startswith(("event:", "data:")):
                    self.lines.append(line)
                if len(self.lines) >= 2:
                    self.heard.set()


def _follow(api: str) -> _Follower:
    follower = _Follower(api)
    assert follower.open.wait(WAIT_S)
    return follower


def test_without_a_broker_the_embedded_one_is_started_and_outlives_us(tmp_path: Path) -> None:
    port = free_port()
    arguments = ["--db", str(tmp_path / "c.db"), "--listen", "127.0.0.1:0", "--embedded", f"127.0.0.1:{port}"]
    process = subprocess.Popen([*CENTRAL, "serve", *arguments, "--json"], stdout=subprocess.PIPE, text=True)
    try:
        ready = json.loads(read_line(process))
        assert ready["broker"] == f"mqtt://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0
        assert broker.answers(Address("127.0.0.1", port))
    finally:
        assert process.stdout is not None
        process.stdout.close()
        log = (tmp_path / "c.broker.log").read_text()
        os.kill(int(log.partition("pid ")[2]), signal.SIGTERM)
    assert log.count("\n") == 1


def test_an_embedded_broker_that_dies_is_started_again(tmp_path: Path) -> None:
    port, broker_log = free_port(), tmp_path / "c.broker.log"
    arguments = ["--db", str(tmp_path / "c.db"), "--listen", "127.0.0.1:0", "--embedded", f"127.0.0.1:{port}"]
    with subprocess.Popen(
        [*CENTRAL, "serve", *arguments, "--json"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            read_line(process)
            os.kill(int(broker_log.read_text().rpartition("pid ")[2]), signal.SIGKILL)
            pause = threading.Event()
            while broker_log.read_text().count("pid ") < 2:
                assert process.poll() is None
                pause.wait(0.1)
            assert broker.answers(Address("127.0.0.1", port))
        finally:
            process.send_signal(signal.SIGINT)
            os.kill(int(broker_log.read_text().rpartition("pid ")[2]), signal.SIGTERM)


def test_something_else_in_the_embedded_brokers_place_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        threading.Thread(target=_say_hello_in_http, args=(taken,), daemon=True).start()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run("serve", "--db", str(tmp_path / "c.db"), "--listen", "127.0.0.1:0", "--embedded", where)
    assert (result.exit_code, "something else listens there" in result.stderr) == (2, True)


def _say_hello_in_http(server: socket.socket) -> None:
    link, _ = server.accept()
    with link:
        link.recv(100)
        link.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
