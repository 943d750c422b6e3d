"""How the demonstration looks at the parts: through the same sockets and API as anybody."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec

from sim.report import Counters, StreetState

LINE_LIMIT = 4 << 20
TIMEOUT_S = 5.0


async def ask_socket(path: Path, request: Mapping[str, object]) -> dict[str, Any] | None:
    """Ask a local socket one thing, one JSON object a line; None if nobody answers."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=LINE_LIMIT)
            try:
                writer.write(msgspec.json.encode(request) + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    return msgspec.json.decode(line, type=dict[str, Any]) if line else None


async def street_state(path: Path) -> StreetState | None:
    """Return how a street's hardware is; None while it is not there."""
    answer = await ask_socket(path, {"do": "state"})
    return None if answer is None else msgspec.convert(answer["result"], StreetState)


async def street_counters(path: Path) -> Counters | None:
    """Return what a street's hardware has counted by itself; None while it is not there."""
    answer = await ask_socket(path, {"do": "counters"})
    return None if answer is None else msgspec.convert(answer["result"], Counters)


async def agent_status(path: Path) -> dict[str, Any] | None:
    """Return what the agent says of itself; None while it is not there."""
    answer = await ask_socket(path, {"ask": "status"})
    return None if answer is None else answer["answer"]


class Api:
    """The aggregator's API, as an operator uses it."""

    def __init__(self, base: str) -> None:
        self.base = base
        self._client = httpx.AsyncClient(base_url=f"{base}/api/v1", timeout=TIMEOUT_S)

    async def get(self, path: str, **query: str) -> Any:  # noqa: ANN401  JSON
        """Return a resource; None while the aggregator does not answer."""
        try:
            response = await self._client.get(path, params=query)
            return response.raise_for_status().json()
        except httpx.HTTPError:
            return None

    async def send(self, method: str, path: str, body: object) -> Any:  # noqa: ANN401  JSON
        """Send something, and again while the aggregator is not there.

        Raises:
            httpx.HTTPStatusError: if it refuses.
        """
        while True:
            try:
                response = await self._client.request(method, path, json=body)
            except httpx.TransportError:
                await asyncio.sleep(0.5)
                continue
            return response.raise_for_status().json() if response.content else None

    async def close(self) -> None:
        """Close it."""
        await self._client.aclose()
