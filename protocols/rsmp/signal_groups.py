"""What the characters of S0001's `signalgroupstatus` mean (SXL 1.2.1, Signal group status)."""

from enum import StrEnum
from typing import Final


class GroupState(StrEnum):
    """The state of one signal group, one character each; the leftmost is group 1."""

    DISABLED = "a"
    MANUAL_DARK = "b"
    MANUAL_FLASHING_YELLOW = "c"
    MANUAL_FLASHING_RED = "d"
    START_UP_1 = "e"
    """Dark or flashing."""
    START_UP_2 = "f"
    """Yellow; pedestrians red."""
    START_UP_3 = "g"
    """Red."""
    MANUAL_RED = "h"
    RED_REST_NO_ORDER = "A"
    RED_REST = "B"
    RED_PRIVILEGE = "C"
    RED_RESERVED = "D"
    RED_REQUESTED_NO_ORDER = "E"
    RED_REQUESTED = "F"
    RED_REQUESTED_OWN_STAGE = "G"
    RED_YELLOW = "0"
    MINIMUM_GREEN = "1"
    MAX_MINIMUM_GREEN = "2"
    GREEN_EXTENSION = "3"
    GREEN_REST = "4"
    GREEN_PASSIVE = "5"
    FIXED_PAST_END_GREEN = "6"
    EXTRA_GREEN = "7"
    """Past-end green during the intergreen."""
    VARIABLE_PAST_END_GREEN = "8"
    FLASHING_GREEN = "9"
    FIXED_YELLOW = "N"
    VARIABLE_YELLOW = "O"
    VARIABLE_RED = "P"
    ABSENT = "-"
    """There is no such group."""

    @property
    def is_green(self) -> bool:
        """Tell whether the group's traffic may go; flashing green is its end."""
        return self in _GREEN

    @property
    def may_be_extended(self) -> bool:
        """Tell whether the group's green may still be prolonged; past-end greens are decided to end."""
        return self in _EXTENSIBLE


_S = GroupState
_EXTENSIBLE: Final = frozenset(
    {_S.MINIMUM_GREEN, _S.MAX_MINIMUM_GREEN, _S.GREEN_EXTENSION, _S.GREEN_REST, _S.GREEN_PASSIVE}
)
_GREEN: Final = _EXTENSIBLE | {
    _S.FIXED_PAST_END_GREEN,
    _S.EXTRA_GREEN,
    _S.VARIABLE_PAST_END_GREEN,
    _S.FLASHING_GREEN,
}


def group_state(text: str, number: int) -> GroupState:
    """Return the state of a signal group, ABSENT for one that the text does not reach.

    Args:
        text: a valid `signalgroupstatus`.
        number: of the group, from 1.
    """
    return GroupState(text[number - 1]) if 1 <= number <= len(text) else GroupState.ABSENT
