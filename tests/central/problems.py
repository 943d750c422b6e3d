"""What a problem document must be."""

import httpx


def problem(answer: httpx.Response, status: int) -> dict[str, object]:
    """Check that an answer is a problem document, and return it."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    said: dict[str, object] = answer.json()
    assert said["status"] == status
    assert set(said) == {"type", "title", "status", "detail", "instance", "errors"}
    assert "Traceback" not in answer.text
    return said


def faulty(said: dict[str, object]) -> list[str]:
    """Return where a problem document sees faults."""
    assert isinstance(said["errors"], list)
    return sorted(fault["where"] for fault in said["errors"])
