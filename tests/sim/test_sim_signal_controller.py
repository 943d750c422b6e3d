"""The signal controller at the wire: its supervisor is on a real socket, its junction on a virtual schedule."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from protocols.clock import Instant
from protocols.rsmp.exchange import Role, Terms, Violation
from protocols.rsmp.messages import (
    AggregatedStatus,
    Alarm,
    CommandResponse,
    Core,
    StatusResponse,
    StatusUpdate,
)
from sim import crossing
from sim.faults import DetectorFault, FaultSettings, GroupFault, JunctionFault
from sim.junction import Junction, Mode
from sim.junction_settings import JunctionSettings
from sim.schedule import LoopSchedule, VirtualSchedule
from sim.signal_controller import SignalController
from tests.sim.supervisor import ALL_CORES, CODE, PREFIX, Supervisor, arguments, now

BAD = FaultSettings()
RECONNECT_S = 0.05


class Wall:
    """The loop's time for the wire; the junction's for stamps."""

    def __init__(self, junction: VirtualSchedule) -> None:
        self._junction = junction

    def now(self) -> Instant:
        real = now()
        return Instant(real.monotonic_ms, real.utc_ms + round(self._junction.time() * 1000))


class Site:
    """A controller, its junction's time in the test's hand."""

    def __init__(self, port: int, **settings: Any) -> None:  # noqa: ANN401  any setting
        self.settings = JunctionSettings("junction-1", port=port, reconnect_s=RECONNECT_S, **settings)
        self.time = VirtualSchedule()
        self.junction = Junction(self.settings.design, self.time)
        loop = LoopSchedule(asyncio.get_running_loop())
        self.controller = SignalController(
            self.settings, self.junction, schedule=loop, clock=Wall(self.time), rng=random.Random(1)
        )

    def run(self, seconds: float) -> None:
        """Let the junction's time pass."""
        self.time.run_until(self.time.time() + seconds)


@asynccontextmanager
async def bench(*, in_control: bool = True, **settings: Any) -> AsyncIterator[tuple[Site, Supervisor]]:  # noqa: ANN401
    """A site and its supervisor, connected; nothing that the site writes may break the schemas."""
    sxl = settings.get("sxl", "1.2.1")
    async with Supervisor(Terms(role=Role.SUPERVISOR, sxl=sxl)) as supervisor:
        site = Site(supervisor.port, **settings)
        site.controller.start()
        if in_control:
            site.run(12)
        try:
            await supervisor.ready()
            yield site, supervisor
        finally:
            await site.controller.stop()
    assert supervisor.wrong == []


class TestConnection:
    @pytest.mark.parametrize("core", ALL_CORES)
    async def test_it_introduces_itself_in_every_version(self, core: Core) -> None:
        async with bench(versions=(core,), sxl="1.1.0" if core < Core.V3_2_0 else "1.2.1") as (_, supervisor):
            await supervisor.until(lambda: len(supervisor.of(Alarm)) == 2 + 6 * 2 + 8)
            (told,) = supervisor.of(AggregatedStatus)
            assert [str(one).lower() for one in told.elements].index("true") == 5
            assert {alarm.activity for alarm in supervisor.of(Alarm)} == {"inActive"}

    async def test_it_comes_back_after_the_supervisor_hung_up(self) -> None:
        async with bench() as (site, supervisor):
            await supervisor.hang_up()
            await supervisor.until(lambda: len(supervisor.of(AggregatedStatus)) == 2)
            assert site.controller.counters().connections == 2

    async def test_what_happens_meanwhile_is_told_afterwards(self) -> None:
        async with bench() as (site, supervisor):
            site.controller.set_fault(JunctionFault.DISCONNECTED, BAD)
            site.controller.set_fault(JunctionFault.YELLOW_FLASH, BAD)
            site.run(2)
            site.controller.clear_fault(JunctionFault.YELLOW_FLASH)
            site.run(20)
            assert not site.controller.connected
            assert site.controller.counters().buffered > 0
            before = len(supervisor.events)
            site.controller.clear_fault(JunctionFault.DISCONNECTED)
            await supervisor.until(
                lambda: any(
                    alarm.code == "A0001" and alarm.activity == "Active" for alarm in supervisor.of(Alarm)
                )
            )
            assert len(supervisor.events) > before

    async def test_a_supervisor_that_is_not_there_yet_is_tried_again(self) -> None:
        async with Supervisor() as supervisor:
            port = supervisor.port
        site = Site(port)
        site.controller.start()
        late = Supervisor()
        late.port = port
        async with late as supervisor:
            await supervisor.ready()
            await site.controller.stop()

    async def test_a_host_that_cannot_be_is_tried_again_and_the_junction_runs(self) -> None:
        site = Site(9, host="no..where")
        site.controller.start()
        site.run(20)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3 * RECONNECT_S):
                await site.controller.ready.wait()
        assert site.junction.mode is Mode.CONTROL
        assert not site.controller.connected
        await site.controller.stop()

    async def test_another_list_is_refused_and_tried_again(self) -> None:
        async with Supervisor(Terms(role=Role.SUPERVISOR, sxl="1.1.0")) as supervisor:
            site = Site(supervisor.port)
            site.controller.start()
            await supervisor.until(lambda: supervisor.connections >= 2)
            await site.controller.stop()
        assert any(isinstance(event, Violation) for event in supervisor.events)

    async def test_noise_from_the_supervisor_does_no_harm(self) -> None:
        async with bench() as (site, supervisor):
            supervisor.write(b"\x0c\x00\xff{]\x0c" + b"x" * 5000 + b"\x0c")
            values = await supervisor.ask("S0020", "controlmode")
            assert values == {"controlmode": "control"}
            assert sum(site.controller.counters().violations.values()) >= 2


