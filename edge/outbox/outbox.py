"""The agent's side of the outbox: what gathers, when it is sealed, and the thread that commits it."""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from drivers.damage import LOOKS, is_damage
from edge.config import OutboxSettings
from edge.outbox.store import Gathered, OutboxFigures, OutboxStore, Sealed
from protocols.backhaul.messages import Ack, Event, GapCause, GapEvent, StreamMark
from protocols.clock import Clock
from protocols.model.device import StreamClass
from protocols.model.reading import Sample

log = structlog.get_logger()
T = TypeVar("T")

ACK_WAIT_S = 1.0
"""How long a deletion waits for an insertion to ride on."""
RETRY_S = 1.0
"""How soon a commit that the disk refused is tried again."""
HURRY_S = 1.0
"""Batches are sealed after so long at first and while somebody watches."""
HURRY_FOR_S = 30.0
HANDED_OVER_MS = 200
"""Between the moment at which a sample is taken and that at which it comes here lie some turns of the loop."""
MAX_UNSEALED = 50_000
"""Readings that may wait in memory while the disk refuses, about 10 MB; more are lost and counted."""
MAX_UNSEALED_EVENTS = 5_000
"""The same of events, about 5 MB: hours of a street where much happens."""


def _nothing(_answer: object) -> None:
    pass


def _unheard() -> None:
    pass


def _deaf(_batches: Sequence[Sealed], _floors: Mapping[StreamClass, int]) -> None:
    pass


class _Open(msgspec.Struct):
    """What gathers for one stream until it is sealed."""

    samples: list[Sample]
    events: list[Event]
    readings: int = 0


class _Ask(msgspec.Struct, frozen=True):
    """Something else that must happen in the database's thread."""

    question: Callable[[], Any]
    answer: asyncio.Future[Any]
    then: Callable[[Any], None]


class _Stop(msgspec.Struct, frozen=True):
    pass


Job = Gathered | Ack | _Ask | _Stop
"""What the database's thread is given."""
Step = Callable[[Sequence[Job]], bool]
"""Deals with jobs, in the database's thread; tells whether there will be another step."""
Patience = Callable[[], float | None]
"""Tells for how many seconds the next step may wait for a job; None for ever."""


class Worker(Protocol):
    """Who takes the database's steps, one after another."""

    def put(self, job: Job) -> None:
        """Give a job to a later step; what is given first is dealt with first."""
        ...

    async def ended(self) -> None:
        """Wait until the last step has been taken."""
        ...


