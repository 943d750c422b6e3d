"""What the centre holds, read in two ways.

The counts and the gaps come from the public API, because that is what a city sees. Epoch, number and index, by which
readings are ordered, it does not show: these come from the database, opened read-only; and both must tell the same.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec

from tests.chaos.count import Gap, Register, by_register

PAGE = 10_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
STREAMS = ("events", "critical", "ordinary", "bulk")
_GOOD = 0


class Shown(msgspec.Struct, frozen=True, tag_field="type", tag="reading"):
    """A reading, as much of it as counts."""

    value: int | float | str | bool | None
    quality: str


class ShownGap(msgspec.Struct, frozen=True, tag_field="type", tag="gap"):
    """A gap, as much of it as counts."""

    cabinet: str
    stream: str
    cause: str
    from_time: datetime | None = msgspec.field(name="from")
    to_time: datetime | None = msgspec.field(name="to")
    reported: bool


class Page(msgspec.Struct, frozen=True):
    """A part of a point's history."""

    items: list[Shown | ShownGap]
    next: str | None


class Seen(msgspec.Struct, frozen=True):
    """What the API shows: counts in order of time, and the gaps that were shown with them."""

    counts: dict[Register, list[int]]
    gaps: set[Gap]


def ask_api(url: str, registers: Iterable[Register]) -> Seen:
    """Read the whole history of some registers."""
    counts: dict[Register, list[int]] = {}
    gaps: set[Gap] = set()
    with httpx.Client(base_url=url, timeout=60.0) as client:
        for register in registers:
            counts[register] = []
            for page in _pages(client, register):
                readings = [one for one in page.items if isinstance(one, Shown)]
                counts[register] += [
                    one.value for one in readings if one.quality == "good" and isinstance(one.value, int)
                ]
                gaps.update(_gap(one) for one in page.items if isinstance(one, ShownGap) and one.reported)
    return Seen(counts, gaps)


def _pages(client: httpx.Client, register: Register) -> Iterator[Page]:
    where = f"/api/v1/devices/{register.device}/points/{register.point}/history"
    cursor: str | None = None
    while True:
        more = {} if cursor is None else {"cursor": cursor}
        answer = client.get(where, params={"limit": PAGE, **more})
        if answer.status_code == httpx.codes.NOT_FOUND:
            return  # never heard of: nothing of it has come
        answer.raise_for_status()
        page = msgspec.json.decode(answer.content, type=Page)
        yield page
        cursor = page.next
        if cursor is None:
            return


def _gap(one: ShownGap) -> Gap:
    return Gap(one.cabinet, one.stream, one.cause, _ms(one.from_time), _ms(one.to_time))


def _ms(at: datetime | None) -> int:
    return 0 if at is None else (at - EPOCH) // timedelta(milliseconds=1)


class Held(msgspec.Struct, frozen=True):
    """What the database holds: counts in order of (epoch, number, index), and every reported gap."""

    counts: dict[Register, list[int]]
    gaps: list[Gap]


_ROWS = """
    SELECT device, point, value FROM reading
    JOIN series ON series.id = series_id JOIN batch ON batch.id = batch_id
    JOIN (SELECT stream_id AS id, min(id) AS first FROM batch GROUP BY stream_id) AS began ON began.id = stream_id
    WHERE quality = ? AND value IS NOT NULL ORDER BY began.first, number, idx
"""
"""Epochs are random: the one that came first is first."""


def look_into(db_file: Path) -> Held:
    """Read the database itself, changing nothing."""
    with closing(sqlite3.connect(f"file:{db_file}?mode=ro", uri=True)) as db:
        counts = by_register(db.execute(_ROWS, (_GOOD,)))
        rows = db.execute(
            "SELECT cabinet, stream, cause, coalesce(from_ms, 0), to_ms FROM gap WHERE reported = 1"
        )
        gaps = [Gap(cabinet, STREAMS[stream], *rest) for cabinet, stream, *rest in rows]
    return Held(counts, gaps)


def disagreements(seen: Seen, held: Held, streams: Mapping[str, str]) -> list[str]:
    """Return in which ways the API shows something else than the database holds.

    Args:
        seen: by the API.
        held: in the database.
        streams: of each device that was asked for.
    """
    differ = [
        f"{register.device} {register.point}: the API shows {len(counts)} counts, "
        f"the database holds {len(held.counts.get(register, []))}"
        for register, counts in seen.counts.items()
        if sorted(counts) != sorted(held.counts.get(register, []))
    ]
    asked = set(streams.values())
    hidden = {gap for gap in held.gaps if gap.stream in asked} ^ seen.gaps
    return differ + [f"{gap} is not both in the API and in the database" for gap in sorted(hidden)]