STATUSES = {
    "S0001": ("signalgroupstatus", "cyclecounter", "basecyclecounter", "stage"),
    "S0002": ("detectorlogicstatus",),
    "S0005": ("status", "statusByIntersection"),
    "S0007": ("intersection", "status", "source"),
    "S0008": ("intersection", "status", "source"),
    "S0009": ("intersection", "status", "source"),
    "S0010": ("intersection", "status", "source"),
    "S0011": ("intersection", "status", "source"),
    "S0012": ("intersection", "status", "source"),
    "S0014": ("status", "source"),
    "S0020": ("intersection", "controlmode"),
    "S0022": ("status",),
    "S0028": ("status",),
    "S0033": ("status",),
    "S0095": ("status",),
    "S0096": ("year", "month", "day", "hour", "minute", "second"),
    "S0097": ("checksum", "timestamp"),
}


class TestStatuses:
    async def test_every_status_is_answered_with_a_value(self) -> None:
        async with bench() as (_, supervisor):
            told = {code: await supervisor.ask(code, *names) for code, names in STATUSES.items()}
            assert not [code for code, values in told.items() if None in values.values()]
            assert told["S0001"]["signalgroupstatus"] == "0B0BB1"
            assert told["S0002"] == {"detectorlogicstatus": "00000000"}
            assert told["S0014"] == {"status": "1", "source": "calendar_clock"}
            assert told["S0022"] == {"status": "1,2,3"}
            assert told["S0028"] == {"status": "01-90,02-70,03-60"}
            assert told["S0033"] == {"status": []}
            assert told["S0096"]["year"] == "2026"

    async def test_what_it_does_not_have_is_unknown(self) -> None:
        async with bench() as (_, supervisor):
            assert await supervisor.ask("S0003", "inputstatus") == {"inputstatus": None}

    async def test_a_detector_that_is_driven_over_is_told_at_once(self) -> None:
        async with bench() as (site, supervisor):
            supervisor.subscribe("S0002", "detectorlogicstatus")
            await supervisor.until(lambda: bool(supervisor.updates("S0002")))
            site.junction.detect("check-in-2", True)
            await supervisor.until(lambda: len(supervisor.updates("S0002")) == 2)
            assert supervisor.updates("S0002")[-1].value == "00100000"

    async def test_start_up_is_told_from_its_flashing_to_control(self) -> None:
        async with bench(in_control=False) as (site, supervisor):
            supervisor.subscribe("S0020", "controlmode")
            supervisor.subscribe("S0005", "status", "statusByIntersection")
            await supervisor.until(lambda: len(supervisor.updates("S0005")) >= 2)
            site.run(12)
            await supervisor.until(lambda: len(supervisor.updates("S0020")) == 2)
            assert [each.value for each in supervisor.updates("S0020")] == ["startup", "control"]


