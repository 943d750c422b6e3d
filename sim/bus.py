"""A bus that drives its line through a junction: it brakes, serves its stop, waits at red, and says where it is.

It sees the lamps as a driver does, and the junction's detectors feel it. It knows nothing of priority: whether it got
any can be told from its own record alone (`Passage`), with and without.
"""

import math
from collections.abc import Callable
from typing import Annotated, Protocol

import msgspec

from sim.route import Place, Route
from sim.schedule import Schedule, Timer
from sim.signal_groups import Aspect

STEP_S = 0.1
"""A bus at 12 m/s moves 1.2 m between two steps."""
TELL_EVERY_S = 1.0
"""As vehicles do (HFP: 1 Hz)."""
_NEAR_M = 0.3
"""So close to where it must stand, a bus stands."""
_CREEP_M_S = 0.5
_MUST_STOP = frozenset({Aspect.RED, Aspect.RED_YELLOW, Aspect.YELLOW})
"""Dark or flashing signals leave the driver to the signs."""


class Ride(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a bus drives.

    Attributes:
        cruise_m_s: speed on the free road.
        accelerate_m_s2: what passengers on their feet bear.
        brake_m_s2: the same; it brakes up to `hard_m_s2` when a signal changes before it.
        length_m: from front to rear: how long it stands on a detector.
    """

    cruise_m_s: Annotated[float, msgspec.Meta(gt=0, le=30)] = 12.0
    accelerate_m_s2: Annotated[float, msgspec.Meta(gt=0, le=3)] = 1.0
    brake_m_s2: Annotated[float, msgspec.Meta(gt=0, le=3)] = 1.2
    hard_m_s2: Annotated[float, msgspec.Meta(gt=0, le=6)] = 2.5
    length_m: Annotated[float, msgspec.Meta(gt=0, le=60)] = 12.0


class Layout(msgspec.Struct, frozen=True):
    """What a route meets, in metres along it.

    Attributes:
        group: number of the signal group at the stop line.
        check_in: name of the detector and where it is; None for none.
        exit: the same, behind the junction.
        stop_m: the passengers' stop; None for none.
        dwell_s: how long its doors are open there.
    """

    group: int
    stop_line_m: float
    check_in: tuple[str, float] | None = None
    exit: tuple[str, float] | None = None
    stop_m: float | None = None
    dwell_s: float = 0.0


class VehiclePosition(msgspec.Struct, frozen=True):
    """What a bus says of itself once a second.

    Attributes:
        vehicle: its name.
        journey: counts its rides from 1.
        line: public number of the line.
        direction: of the line.
        at_s: the schedule's seconds.
        place: of its front.
        speed_m_s: m/s.
        doors_open: passengers get on or off.
    """

    vehicle: str
    journey: int
    line: str
    direction: int
    at_s: float
    place: Place
    speed_m_s: float
    doors_open: bool


class Passage(msgspec.Struct, frozen=True):
    """One ride through the junction, as the bus itself has timed it; the schedule's seconds.

    Attributes:
        check_in_s: its front was on the check-in detector, or it started.
        stop_line_s: its front crossed the stop line; None if the ride ended before.
        exit_s: its rear left the exit detector, or the ride ended.
        stopped_at_red_s: seconds that it stood because the signal was not green.
        dwell_s: seconds with its doors open.
    """

    vehicle: str
    journey: int
    check_in_s: float
    stop_line_s: float | None
    exit_s: float
    stopped_at_red_s: float
    dwell_s: float


class Signals(Protocol):
    """What a bus needs of a junction: lamps to see, and detectors that feel it."""

    lamps: list[Aspect]

    def detect(self, name: str, occupied: bool) -> None:
        """Let something stand on a detector, or leave it."""
        ...


class Bus:
    """One ride along a route.

    Args:
        name: of the vehicle.
        route: where it drives.
        layout: what it meets.
        ride: how it drives.
        signals: the junction.
        schedule: gives time and timers.

    Attributes:
        told: called once a second with where it is.
        arrived: called at the end with what it has timed.
    """

    def __init__(
        self,
        name: str,
        *,
        route: Route,
        layout: Layout,
        ride: Ride,
        signals: Signals,
        schedule: Schedule,
        journey: int = 1,
        line: str = "",
        direction: int = 1,
    ) -> None:
        self.told: Callable[[VehiclePosition], object] = lambda _position: None
        self.arrived: Callable[[Passage], object] = lambda _passage: None
        self.name = name
        self.journey = journey
        self._line = (line, direction)
        self._route = route
        self._layout = layout
        self._ride = ride
        self._signals = signals
        self._schedule = schedule
        self._started_s = schedule.time()
        self._steps = 0
        self._along_m = 0.0
        self._speed_m_s = 0.0
        self._served = layout.stop_m is None
        self._dwell_left_s = layout.dwell_s
        self._committed = False
        self._timer: Timer | None = None
        self._on: set[str] = set()
        self._check_in_s: float | None = None
        self._stop_line_s: float | None = None
        self._exit_s: float | None = None
        self._red_s = 0.0
        self._dwelt_s = 0.0

    def start(self) -> None:
        """Drive off, at the schedule's present."""
        self._started_s = self._schedule.time()
        self._tell()
        self._plan()

    def stop(self) -> None:
        """Take it off the road."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for name in tuple(self._on):
            self._feel(name, occupied=False)

    @property
    def along_m(self) -> float:
        """Metres along its route."""
        return self._along_m

    @property
    def speed_m_s(self) -> float:
        """m/s."""
        return self._speed_m_s

    @property
    def doors_open(self) -> bool:
        """Whether passengers get on or off."""
        return not self._served and self._is_at(self._layout.stop_m)

    def _plan(self) -> None:
        self._timer = self._schedule.call_at(self._started_s + (self._steps + 1) * STEP_S, self._step)

    def _now_s(self) -> float:
        return self._started_s + self._steps * STEP_S

    def _step(self) -> None:
        self._steps += 1
        if self.doors_open:
            self._dwell()
        self._move()
        self._feel_detectors()
        if self._steps % round(TELL_EVERY_S / STEP_S) == 0:
            self._tell()
        if self._along_m - self._ride.length_m >= self._route.length_m:
            self._arrive()
        else:
            self._plan()

    def _dwell(self) -> None:
        self._dwelt_s += STEP_S
        self._dwell_left_s -= STEP_S
        self._served = self._dwell_left_s <= STEP_S / 2

    def _move(self) -> None:
        stop_m, must_stop = self._next_halt()
        room_m = stop_m - self._along_m
        wanted_m_s = self._ride.cruise_m_s
        if room_m < _NEAR_M:
            wanted_m_s = 0.0
        elif room_m < math.inf:
            wanted_m_s = min(wanted_m_s, max(math.sqrt(2 * self._ride.brake_m_s2 * room_m), _CREEP_M_S))
        slowest = self._speed_m_s - self._ride.hard_m_s2 * STEP_S
        fastest = self._speed_m_s + self._ride.accelerate_m_s2 * STEP_S
        self._speed_m_s = max(0.0, min(max(wanted_m_s, slowest), fastest))
        before_m = self._along_m
        self._along_m = min(before_m + self._speed_m_s * STEP_S, max(stop_m, before_m))
        if must_stop and not self._speed_m_s:
            self._red_s += STEP_S
        if before_m < self._layout.stop_line_m <= self._along_m and self._stop_line_s is None:
            self._stop_line_s = self._now_s()

    def _next_halt(self) -> tuple[float, bool]:
        """Return where it must stand next, metres along the route, and whether the signal is why."""
        halts = [(math.inf, False)]
        if not self._served and self._layout.stop_m is not None:
            halts.append((self._layout.stop_m, False))
        if self._must_stop_at_line():
            halts.append((self._layout.stop_line_m, True))
        return min(halts)

    def _must_stop_at_line(self) -> bool:
        """Whether the signal says stop, and there is room to: one that comes too late is driven through."""
        room_m = self._layout.stop_line_m - self._along_m
        aspect = self._signals.lamps[self._layout.group - 1]
        if room_m <= 0 or aspect not in _MUST_STOP:
            self._committed = False
            return False
        if self._speed_m_s**2 / (2 * self._ride.hard_m_s2) > room_m:
            self._committed = True
        return not self._committed

    def _is_at(self, where_m: float | None) -> bool:
        return where_m is not None and not self._speed_m_s and abs(where_m - self._along_m) < 2 * _NEAR_M

    def _feel_detectors(self) -> None:
        for sensor in (self._layout.check_in, self._layout.exit):
            if sensor is None:
                continue
            name, at_m = sensor
            occupied = self._along_m - self._ride.length_m <= at_m <= self._along_m
            if occupied is not (name in self._on):
                self._feel(name, occupied=occupied)
                self._note(name, occupied=occupied)

    def _feel(self, name: str, *, occupied: bool) -> None:
        (self._on.add if occupied else self._on.discard)(name)
        self._signals.detect(name, occupied)

    def _note(self, name: str, *, occupied: bool) -> None:
        if occupied and self._layout.check_in is not None and name == self._layout.check_in[0]:
            self._check_in_s = self._now_s()
        elif not occupied and self._layout.exit is not None and name == self._layout.exit[0]:
            self._exit_s = self._now_s()

    def _tell(self) -> None:
        line, direction = self._line
        self.told(
            VehiclePosition(
                vehicle=self.name,
                journey=self.journey,
                line=line,
                direction=direction,
                at_s=self._now_s(),
                place=self._route.place(self._along_m),
                speed_m_s=self._speed_m_s,
                doors_open=self.doors_open,
            )
        )

    def _arrive(self) -> None:
        self.stop()
        self.arrived(
            Passage(
                self.name,
                self.journey,
                self._started_s if self._check_in_s is None else self._check_in_s,
                self._stop_line_s,
                self._now_s() if self._exit_s is None else self._exit_s,
                round(self._red_s, 1),
                round(self._dwelt_s, 1),
            )
        )
