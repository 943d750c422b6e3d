"""A class A sensor: joins, speaks when it has something to say, and listens twice after each time.

It hears a downlink only if the gateway really transmits it in one of its two windows, on the right frequency, at
the right data rate and with inverted polarity; and it believes one only with the right MIC and a newer counter.
Times are the planned ones of its schedule, so it is exact even where the machine runs late.

    powered ── join ──(accept)── joined ── uplink ── RX1 ── RX2 ──┐
                 └──(nothing: back-off, lower data rate)          └─ again if confirmed and not acknowledged
"""

import random
from collections.abc import Callable
from typing import Protocol

import msgspec

from sim.lorawan_band import (
    MAX_DATA_RATE,
    DutyCycle,
    airtime_s,
    max_payload,
    rate_name,
    sub_band,
    symbol_s,
)
from sim.lorawan_crypto import (
    JOIN_ACCEPT,
    DataDown,
    DataUp,
    Refusal,
    RefusedError,
    Session,
    read_data,
    read_join_accept,
    write_data,
    write_join_request,
)
from sim.lorawan_mac import LINK_CHECK, MAX_OPTIONS, Link, obey
from sim.schedule import Schedule, Timer

JOIN_RX1_S = 5.0
SECOND_WINDOW_S = 1.0
WINDOW_SYMBOLS = 3
"""A window catches a preamble that begins at most this many symbols before or after it."""
MAX_TRIES = 8
"""Of a confirmed uplink (LoRaWAN 1.0.3, chapter 18.4)."""
ADR_ACK_LIMIT = 64
ADR_ACK_DELAY = 32
LINK_CHECK_EVERY = 16
_FIRST_BACK_OFF_S = 10.0
_MAX_BACK_OFF_S = 3600.0
_JOINS_PER_RATE = 2
_SOON_S = 2.0
_MAX_NONCE = 0xFFFF
_BATTERY = 200


class Identity(msgspec.Struct, frozen=True):
    """Who a sensor is. EUIs as integers, as they are printed: most significant byte first."""

    name: str
    dev_eui: int
    join_eui: int
    app_key: bytes
    every_s: float
    confirmed: bool = False


class Burst(msgspec.Struct, frozen=True):
    """One transmission of a sensor; times in the schedule's seconds."""

    frame: bytes
    frequency_hz: int
    data_rate: int
    start_s: float
    end_s: float


class Sent(msgspec.Struct, frozen=True):
    """One transmission of a gateway; times in the schedule's seconds.

    Attributes:
        inverted: whether its polarity is that of downlinks.
        snr_db: with which sensors hear it.
    """

    frame: bytes
    frequency_hz: int
    data_rate: int
    inverted: bool
    start_s: float
    end_s: float
    snr_db: float = 9.0


class Report(msgspec.Struct, frozen=True):
    """What a sensor has to say now.

    Attributes:
        port: FPort.
        payload: as the device of that make writes it.
        truth: the values that are in it, by the names of the points.
    """

    port: int
    payload: bytes
    truth: dict[str, float | bool | str]


class Reporter(Protocol):
    """The sensing half of a sensor."""

    def report(self) -> Report:
        """Measure and write."""
        ...

    def command(self, port: int, payload: bytes) -> bool:
        """Do what a downlink asks; return whether it was understood."""
        ...


class NodeCounters(msgspec.Struct):
    """What a sensor has counted.

    Attributes:
        joins: join requests.
        uplinks: data frames, each counted once however often it was transmitted.
        transmissions: of frames of any kind.
        airtime_s: of these.
        accepts: joins that were answered and believed.
        downlinks_accepted: data frames that were believed.
        downlinks_refused: by reason; `not_for_me` is no fault.
        acks_heard: confirmed uplinks that were acknowledged.
        unacknowledged: confirmed uplinks that were given up.
        commands: downlinks that the device itself understood.
        commands_not_understood: those that it did not.
        mac_commands: of the network.
        link_checks: answered.
    """

    joins: int = 0
    uplinks: int = 0
    transmissions: int = 0
    airtime_s: float = 0.0
    accepts: int = 0
    downlinks_accepted: int = 0
    downlinks_refused: dict[str, int] = {}
    acks_heard: int = 0
    unacknowledged: int = 0
    commands: int = 0
    commands_not_understood: int = 0
    mac_commands: int = 0
    link_checks: int = 0


