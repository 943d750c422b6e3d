"""What follows from a commit: nothing of it may happen before.

A job that changes the store notes here what the world must be told. When the job's savepoint is released its
notes join the round's; when it is rolled back they are forgotten with it.
"""

from enum import StrEnum

import msgspec

from protocols.backhaul.topics import Down
from protocols.model.ids import CabinetId


class ChangeKind(StrEnum):
    """What a live change is about: the names of the events in the feed."""

    LATEST = "latest"
    ALARM = "alarm"
    COMMAND = "command"
    POLICY = "policy"
    PRIORITY = "priority"
    CABINET = "cabinet"
    GAP = "gap"


class Change(msgspec.Struct, frozen=True):
    """Something that a watcher wants to see now.

    Attributes:
        kind: what it is about.
        cabinet: whose.
        body: an API type, encoded only if somebody watches; or what another process has encoded.
    """

    kind: ChangeKind
    cabinet: CabinetId
    body: msgspec.Struct | msgspec.Raw


class Downlink(msgspec.Struct, frozen=True):
    """A message towards a cabinet.

    Attributes:
        cabinet: to whom.
        kind: which of its topics.
        payload: the bytes.
        expires_ms: UTC milliseconds after which the broker need not deliver it any more; None for never.
    """

    cabinet: CabinetId
    kind: Down
    payload: bytes
    expires_ms: int | None = None


class Effects:
    """The notes of one job, or of one round.

    Attributes:
        acks: whose marks are to be told, by cabinet and epoch.
        down: messages to send.
        changes: what watchers want to see.
        due: whether something is to be sent at once, rather than when it is next looked for.
        refused_devices: (cabinet, device, owner) of what was not stored.
        unlisted_devices: (cabinet, device) of what a snapshot told of and no inventory lists.
        batches: committed.
        readings: committed.
    """

    def __init__(self) -> None:
        self.acks: set[tuple[CabinetId, int]] = set()
        self.down: list[Downlink] = []
        self.changes: list[Change] = []
        self.due = False
        self.refused_devices: list[tuple[CabinetId, str, str]] = []
        self.unlisted_devices: list[tuple[CabinetId, str]] = []
        self.batches = 0
        self.readings = 0

    def absorb(self, other: "Effects") -> None:
        """Take over another's notes."""
        self.acks |= other.acks
        self.down += other.down
        self.changes += other.changes
        self.due = self.due or other.due
        self.refused_devices += other.refused_devices
        self.unlisted_devices += other.unlisted_devices
        self.batches += other.batches
        self.readings += other.readings
