"""Which node is which on an OPC UA server as it runs: namespaces to indices, browse paths to node ids."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import structlog
from asyncua import ua

from drivers.errors import LineDownError
from drivers.opcua_client import MAX_NODES, OpcUaClient, value_of
from drivers.opcua_devices import Device, whole_number
from protocols.errors import LocalProtocolError
from protocols.model.ids import PointName
from protocols.opcua.nodes import STANDARD, BrowsePath, NodeName, Where, entry_method, entry_node, place

OBJECTS: Final = ua.NodeId(ua.ObjectIds.ObjectsFolder)
ON, OFF = True, False
MAX_NAMESPACES: Final = 65_535
"""Indices are 16 bits wide (OPC 10000-6, 5.2.2.9)."""
_NAMESPACES: Final = ua.NodeId(ua.ObjectIds.Server_NamespaceArray)
_CAPABILITIES: Final = ua.ObjectIds
_LIMITS: Final = (
    ua.NodeId(_CAPABILITIES.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead),
    ua.NodeId(
        _CAPABILITIES.Server_ServerCapabilities_OperationLimits_MaxNodesPerTranslateBrowsePathsToNodeIds
    ),
    ua.NodeId(_CAPABILITIES.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall),
)
_HIERARCHICAL: Final = ua.NodeId(ua.ObjectIds.HierarchicalReferences)


class Directory:
    """Where everything is on one server, for as long as one connection lasts.

    Args:
        client: the connection.
        log: where what is missing is named.
    """

    def __init__(self, client: OpcUaClient, log: structlog.stdlib.BoundLogger) -> None:
        self._client = client
        self._log = log
        self._indices: dict[str, int] = {STANDARD: 0}

    async def open(self) -> None:
        """Ask the server for its limits and its namespaces.

        Raises:
            LineDownError: if it does not say what its namespaces are.
        """
        client = self._client
        limits = await client.read([value_of(node) for node in _LIMITS])
        client.max_read, client.max_translate, client.max_items = (_limit(one) for one in limits)
        (namespaces,) = await client.read([value_of(_NAMESPACES)])
        uris = namespaces.Value.Value if namespaces.Value is not None else None
        if not isinstance(uris, list) or len(uris) > MAX_NAMESPACES:
            raise LineDownError("the server does not say what its namespaces are")
        self._indices = {STANDARD: 0}
        for index, uri in enumerate(uris):
            self._indices.setdefault(str(uri), index)

    def uri_of(self, index: int) -> str:
        """Return the URI of a namespace; "" if the server has not told it."""
        return next((uri for uri, known in self._indices.items() if known == index), "")

    async def look_up(self, devices: Sequence[Device]) -> None:
        """Find the nodes of devices; one that is not there costs its own point only, and is named."""
        for device in devices:
            device.forget()
        objects = await self.nodes_at([(OBJECTS, device.where) for device in devices])
        for device, node in zip(devices, objects, strict=True):
            device.object = node
        wanted = list(self._wanted(devices))
        found = await self.nodes_at([(start, where) for _, _, _, start, where in wanted])
        for (device, point, which, _, _), node in zip(wanted, found, strict=True):
            if node is None:
                continue
            if which is None:
                device.nodes[point] = value_of(node)
            else:
                device.methods[point, which] = node
        for device in devices:
            self._name_missing(device)

    def _wanted(
        self, devices: Iterable[Device]
    ) -> Iterator[tuple[Device, PointName, bool | None, ua.NodeId, Where]]:
        """Yield every node and method of devices: where it is, seen from the device's object."""
        for device in devices:
            if device.object is None:
                continue
            of = NodeName(self.uri_of(device.object.NamespaceIndex), device.object.Identifier)
            for point, which, where in _places(device):
                try:
                    yield device, point, which, device.object, place(where, of)
                except LocalProtocolError as fault:
                    self._log.warning("a node has no name", device=device.id, point=point, reason=str(fault))

    def _name_missing(self, device: Device) -> None:
        if device.object is None:
            self._log.warning("the server has no such object", device=device.id, address=device.address)
            return
        missing = [name for name in device.entries if name not in device.nodes]
        if missing:
            self._log.warning("the server has no node for some points", device=device.id, points=missing)

    async def nodes_at(self, places: Sequence[tuple[ua.NodeId, Where]]) -> list[ua.NodeId | None]:
        """Return the node at each place: named outright, or at the end of a path from a node; None for none."""
        found: list[ua.NodeId | None] = [None] * len(places)
        paths: list[tuple[int, ua.BrowsePath]] = []
        for i, (start, where) in enumerate(places):
            if isinstance(where, NodeName):
                found[i] = self._node_id(where)
            elif (path := self._browse_path(start, where)) is not None:
                paths.append((i, path))
        nodes = await self._client.translate([path for _, path in paths])
        for (i, _), node in zip(paths, nodes, strict=True):
            found[i] = node
        return found

    def _node_id(self, name: NodeName) -> ua.NodeId | None:
        index = self._indices.get(name.namespace)
        return None if index is None else ua.NodeId(name.identifier, index)

    def _browse_path(self, start: ua.NodeId, path: BrowsePath) -> ua.BrowsePath | None:
        steps = []
        for uri, name in path.names:
            index = self._indices.get(uri)
            if index is None:
                return None
            steps.append(ua.RelativePathElement(_HIERARCHICAL, False, True, ua.QualifiedName(name, index)))
        return ua.BrowsePath(start, ua.RelativePath(steps))


def _places(device: Device) -> Iterator[tuple[PointName, bool | None, Where]]:
    """Yield the nodes of a device's map, and its methods: for true (or any value) and for false."""
    for entry in device.map.entries:
        yield entry.point, None, entry_node(entry, device.map)
        if entry.method:
            yield entry.point, ON, entry_method(entry.method, entry, device.map)
        if entry.method_off:
            yield entry.point, OFF, entry_method(entry.method_off, entry, device.map)


def _limit(value: ua.DataValue) -> int:
    """Return a server's limit, where 0 means none (OPC 10000-5, 6.3.11), within ours."""
    number = whole_number(value)
    return min(number, MAX_NODES) if number else MAX_NODES
