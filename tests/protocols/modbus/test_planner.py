"""The read planner: every point once, within limits, and wiser after a refusal."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.modbus.planner import MAX_BITS, MAX_GAP, Block, cut, plan, split
from protocols.modbus.register_map import BIT_TABLES, WIDTH, Entry, RegisterType, Table
from protocols.model.ids import PointName


def holding(address: int, kind: RegisterType = RegisterType.U16) -> Entry:
    return Entry(point=PointName(f"p{address}"), table=Table.HOLDING, address=address, type=kind)


@st.composite
def any_entry(draw: st.DrawFn) -> Entry:
    table = draw(st.sampled_from(Table))
    kinds = [RegisterType.BIT] if table in BIT_TABLES else [k for k in RegisterType if k != RegisterType.BIT]
    kind = draw(st.sampled_from(kinds))
    address = draw(st.one_of(st.integers(0, 60), st.integers(0, 65532)))
    return Entry(point=PointName("p"), table=table, address=address, type=kind)


ENTRIES = st.lists(any_entry(), max_size=40)
CUTS = st.lists(st.tuples(st.sampled_from(Table), st.integers(0, 60)), max_size=6)


@given(ENTRIES, st.integers(4, 125), CUTS)
def test_every_point_is_read_once_and_within_the_limits(
    entries: list[Entry], most: int, cuts: list[tuple[Table, int]]
) -> None:
    blocks = plan(entries, most, cuts)
    positions = sorted(position for block in blocks for position, _ in block.items)
    assert positions == list(range(len(entries)))
    for block in blocks:
        assert block.count <= (MAX_BITS if block.table in BIT_TABLES else most)
        for position, one in block.items:
            assert one is entries[position]
            assert one.table is block.table
            assert block.address <= one.address
            assert one.address + WIDTH[one.type] <= block.address + block.count
        for table, behind in cuts:
            assert table is not block.table or not starts_on_both_sides(block, behind)


def starts_on_both_sides(block: Block, behind: int) -> bool:
    addresses = [one.address for _, one in block.items]
    return min(addresses) < behind <= max(addresses)


@given(ENTRIES)
def test_blocks_of_a_table_are_apart_for_a_reason(entries: list[Entry]) -> None:
    for one, other in pairwise(plan(entries)):
        if one.table is other.table:
            gap = other.address - (one.address + one.count)
            together = other.address + other.count - one.address
            assert gap > MAX_GAP or together > (MAX_BITS if one.table in BIT_TABLES else 125) - 4


def test_gaps_of_eight_are_read_and_of_nine_are_not() -> None:
    assert [(b.address, b.count) for b in plan([holding(0), holding(9)])] == [(0, 10)]
    assert [(b.address, b.count) for b in plan([holding(0), holding(10)])] == [(0, 1), (10, 1)]


def test_tables_are_kept_apart() -> None:
    bit = Entry(point=PointName("c"), table=Table.COIL, address=1, type=RegisterType.BIT)
    assert len(plan([holding(0), bit])) == 2


def test_an_address_may_be_asked_for_twice() -> None:
    (block,) = plan([holding(5), holding(5)])
    assert (block.address, block.count, len(block.items)) == (5, 1, 2)


def test_a_refused_block_is_cut_at_its_widest_gap() -> None:
    (block,) = plan([holding(0), holding(2), holding(9), holding(10)])
    assert cut(block) == (Table.HOLDING, 9)
    assert [(b.address, b.count) for b in split(block, (Table.HOLDING, 9))] == [(0, 3), (9, 2)]


def test_a_single_address_cannot_be_cut() -> None:
    assert cut(plan([holding(7), holding(7)])[0]) is None


@given(st.sets(st.integers(0, 40), min_size=1), st.sets(st.integers(0, 50), max_size=8))
def test_a_device_with_holes_is_learned(asked: set[int], missing: set[int]) -> None:
    """After enough refusals the only blocks that are still refused are the missing registers themselves."""
    entries = [holding(address) for address in sorted(asked)]
    cuts: set[tuple[Table, int]] = set()
    for _ in range(2 * len(entries)):
        refused = [
            b for b in plan(entries, 125, cuts) if missing & set(range(b.address, b.address + b.count))
        ]
        found = {where for block in refused if (where := cut(block)) is not None}
        if not found:
            break
        cuts |= found
    assert {b.address for b in refused} == asked & missing
    assert all(b.count == 1 for b in refused)


@pytest.mark.parametrize("kind", [RegisterType.F32, RegisterType.U64])
def test_a_wide_value_is_never_torn(kind: RegisterType) -> None:
    blocks = plan([holding(address, kind) for address in range(0, 40, 4)], max_registers=5)
    assert all(block.count == WIDTH[kind] for block in blocks)
