"""The centre commits a batch and its mark together or not at all, and acknowledges nothing that could be lost."""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from central.effects import Effects
from central.errors import StartError, StoreError
from central.ingest import Ingest
from central.store import schema
from central.store.writer import Tx, Writer
from protocols.model.device import StreamClass
from tests.central.cabinet_double import CabinetDouble, Message, taken
from tests.central.desk import Desk, TestClock
from tests.faults.disk import Disk, Kind, is_loaded
from tests.faults.sweep import FAULTS, GONE, Attempt, End, Fault, at_each_call

pytestmark = pytest.mark.on_a_faulty_disk
WAIT_S = 20
PREPARED = 3
"""Batches that are at the centre already."""


def cabinet() -> CabinetDouble:
    """Return a cabinet with what is there and three batches more, one of them large."""
    one = CabinetDouble()
    for number in range(PREPARED + 2):
        one.seal([taken(one.lamp(number % 3), float(number))])
    one.seal([taken(one.lamp(n % 3), n * 0.37) for n in range(600)])
    return one


CABINET = cabinet()
VALUES = [float(number) for number in range(PREPARED + 2)] + [n * 0.37 for n in range(600)]
"""What the batches carry, in order."""


class Centre:
    """The store's thread with the ingest, and the mark that it would have acknowledged."""

    def __init__(self, path: Path) -> None:
        self.acknowledged = 0
        self._ingest = Ingest()
        self._writer = Writer(path, TestClock(), lambda _tx: None, self._tell)
        self._writer.start()

    def _tell(self, db: sqlite3.Connection, effects: Effects) -> None:
        if effects.acks:
            rows = db.execute("SELECT mark FROM stream WHERE stream = ?", (StreamClass.ORDINARY,))
            self.acknowledged = max(self.acknowledged, rows.fetchone()[0])

    def take(self, messages: Sequence[Message]) -> None:
        """Take messages in as one round or several.

        Raises:
            StoreError: for the first that was not committed.
        """

        def job(message: Message) -> Callable[[Tx], None]:
            return lambda tx: self._ingest.receive(tx, message.topic, message.payload)

        for waiting in [self._writer.submit(job(message)) for message in messages]:
            waiting.result(WAIT_S)

    def stop(self) -> None:
        self._writer.stop()
        assert not self._writer.alive()

    def works(self) -> bool:
        return self._writer.alive()


def found(path: Path) -> tuple[int, list[object]]:
    """Return the mark and the values of a database that is opened anew."""
    desk = Desk(path)
    try:
        assert desk.ask("PRAGMA quick_check") == [("ok",)]
        values = [value for (value,) in desk.ask("SELECT value FROM reading ORDER BY batch_id, idx")]
        return desk.mark(CABINET), values
    finally:
        desk.close()


def up_to(mark: int) -> list[object]:
    return [*VALUES[:mark]] if mark < PREPARED + 3 else [*VALUES]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A centre's database as a process leaves it that was killed."""
    folder, working = tmp_path_factory.mktemp("prepared"), tmp_path_factory.mktemp("working")
    if not is_loaded():
        return folder  # the tests run elsewhere
    desk = Desk(working / "central.db")
    desk.deliver(CABINET.hello(), *[CABINET.message(number) for number in range(1, PREPARED + 1)])
    for suffix in ("", "-wal"):
        shutil.copy(working / f"central.db{suffix}", folder)
    desk.close()
    return folder


IN_USE = tuple(fault for fault in FAULTS if fault.kind not in {Kind.OPEN, Kind.REMOVE})
MORE = [CABINET.message(number) for number in range(PREPARED + 1, PREPARED + 4)]


def take_in(attempt: Attempt) -> None:
    path = attempt.folder / "central.db"
    centre = Centre(path)
    centre.take([CABINET.message(PREPARED)])
    with attempt.failing(), contextlib.suppress(StoreError):
        centre.take(MORE)
    assert centre.works()
    if attempt.end is not End.CUT_AT_ONCE:
        centre.take(MORE)
        assert centre.acknowledged == PREPARED + 3
    if attempt.end is not End.CLOSED:
        attempt.disk.power_cut(attempt.seed)
    centre.stop()
    if attempt.end is not End.CLOSED:
        attempt.disk.power_on()
    mark, values = found(path)
    assert mark >= centre.acknowledged >= PREPARED
    assert values == up_to(mark)


@pytest.mark.parametrize("fault", IN_USE, ids=str)
def test_batch_and_mark_are_there_together_and_what_was_acknowledged_is_there(
    prepared: Path, tmp_path: Path, fault: Fault
) -> None:
    turns = at_each_call(prepared, tmp_path, fault, take_in)
    if fault.kind & (Kind.WRITE | Kind.SYNC):
        assert turns > 0


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_centre_that_could_not_start_can_once_the_disk_lets_it(
    prepared: Path, tmp_path: Path, fault: Fault
) -> None:
    def story(attempt: Attempt) -> None:
        path = attempt.folder / "central.db"
        with attempt.failing(), contextlib.suppress(StartError):
            schema.prepare(path)
        if attempt.end is not End.CLOSED:
            attempt.disk.power_cut(attempt.seed)
            attempt.disk.power_on()
        assert found(path) == (PREPARED, up_to(PREPARED))

    assert at_each_call(prepared, tmp_path, fault, story) > 0


def test_a_log_whose_sync_failed_does_no_harm_when_the_power_goes_at_the_next_start(
    prepared: Path, tmp_path: Path
) -> None:
    def story(attempt: Attempt) -> None:
        path = attempt.folder / "central.db"
        centre = Centre(path)
        attempt.disk.fail(Kind.SYNC, lasting=True)
        with pytest.raises(StoreError):
            centre.take(MORE)
        centre.stop()
        with attempt.failing(), contextlib.suppress(StartError):
            schema.prepare(path)
        attempt.disk.power_cut(attempt.seed)
        attempt.disk.power_on()
        mark, values = found(path)
        assert mark >= PREPARED
        assert values == up_to(mark)

    assert at_each_call(prepared, tmp_path, GONE, story, ends=(End.CUT_AT_ONCE,)) > 0


def test_with_synchronous_normal_the_same_loses_what_was_acknowledged(prepared: Path, tmp_path: Path) -> None:
    """The control: a disk that kept everything would pass all of the above."""
    shutil.copytree(prepared, tmp_path / "copy")
    path = tmp_path / "copy" / "central.db"
    with Disk(path.parent) as disk:
        desk = Desk(path)
        desk.db.execute("PRAGMA synchronous=NORMAL")
        desk.deliver(*MORE)
        acknowledged = desk.mark(CABINET)
        disk.power_cut()
        desk.close()
        disk.power_on()
        assert found(path)[0] < acknowledged
