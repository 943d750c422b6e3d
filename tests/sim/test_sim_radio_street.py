"""A gateway on a street, over real UDP: two sockets, control socket, and a server that is not there yet."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from sim.report import Counters, StreetState
from sim.scenario import Scenario, parse
from sim.street import Street

SOON_S = 5.0
RADIO = """
[[radio]]
name = "radio-1"
gateway_eui = "0016c001f1500001"
port = {port}
spread_s = 0

[[radio.sensors]]
name = "bin-1"
device = "milesight-em400-mud"
dev_eui = "24e124136b502301"
app_key = "0102030405060708090a0b0c0d0e0f10"
join_eui = "70b3d57ed0000001"
"""


class Server(asyncio.DatagramProtocol):
    """A bare UDP server that only listens.

    Attributes:
        heard: datagrams with the port that each came from.
    """

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[bytes, int]] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard.put_nowait((data, addr[1]))

    async def next(self, kind: int) -> tuple[bytes, int]:
        async with asyncio.timeout(SOON_S):
            while True:
                datagram, port = await self.heard.get()
                if datagram[3] == kind:
                    return datagram, port


@asynccontextmanager
async def listening(port: int = 0) -> AsyncIterator[tuple[Server, int]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", port))
    try:
        yield server, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


def scenario(port: int) -> Scenario:
    return msgspec.structs.replace(parse(RADIO.format(port=port)), control=None)


async def test_a_join_request_arrives_with_its_gateway_from_a_socket_of_its_own(tmp_path: Path) -> None:
    async with listening() as (server, port), Street(scenario(port), tmp_path):
        pull, pulls_from = await server.next(2)
        push, pushes_from = await server.next(0)
        assert pulls_from != pushes_from
        assert pull[4:].hex() == push[4:12].hex() == "0016c001f1500001"
        (rxpk,) = json.loads(push[12:])["rxpk"]
        assert (rxpk["size"], rxpk["stat"], rxpk["datr"]) == (23, 1, "SF7BW125")
        assert rxpk["freq"] in {868.1, 868.3, 868.5}


async def test_a_server_that_is_not_there_harms_nothing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with Street(scenario(port), tmp_path) as street:
        counted = street.counters().radio["radio-1"]
        assert counted.gateway.pulled == 1
        async with listening(port) as (server, _):
            push, _ = await server.next(0)
            assert len(json.loads(push[12:])["rxpk"]) == 1


async def test_state_and_counters_go_through_the_control_sockets_types(tmp_path: Path) -> None:
    async with listening() as (server, port), Street(scenario(port), tmp_path) as street:
        await server.next(0)
        state = msgspec.json.decode(msgspec.json.encode(street.state()), type=StreetState)
        counters = msgspec.json.decode(msgspec.json.encode(street.counters()), type=Counters)
        told = state.radio["radio-1"].sensors["bin-1"]
        assert (told.dev_eui, told.joined, told.counter_down) == ("24e124136b502301", False, -1)
        assert counters.radio["radio-1"].sensors["bin-1"].joins == 1
        assert counters.radio["radio-1"].gateway.received == 1


async def test_a_stopped_street_leaves_no_socket_open(tmp_path: Path) -> None:
    async with listening() as (server, port):
        async with Street(scenario(port), tmp_path) as street:
            await street.fault("radio-1", "garbage")
            await server.next(0)
        while not server.heard.empty():
            server.heard.get_nowait()
        street.radios["radio-1"].receive(struct.pack("<BHB", 2, 0, 3))
        assert street.radios["radio-1"].forwarder.counters.responses == 0
