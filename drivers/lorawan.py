"""Radio sensors behind Semtech UDP packet forwarders: a LoRaWAN network server as a line of the cabinet.

CONNECTING ──PULL_DATA──▶ UP ──none for gateway_timeout_s, or the disk refuses──▶ DOWN ──▶ UP
     └──none for gateway_timeout_s, no port, no file──▶ DOWN
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NoReturn, Protocol, cast

from drivers.already_said import AlreadySaid
from drivers.base import (
    Admission,
    Found,
    LineHealth,
    LineState,
    Looked,
    PolledPoint,
    Priority,
    Written,
)
from drivers.errors import LineDownError
from drivers.hearing import HearingDriver, LastHeard
from drivers.lora_devices import Outgoing, RadioDevice, Told
from drivers.lora_gateways import Address, Gateways
from drivers.lora_refusals import SOURCES, Refusal, Refusals
from drivers.lora_sensor import Sensor
from drivers.lora_store import FORGET_ALL_SENT, TRIAL, Store
from drivers.network_server import NetworkServer
from drivers.settings import DeviceSettings, LoraUdp
from protocols.clock import Clock
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.lorawan.payloads import CODECS
from protocols.lorawan.region import REGIONS
from protocols.lorawan.semtech_udp import PullData, PushData, acknowledgement, read_datagram
from protocols.model.command import CommandState
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Fault, Value

RECEIVE_BUFFER: Final = 1 << 20
"""Bytes that the kernel holds while the loop is busy: a burst of all gateways at once."""
MAX_UNSENT_BYTES: Final = 1 << 16
"""What may wait while the kernel takes no datagrams: a flood of questions must not become one of answers."""
LOOK_S: Final = 1.0
"""How often the gateways and the disk are looked after, at least."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_JOIN_EUIS: Final = 1 << 64


def open_lorawan(
    settings: LoraUdp, devices: Sequence[DeviceSettings], clock: Clock, directory: Path
) -> "LorawanDriver":
    """Make the driver of a LoRaWAN line."""
    return LorawanDriver(settings, devices, clock, directory)


def boot_id() -> str:
    """Return which boot of the machine this is; "" where the kernel does not say."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


class _Sender(Protocol):
    """A datagram transport with what typeshed leaves out of it."""

    def sendto(self, data: bytes, addr: Address) -> None:
        """Send a datagram, now or later."""
        ...

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait for the kernel."""
        ...


class _Socket(asyncio.DatagramProtocol):
    """The line's UDP socket.

    Attributes:
        closed: set once it is gone.
    """

    def __init__(self, received: Callable[[bytes, Address], None], lost: Callable[[str], None]) -> None:
        self._received = received
        self._lost = lost
        self.closed = asyncio.Event()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Take a datagram."""
        self._received(data, (addr[0], addr[1]))

    def error_received(self, exc: Exception) -> None:
        """Pass over what an earlier datagram met: a forwarder that has gone is noticed by its silence."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that the socket is gone."""
        self.closed.set()
        self._lost(f"its socket was closed: {exc}" if exc else "its socket was closed")


