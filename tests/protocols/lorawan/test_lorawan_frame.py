"""Frames and keys: round trips, published vectors, every bit flipped, noise."""

import copy
import json
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.lorawan.frame import (
    DataFrame,
    JoinAccept,
    JoinRequest,
    read_frame,
    read_join_accept,
    write_data,
    write_join_accept,
)
from protocols.lorawan.security import (
    Key,
    SessionKeys,
    full_counter,
    is_genuine,
    is_genuine_join,
    is_repeated,
    open_join_accept,
    open_payload,
    seal,
    seal_join_accept,
    seal_join_request,
    session_keys,
)
from tests.shared_data import shared

KEY = Key(bytes(range(16)))
KEYS = SessionKeys(Key(b"network session!"), Key(b"application key!"))
counters = st.integers(0, 0xFFFFFFFF)


@st.composite
def frames(draw: st.DrawFn) -> DataFrame:
    uplink = draw(st.booleans())
    port = draw(st.none() | st.integers(0, 255))
    return DataFrame(
        uplink=uplink,
        confirmed=draw(st.booleans()),
        dev_addr=draw(st.integers(0, 0xFFFFFFFF)),
        counter=0,
        adr=draw(st.booleans()),
        adr_ack_req=uplink and draw(st.booleans()),
        ack=draw(st.booleans()),
        pending=draw(st.booleans()),
        options=b"" if port == 0 else draw(st.binary(max_size=15)),
        port=port,
        payload=b"" if port is None else draw(st.binary(max_size=222)),
    )


def opened(wire: bytes, counter: int) -> DataFrame | None:
    """Return a frame with its payload plain; None if it is refused."""
    try:
        frame = read_frame(wire)
    except RemoteProtocolError:
        return None
    if not isinstance(frame, DataFrame) or not is_genuine(wire, KEYS.network, frame, counter):
        return None
    return msgspec.structs.replace(frame, payload=open_payload(KEYS, frame, counter))


@given(frame=frames(), counter=counters)
def test_a_frame_comes_back_as_it_went(frame: DataFrame, counter: int) -> None:
    wire = seal(KEYS, frame, counter)
    assert opened(wire, counter) == msgspec.structs.replace(frame, counter=counter & 0xFFFF)


@given(frame=frames(), counter=counters, flipped=st.data())
def test_a_frame_with_any_one_bit_flipped_is_refused(
    frame: DataFrame, counter: int, flipped: st.DataObject
) -> None:
    wire = bytearray(seal(KEYS, frame, counter))
    bit = flipped.draw(st.integers(0, 8 * len(wire) - 1))
    wire[bit // 8] ^= 1 << bit % 8
    assert opened(bytes(wire), counter) is None


def test_every_single_bit_of_one_frame_counts() -> None:
    frame = DataFrame(True, True, 0x26011BDA, 0, port=1, payload=b"occupied", options=b"\x02")
    wire = seal(KEYS, frame, 7)
    for bit in range(8 * len(wire)):
        flipped = bytearray(wire)
        flipped[bit // 8] ^= 1 << bit % 8
        assert opened(bytes(flipped), 7) is None


@given(frame=frames(), counter=counters, other=counters)
def test_a_frame_is_genuine_under_its_own_counter_only(frame: DataFrame, counter: int, other: int) -> None:
    wire = seal(KEYS, frame, counter)
    assert (opened(wire, other) is not None) == (counter == other)


@given(noise=st.binary(max_size=300))
def test_noise_is_never_accepted_and_never_a_surprise(noise: bytes) -> None:
    assert opened(noise, 0) is None
    try:
        frame = read_frame(noise)
    except RemoteProtocolError:
        return
    assert not isinstance(frame, JoinRequest) or not is_genuine_join(noise, KEY)
    with pytest.raises(RemoteProtocolError):
        open_join_accept(KEY, noise)


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        ("", "1 to 255 bytes"),
        ("40" + "00" * 255, "1 to 255 bytes"),
        ("41" + "00" * 20, "major version 1"),
        ("00" + "00" * 21, "23 bytes"),
        ("20" + "00" * 16, "join_accept"),
        ("c0" + "00" * 16, "rfu"),
        ("e0" + "00" * 16, "proprietary"),
        ("40" + "00" * 10, "12 bytes at least"),
        ("40" + "00" * 4 + "0f" + "00" * 6, "do not fit"),
        ("40" + "00" * 4 + "01" + "00" * 2 + "02" + "00" + "aa" + "00" * 4, "not in both"),
    ],
)
def test_what_is_no_frame_is_refused_with_the_reason(wire: str, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        read_frame(bytes.fromhex(wire))


def test_an_empty_payload_may_have_a_port() -> None:
    frame = DataFrame(True, False, 1, 0, port=5)
    assert opened(seal(KEYS, frame, 0), 0) == frame


UP = DataFrame(True, False, 1, 0)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (msgspec.structs.replace(UP, dev_addr=1 << 32), "32 bits"),
        (msgspec.structs.replace(UP, options=bytes(16)), "15 bytes"),
        (msgspec.structs.replace(UP, payload=b"x"), "has a port"),
        (msgspec.structs.replace(UP, port=256), "0 to 255"),
        (msgspec.structs.replace(UP, port=0, options=b"\x02"), "not in both"),
        (msgspec.structs.replace(UP, uplink=False, adr_ack_req=True), "only a device"),
        (msgspec.structs.replace(UP, port=1, payload=bytes(243)), "more than 255"),
    ],
)
def test_what_cannot_be_said_is_not_written(frame: DataFrame, why: str) -> None:
    with pytest.raises(LocalProtocolError, match=why):
        write_data(frame)


