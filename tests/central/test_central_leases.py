"""Priority rules are published under a lease that is visible, ends, and is renewed only if somebody said so."""

from datetime import timedelta

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from central import contact, drafts, leases, policies
from central.api.bodies import DesiredPolicy, PolicyStatus
from central.api.priority_bodies import LONGEST_LEASE_S, Priority, PriorityPublishRequest
from central.clock import moment
from central.errors import RequestError
from central.policies import POLICIES_KEPT, SigningKey
from protocols.backhaul.codec import decode_policy
from protocols.backhaul.messages import PolicyEvent, PolicyInForce, SignedPolicy
from protocols.backhaul.signing import is_signed_by, policy_hash, sign
from protocols.model.device import StreamClass
from protocols.model.ids import DeviceId, KeyId
from protocols.model.policy import Limits, Policy, PolicyKind, SignalLimit
from protocols.model.priority import PriorityPolicy
from protocols.rules.acceptance import Standing, judge
from tests.central.cabinet_double import START_MS, CabinetDouble, taken
from tests.central.desk import Desk
from tests.central.junctions import CAB, TRUNK, WEST, junction_cabinet

DAY_S = 86_400.0
DRAFT = Priority((WEST,), (TRUNK,))


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey(KeyId("centre"), Ed25519PrivateKey.generate())


@pytest.fixture
def cabinet() -> CabinetDouble:
    return junction_cabinet()


@pytest.fixture
def city(desk: Desk, cabinet: CabinetDouble) -> Desk:
    desk.deliver(cabinet.hello())
    desk.do(lambda tx: drafts.put(tx, CAB, DRAFT))
    return desk


def publish(city: Desk, key: SigningKey, **wanted: object) -> SignedPolicy:
    request = msgspec.convert(wanted, PriorityPublishRequest)
    city.do(
        lambda tx: policies.publish(tx, CAB, PolicyKind.PRIORITY, key, leases.terms_of(tx, request)),
    )
    (signed,) = sent(city)
    return signed


def sent(city: Desk) -> list[SignedPolicy]:
    city.do(policies.send_due)
    return [decode_policy(message.payload) for message in city.effects.down]


def renewed(city: Desk, key: SigningKey | None) -> list[SignedPolicy]:
    city.do(lambda tx: leases.renew_due(tx, key))
    return sent(city)


def body(signed: SignedPolicy) -> Policy:
    return msgspec.json.decode(signed.body, type=Policy)


def desired(city: Desk) -> DesiredPolicy:
    (one,) = policies.read(city.db, CAB, city.clock.utc_ms).desired
    return one


def answer(city: Desk, cabinet: CabinetDouble, signed: SignedPolicy, *reasons: str) -> None:
    version = body(signed).version
    event = PolicyEvent("priority", version, policy_hash(signed.body), not reasons, reasons, START_MS)
    city.deliver(cabinet.message(cabinet.seal_event(event), StreamClass.EVENTS))


def standing(cabinet: CabinetDouble, key: SigningKey, *limits: SignalLimit) -> Standing:
    return Standing(CAB, [key.trusted()], {}, [], Limits(signal=limits), cabinet.inventory)


def test_a_draft_becomes_a_signed_policy_with_a_lease_of_a_week(city: Desk, key: SigningKey) -> None:
    signed = publish(city, key)
    assert is_signed_by(signed, key.trusted())
    assert body(signed) == Policy(
        cabinet=CAB,
        kind=PolicyKind.PRIORITY,
        version=1,
        not_before_ms=START_MS,
        expires_ms=START_MS + round(7 * DAY_S * 1000),
        key=key.id,
        priority=PriorityPolicy((WEST,), (TRUNK,), START_MS + round(7 * DAY_S * 1000)),
    )


def test_nothing_is_to_be_accepted_when_its_lease_is_over(city: Desk, key: SigningKey) -> None:
    policy = body(publish(city, key, lease_s=3_600))
    assert policy.priority is not None
    assert policy.expires_ms == policy.priority.lease_until_ms == START_MS + 3_600_000


