"""The way to the cabinets comes back by itself, over TLS too, and its thread is looked after."""

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from central import mqtt
from central.clock import SystemClock
from central.config import Address, BrokerSettings, Protocol, Tls
from central.effects import Downlink
from central.mqtt import Link
from protocols.backhaul.topics import SHARDS, Down
from protocols.model.ids import CabinetId
from tests.central.cabinet_double import CabinetDouble
from tests.central.certificates import Authority
from tests.central.live import WAIT_S, LiveCabinet, free_port, mosquitto


class Heard:
    """What the link delivers, in paho's thread."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.sizes: list[int] = []
        self.came = threading.Condition()
        self.fail_once = False

    def __call__(self, topic: str, payload: bytes) -> None:
        with self.came:
            if self.fail_once:
                self.fail_once = False
                raise RuntimeError("struck by lightning")
            self.topics.append(topic)
            self.sizes.append(len(payload))
            self.came.notify_all()

    def wait(self, count: int) -> bool:
        with self.came:
            return self.came.wait_for(lambda: len(self.topics) >= count, WAIT_S)


def eventually(holds: Callable[[], bool]) -> bool:
    pause = threading.Event()
    for _ in range(int(WAIT_S / 0.02)):
        if holds():
            return True
        pause.wait(0.02)
    return False


def plain(port: int) -> BrokerSettings:
    return BrokerSettings(Address("127.0.0.1", port), Protocol.MQTT_5)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def link(port: int, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    monkeypatch.setattr(mqtt, "RETRY_LEAST_S", 0.05)
    running = Link(plain(port), "luciole-central-test", SystemClock(), heard)
    running.listen(frozenset(range(SHARDS)))
    running.start()
    yield running
    running.stop()
    assert not running.connected


def test_it_connects_when_the_broker_comes_later_and_again_when_it_was_lost(
    tmp_path: Path, port: int, link: Link
) -> None:
    message = Downlink(CabinetId("cab-1"), Down.ACK, b"x", expires_ms=2**41)
    assert not link.send(message)
    for connections in (1, 2):
        with mosquitto(tmp_path, port):
            assert eventually(lambda: link.connected)
            assert (link.connections, link.why) == (connections, "")
            assert link.send(message)
        assert eventually(lambda: not link.connected)
        assert link.why
        assert not link.send(message)


def test_a_message_beyond_all_bounds_is_kept_away_by_the_broker(
    tmp_path: Path, port: int, link: Link, heard: Heard
) -> None:
    with mosquitto(tmp_path, port) as url:
        assert eventually(lambda: link.connected)
        cabinet = LiveCabinet(CabinetDouble(), url, mqtt5=True)
        try:
            hello = cabinet.cabinet.hello()
            cabinet.publish(msgspec.structs.replace(hello, payload=bytes(mqtt.MAX_PACKET_BYTES)))
            cabinet.publish(hello)
            assert heard.wait(3)
        finally:
            cabinet.close()
    assert max(heard.sizes) < mqtt.MAX_PACKET_BYTES


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",  # the thread is meant to die
    "ignore::pytest.PytestUnraisableExceptionWarning",  # and paho leaves its wake-up sockets behind
)
def test_its_thread_is_begun_again_when_it_ends(tmp_path: Path, port: int, link: Link, heard: Heard) -> None:
    with mosquitto(tmp_path, port) as url:
        assert eventually(lambda: link.connected)
        heard.fail_once = True
        cabinet = LiveCabinet(CabinetDouble(), url, mqtt5=True)
        try:
            assert eventually(lambda: not heard.fail_once)

            def revived() -> bool:
                link.watch()
                return link.connected and link.connections == 2

            assert eventually(revived)
            cabinet.publish(cabinet.cabinet.hello())
            assert heard.wait(1)
        finally:
            cabinet.close()
    gc.collect()


def test_over_tls_with_a_certificate_of_its_own(tmp_path: Path, port: int, heard: Heard) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("luciole-central")
    server_cert, server_key = authority.issue("broker")
    options = (
        f"cafile {authority.file}\ncertfile {server_cert}\nkeyfile {server_key}\n"
        "require_certificate true\ntls_version tlsv1.3\n"
    )
    with mosquitto(tmp_path, port, options):
        address = Address("127.0.0.1", port)
        good = Link(
            BrokerSettings(address, Protocol.MQTT_5, Tls(authority.file, cert, key)),
            "good",
            SystemClock(),
            heard,
        )
        nobody = Link(
            BrokerSettings(address, Protocol.MQTT_5, Tls(authority.file)), "nobody", SystemClock(), heard
        )
        try:
            good.start()
            nobody.start()
            assert eventually(lambda: good.connected)
            assert eventually(lambda: nobody.why != "not connected yet")
            assert not nobody.connected
        finally:
            good.stop()
            nobody.stop()
