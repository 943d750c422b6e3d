"""The agent as a process: it ends cleanly, outlasts what breaks around it, and loses nothing to kill -9."""

import msgspec

from edge.answers import DeviceAnswer, Devices
from protocols.backhaul.messages import (
    AlarmEvent,
    CommandEvent,
    GapCause,
    GapEvent,
    LastEnd,
    PolicyEvent,
    StartEvent,
)
from protocols.model.alarm import AlarmType
from protocols.model.command import Command, CommandState
from protocols.model.device import StreamClass
from protocols.model.ids import CommandId, DeviceId, PointName
from tests.edge.street import ARC, signed
from tests.edge.whole import Whole

LAMP, LEVEL = DeviceId("lamp-00"), PointName("dimming_level")


def arc(one: Whole, number: int = 0) -> int:
    return one.street.call(
        lambda: one.street.street.lines["dali-1"].gear[number].level(one.street.street.now_s())
    )


def raised(one: Whole, kind: AlarmType) -> list[bool]:
    """Return for each change of an alarm whether it was raised."""
    return [
        e.cleared_ms is None
        for e in one.centre.events(AlarmEvent)
        if isinstance(e, AlarmEvent) and e.type is kind
    ]


def states(one: Whole, name: str) -> list[CommandState]:
    return [e.state for e in one.centre.events(CommandEvent) if isinstance(e, CommandEvent) and e.id == name]


def readings(one: Whole, device: str) -> int:
    return sum(
        1 for batch in one.centre.batches for layout in batch.columns.layouts if layout.device == device
    )


def command(one: Whole, name: str, **parts: object) -> Command:
    now_ms = one.status().now.utc_ms
    plain = Command(
        CommandId(name), LAMP, LEVEL, 20, "operator:anna", now_ms + 60_000, until_ms=now_ms + 600_000
    )
    return msgspec.structs.replace(plain, **parts)


def test_sigterm_drains_says_goodbye_and_ends_without_a_trace(cabinet: Whole) -> None:
    cabinet.start()
    cabinet.centre.wait(lambda: readings(cabinet, "meter-1") >= 1 and readings(cabinet, "lamp-00") >= 1)
    assert cabinet.stop() == 0
    assert cabinet.waiting() == 0
    assert not cabinet.centre.presence[-1].online
    assert cabinet.centre.repeated == 0
    assert not cabinet.socket.exists()
    log = cabinet.log.read_text()
    assert "Traceback" not in log
    assert "task_broke" not in log
    assert "drained=true" in log.lower()
    (hello,) = cabinet.centre.hellos
    assert hello.last_end is LastEnd.FIRST
    assert {device.id for device in hello.inventory} == {
        "lamp-00",
        "lamp-01",
        "lamp-02",
        "cabinet-io",
        "meter-1",
    }
    cabinet.start()
    assert cabinet.centre.hellos[-1].last_end is LastEnd.CLEAN
    assert cabinet.stop() == 0
    assert cabinet.centre.events(GapEvent) == []
    assert len(cabinet.centre.events(StartEvent)) == 2


def test_a_serial_port_that_is_pulled_out_is_one_alarm_and_comes_back(cabinet: Whole) -> None:
    cabinet.start()
    cabinet.centre.wait(lambda: readings(cabinet, "lamp-02") >= 1)
    cabinet.street.fault("dali-1", "unplugged")
    cabinet.centre.wait(lambda: raised(cabinet, AlarmType.LINE_DOWN) == [True], "the line's alarm")
    before = readings(cabinet, "meter-1")
    cabinet.centre.wait(lambda: readings(cabinet, "meter-1") > before + 3, "the meter goes on")
    cabinet.street.clear("dali-1", "unplugged")
    cabinet.centre.wait(lambda: raised(cabinet, AlarmType.LINE_DOWN) == [True, False], "the line is back")
    assert raised(cabinet, AlarmType.COMMUNICATION_FAILURE) == []
    assert cabinet.stop() == 0


