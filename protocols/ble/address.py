"""Bluetooth device addresses as they are written down (Core Specification 5.4, Vol 6, Part B, 1.3)."""

import re

from protocols.errors import LocalProtocolError

ADDRESS_RULE = 'a Bluetooth address in lower case, such as "a4:c1:38:8d:18:b2"'
_ADDRESS = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")


def is_address(text: object) -> bool:
    """Tell whether something is an address as we write it: six bytes in lower-case hex, colons between."""
    return isinstance(text, str) and _ADDRESS.fullmatch(text) is not None


def address_bytes(text: str) -> bytes:
    """Return the six bytes of an address, in the order in which they are written.

    Raises:
        LocalProtocolError: if it is none.
    """
    if not is_address(text):
        raise LocalProtocolError(f"expected {ADDRESS_RULE}, not {text!r}")
    return bytes.fromhex(text.replace(":", ""))
