"""The readings of a batch, into history and latest values."""

import math
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum

import msgspec

from central import boots, cabinets
from central.api.bodies import LatestChange
from central.clock import LAST_MS
from central.effects import Change, ChangeKind
from central.store.writer import Tx
from central.streams import LARGEST, Stream
from central.views import point_reading, rows
from protocols.backhaul.codec import samples
from protocols.backhaul.messages import Batch, Snapshot
from protocols.clock import EARLIEST_PLAUSIBLE_MS, ClockQuality
from protocols.errors import RemoteProtocolError
from protocols.model.ids import CabinetId, DeviceId, PointName, is_id
from protocols.model.reading import Quality, Reason, Sample, Value

FUTURE_MS = 300_000
"""A latest value that claims to be from so far ahead of us gives way to any other: its clock was wrong."""
_INTEGER_BOUND = 2**63

StoredRow = tuple[int, int, int, int, Value, bool, int, str | None, int, int, int | None]


class StampedBy(IntEnum):
    """Whose clock a time is from, as it is stored; the API's names are in the same order."""

    CABINET = 0
    CENTRE = 1
    CLOCK_EVENT = 2


class Stamp(msgspec.Struct, frozen=True):
    """How a batch's monotonic times become UTC.

    Attributes:
        offset_ms: utc = monotonic + this; None if nobody knows.
        fallback_ms: UTC milliseconds when the batch came, for want of anything better.
        clock: how far the times can be trusted.
        by: whose they are.
        provisional: whether a clock event may still put them right.
    """

    offset_ms: int | None
    fallback_ms: int
    clock: ClockQuality
    by: StampedBy
    provisional: bool = False

    def utc_ms(self, monotonic_ms: int) -> int:
        """Return UTC milliseconds, within what can be written down."""
        utc_ms = self.fallback_ms if self.offset_ms is None else monotonic_ms + self.offset_ms
        return min(max(utc_ms, 0), LAST_MS)

    def kept_ms(self, monotonic_ms: int) -> int | None:
        """Return what has to be kept of a monotonic time, so that it can be stamped again."""
        return min(max(monotonic_ms, -LARGEST), LARGEST) if self.provisional else None


def clock_of(batch: Batch | Snapshot) -> ClockQuality:
    """Return how far a batch's own times can be trusted: not at all without an offset."""
    return ClockQuality.UNSYNCHRONISED if batch.utc_offset_ms is None else batch.clock


def stamp_of(tx: Tx, batch: Batch | Snapshot) -> Stamp:
    """Say how the times of a batch, or of a snapshot, are to be read.

    What was taken before a clock event of the same boot is read by that event. Else the cabinet's word counts,
    unless it says that it does not know; then the moment at which its hello of that boot was heard here, then
    its own guess, then the time of arrival.
    """
    boot = boots.find(tx, batch.cabinet, batch.boot)
    clock = clock_of(batch)
    is_unset = clock is ClockQuality.UNSYNCHRONISED
    if (
        boot is not None
        and boot.offset_ms is not None
        and boot.clock is not None
        and boot.tied_ms is not None
    ):
        taken_before = is_unset or batch.base_monotonic_ms < boot.tied_ms
        if taken_before and clock is not ClockQuality.SYNCHRONISED:
            by = StampedBy.CLOCK_EVENT
            return Stamp(boot.offset_ms, tx.now_ms, ClockQuality.HOLDOVER, by, provisional=not boot.is_set)
    if batch.utc_offset_ms is not None and not is_unset:
        waits = clock < ClockQuality.SYNCHRONISED and (boot is None or not boot.is_set)
        return Stamp(batch.utc_offset_ms, tx.now_ms, clock, StampedBy.CABINET, provisional=waits)
    if boot is not None and boot.arrival_offset_ms is not None:
        return Stamp(boot.arrival_offset_ms, tx.now_ms, clock, StampedBy.CENTRE, provisional=True)
    guess = batch.utc_offset_ms
    if guess is not None and guess + batch.base_monotonic_ms >= EARLIEST_PLAUSIBLE_MS:
        return Stamp(guess, tx.now_ms, clock, StampedBy.CABINET, provisional=True)
    return Stamp(None, tx.now_ms, ClockQuality.UNSYNCHRONISED, StampedBy.CENTRE, provisional=True)


