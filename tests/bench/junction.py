"""From a vehicle's position to the request at its controller, from outside; and whether all that was said fits RSMP.

The bench publishes positions as vehicles do, over mosquitto; the tap stamps the M0022 that reaches the controller's
side of the connection. Both moments are of one monotonic clock. Beside it, for each position, stands the moment at
which a bare subscriber had it from the same broker. Every vehicle drives through and is taken back before the next
one comes on its approach, so that none waits for another; the cabinet polls everything else meanwhile.
"""

import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from edge.answers import PriorityAnswer, PriorityShow, Read
from protocols.backhaul import codec
from protocols.backhaul.messages import VERSION, Position
from protocols.backhaul.topics import position as position_topic
from protocols.model.policy import PolicyKind
from protocols.model.priority import Approach, PriorityPolicy, PriorityRule, VehicleType, Waypoint
from sim.route import Route
from tests.bench.cabinet import Cabinet
from tests.bench.cabinet_files import JUNCTION, PREFIX
from tests.bench.processes import wait_for_s, wait_until
from tests.bench.report import Figure, figure, not_measured
from tests.bench.tap import Packet
from tests.rsmp_schemas import violations
from tests.shared_data import SHARED

REQUESTS = 64
WAIT_S = 5.0
"""A request that takes longer is as good as none."""
STOP_LINE_M, CHECK_IN_M, SEEN_AT_M = 100.0, 60.0, 45.0
STEPS_M = (75.0, 102.0, 112.0)
"""How a vehicle drives on: no receiver jumps so far, and the last one is beyond the check-out."""
SPEED_M_S = 10.0
CENTRE = (47.32, 5.04)
DEGREE_M = 111_195.0
GROUPS = {"north": 1, "east": 2, "south": 3, "west": 4}
_AWAY = {"north": (1.0, 0.0), "east": (0.0, 1.0), "south": (-1.0, 0.0), "west": (0.0, -1.0)}
CORE, SXL = "3.2.2", "1.2.1"
"""The versions that both ends agree on: the highest that each knows."""


# --- the rules ---


