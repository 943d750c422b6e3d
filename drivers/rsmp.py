"""A signal controller that speaks RSMP; the cabinet is its supervisor.

The site connects to us. Once the Version exchange has ended we subscribe to what the declared devices consist of and
then hear it by ourselves; `read` asks for it all the same. What the site says wrongly is named in the log once an
hour, and counted in `violations` and the line's failures; so is what strangers do at its port, each by themselves.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from drivers.already_said import AlreadySaid
from drivers.base import Found, LineState, Looked, PolledPoint, Priority, SignalDriver, Written
from drivers.errors import (
    DriverError,
    GarbledError,
    LineDownError,
    LineLostError,
    NoAnswerError,
    RefusedError,
)
from drivers.line import LineDriver, Work
from drivers.rsmp_address import detector_number
from drivers.rsmp_alarms import MAX_ALARMS, ControllerState
from drivers.rsmp_link import SITE, Link, Listener
from drivers.rsmp_points import (
    BY_INTERVAL,
    DETECTORS,
    NO_ANSWER,
    OCCUPIED,
    PLAN,
    POINTS,
    REFUSED,
    SOURCES,
    TOLD_BY_ALARMS,
    Got,
    Part,
    got,
    occupied,
    sample_of,
)
from drivers.settings import DeviceSettings, Rsmp
from protocols.clock import Clock
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.model.command import CommandState
from protocols.model.device import Kind
from protocols.model.ids import DeviceId, PointName
from protocols.model.priority import ENDED, NEXT, PriorityRequest, RequestState, RequestStatus
from protocols.model.reading import Reason, Sample, Value, failed_sample
from protocols.rsmp.codec import FEATURES
from protocols.rsmp.messages import (
    WITHOUT_VALUE,
    AggregatedStatus,
    Alarm,
    CommandArgument,
    CommandRequest,
    CommandResponse,
    FromSite,
    StatusName,
    StatusRequest,
    StatusResponse,
    StatusSubscribe,
    StatusUpdate,
    StatusValue,
    Subscription,
    printable,
)
from protocols.rsmp.priority import COMMAND as REQUEST_PRIORITY
from protocols.rsmp.priority import STATUS as PRIORITY_STATUS
from protocols.rsmp.priority import cancel_arguments, new_arguments, requests_of, update_arguments
from protocols.rsmp.sxl import ComponentType
from protocols.rsmp.tlc import SXLS

MAX_REQUESTS: Final = 256
"""Requests for priority that are remembered: far more vehicles than stand around a junction."""
_SILENT_AFTER: Final = 2.5
"""Intervals without an update after which a status counts as silent: one may be lost, and a half is for delay."""
_SETTLE_S: Final = 1.0
"""How long a plan may take to be told after it was ordered, before it is read back a second time."""
_PLAN_COMMAND: Final = "M0002"


def open_rsmp(settings: Rsmp, devices: Sequence[DeviceSettings], clock: Clock) -> "RsmpDriver":
    """Make the driver of an RSMP line."""
    return RsmpDriver(settings, devices, clock)


class RsmpDriver(LineDriver, SignalDriver):
    """One site: a signal controller with its junction and its detectors.

    Attributes:
        violations: what peers did wrong, by name.
    """

    def __init__(self, settings: Rsmp, devices: Sequence[DeviceSettings], clock: Clock) -> None:
        super().__init__(settings, clock)
        self.on_requests: Callable[[DeviceId, tuple[RequestStatus, ...]], None] = lambda _device, _requests: (
            None
        )
        self.violations: dict[str, int] = {}
        self._settings = settings
        self._sxl = SXLS[settings.sxl]
        self._parts = {d.id: Part(d, writable=bool(settings.security_code)) for d in devices}
        self._junction = next((part for part in self._parts.values() if part.number is None), None)
        self._main = settings.site if self._junction is None else self._junction.address
        self._listener = Listener(
            settings, clock, on_message=self._heard, on_fault=self._note_of, on_lost=self._line_lost
        )
        self._link: Link | None = None
        self._already = AlreadySaid(self._now_ms, (SITE,))
        self._watch: asyncio.TimerHandle | None = None
        self._heard_ms: dict[str, int] = {}
        self._silent: set[str] = set()
        self._state_of = ControllerState()
        self._requests: dict[str, RequestState] = {}

    def points(self, device: DeviceId) -> tuple[PolledPoint, ...]:
        """Return what can be read of a device."""
        return self._part(device).points

    def _part(self, device: DeviceId) -> Part:
        part = self._parts.get(device)
        if part is None:
            raise LocalProtocolError(f"{device} is not on {self.line}")
        return part

    # --- the line ---

    async def run(self) -> None:
        """Be the line's task until cancelled; then let go of the port."""
        try:
            await super().run()
        finally:
            self._listener.close()

    async def _connect(self) -> None:
        """Wait for the site, then subscribe: what it said of itself before it took that is all of its alarms."""
        self._state_of.begin()
        link = await self._listener.arrival()
        self._link = link
        features = FEATURES[link.exchange.core]
        for code, names in self._wanted().items():
            await self._subscribe(link, code, names, intervals=features.on_change)
        self._state_of.finish()
        self._tell_alarms()
        self._watch_later()

    def _disconnect(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._link is not None:
            self._link.drop("the supervisor ends the connection")
            self._link = None
        self._heard_ms.clear()
        self._silent.clear()

    def _went_away(self, reason: str) -> None:
        """Say of every device that it can no longer be heard, once the line counts as down."""
        before = self._state
        super()._went_away(reason)
        if self._state is LineState.DOWN and before is not LineState.DOWN:
            for part in self._parts.values():
                part.told.clear()
                self.on_sample(failed_sample(part.id, self._now_ms(), part.names, Reason.LINE_DOWN))

    def _wanted(self) -> Mapping[str, list[str]]:
        """Return the statuses that the declared devices consist of, by code."""
        wanted: dict[str, list[str]] = {}
        if self._junction is not None:
            for source in SOURCES.values():
                wanted.setdefault(source.code, []).append(source.name)
        if any(part.number is not None for part in self._parts.values()):
            wanted[DETECTORS.code] = [DETECTORS.name]
        return wanted

    async def _subscribe(self, link: Link, code: str, names: Iterable[str], *, intervals: bool) -> None:
        """Subscribe to one status, in a message of its own: a site that refuses it refuses no other."""
        every = str(self._settings.update_s)
        wanted = []
        for name in names:
            changes = StatusName(code, name) not in BY_INTERVAL
            wanted.append(Subscription(code, name, every if intervals or not changes else "0", changes))
        message = StatusSubscribe(component=self._main, wanted=tuple(wanted))
        try:
            await link.ask(message, None, self._settings.ack_timeout_s)
        except RefusedError as fault:
            self._note("refused", f"{code}: {fault}")
        except NoAnswerError as fault:
            raise LineDownError(f"the site does not acknowledge: {fault}") from fault
        else:
            if intervals:
                self._heard_ms[code] = self._now_ms()

    def _named_counts(self) -> Mapping[str, int]:
        """Return the violations and how many strangers were dropped."""
        return {**self.violations, "strangers_dropped": self._listener.strangers_dropped}

    def _note(self, name: str, text: str) -> None:
        """Name what the site did wrong."""
        self._note_of(SITE, name, text)

    def _note_of(self, who: str, name: str, text: str) -> None:
        """Name what a peer did wrong: in the log once an hour for each peer, in the counts always."""
        self.violations[name] = self.violations.get(name, 0) + 1
        self._failures += 1
        line = self._already.line(who, name)
        if line is not None:
            self._log.warning(
                "RSMP peer breaks the protocol", who=line.who, fault=name, reason=text, unsaid=line.unsaid
            )

    # --- what the site says by itself ---

    def _heard(self, message: FromSite) -> None:
        match message:
            case StatusUpdate() if message.component == self._main:
                self._updated(message)
            case StatusUpdate():
                self._note("unknown_component", f"an update of {printable(message.component)}")
            case Alarm():
                self._alarm(message)
            case AggregatedStatus():
                self._state_of.aggregated = message
                self._tell_alarms()
            case StatusResponse() | CommandResponse():
                return

    def _updated(self, update: StatusUpdate) -> None:
        known = []
        for status in update.values:
            kind = self._sxl.statuses.get(status.code)
            if kind is None or kind.argument(status.name) is None:
                self._note("unknown_status", f"{printable(status.code)} {printable(status.name)}")
            else:
                known.append(status)
        now_ms = self._now_ms()
        for code in {status.code for status in known} & self._heard_ms.keys():
            self._heard_ms[code] = now_ms
            self._silent.discard(code)
        self._tell_junction(known)
        for status in known:
            if StatusName(status.code, status.name) == DETECTORS:
                self._tell_detectors(self._got(status))
            elif status.code == PRIORITY_STATUS:
                self._tell_requests(status)

    def _got(self, status: StatusValue) -> Got:
        found = got(status, self._sxl)
        if found.why:
            self._note("wrong_value", found.why)
        return found

    def _tell_junction(self, statuses: Sequence[StatusValue]) -> None:
        if self._junction is None:
            return
        values = {
            POINTS[source]: self._got(status)
            for status in statuses
            if (source := StatusName(status.code, status.name)) in POINTS
        }
        if values:
            self._tell(self._junction, values)

    def _tell(self, part: Part, values: Mapping[PointName, Got]) -> None:
        now_ms = self._now_ms()
        part.told.update({name: (value, now_ms) for name, value in values.items()})
        self.on_sample(sample_of(part.id, now_ms, values))

    def _tell_detectors(self, status: Got) -> None:
        """Say of each detector what has changed, or what was not said for long."""
        now_ms, long_ms = self._now_ms(), 500 * self._settings.update_s
        for part in self._parts.values():
            if part.number is None:
                continue
            value = occupied(status, part.number)
            before, at_ms = part.told.get(OCCUPIED, (None, 0))
            if value != before or now_ms - at_ms >= long_ms:
                if value.why:
                    self._note("unknown_detector", value.why)
                self._tell(part, {OCCUPIED: value})

    # --- silence ---

    def _watch_later(self) -> None:
        self._watch = asyncio.get_running_loop().call_later(
            self._settings.update_s / 4, self._look_for_silence
        )

    def _look_for_silence(self) -> None:
        """Say that a status that should have been told was not."""
        bound_ms = self._now_ms() - _SILENT_AFTER * 1000 * self._settings.update_s
        for code, heard_ms in self._heard_ms.items():
            if heard_ms < bound_ms and code not in self._silent:
                self._silent.add(code)
                self._fell_silent(code)
        self._watch_later()

    def _fell_silent(self, code: str) -> None:
        self._note("silent_status", f"{code} is subscribed to and is not told")
        lost = Got(None, NO_ANSWER)
        points = {point: lost for source, point in POINTS.items() if source.code == code}
        if self._junction is not None and points:
            self._tell(self._junction, points)
        if code == DETECTORS.code:
            self._tell_detectors(lost)

    # --- alarms ---

    def _alarm(self, alarm: Alarm) -> None:
        if alarm.code not in self._sxl.alarms:
            self._note("unknown_alarm", f"{printable(alarm.code)} of {printable(alarm.component)}")
        if self._state_of.put(alarm):
            self._tell_alarms()
        else:
            self._note("too_many_alarms", f"more than {MAX_ALARMS}")

    def _tell_alarms(self) -> None:
        """Say what alarms say, where it has changed, once the site has told all of them."""
        if self._junction is None or not self._state_of.complete:
            return
        told = self._junction.told
        now_are = self._state_of.points()
        changed = {
            name: value for name, value in now_are.items() if name not in told or told[name][0] != value
        }
        if changed:
            self._tell(self._junction, changed)

    # --- reading ---

    def _reader(self, device: DeviceId, points: tuple[PointName, ...], _priority: Priority) -> Work[Sample]:
        part = self._part(device)
        unknown = [name for name in points if name not in part.names]
        if unknown or not points:
            raise LocalProtocolError(f"{device} has no point {unknown[0]}" if unknown else "no point asked")
        return partial(self._read_part, part, points)

    async def _read_part(self, part: Part, points: tuple[PointName, ...]) -> Sample:
        values: dict[PointName, Got] = {}
        sources: dict[str, list[StatusName]] = {}
        for name in points:
            source = DETECTORS if part.number is not None else SOURCES.get(name)
            if source is not None:
                sources.setdefault(source.code, []).append(source)
        for code, names in sources.items():
            values.update(await self._read_status(part, code, names))
        if set(points) & set(TOLD_BY_ALARMS):
            values.update(self._state_of.points())
        answered = [name for name in points if values[name].fault != NO_ANSWER]
        if not answered:
            raise NoAnswerError("it was acknowledged, and not answered")
        return sample_of(part.id, self._now_ms(), {name: values[name] for name in points})

    async def _read_status(self, part: Part, code: str, names: Sequence[StatusName]) -> dict[PointName, Got]:
        """Ask for one status, in a message of its own: a site that refuses it refuses no other."""
        try:
            statuses = await self._ask_status(names)
        except RefusedError as fault:
            self._note("refused", f"{code}: {fault}")
            lost = Got(None, REFUSED)
        except NoAnswerError:
            lost = Got(None, NO_ANSWER)
        else:
            found = {StatusName(one.code, one.name): self._got(one) for one in statuses}
            if part.number is not None:
                return {OCCUPIED: occupied(found[DETECTORS], part.number)}
            return {POINTS[name]: found[name] for name in names}
        return {OCCUPIED if part.number is not None else POINTS[name]: lost for name in names}

    async def _ask_status(self, names: Sequence[StatusName]) -> Sequence[StatusValue]:
        asked = set(names)

        def answers(said: FromSite) -> bool:
            return (
                isinstance(said, StatusResponse)
                and said.component == self._main
                and asked == {StatusName(one.code, one.name) for one in said.values}
            )

        request = StatusRequest(component=self._main, wanted=tuple(names))
        said = await self._connection().ask(request, answers, self._settings.response_timeout_s)
        return said.values if isinstance(said, StatusResponse) else ()

    def _connection(self) -> Link:
        if self._link is None:
            raise LineDownError("the site is not connected")
        return self._link

    # --- commands ---

    async def write(
        self,
        device: DeviceId,
        point: PointName,
        value: Value,
        *,
        ramp_s: float = 0.0,
        priority: Priority = Priority.COMMAND,
    ) -> Written:
        """Order a time plan and read it back; see `Driver.write`."""
        part = self._part(device)
        polled = next((one for one in part.points if one.point.name == point), None)
        if polled is None:
            raise LocalProtocolError(f"{device} has no point {point}")
        if not polled.point.writable:
            why = f": {polled.unwritable}" if polled.unwritable else ""
            raise LocalProtocolError(f"{point} of {device} cannot be written{why}")
        if ramp_s:
            raise LocalProtocolError(f"{device} cannot ramp")
        if isinstance(value, bool) or not isinstance(value, int | float) or value not in range(1, 256):
            raise LocalProtocolError(f"a time plan is 1 to 255, not {value!r}")
        return await self._ordered(priority, device, partial(self._set_plan, int(value)))

    async def _ordered(self, priority: Priority, device: DeviceId, work: Work[Written]) -> Written:
        try:
            return await self._submit(priority, device, work)
        except (LineLostError, NoAnswerError, GarbledError) as fault:
            return Written(CommandState.OUTCOME_UNKNOWN, None, str(fault))
        except DriverError as fault:
            return Written(CommandState.FAILED, None, str(fault))

    async def _set_plan(self, plan: int) -> Written:
        code = self._settings.security_code
        arguments = {"status": "True", "securityCode": code, "timeplan": str(plan)}
        doubt: NoAnswerError | None = None
        try:
            await self._command(_PLAN_COMMAND, arguments)
        except NoAnswerError as fault:
            doubt = fault
        value = await self._plan()
        if value != plan:
            await asyncio.sleep(_SETTLE_S)
            value = await self._plan()
        if value == plan:
            return Written(CommandState.VERIFIED, value)
        if doubt is not None:
            raise doubt
        return Written(CommandState.APPLIED, value, f"the controller is at plan {value}")

    async def _plan(self) -> Value:
        try:
            statuses = await self._ask_status((SOURCES[PLAN],))
        except (RefusedError, NoAnswerError):
            return None
        return self._got(statuses[0]).value

    async def _command(self, code: str, arguments: Mapping[str, str]) -> None:
        """Order something, and see that the site has taken it.

        Raises:
            RefusedError: if it has not.
        """
        order = self._sxl.commands[code].order
        request = CommandRequest(
            component=self._main,
            arguments=tuple(CommandArgument(code, name, order, value) for name, value in arguments.items()),
        )

        def answers(said: FromSite) -> bool:
            return (
                isinstance(said, CommandResponse)
                and said.component == self._main
                and {one.code for one in said.values} == {code}
            )

        said = await self._connection().ask(request, answers, self._settings.response_timeout_s)
        if isinstance(said, CommandResponse):
            lost = next((one for one in said.values if one.age in WITHOUT_VALUE), None)
            if lost is not None:
                raise RefusedError(f"{code} is {lost.age} to the site at {self._main}")

    # --- priority ---

    # Straight to the connection, not through the line's queue: RSMP carries many questions at once, and a bus does
    # not wait for a status that is slow to come.

    async def request(self, junction: DeviceId, request: PriorityRequest) -> Written:
        """Put a request, or update it where the controller has it; see `SignalDriver.request`."""
        self._check_junction(junction)
        known = request.id in self._requests
        written = await self._prioritise(
            request.id, update_arguments(request) if known else new_arguments(request)
        )
        if written.state is CommandState.APPLIED and len(self._requests) < MAX_REQUESTS:
            self._requests.setdefault(request.id, RequestState.RECEIVED)
        return written

    async def cancel(self, junction: DeviceId, request_id: str) -> Written:
        """Take a request back; see `SignalDriver.cancel`."""
        self._check_junction(junction)
        written = await self._prioritise(request_id, cancel_arguments(request_id))
        link = self._link
        if (
            written.state is CommandState.APPLIED
            and link is not None
            and not FEATURES[link.exchange.core].arrays
        ):
            self._requests.pop(request_id, None)  # nobody will tell that it is over
        return written

    async def _prioritise(self, request_id: str, arguments: Mapping[str, str]) -> Written:
        self._transactions += 1
        try:
            await self._command(REQUEST_PRIORITY, arguments)
        except (LineLostError, NoAnswerError) as fault:
            self._failures += 1
            return Written(CommandState.OUTCOME_UNKNOWN, None, str(fault))
        except DriverError as fault:
            self._failures += 1
            return Written(CommandState.FAILED, None, str(fault))
        return Written(CommandState.APPLIED, request_id)

    async def requests(self, junction: DeviceId) -> tuple[RequestStatus, ...]:
        """Ask a controller for all its requests; see `SignalDriver.requests`."""
        self._check_junction(junction)
        self._transactions += 1
        return await self._ask_requests()

    async def _ask_requests(self) -> tuple[RequestStatus, ...]:
        (status,) = await self._ask_status((SOURCES[POINTS[StatusName(PRIORITY_STATUS, "status")]],))
        if status.quality in WITHOUT_VALUE:
            raise RefusedError(f"{PRIORITY_STATUS} is {status.quality} to the site at {self._main}")
        try:
            return requests_of(status.value)
        except RemoteProtocolError as error:
            raise GarbledError(str(error)) from error

    def _check_junction(self, device: DeviceId) -> None:
        if self._part(device) is not self._junction:
            raise LocalProtocolError(f"{device} is no junction")

    def _tell_requests(self, status: StatusValue) -> None:
        """Pass on what the controller says of its requests; a step that the list does not know is named."""
        if self._junction is None or status.quality in WITHOUT_VALUE:
            return
        try:
            told = requests_of(status.value)
        except RemoteProtocolError:
            return  # named as a wrong value already
        for one in told:
            before = self._requests.get(one.id)
            if before is not None and one.state is not before and one.state not in NEXT[before]:
                self._note("wrong_transition", f"request {printable(one.id)} from {before} to {one.state}")
        still = {one.id: one.state for one in told if one.state not in ENDED}
        self._requests = dict(list(still.items())[:MAX_REQUESTS])
        self.on_requests(self._junction.id, told)

    # --- looking ---

    def _places(self) -> Sequence[int]:
        return ()

    def _prober(self, address: int) -> Work[Found | None]:
        raise LocalProtocolError(f"nothing is asked at {address} on a line that tells what it has")

    async def discover(self, among: Sequence[int] | None = None) -> AsyncIterator[Found | Looked]:  # noqa: ARG002
        """Tell what the site has said of its components, and ask it for its detectors; see `Driver.discover`."""
        try:
            marks = await self._submit(Priority.POLL, DeviceId("-"), self._ask_detectors, proof=False)
        except DriverError:
            return
        found = [*self._seen(), *self._detectors(marks)]
        for done, one in enumerate(found, start=1):
            yield one
            yield Looked(done, len(found))

    async def _ask_detectors(self) -> str:
        """Return S0002, "" if the site does not tell it."""
        try:
            statuses = await self._ask_status((DETECTORS,))
        except (RefusedError, NoAnswerError):
            return ""
        value = self._got(statuses[0]).value
        return value if isinstance(value, str) else ""

    def _seen(self) -> Iterable[Found]:
        link = self._connection()
        says = f"site {self._settings.site}, RSMP {link.exchange.core}, SXL {link.exchange.sxl}"
        yield Found(self._main, Kind.JUNCTION, says, None if self._junction is None else self._junction.id)
        for component, codes in self._state_of.components().items():
            if component != self._main and not self._is_detector(codes):
                kinds = sorted({self._sxl.alarms[code].of for code in codes if code in self._sxl.alarms})
                what = ", ".join(kinds) or "of no known kind"
                text = f"{what}, with alarms {', '.join(map(printable, codes))}"
                yield Found(component, None, text, declarable=False)

    def _detectors(self, marks: str) -> Iterable[Found]:
        """Return the detectors of S0002, by the ids that alarms or the settings give them, else by number."""
        components = self._state_of.components()
        named = {detector_number(one): one for one, codes in components.items() if self._is_detector(codes)}
        declared = {part.number: part for part in self._parts.values() if part.number is not None}
        for number, mark in enumerate(marks, start=1):
            if mark != "-":
                part = declared.get(number)
                address = part.address if part is not None else named.get(number, str(number))
                text = f"detector {number}, {'occupied' if mark == '1' else 'free'}"
                yield Found(address, Kind.DETECTOR, text, None if part is None else part.id)

    def _is_detector(self, codes: Iterable[str]) -> bool:
        kinds = {self._sxl.alarms[code].of for code in codes if code in self._sxl.alarms}
        return kinds == {ComponentType.DETECTOR}
