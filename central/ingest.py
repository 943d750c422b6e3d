"""What cabinets say, taken in: each message is judged, stored, and only after the commit acknowledged.

A batch is committed only as mark + 1 of its (cabinet, epoch, stream), in one savepoint with its rows, its
events and the mark. To everything else the mark is repeated, and the cabinet rewinds.
"""

import threading
from collections import Counter
from typing import assert_never

import msgspec
import structlog

from central import (
    alarms,
    boots,
    cabinets,
    commands,
    gap_reports,
    gaps,
    policies,
    priority,
    readings,
    restamp,
    snapshots,
    streams,
)
from central.errors import MessageError, NotHeldError, RefusedFor
from central.marks import Standing, standing
from central.store.writer import Tx
from central.streams import Stream, check_number, follow_floor, open_stream
from protocols.backhaul.codec import (
    batch_hash,
    decode_hello,
    decode_presence,
    decode_snapshot,
    unframe_batch,
    unseal,
)
from protocols.backhaul.messages import (
    AlarmEvent,
    Batch,
    ClockEvent,
    CommandEvent,
    Event,
    GapCause,
    GapEvent,
    PolicyEvent,
    PriorityEvent,
    StartEvent,
)
from protocols.backhaul.topics import Up, UpTopic, parse_up, shard
from protocols.errors import RemoteProtocolError

MAX_REMEMBERED = 10_000
"""Senders whose refusal was logged: each is logged once for each reason."""

log = structlog.get_logger(__name__)


class Arrival(msgspec.Struct, frozen=True):
    """A batch as it came.

    Attributes:
        batch: what it says.
        floor: its stream's floor when it was sent.
        sealed: its bytes.
        hash: of these.
    """

    batch: Batch
    floor: int
    sealed: bytes
    hash: str


class Content(msgspec.Struct, frozen=True):
    """What was stored of a batch."""

    batch_id: int
    readings: int
    last_utc_ms: int | None


class Counts:
    """What came since the start. Written by the store's thread, read by the API."""

    def __init__(self) -> None:
        self.standings: Counter[Standing] = Counter()
        self.conflicting = 0
        self.contradictory = 0
        self.snapshots = 0
        self.ignored = 0
        self.elsewhere = 0
        self._refused: Counter[RefusedFor] = Counter()
        self._logged: set[tuple[str, RefusedFor]] = set()
        self._cloned: set[str] = set()
        self._lock = threading.Lock()

    def refuse(self, sender: str, reason: RefusedFor, detail: str) -> None:
        """Count a refusal; log the first of a sender for a reason."""
        with self._lock:
            self._refused[reason] += 1
            first = (sender, reason) not in self._logged and len(self._logged) < MAX_REMEMBERED
            self._logged.add((sender, reason)) if first else None
        if first:
            log.warning("refused", sender=sender, reason=reason.value, detail=detail[:300])

    def conflict(self, cabinet: str, detail: str) -> None:
        """Count a batch that is another one than the committed one of its number; log the first of a cabinet."""
        with self._lock:
            self.conflicting += 1
            first = cabinet not in self._cloned and len(self._cloned) < MAX_REMEMBERED
            self._cloned.add(cabinet) if first else None
        if first:
            log.warning("another_batch_of_that_number", sender=cabinet, detail=detail)

    def refused(self) -> dict[str, int]:
        """Return the refusals by reason."""
        with self._lock:
            return {reason.value: count for reason, count in sorted(self._refused.items())}


