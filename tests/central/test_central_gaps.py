"""What is missing is recorded once, with its cause: never a silent hole."""

from protocols.backhaul.messages import GapCause, GapEvent
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


def test_a_report_that_holds_an_earlier_one_takes_its_place(desk: Desk, cabinet: CabinetDouble) -> None:
    """The cabinet had to drop the first report, which was on its way already, and told of all of it again."""
    filled(cabinet, 9)
    cabinet.shed(6)
    cabinet.seal_event(said(1, 2, 4))
    cabinet.seal_event(said(3, 4, 4))
    cabinet.seal_event(said(1, 6, 12))
    cabinet.seal_event(said(0, 0, 7))
    cabinet.seal_event(said(0, 0, 9))
    for number in range(1, 6):
        desk.deliver(cabinet.message(number, StreamClass.EVENTS))
    assert gaps(desk) == [("shed", 0, 0, 9, 1), ("shed", 1, 6, 12, 1)]


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
    assert gaps(desk) == [("shed", 1, 3, 4, 1)]


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
