"""Lighting, commands and policies against the simulator's lamps and contacts, at the wire."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from drivers.base import Driver
from drivers.registry import open_line
from edge import commands as commands_module
from edge import lighting as lighting_module
from edge.commands import Commands
from edge.commands import Street as Reach
from edge.config import Settings, load
from edge.lighting import COMMANDED_LEVEL, LEVEL, LampState, Lighting
from edge.policies import Policies
from edge.poller import Poller, Watched
from edge.state import State
from protocols.backhaul.messages import CommandEvent, Event, PolicyEvent
from protocols.clock import ClockQuality
from protocols.model.command import Command, CommandState
from protocols.model.device import Device, Kind, StreamClass
from protocols.model.ids import CommandId, DeviceId, LineId, PointName
from protocols.model.lighting import LightReason, Override
from protocols.model.policy import Policy, PolicyKind
from protocols.model.reading import Reason, Sample
from protocols.rules.acceptance import Standing
from sim.report import Ports
from sim.street import Street
from tests.edge.bench import until
from tests.edge.street import ARC, EveningClock, lighting, scenario, settings_text, signed, write_settings

S = CommandState
LAMP, IO = DeviceId("lamp-00"), DeviceId("cabinet-io")
CONTACTOR = PointName("contactor")
LIMITS = """
[[lamp]]
line = "dali-1"
addresses = "0-1"
minimum_level = 10
maximum_level = 100
"""


class Cabinet:
    """A cabinet without backhaul and control socket: what they would be told is kept."""

    def apply(self, policy: Policy) -> None:
        assert policy.lighting is not None
        self.lighting.go_by(policy.lighting)

    def __init__(self, folder: Path, settings: Settings, street: Street, clock: EveningClock) -> None:
        self.street = street
        self.clock = clock
        self.events: list[Event] = []
        self.samples: list[Sample] = []
        self.dimming: list[tuple[DeviceId, str]] = []
        self.settings = settings
        self.state = State.open(folder / "state.db")
        document = settings.document
        self.drivers: dict[LineId, Driver] = {
            line.id: open_line(line, document.device, {}, clock, folder)
            for line in document.line
            if line.id != "meter"
        }
        devices = {
            one.id: Device(
                one.id,
                one.kind,
                one.line,
                str(one.address),
                points=tuple(p.point for p in self.drivers[one.line].points(one.id)),
            )
            for one in document.device
            if one.kind in {Kind.LAMP, Kind.CABINET_IO}
        }
        self.driver_of = {one.id: self.drivers[one.line] for one in devices.values()}
        stored = self.state.policies().get(PolicyKind.LIGHTING)
        self.lighting = Lighting(
            [LampState(lamp, self.driver_of[lamp.id], StreamClass.ORDINARY) for lamp in settings.lamps],
            clock,
            lambda _stream, sample: self.samples.append(sample),
            stored.policy().lighting if stored else None,
            self.state.overrides(),
            limits=settings.limits,
        )
        self.lighting.on_ended = self.state.end_override
        self.lighting.on_dimming = lambda lamp, why: self.dimming.append((lamp, why))
        lamps = {lamp.id: lamp for lamp in settings.lamps}
        self.commands = Commands(
            Reach(devices, self.driver_of, lamps, settings.limits),
            self.state,
            clock,
            self.lighting,
            self.events.append,
        )
        standing = Standing(settings.cabinet, settings.trusted, {}, settings.lamps, settings.limits)
        self.policies = Policies(
            standing,
            self.state,
            clock,
            self.apply,
            self.events.append,
        )

    def arc(self, number: int = 0) -> int:
        """Return a lamp's arc power level, as the gear itself knows it."""
        return self.street.lines["dali-1"].gear[number].level(self.street.now_s())

    def changes(self, number: int = 0) -> int:
        return self.street.counters().lines["dali-1"].level_changes[str(number)]

    def states(self, command: str) -> list[CommandState]:
        return [e.state for e in self.events if isinstance(e, CommandEvent) and e.id == command]

    async def poll(self, device: DeviceId = LAMP) -> Sample:
        sample = await self.driver_of[device].read(device, (LEVEL,))
        self.lighting.look_at_sample(sample)
        return sample


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lighting_module, "TICK_S", 0.02)
    monkeypatch.setattr(lighting_module, "RETRY_S", 0.2)


