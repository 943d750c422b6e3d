"""Makes the lamps do what is decided, and sees to it that they go on doing it.

The decision itself is `protocols.rules.lighting.decide`. Here a lamp's decision is renewed when its time is
over, when the policy or an override changes, and when the clock was stepped; what differs from what the lamp
last confirmed is written, tried again while it fails, and written anew when the lamp is found at another
level (a power cut, somebody else on the line).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog

from drivers.base import Driver, Written
from edge.background import Background
from protocols.clock import Clock
from protocols.errors import LocalProtocolError
from protocols.model.command import CommandState
from protocols.model.device import Point, StreamClass
from protocols.model.ids import DeviceId, PointName
from protocols.model.lighting import Decision, Lamp, LightingPolicy, Override
from protocols.model.policy import Limits
from protocols.model.reading import Sample, Value
from protocols.model.reading import sample as make_sample
from protocols.rules.lighting import decide, decide_override
from protocols.rules.limits import nearest_allowed

log = structlog.get_logger()

LEVEL = PointName("dimming_level")
COMMANDED_LEVEL = PointName("commanded_level")
LIGHT_REASON = PointName("light_reason")
DECIDED_POINTS = (Point(COMMANDED_LEVEL, "%", minimum=0, maximum=100), Point(LIGHT_REASON))
"""What the agent itself reports of a lamp, beside what its driver reads."""

NO_LIMITS = Limits()
TICK_S = 0.25
"""How often it is looked whether a decision's time is over: a step-down is late by no more."""
SURELY_OVER_S = 600.0
"""For so long an override's end must have been past before the override is forgotten: a clock that leaps ahead
for less, and comes back, ends none."""
RETRY_S = 10.0
"""How soon a level that could not be set is tried again."""


class LampState(msgspec.Struct):
    """One lamp, as the agent drives it.

    Attributes:
        lamp: which.
        driver: its line.
        stream: the class of its readings.
        decision: what it is to do; None until there is a policy or an override.
        decided_ms: civil UTC milliseconds when that was decided.
        writes: how many writes were begun; the last one counts.
        confirmed: the read-back of the last write that was verified, percent.
        settled: whether nothing is to be done until something changes.
        retry_s: monotonic seconds when a failed write is tried again.
        trouble: why the last write failed.
    """

    lamp: Lamp
    driver: Driver
    stream: StreamClass
    decision: Decision | None = None
    decided_ms: int = 0
    writes: int = 0
    confirmed: float | None = None
    settled: bool = True
    retry_s: float = 0.0
    trouble: str = ""


