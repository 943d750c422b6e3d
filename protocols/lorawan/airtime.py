"""How long a frame is on the air, exactly, in whole microseconds.

Source: Semtech SX1276 data sheet, 4.1.1.7 (LoRa) and 4.2.13 (FSK packet format); the coding rate is 4/5.
"""

from typing import Final, TypeAlias, assert_never

import msgspec

LORA_PREAMBLE_SYMBOLS: Final = 8
_QUARTERS_OF_PREAMBLE: Final = 4 * LORA_PREAMBLE_SYMBOLS + 17  # the preamble and 4.25 symbols more
_CODING_RATE: Final = 1  # 4/5, the only one that LoRaWAN uses
_FSK_OVERHEAD_BYTES: Final = 5 + 3 + 1 + 2  # preamble, sync word, length, CRC (regional parameters 2.4.1)


class Lora(msgspec.Struct, frozen=True):
    """A LoRa modulation.

    Attributes:
        spreading_factor: 7 to 12.
        bandwidth_hz: 125000, 250000 or 500000.
    """

    spreading_factor: int
    bandwidth_hz: int


class Fsk(msgspec.Struct, frozen=True):
    """A GFSK modulation; `bit_rate` in bit/s."""

    bit_rate: int


Modulation: TypeAlias = Lora | Fsk


def time_on_air_us(modulation: Modulation, length: int, *, crc: bool) -> int:
    """Return how long a PHYPayload is on the air, in microseconds, rounded up.

    Args:
        modulation: how it is sent.
        length: bytes of the whole PHYPayload.
        crc: whether a payload CRC follows: in uplinks it does, in downlinks not. FSK always has one.
    """
    match modulation:
        case Lora():
            return _lora_us(modulation, length, crc=crc)
        case Fsk():
            return -(-(length + _FSK_OVERHEAD_BYTES) * 8_000_000 // modulation.bit_rate)
        case _:
            assert_never(modulation)


def _lora_us(modulation: Lora, length: int, *, crc: bool) -> int:
    """Count quarters of a symbol; a symbol of SF bits at BW lasts 2^SF / BW, and its header is explicit."""
    spreading = modulation.spreading_factor
    low_rate = 2 if spreading >= 11 and modulation.bandwidth_hz == 125_000 else 0
    bits = 8 * length - 4 * spreading + 28 + (16 if crc else 0)
    blocks = max(-(-bits // (4 * (spreading - low_rate))), 0)
    quarters = _QUARTERS_OF_PREAMBLE + 4 * (8 + blocks * (_CODING_RATE + 4))
    return -(-quarters * (1 << spreading) * 250_000 // modulation.bandwidth_hz)
