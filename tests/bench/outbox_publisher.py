"""What it costs a cabinet to get batches to the centre, beside a bare paho loop that publishes the same bytes.

Both sides run in this one process, against one mosquitto, for a few seconds each in turn, at one pace: so many
batches at once, so many times a second. The product gathers readings, seals them into batches of a hundred, commits,
publishes within its window, is acknowledged by a real `luciole-central serve` in a process of its own, and deletes.
The bare loop publishes the very bytes that the product has sealed, at QoS 1 with the same window, and forgets them.
CPU is this process's own, of all its threads.
"""

import asyncio
import select
import socket
import sqlite3
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import msgspec
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from edge.agent import boot_id
from edge.answering import AGENT_VERSION
from edge.backhaul import Backhaul, Identity
from edge.clock import SystemClock
from edge.config import BackhaulSettings, OutboxSettings
from edge.mqtt import MqttLink, Will
from edge.outbox.outbox import Outbox
from edge.outbox.store import Sealed
from edge.window import WINDOW
from protocols.backhaul.codec import frame_batch
from protocols.backhaul.messages import VERSION, Hello
from protocols.backhaul.topics import Up, up
from protocols.model.device import StreamClass
from tests.bench.outbox_centre import Centre
from tests.bench.outbox_taken import CABINET, SAMPLES, open_store, samples
from tests.bench.report import Figure, figure


class Pace(msgspec.Struct, frozen=True):
    """How batches come.

    Attributes:
        together: at once, so that they share a commit.
        every_s: seconds from one time to the next.
        times: in one spell.
    """

    together: int
    every_s: float
    times: int

    @property
    def batches(self) -> int:
        """In one spell."""
        return self.together * self.times


PACES = (Pace(10, 0.05, 60), Pace(1, 0.01, 300))
TOPIC = "bench/raw"
DRAIN_S = 30.0
GOAL = "<= 1.7"


class Costs(msgspec.Struct, frozen=True):
    """What both sides took in one round.

    Attributes:
        ours_us: CPU microseconds for each batch.
        bare_us: the same of the bare loop.
        per_commit: batches in each commit of ours.
    """

    ours_us: float
    bare_us: float
    per_commit: float


