"""A junction by itself: start-up, plans, positions, faults, detectors, and priority in each of its states."""

import pytest

from protocols.errors import LocalProtocolError
from protocols.model.priority import RequestState
from sim.faults import DetectorFault, FaultSettings, GroupFault, JunctionFault
from sim.junction import AlarmKey, Mode, Part, Position
from sim.junction_design import DetectorDesign, JunctionDesign, PriorityLimits, design_faults
from sim.priority import MAX_ENDED, MAX_LIVE, RequestInUseError, UnknownRequestError
from sim.signal_groups import Aspect
from tests.sim.junction_bench import STARTED_S, Rig

BAD = FaultSettings()
_S = RequestState


class TestStart:
    def test_the_lamps_flash_then_are_yellow_then_red_before_the_first_green(self) -> None:
        rig = Rig()
        seen = [rig.junction.signal_states()]
        for second in range(1, 21):
            rig.run_to(second)
            if rig.junction.signal_states() != seen[-1]:
                seen.append(rig.junction.signal_states())
        assert seen == ["eeeeee", "ffffff", "gggggg", "BBBBBB", "0B0BB1", "1B1BB1", "4B4BB1", "4B4BB4"]
        assert rig.mode() is Mode.CONTROL

    def test_the_plan_runs_at_the_place_that_the_shared_seconds_give(self) -> None:
        """S0001: cycle counter = (base + offset) mod cycle."""
        rig = Rig(epoch_s=1000)
        rig.run_to(90 * 3)
        began = [each.from_s for each in rig.witness.of(1, Aspect.GREEN)][1:]
        assert began
        assert {(1000 + moment) % 90 for moment in began} == {53}
        rig.junction.command_plan(2)
        rig.run_to(600)
        junction = rig.junction
        assert junction.cycle_counter == (junction.base_cycle_counter + 10) % 70
        late = [each.from_s for each in rig.witness.of(1, Aspect.GREEN) if each.from_s > 450]
        assert {(1000 + moment + 10) % 70 for moment in late} == {41}


class TestPlans:
    def test_a_commanded_plan_waits_for_the_first_stage_and_goes_back(self) -> None:
        rig = Rig().in_control()
        rig.run_until_green(2)
        rig.junction.command_plan(3)
        assert (rig.junction.plan.number, rig.junction.plan_source) == (1, "forced")
        green_s = rig.run_until_green(1)
        assert rig.junction.plan.number == 1
        rig.run_to(green_s + 10)
        assert rig.junction.plan.number == 3
        rig.junction.command_plan(None)
        rig.run_to(int(rig.schedule.time()) + 120)
        assert (rig.junction.plan.number, rig.junction.plan_source) == (1, "calendar_clock")
        assert rig.witness.hazards() == []

    def test_a_plan_that_is_not_there_changes_nothing(self) -> None:
        rig = Rig().in_control()
        with pytest.raises(KeyError):
            rig.junction.command_plan(9)
        assert rig.junction.plan_source == "calendar_clock"


