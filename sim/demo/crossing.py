"""The junction's part of the story: two buses and their green, the second with the backhaul cut."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sim.demo.asking import Api, agent_status, ask_socket, street_counters
from sim.demo.cut import Backhaul
from sim.demo.setting import TOLD_BY_BROKER, TOLD_BY_ITSELF, Setting, Vehicle, priority_rules
from sim.report import Counters

Check = Callable[[str, Callable[[], Awaitable[bool]], float], Awaitable[None]]
PASSAGE_S = 45.0
"""A bus that arrives at the worst moment waits for the minimum greens of all others."""
READY_S = 30.0
LEASE_S = 3600
GRANTED = {"activated", "completed"}


class Crossing:
    """Plays what happens at the junction, and sees whether it comes true."""

    def __init__(
        self, setting: Setting, api: Api, backhaul: Backhaul, tell: Callable[[str], None], check: Check
    ) -> None:
        self._setting = setting
        self._street = setting.streets[0]
        self._api = api
        self._backhaul = backhaul
        self._tell = tell
        self._check = check

    async def publish(self) -> None:
        """Let the operator write the rules, and the centre sign and send them under a lease."""
        where = f"/cabinets/{self._street.cabinet}/priority"
        await self._api.send("PUT", where, priority_rules(self._street))
        await self._api.send("POST", f"{where}/publish", {"lease_s": LEASE_S})
        self._tell("and signed rules for the junction: a green for lines 3 and 5")

    async def play(self) -> None:
        """Let the buses come, one after the other."""
        await self._check("the signal controller is in control", self._is_in_control, READY_S)
        self._tell("line 3 comes from the west; a bus cannot be hurried, the evening runs at real speed")
        await self._drive(TOLD_BY_BROKER)
        await self._check(
            "the controller has granted it a green, the centre knows", self._known(1), PASSAGE_S
        )
        await self._check("line 3 has passed, the request is cancelled", self._completed(1), PASSAGE_S)
        self._tell("the backhaul is cut")
        self._backhaul.cut()
        self._tell("line 5 comes from the north, and tells the cabinet itself where it is")
        await self._drive(TOLD_BY_ITSELF)
        await self._check(
            "nobody is there to ask, and the controller grants it a green", self._granted(2), PASSAGE_S
        )
        await self._check("line 5 has passed", self._completed(2), PASSAGE_S)
        await self._check("the cabinets go on and keep their readings", self._outboxes_fill, 15.0)
        self._tell("the backhaul is back")
        self._backhaul.mend()
        await self._check("the outboxes are drained", self._outboxes_are_empty, 20.0)
        await self._check("the centre learns of the second green", self._known(2), 10.0)

    async def _drive(self, vehicle: Vehicle) -> None:
        request = {"do": "set", "target": vehicle.name, "switches": {"drive": True}}
        await ask_socket(self._street.sim_socket, request)

    # What can be seen

    async def _is_in_control(self) -> bool:
        latest = await self._api.get(f"/cabinets/{self._street.cabinet}/latest", limit="1000")
        return any(
            one["point"] == "control_mode" and one["value"] == "control"
            for one in (latest or {"items": []})["items"]
        )

    def _known(self, count: int) -> Callable[[], Awaitable[bool]]:
        """Tell whether the centre has so many requests that the controller has granted."""

        async def look() -> bool:
            found: Any = await self._api.get("/priority-requests", cabinet=self._street.cabinet)
            return sum(one["state"] in GRANTED for one in (found or {"items": []})["items"]) >= count

        return look

    def _granted(self, count: int) -> Callable[[], Awaitable[bool]]:
        """Tell whether the controller, by its own book, has granted so many."""

        async def look() -> bool:
            counters = await self._counters()
            if counters is None:
                return False
            states = [one.priority.states for one in counters.junctions.values()]
            return sum(one.get("activated", 0) for one in states) >= count

        return look

    def _completed(self, count: int) -> Callable[[], Awaitable[bool]]:
        """Tell whether so many granted requests have been cancelled as they should, by the controller's own book."""

        async def look() -> bool:
            counters = await self._counters()
            return counters is not None and sum(one.granted for one in counters.junctions.values()) >= count

        return look

    async def _counters(self) -> Counters | None:
        return await street_counters(self._street.sim_socket)

    async def _outboxes_fill(self) -> bool:
        return all(count > 0 for count in await self._waiting())

    async def _outboxes_are_empty(self) -> bool:
        return self._backhaul.whole and all(0 <= count <= 5 for count in await self._waiting())

    async def _waiting(self) -> list[int]:
        told = await asyncio.gather(*(agent_status(street.agent_socket) for street in self._setting.streets))
        return [-1 if status is None else int(status["outbox"]["batches"]) for status in told]
