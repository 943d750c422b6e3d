"""A class A sensor: it joins, speaks within its share of the air, and hears only what really reaches it."""

from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest

from protocols.lorawan.frame import DataFrame, JoinRequest, read_frame
from sim.faults import FaultSettings, RadioFault
from sim.lorawan_band import SubBand, airtime_s, rate_of, sub_band
from sim.lorawan_node import ADR_ACK_LIMIT, MAX_TRIES, Node
from sim.radio_settings import SensorSettings
from tests.sim.radio_bench import DEV_ADDR, Bench, payload, sensor

ADDR = DEV_ADDR + 1


def joined(one: SensorSettings | None = None) -> Bench:
    bench = Bench(one or sensor())
    bench.start()
    bench.run(5.2)  # the accept is in, the first report not yet on its way
    assert bench.radio.nodes["sensor-1"].session is not None
    return bench


def node_of(bench: Bench) -> Node:
    return bench.radio.nodes["sensor-1"]


def answering(bench: Bench, answer: Callable[[dict[str, Any], DataFrame], None]) -> None:
    """Let the server do something with each data frame."""

    def heard(rxpk: dict[str, Any]) -> None:
        bench.let_in(rxpk)
        frame = read_frame(payload(rxpk))
        if isinstance(frame, DataFrame):
            answer(rxpk, frame)

    bench.on_rxpk = heard


def replying(bench: Bench, make: Callable[[], bytes | None], delay_s: float = 1.0, **changes: object) -> None:
    """Let the server answer each data frame with a downlink, or not."""

    def answer(rxpk: dict[str, Any], _: DataFrame) -> None:
        frame = make()
        if frame is not None:
            bench.respond(rxpk, frame, delay_s, **changes)  # type: ignore[arg-type]

    answering(bench, answer)


class TestJoining:
    def test_a_join_gives_address_keys_and_channels(self) -> None:
        bench = joined()
        bench.run(60.0)
        node = node_of(bench)
        assert node.session is not None
        assert node.session.dev_addr == ADDR
        assert node.link.usable_hz()[3:] == [867_100_000, 867_300_000, 867_500_000, 867_700_000, 867_900_000]
        assert [frame.counter for frame, _ in bench.uplinks] == [0]
        assert node.counters.accepts == 1

    def test_without_an_answer_it_tries_again_more_slowly_and_with_a_new_nonce(self) -> None:
        bench = Bench(sensor())
        bench.on_rxpk = lambda _: None
        bench.start()
        bench.run(3600.0)
        requests = [read_frame(payload(rxpk)) for rxpk in bench.rxpk]
        nonces = [one.dev_nonce for one in requests if isinstance(one, JoinRequest)]
        assert nonces == list(range(1, len(nonces) + 1))
        times = [rxpk["tmst"] for rxpk in bench.rxpk]
        pauses = [after - before for before, after in pairwise(times)]
        assert pauses[-1] > 10 * pauses[0]
        assert [rxpk["datr"] for rxpk in bench.rxpk][:5] == ["SF7BW125"] * 2 + ["SF8BW125"] * 2 + ["SF9BW125"]

    def test_an_accept_of_another_key_is_refused(self) -> None:
        bench = Bench(sensor())

        def forge(rxpk: dict[str, Any]) -> None:
            bench.respond(rxpk, b"\x20" + bytes(32), 5.0)

        bench.on_rxpk = forge
        bench.start()
        bench.run(8.0)
        assert node_of(bench).session is None
        assert node_of(bench).counters.downlinks_refused == {"wrong_mic": 1}

    def test_an_accept_in_the_second_window_is_heard(self) -> None:
        bench = Bench(sensor())

        def second(rxpk: dict[str, Any]) -> None:
            frame = read_frame(payload(rxpk))
            if isinstance(frame, JoinRequest):
                bench.accept(rxpk, frame, window=2)

        bench.on_rxpk = second
        bench.start()
        bench.run(10.0)
        assert node_of(bench).session is not None


