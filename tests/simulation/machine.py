"""What cabinet and centre have in common here: a clock that can step, a disk that can ail, and sudden ends."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from edge.outbox.outbox import Job, Patience, Step
from protocols.clock import ClockQuality, Instant
from tests.simulation.disk import Disk, Power
from tests.simulation.judge import Judge
from tests.simulation.network import Net, Way
from tests.simulation.story import Trace

NOON_MS = 1_795_521_600_000
"""2026-11-24T12:00Z: where UTC begins here."""
QUICK_S = (0.0005, 0.01)
SLOW_S = (0.2, 3.0)
THREAD_S = 0.003
"""Until a thread that was given something runs, at most."""


class SteppedClock:
    """A machine's clock. Monotonic time begins with each boot; UTC can be stepped, or was never set.

    Attributes:
        skew_ms: how far UTC is off.
        is_set: whether anything has set it since boot.
        trusted: whether it was set all the time and never stepped.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.skew_ms = 0
        self.is_set = True
        self.trusted = True
        self._loop = loop
        self._begin_s = self._boot_s = loop.time()

    def boot(self, *, is_set: bool) -> None:
        """Begin anew, as after a power cut."""
        self._boot_s = self._loop.time() - 5.0
        self.is_set = is_set
        self.trusted = self.trusted and is_set

    def step(self, by_ms: int) -> None:
        """Step UTC."""
        self.skew_ms += by_ms
        self.trusted = False

    def now(self) -> Instant:
        """Return the moment as this machine sees it."""
        monotonic_ms = round((self._loop.time() - self._boot_s) * 1000)
        if not self.is_set:
            return Instant(monotonic_ms, monotonic_ms, ClockQuality.UNSYNCHRONISED)
        utc_ms = NOON_MS + round((self._loop.time() - self._begin_s) * 1000) + self.skew_ms
        return Instant(monotonic_ms, utc_ms)

    def civil(self) -> Instant:
        """Return the same."""
        return self.now()


class Setting(msgspec.Struct, frozen=True):
    """What all machines of one simulation share."""

    net: Net
    chance: random.Random
    trace: Trace
    judge: Judge


class Machine:
    """A process and the disk that it writes on.

    Attributes:
        alive: whether the process runs.
        life: another object for each run of it.
        slow: whether each commit takes long.
    """

    def __init__(self, name: str, setting: Setting, disk: Disk) -> None:
        self.name = name
        self.net = setting.net
        self.loop = setting.net.loop
        self.chance = setting.chance
        self.trace = setting.trace
        self.judge = setting.judge
        self.disk = disk
        self.way = Way(name)
        self.clock = SteppedClock(self.loop)
        self.alive = False
        self.life: object = None
        self.slow = False

    def lives(self, life: object) -> bool:
        """Tell whether a run of the process is the one that runs now."""
        return self.alive and self.life is life

    def disk_s(self) -> float:
        """Draw how long the disk takes for a commit."""
        return self.chance.uniform(*(SLOW_S if self.slow else QUICK_S))

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin something that lasts as long as the process; that it breaks is a finding."""
        task = self.loop.create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.judge.violation(f"{self.name}: a task broke: {error!r}")

    def end(self, power: Power) -> None:
        """End the process now."""
        self.disk.end(power)
        if self.alive:
            self.trace.note(self.name, power.value)
            self._died()

    def end_within(self, writes: int, power: Power) -> None:
        """End it in the midst of a write to come."""
        if self.alive:
            self.disk.end_within(writes, power)

    def mend(self) -> None:
        """Let the disk be as it should be, and no end to come."""
        self.slow = False
        self.disk.mend()

    def look(self) -> bool:
        """See whether the disk has ended the machine meanwhile; tell whether it lives."""
        if self.disk.dead and self.alive:
            self.trace.note(self.name, "ends while it writes")
            self._died()
        return self.alive

    def _died(self) -> None:
        raise NotImplementedError


class Tells:
    """What a thread hands to its loop: told together, once the disk is done, unless the machine has died."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._waiting: list[tuple[Callable[..., None], Sequence[object]]] = []

    def add(self, call: Callable[..., None], arguments: Sequence[object]) -> None:
        """Note a call."""
        self._waiting.append((call, arguments))

    def flush_at(self, when_s: float, life: object) -> None:
        """Make the calls at a moment, if it is still the same life by then."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._machine.loop.call_at(when_s, self._flush, waiting, life)

    def _flush(self, waiting: list[tuple[Callable[..., None], Sequence[object]]], life: object) -> None:
        for call, arguments in waiting:
            if self._machine.lives(life):
                call(*arguments)


class SteppedWorker:
    """In the place of the outbox's thread: takes its steps at moments drawn by chance, one after another."""

    def __init__(self, machine: Machine, tells: Tells, life: object, patience: Patience, step: Step) -> None:
        self._machine = machine
        self._tells = tells
        self._life = life
        self._patience = patience
        self._step = step
        self._jobs: list[Job] = []
        self._busy_until_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] = machine.loop.create_future()

    def put(self, job: Job) -> None:
        """Give a job to a later step."""
        if self._lives():
            self._jobs.append(job)
            self._wake(self._machine.loop.time() + self._machine.chance.uniform(0.0, THREAD_S))

    async def ended(self) -> None:
        """Wait until the last step has been taken."""
        await self._over

    def _lives(self) -> bool:
        return self._machine.lives(self._life) and not self._over.done()

    def _wake(self, at_s: float) -> None:
        at_s = max(at_s, self._busy_until_s)
        if self._timer is not None:
            if self._timer.when() <= at_s:
                return
            self._timer.cancel()
        self._timer = self._machine.loop.call_at(at_s, self._turn)

    def _turn(self) -> None:
        self._timer = None
        if not self._lives():
            return
        jobs, self._jobs = self._jobs, []
        self._busy_until_s = self._machine.loop.time() + self._machine.disk_s()
        goes_on = self._step(jobs)
        self._tells.flush_at(self._busy_until_s, self._life)
        if not self._machine.look():
            return
        if not goes_on:
            self._over.set_result(None)
        elif (patience_s := self._patience()) is not None:
            self._wake(self._busy_until_s + patience_s)