@asynccontextmanager
async def cabinet_at(
    folder: Path, street: Street, local: str = "2026-11-24 21:00", limits: str = LIMITS
) -> AsyncIterator[Cabinet]:
    file = write_settings(folder, settings_text(folder, street.ports(), "mqtt://127.0.0.1:1"), limits)
    one = Cabinet(folder, load(file), street, EveningClock(local))
    tasks = [asyncio.create_task(driver.run()) for driver in one.drivers.values()]
    tasks.append(asyncio.create_task(one.lighting.run()))
    try:
        yield one
        assert not [task for task in tasks if task.done()]
    finally:
        await one.commands.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        one.state.close()


@pytest.fixture
async def street(tmp_path: Path) -> AsyncIterator[Street]:
    async with Street(scenario(), tmp_path) as one:
        yield one


@pytest.fixture
async def cabinet(tmp_path: Path, street: Street) -> AsyncIterator[Cabinet]:
    async with cabinet_at(tmp_path, street) as one:
        yield one


def command(name: str, cabinet: Cabinet, **parts: object) -> Command:
    plain = Command(
        CommandId(name),
        LAMP,
        LEVEL,
        20,
        "operator:anna",
        expires_ms=cabinet.clock.now().utc_ms + 60_000,
        until_ms=cabinet.clock.civil_ms + 600_000,
    )
    return msgspec.structs.replace(plain, **parts)


async def test_a_program_s_step_reaches_the_lamps_when_the_evening_does(cabinet: Cabinet) -> None:
    assert await cabinet.policies.receive(signed()) == ()
    await until(lambda: [cabinet.arc(n) for n in range(3)] == [ARC[100]] * 3)
    cabinet.clock.put("2026-11-24 21:59:59")
    await until(lambda: all(lamp.settled for lamp in cabinet.lighting.lamps.values()))
    assert cabinet.arc() == ARC[100]
    cabinet.clock.put("2026-11-24 22:00")
    await until(lambda: [cabinet.arc(n) for n in range(3)] == [ARC[50]] * 3)
    reported = [
        dict(zip(one.points, one.values, strict=True)) for one in cabinet.samples if one.device == LAMP
    ]
    assert [one[COMMANDED_LEVEL] for one in reported if COMMANDED_LEVEL in one] == [100, 50]


async def test_an_override_goes_before_the_program_and_the_lamp_returns_by_itself(cabinet: Cabinet) -> None:
    await cabinet.policies.receive(signed())
    await until(lambda: cabinet.arc() == ARC[100])
    done = await cabinet.commands.outcome(command("c-1", cabinet, value=20))
    assert (done.state, cabinet.arc()) == (S.VERIFIED, ARC[20])
    assert cabinet.states("c-1") == [S.QUEUED, S.EXECUTING, S.VERIFIED]
    assert LAMP in cabinet.state.overrides()
    cabinet.clock.civil_ms += 600_000
    await until(lambda: cabinet.arc() == ARC[100])
    assert LAMP in cabinet.state.overrides()
    assert cabinet.lighting.in_force() == 0
    cabinet.clock.later_ms += 600_000
    await until(lambda: cabinet.state.overrides() == {})
    decision = cabinet.lighting.lamps[LAMP].decision
    assert decision is not None
    assert decision.reason is LightReason.PROGRAM


async def test_a_clock_that_leaps_ahead_and_comes_back_ends_no_override(cabinet: Cabinet) -> None:
    await cabinet.policies.receive(signed())
    await cabinet.commands.outcome(command("c-1", cabinet, value=20))
    cabinet.clock.civil_ms += 10**10
    await until(lambda: cabinet.arc() == ARC[100])
    cabinet.clock.later_ms += 590_000
    cabinet.clock.civil_ms -= 10**10
    await until(lambda: cabinet.arc() == ARC[20])
    cabinet.clock.later_ms += 20_000
    assert cabinet.lighting.in_force() == 1
    assert LAMP in cabinet.state.overrides()


