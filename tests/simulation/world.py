"""One simulation: a few cabinets, a broker, a centre, and a seed that decides what befalls them."""

import asyncio
import random
import shutil
from collections.abc import Callable, Coroutine, MutableMapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import msgspec
import structlog

from edge.config import OutboxSettings
from edge.outbox import outbox
from tests.simulation.cabinet import Cabinet, Character
from tests.simulation.centre import Centre
from tests.simulation.disk import Disk, Power, slip_beneath_sqlite
from tests.simulation.judge import Judge
from tests.simulation.machine import Machine, Setting
from tests.simulation.network import Net, Way
from tests.simulation.story import Trace
from tests.simulation.virtual_loop import NothingToComeError, VirtualLoop

MEMORY = Path("/dev/shm")  # noqa: S108  files that nobody else has to find
TROUBLE_S = (15.0, 45.0)
"""How long chance has its way."""
DRAIN_S = 150.0
"""How long it may take, after everything works again, until the centre has all: the longest back-off is 15 s,
the longest patience 30 s, a hello is said again after 5 s."""
MOST_FAULT_S = 12.0


class Outcome(msgspec.Struct, frozen=True):
    """What a simulation came to.

    Attributes:
        seed: which one.
        violations: what should not have been.
        digest: of all that happened.
        lines: the last of it; all of it if that was asked for.
        faults: how many of each kind befell it.
        readings: asked for.
        virtual_s: how long it took those who were in it.
    """

    seed: int
    violations: list[str]
    digest: str
    lines: list[str]
    faults: dict[str, int]
    readings: int
    virtual_s: float


