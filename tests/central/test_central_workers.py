"""Several processes ingest one database: real brokers, real processes, ended at the worst moment."""

import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest
from typer.testing import CliRunner

from central.cli import app
from central.keys import make
from protocols.backhaul.messages import AlarmEvent
from protocols.backhaul.topics import shard
from protocols.model.alarm import AlarmType
from protocols.model.device import StreamClass
from protocols.model.ids import CabinetId, DeviceId
from tests.central.cabinet_double import START_MS, CabinetDouble, taken
from tests.central.desk import raw
from tests.central.live import (
    CENTRAL,
    WAIT_S,
    Aggregator,
    LiveCabinet,
    aggregator,
    end,
    free_port,
    mosquitto,
    read_line,
)

CABINETS = 6


class Worker:
    """An ingest worker as its own process."""

    def __init__(self, folder: Path, broker: str, name: str) -> None:
        self.name = name
        self.errors = folder / f"{name}.err"
        self._command = [*CENTRAL, "ingest", "--db", str(folder / "central.db"), "--broker", broker]
        self._command += ["--name", name, "--json"]
        self.start()

    def start(self) -> None:
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=errors, text=True)
        line = read_line(self.process)
        assert line, self.errors.read_text()
        assert msgspec.json.decode(line)["name"] == self.name

    def kill(self) -> None:
        """Kill it, if that was not done before, and forget it."""
        self.process.kill()
        self.process.wait(WAIT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            assert end(self.process) == 0, self.errors.read_text()
        else:
            self.kill()
        assert "Traceback" not in self.errors.read_text()


def shares(centre: Aggregator) -> dict[str, int]:
    found = centre.http.get("/api/v1/health").json()["workers"]
    return {one["name"]: one["shards"] for one in found}


def until(holds: Callable[[], bool]) -> None:
    """Wait until shards have changed hands: several leases long on a machine that has better to do."""
    pause = threading.Event()
    for _ in range(600):
        if holds():
            return
        pause.wait(0.1)
    raise AssertionError("it never held")


def owner(db: Path, cabinet: str) -> str:
    with closing(raw(db)) as opened:
        found = opened.execute(
            "SELECT owner FROM shard_lease WHERE shard = ?", (shard(CabinetId(cabinet)),)
        ).fetchone()
    return str(found[0])


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    with mosquitto(tmp_path, free_port()) as url:
        yield url


@pytest.fixture
def centre(broker: str, tmp_path: Path) -> Iterator[Aggregator]:
    key = make(tmp_path / "keys", "centre")
    with aggregator(tmp_path, broker, "--signing-key", str(key)) as running:
        yield running


@pytest.fixture
def workers(centre: Aggregator, broker: str, tmp_path: Path) -> Iterator[list[Worker]]:
    started = [Worker(tmp_path, broker, f"w{number}") for number in (1, 2)]
    until(lambda: shares(centre) == {"serve": 22, "w1": 21, "w2": 21})
    yield started
    for worker in started:
        worker.stop()


@contextmanager
def street(broker: str) -> Iterator[list[LiveCabinet]]:
    """Yield cabinets on the wire; they speak when they are told to."""
    with ExitStack() as stack:
        cabinets = []
        for number in range(CABINETS):
            one = LiveCabinet(CabinetDouble(f"cab-{number}"), broker, mqtt5=True)
            stack.callback(one.close)
            assert one.wait(lambda c=one: c.acks)  # type: ignore[misc]  # a lambda with a default
            cabinets.append(one)
        yield cabinets


def send(cabinets: list[LiveCabinet], numbers: range) -> None:
    for wired in cabinets:
        for number in numbers:
            wired.cabinet.seal([taken(wired.cabinet.lamp(), number, at_ms=number)])
        wired.send(wired.cabinet.waiting())


def assert_all_came_once_and_in_order(db: Path, cabinets: list[LiveCabinet], numbers: range) -> None:
    with closing(raw(db)) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for wired in cabinets:
            found = opened.execute(
                "SELECT value FROM reading JOIN series ON series.id = series_id WHERE device = ?"
                " ORDER BY batch_id, idx",
                (wired.cabinet.lamp(),),
            )
            assert [value for (value,) in found] == list(numbers)


def test_workers_killed_and_stopped_in_the_middle_lose_and_double_nothing(
    centre: Aggregator, broker: str, workers: list[Worker]
) -> None:
    killed, stopped = workers
    with street(broker) as cabinets:
        owners = {owner(centre.db, one.cabinet.id) for one in cabinets}
        assert len(owners) > 1
        send(cabinets, range(40))
        killed.process.kill()
        stop_between_transactions(stopped, centre.db)
        send(cabinets, range(40, 80))
        until(lambda: shares(centre) == {"serve": 64})
        for wired in cabinets:
            wired.drain()
        killed.kill()
        os.kill(stopped.process.pid, signal.SIGCONT)
        killed.start()
        send(cabinets, range(80, 100))
        centre.kill()
        send(cabinets, range(100, 120))
        centre.start()
        until(lambda: shares(centre) == {"serve": 22, "w1": 21, "w2": 21})
        for wired in cabinets:
            wired.drain()
        assert_all_came_once_and_in_order(centre.db, cabinets, range(120))


def stop_between_transactions(worker: Worker, db: Path) -> None:
    """Stop a worker where it holds up nobody: in a transaction, or next in turn for one, it would hold a lock."""
    pause = threading.Event()
    for _ in range(1_000):
        os.kill(worker.process.pid, signal.SIGSTOP)
        if all(_is_free(db.with_name(f"{db.name}.{lock}")) for lock in ("turn", "write")):
            return
        os.kill(worker.process.pid, signal.SIGCONT)
        pause.wait(0.003)
    raise AssertionError("it is always in the middle of a transaction")


def _is_free(lock: Path) -> bool:
    """Tell whether nobody holds a lock; whoever else holds it than the one that is stopped lets go in time."""
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_what_a_worker_commits_goes_down_and_is_seen_live(
    centre: Aggregator, broker: str, workers: list[Worker]
) -> None:
    """A cabinet in a worker's shard: its policy and its commands come from the aggregator, its alarm is seen."""
    name = next(f"cab-{n}" for n in range(1_000) if owner(centre.db, f"cab-{n}") == workers[0].name)
    cabinet = CabinetDouble(name)
    seen: list[str] = []
    listening = threading.Event()

    def watch() -> None:
        with httpx.stream(
            "GET", f"{centre.ready.api}/api/v1/events?kinds=alarm,latest", timeout=WAIT_S
        ) as feed:
            for line in feed.iter_lines():
                listening.set()
                seen.append(line)
                if all(any(word in one for one in seen) for word in WORDS):
                    return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    assert listening.wait(WAIT_S)
    with closing(raw(centre.db)) as db:
        centre.wait(
            lambda: db.execute("SELECT value FROM centre WHERE name = 'watched'").fetchone() == ("1",)
        )
    wired = LiveCabinet(cabinet, broker, mqtt5=True)
    try:
        assert wired.wait(lambda: wired.acks)
        centre.http.put(f"/api/v1/cabinets/{name}/lighting", json=LIGHTING).raise_for_status()
        assert centre.http.post(f"/api/v1/cabinets/{name}/lighting/publish", json={}).status_code == 202
        assert wired.wait(lambda: wired.policies)
        before = len(wired.policies)
        wired.publish(cabinet.hello())  # which goes by no policy: it is sent again
        assert wired.wait(lambda: len(wired.policies) > before)
        cabinet.seal([taken(cabinet.lamp(), 7, at_ms=1)])
        failure = AlarmEvent(DeviceId(cabinet.lamp()), AlarmType.LAMP_FAILURE, START_MS, None, "no light")
        cabinet.seal([], [failure], StreamClass.EVENTS)
        wired.drain()
        watcher.join(WAIT_S)
        assert not watcher.is_alive(), seen
        assert owner(centre.db, name) == workers[0].name
    finally:
        wired.close()


WORDS = ('"value":7', "lamp_failure")
LIGHTING = {"place": {"latitude": 47.32, "longitude": 5.04, "timezone": "Europe/Paris"}, "assignments": []}


class TestRefusals:
    """A worker that cannot be is refused in words."""

    def _refused(self, *arguments: str) -> str:
        result = CliRunner().invoke(app, ["ingest", *arguments])
        assert result.exit_code == 2, result.stderr
        assert "Traceback" not in result.stderr
        return result.stderr

    def test_a_database_that_no_aggregator_has_made(self, tmp_path: Path) -> None:
        said = self._refused("--db", str(tmp_path / "none.db"), "--broker", "mqtt://127.0.0.1")
        assert "serve" in said
        assert not (tmp_path / "none.db").exists()

    @pytest.mark.parametrize("name", ["serve", "", "a/b", "+"])
    def test_a_name_that_is_taken_or_is_none(self, tmp_path: Path, name: str) -> None:
        assert "--name" in self._refused("--db", str(tmp_path / "c.db"), "--name", name)

    def test_two_of_one_name(self, centre: Aggregator, broker: str, tmp_path: Path) -> None:
        worker = Worker(tmp_path, broker, "w1")
        said = self._refused("--db", str(centre.db), "--broker", broker, "--name", "w1")
        assert "give another --name" in said
        worker.stop()
        until(lambda: shares(centre) == {"serve": 64})
