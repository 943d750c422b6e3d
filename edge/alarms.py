"""What a cabinet raises from what it reads. One per (device, type); a dead line speaks for all there."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec
import structlog

from drivers.base import LineHealth, LineState
from protocols.clock import Correction
from protocols.model.alarm import Alarm, AlarmType
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Reason, Sample, Value

log = structlog.get_logger()

SILENT_READS = 3
"""So many reads without an answer in a row are a loss of communication, not bad luck. A device that speaks by itself
is not asked thrice: its driver has waited for it, and tells of its silence once."""
DISAGREEING_READS = 2
"""A contactor takes a moment: so many reads in a row must disagree with its feedback."""

RAISED_BY: dict[PointName, tuple[AlarmType, Value, str]] = {
    PointName("lamp_failure"): (AlarmType.LAMP_FAILURE, True, "the control gear reports a failed lamp"),
    PointName("control_gear_failure"): (AlarmType.CONTROL_GEAR_FAILURE, True, "the control gear is not ok"),
    PointName("cabinet_door_open"): (AlarmType.CABINET_DOOR_OPEN, True, "the cabinet's door is open"),
    PointName("breaker_tripped"): (AlarmType.BREAKER_TRIPPED, True, "the lamps' breaker has tripped"),
    PointName("mains_present"): (AlarmType.SUPPLY_LOSS, False, "the cabinet has no mains"),
    PointName("controller_fault"): (
        AlarmType.CONTROLLER_FAULT,
        True,
        "the signal controller has a major fault",
    ),
    PointName("controller_warning"): (
        AlarmType.CONTROLLER_WARNING,
        True,
        "the signal controller has a minor fault",
    ),
    PointName("pump_failure"): (AlarmType.PUMP_FAILURE, True, "a pump has failed"),
    PointName("high_level"): (AlarmType.HIGH_LEVEL, True, "the level is too high"),
    PointName("battery_low"): (AlarmType.BATTERY_LOW, True, "the battery is almost empty"),
}
"""Which value of which point raises what; any other good value clears it."""

_UNASKED = frozenset({Reason.LINE_DOWN, Reason.BACKED_OFF, Reason.UNPOWERED})
_UNHEARD = frozenset({Reason.NO_ANSWER, Reason.GARBLED, Reason.COLLISION})
MAX_TEXT = 400
"""As much as an alarm carries; a longer text would make the hello that names it unreadable."""


class Alarms:
    """The cabinet's alarms.

    Args:
        active: those that last from an earlier run.
        heard: by device, the points of those that are never polled: a sample in which none of them has anything to
            say is the verdict of a driver that has waited.

    Attributes:
        active: those that last.
    """

    def __init__(
        self, active: Iterable[Alarm] = (), heard: Mapping[DeviceId, Collection[PointName]] | None = None
    ) -> None:
        self._heard = {device: frozenset(points) for device, points in (heard or {}).items()}
        self.active = {(alarm.device, alarm.type): alarm for alarm in active}
        self._silent: Counter[DeviceId] = Counter()
        self._disagreeing: Counter[DeviceId] = Counter()

    def look_at_sample(self, sample: Sample, now_ms: int) -> list[Alarm]:
        """Return what a sample raises and clears."""
        return [
            changed
            for kind, raised, text in (
                *self._communication(sample),
                *_by_points(sample),
                *self._contactor(sample),
            )
            if (changed := self._set(sample.device, kind, text if raised else None, now_ms)) is not None
        ]

    def forget_others(self, known: Collection[DeviceId], now_ms: int) -> list[Alarm]:
        """Clear the alarms of what is no longer there; return them."""
        gone = [(device, kind) for device, kind in self.active if device not in known]
        return [changed for device, kind in gone if (changed := self._set(device, kind, None, now_ms))]

    def look_at_line(self, health: LineHealth, now_ms: int) -> list[Alarm]:
        """Return what a line's health raises and clears."""
        if health.state is LineState.CONNECTING:
            return []
        text = f"line {health.line}: {health.reason}" if health.state is LineState.DOWN else None
        changed = self._set(DeviceId(health.line), AlarmType.LINE_DOWN, text, now_ms)
        return [changed] if changed else []

    def correct(self, correction: Correction) -> list[Alarm]:
        """Put right when those were raised that last, as the centre does; return them."""
        changed = []
        for key, lasting in self.active.items():
            raised_ms = correction.corrected(lasting.raised_ms)
            if raised_ms != lasting.raised_ms:
                self.active[key] = msgspec.structs.replace(lasting, raised_ms=raised_ms)
                changed.append(self.active[key])
        return changed

    def raise_or_clear(self, device: DeviceId, kind: AlarmType, text: str | None, now_ms: int) -> list[Alarm]:
        """Raise an alarm with a text, or clear it with None; return what changed."""
        changed = self._set(device, kind, text, now_ms)
        return [changed] if changed else []

    def _communication(self, sample: Sample) -> Iterator[tuple[AlarmType, bool, str]]:
        faults = [sample.fault(position) for position in range(len(sample.points))]
        reasons = {fault.reason if fault is not None else None for fault in faults}
        if reasons - _UNASKED - _UNHEARD:  # a value, or a refusal: it answers
            self._silent[sample.device] = 0
            yield AlarmType.COMMUNICATION_FAILURE, False, ""
        elif not reasons & _UNASKED:
            self._silent[sample.device] += 1
            if self._is_verdict(sample):
                yield AlarmType.COMMUNICATION_FAILURE, True, f"{sample.device} is not heard any more"
            elif self._silent[sample.device] >= SILENT_READS:
                yield AlarmType.COMMUNICATION_FAILURE, True, f"{sample.device} does not answer"

    def _is_verdict(self, sample: Sample) -> bool:
        heard = self._heard.get(sample.device)
        return heard is not None and heard <= frozenset(sample.points)

    def _contactor(self, sample: Sample) -> Iterator[tuple[AlarmType, bool, str]]:
        values = dict(zip(sample.points, sample.values, strict=True))
        wanted, found = values.get(PointName("contactor")), values.get(PointName("contactor_feedback"))
        if wanted is None or found is None:
            return
        self._disagreeing[sample.device] = 0 if wanted == found else self._disagreeing[sample.device] + 1
        if self._disagreeing[sample.device] >= DISAGREEING_READS:
            yield AlarmType.CONTACTOR_ERROR, True, "the lamps' contactor does not do what it is told"
        elif wanted == found:
            yield AlarmType.CONTACTOR_ERROR, False, ""

    def _set(self, device: DeviceId, kind: AlarmType, text: str | None, now_ms: int) -> Alarm | None:
        lasting = self.active.get((device, kind))
        if text is None and lasting is not None:
            del self.active[device, kind]
            log.info("alarm_cleared", device=device, type=kind.value)
            return Alarm(device, kind, lasting.raised_ms, now_ms, lasting.text)
        if text is not None and lasting is None:
            raised = self.active[device, kind] = Alarm(device, kind, now_ms, None, text[:MAX_TEXT])
            log.warning("alarm_raised", device=device, type=kind.value, text=text)
            return raised
        return None


def _by_points(sample: Sample) -> Iterator[tuple[AlarmType, bool, str]]:
    for position, point in enumerate(sample.points):
        if point in RAISED_BY and sample.fault(position) is None:
            kind, raising, text = RAISED_BY[point]
            yield kind, sample.values[position] == raising, text
