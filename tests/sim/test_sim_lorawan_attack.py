"""What the attacker makes: pure, the same from the same seed, of every kind, and never to be believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import RemoteProtocolError
from protocols.lorawan.frame import DataFrame, JoinRequest, read_frame
from protocols.lorawan.security import Key, is_genuine, is_genuine_join
from sim.lorawan_attack import MAX_FRAME, Attack, Victim, forgeries, victim_of
from sim.lorawan_crypto import Session, write_join_request

SESSION = Session(0x26011BDA, bytes(range(16)), bytes(range(16, 32)))
APP_KEY = bytes(range(32, 48))
JOIN = write_join_request(APP_KEY, 1, 2, 7)


def victim(count: int = 20) -> Victim:
    known, _ = victim_of(SESSION, count, seed=1)
    return Victim(known.dev_addr, known.frames, known.next_counter, dev_eui=2, join_eui=1, joins=(JOIN,))


def believed(wire: bytes, next_counter: int) -> bool:
    """Tell whether a server that has had everything before `next_counter` would take a frame as new."""
    try:
        frame = read_frame(wire)
    except RemoteProtocolError:
        return False
    if isinstance(frame, JoinRequest):
        return is_genuine_join(wire, Key(APP_KEY)) and frame.dev_nonce != 7
    assert isinstance(frame, DataFrame)
    if not frame.uplink or frame.dev_addr != SESSION.dev_addr:
        return False
    counter = next_counter + (frame.counter - next_counter) % 0x10000
    return is_genuine(wire, Key(SESSION.network_key), frame, counter)


def test_ten_thousand_attacks_of_every_kind_are_none_that_could_be_believed() -> None:
    made = forgeries(victim(), 10_000, seed=7)
    assert {one.attack for one in made} == set(Attack)
    assert [one.attack for one in made if believed(one.frame, 20)] == []


def test_the_check_itself_believes_what_is_genuine() -> None:
    _, frames = victim_of(SESSION, 21, seed=1)
    assert believed(frames[20], 20)
    assert believed(write_join_request(APP_KEY, 1, 2, 8), 20)


@given(seed=st.integers(0, 2**32), count=st.integers(0, 40))
def test_the_same_seed_gives_the_same_attacks(seed: int, count: int) -> None:
    once, again = (forgeries(victim(3), count, seed) for _ in range(2))
    assert once == again
    assert len(once) == count
    assert all(len(one.frame) <= MAX_FRAME for one in once)


def test_only_replays_are_what_was_heard() -> None:
    known = victim()
    for one in forgeries(known, 3000, seed=3):
        was_heard = one.frame in known.frames or one.frame == JOIN
        assert was_heard is (one.attack in {Attack.REPLAY, Attack.JOIN_REPLAY})


def test_without_a_join_overheard_none_is_replayed() -> None:
    known, _ = victim_of(SESSION, 3, seed=1)
    assert Attack.JOIN_REPLAY not in {one.attack for one in forgeries(known, 200, seed=1)}


@pytest.mark.parametrize("attack", list(Attack))
def test_one_kind_can_be_asked_for(attack: Attack) -> None:
    assert {one.attack for one in forgeries(victim(), 5, seed=1, kinds=(attack,))} == {attack}
