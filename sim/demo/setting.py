"""Where the demonstration takes place: its evening, its files, its ports."""

import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
from astral import Observer
from astral.sun import sunset

from protocols.clock import BenchTime

LATITUDE, LONGITUDE, TIMEZONE = 47.32, 5.04, "Europe/Paris"
ZONE = ZoneInfo(TIMEZONE)
LAMPS = 24
SQUARE = 6
"""The first lamps of each street stand on a square and form a group of their own."""
STEP_DOWN = "22:00"
DUSK_AT, STEP_DOWN_AT = 0.14, 0.55
"""At which share of the demonstration the sun sets and the street steps down."""


class StreetFiles(msgspec.Struct, frozen=True):
    """One street and its cabinet."""

    cabinet: str
    folder: Path
    meter_port: int

    @property
    def sim_socket(self) -> Path:
        """Where the simulated hardware takes commands."""
        return self.folder / "sim.sock"

    @property
    def agent_socket(self) -> Path:
        """Where the agent answers."""
        return self.folder / "state" / "agent.sock"

    @property
    def outbox(self) -> Path:
        """What the agent has not yet delivered."""
        return self.folder / "state" / "outbox.db"


class Setting(msgspec.Struct, frozen=True):
    """Everything that is fixed before the first process starts.

    Attributes:
        folder: of all files; made anew at each start.
        evening: the bench time that all processes share.
        seconds: how long the story lasts.
        broker_port: of the broker itself.
        backhaul_port: where the cabinets find it, through a way that can be cut.
        api_port: of the aggregator.
        streets: the streets.
    """

    folder: Path
    evening: BenchTime
    seconds: float
    broker_port: int
    backhaul_port: int
    api_port: int
    streets: tuple[StreetFiles, ...]

    def civil(self) -> datetime:
        """Return the evening's time now."""
        return datetime.fromtimestamp(self.evening.civil_ms(_monotonic_ms()) / 1000, ZONE)


def make_setting(folder: Path, seconds: float) -> Setting:
    """Choose an evening and free ports.

    The evening is tomorrow's, so that nothing of it lies in the past for a centre with the real date. Its
    speed is such that the sun sets and the street steps down where the story wants them.
    """
    day = datetime.now(ZONE).date() + timedelta(days=1)
    dusk = sunset(Observer(LATITUDE, LONGITUDE), day, tzinfo=ZONE)
    hour, minute = STEP_DOWN.split(":")
    step_down = datetime(day.year, day.month, day.day, int(hour), int(minute), tzinfo=ZONE)
    speed = (step_down - dusk).total_seconds() / ((STEP_DOWN_AT - DUSK_AT) * seconds)
    start = dusk - timedelta(seconds=speed * DUSK_AT * seconds)
    ports = _free_ports(5)
    return Setting(
        folder=folder,
        evening=BenchTime(_monotonic_ms(), round(start.astimezone(UTC).timestamp() * 1000), speed),
        seconds=seconds,
        broker_port=ports[0],
        backhaul_port=ports[1],
        api_port=ports[2],
        streets=tuple(
            StreetFiles(cabinet, folder / cabinet, port)
            for cabinet, port in zip(("rue-de-la-liberte", "quai-nicolas-rolin"), ports[3:], strict=True)
        ),
    )


def write_street(setting: Setting, street: StreetFiles, trusted_key: str) -> None:
    """Write a street's scenario and its cabinet's settings."""
    street.folder.mkdir(parents=True)
    (street.folder / "street.toml").write_text(_scenario(setting, street), encoding="utf-8")
    (street.folder / "limits.toml").write_text(LIMITS, encoding="utf-8")
    cabinet = _cabinet(setting, street, trusted_key)
    (street.folder / "cabinet.toml").write_text(cabinet, encoding="utf-8")


def control_program() -> dict[str, object]:
    """Return the program that the centre publishes: full light from dusk, 70 % from 22:00, full from 05:00."""
    return {
        "id": "residential",
        "active_periods": [{"period": "astro", "level": 100, "ramp_s": 1.0}],
        "fixed_time_controls": [
            {"time": STEP_DOWN, "level": 70, "ramp_s": 1.0},
            {"time": "05:00", "level": 100, "ramp_s": 1.0},
        ],
    }


def _scenario(setting: Setting, street: StreetFiles) -> str:
    evening = setting.evening
    start = datetime.fromtimestamp(evening.start_utc_ms / 1000, UTC).isoformat()
    return f"""\
control = "sim.sock"

[bench]
start = {start}
speed = {evening.speed!r}
origin_monotonic_ms = {evening.origin_monotonic_ms}

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
"""


LIMITS = """\
# What nobody afar can undercut: these lamps never burn below 20 %, and are never dark at night.
[[lamp]]
line = "dali-1"
addresses = "*"
minimum_level = 20
switch_off = false
"""


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
origin_monotonic_ms = {evening.origin_monotonic_ms}
start_utc_ms = {evening.start_utc_ms}
speed = {evening.speed!r}

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
    devices = [
        _device(f"{street.cabinet}-meter", "meter", "meter-line", 1, 'map = "sdm630"\npoll_s = 1.0'),
        _device(
            f"{street.cabinet}-io",
            "cabinet_io",
            "rs485-1",
            1,
            'map = "cabinet_io"\npoll_s = 1.0\nstream = "critical"',
        ),
        _device(f"{street.cabinet}-lux", "light_sensor", "rs485-1", 2, 'map = "lux"\npoll_s = 1.0'),
        *(
            _device(lamp_id(street, n), "lamp", "dali-1", n, f"groups = {_groups(n)}\npoll_s = 6.0")
            for n in range(LAMPS)
        ),
    ]
    return head + "".join(devices)


def lamp_id(street: StreetFiles, address: int) -> str:
    """Return the id of the lamp at a DALI short address."""
    return f"{street.cabinet}-lamp-{address:02d}"


def _device(device: str, kind: str, line: str, address: int, more: str) -> str:
    return f"""
[[device]]
id = "{device}"
kind = "{kind}"
line = "{line}"
address = {address}
report = "each"
{more}
"""


def _groups(address: int) -> str:
    return '["street", "square"]' if address < SQUARE else '["street"]'


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
