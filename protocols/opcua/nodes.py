"""What the nodes of an OPC UA server mean, as data: built in, or written by a technician in the cabinet's file.

    [[nodes]]
    name = "pump_shaft"
    namespace = "urn:example:plc"

    [[nodes.entry]]
    point = "level"
    node = "Measurements/Level"   # a browse path from the device's object …
    type = "f32"
    unit = "m"

    [[nodes.entry]]
    point = "pump_1_running"
    node = "s={object}.P1.Run"    # … or an identifier, {object} being that of the device's object
    type = "bool"
    method = "StartPump"          # writing true calls this, false the other, with these arguments
    method_off = "StopPump"
    arguments = [1]
    writable = true

A namespace is named by its URI, never by its index: indices may change between sessions (OPC 10000-3, 5.2.2), so
they are looked up at each connection.
"""

import re
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Final, TypeAlias

import msgspec

from protocols.errors import LocalProtocolError
from protocols.model.device import Kind, Point, Report
from protocols.model.ids import ID_PATTERN, ID_RULE, PointName
from protocols.strict import SettingsFault

MAX_ENTRIES: Final = 2000
"""Entries in one map; a bound on what a settings file can make us hold."""
MAX_DEPTH: Final = 16
"""Names in one browse path."""
MAX_TEXT: Final = 4096
"""Characters of a string identifier (OPC 10000-3, 8.2.4)."""
OBJECT_MARK: Final = "{object}"
STANDARD: Final = "http://opcfoundation.org/UA/"
"""The namespace of OPC UA itself, which alone always has the same index: 0 (OPC 10000-3, 8.2.2)."""

_UINT32: Final = 0xFFFF_FFFF
_NODE_ID: Final = re.compile(r"([isgb])=(.*)", re.DOTALL)
_EXPANDED: Final = re.compile(r"nsu?=([^;]*);(.*)", re.DOTALL)
_STANDARD_NAME: Final = "0:"


class NodeType(StrEnum):
    """How a value is held by the server (OPC 10000-6, table 1)."""

    BOOL = "bool"
    I16 = "i16"
    U16 = "u16"
    I32 = "i32"
    U32 = "u32"
    I64 = "i64"
    U64 = "u64"
    F32 = "f32"
    F64 = "f64"
    TEXT = "text"


class NodeName(msgspec.Struct, frozen=True):
    """A node by its identifier.

    Attributes:
        namespace: URI.
        identifier: a number (0 to 2**32 − 1) or a string.
    """

    namespace: str
    identifier: int | str


class BrowsePath(msgspec.Struct, frozen=True):
    """A node by the way to it, over hierarchical references.

    Attributes:
        names: BrowseNames from the first step to the last, each with its namespace's URI.
    """

    names: tuple[tuple[str, str], ...]


Where: TypeAlias = NodeName | BrowsePath


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One point and where it is.

    Attributes:
        point: its name.
        node: "s=…" or "i=…", or a browse path from the device's object, "/" between the names; a name of OPC UA
            itself begins with "0:".
        namespace: URI of the node's namespace; "" for the map's.
        type: how the server holds it. Reading takes any number for a number; writing takes exactly this.
        scale: the value is the server's number times this.
        unit: UCUM code.
        minimum: smallest value that the device can mean.
        maximum: largest value that the device can mean.
        writable: whether it can be commanded.
        method: the method that writes it, as `node` is written; "" if the node itself is written.
        method_off: for a bool: the method for false, `method` being that for true; then neither gets the value.
        arguments: what the method gets before the value, as UInt32.
        settle_s: how long the device may take until the node shows what was asked for.
        poll_s: seconds between two readings; None to have the server tell of changes.
        report: when a reading is worth keeping.
        dead_band: change below which nothing has changed, in the point's unit.
        heartbeat_s: seconds after which an unchanged value is kept all the same.
    """

    point: Annotated[PointName, msgspec.Meta(pattern=ID_PATTERN, description=ID_RULE)]
    node: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT)]
    type: NodeType
    namespace: str = ""
    scale: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    writable: bool = False
    method: str = ""
    method_off: str = ""
    arguments: tuple[Annotated[int, msgspec.Meta(ge=0, le=_UINT32)], ...] = ()
    settle_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.0
    poll_s: Annotated[float, msgspec.Meta(ge=0.05, le=86400)] | None = None
    report: Report = Report.CHANGE
    dead_band: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    heartbeat_s: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 900.0


class NodeMap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the nodes of a kind of device mean.

    Attributes:
        name: by which a device's settings name it.
        namespace: URI of its nodes, and of the names in browse paths.
        kind: what such a device is to the city; None if that cannot be told.
        entries: the points; `entry` in a file.
    """

    name: Annotated[str, msgspec.Meta(pattern=ID_PATTERN, description=ID_RULE)]
    namespace: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT)]
    kind: Kind | None = None
    entries: tuple[Entry, ...] = msgspec.field(default=(), name="entry")


def point_of(entry: Entry) -> Point:
    """Return the point that an entry describes."""
    return Point(
        name=entry.point,
        unit=entry.unit,
        writable=entry.writable,
        minimum=entry.minimum,
        maximum=entry.maximum,
    )


# --- where a node is ---


def parse_node(text: str, namespace: str) -> Where:
    """Return what a node's text means: an identifier or a browse path, in `namespace`.

    Raises:
        LocalProtocolError: if it means nothing; the message says what was expected.
    """
    found = _NODE_ID.fullmatch(text)
    if found is None:
        return _path(text, namespace)
    letter, identifier = found.groups()
    match letter:
        case "i":
            if not identifier.isascii() or not identifier.isdigit() or int(identifier) > _UINT32:
                raise LocalProtocolError(f"a number from 0 to {_UINT32} after i=, not {identifier!r}")
            return NodeName(namespace, int(identifier))
        case "s":
            if not 0 < len(identifier) <= MAX_TEXT:
                raise LocalProtocolError(f"1 to {MAX_TEXT} characters after s=")
            return NodeName(namespace, identifier)
        case _:
            raise LocalProtocolError("an identifier with i= or s=; GUIDs and opaque ones are not supported")


