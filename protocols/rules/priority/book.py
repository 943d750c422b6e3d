"""The requests that are not over, and what their controllers say of them.

A request that is taken back is cancelled until its controller says that it has ended, or tells of its
requests and no longer of this one. Requests of ours that a controller tells of and nobody here knows, from
before a restart, are cancelled in the same way.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from protocols.backhaul.messages import PriorityEvent
from protocols.clock import Instant
from protocols.model.command import CommandState
from protocols.model.ids import DeviceId
from protocols.model.priority import ENDED, PriorityRequest, PriorityRule, RequestState, RequestStatus
from protocols.rules.priority.counts import Counts
from protocols.rules.priority.request import (
    GRANTED,
    REACHABLE,
    REFUSED,
    Action,
    Ask,
    Cancel,
    Look,
    OpenRequest,
    Phase,
    Report,
    Update,
    Word,
)

CANCEL_AGAIN_MS = 2_000
CANCEL_BOUND_MS = 30_000
"""How soon a cancel that was not confirmed is said again: doubled each time, up to the bound."""
GIVE_UP_MS = 600_000
"""After so long the controller itself has dropped the request: none lets one live for more than 255 s."""
UNANSWERED_MS = 30_000
"""RSMP core 3.2.2: what is not acknowledged within 30 s is a disruption. Whoever carries requests has given up."""
UNTOLD_MS = 5_000
"""For so long after asking a controller's list may still be from before."""
MAX_STRAYS = 64
"""Requests of ours, unknown here, that are cancelled at a time; the controller tells of the others again."""

_TAKEN = {
    CommandState.VERIFIED: Word.TAKEN,
    CommandState.APPLIED: Word.TAKEN,
    CommandState.FAILED: Word.NOT_TAKEN,
}


class _Stray(msgspec.Struct):
    """A request of ours that a controller tells of and nobody here knows."""

    junction: DeviceId
    next_ms: int
    cancels: int = 0


