"""What a network may ask of a sensor within its frames, and what the sensor answers (LoRaWAN 1.0.3, chapter 5)."""

import msgspec

from sim.lorawan_band import (
    BAND_HZ,
    JOIN_CHANNELS_HZ,
    MAX_DATA_RATE,
    RX2_DATA_RATE,
    RX2_HZ,
    sub_band,
)

LINK_CHECK = 0x02
LINK_ADR = 0x03
DUTY_CYCLE = 0x04
RX_PARAM_SETUP = 0x05
DEV_STATUS = 0x06
NEW_CHANNEL = 0x07
RX_TIMING_SETUP = 0x08
DL_CHANNEL = 0x0A
DEVICE_TIME = 0x0D
_SIZES = {
    LINK_CHECK: 2,
    LINK_ADR: 4,
    DUTY_CYCLE: 1,
    RX_PARAM_SETUP: 4,
    DEV_STATUS: 0,
    NEW_CHANNEL: 5,
    RX_TIMING_SETUP: 1,
    DL_CHANNEL: 4,
    DEVICE_TIME: 5,
}
MAX_CHANNELS = 16
MAX_OPTIONS = 15
_MAX_POWER_INDEX = 7
_MARGIN_OF_ALL_BUT_ZERO = 0x3F


class Link(msgspec.Struct):
    """How a sensor talks to its network now.

    Attributes:
        channels_hz: by number; 0 where there is none.
        enabled: numbers of the channels that may be used.
        power: index of EU868: 0 is the most, each step is 2 dB less.
        transmissions: of each uplink that is not confirmed.
    """

    channels_hz: list[int] = msgspec.field(default_factory=lambda: list(JOIN_CHANNELS_HZ))
    enabled: set[int] = msgspec.field(default_factory=lambda: {0, 1, 2})
    data_rate: int = MAX_DATA_RATE
    power: int = 0
    transmissions: int = 1
    rx1_offset: int = 0
    rx1_delay_s: int = 1
    rx2_hz: int = RX2_HZ
    rx2_data_rate: int = RX2_DATA_RATE
    duty_cycle: float = 1.0

    def usable_hz(self) -> list[int]:
        """Return the channels that may be used."""
        return [self.channels_hz[number] for number in sorted(self.enabled)]

    def add_channel(self, number: int, frequency_hz: int) -> None:
        """Set a channel, or with 0 Hz take it away."""
        self.channels_hz += [0] * (number + 1 - len(self.channels_hz))
        self.channels_hz[number] = frequency_hz
        if frequency_hz:
            self.enabled.add(number)
        else:
            self.enabled.discard(number)


class Heard(msgspec.Struct):
    """What came of the commands of one downlink.

    Attributes:
        answers: to be carried by the next uplink.
        sticky: of these, what is repeated until the next downlink is heard.
        link_checks: how many link checks were answered.
        commands: how many commands were understood.
    """

    answers: list[bytes] = []
    sticky: list[bytes] = []
    link_checks: int = 0
    commands: int = 0


def obey(commands: bytes, link: Link, battery: int, snr_db: float) -> Heard:
    """Do what the commands of a downlink ask; one that is not known ends the reading.

    Args:
        commands: FOpts, or the payload on port 0.
        link: changed in place.
        battery: 1 to 254, 0 for mains, 255 for not known.
        snr_db: with which the downlink was heard.
    """
    heard = Heard()
    at = 0
    while at < len(commands):
        command = commands[at]
        size = _SIZES.get(command)
        if size is None or at + 1 + size > len(commands):
            break
        _obey_one(command, commands[at + 1 : at + 1 + size], link, heard, (battery, snr_db))
        heard.commands += 1
        at += 1 + size
    return heard


def _obey_one(command: int, body: bytes, link: Link, heard: Heard, status: tuple[int, float]) -> None:
    match command:
        case 0x02:
            heard.link_checks += 1
        case 0x03:
            heard.answers.append(bytes((LINK_ADR, _link_adr(body, link))))
        case 0x04:
            link.duty_cycle = 1 / 2 ** (body[0] & 0x0F)
            heard.answers.append(bytes((DUTY_CYCLE,)))
        case 0x05:
            heard.sticky.append(bytes((RX_PARAM_SETUP, _rx_param_setup(body, link))))
        case 0x06:
            margin = max(-32, min(31, round(status[1]))) & _MARGIN_OF_ALL_BUT_ZERO
            heard.answers.append(bytes((DEV_STATUS, status[0], margin)))
        case 0x07:
            heard.answers.append(bytes((NEW_CHANNEL, _new_channel(body, link))))
        case 0x08:
            link.rx1_delay_s = body[0] & 0x0F or 1
            heard.sticky.append(bytes((RX_TIMING_SETUP,)))
        case 0x0A:
            heard.sticky.append(bytes((DL_CHANNEL, 0)))  # RX1 stays on the uplink's frequency here
        case _:
            pass  # the time of the network: these sensors have no clock to set


def _link_adr(body: bytes, link: Link) -> int:
    """Apply a LinkADRReq if all of it can be, and return the status: power, data rate, channel mask."""
    data_rate, power = body[0] >> 4, body[0] & 0x0F
    mask = int.from_bytes(body[1:3], "little")
    control, repeat = body[3] >> 4 & 0x07, body[3] & 0x0F
    known = {number for number, channel in enumerate(link.channels_hz) if channel}
    wanted = known if control == 6 else {number for number in range(MAX_CHANNELS) if mask >> number & 1}
    mask_ok = bool(wanted) and wanted <= known and control in {0, 6}
    rate_ok = data_rate <= MAX_DATA_RATE or data_rate == 15
    power_ok = power <= _MAX_POWER_INDEX or power == 15
    if mask_ok and rate_ok and power_ok:
        link.enabled = wanted
        link.data_rate = link.data_rate if data_rate == 15 else data_rate
        link.power = link.power if power == 15 else power
        link.transmissions = repeat or 1
    return power_ok << 2 | rate_ok << 1 | mask_ok


def _rx_param_setup(body: bytes, link: Link) -> int:
    offset, data_rate = body[0] >> 4 & 0x07, body[0] & 0x0F
    frequency_hz = int.from_bytes(body[1:4], "little") * 100
    offset_ok, rate_ok = offset <= 5, data_rate <= MAX_DATA_RATE
    channel_ok = BAND_HZ[0] <= frequency_hz < BAND_HZ[1]
    if offset_ok and rate_ok and channel_ok:
        link.rx1_offset, link.rx2_data_rate, link.rx2_hz = offset, data_rate, frequency_hz
    return offset_ok << 2 | rate_ok << 1 | channel_ok


def _new_channel(body: bytes, link: Link) -> int:
    number, rates = body[0], body[4]
    frequency_hz = int.from_bytes(body[1:4], "little") * 100
    rate_ok = rates & 0x0F <= rates >> 4 <= MAX_DATA_RATE
    in_band = not frequency_hz or sub_band(frequency_hz) is not None
    channel_ok = len(JOIN_CHANNELS_HZ) <= number < MAX_CHANNELS and in_band
    if rate_ok and channel_ok:
        link.add_channel(number, frequency_hz)
    return rate_ok << 1 | channel_ok
