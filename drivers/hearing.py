"""What drivers of devices that speak by themselves do alike: the line's standing, silence, what was last heard.

Nothing but `HearingDriver` asks, connects or sleeps: the rest is handed the time and says what it means.
"""

import asyncio
import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NoReturn

import structlog

from drivers.base import Found, LineHealth, LineState, Priority, RadioDriver, by_number
from drivers.settings import Ble, DeviceSettings, LoraUdp
from protocols.clock import Clock
from protocols.errors import LocalProtocolError
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.reading import Fault, Quality, Reason, Sample, Value, failed_sample, sample

MAX_FOUND: Final = 256
"""Undeclared devices that one search tells of: more than a person looks through, and a street may hold thousands."""
IDLE_S: Final = 60.0
"""How often silence is looked for when nobody can fall silent."""
_NOT_AVAILABLE: Final = Fault(Quality.BAD, Reason.NOT_AVAILABLE)


class Standing:
    """Whether a line carries anything; the same states and the same back-off as of a line that asks.

    Args:
        line: which.
        now_ms: monotonic milliseconds.
        reconnect_s: pause before the second attempt to bring the line back; the first follows at once.
        reconnect_bound_s: the longest pause.

    Attributes:
        state: CONNECTING until the outcome of the first attempt is known.
        reason: why it is down.
        since_ms: when it came into this state.
        attempts: failures since it last carried something.
        reconnections: how often it came back after it had been down.
    """

    def __init__(self, line: LineId, now_ms: int, reconnect_s: float, reconnect_bound_s: float) -> None:
        self.state = LineState.CONNECTING
        self.reason = ""
        self.since_ms = now_ms
        self.attempts = 0
        self.reconnections = 0
        self._pauses_s = (reconnect_s, reconnect_bound_s)
        self._settled = asyncio.Event()
        self._log = structlog.get_logger("drivers").bind(line=line)

    def came_up(self, now_ms: int) -> None:
        """Note that the line carries something."""
        if self.state is LineState.DOWN:
            self._log.info("line is back")
            self.reconnections += 1
        self._enter(LineState.UP, "", now_ms)

    def proved(self) -> None:
        """Note that something was heard: the next loss is a first one again."""
        self.attempts = 0

    def went_away(self, reason: str, now_ms: int, *, tried: bool = False) -> None:
        """Note that an attempt failed or the line was lost.

        Args:
            reason: why, for a person.
            now_ms: monotonic milliseconds.
            tried: whether bringing it back was tried already; otherwise a first loss is tried anew at once.
        """
        self.attempts += 1
        if self.state is LineState.UP and self.attempts == 1 and not tried:
            self._enter(LineState.CONNECTING, reason, now_ms)
            return
        if self.state is not LineState.DOWN:
            self._log.warning("line went down", reason=reason)
        self._enter(LineState.DOWN, reason, now_ms)

    def end(self, now_ms: int) -> None:
        """Note that the line's task has ended."""
        self._enter(LineState.DOWN, "its task has ended", now_ms)

    def pause_s(self) -> float:
        """Return how long to wait before the next attempt."""
        if self.state is LineState.CONNECTING:
            return 0.0
        first, bound = self._pauses_s
        return min(first * 2.0 ** min(max(self.attempts - 1, 0), 16), bound)

    async def settled(self) -> LineState:
        """Wait until the line is up or down, and return which."""
        await self._settled.wait()
        return self.state

    def _enter(self, state: LineState, reason: str, now_ms: int) -> None:
        if state is not self.state:
            self.since_ms = now_ms
        self.state, self.reason = state, reason
        if state is LineState.CONNECTING:
            self._settled.clear()
        else:
            self._settled.set()


