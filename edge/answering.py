"""What the agent answers to its command line, from the parts that know."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from importlib.metadata import version

import msgspec
import structlog

from drivers.base import Driver, Found, LineState, Looked, RadioDriver
from edge import answers
from edge.alarms import Alarms
from edge.backhaul import Backhaul
from edge.clock import AgentClock
from edge.commands import Commands
from edge.config import Settings
from edge.control import AskedWrongError, NotDoneError
from edge.lighting import LEVEL, LampState, Lighting
from edge.outbox.outbox import Outbox
from edge.policies import Policies
from edge.poller import Poller
from edge.positions import LocalFigures, PositionPort
from edge.priority import Priority
from edge.state import CommandRecord, State
from protocols.backhaul.messages import LastEnd, PriorityEvent, SignedPolicy
from protocols.errors import LocalProtocolError
from protocols.model.command import Command
from protocols.model.device import Device
from protocols.model.ids import DeviceId, KeyId, LineId
from protocols.model.reading import Quality, Sample
from protocols.rules.priority.generator import RefusedError

log = structlog.get_logger()

AGENT_VERSION = version("luciole")


class Parts(msgspec.Struct, frozen=True):
    """Who is asked.

    Attributes:
        settings: the cabinet's.
        boot: which boot of the machine this is.
        started_monotonic_ms: when the agent began.
        last_end: how its run before this one ended.
        latest: the last sample of each point of each device.
        sample_came: to be told of a sample that somebody has asked for.
    """

    settings: Settings
    boot: str
    started_monotonic_ms: int
    last_end: LastEnd
    clock: AgentClock
    state: State
    outbox: Outbox
    drivers: Mapping[LineId, Driver]
    devices: Mapping[DeviceId, Device]
    driver_of: Mapping[DeviceId, Driver]
    alarms: Alarms
    lighting: Lighting
    commands: Commands
    policies: Policies
    priority: Priority
    positions: PositionPort | None
    backhaul: Backhaul
    pollers: Sequence[Poller]
    latest: Mapping[DeviceId, Mapping[str, Sample]]
    sample_came: Callable[[Sample], None]


class Answering:
    """Answers what comes over the local socket."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def answer(self, request: answers.Request) -> object:  # noqa: C901, PLR0911, PLR0912  one branch a question
        """Answer one question.

        Raises:
            AskedWrongError: if it cannot be answered at any time; the text says why.
            NotDoneError: if it is sound, and what it asks for is not done; the text says why.
        """
        match request:
            case answers.Status():
                return await self._status()
            case answers.Devices():
                return [self._device(device) for device in self._parts.devices.values()]
            case answers.Read(device=device, points=points):
                return await self._read(device, points)
            case answers.Set():
                clock = self._parts.clock
                return await self._set(by_our_clock(request, clock.now().utc_ms, clock.civil().utc_ms))
            case answers.Commands(id=command_id):
                return await self._parts.commands.look_up(command_id)
            case answers.Buffer(limit=limit):
                return await self._buffer(limit)
            case answers.PolicyShow():
                return await self._policy()
            case answers.PolicyApply(body=body, key=key, signature=signature):
                signed = SignedPolicy(body.encode(), KeyId(key), signature)
                reasons = await self._parts.policies.receive(signed)
                if reasons:
                    raise NotDoneError("rejected: " + "; ".join(reasons))
                return await self._policy()
            case answers.PriorityShow() | answers.PriorityWant():
                return await self._answer_of_priority(request)
            case answers.Discover(line=line, among=among):
                return self._discover(line, among)
            case answers.Join():
                return await self._join(request)
            case answers.Watch(device=device):
                if device is not None and device not in self._parts.devices:
                    raise AskedWrongError(_no_device(device))
                return None

    async def _status(self) -> answers.StatusAnswer:
        lamps = self._parts.lighting.lamps.values()
        now = self._parts.clock.now()
        return answers.StatusAnswer(
            cabinet=self._parts.settings.cabinet,
            agent_version=AGENT_VERSION,
            boot=self._parts.boot,
            pid=os.getpid(),
            started_ms=now.utc_ms - now.monotonic_ms + self._parts.started_monotonic_ms,
            now=now,
            civil=self._parts.clock.civil(),
            lines=tuple(driver.health() for driver in self._parts.drivers.values()),
            backhaul=self._parts.backhaul.figures(),
            outbox=await self._parts.outbox.figures(),
            policies=await asyncio.to_thread(self._parts.state.in_force),
            rejected=self._parts.policies.rejected,
            alarms=tuple(self._parts.alarms.active.values()),
            lamps=len(lamps),
            lamps_settled=sum(1 for lamp in lamps if self._is_at_level(lamp)),
            overrides=self._parts.lighting.in_force(),
            reasserted=self._parts.lighting.reasserted,
            read=sum(poller.read for poller in self._parts.pollers),
            skipped=sum(poller.skipped for poller in self._parts.pollers),
            last_end=self._parts.last_end.value,
            sqlite_version=sqlite3.sqlite_version,
            priority=self._parts.priority.figures(),
            local=self._local(),
            known_ms=self._parts.clock.known_ms(),
            clock_steps=self._parts.clock.known.steps,
            clock_moved=self._parts.clock.known.last,
        )

    def _local(self) -> LocalFigures | None:
        return self._parts.positions.figures() if self._parts.positions else None

    def _is_at_level(self, lamp: LampState) -> bool:
        """Tell whether a lamp is known to be where it was decided: confirmed, and answering since."""
        sample = self._parts.latest.get(lamp.lamp.id, {}).get(LEVEL)
        answers_now = sample is not None and sample.fault(sample.points.index(LEVEL)) is None
        return lamp.decision is not None and lamp.settled and answers_now

    def _device(self, device: Device) -> answers.DeviceAnswer:
        lamp = self._parts.lighting.lamps.get(device.id)
        latest = self._parts.latest.get(device.id, {})
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
            age_s=(self._parts.clock.now().monotonic_ms - sample.monotonic_ms) / 1000,
        )

    async def _set(self, command: Command) -> CommandRecord:
        """Carry a command out; what is about nothing that is here is no command, and not on record."""
        device = self._parts.devices.get(command.device)
        if device is None:
            raise AskedWrongError(_no_device(command.device))
        points = [point.name for point in device.points]
        if command.point not in points:
            raise AskedWrongError(f"{device.id} has no {command.point}; it has {', '.join(points)}")
        return await self._parts.commands.outcome(command)

    async def _read(self, device_id: DeviceId, wanted: tuple[str, ...]) -> list[answers.LatestValue]:
        device = self._parts.devices.get(device_id)
        if device is None:
            raise AskedWrongError(_no_device(device_id))
        driver = self._parts.driver_of[device_id]
        readable = [polled.point.name for polled in driver.points(device_id)]
        unknown = [point for point in wanted if point not in readable]
        if unknown:
            raise AskedWrongError(f"{device_id} has no {', '.join(unknown)}; it has {', '.join(readable)}")
        points = [point for point in readable if not wanted or point in wanted]
        sample = await driver.read(device_id, points)
        if self._is_new(sample):  # what the hardware gave is taken, whoever asked for it, and once
            self._parts.sample_came(sample)
            self._parts.outbox.add(device.stream, sample)
        return [self._value(device, sample, position) for position in range(len(points))]

    def _is_new(self, sample: Sample) -> bool:
        """Tell whether a sample is not what its device has said by itself before."""
        latest = self._parts.latest.get(sample.device, {})
        return any(
            point not in latest or latest[point].monotonic_ms < sample.monotonic_ms for point in sample.points
        )

    async def _answer_of_priority(
        self, request: answers.PriorityShow | answers.PriorityWant
    ) -> answers.PriorityAnswer | PriorityEvent:
        if isinstance(request, answers.PriorityShow):
            return self._parts.priority.answer(self._local())
        try:
            return await self._parts.priority.want(request.approach, request.who, shadow=request.shadow)
        except RefusedError as error:
            if error.event is None:
                raise AskedWrongError(str(error)) from error
            raise NotDoneError(str(error)) from error
        except LocalProtocolError as error:  # the question was right; what was to come of it has not
            raise NotDoneError(str(error)) from error

    def _discover(self, line: LineId, among: tuple[int, ...] | None) -> AsyncIterator[answers.Sight]:
        driver = self._parts.drivers.get(line)
        if driver is None:
            raise AskedWrongError(
                f"this cabinet has no line {line!r}; it has {', '.join(self._parts.drivers)}"
            )
        health = driver.health()
        if health.state is LineState.DOWN:
            raise NotDoneError(f"{line} is down: {health.reason}")
        return _sights(driver, among)

    async def _join(self, request: answers.Join) -> answers.JoinAnswer:
        driver = self._parts.driver_of.get(request.device)
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
        oldest = await self._parts.outbox.ask(lambda store: store.oldest(limit))
        return answers.BufferAnswer(await self._parts.outbox.figures(), oldest)

    async def _policy(self) -> answers.PolicyAnswer:
        stored = await asyncio.to_thread(self._parts.state.policies)
        return answers.PolicyAnswer(
            in_force=await asyncio.to_thread(self._parts.state.in_force),
            bodies={kind.value: one.signed.body.decode() for kind, one in stored.items()},
            rejected=self._parts.policies.rejected,
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


def by_our_clock(request: answers.Set, now_ms: int, civil_ms: int) -> Command:
    """Return a command by the agent's clock: the machine's may stand in 1970, and the agent know better.

    Args:
        request: what is wanted, and by which time.
        now_ms: UTC milliseconds by the agent's clock.
        civil_ms: civil UTC milliseconds, the same.
    """
    command = request.command
    later_ms = 0 if request.asked_ms is None else now_ms - request.asked_ms
    ends_later_ms = 0 if request.asked_civil_ms is None else civil_ms - request.asked_civil_ms
    return msgspec.structs.replace(
        command,
        expires_ms=command.expires_ms + later_ms,
        until_ms=None if command.until_ms is None else command.until_ms + ends_later_ms,
    )
