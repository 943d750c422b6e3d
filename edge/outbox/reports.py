"""Reports of gaps that have to be told again, joined so that they do not grow in number."""

from collections.abc import Iterable

import msgspec

from protocols.backhaul.messages import GapEvent


def joined(gaps: Iterable[GapEvent]) -> list[GapEvent]:
    """Join gaps of one stream, cause and epoch whose numbers follow each other, or that have none.

    Counts add up, unless one of them is unknown. The moments of gaps without numbers become those of one
    longer gap: within it something may be missing.
    """
    done: dict[tuple[object, ...], GapEvent] = {}
    for gap in sorted(gaps, key=lambda one: (one.stream, one.cause, one.epoch, one.first, one.from_ms)):
        key = (gap.stream, gap.cause, gap.epoch, gap.first)
        before = done.pop(key, None)
        whole = gap if before is None else _both(before, gap)
        done[(*key[:3], whole.last + 1 if whole.first else 0)] = whole
    return list(done.values())


def _both(before: GapEvent, gap: GapEvent) -> GapEvent:
    unknown = before.count is None or gap.count is None
    return msgspec.structs.replace(
        before,
        from_ms=min(before.from_ms, gap.from_ms),
        to_ms=max(before.to_ms, gap.to_ms),
        count=None if unknown else (before.count or 0) + (gap.count or 0),
        last=gap.last,
    )
