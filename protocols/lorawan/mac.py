"""MAC commands: what a device and its network say to each other about the radio.

Source: LoRaWAN 1.0.3, chapter 5; layouts are little endian. A command has no length of its own, so after one
that is not known here nothing of the rest can be read.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import Final, TypeAlias, assert_never

import msgspec

from protocols.errors import LocalProtocolError

MAX_OPTIONS: Final = 15
"""Bytes of commands that fit into a frame's header: FOptsLen has four bits."""
FREQUENCY_STEP_HZ: Final = 100
BATTERY_EXTERNAL: Final = 0
BATTERY_UNKNOWN: Final = 255


class Cid(IntEnum):
    """The commands of 1.0.3; a request and its answer share a number."""

    LINK_CHECK = 0x02
    LINK_ADR = 0x03
    DUTY_CYCLE = 0x04
    RX_PARAM_SETUP = 0x05
    DEV_STATUS = 0x06
    NEW_CHANNEL = 0x07
    RX_TIMING_SETUP = 0x08
    TX_PARAM_SETUP = 0x09
    DL_CHANNEL = 0x0A
    DEVICE_TIME = 0x0D


class LinkCheckReq(msgspec.Struct, frozen=True):
    """A device asks how well it is heard (5.1)."""


class LinkCheckAns(msgspec.Struct, frozen=True):
    """How well: `margin_db` 0–254 above the demodulation floor, and by how many `gateways`."""

    margin_db: int
    gateways: int


class LinkAdrReq(msgspec.Struct, frozen=True):
    """The network sets data rate, power, channels and repetitions (5.2).

    Attributes:
        data_rate: 0–15.
        tx_power: the region's index, 0–15.
        channel_mask: bit i enables channel i.
        mask_control: what the mask means, 0–7; 0 for channels 0 to 15.
        nb_trans: how often each unconfirmed uplink is sent, 0–15; 0 leaves it.
    """

    data_rate: int
    tx_power: int
    channel_mask: int
    mask_control: int
    nb_trans: int


class LinkAdrAns(msgspec.Struct, frozen=True):
    """What of it a device takes: all three, or it has changed nothing."""

    power_ok: bool
    data_rate_ok: bool
    channel_mask_ok: bool


class RxParamSetupReq(msgspec.Struct, frozen=True):
    """The network sets the receive windows: offset of RX1, data rate and frequency of RX2 (5.4)."""

    rx1_offset: int
    rx2_data_rate: int
    frequency_hz: int


class RxParamSetupAns(msgspec.Struct, frozen=True):
    """What of it a device takes."""

    rx1_offset_ok: bool
    rx2_data_rate_ok: bool
    frequency_ok: bool


class DevStatusReq(msgspec.Struct, frozen=True):
    """The network asks for battery and margin (5.5)."""


class DevStatusAns(msgspec.Struct, frozen=True):
    """How a device is.

    Attributes:
        battery: 0 external power, 1–254 empty to full, 255 not measured.
        margin_db: SNR of the last request as the device heard it, −32 to 31 dB.
    """

    battery: int
    margin_db: int


class DeviceTimeReq(msgspec.Struct, frozen=True):
    """A device asks for the time (5.9, since 1.0.3)."""


class DeviceTimeAns(msgspec.Struct, frozen=True):
    """The moment at which the request ended: seconds since the GPS epoch, and 1/256 of them."""

    gps_s: int
    fraction_256: int


class OtherCommand(msgspec.Struct, frozen=True):
    """A command of known length that means nothing to us."""

    cid: int
    body: bytes


Command: TypeAlias = (
    LinkCheckReq
    | LinkCheckAns
    | LinkAdrReq
    | LinkAdrAns
    | RxParamSetupReq
    | RxParamSetupAns
    | DevStatusReq
    | DevStatusAns
    | DeviceTimeReq
    | DeviceTimeAns
    | OtherCommand
)
_Reading: TypeAlias = tuple[int, Callable[[bytes], Command]]


def _other(cid: Cid, length: int) -> _Reading:
    return length, lambda body: OtherCommand(cid, body)


def _three_bits(body: bytes) -> tuple[bool, bool, bool]:
    return bool(body[0] & 4), bool(body[0] & 2), bool(body[0] & 1)


def _link_adr_req(body: bytes) -> Command:
    return LinkAdrReq(
        data_rate=body[0] >> 4,
        tx_power=body[0] & 15,
        channel_mask=int.from_bytes(body[1:3], "little"),
        mask_control=body[3] >> 4 & 7,
        nb_trans=body[3] & 15,
    )


def _rx_param_setup_req(body: bytes) -> Command:
    frequency = int.from_bytes(body[1:4], "little") * FREQUENCY_STEP_HZ
    return RxParamSetupReq(body[0] >> 4 & 7, body[0] & 15, frequency)


def _rx_param_setup_ans(body: bytes) -> Command:
    return RxParamSetupAns(*_three_bits(body))


def _dev_status_ans(body: bytes) -> Command:
    """Read the battery and six bits of two's complement."""
    return DevStatusAns(body[0], (body[1] & 63) - ((body[1] & 32) << 1))