class World:
    """Everything that a seed makes."""

    def __init__(self, seed: int, loop: VirtualLoop, folder: Path, *, whole: bool) -> None:
        self.chance = random.Random(seed)
        self.loop = loop
        self.trace = Trace(loop, whole=whole)
        self.judge = Judge(self.trace, folder)
        self.faults: dict[str, int] = {}
        chance = self.chance
        self.net = Net(loop, chance, self.trace, most_queued=chance.choice((10, 1000)))
        self.setting = Setting(self.net, chance, self.trace, self.judge)
        self.centre = Centre(self.setting, Disk(folder, "centre", chance), patient=chance.random() < 0.7)
        self.put_back = chance.choice(("nothing",) * 5 + ("cards", "cards", "store", "both"))
        self.most_unsealed = chance.choice((outbox.MAX_UNSEALED,) * 4 + (40,))
        self.cabinets = [self._make_cabinet(f"cab-{i}", folder) for i in range(chance.choice((1, 2, 2, 3)))]
        self.images: dict[str, list[dict[str, bytes]]] = {}
        self._work: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Let chance have its way, then mend everything, and see that all drains."""
        machines: list[Cabinet | Centre] = [self.centre, *self.cabinets]
        running = [self.loop.create_task(one.run()) for one in machines]
        end_s = self.loop.time() + self.chance.uniform(*TROUBLE_S)
        mean_s = self.chance.choice((0.5, 1.5, 4.0))
        while self.loop.time() < end_s:
            await asyncio.sleep(self.chance.expovariate(1 / mean_s))
            self._something_happens()
        await self._mend()
        await self._drain()
        for machine in machines:
            await machine.give_up()
        for task in [*self._work, *running]:
            task.cancel()
        await asyncio.gather(*self._work, *running, return_exceptions=True)
        for task in running:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        for cabinet in self.cabinets:
            self.judge.books(cabinet.name).trusted = cabinet.clock.trusted

    def _make_cabinet(self, name: str, folder: Path) -> Cabinet:
        chance = self.chance
        bounded = chance.random() < 0.3
        settings = OutboxSettings(
            seal_readings=chance.choice((4, 10, 40)),
            seal_s=chance.choice((0.3, 1.0, 2.5)),
            max_mb=chance.uniform(0.1, 0.15) if bounded else 512,
        )
        character = Character(
            settings,
            poll_s=chance.uniform(0.08, 0.4),
            receive_maximum=chance.choice((2, 20, 65_535)),
            pad_bytes=chance.choice((400, 1200)) if bounded else 0,
            cold=chance.random() < 0.3,
        )
        self.judge.books(name).bounded = bounded or self.most_unsealed < outbox.MAX_UNSEALED
        return Cabinet(name, self.setting, Disk(folder, name, chance), character)

    # What happens

    def _something_happens(self) -> None:
        kinds: list[tuple[int, Callable[[], None]]] = [
            (6, self._cut),
            (5, self._stall),
            (4, self._half_open),
            (4, self._broker_dies),
            (8, self._end_cabinet),
            (5, self._end_centre),
            (4, self._disk_full),
            (3, self._disk_fails),
            (3, self._disk_slow),
            (2, self._clock_steps),
            (2, self._stop_cabinet),
        ]
        if self.put_back != "nothing":
            kinds += [(8, self._take_image), (5, self._put_back)]
        (happens,) = self.chance.choices([one for _, one in kinds], [weight for weight, _ in kinds])
        name = happens.__name__.lstrip("_")
        self.faults[name] = self.faults.get(name, 0) + 1
        happens()

    def _cut(self) -> None:
        way = self._way()
        way.refusing = True
        self.trace.note(way.name, "way cut")
        way.cut()
        self._later(lambda: setattr(way, "refusing", False))

    def _stall(self) -> None:
        way = self._way()
        way.stalled_until_s = self.loop.time() + self._some_s()
        self.trace.note(way.name, "way stalls")

    def _half_open(self) -> None:
        way = self._way()
        self.trace.note(way.name, "way half open")
        way.halve()

    def _broker_dies(self) -> None:
        self.trace.note("broker", "killed")
        self.net.broker.kill()
        self._later(self.net.broker.start)

    def _end_cabinet(self) -> None:
        self._end(self._cabinet())

    def _end_centre(self) -> None:
        self._end(self.centre)

    def _end(self, machine: "Cabinet | Centre") -> None:
        power = self.chance.choice((Power.KILLED, Power.CUT))
        if self.chance.random() < 0.7:
            machine.end_within(self.chance.randrange(40), power)
        elif power is Power.CUT and isinstance(machine, Cabinet):
            machine.power_cut()
        else:
            machine.end(power)

    def _disk_full(self) -> None:
        machine = self._machine()
        machine.disk.full = True
        self.trace.note(machine.name, "disk full")
        self._later(lambda: setattr(machine.disk, "full", False))

    def _disk_fails(self) -> None:
        machine = self._machine()
        machine.disk.failing = True
        self.trace.note(machine.name, "disk fails")
        self._later(lambda: setattr(machine.disk, "failing", False))

    def _disk_slow(self) -> None:
        machine = self._machine()
        machine.slow = True
        self.trace.note(machine.name, "disk slow")
        self._later(lambda: setattr(machine, "slow", False))

    def _clock_steps(self) -> None:
        cabinet = self._cabinet()
        by_ms = self.chance.choice((-86_400_000, -3_000, -200, 200, 3_000, 86_400_000))
        cabinet.clock.step(by_ms)
        self.trace.note(cabinet.name, "clock steps", by_ms)

    def _stop_cabinet(self) -> None:
        self._spawn(self._cabinet().stop())

    def _take_image(self) -> None:
        machine = self._put_back_one()
        if machine.disk.image():
            self.images.setdefault(machine.name, []).append(machine.disk.image())
            self.trace.note(machine.name, "image taken")

    def _put_back(self) -> None:
        machine = self._put_back_one()
        images = self.images.get(machine.name)
        if not images:
            return
        image = self.chance.choice(images)
        self.trace.note(machine.name, "image put back")
        if isinstance(machine, Cabinet):
            machine.restore_card(image)
        else:
            machine.put_back(image)

    def _put_back_one(self) -> "Cabinet | Centre":
        either: list[Cabinet | Centre] = []
        if self.put_back != "store":
            either += self.cabinets
        if self.put_back != "cards":
            either.append(self.centre)
        return self.chance.choice(either)

    # Afterwards

    async def _mend(self) -> None:
        """Let everything work again."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        self._work.clear()
        self.net.broker.start()
        for way in self._ways():
            way.refusing = False
            way.stalled_until_s = 0.0
        for machine in (self.centre, *self.cabinets):
            machine.mend()
        self.trace.note("world", "everything works again")

    async def _drain(self) -> None:
        """See that the centre gets everything within a bounded time."""
        end_s = self.loop.time() + DRAIN_S
        await asyncio.sleep(5.0)
        for cabinet in self.cabinets:
            cabinet.polls = False
        while self.loop.time() < end_s:
            await asyncio.sleep(1.0)
            for cabinet in self.cabinets:
                cabinet.seal()
            if all(cabinet.drained for cabinet in self.cabinets):
                self.trace.note("world", "all is there")
                return
        late = [cabinet.name for cabinet in self.cabinets if not cabinet.drained]
        self.judge.violation(f"does not drain within {DRAIN_S:g} s: {', '.join(late)}")

    # Chance

    def _ways(self) -> list[Way]:
        return [self.centre.way, *(cabinet.way for cabinet in self.cabinets)]

    def _way(self) -> Way:
        return self.chance.choice(self._ways())

    def _cabinet(self) -> Cabinet:
        return self.chance.choice(self.cabinets)

    def _machine(self) -> Machine:
        return self.chance.choice([self.centre, *self.cabinets])

    def _some_s(self) -> float:
        return self.chance.uniform(0.05, self.chance.choice((1.0, MOST_FAULT_S)))

    def _later(self, happens: Callable[[], None]) -> None:
        self.loop.call_later(self._some_s(), happens)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._work.append(self.loop.create_task(work))


