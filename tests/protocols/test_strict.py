"""Settings: every fault at once, each with its key, in words that somebody in the rain understands."""

from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.model.ids import ID_META, ID_RULE
from protocols.strict import MAX_FAULT, SettingsFault, read


class Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: Annotated[int, msgspec.Meta(ge=1, le=9)]
    name: Annotated[str, ID_META] = "x"


class Cat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cat"):
    lives: int


class Dog(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="dog"):
    owner: str


class Loose(msgspec.Struct, frozen=True):
    size: int = 0


class Shape(StrEnum):
    ROUND = "round"
    LONG = "long"


class Rank(IntEnum):
    FIRST = 1
    SECOND = 2


class Root(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    leaf: Leaf
    leaves: tuple[Leaf, ...] = ()
    listed: list[Leaf] = []
    pets: tuple[Cat | Dog, ...] = ()
    pair: tuple[int, str] = (0, "")
    maybe: Leaf | None = None
    few: Annotated[tuple[int, ...], msgspec.Meta(max_length=2)] = ()
    by_name: dict[str, Leaf] = {}
    colour: Literal["red", "blue"] = "red"
    nickname: Annotated[str, ID_META] | None = None
    numbers: tuple[int, ...] | int = 0
    ratio: float = 0.0
    shape: Shape = Shape.ROUND
    rank: Annotated[Rank, msgspec.Meta(description="a rank")] = Rank.FIRST
    shape_or_none: Shape | None = None
    bits: Literal[1, 2] = 1
    any_of: Rank | Literal["none"] | None = None
    rank_or_text: Rank | str = ""
    shapes: tuple[Shape, ...] = ()


GOOD: dict[str, object] = {"leaf": {"size": 3}}


def faults(document: object) -> dict[str, str]:
    found = read(document, Root)
    assert isinstance(found, list), found
    return {fault.key: fault.expected for fault in found}


def test_a_sound_document_is_returned_as_what_was_wanted() -> None:
    assert read({"leaf": {"size": 3}, "pair": [1, "a"]}, Root) == Root(Leaf(3), pair=(1, "a"))


def test_every_fault_is_named_at_once_with_its_key() -> None:
    found = faults(
        {
            "leaf": {"size": 10, "colour": "red"},
            "leaves": [{"size": 1}, {"size": 0}, 7, {}],
            "listed": [{"size": "big"}],
            "pets": [{"kind": "cat"}, {"kind": "dog", "owner": 1, "lives": 9}],
            "pair": ["a", 1],
            "maybe": {"size": 0},
            "by_name": {"a": {"size": 0}},
            "colour": "green",
            "ratio": "much",
            "unknown": 1,
        }
    )
    assert list(found) == [
        "unknown",
        "leaf.colour",
        "leaf.size",
        "leaves[1].size",
        "leaves[2]",
        "leaves[3].size",
        "listed[0].size",
        "pets[0].lives",
        "pets[1].lives",
        "pets[1].owner",
        "pair[0]",
        "pair[1]",
        "maybe.size",
        "by_name.a.size",
        "colour",
        "ratio",
    ]
    assert found["leaves[3].size"] == "missing"
    assert found["leaves[2]"] == "expected a table, got 7"
    assert found["leaf.size"] == "expected `int` <= 9 (10)"
    assert found["unknown"].startswith("unknown key; known here are any_of, bits, by_name, colour")


@pytest.mark.parametrize("value", ["green", "x" * 10_000, 7, None, True, [], {}])
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("colour", 'expected one of "red", "blue"'),
        ("shape", 'expected one of "round", "long"'),
        ("rank", "expected one of 1, 2"),
        ("bits", "expected one of 1, 2"),
    ],
)
def test_what_may_stand_there_is_told_before_what_stands_there(
    key: str, expected: str, value: object
) -> None:
    found = faults({**GOOD, key: value})
    assert list(found) == [key]
    assert found[key].startswith(f"{expected} ({value!r}"[: MAX_FAULT - 1])


def test_what_may_stand_there_is_told_of_a_union_of_closed_sets_and_of_no_other() -> None:
    assert faults({**GOOD, "shape_or_none": "odd"}) == {
        "shape_or_none": 'expected one of "round", "long" (\'odd\')'
    }
    assert faults({**GOOD, "any_of": "odd"}) == {"any_of": "expected one of 1, 2, \"none\" ('odd')"}
    assert faults({**GOOD, "rank_or_text": 1.5}) == {
        "rank_or_text": "expected `int | str`, got `float` (1.5)"
    }
    assert faults({**GOOD, "shapes": ["long", "odd"]}) == {
        "shapes[1]": 'expected one of "round", "long" (\'odd\')'
    }


