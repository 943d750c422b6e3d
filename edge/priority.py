"""Asks the junctions' controllers for green, as the rules say, and believes only what the controllers answer.

What is to be asked is decided by `protocols.rules.priority`. Here positions, detectors and controllers are
heard, and what was decided is done: a request is on disk before it is sent, what concerns one request happens
in order, and no request waits behind a poll.
"""

import asyncio
import secrets
import sqlite3
import zlib
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import assert_never

import msgspec
import structlog

from drivers.base import LineState, SignalDriver, Written
from drivers.errors import DriverError
from edge.answers import PriorityAnswer, PriorityFigures
from edge.background import Background
from edge.positions import LocalFigures
from edge.state import State
from protocols.backhaul.codec import decode_position
from protocols.backhaul.messages import Event, Position, PriorityEvent, Source
from protocols.backhaul.topics import check_position, position_filters
from protocols.clock import Clock
from protocols.errors import LocalProtocolError
from protocols.model.command import CommandState
from protocols.model.device import Device
from protocols.model.ids import CabinetId, DeviceId, PointName
from protocols.model.policy import Limits
from protocols.model.priority import ENDED, PriorityPolicy, PriorityRequest, RequestState, RequestStatus
from protocols.model.reading import Sample, Value
from protocols.rules.priority import view
from protocols.rules.priority.detector import (
    CONTROL_MODE,
    SIGNAL_GROUPS,
    detector_point,
    is_green,
    is_idle,
    is_pulse,
)
from protocols.rules.priority.generator import Generator, RefusedError
from protocols.rules.priority.request import Action, Ask, Cancel, Look, Phase, Report, Update

log = structlog.get_logger()

TICK_S = 0.25
"""How often it is looked whether something's time is over."""
FAILING = 5
"""So many requests in a row of no use at one junction are an alarm: not granted to a vehicle that needed it, lost,
or never ended. What was taken back because its vehicle went elsewhere, and a controller's own cool-down, are none."""
LAST_KEPT = 50
DECISION_S = 5.0
"""How long a technician's request waits for what the controller makes of it."""


class Junctions(msgspec.Struct, frozen=True):
    """What there is to ask.

    Attributes:
        cabinet: whose.
        boot: which boot of the machine.
        devices: the cabinet's.
        drivers: each junction's line.
        limits: the limits file.
    """

    cabinet: CabinetId
    boot: str
    devices: Mapping[DeviceId, Device]
    drivers: Mapping[DeviceId, SignalDriver]
    limits: Limits


class _Watched(msgspec.Struct):
    """A technician's request that somebody waits for."""

    decided: asyncio.Event
    event: PriorityEvent | None = None