class Ingest:
    """Takes in what cabinets say, one message at a time, within a job of the store."""

    def __init__(self) -> None:
        self.counts = Counts()

    def receive(self, tx: Tx, topic: str, payload: bytes) -> None:
        """Take in one message; what is not acceptable is counted and leaves the store as it was.

        Raises:
            MessageError: so that the job is undone.
        """
        try:
            self._dispatch(tx, topic, payload)
        except RemoteProtocolError as error:
            self.counts.refuse(_sender(topic), RefusedFor.DAMAGED, str(error))
            raise MessageError(RefusedFor.DAMAGED, str(error)) from error
        except NotHeldError:
            self.counts.elsewhere += 1
            raise
        except MessageError as error:
            self.counts.refuse(_sender(topic), error.reason, str(error))
            raise
        except OverflowError as error:
            self.counts.refuse(_sender(topic), RefusedFor.BEYOND_BOUNDS, str(error))
            raise MessageError(RefusedFor.BEYOND_BOUNDS, str(error)) from error

    def _dispatch(self, tx: Tx, topic: str, payload: bytes) -> None:
        try:
            where = parse_up(topic)
        except RemoteProtocolError as error:
            raise MessageError(RefusedFor.TOPIC, str(error)) from error
        if tx.shards is not None and shard(where.cabinet) not in tx.shards:
            raise NotHeldError(RefusedFor.NOT_HELD, f"{where.cabinet} is another worker's")
        match where.kind:
            case Up.BATCH:
                self._batch(tx, where, payload)
            case Up.HELLO:
                self._hello(tx, where, payload)
            case Up.STATE:
                cabinets.presence(tx, where.cabinet, decode_presence(payload))
            case Up.NOW:
                self._snapshot(tx, where, payload)
            case _:
                assert_never(where.kind)
        for cabinet, device, owner in tx.effects.refused_devices:
            self.counts.refuse(cabinet, RefusedFor.FOREIGN_DEVICE, f"{device} belongs to {owner}")
        for cabinet, device in tx.effects.unlisted_devices:
            self.counts.refuse(cabinet, RefusedFor.UNLISTED_DEVICE, device)

    def _hello(self, tx: Tx, where: UpTopic, payload: bytes) -> None:
        said = decode_hello(payload)
        if said.cabinet != where.cabinet:
            raise MessageError(RefusedFor.FOREIGN, f"a hello of {said.cabinet!r} on {where.cabinet}'s topic")
        cabinets.hello(tx, said)

    def _snapshot(self, tx: Tx, where: UpTopic, payload: bytes) -> None:
        said = decode_snapshot(payload)
        if said.cabinet != where.cabinet:
            raise MessageError(
                RefusedFor.FOREIGN, f"a snapshot of {said.cabinet!r} on {where.cabinet}'s topic"
            )
        if snapshots.take(tx, said):
            self.counts.snapshots += 1
        else:
            self.counts.ignored += 1

    def _batch(self, tx: Tx, where: UpTopic, payload: bytes) -> None:
        floor, sealed = unframe_batch(payload)
        came = Arrival(unseal(sealed), floor, sealed, batch_hash(sealed))
        _check_sender(where, came)
        stream = open_stream(tx, came.batch.cabinet, came.batch.epoch, came.batch.stream)
        stream = _after_floor(tx, stream, came)
        tx.effects.acks.add((came.batch.cabinet, came.batch.epoch))
        place = standing(stream.mark, came.batch.number)
        self.counts.standings[place] += 1
        match place:
            case Standing.NEXT:
                self._commit(tx, stream, came)
            case Standing.KNOWN:
                self._compare(tx, stream, came)
            case Standing.AHEAD:
                pass
            case _:
                assert_never(place)

    def _compare(self, tx: Tx, stream: Stream, came: Arrival) -> None:
        """Notice a batch that has the number of a committed one and other bytes: a cloned card."""
        known = tx.db.execute(
            "SELECT hash FROM batch WHERE stream_id = ? AND number = ?", (stream.id, came.batch.number)
        ).fetchone()
        if known is not None and known[0] != came.hash:
            self.counts.conflict(
                came.batch.cabinet, f"batch {came.batch.number} of {stream.stream.name.lower()}"
            )

    def _commit(self, tx: Tx, stream: Stream, came: Arrival) -> None:
        batch_id = _enter_batch(tx, stream, came)
        tx.db.execute("SAVEPOINT content")
        try:
            count, last_utc_ms = readings.store(tx, stream, came.batch, batch_id)
            for event in came.batch.events:
                self._event(tx, came.batch, event)
        except (RemoteProtocolError, MessageError, OverflowError) as error:
            tx.db.execute("ROLLBACK TO content")
            tx.caches.clear()
            count, last_utc_ms = 0, None
            self._set_aside(tx, stream, came, str(error))
        tx.db.execute("RELEASE content")
        gaps.came(tx, came.batch, count)
        _move_mark(tx, stream, came, Content(batch_id, count, last_utc_ms))
        tx.effects.batches += 1
        tx.effects.readings += count

    def _set_aside(self, tx: Tx, stream: Stream, came: Arrival, why: str) -> None:
        """Keep the bytes of a batch that arrived whole and says nonsense, and let the stream go on.

        It would never become better, and everything behind it would wait for ever.
        """
        number = came.batch.number
        self.counts.refuse(stream.cabinet, RefusedFor.UNREADABLE, f"batch {number}: {why}")
        tx.effects.changes.clear()
        tx.db.execute(
            "INSERT INTO unreadable_batch (batch_id, why, sealed)"
            " SELECT id, ?, ? FROM batch WHERE stream_id = ? AND number = ?",
            (why[:500], came.sealed, stream.id, number),
        )
        streams.conclude(tx, stream, range(number, number + 1), GapCause.CORRUPT, tx.now_ms)

    def _event(self, tx: Tx, batch: Batch, event: Event) -> None:
        """Take in one event; what is not acceptable is counted, and its neighbours are kept.

        Raises:
            MessageError: if it is a gap: a hole of which nothing can be read must show as one.
        """
        try:
            self._heard(tx, batch, event)
        except MessageError as error:
            if isinstance(event, GapEvent):
                raise
            self.counts.refuse(batch.cabinet, error.reason, str(error))

    def _heard(self, tx: Tx, batch: Batch, event: Event) -> None:
        cabinet = batch.cabinet
        match event:
            case AlarmEvent():
                alarms.report(tx, cabinet, event)
            case CommandEvent():
                commands.report(tx, cabinet, event)
            case PolicyEvent():
                policies.report(tx, cabinet, event)
            case GapEvent():
                gap_reports.report(tx, batch, event)
            case PriorityEvent():
                self.counts.contradictory += priority.report(tx, cabinet, event)
            case StartEvent():
                cabinets.started(tx, cabinet, event)
            case ClockEvent():
                restamp.hear(tx, cabinet, event)
            case _:
                assert_never(event)


