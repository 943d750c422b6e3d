"""A cabinet whose clock was not set: its readings and events are put right by its later clock event."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from central import boots, readings, restamp
from central.api.bodies import StampedBy
from central.clock import moment
from central.errors import MessageError, RefusedFor
from central.store.writer import Tx
from central.views import alarm_view, rows
from protocols.backhaul.messages import (
    AlarmEvent,
    ClockEvent,
    CommandEvent,
    GapCause,
    GapEvent,
    LastEnd,
    PolicyEvent,
    StartEvent,
)
from protocols.clock import ClockQuality
from protocols.model.alarm import Alarm, AlarmType
from protocols.model.command import CommandState
from protocols.model.device import StreamClass
from protocols.model.ids import CommandId, DeviceId
from tests.central.api_desk import Api
from tests.central.cabinet_double import LEVEL, START_MS, CabinetDouble, taken
from tests.central.desk import Desk
from tests.central.junctions import junction_cabinet, step

UNSET, HOLDOVER, SET = ClockQuality.UNSYNCHRONISED, ClockQuality.HOLDOVER, ClockQuality.SYNCHRONISED
HOUR_MS = 3_600_000
GUESS_MS = START_MS - 7 * HOUR_MS
"""What a cabinet that was seven hours without power tells, until its clock is set."""


@pytest.fixture
def cabinet() -> CabinetDouble:
    """Return a cabinet that has just booted with a clock that was never set; monotonic 0 is START_MS."""
    double = CabinetDouble()
    double.utc_offset_ms, double.clock = GUESS_MS, UNSET
    return double


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    one = Desk(tmp_path / "central.db")
    yield one
    one.close()


def set_clock(
    cabinet: CabinetDouble,
    at_ms: int,
    offset_ms: int = START_MS,
    clock: ClockQuality = SET,
    *,
    corrects: bool = True,
) -> ClockEvent:
    """Set a cabinet's clock at a monotonic moment; return what it says of that."""
    event = ClockEvent(
        cabinet.boot, at_ms, at_ms + offset_ms, cabinet.utc_offset_ms, cabinet.clock, clock, corrects
    )
    cabinet.utc_offset_ms, cabinet.clock = offset_ms, clock
    return event


def tell(desk: Desk, cabinet: CabinetDouble, *events: object) -> None:
    for event in events:
        number = cabinet.seal_event(event)  # type: ignore[arg-type]  # any event
        desk.deliver(cabinet.message(number, StreamClass.EVENTS))


def times(desk: Desk) -> list[tuple[object, ...]]:
    return desk.ask("SELECT value, utc_ms, stamped, clock FROM reading ORDER BY utc_ms")


def work(desk: Desk) -> int:
    """Let the store re-stamp until nothing is left to do; return in how many steps."""
    steps = 0
    while desk.ask("SELECT 1 FROM boot WHERE restamp_after IS NOT NULL"):
        desk.do(restamp.go_on)
        steps += 1
        assert steps < 1_000
    return steps


