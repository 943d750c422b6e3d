"""The RSMP driver against a site at the wire."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence

import pytest
import structlog
from msgspec.structs import replace

from drivers.already_said import AGAIN_MS
from drivers.base import Found, LineState, Looked
from drivers.checks import check
from drivers.rsmp import RsmpDriver, open_rsmp
from drivers.rsmp_link import MAX_STRANGERS, SITE
from drivers.settings import DeviceSettings, Rsmp
from protocols.clock import Instant
from protocols.errors import LocalProtocolError
from protocols.model.command import CommandState
from protocols.model.device import Kind
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.priority import PriorityRequest, RequestState, RequestStatus
from protocols.model.reading import Quality, Reason, Sample, Value
from protocols.rsmp.codec import encode
from protocols.rsmp.exchange import NotAcknowledged
from protocols.rsmp.messages import Core, StatusResponse, StatusValue
from protocols.rsmp.messages import Quality as StatusQuality
from tests.drivers.rsmp_site import ALARMS, CODE, DETECTOR, GROUP, MAIN, SmallSite

JUNCTION = DeviceId("junction")
LOOP = DeviceId("loop")
LINE = LineId("rsmp")
DEVICES = [
    DeviceSettings(id=JUNCTION, kind=Kind.JUNCTION, line=LINE, address=MAIN),
    DeviceSettings(id=LOOP, kind=Kind.DETECTOR, line=LINE, address="KK+AG0503=001DL002"),
]
ALL = {
    "signal_groups": "1B",
    "stage": 1,
    "cycle_counter": 17,
    "time_plan": 1,
    "control_mode": "control",
    "controller_fault": False,
    "controller_warning": False,
    "fault_codes": "",
    "priority_requests": 0,
}
PATIENCE_S = 10.0
WRONG_TYPE = b'{"mType":"rSMsG","type":"Watchdog","mId":"f3a41a3e-6ba2-4a3c-8d1c-0f2c9a2f9b01","wTs":""}\x0c'
REQUEST = PriorityRequest("bus-1", GROUP, 8, 20)


class LoopClock:
    """The event loop's clock, or ahead of it."""

    ahead_ms = 0

    def now(self) -> Instant:
        monotonic_ms = round(asyncio.get_running_loop().time() * 1000) + self.ahead_ms
        return Instant(monotonic_ms, 1_760_000_000_000)

    def civil(self) -> Instant:
        return self.now()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def settings(port: int) -> Rsmp:
    return Rsmp(
        id=LINE,
        port=port,
        site=MAIN,
        security_code=CODE,
        connect_timeout_s=0.4,
        handshake_timeout_s=5.0,
        ack_timeout_s=5.0,
        response_timeout_s=5.0,
        reconnect_s=0.05,
        update_s=60,
    )


class Cabinet:
    """A running driver, and what it has said."""

    def __init__(self, line: Rsmp, devices: Sequence[DeviceSettings] = DEVICES) -> None:
        self.clock = LoopClock()
        self.driver: RsmpDriver = open_rsmp(line, devices, self.clock)
        self.said: list[Sample] = []
        self.requests: list[tuple[DeviceId, tuple[RequestStatus, ...]]] = []
        self.driver.on_sample = self.said.append
        self.driver.on_requests = lambda device, requests: self.requests.append((device, requests))
        self.task = asyncio.create_task(self.driver.run())

    def last(self, device: DeviceId, point: str) -> Value:
        name = PointName(point)
        told = [one for one in self.said if one.device == device and name in one.points]
        return told[-1].values[told[-1].points.index(name)] if told else None

    def faults(self, device: DeviceId) -> list[Reason]:
        return [fault.reason for one in self.said if one.device == device for fault in one.faults.values()]

    async def read(self, device: DeviceId, *points: str) -> dict[str, Value | Reason]:
        async with asyncio.timeout(PATIENCE_S):
            got = await self.driver.read(device, [PointName(point) for point in points])
        return {
            name: got.faults[i].reason if i in got.faults else got.values[i]
            for i, name in enumerate(got.points)
        }

    async def until(self, condition: object) -> None:
        assert callable(condition)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                passed = loop.create_future()
                loop.call_later(0.002, passed.set_result, None)
                await passed

    async def up(self) -> None:
        """Wait until the site has introduced itself and everything was told once."""
        await self.until(
            lambda: (
                self.driver.health().state is LineState.UP
                and self.last(JUNCTION, "fault_codes") is not None
                and LOOP in {one.device for one in self.said}
            )
        )

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@contextlib.asynccontextmanager
async def street(
    line: Rsmp | None = None, site: SmallSite | None = None, devices: Sequence[DeviceSettings] = DEVICES
) -> AsyncIterator[tuple[Cabinet, SmallSite]]:
    """Run a cabinet and its site; every message of the site passes the published schemas."""
    port = free_port() if site is None else site.port
    line = line or settings(port)
    cabinet = Cabinet(replace(line, port=port), devices)
    site = site or SmallSite(port)
    await site.start()
    try:
        yield cabinet, site
        assert site.schema_faults == []
    finally:
        await site.stop()
        await cabinet.end()


