"""Daylight follows the sun at Dijon; the meter adds up the lamps."""

import struct
from datetime import UTC, date, datetime, timedelta

import pytest
from astral import Observer
from astral.sun import sunset
from hypothesis import given
from hypothesis import strategies as st

from sim.banks import Identity
from sim.faults import FaultSettings, LuxFault
from sim.gear import ControlGear, GearDesign
from sim.lux import NIGHT_LX, LuxSensor, illuminance_lx, sun_elevation_deg
from sim.meter import MAX_REGISTERS, Feed, Meter, StreetFeed
from sim.registers import ExceptionCode, Refusal, Span, Table

LATITUDE, LONGITUDE = 47.32, 5.04


def utc_ms(year: int, month: int, day: int) -> int:
    return round(datetime(year, month, day, tzinfo=UTC).timestamp() * 1000)


class TestDaylight:
    def test_hours_of_night_are_those_of_the_reference(self) -> None:
        """Reference, centre §7: hours a year with the sun below −0.83°, −2°, −3°, −4°, −6°; within 1.5 %."""
        step = timedelta(minutes=30)
        start = datetime(2026, 1, 1, tzinfo=UTC)
        heights = [
            sun_elevation_deg(LATITUDE, LONGITUDE, round((start + index * step).timestamp() * 1000))
            for index in range(365 * 48)
        ]
        for limit_deg, hours in ((-0.83, 4232), (-2, 4148), (-3, 4071), (-4, 3992), (-6, 3832)):
            below = sum(height < limit_deg for height in heights) / 2
            assert below == pytest.approx(hours, rel=0.015), limit_deg

    @pytest.mark.parametrize(("month", "declination_deg"), [(6, 23.44), (12, -23.44)])
    def test_at_the_solstices_the_noon_sun_stands_at_the_colatitude_and_the_tilt(
        self, month: int, declination_deg: float
    ) -> None:
        day_ms = utc_ms(2026, month, 21)
        minutes = range(0, 24 * 60, 5)
        highest = max(sun_elevation_deg(LATITUDE, LONGITUDE, day_ms + 60_000 * each) for each in minutes)
        assert highest == pytest.approx(90 - LATITUDE + declination_deg, abs=0.05)

    @pytest.mark.parametrize("month", [1, 4, 7, 10])
    def test_at_sunset_the_upper_edge_touches_the_horizon(self, month: int) -> None:
        """By definition: 34′ of refraction and 16′ of radius below, geometrically."""
        moment = sunset(Observer(LATITUDE, LONGITUDE), date(2026, month, 15), tzinfo=UTC)
        height = sun_elevation_deg(LATITUDE, LONGITUDE, round(moment.timestamp() * 1000))
        assert height == pytest.approx(-0.83, abs=0.1)

    @pytest.mark.parametrize(
        ("elevation_deg", "lux"), [(60, 105_000), (-0.83, 450), (-6, 3.4), (-30, NIGHT_LX), (-90, NIGHT_LX)]
    )
    def test_illuminance_at_known_heights(self, elevation_deg: float, lux: float) -> None:
        assert illuminance_lx(elevation_deg) == pytest.approx(lux)

    @given(st.floats(-90, 90), st.floats(-90, 90))
    def test_more_sun_is_never_less_light(self, one: float, other: float) -> None:
        low, high = sorted((one, other))
        assert NIGHT_LX <= illuminance_lx(low) <= illuminance_lx(high) <= 130_000

    def test_the_sensor_gives_tenths_of_a_lux_high_word_first(self) -> None:
        sensor = LuxSensor(lambda: 60.0)
        high, low = sensor.device.read(Table.INPUT_REGISTERS, Span(0, 2))
        assert (high << 16 | low) == 1_050_000
        assert sensor.device.read(Table.INPUT_REGISTERS, Span(1, 1)) == (low,)

    def test_stuck_drift_and_clouds(self) -> None:
        height = [10.0]
        sensor = LuxSensor(lambda: height[0])
        morning_lx = sensor.reading_lx()
        sensor.set_fault(LuxFault.STUCK, FaultSettings())
        height[0] = 60.0
        assert sensor.reading_lx() == morning_lx
        sensor.board.clear(LuxFault.STUCK)
        sensor.set_fault(LuxFault.DRIFT, FaultSettings(factor=2.0))
        assert sensor.reading_lx() == pytest.approx(210_000)
        sensor.board.clear(LuxFault.DRIFT)
        sensor.sky = 0.1
        assert sensor.reading_lx() == pytest.approx(10_500)


