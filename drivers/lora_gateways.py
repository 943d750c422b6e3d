"""The gateways of a line: who is there, who can be reached, and downlinks on their way through them.

    booked ──transmit──▶ asked ──TX_ACK──▶ sent
       │                   ├──error──▶ booked in the next window, or failed
       └──too late─────────┘
                           └──no TX_ACK──▶ sent, as far as anybody knows (old forwarders never say)

A downlink goes to the gateway that heard the device best among those that can be reached. Each gateway has a
ledger of its own, because the duty cycle binds each transmitter.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import msgspec

from drivers.lora_refusals import Refusal, Refusals
from drivers.lora_store import FORGET_SENT, SENT, SentRow, Statement
from drivers.settings import LoraUdp
from protocols.clock import ClockQuality, Instant
from protocols.lorawan.airtime import Modulation, time_on_air_us
from protocols.lorawan.ledger import HOUR_MS, Entry, Ledger, Stamp, age_ms
from protocols.lorawan.region import Region
from protocols.lorawan.semtech_udp import Reception, Transmission, TxAck, later, pull_resp

MAX_GATEWAYS: Final = 32
"""Of one line. A newcomer displaces one that never brought a genuine frame, so a flood of names locks nobody out."""
MAX_ASKED: Final = 256
"""Downlinks that wait for their TX_ACK: more than one gateway can send in the seconds that they may wait."""
TX_ACK_S: Final = 3.0
"""How long after its window a downlink's TX_ACK is still awaited."""

Address: TypeAlias = tuple[str, int]
Send: TypeAlias = Callable[[bytes, Address], None]


class Window(msgspec.Struct, frozen=True):
    """A receive window of a device: when it opens after the end of its uplink, and where it listens."""

    delay_s: int
    frequency_hz: int
    modulation: Modulation


class Gateway:
    """One gateway.

    Attributes:
        eui: its EUI, 16 hexadecimal digits.
        address: where its downlinks go; None before its first PULL_DATA.
        pulled_ms: when it last sent PULL_DATA.
        heard_ms: when it last sent anything.
        proven: whether it ever brought a genuine frame.
        uplinks: how many it brought.
        ledger: what it has sent.
    """

    __slots__ = ("address", "eui", "heard_ms", "ledger", "proven", "pulled_ms", "uplinks")

    def __init__(self, eui: str, now_ms: int) -> None:
        self.eui = eui
        self.address: Address | None = None
        self.pulled_ms = now_ms
        self.heard_ms = now_ms
        self.proven = False
        self.uplinks = 0
        self.ledger = Ledger()


Receptions: TypeAlias = Sequence[tuple[Gateway, Reception]]


class Booking(msgspec.Struct, frozen=True):
    """Airtime that is reserved for a downlink in one window of a device."""

    gateway: Gateway
    tmst: int
    heard_ms: int
    window: Window
    later: tuple[Window, ...]
    power_dbm: int
    entry: Entry


class Downlink:
    """A frame on its way to a device.

    Attributes:
        wire: the PHYPayload; the same in whichever window it goes out.
        booking: where it is to go out.
        done: called once: with "" when it was sent, or with why it was not.
    """

    __slots__ = ("booking", "done", "timer", "wire")

    def __init__(self, wire: bytes, booking: Booking, done: Callable[[str], None]) -> None:
        self.wire = wire
        self.booking = booking
        self.done = done
        self.timer: asyncio.TimerHandle | None = None


