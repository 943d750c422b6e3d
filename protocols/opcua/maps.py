"""The node maps that come with Luciole."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from protocols.model.device import Kind
from protocols.model.ids import PointName
from protocols.opcua.nodes import Entry, NodeMap, NodeType

_MODES: Final = "{code}"
"""Unit of `pump_mode`: 0 off, 1 automatic, 2 by hand."""


def _measured(
    point: str, node: str, unit: str, bounds: tuple[float, float], dead_band: float, *, writable: bool = False
) -> Entry:
    return Entry(
        point=PointName(point),
        node=node,
        type=NodeType.F64,
        unit=unit,
        minimum=bounds[0],
        maximum=bounds[1],
        dead_band=dead_band,
        writable=writable,
    )


def _told(point: str, node: str) -> Entry:
    return Entry(point=PointName(point), node=node, type=NodeType.BOOL)


def _pump(number: int) -> tuple[Entry, ...]:
    return (
        Entry(
            point=PointName(f"pump_{number}_running"),
            node=f"Pump{number}/Running",
            type=NodeType.BOOL,
            writable=True,
            method="StartPump",
            method_off="StopPump",
            arguments=(number,),
            settle_s=3.0,
        ),
        _measured(f"pump_{number}_speed", f"Pump{number}/Speed", "%", (0, 100), 1.0),
        _told(f"pump_{number}_fault", f"Pump{number}/Fault"),
        Entry(
            point=PointName(f"pump_{number}_starts"),
            node=f"Pump{number}/Starts",
            type=NodeType.U32,
            minimum=0,
        ),
    )


PUMPING_STATION: Final = NodeMap(
    name="pumping_station",
    namespace="urn:luciole:pumping-station",
    kind=Kind.PUMPING_STATION,
    entries=(
        _measured("level", "Level", "m", (-1, 20), 0.02),
        _measured("inflow", "Inflow", "m3/h", (0, 10_000), 1.0),
        _measured("outflow", "Outflow", "m3/h", (0, 10_000), 1.0),
        _measured("water_temperature", "WaterTemperature", "Cel", (-10, 60), 0.2),
        _measured("cumulative_active_energy", "Energy", "kW.h", (0, 1e10), 0.0),
        *_pump(1),
        *_pump(2),
        _told("high_level", "HighLevel"),
        _told("pump_failure", "PumpFailure"),
        _measured("level_setpoint", "LevelSetpoint", "m", (0.5, 3.5), 0.0, writable=True),
        Entry(
            point=PointName("pump_mode"),
            node="Mode",
            type=NodeType.I32,
            unit=_MODES,
            minimum=0,
            maximum=2,
            writable=True,
            method="SetMode",
        ),
    ),
)
"""A waste-water pumping station with two pumps; there is no companion specification for one, so this is ours."""

BUILT_IN: Final[Mapping[str, NodeMap]] = MappingProxyType({m.name: m for m in (PUMPING_STATION,)})


def known_node_maps(own: Iterable[NodeMap] = ()) -> Mapping[str, NodeMap]:
    """Return the built-in maps and a cabinet's own, by name; its own win."""
    return {**BUILT_IN, **{node_map.name: node_map for node_map in own}}