class TestCommands:
    async def test_yellow_flash_is_taken_and_given_back(self) -> None:
        async with bench() as (site, supervisor):
            answer = await supervisor.order(
                "M0001", "setValue", status="YellowFlash", securityCode=CODE, timeout="0", intersection="0"
            )
            assert arguments(answer)["status"] == "YellowFlash"
            site.run(20)
            assert await supervisor.ask("S0011", "status", "source") == {"status": "True", "source": "forced"}
            assert await supervisor.ask("S0020", "controlmode") == {"controlmode": "standby"}
            await supervisor.order(
                "M0001", "setValue", status="NormalControl", securityCode=CODE, timeout="0", intersection="1"
            )
            site.run(20)
            assert site.junction.mode is Mode.CONTROL

    @pytest.mark.parametrize(
        ("code", "order", "given", "says"),
        [
            ("M0001", "setValue", {"status": "Dark", "timeout": "0", "intersection": "2"}, "intersection 2"),
            ("M0002", "setPlan", {"status": "True", "timeplan": "9"}, "time plan 9"),
            ("M0001", "setValue", {"status": "Dark", "timeout": "1441", "intersection": "0"}, "1441"),
        ],
    )
    async def test_what_cannot_be_is_refused(
        self, code: str, order: str, given: dict[str, str], says: str
    ) -> None:
        async with bench() as (site, supervisor):
            answer = await supervisor.order(code, order, securityCode=CODE, **given)
            assert isinstance(answer, str)
            assert says in answer
            site.run(30)
            assert site.junction.mode is Mode.CONTROL

    async def test_a_wrong_security_code_changes_nothing_and_a_new_one_counts(self) -> None:
        async with bench() as (site, supervisor):
            plan = {"status": "True", "timeplan": "3"}
            assert await supervisor.order("M0002", "setPlan", securityCode="0000", **plan) == (
                "Incorrect security code"
            )
            assert site.junction.plan_source == "calendar_clock"
            await supervisor.order(
                "M0103", "setSecurityCode", status="Level2", oldSecurityCode=CODE, newSecurityCode="4711"
            )
            answer = await supervisor.order("M0002", "setPlan", securityCode="4711", **plan)
            assert isinstance(answer, CommandResponse)
            assert site.junction.plan_source == "forced"
            await supervisor.order("M0002", "setPlan", securityCode="4711", status="False", timeplan="1")
            assert site.junction.plan_source == "calendar_clock"

    async def test_a_restart_starts_up_again(self) -> None:
        async with bench() as (site, supervisor):
            await supervisor.order("M0004", "setRestart", status="True", securityCode=CODE)
            assert site.junction.mode is Mode.STARTUP

    async def test_what_it_cannot_do_is_answered_with_unknown(self) -> None:
        async with bench() as (_, supervisor):
            answer = await supervisor.order("M0007", "setFixedTime", status="True", securityCode=CODE)
            assert isinstance(answer, CommandResponse)
            assert {value.age.value for value in answer.values} == {"unknown"}


