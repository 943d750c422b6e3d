"""A packet forwarder before a whole cabinet, and a switch in its air; everything at the pace of the test."""

import base64
import json
import socket
from pathlib import Path

from protocols.model.ids import DeviceId
from tests.edge.bench import WAIT_S
from tests.edge.whole import Whole

SWITCH, BAY = DeviceId("switch-1"), DeviceId("bay-1")
SWITCH_EUI = 0x24E124756B000001
KEY = bytes.fromhex("b6b53f4a168a7a88bdf7ea135ce9cfca")
SWITCH_1_ON = bytes.fromhex("080101")
IT_IS_ON, IT_IS_OFF = bytes.fromhex("083101ff"), bytes.fromhex("083100fe")
PULL_S = 0.1
GATEWAY = bytes.fromhex("b827ebfffe012345")


def free_port() -> int:
    """Return a UDP port that nobody has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def add_radio_line(one: Whole, port: int, bay_silence_s: float = 3600.0) -> None:
    """Put a LoRaWAN line with a switch and a parking space into a cabinet's settings."""
    radio = f"""
[[line]]
id = "radio"
driver = "lorawan-udp"
port = {port}
lead_s = 0.0
dedup_s = 0.02
device_status_s = 0
[[device]]
id = "{SWITCH}"
kind = "cabinet_io"
line = "radio"
address = "{SWITCH_EUI:016x}"
map = "milesight-ws558"
[[device]]
id = "{BAY}"
kind = "parking_space"
line = "radio"
address = "00afee7cf5ed6f1e"
map = "bosch-tps110"
silence_s = {bay_silence_s}
"""
    with Path(one.file).open("a", encoding="utf-8") as file:
        file.write(radio)


class SlowForwarder:
    """One gateway, which sends and hears when it is told to."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(WAIT_S)
        self._server = ("127.0.0.1", port)
        self._token = 0
        self._tmst = 1_000_000

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()

    def _say(self, identifier: int, body: bytes = b"") -> None:
        self._token += 1
        self._send(b"\x02" + self._token.to_bytes(2, "big") + bytes((identifier,)) + GATEWAY + body)

    def _send(self, datagram: bytes) -> None:
        self._socket.sendto(datagram, self._server)  # not connected: nobody may listen yet

    def _next(self, identifier: int) -> bytes:
        while True:
            datagram = self._socket.recv(4096)
            if datagram[3] == identifier:
                return datagram

    def pull(self) -> None:
        """Say that the gateway can be reached, and wait until that is acknowledged."""
        for _ in range(round(WAIT_S / PULL_S)):
            self._say(2)
            self._socket.settimeout(PULL_S)
            try:
                self._next(4)
            except TimeoutError:
                continue  # the line is not open yet
            self._socket.settimeout(WAIT_S)
            return
        raise TimeoutError("nobody acknowledges the gateway")

    def push(self, wire: bytes) -> None:
        """Say that a frame was heard, and wait until that is acknowledged."""
        self._tmst += 10_000_000
        rxpk = {
            "tmst": self._tmst,
            "freq": 868.1,
            "stat": 1,
            "modu": "LORA",
            "datr": "SF7BW125",
            "codr": "4/5",
            "rssi": -90,
            "lsnr": 5.0,
            "size": len(wire),
            "data": base64.b64encode(wire).decode(),
        }
        self._say(0, json.dumps({"rxpk": [rxpk]}).encode())
        self._next(1)

    def downlink(self) -> bytes:
        """Return the next frame that is to be sent, and say that it was."""
        datagram = self._next(3)
        self._send(b"\x02" + datagram[1:3] + b"\x05" + GATEWAY)
        return base64.b64decode(json.loads(datagram[4:])["txpk"]["data"])
