"""The present of a cabinet whose backlog drains: shown as latest values, and apart from all that is history.

A snapshot's reading is shown while it is newer than what batches have brought. Which is newer is told by the
boot and its monotonic clock, never by a calendar's time, which may be wrong, or be put right in between. A
reading of a batch that is as new, or newer, takes its place for good (`readings.store`).
"""

from collections.abc import Iterable, Iterator

import msgspec

from central import boots, cabinets, readings
from central.api.bodies import LatestChange
from central.clock import LAST_MS
from central.effects import Change, ChangeKind
from central.errors import MessageError, RefusedFor
from central.store.writer import Tx
from central.streams import LARGEST
from central.views import point_reading, rows
from protocols.backhaul.codec import samples
from protocols.backhaul.messages import ClockEvent, Snapshot
from protocols.clock import ClockQuality
from protocols.model.ids import CabinetId, DeviceId
from protocols.model.reading import Value

_Shown = tuple[int, str, str, int, int, Value, bool, int, str | None, int, int]


def take(tx: Tx, said: Snapshot) -> bool:
    """Show what a snapshot tells, as far as it is newer than what is known.

    Returns:
        Whether it is of the boot that the cabinet's last hello named. Of another nothing can be told.

    Raises:
        MessageError: if its times are such as no honest cabinet has.
        RemoteProtocolError: if its columns do not fit together.
    """
    if not abs(said.base_monotonic_ms) < LARGEST:
        raise MessageError(RefusedFor.BEYOND_BOUNDS, f"a snapshot at {said.base_monotonic_ms} ms")
    boot = said.boot[: boots.MAX_NAME]
    known = tx.db.execute("SELECT boot FROM cabinet WHERE id = ?", (said.cabinet,)).fetchone()
    if known is None or known[0][: boots.MAX_NAME] != boot:
        return False
    shown = [one for one in _rows(tx, said) if tx.db.execute(_SHOW, one).rowcount == 1]
    _tell(tx, said.cabinet, (one[0] for one in shown))
    return True


_SHOW = """
    INSERT INTO snapshot
        (series_id, cabinet, boot, monotonic_ms, utc_ms, value, boolean, quality, reason, clock, stamped)
    SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11 WHERE NOT EXISTS (
        SELECT 1 FROM latest JOIN batch ON batch.id = batch_id JOIN stream ON stream.id = latest.stream_id
        WHERE latest.series_id = ?1 AND cabinet = ?2 AND boot = ?3 AND latest.monotonic_ms >= ?4)
    ON CONFLICT DO UPDATE SET cabinet = ?2, boot = ?3, monotonic_ms = ?4, utc_ms = ?5, value = ?6, boolean = ?7,
        quality = ?8, reason = ?9, clock = ?10, stamped = ?11
    WHERE cabinet <> ?2 OR boot <> ?3 OR monotonic_ms <= ?4
"""
"""Of an earlier boot, or of another cabinet that had the device before, everything is older."""


def restamp(tx: Tx, cabinet: CabinetId, event: ClockEvent) -> None:
    """Put right what a boot told before its clock was set, as the readings of its batches are."""
    tx.db.execute(
        "UPDATE snapshot SET utc_ms = min(max(monotonic_ms + ?1, 0), ?2), clock = ?3, stamped = ?4"
        " WHERE cabinet = ?5 AND boot = ?6 AND monotonic_ms < ?7 AND clock < ?8",
        (
            event.offset_ms,
            LAST_MS,
            ClockQuality.HOLDOVER,
            readings.StampedBy.CLOCK_EVENT,
            cabinet,
            event.boot[: boots.MAX_NAME],
            event.monotonic_ms,
            event.clock,
        ),
    )


def _rows(tx: Tx, said: Snapshot) -> Iterator[_Shown]:
    boot = said.boot[: boots.MAX_NAME]
    stamp = readings.stamp_of(tx, said)
    refused: set[DeviceId] = set()
    for sample in samples(said):
        if sample.device in refused:
            continue
        if not _is_listed(tx, said.cabinet, sample.device):
            refused.add(sample.device)
            continue
        for position, point in enumerate(sample.points):
            value, quality, reason = readings.judged(sample, position)
            yield (
                readings.series(tx, sample.device, point),
                said.cabinet,
                boot,
                sample.monotonic_ms,
                stamp.utc_ms(sample.monotonic_ms),
                value,
                isinstance(value, bool),
                quality,
                reason,
                stamp.clock,
                stamp.by,
            )


def _is_listed(tx: Tx, cabinet: CabinetId, device: DeviceId) -> bool:
    """Tell whether a device is in a cabinet's inventory; a snapshot enters nothing that is in none."""
    owner = cabinets.owner_of(tx, cabinet, device)
    if owner != cabinet:
        cabinets.refuse_device(tx, cabinet, device, owner, readings=0)
        return False
    found = tx.db.execute(
        "SELECT listed FROM device WHERE id = ? AND cabinet = ?", (device, cabinet)
    ).fetchone()
    if found is not None and found[0]:
        return True
    tx.effects.unlisted_devices.append((cabinet, device))
    return False


def _tell(tx: Tx, cabinet: CabinetId, shown: Iterable[int]) -> None:
    if tx.watched:
        series = msgspec.json.encode(list(shown)).decode()
        found = [point_reading(one) for one in rows(tx.db, _TOLD, (series,))]
        if found:
            tx.effects.changes.append(Change(ChangeKind.LATEST, cabinet, LatestChange(cabinet, found)))


_TOLD = """
    SELECT shown.* FROM json_each(?1) JOIN shown ON shown.series_id = json_each.value ORDER BY device, point
"""
