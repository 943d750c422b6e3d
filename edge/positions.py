"""Hears vehicles that reach the cabinet itself: datagrams, from the fleet or not at all."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from drivers.base import by_number
from edge.config import LocalPositionsSettings, fleet_key
from protocols.backhaul.datagram import DatagramError, DatagramRefusal, open_position
from protocols.backhaul.messages import Position, Source

log = structlog.get_logger()

RETRY_S = 5.0
"""How soon a port that could not be opened is tried again."""
TOLD_EVERY_S = 60.0
"""Refused datagrams are logged once in so long: whoever sends noise must not fill the log."""


class LocalFigures(msgspec.Struct, frozen=True):
    """How the port for local positions is.

    Attributes:
        listening: whether it is open.
        reason: why not.
        taken: datagrams that were positions of the fleet.
        refused: datagrams that were not.
        named: the same by what was wrong with them, most first; only what is not 0.
        last_refusal: why the last of them was refused.
    """

    listening: bool
    reason: str
    taken: int
    refused: int
    last_refusal: str
    named: dict[str, int] = {}


class PositionPort(asyncio.DatagramProtocol):
    """A UDP port for positions."""

    def __init__(
        self, settings: LocalPositionsSettings, base: Path, take: Callable[[Position, Source], None]
    ) -> None:
        self._where = (settings.host, settings.port)
        self._key = fleet_key(base / settings.key_file)
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._listening = False
        self._reason = "not open yet"
        self._taken = 0
        self._refusals: Counter[DatagramRefusal] = Counter()
        self._last_refusal = ""
        self._told_s = float("-inf")
        self._lost = asyncio.Event()

    async def run(self) -> None:
        """Listen until cancelled; a port that cannot be opened is tried again for ever."""
        while True:
            self._lost.clear()
            try:
                transport, _ = await self._loop.create_datagram_endpoint(lambda: self, local_addr=self._where)
            except OSError as error:
                if self._reason != str(error):
                    log.error("local_positions_unheard", where=self._where, reason=str(error))
                self._reason = str(error)
                await asyncio.sleep(RETRY_S)
                continue
            self._listening, self._reason = True, ""
            try:
                await self._lost.wait()
            finally:
                self._listening = False
                transport.close()

    def figures(self) -> LocalFigures:
        """Return how the port is."""
        return LocalFigures(
            listening=self._listening,
            reason=self._reason,
            taken=self._taken,
            refused=self._refusals.total(),
            last_refusal=self._last_refusal,
            named=by_number(self._refusals),
        )

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Take a position, or count why it is none."""
        try:
            position = open_position(data, self._key)
        except DatagramError as error:
            self._refusals[error.refusal] += 1
            self._last_refusal = str(error)
            if self._loop.time() - self._told_s >= TOLD_EVERY_S:
                self._told_s = self._loop.time()
                log.warning(
                    "local_position_refused", sender=addr[0], why=error.refusal.value, error=str(error)
                )
            return
        self._taken += 1
        self._take(position, Source.LOCAL)

    def connection_lost(self, exc: Exception | None) -> None:
        """Notice that the port is gone."""
        self._reason = str(exc or "closed")
        self._lost.set()
