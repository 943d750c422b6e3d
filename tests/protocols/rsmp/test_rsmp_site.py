"""The site's end (core 3.2.2, Status messages, Command messages, Error handling)."""

from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from protocols.errors import LocalProtocolError
from protocols.rsmp import messages as m
from protocols.rsmp.exchange import NEED_DATA, Closed, NotAcknowledged, Role
from protocols.rsmp.messages import Core, Quality, Value
from protocols.rsmp.site_role import Site
from protocols.rsmp.site_terms import HEALTHY, ClockTold, CommandAsked, StatusTold
from protocols.rsmp.subscriptions import StatusKey
from tests.protocols.rsmp.ends import (
    ALARMS,
    CODE,
    DETECTOR,
    GROUP,
    MAIN,
    START,
    Ends,
    command,
    identities,
    settings,
)

STAGE = m.StatusName("S0001", "stage")
PLAN = {"status": "True", "securityCode": CODE, "timeplan": "3"}


def connected(core: Core | None = None) -> Ends:
    ends = Ends(settings(core))
    ends.site.aggregate(HEALTHY, ends.now)
    ends.site.tell(MAIN, "S0001", {"stage": "1", "cyclecounter": "0"}, ends.now)
    return ends.connect()


def tell(ends: Ends, **values: Value) -> list[dict[str, Value]]:
    """Set parts of S0001; return what the supervisor is told of it, update by update."""
    before = len(ends.heard())
    ends.site.tell(MAIN, "S0001", values, ends.now)
    ends.pump()
    return updates(ends)[len([one for one in ends.heard()[:before] if isinstance(one, m.StatusUpdate)]) :]


def updates(ends: Ends) -> list[dict[str, Value]]:
    told = [one for one in ends.heard() if isinstance(one, m.StatusUpdate)]
    return [{value.name: value.value for value in one.values} for one in told]


def subscribe(ends: Ends, *wanted: m.Subscription, component: str = MAIN) -> list[m.Identified]:
    return ends.ask(m.StatusSubscribe(component=component, wanted=wanted))


def on(name: str, rate: str = "0", *, change: bool = True) -> m.Subscription:
    return m.Subscription("S0001", name, rate, change)


def refusals(ends: Ends) -> list[str]:
    return [event.reason for event in ends.told if isinstance(event, NotAcknowledged)]


# --- requests ---


def test_a_status_that_was_told_is_recent_one_that_was_not_is_unknown() -> None:
    ends = connected()
    wanted = (STAGE, m.StatusName("S0014", "status"))
    (response,) = ends.ask(m.StatusRequest(component=MAIN, wanted=wanted))
    assert isinstance(response, m.StatusResponse)
    assert response.at == m.stamp(START.utc_ms)
    assert response.values == (
        m.StatusValue("S0001", "stage", "1", Quality.RECENT),
        m.StatusValue("S0014", "status", None, Quality.UNKNOWN),
    )
    assert StatusTold(frozenset({StatusKey(MAIN, "S0001", "stage")})) in ends.happened


def test_a_status_of_an_unknown_component_is_undefined() -> None:
    (response,) = connected().ask(m.StatusRequest(component="nobody", wanted=(STAGE,)))
    assert isinstance(response, m.StatusResponse)
    assert response.values == (m.StatusValue("S0001", "stage", None, Quality.UNDEFINED),)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (m.StatusName("S9999", "x"), "unknown status code S9999"),
        (m.StatusName("S0001", "phase"), "S0001 has no phase"),
        (m.StatusName("\x1b[31m", "x"), "unknown status code \\x1b[31m"),
    ],
)
def test_a_code_or_name_that_the_list_does_not_know_is_refused(name: m.StatusName, reason: str) -> None:
    ends = connected()
    ends.lawless = True
    wanted = (STAGE, name)
    assert ends.ask(m.StatusRequest(component=MAIN, wanted=wanted)) == []
    assert ends.ask(m.StatusUnsubscribe(component=MAIN, wanted=wanted)) == []
    assert subscribe(ends, on("stage"), m.Subscription(name.code, name.name)) == []
    assert refusals(ends) == [reason] * 3
    assert tell(ends, stage="2") == []


