"""Who stands for a policy: Ed25519 over its exact bytes."""

import hashlib

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocols.backhaul.messages import SignedPolicy
from protocols.errors import LocalProtocolError
from protocols.model.ids import KeyId
from protocols.model.policy import Policy, PolicyKind

MAX_POLICY_BYTES = 256 << 10
"""A policy of 64 programs and 512 lamps is some 40 kB."""


_PUBLIC_BYTES = 32


class TrustedKey(msgspec.Struct, frozen=True):
    """A key that a cabinet believes, and for what.

    Attributes:
        key: as policies name it.
        public: an Ed25519 public key, 32 bytes.
        kinds: for which kinds of policy.
    """

    key: KeyId
    public: bytes
    kinds: frozenset[PolicyKind]


def policy_hash(body: bytes) -> str:
    """Return the hash by which both ends compare a policy: SHA-256 of its bytes, in hexadecimal."""
    return hashlib.sha256(body).hexdigest()


def sign(policy: Policy, key: Ed25519PrivateKey) -> SignedPolicy:
    """Write a policy down and stand for it.

    Raises:
        LocalProtocolError: if it is larger than cabinets accept.
    """
    body = msgspec.json.encode(policy)
    if len(body) > MAX_POLICY_BYTES:
        raise LocalProtocolError(f"a policy of {len(body)} bytes; at most {MAX_POLICY_BYTES} are accepted")
    return SignedPolicy(body=body, key=policy.key, signature=key.sign(body))


def is_signed_by(signed: SignedPolicy, key: TrustedKey) -> bool:
    """Tell whether `key` stands for exactly these bytes."""
    if len(signed.body) > MAX_POLICY_BYTES or len(key.public) != _PUBLIC_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signed.signature, signed.body)
    except InvalidSignature:
        return False
    return True
