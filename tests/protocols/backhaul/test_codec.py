"""Messages to bytes and back: nothing lost, nothing mistaken, nothing accepted that was damaged on its way."""

import math
from collections.abc import Callable

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.backhaul import codec
from protocols.backhaul.codec import MAX_BATCH_BYTES, seal, unseal
from protocols.backhaul.messages import VERSION, Batch, Columns, Event, Layout, SignedPolicy
from protocols.clock import ClockQuality
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.model.device import StreamClass
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Fault, Quality, Reason, Sample, Value, sample
from tests.protocols.backhaul import examples

NAMES = st.text(min_size=1, max_size=12)
VALUES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**64 - 1),
    st.booleans(),
    st.text(max_size=20),
)
FAULTS = st.builds(Fault, st.sampled_from([Quality.UNCERTAIN, Quality.BAD]), st.sampled_from(Reason))


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    points = draw(st.lists(NAMES.map(PointName), min_size=1, max_size=5))
    values: list[Value | Fault] = [draw(VALUES | FAULTS) for _ in points]
    return sample(draw(NAMES.map(DeviceId)), draw(st.integers(0, 2**40)), points, values)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    taken = draw(st.lists(samples(), max_size=8))
    base_ms = taken[0].monotonic_ms if taken else 0
    events: tuple[Event, ...] = tuple(
        draw(st.lists(st.sampled_from((*examples.EVENTS, examples.CLOCK_EVENT)), max_size=4))
    )
    return Batch(
        version=VERSION,
        cabinet=examples.CABINET,
        epoch=draw(st.integers(1, 2**62)),
        stream=draw(st.sampled_from(StreamClass)),
        number=draw(st.integers(1, 2**62)),
        boot=draw(NAMES),
        base_monotonic_ms=base_ms,
        utc_offset_ms=draw(st.none() | st.integers(-(2**42), 2**42)),
        clock=draw(st.sampled_from(ClockQuality)),
        columns=codec.columns(taken, base_ms),
        events=events,
    )


def typed(taken: list[Sample]) -> list[tuple[object, ...]]:
    """Return samples so that 1, 1.0 and True differ."""
    return [
        (one.device, one.monotonic_ms, one.points, [(type(v), v) for v in one.values], one.faults)
        for one in taken
    ]


@given(st.lists(samples(), max_size=8), st.integers(0, 2**40))
def test_samples_come_back_in_order_with_their_times_faults_and_types(
    taken: list[Sample], base_ms: int
) -> None:
    batch = msgspec.structs.replace(
        examples.BATCH, base_monotonic_ms=base_ms, columns=codec.columns(taken, base_ms)
    )
    assert typed(list(codec.samples(unseal(seal(batch))))) == typed(taken)


@given(batches())
def test_a_batch_comes_back_as_it_was_sealed(batch: Batch) -> None:
    assert unseal(seal(batch)) == batch


@given(batches())
def test_sealing_is_the_same_each_time_and_hashed_by_its_bytes(batch: Batch) -> None:
    sealed = seal(batch)
    assert seal(batch) == sealed
    assert codec.batch_hash(sealed) == codec.batch_hash(bytes(sealed))
    assert len(codec.batch_hash(sealed)) == 16


def test_devices_that_are_read_alike_again_and_again_are_named_once() -> None:
    taken = [sample(DeviceId("m"), i, [PointName("a"), PointName("b")], [i, i]) for i in range(100)]
    assert codec.columns(taken, 0).layouts == (Layout(DeviceId("m"), (PointName("a"), PointName("b"))),)


@given(batches(), st.data())
def test_one_flipped_bit_is_noticed(batch: Batch, data: st.DataObject) -> None:
    sealed = bytearray(seal(batch))
    position = data.draw(st.integers(0, len(sealed) - 1))
    sealed[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        assert unseal(bytes(sealed)) == batch  # a bit of the frame's header that says nothing of the content
    except RemoteProtocolError:
        return


@given(batches(), st.data())
def test_a_batch_that_was_cut_off_or_added_to_is_refused(batch: Batch, data: st.DataObject) -> None:
    sealed = seal(batch)
    with pytest.raises(RemoteProtocolError):
        unseal(sealed[: data.draw(st.integers(0, len(sealed) - 1))])
    with pytest.raises(RemoteProtocolError):
        unseal(sealed + data.draw(st.binary(min_size=1, max_size=40)))


DECODERS: list[Callable[[bytes], object]] = [
    unseal,
    codec.decode_hello,
    codec.decode_ack,
    codec.decode_presence,
    codec.decode_command,
    codec.decode_policy,
    codec.unframe_batch,
    codec.decode_snapshot,
]
PACKED = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=16) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=20,
)