def test_what_is_published_is_accepted_by_the_cabinets_own_judgement(
    city: Desk, cabinet: CabinetDouble, key: SigningKey
) -> None:
    signed = publish(city, key)
    assert judge(signed, standing(cabinet, key), START_MS) == body(signed)


def test_what_the_cabinets_limits_forbid_is_rejected_there_and_shown_here(
    city: Desk, cabinet: CabinetDouble, key: SigningKey
) -> None:
    signed = publish(city, key)
    reasons = judge(signed, standing(cabinet, key, SignalLimit("rsmp-1", max_level=5)), START_MS)
    assert isinstance(reasons, list)
    answer(city, cabinet, signed, *reasons)
    assert (desired(city).status, desired(city).reasons) == (PolicyStatus.REJECTED, reasons)


def test_every_fault_of_a_draft_is_named_when_it_is_published(city: Desk, key: SigningKey) -> None:
    lost = msgspec.structs.replace(WEST, id="lost", junction=DeviceId("cab-2-junction"))
    lamp = msgspec.structs.replace(WEST, id="dark", junction=DeviceId("cab-1-lamp-0"), stop_line_m=900.0)
    blind = msgspec.structs.replace(WEST, check_in_detector="loop-7")
    rules = (TRUNK, msgspec.structs.replace(TRUNK, id="ghost", approach="nowhere"))
    city.do(lambda tx: drafts.put(tx, CAB, Priority((blind, lost, lamp), rules)))
    with pytest.raises(RequestError) as refused:
        publish(city, key)
    assert refused.value.status == 422
    assert [fault.where for fault in refused.value.faults] == [
        "approaches.west.check_in_detector",
        "approaches.lost.junction",
        "approaches.dark.junction",
        "approaches.dark.stop_line_m",
        "rules.ghost.approach",
    ]
    assert city.ask("SELECT count(*) FROM policy") == [(0,)]


def test_each_kind_is_numbered_for_itself_above_what_the_cabinet_reports(
    city: Desk, cabinet: CabinetDouble, key: SigningKey
) -> None:
    cabinet.policies = (PolicyInForce("lighting", 90, "aa"), PolicyInForce("priority", 41, "bb"))
    city.deliver(cabinet.hello())
    assert body(publish(city, key)).version == 42


@pytest.mark.parametrize(
    ("wanted", "where"),
    [
        ({"lease_s": 60.0, "lease_until": moment(START_MS + 60_000)}, "lease_until"),
        ({"lease_until": moment(START_MS + 90_000), "renew": True}, "renew"),
        ({"lease_until": moment(START_MS - 1)}, "lease_until"),
        ({"lease_until": moment(START_MS) + timedelta(seconds=LONGEST_LEASE_S + 1)}, "lease_until"),
    ],
)
def test_a_lease_that_makes_no_sense_is_refused(
    city: Desk, key: SigningKey, wanted: dict[str, object], where: str
) -> None:
    with pytest.raises(RequestError) as refused:
        publish(city, key, **wanted)
    assert (refused.value.status, [fault.where for fault in refused.value.faults]) == (422, [where])
    assert city.ask("SELECT count(*) FROM policy") == [(0,)]


def test_a_lease_may_end_at_a_named_moment(city: Desk, key: SigningKey) -> None:
    publish(city, key, lease_until=moment(START_MS + 90_000))
    assert desired(city).lease_until == moment(START_MS + 90_000)
    assert desired(city).renews is None


def test_the_end_of_a_lease_shows_on_the_policy_the_report_and_the_cabinet(
    city: Desk, cabinet: CabinetDouble, key: SigningKey
) -> None:
    answer(city, cabinet, publish(city, key, lease_s=3_600))
    until = moment(START_MS + 3_600_000)
    shown = policies.read(city.db, CAB, city.clock.utc_ms)
    assert (shown.desired[0].status, shown.desired[0].lease_until) == (PolicyStatus.IN_FORCE, until)
    assert shown.reported[0].lease_until == until
    found = contact.find(city.db, CAB)
    assert found is not None
    assert contact.summary(found, city.clock.utc_ms).priority_until == until


