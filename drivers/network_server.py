"""A LoRaWAN 1.0.x class A network server for one line: who may speak, what is new, what is answered.

    datagram ──▶ frame ──▶ genuine? new? ──▶ waits for further antennas, 0.2 s
                                 └────────▶ waits for the disk ──┴──▶ told ──▶ answered in RX1, else in RX2

A frame is judged the moment it comes, and its counter or nonce goes to disk while further antennas may still
bring it. What is not on disk is neither told nor answered.
"""

import secrets
from asyncio import AbstractEventLoop
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from drivers import lora_store as on_disk
from drivers.lora_answers import answers_to
from drivers.lora_devices import (
    MAX_REPEATS,
    MAX_SESSIONS,
    DataUplink,
    JoinUplink,
    RadioDevice,
    RefusedJoins,
    Session,
    Stranger,
    Told,
    Uplink,
)
from drivers.lora_downlinks import Downlinks
from drivers.lora_gateways import Gateway, Gateways
from drivers.lora_refusals import DATA_FRAMES, JOIN_REQUESTS, Refusal, Refusals
from drivers.lora_store import Kept, SessionRow, Statement, Store
from drivers.settings import LoraUdp
from protocols.clock import Instant
from protocols.errors import RemoteProtocolError
from protocols.lorawan.adr import Heard
from protocols.lorawan.frame import (
    MAC_PORT,
    MAX_PORT,
    DataFrame,
    JoinAccept,
    JoinRequest,
    read_frame,
)
from protocols.lorawan.mac import DevStatusAns, LinkAdrAns, read_commands
from protocols.lorawan.region import Region
from protocols.lorawan.security import (
    MAX_COUNTER,
    Key,
    full_counter,
    is_genuine,
    is_genuine_join,
    is_repeated,
    open_payload,
    seal_join_accept,
    session_keys,
)
from protocols.lorawan.semtech_udp import Reception
from protocols.model.ids import DeviceId

MAX_UPLINKS: Final = 4096
"""Frames that may wait for further antennas: twenty thousand genuine ones a second, far beyond any radio."""
MAX_ANTENNAS: Final = 16
"""Copies of one frame that are looked at."""
MAX_STRANGERS: Final = 64
"""Undeclared devices that are remembered, the latest ones."""
_HALF: Final = 0x10000


