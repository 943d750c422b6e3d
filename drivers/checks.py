"""Whether a cabinet's settings of lines and devices can be used: every fault, each with its key."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, assert_never
from urllib.parse import urlsplit

from drivers.rsmp_address import detector_number
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
from protocols.ble.address import ADDRESS_RULE, is_address
from protocols.errors import LocalProtocolError
from protocols.modbus.maps import known_maps
from protocols.modbus.register_map import RegisterMap, check_map
from protocols.model.device import Kind
from protocols.opcua.maps import known_node_maps
from protocols.opcua.nodes import NodeMap, check_nodes, parse_address
from protocols.strict import SettingsFault

_AGENTS_FILES: Final = frozenset({"outbox", "state"})
"""Names that a line which keeps a file of its own cannot have: the agent's files stand beside it."""
_THIS_MACHINE: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_DEV_EUI: Final = re.compile("[0-9A-Fa-f]{16}")
_SPEAKS_BY: Final[Mapping[type, str]] = {Ble: "silence_s", LoraUdp: "silence_s", Rsmp: "its line's update_s"}
"""What bounds the silence of devices that are not polled."""
_NO_SILENCE: Final[Mapping[type, str]] = {
    Rsmp: "its line's update_s says how often its controller speaks",
    OpcUa: "heartbeat_s says how often its server is asked again",
}


def check(
    lines: Sequence[LineSettings],
    devices: Sequence[DeviceSettings],
    maps: Sequence[RegisterMap] | Mapping[str, RegisterMap] = (),
    nodes: Sequence[NodeMap] = (),
) -> list[SettingsFault]:
    """Return every fault that the settings have together; none means that the lines can be opened.

    Args:
        lines: the cabinet's lines, in the file's order.
        devices: the cabinet's devices, in the file's order.
        maps: the cabinet's own register maps, in the file's order; the built-in ones are known besides.
        nodes: the cabinet's own node maps, likewise.
    """
    own = list(maps.values()) if isinstance(maps, Mapping) else list(maps)
    known = _Known(known_maps(own), known_node_maps(nodes))
    return [
        *_lines(lines),
        *_devices(lines, devices, known),
        *_one_site(lines, devices),
        *_maps(own),
        *_nodes(nodes),
    ]


class _Known(NamedTuple):
    """The maps that devices may name."""

    registers: Mapping[str, RegisterMap]
    nodes: Mapping[str, NodeMap]


def _lines(lines: Sequence[LineSettings]) -> Iterator[SettingsFault]:
    yield from _unique("line", "id", [line.id for line in lines])
    yield from _unique("line", "port", [_endpoint(line) for line in lines])
    yield from _unique("line", "adapter", [_adapter(line) for line in lines])
    for i, line in enumerate(lines):
        for key, expected in _line(line):
            yield _fault(f"line[{i}].{key}", expected)


def _line(line: LineSettings) -> Iterator[tuple[str, str]]:
    if line.probe_s > line.probe_bound_s:
        yield "probe_s", f"at most probe_bound_s, {line.probe_bound_s:g}"
    if line.reconnect_s > line.reconnect_bound_s:
        yield "reconnect_s", f"at most reconnect_bound_s, {line.reconnect_bound_s:g}"
    if isinstance(line, Ble | LoraUdp) and line.id in _AGENTS_FILES:
        yield "id", f"another name; {line.id}.db is the agent's own"
    match line:
        case OpcUa():
            yield from _opcua_line(line)
        case LoraUdp():
            yield from _lorawan_line(line)
        case Rsmp():
            yield from _beyond(line, "RSMP is not encrypted here")
        case DaliLuba() | ModbusTcp() | ModbusRtu() | Ble():
            return
        case _:
            assert_never(line)


def _beyond(line: LoraUdp | Rsmp, why: str) -> Iterator[tuple[str, str]]:
    if line.host not in _THIS_MACHINE and not line.insecure:
        yield "host", f"this machine ({', '.join(sorted(_THIS_MACHINE))}), or insecure = true: {why}"


def _lorawan_line(line: LoraUdp) -> Iterator[tuple[str, str]]:
    yield from _beyond(line, "forwarders know no passwords; use a tunnel")
    if line.dedup_s + line.lead_s >= line.rx1_delay_s:
        yield "dedup_s", f"with lead_s less than rx1_delay_s, {line.rx1_delay_s} s, or no downlink is in time"


