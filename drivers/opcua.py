"""Devices behind an OPC UA server, as node maps describe them.

One client, one session and one subscription serve all devices of a line. At each connection, in this order: the
namespaces' indices and the nodes are looked up, every value is read at once and told, and only then the subscription
begins; so a change during an outage is heard, and nothing older comes after it. From then on the server tells of
changes; all values are read again at their heartbeat, and at once if a notification was missing.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from asyncua import ua

from drivers.already_said import AlreadySaid
from drivers.base import Found, LineState, Looked, PolledPoint, Priority, Written
from drivers.errors import (
    DeviceError,
    DriverError,
    GarbledError,
    LineDownError,
    LineLostError,
    NoAnswerError,
    RefusedError,
)
from drivers.line import LineDriver, Work
from drivers.opcua_certificates import can_judge_dates, judge_server, load_identity, read_password
from drivers.opcua_client import OpcUaClient, value_of
from drivers.opcua_devices import VARIANTS, Device, Judged, Plan, judge, whole_number
from drivers.opcua_lookup import OFF, ON, Directory
from drivers.opcua_search import Search
from drivers.opcua_security import Security, status_name
from drivers.opcua_times import moments
from drivers.settings import DeviceSettings, OpcUa
from protocols.clock import Clock
from protocols.errors import LocalProtocolError
from protocols.model.command import CommandState
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Fault, Quality, Reason, Sample, Value, failed_sample
from protocols.opcua.nodes import Entry, NodeMap
from protocols.opcua.status import fault_of, has_overflowed
from protocols.opcua.values import NOT_AVAILABLE, Held, encode

STEADY_S: Final = 10.0
"""How long a connection has to last before its loss counts as the first one."""
READS_A_HEARTBEAT: Final = 4
"""How often everything is read again within the shortest heartbeat, so that none is late by more than a quarter."""
_SETTLE_LOOK_S: Final = 0.1
_SERVICE_LEVEL: Final = ua.NodeId(ua.ObjectIds.Server_ServiceLevel)
_STATE: Final = ua.NodeId(ua.ObjectIds.Server_ServerStatus_State)
_SERVER: Final = "the server"
_HEALTHY: Final = 200
"""ServiceLevel from which a server calls itself healthy (OPC 10000-4, 6.6.2.4.2)."""


def open_opcua(
    settings: OpcUa,
    devices: Sequence[DeviceSettings],
    maps: Mapping[str, NodeMap],
    clock: Clock,
    directory: Path,
) -> "OpcUaDriver":
    """Make the driver of an OPC UA server."""
    return OpcUaDriver(settings, devices, maps, clock, directory)


class OpcUaDriver(LineDriver):
    """One OPC UA server."""

    def __init__(
        self,
        settings: OpcUa,
        devices: Sequence[DeviceSettings],
        maps: Mapping[str, NodeMap],
        clock: Clock,
        directory: Path,
    ) -> None:
        super().__init__(settings, clock)
        self._settings = settings
        self._folder = directory
        self._maps = maps
        self._devices = {device.id: Device(device, maps[device.map]) for device in devices}
        self._client: OpcUaClient | None = None
        self._directory: Directory | None = None
        self._items: list[tuple[Device, PointName]] = []
        self._again = asyncio.Event()
        self._rereading: asyncio.Task[None] | None = None
        self._steady: asyncio.TimerHandle | None = None
        self._past: Counter[str] = Counter()
        self._outage_told = False
        self._said_of_server = ""
        self._already = AlreadySaid(self._now_ms, (_SERVER, *self._devices))

    def points(self, device: DeviceId) -> tuple[PolledPoint, ...]:
        """Return what can be read of a device."""
        return self._device(device).points

    def _device(self, device: DeviceId) -> Device:
        known = self._devices.get(device)
        if known is None:
            raise LocalProtocolError(f"{device} is not on {self.line}")
        return known

    def _live(self) -> tuple[OpcUaClient, Directory]:
        if self._client is None or self._directory is None:
            raise LineDownError("the connection is closed")
        return self._client, self._directory

    # --- up and down ---

    async def _connect(self) -> None:
        client = self._client = OpcUaClient(self._settings, self._line_lost)
        try:
            account = await self._account()
            await client.open(await self._security(client), account)
            self._directory = directory = Directory(client, self._log)
            await directory.open()
            await directory.look_up(list(self._devices.values()))
            await self._reread_all(client)
            await self._subscribe(client)
        except DeviceError as fault:
            raise LineDownError(f"the server does not say what is needed to begin: {fault}") from fault
        except LineDownError:
            raise
        except Exception as bug:  # what nobody thought of must not end the line's task
            self._log.exception("the connection could not be made for a reason nobody thought of")
            raise LineDownError(f"a bug: {bug!r}") from bug
        self._outage_told = False
        loop = asyncio.get_running_loop()
        self._rereading = loop.create_task(self._reread_at_times(client))
        self._steady = loop.call_later(STEADY_S, self._note_steady)

    def _note_steady(self) -> None:
        """Take note that the connection lasts: when it is lost it may be made anew at once."""
        self._attempts = 0

    async def _account(self) -> tuple[str, str] | None:
        if not self._settings.user:
            return None
        password = await asyncio.to_thread(read_password, self._folder / self._settings.password_file)
        return self._settings.user, password

    async def _security(self, client: OpcUaClient) -> Security | None:
        s = self._settings
        if s.security == "none":
            return None
        now = self._clock.now()
        at = self._folder
        identity = await asyncio.to_thread(
            load_identity, at / s.certificate, at / s.key, s.application_uri, now
        )
        offer = await client.offer()
        server = await asyncio.to_thread(judge_server, offer.certificate, offer.uri, at / s.trusted, now)
        if not can_judge_dates(now):
            self._log.warning("certificates' dates are not judged: this cabinet's clock was never set")
        return Security(s, identity, server)

    async def _take_leave(self) -> None:
        rereading, self._rereading = self._rereading, None
        if rereading is not None:
            rereading.cancel()
            await asyncio.gather(rereading, return_exceptions=True)
        if self._client is not None:
            await self._client.leave()

    def _disconnect(self) -> None:
        if self._steady is not None:
            self._steady.cancel()
        if self._rereading is not None:
            self._rereading.cancel()
        if self._client is not None:
            self._past.update(self._client.troubles())
            self._client.drop()
            self._client = None

    def _named_counts(self) -> Mapping[str, int]:
        """Return what went wrong with what the server tells, on this connection and all before."""
        return self._past + Counter({} if self._client is None else self._client.troubles())

    def _went_away(self, reason: str) -> None:
        """Take note, and tell of every point that would have spoken that it is not heard any more."""
        super()._went_away(reason)
        if self._state is LineState.DOWN and not self._outage_told:
            self._outage_told = True
            for device in self._devices.values():
                device.told.clear()
                if device.heard:
                    self.on_sample(failed_sample(device.id, self._now_ms(), device.heard, Reason.LINE_DOWN))

    # --- hearing ---

    async def _subscribe(self, client: OpcUaClient) -> None:
        """Have the server tell of changes; with nothing to tell of, its keep-alives still show that it is there."""
        self._items = [
            (device, name)
            for device in self._devices.values()
            for name in device.heard
            if name in device.nodes
        ]
        nodes = [device.nodes[name] for device, name in self._items]
        statuses = await client.subscribe(nodes, self._hear, self._again.set)
        for (device, name), status in zip(self._items, statuses, strict=True):
            if fault_of(status) is not None:
                said = status_name(status)
                self._log.warning("read at its heartbeat only", device=device.id, point=name, status=said)

    def _hear(self, values: Sequence[tuple[int, ua.DataValue, int]]) -> None:
        """Take what the server tells, and tell it device by device; several values of a point come one by one."""
        now_ms = self._now_ms()
        waiting: dict[DeviceId, list[tuple[PointName, Judged, int]]] = {}
        for handle, value, age_ms in values:
            device, name = self._items[handle]
            self._count_overflow(value)
            judged = judge(device.finish[name], value)
            waiting.setdefault(device.id, []).append((name, judged, now_ms - age_ms))
        for known, told in waiting.items():
            device = self._devices[known]
            for at_ms, news in moments(told, device.told_ms):
                self._tell(device, news, at_ms)
            if self._back_off.backed_off(known) and any(_speaks(one) for _, one, _ in told):
                self._note_answer(known)

    def _count_overflow(self, value: ua.DataValue) -> None:
        if value.StatusCode is not None and has_overflowed(value.StatusCode.value):
            client, _ = self._live()
            client.overflows += 1
            self._say(_SERVER, "values change faster than the server may tell; some were dropped")

    def _tell(
        self, device: Device, news: Mapping[PointName, Judged], at_ms: int, *, all_of_it: bool = False
    ) -> None:
        """Tell what is new of a device since `at_ms`, or all of it."""
        told = {name: one for name, one in news.items() if all_of_it or device.told.get(name) != one}
        if not told:
            return
        device.told.update(told)
        device.told_ms = at_ms
        values = [value for value, _ in told.values()]
        faults = {i: fault for i, (_, fault) in enumerate(told.values()) if fault is not None}
        self.on_sample(Sample(device.id, at_ms, tuple(told), tuple(values), faults))

    def _say(self, who: str, what: str, **more: str) -> None:
        """Log what may happen again and again, once an hour for each device, or for the server as a whole."""
        line = self._already.line(who, what)
        if line is not None:
            self._log.warning(what, who=line.who, unsaid=line.unsaid, **more)

    # --- reading everything again ---

    async def _reread_at_times(self, client: OpcUaClient) -> None:
        """Have everything read again within the shortest heartbeat, and at once when something was missed."""
        beats = [
            one.heartbeat_s
            for device in self._devices.values()
            for one in device.points
            if one.poll_s is None
        ]
        if not beats:
            return
        while True:
            self._again.clear()
            try:
                async with asyncio.timeout(min(beats) / READS_A_HEARTBEAT):
                    await self._again.wait()
            except TimeoutError:
                pass
            try:
                await self._submit_aside(partial(self._reread_quietly, client))
            except DriverError:
                continue
            except Exception as bug:  # noqa: BLE001  the heartbeat goes on; the line's task has logged where it was
                self._say(_SERVER, "values were not read again", reason=repr(bug))

    async def _reread_quietly(self, client: OpcUaClient) -> None:
        """Read everything again; what no device is to blame for is logged."""
        try:
            await self._reread_all(client)
        except DeviceError as fault:
            self._say(_SERVER, "not everything could be read again", reason=str(fault))

    async def _reread_all(self, client: OpcUaClient) -> None:
        """Read every point that is heard and tell it: of all devices together, or one by one if that fails.

        A device that keeps the server waiting then costs nothing but its own values.

        Raises:
            LineDownError: if the line went away.
        """
        self._hear_of_server(*await client.read([value_of(_SERVICE_LEVEL), value_of(_STATE)]))
        plans = [(device, device.plan(device.heard)) for device in self._devices.values() if device.heard]
        try:
            results = iter(await client.read([node for _, plan in plans for node in plan.nodes]))
        except DeviceError:
            for device, plan in plans:
                await self._reread(client, device, plan)
            return
        for device, plan in plans:
            self._tell_all(device, plan, list(islice(results, len(plan.nodes))))

    async def _reread(self, client: OpcUaClient, device: Device, plan: Plan) -> None:
        try:
            results = await client.read(plan.nodes)
        except DeviceError as fault:
            self._say(device.id, "not read again", reason=str(fault))
            wrong = None, Fault(Quality.BAD, fault.reason)
            self._tell(device, dict.fromkeys(plan.points, wrong), self._now_ms(), all_of_it=True)
        else:
            self._tell_all(device, plan, results)

    def _tell_all(self, device: Device, plan: Plan, results: Sequence[ua.DataValue]) -> None:
        news: dict[PointName, Judged] = dict.fromkeys(plan.points, (None, NOT_AVAILABLE))
        for position, finish, result in zip(plan.places, plan.finish, results, strict=True):
            news[plan.points[position]] = judge(finish, result)
        self._tell(device, news, self._now_ms(), all_of_it=True)

    def _hear_of_server(self, level: ua.DataValue, state: ua.DataValue) -> None:
        """Log when the server says that it is unwell, and when it is well again."""
        said = []
        if (number := whole_number(state)) not in {None, 0}:
            said.append(f"its state is {number}")  # 0 is running (OPC 10000-5, 12.6)
        if (number := whole_number(level)) is not None and number < _HEALTHY:
            said.append(f"its service level is {number} of 255")
        text = ", ".join(said)
        if text != self._said_of_server:
            self._said_of_server = text
            self._log.warning("the server says of itself", said=text or "that it is well again")

    # --- reading ---

    def _reader(self, device: DeviceId, points: tuple[PointName, ...], _priority: Priority) -> Work[Sample]:
        known = self._device(device)
        if not points:
            raise LocalProtocolError("no point asked")
        known.check(points)
        return partial(self._read_device, known, points)

    async def _read_device(self, device: Device, points: tuple[PointName, ...]) -> Sample:
        plan = device.plan(points)
        results = await self._live()[0].read(plan.nodes) if plan.nodes else []
        values: list[Value] = [None] * len(points)
        faults: dict[int, Fault] = {}
        if len(results) < len(points):
            faults = {i: NOT_AVAILABLE for i in range(len(points)) if points[i] not in device.nodes}
        for i, finish, result in zip(plan.places, plan.finish, results, strict=True):
            value, fault = judge(finish, result)
            values[i] = value
            if fault is not None:
                faults[i] = fault
        if results and len(faults) == len(points):
            _raise_if_gone(device, {faults[i].reason for i in plan.places})
        device.told_ms = self._now_ms()
        return Sample(device.id, device.told_ms, points, tuple(values), faults)

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
        """Write a node or call its method, then read back until it shows or its time is over; see `Driver.write`."""
        known = self._device(device)
        entry = known.entries.get(point)
        if entry is None:
            raise LocalProtocolError(f"{device} has no point {point}")
        if ramp_s:
            raise LocalProtocolError(f"{device} cannot ramp")
        held = encode(entry, value)
        try:
            written = await self._submit(priority, device, partial(self._put, known, entry, held))
        except (LineLostError, NoAnswerError, GarbledError) as fault:
            return Written(CommandState.OUTCOME_UNKNOWN, None, str(fault))
        except DriverError as fault:
            return Written(CommandState.FAILED, None, str(fault))
        return await self._settled(known, entry, held, priority, written)

    async def _put(self, device: Device, entry: Entry, held: Held) -> Written:
        """Write or call, and read back at once.

        Raises:
            RefusedError: if the server would not, or there is nothing to write to.
            NoAnswerError: if the server does not reach the device.
        """
        try:
            status = await (self._call if entry.method else self._write_node)(device, entry, held)
        except RefusedError as fault:
            if not fault.code:
                raise
            status = fault.code
        wrong = fault_of(status)
        if wrong is not None and wrong.quality is Quality.BAD:
            said = f"{entry.point} of {device.id}: {status_name(status)}"
            if wrong.reason is Reason.NO_ANSWER:
                raise NoAnswerError(f"the server does not reach {said}")
            raise RefusedError(f"the server refuses {said}", status)
        try:
            return await self._read_back(device, entry, held)
        except DeviceError as fault:
            return Written(CommandState.APPLIED, None, f"written, but not read back: {fault}")

    async def _write_node(self, device: Device, entry: Entry, held: Held) -> int:
        node = device.nodes.get(entry.point)
        if node is None:
            raise RefusedError(f"the server has no node for {entry.point}")
        return await self._live()[0].write(node.NodeId, ua.Variant(held, VARIANTS[entry.type]))

    async def _call(self, device: Device, entry: Entry, held: Held) -> int:
        method = device.methods.get((entry.point, OFF if entry.method_off and held is False else ON))
        if method is None or device.object is None:
            raise RefusedError(f"the server has no method for {entry.point}")
        arguments = [ua.Variant(number, ua.VariantType.UInt32) for number in entry.arguments]
        if not entry.method_off:
            arguments.append(ua.Variant(held, VARIANTS[entry.type]))
        return await self._live()[0].call(device.object, method, arguments)

    async def _read_back(self, device: Device, entry: Entry, held: Held) -> Written:
        wanted = device.finish[entry.point](held)
        value = (await self._read_device(device, (entry.point,))).values[0]
        if value == wanted and type(value) is type(wanted):
            return Written(CommandState.VERIFIED, value)
        if value is None:
            return Written(CommandState.APPLIED, None, f"written, but {entry.point} cannot be read")
        said = f"{entry.point} is {value}, which is not what was written"
        return Written(CommandState.APPLIED, value, said)

    async def _settled(
        self, device: Device, entry: Entry, held: Held, priority: Priority, written: Written
    ) -> Written:
        """Read back again and again until what was written shows, or the device has had its time."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + entry.settle_s
        while written.state is not CommandState.VERIFIED and loop.time() < until_s:
            await asyncio.sleep(_SETTLE_LOOK_S)
            try:
                written = await self._submit(
                    priority, device.id, partial(self._read_back, device, entry, held)
                )
            except DriverError as fault:
                written = Written(CommandState.APPLIED, None, f"written, but not read back: {fault}")
        return written

    # --- searching ---

    def _places(self) -> Sequence[int]:
        return ()

    def _prober(self, address: int) -> Work[Found | None]:
        raise LocalProtocolError(f"an OPC UA server numbers no devices; there is nothing at {address}")

    async def discover(self, among: Sequence[int] | None = None) -> AsyncIterator[Found | Looked]:
        """Browse the Objects folder, object under object; see `Driver.discover`."""
        del among
        search = Search(self._maps, list(self._devices.values()), self._log)
        while search.goes_on():
            try:
                found = await self._submit_aside(partial(self._look_further, search))
            except DriverError:
                return
            for sight in found:
                yield sight
            yield search.looked()

    async def _look_further(self, search: Search) -> list[Found]:
        return await search.step(*self._live())


def _speaks(judged: Judged) -> bool:
    """Tell whether what the server says of a point shows that it reaches the device."""
    _, fault = judged
    return fault is None or fault.reason is not Reason.NO_ANSWER


def _raise_if_gone(device: Device, reasons: set[Reason]) -> None:
    """Raise what fits if nothing of a device can be had because it is silent or talks nonsense.

    Raises:
        NoAnswerError: if the server does not reach it.
        GarbledError: if all of it is of the wrong kind.
    """
    if reasons == {Reason.NO_ANSWER}:
        raise NoAnswerError(f"the server does not reach {device.id}")
    if reasons == {Reason.GARBLED}:
        raise GarbledError(f"what the server has of {device.id} is of other types than its map says")