class Lighting:
    """The cabinet's lamps.

    Attributes:
        on_ended: called with a lamp and its override whose time is over.
        on_dimming: called with a lamp and why it cannot be dimmed, or "" when it can again.
        reasserted: how often a lamp was found at another level and set anew.
        lamps: each lamp's state.
    """

    def __init__(
        self,
        lamps: Sequence[LampState],
        clock: Clock,
        take: Callable[[StreamClass, Sample], None],
        policy: LightingPolicy | None,
        overrides: Mapping[DeviceId, Override],
        *,
        limits: Limits = NO_LIMITS,
    ) -> None:
        self.on_ended: Callable[[DeviceId, Override], None] = lambda _lamp, _override: None
        self.on_dimming: Callable[[DeviceId, str], None] = lambda _lamp, _why: None
        self.reasserted = 0
        self.lamps = {state.lamp.id: state for state in lamps}
        self.overrides = dict(overrides)
        self._over_since_ms: dict[DeviceId, tuple[Override, int]] = {}
        self._clock = clock
        self._take = take
        self._policy = policy
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._background = Background()
        self._writing: dict[DeviceId, asyncio.Task[Written]] = {}

    async def run(self) -> None:
        """Keep every lamp at its level, until cancelled."""
        try:
            while True:
                self.tick()
                await asyncio.sleep(TICK_S)
        finally:
            await self._background.close()

    def go_by(self, policy: LightingPolicy) -> None:
        """Put a policy in force, at once."""
        self._policy = policy
        for state in self.lamps.values():
            self._decide(state)

    async def override(self, device: DeviceId, override: Override | None) -> Written:
        """Override a lamp's level, or release it with None, and say what became of it."""
        if override is None:
            self.overrides.pop(device, None)
        else:
            self.overrides[device] = override
        state = self.lamps[device]
        begun = self._decide(state)
        if state.decision is None:
            return Written(
                CommandState.VERIFIED, None, "released; no policy is in force, the lamp stays as it is"
            )
        return await asyncio.shield(begun or self._write(state))

    def look_at_sample(self, sample: Sample) -> None:
        """Set a lamp anew that was found at another level than it had confirmed."""
        state = self.lamps.get(sample.device)
        if state is None or LEVEL not in sample.points or not state.settled or state.confirmed is None:
            return
        position = sample.points.index(LEVEL)
        found = sample.values[position]
        if sample.fault(position) is None and found != state.confirmed:
            self.reasserted += 1
            log.info("lamp_reasserted", lamp=sample.device, found=found, wanted=state.confirmed)
            self._write(state)

    def tick(self) -> None:
        """Renew what is over, end what has ended, and try again what has failed; `run` does it for ever."""
        civil_ms = self._clock.civil().utc_ms
        now_s = self._loop.time()
        for device, override in list(self.overrides.items()):
            if self._is_surely_over(device, override):
                del self.overrides[device]
                self.on_ended(device, override)
        for state in self.lamps.values():
            decision = state.decision
            if decision is None or not state.decided_ms <= civil_ms < decision.valid_until_ms:
                self._decide(state)
            elif not state.settled and state.lamp.id not in self._writing and now_s >= state.retry_s:
                self._write(state)

    def _is_surely_over(self, device: DeviceId, override: Override) -> bool:
        """Tell whether an override's end has been past for long enough; in force it is no more from its end on."""
        civil = self._clock.civil()
        if decide_override(override, civil.utc_ms) is not None:
            self._over_since_ms.pop(device, None)
            return False
        known, since_ms = self._over_since_ms.get(device, (None, 0))
        if known != override:
            since_ms = civil.monotonic_ms
            self._over_since_ms[device] = override, since_ms
        if civil.monotonic_ms - since_ms < SURELY_OVER_S * 1000:
            return False
        del self._over_since_ms[device]
        return True

    def in_force(self) -> int:
        """Return how many lamps are overridden now."""
        civil_ms = self._clock.civil().utc_ms
        return sum(decide_override(one, civil_ms) is not None for one in self.overrides.values())

    def _decide(self, state: LampState) -> asyncio.Task[Written] | None:
        """Renew a lamp's decision; return the write that this began, if it did."""
        civil = self._clock.civil()
        override = self.overrides.get(state.lamp.id)
        before = state.decision
        state.decided_ms = civil.utc_ms
        if self._policy is None:
            decision = decide_override(override, civil.utc_ms)
        else:
            decision = decide(self._policy, state.lamp, override, civil)
        state.decision = decision = self._bounded(state.lamp, decision)
        if decision is None:
            state.settled = True
            return None
        if before is None or (before.level, before.reason) != (decision.level, decision.reason):
            self._report(state, (COMMANDED_LEVEL, LIGHT_REASON), (decision.level, decision.reason.value))
        if before is None or before.level != decision.level:
            return self._write(state)
        return None

    def _bounded(self, lamp: Lamp, decision: Decision | None) -> Decision | None:
        """Hold a decision to the limits of today: what it stands on may have been accepted under others."""
        if (
            decision is None
            or (level := nearest_allowed(self._limits, lamp, decision.level)) == decision.level
        ):
            return decision
        because = f"{decision.because}, bounded by the limits file"
        return msgspec.structs.replace(decision, level=level, because=because)

    def _report(self, state: LampState, points: Sequence[PointName], values: Sequence[Value]) -> None:
        at_ms = self._clock.now().monotonic_ms
        self._take(state.stream, make_sample(state.lamp.id, at_ms, points, values))

    def _write(self, state: LampState) -> asyncio.Task[Written]:
        """Begin to set a lamp's level; an earlier write that has not ended no longer counts."""
        state.writes += 1
        state.settled = False
        task = self._background.spawn(self._set_level(state, state.writes), f"light {state.lamp.id}")
        self._writing[state.lamp.id] = task
        task.add_done_callback(lambda done: self._written(state.lamp.id, done))
        return task

    async def _set_level(self, state: LampState, number: int) -> Written:
        decision = state.decision
        if decision is None:
            return Written(CommandState.FAILED, None, "nothing is decided")
        try:
            written = await state.driver.write(state.lamp.id, LEVEL, decision.level, ramp_s=decision.ramp_s)
        except LocalProtocolError as error:  # a lamp without a level: its settings are wrong
            written = Written(CommandState.FAILED, None, str(error))
        if number == state.writes:
            self._settle(state, written)
        return written

    def _settle(self, state: LampState, written: Written) -> None:
        if written.state is CommandState.VERIFIED:
            state.settled = True
            state.confirmed = written.value if isinstance(written.value, int | float) else None
            self._report(state, (LEVEL,), (written.value,))
            if state.trouble:
                state.trouble = ""
                self.on_dimming(state.lamp.id, "")
            return
        state.retry_s = self._loop.time() + RETRY_S
        state.trouble = written.reason or written.state.value
        if (
            written.state is CommandState.APPLIED or written.value is not None
        ):  # it answers, with another level
            self.on_dimming(state.lamp.id, state.trouble)

    def _written(self, device: DeviceId, task: asyncio.Task[Written]) -> None:
        if self._writing.get(device) is task:
            del self._writing[device]
