"""Which readings are worth keeping: those that changed, and a heartbeat. Pure."""

from collections.abc import Sequence

import msgspec

from drivers.base import PolledPoint
from protocols.model.device import Report
from protocols.model.reading import Fault, Reason, Sample, Value

_SILENCE = frozenset({Reason.NO_ANSWER, Reason.BACKED_OFF})


class _Last(msgspec.Struct):
    """What was last kept of a point."""

    value: Value
    fault: Fault | None
    at_ms: int


class Keeper:
    """Remembers, for some points of one device, what was last kept of each."""

    def __init__(self, points: Sequence[PolledPoint]) -> None:
        self._points = tuple(points)
        self._names = tuple(point.point.name for point in self._points)
        self._all = range(len(self._points))
        self._each = all(point.report is Report.EACH for point in points)
        self._last: list[_Last | None] = [None] * len(self._points)
        self._any_kept = False

    def keep(self, sample: Sample) -> Sample | None:
        """Return what of a sample is worth keeping; None if nothing is.

        Args:
            sample: of all the points that this keeper was made for, or of some of them.
        """
        if self._each and not sample.faults:
            if self._any_kept:  # so that a fault that comes back is news again
                self._last = [None] * len(self._points)
                self._any_kept = False
            return sample
        whose = self._all if sample.points == self._names else [self._names.index(p) for p in sample.points]
        kept = [position for position, which in enumerate(whose) if self._is_news(which, position, sample)]
        for position in kept:
            last = _Last(sample.values[position], sample.fault(position), sample.monotonic_ms)
            self._last[whose[position]] = last
        self._any_kept = self._any_kept or bool(kept)
        if len(kept) == len(sample.points):
            return sample
        return sample.pick(kept) if kept else None

    def _is_news(self, which: int, position: int, sample: Sample) -> bool:
        point, last = self._points[which], self._last[which]
        value, fault = sample.values[position], sample.fault(position)
        if last is None or sample.monotonic_ms - last.at_ms >= point.heartbeat_s * 1000:
            return True
        if fault is not None or last.fault is not None:
            return not _same_fault(fault, last.fault) or value != last.value
        if point.report is Report.EACH:
            return True
        if isinstance(value, int | float) and isinstance(last.value, int | float):
            return abs(value - last.value) > point.dead_band
        return value != last.value


def _same_fault(now: Fault | None, before: Fault | None) -> bool:
    """Tell whether nothing new is known: a silent device that was not even asked is still silent."""
    if now is None or before is None:
        return now is before
    return now == before or {now.reason, before.reason} <= _SILENCE
