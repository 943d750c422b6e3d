"""The product with one defect planted: what finds nothing wrong with these finds nothing.

Each is the product's own code with one function of it changed, while the simulation runs and nowhere else.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec

import central.ingest
import central.intake
import central.streams
import edge.outbox.salvage
import edge.outbox.store
import tests.simulation.centre
from central.ingest import Arrival, Content
from central.marks import Standing, standing
from central.shards import Shards
from central.store.writer import Tx, Writer
from central.streams import Stream
from drivers.database import transaction
from edge.backhaul import Backhaul
from edge.outbox.outbox import Outbox
from edge.outbox.rows import StreamState, write_stream
from edge.outbox.store import Fetched, OutboxStore, Shed
from edge.window import Window
from protocols.backhaul.messages import Ack, GapEvent, StreamMark
from protocols.model.device import StreamClass
from tests.simulation.judge import read
from tests.simulation.network import Message

Plant = Callable[["Soil"], None]


class Soil:
    """Where a defect is planted: whatever is put in the place of something else goes back in the end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def put(self, owner: object, name: str, value: object) -> None:
        """Put something in the place of an attribute."""
        before = vars(owner)[name]
        setattr(owner, name, value)
        self._stack.callback(setattr, owner, name, before)


MUTANTS: dict[str, Plant] = {}
NAMED = (
    "delete_on_puback",
    "acknowledge_before_commit",
    "epoch_reused",
    "mark_outside_the_transaction",
    "shed_without_raising_the_floor",
    "cabinet_synchronous_normal",
    "centre_synchronous_normal",
)
"""Those that have to be among them, whatever else is."""


