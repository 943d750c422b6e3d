"""A junction and its bus as parts of a street: events, faults, state and counters, from the outside."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
import typer.testing

import sim.cli
from sim.scenario import Scenario, parse
from sim.street import Street
from sim.street_thread import StreetThread
from sim.targets import UnknownError
from tests.sim.supervisor import Supervisor

JUNCTION = """
[[junction]]
name = "junction-1"
port = {port}
reconnect_s = 0.05
[junction.design]
start_flash_s = 0
start_red_s = 1
"""
BUS = '[[bus]]\nname = "bus-1"\njunction = "junction-1"\n'


def scenario(port: int, *parts: str) -> Scenario:
    return parse("".join((JUNCTION.format(port=port), *parts)))


class TestStreet:
    async def test_the_junction_connects_and_the_bus_drives(self, tmp_path: Path) -> None:
        async with Supervisor() as supervisor, Street(scenario(supervisor.port, BUS), tmp_path) as street:
            await supervisor.ready()
            state = street.state()
            assert state.junctions["junction-1"].mode == "startup"
            assert state.junctions["junction-1"].connected
            assert state.buses["bus-1"].riding
            counters = street.counters()
            assert counters.junctions["junction-1"].requests == 0
            assert counters.buses["bus-1"].rides == 0
            assert json.loads(msgspec.json.encode(state))["junctions"]["junction-1"]["plan"] == 1
        assert supervisor.wrong == []

    async def test_it_runs_on_real_time_into_control(self, tmp_path: Path) -> None:
        async with Supervisor() as supervisor, Street(scenario(supervisor.port), tmp_path) as street:
            await supervisor.ready()
            supervisor.subscribe("S0020", "controlmode")
            began_s = street.now_s()
            await supervisor.until(
                lambda: any(each.value == "control" for each in supervisor.updates("S0020"))
            )
            assert street.now_s() - began_s > 3.0
            assert street.junctions["junction-1"].junction.stage == 1
        assert supervisor.wrong == []

    async def test_faults_reach_controller_group_and_detector(self, tmp_path: Path) -> None:
        async with Supervisor() as supervisor, Street(scenario(supervisor.port), tmp_path) as street:
            await supervisor.ready()
            for target, fault in (
                ("junction-1", "rejects_priority"),
                ("junction-1/2", "lamp_failure"),
                ("junction-1/exit-4", "detector_stuck"),
            ):
                await street.fault(target, fault)
            faults = street.state().junctions["junction-1"].faults
            assert faults == ["rejects_priority", "2/lamp_failure", "exit-4/detector_stuck"]
            assert street.state().junctions["junction-1"].alarms == ["A0201 group 2"]
            for target in ("junction-1", "junction-1/2", "junction-1/exit-4"):
                await street.clear(target)
            assert street.state().junctions["junction-1"].faults == []
            with pytest.raises(UnknownError, match="junction-1"):
                await street.fault("junction-2", "silent")

    async def test_a_network_that_is_gone_for_a_while_comes_back_by_itself(self, tmp_path: Path) -> None:
        async with Supervisor() as supervisor, Street(scenario(supervisor.port), tmp_path) as street:
            await supervisor.ready()
            await street.fault("junction-1", "disconnected", for_s=0.1)
            assert not street.state().junctions["junction-1"].connected
            await supervisor.until(lambda: supervisor.connections == 2)

    async def test_without_a_supervisor_the_junction_runs_all_the_same(self, tmp_path: Path) -> None:
        async with Supervisor() as gone:
            port = gone.port
        async with Street(scenario(port, BUS), tmp_path) as street:
            await asyncio.sleep(0)
            state = street.state().junctions["junction-1"]
            assert (state.connected, state.ready, state.mode) == (False, False, "startup")


def test_state_and_counters_are_shown_to_a_person(tmp_path: Path) -> None:
    events = '[[event]]\nat_s = 0\ntarget = "junction-1"\nfault = "dark"\n'
    control = str(tmp_path / "luciole-sim.sock")
    run = typer.testing.CliRunner().invoke
    with StreetThread(scenario(9, BUS, events), tmp_path) as street:
        street.fault("junction-1", "dark")
        shown = run(sim.cli.app, ["state", "--control", control])
        counted = run(sim.cli.app, ["counters", "--control", control])
    assert shown.exit_code == counted.exit_code == 0
    for words in ("junction-1", "A0001", "127.0.0.1:9, away", "bus-1: ride 1"):
        assert words in shown.output
    assert "junction-1: 0 requests, 0 granted, 0 s of green gained" in counted.output
    assert "bus-1: 0 rides" in counted.output
