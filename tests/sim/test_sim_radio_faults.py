"""What can go wrong between a sensor and the server, and that the bench counts it by itself."""

import pytest

from protocols.errors import RemoteProtocolError
from protocols.lorawan.frame import DataFrame, JoinRequest, read_frame
from protocols.lorawan.security import is_genuine
from sim.faults import FaultSettings, RadioFault
from sim.radio import LATE_S
from sim.radio_settings import GATEWAY_FAULTS, SENSOR_FAULTS
from sim.targets import Targets
from tests.sim.radio_bench import DEV_ADDR, Bench, payload, sensor

ADDR = DEV_ADDR + 1


def running(*, every_s: float = 10.0) -> Bench:
    """Return a bench with two sensors that have joined and reported."""
    bench = Bench(sensor(1, every_s=every_s), sensor(2, every_s=every_s, device="milesight-ws302"))
    bench.start()
    bench.run(40.0)
    assert len(bench.sessions) == 2
    return bench


def begin(bench: Bench, target: str, fault: RadioFault, **settings: float) -> None:
    bench.radio.begin_fault(target, fault, FaultSettings(**settings))  # type: ignore[arg-type]


def counters_of(bench: Bench, target: int) -> list[int]:
    return [frame.counter for frame, _ in bench.uplinks if frame.dev_addr == DEV_ADDR + target]


class TestLost:
    def test_a_sensors_uplinks_are_lost_and_the_others_are_not(self) -> None:
        bench = running()
        begin(bench, "sensor-1", RadioFault.LOST, probability=1.0)
        heard = len(counters_of(bench, 1))
        others = len(counters_of(bench, 2))
        bench.run(60.0)
        assert len(counters_of(bench, 1)) == heard
        assert len(counters_of(bench, 2)) >= others + 5
        assert bench.radio.air.lost >= 5

    def test_half_of_all_are_lost_if_nothing_else_is_said(self) -> None:
        bench = running()
        begin(bench, "", RadioFault.LOST)
        bench.run(2000.0)
        sent = sum(node.counters.transmissions for node in bench.radio.nodes.values())
        assert 0.4 < bench.radio.air.lost / sent < 0.6


class TestTwice:
    def test_a_frame_is_heard_by_two_antennas_and_its_datagram_comes_twice(self) -> None:
        bench = running()
        bench.rxpk.clear()
        begin(bench, "sensor-1", RadioFault.DUPLICATE)
        bench.on_rxpk = lambda _: None
        bench.run(11.0)
        mine = [rxpk for rxpk in bench.rxpk if payload(rxpk)[1] == ADDR & 0xFF]
        assert len(mine) == 4
        assert len({payload(rxpk) for rxpk in mine}) == 1
        assert len({rxpk["rssi"] for rxpk in mine}) == 2
        assert len({rxpk["tmst"] for rxpk in mine}) == 1
        assert bench.radio.air.duplicates == 1

    def test_replays_are_genuine_frames_that_the_server_has_had(self) -> None:
        bench = running()
        had = {payload(rxpk) for rxpk in bench.rxpk}
        bench.on_rxpk = lambda _: None
        begin(bench, "sensor-1", RadioFault.SILENT)
        begin(bench, "sensor-2", RadioFault.SILENT)
        bench.run(10.0)
        bench.rxpk.clear()
        begin(bench, "sensor-1", RadioFault.REPLAY, every_s=1.0)
        bench.run(20.5)
        assert bench.radio.air.replays == len(bench.rxpk) == 20
        assert {payload(rxpk) for rxpk in bench.rxpk} <= had
        bench.radio.end_fault("sensor-1", RadioFault.REPLAY)
        bench.run(20.0)
        assert bench.radio.air.replays == 20

    def test_what_never_reached_the_server_is_not_replayed(self) -> None:
        bench = Bench(sensor(every_s=10.0))
        begin(bench, "", RadioFault.GATEWAY_GONE)
        bench.start()
        bench.run(60.0)
        bench.radio.end_fault("", RadioFault.GATEWAY_GONE)
        begin(bench, "sensor-1", RadioFault.SILENT)
        bench.run(30.0)
        bench.rxpk.clear()
        begin(bench, "", RadioFault.REPLAY, every_s=1.0)
        bench.run(10.0)
        assert (bench.rxpk, bench.radio.air.replays) == ([], 0)


