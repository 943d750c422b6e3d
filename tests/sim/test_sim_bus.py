"""A bus by itself, and what priority does for it and for the others."""

import math
import random
import statistics
from collections.abc import Callable
from itertools import pairwise

import msgspec
import pytest

from sim.bus import Bus, Layout, Passage, Ride, VehiclePosition
from sim.bus_service import Approach, BusService, BusSettings
from sim.crossing import bus_counters
from sim.junction_design import JunctionDesign, PriorityLimits
from sim.priority import UnknownRequestError
from sim.route import Route, bearing_deg, distance_m, straight
from sim.schedule import VirtualSchedule
from sim.signal_groups import Aspect
from tests.sim.junction_bench import Rig

PLACE = (47.32, 5.04)
HOUR_S = 3600


class Lamps:
    """A junction of one group that a test sets by hand."""

    def __init__(self, aspect: Aspect) -> None:
        self.lamps = [aspect]
        self.felt: list[tuple[str, bool]] = []

    def detect(self, name: str, occupied: bool) -> None:
        self.felt.append((name, occupied))


def a_bus(lamps: Lamps, schedule: VirtualSchedule, layout: Layout, ride: Ride | None = None) -> Bus:
    route = straight(*PLACE, 180.0, layout.stop_line_m, 100.0)
    return Bus("bus-1", route=route, layout=layout, ride=ride or Ride(), signals=lamps, schedule=schedule)


LAYOUT = Layout(group=1, stop_line_m=300.0, check_in=("in", 150.0), exit=("out", 320.0))


class TestDriving:
    def test_on_green_it_drives_through_and_is_felt_by_both_detectors(self) -> None:
        schedule, lamps, passages = VirtualSchedule(), Lamps(Aspect.GREEN), list[Passage]()
        bus = a_bus(lamps, schedule, LAYOUT)
        bus.arrived = passages.append
        bus.start()
        schedule.run()
        assert lamps.felt == [("in", True), ("in", False), ("out", True), ("out", False)]
        (passage,) = passages
        assert passage.stopped_at_red_s == 0
        assert passage.stop_line_s is not None
        assert passage.check_in_s < passage.stop_line_s < passage.exit_s

    def test_it_never_exceeds_what_passengers_bear_nor_its_speed(self) -> None:
        schedule, lamps, speeds = VirtualSchedule(), Lamps(Aspect.RED), [0.0]
        bus = a_bus(lamps, schedule, LAYOUT)
        bus.start()
        for tenth in range(1, 600):
            schedule.run_until(tenth / 10 + 0.05)
            speeds.append(bus.speed_m_s)
        changes = [after - before for before, after in pairwise(speeds)]
        assert max(changes) <= 0.1 + 1e-9
        assert min(changes) >= -0.25 - 1e-9
        assert max(speeds) <= 12.0

    def test_it_stands_at_the_stop_line_until_green_and_times_it(self) -> None:
        schedule, lamps, passages = VirtualSchedule(), Lamps(Aspect.RED), list[Passage]()
        bus = a_bus(lamps, schedule, LAYOUT)
        bus.arrived = passages.append
        bus.start()
        schedule.run_until(100.0)
        assert bus.speed_m_s == 0
        assert 299.0 <= bus.along_m <= 300.0
        lamps.lamps = [Aspect.RED_YELLOW]
        schedule.run_until(101.0)
        assert bus.speed_m_s == 0
        lamps.lamps = [Aspect.GREEN]
        schedule.run()
        (passage,) = passages
        assert passage.stop_line_s == pytest.approx(101.0, abs=2.0)
        assert passage.stopped_at_red_s == pytest.approx(60, abs=10)

    @pytest.mark.parametrize(("along_m", "passes"), [(200.0, False), (285.0, True)])
    def test_at_a_yellow_it_stops_if_it_can(self, along_m: float, passes: bool) -> None:
        schedule, lamps = VirtualSchedule(), Lamps(Aspect.GREEN)
        bus = a_bus(lamps, schedule, LAYOUT)
        bus.start()
        while bus.along_m < along_m:
            schedule.run_until(schedule.time() + 0.1)
        lamps.lamps = [Aspect.YELLOW]
        schedule.run_until(schedule.time() + 3)
        assert not passes or bus.speed_m_s == 12.0
        lamps.lamps = [Aspect.RED]
        schedule.run_until(schedule.time() + 60)
        assert (bus.along_m > 300.0) is passes

    @pytest.mark.parametrize("aspect", [Aspect.DARK, Aspect.FLASH])
    def test_signals_out_of_order_do_not_hold_it(self, aspect: Aspect) -> None:
        schedule, passages = VirtualSchedule(), list[Passage]()
        bus = a_bus(Lamps(aspect), schedule, LAYOUT)
        bus.arrived = passages.append
        bus.start()
        schedule.run()
        assert passages[0].stopped_at_red_s == 0

    @pytest.mark.parametrize("stop_m", [250.0, 340.0])
    def test_at_its_stop_the_doors_are_open_for_the_dwell(self, stop_m: float) -> None:
        schedule, said, passages = VirtualSchedule(), list[VehiclePosition](), list[Passage]()
        layout = msgspec.structs.replace(LAYOUT, stop_m=stop_m, dwell_s=12.0)
        bus = a_bus(Lamps(Aspect.GREEN), schedule, layout)
        bus.told, bus.arrived = said.append, passages.append
        bus.start()
        schedule.run()
        standing = [each for each in said if each.doors_open]
        assert len(standing) in {11, 12, 13}
        assert {each.speed_m_s for each in standing} == {0.0}
        assert passages[0].dwell_s == pytest.approx(12.0)

    def test_it_says_once_a_second_where_it_is(self) -> None:
        schedule, said = VirtualSchedule(50.0), list[VehiclePosition]()
        bus = a_bus(Lamps(Aspect.GREEN), schedule, LAYOUT)
        bus.told = said.append
        bus.start()
        schedule.run()
        gaps = [after.at_s - before.at_s for before, after in pairwise(said)]
        assert all(gap == pytest.approx(1.0) for gap in gaps)
        steps = [
            distance_m((one.place.latitude, one.place.longitude), (two.place.latitude, two.place.longitude))
            for one, two in pairwise(said)
        ]
        assert max(steps) == pytest.approx(12.0, abs=0.1)
        assert {round(each.place.heading_deg) for each in said} == {180}

    def test_taken_off_the_road_it_leaves_its_detector(self) -> None:
        schedule, lamps = VirtualSchedule(), Lamps(Aspect.GREEN)
        bus = a_bus(lamps, schedule, LAYOUT)
        bus.start()
        while not lamps.felt:
            schedule.run_until(schedule.time() + 0.1)
        bus.stop()
        schedule.run()
        assert lamps.felt == [("in", True), ("in", False)]


