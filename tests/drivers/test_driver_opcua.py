"""Pumping stations behind an OPC UA server: what is particular to them, at the wire of a simulated one."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import structlog
from asyncua import ua
from asyncua.common.callback import CallbackType

from drivers.already_said import AGAIN_MS
from drivers.base import Found, LineState, Looked
from drivers.opcua_client import OpcUaClient, value_of
from drivers.settings import DeviceSettings
from protocols.errors import LocalProtocolError
from protocols.model.command import CommandState
from protocols.model.device import Kind
from protocols.model.ids import PointName
from protocols.model.reading import Quality, Reason
from protocols.opcua.maps import PUMPING_STATION
from protocols.opcua.nodes import Entry, NodeMap, NodeType
from tests.drivers.opcua_line import (
    LINE,
    ONE,
    TEMPERATURE,
    TWO,
    Bench,
    OpcUaLine,
    bench,
    devices,
    subscriptions,
    until,
)

EVERY = [entry.point for entry in PUMPING_STATION.entries]
MEASURED = ("level", "inflow", "outflow", "water_temperature", "cumulative_active_energy")
OVERFLOWED = 0x480
"""Good, with the overflow bit of a DataValue (OPC 10000-4, 7.39.1)."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        yield made


@pytest.fixture
async def line(server: Bench) -> OpcUaLine:
    made = server.connect()
    await made.until_up()
    return made


@pytest.fixture
async def hasty(server: Bench) -> OpcUaLine:
    """Return a line that does not wait long for an answer."""
    made = server.connect(server.settings(timeout_s=0.3))
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
    attempts = line.attempts()
    await until(lambda: line.attempts() > attempts + 3)
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


async def test_a_server_that_drops_each_connection_that_it_has_made_is_asked_ever_more_rarely(
    server: Bench, line: OpcUaLine
) -> None:
    for losses in range(1, 5):
        await until(lambda: line.driver.health().state is LineState.UP)
        await server.server.front.hang_up()
        await until(lambda seen=losses: line.attempts() == seen)  # type: ignore[misc]
    assert line.driver.health().reconnections > 0


async def test_a_server_that_publishes_nothing_any_more_is_left_and_asked_anew(
    server: Bench, hasty: OpcUaLine
) -> None:
    await server.street.fault("pumps", "mute")
    await until(lambda: "published nothing" in hasty.reason())
    server.station().well.temperature_c = 11.0
    await hasty.until_told("water_temperature", 11.0)
    await server.street.clear("pumps", "mute")
    await until(lambda: hasty.driver.health().state is LineState.UP)
    server.station().well.temperature_c = 12.0
    await hasty.until_told("water_temperature", 12.0)


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


async def told_with_times(server: Bench, ages_ms: list[float | None]) -> tuple[list[int], int, int]:
    """Have one notification tell values of these ages; return when they were so, when the line came up, and now."""
    line = server.connect(server.settings(period_ms=1000.0, keepalive_s=1.0))
    await line.until_up()
    up_ms, before = server.clock.now().monotonic_ms, len(line.said)
    await until(lambda: server.clock.now().monotonic_ms > up_ms + 900)
    inner, now = server.server.server, datetime.now(UTC)  # noqa: TID251  the server's own clock
    assert inner is not None
    for number, back_ms in enumerate(ages_ms):
        source = None if back_ms is None else now - timedelta(milliseconds=back_ms)
        value = ua.DataValue(ua.Variant(float(number), ua.VariantType.Double), SourceTimestamp=source)
        await inner.server.write_attribute_value(server.station().ids["WaterTemperature"], value)
    await line.until_told("water_temperature", float(len(ages_ms) - 1))
    said = [one for one in line.said[before:] if "water_temperature" in one.points]
    assert [one.values[one.points.index(TEMPERATURE)] for one in said] == [
        float(i) for i in range(len(ages_ms))
    ]
    return [one.monotonic_ms for one in said], up_ms, server.clock.now().monotonic_ms


