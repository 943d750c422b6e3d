"""A junction on paper: one street that leads north to a stop line, a clock in hand, a controller's answers."""

from collections.abc import Iterable
from typing import Any

import msgspec

from protocols.backhaul.messages import Position, PriorityEvent, Source
from protocols.clock import ClockQuality, Instant
from protocols.model.command import CommandState
from protocols.model.device import Device, Kind, Point
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.policy import Limits
from protocols.model.priority import (
    Approach,
    PriorityPolicy,
    PriorityRule,
    RequestState,
    RequestStatus,
    VehicleType,
    Waypoint,
)
from protocols.rules.priority.generator import Generator
from protocols.rules.priority.passage import Passage
from protocols.rules.priority.request import Action, Ask, Cancel, Look, Report, Update

START_MS = 1_795_521_600_000
JUNCTION = DeviceId("junction-1")
ORIGIN = Waypoint(47.3200, 5.0415)
NORTH_M, EAST_M = 111_176.7, 75_600.5
"""Metres of a degree at Dijon's latitude, from the published tables."""
SITE = Device(JUNCTION, Kind.JUNCTION, LineId("tlc-1"), "site-1")
LOOP = Device(DeviceId("loop-1"), Kind.DETECTOR, LineId("rtu-1"), "4", points=(Point(PointName("occupied")),))
NO_LIMITS = Limits()
DEVICES = {SITE.id: SITE, LOOP.id: LOOP}


def place(along_m: float, aside_m: float = 0.0) -> Waypoint:
    """Return the place so far up the street."""
    return Waypoint(ORIGIN.latitude + along_m / NORTH_M, ORIGIN.longitude + aside_m / EAST_M)


APPROACH = Approach(
    id="north",
    junction=JUNCTION,
    signal_group="1",
    path=(place(0), place(150), place(400)),
    stop_line_m=300.0,
    check_in_m=200.0,
    check_out_m=20.0,
    approach_speed_m_s=10.0,
    check_in_detector="loop-1",
    check_out_detector="loop-2",
    detector_m=100.0,
)
RULE = PriorityRule(id="buses", approach="north", routes=("L3",), directions=("1",), by_detector=True)
POLICY = PriorityPolicy((APPROACH,), (RULE,), lease_until_ms=START_MS + 86_400_000)


def policy(**rule: object) -> PriorityPolicy:
    """Return the policy with its rule changed."""
    return msgspec.structs.replace(POLICY, rules=(msgspec.structs.replace(RULE, **rule),))


class Junction:
    """A generator whose controller can be reached, and everything that it has wanted.

    Attributes:
        actions: all of them, in order.
    """

    def __init__(
        self,
        wanted: PriorityPolicy | None = POLICY,
        limits: Limits = NO_LIMITS,
        *,
        green: bool | None = False,
        up: bool = True,
        quality: ClockQuality = ClockQuality.SYNCHRONISED,
    ) -> None:
        self.now = Instant(1_000_000, START_MS, quality)
        self.generator = Generator("lu-1-", "r1")
        self.actions: list[Action] = []
        self.do(self.generator.go_by(wanted, DEVICES, limits, self.now))
        if up:
            self.do(self.generator.line(JUNCTION, up=True, now=self.now))
        for signal_group in ("1", "2"):
            self.do(self.generator.group(JUNCTION, signal_group, green, self.now))
        self.actions.clear()

    def do(self, actions: Iterable[Action]) -> list[Action]:
        found = list(actions)
        self.actions += found
        return found

    def after(self, seconds: float, step_utc_s: float = 0.0) -> None:
        """Let time go on, and maybe step the civil clock."""
        real_ms = round(1000 * seconds)
        utc_ms = self.now.utc_ms + real_ms + round(1000 * step_utc_s)
        self.now = Instant(self.now.monotonic_ms + real_ms, utc_ms, self.now.quality)

    def tick(self, seconds: float = 0.0) -> list[Action]:
        self.after(seconds)
        return self.do(self.generator.tick(self.now))

    def bus(
        self,
        along_m: float,
        aside_m: float = 0.0,
        *,
        source: Source = Source.POSITION,
        **parts: object,
    ) -> list[Action]:
        """Let a bus say where it is, now."""
        where = place(along_m, aside_m)
        said = Position(
            1, "v-1", self.now.utc_ms, where.latitude, where.longitude, 0.0, 10.0, VehicleType.BUS, "L3", "1"
        )
        return self.do(self.generator.saw(msgspec.structs.replace(said, **parts), source, self.now))

    def drive(self, from_m: float, to_m: float, speed_m_s: float = 10.0, **parts: Any) -> None:  # noqa: ANN401  parts of a position
        """Let a bus drive, and say where it is each second."""
        along_m = from_m
        while along_m <= to_m:
            self.bus(along_m, speed_m_s=speed_m_s, **parts)
            self.tick(1.0)
            along_m += speed_m_s

    def taken(self, state: CommandState = CommandState.APPLIED, reason: str = "") -> list[Action]:
        """Let the controller take the last request."""
        return self.do(self.generator.outcome(self.last, state, reason, self.now))

    def tell(self, *states: RequestState, request: str = "", **gains: int) -> list[Action]:
        """Let the controller tell one state after another of the last request, or of one by name."""
        found: list[Action] = []
        for state in states:
            status = RequestStatus(request or self.last, state, self.now.utc_ms, **gains)
            found += self.do(self.generator.told(JUNCTION, (status,), self.now))
        return found

    def silent(self) -> list[Action]:
        """Let the controller tell of no request at all."""
        return self.do(self.generator.told(JUNCTION, (), self.now))

    def green(self, green: bool | None) -> list[Action]:
        return self.do(self.generator.group(JUNCTION, "1", green, self.now))

    @property
    def last(self) -> str:
        return self.asks[-1].request.id

    @property
    def asks(self) -> list[Ask]:
        return [one for one in self.actions if isinstance(one, Ask)]

    @property
    def updates(self) -> list[Update]:
        return [one for one in self.actions if isinstance(one, Update)]

    @property
    def cancels(self) -> list[Cancel]:
        return [one for one in self.actions if isinstance(one, Cancel)]

    @property
    def looks(self) -> list[Look]:
        return [one for one in self.actions if isinstance(one, Look)]

    @property
    def reports(self) -> list[Report]:
        return [one for one in self.actions if isinstance(one, Report)]

    @property
    def events(self) -> list[PriorityEvent]:
        return [one.event for one in self.reports]

    @property
    def reasons(self) -> list[str]:
        return [one.reason for one in self.events if one.reason]

    @property
    def passages(self) -> list[Passage]:
        return [one for lane in self.generator.lanes.values() for one in lane.passages.values()]
