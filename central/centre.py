"""The parts of a running aggregator, as the API's handlers see them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import msgspec

from central.errors import RequestError, StoreError
from central.feed import Feed
from central.ingest import Ingest
from central.intake import Totals
from central.mqtt import Link
from central.policies import SigningKey
from central.store.reader import Reader
from central.store.writer import Tx, Writer
from protocols.clock import Clock

T = TypeVar("T")
STORE_TIMEOUT_S = 10.0
"""How long a request waits for its commit before it says that the store is too slow."""


class Centre(msgspec.Struct, frozen=True):
    """The parts of a running aggregator.

    Attributes:
        writer: the only way to change the store.
        reader: the way to ask it.
        feed: live changes.
        ingest: what cabinets say; here for its counts.
        link: the way to the cabinets.
        clock: the time.
        key: what policies are signed with; None if there is no key.
        totals: what was committed since the start.
        db: the database's file.
        broker: the broker's address, as it is written.
        protocol: the MQTT version that is spoken.
        started_ms: monotonic milliseconds of the start.
    """

    writer: Writer
    reader: Reader
    feed: Feed
    ingest: Ingest
    link: Link
    clock: Clock
    key: SigningKey | None
    totals: Totals
    db: Path
    broker: str
    protocol: str
    started_ms: int

    def signing_key(self) -> SigningKey:
        """Return what policies are signed with.

        Raises:
            RequestError: if there is no key here.
        """
        if self.key is None:
            raise RequestError(
                409, "this aggregator has no signing key: start it with --signing-key, or sign elsewhere"
            )
        return self.key

    async def change(self, work: Callable[[Tx], T]) -> T:
        """Have work done in the store; return what it gives once it is committed.

        Raises:
            StoreError: if the store does not take it, or not in time.
        """
        future: Future[T] = self.writer.submit(work)
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise StoreError("the store is too slow; whether the change was made is not known") from None
