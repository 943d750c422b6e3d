"""Alarms: one for each (device, type), debounced, and a dead line speaks for all that hang on it."""

import pytest

from drivers.base import LineHealth, LineState
from edge.alarms import DISAGREEING_READS, MAX_TEXT, RAISED_BY, SILENT_READS, Alarms
from protocols.model.alarm import SEVERITY, Alarm, AlarmType
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.reading import Fault, Quality, Reason, Sample, Value, failed_sample, sample

LAMP = DeviceId("lamp-01")
LEVEL = PointName("dimming_level")
WARMTH = PointName("temperature")


def look(alarms: Alarms, **values: Value | Fault) -> list[tuple[AlarmType, bool]]:
    points = [PointName(name) for name in values]
    changed = alarms.look_at_sample(sample(LAMP, 0, points, list(values.values())), 1)
    return [(alarm.type, alarm.cleared_ms is None) for alarm in changed]


def fail(alarms: Alarms, reason: Reason) -> list[tuple[AlarmType, bool]]:
    changed = alarms.look_at_sample(failed_sample(LAMP, 0, (LEVEL,), reason), 1)
    return [(alarm.type, alarm.cleared_ms is None) for alarm in changed]


CASES = (
    ("lamp_failure", True, False, AlarmType.LAMP_FAILURE),
    ("control_gear_failure", True, False, AlarmType.CONTROL_GEAR_FAILURE),
    ("cabinet_door_open", True, False, AlarmType.CABINET_DOOR_OPEN),
    ("breaker_tripped", True, False, AlarmType.BREAKER_TRIPPED),
    ("mains_present", False, True, AlarmType.SUPPLY_LOSS),
    ("controller_fault", True, False, AlarmType.CONTROLLER_FAULT),
    ("controller_warning", True, False, AlarmType.CONTROLLER_WARNING),
    ("pump_failure", True, False, AlarmType.PUMP_FAILURE),
    ("high_level", True, False, AlarmType.HIGH_LEVEL),
    ("battery_low", True, False, AlarmType.BATTERY_LOW),
)


@pytest.mark.parametrize(("point", "bad", "good", "kind"), CASES)
def test_a_point_raises_its_alarm_once_and_clears_it_once(
    point: str, bad: bool, good: bool, kind: AlarmType
) -> None:
    alarms = Alarms()
    seen = [look(alarms, **{point: value}) for value in (good, bad, bad, good, good)]
    assert seen == [[], [(kind, True)], [], [(kind, False)], []]


def test_the_table_above_knows_every_point_that_raises_something() -> None:
    assert {(point, bad, kind) for point, bad, _, kind in CASES} == {
        (point, raising, kind) for point, (kind, raising, _) in RAISED_BY.items()
    }


@pytest.mark.parametrize("point", RAISED_BY)
@pytest.mark.parametrize("reason", Reason)
def test_a_fault_on_such_a_point_neither_raises_nor_clears(point: PointName, reason: Reason) -> None:
    kind, raising, _ = RAISED_BY[point]
    alarms, fault = Alarms(), Fault(Quality.BAD, reason)
    assert look(alarms, **{point: fault}) == []
    look(alarms, **{point: raising})
    assert look(alarms, **{point: fault}) == []
    assert (LAMP, kind) in alarms.active


@pytest.mark.parametrize("point", RAISED_BY)
def test_an_uncertain_value_neither_raises_nor_clears(point: PointName) -> None:
    kind, raising, _ = RAISED_BY[point]
    alarms, stale = Alarms(), {0: Fault(Quality.UNCERTAIN, Reason.STALE)}
    assert alarms.look_at_sample(Sample(LAMP, 0, (point,), (raising,), stale), 1) == []
    look(alarms, **{point: raising})
    assert alarms.look_at_sample(Sample(LAMP, 0, (point,), (not raising,), stale), 1) == []
    assert (LAMP, kind) in alarms.active


def test_a_cleared_alarm_says_when_it_was_raised() -> None:
    alarms = Alarms()
    alarms.look_at_sample(sample(LAMP, 0, (PointName("lamp_failure"),), (True,)), 10)
    (cleared,) = alarms.look_at_sample(sample(LAMP, 0, (PointName("lamp_failure"),), (False,)), 20)
    assert (cleared.raised_ms, cleared.cleared_ms) == (10, 20)


def test_a_value_that_cannot_be_believed_neither_raises_nor_clears() -> None:
    alarms = Alarms()
    look(alarms, lamp_failure=True)
    assert fail(alarms, Reason.LINE_DOWN) == []
    assert (LAMP, AlarmType.LAMP_FAILURE) in alarms.active


@pytest.mark.parametrize("reason", [Reason.NO_ANSWER, Reason.GARBLED, Reason.COLLISION])
def test_silence_is_an_alarm_only_when_it_lasts(reason: Reason) -> None:
    alarms = Alarms()
    seen = [fail(alarms, reason) for _ in range(SILENT_READS + 2)]
    assert seen == [[]] * (SILENT_READS - 1) + [[(AlarmType.COMMUNICATION_FAILURE, True)]] + [[]] * 2
    assert look(alarms, dimming_level=1) == [(AlarmType.COMMUNICATION_FAILURE, False)]


def test_one_answer_in_between_begins_the_count_anew() -> None:
    alarms = Alarms()
    for _ in range(5):
        for _ in range(SILENT_READS - 1):
            assert fail(alarms, Reason.NO_ANSWER) == []
        assert look(alarms, dimming_level=1) == []


