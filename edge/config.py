"""The cabinet's settings: one TOML file, parsed once, every fault named at once."""

import base64
import binascii
import os
import tomllib
from collections.abc import Container
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from drivers.checks import check
from drivers.settings import DeviceSettings, LineSettings
from protocols.backhaul.datagram import KEY_BYTES
from protocols.backhaul.signing import TrustedKey
from protocols.clock import BenchTime
from protocols.modbus.register_map import RegisterMap
from protocols.model.device import Kind
from protocols.model.ids import ID_META, CabinetId, KeyId
from protocols.model.lighting import Lamp
from protocols.model.policy import Limits, PolicyKind
from protocols.opcua.nodes import NodeMap
from protocols.rules.limits import addresses
from protocols.strict import SettingsFault, read

DEFAULT_PATH = Path("/etc/luciole/cabinet.toml")
T = TypeVar("T")
MAX_SOCKET_PATH_BYTES = 107
"""unix(7): sun_path has 108 bytes and ends with a zero."""
MAX_KEY_FILE_BYTES = 1024
MQTT_PORTS = {"mqtt": 1883, "mqtts": 8883}


class CabinetSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who this cabinet is and where it keeps what it must not lose.

    Attributes:
        id: unique within the city.
        directory: of `outbox.db` and `state.db`; relative to the settings file.
        socket: where `luciole-edge` reaches the agent; by default `agent.sock` in `directory`.
        limits: the limits file, relative to the settings file; without one nothing is bounded.
        commune: INSEE code, or "".
    """

    id: Annotated[CabinetId, ID_META]
    directory: str = "/var/lib/luciole"
    socket: str = ""
    limits: str = ""
    commune: str = ""


class BackhaulSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The way to the centre.

    Attributes:
        url: "mqtt://host:port" or "mqtts://host:port".
        mqtt: 5, or 3.1.1 for the embedded broker of a demonstration.
        ca: PEM file of who may vouch for the broker; the system's by default.
        certificate: PEM file with this cabinet's certificate.
        key: PEM file with its private key.
        keepalive_s: how soon a dead connection is noticed.
        silence_s: with nothing acknowledged for so long, the window is sent again.
        insecure: allow plain MQTT beyond this machine.
    """

    url: str
    mqtt: Literal["5", "3.1.1"] = "5"
    ca: str = ""
    certificate: str = ""
    key: str = ""
    keepalive_s: Annotated[int, msgspec.Meta(ge=5, le=600)] = 30
    silence_s: Annotated[float, msgspec.Meta(ge=1, le=60)] = 3.0
    insecure: bool = False


class OutboxSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How readings are gathered and how much may wait for the centre.

    Attributes:
        seal_readings: so many make a batch.
        seal_s: or so many seconds; one second at first and while somebody watches.
        max_mb: how much may wait; beyond it the lowest class gives way.
        max_age_days: how long.
        drain_s: how long a stopping agent waits for the centre.
    """

    seal_readings: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 100
    seal_s: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = 5.0
    max_mb: Annotated[float, msgspec.Meta(ge=0.1, le=100_000)] = 512
    max_age_days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 90
    drain_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 5.0


class LocalPositionsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where vehicles that reach the cabinet itself tell their positions: UDP datagrams, each with its tag.

    Attributes:
        key_file: the fleet's key, 32 bytes in base64, in a file that only its owner can read.
        host: the address to listen on.
        port: UDP port to listen on.
    """

    key_file: str
    host: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 12733


class KeySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key whose policies this cabinet believes.

    Attributes:
        id: as policies name it.
        public: 32 bytes, base64.
        kinds: for which kinds of policy.
    """

    id: Annotated[KeyId, ID_META]
    public: str
    kinds: tuple[PolicyKind, ...] = (PolicyKind.LIGHTING,)


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings file as it is written."""

    cabinet: CabinetSettings
    backhaul: BackhaulSettings
    outbox: OutboxSettings = OutboxSettings()
    trusted_key: tuple[KeySettings, ...] = ()
    line: tuple[LineSettings, ...] = ()
    device: tuple[DeviceSettings, ...] = ()
    map: tuple[RegisterMap, ...] = ()
    local_positions: LocalPositionsSettings | None = None
    nodes: tuple[NodeMap, ...] = ()
    bench_clock: BenchTime | None = None


class Settings(msgspec.Struct, frozen=True):
    """The settings, checked, with every path absolute."""

    file: Path
    directory: Path
    socket: Path
    document: Document
    limits: Limits
    trusted: tuple[TrustedKey, ...]
    lamps: tuple[Lamp, ...]

    @property
    def cabinet(self) -> CabinetId:
        """Who this cabinet is."""
        return self.document.cabinet.id


