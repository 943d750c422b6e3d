"""What a cabinet told before its clock was set, put right once it is.

A clock event says what makes UTC of its boot's monotonic time. Events of that boot (alarms, gaps, commands, what
became of policies and requests) are corrected with it, in its own transaction. Readings may be millions, so they
are re-stamped in steps, each with its place in one transaction: after a kill it goes on from there. What arrives
later is stamped right at once.
"""

from collections.abc import Mapping, Sequence

import msgspec

from central import alarms, boots, gaps, priority, readings, snapshots
from central.boots import Boot
from central.clock import LAST_MS
from central.errors import MessageError, RefusedFor
from central.readings import StampedBy
from central.store.writer import Tx
from central.streams import LARGEST
from protocols.backhaul.messages import ClockEvent
from protocols.clock import ClockQuality, Correction
from protocols.model.ids import CabinetId

READINGS_PER_STEP = 5_000
"""About a tenth of a second, while everything else that is to be stored waits."""
UNTOLD_MS = 1_000
BATCHES_PER_STEP = 500
"""Of which nothing may be left to do: to look costs time too."""

_CORRECTED = (
    ("alarm", "cabinet = ?", ("raised_ms", "repeated_ms", "cleared_ms")),
    ("gap", "cabinet = ? AND reported = 1 AND said_to_ms IS NULL", ("from_ms", "to_ms")),
    ("command", "cabinet = ? AND answered = 1", ("state_ms",)),
    ("command", "cabinet = ? AND ours = 0", ("created_ms", "expires_ms")),
    ("policy_report", "cabinet = ?", ("at_ms",)),
    ("cabinet", "id = ?", ("started_ms",)),
)
"""Times that cabinets tell of what happened: table, whose, columns."""
_CONCLUDED = (("gap", "cabinet = ? AND reported = 0", ("from_ms", "to_ms")),)
"""Times that this end took from readings: they are of these readings' scale."""


class Step(msgspec.Struct, frozen=True):
    """The readings of a boot that wait for their time.

    Attributes:
        boot: which, by its row.
        cabinet: whose.
        name: its name.
        offset_ms: utc = monotonic + this.
        tied_ms: monotonic milliseconds of the event that said so: what was taken before is re-stamped.
        is_final: whether nothing better can come.
        after: up to which batch it is done.
    """

    boot: int
    cabinet: CabinetId
    name: str
    offset_ms: int
    tied_ms: int
    is_final: bool
    after: int


def hear(tx: Tx, cabinet: CabinetId, event: ClockEvent) -> None:
    """Take note of what a cabinet says of its clock; correct its events now, its readings soon.

    Raises:
        MessageError: if it says what no clock can.
    """
    _check(event)
    boot = boots.enter(tx, cabinet, event.boot)
    correction = event.correction()
    if correction is not None and _is_news(boot, correction):
        _correct(tx, cabinet, _CORRECTED, correction)
        _correct(tx, cabinet, _CONCLUDED, _as_stamped(boot, event, correction))
        gaps.correct(tx, cabinet, correction)
        priority.correct(tx, cabinet, correction)
        alarms.tell_lasting(tx, cabinet)
    tx.db.execute("UPDATE boot SET told_offset_ms = ? WHERE id = ?", (event.offset_ms, boot.id))
    if event.corrects and event.clock is not ClockQuality.UNSYNCHRONISED and not _is_late(boot, event):
        tx.db.execute(
            "UPDATE boot SET offset_ms = ?, clock = ?, tied_ms = ?, restamp_after = 0 WHERE id = ?",
            (event.offset_ms, event.clock, event.monotonic_ms, boot.id),
        )
        snapshots.restamp(tx, cabinet, event)
    tx.db.execute(
        "UPDATE cabinet SET clock = ?1 WHERE id = ?2 AND boot = ?3 AND hello_ms <= ?4 + "
        " (SELECT arrival_offset_ms FROM boot WHERE id = ?5)",
        (event.clock, cabinet, event.boot, event.monotonic_ms, boot.id),
    )


def _check(event: ClockEvent) -> None:
    """Refuse what would put readings outside of what can be written down, or is no number that JSON can hold."""
    told = (event.utc_ms, event.monotonic_ms, abs(event.before_ms or 0), abs(event.offset_ms))
    if not all(0 <= number < LARGEST for number in told) or event.utc_ms > LAST_MS:
        raise MessageError(RefusedFor.BEYOND_BOUNDS, "a clock event's times")


def _is_news(boot: Boot, correction: Correction) -> bool:
    """Tell whether a correction begins where the boot's last word ended: one that is told twice corrects once.

    Of less than a second cabinets say nothing.
    """
    told_ms = boot.told_offset_ms
    return told_ms is None or abs(told_ms - correction.before_ms) < UNTOLD_MS


def _is_late(boot: Boot, event: ClockEvent) -> bool:
    """Tell whether a better or later word of the same boot came before this one: of an epoch that was salvaged."""
    return (
        boot.clock is not None
        and boot.tied_ms is not None
        and (event.clock < boot.clock or event.monotonic_ms < boot.tied_ms)
    )


