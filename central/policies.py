"""What the centre wants of a cabinet: drafted, checked, numbered, signed, sent, and reported back."""

import sqlite3
from collections.abc import Sequence

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from central.api.bodies import (
    DesiredPolicy,
    Policies,
    PolicyReport,
    PolicyStatus,
    ReportedPolicy,
)
from central.clock import moment
from central.contact import REACHABLE
from central.contents import compiled, content_faults
from central.effects import Change, ChangeKind, Downlink
from central.errors import Fault, RequestError
from central.store.writer import Tx
from central.streams import LARGEST, check_number
from central.views import Row, maybe_moment, rows
from protocols.backhaul.codec import encode
from protocols.backhaul.messages import PolicyEvent, PolicyInForce, SignedPolicy
from protocols.backhaul.signing import MAX_POLICY_BYTES, TrustedKey, is_signed_by, policy_hash, sign
from protocols.backhaul.topics import Down
from protocols.errors import LocalProtocolError
from protocols.model.ids import CabinetId, KeyId
from protocols.model.policy import Policy, PolicyKind

RESEND_FIRST_S = 5
RESEND_MOST_S = 600
DUE_PER_TICK = 100
REPORTS_SHOWN = 20
REPORTS_KEPT = 200
"""For each cabinet."""
POLICIES_KEPT = 20
"""Of each kind, for each cabinet: a lease that is renewed makes one after another, for years."""

_POLICY = msgspec.json.Decoder(Policy)
_TEXTS = msgspec.json.Decoder(list[str])


class SigningKey(msgspec.Struct, frozen=True):
    """The server's key and the name under which cabinets trust it."""

    id: KeyId
    private: Ed25519PrivateKey

    def trusted(self) -> TrustedKey:
        """Return what a cabinet that trusts this key holds."""
        return TrustedKey(self.id, self.private.public_key().public_bytes_raw(), frozenset(PolicyKind))


class Terms(msgspec.Struct, frozen=True):
    """On what terms a draft is published.

    Attributes:
        valid_for_s: how long a cabinet may take to accept it.
        lease_until_ms: UTC milliseconds until when a cabinet goes by it; None where that is for good.
        renew_lease_s: for how much longer it is to be signed again each time; None for never.
    """

    valid_for_s: float
    lease_until_ms: int | None = None
    renew_lease_s: float | None = None


def publish(tx: Tx, cabinet: CabinetId, kind: PolicyKind, key: SigningKey, terms: Terms) -> None:
    """Compile a cabinet's draft, check, number and sign it, and make it the one that is wanted.

    Raises:
        RequestError: if there is no draft, or it has faults.
    """
    body = Policy(
        cabinet=cabinet,
        kind=kind,
        version=next_version(tx, cabinet, kind),
        not_before_ms=tx.now_ms,
        expires_ms=tx.now_ms + round(1000 * terms.valid_for_s),
        key=key.id,
    )
    content = compiled(tx.db, cabinet, kind, terms.lease_until_ms or 0)
    body = msgspec.structs.replace(body, **{kind.value: content})
    faults = content_faults(tx.db, cabinet, body)
    if faults:
        raise RequestError(422, f"this {kind.value} cannot be published", faults)
    try:
        signed = sign(body, key.private)
    except LocalProtocolError as error:
        raise RequestError(422, str(error)) from error
    want(tx, body, signed, terms.renew_lease_s)


def accept_envelope(tx: Tx, cabinet: CabinetId, signed: SignedPolicy, own: SigningKey | None) -> None:
    """Make a policy that was signed elsewhere the one that is wanted.

    Raises:
        RequestError: if a cabinet would reject it for a reason that can be seen from here.
    """
    policy = _read_body(signed)
    faults = [
        *_envelope_faults(tx, cabinet, policy, signed, own),
        *content_faults(tx.db, cabinet, policy),
    ]
    if faults:
        raise RequestError(422, f"{cabinet} would reject this policy", faults)
    want(tx, policy, signed)


