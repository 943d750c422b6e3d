"""A small site on a socket, made of the protocol's own site role, whose every message is held against the schemas."""

import asyncio
import contextlib
import uuid
from collections.abc import Mapping

import msgspec

from protocols.clock import Instant
from protocols.model.priority import RequestState, RequestStatus
from protocols.rsmp.alarms import AlarmRecord
from protocols.rsmp.exchange import NEED_DATA, Closed, Ready, Role, Terms
from protocols.rsmp.messages import Core, Value
from protocols.rsmp.priority import Order, order_of, told
from protocols.rsmp.site_role import Site
from protocols.rsmp.site_terms import HEALTHY, CommandAsked, SiteEvent, SiteSettings
from protocols.rsmp.sxl import ComponentType
from protocols.rsmp.tlc import SXLS
from tests.rsmp_schemas import packets, violations

MAIN = "KK+AG0503=001TC000"
DETECTOR = "KK+AG0503=001DL001"
GROUP = "KK+AG0503=001SG001"
CODE = "s3cret-2222"
ALARMS = (AlarmRecord(MAIN, "A0001", 2), AlarmRecord(DETECTOR, "A0302", 3), AlarmRecord(GROUP, "A0202", 3))


class SmallSite:
    """A controller without traffic: it says what it is told to, and takes plans and requests.

    Attributes:
        plan: its time plan.
        requests: what it tells of requests for priority.
        silent: status codes that it no longer tells.
        withheld: types of messages that it does not send, as if they were lost.
        forged: bytes that it sends in place of others, for what its own protocol would not say.
        ignoring: whether it takes orders and does nothing.
        refusing: the reason for which it refuses orders, if it does.
        events: what its protocol reported.
        schema_faults: what the published schemas have against its messages.
    """

    def __init__(
        self,
        port: int,
        *,
        core: Core | None = None,
        sxl: str = "1.2.1",
        site: str = MAIN,
        commands: frozenset[str] = frozenset({"M0002", "M0022"}),
        alarms: tuple[AlarmRecord, ...] = ALARMS,
    ) -> None:
        self.port = port
        self.sxl = sxl
        self.writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.withheld: set[str] = set()
        self.forged: dict[bytes, bytes] = {}
        self.ignoring = False
        self.plan = 1
        self.requests: dict[str, RequestStatus] = {}
        self.silent: set[str] = set()
        self.refusing: str | None = None
        self.events: list[SiteEvent] = []
        self.schema_faults: list[str] = []
        self.received = 0
        self.values: dict[str, dict[str, Value]] = {}
        settings = SiteSettings(
            terms=Terms(
                role=Role.SITE,
                versions=tuple(Core) if core is None else (core,),
                sxl=sxl,
                sites=(site,),
                watchdog_s=60,
            ),
            sxl=SXLS[sxl],
            main=MAIN,
            components={
                MAIN: ComponentType.CONTROLLER,
                DETECTOR: ComponentType.DETECTOR,
                GROUP: ComponentType.SIGNAL_GROUP,
            },
            commands=commands,
            security_codes={2: CODE},
        )
        self.core = "3.2.2" if core is None else core.value
        self.site = Site(settings, alarms, lambda: str(uuid.uuid4()), self.now())
        self.site.aggregate(HEALTHY, self.now())
        self.tell("S0001", signalgroupstatus="1B", stage="1", cyclecounter="17", basecyclecounter="17")
        self.tell("S0002", detectorlogicstatus="010")
        self.tell("S0014", status="1", source="calendar_clock")
        self.tell("S0020", intersection="0", controlmode="control")
        self.site.tell(MAIN, "S0033", {"status": []}, self.now())

    def now(self) -> Instant:
        ms = round(asyncio.get_running_loop().time() * 1000)
        return Instant(ms, 1_760_000_000_000 + ms)

    # --- what it says ---

    def tell(self, code: str, **values: Value) -> None:
        self.values.setdefault(code, {}).update(values)
        if code not in self.silent:
            self.site.tell(MAIN, code, values, self.now())
        self.flush()

    def prioritise(self, *statuses: RequestStatus) -> None:
        for one in statuses:
            self.requests[one.id] = one
        self.tell("S0033", status=told(tuple(self.requests.values())))

    def issue(self, component: str, code: str, **values: str) -> None:
        self.site.issue(component, code, self.now(), values)
        self.flush()

    def end(self, component: str, code: str) -> None:
        self.site.end(component, code, self.now())
        self.flush()

    # --- its connection ---

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                await self._connection()
            passed = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.01, passed.set_result, None)
            await passed

    async def _connection(self) -> None:
        reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            self.site.connected(self.now())
            self.flush()
            while data := await reader.read(65536):
                self.received += len(data)
                self.site.receive_data(data, self.now())
                self.flush()
        finally:
            self.site.disconnected(self.now(), "the connection is gone")
            self.writer.transport.abort()
            self.writer = None

    def flush(self) -> None:
        while (event := self.site.next_event()) is not NEED_DATA:
            self.events.append(event)
            if isinstance(event, CommandAsked):
                self._carry_out(event)
            elif isinstance(event, Closed) and self.writer is not None:
                self.writer.close()
        data = self.site.data_to_send()
        for packet in packets(data):
            self.schema_faults += violations(packet, self.core, self.sxl)
            self._write(packet)
        self._wake()

    def _write(self, packet: bytes) -> None:
        if self.writer is None or msgspec.json.decode(packet)["type"] in self.withheld:
            return
        for true, forged in self.forged.items():
            packet = packet.replace(true, forged)
        self.writer.write(packet + b"\x0c")

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.writer is not None and self.site.deadline_ms is not None:
            wait_s = max(0, self.site.deadline_ms - self.now().monotonic_ms) / 1000
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._tick)

    def _tick(self) -> None:
        self.site.tick(self.now())
        self.flush()

    def ready(self) -> int:
        return sum(isinstance(event, Ready) for event in self.events)

    # --- what it does ---

    def _carry_out(self, asked: CommandAsked) -> None:
        if self.refusing is not None:
            self.site.refuse(asked, self.refusing)
            return
        self.site.accept(asked, self.now())
        for order in () if self.ignoring else asked.orders:
            if order.code == "M0002":
                self.plan = int(order.arguments["timeplan"])
                self.site.tell(MAIN, "S0014", {"status": str(self.plan), "source": "forced"}, self.now())
            else:
                self._request(order.arguments)

    def _request(self, arguments: Mapping[str, str]) -> None:
        order, at_ms = order_of(arguments), self.now().utc_ms
        if order.order is Order.NEW:
            steps = [
                RequestStatus(order.id, state, at_ms)
                for state in (RequestState.RECEIVED, RequestState.ACTIVATED)
            ]
        elif order.order is Order.CANCEL:
            steps = [RequestStatus(order.id, RequestState.COMPLETED, at_ms, 5, 0)]
        else:
            return
        for step in steps:
            self.requests[step.id] = step
            self.site.tell(MAIN, "S0033", {"status": told(tuple(self.requests.values()))}, self.now())
        if order.order is Order.CANCEL:
            del self.requests[order.id]
