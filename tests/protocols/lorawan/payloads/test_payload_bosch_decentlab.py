"""Parking, level, weather and air sensors of Bosch, Decentlab and Dragino, by hand."""

import struct
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import RemoteProtocolError
from protocols.lorawan.payloads import CODECS
from protocols.model.reading import Fault, Quality, Reason, Value

NOT_AVAILABLE = Fault(Quality.BAD, Reason.NOT_AVAILABLE)
OUT_OF_RANGE = Fault(Quality.BAD, Reason.OUT_OF_RANGE)


def decode(name: str, port: int, payload: str | bytes) -> Mapping[str, Value | Fault]:
    raw = bytes.fromhex(payload) if isinstance(payload, str) else payload
    return {str(point): value for point, value in CODECS[name].decode(port, raw).items()}


def decentlab(flags: int, *words: int) -> bytes:
    return struct.pack(f">BHH{len(words)}H", 2, 303, flags, *words)


@pytest.mark.parametrize("name", ["bosch-tps110", "bosch-tpl110"])
class TestParking:
    def test_a_status_says_whether_the_space_is_occupied(self, name: str) -> None:
        assert decode(name, 1, "01") == {"occupied": True}
        assert decode(name, 1, "00") == {"occupied": False}

    def test_a_heartbeat_adds_the_temperature(self, name: str) -> None:
        assert decode(name, 2, "00d8") == {"occupied": False, "temperature": -40}
        assert decode(name, 2, "0155") == {"occupied": True, "temperature": 85}
        assert decode(name, 2, "0180") == {"occupied": True, "temperature": OUT_OF_RANGE}

    def test_a_start_up_says_why_and_what_stands_there(self, name: str) -> None:
        # codes 0x123, 0xFFF (upper bits cut) and 0, firmware 1.2.30, watchdog, occupied
        found = decode(name, 3, "2301aaaafffff0000000000001021e0101")
        assert found == {
            "occupied": True,
            "reset_cause": "watchdog",
            "firmware_version": "1.2.30",
            "debug_code_1": 0x123,
            "debug_code_2": 0xFFF,
            "debug_code_3": 0,
        }

    @pytest.mark.parametrize(("cause", "said"), [(2, "power_on"), (3, "system_request"), (4, "other")])
    def test_each_reset_cause_has_its_word(self, name: str, cause: int, said: str) -> None:
        assert decode(name, 3, bytes(15) + bytes((cause, 0)))["reset_cause"] == said

    def test_an_unknown_reset_cause_is_no_cause(self, name: str) -> None:
        assert decode(name, 3, bytes(17))["reset_cause"] == OUT_OF_RANGE

    @pytest.mark.parametrize(
        ("port", "payload"),
        [
            (1, "0100"),
            (2, "01"),
            (2, "01ff00"),
            (3, "00" * 16),
            (3, "00" * 18),
            (1, "02"),
            (2, "81ff"),
            (4, "01"),
        ],
    )
    def test_wrong_ports_lengths_and_reserved_bits_are_refused(
        self, name: str, port: int, payload: str
    ) -> None:
        with pytest.raises(RemoteProtocolError, match="bosch parking sensor"):
            decode(name, port, payload)