def test_a_lease_that_is_over_shows_as_over_and_nothing_is_sent_for_it(
    city: Desk, cabinet: CabinetDouble, key: SigningKey
) -> None:
    signed = publish(city, key, lease_s=3_600)
    answer(city, cabinet, signed)
    city.clock.pass_s(3_600)
    assert desired(city).status is PolicyStatus.LEASE_OVER
    for reported in ((PolicyInForce("priority", 1, policy_hash(signed.body)),), ()):
        cabinet.policies = reported
        city.deliver(cabinet.hello())
        assert renewed(city, key) == []
    assert desired(city).status is PolicyStatus.LAPSED


class TestRenewal:
    """The same content, a new version, another lease: each time half of the lease is over."""

    def test_it_is_signed_again_when_half_of_the_lease_is_over(
        self, city: Desk, cabinet: CabinetDouble, key: SigningKey
    ) -> None:
        first = publish(city, key, lease_s=3_600, renew=True)
        answer(city, cabinet, first)
        assert desired(city).renews == moment(START_MS + 1_800_000)
        city.do(lambda tx: drafts.put(tx, CAB, Priority()))
        city.clock.pass_s(1_799)
        assert renewed(city, key) == []
        city.clock.pass_s(1)
        (again,) = renewed(city, key)
        was, now = body(first), body(again)
        assert is_signed_by(again, key.trusted())
        assert (now.version, now.not_before_ms, now.expires_ms) == (
            2,
            START_MS + 1_800_000,
            START_MS + 5_400_000,
        )
        assert (was.priority, now.priority) != (None, None)
        assert now.priority == msgspec.structs.replace(was.priority, lease_until_ms=START_MS + 5_400_000)  # type: ignore[type-var]  # not None
        assert renewed(city, key) == []

    def test_it_goes_on_while_the_cabinet_is_away(self, city: Desk, key: SigningKey) -> None:
        publish(city, key, lease_s=3_600, renew=True)
        for version in range(2, 5):
            city.clock.pass_s(1_800)
            (again,) = renewed(city, key)
            assert body(again).version == version

    @pytest.mark.parametrize("stop", ["publish", "reject", "envelope"])
    def test_it_stops_when_something_else_is_wanted_or_the_cabinet_rejects_it(
        self, city: Desk, cabinet: CabinetDouble, key: SigningKey, stop: str
    ) -> None:
        signed = publish(city, key, lease_s=3_600, renew=True)
        if stop == "publish":
            publish(city, key, lease_s=3_600)
        elif stop == "reject":
            answer(city, cabinet, signed, "rules.trunk-lines.level: above the limit")
        else:
            away = msgspec.structs.replace(body(signed), version=9)
            elsewhere = sign(away, key.private)
            city.do(lambda tx: policies.accept_envelope(tx, CAB, elsewhere, key))
        sent(city)
        city.clock.pass_s(1_800)
        city.do(lambda tx: leases.renew_due(tx, key))
        assert city.effects.down == []
        assert desired(city).renews is None

    def test_without_a_key_it_waits_for_one(self, city: Desk, key: SigningKey) -> None:
        publish(city, key, lease_s=3_600, renew=True)
        city.clock.pass_s(1_800)
        city.do(lambda tx: leases.renew_due(tx, None))
        assert body(renewed(city, key)[-1]).version == 2

    def test_what_cannot_be_numbered_any_more_is_renewed_no_more_and_harms_nobody(
        self, city: Desk, cabinet: CabinetDouble, key: SigningKey
    ) -> None:
        publish(city, key, lease_s=3_600, renew=True)
        cabinet.policies = (PolicyInForce("priority", 2**53 - 1, "bb"),)
        city.deliver(cabinet.hello())
        city.clock.pass_s(1_800)
        city.do(lambda tx: leases.renew_due(tx, key))
        assert desired(city).renews is None
        with pytest.raises(RequestError) as refused:
            publish(city, key)
        assert refused.value.status == 409

    def test_old_versions_give_way(
        self, city: Desk, key: SigningKey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert POLICIES_KEPT > 10
        monkeypatch.setattr(policies, "POLICIES_KEPT", 3)
        publish(city, key, lease_s=60, renew=True)
        for _ in range(6):
            city.clock.pass_s(30)
            renewed(city, key)
        assert city.ask("SELECT version FROM policy ORDER BY version") == [(5,), (6,), (7,)]


def test_a_report_of_a_version_that_no_cabinet_reaches_is_refused_and_its_batch_is_kept(
    city: Desk, cabinet: CabinetDouble
) -> None:
    told = PolicyEvent("priority", 2**53, "", accepted=True, reasons=(), at_ms=START_MS)
    cabinet.seal([taken(cabinet.lamp(), 3)], [told])
    city.deliver(cabinet.message(1))
    assert city.values(cabinet.lamp()) == [3]
    assert city.ask("SELECT count(*) FROM policy_report") == [(0,)]
    assert city.ingest.counts.refused() == {"beyond_bounds": 1}


def test_what_is_due_is_found_by_an_index(city: Desk) -> None:
    """Twice a second, among all the policies of a city."""
    for column in ("send_ms", "renew_ms"):
        question = f"EXPLAIN QUERY PLAN SELECT * FROM policy WHERE {column} <= 1 ORDER BY {column} LIMIT 9"  # noqa: S608  our own words
        assert "USING INDEX" in str(city.ask(question))


def test_a_version_that_no_cabinet_reaches_is_refused(city: Desk, cabinet: CabinetDouble) -> None:
    cabinet.policies = (PolicyInForce("priority", 2**60, "bb"),)
    city.deliver(cabinet.hello())
    assert city.ingest.counts.refused() == {"beyond_bounds": 1}


class TestEnvelopes:
    """Priority that was signed elsewhere is taken as lighting is."""

    def _signed(self, key: SigningKey, **changes: object) -> SignedPolicy:
        content = PriorityPolicy((WEST,), (TRUNK,), START_MS + 60_000)
        policy = Policy(CAB, PolicyKind.PRIORITY, 5, START_MS, START_MS + 60_000, key.id, None, content)
        return sign(msgspec.structs.replace(policy, **changes), key.private)

    def test_it_becomes_the_one_that_is_wanted_with_its_lease(self, city: Desk, key: SigningKey) -> None:
        signed = self._signed(key)
        city.do(lambda tx: policies.accept_envelope(tx, CAB, signed, None))
        assert sent(city) == [signed]
        assert (desired(city).version, desired(city).lease_until) == (5, moment(START_MS + 60_000))

    def test_a_lease_that_is_over_is_refused(self, city: Desk, key: SigningKey) -> None:
        signed = self._signed(key, priority=PriorityPolicy((WEST,), (TRUNK,), START_MS))
        with pytest.raises(RequestError) as refused:
            city.do(lambda tx: policies.accept_envelope(tx, CAB, signed, key))
        assert [fault.where for fault in refused.value.faults] == ["body.priority.lease_until_ms"]

    def test_it_is_sent_no_more_when_its_lease_is_over_though_it_might_still_be_accepted(
        self, city: Desk, key: SigningKey
    ) -> None:
        signed = self._signed(key, expires_ms=START_MS + 3_600_000)
        city.do(lambda tx: policies.accept_envelope(tx, CAB, signed, key))
        city.clock.pass_s(60)
        assert sent(city) == []
        assert desired(city).status is PolicyStatus.LAPSED

    def test_what_the_cabinet_would_reject_is_refused(self, city: Desk, key: SigningKey) -> None:
        far = msgspec.structs.replace(WEST, junction=DeviceId("cab-2-junction"))
        signed = self._signed(key, priority=PriorityPolicy((far,), (TRUNK,), START_MS + 60_000))
        with pytest.raises(RequestError) as refused:
            city.do(lambda tx: policies.accept_envelope(tx, CAB, signed, key))
        assert [fault.where for fault in refused.value.faults] == ["approaches.west.junction"]

    def test_content_of_another_kind_is_refused(self, city: Desk, key: SigningKey) -> None:
        signed = self._signed(key, kind=PolicyKind.LIGHTING)
        with pytest.raises(RequestError) as refused:
            city.do(lambda tx: policies.accept_envelope(tx, CAB, signed, key))
        assert refused.value.status == 422
        assert len(refused.value.faults) == 2