class TestReadings:
    """A reading's time becomes what it really was, and says so."""

    def test_what_was_taken_before_the_clock_was_set_is_re_stamped_by_its_event(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=500), taken(cabinet.lamp(), 2, at_ms=700)])
        desk.deliver(cabinet.message(1))
        assert times(desk) == [(1, GUESS_MS + 500, 0, 0), (2, GUESS_MS + 700, 0, 0)]
        tell(desk, cabinet, set_clock(cabinet, 60_000))
        work(desk)
        assert times(desk) == [(1, START_MS + 500, 2, 1), (2, START_MS + 700, 2, 1)]
        assert desk.ask("SELECT utc_ms, stamped, clock FROM latest") == [(START_MS + 700, 2, 1)]
        assert desk.ask("SELECT last_utc_ms FROM stream WHERE stream = 2") == [(START_MS + 700,)]

    def test_the_hello_of_its_boot_gives_a_better_time_until_then(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        desk.deliver(cabinet.hello())  # said at monotonic 1000, heard at START_MS
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=500)])
        desk.deliver(cabinet.message(1))
        assert times(desk) == [(1, START_MS - 500, 1, 0)]
        tell(desk, cabinet, set_clock(cabinet, 60_000))
        work(desk)
        assert times(desk) == [(1, START_MS + 500, 2, 1)]

    def test_even_a_reading_of_which_only_the_arrival_was_known_gets_its_time(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.utc_offset_ms = 0  # 1970, and nothing better
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=500), taken(cabinet.lamp(), 2, at_ms=700)])
        desk.deliver(cabinet.message(1))
        assert times(desk) == [(1, START_MS, 1, 0), (2, START_MS, 1, 0)]
        tell(desk, cabinet, set_clock(cabinet, 60_000))
        work(desk)
        assert times(desk) == [(1, START_MS + 500, 2, 1), (2, START_MS + 700, 2, 1)]

    def test_a_backlog_of_that_boot_that_comes_later_is_stamped_right_at_once(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=500)])
        tell(desk, cabinet, set_clock(cabinet, 60_000))
        desk.deliver(cabinet.message(1))
        assert times(desk) == [(1, START_MS + 500, 2, 1)]
        assert desk.ask("SELECT count(*) FROM reading WHERE monotonic_ms IS NOT NULL") == [(0,)]

    def test_a_clock_that_ran_wrong_until_it_was_synchronised_is_corrected_too(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.utc_offset_ms, cabinet.clock = START_MS + 5 * 60_000, HOLDOVER  # five minutes fast
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=500)])
        desk.deliver(cabinet.message(1))
        tell(desk, cabinet, set_clock(cabinet, 60_000))
        work(desk)
        assert times(desk) == [(1, START_MS + 500, 2, 1)]

    def test_what_a_synchronised_clock_told_stands_when_it_steps(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.utc_offset_ms, cabinet.clock = START_MS, SET
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=500)])
        tell(desk, cabinet, set_clock(cabinet, 600))
        desk.deliver(cabinet.message(1))
        tell(desk, cabinet, set_clock(cabinet, 60_000, START_MS + HOUR_MS, corrects=False))
        assert work(desk) == 1
        assert times(desk) == [(1, START_MS + 500, 0, 2)]

    def test_what_was_taken_in_holdover_after_the_clock_was_set_stands(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        tell(desk, cabinet, set_clock(cabinet, 600))
        cabinet.utc_offset_ms, cabinet.clock = START_MS + 2_000, HOLDOVER
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=5_000)])
        desk.deliver(cabinet.message(1))
        assert times(desk) == [(1, START_MS + 7_000, 0, 1)]

    def test_a_clock_set_by_hand_is_replaced_by_one_that_is_synchronised(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=500)])
        desk.deliver(cabinet.message(1))
        tell(desk, cabinet, set_clock(cabinet, 60_000, START_MS - 9_000, HOLDOVER))
        work(desk)
        assert times(desk) == [(1, START_MS - 8_500, 2, 1)]
        cabinet.seal([taken(cabinet.lamp(), 2, at_ms=70_000)])
        tell(desk, cabinet, set_clock(cabinet, 90_000))
        desk.deliver(cabinet.message(2))
        work(desk)
        assert times(desk) == [(1, START_MS + 500, 2, 1), (2, START_MS + 70_000, 2, 1)]
        assert desk.ask("SELECT count(*) FROM reading WHERE monotonic_ms IS NOT NULL") == [(0,)]

    def test_a_clock_that_was_right_from_the_beginning_re_stamps_nothing_by_its_first_word(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.utc_offset_ms, cabinet.clock = None, HOLDOVER
        tell(desk, cabinet, set_clock(cabinet, 600, START_MS, HOLDOVER))
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=5_000)])
        desk.deliver(cabinet.message(1))
        work(desk)
        assert times(desk) == [(1, START_MS + 5_000, 0, 1)]

    def test_what_was_stamped_by_a_clock_set_by_hand_is_not_final(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=500)])
        tell(desk, cabinet, set_clock(cabinet, 60_000, START_MS - 9_000, HOLDOVER))
        desk.deliver(cabinet.message(1))
        assert times(desk) == [(1, START_MS - 8_500, 2, 1)]
        tell(desk, cabinet, set_clock(cabinet, 90_000))
        work(desk)
        assert times(desk) == [(1, START_MS + 500, 2, 1)]

    def test_a_free_running_clock_that_somebody_puts_right_takes_its_readings_along(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.utc_offset_ms, cabinet.clock = START_MS - HOUR_MS, HOLDOVER
        for n in range(2):
            cabinet.seal([taken(cabinet.lamp(), n, at_ms=1_000 * n)])
        desk.deliver(cabinet.message(1))
        tell(desk, cabinet, set_clock(cabinet, 60_000, START_MS, HOLDOVER))
        desk.deliver(cabinet.message(2))
        work(desk)
        assert times(desk) == [(0, START_MS, 2, 1), (1, START_MS + 1_000, 2, 1)]

    def test_another_boot_and_another_cabinet_are_left_alone(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        other = CabinetDouble("cab-2")
        other.boot, other.utc_offset_ms, other.clock = cabinet.boot, GUESS_MS, UNSET
        earlier = CabinetDouble(epoch=cabinet.epoch + 1)
        earlier.boot, earlier.utc_offset_ms, earlier.clock = "before", GUESS_MS, UNSET
        for one in (other, earlier):
            one.seal([taken(one.lamp(), 1, at_ms=500)])
            desk.deliver(one.message(1))
        tell(desk, cabinet, set_clock(cabinet, 60_000))
        work(desk)
        assert times(desk) == [(1, GUESS_MS + 500, 0, 0)] * 2

    def test_an_older_word_that_is_salvaged_later_changes_nothing(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        by_hand = set_clock(cabinet, 30_000, START_MS - 9_000, HOLDOVER)
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=500)])
        desk.deliver(cabinet.message(1))
        tell(desk, cabinet, set_clock(cabinet, 60_000))
        work(desk)
        salvaged = CabinetDouble(epoch=cabinet.epoch - 1)
        tell(desk, salvaged, by_hand)
        work(desk)
        salvaged.utc_offset_ms, salvaged.clock = GUESS_MS, UNSET
        salvaged.seal([taken(cabinet.lamp(), 2, at_ms=700)])
        desk.deliver(salvaged.message(1))
        assert times(desk) == [(1, START_MS + 500, 2, 1), (2, START_MS + 700, 2, 1)]