class TestPriority:
    async def test_a_request_is_told_in_all_its_states_once_and_then_forgotten(self) -> None:
        async with bench() as (site, supervisor):
            supervisor.subscribe("S0033", "status")
            site.run(88)
            answer = await supervisor.prioritise(
                "new", "bus-1", signalGroupId=f"{PREFIX}SG002", level="5", eta="0", vehicleType="bus"
            )
            assert arguments(answer)["requestId"] == "bus-1"
            site.run(20)
            assert site.junction.is_green(2)
            await supervisor.prioritise("update", "bus-1", eta="1", level="6")
            await supervisor.prioritise("cancel", "bus-1")
            await supervisor.until(lambda: supervisor.updates("S0033")[-1].value == [])
            assert supervisor.states("bus-1") == ["received", "activated", "completed"]
            (end,) = [
                entry
                for each in supervisor.updates("S0033")
                if isinstance(each.value, list)
                for entry in each.value
                if entry["s"] == "completed"
            ]
            assert (end["e"], end["d"]) == ("0", "31")
            counted = crossing.junction_counters(site.controller)
            assert (counted.requests, counted.granted, counted.green_seconds_gained) == (1, 1, 31)

    async def test_seconds_of_green_that_were_given_count_as_those_of_red_that_were_spared(self) -> None:
        async with bench() as (site, supervisor):
            site.run(118)
            await supervisor.prioritise("new", "bus-1", signalGroupId=f"{PREFIX}SG001", level="5")
            site.run(12)
            await supervisor.prioritise("cancel", "bus-1")
            assert crossing.junction_counters(site.controller).green_seconds_gained == 7 + 1

    async def test_the_answer_comes_before_the_updates(self) -> None:
        async with bench() as (_, supervisor):
            supervisor.subscribe("S0033", "status")
            await supervisor.until(lambda: bool(supervisor.updates("S0033")))
            await supervisor.prioritise("new", "bus-1", signalGroupId=f"{PREFIX}SG001", level="5")
            await supervisor.until(lambda: len(supervisor.states("bus-1")) == 2)
            kinds = [type(message) for message in supervisor.of((StatusUpdate, CommandResponse))]
            assert kinds == [StatusUpdate, CommandResponse, StatusUpdate, StatusUpdate]

    @pytest.mark.parametrize(
        "reference", [{"signalGroupId": f"{PREFIX}SG009"}, {"signalGroupId": "SG002"}, {"approachId": "2"}]
    )
    async def test_a_movement_that_it_does_not_know_is_rejected(self, reference: dict[str, str]) -> None:
        async with bench() as (_, supervisor):
            supervisor.subscribe("S0033", "status")
            await supervisor.prioritise("new", "bus-1", level="5", **reference)
            await supervisor.until(lambda: supervisor.states("bus-1") == ["received", "rejected"])

    async def test_a_cancel_always_works_and_an_update_of_nothing_is_refused(self) -> None:
        async with bench() as (_, supervisor):
            assert isinstance(await supervisor.prioritise("cancel", "nobody"), CommandResponse)
            assert await supervisor.prioritise("update", "nobody", eta="3") == (
                "request nobody is unknown or has ended"
            )

    async def test_an_endless_id_is_refused(self) -> None:
        async with bench() as (site, supervisor):
            answer = await supervisor.prioritise("new", "x" * 300, signalGroupId=f"{PREFIX}SG002")
            assert answer == "a request id of 300 characters; expected 1 to 255"
            assert site.junction.priority.totals().requested == 0

    async def test_an_id_in_use_for_another_group_is_refused(self) -> None:
        async with bench() as (_, supervisor):
            group = f"{PREFIX}SG002"
            for _ in range(2):
                answer = await supervisor.prioritise("new", "bus-1", signalGroupId=group, level="5")
                assert isinstance(answer, CommandResponse)
            assert await supervisor.prioritise("new", "bus-1", signalGroupId=f"{PREFIX}SG004") == (
                "request bus-1 is in use for another signal group"
            )


class TestAlarms:
    async def test_a_lamp_failure_names_its_group_and_ends(self) -> None:
        async with bench() as (site, supervisor):
            site.junction.set_lamp_fault(3, GroupFault.LAMP_FAILURE, BAD)
            site.run(1)
            await supervisor.until(lambda: any(alarm.activity == "Active" for alarm in supervisor.of(Alarm)))
            alarm = supervisor.of(Alarm)[-1]
            assert (alarm.component, alarm.code, alarm.priority) == (f"{PREFIX}SG003", "A0201", "2")
            assert isinstance(alarm.values, tuple)
            assert [(each.name, each.value) for each in alarm.values] == [("color", "red")]
            await supervisor.until(lambda: len(supervisor.of(AggregatedStatus)) == 2)
            assert supervisor.of(AggregatedStatus)[-1].elements[2:6] == (True, True, False, False)
            site.junction.clear_lamp_fault(3, GroupFault.LAMP_FAILURE)
            site.run(1)
            await supervisor.until(lambda: supervisor.of(Alarm)[-1].activity == "inActive")

    async def test_a_stuck_detector_and_a_conflict_are_told_with_their_codes(self) -> None:
        async with bench() as (site, supervisor):
            site.junction.set_detector_fault("exit-1", DetectorFault.DETECTOR_STUCK, BAD)
            site.run(301)
            site.controller.set_fault(JunctionFault.CONFLICT, BAD)
            site.run(60)
            await supervisor.until(
                lambda: (
                    {"A0302", "A0006"}
                    <= {alarm.code for alarm in supervisor.of(Alarm) if alarm.activity == "Active"}
                )
            )
            (stuck,) = [
                alarm
                for alarm in supervisor.of(Alarm)
                if alarm.activity == "Active" and alarm.code == "A0302"
            ]
            assert stuck.component == f"{PREFIX}DL002"

    async def test_an_alarm_can_be_acknowledged(self) -> None:
        async with bench() as (site, supervisor):
            site.controller.set_fault(JunctionFault.DARK, BAD)
            site.run(1)
            await supervisor.until(lambda: any(alarm.activity == "Active" for alarm in supervisor.of(Alarm)))
            supervisor.acknowledge_alarm("A0001")
            await supervisor.until(lambda: supervisor.of(Alarm)[-1].event == "Acknowledge")
            assert supervisor.of(Alarm)[-1].ack == "Acknowledged"