@pytest.mark.parametrize("counter", [-1, 1 << 32])
def test_a_counter_is_never_used_beyond_its_32_bits(counter: int) -> None:
    with pytest.raises(LocalProtocolError, match="32 bits"):
        seal(KEYS, UP, counter)


# --- joining ---


@given(join_eui=st.integers(0, 2**64 - 1), dev_eui=st.integers(0, 2**64 - 1), nonce=st.integers(0, 65535))
def test_a_join_request_comes_back_as_it_went(join_eui: int, dev_eui: int, nonce: int) -> None:
    request = JoinRequest(join_eui, dev_eui, nonce)
    wire = seal_join_request(KEY, request)
    assert read_frame(wire) == request
    assert is_genuine_join(wire, KEY)
    assert not is_genuine_join(wire, Key(bytes(16)))


ACCEPT = JoinAccept(1, 2, 3, 4, 5, 6, (867_100_000, 867_300_000, 867_500_000, 867_700_000, 867_900_000))


@pytest.mark.parametrize("accept", [ACCEPT, msgspec.structs.replace(ACCEPT, cf_list=())])
def test_a_join_accept_comes_back_as_it_went_and_no_bit_of_it_may_change(accept: JoinAccept) -> None:
    wire = seal_join_accept(KEY, accept)
    assert open_join_accept(KEY, wire) == accept
    for bit in range(8 * len(wire)):
        flipped = bytearray(wire)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RemoteProtocolError):
            open_join_accept(KEY, bytes(flipped))


@pytest.mark.parametrize(
    "wrong",
    [
        {"rx1_offset": 8},
        {"rx2_data_rate": 16},
        {"rx_delay_s": 0},
        {"rx_delay_s": 16},
        {"cf_list": (868_100_000,)},
        {"cf_list": (-1,) * 5},
        {"app_nonce": 1 << 24},
        {"net_id": 1 << 24},
        {"dev_addr": 1 << 32},
    ],
)
def test_a_join_accept_that_cannot_be_said_is_not_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        write_join_accept(msgspec.structs.replace(ACCEPT, **wrong))


def test_a_join_accept_of_a_wrong_length_or_another_region_is_refused() -> None:
    body = write_join_accept(ACCEPT)
    for wrong in (body[:-1], body[:13], body[:-1] + b"\x01"):
        with pytest.raises(RemoteProtocolError):
            read_join_accept(wrong)


def test_a_delay_of_nought_means_one_second() -> None:
    body = bytearray(write_join_accept(ACCEPT))
    body[11] = 0
    assert read_join_accept(bytes(body)).rx_delay_s == 1


# --- counters ---


@given(received=st.integers(0, 0xFFFF), following=st.integers(0, 0xFFFF0000))
def test_a_full_counter_goes_up_and_keeps_what_was_received(received: int, following: int) -> None:
    """The half that is on the air rolls over; what is taken never goes back."""
    counter = full_counter(received, following)
    assert following <= counter < following + 0x10000
    assert counter & 0xFFFF == received


