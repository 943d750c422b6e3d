"""The API keeps what its own OpenAPI document promises, whatever it is asked."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import BaseSchema, Case
from schemathesis.checks import CheckFunction
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.central.api_desk import Api
from tests.central.cabinet_double import taken
from tests.central.junctions import junction_cabinet, passage

Operation = APIOperation[Any, Any, Any, Any]
"""schemathesis leaves open what a request and its parts are."""
NOT_PROMISED: list[CheckFunction] = [positive_data_acceptance]
"""What the schema allows can still mean nothing: a cursor that is none of ours, a device that is not there."""


@pytest.fixture(scope="module")
def openapi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseSchema]:
    folder: Path = tmp_path_factory.mktemp("contract")
    opened = asyncio.run(_begin(folder))
    document = schemathesis.openapi.from_asgi("/schema/openapi.json", opened.app)
    yield document.exclude(path="/api/v1/events")  # which never ends; it has tests of its own
    opened.central.writer.stop()
    opened.central.reader.close()


async def _begin(folder: Path) -> Api:
    opened = Api(folder, this_machine_alone=False)  # schemathesis asks it by a name of its own
    cabinet = junction_cabinet()
    cabinet.seal([taken(cabinet.lamp(), 5)], passage("r-1"))
    await opened.deliver(cabinet.hello(), cabinet.message(1))
    return opened


def test_every_answer_is_one_that_the_document_names(openapi: BaseSchema) -> None:
    asked = 0
    for found in openapi.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()

        @settings(
            max_examples=5,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def answers_as_promised(case: Case[Operation]) -> None:
            case.call_and_validate(excluded_checks=NOT_PROMISED)

        answers_as_promised()
        asked += 1
    assert asked > 32