class TestPositions:
    @pytest.mark.parametrize(("position", "state"), [(Position.YELLOW_FLASH, "c"), (Position.DARK, "b")])
    def test_it_leaves_control_by_way_of_all_red_and_comes_back_by_itself(
        self, position: Position, state: str
    ) -> None:
        rig = Rig().in_control()
        started_s = rig.run_until_green(1)
        rig.junction.request("bus", 1, 5)
        rig.junction.request("other", 2, 5)
        rig.junction.set_position(position, timeout_min=1)
        rig.run_to(started_s + 20)
        assert rig.mode() is Mode.STANDBY
        assert rig.junction.signal_states()[0] == state
        assert rig.book.states == {
            "bus": [_S.RECEIVED, _S.ACTIVATED, _S.STALE],
            "other": [_S.RECEIVED, _S.QUEUED, _S.TIMEOUT],
        }
        rig.junction.request("late", 1, 5)
        assert rig.book.states["late"] == [_S.RECEIVED, _S.REJECTED]
        assert rig.junction.position_source == "forced"
        rig.run_to(started_s + 62)
        assert (rig.mode(), rig.junction.position) == (Mode.STARTUP, Position.NORMAL)
        rig.run_to(started_s + 80)
        assert rig.mode() is Mode.CONTROL
        assert rig.witness.hazards() == []

    def test_without_a_time_it_stays(self) -> None:
        rig = Rig().in_control()
        rig.junction.set_position(Position.DARK)
        rig.run_to(3600)
        assert rig.mode() is Mode.STANDBY

    def test_a_position_taken_back_before_all_is_red_goes_on_with_the_stage(self) -> None:
        rig = Rig().in_control()
        rig.run_to(30)
        rig.junction.set_position(Position.DARK)
        rig.run_to(33)
        rig.junction.set_position(Position.NORMAL)
        rig.run_to(300)
        assert rig.mode() is Mode.CONTROL
        assert rig.witness.hazards() == []

    def test_started_while_dark_is_asked_it_goes_dark(self) -> None:
        rig = Rig()
        rig.junction.set_position(Position.DARK)
        rig.run_to(20)
        assert rig.mode() is Mode.STANDBY


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "state"), [(JunctionFault.DARK, "aaaaaa"), (JunctionFault.YELLOW_FLASH, "ccccaa")]
    )
    def test_without_lamps_it_fails_and_starts_again_when_mended(
        self, fault: JunctionFault, state: str
    ) -> None:
        rig = Rig().in_control()
        rig.junction.request("bus", 2, 5)
        rig.junction.set_fault(fault, BAD)
        rig.run_to(STARTED_S + 1)
        assert rig.mode() is Mode.FAILURE
        assert rig.junction.signal_states() == state
        assert list(rig.junction.alarms()) == [AlarmKey("A0001")]
        assert rig.book.states["bus"][-1] is _S.STALE
        assert rig.junction.faults() == [fault.value]
        rig.junction.clear_fault(fault)
        rig.run_to(STARTED_S + 30)
        assert rig.mode() is Mode.CONTROL
        assert rig.junction.alarms() == {}

    def test_a_red_lamp_out_names_its_group(self) -> None:
        rig = Rig().in_control()
        rig.junction.set_lamp_fault(3, GroupFault.LAMP_FAILURE, BAD)
        rig.run_to(STARTED_S + 1)
        assert rig.junction.alarms() == {AlarmKey("A0201", Part.GROUP, 3): {"color": "red"}}
        assert rig.mode() is Mode.FAILURE
        assert rig.junction.faults() == ["3/lamp_failure"]
        rig.junction.clear_lamp_fault(3, GroupFault.LAMP_FAILURE)
        rig.run_to(STARTED_S + 2)
        assert rig.mode() is Mode.STARTUP

    def test_the_monitor_never_lets_a_stuck_output_be_seen_and_stays_down(self) -> None:
        rig = Rig().in_control()
        rig.run_until_green(1)
        rig.junction.set_fault(JunctionFault.CONFLICT, BAD)
        rig.run_to(60)
        assert [each for each in rig.witness.hazards() if each.startswith("conflict")] == []
        assert rig.mode() is Mode.FAILURE
        assert rig.junction.finding is not None
        assert list(rig.junction.alarms()) == [AlarmKey("A0006")]
        rig.junction.clear_fault(JunctionFault.CONFLICT)
        rig.run_to(90)
        assert rig.mode() is Mode.CONTROL

    def test_a_hazard_without_a_cause_needs_a_restart(self) -> None:
        rig = Rig().in_control()
        rig.run_until_green(1)
        assert rig.junction._stages is not None
        rig.junction._stages.groups.aspects[1] = Aspect.GREEN
        rig.run_to(60)
        assert rig.mode() is Mode.FAILURE
        rig.junction.restart()
        rig.run_to(90)
        assert rig.mode() is Mode.CONTROL

    def test_a_stage_that_never_becomes_green_is_a_dead_lock(self) -> None:
        rig = Rig().in_control()
        rig.run_until_green(1)
        assert rig.junction._stages is not None
        rig.junction._stages.groups._may_start = lambda *_: False  # type: ignore[method-assign]
        rig.run_to(200)
        assert rig.junction.alarms() == {AlarmKey("A0008", Part.GROUP, 2): {"timeplan": "1"}}
        assert rig.mode() is Mode.FAILURE