class Book:
    """The open requests of a cabinet.

    Attributes:
        requests: by id.
        up: the junctions whose controllers can be reached.
        failing: for each junction how many requests in a row were of no use.
    """

    def __init__(self, prefix: str, counts: Counts) -> None:
        self.requests: dict[str, OpenRequest] = {}
        self.up: set[DeviceId] = set()
        self.failing: Counter[DeviceId] = Counter()
        self._prefix = prefix
        self._counts = counts
        self._strays: dict[str, _Stray] = {}
        self._over: list[OpenRequest] = []

    def take_over(self) -> list[OpenRequest]:
        """Return the requests that have ended since this was last asked."""
        over, self._over = self._over, []
        return over

    def of(self, junction: DeviceId) -> list[OpenRequest]:
        """Return a junction's open requests, those that only watch left out."""
        return [one for one in self.requests.values() if one.junction == junction and not one.event.shadow]

    def is_awaiting(self) -> bool:
        """Tell whether a controller that can be reached has yet to say what became of a request."""
        return any(not one.event.shadow and one.junction in self.up for one in self.requests.values())

    # What we want

    def ask(self, request: OpenRequest) -> list[Action]:
        """Ask for a green."""
        self.requests[request.asked.id] = request
        if request.event.shadow:
            request.phase = Phase.PLACED
            request.granted = True
            return [self._report(request, reason="shadow: it would be asked for", granted=True)]
        self._counts.asked += 1
        return [Ask(request.junction, request.asked, request.event), Report(request.event)]

    def update(self, request: OpenRequest, asked: PriorityRequest, arrival_ms: int) -> list[Action]:
        """Tell when the vehicle will really arrive."""
        request.asked, request.arrival_ms = asked, arrival_ms
        if request.event.shadow or request.junction not in self.up:
            return []
        self._counts.updates += 1
        return [Update(request.junction, asked)]

    def withdraw(self, request: OpenRequest, why: str, now: Instant, *, futile: bool = False) -> list[Action]:
        """Take a request back; one that is on its way back already stays so."""
        if request.phase not in {Phase.SENDING, Phase.PLACED}:
            return []
        request.futile = futile
        if request.event.shadow:
            return self._end(request, Word.ABSENT, now, reason=f"shadow: it would be taken back: {why}")
        request.hear(Word.WITHDRAWN)
        request.withdrawn_ms = request.cancel_ms = now.monotonic_ms
        return [*self._cancel(request, now), self._report(request, now, reason=why)]

    def recover(self, event: PriorityEvent, now: Instant) -> list[Action]:
        """Take back a request that an earlier run has left; its controller is not reached yet."""
        asked = PriorityRequest(event.request, event.signal_group, event.level)
        rule = PriorityRule(event.rule, event.approach)
        request = OpenRequest(
            asked, event.junction, event, rule, now.monotonic_ms, Phase.RETURNING, settled=True
        )
        request.withdrawn_ms = request.cancel_ms = now.monotonic_ms
        request.granted = request.noted = event.state in GRANTED
        self.requests[event.request] = request
        return [self._report(request, now, reason="the agent has begun anew")]

    # What we hear

    def outcome(self, request_id: str, state: CommandState, reason: str, now: Instant) -> list[Action]:
        """Learn what became of asking."""
        request = self.requests.get(request_id)
        if request is None or request.settled:
            return []
        request.settled = True
        word = _TAKEN.get(state, Word.UNKNOWN)
        was = request.phase
        if word is Word.NOT_TAKEN and was is not Phase.PLACED:
            return self._end(request, word, now, reason=f"the controller did not take it: {reason}")
        request.hear(word)
        if was is Phase.SENDING and request.phase is Phase.RETURNING:
            request.withdrawn_ms = request.cancel_ms = now.monotonic_ms
            told = self._report(
                request, now, reason=f"it is not known whether the controller has it: {reason}"
            )
            return [*self._cancel(request, now), told]
        return []

    def told(self, junction: DeviceId, statuses: Sequence[RequestStatus], now: Instant) -> list[Action]:
        """Learn all that a controller tells of requests."""
        actions: list[Action] = []
        for status in statuses:
            request = self.requests.get(status.id)
            if request is not None and request.junction == junction and not request.event.shadow:
                actions += self._told(request, status, now)
            elif status.id.startswith(self._prefix) and status.state not in ENDED:
                actions += self._stray(junction, status.id, now)
        listed = {status.id for status in statuses}
        for name in [n for n, s in self._strays.items() if s.junction == junction and n not in listed]:
            del self._strays[name]
        for request in self.of(junction):
            known = request.seen or now.monotonic_ms - request.asked_ms >= UNTOLD_MS
            if request.asked.id not in listed and request.settled and known:
                actions += self._end(request, Word.ABSENT, now, reason=_absent(request))
        return actions

    def line(self, junction: DeviceId, *, up: bool, now: Instant) -> list[Action]:
        """Learn whether a controller can be reached; once it can again, ask it what it knows."""
        if up == (junction in self.up):
            return []
        if not up:
            self.up.discard(junction)
            return []
        self.up.add(junction)
        for request in self.of(junction):
            if request.cancel_ms is not None:
                request.cancel_ms, request.cancels = now.monotonic_ms, 0
        return [Look(junction), *self.tick(now)]

    def tick(self, now: Instant) -> list[Action]:
        """Cancel what is to be cancelled, and give up what no controller can still have."""
        actions: list[Action] = []
        for request in list(self.requests.values()):
            if request.phase is Phase.RETURNING and now.monotonic_ms - request.withdrawn_ms >= GIVE_UP_MS:
                self._counts.unconfirmed += 1
                why = f"{request.event.reason}; the controller has never confirmed its end"
                actions += self._end(request, Word.GIVEN_UP, now, reason=why)
            elif request.phase is Phase.SENDING and now.monotonic_ms - request.asked_ms >= UNANSWERED_MS:
                actions += self.withdraw(request, "nobody says whether the controller has it", now)
            else:
                actions += self._cancel(request, now)
        for name in list(self._strays):
            actions += self._cancel_stray(name, now)
        return actions

    # How

    def _told(self, request: OpenRequest, status: RequestStatus, now: Instant) -> list[Action]:
        event = request.event
        request.seen = True
        gains = (status.extension_s, status.reduction_s)
        if (event.state, event.extension_s, event.reduction_s) == (status.state, *gains):
            return []
        if event.state not in {None, status.state} and status.state not in REACHABLE[event.state]:
            self._counts.strange += 1
        request.event = msgspec.structs.replace(
            event,
            state=status.state,
            controller_ms=status.at_ms,
            extension_s=status.extension_s,
            reduction_s=status.reduction_s,
        )
        granted = status.state in GRANTED and not request.granted
        request.granted = request.granted or granted
        self._counts.granted += granted
        if status.state in ENDED:
            return self._end(request, Word.TOLD_END, now, granted=granted)
        request.hear(Word.TOLD)
        return [self._report(request, now, granted=granted)]

    def _end(
        self,
        request: OpenRequest,
        word: Word,
        now: Instant,
        *,
        reason: str | None = None,
        granted: bool = False,
    ) -> list[Action]:
        lost = word is Word.NOT_TAKEN or (word is Word.ABSENT and request.phase is Phase.PLACED)
        request.hear(word)
        del self.requests[request.asked.id]
        self._over.append(request)
        if not request.event.shadow:
            self._judge(request, lost=lost, unconfirmed=word is Word.GIVEN_UP)
        return [self._report(request, now, reason=reason, granted=granted, over=True)]

    def _judge(self, request: OpenRequest, *, lost: bool, unconfirmed: bool) -> None:
        """Count what was of no use; that a controller is in its cool-down is its good right."""
        refused = request.event.state in REFUSED - {RequestState.COOLDOWN}
        in_vain = not request.granted and (request.futile or lost or refused)
        if in_vain or unconfirmed or request.event.state is RequestState.STALE:
            self.failing[request.junction] += 1
        elif request.granted:
            self.failing[request.junction] = 0

    def _report(
        self,
        request: OpenRequest,
        now: Instant | None = None,
        *,
        reason: str | None = None,
        granted: bool = False,
        over: bool = False,
    ) -> Report:
        event = request.event
        request.event = msgspec.structs.replace(
            event,
            reason=event.reason if reason is None else reason,
            at_ms=event.at_ms if now is None else now.utc_ms,
            over=over,
        )
        return Report(request.event, granted)

    def _cancel(self, request: OpenRequest, now: Instant) -> list[Action]:
        due_ms = request.cancel_ms
        if due_ms is None or now.monotonic_ms < due_ms or request.junction not in self.up:
            return []
        request.cancels += 1
        request.cancel_ms = now.monotonic_ms + _pause_ms(request.cancels)
        self._counts.cancels += 1
        look: Iterable[Action] = [Look(request.junction)] if request.cancels > 1 else []
        return [Cancel(request.junction, request.asked.id), *look]

    def _stray(self, junction: DeviceId, name: str, now: Instant) -> list[Action]:
        if name in self._strays or len(self._strays) >= MAX_STRAYS:
            return []
        self._counts.strays += 1
        self._strays[name] = _Stray(junction, now.monotonic_ms)
        return self._cancel_stray(name, now)

    def _cancel_stray(self, name: str, now: Instant) -> list[Action]:
        stray = self._strays[name]
        if now.monotonic_ms < stray.next_ms or stray.junction not in self.up:
            return []
        stray.cancels += 1
        stray.next_ms = now.monotonic_ms + _pause_ms(stray.cancels)
        self._counts.cancels += 1
        look: Iterable[Action] = [Look(stray.junction)] if stray.cancels > 1 else []
        return [Cancel(stray.junction, name), *look]


def _pause_ms(cancels: int) -> int:
    return int(min(CANCEL_BOUND_MS, CANCEL_AGAIN_MS << min(cancels - 1, 8)))


def _absent(request: OpenRequest) -> str:
    if request.phase is Phase.RETURNING:
        return request.event.reason
    return "the controller no longer tells of it"


def open_requests(book: Book) -> Iterator[OpenRequest]:
    """Yield the requests that are not on their way back."""
    return (one for one in book.requests.values() if one.phase in {Phase.SENDING, Phase.PLACED})