class TestRoute:
    def test_metres_and_headings_are_those_of_the_ground(self) -> None:
        """One arc minute of latitude is a nautical mile, 1,852 m, within the ellipsoid's 0.3 %."""
        assert distance_m((47.0, 5.0), (47.0 + 1 / 60, 5.0)) == pytest.approx(1852, rel=0.003)
        east = distance_m((60.0, 5.0), (60.0, 5.0 + 1 / 60))
        assert east == pytest.approx(1852 / 2, rel=0.005)
        assert bearing_deg((47.0, 5.0), (47.1, 5.0)) == 0
        assert bearing_deg((47.0, 5.0), (47.0, 4.9)) == pytest.approx(270)

    def test_a_bent_route_turns_where_it_is_bent(self) -> None:
        route = Route([(47.0, 5.0), (47.001, 5.0), (47.001, 5.002)])
        corner_m = distance_m((47.0, 5.0), (47.001, 5.0))
        assert route.place(corner_m - 1).heading_deg == 0
        assert route.place(corner_m + 1).heading_deg == pytest.approx(90)
        beyond = route.place(route.length_m + 10)
        assert beyond.longitude > 5.002
        assert math.isclose(beyond.latitude, 47.001)


class Driver:
    """Asks for a green at the check-in detector and gives it back at the exit, for a group of its own choice."""

    def __init__(self, rig: Rig, number: int, group: int, *, eta_s: int) -> None:
        self._rig = rig
        self._names = (f"check-in-{number}", f"exit-{number}")
        self._group = group
        self._eta_s = eta_s
        self._asked = 0
        self._seen = dict.fromkeys(self._names, False)
        rig.junction.changed.append(self.look)

    def look(self) -> None:
        junction = self._rig.junction
        says = junction.detectors()
        check_in, leave = self._names
        rises = says[check_in] and not self._seen[check_in]
        falls = not says[leave] and self._seen[leave]
        self._seen = {name: says[name] for name in self._names}
        if rises:
            self._asked += 1
            junction.request(f"bus-{self._asked}", self._group, 5, eta_s=self._eta_s)
        if falls:
            try:
                junction.cancel_request(f"bus-{self._asked}")
            except UnknownRequestError:
                return  # it has ended by itself


