"""What a LUBA interface may say that the bench's never does: scripted at the far end of a pseudo-terminal."""

import asyncio
import os
import tty
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import pytest

from drivers.base import Driver, LineState
from drivers.settings import DaliLuba, DeviceSettings, LineSettings
from protocols.dali.luba import TransmitError
from protocols.modbus.register_map import RegisterMap
from protocols.model.device import Kind
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.reading import Reason, Sample
from sim.luba import Command, LubaFrame, LubaReceiver, encode

Connect = Callable[[LineSettings, Sequence[DeviceSettings], Mapping[str, RegisterMap]], Driver]
Script = Callable[[bytes], bytes]

LAMP = DeviceId("lamp")
LEVEL = PointName("dimming_level")
ON_BUS = PointName("lamp_on")
POWERED = b"\0\0\0\0\0\0"


def event(status: int, rest: bytes = b"") -> bytes:
    return encode(LubaFrame(Command.EVENT, b"\0\0\0" + bytes((status,)) + rest))


def accepted(number: int = 7) -> bytes:
    return encode(LubaFrame(Command.ADD_FRAME_REPLY, bytes((number, 0))))


def sent(frame: bytes, number: int = 7) -> bytes:
    return event(8 * len(frame), bytes((number,)) + frame)


def heard(frame: bytes) -> bytes:
    return event(0x80 | 8 * len(frame), frame)


class Interface:
    """An interface that says what its script says.

    Attributes:
        replies: by command; no reply to a command that is not there.
        script: what to say to a forward frame.
        requests: everything that was asked.
    """

    def __init__(self) -> None:
        self._far, near = os.openpty()
        tty.setraw(near)
        os.set_blocking(self._far, False)
        self._near = near
        self.port = os.ttyname(near)
        self.replies: dict[int, bytes] = {
            Command.QUERY_DEVICE_INFO: bytes(20),
            Command.QUERY_DESCRIPTOR: bytes(18) + b"\x80",
            Command.SETTINGS: b"\0\x12\0",
            Command.READ_STATUS: POWERED,
        }
        self.script: Script = lambda frame: accepted() + sent(frame) + heard(b"\xc8")
        self.requests: list[LubaFrame] = []
        self._receiver = LubaReceiver()
        asyncio.get_running_loop().add_reader(self._far, self._readable)

    def _readable(self) -> None:
        for request in self._receiver.receive(os.read(self._far, 1000)):
            self.requests.append(request)
            if request.command == Command.ADD_FRAME:
                os.write(self._far, self.script(request.payload[3:5]))
            elif request.command in self.replies:
                os.write(self._far, encode(LubaFrame(request.command + 1, self.replies[request.command])))

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._far)
        os.close(self._far)
        os.close(self._near)

    def settings_written(self) -> list[bytes]:
        return [request.payload for request in self.requests if request.command == Command.SETTINGS]


@pytest.fixture
async def interface() -> AsyncIterator[Interface]:
    made = Interface()
    yield made
    made.close()


@pytest.fixture
async def driver(interface: Interface, connect: Connect) -> Driver:
    settings = DaliLuba(
        id=LineId("line"),
        port=interface.port,
        confirm_timeout_s=0.1,
        answer_timeout_s=0.05,
        worst_delay_s=0.08,
        silent_after=100,
    )
    return connect(settings, [DeviceSettings(id=LAMP, kind=Kind.LAMP, line=LineId("line"), address=3)], {})


async def read(driver: Driver, point: PointName = LEVEL) -> Sample:
    async with asyncio.timeout(10):
        return await driver.read(LAMP, (point,))


