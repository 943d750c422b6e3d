"""A cabinet with everything real: street, broker, centre's double, and the agent as a process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.bench import let_go
from tests.edge.whole import Whole, whole


@pytest.fixture(autouse=True)
def _outboxes_are_let_go() -> Iterator[None]:
    yield
    let_go()


@pytest.fixture
def cabinet(tmp_path: Path) -> Iterator[Whole]:
    with whole(tmp_path) as one:
        yield one


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """One agent for all of a module's tests."""
    with whole(tmp_path_factory.mktemp("cabinet")) as one:
        one.start()
        yield one