def simulate(seed: int, *, whole: bool = False) -> Outcome:
    """Run one simulation.

    Args:
        seed: decides everything.
        whole: whether every line of the trace is kept, and what the product logs.
    """
    slip_beneath_sqlite()
    random.seed(seed)  # what the product draws where nothing depends on it but how things go
    folder = Path(mkdtemp(prefix="luciole-simulation-", dir=MEMORY if MEMORY.is_dir() else None))
    loop = VirtualLoop()
    world = World(seed, loop, folder, whole=whole)
    _listen_to_the_product(world)
    begin_s = loop.time()
    broken: list[BaseException] = []

    def breaks(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        broken.append(context.get("exception") or RuntimeError(context["message"]))
        loop.stop()

    loop.set_exception_handler(breaks)
    most_unsealed, outbox.MAX_UNSEALED = outbox.MAX_UNSEALED, world.most_unsealed
    try:
        work = loop.create_task(world.run())
        work.add_done_callback(lambda _: loop.stop())
        loop.run_forever()
        if broken:
            raise broken[0]
        work.result()
        world.judge.judge(world.centre.disk.image())
    except NothingToComeError as error:
        world.judge.violation(f"nothing goes on: {error}")
    finally:
        outbox.MAX_UNSEALED = most_unsealed
        structlog.reset_defaults()
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(
        seed,
        world.judge.violations,
        world.trace.digest(),
        list(world.trace.lines),
        world.faults,
        sum(len(world.judge.books(cabinet.name).asked) for cabinet in world.cabinets),
        loop.time() - begin_s,
    )


def _listen_to_the_product(world: World) -> None:
    """Let what the product logs stand in the trace, for the reader alone; an exception that it logs is a finding."""

    def hear(_logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        if method == "exception" or event.get("exc_info"):
            world.judge.violation(f"the product logs an exception: {event}")
        if world.trace.whole:
            world.trace.remark(method, " ".join(f"{key}={value}" for key, value in event.items()))
        raise structlog.DropEvent

    structlog.configure(processors=[hear])
