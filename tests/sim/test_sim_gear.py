"""Control gear: levels, fades, stored settings, queries, memory, supply. Frames are written out in hex."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.banks import Identity
from sim.faults import FaultSettings, LampFault
from sim.gear import ControlGear, GearDesign
from sim.gear_dialogue import GearDialogue

FRAME_S = 17 / 1200


class Lamp:
    """Gear 3 of a line, and somebody who speaks to it."""

    def __init__(self, physical_minimum: int = 1, device_types: tuple[int, ...] = (6,)) -> None:
        design = GearDesign(physical_minimum=physical_minimum, device_types=device_types)
        self.now_s = 50.0
        self.gear = ControlGear(
            3,
            design=design,
            identity=Identity(0x010203040506, 0x1122334455667788),
            level=0,
            civil_s=float,
            at_s=50.0,
        )
        self.dialogue = GearDialogue(self.gear)

    def hear(self, *frames: int) -> int | None:
        """Hear frames one after another, 35 ms apart; return the last one's answer."""
        value = None
        for frame in frames:
            self.now_s += 0.035
            answer = self.dialogue.hear(frame, self.now_s)
            value = None if answer is None else answer.value
        return value

    def configure(self, opcode: int, value: int | None = None) -> None:
        """Put a value in DTR0 and send a configuration command twice."""
        if value is not None:
            self.hear(0xA300 | value)
        self.hear(0x0700 | opcode, 0x0700 | opcode)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @property
    def level(self) -> int:
        return self.gear.level(self.now_s)

    @property
    def status(self) -> int:
        status = self.hear(0x0790)
        assert status is not None
        return status


class TestLevels:
    def test_dapc_off_recall_and_steps(self) -> None:
        lamp = Lamp()
        for frame, level in (
            (0x06C8, 200),  # DAPC 200
            (0x0703, 201),  # STEP UP
            (0x0704, 200),  # STEP DOWN
            (0x0705, 254),  # RECALL MAX
            (0x0706, 1),  # RECALL MIN
            (0x0707, 0),  # STEP DOWN AND OFF
            (0x0708, 1),  # ON AND STEP UP
            (0x0700, 0),  # OFF
            (0x0703, 0),  # STEP UP does not switch on
            (0x070A, 1),  # GO TO LAST ACTIVE LEVEL
        ):
            lamp.hear(frame)
            assert lamp.level == level, hex(frame)
            assert lamp.hear(0x07A0) == level

    def test_levels_outside_the_limits_are_clamped_and_flagged(self) -> None:
        lamp = Lamp(physical_minimum=85)
        lamp.hear(0x0600 | 20)
        assert lamp.level == 85
        assert lamp.status & 0x08
        lamp.hear(0x06C8)
        assert not lamp.status & 0x08

    def test_max_and_min_level_bound_what_follows(self) -> None:
        lamp = Lamp()
        lamp.hear(0x06FE)
        lamp.configure(0x2A, 220)
        assert lamp.level == 220
        lamp.configure(0x2B, 100)
        lamp.hear(0x0600 | 50)
        assert lamp.level == 100
        assert (lamp.hear(0x07A1), lamp.hear(0x07A2)) == (220, 100)

    def test_level_changes_count_only_new_targets(self) -> None:
        lamp = Lamp()
        lamp.hear(0x06C8, 0x06C8, 0x0664, 0x0664, 0x0700)
        assert lamp.gear.level_changes == 3

    def test_mask_stops_a_fade(self) -> None:
        lamp = Lamp()
        lamp.configure(0x2E, 4)
        lamp.hear(0x06FE)
        lamp.wait(1.0)
        lamp.hear(0x06FF)
        stopped = lamp.level
        assert 0 < stopped < 254
        lamp.wait(5.0)
        assert lamp.level == stopped

    @given(st.lists(st.integers(0, 0xFFFF), max_size=60))
    def test_no_frame_breaks_a_gear(self, frames: list[int]) -> None:
        lamp = Lamp(physical_minimum=85)
        for frame in frames:
            value = lamp.hear(frame)
            assert value is None or 0 <= value <= 255
        assert lamp.level == 0 or 85 <= lamp.level <= 254