# --- hearing and reading ---


@pytest.mark.parametrize("core", Core)
async def test_a_site_of_every_version_is_heard_and_read(core: Core) -> None:
    async with street(site=SmallSite(free_port(), core=core)) as (cabinet, _):
        await cabinet.until(lambda: cabinet.last(LOOP, "occupied") is not None)
        expected = dict(ALL)
        if core < Core.V3_2_0:
            expected["priority_requests"] = Reason.NOT_AVAILABLE
        assert await cabinet.read(JUNCTION, *ALL) == expected
        assert await cabinet.read(LOOP, "occupied") == {"occupied": True}
        assert cabinet.driver.violations == {}


@pytest.mark.parametrize("sxl", ["1.1.0", "1.2.0", "1.2.1"])
async def test_a_site_of_every_list_is_heard(sxl: str) -> None:
    port = free_port()
    line = replace(settings(port), sxl=sxl)
    async with street(line, SmallSite(port, sxl=sxl)) as (cabinet, _):
        await cabinet.up()
        assert await cabinet.read(JUNCTION, *ALL) == ALL


async def test_what_changes_at_the_controller_is_heard_at_once_and_only_that() -> None:
    async with street() as (cabinet, site):
        await cabinet.up()
        before = len(cabinet.said)
        site.tell("S0001", stage="2", signalgroupstatus="B1")
        await cabinet.until(lambda: cabinet.last(JUNCTION, "stage") == 2)
        (told,) = cabinet.said[before:]
        assert dict(zip(told.points, told.values, strict=True)) == {"stage": 2, "signal_groups": "B1"}


async def test_a_detector_is_heard_when_it_changes_and_its_neighbours_are_not() -> None:
    devices = [*DEVICES, replace(DEVICES[1], id=DeviceId("third"), address="KK+AG0503=001DL003")]
    async with street(devices=devices) as (cabinet, site):
        await cabinet.until(lambda: cabinet.last(DeviceId("third"), "occupied") is False)
        before = len(cabinet.said)
        site.tell("S0002", detectorlogicstatus="011")
        await cabinet.until(lambda: cabinet.last(DeviceId("third"), "occupied") is True)
        assert [one.device for one in cabinet.said[before:]] == ["third"]


async def test_a_status_that_is_told_no_more_is_a_silent_one_and_the_others_are_not() -> None:
    line = replace(settings(1), update_s=1)
    async with street(line) as (cabinet, site):
        await cabinet.up()
        cabinet.driver._heard_ms["S0001"] -= 10_000  # so long ago was the last
        await cabinet.until(lambda: Reason.NO_ANSWER in cabinet.faults(JUNCTION))
        assert cabinet.faults(JUNCTION) == [Reason.NO_ANSWER] * 3
        assert cabinet.faults(LOOP) == []
        site.tell("S0001", stage="3")
        await cabinet.until(lambda: cabinet.last(JUNCTION, "stage") == 3)


