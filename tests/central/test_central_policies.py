"""What is wanted of a cabinet is checked, numbered, signed, sent, and compared with what it reports."""

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from central import drafts, lighting, policies
from central.api.bodies import Lighting, PolicyStatus
from central.errors import RequestError
from central.policies import SigningKey, Terms
from protocols.backhaul.codec import decode_policy
from protocols.backhaul.messages import PolicyEvent, PolicyInForce, SignedPolicy
from protocols.backhaul.signing import policy_hash, sign
from protocols.clock import Instant
from protocols.model.device import StreamClass
from protocols.model.ids import CabinetId, KeyId
from protocols.model.lighting import (
    AbsolutePeriod,
    Assignment,
    AstroClockPeriod,
    Calendar,
    CalendarRule,
    ControlProgram,
    Lamp,
    LightingPolicy,
    Place,
    Weekday,
)
from protocols.model.policy import LampLimit, Limits, Policy, PolicyKind
from protocols.rules.acceptance import Standing, judge
from protocols.rules.lighting import decide
from tests.central.cabinet_double import START_MS, CabinetDouble
from tests.central.desk import Desk

CAB = CabinetId("cab-1")
DIJON = Place(47.32, 5.04, "Europe/Paris")
EVENING = ControlProgram("evening", (AstroClockPeriod(level=100),))
LATE = ControlProgram("late", (AbsolutePeriod("18:00", "02:00", level=60),))
UNUSED = ControlProgram("unused", (AstroClockPeriod(level=1),))
YEAR = Calendar("year", "evening", (CalendarRule("late", weekdays=(Weekday.SAT,)),))
ELSEWHERE = Calendar("elsewhere", "unused")
DRAFT = Lighting(DIJON, (Assignment("year", groups=("street",)),), default_level=70)
WEEK_S = 7 * 86_400.0


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey(KeyId("centre"), Ed25519PrivateKey.generate())


@pytest.fixture
def city(desk: Desk, cabinet: CabinetDouble) -> Desk:
    desk.deliver(cabinet.hello())
    for program in (EVENING, LATE, UNUSED):
        desk.do(lambda tx, p=program: lighting.put_program(tx, p))  # type: ignore[misc]  # a lambda with a default
    desk.do(lambda tx: lighting.put_calendar(tx, YEAR))
    desk.do(lambda tx: lighting.put_calendar(tx, ELSEWHERE))
    desk.do(lambda tx: drafts.put(tx, CAB, DRAFT))
    return desk


def publish(desk: Desk, key: SigningKey) -> SignedPolicy:
    desk.do(lambda tx: policies.publish(tx, CAB, PolicyKind.LIGHTING, key, Terms(WEEK_S)))
    (signed,) = sent(desk)
    return signed


def sent(desk: Desk) -> list[SignedPolicy]:
    desk.do(policies.send_due)
    return [decode_policy(message.payload) for message in desk.effects.down]


def desired(desk: Desk) -> tuple[int, PolicyStatus, list[str]]:
    (one,) = policies.read(desk.db, CAB, desk.clock.utc_ms).desired
    return one.version, one.status, one.reasons


def report(desk: Desk, cabinet: CabinetDouble, signed: SignedPolicy, *reasons: str) -> None:
    version = msgspec.json.decode(signed.body, type=Policy).version
    event = PolicyEvent("lighting", version, policy_hash(signed.body), not reasons, reasons, START_MS)
    desk.deliver(cabinet.message(cabinet.seal_event(event), StreamClass.EVENTS))


def standing(cabinet: CabinetDouble, key: SigningKey, highest: int = 0, *limits: LampLimit) -> Standing:
    lamps = [Lamp(d.id, d.line, d.address, d.groups) for d in cabinet.inventory]
    return Standing(CAB, [key.trusted()], {PolicyKind.LIGHTING: highest}, lamps, Limits(limits))


def test_what_is_published_is_accepted_by_the_cabinets_own_judgement(
    city: Desk, cabinet: CabinetDouble, key: SigningKey
) -> None:
    policy = judge(publish(city, key), standing(cabinet, key), START_MS)
    assert isinstance(policy, Policy)
    assert policy.lighting == LightingPolicy(DIJON, (EVENING, LATE), (YEAR,), DRAFT.assignments, 70)
    assert (policy.version, policy.not_before_ms, policy.expires_ms) == (
        1,
        START_MS,
        START_MS + round(1000 * WEEK_S),
    )


