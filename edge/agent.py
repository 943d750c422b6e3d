"""The cabinet agent: who is wired to whom, and how it starts and ends."""

import asyncio
import signal
import sqlite3
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from drivers.base import Driver, RadioDriver, SignalDriver
from drivers.registry import open_line
from edge.alarm_store import AlarmStore
from edge.alarms import Alarms
from edge.answering import AGENT_VERSION, Answering, Parts
from edge.background import Background
from edge.backhaul import Backhaul, Identity
from edge.ballast import Ballast
from edge.clock import AgentClock, SystemClock
from edge.commands import Commands, Street
from edge.config import Settings
from edge.control import ControlServer
from edge.known_time import KnownTime
from edge.lighting import DECIDED_POINTS, LampState, Lighting
from edge.lock import only_agent
from edge.mqtt import MqttLink, Will
from edge.outbox.outbox import Outbox
from edge.outbox.store import OutboxStore
from edge.policies import Policies
from edge.poller import Poller, Watched
from edge.positions import PositionPort
from edge.present import Present
from edge.priority import Junctions, Priority
from edge.state import State
from edge.timekeeping import Timekeeping
from protocols.backhaul.messages import (
    VERSION,
    AlarmEvent,
    ClockEvent,
    CommandMessage,
    Hello,
    SignedPolicy,
    StartEvent,
)
from protocols.backhaul.topics import Up, up
from protocols.clock import Clock, ClockQuality, Correction
from protocols.model.alarm import Alarm, AlarmType
from protocols.model.device import Device, Kind, StreamClass
from protocols.model.ids import DeviceId, KeyId, LineId, PointName
from protocols.model.lighting import Override
from protocols.model.policy import Policy, PolicyKind
from protocols.model.reading import Sample
from protocols.rules.acceptance import Standing

log = structlog.get_logger()

LOOK_AT_LINES_S = 1.0
FINISH_S = 3.0
"""How long a stopping agent waits for the reads that are under way."""
MAX_POLICIES_COMING = 8
"""Policies that may be under way at a time, from a centre or somebody who sends them without end."""
RESTART_S = 5.0
"""How soon a line's task that broke is begun again: one bad line harms no other."""


def boot_id() -> str:
    """Return which boot of the machine this is: what its monotonic clock belongs to."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").replace("-", "")[:12]


class Agent:
    """Everything that runs in a cabinet."""

    def __init__(self, settings: Settings, machine: Clock | None = None) -> None:
        """Make all the parts; `run` lets them work.

        Args:
            settings: the cabinet's.
            machine: the machine's clock; the system's if None.
        """
        document = settings.document
        self._settings = settings
        self._boot = boot_id()
        self._background = Background()
        ballast = Ballast(settings.directory)
        ballast.look()  # on a full disk SQLite could not even open what is there
        self._state = State.open(settings.directory / "state.db")
        self._clock = self._make_clock(machine or SystemClock())
        self._timekeeping = Timekeeping(self._clock, self._state.store_clock)
        self._timekeeping.on_event = self._clock_moved
        clock_at_start = self._clock.look()
        self._started = self._clock.now()
        self._store = OutboxStore(
            settings.directory / "outbox.db",
            settings.cabinet,
            self._boot,
            self._clock,
            document.outbox,
            ballast,
        )
        self._store.good_ms = self._clock.good_ms
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
        self._alarm_store = AlarmStore(self._store_alarms)
        if clock_at_start is not None:
            self._timekeeping.tell(clock_at_start)
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
        self._commands.known_ms = self._clock.known_ms
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
        self._policies.known_ms = self._clock.known_ms
        self._policies.on_signed_time = self._clock.learn
        self._link, self._backhaul = self._make_backhaul()
        self._begin_priority()
        local = document.local_positions
        self._positions = (
            None if local is None else PositionPort(local, settings.file.parent, self._priority.saw)
        )
        self._pollers = [self._make_poller(driver) for driver in self._drivers.values()]
        self._control = ControlServer(settings.socket, Answering(self._parts()).answer)
        self._control.on_watch = self._outbox.hurry

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set, then commit what was taken, drain, say goodbye and end."""
        self._outbox.add_event(
            StartEvent(self._boot, AGENT_VERSION, self._store.last_end, self._started.utc_ms)
        )
        self._alarms_changed(
            self._alarms.forget_others(
                {DeviceId(self._settings.cabinet), *map(DeviceId, self._drivers), *self._devices},
                self._started.utc_ms,
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
                self._timekeeping.run(),
                self._timekeeping.keep_on(),
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
        try:
            await self._outbox.figures()  # its answer comes after every commit before it has been told
        except sqlite3.Error:  # damaged: nothing can be let go any more, and the next start salvages it
            drained = False
        else:
            drained = await self._backhaul.drained(self._settings.document.outbox.drain_s)
        self._backhaul.goodbye()
        await self._link.leave()
        await _cancel(backhaul)
        await self._outbox.close()
        await self._timekeeping.keep()
        self._state.close()
        log.info("agent_ended", drained=drained)

    # Making the parts

    def _make_clock(self, machine: Clock) -> AgentClock:
        known = KnownTime(self._boot, machine.now(), self._state.clock(), self._state.floor_ms())
        return AgentClock(machine, known, self._settings.document.bench_clock)

    def _parts(self) -> Parts:
        return Parts(
            settings=self._settings,
            boot=self._boot,
            started_monotonic_ms=self._started.monotonic_ms,
            last_end=self._store.last_end,
            clock=self._clock,
            state=self._state,
            outbox=self._outbox,
            drivers=self._drivers,
            devices=self._devices,
            driver_of=self._driver_of,
            alarms=self._alarms,
            lighting=self._lighting,
            commands=self._commands,
            policies=self._policies,
            priority=self._priority,
            positions=self._positions,
            backhaul=self._backhaul,
            pollers=self._pollers,
            latest=self._latest,
            sample_came=self._sample_came,
        )

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
        priority.known_ms = self._clock.known_ms
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
        link.doubted_ms = self._clock.doubted_ms
        backhaul = Backhaul(identity, self._clock, link, self._outbox, backhaul_settings.silence_s)
        link.will = Will(will.topic, backhaul.presence(online=False))
        backhaul.make_hello = self._hello
        backhaul.present = Present(settings.cabinet, self._boot, self._clock, self._latest)
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
        self._alarm_store.add(changed)
        self._background.spawn(self._alarm_store.write(), "store alarms")

    def _store_alarms(self, changed: list[Alarm]) -> None:
        """Store alarms with the time by which they are told (in a thread)."""
        self._state.store_alarms(changed, self._clock.record())

    def _clock_moved(self, event: ClockEvent) -> None:
        """Tell the centre, and put right what is kept here, as the centre does."""
        self._outbox.add_event(event)
        correction = event.correction()
        if correction is not None:
            self._alarm_store.add(self._alarms.correct(correction))
        self._background.spawn(self._follow_clock(correction), "follow the clock")

    async def _follow_clock(self, correction: Correction | None) -> None:
        if correction is not None:
            await self._outbox.ask(lambda store: store.correct(correction))
        await self._outbox.figures()  # its answer comes after the commit of what was told of the clock
        self._clock.known.confirm()
        await self._alarm_store.write()
        await self._timekeeping.keep()

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
        # one that is passed over comes again with the next hello
        self._background.begin(partial(self._policies.receive, signed), "policy", MAX_POLICIES_COMING)

    def _command_came(self, message: CommandMessage) -> None:
        self._commands.hear(message.command)

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
            if self._alarm_store.is_refused:
                await self._alarm_store.write()
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