def _read_body(signed: SignedPolicy) -> Policy:
    if len(signed.body) > MAX_POLICY_BYTES:
        raise RequestError(
            422, "the policy is too large", [Fault("body", f"at most {MAX_POLICY_BYTES} bytes")]
        )
    try:
        return _POLICY.decode(signed.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(422, "the body is no policy", [Fault("body", str(error))]) from error


def _envelope_faults(
    tx: Tx, cabinet: CabinetId, policy: Policy, signed: SignedPolicy, own: SigningKey | None
) -> list[Fault]:
    had = highest(tx, cabinet, policy.kind)
    lease_until_ms = lease_of(policy)
    forged = own is not None and own.id == signed.key and not is_signed_by(signed, own.trusted())
    checks = (
        (policy.cabinet == cabinet, "body.cabinet", f"for {policy.cabinet!r}, this is {cabinet!r}"),
        (policy.key == signed.key, "body.key", f"names {policy.key!r}, the envelope {signed.key!r}"),
        (policy.version > had, "body.version", f"{policy.version} is not above {had}"),
        (tx.now_ms <= policy.expires_ms, "body.expires_ms", "no longer valid"),
        (
            lease_until_ms is None or tx.now_ms < lease_until_ms,
            "body.priority.lease_until_ms",
            "the lease is over already",
        ),
        (not forged, "signature", f"not made by key {signed.key!r} over these bytes"),
    )
    return [Fault(where, what) for holds, where, what in checks if not holds]


def lease_of(policy: Policy) -> int | None:
    """Return until when a cabinet goes by a policy, UTC milliseconds; None where that is for good."""
    return None if policy.priority is None else policy.priority.lease_until_ms


def highest(tx: Tx, cabinet: CabinetId, kind: PolicyKind) -> int:
    """Return the highest version that the cabinet reports or that this centre ever numbered."""
    found = tx.db.execute(
        "SELECT max(version) FROM (SELECT version FROM policy WHERE cabinet = ?1 AND kind = ?2"
        " UNION ALL SELECT version FROM policy_in_force WHERE cabinet = ?1 AND kind = ?2"
        " UNION ALL SELECT version FROM policy_report WHERE cabinet = ?1 AND kind = ?2)",
        (cabinet, kind.value),
    ).fetchone()
    return int(found[0] or 0)


def next_version(tx: Tx, cabinet: CabinetId, kind: PolicyKind) -> int:
    """Return a version that the cabinet never had.

    Raises:
        RequestError: if it has had the last that there can be.
    """
    had = highest(tx, cabinet, kind)
    if had + 1 >= LARGEST:
        raise RequestError(409, f"{cabinet} had version {had}: nothing is above it")
    return had + 1


def want(tx: Tx, policy: Policy, signed: SignedPolicy, renew_lease_s: float | None = None) -> None:
    """Make a signed policy the one that is wanted of its cabinet, and let go of the oldest of its kind.

    Args:
        tx: the job.
        policy: what the body says.
        signed: the body and who stands for it.
        renew_lease_s: for how much longer it is to be signed again when half of that is over; None for never.
    """
    key = (policy.cabinet, policy.kind.value)
    tx.db.execute("UPDATE policy SET send_ms = NULL, renew_ms = NULL WHERE cabinet = ? AND kind = ?", key)
    tx.db.execute(
        "INSERT INTO policy (cabinet, kind, version, hash, body, key, signature, not_before_ms, expires_ms,"
        " created_ms, send_ms, lease_until_ms, lease_s, renew_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *key,
            policy.version,
            policy_hash(signed.body),
            signed.body,
            signed.key,
            signed.signature,
            policy.not_before_ms,
            policy.expires_ms,
            tx.now_ms,
            max(tx.now_ms, policy.not_before_ms),
            lease_of(policy),
            renew_lease_s,
            None if renew_lease_s is None else tx.now_ms + round(500 * renew_lease_s),
        ),
    )
    tx.db.execute(
        "DELETE FROM policy WHERE cabinet = ?1 AND kind = ?2 AND version <= (SELECT version FROM policy"
        "  WHERE cabinet = ?1 AND kind = ?2 ORDER BY version DESC LIMIT 1 OFFSET ?3)",
        (*key, POLICIES_KEPT),
    )
    tx.effects.due = True
    _tell(tx, policy.cabinet)