# --- subscriptions ---


def test_a_subscription_is_told_at_once_then_at_each_change() -> None:
    ends = connected()
    subscribe(ends, on("stage"))
    assert updates(ends) == [{"stage": "1"}]
    assert tell(ends, stage="1", cyclecounter="5") == []
    assert tell(ends, stage="2", cyclecounter="6") == [{"stage": "2"}]
    ends.pass_time(3600)
    assert updates(ends) == [{"stage": "1"}, {"stage": "2"}]


def test_two_changes_in_one_moment_are_two_updates() -> None:
    ends = connected()
    subscribe(ends, on("stage"))
    ends.site.tell(MAIN, "S0001", {"stage": "2"}, ends.now)
    ends.site.tell(MAIN, "S0001", {"stage": "3"}, ends.now)
    ends.pump()
    assert updates(ends) == [{"stage": "1"}, {"stage": "2"}, {"stage": "3"}]


def test_an_interval_is_told_whether_the_value_changed_or_not_and_a_change_is_not_told() -> None:
    ends = connected()
    subscribe(ends, on("stage", "5", change=False))
    assert tell(ends, stage="2") == []
    ends.pass_time(4.999)
    assert len(updates(ends)) == 1
    ends.pass_time(0.001)
    ends.pass_time(5)
    assert updates(ends) == [{"stage": "1"}, {"stage": "2"}, {"stage": "2"}]


def test_a_change_begins_the_interval_anew() -> None:
    ends = connected()
    subscribe(ends, on("stage", "10"))
    ends.pass_time(6)
    assert tell(ends, stage="2") == [{"stage": "2"}]
    ends.pass_time(6)
    assert len(updates(ends)) == 2
    ends.pass_time(4)
    assert len(updates(ends)) == 3


def test_asking_again_only_changes_interval_and_change_and_is_not_told_at_once() -> None:
    ends = connected()
    subscribe(ends, on("stage"))
    assert subscribe(ends, on("stage", "5", change=False)) == []
    assert tell(ends, stage="2") == []
    ends.pass_time(5)
    assert updates(ends)[1:] == [{"stage": "2"}]


def test_statuses_with_different_intervals_come_in_partial_updates() -> None:
    ends = connected()
    subscribe(ends, on("stage", "2", change=False), on("cyclecounter", "3", change=False))
    for _ in range(6):
        ends.pass_time(1)
    names = [sorted(one) for one in updates(ends)]
    assert names == [
        ["cyclecounter", "stage"],
        ["stage"],
        ["cyclecounter"],
        ["stage"],
        ["cyclecounter", "stage"],
    ]


def test_the_statuses_of_two_components_are_told_in_two_messages() -> None:
    ends = connected()
    ends.site.tell(DETECTOR, "S0201", {"vehicles": "4"}, ends.now)
    subscribe(ends, on("stage", "5", change=False))
    subscribe(ends, m.Subscription("S0201", "vehicles", "5", False), component=DETECTOR)
    before = len(ends.heard())
    ends.pass_time(5)
    told = [one.component for one in ends.heard()[before:] if isinstance(one, m.StatusUpdate)]
    assert sorted(told) == [DETECTOR, MAIN]


def test_what_is_undefined_or_unknown_is_told_so_and_not_subscribed() -> None:
    ends = connected()
    (undefined,) = subscribe(ends, on("stage"), component="nobody")
    (unknown,) = subscribe(ends, m.Subscription("S0014", "status"))
    assert isinstance(undefined, m.StatusUpdate)
    assert isinstance(unknown, m.StatusUpdate)
    assert (undefined.values[0].quality, unknown.values[0].quality) == (Quality.UNDEFINED, Quality.UNKNOWN)
    ends.site.tell(MAIN, "S0014", {"status": "2"}, ends.now)
    ends.pass_time(60)
    assert [one for one in updates(ends) if one == {"status": "2"}] == []


