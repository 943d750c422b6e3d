"""The bench's own judgement: what it calls lost, and what it lets pass, case by case."""

from collections.abc import Sequence

import msgspec
import pytest

from tests.chaos.count import ANSWER_MS, MARGIN_MS, Evidence, Gap, Killed, Ownership, Register, Verdict, judge

SEAL_MS = 5_000
KILL_MS, BACK_MS = 100_000, 103_000
OURS, BULK, THEIRS = Register("a-1", "r00"), Register("a-2", "r00"), Register("b-1", "r00")
OWNER = {
    "a-1": Ownership("a", "ordinary"),
    "a-2": Ownership("a", "bulk"),
    "b-1": Ownership("b", "ordinary"),
}
MOMENTS = [*range(90_000, 100_000, 500), *range(104_000, 110_000, 500)]
"""Of each register's counts: one every half second but for the downtime."""
GAP = Gap("a", "ordinary", "crash", 98_000, 103_500)
LAST = 20
"""The last count before the kill; the gap begins with count 17."""


def evidence(
    absent: Sequence[int] = (),
    *,
    register: Register = OURS,
    gaps: Sequence[Gap] = (GAP,),
    kills: Sequence[Killed] = (Killed(KILL_MS, BACK_MS),),
    moments: Sequence[int] = MOMENTS,
) -> Evidence:
    given = {OURS: moments, BULK: moments, THEIRS: moments}
    held = {
        one: [n for n in range(1, len(moments) + 1) if one != register or n not in absent] for one in given
    }
    return Evidence(given, held, OWNER, {"a": kills, "b": []}, gaps, SEAL_MS)


def fates(verdict: Verdict) -> tuple[list[int], list[int]]:
    """Return the counts that are lost, and those that were unsealed."""
    return [one.count for one in verdict.lost], [one.count for one in verdict.unsealed]


def test_when_everything_is_there_nothing_is_said() -> None:
    verdict = judge(evidence())
    assert fates(verdict) == ([], [])
    assert (verdict.taken, verdict.committed) == (96, 96)
    assert (verdict.duplicated, verdict.invented, verdict.out_of_order) == (0, 0, 0)
    assert verdict.unexplained == []
    assert verdict.crash_gap_max_ms == 2_000  # 98.0 to 100.0; the rest is downtime


def test_what_a_kill_has_swallowed_within_its_reported_gap_is_unsealed() -> None:
    verdict = judge(evidence([17, 18, LAST]))
    assert fates(verdict) == ([], [17, 18, LAST])
    assert verdict.answer_max_ms == 0


def test_what_was_given_before_the_gap_is_lost() -> None:
    assert fates(judge(evidence([15, 17]))) == ([15], [17])


def test_an_answer_may_have_been_on_its_way_when_the_gap_began() -> None:
    late = msgspec.structs.replace(GAP, from_ms=98_000 + ANSWER_MS)
    verdict = judge(evidence([17, 18], gaps=[late]))
    assert fates(verdict) == ([], [17, 18])
    assert verdict.answer_max_ms == ANSWER_MS
    later = msgspec.structs.replace(GAP, from_ms=98_001 + ANSWER_MS)
    assert fates(judge(evidence([17], gaps=[later]))) == ([17], [])


def test_what_was_given_after_the_downtime_is_lost() -> None:
    assert fates(judge(evidence([LAST + 1]))) == ([LAST + 1], [])


def test_without_a_reported_gap_it_is_lost() -> None:
    assert fates(judge(evidence([LAST], gaps=[]))) == ([LAST], [])


@pytest.mark.parametrize(
    "other",
    [
        msgspec.structs.replace(GAP, cabinet="b"),
        msgspec.structs.replace(GAP, stream="bulk"),
        msgspec.structs.replace(GAP, cause="shed"),
        msgspec.structs.replace(GAP, cause="unknown_to_centre"),
    ],
)
def test_a_gap_of_another_agent_stream_or_cause_excuses_nothing(other: Gap) -> None:
    assert fates(judge(evidence([LAST], gaps=[other])))[0] == [LAST]


