"""What a run says at its end: a few lines for people, and one JSON object as the last."""

import sys

import msgspec


class Report(msgspec.Struct, frozen=True):
    """The last line.

    Attributes:
        seed: of everything random.
        broker: which broker in which version.
        asked_per_s: readings a second that both cabinets are asked for together.
        read_per_s: what the registers gave, in the time in which their agents were up.
        kills: how many processes were killed.
        cuts: how often the backhaul was broken.
        taken: counts that the registers gave.
        committed: counts at the centre, repetitions included.
        lost: counts that are absent without excuse.
        duplicated: counts that are there more than once.
        out_of_order: counts that follow a larger one.
        unsealed_at_kill: absent counts within a gap that their killed agent reported.
        crash_gap_max_s: the longest such gap without its downtime.
        drain_s: from the end of polling until everything was at the centre.
        ok: whether all of it is as promised.
    """

    seed: int
    broker: str
    asked_per_s: float
    read_per_s: float
    kills: int
    cuts: int
    taken: int
    committed: int
    lost: int
    duplicated: int
    out_of_order: int
    unsealed_at_kill: int
    crash_gap_max_s: float
    drain_s: float
    ok: bool


def say(text: str) -> None:
    """Say what happens, as it happens."""
    print(text, file=sys.stderr, flush=True)
