"""Golden bytes of release 0.1: what is on the wire and in outboxes out there stays readable for ever."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from protocols.backhaul import codec
from protocols.backhaul.messages import Event
from tests.protocols.backhaul import examples

VECTORS = Path(__file__).parents[2] / "vectors" / "backhaul-0.1"

MESSAGES: dict[str, tuple[Any, Callable[[bytes], Any]]] = {
    "hello": (examples.HELLO, codec.decode_hello),
    "ack": (examples.ACK, codec.decode_ack),
    "presence": (examples.PRESENCE, codec.decode_presence),
    "command": (examples.COMMAND, codec.decode_command),
    "policy": (examples.POLICY, codec.decode_policy),
    "position": (examples.POSITION, codec.decode_position),
    "priority_event": (examples.PRIORITY_EVENT, msgspec.msgpack.Decoder(Event).decode),
    "clock_event": (examples.CLOCK_EVENT, msgspec.msgpack.Decoder(Event).decode),
    "batch": (examples.BATCH, codec.unseal),
    "snapshot": (examples.SNAPSHOT, codec.decode_snapshot),
}
COMPRESSED: dict[str, Callable[[Any], bytes]] = {"batch": codec.seal, "snapshot": codec.encode_snapshot}


def golden(name: str) -> bytes:
    return bytes.fromhex((VECTORS / f"{name}.hex").read_text(encoding="ascii"))


def packed(name: str, content: bytes) -> bytes:
    """Return a message's MessagePack: some is within zstd, whose next version may pack it otherwise."""
    return zstandard.ZstdDecompressor().decompress(content) if name in COMPRESSED else content


def written(name: str) -> bytes:
    message, _ = MESSAGES[name]
    write = COMPRESSED.get(name)
    return codec.encode(message) if write is None else write(message)


def test_there_are_golden_bytes_of_each_message() -> None:
    assert {path.stem for path in VECTORS.glob("*.hex")} == set(MESSAGES)


@pytest.mark.parametrize("name", MESSAGES)
def test_golden_bytes_mean_what_they_meant(name: str) -> None:
    meant = msgspec.json.decode((VECTORS / f"{name}.json").read_bytes())
    _, decode = MESSAGES[name]
    assert msgspec.json.decode(msgspec.json.encode(decode(golden(name)))) == meant


@pytest.mark.parametrize("name", MESSAGES)
def test_what_is_written_today_is_what_was_written_then(name: str) -> None:
    message, decode = MESSAGES[name]
    assert decode(golden(name)) == message
    assert packed(name, written(name)) == packed(name, golden(name))


@pytest.mark.parametrize("name", MESSAGES)
def test_an_older_reader_ignores_what_a_newer_writer_adds(name: str) -> None:
    message, decode = MESSAGES[name]
    fields = msgspec.msgpack.decode(packed(name, golden(name)))
    content = msgspec.msgpack.encode([*fields, "something new", {"and": 1}])
    newer = zstandard.ZstdCompressor(write_checksum=True).compress(content) if name in COMPRESSED else content
    assert decode(newer) == message


def test_an_older_reader_ignores_what_a_newer_writer_adds_within_a_batch() -> None:
    fields = msgspec.msgpack.decode(packed("batch", golden("batch")))
    columns, events = 9, 10
    fields[columns].append("a new column")
    fields[columns][0][0].append("a layout's new field")
    for event in fields[events]:
        event.append("an event's new field")
    content = zstandard.ZstdCompressor(write_checksum=True).compress(msgspec.msgpack.encode(fields))
    assert codec.unseal(content) == examples.BATCH