def test_a_missing_section_is_named() -> None:
    assert faults({}) == {"leaf": "missing"}


@pytest.mark.parametrize("document", [7, None, [], "text", [GOOD]])
def test_a_document_that_is_no_table_is_said_to_be_none(document: object) -> None:
    assert faults(document) == {"": f"expected a table, got {document!r}"}


@pytest.mark.parametrize("name", ["", "Große Straße", "-x", "a b", "x" * 64, "lamp\n"])
def test_a_name_is_refused_with_the_rule_for_names_and_not_with_a_regular_expression(name: str) -> None:
    assert faults({"leaf": {"size": 1, "name": name}}) == {"leaf.name": f"expected {ID_RULE} ({name!r})"}
    assert faults({**GOOD, "nickname": name}) == {"nickname": f"expected {ID_RULE} ({name!r})"}


def test_a_name_of_the_wrong_type_is_said_to_be_of_the_wrong_type() -> None:
    assert faults({"leaf": {"size": 1, "name": 7}}) == {"leaf.name": "expected `str`, got `int` (7)"}


@pytest.mark.parametrize(
    ("pet", "key", "start"),
    [
        ({"kind": "bird"}, "pets[0].kind", 'expected one of "cat", "dog" (\'bird\')'),
        ({"kind": "b" * 999}, "pets[0].kind", 'expected one of "cat", "dog" (\'bbb'),
        ({}, "pets[0].kind", 'missing; expected one of "cat", "dog"'),
        ({"kind": ["cat"]}, "pets[0].kind", 'expected one of "cat", "dog" ([\'cat\'])'),
        (7, "pets[0]", "expected `object`, got `int`"),
    ],
)
def test_of_a_table_of_no_known_kind_the_kinds_are_told(pet: object, key: str, start: str) -> None:
    found = faults({**GOOD, "pets": [pet]})
    assert list(found) == [key]
    assert found[key].startswith(start)


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ({"few": [1, 2, 3]}, "few"),
        ({"few": 3}, "few"),
        ({"pair": [1]}, "pair"),
        ({"pair": [1, "a", 2]}, "pair"),
        ({"numbers": [1, "a"]}, "numbers[1]"),
        ({"numbers": "a"}, "numbers"),
        ({"leaves": {"size": 1}}, "leaves"),
        ({"by_name": []}, "by_name"),
        ({"maybe": "x"}, "maybe"),
    ],
)
def test_what_is_wrong_with_a_whole_is_told_where_the_whole_stands(part: dict[str, object], key: str) -> None:
    assert list(faults({**GOOD, **part})) == [key]


def test_a_document_may_be_a_list_or_a_tree_of_names() -> None:
    assert read([{"size": 1}], list[Leaf]) == [Leaf(1)]
    assert read([{"size": 0}], list[Leaf]) == [SettingsFault("[0].size", "expected `int` >= 1 (0)")]
    assert read({"a": {"size": 0}}, dict[str, Leaf]) == [SettingsFault("a.size", "expected `int` >= 1 (0)")]


def test_a_document_of_one_of_several_kinds_names_its_kind_at_the_top() -> None:
    pet: Any = Cat | Dog
    assert [fault.key for fault in read({"kind": "bird"}, pet)] == ["kind"]


def test_unknown_keys_are_let_be_where_the_type_lets_them_be() -> None:
    assert read({"size": "a", "more": 1}, Loose) == [SettingsFault("size", "expected `int`, got `str` ('a')")]


def test_a_fault_never_fills_a_log() -> None:
    for text in faults({"leaf": {"size": "x" * 10_000}, "y" * 10_000: 1, "colour": "z" * 999}).items():
        assert max(map(len, text)) <= MAX_FAULT


def test_a_fault_reads_as_one_line() -> None:
    assert str(SettingsFault("line[0].port", "missing")) == "line[0].port: missing"
    assert str(SettingsFault("", "is not TOML")) == "is not TOML"


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)
KEYS = st.sampled_from(Root.__struct_fields__)


@given(st.dictionaries(KEYS | st.text(), TREES) | TREES)
def test_any_document_is_either_sound_or_has_a_named_fault(document: object) -> None:
    found = read(document, Root)
    assert isinstance(found, Root) or (found and all(fault.expected for fault in found))
