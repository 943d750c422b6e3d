"""Lamps on a DALI line behind a LUBA interface."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, NoReturn, TypeVar

from drivers.base import Found, PolledPoint, Priority, Written
from drivers.errors import (
    CollisionError,
    DriverError,
    GarbledError,
    LineDownError,
    LineLostError,
    NoAnswerError,
)
from drivers.line import LineDriver, Work
from drivers.luba_port import LubaPort
from drivers.settings import DaliLuba, DeviceSettings
from protocols.clock import Clock
from protocols.dali import dialogue
from protocols.dali.dialogue import Answer, Dialogue, GearStatus, Missing, ReadBack
from protocols.dali.levels import FADE_TIMES_S, MASK, fade_code, level_of, percent_of
from protocols.errors import LocalProtocolError
from protocols.model.command import CommandState
from protocols.model.device import Kind, Point, Report
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Fault, Quality, Reason, Sample, Value, sample

POLL_S: Final = 30.0
DIMMING_LEVEL: Final = PointName("dimming_level")
_BITS: Final[Mapping[PointName, GearStatus]] = {
    PointName("lamp_failure"): GearStatus.LAMP_FAILURE,
    PointName("control_gear_failure"): GearStatus.GEAR_FAILURE,
    PointName("lamp_on"): GearStatus.LAMP_ON,
    PointName("power_cycle_seen"): GearStatus.POWER_CYCLE_SEEN,
}
POINTS: Final = (
    Point(DIMMING_LEVEL, unit="%", writable=True, minimum=0, maximum=100),
    *(Point(name) for name in _BITS),
)
_BUS_PRIORITY: Final[Mapping[Priority, int]] = {
    Priority.COMMAND: dialogue.USER,
    Priority.PRESENCE: dialogue.AUTOMATIC,
    Priority.POLL: dialogue.POLLING,
}
_REASON: Final[Mapping[Missing, Reason]] = {
    Missing.SILENCE: Reason.NO_ANSWER,
    Missing.COLLISION: Reason.COLLISION,
    Missing.GARBLED: Reason.GARBLED,
}
_FADE_TOLERANCE: Final = 1.1
"""A fade may take a tenth longer than its nominal time (IEC 62386-102, fade time tolerances)."""
_FADE_MARGIN_S: Final = 0.05

T = TypeVar("T")


class _Lamp:
    """What we know of one lamp.

    Attributes:
        id: the device.
        address: its short address.
        points: how it is watched.
        fade: the fade time code that its gear has for certain.
        orders: how many levels were asked of it.
    """

    def __init__(self, settings: DeviceSettings) -> None:
        self.id = settings.id
        self.address = settings.number
        self.points = tuple(_polled(point, settings) for point in POINTS)
        self.fade: int | None = None
        self.orders = 0


def _polled(point: Point, settings: DeviceSettings) -> PolledPoint:
    return PolledPoint(
        point=point,
        poll_s=settings.poll_s or POLL_S,
        report=settings.report or Report.CHANGE,
        dead_band=settings.dead_band or 0.0,
        heartbeat_s=settings.heartbeat_s or 900.0,
    )


def open_dali(settings: DaliLuba, devices: Sequence[DeviceSettings], clock: Clock) -> "DaliDriver":
    """Make the driver of a DALI line."""
    return DaliDriver(settings, devices, clock)


class DaliDriver(LineDriver):
    """One DALI line."""

    def __init__(self, settings: DaliLuba, devices: Sequence[DeviceSettings], clock: Clock) -> None:
        super().__init__(settings, clock)
        self._settings = settings
        self._lamps = {device.id: _Lamp(device) for device in devices}
        self._port: LubaPort | None = None

    def points(self, device: DeviceId) -> tuple[PolledPoint, ...]:
        """Return what can be read of a lamp."""
        return self._lamp(device).points

    def _lamp(self, device: DeviceId) -> _Lamp:
        lamp = self._lamps.get(device)
        if lamp is None:
            raise LocalProtocolError(f"{device} is not on {self.line}")
        return lamp

    # --- up and down ---

    async def _connect(self) -> None:
        for lamp in self._lamps.values():
            lamp.fade = None  # somebody else may have been at the gear meanwhile
        self._port = LubaPort(self._settings, self._line_lost)
        await self._port.open()

    def _disconnect(self) -> None:
        if self._port is not None:
            self._port.close()
            self._late_bytes += self._port.late_bytes
            self._port = None

    def _late(self) -> int:
        return self._late_bytes + (self._port.late_bytes if self._port else 0)

    # --- looking ---

    def _places(self) -> Sequence[int]:
        return range(64)

    def _prober(self, address: int) -> Work[Found | None]:
        return partial(self._probe, address)

    async def _probe(self, address: int) -> Found | None:
        status = await self._hold(dialogue.read_status(address, dialogue.POLLING))
        if status is Missing.SILENCE:
            return None
        known = next((lamp.id for lamp in self._lamps.values() if lamp.address == address), None)
        if isinstance(status, Missing):
            return Found(str(address), None, "several answer at once, or noise does", known)
        said = [bit.name.lower().replace("_", " ") for bit in GearStatus if bit in status and bit.name]
        return Found(str(address), Kind.LAMP, ", ".join(said) or "control gear, its lamp off", known)

    # --- dialogues ---

    async def _hold(self, talk: Dialogue[T]) -> T:
        """Hold a dialogue to its end."""
        if self._port is None:
            raise LineDownError("the port is closed")
        answer: Answer | None = None
        while True:
            try:
                transmit = next(talk) if answer is None else talk.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = await self._port.exchange(transmit)

    # --- reading ---

    def _reader(self, device: DeviceId, points: tuple[PointName, ...], priority: Priority) -> Work[Sample]:
        lamp = self._lamp(device)
        unknown = [name for name in points if name != DIMMING_LEVEL and name not in _BITS]
        if unknown or not points:
            raise LocalProtocolError(
                f"{device} has no point {', '.join(unknown)}" if unknown else "no point asked"
            )
        return partial(self._read_lamp, lamp, points, _BUS_PRIORITY[priority])

    async def _read_lamp(self, lamp: _Lamp, points: tuple[PointName, ...], priority: int) -> Sample:
        """Ask for the level, the status or both; one status serves all points that are bits of it."""
        level: Answer = Missing.SILENCE
        status: GearStatus | Missing = Missing.SILENCE
        if DIMMING_LEVEL in points:
            level = _heard(await self._hold(dialogue.read_level(lamp.address, priority)), lamp)
        if points != (DIMMING_LEVEL,):
            status = await self._hold(dialogue.read_status(lamp.address, priority))
        if isinstance(level, Missing) and isinstance(status, Missing):
            _raise_missing(level if DIMMING_LEVEL in points else status, lamp)
        values = [_level(level) if name == DIMMING_LEVEL else _bit(status, _BITS[name]) for name in points]
        return sample(lamp.id, self._now_ms(), points, values)

    # --- writing ---

    async def write(
        self,
        device: DeviceId,
        point: PointName,
        value: Value,
        *,
        ramp_s: float = 0.0,
        priority: Priority = Priority.COMMAND,
    ) -> Written:
        """Fade a lamp to a level, in per cent; see `Driver.write`.

        The fade takes the nearest time that gear knows (0 to 90.5 s), and the line serves others meanwhile.
        """
        lamp = self._lamp(device)
        level, fade = level_of(_percent(point, value)), fade_code(ramp_s)
        lamp.orders += 1
        order, bus = lamp.orders, _BUS_PRIORITY[priority]
        work = partial(self._switch, lamp, level, bus)
        try:
            if fade:
                fading = partial(self._set_level, lamp, level, fade, bus)
                await self._submit(priority, device, fading, proof=False)
                await asyncio.sleep(FADE_TIMES_S[fade] * _FADE_TOLERANCE + _FADE_MARGIN_S)
                work = partial(self._read_back, lamp, level, bus)
            if lamp.orders != order:
                return Written(CommandState.APPLIED, None, "another level was asked for meanwhile")
            back = await self._submit(priority, device, work)
        except LineLostError as fault:
            return Written(CommandState.OUTCOME_UNKNOWN, None, str(fault))
        except NoAnswerError as fault:
            return Written(CommandState.OUTCOME_UNKNOWN, None, f"it was told, but {fault}")
        except DriverError as fault:
            return Written(CommandState.FAILED, None, str(fault))
        return judge(level, back)

    async def _set_level(self, lamp: _Lamp, level: int, fade: int, priority: int) -> None:
        lamp.fade = await self._hold(dialogue.set_level(lamp.address, level, fade, lamp.fade, priority))

    async def _switch(self, lamp: _Lamp, level: int, priority: int) -> ReadBack:
        """Set a level without a fade and read it back at once."""
        await self._set_level(lamp, level, 0, priority)
        return await self._read_back(lamp, level, priority)

    async def _read_back(self, lamp: _Lamp, level: int, priority: int) -> ReadBack:
        back = await self._hold(dialogue.read_back(lamp.address, level, priority))
        if isinstance(back.level, Missing):
            _raise_missing(back.level, lamp)
        return back


def _heard(answer: Answer, lamp: _Lamp) -> Answer:
    """Return an answer; a silent gear need not be asked for more."""
    if answer is Missing.SILENCE:
        _raise_missing(answer, lamp)
    return answer


def _raise_missing(missing: Missing, lamp: _Lamp) -> NoReturn:
    match missing:
        case Missing.SILENCE:
            raise NoAnswerError(f"control gear {lamp.address} does not answer")
        case Missing.COLLISION:
            raise CollisionError(f"several control gear answer to {lamp.address}, or noise does")
        case Missing.GARBLED:
            raise GarbledError(f"control gear {lamp.address} answers with something that is no frame")


def _level(answer: Answer) -> Value | Fault:
    if isinstance(answer, Missing):
        return Fault(Quality.BAD, _REASON[answer])
    return Fault(Quality.BAD, Reason.NOT_AVAILABLE) if answer == MASK else percent_of(answer)


def _bit(status: GearStatus | Missing, bit: GearStatus) -> Value | Fault:
    if isinstance(status, Missing):
        return Fault(Quality.BAD, _REASON[status])
    return bit in status


def _percent(point: PointName, value: Value) -> float:
    if point != DIMMING_LEVEL:
        raise LocalProtocolError(f"a lamp's {point} cannot be written; {DIMMING_LEVEL} can")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LocalProtocolError(f"{DIMMING_LEVEL} is 0 to 100 %, not {value!r}")
    return value


def judge(wanted: int, back: ReadBack) -> Written:
    """Say what became of a level that was asked for.

    Args:
        wanted: the arc power level that was sent.
        back: what the gear said when the fade should have been over.
    """
    status = back.status or GearStatus(0)
    if isinstance(back.level, Missing) or back.level == MASK:
        if GearStatus.LAMP_FAILURE in status:
            return Written(CommandState.FAILED, None, "its lamp has failed")
        return Written(CommandState.APPLIED, None, "the gear does not know its own level")
    percent = percent_of(back.level)
    if back.level == wanted:
        return Written(CommandState.VERIFIED, percent)
    if GearStatus.FADE_RUNNING in status:
        return Written(CommandState.APPLIED, percent, f"still fading, at {percent:g} %")
    if GearStatus.LIMIT_ERROR in status:
        return Written(CommandState.APPLIED, percent, f"the gear's own limits allow {percent:g} %")
    return Written(CommandState.FAILED, percent, f"at {percent:g} % instead of {percent_of(wanted):g} %")
