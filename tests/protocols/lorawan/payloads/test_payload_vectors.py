"""The makers' published examples, every one of them, and what the makers say that they mean."""

import json

import pytest

from protocols.lorawan.payloads import CODECS
from tests.shared_data import shared

CODEC_OF = {
    "bosch/tpl110-0292 (TPS110)": "bosch-tpl110",
    "decentlab/dl-mbx": "decentlab-dl-mbx",
    "decentlab/dl-pm": "decentlab-dl-pm",
    "milesight/em400-mud": "milesight-em400-mud",
    "milesight/ws302": "milesight-ws302",
    "milesight/vs133": "milesight-vs133",
    "dragino/ldds75": "dragino-ldds75",
    "axioma/qalcosonic-w1": "axioma-qalcosonic-w1",
    "milesight/wts506": "milesight-wts506",
}
TELLS_NOTHING = {"type", "protocol_version", "device_id", "Node_type", "history_total_m3", "status"}
OURS = {
    "battery": "battery_level",
    "position": "tilted",
    "humidity": "relative_humidity",
    "pressure": "air_pressure",
    "rainfall_total": "accumulated_precipitation",
    "rainfall_counter": "precipitation_frames",
    "number_of_valid_samples": "valid_samples",
    "air_temperature": "temperature",
    "air_humidity": "relative_humidity",
    "barometric_pressure": "air_pressure",
    "pm1_0_mass_concentration": "pm1",
    "pm2_5_mass_concentration": "pm2_5",
    "pm4_mass_concentration": "pm4",
    "pm10_mass_concentration": "pm10",
    "pm0_5_number_concentration": "pm0_5_number",
    "pm1_0_number_concentration": "pm1_number",
    "pm2_5_number_concentration": "pm2_5_number",
    "pm4_number_concentration": "pm4_number",
    "pm10_number_concentration": "pm10_number",
    "Bat": "battery_voltage",
    "Distance": "distance",
    "Interrupt_flag": "interrupt",
    "TempC_DS18B20": "temperature",
    "Sensor_flag": "sensor_present",
    "timestamp_unix": "device_time",
    "log_volume_m3": "log_start_volume",
    "current_volume_m3": "water_volume",
}


def ours(name: str) -> str:
    if name.startswith("delta_"):
        return name.replace("delta_", "log_step_").removesuffix("_m3")
    return OURS.get(name, name)


def value_of(told: object, name: str) -> float:
    """Return the maker's value in our unit."""
    value = told["value"] if isinstance(told, dict) else told
    if value == "tilt":
        return True
    number = float(str(value)) if isinstance(value, str) else value
    assert isinstance(number, int | float)
    return number / 100 if name == "barometric_pressure" else number


def test_every_published_example_means_what_its_maker_says() -> None:
    vectors = json.loads(shared("vectors/payloads.json", "published payloads").read_text(encoding="utf-8"))
    assert {vector["device"] for vector in vectors} == CODEC_OF.keys()
    for vector in vectors:
        codec = CODECS[CODEC_OF[vector["device"]]]
        decoded = codec.decode(vector["fPort"], bytes.fromhex(vector["bytes"]))
        told = {name: value for name, value in vector["expected"].items() if name not in TELLS_NOTHING}
        found = {name: decoded[ours(name)] for name in told}  # type: ignore[index]
        wanted = {name: pytest.approx(value_of(value, name), abs=0.006) for name, value in told.items()}
        assert found == wanted, vector["device"]


def test_the_meters_steps_add_up_to_what_the_maker_says() -> None:
    vectors = json.loads(shared("vectors/payloads.json", "published payloads").read_text(encoding="utf-8"))
    (vector,) = [one for one in vectors if one["device"] == "axioma/qalcosonic-w1"]
    decoded = CODECS["axioma-qalcosonic-w1"].decode(100, bytes.fromhex(vector["bytes"]))
    steps = [decoded[f"log_step_{index}"] for index in range(1, 24)]  # type: ignore[index]
    assert sum(steps) == pytest.approx(vector["expected"]["history_total_m3"])  # type: ignore[arg-type]
