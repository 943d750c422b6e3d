"""Milesight's sensors by hand, from the examples of their user guides where there are some."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.lorawan.payloads import CODECS
from protocols.lorawan.payloads.milesight import MAX_PAYLOAD
from protocols.model.ids import PointName
from protocols.model.reading import Fault, Quality, Reason, Value

NOT_AVAILABLE = Fault(Quality.BAD, Reason.NOT_AVAILABLE)
OUT_OF_RANGE = Fault(Quality.BAD, Reason.OUT_OF_RANGE)
SWITCHES = [f"switch_{index}" for index in range(1, 9)]


def decode(name: str, payload: str | bytes) -> Mapping[str, Value | Fault]:
    raw = bytes.fromhex(payload) if isinstance(payload, str) else payload
    return {str(point): value for point, value in CODECS[name].decode(85, raw).items()}


def test_a_bin_that_passes_its_threshold_says_so() -> None:
    # user guide EM400-MUD: 1843 mm and 29 °C, both with an alarm
    assert decode("milesight-em400-mud", "8482330701") == {
        "distance": 1843,
        "distance_alarm": True,
        "undecoded_bytes": 0,
    }
    assert decode("milesight-em400-mud", "8367220100") == {
        "temperature": 29.0,
        "temperature_alarm": False,
        "undecoded_bytes": 0,
    }
    assert decode("milesight-em400-mud", "8482330702")["distance_alarm"] == OUT_OF_RANGE


def test_what_a_sensor_says_of_itself_when_it_joins_is_passed_over() -> None:
    joined = "ff0bffff0101ff166329c42503920003ff090100ff0a0101ff0f00"
    assert decode("milesight-em400-mud", joined) == {"undecoded_bytes": 0}
    assert decode("milesight-em400-mud", joined + "017564") == {"battery_level": 100, "undecoded_bytes": 0}


@pytest.mark.parametrize(
    ("payload", "point", "found"),
    [
        ("0175ff", "battery_level", NOT_AVAILABLE),
        ("017565", "battery_level", OUT_OF_RANGE),
        ("0482ffff", "distance", NOT_AVAILABLE),
        ("04820000", "distance", OUT_OF_RANGE),
        ("04821127", "distance", OUT_OF_RANGE),
        ("0367ffff", "temperature", -0.1),
        ("03670080", "temperature", OUT_OF_RANGE),
        ("0367ff7f", "temperature", OUT_OF_RANGE),
        ("050000", "tilted", False),
        ("050002", "tilted", OUT_OF_RANGE),
    ],
)
def test_what_a_bin_sensor_cannot_mean_is_no_value(payload: str, point: str, found: Value | Fault) -> None:
    assert decode("milesight-em400-mud", payload)[point] == found


def test_what_stands_before_an_unknown_channel_is_kept_and_the_rest_measured() -> None:
    found = decode("milesight-em400-mud", "01755c0688ffffffffffffffff2004824408")
    assert found == {"battery_level": 92, "undecoded_bytes": 15}


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ("0688ffff", "06 88 at byte 0 is not known"),
        ("ff01", "ff 01 at byte 0 is cut off"),
        ("fffe01", "ff fe at byte 0 is not known"),
        ("01755c036701", "03 67 at byte 3 is cut off"),
        ("01755c03", "03 at byte 3 is cut off"),
        ("01755c01755c", "01 75 at byte 3 says again"),
        ("048244088482330701", "84 82 at byte 4 says again"),
        ("01", "1 bytes"),
        ("ff0101" * 81, "243 bytes"),
    ],
)
def test_what_cannot_be_read_is_refused_and_said_where(payload: str, said: str) -> None:
    with pytest.raises(RemoteProtocolError, match=said):
        decode("milesight-em400-mud", payload)


def test_the_longest_frame_of_the_band_is_still_read() -> None:
    assert decode("milesight-em400-mud", "ff0101" * (MAX_PAYLOAD // 3)) == {"undecoded_bytes": 0}


def test_weather_is_read_as_the_user_guide_says() -> None:
    # user guide WTS506, example 2
    assert decode("milesight-wts506", "01756403671001046871058446050673aa27079292010877c41325") == {
        "battery_level": 100,
        "temperature": 27.2,
        "relative_humidity": 56.5,
        "wind_direction": 135.0,
        "air_pressure": 1015.4,
        "wind_speed": 40.2,
        "accumulated_precipitation": 50.6,
        "precipitation_frames": 37,
        "undecoded_bytes": 0,
    }


@pytest.mark.parametrize(
    ("payload", "point", "found"),
    [
        ("05841a0e", "wind_direction", OUT_OF_RANGE),
        ("0584100e", "wind_direction", 360.0),
        ("0792ffff", "wind_speed", NOT_AVAILABLE),
        ("0877ffff01", "accumulated_precipitation", NOT_AVAILABLE),
        ("0877feffff", "accumulated_precipitation", 655.34),
        ("0468ff", "relative_humidity", NOT_AVAILABLE),
        ("0468c9", "relative_humidity", OUT_OF_RANGE),
        ("06730000", "air_pressure", OUT_OF_RANGE),
    ],
)
def test_weather_that_cannot_be_is_no_value(payload: str, point: str, found: Value | Fault) -> None:
    assert decode("milesight-wts506", payload)[point] == found


def test_air_is_read_channel_by_channel() -> None:
    assert decode(
        "milesight-am308", "0367ee0004687c05000106cb02077da803087d2500097366270b7d20000c7d3000"
    ) == {
        "temperature": 23.8,
        "relative_humidity": 62.0,
        "presence": True,
        "light_level": 2,
        "co2": 936,
        "tvoc_index": 0.37,
        "air_pressure": 1008.6,
        "pm2_5": 32,
        "pm10": 48,
        "history_records": 0,
        "undecoded_bytes": 0,
    }


def test_records_of_another_time_are_counted_and_never_taken_for_now() -> None:
    # user guide AM308: a record of 2022-09-09
    record = "20ce56991a63ff0073000000f8026400912722002600"
    assert decode("milesight-am308", record + record) == {"history_records": 2, "undecoded_bytes": 0}
    found = decode("milesight-am308", record + "0367ee00")
    assert found == {"temperature": 23.8, "history_records": 1, "undecoded_bytes": 0}


def test_noise_is_a_weighted_or_none() -> None:
    found = decode("milesight-ws302", "055b013f02da016a02")
    assert (found["noise_level"], found["frequency_weighting"], found["time_weighting"]) == (
        57.5,
        "A",
        "none",
    )
    for weighting, said in (
        ("06", ("C", "fast")),
        ("02", ("C", "none")),
        ("07", (OUT_OF_RANGE, OUT_OF_RANGE)),
    ):
        found = decode("milesight-ws302", f"055b{weighting}3f02da016a02")
        assert (found["frequency_weighting"], found["time_weighting"]) == said
        levels = ("noise_level", "noise_level_equivalent", "noise_level_maximum")
        assert {found[level] for level in levels} == {NOT_AVAILABLE}


@pytest.mark.parametrize(
    ("raw", "level"), [("0000", OUT_OF_RANGE), ("ffff", NOT_AVAILABLE), ("7905", OUT_OF_RANGE)]
)
def test_a_noise_that_no_microphone_hears_is_no_value(raw: str, level: Fault) -> None:
    assert decode("milesight-ws302", f"055b05{raw}da016a02")["noise_level"] == level


def test_people_are_counted_by_line_and_region() -> None:
    found = decode("milesight-vs133", "05cc020003000bccffff01000fe3010203ff")
    assert found == {
        "line_1_in": 2,
        "line_1_out": 3,
        "line_3_in": NOT_AVAILABLE,
        "line_3_out": 1,
        "region_1_people": 1,
        "region_2_people": 2,
        "region_3_people": 3,
        "region_4_people": NOT_AVAILABLE,
        "undecoded_bytes": 0,
    }


def test_the_switch_tells_its_mains_and_its_eight_outputs() -> None:
    found = decode("milesight-ws558", "037402090480610000000581320683c800000007c9ea0108310060")
    assert {name: value for name, value in found.items() if name not in SWITCHES} == {
        "voltage": 230.6,
        "active_power": 97,
        "power_factor": 50,
        "cumulative_active_energy": 0.2,
        "current": 0.49,
        "undecoded_bytes": 0,
    }
    # user guide WS558: 60 means L6 and L7
    assert [name for name in SWITCHES if found[name]] == ["switch_6", "switch_7"]


@given(index=st.integers(1, 8), on=st.booleans())
def test_a_switch_command_concerns_that_switch_alone(index: int, on: bool) -> None:
    encode = CODECS["milesight-ws558"].encode
    assert encode is not None
    port, payload = encode(PointName(f"switch_{index}"), on)
    assert (port, payload[0], len(payload)) == (85, 0x08, 3)
    assert payload[1] == 1 << (index - 1)
    # what the switch then reports: the states that it was told, as its own uplink says them
    told = CODECS["milesight-ws558"].decode(85, bytes((0x08, 0x31)) + payload[1:])
    assert told[PointName(f"switch_{index}")] is on
    assert sum(told[PointName(name)] is True for name in SWITCHES) == int(on)


@pytest.mark.parametrize(
    ("point", "value"), [("switch_9", True), ("voltage", True), ("switch_1", 1), ("switch_1", None)]
)
def test_what_the_switch_cannot_be_told_is_our_mistake(point: str, value: Value) -> None:
    encode = CODECS["milesight-ws558"].encode
    assert encode is not None
    with pytest.raises(LocalProtocolError, match=point):
        encode(PointName(point), value)


@given(
    st.lists(st.sampled_from(["01755c", "03670101", "04824408", "050001"]), unique=True, min_size=1).map(
        "".join
    )
)
def test_channels_are_read_in_any_order(payload: str) -> None:
    whole = {"battery_level": 92, "temperature": 25.7, "distance": 2116, "tilted": True, "undecoded_bytes": 0}
    found = decode("milesight-em400-mud", payload)
    assert found.items() <= whole.items()
    assert len(found) == 1 + payload.count("0175") + payload.count("0367") + payload.count(
        "0482"
    ) + payload.count("0500")
