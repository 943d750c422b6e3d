"""A traffic light controller: modes, stages, detectors, faults, and priority that can never do harm.

It is driven by a `Schedule` in steps of a second; requests and commands come in between. On a virtual schedule an
hour of traffic takes milliseconds. What the lamps show goes through the conflict monitor first: a hazard is never
shown, it takes the controller to its failure mode in the same step.

The wire is not here: `sim.signal_controller` speaks RSMP for it.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum

import msgspec

from protocols.model.priority import VehicleType
from sim.conflict_monitor import ConflictMonitor, Finding
from sim.faults import Board, DetectorFault, FaultSettings, GroupFault, JunctionFault
from sim.junction_design import GroupKind, JunctionDesign, TimePlan
from sim.priority import Asked, PriorityBook
from sim.schedule import Schedule, Timer
from sim.signal_groups import Aspect
from sim.stages import Stages

YELLOW_START_S = 3
"""Start-up: how long yellow follows the flashing."""
DEAD_LOCK_S = 120
"""A stage that is not green after so long never will be (A0008)."""

_STATES = {Aspect.FLASH: "c", Aspect.RED: "B", Aspect.YELLOW: "N", Aspect.RED_YELLOW: "0"}
"""S0001: flashing yellow; red rest; fixed yellow; red-yellow."""


class Mode(StrEnum):
    """Control mode, in the words of S0020."""

    STARTUP = "startup"
    CONTROL = "control"
    STANDBY = "standby"
    FAILURE = "failure"


class Position(StrEnum):
    """Functional position, in the words of M0001."""

    NORMAL = "NormalControl"
    YELLOW_FLASH = "YellowFlash"
    DARK = "Dark"


class Part(StrEnum):
    """What an alarm is about."""

    CONTROLLER = "controller"
    GROUP = "group"
    DETECTOR = "detector"


class AlarmKey(msgspec.Struct, frozen=True):
    """An alarm of the traffic-light list, and the numbered part that has it; 0 is the controller itself."""

    code: str
    part: Part = Part.CONTROLLER
    number: int = 0


class _Detector:
    """A loop: what drives over it, and what it says."""

    def __init__(self, stuck_after_s: int) -> None:
        self.board = Board(DetectorFault)
        self.stuck_after_s = stuck_after_s
        self.occupied = False
        self.count = 0
        self.since_s = 0.0

    @property
    def says(self) -> bool:
        return self.occupied or DetectorFault.DETECTOR_STUCK in self.board


class Junction:
    """A controller and its lamps.

    Args:
        design: a sound one (`design_faults`).
        schedule: gives time and timers.
        epoch_s: whole seconds, shared by all controllers (UTC), at the moment of the start: the base cycle counter.

    Attributes:
        mode: control mode.
        lamps: what each group shows, by index.
        changed: called after anything may have changed.
        finding: what the conflict monitor last saw.
        priority: the book of requests.
    """

    def __init__(self, design: JunctionDesign, schedule: Schedule, *, epoch_s: int = 0) -> None:
        self.design = design
        self.mode = Mode.STARTUP
        self.lamps: list[Aspect] = [Aspect.DARK] * len(design.groups)
        self.changed: list[Callable[[], None]] = []
        self.finding: Finding | None = None
        self.board = Board(JunctionFault)
        self.priority = PriorityBook(design)
        self._schedule = schedule
        self._epoch_s = epoch_s
        self._monitor = ConflictMonitor(design)
        self._stages: Stages | None = None
        self._group_boards = [Board(GroupFault) for _ in design.groups]
        self._detectors = {each.name: _Detector(each.stuck_after_s) for each in design.detectors}
        self._position = Position.NORMAL
        self._position_source = "startup"
        self._return: tuple[int, Position] | None = None
        self._commanded: TimePlan | None = None
        self._latched: AlarmKey | None = None
        self._tick = 0
        self._entered = 0
        self._origin_s = schedule.time()
        self._timer: Timer | None = None

    # --- running --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Switch on: start-up begins now."""
        self._origin_s = self._schedule.time()
        self._tick = self._entered = 0
        self._enter(Mode.STARTUP)
        self._plan_step()

    def stop(self) -> None:
        """Switch off."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _plan_step(self) -> None:
        self._timer = self._schedule.call_at(self._origin_s + self._tick + 1, self._step)

    def _step(self) -> None:
        self._tick += 1
        self._return_position()
        self._judge_health()
        match self.mode:
            case Mode.STARTUP:
                self._start_up()
            case Mode.CONTROL:
                self._control()
            case Mode.STANDBY | Mode.FAILURE:
                self._resume_if_well()
        self._notify()
        self._plan_step()

    # --- what it is asked -----------------------------------------------------------------------------

    def request(
        self,
        name: str,
        group: int | None,
        level: int,
        *,
        eta_s: int | None = None,
        vehicle: VehicleType = VehicleType.BUS,
    ) -> None:
        """Take a new priority request.

        Args:
            name: its id.
            group: number of the signal group, from 1; None is one that this controller does not know.
            level: 0–14.
            eta_s: seconds until the vehicle is at the stop line; None is now.
            vehicle: what comes.

        Raises:
            RequestInUseError: the id is that of a live request for another group.
            LocalProtocolError: a level out of range.
        """
        known = group is not None and 1 <= group <= len(self.design.groups)
        index = group - 1 if known and group is not None else None
        self.priority.receive(Asked(name, index, level, self._arrival(eta_s or 0), vehicle), self.now_s)
        self._notify()  # a request is seen as received before it is judged
        self._judge_requests()

    def update_request(self, name: str, *, level: int | None = None, eta_s: int | None = None) -> None:
        """Change level or arrival of a request.

        Raises:
            UnknownRequestError: there is none.
        """
        self.priority.update(name, level, None if eta_s is None else self._arrival(eta_s))
        self._judge_requests()

    def cancel_request(self, name: str) -> None:
        """End a request: its vehicle has passed.

        Raises:
            UnknownRequestError: there is none.
        """
        self.priority.cancel(name, self._stages, self._tick, self.now_s)
        self._judge_requests()

    def set_position(self, position: Position, timeout_min: int = 0) -> None:
        """Go to a functional position; after `timeout_min` minutes (0: never) return to the one before."""
        self._return = (self._tick + timeout_min * 60, self._position) if timeout_min else None
        self._take_position(position)
        self._notify()

    def command_plan(self, number: int | None) -> None:
        """Change to a time plan, None to the programmed one, when its first stage runs next.

        Raises:
            KeyError: there is no such plan.
        """
        self._commanded = (
            None if number is None else {plan.number: plan for plan in self.design.plans}[number]
        )
        if self._stages is not None:
            plan = self._commanded or self.design.plans[0]
            self._stages.change_plan(plan)
            self.priority.change_plan(plan)
        self._notify()

    def restart(self) -> None:
        """Start anew, which also acknowledges what the conflict monitor saw."""
        self._latched = self.finding = None
        self._enter(Mode.STARTUP)
        self._notify()

    def detect(self, name: str, occupied: bool) -> None:
        """Let something stand on a detector, or leave it.

        Raises:
            KeyError: no such detector.
        """
        detector = self._detectors[name]
        if occupied and not detector.occupied:
            detector.count += 1
        if occupied != detector.occupied:
            detector.occupied, detector.since_s = occupied, self.now_s
        self._notify()

    # --- what can be wrong ----------------------------------------------------------------------------

    def set_fault(self, fault: JunctionFault, settings: FaultSettings) -> None:
        """Let a fault of the controller begin."""
        self.board.set(fault, settings)
        self._carry_faults()

    def clear_fault(self, fault: JunctionFault) -> None:
        """Let a fault of the controller end; whoever mends an output also resets the monitor."""
        if fault is JunctionFault.CONFLICT and fault in self.board:
            self._latched = self.finding = None
        self.board.clear(fault)
        self._carry_faults()

    def set_lamp_fault(self, group: int, fault: GroupFault, settings: FaultSettings) -> None:
        """Let a fault of a group, by its number, begin."""
        self._group_boards[group - 1].set(fault, settings)

    def clear_lamp_fault(self, group: int, fault: GroupFault) -> None:
        """Let a fault of a group end."""
        self._group_boards[group - 1].clear(fault)

    def set_detector_fault(self, name: str, fault: DetectorFault, settings: FaultSettings) -> None:
        """Let a fault of a detector begin."""
        detector = self._detectors[name]
        if not detector.says:
            detector.since_s = self.now_s
        detector.board.set(fault, settings)
        self._notify()

    def clear_detector_fault(self, name: str, fault: DetectorFault) -> None:
        """Let a fault of a detector end."""
        self._detectors[name].board.clear(fault)
        self._notify()

    # --- what it tells --------------------------------------------------------------------------------

    def is_green(self, group: int) -> bool:
        """Return whether a group, by its number, shows green."""
        return self.lamps[group - 1] is Aspect.GREEN

    @property
    def now_s(self) -> float:
        """The schedule's seconds."""
        return self._schedule.time()

    @property
    def plan(self) -> TimePlan:
        """The time plan in force, or the one that will be after the start."""
        return self._stages.plan if self._stages is not None else self._commanded or self.design.plans[0]

    @property
    def plan_source(self) -> str:
        """Why this plan, in the words of S0014."""
        return "calendar_clock" if self._commanded is None else "forced"

    @property
    def position(self) -> Position:
        """The functional position that was asked for."""
        return self._position

    @property
    def position_source(self) -> str:
        """Why this position, in the words of S0007 and S0011."""
        return self._position_source

    @property
    def stage(self) -> int:
        """Number of the running stage; 0 outside of control."""
        return 0 if self._stages is None else self._stages.stage

    @property
    def base_cycle_counter(self) -> int:
        """S0001: counts the seconds that all controllers share, up to the cycle."""
        return (self._epoch_s + self._tick) % self.plan.cycle_s

    @property
    def cycle_counter(self) -> int:
        """S0001: (base + offset) mod cycle."""
        return (self.base_cycle_counter + self.plan.offset_s) % self.plan.cycle_s

    def detectors(self) -> dict[str, bool]:
        """Return what each detector says."""
        return {name: detector.says for name, detector in self._detectors.items()}

    def detector_counts(self) -> dict[str, int]:
        """Return how often each detector became occupied."""
        return {name: detector.count for name, detector in self._detectors.items()}

    def faults(self) -> list[str]:
        """Return the names of all faults; those of parts with their number or name."""
        names = self.board.names()
        names += [
            f"{index}/{name}" for index, board in enumerate(self._group_boards, 1) for name in board.names()
        ]
        return names + [
            f"{name}/{fault}" for name, each in self._detectors.items() for fault in each.board.names()
        ]

    def alarms(self) -> dict[AlarmKey, dict[str, str]]:
        """Return the active alarms with their return values."""
        active: dict[AlarmKey, dict[str, str]] = {}
        if JunctionFault.DARK in self.board or JunctionFault.YELLOW_FLASH in self.board:
            active[AlarmKey("A0001")] = {}
        if self._latched is not None:
            active[self._latched] = (
                {"timeplan": str(self.plan.number)} if self._latched.code == "A0008" else {}
            )
        for number, board in enumerate(self._group_boards, 1):
            if GroupFault.LAMP_FAILURE in board:
                active[AlarmKey("A0201", Part.GROUP, number)] = {"color": "red"}
        for number, (name, detector) in enumerate(self._detectors.items(), 1):
            if detector.says and self.now_s - detector.since_s >= detector.stuck_after_s:
                values = {"detector": name, "type": "loop", "errormode": "on", "manual": "False"}
                active[AlarmKey("A0302", Part.DETECTOR, number)] = values | {"logicerror": "always_on"}
        return active

    def signal_states(self) -> str:
        """Return one character for each group, as S0001 writes it."""
        return "".join(self._signal_state(group) for group in range(len(self.lamps)))

    def _signal_state(self, group: int) -> str:
        aspect = self.lamps[group]
        if self.mode is Mode.STARTUP:
            return self._state_at_start(aspect)
        if aspect is Aspect.GREEN:
            return self._green_state(group)
        if aspect is Aspect.RED and self._wants(group):
            return "F"
        dark = "a" if self.mode is Mode.FAILURE else "b"
        return {Aspect.DARK: dark, **_STATES}[aspect]

    def _state_at_start(self, aspect: Aspect) -> str:
        if aspect in {Aspect.FLASH, Aspect.DARK}:
            return "e"
        return "f" if Aspect.YELLOW in self.lamps else "g"

    def _green_state(self, group: int) -> str:
        if self._stages is None or not self._stages.groups.has_had_its_minimum(group, self._tick):
            return "1"
        return "3" if self._stages.held and self._wants(group) else "4"

    def _wants(self, group: int) -> bool:
        wish = self.priority.wish()
        return wish is not None and wish.group == group

    # --- steps of each mode ---------------------------------------------------------------------------

    def _start_up(self) -> None:
        age_s = self._tick - self._entered
        flash_s = self.design.start_flash_s
        if age_s < flash_s:
            self._flash()
        elif age_s < flash_s + YELLOW_START_S:
            self._show([Aspect.YELLOW if self._is_vehicle(group) else Aspect.RED for group in self._groups()])
        elif age_s < flash_s + YELLOW_START_S + self.design.start_red_s:
            self._show([Aspect.RED for _ in self._groups()])
        elif self._position is Position.NORMAL:
            self._enter(Mode.CONTROL)
        else:
            self._enter(Mode.STANDBY)

    def _control(self) -> None:
        stages = self._stages
        if stages is None:
            return
        if self._position is not Position.NORMAL:
            self.priority.give_up(self.now_s)
            if stages.wind_down(self._tick):
                self._enter(Mode.STANDBY)
                return
        else:
            stages.step(self._tick, self.priority.wish())
            self.priority.step(stages, self._tick, self.now_s)
        self._light(stages)
        self._judge_requests()

    def _light(self, stages: Stages) -> None:
        """Show the stages' aspects, unless the monitor objects."""
        lamps = self._with_stuck_output(stages.groups.aspects)
        finding = self._monitor.see(self._tick, lamps)
        if finding is not None:
            self.finding = finding
            self._latched = AlarmKey("A0006")
            self._enter(Mode.FAILURE)
        elif self._is_dead_locked(stages):
            self._latched = AlarmKey("A0008", Part.GROUP, self._waiting_group(stages))
            self._enter(Mode.FAILURE)
        else:
            self._show(lamps)

    def _with_stuck_output(self, aspects: Sequence[Aspect]) -> list[Aspect]:
        lamps = list(aspects)
        if JunctionFault.CONFLICT in self.board:
            moving = [group for group, aspect in enumerate(lamps) if aspect is Aspect.GREEN]
            against = (
                group for group in self._groups() for other in moving if self.design.conflict(group, other)
            )
            stuck = next(against, None)
            if stuck is not None:
                lamps[stuck] = Aspect.GREEN
        return lamps

    def _is_dead_locked(self, stages: Stages) -> bool:
        waits = not stages.groups.all_green(self.design.members(stages.stage))
        return waits and self._position is Position.NORMAL and self._tick - stages.since >= DEAD_LOCK_S

    def _waiting_group(self, stages: Stages) -> int:
        members = sorted(self.design.members(stages.stage))
        return next(group + 1 for group in members if stages.groups.aspects[group] is not Aspect.GREEN)

    def _resume_if_well(self) -> None:
        is_well = self._position is Position.NORMAL if self.mode is Mode.STANDBY else not self._is_broken()
        if is_well:
            self._enter(Mode.STARTUP)
        else:
            self._show_unlit()

    def _judge_health(self) -> None:
        if self.mode is not Mode.FAILURE and self._is_broken():
            self._enter(Mode.FAILURE)

    def _is_broken(self) -> bool:
        """Whether there is a major fault (EN 12675)."""
        broken = JunctionFault.DARK in self.board or JunctionFault.YELLOW_FLASH in self.board
        lamps = any(GroupFault.LAMP_FAILURE in board for board in self._group_boards)
        return broken or lamps or self._latched is not None

    def _enter(self, mode: Mode) -> None:
        self.mode = mode
        self._entered = self._tick
        if self._stages is not None:
            self.priority.give_up(self.now_s)
        self._stages = None
        if mode is Mode.CONTROL:
            self._monitor.forget()
            plan = self._commanded or self.design.plans[0]
            red_since = self._tick - self.design.start_red_s - YELLOW_START_S
            self._stages = Stages(self.design, plan, self._tick, red_since=red_since, base=self._epoch_s)
            self._show(self._stages.groups.aspects)
        elif mode is Mode.STARTUP:
            self._flash()
        else:
            self._show_unlit()

    def _show_unlit(self) -> None:
        is_dark = JunctionFault.DARK in self.board
        if self.mode is Mode.STANDBY:
            is_dark = self._position is Position.DARK
        if is_dark:
            self._show([Aspect.DARK for _ in self._groups()])
        else:
            self._flash()

    def _flash(self) -> None:
        self._show([Aspect.FLASH if self._is_vehicle(group) else Aspect.DARK for group in self._groups()])

    def _show(self, lamps: Sequence[Aspect]) -> None:
        self.lamps = list(lamps)

    # --- small things ---------------------------------------------------------------------------------

    def _groups(self) -> range:
        return range(len(self.design.groups))

    def _is_vehicle(self, group: int) -> bool:
        return self.design.groups[group].kind is GroupKind.VEHICLE

    def _arrival(self, eta_s: int) -> int:
        """Return the first step at which a vehicle can be there."""
        return self._tick + eta_s

    def _judge_requests(self) -> None:
        in_control = self._stages is not None and self._position is Position.NORMAL
        self.priority.judge(self._stages if in_control else None, self.now_s)
        self._notify()

    def _take_position(self, position: Position) -> None:
        self._position = position
        self._position_source = "forced"

    def _return_position(self) -> None:
        if self._return is not None and self._tick >= self._return[0]:
            self._take_position(self._return[1])
            self._return = None

    def _carry_faults(self) -> None:
        self.priority.rejects = JunctionFault.REJECTS_PRIORITY in self.board
        self.priority.never_activates = JunctionFault.NEVER_ACTIVATES in self.board
        self._notify()

    def _notify(self) -> None:
        for listener in self.changed:
            listener()