_DUE = f"""
    SELECT * FROM policy WHERE send_ms <= ?1 AND cabinet IN ({REACHABLE}) ORDER BY send_ms LIMIT ?2
"""  # noqa: S608  a constant of ours


def send_due(tx: Tx) -> None:
    """Send the policies that are due, each time later, until they are answered or nobody may accept them."""
    due = rows(tx.db, _DUE, (tx.now_ms, DUE_PER_TICK))
    for known in due:
        wait_s = min(RESEND_MOST_S, RESEND_FIRST_S * 2 ** min(known["sends"], 10))
        lapsed = _lease_is_over(known, tx.now_ms) or tx.now_ms > known["expires_ms"]
        tx.db.execute(
            "UPDATE policy SET sends = sends + ?, send_ms = ? WHERE cabinet = ? AND kind = ? AND version = ?",
            (
                not lapsed,
                None if lapsed else tx.now_ms + 1000 * wait_s,
                known["cabinet"],
                known["kind"],
                known["version"],
            ),
        )
        if not lapsed:
            signed = SignedPolicy(known["body"], known["key"], known["signature"])
            tx.effects.down.append(Downlink(known["cabinet"], Down.POLICY, encode(signed)))


def hear_in_force(tx: Tx, cabinet: CabinetId, reported: Sequence[PolicyInForce]) -> None:
    """Record what a cabinet's hello says it goes by, and make what differs due now."""
    for one in reported:
        check_number(one.version, "a policy's version")
    tx.db.execute("DELETE FROM policy_in_force WHERE cabinet = ?", (cabinet,))
    tx.db.executemany(
        "INSERT OR REPLACE INTO policy_in_force (cabinet, kind, version, hash) VALUES (?, ?, ?, ?)",
        [(cabinet, one.kind, one.version, one.hash) for one in reported],
    )
    for desired in [with_status(known, tx.now_ms) for known in rows(tx.db, _DESIRED, (cabinet,))]:
        due = desired["status"] is PolicyStatus.PENDING
        tx.db.execute(
            "UPDATE policy SET send_ms = ?, sends = 0 WHERE cabinet = ? AND kind = ? AND version = ?",
            (
                max(tx.now_ms, desired["not_before_ms"]) if due else None,
                cabinet,
                desired["kind"],
                desired["version"],
            ),
        )
    _tell(tx, cabinet)


def report(tx: Tx, cabinet: CabinetId, event: PolicyEvent) -> None:
    """Record that a cabinet accepted a policy, which is then in force, or rejected it, and why.

    A cabinet says nothing of the kind and version of a body that it does not believe. If the hash is of a
    policy that was signed or passed on here, they are known.
    """
    check_number(event.version, "a policy's version")
    ours = tx.db.execute(
        "SELECT kind, version FROM policy WHERE cabinet = ? AND hash = ? ORDER BY version DESC",
        (cabinet, event.hash),
    ).fetchone()
    kind, version = ours or (event.kind, event.version)
    tx.db.execute(
        "INSERT INTO policy_report (cabinet, kind, version, hash, accepted, reasons, at_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            cabinet,
            kind,
            version,
            event.hash,
            event.accepted,
            msgspec.json.encode(event.reasons).decode(),
            event.at_ms,
        ),
    )
    tx.db.execute(
        "DELETE FROM policy_report WHERE cabinet = ?1 AND id <= ("
        "  SELECT id FROM policy_report WHERE cabinet = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        (cabinet, REPORTS_KEPT),
    )
    if event.accepted:
        tx.db.execute(
            "INSERT INTO policy_in_force (cabinet, kind, version, hash) VALUES (?1, ?2, ?3, ?4)"
            " ON CONFLICT DO UPDATE SET version = ?3, hash = ?4 WHERE version <= ?3",
            (cabinet, kind, version, event.hash),
        )
    tx.db.execute(
        "UPDATE policy SET send_ms = NULL, renew_ms = CASE WHEN ?3 THEN renew_ms END"
        " WHERE cabinet = ?1 AND hash = ?2",
        (cabinet, event.hash, event.accepted),
    )
    _tell(tx, cabinet)


