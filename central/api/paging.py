"""Lists in parts. Each ends with its last item's key, so that rows that arrive meanwhile shift nothing."""

import base64
import binascii
from datetime import datetime
from typing import Annotated, TypeVar

import msgspec
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from central.centre import Centre
from central.clock import LAST_MS, milliseconds
from central.errors import Fault, RequestError

T = TypeVar("T")

TheCentre = NamedDependency[Centre]

LARGEST = 2**62
"""No number in a cursor of ours is larger, and none that is can be asked of SQLite."""

Limit = Annotated[int, QueryParameter(ge=1, le=1_000, description="most items in one part")]
HistoryLimit = Annotated[
    int, QueryParameter(ge=1, le=10_000, description="most readings and gaps in one part")
]
Cursor = Annotated[
    str | None, QueryParameter(max_length=400, description="`next` of the part before; none for the first")
]


def write_cursor(key: object) -> str:
    """Return a list's key as an opaque text."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def read_cursor(cursor: str, shape: type[T]) -> T:
    """Return the key that a cursor stands for.

    Raises:
        RequestError: if it is none of ours.
    """
    try:
        packed = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        key = msgspec.json.decode(packed, type=shape)
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise _no_cursor() from error
    numbers = [part for part in (key if isinstance(key, tuple) else (key,)) if isinstance(part, int)]
    if any(abs(number) > LARGEST for number in numbers):
        raise _no_cursor()
    return key


def _no_cursor() -> RequestError:
    return RequestError(400, "this cursor is none of ours", [Fault("cursor", "expected a `next`")])


def moment_ms(at: datetime | None, name: str, default_ms: int) -> int:
    """Return a moment of a query as UTC milliseconds, within what can be stored.

    Raises:
        RequestError: if it does not say its offset from UTC.
    """
    if at is None:
        return default_ms
    if at.tzinfo is None:
        raise RequestError(
            400, "a time without an offset", [Fault(name, "expected RFC 3339, such as 2026-01-31T18:00:00Z")]
        )
    return min(max(milliseconds(at), 0), LAST_MS)
