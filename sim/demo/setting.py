"""Where the demonstration takes place: its evening, its streets, its ports."""

import math
import secrets
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
DUSK_AT, STEP_DOWN_AT = 0.25, 0.86
"""At which share of the hurried part of the evening the sun sets and the street steps down."""
BUSES_S = 52.0
"""How long the evening runs at real speed: two buses pass one after the other, the second with the backhaul cut."""
AFTER_S = 6.0
"""What is left for the outboxes to drain."""
STOP_LINE_M, CHECK_IN_M, BEHIND_M = 180.0, 140.0, 60.0
"""A bus sets off so far before the stop line; it is asked for from so near on; its way is known so far beyond."""
METRES_PER_DEGREE = 111_195.0


class Sensor(msgspec.Struct, frozen=True):
    """One radio sensor: what it is called, its make, what it is to the city, and its identity."""

    name: str
    make: str
    kind: str
    dev_eui: str
    app_key: str


class Vehicle(msgspec.Struct, frozen=True):
    """One bus.

    Attributes:
        name: on the bench.
        line: as passengers know it.
        approach: where it comes from.
        bearing_deg: where it heads.
        group: number of the signal group that it looks at.
    """

    name: str
    line: str
    approach: str
    bearing_deg: float
    group: int

    def path(self) -> list[dict[str, float]]:
        """Return its way through the junction, as a priority rule describes it."""
        return [_moved(self.bearing_deg, metres) for metres in (-STOP_LINE_M, BEHIND_M)]


TOLD_BY_BROKER = Vehicle("bus-3", "L3", "west", 90.0, 4)
TOLD_BY_ITSELF = Vehicle("bus-5", "L5", "north", 180.0, 1)
VEHICLES = (TOLD_BY_BROKER, TOLD_BY_ITSELF)
PREFIX = "LU+DJ0001=001"
"""Of the component ids of the signal controller."""


class StreetFiles(msgspec.Struct, frozen=True):
    """One street and its cabinet.

    Attributes:
        cabinet: its id.
        folder: of its files.
        meter_port: of the meter.
        junction_port: where its controller finds it; None if it has no junction.
        local_port: where buses tell it themselves where they are; the same.
        pumps_port: of the pumping station; None if it has none.
        radio_port: where its packet forwarder finds it; None if it has none.
        sensors: radio sensors.
    """

    cabinet: str
    folder: Path
    meter_port: int
    junction_port: int | None = None
    local_port: int | None = None
    pumps_port: int | None = None
    radio_port: int | None = None
    sensors: tuple[Sensor, ...] = ()

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
        seconds: how long the story is to take.
        hurried_s: for how long the evening is hurried, before the buses come.
        broker_port: of the broker itself.
        backhaul_port: where the cabinets find it, through a way that can be cut.
        api_port: of the aggregator.
        fleet_key: 32 bytes that the buses and the cabinet at the junction share.
        streets: the streets; the first has the junction, the second the pumping station and the radio sensors.
    """

    folder: Path
    evening: BenchTime
    seconds: float
    hurried_s: float
    broker_port: int
    backhaul_port: int
    api_port: int
    fleet_key: bytes
    streets: tuple[StreetFiles, ...]

    def civil(self) -> datetime:
        """Return the evening's time now."""
        return datetime.fromtimestamp(self.evening.civil_ms(_monotonic_ms()) / 1000, ZONE)


def make_setting(folder: Path, seconds: float) -> Setting:
    """Choose an evening and free ports.

    The evening is tomorrow's, so that nothing of it lies in the past for a centre with the real date. Its
    speed is such that the sun sets and the street steps down where the story wants them; while the buses pass
    it is the real one, for a bus cannot be hurried.
    """
    hurried_s = seconds - BUSES_S - AFTER_S
    day = datetime.now(ZONE).date() + timedelta(days=1)
    dusk = sunset(Observer(LATITUDE, LONGITUDE), day, tzinfo=ZONE)
    hour, minute = STEP_DOWN.split(":")
    step_down = datetime(day.year, day.month, day.day, int(hour), int(minute), tzinfo=ZONE)
    speed = (step_down - dusk).total_seconds() / ((STEP_DOWN_AT - DUSK_AT) * hurried_s)
    start = dusk - timedelta(seconds=speed * DUSK_AT * hurried_s)
    origin_ms = _monotonic_ms()
    buses = (origin_ms + round(hurried_s * 1000), origin_ms + round((hurried_s + BUSES_S) * 1000))
    ports = iter(_free_ports(8))
    return Setting(
        folder=folder,
        evening=BenchTime(origin_ms, round(start.astimezone(UTC).timestamp() * 1000), speed, (buses,)),
        seconds=seconds,
        hurried_s=hurried_s,
        broker_port=next(ports),
        backhaul_port=next(ports),
        api_port=next(ports),
        fleet_key=secrets.token_bytes(32),
        streets=(
            StreetFiles(
                "rue-de-la-liberte",
                folder / "rue-de-la-liberte",
                next(ports),
                junction_port=next(ports),
                local_port=_free_udp_port(),
            ),
            StreetFiles(
                "quai-nicolas-rolin",
                folder / "quai-nicolas-rolin",
                next(ports),
                pumps_port=next(ports),
                radio_port=_free_udp_port(),
                sensors=_sensors(),
            ),
        ),
    )


def lamp_id(street: StreetFiles, address: int) -> str:
    """Return the id of the lamp at a DALI short address."""
    return f"{street.cabinet}-lamp-{address:02d}"


def junction_id(street: StreetFiles) -> str:
    """Return the id of the street's junction."""
    return f"{street.cabinet}-junction"


def sensor_id(street: StreetFiles, sensor: Sensor) -> str:
    """Return the id of a radio sensor."""
    return f"{street.cabinet}-{sensor.name}"


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


def priority_rules(street: StreetFiles) -> dict[str, object]:
    """Return what the centre publishes for the junction: a green for each of the two lines."""
    return {
        "approaches": [
            {
                "id": f"from-{one.approach}",
                "junction": junction_id(street),
                "signal_group": f"{PREFIX}SG{one.group:03d}",
                "path": one.path(),
                "stop_line_m": STOP_LINE_M,
                "check_in_m": CHECK_IN_M,
                "check_out_m": 8,
            }
            for one in VEHICLES
        ],
        "rules": [
            {"id": f"line-{one.line.lower()}", "approach": f"from-{one.approach}", "routes": [one.line]}
            for one in VEHICLES
        ],
    }


def _sensors() -> tuple[Sensor, ...]:
    makes = (
        ("parking", "bosch-tps110", "parking_space"),
        ("bin", "milesight-em400-mud", "bin"),
        ("weather", "milesight-wts506", "weather_station"),
        ("air", "milesight-am308", "sensor"),
        ("water", "axioma-qalcosonic-w1", "meter"),
        ("noise", "milesight-ws302", "sensor"),
    )
    return tuple(
        Sensor(name, make, kind, f"70b3d5e75e0000{number:02x}", secrets.token_hex(16))
        for number, (name, make, kind) in enumerate(makes, start=1)
    )


def _moved(bearing_deg: float, metres: float) -> dict[str, float]:
    """Return the place so many metres from the junction in a direction; flat, which it is within a town."""
    bearing = math.radians(bearing_deg)
    shrink = math.cos(math.radians(LATITUDE))
    return {
        "latitude": LATITUDE + metres * math.cos(bearing) / METRES_PER_DEGREE,
        "longitude": LONGITUDE + metres * math.sin(bearing) / (METRES_PER_DEGREE * shrink),
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
