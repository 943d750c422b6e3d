"""A street as a whole: supply, events, civil time, control socket, thread."""

import asyncio
import json
import socket
import stat
from pathlib import Path

import msgspec
import pytest

from sim.counter import read_journal
from sim.scenario import Scenario, parse
from sim.street import Street
from sim.street_thread import StreetThread
from sim.targets import UnknownError

SOON_S = 3.0
LINE = '[[dali]]\nname = "dali-1"\nport = "dali-1"\ngear = 6\n'
RTU = '[[rtu]]\nname = "rtu-1"\nport = "rtu-1"\ncabinet = {}\nlux = {}\n'
METER = "[meter]\nbase_load_w = 10.0\n"
BENCH = '[bench]\nstart = "2026-11-24T22:00:00+01:00"\nspeed = 600.0\n'


def scenario(*parts: str) -> Scenario:
    return parse("".join(parts))


async def exchange(path: str, *requests: object) -> list[dict[str, object]]:
    reader, writer = await asyncio.open_unix_connection(path)
    answers = []
    for request in requests:
        line = request if isinstance(request, bytes) else json.dumps(request).encode()
        writer.write(line + b"\n")
        async with asyncio.timeout(SOON_S):
            answers.append(json.loads(await reader.readline()))
    writer.close()
    await writer.wait_closed()
    return answers


class TestSupply:
    async def test_the_contactor_takes_the_lamps_and_gives_them_back(self, tmp_path: Path) -> None:
        async with Street(scenario(LINE, RTU, METER), tmp_path) as street:
            gear = street.lines["dali-1"].gear[0]
            gear.request(254, street.now_s(), 0.0)
            assert street.state().meter == msgspec.structs.replace(
                street.state().meter or pytest.fail("no meter"), total_w=pytest.approx(64.5, abs=0.1)
            )
            street.set("cabinet", {"contactor": False})
            state = street.state()
            assert not state.lines["dali-1"].gear["0"].powered
            assert state.meter is not None
            assert state.meter.total_w == 10.0
            street.set("cabinet", {"contactor": True})
            later_s = street.now_s() + 1.0
            assert gear.level(later_s) == 254
            assert gear.power_cycle_seen

    @pytest.mark.parametrize("switch", ["breaker_tripped", "mains_present"])
    async def test_breaker_and_mains_take_the_lamps_too(self, tmp_path: Path, switch: str) -> None:
        async with Street(scenario(LINE, RTU, METER), tmp_path) as street:
            street.set("cabinet", {switch: switch == "breaker_tripped"})
            assert not any(gear.powered for gear in street.state().lines["dali-1"].gear.values())

    async def test_a_welded_contactor_feeds_on_and_its_feedback_says_so(self, tmp_path: Path) -> None:
        async with Street(scenario(LINE, RTU), tmp_path) as street:
            await street.fault("cabinet", "contactor_welded")
            street.set("cabinet", {"contactor": False})
            told = street.state().cabinet
            assert told is not None
            assert (told.contactor, told.contactor_feedback, told.lamps_fed) == (False, True, True)
            await street.clear("cabinet")
            assert street.cabinet is not None
            assert not street.cabinet.lamps_fed

    async def test_a_dead_contactor_does_not_feed(self, tmp_path: Path) -> None:
        async with Street(scenario(LINE, RTU), tmp_path) as street:
            await street.fault("cabinet", "contactor_dead")
            assert street.cabinet is not None
            assert not street.cabinet.lamps_fed


