"""What ties the monotonic clock of a cabinet's boots to UTC.

Every sample has monotonic milliseconds of a boot. Three things can make UTC of them, the best first: a clock
event of that boot, the moment at which its hello was heard here, and what the cabinet itself guessed.
"""

import msgspec

from central.store.writer import Tx
from protocols.clock import ClockQuality
from protocols.model.ids import CabinetId

MAX_BOOTS = 64
"""Of one cabinet that are remembered. A backlog holds those of an outage: even one an hour is two days of them."""
MAX_NAME = 80


class Boot(msgspec.Struct, frozen=True):
    """What is known of a boot.

    Attributes:
        id: its row.
        arrival_offset_ms: utc = monotonic + this, by the moment at which its last hello was heard here.
        told_offset_ms: the same, as its last clock event told.
        offset_ms: the same, by which all that was taken before `tied_ms` is stamped; None before such an event.
        clock: how far that can be trusted.
        tied_ms: monotonic milliseconds of the event that said so.
    """

    id: int
    arrival_offset_ms: int | None
    told_offset_ms: int | None
    offset_ms: int | None
    clock: int | None
    tied_ms: int | None

    @property
    def is_set(self) -> bool:
        """Whether something that disciplines a clock has set it: nothing told before is provisional any more."""
        return self.offset_ms is not None and self.clock == ClockQuality.SYNCHRONISED


def find(tx: Tx, cabinet: CabinetId, boot: str) -> Boot | None:
    """Return what is known of a boot."""
    found = tx.db.execute(
        "SELECT id, arrival_offset_ms, told_offset_ms, offset_ms, clock, tied_ms FROM boot"
        " WHERE cabinet = ? AND boot = ?",
        (cabinet, boot[:MAX_NAME]),
    ).fetchone()
    return None if found is None else Boot(*found)


def enter(tx: Tx, cabinet: CabinetId, boot: str) -> Boot:
    """Return a boot, remembered from now on; of too many the first that was heard of is forgotten."""
    known = find(tx, cabinet, boot)
    if known is not None:
        return known
    tx.db.execute("INSERT INTO boot (cabinet, boot) VALUES (?, ?)", (cabinet, boot[:MAX_NAME]))
    tx.db.execute(
        "DELETE FROM boot WHERE id IN (SELECT id FROM boot WHERE cabinet = ? ORDER BY id DESC LIMIT -1 OFFSET ?)",
        (cabinet, MAX_BOOTS),
    )
    entered = find(tx, cabinet, boot)
    assert entered is not None  # noqa: S101  inserted above, in this transaction
    return entered


def heard_now(tx: Tx, cabinet: CabinetId, boot: str, monotonic_ms: int) -> None:
    """Tie a boot to our own time: its hello says which moment of it is now."""
    entered = enter(tx, cabinet, boot)
    tx.db.execute(
        "UPDATE boot SET arrival_offset_ms = ? WHERE id = ?", (tx.now_ms - monotonic_ms, entered.id)
    )