async def test_an_override_is_written_once(cabinet: Cabinet) -> None:
    await cabinet.policies.receive(signed())
    await until(lambda: all(lamp.settled for lamp in cabinet.lighting.lamps.values()))
    before = cabinet.lighting.lamps[LAMP].writes
    await cabinet.commands.outcome(command("c-1", cabinet))
    assert cabinet.lighting.lamps[LAMP].writes == before + 1


async def test_a_release_lets_the_program_rule_again(cabinet: Cabinet) -> None:
    await cabinet.policies.receive(signed())
    await cabinet.commands.outcome(command("c-1", cabinet))
    done = await cabinet.commands.outcome(command("c-2", cabinet, value=None, until_ms=None))
    assert (done.state, cabinet.arc(), cabinet.state.overrides()) == (S.VERIFIED, ARC[100], {})


async def test_an_override_s_end_does_not_take_the_next_one_with_it(cabinet: Cabinet) -> None:
    """The end of the first is written down after the second has begun."""
    await cabinet.commands.outcome(command("c-1", cabinet))
    first = cabinet.state.overrides()[LAMP]
    await cabinet.commands.outcome(command("c-2", cabinet, value=30))
    cabinet.state.end_override(LAMP, first)
    assert cabinet.state.overrides()[LAMP].level == 30


async def test_an_override_outlasts_a_restart(tmp_path: Path, street: Street) -> None:
    async with cabinet_at(tmp_path, street) as one:
        await one.policies.receive(signed())
        await one.commands.outcome(command("c-1", one, value=20))
    async with cabinet_at(tmp_path, street) as again:
        await until(lambda: again.lighting.lamps[LAMP].settled and again.arc(1) == ARC[100])
        assert again.arc() == ARC[20]
        again.clock.civil_ms += 600_000
        await until(lambda: again.arc() == ARC[100])


async def test_a_lamp_that_comes_back_from_a_power_cut_is_set_anew(cabinet: Cabinet) -> None:
    await cabinet.policies.receive(signed(wanted=lighting(20)))
    await until(lambda: all(lamp.settled for lamp in cabinet.lighting.lamps.values()))
    bench = cabinet.street.lines["dali-1"]
    bench.feed(False, cabinet.street.now_s())
    assert (await cabinet.poll()).values == (None,)
    bench.feed(True, cabinet.street.now_s())
    while cabinet.lighting.reasserted == 0:
        await cabinet.poll()
    await until(lambda: cabinet.arc() == ARC[20])
    await until(lambda: cabinet.lighting.lamps[LAMP].settled)
    await cabinet.poll()
    assert cabinet.lighting.reasserted == 1


async def test_a_lamp_that_does_not_answer_is_tried_again_until_it_does(cabinet: Cabinet) -> None:
    await cabinet.street.fault("dali-1/0", "silent")
    await cabinet.policies.receive(signed())
    lamp = cabinet.lighting.lamps[LAMP]
    await until(lambda: lamp.writes >= 2 and bool(lamp.trouble))
    assert "does not answer" in lamp.trouble
    assert cabinet.dimming == []
    await cabinet.street.clear("dali-1/0")
    await until(lambda: lamp.settled and not lamp.trouble)
    assert cabinet.arc() == ARC[100]


async def test_a_lamp_whose_own_limits_forbid_a_level_is_a_dimming_failure(cabinet: Cabinet) -> None:
    gear = cabinet.street.lines["dali-1"].gear[2]
    gear.settings.max_level = ARC[50]
    await cabinet.policies.receive(signed())
    await until(lambda: bool(cabinet.dimming))
    assert cabinet.dimming[0][0] == "lamp-02"
    gear.settings.max_level = ARC[100]
    await until(lambda: cabinet.dimming[-1] == ("lamp-02", ""))


async def test_one_silent_lamp_does_not_keep_the_others_dark(cabinet: Cabinet) -> None:
    await cabinet.street.fault("dali-1/0", "silent")
    await cabinet.policies.receive(signed())
    await until(lambda: cabinet.arc(1) == cabinet.arc(2) == ARC[100])