async def test_several_values_in_one_notification_were_so_when_the_server_says(server: Bench) -> None:
    stamps, up_ms, now_ms = await told_with_times(server, [400, 250, 50])
    assert [later - stamps[0] for later in stamps] == [0, 150, 350]
    assert up_ms < stamps[0] <= stamps[-1] <= now_ms


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_source_with_another_clock_tells_of_now(server: Bench, hours: int) -> None:
    stamps, up_ms, now_ms = await told_with_times(server, [hours * 3_600_000 + ahead for ahead in range(3)])
    assert up_ms + 450 < stamps[0] == stamps[-1] <= now_ms


async def test_values_without_a_time_are_of_now_and_nothing_goes_back_behind_them(server: Bench) -> None:
    stamps, up_ms, now_ms = await told_with_times(server, [None, 400, None])
    assert up_ms + 450 < stamps[0] == stamps[-1] <= now_ms


async def test_what_is_told_later_is_not_of_before_what_was_told(server: Bench) -> None:
    line = server.connect(server.settings(period_ms=100.0))
    await line.until_up()
    assert server.server.server is not None
    space, node = server.server.server.server, server.station().ids["WaterTemperature"]
    for number, back_ms in enumerate((0, 900, 900)):
        source = datetime.now(UTC) - timedelta(milliseconds=back_ms)  # noqa: TID251  the server's own clock
        value = ua.DataValue(ua.Variant(float(number), ua.VariantType.Double), SourceTimestamp=source)
        await space.write_attribute_value(node, value)
        await line.until_told("water_temperature", float(number))
    times = [one.monotonic_ms for one in line.said]
    assert times == sorted(times)


async def test_of_values_that_change_too_fast_only_the_latest_are_told(server: Bench) -> None:
    line = server.connect(server.settings(period_ms=400.0))
    await line.until_up()
    for tenths in range(30):
        server.station().well.temperature_c = tenths / 10
        await server.server.look()
    await line.until_told("water_temperature", 2.9)
    assert len(line.told("water_temperature")) <= 12


async def overflow(server: Bench, line: OpcUaLine, times: int) -> None:
    """Have the server say with values of the temperature that it had to drop others (OPC 10000-4, 7.39.1)."""
    await line.until_up()
    inner = server.server.server
    assert inner is not None
    before = line.driver.health().named.get("overflows", 0)
    for number, status in enumerate([OVERFLOWED] * times + [0]):
        degrees = float(before + number)
        value = ua.DataValue(ua.Variant(degrees, ua.VariantType.Double), StatusCode=ua.StatusCode(status))
        await inner.server.write_attribute_value(server.station().ids["WaterTemperature"], value)
        await line.until_told("water_temperature", degrees)
    assert line.driver.health().named["overflows"] == before + times


async def test_values_that_the_server_had_to_drop_are_counted_over_all_connections_and_said_once_an_hour(
    server: Bench,
) -> None:
    line = server.connect()
    with structlog.testing.capture_logs() as logs:
        for ahead_ms in (0, 0, AGAIN_MS):
            server.clock.ahead_ms = ahead_ms
            await overflow(server, line, 3)
            await server.street.fault("pumps", "refused")
            await until(lambda: line.driver.health().state is LineState.DOWN)
            await server.street.clear("pumps", "refused")
        await line.until_up()
    assert line.driver.health().named["overflows"] == 9
    told = [entry["unsaid"] for entry in logs if entry["event"].startswith("values change faster")]
    assert told == [0, 5]


async def test_a_missing_notification_has_everything_read_again(server: Bench, line: OpcUaLine) -> None:
    reads = server.server.counters().reads["pumps-1/Level"]
    (subscription,) = subscriptions(server)
    subscription._notification_seq += 1
    server.station().well.temperature_c = 7.0
    await line.until_told("water_temperature", 7.0)
    await until(lambda: server.server.counters().reads["pumps-1/Level"] > reads)
    assert line.driver.health().state is LineState.UP
    assert line.driver.health().named["gaps"] == 1


async def test_a_subscription_that_the_server_ends_is_made_anew(server: Bench, line: OpcUaLine) -> None:
    connections = server.server.front.connections
    (subscription,) = subscriptions(server)
    await subscription.enqueue_statuschange(ua.StatusCode(ua.StatusCodes.BadTimeout))
    server.station().well.temperature_c = 6.5
    await line.until_told("water_temperature", 6.5)
    await until(lambda: server.server.front.connections > connections)


