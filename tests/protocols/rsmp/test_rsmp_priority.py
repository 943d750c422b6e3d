"""M0022 and S0033 to and from the model, and the characters of S0001 (SXL 1.2.1)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.model.priority import ENDED, PriorityRequest, RequestState, RequestStatus, VehicleType
from protocols.rsmp import messages as m
from protocols.rsmp.codec import encode
from protocols.rsmp.priority import (
    REFERENCES,
    Order,
    PriorityOrder,
    cancel_arguments,
    new_arguments,
    order_of,
    requests_of,
    told,
    update_arguments,
)
from protocols.rsmp.signal_groups import GroupState, group_state
from protocols.rsmp.tlc import SXLS
from tests.rsmp_schemas import violations

requests = st.builds(
    PriorityRequest,
    st.uuids(version=4).map(str),
    st.just("KK+AG0503=001SG001"),
    st.integers(0, 14),
    st.none() | st.integers(0, 255),
    st.sampled_from(VehicleType),
)
moments = st.integers(0, m.MAX_UTC_MS)
statuses = st.one_of(
    st.builds(RequestStatus, st.text(max_size=8), st.sampled_from(RequestState), moments),
    st.builds(
        RequestStatus,
        st.text(max_size=8),
        st.just(RequestState.COMPLETED),
        moments,
        st.none() | st.integers(0, 255),
        st.none() | st.integers(0, 255),
    ),
)


def schema_faults(arguments: dict[str, str]) -> list[str]:
    ident = "be12ab9a-800c-4c19-8c50-adf832f22420"
    args = tuple(m.CommandArgument("M0022", n, "requestPriority", v) for n, v in arguments.items())
    return violations(encode(m.CommandRequest(m_id=ident, component="x", arguments=args)))


@given(requests)
def test_a_request_reaches_the_controller_as_it_was_meant(request: PriorityRequest) -> None:
    arguments = new_arguments(request)
    assert schema_faults(arguments) == []
    assert order_of(arguments) == PriorityOrder(
        order=Order.NEW,
        id=request.id,
        reference="signalGroupId",
        referred=request.signal_group,
        level=request.level,
        eta_s=request.eta_s,
        vehicle_type=request.vehicle_type,
    )
    arguments = update_arguments(request)
    assert schema_faults(arguments) == []
    assert order_of(arguments) == PriorityOrder(
        order=Order.UPDATE, id=request.id, level=request.level, eta_s=request.eta_s
    )
    assert order_of(cancel_arguments(request.id)) == PriorityOrder(order=Order.CANCEL, id=request.id)
    assert schema_faults(cancel_arguments(request.id)) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"type": "new", "level": "99", "inputId": "1"}, "level is 99, not 0 to 14"),
        ({"type": "new", "level": "-1", "inputId": "1"}, "level is -1"),
        ({"type": "new", "eta": "256", "inputId": "1"}, "eta is 256"),
        ({"type": "new", "approachId": "17"}, "approachId is 17"),
        ({"type": "new"}, "exactly one of"),
        ({"type": "new", "inputId": "1", "approachId": "1"}, "exactly one of"),
        ({"type": "new", "laneOutId": "1"}, "exactly one of"),
        ({"type": "new", "inputId": "1", "laneOutId": "1"}, "laneOutId without laneInId"),
        ({"type": "new", "inputId": ""}, "inputId is , no whole number"),
        ({"type": "new", "signalGroupId": "x", "vehicleType": "Bus"}, "vehicleType is Bus"),
        ({"type": "update", "inputId": "1"}, "inputId in update"),
        ({"type": "cancel", "laneOutId": "1"}, "laneOutId in cancel"),
        ({"type": "update", "vehicleType": "bus"}, "cannot be changed"),
        ({"type": "renew", "inputId": "1"}, "type is renew"),
        ({"inputId": "1"}, "type is missing"),
        ({"type": "new", "inputId": "1", "speed": "1"}, "speed is not known here"),
    ],
)
def test_a_request_that_breaks_the_lists_rules_is_none(arguments: dict[str, str], reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        order_of({"requestId": "1", **arguments})


@pytest.mark.parametrize("reference", REFERENCES)
def test_every_kind_of_reference_is_taken(reference: str) -> None:
    found = order_of({"requestId": "1", "type": "new", reference: "7", "priorityId": "3"})
    assert (found.reference, found.referred, found.lane_out, found.priority_id) == (reference, "7", None, 3)


def test_a_lane_may_lead_to_a_lane() -> None:
    found = order_of({"requestId": "1", "type": "new", "laneInId": "7", "laneOutId": "9"})
    assert (found.reference, found.referred, found.lane_out) == ("laneInId", "7", 9)


@given(st.lists(statuses, max_size=6, unique_by=lambda one: one.id).map(tuple))
def test_what_a_controller_tells_of_its_requests_is_read_as_it_was_meant(
    requests: tuple[RequestStatus, ...],
) -> None:
    value = told(requests)
    assert requests_of(value) == requests
    update = m.StatusUpdate(
        m_id="be12ab9a-800c-4c19-8c50-adf832f22420",
        component="x",
        at=m.stamp(0),
        values=(m.StatusValue("S0033", "status", value, m.Quality.RECENT),),
    )
    assert violations(encode(update)) == []


GOOD = {"r": "1", "t": "2026-01-01T00:00:00.000Z", "s": "queued"}


@pytest.mark.parametrize(
    "value",
    [
        None,
        "[]",
        json.dumps([GOOD]),
        [{**GOOD, "s": "waiting"}],
        [{**GOOD, "s": "Queued"}],
        [{**GOOD, "t": "2026-01-01T00:00:00Z"}],
        [{**GOOD, "t": "2026-13-01T00:00:00.000Z"}],
        [{**GOOD, "e": "256"}],
        [{**GOOD, "d": "-1"}],
        [{**GOOD, "d": "1.5"}],
        [{**GOOD, "x": "1"}],
        [{"r": "1", "s": "queued"}],
        [GOOD, GOOD],
    ],
)
def test_what_is_no_list_of_requests_is_none(value: m.Value) -> None:
    with pytest.raises(RemoteProtocolError):
        requests_of(value)


@pytest.mark.parametrize(
    "requests",
    [
        (RequestStatus("a", RequestState.QUEUED, 0, extension_s=3),),
        (RequestStatus("a", RequestState.ACTIVATED, 0, reduction_s=3),),
        (RequestStatus("a", RequestState.COMPLETED, 0, extension_s=256),),
        (RequestStatus("a", RequestState.QUEUED, 0), RequestStatus("a", RequestState.QUEUED, 0)),
    ],
)
def test_what_a_controller_must_not_tell_is_our_fault(requests: tuple[RequestStatus, ...]) -> None:
    with pytest.raises(LocalProtocolError):
        told(requests)


def test_every_character_of_s0001_is_known_and_no_other() -> None:
    (argument,) = (
        one for one in SXLS["1.2.1"].statuses["S0001"].arguments if one.name == "signalgroupstatus"
    )
    assert argument.pattern == "[a-hA-G0-9N-P-]*"
    characters = {*"abcdefgh", *"ABCDEFG", *"0123456789", *"NOP", "-"}
    assert {state.value for state in GroupState} == characters


def test_green_is_green_and_may_be_prolonged_until_its_end_is_decided() -> None:
    assert {state.value for state in GroupState if state.is_green} == {*"123456789"}
    assert {state.value for state in GroupState if state.may_be_extended} == {*"12345"}


def test_a_group_is_found_by_its_number_from_the_left() -> None:
    text = "1B-"
    states = [group_state(text, number) for number in range(5)]
    assert states == [
        GroupState.ABSENT, GroupState.MINIMUM_GREEN, GroupState.RED_REST, GroupState.ABSENT, GroupState.ABSENT,
    ]  # fmt: skip


def test_the_states_that_end_are_those_of_the_list() -> None:
    assert {state.value for state in ENDED} == {"completed", "timeout", "rejected", "cooldown", "stale"}
