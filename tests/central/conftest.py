"""What the aggregator's tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.central.cabinet_double import CabinetDouble
from tests.central.desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path / "central.db")
    yield opened
    opened.close()


@pytest.fixture
def cabinet() -> CabinetDouble:
    return CabinetDouble()
