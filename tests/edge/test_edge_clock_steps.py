"""Schedules under every clock: stepped, stuck, in 1970, across midnight and the changes of summer time.

The machine's clock is in the test's hand; what the agent makes of it, how lamps are decided, and commands are the
product's own. At each moment a lamp is where the pure function says for the civil time of that moment; what happens
once happens once.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drivers.base import Driver, Found, LineHealth, LineState, Looked, PolledPoint, Priority, Written
from edge import commands as commands_module
from edge.clock import AgentClock
from edge.commands import Commands, Street
from edge.known_time import STEP_MS, KnownTime
from edge.lighting import LEVEL, SURELY_OVER_S, LampState, Lighting
from edge.state import State
from protocols.backhaul.messages import CommandEvent, Event
from protocols.clock import ClockQuality, Instant
from protocols.model.command import Command, CommandState
from protocols.model.device import Device, Kind, Point, StreamClass
from protocols.model.ids import CommandId, DeviceId, LineId, PointName
from protocols.model.lighting import (
    AbsolutePeriod,
    Assignment,
    AstroClockControl,
    AstroClockPeriod,
    Calendar,
    ControlProgram,
    FixedTimeControl,
    Lamp,
    LightingPolicy,
    Override,
    Place,
    SolarEvent,
)
from protocols.model.policy import Limits
from protocols.model.reading import Sample, Value, sample
from protocols.rules.lighting import decide, decide_override
from tests.edge.bench import until

UNSET, HOLDOVER, SET = ClockQuality.UNSYNCHRONISED, ClockQuality.HOLDOVER, ClockQuality.SYNCHRONISED
LAMP = DeviceId("lamp-01")
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
POLICY = LightingPolicy(
    Place(47.32, 5.04, "Europe/Paris"),
    (
        ControlProgram(
            "night",
            (AstroClockPeriod(level=90, sunset_offset_min=-10, sunrise_offset_min=5),),
            (FixedTimeControl("22:00", 60), FixedTimeControl("00:00", 40), FixedTimeControl("02:30", 30)),
            (AstroClockControl(SolarEvent.SUNRISE, -30, 80),),
        ),
        ControlProgram(
            "market", (AbsolutePeriod("18:00", "02:15", level=100),), (FixedTimeControl("23:59", 70),)
        ),
    ),
    (Calendar("year", "night", day_offset_h=12),),
    (Assignment("year", groups=("street",)),),
)


def utc_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


EVENINGS = [
    utc_ms(text) for text in ("2026-10-24T20:00", "2027-03-27T20:00", "2026-11-25T15:00", "2027-06-20T19:00")
]
"""Before the hour that comes twice, before the one that is skipped, a winter's and a summer's."""


class Machine:
    """A gateway's clock: it runs, is set, and may stand still."""

    def __init__(self, now_ms: int, quality: ClockQuality = SET) -> None:
        self.monotonic_ms, self.utc_ms, self.quality = 50_000, now_ms, quality

    def now(self) -> Instant:
        return Instant(self.monotonic_ms, self.utc_ms, self.quality)

    def civil(self) -> Instant:
        return self.now()

    def run(self, ms: int) -> None:
        self.monotonic_ms += ms
        self.utc_ms += ms


class Gear(Driver):
    """A line whose lamps do at once what they are told, and remember it."""

    def __init__(self) -> None:
        self.line = LineId("dali-1")
        self.on_sample = lambda _sample: None
        self.levels: list[Value] = []
        self.ramps_s: list[float] = []

    def points(self, device: DeviceId) -> tuple[PolledPoint, ...]:
        del device
        return ()

    async def discover(self, among: Sequence[int] | None = None) -> AsyncIterator[Found | Looked]:
        for done in among or ():
            yield Looked(done, len(among or ()))

    async def run(self) -> None:
        return

    async def read(
        self, device: DeviceId, points: Sequence[PointName], priority: Priority = Priority.POLL
    ) -> Sample:
        del priority
        return sample(device, 0, points, [self.levels[-1]])

    async def write(
        self,
        device: DeviceId,
        point: PointName,
        value: Value,
        *,
        ramp_s: float = 0.0,
        priority: Priority = Priority.COMMAND,
    ) -> Written:
        del device, point, priority
        self.levels.append(value)
        self.ramps_s.append(ramp_s)
        return Written(CommandState.VERIFIED, value, "")

    def health(self) -> LineHealth:
        return LineHealth(self.line, LineState.UP, "", 0)


