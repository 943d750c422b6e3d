"""Pumping stations behind an OPC UA server: what is particular to them, at the wire of a simulated one."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from drivers.base import Found, LineState, Looked
from drivers.opcua_client import MAX_NOTIFICATIONS_PER_S, OpcUaClient, value_of
from drivers.settings import DeviceSettings, OpcUa
from protocols.errors import LocalProtocolError
from protocols.model.command import CommandState
from protocols.model.device import Kind
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Quality, Reason
from protocols.opcua.maps import PUMPING_STATION
from protocols.opcua.nodes import Entry, NodeMap, NodeType
from sim.faults import FaultSettings
from tests.drivers.opcua_line import LINE, ONE, TEMPERATURE, TWO, Bench, OpcUaLine, bench, devices, until

EVERY = [entry.point for entry in PUMPING_STATION.entries]
MEASURED = ("level", "inflow", "outflow", "water_temperature", "cumulative_active_energy")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        yield made


@pytest.fixture
async def line(server: Bench) -> OpcUaLine:
    made = server.connect()
    await made.until_up()
    return made


def own_map(*entries: Entry) -> NodeMap:
    return NodeMap(name="own", namespace=PUMPING_STATION.namespace, entries=entries)


def own_entry(point: str, node: str, kind: NodeType = NodeType.F64, **more: object) -> Entry:
    return Entry(point=PointName(point), node=node, type=kind, **more)  # type: ignore[arg-type]


# --- hearing ---


async def test_a_change_during_an_outage_is_heard_after_it(server: Bench, line: OpcUaLine) -> None:
    await line.until_told("water_temperature", 14.0)
    await server.street.fault("pumps", "refused")
    await line.until_told("water_temperature", None, Reason.LINE_DOWN)
    server.station().well.temperature_c = 9.5
    await server.street.clear("pumps", "refused")
    await line.until_told("water_temperature", 9.5)
    assert line.told("water_temperature") == [(14.0, None), (None, Reason.LINE_DOWN), (9.5, None)]


async def test_an_outage_is_told_once_and_not_for_a_connection_that_comes_back_at_once(
    server: Bench, line: OpcUaLine
) -> None:
    connections = server.server.front.connections
    await server.server.front.hang_up()
    await until(lambda: server.server.front.connections > connections)
    await line.until_up()
    assert (None, Reason.LINE_DOWN) not in line.told("level")
    assert line.driver.health().reconnections == 0


async def test_a_server_that_publishes_nothing_any_more_is_left_and_asked_anew(
    server: Bench, line: OpcUaLine
) -> None:
    await server.street.fault("pumps", "mute")
    await until(lambda: "published nothing" in line.reason())
    server.station().well.temperature_c = 11.0
    await line.until_told("water_temperature", 11.0)
    await server.street.clear("pumps", "mute")
    await until(lambda: line.driver.health().state is LineState.UP)
    server.station().well.temperature_c = 12.0
    await line.until_told("water_temperature", 12.0)


async def test_namespaces_may_have_other_indices_after_a_restart(server: Bench, line: OpcUaLine) -> None:
    before = server.station().ids["Level"].NamespaceIndex
    await server.street.fault("pumps", "restarted")
    assert server.station().ids["Level"].NamespaceIndex == before + 1
    await line.until_up()
    server.station().well.temperature_c = 8.0
    assert (await line.read("water_temperature")).values == (8.0,)
    await line.until_told("water_temperature", 8.0)


async def test_what_does_not_change_is_told_at_its_heartbeat(server: Bench) -> None:
    entries = own_map(
        own_entry("still", "WaterTemperature", heartbeat_s=0.1), own_entry("asked", "Level", poll_s=5.0)
    )
    line = server.connect(None, devices(ONE, node_map="own"), [entries])
    await until(lambda: len(line.told("still")) >= 4)
    assert set(line.told("still")) == {(14.0, None)}
    assert line.told("asked") == []
    polls = {one.point.name: one.poll_s for one in line.driver.points(ONE)}
    assert polls == {"still": None, "asked": 5.0}


async def test_all_values_of_all_devices_are_read_once_at_a_connection(tmp_path: Path) -> None:
    async with bench(tmp_path, stations=2) as server:
        line = server.connect(None, devices(ONE, TWO))
        await until(lambda: len(line.told("level", TWO)) > 0)
        reads = {k: n for k, n in server.server.counters().reads.items() if k.startswith("pumps-")}
        assert reads == dict.fromkeys(reads, 1)
        assert len(reads) == 2 * len(EVERY)


async def test_several_values_in_one_notification_are_told_in_their_order(server: Bench) -> None:
    line = server.connect(server.settings(period_ms=300.0))
    await line.until_up()
    told = len(line.told("water_temperature"))
    for degrees in (1.0, 2.0, 3.0):
        server.station().well.temperature_c = degrees
        await server.server.look()
    await line.until_told("water_temperature", 3.0)
    assert [value for value, _ in line.told("water_temperature")[told:]] == [1.0, 2.0, 3.0]


async def test_values_that_the_server_had_to_drop_are_counted(server: Bench) -> None:
    line = server.connect(server.settings(period_ms=400.0))
    await line.until_up()
    for tenths in range(30):
        server.station().well.temperature_c = tenths / 10
        await server.server.look()
    await line.until_told("water_temperature", 2.9)
    assert len(line.told("water_temperature")) <= 12


# --- what values are worth ---


@pytest.mark.parametrize(
    ("fault", "quality", "reason", "valued"),
    [
        ("bad_status", Quality.BAD, Reason.SENSOR_FAILURE, False),
        ("uncertain", Quality.UNCERTAIN, Reason.STALE, True),
    ],
)
async def test_a_status_says_what_a_value_is_worth(
    server: Bench, line: OpcUaLine, fault: str, quality: Quality, reason: Reason, *, valued: bool
) -> None:
    await server.street.fault("pumps-1", fault)
    got = await line.read(*MEASURED, "pump_mode")
    assert {(one.quality, one.reason) for one in got.faults.values()} == {(quality, reason)}
    assert set(got.faults) == set(range(len(MEASURED)))
    assert all((value is not None) == valued for value in got.values[:-1])
    assert got.values[-1] == 1
    await line.until_told("water_temperature", 14.0 if valued else None, reason)
    await server.street.clear("pumps-1")
    await line.until_told("water_temperature", 14.0)


async def test_a_frozen_station_says_the_same_for_ever(server: Bench, line: OpcUaLine) -> None:
    await server.street.fault("pumps-1", "frozen")
    server.station().well.temperature_c = 30.0
    assert (await line.read("water_temperature")).values == (14.0,)


async def test_pump_failure_and_high_level_are_told(server: Bench, line: OpcUaLine) -> None:
    await server.street.fault("pumps-1", "pump_failure")
    await line.until_told("pump_failure", value=True)
    await line.until_told("pump_1_fault", value=True)
    server.station().well.level_m = 3.9
    await line.until_told("high_level", value=True)


async def test_a_node_that_is_not_there_is_named_and_costs_its_own_point_only(server: Bench) -> None:
    entries = own_map(
        own_entry("level", "Level"),
        own_entry("gone", "NoSuchNode", writable=True),
        own_entry("nowhere", "i=99999", namespace="urn:nobody"),
        own_entry("unknown", "s=no/such/node"),
        own_entry("no_method", "Level", writable=True, method="NoSuchMethod"),
    )
    with structlog.testing.capture_logs() as logs:
        line = server.connect(None, devices(ONE, node_map="own"), [entries])
        await line.until_up()
    got = await line.read("level", "gone", "nowhere", "unknown")
    assert got.values[0] is not None
    assert {i: fault.reason for i, fault in got.faults.items()} == dict.fromkeys(
        (1, 2, 3), Reason.NOT_AVAILABLE
    )
    assert [entry["points"] for entry in logs if "points" in entry] == [["gone", "nowhere"]]
    assert [entry["point"] for entry in logs if entry["event"] == "not told of"] == ["unknown"]
    assert line.told("gone") == line.told("unknown")[:1] == [(None, Reason.NOT_AVAILABLE)]
    for point in ("gone", "no_method"):
        written = await line.driver.write(ONE, PointName(point), 1.0)
        assert written.state is CommandState.FAILED
        assert "the server has no" in written.reason


async def test_a_device_that_is_not_there_is_named_and_its_neighbour_is_read(server: Bench) -> None:
    lost = DeviceSettings(
        id=TWO, kind=Kind.PUMPING_STATION, line=LINE, address="pumps-9", map="pumping_station"
    )
    with structlog.testing.capture_logs() as logs:
        line = server.connect(None, [*devices(ONE), lost])
        await line.until_up()
    assert [entry["address"] for entry in logs if "address" in entry] == ["pumps-9"]
    got = await line.read("level", "inflow", device=TWO)
    assert {fault.reason for fault in got.faults.values()} == {Reason.NOT_AVAILABLE}


async def test_nodes_can_be_named_after_their_object(server: Bench) -> None:
    entries = own_map(own_entry("level", "s={object}/Level"), own_entry("service", "0:Server/0:ServiceLevel"))
    address = f"nsu={PUMPING_STATION.namespace};s=pumps-1"
    device = DeviceSettings(id=ONE, kind=Kind.PUMPING_STATION, line=LINE, address=address, map="own")
    line = server.connect(None, [device], [entries])
    await line.until_up()
    assert (await line.read("level")).values == (server.station().well.state().level_m,)


async def test_a_value_of_another_type_is_garbled_and_never_a_value(server: Bench) -> None:
    entries = own_map(own_entry("level", "Level"), own_entry("wrong", "HighLevel"))
    line = server.connect(None, devices(ONE, node_map="own"), [entries])
    await line.until_up()
    got = await line.read("level", "wrong")
    assert {i: fault.reason for i, fault in got.faults.items()} == {1: Reason.GARBLED}


# --- commands ---


async def test_pumps_are_run_by_methods_and_their_mode_too(server: Bench, line: OpcUaLine) -> None:
    async def write(point: str, value: float | bool) -> tuple[CommandState, str]:
        written = await line.driver.write(ONE, PointName(point), value)
        return written.state, written.reason

    state, reason = await write("pump_2_running", value=True)
    assert state is CommandState.FAILED
    assert "BadInvalidState" in reason
    assert await write("pump_mode", 2) == (CommandState.VERIFIED, "")
    assert await write("pump_2_running", value=True) == (CommandState.VERIFIED, "")
    assert server.station().well.state().running == (False, True)
    assert await write("pump_2_running", value=False) == (CommandState.VERIFIED, "")
    assert server.station().well.state().running == (False, False)


async def test_what_does_not_show_in_its_time_is_applied_and_not_verified(server: Bench) -> None:
    start = own_entry(
        "start", "Pump1/Running", NodeType.BOOL, writable=True, method="StartPump", method_off="StopPump",
        arguments=(1,), settle_s=0.2,
    )  # fmt: skip
    line = server.connect(None, devices(ONE, node_map="own"), [own_map(own_entry("level", "Level"), start)])
    await line.until_up()
    server.station().well.set_mode(server.station().well.mode.HAND)
    await server.street.fault("pumps-1", "pump_failure")
    written = await line.driver.write(ONE, PointName("start"), value=True)
    assert written.state is CommandState.APPLIED
    assert written.value is False
    assert "not what was written" in written.reason


async def test_a_node_that_may_not_be_written_says_so(server: Bench) -> None:
    entries = own_map(own_entry("level", "Level", writable=True))
    line = server.connect(None, devices(ONE, node_map="own"), [entries])
    await line.until_up()
    before = server.station().well.level_m
    written = await line.driver.write(ONE, PointName("level"), 99.0)
    assert written.state is CommandState.FAILED
    assert "BadUserAccessDenied" in written.reason
    assert server.station().well.level_m < before + 1


async def test_a_write_under_which_the_server_vanishes_has_an_unknown_outcome(
    server: Bench, line: OpcUaLine
) -> None:
    await server.street.fault("pumps", "silent")
    written = await line.driver.write(ONE, PointName("level_setpoint"), 2.5)
    assert written.state is CommandState.OUTCOME_UNKNOWN
    with pytest.raises(LocalProtocolError):
        await line.driver.write(ONE, PointName("level_setpoint"), 2.5, ramp_s=1.0)


# --- a server that is not what it should be ---


async def test_a_server_that_takes_everything_and_never_answers_is_down_with_a_reason(
    server: Bench, line: OpcUaLine
) -> None:
    await server.street.fault("pumps", "silent")
    got = await line.read("level")
    assert [fault.reason for fault in got.faults.values()] == [Reason.LINE_DOWN]
    await until(lambda: "does not answer within 0.5 s" in line.reason())
    await server.street.clear("pumps", "silent")
    await line.until_up()


async def test_a_server_that_closes_every_connection_is_down_and_comes_back(
    server: Bench, line: OpcUaLine
) -> None:
    await server.street.fault("pumps", "closed")
    await until(lambda: line.driver.health().state is LineState.DOWN)
    assert line.reason()
    await server.street.clear("pumps", "closed")
    await line.until_up()


async def test_one_slow_answer_does_not_cost_the_line(server: Bench, line: OpcUaLine) -> None:
    await server.street.fault("pumps-1", "late", settings=FaultSettings(delay_s=0.7))
    got = await line.read("level")
    assert [fault.reason for fault in got.faults.values()] == [Reason.NO_ANSWER]
    assert line.driver.health().state is LineState.UP


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"ACKF\x08\x00\x00\x00",
        b"ACKF\x1c\x00\x00\x00" + bytes(20),
        b"ERRF\x10\x00\x00\x00\x00\x00\x80\x80\xff\xff\xff\xff",
        b"MSGF\xff\xff\xff\xff" + bytes(200_000),
        b"OPNF\x08\x00\x00\x00",
        bytes(1000),
        b"",
    ],
)
async def test_what_does_not_speak_opc_ua_is_down_with_a_reason(tmp_path: Path, said: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(said)
        await asyncio.gather(writer.drain(), return_exceptions=True)
        writer.close()

    rogue = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = rogue.sockets[0].getsockname()[1]
    async with bench(tmp_path) as server:
        line = server.connect(server.settings(url=f"opc.tcp://127.0.0.1:{port}", timeout_s=0.2))
        await until(lambda: line.driver.health().state is LineState.DOWN)
        assert line.reason()
        assert not line.task.done()
    rogue.close()


async def test_a_server_that_floods_is_heard_no_faster_than_it_should_be(server: Bench) -> None:
    settings = OpcUa(id=LINE, url=server.server.state().url, security="none", period_ms=1.0)
    client = OpcUaClient(settings, lambda _: None)
    notifications = 0

    def told(_: object) -> None:
        nonlocal notifications
        notifications += 1

    await client.open(None, None)
    await client.subscribe([value_of(server.station().ids["WaterTemperature"])], told, lambda: None)
    async with asyncio.timeout(10):
        while not client.flooded:
            server.station().well.temperature_c += 0.001
            await server.server.look()
            await asyncio.sleep(0)
    assert notifications <= MAX_NOTIFICATIONS_PER_S + 2
    await client.leave()
    client.drop()


# --- searching ---


async def test_a_search_finds_stations_that_nobody_has_declared(tmp_path: Path) -> None:
    async with bench(tmp_path, stations=2) as server:
        line = server.connect()
        await line.until_up()
        sights = [sight async for sight in line.driver.discover()]
    found = {sight.address: sight for sight in sights if isinstance(sight, Found)}
    other = f"nsu={PUMPING_STATION.namespace};s=pumps-2"
    assert set(found) == {"pumps-1", other}
    assert (found[other].kind, found[other].device) == (Kind.PUMPING_STATION, None)
    assert found["pumps-1"].device == ONE
    assert "17 of its 17" in found[other].text
    assert sights[-1] == Looked(1, 1)


async def test_objects_that_no_map_fits_are_told_and_looked_under(server: Bench) -> None:
    own = NodeMap(name="pumping_station", namespace="urn:nobody", entries=PUMPING_STATION.entries)
    device = DeviceSettings(
        id=ONE, kind=Kind.PUMPING_STATION, line=LINE, address="i=1", map="pumping_station"
    )
    line = server.connect(None, [device], [own])
    await until(lambda: line.driver.health().state is LineState.UP)
    found = [sight async for sight in line.driver.discover() if isinstance(sight, Found)]
    uri = PUMPING_STATION.namespace
    assert [sight.address for sight in found] == [
        f"nsu={uri};s=pumps-1",
        f"nsu={uri};s=pumps-1/Pump1",
        f"nsu={uri};s=pumps-1/Pump2",
    ]
    assert {sight.kind for sight in found} == {None}


async def test_while_the_line_is_down_nothing_is_found(server: Bench) -> None:
    await server.street.fault("pumps", "refused")
    line = server.connect()
    await until(lambda: line.driver.health().state is LineState.DOWN)
    assert [sight async for sight in line.driver.discover()] == []


# --- nothing is left behind ---


def tasks() -> set["asyncio.Task[object]"]:
    return asyncio.all_tasks() - {asyncio.current_task()}


@pytest.mark.parametrize("fault", [None, "silent", "mute", "refused", "closed"])
async def test_no_task_is_left_when_the_line_ends(server: Bench, fault: str | None) -> None:
    before = tasks()
    line = server.connect()
    await line.until_up()
    if fault is not None:
        await server.street.fault("pumps", fault)
    async with asyncio.timeout(3):
        await line.stop()
    mine = {task for task in tasks() - before if "drivers/" in str(task.get_coro())}
    named = [str(task) for task in tasks() - before if "client" in str(task)]
    assert (mine, named) == (set(), [])
    server.lines.clear()


async def test_no_task_is_left_when_the_line_ends_in_the_middle_of_connecting(server: Bench) -> None:
    await server.street.fault("pumps", "silent")
    before = tasks()
    line = server.connect()
    await until(lambda: server.server.front.connections > 0)
    async with asyncio.timeout(3):
        await line.stop()
    assert [str(task) for task in tasks() - before if "client" in str(task) or "drivers" in str(task)] == []
    server.lines.clear()


async def test_a_line_that_is_made_anew_again_and_again_leaves_nothing(
    server: Bench, line: OpcUaLine
) -> None:
    await line.until_up()
    before = len([task for task in tasks() if "OpcUa" in str(task)])
    for _ in range(5):
        connections = server.server.front.connections
        await server.server.front.hang_up()
        await until(lambda seen=connections: server.server.front.connections > seen)  # type: ignore[misc]
        await line.until_up()
    assert len([task for task in tasks() if "OpcUa" in str(task)]) == before


def test_points_are_those_of_the_map() -> None:
    assert TEMPERATURE in EVERY
    assert DeviceId("one") == ONE
