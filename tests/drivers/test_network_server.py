"""The network server on a real socket: joining, counters, replays, antennas, downlinks."""

from pathlib import Path

import pytest
import structlog

from drivers.base import Admission, LineState
from protocols.lorawan.mac import DeviceTimeAns, DevStatusReq, LinkAdrReq, LinkCheckAns
from protocols.model.ids import PointName
from tests.drivers.air import (
    BAY,
    KEY,
    OTHER_KEY,
    SECOND,
    SWITCH,
    RealClock,
    air,
    free_port,
    settings,
)
from tests.drivers.forwarder import RadioDouble

OCCUPIED = PointName("occupied")


async def test_a_device_joins_and_what_it_says_is_told(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        assert line.driver.admission(BAY)[0] is Admission.AWAITED
        tmst = gateway.push(line.bay.join_request())
        accept = await line.downlink(gateway, 0)
        assert (accept.tmst - tmst) % 2**32 == 5_000_000
        assert (accept.freq, accept.datr, accept.powe) == (868.1, "SF7BW125", 14)
        told = line.bay.take_accept(accept.wire)
        assert told.cf_list[0] == 867_100_000
        assert line.driver.admission(BAY)[0] is Admission.JOINED
        gateway.push(line.bay.uplink(b"\x01"), snr=7.5, rssi=-101.0)
        await line.until(lambda: len(line.said) == 1)
        got = dict(zip(line.said[0].points, line.said[0].values, strict=True))
        assert got == {"occupied": True, "rssi": -101.0, "snr": 7.5, "frame_counter": 0}
        assert line.driver.admission(BAY)[0] is Admission.HEARD
        assert line.driver.health().state is LineState.UP


async def test_a_session_is_on_disk_before_its_accept_is_sent(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        seen: list[object] = []
        gateway.on_downlink = lambda _: seen.extend(line.rows("SELECT eui, up, down FROM session"))
        await line.joined(gateway)
        assert seen == [(f"{line.bay.dev_eui:016x}", -1, 0)]
        assert line.rows("SELECT nonce FROM nonce") == [(1,)]


async def test_a_counter_is_on_disk_before_the_uplink_is_told(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        seen: list[object] = []
        line.driver.on_sample = lambda _: seen.extend(line.rows("SELECT up FROM session"))
        for _ in range(3):
            gateway.push(line.bay.uplink())
        await line.until(lambda: len(seen) == 3)
        assert seen[-1] == (2,)


async def test_a_downlink_counter_is_on_disk_before_the_downlink_is_sent(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        seen: list[object] = []
        gateway.on_downlink = lambda _: seen.extend(line.rows("SELECT up, down FROM session"))
        for number in range(3):
            gateway.push(line.bay.uplink(confirmed=True))
            line.bay.hear((await line.downlink(gateway, number + 1)).wire)
        assert seen == [(0, 1), (1, 2), (2, 3)]
        assert line.bay.down == 2


async def test_a_join_request_again_is_refused_also_after_a_restart(tmp_path: Path) -> None:
    port = free_port()
    async with air(tmp_path, settings(port)) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        again = line.bay.join_request(nonce=1)
        gateway.push(again)
        await line.counted("nonce")
    async with air(tmp_path, settings(port), admitted=False) as line:
        gateway = await line.forwarder()
        gateway.push(again)
        await line.counted("nonce")
        assert gateway.downlinks == []


async def test_a_join_request_with_a_wrong_mic_key_or_join_eui_is_refused(tmp_path: Path) -> None:
    async with air(tmp_path, admitted=False) as line:
        gateway = await line.forwarder()
        gateway.push(line.bay.join_request())
        await line.counted("no_key")
        await line.driver.admit(BAY, KEY, join_eui=0x70B3D57ED00000FF)
        gateway.push(line.bay.join_request())
        await line.counted("join_eui")
        line.bay.join_eui = 0x70B3D57ED00000FF
        gateway.push(RadioDouble(line.bay.dev_eui, OTHER_KEY, line.bay.join_eui).join_request())
        await line.counted("wrong_mic")
        await line.joined(gateway)


async def test_every_join_has_an_app_nonce_of_its_own_also_after_a_restart(tmp_path: Path) -> None:
    port, nonces = free_port(), []
    for run in range(2):
        async with air(tmp_path, settings(port), admitted=not run) as line:
            gateway = await line.forwarder()
            for number in range(2):
                gateway.push(line.bay.join_request(nonce=10 * run + number))
                nonces.append(line.bay.take_accept((await line.downlink(gateway, number)).wire).app_nonce)
    assert nonces == [1, 2, 3, 4]


async def test_the_old_session_holds_until_the_first_uplink_on_the_new_one(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        old = line.bay
        gateway.push(old.uplink(b"\x01"))
        await line.until(lambda: line.count("uplinks") == 1)
        new = RadioDouble(old.dev_eui, KEY)
        new.nonce = 7
        await line.joined(gateway, new)
        gateway.push(old.uplink(b"\x00"))
        await line.until(lambda: line.count("uplinks") == 2)
        gateway.push(new.uplink(b"\x01"))
        await line.until(lambda: line.count("uplinks") == 3)
        gateway.push(old.uplink(b"\x00"))
        await line.counted("unknown_device")
        assert line.values(BAY, "occupied") == [True, False, True]
        assert len(line.rows("SELECT id FROM session")) == 1


async def test_sessions_that_are_never_used_are_bounded(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        for number in range(7):
            await line.joined(gateway)
            assert len(line.rows("SELECT id FROM session")) == min(number + 1, 4)
        gateway.push(line.bay.uplink())
        await line.until(lambda: line.count("uplinks") == 1)
        assert len(line.rows("SELECT id FROM session")) == 1


async def test_a_replay_is_refused_at_once_and_after_a_restart(tmp_path: Path) -> None:
    port = free_port()
    async with air(tmp_path, settings(port)) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        sent = [line.bay.uplink() for _ in range(3)]
        for wire in sent:
            gateway.push(wire)
        await line.until(lambda: line.count("uplinks") == 3)
        for wire in sent:
            gateway.push(wire)
        await line.counted("replay", 2)
        await line.counted("repeated")
    async with air(tmp_path, settings(port), admitted=False) as line:
        gateway = await line.forwarder()
        for wire in sent:
            gateway.push(wire)
        await line.counted("replay", 2)
        await line.counted("repeated")
        assert line.said == []


async def test_the_counter_rolls_over_and_old_halves_stay_refused(tmp_path: Path) -> None:
    async with air(tmp_path, settings(free_port(), counter_gap=65535)) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        first = line.bay.uplink()
        for counter in (0xFFFE, 0xFFFF, 0x10000, 0x10003, 0x1FFFF, 0x20000):
            line.bay.counter = counter
            gateway.push(line.bay.uplink())
        await line.until(lambda: line.count("uplinks") == 6)
        assert line.values(BAY, "frame_counter") == [0xFFFE, 0xFFFF, 0x10000, 0x10003, 0x1FFFF, 0x20000]
        gateway.push(first)
        await line.settled(gateway)
        assert line.count("uplinks") == 6


async def test_too_many_lost_frames_are_named_and_the_device_joins_again(tmp_path: Path) -> None:
    async with air(tmp_path, settings(free_port(), counter_gap=100)) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        line.bay.counter = 99
        gateway.push(line.bay.uplink())
        await line.until(lambda: line.count("uplinks") == 1)
        line.bay.counter = 200
        gateway.push(line.bay.uplink())
        await line.counted("counter")
        await line.joined(gateway)
        gateway.push(line.bay.uplink())
        await line.until(lambda: line.count("uplinks") == 2)


async def test_forged_frames_are_counted_by_reason_and_told_once(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        good = line.bay.uplink()
        forged = bytearray(good)
        forged[-1] ^= 1
        foreign = bytearray(good)
        foreign[1] ^= 0x55
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                gateway.push(bytes(forged))
                gateway.push(bytes(foreign))
                gateway.push(good[:9])
                gateway.push(good, stat=-1)
                gateway.push(good, size=3)
                gateway.push(good, datr="SF13BW125")
                gateway.push(good, tmst=-5)
                gateway.push(b"\x60" + good[1:])
                gateway.push(b"\xe0" + good[1:])
            gateway.send(b"not a forwarder")
            await line.counted("garbage")
        counted = {
            name: line.count(name)
            for name in ("wrong_mic", "unknown_device", "bad_crc", "size", "modulation")
        }
        assert counted == {"wrong_mic": 3, "unknown_device": 3, "bad_crc": 3, "size": 3, "modulation": 3}
        assert (line.count("malformed"), line.count("not_uplink"), line.count("length")) == (3, 3, 6)
        told = [entry["reason"] for entry in logs if entry["event"] == "refused"]
        assert sorted(told) == sorted(set(told))
        assert line.said == []
        gateway.push(good)
        await line.until(lambda: len(line.said) == 1)


async def test_several_antennas_give_one_uplink_with_the_best_of_them(tmp_path: Path) -> None:
    async with air(tmp_path, settings(free_port(), dedup_s=0.3)) as line:
        near, far = await line.forwarder(), await line.forwarder(SECOND)
        await line.joined(near)
        wire = line.bay.uplink(confirmed=True)
        far.push(wire, snr=-3.0, rssi=-118.0)
        near.push(wire, snr=9.0, rssi=-80.0)
        near.push(wire, snr=8.0, rssi=-81.0)
        acknowledgement = await line.downlink(near, 1)
        line.bay.hear(acknowledgement.wire)
        assert (line.values(BAY, "snr"), line.values(BAY, "rssi")) == ([9.0], [-80.0])
        assert line.count("duplicate") == 2
        assert far.downlinks == []


async def test_a_downlink_goes_to_the_best_that_can_be_reached(tmp_path: Path) -> None:
    async with air(tmp_path, settings(free_port(), dedup_s=0.3)) as line:
        near, deaf = await line.forwarder(), await line.forwarder(SECOND, pulling=False)
        await line.joined(near)
        wire = line.bay.uplink(confirmed=True)
        deaf.push(wire, snr=9.0)
        near.push(wire, snr=-3.0)
        await line.downlink(near, 1)
        deaf.push(line.bay.uplink(confirmed=True))
        await line.counted("no_path")
        assert deaf.downlinks == []
        assert line.values(BAY, "snr") == [9.0, 5.0]


async def test_two_devices_may_have_one_address(tmp_path: Path) -> None:
    port = free_port()
    async with air(tmp_path, settings(port)) as line:
        gateway = await line.forwarder()
        bay, switch = await line.joined(gateway), await line.joined(gateway, line.switch)
    import sqlite3  # noqa: PLC0415  to give both the address that another network's server might have given

    with sqlite3.connect(line.path) as db:
        db.execute("UPDATE session SET dev_addr = ?", (bay.dev_addr,))
    db.close()
    switch.dev_addr = bay.dev_addr
    async with air(tmp_path, settings(port), admitted=False) as line:
        gateway = await line.forwarder()
        gateway.push(switch.uplink(b"\x05\x81\x63", 85))
        gateway.push(bay.uplink(b"\x01"))
        await line.until(lambda: line.count("uplinks") == 2)
        assert line.values(BAY, "occupied") == [True]
        assert len(line.values(SWITCH, "frame_counter")) == 1


async def test_a_confirmed_uplink_sent_again_is_acknowledged_again_and_told_once(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        wire = line.bay.uplink(confirmed=True)
        for number in range(1, 4):
            gateway.push(wire)
            frame, _, _ = line.bay.hear((await line.downlink(gateway, number)).wire)
            assert frame.ack
            assert frame.port is None
        assert line.values(BAY, "occupied") == [True]
        assert line.bay.down == 2


async def test_nobody_draws_acknowledgements_without_end_from_one_frame(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        wire = line.bay.uplink(confirmed=True)
        for number in range(1, 10):
            gateway.push(wire)
            await line.downlink(gateway, number)
        for _ in range(5):
            gateway.push(wire)
        await line.counted("repeated", 13)
        assert len(gateway.downlinks) == 10


async def test_an_unconfirmed_uplink_draws_no_downlink(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        for _ in range(3):
            gateway.push(line.bay.uplink())
        gateway.push(line.bay.uplink(confirmed=True))
        frame, _, _ = line.bay.hear((await line.downlink(gateway, 1)).wire)
        assert frame.ack
        assert line.bay.down == 0


@pytest.mark.parametrize("error", ["TOO_LATE", "COLLISION_PACKET", "TX_FREQ"])
async def test_what_a_gateway_refuses_in_rx1_goes_out_in_rx2(tmp_path: Path, error: str) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        gateway.errors = [error]
        tmst = gateway.push(line.bay.uplink(confirmed=True))
        first, second = await line.downlink(gateway, 1), await line.downlink(gateway, 2)
        assert [(one.tmst - tmst) % 2**32 for one in (first, second)] == [1_000_000, 2_000_000]
        assert (second.freq, second.datr) == (869.525, "SF12BW125")
        assert first.wire == second.wire
        assert line.bay.hear(second.wire)[0].ack
        await line.counted("not_sent")


async def test_what_is_too_late_for_rx1_goes_out_in_rx2(tmp_path: Path) -> None:
    async with air(tmp_path, settings(free_port(), lead_s=1.2)) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        tmst = gateway.push(line.bay.uplink(confirmed=True))
        assert ((await line.downlink(gateway, 1)).tmst - tmst) % 2**32 == 2_000_000


async def test_a_forwarder_that_never_says_tx_ack_is_believed(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        gateway.errors = [None, None]
        await line.joined(gateway)
        gateway.push(line.bay.uplink(confirmed=True))
        line.bay.hear((await line.downlink(gateway, 1)).wire)
        gateway.said(5)
        await line.counted("stray_tx_ack")


async def test_the_duty_cycle_is_never_exceeded_and_a_refusal_is_counted(tmp_path: Path) -> None:
    """1 % of an hour is 36 s on the air: 43 join accepts at SF12 fit into both windows' sub-bands, then none."""
    async with air(tmp_path, settings(free_port(), dedup_s=0.001)) as line:
        gateway = await line.forwarder()
        sent = 0
        while line.count("duty_cycle") == 0:
            before = len(gateway.downlinks)
            gateway.push(line.bay.join_request(), datr="SF12BW125")
            await line.until(lambda: len(gateway.downlinks) > before or line.count("duty_cycle") > 0)  # noqa: B023
            sent += 1
        by_band = [sum(1 for one in gateway.downlinks if one.freq == freq) for freq in (868.1, 869.525)]
        assert by_band == [36_000_000 // 1_810_432, 360_000_000 // 1_810_432]
        assert sent == sum(by_band) + 1


async def test_what_was_sent_before_a_restart_still_counts(tmp_path: Path) -> None:
    port = free_port()
    async with air(tmp_path, settings(port)) as line:
        gateway = await line.forwarder()
        for number in range(19):
            gateway.push(line.bay.join_request(), datr="SF12BW125")
            assert (await line.downlink(gateway, number)).freq == 868.1
    async with air(tmp_path, settings(port), admitted=False) as again:
        gateway = await again.forwarder()
        gateway.push(line.bay.join_request(), datr="SF12BW125")
        assert (await again.downlink(gateway, 0)).freq == 869.525


async def test_an_hour_later_there_is_airtime_again(tmp_path: Path) -> None:
    clock = RealClock()
    async with air(tmp_path, clock=clock) as line:
        gateway = await line.forwarder()
        for number in range(20):
            gateway.push(line.bay.join_request(), datr="SF12BW125")
            assert (await line.downlink(gateway, number)).freq == (868.1 if number < 19 else 869.525)
        clock.ahead_ms += 3_610_000
        gateway.pull()
        gateway.push(line.bay.join_request(), datr="SF12BW125")
        assert (await line.downlink(gateway, 20)).freq == 868.1


# --- MAC commands ---


async def test_a_device_is_told_how_well_it_is_heard(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        gateway.push(line.bay.uplink(options=b"\x02"), snr=4.0)
        _, _, commands = line.bay.hear((await line.downlink(gateway, 1)).wire)
        assert commands == (LinkCheckAns(11, 1),)


async def test_commands_in_the_payload_of_port_0_are_read_too(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        gateway.push(line.bay.uplink(b"\x02", 0), snr=-9.0)
        _, _, commands = line.bay.hear((await line.downlink(gateway, 1)).wire)
        assert commands == (LinkCheckAns(0, 1),)
        assert line.said[0].points == ("rssi", "snr", "frame_counter")


async def test_the_time_is_told_by_a_synchronised_clock_only(tmp_path: Path) -> None:
    clock = RealClock()
    async with air(tmp_path, clock=clock) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        gateway.push(line.bay.uplink(options=b"\x0d"))
        _, _, (told,) = line.bay.hear((await line.downlink(gateway, 1)).wire)
        assert isinstance(told, DeviceTimeAns)
        assert told.gps_s + 315_964_800 - 18 in {1_799_999_999, 1_800_000_000}
        clock.quality = clock.quality.HOLDOVER
        gateway.push(line.bay.uplink(options=b"\x0d\x02"))
        _, _, commands = line.bay.hear((await line.downlink(gateway, 2)).wire)
        assert commands == (LinkCheckAns(12, 1),)


async def test_a_device_is_asked_for_its_battery_now_and_then(tmp_path: Path) -> None:
    async with air(tmp_path, settings(free_port(), device_status_s=3600)) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        gateway.push(line.bay.uplink())
        assert line.bay.hear((await line.downlink(gateway, 1)).wire)[2] == (DevStatusReq(),)
        for said, percent in ((254, 100.0), (1, 0.0), (128, 50.2), (0, None), (255, None)):
            line.said.clear()
            gateway.push(line.bay.uplink(options=b"\x06" + bytes((said, 10))))
            await line.until(lambda: bool(line.said))
            assert line.values(BAY, "battery_level") == [percent]
        assert len(gateway.downlinks) == 2


async def test_a_device_that_is_heard_well_is_told_to_speak_faster_and_once(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        for number in range(20):
            gateway.push(line.bay.uplink(adr=True), snr=0.0, datr="SF12BW125")
            await line.until(lambda: line.count("uplinks") == number + 1)  # noqa: B023
        _, _, commands = line.bay.hear((await line.downlink(gateway, 1)).wire)
        assert commands == (LinkAdrReq(3, 0, 0xFF, 0, 1),)
        gateway.push(line.bay.uplink(adr=True, options=b"\x03\x07"), snr=0.0, datr="SF9BW125")
        await line.until(lambda: line.count("uplinks") == 21)
        await line.settled(gateway)
        assert len(gateway.downlinks) == 2


async def test_a_device_that_wants_to_hear_anything_hears_something(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        gateway.push(line.bay.uplink(wants_answer=True))
        frame, _, _ = line.bay.hear((await line.downlink(gateway, 1)).wire)
        assert not frame.ack
