"""Run simulations: `make simulate SEEDS=1000`, or one of them again: `make simulate SEED=123`."""

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed

import msgspec

from tests.simulation.mutants import MUTANTS, NAMED, planted
from tests.simulation.world import Outcome, simulate

SEEDS_AT_A_TIME = 10
MOST_SEEDS_FOR_A_MUTANT = 400
LINES_SHOWN = 40
FAILURES_SHOWN = 5


class Result(msgspec.Struct, frozen=True):
    """The last line of a run.

    Attributes:
        seeds: simulations of the product as it is.
        violations: of them, those in which something was that must not be.
        mutants: defects that were planted.
        mutants_found: of them, those in which something was found.
        ok: nothing in the product, something in every mutant.
        readings: that were asked for in all.
        faults: that befell them.
        virtual_h: hours that passed for those who were in it.
    """

    seeds: int
    violations: int
    mutants: int
    mutants_found: int
    ok: bool
    readings: int
    faults: int
    virtual_h: float


def one(seed: int, name: str = "", *, whole: bool = False) -> Outcome:
    """Run one simulation; what breaks the simulation itself is a finding too."""
    with planted(name):
        try:
            return simulate(seed, whole=whole)
        except Exception:  # noqa: BLE001  whatever it is, it has to be looked at, and the seed be known
            return Outcome(seed, [traceback.format_exc()], "", [], {}, 0, 0.0)


def some(seeds: Sequence[int]) -> list[Outcome]:
    """Run some simulations, in a process of the pool."""
    outcomes = [one(seed) for seed in seeds]
    return [found if found.violations else msgspec.structs.replace(found, lines=[]) for found in outcomes]


def hunt(name: str) -> tuple[str, int | None, str]:
    """Run a mutant until it is found: its name, how many seeds that took, and what was found."""
    for seed in range(MOST_SEEDS_FOR_A_MUTANT):
        outcome = one(seed, name)
        if outcome.violations:
            return name, seed + 1, outcome.violations[0]
    return name, None, ""


class Show:
    """What is told on the way: to a person if one is there, and about failures always."""

    def __init__(self, seeds: int, mutants: int) -> None:
        self._seeds, self._mutants = seeds, mutants
        self._failures = 0
        self.outcomes = 0
        self.violations = 0
        self.found: dict[str, int | None] = {}
        self.faults: Counter[str] = Counter()
        self.readings = 0
        self.virtual_s = 0.0

    def take(self, done: "Future[object]") -> None:
        """Take what a process has found."""
        result = done.result()
        if isinstance(result, tuple):
            name, seeds, what = result
            self.found[name] = seeds
            found = f"found after {seeds} seeds: {what[:150]}" if seeds else "NOT FOUND"
            self._say(f"mutant {name}: {found}")
        elif isinstance(result, list):
            for outcome in result:
                self._count(outcome)
        if sys.stderr.isatty():
            sys.stderr.write(
                f"\r{self.outcomes} of {self._seeds} seeds, {self.violations} with violations,"
                f" {len(self.found)} of {self._mutants} mutants \r"
            )

    def _count(self, outcome: Outcome) -> None:
        self.outcomes += 1
        self.faults.update(outcome.faults)
        self.readings += outcome.readings
        self.virtual_s += outcome.virtual_s
        if outcome.violations:
            self.violations += 1
            self._failures += 1
            if self._failures <= FAILURES_SHOWN:
                self._say(tell(outcome))

    def _say(self, text: str) -> None:
        print(text, flush=True)


def tell(outcome: Outcome, name: str = "") -> str:
    """Return what a person needs to know of a failure: the seed, what is wrong, the last lines, how to replay."""
    again = f"make simulate SEED={outcome.seed}" + (f" MUTANT={name}" if name else "")
    return "\n".join(
        [
            *outcome.lines[-LINES_SHOWN:],
            f"seed {outcome.seed}: {len(outcome.violations)} violations",
            *(f"  {what}" for what in outcome.violations),
            f"again: {again}; with everything that happens: {again} TRACE=1",
        ]
    )


def many(seeds: Iterable[int], mutants: Sequence[str], processes: int) -> Result:
    """Run many simulations and hunt mutants, in several processes."""
    listed = list(seeds)
    chunks = [listed[i : i + SEEDS_AT_A_TIME] for i in range(0, len(listed), SEEDS_AT_A_TIME)]
    show = Show(len(listed), len(mutants))
    with ProcessPoolExecutor(processes) as pool:
        work: list[Future[object]] = [pool.submit(hunt, name) for name in mutants]
        work += [pool.submit(some, chunk) for chunk in chunks]
        for done in as_completed(work):
            show.take(done)
    found = sum(seeds_taken is not None for seeds_taken in show.found.values())
    print(f"befell them: {', '.join(f'{count} {what}' for what, count in show.faults.most_common())}")
    return Result(
        len(listed),
        show.violations,
        len(mutants),
        found,
        ok=not show.violations and found == len(mutants),
        readings=show.readings,
        faults=show.faults.total(),
        virtual_h=round(show.virtual_s / 3600, 1),
    )


def again(seed: int, name: str, *, whole: bool) -> int:
    """Run one simulation and tell of it."""
    begin_s = time.monotonic()
    outcome = one(seed, name, whole=whole)
    if whole:
        print("\n".join(outcome.lines))
        outcome = msgspec.structs.replace(outcome, lines=[])
    print(tell(outcome, name))
    print(
        f"digest {outcome.digest}; {outcome.readings} readings, {outcome.virtual_s:.0f} virtual seconds"
        f" in {time.monotonic() - begin_s:.2f} s"
    )
    return 1 if outcome.violations else 0


def main() -> int:
    """Do what the command line says; 0 if nothing is wrong with the product and something with each mutant."""
    options = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    options.add_argument("--seeds", type=int, default=600, help="how many simulations")
    options.add_argument("--first", type=int, default=0, help="the first of their seeds")
    options.add_argument("--seed", type=int, help="run this one alone")
    options.add_argument("--trace", action="store_true", help="with --seed: print everything that happens")
    options.add_argument("--mutant", default="", help="with --seed: with this defect planted")
    options.add_argument("--mutants", default="all", help="all, named, none, or names with commas")
    options.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = options.parse_args()
    if given.seed is not None:
        return again(given.seed, given.mutant, whole=given.trace)
    mutants = {"all": list(MUTANTS), "named": list(NAMED), "none": []}.get(
        given.mutants, given.mutants.split(",")
    )
    result = many(range(given.first, given.first + given.seeds), mutants, given.processes)
    print(msgspec.json.encode(result).decode(), flush=True)
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main())