def _opcua_line(line: OpcUa) -> Iterator[tuple[str, str]]:
    try:
        url = urlsplit(line.url)
        port = url.port
    except ValueError:
        yield "url", f"opc.tcp://host:port, not {line.url!r}"
        return
    if "@" in url.netloc:
        yield "url", "no user and password in it; they belong into user and password_file"
    elif url.scheme != "opc.tcp" or not url.hostname or not port:
        yield "url", f"opc.tcp://host:port, not {line.url!r}"
    if line.security == "none" and url.hostname not in _THIS_MACHINE and not line.insecure:
        yield "security", "a policy, because this leaves the machine; insecure = true allows it on a bench"
    if line.security == "none" and line.user and not line.insecure:
        yield "user", "nobody, because a password would go in the clear; insecure = true allows it on a bench"
    if bool(line.user) != bool(line.password_file):
        yield "password_file", "to go with user, both or neither"


def _endpoint(line: LineSettings) -> str | None:
    return None if isinstance(line, Ble) else line.where


def _adapter(line: LineSettings) -> str | None:
    return line.adapter if isinstance(line, Ble) else None


def _unique(section: str, key: str, values: Sequence[str | None]) -> Iterator[SettingsFault]:
    first: dict[str, int] = {}
    for i, value in enumerate(values):
        if value is None:
            continue
        if value in first:
            other = f"{section}[{first[value]}]"
            yield _fault(f"{section}[{i}].{key}", f"one of its own; {value!r} is that of {other}")
        first.setdefault(value, i)


def _devices(
    lines: Sequence[LineSettings], devices: Sequence[DeviceSettings], maps: _Known
) -> Iterator[SettingsFault]:
    by_id = {line.id: line for line in lines}
    yield from _unique("device", "id", [device.id for device in devices])
    yield from _shared_addresses(devices)
    for i, device in enumerate(devices):
        line = by_id.get(device.line)
        if line is None:
            known = ", ".join(by_id) or "none"
            yield _fault(f"device[{i}].line", f"a line of this file ({known}), not {device.line!r}")
        else:
            for key, expected in _device(device, line, maps):
                yield _fault(f"device[{i}].{key}", expected)


def _shared_addresses(devices: Sequence[DeviceSettings]) -> Iterator[SettingsFault]:
    taken: dict[tuple[str, int | str], list[int]] = defaultdict(list)
    for i, device in enumerate(devices):
        address = device.address.lower() if isinstance(device.address, str) else device.address
        taken[device.line, address].append(i)
    for (line, address), positions in taken.items():
        for i in positions[1:]:
            free = f"an address of its own; {address} on {line!r} is that of device[{positions[0]}]"
            yield _fault(f"device[{i}].address", free)


def _device(device: DeviceSettings, line: LineSettings, maps: _Known) -> Iterator[tuple[str, str]]:
    if device.silence_s is not None and not isinstance(line, Ble | LoraUdp):
        yield "silence_s", f"nothing; {_NO_SILENCE.get(type(line), 'what is asked is not waited for')}"
    if device.poll_s is not None and isinstance(line, Ble | LoraUdp | Rsmp):
        yield "poll_s", f"nothing; a device that speaks by itself is not polled, see {_SPEAKS_BY[type(line)]}"
    match line:
        case DaliLuba():
            yield from _on_dali(device)
        case ModbusTcp():
            yield from _on_modbus(device, range(256), maps.registers)
        case ModbusRtu():
            yield from _on_modbus(device, range(1, 248), maps.registers)
        case OpcUa():
            yield from _on_opcua(device, maps.nodes)
        case Ble():
            yield from _on_ble(device)
        case LoraUdp():
            yield from _on_lorawan(device)
        case Rsmp():
            yield from _on_rsmp(device)
        case _:
            assert_never(line)


def _on_dali(device: DeviceSettings) -> Iterator[tuple[str, str]]:
    if device.kind is not Kind.LAMP:
        yield "kind", f'"lamp" on a DALI line, not "{device.kind.value}"'
    if device.map:
        yield "map", "nothing; a lamp has no registers"
    if device.address not in range(64):
        yield "address", f"a DALI short address, 0 to 63, not {device.address!r}"