async def test_a_bug_in_whoever_listens_does_not_leave_the_line_deaf(server: Bench, line: OpcUaLine) -> None:
    connections = server.server.front.connections
    hear = line.driver.on_sample

    def stumble(_: object) -> None:
        line.driver.on_sample = hear
        raise ZeroDivisionError

    line.driver.on_sample = stumble
    server.station().well.temperature_c = 6.0
    await until(lambda: server.server.front.connections > connections)
    await line.until_told("water_temperature", 6.0)


async def test_a_bug_while_connecting_does_not_end_the_line(server: Bench) -> None:
    line = server.connect()
    hear = line.driver.on_sample

    def stumble(_: object) -> None:
        line.driver.on_sample = hear
        raise ZeroDivisionError

    line.driver.on_sample = stumble
    await until(lambda: "ZeroDivisionError" in line.reason())
    await line.until_up()


async def test_a_line_that_only_polls_notices_a_dead_server_too(server: Bench) -> None:
    polled = [msgspec.structs.replace(one, poll_s=60.0) for one in devices(ONE)]
    line = server.connect(server.settings(timeout_s=0.3), polled)
    await line.until_up()
    assert line.said == []
    await server.street.fault("pumps", "mute")
    await until(lambda: "published nothing" in line.reason())


async def test_a_server_is_asked_for_no_more_nodes_at_once_than_it_says(server: Bench) -> None:
    assert server.server.server is not None
    inner = server.server.server.server
    limits = ua.ObjectIds
    for limit in (
        limits.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
        limits.Server_ServerCapabilities_OperationLimits_MaxNodesPerTranslateBrowsePathsToNodeIds,
        limits.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
    ):
        await inner.get_node(ua.NodeId(limit)).write_value(ua.Variant(5, ua.VariantType.UInt32))
    sizes: list[int] = []
    inner.iserver.callback_service.addListener(
        CallbackType.PreRead, lambda event, _: sizes.append(len(event.request_params.NodesToRead)), 1
    )
    line = server.connect()
    await line.until_up()
    assert (await line.read(*EVERY)).faults == {}
    assert max(sizes) == 5
    server.station().well.temperature_c = 5.5
    await line.until_told("water_temperature", 5.5)


async def test_the_secure_channel_is_renewed_for_as_long_as_the_line_lasts(server: Bench) -> None:
    lost: list[str] = []
    client = OpcUaClient(server.settings(), lost.append)
    client._client.secure_channel_timeout = 800  # ms; renewed after 600, refused after 1,000
    await client.open(None, None)
    protocol = client._client.uaclient.protocol
    assert protocol is not None
    first = protocol._connection.security_token.TokenId
    async with asyncio.timeout(10):
        while protocol._connection.security_token.TokenId < first + 3:
            (got,) = await client.read([value_of(server.station().ids["WaterTemperature"])])
            assert got.Value.Value == 14.0
    await client.leave()
    client.drop()
    assert lost == []


async def test_a_server_that_is_unwell_is_logged_and_so_is_its_recovery(server: Bench) -> None:
    assert server.server.server is not None
    level = server.server.server.server.get_node(ua.NodeId(ua.ObjectIds.Server_ServiceLevel))
    entries = own_map(own_entry("level", "Level", heartbeat_s=0.05))
    with structlog.testing.capture_logs() as logs:
        line = server.connect(None, devices(ONE, node_map="own"), [entries])
        await line.until_up()
        for number in (100, 255):
            await level.write_value(ua.Variant(number, ua.VariantType.Byte))
            told = len(logs)
            await until(lambda seen=told: len(logs) > seen)  # type: ignore[misc]
    assert [entry["said"] for entry in logs] == [
        "its service level is 100 of 255",
        "that it is well again",
    ]


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
    assert [entry["point"] for entry in logs if entry["event"] == "read at its heartbeat only"] == ["unknown"]
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
    server: Bench, hasty: OpcUaLine
) -> None:
    await server.street.fault("pumps", "silent")
    written = await hasty.driver.write(ONE, PointName("level_setpoint"), 2.5)
    assert written.state is CommandState.OUTCOME_UNKNOWN
    with pytest.raises(LocalProtocolError):
        await hasty.driver.write(ONE, PointName("level_setpoint"), 2.5, ramp_s=1.0)


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
