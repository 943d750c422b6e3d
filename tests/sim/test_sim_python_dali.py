"""python-dali's own LUBA driver, unmodified, over the pty: a foreign witness for line, interface and gear."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dali.address import GearBroadcast, GearGroup, GearShort
from dali.driver.serial import DriverLubaRs232
from dali.exceptions import TransmissionError
from dali.gear import general, led
from dali.memory import energy, info
from dali.sequences import QueryDeviceTypes, QueryGroups, SetGroups

from sim.faults import LampFault, LineFault
from sim.gear import ControlGear
from sim.scenario import parse
from sim.street import Street

SCENARIO = """
[[dali]]
name = "dali-1"
port = "dali-1"
gear = 8
groups = { 5 = [1, 2] }
physical_minimum = 1
"""


@pytest.fixture
async def street(tmp_path: Path) -> AsyncIterator[Street]:
    async with Street(parse(SCENARIO), tmp_path) as street:
        yield street


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give answers longer than its 25 ms: a machine that runs other tests beside stalls for longer.

    The line's own times are tested in virtual time.
    """
    monkeypatch.setattr(DriverLubaRs232, "timeout_rx", 0.3)


@pytest.fixture
async def driver(street: Street) -> AsyncIterator[DriverLubaRs232]:
    driver = DriverLubaRs232(f"luba232:{street.ports().serial['dali-1']}")
    await driver.connect(apply_settings=False)
    yield driver
    driver._transport.close()


def gear(street: Street, address: int) -> ControlGear:
    return street.lines["dali-1"].gear[address]


def levels(street: Street) -> list[int]:
    return [each.level(street.now_s()) for each in street.lines["dali-1"].gear]


async def test_the_handshake_finds_a_switchable_supply_that_is_on(driver: DriverLubaRs232) -> None:
    assert driver._protocol.device_info.article_num in DriverLubaRs232.TESTED_ARTICLE_NUMBERS
    assert (await driver.query_device_descriptor()).has_bus_power_supply
    assert not (await driver.read_status()).bus_voltage_error


async def test_levels_reach_the_lamps_and_come_back(street: Street, driver: DriverLubaRs232) -> None:
    await driver.send(general.DAPC(GearShort(3), 200))
    await driver.send(general.DAPC(GearGroup(5), 128))
    await driver.send(general.RecallMaxLevel(GearShort(7)))
    assert levels(street) == [0, 128, 128, 200, 0, 0, 0, 254]
    assert (await driver.send(general.QueryActualLevel(GearShort(3)))).value == 200
    assert (await driver.send(general.QueryActualLevel(GearShort(2)))).value == 128
    await driver.send(general.Off(GearBroadcast()))
    assert levels(street) == [0] * 8
    assert gear(street, 3).answers == {0xA0: 1}
    assert gear(street, 3).level_changes == 2


async def test_status_bits_mean_the_same_to_both(street: Street, driver: DriverLubaRs232) -> None:
    await driver.send(general.DAPC(GearShort(1), 100))
    status = await driver.send(general.QueryStatus(GearShort(1)))
    assert status.arc_power_on
    assert not status.error
    await street.fault("dali-1/1", LampFault.LAMP_FAILURE)
    status = await driver.send(general.QueryStatus(GearShort(1)))
    assert status.lamp_failure
    assert not status.arc_power_on
    assert (await driver.send(led.QueryFailureStatus(GearShort(1)))).open_circuit


async def test_scenes_and_fades_are_configured_by_sending_twice(
    street: Street, driver: DriverLubaRs232
) -> None:
    await driver.send(general.DTR0(210))
    await driver.send(general.SetScene(GearShort(4), 7))
    await driver.send(general.DTR0(4))
    await driver.send(general.SetFadeTime(GearShort(4)))
    assert gear(street, 4).settings.scenes[7] == 210
    assert gear(street, 4).settings.fade_time == 4
    await driver.send(general.GoToScene(GearShort(4), 7))
    between = (await driver.send(general.QueryActualLevel(GearShort(4)))).value
    assert 1 <= between < 210
    assert gear(street, 4).target == 210


async def test_groups_and_device_types_by_its_own_sequences(street: Street, driver: DriverLubaRs232) -> None:
    assert await driver.send(QueryGroups(GearShort(1))) == {5}
    await driver.send(SetGroups(GearShort(1), {0, 9}))
    assert gear(street, 1).settings.groups == 0b10_0000_0001
    assert await driver.send(QueryDeviceTypes(GearShort(1))) == [6, 51]


async def test_memory_banks_by_its_own_definitions(street: Street, driver: DriverLubaRs232) -> None:
    gear(street, 2).lamp.energy_wh = 1234.56
    assert float(await driver.send(energy.ActiveEnergy.read(GearShort(2)))) == 1234.5
    everything = await driver.send(energy.BANK_202.read_all(GearShort(2)))
    assert float(everything[energy.ActivePower]) == 0.5
    assert await driver.send(info.GearUnitCount.read(GearShort(2))) == 1


async def test_a_silent_gear_is_missing_and_a_garbled_one_an_error(
    street: Street, driver: DriverLubaRs232
) -> None:
    await street.fault("dali-1/0", LampFault.SILENT)
    assert (await driver.send(general.QueryActualLevel(GearShort(0)))).raw_value is None
    await street.clear("dali-1/0")
    await street.fault("dali-1/0", LampFault.GARBLED)
    assert (await driver.send(general.QueryActualLevel(GearShort(0)))).raw_value.error


async def test_gear_that_answer_at_once_collide(street: Street, driver: DriverLubaRs232) -> None:
    await driver.send(general.DAPC(GearShort(0), 100))
    assert (await driver.send(general.QueryActualLevel(GearBroadcast()))).raw_value.error
    assert street.state().lines["dali-1"].line.collisions == 1
    assert (await driver.send(general.QueryControlGearPresent(GearBroadcast()))).value


async def test_a_short_is_a_transmission_error(street: Street, driver: DriverLubaRs232) -> None:
    await street.fault("dali-1", LineFault.LINE_SHORT)
    with pytest.raises(TransmissionError):
        await driver.send(general.DAPC(GearShort(0), 100))


async def test_its_default_connect_switches_the_supply_off_and_bus_power_keeps_it_on(
    street: Street,
) -> None:
    """The trap of the reference, lighting §4."""
    for bus_power in (True, False):
        driver = DriverLubaRs232(f"luba232:{street.ports().serial['dali-1']}", bus_power=bus_power)
        await driver.connect()
        assert (await driver.read_status()).bus_voltage_error != bus_power
        driver._transport.close()
    later_s = street.now_s() + 1.0
    assert gear(street, 0).level(later_s) == 254


async def test_it_recovers_from_noise(street: Street, driver: DriverLubaRs232) -> None:
    street.lines["dali-1"].port.inject(bytes.fromhex("00 59 FF"))
    await driver.send(general.DAPC(GearShort(6), 90))
    assert (await driver.send(general.QueryActualLevel(GearShort(6)))).value == 90
