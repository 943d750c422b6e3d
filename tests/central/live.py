"""Real processes: a broker, the aggregator as its console script, and a cabinet on the wire."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest
from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from protocols.backhaul.codec import decode_ack, decode_command, decode_policy
from protocols.backhaul.messages import Ack, SignedPolicy
from protocols.backhaul.topics import Down, down_filter, parse_down
from protocols.model.command import Command
from tests.central.cabinet_double import CabinetDouble, Message

WAIT_S = 15.0
MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
CENTRAL = (sys.executable, "-m", "central.cli")


class ReadyLine(msgspec.Struct):
    api: str
    broker: str
    db: str
    pid: int


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


@contextmanager
def mosquitto(folder: Path, port: int, options: str = "") -> Iterator[str]:
    """Run Debian's mosquitto on loopback; yield its URL."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    settings = folder / "mosquitto.conf"
    options += f"user {pwd.getpwuid(os.geteuid()).pw_name}\n"  # as root it would leave our files unread
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n{options}", encoding="utf-8")
    process = subprocess.Popen([MOSQUITTO, "-c", str(settings)], stderr=subprocess.DEVNULL)
    try:
        _wait_for_port(port)
        yield f"mqtt://127.0.0.1:{port}"
    finally:
        end(process)


@contextmanager
def embedded_broker(port: int) -> Iterator[str]:
    """Run the embedded broker as the process that it is; yield its URL."""
    process = subprocess.Popen(
        [*CENTRAL, "broker", "--listen", f"127.0.0.1:{port}"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert "broker on" in read_line(process)
        yield f"mqtt://127.0.0.1:{port}"
    finally:
        end(process)


def _wait_for_port(port: int) -> None:
    pause = threading.Event()
    for _ in range(200):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        pause.wait(0.02)
    raise AssertionError(f"nothing listens on port {port}")


def read_line(process: subprocess.Popen[str]) -> str:
    """Return the first line of a process, which must come in time."""
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda out=process.stdout: lines.append(out.readline()), daemon=True)
    reader.start()
    reader.join(WAIT_S)
    assert lines, "the process said nothing in time"
    return lines[0]


def end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> int:
    """End a process as an operator does; kill it if it does not listen."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(WAIT_S)
        raise
    finally:
        if process.stdout is not None:
            process.stdout.close()


class Aggregator:
    """The aggregator as its own process."""

    def __init__(self, folder: Path, broker: str, *options: str) -> None:
        self.db = folder / "central.db"
        self.errors = folder / "central.err"
        self._arguments = ["--broker", broker, "--listen", "127.0.0.1:0", "--json", *options]

    def start(self) -> None:
        with self.errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [*CENTRAL, "serve", "--db", str(self.db), *self._arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        line = read_line(self._process)
        assert line, self.errors.read_text()
        self.ready = msgspec.json.decode(line, type=ReadyLine)
        self.http = httpx.Client(base_url=self.ready.api, timeout=WAIT_S)
        self.wait(lambda: self.health()["broker"]["connected"])

    def health(self) -> dict[str, dict[str, object]]:
        answer: dict[str, dict[str, object]] = self.http.get("/api/v1/health").json()
        return answer

    def wait(self, holds: Callable[[], object]) -> None:
        """Wait until something holds, asking a few times a second."""
        pause = threading.Event()
        for _ in range(int(WAIT_S / 0.05)):
            if holds():
                return
            pause.wait(0.05)
        raise AssertionError("it never held")

    def kill(self) -> None:
        self.http.close()
        self._process.kill()
        self._process.wait(WAIT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def stop(self) -> int:
        self.http.close()
        return end(self._process)


@contextmanager
def aggregator(folder: Path, broker: str, *options: str) -> Iterator[Aggregator]:
    running = Aggregator(folder, broker, *options)
    running.start()
    try:
        yield running
    finally:
        assert running.stop() == 0, running.errors.read_text()
        assert "Traceback" not in running.errors.read_text()


class LiveCabinet:
    """A cabinet on the wire: it deletes on acknowledgement only, and sends the rest again."""

    def __init__(self, cabinet: CabinetDouble, broker: str, *, mqtt5: bool) -> None:
        self.cabinet = cabinet
        self.acks: list[Ack] = []
        self.policies: list[SignedPolicy] = []
        self.commands: list[Command] = []
        self.heard = threading.Condition()
        self._subscribed = threading.Event()
        version = MQTTProtocolVersion.MQTTv5 if mqtt5 else MQTTProtocolVersion.MQTTv311
        self._client = Client(CallbackAPIVersion.VERSION2, cabinet.id, protocol=version)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        gone = cabinet.presence(online=False)
        self._client.will_set(gone.topic, gone.payload, qos=1, retain=True)
        host, _, port = broker.removeprefix("mqtt://").partition(":")
        self._client.connect(host, int(port))
        self._client.loop_start()
        assert self._subscribed.wait(WAIT_S)
        self.publish(cabinet.presence(), retain=True)
        self.publish(cabinet.hello())

    def _on_connect(
        self, client: Client, _user: object, _flags: ConnectFlags, _code: ReasonCode, _more: Properties | None
    ) -> None:
        client.subscribe(down_filter(self.cabinet.id), 1)

    def _on_message(self, _client: Client, _user: object, message: MQTTMessage) -> None:
        with self.heard:
            payload = bytes(message.payload)
            match parse_down(message.topic).kind:
                case Down.ACK:
                    self.acks.append(decode_ack(payload))
                    self.cabinet.acknowledged(self.acks[-1])
                case Down.POLICY:
                    self.policies.append(decode_policy(payload))
                case Down.COMMAND:
                    self.commands.append(decode_command(payload).command)
            self.heard.notify_all()

    def publish(self, message: Message, *, retain: bool = False) -> None:
        self._client.publish(message.topic, message.payload, qos=1, retain=retain).wait_for_publish(WAIT_S)

    def send(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._client.publish(message.topic, message.payload, qos=1)

    def wait(self, holds: Callable[[], object], timeout_s: float = WAIT_S) -> bool:
        with self.heard:
            return bool(self.heard.wait_for(holds, timeout_s))

    def drain(self) -> None:
        """Send what waits, again and again, until the centre has all of it."""
        for _ in range(20):
            with self.heard:
                waiting = self.cabinet.waiting()
            if not waiting:
                return
            self.send(waiting)
            self.wait(lambda: not self.cabinet.outbox, timeout_s=1.5)
        raise AssertionError(f"{len(self.cabinet.outbox)} batches were never acknowledged")

    def cut(self) -> None:
        """Vanish without a word, so that the last will speaks."""
        self._client.loop_stop()
        sock = self._client.socket()
        if sock is not None:
            sock.close()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