class DatabaseThread:
    """A thread that waits for jobs and hands them on; whatever happens to them happens in the step."""

    def __init__(self, patience: Patience, step: Step) -> None:
        self._patience = patience
        self._step = step
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Give a job to the next step."""
        self._jobs.put(job)

    async def ended(self) -> None:
        """Wait until the thread has ended."""
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while self._step(self._take(self._patience())):
            pass

    def _take(self, timeout_s: float | None) -> list[Job]:
        """Wait for a job, then take all that wait with it."""
        jobs: list[Job] = []
        with contextlib.suppress(queue.Empty):
            jobs.append(self._jobs.get(timeout=timeout_s))
            while True:
                jobs.append(self._jobs.get_nowait())
        return jobs


class Outbox:
    """Takes readings and events on the loop, and tells on the loop when they are committed.

    Attributes:
        on_committed: called on the loop with each commit's batches, and with the floors after it of the epoch that
            is being sent.
        on_next_epoch: called on the loop, before anything of a later commit, when everything of an epoch is gone that
            was sent before the one that is sealed in; with where the next one is.
        on_contradicted: called on the loop when the centre has acknowledged another batch than the one of that number
            that is here; it was not let go.
    """

    def __init__(
        self,
        store: OutboxStore,
        clock: Clock,
        settings: OutboxSettings,
        worker: Callable[[Patience, Step], Worker] = DatabaseThread,
    ) -> None:
        self.on_committed: Callable[[Sequence[Sealed], Mapping[StreamClass, int]], None] = _deaf
        self.on_next_epoch: Callable[[OutboxFigures], None] = _nothing
        self.on_contradicted: Callable[[], None] = _unheard
        self._store = store
        self._clock = clock
        self._seal_readings = settings.seal_readings
        self._seal_s = settings.seal_s
        self._loop = asyncio.get_running_loop()
        self._hurry_until = self._loop.time() + HURRY_FOR_S
        self._open = {stream: _Open([], []) for stream in StreamClass}
        self._timer: asyncio.TimerHandle | None = None
        self._unsealed = 0
        self._unsealed_events = 0
        self._lost: dict[StreamClass, tuple[int, int]] = {}
        self._damaged = 0
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._waiting: list[Gathered] = []
        self._marks: dict[tuple[int, StreamClass], StreamMark] = {}
        self._marks_due_s = 0.0
        self._worker = worker(self._patience_s, self._step)

    def add(self, stream: StreamClass, sample: Sample) -> None:
        """Gather a sample. It is taken when `on_committed` has named its batch."""
        count = len(sample.values)
        if self._unsealed + count > MAX_UNSEALED:
            self._lose(stream, count)
            return
        gathering = self._open[stream]
        gathering.samples.append(sample)
        gathering.readings += count
        self._unsealed += count
        if gathering.readings >= self._seal_readings:
            self._seal(stream)
        elif self._timer is None:
            hurry = self._loop.time() < self._hurry_until
            wait_s = min(HURRY_S, self._seal_s) if hurry else self._seal_s
            self._timer = self._loop.call_later(wait_s, self.seal_all)

    def add_event(self, event: Event) -> None:
        """Gather an event; what is gathered in one turn of the loop is sealed together, at once."""
        if self._unsealed_events >= MAX_UNSEALED_EVENTS:
            self._lose(StreamClass.EVENTS, 1)
        else:
            self._gather_event(event)

    def _lose(self, stream: StreamClass, count: int) -> None:
        since, lost = self._lost.get(stream, (self._clock.now().utc_ms, 0))
        self._lost[stream] = (since, lost + count)

    def _gather_event(self, event: Event) -> None:
        self._unsealed_events += 1
        gathering = self._open[StreamClass.EVENTS]
        if not gathering.events:
            self._loop.call_soon(self._seal, StreamClass.EVENTS)
        gathering.events.append(event)

    def hurry(self) -> None:
        """Seal soon for a while, because somebody watches."""
        self._hurry_until = self._loop.time() + HURRY_FOR_S
        if self._timer is not None and self._timer.when() > self._loop.time() + HURRY_S:
            self._timer.cancel()
            self._timer = self._loop.call_later(HURRY_S, self.seal_all)

    def seal_all(self) -> None:
        """Seal whatever has gathered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for stream in StreamClass:
            self._seal(stream)

    def acknowledge(self, ack: Ack) -> None:
        """Let go of what the centre has committed; marks of an epoch that is not here say nothing."""
        self._worker.put(ack)

    async def ask(self, question: Callable[[OutboxStore], T], then: Callable[[T], None] = _nothing) -> T:
        """Run something in the database's thread, after all that was given to it before.

        Args:
            question: what to run.
            then: called on the loop with the answer before any later commit is told.

        Raises:
            Exception: whatever the question raised, or what broke the thread before it could be asked.
        """
        answer: asyncio.Future[T] = self._loop.create_future()
        self._worker.put(_Ask(lambda: question(self._store), answer, then))
        try:
            either: list[asyncio.Future[Any]] = [answer, self._broken]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():  # nobody is left to answer
                self._broken.result()
            return answer.result()
        finally:
            answer.cancel()

    async def watch(self) -> None:
        """Wait for ever, unless the database's thread breaks: then raise what broke it."""
        await asyncio.shield(self._broken)

    async def figures(self) -> OutboxFigures:
        """Return how full it is."""
        unsealed = self._unsealed + self._unsealed_events
        return await self.ask(lambda store: store.figures(unsealed))

    async def close(self) -> None:
        """Commit whatever has gathered and end the run cleanly. Nothing may be added any more."""
        self.seal_all()
        self._worker.put(_Stop())
        await self._worker.ended()

    def _seal(self, stream: StreamClass) -> None:
        gathering = self._open[stream]
        if gathering.samples or gathering.events:
            self._open[stream] = _Open([], [])
            self._worker.put(
                Gathered(stream, gathering.samples, gathering.events, gathering.readings, self._reaches_ms())
            )

    def _reaches_ms(self) -> dict[StreamClass, int]:
        """Return for each stream the moment before which nothing that it took still waits here."""
        now = self._clock.now()
        offset_ms, sure_ms = now.utc_ms - now.monotonic_ms, now.monotonic_ms - HANDED_OVER_MS
        return {
            stream: min([sure_ms, *(one.monotonic_ms for one in gathering.samples[:1])]) + offset_ms
            for stream, gathering in self._open.items()
        }

    def _sealed(self, readings: int, events: int) -> None:
        self._unsealed -= readings
        self._unsealed_events -= events

    def _committed(self, batches: Sequence[Sealed], floors: Mapping[StreamClass, int]) -> None:
        self._report_lost()
        self.on_committed(batches, floors)

    def _moved_on(self, figures: OutboxFigures) -> None:
        self.on_next_epoch(figures)

    def _contradicted(self) -> None:
        self.on_contradicted()

    def _report_lost(self) -> None:
        for stream, (since_ms, count) in self._lost.items():
            now_ms = self._clock.now().utc_ms
            gap = GapEvent(stream, GapCause.SHED, since_ms, now_ms, count, epoch=self._store.epoch)
            self._gather_event(gap)
        self._lost.clear()

    # From here on: the database's thread.

    def _patience_s(self) -> float | None:
        if self._waiting:
            return RETRY_S
        return max(0.0, self._marks_due_s - self._loop.time()) if self._marks else None

    def _step(self, jobs: Sequence[Job]) -> bool:
        try:
            return self._deal_with(jobs)
        except BaseException as error:  # noqa: BLE001  nothing may be taken any more: the agent has to end
            self._on_loop(_fail, self._broken, error)
            return False

    def _deal_with(self, jobs: Sequence[Job]) -> bool:
        asks = []
        stopping = False
        for job in jobs:
            match job:
                case Gathered():
                    self._waiting.append(job)
                case Ack():
                    self._marks_due_s = self._marks_due_s if self._marks else self._loop.time() + ACK_WAIT_S
                    _take_marks(self._marks, job)
                case _Ask():
                    asks.append(job)
                case _Stop():
                    stopping = True
        due = self._waiting or (self._marks and (stopping or self._loop.time() >= self._marks_due_s))
        if due and self._commit(self._waiting, self._marks):
            self._waiting, self._marks = [], {}
        for ask in asks:
            self._answer(ask)
        if stopping:
            self._end(clean=not self._waiting)
        return not stopping

    def _commit(self, waiting: list[Gathered], marks: dict[tuple[int, StreamClass], StreamMark]) -> bool:
        sending = self._store.sending
        try:
            batches = self._store.commit(waiting, [Ack(epoch, (mark,)) for (epoch, _), mark in marks.items()])
        except sqlite3.Error as error:
            self._damaged = self._damaged + 1 if is_damage(error) else 0
            if self._damaged >= LOOKS and self._store.is_readable():
                raise  # trying again would not mend it; the next start salvages the file
            if self._store.error != str(error):
                log.error("outbox_commit_failed", error=str(error), name=error.sqlite_errorname)
            self._store.error = str(error)
            return False
        self._damaged = 0
        if self._store.error:
            log.warning("outbox_commits_again")
            self._store.error = ""
        self._on_loop(
            self._sealed, sum(one.readings for one in waiting), sum(len(one.events) for one in waiting)
        )
        if self._store.sending != sending:
            self._on_loop(self._moved_on, self._store.figures(0))
        self._on_loop(self._committed, batches, self._store.floors())
        if self._store.contradicted:
            self._store.contradicted = False
            self._on_loop(self._contradicted)
        return True

    def _answer(self, ask: _Ask) -> None:
        try:
            result = ask.question()
        except Exception as error:
            self._on_loop(_fail, ask.answer, error)
            if isinstance(error, sqlite3.Error) and is_damage(error) and self._store.is_damaged():
                raise  # as in a commit; whoever asked gets any other error, and the outbox has others to serve
        else:
            self._on_loop(_settle, ask, result)
        if aside := self._store.take_aside():
            self._on_loop(self._committed, aside, self._store.floors())

    def _end(self, *, clean: bool) -> None:
        if not clean:  # the next start must say that something is missing
            log.error("outbox_not_committed", error=self._store.error)
            return
        try:
            self._store.end_run()
        except sqlite3.Error as error:
            log.error("outbox_close_failed", error=str(error))

    def _on_loop(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop has ended before us; what is committed stays committed
            log.debug("outbox_loop_gone")


def _take_marks(marks: dict[tuple[int, StreamClass], StreamMark], ack: Ack) -> None:
    """Remember of each stream the highest mark, in whatever order they come."""
    for mark in ack.marks:
        known = marks.get((ack.epoch, mark.stream))
        if known is None or known.mark < mark.mark:
            marks[ack.epoch, mark.stream] = mark


def _settle(ask: _Ask, result: object) -> None:
    ask.then(result)
    if not ask.answer.done():
        ask.answer.set_result(result)


def _fail(answer: asyncio.Future[Any], error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)
