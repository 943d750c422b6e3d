"""A street in an event loop of its own thread, for clients that block."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from sim.faults import FaultSettings
from sim.report import Counters, Ports, StreetState
from sim.scenario import Scenario
from sim.street import Street

Result = TypeVar("Result")
_WAIT_S = 10.0


class StreetThread:
    """The same street, its methods callable from any thread.

    Raises, on entering: whatever starting the street raises.
    """

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self._scenario = scenario
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="street", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.street = self._run(self._started())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._run(self.street.stop())
        finally:
            self._end()

    def fault(
        self,
        target: str,
        name: str,
        *,
        for_s: float | None = None,
        settings: FaultSettings | None = None,
    ) -> None:
        """Let a fault begin; see `Street.fault`."""
        self._run(self.street.fault(target, name, for_s=for_s, settings=settings))

    def clear(self, target: str, name: str = "*") -> None:
        """Let a fault end; see `Street.clear`."""
        self._run(self.street.clear(target, name))

    def set(self, target: str, switches: dict[str, bool | float]) -> None:
        """Set switches; see `Street.set`."""
        self.call(lambda: self.street.set(target, switches))

    def state(self) -> StreetState:
        """Return how everything is."""
        return self.call(self.street.state)

    def counters(self) -> Counters:
        """Return what the hardware has counted."""
        return self.call(self.street.counters)

    def ports(self) -> Ports:
        """Return where everything is."""
        return self.call(self.street.ports)

    def call(self, work: Callable[[], Result]) -> Result:
        """Run something in the street's own loop and return what it returns."""

        async def there() -> Result:
            return work()

        return self._run(there())

    async def _started(self) -> Street:
        street = Street(self._scenario, self._folder)
        await street.start()
        return street

    def _run(self, work: Coroutine[None, None, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_WAIT_S)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_WAIT_S)
        self._loop.close()
