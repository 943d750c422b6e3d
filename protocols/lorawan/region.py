"""What a region allows: channels, data rates, receive windows, power, and how much of an hour may be sent.

Source: LoRaWAN regional parameters 1.0.3 rev A, 2.2 (EU863-870); ETSI EN 300 220-2 V3.2.1, annex B, for the
sub-bands. A frequency outside every sub-band is not sent on.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from protocols.errors import LocalProtocolError
from protocols.lorawan.airtime import Fsk, Lora, Modulation

FLOOR_DB: Final[Mapping[int, float]] = {7: -7.5, 8: -10.0, 9: -12.5, 10: -15.0, 11: -17.5, 12: -20.0}
"""The SNR at which a spreading factor can just be demodulated (Semtech SX1276 data sheet, table 13)."""


class SubBand(msgspec.Struct, frozen=True):
    """A stretch of spectrum with its rule.

    Attributes:
        name: for a person and for the ledger.
        low_hz: lower edge.
        high_hz: upper edge.
        share: of any hour that one transmitter may be on the air there.
        eirp_dbm: the most that may be radiated.
    """

    name: str
    low_hz: int
    high_hz: int
    share: float
    eirp_dbm: float


class DataRate(msgspec.Struct, frozen=True):
    """A data rate: its modulation, and the bytes of FRMPayload that fit with no options in the header."""

    modulation: Modulation
    max_payload: int


class Region(msgspec.Struct, frozen=True):
    """One region's parameters.

    Attributes:
        name: as the settings say it.
        join_channels_hz: channels 0 to 2, which every device has.
        more_channels_hz: channels 3 to 7, as our join accepts give them.
        data_rates: by number.
        max_rx1_offset: the largest RX1DROffset.
        rx2_hz: frequency of RX2.
        rx2_data_rate: of RX2, unless the network sets another.
        join_delay_s: from the end of a join request to RX1.
        adr_max_data_rate: the fastest that ADR sets.
        max_power_index: the lowest power that can be asked of a device; each step is 2 dB.
        sub_bands: where may be sent, and how much.
    """

    name: str
    join_channels_hz: tuple[int, ...]
    more_channels_hz: tuple[int, ...]
    data_rates: tuple[DataRate, ...]
    max_rx1_offset: int
    rx2_hz: int
    rx2_data_rate: int
    join_delay_s: int
    adr_max_data_rate: int
    max_power_index: int
    sub_bands: tuple[SubBand, ...]

    def number_of(self, modulation: Modulation) -> int | None:
        """Return the number of a data rate; None if the region has none like it."""
        for number, rate in enumerate(self.data_rates):
            if rate.modulation == modulation:
                return number
        return None

    def rx1_data_rate(self, uplink: int, offset: int) -> int:
        """Return the data rate of RX1: the uplink's, less the offset.

        Raises:
            LocalProtocolError: if there is no such data rate or offset.
        """
        if not 0 <= uplink < len(self.data_rates) or not 0 <= offset <= self.max_rx1_offset:
            raise LocalProtocolError(f"there is no RX1 for data rate {uplink} and offset {offset}")
        return max(uplink - offset, 0)

    def sub_band(self, frequency_hz: int, modulation: Modulation) -> SubBand | None:
        """Return the sub-band that holds a whole transmission; None if nothing may be sent there."""
        half = (modulation.bandwidth_hz if isinstance(modulation, Lora) else _FSK_WIDTH_HZ) // 2
        for band in self.sub_bands:
            if band.low_hz <= frequency_hz - half and frequency_hz + half <= band.high_hz:
                return band
        return None

    @property
    def channels_hz(self) -> tuple[int, ...]:
        """Return all channels of a device that has joined here."""
        return self.join_channels_hz + self.more_channels_hz


_FSK_WIDTH_HZ: Final = 150_000  # 50 kbit/s with a deviation of 25 kHz, and its skirts
_125K: Final = 125_000

EU868: Final = Region(
    name="EU868",
    join_channels_hz=(868_100_000, 868_300_000, 868_500_000),
    more_channels_hz=(867_100_000, 867_300_000, 867_500_000, 867_700_000, 867_900_000),
    data_rates=(
        DataRate(Lora(12, _125K), 51),
        DataRate(Lora(11, _125K), 51),
        DataRate(Lora(10, _125K), 51),
        DataRate(Lora(9, _125K), 115),
        DataRate(Lora(8, _125K), 222),
        DataRate(Lora(7, _125K), 222),
        DataRate(Lora(7, 250_000), 222),
        DataRate(Fsk(50_000), 222),
    ),
    max_rx1_offset=5,
    rx2_hz=869_525_000,
    rx2_data_rate=0,
    join_delay_s=5,
    adr_max_data_rate=5,
    max_power_index=7,
    sub_bands=(
        SubBand("865-868", 865_000_000, 868_000_000, 0.01, 16.0),
        SubBand("868.0-868.6", 868_000_000, 868_600_000, 0.01, 16.0),
        SubBand("868.7-869.2", 868_700_000, 869_200_000, 0.001, 16.0),
        SubBand("869.4-869.65", 869_400_000, 869_650_000, 0.1, 29.0),
        SubBand("869.7-870", 869_700_000, 870_000_000, 0.01, 16.0),
    ),
)
REGIONS: Final[Mapping[str, Region]] = {EU868.name: EU868}


def floor_db(modulation: Modulation) -> float:
    """Return the SNR at which a modulation can just be heard; FSK has no such reserve and counts as 0 dB."""
    return FLOOR_DB.get(modulation.spreading_factor, 0.0) if isinstance(modulation, Lora) else 0.0
