"""What the centre wants: judged, stored with its version in one transaction, applied, reported."""

import asyncio
from collections.abc import Callable

import structlog

from edge.state import State
from protocols.backhaul.messages import Event, PolicyEvent, SignedPolicy
from protocols.backhaul.signing import policy_hash
from protocols.clock import Clock, ClockQuality
from protocols.model.policy import Policy
from protocols.rules.acceptance import Standing, judge, signed_not_before_ms

log = structlog.get_logger()

MAX_REASONS = 50
"""A policy with more faults than this is told the first of them."""


class Policies:
    """The cabinet's gate for policies.

    Attributes:
        rejected: the last rejection's reasons by kind, for who asks.
        known_ms: the time that expiries go by.
        on_signed_time: called with UTC milliseconds before which it cannot be, as an accepted policy says.
    """

    def __init__(
        self,
        standing: Standing,
        state: State,
        clock: Clock,
        apply: Callable[[Policy], None],
        report: Callable[[Event], None],
    ) -> None:
        self.rejected: tuple[str, ...] = ()
        self.known_ms: Callable[[], int] = lambda: clock.now().utc_ms
        self.on_signed_time: Callable[[int], None] = lambda _utc_ms: None
        self._standing = standing
        self._state = state
        self._clock = clock
        self._apply = apply
        self._report = report
        self._lock = asyncio.Lock()

    async def receive(self, signed: SignedPolicy) -> tuple[str, ...]:
        """Go by a policy, or leave the one in force and say why; return the reasons, none if accepted."""
        async with self._lock:  # one after another: a version is compared with the one before
            stored = await asyncio.to_thread(self._state.policies)
            digest = policy_hash(signed.body)
            same = next((one for one in stored.values() if one.hash == digest), None)
            if same is not None:
                self._report(
                    PolicyEvent(same.kind.value, same.version, digest, True, (), self._clock.now().utc_ms)
                )
                return ()
            highest = {kind: one.version for kind, one in stored.items()}
            standing = self._standing.with_highest(highest)
            now_ms = self.known_ms()
            verdict = judge(signed, standing, now_ms)
            if isinstance(verdict, list) and self._clock.now().quality is not ClockQuality.SYNCHRONISED:
                now_ms = max(now_ms, signed_not_before_ms(signed, standing))
                verdict = judge(signed, standing, now_ms)
            if isinstance(verdict, Policy):
                self.on_signed_time(verdict.not_before_ms)
                await asyncio.to_thread(self._state.store_policy, verdict, signed, now_ms)
                self._accept(verdict, digest, now_ms)
                return ()
            self._reject(verdict, digest, now_ms)
            return tuple(verdict)

    def _accept(self, policy: Policy, digest: str, now_ms: int) -> None:
        log.info("policy_accepted", kind=policy.kind.value, version=policy.version)
        self.rejected = ()
        self._apply(policy)
        self._report(PolicyEvent(policy.kind.value, policy.version, digest, True, (), now_ms))

    def _reject(self, reasons: list[str], digest: str, now_ms: int) -> None:
        told = tuple(reason[:300] for reason in reasons[:MAX_REASONS])
        log.warning("policy_rejected", reasons=told)
        self.rejected = told
        self._report(PolicyEvent("", 0, digest, False, told, now_ms))
