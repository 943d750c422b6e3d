"""What is believed of adverts: repetitions, recordings, downgrades, floods."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ble.belief import (
    BURST,
    EVENT_REPEATED_MS,
    RATE_PER_S,
    RECENT,
    STATE_RENEWED_MS,
    Belief,
    Heard,
)
from protocols.ble.profiles import Format
from protocols.ble.refusal import Refusal, RefusedError
from protocols.model.reading import Fault, Quality, Reason
from tests.protocols.ble.sealing import ADDRESS, KEY, seal

WARM = bytes.fromhex("02ca09")
PRESS = bytes.fromhex("403a01")


def plain(number: int) -> bytes:
    return bytes((0x40, 0x3D)) + number.to_bytes(2, "little")


def stranger() -> Belief:
    return Belief(Format.BTHOME, ADDRESS)


def keyed(counter: int | None = None) -> Belief:
    return Belief(Format.BTHOME, ADDRESS, KEY, counter)


def refused(belief: Belief, data: bytes, now_ms: int = 0) -> Refusal:
    with pytest.raises(RefusedError) as caught:
        belief.judge(data, now_ms)
    return caught.value.refusal


def told(heard: Heard | None) -> list[object]:
    assert heard is not None
    return [one.value for one in heard.said]


def test_an_encrypted_packet_is_believed_once_and_never_again() -> None:
    belief = keyed()
    packets = [seal(WARM, counter) for counter in (5, 6, 9)]
    for data, counter in zip(packets, (5, 6, 9), strict=True):
        heard = belief.judge(data, 0)
        assert told(heard) == [25.06]
        assert heard is not None
        assert heard.counter == belief.counter == counter
    assert belief.judge(packets[2], 0) is None, "the same again proves nothing"
    for old in packets[:2]:
        assert refused(belief, old) is Refusal.COUNTER_BACK
    assert belief.counter == 9


def test_a_counter_that_was_kept_holds_for_the_next_life() -> None:
    belief = keyed(9)
    assert belief.judge(seal(WARM, 9), 0) is None
    assert refused(belief, seal(WARM, 0)) is Refusal.COUNTER_BACK
    assert told(belief.judge(seal(WARM, 10), 0)) == [25.06]


def test_a_sensor_whose_counter_began_anew_is_named_as_such() -> None:
    with pytest.raises(RefusedError, match=r"from 900 to 3\b.*battery.*admit it anew"):
        keyed(900).judge(seal(WARM, 3), 0)


def test_a_counter_at_its_end_does_not_wrap() -> None:
    belief = keyed(2**32 - 1)
    assert refused(belief, seal(WARM, 0)) is Refusal.COUNTER_BACK


def test_a_forgery_does_not_move_the_counter() -> None:
    belief = keyed(1)
    assert refused(belief, seal(WARM, 2**32 - 1, key=bytes(16))) is Refusal.FORGED
    assert belief.counter == 1
    assert told(belief.judge(seal(WARM, 2), 0)) == [25.06]


def test_a_plain_packet_of_a_device_with_a_key_is_refused() -> None:
    assert refused(keyed(), b"\x40" + WARM) is Refusal.PLAIN
    assert keyed().keyed


def test_an_encrypted_packet_without_a_key_is_refused() -> None:
    assert refused(stranger(), seal(WARM, 1)) is Refusal.NO_KEY
    assert not stranger().keyed


def test_a_key_is_in_no_representation() -> None:
    belief = keyed()
    assert KEY.hex() not in repr(belief)
    assert not hasattr(belief, "__dict__")


def test_a_press_is_told_once_however_long_it_is_repeated() -> None:
    belief = stranger()
    assert told(belief.judge(PRESS, 0)) == ["press"]
    now_ms = 0
    for _ in range(30):
        now_ms += EVENT_REPEATED_MS
        assert belief.judge(PRESS, now_ms) == Heard((), repeated=True)
    assert told(belief.judge(PRESS, now_ms + EVENT_REPEATED_MS + 1)) == ["press"]


def test_presses_with_numbers_of_their_own_are_as_many() -> None:
    belief = stranger()
    for number in range(5):
        assert told(belief.judge(bytes((0x40, 0x00, number, 0x3A, 0x01)), 100 * number)) == ["press"]


def test_two_adverts_that_take_turns_are_told_once_each() -> None:
    belief = stranger()
    first, second = b"\x40\x00\x01\x3a\x01", b"\x40\x00\x02\x3a\x04"
    said = [told(belief.judge(data, 50 * i)) for i, data in enumerate([first, second] * 10)]
    assert [one for one in said if one] == [["press"], ["long_press"]]


def test_a_state_that_is_repeated_is_told_anew_each_minute() -> None:
    belief = stranger()
    times = [
        now_ms for now_ms in range(0, 3 * STATE_RENEWED_MS, 1000) if told(belief.judge(plain(7), now_ms))
    ]
    assert times == [0, STATE_RENEWED_MS, 2 * STATE_RENEWED_MS]


def test_the_memory_of_adverts_is_bounded_and_forgets_the_oldest() -> None:
    belief = stranger()
    for number in range(RECENT + 1):
        belief.judge(plain(number), 1000 * number)
    assert len(belief._recent) == RECENT
    assert told(belief.judge(plain(RECENT), 1000 * RECENT)) == []
    assert told(belief.judge(plain(0), 1000 * RECENT)) == [0]


def test_a_flood_is_cut_and_what_was_cut_may_be_said_again() -> None:
    belief = stranger()
    outcomes = []
    for number in range(10 * BURST):
        try:
            outcomes.append(bool(told(belief.judge(plain(number), 0))))
        except RefusedError as fault:
            assert fault.refusal is Refusal.FLOOD  # noqa: PT017  only this refusal is meant
            outcomes.append(False)
    assert sum(outcomes) == BURST
    assert outcomes.index(False) == BURST
    assert told(belief.judge(plain(BURST), 1000 // RATE_PER_S)) == [BURST]
    assert refused(belief, plain(BURST + 1), 1000 // RATE_PER_S) is Refusal.FLOOD


def test_a_flood_of_encrypted_packets_is_cut_and_does_not_move_the_counter() -> None:
    belief = keyed()
    for counter in range(BURST):
        belief.judge(seal(WARM, counter), 0)
    assert refused(belief, seal(WARM, 1000)) is Refusal.FLOOD
    assert belief.counter == BURST - 1


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=200))
def test_nobody_says_more_than_the_rate_whatever_the_rhythm(pauses: list[int]) -> None:
    belief = stranger()
    now_ms = believed = 0
    for number, pause in enumerate(pauses):
        now_ms += pause // 50
        try:
            believed += bool(told(belief.judge(plain(number), now_ms)))
        except RefusedError:
            continue
    assert believed <= BURST + now_ms * RATE_PER_S / 1000


def test_a_beacon_tells_its_voltage_temperature_and_uptime() -> None:
    belief = Belief(Format.EDDYSTONE, ADDRESS)
    heard = belief.judge(bytes.fromhex("20000bb819800000010200000a0b"), 0)
    assert heard is not None
    assert {one.point: one.value for one in heard.said} == {
        "battery_voltage": 3.0,
        "temperature": 25.5,
        "uptime": 257.1,
    }
    missing = belief.judge(bytes.fromhex("200000008000 0000000100000001"), 0)
    not_available = Fault(Quality.BAD, Reason.NOT_AVAILABLE)
    assert told(missing) == [not_available, not_available, 0.1]
    assert belief.judge(bytes(18), 0) == Heard(())


@given(st.lists(st.binary(max_size=30), max_size=30))
def test_noise_moves_nothing(noise: list[bytes]) -> None:
    belief = keyed(77)
    for data in noise:
        with pytest.raises(RefusedError):
            belief.judge(data, 0)
    assert belief.counter == 77


@given(st.permutations(range(12)), st.data())
def test_counters_believed_only_ever_grow(order: list[int], data: st.DataObject) -> None:
    """In whatever order, and however often, packets arrive."""
    belief, believed = keyed(), []
    again = data.draw(st.lists(st.sampled_from(order), max_size=20))
    for counter in [*order, *again]:
        try:
            heard = belief.judge(seal(WARM, counter), 1000 * counter)
        except RefusedError:
            continue
        if heard is not None:
            believed.append(counter)
    assert believed == sorted(set(believed))
