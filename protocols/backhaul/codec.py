"""Messages to bytes and back.

A batch is sealed once: MessagePack, then zstd with its content checksum, and from then on the bytes stored
are the bytes sent and the bytes hashed. On the way it is preceded by its stream's floor, which may rise while
it waits.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec
import zstandard

from protocols.backhaul.messages import (
    VERSION,
    Ack,
    Batch,
    Columns,
    CommandMessage,
    Hello,
    Layout,
    Position,
    Presence,
    SignedPolicy,
    Snapshot,
)
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Fault, Sample, Value

MAX_BATCH_BYTES = 4 << 20
"""Nobody seals more, so nobody unpacks more: a small message must not become a large memory."""
MAX_SNAPSHOT_BYTES = 128 << 10
"""Unpacked: some thousands of readings. A cabinet that has more to say tells it in several."""
ZSTD_LEVEL = 3
MAX_POSITION_BYTES = 512
"""A position has about 100; whoever sends more has something else in mind."""

_FLOOR = struct.Struct(">Q")
_ENCODER = msgspec.msgpack.Encoder()
_COMPRESSOR = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
_DECOMPRESSOR = zstandard.ZstdDecompressor()
_BATCH = msgspec.msgpack.Decoder(Batch)
_SNAPSHOT = msgspec.msgpack.Decoder(Snapshot)
_HELLO = msgspec.msgpack.Decoder(Hello)
_ACK = msgspec.msgpack.Decoder(Ack)
_PRESENCE = msgspec.msgpack.Decoder(Presence)
_COMMAND = msgspec.msgpack.Decoder(CommandMessage)
_POLICY = msgspec.msgpack.Decoder(SignedPolicy)
_POSITION = msgspec.msgpack.Decoder(Position)

T = TypeVar("T")
_LayoutKey = tuple[DeviceId, tuple[PointName, ...]]


def columns(samples: Sequence[Sample], base_monotonic_ms: int) -> Columns:
    """Turn samples into columns; times become relative to `base_monotonic_ms`."""
    known: dict[_LayoutKey, int] = {}
    layout: list[int] = []
    at_ms: list[int] = []
    values: list[Value] = []
    faults = []
    for one in samples:
        layout.append(known.setdefault((one.device, one.points), len(known)))
        at_ms.append(one.monotonic_ms - base_monotonic_ms)
        if one.faults:
            start = len(values)
            faults += [(start + i, fault.quality, fault.reason) for i, fault in sorted(one.faults.items())]
        values += one.values
    return Columns(
        layouts=tuple(Layout(device, points) for device, points in known),
        layout=tuple(layout),
        at_ms=tuple(at_ms),
        values=tuple(values),
        faults=tuple(faults),
    )


def samples(batch: Batch | Snapshot) -> Iterator[Sample]:
    """Yield the samples of a batch, in the order in which they were taken, or of a snapshot.

    Raises:
        RemoteProtocolError: if the columns do not fit together.
    """
    table = batch.columns
    if len(table.layout) != len(table.at_ms):
        raise RemoteProtocolError("a batch's columns differ in length")
    faults = {index: Fault(quality, reason) for index, quality, reason in table.faults}
    if any(not 0 <= index < len(table.values) for index in faults):
        raise RemoteProtocolError("a batch names a fault of a value that it does not have")
    start = 0
    for index, at_ms in zip(table.layout, table.at_ms, strict=True):
        if not 0 <= index < len(table.layouts):
            raise RemoteProtocolError(f"a batch names layout {index} of {len(table.layouts)}")
        layout = table.layouts[index]
        end = start + len(layout.points)
        values = table.values[start:end]
        if len(values) != len(layout.points):
            raise RemoteProtocolError("a batch has fewer values than its layouts say")
        yield Sample(
            device=layout.device,
            monotonic_ms=batch.base_monotonic_ms + at_ms,
            points=layout.points,
            values=values,
            faults={i - start: faults[i] for i in range(start, end) if i in faults} if faults else {},
        )
        start = end
    if start != len(table.values):
        raise RemoteProtocolError("a batch has more values than its layouts say")


def seal(batch: Batch) -> bytes:
    """Return the bytes of a batch, which are final.

    Raises:
        LocalProtocolError: if it is larger than anybody unpacks, or holds what MessagePack cannot say.
    """
    return _compress(batch, MAX_BATCH_BYTES)


def unseal(sealed: bytes) -> Batch:
    """Read a sealed batch.

    Raises:
        RemoteProtocolError: if the bytes are damaged, too large, or no batch of a version that we know.
    """
    batch = _decode(_BATCH.decode, _decompress(sealed, MAX_BATCH_BYTES, "batch"), "batch")
    if batch.version != VERSION:
        raise RemoteProtocolError(f"a batch of version {batch.version}; this end knows {VERSION}")
    return batch


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Return a snapshot's bytes: MessagePack, then zstd with its content checksum, like a batch's.

    Raises:
        LocalProtocolError: if it is larger than anybody unpacks, or holds what MessagePack cannot say.
    """
    return _compress(snapshot, MAX_SNAPSHOT_BYTES)