class TestFades:
    @pytest.mark.parametrize(("code", "seconds"), [(1, 0.7), (4, 2.0), (8, 8.0), (15, 90.5)])
    def test_a_fade_passes_the_levels_between_in_its_time(self, code: int, seconds: float) -> None:
        lamp = Lamp()
        lamp.hear(0x0600 | 100)
        lamp.configure(0x2E, code)
        lamp.hear(0x0600 | 200)
        started_s = lamp.now_s
        assert lamp.gear.level(started_s + seconds / 2) == 150
        assert lamp.gear.fading(started_s + 0.99 * seconds)
        assert not lamp.gear.fading(started_s + seconds)
        assert lamp.gear.level(started_s + seconds) == 200

    def test_query_actual_level_and_status_show_a_running_fade(self) -> None:
        lamp = Lamp()
        lamp.hear(0x0600 | 100)
        lamp.configure(0x2E, 4)
        lamp.hear(0x0600 | 200)
        assert lamp.status & 0x10
        lamp.wait(1.0)
        level = lamp.hear(0x07A0)
        assert level is not None
        assert 145 <= level <= 160
        lamp.wait(2.0)
        assert lamp.hear(0x07A0) == 200
        assert not lamp.status & 0x10

    def test_a_fade_to_off_goes_through_the_minimum(self) -> None:
        lamp = Lamp(physical_minimum=85)
        lamp.hear(0x06FE)
        lamp.configure(0x2E, 4)
        lamp.hear(0x0600)
        lamp.wait(1.95)
        assert 85 <= lamp.level <= 95
        lamp.wait(0.1)
        assert lamp.level == 0

    def test_extended_fade_time_counts_when_fade_time_is_0(self) -> None:
        lamp = Lamp()
        lamp.hear(0x0601)
        lamp.configure(0x30, 0x24)  # 5 × 1 s
        lamp.hear(0x06FE)
        lamp.wait(4.9)
        assert lamp.gear.fading(lamp.now_s)
        lamp.wait(0.2)
        assert lamp.level == 254

    def test_up_dims_for_200_ms_at_the_fade_rate(self) -> None:
        lamp = Lamp()
        lamp.hear(0x0600 | 100)
        lamp.hear(0x0701)  # rate 7: 44.7 levels/s
        lamp.wait(0.3)
        assert lamp.level == 109
        lamp.hear(0x0702)
        lamp.wait(0.3)
        assert lamp.level == 100


class TestConfiguration:
    def test_a_configuration_command_heard_once_does_nothing(self) -> None:
        lamp = Lamp()
        lamp.hear(0xA305, 0x072E)
        assert lamp.hear(0x07A5) == 0x07

    @pytest.mark.parametrize(("pause_s", "taken"), [(0.099, True), (0.101, False)])
    def test_the_second_frame_must_come_within_100_ms(self, pause_s: float, *, taken: bool) -> None:
        lamp = Lamp()
        lamp.hear(0xA305, 0x072E)
        lamp.dialogue.hear(0x072E, lamp.now_s + pause_s + FRAME_S)
        assert (lamp.gear.settings.fade_time == 5) == taken

    def test_another_frame_in_between_undoes_the_first(self) -> None:
        lamp = Lamp()
        lamp.hear(0xA305, 0x072E)
        lamp.dialogue.hear(0x0790, lamp.now_s + 0.020)
        lamp.dialogue.hear(0x072E, lamp.now_s + 0.040)
        assert lamp.gear.settings.fade_time == 0

    def test_groups_scenes_and_their_queries(self) -> None:
        lamp = Lamp()
        lamp.configure(0x62)
        lamp.configure(0x6A)
        lamp.configure(0x47, 180)
        assert (lamp.hear(0x07C0), lamp.hear(0x07C1), lamp.hear(0x07B7)) == (0x04, 0x04, 180)
        lamp.hear(0x8517)  # GO TO SCENE 7, group 2
        assert lamp.level == 180
        lamp.hear(0x8464)  # DAPC group 2
        assert lamp.level == 100
        lamp.hear(0x8664)  # group 3: not ours
        lamp.configure(0x72)
        lamp.configure(0x57)
        lamp.hear(0x84FE, 0xFF17)
        assert lamp.level == 100
        assert (lamp.hear(0x07C0), lamp.hear(0x07B7)) == (0, 255)

    def test_reset_state_and_reset(self) -> None:
        lamp = Lamp()
        assert lamp.status & 0x20
        lamp.configure(0x2D, 100)
        assert not lamp.status & 0x20
        lamp.configure(0x20)
        assert lamp.status & 0x20
        assert lamp.gear.settings.short_address == 3

    def test_a_gear_without_short_address_hears_broadcasts_only(self) -> None:
        lamp = Lamp()
        lamp.configure(0x80, 255)
        assert lamp.hear(0x0790) is None
        status = lamp.hear(0xFF90)
        assert status is not None
        assert status & 0x40
        lamp.hear(0xFCC8)  # DAPC broadcast unaddressed
        assert lamp.level == 200
        lamp.hear(0xA300 | (9 << 1 | 1), 0xFF80, 0xFF80)
        assert lamp.hear(0x1391) == 0xFF

    def test_other_addresses_are_not_ours(self) -> None:
        lamp = Lamp()
        lamp.hear(0x08C8, 0x0905, 0x80C8)
        assert lamp.level == 0
        assert lamp.hear(0x0990) is None


