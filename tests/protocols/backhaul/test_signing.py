"""Signatures, with RFC 8032's own examples as the witness."""

import hashlib

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.backhaul.messages import SignedPolicy
from protocols.backhaul.signing import MAX_POLICY_BYTES, TrustedKey, is_signed_by, policy_hash, sign
from protocols.errors import LocalProtocolError
from protocols.model.ids import CabinetId, KeyId
from protocols.model.lighting import ControlProgram, LightingPolicy, Place
from protocols.model.policy import Policy, PolicyKind

KEY = KeyId("city-2026")
ALL = frozenset(PolicyKind)

# RFC 8032, 7.1: secret key, public key, message, signature of tests 1, 2 and 3.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
]
SECRET = bytes.fromhex(RFC_8032[0][0])
PUBLIC = bytes.fromhex(RFC_8032[0][1])


def policy(programs: tuple[ControlProgram, ...] = ()) -> Policy:
    lighting = LightingPolicy(Place(47.32, 5.04, "Europe/Paris"), programs, (), ())
    return Policy(CabinetId("dijon-0001"), PolicyKind.LIGHTING, 1, 0, 1, KEY, lighting)


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_the_standard_s_own_signatures_are_believed(
    secret: str, public: str, message: str, signature: str
) -> None:
    signed = SignedPolicy(bytes.fromhex(message), KEY, bytes.fromhex(signature))
    assert is_signed_by(signed, TrustedKey(KEY, bytes.fromhex(public), ALL))
    assert Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)).sign(signed.body) == signed.signature


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_no_other_byte_no_other_key_and_no_other_signature_is_believed(
    secret: str, public: str, message: str, signature: str
) -> None:
    del secret
    signed = SignedPolicy(bytes.fromhex(message), KEY, bytes.fromhex(signature))
    key = TrustedKey(KEY, bytes.fromhex(public), ALL)
    other = TrustedKey(KEY, bytes.fromhex(RFC_8032[0 if public != RFC_8032[0][1] else 1][1]), ALL)
    assert not is_signed_by(msgspec.structs.replace(signed, body=signed.body + b"\0"), key)
    assert not is_signed_by(signed, other)
    for position in (0, 31, 32, 63):
        changed = bytearray(signed.signature)
        changed[position] ^= 1
        assert not is_signed_by(msgspec.structs.replace(signed, signature=bytes(changed)), key)


@pytest.mark.parametrize("signature", [b"", b"x" * 63, b"x" * 65])
def test_a_signature_of_another_length_is_no_signature(signature: bytes) -> None:
    assert not is_signed_by(SignedPolicy(b"", KEY, signature), TrustedKey(KEY, PUBLIC, ALL))


@pytest.mark.parametrize("public", [b"", b"x" * 31, b"x" * 33])
def test_nobody_signs_with_a_key_that_is_none(public: bytes) -> None:
    signed = SignedPolicy(b"", KEY, bytes.fromhex(RFC_8032[0][3]))
    assert not is_signed_by(signed, TrustedKey(KEY, public, ALL))


def test_what_is_signed_is_the_written_policy_and_nothing_else() -> None:
    signed = sign(policy(), Ed25519PrivateKey.from_private_bytes(SECRET))
    assert msgspec.json.decode(signed.body, type=Policy) == policy()
    assert signed.key == KEY
    assert is_signed_by(signed, TrustedKey(KEY, PUBLIC, ALL))


def test_a_policy_is_compared_by_the_sha_256_of_its_bytes() -> None:
    assert policy_hash(b"abc") == hashlib.sha256(b"abc").hexdigest()


def test_a_policy_that_no_cabinet_would_read_is_neither_signed_nor_believed() -> None:
    secret = Ed25519PrivateKey.from_private_bytes(SECRET)
    endless = policy(tuple(ControlProgram(f"program-{i}", ()) for i in range(5000)))
    with pytest.raises(LocalProtocolError, match="at most"):
        sign(endless, secret)
    body = bytes(MAX_POLICY_BYTES + 1)
    assert not is_signed_by(SignedPolicy(body, KEY, secret.sign(body)), TrustedKey(KEY, PUBLIC, ALL))
