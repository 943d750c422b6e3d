"""What is wanted of a cabinet and not published yet: one draft of each kind. It is checked when published."""

import sqlite3
from typing import TypeVar

import msgspec

from central.api.bodies import Lighting
from central.api.priority_bodies import Priority
from central.errors import not_found
from central.store.writer import Tx
from protocols.model.policy import PolicyKind

Draft = Lighting | Priority
D = TypeVar("D", Lighting, Priority)

KINDS: dict[type[Draft], PolicyKind] = {Lighting: PolicyKind.LIGHTING, Priority: PolicyKind.PRIORITY}
"""A draft's table is called as its kind."""


def put(tx: Tx, cabinet: str, draft: Draft) -> None:
    """Store a draft.

    Raises:
        RequestError: if this centre never heard of the cabinet.
    """
    if tx.db.execute("SELECT 1 FROM cabinet WHERE id = ?", (cabinet,)).fetchone() is None:
        raise not_found("cabinet", cabinet)
    tx.db.execute(
        f"INSERT OR REPLACE INTO {KINDS[type(draft)].value} (cabinet, document, updated_ms) VALUES (?, ?, ?)",  # noqa: S608  our own words
        (cabinet, msgspec.json.encode(draft).decode(), tx.now_ms),
    )


def find(db: sqlite3.Connection, cabinet: str, shape: type[D]) -> D | None:
    """Return a cabinet's draft, or None."""
    found = db.execute(f"SELECT document FROM {KINDS[shape].value} WHERE cabinet = ?", (cabinet,)).fetchone()  # noqa: S608  our own words
    return None if found is None else msgspec.json.decode(found[0], type=shape)


def get(db: sqlite3.Connection, cabinet: str, shape: type[D]) -> D:
    """Return a cabinet's draft.

    Raises:
        RequestError: if there is none.
    """
    found = find(db, cabinet, shape)
    if found is None:
        raise not_found(f"{KINDS[shape].value} of cabinet", cabinet)
    return found
