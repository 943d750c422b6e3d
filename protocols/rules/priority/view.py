"""What a generator knows, as somebody who looks wants to see it."""

import msgspec

from protocols.backhaul.messages import Source
from protocols.clock import Instant
from protocols.model.ids import DeviceId
from protocols.model.priority import RequestState
from protocols.rules.priority.generator import Generator
from protocols.rules.priority.lane import HOUR_MS, Lane
from protocols.rules.priority.passage import Passage


class VehicleView(msgspec.Struct, frozen=True):
    """A vehicle on an approach.

    Attributes:
        vehicle: its pseudonym, "" where only a detector or a technician knows of it.
        source: how it is known.
        stage: "coming", "waiting", "asked", "spent".
        to_stop_line_m: metres; negative behind it.
        eta_s: seconds to the stop line, as far as can be told.
        heard_s: seconds since it was heard of.
        not_asked: why it was not asked for, so far.
    """

    vehicle: str
    source: Source
    stage: str
    to_stop_line_m: float
    eta_s: float
    heard_s: float
    not_asked: tuple[str, ...]


class ApproachView(msgspec.Struct, frozen=True):
    """An approach and who is on it.

    Attributes:
        approach: which.
        junction: of which junction.
        signal_group: its group.
        green: whether that is green; None if nobody knows.
        reachable: whether the controller can be asked.
        allowed: whether the limits file allows any request.
        rules: by which rules.
        shadow: whether none of them asks anything.
        grants_last_hour: as the controller told them.
        vehicles: who is on it.
    """

    approach: str
    junction: DeviceId
    signal_group: str
    green: bool | None
    reachable: bool
    allowed: bool
    rules: tuple[str, ...]
    shadow: bool
    grants_last_hour: int
    vehicles: tuple[VehicleView, ...]


class RequestView(msgspec.Struct, frozen=True):
    """A request that is not over.

    Attributes:
        request: its id.
        approach: on which approach.
        junction: of which junction.
        vehicle: for whom.
        phase: "sending", "placed", "returning".
        state: what the controller said last; None if nothing.
        reason: why it is taken back.
        age_s: seconds since it was made.
        cancels: how often it was cancelled.
        shadow: whether it was made at all.
    """

    request: str
    approach: str
    junction: DeviceId
    vehicle: str
    phase: str
    state: RequestState | None
    reason: str
    age_s: float
    cancels: int
    shadow: bool


def approaches(generator: Generator, now: Instant) -> tuple[ApproachView, ...]:
    """Return the approaches and who is on them."""
    return tuple(
        ApproachView(
            approach=name,
            junction=lane.approach.junction,
            signal_group=lane.approach.signal_group,
            green=lane.group.green,
            reachable=lane.approach.junction in generator.book.up,
            allowed=lane.allowed,
            rules=tuple(rule.id for rule in lane.rules),
            shadow=all(rule.shadow for rule in lane.rules),
            grants_last_hour=sum(now.monotonic_ms - one < HOUR_MS for one in lane.group.grants[False]),
            vehicles=tuple(_vehicle(lane, passage, now) for passage in lane.passages.values()),
        )
        for name, lane in generator.lanes.items()
    )


def requests(generator: Generator, now: Instant) -> tuple[RequestView, ...]:
    """Return the requests that are not over."""
    return tuple(
        RequestView(
            request=one.event.request,
            approach=one.event.approach,
            junction=one.junction,
            vehicle=one.event.vehicle,
            phase=one.phase.value,
            state=one.event.state,
            reason=one.event.reason,
            age_s=(now.monotonic_ms - one.asked_ms) / 1000,
            cancels=one.cancels,
            shadow=one.event.shadow,
        )
        for one in generator.book.requests.values()
    )


def _vehicle(lane: Lane, passage: Passage, now: Instant) -> VehicleView:
    return VehicleView(
        vehicle=passage.pseudonym,
        source=passage.source,
        stage=passage.stage.value,
        to_stop_line_m=lane.approach.stop_line_m - passage.along_m,
        eta_s=(passage.arrival_ms - now.monotonic_ms) / 1000,
        heard_s=(now.monotonic_ms - passage.heard_ms) / 1000,
        not_asked=tuple(sorted(passage.told)),
    )
