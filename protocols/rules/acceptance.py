"""What a cabinet asks before it goes by a policy: the centre proposes, the cabinet checks."""

from collections.abc import Mapping, Sequence

import msgspec

from protocols.backhaul.messages import SignedPolicy
from protocols.backhaul.signing import TrustedKey, is_signed_by
from protocols.model.device import Device
from protocols.model.ids import CabinetId
from protocols.model.lighting import Lamp
from protocols.model.policy import Limits, Policy, PolicyKind
from protocols.rules.limits import policy_faults, priority_limit_faults
from protocols.rules.soundness import lighting_faults, misplaced_content, priority_faults
from protocols.strict import read


class Standing(msgspec.Struct, frozen=True):
    """Where a cabinet stands when a policy comes.

    Attributes:
        cabinet: who we are.
        trusted: the keys that the cabinet's settings name.
        highest: for each kind the highest version that this cabinet ever had.
        lamps: the cabinet's lamps.
        limits: the cabinet's limits file.
        devices: the cabinet's devices, junctions and detectors among them.
    """

    cabinet: CabinetId
    trusted: Sequence[TrustedKey]
    highest: Mapping[PolicyKind, int]
    lamps: Sequence[Lamp]
    limits: Limits
    devices: Sequence[Device] = ()

    def with_highest(self, highest: Mapping[PolicyKind, int]) -> "Standing":
        """Return the same with other versions behind it."""
        return msgspec.structs.replace(self, highest=highest)


def judge(signed: SignedPolicy, standing: Standing, now_ms: int) -> Policy | list[str]:
    """Return the policy if this cabinet is to go by it, otherwise every reason why not.

    Of a body that nobody we trust stands for, nothing is said but that; of one that cannot be read, how; and
    limits are compared once the policy is sound in itself.

    Args:
        signed: what came.
        standing: where the cabinet stands.
        now_ms: UTC milliseconds; the later of the clock and the last time known to be good.
    """
    key = next((key for key in standing.trusted if key.key == signed.key), None)
    if key is None:
        return [f"key: {signed.key!r} is not trusted here"]
    if not is_signed_by(signed, key):
        return [f"signature: not made by key {signed.key!r} over these bytes"]
    policy = _read_body(signed.body)
    if not isinstance(policy, Policy):
        return policy
    faults = [*_envelope_faults(policy, key, standing, now_ms), *_content_faults(policy, standing)]
    return faults or policy


def signed_not_before_ms(signed: SignedPolicy, standing: Standing) -> int:
    """Return UTC milliseconds before which it cannot be, because a key that is trusted here says so; else 0.

    For a cabinet that does not know the time: whoever signs a policy sends it no earlier than it may be accepted.
    """
    key = next((key for key in standing.trusted if key.key == signed.key), None)
    if key is None or not is_signed_by(signed, key):
        return 0
    policy = _read_body(signed.body)
    if not isinstance(policy, Policy) or policy.cabinet != standing.cabinet:
        return 0
    return policy.not_before_ms


def _content_faults(policy: Policy, standing: Standing) -> list[str]:
    """Return what is wrong with a policy's content; limits are compared once it is sound in itself."""
    faults = misplaced_content(policy)
    if not faults and policy.lighting is not None:
        faults = lighting_faults(policy.lighting, standing.lamps)
        faults = faults or policy_faults(standing.limits, policy.lighting, standing.lamps)
    if not faults and policy.priority is not None:
        faults = priority_faults(policy.priority, standing.devices)
        faults = faults or priority_limit_faults(standing.limits, policy.priority, standing.devices)
    return faults


def _read_body(body: bytes) -> Policy | list[str]:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return [f"body: {error}"]
    policy = read(document, Policy)
    return policy if isinstance(policy, Policy) else [f"body: {fault}" for fault in policy]


def _envelope_faults(policy: Policy, key: TrustedKey, standing: Standing, now_ms: int) -> list[str]:
    had = standing.highest.get(policy.kind, 0)
    checks = (
        (policy.key == key.key, f"key: the body names {policy.key!r}, the signature {key.key!r}"),
        (policy.kind in key.kinds, f"key: {key.key!r} is not trusted for {policy.kind.value}"),
        (
            policy.cabinet == standing.cabinet,
            f"cabinet: for {policy.cabinet!r}, this is {standing.cabinet!r}",
        ),
        (policy.version > had, f"version: {policy.version} is not above {had}, which was here already"),
        (policy.not_before_ms <= now_ms, "not_before_ms: not valid yet"),
        (now_ms <= policy.expires_ms, "expires_ms: no longer valid"),
    )
    return [fault for holds, fault in checks if not holds]
