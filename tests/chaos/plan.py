"""What is killed and cut, and when: all of it drawn from one seed before anything starts."""

import random
from enum import StrEnum

import msgspec

from tests.faults.proxy import WayFault

FULL_S, FULL_KILLS, FULL_CUTS = 120.0, 20, 3
QUIET_S = 3.0
"""At the beginning, so that there is something to break."""
SOON_S = (0.05, 1.5)
"""After a start: the agent opens its files, says what is missing, and takes its first readings in that time."""
CABINETS = ("chaos-a", "chaos-b")


class Victim(StrEnum):
    """Who is killed."""

    AGENT_A = "agent-a"
    AGENT_B = "agent-b"
    BROKER = "broker"
    CENTRE = "centre"


AGENTS = dict(zip(CABINETS, (Victim.AGENT_A, Victim.AGENT_B), strict=True))


class Kill(msgspec.Struct, frozen=True, order=True):
    """kill -9, and a start after `down_s`. Seconds count from the first moment of chaos."""

    at_s: float
    victim: Victim
    down_s: float

    @property
    def back_s(self) -> float:
        """When it is started again."""
        return self.at_s + self.down_s


class Cut(msgspec.Struct, frozen=True):
    """Something is wrong with the backhaul of some cabinets for a while.

    Attributes:
        delay_s: of a delay.
        after_bytes: of a cut within a packet.
    """

    at_s: float
    fault: WayFault
    cabinets: tuple[str, ...]
    for_s: float
    delay_s: float
    after_bytes: int


class Plan(msgspec.Struct, frozen=True):
    """Everything that will happen, in order of time."""

    kills: list[Kill]
    cuts: list[Cut]


def make_plan(seed: int, seconds: float) -> Plan:
    """Draw the plan of a run: in proportion to 20 kills and 3 cuts in two minutes, at least 4 and 1."""
    rng = random.Random(seed)
    kills = max(len(Victim), round(FULL_KILLS * seconds / FULL_S))
    cuts = max(1, round(FULL_CUTS * seconds / FULL_S))
    return Plan(_kills(rng, kills, seconds), _cuts(rng, cuts, seconds))


def _kills(rng: random.Random, count: int, seconds: float) -> list[Kill]:
    """Draw who and when: everybody as often, give or take one, at any moment.

    One kill of the broker in two comes while the centre is down: what the broker then holds is nowhere else, but
    for the cabinets.
    """
    everybody = list(Victim)
    rng.shuffle(everybody)
    moments: dict[Victim, list[float]] = {victim: [] for victim in everybody}
    for number in range(count):
        moments[everybody[number % len(everybody)]].append(rng.uniform(QUIET_S, seconds - QUIET_S))
    centre = _of_one(rng, Victim.CENTRE, moments.pop(Victim.CENTRE))
    for number in range(0, len(moments[Victim.BROKER]), 2):
        down = rng.choice(centre)
        moments[Victim.BROKER][number] = rng.uniform(down.at_s, down.back_s)
    others = [kill for victim, each in moments.items() for kill in _of_one(rng, victim, each)]
    return sorted([*centre, *others])


def _of_one(rng: random.Random, victim: Victim, moments: list[float]) -> list[Kill]:
    """Draw the pauses; one kill in three, and each that would meet a dead process, comes soon after a start."""
    drawn: list[Kill] = []
    for at_s in sorted(moments):
        back_s = drawn[-1].back_s if drawn else 0.0
        if drawn and (at_s <= back_s or rng.random() < 1 / 3):
            at_s = back_s + rng.uniform(*SOON_S)  # noqa: PLW2901  drawn anew
        drawn.append(Kill(at_s, victim, rng.uniform(0.5, 4.0)))
    return drawn


def _cuts(rng: random.Random, count: int, seconds: float) -> list[Cut]:
    """Draw cuts one after another; each kind comes once before any comes again.

    Each begins in the first half of the time that it has, so that the last does not prolong the run: a cabinet
    needs up to ten seconds to notice that the other end of its connection is gone.
    """
    each_s = (seconds - QUIET_S) / count
    kinds: list[WayFault] = []
    while len(kinds) < count:
        kinds += rng.sample(list(WayFault), len(WayFault))
    cuts = []
    for number, fault in enumerate(kinds[:count]):
        for_s = rng.uniform(0.15, 0.4) * min(each_s, 30.0)
        at_s = QUIET_S + number * each_s + rng.uniform(0.0, (each_s - for_s) / 2)
        who = rng.choice([CABINETS, CABINETS[:1], CABINETS[1:]])
        cuts.append(Cut(at_s, fault, who, for_s, rng.uniform(0.2, 1.5), rng.randrange(150, 1500)))
    return cuts