def _path(text: str, namespace: str) -> BrowsePath:
    names = text.split("/")
    if not 0 < len(names) <= MAX_DEPTH or "" in names or _STANDARD_NAME in names:
        raise LocalProtocolError(f"1 to {MAX_DEPTH} names with / between them, none of them empty")
    return BrowsePath(
        tuple(
            (STANDARD, name.removeprefix(_STANDARD_NAME))
            if name.startswith(_STANDARD_NAME)
            else (namespace, name)
            for name in names
        )
    )


def parse_address(text: str, namespace: str) -> Where:
    """Return where a device's object is: "nsu=URI;s=…", "nsu=URI;i=…", or a browse path from the Objects folder.

    Args:
        text: the address; "ns=" does for "nsu=".
        namespace: of the device's map; that of the names in a browse path.

    Raises:
        LocalProtocolError: if it means nothing; the message says what was expected.
    """
    found = _EXPANDED.fullmatch(text)
    if found is None:
        return parse_node(text, namespace)
    uri, node = found.groups()
    if not uri or uri.isdigit():
        raise LocalProtocolError(
            f"a namespace by its URI, not {uri!r}: an index changes when a server restarts"
        )
    if _NODE_ID.fullmatch(node) is None:
        raise LocalProtocolError(f"s=… or i=… after the namespace, not {node!r}")
    return parse_node(node, uri)


def place(where: Where, of: NodeName) -> Where:
    """Return where a node is once its object is known: {object} in it is the object's own identifier.

    Raises:
        LocalProtocolError: if {object} is wanted and the object has no string for an identifier.
    """
    if isinstance(where, BrowsePath) or not isinstance(where.identifier, str):
        return where
    if OBJECT_MARK not in where.identifier:
        return where
    if not isinstance(of.identifier, str):
        raise LocalProtocolError(
            f"{OBJECT_MARK} stands for a string, and the object's identifier is a number"
        )
    return NodeName(where.namespace, where.identifier.replace(OBJECT_MARK, of.identifier))


def entry_node(entry: Entry, node_map: NodeMap) -> Where:
    """Return where an entry's node is, {object} still standing in it."""
    return parse_node(entry.node, entry.namespace or node_map.namespace)


def entry_method(text: str, entry: Entry, node_map: NodeMap) -> Where:
    """Return where one of an entry's methods is, {object} still standing in it."""
    return parse_node(text, entry.namespace or node_map.namespace)


# --- what is wrong with a map ---


def check_nodes(node_map: NodeMap, key: str) -> list[SettingsFault]:
    """Return everything that is wrong with a map's meaning; `key` is where it stands in the file."""
    faults = [
        SettingsFault(f"{key}.entry[{i}].{field}", f"expected {expected}")
        for i, entry in enumerate(node_map.entries)
        for field, expected in _wrong(entry)
    ]
    if node_map.namespace.isdigit():
        expected = "expected a URI; an index changes when a server restarts"
        faults.append(SettingsFault(f"{key}.namespace", expected))
    return faults + _wrong_together(node_map, key)


def _wrong_together(node_map: NodeMap, key: str) -> list[SettingsFault]:
    total = len(node_map.entries)
    if not 0 < total <= MAX_ENTRIES:
        return [SettingsFault(key, f"expected 1 to {MAX_ENTRIES} points; this map has {total}")]
    names = Counter(entry.point for entry in node_map.entries)
    return [
        SettingsFault(key, f"expected each point once; {name!r} comes {n} times")
        for name, n in names.items()
        if n > 1
    ]


def _wrong(entry: Entry) -> Iterator[tuple[str, str]]:
    for field, text in (("node", entry.node), ("method", entry.method), ("method_off", entry.method_off)):
        if text or field == "node":
            try:
                parse_node(text, STANDARD)
            except LocalProtocolError as fault:
                yield field, str(fault)
    if entry.namespace.isdigit():
        yield "namespace", "a URI; an index changes when a server restarts"
    if entry.minimum is not None and entry.maximum is not None and entry.minimum > entry.maximum:
        yield "minimum", f"at most maximum, which is {entry.maximum:g}"
    yield from _wrong_numbers(entry)
    yield from _wrong_writing(entry)


def _wrong_numbers(entry: Entry) -> Iterator[tuple[str, str]]:
    if entry.type not in {NodeType.BOOL, NodeType.TEXT}:
        return
    if entry.scale != 1.0:
        yield "scale", f"nothing; a {entry.type.value} cannot be scaled"
    for field, bound in (("minimum", entry.minimum), ("maximum", entry.maximum)):
        if bound is not None:
            yield field, f"nothing; a {entry.type.value} has no bounds"


def _wrong_writing(entry: Entry) -> Iterator[tuple[str, str]]:
    if entry.method and not entry.writable:
        yield "writable", "true, because there is a method to write it"
    if entry.method_off and not entry.method:
        yield "method", "the method for true, because there is one for false"
    if entry.method_off and entry.type is not NodeType.BOOL:
        yield "method_off", "nothing; only a bool has a method for false"
    if entry.arguments and not entry.method:
        yield "arguments", "nothing without a method"
    if entry.settle_s and not entry.writable:
        yield "settle_s", "nothing; it is not written"
