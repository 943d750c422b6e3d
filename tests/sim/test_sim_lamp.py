"""The lamp's physics: dimming curve, power, warm-up, energy, burning hours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.banks import Identity
from sim.gear import ControlGear, GearDesign
from sim.lamp import COLD_EXCESS, WARM_UP_S, DimmingCurve, LampRating, LedLamp, light_share


@pytest.mark.parametrize(
    ("level", "percent"),
    [
        (0, 0),
        (1, 0.1),
        (85, 1.0),
        (126, 3.0),
        (170, 10),
        (195, 20),
        (210, 30),
        (221, 41),
        (229, 50),
        (254, 100),
    ],
)
def test_the_logarithmic_curve_is_the_table_of_the_standard(level: int, percent: float) -> None:
    """Reference, lighting §2, rounded there to two digits."""
    assert 100 * light_share(level, DimmingCurve.LOGARITHMIC) == pytest.approx(percent, rel=0.02)


def test_the_linear_curve_is_linear() -> None:
    assert light_share(127, DimmingCurve.LINEAR) == 0.5


def test_a_cold_lamp_draws_more_and_settles_within_tens_of_seconds() -> None:
    lamp = LedLamp(LampRating(50.0, 0.5))
    cold_w = lamp.power_w(1.0, fed=True)
    lamp.advance(60.0, 1.0, fed=True)
    assert cold_w == pytest.approx(0.5 + 49.5 * (1 + COLD_EXCESS))
    assert lamp.power_w(1.0, fed=True) == pytest.approx(50.0, rel=0.003)


def test_warming_up_costs_the_excess_for_one_time_constant() -> None:
    lamp = LedLamp(LampRating(50.0, 0.5))
    lamp.advance(3600, 1.0, fed=True)
    assert lamp.energy_wh == pytest.approx(50.0 + 49.5 * COLD_EXCESS * WARM_UP_S / 3600, abs=1e-9)


def test_a_dark_lamp_draws_standby_and_an_unfed_one_nothing() -> None:
    lamp = LedLamp(LampRating(50.0, 0.5))
    lamp.advance(3600, 0.0, fed=True)
    assert lamp.energy_wh == pytest.approx(0.5)
    lamp.advance(3600, 0.0, fed=False)
    assert lamp.energy_wh == pytest.approx(0.5)
    assert lamp.power_w(0.0, fed=False) == 0.0
    assert lamp.burning_s == 0


@given(st.lists(st.floats(0.01, 5000), min_size=1, max_size=20), st.floats(0.01, 1.0))
def test_energy_does_not_depend_on_how_often_one_looks(steps: list[float], light: float) -> None:
    often, once = LedLamp(LampRating()), LedLamp(LampRating())
    for step in steps:
        often.advance(step, light, fed=True)
    once.advance(sum(steps), light, fed=True)
    assert often.energy_wh == pytest.approx(once.energy_wh)
    assert often.burning_s == pytest.approx(once.burning_s)


def test_a_fade_costs_the_energy_of_the_levels_it_passes() -> None:
    def burned(looks: int) -> float:
        gear = ControlGear(
            0,
            design=GearDesign(physical_minimum=1),
            identity=Identity(1, 1),
            level=254,
            civil_s=float,
            at_s=0.0,
        )
        gear.go_to(1, 0.0, 90.0)
        for look in range(looks):
            gear.catch_up(90.0 * (look + 1) / looks)
        return gear.lamp.energy_wh

    assert burned(1) == pytest.approx(burned(900), rel=0.01)
    assert burned(1) < 0.25 * 50 * 90 / 3600


def test_hours_and_energy_run_in_civil_time_and_fades_in_real_time() -> None:
    gear = ControlGear(
        0,
        design=GearDesign(physical_minimum=1),
        identity=Identity(1, 1),
        level=1,
        civil_s=lambda at_s: 60 * at_s,
        at_s=0.0,
    )
    gear.go_to(254, 0.0, 10.0)
    assert gear.fading(9.9)
    assert not gear.fading(10.0)
    gear.catch_up(60.0)
    assert gear.lamp.burning_s == pytest.approx(3600)