class Silence:
    """Which devices have not been heard for longer than each may be silent.

    Args:
        limits_ms: by device, how long it may be silent.

    Attributes:
        watched: all of them.
    """

    def __init__(self, limits_ms: Mapping[DeviceId, int]) -> None:
        self.watched = tuple(limits_ms)
        self._limits_ms = dict(limits_ms)
        self._due_ms: dict[DeviceId, int] = {}
        self._suspended = True
        self._silent: set[DeviceId] = set()

    def begin(self, now_ms: int) -> None:
        """Give every device its time anew: the line was away, so that silence meant nothing.

        One that was silent before is silent still, until it is heard; that is due to be told at once.
        """
        self._suspended = False
        self._due_ms = {
            device: now_ms if device in self._silent else now_ms + limit
            for device, limit in self._limits_ms.items()
        }

    def suspend(self) -> None:
        """Let nobody fall silent until the line is back."""
        self._suspended = True
        self._due_ms.clear()

    def heard(self, device: DeviceId, now_ms: int) -> bool:
        """Note that a device was heard; tell whether it had been silent."""
        if not self._suspended:
            self._due_ms[device] = now_ms + self._limits_ms[device]
        was = device in self._silent
        self._silent.discard(device)
        return was

    def fallen(self, now_ms: int) -> list[DeviceId]:
        """Return the devices that have fallen silent since this was last asked, or were when the line came back."""
        fallen = sorted(device for device, due_ms in self._due_ms.items() if due_ms <= now_ms)
        for device in fallen:
            del self._due_ms[device]
        self._silent.update(fallen)
        return fallen

    def next_ms(self) -> int | None:
        """Return when somebody may fall silent next; None if nobody can."""
        return min(self._due_ms.values(), default=None)

    def __contains__(self, device: object) -> bool:
        return device in self._silent

    def __iter__(self) -> Iterator[DeviceId]:
        return iter(sorted(self._silent))


class LastHeard:
    """What one device said last, point by point.

    Args:
        device: which.
        points: all that it has.

    Attributes:
        points: all that it has.
    """

    def __init__(self, device: DeviceId, points: Iterable[PointName]) -> None:
        self.points = tuple(points)
        self._device = device
        self._values: dict[PointName, tuple[int, Value | Fault]] = {}

    def check(self, points: Sequence[PointName]) -> None:
        """Make sure that a device has such points.

        Raises:
            LocalProtocolError: if it has not, or none was asked for.
        """
        unknown = [name for name in points if name not in self.points]
        if unknown:
            raise LocalProtocolError(f"{self._device} has no point {', '.join(unknown)}")
        if not points:
            raise LocalProtocolError("no point asked")

    def keep(self, said: Sample) -> None:
        """Keep what a device said."""
        for position, (name, value) in enumerate(zip(said.points, said.values, strict=True)):
            self._values[name] = (said.monotonic_ms, said.faults.get(position, value))

    def value(self, point: PointName) -> Value | Fault:
        """Return what was last said of a point; NOT_AVAILABLE if it never was."""
        return self._values[point][1] if point in self._values else _NOT_AVAILABLE

    def read(self, points: Sequence[PointName], now_ms: int) -> Sample:
        """Return what was last said of some points. The sample is as old as the oldest of its values."""
        times = [self._values[name][0] for name in points if name in self._values]
        return sample(self._device, min(times, default=now_ms), points, [self.value(name) for name in points])

    def failed(self, reason: Reason, now_ms: int) -> Sample:
        """Return all points as bad; what was last said is kept for when the device is heard again."""
        return failed_sample(self._device, now_ms, self.points, reason)


class Sightings:
    """What one search has seen and not told yet: bounded, and gone with the search.

    Attributes:
        left_out: sights beyond MAX_FOUND, declared devices apart.
    """

    def __init__(self) -> None:
        self.left_out = 0
        self._untold: dict[str, Found] = {}
        self._told: set[str] = set()
        self._strangers = 0

    def see(self, found: Found) -> None:
        """Note what was seen at an address; a later sight of it, until told, takes the place of an earlier."""
        if found.address in self._told:
            return
        if found.address not in self._untold and found.device is None:
            if self._strangers == MAX_FOUND:
                self.left_out += 1
                return
            self._strangers += 1
        self._untold[found.address] = found

    def news(self, *, known_only: bool = False) -> list[Found]:
        """Return what was not told yet, and count it as told.

        Args:
            known_only: leave what cannot be told what it is for later; its next advert may say more.
        """
        news = [one for one in self._untold.values() if one.kind is not None or not known_only]
        for one in news:
            del self._untold[one.address]
            self._told.add(one.address)
        return news


