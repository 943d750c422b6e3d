"""The command line's search of lines: asks the agent, shows how far it is, gathers what is found."""

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from drivers.base import Found
from edge.answers import Discover, Sight
from edge.asking import NoAgentError, RefusedError, stream
from edge.config import Settings
from protocols.model.ids import LineId
from protocols.rules.limits import addresses

SILENCE_S = 90.0
"""No step of a search takes longer, on the slowest line."""


class Searched(msgspec.Struct, frozen=True):
    """What one line has.

    Attributes:
        line: which.
        found: what is there.
        trouble: why it could not be searched, or not to its end; "" if it was.
    """

    line: LineId
    found: tuple[Found, ...]
    trouble: str = ""


def numbers(text: str) -> tuple[int, ...] | None:
    """Return the addresses that "1-32,40" names; None for "*". Raises ValueError."""
    named = addresses(text)
    return None if named is None else tuple(sorted(int(one) for one in named))


def search(
    settings: Settings, lines: Sequence[LineId], among: tuple[int, ...] | None, *, quiet: bool
) -> list[Searched] | None:
    """Search lines one after another; None if no agent runs."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet,
    )
    with progress:
        try:
            return [_search_one(settings, line, among, progress, progress.add_task(line)) for line in lines]
        except NoAgentError:
            return None


def _search_one(
    settings: Settings, line: LineId, among: tuple[int, ...] | None, progress: Progress, bar: TaskID
) -> Searched:
    found: list[Found] = []
    try:
        for sight in stream(settings.socket, Discover(line, among), Sight, SILENCE_S):
            if sight.found is not None:
                found.append(sight.found)
            else:
                progress.update(bar, completed=sight.done, total=sight.total or None)
    except RefusedError as error:
        return Searched(line, tuple(found), str(error))
    return Searched(line, tuple(found))