def test_what_the_cabinets_limits_forbid_is_rejected_there_and_shown_here(
    city: Desk, cabinet: CabinetDouble, key: SigningKey
) -> None:
    signed = publish(city, key)
    limit = LampLimit("dali-1", maximum_level=50, switch_off=True)
    reasons = judge(signed, standing(cabinet, key, 0, limit), START_MS)
    assert isinstance(reasons, list)
    report(city, cabinet, signed, *reasons)
    assert desired(city) == (1, PolicyStatus.REJECTED, reasons)
    city.clock.pass_s(3_600)
    assert sent(city) == []


def test_a_rejection_that_names_only_the_bytes_is_that_of_the_policy_with_these_bytes(
    city: Desk, cabinet: CabinetDouble, key: SigningKey
) -> None:
    """A cabinet repeats no kind and version from a body that it does not believe."""
    signed = publish(city, key)
    event = PolicyEvent("", 0, policy_hash(signed.body), accepted=False, reasons=("no",), at_ms=START_MS)
    city.deliver(cabinet.message(cabinet.seal_event(event), StreamClass.EVENTS))
    assert desired(city) == (1, PolicyStatus.REJECTED, ["no"])
    (shown,) = policies.read(city.db, CAB, city.clock.utc_ms).reports
    assert (shown.kind, shown.version) == ("lighting", 1)
    city.clock.pass_s(3_600)
    assert sent(city) == []


def test_an_accepted_policy_is_in_force_and_not_sent_again(
    city: Desk, cabinet: CabinetDouble, key: SigningKey
) -> None:
    signed = publish(city, key)
    assert desired(city) == (1, PolicyStatus.PENDING, [])
    report(city, cabinet, signed)
    assert desired(city) == (1, PolicyStatus.IN_FORCE, [])
    city.clock.pass_s(3_600)
    assert sent(city) == []


def test_it_is_sent_again_until_it_is_answered(city: Desk, key: SigningKey) -> None:
    signed = publish(city, key)
    assert sent(city) == []
    city.clock.pass_s(5)
    assert sent(city) == [signed]


def test_to_a_cabinet_that_is_away_it_is_sent_when_it_says_hello(
    city: Desk, cabinet: CabinetDouble, key: SigningKey
) -> None:
    city.deliver(cabinet.presence(online=False))
    city.do(lambda tx: policies.publish(tx, CAB, PolicyKind.LIGHTING, key, Terms(WEEK_S)))
    assert sent(city) == []
    city.deliver(cabinet.hello())
    assert len(sent(city)) == 1


def test_a_hello_that_reports_it_in_force_ends_the_sending(
    city: Desk, cabinet: CabinetDouble, key: SigningKey
) -> None:
    signed = publish(city, key)
    cabinet.policies = (PolicyInForce("lighting", 1, policy_hash(signed.body)),)
    city.deliver(cabinet.hello())
    assert desired(city) == (1, PolicyStatus.IN_FORCE, [])
    assert sent(city) == []


def test_a_hello_that_reports_something_else_has_it_sent_again(
    city: Desk, cabinet: CabinetDouble, key: SigningKey
) -> None:
    signed = publish(city, key)
    report(city, cabinet, signed)
    cabinet.policies = (PolicyInForce("lighting", 0, "restored-card"),)
    city.deliver(cabinet.hello())
    assert sent(city) == [signed]


@pytest.mark.parametrize("source", ["hello", "rejection"])
def test_versions_go_above_the_highest_that_the_cabinet_reports(
    city: Desk, cabinet: CabinetDouble, key: SigningKey, source: str
) -> None:
    if source == "hello":
        cabinet.policies = (PolicyInForce("lighting", 41, "x"),)
        city.deliver(cabinet.hello())
    else:
        event = PolicyEvent("lighting", 41, "x", accepted=False, reasons=("stale",), at_ms=START_MS)
        city.deliver(cabinet.message(cabinet.seal_event(event), StreamClass.EVENTS))
    policy = judge(publish(city, key), standing(cabinet, key, 41), START_MS)
    assert isinstance(policy, Policy)
    assert policy.version == 42


