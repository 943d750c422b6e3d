"""What a run that ended without saying so may have taken and not sealed: since when, for each stream. Pure."""

from collections.abc import Mapping

from protocols.backhaul.messages import GapCause, GapEvent
from protocols.model.device import StreamClass


def crash_gaps(
    sealed_ms: Mapping[StreamClass, int], *, began_ms: int, now_ms: int, seal_ms: int, epoch: int
) -> list[GapEvent]:
    """Return the gaps of a crash; every stream has one, because nobody knows what had just begun to be read.

    What a stream took up to the end of its last batch is sealed, and nothing waits for longer than a sealing
    interval: so at the last seal of any stream, what was older than that had been sealed of every stream. A stream
    that seals rarely is therefore not said to miss hours.

    Args:
        sealed_ms: for each stream up to when its last batch reaches; 0 if it never sealed one.
        began_ms: when the run that crashed began.
        now_ms: when this run begins.
        seal_ms: the sealing interval of the run that crashed; 0 if it is not known.
        epoch: that is sealed in.
    """
    last_ms = max(sealed_ms.values(), default=0)
    interval_ms = (
        last_ms - seal_ms if seal_ms and last_ms <= now_ms else 0
    )  # a clock that went back bounds nothing
    gaps = []
    for stream, until_ms in sorted(sealed_ms.items()):
        from_ms = max(until_ms, interval_ms, began_ms)
        to_ms = max(now_ms, from_ms)  # a cold clock may be behind
        gaps.append(GapEvent(stream, GapCause.CRASH, from_ms, to_ms, None, epoch=epoch))
    return gaps
