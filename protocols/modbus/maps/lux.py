"""A light sensor: tenths of a lux as one unsigned number in input registers 0 and 1, high word first."""

from protocols.modbus.register_map import Entry, RegisterMap, RegisterType, Table
from protocols.model.device import Report
from protocols.model.ids import PointName

LUX = RegisterMap(
    name="lux",
    entries=(
        Entry(
            point=PointName("illuminance"),
            table=Table.INPUT,
            address=0,
            type=RegisterType.U32,
            scale=0.1,
            unit="lx",
            poll_s=10.0,
            report=Report.CHANGE,
            dead_band=0.5,
            minimum=0,
            maximum=200_000,
        ),
    ),
)
