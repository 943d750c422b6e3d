"""Read a settings document and name every fault at once, each with its key and what was expected.

msgspec stops at the first fault; somebody with a laptop in the rain wants all of them. So on failure the
document is walked field by field, and msgspec judges each leaf.
"""

from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, TypeAlias, TypeVar, Union, get_args, get_origin

import msgspec

T = TypeVar("T")
TypeExpression: TypeAlias = Any
"""A type expression: Python has no type for it yet (PEP 747)."""


class SettingsFault(msgspec.Struct, frozen=True):
    """One thing that is wrong in a document.

    Attributes:
        key: where, such as "line[2].port"; "" for the document itself.
        expected: what was expected there, and what stands there instead.
    """

    key: str
    expected: str

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.key}: {self.expected}" if self.key else self.expected


def read(document: object, wanted: type[T]) -> T | list[SettingsFault]:
    """Return the document as `wanted`, or every fault in it.

    Args:
        document: plain dicts, lists and scalars, as TOML or JSON gives them.
        wanted: a msgspec Struct, of Structs, tuples, lists and dicts of such, and scalars.
    """
    try:
        return msgspec.convert(document, wanted)
    except msgspec.ValidationError as error:
        return list(_faults(document, wanted, "")) or [SettingsFault("", str(error))]


def _faults(value: object, wanted: TypeExpression, key: str) -> Iterator[SettingsFault]:
    bare = get_args(wanted)[0] if _origin(wanted) is Annotated else wanted
    origin = _origin(bare)
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        yield from _struct_faults(value, bare, key)
    elif origin in {Union, UnionType} and (chosen := _chosen(value, bare)) is not None:
        yield from _faults(value, chosen, key)
    elif origin in {tuple, list} and isinstance(value, list):
        for position, item in enumerate(value):
            yield from _faults(item, get_args(bare)[0], f"{key}[{position}]")
    elif origin in {dict, Mapping} and isinstance(value, dict):
        for name, item in value.items():
            yield from _faults(item, get_args(bare)[1], f"{key}.{name}" if key else str(name))
    else:
        yield from _leaf_faults(value, wanted, key)


def _origin(form: TypeExpression) -> object:
    return get_origin(form)


def _struct_faults(value: object, wanted: type[msgspec.Struct], key: str) -> Iterator[SettingsFault]:
    if not isinstance(value, dict):
        yield SettingsFault(key, f"expected a table, got {value!r}")
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(wanted)}
    tag_field = wanted.__struct_config__.tag_field
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in fields and name != tag_field and wanted.__struct_config__.forbid_unknown_fields:
            yield SettingsFault(f"{prefix}{name}", f"unknown key; known here are {', '.join(sorted(fields))}")
    for name, field in fields.items():
        if name in value:
            yield from _faults(value[name], field.type, f"{prefix}{name}")
        elif field.required:
            yield SettingsFault(f"{prefix}{name}", "missing")


def _chosen(value: object, union: TypeExpression) -> TypeExpression:
    """Return the member of a union whose faults are worth telling: by tag, or the only one that fits."""
    structs = [m for m in get_args(union) if isinstance(m, type) and issubclass(m, msgspec.Struct)]
    if isinstance(value, dict):
        for member in structs:
            config = member.__struct_config__
            if config.tag_field is None or value.get(config.tag_field) == config.tag:
                return member
    others = [m for m in get_args(union) if m not in structs and m is not type(None)]
    return others[0] if isinstance(value, list) and len(others) == 1 else None


def _leaf_faults(value: object, wanted: TypeExpression, key: str) -> Iterator[SettingsFault]:
    try:
        msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        text = str(error).split(" - at `$")[0]
        yield SettingsFault(key, f"{text[0].lower()}{text[1:]} ({value!r})"[:300])
