"""The product, broken on purpose, to see that the run notices: `CHAOS_BROKEN=delete-on-puback make chaos`.

The product itself has no such switch. What is wrong is planted here, in the process that then becomes the product:

    python -m tests.chaos.broken KIND edge|central ARGUMENTS…
"""

import sqlite3
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

import central.cli
import edge.run
from central import ingest, marks, readings
from central.effects import Downlink
from central.ingest import Arrival, Ingest
from central.intake import Intake
from central.marks import Standing
from central.store.lock import WriteLock
from central.store.writer import Tx, Writer
from central.streams import Stream
from edge.backhaul import Backhaul
from edge.mqtt import MqttLink
from edge.outbox.outbox import Outbox
from edge.outbox.rows import StreamState
from edge.outbox.store import OutboxStore
from protocols.backhaul.codec import encode, unframe_batch, unseal
from protocols.backhaul.messages import Ack, GapEvent, LastEnd, StreamMark
from protocols.backhaul.topics import Down, Up, parse_up
from protocols.errors import RemoteProtocolError

COMMIT_DELAY_S = 0.3
"""A centre that has much to do; with an idle one a commit is over before anybody could be killed in it."""
TWICE_EVERY = 20
"""Of so many batches one is sent twice."""
LOST_EVERY = 50
"""Of so many one is not sent at all."""


def _plant(where: object, name: str, what: object) -> None:
    """Put something wrong in the place of something right."""
    assert hasattr(where, name)
    setattr(where, name, what)


def delete_on_puback() -> None:
    """Let the cabinet forget a batch when the broker has it, and not only when the centre has committed it."""
    sent: dict[int, bytes] = {}
    make, publish, published = Backhaul.__init__, MqttLink.publish, MqttLink._published
    ours: list[Backhaul] = []

    def made(self: Backhaul, *arguments: Any) -> None:  # noqa: ANN401  passed on
        make(self, *arguments)
        ours.append(self)

    def publishing(self: MqttLink, topic: str, payload: bytes, **how: Any) -> bool:  # noqa: ANN401
        taken = publish(self, topic, payload, **how)
        if taken and "/batch/" in topic:
            sent[self._client._last_mid] = payload
        return taken

    def acknowledged(self: MqttLink, client: Any, user: Any, mid: int, *rest: Any) -> None:  # noqa: ANN401
        published(self, client, user, mid, *rest)
        if payload := sent.pop(mid, None):
            batch = unseal(unframe_batch(payload)[1])
            ours[0]._acknowledged(Ack(batch.epoch, (StreamMark(batch.stream, batch.number),)))

    _plant(Backhaul, "__init__", made)
    _plant(MqttLink, "publish", publishing)
    _plant(MqttLink, "_published", acknowledged)


def unreported_gap() -> None:
    """Let the cabinet take every end for a clean one, and say nothing of what a crash may have swallowed."""
    _plant(OutboxStore, "_last_end", lambda _store: LastEnd.CLEAN)


def late_gap() -> None:
    """Let the gap that is reported begin a second too late."""
    right = OutboxStore._crash_gap

    def wrong(self: OutboxStore, state: StreamState, moment_ms: int) -> GapEvent:
        gap = right(self, state, moment_ms)
        return msgspec.structs.replace(gap, from_ms=min(gap.from_ms + 1000, gap.to_ms))

    _plant(OutboxStore, "_crash_gap", wrong)


def forgotten_readings() -> None:
    """Let the cabinet lose one sample in a hundred before it is sealed, as a full queue would."""
    add = Outbox.add
    count = 0

    def adding(self: Outbox, *arguments: Any) -> None:  # noqa: ANN401  passed on
        nonlocal count
        count += 1
        if count % 100:
            add(self, *arguments)

    _plant(Outbox, "add", adding)


def acknowledge_before_commit() -> None:
    """Let the centre acknowledge what it has received, in order, and commit it a moment later."""
    deliver = Intake._deliver
    acked: dict[tuple[str, int, int], int] = {}

    def delivering(self: Intake, topic: str, payload: bytes) -> None:
        deliver(self, topic, payload)
        try:
            if parse_up(topic).kind is not Up.BATCH:
                return
            batch = unseal(unframe_batch(payload)[1])
        except RemoteProtocolError:
            return
        whose = (batch.cabinet, batch.epoch, batch.stream)
        if batch.number == acked.get(whose, batch.number - 1) + 1:
            acked[whose] = batch.number
            ack = Ack(batch.epoch, (StreamMark(batch.stream, batch.number),))
            self.link.send(Downlink(batch.cabinet, Down.ACK, encode(ack)))

    _plant(Intake, "_deliver", delivering)
    round_ = Writer._round

    def slowly(self: Writer, db: sqlite3.Connection, lock: WriteLock, jobs: Any) -> None:  # noqa: ANN401  passed on
        if jobs:
            time.sleep(COMMIT_DELAY_S)
        round_(self, db, lock, jobs)

    _plant(Writer, "_round", slowly)