class TestListening:
    """A downlink is heard only in the right window, on the right frequency, at the right data rate."""

    @pytest.mark.parametrize(
        ("changes", "heard"),
        [
            ({}, True),
            ({"window": 2}, True),
            ({"freq": 868.9}, False),
            ({"datr": "SF9BW125"}, False),
            ({"ipol": False}, False),
            ({"window": 2, "datr": "SF9BW125"}, False),
            ({"window": 2, "freq": 868.1}, False),
        ],
    )
    def test_only_what_matches_is_heard(self, changes: dict[str, Any], heard: bool) -> None:
        bench = joined()
        replying(bench, lambda: bench.sealed(ADDR), **changes)
        bench.run(70.0)
        assert bench.answers[-1] == {"error": "NONE"}
        assert (node_of(bench).counters.downlinks_accepted > 0) is heard

    @pytest.mark.parametrize(
        ("off_s", "heard"), [(0.0, True), (0.002, True), (-0.002, True), (0.004, False), (-0.004, False)]
    )
    def test_only_a_preamble_within_the_window_is_heard(self, off_s: float, heard: bool) -> None:
        bench = joined()
        replying(bench, lambda: bench.sealed(ADDR), 1.0 + off_s)
        bench.run(70.0)
        assert (node_of(bench).counters.downlinks_accepted > 0) is heard

    def test_what_is_forged_old_or_for_others_is_refused_and_named(self) -> None:
        bench = joined(sensor(every_s=10.0))
        genuine = bench.sealed(ADDR, counter=5)
        damaged = genuine[:-1] + bytes((genuine[-1] ^ 1,))
        strange = genuine[:1] + b"\0\0\0\0" + genuine[5:]
        waiting = [
            genuine,
            genuine,
            damaged,
            strange,
            b"\xa0\0\0",
            genuine[:5] + b"\x0f" + genuine[6:],
            b"\x20" + bytes(16),
        ]
        replying(bench, lambda: waiting.pop(0) if waiting else None)
        bench.run(120.0)
        assert waiting == []
        assert node_of(bench).counters.downlinks_accepted == 1
        assert node_of(bench).counters.downlinks_refused == {
            "old_counter": 1,
            "wrong_mic": 1,
            "not_for_me": 1,
            "malformed": 2,
            "unexpected": 1,
        }

    def test_the_counter_of_downlinks_may_wrap_its_sixteen_bits(self) -> None:
        bench = joined(sensor(every_s=10.0))
        counters = [0xFFFF, 0x10000, 0x10001]
        answering(
            bench,
            lambda rxpk, _: (
                bench.respond(rxpk, bench.sealed(ADDR, counter=counters.pop(0)), 1.0) if counters else None
            ),
        )
        bench.run(60.0)
        assert node_of(bench).counter_down == 0x10001
        assert node_of(bench).counters.downlinks_refused == {}


class TestConfirmed:
    def test_an_acknowledged_uplink_is_sent_once(self) -> None:
        bench = joined(sensor(confirmed=True))
        replying(bench, lambda: bench.sealed(ADDR, ack=True))
        bench.run(180.0)
        counters = [frame.counter for frame, _ in bench.uplinks]
        assert counters == list(range(len(counters)))
        assert node_of(bench).counters.acks_heard == len(counters)
        assert node_of(bench).counters.unacknowledged == 0

    def test_one_that_is_not_is_repeated_byte_for_byte_and_more_slowly_and_then_given_up(self) -> None:
        bench = joined(sensor(confirmed=True, every_s=3600.0))
        bench.run(3000.0)
        data = [rxpk for rxpk in bench.rxpk if payload(rxpk)[0] == 0x80]
        assert len(data) == MAX_TRIES
        assert len({payload(rxpk) for rxpk in data}) == 1
        assert [rxpk["datr"] for rxpk in data][::2] == ["SF7BW125", "SF8BW125", "SF9BW125", "SF10BW125"]
        assert (node_of(bench).counters.uplinks, node_of(bench).counters.unacknowledged) == (1, 1)

    def test_a_confirmed_downlink_is_acknowledged_soon(self) -> None:
        bench = joined(sensor(every_s=600.0))
        once = [True]
        replying(bench, lambda: bench.sealed(ADDR, confirmed=once.pop()) if once else None)
        bench.run(60.0)
        assert [frame.ack for frame, _ in bench.uplinks][:2] == [False, True]