def test_what_nobody_may_accept_any_more_is_lapsed_and_not_sent(city: Desk, key: SigningKey) -> None:
    publish(city, key)
    city.clock.pass_s(WEEK_S + 1)
    assert sent(city) == []
    assert desired(city) == (1, PolicyStatus.LAPSED, [])


def test_a_newer_publication_replaces_the_older_one(city: Desk, key: SigningKey) -> None:
    publish(city, key)
    newer = publish(city, key)
    city.clock.pass_s(60)
    assert sent(city) == [newer]
    assert desired(city)[0] == 2


def test_every_fault_of_a_draft_is_named_when_it_is_published(city: Desk, key: SigningKey) -> None:
    wrong = Lighting(
        Place(47.0, 5.0, "Mars/Olympus"),
        (Assignment("no-such", devices=("ghost",)), Assignment("year", groups=("nowhere",))),
    )
    city.do(lambda tx: drafts.put(tx, CAB, wrong))
    with pytest.raises(RequestError) as refused:
        city.do(lambda tx: policies.publish(tx, CAB, PolicyKind.LIGHTING, key, Terms(WEEK_S)))
    assert refused.value.status == 422
    assert [fault.where for fault in refused.value.faults] == [
        "place.timezone",
        "assignments[0].calendar",
        "assignments[0].devices",
        "assignments[1].groups",
    ]
    assert city.ask("SELECT count(*) FROM policy") == [(0,)]


def test_without_a_draft_there_is_nothing_to_publish(
    desk: Desk, cabinet: CabinetDouble, key: SigningKey
) -> None:
    desk.deliver(cabinet.hello())
    with pytest.raises(RequestError) as refused:
        desk.do(lambda tx: policies.publish(tx, CAB, PolicyKind.LIGHTING, key, Terms(WEEK_S)))
    assert refused.value.status == 409


class TestEnvelopes:
    """A policy that was signed elsewhere is taken if the cabinet could accept it."""

    def _policy(self, key: SigningKey, **changes: object) -> Policy:
        policy = Policy(
            cabinet=CAB,
            kind=PolicyKind.LIGHTING,
            version=5,
            not_before_ms=START_MS,
            expires_ms=START_MS + 60_000,
            key=key.id,
            lighting=LightingPolicy(DIJON, (EVENING, LATE), (YEAR,), DRAFT.assignments),
        )
        return msgspec.structs.replace(policy, **changes)

    def test_it_becomes_the_one_that_is_wanted_byte_for_byte(self, city: Desk) -> None:
        away = SigningKey(KeyId("ministry"), Ed25519PrivateKey.generate())
        signed = sign(self._policy(away), away.private)
        city.do(lambda tx: policies.accept_envelope(tx, CAB, signed, None))
        assert sent(city) == [signed]
        assert desired(city)[0] == 5

    @pytest.mark.parametrize(
        ("changes", "where"),
        [
            ({"cabinet": "cab-2"}, "body.cabinet"),
            ({"expires_ms": START_MS - 1}, "body.expires_ms"),
            ({"lighting": LightingPolicy(DIJON, (), (), (Assignment("ghost"),))}, "assignments[0].calendar"),
        ],
    )
    def test_what_the_cabinet_would_reject_is_refused(
        self, city: Desk, key: SigningKey, changes: dict[str, object], where: str
    ) -> None:
        signed = sign(self._policy(key, **changes), key.private)
        with pytest.raises(RequestError) as refused:
            city.do(lambda tx: policies.accept_envelope(tx, CAB, signed, key))
        assert [fault.where for fault in refused.value.faults] == [where]

    def test_a_version_that_was_there_is_refused(self, city: Desk, key: SigningKey) -> None:
        signed = sign(self._policy(key, version=1), key.private)
        publish(city, key)
        with pytest.raises(RequestError) as refused:
            city.do(lambda tx: policies.accept_envelope(tx, CAB, signed, key))
        assert [fault.where for fault in refused.value.faults] == ["body.version"]

    def test_a_forgery_in_this_servers_name_is_refused(self, city: Desk, key: SigningKey) -> None:
        forged = sign(self._policy(key), Ed25519PrivateKey.generate())
        with pytest.raises(RequestError) as refused:
            city.do(lambda tx: policies.accept_envelope(tx, CAB, forged, key))
        assert [fault.where for fault in refused.value.faults] == ["signature"]

    def test_a_body_that_is_no_policy_is_refused(self, city: Desk, key: SigningKey) -> None:
        with pytest.raises(RequestError) as refused:
            city.do(lambda tx: policies.accept_envelope(tx, CAB, SignedPolicy(b"{}", key.id, b""), key))
        assert refused.value.status == 422


