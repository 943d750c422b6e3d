"""The LoRaWAN line as a driver: reading, silence, writing, searching, gateways, a disk that refuses, secrets."""

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
import structlog

from drivers.already_said import AGAIN_MS, MAX_STRANGERS, OTHERS
from drivers.base import Admission, Found, LineState
from drivers.errors import LineDownError
from protocols.errors import LocalProtocolError
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Reason
from tests.drivers.air import (
    BAY,
    BAY_EUI,
    GATEWAY,
    KEY,
    LINE,
    OTHER_KEY,
    SECOND,
    SWITCH,
    Air,
    RealClock,
    air,
    devices,
    free_port,
    settings,
)
from tests.drivers.forwarder import Forwarder, RadioDouble

OCCUPIED = PointName("occupied")
SWITCH_1 = PointName("switch_1")
OFF = bytes.fromhex("083100fe")
ON = bytes.fromhex("083101ff")


# --- reading ---


async def test_before_a_device_has_spoken_nothing_is_available(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        await line.forwarder()
        got = await line.driver.read(BAY, (OCCUPIED,))
        assert [fault.reason for fault in got.faults.values()] == [Reason.NOT_AVAILABLE]


async def test_what_was_heard_last_is_read_with_its_own_time(tmp_path: Path) -> None:
    clock = RealClock()
    async with air(tmp_path, clock=clock) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        gateway.push(line.bay.uplink(b"\x01\x14", 2))
        await line.until(lambda: len(line.said) == 1)
        heard_ms = line.said[0].monotonic_ms
        clock.ahead_ms += 50_000
        gateway.push(line.bay.uplink(b"\x00", 1))
        await line.until(lambda: len(line.said) == 2)
        both = await line.driver.read(BAY, (OCCUPIED, PointName("temperature")))
        assert (both.values, both.monotonic_ms) == ((False, 20), heard_ms)
        newest = await line.driver.read(BAY, (OCCUPIED,))
        assert newest.monotonic_ms == line.said[1].monotonic_ms >= heard_ms + 50_000


async def test_a_payload_that_its_codec_refuses_is_garbled_and_the_radio_is_good(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        gateway.push(line.bay.uplink(b"\x01", 1))
        gateway.push(line.bay.uplink(b"\xff" * 9, 17), snr=3.0)
        await line.until(lambda: len(line.said) == 2)
        said = line.said[1]
        good = {name: said.values[i] for i, name in enumerate(said.points) if i not in said.faults}
        assert good == {"rssi": -90.0, "snr": 3.0, "frame_counter": 1}
        assert set(line.faults(BAY)) == {Reason.GARBLED}
        assert line.count("payload") == 1
        assert (await line.driver.read(BAY, (OCCUPIED,))).values == (None,)


@pytest.mark.parametrize("port", [224, 255])
async def test_a_port_that_is_no_applications_is_counted_and_not_decoded(tmp_path: Path, port: int) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        gateway.push(line.bay.uplink(b"\x01", port))
        await line.until(lambda: len(line.said) == 1)
        assert line.said[0].points == ("rssi", "snr", "frame_counter")
        assert line.count("port") == 1


async def test_a_device_that_does_not_speak_in_time_is_silent_once_and_comes_back(tmp_path: Path) -> None:
    bay, switch = devices()
    bay = msgspec.structs.replace(bay, silence_s=0.5)
    async with air(tmp_path, settings(free_port(), silence_s=600.0), known=[bay, switch]) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        gateway.push(line.bay.uplink())
        with structlog.testing.capture_logs() as logs:
            await line.until(lambda: Reason.NO_ANSWER in line.faults(BAY))
            assert line.driver.health().silent == (BAY,)
            got = await line.driver.read(BAY, (OCCUPIED,))
            assert [fault.reason for fault in got.faults.values()] == [Reason.NO_ANSWER]
            gateway.push(line.bay.uplink(b"\x00"))
            await line.until(lambda: line.values(BAY, "occupied")[-1] is False)
            assert line.driver.health().silent == ()
        told = [entry["event"] for entry in logs if entry.get("device") == BAY]
        assert told[:2] == ["device is silent", "device is heard again"]
        assert line.faults(SWITCH) == []


async def test_a_device_that_never_joined_falls_silent_like_any_other(tmp_path: Path) -> None:
    async with air(tmp_path, settings(free_port(), silence_s=0.2), admitted=False) as line:
        await line.forwarder()
        await line.until(lambda: line.driver.health().silent == (BAY, SWITCH))
        for device in (BAY, SWITCH):
            assert set(line.faults(device)) == {Reason.NO_ANSWER}
            assert len([one for one in line.said if one.device == device]) == 1


async def test_a_device_that_was_silent_before_the_line_went_down_is_told_so_when_it_is_back(
    tmp_path: Path,
) -> None:
    async with air(tmp_path, settings(free_port(), silence_s=0.2, gateway_timeout_s=0.4)) as line:
        gateway = await line.forwarder()
        await line.until(lambda: Reason.LINE_DOWN in line.faults(BAY))
        gateway.pull()
        await line.until(lambda: line.faults(BAY)[-1] is Reason.NO_ANSWER)
        told = [next(iter(one.faults.values())).reason for one in line.said if one.device == BAY]
        assert told[:3] == [Reason.NO_ANSWER, Reason.LINE_DOWN, Reason.NO_ANSWER]


# --- the line ---


async def test_without_a_forwarder_the_line_is_down_and_says_why(tmp_path: Path) -> None:
    async with air(tmp_path, settings(free_port(), gateway_timeout_s=0.3)) as line:
        got = await line.driver.read(BAY, (OCCUPIED,))
        assert [fault.reason for fault in got.faults.values()] == [Reason.LINE_DOWN]
        assert "no packet forwarder has spoken for 0.3 s" in line.driver.health().reason
        assert [found async for found in line.driver.discover()] == []
        await line.forwarder()
        await line.until(lambda: line.driver.health().state is LineState.UP)


async def test_when_the_line_goes_down_what_was_heard_is_no_longer_good(tmp_path: Path) -> None:
    async with air(tmp_path, settings(free_port(), gateway_timeout_s=1.0)) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        gateway.push(line.bay.uplink())
        await line.until(lambda: Reason.LINE_DOWN in line.faults(BAY))
        await line.until(lambda: set(line.faults(SWITCH)) == {Reason.LINE_DOWN})
        gateway.pull()
        await line.until(lambda: line.driver.health().state is LineState.UP)
        assert (await line.driver.read(BAY, (OCCUPIED,))).values == (True,)


async def test_a_port_that_is_taken_is_waited_for(tmp_path: Path) -> None:
    port = free_port()
    async with air(tmp_path, settings(port)) as first:
        await first.forwarder()
        folder = tmp_path / "second"
        folder.mkdir()
        async with air(folder, settings(port)) as second:
            await second.until(lambda: second.driver.health().state is LineState.DOWN)
            assert "/udp cannot be opened: Address already in use" in second.driver.health().reason
            first.task.cancel()
            await asyncio.wait([first.task])
            await second.forwarder()
            await second.until(lambda: second.driver.health().state is LineState.UP)


async def test_a_damaged_file_is_never_begun_anew(tmp_path: Path) -> None:
    (tmp_path / f"{LINE}.db").write_bytes(b"no database" * 1000)
    async with air(tmp_path, admitted=False) as line:
        await line.until(lambda: line.driver.health().state is LineState.DOWN)
        assert "cannot be opened: it is damaged" in line.driver.health().reason
        with pytest.raises(LineDownError, match="cannot be opened"):
            await line.driver.admit(BAY, KEY)
    assert (tmp_path / f"{LINE}.db").read_bytes() == b"no database" * 1000


# --- gateways ---


async def test_only_gateways_of_the_list_are_listened_to(tmp_path: Path) -> None:
    async with air(tmp_path, settings(free_port(), gateways=(f"{GATEWAY:016X}",))) as line:
        gateway, other = await line.forwarder(), await line.forwarder(SECOND, pulling=False)
        other.pull()
        other.push(line.bay.join_request())
        await line.counted("gateway_not_allowed", 2)
        await line.joined(gateway)
        assert other.acked == []


async def test_another_host_cannot_take_a_gateways_downlinks(tmp_path: Path) -> None:
    async with air(tmp_path, settings(free_port(), host="0.0.0.0", insecure=True)) as line:
        gateway = await line.forwarder()
        thief = Forwarder(GATEWAY, line.port)
        thief.server = ("127.0.0.1", line.port)
        await thief.start("127.0.0.2")
        line.forwarders.append(thief)
        thief.pull()
        await line.counted("gateway_moved")
        await line.joined(gateway)
        assert thief.downlinks == []
        assert thief.acked == []


async def test_a_forwarder_that_is_started_anew_on_another_port_is_followed(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        old = await line.forwarder()
        anew = await line.forwarder()
        anew.push(line.bay.join_request())
        await line.downlink(anew, 0)
        assert old.downlinks == []


async def test_a_flood_of_gateways_locks_nobody_out(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        for number in range(200):
            gateway.eui = number + 1
            gateway.pull()
        gateway.eui = GATEWAY
        await line.settled(gateway)
        gateway.push(line.bay.uplink(confirmed=True))
        await line.downlink(gateway, 1)
        seen = [found.address async for found in line.driver.discover() if isinstance(found, Found)]
        assert f"{GATEWAY:016x}" in seen
        assert len(seen) == 2 + 32


# --- what is said of refusals ---


def said(logs: Sequence[Mapping[str, object]], reason: str) -> list[tuple[object, object]]:
    """Return who was said to have done something, and how often it was not said before."""
    return [(one["source"], one["unsaid"]) for one in logs if one.get("reason") == reason]


async def test_a_crowd_that_sends_garbage_hides_no_forgery_and_is_told_of_again_an_hour_later(
    tmp_path: Path,
) -> None:
    clock, crowd = RealClock(), [f"127.0.0.{number}" for number in range(2, 2 + MAX_STRANGERS + 3)]
    with structlog.testing.capture_logs() as logs:
        async with air(tmp_path, settings(free_port(), host="0.0.0.0", insecure=True), clock=clock) as line:
            gateway = await line.forwarder()
            await line.joined(gateway)
            for number, host in enumerate(crowd, start=1):
                noisy = Forwarder(SECOND, line.port)
                line.forwarders.append(await noisy.start(host))
                noisy.send(b"noise")
                await line.counted("garbage", number)
            gateway.push(line.bay.uplink(b"\x01")[:-1] + b"\x00")
            await line.counted("wrong_mic")
            assert line.driver.health().named == {"garbage": len(crowd), "wrong_mic": 1}
            clock.ahead_ms = AGAIN_MS
            noisy.send(b"noise")
            await line.counted("garbage", len(crowd) + 1)
    assert [who for who, _ in said(logs, "garbage")] == [*crowd[:MAX_STRANGERS], OTHERS, crowd[-1]]
    assert said(logs, "wrong_mic") == [(f"{line.bay.dev_addr:08x}", 0)]


async def test_each_declared_device_has_a_line_of_its_own_however_many_there_are(tmp_path: Path) -> None:
    euis = [0x1000 + number for number in range(MAX_STRANGERS + 2)]
    bay = devices()[0]
    known = [msgspec.structs.replace(bay, id=DeviceId(f"bay-{eui}"), address=f"{eui:016X}") for eui in euis]
    with structlog.testing.capture_logs() as logs:
        async with air(tmp_path, known=known, admitted=False) as line:
            gateway = await line.forwarder()
            for eui in euis:
                gateway.push(RadioDouble(eui, KEY).join_request())
            await line.counted("no_key", len(euis))
    assert said(logs, "no_key") == [(f"{eui:016x}", 0) for eui in euis]


async def test_what_happens_every_day_is_named_and_counted_and_not_told(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        async with air(tmp_path) as line:
            gateway, second = await line.forwarder(), await line.forwarder(SECOND)
            await line.joined(gateway)
            wire = line.bay.uplink(b"\x01")
            gateway.push(wire)
            second.push(wire)
            await line.until(lambda: line.count("duplicate") + line.count("repeated") == 1)
            assert sum(line.driver.health().named.values()) == 1
            assert line.driver.health().failures == 0
    assert [one for one in logs if one["event"] == "refused"] == []


async def test_a_refusal_is_told_again_after_an_hour_with_how_often_it_was_not(tmp_path: Path) -> None:
    clock = RealClock()
    with structlog.testing.capture_logs() as logs:
        async with air(tmp_path, clock=clock) as line:
            gateway = await line.forwarder()
            for number in range(1, 6):
                gateway.send(b"noise")
                await line.counted("garbage", number)
            clock.ahead_ms = AGAIN_MS
            gateway.send(b"noise")
            await line.counted("garbage", 6)
    assert said(logs, "garbage") == [("127.0.0.1", 0), ("127.0.0.1", 4)]


# --- searching ---


async def test_strangers_that_ask_to_join_are_found_the_latest_of_them(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        for number in range(100):
            gateway.push(RadioDouble(0x1000 + number, KEY).join_request(), snr=-3.5)
        gateway.push(RadioDouble(0x1000 + 99, KEY).join_request(nonce=9), rssi=-110.0)
        await line.counted("unknown_device", 101)
        found = {one.address: one async for one in line.driver.discover() if isinstance(one, Found)}
        assert found[f"{0x1063:016x}"].text == (
            "asks to join with JoinEUI 70b3d57ed0000001, 2 times, last at -110 dBm, SNR 5 dB"
        )
        assert sum(one.text.startswith("asks to join") for one in found.values()) == 64
        assert f"{0x1000:016x}" not in found
        assert found[f"{BAY_EUI:016X}"].device == BAY
        assert "reachable, 0 genuine uplinks" in found[f"{GATEWAY:016x}"].text


# --- admission ---


async def test_a_new_key_ends_the_session_and_forgets_the_nonces_of_the_old_one(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        await line.driver.admit(BAY, OTHER_KEY)
        assert line.driver.admission(BAY)[0] is Admission.AWAITED
        gateway.push(line.bay.uplink())
        await line.counted("unknown_device")
        anew = RadioDouble(BAY_EUI, OTHER_KEY)
        await line.joined(gateway, anew)
        await line.driver.admit(BAY, OTHER_KEY)
        gateway.push(anew.join_request(nonce=1))
        await line.counted("nonce")


async def test_a_device_that_asks_with_another_key_is_told_apart_from_one_that_is_silent(
    tmp_path: Path,
) -> None:
    """A technician who has typed a wrong key stands before the device and must not wait for nothing."""
    async with air(tmp_path, admitted=False) as line:
        gateway = await line.forwarder()
        gateway.push(line.bay.join_request())
        await line.counted("no_key")
        assert "it asked to join once, the last 0 s ago" in line.driver.admission(BAY)[1]
        await line.driver.admit(BAY, OTHER_KEY)
        assert "has not asked to join since" in line.driver.admission(BAY)[1]
        gateway.push(line.bay.join_request())
        gateway.push(line.bay.join_request())
        await line.counted("wrong_mic", 2)
        state, text = line.driver.admission(BAY)
        assert (state, "2 times" in text, "another key" in text) == (Admission.AWAITED, True, True)
        await line.driver.admit(BAY, KEY, 0x1122334455667788)
        gateway.push(line.bay.join_request())
        await line.counted("join_eui")
        assert "another JoinEUI" in line.driver.admission(BAY)[1]
        await line.driver.admit(BAY, KEY)
        await line.joined(gateway)
        assert line.driver.admission(BAY) == (Admission.JOINED, "let in, and not heard since")


async def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    async with air(tmp_path, admitted=False) as line:
        for device, key, join_eui in ((BAY, b"short", None), (DeviceId("x"), KEY, None), (BAY, KEY, 1 << 64)):
            with pytest.raises(LocalProtocolError):
                await line.driver.admit(device, key, join_eui)
        with pytest.raises(LocalProtocolError):
            line.driver.admission(DeviceId("x"))
        assert line.driver.admission(BAY)[0] is Admission.NO_KEY


async def test_keys_stand_in_the_file_of_their_owner_and_nowhere_else(tmp_path: Path) -> None:
    """Logs, reprs, texts and errors are searched for every key, in hex and as Python shows bytes."""
    secrets = [KEY, OTHER_KEY]
    with structlog.testing.capture_logs() as logs:
        async with air(tmp_path) as line:
            gateway = await line.forwarder()
            await line.joined(gateway)
            assert line.bay.keys is not None
            secrets += [line.bay.keys.network.reveal(), line.bay.keys.application.reveal()]
            for wire in (line.bay.uplink(), line.bay.uplink(b"\xff", 9), line.bay.join_request(nonce=1)):
                gateway.push(wire)
            gateway.push(line.bay.uplink()[:-1] + b"\x00")
            with pytest.raises(LocalProtocolError) as caught:
                await line.driver.admit(BAY, KEY + b"!")
            await line.settled(gateway)
            found = [one async for one in line.driver.discover()]
            server, store = line.driver._server, line.driver._store
            shown = [
                str(logs),
                str(caught.value),
                repr(found),
                repr(line.driver.health()),
                repr(line.driver.admission(BAY)),
                repr(await line.driver.read(BAY, (OCCUPIED,))),
                repr(server.devices[f"{BAY_EUI:016x}"]),
                *(repr(session.keys) for session in server.devices[f"{BAY_EUI:016x}"].sessions),
                repr(vars(server)),
                repr(vars(store)),
                repr(vars(line.driver)),
            ]
            kept = await asyncio.to_thread(_kept_again, line.path)
            shown.append(repr(kept))
            files = await asyncio.to_thread(_modes, tmp_path)
    text = "\n".join(shown)
    for secret in secrets:
        assert secret.hex() not in text.lower()
        assert repr(secret)[2:-1] not in text
    assert set(files.values()) == {0o600}


def _modes(folder: Path) -> dict[str, int]:
    return {one.name: one.stat().st_mode & 0o777 for one in folder.iterdir()}


def _kept_again(path: Path) -> object:
    from drivers.lora_store import _kept  # noqa: PLC0415  to look at what the file gives

    with contextlib.closing(sqlite3.connect(path)) as db:
        return _kept(db)


# --- a disk that refuses ---


@contextlib.contextmanager
def refusing(line: Air) -> Iterator[None]:
    """Hold the file's write lock, so that no commit succeeds; the driver waits 50 ms for it."""
    store = line.driver._store
    assert store._connection is not None
    store._connection.execute("PRAGMA busy_timeout=50")
    with contextlib.closing(sqlite3.connect(line.path, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        yield
        lock.execute("ROLLBACK")


async def test_while_the_disk_refuses_nothing_is_told_or_sent_and_it_recovers_by_itself(
    tmp_path: Path,
) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        wire, join = line.bay.uplink(confirmed=True), line.switch.join_request()
        with structlog.testing.capture_logs() as logs:
            with refusing(line):
                gateway.push(wire)
                await line.counted("not_kept")
                gateway.push(join)
                await line.counted("not_kept", 2)
                await line.until(lambda: line.driver.health().state is LineState.DOWN)
                assert "the disk refuses" in line.driver.health().reason
                with pytest.raises(LineDownError, match="the disk refuses"):
                    await line.driver.admit(BAY, OTHER_KEY)
                assert {*line.faults(BAY), *line.faults(SWITCH)} == {Reason.LINE_DOWN}
                assert (line.values(BAY, "occupied"), len(gateway.downlinks)) == ([None], 1)
            await line.until(lambda: line.driver.health().state is LineState.UP)
            gateway.push(wire)
            line.bay.hear((await line.downlink(gateway, 1)).wire)
            gateway.push(join)
            line.switch.take_accept((await line.downlink(gateway, 2)).wire)
        assert line.values(BAY, "occupied") == [None, True]
        told = [entry["event"] for entry in logs if "disk" in entry["event"]]
        assert told == ["the disk refuses; nothing is passed on until it takes again", "the disk takes again"]


async def test_a_full_disk_keeps_a_join_from_being_answered(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        db = line.driver._store._connection
        assert db is not None
        await line.settled(gateway)
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count={pages}")
        number = 0
        while line.count("not_kept") == 0:
            number += 1
            before = len(gateway.downlinks) + line.count("not_kept") + line.count("duty_cycle")
            gateway.push(line.bay.join_request(nonce=number))
            await line.until(
                lambda: len(gateway.downlinks) + line.count("not_kept") + line.count("duty_cycle") > before  # noqa: B023
            )
        assert len(gateway.downlinks) < number
        db.execute("PRAGMA max_page_count=1000000")
        before = len(gateway.downlinks)
        gateway.push(line.bay.join_request(nonce=number + 1))
        line.bay.take_accept((await line.downlink(gateway, before)).wire)


async def test_a_disk_that_is_slow_delays_and_loses_nothing(tmp_path: Path) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        with contextlib.closing(sqlite3.connect(line.path, isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            for _ in range(30):
                gateway.push(line.bay.uplink())
            await line.settled(gateway)
            await line.until(lambda: not line.driver._server._waiting)
            assert line.said == []
            commits = line.count("commits")
            lock.execute("ROLLBACK")
        await line.until(lambda: len(line.said) == 30)
        assert line.values(BAY, "frame_counter") == list(range(30))
        assert line.count("commits") - commits <= 3


async def test_what_may_wait_for_the_disk_is_bounded_and_what_was_turned_away_is_counted(
    tmp_path: Path,
) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        await line.joined(gateway)
        with contextlib.closing(sqlite3.connect(line.path, isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            for number in range(4300):
                gateway.push(line.bay.uplink())
                if not number % 100:
                    await line.settled(gateway)
            await line.settled(gateway)
            assert line.count("busy") >= 100
            assert line.said == []
            lock.execute("ROLLBACK")
        taken = 4300 - line.count("busy")
        await line.until(lambda: len(line.said) + line.count("not_kept") == taken)
        counters = line.values(BAY, "frame_counter")
        assert counters == sorted(set(counters))  # type: ignore[type-var]
        gateway.push(line.bay.uplink())
        await line.until(lambda: len(line.said) + line.count("not_kept") == taken + 1)


# --- killed ---

CHILD = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.drivers.air import BAY, KEY, RealClock, devices, settings
from drivers.lorawan import open_lorawan

async def main():
    driver = open_lorawan(settings(int(sys.argv[1])), devices(), RealClock(), Path(sys.argv[2]))
    driver.on_sample = lambda said: print("said", said.values[-1], flush=True)
    if not (Path(sys.argv[2]) / "lora-1.db").exists():
        await driver.admit(BAY, KEY)
    await driver.run()

asyncio.run(main())
"""


class Child:
    """A driver in a process of its own, which can be killed."""

    def __init__(self, folder: Path, port: int) -> None:
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(port), str(folder), str(root)],
            stdout=subprocess.PIPE,
            text=True,
        )

    def kill(self) -> list[int]:
        """Kill it; return the counters of what it has told."""
        self._process.send_signal(signal.SIGKILL)
        out, _ = self._process.communicate()
        return [int(line.removeprefix("said ")) for line in out.splitlines() if line.startswith("said ")]


async def until(condition: Callable[[], bool]) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20):
        while not condition():
            passed = loop.create_future()
            loop.call_later(0.001, passed.set_result, None)
            await passed


def kept(folder: Path, sql: str) -> list[tuple[int, ...]]:
    with contextlib.closing(sqlite3.connect(folder / f"{LINE}.db")) as db:
        return db.execute(sql).fetchall()


async def test_killed_the_moment_it_answers_it_has_on_disk_what_the_answer_stands_on(tmp_path: Path) -> None:
    """The nonce and the session before the accept; the counters of both ways before an acknowledgement."""
    port = free_port()
    gateway = await Forwarder(GATEWAY, port).start()
    bay = RadioDouble(BAY_EUI, KEY)
    told: list[int] = []
    sent: list[bytes] = []
    try:
        for run in range(3):
            before, child = len(gateway.downlinks), Child(tmp_path, port)
            killed: list[int] = []
            gateway.on_downlink = lambda _: killed.extend(child.kill())  # noqa: B023
            gateway.acked.clear()
            await until(lambda: bool(gateway.pull() and gateway.acked))
            for wire in sent:
                gateway.push(wire)
            if run == 0:
                gateway.push(bay.join_request())
            else:
                sent.append(bay.uplink())
                gateway.push(sent[-1])
                gateway.push(bay.uplink(confirmed=True))
            await until(lambda: len(gateway.downlinks) > before)  # noqa: B023
            told += killed
            if run == 0:
                bay.take_accept(gateway.downlinks[-1].wire)
                assert kept(tmp_path, "SELECT nonce FROM nonce") == [(1,)]
                assert kept(tmp_path, "SELECT dev_addr, up, down FROM session") == [(bay.dev_addr, -1, 0)]
            else:
                bay.hear(gateway.downlinks[-1].wire)
                assert kept(tmp_path, "SELECT up, down FROM session") == [(2 * run - 1, bay.down + 1)]
        assert told == sorted(set(told))
        assert told[-1] == 3
    finally:
        await gateway.stop()
