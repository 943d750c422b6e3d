"""A damaged outbox in a whole cabinet, and what a real centre makes of what came back."""

import random
import sqlite3
from pathlib import Path

import msgspec
import pytest

from edge.outbox.store import OutboxStore
from protocols.backhaul.codec import encode, frame_batch
from protocols.backhaul.messages import Ack, StartEvent, StreamMark
from protocols.backhaul.topics import Up, up
from protocols.model.device import Device, Kind, Point, StreamClass
from protocols.model.ids import DeviceId, LineId, PointName
from tests.central.cabinet_double import Message
from tests.central.desk import Desk
from tests.edge.bench import (
    BULK,
    CABINET,
    ORDINARY,
    HandClock,
    gaps_in,
    gathered,
    held,
    open_store,
)
from tests.edge.whole import Whole
from tests.protocols.backhaul import examples

PAGE = 4096


def overwrite(path: Path, pages: list[int]) -> None:
    """Put noise into some pages of a file that may be open elsewhere."""
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE)
            file.write(random.Random(page).randbytes(PAGE))


def roots(path: Path) -> dict[str, int]:
    """Return each table's root page; the log is written back, and nobody's cache is good any more."""
    db = sqlite3.connect(path)
    try:
        db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('seen', 1)")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return dict(db.execute("SELECT name, rootpage FROM sqlite_schema"))
    finally:
        db.close()


class TestWholeCabinet:
    def test_a_file_that_is_damaged_under_a_running_agent_ends_it_and_the_next_start_salvages(
        self, cabinet: Whole
    ) -> None:
        cabinet.centre.silent = True
        cabinet.start()
        path = cabinet.folder / "state" / "outbox.db"
        while len(taken := held(path)) < 6:
            cabinet.status()
        agent = cabinet.agent
        assert agent is not None
        overwrite(path, [roots(path)["stream"]])
        assert agent.wait(20) == 1
        cabinet.agent = None
        shown = cabinet.cli("status")
        assert "malformed" in shown.stderr
        cabinet.centre.silent = False
        cabinet.start()
        salvaged = cabinet.status().outbox.salvaged
        assert salvaged is not None
        assert salvaged.kept == f"{path}.damaged"
        cabinet.centre.wait(
            lambda: len(cabinet.centre.events(StartEvent)) == 2, "the start after the salvage"
        )
        came = {(batch.epoch, batch.stream, batch.number) for batch in cabinet.centre.batches}
        assert {(batch.epoch, batch.stream, batch.number) for batch in taken} <= came
        assert {gap.stream for gap in gaps_in(cabinet.centre.batches)} == set(StreamClass)
        for command in ("status", "buffer"):
            shown = cabinet.cli(command)
            assert "salvaged" in shown.stdout
            assert f"{path}.damaged" in shown.stdout
        assert cabinet.stop() == 0
        assert f"{path}.damaged" in cabinet.cli("buffer").stdout


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "central.db")


def hello(store: OutboxStore) -> Message:
    figures = store.figures(0)
    device = Device(DeviceId("d"), Kind.METER, LineId("modbus-1"), "1", points=(Point(PointName("p0")),))
    said = msgspec.structs.replace(
        examples.HELLO, cabinet=CABINET, epoch=figures.epoch, streams=figures.heads, inventory=(device,)
    )
    return Message(up(CABINET, Up.HELLO), encode(said))


def acknowledged(desk: Desk, epoch: int) -> Ack:
    rows = desk.ask("SELECT stream, mark, hash FROM stream WHERE cabinet = ? AND epoch = ?", (CABINET, epoch))
    return Ack(epoch, tuple(StreamMark(StreamClass(int(str(s))), int(str(m)), str(h)) for s, m, h in rows))


def drain(desk: Desk, store: OutboxStore) -> None:
    """Deliver everything as the window would: events first, each stream in order, the oldest epoch first."""
    while store.figures(0).batches:
        epoch = store.sending
        desk.deliver(hello(store))
        store.commit([], [acknowledged(desk, epoch)])
        for stream in StreamClass:
            first = store.floors().get(stream, 1) if store.sending == epoch else 0
            while first and store.sending == epoch and (found := store.fetch(stream, first, 20)).batches:
                for batch in found.batches:
                    desk.deliver(
                        Message(up(CABINET, Up.BATCH, stream), frame_batch(found.floor, batch.sealed))
                    )
                    first = batch.number + 1
        store.commit([], [acknowledged(desk, epoch)])


@pytest.mark.parametrize("seed", range(6))
def test_a_centre_gets_what_came_back_once_and_in_order_and_shows_the_rest_as_gaps(
    tmp_path: Path, desk: Desk, seed: int
) -> None:
    chance, clock = random.Random(seed), HandClock()
    store = open_store(tmp_path, clock)
    path = tmp_path / "outbox.db"
    taken = 0
    for _ in range(3):  # damaged again before all is drained
        for _ in range(60):
            clock.advance(1)
            store.commit([gathered(ORDINARY, range(taken, taken + 10)), gathered(BULK, [taken])], [])
            taken += 10
        store.end_run()
        pages = path.stat().st_size // PAGE
        overwrite(path, [chance.randrange(1, pages + 1) for _ in range(4)])
        store = open_store(tmp_path, clock)
    told = gaps_in(held(path))
    drain(desk, store)
    rows = desk.ask(
        "SELECT value, utc_ms, stream FROM reading JOIN batch ON batch.id = batch_id"
        " JOIN stream ON stream.id = batch.stream_id ORDER BY batch_id, idx"
    )
    for stream in (ORDINARY, BULK):
        values = [int(str(value)) for value, _, of in rows if of == stream]
        assert values == sorted(set(values))
        assert values
    assert desk.ingest.counts.conflicting == 0
    assert not desk.ask("SELECT 1 FROM unreadable_batch")
    recorded = desk.ask("SELECT stream, epoch, first, last FROM gap WHERE cause = 'corrupt'")
    for gap in told:  # some are told again by a later salvage, and recorded once
        of_stream = [
            (int(str(first)), int(str(last)))
            for stream, epoch, first, last in recorded
            if (stream, epoch) == (gap.stream, gap.epoch)
        ]
        for number in range(gap.first, gap.last + 1):
            assert any(first <= number <= last for first, last in of_stream), gap
