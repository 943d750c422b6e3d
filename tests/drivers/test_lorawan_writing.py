"""Writing to a LoRaWAN device: after its next uplink, once, in time, and what is known of the outcome."""

import asyncio
from pathlib import Path

import pytest

from drivers.base import Written
from protocols.errors import LocalProtocolError
from protocols.model.command import CommandState
from protocols.model.ids import PointName
from protocols.model.reading import Value
from tests.drivers.air import (
    BAY,
    SWITCH,
    Air,
    air,
    free_port,
    settings,
)

SWITCH_1 = PointName("switch_1")
OFF = bytes.fromhex("083100fe")
ON = bytes.fromhex("083101ff")


async def begun(line: Air, value: Value = True) -> "asyncio.Task[Written]":
    task = asyncio.create_task(line.driver.write(SWITCH, SWITCH_1, value))
    await line.until(lambda: line.driver.health().queued == 1)
    return task


async def test_a_write_goes_out_after_the_next_uplink_and_is_verified_by_what_the_device_tells(
    tmp_path: Path,
) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        switch = await line.joined(gateway, line.switch)
        write = await begun(line)
        gateway.push(switch.uplink(OFF, 85))
        frame, plain, _ = switch.hear((await line.downlink(gateway, 1)).wire)
        assert (frame.confirmed, frame.port, plain[0]) == (True, 85, 0x08)
        assert line.driver.health().queued == 0
        gateway.push(switch.uplink(ON, 85, ack=True))
        assert await write == Written(CommandState.VERIFIED, True)


async def test_a_write_that_is_acknowledged_and_not_told_is_applied(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        switch = await line.joined(gateway, line.switch)
        write = await begun(line)
        gateway.push(switch.uplink(OFF, 85))
        await line.downlink(gateway, 1)
        gateway.push(switch.uplink(port=None, ack=True))
        assert (await write).state is CommandState.APPLIED


async def test_a_write_that_is_not_acknowledged_has_an_unknown_outcome(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        switch = await line.joined(gateway, line.switch)
        write = await begun(line)
        gateway.push(switch.uplink(OFF, 85))
        await line.downlink(gateway, 1)
        gateway.push(switch.uplink(OFF, 85))
        assert (await write).state is CommandState.OUTCOME_UNKNOWN
        await line.settled(gateway)
        assert len(gateway.downlinks) == 2


async def test_a_write_to_a_device_that_does_not_speak_fails_in_time(tmp_path: Path) -> None:
    async with air(tmp_path, settings(free_port(), write_timeout_s=0.5)) as line:
        gateway = await line.forwarder()
        switch = await line.joined(gateway, line.switch)
        assert await line.driver.write(SWITCH, SWITCH_1, True) == Written(
            CommandState.FAILED, None, "it did not speak in time"
        )
        write = await begun(line)
        gateway.push(switch.uplink(OFF, 85))
        await line.downlink(gateway, 1)
        assert await write == Written(CommandState.OUTCOME_UNKNOWN, None, "it did not acknowledge in time")
        gateway.push(switch.uplink(OFF, 85))
        await line.settled(gateway)
        assert len(gateway.downlinks) == 2


async def test_a_write_is_not_sent_once_it_is_too_late_to_begin_it(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        switch = await line.joined(gateway, line.switch)
        late = await line.driver.write(SWITCH, SWITCH_1, True, begin_within_s=0.05)
        assert late == Written(CommandState.FAILED, None, "it did not speak before the command expired")
        gateway.push(switch.uplink(OFF, 85))
        await line.settled(gateway)
        assert (line.driver.health().queued, len(gateway.downlinks)) == (0, 1)


async def test_a_write_that_was_begun_in_time_is_waited_for_beyond_it(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        switch = await line.joined(gateway, line.switch)
        write = asyncio.create_task(line.driver.write(SWITCH, SWITCH_1, True, begin_within_s=0.5))
        await line.until(lambda: line.driver.health().queued == 1)
        over = asyncio.get_running_loop().time() + 0.6
        gateway.push(switch.uplink(OFF, 85))
        await line.downlink(gateway, 1)
        await line.until(lambda: asyncio.get_running_loop().time() > over)
        gateway.push(switch.uplink(ON, 85, ack=True))
        assert await write == Written(CommandState.VERIFIED, True)


async def test_whoever_leaves_takes_back_what_was_not_sent(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        switch = await line.joined(gateway, line.switch)
        write = await begun(line)
        write.cancel()
        await asyncio.wait([write])
        assert (write.cancelled(), line.driver.health().queued) == (True, 0)
        gateway.push(switch.uplink(OFF, 85))
        await line.settled(gateway)
        assert len(gateway.downlinks) == 1


async def test_a_write_that_the_gateway_refuses_to_send_fails(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        switch = await line.joined(gateway, line.switch)
        gateway.errors = ["TX_FREQ", "TX_FREQ"]
        write = await begun(line)
        gateway.push(switch.uplink(OFF, 85))
        assert await write == Written(CommandState.FAILED, None, "the gateway says TX_FREQ")


async def test_of_two_values_for_one_point_the_newer_goes_out(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        switch = await line.joined(gateway, line.switch)
        older = await begun(line, False)
        newer = asyncio.create_task(line.driver.write(SWITCH, SWITCH_1, True))
        assert (await older).reason == "another value was asked for meanwhile"
        gateway.push(switch.uplink(OFF, 85))
        await line.downlink(gateway, 1)
        gateway.push(switch.uplink(ON, 85, ack=True))
        assert (await newer).state is CommandState.VERIFIED


async def test_one_downlink_an_uplink_and_more_is_announced(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        switch = await line.joined(gateway, line.switch)
        points = [PointName(f"switch_{number}") for number in range(1, 9)]
        writes = [asyncio.create_task(line.driver.write(SWITCH, point, True)) for point in points]
        await line.until(lambda: line.driver.health().queued == 8)
        gateway.push(switch.uplink(OFF, 85))
        frame, _, _ = switch.hear((await line.downlink(gateway, 1)).wire)
        assert frame.pending
        await line.settled(gateway)
        assert (len(gateway.downlinks), line.driver.health().queued) == (2, 7)
        line.task.cancel()
        states = [written.state for written in await asyncio.gather(*writes)]
        assert states == [CommandState.OUTCOME_UNKNOWN, *[CommandState.FAILED] * 7]


async def test_a_write_to_a_device_that_has_not_joined_fails_at_once(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        await line.forwarder()
        written = await line.driver.write(SWITCH, SWITCH_1, True)
        assert written.state is CommandState.FAILED
        assert "has not asked to join" in written.reason


async def test_what_cannot_be_written_is_refused_before_anything_is_queued(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        await line.forwarder()
        for device, point, value, ramp_s in (
            (BAY, "occupied", True, 0.0),
            (SWITCH, "rssi", 1, 0.0),
            (SWITCH, "no_such", 1, 0.0),
            (SWITCH, "switch_1", "high", 0.0),
            (SWITCH, "switch_1", None, 0.0),
            (SWITCH, "switch_1", True, 5.0),
        ):
            with pytest.raises(LocalProtocolError):
                await line.driver.write(device, PointName(point), value, ramp_s=ramp_s)
        assert line.driver.health().queued == 0
