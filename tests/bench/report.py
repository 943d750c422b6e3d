"""How a bench says what it found: a table for people, and one JSON object as the last line."""

import operator
from collections.abc import Callable

import msgspec
from rich.console import Console
from rich.table import Table

_COMPARE: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge, "=": operator.eq}


class Figure(msgspec.Struct, frozen=True):
    """One figure beside its goal and what it was measured against.

    Attributes:
        name: as the issue of the day names it.
        value: measured; None where it could not be.
        unit: of it.
        goal: such as "<= 4"; "" where a figure only informs.
        reference: what it stands beside, or why it could not be measured.
        ok: whether the goal is reached; what was not measured reaches none.
    """

    name: str
    value: float | None
    unit: str
    goal: str
    reference: str
    ok: bool


def figure(name: str, value: float, unit: str, goal: str, reference: str) -> Figure:
    """Make a figure and judge it."""
    sign, _, bound = goal.partition(" ")
    return Figure(
        name, round(value, 4), unit, goal, reference, not goal or _COMPARE[sign](value, float(bound))
    )


def not_measured(name: str, unit: str, goal: str, why: str) -> Figure:
    """Make the figure of what could not be measured: never left out, never reached."""
    return Figure(name, None, unit, goal, why, ok=False)


class Report(msgspec.Struct, frozen=True):
    """A bench's figures. `ok` is whether every goal is reached."""

    bench: str
    ok: bool
    figures: list[Figure]

    def show(self) -> None:
        """Print it."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("figure", "value", "unit", "goal", "", "beside"):
            table.add_column(column)
        for one in self.figures:
            verdict = "" if not one.goal else "[green]ok[/]" if one.ok else "[red]short[/]"
            value = "not measured" if one.value is None else f"{one.value:g}"
            table.add_row(one.name, value, one.unit, one.goal, verdict, one.reference)
        Console(highlight=False).print(table)
        print(msgspec.json.encode(self).decode(), flush=True)


def report(bench: str, figures: list[Figure]) -> Report:
    """Put figures together."""
    return Report(bench, all(one.ok for one in figures), figures)
