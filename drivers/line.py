"""What every driver does alike: one task, one queue, one transaction at a time, back-off, reconnection.

A driver for a kind of line supplies three steps that only it can do: connect, disconnect, and the work of
reading or writing one device.

    CONNECTING ──connected──▶ UP ──lost──▶ CONNECTING      the first loss is tried anew at once
         └──failed──▶ DOWN ──connected──▶ UP               reads answer LINE_DOWN at once meanwhile
"""

import asyncio
from abc import abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any, Final, TypeAlias, TypeVar

import structlog

from drivers.back_off import BackOff
from drivers.base import Driver, Found, LineHealth, LineState, Looked, Priority, by_number
from drivers.errors import (
    DeviceError,
    DriverError,
    GarbledError,
    LineDownError,
    LineLostError,
    NoAnswerError,
    NotAskedError,
)
from drivers.settings import LineSettings
from protocols.clock import Clock
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.reading import Sample, failed_sample

T = TypeVar("T")
Work: TypeAlias = Callable[[], Awaitable[T]]

MAX_QUEUE: Final = 256
"""Reads that may wait: more than a line can do in the time in which a reading is worth anything."""
MAX_COMMANDS: Final = 64
"""Places in the queue that only commands may take."""
_NOBODY: Final = DeviceId("-")
"""Whose work a search is: no device's, so that none is backed off for it."""


class _Job:
    """One read or write that waits for its turn.

    Attributes:
        device: whose.
        work: what to do; runs in the line's task.
        future: for the caller, who may have left.
        forced: whether it is done even if the device is backed off.
        proof: whether success proves that the device answered.
    """

    __slots__ = ("device", "forced", "future", "proof", "work")

    def __init__(self, device: DeviceId, work: Work[Any], *, forced: bool, proof: bool) -> None:
        self.device = device
        self.work = work
        self.forced = forced
        self.proof = proof
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def done(self, result: object) -> None:
        """Give the caller what came out, if it is still there."""
        if not self.future.done():
            self.future.set_result(result)

    def failed(self, fault: Exception) -> None:
        """Give the caller the fault, if it is still there."""
        if not self.future.done():
            self.future.set_exception(fault)


