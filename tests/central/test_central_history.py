"""A history shows every reading once and every gap once, in the order of time, however it is cut into parts."""

import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from central.api.bodies import HistoryGap, HistoryReading, StreamName
from central.clock import LAST_MS, milliseconds
from central.history import Place, Range, part
from central.views import row
from protocols.backhaul.messages import GapCause, GapEvent
from protocols.model.device import Device, StreamClass
from tests.central.cabinet_double import START_MS, CabinetDouble, taken
from tests.central.desk import Desk

ORDINARY, BULK, CRITICAL = StreamClass.ORDINARY, StreamClass.BULK, StreamClass.CRITICAL
STEP_MS = 10_000
"""The stories happen at multiples of this after `START_MS`."""
STEPS = 50
CAUSES = [GapCause.CRASH, GapCause.SHED, GapCause.CORRUPT]

moments = st.integers(0, STEPS)
spans = st.tuples(moments, moments).map(sorted)


def shown(
    desk: Desk, device: str, limit: int = 10_000, **changes: object
) -> list[HistoryReading | HistoryGap]:
    """Return all of a history, part by part."""
    found = row(desk.db, "SELECT * FROM device WHERE id = ?", (device,))
    assert found is not None
    series = row(desk.db, "SELECT id FROM series WHERE device = ?", (device,))
    wanted = msgspec.structs.replace(Range(0, LAST_MS, None, limit, newest_first=False), **changes)
    items: list[HistoryReading | HistoryGap] = []
    while True:
        one = part(desk.db, found, series["id"] if series else None, wanted)
        assert len(one.items) <= limit
        assert one.items or wanted.after is None, "the part before said that there was more"
        items += one.items
        if one.next is None:
            return items
        place: Place = msgspec.json.decode(
            msgspec.json.encode(one.next), type=Place
        )  # as a cursor carries it
        wanted = msgspec.structs.replace(wanted, after=place)


def brief(items: list[HistoryReading | HistoryGap]) -> list[object]:
    """Return values, and gaps as their spans in milliseconds after the start."""
    return [
        one.value
        if isinstance(one, HistoryReading)
        else (None if one.from_time is None else _after(one.from_time), _after(one.to_time))
        for one in items
    ]


def _after(at: object) -> int:
    return (milliseconds(at) - START_MS) // STEP_MS  # type: ignore[arg-type]  # a datetime


def lost(
    span: tuple[int, int] | list[int], stream: StreamClass = ORDINARY, cause: GapCause = GapCause.CRASH
) -> GapEvent:
    return GapEvent(stream, cause, START_MS + STEP_MS * span[0], START_MS + STEP_MS * span[1], None)


def _steps(at: object) -> int:
    return (int(str(at)) - START_MS) // STEP_MS


def naive(desk: Desk, device: str, first: int, last: int, *, newest_first: bool) -> list[object]:
    """Put together a history with plain lists: readings in order, then each gap where it belongs."""
    readings: list[tuple[int, object]] = [
        (_steps(at), value)
        for at, value in desk.ask(
            "SELECT utc_ms, value FROM reading JOIN series ON series.id = series_id WHERE device = ?"
            " ORDER BY utc_ms, batch_id, idx",
            (device,),
        )
    ]
    gaps = [
        (_steps(from_ms), _steps(to_ms))
        for from_ms, to_ms in desk.ask("SELECT from_ms, to_ms FROM gap WHERE stream = 2 ORDER BY id")
    ]
    line: list[object] = [value for at, value in readings if first <= at <= last]
    times = [at for at, _ in readings if first <= at <= last]
    places: list[tuple[int, int, tuple[int, int]]] = []
    for number, (begin, end) in enumerate(gaps):
        if end < first or begin > last:
            continue
        if newest_first:
            place = len(times) + 1 if end > last else sum(at < end for at in times)
            places.append((place, -end if end <= last else -last - 1, (begin, end)))
        else:
            place = -1 if begin < first else sum(at <= begin for at in times)
            places.append((place, begin if begin >= first else first - 1, (begin, end)))
        places[-1] = (*places[-1][:2], (*places[-1][2], -number if newest_first else number))  # type: ignore[assignment]  # sorted by its number
    if newest_first:
        places.sort(key=lambda one: (-one[0], one[1], one[2][2]))  # type: ignore[misc]  # as above
        line.reverse()
        places = [(len(times) - min(place, len(times)), at, span) for place, at, span in places]
    else:
        places.sort(key=lambda one: (one[0], one[1], one[2][2]))  # type: ignore[misc]  # as above
        places = [(max(place, 0), at, span) for place, at, span in places]
    for shift, (place, _, span) in enumerate(places):
        line.insert(place + shift, span[:2])
    return line


