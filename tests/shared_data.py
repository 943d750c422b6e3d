"""Where the data beside the project are, in one place: `../shared/data` from the project's root."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"


def shared(path: str, what: str) -> Path:
    """Return a file or folder of the data beside the project; skip the test where it is missing.

    Args:
        path: within `shared/data`.
        what: what it is, for the reason.
    """
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"needs ../shared/data/{path}, {what}")
    return found