def _on_lorawan(device: DeviceSettings) -> Iterator[tuple[str, str]]:
    from protocols.lorawan.payloads import CODECS  # noqa: PLC0415  so that no other line pays for it

    codec = CODECS.get(device.map)
    if codec is None:
        named = f"not {device.map!r}" if device.map else "none was given"
        yield "map", f"a payload codec ({', '.join(sorted(CODECS))}); {named}"
    elif device.kind is not codec.kind:
        yield "kind", f'"{codec.kind.value}", which {device.map} is, not "{device.kind.value}"'
    if not isinstance(device.address, str) or not _DEV_EUI.fullmatch(device.address):
        yield "address", f"a DevEUI in quotes, 16 hexadecimal digits, not {device.address!r}"


def _on_rsmp(device: DeviceSettings) -> Iterator[tuple[str, str]]:
    if device.kind not in {Kind.JUNCTION, Kind.DETECTOR}:
        yield "kind", f'"junction" or "detector" on an RSMP line, not "{device.kind.value}"'
    if device.map:
        yield "map", "nothing; an RSMP component has no registers"
    if not isinstance(device.address, str):
        yield "address", f"a component id in quotes, not {device.address!r}"
    elif device.kind is Kind.DETECTOR and detector_number(device.address) is None:
        yield "address", f"a detector's component id, which ends in its number from 1, not {device.address!r}"


def _one_site(lines: Sequence[LineSettings], devices: Sequence[DeviceSettings]) -> Iterator[SettingsFault]:
    """Name what an RSMP line has twice: its controller, or a detector's number."""
    sites = {line.id for line in lines if isinstance(line, Rsmp)}
    taken: dict[tuple[str, object], int] = {}
    for i, device in enumerate(devices):
        if device.line in sites and isinstance(device.address, str):
            own = None if device.kind is Kind.JUNCTION else detector_number(device.address)
            first = taken.setdefault((device.line, own), i)
            if first != i:
                what = "junction" if own is None else f"detector {own}"
                yield _fault(f"device[{i}].address", f"one {what} on {device.line!r}; device[{first}] is it")


def _on_modbus(
    device: DeviceSettings, units: range, maps: Mapping[str, RegisterMap]
) -> Iterator[tuple[str, str]]:
    if device.map not in maps:
        named = f"not {device.map!r}" if device.map else "none was given"
        yield "map", f"a register map ({', '.join(sorted(maps))}); {named}"
    if device.address not in units:
        yield "address", f"a Modbus unit, {units.start} to {units.stop - 1}, not {device.address!r}"


def _on_opcua(device: DeviceSettings, maps: Mapping[str, NodeMap]) -> Iterator[tuple[str, str]]:
    node_map = maps.get(device.map)
    if node_map is None:
        named = f"not {device.map!r}" if device.map else "none was given"
        yield "map", f"a node map ({', '.join(sorted(maps))}); {named}"
    if not isinstance(device.address, str):
        yield "address", f"an object's browse path or identifier, not {device.address!r}"
        return
    try:
        parse_address(device.address, "" if node_map is None else node_map.namespace)
    except LocalProtocolError as fault:
        yield "address", str(fault)


def _nodes(maps: Sequence[NodeMap]) -> Iterator[SettingsFault]:
    yield from _unique("nodes", "name", [node_map.name for node_map in maps])
    for i, node_map in enumerate(maps):
        yield from check_nodes(node_map, f"nodes[{i}]")


def _on_ble(device: DeviceSettings) -> Iterator[tuple[str, str]]:
    from protocols.ble.profiles import PROFILES  # noqa: PLC0415  so that no other line pays for it

    if device.kind in {Kind.LAMP, Kind.JUNCTION}:
        yield "kind", f'what can be heard, not "{device.kind.value}"'
    if device.map not in PROFILES:
        named = f"not {device.map!r}" if device.map else "none was given"
        yield "map", f"a profile ({', '.join(PROFILES)}); {named}"
    if not is_address(device.address):
        yield "address", f"{ADDRESS_RULE}, not {device.address!r}"


def _maps(maps: Sequence[RegisterMap]) -> Iterator[SettingsFault]:
    yield from _unique("map", "name", [register_map.name for register_map in maps])
    for i, register_map in enumerate(maps):
        yield from check_map(register_map, f"map[{i}]")


def _fault(key: str, expected: str) -> SettingsFault:
    return SettingsFault(key, f"expected {expected}")