def decode_snapshot(payload: bytes) -> Snapshot:
    """Read a snapshot.

    Raises:
        RemoteProtocolError: if the bytes are damaged, too large, no snapshot of a version that we know, or tell of
            what happened after it was made.
    """
    snapshot = _decode(_SNAPSHOT.decode, _decompress(payload, MAX_SNAPSHOT_BYTES, "snapshot"), "snapshot")
    if snapshot.version != VERSION:
        raise RemoteProtocolError(f"a snapshot of version {snapshot.version}; this end knows {VERSION}")
    if any(at_ms > 0 for at_ms in snapshot.columns.at_ms):
        raise RemoteProtocolError("a snapshot tells of what happened after it was made")
    return snapshot


def _compress(message: Batch | Snapshot, most: int) -> bytes:
    packed = _encode(message)
    if len(packed) > most:
        what = type(message).__name__.lower()
        raise LocalProtocolError(f"a {what} of {len(packed)} bytes; at most {most} are accepted")
    return _COMPRESSOR.compress(packed)


def _decompress(sealed: bytes, most: int, what: str) -> bytes:
    try:
        size = zstandard.frame_content_size(sealed)
        if not 0 < size <= most:
            raise RemoteProtocolError(f"a {what} of {size} bytes; at most {most} are accepted")
        return _DECOMPRESSOR.decompress(sealed, max_output_size=most, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise RemoteProtocolError(f"a damaged {what}: {error}") from error


def batch_hash(sealed: bytes) -> str:
    """Return the hash by which both ends compare a sealed batch: BLAKE2b, 8 bytes, in hexadecimal."""
    return hashlib.blake2b(sealed, digest_size=8).hexdigest()


def frame_batch(floor: int, sealed: bytes) -> bytes:
    """Return what is published: the stream's floor as of now, then the sealed bytes."""
    return _FLOOR.pack(floor) + sealed


def unframe_batch(payload: bytes) -> tuple[int, bytes]:
    """Take a published batch apart into floor and sealed bytes.

    Raises:
        RemoteProtocolError: if it is too short to be one.
    """
    if len(payload) <= _FLOOR.size:
        raise RemoteProtocolError(f"a batch of {len(payload)} bytes is too short to be one")
    return _FLOOR.unpack_from(payload)[0], payload[_FLOOR.size :]


def encode(message: Hello | Ack | Presence | CommandMessage | SignedPolicy | Position) -> bytes:
    """Return a message's bytes.

    Raises:
        LocalProtocolError: if it holds what MessagePack cannot say.
    """
    return _encode(message)


def _encode(
    message: Batch | Snapshot | Hello | Ack | Presence | CommandMessage | SignedPolicy | Position,
) -> bytes:
    try:
        return _ENCODER.encode(message)
    except (OverflowError, UnicodeEncodeError) as error:  # an integer beyond 64 bits, half a surrogate pair
        raise LocalProtocolError(f"cannot be said in MessagePack: {error}") from error


def decode_hello(payload: bytes) -> Hello:
    """Read a hello. Raises RemoteProtocolError."""
    hello = _decode(_HELLO.decode, payload, "hello")
    if hello.version != VERSION:
        raise RemoteProtocolError(f"a hello of version {hello.version}; this end knows {VERSION}")
    return hello


def decode_ack(payload: bytes) -> Ack:
    """Read an acknowledgement. Raises RemoteProtocolError."""
    return _decode(_ACK.decode, payload, "acknowledgement")


def decode_presence(payload: bytes) -> Presence:
    """Read a cabinet's presence. Raises RemoteProtocolError."""
    return _decode(_PRESENCE.decode, payload, "presence")


def decode_command(payload: bytes) -> CommandMessage:
    """Read a command on its way down. Raises RemoteProtocolError."""
    message = _decode(_COMMAND.decode, payload, "command")
    if message.version != VERSION:
        raise RemoteProtocolError(f"a command of version {message.version}; this end knows {VERSION}")
    return message


def decode_policy(payload: bytes) -> SignedPolicy:
    """Read a signed policy, without judging it. Raises RemoteProtocolError."""
    return _decode(_POLICY.decode, payload, "policy")


def decode_position(payload: bytes) -> Position:
    """Read a vehicle's position. Raises RemoteProtocolError."""
    if len(payload) > MAX_POSITION_BYTES:
        raise RemoteProtocolError(
            f"a position of {len(payload)} bytes; at most {MAX_POSITION_BYTES} are accepted"
        )
    position = _decode(_POSITION.decode, payload, "position")
    if position.version != VERSION:
        raise RemoteProtocolError(f"a position of version {position.version}; this end knows {VERSION}")
    return position


def _decode(decoder: Callable[[bytes], T], payload: bytes, what: str) -> T:
    if len(payload) > MAX_BATCH_BYTES:
        raise RemoteProtocolError(f"a {what} of {len(payload)} bytes")
    try:
        return decoder(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"not a {what}: {error}") from error