def test_a_device_that_refuses_does_answer() -> None:
    alarms = Alarms()
    for _ in range(SILENT_READS):
        fail(alarms, Reason.NO_ANSWER)
    assert fail(alarms, Reason.REFUSED) == [(AlarmType.COMMUNICATION_FAILURE, False)]


def heard_only() -> Alarms:
    return Alarms(heard={LAMP: (LEVEL, WARMTH)})


@pytest.mark.parametrize("reason", [Reason.NO_ANSWER, Reason.GARBLED])
def test_one_word_of_its_driver_is_enough_for_a_device_that_is_never_asked(reason: Reason) -> None:
    alarms = heard_only()
    (raised,) = alarms.look_at_sample(failed_sample(LAMP, 0, (LEVEL, WARMTH), reason), 1)
    assert (raised.type, raised.text) == (AlarmType.COMMUNICATION_FAILURE, "lamp-01 is not heard any more")
    assert alarms.look_at_sample(failed_sample(LAMP, 0, (LEVEL, WARMTH), reason), 2) == []
    assert look(alarms, temperature=21) == [(AlarmType.COMMUNICATION_FAILURE, False)]


def test_one_silent_point_of_a_device_that_is_never_asked_is_no_verdict() -> None:
    alarms = heard_only()
    assert [fail(alarms, Reason.NO_ANSWER) for _ in range(SILENT_READS - 1)] == [[]] * (SILENT_READS - 1)
    assert look(alarms, temperature=21) == []


def test_a_device_that_is_never_asked_is_not_blamed_for_its_line() -> None:
    alarms = heard_only()
    down = failed_sample(LAMP, 0, (LEVEL, WARMTH), Reason.LINE_DOWN)
    assert alarms.look_at_sample(down, 1) == []
    silent = failed_sample(LAMP, 0, (LEVEL, WARMTH), Reason.NO_ANSWER)
    assert len(alarms.look_at_sample(silent, 2)) == 1
    assert alarms.look_at_sample(down, 3) == []
    assert (LAMP, AlarmType.COMMUNICATION_FAILURE) in alarms.active


@pytest.mark.parametrize("reason", [Reason.LINE_DOWN, Reason.BACKED_OFF, Reason.UNPOWERED])
def test_a_device_that_could_not_be_asked_is_not_blamed(reason: Reason) -> None:
    alarms = Alarms()
    assert [fail(alarms, reason) for _ in range(10)] == [[]] * 10


def test_a_dead_line_is_one_alarm() -> None:
    alarms = Alarms()
    down = LineHealth(LineId("dali-1"), LineState.DOWN, "no such port", 0)
    (raised,) = alarms.look_at_line(down, 5)
    assert (raised.device, raised.type, raised.text) == (
        "dali-1",
        AlarmType.LINE_DOWN,
        "line dali-1: no such port",
    )
    assert alarms.look_at_line(down, 6) == []
    assert alarms.look_at_line(LineHealth(LineId("dali-1"), LineState.CONNECTING, "", 0), 7) == []
    (cleared,) = alarms.look_at_line(LineHealth(LineId("dali-1"), LineState.UP, "", 0), 8)
    assert cleared.cleared_ms == 8


def test_a_contactor_is_given_a_moment() -> None:
    alarms = Alarms()
    assert [look(alarms, contactor=True, contactor_feedback=False) for _ in range(DISAGREEING_READS)] == [
        [],
        [(AlarmType.CONTACTOR_ERROR, True)],
    ]
    assert look(alarms, contactor=True) == []
    assert look(alarms, contactor=True, contactor_feedback=True) == [(AlarmType.CONTACTOR_ERROR, False)]


def test_alarms_of_an_earlier_run_last_and_those_of_what_is_gone_are_cleared() -> None:
    old = [Alarm(DeviceId(name), AlarmType.LAMP_FAILURE, 1) for name in ("lamp-01", "lamp-99")]
    alarms = Alarms(old)
    (cleared,) = alarms.forget_others({LAMP}, 9)
    assert (cleared.device, cleared.cleared_ms) == ("lamp-99", 9)
    assert look(alarms, lamp_failure=True) == []


def test_a_text_is_never_longer_than_a_hello_carries() -> None:
    (raised,) = Alarms().raise_or_clear(LAMP, AlarmType.DIMMING_FAILURE, "x" * 10_000, 1)
    assert len(raised.text) == MAX_TEXT


def test_each_alarm_has_a_severity() -> None:
    assert set(SEVERITY) == set(AlarmType)


def test_a_switch_off_of_a_lasting_fault_is_told() -> None:
    alarms = Alarms()
    dimming = AlarmType.DIMMING_FAILURE
    assert len(alarms.raise_or_clear(LAMP, dimming, "stuck", 1)) == 1
    assert alarms.raise_or_clear(LAMP, dimming, "stuck", 2) == []
    assert len(alarms.raise_or_clear(LAMP, dimming, None, 3)) == 1
    assert alarms.raise_or_clear(LAMP, dimming, None, 4) == []


def test_a_fault_beside_a_good_value_is_no_loss_of_communication() -> None:
    alarms = Alarms()
    silent = Fault(Quality.BAD, Reason.NO_ANSWER)
    assert [look(alarms, dimming_level=1, lamp_failure=silent) for _ in range(9)] == [[]] * 9