class TestEvents:
    async def next_event(self, street: Street) -> str:
        """Wait for the next event and return its target."""
        async with asyncio.timeout(SOON_S):
            return (await street.happened.get()).target

    async def test_faults_come_at_their_real_and_at_their_civil_time(self, tmp_path: Path) -> None:
        events = (
            '[[event]]\nat_s = 0.05\ntarget = "dali-1/1"\nfault = "silent"\n'
            '[[event]]\ncivil = "2026-11-24T22:01:00+01:00"\ntarget = "dali-1/2"\nfault = "lamp_failure"\n'
        )
        async with Street(scenario(BENCH, LINE, events), tmp_path) as street:
            started_s = street.now_s()
            assert await self.next_event(street) == "dali-1/1"
            assert street.now_s() - started_s >= 0.04
            assert await self.next_event(street) == "dali-1/2"
            assert street.now_s() - started_s >= 0.09
            faults = [gear.board.names() for gear in street.lines["dali-1"].gear[:3]]
            assert faults == [[], ["silent"], ["lamp_failure"]]
            assert street.clock.civil().utc_ms >= 1795554060000

    async def test_an_event_sets_and_clears(self, tmp_path: Path) -> None:
        events = (
            '[[event]]\nat_s = 0\ntarget = "cabinet"\nset = { door_open = true }\n'
            '[[event]]\nat_s = 0.02\ntarget = "dali-1/1"\nclear = "*"\n'
        )
        async with Street(scenario(LINE, RTU, events), tmp_path) as street:
            await street.fault("dali-1/1", "late")
            assert [await self.next_event(street) for _ in range(2)] == ["cabinet", "dali-1/1"]
            told = street.state()
            assert told.cabinet is not None
            assert told.cabinet.door_open
            assert told.lines["dali-1"].gear["1"].faults == []


class TestTime:
    async def test_civil_time_runs_at_its_speed_from_its_origin(self, tmp_path: Path) -> None:
        bench = BENCH + "origin_monotonic_ms = 1000\n"
        async with Street(scenario(bench, LINE), tmp_path) as street:
            moment = street.clock.civil()
            assert moment.utc_ms == 1795554000000 + 600 * (moment.monotonic_ms - 1000)
            assert street.ports().bench.origin_monotonic_ms == 1000

    async def test_without_a_bench_time_it_is_the_wall_clocks(self, tmp_path: Path) -> None:
        async with Street(scenario(LINE), tmp_path) as street:
            assert abs(street.clock.civil().utc_ms - street.clock.now().utc_ms) < 1000
            assert street.clock.speed == 1.0


class TestControlSocket:
    async def test_only_its_owner_can_open_it_and_it_goes_at_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "luciole-sim.sock"
        async with Street(scenario(LINE), tmp_path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not path.exists()
        assert not (tmp_path / "dali-1").is_symlink()

    async def test_live_commands(self, tmp_path: Path) -> None:
        async with Street(scenario(LINE, RTU, METER), tmp_path) as street:
            path = str(street.ports().control)
            answers = await exchange(
                path,
                {"do": "fault", "target": "dali-1/3", "name": "lamp_failure"},
                {"do": "set", "target": "lux", "switches": {"sky": 0.5}},
                {"do": "state"},
                {"do": "counters"},
                {"do": "ports"},
                {"do": "clear", "target": "dali-1/3"},
                {"do": "stop"},
            )
            assert all(answer["ok"] for answer in answers)
            told = msgspec.convert(answers[2]["result"], dict[str, object])
            assert set(told) >= {"lines", "modbus", "meter", "cabinet", "lux", "civil_utc_ms"}
            assert '"faults": ["lamp_failure"]' in json.dumps(answers[2])
            assert street.lux["lux"].sky == 0.5
            assert street.lines["dali-1"].gear[3].board.names() == []
            assert street.stopped.is_set()

    @pytest.mark.parametrize(
        ("request_", "says"),
        [
            ({"do": "fault", "target": "dali-9", "name": "silent"}, "no target 'dali-9'"),
            ({"do": "fault", "target": "dali-1", "name": "melted"}, "line_short"),
            ({"do": "clear", "target": "dali-1/1", "name": "melted"}, "it has"),
            ({"do": "set", "target": "cabinet", "switches": {"roof": True}}, "door_open"),
            ({"do": "set", "target": "dali-1", "switches": {"roof": True}}, "cabinet"),
            ({"do": "set", "target": "lux", "switches": {"sky": 7}}, "0–1"),
            ({"do": "explode"}, "explode"),
            ({"do": "fault", "target": "lux", "name": "drift", "settings": {"factor": 99}}, "<= 10"),
            ({"do": "fault", "target": "lux", "name": "drift", "for_s": -1}, "> 0"),
            (b"not json", "JSON"),
        ],
    )
    async def test_what_cannot_be_done_is_said(self, tmp_path: Path, request_: object, says: str) -> None:
        async with Street(scenario(LINE, RTU), tmp_path) as street:
            (answer,) = await exchange(str(street.ports().control), request_)
            assert not answer["ok"]
            assert says in str(answer["error"])

    async def test_a_living_bench_is_not_pushed_aside_a_dead_ones_socket_is(self, tmp_path: Path) -> None:
        async with Street(scenario(LINE), tmp_path):
            with pytest.raises(FileExistsError, match="another bench"):
                await Street(scenario(), tmp_path).start()
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(str(tmp_path / "luciole-sim.sock"))
        dead.close()
        async with Street(scenario(), tmp_path) as street:
            assert (await exchange(str(street.ports().control), {"do": "ports"}))[0]["ok"]


def test_what_cannot_open_leaves_nothing_behind(tmp_path: Path) -> None:
    async def start(port: int) -> None:
        await Street(scenario(LINE, f"[meter]\nport = {port}\n"), tmp_path).start()

    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(OSError, match="address already in use"),
    ):
        asyncio.run(start(taken.getsockname()[1]))
    assert list(tmp_path.iterdir()) == []


