"""Lamps on a DALI line: what is particular to them, at the wire of a simulated LUBA interface."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import pytest
import structlog

from drivers.base import Driver, LineState, Written
from drivers.dali import judge
from drivers.settings import DaliLuba, DeviceSettings, LineSettings
from protocols.dali.dialogue import GearStatus, Missing, ReadBack
from protocols.dali.levels import percent_of
from protocols.dali.luba import LubaLink, ReadStatus, WriteSettings
from protocols.modbus.register_map import RegisterMap
from protocols.model.command import CommandState
from protocols.model.device import Kind
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.reading import Reason, Sample
from sim.faults import FaultSettings
from sim.gear import ControlGear
from sim.scenario import parse
from sim.street import Street

Until = Callable[[Callable[[], bool]], Awaitable[None]]
Connect = Callable[[LineSettings, Sequence[DeviceSettings], Mapping[str, RegisterMap]], Driver]

LEVEL = PointName("dimming_level")
STATUS = tuple(map(PointName, ("lamp_failure", "control_gear_failure", "lamp_on", "power_cycle_seen")))
LAMPS = tuple(DeviceId(f"lamp-{n}") for n in range(4))
PATIENCE_S = 10.0


@pytest.fixture
async def street(tmp_path: Path) -> AsyncIterator[Street]:
    scenario = '[[dali]]\nname = "dali-1"\nport = "dali-1"\ngear = 4\nlevel = 200'
    async with Street(parse(scenario), tmp_path) as made:
        yield made


def line_settings(street: Street, *, bus_supply: bool = False) -> DaliLuba:
    return DaliLuba(
        id=LineId("dali-1"),
        port=street.ports().serial["dali-1"],
        bus_supply=bus_supply,
        confirm_timeout_s=0.3,
        reconnect_s=0.05,
        reconnect_bound_s=0.2,
    )


@pytest.fixture
async def driver(street: Street, connect: Connect) -> Driver:
    return connect(line_settings(street), lamps(), {})


def lamps() -> list[DeviceSettings]:
    return [
        DeviceSettings(id=lamp, kind=Kind.LAMP, line=LineId("dali-1"), address=address)
        for address, lamp in enumerate(LAMPS)
    ]


def gear(street: Street, number: int = 0) -> ControlGear:
    return street.lines["dali-1"].gear[number]


def level(street: Street, number: int = 0) -> int:
    return gear(street, number).level(street.now_s())


def frames(street: Street) -> dict[str, int]:
    return street.counters().lines["dali-1"].frames


def reasons(sample: Sample) -> set[Reason]:
    return {fault.reason for fault in sample.faults.values()}


async def until_down(driver: Driver, until: Until) -> None:
    """Ask until the line is found to be down."""
    async with asyncio.timeout(PATIENCE_S):
        while Reason.LINE_DOWN not in reasons(await driver.read(LAMPS[0], (LEVEL,))):
            pass
    await until(lambda: driver.health().state is LineState.DOWN)


async def until_up(driver: Driver, until: Until) -> None:
    await until(lambda: driver.health().state is LineState.UP)


async def test_one_query_serves_every_point_of_the_status(street: Street, driver: Driver) -> None:
    await driver.read(LAMPS[0], (LEVEL,))
    before = frames(street)["query"]
    await driver.read(LAMPS[0], STATUS)
    assert frames(street)["query"] - before == 1
    await driver.read(LAMPS[0], (LEVEL, *STATUS))
    assert frames(street)["query"] - before == 3


async def test_status_bits_are_the_lamps(street: Street, driver: Driver) -> None:
    assert (await driver.read(LAMPS[0], STATUS)).values == (False, False, True, False)
    await street.fault("dali-1/0", "lamp_failure")
    await street.fault("dali-1/1", "gear_failure")
    gear(street, 2).go_to(0, street.now_s(), 0.0)
    assert (await driver.read(LAMPS[0], STATUS)).values == (True, False, False, False)
    assert (await driver.read(LAMPS[1], STATUS)).values == (False, True, True, False)
    assert (await driver.read(LAMPS[2], STATUS)).values == (False, False, False, False)


async def test_a_lamp_that_lost_its_supply_says_so_when_it_is_back(street: Street, driver: Driver) -> None:
    street.lines["dali-1"].feed(powered=False, at_s=street.now_s())
    assert reasons(await driver.read(LAMPS[0], (LEVEL, *STATUS))) == {Reason.NO_ANSWER}
    street.lines["dali-1"].feed(powered=True, at_s=street.now_s())
    assert (await driver.read(LAMPS[0], STATUS)).values[3] is True


async def test_a_level_that_the_gear_does_not_know_is_not_available(street: Street, driver: Driver) -> None:
    await street.fault("dali-1/0", "lamp_failure")
    got = await driver.read(LAMPS[0], (LEVEL, STATUS[0]))
    assert got.values == (None, True)
    assert reasons(got) == {Reason.NOT_AVAILABLE}
    written = await driver.write(LAMPS[0], LEVEL, 10)
    assert (written.state, written.reason) == (CommandState.FAILED, "its lamp has failed")


async def test_two_gear_at_one_address_collide(street: Street, driver: Driver) -> None:
    gear(street, 1).settings.short_address = 0
    gear(street, 1).go_to(100, street.now_s(), 0.0)
    got = await driver.read(LAMPS[0], (LEVEL,))
    assert (got.values, reasons(got)) == ((None,), {Reason.COLLISION})


async def test_one_point_may_fail_and_the_other_not(street: Street, driver: Driver) -> None:
    gear(street, 1).settings.short_address = 0
    gear(street, 1).go_to(100, street.now_s(), 0.0)
    got = await driver.read(LAMPS[0], (LEVEL, PointName("lamp_on")))
    assert got.values == (None, True)
    assert reasons(got) == {Reason.COLLISION}


async def test_per_cent_become_arc_power(street: Street, driver: Driver) -> None:
    for percent, arc in ((100, 254), (50.0, 229), (10, 170), (1.0, 85), (0, 0)):
        written = await driver.write(LAMPS[0], LEVEL, percent)
        assert written.state is CommandState.VERIFIED
        assert written.value == pytest.approx(percent, rel=0.02)
        assert level(street) == arc


async def test_a_ramp_takes_its_time_and_lets_others_through(street: Street, driver: Driver) -> None:
    ramp = asyncio.create_task(driver.write(LAMPS[0], LEVEL, 1, ramp_s=0.7))
    async with asyncio.timeout(PATIENCE_S):
        while not 85 < level(street) < 200:
            got = await driver.read(LAMPS[1], (LEVEL,))
            assert got.faults == {}
    assert not ramp.done()
    assert (await ramp).state is CommandState.VERIFIED
    assert level(street) == 85


async def test_the_fade_time_is_written_only_when_it_changes(
    street: Street, driver: Driver, until: Until
) -> None:
    await driver.write(LAMPS[0], LEVEL, 50)
    assert frames(street).get("configuration", 0) == 0
    first = asyncio.create_task(driver.write(LAMPS[0], LEVEL, 60, ramp_s=0.7))
    await until(lambda: gear(street).target == 235)
    assert frames(street)["configuration"] == 2
    assert (await driver.write(LAMPS[0], LEVEL, 70, ramp_s=0.8)).state is CommandState.VERIFIED
    assert (await first).state is CommandState.APPLIED
    assert frames(street)["configuration"] == 2
    assert gear(street).settings.fade_time == 1


async def test_a_level_that_was_overtaken_is_not_called_verified(street: Street, driver: Driver) -> None:
    first = asyncio.create_task(driver.write(LAMPS[0], LEVEL, 1, ramp_s=1.0))
    async with asyncio.timeout(PATIENCE_S):
        while gear(street).target != 85:
            await driver.read(LAMPS[1], (LEVEL,))
    second = await driver.write(LAMPS[0], LEVEL, 100)
    assert second.state is CommandState.VERIFIED
    assert (await first).state is CommandState.APPLIED
    assert level(street) == 254


async def test_the_gears_own_limits_are_told(driver: Driver) -> None:
    written = await driver.write(LAMPS[0], LEVEL, 0.2)
    assert written.state is CommandState.APPLIED
    assert written.value == pytest.approx(1.0, rel=0.02)
    assert "limits" in written.reason


@pytest.mark.parametrize(
    ("back", "state"),
    [
        (ReadBack(200), CommandState.VERIFIED),
        (ReadBack(100), CommandState.FAILED),
        (ReadBack(100, GearStatus.LAMP_ON), CommandState.FAILED),
        (ReadBack(100, GearStatus.LAMP_ON | GearStatus.FADE_RUNNING), CommandState.APPLIED),
        (ReadBack(100, GearStatus.LIMIT_ERROR), CommandState.APPLIED),
        (ReadBack(255), CommandState.APPLIED),
        (ReadBack(255, GearStatus.LAMP_FAILURE), CommandState.FAILED),
        (ReadBack(Missing.COLLISION), CommandState.APPLIED),
    ],
)
def test_what_became_of_a_level_is_judged_by_level_and_status(back: ReadBack, state: CommandState) -> None:
    written = judge(200, back)
    assert written.state is state
    assert (written.reason == "") == (state is CommandState.VERIFIED)


async def test_a_late_answer_is_not_taken_for_a_silent_neighbours(street: Street, driver: Driver) -> None:
    """The late answer falls into the time in which the neighbour's would be due."""
    await driver.read(LAMPS[0], (LEVEL,))
    await street.fault("dali-1/1", "silent")
    for delay_s in (0.13, 0.15):
        await street.fault("dali-1/0", "late", settings=FaultSettings(delay_s=delay_s))
        assert reasons(await driver.read(LAMPS[0], (LEVEL,))) == {Reason.NO_ANSWER}
        assert reasons(await driver.read(LAMPS[1], (LEVEL,))) <= {Reason.NO_ANSWER, Reason.BACKED_OFF}
        await street.clear("dali-1/0")
        assert (await driver.read(LAMPS[0], (LEVEL,))).faults == {}
    assert driver.health().late_bytes_discarded > 0


