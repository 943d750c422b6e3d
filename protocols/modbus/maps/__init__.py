"""The register maps that come with Luciole."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from protocols.modbus.maps.cabinet_io import CABINET_IO
from protocols.modbus.maps.lux import LUX
from protocols.modbus.maps.sdm630 import SDM630
from protocols.modbus.register_map import RegisterMap

BUILT_IN: Mapping[str, RegisterMap] = MappingProxyType({m.name: m for m in (SDM630, CABINET_IO, LUX)})


def known_maps(own: Iterable[RegisterMap] = ()) -> Mapping[str, RegisterMap]:
    """Return the built-in maps and a cabinet's own, by name; its own win."""
    return {**BUILT_IN, **{register_map.name: register_map for register_map in own}}
