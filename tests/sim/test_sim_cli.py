"""`luciole-sim` as its users start it: a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sim.cli import app
from sim.example import EXAMPLE

MAIN = (sys.executable, "-c", "from sim.cli import main; main()")
ROOT = Path(__file__).parents[2]
SCENARIO = """
control = "sim.sock"
[[dali]]
name = "dali-1"
port = "ports/dali-1"
gear = 2
[[rtu]]
name = "rtu-1"
port = "ports/rtu-1"
cabinet = {}
lux = {}
[meter]
[[counter]]
[[radio]]
name = "radio-1"
gateway_eui = "0016c001f1500001"
port = 9
[[radio.sensors]]
name = "bin-1"
device = "milesight-em400-mud"
dev_eui = "24e124136b502301"
app_key = "0102030405060708090a0b0c0d0e0f10"
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}


def sim(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MAIN, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a bench; give its process and the line that says it is ready."""
    (folder / "street.toml").write_text(SCENARIO)
    with subprocess.Popen(
        [*MAIN, "run", "street.toml", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            if process.poll() is None:
                process.kill()


def test_a_bench_runs_is_looked_at_broken_mended_and_stopped(tmp_path: Path) -> None:
    control = ("--control", "sim.sock")
    with running(tmp_path, "--json") as (process, line):
        ready = json.loads(line)
        assert ready["pid"] == process.pid
        assert ready["serial"]["dali-1"] == str(tmp_path / "ports/dali-1")
        assert Path(ready["serial"]["rtu-1"]).is_symlink()
        assert set(ready["tcp"]) == {"meter", "counter"}

        assert sim(tmp_path, "fault", "dali-1/1", "lamp_failure", *control).returncode == 0
        assert sim(tmp_path, "set", "cabinet", "door_open=on", *control).returncode == 0
        told = json.loads(sim(tmp_path, "state", "--json", *control).stdout)
        lamp = told["lines"]["dali-1"]["gear"]["1"]
        assert lamp["faults"] == ["lamp_failure"]
        assert set(lamp) >= {"level", "target", "power_w", "powered", "burning_s", "level_changes", "answers"}
        assert told["cabinet"]["door_open"]

        table = sim(tmp_path, "state", *control).stdout
        assert "lamp_failure" in table
        assert "dali-1" in table
        assert "radio-1 to 127.0.0.1:9" in table
        assert "bin-1" in table
        assert "holding_registers" in sim(tmp_path, "counters", *control).stdout
        counted = json.loads(sim(tmp_path, "counters", "--json", *control).stdout)
        assert counted["modbus"]["counter"] == {"holding_registers": {}}
        assert counted["radio"]["radio-1"]["sensors"]["bin-1"]["joins"] >= 1
        assert sim(tmp_path, "fault", "radio-1/bin-1", "lost", "--probability", "1", *control).returncode == 0

        refused = sim(tmp_path, "fault", "dali-1/9", "silent", *control)
        assert refused.returncode == 2
        assert "no target 'dali-1/9'" in refused.stderr
        assert sim(tmp_path, "clear", "dali-1/1", *control).returncode == 0
        assert sim(tmp_path, "stop", *control).returncode == 0
        assert process.wait(10) == 0
    assert not (tmp_path / "ports/dali-1").is_symlink()
    assert not (tmp_path / "sim.sock").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_bench_and_takes_its_ports_away(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as (process, line):
        assert line.startswith("ready: dali-1 at ")
        process.send_signal(number)
        assert process.wait(10) == 0
    assert list((tmp_path / "ports").iterdir()) == []


def test_a_bad_scenario_is_exit_2_all_faults_named_nothing_started(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('sead = 1\n[[dali]]\nname = "d"\nport = "ports/d"\ngear = 99\n')
    for command in (("run", "bad.toml"), ("scenario", "check", "bad.toml")):
        refused = sim(tmp_path, *command)
        assert refused.returncode == 2
        assert "bad.toml: sead: unknown" in refused.stderr
        assert "bad.toml: dali[0].gear: expected" in refused.stderr
        assert refused.stdout == ""
    assert not (tmp_path / "ports").exists()
    listed = json.loads(sim(tmp_path, "scenario", "check", "bad.toml", "--json").stdout)
    assert [fault["key"] for fault in listed["faults"]] == ["sead", "dali[0].gear"]


def test_a_taken_port_is_exit_1_and_said(tmp_path: Path) -> None:
    (tmp_path / "ports").mkdir()
    (tmp_path / "ports/dali-1").write_text("in the way")
    (tmp_path / "street.toml").write_text(SCENARIO)
    refused = sim(tmp_path, "run", "street.toml")
    assert refused.returncode == 1
    assert "not a symlink" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_second_bench_on_the_same_scenario_leaves_the_first_one_its_ports(tmp_path: Path) -> None:
    with running(tmp_path):
        before = (tmp_path / "ports/dali-1").readlink()
        refused = sim(tmp_path, "run", "street.toml")
        assert (refused.returncode, "another bench listens" in refused.stderr) == (1, True)
        assert (tmp_path / "ports/dali-1").readlink() == before


@pytest.mark.parametrize(
    "arguments",
    [("fault", "meter", "slow", "--delay", "nan"), ("set", "lux", "sky=inf"), ("set", "lux", "sky=dark")],
)
def test_what_is_no_number_is_exit_2_and_said(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    refused = sim(tmp_path, *arguments)
    assert (refused.returncode, "number" in refused.stderr) == (2, True)


def test_the_example_passes_the_check(tmp_path: Path) -> None:
    example = CliRunner().invoke(app, ["scenario", "example"]).stdout
    assert example == EXAMPLE
    (tmp_path / "example.toml").write_text(example)
    assert sim(tmp_path, "scenario", "check", "example.toml").returncode == 0


def test_without_a_bench_it_says_so(tmp_path: Path) -> None:
    refused = sim(tmp_path, "state")
    assert refused.returncode == 1
    assert "no bench answers at luciole-sim.sock" in refused.stderr


def test_help_has_examples() -> None:
    runner = CliRunner()
    assert "luciole-sim run street.toml" in runner.invoke(app, ["--help"]).stdout
    for command in ("run", "state", "counters", "fault", "clear", "set", "stop"):
        assert f"Example: luciole-sim {command}" in runner.invoke(app, [command, "--help"]).stdout
