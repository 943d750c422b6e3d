"""What the generator counts: whatever came in and was not gone by, each under its own name."""

import msgspec


class Counts(msgspec.Struct):
    """How often what happened.

    Attributes:
        heard: positions that came.
        elsewhere: of them, those on none of our approaches.
        repeated: those that were here already.
        late: those older than what is known of their vehicle.
        old: those that were too old when they came, by the cabinet's clock.
        future: those that claim to be from later than now.
        jumped: those that their vehicle cannot have reached.
        unentitled: those of vehicles that no rule is for.
        crowded: those of vehicles beyond what we follow at a time.
        pulses: detectors passed.
        chatter: of them, those that followed the one before too closely to be another vehicle.
        known: those of vehicles that are known by their position.
        unmatched: those that fit no rule or vehicle.
        asked: requests made.
        granted: those that the controller has activated.
        updates: arrivals told anew.
        cancels: cancels, repetitions included.
        strange: states that cannot follow the one before.
        strays: requests of ours that the controller tells of and we do not know.
        unconfirmed: requests given up without the controller having confirmed their end.
    """

    heard: int = 0
    elsewhere: int = 0
    repeated: int = 0
    late: int = 0
    old: int = 0
    future: int = 0
    jumped: int = 0
    unentitled: int = 0
    crowded: int = 0
    pulses: int = 0
    chatter: int = 0
    known: int = 0
    unmatched: int = 0
    asked: int = 0
    granted: int = 0
    updates: int = 0
    cancels: int = 0
    strange: int = 0
    strays: int = 0
    unconfirmed: int = 0
