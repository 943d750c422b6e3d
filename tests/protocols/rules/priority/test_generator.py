"""One street and one junction: who is asked for, when, how long, and how it is taken back."""

from typing import Any

import msgspec
import pytest

from protocols.backhaul.messages import Source
from protocols.clock import ClockQuality, Instant
from protocols.model.command import CommandState
from protocols.model.ids import DeviceId
from protocols.model.policy import Limits, SignalLimit
from protocols.model.priority import PriorityPolicy, RequestState, RequestStatus, VehicleType
from protocols.model.reading import Value
from protocols.rules.priority.detector import is_idle
from protocols.rules.priority.followed import MAX_VEHICLES
from protocols.rules.priority.lane import REFUSED_MS
from protocols.rules.priority.request import Ask, Cancel, Look
from tests.protocols.rules.priority.junction_bench import (
    APPROACH,
    DEVICES,
    JUNCTION,
    POLICY,
    RULE,
    START_MS,
    Junction,
    place,
    policy,
)

S = RequestState


def asked(one: Junction, *states: RequestState) -> Junction:
    """Let a bus come and its request be taken, and told."""
    one.bus(100)
    one.taken()
    one.tell(*states)
    return one


def limited(**limit: object) -> Limits:
    return Limits(signal=(msgspec.convert({"line": "tlc-1", **limit}, SignalLimit),))