class TestDecentlab:
    def test_a_distance_without_valid_samples_is_none(self) -> None:
        found = decode("decentlab-dl-mbx", 1, decentlab(3, 1234, 0, 2993))
        assert found == {"distance": NOT_AVAILABLE, "valid_samples": 0, "battery_voltage": 2.993}

    def test_a_distance_that_cannot_be_is_out_of_range(self) -> None:
        assert decode("decentlab-dl-mbx", 1, decentlab(3, 10_001, 4, 2993))["distance"] == OUT_OF_RANGE
        assert decode("decentlab-dl-mbx", 1, decentlab(3, 0, 4, 2993))["distance"] == OUT_OF_RANGE

    def test_a_block_that_is_not_there_is_not_available(self) -> None:
        found = decode("decentlab-dl-mbx", 1, decentlab(2, 2993))
        assert found == {
            "distance": NOT_AVAILABLE,
            "valid_samples": NOT_AVAILABLE,
            "battery_voltage": 2.993,
        }
        assert set(decode("decentlab-dl-pm", 1, decentlab(0)).values()) == {NOT_AVAILABLE}

    def test_blocks_after_a_missing_one_are_read_at_their_place(self) -> None:
        # battery and pressure, neither particles nor climate
        found = decode("decentlab-dl-pm", 1, decentlab(0b1001, 3109, 0xBD10))
        assert (found["battery_voltage"], found["air_pressure"]) == (3.109, 968.0)
        assert (found["pm10"], found["temperature"]) == (NOT_AVAILABLE, NOT_AVAILABLE)

    def test_weather_is_read_word_by_word(self) -> None:
        values = (512, 1016, 3, 12, 402, 2256, 711, -53, 97, 9876, 815, -49, -12, 23, 271, -150, 372)
        found = decode("decentlab-dl-atm41", 1, decentlab(3, *(32768 + value for value in values), 3012))
        assert found == {
            "solar_irradiance": 512,
            "precipitation": 1.016,
            "lightning_strikes": 3,
            "lightning_distance": 12,
            "wind_speed": 4.02,
            "wind_direction": 225.6,
            "wind_gust": 7.11,
            "temperature": -5.3,
            "vapour_pressure": 0.97,
            "air_pressure": 987.6,
            "relative_humidity": 81.5,
            "internal_temperature": -4.9,
            "tilt_x": -1.2,
            "tilt_y": 2.3,
            "compass_heading": 271,
            "wind_speed_north": -1.5,
            "wind_speed_east": 3.72,
            "battery_voltage": 3.012,
        }

    @pytest.mark.parametrize("word", [0, 0xFFFF])
    def test_a_weather_station_of_all_zeros_or_ones_says_nothing_that_could_be_weather(
        self, word: int
    ) -> None:
        found = decode("decentlab-dl-atm41", 1, decentlab(1, *[word] * 17))
        assert [name for name, value in found.items() if not isinstance(value, Fault)] == []

    def test_humidity_beyond_what_the_formula_may_give_is_out_of_range(self) -> None:
        found = decode("decentlab-dl-pm", 1, decentlab(0b100, 0xFFFF, 0xFFFF))
        assert (found["temperature"], found["relative_humidity"]) == (OUT_OF_RANGE, OUT_OF_RANGE)
        found = decode("decentlab-dl-pm", 1, decentlab(0b100, 0, 0))
        assert (found["temperature"], found["relative_humidity"]) == (OUT_OF_RANGE, OUT_OF_RANGE)

    @pytest.mark.parametrize(
        ("payload", "said"),
        [
            ("02012f", "header"),
            ("01012f000304d200010bb1", "version 1"),
            ("02012f000704d200010bb1", "0007"),
            ("02012f800304d200010bb1", "8003"),
            ("02012f000304d200010b", "10 bytes, expected 11"),
            ("02012f000304d200010bb100", "12 bytes, expected 11"),
            ("02012f000104d200010bb1", "11 bytes, expected 9"),
        ],
    )
    def test_wrong_versions_flags_and_lengths_are_refused_and_named(self, payload: str, said: str) -> None:
        with pytest.raises(RemoteProtocolError, match=said):
            decode("decentlab-dl-mbx", 1, payload)


class TestDragino:
    def test_all_parts_are_read(self) -> None:
        assert decode("dragino-ldds75", 2, "cbfe04d201ff9c01") == {
            "battery_voltage": 3.07,
            "distance": 1234,
            "interrupt": True,
            "temperature": -10.0,
            "sensor_present": True,
        }

    def test_without_the_word_that_a_sensor_is_there_there_is_no_distance(self) -> None:
        found = decode("dragino-ldds75", 2, "0bfe04d2")
        assert found == {"battery_voltage": 3.07, "distance": NOT_AVAILABLE, "sensor_present": False}
        assert decode("dragino-ldds75", 2, "0bfe04d200")["interrupt"] is False
        assert decode("dragino-ldds75", 2, "0bfe04d20000fa")["temperature"] == 25.0
        assert decode("dragino-ldds75", 2, "0bfe04d20000fa00")["distance"] == NOT_AVAILABLE

    @pytest.mark.parametrize(("raw", "found"), [("0000", NOT_AVAILABLE), ("0014", NOT_AVAILABLE)])
    def test_no_echo_is_no_distance(self, raw: str, found: Fault) -> None:
        assert decode("dragino-ldds75", 2, f"0bfe{raw}0000fa01")["distance"] == found

    def test_flags_that_are_neither_yes_nor_no_are_out_of_range(self) -> None:
        found = decode("dragino-ldds75", 2, "0bfeffff070fff02")
        assert found["interrupt"] == OUT_OF_RANGE
        assert found["sensor_present"] == OUT_OF_RANGE
        assert found["distance"] == NOT_AVAILABLE
        assert found["temperature"] == OUT_OF_RANGE
        assert decode("dragino-ldds75", 2, "0bfeffff0000fa01")["distance"] == OUT_OF_RANGE

    @pytest.mark.parametrize("length", [0, 1, 3, 6, 9])
    def test_other_lengths_are_refused(self, length: int) -> None:
        with pytest.raises(RemoteProtocolError, match="expected 4, 5, 7 or 8"):
            decode("dragino-ldds75", 2, bytes(length))


@given(cm=st.integers(1, 1000), samples=st.integers(1, 200), mv=st.integers(0, 5000))
def test_any_distance_and_battery_come_back_exactly(cm: int, samples: int, mv: int) -> None:
    found = decode("decentlab-dl-mbx", 1, decentlab(3, cm * 10, samples, mv))
    assert found == {"distance": cm * 10, "valid_samples": samples, "battery_voltage": mv / 1000}
