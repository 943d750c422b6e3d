"""What was lost: each register's own counts against what the centre holds. Pure; it asks nothing of the product.

A count that is absent at the centre is *unsealed at a kill* if, and only if, it was given within a gap that this very
agent reported at its next start, and that gap lies within one sealing interval before a kill of this agent, as the
bench's own log has it, or in the downtime after it. Every other absent count is lost, whatever else has been broken.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import msgspec

ANSWER_MS = 100
"""What an answer may take from the register to the agent that stamps it, on a machine that does all of this at once:
by so much a count may have been given before the gap that has swallowed it."""
MARGIN_MS = 500
"""What a seal may come late: its commit waits for the disk, and for whoever is at it."""


class Register(msgspec.Struct, frozen=True, order=True):
    """One register of one simulated device, by the device's id at the centre."""

    device: str
    point: str


class Killed(msgspec.Struct, frozen=True):
    """A kill as it came about: UTC milliseconds before the signal, and when the process was started again."""

    at_ms: int
    back_ms: int


class Outage(msgspec.Struct, frozen=True):
    """One or several kills of an agent between which it read nothing.

    Attributes:
        begins_ms: the first kill.
        back_ms: the first start after it.
        ends_ms: the first answer that a register gave after the last start.
    """

    begins_ms: int
    back_ms: int
    ends_ms: int


class Gap(msgspec.Struct, frozen=True, order=True):
    """A gap at the centre, with the cause that the agent reported. UTC milliseconds."""

    cabinet: str
    stream: str
    cause: str
    from_ms: int
    to_ms: int


class Absent(msgspec.Struct, frozen=True, order=True):
    """A count that was given and is not at the centre."""

    given_ms: int
    register: Register
    count: int


class Ownership(msgspec.Struct, frozen=True):
    """Whose device it is, and in which stream its readings are."""

    cabinet: str
    stream: str


class Verdict(msgspec.Struct, frozen=True):
    """What became of all counts.

    Attributes:
        taken: how many were given.
        committed: how many are at the centre, repetitions included.
        lost: those for which there is no excuse.
        unsealed: those that a kill of their agent has swallowed, and a reported gap shows.
        duplicated: how many are there more than once.
        invented: values at the centre that no register ever gave.
        out_of_order: how often a count follows a larger one.
        crash_gap_max_ms: the longest crash gap without its downtime; 0 if there was none.
        unexplained: crash gaps that are too long, or that no kill explains.
        answer_max_ms: by how much an unsealed count was given before its gap, at most: what was needed of ANSWER_MS.
    """

    taken: int
    committed: int
    lost: list[Absent]
    unsealed: list[Absent]
    duplicated: int
    invented: int
    out_of_order: int
    crash_gap_max_ms: int
    unexplained: list[Gap]
    answer_max_ms: int


class Evidence(msgspec.Struct, frozen=True):
    """Everything that is known at the end.

    Attributes:
        given: for each register the moment of each of its counts, the first being 1; UTC milliseconds.
        held: for each register the counts at the centre, in order of (epoch, number, index).
        owner: by device.
        kills: of each cabinet's agent, in order of time.
        gaps: at the centre.
        seal_ms: one sealing interval.
    """

    given: Mapping[Register, Sequence[int]]
    held: Mapping[Register, Sequence[int]]
    owner: Mapping[str, Ownership]
    kills: Mapping[str, Sequence[Killed]]
    gaps: Sequence[Gap]
    seal_ms: int


def judge(known: Evidence) -> Verdict:
    """Hold what was given against what is held."""
    outages = {cabinet: _outages(known, cabinet) for cabinet in known.kills}
    crashes = [gap for gap in known.gaps if gap.cause == "crash"]
    explained = {gap: _explained(gap, outages[gap.cabinet], known.seal_ms) for gap in crashes}
    lost: list[Absent] = []
    unsealed: list[Absent] = []
    answer_max_ms = 0
    for one in sorted(_absent(known)):
        whose = known.owner[one.register.device]
        fits = [
            gap
            for gap, outage in explained.items()
            if outage is not None and (gap.cabinet, gap.stream) == (whose.cabinet, whose.stream)
        ]
        excuses = [gap for gap in fits if gap.from_ms - ANSWER_MS <= one.given_ms <= gap.to_ms]
        if excuses:
            unsealed.append(one)
            answer_max_ms = max(answer_max_ms, min(gap.from_ms for gap in excuses) - one.given_ms)
        else:
            lost.append(one)
    return Verdict(
        taken=sum(map(len, known.given.values())),
        committed=sum(map(len, known.held.values())),
        lost=lost,
        unsealed=unsealed,
        duplicated=sum(len(counts) - len(set(counts)) for counts in known.held.values()),
        invented=sum(_invented(known, register) for register in known.held),
        out_of_order=sum(descents(counts) for counts in known.held.values()),
        crash_gap_max_ms=max((_before(gap, outages[gap.cabinet]) for gap in crashes), default=0),
        unexplained=[gap for gap, outage in explained.items() if outage is None],
        answer_max_ms=answer_max_ms,
    )


def descents(counts: Iterable[int]) -> int:
    """Return how often a count follows a larger one."""
    return sum(after < before for before, after in pairwise(counts))


def _absent(known: Evidence) -> Iterable[Absent]:
    for register, moments in known.given.items():
        held = set(known.held.get(register, ()))
        for count, given_ms in enumerate(moments, start=1):
            if count not in held:
                yield Absent(given_ms, register, count)


def _invented(known: Evidence, register: Register) -> int:
    given = len(known.given.get(register, ()))
    return sum(not 1 <= count <= given for count in known.held[register])


def _outages(known: Evidence, cabinet: str) -> list[Outage]:
    """Return a cabinet's outages; kills between which its agent read nothing make one."""
    given = sorted(
        {
            at_ms
            for register, moments in known.given.items()
            if known.owner[register.device].cabinet == cabinet
            for at_ms in moments
        }
    )
    found: list[Outage] = []
    for kill in known.kills[cabinet]:
        ends_ms = next((at_ms for at_ms in given if at_ms >= kill.back_ms), kill.back_ms + 10**9)
        if found and found[-1].ends_ms >= kill.at_ms:
            found[-1] = Outage(found[-1].begins_ms, found[-1].back_ms, ends_ms)
        else:
            found.append(Outage(kill.at_ms, kill.back_ms, ends_ms))
    return found


def _explained(gap: Gap, outages: Sequence[Outage], seal_ms: int) -> Outage | None:
    """Return the outage after which a gap was reported, if it reaches back no further than one sealing interval."""
    return next(
        (
            outage
            for outage in outages
            if outage.begins_ms - seal_ms - MARGIN_MS <= gap.from_ms
            and outage.back_ms <= gap.to_ms <= outage.ends_ms
        ),
        None,
    )


def _before(gap: Gap, outages: Sequence[Outage]) -> int:
    """Return how much of a gap is no downtime."""
    down = (max(0, min(gap.to_ms, outage.ends_ms) - max(gap.from_ms, outage.begins_ms)) for outage in outages)
    return gap.to_ms - gap.from_ms - sum(down)


def by_register(rows: Iterable[tuple[str, str, int]]) -> dict[Register, list[int]]:
    """Gather rows of device, point and count, in their order."""
    found: dict[Register, list[int]] = defaultdict(list)
    for device, point, count in rows:
        found[Register(device, point)].append(count)
    return dict(found)