def store(tx: Tx, stream: Stream, batch: Batch, batch_id: int) -> tuple[int, int | None]:
    """Store a batch's readings; return how many, and the UTC milliseconds of the last.

    Raises:
        RemoteProtocolError: if the columns do not fit together.
    """
    stored = list(_rows(tx, batch, batch_id))
    tx.db.executemany(
        "INSERT INTO reading (series_id, utc_ms, batch_id, idx, value, boolean, quality, reason, clock,"
        " stamped, monotonic_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        stored,
    )
    newest = {one[0]: one for one in stored}
    taken_ms = _taken_ms(batch)
    _update_latest(tx, stream, newest, taken_ms)
    _overtake_snapshots(tx, batch, newest, taken_ms)
    tell_latest(tx, stream.cabinet, batch_id, newest)
    return len(stored), max((one[1] for one in stored), default=None)


def _rows(tx: Tx, batch: Batch, batch_id: int) -> Iterator[StoredRow]:
    stamp = stamp_of(tx, batch)
    foreign: dict[DeviceId, int] = {}
    heard: set[DeviceId] = set()
    index = 0
    for sample in samples(batch):
        if _is_foreign(tx, batch, sample.device):
            foreign[sample.device] = foreign.get(sample.device, 0) + len(sample.points)
        else:
            if sample.device not in heard:
                _speaks(tx, batch, sample.device)
                heard.add(sample.device)
            utc_ms = stamp.utc_ms(sample.monotonic_ms)
            kept_ms = stamp.kept_ms(sample.monotonic_ms)
            for position, point in enumerate(sample.points):
                value, quality, reason = judged(sample, position)
                yield (
                    series(tx, sample.device, point),
                    utc_ms,
                    batch_id,
                    index + position,
                    value,
                    isinstance(value, bool),
                    quality,
                    reason,
                    stamp.clock,
                    stamp.by,
                    kept_ms,
                )
        index += len(sample.points)
    for device, count in foreign.items():
        owner = tx.caches.owners[batch.cabinet, device]
        cabinets.refuse_device(tx, batch.cabinet, device, owner, count)


def judged(sample: Sample, position: int) -> tuple[Value, int, str | None]:
    """Return value, quality and reason of one point of a sample, as they are stored."""
    value = sample.values[position]
    fault = sample.faults.get(position)
    if isinstance(value, float) and not math.isfinite(value):
        reason = Reason.NOT_A_NUMBER if fault is None else fault.reason
        return None, Quality.BAD, reason.value
    if isinstance(value, int) and not -_INTEGER_BOUND <= value < _INTEGER_BOUND:
        value = float(value)
    return (value, Quality.GOOD, None) if fault is None else (value, fault.quality, fault.reason.value)


def _is_foreign(tx: Tx, batch: Batch, device: DeviceId) -> bool:
    owner = tx.caches.owners.get((batch.cabinet, device))
    if owner is None:
        if not is_id(device):
            raise RemoteProtocolError(f"a device's name {device[:80]!r}")
        owner = cabinets.owner_of(tx, batch.cabinet, device)
        if owner == batch.cabinet:
            _adopt(tx, batch, device)
        tx.caches.owners[batch.cabinet, device] = owner
    return owner != batch.cabinet


def _speaks(tx: Tx, batch: Batch, device: DeviceId) -> None:
    """Remember in which streams a device ever spoke: what is missing of these is missing of it."""
    place = (batch.cabinet, device, int(batch.stream))
    if place not in tx.caches.spoken:
        tx.db.execute(
            "INSERT OR IGNORE INTO device_stream (device, cabinet, stream) VALUES (?, ?, ?)",
            (device, batch.cabinet, batch.stream),
        )
        tx.caches.spoken.add(place)


