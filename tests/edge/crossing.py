"""A cabinet before a real junction of the simulator, and buses that say where they are."""

import base64
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

import msgspec
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from edge.answers import PolicyAnswer, PolicyApply, PriorityAnswer, PriorityShow
from edge.clock import SystemClock
from protocols.backhaul import codec
from protocols.backhaul.datagram import seal_position
from protocols.backhaul.messages import Position, PriorityEvent
from protocols.backhaul.signing import sign
from protocols.backhaul.topics import position as position_topic
from protocols.model.ids import DeviceId
from protocols.model.policy import Policy, PolicyKind
from protocols.model.priority import (
    Approach,
    PriorityPolicy,
    PriorityRule,
    RequestState,
    VehicleType,
    Waypoint,
)
from sim.junction import Junction
from sim.priority import UnknownRequestError
from sim.scenario import Scenario, parse
from sim.street_thread import StreetThread
from tests.edge.bench import CABINET, WAIT_S
from tests.edge.broker import Broker, free_port
from tests.edge.centre_double import CentreDouble
from tests.edge.street import KEY, SECRET
from tests.edge.whole import Whole

PREFIX = "LU+DJ0001=001"
NAME = "junction-1"
JUNCTION = DeviceId("crossing")
FLEET = bytes(range(32))
ORIGIN = Waypoint(47.3200, 5.0415)
APPROACH = Approach(
    id="north",
    junction=JUNCTION,
    signal_group=f"{PREFIX}SG002",
    path=(ORIGIN, Waypoint(ORIGIN.latitude + 400 / 111_176.7, ORIGIN.longitude)),
    stop_line_m=300.0,
    check_out_m=20.0,
    check_in_detector="loop-in",
    check_out_detector="loop-out",
    detector_m=60.0,
    approach_speed_m_s=10.0,
)
RULE = PriorityRule(
    id="buses", approach="north", routes=("L3",), by_detector=True, cooldown_s=0, grants_per_hour=240
)
POLICY = PriorityPolicy((APPROACH,), (RULE,), 2**50)


def crossing_scenario(port: int) -> Scenario:
    """Return a junction that starts at once, always has a vehicle's whole cycle before it, and grants often."""
    return parse(
        f"""
[[junction]]
name = "{NAME}"
port = {port}
prefix = "{PREFIX}"
reconnect_s = 0.2
[junction.design]
start_flash_s = 0
start_red_s = 1
[junction.design.limits]
cooldown_s = 0
"""
    )


def crossing_settings(port: int, local_port: int, broker: str) -> str:
    """Return the settings of the cabinet at that junction."""
    public = base64.b64encode(SECRET.public_key().public_bytes_raw()).decode()
    detectors = "".join(
        f'[[device]]\nid = "{name}"\nkind = "detector"\nline = "tlc-1"\naddress = "{PREFIX}DL{number:03d}"\n'
        for name, number in (("loop-in", 1), ("loop-out", 2))
    )
    return f"""
[cabinet]
id = "{CABINET}"
directory = "state"
limits = "limits.toml"
[backhaul]
url = "{broker}"
[outbox]
seal_s = 0.2
drain_s = 10
[local_positions]
port = {local_port}
key_file = "fleet.key"
[[trusted_key]]
id = "{KEY}"
public = "{public}"
kinds = ["lighting", "priority"]
[[line]]
id = "tlc-1"
driver = "rsmp"
port = {port}
site = "{PREFIX}TC000"
reconnect_bound_s = 0.5
reconnect_s = 0.1
[[device]]
id = "{JUNCTION}"
kind = "junction"
line = "tlc-1"
address = "{PREFIX}TC000"
{detectors}
"""


