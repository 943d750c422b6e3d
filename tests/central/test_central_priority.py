"""What becomes of a priority request follows from its steps alone, in whatever order and however often they come."""

from collections.abc import Iterator
from itertools import count, pairwise
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from central import priority
from central.effects import ChangeKind
from central.priority import LATER, MAX_STEPS, Outcome, outcome
from protocols.backhaul.messages import PriorityEvent
from protocols.model.device import StreamClass
from protocols.model.ids import DeviceId
from protocols.model.priority import ENDED, NEXT, RequestState
from tests.central.cabinet_double import START_MS, CabinetDouble, taken
from tests.central.desk import Desk
from tests.central.junctions import CAB, JUNCTION, junction_cabinet, passage, step
from tests.protocols.rules.priority.junction_bench import Junction

S = RequestState
COLUMNS = (
    "request, state, first_ms, asked_ms, changed_ms, activated_ms, extension_s, reduction_s, reason,"
    " over, contradiction"
)


@pytest.fixture
def cabinet() -> CabinetDouble:
    return junction_cabinet()


def tell(desk: Desk, cabinet: CabinetDouble, *steps: PriorityEvent) -> None:
    desk.deliver(cabinet.message(cabinet.seal_event(*steps), StreamClass.EVENTS))


def kept(desk: Desk, columns: str = COLUMNS) -> list[tuple[object, ...]]:
    return desk.ask(f"SELECT {columns} FROM priority_request ORDER BY request")  # noqa: S608  a test's own words


def lifelines() -> st.SearchStrategy[list[PriorityEvent]]:
    """Draw steps of one request: any states at any times, told by whatever words."""
    return st.lists(
        st.builds(
            step,
            st.sampled_from([None, *S]),
            st.integers(0, 5),
            extension_s=st.sampled_from([None, None, 0, 9, 300]),
            reason=st.sampled_from(["", "", "out of its corridor"]),
            shadow=st.booleans(),
            over=st.sampled_from([False, False, True]),
        ),
        min_size=1,
        max_size=8,
    )


