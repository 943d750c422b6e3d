"""What is missing is recorded once, with its cause: never a silent hole."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from central.gap_reports import Span, span
from protocols.backhaul.messages import ClockEvent, GapCause, GapEvent
from protocols.clock import ClockQuality
from protocols.model.device import StreamClass
from tests.central.cabinet_double import START_MS, CabinetDouble, taken
from tests.central.desk import Desk

ORDINARY = StreamClass.ORDINARY


def filled(cabinet: CabinetDouble, batches: int, readings: int = 2) -> None:
    for number in range(batches):
        cabinet.seal([taken(cabinet.lamp(), number, at_ms=1_000 * number + n) for n in range(readings)])


def gaps(desk: Desk) -> list[tuple[object, ...]]:
    return desk.ask("SELECT cause, first, last, count, reported FROM gap ORDER BY first")


def said(
    first: int, last: int, count: int | None, cause: GapCause = GapCause.SHED, epoch: int = 7_001
) -> GapEvent:
    return GapEvent(ORDINARY, cause, START_MS, START_MS + 9_000, count, first, last, epoch)


def test_a_floor_above_the_mark_moves_it_and_leaves_a_gap(desk: Desk, cabinet: CabinetDouble) -> None:
    filled(cabinet, 6)
    desk.deliver(cabinet.message(1))
    cabinet.shed(4)
    desk.deliver(cabinet.message(5), cabinet.message(6))
    assert desk.mark(cabinet) == 6
    assert gaps(desk) == [("unknown_to_centre", 2, 4, None, 0)]  # what is shed is reported
    assert desk.ask("SELECT from_ms, to_ms FROM gap") == [(START_MS + 1, START_MS + 4_000)]
    cabinet.seal_event(said(2, 4, 6))
    desk.deliver(cabinet.message(1, StreamClass.EVENTS))
    assert gaps(desk) == [("shed", 2, 4, 6, 1)]


def test_a_centre_that_was_put_back_does_not_say_of_what_it_forgot_that_it_was_shed(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    """The cabinet stays connected, so a batch comes before any hello, with a floor that an acknowledgement raised."""
    filled(cabinet, 6)
    desk.deliver(cabinet.hello(), cabinet.message(1))
    cabinet.mark[ORDINARY] = 5
    cabinet.shed(5)
    desk.deliver(cabinet.message(6))
    assert gaps(desk) == [("unknown_to_centre", 2, 5, None, 0)]


def test_reports_that_are_told_again_are_known_already(desk: Desk, cabinet: CabinetDouble) -> None:
    """The cabinet had to drop its reports, and told of them again; they were on their way already."""
    filled(cabinet, 9)
    cabinet.shed(6)
    cabinet.seal_event(said(0, 0, 7))
    for _ in range(2):
        cabinet.seal_event(said(1, 2, 4))
        cabinet.seal_event(said(3, 4, 4))
        cabinet.seal_event(said(0, 0, 7))
    cabinet.seal_event(said(5, 6, 4))
    for number in range(1, 9):
        desk.deliver(cabinet.message(number, StreamClass.EVENTS))
    assert gaps(desk) == [
        ("shed", 0, 0, 7, 1),
        ("shed", 1, 2, 4, 1),
        ("shed", 3, 4, 4, 1),
        ("shed", 5, 6, 4, 1),
    ]


def test_the_mark_follows_the_floor_even_when_the_batch_is_ahead(desk: Desk, cabinet: CabinetDouble) -> None:
    filled(cabinet, 6)
    cabinet.shed(3)
    desk.deliver(cabinet.message(6))
    assert desk.mark(cabinet) == 3
    assert desk.values(cabinet.lamp()) == []


def test_a_mark_that_followed_the_floor_has_no_hash(desk: Desk, cabinet: CabinetDouble) -> None:
    filled(cabinet, 3)
    cabinet.shed(2)
    desk.deliver(cabinet.hello())
    mark = next(m for m in desk.answer(cabinet).marks if m.stream is ORDINARY)
    assert (mark.mark, mark.hash) == (2, "")


def test_what_the_cabinet_holds_an_acknowledgement_for_is_unknown_to_this_centre(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    """The centre's database was lost; some was acknowledged by its former self, some was shed since."""
    filled(cabinet, 9)
    cabinet.mark[ORDINARY] = 5
    cabinet.shed(7)
    desk.deliver(cabinet.hello())
    assert gaps(desk) == [("unknown_to_centre", 1, 5, None, 0), ("shed", 6, 7, None, 0)]
    desk.deliver(cabinet.message(8))
    assert desk.values(cabinet.lamp()) == [7, 7]


