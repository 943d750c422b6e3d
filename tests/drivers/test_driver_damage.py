"""Damage to SQLite files: noticed, also in the log; read page by page; replaced without a moment of nothing."""

import random
import shutil
import sqlite3
import struct
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.damage import CUT, TORN, Replacement, cut_of_log, damage_of
from drivers.database import open_database, open_readonly
from drivers.errors import LineDownError
from drivers.key_store import KeyStore
from drivers.lora_store import Store
from drivers.pages import Pages
from edge.ballast import reserve

PAGE = 4096
FRAME = PAGE + 24
TABLE = ("CREATE TABLE t (a INTEGER, b, c, PRIMARY KEY (a)) WITHOUT ROWID",)
values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=40),
    st.binary(max_size=300),
    st.integers(0, 15_000).map(lambda size: random.Random(size).randbytes(size)),
)


def with_log(path: Path, commits: int) -> sqlite3.Connection:
    """Return a database with commits of one row each in its log alone, still open."""
    db = open_database(path, TABLE)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for number in range(commits):
        db.execute("INSERT INTO t VALUES (?, ?, ?)", (number, "b", "c"))
    return db


def killed(path: Path, folder: Path) -> Path:
    """Copy a database as a kill leaves it."""
    folder.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(path.with_name(path.name + suffix), folder / (path.name + suffix))
    return folder / path.name


