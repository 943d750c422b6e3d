"""Memory banks of a control gear: what READ MEMORY LOCATION finds.

Bank 0 (IEC 62386-102) identifies the gear; bank 202 (DiiA part 252) counts its active energy. A further bank
is one class with `read` and `write`, added in `sim.gear`.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

_LATCH = 0x02
_LATCH_NOW = 0xAA
_ENERGY_EXPONENT = -1  # energy and power are given in tenths
_LAST_ENERGY_OFFSET = 0x0F


class Bank(Protocol):
    """One memory bank."""

    def read(self, offset: int) -> int | None:
        """Return the byte at an offset, or None where nothing is implemented."""
        ...

    def write(self, offset: int, value: int) -> bool:
        """Store a byte; False where nothing can be written."""
        ...


class Identity(msgspec.Struct, frozen=True):
    """What bank 0 says of a gear."""

    gtin: int
    number: int
    firmware: tuple[int, int] = (1, 4)
    hardware: tuple[int, int] = (2, 0)


class IdentityBank:
    """Bank 0: read only; offset 02 is the number of the last bank."""

    def __init__(self, identity: Identity, last_bank: int) -> None:
        part_versions = (0x08, 0x08, 0xFF)  # parts 101 and 102 in version 2.0, no part 103
        self._content: tuple[int | None, ...] = (
            0x1A,
            None,
            last_bank,
            *identity.gtin.to_bytes(6, "big"),
            *identity.firmware,
            *identity.number.to_bytes(8, "big"),
            *identity.hardware,
            *part_versions,
            0,  # device units
            1,  # gear units
            0,  # index of this unit
        )

    def read(self, offset: int) -> int | None:
        """Return the byte at an offset, or None beyond 1A and at the reserved 01."""
        return self._content[offset] if offset < len(self._content) else None

    def write(self, offset: int, value: int) -> bool:  # noqa: ARG002  the signature of a bank
        """Refuse: identity is for ever."""
        return False


class EnergyBank:
    """Bank 202: active energy (48 bit) and power (32 bit), each with a signed exponent, and a latch at 02.

    Unlatched, each byte is of its own moment, as in the field.
    """

    def __init__(self, measure: Callable[[], tuple[float, float]]) -> None:
        self._measure = measure
        self._latched: bytes | None = None

    def read(self, offset: int) -> int | None:
        """Return the byte at an offset, or None beyond 0F and at the reserved 01."""
        if offset == 0x01 or offset > _LAST_ENERGY_OFFSET:
            return None
        return (self._latched or self._snapshot())[offset]

    def write(self, offset: int, value: int) -> bool:
        """Latch (AA) or release (any other value) at offset 02."""
        if offset != _LATCH:
            return False
        self._latched = self._snapshot(_LATCH_NOW) if value == _LATCH_NOW else None
        return True

    def _snapshot(self, latch: int = 0xFF) -> bytes:
        energy_wh, power_w = self._measure()
        exponent = _ENERGY_EXPONENT.to_bytes(1, "big", signed=True)
        energy, power = (int(value / 10**_ENERGY_EXPONENT) for value in (energy_wh, power_w))
        head = bytes((_LAST_ENERGY_OFFSET, 0xFF, latch, 0x01))
        return head + exponent + energy.to_bytes(6, "big") + exponent + power.to_bytes(4, "big")
