"""Buses as a scenario has them: who rides where and how often, and who hears what they say."""

from enum import StrEnum
from typing import Annotated, Protocol

import msgspec

from sim.bus import Bus, Layout, Passage, Ride, Signals, VehiclePosition
from sim.route import Route, straight
from sim.schedule import Schedule, Timer

MAX_RECORDS = 1000
"""Passages kept; the oldest are dropped."""
DRIVE = "drive"
"""The switch of a bus that waits."""
_BEHIND_M = 200.0
"""How far a straight route goes on behind the stop line."""


class Approach(StrEnum):
    """Where a bus comes from, at the junction that the scenario has unless it says otherwise."""

    NORTH = "north"
    EAST = "east"
    SOUTH = "south"
    WEST = "west"


_BEARINGS = {Approach.NORTH: 180.0, Approach.EAST: 270.0, Approach.SOUTH: 0.0, Approach.WEST: 90.0}
_NUMBERS = {approach: number for number, approach in enumerate(Approach, 1)}
Metres = Annotated[float, msgspec.Meta(ge=0, le=5000)]


_Where = Annotated[str, msgspec.Meta(pattern=r"^([^\s:/]+:[0-9]{1,5})?$", description="host:port")]


class BusSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bus of the scenario, which rides again and again.

    Attributes:
        name: of the vehicle, and of the fault target that it is.
        junction: name of the junction that it passes.
        approach: where it comes from: says route, signal group and detectors unless they are given.
        line, direction: public number and direction.
        at_s: real seconds after the start of the bench at which it drives off.
        every_s: real seconds between two rides; None is one ride.
        rides: how many at most.
        route: degrees north and east; None is a straight line through the scenario's place.
        stop_line_m: along the route, or along the straight line.
        group: number of the signal group; None is the approach's.
        check_in: name of the check-in detector; None is the approach's.
        exit: name of the exit detector; None is the approach's.
        check_in_m: how far before the stop line it is detected.
        exit_m: how far behind the stop line it is detected again.
        stop_m: of the passengers' stop, from the stop line: below 0 before it, above 0 behind; None for none.
        dwell_s: how long its doors are open there.
        waits: it drives off only when told (`set … drive=on`), each time once.
        broker: host:port of the MQTT broker by which it tells its position; "" for none.
        datagram_to: host:port of the cabinet that it tells its position to by itself; "" for none.
        fleet_key: 64 hexadecimal digits, which that cabinet knows too.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    junction: str
    approach: Approach = Approach.NORTH
    line: str = "1"
    direction: Annotated[int, msgspec.Meta(ge=1, le=2)] = 1
    at_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    every_s: Annotated[float, msgspec.Meta(ge=1)] | None = None
    rides: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None
    route: tuple[tuple[float, float], ...] | None = None
    stop_line_m: Metres = 400.0
    group: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None
    check_in: str | None = None
    exit: str | None = None
    check_in_m: Metres = 200.0
    exit_m: Metres = 20.0
    stop_m: Annotated[float, msgspec.Meta(ge=-5000, le=5000)] | None = None
    dwell_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 15.0
    ride: Ride = Ride()
    waits: bool = False
    broker: _Where = ""
    datagram_to: _Where = ""
    fleet_key: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")] = ""

    def the_route(self, latitude: float, longitude: float) -> Route:
        """Return the route given, or the straight one through a place from the approach."""
        if self.route is not None:
            return Route(self.route)
        return straight(latitude, longitude, _BEARINGS[self.approach], self.stop_line_m, _BEHIND_M)

    @property
    def number(self) -> int:
        """Number of the approach, which names its detectors."""
        return _NUMBERS[self.approach]

    @property
    def check_in_name(self) -> str:
        """Name of the check-in detector."""
        return f"check-in-{self.number}" if self.check_in is None else self.check_in

    @property
    def exit_name(self) -> str:
        """Name of the exit detector."""
        return f"exit-{self.number}" if self.exit is None else self.exit

    @property
    def the_group(self) -> int:
        """Number of the signal group."""
        return self.number if self.group is None else self.group

    def layout(self) -> Layout:
        """Return what the bus meets."""
        return Layout(
            group=self.the_group,
            stop_line_m=self.stop_line_m,
            check_in=(self.check_in_name, self.stop_line_m - self.check_in_m),
            exit=(self.exit_name, self.stop_line_m + self.exit_m),
            stop_m=None if self.stop_m is None else self.stop_line_m + self.stop_m,
            dwell_s=self.dwell_s,
        )


class Teller(Protocol):
    """Carries what buses say to whoever listens: over MQTT, in a datagram, or to a test."""

    def tell(self, position: VehiclePosition) -> None:
        """Pass on one position; one that cannot be passed on is lost, as on the road."""
        ...

    def close(self) -> None:
        """Fall silent."""
        ...


class BusService:
    """A bus that rides again and again.

    Args:
        settings: who, where and how often.
        signals: the junction that it passes.
        schedule: gives time and timers.
        place: of the scenario: degrees north and east.
        teller: hears every position; None for nobody.

    Attributes:
        passages: what each ride has timed, oldest first.
        bus: on the road now, or None.
        last: what it said last, or None.
        journeys: rides so far.
    """

    def __init__(
        self,
        settings: BusSettings,
        *,
        signals: Signals,
        schedule: Schedule,
        place: tuple[float, float],
        teller: Teller | None = None,
    ) -> None:
        self.settings = settings
        self.passages: list[Passage] = []
        self.bus: Bus | None = None
        self.last: VehiclePosition | None = None
        self.journeys = 0
        self._signals = signals
        self._schedule = schedule
        self._route = settings.the_route(*place)
        self._teller = teller
        self._timer: Timer | None = None
        self._next_s = 0.0

    def start(self) -> None:
        """Plan the first ride, unless it waits to be told."""
        if self.settings.waits:
            return
        self._next_s = self._schedule.time() + self.settings.at_s
        self._timer = self._schedule.call_at(self._next_s, self._ride)

    def stop(self) -> None:
        """Take the bus off the road."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.bus is not None:
            self.bus.stop()
            self.bus = None
        if self._teller is not None:
            self._teller.close()

    def drive(self) -> None:
        """Drive off now, if it stands."""
        if self.bus is None:
            self._drive_off()

    def _ride(self) -> None:
        """Drive off, unless the last ride is not over: then this one is left out."""
        settings = self.settings
        if settings.every_s is not None:
            self._next_s += settings.every_s
            self._timer = self._schedule.call_at(self._next_s, self._ride)
        if self.bus is not None or (settings.rides is not None and self.journeys >= settings.rides):
            return
        self._drive_off()

    def _drive_off(self) -> None:
        settings = self.settings
        self.journeys += 1
        self.bus = Bus(
            settings.name,
            route=self._route,
            layout=settings.layout(),
            ride=settings.ride,
            signals=self._signals,
            schedule=self._schedule,
            journey=self.journeys,
            line=settings.line,
            direction=settings.direction,
        )
        self.bus.told = self._tell
        self.bus.arrived = self._arrived
        self.bus.start()

    def _tell(self, position: VehiclePosition) -> None:
        self.last = position
        if self._teller is not None:
            self._teller.tell(position)

    def _arrived(self, passage: Passage) -> None:
        self.bus = None
        self.passages.append(passage)
        del self.passages[:-MAX_RECORDS]
