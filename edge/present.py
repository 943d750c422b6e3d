"""The present, told while a backlog keeps it waiting: latest values, conflated, without number and never kept.

Each reading that is to be kept waits its turn in the outbox. So that nobody at the centre has to look at yesterday
meanwhile, what has changed is told beside it, every few seconds, in one message that may be lost.
"""

from collections.abc import Iterable, Mapping

import msgspec
import structlog

from protocols.backhaul.codec import columns, encode_snapshot
from protocols.backhaul.messages import VERSION, Snapshot
from protocols.clock import Clock
from protocols.errors import LocalProtocolError
from protocols.model.ids import CabinetId, DeviceId, PointName
from protocols.model.reading import Sample

log = structlog.get_logger()

EVERY_S = 2.0
"""A person who looks at a lamp is content with this, and a modem as well."""
RENEW_S = 30.0
"""What has not changed is told again after so long: the snapshot that told it may be lost."""
MAX_READINGS = 1_000
"""In one snapshot, about 4 kB on the way; what finds no room is the first of the next."""


class _Told(msgspec.Struct, frozen=True):
    """What was last told of a point, and when, in seconds of the loop's clock."""

    sample: Sample
    position: int
    at_s: float


class _Due(msgspec.Struct, frozen=True):
    """A point that is to be told; `told_s` is when it was last."""

    told_s: float
    point: PointName
    sample: Sample
    position: int


class Present:
    """Finds what has changed since it was last told.

    Args:
        cabinet: whose present.
        boot: which boot the monotonic times belong to.
        clock: the agent's.
        latest: the last sample of each point of each device, kept by the agent.
    """

    def __init__(
        self,
        cabinet: CabinetId,
        boot: str,
        clock: Clock,
        latest: Mapping[DeviceId, Mapping[str, Sample]],
    ) -> None:
        self._cabinet = cabinet
        self._boot = boot
        self._clock = clock
        self._latest = latest
        self._told: dict[tuple[DeviceId, PointName], _Told] = {}
        self._due_s = float("-inf")

    def claim(self, now_s: float) -> bool:
        """Tell whether a snapshot is due, and take its turn."""
        if now_s < self._due_s:
            return False
        self._due_s = now_s + EVERY_S
        return True

    def drop(self, now_s: float) -> None:
        """Give a turn up that came while the way was busy; the next comes soon, with what has changed by then."""
        self._due_s = now_s + EVERY_S / 4

    def forget(self) -> None:
        """Tell everything again: the connection is another, and what was told on the last may be lost."""
        self._told.clear()

    def snapshot(self, now_s: float) -> bytes | None:
        """Return what is to be told now, None if that is nothing.

        A value that cannot be said at all keeps nobody else from being told.
        """
        due = self._due(now_s)[:MAX_READINGS]
        while due:
            try:
                content = encode_snapshot(self._make(due))
            except LocalProtocolError as error:
                if len(due) == 1:
                    log.warning("present_cannot_be_told", device=due[0].sample.device, error=str(error))
                    self._mark(due, now_s)
                    return None
                due = due[: len(due) // 2]
            else:
                self._mark(due, now_s)
                return content
        return None

    def _due(self, now_s: float) -> list[_Due]:
        """Return the points that are to be told, those that have waited longest first."""
        due = []
        for points in self._latest.values():
            for name, sample in points.items():
                point = PointName(name)
                told = self._told.get((sample.device, point))
                if told is None:
                    due.append(_Due(float("-inf"), point, sample, sample.points.index(point)))
                elif told.sample is not sample:
                    position = sample.points.index(point)
                    if now_s - told.at_s >= RENEW_S or _said(told.sample, told.position) != _said(
                        sample, position
                    ):
                        due.append(_Due(told.at_s, point, sample, position))
        due.sort(key=lambda one: one.told_s)
        return due

    def _make(self, due: Iterable[_Due]) -> Snapshot:
        now = self._clock.now()
        by_sample: dict[int, tuple[Sample, list[int]]] = {}
        for one in due:
            by_sample.setdefault(id(one.sample), (one.sample, []))[1].append(one.position)
        samples = [sample.pick(sorted(positions)) for sample, positions in by_sample.values()]
        base_ms = max(now.monotonic_ms, *(one.monotonic_ms for one in samples))
        return Snapshot(
            version=VERSION,
            cabinet=self._cabinet,
            boot=self._boot,
            base_monotonic_ms=base_ms,
            utc_offset_ms=now.utc_ms - now.monotonic_ms,
            clock=now.quality,
            columns=columns(samples, base_ms),
        )

    def _mark(self, due: Iterable[_Due], now_s: float) -> None:
        for one in due:
            self._told[one.sample.device, one.point] = _Told(one.sample, one.position, now_s)


def _said(sample: Sample, position: int) -> tuple[object, object, object]:
    value = sample.values[position]
    return type(value), value, sample.fault(position)