class TestQueries:
    def test_one_type_is_said_at_once_several_step_by_step(self) -> None:
        assert Lamp(device_types=(6,)).hear(0x0799) == 6
        lamp = Lamp(device_types=(6, 51, 52))
        assert lamp.hear(0x0799) == 255
        assert [lamp.hear(0x07A7) for _ in range(5)] == [6, 51, 52, 254, None]
        assert lamp.hear(0x0799) == 255
        assert lamp.hear(0x07A7) == 6

    def test_yes_and_silence(self) -> None:
        lamp = Lamp()
        assert lamp.hear(0x0791) == 0xFF
        assert (lamp.hear(0x0792), lamp.hear(0x0793)) == (None, None)
        lamp.hear(0x06FE)
        assert lamp.hear(0x0793) == 0xFF

    def test_dtrs_are_heard_by_all_and_read_back(self) -> None:
        lamp = Lamp()
        lamp.hear(0xA311, 0xC322, 0xC533)
        assert (lamp.hear(0x0798), lamp.hear(0x079C), lamp.hear(0x079D)) == (0x11, 0x22, 0x33)

    def test_led_commands_need_their_device_type_just_before(self) -> None:
        lamp = Lamp()
        assert lamp.hear(0x07EE) is None
        assert lamp.hear(0xC106, 0x07EE) == 0
        assert lamp.hear(0xC106, 0x0790, 0x07EE) is None
        assert lamp.hear(0xC108, 0x07EE) is None

    def test_the_linear_curve_makes_other_light_of_the_same_level(self) -> None:
        lamp = Lamp()
        lamp.hear(0x0600 | 127)
        logarithmic_w = lamp.gear.power_w(lamp.now_s)
        lamp.hear(0xA301, 0xC106, 0x07E3, 0x07E3)
        assert lamp.hear(0xC106, 0x07EE) == 1
        linear_w = lamp.gear.power_w(lamp.now_s)
        assert logarithmic_w == pytest.approx(0.5 + 49.5 * 0.0309, rel=0.05)
        assert linear_w == pytest.approx(0.5 + 49.5 * 0.5, rel=0.05)

    def test_a_general_setter_after_enable_device_type_still_works(self) -> None:
        lamp = Lamp()
        lamp.hear(0xA303, 0xC106, 0x072E, 0x072E)
        assert lamp.gear.settings.fade_time == 3


class TestFaults:
    def test_an_open_circuit_shows_in_status_power_and_level(self) -> None:
        lamp = Lamp()
        lamp.hear(0x06FE)
        lamp.gear.set_fault(LampFault.LAMP_FAILURE, FaultSettings(), lamp.now_s)
        assert lamp.status & 0x06 == 0x02
        assert lamp.hear(0x0792) == 0xFF
        assert lamp.hear(0x07A0) == 255
        assert lamp.hear(0xC106, 0x07F1) == 0b10
        assert lamp.gear.power_w(lamp.now_s) == 0.5
        lamp.gear.clear_fault(LampFault.LAMP_FAILURE, lamp.now_s)
        assert lamp.status & 0x06 == 0x04
        assert lamp.hear(0x07A0) == 254

    def test_a_failed_gear_says_so_and_still_answers(self) -> None:
        lamp = Lamp()
        lamp.gear.set_fault(LampFault.GEAR_FAILURE, FaultSettings(), lamp.now_s)
        assert lamp.status & 0x01
        assert lamp.hear(0x07AA) == 0xFF