async def reason(driver: Driver) -> Reason:
    got = await read(driver)
    assert got.values == (None,)
    return got.faults[0].reason


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TransmitError.BUS_VOLTAGE, Reason.LINE_DOWN),
        (TransmitError.LINE_NOT_AVAILABLE, Reason.LINE_DOWN),
        (TransmitError.SYNTAX, Reason.GARBLED),
        (TransmitError.INITIALISE_MODE, Reason.REFUSED),
        (TransmitError.QUIESCENT_MODE, Reason.REFUSED),
        (TransmitError.BUFFER_FULL, Reason.REFUSED),
        (TransmitError.MACRO_RUNNING, Reason.REFUSED),
        (42, Reason.REFUSED),
    ],
)
async def test_every_refusal_of_the_interface_has_its_reason(
    interface: Interface, driver: Driver, error: int, expected: Reason
) -> None:
    interface.script = lambda _: encode(LubaFrame(Command.ADD_FRAME_REPLY, bytes((error,))))
    assert await reason(driver) is expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (lambda _: accepted(), Reason.GARBLED),
        (lambda _: b"", Reason.GARBLED),
        (lambda _: accepted() + sent(b"\xff\x05"), Reason.GARBLED),
        (lambda frame: accepted(8) + sent(frame, 7), Reason.GARBLED),
        (lambda frame: accepted() + sent(frame), Reason.NO_ANSWER),
        (lambda frame: accepted() + heard(b"\xc8") + sent(frame), Reason.NO_ANSWER),
        (lambda frame: heard(b"\xc8") + accepted() + sent(frame), Reason.NO_ANSWER),
        (lambda frame: accepted() + sent(frame) + event(0x80 | 62), Reason.GARBLED),
        (lambda frame: accepted() + sent(frame) + event(0x80 | 63), Reason.COLLISION),
        (lambda frame: accepted() + sent(frame) + heard(b"\x07\xa0"), Reason.NO_ANSWER),
        (lambda frame: accepted() + sent(frame) + heard(b"\xff"), Reason.NOT_AVAILABLE),
    ],
    ids=[
        "accepted, never said to be sent",
        "nothing at all",
        "another frame was sent",
        "another number was sent",
        "no answer",
        "answer before the question was sent",
        "answer before the question was accepted",
        "start and stop bit only",
        "framing error",
        "another control device's frame",
        "MASK",
    ],
)
async def test_what_is_no_answer_is_no_value(
    interface: Interface, driver: Driver, said: Script, expected: Reason
) -> None:
    interface.script = said
    assert await reason(driver) is expected
    assert driver.health().state is LineState.UP
    interface.script = lambda frame: accepted() + sent(frame) + heard(b"\xfe")
    assert (await read(driver)).values == (100.0,)


@pytest.mark.parametrize(
    "said",
    [
        lambda frame: sent(frame) + heard(b"\xfe"),
        lambda frame: accepted() + sent(frame, 6) + sent(frame) + heard(b"\xfe"),
        lambda frame: accepted() + sent(frame) + heard(b"\x01\x02\x03") + heard(b"\xfe"),
        lambda frame: accepted() + sent(frame) + b"\x59\x31\x09" + heard(b"\xfe"),
        lambda frame: b"\x59\x59" + accepted() + b"\0" + sent(frame) + b"\x59\x31" + heard(b"\xfe"),
    ],
    ids=["reply lost", "an old confirmation", "somebody else's frame", "stray beginning", "stray bytes"],
)
async def test_an_answer_among_other_things_is_heard(
    interface: Interface, driver: Driver, said: Script
) -> None:
    interface.script = said
    assert (await read(driver)).values == (100.0,)


async def test_a_line_on_which_gear_answers_again_and_again_is_used_all_the_same(
    interface: Interface, driver: Driver
) -> None:
    interface.script = lambda frame: accepted() + sent(frame)
    assert await reason(driver) is Reason.NO_ANSWER
    loop, babbling = asyncio.get_running_loop(), True

    def babble() -> None:
        if babbling:
            os.write(interface._far, heard(b"\xaa"))
            loop.call_later(0.02, babble)

    babble()
    got = await read(driver, ON_BUS)
    babbling = False
    assert got.points == (ON_BUS,)
    assert driver.health().late_bytes_discarded > 5


async def test_without_a_word_about_its_supply_the_settings_stay(
    interface: Interface, driver: Driver
) -> None:
    del interface.replies[Command.QUERY_DESCRIPTOR]
    assert (await read(driver)).faults == {}
    assert interface.settings_written() == []


async def test_an_interface_without_a_supply_is_told_what_to_report(
    interface: Interface, driver: Driver
) -> None:
    interface.replies[Command.QUERY_DESCRIPTOR] = bytes(19)
    assert (await read(driver)).faults == {}
    assert interface.settings_written() == [b"\x00\x12\x00"]


async def test_an_interface_that_does_not_tell_of_voltage_is_believed(
    interface: Interface, driver: Driver
) -> None:
    del interface.replies[Command.READ_STATUS]
    assert (await read(driver)).faults == {}


async def test_a_line_without_voltage_is_down(interface: Interface, driver: Driver) -> None:
    interface.replies[Command.READ_STATUS] = POWERED[:5] + b"\x80"
    assert await reason(driver) is Reason.LINE_DOWN
    assert driver.health().reason == "the DALI line has no bus voltage"


async def test_a_port_without_an_interface_is_down(interface: Interface, driver: Driver) -> None:
    interface.replies.clear()
    assert await reason(driver) is Reason.LINE_DOWN
    assert driver.health().reason == f"no LUBA interface answers on {interface.port}"
