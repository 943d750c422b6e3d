"""Live changes that another process has committed, brought to those who watch at the API's process."""

from collections.abc import Callable

import msgspec

from central.effects import Change, ChangeKind
from central.shards import Shards
from central.store.writer import Tx
from protocols.model.ids import CabinetId

PER_TICK = 2_000


class Collector:
    """Says whether anybody watches, and takes what the other processes wrote down meanwhile."""

    def __init__(self, shards: Shards, watched: Callable[[], bool]) -> None:
        self._shards = shards
        self._watched = watched
        self._said: bool | None = None

    def collect(self, tx: Tx) -> None:
        """Add what the others have committed since the last tick to what this round tells.

        While no other process ingests nothing is written, and nothing asked.
        """
        if self._shards.alone and not self._said:
            return
        watched = self._watched() and not self._shards.alone
        if watched is not self._said:
            self._say(tx, watched=watched)
        if watched:
            self._take(tx)

    def _say(self, tx: Tx, *, watched: bool) -> None:
        tx.db.execute(
            "INSERT OR REPLACE INTO centre (name, value) VALUES ('watched', ?)", (str(int(watched)),)
        )
        tx.db.execute("DELETE FROM change")
        self._said = watched

    @staticmethod
    def _take(tx: Tx) -> None:
        found = tx.db.execute(
            "SELECT id, kind, cabinet, body FROM change ORDER BY id LIMIT ?", (PER_TICK,)
        ).fetchall()
        if found:
            tx.effects.changes += [
                Change(ChangeKind(kind), CabinetId(cabinet), msgspec.Raw(body))
                for _, kind, cabinet, body in found
            ]
            tx.db.execute("DELETE FROM change WHERE id <= ?", (found[-1][0],))