class TestSupply:
    def test_after_a_power_cut_the_power_on_level_is_taken_and_the_cut_is_told(self) -> None:
        lamp = Lamp()
        lamp.configure(0x2D, 120)
        lamp.hear(0x06FE)
        lamp.gear.set_powered(powered=False, at_s=lamp.now_s)
        lamp.dialogue.power_lost()
        assert lamp.gear.power_w(lamp.now_s) == 0
        lamp.wait(10.0)
        lamp.gear.set_powered(powered=True, at_s=lamp.now_s)
        assert lamp.level == 0
        lamp.wait(0.7)
        assert lamp.level == 120
        assert lamp.status & 0x80
        assert lamp.hear(0x079B) == 0xFF
        lamp.hear(0x06C8)
        assert not lamp.status & 0x80

    def test_mask_as_power_on_level_is_the_level_before(self) -> None:
        lamp = Lamp()
        lamp.configure(0x2D, 255)
        lamp.hear(0x0600 | 77)
        lamp.gear.set_powered(powered=False, at_s=lamp.now_s)
        lamp.gear.set_powered(powered=True, at_s=lamp.now_s + 1)
        lamp.wait(2.0)
        assert lamp.level == 77

    def test_a_command_in_time_replaces_the_power_on_level(self) -> None:
        lamp = Lamp()
        lamp.gear.set_powered(powered=False, at_s=lamp.now_s)
        lamp.gear.set_powered(powered=True, at_s=lamp.now_s)
        lamp.hear(0x0632)
        lamp.wait(2.0)
        assert lamp.level == 50

    def test_the_failure_level_is_a_setting(self) -> None:
        lamp = Lamp()
        lamp.configure(0x2C, 90)
        lamp.gear.set_bus_voltage(present=False, at_s=lamp.now_s)
        assert lamp.gear.level(lamp.now_s + 0.54) == 0
        assert lamp.gear.level(lamp.now_s + 0.56) == 90


class TestMemory:
    def read(self, lamp: Lamp, bank: int, first: int, count: int) -> list[int | None]:
        lamp.hear(0xC300 | bank, 0xA300 | first)
        return [lamp.hear(0x07C5) for _ in range(count)]

    def test_bank_0_identifies_the_gear(self) -> None:
        lamp = Lamp()
        assert self.read(lamp, 0, 0x00, 3) == [0x1A, None, 202]
        assert self.read(lamp, 0, 0x03, 6) == [1, 2, 3, 4, 5, 6]
        assert self.read(lamp, 0, 0x0B, 8) == [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]
        assert self.read(lamp, 0, 0x1A, 2) == [0, None]

    def test_reading_moves_dtr0_on_and_stops_at_ff(self) -> None:
        lamp = Lamp()
        self.read(lamp, 0, 0x03, 4)
        assert lamp.hear(0x0798) == 0x07
        self.read(lamp, 202, 0xFE, 4)
        assert lamp.hear(0x0798) == 0xFF

    def test_an_absent_bank_does_not_answer(self) -> None:
        lamp = Lamp()
        assert self.read(lamp, 99, 0, 1) == [None]
        assert lamp.hear(0x0798) == 0

    def test_bank_202_counts_the_energy_in_tenths(self) -> None:
        lamp = Lamp()
        lamp.hear(0x06FE)
        lamp.wait(7200)
        content = self.read(lamp, 202, 0x03, 13)
        assert content[0] == 1
        assert content[1] == content[8] == 0xFF  # 10^-1
        energy = int.from_bytes(bytes(byte or 0 for byte in content[2:8]), "big")
        power = int.from_bytes(bytes(byte or 0 for byte in content[9:13]), "big")
        assert energy == pytest.approx(1000, abs=2)
        assert power == 500

    def test_a_latch_holds_all_bytes_of_one_moment(self) -> None:
        lamp = Lamp()
        lamp.hear(0x06FE)
        lamp.configure(0x81)
        lamp.hear(0xC300 | 202, 0xA302, 0xC9AA)
        latched = self.read(lamp, 202, 0x02, 14)
        assert latched[0] == 0xAA
        lamp.wait(3600)
        assert self.read(lamp, 202, 0x02, 14) == latched
        lamp.configure(0x81)
        lamp.hear(0xC300 | 202, 0xA302)
        assert lamp.hear(0xC7FF) == 0xFF
        assert self.read(lamp, 202, 0x02, 14) != latched

    def test_nothing_is_written_without_enable_write_memory(self) -> None:
        lamp = Lamp()
        lamp.hear(0xC300 | 202, 0xA302)
        assert lamp.hear(0xC7AA) is None
        assert self.read(lamp, 202, 0x02, 1) == [0xFF]
