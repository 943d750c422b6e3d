"""A small street of the simulator, and the settings of a cabinet that stands before it."""

import base64
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.clock import SystemClock
from protocols.backhaul.messages import SignedPolicy
from protocols.backhaul.signing import sign
from protocols.clock import Instant
from protocols.model.ids import KeyId
from protocols.model.lighting import (
    AbsolutePeriod,
    Assignment,
    Calendar,
    ControlProgram,
    FixedTimeControl,
    LightingPolicy,
    Place,
)
from protocols.model.policy import Policy, PolicyKind
from sim.report import Ports
from sim.scenario import Scenario, parse
from tests.edge.bench import CABINET

SECRET = Ed25519PrivateKey.from_private_bytes(bytes(32))
KEY = KeyId("city-2026")
ARC = {0: 0, 10: 170, 20: 195, 30: 210, 50: 229, 100: 254}
"""Arc power level of a percentage on the logarithmic curve, as IEC 62386-102 tabulates it."""


class EveningClock(SystemClock):
    """Real time, and a civil time that stands where it was put."""

    def __init__(self, local: str) -> None:
        super().__init__()
        self.later_ms = 0
        self.put(local)

    def put(self, local: str) -> None:
        """Put the civil time to a local time of Paris."""
        moment = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo("Europe/Paris"))
        self.civil_ms = round(moment.astimezone(UTC).timestamp() * 1000)

    def civil(self) -> Instant:
        """Return the moment that was put, `later_ms` of monotonic time later than it is."""
        now = self.now()
        return Instant(now.monotonic_ms + self.later_ms, self.civil_ms, now.quality)


def scenario(lamps: int = 3, counters: int = 0) -> Scenario:
    """Return a bench of a few lamps, a cabinet, a meter and some counting devices."""
    return parse(
        f"""
[[dali]]
name = "dali-1"
port = "dali-1"
gear = {lamps}
[[rtu]]
name = "rtu-1"
port = "rtu-1"
baud = 115200
parity = "none"
[rtu.cabinet]
[meter]
[[counter]]
count = {max(counters, 1)}
registers = 4
"""
    )


def settings_text(folder: Path, ports: Ports, broker: str, lamps: int = 3, extra: str = "") -> str:
    """Return the settings of the cabinet before a bench."""
    devices = "".join(
        f"""
[[device]]
id = "lamp-{n:02d}"
kind = "lamp"
line = "dali-1"
address = {n}
groups = ["street"]
poll_s = 1
"""
        for n in range(lamps)
    )
    public = base64.b64encode(SECRET.public_key().public_bytes_raw()).decode()
    meter = ports.tcp["meter"]
    return f"""
[cabinet]
id = "{CABINET}"
directory = "state"
limits = "limits.toml"
[backhaul]
url = "{broker}"
[outbox]
seal_s = 0.2
drain_s = 10
[[trusted_key]]
id = "{KEY}"
public = "{public}"
[[line]]
id = "dali-1"
driver = "dali-luba"
port = "{folder / "dali-1"}"
reconnect_bound_s = 0.5
[[line]]
id = "rtu-1"
driver = "modbus-rtu"
port = "{folder / "rtu-1"}"
baudrate = 115200
worst_delay_s = 0.2
[[line]]
id = "meter"
driver = "modbus-tcp"
host = "{meter[0]}"
port = {meter[1]}
{devices}
[[device]]
id = "cabinet-io"
kind = "cabinet_io"
line = "rtu-1"
address = 1
map = "cabinet_io"
stream = "critical"
poll_s = 0.2
[[device]]
id = "meter-1"
kind = "meter"
line = "meter"
address = 1
map = "sdm630"
poll_s = 0.2
{extra}
"""


def write_settings(folder: Path, text: str, limits: str = "") -> Path:
    """Write the settings and the limits file; return the settings."""
    (folder / "limits.toml").write_text(limits, encoding="utf-8")
    file = folder / "cabinet.toml"
    file.write_text(text, encoding="utf-8")
    return file


def lighting(level: int = 100, later: int = 50) -> LightingPolicy:
    """Return a policy of one level from noon and another from 22:00."""
    program = ControlProgram(
        "night", (AbsolutePeriod("12:00", "11:59", level=level),), (FixedTimeControl("22:00", later),)
    )
    return LightingPolicy(
        Place(47.32, 5.04, "Europe/Paris"),
        (program,),
        (Calendar("always", "night"),),
        (Assignment("always", groups=("street",)),),
    )


def signed(version: int = 1, wanted: LightingPolicy | None = None, **parts: object) -> SignedPolicy:
    """Return a signed policy for the cabinet."""
    policy = Policy(CABINET, PolicyKind.LIGHTING, version, 0, 2**50, KEY, wanted or lighting())
    return sign(msgspec.structs.replace(policy, **parts), SECRET)