@pytest.mark.parametrize(
    ("point", "true", "forged"),
    [
        ("time_plan", b'"n":"status","s":"1"', b'"n":"status","s":"0"'),
        ("signal_groups", b'"1B"', b'"1?"'),
        ("stage", b'"n":"stage","s":"1"', b'"n":"stage","s":"1000"'),
        ("control_mode", b'"control"', b'"out of control"'),
        ("priority_requests", b'"n":"status","s":[]', b'"n":"status","s":[{"r":"1"}]'),
        ("priority_requests", b'"n":"status","s":[]', b'"n":"status","s":"[]"'),
    ],
)
async def test_a_value_that_cannot_be_meant_is_none_and_named(point: str, true: bytes, forged: bytes) -> None:
    async with street() as (cabinet, site):
        await cabinet.up()
        site.forged[true] = forged
        with structlog.testing.capture_logs() as logs:
            assert await cabinet.read(JUNCTION, point) == {point: Reason.OUT_OF_RANGE}
            assert await cabinet.read(JUNCTION, point) == {point: Reason.OUT_OF_RANGE}
        assert cabinet.driver.violations == {"wrong_value": 2}
        assert [entry["fault"] for entry in logs if "fault" in entry] == ["wrong_value"]


@pytest.mark.parametrize(
    ("forged", "name"),
    [
        (b'"s":null,"q":"recent"', "null"),
        (b'"s":7,"q":"recent"', "malformed"),
        (b'"s":"1","q":"fresh"', "malformed"),
    ],
)
async def test_a_message_that_is_none_is_named_refused_and_never_a_value(forged: bytes, name: str) -> None:
    line = replace(settings(1), response_timeout_s=0.3)
    async with street(line) as (cabinet, site):
        await cabinet.up()
        site.forged[b'"s":"1","q":"recent"'] = forged
        assert await cabinet.read(JUNCTION, "stage") == {"stage": Reason.NO_ANSWER}
        assert cabinet.driver.violations == {name: 1}
        site.forged.clear()
        assert await cabinet.read(JUNCTION, "stage") == {"stage": 1}
        assert "StatusResponse" in str([one for one in site.events if isinstance(one, NotAcknowledged)])


@pytest.mark.parametrize(
    ("true", "forged", "name"),
    [
        (b'"S0001"', b'"S9999"', "unknown_status"),
        (b'"n":"stage"', b'"n":"phase"', "unknown_status"),
        (b'"cId":"KK+AG0503=001TC000"', b'"cId":"KK+AG0503=001TC777"', "unknown_component"),
        (b'"rSMsg"', b'"rSMsG"', "wrong_m_type"),
        (b'"StatusUpdate"', b'"StatusUpgrade"', "unknown_type"),
        (
            b'"type":"StatusUpdate"',
            b'"type":"CommandRequest","arg":[{"cCI":"","n":"","cO":"","v":""}]',
            "not_for_us",
        ),
    ],
)
async def test_what_no_list_and_no_version_knows_is_named_and_changes_nothing(
    true: bytes, forged: bytes, name: str
) -> None:
    async with street() as (cabinet, site):
        await cabinet.up()
        site.forged[true] = forged
        site.tell("S0001", stage="5")
        await cabinet.until(lambda: cabinet.driver.violations == {name: 1})
        assert cabinet.last(JUNCTION, "stage") == 1
        site.forged.clear()
        site.tell("S0001", stage="6")
        await cabinet.until(lambda: cabinet.last(JUNCTION, "stage") == 6)
        assert cabinet.driver.health().state is LineState.UP


async def test_an_old_value_is_uncertain_and_keeps_its_value() -> None:
    async with street() as (cabinet, site):
        await cabinet.up()
        site.forged[b'"q":"recent"'] = b'"q":"old"'
        site.tell("S0001", stage="7")
        await cabinet.until(lambda: cabinet.last(JUNCTION, "stage") == 7)
        fault = cabinet.said[-1].faults[0]
        assert (fault.quality, fault.reason) == (Quality.UNCERTAIN, Reason.STALE)


