"""One LoRaWAN line under load: a driver in a process of its own, uplinks as real datagrams, every counter on disk.

CPU is the kernel's account of the driver's process, from the datagram to the published sample. Beside it, in turn,
stands the bare cryptography of one uplink, AES-CMAC and one block of AES, with the key's objects made once. Then the
simulator's attacker sends replays and forgeries; each of them must be judged, and a genuine uplink must still be
taken after them.
"""

import asyncio
import base64
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.cmac import CMAC

from drivers.lora_refusals import Refusal
from drivers.lorawan import open_lorawan
from drivers.settings import DeviceSettings, LoraUdp
from protocols.lorawan.payloads import CODECS
from protocols.model.ids import DeviceId, LineId
from sim.lorawan_attack import Victim, forgeries
from tests.bench.report import Figure, figure
from tests.drivers.air import RealClock, free_port
from tests.drivers.forwarder import RadioDouble

UPLINKS, ATTACKS = 6_000, 10_000
"""Uplinks of one round; attacks in all."""
IN_FLIGHT = 64
"""Datagrams that the server has not acknowledged: as many as a small gateway's kernel would hold."""
AT_ONCE = 1000
"""Uplinks after which the gateway looks whether those before were taken: more in the air at once no radio has."""
LOOK_S = 0.01
"""Between two looks at the counters: to answer costs the driver as much as some uplinks."""
EUI, DEV_EUI, KEY = 0xB827EBFFFE012345, 1, bytes(range(16))
LINE = LineId("lora")
TAKEN = ("uplinks", "busy", "not_kept")
"""What becomes of a genuine uplink."""
REFUSED = tuple(reason.value for reason in Refusal)


async def serve(port: int, folder: Path) -> None:
    """Be the driver; tell the counters whenever a line comes in."""
    kind = CODECS["bosch-tps110"].kind
    device = DeviceSettings(
        id=DeviceId("bay"), kind=kind, line=LINE, address=f"{DEV_EUI:016x}", map="bosch-tps110"
    )
    line = LoraUdp(id=LINE, port=port, device_status_s=0)
    driver = open_lorawan(line, [device], RealClock(), folder)
    await driver.admit(device.id, KEY)
    task = asyncio.create_task(driver.run())
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(driver.counters()), flush=True)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Line:
    """The driver's process, and a gateway's socket to it."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        code = [sys.executable, "-m", "tests.bench.lorawan", str(self.port), str(folder)]
        with (folder / "driver.log").open("ab") as log:  # each kind of refusal is told once
            self.process = subprocess.Popen(
                code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", self.port))
        self.socket.settimeout(0.2)
        self.unacknowledged = 0

    def close(self) -> None:
        self.socket.close()
        self.process.communicate("", timeout=20)

    def counters(self) -> dict[str, int]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = next(line for line in self.process.stdout if line.startswith("{"))
        return msgspec.json.decode(line, type=dict[str, int])

    def wait(self, names: Sequence[str], number: int) -> None:
        """Wait until so many were counted under these names together."""
        assert self.comes_to(names, number, 30.0), (
            f"{number} were sent, and not counted as {', '.join(names)}"
        )

    def comes_to(self, names: Sequence[str], number: int, within_s: float) -> bool:
        """Tell whether so many are counted within so long."""
        begun = time.monotonic()
        while sum(self.counters()[name] for name in names) < number:
            if time.monotonic() - begun > within_s:
                return False
            time.sleep(LOOK_S)
        return True

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime, proc(5)

    def say(self, identifier: int, body: bytes = b"") -> None:
        self.socket.send(b"\x02\x00\x01" + bytes((identifier,)) + EUI.to_bytes(8, "big") + body)

    def heard(self, wanted: int) -> bytes:
        """Return the next datagram of a kind."""
        while (datagram := self.socket.recv(2000))[3] != wanted:
            pass
        return datagram

    def join(self, radio: RadioDouble) -> bytes:
        """Let a device join; return its join request, which an attacker may have overheard."""
        for _ in range(100):
            try:
                self.say(2)
                self.heard(4)
                break
            except OSError:
                time.sleep(0.05)
        self.socket.settimeout(10)
        request = radio.join_request()
        self.say(0, rxpk(request))
        radio.take_accept(base64.b64decode(json.loads(self.heard(3)[4:])["txpk"]["data"]))
        return request

    def push(self, datagram: bytes) -> None:
        """Push, with a bounded number that is not acknowledged yet."""
        self.say(0, datagram)
        self.unacknowledged += 1
        while self.unacknowledged >= IN_FLIGHT:
            self.heard(1)
            self.unacknowledged -= 1


def rxpk(wire: bytes) -> bytes:
    text = {"tmst": 1, "freq": 868.1, "stat": 1, "modu": "LORA", "datr": "SF7BW125", "codr": "4/5"}
    levels = {"rssi": -90, "lsnr": 5.5, "size": len(wire), "data": base64.b64encode(wire).decode()}
    return json.dumps({"rxpk": [text | levels]}).encode()


def bare_us(frames: list[bytes]) -> float:
    """Return the CPU time of an uplink's cryptography alone."""
    cmac, ecb = CMAC(AES(KEY)), Cipher(AES(KEY), ECB()).encryptor()  # noqa: S305  the standard's building block
    begun = time.process_time()
    for frame in frames:
        mic = cmac.copy()
        mic.update(frame[:-4])
        mic.finalize()
        ecb.update(KEY)
    return (time.process_time() - begun) / len(frames) * 1e6


