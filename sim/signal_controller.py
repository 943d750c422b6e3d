"""A signal controller at the wire: an RSMP site that connects to its supervisor and comes back when it is cut off.

The junction (`sim.junction`) decides; here its state is told and its orders are taken. Statuses, alarms and
aggregated status are told whenever the junction has changed; while nobody listens the site's buffer keeps what must
be kept.
"""

import asyncio
import contextlib
import random
import uuid
from typing import Protocol

import msgspec
import structlog

from protocols.clock import Instant
from protocols.model.priority import VehicleType
from protocols.rsmp.exchange import NEED_DATA, Closed, NotAcknowledged, Ready, Role, Terms, Violation
from protocols.rsmp.messages import Core
from protocols.rsmp.priority import STATUS as REQUESTS
from protocols.rsmp.priority import Order as PriorityAction
from protocols.rsmp.priority import PriorityOrder, order_of
from protocols.rsmp.site_role import Site
from protocols.rsmp.site_terms import CommandAsked, Order, SiteEvent, SiteSettings, StatusTold
from protocols.rsmp.tlc import SXLS
from sim.faults import FaultSettings, JunctionFault
from sim.junction import AlarmKey, Junction, Position
from sim.junction_settings import JunctionSettings
from sim.priority import MAX_ID, RequestEntry, UnknownRequestError
from sim.rsmp_wire import Wire, garbled
from sim.schedule import Schedule, Timer
from sim.tlc_view import TlcView

_log = structlog.get_logger(__name__)

COMMANDS = frozenset({"M0001", "M0002", "M0004", "M0022", "M0103"})
"""What this controller can do; another command of the list is answered with "unknown"."""
_CONNECT_S = 10.0
_LATE_S = 3.0


class WallClock(Protocol):
    """Gives the real moment."""

    def now(self) -> Instant:
        """Return it."""
        ...


class RsmpCounters(msgspec.Struct, frozen=True):
    """What passed between the site and its supervisor.

    Attributes:
        connections: that came up.
        sent: messages by type.
        received: messages by type.
        violations: what the supervisor did wrong, by name.
        refused_by_supervisor: our messages that it did not acknowledge.
        buffered: messages that wait now.
    """

    connections: int
    sent: dict[str, int]
    received: dict[str, int]
    violations: dict[str, int]
    refused_by_supervisor: int
    buffered: int


