"""Positions told to the cabinet itself: who is not of the fleet is not listened to."""

import hmac
import subprocess

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.backhaul import codec
from protocols.backhaul.datagram import (
    KEY_BYTES,
    MAX_DATAGRAM_BYTES,
    TAG_BYTES,
    DatagramError,
    DatagramRefusal,
    open_position,
    seal_position,
)
from protocols.backhaul.messages import Position
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.model.priority import VehicleType
from tests.protocols.backhaul.examples import POSITION

KEY = bytes(range(KEY_BYTES))
POSITIONS = st.builds(
    Position,
    version=st.just(1),
    pseudonym=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True),
    at_ms=st.integers(0, 2**53 - 1),
    latitude=st.floats(-90, 90),
    longitude=st.floats(-180, 180),
    heading_deg=st.floats(0, 360, exclude_max=True),
    speed_m_s=st.floats(0, 100),
    vehicle_type=st.sampled_from(VehicleType),
    route=st.text(max_size=32).filter(lambda text: text.isprintable()),
    direction=st.text("01ABCDé", max_size=8),
    doors_open=st.none() | st.booleans(),
    lateness_s=st.none() | st.integers(-7200, 7200),
)


@given(POSITIONS)
def test_a_position_comes_out_as_it_went_in(position: Position) -> None:
    datagram = seal_position(position, KEY)
    assert len(datagram) <= MAX_DATAGRAM_BYTES
    assert open_position(datagram, KEY) == position


def test_the_tag_is_what_openssl_makes_of_it() -> None:
    """OpenSSL is the second witness of HMAC-SHA256 and of where it is cut."""
    datagram = seal_position(POSITION, KEY)
    assert datagram[0] == 1
    assert datagram[1:-TAG_BYTES] == codec.encode(POSITION)
    made = subprocess.run(
        ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{KEY.hex()}", "-binary"],
        input=datagram[:-TAG_BYTES],
        capture_output=True,
        check=True,
        timeout=20,
    )
    assert datagram[-TAG_BYTES:] == made.stdout[:16]


@given(st.data())
def test_a_single_tampered_byte_is_refused(data: st.DataObject) -> None:
    datagram = bytearray(seal_position(POSITION, KEY))
    datagram[data.draw(st.integers(0, len(datagram) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteProtocolError, match="tag"):
        open_position(bytes(datagram), KEY)


@given(st.integers(0, 200))
def test_a_datagram_that_was_cut_is_refused(size: int) -> None:
    datagram = seal_position(POSITION, KEY)
    with pytest.raises(RemoteProtocolError):
        open_position(datagram[: min(size, len(datagram) - 1)], KEY)


@given(st.binary(max_size=1500))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        open_position(noise, KEY)


def test_a_datagram_of_another_fleet_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="tag"):
        open_position(seal_position(POSITION, bytes(KEY_BYTES)), KEY)


def sealed(content: bytes) -> bytes:
    return content + hmac.digest(KEY, content, "sha256")[:TAG_BYTES]


def test_what_the_fleet_itself_says_wrongly_is_named() -> None:
    with pytest.raises(RemoteProtocolError, match="version 2"):
        open_position(sealed(b"\x02" + codec.encode(POSITION)), KEY)
    with pytest.raises(RemoteProtocolError, match="not a position"):
        open_position(sealed(b"\x01\x00"), KEY)
    newer = msgspec.structs.replace(POSITION, version=2)
    with pytest.raises(RemoteProtocolError, match="position of version 2"):
        open_position(sealed(b"\x01" + codec.encode(newer)), KEY)


@pytest.mark.parametrize(
    ("datagram", "refusal"),
    [
        (b"", DatagramRefusal.SIZE),
        (bytes(1 + TAG_BYTES), DatagramRefusal.SIZE),
        (bytes(MAX_DATAGRAM_BYTES + 1), DatagramRefusal.SIZE),
        (bytes(2 + TAG_BYTES), DatagramRefusal.TAG),
        (seal_position(POSITION, bytes(KEY_BYTES)), DatagramRefusal.TAG),
        (sealed(b"\x02" + codec.encode(POSITION)), DatagramRefusal.VERSION),
        (sealed(b"\x01\x00"), DatagramRefusal.CONTENT),
    ],
)
def test_each_refusal_has_its_name(datagram: bytes, refusal: DatagramRefusal) -> None:
    with pytest.raises(DatagramError) as caught:
        open_position(datagram, KEY)
    assert caught.value.refusal is refusal


def test_a_key_has_thirty_two_bytes() -> None:
    with pytest.raises(LocalProtocolError, match="31 bytes"):
        seal_position(POSITION, KEY[1:])
    with pytest.raises(LocalProtocolError, match="31 bytes"):
        open_position(seal_position(POSITION, KEY), KEY[1:])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latitude", 90.5),
        ("longitude", float("nan")),
        ("heading_deg", 360.0),
        ("speed_m_s", -1.0),
        ("speed_m_s", float("inf")),
        ("at_ms", -1),
        ("pseudonym", "../x"),
        ("route", "x" * 33),
    ],
)
def test_a_position_that_nothing_can_have_is_refused(field: str, value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        codec.decode_position(msgspec.msgpack.encode(msgspec.structs.replace(POSITION, **{field: value})))


def test_a_position_is_small() -> None:
    padded = [*msgspec.msgpack.decode(codec.encode(POSITION)), "x" * 600]
    with pytest.raises(RemoteProtocolError, match="at most 512"):
        codec.decode_position(msgspec.msgpack.encode(padded))


@given(
    st.binary(max_size=600)
    | st.recursive(st.none() | st.integers(-5, 5) | st.text(), st.lists).map(msgspec.msgpack.encode)
)
def test_noise_is_no_position(noise: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        codec.decode_position(noise)


@given(
    st.integers(0, 11), st.none() | st.booleans() | st.floats() | st.text() | st.integers(-(2**63), 2**64 - 1)
)
def test_a_position_with_one_wild_field_is_refused_or_sound(field: int, wild: object) -> None:
    fields = msgspec.msgpack.decode(codec.encode(POSITION))
    fields[field] = wild
    try:
        position = codec.decode_position(msgspec.msgpack.encode(fields))
    except RemoteProtocolError:
        return
    assert -90 <= position.latitude <= 90
    assert -180 <= position.longitude <= 180
    assert 0 <= position.heading_deg < 360
    assert 0 <= position.speed_m_s <= 100