async def test_unknown_targets_and_faults_name_what_exists(tmp_path: Path) -> None:
    async with Street(scenario(LINE), tmp_path) as street:
        with pytest.raises(UnknownError, match="there are dali-1"):
            await street.fault("dali-2", "silent")
        with pytest.raises(UnknownError, match="garbled"):
            await street.fault("dali-1/0", "unplugged")


async def test_fifty_counting_devices_stand_on_ports_of_their_own(tmp_path: Path) -> None:
    async with Street(scenario("[[counter]]\ncount = 50\n"), tmp_path) as street:
        tcp = street.ports().tcp
        assert len({port for _, port in tcp.values()}) == 50
        assert "counter-50" in tcp


def test_a_journal_holds_each_answer_that_left_whole_with_its_moment_and_its_counts(tmp_path: Path) -> None:
    groups = [
        f'[[counter]]\nname = "{name}"\nregisters = {registers}\njournal = "given.jsonl"\n'
        for name, registers in (("fast", 4), ("slow", 2))
    ]
    (tmp_path / "given.jsonl").write_text("of an earlier street")
    with StreetThread(scenario(*groups), tmp_path) as street:
        began_ms = street.state().civil_utc_ms
        for name, span in (("fast", "0000 0004"), ("slow", "0001 0001"), ("fast", "0002 0002")):
            with socket.create_connection(street.ports().tcp[name], timeout=SOON_S) as client:
                client.sendall(bytes.fromhex(f"0001 0000 0006 01 03 {span}"))
                assert client.recv(100)
        street.fault("slow", "silent")
        with socket.create_connection(street.ports().tcp["slow"], timeout=SOON_S) as client:
            client.sendall(bytes.fromhex("0001 0000 0006 01 03 0000 0001"))
        ended_ms = street.state().civil_utc_ms
    given = read_journal(tmp_path / "given.jsonl")
    assert [(one.device, one.first, one.counts) for one in given] == [
        ("fast", 0, [1, 1, 1, 1]),
        ("slow", 1, [1]),
        ("fast", 2, [2, 2]),
    ]
    assert sorted([began_ms, *(one.at_ms for one in given), ended_ms]) == [
        began_ms,
        *(one.at_ms for one in given),
        ended_ms,
    ]


async def test_a_journal_that_cannot_be_written_keeps_the_street_from_starting(tmp_path: Path) -> None:
    street = Street(scenario('[[counter]]\njournal = "no/such/folder"\n'), tmp_path)
    with pytest.raises(FileNotFoundError):
        await street.start()


def test_a_street_in_a_thread_serves_a_client_that_blocks(tmp_path: Path) -> None:
    with StreetThread(scenario(LINE, RTU, METER), tmp_path) as street:
        street.fault("meter", "exception")
        with socket.create_connection(street.ports().tcp["meter"], timeout=SOON_S) as client:
            client.sendall(bytes.fromhex("0001 0000 0006 01 04 0034 0002"))
            assert client.recv(100)[7:] == b"\x84\x04"
        street.clear("meter")
        street.set("cabinet", {"door_open": True})
        told = street.state().cabinet
        assert told is not None
        assert told.door_open
        assert street.counters().modbus["meter"]["input_registers"] == {}


def test_a_street_in_a_thread_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "dali-1").write_text("in the way")
    with pytest.raises(FileExistsError), StreetThread(scenario(LINE), tmp_path):
        pass
