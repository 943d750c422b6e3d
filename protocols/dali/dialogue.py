"""Dialogues with one control gear, as generators: yield what to transmit, receive the answer.

The same text runs over a serial interface, a fake, or whatever else can send a frame and hear an answer. The
frames themselves are python-dali's; nothing of it leaves this module.
"""

from collections.abc import Generator
from enum import Enum, IntFlag
from typing import Any, TypeAlias, TypeVar

import msgspec
from dali.address import GearShort
from dali.gear import general

from protocols.dali.levels import MASK
from protocols.errors import LocalProtocolError

USER = 2
"""Priority of what a person or a program wants now (IEC 62386-101, settling times)."""
AUTOMATIC = 4
POLLING = 5
IN_TRANSACTION = 1
"""Priority of the frames that must follow the one before without anybody else's between them."""
_READ_BACKS = 2  # one lost frame is no verdict


class Transmit(msgspec.Struct, frozen=True):
    """A forward frame to send.

    Attributes:
        frame: its bytes.
        priority: 1–5.
        twice: send it twice, as configuration commands need.
        answered: whether an answer is to be waited for.
    """

    frame: bytes
    priority: int
    twice: bool = False
    answered: bool = False


class Missing(Enum):
    """What came instead of an answer."""

    SILENCE = "silence"
    COLLISION = "collision"
    """A framing error: several gear answered at once, or noise fell on the answer."""
    GARBLED = "garbled"
    """Something that is no backward frame."""


Answer: TypeAlias = int | Missing
T = TypeVar("T")
Dialogue: TypeAlias = Generator[Transmit, Answer, T]


class GearStatus(IntFlag):
    """The answer to QUERY STATUS (IEC 62386-102, table of the status byte)."""

    GEAR_FAILURE = 0x01
    LAMP_FAILURE = 0x02
    LAMP_ON = 0x04
    LIMIT_ERROR = 0x08
    FADE_RUNNING = 0x10
    RESET_STATE = 0x20
    SHORT_ADDRESS_MISSING = 0x40
    POWER_CYCLE_SEEN = 0x80


class ReadBack(msgspec.Struct, frozen=True):
    """What a gear says after its level was set.

    Attributes:
        level: its arc power level, or why there is none.
        status: its status if the level is not the one that was asked for; None otherwise or if it is silent.
    """

    level: Answer
    status: GearStatus | None = None


def read_level(address: int, priority: int = POLLING) -> Dialogue[Answer]:
    """Ask a gear for its arc power level; MASK means that it does not know."""
    return (yield _transmit(general.QueryActualLevel(_gear(address)), priority))


def read_status(address: int, priority: int = POLLING) -> Dialogue[GearStatus | Missing]:
    """Ask a gear for its status."""
    answer = yield _transmit(general.QueryStatus(_gear(address)), priority)
    return answer if isinstance(answer, Missing) else GearStatus(answer)


def set_level(
    address: int, level: int, fade: int, known_fade: int | None, priority: int = USER
) -> Dialogue[int | None]:
    """Let a gear fade to a level.

    The fade time is kept in the gear's non-volatile memory, so it is written only when it changes.

    Args:
        address: short address.
        level: arc power level 0–254; 0 is off, reached by fading.
        fade: fade time code 0–15.
        known_fade: the code that the gear has for certain; None if we do not know.
        priority: of the first frame.

    Returns:
        The code that the gear now has for certain, or None.
    """
    gear = _gear(address)
    if not 0 <= level < MASK:
        raise LocalProtocolError(f"an arc power level is 0 to 254, not {level}")
    if not 0 <= fade <= 15:
        raise LocalProtocolError(f"a fade time code is 0 to 15, not {fade}")
    if known_fade != fade:
        known_fade = yield from _set_fade_time(gear, fade, priority)
    yield _transmit(general.DAPC(gear, level), priority)
    return known_fade


def _set_fade_time(gear: GearShort, fade: int, priority: int) -> Dialogue[int | None]:
    """Write the fade time unless the gear has it already, and make sure that it took it."""
    now = yield from _fade_time(gear, priority)
    if now is None or now == fade:
        return now
    yield _transmit(general.DTR0(fade), priority)
    yield _transmit(general.SetFadeTime(gear), IN_TRANSACTION)
    now = yield from _fade_time(gear, IN_TRANSACTION)
    return now if now == fade else None


def _fade_time(gear: GearShort, priority: int) -> Dialogue[int | None]:
    """Ask for fade time (upper four bits) and fade rate (lower four)."""
    answer = yield _transmit(general.QueryFadeTimeFadeRate(gear), priority)
    return None if isinstance(answer, Missing) else answer >> 4


def read_back(address: int, level: int, priority: int = USER) -> Dialogue[ReadBack]:
    """Ask a gear whether it is at `level`, and if not, what it says about it."""
    answer: Answer = Missing.SILENCE
    for _ in range(_READ_BACKS):
        answer = yield from read_level(address, priority)
        if not isinstance(answer, Missing):
            break
    if isinstance(answer, Missing) or answer == level:
        return ReadBack(answer)
    status = yield from read_status(address, priority)
    return ReadBack(answer, None if isinstance(status, Missing) else status)


def _gear(address: int) -> GearShort:
    if not 0 <= address <= 63:
        raise LocalProtocolError(f"a short address is 0 to 63, not {address}")
    return GearShort(address)


def _transmit(command: Any, priority: int) -> Transmit:  # noqa: ANN401  python-dali has no types
    return Transmit(
        frame=bytes(command.frame.pack),
        priority=priority,
        twice=bool(command.sendtwice),
        answered=bool(command.is_query),
    )