class TestSteps:
    """However many readings wait: bounded steps, each complete in itself."""

    def _backlog(self, desk: Desk, cabinet: CabinetDouble, batches: int) -> None:
        for batch in range(batches):
            first_ms = batch * 1_000
            cabinet.seal([taken(cabinet.lamp(n % 3), n, at_ms=first_ms + n) for n in range(40)])
        desk.deliver(*cabinet.waiting())

    def test_they_are_bounded_and_go_on_after_a_kill(
        self, desk: Desk, cabinet: CabinetDouble, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(restamp, "READINGS_PER_STEP", 100)
        self._backlog(desk, cabinet, 20)
        tell(desk, cabinet, set_clock(cabinet, 60_000))
        desk.do(restamp.go_on)
        assert desk.ask("SELECT count(*) FROM reading WHERE stamped = 2") == [(120,)]
        desk.close()
        revived = Desk(desk.path)
        assert work(revived) == 6
        assert revived.ask("SELECT count(*) FROM reading WHERE stamped = 2") == [(800,)]
        assert revived.ask("SELECT count(DISTINCT utc_ms) FROM reading") == [(800,)]
        revived.close()

    def test_a_step_that_is_undone_is_done_again_as_a_whole(self, desk: Desk, cabinet: CabinetDouble) -> None:
        self._backlog(desk, cabinet, 3)
        tell(desk, cabinet, set_clock(cabinet, 60_000))

        def killed(tx: Tx) -> None:
            restamp.go_on(tx)
            raise MessageError(RefusedFor.NOT_STORED, "the power went")

        with pytest.raises(MessageError):
            desk.do(killed)
        assert desk.ask("SELECT count(*) FROM reading WHERE stamped = 2") == [(0,)]
        work(desk)
        assert desk.ask("SELECT min(utc_ms), max(utc_ms) FROM reading") == [(START_MS, START_MS + 2_039)]

    def test_batches_with_nothing_to_do_do_not_end_the_walk(
        self, desk: Desk, cabinet: CabinetDouble, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(restamp, "BATCHES_PER_STEP", 2)
        for _ in range(5):
            cabinet.seal([])
        self._backlog(desk, cabinet, 1)
        tell(desk, cabinet, set_clock(cabinet, 60_000))
        work(desk)
        assert desk.ask("SELECT count(*) FROM reading WHERE stamped = 2") == [(40,)]

    def test_only_so_many_boots_of_a_cabinet_are_remembered(self, desk: Desk, cabinet: CabinetDouble) -> None:
        for n in range(boots.MAX_BOOTS + 5):
            cabinet.boot = f"boot-{n}"
            desk.deliver(cabinet.hello())
        assert desk.ask("SELECT count(*), min(boot) FROM boot") == [(boots.MAX_BOOTS, "boot-10")]


class TestEvents:
    """What a cabinet tells of itself has times too."""

    def test_all_that_it_told_before_is_corrected_with_the_clock(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        lamp = DeviceId(cabinet.lamp())
        told = GUESS_MS + 500
        tell(
            desk,
            cabinet,
            StartEvent(cabinet.boot, "0.1.0", LastEnd.CRASH, told),
            AlarmEvent(lamp, AlarmType.LAMP_FAILURE, told, None, "dark"),
            GapEvent(StreamClass.ORDINARY, GapCause.CRASH, GUESS_MS - HOUR_MS, told, None),
            CommandEvent(CommandId("c-1"), CommandState.VERIFIED, "", told, lamp, LEVEL, 4, "technician"),
            PolicyEvent("lighting", 1, "h", True, (), told),
            set_clock(cabinet, 60_000),
        )
        now = START_MS + 500
        assert desk.ask("SELECT started_ms FROM cabinet") == [(now,)]
        assert desk.ask("SELECT raised_ms, repeated_ms, cleared_ms FROM alarm") == [(now, now, None)]
        assert desk.ask("SELECT from_ms, to_ms FROM gap") == [(GUESS_MS - HOUR_MS, now)]
        assert desk.ask("SELECT created_ms, state_ms FROM command") == [(now, now)]
        assert desk.ask("SELECT at_ms FROM policy_report") == [(now,)]

    @pytest.mark.parametrize(("hello", "off_ms"), [(True, -1_000), (False, -7 * HOUR_MS)])
    def test_a_gap_that_the_centre_concluded_moves_with_the_readings_around_it(
        self, desk: Desk, cabinet: CabinetDouble, *, hello: bool, off_ms: int
    ) -> None:
        if hello:
            desk.deliver(cabinet.hello())
        for n in range(3):
            cabinet.seal([taken(cabinet.lamp(), n, at_ms=1_000 * n)])
        desk.deliver(cabinet.message(1))
        cabinet.shed(2)
        desk.deliver(cabinet.message(3))
        gap = "SELECT from_ms, to_ms FROM gap"
        assert desk.ask(gap) == [(START_MS + off_ms, START_MS + 2_000 + off_ms)]
        tell(desk, cabinet, set_clock(cabinet, 60_000))
        assert desk.ask(gap) == [(START_MS, START_MS + 2_000)]

    def test_an_alarm_that_lasts_is_the_same_by_its_new_time(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        lamp = DeviceId(cabinet.lamp())
        event = AlarmEvent(lamp, AlarmType.LAMP_FAILURE, GUESS_MS + 500, None, "dark")
        tell(desk, cabinet, event, set_clock(cabinet, 60_000))
        cabinet.alarms = (Alarm(lamp, AlarmType.LAMP_FAILURE, START_MS + 500, None, "dark"),)
        desk.deliver(cabinet.hello())
        over = AlarmEvent(lamp, AlarmType.LAMP_FAILURE, START_MS + 500, START_MS + 90_000, "dark")
        tell(desk, cabinet, over)
        assert desk.ask("SELECT raised_ms, cleared_ms FROM alarm") == [(START_MS + 500, START_MS + 90_000)]

    def test_a_clock_that_was_far_ahead_hides_no_later_alarm(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        lamp = DeviceId(cabinet.lamp())
        ahead_ms = START_MS + 700 * 24 * HOUR_MS
        cabinet.utc_offset_ms, cabinet.clock = ahead_ms, HOLDOVER
        raised = AlarmEvent(lamp, AlarmType.LAMP_FAILURE, ahead_ms + 500, None, "dark")
        tell(desk, cabinet, raised, set_clock(cabinet, 60_000))
        tell(
            desk,
            cabinet,
            AlarmEvent(lamp, AlarmType.LAMP_FAILURE, START_MS + 500, START_MS + 61_000, "dark"),
            AlarmEvent(lamp, AlarmType.LAMP_FAILURE, START_MS + 62_000, None, "dark again"),
        )
        found = rows(desk.db, "SELECT * FROM alarm ORDER BY id")
        assert [(one.raised, one.active) for one in map(alarm_view, found)] == [
            (moment(START_MS + 500), False),
            (moment(START_MS + 62_000), True),
        ]

    def test_a_time_server_that_lied_for_a_while_hides_no_later_alarm(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        """What a synchronised clock told is not corrected, so the alarm keeps its absurd time, and that is all."""
        lamp = DeviceId(cabinet.lamp())
        ahead_ms = START_MS + 700 * 24 * HOUR_MS
        cabinet.utc_offset_ms, cabinet.clock = ahead_ms, SET
        tell(
            desk,
            cabinet,
            AlarmEvent(lamp, AlarmType.LAMP_FAILURE, ahead_ms + 500, None, "dark"),
            set_clock(cabinet, 60_000, corrects=False),
            AlarmEvent(lamp, AlarmType.LAMP_FAILURE, ahead_ms + 500, START_MS + 61_000, "dark"),
            AlarmEvent(lamp, AlarmType.LAMP_FAILURE, START_MS + 62_000, None, "dark again"),
        )
        found = desk.ask("SELECT raised_ms, cleared_ms FROM alarm ORDER BY id")
        assert found == [(ahead_ms + 500, START_MS + 61_000), (START_MS + 62_000, None)]

    def test_what_has_crept_without_a_word_is_corrected_all_the_same(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        tell(desk, cabinet, set_clock(cabinet, 600, START_MS - HOUR_MS, HOLDOVER))
        cabinet.utc_offset_ms = START_MS - HOUR_MS + 900
        lamp = DeviceId(cabinet.lamp())
        alarm = AlarmEvent(lamp, AlarmType.LAMP_FAILURE, START_MS - HOUR_MS + 5_900, None, "dark")
        tell(desk, cabinet, alarm, set_clock(cabinet, 60_000))
        assert desk.ask("SELECT raised_ms FROM alarm") == [(START_MS + 5_000,)]

    def test_the_same_word_told_twice_corrects_once(self, desk: Desk, cabinet: CabinetDouble) -> None:
        cabinet.utc_offset_ms = START_MS - 5 * 60_000  # the two scales overlap
        lamp = DeviceId(cabinet.lamp())
        told_ms = START_MS - 5 * 60_000 + 500
        event = set_clock(cabinet, 3_600_000)
        tell(desk, cabinet, AlarmEvent(lamp, AlarmType.LAMP_FAILURE, told_ms, None, "dark"), event, event)
        assert desk.ask("SELECT raised_ms FROM alarm") == [(START_MS + 500,)]

    def test_requests_for_priority_are_corrected_step_by_step(self, desk: Desk) -> None:
        cabinet = junction_cabinet()
        desk.deliver(cabinet.hello())
        steps = [step(None, 1), step(None, 2, reason="it went elsewhere", over=True)]
        tell(desk, cabinet, *steps)
        before = desk.ask("SELECT first_ms, changed_ms FROM priority_request")
        cabinet.utc_offset_ms, cabinet.clock = START_MS, HOLDOVER
        tell(desk, cabinet, set_clock(cabinet, 10**8, START_MS + HOUR_MS))
        ((first_ms, changed_ms),) = desk.ask("SELECT first_ms, changed_ms FROM priority_request")
        assert isinstance(first_ms, int)
        assert isinstance(changed_ms, int)
        assert before == [(first_ms - HOUR_MS, changed_ms - HOUR_MS)]

    def test_a_clock_event_with_impossible_times_is_refused_and_its_neighbours_kept(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        lamp = DeviceId(cabinet.lamp())
        for wrong in (
            ClockEvent(cabinet.boot, -1, START_MS, None, UNSET, SET, True),
            ClockEvent(cabinet.boot, 1, 2**60, None, UNSET, SET, True),
            ClockEvent(cabinet.boot, 1, START_MS, -(2**60), UNSET, SET, True),
        ):
            number = cabinet.seal_event(wrong, AlarmEvent(lamp, AlarmType.LAMP_FAILURE, 1, None, ""))
            desk.deliver(cabinet.message(number, StreamClass.EVENTS))
        assert desk.ask("SELECT count(*) FROM boot") == [(0,)]
        assert desk.ask("SELECT count(*) FROM alarm") == [(1,)]
        assert desk.ingest.counts.refused() == {"beyond_bounds": 3}

    def test_the_cabinet_shows_the_clock_of_its_last_word(self, desk: Desk, cabinet: CabinetDouble) -> None:
        desk.deliver(cabinet.hello())
        assert desk.ask("SELECT clock FROM cabinet") == [(0,)]
        tell(desk, cabinet, set_clock(cabinet, 60_000))
        assert desk.ask("SELECT clock FROM cabinet") == [(2,)]


MOMENTS = st.lists(st.integers(0, 10**7), min_size=1, max_size=12, unique=True).map(sorted)


@settings(max_examples=25, deadline=None)
@given(
    at_ms=MOMENTS,
    set_at=st.integers(0, 10**7),
    told_ms=st.integers(START_MS - 10**9, START_MS + 10**9),
    event_after=st.integers(0, 12),
    clock=st.sampled_from([UNSET, HOLDOVER]),
)
def test_whenever_the_event_comes_all_that_was_taken_before_ends_up_right(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    at_ms: list[int],
    set_at: int,
    told_ms: int,
    event_after: int,
    clock: ClockQuality,
) -> None:
    desk = Desk(tmp_path_factory.mktemp("clock") / "central.db")
    cabinet = CabinetDouble()
    cabinet.utc_offset_ms, cabinet.clock = told_ms, clock
    for n, moment_ms in enumerate(at_ms):
        if moment_ms >= set_at and cabinet.clock is not SET:
            event = set_clock(cabinet, set_at)
        cabinet.seal([taken(cabinet.lamp(n % 3), n, at_ms=moment_ms)])
    if cabinet.clock is not SET:
        event = set_clock(cabinet, set_at)
    for n in range(len(at_ms)):
        if n == event_after:
            tell(desk, cabinet, event)
        desk.deliver(cabinet.message(n + 1))
    if event_after >= len(at_ms):
        tell(desk, cabinet, event)
    work(desk)
    assert [(value, utc_ms) for value, utc_ms, *_ in times(desk)] == [
        (n, START_MS + moment_ms) for n, moment_ms in enumerate(at_ms)
    ]
    desk.close()


def test_names_and_numbers_of_whose_time_it_is_are_in_one_order() -> None:
    assert [one.name for one in StampedBy] == [one.name for one in readings.StampedBy]


class TestApi:
    """Who reads a history is told whose its times are, and never misses a reading that has moved."""

    async def test_a_re_stamped_reading_says_so(self, tmp_path: Path, cabinet: CabinetDouble) -> None:
        api = Api(tmp_path)
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=500)])
        await api.deliver(cabinet.message(1))
        await _set_and_wait(api, cabinet)
        (shown,) = await api.get(f"/api/v1/devices/{cabinet.lamp()}/latest")
        assert (shown["time"], shown["clock"], shown["stamped_by"]) == (
            "2026-02-02T02:40:00.500000Z",
            "holdover",
            "clock_event",
        )
        await api.close()

    @pytest.mark.parametrize("order", ["asc", "desc"])
    async def test_a_walk_that_readings_have_moved_under_is_refused_and_begun_again_is_whole(
        self, tmp_path: Path, cabinet: CabinetDouble, order: str
    ) -> None:
        api = Api(tmp_path)
        history = f"/api/v1/devices/{cabinet.lamp()}/points/dimming_level/history"
        cabinet.seal([taken(cabinet.lamp(), n, at_ms=1_000 * n) for n in range(10)])
        await api.deliver(cabinet.message(1))
        first = await api.get(history, limit=4, order=order)
        await _set_and_wait(api, cabinet)
        refused = await api.http.get(history, params={"limit": 4, "cursor": first["next"], "order": order})
        assert refused.status_code == 409
        found = [item["value"] for item in await api.all(history, limit=4, order=order)]
        assert found == (list(range(10)) if order == "asc" else list(range(9, -1, -1)))
        await api.close()


async def _set_and_wait(api: Api, cabinet: CabinetDouble) -> None:
    number = cabinet.seal_event(set_clock(cabinet, 60_000))
    await api.deliver(cabinet.message(number, StreamClass.EVENTS))
    for _ in range(10):
        await api.central.centre.change(restamp.go_on)