class TestAPassage:
    def test_a_bus_gets_its_green_and_gives_it_back(self) -> None:
        one = Junction()
        one.bus(50)
        assert one.asks == []
        one.after(5)
        one.bus(100)
        (ask,) = one.asks
        assert (ask.request.signal_group, ask.request.level, ask.request.eta_s) == ("1", 7, 20)
        one.taken()
        one.tell(S.RECEIVED, S.ACTIVATED)
        one.green(True)
        one.drive(110, 310)
        assert one.cancels == []
        one.bus(325)
        assert [cancel.request for cancel in one.cancels] == [one.last]
        one.tell(S.COMPLETED, extension_s=0, reduction_s=12)
        assert one.generator.book.requests == {}
        last = one.reports[-1]
        assert last.event.over
        assert (last.event.state, last.event.reduction_s, last.event.reason) == (
            S.COMPLETED,
            12,
            "it has passed",
        )
        assert one.generator.book.failing[JUNCTION] == 0
        told = [None, S.RECEIVED, S.ACTIVATED, S.ACTIVATED, S.COMPLETED]
        assert [event.state for event in one.events] == told
        assert len({event.request for event in one.events}) == 1

    def test_a_request_says_what_comes_and_by_which_rule(self) -> None:
        one = Junction()
        one.bus(100)
        (event,) = one.events
        assert (event.rule, event.approach, event.junction, event.signal_group) == (
            "buses",
            "north",
            JUNCTION,
            "1",
        )
        assert (event.vehicle, event.source, event.level, event.shadow) == ("v-1", Source.POSITION, 7, False)
        assert one.asks[0].event == event
        assert one.asks[0].request.vehicle_type is VehicleType.BUS

    @pytest.mark.parametrize(
        "parts",
        [
            {"route": "L4"},
            {"route": ""},
            {"direction": "0"},
            {"vehicle_type": VehicleType.CAR},
            {"heading_deg": 180.0},
            {"heading_deg": 90.0},
        ],
    )
    def test_a_vehicle_that_does_not_match_is_not_asked_for(self, parts: dict[str, Any]) -> None:
        one = Junction()
        one.drive(50, 330, **parts)
        assert one.actions == []

    def test_the_first_rule_that_fits_holds(self) -> None:
        tram = msgspec.structs.replace(
            RULE, id="trams", vehicle_types=(VehicleType.TRAM,), routes=(), level=12
        )
        one = Junction(msgspec.structs.replace(POLICY, rules=(RULE, tram)))
        one.bus(100, vehicle_type=VehicleType.TRAM, route="T1")
        assert (one.asks[0].request.level, one.events[0].rule) == (12, "trams")

    @pytest.mark.parametrize(("along_m", "aside_m"), [(100, 26), (320, 0), (301, 0), (-40, 0), (450, 0)])
    def test_who_is_beside_or_behind_is_not_asked_for(self, along_m: float, aside_m: float) -> None:
        one = Junction()
        one.bus(along_m, aside_m)
        one.tick(1)
        one.bus(along_m, aside_m)
        assert one.actions == []

    def test_what_is_far_away_is_not_even_followed(self) -> None:
        one = Junction()
        one.bus(5000)
        assert one.generator.followed.vehicles == {}
        assert one.generator.counts.elsewhere == 1

    def test_a_position_that_comes_twice_changes_nothing(self) -> None:
        one = Junction()
        one.bus(100)
        before = len(one.actions)
        one.bus(100)
        assert len(one.actions) == before
        assert one.generator.counts.repeated == 1

    def test_a_position_that_comes_late_changes_nothing(self) -> None:
        one = Junction()
        one.bus(100)
        one.bus(50, at_ms=one.now.utc_ms - 1000)
        assert one.passages[0].along_m == pytest.approx(100, abs=0.1)
        assert one.generator.counts.late == 1

    def test_a_rule_that_no_longer_fits_takes_the_request_back(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        one.after(1)
        one.bus(110, route="L9")
        assert len(one.cancels) == 1
        assert one.reasons == ["it is no longer what the rule is for"]


class TestLeaving:
    def test_a_vehicle_that_turns_off_is_taken_back_at_its_second_position_beside(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        one.after(1)
        one.bus(110, 40)
        assert one.cancels == []
        one.after(1)
        one.bus(110, 60)
        assert one.reasons == ["it has turned off"]
        assert len(one.cancels) == 1

    def test_a_single_stray_position_is_no_turn(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        for aside_m in (0, 40, 0, 40, 0):
            one.after(1)
            one.bus(110, aside_m)
        assert one.cancels == []

    def test_a_vehicle_that_turns_its_back_has_turned_off(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        for _ in range(2):
            one.after(1)
            one.bus(110, heading_deg=180.0)
        assert one.reasons == ["it has turned off"]

    def test_the_heading_of_a_vehicle_that_stands_is_noise(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        for _ in range(3):
            one.after(1)
            one.bus(110, heading_deg=180.0, speed_m_s=0.2)
        assert one.cancels == []

    def test_a_vehicle_that_is_far_back_again_is_not_driving_this_way(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        one.after(1)
        one.bus(65)
        assert one.reasons == ["it has turned off"]

    def test_a_vehicle_that_leaves_the_way_behind_the_stop_line_has_passed(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        one.drive(110, 305)
        for _ in range(2):
            one.after(1)
            one.bus(310, 60)
        assert one.reasons == ["it has passed"]

    def test_a_vehicle_that_jumps_is_taken_back_and_believed_again_when_it_is_steady(self) -> None:
        one = asked(Junction(policy(cooldown_s=0)), S.ACTIVATED)
        one.after(1)
        one.bus(250)
        assert one.reasons == ["its position jumped"]
        assert one.generator.counts.jumped == 1
        one.tell(S.COMPLETED)
        assert len(one.asks) == 1
        one.after(1)
        one.bus(260)
        assert len(one.asks) == 2

    def test_a_vehicle_that_falls_silent_is_taken_back(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        one.tick(4.9)
        assert one.cancels == []
        one.tick(0.1)
        assert one.reasons == ["nothing was heard of it any more"]
        assert len(one.cancels) == 1

    def test_a_vehicle_that_opens_its_doors_is_taken_back_and_asked_for_again_when_it_goes_on(self) -> None:
        one = asked(Junction(policy(cooldown_s=0)), S.RECEIVED)
        one.after(1)
        one.bus(110, doors_open=True)
        assert one.reasons == ["its doors are open"]
        one.silent()
        for _ in range(6):
            one.after(1)
            one.bus(110, doors_open=True)
        assert len(one.asks) == 1
        one.after(1)
        one.bus(115, doors_open=False)
        assert len(one.asks) == 2
        assert one.asks[0].request.id != one.asks[1].request.id

    @pytest.mark.parametrize(("green", "taken_back"), [(True, True), (None, True), (False, False)])
    def test_a_vehicle_that_stands_keeps_its_request_at_red_only(
        self, green: bool | None, taken_back: bool
    ) -> None:
        one = Junction(policy(max_extension_s=60))
        one.green(green)
        asked(one, S.RECEIVED)
        for _ in range(17):
            one.after(1)
            one.bus(100, speed_m_s=0.0)
        assert bool(one.cancels) is taken_back
        assert (one.reasons == ["it stands still, and its group is not red"]) is taken_back

    def test_one_passage_is_asked_for_three_times_at_most(self) -> None:
        one = Junction(policy(cooldown_s=0))
        for _ in range(30):
            one.after(3)
            one.bus(100, doors_open=False)
            one.after(1)
            one.bus(100, doors_open=True)
            for name in list(one.generator.book.requests):
                one.do(one.generator.outcome(name, CommandState.FAILED, "", one.now))
        assert len(one.asks) == 3
        assert "not asked: it was asked for 3 times already" in one.reasons


class TestWhatTheLightSays:
    def test_who_cannot_use_a_longer_green_yet_is_asked_for_later(self) -> None:
        one = Junction(green=True)
        one.bus(100)
        assert one.actions == []
        one.after(5)
        one.bus(150)
        assert one.asks[0].request.eta_s == 15

    def test_a_green_that_was_there_is_held_no_longer_than_allowed(self) -> None:
        one = Junction(policy(cooldown_s=0), green=True)
        one.bus(160)
        one.taken()
        one.tell(S.ACTIVATED)
        for second in range(1, 16):
            assert one.cancels == []
            one.after(1)
            one.bus(160 + 2 * second, speed_m_s=2.0)
        assert one.reasons == ["its green has been held for 15 s"]
        one.tell(S.COMPLETED)
        one.tick(1)
        one.bus(192)
        assert len(one.asks) == 1

    def test_a_green_that_came_early_is_held_from_when_the_vehicle_was_expected(self) -> None:
        one = asked(Junction(), S.ACTIVATED)  # expected in 20 s
        one.green(True)
        for second in range(1, 36):
            assert one.cancels == [], second
            one.after(1)
            one.bus(100 + 4 * second, speed_m_s=4.0)
        assert one.reasons == ["its green has been held for 15 s"]

    def test_a_green_that_ends_is_no_longer_held(self) -> None:
        one = Junction(policy(max_extension_s=5), green=True)
        one.bus(260)
        one.taken()
        one.tell(S.ACTIVATED)
        one.after(3)
        one.bus(261, speed_m_s=2.0)
        one.green(False)
        one.after(3)
        one.bus(262, speed_m_s=2.0)
        assert one.cancels == []

    @pytest.mark.parametrize(
        ("rule", "green", "reason"),
        [
            ({"early_green": False}, False, "its group is red, and the rule shortens no red"),
            ({"green_extension": False}, True, "its group is green, and the rule prolongs no green"),
            (
                {"early_green": False},
                None,
                "it is not known whether its group is green, and the rule needs to know",
            ),
            (
                {"green_extension": False},
                None,
                "it is not known whether its group is green, and the rule needs to know",
            ),
        ],
    )
    def test_a_strategy_that_the_rule_lacks_is_not_asked_for(
        self, rule: dict[str, object], green: bool | None, reason: str
    ) -> None:
        one = Junction(policy(**rule), green=green)
        one.bus(200)
        assert one.asks == []
        assert one.reasons == [f"not asked: {reason}"]
        one.after(1)
        one.bus(210)
        assert len(one.reasons) == 1

    def test_a_request_for_a_longer_green_is_taken_back_at_red(self) -> None:
        one = Junction(policy(early_green=False), green=True)
        one.bus(200)
        one.taken()
        one.tell(S.RECEIVED)
        one.green(False)
        assert one.reasons == ["its group is red, and the rule shortens no red"]
        assert len(one.cancels) == 1

    def test_a_request_for_an_earlier_green_is_taken_back_at_green(self) -> None:
        one = Junction(policy(green_extension=False))
        one.bus(200)
        one.taken()
        one.tell(S.RECEIVED, S.ACTIVATED)
        one.green(True)
        assert one.reasons == ["its group is green, and the rule prolongs no green"]

    def test_the_light_of_a_group_that_nobody_asks_for_is_of_no_interest(self) -> None:
        assert Junction().generator.group(JUNCTION, "99", True, Instant(0, 0)) == []


class TestLimits:
    def test_after_a_granted_request_comes_the_cool_down(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        one.after(1)
        one.bus(325, pseudonym="v-1", at_ms=one.now.utc_ms + 1)  # a jump ends it
        one.tell(S.COMPLETED)
        one.tick(89.9)
        one.bus(100, pseudonym="v-2")
        assert len(one.asks) == 1
        assert one.reasons[-1] == "not asked: cool-down after the last granted request"
        one.after(0.2)
        one.bus(101, pseudonym="v-2")
        assert len(one.asks) == 2

    def test_a_request_that_was_not_granted_needs_no_cool_down_but_a_pause(self) -> None:
        one = asked(Junction(), S.RECEIVED, S.REJECTED)
        one.bus(100, pseudonym="v-2")
        assert len(one.asks) == 1
        assert one.reasons[-1] == "not asked: the controller has just refused another"
        one.after(REFUSED_MS / 1000)
        one.bus(101, pseudonym="v-2")
        assert len(one.asks) == 2

    def test_an_end_is_awaited_until_the_controller_has_said_it_if_it_can_be_reached(self) -> None:
        one = asked(Junction(), S.RECEIVED)
        one.do(one.generator.end("the agent ends", one.now))
        assert one.generator.book.is_awaiting()
        one.do(one.generator.line(JUNCTION, up=False, now=one.now))
        assert one.generator.book.requests
        assert not one.generator.book.is_awaiting()
        one.do(one.generator.line(JUNCTION, up=True, now=one.now))
        one.tell(S.COMPLETED)
        assert not one.generator.book.is_awaiting()

    def test_a_request_that_its_vehicle_gave_up_holds_up_nobody(self) -> None:
        one = asked(Junction(), S.RECEIVED)
        one.after(1)
        one.bus(100, 60.0)
        one.after(1)
        one.bus(100, 61.0)
        assert one.reasons[-1] == "it has turned off"
        one.silent()
        one.bus(100, pseudonym="v-2")
        assert len(one.asks) == 2

    @pytest.mark.parametrize("answer", [S.REJECTED, S.COOLDOWN, S.TIMEOUT, None])
    def test_a_crowd_does_not_storm_a_controller_that_refuses(self, answer: S | None) -> None:
        """Whoever can tell positions can tell of hundreds of vehicles; each refusal would let the next one ask."""
        one = Junction(policy(cooldown_s=0))
        for second in range(30):
            for number in range(40):
                one.bus(150 + second, speed_m_s=1.6, pseudonym=f"v-{number}")
                if one.generator.book.requests and answer is not None:
                    one.taken()
                    one.tell(S.RECEIVED, answer)
                elif one.generator.book.requests:
                    one.taken(CommandState.FAILED, "no")
            one.after(1)
        assert 2 <= len(one.asks) <= 30_000 / REFUSED_MS + 1

    def test_no_more_are_granted_within_an_hour_than_allowed(self) -> None:
        one = Junction(policy(cooldown_s=0, grants_per_hour=2))
        for number in range(4):
            one.bus(100, pseudonym=f"v-{number}")
            if len(one.asks) == number + 1:
                one.taken()
                one.tell(S.ACTIVATED, S.COMPLETED)
            one.tick(60)
        assert len(one.asks) == 2
        assert one.reasons[-1] == "not asked: as many requests as allowed were granted within the hour"
        one.tick(3600 - 4 * 60)
        one.bus(100, pseudonym="v-9")
        assert len(one.asks) == 3

    def test_a_request_that_is_too_old_is_taken_back_whatever_the_vehicle_does(self) -> None:
        one = asked(Junction(policy(time_to_live_s=30)), S.RECEIVED, S.QUEUED)
        for second in range(29):
            one.after(1)
            one.bus(101 + second / 10, speed_m_s=2.0)
        assert one.cancels == []
        one.after(1)
        one.bus(105, speed_m_s=2.0)
        assert one.reasons == ["it is older than 30 s"]
        one.silent()
        one.after(10)
        one.bus(106, speed_m_s=2.0)
        assert len(one.asks) == 1

    @pytest.mark.parametrize(
        ("limit", "expected"),
        [({"max_level": 3}, 3), ({"max_level": 12}, 7), ({"max_level": 3, "signal_group": "2"}, 7)],
    )
    def test_of_two_levels_the_smaller_holds(self, limit: dict[str, object], expected: int) -> None:
        one = Junction(POLICY, limited(**limit))
        one.bus(100)
        assert one.asks[0].request.level == expected

    @pytest.mark.parametrize("limit", [{"priority": False}, {"max_grants_per_hour": 0}])
    def test_where_the_limits_file_allows_none_none_is_made(self, limit: dict[str, object]) -> None:
        one = Junction(POLICY, limited(**limit))
        one.bus(100)
        assert one.asks == []
        assert one.reasons == ["not asked: the limits file allows no request"]

    def test_a_junction_that_is_not_there_is_not_asked(self) -> None:
        one = Junction(None)
        one.do(one.generator.go_by(POLICY, {}, Limits(), one.now))
        one.bus(100)
        assert one.asks == []

    def test_after_the_lease_nothing_is_asked_and_what_is_open_is_taken_back(self) -> None:
        lease_ms = START_MS + 10_000
        one = asked(Junction(msgspec.structs.replace(POLICY, lease_until_ms=lease_ms)), S.ACTIVATED)
        assert one.generator.lease_until_ms == lease_ms
        one.after(4)
        one.bus(110)
        one.after(4)
        one.bus(120)
        assert one.cancels == []
        one.tick(2)
        assert one.reasons == ["the policy's lease is over"]
        one.bus(130, pseudonym="v-2")
        assert len(one.asks) == 1
        assert one.reasons[-1] == "not asked: the policy's lease is over"

    def test_a_clock_that_goes_back_revives_no_lease(self) -> None:
        one = Junction(msgspec.structs.replace(POLICY, lease_until_ms=START_MS + 10_000))
        one.tick(11)
        one.generator.known_ms = one.now.utc_ms
        one.after(1, step_utc_s=-3600)
        one.bus(100)
        assert one.asks == []
        assert one.generator.lapsed(one.now)


class TestTheController:
    def test_a_request_that_did_not_reach_it_is_tried_again_after_a_while(self) -> None:
        one = Junction()
        one.bus(100)
        one.taken(CommandState.FAILED, "no answer")
        assert one.reasons == ["the controller did not take it: no answer"]
        assert one.events[-1].over
        one.after(4)
        one.bus(140)
        assert len(one.asks) == 1
        one.after(1)
        one.bus(150)
        assert len(one.asks) == 2

    def test_a_request_of_which_nobody_knows_whether_it_was_taken_is_taken_back(self) -> None:
        one = Junction()
        one.bus(100)
        one.taken(CommandState.OUTCOME_UNKNOWN, "the line was lost")
        assert [cancel.request for cancel in one.cancels] == [one.last]
        assert one.reasons == ["it is not known whether the controller has it: the line was lost"]

    def test_a_state_that_overtakes_the_answer_counts(self) -> None:
        one = Junction()
        one.bus(100)
        one.tell(S.RECEIVED)
        one.taken(CommandState.FAILED, "the answer was lost")
        assert len(one.generator.book.requests) == 1
        one.taken()
        assert one.cancels == []

    def test_an_end_that_overtakes_the_answer_counts(self) -> None:
        one = Junction()
        one.bus(100)
        one.tell(S.REJECTED)
        one.taken()
        assert one.generator.book.requests == {}
        assert one.passages[0].stage.value == "spent"

    def test_a_request_that_nobody_answers_is_taken_back(self) -> None:
        one = Junction()
        one.bus(100)
        for second in range(31):
            one.bus(101 + second / 10, speed_m_s=2.0)
            one.tick(1)
        assert one.reasons == ["nobody says whether the controller has it"]
        one.taken()
        one.tell(S.RECEIVED)
        one.tick(60)
        one.silent()
        assert one.generator.book.requests == {}

    @pytest.mark.parametrize("state", [S.REJECTED, S.COOLDOWN])
    def test_its_refusal_is_final_for_this_vehicle(self, state: RequestState) -> None:
        one = asked(Junction(), S.RECEIVED, state)
        one.after(10)
        one.bus(150)
        assert len(one.asks) == 1
        assert one.events[-1].over
        assert one.events[-1].state is state

    def test_a_cancel_is_said_again_until_it_is_confirmed(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        one.tick(5)
        pauses = [2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
        for number, pause_s in enumerate(pauses, start=1):
            assert len(one.cancels) == number
            one.tick(pause_s - 0.1)
            assert len(one.cancels) == number
            one.tick(0.1)
        assert one.looks
        one.silent()
        count = len(one.cancels)
        one.tick(300)
        assert len(one.cancels) == count
        assert one.generator.book.requests == {}

    def test_a_cancel_that_is_never_confirmed_is_given_up_when_no_controller_can_still_have_it(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        one.tick(5)
        for _ in range(601):
            one.tick(1)
        assert one.generator.book.requests == {}
        assert one.events[-1].over
        assert one.reasons[-1].endswith("the controller has never confirmed its end")
        assert one.generator.counts.unconfirmed == 1
        assert one.generator.book.failing[JUNCTION] == 1

    def test_while_a_cancel_is_not_confirmed_no_other_request_is_made(self) -> None:
        one = asked(Junction(policy(cooldown_s=0)), S.RECEIVED)
        one.tick(5)
        one.bus(100, pseudonym="v-2")
        assert len(one.asks) == 1
        assert one.reasons[-1] == "not asked: another request for this signal group is under way"
        one.silent()
        assert len(one.asks) == 2

    def test_a_request_that_it_no_longer_tells_of_is_over(self) -> None:
        one = asked(Junction(), S.RECEIVED)
        one.silent()
        assert one.generator.book.requests == {}
        assert one.reasons == ["the controller no longer tells of it"]
        assert one.generator.book.failing[JUNCTION] == 1

    def test_a_list_from_before_the_request_says_nothing_of_it(self) -> None:
        one = Junction()
        one.bus(100)
        one.silent()
        one.taken()
        one.silent()
        assert len(one.generator.book.requests) == 1
        one.after(4)
        one.bus(140)
        one.after(1)
        one.silent()
        assert one.generator.book.requests == {}

    def test_the_same_list_twice_changes_nothing(self) -> None:
        one = asked(Junction(), S.RECEIVED, S.ACTIVATED)
        assert one.tell(S.ACTIVATED) == []

    def test_a_state_that_cannot_follow_is_counted_and_believed(self) -> None:
        one = asked(Junction(), S.RECEIVED, S.ACTIVATED, S.QUEUED)
        assert one.generator.counts.strange == 1
        assert one.events[-1].state is S.QUEUED
        one.tell(S.COMPLETED)
        assert one.generator.book.requests == {}

    def test_a_completed_request_was_granted_although_nobody_saw_it_active(self) -> None:
        one = asked(Junction(), S.RECEIVED, S.COMPLETED)
        assert one.generator.counts.granted == 1
        assert one.reports[-1].granted
        one.bus(100, pseudonym="v-2")
        assert one.reasons == ["not asked: cool-down after the last granted request"]

    def test_a_grant_while_the_request_is_on_its_way_back_counts_too(self) -> None:
        one = asked(Junction(policy(cooldown_s=0, grants_per_hour=1)), S.RECEIVED)
        one.tick(5)
        one.tell(S.ACTIVATED, S.COMPLETED)
        one.bus(100, pseudonym="v-2")
        assert len(one.asks) == 1

    def test_requests_of_ours_that_nobody_knows_are_cancelled_until_they_are_gone(self) -> None:
        one = Junction()
        one.tell(S.ACTIVATED, request="lu-1-r0-7")
        one.tell(S.ACTIVATED, request="lu-1-r0-7")
        assert [cancel.request for cancel in one.cancels] == ["lu-1-r0-7"]
        one.tick(1)
        assert len(one.cancels) == 1
        one.tick(1)
        assert len(one.cancels) == 2
        assert one.looks
        one.silent()
        one.tick(60)
        assert len(one.cancels) == 2
        assert one.generator.counts.strays == 1

    def test_requests_of_others_are_none_of_our_business(self) -> None:
        one = Junction()
        one.tell(S.ACTIVATED, request="somebody-else-1")
        one.tell(S.COMPLETED, request="lu-1-r0-7")
        assert one.cancels == []

    def test_strays_are_taken_back_a_bounded_number_at_a_time(self) -> None:
        one = Junction()
        many = tuple(RequestStatus(f"lu-1-r0-{n}", S.ACTIVATED, 0) for n in range(500))
        one.do(one.generator.told(JUNCTION, many, one.now))
        assert len(one.cancels) == 64

    def test_a_junction_s_word_on_another_one_s_request_is_not_believed(self) -> None:
        one = asked(Junction(), S.RECEIVED)
        status = RequestStatus(one.last, S.COMPLETED, 0)
        one.do(one.generator.told(DeviceId("junction-2"), (status,), one.now))
        assert len(one.generator.book.requests) == 1


class TestTheLine:
    def test_a_controller_that_cannot_be_reached_is_not_asked(self) -> None:
        one = Junction(up=False)
        one.bus(100)
        assert one.reasons == ["not asked: the controller cannot be reached"]
        one.do(one.generator.line(JUNCTION, up=True, now=one.now))
        assert len(one.asks) == 1

    def test_a_line_that_comes_back_is_asked_what_it_knows_and_told_what_is_over(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        assert one.do(one.generator.line(JUNCTION, up=False, now=one.now)) == []
        assert one.do(one.generator.line(JUNCTION, up=False, now=one.now)) == []
        one.tick(5)
        assert one.cancels == []
        back = one.do(one.generator.line(JUNCTION, up=True, now=one.now))
        assert back == [Look(JUNCTION), Cancel(JUNCTION, one.last)]
        assert one.do(one.generator.line(JUNCTION, up=True, now=one.now)) == []

    def test_a_line_that_comes_back_is_not_kept_waiting_for_the_next_cancel(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        for _ in range(40):
            one.tick(1)
        one.do(one.generator.line(JUNCTION, up=False, now=one.now))
        before = len(one.cancels)
        one.do(one.generator.line(JUNCTION, up=True, now=one.now))
        assert len(one.cancels) == before + 1

    def test_what_stands_when_the_line_comes_back_goes_on(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        one.do(one.generator.line(JUNCTION, up=False, now=one.now))
        one.after(2)
        one.bus(120)
        assert one.updates == []
        one.do(one.generator.line(JUNCTION, up=True, now=one.now))
        one.tell(S.ACTIVATED)
        assert one.cancels == []

    def test_an_arrival_that_moves_while_the_line_is_down_is_told_by_nobody(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        one.do(one.generator.line(JUNCTION, up=False, now=one.now))
        one.after(1)
        one.bus(110, speed_m_s=2.0)
        assert one.updates == []


class TestTheMode:
    def test_a_controller_that_is_not_in_control_is_not_asked_until_it_is(self) -> None:
        one = Junction()
        one.do(one.generator.control(JUNCTION, idle=True, now=one.now))
        one.do(one.generator.control(JUNCTION, idle=True, now=one.now))
        one.bus(100)
        assert one.reasons == ["not asked: the controller is not in control of its lamps"]
        one.do(one.generator.control(JUNCTION, idle=False, now=one.now))
        assert len(one.asks) == 1

    @pytest.mark.parametrize(
        ("mode", "idle"),
        [("control", False), ("failure", True), ("standby", True), (None, False), (7, False)],
    )
    def test_its_mode_is_what_it_says(self, mode: Value, idle: bool) -> None:
        assert is_idle(mode) is idle


class TestArrival:
    def test_an_arrival_that_moves_is_told_and_one_that_does_not_is_not(self) -> None:
        one = asked(Junction(), S.RECEIVED)
        one.after(1)
        one.bus(110)
        assert one.updates == []
        one.after(1)
        one.bus(115, speed_m_s=5.0)
        (update,) = one.updates
        assert (update.request.id, update.request.eta_s) == (one.last, 37)
        one.after(1)
        one.bus(120, speed_m_s=5.0)
        assert len(one.updates) == 1

    def test_a_vehicle_without_speed_is_reckoned_with_the_approach_s(self) -> None:
        one = Junction()
        one.bus(100, speed_m_s=2.0)
        one.after(1)
        one.bus(101, speed_m_s=0.0)
        assert one.passages[0].arrival_ms - one.now.monotonic_ms == pytest.approx(19_900, abs=50)

    def test_of_a_vehicle_that_waits_at_the_stop_line_nothing_new_is_told(self) -> None:
        one = asked(Junction(), S.RECEIVED)
        one.drive(110, 299)
        before = len(one.updates)
        for _ in range(30):
            one.after(1)
            one.bus(299, speed_m_s=0.0)
        assert len(one.updates) == before

    def test_an_arrival_is_told_up_to_what_a_controller_takes(self) -> None:
        one = Junction()
        one.bus(100, speed_m_s=1.5)
        assert one.asks[0].request.eta_s == 134
        far = msgspec.structs.replace(APPROACH, approach_speed_m_s=1.0, check_in_m=290.0)
        one = Junction(msgspec.structs.replace(POLICY, approaches=(far,)))
        one.bus(20, speed_m_s=0.0)
        assert one.asks[0].request.eta_s == 255


class TestTime:
    @pytest.mark.parametrize(
        ("quality", "age_s", "counted"),
        [
            (ClockQuality.SYNCHRONISED, 7.9, ""),
            (ClockQuality.SYNCHRONISED, 8.1, "old"),
            (ClockQuality.SYNCHRONISED, -2.9, ""),
            (ClockQuality.SYNCHRONISED, -3.1, "future"),
            (ClockQuality.HOLDOVER, 64.0, ""),
            (ClockQuality.HOLDOVER, 66.0, "old"),
            (ClockQuality.HOLDOVER, -61.0, "future"),
            (ClockQuality.UNSYNCHRONISED, 1e9, ""),
            (ClockQuality.UNSYNCHRONISED, -1e9, ""),
        ],
    )
    def test_a_position_from_another_time_is_refused_by_a_clock_that_can_tell(
        self, quality: ClockQuality, age_s: float, counted: str
    ) -> None:
        one = Junction(quality=quality)
        one.bus(100, at_ms=one.now.utc_ms - round(1000 * age_s))
        counts = msgspec.structs.asdict(one.generator.counts)
        assert [name for name in ("old", "future") if counts[name]] == ([counted] if counted else [])
        assert bool(one.asks) is not bool(counted)

    def test_without_a_clock_a_signed_position_of_long_ago_is_refused_by_the_fleet_s_own_time(self) -> None:
        one = Junction(quality=ClockQuality.UNSYNCHRONISED)
        one.bus(50, source=Source.LOCAL)
        old_ms = one.now.utc_ms - 61_000
        one.bus(100, source=Source.LOCAL, pseudonym="v-2", at_ms=old_ms)
        assert one.asks == []
        assert one.generator.counts.old == 1

    def test_a_position_that_is_refused_keeps_nobody_alive(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        for _ in range(5):
            one.tick(1)
            one.bus(110, at_ms=one.now.utc_ms + 60_000)
        assert one.reasons == ["nothing was heard of it any more"]

    def test_a_vehicle_is_forgotten_after_a_while(self) -> None:
        one = Junction()
        one.bus(100)
        one.tick(59)
        assert one.generator.followed.vehicles
        one.tick(1)
        assert one.generator.followed.vehicles == {}


class TestMany:
    def test_two_vehicles_on_one_approach_are_asked_for_one_after_the_other(self) -> None:
        one = Junction(policy(cooldown_s=0))
        one.bus(120)
        one.bus(110, pseudonym="v-2")
        assert len(one.asks) == 1
        one.taken()
        one.tell(S.ACTIVATED)
        for step in range(1, 21):
            one.after(1)
            one.bus(120 + 10 * step)
            one.bus(110 + 10 * step, pseudonym="v-2")
        assert len(one.cancels) == 1
        one.tell(S.COMPLETED)
        assert [ask.event.vehicle for ask in one.asks] == ["v-1", "v-2"]

    def test_the_more_urgent_goes_first_then_the_nearer(self) -> None:
        ambulance = msgspec.structs.replace(
            RULE, id="emergency", vehicle_types=(VehicleType.EMERGENCY,), routes=(), directions=(), level=14
        )
        one = Junction(msgspec.structs.replace(POLICY, rules=(RULE, ambulance)), up=False)
        one.bus(200)
        one.bus(210, pseudonym="v-2")
        one.bus(110, pseudonym="v-3", vehicle_type=VehicleType.EMERGENCY)
        one.do(one.generator.line(JUNCTION, up=True, now=one.now))
        assert [ask.event.vehicle for ask in one.asks] == ["v-3"]
        one.taken(CommandState.FAILED)
        one.tick(REFUSED_MS / 1000 - 0.1)
        assert [ask.event.vehicle for ask in one.asks] == ["v-3"]
        one.bus(211, pseudonym="v-2")
        one.tick(0.1)
        assert [ask.event.vehicle for ask in one.asks] == ["v-3", "v-2"]

    def test_two_approaches_are_asked_for_at_once_unless_they_share_a_group(self) -> None:
        other = msgspec.structs.replace(APPROACH, id="other", signal_group="2")
        shared = msgspec.structs.replace(APPROACH, id="shared")
        rules = (RULE, *(msgspec.structs.replace(RULE, id=n, approach=n) for n in ("other", "shared")))
        one = Junction(PriorityPolicy((APPROACH, other, shared), rules, POLICY.lease_until_ms))
        one.bus(100)
        assert [ask.event.approach for ask in one.asks] == ["north", "other"]

    def test_a_vehicle_is_looked_for_only_where_it_can_be(self) -> None:
        path = (place(3000), place(3150), place(3400))
        far = msgspec.structs.replace(APPROACH, id="far", path=path, signal_group="2")
        rules = (RULE, msgspec.structs.replace(RULE, id="far", approach="far"))
        one = Junction(PriorityPolicy((APPROACH, far), rules, POLICY.lease_until_ms))
        one.bus(100)
        one.bus(3100, pseudonym="v-2")
        assert [ask.event.approach for ask in one.asks] == ["north", "far"]

    def test_so_many_vehicles_are_followed_and_no_more(self) -> None:
        one = Junction()
        for number in range(MAX_VEHICLES + 10):
            one.bus(50, pseudonym=f"v-{number}")
        assert len(one.generator.followed.vehicles) == MAX_VEHICLES
        assert one.generator.counts.crowded == 10

    def test_noise_that_is_on_no_approach_makes_room_for_a_bus(self) -> None:
        one = Junction()
        for number in range(MAX_VEHICLES):
            one.after(0.01)
            one.bus(50, 24, pseudonym=f"n-{number}", route="L9")
        one.bus(100)
        assert len(one.asks) == 1
        assert "n-0" not in one.generator.followed.vehicles


class TestPolicies:
    def test_what_a_policy_does_not_change_goes_on(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        later = msgspec.structs.replace(POLICY, lease_until_ms=POLICY.lease_until_ms + 1)
        assert one.do(one.generator.go_by(later, DEVICES, Limits(), one.now)) == []
        assert one.passages

    @pytest.mark.parametrize("changed", [policy(level=8), None, PriorityPolicy((), (), 2**50)])
    def test_what_it_changes_is_taken_back(self, changed: PriorityPolicy | None) -> None:
        one = asked(Junction(), S.ACTIVATED)
        one.do(one.generator.go_by(changed, DEVICES, Limits(), one.now))
        assert one.reasons == ["another policy has come into force"]
        assert len(one.cancels) == 1
        one.tell(S.COMPLETED)
        assert one.generator.book.requests == {}

    def test_a_change_at_one_approach_is_no_other_one_s_business(self) -> None:
        other = msgspec.structs.replace(APPROACH, id="other", signal_group="2")
        rules = (RULE, msgspec.structs.replace(RULE, id="other", approach="other"))
        both = PriorityPolicy((APPROACH, other), rules, POLICY.lease_until_ms)
        one = Junction(both)
        one.bus(100)
        one.do(one.generator.go_by(POLICY, DEVICES, Limits(), one.now))
        assert [cancel.request for cancel in one.cancels] == [one.asks[1].request.id]

    def test_without_a_policy_nothing_is_asked(self) -> None:
        one = Junction(None)
        one.bus(100)
        one.tick(1)
        assert one.actions == []
        assert one.generator.lapsed(one.now)
        assert one.generator.lease_until_ms is None

    def test_at_the_end_everything_is_taken_back(self) -> None:
        one = asked(Junction(), S.ACTIVATED)
        one.do(one.generator.end("the agent ends", one.now))
        assert one.reasons == ["the agent ends"]
        assert len(one.cancels) == 1
        one.tick(1)
        one.bus(120)
        assert len(one.asks) == 1


class TestShadow:
    def test_a_rule_that_only_watches_asks_nothing_and_says_what_it_would(self) -> None:
        one = Junction(policy(shadow=True), limited(priority=False), up=False)
        one.drive(90, 330)
        assert {type(action).__name__ for action in one.actions} == {"Report"}
        assert one.reasons == [
            "shadow: it would be asked for",
            "shadow: it would be taken back: it has passed",
        ]
        assert all(event.shadow and event.state is None for event in one.events)
        assert one.events[-1].over
        assert one.generator.counts.asked == 0

    def test_a_shadow_keeps_the_limits_as_if_it_were_granted(self) -> None:
        one = Junction(policy(shadow=True))
        one.drive(90, 330)
        one.bus(100, pseudonym="v-2")
        assert one.reasons[-1] == "not asked: cool-down after the last granted request"

    def test_a_shadow_tells_no_arrivals_and_knows_no_line(self) -> None:
        one = Junction(policy(shadow=True))
        one.bus(100)
        one.after(1)
        one.bus(105, speed_m_s=2.0)
        one.tell(S.COMPLETED, request=one.events[0].request)
        one.silent()
        assert one.updates == []
        assert len(one.generator.book.requests) == 1

    def test_a_shadow_keeps_nobody_from_asking_in_earnest(self) -> None:
        watching = msgspec.structs.replace(RULE, id="watching", shadow=True, routes=("L9",))
        one = Junction(msgspec.structs.replace(POLICY, rules=(watching, RULE)))
        one.bus(120, pseudonym="v-2", route="L9")
        one.bus(100)
        assert [ask.event.vehicle for ask in one.asks] == ["v-1"]


class TestAlarm:
    @pytest.mark.parametrize(
        "states", [(S.RECEIVED, S.REJECTED), (S.RECEIVED, S.QUEUED, S.TIMEOUT), (S.STALE,)]
    )
    def test_what_is_of_no_use_is_counted_until_something_is_granted(
        self, states: tuple[RequestState, ...]
    ) -> None:
        one = Junction(policy(cooldown_s=0))
        for number in range(3):
            one.bus(100, pseudonym=f"v-{number}")
            one.taken()
            one.tell(*states)
            one.tick(REFUSED_MS / 1000)
        assert one.generator.book.failing[JUNCTION] == 3
        one.bus(100, pseudonym="v-9")
        one.tell(S.ACTIVATED, S.COMPLETED)
        assert one.generator.book.failing[JUNCTION] == 0

    def test_a_vehicle_that_went_elsewhere_and_a_controller_s_cool_down_are_no_failures(self) -> None:
        one = asked(Junction(), S.RECEIVED)
        one.tick(5)
        one.silent()
        one.bus(100, pseudonym="v-2")
        one.tell(S.COOLDOWN)
        assert one.generator.book.failing[JUNCTION] == 0

    def test_a_vehicle_that_passed_without_having_been_granted_is_one(self) -> None:
        one = asked(Junction(), S.RECEIVED, S.QUEUED)
        one.drive(110, 330)
        one.silent()
        assert one.generator.book.failing[JUNCTION] == 1


class TestRestart:
    def test_what_an_earlier_run_left_is_taken_back_once_its_controller_is_there(self) -> None:
        left = asked(Junction(), S.ACTIVATED).events[-1]
        one = Junction(policy(cooldown_s=0), up=False)
        one.do(one.generator.recover([left], [], one.now))
        assert one.reasons == ["the agent has begun anew"]
        one.bus(100)
        one.do(one.generator.line(JUNCTION, up=True, now=one.now))
        assert [cancel.request for cancel in one.cancels] == [left.request]
        assert one.asks == []
        one.tell(S.COMPLETED, request=left.request)
        assert len(one.asks) == 1
        assert [event.state for event in one.events if event.over] == [S.COMPLETED]

    def test_grants_of_before_still_count(self) -> None:
        one = Junction(policy(grants_per_hour=2))
        grants = [(JUNCTION, "1", one.now.monotonic_ms - age_ms) for age_ms in (3_000_000, 30_000)]
        one.do(one.generator.recover([], grants, one.now))
        one.bus(100)
        assert one.reasons == ["not asked: cool-down after the last granted request"]
        one.tick(61)
        one.bus(100, pseudonym="v-2")
        assert one.reasons[1:] == ["not asked: as many requests as allowed were granted within the hour"]

    def test_ids_of_two_runs_differ(self) -> None:
        one = Junction()
        one.bus(100)
        assert isinstance(one.actions[0], Ask)
        assert one.last.startswith("lu-1-r1-")


def test_the_street_of_these_tests_leads_north() -> None:
    assert place(300).latitude - place(0).latitude == pytest.approx(300 / 111_176.7)
