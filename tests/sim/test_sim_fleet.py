"""What a simulated bus tells of itself, heard by a real broker and on a real socket."""

import asyncio
import socket
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from protocols.backhaul.codec import decode_position
from protocols.backhaul.datagram import open_position
from protocols.backhaul.messages import Position
from protocols.backhaul.topics import check_position
from protocols.errors import RemoteProtocolError
from protocols.model.priority import VehicleType
from sim.scenario import ScenarioError, parse
from sim.street import Street
from tests.edge.broker import Broker

KEY = bytes(range(32))
SOON_S = 10.0


def scenario(more: str) -> str:
    return f"""
        control = "sim.sock"
        [[junction]]
        name = "junction-1"
        [[bus]]
        name = "bus-1"
        junction = "junction-1"
        approach = "west"
        line = "L3"
        waits = true
        {more}
    """


def datagrams() -> socket.socket:
    heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    heard.bind(("127.0.0.1", 0))
    heard.settimeout(SOON_S)
    return heard


async def test_a_cabinet_hears_each_second_where_a_bus_is_and_nobody_without_the_key_believes_it(
    tmp_path: Path,
) -> None:
    with datagrams() as heard:
        port = heard.getsockname()[1]
        text = scenario(f'datagram_to = "127.0.0.1:{port}"\nfleet_key = "{KEY.hex()}"')
        async with Street(parse(text), tmp_path) as street:
            street.set("bus-1", {"drive": True})
            told = [await asyncio.to_thread(heard.recv, 2048) for _ in range(3)]
    said = [open_position(datagram, KEY) for datagram in told]
    assert {(one.route, one.direction, one.vehicle_type) for one in said} == {("L3", "1", VehicleType.BUS)}
    assert len({one.pseudonym for one in said}) == 1
    assert said[0].longitude < said[1].longitude < said[2].longitude
    assert said[0].at_ms < said[1].at_ms < said[2].at_ms
    with pytest.raises(RemoteProtocolError):
        open_position(told[0], bytes(32))


async def test_a_broker_passes_on_where_a_bus_is_under_the_topic_of_that_place(tmp_path: Path) -> None:
    heard: asyncio.Queue[tuple[str, Position]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def came(_client: Client, _userdata: object, message: MQTTMessage) -> None:
        said = (message.topic, decode_position(bytes(message.payload)))
        loop.call_soon_threadsafe(heard.put_nowait, said)

    with Broker(tmp_path) as broker:
        listener = Client(CallbackAPIVersion.VERSION2, "listener", protocol=MQTTv5)
        listener.on_message = came
        listener.connect("127.0.0.1", broker.port)
        listener.subscribe("luciole/1/position/#")
        listener.loop_start()
        async with Street(parse(scenario(f'broker = "127.0.0.1:{broker.port}"')), tmp_path) as street:
            street.set("bus-1", {"drive": True})
            async with asyncio.timeout(SOON_S):
                topic, said = await heard.get()
        listener.disconnect()
        listener.loop_stop()
    check_position(topic, said.latitude, said.longitude, said.pseudonym)
    assert said.route == "L3"


async def test_a_bus_that_waits_stands_until_it_is_told_and_each_ride_has_a_name_of_its_own(
    tmp_path: Path,
) -> None:
    async with Street(parse(scenario("")), tmp_path) as street:
        assert street.state().buses["bus-1"].journeys == 0
        street.set("bus-1", {"drive": True})
        street.set("bus-1", {"drive": True})
        street.set("bus-1", {"drive": False})
        assert street.state().buses["bus-1"].journeys == 1


def test_a_datagram_without_its_key_or_a_key_without_it_is_refused() -> None:
    for more in ('datagram_to = "127.0.0.1:9"', f'fleet_key = "{KEY.hex()}"', 'broker = "nowhere"'):
        with pytest.raises(ScenarioError):
            parse(scenario(more))
