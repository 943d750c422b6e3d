"""Who is asked for, when, and when it is taken back: a priority request generator (NTCIP 1211). Pure.

Each method is told one thing that has happened and returns what is to be done about it. The same thing told
twice changes nothing. Time is the argument `now`: whatever lasts goes by its monotonic half, the lease and
the age of positions by its civil one.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from protocols.backhaul.messages import Position, PriorityEvent, Source
from protocols.clock import Instant
from protocols.geo import Located, Missed
from protocols.model.command import CommandState
from protocols.model.device import Device
from protocols.model.ids import DeviceId
from protocols.model.policy import Limits
from protocols.model.priority import PriorityPolicy, PriorityRequest, PriorityRule, RequestStatus
from protocols.rules.priority.book import Book, open_requests
from protocols.rules.priority.counts import Counts
from protocols.rules.priority.followed import Followed
from protocols.rules.priority.lane import Group, Lane, key_of, make_lane
from protocols.rules.priority.passage import (
    BACKWARDS_M,
    MAX_REQUESTS,
    OFF_FIXES,
    Left,
    Passage,
    Stage,
    Step,
    eta_of,
    rule_for,
)
from protocols.rules.priority.request import REFUSED, Action, OpenRequest, Report

STILL_MS = 15_000
"""A vehicle that stands for so long while its group is not red does not use its green."""
ETA_MOVED_MS = 3_000
"""The controller is told anew when the arrival has moved by more than this."""
RETRY_MS = 5_000
"""How soon a vehicle is asked for again after a request that did not reach the controller."""
DETECTOR_QUIET_MS = 2_000
"""Pulses closer together than this are one vehicle with several axles."""
MERGE_MS = 8_000
"""A vehicle that arrives within so long of one that a detector has told of is the same one."""
MAX_ANONYMOUS = 4
"""Vehicles on one approach of which only a detector knows."""

_DOORS = "its doors are open"
_STILL = "it stands still, and its group is not red"
_GREEN = "its group is green, and the rule prolongs no green"
_RED = "its group is red, and the rule shortens no red"
_UNKNOWN = "it is not known whether its group is green, and the rule needs to know"
_EARLY = "it is too far away to make use of a longer green"
_UNTOLD = frozenset({_EARLY})
"""What is no refusal, only a moment to wait for."""


class RefusedError(Exception):
    """A request that somebody wants is not made; the text says why.

    Attributes:
        event: for the centre; None where there is not even an approach.
    """

    def __init__(self, why: str, event: PriorityEvent | None = None) -> None:
        super().__init__(why)
        self.event = event


class Generator:
    """The cabinet's approaches, the vehicles on them, and their requests.

    Attributes:
        counts: what came in and what was made of it.
        book: the requests that are not over.
        lanes: the approaches, by id.
        followed: the vehicles, wherever they are.
        idle: the junctions whose controllers are not in control of their lamps.
        known_ms: UTC milliseconds before which it cannot be, by which a lease ends too; whoever keeps the time says.
    """

    def __init__(self, prefix: str, run: str, known_ms: int = 0) -> None:
        """Begin with no policy.

        Args:
            prefix: with which every request id of this cabinet begins, and none of anybody else.
            run: what makes the ids of this run of the agent differ from those of any other.
            known_ms: UTC milliseconds before which it cannot be; 0 if nobody knows.
        """
        self.counts = Counts()
        self.book = Book(prefix, self.counts)
        self.lanes: dict[str, Lane] = {}
        self.followed = Followed(self.counts)
        self.idle: set[DeviceId] = set()
        self._groups: dict[tuple[DeviceId, str], Group] = {}
        self._pulses: dict[str, int] = {}
        self._policy: PriorityPolicy | None = None
        self.known_ms = known_ms
        self._prefix = f"{prefix}{run}-"
        self._number = 0

    # What the generator is told

    def go_by(
        self, policy: PriorityPolicy | None, devices: Mapping[DeviceId, Device], limits: Limits, now: Instant
    ) -> list[Action]:
        """Put a policy in force, or none. What it does not change goes on; the rest is taken back."""
        before, self.lanes, self._policy = self.lanes, {}, policy
        rules = policy.rules if policy else ()
        for approach in policy.approaches if policy else ():
            group = self._groups.setdefault(key_of(approach), Group())
            made = make_lane(approach, rules, devices.get(approach.junction), limits, group)
            old = before.get(approach.id)
            self.lanes[approach.id] = old if old is not None and _same(old, made) else made
        kept = {id(lane) for lane in self.lanes.values()}
        gone = {name for name, lane in before.items() if id(lane) not in kept}
        actions: list[Action] = []
        for request in list(open_requests(self.book)):
            if request.event.approach in gone:
                actions += self.book.withdraw(request, "another policy has come into force", now)
        return self._and_then(actions, now)

    def saw(self, position: Position, source: Source, now: Instant) -> list[Action]:
        """Take a vehicle's position."""
        self.counts.heard += 1
        known = position.pseudonym in self.followed.vehicles
        if not known and not any(lane.holds(position) for lane in self.lanes.values()):
            self.counts.elsewhere += 1
            return []
        if self.followed.is_untimely(position, source, self._stale_ms, now):
            return []
        busy = {name for lane in self.lanes.values() for name in lane.passages}
        vehicle = self.followed.follow(position, busy, now)
        if vehicle is None:
            return []
        actions: list[Action] = []
        if not vehicle.steady:
            self.counts.jumped += 1
            for lane in self.lanes.values():
                actions += self._leave(lane, position.pseudonym, Left.JUMPED, now)
            return self._and_then(actions, now)
        for lane in self.lanes.values():
            if lane.holds(position) or position.pseudonym in lane.passages:
                actions += self._step(lane, position, source, now)
        return self._and_then(actions, now)

    def passed(self, detector: str, now: Instant) -> list[Action]:
        """Take a detector's word that a vehicle has passed it."""
        mine = [lane for lane in self.lanes.values() if detector in _detectors(lane)]
        if not mine:
            return []
        self.counts.pulses += 1
        last_ms = self._pulses.get(detector)
        self._pulses[detector] = now.monotonic_ms
        if last_ms is not None and now.monotonic_ms - last_ms < DETECTOR_QUIET_MS:
            self.counts.chatter += 1
            return []
        actions: list[Action] = []
        for lane in mine:
            if lane.approach.check_in_detector == detector:
                self._came_by_detector(lane, now)
            if lane.approach.check_out_detector == detector:
                actions += self._left_by_detector(lane, now)
        return self._and_then(actions, now)

    def group(self, junction: DeviceId, signal_group: str, green: bool | None, now: Instant) -> list[Action]:
        """Learn whether a signal group is green; None if that is not known any more."""
        group = self._groups.get((junction, signal_group))
        if group is None or group.green is green:
            return []
        group.green = green
        return self._and_then([], now)

    def control(self, junction: DeviceId, *, idle: bool, now: Instant) -> list[Action]:
        """Learn whether a controller is dark, flashes or starts, and so can grant nothing."""
        if idle == (junction in self.idle):
            return []
        if idle:
            self.idle.add(junction)
            return []
        self.idle.discard(junction)
        return self._and_then([], now)

    def told(self, junction: DeviceId, statuses: Sequence[RequestStatus], now: Instant) -> list[Action]:
        """Learn all that a controller tells of requests."""
        return self._and_then(self.book.told(junction, statuses, now), now)

    def outcome(self, request_id: str, state: CommandState, reason: str, now: Instant) -> list[Action]:
        """Learn what became of an `Ask`."""
        return self._and_then(self.book.outcome(request_id, state, reason, now), now)

    def line(self, junction: DeviceId, *, up: bool, now: Instant) -> list[Action]:
        """Learn whether a junction's controller can be reached."""
        return self._and_then(self.book.line(junction, up=up, now=now), now)

    def recover(
        self, left: Sequence[PriorityEvent], grants: Sequence[tuple[DeviceId, str, int]], now: Instant
    ) -> list[Action]:
        """Take up what an earlier run has left.

        Args:
            left: the last event of each request that was not over.
            grants: junction, signal group and monotonic milliseconds of what was granted within the hour.
            now: the moment.
        """
        for junction, signal_group, at_ms in grants:
            group = self._groups.setdefault((junction, signal_group), Group())
            group.grants[False].append(at_ms)
            group.over_ms[False] = max(at_ms, group.over_ms[False] or at_ms)
        actions: list[Action] = []
        for event in left:
            self._groups.setdefault((event.junction, event.signal_group), Group())
            actions += self.book.recover(event, now)
        return actions

    def want(
        self, approach: str, who: str, now: Instant, *, shadow: bool = False
    ) -> tuple[str, list[Action]]:
        """Ask for an approach because somebody at the cabinet wants it; return the request's id too.

        Raises:
            RefusedError: if there is no such approach, or its rules and limits do not allow it now.
        """
        lane = self.lanes.get(approach)
        if lane is None or not lane.rules:
            known = ", ".join(name for name, lane in self.lanes.items() if lane.rules) or "none"
            raise RefusedError(
                f"no rule in force is for an approach {approach!r}; there are rules for: {known}"
            )
        rule = msgspec.structs.replace(lane.rules[0], shadow=shadow or lane.rules[0].shadow)
        passage = self._anonymous(lane, rule, Source.TECHNICIAN, lane.approach.check_in_m, now)
        why = self._objection(lane, passage, now)
        if why and why != _EARLY:
            event = self._event(lane, passage, f"asked for by {who}; not asked: {why}", now)
            raise RefusedError(f"not asked: {why}", event)
        lane.passages[passage.vehicle] = passage
        return passage.request, self._and_then(self._ask(lane, passage, f"asked for by {who}", now), now)

    def end(self, why: str, now: Instant) -> list[Action]:
        """Take everything back; nothing is asked for until another policy comes into force."""
        self.lanes, self._policy = {}, None
        return [act for one in list(open_requests(self.book)) for act in self.book.withdraw(one, why, now)]

    def tick(self, now: Instant) -> list[Action]:
        """Notice what time has done."""
        actions: list[Action] = []
        for lane in self.lanes.values():
            for passage in list(lane.passages.values()):
                if self._is_silent(passage, now):
                    actions += self._leave(lane, passage.vehicle, Left.SILENT, now)
        self.followed.forget(now)
        actions += self.book.tick(now)
        return self._and_then(actions, now)

    @property
    def lease_until_ms(self) -> int | None:
        """When the policy's lease ends, UTC milliseconds; None without a policy."""
        return None if self._policy is None else self._policy.lease_until_ms

    def lapsed(self, now: Instant) -> bool:
        """Tell whether nothing is to be asked for any more: no policy, or its lease is over."""
        return self._policy is None or max(now.utc_ms, self.known_ms) >= self._policy.lease_until_ms

    # Vehicles

    def _is_silent(self, passage: Passage, now: Instant) -> bool:
        if not passage.heard:
            return (
                passage.stage is not Stage.ASKED
                and now.monotonic_ms - passage.since_ms >= 1000 * passage.rule.time_to_live_s
            )
        return now.monotonic_ms - passage.heard_ms >= self._stale_ms

    @property
    def _stale_ms(self) -> int:
        return 0 if self._policy is None else round(1000 * self._policy.stale_position_s)

    def _step(self, lane: Lane, position: Position, source: Source, now: Instant) -> list[Action]:
        """Take a vehicle on along an approach."""
        passage = lane.passages.get(position.pseudonym)
        located = lane.course.locate(position, new=passage is None)
        rule = rule_for(lane.rules, position)
        if passage is None:
            passage = self._welcome(lane, position, located, rule)
        else:
            why = _leaving(lane, passage, located, rule)
            if why is not None:
                return self._leave(lane, passage.vehicle, why, now)
        if passage is None or isinstance(located, Missed):
            return []
        passage.source = source
        lane.course.follow(passage, position, located, now.monotonic_ms)
        if passage.stage is Stage.WAITING and not passage.requests:
            self._merge(lane, passage)
        return []

    def _welcome(
        self, lane: Lane, position: Position, located: Located | Missed, rule: PriorityRule | None
    ) -> Passage | None:
        """Begin to follow a vehicle on an approach, if it comes and a rule is for it."""
        if isinstance(located, Missed) or located.along_m >= lane.approach.stop_line_m:
            return None
        if rule is None:
            self.counts.unentitled += 1
            return None
        made = Passage(position.pseudonym, Source.POSITION, position.vehicle_type, rule, self._new_id())
        lane.passages[position.pseudonym] = made
        return made

    def _merge(self, lane: Lane, passage: Passage) -> None:
        """Take over what was begun for a vehicle when only a detector knew of it."""
        for other in lane.passages.values():
            same = abs(other.arrival_ms - passage.arrival_ms) <= MERGE_MS
            if same and other.source is Source.DETECTOR and other.rule.shadow is passage.rule.shadow:
                del lane.passages[other.vehicle]
                passage.stage, passage.request = other.stage, other.request
                passage.requests, passage.since_ms = other.requests, other.since_ms
                request = self.book.requests.get(other.request)
                if request is not None:
                    request.event = msgspec.structs.replace(request.event, vehicle=passage.pseudonym)
                return

    def _leave(self, lane: Lane, vehicle: str, why: Left, now: Instant) -> list[Action]:
        """Let a vehicle go, and take back what was asked for it."""
        passage = lane.passages.pop(vehicle, None)
        request = None if passage is None else self.book.requests.get(passage.request)
        if request is None:
            return []
        return self.book.withdraw(request, why.value, now, futile=why is Left.PASSED)

    # Detectors

    def _came_by_detector(self, lane: Lane, now: Instant) -> None:
        approach = lane.approach
        rule = next((rule for rule in lane.rules if rule.by_detector), None)
        unknown = [one for one in lane.passages.values() if one.source is Source.DETECTOR]
        if rule is None or len(unknown) >= MAX_ANONYMOUS:
            self.counts.unmatched += 1
            return
        passage = self._anonymous(lane, rule, Source.DETECTOR, approach.detector_m, now)
        by_position = [one for one in lane.passages.values() if one.heard and one.stage is not Stage.COMING]
        if any(abs(one.arrival_ms - passage.arrival_ms) <= MERGE_MS for one in by_position):
            self.counts.known += 1
            return
        lane.passages[passage.vehicle] = passage

    def _left_by_detector(self, lane: Lane, now: Instant) -> list[Action]:
        """Let go whom only the detector knows, the first that came; others tell themselves where they are."""
        first = next((one for one in lane.passages.values() if one.source is Source.DETECTOR), None)
        if first is None:
            self.counts.unmatched += 1
            return []
        return self._leave(lane, first.vehicle, Left.PASSED, now)

    def _anonymous(
        self, lane: Lane, rule: PriorityRule, source: Source, distance_m: float, now: Instant
    ) -> Passage:
        """Make the passage of a vehicle that has just checked in without a name."""
        request = self._new_id()
        return Passage(
            vehicle=f"/{request}",  # no pseudonym has a slash
            source=source,
            vehicle_type=rule.vehicle_types[0],
            rule=rule,
            request=request,
            stage=Stage.WAITING,
            along_m=max(0.0, lane.approach.stop_line_m - distance_m),
            heard_ms=now.monotonic_ms,
            arrival_ms=now.monotonic_ms + round(1000 * lane.course.eta_s(distance_m, 0.0)),
            since_ms=now.monotonic_ms,
        )

    # Requests

    def _and_then(self, actions: list[Action], now: Instant) -> list[Action]:
        """Add what follows: requests that are over, bounds that are reached, vehicles whose turn it is."""
        self._settle(now)
        for request in list(open_requests(self.book)):
            actions += self._bound(request, now)
        self._settle(now)
        for lane in self.lanes.values():
            actions += self._decide(lane, now)
        return actions

    def _settle(self, now: Instant) -> None:
        """Draw the consequences of requests that are over."""
        for request in self.book.take_over():
            event = request.event
            group = self._groups[event.junction, event.signal_group]
            self._note_grant(group, request, now)
            if request.granted:
                group.over_ms[event.shadow] = now.monotonic_ms
            elif event.state in REFUSED or not request.withdrawn_ms:
                group.refused_ms = now.monotonic_ms
            lane = self.lanes.get(event.approach)
            passage = None if lane is None else _passage_of(lane, event.request)
            if lane is None or passage is None or passage.stage is not Stage.ASKED:
                continue
            untaken = event.state is None and not request.granted
            self._go_on(lane, passage, Step.AGAIN if untaken else Step.OVER, now)

    def _go_on(self, lane: Lane, passage: Passage, step: Step, now: Instant) -> None:
        """Take a vehicle on whose request is over, or on its way back."""
        passage.go(step)
        if step is Step.AGAIN:
            passage.request = self._new_id()
            passage.not_before_ms = now.monotonic_ms + RETRY_MS
        elif not passage.heard:  # nobody would ever say that it has left
            del lane.passages[passage.vehicle]

    def _bound(self, request: OpenRequest, now: Instant) -> list[Action]:
        """Take a request back whose time is over, or tell the controller what has changed."""
        lane = self.lanes[request.event.approach]
        passage = next(one for one in lane.passages.values() if one.request == request.asked.id)
        self._note_grant(lane.group, request, now)
        over = self._over(request, now)
        if over:
            self._go_on(lane, passage, Step.OVER, now)
            return self.book.withdraw(request, over, now, futile=not self.lapsed(now))
        why = self._hindrance(lane, passage, now)
        if why:
            self._go_on(lane, passage, Step.AGAIN, now)
            passage.told.add(why)
            return self.book.withdraw(request, why, now)
        return self._tell_arrival(request, passage, now)

    def _note_grant(self, group: Group, request: OpenRequest, now: Instant) -> None:
        """Count a grant once, and note since when its green is held.

        A green that was there is held from the first moment on. One that came early is held from when the
        vehicle was expected: until then its controller, which was told, has only shortened a red.
        """
        if request.granted and not request.noted:
            request.noted = True
            group.grants[request.event.shadow].append(now.monotonic_ms)
        if group.green is False:
            request.early = True
        if not request.granted or group.green is False:
            request.held_ms = None
        elif request.held_ms is None:
            request.held_ms = max(now.monotonic_ms, request.expected_ms if request.early else 0)

    def _over(self, request: OpenRequest, now: Instant) -> str:
        """Return why a request is to be taken back whatever its vehicle does; "" if it may stand."""
        rule = request.rule
        if self.lapsed(now):
            return "the policy's lease is over"
        if now.monotonic_ms - request.asked_ms >= 1000 * rule.time_to_live_s:
            return f"it is older than {rule.time_to_live_s} s"
        held_ms = request.held_ms
        if held_ms is not None and now.monotonic_ms - held_ms >= 1000 * rule.max_extension_s:
            return f"its green has been held for {rule.max_extension_s} s"
        return ""

    def _hindrance(self, lane: Lane, passage: Passage, now: Instant) -> str:
        """Return why a vehicle is not to be asked for just now, whatever the limits; "" if it may be."""
        rule, green = passage.rule, lane.group.green
        still_ms = passage.still_ms
        if passage.doors_open:
            return _DOORS
        if still_ms is not None and now.monotonic_ms - still_ms >= STILL_MS and green is not False:
            return _STILL
        if green is True and not rule.green_extension:
            return _GREEN
        if green is False and not rule.early_green:
            return _RED
        if green is None and not (rule.green_extension and rule.early_green):
            return _UNKNOWN
        return ""

    def _objection(self, lane: Lane, passage: Passage, now: Instant) -> str:
        """Return why a vehicle that has checked in is not asked for now; "" if it is to be."""
        rule, earnest = passage.rule, not passage.rule.shadow
        checks = (
            (self.lapsed(now), "the policy's lease is over"),
            (earnest and not lane.allowed, "the limits file allows no request"),
            (earnest and lane.approach.junction not in self.book.up, "the controller cannot be reached"),
            (
                earnest and lane.approach.junction in self.idle,
                "the controller is not in control of its lamps",
            ),
            (passage.requests >= MAX_REQUESTS, f"it was asked for {MAX_REQUESTS} times already"),
            (self._is_busy(lane, shadow=rule.shadow), "another request for this signal group is under way"),
        )
        why = next((why for stands, why in checks if stands), "")
        why = why or lane.group.objection(rule, now.monotonic_ms) or self._hindrance(lane, passage, now)
        if why or lane.group.green is not True:
            return why
        return _EARLY if eta_of(passage.arrival_ms, now.monotonic_ms) > rule.max_extension_s else ""

    def _is_busy(self, lane: Lane, *, shadow: bool) -> bool:
        """Tell whether a request for an approach's signal group is not over."""
        key = key_of(lane.approach)
        events = (request.event for request in self.book.requests.values())
        return any((one.junction, one.signal_group) == key and one.shadow is shadow for one in events)

    def _decide(self, lane: Lane, now: Instant) -> list[Action]:
        """Ask for whoever is next on an approach: the most urgent, then the nearest."""
        actions: list[Action] = []
        waiting = [
            one
            for one in lane.passages.values()
            if one.stage is Stage.WAITING and now.monotonic_ms >= one.not_before_ms
        ]
        for passage in sorted(waiting, key=lambda one: (-one.rule.level, one.arrival_ms)):
            why = self._objection(lane, passage, now)
            if not why:
                actions += self._ask(lane, passage, "", now)
            elif why not in passage.told and why not in _UNTOLD:
                passage.told.add(why)
                actions.append(Report(self._event(lane, passage, f"not asked: {why}", now)))
        return actions

    def _ask(self, lane: Lane, passage: Passage, reason: str, now: Instant) -> list[Action]:
        rule = passage.rule
        passage.go(Step.ASK)
        passage.requests += 1
        asked = PriorityRequest(
            id=passage.request,
            signal_group=lane.approach.signal_group,
            level=rule.level,
            eta_s=eta_of(passage.arrival_ms, now.monotonic_ms),
            vehicle_type=passage.vehicle_type,
        )
        event = self._event(lane, passage, reason, now)
        request = OpenRequest(asked, lane.approach.junction, event, rule, now.monotonic_ms)
        request.arrival_ms = request.expected_ms = passage.arrival_ms
        actions = self.book.ask(request)
        self._note_grant(lane.group, request, now)
        return actions

    def _tell_arrival(self, request: OpenRequest, passage: Passage, now: Instant) -> list[Action]:
        told_ms = request.arrival_ms
        if abs(passage.arrival_ms - told_ms) <= ETA_MOVED_MS or not request.settled:
            return []
        if max(told_ms, passage.arrival_ms - ETA_MOVED_MS) <= now.monotonic_ms:  # it is due, and stays so
            return []
        eta_s = eta_of(passage.arrival_ms, now.monotonic_ms)
        asked = msgspec.structs.replace(request.asked, eta_s=eta_s)
        return self.book.update(request, asked, passage.arrival_ms)

    def _event(self, lane: Lane, passage: Passage, reason: str, now: Instant) -> PriorityEvent:
        return PriorityEvent(
            request=passage.request,
            junction=lane.approach.junction,
            rule=passage.rule.id,
            approach=lane.approach.id,
            signal_group=lane.approach.signal_group,
            vehicle=passage.pseudonym,
            source=passage.source,
            level=passage.rule.level,
            state=None,
            reason=reason,
            at_ms=now.utc_ms,
            shadow=passage.rule.shadow,
        )

    def _new_id(self) -> str:
        self._number += 1
        return f"{self._prefix}{self._number}"


def _leaving(
    lane: Lane, passage: Passage, located: Located | Missed, rule: PriorityRule | None
) -> Left | None:
    """Return why a vehicle is no longer on an approach, or None if it is."""
    if rule != passage.rule:
        return Left.CHANGED
    if isinstance(located, Missed):
        passage.misses += 1
        beyond = passage.along_m >= lane.approach.stop_line_m
        why = Left.PASSED if beyond else Left.TURNED
        return why if passage.misses >= OFF_FIXES else None
    if lane.course.has_passed(located.along_m):
        return Left.PASSED
    return Left.TURNED if passage.along_m - located.along_m > BACKWARDS_M else None


def _same(old: Lane, new: Lane) -> bool:
    return (old.approach, old.rules, old.allowed) == (new.approach, new.rules, new.allowed)


def _detectors(lane: Lane) -> Iterator[str]:
    yield from filter(None, (lane.approach.check_in_detector, lane.approach.check_out_detector))


def _passage_of(lane: Lane, request: str) -> Passage | None:
    return next((one for one in lane.passages.values() if one.request == request), None)