def _sender(topic: str) -> str:
    """Return whom a topic names, for the log, if it names anybody."""
    parts = topic.split("/")
    return parts[4][:63] if len(parts) > 4 else topic[:63]


def _check_sender(where: UpTopic, came: Arrival) -> None:
    batch = came.batch
    if batch.cabinet != where.cabinet:
        raise MessageError(RefusedFor.FOREIGN, f"a batch of {batch.cabinet!r} on {where.cabinet}'s topic")
    if batch.stream is not where.stream:
        raise MessageError(
            RefusedFor.WRONG_STREAM, f"a batch of stream {batch.stream.name} on {where.stream}"
        )
    check_number(batch.number, "number")
    if batch.number < 1 or came.floor > batch.number:
        raise MessageError(RefusedFor.BEYOND_BOUNDS, f"batch {batch.number} below its own floor {came.floor}")


def _after_floor(tx: Tx, stream: Stream, came: Arrival) -> Stream:
    """Follow a batch's floor.

    What a cabinet has shed it reports, and events go first. What is below the floor and in no report it must
    have let go on the word of a centre that remembered more; a late report takes the place of that conclusion.
    """
    acknowledged = came.floor - 1
    before_ms = readings.stamp_of(tx, came.batch).utc_ms(came.batch.base_monotonic_ms)
    return follow_floor(tx, stream, came.floor, acknowledged, before_ms)


def _enter_batch(tx: Tx, stream: Stream, came: Arrival) -> int:
    entered = tx.db.execute(
        "INSERT INTO batch (stream_id, number, hash, boot, clock, readings, received_ms)"
        " VALUES (?, ?, ?, ?, ?, 0, ?)",
        (
            stream.id,
            came.batch.number,
            came.hash,
            came.batch.boot[: boots.MAX_NAME],
            readings.clock_of(came.batch),
            tx.now_ms,
        ),
    )
    assert entered.lastrowid is not None  # noqa: S101  an INSERT has one
    return entered.lastrowid


def _move_mark(tx: Tx, stream: Stream, came: Arrival, content: Content) -> None:
    moved = tx.db.execute(
        "UPDATE stream SET mark = ?1, hash = ?2, readings = readings + ?3, received_ms = ?4,"
        " last_utc_ms = coalesce(?5, last_utc_ms), next = max(next, ?1 + 1) WHERE id = ?6 AND mark = ?1 - 1",
        (came.batch.number, came.hash, content.readings, tx.now_ms, content.last_utc_ms, stream.id),
    )
    if moved.rowcount != 1:
        raise MessageError(
            RefusedFor.NOT_STORED, f"the mark of stream {stream.id} is not {came.batch.number - 1}"
        )
    tx.db.execute("UPDATE batch SET readings = ? WHERE id = ?", (content.readings, content.batch_id))