class LineDriver(Driver):
    """The part of a driver that does not depend on what hangs on the line."""

    def __init__(self, settings: LineSettings, clock: Clock) -> None:
        self.line: LineId = settings.id
        self.on_sample: Callable[[Sample], None] = lambda _: None
        self._clock = clock
        self._log = structlog.get_logger("drivers").bind(line=settings.id)
        self._back_off = BackOff(settings.silent_after, settings.probe_s, settings.probe_bound_s)
        self._reconnect_s = (settings.reconnect_s, settings.reconnect_bound_s)
        self._queue: list[tuple[int, int, _Job]] = []
        self._wake = asyncio.Event()
        self._lost: str | None = None
        self._state = LineState.CONNECTING
        self._reason = ""
        self._since_ms = self._now_ms()
        self._attempts = 0
        self._numbers = 0
        self._transactions = 0
        self._failures = 0
        self._faults: Counter[str] = Counter()
        self._turned_away = 0
        self._reconnections = 0
        self._late_bytes = 0

    # --- what only the hardware can ---

    @abstractmethod
    async def _connect(self) -> None:
        """Bring the line up. Raises LineDownError with a reason for a person."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Let go of the line; it may be half open or not open at all."""

    async def _take_leave(self) -> None:
        """Say goodbye to whoever is at the other end, within a bound of its own, before `_disconnect`.

        Most lines have nothing to say. It may be interrupted; `_disconnect` lets go all the same.
        """
        return

    @abstractmethod
    def _reader(self, device: DeviceId, points: tuple[PointName, ...], priority: Priority) -> Work[Sample]:
        """Return the work of reading some points. Raises LocalProtocolError if there are no such points."""

    @abstractmethod
    def _places(self) -> Sequence[int]:
        """Return the addresses at which something may be."""

    @abstractmethod
    def _prober(self, address: int) -> Work[Found | None]:
        """Return the work of looking whether something is at an address. It raises no DeviceError."""

    def _late(self) -> int:
        """Return how many bytes came when nobody was asked any more."""
        return self._late_bytes

    # --- the contract ---

    async def read(
        self, device: DeviceId, points: Sequence[PointName], priority: Priority = Priority.POLL
    ) -> Sample:
        """Read some points of a device; see `Driver.read`."""
        names = tuple(points)
        work = self._reader(device, names, priority)
        try:
            return await self._submit(priority, device, work)
        except DriverError as fault:
            return failed_sample(device, self._now_ms(), names, fault.reason)

    async def discover(self, among: Sequence[int] | None = None) -> AsyncIterator[Found | Looked]:
        """Ask at every address of the line, one after another; see `Driver.discover`."""
        places = [place for place in self._places() if among is None or place in among]
        for done, place in enumerate(places, start=1):
            try:
                found = await self._submit_aside(self._prober(place))
            except DriverError:
                return
            if found is not None:
                yield found
            yield Looked(done, len(places))

    def health(self) -> LineHealth:
        """Return how the line is doing."""
        return LineHealth(
            line=self.line,
            state=self._state,
            reason=self._reason,
            since_monotonic_ms=self._since_ms,
            transactions=self._transactions,
            failures=self._failures,
            late_bytes_discarded=self._late(),
            silent=tuple(sorted(self._back_off)),
            queued=len(self._queue),
            turned_away=self._turned_away,
            reconnections=self._reconnections,
            named=by_number(self._faults + Counter(self._named_counts())),
        )

    def _named_counts(self) -> Mapping[str, int]:
        """Return what was refused or went wrong beyond transactions, by name; a closed set of names."""
        return {}

    async def run(self) -> None:
        """Be the line's task until cancelled."""
        try:
            while True:
                await self._session()
                _end_if_cancelled()
                await asyncio.sleep(self._pause_s())
        finally:
            self._enter(LineState.DOWN, "its task has ended")
            self._fail_queue()

    # --- the queue ---

    def _submit(
        self, priority: Priority, device: DeviceId, work: Work[T], *, proof: bool = True
    ) -> asyncio.Future[T]:
        """Queue work for the line's task.

        Raises:
            DriverError: if it cannot be queued: the line is down, the device backed off, the queue full.
        """
        if self._state is LineState.DOWN:
            raise LineDownError(self._reason)
        probe = self._back_off.backed_off(device) and priority is not Priority.COMMAND
        if probe and not self._back_off.claim_probe(device, self._now_ms()):
            raise NotAskedError(f"{device} is silent and is asked less often")
        if len(self._queue) >= MAX_QUEUE + (MAX_COMMANDS if priority is Priority.COMMAND else 0):
            self._turned_away += 1
            raise NotAskedError(f"{self.line} has more to do than it can")
        job = _Job(device, work, forced=probe or priority is Priority.COMMAND, proof=proof)
        self._numbers += 1
        heappush(self._queue, (priority, self._numbers, job))
        self._wake.set()
        return job.future

    def _submit_aside(self, work: Work[T]) -> asyncio.Future[T]:
        """Queue work that is no device's, behind everything that is. It must raise no DeviceError.

        Raises:
            DriverError: if it cannot be queued.
        """
        return self._submit(Priority.POLL, _NOBODY, work, proof=False)

    def _fail_queue(self) -> None:
        waiting, self._queue = self._queue, []
        for _, _, job in waiting:
            job.failed(LineDownError(self._reason))

    async def _next_job(self) -> _Job:
        while not self._queue and self._lost is None:
            self._wake.clear()
            await self._wake.wait()
        if self._lost is not None:
            raise LineDownError(self._lost)
        return heappop(self._queue)[2]

    def _line_lost(self, reason: str) -> None:
        """Take note that the line went away by itself; the line's task acts on it."""
        self._lost = reason
        self._wake.set()

    # --- the line's task ---

    async def _session(self) -> None:
        """Connect and serve until the line goes away."""
        self._lost = None
        try:
            await self._connect()
            self._came_up()
            while True:
                _end_if_cancelled()
                await self._carry_out(await self._next_job())
        except LineDownError as fault:
            self._went_away(str(fault))
        finally:
            try:
                await self._take_leave()
            finally:
                self._disconnect()

    async def _carry_out(self, job: _Job) -> None:
        if job.future.done():
            return
        if self._back_off.backed_off(job.device) and not job.forced:
            job.failed(NotAskedError(f"{job.device} is silent and is asked less often"))
            return
        self._transactions += 1
        try:
            result = await job.work()
        except DeviceError as fault:
            self._note_failure(job.device, fault)
            job.failed(fault)
        except LineDownError as fault:
            self._count_fault(fault)
            job.failed(LineLostError(str(fault)))
            raise
        except asyncio.CancelledError:
            job.failed(LineLostError("the line's task was ended"))
            raise
        except Exception as bug:  # noqa: BLE001  the caller gets it; the line has others to serve
            self._log.exception("a read or write failed for a reason nobody thought of", device=job.device)
            job.failed(bug)
        else:
            if job.proof:
                self._note_answer(job.device)
            job.done(result)

    def _note_answer(self, device: DeviceId) -> None:
        self._attempts = 0
        if self._back_off.answered(device):
            self._log.info("device answers again", device=device)

    def _count_fault(self, fault: DriverError) -> None:
        self._failures += 1
        self._faults[fault.reason.value] += 1

    def _note_failure(self, device: DeviceId, fault: DeviceError) -> None:
        self._count_fault(fault)
        if not isinstance(fault, NoAnswerError | GarbledError):
            self._note_answer(device)
        elif self._back_off.silent(device, self._now_ms()):
            self._log.warning("device stopped answering", device=device, reason=str(fault))

    # --- up and down ---

    def _came_up(self) -> None:
        if self._state is LineState.DOWN:
            self._log.info("line is back")
            self._reconnections += 1
            self._back_off.forget()
        self._enter(LineState.UP, "")

    def _went_away(self, reason: str) -> None:
        self._attempts += 1
        if self._state is LineState.UP and self._attempts == 1:
            self._enter(LineState.CONNECTING, reason)
            return
        if self._state is not LineState.DOWN:
            self._log.warning("line went down", reason=reason)
        self._enter(LineState.DOWN, reason)
        self._fail_queue()

    def _enter(self, state: LineState, reason: str) -> None:
        if state is not self._state:
            self._since_ms = self._now_ms()
        self._state, self._reason = state, reason

    def _pause_s(self) -> float:
        """Return how long to wait before the next attempt: not at all the first time, then ever longer."""
        if self._state is LineState.CONNECTING:
            return 0.0
        first, bound = self._reconnect_s
        return min(first * 2.0 ** min(self._attempts - 1, 16), bound)

    def _now_ms(self) -> int:
        return self._clock.now().monotonic_ms


def _end_if_cancelled() -> None:
    """End the line's task if somebody has cancelled it and a library below has swallowed that.

    `asyncio.wait_for` does so before Python 3.12 when what it waits for comes at the same moment.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
