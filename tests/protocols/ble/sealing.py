"""The sensor's side of BTHome, which the product does not have: objects as drawn, and their encryption."""

from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from hypothesis import strategies as st

from protocols.ble.objects import ABOUT, BY_ID, Form

KEY = bytes.fromhex("231d39c1d7cc1ab1aee224cd096db932")
ADDRESS = bytes.fromhex("5448e68f80a5")
"""Key and address of the example in bthome.io/encryption."""


def seal(body: bytes, counter: int, *, key: bytes = KEY, address: bytes = ADDRESS, info: int = 0x41) -> bytes:
    """Encrypt as bthome.io/encryption describes it; the sensor's side, which the product does not have."""
    number = counter.to_bytes(4, "little")
    both = AESCCM(key, tag_length=4).encrypt(address + b"\xd2\xfc" + bytes((info,)) + number, body, None)
    return bytes((info,)) + both[:-4] + number + both[-4:]


@dataclass(frozen=True)
class Drawn:
    """Objects of a packet as drawn: ids and the bytes behind them, ascending."""

    objects: tuple[tuple[int, bytes], ...]

    @property
    def body(self) -> bytes:
        return b"".join(bytes((code,)) + raw for code, raw in self.objects)


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    codes = draw(st.lists(st.sampled_from(sorted(BY_ID)), min_size=1, max_size=8))
    objects: list[tuple[int, bytes]] = []
    for code in sorted(codes):
        row = BY_ID[code]
        if row.form in ABOUT and objects and objects[-1][0] == code:
            continue
        if row.width:
            raw = draw(st.binary(min_size=row.width, max_size=row.width))
        else:
            extra = 1 if row.form is Form.COMMAND else 0
            raw = draw(st.binary(min_size=extra, max_size=10))
            raw = bytes((len(raw) - extra,)) + raw
        objects.append((code, raw))
    return Drawn(tuple(objects))