def _way(approach: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return where an approach begins and ends: from its side of the town straight through the junction."""
    north, east = _AWAY[approach]
    shrink = 0.678  # cos of the latitude: degrees of longitude are shorter
    return (
        (CENTRE[0] + STOP_LINE_M * north / DEGREE_M, CENTRE[1] + STOP_LINE_M * east / DEGREE_M / shrink),
        (CENTRE[0] - 60 * north / DEGREE_M, CENTRE[1] - 60 * east / DEGREE_M / shrink),
    )


def policy() -> PriorityPolicy:
    """Return rules that ask at once for whoever checks in, as often as it takes."""
    approaches = tuple(
        Approach(
            id=name,
            junction=JUNCTION,
            signal_group=f"{PREFIX}SG{group:03d}",
            path=tuple(Waypoint(*point) for point in _way(name)),
            stop_line_m=STOP_LINE_M,
            check_in_m=CHECK_IN_M,
            check_out_m=10.0,
        )
        for name, group in GROUPS.items()
    )
    rules = tuple(
        PriorityRule(id=f"from-{name}", approach=name, cooldown_s=0, grants_per_hour=240, max_extension_s=60)
        for name in GROUPS
    )
    return PriorityPolicy(approaches, rules, 2**50)


# --- the vehicles ---


class Fleet:
    """Vehicles that say where they are, and a bare subscriber that hears them from the same broker.

    Attributes:
        heard_s: when the subscriber had the first position of a vehicle.
    """

    def __init__(self, broker_port: int) -> None:
        self.heard_s: dict[str, float] = {}
        self._route = {name: Route(_way(name)) for name in GROUPS}
        self._sender = self._connect(broker_port)
        self._listener = self._connect(broker_port)
        subscribed = threading.Event()
        self._listener.on_subscribe = lambda *_: subscribed.set()
        self._listener.on_message = self._hear
        self._listener.subscribe("luciole/1/position/#")
        assert subscribed.wait(WAIT_S), "nobody can listen for positions"

    @staticmethod
    def _connect(port: int) -> Client:
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        client.connect("127.0.0.1", port)
        client.loop_start()
        return client

    def _hear(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        self.heard_s.setdefault(message.topic.rpartition("/")[2], time.monotonic())

    def say(self, vehicle: str, approach: str, along_m: float) -> float:
        """Publish a position and return the monotonic seconds at which it was given to the network."""
        place = self._route[approach].place(along_m)
        said = Position(
            version=VERSION,
            pseudonym=vehicle,
            at_ms=time.time_ns() // 1_000_000,
            latitude=place.latitude,
            longitude=place.longitude,
            heading_deg=place.heading_deg,
            speed_m_s=SPEED_M_S,
            vehicle_type=VehicleType.BUS,
        )
        topic, payload = position_topic(said.latitude, said.longitude, vehicle), codec.encode(said)
        at_s = time.monotonic()
        self._sender.publish(topic, payload, qos=0)
        return at_s

    def close(self) -> None:
        """Fall silent."""
        for client in (self._sender, self._listener):
            client.disconnect()
            client.loop_stop()


class Passage(msgspec.Struct, frozen=True):
    """One vehicle's request.

    Attributes:
        request_ms: from its position to its request at the controller.
        broker_ms: from its position to the bare subscriber.
    """

    request_ms: float
    broker_ms: float


def latencies(cabinet: Cabinet, count: int = REQUESTS) -> list[Passage]:
    """Let vehicles come, one after the other from all sides, at no particular moment of anything."""
    cabinet.apply(PolicyKind.PRIORITY, priority=policy())
    wait_until("the junction can be asked", lambda: _ready(cabinet.ask(PriorityShow(), PriorityAnswer)))
    fleet, rng = Fleet(cabinet.broker_port), random.Random(1)
    names = list(GROUPS)
    try:
        return [
            _pass(cabinet, fleet, f"v-{number}", names[number % len(names)], rng) for number in range(count)
        ]
    finally:
        fleet.close()


def _ready(seen: PriorityAnswer) -> bool:
    return len(seen.approaches) == len(GROUPS) and all(
        one.reachable and one.green is not None for one in seen.approaches
    )


def _pass(cabinet: Cabinet, fleet: Fleet, vehicle: str, approach: str, rng: random.Random) -> Passage:
    """Let one vehicle check in, be asked for, and drive through; wait until its request is over.

    Raises:
        RuntimeError: if nobody asks for it, or its request does not end.
    """
    wait_for_s(rng.uniform(0.0, 0.5))
    group = f"{PREFIX}SG{GROUPS[approach]:03d}"
    since = len(cabinet.tap.packets)
    said_s = fleet.say(vehicle, approach, SEEN_AT_M)
    asked = cabinet.tap.wait(since, lambda packet: _asks(packet, "new").get("signalGroupId") == group, WAIT_S)
    if asked is None:
        raise RuntimeError(f"within {WAIT_S:.0f} s nobody asked for {vehicle} from {approach}")
    request = _asks(asked, "new")["requestId"]
    for along_m in STEPS_M:
        wait_for_s(0.1)
        fleet.say(vehicle, approach, along_m)
    cancel = cabinet.tap.wait(
        since, lambda packet: _asks(packet, "cancel").get("requestId") == request, WAIT_S
    )
    told_from = cabinet.tap.packets.index(cancel) if cancel is not None else 0
    if cancel is None or cabinet.tap.wait(told_from, lambda p: _no_longer_tells(p, request), WAIT_S) is None:
        raise RuntimeError(f"the request for {vehicle} from {approach} does not end")
    return Passage(1000 * (asked.at_s - said_s), 1000 * (fleet.heard_s[vehicle] - said_s))


def _asks(packet: Packet, what: str) -> dict[str, str]:
    """Return the arguments of a priority request, by name; none if the packet is none of that kind."""
    if packet.to_agent or b'"M0022"' not in packet.body:
        return {}
    arguments = {one["n"]: str(one["v"]) for one in msgspec.json.decode(packet.body)["arg"]}
    return arguments if arguments.get("type") == what else {}


def _no_longer_tells(packet: Packet, request: str) -> bool:
    """Tell whether the controller says of its requests, and of this one nothing or that it has ended."""
    if not packet.to_agent or b'"S0033"' not in packet.body:
        return False
    message: dict[str, Any] = msgspec.json.decode(packet.body)
    told = [
        one for part in message.get("sS", ()) if part["sCI"] == "S0033" and part["s"] for one in part["s"]
    ]
    return all(one["r"] != request or one["s"] in {"completed", "stale"} for one in told)


def latency_figures(passages: list[Passage]) -> list[Figure]:
    """Judge how quickly vehicles are asked for."""
    cuts = statistics.quantiles([one.request_ms for one in passages], n=100, method="inclusive")
    broker = statistics.quantiles([one.broker_ms for one in passages], n=100, method="inclusive")
    said = f"{len(passages)} vehicles; position published to M0022 at the controller"
    return [
        figure(
            "request_latency_p95_ms",
            cuts[94],
            "ms",
            "<= 250",
            f"{said}; to a bare subscriber {broker[94]:.2f}",
        ),
        figure("request_latency_p50_ms", cuts[49], "ms", "", f"to a bare subscriber {broker[49]:.2f}"),
        figure("request_latency_max_ms", max(one.request_ms for one in passages), "ms", "", ""),
    ]


# --- what was said ---


def talk(cabinet: Cabinet) -> None:
    """Let both ends say what an idle street does not: a lamp fails and is mended, somebody reads everything."""
    cabinet.street(do="fault", target="junction-1/3", name="lamp_failure")
    wait_for_s(1.5)
    cabinet.ask(Read(JUNCTION), list[Any])
    cabinet.ask(Read(msgspec.convert("loop-1", type(JUNCTION))), list[Any])
    cabinet.street(do="clear", target="junction-1/3", name="lamp_failure")
    wait_for_s(1.5)


def schema_figure(packets: list[Packet]) -> Figure:
    """Hold what both ends have said against the published schemas."""
    name, unit, goal = "rsmp_schema_violations", "messages", "= 0"
    if not (SHARED / "rsmp").exists():
        return not_measured(name, unit, goal, "the published schemas, ../shared/data/rsmp, are not there")
    wrong = [fault for packet in packets for fault in violations(packet.body, CORE, SXL)[:1]]
    kinds = [Counter(_kinds(packets, to_agent=to_agent)) for to_agent in (False, True)]
    said = f"{sum(kinds[0].values())} of the agent, {sum(kinds[1].values())} of the controller, all looked at"
    return figure(
        name, len(wrong), unit, goal, wrong[0] if wrong else f"{said}: {len(kinds[0] | kinds[1])} types"
    )


def _kinds(packets: list[Packet], *, to_agent: bool) -> Iterator[str]:
    for packet in packets:
        if packet.to_agent is to_agent:
            yield msgspec.json.decode(packet.body)["type"]
