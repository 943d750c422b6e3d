"""What a network server sends to a device after it has spoken: one downlink, in RX1 or else in RX2.

Its counter and its airtime are on disk before it is given to a gateway.
"""

from collections.abc import Callable, Sequence
from functools import partial

from drivers import lora_store as on_disk
from drivers.lora_answers import note_asked, that_fit
from drivers.lora_devices import MAX_QUEUED, DataUplink, JoinUplink, Outgoing, RadioDevice, Session
from drivers.lora_gateways import Downlink, Gateway, Gateways, Window
from drivers.lora_refusals import DOWNLINKS, Refusal, Refusals
from drivers.lora_store import Store
from drivers.settings import LoraUdp
from protocols.clock import Instant
from protocols.lorawan.frame import DataFrame
from protocols.lorawan.mac import Command, write_commands
from protocols.lorawan.region import Region
from protocols.lorawan.security import MAX_COUNTER, seal
from protocols.lorawan.semtech_udp import Reception


class Downlinks:
    """The downlinks of one line.

    Args:
        settings: the line's.
        region: its region.
        now: the clock.
        store: the line's file.
        gateways: the line's gateways.
        refusals: what counts what is not sent.
    """

    def __init__(
        self,
        settings: LoraUdp,
        region: Region,
        *,
        now: Callable[[], Instant],
        store: Store,
        gateways: Gateways,
        refusals: Refusals,
    ) -> None:
        self._settings = settings
        self._region = region
        self._now = now
        self._store = store
        self._gateways = gateways
        self._refusals = refusals

    def queue(self, device: RadioDevice, outgoing: Outgoing) -> bool:
        """Let a downlink wait for its device; False if too many do."""
        for other in tuple(device.queue):
            if other.point == outgoing.point:
                device.queue.remove(other)
                other.end("another value was asked for meanwhile")
        if len(device.queue) >= MAX_QUEUED:
            return False
        device.queue.append(outgoing)
        return True

    def withdraw(self, device: RadioDevice, outgoing: Outgoing) -> None:
        """Take a downlink back, or stop waiting for its acknowledgement."""
        if outgoing in device.queue:
            device.queue.remove(outgoing)
        for session in device.sessions:
            if session.awaiting is outgoing:
                session.awaiting = None

    def accept(self, uplink: JoinUplink) -> None:
        """Answer a join request whose session is on disk (6.2.5: 5 s, else 6 s)."""
        via = self._gateways.best(uplink.receptions)
        eui = uplink.session.device.eui
        if via is None:
            self._refusals.count(Refusal.NO_PATH, eui)
            return
        windows = self._windows(via[1], self._region.join_delay_s)
        booking = self._gateways.book(via, windows, len(uplink.accept), uplink.heard_ms)
        if isinstance(booking, Refusal):
            self._refusals.count(booking, eui)
            return
        downlink = Downlink(uplink.accept, booking, lambda _: None)
        self._store.write(self._gateways.written(booking), partial(self._transmit, downlink))

    def answer(self, uplink: DataUplink, wanted: Sequence[Command]) -> None:
        """Send one downlink in the windows after an uplink: with what waits for the device, or else without."""
        device = uplink.session.device
        if uplink.session.down > MAX_COUNTER:
            return  # after four thousand million downlinks a device has to join again
        via = self._gateways.best(uplink.receptions)
        if via is None:
            self._refusals.count(Refusal.NO_PATH, device.eui)
            return
        commands = that_fit(wanted)
        windows = self._windows(via[1], uplink.session.rx1_delay_s)
        why: Refusal | None = Refusal.TOO_LATE
        if device.queue and not uplink.again:
            why = self._send(uplink, via, windows, commands, device.queue[0])
        if why is not None and (commands or uplink.frame.confirmed or uplink.frame.adr_ack_req):
            why = self._send(uplink, via, windows, commands, None)
        if why is not None:
            self._refusals.count(why, device.eui)

    def _send(
        self,
        uplink: DataUplink,
        via: tuple[Gateway, Reception],
        windows: Sequence[Window],
        commands: Sequence[Command],
        carried: Outgoing | None,
    ) -> Refusal | None:
        """Book, write down and transmit one downlink; return why that cannot be."""
        session = uplink.session
        frame = self._downlink(uplink, write_commands(commands), carried)
        wire = seal(session.keys, frame, session.down)
        body = len(frame.options) + len(frame.payload)
        fitting = [window for window in windows if body <= self._room(window)]
        booking = self._gateways.book(via, fitting, len(wire), uplink.heard_ms)
        if isinstance(booking, Refusal):
            return booking
        session.down += 1
        note_asked(commands, uplink, self._now())
        if carried is not None:
            session.device.queue.remove(carried)
        downlink = Downlink(wire, booking, partial(self._sent, session, carried))
        statements = [(on_disk.DOWN, (session.down, session.id)), *self._gateways.written(booking)]
        self._store.write(statements, partial(self._send_kept, session, carried, downlink))
        return None

    def _downlink(self, uplink: DataUplink, options: bytes, carried: Outgoing | None) -> DataFrame:
        session = uplink.session
        return DataFrame(
            uplink=False,
            confirmed=carried is not None,
            dev_addr=session.dev_addr,
            counter=0,
            adr=self._settings.adr,
            ack=uplink.frame.confirmed,
            pending=len(session.device.queue) > (carried is not None),
            options=options,
            port=None if carried is None else carried.port,
            payload=b"" if carried is None else carried.payload,
        )

    def _room(self, window: Window) -> int:
        number = self._region.number_of(window.modulation)
        return -1 if number is None else self._region.data_rates[number].max_payload

    def _send_kept(self, session: Session, carried: Outgoing | None, downlink: Downlink, fault: str) -> None:
        if carried is not None and not fault:
            carried.sent = True
            session.awaiting = carried
        self._transmit(downlink, fault)

    def _sent(self, session: Session, carried: Outgoing | None, why: str) -> None:
        """Take note of what became of a downlink: nobody waits for the acknowledgement of one that was not sent."""
        if carried is None or not why:
            return
        if session.awaiting is carried:
            session.awaiting = None
        carried.sent = False
        carried.end(why)

    def _windows(self, reception: Reception, delay_s: int) -> list[Window]:
        """Return RX1, on the uplink's channel, and RX2."""
        rates = self._region.data_rates
        rx2 = Window(delay_s + 1, self._region.rx2_hz, rates[self._region.rx2_data_rate].modulation)
        number = self._region.number_of(reception.modulation)
        if number is None:
            return [rx2]
        rx1 = rates[self._region.rx1_data_rate(number, 0)].modulation
        return [Window(delay_s, reception.frequency_hz, rx1), rx2]

    def _transmit(self, downlink: Downlink, fault: str) -> None:
        if fault:
            self._refusals.count(Refusal.NOT_KEPT, DOWNLINKS, fault)
            self._gateways.release(downlink.booking)
            downlink.done(f"the disk refuses: {fault}")
        else:
            self._gateways.transmit(downlink)