class TestWireFaults:
    async def test_nack_refuses_every_request(self) -> None:
        async with bench() as (site, supervisor):
            site.controller.set_fault(JunctionFault.NACK, BAD)
            assert (
                await supervisor.order("M0004", "setRestart", status="True", securityCode=CODE)
                == "out of order"
            )
            site.controller.clear_fault(JunctionFault.NACK)
            assert await supervisor.ask("S0020", "controlmode") == {"controlmode": "control"}

    async def test_late_delays_every_message(self) -> None:
        async with bench() as (site, supervisor):
            site.controller.set_fault(JunctionFault.LATE, FaultSettings(delay_s=0.2))
            began_s = asyncio.get_running_loop().time()
            await supervisor.ask("S0020", "controlmode")
            assert asyncio.get_running_loop().time() - began_s >= 0.2

    async def test_garbled_messages_are_no_json(self) -> None:
        async with bench() as (site, supervisor):
            site.controller.set_fault(JunctionFault.GARBLED, BAD)
            supervisor.wrong = []
            supervisor.deaf = True
            supervisor._exchange = None
            site.junction.set_fault(JunctionFault.DARK, BAD)
            before = len(supervisor.raw)
            site.run(1)
            await supervisor.until(lambda: len(supervisor.raw) > before)
            packet = bytes(supervisor.raw[before:]).split(b"\x0c")[0]
            with pytest.raises(msgspec.DecodeError):
                msgspec.json.decode(packet)

    async def test_silent_says_nothing_but_stays_connected(self) -> None:
        async with bench(ack_timeout_s=0.2, watchdog_s=0.2) as (site, supervisor):
            supervisor.subscribe("S0001", "signalgroupstatus")
            await supervisor.until(lambda: bool(supervisor.updates("S0001")))
            site.controller.set_fault(JunctionFault.SILENT, BAD)
            site.run(6000)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.4):
                    await supervisor.until(lambda: supervisor.hung_up > 0)
            assert len(supervisor.updates("S0001")) == 1
            site.controller.clear_fault(JunctionFault.SILENT)
            await supervisor.until(lambda: len(supervisor.updates("S0001")) == 2)
            assert supervisor.updates("S0001")[-1].value == site.junction.signal_states()

    async def test_disconnected_stays_away_until_it_ends(self) -> None:
        async with bench() as (site, supervisor):
            site.controller.set_fault(JunctionFault.DISCONNECTED, BAD)
            assert not site.controller.connected
            site.controller.clear_fault(JunctionFault.DISCONNECTED)
            await supervisor.until(lambda: supervisor.connections == 2)


async def test_what_passed_is_counted_by_type() -> None:
    async with bench() as (site, supervisor):
        await supervisor.ask("S0020", "controlmode")
        counters = site.controller.counters()
        assert counters.sent["Version"] == counters.received["Version"] == 1
        assert counters.received["StatusRequest"] == counters.sent["StatusResponse"] == 1
        assert len(supervisor.of(StatusResponse)) == 1
        assert counters.sent["Alarm"] == 22
