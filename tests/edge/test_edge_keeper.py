"""Which readings are kept: changes, a heartbeat, and every change of fault."""

from drivers.base import PolledPoint
from edge.keeper import Keeper
from protocols.model.device import Point, Report
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Fault, Quality, Reason, Sample, Value, sample

NAMES = (PointName("a"), PointName("b"))
SILENT, BACKED_OFF, DOWN = (
    Fault(Quality.BAD, reason) for reason in (Reason.NO_ANSWER, Reason.BACKED_OFF, Reason.LINE_DOWN)
)


def keeper(report: Report = Report.CHANGE, dead_band: float = 0.0, points: int = 2) -> Keeper:
    return Keeper(
        [PolledPoint(Point(name), 1.0, report, dead_band, heartbeat_s=60) for name in NAMES[:points]]
    )


def read(at_s: float, *values: Value | Fault) -> Sample:
    return sample(DeviceId("d"), round(at_s * 1000), NAMES[: len(values)], values)


def kept(one: Sample | None) -> dict[str, Value] | None:
    return None if one is None else dict(zip(one.points, one.values, strict=True))


def test_the_first_reading_is_kept_whole() -> None:
    assert kept(keeper().keep(read(0, 1, 2))) == {"a": 1, "b": 2}


def test_only_what_changed_is_kept() -> None:
    one = keeper()
    one.keep(read(0, 1, 2))
    assert kept(one.keep(read(1, 1, 2))) is None
    assert kept(one.keep(read(2, 1, 3))) == {"b": 3}
    assert kept(one.keep(read(3, 0, 4))) == {"a": 0, "b": 4}


def test_what_does_not_change_is_kept_at_each_heartbeat() -> None:
    one = keeper(points=1)
    times = [second for second in range(0, 200, 10) if one.keep(read(second, 7)) is not None]
    assert times == [0, 60, 120, 180]


def test_a_change_within_the_dead_band_is_none_but_a_slow_drift_is() -> None:
    one = keeper(dead_band=10.0, points=1)
    drifting = [one.keep(read(n / 10, n * 4)) for n in range(10)]
    assert [found.values for found in drifting if found] == [(0,), (12,), (24,), (36,)]


def test_words_and_switches_are_kept_when_they_differ() -> None:
    one = keeper(points=1)
    answers: list[Value] = ["on", "on", "off", True, False]
    assert [one.keep(read(n, value)) is not None for n, value in enumerate(answers)] == [
        True,
        False,
        True,
        True,
        True,
    ]


def test_a_fault_is_kept_when_it_comes_when_it_changes_and_when_it_goes() -> None:
    one = keeper(points=1)
    answers: list[Value | Fault] = [1, SILENT, SILENT, DOWN, 1, 1]
    assert [one.keep(read(n, value)) is not None for n, value in enumerate(answers)] == [
        True,
        True,
        False,
        True,
        True,
        False,
    ]


def test_a_silent_device_that_is_no_longer_asked_is_no_news() -> None:
    one = keeper(points=1)
    one.keep(read(0, SILENT))
    assert one.keep(read(1, BACKED_OFF)) is None
    assert one.keep(read(2, SILENT)) is None


def test_a_fault_of_one_point_keeps_that_point_only() -> None:
    one = keeper()
    one.keep(read(0, 1, 2))
    found = one.keep(read(1, 1, SILENT))
    assert found is not None
    assert (found.points, found.fault(0)) == (NAMES[1:], SILENT)


def test_of_counters_each_reading_is_kept() -> None:
    one = keeper(Report.EACH)
    assert all(one.keep(read(n, 5, 5)) is not None for n in range(5))


def test_of_counters_a_fault_that_comes_back_is_news_again() -> None:
    one = keeper(Report.EACH)
    answers: list[Value | Fault] = [5, SILENT, SILENT, 5, 5, SILENT, 5]
    assert [one.keep(read(n, value, value)) is not None for n, value in enumerate(answers)] == [
        True,
        True,
        False,
        True,
        True,
        True,
        True,
    ]
