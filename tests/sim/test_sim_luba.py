"""LUBA frames: any split, any garbage, and the published example."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.luba import MAX_PAYLOAD, SYNC, Command, LubaFrame, LubaReceiver, encode

luba_frames = st.builds(LubaFrame, st.integers(0, 255), st.binary(max_size=MAX_PAYLOAD))
# what cannot be the start of a frame: noise that holds no sync byte
quiet_noise = st.binary(max_size=40).map(lambda noise: noise.replace(bytes((SYNC,)), b"\x00"))


def split(wire: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    return [wire[start:end] for start, end in pairwise(places)]


def received_by(receiver: LubaReceiver, chunks: list[bytes]) -> list[LubaFrame]:
    return [frame for chunk in chunks for frame in receiver.receive(chunk)]


def test_the_published_example_has_the_published_bytes() -> None:
    """Reference, lighting §5: DAPC A3 200 at priority 5."""
    frame = LubaFrame(Command.ADD_FRAME, bytes.fromhex("001005 06C8 0000"))
    assert encode(frame) == bytes.fromhex("59 32 07 00 10 05 06 C8 00 00 EE")


@given(st.lists(luba_frames), st.lists(st.integers(0)))
def test_any_split_gives_the_same_frames(frames: list[LubaFrame], cuts: list[int]) -> None:
    wire = b"".join(encode(frame) for frame in frames)
    assert received_by(LubaReceiver(), split(wire, cuts)) == frames


@given(st.lists(st.tuples(quiet_noise, luba_frames)), st.lists(st.integers(0)))
def test_noise_between_frames_costs_no_frame(noisy: list[tuple[bytes, LubaFrame]], cuts: list[int]) -> None:
    wire = b"".join(noise + encode(frame) for noise, frame in noisy)
    receiver = LubaReceiver()
    assert received_by(receiver, split(wire, cuts)) == [frame for _, frame in noisy]
    assert receiver.noise_bytes == sum(len(noise) for noise, _ in noisy)


@given(st.binary(max_size=200), luba_frames)
def test_after_any_garbage_and_a_gap_a_frame_is_heard(garbage: bytes, frame: LubaFrame) -> None:
    receiver = LubaReceiver()
    receiver.receive(garbage)
    receiver.gap()
    assert receiver.receive(encode(frame)) == [frame]


@given(st.lists(st.binary(max_size=60)))
def test_whatever_comes_less_than_a_frame_is_held(chunks: list[bytes]) -> None:
    receiver = LubaReceiver()
    for chunk in chunks:
        receiver.receive(chunk)
        assert len(receiver._buffer) < MAX_PAYLOAD + 4


def test_a_frame_with_a_flipped_bit_is_not_heard() -> None:
    wire = bytearray(encode(LubaFrame(Command.READ_STATUS, b"\x00")))
    wire[3] ^= 0x10
    assert LubaReceiver().receive(bytes(wire)) == []


def test_a_payload_that_no_client_accepts_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 23"):
        encode(LubaFrame(Command.EVENT, bytes(24)))