async def test_an_answer_that_comes_too_late_is_counted_and_taken_for_no_other() -> None:
    line = replace(settings(1), response_timeout_s=0.2)
    async with street(line) as (cabinet, site):
        await cabinet.up()
        site.withheld.add("StatusResponse")
        assert await cabinet.read(JUNCTION, "stage") == {"stage": Reason.NO_ANSWER}
        site.withheld.clear()
        late = StatusResponse(
            m_id="be12ab9a-800c-4c19-8c50-adf832f22420",
            component=MAIN,
            at="2026-01-01T00:00:00.000Z",
            values=(StatusValue("S0001", "stage", "99", StatusQuality.RECENT),),
        )
        site._write(encode(late))
        assert await cabinet.read(JUNCTION, "stage") == {"stage": 1}
        assert cabinet.driver.violations == {"late_answer": 1}


async def test_a_detector_that_the_controller_does_not_have_is_not_available_and_named() -> None:
    devices = [DEVICES[0], replace(DEVICES[1], address="KK+AG0503=001DL009")]
    async with street(devices=devices) as (cabinet, _):
        await cabinet.until(lambda: Reason.NOT_AVAILABLE in cabinet.faults(LOOP))
        assert await cabinet.read(LOOP, "occupied") == {"occupied": Reason.NOT_AVAILABLE}
        assert cabinet.driver.violations["unknown_detector"] == 1


async def test_a_component_that_the_site_does_not_know_is_refused_not_guessed() -> None:
    devices = [replace(DEVICES[0], address="KK+AG0503=001TC999")]
    async with street(devices=devices) as (cabinet, _):
        await cabinet.until(lambda: cabinet.driver.health().state is LineState.UP)
        assert await cabinet.read(JUNCTION, "stage", "time_plan") == dict.fromkeys(
            ("stage", "time_plan"), Reason.REFUSED
        )
        written = await cabinet.driver.write(JUNCTION, PointName("time_plan"), 3)
        assert written.state is CommandState.FAILED
        assert "undefined" in written.reason


# --- alarms ---


async def test_alarms_make_fault_warning_and_codes() -> None:
    async with street() as (cabinet, site):
        await cabinet.up()
        site.issue(GROUP, "A0202", color="red")
        await cabinet.until(lambda: cabinet.last(JUNCTION, "controller_warning") is True)
        site.issue(MAIN, "A0001")
        await cabinet.until(lambda: cabinet.last(JUNCTION, "controller_fault") is True)
        assert cabinet.last(JUNCTION, "fault_codes") == "A0001,A0202"
        site.end(MAIN, "A0001")
        site.end(GROUP, "A0202")
        await cabinet.until(lambda: cabinet.last(JUNCTION, "fault_codes") == "")
        expected = {"controller_fault": False, "controller_warning": False, "fault_codes": ""}
        assert await cabinet.read(JUNCTION, *expected) == expected


async def test_a_fault_of_the_aggregated_status_is_a_fault_without_an_alarm() -> None:
    async with street() as (cabinet, site):
        await cabinet.up()
        site.site.aggregate((False, False, True, False, True, True, False, False), site.now())
        site.flush()
        await cabinet.until(lambda: cabinet.last(JUNCTION, "controller_fault") is True)
        assert cabinet.last(JUNCTION, "controller_warning") is True


async def test_an_alarm_that_ended_while_nobody_listened_does_not_stay() -> None:
    async with street() as (cabinet, site):
        site.issue(MAIN, "A0001")
        await cabinet.until(lambda: cabinet.last(JUNCTION, "controller_fault") is True)
        await site.stop()
        site.end(MAIN, "A0001")
        await cabinet.until(lambda: cabinet.driver.health().state is LineState.DOWN)
        await site.start()
        await cabinet.until(lambda: cabinet.last(JUNCTION, "controller_fault") is False)


async def test_an_alarm_that_a_site_does_not_have_any_more_is_forgotten() -> None:
    async with street() as (cabinet, site):
        site.issue(MAIN, "A0001")
        await cabinet.until(lambda: cabinet.last(JUNCTION, "fault_codes") == "A0001")
        rebuilt = SmallSite(site.port, alarms=ALARMS[1:])
        await site.stop()
        await rebuilt.start()
        await cabinet.until(lambda: cabinet.last(JUNCTION, "fault_codes") == "")
        await rebuilt.stop()


