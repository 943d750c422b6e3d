"""From settings to drivers: check everything at once, then open lines, importing only what they need."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, assert_never

from drivers.base import Driver
from drivers.settings import DaliLuba, DeviceSettings, LineSettings, LoraUdp, ModbusRtu, ModbusTcp
from protocols.clock import Clock
from protocols.modbus.maps import known_maps
from protocols.modbus.register_map import RegisterMap, check_map
from protocols.model.device import Kind
from protocols.strict import SettingsFault

_THIS_MACHINE: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_DEV_EUI: Final = re.compile("[0-9A-Fa-f]{16}")


def check(
    lines: Sequence[LineSettings],
    devices: Sequence[DeviceSettings],
    maps: Sequence[RegisterMap] | Mapping[str, RegisterMap] = (),
) -> list[SettingsFault]:
    """Return every fault that the settings have together; none means that the lines can be opened.

    Args:
        lines: the cabinet's lines, in the file's order.
        devices: the cabinet's devices, in the file's order.
        maps: the cabinet's own register maps, in the file's order; the built-in ones are known besides.
    """
    own = list(maps.values()) if isinstance(maps, Mapping) else list(maps)
    return [*_lines(lines), *_devices(lines, devices, known_maps(own)), *_maps(own)]


def _lines(lines: Sequence[LineSettings]) -> Iterator[SettingsFault]:
    yield from _unique("line", "id", [line.id for line in lines])
    yield from _unique("line", "port", [_endpoint(line) for line in lines])
    for i, line in enumerate(lines):
        if line.probe_s > line.probe_bound_s:
            yield _fault(f"line[{i}].probe_s", f"at most probe_bound_s, {line.probe_bound_s:g}")
        if line.reconnect_s > line.reconnect_bound_s:
            bound = f"at most reconnect_bound_s, {line.reconnect_bound_s:g}"
            yield _fault(f"line[{i}].reconnect_s", bound)
        if isinstance(line, LoraUdp):
            for key, expected in _on_air(line):
                yield _fault(f"line[{i}].{key}", expected)


def _on_air(line: LoraUdp) -> Iterator[tuple[str, str]]:
    if line.host not in _THIS_MACHINE and not line.insecure:
        yield (
            "host",
            ("127.0.0.1: forwarders know no passwords; use a tunnel, or set insecure = true on a bench"),
        )
    if line.dedup_s + line.lead_s >= line.rx1_delay_s:
        yield "dedup_s", f"with lead_s less than rx1_delay_s, {line.rx1_delay_s} s, or no downlink is in time"


def _endpoint(line: LineSettings) -> str:
    match line:
        case ModbusTcp():
            return f"{line.host}:{line.port}"
        case LoraUdp():
            return f"{line.host}:{line.port}/udp"
        case DaliLuba() | ModbusRtu():
            return line.port
        case _:
            assert_never(line)


def _unique(section: str, key: str, values: Sequence[str]) -> Iterator[SettingsFault]:
    first: dict[str, int] = {}
    for i, value in enumerate(values):
        if value in first:
            other = f"{section}[{first[value]}]"
            yield _fault(f"{section}[{i}].{key}", f"one of its own; {value!r} is that of {other}")
        first.setdefault(value, i)


def _devices(
    lines: Sequence[LineSettings], devices: Sequence[DeviceSettings], maps: Mapping[str, RegisterMap]
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


def _device(
    device: DeviceSettings, line: LineSettings, maps: Mapping[str, RegisterMap]
) -> Iterator[tuple[str, str]]:
    match line:
        case DaliLuba():
            yield from _on_dali(device)
        case ModbusTcp():
            yield from _on_modbus(device, range(256), maps)
        case ModbusRtu():
            yield from _on_modbus(device, range(1, 248), maps)
        case LoraUdp():
            yield from _on_lorawan(device)
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


def _on_modbus(
    device: DeviceSettings, units: range, maps: Mapping[str, RegisterMap]
) -> Iterator[tuple[str, str]]:
    if device.map not in maps:
        named = f"not {device.map!r}" if device.map else "none was given"
        yield "map", f"a register map ({', '.join(sorted(maps))}); {named}"
    if device.address not in units:
        yield "address", f"a Modbus unit, {units.start} to {units.stop - 1}, not {device.address!r}"


def _maps(maps: Sequence[RegisterMap]) -> Iterator[SettingsFault]:
    yield from _unique("map", "name", [register_map.name for register_map in maps])
    for i, register_map in enumerate(maps):
        yield from check_map(register_map, f"map[{i}]")


def _fault(key: str, expected: str) -> SettingsFault:
    return SettingsFault(key, f"expected {expected}")


def open_line(
    settings: LineSettings,
    devices: Sequence[DeviceSettings],
    maps: Mapping[str, RegisterMap],
    clock: Clock,
    directory: Path,
) -> Driver:
    """Make the driver of one line; nothing is opened until it runs.

    Args:
        settings: the line's, checked.
        devices: checked; those on other lines are left out.
        maps: the cabinet's own register maps by name; the built-in ones are known besides.
        clock: where times come from.
        directory: where a line keeps what it must not forget.
    """
    mine = [device for device in devices if device.line == settings.id]
    match settings:
        case DaliLuba():
            from drivers.dali import open_dali  # noqa: PLC0415  the vendor library is loaded only where used

            return open_dali(settings, mine, clock)
        case ModbusTcp() | ModbusRtu():
            from drivers.modbus import open_modbus  # noqa: PLC0415  the vendor library is loaded only where used

            return open_modbus(settings, mine, known_maps(maps.values()), clock)
        case LoraUdp():
            from drivers.lorawan import open_lorawan  # noqa: PLC0415  so that no other line pays for it

            return open_lorawan(settings, mine, clock, directory)
        case _:
            assert_never(settings)
