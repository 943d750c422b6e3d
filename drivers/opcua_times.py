"""When a server's values were so, by our clock: as long ago as the server's own clock says.

A notification may hold several values of one node. All of them arrive at one moment, but each has the time at which
the server's source gave it, and the notification the time at which it was sent (OPC 10000-4, 7.11 and 7.26). Both are
of the server's clock, so that their difference is an age, however wrong that clock is.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Final

from drivers.opcua_devices import Judged
from protocols.model.ids import PointName

TOGETHER_MS: Final = 20
"""Values of several points that are so close are one sample: no line is told of changes more often."""
_MS: Final = timedelta(milliseconds=1)


def age_ms(published: datetime | None, source: datetime | None, bound_ms: float) -> int:
    """Return how old a value was when its notification was sent; 0 for what cannot be believed.

    Args:
        published: when the notification was sent, by the server's clock.
        source: when the value was so, by the server's clock; None if it does not say.
        bound_ms: how old a value can be that has waited for its notification. One that seems older has not changed
            since, or its clock is another; either way it is so now, and so is one that seems to be of the future.
    """
    if published is None or source is None:
        return 0
    age = (published - source) / _MS
    return round(age) if 0 <= age <= bound_ms else 0


def moments(
    values: Sequence[tuple[PointName, Judged, int]], floor_ms: int
) -> Iterator[tuple[int, dict[PointName, Judged]]]:
    """Yield the moments of one device, the oldest first, and what was new at each.

    Args:
        values: name, value and monotonic milliseconds; those of one point in their order, which is kept.
        floor_ms: what was told of the device before was so then: nothing goes back behind it.
    """
    latest: dict[PointName, int] = {}
    timed = []
    for name, value, at_ms in values:
        latest[name] = max(at_ms, latest.get(name, floor_ms))
        timed.append((latest[name], name, value))
    timed.sort(key=itemgetter(0))
    news: dict[PointName, Judged] = {}
    first_ms = last_ms = 0
    for at_ms, name, value in timed:
        if news and (name in news or at_ms - first_ms > TOGETHER_MS):
            yield last_ms, news
            news = {}
        first_ms = first_ms if news else at_ms
        news[name] = value
        last_ms = at_ms
    if news:
        yield last_ms, news