class TestAttacked:
    def test_forged_frames_are_never_genuine(self) -> None:
        bench = running()
        heard: list[bytes] = []
        bench.on_rxpk = lambda rxpk: heard.append(payload(rxpk))
        for name in ("sensor-1", "sensor-2"):
            begin(bench, name, RadioFault.SILENT)
        bench.run(10.0)
        heard.clear()
        begin(bench, "", RadioFault.FORGED, every_s=0.1)
        bench.run(100.05)
        assert bench.radio.air.forged == len(heard) == 1000
        assert sum(is_believed(bench, wire) for wire in heard) == 0

    def test_nothing_is_forged_of_a_sensor_of_which_nothing_was_heard(self) -> None:
        bench = Bench(sensor())
        begin(bench, "sensor-1", RadioFault.FORGED, every_s=0.5)
        begin(bench, "sensor-1", RadioFault.SILENT)
        bench.start()
        bench.run(10.0)
        assert bench.radio.air.forged == 0

    def test_garbage_reaches_the_server(self) -> None:
        bench = running()
        bench.pushed.clear()
        bench.on_rxpk = lambda _: None
        begin(bench, "", RadioFault.GARBAGE, every_s=0.5)
        bench.run(10.1)
        assert bench.radio.air.garbage == 20
        assert len(bench.pushed) >= 20


def is_believed(bench: Bench, wire: bytes) -> bool:
    """Tell whether a server with the sensors' keys would take a frame."""
    try:
        frame = read_frame(wire)
    except RemoteProtocolError:
        return False
    if isinstance(frame, JoinRequest):
        return False
    assert isinstance(frame, DataFrame)
    keys = bench.sessions.get(frame.dev_addr)
    return keys is not None and is_genuine(wire, keys.network, frame, frame.counter)


class TestSpoiled:
    def test_a_bad_crc_is_told_as_one_and_its_bytes_are_wrong(self) -> None:
        bench = running()
        begin(bench, "sensor-1", RadioFault.BAD_CRC)
        bench.run(30.0)
        assert len(bench.spoiled) == bench.radio.air.bad_crc >= 2
        assert not any(is_believed(bench, wire) for wire in bench.spoiled)
        assert bench.radio.forwarder.counters.received_bad == bench.radio.air.bad_crc

    def test_late_uplinks_keep_their_moment_and_are_answered_too_late(self) -> None:
        bench = running()
        begin(bench, "", RadioFault.LATE)
        bench.rxpk.clear()
        bench.run(9.0)
        for rxpk in bench.rxpk:
            age_us = bench.radio.forwarder.counter_at(bench.schedule.time()) - rxpk["tmst"]
            assert age_us >= LATE_S * 1e6
        bench.answers.clear()
        begin(bench, "", RadioFault.LATE, delay_s=0.25)
        bench.on_rxpk = lambda rxpk: bench.respond(rxpk, bench.sealed(ADDR), 1.0)
        bench.run(30.0)
        assert {answer["error"] for answer in bench.answers} == {"TOO_LATE"}

    def test_a_gateway_that_cannot_transmit_says_that_it_is_too_late(self) -> None:
        bench = running()
        begin(bench, "", RadioFault.NO_DOWNLINK)
        bench.answers.clear()
        bench.on_rxpk = lambda rxpk: bench.respond(rxpk, bench.sealed(ADDR), 1.0)
        bench.run(20.0)
        assert {answer["error"] for answer in bench.answers} == {"TOO_LATE"}
        assert bench.radio.nodes["sensor-1"].counters.downlinks_accepted == 0
        bench.radio.end_fault("", RadioFault.NO_DOWNLINK)
        bench.answers.clear()
        bench.run(20.0)
        assert {answer["error"] for answer in bench.answers} <= {"NONE", "COLLISION_PACKET"}

    def test_a_gateway_that_is_gone_says_and_hears_nothing_and_comes_back(self) -> None:
        bench = running()
        begin(bench, "", RadioFault.GATEWAY_GONE)
        pushed, pulled = len(bench.pushed), len(bench.pulled)
        bench.run(60.0)
        assert (len(bench.pushed), len(bench.pulled)) == (pushed, pulled)
        bench.radio.end_fault("", RadioFault.GATEWAY_GONE)
        bench.run(60.0)
        assert len(bench.pushed) > pushed
        assert len(bench.pulled) > pulled


