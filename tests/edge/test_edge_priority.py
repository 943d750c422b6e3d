"""Bus priority with everything real: broker, agent, and a signal controller that speaks RSMP."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from edge.asking import RefusedError
from edge.state import State
from protocols.backhaul import codec
from protocols.backhaul.messages import AlarmEvent, CommandEvent, PolicyEvent, Source
from protocols.backhaul.topics import position as position_topic
from protocols.model.alarm import AlarmType
from protocols.model.command import Command, CommandState
from protocols.model.ids import CommandId, PointName
from protocols.model.priority import PriorityPolicy, RequestState
from sim.street_thread import StreetThread
from tests.edge.broker import free_port
from tests.edge.crossing import APPROACH, JUNCTION, NAME, POLICY, RULE, Crossing, crossing, crossing_scenario

S = RequestState


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StreetThread]:
    """One junction for all: it takes some seconds until it is in control, and outlives every agent."""
    with StreetThread(crossing_scenario(free_port()), tmp_path_factory.mktemp("street")) as one:
        yield one


@pytest.fixture
def junction(tmp_path: Path, street: StreetThread) -> Iterator[Crossing]:
    with crossing(tmp_path, street) as one:
        yield one


@pytest.fixture(scope="class")
def shared(tmp_path_factory: pytest.TempPathFactory, street: StreetThread) -> Iterator[Crossing]:
    """One agent for the tests that leave nothing behind."""
    with crossing(tmp_path_factory.mktemp("crossing"), street) as one:
        one.begin()
        yield one


def asked_for(one: Crossing, name: str = "v-1") -> str:
    """Let a bus be asked for, and wait for the controller's word; return the request's id."""
    one.fleet.say(230, name)
    one.centre.wait(lambda: any(event.vehicle == name for event in one.events(S.ACTIVATED)), "activated")
    return next(event.request for event in one.events(S.ACTIVATED) if event.vehicle == name)


def raised(one: Crossing) -> list[bool]:
    events = [event for event in one.centre.events(AlarmEvent) if isinstance(event, AlarmEvent)]
    return [event.cleared_ms is None for event in events if event.type is AlarmType.PRIORITY_FAILURE]


class TestTheLoop:
    def test_a_bus_that_says_where_it_is_gets_its_green_and_gives_it_back(self, shared: Crossing) -> None:
        before = shared.granted()
        request = asked_for(shared, "v-loop")
        assert shared.at_controller()[request] == "activated"
        shared.fleet.drive(name="v-loop")
        shared.centre.wait(lambda: request in {event.request for event in shared.events(S.COMPLETED)})
        assert shared.granted() == before + 1
        events = [event for event in shared.events() if event.request == request]
        assert [event.state for event in events] == [None, S.RECEIVED, S.ACTIVATED, S.ACTIVATED, S.COMPLETED]
        assert [event.over for event in events] == [False, False, False, False, True]
        last = events[-1]
        assert (last.source, last.vehicle, last.reason) == (Source.POSITION, "v-loop", "it has passed")
        assert last.extension_s is not None
        assert last.controller_ms is not None
        assert shared.seen().requests == ()

    def test_a_bus_of_another_line_asks_for_nothing(self, shared: Crossing) -> None:
        before = shared.requested()
        unentitled = shared.seen().counts.unentitled
        shared.fleet.say(230, "v-other", route="L9")
        shared.wait_for(lambda seen: seen.counts.unentitled > unentitled)
        assert shared.requested() == before

    def test_noise_among_the_positions_is_refused_and_counted(self, shared: Crossing) -> None:
        refused = shared.status().backhaul.refused
        said = shared.fleet.position(230, "v-noise")
        topic = position_topic(said.latitude, said.longitude, "v-noise")
        shared.fleet.publish(topic, b"\xc1 noise")
        shared.fleet.publish(topic, codec.encode(msgspec.structs.replace(said, pseudonym="v-elsewho")))
        shared.fleet.publish(topic, codec.encode(msgspec.structs.replace(said, latitude=48.0)))
        shared.fleet.publish(topic.removesuffix("v-noise") + "V", codec.encode(said))
        shared.wait_for(lambda _: shared.status().backhaul.refused == refused + 4)
        assert "v-noise" not in str(shared.seen().approaches)

    def test_noise_at_the_local_port_is_refused_and_counted(self, shared: Crossing) -> None:
        shared.fleet.send(b"")
        shared.fleet.send(bytes(600))
        shared.fleet.tell(230, "v-forged", key=bytes(32))
        seen = shared.wait_for(lambda seen: seen.local is not None and seen.local.refused >= 3)
        assert seen.local is not None
        assert (seen.local.listening, seen.local.taken) == (True, 0)
        assert "tag" in seen.local.last_refusal
        assert seen.local.named == {"size": 2, "tag": 1}
        assert shared.status().local == seen.local
        assert "refused (size 2, tag 1; last: " in shared.cli("status").stdout
        assert "refused (size 2, tag 1; last: " in shared.cli("priority").stdout
        assert "v-forged" not in str(seen.approaches)

    def test_a_technician_s_request_is_made_and_on_record(self, shared: Crossing) -> None:
        event = shared.json("priority", "request", "north")
        assert isinstance(event, dict)
        assert event["state"] == "activated"
        assert event["reason"].startswith("asked for by technician:")
        shared.centre.wait(lambda: any(e.source is Source.TECHNICIAN for e in shared.events(S.ACTIVATED)))
        busy = shared.cli("priority", "request", "north")
        assert (busy.returncode, "another request" in busy.stderr) == (1, True)
        shadow = shared.cli("priority", "request", "north", "--shadow")
        assert (shadow.returncode, "shadow, nothing was asked" in shadow.stdout) == (0, True)
        wrong = shared.cli("priority", "request", "south")
        assert (wrong.returncode, "there are rules for: north" in wrong.stderr) == (2, True)
        shown = shared.cli("priority").stdout
        for text in ("north", "activated", "technician", "counted", "local"):
            assert text in shown
        assert "priority" in shared.cli("status").stdout

    def test_a_rule_that_only_watches_asks_the_controller_nothing(self, shared: Crossing) -> None:
        requested = shared.requested()
        shared.go_by(msgspec.structs.replace(POLICY, rules=(msgspec.structs.replace(RULE, shadow=True),)))
        shared.fleet.drive(name="v-shadow")
        told = ["shadow: it would be asked for", "shadow: it would be taken back: it has passed"]
        shared.centre.wait(lambda: self.reasons(shared, "v-shadow") == told, "its reports")
        assert shared.requested() == requested

    def test_a_policy_whose_lease_is_over_asks_for_nothing(self, shared: Crossing) -> None:
        requested = shared.requested()
        shared.go_by(msgspec.structs.replace(POLICY, lease_until_ms=1))
        shared.fleet.say(230, "v-late")
        told = ["not asked: the policy's lease is over"]
        shared.centre.wait(lambda: self.reasons(shared, "v-late") == told, "the refusal")
        assert shared.requested() == requested
        assert json.loads(shared.cli("priority", "--json").stdout)["lapsed"] is True
        asked = shared.cli("priority", "request", "north")
        assert (asked.returncode, "not asked: the policy's lease is over" in asked.stderr) == (1, True)

    def test_a_policy_without_approaches_hears_and_asks_nobody(self, shared: Crossing) -> None:
        shared.go_by(PriorityPolicy((), (), 2**50))
        before = shared.seen().counts.heard
        shared.fleet.say(230, "v-nowhere")
        shared.go_by()
        shared.fleet.say(230, "v-again")
        shared.wait_for(lambda seen: seen.counts.heard == before + 1, "the one that is heard again")

    def test_a_policy_for_a_junction_that_is_not_there_is_rejected(self, shared: Crossing) -> None:
        elsewhere = msgspec.structs.replace(APPROACH, junction="crossing-2", check_in_detector="")
        with pytest.raises(RefusedError, match="this cabinet has no device 'crossing-2'"):
            shared.go_by(msgspec.structs.replace(POLICY, approaches=(elsewhere,)))

    def reasons(self, one: Crossing, vehicle: str) -> list[str]:
        return [event.reason for event in one.events() if event.vehicle == vehicle]


class TestWithoutTheBackhaul:
    def test_the_detector_and_the_local_datagram_still_get_the_green(self, junction: Crossing) -> None:
        junction.begin()
        junction.broker.kill()
        junction.wait_for(lambda _: not junction.status().backhaul.connected)
        junction.fleet.tell(230)
        junction.wait_for(lambda _: list(junction.at_controller().values()) == ["activated"])
        for along_m in (265, 300, 325):
            junction.fleet.tell(along_m)
        junction.wait_for(lambda _: junction.granted() == 1)
        junction.wait_for(lambda seen: seen.requests == ())
        junction.detect(1)
        junction.wait_for(lambda _: list(junction.at_controller().values()) == ["activated"])
        junction.detect(2)
        junction.wait_for(lambda _: junction.granted() == 2)
        junction.broker.start()
        junction.centre.connect()
        junction.centre.wait(lambda: len(junction.events(S.COMPLETED)) == 2, "what happened meanwhile")
        assert {event.source for event in junction.events()} == {Source.LOCAL, Source.DETECTOR}


class TestEndings:
    def test_a_stopping_agent_takes_everything_back_before_it_lets_go(self, junction: Crossing) -> None:
        junction.begin()
        asked_for(junction)
        assert junction.stop() == 0
        assert junction.granted() == 1
        assert junction.at_controller() == {}
        assert [event.reason for event in junction.events(S.COMPLETED)] == ["the agent ends"]
        state = State.open(junction.folder / "state" / "state.db")
        assert state.left_priority() == []  # the next agent would report it again, after its end
        state.close()
        log = junction.log.read_text()
        assert "Traceback" not in log
        assert "task_broke" not in log

    def test_a_killed_agent_s_request_is_taken_back_by_the_next_one(self, junction: Crossing) -> None:
        junction.begin()
        request = asked_for(junction)
        junction.kill()
        assert junction.at_controller() == {request: "activated"}
        left = junction.cli("priority")
        assert left.returncode == 3
        assert request in left.stdout
        junction.start()
        junction.wait_for(lambda _: junction.granted() == 1)
        junction.centre.wait(lambda: bool(junction.events(S.COMPLETED)), "its end")
        last = junction.events(S.COMPLETED)[-1]
        assert (last.request, last.reason) == (request, "the agent has begun anew")
        assert [event.over for event in junction.events() if event.request == request][-2:] == [False, True]
        assert [one.grants_last_hour for one in junction.seen().approaches] == [1]

    def test_a_killed_agent_that_lost_its_disk_takes_its_request_back_by_its_name(
        self, junction: Crossing
    ) -> None:
        junction.begin()
        asked_for(junction)
        junction.kill()
        for file in (junction.folder / "state").glob("state.db*"):
            file.unlink()
        junction.start()
        seen = junction.wait_for(lambda _: junction.granted() == 1)
        assert seen.counts.strays == 1
        assert seen.lease_until_ms is None

    def test_a_bus_that_passes_while_the_line_is_down_is_taken_back_when_it_returns(
        self, junction: Crossing
    ) -> None:
        junction.begin()
        request = asked_for(junction)
        junction.street.fault("junction-1", "disconnected")
        junction.wait_for(lambda seen: not seen.approaches[0].reachable)
        junction.fleet.drive()
        junction.wait_for(lambda seen: [one.phase for one in seen.requests] == ["returning"])
        asked = junction.cli("priority", "request", "north")
        assert (asked.returncode, "the controller cannot be reached" in asked.stderr) == (1, True)
        junction.fleet.say(230, "v-2")
        junction.centre.wait(
            lambda: (
                "not asked: the controller cannot be reached" in {event.reason for event in junction.events()}
            )
        )
        junction.street.clear("junction-1", "disconnected")
        junction.centre.wait(lambda: request in {event.request for event in junction.events(S.COMPLETED)})


class TestRefusals:
    def test_five_refusals_in_a_row_are_an_alarm_that_outlasts_a_restart_and_a_grant_clears_it(
        self, junction: Crossing
    ) -> None:
        junction.begin()
        junction.street.fault("junction-1", "rejects_priority")
        for number in range(5):
            junction.fleet.say(230, f"v-{number}")
            junction.centre.wait(lambda n=number: len(junction.events(S.REJECTED)) == n + 1)  # type: ignore[misc]
        junction.centre.wait(lambda: raised(junction) == [True], "the alarm")
        assert junction.granted() == 0
        junction.street.clear("junction-1", "rejects_priority")
        assert junction.stop() == 0
        junction.start()
        junction.wait_for(lambda seen: seen.approaches[0].reachable and seen.approaches[0].green is not None)
        assert raised(junction) == [True]
        asked_for(junction, "v-9")
        junction.fleet.drive(name="v-9")
        junction.centre.wait(lambda: raised(junction) == [True, False], "the alarm's end")

    def test_a_policy_beyond_the_limits_file_is_rejected_and_the_file_holds_for_one_accepted_before(
        self, junction: Crossing
    ) -> None:
        junction.begin()
        assert junction.stop() == 0
        (junction.folder / "limits.toml").write_text('[[signal]]\nline = "tlc-1"\nmax_level = 3\n')
        junction.start()
        junction.wait_for(lambda seen: seen.approaches[0].reachable and seen.approaches[0].green is not None)
        asked_for(junction)
        assert {event.level for event in junction.events()} == {3}
        with pytest.raises(RefusedError, match="level: 7 is above the limit of 3"):
            junction.go_by()
        junction.centre.wait(
            lambda: any(
                isinstance(e, PolicyEvent) and not e.accepted for e in junction.centre.events(PolicyEvent)
            )
        )

    def test_a_controller_in_failure_mode_is_not_asked(self, junction: Crossing) -> None:
        junction.begin()
        junction.street.fault("junction-1", "yellow_flash")
        junction.wait_for(lambda seen: seen.approaches[0].green is None)
        junction.fleet.say(230)
        told = "not asked: the controller is not in control of its lamps"
        junction.centre.wait(lambda: told in {event.reason for event in junction.events()}, "the refusal")
        assert junction.requested() == 0


class TestTheSecurityCode:
    """What a cabinet without the controller's code of level 2 says to who wants to set its time plan."""

    WHY = (
        "time_plan of crossing can only be read: "
        "security_code of line tlc-1, the controller's code of level 2, is not set"
    )

    def test_the_technician_is_told_which_key_of_which_line_is_missing(self, shared: Crossing) -> None:
        before = orders(shared)
        refused = shared.cli("set", JUNCTION, "time_plan", "2")
        assert refused.returncode == 1
        assert self.WHY in refused.stdout
        other = shared.cli("set", JUNCTION, "stage", "2")
        assert other.returncode == 1
        assert "stage of crossing can only be read" in other.stdout
        assert "security_code" not in other.stdout
        assert orders(shared) == before

    def test_the_centre_is_told_too_and_nothing_is_sent(self, shared: Crossing) -> None:
        before = orders(shared)
        shared.centre.command(plan_command("c-plan"))
        shared.centre.wait(lambda: bool(told(shared, "c-plan")), "the refusal")
        assert told(shared, "c-plan") == [(CommandState.REJECTED, self.WHY)]
        assert orders(shared) == before


