"""What a signal exchange list says: codes, their components, their arguments and what those can be.

The published JSON Schemas check no numeric range ("level" "99" passes them), so ranges are checked here.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from protocols.rsmp.messages import MessageError, Value, milliseconds, printable

_INTEGER: Final = re.compile(r"-?[0-9]{1,10}")
MAX_LIST: Final = 4096
"""Members of a list or an array: more than a controller has detectors."""


class Type(StrEnum):
    """What a value is, in the list's own words."""

    STRING = "string"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"
    BASE64 = "base64"
    INTEGER_LIST = "integer_list"
    BOOLEAN_LIST = "boolean_list"
    STRING_LIST = "string_list"
    ARRAY = "array"


class ComponentType(StrEnum):
    """What a code is about."""

    CONTROLLER = "Traffic Light Controller"
    SIGNAL_GROUP = "Signal group"
    DETECTOR = "Detector logic"


class Argument(msgspec.Struct, frozen=True):
    """One value of a status, command or alarm.

    Attributes:
        name: `n`.
        type: what it is.
        minimum: the smallest number, of lists of each member.
        maximum: the largest number, the same.
        values: all that it can be; none for anything.
        pattern: what a string matches as a whole.
        optional: whether it may be left out.
        items: of an array, what each of its objects holds.
    """

    name: str
    type: Type = Type.STRING
    minimum: int | None = None
    maximum: int | None = None
    values: tuple[str, ...] = ()
    pattern: str = ""
    optional: bool = False
    items: tuple["Argument", ...] = ()


class Status(msgspec.Struct, frozen=True):
    """A status: its code, what it is about, its values by name."""

    code: str
    of: ComponentType
    arguments: tuple[Argument, ...]

    def argument(self, name: str) -> Argument | None:
        """Return the value of that name; None if there is none."""
        return next((one for one in self.arguments if one.name == name), None)


class Command(msgspec.Struct, frozen=True):
    """A command.

    Attributes:
        code: as the list has it.
        order: `cO`.
        of: what it is about.
        arguments: what it takes, by name.
        security: which security code it needs; 0 for none.
    """

    code: str
    order: str
    of: ComponentType
    arguments: tuple[Argument, ...]
    security: int = 0


class AlarmType(msgspec.Struct, frozen=True):
    """An alarm: its code, what it is about, its priority 1 to 3 and category, its return values."""

    code: str
    of: ComponentType
    priority: int
    arguments: tuple[Argument, ...] = ()
    category: str = "D"


class Sxl(msgspec.Struct, frozen=True):
    """A signal exchange list in one version."""

    version: str
    statuses: Mapping[str, Status]
    commands: Mapping[str, Command]
    alarms: Mapping[str, AlarmType]


def wrong(argument: Argument, value: Value) -> str | None:
    """Return why a value cannot be one of that argument, for a person; None if it can."""
    if argument.type is Type.ARRAY:
        return _wrong_array(argument, value)
    if not isinstance(value, str):
        return f"{argument.name} is no string"
    separated = _MEMBER.get(argument.type)
    if separated is None:
        return _wrong_single(argument, argument.type, value)
    members = value.split(",")
    if len(members) > MAX_LIST:
        return f"{argument.name} has more than {MAX_LIST} members"
    faults = (_wrong_single(argument, separated, member) for member in members)
    return next((fault for fault in faults if fault is not None), None)


_MEMBER: Final = {
    Type.INTEGER_LIST: Type.INTEGER,
    Type.BOOLEAN_LIST: Type.BOOLEAN,
    Type.STRING_LIST: Type.STRING,
}


def _wrong_single(argument: Argument, kind: Type, text: str) -> str | None:
    if argument.values and text not in argument.values:
        return f"{argument.name} is {printable(text)}, not one of {', '.join(argument.values)}"
    judge = _JUDGES.get(kind, _wrong_form)
    return judge(argument, text)


def _wrong_form(argument: Argument, text: str) -> str | None:
    if argument.pattern and re.fullmatch(argument.pattern, text) is None:
        return f"{argument.name} is {printable(text)}, which is not of its form"
    return None


def _wrong_boolean(argument: Argument, text: str) -> str | None:
    return None if text in {"True", "False"} else f"{argument.name} is {printable(text)}, not True or False"


def _wrong_integer(argument: Argument, text: str) -> str | None:
    if _INTEGER.fullmatch(text) is None:
        return f"{argument.name} is {printable(text)}, no whole number"
    low, high = argument.minimum, argument.maximum
    if (low is not None and int(text) < low) or (high is not None and int(text) > high):
        return f"{argument.name} is {text}, not {low} to {high}"
    return None


def _wrong_stamp(argument: Argument, text: str) -> str | None:
    try:
        milliseconds(text)
    except MessageError as error:
        return f"{argument.name}: {error}"
    return None


def _wrong_base64(argument: Argument, text: str) -> str | None:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return f"{argument.name} is no base64"
    return None


_JUDGES: Final[Mapping[Type, Callable[[Argument, str], str | None]]] = {
    Type.INTEGER: _wrong_integer,
    Type.BOOLEAN: _wrong_boolean,
    Type.TIMESTAMP: _wrong_stamp,
    Type.BASE64: _wrong_base64,
}


def _wrong_array(argument: Argument, value: Value) -> str | None:
    if not isinstance(value, list):
        return f"{argument.name} is no array"
    if len(value) > MAX_LIST:
        return f"{argument.name} has more than {MAX_LIST} members"
    faults = (wrong_set(argument.items, member) for member in value)
    return next((f"{argument.name}: {fault}" for fault in faults if fault is not None), None)


def wrong_set(arguments: Sequence[Argument], values: Mapping[str, str]) -> str | None:
    """Return why values by name are not what these arguments take; None if they are."""
    known = {one.name for one in arguments}
    unknown = next((name for name in values if name not in known), None)
    if unknown is not None:
        return f"{printable(unknown)} is not known here"
    for one in arguments:
        if one.name in values:
            fault = wrong(one, values[one.name])
            if fault is not None:
                return fault
        elif not one.optional:
            return f"{one.name} is missing"
    return None