def lose_on_the_way() -> None:
    """Let some batches vanish between cabinet and broker. It breaks nothing: the centre misses them."""
    publish = MqttLink.publish
    count = 0

    def publishing(self: MqttLink, topic: str, payload: bytes, **how: Any) -> bool:  # noqa: ANN401  passed on
        nonlocal count
        count += "/batch/" in topic
        if "/batch/" in topic and count % LOST_EVERY == 0:
            return True
        return publish(self, topic, payload, **how)

    _plant(MqttLink, "publish", publishing)


def send_twice() -> None:
    """Let the cabinet send some batches twice, as a broker may at QoS 1. It breaks nothing: the centre knows them."""
    publish = MqttLink.publish
    count = 0

    def publishing(self: MqttLink, topic: str, payload: bytes, **how: Any) -> bool:  # noqa: ANN401  passed on
        nonlocal count
        taken = publish(self, topic, payload, **how)
        if taken and "/batch/" in topic:
            count += 1
            if count % TWICE_EVERY == 0:
                publish(self, topic, payload, **how)
        return taken

    _plant(MqttLink, "publish", publishing)


def commit_duplicates() -> None:
    """Let the centre store again what it knows, a millisecond later; the cabinet sends some batches twice."""
    send_twice()

    def storing(_self: Ingest, tx: Tx, stream: Stream, came: Arrival) -> None:
        known = tx.db.execute(
            "SELECT id FROM batch WHERE stream_id = ? AND number = ?", (stream.id, came.batch.number)
        ).fetchone()
        later = msgspec.structs.replace(came.batch, utc_offset_ms=(came.batch.utc_offset_ms or 0) + 1)
        readings.store(tx, stream, later, known[0])

    _plant(Ingest, "_compare", storing)


def commit_ahead() -> None:
    """Let the centre take a batch that does not follow its mark; some get lost before the broker."""
    lose_on_the_way()
    commit = Ingest._commit

    def standing(mark: int, number: int) -> Standing:
        found = marks.standing(mark, number)
        return Standing.NEXT if found is Standing.AHEAD else found

    def committing(self: Ingest, tx: Tx, stream: Stream, came: Arrival) -> None:
        tx.db.execute("UPDATE stream SET mark = ? WHERE id = ?", (came.batch.number - 1, stream.id))
        commit(self, tx, stream, came)

    _plant(ingest, "standing", standing)
    _plant(Ingest, "_commit", committing)


def synchronous_off() -> None:
    """Let neither end wait for the disk. A kill -9 does not show it: the kernel still writes. A power cut would."""
    connect = sqlite3.connect

    def careless(*arguments: Any, **how: Any) -> sqlite3.Connection:  # noqa: ANN401  passed on
        return connect(*arguments, factory=_Careless, **how)

    _plant(sqlite3, "connect", careless)


class _Careless(sqlite3.Connection):
    def execute(self, sql: str, *given: Any) -> sqlite3.Cursor:  # noqa: ANN401  passed on
        return super().execute(sql.replace("synchronous=FULL", "synchronous=OFF"), *given)


KINDS: dict[str, Callable[[], None]] = {
    kind.__name__.replace("_", "-"): kind
    for kind in (
        delete_on_puback,
        unreported_gap,
        late_gap,
        forgotten_readings,
        acknowledge_before_commit,
        lose_on_the_way,
        commit_ahead,
        send_twice,
        commit_duplicates,
        synchronous_off,
    )
}


def main() -> int:
    """Break the product, and become it."""
    _, kind, which, *arguments = sys.argv
    KINDS[kind]()
    if which == "central":
        sys.argv = ["luciole-central", *arguments]
        central.cli.main()
        return 0
    sys.argv = ["edge.run", arguments[arguments.index("--config") + 1], "text"]
    return edge.run.main()


if __name__ == "__main__":
    sys.exit(main())