class Ours:
    """Outbox, link and backhaul, wired as the agent wires them.

    Attributes:
        frames: what was published in the last spell.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._clock = clock = SystemClock()
        self._loop = asyncio.get_running_loop()
        self._store = open_store(folder, clock)
        self._outbox = Outbox(self._store, clock, OutboxSettings())
        settings = BackhaulSettings(url=f"mqtt://127.0.0.1:{port}")
        will = Will(up(CABINET, Up.STATE), b"")
        self._link = MqttLink(settings, folder, f"cabinet-{CABINET}", will)
        self._backhaul = Backhaul(
            Identity(CABINET, boot_id()), clock, self._link, self._outbox, settings.silence_s
        )
        self._link.will = Will(will.topic, self._backhaul.presence(online=False))
        self._backhaul.make_hello = self._hello
        self._source = samples(clock, 50)
        self.frames: list[bytes] = []
        self._tell = self._outbox.on_committed
        self._outbox.on_committed = self._committed
        self._tasks = [asyncio.create_task(one.run()) for one in (self._link, self._backhaul)]

    @property
    def commits(self) -> int:
        """How many transactions there were."""
        return self._store.commits

    async def spell(self, pace: Pace) -> float:
        """Take batches at a pace until the centre has them all; return CPU seconds."""
        self.frames.clear()
        groups = [list(islice(self._source, pace.together * SAMPLES)) for _ in range(pace.times)]
        begun_s, cpu_s = self._loop.time(), time.process_time()
        for number, group in enumerate(groups):
            await asyncio.sleep(max(0.0, begun_s + number * pace.every_s - self._loop.time()))
            for sample in group:
                self._outbox.add(StreamClass.ORDINARY, sample)
        await self._outbox.figures()  # its answer comes after every commit before it has been told
        if not await self._backhaul.drained(DRAIN_S):
            raise RuntimeError(f"the centre has not taken everything: {self._backhaul.figures()}")
        return time.process_time() - cpu_s

    async def end(self) -> None:
        """Leave."""
        await self._link.leave()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._outbox.close()

    def _committed(self, batches: Sequence[Sealed], floors: Mapping[StreamClass, int]) -> None:
        self.frames += [frame_batch(1, batch.sealed) for batch in batches]
        self._tell(batches, floors)

    async def _hello(self) -> Hello:
        figures = await self._outbox.figures()
        now = self._clock.now()
        return Hello(
            version=VERSION,
            cabinet=CABINET,
            agent_version=AGENT_VERSION,
            boot=boot_id(),
            epoch=figures.epoch,
            streams=figures.heads,
            policies=(),
            alarms=(),
            last_end=self._store.last_end,
            inventory=(),
            monotonic_ms=now.monotonic_ms,
            utc_ms=now.utc_ms,
            clock=now.quality,
            sqlite_version=sqlite3.sqlite_version,
        )


class Bare:
    """paho in a loop of its own: select, read, write, and nothing else."""

    def __init__(self, port: int) -> None:
        self._unanswered = 0
        self._client = Client(CallbackAPIVersion.VERSION2, "bare", protocol=MQTTv5)
        self._client.on_publish = self._answered
        self._client.connect("127.0.0.1", port)
        connection = self._client.socket()
        assert isinstance(connection, socket.socket)
        self._socket = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as the product does
        self._turn_until(self._client.is_connected)

    def spell(self, payloads: Sequence[bytes], pace: Pace) -> float:
        """Publish at a pace, within the window, until the broker has answered for all; return CPU seconds."""
        begun_s, cpu_s = time.monotonic(), time.process_time()
        for number, payload in enumerate(payloads):
            if number % pace.together == 0:
                self._sleep_until(begun_s + number // pace.together * pace.every_s)
            self._turn_until(self._has_room)
            self._client.publish(TOPIC, payload, qos=1)
            self._unanswered += 1
        self._turn_until(self._is_done)
        return time.process_time() - cpu_s

    def end(self) -> None:
        """Leave."""
        self._client.disconnect()

    def _has_room(self) -> bool:
        return self._unanswered < WINDOW

    def _is_done(self) -> bool:
        return not self._unanswered

    def _sleep_until(self, when_s: float) -> None:
        while (left_s := when_s - time.monotonic()) > 0:
            self._turn(left_s)

    def _turn_until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._turn(1.0)

    def _turn(self, timeout_s: float) -> None:
        client = self._client
        wants = [self._socket] if client.want_write() else []
        readable, writable, _ = select.select([self._socket], wants, [], timeout_s)
        if readable:
            client.loop_read()
        if writable:
            client.loop_write()
        client.loop_misc()

    def _answered(self, *_: object) -> None:
        self._unanswered -= 1


def figures(folder: Path, rounds: int, paces: Sequence[Pace] = PACES) -> list[Figure]:
    """Measure both sides, with ten batches a commit and with one."""
    folder.mkdir()
    centre = Centre(folder / "centre")
    try:
        found = asyncio.run(_rounds(folder / "cabinet", centre.broker_port, rounds, paces))
    finally:
        centre.stop()
    return [_figure(pace, costs) for pace, costs in zip(paces, found, strict=True)]


async def _rounds(folder: Path, port: int, rounds: int, paces: Sequence[Pace]) -> list[list[Costs]]:
    ours, bare = Ours(folder, port), Bare(port)
    await _round(ours, bare, Pace(10, 0.05, 10))  # nothing shall happen for the first time later
    found = [[await _round(ours, bare, pace) for _ in range(rounds)] for pace in paces]
    bare.end()
    await ours.end()
    return found


async def _round(ours: Ours, bare: Bare, pace: Pace) -> Costs:
    """Let both sides have a spell."""
    commits = ours.commits
    mine_s = await ours.spell(pace)
    his_s = bare.spell(ours.frames, pace)
    return Costs(
        mine_s * 1e6 / pace.batches, his_s * 1e6 / pace.batches, pace.batches / (ours.commits - commits)
    )


def _figure(pace: Pace, costs: Sequence[Costs]) -> Figure:
    ratio = statistics.median(one.ours_us / one.bare_us for one in costs)
    ours, bare, per_commit = (
        statistics.median(getattr(one, name) for one in costs) for name in Costs.__struct_fields__
    )
    name = "publisher_cpu_ratio_to_raw_paho"
    beside = f"{ours:.0f} µs a batch beside {bare:.0f}; {per_commit:.1f} batches a commit"
    if pace.together > 1:
        return figure(name, ratio, "ratio", GOAL, beside)
    return figure(f"{name}_one_a_commit", ratio, "ratio", "", beside)
