"""How a simulated bus tells where it is: over MQTT for everybody who listens, or in a datagram to one cabinet."""

import random
import re
import socket

from paho.mqtt.client import Client, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion

from protocols.backhaul.codec import encode
from protocols.backhaul.datagram import seal_position
from protocols.backhaul.messages import VERSION, Position
from protocols.backhaul.topics import position
from protocols.model.priority import VehicleType
from sim.bus import VehiclePosition
from sim.bus_service import BusSettings
from sim.clock import BenchClock

WHERE = re.compile(r"^([^\s:/]+):(\d{1,5})$")
KEEPALIVE_S = 30


class Fleet:
    """What one bus has on board to tell its position; a new pseudonym for each ride.

    Args:
        settings: whom it tells.
        clock: the bench's; positions carry real time.
        rng: makes pseudonyms.
    """

    def __init__(self, settings: BusSettings, clock: BenchClock, rng: random.Random) -> None:
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._ride = 0
        self._pseudonym = ""
        self._mqtt = _mqtt(settings.name, settings.broker) if settings.broker else None
        self._cabinet = _where(settings.datagram_to) if settings.datagram_to else None
        self._key = bytes.fromhex(settings.fleet_key)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def tell(self, said: VehiclePosition) -> None:
        """Pass on one position; one that nobody takes is lost, as on the road."""
        if said.journey != self._ride:
            self._ride, self._pseudonym = said.journey, f"v-{self._rng.getrandbits(64):016x}"
        message = Position(
            version=VERSION,
            pseudonym=self._pseudonym,
            at_ms=self._clock.now().utc_ms,
            latitude=said.place.latitude,
            longitude=said.place.longitude,
            heading_deg=said.place.heading_deg % 360,
            speed_m_s=said.speed_m_s,
            vehicle_type=VehicleType.BUS,
            route=said.line,
            direction=str(said.direction),
            doors_open=said.doors_open,
        )
        if self._mqtt is not None:
            topic = position(message.latitude, message.longitude, message.pseudonym)
            self._mqtt.publish(topic, encode(message), qos=0)
        if self._cabinet is not None:
            self._send(seal_position(message, self._key))

    def close(self) -> None:
        """Fall silent."""
        self._socket.close()
        if self._mqtt is not None:
            self._mqtt.disconnect()
            self._mqtt.loop_stop()

    def _send(self, datagram: bytes) -> None:
        if self._cabinet is None:
            return
        try:
            self._socket.sendto(datagram, self._cabinet)
        except OSError:
            return  # nobody is there, or the cabinet's network is gone


def _where(text: str) -> tuple[str, int]:
    found = WHERE.match(text)
    if found is None:
        raise ValueError(f"{text!r} is no host:port")
    return found[1], int(found[2])


def _mqtt(name: str, broker: str) -> Client:
    """Return a client that connects by itself, and again, in a thread of its own."""
    client = Client(CallbackAPIVersion.VERSION2, f"bus-{name}", protocol=MQTTv311)
    client.connect_async(*_where(broker), KEEPALIVE_S)
    client.loop_start()
    return client