class TestOutcome:
    """Pure: from a set of steps to what they come to."""

    @given(lifelines(), st.randoms(use_true_random=False))
    def test_any_order_and_repetition_comes_to_the_same(
        self, steps: list[PriorityEvent], random: Random
    ) -> None:
        repeated = [*steps, *random.choices(steps, k=3)]
        random.shuffle(repeated)
        assert outcome(repeated) == outcome(steps)

    @given(lifelines())
    def test_no_state_is_ever_turned_back(self, steps: list[PriorityEvent]) -> None:
        ordered = sorted(steps, key=priority.place)
        seen = [outcome(ordered[: n + 1]).state for n in range(len(ordered))]
        for before, after in pairwise(seen):
            assert before is None or after is before or (after is not None and after in LATER[before])

    @given(lifelines())
    def test_what_is_flagged_is_what_no_controller_can_have_done(self, steps: list[PriorityEvent]) -> None:
        told = sorted(steps, key=priority.place)
        states = [one.state for one in told if one.state is not None]
        chain = all(b is a or b in LATER[a] for a, b in pairwise(states))
        possible = all(one.extension_s != 300 and not (one.shadow and one.state) for one in steps)
        assert (outcome(steps).contradiction == "") == (chain and possible)

    def test_what_may_come_later_is_what_the_table_leads_to(self) -> None:
        assert LATER[S.RECEIVED] == frozenset(S) - {S.RECEIVED}
        assert LATER[S.QUEUED] == {S.ACTIVATED, S.TIMEOUT, S.COMPLETED, S.STALE}
        assert all(NEXT[state] <= LATER[state] for state in S)
        assert {state for state in S if not LATER[state]} == ENDED

    def test_missed_steps_contradict_nothing(self) -> None:
        assert outcome([step(S.RECEIVED), step(S.COMPLETED, 20, extension_s=4)]) == Outcome(
            first_ms=START_MS,
            asked_ms=START_MS,
            changed_ms=START_MS + 20_000,
            activated_ms=None,
            state=S.COMPLETED,
            reason="",
            extension_s=4,
            reduction_s=None,
            over=True,
            contradiction="",
        )

    def test_it_is_over_when_the_cabinet_says_so_whatever_the_controller_said_last(self) -> None:
        for state in (None, S.RECEIVED, S.QUEUED, S.ACTIVATED):
            steps = [step(state), step(state, 5, reason="the controller no longer tells of it")]
            assert not outcome(steps).over
            assert outcome([steps[0], msgspec.structs.replace(steps[1], over=True)]).over

    def test_the_last_word_that_overtakes_an_earlier_step_stays_the_last_word(self) -> None:
        found = outcome([step(S.QUEUED, 9), step(S.RECEIVED, 3, over=True)])
        assert (found.state, found.over) == (S.QUEUED, True)

    @pytest.mark.parametrize("state", sorted(ENDED))
    def test_an_end_is_an_end_though_the_step_that_says_so_was_missed(self, state: RequestState) -> None:
        assert outcome([step(), step(state, 5)]).over

    def test_the_wait_begins_when_the_controller_is_asked(self) -> None:
        unasked = step(None, 0, reason="not asked: the approach has had its grants of this hour")
        assert outcome([unasked]).asked_ms is None
        found = outcome([unasked, step(None, 7), step(S.RECEIVED, 8), step(S.ACTIVATED, 12)])
        assert (found.first_ms, found.asked_ms) == (START_MS, START_MS + 7_000)

    def test_what_ended_stays_ended_and_the_contradiction_is_said(self) -> None:
        found = outcome([step(), step(S.REJECTED, 1), step(S.ACTIVATED, 2), step(S.COMPLETED, 3)])
        assert (found.state, found.activated_ms) == (S.REJECTED, None)
        assert found.contradiction == "activated after rejected"

    def test_what_is_given_in_contradiction_is_not_given(self) -> None:
        found = outcome([step(S.REJECTED), step(S.COMPLETED, 3, extension_s=9, reduction_s=3)])
        assert (found.extension_s, found.reduction_s) == (None, None)

    def test_a_figure_that_no_controller_gives_is_no_figure(self) -> None:
        found = outcome([*passage("r-1")[:3], step(S.COMPLETED, 12, extension_s=-4, reduction_s=256)])
        assert (found.extension_s, found.reduction_s) == (None, None)
        assert found.contradiction == "extension of -4 s"

    def test_a_rule_that_only_watches_cannot_be_answered(self) -> None:
        assert outcome([step(None, shadow=True)]).contradiction == ""
        assert "only watches" in outcome([step(S.ACTIVATED, shadow=True)]).contradiction


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["bus", "pass", "wait", "taken", "silent", "tell", "tell", "tell"]),
            st.integers(0, 7),
        )
    ),
    st.randoms(use_true_random=False),
)
def test_what_the_cabinets_own_rules_report_comes_to_what_they_said_last(
    moves: list[tuple[str, int]], random: Random
) -> None:
    """The witness is the other end: the rules that decide in the cabinet, and a controller by the book."""
    junction, told = Junction(), dict[str, RequestState]()
    for move, number in [("bus", 0), ("taken", 0), *moves]:
        following = sorted(
            NEXT[told[junction.last]] if junction.asks and junction.last in told else {S.RECEIVED}
        )
        if move == "bus":
            junction.bus(110 + 20 * number)
        elif move == "pass":
            junction.bus(330)
        elif move == "wait":
            junction.tick(number)
        elif move == "taken" and junction.asks:
            junction.taken()
        elif move == "tell" and junction.asks and following:
            told[junction.last] = following[number % len(following)]
            junction.tell(told[junction.last], extension_s=number)
        elif move == "silent":
            junction.silent()
    by_request: dict[str, list[PriorityEvent]] = {}
    for event in junction.events:
        by_request.setdefault(event.request, []).append(event)
    for events in by_request.values():
        found, last = outcome(random.sample(events, len(events))), events[-1]
        assert (found.contradiction, found.state) == ("", last.state)
        assert (found.extension_s, found.first_ms) == (last.extension_s, events[0].at_ms)
        assert found.over == (
            found.asked_ms is not None and last.request not in junction.generator.book.requests
        )
        assert (found.asked_ms is None) == (
            events[0].request not in {ask.request.id for ask in junction.asks}
        )


