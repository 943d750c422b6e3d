"""The published schemas of RSMP, a foreign witness for every message that we write.

    violations(b'{"mType":"rSMsg",...}', "3.2.2", "1.2.1")      # -> [] or what is wrong, one line each

Validators are made once for each pair of versions. The schemas check no numeric ranges.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.shared_data import shared

_BASE = "https://rsmp.invalid/"
# S0023's pattern is written for PCRE, with a subroutine that Python's `re` does not have; this is the same.
_PCRE = r"(^$)|(^(?<item>(\d{1,2})\-\d{1,2}-\d{1,2})(,\g<item>)*$)"
_PYTHON = r"^(\d{1,2}-\d{1,2}-\d{1,2}(,\d{1,2}-\d{1,2}-\d{1,2})*)?$"


def _read(path: Path) -> Any:  # noqa: ANN401  a JSON document
    return _plain(json.loads(path.read_text(encoding="utf-8")))


def _plain(node: Any) -> Any:  # noqa: ANN401  a JSON document
    """Return a schema as one dialect reads it: the core's roots name an older one, which would hide `$ref`s."""
    if isinstance(node, dict):
        return {
            key: _PYTHON if value == _PCRE else _plain(value)
            for key, value in node.items()
            if key != "$schema"
        }
    return [_plain(one) for one in node] if isinstance(node, list) else node


def _resources(root: Path) -> Iterator[tuple[str, Resource[Any]]]:
    for path in root.rglob("*.json"):
        where = _BASE + path.relative_to(root).as_posix()
        yield where, DRAFT202012.create_resource(_read(path))


@cache
def _registry() -> Registry[Any]:
    root = shared("rsmp", "the RSMP schemas")
    return Registry().with_resources(_resources(root)).crawl()


@cache
def _validator(part: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"{_BASE}{part}/rsmp.json"}, registry=_registry())


def violations(packet: bytes, core: str = "3.2.2", sxl: str = "1.2.1") -> list[str]:
    """Return what the schemas of these versions have against a packet, without its form feed."""
    message = json.loads(packet)
    return [
        f"{part}: {message.get('type')}: {error.json_path}: {error.message}"
        for part in (f"core/{core}", f"tlc/{sxl}")
        for error in _validator(part).iter_errors(message)
    ]


def packets(stream: bytes) -> list[bytes]:
    """Return the packets of a stream that is to be checked; each must end with exactly one form feed."""
    assert stream == b"" or stream.endswith(b"\x0c")
    assert not re.search(rb"^\x0c|\x0c\x0c", stream)
    return stream.split(b"\x0c")[:-1]