class TestDetectors:
    DESIGN = JunctionDesign(detectors=(DetectorDesign("bus-in", stuck_after_s=30), DetectorDesign("bus-out")))

    def test_what_stands_there_is_told_and_counted(self) -> None:
        rig = Rig(self.DESIGN)
        for occupied in (True, True, False, True):
            rig.junction.detect("bus-in", occupied)
        assert rig.junction.detectors() == {"bus-in": True, "bus-out": False}
        assert rig.junction.detector_counts() == {"bus-in": 2, "bus-out": 0}

    def test_a_stuck_one_is_noticed_after_a_while(self) -> None:
        rig = Rig(self.DESIGN)
        rig.junction.set_detector_fault("bus-in", DetectorFault.DETECTOR_STUCK, BAD)
        assert rig.junction.detectors()["bus-in"]
        assert rig.junction.faults() == ["bus-in/detector_stuck"]
        rig.run_to(29)
        assert rig.junction.alarms() == {}
        rig.run_to(30)
        (values,) = rig.junction.alarms().values()
        assert values == {
            "detector": "bus-in",
            "type": "loop",
            "errormode": "on",
            "manual": "False",
            "logicerror": "always_on",
        }
        rig.junction.clear_detector_fault("bus-in", DetectorFault.DETECTOR_STUCK)
        assert rig.junction.alarms() == {}


