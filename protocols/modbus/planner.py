"""Which blocks to read so that few requests bring many points.

Neighbours are read together, gaps of up to eight registers with them, up to what the device gives in one
request. A device may refuse a block because an address in it does not exist (exception 2); then the block
is cut and the cut remembered, so that the next reading asks rightly at once.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec

from protocols.modbus.register_map import BIT_TABLES, MAX_REGISTERS, WIDTH, Entry, Table

MAX_GAP = 8
"""Registers that may be read for nothing: they cost 16 bytes, a request of their own 13 and a turnaround."""
MAX_BITS = 2000
"""Coils or discrete inputs in one request (MODBUS Application Protocol V1.1b3, 6.1)."""

Cut: TypeAlias = tuple[Table, int]
"""Where no block may reach across: a table and the first address behind the cut."""


class Block(msgspec.Struct, frozen=True):
    """One request.

    Attributes:
        table: from which table.
        address: its first register or bit.
        count: how many.
        items: the position of each point among those asked for, and its entry, ascending by address.
    """

    table: Table
    address: int
    count: int
    items: tuple[tuple[int, Entry], ...]


def plan(
    entries: Sequence[Entry], max_registers: int = MAX_REGISTERS, cuts: Iterable[Cut] = ()
) -> tuple[Block, ...]:
    """Return the blocks that bring all entries, each entry in exactly one.

    Args:
        entries: what is asked for, in any order.
        max_registers: the most that the device gives in one request.
        cuts: where the device has refused to be read across.
    """
    by_table: dict[Table, list[tuple[int, Entry]]] = defaultdict(list)
    for item in enumerate(entries):
        by_table[item[1].table].append(item)
    apart: dict[Table, list[int]] = defaultdict(list)
    for table, address in cuts:
        apart[table].append(address)
    return tuple(
        _block(table, run)
        for table, items in by_table.items()
        for run in _runs(
            sorted(items, key=_where), MAX_BITS if table in BIT_TABLES else max_registers, apart[table]
        )
    )


def _where(item: tuple[int, Entry]) -> tuple[int, int]:
    return item[1].address, item[0]


def _runs(
    items: list[tuple[int, Entry]], most: int, cuts: Sequence[int]
) -> Iterator[list[tuple[int, Entry]]]:
    run: list[tuple[int, Entry]] = []
    start = end = 0
    for item in items:
        address, after = item[1].address, _after(item[1])
        crosses = any(start < behind <= address for behind in cuts)
        if run and (crosses or address - end > MAX_GAP or max(after, end) - start > most):
            yield run
            run = []
        if not run:
            start = end = address
        run.append(item)
        end = max(end, after)
    yield run


def _after(entry: Entry) -> int:
    return entry.address + WIDTH[entry.type]


def _block(table: Table, run: list[tuple[int, Entry]]) -> Block:
    start = run[0][1].address
    return Block(table, start, max(_after(entry) for _, entry in run) - start, tuple(run))


def cut(block: Block) -> Cut | None:
    """Return where to cut a block that the device refused; None if it holds one address only.

    The widest gap goes first, since what nobody asked for is what most likely does not exist; a block without
    gaps is halved, so that a missing register is found in a few steps.
    """
    addresses = sorted({entry.address for _, entry in block.items})
    if len(addresses) < 2:
        return None
    width, behind = _widest_gap(block)
    return block.table, behind if width else addresses[len(addresses) // 2]


def split(block: Block, where: Cut) -> tuple[Block, Block]:
    """Return the two blocks that a cut makes of one; positions stay those of the whole."""
    before = [item for item in block.items if item[1].address < where[1]]
    return _block(block.table, before), _block(block.table, list(block.items[len(before) :]))


def _widest_gap(block: Block) -> tuple[int, int]:
    """Return the width of the widest gap in a block, 0 if there is none, and the address behind it."""
    end, widest = block.address, (0, block.address)
    for _, entry in block.items:
        if entry.address - end > widest[0]:
            widest = (entry.address - end, entry.address)
        end = max(end, _after(entry))
    return widest
