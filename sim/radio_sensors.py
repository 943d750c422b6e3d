"""Radio sensors of several makes: what they measure, written as the real devices write it.

Each is told by the name that a cabinet's settings give to its make. The bytes are put together here and nowhere
else on the bench; whoever reads them shares none of this.
"""

import struct
from collections.abc import Callable, Mapping
from itertools import pairwise

from sim.lorawan_node import Report
from sim.radio_truth import Truth

Values = dict[str, float | bool | str]
Write = Callable[["Sensor", Truth], Report]

BIN_DEPTH_MM = 1500
BIN_FULL_MM = 200
SWITCHES = 8
_BATTERY_PERCENT = 96
_BATTERY_MV = 3012
_SWITCH_W = 48


class Sensor:
    """One device.

    Args:
        device: its make.
        truth: tells what is there now.
    """

    def __init__(self, device: str, truth: Callable[[], Truth]) -> None:
        self.reports = 0
        self.switches = 0
        self._write = WRITERS[device]
        self._commands = device == "milesight-ws558"
        self._truth = truth

    def report(self) -> Report:
        """Measure and write."""
        report = self._write(self, self._truth())
        self.reports += 1
        return report

    def command(self, port: int, payload: bytes) -> bool:
        """Set switches, where the device has some: 08, whom it concerns, on or off."""
        if not self._commands or port != 85 or len(payload) != 3 or payload[0] != 0x08:
            return False
        mask, wanted = payload[1], payload[2]
        self.switches = self.switches & ~mask | wanted & mask
        return True


def _milesight(*fields: bytes) -> bytes:
    return b"".join(fields)


def _field(pair: int, layout: str, *values: int) -> bytes:
    return pair.to_bytes(2) + struct.pack("<" + layout, *values)


def _parking(sensor: Sensor, truth: Truth) -> Report:
    """Write a start-up first, then heartbeats and, each second time, a status alone."""
    occupied = truth.occupied()
    values: Values = {"occupied": occupied}
    if sensor.reports == 0:
        payload = struct.pack("<H2xH2xH2x", 0, 0, 0) + bytes((1, 4, 2, 2, occupied))
        return Report(3, payload, values | {"reset_cause": "power_on", "firmware_version": "1.4.2"})
    if sensor.reports % 2 == 0:
        return Report(1, bytes((occupied,)), values)
    temperature = round(truth.temperature_c())
    return Report(2, struct.pack("Bb", occupied, temperature), values | {"temperature": temperature})


def _decentlab(flags: int, *words: int) -> bytes:
    return struct.pack(f">BHH{len(words)}H", 2, 6992, flags, *words)


def _distance_mm(truth: Truth) -> int:
    return round(BIN_DEPTH_MM - truth.filling() * (BIN_DEPTH_MM - BIN_FULL_MM))


def _mbx(_: Sensor, truth: Truth) -> Report:
    distance = _distance_mm(truth)
    values: Values = {"distance": distance, "valid_samples": 10, "battery_voltage": _BATTERY_MV / 1000}
    return Report(1, _decentlab(0b11, distance, 10, _BATTERY_MV), values)


def _ldds75(_: Sensor, truth: Truth) -> Report:
    distance, tenths = _distance_mm(truth), round(truth.temperature_c() * 10)
    values: Values = {
        "battery_voltage": _BATTERY_MV / 1000,
        "distance": distance,
        "interrupt": False,
        "temperature": tenths / 10,
        "sensor_present": True,
    }
    return Report(2, struct.pack(">HHBhB", _BATTERY_MV, distance, 0, tenths, 1), values)


def _mud(_: Sensor, truth: Truth) -> Report:
    distance, tenths = _distance_mm(truth), round(truth.temperature_c() * 10)
    payload = _milesight(
        _field(0x0175, "B", _BATTERY_PERCENT),
        _field(0x0367, "h", tenths),
        _field(0x0482, "H", distance),
        _field(0x0500, "B", 0),
    )
    values: Values = {
        "battery_level": _BATTERY_PERCENT,
        "temperature": tenths / 10,
        "distance": distance,
        "tilted": False,
    }
    return Report(85, payload, values)


