"""Whether a priority policy makes sense for a cabinet, and keeps to its limits file: every fault is named."""

import math

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from protocols.backhaul.signing import TrustedKey, sign
from protocols.model.ids import CabinetId, DeviceId, KeyId
from protocols.model.policy import Limits, Policy, PolicyKind, SignalLimit
from protocols.model.priority import Approach, PriorityPolicy, PriorityRule, Waypoint
from protocols.rules.acceptance import Standing, judge
from protocols.rules.limits import (
    bounded_rule,
    priority_limit_faults,
    requests_allowed,
    signal_limits_of,
)
from protocols.rules.soundness import misplaced_content, priority_faults
from tests.protocols.rules.priority.junction_bench import (
    APPROACH,
    LOOP,
    NO_LIMITS,
    POLICY,
    RULE,
    SITE,
    place,
)

DEVICES = (SITE, LOOP, msgspec.structs.replace(LOOP, id=DeviceId("loop-2")))
KEY = KeyId("city-2026")
SECRET = Ed25519PrivateKey.from_private_bytes(bytes(32))
LIMIT = SignalLimit("tlc-1", "site-1", "1")


def approach(**parts: object) -> PriorityPolicy:
    return msgspec.structs.replace(POLICY, approaches=(msgspec.structs.replace(APPROACH, **parts),))


def rule(**parts: object) -> PriorityPolicy:
    return msgspec.structs.replace(POLICY, rules=(msgspec.structs.replace(RULE, **parts),))


def test_a_sound_policy_has_no_fault() -> None:
    assert priority_faults(POLICY, DEVICES) == []
    assert priority_faults(PriorityPolicy((), (), 0), ()) == []


@pytest.mark.parametrize(
    ("policy", "fault"),
    [
        (approach(junction="nowhere"), "approaches.north.junction: this cabinet has no device 'nowhere'"),
        (approach(junction="loop-1"), "approaches.north.junction: loop-1 is a detector"),
        (
            approach(check_in_detector="loop-9"),
            "approaches.north.check_in_detector: no device of this cabinet has a point for 'loop-9'",
        ),
        (
            approach(check_out_detector="loop-1/speed"),
            "approaches.north.check_out_detector: no device of this cabinet has a point for 'loop-1/speed'",
        ),
        (
            approach(check_out_detector="loop-1"),
            "approaches.north.check_out_detector: 'loop-1' cannot be both before and behind",
        ),
        (approach(stop_line_m=401.0), "approaches.north.stop_line_m: 401 m, the path has 400 m"),
        (
            approach(stop_line_m=395.0),
            "approaches.north.check_out_m: 415 m from the beginning, the path has 400 m",
        ),
        (approach(check_in_m=310.0), "approaches.north.check_in_m: 10 m before the path begins"),
        (approach(path=(place(0), place(0))), "approaches.north.path: all its waypoints are the same place"),
        (rule(approach="south"), "rules.buses.approach: there is no approach 'south'"),
        (
            approach(check_in_detector=""),
            "rules.buses.by_detector: approach north has no check_in_detector",
        ),
        (
            rule(green_extension=False, early_green=False),
            "rules.buses: neither green_extension nor early_green, so it would never ask for anything",
        ),
        (
            msgspec.structs.replace(POLICY, approaches=(APPROACH, APPROACH)),
            "approaches: 'north' stands 2 times",
        ),
        (msgspec.structs.replace(POLICY, rules=(RULE, RULE)), "rules: 'buses' stands 2 times"),
    ],
)
def test_each_fault_is_named_with_its_place(policy: PriorityPolicy, fault: str) -> None:
    assert priority_faults(policy, DEVICES) == [fault]


def test_every_fault_is_named_at_once() -> None:
    policy = msgspec.structs.replace(
        approach(junction="nowhere", check_in_m=310.0), rules=rule(approach="x").rules
    )
    assert len(priority_faults(policy, DEVICES)) == 3


def test_more_than_can_be_gone_by_is_refused() -> None:
    approaches = tuple(msgspec.structs.replace(APPROACH, id=f"a-{n}") for n in range(65))
    rules = tuple(msgspec.structs.replace(RULE, id=f"r-{n}", approach="a-0") for n in range(257))
    faults = priority_faults(PriorityPolicy(approaches, rules, 0), DEVICES)
    assert faults == [
        "approaches: 65 of them, at most 64 are gone by",
        "rules: 257 of them, at most 256 are gone by",
    ]


def test_a_path_across_the_earth_is_refused() -> None:
    path = (place(0), Waypoint(48.0, 6.0))
    assert priority_faults(approach(path=path), DEVICES) == [
        "approaches.north.path: 104.1 km long, at most 5 km are gone by"
    ]


@given(st.floats(20, 800), st.floats(0, 100), st.floats(1, 2000))
def test_a_sound_approach_has_its_check_in_and_check_out_on_its_path(
    check_in_m: float, check_out_m: float, stop_line_m: float
) -> None:
    wanted = approach(check_in_m=check_in_m, check_out_m=check_out_m, stop_line_m=stop_line_m)
    on_it = check_in_m <= stop_line_m and stop_line_m + check_out_m <= 399.9
    if on_it:
        assert priority_faults(wanted, DEVICES) == []
    elif check_in_m > stop_line_m or stop_line_m + check_out_m > 400.1:
        assert priority_faults(wanted, DEVICES)