def mutant(plant: Plant) -> Plant:
    """Enter a defect under its own name."""
    MUTANTS[plant.__name__] = plant
    return plant


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Let the product have a defect; none for an empty name."""
    with ExitStack() as stack:
        if name:
            MUTANTS[name](Soil(stack))
        yield


@mutant
def delete_on_puback(soil: Soil) -> None:
    """Let go of a batch when the broker has it."""
    begin = Backhaul.__init__

    def changed(self: Backhaul, *arguments: Any) -> None:
        begin(self, *arguments)

        def puback(message: Message) -> None:
            if "/batch/" in message.topic:
                (epoch, stream, number), _ = read(message.payload[8:])
                self._outbox.acknowledge(Ack(epoch, (StreamMark(StreamClass(stream), number),)))

        self._link.on_puback = puback  # type: ignore[attr-defined]  # a link of another make

    soil.put(Backhaul, "__init__", changed)


@mutant
def acknowledge_before_commit(soil: Soil) -> None:
    """Tell the marks while the transaction is still open."""
    original = Writer._savepoint

    def changed(self: Writer, tx: Tx, job: Any) -> object:
        outcome = original(self, tx, job)
        self._after_commit(tx.db, tx.effects)
        return outcome

    soil.put(Writer, "_savepoint", changed)


@mutant
def acknowledge_one_more(soil: Soil) -> None:
    """Acknowledge a batch that has not come yet."""
    original = central.streams.acks

    def changed(rows: Any, epoch: int) -> Ack:
        return original([(stream, mark + 1, "") for stream, mark, _ in rows], epoch)

    soil.put(central.intake, "acks", changed)


@mutant
def epoch_reused(soil: Soil) -> None:
    """Open a new epoch under the number of the one before."""
    soil.put(edge.outbox.store, "random_epoch", lambda _draw: 1)
    soil.put(edge.outbox.salvage, "random_epoch", lambda _draw: 1)


@mutant
def mark_outside_the_transaction(soil: Soil) -> None:
    """Move the mark in a transaction of its own, after that of the batch."""
    late: list[tuple[Any, ...]] = []
    tell, undone = Writer._tell, Shards.undone

    def move(_tx: Tx, stream: Stream, came: Arrival, content: Content) -> None:
        late.append((came.batch.number, came.hash, content.readings, stream.id))

    def told(self: Writer, db: sqlite3.Connection, effects: Any) -> None:
        while late:
            db.execute(
                "UPDATE stream SET mark = ?, hash = ?, readings = readings + ? WHERE id = ?", late.pop(0)
            )
        tell(self, db, effects)

    def rolled_back(self: Shards) -> None:
        late.clear()
        undone(self)

    soil.put(central.ingest, "_move_mark", move)
    soil.put(Writer, "_tell", told)
    soil.put(Shards, "undone", rolled_back)


@mutant
def shed_without_raising_the_floor(soil: Soil) -> None:
    """Drop what is too much, and go on as if it could still be sent."""
    original = OutboxStore._shed_stream

    def changed(self: OutboxStore, state: StreamState, last: int, shed: Shed) -> None:
        floor = state.floor
        original(self, state, last, shed)
        state.floor = floor
        write_stream(self.db, state)

    soil.put(OutboxStore, "_shed_stream", changed)


@mutant
def shed_miscounted(soil: Soil) -> None:
    """Report one reading less than was dropped."""
    original = OutboxStore._note_shed

    def changed(self: OutboxStore, gap: GapEvent, shed: Shed) -> None:
        original(self, msgspec.structs.replace(gap, count=max(0, (gap.count or 0) - 1)), shed)

    soil.put(OutboxStore, "_note_shed", changed)


@mutant
def shed_not_told(soil: Soil) -> None:
    """Drop what is too much without a word."""
    soil.put(OutboxStore, "_note_shed", lambda _self, _gap, _shed: None)


@mutant
def shed_reports_forgotten(soil: Soil) -> None:
    """Drop the report of a gap with the events that it is among, and do not tell it again."""
    soil.put(OutboxStore, "_reports_in", lambda _self, _state, _last: [])


@mutant
def cabinet_synchronous_normal(soil: Soil) -> None:
    """Commit in the cabinet without syncing."""
    original = vars(edge.outbox.store)["open_database"]

    def changed(*arguments: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = original(*arguments)
        db.execute("PRAGMA synchronous=NORMAL")
        return db

    soil.put(edge.outbox.store, "open_database", changed)


@mutant
def centre_synchronous_normal(soil: Soil) -> None:
    """Commit at the centre without syncing."""
    original = vars(tests.simulation.centre)["connect"]

    def changed(*arguments: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = original(*arguments)
        db.execute("PRAGMA synchronous=NORMAL")
        return db

    soil.put(tests.simulation.centre, "connect", changed)


@mutant
def first_batch_not_found(soil: Soil) -> None:
    """Read what waits from one number too high on."""
    original = OutboxStore.fetch

    def changed(self: OutboxStore, stream: StreamClass, first: int, limit: int) -> Fetched:
        found = original(self, stream, first, limit)
        return Fetched(found.batches[1:] or found.batches, found.floor)

    soil.put(OutboxStore, "fetch", changed)


@mutant
def deletes_one_more(soil: Soil) -> None:
    """Delete up to one more than was acknowledged."""
    original = OutboxStore._delete

    def changed(self: OutboxStore, state: StreamState, mark: StreamMark) -> None:
        more = mark.mark + 1 < state.next
        original(self, state, StreamMark(mark.stream, mark.mark + more))

    soil.put(OutboxStore, "_delete", changed)


@mutant
def floor_ignored_by_the_centre(soil: Soil) -> None:
    """Wait for what will never come."""

    def changed(_tx: Tx, stream: Stream, *_more: object) -> Stream:
        return stream

    soil.put(central.ingest, "follow_floor", changed)
    soil.put(central.streams, "follow_floor", changed)


@mutant
def holes_accepted_by_the_centre(soil: Soil) -> None:
    """Commit whatever is above the mark, and move the mark there."""
    original = central.ingest._move_mark

    def placed(mark: int, number: int) -> Standing:
        place = standing(mark, number)
        return Standing.NEXT if place is Standing.AHEAD else place

    def moved(tx: Tx, stream: Stream, came: Arrival, content: Content) -> None:
        tx.db.execute("UPDATE stream SET mark = ? WHERE id = ?", (came.batch.number - 1, stream.id))
        original(tx, stream, came, content)

    soil.put(central.ingest, "standing", placed)
    soil.put(central.ingest, "_move_mark", moved)


@mutant
def failed_commit_forgotten(soil: Soil) -> None:
    """Take a commit that the disk has refused for one that it has made."""
    original = Outbox._commit

    def changed(self: Outbox, *arguments: Any) -> bool:
        original(self, *arguments)
        return True

    soil.put(Outbox, "_commit", changed)


@mutant
def memory_ahead_of_the_disk(soil: Soil) -> None:
    """Go on with the numbers of a transaction that came to nothing."""

    @contextmanager
    def changed(self: OutboxStore) -> Iterator[None]:
        with transaction(self.db):
            yield

    soil.put(OutboxStore, "_all_or_nothing", changed)


@mutant
def number_not_kept(soil: Soil) -> None:
    """Leave the next number out of the transaction that uses it."""
    original = OutboxStore._insert

    def changed(self: OutboxStore, *arguments: Any) -> Any:
        with ExitStack() as stack:
            Soil(stack).put(edge.outbox.store, "write_stream", lambda _db, _state: None)
            return original(self, *arguments)

    soil.put(OutboxStore, "_insert", changed)


@mutant
def restored_card_not_noticed(soil: Soil) -> None:
    """Go on in the epoch of a card that was put back to an earlier state."""
    soil.put(OutboxStore, "disagrees", lambda _self, _mark, _epoch=None: False)
    soil.put(Window, "beyond", lambda _self, _marks: False)


@mutant
def renewal_loses_what_waits(soil: Soil) -> None:
    """Open a new epoch with an empty outbox."""

    def changed(self: OutboxStore, before: int, state: StreamState) -> Iterator[GapEvent]:
        self.db.execute("DELETE FROM batch WHERE epoch = ? AND stream = ?", (before, state.stream))
        yield from ()

    soil.put(OutboxStore, "_reseal_stream", changed)


@mutant
def crash_not_told(soil: Soil) -> None:
    """Begin after a crash as if nothing had been."""
    soil.put(OutboxStore, "_birth_events", lambda _self: [])


@mutant
def silence_not_noticed(soil: Soil) -> None:
    """Wait for ever for the acknowledgement of what was lost on the way."""
    soil.put(Window, "silent_for_too_long", lambda _self, _now_s: False)