def test_unsubscribing_ends_it_and_needs_no_subscription() -> None:
    ends = connected()
    for _ in range(2):
        subscribe(ends, on("stage"))
        assert ends.ask(m.StatusUnsubscribe(component=MAIN, wanted=(STAGE,))) == []
        assert ends.ask(m.StatusUnsubscribe(component=MAIN, wanted=(STAGE,))) == []
    assert tell(ends, stage="2") == []
    assert refusals(ends) == []


def test_the_site_knows_when_it_must_wake_up() -> None:
    ends = connected()
    assert ends.site.deadline_ms == START.monotonic_ms + 60_000
    subscribe(ends, on("stage", "5", change=False))
    assert ends.site.deadline_ms == START.monotonic_ms + 5_000
    fresh = Site(settings(), ALARMS, identities(), START)
    assert fresh.deadline_ms is None
    fresh.tick(START)
    fresh.receive_data(b"nobody is connected", START)
    assert (fresh.data_to_send(), fresh.next_event(), fresh.open) == (b"", NEED_DATA, False)


@pytest.mark.parametrize(
    ("component", "code", "values"),
    [
        ("nobody", "S0001", {"stage": "1"}),
        (DETECTOR, "S0001", {"stage": "1"}),
        (MAIN, "S9999", {"stage": "1"}),
        (MAIN, "S0001", {"phase": "1"}),
        (MAIN, "S0001", {"stage": "1000"}),
        (MAIN, "S0001", {"stage": None}),
    ],
)
def test_a_site_tells_only_what_its_list_knows(
    component: str, code: str, values: Mapping[str, Value]
) -> None:
    ends = connected()
    with pytest.raises(LocalProtocolError):
        ends.site.tell(component, code, values, ends.now)


# --- commands ---


def test_a_command_is_handed_on_and_answered_with_what_was_asked() -> None:
    ends = connected()
    (response,) = ends.ask(command("M0002", "setPlan", PLAN))
    asked = next(event for event in ends.happened if isinstance(event, CommandAsked))
    assert asked.orders[0].arguments == PLAN
    assert isinstance(response, m.CommandResponse)
    assert {value.name: value.value for value in response.values} == PLAN
    assert {value.age for value in response.values} == {Quality.RECENT}


def test_a_command_that_has_become_something_else_is_answered_with_that() -> None:
    ends = connected()
    ends.answer = False
    ends.ask(command("M0002", "setPlan", PLAN))
    asked = next(event for event in ends.happened if isinstance(event, CommandAsked))
    ends.site.accept(asked, ends.now, {m.StatusName("M0002", "timeplan"): "7"})
    ends.pump()
    response = ends.heard()[-1]
    assert isinstance(response, m.CommandResponse)
    assert response.values[-1].value == "7"


def test_a_command_that_is_not_carried_out_is_refused_with_the_sites_reason() -> None:
    ends = connected()
    ends.answer = False
    ends.ask(command("M0002", "setPlan", PLAN))
    asked = next(event for event in ends.happened if isinstance(event, CommandAsked))
    ends.site.refuse(asked, "plan 3 does not exist")
    ends.pump()
    assert refusals(ends) == ["plan 3 does not exist"]


def test_an_answer_to_a_command_of_a_connection_that_is_gone_goes_nowhere() -> None:
    ends = connected()
    ends.answer = False
    ends.ask(command("M0002", "setPlan", PLAN))
    asked = next(event for event in ends.happened if isinstance(event, CommandAsked))
    ends.connect()
    before = len(ends.wire)
    ends.site.accept(asked, ends.now)
    ends.site.refuse(asked, "late")
    ends.pump()
    assert len(ends.wire) == before


