"""What the centre wants of a cabinet, and what only somebody at the cabinet can bound."""

from enum import StrEnum
from typing import Annotated

import msgspec

from protocols.model.ids import ID_META, CabinetId, KeyId
from protocols.model.lighting import Level, LightingPolicy
from protocols.model.priority import MAX_LEVEL, PriorityPolicy


class PolicyKind(StrEnum):
    """What a policy rules. A cabinet trusts each key for the kinds that its settings name."""

    LIGHTING = "lighting"
    PRIORITY = "priority"


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A policy's body, as it is written before it is signed. It has the content of its kind and no other.

    Attributes:
        cabinet: for whom, and for nobody else.
        kind: what it rules.
        version: higher than any that the cabinet ever had of this kind.
        not_before_ms: UTC milliseconds before which it must not be accepted.
        expires_ms: UTC milliseconds after which it must not be accepted; once accepted it stays in force.
        key: the key that signs.
        lighting: the content of kind `lighting`.
        priority: the content of kind `priority`.
    """

    cabinet: Annotated[CabinetId, ID_META]
    kind: PolicyKind
    version: Annotated[int, msgspec.Meta(ge=1, lt=2**53)]
    not_before_ms: int
    expires_ms: int
    key: Annotated[KeyId, ID_META]
    lighting: LightingPolicy | None = None
    priority: PriorityPolicy | None = None


class LampLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What nobody afar can undercut, by line and hardware address.

    Attributes:
        line: the cabinet's line.
        addresses: "0-23", "3,5,7-9", or "*" for all.
        minimum_level: percent; the lowest level while a lamp burns.
        maximum_level: percent.
        switch_off: whether a lamp may be dark within an active period or by an override.
    """

    line: str
    addresses: str = "*"
    minimum_level: Level = 0
    maximum_level: Level = 100
    switch_off: bool = False


class SignalLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What nobody afar can exceed at a junction, by line, controller and signal group.

    Attributes:
        line: the cabinet's line.
        address: the controller's address on it, "*" for all.
        signal_group: the group's id as the controller gives it, "*" for all.
        priority: whether any request may be made at all.
        max_level: of a request, 0–14.
        max_extension_s: for one vehicle.
        min_cooldown_s: after a granted request.
        max_grants_per_hour: for one signal group.
        max_time_to_live_s: of a request.
    """

    line: str
    address: str = "*"
    signal_group: str = "*"
    priority: bool = True
    max_level: Annotated[int, msgspec.Meta(ge=0, le=MAX_LEVEL)] = MAX_LEVEL
    max_extension_s: Annotated[int, msgspec.Meta(ge=0, le=60)] = 60
    min_cooldown_s: Annotated[int, msgspec.Meta(ge=0, le=600)] = 0
    max_grants_per_hour: Annotated[int, msgspec.Meta(ge=0, le=240)] = 240
    max_time_to_live_s: Annotated[int, msgspec.Meta(ge=5, le=255)] = 255


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cabinet's limits file. Where several limits name a lamp or a signal group, all of them hold."""

    lamp: tuple[LampLimit, ...] = ()
    signal: tuple[SignalLimit, ...] = ()