def _atm41(_: Sensor, truth: Truth) -> Report:
    """Write seventeen words, each 32768 above what it says."""
    wind, tenths = round(truth.wind_m_s() * 100), round(truth.temperature_c() * 10)
    direction = round(truth.wind_deg() * 10)
    words = {
        "solar_irradiance": (round(truth.irradiance()), 1),
        "precipitation": (0, 1000),
        "lightning_strikes": (0, 1),
        "lightning_distance": (0, 1),
        "wind_speed": (wind, 100),
        "wind_direction": (direction, 10),
        "wind_gust": (round(wind * 1.4), 100),
        "temperature": (tenths, 10),
        "vapour_pressure": (97, 100),
        "air_pressure": (round(truth.pressure_hpa() * 10), 10),
        "relative_humidity": (round(truth.humidity() * 10), 10),
        "internal_temperature": (tenths + 8, 10),
        "tilt_x": (-3, 10),
        "tilt_y": (5, 10),
        "compass_heading": (0, 1),
        "wind_speed_north": (wind // 2, 100),
        "wind_speed_east": (-wind // 2, 100),
    }
    payload = _decentlab(0b11, *(32768 + value for value, _ in words.values()), _BATTERY_MV)
    values: Values = {name: value / divisor for name, (value, divisor) in words.items()}
    return Report(1, payload, values | {"battery_voltage": _BATTERY_MV / 1000})


def _wts506(sensor: Sensor, truth: Truth) -> Report:
    tenths, halves = round(truth.temperature_c() * 10), round(truth.humidity() * 2)
    direction, pressure = round(truth.wind_deg() * 10), round(truth.pressure_hpa() * 10)
    wind, rain, frames = round(truth.wind_m_s() * 10), round(truth.rain_mm() * 100), min(255, sensor.reports)
    payload = _milesight(
        _field(0x0175, "B", _BATTERY_PERCENT),
        _field(0x0367, "h", tenths),
        _field(0x0468, "B", halves),
        _field(0x0584, "H", direction),
        _field(0x0673, "H", pressure),
        _field(0x0792, "H", wind),
        _field(0x0877, "HB", rain, frames),
    )
    values: Values = {
        "battery_level": _BATTERY_PERCENT,
        "temperature": tenths / 10,
        "relative_humidity": halves / 2,
        "wind_direction": direction / 10,
        "air_pressure": pressure / 10,
        "wind_speed": wind / 10,
        "accumulated_precipitation": rain / 100,
        "precipitation_frames": frames,
    }
    return Report(85, payload, values)


def _pm(_: Sensor, truth: Truth) -> Report:
    """Write masses and numbers of particles, and the climate in the raw counts of its sensor."""
    dust = truth.dust()
    masses = [round(dust * part * 10) for part in (0.45, 0.6, 0.8, 1.0)]
    numbers = [round(dust * part * 10) for part in (3.0, 3.6, 3.8, 3.9, 4.0)]
    warm = round((truth.temperature_c() + 46.85) * 65536 / 175.72)
    damp = round((truth.humidity() + 6) * 65536 / 125)
    half_pascals = round(truth.pressure_hpa() * 50)
    payload = _decentlab(0b1111, _BATTERY_MV, *masses, 500, *numbers, warm, damp, half_pascals)
    values: Values = {"battery_voltage": _BATTERY_MV / 1000, "typical_particle_size": 500}
    values |= dict(zip(("pm1", "pm2_5", "pm4", "pm10"), (mass / 10 for mass in masses), strict=True))
    counted = ("pm0_5_number", "pm1_number", "pm2_5_number", "pm4_number", "pm10_number")
    values |= dict(zip(counted, (count / 10 for count in numbers), strict=True))
    values["temperature"] = 175.72 * warm / 65536 - 46.85
    values["relative_humidity"] = 125 * damp / 65536 - 6
    values["air_pressure"] = half_pascals / 50
    return Report(1, payload, values)


def _am308(_: Sensor, truth: Truth) -> Report:
    tenths, halves = round(truth.temperature_c() * 10), round(truth.humidity() * 2)
    presence, light = truth.chance("presence", 300_000) < 0.5, int(truth.sun_deg > 0) * 3
    carbon, organic = (
        round(420 + 600 * truth.smooth("co2", 3_600_000)),
        round(120 * truth.smooth("tvoc", 3_600_000)),
    )
    pressure, coarse = round(truth.pressure_hpa() * 10), round(truth.dust())
    payload = _milesight(
        _field(0x0367, "h", tenths),
        _field(0x0468, "B", halves),
        _field(0x0500, "B", presence),
        _field(0x06CB, "B", light),
        _field(0x077D, "H", carbon),
        _field(0x087D, "H", organic),
        _field(0x0973, "H", pressure),
        _field(0x0B7D, "H", coarse * 6 // 10),
        _field(0x0C7D, "H", coarse),
    )
    values: Values = {
        "temperature": tenths / 10,
        "relative_humidity": halves / 2,
        "presence": presence,
        "light_level": light,
        "co2": carbon,
        "tvoc_index": organic / 100,
        "air_pressure": pressure / 10,
        "pm2_5": coarse * 6 // 10,
        "pm10": coarse,
    }
    return Report(85, payload, values)


def _w1(_: Sensor, truth: Truth) -> Report:
    """Write the volume of a day ago and the litres of each hour since, 14 bits each."""
    counts = [truth.litres(ago_h) for ago_h in range(23, -1, -1)]
    steps = [after - before for before, after in pairwise(counts)]
    bits = sum(step << 14 * index for index, step in enumerate(steps))
    time_s = truth.civil_ms // 1000
    payload = struct.pack("<BIBI", 1, time_s, 0, counts[0]) + bits.to_bytes(41, "little")
    values: Values = {
        "water_volume": counts[-1] / 1000,
        "log_start_volume": counts[0] / 1000,
        "device_time": time_s,
        "battery_low": False,
        "leakage": False,
    }
    return Report(100, payload, values)


def _ws302(_: Sensor, truth: Truth) -> Report:
    now = round(truth.noise_db() * 10)
    payload = _milesight(
        _field(0x0175, "B", _BATTERY_PERCENT), _field(0x055B, "BHHH", 0x05, now, now - 23, now + 61)
    )
    values: Values = {
        "battery_level": _BATTERY_PERCENT,
        "noise_level": now / 10,
        "noise_level_equivalent": (now - 23) / 10,
        "noise_level_maximum": (now + 61) / 10,
        "frequency_weighting": "A",
        "time_weighting": "fast",
    }
    return Report(85, payload, values)


def _vs133(_: Sensor, truth: Truth) -> Report:
    total = truth.civil_ms // 90_000 & 0xFFFF_FFF
    people = round(4 * truth.smooth("people", 600_000))
    payload = _milesight(
        _field(0x03D2, "I", total),
        _field(0x04D2, "I", total - people),
        _field(0x05CC, "HH", people, 0),
        _field(0x0FE3, "BBBB", people, 0, 0, 0),
    )
    values: Values = {
        "line_1_total_in": total,
        "line_1_total_out": total - people,
        "line_1_in": people,
        "line_1_out": 0,
        "region_1_people": people,
    }
    return Report(85, payload, values)


def _ws558(sensor: Sensor, _: Truth) -> Report:
    on = sensor.switches.bit_count()
    payload = _milesight(
        _field(0x0374, "H", 2301),
        _field(0x0480, "I", on * _SWITCH_W),
        _field(0x0581, "B", 95),
        _field(0x0683, "I", sensor.reports * 7),
        _field(0x07C9, "H", on * 210),
        _field(0x0831, "BB", 0, sensor.switches),
    )
    values: Values = {
        "voltage": 230.1,
        "active_power": on * _SWITCH_W,
        "power_factor": 95,
        "cumulative_active_energy": sensor.reports * 7 / 1000,
        "current": on * 210 / 1000,
    }
    values |= {f"switch_{index + 1}": bool(sensor.switches >> index & 1) for index in range(SWITCHES)}
    return Report(85, payload, values)


WRITERS: Mapping[str, Write] = {
    "bosch-tps110": _parking,
    "bosch-tpl110": _parking,
    "decentlab-dl-mbx": _mbx,
    "decentlab-dl-atm41": _atm41,
    "decentlab-dl-pm": _pm,
    "dragino-ldds75": _ldds75,
    "axioma-qalcosonic-w1": _w1,
    "milesight-em400-mud": _mud,
    "milesight-wts506": _wts506,
    "milesight-am308": _am308,
    "milesight-ws302": _ws302,
    "milesight-vs133": _vs133,
    "milesight-ws558": _ws558,
}
"""What a sensor of each make writes, by the name that the settings give to the make."""