@pytest.mark.parametrize(
    ("code", "order", "arguments", "reason"),
    [
        ("M9999", "setPlan", PLAN, "unknown command code M9999"),
        ("M0002", "setplan", PLAN, "M0002 is setPlan, not setplan"),
        ("M0002", "setPlan", {"status": "True", "securityCode": CODE}, "M0002: timeplan is missing"),
        ("M0002", "setPlan", {**PLAN, "level": "1"}, "M0002: level is not known here"),
        ("M0002", "setPlan", {**PLAN, "timeplan": "256"}, "M0002: timeplan is 256, not 1 to 255"),
        ("M0002", "setPlan", {**PLAN, "status": "true"}, "M0002: status is true, not True or False"),
        ("M0002", "setPlan", {**PLAN, "securityCode": "1111"}, "Incorrect security code"),
        ("M0002", "setPlan", {**PLAN, "securityCode": ""}, "Incorrect security code"),
        ("M0002", "setPlan", {**PLAN, "securityCode": "é"}, "Incorrect security code"),
        (
            "M0022", "requestPriority", {"requestId": "1", "type": "new", "level": "99"},
            "M0022: level is 99, not 0 to 14",
        ),
        (
            "M0022", "requestPriority", {"requestId": "1", "type": "update", "signalGroupId": GROUP},
            "M0022: signalGroupId in update; only new refers to a movement",
        ),
    ],
)  # fmt: skip
def test_a_command_that_is_wrong_is_refused_and_not_carried_out(
    code: str, order: str, arguments: Mapping[str, str], reason: str
) -> None:
    ends = connected()
    said = m.CommandRequest(
        component=MAIN,
        arguments=tuple(m.CommandArgument(code, name, order, value) for name, value in arguments.items()),
    )
    ends.supervisor.send(said, ends.now)
    data = (
        ends.supervisor.data_to_send()
    )  # not held against the schemas: what they see of it is wrong on purpose
    ends.site.receive_data(data, ends.now)
    ends.carry_down()
    ends.pump()
    assert refusals(ends) == [reason]
    assert [event for event in ends.happened if isinstance(event, CommandAsked)] == []


def test_an_argument_that_stands_twice_is_refused() -> None:
    ends = connected()
    whole = command("M0002", "setPlan", PLAN)
    assert ends.ask(replace(whole, arguments=(*whole.arguments, whole.arguments[-1]))) == []
    assert refusals(ends) == ["M0002: timeplan stands twice"]


def test_several_commands_in_one_message_are_handed_on_together() -> None:
    ends = connected()
    both = replace(
        command("M0002", "setPlan", PLAN),
        arguments=(
            *command("M0002", "setPlan", PLAN).arguments,
            *command(
                "M0001",
                "setValue",
                {"status": "Dark", "securityCode": CODE, "timeout": "0", "intersection": "0"},
            ).arguments,
        ),
    )
    ends.ask(both)
    asked = next(event for event in ends.happened if isinstance(event, CommandAsked))
    assert [order.code for order in asked.orders] == ["M0002", "M0001"]


@pytest.mark.parametrize(
    ("component", "code", "order", "arguments", "age"),
    [
        ("nobody", "M0002", "setPlan", PLAN, Quality.UNDEFINED),
        (DETECTOR, "M0002", "setPlan", PLAN, Quality.UNKNOWN),
        (MAIN, "M0007", "setFixedTime", {"status": "True", "securityCode": CODE}, Quality.UNKNOWN),
    ],
)
def test_an_unknown_component_and_an_unimplemented_command_are_answered_so(
    component: str, code: str, order: str, arguments: Mapping[str, str], age: Quality
) -> None:
    ends = connected()
    (response,) = ends.ask(command(code, order, arguments, component))
    assert isinstance(response, m.CommandResponse)
    assert {(value.value, value.age) for value in response.values} == {(None, age)}
    assert [event for event in ends.happened if isinstance(event, CommandAsked)] == []