class TestDocuments:
    """Control programs and calendars belong to the city; what is in use stays."""

    def test_a_program_that_a_calendar_names_is_not_deleted(self, city: Desk) -> None:
        with pytest.raises(RequestError) as refused:
            city.do(lambda tx: lighting.delete_program(tx, "late"))
        assert (refused.value.status, refused.value.faults[0].where) == (409, "calendars.year")

    def test_a_calendar_that_a_cabinet_names_is_not_deleted(self, city: Desk) -> None:
        with pytest.raises(RequestError) as refused:
            city.do(lambda tx: lighting.delete_calendar(tx, "year"))
        assert (refused.value.status, refused.value.faults[0].where) == (409, "cabinets.cab-1")

    def test_what_nobody_names_is_deleted(self, city: Desk) -> None:
        city.do(lambda tx: lighting.delete_calendar(tx, "elsewhere"))
        city.do(lambda tx: lighting.delete_program(tx, "unused"))
        city.do(lambda tx: drafts.put(tx, CAB, Lighting(DIJON)))
        city.do(lambda tx: lighting.delete_calendar(tx, "year"))
        assert city.ask("SELECT id FROM control_program ORDER BY id") == [("evening",), ("late",)]

    def test_a_calendar_must_name_programs_that_are_there(self, city: Desk) -> None:
        wrong = Calendar("wrong", "ghost", (CalendarRule("phantom"),))
        with pytest.raises(RequestError) as refused:
            city.do(lambda tx: lighting.put_calendar(tx, wrong))
        assert [fault.where for fault in refused.value.faults] == ["default_program", "rules[0].program"]

    def test_a_draft_of_an_unknown_cabinet_is_not_found(self, city: Desk) -> None:
        with pytest.raises(RequestError) as refused:
            city.do(lambda tx: drafts.put(tx, "cab-9", DRAFT))
        assert refused.value.status == 404


class TestPreview:
    """The preview is what the cabinet's own decision would be."""

    def test_it_says_what_each_lamp_would_do_and_why(self, city: Desk, cabinet: CabinetDouble) -> None:
        at_ms = START_MS + 12 * 3_600_000
        preview = lighting.preview_at(city.db, CAB, at_ms)
        policy = LightingPolicy(DIJON, (EVENING, LATE), (YEAR,), DRAFT.assignments, 70)
        for lamp, one in zip(cabinet.inventory, preview.lamps, strict=True):
            decision = decide(
                policy, Lamp(lamp.id, lamp.line, lamp.address, lamp.groups), None, Instant(0, at_ms)
            )
            assert (one.device, one.level, one.because) == (lamp.id, decision.level, decision.because)

    def test_through_a_while_it_lists_each_change_once_for_lamps_that_go_together(self, city: Desk) -> None:
        day_ms = 86_400_000
        midnight_ms = START_MS - START_MS % day_ms
        preview = lighting.preview_through(city.db, CAB, midnight_ms, midnight_ms + day_ms)
        (schedule,) = preview.schedules
        assert len(schedule.devices) == 3
        assert [step.level for step in schedule.steps] == [100, 0, 100]

    def test_a_draft_with_faults_cannot_be_previewed(self, city: Desk) -> None:
        city.do(lambda tx: drafts.put(tx, CAB, Lighting(Place(0, 0, "Nowhere/City"))))
        with pytest.raises(RequestError) as refused:
            lighting.preview_at(city.db, CAB, START_MS)
        assert refused.value.status == 422