def test_a_kill_of_one_agent_excuses_nothing_of_the_other() -> None:
    theirs = msgspec.structs.replace(GAP, cabinet="b")
    verdict = judge(evidence([LAST], register=THEIRS, gaps=[GAP, theirs]))
    assert fates(verdict) == ([LAST], [])
    assert verdict.unexplained == [theirs]


def test_a_gap_that_no_kill_explains_excuses_nothing_and_is_told() -> None:
    verdict = judge(evidence([LAST], kills=[]))
    assert fates(verdict) == ([LAST], [])
    assert verdict.unexplained == [GAP]


def test_a_gap_that_reaches_back_further_than_one_sealing_interval_excuses_nothing() -> None:
    limit_ms = KILL_MS - SEAL_MS - MARGIN_MS
    at_limit = msgspec.structs.replace(GAP, from_ms=limit_ms)
    assert fates(judge(evidence([LAST], gaps=[at_limit]))) == ([], [LAST])
    too_long = msgspec.structs.replace(GAP, from_ms=limit_ms - 1)
    verdict = judge(evidence([LAST], gaps=[too_long]))
    assert fates(verdict) == ([LAST], [])
    assert verdict.unexplained == [too_long]
    assert verdict.crash_gap_max_ms == SEAL_MS + MARGIN_MS + 1


def test_a_gap_that_reaches_into_the_time_after_the_start_excuses_nothing() -> None:
    too_long = msgspec.structs.replace(GAP, to_ms=104_500)
    assert fates(judge(evidence([LAST], gaps=[too_long]))) == ([LAST], [])


def test_a_gap_that_ends_before_the_agent_was_started_again_belongs_to_no_kill() -> None:
    early = msgspec.structs.replace(GAP, to_ms=BACK_MS - 1)
    assert judge(evidence(gaps=[early])).unexplained == [early]


def test_kills_between_which_nothing_was_read_are_one_outage() -> None:
    moments = [one for one in MOMENTS if not 104_000 <= one < 106_000]
    twice = [Killed(KILL_MS, BACK_MS), Killed(103_400, 105_500)]
    late = msgspec.structs.replace(
        GAP, to_ms=105_900
    )  # said at the second start: the first had no time for it
    verdict = judge(evidence([LAST], gaps=[late], kills=twice, moments=moments))
    assert fates(verdict) == ([], [LAST])
    assert verdict.crash_gap_max_ms == 2_000


def test_each_of_two_kills_needs_a_gap_of_its_own() -> None:
    twice = [Killed(KILL_MS, BACK_MS), Killed(105_100, 105_200)]
    verdict = judge(evidence([LAST, 22], kills=twice))
    assert fates(verdict) == ([22], [LAST])
    second = Gap("a", "ordinary", "crash", 103_400, 105_300)
    assert fates(judge(evidence([LAST, 22], kills=twice, gaps=[GAP, second]))) == ([], [LAST, 22])


def test_an_agent_that_never_read_again_is_still_down() -> None:
    moments = [one for one in MOMENTS if one < KILL_MS]
    assert fates(judge(evidence([LAST], moments=moments))) == ([], [LAST])


def test_a_register_of_which_nothing_came_is_lost_whole() -> None:
    known = evidence()
    held = {register: counts for register, counts in known.held.items() if register != THEIRS}
    verdict = judge(msgspec.structs.replace(known, held=held))
    assert fates(verdict)[0] == list(range(1, 33))


def test_duplicates_inventions_and_disorder_are_counted() -> None:
    known = evidence()
    counts = [1, 2, 2, 4, 3, *range(5, 33), 33, 0]
    verdict = judge(msgspec.structs.replace(known, held={**known.held, OURS: counts}))
    assert (verdict.duplicated, verdict.invented, verdict.out_of_order) == (1, 2, 2)
    assert verdict.committed == 64 + len(counts)
