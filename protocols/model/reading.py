"""What was read of a device, when, and how far it can be believed.

A line is read one device at a time, so readings are born in groups: a `Sample` is everything that one
transaction with one device gave. A `Reading` is one point of it, as the store and the API know it.
"""

import math
from collections.abc import Iterator, Sequence
from enum import IntEnum, StrEnum

import msgspec

from protocols.clock import ClockQuality
from protocols.model.ids import DeviceId, PointName

Value = float | int | bool | str | None
"""A point's value; None where there is none to be believed."""


class Quality(IntEnum):
    """How far a value can be believed. The numbers are on the wire: append only."""

    GOOD = 0
    UNCERTAIN = 1
    BAD = 2


class Reason(StrEnum):
    """Why a value is not good. The words are on the wire: append only."""

    NO_ANSWER = "no_answer"
    """The device was asked on a working line, or should have spoken by itself, and stayed silent."""
    GARBLED = "garbled"
    """Something answered, and it was not a valid frame."""
    COLLISION = "collision"
    """Several devices answered at once."""
    REFUSED = "refused"
    """The device answered that it would not: a Modbus exception, an OPC UA bad status."""
    LINE_DOWN = "line_down"
    """The line itself is not there: port missing, host dead, bus without power."""
    BACKED_OFF = "backed_off"
    """Not asked: the device has been silent and is probed less often."""
    UNPOWERED = "unpowered"
    """The device's feeder is switched off, which is no fault."""
    OUT_OF_RANGE = "out_of_range"
    """A value that the device cannot mean."""
    NOT_A_NUMBER = "not_a_number"
    NOT_AVAILABLE = "not_available"
    """The device says that it does not have this value (MASK, TMASK, 0x8000)."""
    STALE = "stale"
    """The last value that there was; it should have been renewed since."""
    INACCURATE = "inaccurate"
    """The device itself doubts it."""
    SENSOR_FAILURE = "sensor_failure"
    """The device says that what it measures with is broken."""


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """What is wrong with one value of a sample.

    Attributes:
        quality: never GOOD.
        reason: why.
    """

    quality: Quality
    reason: Reason


class Sample(msgspec.Struct, frozen=True):
    """What one transaction with one device gave.

    Attributes:
        device: whom we asked.
        monotonic_ms: when the answer was in, milliseconds of this boot's monotonic clock.
        points: what was asked for, in the driver's order; at least one.
        values: one for each point; None where there is no value to be believed.
        faults: by position in `points`; a position that is absent is good.
    """

    device: DeviceId
    monotonic_ms: int
    points: tuple[PointName, ...]
    values: tuple[Value, ...]
    faults: dict[int, Fault] = {}

    def fault(self, position: int) -> Fault | None:
        """Return what is wrong with the value at `position`, or None when it is good."""
        return self.faults.get(position)

    def pick(self, positions: Sequence[int]) -> "Sample":
        """Return the sample reduced to some of its points."""
        return Sample(
            device=self.device,
            monotonic_ms=self.monotonic_ms,
            points=tuple(self.points[i] for i in positions),
            values=tuple(self.values[i] for i in positions),
            faults={new: self.faults[old] for new, old in enumerate(positions) if old in self.faults},
        )


def sample(
    device: DeviceId,
    monotonic_ms: int,
    points: Sequence[PointName],
    values: Sequence[Value | Fault],
) -> Sample:
    """Build a sample from values among which faults stand in place; a non-finite number becomes a fault."""
    clean: list[Value] = []
    faults: dict[int, Fault] = {}
    for position, value in enumerate(values):
        if isinstance(value, Fault):
            clean.append(None)
            faults[position] = value
        elif isinstance(value, float) and not math.isfinite(value):
            clean.append(None)
            faults[position] = Fault(Quality.BAD, Reason.NOT_A_NUMBER)
        else:
            clean.append(value)
    return Sample(device, monotonic_ms, tuple(points), tuple(clean), faults)


def failed_sample(device: DeviceId, monotonic_ms: int, points: Sequence[PointName], reason: Reason) -> Sample:
    """Build the sample of a device that gave nothing: bad quality with the reason, never silence."""
    fault = Fault(Quality.BAD, reason)
    return Sample(
        device,
        monotonic_ms,
        tuple(points),
        (None,) * len(points),
        dict.fromkeys(range(len(points)), fault),
    )


class Reading(msgspec.Struct, frozen=True):
    """One point of one device at one moment, as the store and the API know it.

    Attributes:
        device: whom we asked.
        point: what for.
        value: None unless there is one to be believed.
        quality: how far.
        reason: None when good.
        monotonic_ms: the cabinet's monotonic clock of that boot.
        utc_ms: None while the cabinet has no clock at all.
        clock: how far `utc_ms` can be trusted.
    """

    device: DeviceId
    point: PointName
    value: Value
    quality: Quality
    reason: Reason | None
    monotonic_ms: int
    utc_ms: int | None
    clock: ClockQuality


def readings(sample: Sample, utc_offset_ms: int | None, clock: ClockQuality) -> Iterator[Reading]:
    """Yield a sample's readings, stamped: utc = monotonic + offset."""
    utc_ms = None if utc_offset_ms is None else sample.monotonic_ms + utc_offset_ms
    for position, (point, value) in enumerate(zip(sample.points, sample.values, strict=True)):
        fault = sample.faults.get(position)
        yield Reading(
            device=sample.device,
            point=point,
            value=value,
            quality=fault.quality if fault else Quality.GOOD,
            reason=fault.reason if fault else None,
            monotonic_ms=sample.monotonic_ms,
            utc_ms=utc_ms,
            clock=clock,
        )