class Priority:
    """The cabinet's junctions.

    Attributes:
        on_failing: called with a junction and why it gives no priority, or "" when it does again.
        hear_positions: called with the topics to be heard, whenever they change.
        known_ms: the time that expiries go by.
        generator: what decides.
        last: what was last reported, the newest last.
    """

    def __init__(
        self, junctions: Junctions, clock: Clock, state: State, report: Callable[[Event], None]
    ) -> None:
        self.on_failing: Callable[[DeviceId, str], None] = lambda _junction, _why: None
        self.hear_positions: Callable[[tuple[str, ...]], None] = lambda _filters: None
        self.known_ms: Callable[[], int] = lambda: clock.now().utc_ms
        self.last: deque[PriorityEvent] = deque(maxlen=LAST_KEPT)
        self._junctions = junctions
        self._clock = clock
        self._state = state
        self._report = report
        self._background = Background()
        self._chains: dict[str, asyncio.Task[None]] = {}
        self._looking: set[DeviceId] = set()
        self._lists: Counter[DeviceId] = Counter()
        self._useless: dict[DeviceId, bool] = {}
        self._detectors: dict[tuple[DeviceId, PointName], list[str]] = {}
        self._values: dict[tuple[DeviceId, PointName], Value] = {}
        self._unwritable = ""
        self._watched: dict[str, _Watched] = {}
        self._did = asyncio.Event()
        prefix = f"lu-{zlib.crc32(junctions.cabinet.encode()):08x}-"
        self.generator = Generator(prefix, secrets.token_hex(3))
        for driver in set(junctions.drivers.values()):
            driver.on_requests = self._told

    async def run(self) -> None:
        """Watch the time and the lines, until cancelled."""
        while True:
            self._look_at_lines()
            self.generator.known_ms = self.known_ms()
            self._do(self.generator.tick(self._clock.now()))
            await asyncio.sleep(TICK_S)

    def recover(self) -> None:
        """Take up what an earlier run has left."""
        now = self._clock.now()
        grants = self._state.take_up_grants(self._junctions.boot, now)
        self.generator.known_ms = self.known_ms()
        self._do(self.generator.recover(self._state.left_priority(), grants, now))

    def go_by(self, policy: PriorityPolicy) -> None:
        """Put a policy in force, at once."""
        junctions, now = self._junctions, self._clock.now()
        self._do(self.generator.go_by(policy, junctions.devices, junctions.limits, now))
        areas = [
            box
            for lane in self.generator.lanes.values()
            for box in lane.course.way.bounds(lane.approach.corridor_m)
        ]
        self.hear_positions(position_filters(areas))
        self._detectors = self._find_detectors(policy)
        asked = {approach.junction for approach in policy.approaches}
        for junction in junctions.drivers:
            if junction not in asked:  # nothing is promised there any more
                self.generator.book.failing[junction] = 0
            self._see_groups(junction, self._values.get((junction, SIGNAL_GROUPS)))
        self._judge()

    async def close(self, patience_s: float) -> None:
        """Take everything back, give the controllers a moment to say that it is over, and let go of the rest."""
        self._do(self.generator.end("the agent ends", self._clock.now()))
        try:
            async with asyncio.timeout(patience_s):
                while self.generator.book.is_awaiting():
                    self._did.clear()
                    await self._did.wait()
        except TimeoutError:
            log.info("priority_unconfirmed_at_end")
        await self._background.close(patience_s)

    # What is heard

    def position_came(self, topic: str, payload: bytes) -> None:
        """Take a position from the backhaul.

        Raises:
            RemoteProtocolError: if it is none, or another vehicle's.
        """
        position = decode_position(payload)
        check_position(topic, position.latitude, position.longitude, position.pseudonym)
        self.saw(position, Source.POSITION)

    def saw(self, position: Position, source: Source) -> None:
        """Take a position."""
        self._do(self.generator.saw(position, source, self._clock.now()))

    def look_at_sample(self, sample: Sample) -> None:
        """See whether a sample tells of a vehicle or of a signal group."""
        for position, point in enumerate(sample.points):
            key = (sample.device, point)
            names = self._detectors.get(key, ())
            told = point in {SIGNAL_GROUPS, CONTROL_MODE} and sample.device in self._junctions.drivers
            if not names and not told:
                continue
            value = None if sample.fault(position) is not None else sample.values[position]
            before, self._values[key] = self._values.get(key), value
            if point == SIGNAL_GROUPS:
                self._see_groups(sample.device, value)
            if point == CONTROL_MODE:
                now = self._clock.now()
                self._do(self.generator.control(sample.device, idle=is_idle(value), now=now))
            if is_pulse(before, value):
                for name in names:
                    self._do(self.generator.passed(name, self._clock.now()))

    async def want(self, approach: str, who: str, *, shadow: bool) -> PriorityEvent:
        """Ask for an approach because somebody at the cabinet wants it.

        Returns:
            What was said of it once its controller had decided, or after a few seconds.

        Raises:
            RefusedError: with why it is not asked.
        """
        try:
            request, actions = self.generator.want(approach, who, self._clock.now(), shadow=shadow)
        except RefusedError as error:
            if error.event is not None:
                self._tell(Report(error.event))
            raise
        watched = self._watched[request] = _Watched(asyncio.Event())
        try:
            self._do(actions)
            async with asyncio.timeout(DECISION_S):
                await watched.decided.wait()
        except TimeoutError:
            log.info("priority_undecided", request=request)
        finally:
            del self._watched[request]
        if watched.event is None:
            raise LocalProtocolError(f"nothing was reported of request {request}")
        return watched.event

    def figures(self) -> PriorityFigures:
        """Return how priority is doing."""
        generator = self.generator
        return PriorityFigures(
            approaches=len(generator.lanes),
            vehicles=len({name for lane in generator.lanes.values() for name in lane.passages}),
            open=sum(not one.event.shadow for one in generator.book.requests.values()),
            asked=generator.counts.asked,
            granted=generator.counts.granted,
            lapsed=generator.lapsed(self._clock.now()),
        )

    def answer(self, local: LocalFigures | None) -> PriorityAnswer:
        """Return all that somebody at the cabinet wants to know."""
        generator, now = self.generator, self._clock.now()
        return PriorityAnswer(
            running=True,
            lapsed=generator.lapsed(now),
            lease_until_ms=generator.lease_until_ms,
            approaches=view.approaches(generator, now),
            requests=view.requests(generator, now),
            last=tuple(self.last),
            counts=generator.counts,
            failing={junction: count for junction, count in generator.book.failing.items() if count},
            local=local,
        )

    def _told(self, junction: DeviceId, statuses: tuple[RequestStatus, ...]) -> None:
        self._lists[junction] += 1
        self._do(self.generator.told(junction, statuses, self._clock.now()))

    def _look_at_lines(self) -> None:
        now = self._clock.now()
        for junction, driver in self._junctions.drivers.items():
            up = driver.health().state is LineState.UP
            self._do(self.generator.line(junction, up=up, now=now))

    def _find_detectors(self, policy: PriorityPolicy) -> dict[tuple[DeviceId, PointName], list[str]]:
        found: dict[tuple[DeviceId, PointName], list[str]] = {}
        named = {
            name for one in policy.approaches for name in (one.check_in_detector, one.check_out_detector)
        }
        for name in sorted(named):
            point = detector_point(name, list(self._junctions.devices.values()))
            if point is not None:
                found.setdefault(point, []).append(name)
        return found

    def _see_groups(self, junction: DeviceId, groups: Value) -> None:
        now = self._clock.now()
        for lane in list(self.generator.lanes.values()):
            if lane.approach.junction == junction:
                name = lane.approach.signal_group
                self._do(self.generator.group(junction, name, is_green(groups, name), now))

    # What is done

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Ask():
                    self._chain(action.request.id, self._ask(action))
                case Update(junction=junction, request=request):
                    self._chain(request.id, self._update(junction, request))
                case Cancel(junction=junction, request=request_id):
                    self._chain(request_id, self._cancel(junction, request_id))
                case Look(junction=junction):
                    self._background.spawn(self._look(junction), f"requests of {junction}")
                case Report():
                    self._tell(action)
                case _:
                    assert_never(action)
        if actions:
            self._judge()
            self._did.set()

    def _chain(self, request: str, work: Coroutine[None, None, None]) -> None:
        """Begin something about a request once everything before it about the same is done."""
        before = self._chains.get(request)
        task = self._background.spawn(_after(before, work), f"priority {request}")
        self._chains[request] = task
        task.add_done_callback(lambda done: self._done(request, done))

    def _done(self, request: str, task: asyncio.Task[None]) -> None:
        if self._chains.get(request) is task:
            del self._chains[request]

    async def _ask(self, ask: Ask) -> None:
        await self._write(partial(self._state.open_priority, ask.event, self._junctions.boot))
        try:
            written = await self._junctions.drivers[ask.junction].request(ask.junction, ask.request)
        except LocalProtocolError as error:
            written = Written(CommandState.FAILED, None, str(error))
        self._do(self.generator.outcome(ask.request.id, written.state, written.reason, self._clock.now()))

    async def _update(self, junction: DeviceId, request: PriorityRequest) -> None:
        known = self.generator.book.requests.get(request.id)
        if known is None or known.phase is not Phase.PLACED:  # an update of what is over would begin it anew
            return
        written = await self._junctions.drivers[junction].request(junction, request)
        if written.state not in {CommandState.APPLIED, CommandState.VERIFIED}:
            log.info("priority_update_failed", request=request.id, reason=written.reason)

    async def _cancel(self, junction: DeviceId, request: str) -> None:
        written = await self._junctions.drivers[junction].cancel(junction, request)
        if written.state not in {CommandState.APPLIED, CommandState.VERIFIED}:
            log.warning("priority_cancel_failed", request=request, reason=written.reason)

    async def _look(self, junction: DeviceId) -> None:
        if junction in self._looking:
            return
        self._looking.add(junction)
        heard = self._lists[junction]
        try:
            statuses = await self._junctions.drivers[junction].requests(junction)
            if self._lists[junction] == heard:  # otherwise what it has said by itself meanwhile is newer
                self._told(junction, statuses)
        except DriverError as error:
            log.warning("priority_requests_unknown", junction=junction, reason=str(error))
        finally:
            self._looking.discard(junction)

    def _tell(self, report: Report) -> None:
        event = report.event
        self.last.append(event)
        watched = self._watched.get(event.request)
        if watched is not None:
            watched.event = event
            if event.shadow or event.over or event.state in {RequestState.ACTIVATED, *ENDED}:
                watched.decided.set()
        log.info(
            "priority",
            request=event.request,
            approach=event.approach,
            state=event.state.value if event.state else None,
            reason=event.reason,
            shadow=event.shadow,
            over=event.over,
        )
        self._report(event)
        if not event.shadow and (report.granted or event.over):
            note = partial(
                self._state.note_priority,
                event,
                self._clock.now(),
                granted=report.granted,
                ended=event.over,
            )
            self._chain(event.request, self._write(note))

    async def _write(self, work: Callable[[], None]) -> None:
        """Write to disk; one that refuses keeps no bus from its green: the id alone tells that it is ours."""
        try:
            await asyncio.to_thread(work)
            self._unwritable = ""
        except sqlite3.Error as error:
            if str(error) != self._unwritable:
                log.error("priority_not_written", error=str(error))
            self._unwritable = str(error)

    def _judge(self) -> None:
        """Say of each junction, once it changes, whether its requests are of any use."""
        for junction, count in self.generator.book.failing.items():
            if count >= FAILING and self._useless.get(junction) is not True:
                self._useless[junction] = True
                why = f"{count} requests in a row were of no use: not granted, lost or never ended"
                self.on_failing(junction, why)
            elif count == 0 and self._useless.get(junction) is not False:
                self._useless[junction] = False  # also of what an earlier run has raised
                self.on_failing(junction, "")


async def _after(before: asyncio.Task[None] | None, work: Coroutine[None, None, None]) -> None:
    if before is not None:
        await asyncio.wait([before])
    await work
