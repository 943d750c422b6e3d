"""Vehicles without a name: what a cabinet's own detectors and a technician at the cabinet set off."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.backhaul.messages import Source
from protocols.model.device import Device, Kind, Point
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.policy import Limits, SignalLimit
from protocols.model.priority import RequestState
from protocols.model.reading import Value
from protocols.rules.priority import view
from protocols.rules.priority.detector import detector_point, is_green, is_pulse
from protocols.rules.priority.generator import RefusedError
from tests.protocols.rules.priority.junction_bench import JUNCTION, LOOP, POLICY, RULE, SITE, Junction, policy

S = RequestState


def passed(one: Junction, detector: str = "loop-1") -> None:
    one.do(one.generator.passed(detector, one.now))


class TestDetectors:
    def test_a_vehicle_that_passes_the_detector_gets_its_green_and_gives_it_back_behind_the_stop_line(
        self,
    ) -> None:
        one = Junction()
        passed(one)
        (ask,) = one.asks
        assert (ask.request.eta_s, ask.event.vehicle, ask.event.source) == (10, "", Source.DETECTOR)
        one.taken()
        one.tell(S.RECEIVED, S.ACTIVATED)
        one.tick(12)
        assert one.cancels == []
        passed(one, "loop-2")
        assert one.reasons == ["it has passed"]
        one.tell(S.COMPLETED)
        assert one.passages == []

    def test_a_vehicle_that_never_comes_out_is_taken_back_all_the_same(self) -> None:
        one = Junction(policy(time_to_live_s=60))
        passed(one)
        one.taken()
        one.tell(S.RECEIVED)
        for _ in range(59):
            one.tick(1)
        assert one.cancels == []
        one.tick(1)
        assert one.reasons == ["it is older than 60 s"]
        assert one.passages == []

    def test_a_vehicle_that_waits_in_vain_is_forgotten_when_its_request_would_be_too_old(self) -> None:
        one = Junction(policy(time_to_live_s=60), up=False)
        passed(one)
        one.tick(59)
        assert len(one.passages) == 1
        one.tick(1)
        assert one.passages == []

    def test_the_axles_of_one_vehicle_are_one_vehicle(self) -> None:
        one = Junction()
        for _ in range(5):
            passed(one)
            one.after(0.5)
        assert len(one.passages) == 1
        assert (one.generator.counts.pulses, one.generator.counts.chatter) == (5, 4)

    def test_a_rule_that_wants_to_know_the_vehicle_asks_for_no_unknown_one(self) -> None:
        one = Junction(policy(by_detector=False))
        passed(one)
        assert one.actions == []
        assert one.generator.counts.unmatched == 1

    def test_a_detector_that_chatters_on_makes_no_crowd(self) -> None:
        one = Junction(up=False)
        for _ in range(10):
            passed(one)
            one.after(3)
        assert len(one.passages) == 4
        assert one.generator.counts.unmatched == 6

    def test_a_detector_of_somebody_else_says_nothing(self) -> None:
        one = Junction()
        passed(one, "loop-9")
        assert one.generator.counts.pulses == 0

    def test_the_detector_behind_the_stop_line_lets_nobody_go_who_tells_where_it_is(self) -> None:
        one = Junction()
        one.bus(200)
        passed(one, "loop-2")
        assert one.cancels == []
        assert one.generator.counts.unmatched == 1

    def test_a_vehicle_that_tells_its_position_is_not_asked_for_twice(self) -> None:
        one = Junction()
        one.bus(200)
        passed(one)
        assert len(one.passages) == 1
        assert one.generator.counts.known == 1

    def test_a_vehicle_that_tells_its_position_only_after_the_detector_takes_its_request_over(self) -> None:
        one = Junction()
        passed(one)
        one.taken()
        one.tell(S.RECEIVED)
        one.after(1)
        one.bus(210)
        assert len(one.asks) == 1
        (passage,) = one.passages
        assert (passage.vehicle, passage.stage.value) == ("v-1", "asked")
        one.tell(S.ACTIVATED)
        assert one.events[-1].vehicle == "v-1"
        one.drive(220, 330)
        assert one.reasons == ["it has passed"]

    def test_a_vehicle_that_waits_after_the_detector_is_taken_over_too(self) -> None:
        one = Junction(up=False)
        passed(one)
        one.bus(210)
        assert [passage.vehicle for passage in one.passages] == ["v-1"]

    def test_what_only_watches_keeps_no_vehicle_from_its_request(self) -> None:
        watching = msgspec.structs.replace(RULE, id="loop", routes=("L9",), shadow=True)
        known = msgspec.structs.replace(RULE, by_detector=False)
        one = Junction(msgspec.structs.replace(POLICY, rules=(watching, known)))
        passed(one)
        one.bus(210)
        assert [ask.event.vehicle for ask in one.asks] == ["v-1"]

    def test_a_vehicle_that_comes_at_another_time_is_another_one(self) -> None:
        one = Junction()
        passed(one)
        one.bus(110)
        assert len(one.passages) == 2
        assert len(one.asks) == 1

    @pytest.mark.parametrize("name", ["loop-1", "loop-1/occupied"])
    def test_a_detector_is_a_device_or_one_of_its_points(self, name: str) -> None:
        assert detector_point(name, [SITE, LOOP]) == (LOOP.id, "occupied")

    @pytest.mark.parametrize("name", ["loop-2", "loop-1/vehicles", "junction-1", ""])
    def test_what_is_not_there_detects_nothing(self, name: str) -> None:
        assert detector_point(name, [SITE, LOOP]) is None

    def test_a_counter_may_be_a_detector(self) -> None:
        counts = PointName("vehicle_count")
        one = Device(DeviceId("radar"), Kind.DETECTOR, LineId("rtu-1"), "5", points=(Point(counts),))
        assert detector_point("radar/vehicle_count", [one]) == ("radar", "vehicle_count")

    @pytest.mark.parametrize(
        ("before", "now", "expected"),
        [
            (False, True, True),
            (True, True, False),
            (True, False, False),
            (None, True, False),
            (False, None, False),
            (7, 8, True),
            (8, 8, False),
            (8, 2, False),
            (None, 8, False),
            (0, True, False),
            ("a", "b", False),
        ],
    )
    def test_a_vehicle_is_a_rising_edge_or_a_count(self, before: Value, now: Value, expected: bool) -> None:
        assert is_pulse(before, now) is expected


class TestSignalGroups:
    @pytest.mark.parametrize(
        ("groups", "signal_group", "expected"),
        [
            ("B3", "KK+AG0503=001SG002", True),
            ("B3", "KK+AG0503=001SG001", False),
            ("B3", "KK+AG0503=001SG003", None),
            ("-3", "1", None),
            ("cc", "1", None),
            ("GN0", "2", False),
            ("123456789", "9", True),
            ("B3", "north", None),
            ("B3", "0", None),
            (None, "1", None),
            (3, "1", None),
        ],
    )
    def test_a_group_s_light_is_its_place_in_what_the_junction_says(
        self, groups: Value, signal_group: str, expected: bool | None
    ) -> None:
        assert is_green(groups, signal_group) is expected

    @given(st.text(max_size=20), st.text(max_size=20))
    def test_noise_is_never_a_reason_to_break(self, groups: str, signal_group: str) -> None:
        assert is_green(groups, signal_group) in {True, False, None}


class TestATechnician:
    def want(self, one: Junction, approach: str = "north", *, shadow: bool = False) -> str:
        request, actions = one.generator.want(approach, "technician:anna", one.now, shadow=shadow)
        one.do(actions)
        return request

    def test_a_technician_s_request_is_one_like_any_other_with_the_name_in_its_event(self) -> None:
        one = Junction()
        request = self.want(one)
        assert [ask.request.id for ask in one.asks] == [request]
        assert one.reasons == ["asked for by technician:anna"]
        assert one.events[0].source is Source.TECHNICIAN
        one.taken()
        one.tell(S.ACTIVATED, S.COMPLETED)
        assert one.passages == []

    def test_it_is_taken_back_by_itself(self) -> None:
        one = Junction(policy(time_to_live_s=20))
        self.want(one)
        one.taken()
        one.tell(S.RECEIVED)
        one.tick(20)
        assert len(one.cancels) == 1

    def test_it_may_be_made_although_the_green_is_there(self) -> None:
        one = Junction(green=True)
        self.want(one)
        assert len(one.asks) == 1

    def test_in_shadow_nothing_is_asked(self) -> None:
        one = Junction()
        self.want(one, shadow=True)
        assert one.asks == []
        assert one.reasons == ["shadow: it would be asked for"]

    def test_it_is_refused_under_the_same_limits_and_that_is_on_record(self) -> None:
        one = Junction(POLICY, Limits(signal=(SignalLimit("tlc-1", priority=False),)))
        with pytest.raises(RefusedError, match="the limits file allows no request") as refusal:
            self.want(one)
        event = refusal.value.event
        assert event is not None
        assert event.reason == "asked for by technician:anna; not asked: the limits file allows no request"
        assert one.passages == []

    @pytest.mark.parametrize("approach", ["south", "bare"])
    def test_an_approach_without_a_rule_cannot_be_asked_for(self, approach: str) -> None:
        bare = msgspec.structs.replace(POLICY.approaches[0], id="bare")
        one = Junction(msgspec.structs.replace(POLICY, approaches=(*POLICY.approaches, bare)))
        with pytest.raises(RefusedError, match="there are rules for: north") as refusal:
            self.want(one, approach)
        assert refusal.value.event is None
        with pytest.raises(RefusedError, match="none"):
            self.want(Junction(None))


class TestTheView:
    def test_it_shows_who_is_where_and_what_is_asked(self) -> None:
        one = Junction(msgspec.structs.replace(POLICY, rules=(RULE,)))
        one.bus(120)
        one.bus(100, pseudonym="v-2")
        one.taken()
        one.tell(S.ACTIVATED)
        one.after(1)
        (approach,) = view.approaches(one.generator, one.now)
        assert (approach.approach, approach.green, approach.reachable, approach.allowed) == (
            "north",
            False,
            True,
            True,
        )
        assert (approach.rules, approach.shadow, approach.grants_last_hour) == (("buses",), False, 1)
        first, second = approach.vehicles
        assert (first.vehicle, first.stage, first.heard_s) == ("v-1", "asked", 1.0)
        assert first.to_stop_line_m == pytest.approx(180, abs=0.1)
        assert first.eta_s == pytest.approx(17, abs=0.1)
        assert second.not_asked == ("another request for this signal group is under way",)
        (request,) = view.requests(one.generator, one.now)
        assert (request.junction, request.phase, request.state, request.age_s) == (
            JUNCTION,
            "placed",
            S.ACTIVATED,
            1.0,
        )
