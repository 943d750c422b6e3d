"""Carries out what somebody wants, once, in time, within the limits, and says what became of it.

`executing` is on disk before anything is written to a device. After a crash in between the value is read
back: as wanted means verified, anything else that the outcome is unknown. Nothing is ever written twice.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Mapping
from functools import partial

import msgspec
import structlog

from drivers.base import Driver, RadioDriver, Written
from edge.background import Background
from edge.lighting import LEVEL, Lighting
from edge.state import CommandRecord, State
from protocols.backhaul.messages import CommandEvent, Event
from protocols.clock import Clock
from protocols.errors import LocalProtocolError
from protocols.model.command import Command, CommandState
from protocols.model.device import Device
from protocols.model.ids import CommandId, DeviceId
from protocols.model.lighting import Lamp, Override
from protocols.model.policy import Limits
from protocols.model.reading import Value
from protocols.rules.limits import level_faults

log = structlog.get_logger()

LOOK_AT_CLOCK_S = 10.0
"""How often a command that must wait looks at the clock again."""
ANSWER_S = 100.0
"""How long whoever asks here is kept waiting for the outcome: a ramp of 90 s ends within it."""
RADIO_ANSWER_S = 1.0
"""The same for a device that speaks when it likes: as long as it takes to see why nothing can be sent at all."""
RETRY_S = 1.0
"""How soon what the disk refused is written again."""
CLOSE_S = 3.0
"""How long the end of what waited for a radio device may take to be written down."""
MAX_WAITING = 512
"""Commands that may wait or be under way at a time; more are rejected, and the centre sends them again."""


class Street(msgspec.Struct, frozen=True):
    """What commands can be about.

    Attributes:
        devices: the cabinet's devices.
        drivers: each device's line.
        lamps: those of them that are lamps.
        limits: the limits file.
    """

    devices: Mapping[DeviceId, Device]
    drivers: Mapping[DeviceId, Driver]
    lamps: Mapping[DeviceId, Lamp]
    limits: Limits


def objection(street: Street, command: Command) -> str:
    """Return why a command cannot be carried out by this cabinet, whatever the time; "" if it can."""
    device = street.devices.get(command.device)
    if device is None:
        return f"this cabinet has no device {command.device!r}"
    point = next((point for point in device.points if point.name == command.point), None)
    if point is None:
        return f"{command.device} has no point {command.point!r}"
    if not point.writable:
        why = _unwritable(street.drivers[command.device], command)
        return f"{command.point} of {command.device} can only be read{why}"
    lamp = street.lamps.get(command.device)
    if lamp is None or command.point != LEVEL:
        if command.value is None or command.until_ms is not None:
            return f"{command.point} of {command.device} has no program to return to"
        return ""
    return _level_objection(street, lamp, command.value)


def _unwritable(driver: Driver, command: Command) -> str:
    """Return what stands in the way of writing a point that its device could have written; "" if nothing does."""
    polled = driver.points(command.device)  # a lamp has more points than these: what is decided for it
    why = next((one.unwritable for one in polled if one.point.name == command.point), "")
    return f": {why}" if why else ""


def _level_objection(street: Street, lamp: Lamp, value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | str) or not 0 <= value <= 100 or value != int(value):
        return f"a level is a whole number of percent, 0 to 100, not {value!r}"
    return "; ".join(level_faults(street.limits, lamp, value))


class Commands:
    """The cabinet's commands.

    Attributes:
        known_ms: the time that expiries go by.
    """

    def __init__(
        self, street: Street, state: State, clock: Clock, lighting: Lighting, report: Callable[[Event], None]
    ) -> None:
        self.known_ms: Callable[[], int] = lambda: clock.now().utc_ms
        self._street = street
        self._state = state
        self._clock = clock
        self._lighting = lighting
        self._report = report
        self._background = Background()
        self._under_way: dict[str, asyncio.Task[CommandRecord]] = {}
        self._on_radio: set[asyncio.Task[object]] = set()
        self._disk_fault = ""
        self._lock = asyncio.Lock()

    async def recover(self) -> None:
        """Take up what an earlier run left: queued commands go on, begun ones are read back."""
        for record in await asyncio.to_thread(self._state.open_commands):
            if record.state is CommandState.EXECUTING:
                self._begin(record.command.id, self._read_back(record))
            else:
                self._begin(record.command.id, self._carry_out(record))

    def hear(self, command: Command) -> None:
        """Take a command of the centre; one too many is passed over, for it comes again until it is answered."""
        self._background.begin(partial(self._hear, command), "command heard", MAX_WAITING)

    async def _hear(self, command: Command) -> None:
        try:
            await self.receive(command)
        except sqlite3.Error as error:
            self._note_disk(str(error))
        else:
            self._note_disk("")

    async def receive(self, command: Command) -> CommandRecord:
        """Take a command, or recognise one that was here before; return where it is now.

        Raises:
            sqlite3.Error: if the disk refuses it; then it was not taken.
        """
        async with self._lock:  # a command and its repetition may come in one breath
            return await self._receive(command)

    async def _receive(self, command: Command) -> CommandRecord:
        known = await asyncio.to_thread(self._state.command, command.id)
        if known is not None:
            self._tell(known)
            return known
        full = len(self._under_way) >= MAX_WAITING or await asyncio.to_thread(self._state.is_full)
        if full:
            return CommandRecord(command, CommandState.QUEUED, "too much to do", None, self._now_ms())
        state, reason = self._judge(command)
        record = await asyncio.to_thread(self._state.add_command, command, state, reason, self._now_ms())
        self._tell(record)
        if state is CommandState.QUEUED:
            self._begin(command.id, self._carry_out(record))
        return record

    async def close(self) -> None:
        """Leave what is under way; it is taken up again at the next start.

        What waits for a radio device ends with its line, which is gone by now; how, is written down.
        """
        if self._on_radio:
            await asyncio.wait(self._on_radio, timeout=CLOSE_S)
        await self._background.close()

    async def outcome(self, command: Command, patience_s: float | None = None) -> CommandRecord:
        """Take a command and wait until it has ended, or return where it is when patience is over.

        Args:
            command: what somebody wants.
            patience_s: how long to wait; None for as long as its device deserves.
        """
        record = await self.receive(command)
        task = self._under_way.get(command.id)
        if task is None:
            return record
        if patience_s is None:
            radio = isinstance(self._street.drivers.get(command.device), RadioDriver)
            patience_s = RADIO_ANSWER_S if radio else ANSWER_S
        await asyncio.wait([task], timeout=patience_s)
        if task.done() and not task.cancelled():
            return await task
        return await asyncio.to_thread(self._state.command, command.id) or record

    async def look_up(self, command_id: CommandId | None) -> list[CommandRecord]:
        """Return one command, if it was ever here, or all that have not ended."""
        if command_id is None:
            return await asyncio.to_thread(self._state.open_commands)
        found = await asyncio.to_thread(self._state.command, command_id)
        return [] if found is None else [found]

    def _judge(self, command: Command) -> tuple[CommandState, str]:
        reason = objection(self._street, command)
        if reason:
            return CommandState.REJECTED, reason
        if max(self.known_ms(), command.not_before_ms) > command.expires_ms:
            return CommandState.EXPIRED, "it came too late, or must not begin before it is"
        if command.until_ms is not None and self._clock.civil().utc_ms >= command.until_ms:
            return CommandState.EXPIRED, "the override would be over already"
        return CommandState.QUEUED, ""

    def _begin(self, command_id: str, work: Coroutine[object, object, CommandRecord]) -> None:
        task = self._background.spawn(work, f"command {command_id}")
        self._under_way[command_id] = task
        task.add_done_callback(lambda _: self._under_way.pop(command_id, None))

    async def _carry_out(self, record: CommandRecord) -> CommandRecord:
        command = record.command
        begun: CommandRecord | None = None
        while begun is None:
            await self._until_its_time(command)
            state, reason = self._judge(command)
            if state is not CommandState.QUEUED:
                return await self._advance(record, state, reason, None)
            begun = await self._begun(record)
        self._tell(begun)
        if self._is_level(command):
            written = await self._lighting.override(command.device, _override(command))
        else:
            written = await self._write(command)
        return await self._advance(begun, written.state, written.reason, written.value)

    async def _until_its_time(self, command: Command) -> None:
        while (wait_ms := command.not_before_ms - self._now_ms()) > 0:  # noqa: ASYNC110  a clock tells nobody when it is set
            await asyncio.sleep(min(wait_ms / 1000, LOOK_AT_CLOCK_S))

    async def _begun(self, record: CommandRecord) -> CommandRecord | None:
        """Record that it is being carried out; None, a while later, if the disk refuses: it may expire meanwhile."""
        command = record.command
        if self._is_level(command):
            begin = partial(self._state.begin_override, record, _override(command), self._now_ms())
        else:
            waits_for = self._what_it_waits_for(command)
            begin = partial(
                self._state.advance_command, record, CommandState.EXECUTING, waits_for, None, self._now_ms()
            )
        return await self._written_down(begin)

    async def _written_down(self, write: Callable[[], CommandRecord]) -> CommandRecord | None:
        """Write something down; None, a while later, if the disk refuses."""
        try:
            record = await asyncio.to_thread(write)
        except sqlite3.Error as error:
            self._note_disk(str(error))
            await asyncio.sleep(RETRY_S)
            return None
        self._note_disk("")
        return record

    def _note_disk(self, fault: str) -> None:
        if fault and fault != self._disk_fault:
            log.error("command_not_written_down", error=fault)
        self._disk_fault = fault

    def _is_level(self, command: Command) -> bool:
        return command.device in self._street.lamps and command.point == LEVEL

    async def _write(self, command: Command) -> Written:
        driver = self._street.drivers[command.device]
        try:
            if isinstance(driver, RadioDriver):
                return await self._write_by_radio(driver, command)
            return await driver.write(command.device, command.point, command.value, ramp_s=command.ramp_s)
        except LocalProtocolError as error:
            return Written(CommandState.FAILED, None, str(error))

    async def _write_by_radio(self, driver: RadioDriver, command: Command) -> Written:
        """Write once the device speaks, which must be before the command expires."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  this runs in one
        self._on_radio.add(task)
        task.add_done_callback(self._on_radio.discard)
        left_s = max(command.expires_ms - self.known_ms(), 0) / 1000
        return await driver.write(
            command.device, command.point, command.value, ramp_s=command.ramp_s, begin_within_s=left_s
        )

    def _what_it_waits_for(self, command: Command) -> str:
        radio = isinstance(self._street.drivers[command.device], RadioDriver)
        return f"it is sent when {command.device} speaks, unless it expires before" if radio else ""

    async def _read_back(self, record: CommandRecord) -> CommandRecord:
        """Find out what became of a command that was begun before a crash; never do it again."""
        command = record.command
        if objection(self._street, command):
            why = "the agent ended while it was under way, and the device is gone"
            return await self._advance(record, CommandState.OUTCOME_UNKNOWN, why, None)
        if self._is_level(command):
            ruling = "program" if command.value is None else "override"
            why = f"the agent ended while it was under way; the {ruling} is in force again"
            return await self._advance(record, CommandState.APPLIED, why, None)
        sample = await self._street.drivers[command.device].read(command.device, (command.point,))
        value = sample.values[0]
        if sample.fault(0) is None and value == command.value:
            return await self._advance(record, CommandState.VERIFIED, "", value)
        fault = sample.fault(0)
        found = "is not as wanted" if fault is None else f"cannot be read: {fault.reason.value}"
        why = f"the agent ended while it was under way, and the value {found}"
        return await self._advance(record, CommandState.OUTCOME_UNKNOWN, why, value)

    async def _advance(
        self, record: CommandRecord, state: CommandState, reason: str, value: Value
    ) -> CommandRecord:
        """Write down where a command is, however long the disk takes, and only then tell it."""
        write = partial(self._state.advance_command, record, state, reason, value, self._now_ms())
        while (advanced := await self._written_down(write)) is None:
            pass
        self._tell(advanced)
        return advanced

    def _tell(self, record: CommandRecord) -> None:
        command = record.command
        log.info(
            "command", id=command.id, device=command.device, state=record.state.value, reason=record.reason
        )
        self._report(
            CommandEvent(
                id=command.id,
                state=record.state,
                reason=record.reason,
                at_ms=record.at_ms,
                device=command.device,
                point=command.point,
                value=command.value,
                issuer=command.issuer,
                until_ms=command.until_ms,
            )
        )

    def _now_ms(self) -> int:
        return self._clock.now().utc_ms


def _override(command: Command) -> Override | None:
    if command.value is None:
        return None
    return Override(int(command.value), command.until_ms, command.ramp_s, command.issuer)
