"""The agent's process, apart from the command line that becomes it."""

import subprocess
import sys
from pathlib import Path


def test_the_agent_s_process_carries_none_of_the_command_line_s_libraries() -> None:
    code = "import sys, edge.run; print({'typer', 'pydantic'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


def test_settings_that_have_changed_since_they_were_checked_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "cabinet.toml"
    file.write_text("[cabinet]\nid = 7\n", encoding="utf-8")
    command = [sys.executable, "-m", "edge.run", str(file), "text"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert f"luciole-edge: {file}: cabinet.id: " in ran.stderr
