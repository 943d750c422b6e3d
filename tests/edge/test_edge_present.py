"""The present beside a backlog: what has changed, each point once, never too much, and again if it may be lost."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from edge.present import EVERY_S, MAX_READINGS, RENEW_S, Present
from protocols.backhaul.codec import MAX_SNAPSHOT_BYTES, decode_snapshot, samples
from protocols.backhaul.messages import Snapshot
from protocols.clock import ClockQuality
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Fault, Quality, Reason, Sample, Value, sample
from tests.edge.bench import CABINET, HandClock

A, B = PointName("a"), PointName("b")


class Street:
    """What the agent knows of its devices."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.latest: dict[DeviceId, dict[str, Sample]] = {}
        self.present = Present(CABINET, "boot-1", self.clock, self.latest)
        self.now_s = 0.0

    def read(
        self, device: str, values: Sequence[Value | Fault], points: Sequence[PointName] = (A, B)
    ) -> None:
        one = sample(DeviceId(device), self.clock.monotonic_ms, points, values)
        self.latest.setdefault(one.device, {}).update(dict.fromkeys(one.points, one))

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.now_s += seconds

    def snapshot(self) -> Snapshot | None:
        content = self.present.snapshot(self.now_s)
        return None if content is None else decode_snapshot(content)

    def told(self) -> dict[tuple[str, str], Value]:
        """Return what the next snapshot tells."""
        said = self.snapshot()
        return {} if said is None else values_in(said)


def values_in(said: Snapshot) -> dict[tuple[str, str], Value]:
    return {
        (one.device, point): value
        for one in samples(said)
        for point, value in zip(one.points, one.values, strict=True)
    }


@pytest.fixture
def street() -> Street:
    return Street()


def test_nothing_is_told_of_a_street_that_says_nothing(street: Street) -> None:
    assert street.snapshot() is None


def test_the_first_tells_everything_and_the_next_what_has_changed(street: Street) -> None:
    street.read("d", [1, 2])
    street.read("e", [3, 4])
    assert street.told() == {("d", A): 1, ("d", B): 2, ("e", A): 3, ("e", B): 4}
    assert street.told() == {}
    street.advance(2)
    street.read("d", [1, 5])
    street.read("e", [3, 4])
    assert street.told() == {("d", B): 5}


def test_of_many_readings_only_the_last_is_told(street: Street) -> None:
    for value in range(50):
        street.read("d", [value, 0])
        street.advance(0.01)
    assert street.told() == {("d", A): 49, ("d", B): 0}


def test_points_that_were_read_apart_keep_their_own_times(street: Street) -> None:
    street.read("d", [1], [A])
    street.advance(3)
    street.read("d", [2], [B])
    street.advance(1)
    said = street.snapshot()
    assert said is not None
    assert [(one.points, one.monotonic_ms) for one in samples(said)] == [((A,), 1_000_000), ((B,), 1_003_000)]
    assert said.base_monotonic_ms == 1_004_000
    assert said.utc_offset_ms == street.clock.utc_ms - street.clock.monotonic_ms


@pytest.mark.parametrize(
    ("before", "after"),
    [(1, True), (1, 1.0), (0.0, False), (1, Fault(Quality.BAD, Reason.NO_ANSWER)), ("1", 1)],
)
def test_another_kind_of_value_or_a_fault_is_a_change(
    street: Street, before: Value | Fault, after: Value | Fault
) -> None:
    for value in (before, after, before):
        street.read("d", [value], [A])
        said = street.snapshot()
        assert said is not None
        (one,) = samples(said)
        assert (one.values, one.faults) == (street.latest[DeviceId("d")][A].values, one.faults)


def test_what_may_have_been_lost_is_told_again_after_a_while(street: Street) -> None:
    street.read("d", [1], [A])
    assert street.told() == {("d", A): 1}
    street.advance(RENEW_S - 1)
    street.read("d", [1], [A])
    assert street.told() == {}
    street.advance(1)
    assert street.told() == {("d", A): 1}
    street.advance(RENEW_S)
    assert street.told() == {}  # not read since: there is nothing new to say