class Round(msgspec.Struct, frozen=True):
    """One round of uplinks.

    Attributes:
        per_s: uplinks told in a second.
        cpu_us: CPU microseconds for each of them.
        bare_us: CPU microseconds of the bare cryptography of each.
        frames: what was sent.
    """

    per_s: float
    cpu_us: float
    bare_us: float
    frames: list[bytes]


def round_of(line: Line, radio: RadioDouble) -> Round:
    """Send uplinks as fast as the line takes them."""
    frames = [radio.uplink(b"\x01\x14", 2) for _ in range(UPLINKS)]
    datagrams = [rxpk(frame) for frame in frames]
    before = sum(line.counters()[name] for name in TAKEN)
    cpu_s, begun = line.cpu_s(), time.monotonic()
    for sent, datagram in enumerate(datagrams, start=1):
        line.push(datagram)
        if not sent % AT_ONCE:
            line.wait(TAKEN, before + sent - AT_ONCE)
    line.wait(TAKEN, before + UPLINKS)
    took_s, cpu_s = time.monotonic() - begun, line.cpu_s() - cpu_s
    return Round(UPLINKS / took_s, cpu_s / UPLINKS * 1e6, bare_us(frames), frames)


def accepted_of(line: Line, victim: Victim) -> int:
    """Attack, and return how many of the attacks were believed."""
    before = line.counters()
    refused = sum(before[name] for name in REFUSED)
    for forgery in forgeries(victim, ATTACKS, 1):
        line.push(rxpk(forgery.frame))
    line.wait([*REFUSED, "uplinks", "joins"], refused + before["uplinks"] + before["joins"] + ATTACKS)
    after = line.counters()
    return after["uplinks"] - before["uplinks"] + after["joins"] - before["joins"]


def figures(folder: Path, rounds: int) -> list[Figure]:
    """Measure."""
    folder.mkdir()
    radio = RadioDouble(DEV_EUI, KEY)
    line = Line(folder)
    try:
        joined = line.join(radio)
        played = [round_of(line, radio) for _ in range(rounds)]
        counted = line.counters()
        overheard = tuple(played[-1].frames[-50:])
        victim = Victim(radio.dev_addr, overheard, radio.counter, DEV_EUI, radio.join_eui, (joined,))
        accepted = accepted_of(line, victim)
        told = line.counters()["uplinks"]
        line.push(rxpk(radio.uplink(b"\x01\x14", 2)))
        deaf = not line.comes_to(["uplinks"], told + 1, within_s=2.0)
    finally:
        line.close()
    bare = statistics.median(one.bare_us for one in played)
    per_s, cpu_us = (statistics.median(getattr(one, name) for one in played) for name in ("per_s", "cpu_us"))
    sent = rounds * UPLINKS + 1
    lost = sent - 1 - counted["uplinks"] + deaf
    together = counted["uplinks"] / counted["commits"]
    said = f"{rounds} rounds of {UPLINKS} in turn; bare AES-CMAC and decryption"
    return [
        figure("lorawan_uplinks_per_s", per_s, "1/s", "", f"{said} {1e6 / bare:.0f}/s"),
        figure("lorawan_cpu_us_per_uplink", cpu_us, "us", "", f"{said} {bare:.2f} us"),
        figure("lorawan_uplinks_per_commit", together, "uplinks", "", "1 if each were synced by itself"),
        figure("lorawan_uplinks_lost", lost, "uplinks", "= 0", f"{sent} sent, the last one after the attack"),
        figure(
            "replays_and_forgeries_accepted", accepted, "frames", "= 0", f"{ATTACKS} sent, each one judged"
        ),
    ]


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
