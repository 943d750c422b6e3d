"""Nothing lost, in figures: what the outbox asks of disk, CPU and memory, and how it drains.

Each part starts what it needs and ends it again; its figures stand beside references of the same run.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.bench import outbox_disk, outbox_drain, outbox_publisher, outbox_strain
from tests.bench.report import Figure, Report, report

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))

PARTS: dict[str, Callable[[Path], list[Figure]]] = {
    "disk": partial(outbox_disk.figures, rounds=ROUNDS),
    "publisher": partial(outbox_publisher.figures, rounds=ROUNDS),
    "drain": outbox_drain.figures,
    "strain": outbox_strain.figures,
}


def run() -> Report:
    """Run the bench. If it breaks, its folder with every log stays, and is named."""
    folder = Path(tempfile.mkdtemp(prefix="luciole-bench-", dir=_on_disk()))
    try:
        figures = [figure for name in PARTS for figure in _part(name, folder / name)]
    except BaseException:
        print(f"what the processes said is in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder)
    return report("outbox", figures)


def _part(name: str, folder: Path) -> list[Figure]:
    print(f"{name}…", file=sys.stderr, flush=True)
    return PARTS[name](folder)


def _on_disk() -> Path:
    """Return where temporary files go, or the working directory if those are in memory only."""
    usual = Path(tempfile.gettempdir())
    return Path.cwd() if outbox_disk.file_system(usual) in outbox_disk.IN_MEMORY else usual
