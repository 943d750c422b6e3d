"""The API as one application."""

from contextlib import suppress
from importlib.metadata import version
from ipaddress import ip_address
from typing import Any

import msgspec
from litestar import Litestar, Request, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from central.api import alarms, cabinets, commands, devices, gaps, lighting, live, pages, priority
from central.api.problems import HANDLERS
from central.centre import Centre
from central.errors import Fault, RequestError
from protocols.strict import read

MAX_BODY_BYTES = 1 << 20
"""The largest body that makes sense is a signed policy, of 256 KiB."""
MAX_FAULTS = 100
"""Told of one body: whoever sends more will not read them all."""
_HARMLESS = {"GET", "HEAD", "OPTIONS"}


async def look_at(request: Request[Any, Any, Any]) -> None:
    """Refuse what must not even be tried.

    Raises:
        RequestError: if it comes from another site, or if its body is not what is expected.
    """
    refuse_other_names(request)
    refuse_other_sites(request)
    expected = request.route_handler.parsed_data_field
    if expected is not None:
        refuse_faulty_body(await request.body(), expected.annotation, required=expected.is_required)


def refuse_faulty_body(body: bytes, wanted: Any, *, required: bool) -> None:  # noqa: ANN401  a type expression
    """Refuse a body that does not mean what is expected, with every fault in it.

    The framework stops at the first fault, and would take "30" for 30.

    Raises:
        RequestError: if it is missing, no JSON, or not of the type `wanted`.
    """
    if not body and not required:
        return
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(400, "the body is no JSON", [Fault("", str(error))]) from error
    found = read(document, wanted)
    if isinstance(found, list):
        faults = [Fault(fault.key, fault.expected) for fault in found[:MAX_FAULTS]]
        raise RequestError(400, f"the body has {len(found)} fault{'s' if len(found) > 1 else ''}", faults)


def refuse_other_names(request: Request[Any, Any, Any]) -> None:
    """Refuse a request to this machine under a name that is not its own.

    A page can let its own name lead here, and is then no other site to the browser (DNS rebinding). An
    address, or localhost, is nobody's name.

    Raises:
        RequestError: if the API is for this machine alone and is asked under such a name.
    """
    host = request.url.hostname or ""
    if request.app.state.this_machine_alone and not names_nobody(host):
        raise RequestError(403, f"this is not {host[:200]!r}: ask localhost, or let a proxy say so")


def names_nobody(host: str) -> bool:
    """Tell whether a host of a URL is an address or localhost."""
    with suppress(ValueError):
        ip_address(host)
        return True
    return host == "localhost"


def refuse_other_sites(request: Request[Any, Any, Any]) -> None:
    """Refuse a change that another site's page asks for through somebody's browser.

    Nobody is asked who they are yet, so a page that an operator happens to visit must not be able to
    command lamps. Browsers name the page's origin; programs name none.

    Raises:
        RequestError: if the request comes from another site.
    """
    origin = request.headers.get("origin")
    if request.method in _HARMLESS or origin is None:
        return
    if origin.partition("://")[2] != request.headers.get("host"):
        raise RequestError(403, f"pages of {origin[:200]} may not change anything here")


def build(centre: Centre, *, this_machine_alone: bool) -> Litestar:
    """Return the API of a running aggregator.

    Args:
        centre: its parts.
        this_machine_alone: whether it listens on loopback only.
    """

    async def provide() -> Centre:
        return centre

    return Litestar(
        route_handlers=[
            Router(
                "/api/v1",
                route_handlers=[
                    cabinets.router,
                    devices.router,
                    commands.router,
                    lighting.router,
                    priority.router,
                    alarms.router,
                    gaps.router,
                    live.router,
                ],
            ),
            pages.get_asset,
            pages.get_root,
        ],
        dependencies={"centre": Provide(provide)},
        exception_handlers=HANDLERS,
        openapi_config=OpenAPIConfig(
            title="Luciole aggregator",
            version=version("luciole"),
            path="/schema",
            render_plugins=[pages.SchemaPage(), JsonRenderPlugin()],
        ),
        before_request=look_at,
        state=State({"this_machine_alone": this_machine_alone}),
        before_send=[pages.add_safe_headers],
        request_max_body_size=MAX_BODY_BYTES,
        logging_config=None,
    )
