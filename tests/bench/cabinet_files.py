"""The street with every line, and the settings of the cabinet before it; everything polled as the product ships.

Lamps every 30 s, meter and daylight sensor every 10 s, cabinet inputs every 2 s; junction, detectors and pumping
station by subscription; six radio sensors that report each half minute.
"""

import base64
import socket
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.model.ids import DeviceId, KeyId
from protocols.model.lighting import (
    AbsolutePeriod,
    Assignment,
    Calendar,
    ControlProgram,
    LightingPolicy,
    Place,
)
from tests.bench.processes import free_port

CABINET = "bench-street"
EMPTY = "bench-empty"
LAMPS = 24
PREFIX = "LU+DJ0001=001"
JUNCTION = DeviceId("crossing")
KEY = KeyId("bench")
SECRET = Ed25519PrivateKey.from_private_bytes(bytes(32))
APP_KEY = bytes(range(16))
SENSORS = (
    ("parking", "bosch-tps110", "parking_space"),
    ("bin", "milesight-em400-mud", "bin"),
    ("weather", "milesight-wts506", "weather_station"),
    ("air", "milesight-am308", "sensor"),
    ("water", "axioma-qalcosonic-w1", "meter"),
    ("noise", "milesight-ws302", "sensor"),
)
REPORT_S = 30.0
UP = ("dali-1", "meter-line", "rs485-1", "tlc-1", "plc-1", "air-1")
NO_ADAPTER = "ble-1"
"""The line that is down on a machine without Bluetooth; its driver is loaded and tries all the same."""


class Ports(msgspec.Struct, frozen=True):
    """Where everything is.

    Attributes:
        broker: MQTT.
        tap: where the controller looks for its supervisor.
        rsmp: where the supervisor listens.
        meter: Modbus TCP.
        pumps: OPC UA.
        radio: UDP, of the network server.
    """

    broker: int
    tap: int
    rsmp: int
    meter: int = msgspec.field(default_factory=free_port)
    pumps: int = msgspec.field(default_factory=free_port)
    radio: int = msgspec.field(default_factory=lambda: free_port(socket.SOCK_DGRAM))


def scenario(ports: Ports) -> str:
    """Return the street: its controller grants whenever it may, so that it is never what a request waits for."""
    street = f"""\
control = "sim.sock"
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
port = {ports.meter}
unit = 1
[[junction]]
name = "junction-1"
port = {ports.tap}
prefix = "{PREFIX}"
reconnect_s = 0.5
[junction.design]
start_flash_s = 0
start_red_s = 1
plans = [{{ number = 1, order = [1, 2, 3], durations_s = [20, 17, 17] }}]
[junction.design.limits]
cooldown_s = 0
[[pumping_station]]
name = "pumps"
port = {ports.pumps}
[[radio]]
name = "radio-1"
gateway_eui = "0016c001f1500001"
port = {ports.radio}
spread_s = 3.0
"""
    sensors = [
        f'[[radio.sensors]]\nname = "{name}"\ndevice = "{make}"\ndev_eui = "{dev_eui(number)}"\n'
        f'app_key = "{APP_KEY.hex()}"\nevery_s = {REPORT_S}\n'
        for number, (name, make, _) in enumerate(SENSORS)
    ]
    return "".join([street, *sensors])


def dev_eui(number: int) -> str:
    """Return a sensor's DevEUI."""
    return f"70b3d5e75e0000{number + 1:02x}"


def empty_settings(folder: Path, ports: Ports) -> str:
    """Return a cabinet without lines: what the agent costs that has nothing to do."""
    return f"""\
[cabinet]
id = "{EMPTY}"
directory = "{folder / EMPTY}"
[backhaul]
url = "mqtt://127.0.0.1:{ports.broker}"
"""


def settings(folder: Path, street: Path, ports: Ports) -> str:
    """Return the cabinet with every line there is."""
    return "".join([_head(folder, ports), _lines(street, ports), *_devices()])


def _head(folder: Path, ports: Ports) -> str:
    public = base64.b64encode(SECRET.public_key().public_bytes_raw()).decode()
    return f"""\
[cabinet]
id = "{CABINET}"
directory = "{folder / CABINET}"
[backhaul]
url = "mqtt://127.0.0.1:{ports.broker}"
[[trusted_key]]
id = "{KEY}"
public = "{public}"
kinds = ["lighting", "priority"]
"""


def _lines(street: Path, ports: Ports) -> str:
    return f"""\
[[line]]
id = "dali-1"
driver = "dali-luba"
port = "{street / "dali-1"}"
[[line]]
id = "meter-line"
driver = "modbus-tcp"
host = "127.0.0.1"
port = {ports.meter}
[[line]]
id = "rs485-1"
driver = "modbus-rtu"
port = "{street / "rtu-1"}"
parity = "E"
[[line]]
id = "tlc-1"
driver = "rsmp"
port = {ports.rsmp}
site = "{PREFIX}TC000"
[[line]]
id = "plc-1"
driver = "opcua"
url = "opc.tcp://127.0.0.1:{ports.pumps}"
[[line]]
id = "air-1"
driver = "lorawan-udp"
port = {ports.radio}
[[line]]
id = "{NO_ADAPTER}"
driver = "ble"
"""


def _devices() -> list[str]:
    io = 'map = "cabinet_io"\nstream = "critical"\n'
    return [
        *(_device(f"lamp-{n:02d}", "lamp", "dali-1", n, 'groups = ["street"]\n') for n in range(LAMPS)),
        _device("meter", "meter", "meter-line", 1, 'map = "sdm630"\n'),
        _device("io", "cabinet_io", "rs485-1", 1, io),
        _device("lux", "light_sensor", "rs485-1", 2, 'map = "lux"\n'),
        _device(JUNCTION, "junction", "tlc-1", f"{PREFIX}TC000", 'stream = "critical"\n'),
        *(
            _device(f"loop-{n}", "detector", "tlc-1", f"{PREFIX}DL{n:03d}", 'stream = "critical"\n')
            for n in range(1, 9)
        ),
        _device("pumps", "pumping_station", "plc-1", "pumps-1", 'map = "pumping_station"\n'),
        *(
            _device(name, kind, "air-1", dev_eui(number), f'map = "{make}"\n')
            for number, (name, make, kind) in enumerate(SENSORS)
        ),
        _device("thermometer", "sensor", NO_ADAPTER, "a4:c1:38:8d:18:b2", 'map = "bthome-thermometer"\n'),
    ]


def _device(name: str, kind: str, line: str, address: int | str, more: str) -> str:
    where = address if isinstance(address, int) else f'"{address}"'
    return f'[[device]]\nid = "{name}"\nkind = "{kind}"\nline = "{line}"\naddress = {where}\n{more}'


def lighting() -> LightingPolicy:
    """Return one level all day: an idle street shines."""
    program = ControlProgram("always", (AbsolutePeriod("12:00", "11:59", level=70),), ())
    return LightingPolicy(
        Place(47.32, 5.04, "Europe/Paris"),
        (program,),
        (Calendar("every-day", "always"),),
        (Assignment("every-day", groups=("street",)),),
    )
