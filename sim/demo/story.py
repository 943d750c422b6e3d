"""What happens on the demonstration's evening, and whether it came true as anybody can see it through the API."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import httpx
import msgspec

from sim.demo.asking import Api, ask_socket
from sim.demo.crossing import Crossing
from sim.demo.cut import Backhaul
from sim.demo.processes import StartError
from sim.demo.radio import Radio
from sim.demo.setting import (
    DUSK_AT,
    LAMPS,
    LATITUDE,
    LONGITUDE,
    SQUARE,
    STEP_DOWN_AT,
    TIMEZONE,
    Setting,
    control_program,
    lamp_id,
)

OVERRIDE_LEVEL = 30
OVERRIDE_FOR = 0.16
"""Of the hurried part of the evening."""
FAILING_LAMP = 7
LOOK_S = 0.3
REACH_S = 30.0
"""How long a cabinet may take to be known at the centre."""


class Scene(msgspec.Struct, frozen=True):
    """Something that happens at a share of the evening's hurried part, and by when it must have come true."""

    at: float
    what: str
    act: Callable[[], Awaitable[None]]
    came_true: Callable[[], Awaitable[bool]]
    as_seen: str
    within_s: float = 15.0


class Story:
    """Plays the evening.

    Attributes:
        missed: what did not come true.
        over: whether it was told to its end.
    """

    def __init__(self, setting: Setting, api: Api, backhaul: Backhaul, tell: Callable[[str], None]) -> None:
        self.missed: list[str] = []
        self.over = False
        self._setting = setting
        self._api = api
        self._tell = tell
        self._crossing = Crossing(setting, api, backhaul, tell, self.check)
        self._radio = Radio(setting, api)
        self._broken: set[str] = set()
        self._checks: list[asyncio.Task[None]] = []

    async def publish(self) -> None:
        """Let the operator write the program, and the centre sign and send it."""
        api = self._api
        await api.send("PUT", "/control-programs/residential", control_program())
        calendar = {"id": "every-night", "default_program": "residential"}
        await api.send("PUT", "/calendars/every-night", calendar)
        place = {"latitude": LATITUDE, "longitude": LONGITUDE, "timezone": TIMEZONE}
        for street in self._setting.streets:
            body = {"place": place, "assignments": [{"calendar": "every-night", "groups": ["street"]}]}
            await self._when_known(street.cabinet)
            await api.send("PUT", f"/cabinets/{street.cabinet}/lighting", body)
            await api.send("POST", f"/cabinets/{street.cabinet}/lighting/publish", {})
        self._tell("the operator publishes a signed lighting policy: dusk to dawn, 70 % from 22:00 to 05:00")
        await self._crossing.publish()
        await self._radio.let_in()
        await self.check("both cabinets accept what is for them", self._policies_in_force, 15.0)

    async def play(self, elapsed_s: Callable[[], float]) -> None:
        """Let each scene begin when its time has come, see whether it comes true, then let the buses come."""
        for scene in sorted(self._scenes(), key=lambda one: one.at):
            await _until(scene.at * self._setting.hurried_s, elapsed_s)
            if scene.what:
                self._tell(scene.what)
            await scene.act()
            check = self.check(scene.as_seen, scene.came_true, scene.within_s)
            self._checks.append(asyncio.create_task(check))
        await _until(self._setting.hurried_s, elapsed_s)
        await self._crossing.play()
        await asyncio.gather(*self._checks)
        await _until(self._setting.seconds, elapsed_s)
        self.over = True

    async def silence_sensors(self) -> None:
        """Let the radio sensors say no more, so that what they said can be counted."""
        await self._radio.silence()

    def _scenes(self) -> list[Scene]:
        square = self._setting.streets[0].cabinet
        return [
            Scene(
                0.12,
                "somebody without a key sends radio frames in the sensors' name, and old ones again",
                self._radio.attack,
                self._radio.all_heard,
                "the centre has readings of all six radio sensors, and of nobody else",
                45.0,
            ),
            Scene(
                DUSK_AT, "the sun sets", _nothing, self._all_at(100), f"all {2 * LAMPS} lamps rise to 100 %"
            ),
            Scene(
                0.42,
                f"the operator wants {OVERRIDE_LEVEL} % on the square of {square}",
                self._begin_override,
                self._square_at(OVERRIDE_LEVEL),
                f"its {SQUARE} lamps are at {OVERRIDE_LEVEL} %, verified lamp by lamp",
            ),
            Scene(
                0.44 + OVERRIDE_FOR,
                "",
                _nothing,
                self._square_at(100),
                "the override is over, the square is back in its program",
            ),
            Scene(
                0.70,
                f"a lamp fails: {self._failing}",
                self._break_lamp,
                self._alarm_is_there,
                f"the centre has its alarm: lamp_failure of {self._failing}",
            ),
            Scene(
                STEP_DOWN_AT,
                "it is 22:00",
                _nothing,
                self._all_at(70),
                "every lamp that still shines steps down to 70 %",
            ),
        ]

    @property
    def _failing(self) -> str:
        return lamp_id(self._setting.streets[1], FAILING_LAMP)

    async def check(self, what: str, came_true: Callable[[], Awaitable[bool]], within_s: float) -> None:
        """See whether something comes true in time, and tell."""
        try:
            async with asyncio.timeout(within_s):
                while not await came_true():
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            self.missed.append(what)
            self._tell(f"[red]did not come true within {within_s:.0f} s[/]: {what}")
        else:
            self._tell(f"[green]✓[/] {what}")

    async def _when_known(self, cabinet: str) -> None:
        deadline = asyncio.get_running_loop().time() + REACH_S
        while not (found := await self._api.get(f"/cabinets/{cabinet}")) or not found["devices"]:
            if asyncio.get_running_loop().time() > deadline:
                raise StartError(
                    f"{cabinet} does not reach the centre; see the logs in {self._setting.folder}"
                )
            await asyncio.sleep(LOOK_S)

    # Acts

    async def _begin_override(self) -> None:
        until = self._setting.civil() + timedelta(
            seconds=OVERRIDE_FOR * self._setting.hurried_s * self._setting.evening.speed
        )
        body = {
            "level": OVERRIDE_LEVEL,
            "cabinet": self._setting.streets[0].cabinet,
            "group": "square",
            "until": until.isoformat(),
            "ramp_s": 1.0,
            "issuer": "operator:demo",
        }
        try:
            await self._api.send("POST", "/overrides", body)
        except httpx.HTTPStatusError as error:
            self._tell(f"[red]the API refuses the override[/]: {error.response.text}")

    async def _break_lamp(self) -> None:
        request = {"do": "fault", "target": f"dali-1/{FAILING_LAMP}", "name": "lamp_failure"}
        await ask_socket(self._setting.streets[1].sim_socket, request)
        self._broken.add(self._failing)

    # What can be seen

    async def _policies_in_force(self) -> bool:
        for street in self._setting.streets:
            policies = await self._api.get(f"/cabinets/{street.cabinet}/policies")
            if not policies or any(one["status"] != "in_force" for one in policies["desired"]):
                return False
        return True

    def _all_at(self, percent: int) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            for street in self._setting.streets:
                levels = await self._levels(street.cabinet)
                # Of a lamp that has failed its gear does not tell a level (IEC 62386-102: MASK).
                lamps = {lamp_id(street, address) for address in range(LAMPS)} - self._broken
                if not all(_near(levels.get(lamp), percent) for lamp in lamps):
                    return False
            return True

        return look

    def _square_at(self, percent: int) -> Callable[[], Awaitable[bool]]:
        street = self._setting.streets[0]
        square = {lamp_id(street, address) for address in range(SQUARE)}

        async def look() -> bool:
            levels = await self._levels(street.cabinet)
            return all(_near(levels.get(lamp), percent) for lamp in square)

        return look

    async def _levels(self, cabinet: str) -> dict[str, float]:
        """Return the levels that the centre has as read back from the lamps."""
        latest = await self._api.get(f"/cabinets/{cabinet}/latest", limit="1000")
        return {
            one["device"]: one["value"]
            for one in (latest or {"items": []})["items"]
            if one["point"] == "dimming_level"
        }

    async def _alarm_is_there(self) -> bool:
        alarms = await self._api.get("/alarms", active="true")
        return any(
            one["device"] == self._failing and one["type"] == "lamp_failure"
            for one in (alarms or {"items": []})["items"]
        )


def _near(level: float | None, percent: int) -> bool:
    """Tell whether a level is as near to a percentage as the steps of the dimming curve allow."""
    return isinstance(level, int | float) and abs(level - percent) <= 0.015 * percent


async def _until(moment_s: float, elapsed_s: Callable[[], float]) -> None:
    wait_s = moment_s - elapsed_s()
    if wait_s > 0:
        await asyncio.sleep(wait_s)


async def _nothing() -> None:
    pass