class TestPages:
    @given(rows=st.dictionaries(st.integers(-(2**63), 2**63 - 1), st.tuples(values, values), max_size=60))
    @settings(max_examples=60, deadline=None)
    def test_every_record_is_found_as_sqlite_itself_says_it(
        self, tmp_path_factory: pytest.TempPathFactory, rows: dict[int, tuple[object, object]]
    ) -> None:
        path = tmp_path_factory.mktemp("pages") / "a.db"
        db = open_database(path, TABLE)
        db.executemany("INSERT INTO t VALUES (?, ?, ?)", [(a, b, c) for a, (b, c) in rows.items()])
        said = set(db.execute("SELECT a, b, c FROM t"))
        with Pages(path) as pages:
            assert {record for record in pages.records() if len(record) == 3} == said
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with Pages(path) as pages:
            found = [record for record in pages.records() if len(record) == 3]
        assert set(found) == said
        assert len(found) == len(said)
        db.close()

    def test_the_log_s_version_of_a_page_is_the_one_that_counts(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        db = with_log(path, 1)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("UPDATE t SET b = 'new'")
        with Pages(path) as pages:
            assert [record for record in pages.records() if len(record) == 3] == [(0, "new", "c")]
        db.close()

    def test_rows_are_found_below_a_root_that_is_gone(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        db = open_database(path, TABLE)
        db.executemany("INSERT INTO t VALUES (?, ?, ?)", [(n, "b" * 300, "c") for n in range(1000)])
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 't'").fetchone()
        db.close()
        content = bytearray(path.read_bytes())
        content[:PAGE] = b"\xff" * PAGE
        content[(root - 1) * PAGE : root * PAGE] = b"\xff" * PAGE
        path.write_bytes(content)
        with Pages(path) as pages:
            found = {record[0] for record in pages.records() if len(record) == 3}
        assert len(found) > 980

    @given(noise=st.binary(max_size=3 * PAGE), seed=st.integers(0, 999))
    @settings(max_examples=60, deadline=None)
    def test_noise_yields_records_or_nothing_and_never_breaks(
        self, tmp_path_factory: pytest.TempPathFactory, noise: bytes, seed: int
    ) -> None:
        path = tmp_path_factory.mktemp("noise") / "a.db"
        chance = random.Random(seed)
        page = bytearray(chance.randbytes(PAGE * 4))
        for start in range(0, len(page), PAGE):
            page[start] = chance.choice((0x0A, 0x02))
            page[start + 3 : start + 5] = struct.pack(">H", chance.randrange(400))
        path.write_bytes(bytes(page) + noise)
        with Pages(path) as pages:
            for record in pages.records():
                assert isinstance(record, tuple)


class TestLog:
    def test_a_log_that_is_whole_is_not_cut(self, tmp_path: Path) -> None:
        db = with_log(tmp_path / "a.db", 5)
        copy = killed(tmp_path / "a.db", tmp_path / "killed")
        assert damage_of(copy, torn_counts=True) == ""
        db.close()

    def test_a_kill_in_the_midst_of_a_commit_is_no_damage(self, tmp_path: Path) -> None:
        db = with_log(tmp_path / "a.db", 5)
        copy = killed(tmp_path / "a.db", tmp_path / "killed")
        wal = copy.with_name("a.db-wal")
        whole = wal.read_bytes()
        for size in range(len(whole) - FRAME + 1, len(whole), 501):
            wal.write_bytes(whole[:size])
            assert damage_of(copy, torn_counts=True) == ""
        db.close()

    @pytest.mark.parametrize("frame", range(5))
    def test_a_damaged_frame_is_noticed_and_leaves_the_log_as_it_is(self, tmp_path: Path, frame: int) -> None:
        db = with_log(tmp_path / "a.db", 5)
        copy = killed(tmp_path / "a.db", tmp_path / "killed")
        wal = copy.with_name("a.db-wal")
        content = bytearray(wal.read_bytes())
        content[32 + frame * FRAME + 1000] ^= 1
        wal.write_bytes(content)
        for _ in range(2):
            assert damage_of(copy, torn_counts=True) == (CUT if frame < 4 else TORN)
        assert wal.read_bytes() == bytes(content)
        assert damage_of(copy) == (
            CUT if frame < 4 else ""
        )  # the last may only have been torn by a power cut
        db.close()

    @pytest.mark.parametrize("noise", [b"\xa5" * 24, bytes(8)])
    def test_a_last_commit_whose_frame_does_not_even_say_that_it_is_one_is_noticed(
        self, tmp_path: Path, noise: bytes
    ) -> None:
        db = with_log(tmp_path / "a.db", 5)
        copy = killed(tmp_path / "a.db", tmp_path / "killed")
        wal = copy.with_name("a.db-wal")
        content = bytearray(wal.read_bytes())
        content[32 + 4 * FRAME : 32 + 4 * FRAME + len(noise)] = noise
        wal.write_bytes(content)
        assert damage_of(copy, torn_counts=True) == TORN
        assert damage_of(copy) == ""
        db.close()

    def test_a_kill_within_a_commit_of_many_pages_is_no_damage(self, tmp_path: Path) -> None:
        db = with_log(tmp_path / "a.db", 2)
        before = (tmp_path / "a.db-wal").stat().st_size
        db.execute("INSERT INTO t VALUES (99, ?, 'c')", ("b" * 9 * PAGE,))
        copy = killed(tmp_path / "a.db", tmp_path / "killed")
        wal = copy.with_name("a.db-wal")
        whole = wal.read_bytes()
        assert len(whole) > before + 8 * FRAME
        for size in range(before, len(whole), FRAME):
            wal.write_bytes(whole[:size])
            assert damage_of(copy, torn_counts=True) == ""
        db.close()

    @pytest.mark.parametrize("byte", [0, 9, 17, 25])
    def test_a_damaged_header_is_noticed(self, tmp_path: Path, byte: int) -> None:
        db = with_log(tmp_path / "a.db", 5)
        copy = killed(tmp_path / "a.db", tmp_path / "killed")
        wal = copy.with_name("a.db-wal")
        content = bytearray(wal.read_bytes())
        content[byte] ^= 1
        wal.write_bytes(content)
        assert damage_of(copy) == CUT
        db.close()

    def test_blocks_that_were_reserved_for_a_log_are_no_damage(self, tmp_path: Path) -> None:
        db = with_log(tmp_path / "a.db", 5)
        copy = killed(tmp_path / "a.db", tmp_path / "killed")
        reserve(copy.with_name("a.db-wal"))
        assert damage_of(copy, torn_counts=True) == ""
        fresh = killed(copy, tmp_path / "fresh")
        fresh.with_name("a.db-wal").write_bytes(bytes(1 << 20))
        assert damage_of(fresh, torn_counts=True) == ""
        db.close()

    def test_frames_of_an_earlier_round_are_no_damage(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        db = with_log(path, 9)
        db.execute("PRAGMA wal_checkpoint(RESTART)")
        db.execute("INSERT INTO t VALUES (99, 'b', 'c')")
        copy = killed(path, tmp_path / "killed")
        assert damage_of(copy, torn_counts=True) == ""
        reader = open_readonly(copy)
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (10,)
        assert cut_of_log(copy) == ""
        reader.close()
        db.close()


class TestReplacement:
    def lay_out(self, folder: Path) -> Replacement:
        path = folder / "a.db"
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).write_text(f"old{suffix}", encoding="ascii")
        replacement = Replacement(path)
        replacement.begin().write_text("new", encoding="ascii")
        return replacement

    @pytest.mark.parametrize("keep", [True, False])
    @pytest.mark.parametrize("done", range(6))
    def test_ended_after_any_step_the_next_start_finishes_or_begins_again(
        self, tmp_path: Path, done: int, keep: bool
    ) -> None:
        replacement = self.lay_out(tmp_path)
        for step in replacement.steps(keep=keep)[:done]:
            step()
            assert replacement.path.exists() or replacement.is_ready()
        if not done:
            assert not replacement.is_ready()
            assert replacement.path.read_text(encoding="ascii") == "old"
            return
        if replacement.is_ready():
            for step in replacement.steps(keep=keep):
                step()
        names = {one.name for one in tmp_path.iterdir()}
        assert names == {"a.db", *(("a.db.damaged", "a.db.damaged-wal") if keep else ())}
        assert replacement.path.read_text(encoding="ascii") == "new"
        if keep:
            assert (tmp_path / "a.db.damaged-wal").read_text(encoding="ascii") == "old-wal"

    def test_only_the_last_damaged_file_is_kept(self, tmp_path: Path) -> None:
        for turn in range(3):
            replacement = self.lay_out(tmp_path)
            replacement.path.write_text(f"old {turn}", encoding="ascii")
            for step in replacement.steps(keep=True):
                step()
        assert replacement.aside.read_text(encoding="ascii") == "old 2"
        assert len(list(tmp_path.iterdir())) == 3


class TestRadioLines:
    """Counters that may have gone back are not relied on; who comes to the cabinet is told what to do."""

    def test_a_damaged_key_store_is_refused_and_left_as_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "ble-1.db"
        store = KeyStore(path)
        store.keep("c0:11:22:33:44:01", bytes(16))
        store.close()
        content = path.read_bytes()[:PAGE] + b"\xff" * PAGE
        path.write_bytes(content)
        with pytest.raises(sqlite3.DatabaseError, match=r"is damaged .*luciole-edge join"):
            KeyStore(path).load()
        assert path.read_bytes() == content

    async def test_a_damaged_network_server_store_takes_its_line_down_with_what_to_do(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "lora-1.db"
        store = Store(path, structlog.get_logger())
        await store.open()
        await store.close()
        path.write_bytes(path.read_bytes()[:PAGE] + b"\xff" * PAGE * 3)
        with pytest.raises(LineDownError, match=r"is damaged .*luciole-edge join"):
            await Store(path, structlog.get_logger()).open()