def lamps(count: int) -> list[ControlGear]:
    design = GearDesign(physical_minimum=1)
    return [
        ControlGear(
            address,
            design=design,
            identity=Identity(1, address),
            level=0,
            civil_s=lambda at_s: 60 * at_s,
            at_s=0.0,
        )
        for address in range(count)
    ]


def read_float(meter: Meter, address: int) -> float:
    words = meter.device.read(Table.INPUT_REGISTERS, Span(address, 2))
    (value,) = struct.unpack(">f", struct.pack(">HH", *words))
    assert isinstance(value, float)
    return value


class TestMeter:
    def test_it_adds_up_the_lamps_and_the_base_load(self) -> None:
        street = lamps(24)
        now_s = [0.0]
        feed = StreetFeed(street, base_load_w=15.0, start_kwh=100.0, civil_s=lambda at_s: 60 * at_s, at_s=0.0)
        meter = Meter(lambda: feed.measure(now_s[0]))
        for gear in street[:12]:
            gear.request(254, 0.0, 0.0)
        now_s[0] = 60.0  # one civil hour
        lamps_w = sum(gear.power_w(60.0) for gear in street)
        assert read_float(meter, 0x34) == pytest.approx(lamps_w + 15.0)
        assert lamps_w == pytest.approx(12 * 50.0 + 12 * 0.5)
        assert read_float(meter, 0x48) == pytest.approx(100.0 + (606 + 15) / 1000, abs=0.01)
        lamps_wh = sum(gear.lamp.energy_wh for gear in street)
        assert feed.measure(60.0).energy_kwh == pytest.approx(100.0 + (lamps_wh + 15.0) / 1000)

    def test_phases_add_up_and_fit_together(self) -> None:
        meter = Meter(lambda: Feed((500.0, 300.0, 0.0), 7.5))
        phase_w = [read_float(meter, address) for address in (12, 14, 16)]
        assert phase_w == [500.0, 300.0, 0.0]
        assert read_float(meter, 0x34) == pytest.approx(800.0)
        volts, amperes = read_float(meter, 0), read_float(meter, 6)
        assert 225 < volts < 235
        assert volts * amperes == pytest.approx(read_float(meter, 18), rel=1e-5)
        assert read_float(meter, 0x46) == 50.0
        assert read_float(meter, 0x48) == read_float(meter, 0x156) == 7.5

    def test_gaps_read_zero_and_the_map_ends(self) -> None:
        device = Meter(lambda: Feed((1.0, 1.0, 1.0), 0.0)).device
        assert device.read(Table.INPUT_REGISTERS, Span(0x50, 4)) == [0, 0, 0, 0]
        with pytest.raises(Refusal) as refusal:
            device.read(Table.INPUT_REGISTERS, Span(0x0200, 2))
        assert refusal.value.code is ExceptionCode.ILLEGAL_ADDRESS
        with pytest.raises(Refusal) as refusal:
            device.read(Table.INPUT_REGISTERS, Span(0, MAX_REGISTERS + 1))
        assert refusal.value.code is ExceptionCode.ILLEGAL_VALUE

    def test_without_mains_nothing_flows(self) -> None:
        feed = StreetFeed([], base_load_w=1000.0, start_kwh=0.0, civil_s=float, at_s=0.0)
        feed.set_mains(present=False, at_s=3600.0)
        assert feed.measure(7200.0) == Feed((0.0, 0.0, 0.0), 1.0)
