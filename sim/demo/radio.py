"""The radio's part of the story: sensors are let in, somebody forges them, and nobody is fooled."""

import asyncio
import base64

from sim.demo.asking import Api, ask_socket
from sim.demo.files import RADIO
from sim.demo.processes import StartError
from sim.demo.setting import Setting, sensor_id

ATTACK_EVERY_S = 1.0
LAST_FRAMES_S = 1.5
"""What is on the air when the sensors fall silent is heard within it."""


class Radio:
    """Plays what happens on the air, and sees whether it comes true."""

    def __init__(self, setting: Setting, api: Api) -> None:
        self._streets = [street for street in setting.streets if street.sensors]
        self._api = api

    async def let_in(self) -> None:
        """Give each sensor's key to its cabinet, as a technician does with `luciole-edge join`."""
        for street in self._streets:
            for sensor in street.sensors:
                key = base64.b64encode(bytes.fromhex(sensor.app_key)).decode()
                request = {"ask": "join", "device": sensor_id(street, sensor), "key": key}
                answer = await ask_socket(street.agent_socket, request)
                if answer is None or answer["error"]:
                    raise StartError(f"{street.cabinet} does not let {sensor.name} in: {answer}")

    async def attack(self) -> None:
        """Let somebody forge frames and send old ones again, to the end."""
        for street in self._streets:
            for fault in ("forged", "replay"):
                request = {
                    "do": "fault",
                    "target": RADIO,
                    "name": fault,
                    "settings": {"every_s": ATTACK_EVERY_S},
                }
                await ask_socket(street.sim_socket, request)

    async def silence(self) -> None:
        """Let the sensors say no more."""
        for street in self._streets:
            for sensor in street.sensors:
                request = {"do": "fault", "target": f"{RADIO}/{sensor.name}", "name": "silent"}
                await ask_socket(street.sim_socket, request)
        if self._streets:
            await asyncio.sleep(LAST_FRAMES_S)

    async def all_heard(self) -> bool:
        """Tell whether the centre has good readings of each sensor."""
        for street in self._streets:
            latest = await self._api.get(f"/cabinets/{street.cabinet}/latest", limit="1000")
            heard = {
                one["device"]
                for one in (latest or {"items": []})["items"]
                if one["point"] == "frame_counter" and one["quality"] == "good"
            }
            if not {sensor_id(street, sensor) for sensor in street.sensors} <= heard:
                return False
        return True