class TestRestarted:
    def test_counters_begin_again_in_the_old_session_and_at_the_end_it_joins(self) -> None:
        bench = running()
        begin(bench, "sensor-1", RadioFault.COUNTER_RESET)
        bench.run(30.0)
        counters = counters_of(bench, 1)
        assert 0 in counters[1:]
        joins = bench.radio.nodes["sensor-1"].counters.joins
        bench.radio.end_fault("sensor-1", RadioFault.COUNTER_RESET)
        bench.run(20.0)
        assert bench.radio.nodes["sensor-1"].counters.joins == joins + 1
        assert bench.radio.nodes["sensor-1"].session is not None

    def test_a_restart_while_a_downlink_is_on_the_air_leaves_nothing_stuck(self) -> None:
        bench = running()
        bench.on_rxpk = lambda rxpk: bench.respond(rxpk, bench.sealed(ADDR), 1.0)
        node = bench.radio.nodes["sensor-1"]
        while not node._receiving:
            bench.run(0.01)
        begin(bench, "sensor-1", RadioFault.COUNTER_RESET)
        sent, taken = node.counters.uplinks, node.counters.downlinks_accepted
        bench.run(0.5)
        assert node.counters.downlinks_accepted == taken  # it was meant for the life before
        bench.run(60.0)
        assert node.counters.uplinks >= sent + 5


def test_clearing_what_is_not_there_changes_nothing() -> None:
    bench = running()
    joins = bench.radio.nodes["sensor-1"].counters.joins
    for fault in sorted(SENSOR_FAULTS):
        bench.radio.end_fault("sensor-1", fault)
    for fault in sorted(GATEWAY_FAULTS):
        bench.radio.end_fault("", fault)
    bench.run(30.0)
    assert bench.radio.nodes["sensor-1"].counters.joins == joins


def test_every_fault_can_be_switched_at_a_gateway_or_a_sensor() -> None:
    bench = running()
    targets = Targets()
    bench.radio.offer_faults(targets)
    names = targets.names()
    assert set(names) == {"radio-1", "radio-1/sensor-1", "radio-1/sensor-2"}
    assert frozenset().union(*names.values()) == {fault.value for fault in RadioFault}
    for target, faults in names.items():
        for fault in sorted(faults):
            targets.switch(target, fault).begin(FaultSettings())
    state = bench.radio.state()
    assert set(state.faults) == {fault.value for fault in GATEWAY_FAULTS}
    assert set(state.sensors["sensor-1"].faults) == {fault.value for fault in SENSOR_FAULTS}
    for target, faults in names.items():
        for fault in sorted(faults):
            targets.switch(target, fault).end()
    assert bench.radio.state().faults == []


def test_a_closed_radio_says_no_more() -> None:
    bench = running()
    begin(bench, "", RadioFault.GARBAGE, every_s=0.5)
    bench.radio.close()
    pushed = len(bench.pushed)
    bench.run(100.0)
    assert len(bench.pushed) == pushed


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_seed_gives_the_same_bytes(seed: int) -> None:
    def play() -> list[bytes]:
        bench = Bench(sensor(1, every_s=10.0), sensor(2, every_s=7.0), seed=seed)
        bench.start()
        bench.run(120.0)
        return bench.pushed

    assert play() == play()
