"""The cabinet's own contacts: door, breaker, mains, and the contactor that feeds the lamps."""

from protocols.modbus.register_map import Entry, RegisterMap, RegisterType, Table
from protocols.model.device import Report
from protocols.model.ids import PointName


def _contact(table: Table, address: int, point: str, *, writable: bool = False) -> Entry:
    return Entry(
        point=PointName(point),
        table=table,
        address=address,
        type=RegisterType.BIT,
        writable=writable,
        poll_s=2.0,
        report=Report.CHANGE,
    )


CABINET_IO = RegisterMap(
    name="cabinet_io",
    entries=(
        _contact(Table.DISCRETE_INPUT, 0, "cabinet_door_open"),
        _contact(Table.DISCRETE_INPUT, 1, "breaker_tripped"),
        _contact(Table.DISCRETE_INPUT, 2, "mains_present"),
        _contact(Table.DISCRETE_INPUT, 3, "contactor_feedback"),
        _contact(Table.COIL, 0, "contactor", writable=True),
    ),
)