def an_hour(
    priority: Callable[[Rig], object] | None, approach: Approach = Approach.EAST
) -> tuple[Rig, float]:
    """Let buses come at odd moments for an hour; return their mean time from check-in to the stop line."""
    rig = Rig(JunctionDesign(limits=PriorityLimits(cooldown_s=0))).in_control()
    if priority is not None:
        priority(rig)
    rng = random.Random(3)
    passages: list[Passage] = []
    services: list[BusService] = []
    at_s = 0.0
    while at_s < HOUR_S - 200:
        settings = BusSettings(f"bus-{len(services)}", "junction-1", approach, at_s=at_s)
        service = BusService(settings, signals=rig.junction, schedule=rig.schedule, place=PLACE)
        service.start()
        services.append(service)
        at_s += rng.uniform(80, 160)
    rig.run_to(HOUR_S)
    for service in services:
        passages += service.passages
    assert len(passages) == len(services)
    took_s = [(each.stop_line_s or math.inf) - each.check_in_s for each in passages]
    return rig, statistics.fmean(took_s)


class TestPriority:
    def test_it_saves_the_bus_time_and_harms_nobody(self) -> None:
        _, without_s = an_hour(None)
        rig, with_s = an_hour(lambda rig: Driver(rig, 2, 2, eta_s=17))
        assert with_s < 0.75 * without_s
        assert rig.witness.hazards() == []
        totals = rig.junction.priority.totals()
        assert totals.requested > 25
        assert totals.granted == totals.requested
        assert totals.reduction_s + totals.extension_s > 200

    def test_mapped_to_the_wrong_group_it_does_not_help(self) -> None:
        _, without_s = an_hour(None)
        rig, wrong_s = an_hour(lambda rig: Driver(rig, 2, 1, eta_s=17))
        assert wrong_s >= 0.97 * without_s
        assert rig.witness.hazards() == []

    def test_the_main_road_gains_too(self) -> None:
        _, without_s = an_hour(None, Approach.NORTH)
        rig, with_s = an_hour(lambda rig: Driver(rig, 1, 1, eta_s=17), Approach.NORTH)
        assert with_s < 0.9 * without_s
        assert rig.witness.hazards() == []


class TestService:
    def test_it_rides_again_and_again_and_leaves_out_what_it_cannot_do(self) -> None:
        rig = Rig().in_control()
        settings = BusSettings("bus-1", "junction-1", at_s=5.0, every_s=30.0, rides=3)
        service = BusService(settings, signals=rig.junction, schedule=rig.schedule, place=PLACE)
        service.start()
        rig.run_to(600)
        assert [passage.journey for passage in service.passages] == [1, 2, 3]
        assert service.bus is None
        assert service.last is not None
        assert service.last.journey == 3
        counted = bus_counters(service)
        assert counted.rides == 3
        assert counted.stopped_at_red_s == pytest.approx(
            sum(passage.stopped_at_red_s for passage in service.passages)
        )
        assert counted.approach_s > 3 * 200 / 12

    def test_stopped_it_leaves_the_road(self) -> None:
        rig = Rig().in_control()
        settings = BusSettings("bus-1", "junction-1", every_s=10.0)
        service = BusService(settings, signals=rig.junction, schedule=rig.schedule, place=PLACE)
        service.start()
        rig.run_to(40)
        assert service.bus is not None
        service.stop()
        rig.run_to(300)
        assert service.journeys == 1
        assert not any(rig.junction.detectors().values())

    def test_what_the_scenario_says_goes_before_what_the_approach_does(self) -> None:
        settings = BusSettings(
            "bus-1",
            "junction-1",
            Approach.WEST,
            route=((47.0, 5.0), (47.001, 5.0)),
            group=2,
            check_in="bus-in",
            stop_m=-40.0,
        )
        assert settings.the_route(*PLACE).place(0).latitude == 47.0
        layout = settings.layout()
        assert (layout.group, layout.check_in, layout.exit) == (2, ("bus-in", 200.0), ("exit-4", 420.0))
        assert layout.stop_m == 360.0
