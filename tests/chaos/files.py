"""The street that counts its reads, and the two cabinets before it: 1,000 readings a second together.

Each cabinet has three streams with readings in them. Two are sealed by their number, several times a second and about
once a second; the third by time alone, as most of a real street's are.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from tests.chaos.count import Ownership, Register
from tests.chaos.plan import CABINETS

JOURNAL = "given.jsonl"
CONTROL = "sim.sock"
SEAL_S = 5.0
"""As the product ships; written down because what is excused depends on it. The keep-alive alone is another than the
product's 30 s, so that a connection of which one end is gone is noticed within the run."""


class Group(msgspec.Struct, frozen=True):
    """Equal devices of one cabinet.

    Attributes:
        stream: the class of their readings, and their name.
        devices: how many.
        registers: of each.
        poll_s: how often each register is read.
    """

    stream: str
    devices: int
    registers: int
    poll_s: float

    @property
    def readings_per_s(self) -> float:
        """What is asked of them together."""
        return self.devices * self.registers / self.poll_s


GROUPS = (
    Group("critical", 1, 30, 0.25),
    Group("ordinary", 3, 30, 0.25),
    Group("bulk", 1, 20, 1.0),
)
ASKED_PER_S = len(CABINETS) * sum(group.readings_per_s for group in GROUPS)


def devices_of(cabinet: str) -> Iterator[tuple[str, Group]]:
    """Yield the simulated devices behind a cabinet, by the names that they have everywhere."""
    for group in GROUPS:
        for number in range(1, group.devices + 1):
            yield f"{cabinet}-{group.stream}" + (f"-{number}" if group.devices > 1 else ""), group


OWNERS = {
    device: Ownership(cabinet, group.stream) for cabinet in CABINETS for device, group in devices_of(cabinet)
}
REGISTERS = [
    Register(device, point_of)
    for cabinet in CABINETS
    for device, group in devices_of(cabinet)
    for point_of in (f"r{address:02d}" for address in range(group.registers))
]


def scenario() -> str:
    """Return the street."""
    counters = [
        f'[[counter]]\nname = "{cabinet}-{group.stream}"\ncount = {group.devices}\n'
        f'registers = {group.registers}\njournal = "{JOURNAL}"\n'
        for cabinet in CABINETS
        for group in GROUPS
    ]
    return "".join([f'control = "{CONTROL}"\n', *counters])


def settings(cabinet: str, folder: Path, ports: Mapping[str, int], broker_port: int) -> str:
    """Return a cabinet's settings.

    Args:
        cabinet: its id.
        folder: where it keeps its files, in one of its name.
        ports: of the simulated devices.
        broker_port: where it finds the broker: at the proxy.
    """
    head = f"""\
[cabinet]
id = "{cabinet}"
directory = "{folder / cabinet}"

[backhaul]
url = "mqtt://127.0.0.1:{broker_port}"
keepalive_s = 5

[outbox]
seal_s = {SEAL_S}
"""
    maps = [
        f'\n[[map]]\nname = "{group.stream}"\n[[map.run]]\nprefix = "r"\ntable = "holding"\naddress = 0\n'
        f'count = {group.registers}\nreport = "each"\npoll_s = {group.poll_s}\nnot_available = []\n'
        for group in GROUPS
    ]
    lines = [
        # an answer that comes is always taken: a count is absent for no other reason than a fault
        f'\n[[line]]\nid = "{device}"\ndriver = "modbus-tcp"\nhost = "127.0.0.1"\nport = {ports[device]}\n'
        f'timeout_s = 10.0\n[[device]]\nid = "{device}"\nline = "{device}"\nkind = "sensor"\naddress = 1\n'
        f'map = "{group.stream}"\nstream = "{group.stream}"\n'
        for device, group in devices_of(cabinet)
    ]
    return "".join([head, *maps, *lines])
