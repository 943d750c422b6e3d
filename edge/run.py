"""The agent's own process: what `luciole-edge run` becomes once it has read the command line.

    python -P -m edge.run SETTINGS LOG_FORMAT

The command line's libraries stay behind: an agent that runs for years has no use for them, and they weigh 10 MB.
"""

import asyncio
import sqlite3
import sys
from pathlib import Path

from drivers.database import NewerSchemaError
from edge import exits
from edge.agent import run_agent
from edge.config import SettingsError, load
from edge.lock import AlreadyRunsError
from edge.logs import set_up_logs


def main() -> int:
    """Run the agent until it is stopped, and return the exit status."""
    file, log_format = sys.argv[1:]
    try:
        settings = load(Path(file))
    except SettingsError as error:  # the file was changed after the command line had checked it
        return _say([str(fault) for fault in error.faults], exits.WRONG)
    set_up_logs(log_format)
    try:
        asyncio.run(run_agent(settings))
    except (AlreadyRunsError, NewerSchemaError) as error:
        return _say([str(error)], exits.FAILED)
    except (OSError, sqlite3.Error) as error:
        return _say([f"{settings.directory}: {error}"], exits.FAILED)
    return 0


def _say(lines: list[str], status: int) -> int:
    for line in lines:
        sys.stderr.write(f"luciole-edge: {line}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