def test_security_codes_are_by_level_and_can_be_changed() -> None:
    ends = connected()
    change = {"status": "Level2", "oldSecurityCode": CODE, "newSecurityCode": "3333"}
    assert len(ends.ask(command("M0103", "setSecurityCode", change))) == 1
    ends.site.set_security_code(2, "3333")
    assert ends.ask(command("M0002", "setPlan", PLAN)) == []
    assert len(ends.ask(command("M0002", "setPlan", {**PLAN, "securityCode": "3333"}))) == 1
    date = {"year": "2026", "month": "1", "day": "1", "hour": "0", "minute": "0", "second": "0"}
    assert len(ends.ask(command("M0104", "setDate", {"securityCode": "1111", **date}))) == 1
    assert refusals(ends) == ["Incorrect security code"]


def test_a_site_that_has_no_code_of_a_level_carries_out_nothing_that_needs_it() -> None:
    ends = Ends(replace(settings(), security_codes={1: "1111"})).connect()
    assert ends.ask(command("M0002", "setPlan", {**PLAN, "securityCode": ""})) == []
    assert ends.ask(command("M0002", "setPlan", PLAN)) == []
    assert refusals(ends) == ["Incorrect security code"] * 2


# --- aggregated status, clock, the rest ---


def test_aggregated_status_is_told_when_it_changes_and_when_asked() -> None:
    ends = connected()
    before = len(ends.heard())
    ends.site.aggregate(HEALTHY, ends.now)
    ends.pump()
    assert len(ends.heard()) == before
    ends.site.aggregate((True, *HEALTHY[1:]), ends.now)
    ends.pump()
    told = ends.heard()[-1]
    assert isinstance(told, m.AggregatedStatus)
    assert told.elements[0] is True
    (asked,) = ends.ask(m.AggregatedStatusRequest(component=MAIN))
    assert isinstance(asked, m.AggregatedStatus)
    assert (asked.elements, asked.at) == (told.elements, told.at)
    assert asked.m_id != told.m_id
    assert ends.ask(m.AggregatedStatusRequest(component=DETECTOR)) == []
    assert refusals(ends) == [f"{DETECTOR} has no aggregated status"]
    with pytest.raises(LocalProtocolError):
        ends.site.aggregate((True,), ends.now)


def test_the_supervisors_clock_is_told_from_its_watchdog() -> None:
    assert ClockTold(START.utc_ms) in connected().happened


def test_a_site_is_a_site_and_has_its_main_component() -> None:
    whole = settings()
    wrong = (
        replace(whole, terms=replace(whole.terms, role=Role.SUPERVISOR)),
        replace(whole, main="nobody"),
    )
    for one in wrong:
        with pytest.raises(LocalProtocolError):
            Site(one, ALARMS, identities(), START)


def test_a_supervisor_that_acknowledges_nothing_ends_the_connection() -> None:
    ends = connected()
    subscribe(ends, on("stage"))
    for number in range(5000):
        ends.site.tell(MAIN, "S0001", {"stage": str(number % 1000)}, ends.now)
    closed = []
    while (event := ends.site.next_event()) is not NEED_DATA:
        closed += [event] if isinstance(event, Closed) else []
    assert [one.reason for one in closed] == ["4096 messages are not acknowledged"]
    assert not ends.site.open


def test_what_a_supervisor_does_not_say_is_refused_by_the_site_too() -> None:
    ends = connected()
    response = m.CommandResponse(m_id=identities()(), component=MAIN, at=m.stamp(0), values=())
    ends.site._judge(response)
    assert b"CommandResponse is nothing that a site takes" in ends.site.data_to_send()
    with pytest.raises(LocalProtocolError):
        Site(settings(), ALARMS, identities(), START)._wire()