@pytest.mark.parametrize("decode", DECODERS)
@settings(max_examples=40)
@given(noise=st.binary(max_size=400) | PACKED.map(msgspec.msgpack.encode))
def test_noise_is_the_peer_s_fault_and_nothing_else(decode: Callable[[bytes], object], noise: bytes) -> None:
    try:
        decode(noise)
    except RemoteProtocolError:
        return


@pytest.mark.parametrize("decode", [unseal, codec.decode_snapshot])
@given(content=PACKED)
def test_noise_within_a_sound_frame_is_the_peer_s_fault_and_nothing_else(
    decode: Callable[[bytes], object], content: object
) -> None:
    sealed = zstandard.ZstdCompressor(write_checksum=True).compress(msgspec.msgpack.encode(content))
    with pytest.raises(RemoteProtocolError):
        decode(sealed)


def test_a_small_message_never_becomes_a_large_memory() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(MAX_BATCH_BYTES + 1))
    assert len(bomb) < 1000
    with pytest.raises(RemoteProtocolError, match=f"{MAX_BATCH_BYTES + 1} bytes"):
        unseal(bomb)


def test_a_message_that_hides_its_size_is_refused() -> None:
    endless = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(MAX_BATCH_BYTES * 4))
    with pytest.raises(RemoteProtocolError):
        unseal(endless)


def test_a_message_that_lies_about_its_size_is_refused() -> None:
    header = bytes.fromhex("28b52ffd") + bytes([0b10100000]) + (2**31).to_bytes(4, "little")
    with pytest.raises(RemoteProtocolError):
        unseal(header + bytes(100))


@pytest.mark.parametrize("decode", DECODERS[1:6])
def test_a_huge_message_is_refused_before_it_is_read(decode: Callable[[bytes], object]) -> None:
    with pytest.raises(RemoteProtocolError, match="bytes"):
        decode(bytes(MAX_BATCH_BYTES + 1))


@pytest.mark.parametrize("decode", DECODERS[1:6])
def test_a_message_nested_without_end_is_refused(decode: Callable[[bytes], object]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(b"\x91" * 100_000)


def test_a_batch_that_nobody_would_unpack_is_not_sealed() -> None:
    values = tuple("x" * 1000 for _ in range(5000))
    points = (PointName("text"),)
    columns = Columns((Layout(DeviceId("d"), points),), (0,) * 5000, (0,) * 5000, values)
    with pytest.raises(LocalProtocolError, match="at most"):
        seal(msgspec.structs.replace(examples.BATCH, columns=columns))


@given(st.lists(samples(), max_size=8), st.none() | st.integers(-(2**42), 2**42))
def test_a_snapshot_comes_back_as_it_was_told(taken: list[Sample], offset_ms: int | None) -> None:
    made_ms = max((one.monotonic_ms for one in taken), default=0)
    said = msgspec.structs.replace(
        examples.SNAPSHOT,
        base_monotonic_ms=made_ms,
        utc_offset_ms=offset_ms,
        columns=codec.columns(taken, made_ms),
    )
    heard = codec.decode_snapshot(codec.encode_snapshot(said))
    assert heard == said
    assert typed(list(codec.samples(heard))) == typed(taken)


def test_a_snapshot_of_what_is_to_come_is_refused() -> None:
    columns = msgspec.structs.replace(examples.SNAPSHOT.columns, at_ms=(-1, 1))
    early = codec.encode_snapshot(msgspec.structs.replace(examples.SNAPSHOT, columns=columns))
    with pytest.raises(RemoteProtocolError, match="after it was made"):
        codec.decode_snapshot(early)


def test_a_snapshot_is_bounded_at_both_ends() -> None:
    text = (Layout(DeviceId("d"), (PointName("text"),)),)
    large = Columns(text, (0,), (0,), ("x" * codec.MAX_SNAPSHOT_BYTES,))
    with pytest.raises(LocalProtocolError, match="a snapshot of"):
        codec.encode_snapshot(msgspec.structs.replace(examples.SNAPSHOT, columns=large))
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(codec.MAX_SNAPSHOT_BYTES + 1))
    with pytest.raises(RemoteProtocolError, match=f"a snapshot of {codec.MAX_SNAPSHOT_BYTES + 1} bytes"):
        codec.decode_snapshot(bomb)