def _as_stamped(boot: Boot, event: ClockEvent, told: Correction) -> Correction:
    """Return what corrects times by which readings were stamped: without a clock, by when a hello was heard."""
    if event.before is not ClockQuality.UNSYNCHRONISED or boot.arrival_offset_ms is None:
        return told
    return msgspec.structs.replace(told, before_ms=boot.arrival_offset_ms)


def _correct(
    tx: Tx, cabinet: CabinetId, times: Sequence[tuple[str, str, Sequence[str]]], correction: Correction
) -> None:
    first_ms = correction.before_ms
    given = (cabinet, first_ms, first_ms + correction.until_ms, correction.after_ms - correction.before_ms)
    for table, whose, columns in times:
        moved = ", ".join(f"{one} = {one} + (?4 * ({one} BETWEEN ?2 AND ?3))" for one in columns)
        told = " OR ".join(f"{one} BETWEEN ?2 AND ?3" for one in columns)
        tx.db.execute(
            f"UPDATE {table} SET {moved} WHERE {whose.replace('?', '?1')} AND ({told})",  # noqa: S608  names of ours
            given,
        )


def go_on(tx: Tx) -> None:
    """Re-stamp some readings of one boot, if any wait for it."""
    step = _next_step(tx)
    if step is None:
        return
    done, moved = step.after, 0
    batches = _batches(tx, step)
    for batch_id in batches:
        moved += _restamp(tx, step, batch_id)
        done = batch_id
        if moved >= READINGS_PER_STEP:
            break
    finished = done == step.after or (done == batches[-1] and len(batches) < BATCHES_PER_STEP)
    tx.db.execute("UPDATE boot SET restamp_after = ? WHERE id = ?", (None if finished else done, step.boot))
    if moved:
        tx.db.execute("UPDATE cabinet SET restamps = restamps + 1 WHERE id = ?", (step.cabinet,))


def _next_step(tx: Tx) -> Step | None:
    found = tx.db.execute(
        "SELECT id, cabinet, boot, offset_ms, tied_ms, clock, restamp_after FROM boot"
        " WHERE restamp_after IS NOT NULL ORDER BY id LIMIT 1"
    ).fetchone()
    if found is None:
        return None
    row_id, cabinet, name, offset_ms, tied_ms, clock, after = found
    return Step(row_id, cabinet, name, offset_ms, tied_ms, clock == ClockQuality.SYNCHRONISED, after)


def _batches(tx: Tx, step: Step) -> Sequence[int]:
    found = tx.db.execute(
        "SELECT batch.id FROM batch JOIN stream ON stream.id = stream_id WHERE boot = ? AND batch.id > ?"
        " AND clock < 2 AND cabinet = ? ORDER BY batch.id LIMIT ?",
        (step.name, step.after, step.cabinet, BATCHES_PER_STEP),
    )
    return [batch_id for (batch_id,) in found]


def _restamp(tx: Tx, step: Step, batch_id: int) -> int:
    """Re-stamp the readings of a batch that wait for it; return how many."""
    waiting = tx.db.execute(
        "SELECT series_id, utc_ms, idx, monotonic_ms FROM reading"
        " WHERE batch_id = ? AND monotonic_ms < ? ORDER BY idx",
        (batch_id, step.tied_ms),
    ).fetchall()
    moved = [
        (min(max(monotonic_ms + step.offset_ms, 0), LAST_MS), series_id, utc_ms, idx, monotonic_ms)
        for series_id, utc_ms, idx, monotonic_ms in waiting
    ]
    tx.db.executemany(
        "UPDATE reading SET utc_ms = ?, stamped = ?, clock = ?, monotonic_ms = ?"
        " WHERE series_id = ? AND utc_ms = ? AND batch_id = ? AND idx = ?",
        [
            (
                utc_ms,
                StampedBy.CLOCK_EVENT,
                ClockQuality.HOLDOVER,
                None if step.is_final else monotonic_ms,
                series_id,
                before_ms,
                batch_id,
                idx,
            )
            for utc_ms, series_id, before_ms, idx, monotonic_ms in moved
        ],
    )
    if moved:
        _follow(tx, step.cabinet, batch_id, {series_id: utc_ms for utc_ms, series_id, *_ in moved})
    return len(moved)


def _follow(tx: Tx, cabinet: CabinetId, batch_id: int, newest: Mapping[int, int]) -> None:
    """Take along what repeats a batch's times: latest values, and the time of its stream's last reading.

    Args:
        tx: the job.
        cabinet: whose.
        batch_id: the batch.
        newest: by its series, UTC milliseconds of the last reading in it.
    """
    tx.db.executemany(
        "UPDATE latest SET utc_ms = ?, stamped = ?, clock = ? WHERE series_id = ? AND batch_id = ?",
        [
            (utc_ms, StampedBy.CLOCK_EVENT, ClockQuality.HOLDOVER, series_id, batch_id)
            for series_id, utc_ms in newest.items()
        ],
    )
    tx.db.execute(
        "UPDATE stream SET last_utc_ms = ?1 FROM batch WHERE batch.id = ?2 AND stream.id = stream_id"
        " AND mark = number",
        (max(newest.values()), batch_id),
    )
    readings.tell_latest(tx, cabinet, batch_id, newest)
