"""What the demonstration writes before it begins: each street's scenario, and its cabinet's settings."""

import base64
from datetime import UTC, datetime

from protocols.clock import BenchTime
from sim.demo.setting import (
    CHECK_IN_M,
    LAMPS,
    LATITUDE,
    LONGITUDE,
    PREFIX,
    SQUARE,
    STOP_LINE_M,
    TOLD_BY_BROKER,
    TOLD_BY_ITSELF,
    VEHICLES,
    Setting,
    StreetFiles,
    Vehicle,
    junction_id,
    lamp_id,
    sensor_id,
)

SENSORS_EVERY_S = 8.0
RADIO = "radio-1"
PUMPS = "pumps"
PLAN = "{ number = 1, order = [1, 2, 3], durations_s = [20, 17, 17] }"
"""A short cycle: nobody wants to look at a red light for long."""

LIMITS = """\
# What nobody afar can undercut: these lamps never burn below 20 %, and are never dark at night.
[[lamp]]
line = "dali-1"
addresses = "*"
minimum_level = 20
switch_off = false
"""
SIGNAL_LIMITS = """
# And whoever asks, no green is held for a bus for longer than 20 s, nor asked for with a higher level than 10.
[[signal]]
line = "tlc-1"
max_level = 10
max_extension_s = 20
"""


def write_street(setting: Setting, street: StreetFiles, trusted_key: str) -> None:
    """Write a street's scenario and its cabinet's settings."""
    street.folder.mkdir(parents=True)
    (street.folder / "street.toml").write_text(_scenario(setting, street), encoding="utf-8")
    limits = LIMITS + (SIGNAL_LIMITS if street.junction_port else "")
    (street.folder / "limits.toml").write_text(limits, encoding="utf-8")
    cabinet = _cabinet(setting, street, trusted_key)
    (street.folder / "cabinet.toml").write_text(cabinet, encoding="utf-8")
    key = street.folder / "fleet.key"
    key.touch(mode=0o600)
    key.write_text(base64.b64encode(setting.fleet_key).decode() + "\n", encoding="ascii")


# The bench


def _scenario(setting: Setting, street: StreetFiles) -> str:
    start = datetime.fromtimestamp(setting.evening.start_utc_ms / 1000, UTC).isoformat()
    parts = [
        f"""\
control = "sim.sock"

[bench]
start = {start}
{_times(setting.evening)}

[location]
latitude = {LATITUDE}
longitude = {LONGITUDE}

[[dali]]
name = "dali-1"
port = "dali-1"
gear = {LAMPS}

[[rtu]]
name = "rtu-1"
port = "rtu-1"
baud = 19200
parity = "even"

[rtu.cabinet]
unit = 1

[rtu.lux]
unit = 2

[meter]
port = {street.meter_port}
unit = 1
base_load_w = 15.0
""",
        _junction(setting, street),
        _pumps(street),
        _radio(street),
    ]
    return "\n".join(parts)


def _times(evening: BenchTime) -> str:
    windows = [list(window) for window in evening.unhurried]
    return f"speed = {evening.speed!r}\norigin_monotonic_ms = {evening.origin_monotonic_ms}\nunhurried = {windows}"


def _junction(setting: Setting, street: StreetFiles) -> str:
    if street.junction_port is None:
        return ""
    broker, itself = f"127.0.0.1:{setting.broker_port}", f"127.0.0.1:{street.local_port}"
    controller = f"""\
[[junction]]
name = "junction-1"
port = {street.junction_port}
prefix = "{PREFIX}"
reconnect_s = 1.0

[junction.design]
plans = [{PLAN}]
"""
    told = {
        TOLD_BY_BROKER.name: f'broker = "{broker}"',
        TOLD_BY_ITSELF.name: f'datagram_to = "{itself}"\nfleet_key = "{setting.fleet_key.hex()}"',
    }
    return controller + "".join(_bus(one, told[one.name]) for one in VEHICLES)


def _bus(vehicle: Vehicle, told: str) -> str:
    return f"""
[[bus]]
name = "{vehicle.name}"
junction = "junction-1"
approach = "{vehicle.approach}"
line = "{vehicle.line}"
waits = true
stop_line_m = {STOP_LINE_M}
check_in_m = {CHECK_IN_M}
{told}
"""


