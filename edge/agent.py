"""The cabinet agent: who is wired to whom, and how it starts and ends."""

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog

from drivers.base import Driver, Found, LineState, Looked, RadioDriver, SignalDriver
from drivers.registry import open_line
from edge import answers
from edge.alarms import Alarms
from edge.background import Background
from edge.backhaul import Backhaul, Identity
from edge.clock import BenchClock, SystemClock
from edge.commands import Commands, Street
from edge.config import Settings
from edge.control import AskedWrongError, ControlServer
from edge.lighting import DECIDED_POINTS, LEVEL, LampState, Lighting
from edge.lock import only_agent
from edge.mqtt import MqttLink, Will
from edge.outbox.outbox import Outbox
from edge.outbox.store import OutboxStore
from edge.policies import Policies
from edge.poller import Poller, Watched
from edge.positions import PositionPort
from edge.priority import Junctions, Priority
from edge.state import State
from protocols.backhaul.messages import (
    VERSION,
    AlarmEvent,
    CommandMessage,
    Hello,
    PriorityEvent,
    SignedPolicy,
    StartEvent,
)
from protocols.backhaul.topics import Up, up
from protocols.clock import ClockQuality
from protocols.model.alarm import Alarm, AlarmType
from protocols.model.device import Device, Kind, StreamClass
from protocols.model.ids import DeviceId, KeyId, LineId, PointName
from protocols.model.lighting import Override
from protocols.model.policy import Policy, PolicyKind
from protocols.model.reading import Quality, Sample
from protocols.rules.acceptance import Standing
from protocols.rules.priority.generator import RefusedError

log = structlog.get_logger()

AGENT_VERSION = version("luciole")
LOOK_AT_LINES_S = 1.0
FINISH_S = 3.0
"""How long a stopping agent waits for the reads that are under way."""
RESTART_S = 5.0
"""How soon a line's task that broke is begun again: one bad line harms no other."""


