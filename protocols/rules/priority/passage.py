"""A vehicle's way through an approach, from where it is first heard to where it is no longer asked for.

    COMING ──checked in──▶ WAITING ──asked──▶ ASKED ──its request is over──▶ SPENT
                              ▲                 │
                              └──taken back, and may be asked again

It may leave from anywhere: it passes, turns off, jumps, or falls silent.
"""

import math
from collections.abc import Mapping, Sequence
from enum import Enum

import msgspec

from protocols.backhaul.messages import Position, Source
from protocols.errors import LocalProtocolError
from protocols.geo import Located, Missed, Way
from protocols.model.priority import MAX_ETA_S, Approach, PriorityRule, VehicleType, Waypoint

MOVING_M_S = 1.5
"""Below this a receiver's heading is noise, and its speed says nothing of when the vehicle will arrive."""
OFF_FIXES = 2
"""So many positions in a row that are not on the way: one alone is a receiver between high houses."""
BACKWARDS_M = 30.0
"""A vehicle that is suddenly so much farther back is not driving this way."""
MAX_REQUESTS = 3
"""For one passage: what flaps, at a stop or on a bad line, must not fill the controller."""


class Stage(Enum):
    """Where a passage is."""

    COMING = "coming"
    WAITING = "waiting"
    ASKED = "asked"
    SPENT = "spent"


class Step(Enum):
    """What takes a passage on."""

    CHECK_IN = "checked in"
    ASK = "asked for"
    AGAIN = "taken back for now"
    OVER = "done with"


STEPS: Mapping[Stage, Mapping[Step, Stage]] = {
    Stage.COMING: {Step.CHECK_IN: Stage.WAITING},
    Stage.WAITING: {Step.ASK: Stage.ASKED},
    Stage.ASKED: {Step.AGAIN: Stage.WAITING, Step.OVER: Stage.SPENT},
    Stage.SPENT: {},
}


class Left(Enum):
    """Why a vehicle is no longer on an approach."""

    PASSED = "it has passed"
    TURNED = "it has turned off"
    JUMPED = "its position jumped"
    SILENT = "nothing was heard of it any more"
    CHANGED = "it is no longer what the rule is for"


class Passage(msgspec.Struct):
    """A vehicle on an approach.

    Attributes:
        vehicle: its pseudonym, or a name of ours that no pseudonym can be.
        source: how it is known.
        vehicle_type: what it is.
        rule: the rule that fits it, bounded by the limits file.
        request: the id of its request, also while none has been made.
        stage: where it is.
        along_m: where on the way.
        speed_m_s: its own; 0 if nobody knows.
        heard_ms: monotonic milliseconds when it was last heard of.
        arrival_ms: monotonic milliseconds when it will be at the stop line, as far as can be told.
        since_ms: monotonic milliseconds when it checked in.
        still_ms: since when it stands; None while it moves.
        doors_open: whether people get on and off.
        misses: how many positions in a row were not on the way.
        requests: how many were made for it.
        not_before_ms: after a failure, when it may be asked for again.
        told: reasons for not asking that were reported already.
    """

    vehicle: str
    source: Source
    vehicle_type: VehicleType
    rule: PriorityRule
    request: str
    stage: Stage = Stage.COMING
    along_m: float = 0.0
    speed_m_s: float = 0.0
    heard_ms: int = 0
    arrival_ms: int = 0
    since_ms: int = 0
    still_ms: int | None = None
    doors_open: bool = False
    misses: int = 0
    requests: int = 0
    not_before_ms: int = 0
    told: set[str] = msgspec.field(default_factory=set)

    @property
    def heard(self) -> bool:
        """Whether it tells its position, so that its silence means something."""
        return self.source in {Source.POSITION, Source.LOCAL}

    @property
    def pseudonym(self) -> str:
        """Its pseudonym; "" where nobody knows which vehicle it is."""
        return self.vehicle if self.heard else ""

    def go(self, step: Step) -> None:
        """Go where the table says.

        Raises:
            LocalProtocolError: if that cannot happen there.
        """
        try:
            self.stage = STEPS[self.stage][step]
        except KeyError:
            raise LocalProtocolError(f"a passage that is {self.stage.value} cannot be {step.value}") from None


class Course(msgspec.Struct):
    """An approach, ready to find vehicles on."""

    approach: Approach
    way: Way

    def locate(self, position: Position, *, new: bool) -> Located | Missed:
        """Return where on the approach a position is.

        A vehicle that is known and stands is not judged by its heading: it cannot turn off without moving.
        """
        approach = self.approach
        judged = new or position.speed_m_s >= MOVING_M_S
        return self.way.locate(
            Waypoint(position.latitude, position.longitude),
            approach.corridor_m,
            position.heading_deg if judged else None,
            approach.heading_tolerance_deg,
        )

    def has_passed(self, along_m: float) -> bool:
        """Tell whether somebody there is beyond the check-out."""
        return along_m >= self.approach.stop_line_m + self.approach.check_out_m

    def eta_s(self, distance_m: float, speed_m_s: float) -> float:
        """Return the seconds to the stop line, with the vehicle's own speed if it has any."""
        pace = speed_m_s if speed_m_s >= MOVING_M_S else self.approach.approach_speed_m_s
        return max(0.0, distance_m) / pace

    def follow(self, passage: Passage, position: Position, located: Located, now_ms: int) -> None:
        """Put a vehicle where its position says."""
        passage.along_m = located.along_m
        passage.speed_m_s = position.speed_m_s
        passage.heard_ms = now_ms
        passage.misses = 0
        passage.doors_open = position.doors_open is True
        if position.speed_m_s >= MOVING_M_S:
            passage.still_ms = None
        elif passage.still_ms is None:
            passage.still_ms = now_ms
        distance_m = self.approach.stop_line_m - located.along_m
        passage.arrival_ms = now_ms + round(1000 * self.eta_s(distance_m, position.speed_m_s))
        if passage.stage is Stage.COMING and distance_m <= self.approach.check_in_m:
            passage.go(Step.CHECK_IN)
            passage.since_ms = now_ms


def fits(rule: PriorityRule, position: Position) -> bool:
    """Tell whether a rule is for a vehicle."""
    return (
        position.vehicle_type in rule.vehicle_types
        and (not rule.routes or position.route in rule.routes)
        and (not rule.directions or position.direction in rule.directions)
    )


def rule_for(rules: Sequence[PriorityRule], position: Position) -> PriorityRule | None:
    """Return the first rule that fits, which holds; None if none does."""
    return next((rule for rule in rules if fits(rule, position)), None)


def eta_of(arrival_ms: int, now_ms: int) -> int:
    """Return whole seconds until an arrival, as a controller takes them: 0 to 255."""
    return min(MAX_ETA_S, max(0, math.ceil((arrival_ms - now_ms) / 1000)))