def _pumps(street: StreetFiles) -> str:
    if street.pumps_port is None:
        return ""
    return f'[[pumping_station]]\nname = "{PUMPS}"\nport = {street.pumps_port}\n'


def _radio(street: StreetFiles) -> str:
    if street.radio_port is None:
        return ""
    head = f"""\
[[radio]]
name = "{RADIO}"
gateway_eui = "0016c001f1500001"
port = {street.radio_port}
spread_s = 3.0
"""
    return head + "".join(
        f"""
[[radio.sensors]]
name = "{one.name}"
device = "{one.make}"
dev_eui = "{one.dev_eui}"
app_key = "{one.app_key}"
every_s = {SENSORS_EVERY_S}
"""
        for one in street.sensors
    )


# The cabinet


def _cabinet(setting: Setting, street: StreetFiles, trusted_key: str) -> str:
    evening = setting.evening
    head = f"""\
[cabinet]
id = "{street.cabinet}"
commune = "21231"
directory = "state"
limits = "limits.toml"

[backhaul]
url = "mqtt://127.0.0.1:{setting.backhaul_port}"
mqtt = "3.1.1"

[outbox]
drain_s = 15

{trusted_key.strip()}

[bench_clock]
start_utc_ms = {evening.start_utc_ms}
{_times(evening)}

[[line]]
id = "dali-1"
driver = "dali-luba"
port = "{street.folder / "dali-1"}"

[[line]]
id = "meter-line"
driver = "modbus-tcp"
host = "127.0.0.1"
port = {street.meter_port}

[[line]]
id = "rs485-1"
driver = "modbus-rtu"
port = "{street.folder / "rtu-1"}"
parity = "E"
"""
    name = street.cabinet
    lamps = [
        _device(lamp_id(street, n), "lamp", "dali-1", n, f"groups = {_groups(n)}\npoll_s = 6.0")
        for n in range(LAMPS)
    ]
    devices = [
        _device(f"{name}-meter", "meter", "meter-line", 1, 'map = "sdm630"\npoll_s = 1.0'),
        _device(
            f"{name}-io", "cabinet_io", "rs485-1", 1, 'map = "cabinet_io"\npoll_s = 1.0\nstream = "critical"'
        ),
        _device(f"{name}-lux", "light_sensor", "rs485-1", 2, 'map = "lux"\npoll_s = 1.0'),
        *lamps,
    ]
    return head + "".join([*devices, _supervisor(street), _opcua(street), _lorawan(street)])


def _supervisor(street: StreetFiles) -> str:
    if street.junction_port is None:
        return ""
    detectors = [
        _device(f"{street.cabinet}-{what}", "detector", "tlc-1", f"{PREFIX}DL{number:03d}", "")
        for what, number in (("check-in-north", 1), ("exit-north", 2), ("check-in-west", 7), ("exit-west", 8))
    ]
    controller = _device(junction_id(street), "junction", "tlc-1", f"{PREFIX}TC000", 'stream = "critical"')
    return f"""
[local_positions]
port = {street.local_port}
key_file = "fleet.key"

[[line]]
id = "tlc-1"
driver = "rsmp"
port = {street.junction_port}
site = "{PREFIX}TC000"
{controller}{"".join(detectors)}"""


def _opcua(street: StreetFiles) -> str:
    if street.pumps_port is None:
        return ""
    station = _device(
        f"{street.cabinet}-pumps", "pumping_station", "plc-1", f"{PUMPS}-1", 'map = "pumping_station"'
    )
    return f"""
[[line]]
id = "plc-1"
driver = "opcua"
url = "opc.tcp://127.0.0.1:{street.pumps_port}"
{station}"""


def _lorawan(street: StreetFiles) -> str:
    if street.radio_port is None:
        return ""
    line = f'\n[[line]]\nid = "air-1"\ndriver = "lorawan-udp"\nport = {street.radio_port}\n'
    return line + "".join(
        _device(sensor_id(street, one), one.kind, "air-1", one.dev_eui, f'map = "{one.make}"')
        for one in street.sensors
    )


def _device(device: str, kind: str, line: str, address: int | str, more: str) -> str:
    where = address if isinstance(address, int) else f'"{address}"'
    return f"""
[[device]]
id = "{device}"
kind = "{kind}"
line = "{line}"
address = {where}
report = "each"
{more}
"""


def _groups(address: int) -> str:
    return '["street", "square"]' if address < SQUARE else '["street"]'
