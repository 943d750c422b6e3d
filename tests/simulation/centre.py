"""The centre: the product's own intake, ingest and store; only its threads and its link are others."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence

from central import restamp
from central.config import Address, BrokerSettings, Protocol
from central.effects import Downlink
from central.errors import StartError
from central.intake import Intake
from central.mqtt import Then, filters_of
from central.shards import SERVING
from central.store import schema
from central.store.lock import WriteLock
from central.store.writer import connect
from protocols.backhaul.topics import Down, down
from tests.simulation.disk import Disk, Power
from tests.simulation.machine import THREAD_S, Machine, Setting
from tests.simulation.network import Client

RESTART_S = (0.5, 3.0)
TICK_S = 2.0


class CentreLink(Client):
    """The way to the broker as the centre has it."""

    machine: "Centre"
    filters: Sequence[str] = ()

    @property
    def connected(self) -> bool:
        """Whether the connection stands."""
        return self.up

    def hears(self) -> bool:
        """Tell whether cabinets are heard."""
        return self.up

    def listen(self, shards: frozenset[int], then: Then | None = None) -> None:
        """Hear the cabinets of these shards; nobody here takes any away."""
        self.filters = sorted(filters_of(shards))
        if self.up:
            self.hear()
        if then is not None:
            then()

    def hear(self) -> None:
        """Subscribe to what is to be heard."""
        if self.filters:
            self.subscribe(*self.filters)

    def send(self, message: Downlink) -> bool:
        """Hand a message over once the commit that it follows has taken its time."""
        if message.kind is Down.ACK:
            self.machine.acknowledges(message)
        loop = self._net.loop
        loop.call_at(
            max(loop.time(), self.machine.busy_until_s),
            self.machine.if_alive(self, down(message.cabinet, message.kind), message.payload),
        )
        return True


class Centre(Machine):
    """The aggregator.

    Attributes:
        busy_until_s: when the commit in hand is done.
    """

    def __init__(self, setting: Setting, disk: Disk, *, patient: bool) -> None:
        super().__init__("centre", setting, disk)
        self.busy_until_s = 0.0
        self._patient = patient
        self._wanted = True
        self._intake: Intake | None = None
        self._lock: WriteLock | None = None
        self._db: sqlite3.Connection | None = None
        self._link: CentreLink | None = None
        self._turn_at: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._end: asyncio.Future[None] = self.loop.create_future()

    async def run(self) -> None:
        """Keep it running until nobody wants it any more."""
        while self._wanted:
            if self.disk.dead:
                self.disk.revive()
            await self._one_life()
            await asyncio.sleep(self.chance.uniform(*RESTART_S))

    async def give_up(self) -> None:
        """Let it be off for good."""
        self._wanted = False
        self.end(Power.KILLED)

    def put_back(self, image: dict[str, bytes]) -> None:
        """Put an earlier backup in the place of the store."""
        self.end(Power.KILLED)
        self.disk.put_back(image)
        self.judge.put_back()

    def acknowledges(self, message: Downlink) -> None:
        """Show the judge what is about to be acknowledged, and what the file really holds at this moment."""
        self.judge.acknowledged(str(message.cabinet), message.payload, self.disk.folder / "central.db")

    def if_alive(self, link: Client, topic: str, payload: bytes) -> Callable[[], None]:
        """Return a call that publishes, if this life lasts until then."""
        life = self.life

        def publish() -> None:
            if self.lives(life):
                link.publish(topic, payload)

        return publish

    async def _one_life(self) -> None:
        self.life = object()
        self._end = self.loop.create_future()
        self.alive = True
        try:
            schema.prepare(self.disk.folder / "central.db")
            self._lock = WriteLock(self.disk.folder / "central.db")
            self._db = connect(self.disk.folder / "central.db")
        except (StartError, sqlite3.Error) as error:
            if self.look():
                self.trace.note(self.name, "cannot start", type(error).__name__)
                self._bury()
            return
        if not self.look():
            return
        self.trace.note(self.name, "starts")
        self._begin()
        await self._end

    def _begin(self) -> None:
        intake = self._intake = Intake(
            self.disk.folder / "central.db",
            BrokerSettings(Address("127.0.0.1", 0), Protocol.MQTT_5),
            "simulated",
            SERVING,
            self.clock,
            tick=restamp.go_on,
            tell=lambda _: None,
            watched=lambda: False,
        )
        link = self._link = CentreLink(
            self.net, self.way, "centre", None, lasting=self._patient, receive_maximum=65_535
        )
        link.machine = self
        intake.link = link  # type: ignore[assignment]  # a link of another make
        intake.shards._hears = link.hears
        link.on_up = link.hear
        link.on_message = self._message
        intake.writer.post(intake.shards.tend, 0, 0.0)
        self._tasks = [self.begin(one) for one in (link.run(), self._tick())]

    def _message(self, topic: str, payload: bytes) -> None:
        assert self._intake is not None
        self._intake._deliver(topic, payload)
        self._wake()

    async def _tick(self) -> None:
        while True:
            self._wake()
            await asyncio.sleep(TICK_S)

    def _wake(self) -> None:
        if self._turn_at is None:
            at_s = max(self.busy_until_s, self.loop.time() + self.chance.uniform(0.0, THREAD_S))
            self._turn_at = self.loop.call_at(at_s, self._turn, self.life)

    def _turn(self, life: object) -> None:
        self._turn_at = None
        if not self.lives(life):
            return
        assert self._intake is not None
        assert self._db is not None
        assert self._lock is not None
        self.busy_until_s = self.loop.time() + self.disk_s()
        try:
            self._intake.writer.step(self._db, self._lock, 0.0)
        except sqlite3.Error as error:
            if self.look():
                self.trace.note(self.name, "breaks", error.sqlite_errorname)
                self.end(Power.KILLED)
            return
        if self.look() and self._intake.writer.depth()[0]:
            self._wake()

    def _died(self) -> None:
        self._bury()

    def _bury(self) -> None:
        self.alive = False
        self.judge.forget_file()
        if self._intake is not None:
            self.judge.refused(self._intake.ingest.counts.refused())
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        if self._link is not None:
            self._link.die()
        if self._turn_at is not None:
            self._turn_at.cancel()
            self._turn_at = None
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
        if self._lock is not None:
            self._lock.close()
        self._db = self._intake = self._link = self._lock = None
        self.busy_until_s = 0.0
        if not self._end.done():
            self._end.set_result(None)
