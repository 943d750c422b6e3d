"""Policies signed away from the server: a document in JSON or TOML becomes a signed envelope."""

import base64
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from central.api.bodies import SignedEnvelope
from central.errors import StartError
from central.policies import SigningKey
from protocols.backhaul.signing import sign
from protocols.errors import LocalProtocolError
from protocols.model.ids import DeviceId
from protocols.model.lighting import Lamp, LightingPolicy
from protocols.model.policy import Policy
from protocols.rules.soundness import lighting_faults, misplaced_content
from protocols.strict import read

DAY_MS = 86_400_000


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
        raise StartError(f"{path}: expected a table with cabinet, kind, version and lighting")
    return document


def sign_document(
    document: Mapping[str, object], key: SigningKey, now_ms: int, valid_days: float
) -> SignedEnvelope | list[str]:
    """Return a document signed, or everything that is wrong with it.

    Args:
        document: a policy; `key`, `not_before_ms` and `expires_ms` may be left out.
        key: who stands for it.
        now_ms: UTC milliseconds; from when on it may be accepted, unless the document says.
        valid_days: how long it may be accepted, unless the document says.
    """
    expires_ms = now_ms + round(valid_days * DAY_MS)
    complete = {"key": key.id, "not_before_ms": now_ms, "expires_ms": expires_ms} | dict(document)
    policy = read(complete, Policy)
    if isinstance(policy, list):
        return [str(fault) for fault in policy]
    faults = misplaced_content(policy)
    if policy.lighting is not None:
        faults += lighting_faults(policy.lighting, _named_lamps(policy.lighting))
    if policy.key != key.id:
        faults.append(f"key: the document names {policy.key!r}, the key is {key.id!r}")
    if policy.expires_ms <= policy.not_before_ms:
        faults.append("expires_ms: not after not_before_ms")
    if faults:
        return faults
    try:
        signed = sign(policy, key.private)
    except LocalProtocolError as error:
        return [str(error)]
    return SignedEnvelope(signed.body.decode(), signed.key, base64.b64encode(signed.signature).decode())


def _named_lamps(policy: LightingPolicy) -> list[Lamp]:
    """Return lamps as the assignments presume them: whether they exist is for the cabinet to judge."""
    devices = {device for assignment in policy.assignments for device in assignment.devices}
    groups = {group for assignment in policy.assignments for group in assignment.groups}
    return [
        *(Lamp(DeviceId(device), "", "") for device in sorted(devices)),
        *(Lamp(DeviceId(f"any-of-{group}"), "", "", (group,)) for group in sorted(groups)),
    ]
