"""The LUBA link, against published bytes, python-dali's own driver and any split or garbage."""

import asyncio
from functools import reduce
from itertools import pairwise
from operator import xor

import pytest
from dali import address, frame
from dali.driver.serial import DriverLubaRs232
from dali.gear import general
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from protocols.dali import luba
from protocols.dali.luba import LubaLink, TransmitError
from protocols.errors import LocalProtocolError
from sim.luba import LubaFrame, LubaReceiver, encode

PUBLISHED = bytes.fromhex("59 32 07 00 10 05 06 C8 00 00 EE")
"""DAPC to short address 3, level 200, priority 5: Lunatone's example."""


def event_of(code: int, payload: str) -> luba.Event | luba.NeedData:
    link = LubaLink()
    link.receive_data(encode(LubaFrame(code, bytes.fromhex(payload))))
    return link.next_event()


def drain(link: LubaLink) -> list[luba.Event]:
    events: list[luba.Event] = []
    while not isinstance(event := link.next_event(), luba.NeedData):
        events.append(event)
    return events


def bus_event(status: int, rest: bytes) -> bytes:
    return encode(LubaFrame(0x31, bytes((0x12, 0x34, 0x00, status)) + rest))


ticks = st.just(0x1234)
sent = st.builds(luba.FrameSent, ticks, st.integers(0, 255), st.binary(min_size=2, max_size=3))
heard = st.builds(luba.FrameHeard, ticks, st.binary(min_size=1, max_size=3))
accepted = st.builds(luba.Accepted, st.integers(0, 255))
refused = st.builds(
    luba.NotAccepted, st.sampled_from([e for e in TransmitError if e != TransmitError.UNKNOWN])
)
framing = st.builds(luba.FramingError, ticks)
events = st.one_of(sent, heard, accepted, refused, framing)


def wire_of(event: luba.Event) -> bytes:
    """What an interface says, encoded by the bench, which shares no code with the link."""
    match event:
        case luba.FrameSent():
            return bus_event(8 * len(event.frame), bytes((event.number,)) + event.frame)
        case luba.FrameHeard():
            return bus_event(0x80 | 8 * len(event.frame), event.frame)
        case luba.FramingError():
            return bus_event(0x80 | 63, b"")
        case luba.Accepted():
            return encode(LubaFrame(0x33, bytes((event.number, 0))))
        case luba.NotAccepted():
            return encode(LubaFrame(0x33, bytes((event.error,))))
        case _:
            raise AssertionError(event)