class TestCommands:
    """LoRaWAN 1.0.3, chapter 5: what a network asks, and the answer in the next uplink."""

    @pytest.mark.parametrize(
        ("asked", "answered"),
        [
            ("06", "06c809"),  # DevStatusReq: battery 200, margin 9 dB
            ("0351070001", "0307"),  # LinkADRReq: DR5, power 1, channels 0-2, once
            ("035107ff01", "0306"),  # channels that it does not have
            ("0391070001", "0305"),  # a data rate that it does not have
            ("0359070001", "0303"),  # a power that it does not have
            ("0407", "04"),  # DutyCycleReq
            ("0503d2ad84", "0507"),  # RXParamSetupReq: RX2 869.525 MHz DR3
            ("0563d2ad84", "0503"),  # an offset that there is not
            ("0708287684" + "50", "0703"),  # NewChannelReq: 868.1 MHz as channel 8
            ("0700287684" + "50", "0702"),  # a channel that must stay
            ("0802", "08"),  # RXTimingSetupReq
            ("0a03287684", "0a00"),  # DlChannelReq
            ("0d0000000000", ""),
            ("fe06", ""),  # unknown: nothing behind it is read
            ("03", ""),  # cut off
        ],
    )
    @pytest.mark.parametrize("port_zero", [False, True])
    def test_each_is_answered(self, asked: str, answered: str, port_zero: bool) -> None:
        bench = joined(sensor(every_s=20.0))
        waiting = [bytes.fromhex(asked)]

        def ask(rxpk: dict[str, Any], _: DataFrame) -> None:
            if waiting:
                said = waiting.pop()
                fields: dict[str, Any] = {"port": 0, "payload": said} if port_zero else {"options": said}
                bench.respond(rxpk, bench.sealed(ADDR, **fields), 1.0)

        answering(bench, ask)
        before = deepcopy(node_of(bench).link)
        bench.run(40.0)
        assert bench.uplinks[1][0].options.hex() == answered
        changes = answered[-2:] in {"07", "04", "08"} or answered == "0703"
        assert (node_of(bench).link != before) is changes

    def test_a_data_rate_that_is_ordered_is_used(self) -> None:
        bench = joined(sensor(every_s=60.0))
        answering(
            bench,
            lambda rxpk, _: bench.respond(rxpk, bench.sealed(ADDR, options=bytes.fromhex("0321070002")), 1.0),
        )
        bench.run(200.0)
        rates = [rxpk["datr"] for rxpk in bench.rxpk if payload(rxpk)[0] == 0x40]
        assert (rates[0], rates[-1]) == ("SF7BW125", "SF10BW125")

    def test_new_windows_are_used(self) -> None:
        bench = joined(sensor(every_s=30.0))
        asked = [bytes.fromhex("08020513d2ad84")]

        def ask(rxpk: dict[str, Any], _: DataFrame) -> None:
            if asked:
                bench.respond(rxpk, bench.sealed(ADDR, options=asked.pop()), 1.0)
            else:
                bench.respond(rxpk, bench.sealed(ADDR), 2.0, datr="SF8BW125")  # offset 1 below SF7

        answering(bench, ask)
        bench.run(60.0)
        assert node_of(bench).counters.downlinks_accepted >= 2

    def test_windows_asked_for_are_confirmed_until_the_network_is_heard_again(self) -> None:
        bench = joined(sensor(every_s=20.0))
        asked = [bytes.fromhex("0801")]
        answering(
            bench,
            lambda rxpk, _: (
                bench.respond(rxpk, bench.sealed(ADDR, options=asked.pop()), 1.0) if asked else None
            ),
        )
        bench.run(90.0)
        assert [frame.options.hex() for frame, _ in bench.uplinks[1:4]] == ["08", "08", "08"]

    def test_a_link_check_is_asked_now_and_then_and_counted(self) -> None:
        bench = joined(sensor(every_s=20.0))

        def check(rxpk: dict[str, Any], frame: DataFrame) -> None:
            if b"\x02" in frame.options:
                bench.respond(rxpk, bench.sealed(ADDR, options=b"\x02\x14\x01"), 1.0)

        answering(bench, check)
        bench.run(17 * 20.0)
        # with the first report and with the seventeenth
        assert [index for index, (frame, _) in enumerate(bench.uplinks) if frame.options] == [0, 16]
        assert node_of(bench).counters.link_checks == 2

    def test_a_command_reaches_the_device_and_is_reported_at_once(self) -> None:
        bench = joined(sensor(device="milesight-ws558", every_s=600.0))
        waiting = [b"\x08\x05\x04"]

        def ask(rxpk: dict[str, Any], _: DataFrame) -> None:
            if waiting:
                bench.respond(rxpk, bench.sealed(ADDR, port=85, payload=waiting.pop()), 1.0)

        answering(bench, ask)
        bench.run(60.0)
        assert bench.radio.devices["sensor-1"].switches == 0b100
        assert [said[-2:].hex() for _, said in bench.uplinks] == ["0000", "0004"]
        assert node_of(bench).counters.commands == 1

    def test_a_command_that_means_nothing_is_counted(self) -> None:
        bench = joined()
        answering(
            bench,
            lambda rxpk, _: bench.respond(rxpk, bench.sealed(ADDR, port=85, payload=b"\x08\xff\xff"), 1.0),
        )
        bench.run(30.0)
        assert node_of(bench).counters.commands_not_understood == 1


