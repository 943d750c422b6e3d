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
from protocols.backhaul.topics import SHARDS, Down, shard
from protocols.model.ids import CabinetId
from tests.central.cabinet_double import CabinetDouble
from tests.central.certificates import Authority
from tests.central.desk import TestClock
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
            assert heard.wait(1)  # its presence is retained: we are subscribed
            hello = cabinet.cabinet.hello()
            cabinet.publish(msgspec.structs.replace(hello, payload=bytes(mqtt.MAX_PACKET_BYTES)))
            before = len(heard.topics)
            cabinet.publish(hello)
            assert heard.wait(before + 1)
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


def test_it_hears_the_shards_that_it_was_told_to_and_no_others_across_a_reconnection(
    tmp_path: Path, port: int, link: Link, heard: Heard
) -> None:
    first, second = CabinetDouble("cab-1"), CabinetDouble("cab-2")
    here, there = frozenset({shard(first.id)}), frozenset({shard(second.id)})
    assert here != there
    with mosquitto(tmp_path, port) as url:
        assert eventually(lambda: link.connected)
        link.listen(here)
        wired = [LiveCabinet(one, url, mqtt5=True) for one in (first, second)]
        try:
            assert eventually(lambda: _told(heard) >= {"cab-1"})
            left = threading.Event()
            link.listen(there, left.set)
            assert left.wait(WAIT_S)
            heard.topics.clear()
            wired[0].publish(first.hello())
            wired[1].publish(second.hello())
            assert eventually(lambda: "cab-2" in _told(heard))
            assert _told(heard) == {"cab-2"}
        finally:
            for one in wired:
                one.close()
    assert eventually(lambda: not link.connected)
    at_once = threading.Event()
    link.listen(here, at_once.set)
    assert at_once.is_set()
    heard.topics.clear()
    with mosquitto(tmp_path, port) as url:
        assert eventually(lambda: link.connected)
        wired = [LiveCabinet(one, url, mqtt5=True) for one in (second, first)]
        try:
            assert eventually(lambda: "cab-1" in _told(heard))
            assert _told(heard) == {"cab-1"}
        finally:
            for one in wired:
                one.close()


def _told(heard: Heard) -> set[str]:
    return {topic.split("/")[4] for topic in list(heard.topics)}


def test_an_answer_that_never_comes_gives_up_what_was_to_be_left(
    tmp_path: Path, port: int, link: Link
) -> None:
    """The broker dies between the wish to unsubscribe and its answer: nothing more can come then either."""
    with mosquitto(tmp_path, port):
        assert eventually(lambda: link.connected)
        link._client.on_unsubscribe = None  # as if the answer were lost
        left = threading.Event()
        link.listen(frozenset(), left.set)
        assert not left.is_set()
    assert left.wait(WAIT_S)


def test_who_lost_the_broker_a_moment_ago_still_counts_as_hearing(
    tmp_path: Path, port: int, heard: Heard
) -> None:
    clock = TestClock()
    link = Link(plain(port), "luciole-central-test", clock, heard)
    assert not link.hears()
    link.start()
    with mosquitto(tmp_path, port):
        assert eventually(link.hears)
    assert eventually(lambda: not link.connected)
    assert link.hears()
    clock.pass_s(mqtt.BREATH_MS / 1000)
    assert not link.hears()
    link.stop()


def test_a_session_that_a_broker_kept_brings_no_shard_back_that_was_given_away(
    tmp_path: Path, port: int, heard: Heard
) -> None:
    first, second = CabinetDouble("cab-1"), CabinetDouble("cab-2")
    with mosquitto(tmp_path, port) as url:
        for cabinet in (first, second):
            heard.topics.clear()
            link = Link(plain(port), "luciole-central-test", SystemClock(), heard)
            link.listen(frozenset({shard(cabinet.id)}))
            link.start()
            assert eventually(lambda one=link: one.connected)  # type: ignore[misc]  # a lambda with a default
            wired = [LiveCabinet(one, url, mqtt5=True) for one in (first, second)]
            try:
                wired[1].publish(second.hello())
                wired[0].publish(first.hello())
                assert eventually(lambda one=cabinet: one.id in _told(heard))  # type: ignore[misc]  # as above
            finally:
                for one in wired:
                    one.close()
                link.stop()
            assert _told(heard) == {cabinet.id}
