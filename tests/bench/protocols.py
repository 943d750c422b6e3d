"""Every protocol on the street: OPC UA, LoRaWAN, RSMP, the way from a bus to its request, and one cabinet with all.

Each part starts what it needs and ends it again; its figures stand beside references of the same run, in turn.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench import cabinet, junction, lorawan, opcua, rsmp
from tests.bench.report import Figure, Report, report

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))

PARTS: dict[str, Callable[[Path, int], list[Figure]]] = {
    "opcua": opcua.figures,
    "lorawan": lorawan.figures,
    "rsmp": rsmp.figures,
}


def run() -> Report:
    """Run the bench. If it breaks, its folder with every log stays, and is named."""
    folder = Path(tempfile.mkdtemp(prefix="luciole-bench-"))
    try:
        figures = [figure for name in (*PARTS, "cabinet") for figure in _part(name, folder / name)]
    except BaseException:
        print(f"what the processes said is in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder)
    return report("protocols", figures)


def _part(name: str, folder: Path) -> list[Figure]:
    print(f"{name}, {ROUNDS} rounds…", file=sys.stderr, flush=True)
    return PARTS[name](folder, ROUNDS) if name in PARTS else _cabinet(folder)


def _cabinet(folder: Path) -> list[Figure]:
    """Let one cabinet be idle, let vehicles come, let both ends of RSMP talk; memory is looked at last."""
    with cabinet.Cabinet(folder) as one:
        windows = one.idle_windows(ROUNDS)
        print(f"cabinet, {junction.REQUESTS} vehicles…", file=sys.stderr, flush=True)
        passages = junction.latencies(one)
        junction.talk(one)
        memory = cabinet.memory_figure(one)
    return [
        junction.schema_figure(one.tap.packets),
        *junction.latency_figures(passages),
        memory,
        *cabinet.cpu_figures(windows),
    ]
