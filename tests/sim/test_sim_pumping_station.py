"""Pumping stations on a bench: what a scenario says of them, their books, and that a bench ends clean."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from asyncua import Client, ua

from sim.faults import OpcUaFault, StationFault
from sim.scenario import ScenarioError, parse, target_faults
from sim.street import Street

OPEN = 'control = "sim.sock"\n[[pumping_station]]\nsecurity = "none"\n'
NAMESPACE = "urn:luciole:pumping-station"


def faults_of(text: str) -> dict[str, str]:
    with pytest.raises(ScenarioError) as error:
        parse(text)
    return {fault.key: fault.expected for fault in error.value.complaints}


def test_a_station_is_a_target_and_so_is_its_server() -> None:
    targets = target_faults(parse("[[pumping_station]]\nstations = 2"))
    assert targets == {
        "pumps": frozenset(OpcUaFault),
        "pumps-1": frozenset(StationFault),
        "pumps-2": frozenset(StationFault),
    }


def test_what_contradicts_itself_is_named() -> None:
    assert faults_of('[[pumping_station]]\nsecurity = "none"\nhost = "0.0.0.0"') == {
        "pumping_station[0].security": "expected a policy; 0.0.0.0 is not loopback"
    }
    assert set(faults_of("[[pumping_station]]\n[[pumping_station]]")) == {"pumping_station[1].name"}
    one = '[[pumping_station]]\nname = "a"\nport = 4840\n'
    assert list(faults_of(one + one.replace('"a"', '"b"'))) == ["pumping_station[1].port"]
    assert list(faults_of("[[pumping_station]]\nstations = 3")) == ["pumping_station[0].stations"]
    clash = '[[pumping_station]]\n[[counter]]\nname = "pumps-1"'
    assert list(faults_of(clash)) == ["pumps-1.name"]


def test_a_bench_without_a_station_does_not_load_asyncua() -> None:
    code = "import sys, sim.street, sim.cli; sys.exit('asyncua' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0


async def test_a_bench_tells_where_its_stations_are_and_how_they_are(tmp_path: Path) -> None:
    async with Street(parse(OPEN + "stations = 2"), tmp_path) as street:
        told = street.state().pumping["pumps"]
        assert told.url == f"opc.tcp://127.0.0.1:{told.port}"
        assert street.ports().tcp["pumps"] == ("127.0.0.1", told.port)
        assert set(told.stations) == {"pumps-1", "pumps-2"}
        await street.fault("pumps-2", "pump_failure")
        await street.fault("pumps", "mute")
        told = street.state().pumping["pumps"]
        assert (told.faults, told.stations["pumps-2"].faults) == (["mute"], ["pump_failure"])
        assert told.stations["pumps-2"].well.pump_failure
        assert not told.stations["pumps-1"].well.pump_failure
        json.dumps(street.counters().pumping["pumps"].reads)


async def test_the_server_counts_by_itself_what_it_gives(tmp_path: Path) -> None:
    async with Street(parse(OPEN), tmp_path) as street:
        client = Client(street.state().pumping["pumps"].url)
        async with client:
            index = await client.get_namespace_index(NAMESPACE)
            node = client.get_node(ua.NodeId("pumps-1/WaterTemperature", index))
            for _ in range(3):
                assert await node.read_value() == 14.0
            heard: asyncio.Queue[float] = asyncio.Queue()

            class Ear:
                def datachange_notification(self, _node: object, value: float, _all: object) -> None:
                    heard.put_nowait(value)

            subscription = await client.create_subscription(20, Ear())
            await subscription.subscribe_data_change(node)
            async with asyncio.timeout(5):
                assert await heard.get() == 14.0
                street.pumping["pumps"].stations["pumps-1"].well.temperature_c = 15.0
                assert await heard.get() == 15.0
            await subscription.delete()
        told = street.counters().pumping["pumps"]
        assert told.reads["pumps-1/WaterTemperature"] == 3
        assert told.published == {"pumps-1/WaterTemperature": 2}


async def test_a_bench_that_ends_leaves_no_task_and_no_port(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with Street(parse(OPEN), tmp_path) as street:
        told = street.state().pumping["pumps"]
        client = Client(told.url)
        await client.connect()
        await client.create_subscription(50, None)
    with pytest.raises(OSError, match="Connect"):
        await asyncio.open_connection(told.host, told.port)
    await client.disconnect()
    await asyncio.sleep(0)
    left = [
        task for task in asyncio.all_tasks() - before if "asyncua/server" in str(task) or "sim/" in str(task)
    ]
    assert left == []


async def test_a_secured_server_makes_its_certificate_once(tmp_path: Path) -> None:
    scenario = parse('control = "sim.sock"\n[[pumping_station]]\n')
    made = []
    for _ in range(2):
        async with Street(scenario, tmp_path) as street:
            path = street.state().pumping["pumps"].certificate
            assert path == str(tmp_path / "pumps-pki" / "server.der")
            made.append((tmp_path / "pumps-pki" / "server.der").read_bytes())
    assert made[0] == made[1]
    assert (tmp_path / "pumps-pki" / "server.key.pem").stat().st_mode & 0o077 == 0
