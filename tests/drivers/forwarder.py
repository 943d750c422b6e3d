"""A packet forwarder and the devices in its air, for the tests of the network server: real datagrams on a socket."""

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

from protocols.errors import RemoteProtocolError
from protocols.lorawan.frame import DataFrame, JoinAccept, JoinRequest, read_frame
from protocols.lorawan.mac import Command, read_commands
from protocols.lorawan.security import (
    Key,
    SessionKeys,
    full_counter,
    is_genuine,
    open_join_accept,
    open_payload,
    seal,
    seal_join_request,
    session_keys,
)


class Downlink:
    """What a forwarder was told to send."""

    def __init__(self, token: bytes, txpk: Mapping[str, Any]) -> None:
        self.token = token
        self.tmst: int = txpk["tmst"]
        self.freq: float = txpk["freq"]
        self.datr: str = txpk["datr"]
        self.powe: int = txpk["powe"]
        self.txpk = txpk
        self.wire = base64.b64decode(txpk["data"])


class Forwarder(asyncio.DatagramProtocol):
    """One gateway.

    Attributes:
        downlinks: what it was told to send.
        acked: tokens of PUSH_ACK and PULL_ACK.
        errors: what its TX_ACKs say, one after another; "" for none; None for no TX_ACK at all.
        tmst: its clock.
    """

    def __init__(self, eui: int, port: int) -> None:
        self.eui = eui
        self.server = ("127.0.0.1", port)
        self.downlinks: list[Downlink] = []
        self.acked: list[bytes] = []
        self.errors: list[str | None] = []
        self.tmst = 4_294_000_000
        self.on_downlink: Callable[[Downlink], None] = lambda _: None
        self._token = 0
        self._closed = asyncio.Event()
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self, host: str = "127.0.0.1") -> "Forwarder":
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(host, 0))
        return self

    def connection_lost(self, _exc: Exception | None) -> None:
        self._closed.set()

    async def stop(self) -> None:
        if self._transport is not None:
            self._transport.close()
            await self._closed.wait()
            self._transport = None

    def send(self, datagram: bytes) -> None:
        assert self._transport is not None
        self._transport.sendto(datagram, self.server)

    def said(self, identifier: int, body: bytes = b"") -> bytes:
        """Send a datagram; return its token."""
        self._token += 1
        token = self._token.to_bytes(2, "big")
        self.send(b"\x02" + token + bytes((identifier,)) + self.eui.to_bytes(8, "big") + body)
        return token

    def pull(self) -> bytes:
        return self.said(2)

    def push(
        self, wire: bytes, snr: float = 5.0, rssi: float = -90.0, datr: str = "SF7BW125", **more: object
    ) -> int:
        """Say that a frame was heard; return the clock at its end."""
        self.tmst = (self.tmst + 1000) & 0xFFFFFFFF
        rxpk = {
            "tmst": self.tmst,
            "freq": 868.1,
            "stat": 1,
            "modu": "LORA",
            "datr": datr,
            "codr": "4/5",
            "rssi": rssi,
            "lsnr": snr,
            "size": len(wire),
            "data": base64.b64encode(wire).decode(),
            **more,
        }
        self.said(0, json.dumps({"rxpk": [rxpk]}).encode())
        return self.tmst

    def datagram_received(self, data: bytes, _addr: object) -> None:
        if data[3] in {1, 4}:
            self.acked.append(data[1:3])
            return
        downlink = Downlink(data[1:3], json.loads(data[4:])["txpk"])
        self.downlinks.append(downlink)
        self.on_downlink(downlink)
        error = self.errors.pop(0) if self.errors else ""
        if error is not None:
            body = json.dumps({"txpk_ack": {"error": error}}).encode() if error else b""
            self.send(b"\x02" + downlink.token + b"\x05" + self.eui.to_bytes(8, "big") + body)


class RadioDouble:
    """A device as it is on the air."""

    def __init__(self, dev_eui: int, key: bytes, join_eui: int = 0x70B3D57ED0000001) -> None:
        self.dev_eui = dev_eui
        self.join_eui = join_eui
        self.key = Key(key)
        self.nonce = 0
        self.counter = 0
        self.down = -1
        self.dev_addr = 0
        self.keys: SessionKeys | None = None

    def join_request(self, nonce: int | None = None) -> bytes:
        self.nonce = self.nonce + 1 if nonce is None else nonce
        return seal_join_request(self.key, JoinRequest(self.join_eui, self.dev_eui, self.nonce))

    def take_accept(self, wire: bytes) -> JoinAccept:
        accept = open_join_accept(self.key, wire)
        self.keys = session_keys(self.key, accept.app_nonce, accept.net_id, self.nonce)
        self.dev_addr, self.counter, self.down = accept.dev_addr, 0, -1
        return accept

    def uplink(
        self,
        payload: bytes = b"\x01",
        port: int | None = 1,
        *,
        confirmed: bool = False,
        ack: bool = False,
        adr: bool = False,
        wants_answer: bool = False,
        options: bytes = b"",
    ) -> bytes:
        assert self.keys is not None
        frame = DataFrame(
            uplink=True,
            confirmed=confirmed,
            dev_addr=self.dev_addr,
            counter=0,
            ack=ack,
            adr=adr,
            adr_ack_req=wants_answer,
            options=options,
            port=port,
            payload=b"" if port is None else payload,
        )
        wire = seal(self.keys, frame, self.counter)
        self.counter += 1
        return wire

    def hear(self, wire: bytes) -> tuple[DataFrame, bytes, tuple[Command, ...]]:
        """Return a downlink, its plain payload and its commands, as a device takes it; its counter must grow."""
        assert self.keys is not None
        frame = read_frame(wire)
        assert isinstance(frame, DataFrame)
        assert not frame.uplink
        counter = full_counter(frame.counter, self.down + 1)
        if frame.dev_addr != self.dev_addr or not is_genuine(wire, self.keys.network, frame, counter):
            raise RemoteProtocolError("not for this device")
        self.down = counter
        plain = open_payload(self.keys, frame, counter)
        row = plain if frame.port == 0 else frame.options
        return frame, plain, read_commands(row, uplink=False).commands