class Gateways:
    """All gateways of one line.

    Args:
        settings: the line's.
        region: its region.
        now: the clock.
        refusals: what counts what is not taken.
        keep: commits what must be on disk before something is transmitted.
        boot: which boot of the machine this is, for the ledger.

    Attributes:
        send: sends a datagram; set while the socket is open.
        asked: how many downlinks were given to gateways.
        unacknowledged: how many of them no TX_ACK answered.
    """

    def __init__(
        self,
        settings: LoraUdp,
        region: Region,
        *,
        now: Callable[[], Instant],
        refusals: Refusals,
        keep: Callable[[Sequence[Statement], Callable[[str], None]], None],
        boot: str,
    ) -> None:
        self.send: Send | None = None
        self.asked = 0
        self.unacknowledged = 0
        self._settings = settings
        self._region = region
        self._now = now
        self._refusals = refusals
        self._keep = keep
        self._boot = boot
        self._allowed = {eui.lower() for eui in settings.gateways}
        self._timeout_ms = round(settings.gateway_timeout_s * 1000)
        self._known: dict[str, Gateway] = {}
        self._on_air: dict[int, Downlink] = {}
        self._books: dict[str, Ledger] = {}

    # --- who is there ---

    def known(self) -> list[Gateway]:
        """Return every gateway that was heard."""
        return list(self._known.values())

    def is_reachable(self, gateway: Gateway, now_ms: int) -> bool:
        """Tell whether a gateway has sent PULL_DATA within its time."""
        return gateway.address is not None and now_ms - gateway.pulled_ms <= self._timeout_ms

    def any_reachable(self, now_ms: int) -> bool:
        """Tell whether any gateway can be reached."""
        return any(self.is_reachable(gateway, now_ms) for gateway in self._known.values())

    def spoke(self, number: int, address: Address, now_ms: int) -> Gateway | None:
        """Return the gateway that sent something; None if it is not to be listened to."""
        eui = f"{number:016x}"
        gateway = self._known.get(eui)
        if gateway is None:
            gateway = self._meet(eui, address, now_ms)
        if gateway is not None:
            gateway.heard_ms = now_ms
        return gateway

    def _meet(self, eui: str, address: Address, now_ms: int) -> Gateway | None:
        if self._allowed and eui not in self._allowed:
            self._refusals.count(Refusal.GATEWAY_NOT_ALLOWED, address[0], f"gateway {eui}")
            return None
        if len(self._known) >= MAX_GATEWAYS and not self._make_room(now_ms):
            self._refusals.count(Refusal.TOO_MANY_GATEWAYS, address[0], f"gateway {eui}")
            return None
        gateway = self._known[eui] = Gateway(eui, now_ms)
        book = self._books.pop(eui, None)
        if book is not None:
            gateway.ledger, gateway.proven = book, True
        return gateway

    def _make_room(self, now_ms: int) -> bool:
        """Forget one that never brought a genuine frame, so never sent any, or that has been away for an hour."""
        idle = [
            gateway
            for gateway in self._known.values()
            if not gateway.proven or now_ms - gateway.heard_ms > HOUR_MS
        ]
        if not idle:
            return False
        del self._known[min(idle, key=lambda gateway: gateway.heard_ms).eui]
        return True

    def pulled(self, gateway: Gateway, address: Address, now_ms: int) -> bool:
        """Take note of where a gateway can be reached; False if it is reachable elsewhere.

        Another port of the same host is a forwarder that was started anew; another host has to wait until the
        first has been silent, so that nobody draws downlinks to himself by a name.
        """
        moved = gateway.address is not None and gateway.address[0] != address[0]
        if moved and self.is_reachable(gateway, now_ms):
            self._refusals.count(Refusal.GATEWAY_MOVED, address[0], f"gateway {gateway.eui}")
            return False
        gateway.address = address
        gateway.pulled_ms = now_ms
        return True

    # --- what was sent before ---

    def restore(self, sent: Sequence[SentRow]) -> list[Statement]:
        """Take what earlier runs have sent; return what brings their stamps to this boot's clock."""
        now = self._now()
        stamp = self._stamp(now)
        rewritten: list[Statement] = []
        self._books.clear()
        for row in sent:
            age = age_ms(Stamp(row.boot, row.monotonic_ms, row.utc_ms), stamp)
            entry = Entry(row.band, now.monotonic_ms - age, row.airtime_us)
            if row.gateway not in self._known:  # else its ledger is at hand
                self._books.setdefault(row.gateway, Ledger()).restore([entry])
            rewritten.append(self._sent(row.gateway, entry, now))
        return rewritten

    def _stamp(self, now: Instant) -> Stamp:
        trusted = now.quality is ClockQuality.SYNCHRONISED
        return Stamp(self._boot, now.monotonic_ms, now.utc_ms if trusted else None)

    def _sent(self, gateway: str, entry: Entry, now: Instant) -> Statement:
        stamp = self._stamp(Instant(entry.end_ms, now.utc_ms + entry.end_ms - now.monotonic_ms, now.quality))
        return SENT, (gateway, entry.band, entry.airtime_us, stamp.boot, stamp.monotonic_ms, stamp.utc_ms)

    def written(self, booking: Booking) -> list[Statement]:
        """Return what must be on disk before a booking is used."""
        now = self._now()
        return [
            self._sent(booking.gateway.eui, booking.entry, now),
            (FORGET_SENT, (self._boot, now.monotonic_ms - HOUR_MS)),
        ]

    # --- downlinks ---

    def best(self, receptions: Receptions) -> tuple[Gateway, Reception] | None:
        """Return who heard a frame best among those that can be reached."""
        now_ms = self._now().monotonic_ms
        reachable = [one for one in receptions if self.is_reachable(one[0], now_ms)]
        return max(reachable, key=lambda one: (one[1].snr_db, one[1].rssi_dbm), default=None)

    def book(
        self, via: tuple[Gateway, Reception], windows: Sequence[Window], size: int, heard_ms: int
    ) -> Booking | Refusal:
        """Reserve airtime in the first window that can still be met and that the ledger allows."""
        gateway, reception = via
        return self._book(gateway, reception.tmst, heard_ms, windows, size)

    def _book(
        self, gateway: Gateway, tmst: int, heard_ms: int, windows: Sequence[Window], size: int
    ) -> Booking | Refusal:
        why = Refusal.TOO_LATE
        now_ms = self._now().monotonic_ms
        for position, window in enumerate(windows):
            if not self._in_time(window, heard_ms, now_ms):
                continue
            band = self._region.sub_band(window.frequency_hz, window.modulation)
            airtime_us = time_on_air_us(window.modulation, size, crc=False)
            start_ms = heard_ms + window.delay_s * 1000
            entry = gateway.ledger.reserve(band, airtime_us, start_ms, now_ms) if band is not None else None
            if band is None or entry is None:
                why = Refusal.DUTY_CYCLE
                continue
            power = min(self._settings.power_dbm, int(band.eirp_dbm - self._settings.antenna_gain_db))
            rest = tuple(windows[position + 1 :])
            return Booking(gateway, tmst, heard_ms, window, rest, power, entry)
        return why

    def _in_time(self, window: Window, heard_ms: int, now_ms: int) -> bool:
        return now_ms + self._settings.lead_s * 1000 <= heard_ms + window.delay_s * 1000

    def release(self, booking: Booking) -> None:
        """Give back airtime that was not used."""
        booking.gateway.ledger.release(booking.entry)

    def transmit(self, downlink: Downlink) -> None:
        """Give a downlink whose booking is on disk to its gateway."""
        booking = downlink.booking
        address = booking.gateway.address
        if not self._in_time(booking.window, booking.heard_ms, self._now().monotonic_ms):
            self._next_window(downlink, "too late for its window")
            return
        if self.send is None or address is None or len(self._on_air) >= MAX_ASKED:
            self._failed(downlink, "the gateway cannot be reached")
            return
        token = self._free_token()
        self._on_air[token] = downlink
        wait_s = booking.window.delay_s + TX_ACK_S
        downlink.timer = asyncio.get_running_loop().call_later(wait_s, self._unanswered, token)
        self.asked += 1
        transmission = Transmission(
            payload=downlink.wire,
            tmst=later(booking.tmst, booking.window.delay_s),
            frequency_hz=booking.window.frequency_hz,
            modulation=booking.window.modulation,
            power_dbm=booking.power_dbm,
        )
        self.send(pull_resp(token, transmission), address)

    def _free_token(self) -> int:
        token = secrets.randbelow(1 << 16)
        while token in self._on_air:
            token = secrets.randbelow(1 << 16)
        return token

    def acknowledged(self, ack: TxAck, gateway: Gateway) -> None:
        """Take what a gateway says to a downlink."""
        downlink = self._on_air.get(ack.token)
        if downlink is None or downlink.booking.gateway is not gateway:
            self._refusals.count(Refusal.STRAY_TX_ACK, gateway.eui)
            return
        del self._on_air[ack.token]
        if downlink.timer is not None:
            downlink.timer.cancel()
        if not ack.error:
            downlink.done("")
            return
        self._refusals.count(Refusal.NOT_SENT, gateway.eui, ack.error)
        self._next_window(downlink, f"the gateway says {ack.error}")

    def _unanswered(self, token: int) -> None:
        downlink = self._on_air.pop(token)
        self.unacknowledged += 1
        downlink.done("")

    def _next_window(self, downlink: Downlink, why: str) -> None:
        """Try what is left of a device's windows: for certain nothing was sent in this one."""
        old = downlink.booking
        self.release(old)
        new = self._book(old.gateway, old.tmst, old.heard_ms, old.later, len(downlink.wire))
        if isinstance(new, Refusal):
            downlink.done(why)
            return
        downlink.booking = new
        self._keep(self.written(new), lambda fault: self._kept(downlink, fault))

    def _kept(self, downlink: Downlink, fault: str) -> None:
        if fault:
            self._failed(downlink, fault)
        else:
            self.transmit(downlink)

    def _failed(self, downlink: Downlink, why: str) -> None:
        self.release(downlink.booking)
        downlink.done(why)

    def close(self) -> None:
        """Stop waiting for what gateways still might say."""
        for downlink in self._on_air.values():
            if downlink.timer is not None:
                downlink.timer.cancel()
            downlink.done("")
        self._on_air.clear()
        self.send = None
