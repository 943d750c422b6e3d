"""What the agent does about the time: it looks, tells, writes down, and lets nothing expired come back."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest
import structlog

from edge import timekeeping
from edge.alarms import Alarms
from edge.answering import by_our_clock
from edge.answers import Set
from edge.clock import AgentClock, SystemClock
from edge.known_time import ClockRecord, KnownTime
from edge.policies import Policies
from edge.state import State
from edge.timekeeping import Timekeeping
from protocols.backhaul.messages import ClockEvent, Event, PolicyEvent
from protocols.backhaul.signing import TrustedKey
from protocols.clock import BenchTime, ClockQuality, Correction
from protocols.model.alarm import Alarm, AlarmType
from protocols.model.command import Command
from protocols.model.ids import CommandId, DeviceId, LineId, PointName
from protocols.model.lighting import Lamp
from protocols.model.policy import Limits, Policy, PolicyKind
from protocols.rules.acceptance import Standing
from tests.edge.bench import CABINET, NOON_MS, HandClock, until
from tests.edge.street import KEY, SECRET, signed

UNSET, SET = ClockQuality.UNSYNCHRONISED, ClockQuality.SYNCHRONISED
DAY_MS = 86_400_000


def clock_of(machine: HandClock, record: ClockRecord | None = None, floor_ms: int = 0) -> AgentClock:
    return AgentClock(machine, KnownTime("boot-1", machine.now(), record, floor_ms))


async def test_a_step_is_told_within_the_next_look_and_logged() -> None:
    machine = HandClock(0, UNSET)
    clock = clock_of(machine)
    told: list[ClockEvent] = []
    keeping = Timekeeping(clock, lambda _record: None)
    keeping.on_event = told.append
    keeping.look()
    machine.utc_ms, machine.quality = NOON_MS, SET
    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(keeping.run())
        await until(lambda: bool(told))
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert [(entry["event"], entry["by_s"]) for entry in logs] == [("clock_moved", NOON_MS / 1000)]


async def test_a_disk_that_refuses_the_time_is_told_of_once_and_stops_nothing() -> None:
    def refuse(_record: ClockRecord) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    keeping = Timekeeping(clock_of(HandClock()), refuse)
    with structlog.testing.capture_logs() as logs:
        await keeping.keep()
        await keeping.keep()
    assert [entry["event"] for entry in logs] == ["time_not_written"]


async def test_the_time_is_written_down_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timekeeping, "KEEP_S", 0.01)
    kept: list[ClockRecord] = []
    keeping = asyncio.create_task(Timekeeping(clock_of(HandClock()), kept.append).keep_on())
    await until(lambda: len(kept) >= 2)
    keeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping


def test_what_is_known_of_the_time_outlasts_the_run(tmp_path: Path) -> None:
    state = State.open(tmp_path / "state.db")
    assert (state.clock(), state.floor_ms()) == (None, 0)
    record = clock_of(HandClock(), floor_ms=NOON_MS - 1).record()
    state.store_clock(record)
    state.close()
    again = State.open(tmp_path / "state.db")
    assert again.clock() == record
    again.close()


def test_alarms_and_the_time_by_which_they_are_told_are_one_transaction(tmp_path: Path) -> None:
    state = State.open(tmp_path / "state.db")
    record = clock_of(HandClock()).record()
    alarm = Alarm(DeviceId("lamp-01"), AlarmType.LAMP_FAILURE, NOON_MS, None, "dark")
    state.store_alarms([alarm], record)
    assert (state.alarms(), state.clock()) == ([alarm], record)
    state.close()


def test_on_a_bench_deciding_sees_the_bench_s_evening_and_stamps_the_known_time() -> None:
    machine = HandClock(0, UNSET)
    bench = BenchTime(machine.monotonic_ms, 5_000)
    clock = AgentClock(machine, KnownTime("boot-1", machine.now(), None, NOON_MS), bench)
    assert (clock.civil().utc_ms, clock.now().utc_ms) == (5_000, NOON_MS)
    assert (clock.doubted_ms(), clock.good_ms()) == (NOON_MS, NOON_MS)


def test_the_kernel_is_asked_again_once_the_machine_s_clock_has_stepped() -> None:
    clock = SystemClock()
    first = clock.now()
    assert abs(clock.now().utc_ms - clock.now().monotonic_ms - first.utc_ms + first.monotonic_ms) < 1_000


class TestPoliciesOfToday:
    """A cabinet in 1970 takes a policy that is signed for today, and learns from it what day it is."""

    def _policies(self, folder: Path, clock: AgentClock, events: list[Event]) -> Policies:
        trusted = TrustedKey(KEY, SECRET.public_key().public_bytes_raw(), frozenset(PolicyKind))
        lamps = (Lamp(DeviceId("lamp-01"), LineId("dali-1"), "0", ("street",)),)
        standing = Standing(CABINET, (trusted,), {}, lamps, Limits())
        taken: list[Policy] = []
        policies = Policies(standing, State.open(folder / "state.db"), clock, taken.append, events.append)
        policies.known_ms = clock.known_ms
        policies.on_signed_time = clock.learn
        return policies

    async def test_it_is_accepted_and_its_time_is_known_from_then_on(self, tmp_path: Path) -> None:
        clock, events = clock_of(HandClock(0, UNSET)), list[Event]()
        policies = self._policies(tmp_path, clock, events)
        today = signed(1, not_before_ms=NOON_MS, expires_ms=NOON_MS + DAY_MS)
        assert await policies.receive(today) == ()
        assert clock.known_ms() == NOON_MS
        stale = signed(2, not_before_ms=0, expires_ms=NOON_MS - 1)
        assert await policies.receive(stale) == ("expires_ms: no longer valid",)
        assert [event.accepted for event in events if isinstance(event, PolicyEvent)] == [True, False]

    async def test_one_that_is_refused_teaches_nothing(self, tmp_path: Path) -> None:
        clock = clock_of(HandClock(0, UNSET))
        policies = self._policies(tmp_path, clock, [])
        absurd = signed(1, not_before_ms=NOON_MS + DAY_MS, expires_ms=NOON_MS)
        assert await policies.receive(absurd) == ("expires_ms: no longer valid",)
        assert clock.known_ms() == 0

    async def test_a_synchronised_clock_is_not_taught_by_a_policy_of_tomorrow(self, tmp_path: Path) -> None:
        clock = clock_of(HandClock(NOON_MS, SET))
        clock.look()
        policies = self._policies(tmp_path, clock, [])
        tomorrow = signed(1, not_before_ms=NOON_MS + DAY_MS, expires_ms=NOON_MS + 2 * DAY_MS)
        assert await policies.receive(tomorrow) == ("not_before_ms: not valid yet",)
        assert clock.known_ms() == NOON_MS


def test_what_both_ends_mean_by_an_alarm_stays_the_same() -> None:
    alarms = Alarms([Alarm(DeviceId("a"), AlarmType.LAMP_FAILURE, NOON_MS - DAY_MS, None, "")])
    alarms.raise_or_clear(DeviceId("b"), AlarmType.LAMP_FAILURE, "dark", 1_000)
    (changed,) = alarms.correct(Correction(0, NOON_MS, 5_000))
    assert (changed.device, changed.raised_ms) == ("b", NOON_MS + 1_000)
    assert {alarm.raised_ms for alarm in alarms.active.values()} == {NOON_MS - DAY_MS, NOON_MS + 1_000}
    assert alarms.correct(Correction(0, NOON_MS, 5_000)) == []


def test_a_technician_s_command_is_reckoned_by_the_agent_s_clock() -> None:
    command = Command(
        CommandId("c"), DeviceId("lamp-01"), PointName("dimming_level"), 20, "t", 60_000, until_ms=90_000
    )
    ours = by_our_clock(Set(command, 50_000, 70_000), NOON_MS, NOON_MS + DAY_MS)
    assert (ours.expires_ms, ours.until_ms) == (NOON_MS + 10_000, NOON_MS + DAY_MS + 20_000)
    assert by_our_clock(Set(command), NOON_MS, NOON_MS) == command