@pytest.mark.parametrize(
    ("parts", "state", "why"),
    [
        ({"device": "lamp-99"}, S.REJECTED, "no device"),
        ({"point": "colour"}, S.REJECTED, "no point"),
        ({"point": "lamp_failure"}, S.REJECTED, "can only be read"),
        ({"value": 101}, S.REJECTED, "whole number of percent"),
        ({"value": -1}, S.REJECTED, "whole number of percent"),
        ({"value": 20.5}, S.REJECTED, "whole number of percent"),
        ({"value": True}, S.REJECTED, "whole number of percent"),
        ({"value": "on"}, S.REJECTED, "whole number of percent"),
        ({"value": math.nan}, S.REJECTED, "whole number of percent"),
        ({"value": math.inf}, S.REJECTED, "whole number of percent"),
        ({"value": 5}, S.REJECTED, "below the limit"),
        ({"value": 5, "issuer": "technician:root"}, S.REJECTED, "below the limit"),
        ({"value": 0}, S.REJECTED, "does not allow to switch it off"),
        ({"device": IO, "point": CONTACTOR, "value": True}, S.REJECTED, "no program to return to"),
        ({"device": IO, "point": CONTACTOR, "value": None, "until_ms": None}, S.REJECTED, "no program"),
        ({"expires_ms": 1}, S.EXPIRED, "too late"),
        ({"until_ms": 1}, S.EXPIRED, "over already"),
        ({"not_before_ms": 2**52}, S.EXPIRED, "must not begin before"),
    ],
)
async def test_what_cannot_be_carried_out_is_refused_with_its_reason_and_nothing_is_written(
    cabinet: Cabinet, parts: dict[str, object], state: CommandState, why: str
) -> None:
    done = await cabinet.commands.outcome(command("c-1", cabinet, **parts))
    assert (done.state, why in done.reason) == (state, True), done.reason
    assert cabinet.states("c-1") == [state]
    assert cabinet.changes() == 0


async def test_a_command_and_its_repetitions_are_carried_out_once(cabinet: Cabinet) -> None:
    same = command("c-1", cabinet)
    await asyncio.gather(*(cabinet.commands.receive(same) for _ in range(5)))
    await until(lambda: S.VERIFIED in cabinet.states("c-1"))
    writes = cabinet.lighting.lamps[LAMP].writes
    again = await cabinet.commands.outcome(msgspec.structs.replace(same, value=30))
    assert (again.state, cabinet.arc()) == (S.VERIFIED, ARC[20])
    assert cabinet.lighting.lamps[LAMP].writes == writes == 1


async def test_a_command_waits_for_its_time(cabinet: Cabinet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands_module, "LOOK_AT_CLOCK_S", 0.05)
    not_before_ms = cabinet.clock.now().utc_ms + 400
    done = await cabinet.commands.outcome(command("c-1", cabinet, not_before_ms=not_before_ms))
    assert done.state is S.VERIFIED
    executing = next(e for e in cabinet.events if isinstance(e, CommandEvent) and e.state is S.EXECUTING)
    assert executing.at_ms >= not_before_ms


async def test_a_contact_is_switched_and_read_back(cabinet: Cabinet) -> None:
    on = command("c-1", cabinet, device=IO, point=CONTACTOR, value=False, until_ms=None)
    done = await cabinet.commands.outcome(on)
    assert (done.state, done.value) == (S.VERIFIED, False)
    assert cabinet.street.cabinet is not None
    assert not cabinet.street.cabinet.state().contactor


async def test_a_device_that_does_not_answer_leaves_the_outcome_unknown_or_failed(cabinet: Cabinet) -> None:
    await cabinet.street.fault("cabinet", "silent")
    off = command("c-1", cabinet, device=IO, point=CONTACTOR, value=False, until_ms=None)
    done = await cabinet.commands.outcome(off)
    assert done.state in {S.FAILED, S.OUTCOME_UNKNOWN}
    assert done.reason


@pytest.mark.parametrize(("value", "state"), [(True, S.VERIFIED), (False, S.OUTCOME_UNKNOWN)])
async def test_what_a_crash_interrupted_is_read_back_and_never_written_again(
    tmp_path: Path, street: Street, value: bool, state: CommandState
) -> None:
    """The contactor is closed; the command that wanted it so, or otherwise, was under way."""
    async with cabinet_at(tmp_path, street) as one:
        begun = command("c-1", one, device=IO, point=CONTACTOR, value=value, until_ms=None)
        record = one.state.add_command(begun, S.QUEUED, "", 1)
        one.state.advance_command(record, S.EXECUTING, "", None, 2)
    async with cabinet_at(tmp_path, street) as again:
        await again.commands.recover()
        await until(lambda: again.states("c-1") == [state])
        assert again.street.cabinet is not None
        assert again.street.cabinet.state().contactor