def test_another_connection_is_told_everything(street: Street) -> None:
    street.read("d", [1], [A])
    street.told()
    street.present.forget()
    assert street.told() == {("d", A): 1}


def test_no_snapshot_is_too_large_and_everybody_has_a_turn(street: Street) -> None:
    for number in range(3 * MAX_READINGS):
        street.read(f"d{number}", [number], [A])
    told: dict[tuple[str, str], Value] = {}
    for _ in range(3):
        said = street.told()
        assert len(said) == MAX_READINGS
        told |= said
        for number in range(50):  # those that change all the time do not keep the others waiting
            street.advance(0.01)
            street.read(f"d{number}", [-number - street.now_s], [A])
    assert len(told) == 3 * MAX_READINGS


def test_long_texts_are_told_in_several(street: Street) -> None:
    for number in range(40):
        street.read(f"d{number}", ["x" * 10_000], [A])
    told: dict[tuple[str, str], Value] = {}
    while said := street.present.snapshot(street.now_s):
        assert len(said) < MAX_SNAPSHOT_BYTES
        told |= values_in(decode_snapshot(said))
        street.now_s += 1
    assert len(told) == 40


def test_a_value_that_cannot_be_said_is_named_and_keeps_nobody_else_from_being_told(street: Street) -> None:
    street.read("huge", ["x" * 2 * MAX_SNAPSHOT_BYTES], [A])
    street.read("beyond", [2**70], [A])
    for number in range(10):
        street.read(f"d{number}", [number], [A])
    told: dict[tuple[str, str], Value] = {}
    with capture_logs() as logs:
        for _ in range(12):
            told |= street.told()
            street.now_s += 1
    assert len(told) == 10
    named = [log["device"] for log in logs if log["event"] == "present_cannot_be_told"]
    assert sorted(named) == ["beyond", "huge"]


@pytest.mark.parametrize("quality", ClockQuality)
def test_it_says_how_far_its_clock_can_be_trusted(street: Street, quality: ClockQuality) -> None:
    street.clock.quality = quality
    street.read("d", [1], [A])
    said = street.snapshot()
    assert said is not None
    assert (said.utc_offset_ms, said.clock) == (street.clock.utc_ms - street.clock.monotonic_ms, quality)


def test_a_turn_comes_every_so_often_and_one_that_was_not_taken_is_gone(street: Street) -> None:
    assert street.present.claim(0)
    assert not street.present.claim(EVERY_S - 0.1)
    assert street.present.claim(2.5 * EVERY_S)
    assert not street.present.claim(2.5 * EVERY_S + 0.1)


def test_after_a_turn_that_was_given_up_the_next_comes_soon_but_not_at_once(street: Street) -> None:
    assert street.present.claim(0)
    street.present.drop(0)
    assert not street.present.claim(0.2 * EVERY_S)
    assert street.present.claim(0.3 * EVERY_S)


STEPS = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 4), st.integers(0, 3)),
    st.tuples(st.just("tell"), st.just(0), st.just(0)),
    st.tuples(st.just("pass"), st.integers(1, 40), st.just(0)),
    st.tuples(st.just("reconnect"), st.just(0), st.just(0)),
)


@given(st.lists(STEPS, max_size=60))
def test_whoever_heard_every_snapshot_knows_the_present(steps: list[tuple[str, int, int]]) -> None:
    street = Street()
    heard: dict[tuple[str, str], Value] = {}
    for kind, first, second in steps:
        match kind:
            case "read":
                street.read(f"d{first}", [second], [A])
            case "tell":
                heard |= street.told()
                assert heard == {
                    (d, p): one.values[0] for d, ps in street.latest.items() for p, one in ps.items()
                }
            case "pass":
                street.advance(first)
            case _:
                street.present.forget()


def test_what_is_remembered_of_telling_is_one_reading_a_point(street: Street) -> None:
    for value in range(200):
        street.read("d", [value, -value])
        street.told()
        street.advance(1)
    assert len(street.present._told) == 2
