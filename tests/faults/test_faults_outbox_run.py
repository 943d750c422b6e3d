"""A whole outbox, thread and all, on a disk that refuses for a while: everything is committed or told as lost."""

import errno
from pathlib import Path

import pytest

from edge.outbox.outbox import MAX_UNSEALED
from protocols.backhaul.messages import GapCause, LastEnd
from protocols.model.device import StreamClass
from tests.edge.bench import BULK, ORDINARY, gaps_in, held, let_go, open_outbox, open_store, taken, until
from tests.faults.disk import Disk, Kind

pytestmark = pytest.mark.on_a_faulty_disk
WIDTH = 200

REFUSALS = {
    "full": (Kind.WRITE | Kind.TRUNCATE, errno.ENOSPC),
    "no-sync": (Kind.SYNC, errno.EIO),
    "gone": (Kind.ANY, errno.EIO),
}


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_taken_is_committed_and_reported_lost(tmp_path: Path, refusal: str) -> None:
    kind, error = REFUSALS[refusal]
    with Disk(tmp_path) as disk:
        store = open_store(tmp_path)
        outbox = open_outbox(store, seal_readings=1000)
        given = dict.fromkeys((ORDINARY, BULK), 0)

        def give(stream: StreamClass, samples: int) -> None:
            for number in range(samples):
                outbox.add(stream, taken(number, width=WIDTH))
            given[stream] += samples * WIDTH

        give(ORDINARY, 50)
        disk.fail(kind, nth=1, error=error, lasting=True)
        give(ORDINARY, MAX_UNSEALED // WIDTH)
        give(BULK, 30)
        await until(lambda: store.error != "", "the disk refuses")
        give(ORDINARY, 20)
        disk.heal()
        await until(lambda: store.error == "" and store.commits > 0, "the disk takes it again")
        give(BULK, 10)
        await outbox.close()
        let_go()
        batches = held(tmp_path / "outbox.db")
        gaps = [gap for gap in gaps_in(batches) if gap.cause is GapCause.SHED]
        for stream in given:
            kept = sum(len(batch.columns.values) for batch in batches if batch.stream is stream)
            lost = sum(gap.count or 0 for gap in gaps if gap.stream is stream)
            assert kept + lost == given[stream]
        assert sum(gap.count or 0 for gap in gaps) > 0
        assert open_store(tmp_path).last_end is LastEnd.CLEAN
        let_go()


async def test_a_read_that_fails_once_ends_nothing(tmp_path: Path) -> None:
    """SQLite takes it for damage: the file is believed damaged only if it is found so again and again."""
    with Disk(tmp_path) as disk:
        store = open_store(tmp_path)
        outbox = open_outbox(store, seal_readings=1)
        outbox.add(ORDINARY, taken(1))
        await until(lambda: store.commits == 1)
        await outbox.ask(lambda asked: asked.db.execute("PRAGMA shrink_memory"))
        disk.fail(Kind.READ)
        outbox.add(ORDINARY, taken(2))
        await until(lambda: store.commits == 2)
        assert disk.fired() == 1
        await outbox.close()
        let_go()
        assert [batch.number for batch in held(tmp_path / "outbox.db") if batch.stream is ORDINARY] == [1, 2]
