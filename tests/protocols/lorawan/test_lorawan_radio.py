"""Time on air, the region's rules, the duty cycle, adaptive data rate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError
from protocols.lorawan.adr import HISTORY, Heard, Link, advise
from protocols.lorawan.airtime import Fsk, Lora, time_on_air_us
from protocols.lorawan.ledger import HOUR_MS, Entry, Ledger, Stamp, age_ms
from protocols.lorawan.region import EU868, REGIONS, SubBand, floor_db


class TestAirtime:
    """The table of Semtech's formula at 125 kHz, coding rate 4/5, with the payload's CRC."""

    @pytest.mark.parametrize(
        ("spreading", "length", "us"),
        [
            (7, 13, 46_336),
            (7, 23, 61_696),
            (7, 64, 118_016),
            (9, 13, 164_864),
            (9, 23, 205_824),
            (9, 64, 390_144),
            (12, 13, 1_155_072),
            (12, 23, 1_482_752),
            (12, 64, 2_793_472),
        ],
    )
    def test_it_is_exact(self, spreading: int, length: int, us: int) -> None:
        assert time_on_air_us(Lora(spreading, 125_000), length, crc=True) == us

    def test_a_join_accept_has_no_crc(self) -> None:
        assert time_on_air_us(Lora(12, 125_000), 33, crc=False) == 1_810_432

    @pytest.mark.parametrize(("spreading", "frames"), [(7, 583), (9, 174), (12, 24)])
    def test_so_many_frames_of_23_bytes_fit_into_an_hour_at_one_per_cent(
        self, spreading: int, frames: int
    ) -> None:
        assert 36_000_000 // time_on_air_us(Lora(spreading, 125_000), 23, crc=True) == frames

    def test_twice_the_bandwidth_is_half_the_time(self) -> None:
        assert 2 * time_on_air_us(Lora(7, 250_000), 23, crc=True) == 61_696

    def test_fsk_counts_its_preamble_and_checksum(self) -> None:
        assert time_on_air_us(Fsk(50_000), 20, crc=True) == (20 + 11) * 160

    def test_a_frame_of_nothing_still_has_a_header(self) -> None:
        assert time_on_air_us(Lora(12, 125_000), 0, crc=False) > 0


class TestRegion:
    """EU863-870: regional parameters 1.0.3 rev A, 2.2."""

    def test_data_rates_are_known_by_their_modulation(self) -> None:
        assert EU868.number_of(Lora(12, 125_000)) == 0
        assert EU868.number_of(Lora(7, 125_000)) == 5
        assert EU868.number_of(Lora(7, 250_000)) == 6
        assert EU868.number_of(Fsk(50_000)) == 7
        assert EU868.number_of(Lora(12, 500_000)) is None

    @pytest.mark.parametrize(
        ("uplink", "offset", "down"), [(5, 0, 5), (5, 5, 0), (3, 1, 2), (0, 5, 0), (7, 2, 5)]
    )
    def test_rx1_is_the_uplinks_data_rate_less_the_offset(self, uplink: int, offset: int, down: int) -> None:
        assert EU868.rx1_data_rate(uplink, offset) == down

    @pytest.mark.parametrize(("uplink", "offset"), [(8, 0), (-1, 0), (0, 6), (0, -1)])
    def test_there_is_no_rx1_for_what_is_not_there(self, uplink: int, offset: int) -> None:
        with pytest.raises(LocalProtocolError):
            EU868.rx1_data_rate(uplink, offset)

    @pytest.mark.parametrize("hz", EU868.channels_hz)
    def test_every_channel_may_hold_one_per_cent(self, hz: int) -> None:
        band = EU868.sub_band(hz, Lora(7, 125_000))
        assert band is not None
        assert (band.share, band.eirp_dbm) == (0.01, 16.0)

    def test_rx2_may_hold_ten_per_cent_and_be_louder(self) -> None:
        band = EU868.sub_band(EU868.rx2_hz, Lora(12, 125_000))
        assert band is not None
        assert (band.share, band.eirp_dbm) == (0.1, 29.0)

    @pytest.mark.parametrize("hz", [868_650_000, 867_950_000, 869_300_000, 433_000_000, 868_000_000])
    def test_nothing_is_sent_where_a_transmission_does_not_fit_into_a_sub_band(self, hz: int) -> None:
        assert EU868.sub_band(hz, Lora(7, 250_000)) is None

    def test_fsk_has_a_width_too(self) -> None:
        assert EU868.sub_band(868_800_000, Fsk(50_000)) is not None
        assert EU868.sub_band(868_010_000, Fsk(50_000)) is None

    def test_the_floor_falls_by_two_and_a_half_decibels_a_step(self) -> None:
        assert [floor_db(rate.modulation) for rate in EU868.data_rates] == [
            -20.0,
            -17.5,
            -15.0,
            -12.5,
            -10.0,
            -7.5,
            -7.5,
            0.0,
        ]

    def test_regions_are_known_by_name(self) -> None:
        assert REGIONS["EU868"] is EU868


ONE_PER_CENT = SubBand("a", 0, 1, 0.01, 16.0)
OTHER = SubBand("b", 1, 2, 0.001, 16.0)


class TestLedger:
    """Any hour, wherever it begins, holds at most its share."""

    def test_it_refuses_rather_than_exceeds(self) -> None:
        ledger = Ledger()
        assert ledger.reserve(ONE_PER_CENT, 36_000_000, 0, 0) is not None
        assert ledger.reserve(ONE_PER_CENT, 1, 1000, 1000) is None
        assert ledger.used_us("a") == 36_000_000

    def test_sub_bands_have_books_of_their_own(self) -> None:
        ledger = Ledger()
        assert ledger.reserve(ONE_PER_CENT, 36_000_000, 0, 0) is not None
        assert ledger.reserve(OTHER, 3_600_000, 0, 0) is not None
        assert ledger.reserve(OTHER, 1, 0, 0) is None

    def test_what_is_over_for_an_hour_is_forgotten_and_not_a_moment_before(self) -> None:
        ledger = Ledger()
        entry = ledger.reserve(ONE_PER_CENT, 36_000_000, 0, 0)
        assert entry is not None
        assert (
            ledger.reserve(ONE_PER_CENT, 1000, entry.end_ms + HOUR_MS - 1, entry.end_ms + HOUR_MS - 1) is None
        )
        assert ledger.reserve(ONE_PER_CENT, 1000, entry.end_ms + HOUR_MS, entry.end_ms + HOUR_MS) is not None

    def test_what_was_not_sent_is_given_back_once(self) -> None:
        ledger = Ledger()
        first = ledger.reserve(ONE_PER_CENT, 20_000_000, 0, 0)
        assert first is not None
        ledger.release(first)
        ledger.release(first)
        ledger.release(Entry("nowhere", 0, 1))
        assert ledger.used_us("a") == 0

    def test_what_an_earlier_run_sent_still_counts(self) -> None:
        ledger = Ledger()
        ledger.restore([Entry("a", 5_000, 35_000_000), Entry("b", 5_000, 1)])
        assert ledger.reserve(ONE_PER_CENT, 2_000_000, 10_000, 10_000) is None
        assert ledger.reserve(ONE_PER_CENT, 1_000_000, 10_000, 10_000) is not None

    @given(
        sent=st.lists(
            st.tuples(st.integers(0, 1_000_000), st.integers(1, 3_000_000), st.integers(0, 6_000)),
            max_size=80,
        )
    )
    def test_no_hour_ever_holds_more(self, sent: list[tuple[int, int, int]]) -> None:
        """Windows are reserved up to 6 s ahead and out of order, over many hours."""
        ledger, now_ms, on_air = Ledger(), 0, []
        for pause_ms, airtime_us, ahead_ms in sent:
            now_ms += pause_ms
            entry = ledger.reserve(ONE_PER_CENT, airtime_us, now_ms + ahead_ms, now_ms)
            if entry is not None:
                on_air.append((now_ms + ahead_ms, entry))
        for begin, _ in on_air:
            held = sum(e.airtime_us for start, e in on_air if begin <= start and e.end_ms <= begin + HOUR_MS)
            assert held <= 36_000_000

    def test_an_age_is_believed_only_where_it_is_proved(self) -> None:
        then = Stamp("boot-1", 1000, 50_000)
        assert age_ms(then, Stamp("boot-1", 4000, None)) == 3000
        assert age_ms(then, Stamp("boot-1", 500, 90_000)) == 0
        assert age_ms(then, Stamp("boot-2", 9_000_000, 90_000)) == 40_000
        assert age_ms(then, Stamp("boot-2", 9_000_000, 10_000)) == 0
        assert age_ms(then, Stamp("boot-2", 9_000_000, None)) == 0
        assert age_ms(Stamp("", 0, None), Stamp("", 9_000_000, 9_000_000)) == 0


def uplinks(snr_db: float, count: int = HISTORY, every: int = 1) -> list[Heard]:
    return [Heard(number * every, snr_db) for number in range(count)]


class TestAdr:
    """The recommended algorithm: 10 dB in reserve, steps of 3 dB, data rate before power."""

    def test_what_is_heard_well_speaks_faster(self) -> None:
        assert advise(EU868, Link(0), uplinks(-4.0)) == Link(2)

    def test_what_is_heard_very_well_speaks_more_quietly_too(self) -> None:
        assert advise(EU868, Link(0), uplinks(11.0)) == Link(5, 2)
        assert advise(EU868, Link(5), uplinks(60.0)) == Link(5, 7)

    def test_what_is_heard_badly_gets_its_power_back_but_no_slower_rate(self) -> None:
        assert advise(EU868, Link(5, 3), uplinks(-4.0)) == Link(5, 1)
        assert advise(EU868, Link(5, 1), uplinks(-20.0)) == Link(5, 0)

    def test_power_goes_up_only_after_a_full_history(self) -> None:
        assert advise(EU868, Link(5, 3), uplinks(-4.0, HISTORY - 1)) == Link(5, 3)

    def test_a_margin_of_less_than_a_step_changes_nothing(self) -> None:
        assert advise(EU868, Link(3, 1), uplinks(-0.1)) == Link(3, 1)
        assert advise(EU868, Link(3, 1), uplinks(-5.0)) == Link(3, 1)

    def test_nothing_heard_is_nothing_known(self) -> None:
        assert advise(EU868, Link(3, 1, 2), []) == Link(3, 1, 2)

    def test_what_is_faster_than_adr_may_set_is_left_alone(self) -> None:
        assert advise(EU868, Link(6), uplinks(30.0)) == Link(6)

    @pytest.mark.parametrize(
        ("now", "sent", "then"),
        [(1, 20, 1), (2, 20, 1), (3, 20, 2), (1, 22, 1), (2, 22, 2), (1, 28, 2), (1, 40, 3), (3, 40, 3)],
    )
    def test_losses_are_met_with_repetitions(self, now: int, sent: int, then: int) -> None:
        history = [Heard(0, -2.5), *(Heard(sent - HISTORY + n, -2.5) for n in range(1, HISTORY))]
        assert advise(EU868, Link(3, 0, now), history).nb_trans == then

    @given(
        rate=st.integers(0, 7),
        power=st.integers(0, 7),
        repeats=st.integers(0, 15),
        snr=st.floats(-250, 250),
        count=st.integers(0, 20),
    )
    def test_advice_is_always_something_that_can_be_sent(
        self, rate: int, power: int, repeats: int, snr: float, count: int
    ) -> None:
        advised = advise(EU868, Link(rate, power, repeats), uplinks(snr, count))
        assert rate <= advised.data_rate <= 7
        assert 0 <= advised.power_index <= 7
        assert 0 <= advised.nb_trans <= 15
