"""A whole cabinet with a radio line: commands that wait for their device hold up nobody, silence is an alarm."""

from collections.abc import Iterator

import pytest

from edge.answers import Commands, Join, JoinAnswer, Set
from edge.asking import technician_command
from edge.clock import SystemClock
from edge.config import load
from edge.state import CommandRecord
from protocols.backhaul import codec
from protocols.backhaul.messages import AlarmEvent
from protocols.model.alarm import AlarmType
from protocols.model.command import Command, CommandState
from protocols.model.ids import CommandId, PointName
from tests.drivers.forwarder import RadioDouble
from tests.edge.radio import (
    BAY,
    IT_IS_OFF,
    IT_IS_ON,
    KEY,
    SWITCH,
    SWITCH_1_ON,
    SWITCH_EUI,
    SlowForwarder,
    add_radio_line,
    free_port,
)
from tests.edge.whole import Whole


class Corner:
    """The cabinet, its gateway, and a switch that has joined."""

    def __init__(self, cabinet: Whole) -> None:
        port = free_port()
        add_radio_line(cabinet, port, bay_silence_s=0.3)
        self.cabinet = cabinet
        self.gateway = SlowForwarder(port)
        self.switch = RadioDouble(SWITCH_EUI, KEY)

    def start(self) -> None:
        self.cabinet.start()
        self.gateway.pull()
        self.cabinet.ask(Join(SWITCH, KEY), JoinAnswer)
        self.gateway.push(self.switch.join_request())
        self.switch.take_accept(self.gateway.downlink())

    def set(self, *arguments: str) -> tuple[str, CommandId]:
        """Set the switch on the command line; return what it says, and the command's id."""
        ran = self.cabinet.cli("set", SWITCH, "switch_1", "on", *arguments)
        assert ran.returncode == 4, ran.stderr
        return ran.stdout, CommandId(ran.stdout.split()[-1])

    def record(self, command_id: CommandId) -> CommandRecord:
        (record,) = self.cabinet.ask(Commands(command_id), list[CommandRecord])
        return record

    def until(self, command_id: CommandId, state: CommandState) -> None:
        self.cabinet.centre.wait(lambda: self.record(command_id).state is state, f"it is {state.value}")


@pytest.fixture
def corner(cabinet: Whole) -> Iterator[Corner]:
    made = Corner(cabinet)
    try:
        yield made
    finally:
        made.gateway.close()


def test_a_command_that_waits_for_its_device_holds_up_nobody_and_can_be_looked_up(corner: Corner) -> None:
    corner.start()
    said, command_id = corner.set("--expires", "1h")
    assert f"executing: it is sent when {SWITCH} speaks, unless it expires before" in said
    assert "It has until" in said
    other = corner.cabinet.cli("set", "cabinet-io", "contactor", "on")
    assert (other.returncode, "verified" in other.stdout) == (0, True)
    listed = corner.cabinet.cli("commands")
    assert (listed.returncode, command_id in listed.stdout) == (0, True)
    assert corner.cabinet.cli("commands", command_id).returncode == 4
    corner.gateway.push(corner.switch.uplink(IT_IS_OFF, 85))
    frame, plain, _ = corner.switch.hear(corner.gateway.downlink())
    assert (frame.confirmed, plain) == (True, SWITCH_1_ON)
    corner.gateway.push(corner.switch.uplink(IT_IS_ON, 85, ack=True))
    corner.until(command_id, CommandState.VERIFIED)
    done = corner.cabinet.cli("commands", command_id)
    assert (done.returncode, "verified" in done.stdout) == (0, True)
    assert "No command is under way." in corner.cabinet.cli("commands").stdout
    assert corner.cabinet.cli("commands", "cli-nobody").returncode == 2
    assert corner.cabinet.stop() == 0


def test_a_command_that_was_never_sent_is_failed_when_the_agent_is_stopped(corner: Corner) -> None:
    corner.start()
    _, command_id = corner.set("--expires", "1h")
    assert corner.cabinet.stop() == 0
    looked = corner.cabinet.cli("commands", command_id)
    assert (looked.returncode, "failed: the line's task has ended" in looked.stdout) == (1, True)
    assert "No command is under way." in corner.cabinet.cli("commands").stdout