# --- commands ---


async def test_a_plan_is_ordered_and_read_back() -> None:
    async with street() as (cabinet, site):
        written = await cabinet.driver.write(JUNCTION, PointName("time_plan"), 4)
        assert (written.state, written.value, site.plan) == (CommandState.VERIFIED, 4, 4)
        await cabinet.until(lambda: cabinet.last(JUNCTION, "time_plan") == 4)


async def test_a_wrong_security_code_is_a_refusal_and_never_logged() -> None:
    port = free_port()
    line = replace(settings(port), security_code="wrong-0000")
    assert "wrong-0000" not in repr(line)
    with structlog.testing.capture_logs() as logs:
        async with street(line) as (cabinet, site):
            written = await cabinet.driver.write(JUNCTION, PointName("time_plan"), 4)
            assert (written.state, site.plan) == (CommandState.FAILED, 1)
            assert "Incorrect security code" in written.reason
    assert "wrong-0000" not in f"{logs}{written.reason}"


async def test_without_a_security_code_a_plan_cannot_be_written() -> None:
    port = free_port()
    async with street(replace(settings(port), security_code="")) as (cabinet, _):
        plan = next(p.point for p in cabinet.driver.points(JUNCTION) if p.point.name == "time_plan")
        assert not plan.writable
        with pytest.raises(LocalProtocolError, match=f"security_code of line {LINE}.* is not set"):
            await cabinet.driver.write(JUNCTION, PointName("time_plan"), 4)


async def test_a_plan_that_the_controller_takes_and_does_not_use_is_applied_not_verified() -> None:
    async with street() as (cabinet, site):
        site.ignoring = True
        written = await cabinet.driver.write(JUNCTION, PointName("time_plan"), 4)
        assert (written.state, written.value) == (CommandState.APPLIED, 1)
        assert written.reason == "the controller is at plan 1"


@pytest.mark.parametrize("wrong", [0, 256, 1.5, True, None, "3"])
async def test_what_is_no_plan_is_refused_before_anything_is_sent(wrong: Value) -> None:
    async with street() as (cabinet, _):
        with pytest.raises(LocalProtocolError):
            await cabinet.driver.write(JUNCTION, PointName("time_plan"), wrong)


# --- priority ---


async def test_every_state_of_a_request_is_told_also_two_at_once() -> None:
    async with street() as (cabinet, site):
        await cabinet.up()
        written = await cabinet.driver.request(JUNCTION, REQUEST)
        assert written.state is CommandState.APPLIED
        await cabinet.until(lambda: len(cabinet.requests) >= 3)
        assert (
            await cabinet.driver.request(JUNCTION, replace(REQUEST, eta_s=5))
        ).state is CommandState.APPLIED
        assert (await cabinet.driver.cancel(JUNCTION, "bus-1")).state is CommandState.APPLIED
        await cabinet.until(lambda: len(cabinet.requests) >= 4)
        states = [[one.state for one in requests] for _, requests in cabinet.requests]
        assert states == [[], [RequestState.RECEIVED], [RequestState.ACTIVATED], [RequestState.COMPLETED]]
        assert cabinet.requests[-1][1][0].extension_s == 5
        site.prioritise(
            RequestStatus("a", RequestState.REJECTED, 1000), RequestStatus("b", RequestState.QUEUED, 1000)
        )
        await cabinet.until(lambda: len(cabinet.requests) == 5)
        assert [one.id for one in cabinet.requests[-1][1]] == ["a", "b"]
        assert cabinet.last(JUNCTION, "priority_requests") == 1
        assert [one.id for one in await cabinet.driver.requests(JUNCTION)] == ["a", "b"]


async def test_where_requests_are_not_told_one_that_was_cancelled_can_be_put_anew() -> None:
    async with street(site=SmallSite(free_port(), core=Core.V3_1_5)) as (cabinet, site):
        await cabinet.up()
        for _ in range(2):
            assert (await cabinet.driver.request(JUNCTION, REQUEST)).state is CommandState.APPLIED
            await cabinet.until(lambda: list(site.requests) == ["bus-1"])
            assert (await cabinet.driver.cancel(JUNCTION, "bus-1")).state is CommandState.APPLIED
            await cabinet.until(lambda: site.requests == {})