def test_a_damaged_snapshot_is_refused_as_one() -> None:
    damaged = bytearray(codec.encode_snapshot(examples.SNAPSHOT))
    damaged[-1] ^= 1
    with pytest.raises(RemoteProtocolError, match="a damaged snapshot"):
        codec.decode_snapshot(bytes(damaged))


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, "\ud800"])
def test_what_messagepack_cannot_say_is_our_own_fault(value: Value) -> None:
    columns = Columns((Layout(DeviceId("d"), (PointName("p"),)),), (0,), (0,), (value,))
    with pytest.raises(LocalProtocolError):
        seal(msgspec.structs.replace(examples.BATCH, columns=columns))
    with pytest.raises(LocalProtocolError):
        codec.encode(msgspec.structs.replace(examples.PRESENCE, boot=value))


LAYOUTS = (Layout(DeviceId("d"), (PointName("a"), PointName("b"))),)


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        (Columns(LAYOUTS, (0, 0), (0,), (1, 2, 3, 4)), "differ in length"),
        (Columns(LAYOUTS, (1,), (0,), (1, 2)), "layout 1 of 1"),
        (Columns(LAYOUTS, (-1,), (0,), (1, 2)), "layout -1 of 1"),
        (Columns(LAYOUTS, (0,), (0,), (1,)), "fewer values"),
        (Columns(LAYOUTS, (0,), (0,), (1, 2, 3)), "more values"),
        (Columns(LAYOUTS, (0,), (0,), (1, 2), ((2, Quality.BAD, Reason.REFUSED),)), "does not have"),
        (Columns(LAYOUTS, (0,), (0,), (1, 2), ((-1, Quality.BAD, Reason.REFUSED),)), "does not have"),
    ],
)
def test_columns_that_do_not_fit_together_are_refused(columns: Columns, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        list(codec.samples(msgspec.structs.replace(examples.BATCH, columns=columns)))


@given(st.integers(0, 2**64 - 1), st.binary(min_size=1))
def test_a_published_batch_carries_its_stream_s_floor_in_front(floor: int, sealed: bytes) -> None:
    assert codec.unframe_batch(codec.frame_batch(floor, sealed)) == (floor, sealed)


@pytest.mark.parametrize("size", [0, 7, 8])
def test_a_published_batch_without_content_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match="too short"):
        codec.unframe_batch(bytes(size))


@pytest.mark.parametrize(
    "refused",
    [
        lambda: unseal(seal(msgspec.structs.replace(examples.BATCH, version=2))),
        lambda: codec.decode_snapshot(
            codec.encode_snapshot(msgspec.structs.replace(examples.SNAPSHOT, version=2))
        ),
        lambda: codec.decode_hello(codec.encode(msgspec.structs.replace(examples.HELLO, version=2))),
        lambda: codec.decode_command(codec.encode(msgspec.structs.replace(examples.COMMAND, version=2))),
    ],
)
def test_a_message_of_another_version_is_refused_by_its_version(refused: Callable[[], object]) -> None:
    with pytest.raises(RemoteProtocolError, match="version 2; this end knows 1"):
        refused()


def test_a_command_that_cannot_be_meant_is_refused_before_anybody_sees_it() -> None:
    absurd = msgspec.structs.replace(examples.COMMAND.command, value=math.nan)
    with pytest.raises(RemoteProtocolError):
        codec.decode_command(
            codec.encode(msgspec.structs.replace(examples.COMMAND, command=absurd)),
        )


def test_a_signed_policy_keeps_its_exact_bytes() -> None:
    body = bytes(range(256))
    signed = SignedPolicy(body, examples.POLICY.key, b"s" * 64)
    assert codec.decode_policy(codec.encode(signed)) == signed
