"""Keys and counters on disk: for their owner alone, all or none, and not readable from anything but the file."""

import sqlite3
from pathlib import Path

import pytest

from drivers.key_store import KeyStore

KEY = bytes(range(16))
ONE, OTHER = "c0:11:22:33:44:01", "c0:11:22:33:44:02"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "ble-1.db"


def test_what_was_kept_is_there_in_the_next_life(path: Path) -> None:
    store = KeyStore(path)
    assert store.load() == {}
    store.keep(ONE, KEY)
    store.keep(OTHER, KEY[::-1])
    store.advance({ONE: 7, OTHER: 2**32 - 1})
    store.close()
    store.close()
    again = KeyStore(path).load()
    assert {address: (kept.key, kept.counter) for address, kept in again.items()} == {
        ONE: (KEY, 7),
        OTHER: (KEY[::-1], 2**32 - 1),
    }


def test_a_new_key_begins_with_no_counter(path: Path) -> None:
    store = KeyStore(path)
    store.keep(ONE, KEY)
    store.advance({ONE: 7})
    store.keep(ONE, KEY)
    assert store.load()[ONE].counter is None
    store.close()


def test_the_files_are_for_their_owner_alone(path: Path) -> None:
    store = KeyStore(path)
    store.keep(ONE, KEY)
    modes = {found.name: found.stat().st_mode & 0o077 for found in path.parent.iterdir()}
    assert modes == {"ble-1.db": 0, "ble-1.db-wal": 0, "ble-1.db-shm": 0}
    store.close()


def test_counters_are_durable_before_they_count(path: Path) -> None:
    """FULL: a power cut after the commit does not take it back."""
    store = KeyStore(path)
    store.load()
    assert store._connection is not None
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()


def test_a_counter_that_cannot_be_kept_leaves_all_as_they_were(path: Path) -> None:
    store = KeyStore(path)
    store.keep(ONE, KEY)
    store.keep(OTHER, KEY)
    store.advance({ONE: 1, OTHER: 1})
    with pytest.raises(sqlite3.Error):
        store.advance({ONE: 2, OTHER: 2**32})
    assert [kept.counter for kept in store.load().values()] == [1, 1]
    store.close()


def test_a_key_is_in_no_representation(path: Path) -> None:
    store = KeyStore(path)
    store.keep(ONE, KEY)
    told = f"{store!r} {store.load()!r} {vars(store)!r}"
    assert KEY.hex() not in told
    assert repr(KEY) not in told
    store.close()
