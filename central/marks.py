"""Where a batch stands against the mark of its stream. Pure: the rules, without the store."""

from collections.abc import Iterable
from enum import Enum


class Standing(Enum):
    """Where a batch's number stands."""

    NEXT = "next"
    """The one that is waited for: commit it."""
    KNOWN = "known"
    """Committed already: say so again."""
    AHEAD = "ahead"
    """Something before it has not come: say where we are, and the cabinet rewinds."""


def standing(mark: int, number: int) -> Standing:
    """Return where batch `number` stands in a stream that is committed up to `mark`."""
    if number <= mark:
        return Standing.KNOWN
    return Standing.NEXT if number == mark + 1 else Standing.AHEAD


def never_coming(mark: int, floor: int) -> range:
    """Return the numbers above `mark` that can no longer be sent, because the floor has passed them."""
    return range(mark + 1, max(mark + 1, floor))


def without(numbers: range, others: Iterable[range]) -> list[range]:
    """Return what is left of `numbers`, as ranges in order, when `others` are taken away."""
    left = []
    at = numbers.start
    for other in sorted((one for one in others if one), key=lambda one: one.start):
        left.append(range(at, min(other.start, numbers.stop)))
        at = max(at, other.stop)
    left.append(range(at, numbers.stop))
    return [piece for piece in left if piece]
