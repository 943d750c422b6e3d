"""What is known of a signal group, and of the vehicles on an approach to it."""

from collections.abc import Sequence

import msgspec

from protocols.backhaul.messages import Position
from protocols.geo import Cell, Way
from protocols.model.device import Device
from protocols.model.ids import DeviceId
from protocols.model.policy import Limits
from protocols.model.priority import Approach, PriorityRule
from protocols.rules.limits import bounded_rule, requests_allowed, signal_limits_of
from protocols.rules.priority.passage import Course, Passage

HOUR_MS = 3_600_000
REFUSED_MS = 5_000
"""For so long after its controller has refused a request nobody is asked for: what refuses one vehicle refuses the
next, and each vehicle that waits would be a question more."""


class Group(msgspec.Struct):
    """A signal group that is asked for.

    Attributes:
        green: whether it is green now; None if nobody knows.
        grants: monotonic milliseconds of the grants of the last hour: [in earnest, in shadow].
        over_ms: monotonic milliseconds when the last granted request was over: the same.
        refused_ms: monotonic milliseconds when the controller last did not take a request, or refused it.
    """

    green: bool | None = None
    grants: list[list[int]] = msgspec.field(default_factory=lambda: [[], []])
    over_ms: list[int | None] = msgspec.field(default_factory=lambda: [None, None])
    refused_ms: int | None = None

    def objection(self, rule: PriorityRule, now_ms: int) -> str:
        """Return why no further request may be granted for this group now; "" if it may."""
        over_ms = self.over_ms[rule.shadow]
        recent = self.grants[rule.shadow] = [
            one for one in self.grants[rule.shadow] if now_ms - one < HOUR_MS
        ]
        if over_ms is not None and now_ms - over_ms < 1000 * rule.cooldown_s:
            return "cool-down after the last granted request"
        if len(recent) >= rule.grants_per_hour:
            return "as many requests as allowed were granted within the hour"
        if not rule.shadow and self.refused_ms is not None and now_ms - self.refused_ms < REFUSED_MS:
            return "the controller has just refused another"
        return ""


class Lane(msgspec.Struct):
    """An approach and who is on it.

    Attributes:
        course: the approach, ready to find vehicles on.
        rules: those of this approach, bounded by the limits file.
        allowed: whether the limits file allows any request.
        group: its signal group.
        box: outside it nobody is on the approach.
        passages: by vehicle.
    """

    course: Course
    rules: tuple[PriorityRule, ...]
    allowed: bool
    group: Group
    box: Cell
    passages: dict[str, Passage] = msgspec.field(default_factory=dict)

    @property
    def approach(self) -> Approach:
        """The approach as the policy has it."""
        return self.course.approach

    def holds(self, position: Position) -> bool:
        """Tell, cheaply, whether a position can be on this approach at all."""
        box = self.box
        return (
            box.south <= position.latitude <= box.north
            and (position.longitude - box.west) % 360 <= box.east - box.west
        )


def make_lane(
    approach: Approach, rules: Sequence[PriorityRule], device: Device | None, limits: Limits, group: Group
) -> Lane:
    """Make an approach ready; of a junction that is not there nothing is allowed."""
    way = Way(approach.path)
    boxes = way.bounds(approach.corridor_m)
    box = Cell(
        min(one.south for one in boxes),
        min(one.west for one in boxes),
        max(one.north for one in boxes),
        max(one.east for one in boxes),
    )
    named = [] if device is None else signal_limits_of(limits, device, approach.signal_group)
    mine = tuple(bounded_rule(rule, named) for rule in rules if rule.approach == approach.id)
    allowed = device is not None and requests_allowed(named)
    return Lane(Course(approach, way), mine, allowed, group, box)


def key_of(approach: Approach) -> tuple[DeviceId, str]:
    """Return what names an approach's signal group in the cabinet."""
    return approach.junction, approach.signal_group
