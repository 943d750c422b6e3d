"""Tests marked `on_a_faulty_disk` run in a process that was started with `disk.c`.

pytest itself was not. So, when the first such test of a module is to run, all those of the module that were selected
run in one pytest of their own beneath the library, and each test here has the outcome that it had there.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest

from tests.faults import disk

MARK = "on_a_faulty_disk"
OUTCOMES = "LUCIOLE_FAULTS_OUTCOMES"
INNER_S = 300


class Outcome(msgspec.Struct, frozen=True):
    """What became of one test in the other process."""

    test: str
    outcome: str
    report: str


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARK}: runs in a process started with tests/faults/disk.c")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a module waits for all of them."""
    for item in items:
        if item.get_closest_marker(MARK) and not disk.is_loaded():
            item.add_marker(pytest.mark.timeout(INNER_S + 20))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Give a test the outcome that it has in the other process."""
    if pyfuncitem.get_closest_marker(MARK) is None or disk.is_loaded():
        return None
    known = pyfuncitem.session.stash.setdefault(_KNOWN, {})
    if pyfuncitem.nodeid not in known:
        known.update(_run_module(pyfuncitem))
    outcome = known.get(pyfuncitem.nodeid)
    assert outcome is not None, "the test was not run in the other process"
    if outcome.outcome == "skipped":
        pytest.skip(outcome.report)
    if outcome.outcome == "failed":
        pytest.fail(outcome.report, pytrace=False)
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In the other process: tell what became of a test."""
    path = os.environ.get(OUTCOMES)
    if path is None or not (report.when == "call" or report.outcome != "passed"):
        return
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    with Path(path).open("ab") as file:
        file.write(msgspec.json.encode(Outcome(report.nodeid, report.outcome, text)) + b"\n")


_KNOWN = pytest.StashKey[dict[str, Outcome]]()


def _run_module(one: pytest.Function) -> dict[str, Outcome]:
    chosen = [
        item.nodeid for item in one.session.items if item.path == one.path and item.get_closest_marker(MARK)
    ]
    try:
        added = disk.environment()
    except disk.Unavailable as reason:
        return {test: Outcome(test, "skipped", str(reason)) for test in chosen}
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder) / "outcomes.jsonl"
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-cov", *chosen],
            cwd=one.config.rootpath,
            env=os.environ | added | {OUTCOMES: str(outcomes)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INNER_S,
            check=False,
        )
        lines = outcomes.read_bytes().splitlines() if outcomes.exists() else []
    found: dict[str, Outcome] = {}
    for outcome in (msgspec.json.decode(line, type=Outcome) for line in lines):
        if outcome.test not in found or outcome.outcome == "failed":
            found[outcome.test] = outcome
    lost = Outcome("", "failed", f"the other process ended with {ran.returncode}:\n{ran.stdout[-5000:]}")
    return {test: found.get(test, lost) for test in chosen}
