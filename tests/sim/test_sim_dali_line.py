"""The line and its interface in virtual time: bit times, settling, send-twice, collisions, supply."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.banks import Identity
from sim.dali_line import BACKWARD_S, SETTLE_S, DaliLine, FrameKind, forward_s
from sim.faults import FaultSettings, LampFault, LineFault
from sim.gear import ControlGear, GearDesign
from sim.gear_dialogue import GearDialogue
from sim.luba import Command, LubaFrame, LubaReceiver, TransmitError, encode
from sim.luba_interface import PING_EVERY_S, LubaInterface
from sim.schedule import VirtualSchedule

QUERY_STATUS, QUERY_LEVEL, QUERY_PRESENT = 0x90, 0xA0, 0x91
SENT, RECEIVED = 0, 2


class Heard:
    """What the host received, frame by frame, with the moment from which it was sent."""

    def __init__(self, frame: LubaFrame, at_s: float) -> None:
        self.command = frame.command
        self.payload = frame.payload
        self.at_s = at_s

    @property
    def kind(self) -> int | None:
        return self.payload[3] >> 6 if self.command == Command.EVENT else None

    @property
    def bits(self) -> int:
        return self.payload[3] & 0x3F


class Rig:
    """A line with its interface, and a host that writes and listens, all in virtual time."""

    def __init__(
        self, gear: int = 4, *, supply: bool = True, queue: int = 16, jitter: random.Random | None = None
    ) -> None:
        self.schedule = VirtualSchedule(100.0)
        self.gear = [self._new_gear(address) for address in range(gear)]
        dialogues = [GearDialogue(each) for each in self.gear]
        self.line = DaliLine(
            self.schedule, dialogues, integrated_supply=supply, queue_limit=queue, jitter=jitter
        )
        self.heard: list[Heard] = []
        self._receiver = LubaReceiver()
        self.interface = LubaInterface(self.line, self.schedule, serial_number=7, output=self._output)

    def _new_gear(self, address: int) -> ControlGear:
        design = GearDesign(physical_minimum=1)
        return ControlGear(
            address, design=design, identity=Identity(1, address), level=0, civil_s=float, at_s=100.0
        )

    def _output(self, content: bytes, at_s: float) -> None:
        self.heard += [Heard(frame, at_s) for frame in self._receiver.receive(content)]

    def ask(self, command: Command, payload: bytes = b"") -> bytes:
        """Write one frame and return the payload of the next that comes back."""
        before = len(self.heard)
        self.interface.receive(encode(LubaFrame(command, payload)), self.schedule.time())
        return self.heard[before].payload

    def transmit(self, address: int, opcode: int, priority: int = 5, *, twice: bool = False) -> bytes:
        mode = priority | (0x80 if twice else 0)
        return self.ask(Command.ADD_FRAME, bytes((0, 16, mode, address, opcode, 0, 0)))

    def run_s(self, seconds: float) -> None:
        self.schedule.run_until(self.schedule.time() + seconds)

    def events(self, kind: int) -> list[Heard]:
        return [heard for heard in self.heard if heard.kind == kind]

    def answers(self) -> list[int]:
        return [heard.payload[4] for heard in self.events(RECEIVED) if heard.bits == 8]

    def framing_errors(self) -> int:
        return sum(heard.bits == 63 for heard in self.events(RECEIVED))


class TestTiming:
    """IEC 62386-101 as in the reference, lighting §1."""

    @pytest.mark.parametrize(
        ("priority", "command_ms", "query_ms"),
        [
            (1, (27.7, 28.9), (40.7, 46.9)),
            (2, (29.1, 30.3), (42.1, 48.3)),
            (3, (30.5, 31.9), (43.5, 49.9)),
            (4, (32.1, 33.5), (45.1, 51.5)),
            (5, (33.7, 35.3), (46.7, 53.3)),
        ],
    )
    def test_commands_and_queries_take_what_the_table_says(
        self, priority: int, command_ms: tuple[float, float], query_ms: tuple[float, float]
    ) -> None:
        for expected_ms, opcode, kind in ((command_ms, 0x05, SENT), (query_ms, QUERY_STATUS, RECEIVED)):
            rig = Rig(jitter=random.Random(1))
            for _ in range(10):
                rig.transmit(0x01, opcode, priority)
            rig.run_s(2.0)
            moments = [heard.at_s for heard in rig.events(kind)]
            assert len(moments) == 10
            periods_ms = [(later - earlier) * 1000 for earlier, later in pairwise(moments)]
            spread_ms = 5.0 if kind == RECEIVED else 0.0  # two answers may lie anywhere in their windows
            assert expected_ms[0] - spread_ms - 0.1 <= min(periods_ms)
            assert max(periods_ms) <= expected_ms[1] + spread_ms + 0.1

    def test_a_sweep_of_64_status_queries_at_priority_5_takes_3_2_s(self) -> None:
        rig = Rig(gear=64, queue=64)
        for address in range(64):
            rig.transmit(address << 1 | 1, QUERY_STATUS)
        started_s = rig.schedule.time()
        rig.run_s(10.0)
        assert len(rig.answers()) == 64
        assert rig.events(RECEIVED)[-1].at_s - started_s == pytest.approx(3.2, abs=0.03)

    def test_64_single_dapc_take_2_2_s(self) -> None:
        rig = Rig(gear=64, queue=64)
        for address in range(64):
            rig.transmit(address << 1, 200)
        started_s = rig.schedule.time()
        rig.run_s(10.0)
        assert rig.events(SENT)[-1].at_s - started_s == pytest.approx(2.2, abs=0.03)
        assert all(each.level(rig.schedule.time()) == 200 for each in rig.gear)

    def test_a_query_to_absent_gear_costs_one_command_period(self) -> None:
        rig = Rig(gear=1)
        rig.transmit(63 << 1 | 1, QUERY_STATUS)
        rig.transmit(0x01, QUERY_STATUS)
        rig.run_s(1.0)
        first, second = rig.events(SENT)
        assert (second.at_s - first.at_s) * 1000 == pytest.approx(34.5, abs=0.1)
        assert len(rig.answers()) == 1

    def test_an_answer_begins_5_5_to_10_5_ms_after_the_question(self) -> None:
        rig = Rig(jitter=random.Random(2))
        for _ in range(12):
            rig.transmit(0x03, QUERY_STATUS)
        rig.run_s(2.0)
        for sent, received in zip(rig.events(SENT), rig.events(RECEIVED), strict=True):
            assert 0.0055 <= received.at_s - BACKWARD_S - sent.at_s <= 0.0105

    def test_frames_take_their_bits(self) -> None:
        assert forward_s(16) * 1000 == pytest.approx(14.17, abs=0.01)
        assert forward_s(24) * 1000 == pytest.approx(20.83, abs=0.01)
        assert pytest.approx(0.0075) == BACKWARD_S
        assert SETTLE_S[1] < SETTLE_S[2] < SETTLE_S[3] < SETTLE_S[4] < SETTLE_S[5]

    @given(
        st.lists(
            st.tuples(st.integers(1, 5), st.sampled_from([0x05, 0x90, 0xA0]), st.booleans()), max_size=15
        ),
        st.integers(0, 1000),
    )
    def test_one_transmission_at_a_time_each_after_its_settling(
        self, asked: list[tuple[int, int, bool]], seed: int
    ) -> None:
        rig = Rig(gear=1, queue=40, jitter=random.Random(seed))
        for priority, opcode, twice in asked:
            rig.transmit(0x01, opcode, priority, twice=twice)
        rig.run_s(5.0)
        events = [heard for heard in rig.heard if heard.kind is not None]
        assert len(rig.events(SENT)) == sum(1 + twice for _, _, twice in asked)
        for before, event in pairwise(events):
            duration_s = BACKWARD_S if event.kind == RECEIVED else forward_s(16)
            least_s = 0.0055 if event.kind == RECEIVED else SETTLE_S[1][0]
            assert event.at_s - duration_s - before.at_s >= least_s - 1e-9

    def test_the_same_seed_gives_the_same_times(self) -> None:
        def moments() -> list[float]:
            rig = Rig(jitter=random.Random(3))
            for _ in range(8):
                rig.transmit(0x01, QUERY_STATUS)
            rig.run_s(1.0)
            return [heard.at_s for heard in rig.heard]

        assert moments() == moments()


class TestInterface:
    """LUBA as in the reference, lighting §5."""

    def test_one_event_for_each_transmission_so_two_for_send_twice(self) -> None:
        rig = Rig()
        number = rig.transmit(0x01, 0x20, twice=True)[0]
        rig.run_s(1.0)
        sent = rig.events(SENT)
        assert [heard.payload[4] for heard in sent] == [number, number]
        assert [heard.payload[5:] for heard in sent] == [b"\x01\x20"] * 2
        gap_s = sent[1].at_s - sent[0].at_s - forward_s(16)
        assert gap_s == pytest.approx(0.0141, abs=0.001)

    def test_transmit_ids_count_up_and_wrap(self) -> None:
        rig = Rig(queue=255)
        numbers = []
        for _ in range(260):
            numbers.append(rig.transmit(0xFE, 100)[0])
            rig.run_s(0.04)
        assert numbers == [number & 0xFF for number in range(260)]

    def test_a_full_queue_is_error_4_and_drains(self) -> None:
        rig = Rig(queue=3)
        replies = [rig.transmit(0xFE, 100) for _ in range(5)]
        assert [len(reply) for reply in replies] == [2, 2, 2, 1, 1]
        assert replies[3] == bytes((TransmitError.BUFFER_FULL,))
        rig.run_s(1.0)
        assert len(rig.transmit(0xFE, 100)) == 2

    @pytest.mark.parametrize(
        ("payload", "error"),
        [
            ("01 10 05 06 C8 00 00", TransmitError.LINE_NOT_AVAILABLE),
            ("00 11 05 06 C8 00 00", TransmitError.SYNTAX),
            ("00 10 00 06 C8 00 00", TransmitError.SYNTAX),
            ("00 10 06 06 C8 00 00", TransmitError.SYNTAX),
            ("00 10 05 06 C8", TransmitError.SYNTAX),
        ],
    )
    def test_a_request_that_makes_no_sense_is_refused(self, payload: str, error: TransmitError) -> None:
        assert Rig().ask(Command.ADD_FRAME, bytes.fromhex(payload)) == bytes((error,))

    def test_identity_and_descriptor(self) -> None:
        rig = Rig()
        info = rig.ask(Command.QUERY_DEVICE_INFO, b"\x00")
        assert len(info) == 20
        assert int.from_bytes(info[6:14], "big") == 7
        assert rig.ask(Command.QUERY_DESCRIPTOR)[18] & 0x80
        assert not Rig(supply=False).ask(Command.QUERY_DESCRIPTOR)[18] & 0x80

    def test_settings_are_kept_and_read_back(self) -> None:
        rig = Rig()
        assert rig.ask(Command.SETTINGS) == bytes.fromhex("00 12 80")
        assert rig.ask(Command.SETTINGS, bytes.fromhex("00 52 80")) == bytes.fromhex("00 52 80")
        assert rig.ask(Command.SETTINGS) == bytes.fromhex("00 52 80")

    @pytest.mark.parametrize(
        ("muted", "sent", "received"), [(0x12, 1, 1), (0x52, 0, 1), (0x32, 1, 0), (0x92, 0, 0)]
    )
    def test_muted_events_are_not_sent(self, muted: int, sent: int, received: int) -> None:
        rig = Rig()
        rig.ask(Command.SETTINGS, bytes((0, muted, 0x80)))
        rig.transmit(0x01, QUERY_STATUS)
        rig.run_s(1.0)
        assert (len(rig.events(SENT)), len(rig.events(RECEIVED))) == (sent, received)

    def test_tick_and_line_can_be_left_out_of_events(self) -> None:
        rig = Rig()
        rig.ask(Command.SETTINGS, bytes((0, 0x12 | 0x08 | 0x04, 0x80)))
        rig.transmit(0x01, QUERY_PRESENT)
        rig.run_s(1.0)
        events = [heard.payload for heard in rig.heard if heard.command == Command.EVENT]
        assert events[1] == bytes.fromhex("88 FF")

    def test_a_line_that_it_does_not_have(self) -> None:
        assert Rig().ask(Command.READ_STATUS, b"\x03") == b"\x03"

    def test_ping_is_sent_while_the_mode_says_so(self) -> None:
        rig = Rig()
        rig.ask(Command.SETTINGS, bytes.fromhex("80 12 80"))
        rig.run_s(2.5 * PING_EVERY_S)
        assert [heard.payload[5:] for heard in rig.events(SENT)] == [b"\xad\x00"] * 2
        rig.ask(Command.SETTINGS, bytes.fromhex("00 12 80"))
        rig.run_s(2.5 * PING_EVERY_S)
        assert len(rig.events(SENT)) == 2

    def test_a_24_bit_frame_is_sent_and_nobody_answers(self) -> None:
        rig = Rig()
        rig.ask(Command.ADD_FRAME, bytes.fromhex("00 18 05 01 FE 30 00"))
        rig.run_s(1.0)
        (sent,) = rig.events(SENT)
        assert sent.bits == 24
        assert sent.payload[5:] == bytes.fromhex("01 FE 30")
        assert rig.events(RECEIVED) == []

    def test_a_frame_that_stops_half_way_does_not_swallow_the_next(self) -> None:
        rig = Rig()
        rig.interface.receive(bytes.fromhex("59 32 07 00 10"), rig.schedule.time())
        rig.run_s(0.2)
        assert len(rig.ask(Command.READ_STATUS, b"\x00")) == 6


class TestCollisions:
    def test_gear_that_answer_differently_collide(self) -> None:
        rig = Rig(gear=2)
        rig.gear[1].request(200, rig.schedule.time(), 0.0)
        rig.transmit(0xFF, QUERY_LEVEL)
        rig.run_s(1.0)
        assert rig.framing_errors() == 1
        assert rig.answers() == []
        assert rig.line.state(rig.schedule.time()).collisions == 1
        assert rig.gear[0].answers == {}

    def test_gear_that_answer_alike_look_like_one(self) -> None:
        rig = Rig(gear=3)
        rig.transmit(0xFF, QUERY_PRESENT)
        rig.run_s(1.0)
        assert rig.answers() == [0xFF]
        assert [each.answers for each in rig.gear] == [{QUERY_PRESENT: 1}] * 3

    def test_a_late_answer_into_the_next_frame_destroys_it_and_it_is_sent_again(self) -> None:
        rig = Rig(gear=2)
        rig.gear[0].board.set(LampFault.LATE, FaultSettings(delay_s=0.028))
        rig.transmit(0x01, QUERY_STATUS)
        rig.transmit(0x02, 180)
        rig.run_s(1.0)
        assert rig.framing_errors() == 1
        assert [heard.payload[5:] for heard in rig.events(SENT)] == [b"\x01\x90", b"\x02\xb4"]
        assert rig.gear[1].level(rig.schedule.time()) == 180
        assert rig.gear[1].level_changes == 1

    def test_a_late_answer_on_a_quiet_line_is_heard_late(self) -> None:
        rig = Rig(gear=1)
        rig.gear[0].board.set(LampFault.LATE, FaultSettings(delay_s=0.050))
        rig.transmit(0x01, QUERY_STATUS)
        rig.run_s(1.0)
        (sent,), (received,) = rig.events(SENT), rig.events(RECEIVED)
        assert received.at_s - sent.at_s == pytest.approx(0.0575, abs=1e-6)

    def test_a_garbled_answer_is_a_framing_error(self) -> None:
        rig = Rig(gear=1)
        rig.gear[0].board.set(LampFault.GARBLED, FaultSettings())
        rig.transmit(0x01, QUERY_STATUS)
        rig.run_s(1.0)
        assert rig.framing_errors() == 1
        assert rig.answers() == []
        assert rig.gear[0].answers == {}

    def test_a_silent_gear_obeys_but_does_not_answer(self) -> None:
        rig = Rig(gear=1)
        rig.gear[0].board.set(LampFault.SILENT, FaultSettings())
        rig.transmit(0x00, 200)
        rig.transmit(0x01, QUERY_LEVEL)
        rig.run_s(1.0)
        assert rig.events(RECEIVED) == []
        assert rig.gear[0].level(rig.schedule.time()) == 200


class TestSupply:
    def test_switching_an_integrated_supply_off_sends_all_to_their_failure_level(self) -> None:
        rig = Rig()
        rig.ask(Command.SETTINGS, bytes.fromhex("00 12 00"))
        assert rig.ask(Command.READ_STATUS, b"\x00")[5] == 0x80
        rig.run_s(0.5)
        assert rig.gear[0].level(rig.schedule.time()) == 0
        rig.run_s(0.1)
        assert [each.level(rig.schedule.time()) for each in rig.gear] == [254] * 4

    def test_a_dip_of_less_than_550_ms_does_nothing(self) -> None:
        rig = Rig()
        rig.ask(Command.SETTINGS, bytes.fromhex("00 12 00"))
        rig.run_s(0.5)
        rig.ask(Command.SETTINGS, bytes.fromhex("00 12 80"))
        rig.run_s(2.0)
        assert rig.gear[0].level(rig.schedule.time()) == 0

    def test_the_voltage_takes_a_moment_to_rise(self) -> None:
        rig = Rig()
        rig.ask(Command.SETTINGS, bytes.fromhex("00 12 00"))
        rig.ask(Command.SETTINGS, bytes.fromhex("00 12 80"))
        assert rig.ask(Command.READ_STATUS, b"\x00")[5] == 0x80
        rig.run_s(0.2)
        assert rig.ask(Command.READ_STATUS, b"\x00")[5] == 0x00

    def test_an_external_supply_cannot_be_switched(self) -> None:
        rig = Rig(supply=False)
        rig.ask(Command.SETTINGS, bytes.fromhex("00 12 00"))
        rig.run_s(1.0)
        assert rig.ask(Command.READ_STATUS, b"\x00")[5] == 0x00
        assert rig.gear[0].level(rig.schedule.time()) == 0

    def test_a_short_is_error_1_and_failure_level_and_ends(self) -> None:
        rig = Rig()
        rig.line.set_fault(LineFault.LINE_SHORT, FaultSettings(), rig.schedule.time())
        assert rig.transmit(0xFE, 100) == bytes((TransmitError.BUS_VOLTAGE,))
        rig.run_s(1.0)
        assert rig.gear[2].level(rig.schedule.time()) == 254
        rig.line.clear_fault(LineFault.LINE_SHORT, rig.schedule.time())
        rig.transmit(0xFE, 100)
        rig.run_s(1.0)
        assert rig.gear[2].level(rig.schedule.time()) == 100

    def test_a_short_in_the_middle_of_a_frame_destroys_it_for_good(self) -> None:
        rig = Rig()
        rig.transmit(0xFE, 100)
        rig.run_s(0.010)
        rig.line.set_fault(LineFault.LINE_SHORT, FaultSettings(), rig.schedule.time())
        rig.line.clear_fault(LineFault.LINE_SHORT, rig.schedule.time())
        rig.run_s(1.0)
        assert rig.events(SENT) == []
        assert rig.gear[0].level(rig.schedule.time()) == 0

    @pytest.mark.parametrize(("supply", "status"), [(True, 0x00), (False, 0x80)])
    def test_wires_off_the_terminals_leave_the_interface_alone(self, *, supply: bool, status: int) -> None:
        rig = Rig(supply=supply)
        rig.line.set_fault(LineFault.LINE_UNPLUGGED, FaultSettings(), rig.schedule.time())
        assert rig.ask(Command.READ_STATUS, b"\x00")[5] == status
        rig.transmit(0x01, QUERY_STATUS)
        rig.run_s(1.0)
        assert rig.events(RECEIVED) == []
        assert rig.gear[0].level(rig.schedule.time()) == (254 if supply else 0)


def test_frames_are_counted_by_kind() -> None:
    rig = Rig(gear=1)
    for address, opcode in ((0x00, 200), (0x01, 0x05), (0x01, QUERY_STATUS), (0xA3, 5)):
        rig.transmit(address, opcode)
    rig.transmit(0x01, 0x2E, twice=True)
    rig.run_s(2.0)
    assert rig.line.frames == {
        FrameKind.DAPC: 1,
        FrameKind.COMMAND: 1,
        FrameKind.QUERY: 1,
        FrameKind.SPECIAL: 1,
        FrameKind.CONFIGURATION: 2,
        FrameKind.BACKWARD: 1,
    }
