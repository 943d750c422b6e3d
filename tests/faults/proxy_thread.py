"""A faulty proxy in an event loop of its own thread, for tests that wait for processes."""

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from tests.faults.proxy import Direction, FaultyProxy, WayFault

_WAIT_S = 10.0


class ProxyThread:
    """The same proxy, its methods callable from any thread.

    Attributes:
        port: where it listens.
    """

    def __init__(self, to_port: int, seed: int = 0) -> None:
        self._to_port = to_port
        self._seed = seed
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._proxy = self._run(self._begun())
        self.port = self._proxy.port
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._proxy.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_WAIT_S)
        self._loop.close()

    def begin(
        self,
        fault: WayFault,
        *directions: Direction,
        delay_s: float = 0.5,
        after_bytes: int | None = None,
    ) -> None:
        """Let a fault begin; see `FaultyProxy.begin`."""
        self._run(self._proxy.begin(fault, *directions, delay_s=delay_s, after_bytes=after_bytes))

    def end(self) -> None:
        """Let every fault end."""
        self._run(self._proxy.end())

    @property
    def connections(self) -> int:
        """How many were accepted."""
        count: int = self._proxy.connections
        return count

    async def _begun(self) -> FaultyProxy:
        return await FaultyProxy(self._to_port, self._seed).__aenter__()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401  whatever the work returns
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_WAIT_S)