def _adopt(tx: Tx, batch: Batch, device: DeviceId) -> None:
    """Enter a device that no cabinet lists, so that its readings have somebody to belong to."""
    tx.db.execute(
        "INSERT INTO device (id, cabinet, listed, stream) VALUES (?1, ?2, 0, ?3)"
        " ON CONFLICT DO UPDATE SET cabinet = ?2 WHERE listed = 0",
        (device, batch.cabinet, batch.stream),
    )


def series(tx: Tx, device: DeviceId, point: PointName) -> int:
    """Return the row of a device's point, entered if it is new.

    Raises:
        RemoteProtocolError: if that is no name of a point.
    """
    known = tx.caches.series.get((device, point))
    if known is None:
        if not is_id(point):
            raise RemoteProtocolError(f"a point's name {point[:80]!r}")
        tx.db.execute("INSERT OR IGNORE INTO series (device, point) VALUES (?, ?)", (device, point))
        found = tx.db.execute("SELECT id FROM series WHERE device = ? AND point = ?", (device, point))
        known = tx.caches.series[device, point] = int(found.fetchone()[0])
    return known


_LATEST = """
    INSERT INTO latest
        (series_id, utc_ms, batch_id, stream_id, value, boolean, quality, reason, clock, stamped,
        monotonic_ms)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?12)
    ON CONFLICT DO UPDATE SET utc_ms = ?2, batch_id = ?3, stream_id = ?4, value = ?5, boolean = ?6,
        quality = ?7, reason = ?8, clock = ?9, stamped = ?10, monotonic_ms = ?12
    WHERE stream_id = ?4 OR ?2 >= utc_ms OR utc_ms > ?11
"""


def _taken_ms(batch: Batch) -> list[int]:
    """Return for each value of a batch, by its index, the monotonic milliseconds when it was taken."""
    table = batch.columns
    return [
        min(max(batch.base_monotonic_ms + at_ms, -LARGEST), LARGEST)
        for layout, at_ms in zip(table.layout, table.at_ms, strict=True)
        for _ in table.layouts[layout].points
    ]


def _update_latest(tx: Tx, stream: Stream, newest: dict[int, StoredRow], taken_ms: Sequence[int]) -> None:
    """Make a batch's last values the latest.

    Within a stream what comes later is later, whatever the clocks say. A batch of another epoch (a salvaged
    backlog) is compared by time.
    """
    tx.db.executemany(
        _LATEST,
        [
            (*one[:3], stream.id, *one[4:10], tx.now_ms + FUTURE_MS, taken_ms[one[3]])
            for one in newest.values()
        ],
    )


_OVERTAKE = """
    DELETE FROM snapshot WHERE series_id = ?1 AND (cabinet <> ?2 OR CASE boot
        WHEN ?3 THEN monotonic_ms <= ?4
        ELSE ?3 = (SELECT substr(cabinet.boot, 1, ?5) FROM cabinet WHERE id = ?2) END)
"""
"""A batch of another boot than the snapshot's is newer if the cabinet runs in it, and of the backlog if not."""


def _overtake_snapshots(tx: Tx, batch: Batch, newest: dict[int, StoredRow], taken_ms: Sequence[int]) -> None:
    """Let what was told beside the backlog give way to readings that are as new, or newer."""
    if tx.db.execute("SELECT 1 FROM snapshot LIMIT 1").fetchone() is not None:
        boot = batch.boot[: boots.MAX_NAME]
        tx.db.executemany(
            _OVERTAKE,
            [(id_, batch.cabinet, boot, taken_ms[one[3]], boots.MAX_NAME) for id_, one in newest.items()],
        )


_NEWEST = """
    SELECT shown.* FROM json_each(?1) JOIN shown ON shown.series_id = json_each.value
    WHERE batch_id = ?2 ORDER BY device, point
"""


def tell_latest(tx: Tx, cabinet: CabinetId, batch_id: int, newest: Iterable[int]) -> None:
    """Tell who looks which latest values of some series a batch has given."""
    if tx.watched:
        wanted = msgspec.json.encode(list(newest)).decode()
        found = [point_reading(one) for one in rows(tx.db, _NEWEST, (wanted, batch_id))]
        if found:
            tx.effects.changes.append(Change(ChangeKind.LATEST, cabinet, LatestChange(cabinet, found)))
