"""What can have faults, by name: for each target the faults it knows and how they begin and end."""

from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec

from sim.faults import FaultSettings

Begin = Callable[[FaultSettings], Awaitable[None] | None]
End = Callable[[], Awaitable[None] | None]


class FaultSwitch(msgspec.Struct, frozen=True):
    """How one fault of one target begins and ends."""

    begin: Begin
    end: End


class UnknownError(Exception):
    """There is no such target, fault or switch; the message names those that exist."""


class Targets:
    """Every target of a bench and its faults."""

    def __init__(self) -> None:
        self._switches: dict[str, dict[str, FaultSwitch]] = {}

    def add(self, target: str, switches: dict[str, FaultSwitch]) -> None:
        """Give a target some faults, besides those that it has."""
        self._switches.setdefault(target, {}).update(switches)

    def names(self) -> dict[str, frozenset[str]]:
        """Return every target with the names of its faults."""
        return {target: frozenset(switches) for target, switches in self._switches.items()}

    def switch(self, target: str, fault: str) -> FaultSwitch:
        """Return how a fault is switched.

        Raises:
            UnknownError: no such target, or it has no such fault.
        """
        switches = self._of(target)
        if fault not in switches:
            raise UnknownError(f"{target} has no fault {fault!r}; it has {_listed(switches)}")
        return switches[fault]

    def faults(self, target: str) -> list[str]:
        """Return the names of a target's faults.

        Raises:
            UnknownError: no such target.
        """
        return list(self._of(target))

    def _of(self, target: str) -> dict[str, FaultSwitch]:
        if target not in self._switches:
            known = _listed(name for name in self._switches if "/" not in name)
            raise UnknownError(
                f"no target {target!r}; there are {known}, and parts such as dali-1/3 or junction-1/2"
            )
        return self._switches[target]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def switches_fault(
    known: Mapping[str, frozenset[str]], target: str, switches: Mapping[str, bool | float]
) -> str | None:
    """Return what is wrong with setting these switches, or None.

    Args:
        known: the names of the switches of each target that has some.
        target: whose switches are set.
        switches: values by name: on and off, or 0–1.
    """
    if target not in known:
        return f"nothing can be set at {target!r}; there are switches at {_listed(known)}"
    for name, value in switches.items():
        if name not in known[target]:
            return f"{target} has no switch {name!r}; it has {_listed(known[target])}"
        if not 0 <= value <= 1:
            return f"expected on, off or 0–1 for {name}, not {value}"
    return None
