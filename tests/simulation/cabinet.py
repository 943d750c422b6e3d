"""A cabinet: the product's own outbox, window and backhaul, on a disk and a network that chance rules."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from edge.answering import AGENT_VERSION
from edge.backhaul import Backhaul, Identity
from edge.config import OutboxSettings
from edge.mqtt import Will
from edge.outbox.outbox import Outbox, Patience, Step
from edge.outbox.store import Gathered, OutboxStore, Sealed, Shed
from protocols.backhaul.messages import VERSION, Ack, Hello, StartEvent, StreamMark
from protocols.backhaul.topics import Up, up
from protocols.clock import ClockQuality
from protocols.model.device import StreamClass
from protocols.model.ids import CabinetId, DeviceId, PointName
from protocols.model.reading import sample
from tests.simulation.disk import Disk, Power
from tests.simulation.machine import Machine, Setting, SteppedWorker, Tells
from tests.simulation.network import Client

SILENCE_S = 3.0
RESTART_S = (0.5, 3.0)
STREAMS = (
    StreamClass.EVENTS,
    StreamClass.CRITICAL,
    StreamClass.ORDINARY,
    StreamClass.ORDINARY,
    StreamClass.BULK,
)
POINTS = tuple(PointName(f"p{i}") for i in range(4))


class Character(msgspec.Struct, frozen=True):
    """What a simulated cabinet is like.

    Attributes:
        settings: of its outbox.
        poll_s: how often it asks a device, on average.
        receive_maximum: how many messages the broker takes of it at a time.
        pad_bytes: that each reading carries, so that a small buffer is full soon.
        cold: whether its clock knows nothing for a while after a power cut.
    """

    settings: OutboxSettings
    poll_s: float
    receive_maximum: int
    pad_bytes: int
    cold: bool


class WatchedStore(OutboxStore):
    """The outbox's file; what each commit has put into it is shown to the judge, and if it gave way at once."""

    on_inserted: Callable[[bytes], None]
    _inserted: list[Sealed]

    def commit(self, seals: Sequence[Gathered], marks: Iterable[StreamMark | Ack]) -> list[Sealed]:
        """Commit, and show what was committed."""
        self._inserted = []
        done = super().commit(seals, marks)
        for one in self._inserted:
            self.on_inserted(one.sealed)
        return done

    def renew_epoch(self, epoch: int | None = None) -> None:
        """Open a new epoch, and show under which numbers what waits stands now."""
        super().renew_epoch(epoch)
        for (sealed,) in self.db.execute("SELECT sealed FROM batch ORDER BY stream, number"):
            self.on_inserted(sealed)

    def _take(self, one: Gathered, shed: Shed) -> Sealed:
        sealed = super()._take(one, shed)
        self._inserted.append(sealed)
        return sealed


class SteppedOutbox(Outbox):
    """An outbox whose worker tells when the simulated disk is done."""

    def __init__(
        self, store: OutboxStore, machine: "Cabinet", settings: OutboxSettings, life: object
    ) -> None:
        self._tells = Tells(machine)

        def worker(patience: Patience, step: Step) -> SteppedWorker:
            return SteppedWorker(machine, self._tells, life, patience, step)

        super().__init__(store, machine.clock, settings, worker)

    def _on_loop(self, call: Callable[..., None], *arguments: object) -> None:
        self._tells.add(call, arguments)