def boot_id() -> str:
    """Return which boot of the machine this is: what its monotonic clock belongs to."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").replace("-", "")[:12]


class Agent:
    """Everything that runs in a cabinet."""

    def __init__(self, settings: Settings) -> None:
        document = settings.document
        bench = document.bench_clock
        self._settings = settings
        self._clock = SystemClock() if bench is None else BenchClock(bench)
        self._boot = boot_id()
        self._started_ms = self._clock.now().utc_ms
        self._background = Background()
        self._state = State.open(settings.directory / "state.db")
        self._store = OutboxStore(
            settings.directory / "outbox.db", settings.cabinet, self._boot, self._clock, document.outbox
        )
        self._outbox = Outbox(self._store, self._clock, document.outbox)
        maps = {one.name: one for one in document.map}
        self._drivers: dict[LineId, Driver] = {
            line.id: open_line(
                line, document.device, maps, self._clock, settings.directory, nodes=document.nodes
            )
            for line in document.line
        }
        self._devices = {device.id: device for device in self._describe_devices()}
        self._driver_of = {device.id: self._drivers[device.line] for device in self._devices.values()}
        self._alarms = Alarms(self._state.alarms(), dict(self._never_polled()))
        self._storing = asyncio.Lock()
        self._latest: dict[DeviceId, dict[str, Sample]] = {}
        self._lighting = self._make_lighting()
        self._commands = Commands(
            Street(
                self._devices, self._driver_of, {lamp.id: lamp for lamp in settings.lamps}, settings.limits
            ),
            self._state,
            self._clock,
            self._lighting,
            self._outbox.add_event,
        )
        self._priority = self._make_priority()
        standing = Standing(
            settings.cabinet,
            settings.trusted,
            {},
            settings.lamps,
            settings.limits,
            tuple(self._devices.values()),
        )
        self._policies = Policies(standing, self._state, self._clock, self._apply, self._outbox.add_event)
        self._link, self._backhaul = self._make_backhaul()
        self._begin_priority()
        local = document.local_positions
        self._positions = (
            None if local is None else PositionPort(local, settings.file.parent, self._priority.saw)
        )
        self._pollers = [self._make_poller(driver) for driver in self._drivers.values()]
        self._control = ControlServer(settings.socket, self._answer)
        self._control.on_watch = self._outbox.hurry

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set, then commit what was taken, drain, say goodbye and end."""
        self._outbox.add_event(StartEvent(self._boot, AGENT_VERSION, self._store.last_end, self._started_ms))
        self._alarms_changed(
            self._alarms.forget_others(
                {DeviceId(self._settings.cabinet), *map(DeviceId, self._drivers), *self._devices},
                self._started_ms,
            )
        )
        log.info("agent_started", cabinet=self._settings.cabinet, last_end=self._store.last_end.value)
        polling = _begin(self._supervise("poller", poller.run) for poller in self._pollers)
        lines = _begin(self._supervise(f"line {one.line}", one.run) for one in self._drivers.values())
        core = _begin(
            [
                self._supervise("lighting", self._lighting.run),
                self._supervise("priority", self._priority.run),
                *([] if self._positions is None else [self._supervise("positions", self._positions.run)]),
                self._look_at_lines(),
                self._control.run(),
                self._outbox.watch(),
            ]
        )
        backhaul = _begin([self._link.run(), self._backhaul.run()])
        try:
            await self._commands.recover()
            await _until(stop, [*polling, *lines, *core, *backhaul])
        finally:
            await self._stop_street(polling, lines, core)
            await self._leave(backhaul)

    async def _stop_street(
        self,
        polling: Sequence[asyncio.Task[None]],
        lines: Sequence[asyncio.Task[None]],
        core: Sequence[asyncio.Task[None]],
    ) -> None:
        """Take what the hardware is just giving, then let go of the lines.

        Radio lines go first: what waits for their devices ends with them, sent or not, and can be told.
        """
        for poller in self._pollers:
            poller.finish()
        if polling:
            await asyncio.wait(polling, timeout=FINISH_S)
        by_radio = [isinstance(driver, RadioDriver) for driver in self._drivers.values()]
        await _cancel([line for line, radio in zip(lines, by_radio, strict=True) if radio])
        await self._commands.close()
        await self._priority.close(FINISH_S)
        await _cancel([*polling, *lines, *core])
        await self._background.close(FINISH_S)

    async def _leave(self, backhaul: Sequence[asyncio.Task[None]]) -> None:
        """Commit what was taken, give the centre a moment to have it, and say goodbye."""
        self._outbox.seal_all()
        await self._outbox.figures()  # its answer comes after every commit before it has been told
        drained = await self._backhaul.drained(self._settings.document.outbox.drain_s)
        self._backhaul.goodbye()
        await self._link.leave()
        await _cancel(backhaul)
        await self._outbox.close()
        self._state.close()
        log.info("agent_ended", drained=drained)

    # Making the parts

    def _describe_devices(self) -> Iterator[Device]:
        for one in self._settings.document.device:
            points = [polled.point for polled in self._drivers[one.line].points(one.id)]
            if any(lamp.id == one.id for lamp in self._settings.lamps):
                points += DECIDED_POINTS
            yield Device(
                id=one.id,
                kind=one.kind,
                line=one.line,
                address=str(one.address),
                stream=one.stream_class,
                groups=one.groups,
                commune=one.commune or self._settings.document.cabinet.commune,
                points=tuple(points),
            )

    def _never_polled(self) -> Iterator[tuple[DeviceId, tuple[PointName, ...]]]:
        """Yield the devices that say everything by themselves, with their points."""
        for device, driver in self._driver_of.items():
            points = driver.points(device)
            if all(polled.poll_s is None for polled in points):
                yield device, tuple(polled.point.name for polled in points)

    def _make_lighting(self) -> Lighting:
        stored = self._state.policies().get(PolicyKind.LIGHTING)
        lamps = [
            LampState(lamp, self._driver_of[lamp.id], self._devices[lamp.id].stream)
            for lamp in self._settings.lamps
        ]
        lighting = Lighting(
            lamps,
            self._clock,
            self._take_decided,
            stored.policy().lighting if stored else None,
            self._state.overrides(),
            limits=self._settings.limits,
        )
        lighting.on_ended = self._override_ended
        lighting.on_dimming = self._dimming
        return lighting

    def _make_priority(self) -> Priority:
        drivers = {
            device.id: driver
            for device in self._devices.values()
            if device.kind is Kind.JUNCTION and isinstance(driver := self._driver_of[device.id], SignalDriver)
        }
        junctions = Junctions(
            self._settings.cabinet, self._boot, self._devices, drivers, self._settings.limits
        )
        priority = Priority(junctions, self._clock, self._state, self._outbox.add_event)
        priority.on_failing = self._priority_failing
        return priority

    def _begin_priority(self) -> None:
        """Go by the rules in force; what an earlier run has asked for is taken back first."""
        self._priority.hear_positions = self._backhaul.hear_positions
        self._backhaul.on_position = self._priority.position_came
        self._priority.recover()
        stored = self._state.policies().get(PolicyKind.PRIORITY)
        rules = stored.policy().priority if stored else None
        if rules is not None:
            self._priority.go_by(rules)

    def _make_backhaul(self) -> tuple[MqttLink, Backhaul]:
        settings = self._settings
        identity = Identity(settings.cabinet, self._boot)
        backhaul_settings = settings.document.backhaul
        will = Will(up(settings.cabinet, Up.STATE), b"")
        link = MqttLink(backhaul_settings, settings.file.parent, f"cabinet-{settings.cabinet}", will)
        backhaul = Backhaul(identity, self._clock, link, self._outbox, backhaul_settings.silence_s)
        link.will = Will(will.topic, backhaul.presence(online=False))
        backhaul.make_hello = self._hello
        backhaul.on_policy = self._policy_came
        backhaul.on_command = self._command_came
        return link, backhaul

    def _make_poller(self, driver: Driver) -> Poller:
        watched = [
            Watched(device.id, device.stream, driver)
            for device in self._devices.values()
            if device.line == driver.line
        ]
        poller = Poller(driver, watched, self._sample_came, self._outbox.add)
        driver.on_sample = poller.hear
        return poller

    # What happens

    def _sample_came(self, sample: Sample) -> None:
        latest = self._latest.setdefault(sample.device, {})
        for point in sample.points:
            latest[point] = sample
        self._alarms_changed(self._alarms.look_at_sample(sample, self._clock.now().utc_ms))
        self._lighting.look_at_sample(sample)
        self._priority.look_at_sample(sample)
        if self._control.watchers:
            self._control.tell(sample)

    def _take_decided(self, stream: StreamClass, sample: Sample) -> None:
        latest = self._latest.setdefault(sample.device, {})
        for point in sample.points:
            latest[point] = sample
        self._outbox.add(stream, sample)
        self._control.tell(sample)

    def _alarms_changed(self, changed: list[Alarm]) -> None:
        if not changed:
            return
        for alarm in changed:
            self._outbox.add_event(
                AlarmEvent(alarm.device, alarm.type, alarm.raised_ms, alarm.cleared_ms, alarm.text)
            )
        self._background.spawn(self._store_alarms(changed), "store alarms")

    async def _store_alarms(self, changed: list[Alarm]) -> None:
        async with self._storing:  # in the order in which they changed
            await asyncio.to_thread(self._state.store_alarms, changed)

    def _override_ended(self, device: DeviceId, override: Override) -> None:
        self._background.spawn(asyncio.to_thread(self._state.end_override, device, override), "end override")

    def _dimming(self, device: DeviceId, why: str) -> None:
        now_ms = self._clock.now().utc_ms
        self._alarms_changed(
            self._alarms.raise_or_clear(device, AlarmType.DIMMING_FAILURE, why or None, now_ms)
        )

    def _priority_failing(self, junction: DeviceId, why: str) -> None:
        now_ms = self._clock.now().utc_ms
        self._alarms_changed(
            self._alarms.raise_or_clear(junction, AlarmType.PRIORITY_FAILURE, why or None, now_ms)
        )

    def _policy_came(self, signed: SignedPolicy) -> None:
        self._background.spawn(self._policies.receive(signed), "policy")

    def _command_came(self, message: CommandMessage) -> None:
        self._background.spawn(self._commands.receive(message.command), "command")

    def _apply(self, policy: Policy) -> None:
        if policy.lighting is not None:
            self._lighting.go_by(policy.lighting)
        if policy.priority is not None:
            self._priority.go_by(policy.priority)

    async def _look_at_lines(self) -> None:
        while True:
            now_ms = self._clock.now().utc_ms
            for driver in self._drivers.values():
                self._alarms_changed(self._alarms.look_at_line(driver.health(), now_ms))
            await asyncio.sleep(LOOK_AT_LINES_S)

    async def _supervise(self, name: str, run: Callable[[], Coroutine[None, None, None]]) -> None:
        """Begin a line's task again if it breaks: a bug in one driver must not darken the street."""
        while True:
            try:
                await run()
            except Exception:
                log.exception("task_broke", task=name)
            else:
                return
            await asyncio.sleep(RESTART_S)

    # What we say of ourselves

    async def _hello(self) -> Hello:
        figures = await self._outbox.figures()
        now = self._clock.now()
        return Hello(
            version=VERSION,
            cabinet=self._settings.cabinet,
            agent_version=AGENT_VERSION,
            boot=self._boot,
            epoch=figures.epoch,
            streams=figures.heads,
            policies=await asyncio.to_thread(self._state.in_force),
            alarms=tuple(self._alarms.active.values()),
            last_end=self._store.last_end,
            inventory=tuple(self._devices.values()),
            monotonic_ms=now.monotonic_ms,
            utc_ms=None if now.quality is ClockQuality.UNSYNCHRONISED else now.utc_ms,
            clock=now.quality,
            keys=tuple(KeyId(key.key) for key in self._settings.trusted),
            sqlite_version=sqlite3.sqlite_version,
        )

    async def _answer(self, request: answers.Request) -> object:  # noqa: C901, PLR0911, PLR0912  one branch a question
        match request:
            case answers.Status():
                return await self._status()
            case answers.Devices():
                return [self._device(device) for device in self._devices.values()]
            case answers.Read(device=device, points=points):
                return await self._read(device, points)
            case answers.Set(command=command):
                return await self._commands.outcome(command)
            case answers.Commands(id=command_id):
                return await self._commands.look_up(command_id)
            case answers.Buffer(limit=limit):
                return await self._buffer(limit)
            case answers.PolicyShow():
                return await self._policy()
            case answers.PolicyApply(body=body, key=key, signature=signature):
                signed = SignedPolicy(body.encode(), KeyId(key), signature)
                reasons = await self._policies.receive(signed)
                if reasons:
                    raise AskedWrongError("rejected: " + "; ".join(reasons))
                return await self._policy()
            case answers.PriorityShow() | answers.PriorityWant():
                return await self._answer_of_priority(request)
            case answers.Discover(line=line, among=among):
                return self._discover(line, among)
            case answers.Join():
                return await self._join(request)
            case answers.Watch(device=device):
                if device is not None and device not in self._devices:
                    raise AskedWrongError(_no_device(device))
                return None

    async def _status(self) -> answers.StatusAnswer:
        lamps = self._lighting.lamps.values()
        return answers.StatusAnswer(
            cabinet=self._settings.cabinet,
            agent_version=AGENT_VERSION,
            boot=self._boot,
            pid=os.getpid(),
            started_ms=self._started_ms,
            now=self._clock.now(),
            civil=self._clock.civil(),
            lines=tuple(driver.health() for driver in self._drivers.values()),
            backhaul=self._backhaul.figures(),
            outbox=await self._outbox.figures(),
            policies=await asyncio.to_thread(self._state.in_force),
            rejected=self._policies.rejected,
            alarms=tuple(self._alarms.active.values()),
            lamps=len(lamps),
            lamps_settled=sum(1 for lamp in lamps if self._is_at_level(lamp)),
            overrides=len(self._lighting.overrides),
            reasserted=self._lighting.reasserted,
            read=sum(poller.read for poller in self._pollers),
            skipped=sum(poller.skipped for poller in self._pollers),
            last_end=self._store.last_end.value,
            sqlite_version=sqlite3.sqlite_version,
            priority=self._priority.figures(),
        )

    def _is_at_level(self, lamp: LampState) -> bool:
        """Tell whether a lamp is known to be where it was decided: confirmed, and answering since."""
        sample = self._latest.get(lamp.lamp.id, {}).get(LEVEL)
        answers_now = sample is not None and sample.fault(sample.points.index(LEVEL)) is None
        return lamp.decision is not None and lamp.settled and answers_now

    def _device(self, device: Device) -> answers.DeviceAnswer:
        lamp = self._lighting.lamps.get(device.id)
        latest = self._latest.get(device.id, {})
        return answers.DeviceAnswer(
            device=device,
            latest=tuple(
                self._value(device, latest[point.name], latest[point.name].points.index(point.name))
                for point in device.points
                if point.name in latest
            ),
            decision=lamp.decision if lamp else None,
            trouble=lamp.trouble if lamp else "",
        )

    def _value(self, device: Device, sample: Sample, position: int) -> answers.LatestValue:
        name = sample.points[position]
        fault = sample.fault(position)
        return answers.LatestValue(
            point=name,
            value=sample.values[position],
            unit=next((point.unit for point in device.points if point.name == name), ""),
            quality=fault.quality if fault else Quality.GOOD,
            reason=fault.reason if fault else None,
            age_s=(self._clock.now().monotonic_ms - sample.monotonic_ms) / 1000,
        )

    async def _read(self, device_id: DeviceId, wanted: tuple[str, ...]) -> list[answers.LatestValue]:
        device = self._devices.get(device_id)
        if device is None:
            raise AskedWrongError(_no_device(device_id))
        driver = self._driver_of[device_id]
        readable = [polled.point.name for polled in driver.points(device_id)]
        unknown = [point for point in wanted if point not in readable]
        if unknown:
            raise AskedWrongError(f"{device_id} has no {', '.join(unknown)}; it has {', '.join(readable)}")
        points = [point for point in readable if not wanted or point in wanted]
        sample = await driver.read(device_id, points)
        self._sample_came(sample)
        self._outbox.add(device.stream, sample)  # what the hardware gave is taken, whoever asked for it
        return [self._value(device, sample, position) for position in range(len(points))]

    async def _answer_of_priority(
        self, request: answers.PriorityShow | answers.PriorityWant
    ) -> answers.PriorityAnswer | PriorityEvent:
        if isinstance(request, answers.PriorityShow):
            return self._priority.answer(self._positions.figures() if self._positions else None)
        try:
            return await self._priority.want(request.approach, request.who, shadow=request.shadow)
        except RefusedError as error:
            raise AskedWrongError(str(error)) from error

    def _discover(self, line: LineId, among: tuple[int, ...] | None) -> AsyncIterator[answers.Sight]:
        driver = self._drivers.get(line)
        if driver is None:
            raise AskedWrongError(f"this cabinet has no line {line!r}; it has {', '.join(self._drivers)}")
        health = driver.health()
        if health.state is LineState.DOWN:
            raise AskedWrongError(f"{line} is down: {health.reason}")
        return _sights(driver, among)

    async def _join(self, request: answers.Join) -> answers.JoinAnswer:
        driver = self._driver_of.get(request.device)
        if driver is None:
            raise AskedWrongError(_no_device(request.device))
        if not isinstance(driver, RadioDriver):
            raise AskedWrongError(
                f"{request.device} is on {driver.line}, which is no radio line: it needs no key"
            )
        if request.key is not None:
            await driver.admit(request.device, request.key, request.join_eui)
            log.info("radio_key_taken", device=request.device)
        return answers.JoinAnswer(request.device, *driver.admission(request.device))

    async def _buffer(self, limit: int) -> answers.BufferAnswer:
        oldest = await self._outbox.ask(lambda store: store.oldest(limit))
        return answers.BufferAnswer(await self._outbox.figures(), oldest)

    async def _policy(self) -> answers.PolicyAnswer:
        stored = await asyncio.to_thread(self._state.policies)
        return answers.PolicyAnswer(
            in_force=await asyncio.to_thread(self._state.in_force),
            bodies={kind.value: one.signed.body.decode() for kind, one in stored.items()},
            rejected=self._policies.rejected,
        )


async def _sights(driver: Driver, among: tuple[int, ...] | None) -> AsyncIterator[answers.Sight]:
    async for sight in driver.discover(among):
        match sight:
            case Found():
                yield answers.Sight(found=sight)
            case Looked(done=done, total=total):
                yield answers.Sight(done=done, total=total)


def _no_device(device: DeviceId) -> str:
    return f"this cabinet has no device {device!r}; see `luciole-edge devices`"


async def run_agent(settings: Settings) -> None:
    """Run the agent until SIGTERM or SIGINT.

    Raises:
        AlreadyRunsError: if another agent holds the cabinet's directory.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with only_agent(settings.directory):
        await Agent(settings).run(stop)


async def _until(stop: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for `stop`, or for a task to break, and then raise what broke it.

    A task may end by itself: a line without devices has nothing to poll.
    """
    stopping = asyncio.create_task(stop.wait())
    waiting: set[asyncio.Task[Any]] = {stopping, *tasks}
    try:
        while not stopping.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
    finally:
        stopping.cancel()


def _begin(work: Iterable[Coroutine[None, None, None]]) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(one) for one in work]


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
