"""EU868 as a sensor and a gateway keep it: channels, data rates, time on air, duty cycle.

Sources: LoRaWAN Regional Parameters, EU863-870; Semtech AN1200.13 for the time on air; ETSI EN 300 220-2 for the
shares of an hour. Of the bench alone.
"""

import math
from collections.abc import Iterable

import msgspec

JOIN_CHANNELS_HZ = (868_100_000, 868_300_000, 868_500_000)
RX2_HZ = 869_525_000
RX2_DATA_RATE = 0
BAND_HZ = (863_000_000, 870_000_000)
MAX_DATA_RATE = 5
PREAMBLE_SYMBOLS = 8

_SHARE_ELSEWHERE = 0.001

_RATES = {0: (12, 125), 1: (11, 125), 2: (10, 125), 3: (9, 125), 4: (8, 125), 5: (7, 125), 6: (7, 250)}
_MAX_PAYLOAD = {0: 51, 1: 51, 2: 51, 3: 115, 4: 222, 5: 222, 6: 222}
_BY_NAME = {f"SF{factor}BW{width}": rate for rate, (factor, width) in _RATES.items()}


class SubBand(msgspec.Struct, frozen=True):
    """A part of the band and the share of time that one transmitter may fill there."""

    low_hz: int
    high_hz: int
    share: float


SUB_BANDS = (
    SubBand(865_000_000, 868_000_000, 0.01),
    SubBand(868_000_000, 868_600_000, 0.01),
    SubBand(868_700_000, 869_200_000, 0.001),
    SubBand(869_400_000, 869_650_000, 0.1),
    SubBand(869_700_000, 870_000_000, 0.01),
)


def rate_name(data_rate: int) -> str:
    """Return how a forwarder writes a data rate, such as SF7BW125."""
    factor, width = _RATES[data_rate]
    return f"SF{factor}BW{width}"


def rate_of(name: str) -> int | None:
    """Return the data rate that a forwarder's name means; None for one that the band does not have."""
    return _BY_NAME.get(name)


def max_payload(data_rate: int) -> int:
    """Return the bytes that options and payload may have together."""
    return _MAX_PAYLOAD[data_rate]


def symbol_s(data_rate: int) -> float:
    """Return how long one symbol lasts."""
    factor, width = _RATES[data_rate]
    return float(2**factor) / (width * 1000)


def airtime_s(size: int, data_rate: int, *, crc: bool) -> float:
    """Return how long a frame is on the air.

    Args:
        size: bytes of the whole PHYPayload.
        data_rate: of the band.
        crc: whether a CRC follows: on uplinks.
    """
    factor, width = _RATES[data_rate]
    optimised = factor >= 11 and width == 125
    bits = 8 * size - 4 * factor + 28 + (16 if crc else 0)
    groups = math.ceil(bits / (4 * (factor - 2 * optimised)))
    symbols = PREAMBLE_SYMBOLS + 4.25 + 8 + max(groups, 0) * 5
    return symbols * symbol_s(data_rate)


def sub_band(frequency_hz: int) -> SubBand | None:
    """Return the sub-band of a channel; None if a sensor may not transmit there."""
    return next((band for band in SUB_BANDS if band.low_hz <= frequency_hz < band.high_hz), None)


class DutyCycle:
    """When one transmitter may use which channel again.

    After each transmission of T the sub-band rests for T / share - T, the strictest way to keep to a share.

    Attributes:
        aggregate: the share of all sub-bands together that the network has asked for; 1 for no limit.
    """

    def __init__(self) -> None:
        self.aggregate = 1.0
        self._free_at_s: dict[SubBand | None, float] = {}
        self._all_free_at_s = -math.inf

    def free_at_s(self, frequency_hz: int) -> float:
        """Return from when on a channel may be used."""
        return max(self._all_free_at_s, self._free_at_s.get(sub_band(frequency_hz), -math.inf))

    def soonest(self, channels_hz: Iterable[int], now_s: float) -> tuple[float, list[int]]:
        """Return from when on one of the channels may be used, and which ones then."""
        free = {channel: max(now_s, self.free_at_s(channel)) for channel in channels_hz}
        when_s = min(free.values())
        return when_s, [channel for channel, at_s in free.items() if at_s <= when_s]

    def book(self, frequency_hz: int, end_s: float, time_s: float) -> None:
        """Take note of a transmission."""
        band = sub_band(frequency_hz)
        share = band.share if band is not None else _SHARE_ELSEWHERE
        self._free_at_s[band] = end_s + time_s * (1 / share - 1)
        self._all_free_at_s = end_s + time_s * (1 / self.aggregate - 1)
