"""Identities: short, printable, safe in a topic, a file name, a URL and a log line."""

import re
from typing import NewType

import msgspec

ID_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$(?!\n)"
"""Searched for, so the end is said twice: `$` alone would let a line feed follow."""
ID_RULE = "1 to 63 of a–z, 0–9, '.', '_' and '-', beginning with a letter or digit"
_ID = re.compile(ID_PATTERN)

CabinetId = NewType("CabinetId", str)
DeviceId = NewType("DeviceId", str)
LineId = NewType("LineId", str)
PointName = NewType("PointName", str)
CommandId = NewType("CommandId", str)
KeyId = NewType("KeyId", str)

ID_META = msgspec.Meta(pattern=ID_PATTERN, description=ID_RULE)
"""What msgspec enforces wherever one of the identities is decoded from outside."""


def is_id(text: str) -> bool:
    """Tell whether `text` can be an identity."""
    return _ID.fullmatch(text) is not None
