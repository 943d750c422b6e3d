"""Policies signed away from the server: a document in JSON or TOML becomes a signed envelope."""

import base64
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from central.api.bodies import SignedEnvelope
from central.errors import StartError
from central.policies import SigningKey, lease_of
from protocols.backhaul.signing import sign
from protocols.errors import LocalProtocolError
from protocols.model.device import Device, Kind, Point
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.lighting import Lamp, LightingPolicy
from protocols.model.policy import Policy, PolicyKind
from protocols.model.priority import PriorityPolicy
from protocols.rules.priority.detector import OCCUPIED
from protocols.rules.soundness import lighting_faults, misplaced_content, priority_faults
from protocols.strict import read

DAY_MS = 86_400_000
DEFAULT_LEASE_DAYS = 7.0

EXAMPLES: Mapping[PolicyKind, Mapping[str, object]] = {
    PolicyKind.LIGHTING: {
        "cabinet": "dijon-0001",
        "kind": "lighting",
        "version": 7,
        "lighting": {
            "place": {"latitude": 47.32, "longitude": 5.04, "timezone": "Europe/Paris"},
            "programs": [{"id": "residential", "active_periods": [{"period": "astro", "level": 100}]}],
            "calendars": [{"id": "every-night", "default_program": "residential"}],
            "assignments": [{"calendar": "every-night", "groups": ["street"]}],
            "default_level": 100,
        },
    },
    PolicyKind.PRIORITY: {
        "cabinet": "dijon-0001",
        "kind": "priority",
        "version": 3,
        "priority": {
            "approaches": [
                {
                    "id": "darcy-from-west",
                    "junction": "junction-darcy",
                    "signal_group": "1",
                    "path": [
                        {"latitude": 47.3231, "longitude": 5.0302},
                        {"latitude": 47.3234, "longitude": 5.0345},
                    ],
                    "stop_line_m": 260,
                    "check_in_m": 200,
                    "check_out_m": 15,
                }
            ],
            "rules": [
                {
                    "id": "trunk-lines",
                    "approach": "darcy-from-west",
                    "routes": ["L3", "L5"],
                    "level": 8,
                    "max_extension_s": 12,
                    "cooldown_s": 90,
                    "grants_per_hour": 30,
                }
            ],
        },
    },
}
"""What `policy example` prints: documents that can be signed once they say what is meant."""


def read_document(path: Path) -> Mapping[str, object]:
    """Return a JSON or TOML file as plain tables.

    Raises:
        StartError: if it cannot be read, or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text) if path.suffix == ".toml" else msgspec.json.decode(text)
    except OSError as error:
        raise StartError(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise StartError(f"{path}: expected a table with cabinet, kind, version, and lighting or priority")
    return document


def sign_document(
    document: Mapping[str, object],
    key: SigningKey,
    now_ms: int,
    valid_days: float,
    lease_days: float = DEFAULT_LEASE_DAYS,
) -> SignedEnvelope | list[str]:
    """Return a document signed, or everything that is wrong with it.

    Args:
        document: a policy; `key`, `not_before_ms`, `expires_ms` and `priority.lease_until_ms` may be left out.
        key: who stands for it.
        now_ms: UTC milliseconds; from when on it may be accepted, unless the document says.
        valid_days: how long it may be accepted, unless the document says.
        lease_days: for how long a cabinet goes by priority rules, unless the document says.
    """
    policy = read(_completed(document, key, now_ms, valid_days, lease_days), Policy)
    if isinstance(policy, list):
        return [str(fault) for fault in policy]
    faults = [*misplaced_content(policy), *_content_faults(policy), *_date_faults(policy, now_ms)]
    if policy.key != key.id:
        faults.append(f"key: the document names {policy.key!r}, the key is {key.id!r}")
    if faults:
        return faults
    try:
        signed = sign(policy, key.private)
    except LocalProtocolError as error:
        return [str(error)]
    return SignedEnvelope(signed.body.decode(), signed.key, base64.b64encode(signed.signature).decode())


def _completed(
    document: Mapping[str, object], key: SigningKey, now_ms: int, valid_days: float, lease_days: float
) -> dict[str, object]:
    """Return a document with what may be left out."""
    expires_ms = now_ms + round(valid_days * DAY_MS)
    complete = {"key": key.id, "not_before_ms": now_ms, "expires_ms": expires_ms} | dict(document)
    priority = complete.get("priority")
    if isinstance(priority, dict):
        complete["priority"] = {"lease_until_ms": now_ms + round(lease_days * DAY_MS)} | priority
    return complete


def _content_faults(policy: Policy) -> list[str]:
    faults: list[str] = []
    if policy.lighting is not None:
        faults += lighting_faults(policy.lighting, _named_lamps(policy.lighting))
    if policy.priority is not None:
        faults += priority_faults(policy.priority, _named_devices(policy.priority))
    return faults


def _date_faults(policy: Policy, now_ms: int) -> Iterator[str]:
    if policy.expires_ms <= policy.not_before_ms:
        yield "expires_ms: not after not_before_ms"
    lease_until_ms = lease_of(policy)
    if lease_until_ms is not None and lease_until_ms <= max(now_ms, policy.not_before_ms):
        yield "priority.lease_until_ms: over before the policy can be accepted"


def _named_lamps(policy: LightingPolicy) -> list[Lamp]:
    """Return lamps as the assignments presume them: whether they exist is for the cabinet to judge."""
    devices = {device for assignment in policy.assignments for device in assignment.devices}
    groups = {group for assignment in policy.assignments for group in assignment.groups}
    return [
        *(Lamp(DeviceId(device), "", "") for device in sorted(devices)),
        *(Lamp(DeviceId(f"any-of-{group}"), "", "", (group,)) for group in sorted(groups)),
    ]


def _named_devices(policy: PriorityPolicy) -> list[Device]:
    """Return junctions and detectors as the approaches presume them: whether they exist the cabinet judges."""
    junctions = {str(approach.junction) for approach in policy.approaches}
    points: dict[str, set[PointName]] = {junction: set() for junction in junctions}
    for approach in policy.approaches:
        for name in filter(None, (approach.check_in_detector, approach.check_out_detector)):
            device, _, point = name.partition("/")
            points.setdefault(device, set()).add(PointName(point) if point else OCCUPIED)
    return [
        Device(
            id=DeviceId(device),
            kind=Kind.JUNCTION if device in junctions else Kind.DETECTOR,
            line=LineId(""),
            address="",
            points=tuple(map(Point, sorted(names))),
        )
        for device, names in sorted(points.items())
    ]
