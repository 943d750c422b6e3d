"""The API as one application."""

from importlib.metadata import version

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from central.api import alarms, cabinets, commands, devices, lighting, live, pages
from central.api.problems import HANDLERS
from central.centre import Centre

MAX_BODY_BYTES = 1 << 20
"""The largest body that makes sense is a signed policy, of 256 KiB."""


def build(centre: Centre) -> Litestar:
    """Return the API of a running aggregator."""

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
                    alarms.router,
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
        before_send=[pages.add_safe_headers],
        request_max_body_size=MAX_BODY_BYTES,
        logging_config=None,
    )
