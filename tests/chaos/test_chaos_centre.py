"""The two ways in which the bench reads the centre are held against each other."""

from tests.chaos.centre import Held, Seen, disagreements
from tests.chaos.count import Gap, Register

ONE, OTHER = Register("a-1", "r00"), Register("a-1", "r01")
STREAMS = {"a-1": "ordinary"}
GAP = Gap("a", "ordinary", "crash", 1, 2)
OF_EVENTS = Gap("a", "events", "crash", 1, 2)


def test_what_api_and_database_tell_alike_is_no_disagreement() -> None:
    held = Held({ONE: [1, 3, 2], OTHER: []}, [GAP, OF_EVENTS])
    assert disagreements(Seen({ONE: [1, 2, 3], OTHER: []}, {GAP}), held, STREAMS) == []


def test_a_count_that_only_one_of_them_has_is_told() -> None:
    held = Held({ONE: [1, 2]}, [])
    (told,) = disagreements(Seen({ONE: [1, 2, 2], OTHER: []}, set()), held, STREAMS)
    assert told == "a-1 r00: the API shows 3 counts, the database holds 2"
    (told,) = disagreements(Seen({ONE: [1, 2], OTHER: [1]}, set()), held, STREAMS)
    assert told.startswith("a-1 r01")


def test_a_gap_that_only_one_of_them_has_is_told() -> None:
    counts = {ONE: [1]}
    assert len(disagreements(Seen(counts, {GAP}), Held(counts, []), STREAMS)) == 1
    assert len(disagreements(Seen(counts, set()), Held(counts, [GAP]), STREAMS)) == 1