def test_with_the_security_code_set_the_plan_is_set(junction: Crossing) -> None:
    settings = junction.file.read_text(encoding="utf-8")
    line = 'driver = "rsmp"\n'
    junction.file.write_text(settings.replace(line, f'{line}security_code = "2222"\n'), encoding="utf-8")
    junction.begin()
    before = orders(junction)
    done = junction.cli("set", JUNCTION, "time_plan", "2")
    assert done.returncode == 0, done.stdout
    assert orders(junction) == before + 1
    assert junction.junction.plan_source == "forced"
    junction.street.call(partial(junction.junction.command_plan, None))


def orders(one: Crossing) -> int:
    """Return how many commands have reached the controller."""
    return one.street.counters().junctions[NAME].rsmp.received.get("CommandRequest", 0)


def plan_command(name: str) -> Command:
    return Command(CommandId(name), JUNCTION, PointName("time_plan"), 2, "operator:test", 2**50)


def told(one: Crossing, name: str) -> list[tuple[CommandState, str]]:
    events = [event for event in one.centre.events(CommandEvent) if isinstance(event, CommandEvent)]
    return [(event.state, event.reason) for event in events if event.id == name]


def test_without_an_agent_and_without_files_there_is_nothing_to_show(junction: Crossing) -> None:
    shown = junction.cli("priority")
    assert shown.returncode == 3
    assert "no agent has run here yet" in shown.stderr
    assert junction.cli("priority", "request", "north").returncode == 3
    assert JUNCTION not in shown.stdout
