"""A search for what is there on an OPC UA server: objects, and which node map fits them."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import structlog
from asyncua import ua

from drivers.base import Found, Looked
from drivers.errors import DeviceError
from drivers.opcua_client import MAX_NODES, OpcUaClient
from drivers.opcua_devices import Device
from drivers.opcua_lookup import OBJECTS, Directory
from protocols.opcua.nodes import BrowsePath, NodeMap, entry_node

MAX_LOOKED: Final = 200
"""Objects that a search looks under."""
MAX_DEPTH: Final = 4
MAX_ADDRESS: Final = 64
"""Characters of an address in the settings."""
MAX_TEXT: Final = 200


class Search:
    """Goes from object to object, breadth first, as far as `MAX_LOOKED` and `MAX_DEPTH` allow.

    Under an object that a known map fits nothing more is looked for: what is there is part of it. The standard's own
    objects are passed over.

    Args:
        maps: the known node maps.
        devices: those that are declared.
        log: where it is said what could not be looked at.
    """

    def __init__(
        self, maps: Mapping[str, NodeMap], devices: Sequence[Device], log: structlog.stdlib.BoundLogger
    ) -> None:
        self._maps = maps
        self._devices = devices
        self._log = log
        self._waiting: deque[tuple[ua.NodeId, tuple[str, ...]]] = deque([(OBJECTS, ())])
        self._seen: set[ua.NodeId] = {OBJECTS}
        self._done = 0

    def goes_on(self) -> bool:
        """Tell whether there is something left to look under."""
        return bool(self._waiting) and self._done < MAX_LOOKED

    def looked(self) -> Looked:
        """Return how far it is."""
        return Looked(self._done, self._done + min(len(self._waiting), MAX_LOOKED - self._done))

    async def step(self, client: OpcUaClient, directory: Directory) -> list[Found]:
        """Look under one more object.

        Raises:
            LineDownError: if the line went away.
        """
        node, path = self._waiting.popleft()
        self._done += 1
        found = []
        try:
            for one in await client.objects_under(node):
                child = ua.NodeId(one.NodeId.Identifier, one.NodeId.NamespaceIndex, one.NodeId.NodeIdType)
                if child.NamespaceIndex == 0 or child in self._seen or len(self._seen) > MAX_NODES:
                    continue
                self._seen.add(child)
                names = (*path, str(one.BrowseName.Name))
                sight, fits = await self._sight(directory, child, names)
                found.append(sight)
                if not fits and len(names) < MAX_DEPTH:
                    self._waiting.append((child, names))
        except DeviceError as fault:
            under = "/".join(path) or "Objects"
            self._log.info("not everything could be looked at", under=under, reason=str(fault))
        return found

    async def _sight(
        self, directory: Directory, node: ua.NodeId, names: tuple[str, ...]
    ) -> tuple[Found, bool]:
        """Return what an object is, and whether a map fits more than half."""
        declared = next((device for device in self._devices if device.object == node), None)
        text, kind, best, fits = "an object that no known map fits", None, 0, False
        for node_map in self._maps.values():
            there, whole = await _fit(directory, node, node_map), len(node_map.entries)
            if there > best:
                best, fits = there, 2 * there > whole
                kind = node_map.kind if fits else None
                text = f"{'/'.join(names)}: map {node_map.name} fits, {there} of its {whole} nodes are there"
        address = _address(directory, node, names) if declared is None else declared.address
        return Found(address, kind, text[:MAX_TEXT], None if declared is None else declared.id), fits


async def _fit(directory: Directory, node: ua.NodeId, node_map: NodeMap) -> int:
    """Return how many of a map's browse paths lead somewhere from an object."""
    paths = [where for one in node_map.entries if isinstance(where := entry_node(one, node_map), BrowsePath)]
    return sum(found is not None for found in await directory.nodes_at([(node, path) for path in paths]))


def _address(directory: Directory, node: ua.NodeId, names: tuple[str, ...]) -> str:
    """Return an address as the settings take it: by namespace and identifier, or a path if that is too long."""
    kind = {int: "i", str: "s"}.get(type(node.Identifier))
    exact = f"nsu={directory.uri_of(node.NamespaceIndex)};{kind}={node.Identifier}"
    return exact if kind is not None and len(exact) <= MAX_ADDRESS else "/".join(names)[:MAX_ADDRESS]
