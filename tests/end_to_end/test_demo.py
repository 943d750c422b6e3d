"""The whole of it: what `make demo` shows comes true, and its count balances."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 90


@pytest.mark.timeout(SECONDS * 4)
def test_an_evening_in_two_streets_comes_true_and_balances() -> None:
    command = [sys.executable, "-m", "sim.demo", "--seconds", str(SECONDS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    story, last = done.stdout.splitlines()[:-1], json.loads(done.stdout.splitlines()[-1])
    assert [line for line in story if "did not come true" in line] == []
    assert done.returncode == 0, done.stdout + done.stderr
    assert last["ok"] is True
    assert (last["lost"], last["duplicated"], last["unsealed_at_kill"]) == (0, 0, 0)
    assert last["readings_taken"] == last["readings_committed"] > 1000
    assert last["lamps"] == last["lamps_at_commanded_level"] == 48
    assert last["dimming_steps_applied"] >= 48 * 2
    assert last["alarms"] >= 1
    assert last["priority_granted"] == last["priority_requests"] == 2
    assert last["lorawan_uplinks"] >= 6
    assert last["forged_accepted"] == 0
    assert last["protocols"] == ["dali", "lorawan", "modbus-rtu", "modbus-tcp", "opcua", "rsmp"]
    assert last["why"] == []
