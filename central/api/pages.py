"""The API's documentation for people: Swagger UI from the packaged files, nothing from outside.

The content security policy lets the browser hold us to that.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from litestar import MediaType, Request, Response, get
from litestar.datastructures import MutableScopeHeaders
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.params import FromPath
from litestar.response import Redirect
from litestar.types import Message, Scope

from central.errors import not_found

POLICY = "; ".join(
    (
        "default-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
SAFE = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_FILES = {"swagger_bundle.js": "text/javascript", "swagger_style.css": "text/css"}
_START = """
window.addEventListener("load", () => {
  SwaggerUIBundle({
    url: "/schema/openapi.json",
    dom_id: "#api",
    deepLinking: true,
    validatorUrl: null,
    presets: [SwaggerUIBundle.presets.apis],
  });
});
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Luciole: the aggregator's API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/assets/swagger_style.css">
<script src="/assets/swagger_bundle.js"></script>
<script src="/assets/start.js"></script>
</head>
<body><div id="api"></div></body>
</html>
"""


class SchemaPage(OpenAPIRenderPlugin):
    """The page at /schema."""

    def __init__(self) -> None:
        super().__init__(path="/", favicon="", style="")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the page; it fetches the schema itself."""
        del request, openapi_schema
        return _PAGE.encode()


def _packaged(name: str) -> Path:
    """Return a file of the offapi package, without importing it: that would read all of them."""
    spec = find_spec("offapi")
    if spec is None or not spec.submodule_search_locations:
        raise not_found("packaged file", name)
    return Path(spec.submodule_search_locations[0]) / name


async def add_safe_headers(message: Message, scope: Scope) -> None:
    """Let the browser hold us to what the pages promise."""
    del scope
    if message["type"] == "http.response.start":
        headers = MutableScopeHeaders.from_message(message)
        for name, value in SAFE.items():
            headers.setdefault(name, value)


@get("/assets/{name:str}", include_in_schema=False, sync_to_thread=True)
def get_asset(name: FromPath[str]) -> Response[bytes]:
    """Return a file that the page needs."""
    if name == "start.js":
        return Response(_START.encode(), media_type="text/javascript")
    if name not in _FILES:
        raise not_found("asset", name)
    return Response(
        _packaged(name).read_bytes(), media_type=_FILES[name], headers={"Cache-Control": "max-age=86400"}
    )


@get("/", include_in_schema=False, media_type=MediaType.HTML)
async def get_root() -> Redirect:
    """Lead people to the documentation."""
    return Redirect("/schema")
