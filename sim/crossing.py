"""A junction of the bench put together: controller, site, its buses, their faults, and what they tell."""

import random
from functools import partial

from sim.bus import Passage
from sim.bus_service import BusService
from sim.clock import BenchClock
from sim.faults import DetectorFault, FaultSettings, GroupFault, JunctionFault
from sim.junction import Junction, Part
from sim.junction_settings import JunctionSettings
from sim.report import BusCounters, BusState, JunctionCounters, JunctionState, RequestState
from sim.schedule import Schedule
from sim.signal_controller import SignalController
from sim.targets import FaultSwitch, Targets

_SHOWN = 10
"""Rides of a bus that its state tells; all that are kept count."""


def build(
    settings: JunctionSettings, schedule: Schedule, clock: BenchClock, rng: random.Random
) -> SignalController:
    """Return a signal controller as the scenario has it; its cycles follow UTC, as those of its neighbours."""
    junction = Junction(settings.design, schedule, epoch_s=clock.now().utc_ms // 1000)
    return SignalController(settings, junction, schedule=schedule, clock=clock, rng=rng)


def offer_faults(controller: SignalController, targets: Targets) -> None:
    """Make the faults of a controller, its groups and its detectors known."""
    name, junction = controller.settings.name, controller.junction
    targets.add(name, {fault.value: _switch(controller, fault) for fault in JunctionFault})
    for number in range(1, len(junction.design.groups) + 1):
        targets.add(
            f"{name}/{number}",
            {
                fault.value: FaultSwitch(
                    partial(junction.set_lamp_fault, number, fault),
                    partial(junction.clear_lamp_fault, number, fault),
                )
                for fault in GroupFault
            },
        )
    for detector in junction.design.detectors:
        targets.add(
            f"{name}/{detector.name}",
            {fault.value: _detector_switch(junction, detector.name, fault) for fault in DetectorFault},
        )


def _switch(controller: SignalController, fault: JunctionFault) -> FaultSwitch:
    def begin(settings: FaultSettings) -> None:
        controller.set_fault(fault, settings)

    return FaultSwitch(begin, lambda: controller.clear_fault(fault))


def _detector_switch(junction: Junction, name: str, fault: DetectorFault) -> FaultSwitch:
    return FaultSwitch(
        partial(junction.set_detector_fault, name, fault), partial(junction.clear_detector_fault, name, fault)
    )


def junction_state(controller: SignalController) -> JunctionState:
    """Return what the bench tells of a controller."""
    junction, settings = controller.junction, controller.settings
    return JunctionState(
        mode=junction.mode.value,
        position=junction.position.value,
        plan=junction.plan.number,
        stage=junction.stage,
        cycle_counter=junction.cycle_counter,
        signals=junction.signal_states(),
        lamps={str(number): aspect.value for number, aspect in enumerate(junction.lamps, 1)},
        requests=[
            RequestState(
                each.id,
                each.state.value,
                None if each.group is None else each.group + 1,
                each.level,
                each.extension_s,
                each.reduction_s,
            )
            for each in junction.priority.entries()
        ],
        detectors=junction.detectors(),
        alarms=[
            key.code if key.part is Part.CONTROLLER else f"{key.code} {key.part.value} {key.number}"
            for key in junction.alarms()
        ],
        hazard=None if junction.finding is None else junction.finding.hazard.value,
        supervisor=f"{settings.host}:{settings.port}",
        connected=controller.connected,
        ready=controller.ready.is_set(),
        faults=junction.faults(),
    )


def junction_counters(controller: SignalController) -> JunctionCounters:
    """Return what a controller has counted by itself."""
    totals = controller.junction.priority.totals()
    return JunctionCounters(
        requests=totals.requested,
        granted=totals.granted,
        green_seconds_gained=totals.extension_s + totals.reduction_s,
        priority=totals,
        rsmp=controller.counters(),
        detectors=controller.junction.detector_counts(),
    )


def bus_state(service: BusService) -> BusState:
    """Return where a bus is."""
    return BusState(
        riding=service.bus is not None,
        journeys=service.journeys,
        last=service.last,
        passages=service.passages[-_SHOWN:],
    )


def bus_counters(service: BusService) -> BusCounters:
    """Return what a bus has timed."""
    return BusCounters(
        rides=len(service.passages),
        stopped_at_red_s=round(sum(each.stopped_at_red_s for each in service.passages), 1),
        approach_s=round(sum(_approach_s(each) for each in service.passages), 1),
    )


def _approach_s(passage: Passage) -> float:
    return 0.0 if passage.stop_line_s is None else passage.stop_line_s - passage.check_in_s