def test_one_dead_host_leaves_the_others_at_their_rate(cabinet: Whole) -> None:
    text = cabinet.file.read_text()
    dead = '[[line]]\nid = "dead"\ndriver = "modbus-tcp"\nhost = "127.0.0.1"\nport = 1\n'
    dead += '[[device]]\nid = "meter-2"\nkind = "meter"\nline = "dead"\naddress = 1\nmap = "sdm630"\npoll_s = 0.2\n'
    cabinet.file.write_text(text + dead)
    cabinet.start()
    cabinet.centre.wait(lambda: readings(cabinet, "meter-1") >= 3 and readings(cabinet, "cabinet-io") >= 1)
    cabinet.centre.wait(lambda: raised(cabinet, AlarmType.LINE_DOWN) == [True])
    status = cabinet.status()
    assert {line.line: line.state.value for line in status.lines} == {
        "dali-1": "up",
        "rtu-1": "up",
        "meter": "up",
        "dead": "down",
    }
    (unreached,) = [one for one in cabinet.ask(Devices(), list[DeviceAnswer]) if one.device.id == "meter-2"]
    assert {value.reason.value for value in unreached.latest if value.reason} == {"line_down"}
    assert cabinet.stop() == 0


def test_a_signed_policy_reaches_the_lamps_and_is_reported(cabinet: Whole) -> None:
    cabinet.start()
    cabinet.centre.policy(signed(1, None))
    cabinet.centre.wait(lambda: len(cabinet.centre.events(PolicyEvent)) == 1)
    wanted = {ARC[100], ARC[50]}
    cabinet.centre.wait(
        lambda: len({arc(cabinet, n) for n in range(3)} & wanted) == 1 or arc(cabinet) in wanted
    )
    cabinet.centre.policy(msgspec.structs.replace(signed(2), signature=b"x" * 64))
    cabinet.centre.wait(lambda: len(cabinet.centre.events(PolicyEvent)) == 2)
    accepted = [e.accepted for e in cabinet.centre.events(PolicyEvent) if isinstance(e, PolicyEvent)]
    assert accepted == [True, False]
    assert cabinet.stop() == 0
    cabinet.start()
    assert [(one.kind, one.version) for one in cabinet.centre.hellos[-1].policies] == [("lighting", 1)]
    assert cabinet.stop() == 0


def test_kill_9_in_the_middle_of_a_command_repeats_nothing_and_says_what_may_be_missing(
    cabinet: Whole,
) -> None:
    cabinet.start()
    cabinet.centre.wait(lambda: readings(cabinet, "meter-1") >= 2)
    contact = command(cabinet, "c-2", device="cabinet-io", point="contactor", value=True, until_ms=None)
    cabinet.centre.command(command(cabinet, "c-1", ramp_s=60.0))
    cabinet.centre.command(contact)
    cabinet.centre.wait(lambda: CommandState.EXECUTING in states(cabinet, "c-1"))
    cabinet.centre.wait(lambda: CommandState.VERIFIED in states(cabinet, "c-2"))
    cabinet.kill()
    cabinet.start()
    cabinet.centre.wait(lambda: states(cabinet, "c-1")[-1] is CommandState.APPLIED)
    assert cabinet.centre.hellos[-1].last_end is LastEnd.CRASH
    cabinet.centre.wait(lambda: bool(cabinet.centre.events(GapEvent)))
    gaps = [e for e in cabinet.centre.events(GapEvent) if isinstance(e, GapEvent)]
    assert {gap.cause for gap in gaps} == {GapCause.CRASH}
    assert all(0 < gap.from_ms <= gap.to_ms < gap.from_ms + 60_000 for gap in gaps)
    cabinet.centre.command(contact)
    cabinet.centre.wait(lambda: states(cabinet, "c-2").count(CommandState.VERIFIED) == 2)
    assert states(cabinet, "c-2").count(CommandState.EXECUTING) == 1
    assert states(cabinet, "c-1").count(CommandState.EXECUTING) == 1
    numbers = [b.number for b in cabinet.centre.batches if b.stream is StreamClass.ORDINARY]
    assert numbers == list(range(1, len(numbers) + 1))
    assert cabinet.stop() == 0


def test_a_line_without_devices_ends_nothing(cabinet: Whole) -> None:
    text = cabinet.file.read_text()
    empty = '[[line]]\nid = "empty"\ndriver = "modbus-tcp"\nhost = "127.0.0.1"\nport = 1\n'
    cabinet.file.write_text(text + empty)
    cabinet.start()
    cabinet.centre.wait(lambda: raised(cabinet, AlarmType.LINE_DOWN) == [True])
    before = readings(cabinet, "meter-1")
    cabinet.centre.wait(lambda: readings(cabinet, "meter-1") > before + 2)
    assert cabinet.stop() == 0


def test_a_second_agent_is_turned_away(cabinet: Whole) -> None:
    cabinet.start()
    second = cabinet.cli("run")
    assert second.returncode == 1
    assert "runs already" in second.stderr
    assert cabinet.status().pid == (cabinet.agent.pid if cabinet.agent else 0)
    assert cabinet.stop() == 0
