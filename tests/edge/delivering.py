"""What delivers, in the test's own loop: outbox, link and backhaul as the agent wires them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from edge.backhaul import Backhaul, Identity
from edge.config import BackhaulSettings
from edge.mqtt import MqttLink, Will
from edge.outbox.outbox import Outbox
from edge.present import Present
from protocols.backhaul.messages import CommandMessage, Hello, LastEnd, SignedPolicy
from protocols.backhaul.topics import Up, up
from protocols.clock import ClockQuality
from protocols.model.ids import DeviceId
from protocols.model.reading import Sample
from tests.edge.bench import CABINET, NOON_MS, ORDINARY, HandClock, open_outbox, open_store, taken
from tests.edge.centre_double import CentreDouble
from tests.protocols.backhaul import examples


class Cabinet:
    """Outbox, link and backhaul as the agent wires them."""

    def __init__(self, folder: Path, url: str, silence_s: float, keepalive_s: int) -> None:
        self.store = open_store(folder)
        self.outbox: Outbox = open_outbox(self.store, seal_readings=1)
        self.commands: list[CommandMessage] = []
        self.policies: list[SignedPolicy] = []
        settings = BackhaulSettings(url=url, silence_s=silence_s, keepalive_s=keepalive_s)
        will = Will(up(CABINET, Up.STATE), b"")
        self.link = MqttLink(settings, folder, f"cabinet-{CABINET}", will)
        identity = Identity(CABINET, "boot-1")
        self.backhaul = Backhaul(identity, HandClock(), self.link, self.outbox, silence_s)
        self.link.will = Will(will.topic, self.backhaul.presence(online=False))
        self.backhaul.make_hello = self._hello
        self.backhaul.on_command = self.commands.append
        self.backhaul.on_policy = self.policies.append
        self.latest: dict[DeviceId, dict[str, Sample]] = {}
        self.backhaul.present = Present(CABINET, "boot-1", HandClock(), self.latest)

    async def _hello(self) -> Hello:
        figures = await self.outbox.figures()
        return msgspec.structs.replace(
            examples.HELLO,
            epoch=figures.epoch,
            streams=figures.heads,
            last_end=LastEnd.CLEAN,
            utc_ms=NOON_MS,
            clock=ClockQuality.SYNCHRONISED,
        )

    def take(self, *numbers: int) -> None:
        for number in numbers:
            sample = taken(number)
            self.latest.setdefault(sample.device, {}).update(dict.fromkeys(sample.points, sample))
            self.outbox.add(ORDINARY, sample)

    async def empty(self) -> None:
        """Wait until the centre has everything and it is let go."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + 20
        while (await self.outbox.figures()).batches:
            assert loop.time() < end_s, self.backhaul.figures()
            turn = loop.create_future()
            loop.call_later(0.01, turn.set_result, None)
            await turn


@asynccontextmanager
async def cabinet(
    folder: Path, url: str, silence_s: float = 60.0, keepalive_s: int = 30
) -> AsyncIterator[Cabinet]:
    one = Cabinet(folder, url, silence_s, keepalive_s)
    tasks = [asyncio.create_task(one.link.run()), asyncio.create_task(one.backhaul.run())]
    try:
        yield one
        for task in tasks:
            assert not task.done(), task
    finally:
        await one.link.leave()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await one.outbox.close()


async def hears(centre: CentreDouble, what: str, count: int = 1) -> None:
    await asyncio.to_thread(centre.wait, lambda: centre.heard.count(what) >= count, what)


async def has(centre: CentreDouble, numbers: list[int]) -> None:
    await asyncio.to_thread(centre.wait, lambda: centre.numbers() == numbers, f"{len(numbers)} readings")
