"""A command's way: nothing goes back, nothing that ended begins again."""

import math
from itertools import product

import msgspec
import pytest

from protocols.errors import LocalProtocolError
from protocols.model.command import ENDED, NEXT, Command, CommandState, advance, may_follow
from protocols.model.ids import CommandId, DeviceId, PointName

S = CommandState
ALLOWED = {
    (S.QUEUED, S.SENT),
    *product((S.QUEUED, S.SENT), (S.EXECUTING, S.EXPIRED, S.REJECTED)),
    *product((S.QUEUED, S.SENT, S.EXECUTING), (S.APPLIED, S.VERIFIED, S.FAILED, S.OUTCOME_UNKNOWN)),
    (S.APPLIED, S.VERIFIED),
}
COMMAND = Command(CommandId("c1"), DeviceId("lamp-01"), PointName("dimming_level"), 40, "operator:anna", 1)


@pytest.mark.parametrize(("now", "following"), list(product(S, S)))
def test_a_command_goes_only_where_the_table_says(now: S, following: S) -> None:
    assert may_follow(now, following) == ((now, following) in ALLOWED)
    if (now, following) in ALLOWED:
        assert advance(now, following) is following
    else:
        with pytest.raises(LocalProtocolError, match=f"{now.value} cannot become {following.value}"):
            advance(now, following)


def test_no_command_ever_comes_back_to_a_state_that_it_had() -> None:
    for state in S:
        reached, front = set(), set(NEXT[state])
        while front:
            reached |= front
            front = {after for one in front for after in NEXT[one]} - reached
        assert state not in reached


def test_nobody_waits_for_a_command_that_has_ended() -> None:
    assert {S.VERIFIED, S.APPLIED, S.FAILED, S.EXPIRED, S.REJECTED, S.OUTCOME_UNKNOWN} == ENDED


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": math.nan},
        {"value": math.inf},
        {"value": 10**30},
        {"value": "x" * 257},
        {"until_ms": 2**53},
        {"expires_ms": -1},
        {"ramp_s": 91},
        {"issuer": ""},
        {"id": "A b"},
        {"device": "lamp-01\n"},
    ],
)
def test_what_no_store_and_no_wire_could_hold_is_refused_from_afar(wrong: dict[str, object]) -> None:
    document = {**msgspec.to_builtins(COMMAND), **wrong}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(document, Command)


@pytest.mark.parametrize("value", [40, 40.5, True, False, "auto", None, -1, 10**15])
def test_what_can_be_asked_for_keeps_its_type(value: object) -> None:
    found = msgspec.convert({**msgspec.to_builtins(COMMAND), "value": value}, Command).value
    assert found == value
    assert type(found) is type(value)
