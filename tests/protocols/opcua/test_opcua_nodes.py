"""Node maps: the one that comes with Luciole, and those that a technician writes."""

import contextlib
import tomllib

import msgspec
import pytest
from hypothesis import given
from hypothesis.strategies import integers, text

from protocols.errors import LocalProtocolError
from protocols.model.device import Kind, Report
from protocols.opcua.maps import BUILT_IN, known_node_maps
from protocols.opcua.nodes import (
    STANDARD,
    BrowsePath,
    NodeMap,
    NodeName,
    NodeType,
    check_nodes,
    entry_method,
    entry_node,
    parse_address,
    parse_node,
    place,
    point_of,
)
from protocols.strict import read

URI = "urn:example:plc"
WRITTEN = """
[[nodes]]
name = "shaft"
namespace = "urn:example:plc"
kind = "pumping_station"

[[nodes.entry]]
point = "level"
node = "Measurements/Level"
type = "f32"
unit = "m"
minimum = 0
maximum = 5
report = "each"

[[nodes.entry]]
point = "pump_1_running"
node = "s={object}.P1"
type = "bool"
writable = true
method = "Start"
method_off = "s={object}.Stop"
arguments = [1]
namespace = "urn:example:other"
"""


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    nodes: tuple[NodeMap, ...]


def written(document: str) -> NodeMap:
    got = read(tomllib.loads(document), File)
    assert isinstance(got, File)
    return got.nodes[0]


def faults_of(entry: str, namespace: str = URI) -> dict[str, str]:
    head = f'[[nodes]]\nname = "m"\nnamespace = "{namespace}"\n[[nodes.entry]]\npoint = "p"\n'
    got = read(tomllib.loads(head + entry), File)
    faults = got if isinstance(got, list) else check_nodes(got.nodes[0], "nodes[0]")
    return {fault.key: fault.expected for fault in faults}


def test_a_technicians_map_means_what_it_says() -> None:
    shaft = written(WRITTEN)
    assert check_nodes(shaft, "nodes[0]") == []
    level, running = shaft.entries
    assert shaft.kind is Kind.PUMPING_STATION
    assert entry_node(level, shaft) == BrowsePath(((URI, "Measurements"), (URI, "Level")))
    assert (level.type, level.report, level.poll_s) == (NodeType.F32, Report.EACH, None)
    assert (point_of(level).unit, point_of(level).minimum, point_of(level).maximum) == ("m", 0, 5)
    other = "urn:example:other"
    assert entry_node(running, shaft) == NodeName(other, "{object}.P1")
    assert entry_method(running.method, running, shaft) == BrowsePath(((other, "Start"),))
    assert entry_method(running.method_off, running, shaft) == NodeName(other, "{object}.Stop")


@pytest.mark.parametrize(
    ("node", "where"),
    [
        ("i=0", NodeName(URI, 0)),
        ("i=4294967295", NodeName(URI, 4294967295)),
        ("s=a", NodeName(URI, "a")),
        ("s=i=5;x/y", NodeName(URI, "i=5;x/y")),
        ("Level", BrowsePath(((URI, "Level"),))),
        ("0:Server/0:ServiceLevel", BrowsePath(((STANDARD, "Server"), (STANDARD, "ServiceLevel")))),
    ],
)
def test_a_node_is_an_identifier_or_a_path(node: str, where: object) -> None:
    assert parse_node(node, URI) == where


@pytest.mark.parametrize(
    "node",
    ["i=", "i=-1", "i=4294967296", "i=٣", "i=x", "s=", "g=1", "b=1", "", "a//b", "/a", "a/", "0:", "a/" * 16],
)
def test_what_is_neither_is_refused(node: str) -> None:
    with pytest.raises(LocalProtocolError):
        parse_node(node, URI)
    with pytest.raises(LocalProtocolError):
        parse_address(node, URI)


@given(text(min_size=1, max_size=50))
def test_any_string_can_be_an_identifier(identifier: str) -> None:
    assert parse_node(f"s={identifier}", URI) == NodeName(URI, identifier)


