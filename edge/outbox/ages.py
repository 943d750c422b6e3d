"""How old what waits in an outbox is, by clocks that were not set or were wrong. Pure.

A batch is stored with the time that was told when it was sealed. Where that was a guess nobody can say how old the
batch is, so its age takes it from nobody; where a clock event has put the boot's times right, it is that much
younger or older than it says.
"""

from collections.abc import Iterable

import msgspec

from protocols.clock import EARLIEST_PLAUSIBLE_MS, Correction

MAX_WINDOWS = 16
"""Boots without a clock, and corrections, that are remembered; of older ones what was told counts."""


class Window(msgspec.Struct, frozen=True):
    """A stretch of told time that means something else.

    Attributes:
        boot: by which boot it was told.
        begin_ms: told UTC milliseconds.
        end_ms: the last of them; None while the boot goes on.
        moved_ms: what is to be added; None if nobody knows.
        since_ms: UTC milliseconds of the end or the correction: what it is about is older.
    """

    boot: str
    begin_ms: int
    end_ms: int | None = None
    moved_ms: int | None = None
    since_ms: int = 0


class Ages(msgspec.Struct, frozen=True):
    """What is known of the times in an outbox."""

    windows: tuple[Window, ...] = ()

    def true_ms(self, told_ms: int) -> int | None:
        """Return when a batch was sealed that was told to be of a moment; None if nobody knows."""
        for window in self.windows:
            if window.begin_ms <= told_ms and (window.end_ms is None or told_ms <= window.end_ms):
                return None if window.moved_ms is None else told_ms + window.moved_ms
        return told_ms if told_ms >= EARLIEST_PLAUSIBLE_MS else None

    def best_ms(self, told_ms: int) -> int:
        """Return the same, or what was told for want of better."""
        true_ms = self.true_ms(told_ms)
        return told_ms if true_ms is None else true_ms

    def is_open(self, boot: str) -> bool:
        """Tell whether it is noted that what a boot tells now is a guess."""
        return any(one.boot == boot and one.end_ms is None for one in self.windows)

    def opened(self, boot: str, told_ms: int) -> "Ages":
        """Note that from now on what a boot tells is a guess."""
        return _of((*self.windows, Window(boot, told_ms)))

    def corrected(self, boot: str, correction: Correction, now_ms: int) -> "Ages":
        """Note how what a boot has told until now is put right."""
        begin_ms = correction.before_ms
        moved_ms = correction.after_ms - correction.before_ms
        put_right = Window(boot, begin_ms, begin_ms + correction.until_ms, moved_ms, now_ms)
        others = (
            msgspec.structs.replace(one, since_ms=correction.corrected(one.since_ms))
            for one in self.windows
            if one.boot != boot or one.end_ms is not None
        )
        return _of((*others, put_right))

    def ended(self, boot: str, last_ms: int, now_ms: int) -> "Ages":
        """Note that boots other than this one tell nothing any more.

        Args:
            boot: the one that runs.
            last_ms: the last moment that was told.
            now_ms: UTC milliseconds.
        """
        return _of(
            msgspec.structs.replace(one, end_ms=max(last_ms, one.begin_ms), since_ms=now_ms)
            if one.end_ms is None and one.boot != boot
            else one
            for one in self.windows
        )

    def without_old(self, horizon_ms: int) -> "Ages":
        """Forget what is only about batches that are too old anyway."""
        return _of(one for one in self.windows if one.end_ms is None or one.since_ms >= horizon_ms)


def _of(windows: Iterable[Window]) -> Ages:
    return Ages(tuple(windows)[-MAX_WINDOWS:])