_DESIRED = (
    "SELECT policy.*, policy_in_force.hash AS force_hash, ("
    "  SELECT reasons FROM policy_report AS r WHERE r.cabinet = policy.cabinet AND r.kind = policy.kind"
    "  AND r.version = policy.version AND r.hash = policy.hash AND NOT r.accepted ORDER BY r.id DESC LIMIT 1"
    ") AS reasons FROM policy LEFT JOIN policy_in_force USING (cabinet, kind)"
    " WHERE cabinet = ?1 AND policy.version = ("
    "  SELECT max(version) FROM policy AS p WHERE p.cabinet = ?1 AND p.kind = policy.kind)"
)


def with_status(known: Row, now_ms: int) -> Row:
    """Return a desired policy's row with the `status` that follows from what was reported of it."""
    over = _lease_is_over(known, now_ms)
    if known["force_hash"] == known["hash"]:
        status = PolicyStatus.LEASE_OVER if over else PolicyStatus.IN_FORCE
    elif known["reasons"] is not None:
        status = PolicyStatus.REJECTED
    else:
        status = PolicyStatus.LAPSED if over or now_ms > known["expires_ms"] else PolicyStatus.PENDING
    return {**known, "status": status}


def _lease_is_over(known: Row, now_ms: int) -> bool:
    return known["lease_until_ms"] is not None and now_ms >= known["lease_until_ms"]


def _view(cabinet: str, desired: Sequence[Row], in_force: Sequence[Row], reports: Sequence[Row]) -> Policies:
    """Return desired against reported."""
    return Policies(
        cabinet=cabinet,
        desired=[
            DesiredPolicy(
                kind=one["kind"],
                version=one["version"],
                hash=one["hash"],
                key=one["key"],
                status=one["status"],
                reasons=_TEXTS.decode(one["reasons"] or "[]"),
                not_before=moment(one["not_before_ms"]),
                expires=moment(one["expires_ms"]),
                created=moment(one["created_ms"]),
                lease_until=maybe_moment(one["lease_until_ms"]),
                renews=maybe_moment(one["renew_ms"]),
            )
            for one in desired
        ],
        reported=[
            ReportedPolicy(one["kind"], one["version"], one["hash"], maybe_moment(one["lease_until_ms"]))
            for one in in_force
        ],
        reports=[
            PolicyReport(
                kind=one["kind"],
                version=one["version"],
                hash=one["hash"],
                accepted=bool(one["accepted"]),
                reasons=_TEXTS.decode(one["reasons"]),
                at=moment(one["at_ms"]),
            )
            for one in reports
        ],
    )


def read(db: sqlite3.Connection, cabinet: str, now_ms: int) -> Policies:
    """Return what is wanted of a cabinet, what it goes by, and its last reports."""
    desired = [with_status(known, now_ms) for known in rows(db, _DESIRED, (cabinet,))]
    in_force = rows(
        db,
        "SELECT policy_in_force.*, lease_until_ms FROM policy_in_force"
        " LEFT JOIN policy USING (cabinet, kind, version, hash) WHERE cabinet = ? ORDER BY kind",
        (cabinet,),
    )
    reports = rows(
        db,
        "SELECT * FROM policy_report WHERE cabinet = ? ORDER BY id DESC LIMIT ?",
        (cabinet, REPORTS_SHOWN),
    )
    return _view(cabinet, desired, in_force, reports)


def _tell(tx: Tx, cabinet: CabinetId) -> None:
    body = read(tx.db, cabinet, tx.now_ms)
    tx.effects.changes.append(Change(ChangeKind.POLICY, cabinet, body))