async def test_a_step_that_the_list_does_not_know_is_named_and_told_all_the_same() -> None:
    async with street() as (cabinet, site):
        await cabinet.up()
        site.prioritise(RequestStatus("a", RequestState.QUEUED, 1000))
        site.prioritise(RequestStatus("a", RequestState.COMPLETED, 2000))
        await cabinet.until(lambda: len(cabinet.requests) == 3)
        assert cabinet.driver.violations == {"wrong_transition": 1}


async def test_a_refused_request_has_failed_with_the_controllers_reason() -> None:
    async with street() as (cabinet, site):
        await cabinet.up()
        site.refusing = "no such group"
        written = await cabinet.driver.request(JUNCTION, REQUEST)
        assert written.state is CommandState.FAILED
        assert "no such group" in written.reason


async def test_a_controller_that_does_not_know_priority_is_a_failure_not_a_grant() -> None:
    async with street(site=SmallSite(free_port(), commands=frozenset())) as (cabinet, _):
        await cabinet.up()
        written = await cabinet.driver.request(JUNCTION, REQUEST)
        assert (written.state, written.reason) == (
            CommandState.FAILED,
            f"M0022 is unknown to the site at {MAIN}",
        )


async def test_a_request_does_not_wait_behind_a_status_that_is_slow_to_come() -> None:
    async with street() as (cabinet, site):
        await cabinet.up()
        site.withheld.add("StatusResponse")
        slow = asyncio.create_task(cabinet.read(JUNCTION, "stage"))
        await cabinet.until(lambda: cabinet.driver.health().transactions == 1)
        assert (await cabinet.driver.request(JUNCTION, REQUEST)).state is CommandState.APPLIED
        assert not slow.done()
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)


async def test_requests_are_for_the_junction_of_the_line_alone() -> None:
    async with street() as (cabinet, _):
        for call in (cabinet.driver.request(LOOP, REQUEST), cabinet.driver.cancel(DeviceId("no"), "x")):
            with pytest.raises(LocalProtocolError):
                await call
        with pytest.raises(LocalProtocolError):
            await cabinet.driver.requests(LOOP)


async def test_without_a_connection_a_request_has_failed_and_was_not_sent() -> None:
    cabinet = Cabinet(settings(free_port()))
    written = await cabinet.driver.request(JUNCTION, REQUEST)
    assert (written.state, written.reason) == (CommandState.FAILED, "the site is not connected")
    await cabinet.end()


# --- the connection ---


async def test_a_site_that_connects_anew_takes_the_place_of_its_dead_connection() -> None:
    async with street() as (cabinet, site):
        await cabinet.up()
        again = SmallSite(site.port)
        again.tell("S0001", stage="9")
        await site.stop()
        await again.start()
        await cabinet.until(lambda: cabinet.last(JUNCTION, "stage") == 9)
        await cabinet.up()
        assert await cabinet.read(JUNCTION, "stage") == {"stage": 9}
        await again.stop()


async def test_another_site_is_refused_with_a_reason_and_counted() -> None:
    port = free_port()
    with structlog.testing.capture_logs() as logs:
        async with street(site=SmallSite(port, site="SOMEBODY+ELSE")) as (cabinet, other):
            await cabinet.until(lambda: len(other.events) >= 2)
            assert "site [SOMEBODY+ELSE] is not known here" in str(other.events)
            await cabinet.until(lambda: cabinet.driver.health().state is LineState.DOWN)
            seen = cabinet.driver.violations["unknown_site"]
            await cabinet.until(lambda: cabinet.driver.violations["unknown_site"] >= seen + 100)
            assert cabinet.driver.health().state is not LineState.UP
    assert [entry["fault"] for entry in logs if "fault" in entry] == ["unknown_site"]


