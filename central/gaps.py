"""Gaps: what is missing of a stream and will never come, as rows, and told to whoever watches.

A gap belongs to a cabinet and one of its streams. Those with numbers are batches that are missing as a whole;
those without (`first` is 0) are readings that had no number yet: taken, and lost before they were sealed.
"""

import msgspec

from central.api.bodies import GapChange, GapView
from central.effects import Change, ChangeKind
from central.marks import without
from central.store.writer import Tx
from central.views import gap_view, row, rows
from protocols.backhaul.messages import Batch, GapCause
from protocols.clock import EARLIEST_PLAUSIBLE_MS, Correction
from protocols.model.device import StreamClass
from protocols.model.ids import CabinetId

SAME_MS = 1_000
"""What a cabinet could not even seal, because it had no room, is told of again and again: so close it is one gap."""


class Gap(msgspec.Struct, frozen=True):
    """What is missing.

    Attributes:
        epoch: of `numbers`.
        numbers: which batches; empty if what is missing had no number yet.
        from_ms: UTC milliseconds from which on something may be missing; None where nobody can know.
        to_ms: UTC milliseconds up to which.
        count: how many readings; None where nobody can know.
        reported: whether the cabinet says so; otherwise the centre concluded it.
        said_ms: from when to when, in its own words, if these are not believed as they stand.
    """

    cabinet: CabinetId
    stream: StreamClass
    epoch: int
    numbers: range
    cause: GapCause
    from_ms: int | None
    to_ms: int
    count: int | None
    reported: bool
    said_ms: tuple[int, int] | None = None


def record(tx: Tx, gap: Gap) -> None:
    """Record a gap; one that was shed unsealed and goes on where the last such one ended makes that one longer."""
    from_ms = None if gap.from_ms is None or gap.from_ms > gap.to_ms else gap.from_ms
    known = msgspec.structs.replace(gap, from_ms=from_ms)
    goes_on = gap.cause is GapCause.SHED and not gap.numbers
    if not (goes_on and _prolong(tx, known)):
        _insert(tx, known)


def _insert(tx: Tx, gap: Gap) -> None:
    entered = tx.db.execute(
        "INSERT INTO gap (cabinet, stream, epoch, first, last, cause, from_ms, to_ms, count, reported,"
        " learnt_ms, said_from_ms, said_to_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            gap.cabinet,
            gap.stream,
            gap.epoch,
            gap.numbers.start if gap.numbers else 0,
            gap.numbers.stop - 1 if gap.numbers else 0,
            gap.cause.value,
            gap.from_ms,
            gap.to_ms,
            gap.count,
            gap.reported,
            tx.now_ms,
            *(gap.said_ms or (None, None)),
        ),
    )
    assert entered.lastrowid is not None  # noqa: S101  an INSERT has one
    _tell(tx, gap.cabinet, entered.lastrowid)


def _prolong(tx: Tx, gap: Gap) -> bool:
    """Let the last gap of its kind go on, if this one begins where it ends; tell whether it did."""
    last = tx.db.execute(
        "SELECT id, from_ms, to_ms, count FROM gap WHERE cabinet = ? AND stream = ? AND epoch = ?"
        " AND first = 0 AND cause = ? AND said_to_ms IS NULL ORDER BY id DESC LIMIT 1",
        (gap.cabinet, gap.stream, gap.epoch, gap.cause.value),
    ).fetchone()
    if last is None or gap.from_ms is None or gap.said_ms is not None:
        return False
    row_id, from_ms, to_ms, count = last
    if not (from_ms is None or from_ms <= gap.from_ms) or gap.from_ms > to_ms + SAME_MS:
        return False
    if gap.to_ms <= to_ms:
        return True  # a cabinet that had to drop the report tells it again; it came all the same
    total = None if count is None or gap.count is None else count + gap.count
    tx.db.execute("UPDATE gap SET to_ms = ?, count = ? WHERE id = ?", (max(to_ms, gap.to_ms), total, row_id))
    _tell(tx, gap.cabinet, row_id)
    return True


