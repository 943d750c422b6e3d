"""How `luciole-edge` ends, for scripts and service managers."""

FAILED = 1
"""It was understood and did not work, or was refused: by a limit, a rule, a device, a disk, another agent."""
WRONG = 2
"""The settings or the question are wrong, and would be wrong at any time; nothing was done."""
NO_AGENT = 3
"""No agent runs, and without one this cannot be answered."""
UNDER_WAY = 4
"""The command has not ended yet."""
