"""What radio sensors say in their payloads, by the name that the settings give them."""

from collections.abc import Mapping
from types import MappingProxyType

from protocols.lorawan.payloads.axioma import QALCOSONIC_W1
from protocols.lorawan.payloads.bosch import TPL110, TPS110
from protocols.lorawan.payloads.codec import PayloadCodec
from protocols.lorawan.payloads.decentlab import DL_ATM41, DL_MBX, DL_PM
from protocols.lorawan.payloads.dragino import LDDS75
from protocols.lorawan.payloads.milesight import ALL

__all__ = ["CODECS", "PayloadCodec"]

CODECS: Mapping[str, PayloadCodec] = MappingProxyType(
    {codec.name: codec for codec in (TPS110, TPL110, DL_MBX, DL_ATM41, DL_PM, LDDS75, QALCOSONIC_W1, *ALL)}
)