class Cabinet:
    """The agent's clock and its lamp, without the rest."""

    def __init__(self, machine: Machine, overrides: dict[DeviceId, Override] | None = None) -> None:
        self.machine = machine
        self.gear = Gear()
        self.clock = AgentClock(machine, KnownTime("boot", machine.now(), None, EVENINGS[0]))
        self.lamp = Lamp(LAMP, LineId("dali-1"), "0", ("street",))
        state = LampState(self.lamp, self.gear, StreamClass.ORDINARY)
        self.ended: list[Override] = []
        self.lighting = Lighting([state], self.clock, lambda _stream, _sample: None, POLICY, overrides or {})
        self.lighting.on_ended = lambda _lamp, override: self.ended.append(override)

    async def look(self) -> None:
        """Be what one second of the agent is: a look at the clock, a look at the lamps, what that begins."""
        self.clock.look()
        self.lighting.tick()
        while not all(lamp.settled for lamp in self.lighting.lamps.values()):
            turn = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(turn.set_result, None)
            await turn


STEPS = st.one_of(
    st.tuples(st.just("run"), st.integers(1_000, 3 * HOUR_MS)),
    st.tuples(st.just("run"), st.integers(1_000, 20 * MINUTE_MS)),
    st.tuples(st.just("step"), st.integers(-4 * HOUR_MS, 4 * HOUR_MS)),
    st.tuples(st.just("step"), st.integers(-400 * DAY_MS, 400 * DAY_MS)),
    st.tuples(st.just("stuck"), st.integers(1_000, 2 * HOUR_MS)),
    st.tuples(st.just("lose"), st.just(0)),
    st.tuples(st.just("set"), st.sampled_from(EVENINGS)),
)


LEAPS = [
    ("step", 4 * HOUR_MS),
    ("run", 300_000),
    ("step", -4 * HOUR_MS),
    ("step", 4 * HOUR_MS),
    ("run", 400_000),
]
"""Twice past an override's end, together for longer than ends it, and never at a stretch."""


def act(machine: Machine, action: str, amount: int) -> None:
    match action:
        case "run":
            machine.run(amount)
        case "step":
            machine.utc_ms += amount
        case "stuck":
            machine.monotonic_ms += amount
        case "lose":
            machine.quality = min(machine.quality, HOLDOVER)
        case _:
            machine.utc_ms, machine.quality = amount, SET


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(0, UNSET), *((evening, SET) for evening in EVENINGS)]),
    st.lists(STEPS, min_size=1, max_size=20),
)
def test_a_lamp_is_where_the_pure_function_says_whatever_the_clock_does(
    start: tuple[int, ClockQuality], actions: list[tuple[str, int]]
) -> None:
    async def story() -> None:
        cabinet = Cabinet(Machine(*start))
        await cabinet.look()
        for action, amount in actions:
            act(cabinet.machine, action, amount)
            await cabinet.look()
            told = cabinet.clock.civil()
            assert cabinet.gear.levels[-1] == decide(POLICY, cabinet.lamp, None, told).level
            if cabinet.machine.quality is SET:
                assert abs(told.utc_ms - cabinet.machine.utc_ms) < STEP_MS

    asyncio.run(story())


@pytest.mark.parametrize("evening", EVENINGS)
def test_every_switching_point_of_a_night_takes_effect_once_and_in_time(evening: int) -> None:
    """Second by second is a lot; each minute of twelve hours shows the same."""

    async def story() -> None:
        cabinet = Cabinet(Machine(evening))
        wanted: list[int] = []
        for _ in range(12 * 60):
            cabinet.machine.run(MINUTE_MS)
            await cabinet.look()
            level = decide(POLICY, cabinet.lamp, None, Instant(0, cabinet.machine.utc_ms)).level
            if not wanted or wanted[-1] != level:
                wanted.append(level)
        assert cabinet.gear.levels == wanted
        assert len(wanted) >= 3

    asyncio.run(story())


@settings(max_examples=150, deadline=None)
@given(st.integers(MINUTE_MS, HOUR_MS), st.lists(STEPS, min_size=1, max_size=20))
@example(HOUR_MS, LEAPS)
def test_an_override_ends_once_and_never_for_a_leap_that_is_taken_back(
    lasts_ms: int, actions: list[tuple[str, int]]
) -> None:
    async def story() -> None:
        machine = Machine(EVENINGS[2])
        override = Override(15, machine.utc_ms + lasts_ms, 0.0, "anna")
        cabinet = Cabinet(machine, {LAMP: override})
        await cabinet.look()
        over_for_ms, has_ended = 0, False
        for action, amount in actions:
            before_ms = machine.monotonic_ms
            was_over = decide_override(override, cabinet.clock.civil().utc_ms) is None
            act(machine, action, amount)
            await cabinet.look()
            told = cabinet.clock.civil()
            is_over = decide_override(override, told.utc_ms) is None
            over_for_ms = over_for_ms + machine.monotonic_ms - before_ms if is_over and was_over else 0
            has_ended = has_ended or over_for_ms >= SURELY_OVER_S * 1000
            assert cabinet.ended == [override] * has_ended
            assert (LAMP in cabinet.lighting.overrides) is not has_ended
            expected = decide(POLICY, cabinet.lamp, None if has_ended else override, told)
            assert cabinet.gear.levels[-1] == expected.level

    asyncio.run(story())


