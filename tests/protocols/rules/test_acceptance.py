"""The centre proposes, the cabinet checks: every single reason to refuse a policy, and all of them at once."""

from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from protocols.backhaul.messages import SignedPolicy
from protocols.backhaul.signing import TrustedKey, sign
from protocols.model.ids import CabinetId, DeviceId, KeyId
from protocols.model.lighting import (
    Assignment,
    AstroClockPeriod,
    Calendar,
    ControlProgram,
    FixedTimeControl,
    Lamp,
    LightingPolicy,
    Place,
)
from protocols.model.policy import LampLimit, Limits, Policy, PolicyKind
from protocols.rules.acceptance import Standing, judge, signed_not_before_ms

SECRET = Ed25519PrivateKey.from_private_bytes(bytes(32))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\1")
KEY = KeyId("city-2026")
NOW_MS = 1_795_521_600_000
LAMPS = (Lamp(DeviceId("lamp-01"), "dali-1", "0", ("street",)),)
STANDING = Standing(
    cabinet=CabinetId("dijon-0001"),
    trusted=(TrustedKey(KEY, SECRET.public_key().public_bytes_raw(), frozenset(PolicyKind)),),
    highest={PolicyKind.LIGHTING: 6},
    lamps=LAMPS,
    limits=Limits((LampLimit("dali-1", minimum_level=30),)),
)
LIGHTING = LightingPolicy(
    Place(47.32, 5.04, "Europe/Paris"),
    (ControlProgram("night", (AstroClockPeriod(),), (FixedTimeControl("22:00", 70),)),),
    (Calendar("always", "night"),),
    (Assignment("always", groups=("street",)),),
)
POLICY = Policy(
    cabinet=CabinetId("dijon-0001"),
    kind=PolicyKind.LIGHTING,
    version=7,
    not_before_ms=NOW_MS - 1,
    expires_ms=NOW_MS + 1,
    key=KEY,
    lighting=LIGHTING,
)
TOO_DARK = msgspec.structs.replace(
    LIGHTING, programs=(ControlProgram("night", (AstroClockPeriod(level=10),)),)
)
UNSOUND = msgspec.structs.replace(TOO_DARK, calendars=())


def proposed(**parts: object) -> SignedPolicy:
    return sign(msgspec.structs.replace(POLICY, **parts), SECRET)


def written(document: object) -> SignedPolicy:
    body = msgspec.json.encode(document)
    return SignedPolicy(body, KEY, SECRET.sign(body))


def reasons(signed: SignedPolicy, standing: Standing = STANDING, now_ms: int = NOW_MS) -> list[str]:
    verdict = judge(signed, standing, now_ms)
    assert isinstance(verdict, list)
    return verdict


def test_a_policy_that_is_for_us_newer_signed_and_within_limits_is_gone_by() -> None:
    assert judge(proposed(), STANDING, NOW_MS) == POLICY


@pytest.mark.parametrize("now_ms", [POLICY.not_before_ms, POLICY.expires_ms])
def test_a_policy_is_valid_on_its_first_and_its_last_millisecond(now_ms: int) -> None:
    assert judge(proposed(), STANDING, now_ms) == POLICY


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"cabinet": "dijon-0002"}, "cabinet: for 'dijon-0002', this is 'dijon-0001'"),
        ({"version": 6}, "version: 6 is not above 6, which was here already"),
        ({"version": 5}, "version: 5 is not above 6, which was here already"),
        ({"not_before_ms": NOW_MS + 1}, "not_before_ms: not valid yet"),
        ({"expires_ms": NOW_MS - 1}, "expires_ms: no longer valid"),
        (
            {"lighting": TOO_DARK},
            "program night, active period: lamp-01 (dali-1/0): 10 % is below the limit of 30 %",
        ),
        ({"lighting": UNSOUND}, "assignments[0].calendar: there is no calendar 'always'"),
    ],
)
def test_each_single_reason_is_enough_and_is_named(parts: dict[str, object], reason: str) -> None:
    assert reasons(proposed(**parts)) == [reason]


