"""Policies that end unless somebody goes on wanting them: for how long, and how they are renewed."""

import msgspec
import structlog

from central.api.priority_bodies import LONGEST_LEASE_S, SHORTEST_LEASE_S, PriorityPublishRequest
from central.clock import milliseconds
from central.errors import Fault, RequestError
from central.policies import SigningKey, Terms, next_version, want
from central.store.writer import Tx
from central.views import rows
from protocols.backhaul.signing import sign
from protocols.errors import LocalProtocolError
from protocols.model.policy import Policy

DEFAULT_LEASE_S = 7 * 86_400.0
DUE_PER_TICK = 50

log = structlog.get_logger(__name__)
_POLICY = msgspec.json.Decoder(Policy)


def terms_of(tx: Tx, wanted: PriorityPublishRequest) -> Terms:
    """Return the terms of a publication. Nothing is to be accepted when its lease is over.

    Raises:
        RequestError: if the lease is said twice, or ends too soon, too late, or never.
    """
    lease_s = _lease_s(tx, wanted)
    return Terms(
        valid_for_s=min(wanted.valid_for_s, lease_s),
        lease_until_ms=tx.now_ms + round(1000 * lease_s),
        renew_lease_s=lease_s if wanted.renew else None,
    )


def _lease_s(tx: Tx, wanted: PriorityPublishRequest) -> float:
    if wanted.lease_until is None:
        return wanted.lease_s or DEFAULT_LEASE_S
    if wanted.lease_s is not None:
        raise RequestError(422, "one lease is enough", [Fault("lease_until", "stands beside lease_s")])
    if wanted.renew:
        what = "a lease to a moment ends then; give lease_s"
        raise RequestError(422, "such a lease cannot be renewed", [Fault("renew", what)])
    lease_s = (milliseconds(wanted.lease_until) - tx.now_ms) / 1000
    if not SHORTEST_LEASE_S <= lease_s <= LONGEST_LEASE_S:
        what = f"expected {SHORTEST_LEASE_S:.0f} s to {LONGEST_LEASE_S / 86_400:.0f} days from now"
        raise RequestError(422, "such a lease makes no sense", [Fault("lease_until", what)])
    return lease_s


def renew_due(tx: Tx, key: SigningKey | None) -> None:
    """Sign again what is wanted for longer than its lease. Without a key it stays due, and the lease shows it."""
    if key is None:
        return
    due = rows(
        tx.db, "SELECT * FROM policy WHERE renew_ms <= ? ORDER BY renew_ms LIMIT ?", (tx.now_ms, DUE_PER_TICK)
    )
    for known in due:
        try:
            _renew(tx, key, _POLICY.decode(known["body"]), known["lease_s"])
        except (RequestError, LocalProtocolError) as error:
            log.error("a lease cannot be renewed", cabinet=known["cabinet"], why=str(error))
            tx.db.execute(
                "UPDATE policy SET renew_ms = NULL WHERE cabinet = ? AND kind = ?",
                (known["cabinet"], known["kind"]),
            )


def _renew(tx: Tx, key: SigningKey, policy: Policy, lease_s: float) -> None:
    assert policy.priority is not None  # noqa: S101  nothing else has a lease
    until_ms = tx.now_ms + round(1000 * lease_s)
    renewed = msgspec.structs.replace(
        policy,
        version=next_version(tx, policy.cabinet, policy.kind),
        not_before_ms=tx.now_ms,
        expires_ms=until_ms,
        key=key.id,
        priority=msgspec.structs.replace(policy.priority, lease_until_ms=until_ms),
    )
    want(tx, renewed, sign(renewed, key.private), lease_s)
    log.info("a lease was renewed", cabinet=policy.cabinet, version=renewed.version)
