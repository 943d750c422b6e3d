"""Profiles and addresses: points that stay the same whether or not a device has spoken."""

import pytest

from protocols.ble.address import address_bytes, is_address
from protocols.ble.profiles import PROFILES, Format, profile_named
from protocols.errors import LocalProtocolError
from protocols.model.device import Report


@pytest.mark.parametrize("name", PROFILES)
def test_each_profile_has_points_of_its_own(name: str) -> None:
    profile = profile_named(name)
    names = [expected.point.name for expected in profile.expected]
    assert profile.name == name
    assert names
    assert len(set(names)) == len(names)
    assert profile.format is (Format.EDDYSTONE if name == "eddystone" else Format.BTHOME)


def test_each_press_of_a_button_is_kept() -> None:
    by_name = {one.point.name: one for one in profile_named("bthome-buttons-4").expected}
    assert {str(name) for name, one in by_name.items() if one.report is Report.EACH} == {
        "button",
        "button_2",
        "button_3",
        "button_4",
    }


def test_units_and_bounds_are_those_of_the_format() -> None:
    point = profile_named("bthome-air").expected[2].point
    assert (point.name, point.unit) == ("pm2_5", "ug/m3")
    battery = profile_named("bthome-door").expected[-1].point
    assert (battery.unit, battery.maximum) == ("%", 100)


def test_an_unknown_profile_is_named_with_those_there_are() -> None:
    with pytest.raises(LocalProtocolError, match="bthome-thermometer"):
        profile_named("bthome-toaster")


def test_an_address_is_six_bytes_in_lower_case() -> None:
    assert address_bytes("a4:c1:38:8d:18:b2") == bytes.fromhex("a4c1388d18b2")
    for wrong in ("A4:C1:38:8D:18:B2", "a4:c1:38:8d:18", "a4:c1:38:8d:18:b2\n", "", 7, None):
        assert not is_address(wrong)
    with pytest.raises(LocalProtocolError, match="lower case"):
        address_bytes("A4:C1:38:8D:18:B2")
