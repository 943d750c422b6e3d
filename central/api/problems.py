"""Everything that goes wrong, as a problem document; never a stack trace.

Source: RFC 9457. `type` is about:blank, so `title` is the status code's own phrase (4.2.1).
"""

from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi import ResponseSpec
from litestar.types import ExceptionHandlersMap

from central.errors import CentralError, Fault, RequestError, StoreError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2

log = structlog.get_logger(__name__)


class ProblemFault(msgspec.Struct, frozen=True):
    """One thing that is wrong: where in the request, and what was expected."""

    where: str
    what: str


class Problem(msgspec.Struct, frozen=True):
    """A problem document.

    Attributes:
        type: always about:blank; the status says what kind of problem it is.
        title: the status in words.
        status: the HTTP status.
        detail: what happened here.
        instance: the path that was asked.
        errors: every single fault, where there are several.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[ProblemFault] = []


def respond(
    request: Request[Any, Any, Any],
    status: int,
    detail: str,
    faults: tuple[Fault, ...] = (),
    headers: dict[str, str] | None = None,
) -> Response[Problem]:
    """Return a problem document as the answer to a request."""
    problem = Problem(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=request.url.path,
        errors=[ProblemFault(fault.where, fault.what) for fault in faults],
    )
    return Response(problem, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def _refusal(request: Request[Any, Any, Any], error: RequestError) -> Response[Problem]:
    return respond(request, error.status, error.detail, error.faults)


def _unavailable(request: Request[Any, Any, Any], error: StoreError) -> Response[Problem]:
    return respond(request, 503, str(error), headers={"Retry-After": str(RETRY_AFTER_S)})


def _http(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    return respond(request, error.status_code, error.detail, tuple(_faults(error.extra)), error.headers)


def _faults(extra: object) -> list[Fault]:
    """Return what Litestar says of each parameter or key that it could not accept."""
    if not isinstance(extra, list):
        return []
    return [
        Fault(str(one.get("key") or one.get("source") or ""), str(one.get("message", "")))
        for one in extra
        if isinstance(one, dict)
    ]


def _bug(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    log.error("a request failed", path=request.url.path, exc_info=error)
    return respond(request, 500, "this end failed; the log says how")


def _documented(*statuses: int) -> dict[int, ResponseSpec]:
    return {
        status: ResponseSpec(Problem, description=HTTPStatus(status).phrase, media_type=MEDIA_TYPE)
        for status in statuses
    }


ASKING = _documented(400, 403, 404, 500, 503)
"""What a question can be answered with instead."""
PAGING = _documented(400, 403, 404, 409, 500, 503)
"""What a part of something that may move while it is read can be answered with instead."""
CHANGING = _documented(400, 403, 404, 409, 413, 422, 500, 503)
"""What a wish can be answered with instead."""

HANDLERS: ExceptionHandlersMap = {
    RequestError: _refusal,
    StoreError: _unavailable,
    CentralError: _bug,
    HTTPException: _http,
    Exception: _bug,
}