class NetworkServer:
    """The server of one line.

    Args:
        settings: the line's.
        region: its region.
        devices: DevEUI in lower case, and whose it is.
        now: the clock.
        store: the line's file.
        gateways: the line's gateways.
        refusals: what counts what is not taken.
        tell: called with what a device has said.

    Attributes:
        uplinks: genuine frames that were told.
        joins: join requests that were accepted.
        strangers: undeclared devices that ask to join, the latest last.
        devices: by DevEUI.
        downlinks: what is sent to them.
    """

    def __init__(
        self,
        settings: LoraUdp,
        region: Region,
        *,
        devices: Iterable[tuple[str, DeviceId]],
        now: Callable[[], Instant],
        store: Store,
        gateways: Gateways,
        refusals: Refusals,
        tell: Callable[[Told], None],
    ) -> None:
        self.uplinks = 0
        self.joins = 0
        self.strangers: OrderedDict[str, Stranger] = OrderedDict()
        self.devices = {eui: RadioDevice(device, eui) for eui, device in devices}
        self._settings = settings
        self._region = region
        self._now = now
        self._store = store
        self._refusals = refusals
        self._tell = tell
        self.downlinks = Downlinks(
            settings, region, now=now, store=store, gateways=gateways, refusals=refusals
        )
        self._by_addr: dict[int, list[Session]] = {}
        self._waiting: dict[bytes, Uplink] = {}
        self._last_session = 0
        self._loop: AbstractEventLoop | None = None

    # --- beginning and end ---

    def restore(self, kept: Kept, loop: AbstractEventLoop) -> None:
        """Take what was kept of the devices that are declared; the others' stays on disk."""
        self._loop = loop
        self._by_addr.clear()
        for row in kept.devices:
            device = self.devices.get(row.eui)
            if device is not None:
                device.restore(row)
                device.sessions.clear()
        for session in kept.sessions:
            self._last_session = max(self._last_session, session.id)
            device = self.devices.get(session.eui)
            if device is not None:
                self._begin(Session(device, session))

    def finish(self) -> None:
        """Wait for no further antennas; what is on disk is told."""
        for uplink in list(self._waiting.values()):
            self._close(uplink)

    def end_waiting(self, why: str) -> None:
        """End every downlink that waits."""
        for device in self.devices.values():
            while device.queue:
                device.queue.popleft().end(why)
            for session in device.sessions:
                awaiting, session.awaiting = session.awaiting, None
                if awaiting is not None:
                    awaiting.end(why)

    def _begin(self, session: Session) -> None:
        session.device.sessions.append(session)
        self._by_addr.setdefault(session.dev_addr, []).append(session)

    def _end(self, session: Session) -> None:
        if session in session.device.sessions:
            session.device.sessions.remove(session)
        same = self._by_addr.get(session.dev_addr, [])
        if session in same:
            same.remove(session)
        if not same:
            self._by_addr.pop(session.dev_addr, None)
        if session.awaiting is not None:
            awaiting, session.awaiting = session.awaiting, None
            awaiting.end("it joined again and did not acknowledge")

    # --- letting in ---

    async def admit(self, device: RadioDevice, raw: bytes, join_eui: str | None) -> str:
        """Keep a device's key and end its sessions; return "" once that is on disk, or why it is not."""
        key = Key(raw)
        anew = device.key is None or not device.key.same_as(raw)
        statements: list[Statement] = [
            (on_disk.ADMIT, (device.eui, raw, join_eui)),
            (on_disk.END_SESSIONS, (device.eui,)),
        ]
        if anew:
            statements.append((on_disk.FORGET_NONCES, (device.eui,)))
        before, device.key = device.key, None  # nobody joins with the old key while the new one is written
        fault = await self._store.write_now(statements)
        if fault:
            device.key = before
            return fault
        device.key, device.join_eui = key, join_eui
        if anew:
            device.nonces.clear()
        for session in tuple(device.sessions):
            self._end(session)
        device.refused = None
        return ""

    # --- what comes in ---

    def receive(self, gateway: Gateway, reception: Reception) -> None:
        """Judge one frame as one gateway heard it."""
        wire = reception.payload
        waiting = self._waiting.get(wire)
        if waiting is not None:
            self._refusals.count(Refusal.DUPLICATE, gateway.eui)
            if len(waiting.receptions) < MAX_ANTENNAS:
                waiting.receptions = (*waiting.receptions, (gateway, reception))
            gateway.proven = True
            gateway.uplinks += 1
            return
        try:
            frame = read_frame(wire)
        except RemoteProtocolError as fault:
            self._refusals.count(Refusal.LENGTH, gateway.eui, str(fault))
            return
        if self._store.is_full or len(self._waiting) >= MAX_UPLINKS:
            self._refusals.count(Refusal.BUSY, gateway.eui)
        elif isinstance(frame, JoinRequest):
            self._join(gateway, reception, frame)
        elif not frame.uplink:
            self._refusals.count(Refusal.NOT_UPLINK, gateway.eui)
        else:
            self._data(gateway, reception, frame)

    def _wait(self, uplink: Uplink, statements: Sequence[Statement]) -> None:
        """Let a genuine frame wait for further antennas and for the disk."""
        gateway = uplink.receptions[0][0]
        gateway.proven = True
        gateway.uplinks += 1
        self._waiting[uplink.wire] = uplink
        if self._loop is not None:
            self._loop.call_later(self._settings.dedup_s, self._close, uplink)
        if statements:
            self._store.write(statements, partial(self._kept, uplink))
        else:
            uplink.kept = True

    def _close(self, uplink: Uplink) -> None:
        if self._waiting.get(uplink.wire) is uplink:
            del self._waiting[uplink.wire]
        if not uplink.closed:
            uplink.closed = True
            if uplink.kept:
                self._act(uplink)

    def _kept(self, uplink: Uplink, fault: str) -> None:
        """Go on with a frame once it is on disk; if it is not, let it come again."""
        if fault:
            self._undo(uplink)
            return
        uplink.kept = True
        if isinstance(uplink, DataUplink):
            self._keep_counter(uplink)
        elif isinstance(uplink, JoinUplink):
            self._keep_session(uplink)
        if uplink.closed:
            self._act(uplink)

    def _undo(self, uplink: Uplink) -> None:
        if self._waiting.get(uplink.wire) is uplink:
            del self._waiting[uplink.wire]
        uplink.closed = True
        if isinstance(uplink, DataUplink):
            session = uplink.session
            if session.taken == uplink.counter:
                session.taken = session.up
            self._refusals.count(Refusal.NOT_KEPT, session.device.eui)
        elif isinstance(uplink, JoinUplink):
            request = read_frame(uplink.wire)
            if isinstance(request, JoinRequest):
                uplink.session.device.nonces.discard(request.dev_nonce)
            self._refusals.count(Refusal.NOT_KEPT, uplink.session.device.eui)

    def _act(self, uplink: Uplink) -> None:
        if isinstance(uplink, DataUplink):
            if uplink.again:
                self.downlinks.answer(uplink, ())
            else:
                self._act_on_data(uplink)
        elif isinstance(uplink, JoinUplink):
            self.downlinks.accept(uplink)

    # --- joining ---

    def _join(self, gateway: Gateway, reception: Reception, request: JoinRequest) -> None:
        eui = f"{request.dev_eui:016x}"
        device = self.devices.get(eui)
        if device is None:
            self._meet(eui, request, reception)
            self._refusals.count(Refusal.UNKNOWN_DEVICE, JOIN_REQUESTS, f"the latest from {eui}")
            return
        why = self._join_fault(device, reception, request)
        if why is not None:
            self._refusals.count(why, eui)
            times = device.refused.times + 1 if device.refused else 1
            device.refused = RefusedJoins(why, times, self._now().monotonic_ms)
            return
        assert device.key is not None  # noqa: S101  judged just before
        accept, row = self._new_session(device, device.key, request)
        device.nonces.add(request.dev_nonce)
        session = Session(device, row)
        uplink = JoinUplink(
            wire=reception.payload,
            heard_ms=self._now().monotonic_ms,
            receptions=((gateway, reception),),
            session=session,
            accept=seal_join_accept(device.key, accept),
        )
        self._wait(
            uplink,
            [
                (on_disk.USED_NONCE, (eui, request.dev_nonce)),
                (on_disk.JOIN_NONCE, (device.join_nonce, eui)),
                *((on_disk.END_SESSION, (one.id,)) for one in self._surplus(device)),
                (
                    on_disk.BEGIN_SESSION,
                    (row.id, eui, row.dev_addr, row.network, row.application, row.rx1_delay_s),
                ),
            ],
        )

    def _meet(self, eui: str, request: JoinRequest, reception: Reception) -> None:
        before = self.strangers.pop(eui, None)
        times = before.times + 1 if before else 1
        self.strangers[eui] = Stranger(
            eui, f"{request.join_eui:016x}", times, reception.rssi_dbm, reception.snr_db
        )
        if len(self.strangers) > MAX_STRANGERS:
            self.strangers.popitem(last=False)

    def _join_fault(self, device: RadioDevice, reception: Reception, request: JoinRequest) -> Refusal | None:
        if device.key is None:
            return Refusal.NO_KEY
        if device.join_eui not in {None, f"{request.join_eui:016x}"}:
            return Refusal.JOIN_EUI
        if not is_genuine_join(reception.payload, device.key):
            return Refusal.WRONG_MIC
        if request.dev_nonce in device.nonces:
            return Refusal.NONCE
        if self._region.number_of(reception.modulation) is None:
            return Refusal.DATA_RATE
        return None

    def _new_session(
        self, device: RadioDevice, key: Key, request: JoinRequest
    ) -> tuple[JoinAccept, SessionRow]:
        """Make a session: a JoinNonce that counts up never comes twice (1.0.4, 6.2.5)."""
        device.join_nonce += 1
        self._last_session += 1
        accept = JoinAccept(
            app_nonce=device.join_nonce,
            net_id=self._settings.net_id,
            dev_addr=self._free_address(),
            rx2_data_rate=self._region.rx2_data_rate,
            rx_delay_s=self._settings.rx1_delay_s,
            cf_list=self._region.more_channels_hz,
        )
        keys = session_keys(key, accept.app_nonce, accept.net_id, request.dev_nonce)
        row = SessionRow(
            id=self._last_session,
            eui=device.eui,
            dev_addr=accept.dev_addr,
            network=keys.network.reveal(),
            application=keys.application.reveal(),
            rx1_delay_s=accept.rx_delay_s,
            up=-1,
            down=0,
            heard=0,
            power_index=0,
            nb_trans=1,
        )
        return accept, row

    def _free_address(self) -> int:
        """Return an address that no session has: seven bits of the NetID and 25 by chance (6.1.1)."""
        while True:
            address = (self._settings.net_id & 0x7F) << 25 | secrets.randbelow(1 << 25)
            if address not in self._by_addr:
                return address

    def _keep_session(self, uplink: JoinUplink) -> None:
        device = uplink.session.device
        for surplus in self._surplus(device):
            self._end(surplus)
        self._begin(uplink.session)
        device.refused = None
        self.joins += 1

    def _surplus(self, device: RadioDevice) -> list[Session]:
        """Return the sessions that were never used and have to make room for another."""
        unused = [session for session in device.sessions if not session.heard]
        return unused[: max(len(unused) - MAX_SESSIONS + 1, 0)]

    # --- data ---

    def _data(self, gateway: Gateway, reception: Reception, frame: DataFrame) -> None:
        sessions = self._by_addr.get(frame.dev_addr)
        if sessions is None:
            self._refusals.count(Refusal.UNKNOWN_DEVICE, DATA_FRAMES, f"the latest of {frame.dev_addr:08x}")
            return
        wire = reception.payload
        for session in sessions:
            following = session.taken + 1
            if is_repeated(frame.counter, following):
                if is_genuine(wire, session.keys.network, frame, session.taken):
                    self._repeated(gateway, reception, session, frame)
                    return
                continue
            counter = full_counter(frame.counter, following)
            if counter - following >= self._settings.counter_gap or counter > MAX_COUNTER:
                continue
            if is_genuine(wire, session.keys.network, frame, counter):
                self._take(gateway, reception, session, frame, counter)
                return
        self._name(wire, frame, sessions)

    def _take(
        self, gateway: Gateway, reception: Reception, session: Session, frame: DataFrame, counter: int
    ) -> None:
        session.taken = counter
        session.repeats = 0
        statements: list[Statement] = [(on_disk.UP, (counter, session.id))]
        if not session.heard:
            statements.append((on_disk.END_OLDER, (session.device.eui, session.id)))
        self._wait(
            DataUplink(
                wire=reception.payload,
                heard_ms=self._now().monotonic_ms,
                receptions=((gateway, reception),),
                session=session,
                frame=frame,
                counter=counter,
            ),
            statements,
        )

    def _repeated(self, gateway: Gateway, reception: Reception, session: Session, frame: DataFrame) -> None:
        """Drop a frame that was taken before; if it is confirmed its device did not hear us: acknowledge again."""
        self._refusals.count(Refusal.REPEATED, session.device.eui)
        if frame.confirmed and session.up == session.taken and session.repeats < MAX_REPEATS:
            session.repeats += 1
            uplink = DataUplink(
                wire=reception.payload,
                heard_ms=self._now().monotonic_ms,
                receptions=((gateway, reception),),
                session=session,
                frame=frame,
                counter=session.taken,
                again=True,
            )
            self._wait(uplink, ())

    def _name(self, wire: bytes, frame: DataFrame, sessions: Sequence[Session]) -> None:
        """Say why a frame is none of these sessions' next: old, too far ahead, or not genuine at all."""
        for session in sessions:
            ahead = full_counter(frame.counter, session.taken + 1)
            for counter, why in ((ahead - _HALF, Refusal.REPLAY), (ahead, Refusal.COUNTER)):
                if 0 <= counter <= MAX_COUNTER and is_genuine(wire, session.keys.network, frame, counter):
                    self._refusals.count(why, session.device.eui)
                    return
        self._refusals.count(Refusal.WRONG_MIC, f"{frame.dev_addr:08x}")

    def _keep_counter(self, uplink: DataUplink) -> None:
        session = uplink.session
        session.up = max(session.up, uplink.counter)
        if not session.heard:
            session.heard = True
            for older in tuple(session.device.sessions):
                if older.id < session.id:
                    self._end(older)

    def _act_on_data(self, uplink: DataUplink) -> None:
        """Tell what a device said, and answer it if it wants or needs an answer."""
        frame, session = uplink.frame, uplink.session
        plain = open_payload(session.keys, frame, uplink.counter) if frame.payload else b""
        row = plain if frame.port == MAC_PORT else frame.options
        commands = read_commands(row, uplink=True).commands if row else ()
        best = max(uplink.receptions, key=lambda one: (one[1].snr_db, one[1].rssi_dbm))[1]
        session.history.append(Heard(uplink.counter, best.snr_db))
        battery: int | None = None
        for command in commands:
            if isinstance(command, DevStatusAns):
                battery = command.battery
            elif isinstance(command, LinkAdrAns):
                self._link_answered(session, command)
        answered, session.awaiting = session.awaiting, None
        self.uplinks += 1
        self._tell(
            Told(
                device=session.device.id,
                at_ms=uplink.heard_ms,
                counter=uplink.counter,
                rssi_dbm=best.rssi_dbm,
                snr_db=best.snr_db,
                antennas=len({gateway.eui for gateway, _ in uplink.receptions}),
                port=self._application_port(frame, session),
                payload=plain,
                battery=battery,
                answered=answered,
                acknowledged=frame.ack,
            )
        )
        wanted = answers_to(
            commands, uplink, best, now=self._now(), settings=self._settings, region=self._region
        )
        if wanted or frame.confirmed or frame.adr_ack_req or session.device.queue:
            self.downlinks.answer(uplink, wanted)

    def _application_port(self, frame: DataFrame, session: Session) -> int | None:
        if frame.port is None or frame.port == MAC_PORT or not frame.payload:
            return None
        if frame.port > MAX_PORT:
            self._refusals.count(Refusal.PORT, session.device.eui, f"port {frame.port}")
            return None
        return frame.port

    def _link_answered(self, session: Session, answer: LinkAdrAns) -> None:
        asked, session.asked = session.asked, None
        if asked is not None and answer.power_ok and answer.data_rate_ok and answer.channel_mask_ok:
            session.power_index, session.nb_trans = asked.power_index, max(asked.nb_trans, 1)
            self._store.write(
                [(on_disk.LINK, (session.power_index, session.nb_trans, session.id))], lambda _: None
            )