def test_a_ramp_is_as_long_as_it_is_whatever_the_clock_does() -> None:
    async def story() -> None:
        machine = Machine(EVENINGS[2])
        cabinet = Cabinet(machine, {LAMP: Override(15, machine.utc_ms + HOUR_MS, 12.5, "anna")})
        machine.utc_ms -= DAY_MS
        await cabinet.look()
        assert (cabinet.gear.levels, cabinet.gear.ramps_s) == ([15], [12.5])

    asyncio.run(story())


class Desk:
    """A cabinet's commands, with their file."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.cabinet = Cabinet(machine)
        self.events: list[Event] = []
        self.state = State.open(folder / "state.db")
        valve = Device(
            DeviceId("valve"),
            Kind.SENSOR,
            LineId("dali-1"),
            "1",
            points=(Point(PointName("open"), writable=True),),
        )
        lamp = Device(LAMP, Kind.LAMP, LineId("dali-1"), "0", points=(Point(LEVEL, "%", True, 0, 100),))
        gear = self.cabinet.gear
        street = Street(
            {valve.id: valve, LAMP: lamp}, {valve.id: gear, LAMP: gear}, {LAMP: self.cabinet.lamp}, Limits()
        )
        clock = self.cabinet.clock
        self.commands = Commands(street, self.state, clock, self.cabinet.lighting, self.events.append)
        self.commands.known_ms = clock.known_ms

    def states(self) -> list[CommandState]:
        return [event.state for event in self.events if isinstance(event, CommandEvent)]

    async def close(self) -> None:
        await self.commands.close()
        self.state.close()


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands_module, "LOOK_AT_CLOCK_S", 0.01)


def wish(machine: Machine, after_ms: int, expires_ms: int) -> Command:
    return Command(
        CommandId("c-1"),
        DeviceId("valve"),
        PointName("open"),
        True,
        "anna",
        expires_ms=machine.utc_ms + expires_ms,
        not_before_ms=machine.utc_ms + after_ms,
    )


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("back_ms", [0, HOUR_MS, 3 * DAY_MS])
async def test_a_command_that_waits_for_its_moment_is_carried_out_once(tmp_path: Path, back_ms: int) -> None:
    machine = Machine(EVENINGS[2])
    desk = Desk(tmp_path, machine)
    wanted = wish(machine, HOUR_MS, 2 * HOUR_MS)
    await desk.commands.receive(wanted)
    machine.utc_ms -= back_ms
    desk.cabinet.clock.look()
    still = await desk.commands.outcome(wanted, patience_s=0.1)
    assert (still.state, desk.cabinet.gear.levels) == (CommandState.QUEUED, [])
    machine.utc_ms += back_ms + HOUR_MS
    desk.cabinet.clock.look()
    await until(lambda: desk.states()[-1] is CommandState.VERIFIED)
    machine.utc_ms -= 2 * HOUR_MS
    desk.cabinet.clock.look()
    await desk.commands.receive(wish(machine, 3 * HOUR_MS, 4 * HOUR_MS))
    await desk.commands.recover()
    assert desk.cabinet.gear.levels == [True]
    await desk.close()


@pytest.mark.usefixtures("_soon")
async def test_a_command_whose_time_a_step_leaps_over_expires_and_says_so(tmp_path: Path) -> None:
    machine = Machine(EVENINGS[2])
    desk = Desk(tmp_path, machine)
    await desk.commands.receive(wish(machine, HOUR_MS, 2 * HOUR_MS))
    machine.utc_ms += 3 * HOUR_MS
    desk.cabinet.clock.look()
    await until(lambda: desk.states()[-1] is CommandState.EXPIRED)
    assert desk.cabinet.gear.levels == []
    await desk.close()


async def test_a_clock_that_is_set_back_revives_no_command(tmp_path: Path) -> None:
    machine = Machine(EVENINGS[2])
    desk = Desk(tmp_path, machine)
    for _ in range(11):
        machine.run(MINUTE_MS)
        desk.cabinet.clock.look()
    late = msgspec.structs.replace(wish(machine, 0, -1_000), not_before_ms=0)
    machine.utc_ms -= DAY_MS
    desk.cabinet.clock.look()
    assert (await desk.commands.receive(late)).state is CommandState.EXPIRED
    await desk.close()