@settings(max_examples=70, deadline=None)
@given(
    readings=st.lists(st.lists(moments, min_size=1, max_size=4), max_size=8),
    gaps=st.lists(
        st.tuples(spans, st.sampled_from([ORDINARY, ORDINARY, BULK]), st.sampled_from(CAUSES)), max_size=6
    ),
    span=spans,
    limit=st.integers(1, 5),
    newest_first=st.booleans(),
    whole=st.booleans(),
)
def test_a_history_in_parts_is_the_naive_history(  # noqa: PLR0917  Hypothesis gives them by name
    readings: list[list[int]],
    gaps: list[tuple[list[int], StreamClass, GapCause]],
    span: list[int],
    limit: int,
    newest_first: bool,
    whole: bool,
) -> None:
    with TemporaryDirectory() as folder:
        desk, cabinet = Desk(Path(folder) / "central.db"), CabinetDouble()
        desk.deliver(cabinet.hello())
        for times in readings:
            cabinet.seal(
                [taken(cabinet.lamp(), f"{n}@{at}", at_ms=STEP_MS * at) for n, at in enumerate(times)]
            )
        for between, stream, cause in gaps:
            cabinet.seal_event(lost(between, stream, cause))
        desk.deliver(*cabinet.waiting())
        first, last = (-START_MS // STEP_MS, 10**7) if whole else span
        items = shown(
            desk,
            cabinet.lamp(),
            limit,
            from_ms=START_MS + STEP_MS * first,
            to_ms=START_MS + STEP_MS * last,
            newest_first=newest_first,
        )
        assert brief(items) == naive(desk, cabinet.lamp(), first, last, newest_first=newest_first)
        ids = [one.id for one in items if isinstance(one, HistoryGap)]
        assert len(ids) == len(set(ids))
        desk.close()


def test_a_gap_of_which_nobody_knows_the_beginning_stands_before_everything(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    cabinet.seal([taken(cabinet.lamp(), n, at_ms=STEP_MS * n) for n in range(3)])
    cabinet.seal_event(GapEvent(ORDINARY, GapCause.CORRUPT, 0, START_MS + STEP_MS, None))
    desk.deliver(cabinet.hello(), *cabinet.waiting())
    assert brief(shown(desk, cabinet.lamp(), 2)) == [(None, 1), 0, 1, 2]
    assert brief(shown(desk, cabinet.lamp(), 2, newest_first=True)) == [2, 1, (None, 1), 0]
    assert brief(shown(desk, cabinet.lamp(), from_ms=START_MS + STEP_MS)) == [(None, 1), 1, 2]
    assert brief(shown(desk, cabinet.lamp(), from_ms=START_MS + 2 * STEP_MS)) == [2]


def test_a_bad_reading_is_no_gap_and_a_gap_no_bad_reading(desk: Desk, cabinet: CabinetDouble) -> None:
    cabinet.seal([taken(cabinet.lamp(), float("nan"), at_ms=STEP_MS * 1)])
    desk.deliver(cabinet.hello(), *cabinet.waiting())
    (one,) = shown(desk, cabinet.lamp())
    assert isinstance(one, HistoryReading)
    assert (one.value, one.quality) == (None, "bad")


def test_what_is_shed_stands_where_the_readings_are_missing(desk: Desk, cabinet: CabinetDouble) -> None:
    for number in range(6):
        cabinet.seal([taken(cabinet.lamp(), number, at_ms=STEP_MS * number)])
    desk.deliver(cabinet.hello(), cabinet.message(1), cabinet.message(2))
    cabinet.shed(4)
    desk.deliver(cabinet.message(5), cabinet.message(6))
    items = shown(desk, cabinet.lamp())
    assert brief(items) == [0, 1, (1, 4), 4, 5]
    assert isinstance(items[2], HistoryGap)
    assert (items[2].stream, items[2].first, items[2].last, items[2].reported) == (
        StreamName.ORDINARY,
        3,
        4,
        False,
    )
    assert brief(shown(desk, cabinet.lamp(), newest_first=True)) == [5, 4, (1, 4), 1, 0]


def test_gaps_of_two_epochs_are_all_shown(desk: Desk, cabinet: CabinetDouble) -> None:
    """The card was restored: the same numbers again, under another epoch."""
    for epoch, at in ((7_001, 0), (7_002, 20)):
        cabinet.epoch, cabinet.next = epoch, dict.fromkeys(StreamClass, 1)
        cabinet.floor, cabinet.mark = dict.fromkeys(StreamClass, 1), dict.fromkeys(StreamClass, 0)
        for number in range(3):
            cabinet.seal([taken(cabinet.lamp(), at + number, at_ms=STEP_MS * (at + number))])
        desk.deliver(cabinet.hello(), cabinet.message(1))
        cabinet.shed(2)
        desk.deliver(cabinet.message(3))
    assert brief(shown(desk, cabinet.lamp())) == [0, (0, 2), 2, 20, (20, 22), 22]


def as_class(cabinet: CabinetDouble, stream: StreamClass) -> None:
    """Give the first lamp another class, as a technician does."""
    first: Device = msgspec.structs.replace(cabinet.inventory[0], stream=stream)
    cabinet.inventory = (first, *cabinet.inventory[1:])


def test_a_device_that_changed_its_class_shows_the_gaps_of_each_while_it_was_in_it(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    for at, stream in ((0, ORDINARY), (10, ORDINARY), (20, BULK), (30, BULK)):
        as_class(cabinet, stream)
        cabinet.seal([taken(cabinet.lamp(), at, at_ms=STEP_MS * at)], stream=stream)
    cabinet.seal_event(
        *(lost(span, stream) for span in ((3, 6), (12, 18), (23, 26)) for stream in (ORDINARY, BULK))
    )
    desk.deliver(cabinet.hello(), *cabinet.waiting())
    items = shown(desk, cabinet.lamp())
    gaps = [(one.stream.value, *brief([one])) for one in items if isinstance(one, HistoryGap)]
    assert gaps == [("ordinary", (3, 6)), ("ordinary", (12, 18)), ("bulk", (12, 18)), ("bulk", (23, 26))]
    other = [one.stream for one in shown(desk, cabinet.lamp(1)) if isinstance(one, HistoryGap)]
    assert other == [StreamName.ORDINARY] * 3


def test_a_device_that_was_in_another_class_for_a_moment_shows_that_class_s_gap(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    """Known by a reading within it, though not by its neighbours, nor by any hello."""
    for at, stream in ((0, ORDINARY), (10, BULK), (20, ORDINARY)):
        cabinet.seal([taken(cabinet.lamp(), at, at_ms=STEP_MS * at)], stream=stream)
    cabinet.seal_event(lost((5, 15), BULK), lost((25, 26), BULK))
    desk.deliver(cabinet.hello(), *cabinet.waiting())
    assert brief(shown(desk, cabinet.lamp())) == [0, (5, 15), 10, 20]


def test_a_device_that_was_listed_in_another_class_for_a_moment_shows_that_class_s_gap(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    """Nothing that it said then came: only a hello knows of it."""
    for at, stream in ((0, ORDINARY), (10, BULK), (20, ORDINARY)):
        desk.clock.utc_ms = START_MS + STEP_MS * at
        as_class(cabinet, stream)
        desk.deliver(cabinet.hello())
    for at in (0, 30):
        cabinet.seal([taken(cabinet.lamp(), at, at_ms=STEP_MS * at)])
    cabinet.seal_event(lost((5, 15), BULK), lost((25, 26), BULK))
    desk.deliver(*cabinet.waiting())
    assert brief(shown(desk, cabinet.lamp())) == [0, (5, 15), 30]


def test_a_device_that_moved_to_another_cabinet_shows_the_gaps_of_both_in_turn(desk: Desk) -> None:
    old, new = CabinetDouble("cab-1", lamps=1), CabinetDouble("cab-2", lamps=1)
    old.seal([taken(old.lamp(), 0, at_ms=STEP_MS * 0)])
    old.seal_event(lost((3, 6)))
    desk.deliver(old.hello(), *old.waiting())
    moved = old.inventory
    old.inventory, new.inventory = (), (*new.inventory, *moved)
    new.seal([taken(moved[0].id, 20, at_ms=STEP_MS * 20)])
    new.seal_event(lost((23, 26)))
    old.seal_event(lost((27, 28)))
    desk.deliver(old.hello(), new.hello(), *new.waiting(), old.message(2, StreamClass.EVENTS))
    assert brief(shown(desk, moved[0].id)) == [0, (3, 6), 20, (23, 26)]


classes = st.lists(
    st.tuples(st.integers(1, 8), st.sampled_from([ORDINARY, BULK, CRITICAL])), min_size=1, max_size=5
)


@settings(max_examples=50, deadline=None)
@given(
    told=classes,
    lost_spans=st.lists(st.tuples(spans, st.sampled_from([ORDINARY, BULK, CRITICAL])), max_size=5),
    listed=st.booleans(),
)
def test_whatever_class_it_had_nothing_of_a_device_is_missing_silently(
    told: list[tuple[int, StreamClass]], lost_spans: list[tuple[list[int], StreamClass]], listed: bool
) -> None:
    """A reading is lost if its stream has a gap then: it must lie within a gap that is shown."""
    truth = [stream for length, stream in told for _ in range(length)]
    gaps = [(span[0], span[1], stream) for span, stream in lost_spans]
    gone = [any(a <= at <= b and stream is s for a, b, s in gaps) for at, stream in enumerate(truth)]
    with TemporaryDirectory() as folder:
        desk, cabinet = Desk(Path(folder) / "central.db"), CabinetDouble(lamps=1)
        hellos: list[tuple[int, StreamClass]] = []
        for at, stream in enumerate(truth):
            desk.clock.utc_ms = START_MS + STEP_MS * at
            if at == 0 or (listed and truth[at - 1] is not stream):
                as_class(cabinet, stream)
                desk.deliver(cabinet.hello())
                hellos.append((at, stream))
            if not gone[at]:
                cabinet.seal([taken(cabinet.lamp(), at, at_ms=STEP_MS * at)], stream=stream)
        as_class(cabinet, truth[-1])
        for a, b, stream in gaps:
            cabinet.seal_event(lost((a, b), stream))
        desk.deliver(*cabinet.waiting(), cabinet.hello())
        items = shown(desk, cabinet.lamp())
        spans_shown = [(one.stream, *_span(one)) for one in items if isinstance(one, HistoryGap)]
        for at, stream in enumerate(truth):
            if gone[at] and (listed or _can_be_known(truth, gone, at, gaps)):
                assert any(s == stream.name.lower() and a <= at <= b for s, a, b in spans_shown)
        hellos.append((len(truth) - 1, truth[-1]))
        for name, a, b in spans_shown:
            assert name in _possible(truth, gone, a, b) | _listed(hellos, a, b)
        desk.close()


def _can_be_known(
    truth: list[StreamClass], gone: list[bool], at: int, gaps: list[tuple[int, int, StreamClass]]
) -> bool:
    """Tell whether what came, without any hello, shows that the device may have been in that stream then."""
    stream = truth[at]
    ever_told = stream in (truth[0], truth[-1]) or any(
        one is stream and not lost for one, lost in zip(truth, gone, strict=True)
    )
    around = [(a, b) for a, b, one in gaps if one is stream and a <= at <= b]
    return ever_told and any(stream.name.lower() in _possible(truth, gone, a, b) for a, b in around)


def _listed(hellos: list[tuple[int, StreamClass]], a: int, b: int) -> set[str]:
    """Return the streams in which hellos listed the device at some time from `a` to `b`, or before and after."""
    times = {stream: [at for at, one in hellos if one is stream] for _, stream in hellos}
    return {s.name.lower() for s, told in times.items() if min(told) <= b and a <= max(told)}


def _span(gap: HistoryGap) -> tuple[int, int]:
    assert gap.from_time is not None
    return _after(gap.from_time), _after(gap.to_time)


def _possible(truth: list[StreamClass], gone: list[bool], a: int, b: int) -> set[str]:
    """Return the streams that the device may have been in during a gap, by what is left of its readings."""
    kept = [at for at, lost in enumerate(gone) if not lost]
    before = max((at for at in kept if at <= a), default=None)
    after = min((at for at in kept if at >= b), default=None)
    if before is None:
        return {stream.name.lower() for stream in StreamClass}
    within = [truth[at] for at in kept if a <= at <= b]
    last = truth[-1] if after is None else truth[after]
    return {stream.name.lower() for stream in (truth[before], last, *within)}


def test_a_gap_that_comes_between_two_parts_shifts_nothing(desk: Desk, cabinet: CabinetDouble) -> None:
    cabinet.seal([taken(cabinet.lamp(), n, at_ms=10 * STEP_MS * n) for n in range(4)])
    cabinet.seal_event(lost((12, 14)))
    desk.deliver(cabinet.hello(), *cabinet.waiting())
    device = row(desk.db, "SELECT * FROM device WHERE id = ?", (cabinet.lamp(),))
    series = desk.db.execute("SELECT id FROM series").fetchone()[0]
    assert device is not None
    first = part(desk.db, device, series, Range(0, LAST_MS, None, 3, newest_first=False))
    for span, cause in (((2, 4), GapCause.SHED), ((22, 24), GapCause.CRASH)):
        number = cabinet.seal_event(lost(span, cause=cause))
        desk.deliver(cabinet.message(number, StreamClass.EVENTS))
    rest = part(desk.db, device, series, Range(0, LAST_MS, first.next, 3, newest_first=False))
    assert brief(first.items) == [0, 1, (12, 14)]
    assert brief(rest.items) == [2, (22, 24), 3]


def test_the_store_finds_what_is_asked_for_by_index(desk: Desk) -> None:
    """The plan of each question must not be to look through every gap or reading of the city."""
    from central import history  # noqa: PLC0415  the questions themselves

    for question, filled in (
        *((q, ("d", 0, 1, 0, 0, 1)) for q in history._GAPS_BY_ORDER.values()),
        *((q, (1, 0, 1, 0, 0, 0, 1)) for q in history._READINGS_BY_ORDER.values()),
        (history._BEFORE, (1, 0)),
        (history._AFTER, (1, 0)),
        (history._WITHIN, (1, 0, 1, "c", 2)),
    ):
        plan = [detail for *_, detail in _plan(desk.db, question, filled)]
        assert not [step for step in plan if step.startswith("SCAN")], (question, plan)


def _plan(db: sqlite3.Connection, question: str, given: tuple[object, ...]) -> list[tuple[str, ...]]:
    return db.execute(f"EXPLAIN QUERY PLAN {question}", given).fetchall()