class _Window(msgspec.Struct, frozen=True):
    start_s: float
    frequency_hz: int
    data_rate: int

    def catches(self, sent: Sent) -> bool:
        """Tell whether a transmission's preamble falls into the window and can be demodulated."""
        early_or_late_s = abs(sent.start_s - self.start_s)
        return (
            sent.inverted
            and sent.frequency_hz == self.frequency_hz
            and sent.data_rate == self.data_rate
            and early_or_late_s <= WINDOW_SYMBOLS * symbol_s(self.data_rate)
        )


class _Exchange(msgspec.Struct):
    """A frame that is being brought across."""

    frame: bytes
    is_join: bool
    confirmed: bool
    tries_left: int
    tries: int = 0
    acknowledged: bool = False
    heard_something: bool = False


class Node:
    """One sensor.

    Args:
        identity: who it is.
        reporter: what it measures.
        schedule: the only time it has.
        rng: of channels and back-off.
        transmit: called when a transmission begins.

    Attributes:
        session: None until it has joined.
        link: data rate, channels, windows.
        silent: a fault: it does not transmit.
        reported: the truth of the last report that went on the air.
        counter_up: of the next data frame.
        counter_down: of the last downlink that was believed; -1 if there was none.
    """

    def __init__(
        self,
        identity: Identity,
        reporter: Reporter,
        schedule: Schedule,
        rng: random.Random,
        transmit: Callable[[Burst], None],
    ) -> None:
        self.identity = identity
        self.counters = NodeCounters()
        self.session: Session | None = None
        self.link = Link()
        self.silent = False
        self.reported: dict[str, float | bool | str] = {}
        self.counter_up = 0
        self.counter_down = -1
        self._reporter = reporter
        self._schedule = schedule
        self._rng = rng
        self._transmit = transmit
        self._duty = DutyCycle()
        self._dev_nonce = 0
        self._back_off_s = _FIRST_BACK_OFF_S
        self._joins_in_a_row = 0
        self._uplinks_unheard = 0
        self._uplinks_in_session = 0
        self._exchange: _Exchange | None = None
        self._windows: tuple[_Window, ...] = ()
        self._receiving = False
        self._life = 0
        self._ack_due = False
        self._answers: list[bytes] = []
        self._sticky: list[bytes] = []
        self._due: Timer | None = None
        self._step: Timer | None = None

    def power_up(self, at_s: float) -> None:
        """Begin to join at a moment."""
        self._wake(at_s)

    def stop(self) -> None:
        """Fall silent for ever."""
        for timer in (self._due, self._step):
            if timer is not None:
                timer.cancel()

    def forget_session(self) -> None:
        """Join again, as after a button was pressed."""
        self._abandon()
        self.session = None
        self.link = Link()
        self._wake(self._schedule.time())

    def restart_counters(self) -> None:
        """Restart with the old session and its counters at nought, which a sensor must never do."""
        self._abandon()
        self.counter_up = 0
        self._wake(self._schedule.time())

    def hear(self, sent: Sent) -> None:
        """Be in the field of a gateway that begins to transmit."""
        if self._receiving or not any(window.catches(sent) for window in self._windows):
            return
        self._receiving = True
        life = self._life
        self._schedule.call_at(sent.end_s, lambda: self._received(sent, life))

    # --- speaking -------------------------------------------------------------------------------------

    def _wake(self, at_s: float) -> None:
        if self._due is not None:
            self._due.cancel()
        self._due = self._schedule.call_at(at_s, lambda: self._woken(at_s))

    def _woken(self, at_s: float) -> None:
        if self.session is not None:
            self._wake(at_s + self.identity.every_s)
        if self.silent:
            if self.session is None:
                self._wake(at_s + self.identity.every_s)
            return
        if self._exchange is None:
            self._begin(at_s)

    def _begin(self, at_s: float) -> None:
        """Put together what is to be said next."""
        self._exchange = self._join() if self.session is None else self._uplink(self.session)
        self._send(at_s)

    def _join(self) -> _Exchange:
        who = self.identity
        self._dev_nonce = (self._dev_nonce + 1) & _MAX_NONCE
        self.link.data_rate = MAX_DATA_RATE - self._joins_in_a_row // _JOINS_PER_RATE % (MAX_DATA_RATE + 1)
        self._joins_in_a_row += 1
        self.counters.joins += 1
        frame = write_join_request(who.app_key, who.join_eui, who.dev_eui, self._dev_nonce)
        return _Exchange(frame, is_join=True, confirmed=False, tries_left=1)

    def _uplink(self, session: Session) -> _Exchange:
        self._adapt()
        report = self._reporter.report()
        fits = len(report.payload) <= max_payload(self.link.data_rate)
        room = max_payload(self.link.data_rate) - len(report.payload) * fits
        data = DataUp(
            counter=self.counter_up,
            port=report.port if fits else None,
            payload=report.payload if fits else b"",
            confirmed=self.identity.confirmed,
            adr=True,
            adr_ack_request=self._uplinks_unheard >= ADR_ACK_LIMIT,
            ack=self._ack_due,
            options=self._options(min(room, MAX_OPTIONS)),
        )
        if fits:
            self.reported = report.truth
        self.counter_up += 1
        self._uplinks_unheard += 1
        self._uplinks_in_session += 1
        self._ack_due = False
        self.counters.uplinks += 1
        tries = MAX_TRIES if data.confirmed else self.link.transmissions
        return _Exchange(write_data(session, data), is_join=False, confirmed=data.confirmed, tries_left=tries)

    def _options(self, room: int) -> bytes:
        """Return as many answers as there is room for; the rest waits for the next uplink."""
        waiting = self._sticky + self._answers
        if self._uplinks_in_session % LINK_CHECK_EVERY == 0:
            waiting.append(bytes((LINK_CHECK,)))
        taken = b""
        while waiting and len(taken) + len(waiting[0]) <= room:
            taken += waiting.pop(0)
        self._answers = [
            answer for answer in waiting if answer not in self._sticky and answer[0] != LINK_CHECK
        ]
        return taken

    def _adapt(self) -> None:
        """Slow down when the network has not been heard for long (5.2)."""
        beyond = self._uplinks_unheard - ADR_ACK_LIMIT
        if beyond >= ADR_ACK_DELAY and beyond % ADR_ACK_DELAY == 0:
            self.link.data_rate = max(0, self.link.data_rate - 1)
            self.link.power = 0

    def _send(self, at_s: float) -> None:
        """Transmit now, or as soon as the duty cycle allows."""
        exchange = self._exchange
        if exchange is None:
            return
        if self.silent:
            self._exchange = None
            self._wake(at_s + self.identity.every_s)
            return
        self._duty.aggregate = self.link.duty_cycle
        when_s, channels = self._duty.soonest(self.link.usable_hz(), at_s)
        if when_s > at_s:
            self._step = self._schedule.call_at(when_s, lambda: self._send(when_s))
            return
        frequency_hz = self._rng.choice(channels)
        data_rate = self._rate_of_try(exchange)
        end_s = at_s + airtime_s(len(exchange.frame), data_rate, crc=True)
        burst = Burst(exchange.frame, frequency_hz, data_rate, at_s, end_s)
        self._duty.book(frequency_hz, end_s, end_s - at_s)
        exchange.tries += 1
        exchange.tries_left -= 1
        self.counters.transmissions += 1
        self.counters.airtime_s += end_s - at_s
        self._open_windows(burst, is_join=exchange.is_join)
        self._transmit(burst)

    def _rate_of_try(self, exchange: _Exchange) -> int:
        """Return the data rate: every second repetition of a confirmed frame is slower, if it fits then."""
        slower = exchange.tries // 2 if exchange.confirmed else 0
        data_rate = max(0, self.link.data_rate - slower)
        fits = len(exchange.frame) <= max_payload(data_rate) + 13
        return data_rate if fits else self.link.data_rate

    # --- listening ------------------------------------------------------------------------------------

    def _open_windows(self, burst: Burst, *, is_join: bool) -> None:
        first_s = burst.end_s + (JOIN_RX1_S if is_join else self.link.rx1_delay_s)
        first = _Window(first_s, burst.frequency_hz, max(0, burst.data_rate - self.link.rx1_offset))
        second = _Window(first_s + SECOND_WINDOW_S, self.link.rx2_hz, self.link.rx2_data_rate)
        self._windows = (first, second)
        over_s = second.start_s + WINDOW_SYMBOLS * symbol_s(second.data_rate)
        self._step = self._schedule.call_at(over_s, lambda: self._windows_over(over_s))

    def _windows_over(self, at_s: float) -> None:
        if not self._receiving:
            self._windows = ()
            self._decide(at_s)

    def _received(self, sent: Sent, life: int) -> None:
        """Take what came, if it can be believed; otherwise the second window may still bring something."""
        if life != self._life:  # it has been restarted since
            return
        self._receiving = False
        try:
            if self._exchange is not None and self._exchange.is_join:
                self._accept(sent.frame)
            else:
                self._downlink(sent)
        except RefusedError as refused:
            count = self.counters.downlinks_refused
            count[refused.why.value] = count.get(refused.why.value, 0) + 1
            if self._windows and sent.end_s < self._windows[-1].start_s:
                return
        if self._step is not None:
            self._step.cancel()
        self._windows = ()
        self._decide(sent.end_s)

    def _accept(self, frame: bytes) -> None:
        """Take a join accept.

        Raises:
            RefusedError: it is none, or forged.
        """
        accept = read_join_accept(self.identity.app_key, self._dev_nonce, frame)
        self.session = accept.session
        self.link = Link(
            data_rate=self.link.data_rate,
            rx1_offset=accept.rx1_offset,
            rx1_delay_s=accept.rx1_delay_s,
            rx2_data_rate=accept.rx2_data_rate,
        )
        for number, frequency_hz in enumerate(accept.channels_hz, start=3):
            if sub_band(frequency_hz) is not None:
                self.link.add_channel(number, frequency_hz)
        self.counter_up, self.counter_down = 0, -1
        self._uplinks_unheard = self._uplinks_in_session = self._joins_in_a_row = 0
        self._back_off_s = _FIRST_BACK_OFF_S
        self._answers, self._sticky, self._ack_due = [], [], False
        self.counters.accepts += 1

    def _downlink(self, sent: Sent) -> None:
        """Take a data frame.

        Raises:
            RefusedError: it cannot be believed, or nobody awaits it.
        """
        if self.session is None or self._exchange is None:
            raise RefusedError(Refusal.UNEXPECTED)
        if sent.frame[:1] == bytes((JOIN_ACCEPT,)):
            raise RefusedError(Refusal.UNEXPECTED)
        data = read_data(self.session, self.counter_down, sent.frame)
        self.counter_down = data.counter
        self.counters.downlinks_accepted += 1
        self._uplinks_unheard = 0
        self._exchange.heard_something = True
        if data.ack and self._exchange.confirmed:
            self._exchange.acknowledged = True
            self.counters.acks_heard += 1
        self._obey(data, sent.snr_db)
        self._ack_due = data.confirmed
        if data.confirmed or data.pending:
            self._wake(sent.end_s + _SOON_S)

    def _obey(self, data: DataDown, snr_db: float) -> None:
        heard = obey(data.options if data.port != 0 else data.payload, self.link, _BATTERY, snr_db)
        self._answers += heard.answers
        self._sticky = heard.sticky
        self.counters.mac_commands += heard.commands
        self.counters.link_checks += heard.link_checks
        if data.port:
            understood = self._reporter.command(data.port, data.payload)
            self.counters.commands += understood
            self.counters.commands_not_understood += not understood
            if understood:
                self._wake(self._schedule.time() + _SOON_S)

    def _decide(self, at_s: float) -> None:
        """Repeat, give up or be content, now that both windows are over."""
        exchange = self._exchange
        if exchange is None:
            return
        if exchange.is_join:
            self._exchange = None
            self._joined_or_not(at_s)
        elif exchange.confirmed and not exchange.acknowledged and exchange.tries_left:
            again_s = at_s + self._rng.uniform(1.0, 3.0)
            self._step = self._schedule.call_at(again_s, lambda: self._send(again_s))
        elif not exchange.confirmed and exchange.tries_left and not exchange.heard_something:
            self._send(at_s)
        else:
            self.counters.unacknowledged += exchange.confirmed and not exchange.acknowledged
            self._exchange = None

    def _joined_or_not(self, at_s: float) -> None:
        if self.session is not None:
            self._wake(at_s + _SOON_S * self._rng.uniform(0.1, 1.0))
            return
        self._wake(at_s + self._back_off_s * self._rng.uniform(0.8, 1.2))
        self._back_off_s = min(_MAX_BACK_OFF_S, 2 * self._back_off_s)

    def _abandon(self) -> None:
        if self._step is not None:
            self._step.cancel()
        self._exchange = None
        self._windows = ()
        self._receiving = False
        self._life += 1

    def rate_name(self) -> str:
        """Return the data rate that it speaks at, as a forwarder writes it."""
        return rate_name(self.link.data_rate)
