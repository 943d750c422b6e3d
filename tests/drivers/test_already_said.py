"""What the log is told once an hour: nobody fills it, nobody hides in it, and nothing is lost from its counts."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from drivers.already_said import AGAIN_MS, MAX_STRANGERS, OTHERS, AlreadySaid, Line

OURS = ("site", "lamp-1")
KINDS = ("forged", "replay", "garbage")
STRANGERS = st.integers(0, 3 * MAX_STRANGERS).map("stranger {}".format)
EVENTS = st.lists(
    st.tuples(
        st.integers(0, AGAIN_MS // 8) | st.just(0),
        st.sampled_from(OURS) | STRANGERS,
        st.sampled_from(KINDS),
    ),
    max_size=300,
)


class Bench:
    """An `AlreadySaid` whose clock is set by hand, and every line that it gave."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.already = AlreadySaid(lambda: self.now_ms, OURS)
        self.lines: list[tuple[int, str, Line]] = []

    def happens(self, who: str, what: str) -> Line | None:
        line = self.already.line(who, what)
        if line is not None:
            self.lines.append((self.now_ms, what, line))
        return line

    def run(self, events: list[tuple[int, str, str]]) -> None:
        for pause_ms, who, what in events:
            self.now_ms += pause_ms
            self.happens(who, what)


def test_the_first_time_is_said_and_what_follows_within_the_hour_is_not() -> None:
    bench = Bench()
    assert bench.happens("site", "forged") == Line("site", 0)
    bench.now_ms = AGAIN_MS - 1
    assert bench.happens("site", "forged") is None


@given(st.integers(0, 500), st.integers(0, AGAIN_MS), st.sampled_from(["site", "somebody"]))
def test_after_an_hour_it_is_said_again_with_how_often_it_was_not_said(
    times: int, late_ms: int, who: str
) -> None:
    bench = Bench()
    bench.happens(who, "forged")
    for _ in range(times):
        assert bench.happens(who, "forged") is None
    bench.now_ms = AGAIN_MS + late_ms
    assert bench.happens(who, "forged") == Line(who, times)
    assert bench.happens(who, "forged") is None
    bench.now_ms += AGAIN_MS
    assert bench.happens(who, "forged") == Line(who, 1)


def test_who_and_what_are_told_apart() -> None:
    bench = Bench()
    assert bench.happens("somebody", "forged") == Line("somebody", 0)
    assert bench.happens("site", "forged") == Line("site", 0)
    assert bench.happens("site", "replay") == Line("site", 0)


@given(EVENTS)
def test_a_crowd_of_strangers_hides_nothing_of_ours(events: list[tuple[int, str, str]]) -> None:
    bench, quiet = Bench(), Bench()
    bench.run(events)
    at_ms = 0
    for pause_ms, who, what in events:
        at_ms += pause_ms
        quiet.now_ms = at_ms
        if who in OURS:
            quiet.happens(who, what)
    assert [one for one in bench.lines if one[2].who in OURS] == quiet.lines


@given(EVENTS)
def test_no_hour_has_more_lines_than_strangers_are_allowed(events: list[tuple[int, str, str]]) -> None:
    bench = Bench()
    bench.run(events)
    for from_ms, _, _ in bench.lines:
        within = [
            (what, line.who) for at_ms, what, line in bench.lines if from_ms <= at_ms < from_ms + AGAIN_MS
        ]
        assert len(within) == len(set(within))
        strangers = Counter(what for what, who in within if who not in (*OURS, OTHERS))
        assert max(strangers.values(), default=0) <= MAX_STRANGERS


@given(EVENTS)
def test_what_is_held_is_bounded(events: list[tuple[int, str, str]]) -> None:
    bench = Bench()
    bench.run(events)
    assert len(bench.already) <= len(KINDS) * (MAX_STRANGERS + 1 + len(OURS))


@given(EVENTS)
def test_each_time_is_a_line_or_counted_in_a_later_one(events: list[tuple[int, str, str]]) -> None:
    """An hour after all is over each is asked to happen once more: their lines must account for everything."""
    bench = Bench()
    bench.run(events)
    happened = Counter(what for _, _, what in events)
    for who in {who for _, who, _ in events} | {f"late {n}" for n in range(MAX_STRANGERS + 1)}:
        bench.now_ms += AGAIN_MS
        for what in KINDS:
            happened[what] += 1
            bench.happens(who, what)
    bench.now_ms += AGAIN_MS
    for what in KINDS:
        happened[what] += 1
        bench.happens(OTHERS, what)
    told = Counter[str]()
    for _, what, line in bench.lines:
        told[what] += 1 + line.unsaid
    assert told == happened


def test_strangers_beyond_the_first_few_share_a_line() -> None:
    bench = Bench()
    said = [bench.happens(f"stranger {n}", "forged") for n in range(MAX_STRANGERS + 5)]
    assert said[MAX_STRANGERS - 1] == Line(f"stranger {MAX_STRANGERS - 1}", 0)
    assert said[MAX_STRANGERS:] == [Line(OTHERS, 0), None, None, None, None]
    assert bench.happens("stranger 0", "forged") is None
    assert bench.happens("new", "replay") == Line("new", 0)
    bench.now_ms = AGAIN_MS
    assert bench.happens("newest", "forged") == Line("newest", 0)
    assert bench.happens(OTHERS, "forged") == Line(OTHERS, 5)


def test_a_line_is_never_lost_for_good() -> None:
    """After as many names as one likes, what is new is told again an hour later."""
    bench = Bench()
    for n in range(10 * MAX_STRANGERS):
        bench.happens(f"stranger {n}", "forged")
    bench.now_ms = AGAIN_MS
    assert bench.happens("somebody new", "forged") == Line("somebody new", 0)