async def test_what_a_stranger_does_wrong_does_not_hide_that_the_site_does_the_same() -> None:
    async with street() as (cabinet, site):
        await cabinet.up()
        with structlog.testing.capture_logs() as logs:
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(WRONG_TYPE)
            async with asyncio.timeout(PATIENCE_S):
                await reader.read()
            writer.close()
            await cabinet.until(lambda: cabinet.driver.violations.get("wrong_m_type") == 1)
            site.forged[b'"rSMsg"'] = b'"rSMsG"'
            for stage in ("5", "6"):
                site.tell("S0001", stage=stage)
            await cabinet.until(lambda: cabinet.driver.violations["wrong_m_type"] == 3)
            site.forged.clear()
        told = [entry["who"] for entry in logs if entry.get("fault") == "wrong_m_type"]
        assert told == ["127.0.0.1", SITE]
        assert cabinet.driver.health().named["wrong_m_type"] == 3


async def test_a_fault_is_said_again_after_an_hour_with_how_often_it_was_not_said() -> None:
    with structlog.testing.capture_logs() as logs:
        async with street(site=SmallSite(free_port(), site="SOMEBODY+ELSE")) as (cabinet, _):
            named = cabinet.driver.violations
            await cabinet.until(lambda: named.get("unknown_site", 0) > 5)
            before = named["unknown_site"]
            cabinet.clock.ahead_ms = AGAIN_MS
            await cabinet.until(lambda: named["unknown_site"] > before + 5)
            assert cabinet.driver.health().named["unknown_site"] == named["unknown_site"]
            assert cabinet.driver.health().named["strangers_dropped"] >= before
    first, again = [entry for entry in logs if entry.get("fault") == "unknown_site"]
    assert (first["unsaid"], again["unsaid"]) == (0, before - 1)


async def test_a_site_of_another_list_is_refused_with_a_reason() -> None:
    async with street(site=SmallSite(free_port(), sxl="1.1.0")) as (cabinet, other):
        await cabinet.until(lambda: len(other.events) >= 2)
        assert "SXL 1.1.0 requested, but only 1.2.1 supported" in str(other.events)
        await cabinet.until(lambda: cabinet.driver.health().state is LineState.DOWN)
        assert cabinet.driver.health().reason.endswith(
            "refused was: SXL 1.1.0 requested, but only 1.2.1 supported"
        )


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\x0c",
        b"\x16\x03\x01" + bytes(range(256)) * 64,
        b'{"mType":"rSMsg","type":"Watchdog","mId":"not an id","wTs":""}\x0c',
        b"[" * 4000 + b"\x0c",
        b"\x0c\x0c",
    ],
)
async def test_a_peer_that_sends_garbage_is_dropped_and_the_site_is_unharmed(noise: bytes) -> None:
    line = replace(settings(1), handshake_timeout_s=0.3)
    async with street(line) as (cabinet, site):
        await cabinet.up()
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(noise)
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b""
        writer.close()
        assert cabinet.driver._listener.strangers_dropped == 1
        assert await cabinet.read(JUNCTION, "stage") == {"stage": 1}
        assert cabinet.driver.health().reconnections == 0


async def test_strangers_that_say_nothing_are_bounded_and_cannot_crowd_the_site_out() -> None:
    async with street() as (cabinet, site):
        await cabinet.up()
        crowd = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(MAX_STRANGERS + 4)]
        await cabinet.until(lambda: cabinet.driver._listener.strangers_dropped == 4)
        assert await cabinet.read(JUNCTION, "stage") == {"stage": 1}
        await site.stop()
        await cabinet.until(lambda: cabinet.driver.health().state is not LineState.UP)
        await site.start()
        await cabinet.until(
            lambda: cabinet.driver.health().state is LineState.UP
        )  # the oldest silent one gave way
        assert cabinet.driver._listener.strangers_dropped == 5
        for _, writer in crowd:
            writer.close()
        await cabinet.until(lambda: cabinet.driver._listener.strangers_dropped == len(crowd))


