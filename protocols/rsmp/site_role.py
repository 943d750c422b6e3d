"""The site's end of RSMP: alarms, subscriptions, commands and the outgoing buffer, over any number of connections.

    site = Site(settings, alarms, new_id, now)
    site.connected(now)                              # a TCP connection has come up; repeat after each reconnect
    site.receive_data(received, now)
    while (event := site.next_event()) is not NEED_DATA:
        match event:
            case CommandAsked(): ...; site.accept(event, now)      # or site.refuse(event, "why")
            case Closed(): ...                                     # close the TCP connection, connect again later
    site.tell(component, "S0001", {"stage": "2"}, now)             # whenever a status is set, changed or not
    site.issue(component, "A0302", now, {"detector": "1", ...}); site.end(component, "A0302", now)
    site.aggregate(elements, now)
    site.tick(now)                                                 # at site.deadline_ms at the latest
    socket.send(site.data_to_send())                               # after each of these
    site.disconnected(now, "why")                                  # the TCP connection is gone
    site.snapshot(), site.restore(kept)                            # what must outlive a power cut

Status requests, subscriptions, alarm requests, acknowledgements and suspensions are answered here, from what `tell`
and `issue` have said. After the Version exchange a site says Watchdog, AggregatedStatus, all alarms, then its buffer.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from hmac import compare_digest
from itertools import groupby
from typing import Final

import msgspec

from protocols.clock import Instant
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.rsmp.alarms import ANSWERED, AlarmKey, AlarmRecord, AlarmTable, Change
from protocols.rsmp.exchange import (
    MAX_UNACKNOWLEDGED,
    NEED_DATA,
    Acknowledged,
    Closed,
    Event,
    Exchange,
    NeedData,
    NotAcknowledged,
    Ready,
    Received,
    Role,
    Stage,
    Violation,
)
from protocols.rsmp.messages import (
    WITHOUT_VALUE,
    AggregatedStatus,
    AggregatedStatusRequest,
    Alarm,
    AlarmEvent,
    CommandArgument,
    CommandRequest,
    CommandResponse,
    CommandValue,
    Payload,
    Quality,
    StatusName,
    StatusRequest,
    StatusResponse,
    StatusSubscribe,
    StatusUnsubscribe,
    StatusUpdate,
    StatusValue,
    Subscription,
    Value,
    Watchdog,
    milliseconds,
    printable,
    rate_ms,
    stamp,
)
from protocols.rsmp.outgoing import Buffered, OutgoingBuffer
from protocols.rsmp.priority import COMMAND as REQUEST_PRIORITY
from protocols.rsmp.priority import order_of
from protocols.rsmp.site_terms import (
    AlarmChanged,
    ClockTold,
    CommandAsked,
    Kept,
    Order,
    SiteEvent,
    SiteSettings,
    StatusTold,
)
from protocols.rsmp.subscriptions import StatusKey, Subscriptions
from protocols.rsmp.sxl import wrong, wrong_set
from protocols.rsmp.tlc import security_level

WINDOW: Final = 32
"""Buffered messages on their way at once: ten thousand of them must not fill a socket."""


class _Refused(Exception):  # noqa: N818  it is no fault of ours, and never leaves this module
    """What the supervisor said is answered with MessageNotAck."""


class Site:
    """The site's end; it outlives its connections.

    Args:
        settings: what it is.
        alarms: every alarm that it can have.
        new_id: gives a new UUID version 4 for each transmission.
        now: it starts; its alarms are inactive since then.
    """

    def __init__(
        self,
        settings: SiteSettings,
        alarms: Iterable[AlarmRecord],
        new_id: Callable[[], str],
        now: Instant,
    ) -> None:
        if settings.terms.role is not Role.SITE or settings.main not in settings.components:
            raise LocalProtocolError("a site has a site's role, and its main component among its components")
        self._settings = settings
        self._new_id = new_id
        self._alarms = AlarmTable(tuple(alarms))
        self._buffer = OutgoingBuffer(settings.buffer_size)
        self._subscriptions = Subscriptions()
        self._values: dict[StatusKey, Value] = {}
        self._aggregated: AggregatedStatus | None = None
        self._security_codes = dict(settings.security_codes)
        self._exchange: Exchange | None = None
        self._connection = 0
        self._events: deque[SiteEvent] = deque()
        self._now = now
        self._since_ms = now.utc_ms

    # --- the connection ---

    def connected(self, now: Instant) -> None:
        """Begin anew on a connection that has come up; say Version."""
        self.disconnected(now, "there is a new connection")
        self._events = deque(event for event in self._events if not isinstance(event, Closed))
        self._connection += 1
        self._exchange = Exchange(self._settings.terms, self._new_id, now)

    def disconnected(self, now: Instant, reason: str) -> None:
        """Take note that the connection is gone; what is to be buffered is from now on. No Closed follows."""
        self._now = now
        if self._exchange is None:
            return
        self._exchange.close(reason)
        while (event := self._exchange.next_event()) is not NEED_DATA:
            if isinstance(event, Closed):
                self._over(event)
        self._exchange = None

    def _over(self, event: Closed) -> None:
        """Hold again what may be said twice; end the subscriptions that do not outlive a disruption."""
        self._buffer.put_back(event.unacknowledged, self._settings.buffered)
        self._subscriptions.keep_only(self._settings.buffered)

    def receive_data(self, received: bytes, now: Instant) -> None:
        """Take bytes as they come, however they are cut."""
        self._now = now
        if self._exchange is not None:
            self._exchange.receive_data(received, now)

    def data_to_send(self) -> bytes:
        """Return what is to be written to the connection now."""
        return b"" if self._exchange is None else self._exchange.data_to_send()

    def next_event(self) -> SiteEvent | NeedData:
        """Return what has happened that is not answered here, or NEED_DATA."""
        while not self._events and self._exchange is not None:
            event = self._exchange.next_event()
            if event is NEED_DATA:
                break
            self._handle(event)
        return self._events.popleft() if self._events else NEED_DATA

    def tick(self, now: Instant) -> None:
        """Do what is due."""
        self._now = now
        if self._exchange is not None:
            self._exchange.tick(now)
        self._update(self._subscriptions.due(now.monotonic_ms), now)

    @property
    def deadline_ms(self) -> int | None:
        """Return the monotonic moment at which `tick` is due; None when nothing is."""
        theirs = None if self._exchange is None else self._exchange.deadline_ms
        return min(
            (due for due in (theirs, self._subscriptions.deadline_ms) if due is not None), default=None
        )

    @property
    def open(self) -> bool:
        """Tell whether messages are exchanged freely."""
        return self._exchange is not None and self._exchange.stage is Stage.OPEN

    @property
    def buffered(self) -> int:
        """Return how many messages wait for a connection."""
        return len(self._buffer)

    @property
    def buffer_changes(self) -> int:
        """Return a number that is another whenever `snapshot` has changed in its buffer."""
        return self._buffer.changes

    # --- what the site has to say ---

    def tell(self, component: str, code: str, values: Mapping[str, Value], now: Instant) -> None:
        """Set the values of a status, by name; whoever subscribes to their changes is told.

        Raises:
            LocalProtocolError: if the list or the site has no such status, or it cannot have that value.
        """
        status = self._settings.sxl.statuses.get(code)
        if status is None or self._settings.components.get(component) is not status.of:
            raise LocalProtocolError(f"{component} has no status {code}")
        for name, value in values.items():
            argument = status.argument(name)
            fault = "no such name" if argument is None else wrong(argument, value)
            if fault is not None:
                raise LocalProtocolError(f"{code} {name}: {fault}")
        keys = [StatusKey(component, code, name) for name in values]
        self._values.update({StatusKey(component, code, name): value for name, value in values.items()})
        self._update(self._subscriptions.changed(self._values.__getitem__, keys), now)

    def issue(self, component: str, code: str, now: Instant, values: Mapping[str, str] | None = None) -> None:
        """Raise an alarm; one that is active stays as it is.

        Raises:
            LocalProtocolError: if the site has no such alarm, or its values are not the list's.
        """
        kind = self._settings.sxl.alarms.get(code)
        fault = "not in the list" if kind is None else wrong_set(kind.arguments, values or {})
        if fault is not None:
            raise LocalProtocolError(f"{code}: {fault}")
        self._change(AlarmKey(component, code), Change.ISSUE, now, tuple((values or {}).items()))

    def end(self, component: str, code: str, now: Instant) -> None:
        """Let an alarm end; one that is not active stays as it is.

        Raises:
            LocalProtocolError: if the site has no such alarm.
        """
        self._change(AlarmKey(component, code), Change.END, now, None)

    def acknowledge_locally(self, component: str, code: str, now: Instant) -> None:
        """Acknowledge an alarm at the controller's own panel.

        Raises:
            LocalProtocolError: if the site has no such alarm.
        """
        self._change(AlarmKey(component, code), Change.ACKNOWLEDGE, now, None)

    def alarms(self) -> tuple[AlarmRecord, ...]:
        """Return every alarm as it is."""
        return tuple(self._alarms)

    def aggregate(self, elements: tuple[bool, ...], now: Instant) -> None:
        """Set the aggregated status; it is told when it has changed.

        Raises:
            LocalProtocolError: if there are not eight elements.
        """
        if len(elements) != 8:
            raise LocalProtocolError("aggregated status has eight elements")
        if self._aggregated is not None and self._aggregated.elements == elements:
            return
        main = self._settings.main
        told = AggregatedStatus(component=main, nts_object=main, at=stamp(now.utc_ms), elements=elements)
        self._aggregated = told
        self._event(told, now)

    def set_security_code(self, level: int, code: str) -> None:
        """Change a security code, as M0103 orders."""
        self._security_codes[level] = code

    # --- what the supervisor orders ---

    def accept(
        self, asked: CommandAsked, now: Instant, values: Mapping[StatusName, str] | None = None
    ) -> None:
        """Acknowledge a command that was carried out, and answer with what its arguments are now.

        Args:
            asked: the event.
            now: when it was carried out.
            values: by code and name, where it is not what was asked for.
        """
        if asked.connection != self._connection or self._exchange is None or not self.open:
            return
        now_are = values or {}
        rvs = [
            CommandValue(
                one.code, one.name, now_are.get(StatusName(one.code, one.name), one.value), Quality.RECENT
            )
            for one in asked.request.arguments
        ]
        self._exchange.acknowledge(asked.request)
        self._send(CommandResponse(component=asked.component, at=stamp(now.utc_ms), values=tuple(rvs)), now)

    def refuse(self, asked: CommandAsked, reason: str) -> None:
        """Answer a command that is not carried out with MessageNotAck."""
        if asked.connection == self._connection and self._exchange is not None:
            self._exchange.refuse(asked.request, reason)

    # --- what must outlive a power cut ---

    def snapshot(self) -> bytes:
        """Return alarms and buffered messages, for the caller to keep."""
        return msgspec.json.encode(Kept(tuple(self._alarms), tuple(self._buffer), self._buffer.dropped))

    def restore(self, kept: bytes) -> None:
        """Take back what `snapshot` gave, before the first connection.

        Raises:
            LocalProtocolError: if it is damaged; then nothing was taken.
        """
        try:
            found = msgspec.json.decode(kept, type=Kept)
        except msgspec.DecodeError as error:
            raise LocalProtocolError(f"this is no site's snapshot: {error}") from error
        for alarm in found.alarms:
            self._alarms.put(alarm)
        for message in found.buffer:
            self._buffer.put(message)
        self._buffer.dropped += found.dropped

    # --- out ---

    def _send(self, message: Payload, now: Instant) -> bool:
        """Say something if the connection is open; False if it could not be said."""
        if self._exchange is None or not self.open:
            return False
        if self._exchange.unacknowledged >= MAX_UNACKNOWLEDGED:
            self._exchange.close(f"{MAX_UNACKNOWLEDGED} messages are not acknowledged")
            return False
        self._exchange.send(message, now)
        return True

    def _event(self, message: Buffered, now: Instant) -> None:
        """Say what happened: behind what waits, or later if it cannot be said now."""
        if len(self._buffer) or not self._send(message, now):
            self._buffer.put(message)
            self._pump()

    def _pump(self) -> None:
        """Say what waits, a window at a time."""
        while self.open and self._exchange is not None and self._exchange.unacknowledged < WINDOW:
            message = self._buffer.take()
            if message is None:
                return
            self._send(message, self._now)

    def _update(self, keys: Iterable[StatusKey], now: Instant) -> None:
        """Tell the values of some statuses, one message for each component."""
        for component, group in groupby(sorted(keys), key=lambda key: key.component):
            members = list(group)
            values = tuple(self._value(key) for key in members)
            update = StatusUpdate(component=component, at=stamp(now.utc_ms), values=values)
            for key in members:
                self._subscriptions.told(key, self._values.get(key), now.monotonic_ms)
            if self._send(update, now):
                self._events.append(StatusTold(frozenset(members)))
            elif all(key.code in self._settings.buffered for key in members):
                self._buffer.put(update)

    def _value(self, key: StatusKey) -> StatusValue:
        if key.component not in self._settings.components:
            return StatusValue(key.code, key.name, None, Quality.UNDEFINED)
        value = self._values.get(key)
        return StatusValue(key.code, key.name, value, Quality.UNKNOWN if value is None else Quality.RECENT)

    def _change(
        self, key: AlarmKey, change: Change, now: Instant, values: tuple[tuple[str, str], ...] | None
    ) -> None:
        event = self._alarms.change(key, change, now.utc_ms, values)
        alarm = self._alarms.get(key)
        if event is not None and (not alarm.suspended or event is AlarmEvent.SUSPEND):
            self._event(alarm.message(event, self._since_ms), now)

    # --- in ---

    def _handle(self, event: Event) -> None:
        match event:
            case Ready():
                self._events.append(event)
                self._introduce()
            case Received():
                self._receive(event.message)
            case Acknowledged():
                self._pump()
            case Closed():
                self._over(event)
                self._events.append(Closed(event.reason))
            case NotAcknowledged():
                self._events.append(event)
                self._pump()
            case Violation():
                self._events.append(event)

    def _receive(self, message: Payload | Watchdog) -> None:
        if isinstance(message, Watchdog):
            self._events.append(ClockTold(milliseconds(message.at)))
        else:
            self._judge(message)

    def _introduce(self) -> None:
        """Say how the site is: aggregated status, all alarms, then what waits."""
        now = self._now
        if self._aggregated is not None:
            self._send(self._aggregated, now)
        told: set[tuple[str, str, object]] = set()
        if self._aggregated is not None:
            told.add((self._aggregated.component, "", self._aggregated.at))
        for alarm in self._alarms:
            message = alarm.message(AlarmEvent.ISSUE, self._since_ms)
            told.add((message.component, message.code, message.at))
            self._send(message, now)
        self._buffer.leave_out(lambda one: _event_of(one) in told)
        self._pump()

    def _judge(self, message: Payload) -> None:
        """Acknowledge and answer what the supervisor said, or refuse it."""
        try:
            match message:
                case StatusRequest() | StatusSubscribe() | StatusUnsubscribe():
                    self._check_statuses(message.wanted)
                    self._acknowledge(message)
                    self._take_statuses(message)
                case AggregatedStatusRequest():
                    self._tell_aggregated(message)
                case Alarm():
                    self._take_alarm(message)
                case CommandRequest():
                    self._take_command(message)
        except _Refused as refused:
            if self._exchange is not None:
                self._exchange.refuse(message, str(refused))

    def _acknowledge(self, message: Payload) -> None:
        if self._exchange is not None:
            self._exchange.acknowledge(message)

    def _take_statuses(self, message: StatusRequest | StatusSubscribe | StatusUnsubscribe) -> None:
        match message:
            case StatusRequest():
                self._respond(message)
            case StatusSubscribe():
                self._subscribe(message)
            case StatusUnsubscribe():
                for one in message.wanted:
                    self._subscriptions.end(StatusKey(message.component, one.code, one.name))

    def _check_statuses(self, wanted: Iterable[StatusName | Subscription]) -> None:
        for one in wanted:
            status = self._settings.sxl.statuses.get(one.code)
            if status is None:
                raise _Refused(f"unknown status code {printable(one.code)}")
            if status.argument(one.name) is None:
                raise _Refused(f"{one.code} has no {printable(one.name)}")

    def _respond(self, request: StatusRequest) -> None:
        keys = [StatusKey(request.component, one.code, one.name) for one in request.wanted]
        values = tuple(self._value(key) for key in keys)
        at = stamp(self._now.utc_ms)
        if self._send(StatusResponse(component=request.component, at=at, values=values), self._now):
            self._events.append(StatusTold(frozenset(key for key in keys if key in self._values)))

    def _subscribe(self, request: StatusSubscribe) -> None:
        """Begin or change subscriptions; what has no value is told so and not subscribed."""
        fresh = []
        for one in request.wanted:
            key = StatusKey(request.component, one.code, one.name)
            if self._value(key).quality in WITHOUT_VALUE or self._subscriptions.begin(
                key, rate_ms(one), self._now.monotonic_ms, on_change=one.on_change is True
            ):
                fresh.append(key)
        self._update(fresh, self._now)

    def _tell_aggregated(self, request: AggregatedStatusRequest) -> None:
        if request.component != self._settings.main or self._aggregated is None:
            raise _Refused(f"{printable(request.component)} has no aggregated status")
        self._acknowledge(request)
        self._send(self._aggregated, self._now)

    def _take_alarm(self, asked: Alarm) -> None:
        key = AlarmKey(asked.component, asked.code)
        if key not in self._alarms:
            raise _Refused(f"{printable(asked.component)} has no alarm {printable(asked.code)}")
        self._acknowledge(asked)
        change = _ORDERED.get(AlarmEvent(asked.event))
        if change is None:
            self._send(self._alarms.get(key).message(AlarmEvent.ISSUE, self._since_ms), self._now)
            return
        changed = self._alarms.change(key, change, self._now.utc_ms)
        alarm = self._alarms.get(key)
        self._event(alarm.message(ANSWERED[change], self._since_ms), self._now)
        if changed is not None:
            self._events.append(AlarmChanged(alarm))

    def _take_command(self, request: CommandRequest) -> None:
        orders = tuple(self._orders(request))
        for order in orders:
            self._check_order(order)
        self._check_security(orders)
        missing = self._cannot(request.component, orders)
        if missing is None:
            self._events.append(CommandAsked(request.component, orders, request, self._connection))
            return
        self._acknowledge(request)
        values = tuple(CommandValue(one.code, one.name, None, missing) for one in request.arguments)
        response = CommandResponse(component=request.component, at=stamp(self._now.utc_ms), values=values)
        self._send(response, self._now)

    def _orders(self, request: CommandRequest) -> Iterable[Order]:
        by_code: dict[str, dict[str, str]] = {}
        for one in request.arguments:
            self._check_argument(one)
            arguments = by_code.setdefault(one.code, {})
            if one.name in arguments:
                raise _Refused(f"{one.code}: {printable(one.name)} stands twice")
            arguments[one.name] = one.value
        return (Order(code, arguments) for code, arguments in by_code.items())

    def _check_argument(self, argument: CommandArgument) -> None:
        command = self._settings.sxl.commands.get(argument.code)
        if command is None:
            raise _Refused(f"unknown command code {printable(argument.code)}")
        if argument.order != command.order:
            raise _Refused(f"{argument.code} is {command.order}, not {printable(argument.order)}")

    def _check_order(self, order: Order) -> None:
        """Refuse a command whose arguments are missing, unknown, out of range or at odds with each other."""
        fault = wrong_set(self._settings.sxl.commands[order.code].arguments, order.arguments)
        if fault is not None:
            raise _Refused(f"{order.code}: {fault}")
        if order.code == REQUEST_PRIORITY:
            try:
                order_of(order.arguments)
            except RemoteProtocolError as error:
                raise _Refused(str(error)) from error

    def _check_security(self, orders: Iterable[Order]) -> None:
        for order in orders:
            level, given = security_level(order.code, order.arguments, self._settings.sxl)
            known = self._security_codes.get(level)
            if level and (known is None or not compare_digest(known.encode(), given.encode())):
                raise _Refused("Incorrect security code")

    def _cannot(self, component: str, orders: Iterable[Order]) -> Quality | None:
        """Return why nothing of these orders can be done, as the answer says it; None if it can."""
        kind = self._settings.components.get(component)
        if kind is None:
            return Quality.UNDEFINED
        commands = self._settings.sxl.commands
        able = all(
            order.code in self._settings.commands and commands[order.code].of is kind for order in orders
        )
        return None if able else Quality.UNKNOWN


def _event_of(message: Buffered) -> tuple[str, str, object] | None:
    """Return which event a message tells of, if it is one that a site tells at each connection."""
    match message:
        case AggregatedStatus():
            return message.component, "", message.at
        case Alarm() if message.event == AlarmEvent.ISSUE:
            return message.component, message.code, message.at
    return None


_ORDERED: Final[Mapping[AlarmEvent, Change]] = {
    AlarmEvent.ACKNOWLEDGE: Change.ACKNOWLEDGE,
    AlarmEvent.SUSPEND: Change.SUSPEND,
    AlarmEvent.RESUME: Change.RESUME,
}
"""What a supervisor may order of an alarm; Request is answered with its status."""
