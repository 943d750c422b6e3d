"""mbpoll, a Modbus client of Debian's: a foreign witness for meter, cabinet and daylight sensor."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sim.scenario import parse
from sim.street import Street

MBPOLL = shutil.which("mbpoll")
pytestmark = pytest.mark.skipif(MBPOLL is None, reason="needs mbpoll (Debian package mbpoll)")

SCENARIO = """
[bench]
start = "2026-06-21T13:45:00+02:00"

[[dali]]
name = "dali-1"
port = "dali-1"
gear = 4
level = 254

[[rtu]]
name = "rtu-1"
port = "rtu-1"
baud = 19200
parity = "even"
cabinet = { unit = 11 }
lux = { unit = 12 }

[meter]
base_load_w = 20.0
start_kwh = 77.0
"""


@pytest.fixture
async def street(tmp_path: Path) -> AsyncIterator[Street]:
    async with Street(parse(SCENARIO), tmp_path) as street:
        yield street


async def mbpoll(*arguments: str) -> tuple[int, dict[int, float], str]:
    """Run it once; return its exit status, the values by address, and what it said."""
    process = await asyncio.create_subprocess_exec(
        str(MBPOLL),
        *("-0", "-1", "-B", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(10):
        output, _ = await process.communicate()
    text = output.decode(errors="replace")
    values = {
        int(place): float(value)
        for place, value in re.findall(r"^\[(\d+)\]:\s+(-?[\d.e+-]+)", text, re.MULTILINE)
    }
    return process.returncode or 0, values, text


def over_tcp(street: Street) -> tuple[str, ...]:
    host, port = street.ports().tcp["meter"]
    return "-m", "tcp", "-p", str(port), host


def over_rtu(street: Street, unit: int) -> tuple[str, ...]:
    return "-m", "rtu", "-b", "19200", "-P", "even", "-a", str(unit), street.ports().serial["rtu-1"]


async def test_it_reads_the_meters_floats_over_tcp(street: Street) -> None:
    status, values, text = await mbpoll("-t", "3:float", "-r", "0", "-c", "9", *over_tcp(street))
    assert status == 0, text
    assert all(225 < values[address] < 235 for address in (0, 2, 4))
    assert sum(values[address] for address in (12, 14, 16)) == pytest.approx(4 * 50 + 20, rel=0.05)
    _, values, _ = await mbpoll("-t", "3:float", "-r", "52", "-c", "1", *over_tcp(street))
    lamps_w = sum(gear.power_w(street.now_s()) for gear in street.lines["dali-1"].gear)
    assert values[52] == pytest.approx(lamps_w + 20, rel=0.01)
    _, values, _ = await mbpoll("-t", "3:float", "-r", "72", "-c", "1", *over_tcp(street))
    assert values[72] == pytest.approx(77.0, abs=0.01)
    assert street.counters().modbus["meter"]["input_registers"]["52"] == 1


async def test_it_is_refused_where_there_is_nothing(street: Street) -> None:
    status, _, text = await mbpoll("-t", "3", "-r", "1000", "-c", "2", *over_tcp(street))
    assert status != 0
    assert "Illegal data address" in text
    status, _, text = await mbpoll("-t", "4", "-r", "0", "-c", "2", *over_tcp(street))
    assert status != 0
    assert "Illegal function" in text


async def test_it_reads_inputs_and_daylight_over_rtu(street: Street) -> None:
    street.set("cabinet", {"door_open": True})
    status, values, text = await mbpoll("-t", "1", "-r", "0", "-c", "4", *over_rtu(street, 11))
    assert status == 0, text
    assert values == {0: 1, 1: 0, 2: 1, 3: 1}
    status, values, text = await mbpoll("-t", "3:int", "-r", "0", "-c", "1", *over_rtu(street, 12))
    assert status == 0, text
    assert 100_000 < values[0] / 10 < 115_000


async def test_it_switches_the_contactor_and_the_lamps_go_dark(street: Street) -> None:
    status, _, text = await mbpoll("-t", "0", "-r", "0", *over_rtu(street, 11), "0")
    assert status == 0, text
    assert not any(gear.powered for gear in street.state().lines["dali-1"].gear.values())
    _, values, _ = await mbpoll("-t", "1", "-r", "3", "-c", "1", *over_rtu(street, 11))
    assert values == {3: 0}
    _, values, _ = await mbpoll("-t", "3:float", "-r", "52", "-c", "1", *over_tcp(street))
    assert values[52] == pytest.approx(20.0)


async def test_it_meets_a_silent_unit(street: Street) -> None:
    await street.fault("lux", "silent")
    status, _, text = await mbpoll("-o", "0.2", "-t", "3:int", "-r", "0", "-c", "1", *over_rtu(street, 12))
    assert status != 0
    assert "timed out" in text
