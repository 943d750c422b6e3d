"""What is known of the devices behind an OPC UA server, and what its answers say of them."""

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from asyncua import ua

from drivers.base import PolledPoint
from drivers.settings import DeviceSettings
from protocols.errors import LocalProtocolError
from protocols.model.ids import PointName
from protocols.model.reading import Fault, Quality, Value
from protocols.opcua.nodes import Entry, NodeMap, NodeType, parse_address, point_of
from protocols.opcua.status import fault_of
from protocols.opcua.values import Finish, finisher

Judged: TypeAlias = tuple[Value, Fault | None]
VARIANTS: Final[Mapping[NodeType, ua.VariantType]] = {
    NodeType.BOOL: ua.VariantType.Boolean,
    NodeType.I16: ua.VariantType.Int16,
    NodeType.U16: ua.VariantType.UInt16,
    NodeType.I32: ua.VariantType.Int32,
    NodeType.U32: ua.VariantType.UInt32,
    NodeType.I64: ua.VariantType.Int64,
    NodeType.U64: ua.VariantType.UInt64,
    NodeType.F32: ua.VariantType.Float,
    NodeType.F64: ua.VariantType.Double,
    NodeType.TEXT: ua.VariantType.String,
}


class Plan:
    """A set of points and how they are read.

    Attributes:
        points: in the order asked for.
        nodes: what to ask for; points whose node is not there are left out.
        places: each node's position in `points`.
        finish: what makes a value, for each node.
    """

    def __init__(self, device: "Device", points: tuple[PointName, ...]) -> None:
        self.points = points
        self.places = [i for i, name in enumerate(points) if name in device.nodes]
        self.nodes = [device.nodes[points[i]] for i in self.places]
        self.finish = [device.finish[points[i]] for i in self.places]


class Device:
    """One device: its map, and where its nodes are on the server as it runs.

    Attributes:
        id: the device.
        address: as the settings have it.
        where: its object.
        map: what its nodes mean.
        entries: by point.
        points: how it is watched.
        finish: what makes a value, by point.
        heard: the points that the server tells of.
        object: its object's node id; None while it is not known.
        nodes: what asks for each point; those whose node is not there are missing.
        methods: node ids by point, and whether for true (or any value) or for false.
        told: what was told last of each point.
        told_ms: the moment of what was told last; what is told after it is not older.
    """

    def __init__(self, settings: DeviceSettings, node_map: NodeMap) -> None:
        self.id = settings.id
        self.address = str(settings.address)
        self.where = parse_address(self.address, node_map.namespace)
        self.map = node_map
        self.entries = {entry.point: entry for entry in node_map.entries}
        self.points = tuple(_polled(entry, settings) for entry in node_map.entries)
        self.finish: dict[PointName, Finish] = {entry.point: finisher(entry) for entry in node_map.entries}
        self.told_ms = 0
        self.heard = tuple(one.point.name for one in self.points if one.poll_s is None)
        self.forget()

    def forget(self) -> None:
        """Know nothing of the server any more."""
        self.object: ua.NodeId | None = None
        self.nodes: dict[PointName, ua.ReadValueId] = {}
        self.methods: dict[tuple[PointName, bool], ua.NodeId] = {}
        self.told: dict[PointName, Judged] = {}
        self._plans: dict[tuple[PointName, ...], Plan] = {}

    def plan(self, points: tuple[PointName, ...]) -> Plan:
        """Return how some points are read."""
        plan = self._plans.get(points)
        if plan is None:
            plan = self._plans[points] = Plan(self, points)
        return plan

    def check(self, points: Iterable[PointName]) -> None:
        """See to it that there are such points.

        Raises:
            LocalProtocolError: if there are not.
        """
        for name in points:
            if name not in self.entries:
                raise LocalProtocolError(f"{self.id} has no point {name}")


def _polled(entry: Entry, settings: DeviceSettings) -> PolledPoint:
    return PolledPoint(
        point=point_of(entry),
        poll_s=settings.poll_s or entry.poll_s,
        report=settings.report or entry.report,
        dead_band=entry.dead_band if settings.dead_band is None else settings.dead_band,
        heartbeat_s=settings.heartbeat_s or entry.heartbeat_s,
    )


def judge(finish: Finish, result: ua.DataValue) -> Judged:
    """Return a value and what is wrong with it; a bad one has no value, an uncertain one has both."""
    code = result.StatusCode.value if result.StatusCode is not None else 0
    fault = fault_of(code) if code else None
    if fault is not None and fault.quality is Quality.BAD:
        return None, fault
    variant = result.Value
    value = finish(variant.Value if variant is not None else None)
    return (None, value) if isinstance(value, Fault) else (value, fault)


def whole_number(value: ua.DataValue) -> int | None:
    """Return the whole number that a node of the server itself holds, if it holds one."""
    number = value.Value.Value if value.Value is not None else None
    return int(number) if isinstance(number, int) and not isinstance(number, bool) else None