def test_a_command_that_was_sent_and_not_acknowledged_is_unknown_when_the_agent_is_stopped(
    corner: Corner,
) -> None:
    corner.start()
    _, command_id = corner.set("--expires", "1h")
    corner.gateway.push(corner.switch.uplink(IT_IS_OFF, 85))
    corner.gateway.downlink()
    corner.cabinet.kill()
    corner.cabinet.start()
    corner.gateway.pull()
    corner.until(command_id, CommandState.OUTCOME_UNKNOWN)
    assert "cannot be read" in corner.record(command_id).reason
    corner.gateway.push(corner.switch.uplink(IT_IS_OFF, 85))
    _, again = corner.set("--expires", "1h")
    corner.gateway.push(corner.switch.uplink(IT_IS_OFF, 85))
    assert corner.switch.hear(corner.gateway.downlink())[1] == SWITCH_1_ON
    assert corner.cabinet.stop() == 0
    assert "outcome_unknown: the line's task has ended" in corner.cabinet.cli("commands", again).stdout


def test_a_command_is_not_sent_after_it_has_expired(corner: Corner) -> None:
    corner.start()
    now_ms = corner.cabinet.status().now.utc_ms
    late = Command(CommandId("c-1"), SWITCH, PointName("switch_1"), True, "operator:anna", now_ms + 1500)
    corner.cabinet.ask(Set(late), CommandRecord)
    corner.until(late.id, CommandState.FAILED)
    assert corner.record(late.id).reason == "it did not speak before the command expired"
    corner.gateway.push(corner.switch.uplink(IT_IS_OFF, 85, confirmed=True))
    frame, plain, _ = corner.switch.hear(corner.gateway.downlink())
    assert (frame.ack, frame.confirmed, plain) == (True, False, b"")
    assert corner.cabinet.stop() == 0


def test_a_technicians_command_waits_as_long_as_its_device_may_be_silent(corner: Corner) -> None:
    settings = load(corner.cabinet.file)
    now_ms = SystemClock().now().utc_ms

    def expires_s(device: str, expires: str | None) -> float:
        command = technician_command(settings, device, "switch_1", "on", ("30m", expires, 0.0)).command
        return (command.expires_ms - now_ms) / 1000

    assert 3600 <= expires_s(SWITCH, None) < 3660
    assert 60 <= expires_s(SWITCH, "1m") < 120
    assert 10 <= expires_s("cabinet-io", None) < 70


def test_a_device_that_is_never_heard_is_an_alarm_after_one_silence(corner: Corner) -> None:
    corner.start()
    alarms = corner.cabinet.centre

    def failed() -> list[AlarmEvent]:
        events = [one for one in alarms.events(AlarmEvent) if isinstance(one, AlarmEvent)]
        return [one for one in events if one.type is AlarmType.COMMUNICATION_FAILURE]

    alarms.wait(lambda: len(failed()) == 1, "the alarm")
    assert (failed()[0].device, failed()[0].text) == (BAY, f"{BAY} is not heard any more")
    assert corner.cabinet.stop() == 0


def test_what_a_device_has_said_is_taken_once_however_often_somebody_asks_for_it(corner: Corner) -> None:
    corner.start()
    corner.gateway.push(corner.switch.uplink(IT_IS_ON, port=85))
    centre = corner.cabinet.centre

    def taken() -> list[object]:
        return [
            sample.values[sample.points.index(PointName("frame_counter"))]
            for batch in centre.batches
            for sample in codec.samples(batch)
            if sample.device == SWITCH and PointName("frame_counter") in sample.points and not sample.faults
        ]

    centre.wait(lambda: len(taken()) == 1, "the uplink")
    for _ in range(3):
        asked = corner.cabinet.json("read", SWITCH, "frame_counter")
        assert isinstance(asked, dict)
        assert asked["values"][0]["quality"] == 0
    corner.gateway.push(corner.switch.uplink(IT_IS_OFF, port=85))
    centre.wait(lambda: len(taken()) >= 2, "the next uplink")
    assert len(taken()) == len(set(taken())) == 2
