"""From settings to drivers: opens lines, importing only what they need."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import assert_never

from drivers.base import Driver
from drivers.settings import (
    Ble,
    DaliLuba,
    DeviceSettings,
    LineSettings,
    LoraUdp,
    ModbusRtu,
    ModbusTcp,
    OpcUa,
    Rsmp,
)
from protocols.clock import Clock
from protocols.modbus.maps import known_maps
from protocols.modbus.register_map import RegisterMap
from protocols.opcua.maps import known_node_maps
from protocols.opcua.nodes import NodeMap


def open_line(
    settings: LineSettings,
    devices: Sequence[DeviceSettings],
    maps: Mapping[str, RegisterMap],
    clock: Clock,
    directory: Path,
    *,
    nodes: Sequence[NodeMap] = (),
) -> Driver:
    """Make the driver of one line; nothing is opened until it runs.

    Args:
        settings: the line's, checked.
        devices: checked; those on other lines are left out.
        maps: the cabinet's own register maps by name; the built-in ones are known besides.
        clock: where times come from.
        directory: where a line keeps what it must not forget.
        nodes: the cabinet's own node maps; the built-in ones are known besides.
    """
    mine = [device for device in devices if device.line == settings.id]
    match settings:
        case DaliLuba():
            from drivers.dali import open_dali  # noqa: PLC0415  the vendor library is loaded only where used

            return open_dali(settings, mine, clock)
        case ModbusTcp() | ModbusRtu():
            from drivers.modbus import open_modbus  # noqa: PLC0415  the vendor library is loaded only where used

            return open_modbus(settings, mine, known_maps(maps.values()), clock)
        case OpcUa():
            from drivers.opcua import open_opcua  # noqa: PLC0415  the vendor library is loaded only where used

            return open_opcua(settings, mine, known_node_maps(nodes), clock, directory)
        case Ble():
            from drivers.ble import open_ble  # noqa: PLC0415  the vendor library is loaded only where used

            return open_ble(settings, mine, clock, directory)
        case Rsmp():
            from drivers.rsmp import open_rsmp  # noqa: PLC0415  a cabinet without one pays nothing for it

            return open_rsmp(settings, mine, clock)
        case LoraUdp():
            from drivers.lorawan import open_lorawan  # noqa: PLC0415  so that no other line pays for it

            return open_lorawan(settings, mine, clock, directory)
        case _:
            assert_never(settings)
