"""The packet forwarder at the wire: keep-alive, receptions, downlinks and what becomes of them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.lorawan.frame import DataFrame, read_frame
from protocols.lorawan.semtech_udp import PullData, PushData, TxAck, read_datagram
from sim.lorawan_node import Sent
from sim.packet_forwarder import MAX_QUEUE
from tests.sim.radio_bench import DEV_ADDR, GATEWAY, Bench, payload, sensor

WRAP = 2**32


def started(*, counter_us: int = 0) -> Bench:
    bench = Bench(counter_us=counter_us)
    bench.start()
    return bench


def txpk(bench: Bench, in_s: float = 1.0, **changes: object) -> dict[str, Any]:
    now = bench.radio.forwarder.counter_at(bench.schedule.time())
    asked: dict[str, Any] = {
        "tmst": (now + round(in_s * 1e6)) % WRAP,
        "freq": 868.1,
        "rfch": 0,
        "powe": 14,
        "modu": "LORA",
        "datr": "SF7BW125",
        "codr": "4/5",
        "ipol": True,
        "ncrc": True,
        "size": 4,
        "data": "AQIDBA",
    }
    return {name: value for name, value in (asked | changes).items() if value is not None}


def test_it_keeps_the_way_open_and_says_who_it_is() -> None:
    bench = started()
    bench.run(35.0)
    said = [read_datagram(datagram) for datagram in bench.pulled]
    assert len(said) == 4
    assert all(isinstance(one, PullData) and one.gateway == int(GATEWAY, 16) for one in said)
    assert bench.radio.forwarder.counters.pulls_acked == 4


def test_it_says_how_it_is() -> None:
    bench = started()
    bench.run(65.0)
    stats = [json.loads(datagram[12:])["stat"] for datagram in bench.pushed]
    assert [stat["rxnb"] for stat in stats] == [0, 0]
    assert (stats[0]["ackr"], stats[1]["ackr"]) == (0.0, 100.0)


def test_receptions_are_what_the_products_codec_reads() -> None:
    bench = Bench(sensor())
    bench.start()
    bench.run(10.0)
    (first, *_) = [read_datagram(datagram) for datagram in bench.pushed]
    assert isinstance(first, PushData)
    (reception,) = first.receptions
    assert (reception.frequency_hz, len(reception.payload)) == (round(bench.rxpk[0]["freq"] * 1e6), 23)
    assert reception.tmst == 61_696  # at the end of the frame


def test_the_counter_of_receptions_wraps_at_32_bits() -> None:
    bench = Bench(sensor(), counter_us=WRAP - 30_000)
    bench.start()
    bench.run(1.0)
    assert [rxpk["tmst"] for rxpk in bench.rxpk] == [31_696]


def test_a_downlink_goes_out_at_its_moment_even_where_the_counter_wraps() -> None:
    sent: list[Sent] = []
    bench = started(counter_us=WRAP - 500_000)
    bench.radio.forwarder._transmit = sent.append
    begun_s = bench.schedule.time()
    bench.ask(txpk(bench, 1.0))
    assert txpk(bench, 1.0)["tmst"] == 500_000
    bench.run(2.0)
    assert bench.answers == [{"error": "NONE"}]
    assert sent[0].start_s == pytest.approx(begun_s + 1.0, abs=1e-6)
    assert (sent[0].frame, sent[0].frequency_hz, sent[0].inverted) == (b"\x01\x02\x03\x04", 868_100_000, True)


@pytest.mark.parametrize(
    ("in_s", "changes", "said"),
    [
        (1.0, {}, {"error": "NONE"}),
        (0.02, {}, {"error": "TOO_LATE"}),
        (-1.0, {}, {"error": "TOO_LATE"}),
        (-2000.0, {}, {"error": "TOO_LATE"}),
        (385.0, {}, {"error": "TOO_EARLY"}),
        (2000.0, {}, {"error": "TOO_EARLY"}),
        (1.0, {"freq": 915.2}, {"error": "TX_FREQ"}),
        (1.0, {"tmst": None, "tmms": 1000}, {"error": "GPS_UNLOCKED"}),
        (1.0, {"tmst": None, "imme": True}, {"error": "NONE"}),
        (1.0, {"powe": 30}, {"warn": "TX_POWER", "value": 27}),
        (1.0, {"data": "AQIDBA=="}, {"error": "NONE"}),
    ],
)
def test_each_downlink_is_answered(in_s: float, changes: dict[str, object], said: dict[str, object]) -> None:
    bench = started(counter_us=WRAP - 500_000)
    bench.ask(txpk(bench, in_s, **changes))
    assert bench.answers == [said]
    datagram = bench.pulled[-1]
    answer = read_datagram(datagram)
    assert isinstance(answer, TxAck)
    assert (answer.gateway, answer.token) == (int(GATEWAY, 16), 1)


def test_two_downlinks_at_once_cannot_both_go_out() -> None:
    bench = started()
    bench.ask(txpk(bench, 1.0))
    bench.ask(txpk(bench, 1.02, freq=868.3))
    bench.ask(txpk(bench, 1.2, freq=868.3))
    assert [answer["error"] for answer in bench.answers] == ["NONE", "COLLISION_PACKET", "NONE"]
    bench.run(3.0)
    assert bench.radio.forwarder.counters.transmitted == 2


def test_its_queue_is_bounded() -> None:
    bench = started()
    for number in range(MAX_QUEUE + 1):
        bench.ask(txpk(bench, 1.0 + number))
    assert [answer["error"] for answer in bench.answers] == ["NONE"] * MAX_QUEUE + ["COLLISION_PACKET"]
    bench.run(40.0)
    bench.ask(txpk(bench, 1.0))
    assert bench.answers[-1] == {"error": "NONE"}


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 5},
        {"data": "A"},
        {"data": "@@@@@@"},
        {"datr": 50000},
        {"datr": "SF6BW125"},
        {"modu": "FSK"},
        {"codr": None},
        {"freq": None},
        {"size": "4"},
    ],
)
def test_a_downlink_that_means_nothing_is_counted_and_goes_nowhere(changes: dict[str, object]) -> None:
    bench = started()
    bench.ask(txpk(bench, 1.0, **changes))
    bench.run(3.0)
    assert bench.answers == []
    assert bench.radio.forwarder.counters.unreadable == 1
    assert bench.radio.forwarder.counters.transmitted == 0


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda noise: b"\x02\0\0\x03" + noise))
def test_noise_from_the_server_harms_nothing(datagram: bytes) -> None:
    bench = started()
    bench.radio.receive(datagram)
    bench.run(1.0)
    assert bench.radio.forwarder.counters.transmitted == 0
    assert bench.answers == []


def test_acks_that_nobody_awaits_are_not_counted() -> None:
    bench = started()
    bench.silent = True
    bench.run(1000.0)
    bench.radio.receive(b"\x02\xaa\xbb\x01")
    assert bench.radio.forwarder.counters.pushes_acked == 0
    assert len(bench.radio.forwarder._pending) <= MAX_QUEUE


def test_what_sensors_say_while_it_transmits_is_lost_where_the_air_is_real() -> None:
    bench = Bench(sensor(every_s=5.0), collisions=True)
    bench.start()
    bench.run(30.0)
    heard = len(bench.rxpk)
    frame = bytes(200)
    bench.ask(txpk(bench, 0.1, datr="SF12BW125", size=200, data="A" * 267, freq=869.525))
    bench.run(5.0)
    assert len(frame) == 200
    assert bench.radio.air.collided >= 1
    assert len(bench.rxpk) - heard <= 1


def test_a_frame_that_is_on_the_air_when_it_begins_to_transmit_is_lost_too() -> None:
    bench = Bench(sensor(), collisions=True)
    bench.start()
    bench.run(0.01)
    bench.ask(txpk(bench, tmst=None, imme=True))  # in 30 ms, and the join request lasts 62
    bench.run(1.0)
    assert (bench.rxpk, bench.radio.air.collided) == ([], 1)


def test_frames_of_one_sensor_reach_the_server_in_order_of_their_counters() -> None:
    bench = Bench(sensor(every_s=10.0))
    bench.start()
    bench.run(120.0)
    frames = [read_frame(payload(rxpk)) for rxpk in bench.rxpk]
    data = [frame for frame in frames if isinstance(frame, DataFrame)]
    assert [frame.counter for frame in data] == list(range(len(data)))
    assert {frame.dev_addr for frame in data} == {DEV_ADDR + 1}