def test_a_key_that_nobody_here_trusts_signs_nothing() -> None:
    signed = msgspec.structs.replace(proposed(), key=KeyId("city-2031"))
    assert reasons(signed) == ["key: 'city-2031' is not trusted here"]
    assert reasons(proposed(), msgspec.structs.replace(STANDING, trusted=())) == [
        "key: 'city-2026' is not trusted here"
    ]


def test_a_signature_by_another_key_under_a_trusted_name_is_refused() -> None:
    assert reasons(sign(POLICY, STRANGER)) == ["signature: not made by key 'city-2026' over these bytes"]


@given(st.data())
def test_a_single_tampered_byte_is_refused(data: st.DataObject) -> None:
    signed = proposed()
    body = bytearray(signed.body)
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    assert reasons(msgspec.structs.replace(signed, body=bytes(body))) == [
        "signature: not made by key 'city-2026' over these bytes"
    ]


def test_a_key_is_trusted_only_for_the_kinds_that_the_settings_name() -> None:
    trusted = (msgspec.structs.replace(STANDING.trusted[0], kinds=frozenset()),)
    assert reasons(proposed(), msgspec.structs.replace(STANDING, trusted=trusted)) == [
        "key: 'city-2026' is not trusted for lighting"
    ]


def test_a_body_that_names_another_key_than_the_one_that_signed_is_refused() -> None:
    body = msgspec.json.encode(msgspec.structs.replace(POLICY, key=KeyId("city-2027")))
    assert reasons(SignedPolicy(body, KEY, SECRET.sign(body))) == [
        "key: the body names 'city-2027', the signature 'city-2026'"
    ]


def test_the_first_policy_of_a_kind_may_have_any_version() -> None:
    assert judge(proposed(version=1), STANDING.with_highest({}), NOW_MS) != []
    assert isinstance(judge(proposed(version=1), STANDING.with_highest({}), NOW_MS), Policy)


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b'"\xff"', b"[" * 100_000, b"{}"])
def test_a_signed_body_that_is_no_policy_is_refused_with_how(body: bytes) -> None:
    for reason in reasons(SignedPolicy(body, KEY, SECRET.sign(body))):
        assert reason.startswith("body: ")


def test_of_a_body_with_several_faults_all_are_named_with_their_keys() -> None:
    document: dict[str, Any] = msgspec.to_builtins(POLICY)
    document["version"] = 0
    document["urgent"] = True
    document["lighting"]["place"]["latitude"] = "north"
    document["lighting"]["programs"][0]["fixed_time_controls"][0]["time"] = "25:00"
    del document["lighting"]["calendars"]
    document["lighting"]["assignments"][0]["lamps"] = []
    assert [reason.split(": ")[1] for reason in reasons(written(document))] == [
        "urgent",
        "version",
        "lighting.place.latitude",
        "lighting.programs[0].fixed_time_controls[0].time",
        "lighting.calendars",
        "lighting.assignments[0].lamps",
    ]


def test_several_reasons_are_all_named_limits_included() -> None:
    signed = proposed(
        cabinet="dijon-0002", version=6, not_before_ms=NOW_MS + 2, expires_ms=NOW_MS - 2, lighting=TOO_DARK
    )
    trusted = (msgspec.structs.replace(STANDING.trusted[0], kinds=frozenset()),)
    found = reasons(signed, msgspec.structs.replace(STANDING, trusted=trusted))
    assert [reason.split(":")[0] for reason in found] == [
        "key",
        "cabinet",
        "version",
        "not_before_ms",
        "expires_ms",
        "program night, active period",
    ]


class TestSignedTime:
    """A cabinet that does not know the time learns from a signature when it cannot be yet."""

    def test_a_trusted_signature_says_before_when_it_cannot_be(self) -> None:
        assert signed_not_before_ms(proposed(), STANDING) == NOW_MS - 1

    @pytest.mark.parametrize(
        "wrong",
        [
            sign(POLICY, STRANGER),
            msgspec.structs.replace(sign(POLICY, SECRET), key=KeyId("nobody")),
            proposed(cabinet=CabinetId("dijon-0002")),
            SignedPolicy(b"{}", KEY, SECRET.sign(b"{}")),
        ],
    )
    def test_nothing_else_does(self, wrong: SignedPolicy) -> None:
        assert signed_not_before_ms(wrong, STANDING) == 0