def test_a_request_shows_its_last_state_and_what_the_controller_gave(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    desk.deliver(cabinet.hello())
    tell(desk, cabinet, *passage("r-1"))
    assert kept(desk) == [
        ("r-1", "completed", START_MS, START_MS, START_MS + 12_000, START_MS + 8_000, 9, 3, "", 1, ""),
    ]


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A store that many stories share, each with cabinets of its own."""
    opened = Desk(tmp_path_factory.mktemp("city") / "central.db")
    yield opened
    opened.close()


NUMBERS = count()


@settings(max_examples=40)
@given(st.data())
def test_any_order_and_repetition_of_batches_gives_the_same_row(city: Desk, data: st.DataObject) -> None:
    """A restored card tells its backlog again in a new epoch, cut into other batches."""
    steps = passage("r-1") if data.draw(st.booleans()) else data.draw(lifelines())
    again = data.draw(st.permutations(steps))
    found = []
    for order in (steps, [*again, *steps], again):
        name = f"cab-{next(NUMBERS)}"
        cabinet, restored = junction_cabinet(name), junction_cabinet(name)
        restored.epoch += 1
        for position, one in enumerate(order):
            here = cabinet if position < len(again) else restored
            tell(city, here, msgspec.structs.replace(one, junction=DeviceId(f"{name}-junction")))
        question = (
            f"SELECT {COLUMNS}, (SELECT count(*) FROM priority_step WHERE request_id = id)"  # noqa: S608  a test's own words
            " FROM priority_request WHERE cabinet = ?"
        )
        found.append(city.ask(question, (name,)))
    assert len(found[0]) == 1
    assert found[0] == found[1] == found[2]


def test_a_late_step_turns_no_state_back(desk: Desk, cabinet: CabinetDouble) -> None:
    received, queued, activated, completed = passage("r-1")
    tell(desk, cabinet, received, activated, completed)
    before = kept(desk)
    tell(desk, cabinet, queued)
    assert kept(desk) == before
    assert desk.ask("SELECT count(*) FROM priority_step") == [(4,)]


def test_a_contradiction_is_kept_flagged_and_counted_once(desk: Desk, cabinet: CabinetDouble) -> None:
    tell(desk, cabinet, step(), step(S.REJECTED, 1), step(S.ACTIVATED, 2), step(S.COMPLETED, 3))
    assert kept(desk, "state, contradiction") == [("rejected", "activated after rejected")]
    assert desk.ask("SELECT count(*) FROM priority_step") == [(4,)]
    assert desk.ingest.counts.contradictory == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"request": "Not/An-Id"}, "damaged"),
        ({"rule": "two words"}, "damaged"),
        ({"approach": "x\n"}, "damaged"),
        ({"level": 15}, "beyond_bounds"),
        ({"at_ms": -1}, "beyond_bounds"),
        ({"at_ms": 2**63}, "beyond_bounds"),
        ({"controller_ms": 2**60}, "beyond_bounds"),
        ({"signal_group": "G" * 65}, "beyond_bounds"),
        ({"vehicle": "v" * 65}, "beyond_bounds"),
        ({"junction": DeviceId("cab-2-junction")}, "foreign_device"),
    ],
)
def test_a_step_that_cannot_be_is_refused_and_its_neighbours_are_kept(
    desk: Desk, cabinet: CabinetDouble, changes: dict[str, object], reason: str
) -> None:
    desk.deliver(cabinet.hello(), junction_cabinet("cab-2").hello())
    cabinet.seal([taken(cabinet.lamp(), 3)], [step(), step(S.QUEUED, 1, **changes), step(S.TIMEOUT, 2)])
    desk.deliver(cabinet.message(1))
    assert kept(desk, "request, state") == [("r-1", "timeout")]
    assert desk.values(cabinet.lamp()) == [3]
    assert desk.ingest.counts.refused() == {reason: 1}


def test_the_steps_of_a_request_have_a_bound_that_leaves_room_for_its_end(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    tell(desk, cabinet, *(step(None, n, reason=f"line {n}") for n in range(MAX_STEPS + 9)))
    tell(desk, cabinet, step(S.ACTIVATED, 200), step(S.ACTIVATED, 201), step(S.ACTIVATED, 202, over=True))
    assert kept(desk, "state, reason, over") == [("activated", f"line {MAX_STEPS - 1}", 1)]
    tell(desk, cabinet, step(S.ACTIVATED, 203, over=True), step(S.COMPLETED, 204, over=True))
    assert kept(desk, "state, over") == [("completed", 1)]
    assert desk.ask("SELECT count(*) FROM priority_step") == [(MAX_STEPS + 3,)]
    assert desk.ingest.counts.refused() == {"beyond_bounds": 11}


def test_the_oldest_requests_of_a_cabinet_give_way_with_their_steps_and_no_others(
    desk: Desk, cabinet: CabinetDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(priority, "REQUESTS_KEPT", 3)
    other = junction_cabinet("cab-2")
    tell(desk, other, step(request="other", junction=DeviceId("cab-2-junction")))
    for n in range(5):
        tell(desk, cabinet, *passage(f"r-{n}", 100 - n))
    assert [row[0] for row in kept(desk)] == ["other", "r-2", "r-3", "r-4"]
    assert desk.ask("SELECT count(*) FROM priority_step") == [(1 + 3 * 4,)]


def test_what_is_told_with_a_batch_is_told_with_its_transaction_or_not_at_all(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    broken = msgspec.structs.replace(taken(cabinet.lamp(), 1), device=DeviceId("No Name"))
    cabinet.seal([broken], passage("r-1"), StreamClass.EVENTS)
    cabinet.seal_event(*passage("r-2"))
    desk.deliver(*cabinet.waiting())
    assert [row[0] for row in kept(desk)] == ["r-2"]


def test_a_watcher_sees_each_step_as_it_comes(desk: Desk, cabinet: CabinetDouble) -> None:
    tell(desk, cabinet, *passage("r-1"))
    told = [change.body for change in desk.effects.changes if change.kind is ChangeKind.PRIORITY]
    assert [getattr(one, "state", "") for one in told] == ["received", "queued", "activated", "completed"]
    tell(desk, cabinet, passage("r-1")[0])
    assert desk.effects.changes == []


def test_a_long_reason_is_cut_and_is_still_the_same_step_when_it_comes_again(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    tell(desk, cabinet, step(None, reason="because " * 100))
    tell(desk, cabinet, step(None, reason="because " * 100))
    assert desk.ask("SELECT count(*), length(max(reason)) FROM priority_request") == [(1, 200)]
    assert desk.ask("SELECT count(*) FROM priority_step") == [(1,)]


def test_the_same_id_in_two_cabinets_is_two_requests(desk: Desk, cabinet: CabinetDouble) -> None:
    other = junction_cabinet("cab-2")
    tell(desk, cabinet, *passage("r-1"))
    tell(desk, other, step(S.REJECTED, 5, junction=DeviceId("cab-2-junction")))
    assert desk.ask("SELECT cabinet, state FROM priority_request ORDER BY cabinet") == [
        (CAB, "completed"),
        ("cab-2", "rejected"),
    ]
    assert (JUNCTION, 1) in desk.ask("SELECT junction, count(*) FROM priority_request GROUP BY junction")
