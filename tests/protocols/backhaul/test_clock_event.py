"""A clock's word: what it corrects, and what it leaves as it was told."""

import msgspec

from protocols.clock import Correction
from tests.protocols.backhaul.examples import CLOCK_EVENT, NOON_MS


def test_a_clock_that_was_set_says_what_its_boot_told_by() -> None:
    assert CLOCK_EVENT.offset_ms == NOON_MS - 1_000_000
    assert CLOCK_EVENT.correction() == Correction(-30_000, NOON_MS - 1_000_000, 1_000_000)


def test_what_a_synchronised_clock_told_stands() -> None:
    assert msgspec.structs.replace(CLOCK_EVENT, corrects=False).correction() is None


def test_the_first_word_of_a_boot_corrects_no_told_time() -> None:
    assert msgspec.structs.replace(CLOCK_EVENT, before_ms=None).correction() is None
