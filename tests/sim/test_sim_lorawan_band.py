"""Time on air and duty cycle, against the table of the reference and by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.lorawan_band import (
    JOIN_CHANNELS_HZ,
    SUB_BANDS,
    DutyCycle,
    airtime_s,
    max_payload,
    rate_name,
    rate_of,
    sub_band,
)


@pytest.mark.parametrize(
    ("size", "data_rate", "crc", "ms"),
    [
        (13, 5, True, 46.336),
        (23, 5, True, 61.696),
        (64, 5, True, 118.016),
        (13, 3, True, 164.864),
        (23, 3, True, 205.824),
        (64, 3, True, 390.144),
        (13, 0, True, 1155.072),
        (23, 0, True, 1482.752),
        (64, 0, True, 2793.472),
        (13, 5, False, 41.216),  # by hand: one group of five symbols less than with a CRC
        (33, 0, False, 1810.432),  # a join accept with a channel list
    ],
)
def test_time_on_air_is_that_of_the_reference(size: int, data_rate: int, crc: bool, ms: float) -> None:
    assert airtime_s(size, data_rate, crc=crc) * 1000 == pytest.approx(ms, abs=0.001)


@given(size=st.integers(0, 254), data_rate=st.integers(0, 5), crc=st.booleans())
def test_longer_and_slower_frames_take_longer(size: int, data_rate: int, crc: bool) -> None:
    assert airtime_s(size, data_rate, crc=crc) <= airtime_s(size + 1, data_rate, crc=crc)
    assert airtime_s(size, data_rate, crc=crc) > airtime_s(size, data_rate + 1, crc=crc)


def test_names_of_data_rates_go_both_ways() -> None:
    assert [rate_name(rate) for rate in range(7)][::3] == ["SF12BW125", "SF9BW125", "SF7BW250"]
    assert all(rate_of(rate_name(rate)) == rate for rate in range(7))
    assert rate_of("SF13BW125") is None
    assert max_payload(0) == 51


def test_each_channel_lies_in_one_sub_band_or_none() -> None:
    assert {sub_band(channel) for channel in JOIN_CHANNELS_HZ} == {SUB_BANDS[1]}
    assert sub_band(867_100_000) == SUB_BANDS[0]
    assert sub_band(868_000_000) == SUB_BANDS[1]
    assert sub_band(868_650_000) is None


def test_a_transmission_rests_its_sub_band_and_no_other() -> None:
    duty = DutyCycle()
    duty.book(868_100_000, end_s=10.0, time_s=0.1)
    assert duty.free_at_s(868_500_000) == pytest.approx(19.9)
    assert duty.free_at_s(867_100_000) <= 10.0
    when_s, channels = duty.soonest([868_300_000, 868_500_000], 12.0)
    assert (when_s, channels) == (duty.free_at_s(868_500_000), [868_300_000, 868_500_000])
    assert duty.soonest([868_300_000, 867_100_000], 12.0) == (12.0, [867_100_000])


def test_a_limit_of_the_network_rests_everything() -> None:
    duty = DutyCycle()
    duty.aggregate = 1 / 1024
    duty.book(868_100_000, end_s=10.0, time_s=1.0)
    assert duty.free_at_s(867_100_000) == pytest.approx(10.0 + 1023)


def test_beyond_the_band_hardly_anything_is_allowed() -> None:
    duty = DutyCycle()
    assert duty.free_at_s(868_650_000) == -math.inf
    duty.book(868_650_000, end_s=0.0, time_s=1.0)
    assert duty.free_at_s(868_650_000) == pytest.approx(999.0)