async def test_after_a_crash_an_override_is_in_force_again_and_what_waited_goes_on(
    tmp_path: Path, street: Street
) -> None:
    async with cabinet_at(tmp_path, street) as one:
        begun, queued = command("c-1", one), command("c-2", one, device=DeviceId("lamp-01"), value=30)
        late = command("c-3", one, expires_ms=one.clock.now().utc_ms - 1)
        gone = command("c-4", one, device=DeviceId("lamp-99"))
        record = one.state.add_command(begun, S.QUEUED, "", 1)
        one.state.begin_override(record, msgspec.structs.replace(_override(begun)), 2)
        for other in (queued, late):
            one.state.add_command(other, S.QUEUED, "", 1)
        one.state.advance_command(one.state.add_command(gone, S.QUEUED, "", 1), S.EXECUTING, "", None, 2)
    async with cabinet_at(tmp_path, street) as again:
        await again.commands.recover()
        await until(lambda: again.states("c-1") == [S.APPLIED] and S.VERIFIED in again.states("c-2"))
        await until(lambda: again.arc() == ARC[20])
        assert again.arc(1) == ARC[30]
        assert again.states("c-3") == [S.EXPIRED]
        assert again.states("c-4") == [S.OUTCOME_UNKNOWN]


def _override(wanted: Command) -> Override:
    assert isinstance(wanted.value, int)
    return Override(wanted.value, wanted.until_ms, 0.0, wanted.issuer)


