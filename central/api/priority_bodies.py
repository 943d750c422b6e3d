"""What the API says and hears of priority: drafts, requests, figures."""

from datetime import date, datetime
from typing import Annotated

import msgspec

from central.api.bodies import Expiry, Moment
from protocols.backhaul.messages import Source
from protocols.model.priority import Approach, PriorityRule, RequestState

SHORTEST_LEASE_S = 60.0
LONGEST_LEASE_S = 31 * 86_400.0
"""A cabinet that nobody has reached for a month must not go on asking for green by rules of last month."""
Lease = Annotated[float, msgspec.Meta(ge=SHORTEST_LEASE_S, le=LONGEST_LEASE_S)]


class Priority(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who gets priority at a cabinet's junctions: a draft until it is published.

    Attributes:
        approaches: the ways through its junctions.
        rules: the first that fits a vehicle holds; with none nothing is asked for.
        stale_position_s: a vehicle of which nothing was heard for so long is no longer believed to come.
    """

    approaches: tuple[Approach, ...] = ()
    rules: tuple[PriorityRule, ...] = ()
    stale_position_s: Annotated[float, msgspec.Meta(ge=1, le=60)] = 5.0


class PriorityPublishRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For how long a cabinet goes by what is published, and how long it may take to accept it.

    Attributes:
        lease_s: seconds from now after which the cabinet asks for nothing any more; 7 days unless told.
        lease_until: the same, as a moment.
        renew: whether the aggregator signs the same again, for another `lease_s`, each time half of it is
            over. Only a lease that is given in seconds can be renewed.
        valid_for_s: how long it may be accepted; never longer than its lease.
    """

    lease_s: Lease | None = None
    lease_until: Moment | None = None
    renew: bool = False
    valid_for_s: Expiry = 7 * 86_400.0


class PriorityView(msgspec.Struct, frozen=True):
    """A vehicle's request for a green, and what became of it.

    Attributes:
        id: the request's, unique within its cabinet.
        vehicle: its rotating pseudonym; empty where only a detector knows it.
        source: how the cabinet knew of it.
        state: the last that the controller said; null where it was not asked, or has not answered.
        reason: why it was not asked, or was taken back.
        first: the first step, by which the list is ordered.
        asked: when it was asked of the controller; null if it was not.
        changed: when `state` came.
        activated: when the controller said that the request is active.
        wait_s: seconds from `asked` to `activated`.
        extension_s: seconds of green given, as the controller says; null if it did not say.
        reduction_s: seconds of red saved, the same.
        shadow: whether the rule only watches, and nothing was asked of the controller.
        over: whether the cabinet holds the request no longer, whatever `state` was last; false of what was not
            asked for.
        contradiction: what in the steps cannot be, such as "activated after rejected"; empty if all can.
    """

    id: str
    cabinet: str
    junction: str
    rule: str
    approach: str
    signal_group: str
    vehicle: str
    source: Source
    level: int
    state: RequestState | None
    reason: str
    first: datetime
    asked: datetime | None
    changed: datetime
    activated: datetime | None
    wait_s: float | None
    extension_s: int | None
    reduction_s: int | None
    shadow: bool
    over: bool
    contradiction: str


class PriorityStep(msgspec.Struct, frozen=True):
    """One step of a request, as the cabinet told it.

    Attributes:
        at: by the cabinet's clock.
        controller_time: by the controller's own, if it said so.
        over: whether the cabinet has said with it that it holds the request no longer.
    """

    at: datetime
    controller_time: datetime | None
    state: RequestState | None
    reason: str
    level: int
    source: Source
    extension_s: int | None
    reduction_s: int | None
    over: bool


class PriorityHistory(PriorityView, frozen=True, kw_only=True):
    """A request with its steps, in the order in which they happened."""

    steps: list[PriorityStep]


class PriorityFigures(msgspec.Struct, frozen=True):
    """What priority did at a junction by one rule on one day.

    Each request is in exactly one of `granted`, `rejected`, `cooldown`, `timed_out`, `waiting`, `unanswered`
    and `not_asked`. What a rule that only watches would have asked for is in `shadow` alone, what a technician
    tried in `trials` alone.

    Attributes:
        day: in UTC, by the first step of each request.
        requests: all but the shadow ones and the trials.
        granted: those that the controller said to be active, or to have been.
        stale: those of the granted that were never cancelled.
        rejected: refused by the controller.
        cooldown: refused by the controller, because it had just completed a similar one.
        timed_out: queued for too long.
        waiting: received or queued, and nothing more said.
        unanswered: asked, and the controller said nothing.
        not_asked: the cabinet had a reason not to ask.
        shadow: of rules that only watch.
        trials: by somebody at the cabinet, for no vehicle.
        contradictory: of all of these, those whose steps contradict each other; where they are counted
            follows from the steps that can be.
        extension_s: seconds of green given, as the controllers say.
        reduction_s: seconds of red saved, the same.
        green_seconds_gained: both.
        median_wait_s: seconds from the request to the green, of those that the controller said to be active.
    """

    day: date
    cabinet: str
    junction: str
    rule: str
    requests: int
    granted: int
    stale: int
    rejected: int
    cooldown: int
    timed_out: int
    waiting: int
    unanswered: int
    not_asked: int
    shadow: int
    trials: int
    contradictory: int
    extension_s: int
    reduction_s: int
    green_seconds_gained: int
    median_wait_s: float | None