@given(text(max_size=50))
def test_any_text_means_something_or_is_refused_by_name(written_text: str) -> None:
    for parse in (parse_node, parse_address):
        with contextlib.suppress(LocalProtocolError):
            assert parse(written_text, URI) is not None


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("station-1", BrowsePath(((URI, "station-1"),))),
        ("Plant/station-1", BrowsePath(((URI, "Plant"), (URI, "station-1")))),
        ("nsu=urn:x;s=station-1", NodeName("urn:x", "station-1")),
        ("ns=urn:x;i=7", NodeName("urn:x", 7)),
        ("s=station-1", NodeName(URI, "station-1")),
        ("nsu=urn:x;s=a;b", NodeName("urn:x", "a;b")),
    ],
)
def test_an_address_is_a_path_from_objects_or_an_identifier(address: str, where: object) -> None:
    assert parse_address(address, URI) == where


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ns=2;s=station-1", "by its URI"),
        ("nsu=;s=station-1", "by its URI"),
        ("nsu=urn:x;station-1", "s=… or i=…"),
        ("nsu=urn:x;g=1", "not supported"),
    ],
)
def test_a_namespace_by_its_index_is_refused(address: str, said: str) -> None:
    with pytest.raises(LocalProtocolError, match=said):
        parse_address(address, URI)


@given(integers(0, 2**32 - 1))
def test_the_object_is_put_in_where_it_is_wanted(number: int) -> None:
    station = NodeName(URI, "station-1")
    assert place(NodeName(URI, "{object}.Level"), station) == NodeName(URI, "station-1.Level")
    for where in (NodeName(URI, "Level"), NodeName(URI, number), BrowsePath(((URI, "Level"),))):
        assert place(where, station) == where
        assert place(where, NodeName(URI, number)) == where
    with pytest.raises(LocalProtocolError):
        place(NodeName(URI, "{object}.Level"), NodeName(URI, number))


@pytest.mark.parametrize(
    ("entry", "key", "expected"),
    [
        ('node = "i=x"\ntype = "bool"', "node", "a number"),
        ('node = "a"\ntype = "bool"\nmethod = "a//b"\nwritable = true', "method", "none of them empty"),
        ('node = "a"\ntype = "bool"\nmethod = "a"', "writable", "true"),
        ('node = "a"\ntype = "bool"\nmethod_off = "a"\nwritable = true', "method", "for true"),
        (
            'node = "a"\ntype = "i16"\nmethod = "a"\nmethod_off = "b"\nwritable = true',
            "method_off",
            "only a bool",
        ),
        ('node = "a"\ntype = "bool"\narguments = [1]', "arguments", "without a method"),
        ('node = "a"\ntype = "bool"\nsettle_s = 1.0', "settle_s", "not written"),
        ('node = "a"\ntype = "bool"\nscale = 2.0', "scale", "cannot be scaled"),
        ('node = "a"\ntype = "text"\nminimum = 2.0', "minimum", "no bounds"),
        ('node = "a"\ntype = "bool"\nmaximum = 2.0', "maximum", "no bounds"),
        ('node = "a"\ntype = "f64"\nminimum = 2.0\nmaximum = 1.0', "minimum", "at most maximum"),
        ('node = "a"\ntype = "f64"\nnamespace = "2"', "namespace", "URI"),
    ],
)
def test_what_contradicts_itself_is_named(entry: str, key: str, expected: str) -> None:
    faults = faults_of(entry)
    assert list(faults) == [f"nodes[0].entry[0].{key}"]
    assert expected in faults[f"nodes[0].entry[0].{key}"]


def test_every_wrong_thing_is_named_at_once() -> None:
    faults = faults_of('node = ""\ntype = "float"\nscale = 0.0\nunits = "m"\narguments = [-1]')
    keys = {"node", "type", "scale", "units", "arguments[0]"}
    assert set(faults) == {f"nodes[0].entry[0].{key}" for key in keys}


def test_a_namespace_is_a_uri() -> None:
    assert list(faults_of('node = "a"\ntype = "f64"', "2")) == ["nodes[0].namespace"]


def test_a_point_has_one_place_and_a_map_has_points() -> None:
    shaft = written(WRITTEN)
    twice = msgspec.structs.replace(shaft, entries=shaft.entries * 2)
    assert [fault.expected for fault in check_nodes(twice, "nodes[0]")] == [
        "expected each point once; 'level' comes 2 times",
        "expected each point once; 'pump_1_running' comes 2 times",
    ]
    for entries in ((), shaft.entries * 1001):
        (fault,) = check_nodes(msgspec.structs.replace(shaft, entries=entries), "nodes[0]")
        assert fault.expected.startswith("expected 1 to 2000 points")


@pytest.mark.parametrize("node_map", BUILT_IN.values(), ids=list(BUILT_IN))
def test_the_built_in_maps_are_sound(node_map: NodeMap) -> None:
    assert check_nodes(node_map, "nodes") == []
    assert msgspec.convert(msgspec.to_builtins(node_map), NodeMap) == node_map


def test_a_cabinets_own_map_goes_before_a_built_in_one() -> None:
    own = msgspec.structs.replace(written(WRITTEN), name="pumping_station")
    assert known_node_maps([own])["pumping_station"] is own
    assert set(known_node_maps()) == {"pumping_station"}