class TestTheAir:
    def test_no_sub_band_is_used_beyond_its_share(self) -> None:
        bench = joined(sensor(every_s=1.0))
        bench.run(3600.0)
        used: dict[SubBand, list[float]] = {}
        for rxpk in bench.rxpk:
            band, rate = sub_band(round(rxpk["freq"] * 1e6)), rate_of(rxpk["datr"])
            assert band is not None
            assert rate is not None
            used.setdefault(band, []).append(airtime_s(rxpk["size"], rate, crc=True))
        assert len(used) == 2
        for band, times_s in used.items():
            # the last one of all still has its rest before it
            assert 0.95 * 3600 * band.share <= sum(times_s) <= 3600 * band.share + max(times_s)

    def test_an_unheard_network_is_asked_for_and_then_the_sensor_slows_down(self) -> None:
        bench = joined(sensor(every_s=120.0))
        bench.run(120.0 * (ADR_ACK_LIMIT + 70))
        asked = [frame.adr_ack_req for frame, _ in bench.uplinks]
        assert asked[:ADR_ACK_LIMIT] == [False] * ADR_ACK_LIMIT
        assert all(asked[ADR_ACK_LIMIT:])
        rates = [rxpk["datr"] for rxpk in bench.rxpk if payload(rxpk)[0] == 0x40]
        assert rates[ADR_ACK_LIMIT + 20] == "SF7BW125"
        assert rates[-1] == "SF9BW125"

    def test_what_does_not_fit_the_data_rate_is_not_sent_half(self) -> None:
        bench = joined(sensor(device="axioma-qalcosonic-w1", every_s=300.0))
        answering(
            bench,
            lambda rxpk, _: bench.respond(rxpk, bench.sealed(ADDR, options=bytes.fromhex("0301070001")), 1.0),
        )
        bench.run(1000.0)
        # 51 bytes just fit at SF12, and then the answer to the command has to wait
        assert {len(said) for _, said in bench.uplinks} == {51}
        assert [frame.options for frame, _ in bench.uplinks[1:]] == [b""] * (len(bench.uplinks) - 1)

    def test_frames_that_meet_are_lost_where_the_air_is_real(self) -> None:
        bench = Bench(*(sensor(index, every_s=10.0) for index in range(1, 30)), collisions=True)
        bench.start()
        bench.run(120.0)
        assert bench.radio.air.collided > 0
        assert bench.radio.air.lost == bench.radio.air.collided

    def test_a_silent_sensor_says_nothing_and_then_goes_on_where_it_was(self) -> None:
        bench = joined(sensor(every_s=10.0))
        bench.run(30.0)
        said = len(bench.uplinks)
        bench.radio.begin_fault("sensor-1", RadioFault.SILENT, FaultSettings())
        bench.run(60.0)
        assert len(bench.uplinks) == said
        bench.radio.end_fault("sensor-1", RadioFault.SILENT)
        bench.run(60.0)
        assert [frame.counter for frame, _ in bench.uplinks] == list(range(len(bench.uplinks)))
        assert len(bench.uplinks) > said

    def test_a_sensor_that_is_silent_from_the_beginning_joins_later(self) -> None:
        bench = Bench(sensor(every_s=10.0))
        bench.radio.begin_fault("sensor-1", RadioFault.SILENT, FaultSettings())
        bench.start()
        bench.run(60.0)
        assert bench.rxpk == []
        bench.radio.end_fault("sensor-1", RadioFault.SILENT)
        bench.run(60.0)
        assert bench.uplinks