class FileFault(msgspec.Struct, frozen=True):
    """One thing that is wrong, and in which file."""

    file: Path
    fault: SettingsFault

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.file}: {self.fault}"


class SettingsError(Exception):
    """The settings cannot be used; `faults` says everything that is wrong."""

    def __init__(self, faults: list[FileFault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults


def load(file: Path) -> Settings:
    """Read and check the settings and the limits file.

    Raises:
        SettingsError: with every fault of both files. Where a part of a file cannot be read, what other
            parts say of it is not judged.
    """
    raw, faults = _toml(file)
    document, shape = _read(file, raw, Document)
    faults += shape
    faults += [FileFault(file, fault) for fault in _cross_faults(raw, file.parent)]
    named = _limits_file(raw)
    limits: Limits | None = Limits()
    if named:
        limits_raw, limit_faults = _toml(file.parent / named)
        limits, shape = _read(file.parent / named, limits_raw, Limits)
        lines = _part(raw, "line", tuple[LineSettings, ...])
        limit_faults += shape + [
            FileFault(file.parent / named, fault)
            for fault in _limit_faults(
                limits or Limits(), None if lines is None else {one.id for one in lines}
            )
        ]
        faults += limit_faults
    if faults or document is None or limits is None:
        raise SettingsError(faults)
    return _settings(file, document, limits)


def fleet_key(path: Path) -> bytes:
    """Return the key that a file holds.

    Raises:
        ValueError: with what is wrong with the file, for a person.
    """
    try:
        with path.open("rb") as held:
            mode = os.fstat(held.fileno()).st_mode
            text = held.read(MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise ValueError(f"{path} can be read or written by others; try chmod 600 {path}")
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error as error:
        raise ValueError(f"{path} is no base64; try openssl rand -base64 32") from error
    if len(key) != KEY_BYTES:
        raise ValueError(f"{path} holds a key of {len(key)} bytes, expected {KEY_BYTES}")
    return key


def _settings(file: Path, document: Document, limits: Limits) -> Settings:
    return Settings(
        file=file,
        directory=(file.parent / document.cabinet.directory).absolute(),
        socket=_socket(document.cabinet, file.parent),
        document=document,
        limits=limits,
        trusted=tuple(
            TrustedKey(key.id, base64.b64decode(key.public), frozenset(key.kinds))
            for key in document.trusted_key
        ),
        lamps=tuple(
            Lamp(device.id, device.line, str(device.address), device.groups)
            for device in document.device
            if device.kind is Kind.LAMP
        ),
    )


def _socket(cabinet: CabinetSettings, base: Path) -> Path:
    return (base / cabinet.socket if cabinet.socket else base / cabinet.directory / "agent.sock").absolute()


def _toml(path: Path) -> tuple[dict[str, object] | None, list[FileFault]]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), []
    except OSError as error:
        return None, [FileFault(path, SettingsFault("", f"cannot be read: {error.strerror}"))]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return None, [FileFault(path, SettingsFault("", f"is not TOML: {error}"))]


def _read(path: Path, raw: dict[str, object] | None, wanted: type[T]) -> tuple[T | None, list[FileFault]]:
    if raw is None:
        return None, []
    result = read(raw, wanted)
    if isinstance(result, list):
        return None, [FileFault(path, fault) for fault in result]
    return result, []


def _part(raw: dict[str, object] | None, key: str, wanted: type[T]) -> T | None:
    """Return one part of the settings, if it can be read, whatever is wrong with the others."""
    if raw is None:
        return None
    found = read(raw.get(key, []), wanted)
    return None if isinstance(found, list) else found


def _limits_file(raw: dict[str, object] | None) -> str:
    cabinet = (raw or {}).get("cabinet")
    named = cabinet.get("limits") if isinstance(cabinet, dict) else None
    return named if isinstance(named, str) else ""


def _cross_faults(raw: dict[str, object] | None, base: Path) -> list[SettingsFault]:
    """Return what is wrong between values that are right by themselves."""
    faults: list[SettingsFault] = []
    if (cabinet := _part(raw, "cabinet", CabinetSettings)) is not None:
        faults += _cabinet_faults(cabinet, base)
    if (backhaul := _part(raw, "backhaul", BackhaulSettings)) is not None:
        faults += _backhaul_faults(backhaul, base)
    if (keys := _part(raw, "trusted_key", tuple[KeySettings, ...])) is not None:
        faults += _key_faults(keys)
    if raw is not None and "local_positions" in raw:
        local = _part(raw, "local_positions", LocalPositionsSettings)
        faults += _local_faults(local, base) if local is not None else []
    lines = _part(raw, "line", tuple[LineSettings, ...])
    devices = _part(raw, "device", tuple[DeviceSettings, ...])
    maps = _part(raw, "map", tuple[RegisterMap, ...])
    nodes = _part(raw, "nodes", tuple[NodeMap, ...])
    if lines is not None and devices is not None and maps is not None and nodes is not None:
        faults += check(lines, devices, maps, nodes)
    return faults


def _cabinet_faults(cabinet: CabinetSettings, base: Path) -> list[SettingsFault]:
    socket = _socket(cabinet, base)
    size = len(bytes(socket))
    if _is_file(socket):
        return [SettingsFault("cabinet.socket", f"expected a socket or nothing there; {socket} is a file")]
    if size <= MAX_SOCKET_PATH_BYTES:
        return []
    return [
        SettingsFault(
            "cabinet.socket",
            f"the socket's path has {size} bytes, Linux allows {MAX_SOCKET_PATH_BYTES}; name a shorter one",
        )
    ]


def _local_faults(local: LocalPositionsSettings, base: Path) -> list[SettingsFault]:
    try:
        fleet_key(base / local.key_file)
    except ValueError as error:
        return [SettingsFault("local_positions.key_file", str(error))]
    return []


def _backhaul_faults(backhaul: BackhaulSettings, base: Path) -> list[SettingsFault]:
    faults = []
    try:
        url = urlsplit(backhaul.url)
        _ = url.port
    except ValueError as error:
        return [SettingsFault("backhaul.url", f"{error}")]
    if url.scheme not in MQTT_PORTS or not url.hostname:
        faults.append(SettingsFault("backhaul.url", f"expected mqtt(s)://host:port, got {backhaul.url!r}"))
    local = url.hostname in {"127.0.0.1", "::1", "localhost"}
    if url.scheme == "mqtt" and not local and not backhaul.insecure:
        expected = "plain MQTT leaves this machine; use mqtts://, or set backhaul.insecure = true on a bench"
        faults.append(SettingsFault("backhaul.url", expected))
    for key, name in (("ca", backhaul.ca), ("certificate", backhaul.certificate), ("key", backhaul.key)):
        if name and not _is_file(base / name):
            faults.append(SettingsFault(f"backhaul.{key}", f"there is no file {name!r}"))
    if bool(backhaul.certificate) != bool(backhaul.key):
        faults.append(SettingsFault("backhaul.certificate", "goes with backhaul.key, both or neither"))
    return faults


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # somebody else's folder
        return False


def _key_faults(keys: tuple[KeySettings, ...]) -> list[SettingsFault]:
    names = [key.id for key in keys]
    faults = [
        SettingsFault(f"trusted_key[{position}].id", f"{name!r} is that of trusted_key[{names.index(name)}]")
        for position, name in enumerate(names)
        if names.index(name) < position
    ]
    for position, key in enumerate(keys):
        try:
            size = len(base64.b64decode(key.public, validate=True))
        except ValueError:  # no base64 (binascii.Error), or no ASCII
            size = -1
        if size != 32:
            faults.append(
                SettingsFault(
                    f"trusted_key[{position}].public",
                    "expected 32 bytes in base64, as `luciole-central key init` prints them",
                )
            )
    return faults


def _limit_faults(limits: Limits, lines: Container[str] | None) -> list[SettingsFault]:
    """Return the faults of sound limits; `lines` is None while they cannot be known."""
    faults = []
    for position, limit in enumerate(limits.lamp):
        where = f"lamp[{position}]"
        if lines is not None and limit.line not in lines:
            faults.append(SettingsFault(f"{where}.line", f"there is no line {limit.line!r}"))
        try:
            addresses(limit.addresses)
        except ValueError:
            faults.append(
                SettingsFault(f"{where}.addresses", f'expected "0-23", "3,5" or "*", got {limit.addresses!r}')
            )
        if limit.minimum_level > limit.maximum_level:
            faults.append(SettingsFault(f"{where}.minimum_level", "is above maximum_level"))
    faults += [
        SettingsFault(f"signal[{position}].line", f"there is no line {signal.line!r}")
        for position, signal in enumerate(limits.signal)
        if lines is not None and signal.line not in lines
    ]
    return faults
