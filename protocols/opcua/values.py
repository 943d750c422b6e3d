"""What a server holds to a point's value, and back."""

import math
import struct
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from protocols.errors import LocalProtocolError
from protocols.model.reading import Fault, Quality, Reason, Value
from protocols.opcua.nodes import Entry, NodeType

Raw: TypeAlias = object
"""What the client library made of a Variant: anything at all."""
Held: TypeAlias = bool | int | float | str
Finish: TypeAlias = Callable[[Raw], Value | Fault]

NOT_AVAILABLE: Final = Fault(Quality.BAD, Reason.NOT_AVAILABLE)
GARBLED: Final = Fault(Quality.BAD, Reason.GARBLED)
NOT_A_NUMBER: Final = Fault(Quality.BAD, Reason.NOT_A_NUMBER)
OUT_OF_RANGE: Final = Fault(Quality.BAD, Reason.OUT_OF_RANGE)
MAX_TEXT: Final = 256
"""Characters of a text that is taken for a value: what a reading may carry, as `Wanted` bounds what may be asked."""
_MAX_WHOLE: Final = 2**63
"""A reading's whole numbers fit 64 bits signed; a larger counter is rounded."""

_FORMAT: Final[Mapping[NodeType, str]] = {
    NodeType.I16: "<h",
    NodeType.U16: "<H",
    NodeType.I32: "<i",
    NodeType.U32: "<I",
    NodeType.I64: "<q",
    NodeType.U64: "<Q",
    NodeType.F32: "<f",
    NodeType.F64: "<d",
}
_FLOATS: Final = frozenset({NodeType.F32, NodeType.F64})


def finisher(entry: Entry) -> Finish:
    """Return what makes a value of what the server holds.

    A Good status with no value beside it is NOT_AVAILABLE; a value of another kind than the entry's is GARBLED.
    """
    match entry.type:
        case NodeType.BOOL:
            return _bool
        case NodeType.TEXT:
            return _text
        case _:
            return _number(entry)


def _bool(raw: Raw) -> Value | Fault:
    if isinstance(raw, bool):
        return raw
    return NOT_AVAILABLE if raw is None else GARBLED


def _text(raw: Raw) -> Value | Fault:
    if raw is None:
        return NOT_AVAILABLE
    return raw if isinstance(raw, str) and len(raw) <= MAX_TEXT and _can_be_sent(raw) else GARBLED


def _can_be_sent(text: str) -> bool:
    """Tell whether a text is one that UTF-8 can say: half of a surrogate pair would spoil its whole batch."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(entry: Entry) -> Finish:
    low = -math.inf if entry.minimum is None else entry.minimum
    high = math.inf if entry.maximum is None else entry.maximum
    scale = _scaler(entry.scale)

    def finish(raw: Raw) -> Value | Fault:
        kind = type(raw)
        if kind is float:
            number: float = raw  # type: ignore[assignment]
            if not math.isfinite(number):
                return NOT_A_NUMBER
        elif isinstance(raw, int) and kind is not bool:
            number = int(raw) if -_MAX_WHOLE <= raw < _MAX_WHOLE else float(raw)
        else:
            return NOT_AVAILABLE if raw is None else GARBLED
        value = number if scale is None else scale(number)
        return value if low <= value <= high else OUT_OF_RANGE

    return finish


def _scaler(scale: float) -> Callable[[float], float] | None:
    """Return what multiplies by `scale`; a tenth divides by ten, so that 234 becomes exactly 23.4."""
    if scale == 1.0:
        return None
    divisor = round(1 / scale)
    if divisor > 1 and math.isclose(divisor * scale, 1.0, rel_tol=1e-12):
        return lambda number: number / divisor
    return lambda number: number * scale


def encode(entry: Entry, value: Value) -> Held:
    """Return what the server is to hold so that an entry has a value.

    Raises:
        LocalProtocolError: if the entry cannot be written or cannot have that value.
    """
    if not entry.writable:
        raise LocalProtocolError(f"{entry.point} can only be read")
    match entry.type:
        case NodeType.BOOL:
            if not isinstance(value, bool):
                raise LocalProtocolError(f"{entry.point} is on or off, not {value!r}")
            return value
        case NodeType.TEXT:
            if not isinstance(value, str) or len(value) > MAX_TEXT or not _can_be_sent(value):
                raise LocalProtocolError(f"{entry.point} is a text of at most {MAX_TEXT} characters")
            return value
        case _:
            return _encode_number(entry, value)


def _encode_number(entry: Entry, value: Value) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise LocalProtocolError(f"{entry.point} is a number, not {value!r}")
    low, high = entry.minimum, entry.maximum
    if (low is not None and value < low) or (high is not None and value > high):
        raise LocalProtocolError(f"{entry.point} is between {low} and {high}, not {value!r}")
    # A whole number is not divided by 1.0: beyond 2**53 that would change it.
    raw = value if entry.scale == 1.0 else value / entry.scale
    layout = _FORMAT[entry.type]
    try:
        held = struct.unpack(layout, struct.pack(layout, raw if entry.type in _FLOATS else round(raw)))[0]
    except (struct.error, OverflowError) as fault:
        raise LocalProtocolError(f"{entry.point} is {entry.type.value} and cannot hold {value!r}") from fault
    number: int | float = held
    return number
