"""A broker and a centre for the outbox bench, and what the centre has, as its API and its database say."""

import sqlite3
import urllib.request
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tests.bench.outbox_taken import CABINET
from tests.bench.processes import BIN, Process, free_port, listens, start_mosquitto, wait_until

T = TypeVar("T")


class Shown(msgspec.Struct, frozen=True):
    """A latest value, as the API shows it."""

    device: str
    point: str
    time: datetime


class Place(msgspec.Struct, frozen=True):
    """Where a stream is, as the API shows it."""

    epoch: int
    stream: str
    mark: int
    next: int


class _Latest(msgspec.Struct, frozen=True):
    items: list[Shown]


class _Cabinet(msgspec.Struct, frozen=True):
    streams: list[Place]


class Centre:
    """mosquitto and `luciole-central serve`, in processes of their own.

    Attributes:
        broker_port: of mosquitto.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._db = folder / "central.db"
        self._broker, self.broker_port = start_mosquitto(folder)
        api = free_port()
        self._url = f"http://127.0.0.1:{api}/api/v1/cabinets/{CABINET}"
        command = [
            str(BIN / "luciole-central"),
            "serve",
            "--db",
            str(self._db),
            "--listen",
            f"127.0.0.1:{api}",
        ]
        self._process = Process(
            [*command, "--broker", f"mqtt://127.0.0.1:{self.broker_port}"], folder / "central.log"
        )
        wait_until("the centre listens", lambda: listens(api))

    def latest(self) -> list[Shown]:
        """Return the latest value of every point of the cabinet, up to a thousand."""
        return self._get("/latest?limit=1000", _Latest).items

    def marks(self) -> dict[str, int]:
        """Return up to which number each stream of the cabinet is committed."""
        return {one.stream: one.mark for one in self._get("", _Cabinet).streams}

    def ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:  # noqa: ANN401  SQL's values
        """Ask the database, which readers open read-only."""
        with closing(sqlite3.connect(f"file:{self._db}?mode=ro", uri=True)) as db:
            return db.execute(query, values).fetchall()

    def cpu_s(self) -> float:
        """Return the CPU seconds of the centre so far."""
        return self._process.cpu_s()

    def stop(self) -> None:
        """End both."""
        self._process.stop()
        self._broker.stop()

    def _get(self, what: str, shape: type[T]) -> T:
        with urllib.request.urlopen(f"{self._url}{what}", timeout=10) as answer:  # noqa: S310  our own API
            return msgspec.json.decode(answer.read(), type=shape)
