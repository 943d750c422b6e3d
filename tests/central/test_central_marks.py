"""Where a batch stands, and what of a range is left: pure rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from central.marks import Standing, never_coming, standing, without


@pytest.mark.parametrize(
    ("mark", "number", "expected"),
    [
        (0, 1, Standing.NEXT),
        (4, 5, Standing.NEXT),
        (4, 4, Standing.KNOWN),
        (4, 1, Standing.KNOWN),
        (4, 6, Standing.AHEAD),
        (0, 2, Standing.AHEAD),
    ],
)
def test_only_the_number_after_the_mark_is_next(mark: int, number: int, expected: Standing) -> None:
    assert standing(mark, number) is expected


@pytest.mark.parametrize(
    ("mark", "floor", "missing"),
    [(0, 1, []), (0, 0, []), (5, 3, []), (5, 6, []), (5, 8, [6, 7]), (0, 3, [1, 2])],
)
def test_what_lies_between_mark_and_floor_never_comes(mark: int, floor: int, missing: list[int]) -> None:
    assert list(never_coming(mark, floor)) == missing


ranges = st.builds(lambda start, size: range(start, start + size), st.integers(0, 60), st.integers(0, 20))


@given(ranges, st.lists(ranges, max_size=6))
def test_what_is_left_of_a_range_is_what_no_other_has(numbers: range, others: list[range]) -> None:
    left = without(numbers, others)
    taken = {number for other in others for number in other}
    assert [number for piece in left for number in piece] == [n for n in numbers if n not in taken]
    assert all(left)