def test_the_counter_rolls_over_its_lower_half() -> None:
    assert full_counter(0xFFFF, 0xFFFF) == 0xFFFF
    assert full_counter(0, 0x10000) == 0x10000
    assert full_counter(3, 0x1FFFE) == 0x20003


@pytest.mark.parametrize(
    ("received", "following", "repeated"),
    [(0xFFFF, 0, False), (0, 1, True), (1, 1, False), (0xFFFF, 0x10000, True), (4, 0x20005, True)],
)
def test_the_last_frame_again_is_told_apart(received: int, following: int, repeated: bool) -> None:
    assert is_repeated(received, following) is repeated


# --- keys ---


def test_a_key_never_shows_itself() -> None:
    raw = bytes.fromhex("00112233445566778899aabbccddeeff")
    key = Key(raw)
    for shown in (repr(key), str(key), f"{key}", repr(SessionKeys(key, key)), repr([key])):
        assert raw.hex() not in shown.lower()
        assert repr(raw) not in shown
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)
    with pytest.raises(TypeError, match="not pickled"):
        copy.copy(key)
    with pytest.raises(TypeError):
        msgspec.msgpack.encode(SessionKeys(key, key))
    assert key.reveal() == raw
    assert key.same_as(raw)
    assert not key.same_as(bytes(16))


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_a_key_has_sixteen_bytes_and_a_wrong_one_is_not_told(size: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"not {size}") as caught:
        Key(b"\xab" * size)
    assert "abab" not in str(caught.value)


# --- published vectors ---


def vectors() -> list[dict[str, Any]]:
    path = shared("vectors/lorawan.json", "frames with keys, by lora-packet")
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_published_data_frames_are_read_as_published() -> None:
    read = 0
    for vector in vectors():
        if "nwkSKey" not in vector:
            continue
        wire = bytes.fromhex(vector["phypayload"])
        keys = SessionKeys(Key(bytes.fromhex(vector["nwkSKey"])), Key(bytes.fromhex(vector["appSKey"])))
        fields, frame = vector["fields"], read_frame(wire)
        assert isinstance(frame, DataFrame)
        counter = fields["fCntMsb"] << 16 | fields["fCnt16"]
        assert is_genuine(wire, keys.network, frame, counter) is vector["micOk"]
        assert open_payload(keys, frame, counter).hex() == vector["plaintext"]
        assert (f"{frame.dev_addr:08x}", frame.counter) == (fields["devAddr"], fields["fCnt16"])
        assert (frame.port, frame.options.hex()) == (fields["fPort"], fields["fOpts"])
        assert (frame.adr, frame.ack) == (fields["fctrl"]["ADR"], fields["fctrl"]["ACK"])
        assert frame.uplink
        assert frame.confirmed is (fields["mtype"] == "Confirmed Data Up")
        read += 1
    assert read >= 3


def test_published_joins_are_read_as_published() -> None:
    for vector in vectors():
        if "joinEui" in vector:
            wire, key = bytes.fromhex(vector["phypayload"]), Key(bytes.fromhex(vector["appKey"]))
            expected = [int(vector[name], 16) for name in ("joinEui", "devEui", "devNonce_be")]
            assert read_frame(wire) == JoinRequest(*expected)
            assert is_genuine_join(wire, key)
        if "cfList" in vector:
            key, wire = Key(bytes.fromhex(vector["appKey"])), bytes.fromhex(vector["plain_phypayload"])
            accept = open_join_accept(key, wire)
            assert seal_join_accept(key, accept) == wire
            assert accept == JoinAccept(
                app_nonce=int(vector["appNonce_be"], 16),
                net_id=int(vector["netId_be"], 16),
                dev_addr=int(vector["devAddr_be"], 16),
                rx1_offset=0,
                rx2_data_rate=vector["dlSettings"],
                rx_delay_s=vector["rxDelay"],
                cf_list=(867_100_000, 867_300_000, 867_500_000, 867_700_000, 867_900_000),
            )
            keys = session_keys(key, accept.app_nonce, accept.net_id, int(vector["devNonce_be"], 16))
            assert keys.network.reveal().hex() == vector["NwkSKey"]
            assert keys.application.reveal().hex() == vector["AppSKey"]