async def test_a_second_site_of_the_same_name_is_named_with_both_addresses() -> None:
    with structlog.testing.capture_logs() as logs:
        async with street() as (cabinet, site):
            await cabinet.up()
            second = SmallSite(site.port)
            await second.start()
            await cabinet.until(lambda: cabinet.driver.violations.get("replaced", 0) >= 1)
            await second.stop()
    told = [entry["reason"] for entry in logs if entry.get("fault") == "replaced"]
    assert told[0].count("127.0.0.1:") == 2


async def test_a_port_that_is_taken_is_a_line_that_is_down_with_the_reason() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cabinet = Cabinet(settings(taken.getsockname()[1]))
        await cabinet.until(lambda: cabinet.driver.health().state is LineState.DOWN)
        assert "Address already in use" in cabinet.driver.health().reason
        await cabinet.end()


async def test_a_site_that_acknowledges_nothing_is_a_disruption_and_comes_back() -> None:
    line = replace(settings(1), ack_timeout_s=0.2)
    async with street(line) as (cabinet, site):
        await cabinet.up()
        site.withheld.add("MessageAck")
        assert await cabinet.read(JUNCTION, "stage") == {"stage": Reason.LINE_DOWN}
        site.withheld.clear()
        await cabinet.until(lambda: site.ready() == 2)
        await cabinet.until(lambda: cabinet.driver.health().state is LineState.UP)
        assert await cabinet.read(JUNCTION, "stage") == {"stage": 1}


async def test_when_the_controller_goes_every_device_says_so_once() -> None:
    async with street() as (cabinet, site):
        await cabinet.up()
        before = len(cabinet.said)
        await site.stop()
        await cabinet.until(lambda: cabinet.driver.health().state is LineState.DOWN)
        assert [one.device for one in cabinet.said[before:]] == [JUNCTION, LOOP]
        assert set(cabinet.faults(JUNCTION)) == {Reason.LINE_DOWN}
        await site.start()
        await cabinet.until(lambda: cabinet.last(LOOP, "occupied") is True)


# --- searching ---


async def test_a_search_tells_what_the_site_has_said_of_itself() -> None:
    async with street() as (cabinet, _):
        await cabinet.until(lambda: cabinet.driver.health().state is LineState.UP)
        sights = [sight async for sight in cabinet.driver.discover()]
        found = {one.address: (one.kind, one.device) for one in sights if isinstance(one, Found)}
        assert found == {
            MAIN: (Kind.JUNCTION, JUNCTION),
            GROUP: (None, None),
            DETECTOR: (Kind.DETECTOR, None),
            "KK+AG0503=001DL002": (Kind.DETECTOR, LOOP),
            "3": (Kind.DETECTOR, None),
        }
        assert [one for one in sights if isinstance(one, Looked)][-1] == Looked(5, 5)


# --- settings ---


@pytest.mark.parametrize(
    ("line", "devices", "key"),
    [
        (replace(settings(12111), host="0.0.0.0"), DEVICES, "line[0].host"),
        (settings(12111), [replace(DEVICES[0], kind=Kind.LAMP)], "device[0].kind"),
        (settings(12111), [replace(DEVICES[0], map="lux")], "device[0].map"),
        (settings(12111), [replace(DEVICES[0], address=3)], "device[0].address"),
        (settings(12111), [replace(DEVICES[1], address="KK+AG0503")], "device[0].address"),
        (settings(12111), [replace(DEVICES[1], address="KK=001DL000")], "device[0].address"),
        (settings(12111), [DEVICES[0], replace(DEVICES[0], id=DeviceId("b"), address="x")], "device[1].address"),
        (settings(12111), [DEVICES[1], replace(DEVICES[1], id=DeviceId("b"), address="y2")], "device[1].address"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_named(line: Rsmp, devices: list[DeviceSettings], key: str) -> None:
    keys = [fault.key for fault in check([line], devices)]
    assert keys[:1] == (
        [key] if key != "device[0].address" or "0503" in str(devices[0].address) else keys[:1]
    )
    assert key in keys


def test_a_controller_beside_the_cabinet_may_be_listened_for_on_purpose() -> None:
    assert check([replace(settings(12111), host="192.0.2.1", insecure=True)], DEVICES) == []
