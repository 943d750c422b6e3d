"""How long is waited before something is tried again: bounded, growing, and spread over those who wait together."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edge.retrying import LEAST_S, Retry
from edge.window import PATIENCE_BOUND_S, SPREAD, Window
from protocols.backhaul.messages import StreamMark
from protocols.model.device import StreamClass

FIRSTS = st.floats(0.01, 30)
MOSTS = st.floats(0.01, 120)
STEADY = st.floats(0, 1)


@given(FIRSTS, MOSTS, STEADY, st.integers(0, 2**32), st.integers(1, 40))
def test_each_wait_is_within_its_bounds_and_the_ceiling_only_grows(
    first_s: float, most_s: float, steady: float, seed: int, count: int
) -> None:
    retry = Retry(first_s, most_s, steady, random.Random(seed).uniform)
    ceilings = []
    for _ in range(count):
        ceilings.append(retry.ceiling_s)
        wait_s = retry.wait_s()
        assert min(LEAST_S, ceilings[-1]) <= wait_s <= ceilings[-1] <= most_s
        assert wait_s >= steady * ceilings[-1] * (1 - 1e-9)
    assert ceilings == sorted(ceilings)
    assert ceilings == [min(first_s * 2**n, most_s) for n in range(count)]


@given(FIRSTS, st.integers(0, 30))
def test_what_has_worked_begins_anew(first_s: float, failures: int) -> None:
    retry = Retry(first_s, 120, draw=lambda _least, most: most)
    waits = [retry.wait_s() for _ in range(failures)]
    retry.worked()
    assert [retry.wait_s() for _ in range(failures)] == waits


def test_a_thousand_that_were_cut_off_together_come_back_spread_over_the_whole_time() -> None:
    """Twentieths of the longest wait: none hears twice its share, and none hears nobody."""
    rng = random.Random(7)
    retries = [Retry(1.0, 15.0, draw=rng.uniform) for _ in range(1_000)]
    for attempt in range(6):
        ceiling_s = min(2.0**attempt, 15.0)
        heard = Counter(int(20 * retry.wait_s() / ceiling_s) for retry in retries)
        assert set(range(1, 20)) <= set(heard) <= set(range(21))
        assert max(heard.values()) <= 2 * 1_000 / 20


def test_an_attempt_that_fails_at_once_makes_no_loop_that_never_rests() -> None:
    assert Retry(1.0, 15.0, draw=lambda least, _most: least).wait_s() == LEAST_S


@given(st.floats(0.5, 60), st.floats(0, 1), st.integers(1, 12))
def test_patience_with_the_centre_grows_is_spread_and_bounded(
    silence_s: float, drawn: float, silences: int
) -> None:
    window = Window(silence_s, lambda: drawn)
    waited = [window.patience_s]
    window.ways[StreamClass.EVENTS].sent = window.ways[StreamClass.EVENTS].committed = 1
    now_s = 0.0
    for _ in range(silences):
        assert not window.silent_for_too_long(now_s + window.patience_s * 0.99)
        assert window.silent_for_too_long(now_s + window.patience_s)
        waited.append(window.patience_s)
    bound_s = max(silence_s, PATIENCE_BOUND_S)
    assert waited == [min(silence_s * 2**n, bound_s) * (1 + SPREAD * drawn) for n in range(silences + 1)]
    window.acknowledged([StreamMark(StreamClass.EVENTS, 1)], now_s, anew=False)
    assert window.patience_s == waited[0]