@pytest.mark.parametrize("fault", ["line_short", "frozen"])
async def test_a_line_that_carries_nothing_is_down_and_comes_back(
    street: Street, driver: Driver, fault: str, until: Until
) -> None:
    await driver.read(LAMPS[0], (LEVEL,))
    await street.fault("dali-1", fault)
    await until_down(driver, until)
    assert reasons(await driver.read(LAMPS[0], (LEVEL,))) == {Reason.LINE_DOWN}
    assert (
        driver.health().reason
        == {
            "line_short": "the DALI line has no bus voltage",
            "frozen": f"no LUBA interface answers on {street.ports().serial['dali-1']}",
        }[fault]
    )
    await street.clear("dali-1")
    await until_up(driver, until)
    assert (await driver.read(LAMPS[0], (LEVEL,))).faults == {}


async def test_a_write_that_the_line_did_not_survive_has_an_unknown_outcome(
    street: Street, driver: Driver
) -> None:
    await driver.read(LAMPS[0], (LEVEL,))
    await street.fault("dali-1", "frozen")
    written = await driver.write(LAMPS[0], LEVEL, 50)
    assert written.state is CommandState.OUTCOME_UNKNOWN
    assert "does not answer" in written.reason


@pytest.mark.parametrize(
    ("fault", "settings"), [("noise", FaultSettings(every_s=0.02)), ("flip", FaultSettings(probability=0.01))]
)
async def test_noise_on_the_serial_cable_never_becomes_a_value(
    street: Street, driver: Driver, fault: str, settings: FaultSettings, until: Until
) -> None:
    await driver.read(LAMPS[0], (LEVEL,))
    await street.fault("dali-1", fault, settings=settings)
    for number in range(8):
        got = await driver.read(LAMPS[number % 4], (LEVEL,))
        assert got.values[0] in {None, percent_of(200)}
        assert reasons(got) <= {Reason.GARBLED, Reason.NO_ANSWER, Reason.BACKED_OFF, Reason.COLLISION}
    await street.clear("dali-1")
    async with asyncio.timeout(PATIENCE_S):
        while (await driver.read(LAMPS[0], (LEVEL,))).faults:
            await until(lambda: driver.health().state is LineState.UP)
    with structlog.testing.capture_logs() as logs:
        assert (await driver.read(LAMPS[1], (LEVEL,))).values[0] in {None, percent_of(200)}
    assert logs == []


