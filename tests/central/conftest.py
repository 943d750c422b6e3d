"""What the aggregator's tests share."""

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from tests.central.api_desk import Api
from tests.central.cabinet_double import CabinetDouble
from tests.central.desk import Desk


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """Undo what a command line run in this process did to the logs."""
    handlers = list(logging.getLogger().handlers)
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path / "central.db")
    yield opened
    opened.close()


@pytest.fixture
def cabinet() -> CabinetDouble:
    return CabinetDouble()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """The API in this process, on a real store; its link to the broker is not begun."""
    opened = Api(tmp_path)
    yield opened
    await opened.close()