def _device_time_ans(body: bytes) -> Command:
    return DeviceTimeAns(int.from_bytes(body[:4], "little"), body[4])


_UP: Final[Mapping[int, _Reading]] = {
    Cid.LINK_CHECK: (0, lambda _: LinkCheckReq()),
    Cid.LINK_ADR: (1, lambda body: LinkAdrAns(*_three_bits(body))),
    Cid.DUTY_CYCLE: _other(Cid.DUTY_CYCLE, 0),
    Cid.RX_PARAM_SETUP: (1, _rx_param_setup_ans),
    Cid.DEV_STATUS: (2, _dev_status_ans),
    Cid.NEW_CHANNEL: _other(Cid.NEW_CHANNEL, 1),
    Cid.RX_TIMING_SETUP: _other(Cid.RX_TIMING_SETUP, 0),
    Cid.TX_PARAM_SETUP: _other(Cid.TX_PARAM_SETUP, 0),
    Cid.DL_CHANNEL: _other(Cid.DL_CHANNEL, 1),
    Cid.DEVICE_TIME: (0, lambda _: DeviceTimeReq()),
}
_DOWN: Final[Mapping[int, _Reading]] = {
    Cid.LINK_CHECK: (2, lambda body: LinkCheckAns(body[0], body[1])),
    Cid.LINK_ADR: (4, _link_adr_req),
    Cid.DUTY_CYCLE: _other(Cid.DUTY_CYCLE, 1),
    Cid.RX_PARAM_SETUP: (4, _rx_param_setup_req),
    Cid.DEV_STATUS: (0, lambda _: DevStatusReq()),
    Cid.NEW_CHANNEL: _other(Cid.NEW_CHANNEL, 5),
    Cid.RX_TIMING_SETUP: _other(Cid.RX_TIMING_SETUP, 1),
    Cid.TX_PARAM_SETUP: _other(Cid.TX_PARAM_SETUP, 1),
    Cid.DL_CHANNEL: _other(Cid.DL_CHANNEL, 4),
    Cid.DEVICE_TIME: (5, _device_time_ans),
}


class Commands(msgspec.Struct, frozen=True):
    """What was read of a row of commands.

    Attributes:
        commands: in order.
        unread: bytes from the first command that is unknown or cut short.
    """

    commands: tuple[Command, ...]
    unread: bytes = b""


def read_commands(row: bytes, *, uplink: bool) -> Commands:
    """Read commands up to the first that is unknown or cut short."""
    table = _UP if uplink else _DOWN
    found: list[Command] = []
    at = 0
    while at < len(row):
        length, decode = table.get(row[at], (len(row), None))
        end = at + 1 + length
        if decode is None or end > len(row):
            break
        found.append(decode(row[at + 1 : end]))
        at = end
    return Commands(tuple(found), row[at:])


def write_commands(commands: Iterable[Command]) -> bytes:
    """Return the bytes of a row of commands.

    Raises:
        LocalProtocolError: if a number is outside its field.
    """
    try:
        return b"".join(_written(command) for command in commands)
    except (ValueError, OverflowError) as error:
        raise LocalProtocolError(f"a MAC command cannot say that: {error}") from error


def _written(command: Command) -> bytes:  # noqa: PLR0911  one line for each command
    match command:
        case LinkCheckReq():
            return bytes((Cid.LINK_CHECK,))
        case LinkCheckAns(margin_db, gateways):
            return bytes((Cid.LINK_CHECK, margin_db, gateways))
        case LinkAdrReq():
            return _written_link_adr(command)
        case LinkAdrAns(power, rate, mask):
            return bytes((Cid.LINK_ADR, power << 2 | rate << 1 | mask))
        case RxParamSetupReq(offset, rate, frequency):
            step = (frequency // FREQUENCY_STEP_HZ).to_bytes(3, "little")
            return bytes((Cid.RX_PARAM_SETUP, _nibble(offset, 7) << 4 | _nibble(rate))) + step
        case RxParamSetupAns(offset, rate, frequency):
            return bytes((Cid.RX_PARAM_SETUP, offset << 2 | rate << 1 | frequency))
        case DevStatusReq():
            return bytes((Cid.DEV_STATUS,))
        case DevStatusAns(battery, margin_db):
            return bytes((Cid.DEV_STATUS, battery, _nibble(margin_db + 32, 63) ^ 32))
        case DeviceTimeReq():
            return bytes((Cid.DEVICE_TIME,))
        case DeviceTimeAns(seconds, fraction):
            return bytes((Cid.DEVICE_TIME,)) + seconds.to_bytes(4, "little") + bytes((fraction,))
        case OtherCommand(cid, body):
            return bytes((cid,)) + body
        case _:
            assert_never(command)


def _written_link_adr(command: LinkAdrReq) -> bytes:
    return (
        bytes((Cid.LINK_ADR, _nibble(command.data_rate) << 4 | _nibble(command.tx_power)))
        + command.channel_mask.to_bytes(2, "little")
        + bytes((_nibble(command.mask_control, 7) << 4 | _nibble(command.nb_trans),))
    )


def _nibble(number: int, most: int = 15) -> int:
    if not 0 <= number <= most:
        raise ValueError(f"{number} is not 0 to {most}")
    return number
