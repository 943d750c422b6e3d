"""Modbus frames and requests: any split, any garbage, the specification's own examples, limits."""

import struct
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.counter import CountingDevice
from sim.modbus_framing import (
    RtuReceiver,
    RtuRequest,
    StreamBrokenError,
    TcpReceiver,
    TcpRequest,
    crc16,
    encode_rtu,
    encode_tcp,
)
from sim.modbus_pdu import serve
from sim.registers import Block, RegisterDevice, Span, Table

pdus = st.binary(min_size=1, max_size=253)
tcp_requests = st.builds(TcpRequest, st.integers(0, 0xFFFF), st.integers(0, 255), pdus)
rtu_requests = st.builds(RtuRequest, st.integers(0, 255), st.binary(min_size=1, max_size=253))


def split(wire: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    return [wire[start:end] for start, end in pairwise(places)]


class Shelf:
    """Registers and coils that keep what is written."""

    def __init__(self) -> None:
        self.words = [0] * 200
        self.bits = [0] * 40
        self.device = RegisterDevice(
            {
                Table.HOLDING_REGISTERS: Block(Span(0, 200), self._read_words, self._write_words),
                Table.INPUT_REGISTERS: Block(
                    Span(10, 60), lambda span: list(span.addresses), max_quantity=50
                ),
                Table.COILS: Block(Span(0, 40), self._read_bits, self._write_bits),
            }
        )

    def _read_words(self, span: Span) -> Sequence[int]:
        return self.words[span.first : span.first + span.quantity]

    def _write_words(self, first: int, values: Sequence[int]) -> None:
        self.words[first : first + len(values)] = values

    def _read_bits(self, span: Span) -> Sequence[int]:
        return self.bits[span.first : span.first + span.quantity]

    def _write_bits(self, first: int, values: Sequence[int]) -> None:
        self.bits[first : first + len(values)] = values


class TestFraming:
    @given(st.lists(tcp_requests), st.lists(st.integers(0)))
    def test_any_split_of_a_tcp_stream_gives_the_same_requests(
        self, requests: list[TcpRequest], cuts: list[int]
    ) -> None:
        receiver = TcpReceiver()
        wire = b"".join(encode_tcp(request) for request in requests)
        assert [found for chunk in split(wire, cuts) for found in receiver.receive(chunk)] == requests

    @given(st.lists(st.binary(max_size=300), max_size=10))
    def test_garbage_breaks_a_tcp_stream_or_gives_requests_nothing_else(self, chunks: list[bytes]) -> None:
        receiver = TcpReceiver()
        try:
            for chunk in chunks:
                receiver.receive(chunk)
                assert len(receiver._buffer) < 260
        except StreamBrokenError:
            pass

    @given(st.lists(rtu_requests, max_size=5), st.lists(st.integers(0)))
    def test_any_split_without_a_silence_gives_the_same_rtu_frame(
        self, requests: list[RtuRequest], cuts: list[int]
    ) -> None:
        receiver = RtuReceiver()
        for request in requests:
            for chunk in split(encode_rtu(request), cuts):
                receiver.receive(chunk)
            assert receiver.silence() == request
        assert receiver.silence() is None

    @given(st.binary(min_size=1, max_size=600), rtu_requests)
    def test_after_garbage_and_a_silence_an_rtu_frame_is_heard(
        self, garbage: bytes, request: RtuRequest
    ) -> None:
        receiver = RtuReceiver()
        receiver.receive(garbage)
        assert len(receiver._buffer) <= 256
        receiver.silence()
        receiver.receive(encode_rtu(request))
        assert receiver.silence() == request

    def test_a_host_that_never_falls_silent_fills_no_memory(self) -> None:
        receiver = RtuReceiver()
        for _ in range(100):
            receiver.receive(bytes(200))
            assert len(receiver._buffer) <= 256
        assert receiver.silence() is None
        assert receiver.bad_frames == 1

    @given(rtu_requests, st.integers(0), st.integers(0, 7))
    def test_one_flipped_bit_is_always_found(self, request: RtuRequest, place: int, bit: int) -> None:
        wire = bytearray(encode_rtu(request))
        wire[place % len(wire)] ^= 1 << bit
        receiver = RtuReceiver()
        receiver.receive(bytes(wire))
        assert receiver.silence() is None
        assert receiver.bad_frames == 1

    def test_the_crc_of_a_known_frame(self) -> None:
        """MODBUS over Serial Line V1.02, §6.2.2: the message 02 07 has the CRC 1241 hex, low byte first."""
        assert crc16(b"\x02\x07") == b"\x41\x12"

    @pytest.mark.parametrize("head", ["0001 0001 0006 01", "0001 0000 0001 01", "0001 0000 00FF 01"])
    def test_an_impossible_header_breaks_the_stream(self, head: str) -> None:
        with pytest.raises(StreamBrokenError):
            TcpReceiver().receive(bytes.fromhex(head))


class TestRequests:
    """MODBUS Application Protocol V1.1b3, §6."""

    def test_reads_and_writes(self) -> None:
        device = Shelf().device
        for request, response in (
            ("06 0001 0003", "06 0001 0003"),  # §6.6
            ("10 0001 0002 04 000A 0102", "10 0001 0002"),  # §6.12
            ("03 0000 0003", "03 06 0000 000A 0102"),
            ("05 0005 FF00", "05 0005 FF00"),
            ("05 0005 0000", "05 0005 0000"),
            ("0F 0013 000A 02 CD01", "0F 0013 000A"),  # §6.11
            ("01 0013 000A", "01 02 CD01"),
            ("04 000A 0002", "04 04 000A 000B"),
        ):
            assert serve(bytes.fromhex(request), device).pdu == bytes.fromhex(response), request

    @pytest.mark.parametrize(
        ("request_", "response"),
        [
            ("07", "87 01"),  # a function that it does not know
            ("02 0000 0001", "82 01"),  # a table that it does not have
            ("06 0001", "86 03"),  # too short
            ("03 00C8 0001", "83 02"),
            ("03 00C7 0002", "83 02"),
            ("04 0009 0001", "84 02"),
            ("03 0000 0000", "83 03"),
            ("03 0000 007E", "83 03"),
            ("01 0000 07D1", "81 03"),
            ("04 000A 0033", "84 03"),  # the device's own limit
            ("04 000A 0001 00", "84 03"),  # too long
            ("05 0000 0001", "85 03"),
            ("10 0000 0002 03 000000", "90 03"),
            ("10 0000 007C F8", "90 03"),
            ("0F 0000 0008 02 0000", "8F 03"),
        ],
    )
    def test_what_cannot_be_done_is_refused_with_its_code(self, request_: str, response: str) -> None:
        assert serve(bytes.fromhex(request_), Shelf().device).pdu == bytes.fromhex(response)

    def test_read_only_tables_are_not_written(self) -> None:
        device = CountingDevice("counter-1", 4)
        assert serve(bytes.fromhex("06 0000 0001"), device).pdu == bytes.fromhex("86 01")

    @given(st.binary(max_size=260))
    def test_no_request_breaks_a_device(self, request_: bytes) -> None:
        reply = serve(request_, Shelf().device)
        assert 2 <= len(reply.pdu) <= 253


def test_a_counting_device_gives_each_register_its_read_number() -> None:
    device = CountingDevice("counter-1", 4)
    seen = []
    for request in ("03 0000 0002", "03 0001 0003", "03 0000 0004"):
        reply = serve(bytes.fromhex(request), device)
        assert reply.read is not None
        device.count(*reply.read)
        seen.append(struct.unpack(f">{reply.pdu[1] // 2}H", reply.pdu[2:]))
    assert seen == [(1, 1), (2, 1, 1), (2, 3, 2, 2)]
    assert device.counters() == {"holding_registers": {"0": 2, "1": 3, "2": 2, "3": 2}}


def test_a_spread_counting_device_begins_each_register_at_a_number_of_its_own() -> None:
    devices = [CountingDevice(name, 20, spread=True) for name in ("counter-1", "counter-2")]
    first = [value for device in devices for value in device.read(Table.HOLDING_REGISTERS, Span(0, 20))]
    assert len(set(first)) == 40


def test_a_read_that_never_left_is_not_counted() -> None:
    device = CountingDevice("counter-1", 1)
    first, again = (serve(bytes.fromhex("03 0000 0001"), device) for _ in range(2))
    assert first.pdu == again.pdu
    assert device.reads[Table.HOLDING_REGISTERS][0] == 0
