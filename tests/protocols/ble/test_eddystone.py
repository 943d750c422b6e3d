"""Eddystone UID and telemetry: the published layout, its "not measured" values, and noise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ble.eddystone import Telemetry, Uid, parse
from protocols.ble.refusal import Refusal, RefusedError


def refused(frame: bytes) -> Refusal:
    with pytest.raises(RefusedError) as caught:
        parse(frame)
    return caught.value.refusal


def telemetry(text: str) -> Telemetry:
    found = parse(bytes.fromhex(text))
    assert isinstance(found, Telemetry)
    return found


def test_telemetry_is_read_big_endian() -> None:
    assert telemetry("20 00 0bb8 1980 00000102 00000a0b") == Telemetry(3.0, 25.5, 0x102, 257.1)


def test_a_temperature_below_zero_is_a_signed_fixed_point() -> None:
    assert telemetry("20000bb8ffc00000000000000000").temperature_c == -0.25
    assert telemetry("20000bb88001 0000000000000000").temperature_c == -127.99609375


def test_what_a_beacon_does_not_measure_is_no_value() -> None:
    assert telemetry("2000 0000 8000 00000001 00000001") == Telemetry(None, None, 1, 0.1)


@pytest.mark.parametrize("tail", ["", "0000"])
def test_a_uid_is_read_with_its_reserved_bytes_or_without(tail: str) -> None:
    frame = bytes.fromhex("00ee" + "0102030405060708090a" + "112233445566" + tail)
    assert parse(frame) == Uid("0102030405060708090a", "112233445566", -18)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", Refusal.LENGTH),
        ("00ee", Refusal.LENGTH),
        ("00" * 19, Refusal.LENGTH),
        ("00" * 19 + "01", Refusal.RESERVED),
        ("20", Refusal.VERSION),
        ("2001" + "00" * 16, Refusal.VERSION),
        ("2000" + "00" * 11, Refusal.LENGTH),
        ("2000" + "00" * 13, Refusal.LENGTH),
        ("10ee0061", Refusal.KIND),
        ("30ee0102030405060708", Refusal.KIND),
        ("7700", Refusal.KIND),
    ],
)
def test_what_is_no_such_frame_is_refused_and_named(text: str, why: Refusal) -> None:
    assert refused(bytes.fromhex(text)) is why


@given(
    st.integers(1, 65535), st.integers(-32767, 32767), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)
)
def test_telemetry_says_what_was_put_in(battery: int, temperature: int, adverts: int, uptime: int) -> None:
    frame = b"\x20\x00" + battery.to_bytes(2) + temperature.to_bytes(2, signed=True)
    assert parse(frame + adverts.to_bytes(4) + uptime.to_bytes(4)) == Telemetry(
        battery / 1000, temperature / 256, adverts, uptime / 10
    )


@given(st.binary(max_size=40))
def test_noise_is_refused_or_a_frame(noise: bytes) -> None:
    try:
        found = parse(noise)
    except RefusedError:
        return
    assert isinstance(found, Uid | Telemetry)