def withdraw(tx: Tx, cabinet: CabinetId, stream: StreamClass, epoch: int, numbers: range) -> None:
    """Take back what the centre concluded about these numbers; of a larger gap the rest remains."""
    concluded = tx.db.execute(
        "SELECT id, first, last, cause, from_ms, to_ms FROM gap WHERE cabinet = ? AND stream = ?"
        " AND epoch = ? AND first <= ? AND last >= ? AND reported = 0",
        (cabinet, stream, epoch, numbers.stop - 1, numbers.start),
    ).fetchall()
    for _, first, last, cause, from_ms, to_ms in concluded:
        for left in without(range(first, last + 1), [numbers]):
            rest = Gap(
                cabinet, stream, epoch, left, GapCause(cause), from_ms, to_ms, count=None, reported=False
            )
            _insert(tx, rest)
    if concluded:
        _remove(tx, cabinet, [one[0] for one in concluded])


def came(tx: Tx, batch: Batch, readings: int) -> None:
    """Take a batch out of the gap that it was said to be in: it was under way, and came after all."""
    place = (batch.cabinet, batch.stream, batch.epoch)
    found = rows(
        tx.db,
        "SELECT * FROM gap WHERE cabinet = ? AND stream = ? AND epoch = ? AND first <= ? AND last >= ?"
        " AND reported = 1",
        (*place, batch.number, batch.number),
    )
    for gap in found:
        left = without(range(gap["first"], gap["last"] + 1), [range(batch.number, batch.number + 1)])
        count = None if gap["count"] is None or len(left) > 1 else max(0, gap["count"] - readings)
        for part in left:
            _insert(
                tx,
                Gap(*place, part, GapCause(gap["cause"]), gap["from_ms"], gap["to_ms"], count, reported=True),
            )
        _remove(tx, batch.cabinet, [gap["id"]])


def _remove(tx: Tx, cabinet: CabinetId, ids: list[int]) -> None:
    tx.db.executemany("DELETE FROM gap WHERE id = ?", [(one,) for one in ids])
    gone = GapChange(cabinet, withdrawn=ids)
    tx.effects.changes.append(Change(ChangeKind.GAP, cabinet, gone))


def correct(tx: Tx, cabinet: CabinetId, correction: Correction) -> None:
    """Say when what a cabinet without a clock told was missing: its clock was set, and tells what it meant."""
    found = rows(
        tx.db,
        "SELECT id, said_from_ms, said_to_ms FROM gap WHERE cabinet = ? AND said_to_ms BETWEEN ? AND ?",
        (cabinet, correction.before_ms, correction.before_ms + correction.until_ms),
    )
    for gap in found:
        to_ms = correction.corrected(gap["said_to_ms"])
        from_ms = correction.corrected(gap["said_from_ms"])
        tx.db.execute(
            "UPDATE gap SET from_ms = ?, to_ms = ?, said_from_ms = NULL, said_to_ms = NULL WHERE id = ?",
            (from_ms if EARLIEST_PLAUSIBLE_MS <= from_ms <= to_ms else None, to_ms, gap["id"]),
        )
        _tell(tx, cabinet, gap["id"])


def known(
    tx: Tx, cabinet: CabinetId, stream: StreamClass, epoch: int, numbers: range, *, reported: bool
) -> list[range]:
    """Return the numbers of known gaps that touch these: of those that the cabinet said, or of the others."""
    found = tx.db.execute(
        "SELECT first, last FROM gap WHERE cabinet = ? AND stream = ? AND epoch = ? AND first <= ?"
        " AND last >= ? AND reported = ?",
        (cabinet, stream, epoch, numbers.stop - 1, numbers.start, reported),
    )
    return [range(first, last + 1) for first, last in found]


def _tell(tx: Tx, cabinet: CabinetId, row_id: int) -> None:
    found = row(tx.db, "SELECT * FROM gap WHERE id = ?", (row_id,))
    assert found is not None  # noqa: S101  the caller has just stored it
    told = GapChange(cabinet, gaps=[gap_view(found, GapView)])
    tx.effects.changes.append(Change(ChangeKind.GAP, cabinet, told))
