"""Short runs of the outbox bench: its books balance, and what cannot be measured says so. How fast is no matter."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.bench import outbox_disk, outbox_drain, outbox_publisher, outbox_strain
from tests.bench.report import Figure

IN_MEMORY = Path("/dev/shm")  # noqa: S108  the one place that is in memory everywhere


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder to be made, where a broker can be had."""
    if shutil.which("mosquitto", path="/usr/bin:/usr/sbin:/usr/local/sbin") is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    return tmp_path / "part"


@pytest.fixture
def memory() -> Iterator[Path]:
    if not IN_MEMORY.is_dir() or outbox_disk.file_system(IN_MEMORY) not in outbox_disk.IN_MEMORY:
        pytest.skip(f"{IN_MEMORY} is not in memory here")
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as made:
        yield Path(made) / "part"


def _values(figures: Sequence[Figure]) -> dict[str, float | None]:
    return {figure.name: figure.value for figure in figures}


def test_disk_figures_are_measured_where_writes_reach_a_disk(tmp_path: Path) -> None:
    if outbox_disk.file_system(tmp_path) in outbox_disk.IN_MEMORY:
        pytest.skip("temporary files are in memory here")
    extent = outbox_disk.Extent(pairs=5, warm_up=5, counted=20)
    found = _values(outbox_disk.figures(tmp_path / "part", rounds=1, extent=extent))
    assert found.keys() == {"commits_per_fdatasync", "bytes_written_per_reading"}
    assert all(value for value in found.values())


def test_disk_figures_in_memory_are_not_measured_and_reach_no_goal(memory: Path) -> None:
    found = outbox_disk.figures(memory, rounds=1)
    assert [(one.value, one.ok, "syncs nothing" in one.reference) for one in found] == [
        (None, False, True)
    ] * 2


def test_both_publishers_get_through_with_ten_batches_a_commit_and_with_one(folder: Path) -> None:
    paces = (outbox_publisher.Pace(10, 0.05, 3), outbox_publisher.Pace(1, 0.05, 3))
    found = outbox_publisher.figures(folder, rounds=1, paces=paces)
    assert [bool(one.value) for one in found] == [True, True]


def test_a_short_drain_misses_nothing_and_shows_what_is_read_meanwhile(folder: Path) -> None:
    extent = outbox_drain.Extent(readings=20_000, after_s=1.0, settle_s=2.5)
    found = _values(outbox_drain.figures(folder, extent))
    assert found["drain_missing"] == 0
    assert found["live_latency_p95_s_during_drain"] is not None


def test_short_outage_and_overload_account_for_every_reading(folder: Path) -> None:
    extent = outbox_strain.Extent(
        warm_up_s=1.0,
        standing_s=1.0,
        outage_s=4.0,
        many=20,
        at_ease_s=1.0,
        overload_s=(1.0, 6.0, 1.0),
        max_mb=0.1,
    )
    found = _values(outbox_strain.figures(folder, extent))
    exact = ("outage_missing", "outage_duplicated", "overload_shed_critical", "shed_unaccounted")
    assert [found[name] for name in exact] == [0, 0, 0, 0]
    assert found["overload_shed"]
