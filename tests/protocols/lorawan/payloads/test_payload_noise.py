"""What holds of every codec: no noise becomes a value that the sensor cannot mean, and nothing else leaves it."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.lorawan.payloads import CODECS, PayloadCodec
from protocols.model.ids import PointName, is_id
from protocols.model.reading import Fault

codecs = st.sampled_from(sorted(CODECS.values(), key=lambda codec: codec.name))
USUAL_PORTS = (1, 2, 3, 85, 100)
PREFIXES = (
    b"",
    b"\x02\x01\x2f\x00\x03",
    b"\x02\x01\x2f\x00\x0f",
    b"\x02\x01\x2f\x00\x01",
    b"\x01",
    b"\x01\x75",
)
PAIRS = (
    "0175",
    "0367",
    "0482",
    "0500",
    "8367",
    "8482",
    "0468",
    "0584",
    "0673",
    "0792",
    "0877",
    "06cb",
    "077d",
)
MORE_PAIRS = (
    "087d",
    "0973",
    "0b7d",
    "0c7d",
    "20ce",
    "055b",
    "0374",
    "0480",
    "0581",
    "0683",
    "07c9",
    "0831",
    "ff16",
)


def milesight_frames() -> st.SearchStrategy[bytes]:
    pair = st.sampled_from(PAIRS + MORE_PAIRS).map(bytes.fromhex)
    block = st.tuples(pair, st.binary(min_size=1, max_size=4)).map(b"".join)
    return st.lists(block, min_size=1, max_size=6).map(b"".join)


def prefixed_noise() -> st.SearchStrategy[bytes]:
    return st.tuples(st.sampled_from(PREFIXES), st.binary(max_size=64)).map(b"".join)


noise = st.one_of(
    st.binary(max_size=260), prefixed_noise(), milesight_frames(), st.binary(min_size=51, max_size=51)
)
ports = st.one_of(st.sampled_from(USUAL_PORTS), st.integers(-1, 300))


def assert_sound(codec: PayloadCodec, port: int, payload: bytes) -> None:
    try:
        decoded = codec.decode(port, payload)
    except RemoteProtocolError:
        return
    points = {point.name: point for point in codec.points}
    assert decoded.keys() <= points.keys()
    for name, value in decoded.items():
        point = points[name]
        if isinstance(value, bool | str | Fault):
            continue
        assert isinstance(value, int | float)
        assert point.minimum is not None
        assert point.maximum is not None
        assert point.minimum <= value <= point.maximum


@given(codec=codecs, port=ports, payload=noise)
@example(codec=CODECS["milesight-ws302"], port=85, payload=bytes.fromhex("0175"))
def test_noise_is_refused_or_gives_only_what_the_sensor_can_mean(
    codec: PayloadCodec, port: int, payload: bytes
) -> None:
    assert_sound(codec, port, payload)


@pytest.mark.parametrize("name", sorted(CODECS))
@given(port=ports, payload=noise)
def test_no_codec_passes_a_value_beyond_its_points(name: str, port: int, payload: bytes) -> None:
    assert_sound(CODECS[name], port, payload)


@pytest.mark.parametrize("name", sorted(CODECS))
@given(port=st.integers(0, 255).filter(lambda port: port not in USUAL_PORTS), payload=st.binary(max_size=60))
def test_a_wrong_port_is_refused(name: str, port: int, payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=f"port {port}"):
        CODECS[name].decode(port, payload)


@pytest.mark.parametrize("name", sorted(CODECS))
def test_an_empty_payload_is_refused(name: str) -> None:
    for port in USUAL_PORTS:
        with pytest.raises(RemoteProtocolError):
            CODECS[name].decode(port, b"")


def test_points_have_names_that_the_model_takes_and_each_once() -> None:

    for name, codec in CODECS.items():
        assert codec.name == name
        names = [point.name for point in codec.points]
        assert len(names) == len(set(names))
        for point in codec.points:
            assert is_id(point.name)


def test_what_is_writable_and_only_that_can_be_encoded() -> None:
    for codec in CODECS.values():
        writable = [point.name for point in codec.points if point.writable]
        assert bool(writable) == (codec.encode is not None)
        if codec.encode is None:
            continue
        for name in writable:
            port, payload = codec.encode(name, True)
            assert 1 <= port <= 223
            assert payload
        with pytest.raises(LocalProtocolError):
            codec.encode(PointName("undecoded_bytes"), True)
