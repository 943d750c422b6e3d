"""A LUBA interface on a serial port: one forward frame at a time, and what became of it."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from drivers.errors import DeviceError, GarbledError, LineDownError, RefusedError
from drivers.settings import DaliLuba
from drivers.transport import SerialTransport, connect_serial
from protocols.dali import luba
from protocols.dali.dialogue import Answer, Missing, Transmit
from protocols.dali.luba import TransmitError

BAUDRATE: Final = 38400
HANDSHAKE_ATTEMPTS: Final = 5
"""A busy bus delays the interface's own answers."""
HANDSHAKE_S: Final = 0.25
_SUPPLY_RISES_S: Final = 5.0
_SUPPLY_LOOK_S: Final = 0.1
_MAX_EVENTS: Final = 256
_QUIET_BOUND: Final = 5
"""A line on which something talks all the time is used all the same after so many worst delays."""

E = TypeVar("E", bound=luba.Event)


class LubaPort(asyncio.Protocol):
    """Our end of the serial cable.

    Args:
        settings: the line's.
        on_lost: called with the reason when the port goes away by itself.

    Attributes:
        late_bytes: bytes of frames that came when nobody waited for them any more, and of no frame at all.
    """

    def __init__(self, settings: DaliLuba, on_lost: Callable[[str], None]) -> None:
        self._settings = settings
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._link = luba.LubaLink()
        self._events: deque[luba.Event] = deque(maxlen=_MAX_EVENTS)
        self._waiter: asyncio.Future[None] | None = None
        self._transport: SerialTransport | None = None
        self._lost: str | None = None
        self._heard_at_s = self._loop.time()
        self._quiet_until_s = 0.0
        self._stale_bytes = 0

    # --- up and down ---

    async def open(self) -> None:
        """Open the port, make sure that a LUBA interface is behind it, and that its line has power.

        Raises:
            LineDownError: with the reason, for a person.
        """
        self._transport = await connect_serial(self._settings.port, self, baudrate=BAUDRATE)
        await self._greet()
        await self._settle_settings()
        if not await self._powered():
            raise LineDownError("the DALI line has no bus voltage")

    def close(self) -> None:
        """Let go of the port."""
        if self._transport is not None:
            self._transport.close()

    async def _greet(self) -> None:
        for _ in range(HANDSHAKE_ATTEMPTS):
            if await self._ask(luba.QueryDeviceInfo(), luba.DeviceInfo, HANDSHAKE_S):
                return
        raise LineDownError(f"no LUBA interface answers on {self._settings.port}")

    async def _settle_settings(self) -> None:
        """Let the interface report everything, but never touch a bus supply that is not ours.

        The settings cannot be written without the supply's bit, and a 0 there makes every lamp fall to its
        failure level. So they are written only where there is no supply to switch, or where it is ours.
        """
        owned = self._settings.bus_supply
        if not owned:
            descriptor = await self._ask(luba.QueryDescriptor(), luba.Descriptor, HANDSHAKE_S)
            if descriptor is None or descriptor.switchable_supply:
                return
        await self._ask(luba.WriteSettings(supply_on=owned), luba.SettingsWritten, HANDSHAKE_S)

    async def _powered(self) -> bool:
        """Tell whether the line has power; a supply that we have just switched on may take its time."""
        deadline_s = self._loop.time() + (_SUPPLY_RISES_S if self._settings.bus_supply else 0.0)
        while True:
            status = await self._ask(luba.ReadStatus(), luba.Status, HANDSHAKE_S)
            if status is not None and status.powered:
                return True
            if self._loop.time() >= deadline_s:
                return status is None  # an interface that does not tell is believed
            await asyncio.sleep(_SUPPLY_LOOK_S)

    # --- one frame ---

    async def exchange(self, transmit: Transmit) -> Answer:
        """Send a forward frame and return its answer; SILENCE if none is due.

        Raises:
            LineDownError: if the port or the interface is gone or the line has no power.
            DeviceError: if the frame may not have been sent.
        """
        await self._quiet()
        self._discard_stale()
        self._send(luba.AddFrame(transmit.frame, transmit.priority, transmit.twice))
        sent_at_s = await self._confirmation(transmit)
        if not transmit.answered:
            return Missing.SILENCE
        answer = await self._answer(sent_at_s + self._settings.answer_timeout_s)
        if answer is Missing.SILENCE:
            self._quiet_until_s = sent_at_s + self._settings.worst_delay_s
        return answer

    async def _confirmation(self, transmit: Transmit) -> float:
        """Wait until the frame has been sent as often as it should; return when."""
        deadline_s = self._loop.time() + self._settings.confirm_timeout_s
        missing, number = (2 if transmit.twice else 1), None
        while missing:
            match await self._next_event(deadline_s):
                case None:
                    raise await self._unconfirmed()
                case luba.NotAccepted(error=error):
                    raise _refusal(error)
                case luba.Accepted(number=accepted):
                    number = accepted
                case luba.FrameSent(frame=frame, number=sent) if frame == transmit.frame:
                    missing -= number in {None, sent}
                case stale:
                    self._note_stale(stale)
        return self._loop.time()

    async def _unconfirmed(self) -> DeviceError | LineDownError:
        """Find out whether a frame or the whole interface was lost."""
        for _ in range(2):
            if await self._ask(luba.QueryDeviceInfo(), luba.DeviceInfo, HANDSHAKE_S):
                return GarbledError("the interface did not say what became of a frame")
        return LineDownError(f"the LUBA interface on {self._settings.port} does not answer")

    async def _answer(self, deadline_s: float) -> Answer:
        while True:
            match await self._next_event(deadline_s):
                case None:
                    return Missing.SILENCE
                case luba.FrameHeard(frame=frame) if len(frame) == 1:
                    return frame[0]
                case luba.FramingError():
                    return Missing.COLLISION
                case luba.StartStopOnly():
                    return Missing.GARBLED
                case _:
                    pass  # another control device's frame

    async def _quiet(self) -> None:
        """After an answer that did not come, wait until it cannot come any more."""
        bound_s = self._loop.time() + _QUIET_BOUND * self._settings.worst_delay_s
        while (now_s := self._loop.time()) < min(self._quiet_until_s, bound_s):
            event = await self._next_event(self._quiet_until_s)
            if isinstance(event, luba.FrameHeard | luba.FramingError):
                self._note_stale(event)
                self._quiet_until_s = max(self._quiet_until_s, now_s + self._settings.worst_delay_s)
        self._quiet_until_s = 0.0

    # --- bytes and events ---

    @property
    def late_bytes(self) -> int:
        """Return how many bytes came when nobody waited for them, or meant nothing."""
        return self._stale_bytes + self._link.noise_bytes

    def _discard_stale(self) -> None:
        self._link.gap()
        self._collect()
        for event in self._events:
            self._note_stale(event)
        self._events.clear()

    def _note_stale(self, event: luba.Event) -> None:
        if isinstance(event, luba.FrameHeard):
            self._stale_bytes += len(event.frame)

    def _send(self, request: luba.Request) -> None:
        if self._lost is not None or self._transport is None:
            raise LineDownError(self._lost or "the port is closed")
        self._transport.write(self._link.send(request))

    async def _ask(self, request: luba.Request, reply: type[E], timeout_s: float) -> E | None:
        self._send(request)
        deadline_s = self._loop.time() + timeout_s
        while True:
            event = await self._next_event(deadline_s)
            if event is None or isinstance(event, reply):
                return event

    async def _next_event(self, deadline_s: float) -> luba.Event | None:
        """Return the next event, or None at the deadline (seconds of the loop's clock)."""
        while not self._events:
            if self._lost is not None:
                raise LineDownError(self._lost)
            if not await self._more_bytes(deadline_s):
                self._link.gap()
                self._collect()
                break
        return self._events.popleft() if self._events else None

    async def _more_bytes(self, deadline_s: float) -> bool:
        """Wait for bytes; False at the deadline."""
        self._waiter = self._loop.create_future()
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._waiter
        except TimeoutError:
            return False
        finally:
            self._waiter = None
        return True

    def _collect(self) -> None:
        while not isinstance(event := self._link.next_event(), luba.NeedData):
            self._events.append(event)

    def _awake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the port."""
        self._link.receive_data(data)
        self._collect()
        self._awake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the port is gone; without an exception it was us who closed it."""
        self._lost = f"port {self._settings.port} is gone: {exc}" if exc else "the port is closed"
        self._awake()
        if exc:
            self._on_lost(self._lost)


def _refusal(error: TransmitError) -> DeviceError | LineDownError:
    match error:
        case TransmitError.BUS_VOLTAGE:
            return LineDownError("the DALI line has no bus voltage")
        case TransmitError.LINE_NOT_AVAILABLE:
            return LineDownError("the interface has no such DALI line")
        case TransmitError.SYNTAX:
            return GarbledError("the interface did not understand a frame")
        case _:
            return RefusedError(f"the interface does not take frames: {error.name.lower()}", int(error))
