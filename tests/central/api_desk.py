"""The API in the test's own process, on a real store."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from central.api.server import build
from central.app import Central, Settings
from central.config import Address, BrokerSettings, Protocol
from central.policies import SigningKey
from central.store import schema
from protocols.model.ids import KeyId
from tests.central.cabinet_double import Message

Json = Any
"""What a test reads out of an answer is checked by its assertions."""


class Api:
    """Asks as a client does, and delivers as a cabinet does."""

    def __init__(self, folder: Path, *, this_machine_alone: bool = True) -> None:
        settings = Settings(
            db=folder / "central.db",
            listen=Address("127.0.0.1", 0),
            broker=BrokerSettings(Address("127.0.0.1", 9), Protocol.MQTT_5),
            key=SigningKey(KeyId("centre"), Ed25519PrivateKey.generate()),
        )
        schema.prepare(settings.db)
        self.central = Central(settings, "test")
        self.central.intake.begin()
        self.app = build(self.central.centre, this_machine_alone=this_machine_alone)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)  # type: ignore[arg-type]  # ASGI by other types
        self.http = httpx.AsyncClient(transport=transport, base_url="http://localhost")

    async def close(self) -> None:
        await self.http.aclose()
        await asyncio.to_thread(self.central.writer.stop)
        self.central.reader.close()

    async def deliver(self, *messages: Message) -> None:
        """Take messages in, as if the broker had brought them; return when they are committed."""
        for message in messages:
            await self.central.centre.change(
                lambda tx, m=message: self.central.ingest.receive(tx, m.topic, m.payload)  # type: ignore[misc]  # a lambda with a default
            )

    async def get(self, path: str, **query: object) -> Json:
        answer = await self.http.get(path, params={k: str(v) for k, v in query.items()})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def all(self, path: str, **query: object) -> list[Json]:
        """Return the items of every part of a list."""
        items: list[Json] = []
        while True:
            page = await self.get(path, **query)
            items += page["items"]
            if page["next"] is None:
                return items
            query["cursor"] = page["next"]