def test_a_first_batch_of_an_unknown_epoch_presumes_that_the_former_centre_had_the_rest(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    filled(cabinet, 4)
    cabinet.shed(3)
    desk.deliver(cabinet.message(4))
    assert gaps(desk) == [("unknown_to_centre", 1, 3, None, 0)]
    assert desk.mark(cabinet) == 4


def test_an_epoch_that_begins_at_one_leaves_no_gap(desk: Desk, cabinet: CabinetDouble) -> None:
    filled(cabinet, 2)
    desk.deliver(cabinet.hello(), cabinet.message(1))
    assert gaps(desk) == []


def test_a_gap_that_the_cabinet_explained_before_is_not_recorded_twice(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    filled(cabinet, 5)
    cabinet.shed(3)
    cabinet.seal_event(said(1, 3, 6))
    desk.deliver(cabinet.message(1, StreamClass.EVENTS), cabinet.message(4))
    assert gaps(desk) == [("shed", 1, 3, 6, 1)]
    assert desk.mark(cabinet) == 4


def test_the_cabinets_word_takes_the_place_of_the_centres_conclusion(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    filled(cabinet, 8)
    cabinet.shed(6)
    desk.deliver(cabinet.message(7))
    cabinet.seal_event(said(3, 4, 4, GapCause.CORRUPT))
    desk.deliver(cabinet.message(1, StreamClass.EVENTS))
    assert gaps(desk) == [
        ("unknown_to_centre", 1, 2, None, 0),
        ("corrupt", 3, 4, 4, 1),
        ("unknown_to_centre", 5, 6, None, 0),
    ]


def test_what_arrived_before_it_was_shed_is_no_gap(desk: Desk, cabinet: CabinetDouble) -> None:
    filled(cabinet, 3)
    desk.deliver(cabinet.message(1), cabinet.message(2))
    cabinet.seal_event(said(1, 2, 4))
    desk.deliver(cabinet.message(1, StreamClass.EVENTS))
    assert gaps(desk) == []


def test_what_arrived_before_it_was_shed_does_not_count_as_missing(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    filled(cabinet, 3)
    desk.deliver(cabinet.message(1))
    cabinet.seal_event(said(1, 3, 6))
    desk.deliver(cabinet.message(1, StreamClass.EVENTS))
    assert gaps(desk) == [("shed", 2, 3, 4, 1)]


def test_a_gap_that_follows_what_came_begins_with_the_last_reading_that_came(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    """The cabinet says when the first batch that is missing was sealed, seconds after its readings were taken."""
    filled(cabinet, 3)
    desk.deliver(cabinet.message(1))
    late = GapEvent(ORDINARY, GapCause.SHED, START_MS + 4_000, START_MS + 9_000, 4, 2, 3, 7_001)
    cabinet.seal_event(late)
    desk.deliver(cabinet.message(1, StreamClass.EVENTS))
    assert desk.ask("SELECT from_ms, to_ms FROM gap") == [(START_MS + 1, START_MS + 9_000)]


def test_what_was_said_to_be_missing_and_comes_after_all_is_no_gap(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    """It was under way, at the broker, when its cabinet shed it; the cabinet's word overtook it."""
    filled(cabinet, 3)
    cabinet.seal_event(said(1, 3, 6))
    desk.deliver(cabinet.message(1, StreamClass.EVENTS), cabinet.message(1))
    assert gaps(desk) == [("shed", 2, 3, 4, 1)]
    desk.deliver(cabinet.message(2), cabinet.message(3))
    assert gaps(desk) == []


def test_readings_that_were_never_sealed_are_a_gap_without_numbers(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    cabinet.seal_event(GapEvent(ORDINARY, GapCause.CRASH, START_MS, START_MS + 5_000, None))
    desk.deliver(cabinet.message(1, StreamClass.EVENTS))
    assert gaps(desk) == [("crash", 0, 0, None, 1)]


def test_a_gap_event_with_absurd_numbers_spoils_only_its_own_batch(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    cabinet.seal_event(said(1, 2**62, 1))
    desk.deliver(cabinet.message(1, StreamClass.EVENTS))
    assert desk.mark(cabinet, StreamClass.EVENTS) == 1
    assert desk.ask("SELECT cause, stream FROM gap") == [("corrupt", 0)]


def test_a_gap_that_ends_before_it_begins_shows_as_one_of_its_own_batch(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    cabinet.seal_event(said(4, 2, 1))
    desk.deliver(cabinet.message(1, StreamClass.EVENTS))
    assert desk.ask("SELECT cause, stream FROM gap") == [("corrupt", 0)]


def test_what_is_said_twice_is_missing_once_and_the_first_word_stands(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    cabinet.seal_event(said(2, 4, 6), said(3, 6, 8, GapCause.CORRUPT), said(2, 4, 6, GapCause.CORRUPT))
    desk.deliver(cabinet.message(1, StreamClass.EVENTS))
    assert gaps(desk) == [("shed", 2, 4, 6, 1), ("corrupt", 5, 6, None, 1)]


def test_a_report_of_another_epoch_takes_nothing_back(desk: Desk, cabinet: CabinetDouble) -> None:
    filled(cabinet, 4)
    cabinet.shed(3)
    cabinet.seal_event(said(1, 3, 6, epoch=99))
    desk.deliver(cabinet.message(4), cabinet.message(1, StreamClass.EVENTS))
    assert gaps(desk) == [("unknown_to_centre", 1, 3, None, 0), ("shed", 1, 3, 6, 1)]


def lost(from_s: int, to_s: int, count: int | None = None, cause: GapCause = GapCause.CRASH) -> GapEvent:
    return GapEvent(ORDINARY, cause, START_MS + 1_000 * from_s, START_MS + 1_000 * to_s, count)


def spans(desk: Desk) -> list[tuple[object, ...]]:
    found = desk.ask("SELECT cause, from_ms, to_ms, count FROM gap ORDER BY id")
    return [
        (cause, None if a is None else (a - START_MS) // 1000, (b - START_MS) // 1000, count)  # type: ignore[operator]  # numbers
        for cause, a, b, count in found
    ]


def test_each_crash_is_a_gap_of_its_own(desk: Desk, cabinet: CabinetDouble) -> None:
    for start in range(3):
        cabinet.seal_event(lost(10 + 5 * start, 15 + 5 * start))
    desk.deliver(*cabinet.waiting())
    assert spans(desk) == [("crash", 10, 15, None), ("crash", 15, 20, None), ("crash", 20, 25, None)]


def test_a_buffer_that_stays_full_is_one_gap_with_one_count(desk: Desk, cabinet: CabinetDouble) -> None:
    for second in range(50):
        cabinet.seal_event(lost(second, second + 1, 7, GapCause.SHED))
    desk.deliver(*cabinet.waiting())
    assert spans(desk) == [("shed", 0, 50, 350)]


def test_what_lies_apart_or_has_another_cause_stays_apart(desk: Desk, cabinet: CabinetDouble) -> None:
    shed = GapCause.SHED
    events = lost(0, 5, 1, shed), lost(7, 9, 1, shed), lost(9, 10, 3), lost(11, 14, 2, shed)
    cabinet.seal_event(*events)
    desk.deliver(*cabinet.waiting())
    assert spans(desk) == [
        ("shed", 0, 5, 1),
        ("shed", 7, 9, 1),
        ("crash", 9, 10, 3),
        ("shed", 11, 14, 2),
    ]


class TestClocks:
    """A gap's times are only worth what the clock was that told them."""

    TOLD = START_MS + 60_000

    def _span(self, from_ms: int, to_ms: int, *, clockless: bool = False) -> Span:
        return span(GapEvent(ORDINARY, GapCause.CRASH, from_ms, to_ms, None), self.TOLD, clockless=clockless)

    def test_of_a_good_clock_they_stand(self) -> None:
        assert self._span(START_MS, START_MS + 5) == Span(START_MS, START_MS + 5)

    def test_of_a_clock_that_was_never_set_only_the_end_is_known(self) -> None:
        assert self._span(1_000, 9_000, clockless=True) == Span(None, self.TOLD)
        assert self._span(0, START_MS + 5) == Span(None, START_MS + 5)

    def test_a_cold_clock_behind_the_last_run_hides_nothing_until_now(self) -> None:
        """The run before had the time; this one says that the gap ended when it began."""
        assert self._span(START_MS, START_MS, clockless=True) == Span(START_MS, self.TOLD)

    def test_a_beginning_behind_the_end_is_none(self) -> None:
        assert self._span(START_MS + 10, START_MS + 5) == Span(None, START_MS + 5)

    def test_what_a_cabinet_without_a_clock_says_ends_when_it_said_so(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.utc_offset_ms = None
        desk.clock.pass_s(100)
        desk.deliver(cabinet.hello())  # monotonic 1 s is now
        desk.clock.pass_s(500)
        cabinet.seal([], [GapEvent(ORDINARY, GapCause.CRASH, 5_000, 9_000, None)], StreamClass.EVENTS)
        desk.deliver(cabinet.message(1, StreamClass.EVENTS))
        assert spans(desk) == [("crash", None, 99, None)]

    def test_once_its_clock_is_set_a_cabinet_is_understood_after_all(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        """It counted from 5 s after the beginning of 1970, and said so."""
        cabinet.utc_offset_ms = None
        desk.deliver(cabinet.hello())
        from_1970 = GapEvent(ORDINARY, GapCause.CRASH, 15_000, 35_000, None)
        before_that = GapEvent(StreamClass.BULK, GapCause.CRASH, 0, 35_000, None)
        cabinet.seal([], [from_1970, before_that], StreamClass.EVENTS)
        desk.deliver(cabinet.message(1, StreamClass.EVENTS))
        assert [from_s for _, from_s, *_ in spans(desk)] == [None, None]
        cabinet.seal_event(
            ClockEvent(
                cabinet.boot,
                60_000,
                START_MS + 60_000,
                5_000,
                ClockQuality.UNSYNCHRONISED,
                ClockQuality.SYNCHRONISED,
                corrects=True,
            )
        )
        desk.deliver(cabinet.message(2, StreamClass.EVENTS))
        assert spans(desk) == [("crash", 10, 30, None), ("crash", None, 30, None)]
        assert desk.ask("SELECT DISTINCT said_to_ms FROM gap") == [(None,)]


ranges = st.tuples(st.integers(1, 12), st.integers(0, 5)).map(lambda one: range(one[0], one[0] + one[1] + 1))
told = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), ranges),
        st.tuples(st.just("shed"), ranges),
        st.tuples(st.just("report"), ranges),
    ),
    max_size=12,
)


@settings(max_examples=80, deadline=None)
@given(told)
def test_each_number_is_committed_or_in_one_gap_whatever_is_said_in_what_order(
    story: list[tuple[str, range]],
) -> None:
    """Against a naive model: a set of numbers that came, one of those reported, and the mark."""
    with TemporaryDirectory() as folder:
        desk, cabinet = Desk(Path(folder) / "central.db"), CabinetDouble()
        filled(cabinet, 18, readings=1)
        wire = {number: cabinet.outbox[ORDINARY, number] for number in range(1, 19)}
        desk.deliver(cabinet.hello())
        came: set[int] = set()
        reports: set[int] = set()
        mark = 0
        for verb, numbers in story:
            match verb:
                case "arrive":
                    for number in numbers:
                        cabinet.outbox[ORDINARY, number] = wire[number]
                        cabinet.floor[ORDINARY] = min(cabinet.floor[ORDINARY], number)
                        desk.deliver(cabinet.message(number))
                        if number == mark + 1:
                            came.add(number)
                            mark = number
                case "shed":
                    cabinet.floor[ORDINARY] = numbers.stop
                    desk.deliver(cabinet.hello())
                    mark = max(mark, numbers.stop - 1)
                case _:
                    number = cabinet.seal_event(said(numbers.start, numbers.stop - 1, len(numbers)))
                    desk.deliver(cabinet.message(number, StreamClass.EVENTS))
                    reports |= {n for n in numbers if n not in came}
        found = [(int(str(a)), int(str(b)), bool(r)) for _, a, b, _, r in gaps(desk)]
        missing = [(n, r) for a, b, r in found for n in range(a, b + 1)]
        assert len(missing) == len({n for n, _ in missing})
        assert {n for n, _ in missing} == (set(range(1, mark + 1)) - came) | (reports - came)
        assert {n for n, r in missing if r} == reports - came
        stored = {
            int(str(n))
            for (n,) in desk.ask(
                "SELECT number FROM batch JOIN stream ON stream.id = stream_id WHERE stream.stream = 2"
            )
        }
        assert stored == came
        desk.close()


def test_an_empty_batch_in_the_place_of_a_damaged_one_does_not_hide_what_is_missing(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    """It comes before its gap is told, and fills the number and nothing else."""
    filled(cabinet, 1)
    cabinet.seal()
    filled(cabinet, 1)
    desk.deliver(cabinet.message(1), cabinet.message(2), cabinet.message(3))
    cabinet.seal_event(said(2, 2, 4, GapCause.CORRUPT))
    desk.deliver(cabinet.message(1, StreamClass.EVENTS))
    assert gaps(desk) == [("corrupt", 2, 2, 4, 1)]


def test_what_came_before_it_was_damaged_at_the_cabinet_is_no_gap(desk: Desk, cabinet: CabinetDouble) -> None:
    """Its acknowledgement had not come yet."""
    filled(cabinet, 2)
    desk.deliver(cabinet.message(1), cabinet.message(2))
    cabinet.seal_event(said(2, 2, None, GapCause.CORRUPT))
    desk.deliver(cabinet.message(1, StreamClass.EVENTS))
    assert gaps(desk) == []


def test_a_gap_that_is_told_again_is_recorded_once(desk: Desk, cabinet: CabinetDouble) -> None:
    cabinet.seal_event(said(2, 5, 4, GapCause.CORRUPT))
    cabinet.seal_event(said(3, 3, None, GapCause.CORRUPT), said(2, 5, None, GapCause.CORRUPT))
    desk.deliver(*cabinet.waiting())
    assert gaps(desk) == [("corrupt", 2, 5, 4, 1)]
