"""Adaptive data rate: how fast and how quietly a device may speak, from how well it was heard.

Source: the algorithm of Semtech's recommendation as ChirpStack runs it: margin above the demodulation floor
of the best of the last twenty uplinks, less 10 dB, in steps of 3 dB; first a faster data rate, then less
power; repetitions by the share of lost frames. It never slows a device down: that a device does by itself.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from protocols.lorawan.region import Region, floor_db

HISTORY: Final = 20
INSTALLATION_MARGIN_DB: Final = 10.0
STEP_DB: Final = 3.0
MAX_NB_TRANS: Final = 3
_NB_TRANS: Final[Mapping[float, tuple[int, int, int]]] = {
    0.05: (1, 1, 2),
    0.10: (1, 2, 3),
    0.30: (2, 3, 3),
    1.01: (3, 3, 3),
}
"""By the share of frames that were lost, below; then by the repetitions that are set now, 1 to 3."""


class Heard(msgspec.Struct, frozen=True):
    """One uplink: its counter, and the best SNR that an antenna had of it in dB."""

    counter: int
    snr_db: float


class Link(msgspec.Struct, frozen=True):
    """How a device sends: data rate, the region's power index, repetitions of each uplink."""

    data_rate: int
    power_index: int = 0
    nb_trans: int = 1


def advise(region: Region, now: Link, history: Sequence[Heard]) -> Link:
    """Return how a device should send from now on.

    Args:
        region: its region.
        now: how it sends.
        history: its last uplinks with these settings, oldest first, `HISTORY` at most.
    """
    if not history or now.data_rate > region.adr_max_data_rate:
        return now
    nb_trans = _repetitions(now.nb_trans, _lost(history))
    margin = (
        max(one.snr_db for one in history)
        - floor_db(region.data_rates[now.data_rate].modulation)
        - INSTALLATION_MARGIN_DB
    )
    steps = int(margin / STEP_DB)
    if steps < 0 and len(history) < HISTORY:
        return Link(now.data_rate, now.power_index, nb_trans)
    rate = min(now.data_rate + max(steps, 0), region.adr_max_data_rate)
    left = steps - (rate - now.data_rate)
    power = min(max(now.power_index + left, 0), region.max_power_index)
    return Link(rate, power, nb_trans)


def _lost(history: Sequence[Heard]) -> float:
    sent = history[-1].counter - history[0].counter + 1
    return 1 - len(history) / sent if len(history) >= HISTORY and sent > 0 else 0.0


def _repetitions(now: int, lost: float) -> int:
    column = min(max(now, 1), MAX_NB_TRANS) - 1
    return next(row[column] for bound, row in _NB_TRANS.items() if lost < bound)