class HearingDriver(RadioDriver):
    """A line of devices that are heard and never asked; a driver says what carries it and what was said.

    Every declared device is watched, heard before or not: one that has said nothing for its `silence_s` while the
    line was up is told as NO_ANSWER, once.
    """

    def __init__(self, settings: Ble | LoraUdp, devices: Sequence[DeviceSettings], clock: Clock) -> None:
        self.line: LineId = settings.id
        self.on_sample: Callable[[Sample], None] = lambda _: None
        self._clock = clock
        self._log = structlog.get_logger("drivers").bind(line=settings.id)
        self._standing = Standing(
            settings.id, self._now_ms(), settings.reconnect_s, settings.reconnect_bound_s
        )
        limits_s = {device.id: device.silence_s or settings.silence_s for device in devices}
        self._silence = Silence({device: round(limit * 1000) for device, limit in limits_s.items()})
        self._stirred = asyncio.Event()

    @abstractmethod
    def _last(self, device: DeviceId) -> LastHeard:
        """Return what a device said last. Raises LocalProtocolError if it is not on this line."""

    async def read(
        self,
        device: DeviceId,
        points: Sequence[PointName],
        priority: Priority = Priority.POLL,  # noqa: ARG002  nothing is asked, so nobody passes anybody
    ) -> Sample:
        """Return what a device has said last; see `Driver.read`. The sample is as old as its oldest value."""
        last = self._last(device)
        last.check(points)
        state = await self._standing.settled()
        if state is LineState.DOWN:
            return failed_sample(device, self._now_ms(), points, Reason.LINE_DOWN)
        if device in self._silence:
            return failed_sample(device, self._now_ms(), points, Reason.NO_ANSWER)
        return last.read(points, self._now_ms())

    def _health(
        self,
        *,
        transactions: int,
        failures: int,
        queued: int,
        turned_away: int,
        named: Mapping[str, int],
    ) -> LineHealth:
        return LineHealth(
            line=self.line,
            state=self._standing.state,
            reason=self._standing.reason,
            since_monotonic_ms=self._standing.since_ms,
            transactions=transactions,
            failures=failures,
            silent=tuple(self._silence),
            queued=queued,
            turned_away=turned_away,
            reconnections=self._standing.reconnections,
            named=by_number(named),
        )

    def _came_up(self) -> None:
        if self._standing.state is LineState.UP:
            return
        self._standing.came_up(self._now_ms())
        self._silence.begin(self._now_ms())
        self._stirred.set()

    def _went_away(self, reason: str, *, tried: bool = False) -> None:
        """Note that the line carries nothing; once it counts as down, say so of every device."""
        was = self._standing.state
        self._standing.went_away(reason, self._now_ms(), tried=tried)
        if was is LineState.DOWN or self._standing.state is not LineState.DOWN:
            return
        self._silence.suspend()
        for device in self._silence.watched:
            self._give(self._last(device).failed(Reason.LINE_DOWN, self._now_ms()))

    def _has_ended(self) -> None:
        self._standing.end(self._now_ms())
        self._silence.suspend()

    def _was_heard(self, device: DeviceId, at_ms: int) -> None:
        if self._silence.heard(device, at_ms):
            self._stirred.set()
            self._log.info("device is heard again", device=device)

    def _give(self, told: Sample) -> None:
        """Hand on what a device said; whoever takes it cannot harm the line."""
        try:
            self.on_sample(told)
        except Exception:  # noqa: BLE001  told with its traceback; the line has others to hear
            self._log.exception("what a device said could not be taken", device=told.device)

    async def _watch_silence(self) -> NoReturn:
        """Tell of each device that falls silent: a task of the line."""
        while True:
            due_ms = self._silence.next_ms()
            wait_s = IDLE_S if due_ms is None else max(due_ms - self._now_ms(), 1) / 1000
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stirred.wait()
            self._stirred.clear()
            for device in self._silence.fallen(self._now_ms()):
                self._log.warning("device is silent", device=device)
                self._give(self._last(device).failed(Reason.NO_ANSWER, self._now_ms()))

    def _now_ms(self) -> int:
        return self._clock.now().monotonic_ms