class LorawanDriver(HearingDriver):
    """One LoRaWAN line."""

    def __init__(
        self, settings: LoraUdp, devices: Sequence[DeviceSettings], clock: Clock, directory: Path
    ) -> None:
        super().__init__(settings, devices, clock)
        self._settings = settings
        region = REGIONS[settings.region]
        self._sensors = {device.id: Sensor(device, settings, CODECS[device.map]) for device in devices}
        euis = (*(sensor.eui for sensor in self._sensors.values()), *map(str.lower, settings.gateways))
        already = AlreadySaid(self._now_ms, (*SOURCES, *euis))
        self._refusals = Refusals(self._log, already)
        self._store = Store(directory / f"{settings.id}.db", self._log)
        self._gateways = Gateways(
            settings, region, now=clock.now, refusals=self._refusals, keep=self._store.write, boot=boot_id()
        )
        self._server = NetworkServer(
            settings,
            region,
            devices=[(sensor.eui, sensor.id) for sensor in self._sensors.values()],
            now=clock.now,
            store=self._store,
            gateways=self._gateways,
            refusals=self._refusals,
            tell=self._heard,
        )
        self._opening = asyncio.Lock()
        self._wake = asyncio.Event()
        self._lost: str | None = None
        self._running = False
        self._turned_away = 0

    # --- the contract ---

    def points(self, device: DeviceId) -> tuple[PolledPoint, ...]:
        """Return what a device can tell."""
        return self._sensor(device).points

    def _sensor(self, device: DeviceId) -> Sensor:
        sensor = self._sensors.get(device)
        if sensor is None:
            raise LocalProtocolError(f"{device} is not on {self.line}")
        return sensor

    def _last(self, device: DeviceId) -> LastHeard:
        return self._sensor(device).last

    def _radio(self, device: DeviceId) -> RadioDevice:
        return self._server.devices[self._sensor(device).eui]

    async def write(
        self,
        device: DeviceId,
        point: PointName,
        value: Value,
        *,
        ramp_s: float = 0.0,
        priority: Priority = Priority.COMMAND,  # noqa: ARG002  a device takes one downlink an uplink, in order
        begin_within_s: float | None = None,
    ) -> Written:
        """Queue a confirmed downlink that goes out after the device's next uplink; see `RadioDriver.write`.

        APPLIED means that the device acknowledged it, VERIFIED that it also told the value that was written.
        """
        sensor = self._sensor(device)
        if not sensor.point(point).writable or sensor.codec.encode is None:
            raise LocalProtocolError(f"{device}'s {point} cannot be written")
        if ramp_s:
            raise LocalProtocolError(f"{device} cannot ramp")
        port, payload = sensor.codec.encode(point, value)
        if self._standing.state is not LineState.UP:
            return Written(CommandState.FAILED, None, self._standing.reason or "the line is not up yet")
        if not self._radio(device).sessions:
            return Written(CommandState.FAILED, None, self.admission(device)[1])
        outgoing = Outgoing(point, value, port, payload)
        ended: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        outgoing.on_end = lambda why: _end(ended, _unacknowledged(outgoing, why))
        outgoing.on_acknowledged = lambda: _end(ended, _acknowledged(outgoing, sensor))
        if not self._server.downlinks.queue(self._radio(device), outgoing):
            self._turned_away += 1
            return Written(CommandState.FAILED, None, "too many downlinks wait for it")
        limit_s = self._settings.write_timeout_s
        loop = asyncio.get_running_loop()
        outgoing.timers = (
            loop.call_later(limit_s, self._expire, device, outgoing),
            loop.call_later(
                limit_s if begin_within_s is None else begin_within_s, self._drop, device, outgoing
            ),
        )
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            self._drop(device, outgoing)
            raise

    def _drop(self, device: DeviceId, outgoing: Outgoing) -> None:
        """Take a downlink back that waits for its device; one that was sent is waited for all the same."""
        if outgoing in self._radio(device).queue:
            self._server.downlinks.withdraw(self._radio(device), outgoing)
            outgoing.end("it did not speak before the command expired")

    def _expire(self, device: DeviceId, outgoing: Outgoing) -> None:
        self._server.downlinks.withdraw(self._radio(device), outgoing)
        outgoing.end(f"it did not {'acknowledge' if outgoing.sent else 'speak'} in time")

    async def admit(self, device: DeviceId, key: bytes, join_eui: int | None = None) -> None:
        """Keep a device's AppKey, on disk when this returns; its sessions are ended.

        Raises:
            LocalProtocolError: if the device is not on this line, or the key or the JoinEUI is none.
            LineDownError: if the disk refuses; nothing has changed.
        """
        radio = self._radio(device)
        if len(key) != 16:
            raise LocalProtocolError(f"a key has 16 bytes, not {len(key)}")
        if join_eui is not None and not 0 <= join_eui < _JOIN_EUIS:
            raise LocalProtocolError("a JoinEUI has 64 bits")
        await self._open()
        fault = await self._server.admit(radio, key, None if join_eui is None else f"{join_eui:016x}")
        if not self._running:
            await self._store.close()
        if fault:
            raise LineDownError(f"the disk refuses: {fault}")

    def admission(self, device: DeviceId) -> tuple[Admission, str]:
        """Return where a device is on its way to being heard."""
        sensor, radio = self._sensor(device), self._radio(device)
        refused = "" if radio.refused is None else f"; {radio.refused.text(self._now_ms())}"
        if radio.key is None:
            return Admission.NO_KEY, f"its key is not known here{refused}"
        if sensor.spoke_ms is not None:
            ago_s = (self._now_ms() - sensor.spoke_ms) // 1000
            return Admission.HEARD, f"heard {ago_s} s ago"
        if any(session.heard for session in radio.sessions):
            return Admission.JOINED, "joined, and not heard since the agent was started"
        if radio.sessions:
            return Admission.JOINED, "let in, and not heard since"
        if refused:
            return Admission.AWAITED, f"a key is known{refused}"
        return Admission.AWAITED, "its key is known, and it has not asked to join since"

    def health(self) -> LineHealth:
        """Return how the line is doing; `transactions` are uplinks, joins and downlinks."""
        return self._health(
            transactions=self._server.uplinks + self._server.joins + self._gateways.asked,
            failures=self._refusals.total(),
            queued=sum(len(device.queue) for device in self._server.devices.values()),
            turned_away=self._turned_away,
            named={
                **{reason.value: number for reason, number in self._refusals.counts.items()},
                "unacknowledged": self._gateways.unacknowledged,
            },
        )

    def counters(self) -> dict[str, int]:
        """Return what was taken, sent and refused, by name."""
        return {
            "uplinks": self._server.uplinks,
            "joins": self._server.joins,
            "downlinks": self._gateways.asked,
            "unacknowledged": self._gateways.unacknowledged,
            "commits": self._store.commits,
            **{reason.value: self._refusals.counts[reason] for reason in Refusal},
        }

    async def discover(
        self,
        among: Sequence[int] | None = None,  # noqa: ARG002  nobody is asked: whoever speaks is heard
    ) -> AsyncIterator[Found | Looked]:
        """Yield declared devices, strangers that ask to join, and gateways; see `Driver.discover`."""
        if self._standing.state is not LineState.UP:
            return
        sights = [*self._declared(), *self._strangers(), *self._seen_gateways()]
        for done, sight in enumerate(sights, start=1):
            yield sight
            yield Looked(done, len(sights))

    def _declared(self) -> list[Found]:
        return [
            Found(str(sensor.settings.address), sensor.codec.kind, self.admission(sensor.id)[1], sensor.id)
            for sensor in self._sensors.values()
        ]

    def _strangers(self) -> list[Found]:
        return [
            Found(
                stranger.dev_eui,
                None,
                f"asks to join with JoinEUI {stranger.join_eui}, {stranger.times} times, "
                f"last at {stranger.rssi_dbm:g} dBm, SNR {stranger.snr_db:g} dB",
            )
            for stranger in reversed(self._server.strangers.values())
        ]

    def _seen_gateways(self) -> list[Found]:
        now_ms = self._now_ms()
        return [
            Found(
                gateway.eui,
                None,
                f"a gateway, {'reachable' if self._gateways.is_reachable(gateway, now_ms) else 'not reachable'}, "
                f"{gateway.uplinks} genuine uplinks",
                declarable=False,
            )
            for gateway in self._gateways.known()
        ]

    # --- the line's task ---

    async def run(self) -> None:
        """Be the line's task until cancelled."""
        self._running = True
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._serve_again_and_again())
                tasks.create_task(self._watch_silence())
        finally:
            self._running = False
            await self._stop()

    async def _serve_again_and_again(self) -> NoReturn:
        while True:
            try:
                await self._serve()
            except LineDownError as fault:
                self._went_away(str(fault))
            await asyncio.sleep(self._standing.pause_s())

    async def _serve(self) -> None:
        """Open file and socket, and look after the gateways until the socket is lost."""
        await self._open()
        self._lost = None
        transport, protocol = await self._bind()
        try:
            self._gateways.send = partial(_send, cast("_Sender", transport))
            begun_ms = self._now_ms()
            look_s = max(min(LOOK_S, self._settings.gateway_timeout_s / 4), 0.02)
            while self._lost is None:
                self._look(begun_ms)
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(look_s):
                        await self._wake.wait()
            raise LineDownError(self._lost)
        finally:
            self._gateways.send = None
            transport.close()
            await protocol.closed.wait()

    async def _open(self) -> None:
        """Open the line's file once. Raises LineDownError."""
        async with self._opening:
            if self._store.is_open:
                return
            kept = await self._store.open()
            self._server.restore(kept, asyncio.get_running_loop())
            rewritten = self._gateways.restore(kept.sent)
            if kept.sent:
                await self._store.write_now([(FORGET_ALL_SENT, ()), *rewritten])

    async def _bind(self) -> tuple[asyncio.DatagramTransport, _Socket]:
        host, port = self._settings.host, self._settings.port
        try:
            transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Socket(self._received, self._socket_lost), local_addr=(host, port)
            )
        except OSError as error:
            raise LineDownError(f"{host}:{port}/udp cannot be opened: {error.strerror or error}") from error
        bound: socket.socket = transport.get_extra_info("socket")
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        return transport, protocol

    def _socket_lost(self, reason: str) -> None:
        self._lost = reason
        self._wake.set()

    async def _stop(self) -> None:
        """Tell what is on disk, end what waits, let everything go."""
        self._gateways.send = None
        if self._store.is_open:
            await self._store.flush()
            self._server.finish()
            await self._store.close()
        self._server.end_waiting("the line's task has ended")
        self._gateways.close()
        self._has_ended()

    # --- up and down ---

    def _look(self, begun_ms: int) -> None:
        """See whether the line carries anything."""
        now_ms = self._now_ms()
        if self._store.fault:
            self._carries_nothing(f"the disk refuses what must be kept: {self._store.fault}")
            self._store.write([TRIAL], lambda _: None)
        elif self._gateways.any_reachable(now_ms):
            self._came_up()
        elif now_ms - begun_ms >= self._settings.gateway_timeout_s * 1000:
            wanted = f" ({', '.join(self._settings.gateways)})" if self._settings.gateways else ""
            self._carries_nothing(
                f"no packet forwarder{wanted} has spoken for {self._settings.gateway_timeout_s:g} s "
                f"at {self._settings.host}:{self._settings.port}/udp"
            )

    def _carries_nothing(self, reason: str) -> None:
        """Count the line as down, once for each reason: nothing can be tried anew, only waited for."""
        if (self._standing.state, self._standing.reason) != (LineState.DOWN, reason):
            self._went_away(reason, tried=True)

    # --- what comes in ---

    def _received(self, datagram: bytes, address: Address) -> None:
        try:
            said = read_datagram(datagram)
        except RemoteProtocolError as fault:
            self._refusals.count(Refusal.GARBAGE, address[0], str(fault))
            return
        gateway = self._gateways.spoke(said.gateway, address, self._now_ms())
        if gateway is None:
            return
        self._standing.proved()
        if isinstance(said, PushData):
            self._acknowledge(said, address)
            for why in said.spoiled:
                self._refusals.count(Refusal(why.value), gateway.eui)
            for reception in said.receptions:
                self._server.receive(gateway, reception)
        elif isinstance(said, PullData):
            if self._gateways.pulled(gateway, address, self._now_ms()):
                self._acknowledge(said, address)
                if self._standing.state is not LineState.UP:
                    self._wake.set()
        else:
            self._gateways.acknowledged(said, gateway)

    def _acknowledge(self, said: PushData | PullData, address: Address) -> None:
        if self._gateways.send is not None:
            self._gateways.send(acknowledgement(said), address)

    def _heard(self, told: Told) -> None:
        sensor = self._sensors[told.device]
        self._was_heard(sensor.id, told.at_ms)
        heard, refused = sensor.hear(told, self._log)
        if refused:
            self._refusals.count(Refusal.PAYLOAD, sensor.eui, refused)
        self._give(heard)
        if told.answered is not None:
            if told.acknowledged:
                told.answered.acknowledged()
            else:
                told.answered.end("it spoke again and did not acknowledge")


def _send(transport: _Sender, datagram: bytes, address: Address) -> None:
    """Send a datagram, unless the kernel has stopped taking them: what forwarders miss they ask for again."""
    if transport.get_write_buffer_size() < MAX_UNSENT_BYTES:
        transport.sendto(datagram, address)


def _end(ended: asyncio.Future[Written], written: Written) -> None:
    if not ended.done():
        ended.set_result(written)


def _unacknowledged(outgoing: Outgoing, why: str) -> Written:
    state = CommandState.OUTCOME_UNKNOWN if outgoing.sent else CommandState.FAILED
    return Written(state, None, why)


def _acknowledged(outgoing: Outgoing, sensor: Sensor) -> Written:
    now = sensor.last.value(outgoing.point)
    if not isinstance(now, Fault) and now == outgoing.value:
        return Written(CommandState.VERIFIED, now)
    told = None if isinstance(now, Fault) else now
    return Written(CommandState.APPLIED, told, "it acknowledged, and has not told the new value yet")
