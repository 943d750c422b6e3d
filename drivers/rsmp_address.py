"""How an RSMP component is named in the settings."""

import re
from typing import Final

_TRAILING: Final = re.compile(r"[0-9]{1,4}$")
MAX_DETECTOR: Final = 255


def detector_number(address: str) -> int | None:
    """Return a detector's position in S0002 from 1, which is what its component id ends in; None if none.

    Of "KK+AG0503=001DL003" that is 3.
    """
    found = _TRAILING.search(address)
    number = int(found.group()) if found else 0
    return number if 1 <= number <= MAX_DETECTOR else None