class TestRequests:
    def test_a_red_is_shortened_and_told_so(self) -> None:
        rig = Rig().in_control()
        rig.run_to(100)
        rig.junction.request("bus", 2, 5)
        green_s = rig.run_until_green(2)
        rig.junction.cancel_request("bus")
        assert rig.book.states["bus"] == [_S.RECEIVED, _S.ACTIVATED, _S.COMPLETED]
        end = rig.book.ends["bus"]
        assert (end.extension_s, end.reduction_s) == (0, 143 - green_s)
        assert end.reduction_s == 31
        assert rig.junction.priority.totals().granted == 1
        assert rig.junction.priority.totals().reduction_s == 31

    def test_a_green_is_extended_but_not_for_ever(self) -> None:
        rig = Rig().in_control()
        rig.run_to(130)
        rig.junction.request("bus", 1, 5)
        rig.run_to(140)
        assert rig.junction.signal_states()[0] == "3"
        assert rig.run_until_green(1, green=False) == 135 + 15
        rig.junction.cancel_request("bus")
        assert rig.book.ends["bus"].extension_s == 15

    def test_it_is_red_and_asked_for_in_the_state_of_its_group(self) -> None:
        rig = Rig().in_control()
        rig.run_to(110)
        rig.junction.request("bus", 2, 5)
        assert rig.junction.signal_states() == "4F4BB4"

    def test_a_vehicle_that_arrives_before_the_planned_end_needs_nothing(self) -> None:
        rig = Rig().in_control()
        rig.run_to(110)
        rig.junction.request("bus", 1, 5, eta_s=20)
        rig.run_to(132)
        rig.junction.cancel_request("bus")
        assert rig.run_until_green(1, green=False) == 135
        assert rig.book.ends["bus"].extension_s == 0

    def test_a_green_is_not_held_for_a_vehicle_that_could_not_reach_it_anyway(self) -> None:
        rig = Rig().in_control()
        rig.run_to(130)
        rig.junction.request("bus", 1, 5, eta_s=21)
        assert rig.run_until_green(1, green=False) == 135

    def test_other_greens_are_not_cut_earlier_than_the_vehicle_needs(self) -> None:
        rig = Rig().in_control()
        rig.run_to(100)
        rig.junction.request("bus", 2, 5, eta_s=28)
        green_s = rig.run_until_green(2)
        assert green_s == 100 + 28 - 2

    def test_an_update_brings_the_arrival_nearer(self) -> None:
        rig = Rig().in_control()
        rig.run_to(100)
        rig.junction.request("bus", 2, 5, eta_s=60)
        rig.run_to(105)
        rig.junction.update_request("bus", eta_s=0, level=7)
        assert rig.run_until_green(2) < 128
        assert rig.book.ends["bus"].level == 5
        assert rig.junction.priority.entries()[0].level == 7

    def test_levels_decide_who_is_served(self) -> None:
        rig = Rig().in_control()
        rig.run_to(100)
        rig.junction.request("bus", 2, 5)
        rig.junction.request("tram", 4, 5)
        rig.junction.request("ambulance", 3, 14)
        states = {entry.id: entry.state for entry in rig.junction.priority.entries()}
        assert states == {"bus": _S.ACTIVATED, "tram": _S.QUEUED, "ambulance": _S.ACTIVATED}
        wish = rig.junction.priority.wish()
        assert wish is not None
        assert wish.group == 2
        rig.junction.cancel_request("ambulance")
        rig.junction.cancel_request("bus")
        states = {entry.id: entry.state for entry in rig.junction.priority.entries()}
        assert states == {"tram": _S.ACTIVATED}

    def test_vehicles_that_do_not_conflict_are_served_together(self) -> None:
        rig = Rig().in_control()
        rig.junction.request("south", 3, 5)
        rig.junction.request("north", 1, 5)
        assert {entry.state for entry in rig.junction.priority.entries()} == {_S.ACTIVATED}

    def test_what_waits_too_long_times_out(self) -> None:
        rig = Rig().in_control()
        rig.junction.request("first", 1, 5)
        rig.junction.request("second", 2, 5)
        rig.run_to(STARTED_S + 60)
        assert rig.book.states["second"] == [_S.RECEIVED, _S.QUEUED, _S.TIMEOUT]

    def test_what_is_never_cancelled_is_stale(self) -> None:
        rig = Rig().in_control()
        rig.junction.request("bus", 2, 5)
        rig.run_to(STARTED_S + 121)
        end = rig.book.ends["bus"]
        assert (end.state, end.extension_s, end.reduction_s) == (_S.STALE, None, None)

    def test_a_second_one_for_the_same_group_has_to_cool_down(self) -> None:
        rig = Rig().in_control()
        rig.junction.request("one", 2, 5)
        rig.junction.cancel_request("one")
        rig.junction.request("two", 2, 5)
        rig.junction.request("elsewhere", 3, 5)
        rig.run_to(STARTED_S + 31)
        rig.junction.request("three", 2, 5)
        assert rig.book.states["two"] == [_S.RECEIVED, _S.COOLDOWN]
        assert rig.book.states["elsewhere"][-1] is _S.ACTIVATED
        assert _S.COOLDOWN not in rig.book.states["three"]

    @pytest.mark.parametrize(("group", "level"), [(None, 5), (0, 5), (7, 5), (5, 5), (2, 0)])
    def test_an_unknown_group_pedestrians_and_level_0_are_rejected(
        self, group: int | None, level: int
    ) -> None:
        rig = Rig().in_control()
        rig.junction.request("bus", group, level)
        assert rig.book.states["bus"] == [_S.RECEIVED, _S.REJECTED]

    def test_a_level_that_does_not_exist_is_an_error(self) -> None:
        with pytest.raises(LocalProtocolError):
            Rig().in_control().junction.request("bus", 2, 15)

    @pytest.mark.parametrize("name", ["", "x" * 256])
    def test_an_id_is_bounded(self, name: str) -> None:
        with pytest.raises(LocalProtocolError):
            Rig().in_control().junction.request(name, 2, 5)

    def test_the_same_request_twice_is_one(self) -> None:
        rig = Rig().in_control()
        rig.junction.request("bus", 2, 5, eta_s=50)
        rig.junction.request("bus", 2, 6, eta_s=10)
        (entry,) = rig.junction.priority.entries()
        assert entry.level == 6
        assert rig.junction.priority.totals().requested == 1
        with pytest.raises(RequestInUseError):
            rig.junction.request("bus", 4, 5)

    def test_cancelling_what_is_queued_leaves_no_state(self) -> None:
        rig = Rig().in_control()
        rig.junction.request("first", 1, 5)
        rig.junction.request("second", 2, 5)
        rig.junction.cancel_request("second")
        assert [entry.id for entry in rig.junction.priority.entries()] == ["first"]
        assert rig.junction.priority.totals().withdrawn == 1

    def test_what_is_not_there_cannot_be_updated_or_cancelled(self) -> None:
        rig = Rig().in_control()
        with pytest.raises(UnknownRequestError):
            rig.junction.update_request("nobody", level=3)
        with pytest.raises(UnknownRequestError):
            rig.junction.cancel_request("nobody")
        assert rig.junction.priority.totals().unknown == 2

    def test_faults_of_the_controller_reject_or_never_activate(self) -> None:
        rig = Rig().in_control()
        rig.junction.set_fault(JunctionFault.NEVER_ACTIVATES, BAD)
        rig.junction.request("waits", 2, 5)
        rig.junction.set_fault(JunctionFault.REJECTS_PRIORITY, BAD)
        rig.junction.request("refused", 3, 5)
        assert rig.book.states["refused"][-1] is _S.REJECTED
        rig.run_to(STARTED_S + 61)
        assert rig.book.states["waits"] == [_S.RECEIVED, _S.QUEUED, _S.TIMEOUT]

    def test_the_book_is_bounded(self) -> None:
        rig = Rig().in_control()
        rig.junction.changed.clear()
        for number in range(MAX_LIVE + MAX_ENDED + 10):
            rig.junction.request(f"bus-{number}", 2, 5)
        states = [entry.state for entry in rig.junction.priority.entries()]
        assert states.count(_S.ACTIVATED) == MAX_LIVE
        assert states.count(_S.REJECTED) == MAX_ENDED

    def test_an_end_that_was_told_is_forgotten_and_its_id_is_free(self) -> None:
        rig = Rig().in_control()
        rig.junction.request("bus", None, 5)
        assert rig.junction.priority.entries() == ()
        rig.junction.changed.clear()
        rig.junction.request("bus", None, 5)
        assert [entry.state for entry in rig.junction.priority.entries()] == [_S.REJECTED]
        rig.junction.request("bus", 2, 5)
        assert [entry.state for entry in rig.junction.priority.entries()] == [_S.ACTIVATED]