class WatchedLink(Client):
    """The way to the broker; which batches go over it is shown to the judge."""

    on_batch: Callable[[bytes], None]

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Hand a message over; tell whether it was taken."""
        taken = super().publish(topic, payload, qos=qos, retain=retain)
        if taken and "/batch/" in topic:
            self.on_batch(payload)
        return taken


class Cabinet(Machine):
    """One cabinet: what hangs on its lines outlives its agent.

    Attributes:
        polls: whether devices are asked.
    """

    def __init__(self, name: str, setting: Setting, disk: Disk, character: Character) -> None:
        super().__init__(name, setting, disk)
        self.id = CabinetId(name)
        self.polls = True
        self._character = character
        self._counts = dict.fromkeys(range(len(STREAMS)), 0)
        self._boots = 0
        self._boot = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._store: OutboxStore | None = None
        self._link: Client | None = None
        self._wanted = self._asks = True
        self._closed = False
        self._end: asyncio.Future[None] = self.loop.create_future()
        self.outbox: Outbox | None = None
        self.backhaul: Backhaul | None = None
        self._reboot(cold=False)

    async def run(self) -> None:
        """Keep the agent running, as a service manager does, until nobody wants it any more."""
        while self._wanted:
            if self.disk.dead:
                self.disk.revive()
            await self._one_life()
            await asyncio.sleep(self.chance.uniform(*RESTART_S))

    async def give_up(self) -> None:
        """Let the machine be off for good."""
        self._wanted = False
        self.disk.end(Power.KILLED)
        self._bury()

    def seal(self) -> None:
        """Seal what has gathered: nothing more is asked."""
        if self.alive and self.outbox is not None:
            self.outbox.seal_all()

    @property
    def drained(self) -> bool:
        """Whether the centre has all, by the agent's own account."""
        if not self.alive or self.backhaul is None or self._store is None or self.outbox is None:
            return False
        events = self.outbox._open[StreamClass.EVENTS].events
        sealed = not events and not self.outbox._unsealed
        return sealed and self.backhaul._window.drained and self._waiting() == 0

    def power_cut(self) -> None:
        """Take the mains away."""
        self.end(Power.CUT)
        self._reboot(cold=self._character.cold)

    def restore_card(self, image: dict[str, bytes]) -> None:
        """Put an earlier image of the card into the cabinet, whose agent is ended for it."""
        self.end(Power.CUT)
        self.disk.put_back(image)
        self.judge.restored(self.name, image)
        self._reboot(cold=False)

    async def stop(self) -> None:
        """End the agent as an operator does: what was taken is committed, and the centre gets a moment to have it."""
        if not self.alive or self.outbox is None:
            return
        life, outbox = self.life, self.outbox
        self.trace.note(self.name, "stops")
        self._asks = False
        try:
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(60):
                    await self._leave(outbox)
        finally:
            if self.lives(life):
                self._stopped(outbox)

    async def _leave(self, outbox: Outbox) -> None:
        assert self.backhaul is not None
        assert self._link is not None
        backhaul, link = self.backhaul, self._link
        outbox.seal_all()
        await self._unless_dead(outbox.figures())
        await self._unless_dead(backhaul.drained(1.0))
        backhaul.goodbye()
        await self._unless_dead(link.leave())
        await self._unless_dead(outbox.close())
        self._closed = True

    def _stopped(self, outbox: Outbox) -> None:
        """Note how it ended: it is no clean end if the disk did not take everything."""
        if not self._closed or outbox._waiting:
            self.end(Power.KILLED)
            return
        self.trace.note(self.name, "stopped")
        self.disk.end(Power.KILLED)
        self.judge.stopped(self.name, self.disk.image())
        self._bury()

    # One run of the agent

    async def _one_life(self) -> None:
        self.life = life = object()
        self._end = self.loop.create_future()
        self._asks, self._closed = True, False
        self.alive = True
        try:
            self._store = self._open_store()
            self.outbox = SteppedOutbox(self._store, self, self._character.settings, life)
        except sqlite3.Error as error:
            if self.look():
                self.trace.note(self.name, "cannot start", getattr(error, "sqlite_errorname", ""))
                self.alive = False
            return
        if not self.look():
            return
        self._begin(life)
        await self._end

    def _open_store(self) -> OutboxStore:
        store = WatchedStore(
            self.disk.folder / "outbox.db",
            self.id,
            self._boot,
            self.clock,
            self._character.settings,
            draw=self.chance.getrandbits,
        )
        store.on_inserted = lambda sealed: self.judge.inserted(self.name, sealed)
        self.trace.note(self.name, "starts", store.last_end.value, store.epoch)
        self.judge.started(self.name, store.last_end.value)
        return store

    def _begin(self, life: object) -> None:
        assert self._store is not None
        assert self.outbox is not None
        outbox = self.outbox
        link = WatchedLink(
            self.net,
            self.way,
            f"cabinet-{self.name}",
            Will(up(self.id, Up.STATE), b""),
            lasting=False,
            receive_maximum=self._character.receive_maximum,
        )
        link.on_batch = lambda payload: self.judge.sent(self.name, payload)
        self._link = link
        backhaul = Backhaul(Identity(self.id, self._boot), self.clock, link, outbox, SILENCE_S)  # type: ignore[arg-type]  # a link of another make
        link.will = Will(up(self.id, Up.STATE), backhaul.presence(online=False))
        backhaul.make_hello = self._hello
        self.backhaul = backhaul
        tell = outbox.on_committed

        def committed(batches: Sequence[Sealed], floors: Mapping[StreamClass, int]) -> None:
            for batch in batches:
                self.judge.told(self.name, batch.sealed)
            tell(batches, floors)

        outbox.on_committed = committed
        outbox.add_event(StartEvent(self._boot, AGENT_VERSION, self._store.last_end, self.clock.now().utc_ms))
        work = (link.run(), backhaul.run(), self._poll(outbox), self._watch(outbox, life))
        self._tasks = [self.begin(one) for one in work]
        if not self.clock.is_set:
            self._tasks.append(self.begin(self._hear_the_time()))

    async def _poll(self, outbox: Outbox) -> None:
        while True:
            await asyncio.sleep(self.chance.uniform(0.3, 1.7) * self._character.poll_s)
            if self.polls and self._asks:
                line = self.chance.randrange(len(STREAMS))
                width = self.chance.randint(1, len(POINTS))
                first = self._counts[line] + 1
                self._counts[line] += width
                now = self.clock.now()
                device = f"{self.name}-d{line}"
                values = list(range(first, first + width))
                self.judge.asked(self.name, device, STREAMS[line], values, now.utc_ms)
                unsealed = outbox._unsealed
                said = [self._said(value) for value in values]
                outbox.add(STREAMS[line], sample(DeviceId(device), now.monotonic_ms, POINTS[:width], said))
                if outbox._unsealed == unsealed:
                    self.judge.turned_away(self.name, device, values)

    def _said(self, count: int) -> int | str:
        """Return a count as a device says it, padded with noise if the buffer is to be full soon."""
        pad_bytes = self._character.pad_bytes
        return f"{count}:{self.chance.randbytes(pad_bytes).hex()}" if pad_bytes else count

    async def _watch(self, outbox: Outbox, life: object) -> None:
        """End the agent if its outbox breaks, as the agent does."""
        try:
            await outbox.watch()
        except sqlite3.Error as error:
            self.trace.note(self.name, "breaks", error.sqlite_errorname)
            self.loop.call_soon(self._end_life, life)
        except Exception as error:  # noqa: BLE001  whatever it is, it is a finding
            self.judge.violation(f"{self.name}: the outbox's thread broke: {error!r}")
            self.loop.call_soon(self._end_life, life)

    def _end_life(self, life: object) -> None:
        if self.lives(life):
            self.end(Power.KILLED)

    async def _hear_the_time(self) -> None:
        await asyncio.sleep(self.chance.uniform(1.0, 20.0))
        self.clock.is_set = True
        self.trace.note(self.name, "knows the time")

    async def _hello(self) -> Hello:
        assert self.outbox is not None
        assert self._store is not None
        store = self._store
        figures = await self.outbox.figures()
        now = self.clock.now()
        return Hello(
            version=VERSION,
            cabinet=self.id,
            agent_version=AGENT_VERSION,
            boot=self._boot,
            epoch=figures.epoch,
            streams=figures.heads,
            policies=(),
            alarms=(),
            last_end=store.last_end,
            inventory=(),
            monotonic_ms=now.monotonic_ms,
            utc_ms=None if now.quality is ClockQuality.UNSYNCHRONISED else now.utc_ms,
            clock=now.quality,
        )

    async def _unless_dead(self, work: Coroutine[Any, Any, object]) -> None:
        task = self.loop.create_task(work)
        either: set[asyncio.Future[Any]] = {task, self._end}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise asyncio.CancelledError
            await task
        finally:
            task.cancel()

    # Ends

    def _died(self) -> None:
        self.judge.died(self.name, self.disk.image())
        self._bury()

    def _bury(self) -> None:
        self.alive = False
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        if self._link is not None:
            self._link.die()
        if self._store is not None:
            with contextlib.suppress(sqlite3.Error):
                self._store.db.close()
        self._store = self._link = self.outbox = self.backhaul = None
        if not self._end.done():
            self._end.set_result(None)

    def _reboot(self, *, cold: bool) -> None:
        self._boots += 1
        self._boot = f"{self.name}-boot{self._boots}"
        self.clock.boot(is_set=not cold)

    def _waiting(self) -> int:
        assert self._store is not None
        return int(self._store.db.execute("SELECT count(*) FROM batch").fetchone()[0])
