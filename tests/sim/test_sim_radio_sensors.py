"""Each device's bytes, written by the bench, are read by the product's codec as what was true."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.lorawan.payloads import CODECS
from protocols.model.ids import PointName
from protocols.model.reading import Fault
from sim.radio_sensors import WRITERS, Sensor
from sim.radio_truth import DAY_MS, HOUR_MS, Truth

START_MS = 1_764_000_000_000
truths = st.builds(
    Truth,
    seed=st.sampled_from(["a", "b", "c"]),
    civil_ms=st.integers(START_MS, START_MS + 400 * DAY_MS),
    sun_deg=st.floats(-66, 66),
)


def test_the_bench_plays_exactly_the_makes_that_are_decoded() -> None:
    assert WRITERS.keys() == CODECS.keys()


@pytest.mark.parametrize("device", sorted(WRITERS))
@given(moments=st.lists(truths, min_size=1, max_size=4), switches=st.integers(0, 255))
def test_what_was_true_is_what_is_read(device: str, moments: list[Truth], switches: int) -> None:
    waiting = list(moments)
    sensor = Sensor(device, lambda: waiting.pop(0))
    sensor.switches = switches
    for _ in moments:
        report = sensor.report()
        read = CODECS[device].decode(report.port, report.payload)
        told = {name: read[PointName(name)] for name in report.truth}
        assert told == pytest.approx(report.truth)
        assert not [name for name, value in read.items() if isinstance(value, Fault)]


@pytest.mark.parametrize("index", range(8))
def test_a_switch_obeys_the_products_command(index: int) -> None:
    codec = CODECS["milesight-ws558"]
    sensor = Sensor("milesight-ws558", lambda: Truth("a", START_MS, 0.0))
    sensor.switches = 0b10101010
    assert codec.encode is not None
    for on in (True, False):
        name = PointName(f"switch_{index + 1}")
        assert sensor.command(*codec.encode(name, on))
        report = sensor.report()
        assert codec.decode(report.port, report.payload)[name] is on
    assert sensor.switches == 0b10101010 & ~(1 << index)


@pytest.mark.parametrize(
    ("port", "payload"), [(84, "080101"), (85, "0801"), (85, "090101"), (85, "08010100")]
)
def test_a_switch_does_not_obey_what_it_does_not_know(port: int, payload: str) -> None:
    sensor = Sensor("milesight-ws558", lambda: Truth("a", START_MS, 0.0))
    assert not sensor.command(port, bytes.fromhex(payload))
    assert not Sensor("bosch-tps110", lambda: Truth("a", START_MS, 0.0)).command(85, b"\x08\x01\x01")


def test_a_bin_fills_by_day_and_is_emptied_in_the_morning() -> None:
    levels = [Truth("a", START_MS - START_MS % DAY_MS + hour * HOUR_MS, 0.0).filling() for hour in range(48)]
    assert levels[6] == levels[30] == 0.0
    assert levels[6:30] == sorted(levels[6:30])
    assert levels[29] > 0.4


@given(start=st.integers(START_MS, START_MS + 400 * DAY_MS), hours=st.integers(0, 100))
def test_a_water_meter_never_runs_backwards(start: int, hours: int) -> None:
    before = Truth("a", start, 0.0).litres()
    after = Truth("a", start + hours * HOUR_MS, 0.0).litres()
    assert before <= after <= before + 260 * (hours // 24 + 2)
    assert Truth("a", start + hours * HOUR_MS, 0.0).litres(hours) == before
