"""MAC commands: round trips in both directions, and what ends the reading of a row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError
from protocols.lorawan.mac import (
    Command,
    Commands,
    DeviceTimeAns,
    DeviceTimeReq,
    DevStatusAns,
    DevStatusReq,
    LinkAdrAns,
    LinkAdrReq,
    LinkCheckAns,
    LinkCheckReq,
    OtherCommand,
    RxParamSetupAns,
    RxParamSetupReq,
    read_commands,
    write_commands,
)

byte = st.integers(0, 255)
nibble = st.integers(0, 15)
bit = st.booleans()
UP: st.SearchStrategy[Command] = st.one_of(
    st.just(LinkCheckReq()),
    st.builds(LinkAdrAns, bit, bit, bit),
    st.builds(RxParamSetupAns, bit, bit, bit),
    st.builds(DevStatusAns, byte, st.integers(-32, 31)),
    st.just(DeviceTimeReq()),
    st.sampled_from(
        [OtherCommand(4, b""), OtherCommand(7, b"\x03"), OtherCommand(8, b""), OtherCommand(10, b"\x01")]
    ),
)
DOWN: st.SearchStrategy[Command] = st.one_of(
    st.builds(LinkCheckAns, byte, byte),
    st.builds(LinkAdrReq, nibble, nibble, st.integers(0, 0xFFFF), st.integers(0, 7), nibble),
    st.builds(
        RxParamSetupReq, st.integers(0, 7), nibble, st.integers(0, 2**24 - 1).map(lambda step: 100 * step)
    ),
    st.just(DevStatusReq()),
    st.builds(DeviceTimeAns, st.integers(0, 2**32 - 1), byte),
    st.binary(min_size=5, max_size=5).map(lambda body: OtherCommand(7, body)),
)


@given(commands=st.lists(UP, max_size=8))
def test_what_a_device_says_comes_back_as_it_went(commands: list[Command]) -> None:
    assert read_commands(write_commands(commands), uplink=True) == Commands(tuple(commands))


@given(commands=st.lists(DOWN, max_size=8))
def test_what_the_network_says_comes_back_as_it_went(commands: list[Command]) -> None:
    assert read_commands(write_commands(commands), uplink=False) == Commands(tuple(commands))


@pytest.mark.parametrize(
    ("row", "uplink", "command"),
    [
        ("02", True, LinkCheckReq()),
        ("021405", False, LinkCheckAns(20, 5)),
        ("0350ff0001", False, LinkAdrReq(5, 0, 0x00FF, 0, 1)),
        ("0307", True, LinkAdrAns(power_ok=True, data_rate_ok=True, channel_mask_ok=True)),
        ("0303", True, LinkAdrAns(power_ok=False, data_rate_ok=True, channel_mask_ok=True)),
        ("0503d2ad84", False, RxParamSetupReq(0, 3, 869_525_000)),
        ("06fe3f", True, DevStatusAns(254, -1)),
        ("06001f", True, DevStatusAns(0, 31)),
        ("0d0102030480", False, DeviceTimeAns(0x04030201, 128)),
    ],
)
def test_commands_stand_on_the_air_as_the_standard_lays_them_out(
    row: str, uplink: bool, command: Command
) -> None:
    assert read_commands(bytes.fromhex(row), uplink=uplink).commands == (command,)
    assert write_commands([command]).hex() == row


def test_an_unknown_command_ends_the_row_and_what_is_left_is_kept_apart() -> None:
    row = bytes.fromhex("02800602ff")
    assert read_commands(row, uplink=True) == Commands((LinkCheckReq(),), bytes.fromhex("800602ff"))


def test_a_command_that_is_cut_short_ends_the_row() -> None:
    assert read_commands(bytes.fromhex("0d06fe"), uplink=True) == Commands((DeviceTimeReq(),), b"\x06\xfe")


@given(noise=st.binary(max_size=30), uplink=st.booleans())
def test_noise_never_reads_beyond_its_end(noise: bytes, uplink: bool) -> None:
    read = read_commands(noise, uplink=uplink)
    assert noise.endswith(read.unread)
    assert len(read.commands) <= len(noise)


@pytest.mark.parametrize(
    "command",
    [
        LinkCheckAns(256, 0),
        LinkAdrReq(16, 0, 0, 0, 0),
        LinkAdrReq(0, 0, 1 << 16, 0, 0),
        LinkAdrReq(0, 0, 0, 8, 0),
        RxParamSetupReq(8, 0, 0),
        RxParamSetupReq(0, 0, 100 << 24),
        DevStatusAns(0, 32),
        DevStatusAns(0, -33),
        DeviceTimeAns(1 << 32, 0),
    ],
)
def test_a_number_outside_its_field_is_not_written(command: Command) -> None:
    with pytest.raises(LocalProtocolError):
        write_commands([command])
