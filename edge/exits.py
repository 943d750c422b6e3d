"""How `luciole-edge` ends, for scripts and service managers."""

FAILED = 1
"""It did not work."""
WRONG = 2
"""The settings or the question are wrong; nothing was done."""
NO_AGENT = 3
"""No agent runs, and without one this cannot be answered."""
UNDER_WAY = 4
"""The command has not ended yet."""
