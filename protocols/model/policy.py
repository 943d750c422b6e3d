"""What the centre wants of a cabinet, and what only somebody at the cabinet can bound."""

from enum import StrEnum
from typing import Annotated

import msgspec

from protocols.model.ids import ID_META, CabinetId, KeyId
from protocols.model.lighting import Level, LightingPolicy


class PolicyKind(StrEnum):
    """What a policy rules. A cabinet trusts each key for the kinds that its settings name."""

    LIGHTING = "lighting"


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A policy's body, as it is written before it is signed.

    Attributes:
        cabinet: for whom, and for nobody else.
        kind: what it rules.
        version: higher than any that the cabinet ever had of this kind.
        not_before_ms: UTC milliseconds before which it must not be accepted.
        expires_ms: UTC milliseconds after which it must not be accepted; once accepted it stays in force.
        key: the key that signs.
        lighting: the content of kind `lighting`.
    """

    cabinet: Annotated[CabinetId, ID_META]
    kind: PolicyKind
    version: Annotated[int, msgspec.Meta(ge=1, lt=2**53)]
    not_before_ms: int
    expires_ms: int
    key: Annotated[KeyId, ID_META]
    lighting: LightingPolicy


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


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cabinet's limits file. Where several limits name a lamp, all of them hold."""

    lamp: tuple[LampLimit, ...] = ()
