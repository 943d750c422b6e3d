"""Run one bench, or all: `make bench NAME=street`."""

import sys

from tests.bench import outbox, protocols, street
from tests.bench.report import Report

BENCHES = {"street": street.run, "protocols": protocols.run, "outbox": outbox.run}


def main() -> int:
    """Run the benches that the command line names; 0 if every figure reaches its goal."""
    names = sys.argv[1:] or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"No bench {', '.join(unknown)}; there are {', '.join(BENCHES)}.", file=sys.stderr)
        return 2
    reports: list[Report] = [BENCHES[name]() for name in names]
    for report in reports:
        report.show()
    return 0 if all(report.ok for report in reports) else 1


sys.exit(main())
