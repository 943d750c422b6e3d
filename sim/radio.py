"""A gateway and the sensors that it hears: the air between them, and what can go wrong in it.

What sensors transmit reaches the gateway's packet forwarder when it ends, and what the forwarder transmits reaches
the sensors when it begins. Everything runs on one schedule; sockets are added by `open`, so that a virtual
schedule can play hours of radio in a moment.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec

from sim.faults import Board, FaultSettings, RadioFault
from sim.lorawan_attack import Attack, Victim, forgeries
from sim.lorawan_band import JOIN_CHANNELS_HZ, airtime_s
from sim.lorawan_crypto import JOIN_REQUEST
from sim.lorawan_node import Burst, Identity, Node, NodeCounters, Sent
from sim.packet_forwarder import ForwarderCounters, Heard, PacketForwarder
from sim.radio_sensors import Sensor
from sim.radio_settings import GATEWAY_FAULTS, SENSOR_FAULTS, RadioSettings, SensorSettings
from sim.radio_truth import Truth
from sim.schedule import Schedule, Timer
from sim.targets import FaultSwitch, Targets

OVERHEARD = 50
"""Frames of each sensor that an attacker remembers."""
_LOST = 0.5
_ATTACK_EVERY_S = 1.0
LATE_S = 2.0
_MAX_GARBAGE = 400
_REPEATING = (RadioFault.REPLAY, RadioFault.FORGED, RadioFault.GARBAGE)
_FORGED = tuple(attack for attack in Attack if attack not in {Attack.REPLAY, Attack.JOIN_REPLAY})


class SensorState(msgspec.Struct, frozen=True):
    """What the bench tells of a sensor.

    Attributes:
        counter_up: of its next data frame.
        counter_down: of the last downlink that it believed; -1 if there was none.
        truth: what was true, by the names of the points, when it last reported.
    """

    device: str
    dev_eui: str
    joined: bool
    dev_addr: str | None
    counter_up: int
    counter_down: int
    data_rate: str
    truth: dict[str, float | bool | str]
    faults: list[str]


class RadioState(msgspec.Struct, frozen=True):
    """What the bench tells of a gateway."""

    gateway_eui: str
    host: str
    port: int
    faults: list[str]
    sensors: dict[str, SensorState]


class AirCounters(msgspec.Struct):
    """What happened on the air.

    Attributes:
        lost: uplinks that nobody heard.
        collided: of them, because they met another one or the gateway transmitted.
        bad_crc: uplinks that were heard with a wrong CRC.
        duplicates: uplinks that were heard twice.
        replays: genuine frames that somebody sent again.
        forged: frames that somebody without a key sent.
        garbage: random datagrams.
    """

    lost: int = 0
    collided: int = 0
    bad_crc: int = 0
    duplicates: int = 0
    replays: int = 0
    forged: int = 0
    garbage: int = 0


class RadioCounters(msgspec.Struct, frozen=True):
    """What a gateway, its sensors and the air have counted."""

    gateway: ForwarderCounters
    air: AirCounters
    sensors: dict[str, NodeCounters]


class Radio:
    """One gateway with its sensors.

    Args:
        settings: of the scenario.
        schedule: the only time that there is.
        seed: of everything random.
        truth: tells what is there for a sensor to measure.
        utc_ms: the wall clock's time, for the forwarder's stamps.
        counter_us: what the concentrator's counter is at the start; None draws it.

    Attributes:
        nodes: sensors by name.
        devices: what they measure, by name.
        forwarder: the gateway's.
        air: what happened between them.
    """

    def __init__(
        self,
        settings: RadioSettings,
        schedule: Schedule,
        *,
        seed: int,
        truth: Callable[[str], Truth],
        utc_ms: Callable[[], int],
        counter_us: int | None = None,
    ) -> None:
        self.settings = settings
        self.air = AirCounters()
        self.board = Board(RadioFault)
        self.boards = {sensor.name: Board(RadioFault) for sensor in settings.sensors}
        self._schedule = schedule
        self._rng = random.Random(f"{seed}/{settings.name}")
        self.forwarder = PacketForwarder(
            int(settings.gateway_eui, 16),
            schedule,
            random.Random(f"{seed}/{settings.name}/forwarder"),
            transmit=self._downlink_begins,
            utc_ms=utc_ms,
            counter_us=self._rng.getrandbits(32) if counter_us is None else counter_us,
        )
        self.devices = {
            sensor.name: Sensor(sensor.device, partial(truth, sensor.name)) for sensor in settings.sensors
        }
        self.nodes = {sensor.name: self._node(sensor, seed) for sensor in settings.sensors}
        self._rssi_dbm = {name: self._rng.randint(-112, -60) for name in self.nodes}
        self._overheard: dict[str, deque[bytes]] = {name: deque(maxlen=OVERHEARD) for name in self.nodes}
        self._on_air: list[Burst] = []
        self._spoiled: set[int] = set()
        self._deaf_until_s = 0.0
        self._attacks: dict[tuple[str, RadioFault], Timer] = {}
        self._transports: list[asyncio.DatagramTransport] = []
        self._closed = False

    def _node(self, sensor: SensorSettings, seed: int) -> Node:
        identity = Identity(
            name=sensor.name,
            dev_eui=int(sensor.dev_eui, 16),
            join_eui=int(sensor.join_eui, 16),
            app_key=bytes.fromhex(sensor.app_key),
            every_s=sensor.every_s,
            confirmed=sensor.confirmed,
        )
        rng = random.Random(f"{seed}/{self.settings.name}/{sensor.name}")
        begins = partial(self._uplink_begins, sensor.name)
        return Node(identity, self.devices[sensor.name], self._schedule, rng, begins)

    # --- beginning and ending -------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the forwarder's two sockets and begin.

        Raises:
            OSError: the server's host cannot be found.
        """
        push = await self._socket()
        pull = await self._socket()
        self.begin(push.sendto, pull.sendto)

    async def _socket(self) -> asyncio.DatagramTransport:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Socket(self.receive), remote_addr=(self.settings.host, self.settings.port)
        )
        self._transports.append(transport)
        return transport

    def begin(self, push: Callable[[bytes], None], pull: Callable[[bytes], None]) -> None:
        """Start the forwarder and wake the sensors, one after the other.

        Args:
            push: sends a datagram to the server from the socket that pushes.
            pull: the same from the socket that pulls.
        """
        self.forwarder.push = partial(self._send, push)
        self.forwarder.pull = partial(self._send, pull)
        self.forwarder.start()
        now_s = self._schedule.time()
        step_s = self.settings.spread_s / max(1, len(self.nodes))
        for index, node in enumerate(self.nodes.values()):
            node.power_up(now_s + index * step_s)

    def close(self) -> None:
        """End everything."""
        self._closed = True
        for timer in self._attacks.values():
            timer.cancel()
        for node in self.nodes.values():
            node.stop()
        self.forwarder.stop()
        for transport in self._transports:
            transport.close()

    def receive(self, datagram: bytes) -> None:
        """Take a datagram that the server has sent."""
        if not self._closed and RadioFault.GATEWAY_GONE not in self.board:
            self.forwarder.receive(datagram)

    def _send(self, send: Callable[[bytes], None], datagram: bytes) -> None:
        if not self._closed and RadioFault.GATEWAY_GONE not in self.board:
            send(datagram)

    # --- the air --------------------------------------------------------------------------------------

    def _uplink_begins(self, name: str, burst: Burst) -> None:
        if self.settings.collisions:
            met = [other for other in self._on_air if _meet(burst, other)]
            if met or burst.start_s < self._deaf_until_s:
                self._spoiled |= {id(burst), *(id(other) for other in met)}
        self._on_air.append(burst)
        self._schedule.call_at(burst.end_s, lambda: self._uplink_ends(name, burst))

    def _uplink_ends(self, name: str, burst: Burst) -> None:
        self._on_air.remove(burst)
        if id(burst) in self._spoiled:
            self._spoiled.discard(id(burst))
            self.air.collided += 1
            self.air.lost += 1
        elif self._happens(name, RadioFault.LOST, _LOST):
            self.air.lost += 1
        elif self._happens(name, RadioFault.BAD_CRC, 1.0):
            self.air.bad_crc += 1
            self._deliver(name, msgspec.structs.replace(burst, frame=self._damaged(burst.frame)), good=False)
        else:
            self._deliver(name, burst, good=True)

    def _deliver(self, name: str, burst: Burst, *, good: bool) -> None:
        """Let the forwarder hear it, at once or late."""
        if RadioFault.LATE not in self.board:
            self._heard(name, burst, good=good)
            return
        delay_s = self.board.settings(RadioFault.LATE).delay_s
        when_s = burst.end_s + (LATE_S if delay_s is None else delay_s)
        self._schedule.call_at(when_s, lambda: self._heard(name, burst, good=good))

    def _heard(self, name: str, burst: Burst, *, good: bool) -> None:
        heard = self._as_heard(name, burst, good=good)
        if self._fault_of(name, RadioFault.DUPLICATE) is None:
            self.forwarder.hear([heard])
        else:
            self.air.duplicates += 1
            weaker = msgspec.structs.replace(heard, rssi_dbm=heard.rssi_dbm - 7, snr_db=heard.snr_db - 4)
            self.forwarder.push_again(self.forwarder.hear([heard, weaker]))
        if good and RadioFault.GATEWAY_GONE not in self.board:
            self._overheard[name].append(burst.frame)

    def _as_heard(self, name: str, burst: Burst, *, good: bool) -> Heard:
        rssi_dbm = self._rssi_dbm[name] - 2 * self.nodes[name].link.power + self._rng.randint(-3, 3)
        return Heard(burst, rssi_dbm, round(min(12.0, (rssi_dbm + 118) / 4), 1), good)

    def _downlink_begins(self, sent: Sent) -> None:
        if self.settings.collisions:  # a gateway cannot hear while it transmits
            self._spoiled |= {id(burst) for burst in self._on_air}
            self._deaf_until_s = max(self._deaf_until_s, sent.end_s)
        for node in self.nodes.values():
            node.hear(sent)

    def _damaged(self, frame: bytes) -> bytes:
        damaged = bytearray(frame)
        damaged[self._rng.randrange(len(frame))] ^= self._rng.randrange(1, 256)
        return bytes(damaged)

    def _happens(self, name: str, fault: RadioFault, usually: float) -> bool:
        settings = self._fault_of(name, fault)
        if settings is None:
            return False
        probability = usually if settings.probability is None else settings.probability
        return self._rng.random() < probability

    def _fault_of(self, name: str, fault: RadioFault) -> FaultSettings | None:
        """Return how bad a fault of a sensor, or of all behind this gateway, is; None if there is none."""
        for board in (self.boards[name], self.board):
            if fault in board:
                return board.settings(fault)
        return None

    # --- faults ---------------------------------------------------------------------------------------

    def offer_faults(self, targets: Targets) -> None:
        """Let the faults of the gateway and of each sensor be switched."""
        gateway = {fault.value: self._switch("", fault) for fault in sorted(GATEWAY_FAULTS)}
        targets.add(self.settings.name, gateway)
        for name in self.nodes:
            sensor = {fault.value: self._switch(name, fault) for fault in sorted(SENSOR_FAULTS)}
            targets.add(f"{self.settings.name}/{name}", sensor)

    def _switch(self, name: str, fault: RadioFault) -> FaultSwitch:
        return FaultSwitch(partial(self.begin_fault, name, fault), partial(self.end_fault, name, fault))

    def begin_fault(self, name: str, fault: RadioFault, settings: FaultSettings) -> None:
        """Let a fault of a sensor begin, or with "" one of the gateway."""
        board = self.boards[name] if name else self.board
        board.set(fault, settings)
        if fault in _REPEATING:
            self._plan_attack(name, fault)
        elif fault is RadioFault.SILENT:
            self.nodes[name].silent = True
        elif fault is RadioFault.COUNTER_RESET:
            self.nodes[name].restart_counters()
        elif fault is RadioFault.NO_DOWNLINK:
            self.forwarder.refuse_all = True

    def end_fault(self, name: str, fault: RadioFault) -> None:
        """Let a fault end; one that is not there is no error."""
        board = self.boards[name] if name else self.board
        was_there = fault in board
        board.clear(fault)
        attack = self._attacks.pop((name, fault), None)
        if attack is not None:
            attack.cancel()
        if fault is RadioFault.SILENT:
            self.nodes[name].silent = False
        elif fault is RadioFault.COUNTER_RESET and was_there:
            self.nodes[name].forget_session()
        elif fault is RadioFault.NO_DOWNLINK:
            self.forwarder.refuse_all = False

    def _plan_attack(self, name: str, fault: RadioFault) -> None:
        board = self.boards[name] if name else self.board
        planned = self._attacks.pop((name, fault), None)
        if planned is not None:
            planned.cancel()
        every_s = board.settings(fault).every_s
        when_s = self._schedule.time() + (_ATTACK_EVERY_S if every_s is None else every_s)
        self._attacks[name, fault] = self._schedule.call_at(when_s, lambda: self._attack(name, fault))

    def _attack(self, name: str, fault: RadioFault) -> None:
        victims = [name] if name else list(self.nodes)
        if fault is RadioFault.GARBAGE:
            self.air.garbage += 1
            self.forwarder.push(self._rng.randbytes(self._rng.randrange(_MAX_GARBAGE)))
        elif victims and fault is RadioFault.REPLAY:
            self._replay(self._rng.choice(victims))
        elif victims:
            self._forge(self._rng.choice(victims))
        self._plan_attack(name, fault)

    def _replay(self, name: str) -> None:
        if self._overheard[name]:
            self.air.replays += 1
            self.intrude(name, self._rng.choice(self._overheard[name]))

    def _forge(self, name: str) -> None:
        victim = self.victim(name)
        if victim is not None:
            self.air.forged += 1
            (forgery,) = forgeries(victim, 1, self._rng.getrandbits(32), (self._rng.choice(_FORGED),))
            self.intrude(name, forgery.frame)

    def victim(self, name: str) -> Victim | None:
        """Return what an attacker knows of a sensor by now; None while it knows nothing."""
        node, overheard = self.nodes[name], self._overheard[name]
        joins = tuple(frame for frame in overheard if frame[0] == JOIN_REQUEST)
        frames = tuple(frame for frame in overheard if frame[0] != JOIN_REQUEST)
        if not frames or node.session is None:
            return None
        who = node.identity
        return Victim(node.session.dev_addr, frames, node.counter_up, who.dev_eui, who.join_eui, joins)

    def intrude(self, name: str, frame: bytes) -> None:
        """Let the gateway hear somebody else's transmission, which ends now."""
        now_s = self._schedule.time()
        rate = self.nodes[name].link.data_rate
        start_s = now_s - airtime_s(len(frame), rate, crc=True)
        burst = Burst(frame, self._rng.choice(JOIN_CHANNELS_HZ), rate, start_s, now_s)
        self.forwarder.hear([self._as_heard(name, burst, good=True)])

    # --- telling --------------------------------------------------------------------------------------

    def state(self) -> RadioState:
        """Return how everything is."""
        return RadioState(
            gateway_eui=self.settings.gateway_eui,
            host=self.settings.host,
            port=self.settings.port,
            faults=self.board.names(),
            sensors={sensor.name: self._sensor_state(sensor) for sensor in self.settings.sensors},
        )

    def _sensor_state(self, sensor: SensorSettings) -> SensorState:
        node = self.nodes[sensor.name]
        return SensorState(
            device=sensor.device,
            dev_eui=sensor.dev_eui,
            joined=node.session is not None,
            dev_addr=None if node.session is None else f"{node.session.dev_addr:08x}",
            counter_up=node.counter_up,
            counter_down=node.counter_down,
            data_rate=node.rate_name(),
            truth=node.reported,
            faults=self.boards[sensor.name].names(),
        )

    def counters(self) -> RadioCounters:
        """Return what has been counted."""
        return RadioCounters(
            self.forwarder.counters, self.air, {name: node.counters for name, node in self.nodes.items()}
        )


class _Socket(asyncio.DatagramProtocol):
    """Hands datagrams on; that nobody listens yet is no concern of a forwarder."""

    def __init__(self, received: Callable[[bytes], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, _addr: object) -> None:
        self._received(data)

    def error_received(self, _exc: Exception) -> None:
        """Go on: the server may come back."""


def _meet(one: Burst, other: Burst) -> bool:
    """Tell whether two frames spoil each other: same channel, same spreading, same time."""
    same = one.frequency_hz == other.frequency_hz and one.data_rate == other.data_rate
    return same and other.end_s > one.start_s
