"""What the centre wants: judged, stored with its version in one transaction, applied, reported."""

import asyncio
from collections.abc import Callable

import structlog

from edge.state import State
from protocols.backhaul.messages import Event, PolicyEvent, SignedPolicy
from protocols.backhaul.signing import policy_hash
from protocols.clock import Clock, ClockQuality
from protocols.model.policy import Policy
from protocols.rules.acceptance import Standing, judge

log = structlog.get_logger()

MAX_REASONS = 50
"""A policy with more faults than this is told the first of them."""


class Policies:
    """The cabinet's gate for policies.

    Attributes:
        rejected: the last rejection's reasons by kind, for who asks.
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
            now_ms = await self._trusted_ms()
            highest = {kind: one.version for kind, one in stored.items()}
            verdict = judge(signed, self._standing.with_highest(highest), now_ms)
            if isinstance(verdict, Policy):
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

    async def _trusted_ms(self) -> int:
        """Return the later of the clock and the last time known to be good, and remember a good one."""
        now = self._clock.now()
        known_ms = await asyncio.to_thread(self._state.trusted_ms)
        if now.quality is ClockQuality.SYNCHRONISED and now.utc_ms > known_ms:
            await asyncio.to_thread(self._state.store_trusted_ms, now.utc_ms)
        return max(now.utc_ms, known_ms)