class TestPolicies:
    async def test_an_accepted_policy_is_applied_stored_and_reported(self, cabinet: Cabinet) -> None:
        assert await cabinet.policies.receive(signed(3)) == ()
        (event,) = cabinet.events
        assert isinstance(event, PolicyEvent)
        assert (event.version, event.accepted, event.reasons) == (3, True, ())
        assert [(one.version, one.hash) for one in cabinet.state.in_force()] == [(3, event.hash)]

    async def test_the_same_again_is_accepted_again_and_changes_nothing(self, cabinet: Cabinet) -> None:
        await cabinet.policies.receive(signed(3))
        await until(lambda: all(lamp.settled for lamp in cabinet.lighting.lamps.values()))
        writes = sum(lamp.writes for lamp in cabinet.lighting.lamps.values())
        assert await cabinet.policies.receive(signed(3)) == ()
        assert [e.accepted for e in cabinet.events if isinstance(e, PolicyEvent)] == [True, True]
        assert sum(lamp.writes for lamp in cabinet.lighting.lamps.values()) == writes

    @pytest.mark.parametrize(
        ("parts", "why"),
        [
            ({"version": 2}, "version: 2 is not above 3"),
            ({"cabinet": "dijon-0002"}, "cabinet: "),
            ({"expires_ms": 1}, "expires_ms: "),
            ({"lighting": lighting(5)}, "below the limit"),
            ({"lighting": lighting(0)}, "does not allow to switch it off"),
        ],
    )
    async def test_a_rejected_policy_leaves_the_old_one_in_force(
        self, cabinet: Cabinet, parts: dict[str, object], why: str
    ) -> None:
        await cabinet.policies.receive(signed(3))
        reasons = await cabinet.policies.receive(signed(**{"version": 4, **parts}))  # type: ignore[arg-type]
        assert why in "; ".join(reasons)
        assert cabinet.policies.rejected == reasons
        event = cabinet.events[-1]
        assert isinstance(event, PolicyEvent)
        assert (event.accepted, event.reasons) == (False, reasons)
        assert [one.version for one in cabinet.state.in_force()] == [3]
        assert await cabinet.policies.receive(signed(5)) == ()
        assert cabinet.policies.rejected == ()

    async def test_what_is_in_force_outlasts_a_restart_and_no_older_version_comes_back(
        self, tmp_path: Path, street: Street
    ) -> None:
        async with cabinet_at(tmp_path, street) as one:
            await one.policies.receive(signed(7, lighting(20)))
        async with cabinet_at(tmp_path, street) as again:
            await until(lambda: again.arc() == ARC[20])
            assert await again.policies.receive(signed(6))
            assert again.arc() == ARC[20]

    async def test_a_limit_that_somebody_sets_at_the_cabinet_holds_for_what_is_in_force_already(
        self, tmp_path: Path, street: Street
    ) -> None:
        async with cabinet_at(tmp_path, street) as one:
            await one.policies.receive(signed(1, lighting(10)))
            await until(lambda: one.arc() == one.arc(2) == ARC[10])
        stricter = LIMITS.replace("minimum_level = 10", "minimum_level = 30")
        async with cabinet_at(tmp_path, street, limits=stricter) as again:
            await until(lambda: again.arc() == again.arc(1) == ARC[30])
            await until(lambda: again.lighting.lamps[DeviceId("lamp-02")].settled)
            assert again.arc(2) == ARC[10]

    async def test_a_cold_clock_revives_nothing_that_has_expired(
        self, cabinet: Cabinet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = cabinet.clock.now()
        trusted = msgspec.structs.replace(now, quality=ClockQuality.SYNCHRONISED)
        monkeypatch.setattr(cabinet.clock, "now", lambda: trusted)
        await cabinet.policies.receive(signed(1))
        cold = msgspec.structs.replace(now, utc_ms=86_400_000, quality=ClockQuality.UNSYNCHRONISED)
        monkeypatch.setattr(cabinet.clock, "now", lambda: cold)
        cabinet.policies.known_ms = lambda: now.utc_ms
        reasons = await cabinet.policies.receive(signed(2, expires_ms=now.utc_ms - 1))
        assert reasons == ("expires_ms: no longer valid",)


class TestPoller:
    """Reads each device as often as its points ask for, and never queues what it could not read."""

    MAP = """
[[map]]
name = "counter"
[[map.run]]
prefix = "r"
table = "holding"
address = 0
count = 4
"""

    def poller(self, folder: Path, ports: Ports, into: list[Sample], poll_s: float) -> tuple[Driver, Poller]:
        host, port = ports.tcp["counter"]
        extra = (
            f'[[line]]\nid = "counter"\ndriver = "modbus-tcp"\nhost = "{host}"\nport = {port}\ntimeout_s = 0.3\n'
            '[[device]]\nid = "counter"\nkind = "sensor"\nline = "counter"\naddress = 1\nmap = "counter"\n'
            f'report = "each"\npoll_s = {poll_s}\n{self.MAP}'
        )
        document = load(
            write_settings(folder, settings_text(folder, ports, "mqtt://127.0.0.1:1", extra=extra))
        )
        maps = {one.name: one for one in document.document.map}
        line = next(one for one in document.document.line if one.id == "counter")
        driver = open_line(line, document.document.device, maps, EveningClock("2026-11-24 21:00"), folder)
        watched = Watched(DeviceId("counter"), StreamClass.BULK, driver)
        return driver, Poller(driver, [watched], lambda _: None, lambda _stream, sample: into.append(sample))

    async def test_every_read_that_the_device_counted_arrives_once(
        self, tmp_path: Path, street: Street
    ) -> None:
        taken: list[Sample] = []
        driver, poller = self.poller(tmp_path, street.ports(), taken, 0.05)
        running = asyncio.create_task(driver.run())
        polling = asyncio.create_task(poller.run())
        await until(lambda: len(taken) >= 10)
        poller.finish()
        await asyncio.wait_for(polling, 10)
        values = [one.values[0] for one in taken]
        assert values == [float(n) for n in range(1, len(values) + 1)]
        assert poller.read == len(taken)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    async def test_what_a_slow_device_could_not_give_in_time_is_skipped_and_counted(
        self, tmp_path: Path, street: Street
    ) -> None:
        taken: list[Sample] = []
        await street.fault("counter", "silent")
        driver, poller = self.poller(tmp_path, street.ports(), taken, 0.05)
        running = asyncio.create_task(driver.run())
        polling = asyncio.create_task(poller.run())
        await until(lambda: poller.skipped >= 4)
        fault = taken[0].fault(0)
        assert fault is not None
        assert fault.reason is Reason.NO_ANSWER
        for task in (polling, running):
            task.cancel()
        await asyncio.gather(polling, running, return_exceptions=True)