class Fleet:
    """Buses that say where they are, through the broker or to the cabinet itself."""

    def __init__(self, broker_port: int, local_port: int) -> None:
        self._clock = SystemClock()
        self._local = ("127.0.0.1", local_port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._port = broker_port
        self._client: Client | None = None
        self._last_ms = 0

    def __enter__(self) -> Self:
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        up = threading.Event()
        client.on_connect = lambda *_: up.set()
        client.connect("127.0.0.1", self._port)
        client.loop_start()
        assert up.wait(WAIT_S)
        self._client = client
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()

    def position(self, along_m: float, name: str = "v-1", **parts: object) -> Position:
        """Return a bus's position, now."""
        latitude = ORIGIN.latitude + along_m / 111_176.7
        at_ms = self._last_ms = max(self._last_ms + 1, self._clock.now().utc_ms)
        said = Position(1, name, at_ms, latitude, ORIGIN.longitude, 0.0, 10.0, VehicleType.BUS, "L3", "1")
        return msgspec.structs.replace(said, **parts)

    def say(self, along_m: float, name: str = "v-1", **parts: object) -> None:
        """Say it through the broker."""
        said = self.position(along_m, name, **parts)
        topic = position_topic(said.latitude, said.longitude, said.pseudonym)
        self.publish(topic, codec.encode(said))

    def drive(self, from_m: float = 230, to_m: float = 325, name: str = "v-1") -> None:
        """Say through the broker that a bus has driven on, in steps that no receiver's error exceeds."""
        along_m = from_m
        while along_m < to_m:
            self.say(along_m, name)
            along_m += 35
        self.say(to_m, name)

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish anything."""
        assert self._client is not None
        self._client.publish(topic, payload, qos=0).wait_for_publish(WAIT_S)

    def tell(self, along_m: float, name: str = "v-1", key: bytes = FLEET, **parts: object) -> None:
        """Say it to the cabinet itself."""
        self.send(seal_position(self.position(along_m, name, **parts), key))

    def send(self, datagram: bytes) -> None:
        """Send anything to the cabinet itself."""
        self._socket.sendto(datagram, self._local)


class Crossing(Whole):
    """Everything that a cabinet at a junction needs.

    Attributes:
        fleet: its buses.
    """

    fleet: Fleet
    version = 0
    granted_before = 0
    requested_before = 0

    @property
    def junction(self) -> Junction:
        """The controller itself, to be looked at in the street's own loop."""
        return self.street.street.junctions[NAME].junction

    def go_by(self, policy: PriorityPolicy = POLICY) -> None:
        """Bring a signed policy by hand."""
        self.version += 1
        body = Policy(CABINET, PolicyKind.PRIORITY, self.version, 0, 2**50, KEY, priority=policy)
        signed = sign(body, SECRET)
        self.ask(PolicyApply(signed.body.decode(), KEY, signed.signature), PolicyAnswer)

    def begin(self, policy: PriorityPolicy = POLICY) -> None:
        """Start the agent, and wait until it goes by the policy and its controller can be asked."""
        self.start()
        self.go_by(policy)
        self.wait_for(lambda seen: all(one.reachable and one.green is not None for one in seen.approaches))

    def seen(self) -> PriorityAnswer:
        """Ask the agent what it knows of the junction."""
        return self.ask(PriorityShow(), PriorityAnswer)

    def wait_for(self, holds: Callable[[PriorityAnswer], bool], what: str = "") -> PriorityAnswer:
        """Ask until something holds."""
        pause = threading.Event()
        seen = self.seen()
        for _ in range(round(WAIT_S * 20)):
            if holds(seen):
                return seen
            pause.wait(0.05)
            seen = self.seen()
        raise AssertionError(f"in vain: {what or seen}")

    def granted(self) -> int:
        """Return how many requests the controller itself has granted and seen end since this cabinet is there."""
        return self.street.counters().junctions[NAME].granted - self.granted_before

    def requested(self) -> int:
        """Return how many requests the controller itself has received since this cabinet is there."""
        return self.street.counters().junctions[NAME].requests - self.requested_before

    def tidy(self) -> None:
        """Leave the controller as it was found."""
        self.street.clear(NAME)
        for name in self.at_controller():
            with contextlib.suppress(UnknownRequestError):  # it has ended, and nobody was there to be told
                self.street.call(partial(self.junction.cancel_request, name))

    def at_controller(self) -> dict[str, str]:
        """Return the requests that the controller has, and their states."""
        return {one.id: one.state for one in self.street.state().junctions[NAME].requests}

    def events(self, *states: RequestState | None) -> list[PriorityEvent]:
        """Return what the centre has been told of requests."""
        found = [one for one in self.centre.events(PriorityEvent) if isinstance(one, PriorityEvent)]
        return [one for one in found if not states or one.state in states]

    def detect(self, number: int) -> None:
        """Let a vehicle roll over a detector of the junction."""
        name = self.junction.design.detectors[number - 1].name
        self.street.call(lambda: self.junction.detect(name, True))
        self.street.call(lambda: self.junction.detect(name, False))


@contextmanager
def crossing(folder: Path, street: StreetThread) -> Iterator[Crossing]:
    """Set everything up but the agent, at a junction that is in control already."""
    local_port = free_port()
    key_file = folder / "fleet.key"
    key_file.write_text(base64.b64encode(FLEET).decode() + "\n", encoding="ascii")
    key_file.chmod(0o600)
    port = street.street.scenario.junction[0].port
    with (
        Broker(folder) as broker,
        CentreDouble(broker.port) as centre,
        Fleet(broker.port, local_port) as fleet,
    ):
        text = crossing_settings(port, local_port, broker.url)
        one = Crossing(folder, street, broker, centre, text)
        one.fleet = fleet
        one.granted_before, one.requested_before = one.granted(), one.requested()
        try:
            yield one
        finally:
            one.kill()
            one.tidy()
