"""A clock and running drivers for the tests of single drivers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import pytest

from drivers.base import Driver
from drivers.checks import check
from drivers.registry import open_line
from drivers.settings import DeviceSettings, LineSettings
from protocols.clock import Instant
from protocols.modbus.register_map import RegisterMap

PATIENCE_S = 10.0
LOOK_S = 0.001
Until = Callable[[Callable[[], bool]], Awaitable[None]]
Connect = Callable[[LineSettings, Sequence[DeviceSettings], Mapping[str, RegisterMap]], Driver]


class LoopClock:
    """The event loop's clock, or ahead of it; the product's own is the cabinet agent's."""

    ahead_ms = 0

    def now(self) -> Instant:
        return Instant(round(asyncio.get_running_loop().time() * 1000) + self.ahead_ms, 0)

    def civil(self) -> Instant:
        return self.now()


@pytest.fixture
async def connect(tmp_path: Path) -> AsyncIterator[Connect]:
    """Open lines and run them until the test is over."""
    tasks: list[asyncio.Task[None]] = []

    def opened(
        settings: LineSettings, devices: Sequence[DeviceSettings], maps: Mapping[str, RegisterMap]
    ) -> Driver:
        assert check([settings], devices, maps) == []
        driver = open_line(settings, devices, maps, LoopClock(), tmp_path)
        tasks.append(asyncio.create_task(driver.run()))
        return driver

    yield opened
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def until() -> Until:
    """Wait until a condition holds."""

    async def wait(condition: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                passed = loop.create_future()
                loop.call_later(LOOK_S, passed.set_result, None)
                await passed

    return wait