class TestDesign:
    def test_every_fault_of_a_design_is_named(self) -> None:
        good = JunctionDesign()
        one_way = [list(row) for row in good.intergreens]
        one_way[0][1] = 0
        one_way[2][3] = 2
        bad = JunctionDesign(
            intergreens=tuple(tuple(row) for row in one_way),
            stages=((1, 2, 3, 6), (2, 5), (4, 5)),
            plans=(
                good.plans[0].__class__(1, (1, 2, 3), (45, 10, 23)),
                good.plans[0].__class__(2, (2, 3), (70, 60)),
            ),
            limits=PriorityLimits(max_red_s=40),
        )
        named = " | ".join(design_faults(bad))
        for words in (
            "1 and 2 conflict one way only",
            "3 to 4 ends within the yellow",
            "2 and 3 conflict in stage 1",
            "stage 2 needs at least",
            "begin with stage 1",
            "a stage for every group",
            "a cycle of at most 40",
            "longer than 60 s of green",
            "longer than the longest red",
        ):
            assert words in named

    def test_numbers_that_lead_nowhere_are_named_first(self) -> None:
        good = JunctionDesign()
        bad = JunctionDesign(
            groups=good.groups[:5],
            stages=((1, 9), ()),
            plans=(good.plans[0], good.plans[0], good.plans[0].__class__(2, (1, 4), (40,))),
            detectors=(DetectorDesign("loop"), DetectorDesign("loop")),
        )
        assert [fault.split(":")[0] for fault in design_faults(bad)] == [
            "intergreens",
            "stages",
            "stages",
            "plans",
            "plan 1",
            "plan 1",
            "plan 2",
            "detectors",
        ]
        assert design_faults(JunctionDesign(groups=()))[0].startswith("groups")