class SignalController:
    """A junction's RSMP site.

    Args:
        settings: where its supervisor is and what its parts are called.
        junction: what it controls; started and stopped by it.
        schedule: of the wire: real time.
        clock: for stamps.
        rng: seeded source of message ids.

    Attributes:
        site: the protocol's end.
        ready: set while messages are exchanged freely.
        wire: what passed.
    """

    def __init__(
        self,
        settings: JunctionSettings,
        junction: Junction,
        *,
        schedule: Schedule,
        clock: WallClock,
        rng: random.Random,
    ) -> None:
        self.settings = settings
        self.junction = junction
        self.ready = asyncio.Event()
        self.wire = Wire()
        self._schedule = schedule
        self._clock = clock
        now = clock.now()
        sxl = SXLS[settings.sxl]
        self._view = TlcView(junction, settings, sxl, utc_ms=self._utc_ms, started_ms=now.utc_ms)
        self.site = Site(
            _site_settings(settings, self._view),
            self._view.alarm_records(),
            lambda: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            now,
        )
        self._link: _Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._timer: Timer | None = None
        self._connections = 0
        self._refused = 0
        self._violations: dict[str, int] = {}
        self._told: dict[str, object] = {}
        self._told_requests: tuple[RequestEntry, ...] = ()
        self._active: dict[AlarmKey, dict[str, str]] = {}
        self._was_reached = True

    # --- the connection -------------------------------------------------------------------------------

    def start(self) -> None:
        """Switch on, and connect."""
        self.junction.start()
        self.refresh()
        self.junction.changed.append(self.refresh)
        self._task = asyncio.get_running_loop().create_task(self._stay_connected())

    async def stop(self) -> None:
        """Switch off."""
        self.junction.stop()
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._cut("the controller is switched off")
        await asyncio.sleep(0)  # lets the transport say goodbye

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._link is not None

    async def _stay_connected(self) -> None:
        while True:
            if JunctionFault.DISCONNECTED not in self.junction.board:
                await self._connect()
            self._wake.clear()
            try:
                async with asyncio.timeout(self.settings.reconnect_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _connect(self) -> None:
        """Connect, and stay until the connection is gone."""
        where = (self.settings.host, self.settings.port)
        link = _Link(self)
        try:
            async with asyncio.timeout(_CONNECT_S):
                await asyncio.get_running_loop().create_connection(lambda: link, *where)
        except (OSError, TimeoutError, UnicodeError) as error:
            if self._was_reached:
                _log.info("supervisor not reached", junction=self.settings.name, reason=str(error))
            self._was_reached = False
            return
        self._was_reached = True
        await link.gone.wait()

    def opened(self, link: "_Link") -> None:
        """Note that a connection has come up."""
        self._link = link
        self._connections += 1
        self.wire.fresh()
        self.site.connected(self._clock.now())
        self._go_on()

    def lost(self, link: "_Link") -> None:
        """Note that a connection is gone."""
        if self._link is link:
            self._link = None
            self.ready.clear()
            self.site.disconnected(self._clock.now(), "the connection is lost")
            self._go_on()

    def received(self, content: bytes) -> None:
        """Take what the supervisor sent."""
        board = self.junction.board
        if JunctionFault.NACK in board:
            content, refusals = self.wire.refused(content)
            self._write(refusals)
        else:
            self.wire.incoming(content)
        if JunctionFault.SILENT not in board:
            self.site.receive_data(content, self._clock.now())
            self._go_on()

    # --- what is told ---------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Tell what has changed in the junction; a silent site will tell it afterwards."""
        if JunctionFault.SILENT in self.junction.board:
            return
        now = self._clock.now()
        for code, values in self._view.statuses().items():
            changed = {
                name: value for name, value in values.items() if self._told.get(f"{code}.{name}") != value
            }
            if changed:
                self._told.update({f"{code}.{name}": value for name, value in changed.items()})
                self.site.tell(self.settings.main, code, changed, now)
        self._tell_requests(now)
        self._tell_alarms(now)
        self.site.aggregate(self._view.aggregated(), now)
        self._go_on()

    def _tell_requests(self, now: Instant) -> None:
        entries = self.junction.priority.entries()
        if entries != self._told_requests or REQUESTS not in self._told:
            self._told_requests = entries
            self._told[REQUESTS] = True
            self.site.tell(self.settings.main, REQUESTS, {"status": self._view.requests(entries)}, now)

    def _tell_alarms(self, now: Instant) -> None:
        active = self.junction.alarms()
        for key in self._active.keys() - active.keys():
            self.site.end(self._view.component(key), key.code, now)
        for key in active.keys() - self._active.keys():
            self.site.issue(self._view.component(key), key.code, now, active[key])
        self._active = active

    def counters(self) -> RsmpCounters:
        """Return what was counted on the wire."""
        return RsmpCounters(
            connections=self._connections,
            sent=dict(self.wire.sent),
            received=dict(self.wire.received),
            violations=dict(self._violations),
            refused_by_supervisor=self._refused,
            buffered=self.site.buffered,
        )

    # --- what can be wrong ----------------------------------------------------------------------------

    def set_fault(self, fault: JunctionFault, settings: FaultSettings) -> None:
        """Let a fault begin."""
        self.junction.set_fault(fault, settings)
        if fault is JunctionFault.DISCONNECTED:
            self._cut("the network is gone")
        self._plan()

    def clear_fault(self, fault: JunctionFault) -> None:
        """Let a fault end."""
        was_there = fault in self.junction.board
        self.junction.clear_fault(fault)
        if was_there and fault is JunctionFault.DISCONNECTED:
            self._wake.set()
        self.refresh()

    # --- inside ---------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Do what has happened, write what is to be said, and plan what is due."""
        while (event := self.site.next_event()) is not NEED_DATA:
            self._handle(event)
        self._write(self.site.data_to_send())
        self._plan()

    def _handle(self, event: SiteEvent) -> None:
        match event:
            case CommandAsked():
                self._command(event)
            case StatusTold():
                if any(key.code == REQUESTS for key in event.keys):
                    self._forget_told()
            case Ready():
                self.ready.set()
            case Closed():
                self._write(self.site.data_to_send())
                self._cut(event.reason)
            case Violation():
                self._violations[event.fault] = self._violations.get(event.fault, 0) + 1
                _log.warning("supervisor", junction=self.settings.name, fault=event.fault, reason=event.text)
            case NotAcknowledged():
                self._refused += 1
            case _:
                pass  # acknowledged or suspended alarms and the supervisor's clock change nothing here

    def _forget_told(self) -> None:
        """Drop end states that have gone out; the shorter list is told in turn."""
        self.junction.priority.told(self._told_requests)
        self._tell_requests(self._clock.now())

    def _write(self, content: bytes) -> None:
        board = self.junction.board
        if not content or self._link is None or JunctionFault.SILENT in board:
            return
        self.wire.outgoing(content)
        if JunctionFault.GARBLED in board:
            content = garbled(content)
        if JunctionFault.LATE in board:
            delay_s = board.settings(JunctionFault.LATE).delay_s
            when_s = self._schedule.time() + (_LATE_S if delay_s is None else delay_s)
            link = self._link
            self._schedule.call_at(when_s, lambda: link.write(content))
        else:
            self._link.write(content)

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline_ms = self.site.deadline_ms
        hung = JunctionFault.SILENT in self.junction.board
        if deadline_ms is not None and self._link is not None and not hung:
            self._timer = self._schedule.call_at(deadline_ms / 1000, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.site.tick(self._clock.now())
        self._go_on()

    def _cut(self, reason: str) -> None:
        self.ready.clear()
        link, self._link = self._link, None
        if link is not None:
            _log.info("connection ends", junction=self.settings.name, reason=reason)
            link.end()
            self.site.disconnected(self._clock.now(), reason)

    def _utc_ms(self, at_s: float) -> int:
        return self._clock.now().utc_ms - round((self.junction.now_s - at_s) * 1000)

    # --- what is ordered ------------------------------------------------------------------------------

    def _command(self, asked: CommandAsked) -> None:
        """Refuse what cannot be done as a whole; else answer first, then do it, so that updates follow."""
        for order in asked.orders:
            reason = self._obstacle(order)
            if reason is not None:
                self.site.refuse(asked, reason)
                return
        self.site.accept(asked, self._clock.now())
        for order in asked.orders:
            self._carry_out(order)

    def _obstacle(self, order: Order) -> str | None:
        given = order.arguments
        match order.code:
            case "M0001" if given["intersection"] not in {"0", "1"}:
                return f"intersection {given['intersection']} does not exist"
            case "M0002" if given["status"] == "True" and not self._has_plan(int(given["timeplan"])):
                return f"time plan {given['timeplan']} does not exist"
            case "M0022":
                return self._priority_obstacle(order_of(given))
        return None

    def _priority_obstacle(self, order: PriorityOrder) -> str | None:
        if not 1 <= len(order.id) <= MAX_ID:
            return f"a request id of {len(order.id)} characters; expected 1 to {MAX_ID}"
        live = self.junction.priority.live(order.id)
        if order.order is PriorityAction.UPDATE and live is None:
            return f"request {order.id} is unknown or has ended"
        if order.order is PriorityAction.NEW and live is not None and live.group != self._group(order, 1):
            return f"request {order.id} is in use for another signal group"
        return None

    def _carry_out(self, order: Order) -> None:
        given = order.arguments
        match order.code:
            case "M0001":
                self.junction.set_position(Position(given["status"]), int(given["timeout"]))
            case "M0002":
                self.junction.command_plan(int(given["timeplan"]) if given["status"] == "True" else None)
            case "M0004":
                self.junction.restart()
            case "M0103":
                self.site.set_security_code(1 if given["status"] == "Level1" else 2, given["newSecurityCode"])
            case "M0022":
                self._prioritise(order_of(given))

    def _prioritise(self, order: PriorityOrder) -> None:
        level = order.level
        match order.order:
            case PriorityAction.NEW:
                lowest = self.settings.design.limits.lowest_level
                self.junction.request(
                    order.id,
                    self._group(order),
                    lowest if level is None else level,
                    eta_s=order.eta_s,
                    vehicle=order.vehicle_type or VehicleType.OTHER,
                )
            case PriorityAction.UPDATE:
                self.junction.update_request(order.id, level=level, eta_s=order.eta_s)
            case PriorityAction.CANCEL:
                with contextlib.suppress(UnknownRequestError):  # a cancel always works, also the second one
                    self.junction.cancel_request(order.id)

    def _group(self, order: PriorityOrder, first: int = 0) -> int | None:
        """Return the group that a request refers to, counted from `first`; no other reference is configured."""
        if order.reference != "signalGroupId":
            return None
        number = self.settings.group_number(order.referred)
        return None if number is None else number - first

    def _has_plan(self, number: int) -> bool:
        return any(plan.number == number for plan in self.settings.design.plans)


class _Link(asyncio.Protocol):
    """One connection to the supervisor."""

    def __init__(self, controller: SignalController) -> None:
        self.gone = asyncio.Event()
        self._controller = controller
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  create_connection gives nothing else
        self._transport = transport
        self._controller.opened(self)

    def data_received(self, content: bytes) -> None:
        self._controller.received(content)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.gone.set()
        self._controller.lost(self)

    def write(self, content: bytes) -> None:
        """Send, unless the connection is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(content)

    def end(self) -> None:
        """Close, after what has been written."""
        if self._transport is not None:
            self._transport.close()


def _site_settings(settings: JunctionSettings, view: TlcView) -> SiteSettings:
    return SiteSettings(
        terms=Terms(
            role=Role.SITE,
            versions=settings.versions or tuple(Core),
            sxl=settings.sxl,
            sites=(settings.site,),
            ack_timeout_s=settings.ack_timeout_s,
            watchdog_s=settings.watchdog_s,
        ),
        sxl=SXLS[settings.sxl],
        main=settings.main,
        components=view.components(),
        commands=COMMANDS,
        security_codes=dict(enumerate(settings.security_codes, 1)),
    )
