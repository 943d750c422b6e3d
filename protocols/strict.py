"""Read a settings document and name every fault at once, each with its key and what was expected.

msgspec stops at the first fault; somebody with a laptop in the rain wants all of them. So on failure the
document is walked field by field, and msgspec judges each leaf. Where a type carries a description, that is
what the fault says was expected, instead of a regular expression.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

import msgspec

T = TypeVar("T")
TypeExpression: TypeAlias = Any
"""A type expression: Python has no type for it yet (PEP 747)."""

MAX_FAULT = 300
"""Characters of one fault's text: a document from afar must not fill a log."""


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
    except msgspec.ValidationError:
        return list(_faults(document, wanted, ""))


def _faults(value: object, wanted: TypeExpression, key: str) -> Iterator[SettingsFault]:
    """Yield what is wrong within a value; if every part of it is right, what is wrong with it as a whole."""
    found = False
    for fault in _inner_faults(value, _bare(wanted), key):
        found = True
        yield fault
    if not found:
        yield from _own_faults(value, wanted, key)


def _inner_faults(value: object, bare: TypeExpression, key: str) -> Iterator[SettingsFault]:
    origin = _origin(bare)
    if _is_struct(bare):
        yield from _struct_faults(value, bare, key)
    elif origin in {Union, UnionType}:
        yield from _union_faults(value, bare, key)
    elif origin in {tuple, list} and isinstance(value, list):
        for position, (item, member) in enumerate(zip(value, _members(bare, len(value)), strict=False)):
            yield from _faults(item, member, f"{key}[{position}]")
    elif origin in {dict, Mapping} and isinstance(value, dict):
        for name, item in value.items():
            yield from _faults(item, get_args(bare)[1], f"{key}.{name}" if key else str(name))


def _members(sequence: TypeExpression, length: int) -> Sequence[TypeExpression]:
    members = get_args(sequence)
    if _origin(sequence) is list or members[1:] == (Ellipsis,):
        return [members[0]] * length
    return members


def _bare(wanted: TypeExpression) -> TypeExpression:
    return get_args(wanted)[0] if _origin(wanted) is Annotated else wanted


def _origin(form: TypeExpression) -> object:
    return get_origin(form)


def _is_struct(form: TypeExpression) -> bool:
    return isinstance(form, type) and issubclass(form, msgspec.Struct)


def _struct_faults(value: object, wanted: type[msgspec.Struct], key: str) -> Iterator[SettingsFault]:
    if not isinstance(value, dict):
        yield SettingsFault(key, _cut(f"expected a table, got {value!r}"))
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(wanted)}
    tag_field = wanted.__struct_config__.tag_field
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in fields and name != tag_field and wanted.__struct_config__.forbid_unknown_fields:
            known = ", ".join(sorted(fields)) or "none"
            yield SettingsFault(_cut(f"{prefix}{name}"), f"unknown key; known here are {known}")
    for name, field in fields.items():
        if name in value:
            yield from _faults(value[name], field.type, f"{prefix}{name}")
        elif field.required:
            yield SettingsFault(f"{prefix}{name}", "missing")


def _union_faults(value: object, union: TypeExpression, key: str) -> Iterator[SettingsFault]:
    """Yield the faults of the one member that is meant, if it can be told which one that is."""
    members = get_args(union)
    structs = [member for member in members if _is_struct(member)]
    if isinstance(value, dict) and structs:
        yield from _tagged_faults(value, structs, key)
    elif isinstance(value, list):
        for sequence in (member for member in members if _origin(_bare(member)) in {tuple, list}):
            yield from _faults(value, sequence, key)  # msgspec allows one sequence in a union at most


def _tagged_faults(
    value: dict[str, object], structs: Sequence[type[msgspec.Struct]], key: str
) -> Iterator[SettingsFault]:
    tag_field = structs[0].__struct_config__.tag_field
    if tag_field is None:
        yield from _faults(value, structs[0], key)
        return
    by_tag = {struct.__struct_config__.tag: struct for struct in structs}
    named = value.get(tag_field)
    chosen = by_tag.get(named) if isinstance(named, str | int) else None
    if chosen is not None:
        yield from _faults(value, chosen, key)
        return
    where = f"{key}.{tag_field}" if key else tag_field
    if named is None:
        yield SettingsFault(where, _cut(f"missing; expected {_one_of(by_tag)}"))
    else:
        yield SettingsFault(where, _cut(f"expected {_one_of(by_tag)} ({named!r})"))


def _own_faults(value: object, wanted: TypeExpression, key: str) -> Iterator[SettingsFault]:
    try:
        msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        text = str(error).split(" - at `")[0]
        choices = _choices(wanted)
        rule = _description(wanted) if isinstance(value, str) else None
        if choices:
            text = f"expected {_one_of(choices)}"
        elif rule is not None:
            text = f"expected {rule}"
        yield SettingsFault(key, _cut(f"{text[0].lower()}{text[1:]} ({value!r})"))


def _choices(wanted: TypeExpression) -> tuple[object, ...]:
    """Return the values of a Literal or an Enum, or of a union of such and None; () of any other type."""
    bare = _bare(wanted)
    if _origin(bare) is Literal:
        return get_args(bare)
    if isinstance(bare, type) and issubclass(bare, Enum):
        return tuple(member.value for member in bare)
    if _origin(bare) not in {Union, UnionType}:
        return ()
    members = [_choices(member) for member in get_args(bare) if member is not NoneType]
    return tuple(choice for choices in members for choice in choices) if all(members) else ()


def _one_of(choices: Iterable[object]) -> str:
    """Return what may stand there; it comes before what does, which may be so long that it is cut off."""
    return "one of " + ", ".join(f'"{one}"' if isinstance(one, str) else str(one) for one in choices)


def _description(wanted: TypeExpression) -> str | None:
    """Return what a type says of itself for people; of a union, what one of its members says."""
    if _origin(wanted) in {Union, UnionType}:
        return next((said for member in get_args(wanted) if (said := _description(member))), None)
    if _origin(wanted) is not Annotated:
        return None
    metas = [meta for meta in get_args(wanted)[1:] if isinstance(meta, msgspec.Meta)]
    return next((meta.description for meta in metas if meta.description), None)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_FAULT else f"{text[: MAX_FAULT - 1]}…"