def luba_request(street: Street, request: ReadStatus | WriteSettings) -> None:
    """Let somebody else's program speak to the interface."""
    port = street.lines["dali-1"].port
    port.received(LubaLink().send(request), street.now_s())


def powered(street: Street) -> bool:
    return street.lines["dali-1"].line.voltage_at_gear()


async def test_a_bus_supply_that_is_not_ours_is_left_as_it_is(
    street: Street, connect: Connect, until: Until
) -> None:
    driver = connect(line_settings(street), lamps(), {})
    assert (await driver.read(LAMPS[0], (LEVEL,))).faults == {}
    assert powered(street)
    luba_request(street, WriteSettings(supply_on=False))
    await until_down(driver, until)
    assert driver.health().reason == "the DALI line has no bus voltage"
    assert not powered(street)


async def test_a_bus_supply_that_is_ours_is_switched_on(street: Street, connect: Connect) -> None:
    luba_request(street, WriteSettings(supply_on=False))
    assert not powered(street)
    driver = connect(line_settings(street, bus_supply=True), lamps(), {})
    assert reasons(await driver.read(LAMPS[0], (LEVEL,))) == set()
    assert powered(street)


async def test_wires_off_the_interface_are_silent_lamps(street: Street, driver: Driver) -> None:
    await driver.read(LAMPS[0], (LEVEL,))
    await street.fault("dali-1", "line_unplugged")
    assert reasons(await driver.read(LAMPS[0], (LEVEL,))) <= {Reason.NO_ANSWER, Reason.LINE_DOWN}


def test_written_says_why_unless_it_is_verified() -> None:
    assert judge(0, ReadBack(0)) == Written(CommandState.VERIFIED, 0.0)
