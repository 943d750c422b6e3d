"""Virtual time runs what is planned, in order, exactly; real time measures how late it was."""

import asyncio

import pytest

from sim.schedule import Lateness, LoopSchedule, VirtualSchedule


def test_virtual_time_runs_in_order_and_stops_where_told() -> None:
    schedule = VirtualSchedule(10.0)
    ran: list[tuple[str, float]] = []
    for name, when_s in (("late", 12.0), ("early", 11.0), ("past", 3.0)):
        schedule.call_at(when_s, lambda name=name: ran.append((name, schedule.time())))  # type: ignore[misc]
    schedule.run_until(11.5)
    assert ran == [("past", 10.0), ("early", 11.0)]
    assert schedule.time() == 11.5
    schedule.run()
    assert ran[-1] == ("late", 12.0)


def test_a_cancelled_timer_does_not_run() -> None:
    schedule = VirtualSchedule()
    ran: list[int] = []
    schedule.call_at(1.0, lambda: ran.append(1)).cancel()
    schedule.run_until(2.0)
    assert ran == []


def test_a_schedule_that_never_ends_is_noticed() -> None:
    schedule = VirtualSchedule()

    def again() -> None:
        schedule.call_at(schedule.time() + 1, again)

    again()
    with pytest.raises(RuntimeError, match="still busy"):
        schedule.run(limit=100)


def test_lateness_reports_maximum_and_percentile() -> None:
    lateness = Lateness()
    for _ in range(99):
        lateness.add(0.00005)
    lateness.add(0.3)
    report = lateness.report()
    assert (report.timers, report.max_ms, report.p99_ms) == (100, 300.0, 0.1)
    assert Lateness().report().p99_ms == 0.0


async def test_the_loops_timers_run_and_are_measured() -> None:
    schedule = LoopSchedule(asyncio.get_running_loop())
    rang = asyncio.Event()
    schedule.call_at(schedule.time() + 0.01, rang.set)
    async with asyncio.timeout(3):
        await rang.wait()
    assert schedule.lateness.report().timers == 1