def pieces(wire: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    return [wire[a:b] for a, b in pairwise(at)]


@given(st.lists(events), st.lists(st.integers(0, 500)))
def test_any_split_gives_the_same_events(said: list[luba.Event], cuts: list[int]) -> None:
    link = LubaLink()
    heard_back = []
    for piece in pieces(b"".join(map(wire_of, said)), cuts):
        link.receive_data(piece)
        heard_back += drain(link)
    assert heard_back == said
    assert not link.incomplete
    assert link.noise_bytes == 0


# Garbage that looks like the beginning of a frame is the worst kind.
beginnings = st.sampled_from(
    [b"\x59", b"\x59\x31", b"\x59\x31\x09", b"\x59\x33\x02", b"\x59\x21\x14\x59\x29\x17"]
)
garbage_bytes = st.lists(st.one_of(beginnings, st.binary(max_size=20)), max_size=6).map(b"".join)


@given(garbage_bytes, st.lists(events, min_size=1))
@example(b"\x59\x21\x14", [luba.Accepted(1)])
def test_after_garbage_and_a_gap_every_frame_is_heard(garbage: bytes, said: list[luba.Event]) -> None:
    link = LubaLink()
    link.receive_data(garbage)
    link.gap()
    drain(link)
    link.receive_data(b"".join(map(wire_of, said)))
    assert drain(link) == said


@given(st.binary(min_size=1, max_size=40).filter(lambda noise: b"\x59" not in noise), st.lists(events))
def test_noise_without_a_start_costs_no_frame(noise: bytes, said: list[luba.Event]) -> None:
    link = LubaLink()
    link.receive_data(noise.join(map(wire_of, said)) + noise)
    assert drain(link) == said
    assert link.noise_bytes == max(1, len(said)) * len(noise)


@given(events, st.integers(0, 12), events)
@example(luba.FrameSent(0x1234, 1, b"\x06\xc8"), 3, luba.Accepted(1))
def test_a_truncated_frame_costs_itself_alone(torn: luba.Event, kept: int, whole: luba.Event) -> None:
    wire = wire_of(torn)[: kept % len(wire_of(torn))] + wire_of(whole)
    assume(not check_happens_to_fit(wire))
    link = LubaLink()
    link.receive_data(wire)
    link.gap()
    assert drain(link)[-1] == whole


def check_happens_to_fit(wire: bytes) -> bool:
    """Tell whether a torn frame and the head of the next make a frame: one byte of XOR lets 1 in 256 through."""
    end = 3 + wire[2]
    return end < len(wire) and reduce(xor, wire[1:end], 0) == wire[end]


@given(events, st.integers(0, 7), st.integers(1, 11))
def test_one_flipped_bit_never_gives_another_event(said: luba.Event, bit: int, at: int) -> None:
    wire = bytearray(wire_of(said))
    wire[at % len(wire)] ^= 1 << bit
    link = LubaLink()
    link.receive_data(bytes(wire))
    link.gap()
    # A shorter length may leave a frame whose check happens to fit; its payload then fits no event.
    assert [heard for heard in drain(link) if not isinstance(heard, luba.Unrecognised)] == []


@given(
    st.lists(st.tuples(st.sampled_from([b"\x59", b"\x59\x31\x09", b"\0"]), st.integers(0, 3000)), max_size=6)
)
@example([(b"\0", 5000)])
def test_what_is_held_is_bounded(flood: list[tuple[bytes, int]]) -> None:
    link = LubaLink()
    for pattern, times in flood:
        link.receive_data(pattern * times)
        assert len(link._buffer) <= luba.MAX_BUFFER


def test_the_published_example_is_what_we_send() -> None:
    assert LubaLink().send(luba.AddFrame(bytes.fromhex("06C8"), priority=5)) == PUBLISHED


@settings(max_examples=20)
@given(st.integers(0, 63), st.integers(0, 254), st.integers(1, 5))
def test_python_dali_sends_the_same_bytes(short: int, level: int, priority: int) -> None:
    command = general.DAPC(address.GearShort(short), level)
    ours = LubaLink().send(luba.AddFrame(command.frame.pack, priority))
    assert ours == asyncio.run(python_dali_sends(command, priority))


def test_python_dali_sends_configuration_commands_twice_likewise() -> None:
    command = general.SetFadeTime(address.GearShort(3))
    ours = LubaLink().send(luba.AddFrame(bytes.fromhex("072E"), priority=1, twice=True))
    assert ours == asyncio.run(python_dali_sends(command, 1))


async def python_dali_sends(command: object, priority: int) -> bytes:
    """Let python-dali's own driver write a frame, and catch the bytes."""

    class Wire(asyncio.Transport):
        written = b""

        def write(self, data: bytes | bytearray | memoryview) -> None:
            self.written = bytes(data)
            raise ConnectionResetError

    protocol = DriverLubaRs232.LubaProtocol()
    protocol.transport = wire = Wire()
    protocol.rx_idle.set()
    with pytest.raises(ConnectionResetError):
        await protocol.send_dali_command(command, priority=priority)
    return wire.written


@settings(max_examples=20)
@given(st.integers(0, 255))
def test_python_dali_hears_the_same_answer(value: int) -> None:
    wire = wire_of(luba.FrameHeard(0x1234, bytes((value,))))
    assert asyncio.run(python_dali_hears(wire)) == value


async def python_dali_hears(wire: bytes) -> int:
    protocol = DriverLubaRs232.LubaProtocol()
    protocol.reset()
    protocol.data_received(wire)
    answer: int = await asyncio.wait_for(protocol.wait_dali_raw_response(), 1)
    return answer


@pytest.mark.parametrize(
    ("request_", "code", "payload"),
    [
        (luba.QueryDeviceInfo(), 0x20, "00"),
        (luba.QueryDescriptor(), 0x28, ""),
        (luba.WriteSettings(supply_on=False), 0x2A, "001200"),
        (luba.WriteSettings(supply_on=True), 0x2A, "001280"),
        (luba.ReadStatus(), 0x2C, "00"),
        (luba.AddFrame(bytes.fromhex("072E"), 1, twice=True), 0x32, "001081072E0000"),
        (luba.AddFrame(bytes.fromhex("C13000"), 2), 0x32, "001802C1300000"),
    ],
)
def test_the_bench_interface_reads_our_requests(request_: luba.Request, code: int, payload: str) -> None:
    assert LubaReceiver().receive(LubaLink().send(request_)) == [LubaFrame(code, bytes.fromhex(payload))]


@pytest.mark.parametrize(
    ("code", "payload", "event"),
    [
        (0x21, "010203040506" + "0000000000000007" + "0101" + "0170BFF0", (0x010203040506, 7, 0x0170BFF0)),
        (0x29, "00" * 18 + "80", (True,)),
        (0x29, "00" * 18 + "7F", (False,)),
        (0x2B, "0012", (0, 0x12)),
        (0x2D, "00" + "1234" + "05" + "00" + "00", (True,)),
        (0x2D, "00" + "1234" + "05" + "00" + "80", (False,)),
        (0x2D, "01", (False,)),
        (0x31, "1234" + "00" + "BE", (0x1234,)),
        (0x33, "63", (TransmitError.UNKNOWN,)),
    ],
)
def test_replies_mean_what_the_layout_says(code: int, payload: str, event: tuple[object, ...]) -> None:
    got = event_of(code, payload)
    assert not isinstance(got, luba.NeedData)
    assert tuple(getattr(got, name) for name in got.__struct_fields__) == event


@pytest.mark.parametrize(
    ("code", "payload"),
    [
        (0x21, "00" * 18),  # the other set of device info, which nobody asks for
        (0x31, "1234004001"),  # type 1: send buffer
        (0x31, "12340010"),  # sent, without the frame
        (0x31, "1234001001C8"),  # sent, 16 bits in one byte
        (0x31, "12340088"),  # received, 8 bits in no byte
        (0x31, "1234009001"),  # received, 16 bits in one byte
    ],
)
def test_a_valid_frame_without_a_meaning_is_named_and_passed_over(code: int, payload: str) -> None:
    assert event_of(code, payload) == luba.Unrecognised(code, bytes.fromhex(payload))


@pytest.mark.parametrize(("code", "payload"), [(0x32, "00"), (0x33, "000102"), (0x31, "00")])
def test_what_no_interface_says_is_noise(code: int, payload: str) -> None:
    assert event_of(code, payload) is luba.NEED_DATA


@pytest.mark.parametrize(
    "wrong", [luba.AddFrame(b"\x06"), luba.AddFrame(b"\x06\xc8", 0), luba.AddFrame(b"12", 6)]
)
def test_what_cannot_be_said_is_our_fault(wrong: luba.AddFrame) -> None:
    with pytest.raises(LocalProtocolError):
        LubaLink().send(wrong)


def test_python_dali_knows_the_frame_of_the_example() -> None:
    assert frame.ForwardFrame(16, 0x06C8) == general.DAPC(address.GearShort(3), 200).frame
