"""The floor of the street bench: the least that anything which polls these devices has to do.

One block read a device and second with pymodbus, one MessagePack batch a second, paho QoS 1; no store, no
quality, no acknowledgement by a centre, nothing kept when the broker is away.

    python -m tests.bench.floor BROKER_PORT REGISTERS MODBUS_PORT…
"""

import asyncio
import sys
import time

import msgspec
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from pymodbus.client import AsyncModbusTcpClient


async def poll(clients: list[AsyncModbusTcpClient], registers: int, mqtt: Client) -> None:
    """Read every device each second and publish what came."""
    encoder = msgspec.msgpack.Encoder()
    due = time.monotonic()
    while True:
        answers = await asyncio.gather(
            *(client.read_holding_registers(0, count=registers) for client in clients)
        )
        batch = [[position, time.time(), answer.registers] for position, answer in enumerate(answers)]
        mqtt.publish("floor/batch", encoder.encode(batch), qos=1)
        due += 1.0
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def main() -> None:
    """Connect to everything and poll for ever."""
    broker_port, registers, *ports = (int(argument) for argument in sys.argv[1:])
    mqtt = Client(CallbackAPIVersion.VERSION2, "floor", protocol=MQTTv5)
    mqtt.connect("127.0.0.1", broker_port)
    mqtt.loop_start()
    clients = [AsyncModbusTcpClient("127.0.0.1", port=port) for port in ports]
    await asyncio.gather(*(client.connect() for client in clients))
    print("polling", flush=True)
    await poll(clients, registers, mqtt)


if __name__ == "__main__":
    asyncio.run(main())
