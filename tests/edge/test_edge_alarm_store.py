"""Alarms on a disk that is full for a while."""

from pathlib import Path

import structlog

from edge.alarm_store import AlarmStore
from edge.state import State
from protocols.model.alarm import Alarm, AlarmType
from protocols.model.ids import DeviceId


def alarm(number: int, cleared_ms: int | None = None) -> Alarm:
    return Alarm(DeviceId(f"lamp-{number:03d}"), AlarmType.LAMP_FAILURE, 1, cleared_ms, "x" * 400)


async def test_what_a_full_disk_refuses_is_written_as_it_is_once_the_disk_takes_again(tmp_path: Path) -> None:
    state = State.open(tmp_path / "state.db")
    store = AlarmStore(state.store_alarms)
    store.add([alarm(0)])
    await store.write()
    pages = state._db.execute("PRAGMA page_count").fetchone()[0]
    state._db.execute(f"PRAGMA max_page_count={pages}")
    with structlog.testing.capture_logs() as logs:
        for number in range(1, 100):
            store.add([alarm(number)])
            await store.write()
        store.add([alarm(0, cleared_ms=2), alarm(1, cleared_ms=2)])
        await store.write()
    assert store.is_refused
    assert [entry["event"] for entry in logs] == ["alarms_not_written"]
    state._db.execute("PRAGMA max_page_count=100000")
    await store.write()
    assert [one.device for one in state.alarms()] == [f"lamp-{number:03d}" for number in range(2, 100)]
    state.close()
