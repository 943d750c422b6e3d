"""What a cabinet knows of the time. Pure: the raw clock's readings come as arguments.

A gateway without a battery starts in 1970; one with an empty battery starts anywhere; a time server may lie. So
there are two times. *Told* is what goes on stamps and into deciding: the clock's own once something has set it,
until then the last known good time, which has gone on with the monotonic clock. *Good* is a lower bound of now by
which nothing that has expired comes back: it follows a synchronised clock that has run for a while without a
step, and what a policy's signature says; no lie of a few minutes moves it.

Told time moves in `look` alone, never between two lines of a program, and each move is a `ClockEvent`.
"""

import msgspec

from protocols.backhaul.messages import ClockEvent
from protocols.clock import ClockQuality, Instant

STEP_MS = 1_000
"""A clock that differs by as much from what was told of it has stepped, at once or little by little."""
DRIFT_MS = 50
"""A difference that is followed without a word."""
STEADY_MS = 600_000
"""So long a synchronised clock must run without a step before it moves what is known to be good."""
HEAL_MS = 3_600_000
"""So long it must disagree before it is believed that what was known to be good was wrong."""


class ClockRecord(msgspec.Struct, frozen=True):
    """What the next run is to know.

    Attributes:
        boot: of which boot.
        monotonic_ms: when this was so.
        utc_ms: told time then.
        quality: how far it could be trusted.
        was_set: whether something had disciplined the clock in that boot.
        good_ms: good time then.
    """

    boot: str
    monotonic_ms: int
    utc_ms: int
    quality: ClockQuality
    was_set: bool
    good_ms: int


class KnownTime:
    """The time that a cabinet goes by.

    Attributes:
        offset_ms: told time = monotonic + this.
        quality: how far told time can be trusted.
        was_set: whether something has disciplined the clock in this boot.
        steps: how often told time has moved, or was set, since the run began.
        last: the last of these moves.
    """

    def __init__(self, boot: str, raw: Instant, record: ClockRecord | None, floor_ms: int = 0) -> None:
        """Take up what earlier runs knew.

        Args:
            boot: which boot of the machine this is.
            raw: what its clock says now.
            record: what an earlier run has left.
            floor_ms: UTC milliseconds before which it cannot be, as what is signed says, or an older version knew.
        """
        self._boot = boot
        self._steady_from_ms: int | None = None
        self.steps = 0
        self.last: ClockEvent | None = None
        known_ms = floor_ms if record is None else max(floor_ms, record.good_ms)
        self._good_offset_ms = known_ms - raw.monotonic_ms
        self._is_told = record is not None and record.boot == boot and record.monotonic_ms <= raw.monotonic_ms
        if record is not None and self._is_told:
            self._good_offset_ms = max(self._good_offset_ms, record.good_ms - record.monotonic_ms)
            self.offset_ms, self.quality = record.utc_ms - record.monotonic_ms, record.quality
            self.was_set = record.was_set
        else:
            self.offset_ms, self.quality = self._judge(raw)
            self.was_set = False
        self._told_offset_ms = self.offset_ms
        self._kept = (self.offset_ms, self.quality, self.was_set)
        self._unconfirmed = False

    def now(self, monotonic_ms: int) -> Instant:
        """Return told time at a monotonic moment."""
        return Instant(monotonic_ms, monotonic_ms + self.offset_ms, self.quality)

    def good_ms(self, monotonic_ms: int) -> int:
        """Return UTC milliseconds before which a monotonic moment cannot be."""
        return monotonic_ms + self._good_offset_ms

    def known_ms(self, monotonic_ms: int) -> int:
        """Return the time that expiries go by: the later of told and good time."""
        return monotonic_ms + max(self.offset_ms, self._good_offset_ms)

    def learn(self, utc_ms: int, monotonic_ms: int) -> None:
        """Take note that it cannot be before a moment: somebody who is trusted has signed that."""
        self._good_offset_ms = max(self._good_offset_ms, utc_ms - monotonic_ms)

    def record(self, monotonic_ms: int) -> ClockRecord:
        """Return what the next run is to know: a move that is not on disk yet is told again by that one."""
        offset_ms, quality, was_set = self._kept
        good_ms = self.good_ms(monotonic_ms)
        return ClockRecord(self._boot, monotonic_ms, monotonic_ms + offset_ms, quality, was_set, good_ms)

    def confirm(self) -> None:
        """Take note that what was told of the clock is on disk."""
        self._kept = (self._told_offset_ms, self.quality, self.was_set)
        self._unconfirmed = False

    def look(self, raw: Instant) -> ClockEvent | None:
        """Take over what the clock says; return what is to be told of it, if anything is."""
        offset_ms, quality = self._judge(raw)
        moved = abs(offset_ms - self._told_offset_ms) >= STEP_MS
        is_set = quality is ClockQuality.SYNCHRONISED and not self.was_set
        risen = self.quality is ClockQuality.UNSYNCHRONISED < quality
        first = not self._is_told and quality is not ClockQuality.UNSYNCHRONISED
        event = None
        if moved or is_set or risen or first:
            event = ClockEvent(
                boot=self._boot,
                monotonic_ms=raw.monotonic_ms,
                utc_ms=raw.monotonic_ms + offset_ms,
                before_ms=self.offset_ms if self._is_told else None,
                before=self.quality,
                clock=quality,
                corrects=not self.was_set,
            )
            self.steps += self._is_told
            self.last = event
            self._told_offset_ms = offset_ms
        if event is not None or abs(offset_ms - self.offset_ms) >= DRIFT_MS:
            self.offset_ms = offset_ms
        self.quality = quality
        self.was_set = self.was_set or is_set
        self._is_told = True
        self._follow(raw, moved=moved)
        self._unconfirmed = self._unconfirmed or event is not None
        if not self._unconfirmed:
            self.confirm()
        return event

    def _judge(self, raw: Instant) -> tuple[int, ClockQuality]:
        """Say what time is told while the clock says this: its offset, and its quality.

        Something that disciplines a clock is believed at once. A clock that runs free cannot be right if it is
        behind good time; then good time goes on.
        """
        offset_ms = raw.utc_ms - raw.monotonic_ms
        behind = offset_ms < self._good_offset_ms - STEP_MS
        match raw.quality:
            case ClockQuality.SYNCHRONISED:
                return offset_ms, ClockQuality.SYNCHRONISED
            case ClockQuality.HOLDOVER if not behind:
                return offset_ms, ClockQuality.HOLDOVER
            case _:
                return max(offset_ms, self._good_offset_ms), ClockQuality.UNSYNCHRONISED

    def _follow(self, raw: Instant, *, moved: bool) -> None:
        """Let good time follow a synchronised clock that has not stepped for long enough."""
        if raw.quality is not ClockQuality.SYNCHRONISED:
            self._steady_from_ms = None
            return
        if moved or self._steady_from_ms is None:
            self._steady_from_ms = raw.monotonic_ms
        offset_ms = raw.utc_ms - raw.monotonic_ms
        is_behind = offset_ms < self._good_offset_ms - STEP_MS
        if raw.monotonic_ms - self._steady_from_ms < (HEAL_MS if is_behind else STEADY_MS):
            return
        self._good_offset_ms = offset_ms
