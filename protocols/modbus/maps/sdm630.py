"""Eastron SDM630 energy meter.

Input registers (function code 4), 32-bit floats, high word first; address = number in the manual − 30001
(Eastron, "SDM630 Modbus Protocol"). At most 60 registers in a request, as its sister SDM72's manual says.
"""

from protocols.modbus.register_map import Entry, RegisterMap, RegisterType, Table
from protocols.model.device import Report
from protocols.model.ids import PointName


def _input(number: int, point: str, unit: str, bounds: tuple[float, float], dead_band: float) -> Entry:
    return Entry(
        point=PointName(point),
        table=Table.INPUT,
        address=number - 30001,
        type=RegisterType.F32,
        unit=unit,
        poll_s=10.0,
        report=Report.CHANGE,
        dead_band=dead_band,
        minimum=bounds[0],
        maximum=bounds[1],
    )


SDM630 = RegisterMap(
    name="sdm630",
    max_registers=60,
    entries=(
        _input(30001, "voltage_l1", "V", (0, 1000), 1.0),
        _input(30003, "voltage_l2", "V", (0, 1000), 1.0),
        _input(30005, "voltage_l3", "V", (0, 1000), 1.0),
        _input(30007, "current_l1", "A", (0, 10000), 0.05),
        _input(30009, "current_l2", "A", (0, 10000), 0.05),
        _input(30011, "current_l3", "A", (0, 10000), 0.05),
        _input(30013, "active_power_l1", "W", (-1e7, 1e7), 5.0),
        _input(30015, "active_power_l2", "W", (-1e7, 1e7), 5.0),
        _input(30017, "active_power_l3", "W", (-1e7, 1e7), 5.0),
        _input(30053, "active_power", "W", (-1e7, 1e7), 5.0),
        _input(30071, "frequency", "Hz", (0, 100), 0.05),
        _input(30073, "cumulative_active_energy", "kW.h", (0, 1e10), 0.0),
        _input(30075, "cumulative_active_energy_exported", "kW.h", (0, 1e10), 0.0),
    ),
)
