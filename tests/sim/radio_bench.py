"""A gateway with sensors in virtual time, and a network server that does what a test tells it.

The server stands on the product's own codec, which shares no code with the simulator: each is the other's witness.
"""

import base64
import json
from collections.abc import Callable
from typing import Any

from protocols.lorawan.frame import DataFrame, JoinAccept, JoinRequest, read_frame
from protocols.lorawan.security import (
    Key,
    SessionKeys,
    is_genuine,
    is_genuine_join,
    open_payload,
    seal,
    seal_join_accept,
    session_keys,
)
from sim.radio import Radio
from sim.radio_settings import RadioSettings, SensorSettings
from sim.radio_truth import Truth
from sim.schedule import VirtualSchedule

NOON_MS = 1_782_900_000_000  # 2026-07-01T10:00Z
GATEWAY = "0016c001f1500001"
DEV_ADDR = 0x26012E22
CF_LIST = (867_100_000, 867_300_000, 867_500_000, 867_700_000, 867_900_000)
LEAD_S = 0.1


def sensor(index: int = 1, device: str = "milesight-em400-mud", **changes: object) -> SensorSettings:
    fields: dict[str, Any] = {
        "name": f"sensor-{index}",
        "device": device,
        "dev_eui": f"{index:016x}",
        "app_key": f"{index:032x}",
        "join_eui": "70b3d57ed0000001",
        "every_s": 60.0,
    }
    return SensorSettings(**fields | changes)


class Bench:
    """A radio in virtual time and the server that it talks to.

    Attributes:
        rxpk: everything that the server was told, in order.
        answers: TX_ACKs by what they said.
        on_rxpk: what the server does with what it is told; by default it lets in and acknowledges nothing more.
    """

    def __init__(
        self, *sensors: SensorSettings, counter_us: int = 0, collisions: bool = False, seed: int = 1
    ) -> None:
        self.schedule = VirtualSchedule(1000.0)
        settings = RadioSettings("radio-1", GATEWAY, sensors=sensors, spread_s=0.0, collisions=collisions)
        self.radio = Radio(
            settings,
            self.schedule,
            seed=seed,
            truth=self.truth,
            utc_ms=lambda: NOON_MS,
            counter_us=counter_us,
        )
        self.keys = {int(one.dev_eui, 16): Key(bytes.fromhex(one.app_key)) for one in sensors}
        self.sessions: dict[int, SessionKeys] = {}
        self.pushed: list[bytes] = []
        self.pulled: list[bytes] = []
        self.rxpk: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self.uplinks: list[tuple[DataFrame, bytes]] = []
        self.spoiled: list[bytes] = []
        self.silent = False
        self.counter_down = 0
        self.on_rxpk: Callable[[dict[str, Any]], None] = self.let_in
        self._token = 0

    def start(self) -> None:
        self.radio.begin(self.push, self.pull)

    def truth(self, place: str) -> Truth:
        return Truth(place, NOON_MS + round((self.schedule.time() - 1000.0) * 1000), 55.0)

    def run(self, for_s: float) -> None:
        self.schedule.run_until(self.schedule.time() + for_s)

    # --- the server -----------------------------------------------------------------------------------

    def push(self, datagram: bytes) -> None:
        self.pushed.append(datagram)
        if self.silent or datagram[:1] != b"\x02" or datagram[3:4] != b"\x00":
            return
        self.radio.receive(datagram[:3] + b"\x01")
        for rxpk in json.loads(datagram[12:]).get("rxpk", []):
            self.rxpk.append(rxpk)
            self.on_rxpk(rxpk)

    def pull(self, datagram: bytes) -> None:
        self.pulled.append(datagram)
        if datagram[3] == 2 and not self.silent:
            self.radio.receive(datagram[:3] + b"\x04")
        elif datagram[3] == 5:
            self.answers.append(json.loads(datagram[12:])["txpk_ack"])

    def let_in(self, rxpk: dict[str, Any]) -> None:
        """Answer genuine join requests, and open genuine data."""
        wire = payload(rxpk)
        if rxpk["stat"] != 1:
            self.spoiled.append(wire)
            return
        frame = read_frame(wire)
        if isinstance(frame, JoinRequest):
            assert is_genuine_join(wire, self.keys[frame.dev_eui])
            self.accept(rxpk, frame)
        elif isinstance(frame, DataFrame):
            keys = self.sessions[frame.dev_addr]
            assert is_genuine(wire, keys.network, frame, frame.counter)
            self.uplinks.append((frame, open_payload(keys, frame, frame.counter)))

    def accept(self, rxpk: dict[str, Any], request: JoinRequest, window: int = 1) -> None:
        """Let a sensor in; `window` 2 answers in RX2."""
        key = self.keys[request.dev_eui]
        dev_addr = DEV_ADDR + request.dev_eui
        fields: dict[str, Any] = {
            "app_nonce": 0x010203,
            "net_id": 0x13,
            "dev_addr": dev_addr,
            "cf_list": CF_LIST,
        }
        accept = JoinAccept(**fields)
        self.sessions[dev_addr] = session_keys(key, accept.app_nonce, accept.net_id, request.dev_nonce)
        self.respond(rxpk, seal_join_accept(key, accept), 5.0, window=window)

    def sealed(self, dev_addr: int, *, counter: int | None = None, **fields: object) -> bytes:
        """Return a genuine downlink."""
        number = self.counter_down if counter is None else counter
        self.counter_down = max(self.counter_down, number + 1)
        given: dict[str, Any] = {
            "uplink": False,
            "confirmed": False,
            "dev_addr": dev_addr,
            "counter": number & 0xFFFF,
        }
        return seal(self.sessions[dev_addr], DataFrame(**given | fields), number)

    def respond(
        self, rxpk: dict[str, Any], frame: bytes, delay_s: float, *, window: int = 1, **changes: object
    ) -> None:
        """Ask for a downlink in one of the windows after an uplink, a little before its moment."""
        at_s = delay_s + (window - 1)
        txpk = {
            "imme": False,
            "tmst": (rxpk["tmst"] + round(at_s * 1e6)) % 2**32,
            "freq": rxpk["freq"] if window == 1 else 869.525,
            "datr": rxpk["datr"] if window == 1 else "SF12BW125",
            "rfch": 0,
            "powe": 14,
            "modu": "LORA",
            "codr": "4/5",
            "ipol": True,
            "ncrc": True,
            "size": len(frame),
            "data": base64.b64encode(frame).decode().rstrip("="),
        }
        asked = {name: value for name, value in (txpk | changes).items() if value is not None}
        when_s = self.schedule.time() + at_s - LEAD_S
        self.schedule.call_at(when_s, lambda: self.ask(asked))

    def ask(self, txpk: dict[str, Any]) -> None:
        self._token = (self._token + 1) % 65536
        head = b"\x02" + self._token.to_bytes(2) + b"\x03"
        self.radio.receive(head + json.dumps({"txpk": txpk}).encode())


def payload(rxpk: dict[str, Any]) -> bytes:
    wire = base64.b64decode(rxpk["data"])
    assert len(wire) == rxpk["size"]
    return wire
