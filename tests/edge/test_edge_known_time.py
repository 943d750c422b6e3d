"""What a cabinet knows of the time: told time that never steps by itself, and good time that no lie moves."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from edge.known_time import HEAL_MS, STEADY_MS, STEP_MS, ClockRecord, KnownTime
from protocols.backhaul.messages import ClockEvent
from protocols.clock import ClockQuality, Instant

UNSET, HOLDOVER, SET = ClockQuality.UNSYNCHRONISED, ClockQuality.HOLDOVER, ClockQuality.SYNCHRONISED
NOW_MS = 1_795_521_600_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
YEARS_MS = 20 * 365 * DAY_MS
LOOK_MS = 1_000


class Machine:
    """A gateway's clock in a test's hand: it boots, runs, and is set."""

    def __init__(self, utc_ms: int, quality: ClockQuality) -> None:
        self.monotonic_ms = 5_000
        self.offset_ms = utc_ms - self.monotonic_ms
        self.quality = quality

    def read(self) -> Instant:
        return Instant(self.monotonic_ms, self.monotonic_ms + self.offset_ms, self.quality)

    def set(self, utc_ms: int, quality: ClockQuality = SET) -> None:
        self.offset_ms, self.quality = utc_ms - self.monotonic_ms, quality


class Cabinet:
    """A cabinet that looks at its clock once a second."""

    def __init__(
        self, machine: Machine, record: ClockRecord | None = None, floor_ms: int = 0, boot: str = "b1"
    ) -> None:
        self.machine = machine
        self.known = KnownTime(boot, machine.read(), record, floor_ms)
        self.events: list[ClockEvent] = []
        self.look()

    def look(self) -> None:
        event = self.known.look(self.machine.read())
        if event is not None:
            self.events.append(event)
            self.known.confirm()

    def run(self, ms: int, every_ms: int = LOOK_MS) -> None:
        end_ms = self.machine.monotonic_ms + ms
        while self.machine.monotonic_ms < end_ms:
            self.machine.monotonic_ms = min(end_ms, self.machine.monotonic_ms + every_ms)
            self.look()

    def told_ms(self) -> int:
        return self.known.now(self.machine.monotonic_ms).utc_ms

    def good_ms(self) -> int:
        return self.known.good_ms(self.machine.monotonic_ms)

    def record(self) -> ClockRecord:
        return self.known.record(self.machine.monotonic_ms)


class TestAGatewayWithoutABattery:
    """It starts in 1970, and goes on from the last time known to be good."""

    def test_it_goes_on_from_there_and_says_that_this_is_a_guess(self) -> None:
        before = Cabinet(Machine(NOW_MS, SET))
        before.run(STEADY_MS)
        later = Cabinet(Machine(0, UNSET), before.record(), boot="b2")
        assert later.told_ms() == NOW_MS + STEADY_MS
        later.run(HOUR_MS)
        assert later.told_ms() == NOW_MS + STEADY_MS + HOUR_MS
        assert later.known.quality is UNSET
        assert later.events == []

    def test_once_it_is_set_it_says_what_its_times_are_to_be_read_by(self) -> None:
        cabinet = Cabinet(Machine(0, UNSET), floor_ms=NOW_MS)
        cabinet.run(HOUR_MS)
        cabinet.machine.set(NOW_MS + DAY_MS)
        cabinet.look()
        (event,) = cabinet.events
        assert (event.before, event.clock, event.corrects) == (UNSET, SET, True)
        assert event.utc_ms == NOW_MS + DAY_MS
        correction = event.correction()
        assert correction is not None
        assert correction.corrected(NOW_MS + HOUR_MS) == NOW_MS + DAY_MS

    def test_an_empty_battery_that_is_behind_good_time_is_no_clock(self) -> None:
        cabinet = Cabinet(Machine(NOW_MS - DAY_MS, HOLDOVER), floor_ms=NOW_MS)
        assert (cabinet.told_ms(), cabinet.known.quality) == (NOW_MS, UNSET)

    def test_a_clock_with_a_battery_is_believed_until_somebody_knows_better(self) -> None:
        cabinet = Cabinet(Machine(NOW_MS + DAY_MS, HOLDOVER), floor_ms=NOW_MS)
        assert (cabinet.told_ms(), cabinet.known.quality) == (NOW_MS + DAY_MS, HOLDOVER)
        assert [(one.before_ms, one.corrects) for one in cabinet.events] == [(None, True)]


class TestSteps:
    """Every step is told once, with what it was before."""

    def test_a_step_is_told_with_the_time_before_and_after(self) -> None:
        cabinet = Cabinet(Machine(NOW_MS, SET))
        cabinet.run(LOOK_MS)
        cabinet.machine.set(NOW_MS + LOOK_MS - HOUR_MS)
        cabinet.look()
        step = cabinet.events[-1]
        assert step.before_ms is not None
        assert step.offset_ms - step.before_ms == -HOUR_MS
        assert not step.corrects

    def test_told_time_stands_still_between_two_looks(self) -> None:
        cabinet = Cabinet(Machine(NOW_MS, SET))
        cabinet.machine.set(NOW_MS + DAY_MS)
        assert cabinet.told_ms() == NOW_MS

    def test_less_than_a_second_is_followed_without_a_word(self) -> None:
        cabinet = Cabinet(Machine(NOW_MS, SET))
        cabinet.machine.set(NOW_MS + STEP_MS - 1)
        cabinet.look()
        assert (cabinet.told_ms(), len(cabinet.events)) == (NOW_MS + STEP_MS - 1, 1)

    def test_small_steps_add_up_and_are_told_then_even_across_restarts(self) -> None:
        cabinet = Cabinet(Machine(NOW_MS, SET))
        told: list[ClockEvent] = []
        for _ in range(6):
            cabinet.machine.offset_ms += 400
            cabinet = Cabinet(cabinet.machine, cabinet.record())
            told += cabinet.events
            assert cabinet.known.offset_ms == cabinet.machine.offset_ms
        assert len(told) == 2

    def test_a_clock_that_is_lost_and_found_again_without_a_step_says_nothing(self) -> None:
        cabinet = Cabinet(Machine(NOW_MS, SET))
        cabinet.machine.quality = HOLDOVER
        cabinet.run(5 * LOOK_MS)
        cabinet.machine.quality = SET
        cabinet.run(5 * LOOK_MS)
        assert len(cabinet.events) == 1

    def test_a_step_while_no_agent_ran_is_told_by_the_next_run_of_that_boot(self) -> None:
        before = Cabinet(Machine(0, UNSET), floor_ms=NOW_MS)
        before.run(LOOK_MS)
        before.machine.set(NOW_MS + DAY_MS)
        after = Cabinet(before.machine, before.record(), NOW_MS)
        assert [(one.before_ms, one.corrects) for one in after.events] == [
            (before.known.offset_ms, True),
        ]

    def test_a_restart_without_a_step_has_nothing_to_tell(self) -> None:
        before = Cabinet(Machine(NOW_MS, SET))
        before.run(LOOK_MS)
        assert Cabinet(before.machine, before.record()).events == []

    def test_what_did_not_reach_the_disk_is_told_again(self) -> None:
        machine = Machine(0, UNSET)
        known = KnownTime("b1", machine.read(), None, NOW_MS)
        known.look(machine.read())
        machine.set(NOW_MS + DAY_MS)
        first = known.look(machine.read())
        again = Cabinet(machine, known.record(machine.monotonic_ms), NOW_MS)
        assert again.events == [first]


class TestGoodTime:
    """Expiries go by a time that no lie of a few minutes moves."""

    def test_a_lie_of_a_few_minutes_leaves_nothing_behind(self) -> None:
        cabinet = Cabinet(Machine(NOW_MS, SET))
        cabinet.run(STEADY_MS)
        cabinet.machine.set(NOW_MS + YEARS_MS)
        cabinet.run(STEADY_MS - LOOK_MS)
        assert cabinet.told_ms() > NOW_MS + YEARS_MS
        assert cabinet.good_ms() < NOW_MS + DAY_MS
        cabinet.machine.set(NOW_MS + 2 * STEADY_MS)
        cabinet.look()
        told = cabinet.told_ms()
        assert cabinet.known.known_ms(cabinet.machine.monotonic_ms) == told == NOW_MS + 2 * STEADY_MS

    def test_a_lie_that_lasts_is_healed_by_a_truth_that_lasts(self) -> None:
        cabinet = Cabinet(Machine(NOW_MS + YEARS_MS, SET))
        cabinet.run(STEADY_MS)
        assert cabinet.good_ms() > NOW_MS + YEARS_MS
        cabinet.machine.set(NOW_MS)
        cabinet.run(HEAL_MS - LOOK_MS)
        assert cabinet.good_ms() > NOW_MS + YEARS_MS
        cabinet.run(2 * LOOK_MS)
        assert cabinet.good_ms() == cabinet.told_ms() < NOW_MS + DAY_MS

    def test_a_clock_set_back_revives_nothing_expired(self) -> None:
        cabinet = Cabinet(Machine(NOW_MS, SET))
        cabinet.run(STEADY_MS)
        cabinet.machine.set(NOW_MS - DAY_MS)
        cabinet.look()
        assert cabinet.told_ms() == NOW_MS - DAY_MS
        assert cabinet.known.known_ms(cabinet.machine.monotonic_ms) == NOW_MS + STEADY_MS

    def test_a_free_running_clock_moves_nothing(self) -> None:
        cabinet = Cabinet(Machine(NOW_MS + YEARS_MS, HOLDOVER), floor_ms=NOW_MS)
        cabinet.run(10 * HOUR_MS, every_ms=60_000)
        assert cabinet.good_ms() == NOW_MS + 10 * HOUR_MS

    def test_a_signed_time_is_a_lower_bound_from_then_on(self) -> None:
        cabinet = Cabinet(Machine(0, UNSET))
        cabinet.run(LOOK_MS)
        cabinet.known.learn(NOW_MS, cabinet.machine.monotonic_ms)
        cabinet.run(LOOK_MS)
        assert (cabinet.told_ms(), cabinet.known.quality) == (NOW_MS + LOOK_MS, UNSET)
        assert [(one.before, one.clock) for one in cabinet.events] == [(UNSET, UNSET)]
        cabinet.known.learn(0, cabinet.machine.monotonic_ms)
        assert cabinet.good_ms() == NOW_MS + LOOK_MS


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.integers(1, 2 * HOUR_MS)),
        st.tuples(st.just("set"), st.integers(-30 * DAY_MS, 30 * DAY_MS)),
        st.tuples(st.just("lose"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("reboot"), st.integers(0, DAY_MS)),
    ),
    max_size=12,
)


@given(ACTIONS)
def test_whatever_the_clock_does_its_events_tell_all_of_it(actions: list[tuple[str, int]]) -> None:
    """By its events alone, a listener knows each moment's told time; and good time never goes back by a step."""
    machine = Machine(0, UNSET)
    cabinet = Cabinet(machine, floor_ms=NOW_MS)
    told_offset = cabinet.known.offset_ms
    boot = 1
    for action, amount in actions:
        seen, good_ms = len(cabinet.events), cabinet.good_ms()
        match action:
            case "run":
                cabinet.run(amount, every_ms=120_000)
            case "set":
                machine.set(NOW_MS + machine.monotonic_ms + amount)
                cabinet.look()
            case "lose":
                machine.quality = min(machine.quality, HOLDOVER)
                cabinet.look()
            case "restart":
                cabinet, seen = Cabinet(machine, cabinet.record(), NOW_MS, f"b{boot}"), 0
            case _:
                boot += 1
                record, machine = cabinet.record(), Machine(amount, UNSET)
                cabinet, seen = Cabinet(machine, record, NOW_MS, f"b{boot}"), 0
                told_offset = cabinet.known.offset_ms
        for event in cabinet.events[seen:]:
            assert event.before_ms is None or abs(event.before_ms - told_offset) < STEP_MS
            told_offset = event.offset_ms
        assert abs(cabinet.known.offset_ms - told_offset) < STEP_MS
        if action != "run":  # a truth that lasts may take back what a lie has left
            assert cabinet.good_ms() >= good_ms
        assert (
            msgspec.json.decode(msgspec.json.encode(cabinet.record()), type=ClockRecord) == cabinet.record()
        )