class TestLimits:
    @pytest.mark.parametrize(
        ("parts", "named"),
        [
            ({}, True),
            ({"address": "*"}, True),
            ({"signal_group": "*"}, True),
            ({"line": "tlc-2"}, False),
            ({"address": "site-2"}, False),
            ({"signal_group": "2"}, False),
        ],
    )
    def test_a_limit_names_line_controller_and_group(self, parts: dict[str, str], named: bool) -> None:
        limit = msgspec.structs.replace(LIMIT, **parts)
        assert (signal_limits_of(Limits(signal=(limit,)), SITE, "1") == [limit]) is named

    def test_where_several_name_a_group_the_strictest_of_each_holds(self) -> None:
        named = [
            SignalLimit("tlc-1", max_level=5, min_cooldown_s=100, max_extension_s=30),
            SignalLimit(
                "tlc-1", max_level=9, max_grants_per_hour=10, max_time_to_live_s=60, max_extension_s=9
            ),
        ]
        bounded = bounded_rule(RULE, named)
        assert (bounded.level, bounded.cooldown_s, bounded.max_extension_s) == (5, 100, 9)
        assert (bounded.grants_per_hour, bounded.time_to_live_s) == (10, 60)
        assert bounded_rule(RULE, []) == RULE

    @given(
        st.builds(
            SignalLimit,
            st.just("tlc-1"),
            max_level=st.integers(0, 14),
            max_extension_s=st.integers(0, 60),
            min_cooldown_s=st.integers(0, 600),
            max_grants_per_hour=st.integers(0, 240),
            max_time_to_live_s=st.integers(5, 255),
        )
    )
    def test_a_rule_within_its_bounds_breaks_no_limit(self, limit: SignalLimit) -> None:
        bounded = bounded_rule(RULE, [limit])
        within = msgspec.structs.replace(POLICY, rules=(bounded,))
        assert priority_limit_faults(Limits(signal=(limit,)), within, DEVICES) == []
        assert bounded.level <= RULE.level
        assert bounded.cooldown_s >= RULE.cooldown_s

    @pytest.mark.parametrize(
        ("limit", "fault"),
        [
            ({"priority": False}, "approach: the limits file allows no request for tlc-1/site-1/1"),
            ({"max_level": 6}, "level: 7 is above the limit of 6 for tlc-1/site-1/1"),
            ({"max_extension_s": 14}, "max_extension_s: 15 is above the limit of 14 for tlc-1/site-1/1"),
            ({"max_grants_per_hour": 39}, "grants_per_hour: 40 is above the limit of 39 for tlc-1/site-1/1"),
            ({"max_time_to_live_s": 119}, "time_to_live_s: 120 is above the limit of 119 for tlc-1/site-1/1"),
            ({"min_cooldown_s": 91}, "cooldown_s: 90 is below the limit of 91 for tlc-1/site-1/1"),
        ],
    )
    def test_each_bound_that_a_rule_breaks_is_named(self, limit: dict[str, object], fault: str) -> None:
        limits = Limits(signal=(msgspec.structs.replace(LIMIT, **limit),))
        assert priority_limit_faults(limits, POLICY, DEVICES) == [f"rules.buses.{fault}"]

    def test_what_only_watches_needs_no_leave(self) -> None:
        limits = Limits(signal=(msgspec.structs.replace(LIMIT, priority=False),))
        assert priority_limit_faults(limits, rule(shadow=True), DEVICES) == []
        assert not requests_allowed(limits.signal)


class TestAcceptance:
    def judged(self, policy: PriorityPolicy, limits: Limits = NO_LIMITS) -> Policy | list[str]:
        trusted = TrustedKey(KEY, SECRET.public_key().public_bytes_raw(), frozenset({PolicyKind.PRIORITY}))
        standing = Standing(CabinetId("dijon-0001"), (trusted,), {}, (), limits, DEVICES)
        body = Policy(CabinetId("dijon-0001"), PolicyKind.PRIORITY, 1, 0, 2**50, KEY, priority=policy)
        return judge(sign(body, SECRET), standing, 1)

    def test_a_sound_policy_within_limits_is_gone_by(self) -> None:
        verdict = self.judged(POLICY)
        assert isinstance(verdict, Policy)
        assert verdict.priority == POLICY

    def test_an_unsound_one_is_refused_with_every_reason(self) -> None:
        assert self.judged(approach(junction="nowhere")) == [
            "approaches.north.junction: this cabinet has no device 'nowhere'"
        ]

    def test_one_with_the_content_of_another_kind_is_refused(self) -> None:
        body = Policy(CabinetId("dijon-0001"), PolicyKind.PRIORITY, 1, 0, 1, KEY)
        assert misplaced_content(body) == ["priority: missing, and the policy is of this kind"]
        lighting = msgspec.structs.replace(body, kind=PolicyKind.LIGHTING, priority=POLICY)
        assert misplaced_content(lighting) == [
            "lighting: missing, and the policy is of this kind",
            "priority: not in a policy of kind lighting",
        ]

    def test_one_beyond_the_limits_is_refused(self) -> None:
        limits = Limits(signal=(msgspec.structs.replace(LIMIT, max_level=1),))
        assert self.judged(POLICY, limits) == [
            "rules.buses.level: 7 is above the limit of 1 for tlc-1/site-1/1"
        ]


def test_numbers_that_are_none_are_refused_where_a_policy_is_read() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({**msgspec.structs.asdict(APPROACH), "check_in_m": value}, Approach)
    assert msgspec.convert(msgspec.to_builtins(RULE), PriorityRule) == RULE
